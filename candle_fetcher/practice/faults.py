"""Faults that the practice exchange shows on request: what is done to one reply on its way to the client.

    exchange.fail(faults.status(500), times=2, match="/klines")
    exchange.fail(faults.cut(0.5))

An action gets the connection and the reply that was due. It returns whether the connection stays open; most
actions close it.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Headers = Sequence[tuple[str, str]]
Params = Mapping[str, str]
Match = str | Callable[[str, Params], bool] | None


class ServedReply(NamedTuple):
    """A whole reply before it is framed; Content-Length and Connection are added on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def head(self, *, length: int | None = None, extra: Headers = (), without: Sequence[str] = ()) -> bytes:
        """Return status line and headers with the blank line; `length` None leaves Content-Length out."""
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name not in without]
        lines += [f"{name}: {value}" for name, value in extra]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def whole(self) -> bytes:
        """Return head and body, properly framed."""
        return self.head(length=len(self.body)) + self.body


_REASONS = {
    101: "Switching Protocols", 200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 418: "I'm a teapot", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


class FaultConnection(Protocol):
    """The connection as an action sees it."""

    def send(self, data: bytes) -> None:
        """Send all of the data. Raises OSError where the client has closed the connection."""

    def reset(self) -> None:
        """End the connection with a RST."""

    def wait(self, seconds: float) -> bool:
        """Wait; return True at once when the exchange closes."""


class FaultAction(NamedTuple):
    """What is done to a reply; `act` returns whether the connection may be used again."""

    name: str
    act: Callable[[FaultConnection, ServedReply], bool]


class Turn:
    """The requests that get a fault: the first `after` requests that match pass, the next `times` get it (None:
    all)."""

    def __init__(self, *, times: int | None = 1, match: Match = None, after: int = 0) -> None:
        self.hits = 0
        self._left = times
        self._match = match
        self._after = after
        self._lock = threading.Lock()

    def matches(self, path: str, params: Params) -> bool:
        """Return whether the fault is for such requests."""
        if isinstance(self._match, str):
            return self._match in path
        return self._match is None or self._match(path, params)

    @property
    def is_on(self) -> bool:
        """Whether the next request that matches gets it."""
        with self._lock:
            return self._after == 0 and self._left != 0

    def take(self, path: str, params: Params) -> bool:
        """Return whether this request gets the fault, and count it."""
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
        """End the fault: no further request gets it."""
        with self._lock:
            self._left = 0


class Fault(Turn):
    """An action, and the requests that get it."""

    def __init__(self, action: FaultAction, *, times: int | None = 1, match: Match = None, after: int = 0) -> None:
        super().__init__(times=times, match=match, after=after)
        self.action = action


def _instead(name: str, made: Callable[[ServedReply], ServedReply]) -> FaultAction:
    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        wire.send(made(reply).whole())
        return True

    return FaultAction(name, act)


def _then_close(name: str, sent: Callable[[ServedReply], Sequence[bytes]]) -> FaultAction:
    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        for data in sent(reply):
            wire.send(data)
        return False

    return FaultAction(name, act)


def _typed(reply: ServedReply, content_type: str) -> tuple[tuple[str, str], ...]:
    return (
        *(pair for pair in reply.headers if pair[0] not in ("Content-Type", "Content-Encoding")),
        ("Content-Type", content_type),
    )


# Statuses


def status(code: int, body: bytes = b"", headers: Headers = ()) -> FaultAction:
    """Answer with this status, body and additional headers."""
    kind = "text/html" if body.lstrip()[:1] == b"<" else "application/json;charset=UTF-8"
    return _instead(f"status {code}", lambda reply: ServedReply(code, (*_typed(reply, kind), *headers), body))


def _error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "msg": message}, separators=(",", ":")).encode()


def rate_limited(retry_after: str | int | None = 1) -> FaultAction:
    """Answer 429 with the JSON of the exchange; Retry-After as given, left out where None."""
    message = "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."
    body = _error(-1003, message)
    return status(429, body, () if retry_after is None else (("Retry-After", str(retry_after)),))


def banned(until_ms: int, retry_after_s: int = 120) -> FaultAction:
    """Answer 418 with the end of the ban in the message."""
    message = f"Way too much request weight used; IP banned until {until_ms}."
    return status(
        418,
        _error(-1003, message),
        (("Retry-After", str(retry_after_s)),),
    )


def forbidden() -> FaultAction:
    """Answer 403 with the HTML page of the firewall."""
    return status(
        403,
        b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body><h1>403 Forbidden</h1></body>\r\n</html>\r\n",
    )


def restricted() -> FaultAction:
    """Answer 451 for a restricted location, with pretty-printed JSON of code 0."""
    message = "Service unavailable from a restricted location according to 'b. Eligibility' in https://www.binance.com/en/terms."
    return status(451, json.dumps({"code": 0, "msg": message}, indent=2).encode())


