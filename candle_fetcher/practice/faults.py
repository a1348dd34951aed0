"""Faults that the practice exchange shows on request: what is done to one reply on its way to the client.

    exchange.fail(faults.status(500), times=2, match="/klines")
    exchange.fail(faults.cut(0.5))

An action gets the wire and the reply that was due. It says whether the connection may go on; most end it.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, str]]
Params = Mapping[str, str]
Match = str | Callable[[str, Params], bool] | None


class Reply(NamedTuple):
    """A whole reply before it is framed; Content-Length and Connection are added on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def head(self, *, length: int | None = None, extra: Headers = (), without: Sequence[str] = ()) -> bytes:
        """Status line and headers with the blank line; `length` None leaves Content-Length out."""
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name not in without]
        lines += [f"{name}: {value}" for name, value in extra]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def whole(self) -> bytes:
        """Head and body, properly framed."""
        return self.head(length=len(self.body)) + self.body


_REASONS = {
    200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout", 418: "I'm a teapot", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


class Wire(Protocol):
    """The connection as an action sees it."""

    def send(self, data: bytes) -> None:
        """Sends all of it. Raises OSError where the client is gone."""

    def reset(self) -> None:
        """Ends the connection with a RST."""

    def wait(self, seconds: float) -> bool:
        """Waits; True at once when the exchange closes."""


class Action(NamedTuple):
    """What is done to a reply; `act` returns whether the connection may be used again."""

    name: str
    act: Callable[[Wire, Reply], bool]


class Turn:
    """For whom something is meant: the first `after` requests that match pass, the next `times` get it (None: all)."""

    def __init__(self, *, times: int | None = 1, match: Match = None, after: int = 0) -> None:
        self.hits = 0
        self._left = times
        self._match = match
        self._after = after
        self._lock = threading.Lock()

    def matches(self, path: str, params: Params) -> bool:
        """Whether it is meant for such requests."""
        if isinstance(self._match, str):
            return self._match in path
        return self._match is None or self._match(path, params)

    @property
    def is_on(self) -> bool:
        """Whether the next request that matches gets it."""
        with self._lock:
            return self._after == 0 and self._left != 0

    def take(self, path: str, params: Params) -> bool:
        """Whether this request gets it; counts it."""
        if not self.matches(path, params):
            return False
        with self._lock:
            if self._after > 0:
                self._after -= 1
                return False
            if self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            self.hits += 1
            return True

    def stop(self) -> None:
        """No request gets it from now on."""
        with self._lock:
            self._left = 0


class Fault(Turn):
    """An action, and the requests that get it."""

    def __init__(self, action: Action, *, times: int | None = 1, match: Match = None, after: int = 0) -> None:
        super().__init__(times=times, match=match, after=after)
        self.action = action


def _instead(name: str, made: Callable[[Reply], Reply]) -> Action:
    def act(wire: Wire, reply: Reply) -> bool:
        wire.send(made(reply).whole())
        return True

    return Action(name, act)


def _then_close(name: str, sent: Callable[[Reply], Sequence[bytes]]) -> Action:
    def act(wire: Wire, reply: Reply) -> bool:
        for data in sent(reply):
            wire.send(data)
        return False

    return Action(name, act)


def _typed(reply: Reply, content_type: str) -> tuple[tuple[str, str], ...]:
    return (
        *(pair for pair in reply.headers if pair[0] not in ("Content-Type", "Content-Encoding")),
        ("Content-Type", content_type),
    )


# Statuses


def status(code: int, body: bytes = b"", headers: Headers = ()) -> Action:
    """A reply with this status, body and additional headers."""
    kind = "text/html" if body.lstrip()[:1] == b"<" else "application/json;charset=UTF-8"
    return _instead(f"status {code}", lambda reply: Reply(code, (*_typed(reply, kind), *headers), body))


def _error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "msg": message}, separators=(",", ":")).encode()


