"""Reads one reply from a connection, whole: status line, headers and body.

A body is complete or it is an error: its length is checked, the last chunk must be empty, and gzip must reach its end.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import Any, NamedTuple

from candle_fetcher.core.errors import ReplyError, TransportError
from candle_fetcher.net.exchange import Exchange

# Room for status line, headers and chunk sizes beside the body.
_FRAMING_BYTES = 2**20
_BUFFER_BYTES = 2**16
_PIECE_BYTES = 2**18
_MOST_LINE_BYTES = 2**16
_MOST_HEADERS = 100
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t][^\r\n]*)?\r?\n")
_HEADER_NAME = re.compile(r"[!-9;-~]+")
_BAD_IN_VALUE = re.compile(r"[\r\0]")
_LENGTH = re.compile(r"[0-9]{1,18}")
# A negative size is matched too, so that it is refused as too large: it means a body without an end.
_CHUNK_SIZE = re.compile(rb"[ \t]*(-?[0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LINE_ENDS = (b"\r\n", b"\n")


class Head(NamedTuple):
    """Status and headers of a reply. `closes` says that the server closes the connection after it."""

    status: int
    headers: dict[str, str]
    closes: bool


class ReceivedBytes(io.RawIOBase):
    """The bytes that a socket receives for one exchange, read under its deadline and its size cap."""

    def __init__(self, sock: Any, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        exchange = self._exchange
        self._sock.settimeout(exchange.left_s())
        try:
            count: int = self._sock.recv_into(into)
        except TimeoutError as error:
            raise exchange.timeout() from error
        if count == 0:
            exchange.has_ended = True
        exchange.received_bytes += count
        if exchange.received_bytes > exchange.max_body_bytes + _FRAMING_BYTES:
            raise exchange.too_large()
        return count


class Stream(io.BufferedReader):
    """A reader of what a socket receives for one exchange."""

    def __init__(self, sock: Any, exchange: Exchange) -> None:
        super().__init__(ReceivedBytes(sock, exchange), _BUFFER_BYTES)


def read_head(stream: Stream, exchange: Exchange) -> Head:
    """Return the status and the headers of the reply, after those of any "100 Continue".

    Header names are in lower case; values of one name are joined by ", ".
    """
    while True:
        line = stream.readline(_MOST_LINE_BYTES)
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            if exchange.has_ended and not line.endswith(b"\n"):
                raise exchange.closed_early()
            raise exchange.malformed("the status line is malformed")
        headers = _read_headers(stream, exchange)
        status = int(match[2])
        if status != 100:
            break
    encoding = headers.get("transfer-encoding")
    if encoding is not None and encoding.lower() != "chunked":
        shown = exchange.keys.hide(ascii(encoding))
        raise ReplyError(f"{exchange.where}: expected the transfer encoding chunked or none, got {shown:.60}")
    length = headers.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        lengths = sorted(set(length.split(", ")))
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            shown = exchange.keys.hide(ascii(lengths))
            raise ReplyError(f"{exchange.where}: expected one number as Content-Length, got {shown:.60}")
        headers["content-length"] = lengths[0]
    connection = headers.get("connection", "").lower()
    closes = "close" in connection or (match[1] == b"0" and "keep-alive" not in connection)
    return Head(status, headers, closes or (encoding is None and length is None and status != 204))


def _read_headers(stream: Stream, exchange: Exchange) -> dict[str, str]:
    found: dict[str, str] = {}
    last = ""
    for _ in range(_MOST_HEADERS + 1):
        line = stream.readline(_MOST_LINE_BYTES)
        if line in _LINE_ENDS:
            return found
        if not line.endswith(b"\n"):
            if exchange.has_ended:
                raise exchange.closed_early()
            break
        text, separator = line.decode("latin-1"), ", "
        name, colon, value = text.partition(":")
        if text[0] in " \t" and last:  # the value before goes on
            name, colon, value, separator = last, ":", text, " "
        value = value.strip(" \t\r\n")
        if not colon or not _HEADER_NAME.fullmatch(name) or _BAD_IN_VALUE.search(value):
            break
        last = name.lower()
        found[last] = f"{found[last]}{separator}{value}" if last in found else value
    raise exchange.malformed("the headers are malformed")


def read_body(stream: Stream, head: Head, exchange: Exchange) -> bytes:
    """Return the body as on the wire, whole: by its length, by its chunks, or up to the end of the stream.

    Raises TransportError where it is cut, ReplyError where it is larger than the cap or its chunks are malformed.
    """
    if head.status == 204:
        return b""
    if "transfer-encoding" in head.headers:
        return _read_chunks(stream, exchange)
    if "content-length" in head.headers:
        length = int(head.headers["content-length"])
        if length > exchange.max_body_bytes:
            raise exchange.too_large()
        body = stream.read(length)
        if len(body) != length:
            raise TransportError(f"{exchange.where}: the body was cut after {len(body):,} of {length:,} bytes")
        return body
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > exchange.max_body_bytes:
            raise exchange.too_large()
    return b"".join(pieces)


def _read_chunks(stream: Stream, exchange: Exchange) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        line = stream.readline(_MOST_LINE_BYTES)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise _broken(line, size, exchange)
        left = int(match[1], 16)
        if left == 0:
            break
        size += left
        if left < 0 or size > exchange.max_body_bytes:
            raise exchange.too_large()
        piece = stream.read(left)
        end = stream.readline(2)
        if len(piece) != left or end not in _LINE_ENDS:
            raise _broken(end, size - left + len(piece), exchange)
        pieces.append(piece)
    for _ in range(_MOST_HEADERS + 1):
        line = stream.readline(_MOST_LINE_BYTES)
        if line in _LINE_ENDS:
            return b"".join(pieces)
        if not line.endswith(b"\n"):
            break
    raise _broken(line, size, exchange)


def _broken(line: bytes, size: int, exchange: Exchange) -> TransportError | ReplyError:
    """Return the error for chunks that stop in this line, after `size` bytes of the body."""
    if exchange.has_ended and not line.endswith(b"\n"):
        return exchange.cut_off(size)
    return exchange.malformed("the chunks of the body are malformed")


def decode_body(body: bytes, head: Head, exchange: Exchange) -> bytes:
    """Return the body without its content encoding. Only gzip is requested, so that any other encoding is an error."""
    encoding = head.headers.get("content-encoding", "").lower()
    if encoding in ("", "identity") or head.status == 204:
        return body
    if encoding not in ("gzip", "x-gzip"):
        shown = exchange.keys.hide(encoding)[:40]
        raise ReplyError(f"{exchange.where}: expected the content encoding gzip or none, got {shown!a}")
    unzip = zlib.decompressobj(31)
    try:
        decoded = unzip.decompress(body, exchange.max_body_bytes + 1)
    except zlib.error as error:
        raise ReplyError(f"{exchange.where}: the body is not valid gzip ({error})") from error
    if len(decoded) > exchange.max_body_bytes:
        raise exchange.too_large()
    if not unzip.eof:
        raise exchange.cut_off(len(body))
    if unzip.unused_data:
        raise ReplyError(f"{exchange.where}: expected no bytes after the gzip stream, got {len(unzip.unused_data):,}")
    return decoded
