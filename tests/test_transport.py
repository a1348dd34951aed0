"""The transport against real servers on loopback that cut, drip, hang, lie and close."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import logging
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from runs import FAULT_RUNS

from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.errors import InputError, ReplyError, SourceError, TransportError
from candle_fetcher.core.events import Event, Sent
from candle_fetcher.net import connection as connection_module
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.net.roots import check_root
from candle_fetcher.net.transport import Transport

BODY = b"[" + b",".join(b'[%d,"1.5"]' % (1_700_000_000_000 + n) for n in range(12)) + b"]"
CALL = Call("/api/v3/klines", (("symbol", "BTCUSDT"), ("limit", "5")))
HEAD_END = b"\r\n\r\n"
LONG_S = 30.0  # for what takes milliseconds on an idle machine

# Made for these tests only, for 127.0.0.1: valid from 2020 to 2119, and one that ended in 2020.
KEY_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBCWu1ImZFTELVloi
oKT8La7cjAtdZRjugZGqoYop72ehRANCAARXLYLNYHdVLuzkzz/HoptzJp16/9IV
iDS8/VivA5XVgbafWrXC2Aj+wQdBvqg/1V6M3aHC+VUxGgtriuATErK0
-----END PRIVATE KEY-----
"""
GOOD_PEM = """\
-----BEGIN CERTIFICATE-----
MIIBdDCCARmgAwIBAgICEAEwCgYIKoZIzj0EAwIwHzEdMBsGA1UEAwwUY2FuZGxl
X2ZldGNoZXIgdGVzdHMwIBcNMjAwMTAxMDAwMDAwWhgPMjExOTEyMzEyMzU5NTla
MB8xHTAbBgNVBAMMFGNhbmRsZV9mZXRjaGVyIHRlc3RzMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEVy2CzWB3VS7s5M8/x6Kbcyadev/SFYg0vP1YrwOV1YG2n1q1
wtgI/sEHQb6oP9VejN2hwvlVMRoLa4rgExKytKNDMEEwDwYDVR0RBAgwBocEfwAA
ATAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBQ46kqrZIUaMlIhg1HsFk686H0d
mjAKBggqhkjOPQQDAgNJADBGAiEA3YJg0maY5fMH3Mae8j9JJC77+Fl4+7HNAFig
0CynnVYCIQD7LQzxwORKrMy8vAq1fxBjmapWVFJE9Gvo2qezedVKyg==
-----END CERTIFICATE-----
"""
EXPIRED_PEM = """\
-----BEGIN CERTIFICATE-----
MIIBcDCCARegAwIBAgICEAIwCgYIKoZIzj0EAwIwHzEdMBsGA1UEAwwUY2FuZGxl
X2ZldGNoZXIgdGVzdHMwHhcNMjAwMTAxMDAwMDAwWhcNMjAwMTAyMDAwMDAwWjAf
MR0wGwYDVQQDDBRjYW5kbGVfZmV0Y2hlciB0ZXN0czBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABFctgs1gd1Uu7OTPP8eim3MmnXr/0hWINLz9WK8DldWBtp9atcLY
CP7BB0G+qD/VXozdocL5VTEaC2uK4BMSsrSjQzBBMA8GA1UdEQQIMAaHBH8AAAEw
DwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUOOpKq2SFGjJSIYNR7BZOvOh9HZow
CgYIKoZIzj0EAwIDRwAwRAIgMRt8LoKpiU1Y8j0TeAwfQYm0N1GTuzMUNJDO+Pp1
N4cCIH2NBF8gaXQEZI3lyOnxj07pUbcE+SnIr3il01eUxuG/
-----END CERTIFICATE-----
"""

Answer = Callable[[socket.socket, bytes], "socket.socket | None"]


class Server:
    """Reads requests and lets `answer(connection, request)` do what it likes; None closes the connection."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        self.root = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._talk, connection)

    def _talk(self, connection: socket.socket) -> None:
        current: socket.socket | None = connection
        try:
            if self.tls:
                current = self.tls.wrap_socket(connection, server_side=True)
                self._open.add(current)
            received = b""
            while current is not None:
                while HEAD_END not in received:
                    piece = current.recv(65536)
                    if not piece:
                        return
                    received += piece
                request, received = received.split(HEAD_END, 1)
                self.requests.append(request)
                before, current = current, self.answer(current, request)
                if current is None:
                    before.close()
                else:
                    self._open.add(current)
        except OSError:
            pass
        finally:
            for each in (connection, current):
                if each is not None:
                    each.close()

    def wait_for_requests(self, count: int) -> None:
        """Return when so many requests have been read; a client that gave up may be ahead of the server's threads."""
        end_s = time.monotonic() + LONG_S
        while len(self.requests) < count and time.monotonic() < end_s:
            time.sleep(0.005)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()


