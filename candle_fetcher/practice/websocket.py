"""The server side of RFC 6455: the handshake's answer, frames as bytes, and the messages in a client's bytes.

It is the practice exchange's own: the exchange needs no package that a user may lack, and its faults are frames that a
library refuses to send. The tests hold it against two other implementations.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_DATA, _CONTROL = (TEXT, BINARY), (CLOSE, PING, PONG)
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MOST_BYTES = 2**20


class WireMessage(NamedTuple):
    """A whole message, or a control frame, by its opcode. Fragments are joined, and masks are off."""

    opcode: int
    payload: bytes


class ProtocolFault(Exception):
    """The client's bytes are no frames of the protocol; `code` closes the connection."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def text(content: str) -> WireMessage:
    """Return a message of text."""
    return WireMessage(TEXT, content.encode())


def close(code: int, reason: str = "") -> WireMessage:
    """Return a close frame."""
    return WireMessage(CLOSE, code.to_bytes(2, "big") + reason.encode())


def is_upgrade(headers: Mapping[str, str]) -> bool:
    """Return whether a request asks for a WebSocket; names of headers are in lower case."""
    return headers.get("upgrade", "").lower() == "websocket" and "upgrade" in headers.get("connection", "").lower()


def accept(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...] | None:
    """Return the headers that a reply 101 has; None where the request is no handshake of version 13."""
    key = headers.get("sec-websocket-key", "")
    try:
        is_key = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        is_key = False
    if not is_key or headers.get("sec-websocket-version") != "13":
        return None
    digest = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()
    return ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", digest)


def head(opcode: int, length: int, *, is_last: bool = True) -> bytes:
    """Return what stands before a payload of that length, as a server sends it: without a mask."""
    first = bytes([(0x80 if is_last else 0) | opcode])
    if length < 126:
        return first + bytes([length])
    return first + (b"\x7e" + length.to_bytes(2, "big") if length < 2**16 else b"\x7f" + length.to_bytes(8, "big"))


def frame(message: WireMessage) -> bytes:
    """Return the message as one frame."""
    return head(message.opcode, len(message.payload)) + message.payload


def fragments(message: WireMessage, count: int) -> list[bytes]:
    """Return the message as so many frames; at least one byte of payload is in each but the last."""
    size = max(1, -(-len(message.payload) // count))
    parts = [message.payload[at : at + size] for at in range(0, len(message.payload), size)] or [b""]
    return [
        head(_CONTINUATION if number else message.opcode, len(part), is_last=number == len(parts) - 1) + part
        for number, part in enumerate(parts)
    ]


class WireReader:
    """Finds the messages in the bytes of a client, as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._opcode: int | None = None
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[WireMessage]:
        """Yield the messages and control frames that are whole by now. Raises ProtocolFault for other bytes."""
        self._buffer += data
        while (found := self._take()) is not None:
            is_last, opcode, payload = found
            if opcode in _CONTROL:
                if not is_last or len(payload) > 125:
                    raise ProtocolFault(1002, "a control frame is whole and has at most 125 bytes")
                yield WireMessage(opcode, payload)
                continue
            if (opcode == _CONTINUATION) != (self._opcode is not None):
                raise ProtocolFault(1002, "a continuation follows a fragment, and nothing else does")
            self._opcode = self._opcode or opcode
            self._parts.append(payload)
            if sum(map(len, self._parts)) > _MOST_BYTES:
                raise ProtocolFault(1009, "the message is too big")
            if is_last:
                message = WireMessage(self._opcode, b"".join(self._parts))
                self._opcode, self._parts = None, []
                yield message

    def _take(self) -> tuple[bool, int, bytes] | None:
        """Take one whole frame off the buffer; None where there is none yet."""
        have = self._buffer
        if len(have) < 2:
            return None
        opcode, length, at = have[0] & 0x0F, have[1] & 0x7F, 2
        if have[0] & 0x70 or opcode not in (_CONTINUATION, *_DATA, *_CONTROL):
            raise ProtocolFault(1002, "no such opcode, and no extensions")
        if not have[1] & 0x80:
            raise ProtocolFault(1002, "a client's frame has a mask")
        if length > 125:
            size = 2 if length == 126 else 8
            if len(have) < at + size:
                return None
            length, at = int.from_bytes(have[at : at + size], "big"), at + size
        if length > _MOST_BYTES:
            raise ProtocolFault(1009, "the message is too big")
        end = at + 4 + length
        if len(have) < end:
            return None
        mask = bytes(have[at : at + 4]) * (length // 4 + 1)
        masked = have[at + 4 : end]
        payload = (int.from_bytes(masked, "big") ^ int.from_bytes(mask[:length], "big")).to_bytes(length, "big")
        is_last = bool(have[0] & 0x80)
        del have[:end]
        return is_last, opcode, payload
