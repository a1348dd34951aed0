"""A small HTTP service with prices that never happened, for `own_provider.py`. It stands for one that you have."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SECONDS = {"1m": 60, "1h": 3600}


def price(second: int) -> float:
    return round(2000 + 50 * math.sin(second / 40_000) + 5 * math.sin(second / 700), 2)


class Service(BaseHTTPRequestHandler):
    """GET /prices?name=GOLD&every=1h&from=…&to=…&limit=…"""

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        step, first, last = SECONDS[asked["every"]], int(asked["from"]), int(asked["to"])
        opens = range(first + -first % step, last + 1, step)[: int(asked["limit"])]
        rows = []
        for second in opens:
            prices = [price(second + step * part // 8) for part in range(8)]
            rows.append([second, prices[0], max(prices), min(prices), prices[-1], step / 60])
        body = json.dumps({"rows": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The URL of the service while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
