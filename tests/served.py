"""The service on a port of this machine, in front of a practice exchange; and requests byte by byte."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

from world import wait_until

from candle_fetcher import CandleFetcher
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.service import create_app

# What a client sends to turn a connection into a WebSocket.
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Answer(NamedTuple):
    """A reply: its status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Served:
    """An exchange, a fetcher that asks it, and the service over that fetcher, until it is closed."""

    def __init__(
        self,
        folder: Path,
        *,
        exchange: PracticeExchange | None = None,
        urls: dict[str, str] | None = None,
        **words: Any,
    ) -> None:
        from candle_fetcher.service.server import _quiet_uvicorn
        from candle_fetcher.service.uvicorn_server import make_server

        self.exchange = exchange or PracticeExchange()
        if exchange is None:
            self.exchange.start()
        self.fetcher = CandleFetcher(
            base_urls=urls or self.exchange.base_urls,
            cache_dir=folder,
            progress=False,
            max_retries=0,
            network_threads=4,
        )
        self.app = create_app(self.fetcher, **words)
        self._quiet = _quiet_uvicorn()
        self._quiet.__enter__()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.server = make_server(self.app)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self._thread.start()
        wait_until(lambda: self.server.started)

    def close(self) -> None:
        """End the service, the fetcher and the exchange."""
        self.server.should_exit = True
        self._thread.join(20)
        self.listener.close()
        self.fetcher.close()
        self.exchange.close()
        self._quiet.__exit__(None, None, None)

    def connect(self) -> socket.socket:
        """Return a connection to the service."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def get(self, path: str, *headers: str, method: str = "GET", host: str | None = None, body: str = "") -> Answer:
        """Return the reply to one request on a connection of its own. `host` "" sends none."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {f'127.0.0.1:{self.port}' if host is None else host}"]
        if host == "":
            lines = lines[:1]
        if body:
            headers = (*headers, f"Content-Length: {len(body)}")
        text = "\r\n".join([*lines, "Connection: close", *headers, "", body])
        with self.connect() as connection:
            connection.sendall(text.encode())
            return read_answer(connection)

    def asked(self) -> int:
        """Return how many requests the exchange has had."""
        return len(self.exchange.requests)


def read_answer(connection: socket.socket) -> Answer:
    """Return the reply that comes until the other side ends the connection."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return parse_answer(data)


def parse_answer(data: bytes) -> Answer:
    """Return a whole reply as its parts."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        whole, left = b"", body
        while left:
            size, _, left = left.partition(b"\r\n")
            count = int(size, 16)
            if count == 0:
                break
            whole, left = whole + left[:count], left[count + 2 :]
        else:
            raise AssertionError("the reply ended before its end")
        body = whole
    return Answer(int(first.split()[1]), headers, body)
