"""A WebSocket client on a bare socket, for tests of the practice exchange's streams: it shares no code with them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Got(NamedTuple):
    """A frame as it came."""

    is_last: bool
    opcode: int
    payload: bytes

    def json(self) -> Any:
        return json.loads(self.payload)


class Refused(Exception):
    """The handshake had another status than 101."""

    def __init__(self, status: int, head: str) -> None:
        super().__init__(head)
        self.status = status
        self.head = head


class StreamClient:
    """One connection. Pings are answered by hand, as everything else is done by hand."""

    def __init__(self, url: str, timeout_s: float = 10) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout_s)
        key = base64.b64encode(os.urandom(16)).decode()
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._socket.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.first = b""
        while b"\r\n\r\n" not in self.first:
            data = self._socket.recv(65_536)
            assert data, "the server closed the connection in the handshake"
            self.first += data
        head, _, self._rest = self.first.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status != 101:
            self._socket.close()
            raise Refused(status, head.decode("latin-1"))
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        assert b"Sec-WebSocket-Accept: " + accept in head

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, content: Any, opcode: int = TEXT, *, mask: bytes = b"\x01\x02\x03\x04") -> None:
        """Send one frame: text as it is, other values as JSON."""
        text = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
        payload = text if isinstance(text, bytes) else text.encode()
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self._socket.sendall(bytes([0x80 | opcode]) + size + mask + masked)

    def frame(self) -> Got | None:
        """The next frame; None where the server has closed the connection."""
        head = self._read(2)
        if head is None:
            return None
        length = head[1] & 0x7F
        if length > 125:
            more = self._read(2 if length == 126 else 8)
            if more is None:
                return None
            length = int.from_bytes(more, "big")
        payload = self._read(length)
        return None if payload is None else Got(bool(head[0] & 0x80), head[0] & 0x0F, payload)

    def json(self) -> Any:
        """The value of the next text; pings are answered on the way."""
        while (got := self.frame()) is not None:
            if got.opcode == PING:
                self.send(got.payload, PONG)
            elif got.opcode == TEXT:
                return got.json()
            else:
                raise AssertionError(f"a frame {got}")
        raise AssertionError("the server closed the connection")

    def ask(self, content: Any) -> Any:
        """The answer to a message; data before it is left out."""
        self.send(content)
        while True:
            value = self.json()
            if not isinstance(value, dict) or not {"stream", "e", "u"} & value.keys():
                return value

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        self._socket.settimeout(seconds)
        try:
            return not self._rest and not self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(10)

    def _read(self, count: int) -> bytes | None:
        while len(self._rest) < count:
            try:
                data = self._socket.recv(65_536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._rest += data
        data, self._rest = self._rest[:count], self._rest[count:]
        return data
