"""HTTP/1.1 on a loopback socket: keep-alive, one thread per connection, few connections, nothing left after close()."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

_MOST_CONNECTIONS = 200
_MOST_HEAD_BYTES = 65_536
_RST = struct.pack("ii", 1, 0)


class Incoming(NamedTuple):
    """A request as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class ClientConnection:
    """One client. What a fault may do to it: send, reset, wait."""

    def __init__(self, client: socket.socket, closing: threading.Event) -> None:
        self._socket = client
        self._closing = closing
        self._buffer = b""
        self.idle_since: float | None = time.monotonic()

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError where the client has closed the connection."""
        self._socket.sendall(data)

    def reset(self) -> None:
        """End the connection with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Wait; return True at once when the server closes."""
        return self._closing.wait(seconds) if seconds > 0 else self._closing.is_set()

    def shut(self) -> None:
        """Wake the threads that read or write here."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def poll(self, seconds: float) -> bytes | None:
        """Return bytes that came, b"" where the client has closed the connection, None where none came in time."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(65_536)
        except TimeoutError:
            return None
        finally:
            self._socket.settimeout(None)

    def receive(self) -> Incoming | None:
        """Return the next request; None where the client has closed the connection, or sent no HTTP request."""
        self.idle_since = time.monotonic()
        head = self._read_head()
        self.idle_since = None
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return None
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if words[2] == "HTTP/1.0":
            headers.setdefault("connection", "close")
        length = headers.get("content-length", "0")
        self._skip(int(length) if length.isdigit() else 0)
        return Incoming(words[0], words[1], headers)

    def _read_head(self) -> bytes | None:
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if found:
                self._buffer = rest
                return head
            if len(self._buffer) > _MOST_HEAD_BYTES:
                return None
            data = self._socket.recv(65_536)
            if not data:
                return None
            self._buffer += data

    def _skip(self, count: int) -> None:
        while count > len(self._buffer):
            count -= len(self._buffer)
            self._buffer = self._socket.recv(65_536)
            if not self._buffer:
                return
        self._buffer = self._buffer[count:]


class HttpServer:
    """Listens, and hands every request to `respond`, which returns whether the connection goes on."""

    def __init__(self, host: str, port: int, respond: Callable[[ClientConnection, Incoming], bool]) -> None:
        self._respond = respond
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[ClientConnection, threading.Thread] = {}
        self._listener = socket.create_server((host, port), backlog=256)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="practice-exchange", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection and thread, and wait for them."""
        if self._closing.is_set():
            return
        self._closing.set()
        # A connection to ourselves wakes accept() on every system.
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=1).close()
        self._thread.join()
        self._listener.close()
        with self._lock:
            left = dict(self._connections)
        for connection in left:
            connection.shut()
        for thread in left.values():
            if thread is not threading.current_thread():
                thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            if self._closing.is_set():
                client.close()
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ClientConnection(client, self._closing)
            thread = threading.Thread(target=self._serve, args=(connection,), name="practice-connection", daemon=True)
            with self._lock:
                self._connections[connection] = thread
                full = len(self._connections) > _MOST_CONNECTIONS
            thread.start()
            if full:
                self._make_room()

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest; wait a moment where all are busy."""
        with self._lock:
            idle = [
                (since, connection) for connection in self._connections if (since := connection.idle_since) is not None
            ]
        if idle:
            min(idle, key=lambda pair: pair[0])[1].shut()
        else:
            self._closing.wait(0.01)

    def _serve(self, connection: ClientConnection) -> None:
        try:
            while not self._closing.is_set():
                incoming = connection.receive()
                if incoming is None or not self._respond(connection, incoming):
                    break
                if incoming.headers.get("connection", "").lower() == "close":
                    break
        except OSError:
            pass  # the client has gone
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)
