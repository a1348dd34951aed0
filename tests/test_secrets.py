"""Keys and passwords stay in the request, whatever goes wrong; foreign text commands no terminal and no spreadsheet.

Here a provider that looks like Binance gets a key, in the query and in headers, and answers with it in many ways, so
that all that a fault leaves behind can be searched for it.
"""

from __future__ import annotations

import copy
import gzip
import html
import json
import logging
import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pandas as pd
import pytest
from test_network_faults import PASSING
from world import World

from candle_fetcher import CandleFetcher, CandleFetcherError, InputError
from candle_fetcher.cli import main
from candle_fetcher.cli.tables import table_csv
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import ReplyError, TransportError
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.net.transport import Transport
from candle_fetcher.practice import faults
from candle_fetcher.practice.faults import FaultAction, FaultConnection
from candle_fetcher.providers import Provider, find_provider
from candle_fetcher.providers.binance import parse_listing
from candle_fetcher.sources.keyring import FixedKeys, Keyring

# No part of it may be seen, in no case.
MARK = "SENTINEL"
KEY = f"{MARK}+9f/3a=="
PASSWORD = f"{MARK}-9f3a"
# The practice exchange refuses parameters that it does not know.
IN_HEADERS = Keys(headers=(("X-MBX-APIKEY", KEY), ("Authorization", f"Bearer {KEY}")))
KEYS = Keys(headers=IN_HEADERS.headers, params=(("apikey", KEY),))
RANGE = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The exchange on loopback, and a netrc that has a password for it."""
    home = Path(os.environ["HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / ".netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")  # of the command line: nobody waits here
    with World(tmp_path / "cache") as made:
        yield made


def keyed(world: World) -> Provider:
    """A provider like Binance; `attempt` gives it keys."""
    return replace(find_provider("binance"), hosts=(world.exchange.url,), archive=None)


def spoken(error: BaseException | None) -> Iterator[str]:
    """All that an error, those behind it and those it carries say about themselves."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        yield from traceback.format_exception(type(one), one, one.__traceback__, chain=False)  # those behind it follow
        if isinstance(one, CandleFetcherError):
            yield repr(pickle.dumps(one))
        carried = getattr(one, "refusals", ()), getattr(one, "errors", {})
        waiting += [one.__cause__, one.__context__, getattr(one, "cause", None)]
        waiting += [*carried[0], *dict(carried[1]).values()]