def overloaded() -> FaultAction:
    """Answer 503 with -1008."""
    return status(
        503,
        _error(-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    )


def redirect(url: str) -> FaultAction:
    """Answer 302 to another address."""
    return status(302, b"", (("Location", url),))


# Connections


def reset() -> FaultAction:
    """End the connection with a RST instead of a reply."""

    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        wire.reset()
        return False

    return FaultAction("reset", act)


def close_before_reply() -> FaultAction:
    """Close the connection instead of a reply."""
    return _then_close("close before reply", lambda reply: ())


def close_after_reply() -> FaultAction:
    """Close the connection after a whole reply that does not announce it."""
    return _then_close("close after reply", lambda reply: (reply.whole(),))


def hang(seconds: float) -> FaultAction:
    """Send nothing for so long, then the reply; end at once when the exchange closes."""

    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        if wire.wait(seconds):
            return False
        wire.send(reply.whole())
        return True

    return FaultAction("hang", act)


def drip(bytes_per_s: float) -> FaultAction:
    """Send the head at once, the body byte by byte."""
    return _dripping("drip", bytes_per_s, lambda reply: (reply.head(length=len(reply.body)), reply.body))


def drip_headers(bytes_per_s: float) -> FaultAction:
    """Send status line and headers byte by byte, the body after them."""
    return _dripping("drip headers", bytes_per_s, lambda reply: (b"", reply.whole()))


def _dripping(name: str, bytes_per_s: float, split: Callable[[ServedReply], tuple[bytes, bytes]]) -> FaultAction:
    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        at_once, slowly = split(reply)
        wire.send(at_once)
        for at in range(len(slowly)):
            wire.send(slowly[at : at + 1])
            if wire.wait(1 / bytes_per_s):
                return False
        return True

    return FaultAction(name, act)


# Framing


def _kept(size: int, part: int | float) -> int:
    """Return how many bytes stay: a count where `kept` is an int, else a fraction; at least one byte is lost."""
    return max(0, min(part if isinstance(part, int) else int(size * part), size - 1))


def cut(part: int | float) -> FaultAction:
    """End the body after so many bytes (int) or that part (float), while Content-Length says more."""
    return _then_close(
        "cut", lambda reply: (reply.head(length=len(reply.body)), reply.body[: _kept(len(reply.body), part)])
    )


def cut_unframed(part: int | float) -> FaultAction:
    """Do the same without Content-Length: the end of the connection is the end of the body."""
    close = (("Connection", "close"),)
    return _then_close(
        "cut unframed", lambda reply: (reply.head(extra=close), reply.body[: _kept(len(reply.body), part)])
    )


def cut_chunked(part: int | float, *, at_border: bool = False) -> FaultAction:
    """End a chunked body inside a chunk, or between two chunks without the last one."""

    def sent(reply: ServedReply) -> Sequence[bytes]:
        kept = reply.body[: _kept(len(reply.body), part)]
        said = len(kept) if at_border else len(kept) + 1000
        return reply.head(extra=(("Transfer-Encoding", "chunked"),)), b"%x\r\n" % said + kept + (
            b"\r\n" if at_border else b""
        )

    return _then_close("cut chunked", sent)


def no_headers() -> FaultAction:
    """Send the body alone, without status line and headers."""
    return _then_close("no headers", lambda reply: (reply.body,))


def gzip_cut(part: int | float) -> FaultAction:
    """End a gzip stream early, with a right Content-Length."""

    def made(reply: ServedReply) -> ServedReply:
        packed = gzip.compress(_plain(reply), 1)
        return _packed(reply, packed[: _kept(len(packed), part)])

    return _instead("gzip cut", made)


def bad_gzip(kind: str = "crc") -> FaultAction:
    """Send a bad gzip body: `crc` wrong, `plain` text, `bare` deflate, `twice` two members, `nested` marked as packed
    twice."""

    def made(reply: ServedReply) -> ServedReply:
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


def _plain(reply: ServedReply) -> bytes:
    return gzip.decompress(reply.body) if ("Content-Encoding", "gzip") in reply.headers else reply.body


def _packed(reply: ServedReply, body: bytes, encoding: str = "gzip") -> ServedReply:
    headers = tuple(pair for pair in reply.headers if pair[0] != "Content-Encoding")
    return ServedReply(reply.status, (*headers, ("Content-Encoding", encoding)), body)


# Bodies


def html_200(content_type: str = "text/html") -> FaultAction:
    """Answer with a maintenance page and status 200."""
    page = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>We will be back soon</body></html>\n"
    return _instead("html 200", lambda reply: ServedReply(200, _typed(reply, content_type), page))


def body(data: bytes) -> FaultAction:
    """Answer with another body and status 200."""
    return _instead("body", lambda reply: ServedReply(200, _typed(reply, "application/json;charset=UTF-8"), data))


def transform(change: Callable[[bytes], bytes]) -> FaultAction:
    """Change the body of the reply: shuffled, doubled, with wrong numbers …"""

    def made(reply: ServedReply) -> ServedReply:
        return ServedReply(reply.status, _typed(reply, "application/json;charset=UTF-8"), change(_plain(reply)))

    return _instead("transform", made)


def fields(**values: object) -> FaultAction:
    """Change these fields wherever they stand in a JSON body: `bidPrice="0.00000000"` takes the bids away,
    `latestQuote=None` the book, and `closeTime=…` makes a quote old."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(one) for one in value]
        if isinstance(value, dict):
            return {name: values[name] if name in values else changed(one) for name, one in value.items()}
        return value

    return transform(lambda body: json.dumps(changed(json.loads(body)), separators=(",", ":")).encode())


def endless() -> FaultAction:
    """Send a chunked body that never ends."""
    block = (
        b'[1502942400000,"4261.48","4485.39","4200.74","4285.08","795.15",1503014399999,"1.0",1,"1.0","1.0","0"],' * 500
    )

    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        wire.send(reply.head(extra=(("Transfer-Encoding", "chunked"),)) + b"1\r\n[\r\n")
        while not wire.wait(0):
            wire.send(b"%x\r\n" % len(block) + block + b"\r\n")
        return False

    return FaultAction("endless", act)


def bomb(unpacked_bytes: int = 200_000_000) -> FaultAction:
    """Send a small gzip body that unpacks to a JSON list of so many bytes."""

    def made(reply: ServedReply) -> ServedReply:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = b"0," * 500_000
        parts = [packer.compress(b"[")]
        parts += [packer.compress(block) for _ in range(unpacked_bytes // len(block))]
        return _packed(reply, b"".join(parts) + packer.compress(b"0]") + packer.flush())

    return _instead("bomb", made)