def whole(body: bytes = BODY, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + HEAD_END + body


def chunked(*chunks: bytes, size: str = "%x", headers: str = "") -> bytes:
    parts = [(size % len(chunk)).encode() + b"\r\n" + chunk + b"\r\n" for chunk in (*chunks, b"")]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + headers.encode() + b"\r\n" + b"".join(parts)


def always(reply: bytes) -> Answer:
    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        connection.sendall(reply)
        return connection

    return answer


def once(reply: bytes) -> Answer:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(reply)

    return answer


def hang(after: bytes = b"") -> tuple[Answer, threading.Event]:
    """Sends `after`, then nothing; the event says that it has."""
    sent = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> socket.socket | None:
        connection.sendall(after)
        sent.set()
        connection.recv(1)
        return None

    return answer, sent


def drip(start: bytes, drops: bytes) -> Answer:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(drops)
            time.sleep(0.01)

    return answer


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Answer, tls: ssl.SSLContext | None = None) -> Server:
            return stack.enter_context(contextlib.closing(Server(answer, tls)))

        yield start


@pytest.fixture
def make() -> Iterator[Callable[..., Transport]]:
    with contextlib.ExitStack() as stack:

        def build(**settings: Any) -> Transport:
            settings = {"user_agent": "candle_fetcher/test", "timeout_s": 2 * LONG_S, **settings}
            return stack.enter_context(contextlib.closing(Transport(**settings)))

        yield build


@pytest.fixture
def transport(make: Callable[..., Transport]) -> Transport:
    return make()


Serve = Callable[..., Server]
Make = Callable[..., Transport]


# Whole replies


def test_a_reply_comes_back_whole_with_its_headers_in_lower_case(serve: Serve, make: Make) -> None:
    events: list[Event] = []
    server = serve(always(whole(BODY, "X-MBX-Used-Weight-1M: 12", "X-Two: a", "X-Two: b")))
    reply = make(observe=events.append).send(server.root, CALL, provider="fake")
    assert (reply.status, reply.body) == (200, BODY)
    assert reply.headers["x-mbx-used-weight-1m"] == "12"
    assert reply.headers["x-two"] == "a, b"
    assert 0 < reply.seconds < 30
    assert events == [Sent("fake", "/api/v3/klines", 200, reply.seconds, len(BODY))]


def test_a_request_is_one_get_that_asks_for_gzip_and_names_us(serve: Serve, transport: Transport) -> None:
    server = serve(always(whole()))
    call = Call("/v1/a b", (("q", "x&y=z/ü"), ("n", "1")), headers=(("X-Api-Key", "k"),))
    transport.send(server.root + "/base/", call)
    first, *rest = server.requests[0].decode().split("\r\n")
    assert first == "GET /base/v1/a%20b?q=x%26y%3Dz%2F%C3%BC&n=1 HTTP/1.1"
    assert sorted(rest) == [
        "Accept-Encoding: gzip",
        "Accept: */*",
        f"Host: 127.0.0.1:{server.port}",
        "User-Agent: candle_fetcher/test",
        "X-Api-Key: k",
    ]