def rate_limited(retry_after: str | int | None = 1) -> Action:
    """429 with the JSON of the exchange; Retry-After as given, left out where None."""
    message = "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."
    body = _error(-1003, message)
    return status(429, body, () if retry_after is None else (("Retry-After", str(retry_after)),))


def banned(until_ms: int, retry_after_s: int = 120) -> Action:
    """418 with the end of the ban in the message."""
    message = f"Way too much request weight used; IP banned until {until_ms}."
    return status(
        418,
        _error(-1003, message),
        (("Retry-After", str(retry_after_s)),),
    )


def forbidden() -> Action:
    """403 of the firewall, an HTML page."""
    return status(
        403,
        b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body><h1>403 Forbidden</h1></body>\r\n</html>\r\n",
    )


def restricted() -> Action:
    """451 for a restricted location, pretty-printed JSON with code 0."""
    message = "Service unavailable from a restricted location according to 'b. Eligibility' in https://www.binance.com/en/terms."
    return status(451, json.dumps({"code": 0, "msg": message}, indent=2).encode())


def overloaded() -> Action:
    """503 with -1008."""
    return status(
        503,
        _error(-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    )


def redirect(url: str) -> Action:
    """302 to another address."""
    return status(302, b"", (("Location", url),))


# Connections


def reset() -> Action:
    """The connection ends with a RST instead of a reply."""

    def act(wire: Wire, reply: Reply) -> bool:
        wire.reset()
        return False

    return Action("reset", act)


def close_before_reply() -> Action:
    """The connection is closed instead of a reply."""
    return _then_close("close before reply", lambda reply: ())


def close_after_reply() -> Action:
    """A whole reply that does not announce that the connection is closed after it."""
    return _then_close("close after reply", lambda reply: (reply.whole(),))


def hang(seconds: float) -> Action:
    """Nothing for so long, then the reply; ends at once when the exchange closes."""

    def act(wire: Wire, reply: Reply) -> bool:
        if wire.wait(seconds):
            return False
        wire.send(reply.whole())
        return True

    return Action("hang", act)


def drip(bytes_per_s: float) -> Action:
    """The head at once, the body byte by byte."""
    return _dripping("drip", bytes_per_s, lambda reply: (reply.head(length=len(reply.body)), reply.body))


def drip_headers(bytes_per_s: float) -> Action:
    """Status line and headers byte by byte, the body after them."""
    return _dripping("drip headers", bytes_per_s, lambda reply: (b"", reply.whole()))


def _dripping(name: str, bytes_per_s: float, split: Callable[[Reply], tuple[bytes, bytes]]) -> Action:
    def act(wire: Wire, reply: Reply) -> bool:
        at_once, slowly = split(reply)
        wire.send(at_once)
        for at in range(len(slowly)):
            wire.send(slowly[at : at + 1])
            if wire.wait(1 / bytes_per_s):
                return False
        return True

    return Action(name, act)


# Framing


def _kept(size: int, part: int | float) -> int:
    """How many bytes stay: a count where it is an int, else a fraction; at least one is lost."""
    return max(0, min(part if isinstance(part, int) else int(size * part), size - 1))


def cut(part: int | float) -> Action:
    """A body that ends after so many bytes (int) or that part (float) while Content-Length says more."""
    return _then_close(
        "cut", lambda reply: (reply.head(length=len(reply.body)), reply.body[: _kept(len(reply.body), part)])
    )


def cut_unframed(part: int | float) -> Action:
    """The same without Content-Length: the end of the connection is the end of the body."""
    close = (("Connection", "close"),)
    return _then_close(
        "cut unframed", lambda reply: (reply.head(extra=close), reply.body[: _kept(len(reply.body), part)])
    )


def cut_chunked(part: int | float, *, at_border: bool = False) -> Action:
    """A chunked body that ends inside a chunk, or between two chunks without the last one."""

    def sent(reply: Reply) -> Sequence[bytes]:
        kept = reply.body[: _kept(len(reply.body), part)]
        said = len(kept) if at_border else len(kept) + 1000
        return reply.head(extra=(("Transfer-Encoding", "chunked"),)), b"%x\r\n" % said + kept + (
            b"\r\n" if at_border else b""
        )

    return _then_close("cut chunked", sent)


def no_headers() -> Action:
    """The body alone, without status line and headers."""
    return _then_close("no headers", lambda reply: (reply.body,))


def gzip_cut(part: int | float) -> Action:
    """A gzip stream that ends early although Content-Length is right."""

    def made(reply: Reply) -> Reply:
        packed = gzip.compress(_plain(reply), 1)
        return _packed(reply, packed[: _kept(len(packed), part)])

    return _instead("gzip cut", made)


def bad_gzip(kind: str = "crc") -> Action:
    """Kinds: `crc` wrong, `plain` text, `bare` deflate, `twice` two members, `nested` said to be packed twice."""

    def made(reply: Reply) -> Reply:
        body = _plain(reply)
        packed = gzip.compress(body, 1)
        if kind == "nested":
            return _packed(reply, packed, "gzip, gzip")
        bare = zlib.compressobj(1, zlib.DEFLATED, -15)
        variants = {
            "crc": packed[:-8] + bytes(byte ^ 0xFF for byte in packed[-8:-4]) + packed[-4:],
            "plain": body,
            "bare": bare.compress(body) + bare.flush(),
            "twice": packed + gzip.compress(body, 1),
        }
        return _packed(reply, variants[kind])

    if kind not in ("crc", "plain", "bare", "twice", "nested"):
        raise ValueError(f"unknown kind of bad gzip {kind!r}; expected crc, plain, bare, twice or nested")
    return _instead(f"bad gzip ({kind})", made)


def _plain(reply: Reply) -> bytes:
    return gzip.decompress(reply.body) if ("Content-Encoding", "gzip") in reply.headers else reply.body


def _packed(reply: Reply, body: bytes, encoding: str = "gzip") -> Reply:
    headers = tuple(pair for pair in reply.headers if pair[0] != "Content-Encoding")
    return Reply(reply.status, (*headers, ("Content-Encoding", encoding)), body)


# Bodies


def html_200(content_type: str = "text/html") -> Action:
    """A maintenance page with status 200."""
    page = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>We will be back soon</body></html>\n"
    return _instead("html 200", lambda reply: Reply(200, _typed(reply, content_type), page))


def body(data: bytes) -> Action:
    """Another body with status 200."""
    return _instead("body", lambda reply: Reply(200, _typed(reply, "application/json;charset=UTF-8"), data))


def transform(change: Callable[[bytes], bytes]) -> Action:
    """The reply with its body changed: shuffled, doubled, with numbers that lie …"""

    def made(reply: Reply) -> Reply:
        return Reply(reply.status, _typed(reply, "application/json;charset=UTF-8"), change(_plain(reply)))

    return _instead("transform", made)


def endless() -> Action:
    """A chunked body that never ends."""
    block = (
        b'[1502942400000,"4261.48","4485.39","4200.74","4285.08","795.15",1503014399999,"1.0",1,"1.0","1.0","0"],' * 500
    )

    def act(wire: Wire, reply: Reply) -> bool:
        wire.send(reply.head(extra=(("Transfer-Encoding", "chunked"),)) + b"1\r\n[\r\n")
        while not wire.wait(0):
            wire.send(b"%x\r\n" % len(block) + block + b"\r\n")
        return False

    return Action("endless", act)


def bomb(unpacked_bytes: int = 200_000_000) -> Action:
    """A small gzip body that unpacks to a JSON list of so many bytes."""

    def made(reply: Reply) -> Reply:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = b"0," * 500_000
        parts = [packer.compress(b"[")]
        parts += [packer.compress(block) for _ in range(unpacked_bytes // len(block))]
        return _packed(reply, b"".join(parts) + packer.compress(b"0]") + packer.flush())

    return _instead("bomb", made)