class Left:
    """All that a run has left: what was said, logged, shown, stored and written."""

    def __init__(self, world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self.caplog = caplog
        self.capsys = capsys
        self.texts: list[str] = []
        caplog.set_level(logging.DEBUG)

    def say(self, *what: object) -> None:
        self.texts += [f"{one!s}{one!r}" for one in what]

    def all(self) -> str:
        shown = self.capsys.readouterr()
        records = [f"{record.getMessage()}{record.args!r}{record.exc_text}" for record in self.caplog.records]
        files = [path for path in self.world.folder.parent.rglob("*") if path.is_file()]
        stored = [f"{path.name}{path.read_bytes()!r}" for path in files]
        return "\n".join([*self.texts, *records, *stored, shown.out, shown.err])


@pytest.fixture
def left(world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Left:
    return Left(world, caplog, capsys)


def attempt(world: World, left: Left, *, keys: Keys = KEYS, **settings: Any) -> BaseException | None:
    """Fetches, exports, looks into everything there is to look into; the error of the fetch, if there was one."""
    events: list[Any] = []
    settings = {"provider": keyed(world), "base_urls": None, "max_retries": 1, "timeout_s": 0.4, **settings}
    fetcher = world.fetcher(api_keys={"binance": {"key": KEY, "secret": KEY}}, progress=events.append, **settings)
    if isinstance(settings["provider"], Provider):
        client = fetcher._runtime.rest(settings["provider"])._client
        client._service = client._service._replace(keys=FixedKeys(keys))
        left.say(client._service)
    failed: BaseException | None = None
    for call in (
        lambda: fetcher.fetch(*RANGE),
        lambda: fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *RANGE[1:]),
        lambda: fetcher.export(*RANGE, path=world.folder.parent / "out"),
        lambda: fetcher.plan(*RANGE),
    ):
        try:
            left.say(getattr(call(), "attrs", ""))
        except Exception as error:  # noqa: BLE001 - whatever comes out is searched
            failed = failed or error
            left.texts += spoken(error)
    left.say(
        fetcher, fetcher._runtime.settings, fetcher.cache.stats(), fetcher.monitor.report(), fetcher.monitor.snapshot()
    )
    left.say(fetcher.monitor.to_frame().to_csv(), events)
    fetcher.close()
    return failed


MORE: dict[str, FaultAction] = {
    "nothing wrong": faults.transform(lambda body: body),
    "400": faults.status(400, b'{"code":-1127,"msg":"More than 24 hours between startTime and endTime."}'),
    "401": faults.status(401, b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'),
    "403": faults.forbidden(),
    "404": faults.status(404, b"<html>not here</html>"),
    "418": faults.banned(1_718_500_000_000),
    "429 for a day": faults.rate_limited(86_400),
    "451": faults.restricted(),
    "502": faults.status(502),
    "error with 200": faults.body(b'{"code":-2015,"msg":"Invalid API-key."}'),
    "elsewhere": faults.redirect(f"http://127.0.0.2:9/query?apikey={KEY}"),
    "downgrade": faults.redirect(f"http://{KEY}@example.com/"),
    "file": faults.redirect(f"file:///etc/passwd?{KEY}"),
    "itself": faults.redirect(f"/api/v3/klines?apikey={KEY}"),
    "chunk cut": faults.cut_chunked(0.5),
    "chunks cut": faults.cut_chunked(0.5, at_border=True),
    "no headers": faults.no_headers(),
    "gzip plain": faults.bad_gzip("plain"),
    "gzip bare": faults.bad_gzip("bare"),
    "gzip twice": faults.bad_gzip("twice"),
    "gzip nested": faults.bad_gzip("nested"),
    "drip": faults.drip(20),
    "drip of headers": faults.drip_headers(20),
    "silence": faults.hang(5),
    "status 999999": faults.status(999_999),
}


def raw(data: bytes) -> FaultAction:
    """These bytes instead of a reply, and the end of the connection."""

    def act(wire: FaultConnection, reply: faults.ServedReply) -> bool:
        wire.send(data)
        return False

    return FaultAction("raw", act)


SAYS_KEY = f"We have detected your API key as {KEY} and our limit is 25 requests per day."
# What a service may do to a key that it shows.
FORMS: dict[str, str] = {
    "plain": json.dumps({"code": -2014, "msg": SAYS_KEY}),
    "in lower case": json.dumps({"code": -2014, "msg": SAYS_KEY.lower()}),
    "of a URL": json.dumps({"code": -2014, "msg": f"GET /query?apikey={quote(KEY, safe='')}&x=1 failed"}),
    "of a URL twice": json.dumps({"code": -2014, "msg": quote(quote_plus(KEY))}),
    "of PHP": json.dumps({"code": -2014, "msg": SAYS_KEY}).replace("/", "\\/"),
    "of .NET": json.dumps({"code": -2014, "msg": SAYS_KEY}).replace("+", "\\u002B"),
    "all escaped": '{"code":-2014,"msg":"' + "".join(f"\\u{ord(char):04x}" for char in KEY) + '"}',
    "of HTML": f"<html><body>{html.escape(KEY)}, {''.join(f'&#{ord(char)};' for char in KEY)}</body></html>",
    "a row": json.dumps([[KEY]]),
    "a code": json.dumps({"code": KEY, "msg": KEY}),
    "a name": json.dumps({KEY: KEY}),
    "bare": KEY,
}
ECHOES: dict[str, FaultAction] = {
    **{
        f"key {name} ({code})": faults.status(code, text.encode())
        for name, text in FORMS.items()
        for code in (200, 400)
    },
    **{
        f"key with {code}": faults.status(code, FORMS["plain"].encode(), (("Retry-After", "0"),))
        for code in (401, 403, 404, 418, 429, 451, 500)
    },
    "key in UTF-16": faults.status(400, FORMS["plain"].encode("utf-16")),
    "key packed": faults.status(400, gzip.compress(FORMS["plain"].encode()), (("Content-Encoding", "gzip"),)),
    "key as host": faults.redirect(f"https://{MARK}%2B9f%2f3a==.example.com/"),
    "key in headers": faults.status(400, b"{}", (("X-Asked", KEY), ("Retry-After", KEY), (KEY.rstrip("="), KEY))),
    "key as encoding": faults.status(200, b"[]", (("Content-Encoding", KEY),)),
    "key as framing": faults.status(200, b"[]", (("Transfer-Encoding", KEY),)),
    "key as status": raw(f"HTTP/1.1 {KEY} no\r\n\r\n".encode()),
    "key as status line": raw(f"{KEY}\r\n\r\n".encode()),
    "key as version": raw(f"HTTP/{KEY} 200 OK\r\n\r\n".encode()),
    "key as length": raw(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n[]".encode()),
    "key as header": raw(f"HTTP/1.1 200 OK\r\n {KEY}\r\nX {KEY}\r\n\r\n[]".encode()),
    "key as chunk": raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()),
    "key for rows": faults.transform(lambda body: body.replace(b'"', f'"{KEY}'.encode(), 1)),
}
FAULTS = {name: action for name, action in PASSING.items() if name != "bomb"} | MORE


def test_there_are_forty_faults() -> None:
    assert len(FAULTS) >= 40
    assert set(USUAL) <= set(FAULTS | ECHOES)


# One of each kind: the others take the same way with other bytes.
USUAL = ("nothing wrong", "401", "429 for a day", "elsewhere", "chunk cut", "gzip nested", "reset", "key plain (200)",
         "key with 403", "key all escaped (400)", "key packed", "key as host", "key as status line", "key as header",
         "key for rows")  # fmt: skip


@pytest.mark.slow(keep=USUAL)
@pytest.mark.fault("G01", "G02", "A24", "A25", "A28")
@pytest.mark.parametrize("name", FAULTS | ECHOES)
def test_a_key_stays_in_the_request_whatever_goes_wrong(world: World, left: Left, name: str) -> None:
    fault = world.exchange.fail((FAULTS | ECHOES)[name], times=None, match="klines")
    error = attempt(world, left)
    assert error is None or isinstance(error, CandleFetcherError)
    assert fault.hits
    asked = world.exchange.requests
    assert {request.params.get("apikey") for request in asked} == {KEY}
    assert {request.headers.get("authorization") for request in asked} == {f"Bearer {KEY}"}
    found = left.all()
    assert len(found) > 5_000
    assert "urllib3" in "".join(record.name for record in left.caplog.records)
    assert MARK.casefold() not in found.casefold()
    assert "".join(f"u{ord(char):04x}" for char in MARK) not in found


@pytest.mark.fault("G01", "G02")
def test_what_is_fetched_with_a_key_is_stored_and_written_without_it(world: World, left: Left) -> None:
    assert attempt(world, left, keys=IN_HEADERS) is None
    assert {request.headers.get("x-mbx-apikey") for request in world.exchange.requests} == {KEY}
    assert list(world.folder.parent.glob("out/*.csv"))
    assert MARK.casefold() not in left.all().casefold()


@pytest.mark.fault("G01")
def test_a_number_that_holds_a_key_is_refused_and_never_another_number(world: World) -> None:
    price = world.truth("BTCUSDT", *RANGE[1:])["open"][3]
    provider = keyed(world)
    fetcher = world.fetcher(source="rest", max_retries=0, provider=provider, base_urls=None)
    client = fetcher._runtime.rest(provider)._client
    client._service = client._service._replace(keys=FixedKeys(Keys(headers=(("X-MBX-APIKEY", f"{price:.8f}"[1:6]),))))
    with pytest.raises(CandleFetcherError, match=r"field \d+ \(\w+\): expected a decimal .*, got '\d*\*\*\*"):
        fetcher.fetch(*RANGE)


@pytest.mark.fault("G01", "G02")
def test_what_is_printed_or_carried_of_keys_is_their_names() -> None:
    assert repr(KEYS) == str(KEYS) == "Keys(X-MBX-APIKEY, Authorization, apikey)"
    assert repr(NO_KEYS) == "Keys()"
    assert not NO_KEYS
    assert NO_KEYS.hide(KEY) == KEY
    assert KEYS.hide(f"<{KEY}>") == "<***>"
    assert KEYS.hide(f"<Bearer {KEY}>".encode()) == b"<***>"
    assert Keys(also=(KEY,)).hide(KEY) == "***"
    assert Keys(params=(("a", "abcd"), ("b", "abcdef"))).hide("abcdefg") == "***g"
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled") as raised:
            carry(KEYS)
        assert MARK not in "".join(spoken(raised.value))


@pytest.mark.fault("G01")
@pytest.mark.parametrize("value", ["", "abc", f"{MARK}\r\nX: 1", f" {MARK}", f"{MARK}\n", f"{MARK}ü", "    "])
def test_what_can_be_no_key_is_refused_and_not_repeated(value: str) -> None:
    for given in (
        {"headers": (("X-KEY", value),)},
        {"params": (("X-KEY", value),)},
        {"also": (value,)},
    ):
        with pytest.raises(InputError, match=r"X-KEY|further secret") as raised:
            Keys(**given)  # type: ignore[arg-type]
        assert MARK not in "".join(spoken(raised.value))


@pytest.mark.fault("G02")
def test_the_debug_output_of_the_standard_library_shows_no_key(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("http.client.HTTPConnection.debuglevel", 1)
    assert attempt(world, left, keys=IN_HEADERS) is None
    assert MARK not in left.all()


@pytest.mark.fault("G01", "A28")
def test_keys_go_to_no_proxy_that_could_read_them(world: World, left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable)
    proxy = Proxy(PROXIES["refuses"])
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    transport = Transport(user_agent="test")
    with pytest.raises(InputError, match="NO_PROXY") as raised:
        transport.send(world.exchange.url, Call("/api/v3/time"), keys=KEYS)
    with pytest.raises(CandleFetcherError):
        transport.send("https://127.0.0.1:9", Call("/api/v3/time"), keys=KEYS)
    transport.close()
    proxy.close()
    assert b"CONNECT" in proxy.asked
    assert MARK.encode() not in proxy.asked
    left.texts += spoken(raised.value)
    assert MARK not in left.all()


class Service:
    """Answers forms with the replies, one each; None closes the connection instead. Keeps what it was sent, whole."""

    def __init__(self, *replies: bytes | None) -> None:
        self.asked: list[bytes] = []
        self.connections = 0
        self._replies = list(replies)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.root = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._replies:
            connection, _ = self._socket.accept()
            self.connections += 1
            with connection, connection.makefile("rb") as stream:
                connection.settimeout(2)
                while self._replies and (head := self._read_head(stream)):
                    length = int(
                        next(line for line in head.splitlines() if b"ontent-" in line and b"ength" in line)[16:]
                    )
                    self.asked.append(head + stream.read(length))
                    reply = self._replies.pop(0)
                    if reply is None:
                        break
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(reply), reply))

    @staticmethod
    def _read_head(stream: Any) -> bytes:
        lines = []
        while (line := stream.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join(lines)

    def close(self) -> None:
        self._socket.close()
        self._thread.join(3)
        assert not self._thread.is_alive()


TOKEN = Call("/oauth/token", (("grant_type", "refresh_token"),), is_form=True)
FORM = Keys(params=(("client_id", "abcd&1"), ("refresh_token", KEY)))


@pytest.mark.fault("G01", "G02")
def test_a_form_carries_its_keys_in_the_body_alone(left: Left) -> None:
    said = json.dumps({"access_token": "new", "refresh_token": "kept", "echo": KEY}).encode()
    service = Service(said, said)
    transport = Transport(user_agent="test", timeout_s=5)
    for _ in range(2):
        reply = transport.send(service.root, TOKEN, keys=FORM)
        assert json.loads(reply.body) == {"access_token": "new", "refresh_token": "kept", "echo": "***"}
    transport.close()
    service.close()
    assert service.connections == 2  # a connection of its own, so that it is never sent twice
    for asked in service.asked:
        head, _, form = asked.rpartition(b"\r\n")
        assert head.startswith(b"POST /oauth/token HTTP/1.1\r\n")
        assert b"Content-Type: application/x-www-form-urlencoded" in head
        assert form == b"grant_type=refresh_token&client_id=abcd%261&refresh_token=" + quote(KEY, safe="").encode()
        assert MARK.encode() not in head
    assert MARK not in left.all()


@pytest.mark.fault("G01")
def test_a_token_that_is_sent_back_unchanged_is_kept_though_it_comes_hidden() -> None:
    lasting = {"client_id": f"{MARK}-client", "refresh_token": f"{MARK}-refresh"}
    said = json.dumps({"access_token": f"{MARK}-access", "refresh_token": lasting["refresh_token"]}).encode()
    sent: list[Keys] = []

    def ask(call: Call, keys: Keys, parse: Any, stop: threading.Event) -> Any:
        sent.append(keys)
        return parse(keys.hide(said))  # as the transport hands it over

    ring = Keyring(find_provider("tradestation"), lasting, ask, time.monotonic)
    for _ in range(3):
        found = ring.keys(threading.Event())
        assert found.headers == (("Authorization", f"Bearer {MARK}-access"),)
        assert ring.renew(found, threading.Event())
    assert [keys.params[-1] for keys in sent] == [("refresh_token", lasting["refresh_token"])] * 4
    assert MARK not in f"{ring!r}{sent!r}{found!r}"


@pytest.mark.fault("A17", "G01")
def test_a_form_whose_reply_is_lost_is_not_sent_again(left: Left) -> None:
    service = Service(b"{}", None)
    transport = Transport(user_agent="test", timeout_s=5)
    transport.send(service.root, TOKEN, keys=FORM)
    with pytest.raises(TransportError) as raised:
        transport.send(service.root, TOKEN, keys=FORM)
    transport.close()
    service.close()
    assert len(service.asked) == 2
    left.texts += [*spoken(raised.value), *locals_of(raised.value)]
    assert MARK not in left.all()


@pytest.mark.slow(only=("deadline",))
@pytest.mark.fault("G01", "E02")
@pytest.mark.parametrize("end", ["stop", "close", "deadline"])
def test_a_call_that_is_ended_leaves_without_its_key(world: World, end: str) -> None:
    world.exchange.fail(faults.drip_headers(20), times=None)
    transport, stop = Transport(user_agent="test", timeout_s=0.3 if end == "deadline" else 30), threading.Event()
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            transport.send(world.exchange.url, Call("/api/v3/time"), keys=KEYS, stop=stop)
        except BaseException as error:  # noqa: BLE001 - it is looked at
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not world.exchange.requests:
        time.sleep(0.01)
    if end != "deadline":
        transport.abort(stop) if end == "stop" else transport.close()
    thread.join(5)
    transport.close()
    (error,) = raised
    assert isinstance(error, TransportError) is (end == "deadline")
    assert MARK not in "".join(spoken(error))
    assert MARK not in "".join(locals_of(error))


def locals_of(error: BaseException) -> Iterator[str]:
    """What a debugger shows of an error: the values of each frame that it went through, and of those behind it."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None:
            waiting += [one.__cause__, one.__context__, getattr(one, "cause", None)]
            for frame, _ in traceback.walk_tb(one.__traceback__):
                yield repr(frame.f_locals)


@pytest.mark.fault("G01")
@pytest.mark.parametrize("name", ["key as status line", "reset", "cut", "elsewhere"])
def test_a_debugger_sees_no_key_in_the_frames_of_an_error(world: World, name: str) -> None:
    world.exchange.fail((FAULTS | ECHOES)[name], times=None)
    transport = Transport(user_agent="test", timeout_s=2)
    with pytest.raises(CandleFetcherError) as raised:
        transport.send(world.exchange.url, Call("/api/v3/time"), keys=KEYS)
    transport.close()
    assert MARK not in "".join(locals_of(raised.value)).replace("SENTINEL-9f3a", "")


class Proxy:
    """Answers whatever it is asked with the same bytes, and keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    self.asked += connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(2)


PROXIES = {
    "refuses": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "breaks": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n[",
    "says nothing": b"",
    "is no proxy": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.slow
@pytest.mark.fault("G01", "G02", "A27", "A28")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", PROXIES)
def test_the_password_of_a_proxy_stays_in_the_request(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable)
    proxy = Proxy(PROXIES[name])
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}")
    provider = replace(keyed(world), hosts=(f"{scheme}://127.0.0.1:{world.exchange.url.rpartition(':')[2]}",))
    # Where the proxy could read them, keys are not sent at all.
    error = attempt(world, left, provider=provider, keys=KEYS if scheme == "https" else NO_KEYS)
    proxy.close()
    assert b"Proxy-Authorization: Basic" in proxy.asked or b"proxy-authorization: Basic" in proxy.asked
    assert isinstance(error, CandleFetcherError)
    assert MARK not in left.all()


@pytest.mark.slow(only=("http://user:SENTINEL-9f3a@",))
@pytest.mark.fault("G01")
@pytest.mark.parametrize("url", [f"http://a b:{KEY}@[x", f"http://user:{PASSWORD}@", f"socks9://user:{PASSWORD}@h"])
def test_a_proxy_that_cannot_be_read_is_told_without_its_password(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HTTP_PROXY", url)
    assert isinstance(attempt(world, left), InputError)
    assert MARK not in left.all()


@pytest.mark.slow(every=2)
@pytest.mark.fault("G01", "G11")
@pytest.mark.parametrize(
    "url",
    [f"https://user:{PASSWORD}@api.binance.com", f"http://{PASSWORD}@127.0.0.1:8700", f"https:/user:{PASSWORD}@host", f"file:///{PASSWORD}",
     f"https://host/?key={PASSWORD}", f"https://host/#{PASSWORD}", f"http://api.binance.com/{PASSWORD}", f"https://user:{PASSWORD}\u2100@host",
     f"https://host:{PASSWORD}", f"ftp://user:{PASSWORD}@host", f"//user:{PASSWORD}@host"],
)  # fmt: skip
def test_a_base_url_that_is_refused_is_not_repeated(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for given in ({"binance": url}, f"binance={url}"):
        with pytest.raises(InputError) as raised:
            CandleFetcher(base_urls=given, cache_dir=tmp_path / "x")
        left.texts += spoken(raised.value)
    monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", f"binance={url}")
    with pytest.raises(InputError) as raised:
        CandleFetcher(cache_dir=tmp_path / "x")
    left.texts += spoken(raised.value)
    monkeypatch.delenv("CANDLE_FETCHER_BASE_URLS")
    assert main(["fetch", "BTC/USDT", "1h", "--limit", "5", "--base-url", f"binance={url}", "--debug"]) == 2
    assert MARK not in left.all()


@pytest.mark.fault("G01")
@pytest.mark.parametrize(
    "keys",
    [{"binance": KEY}, {"binance": {"key": 5, KEY: KEY}}, {"nobody": {"key": KEY}}, KEY, [KEY], {"binance": [KEY]}],
)
def test_keys_of_another_shape_are_refused_without_being_shown(left: Left, tmp_path: Path, keys: Any) -> None:
    with pytest.raises(InputError) as raised:
        CandleFetcher(api_keys=keys, cache_dir=tmp_path / "x")
    left.texts += spoken(raised.value)
    assert MARK not in left.all()


@pytest.mark.slow
@pytest.mark.fault("G02")
def test_the_doctor_and_the_log_file_show_no_key_and_no_password(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = Proxy(b"")
    closed.close()
    monkeypatch.setenv("CANDLE_FETCHER_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("CANDLE_FETCHER_LOG_FILE", str(tmp_path / "cache" / "all.log"))
    (tmp_path / "cache").mkdir()
    for proxy in ("", f"http://user:{PASSWORD}@127.0.0.1:{closed.port}"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "" if proxy else "127.0.0.1")
        monkeypatch.setenv("no_proxy", "" if proxy else "127.0.0.1")
        fetcher = world.fetcher(api_keys={"binance": {"key": KEY}}, max_retries=0, timeout_s=0.4)
        frame = fetcher.doctor()
        left.say(frame.to_csv(), frame.to_json())
        attempt(world, left, provider="binance", base_urls=world.exchange.base_urls, max_retries=0)
    logger = logging.getLogger("candle_fetcher")
    for handler in [one for one in logger.handlers if not isinstance(one, logging.NullHandler)]:
        handler.close()
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    assert (tmp_path / "cache" / "all.log").exists()
    assert MARK not in left.all()


# -- foreign text -----------------------------------------------------------------------------------------------------

EVIL = "a\r\nerror: b\x1b[2J\x1b]0;c\x07\u202eevil\u2028\x9b31m\x00\ud800"
SAID = json.dumps({"code": -1127, "msg": EVIL}).encode()

TALKING: dict[str, FaultAction] = {
    **{str(code): faults.status(code, SAID) for code in (400, 401, 404, 418, 429, 451, 500, 503)},
    "ban": faults.status(418, json.dumps({"code": -1003, "msg": f"{EVIL} until 1718500000000."}).encode()),
    "with 200": faults.body(SAID),
    "rows": faults.body(json.dumps([[EVIL]]).encode()),
    "a row": faults.body(json.dumps([[1, EVIL, *["1"] * 4, 1, "1", 1, "1", "1", "0"]]).encode()),
    "bytes": faults.body(EVIL.encode("utf-8", "surrogatepass")),
    "page": faults.body(b"<html>\x1b[2J\r\n\x00" + EVIL.encode("utf-8", "surrogatepass")),
    "location": faults.redirect("http://a\x1b[2J\x9b.example/\x07"),
    "encoding": faults.status(200, b"[]", (("Content-Encoding", "\x1b[2Jgzip"),)),
    "length": faults.status(200, b"[]", (("Content-Length", "\x1b[2J5"),)),
    "transfer": faults.status(200, b"[]", (("Transfer-Encoding", "\x1b[2J"),)),
    "pause": faults.status(429, SAID, (("Retry-After", "\x1b[2J"),)),
    "weight": faults.status(500, SAID, (("X-MBX-USED-WEIGHT-1M", "\x1b[2J9"),)),
}


@pytest.mark.slow(every=3)
@pytest.mark.fault("G03")
@pytest.mark.parametrize("name", TALKING)
def test_what_a_provider_says_is_shown_on_a_line_and_commands_nothing(
    world: World,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")
    caplog.set_level(logging.DEBUG, logger="candle_fetcher")
    world.exchange.fail(TALKING[name], times=None, match="klines")
    fetcher = world.fetcher(max_retries=0, timeout_s=2, source="rest")
    with pytest.raises(CandleFetcherError) as raised:
        fetcher.fetch(*RANGE)
    for error in (raised.value, raised.value.cause):
        assert error is None or str(error).isprintable(), repr(str(error))
    assert len(str(raised.value)) < 600
    for record in caplog.records:
        if record.name.startswith("candle_fetcher"):
            assert record.getMessage().isprintable()
    code = main(
        ["fetch", *RANGE[:2], "--start", RANGE[2], "--end", RANGE[3], "--base-url", f"binance={world.exchange.url}",
         "--cache-dir", str(world.folder / "other"), "--source", "rest"]
    )  # fmt: skip
    assert code in (1, 3)
    shown = capsys.readouterr()
    assert all(line.isprintable() for line in (shown.out + shown.err).split("\n"))
    assert "\nerror: b" not in shown.err


def listing(**changed: Any) -> bytes:
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}
    usual = {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}
    return json.dumps({"rateLimits": [limit], "symbols": [usual, usual | changed]}).encode()


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "\n=1", EVIL, "", "A" * 300, " =1"]


@pytest.mark.slow(every=7)
@pytest.mark.fault("F06", "G03")
@pytest.mark.parametrize("field", ["symbol", "baseAsset", "quoteAsset", "status"])
@pytest.mark.parametrize("text", [*FORMULAS, None, 5, ["BTCUSDT"], {"a": 1}])
def test_a_listing_with_a_name_that_a_spreadsheet_would_run_is_refused(field: str, text: Any) -> None:
    with pytest.raises(ReplyError) as raised:
        parse_listing(listing(**{field: text}))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@pytest.mark.slow
@pytest.mark.fault("F06")
def test_no_formula_of_a_provider_comes_into_a_csv(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--base-url", f"binance={world.exchange.url}", "--cache-dir", str(world.folder)]
    out = tmp_path / "symbols.csv"
    fault = world.exchange.fail(faults.body(listing(symbol="=1+1")), times=None, match="exchangeInfo")
    assert main(["symbols", *where, "--out", str(out)]) == 1
    assert not out.exists()
    assert main(["symbols", *where]) == 1
    assert capsys.readouterr().out == ""
    fault.stop()
    for words in (["symbols", "--out", str(out)], ["symbols"], ["gaps", *RANGE[:2], "--start", RANGE[2]]):
        assert main([*words, *where]) == 0
    cells = [cell for line in (capsys.readouterr().out + out.read_text()).splitlines() for cell in line.split(",")]
    assert len(cells) > 100
    assert [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")] == []


@pytest.mark.fault("F06")
def test_text_that_a_spreadsheet_would_run_is_prefixed_and_numbers_are_not() -> None:
    frame = pd.DataFrame({"symbol": ["=1+1", "+1", "-1", "@a", "BTC/USDT"], "value": [-1.5, 2.0, -3.0, 0.0, -1e-9]})
    lines = table_csv(frame).splitlines()
    assert lines == ["symbol,value", "'=1+1,-1.5", "'+1,2.0", "'-1,-3.0", "'@a,0.0", "BTC/USDT,-1e-09"]


@pytest.mark.fault("F04")
def test_a_symbol_that_is_a_path_leaves_no_file_anywhere(world: World, tmp_path: Path) -> None:
    names = ["../../x", "/etc/x", "C:\\x", "a\0b", "A" * 300, "..", ".", "~", "a\\b", "BTC/../x", "%2e%2e", "x.", "-rf",
             "CON/", "a:b", "\n", "a|b", "\u202e", "_", "BTC/USDT/..", "", " ", "a*", "a?", '"', "<x>", "a b", "a,b",
             "=1+1", "@a"]  # fmt: skip
    assert len(names) >= 30
    target = tmp_path / "out"
    fetcher = world.fetcher()
    before = set(tmp_path.rglob("*"))
    for name in names:
        for call in (
            lambda name=name: fetcher.export(name, *RANGE[1:], path=target),
            lambda name=name: fetcher.fetch(name, *RANGE[1:]),
        ):
            with pytest.raises(InputError) as raised:
                call()
            assert str(raised.value).isprintable()
    assert not target.exists()
    assert {path for path in tmp_path.rglob("*") if path not in before and world.folder not in path.parents} <= {
        world.folder
    }
    assert world.asked("") == []


@pytest.mark.slow
@pytest.mark.fault("F04", "F05")
def test_names_of_devices_and_of_other_scripts_are_files_inside_the_folder(world: World, tmp_path: Path) -> None:
    def is_strange(path: str, params: Mapping[str, str]) -> bool:
        return "klines" in path and params.get("symbol") != "BTCUSDT"

    world.exchange.fail(faults.body(b"[]"), times=None, match=is_strange)
    fetcher = world.fetcher(source="rest")
    made, said = [], []
    for symbol in ("CON", "nul", "com1", "LPT9", "币安人生USDT", "BTC/USDT", "btc-usdt", "con/usdt"):
        for timeframe in ("1m", "1M"):
            try:
                end = "2024-02-01" if timeframe == "1M" else "2024-01-02"
                made.append(fetcher.export(symbol, timeframe, "2024-01-01", end, path=tmp_path / "out"))
            except CandleFetcherError as error:
                said.append(str(error))
    assert "".join(said).isprintable()
    names = {path.name for path in made}
    assert {path.parent for path in made} <= {tmp_path / "out"}
    assert len({name.casefold() for name in names}) == len(names) >= 8
    assert not {Path(name).stem.casefold() for name in names} & {"con", "nul", "com1", "lpt9"}
