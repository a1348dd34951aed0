"""A server on this machine that speaks as a provider does: a function answers, and what was asked is kept."""

from __future__ import annotations

import datetime as dt
import email.utils
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from world import skip_waits

from candle_fetcher import CandleFetcher


class Asked(NamedTuple):
    """A request: the method, the path, the parameters of query or form, and the headers in lower case."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]


class Said(NamedTuple):
    """A reply to it."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Loopback:
    """The server, at a time that only moves when told, and fetchers that ask it by that time.

    `names` are those that the fetchers' base_urls lead here.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], answer: Callable[[Asked], Said], *, now: str) -> None:
        self.folder = folder
        self.now_s = dt.datetime.fromisoformat(f"{now}+00:00").timestamp()
        self.log: list[Asked] = []
        self._names = names
        self._fetchers: list[CandleFetcher] = []
        self.waits: list[float] = []  # of the fetchers' requests, in seconds; they pass at once
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                self._reply(path, query)

            def do_POST(self) -> None:
                self._reply(self.path, self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _reply(self, path: str, query: str) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                params = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
                asked = Asked(self.command, urllib.parse.unquote(path), params, headers)
                outer.log.append(asked)
                said = answer(asked)
                self.send_response_only(said.status)
                self.send_header("Date", email.utils.formatdate(outer.now_s, usegmt=True))
                self.send_header("Content-Length", str(len(said.body)))
                for header in said.headers:
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(said.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Loopback:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fetcher in self._fetchers:
            fetcher.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fetcher(self, **settings: Any) -> CandleFetcher:
        """A new fetcher on the folder, as another run of the program would make it."""
        host, port = self._server.server_address[:2]
        made = CandleFetcher(
            settings.pop("provider", self._names[0]),
            **{
                "base_urls": dict.fromkeys(self._names, f"http://{host!s}:{port}"),
                "cache_dir": self.folder,
                "clock": lambda: self.now_s,
                "progress": False,
                "max_retries": 0,
                **settings,
            },
        )
        skip_waits(made, self.waits)
        self._fetchers.append(made)
        return made

    def asked(self) -> list[Asked]:
        """What was asked since the last look."""
        found, self.log[:] = list(self.log), []
        return found