@pytest.mark.fault("A14")
def test_long_runs_of_blanks_in_a_header_take_no_time(serve: Serve, transport: Transport) -> None:
    blanks = b" " * 60_000
    head = b"HTTP/1.1 200 OK" + blanks + b"x\r\nContent-Length: 2\r\nX-One:" + blanks + b"a" + blanks[:9] + b"\r\n"
    folded = b"X-Two: a\r\n" + blanks + b"b\r\n\r\n[]"
    began = time.process_time()
    reply = transport.send(serve(always(head + folded)).root, CALL)
    assert (reply.headers["x-one"], reply.headers["x-two"], reply.body) == ("a", "a b", b"[]")
    for line in (b"X: a" + blanks + b"\0", b"X" + blanks + b": a", blanks + b"x: a", b": a"):
        with pytest.raises(ReplyError, match="malformed"):
            transport.send(serve(once(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n")).root, CALL)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("status", [201, 400, 403, 404, 418, 429, 451, 500, 503, 599])
def test_any_status_but_a_redirect_is_a_reply(serve: Serve, transport: Transport, status: int) -> None:
    server = serve(always(whole(b"why", "Retry-After: 3", status=f"{status} X")))
    reply = transport.send(server.root, CALL)
    assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, b"why", "3")
    assert len(server.requests) == 1


def test_an_answer_without_a_body_is_empty(serve: Serve, transport: Transport) -> None:
    server = serve(always(b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n"))
    assert [transport.send(server.root, CALL).body for _ in range(2)] == [b"", b""]
    server = serve(always(whole(b"")))
    assert [transport.send(server.root, CALL).body for _ in range(2)] == [b"", b""]


@pytest.mark.parametrize(
    "reply",
    [
        whole(gzip.compress(BODY), "Content-Encoding: gzip"),
        whole(gzip.compress(BODY), "Content-Encoding: X-GZIP"),
        whole(BODY, "Content-Encoding: identity"),
        chunked(BODY),
        chunked(BODY[:7], BODY[7:8], BODY[8:]),
        chunked(BODY, size="%08X"),
        chunked(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"),
    ],
)
def test_every_framing_is_read_and_its_connection_used_again(serve: Serve, transport: Transport, reply: bytes) -> None:
    server = serve(always(reply))
    assert [transport.send(server.root, CALL).body for _ in range(3)] == [BODY] * 3
    assert server.connections == 1


def test_a_body_that_ends_with_its_connection_is_handed_over(serve: Serve, transport: Transport) -> None:
    server = serve(once(b"HTTP/1.1 200 OK\r\n\r\n" + BODY))
    assert transport.send(server.root, CALL).body == BODY


def test_gzip_that_nobody_declared_is_handed_over_as_it_came(serve: Serve, transport: Transport) -> None:
    server = serve(always(whole(gzip.compress(BODY))))
    assert transport.send(server.root, CALL).body == gzip.compress(BODY)


def test_large_bodies_arrive_whole(serve: Serve, transport: Transport) -> None:
    body = os.urandom(3_000_000)
    assert transport.send(serve(always(whole(body))).root, CALL).body == body
    assert transport.send(serve(always(chunked(body[:9], body[9:]))).root, CALL).body == body
    packed = whole(gzip.compress(body, 1), "Content-Encoding: gzip")
    assert transport.send(serve(always(packed)).root, CALL).body == body


# Cut and wrong replies


@pytest.mark.slow
@pytest.mark.fault("A01", "A05")
@pytest.mark.parametrize(
    "reply",
    [
        whole(),
        whole(gzip.compress(BODY, mtime=0), "Content-Encoding: gzip"),
        chunked(BODY[:100], BODY[100:]),
        chunked(BODY[:100], BODY[100:], size="%08x"),
        chunked(gzip.compress(BODY, mtime=0), headers="Content-Encoding: gzip\r\n"),
    ],
    ids=["length", "gzip", "chunked", "chunked-zeros", "chunked-gzip"],
)
def test_a_reply_cut_anywhere_is_an_error(serve: Serve, transport: Transport, reply: bytes) -> None:
    cuts = iter(range(len(reply)))

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(reply[: next(cuts)])

    server = serve(answer)
    for _ in range(len(reply)):
        with pytest.raises((TransportError, ReplyError)):
            transport.send(server.root, CALL)
    assert len(server.requests) == len(reply)


@pytest.mark.fault("A03")
def test_gzip_cut_under_a_right_length_is_a_transport_error(serve: Serve, transport: Transport) -> None:
    packed = gzip.compress(BODY)
    sizes = iter(range(len(packed)))

    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        connection.sendall(whole(packed[: next(sizes)], "Content-Encoding: gzip"))
        return connection

    server = serve(answer)
    for _ in range(len(packed)):
        with pytest.raises(TransportError, match="cut"):
            transport.send(server.root, CALL)


@pytest.mark.fault("A04")
@pytest.mark.parametrize(
    "reply",
    [
        whole(gzip.compress(BODY)[:-8] + b"12345678", "Content-Encoding: gzip"),
        whole(BODY, "Content-Encoding: gzip"),
        whole(gzip.compress(BODY) * 2, "Content-Encoding: gzip"),
        whole(gzip.compress(gzip.compress(BODY)), "Content-Encoding: gzip, gzip"),
        whole(gzip.compress(BODY), "Content-Encoding: gzip", "Content-Encoding: gzip"),
        whole(BODY, "Content-Encoding: br"),
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + HEAD_END,
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nContent-Length: 3\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 700 Odd\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_what_is_not_sound_is_a_reply_error(serve: Serve, transport: Transport, reply: bytes) -> None:
    server = serve(once(reply))
    for _ in range(2):
        with pytest.raises(ReplyError, match=r"127\.0\.0\.1"):
            transport.send(server.root, CALL)


@pytest.mark.parametrize("size", [b"zz", b"-1", b"-5", b"", b"1_0"])
def test_a_chunk_size_that_is_none_is_an_error(serve: Serve, transport: Transport, size: bytes) -> None:
    server = serve(once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n[]\r\n0\r\n\r\n"))
    with pytest.raises((TransportError, ReplyError)):
        transport.send(server.root, CALL)


@pytest.mark.fault("A20", "A21")
@pytest.mark.parametrize("status", [418, 429])
def test_a_pause_is_heard_even_where_its_body_is_broken(serve: Serve, transport: Transport, status: int) -> None:
    server = serve(once(whole(BODY, "Retry-After: 7", status=f"{status} X")[:-5]))
    reply = transport.send(server.root, CALL)
    assert (reply.status, reply.headers["retry-after"], reply.body) == (status, "7", b"")


@pytest.mark.slow(every=6)
@pytest.mark.fault("A25")
@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/", "http://127.0.0.1:{port}/again", "/again", "file:///etc/passwd", "https://[", ""],
)
@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_redirects_are_not_followed(serve: Serve, transport: Transport, status: int, location: str) -> None:
    headers = [f"Location: {location.format(port=1)}?apikey=SENTINEL"]
    server = serve(always(whole(b"", *headers, status=f"{status} Moved")))
    with pytest.raises(ReplyError, match=rf"{status}.*redirects are not followed") as caught:
        transport.send(server.root, CALL)
    assert len(server.requests) == 1
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.slow(only=("gzip",))
@pytest.mark.fault("A14")
@pytest.mark.parametrize(
    "answer",
    [
        always(whole(b"x" * 100_001)),
        None,  # 50 MB in gzip, packed when it is wanted
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 20),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 500_000),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100_000),
    ],
    ids=["length", "gzip", "chunked", "negative-chunk", "unframed"],
)
def test_a_body_above_the_cap_is_an_error_that_names_it(serve: Serve, make: Make, answer: Answer | None) -> None:
    server = serve(answer or always(whole(gzip.compress(b"x" * 50_000_000), "Content-Encoding: gzip")))
    transport = make(max_body_bytes=100_000)
    tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        began = time.monotonic()
        with pytest.raises(ReplyError, match="body of at most 100,000 bytes"):
            transport.send(server.root, CALL)
        assert time.monotonic() - began < LONG_S
        assert tracemalloc.get_traced_memory()[1] < before + 4_000_000  # 50 MB would have been unpacked
    finally:
        tracemalloc.stop()


def test_a_body_as_large_as_the_cap_is_whole(serve: Serve, make: Make) -> None:
    transport = make(max_body_bytes=len(BODY))
    assert transport.send(serve(always(whole())).root, CALL).body == BODY
    assert transport.send(serve(always(chunked(BODY))).root, CALL).body == BODY


# Time


@pytest.mark.slow(every=4)
@pytest.mark.fault("A15", "A16")
@pytest.mark.parametrize(
    "answer",
    [
        hang()[0],
        hang(b"HTTP/1.1 200 OK\r\n")[0],
        hang(whole()[:-1])[0],
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "half-headers", "last-byte", "header-drip", "drip", "unframed-drip", "chunk-drip", "continue"],
)
def test_the_deadline_ends_the_whole_call(serve: Serve, make: Make, answer: Answer) -> None:
    server = serve(answer)
    transport = make(timeout_s=0.25)
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"no complete reply within 0\.25 s"):
        transport.send(server.root, CALL)
    assert 0.2 < time.monotonic() - began < LONG_S
    server.wait_for_requests(1)
    assert len(server.requests) == 1


def test_a_call_can_have_its_own_deadline(serve: Serve, transport: Transport) -> None:
    server = serve(hang()[0])
    with pytest.raises(TransportError, match=r"within 0\.05 s"):
        transport.send(server.root, CALL, timeout_s=0.05)


@pytest.mark.fault("A16")
def test_a_silent_kept_alive_connection_is_not_asked_twice(serve: Serve, transport: Transport) -> None:
    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        if len(server.requests) == 1:
            connection.sendall(whole())
        return connection

    server = serve(answer)
    transport.send(server.root, CALL)
    with pytest.raises(TransportError):
        transport.send(server.root, CALL, timeout_s=0.1)
    server.wait_for_requests(2)
    assert len(server.requests) == 2


@pytest.fixture
def full() -> Iterator[int]:
    """A port whose queue is full, so that connecting to it hangs."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        time.sleep(0.02)
        yield int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.fault("A27")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse instead of hanging")
def test_connecting_is_part_of_the_deadline_and_can_be_aborted(full: int, transport: Transport) -> None:
    with pytest.raises(TransportError):
        transport.send(f"http://127.0.0.1:{full}", CALL, timeout_s=0.1)
    check_abort(transport, f"http://127.0.0.1:{full}")


# Connections


@pytest.mark.slow
@pytest.mark.fault("A17")
def test_a_server_that_closes_after_each_reply_goes_unnoticed(serve: Serve, transport: Transport) -> None:
    server = serve(once(whole()))
    for _ in range(200):
        assert transport.send(server.root, CALL).body == BODY
    assert len(server.requests) == 200


@pytest.mark.slow
@pytest.mark.fault("A17")
@pytest.mark.parametrize("is_reset", [False, True])
def test_a_kept_alive_connection_found_closed_is_replaced_once(serve: Serve, make: Make, is_reset: bool) -> None:
    """The server closes each connection when its second request comes, before a reply."""
    seen: set[socket.socket] = set()

    def answer(connection: socket.socket, request: bytes) -> socket.socket | None:
        if connection in seen:
            if is_reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return None
        seen.add(connection)
        connection.sendall(whole())
        return connection

    events: list[Event] = []
    server = serve(answer)
    transport = make(observe=events.append)
    for _ in range(200):
        assert transport.send(server.root, CALL).body == BODY
    assert len(server.requests) == 399
    assert [event.status for event in events if isinstance(event, Sent)].count(None) == 199


@pytest.mark.fault("A17")
def test_the_second_try_takes_a_connection_of_its_own(serve: Serve, transport: Transport) -> None:
    """Many idle connections may be dead at once."""
    gate = threading.Barrier(4)
    dead = threading.Event()
    seen: set[socket.socket] = set()

    def answer(connection: socket.socket, request: bytes) -> socket.socket | None:
        if not dead.is_set():
            gate.wait(5)
            seen.add(connection)
        elif connection in seen:
            return None
        connection.sendall(whole())
        return connection

    server = serve(answer)
    with ThreadPoolExecutor(4) as pool:
        assert all(reply.body == BODY for reply in pool.map(lambda _: transport.send(server.root, CALL), range(4)))
    dead.set()
    assert transport.send(server.root, CALL).body == BODY
    assert len(server.requests) == 6


@pytest.mark.fault("A17")
def test_a_new_connection_that_closes_without_a_reply_is_an_error(serve: Serve, transport: Transport) -> None:
    server = serve(once(b""))
    with pytest.raises(TransportError, match="closed"):
        transport.send(server.root, CALL)
    assert len(server.requests) == 1


@pytest.mark.fault("A27")
def test_a_server_that_went_away_is_a_transport_error(serve: Serve, transport: Transport) -> None:
    server = serve(always(whole()))
    transport.send(server.root, CALL)
    server.close()
    with pytest.raises(TransportError, match=r"cannot connect .Connection refused") as caught:
        transport.send(server.root, CALL)
    assert caught.value.__cause__ is not None


@pytest.mark.slow
@pytest.mark.fault("A10")
@pytest.mark.parametrize(
    ("threads", "count"), [(16, 40), pytest.param(32, round(2_000 * FAULT_RUNS), marks=pytest.mark.long)]
)
def test_threads_do_not_mix_their_replies(
    serve: Serve, transport: Transport, threads: int, count: int, record_property: Callable[[str, object], None]
) -> None:
    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        connection.sendall(whole(request.split(b" ")[1] * 50))
        return connection

    def work(number: int) -> None:
        for n in range(count):
            body = transport.send(server.root, Call(f"/{number}/{n}")).body
            assert body == f"/{number}/{n}".encode() * 50

    server = serve(answer)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert server.connections <= threads
    record_property("runs", threads * count)


@pytest.mark.long
@pytest.mark.fault("A21")
def test_ten_thousand_requests_of_thirty_two_threads_are_within_the_limit(
    serve: Serve, transport: Transport, record_property: Callable[[str, object], None]
) -> None:
    """The server counts whole intervals of two seconds, as Binance counts minutes; one too many would be a ban."""
    allowed, seconds, threads = 1_500, 2, 32
    counts: Counter[int] = Counter()
    lock, stop = threading.Lock(), threading.Event()

    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        with lock:
            counts[int(time.time() / seconds)] += 1
        connection.sendall(whole())
        return connection

    server = serve(answer)
    limiter = Limiter(provider="x", limits=(Limit(allowed, seconds),), now_ms=lambda: int(time.time() * 1000))

    def work(_: int) -> None:
        for _ in range(round(10_000 * FAULT_RUNS) // threads):
            ticket = limiter.acquire(1, stop=stop)
            try:
                assert transport.send(server.root, CALL).body == BODY
            finally:
                limiter.release(ticket, used=None)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert max(counts.values()) <= allowed
    assert sum(counts.values()) == len(server.requests) == round(10_000 * FAULT_RUNS) // threads * threads
    record_property("runs", len(server.requests))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_threads_that_come_and_go_leave_no_descriptors(serve: Serve, make: Make) -> None:
    server = serve(always(whole()))
    broken = serve(once(whole()[:-1]))
    transport = make()
    transport.send(server.root, CALL)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def work() -> None:
        transport.send(server.root, CALL)
        with contextlib.suppress(TransportError):
            transport.send(broken.root, CALL)

    for _ in range(60):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # noqa: PTH208


def test_a_closed_transport_has_no_connection_and_sends_nothing(serve: Serve, transport: Transport) -> None:
    answer, is_hanging = hang()
    server = serve(always(whole()))
    hanging = serve(answer)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: transport.send(server.root, CALL), range(8)))
        waiting = pool.submit(transport.send, hanging.root, CALL)
        assert is_hanging.wait(10)
        transport.close()
        with pytest.raises(CancelledError):
            waiting.result(timeout=10)
    transport.close()
    count = len(server.requests)
    for root in (server.root, "http://127.0.0.1:1"):
        with pytest.raises(CancelledError):
            transport.send(root, CALL)
    assert len(server.requests) == count


# Stopping


def check_abort(transport: Transport, root: str, is_hanging: threading.Event | None = None) -> None:
    """Check that an abort ends a call that waits: for what the server keeps back once the event is set, or else for a
    connection or its handshake, which takes no event long to begin."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.send, root, CALL, stop=stop)
        assert is_hanging is None or is_hanging.wait(LONG_S)
        time.sleep(0.1 if is_hanging is None else 0.01)
        transport.abort(stop)
        with pytest.raises(CancelledError):
            waiting.result(timeout=LONG_S)


@pytest.mark.fault("E02")
@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\n", whole()[:-1], b"HTTP/1.1 200 OK\r\n\r\nx"])
def test_an_abort_wakes_a_thread_that_waits_for_headers_or_body(
    serve: Serve, transport: Transport, after: bytes
) -> None:
    answer, is_hanging = hang(after)
    check_abort(transport, serve(answer).root, is_hanging)


@pytest.mark.fault("E02")
def test_an_abort_wakes_a_kept_alive_connection(serve: Serve, transport: Transport) -> None:
    is_hanging = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> socket.socket | None:
        if len(server.requests) == 1:
            connection.sendall(whole())
            return connection
        is_hanging.set()
        connection.recv(1)
        return None

    server = serve(answer)
    transport.send(server.root, CALL)
    check_abort(transport, server.root, is_hanging)
    assert len(server.requests) == 2


def test_an_abort_leaves_other_calls_alone(serve: Serve, transport: Transport) -> None:
    go = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        assert go.wait(5)
        connection.sendall(whole())
        return connection

    server = serve(answer)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.send, server.root, CALL, stop=threading.Event())
        while not server.requests:
            time.sleep(0.001)
        transport.abort(threading.Event())
        go.set()
        assert waiting.result(timeout=10).body == BODY


def test_a_call_that_was_stopped_before_is_not_sent(serve: Serve, make: Make) -> None:
    events: list[Event] = []
    server = serve(always(whole()))
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError):
        make(observe=events.append).send(server.root, CALL, stop=stop)
    assert (server.connections, events) == (0, [])


# TLS


def tls(folder: Path, certificate: str) -> ssl.SSLContext:
    (folder / "server.pem").write_text(KEY_PEM + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


@pytest.fixture(params=[GOOD_PEM], ids=["good"])
def trusted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text(request.param)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))


@pytest.mark.usefixtures("trusted")
def test_https_works_and_keeps_its_connection(serve: Serve, transport: Transport, tmp_path: Path) -> None:
    server = serve(always(whole(BODY * 500)), tls(tmp_path, GOOD_PEM))
    assert [transport.send(server.root, CALL).body for _ in range(3)] == [BODY * 500] * 3
    assert server.connections == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("after", [b"", whole()[:-1]])
def test_an_abort_wakes_a_thread_under_tls(serve: Serve, transport: Transport, tmp_path: Path, after: bytes) -> None:
    answer, is_hanging = hang(after)
    check_abort(transport, serve(answer, tls(tmp_path, GOOD_PEM)).root, is_hanging)


def test_an_abort_wakes_a_thread_in_a_tls_handshake(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check_abort(transport, f"https://127.0.0.1:{silent.getsockname()[1]}")


def test_the_deadline_covers_a_tls_handshake(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TransportError):
        transport.send(f"https://127.0.0.1:{silent.getsockname()[1]}", CALL, timeout_s=0.1)


@pytest.mark.fault("A26")
def test_a_self_signed_certificate_is_refused(serve: Serve, transport: Transport, tmp_path: Path) -> None:
    server = serve(always(whole()), tls(tmp_path, GOOD_PEM))
    with pytest.raises(TransportError, match=r"TLS failed .self.signed certificate"):
        transport.send(server.root, CALL)
    assert server.requests == []


@pytest.mark.fault("A26")
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("trusted", [EXPIRED_PEM], ids=["expired"], indirect=True)
def test_an_expired_certificate_is_refused(serve: Serve, transport: Transport, tmp_path: Path) -> None:
    server = serve(always(whole()), tls(tmp_path, EXPIRED_PEM))
    with pytest.raises(TransportError, match=r"TLS failed .certificate has expired"):
        transport.send(server.root, CALL)
    assert server.requests == []


@pytest.mark.fault("A26")
@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_name_is_refused(serve: Serve, transport: Transport, tmp_path: Path) -> None:
    server = serve(always(whole()), tls(tmp_path, GOOD_PEM))
    with pytest.raises(TransportError, match=r"TLS failed .Hostname mismatch"):
        transport.send(f"https://localhost:{server.port}", CALL)
    assert server.requests == []


@pytest.mark.fault("A26")
def test_no_line_of_ours_switches_verification_off() -> None:
    source = Path(__file__).parents[1] / "candle_fetcher"
    for path in source.rglob("*.py"):
        found = re.search(r"verify\s*=\s*False|CERT_NONE|CERT_OPTIONAL|check_hostname", path.read_text("utf-8"))
        assert found is None, path


# Names and proxies


@pytest.mark.fault("A27")
def test_a_host_that_cannot_be_resolved_is_a_transport_error(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(TransportError, match=r"x\.invalid/api/v3/klines: the host name cannot be resolved"):
        transport.send("https://x.invalid", CALL)


@pytest.fixture
def without_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.fault("A28")
@pytest.mark.usefixtures("without_exceptions")
def test_a_proxy_of_the_environment_is_used(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(always(whole()))
    monkeypatch.setenv("HTTP_PROXY", f"http://name:word@127.0.0.1:{server.port}")
    assert transport.send("http://127.0.0.1:9/base", CALL).body == BODY
    lines = server.requests[0].split(b"\r\n")
    assert lines[0] == b"GET http://127.0.0.1:9/base/api/v3/klines?symbol=BTCUSDT&limit=5 HTTP/1.1"
    assert b"Host: 127.0.0.1:9" in lines
    assert b"Proxy-Authorization: Basic bmFtZTp3b3Jk" in lines


@pytest.mark.fault("A28")
def test_hosts_named_in_no_proxy_are_asked_directly(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(always(whole()))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert transport.send(server.root, CALL).body == BODY


@pytest.mark.fault("A28")
@pytest.mark.usefixtures("without_exceptions", "trusted")
def test_https_goes_through_a_tunnel_of_the_proxy(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = tls(tmp_path, GOOD_PEM)

    def answer(connection: socket.socket, request: bytes) -> socket.socket:
        if request.startswith(b"CONNECT"):
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            return context.wrap_socket(connection, server_side=True)
        connection.sendall(whole())
        return connection

    server = serve(answer)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    assert [transport.send("https://127.0.0.1:9", CALL).body for _ in range(2)] == [BODY] * 2
    assert [request.split(b"\r\n")[0] for request in server.requests] == [
        b"CONNECT 127.0.0.1:9 HTTP/1.0" if b"HTTP/1.0" in server.requests[0] else b"CONNECT 127.0.0.1:9 HTTP/1.1",
        *[b"GET /api/v3/klines?symbol=BTCUSDT&limit=5 HTTP/1.1"] * 2,
    ]


@pytest.mark.fault("A27")
@pytest.mark.usefixtures("without_exceptions")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_a_transport_error(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server = serve(once(b""))
    server.close()
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://name:SENTINEL@127.0.0.1:{server.port}")
    with pytest.raises(
        TransportError, match=r"the proxy from the environment cannot be used \(Connection refused"
    ) as caught:
        transport.send(f"{scheme}://127.0.0.1:9", CALL)
    assert "SENTINEL" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.fault("G01")
@pytest.mark.usefixtures("without_exceptions")
@pytest.mark.parametrize("proxy", ["http://user:SENTINEL@", "http://a b:SENTINEL@[x", "socks9://user:SENTINEL@h"])
def test_a_proxy_that_cannot_be_read_is_named_without_its_password(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(InputError, match="proxy") as caught:
        transport.send("http://127.0.0.1:9", CALL)
    assert "SENTINEL" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
@pytest.mark.fault("A27")
def test_a_lookup_that_hangs_is_given_up_like_a_host_that_cannot_be_reached(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait(2 * LONG_S))
    monkeypatch.setattr(connection_module, "CONNECT_S", 0.2)
    began = time.monotonic()
    with pytest.raises(TransportError, match="the host name cannot be resolved") as caught:
        transport.send("https://x.invalid", CALL)
    assert time.monotonic() - began < LONG_S
    assert not caught.value.reached
    over.set()


@pytest.mark.fault("A28")
@pytest.mark.usefixtures("without_exceptions")
def test_a_socks_proxy_is_used_where_pysocks_is_there(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(100))
            connection.sendall(b"\5\0")
            asked.append(connection.recv(100))
            connection.sendall(b"\5\0\0\1\0\0\0\0\0\0")
            while not connection.recv(65536).endswith(HEAD_END):
                pass
            connection.sendall(whole())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"socks5h://127.0.0.1:{port}")
        if importlib.util.find_spec("socks") is None:
            with pytest.raises(InputError, match="PySocks; run pip install"):
                transport.send("http://localhost:9", CALL)
            return
        proxy = threading.Thread(target=speak)
        proxy.start()
        assert transport.send("http://localhost:9", CALL).body == BODY
        proxy.join()
    assert asked[1] == b"\5\1\0\3\x09localhost\0\x09"
    with pytest.raises(TransportError) as caught:
        transport.send("http://localhost:10", CALL)
    assert not caught.value.reached


@pytest.mark.fault("A28")
def test_a_netrc_is_never_used(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password SENTINEL\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server = serve(always(whole()))
    transport.send(server.root, CALL)
    assert b"authorization" not in server.requests[0].lower()


# Secrets

SECRET = Call("/query", (("apikey", "SENTINEL"),), headers=(("X-Key", "SENTINEL"),))
FAULTS: dict[str, Answer] = {
    "nothing": once(b""),
    "cut": once(whole()[:-3]),
    "chunk": once(chunked(BODY)[:-30]),
    "header": once(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"),
    "status": once(b"HTTP/1.1 999999\r\n\r\n"),
    "length": once(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"),
    "gzip": once(whole(b"no", "Content-Encoding: gzip")),
    "redirect": once(whole(b"", "Location: /query?apikey=SENTINEL", status="302 Found")),
    "slow": hang()[0],
}


def spoken(error: BaseException | None) -> Iterator[str]:
    """All that an error and those behind it say about themselves."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        yield from traceback.format_exception(error)
        yield from spoken(error.__context__) if error.__context__ is not error.__cause__ else ()
        error = error.__cause__


@pytest.mark.slow(only=("slow",))
@pytest.mark.fault("G01", "G02")
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_repeats_a_key(serve: Serve, make: Make, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    caplog.set_level(logging.DEBUG)
    server = serve(FAULTS[fault])
    timeout_s = 0.5 if fault == "slow" else LONG_S
    with pytest.raises(SourceError) as caught:
        make(timeout_s=timeout_s, observe=events.append).send(server.root, SECRET)
    server.wait_for_requests(1)
    assert b"SENTINEL" in server.requests[0]
    assert f"127.0.0.1:{server.port}/query: " in str(caught.value)
    assert "SENTINEL" not in "".join(spoken(caught.value))
    assert "SENTINEL" not in caplog.text + repr(events)
    assert "\n" not in str(caught.value)


@pytest.mark.fault("G01", "G02")
def test_no_connection_repeats_a_key(make: Make, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(once(b""))
    server.close()
    for root in (server.root, server.root.replace("http", "https")):
        with pytest.raises(TransportError) as caught:
            make().send(root, SECRET)
        assert "SENTINEL" not in "".join(spoken(caught.value)) + caplog.text


@pytest.mark.fault("G01")
@pytest.mark.parametrize("value", ["SENTINEL\r\nX: y", "SENTINEL\x00", "SENTINELü€"])
def test_a_header_that_cannot_be_sent_is_named_without_its_value(
    serve: Serve, transport: Transport, value: str
) -> None:
    server = serve(always(whole()))
    with pytest.raises(InputError, match="X-Key") as caught:
        transport.send(server.root, Call("/", headers=(("X-Key", value),)))
    assert "SENTINEL" not in "".join(spoken(caught.value))
    assert server.connections == 0


# Roots


@pytest.mark.slow(only=("http://[::1]:8700-http://[::1]:8700",))
@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://api.binance.com", "https://api.binance.com"),
        ("https://api.example.com:8443/v1/", "https://api.example.com:8443/v1"),
        ("http://127.0.0.1:8700/", "http://127.0.0.1:8700"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:80", "http://localhost:80"),
        ("http://[::1]:8700", "http://[::1]:8700"),
    ],
)
def test_https_and_loopback_roots_are_accepted(url: str, root: str) -> None:
    assert check_root(url) == root


@pytest.mark.fault("G11")
@pytest.mark.parametrize(
    "url",
    [
        "http://api.binance.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://169.254.169.254",
        "http://0.0.0.0",
        "http://[fe80::1]",
        "https://user:SENTINEL@api.binance.com",
        "https://user@127.0.0.1",
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "ws://127.0.0.1",
        "127.0.0.1:8700",
        "api.binance.com",
        "",
        "https://",
        "https:///path",
        "https://host:SENTINEL",
        "https://user:SENTINEL\u2100@host",
        "https://host:99999",
        "https://host:0",
        "https://[::1",
        "https://host name",
        "https://host\r\nX: y",
        "https://host/?apikey=SENTINEL",
        "https://host/#SENTINEL",
    ],
)
def test_other_roots_are_refused_and_never_asked(url: str, transport: Transport) -> None:
    with pytest.raises(InputError) as caught:
        check_root(url)
    assert "SENTINEL" not in "".join(spoken(caught.value))
    with pytest.raises(InputError):
        transport.send(url, CALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "late"),
    [
        ("import candle_fetcher", {"urllib3", "requests", "ssl", "http.client", "urllib.request"}),
        (
            "from candle_fetcher import CandleFetcher; CandleFetcher(base_urls={'binance-archive': 'http://127.0.0.1'})",
            {"urllib3", "candle_fetcher.providers.kraken"},
        ),
        ("from candle_fetcher.net.route import Route; Route('http://127.0.0.1:1')", {"requests", "urllib.request"}),
    ],
)
def test_what_takes_long_to_import_is_imported_when_it_is_needed(line: str, late: set[str]) -> None:
    code = f"import os, sys; os.environ['NO_PROXY'] = '*'; {line}; sys.exit(' '.join({late!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""
