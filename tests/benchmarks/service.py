"""The HTTP service under load: an exchange, the service and the clients are a process each, on loopback.

    python tests/benchmarks/service.py [PART ...]

Parts: json, arrow, known, streams, cold, hostile, end. Prints a line for each figure, beside what it should be.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

DAY = "symbol=BTC/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02"
THOUSAND = "/api/candles?symbol=BTC/USDT&timeframe=1h&start=2024-01-01&end=2024-02-11T16:00:00Z"
YEAR = "/api/candles?symbol=BTC/USDT&timeframe=1m&start=2023-01-01&end=2024-01-01&format=arrow"
EXCHANGE = """
import json, sys
from candle_fetcher.practice import PracticeExchange
with PracticeExchange() as exchange:
    streams = {f"{name}-stream": url for name, url in exchange.stream_urls.items()}
    print(json.dumps({**exchange.base_urls, **streams}), flush=True)
    for line in sys.stdin:
        asked = [(one.path, tuple(sorted(one.params.items()))) for one in exchange.requests]
        print(len(asked), len(set(asked)), flush=True)
        exchange.clear_log()
"""
SERVICE = """
import json, sys
from candle_fetcher import CandleFetcher
from candle_fetcher.service.server import serve
with CandleFetcher(base_urls=json.loads(sys.argv[1]), cache_dir=sys.argv[2], progress=False) as fetcher:
    serve(fetcher, port=0, on_listening=lambda url: print(url, flush=True))
"""


class World:
    """The exchange and the service, each in a process of its own."""

    def __init__(self, folder: str) -> None:
        def start(*words: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

        self.exchange = start(EXCHANGE)
        self.service = start(SERVICE, self._line(self.exchange), folder)
        self.port = int(self._line(self.service).rpartition(":")[2])

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def asked(self) -> tuple[int, int]:
        """Return how many requests the exchange had since the last time, and how many different ones."""
        assert self.exchange.stdin is not None
        self.exchange.stdin.write("\n")
        self.exchange.stdin.flush()
        count, different = self._line(self.exchange).split()
        return int(count), int(different)

    def rss(self) -> int:
        """Return the memory of the service in bytes."""
        import psutil

        return int(psutil.Process(self.service.pid).memory_info().rss)

    def close(self) -> None:
        for process in (self.service, self.exchange):
            process.kill()
            process.wait()


def show(what: str, value: str, wanted: str) -> None:
    print(f"{what:<58}{value:>20}   {wanted}", flush=True)


async def fetch(port: int, path: str, *headers: str) -> tuple[bytes, bytes]:
    """Return head and body of one reply."""
    client = await Client.open(port)
    try:
        return await client.get(path, *headers)
    finally:
        client.close()


class Client:
    """One connection that is kept for the next request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    def close(self) -> None:
        self._writer.close()

    async def get(self, path: str, *headers: str) -> tuple[bytes, bytes]:
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
        self._writer.write("\r\n".join(lines).encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"content-length:" in lower:
            size = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
            return head, await self._reader.readexactly(size)
        if b"transfer-encoding: chunked" not in lower:
            return head, b""
        size, parts = 1, []
        while size:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            parts.append(await self._reader.readexactly(size + 2))
        return head, b"".join(part[:-2] for part in parts)


async def rate(port: int, path: str, clients: int, seconds: float, *headers: str) -> tuple[float, float]:
    """Return requests a second, and the time within which 99 % were answered, in ms."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def one() -> None:
        client = await Client.open(port)
        while time.perf_counter() < until:
            began = time.perf_counter()
            head, _ = await client.get(path, *headers)
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 304")), head
            times.append(time.perf_counter() - began)
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return len(times) / (time.perf_counter() - began), 1e3 * sorted(times)[int(len(times) * 0.99)]


async def measure_json(world: World) -> None:
    await fetch(world.port, THOUSAND)
    per_s, p99 = await rate(world.port, THOUSAND, 20, 4)
    show("1,000 candles as JSON, 20 clients", f"{per_s:,.0f} a second", "250, better 600")
    show("  99 % of them within", f"{p99:.0f} ms", "200 ms")
    path = THOUSAND.replace("start=2024-01-01", "start=2024-01-0{}")
    for day in range(1, 10):
        await fetch(world.port, path.format(day))
    client, began, count = await Client.open(world.port), time.perf_counter(), 0
    while time.perf_counter() - began < 3:
        await client.get(path.format(1 + count % 9) + "&columns=all")
        count += 1
    show("  with all columns, which no client asked for before", f"{count / 3:,.0f} a second", "")


async def measure_known(world: World) -> None:
    for what, path in (("1,000 candles", THOUSAND), ("a year of 1m", YEAR)):
        head, _ = await fetch(world.port, path)
        tag = next(line for line in head.decode().split("\r\n") if line.lower().startswith("etag:"))[6:].strip()
        per_s, _ = await rate(world.port, path, 10, 3, f"If-None-Match: {tag}")
        show(f"304 for {what}", f"{per_s:,.0f} a second", "500")


async def measure_arrow(world: World) -> None:
    await fetch(world.port, YEAR)
    await fetch(world.port, YEAR)
    before, most = world.rss(), 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, world.rss())
            await asyncio.sleep(0.01)

    watching = asyncio.ensure_future(watch())
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        _, body = await fetch(world.port, YEAR)
        best = max(best, len(body) / 1e6 / (time.perf_counter() - began))
    watching.cancel()
    show(f"a year of 1m as Arrow, {len(body) / 1e6:.0f} MB", f"{best:,.0f} MB/s", "150 MB/s")
    show("  memory beyond that before", f"{(most - before) / 1e6:,.0f} MB", "60 MB")


async def measure_streams(world: World) -> None:
    before = world.rss()
    symbols = b"BTC/USDT,ETH/USDT,BNB/USDT,ADA/USDT,XRP/USDT"  # each has an update a second
    ages: list[float] = []
    counts = [0] * 300

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /api/stream?symbols=" + symbols + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    # The exchange, the service and the clients have one clock.
                    stamp = line.partition(b'"timestamp": "')[2].partition(b'Z"')[0].decode() + "+00:00"
                    ages.append(time.time() - dt.datetime.fromisoformat(stamp).timestamp())
                    counts[number] += 1
        finally:
            writer.close()

    tasks = [asyncio.ensure_future(one(number)) for number in range(300)]
    await asyncio.sleep(6)  # until the quotes are watched, and no longer asked for
    ages.clear()
    counts[:] = [0] * 300
    healths, began = [], time.perf_counter()
    while time.perf_counter() - began < 5:
        asked = time.perf_counter()
        await fetch(world.port, "/health")
        healths.append(time.perf_counter() - asked)
        await asyncio.sleep(0.1)
    seconds = time.perf_counter() - began
    grown = world.rss() - before
    ages.sort()
    show("300 streams of quotes: events a second, the slowest client", f"{min(counts) / seconds:.1f}", "about 5")
    show("  from the exchange to a client, 50 %", f"{1e3 * ages[len(ages) // 2]:.0f} ms", "")
    show("  99 %", f"{1e3 * ages[int(len(ages) * 0.99)]:.0f} ms", "")
    show("  the slowest", f"{1e3 * ages[-1]:.0f} ms", "300 ms")
    show("  memory", f"{grown / 1e6:,.0f} MB", "150 MB")
    show("  /health meanwhile, the slowest", f"{1e3 * max(healths):.0f} ms", "50 ms")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def measure_cold(world: World) -> None:
    world.asked()
    paths = [
        f"/api/candles?symbol=ETH/USDT&timeframe=1h&start={year}-{month:02}-01&limit=700"
        for year in (2021, 2022)
        for month in (1, 3, 5, 7, 9)
    ]
    began = time.perf_counter()

    async def one() -> None:
        client = await Client.open(world.port)
        for path in random.sample(paths, len(paths)):
            head, _ = await client.get(path)
            assert head.startswith(b"HTTP/1.1 200"), head
        client.close()

    await asyncio.gather(*(one() for _ in range(50)))
    count, different = world.asked()
    show("50 clients, ten cold ranges each: time", f"{time.perf_counter() - began:.1f} s", "")
    show("  requests that the exchange had, and different ones", f"{count} and {different}", "equal")


async def measure_hostile(world: World) -> None:
    from test_service_safety import hostile_requests

    await fetch(world.port, f"/api/candles?{DAY}")
    await fetch(world.port, "/udf/history?symbol=BTC/USDT&resolution=60&from=1704067200&to=1704167200")
    world.asked()
    held = []
    for number in range(300):
        connection = socket.create_connection(("127.0.0.1", world.port))
        connection.sendall((b"GET /api/candles HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")[number % 2])
        held.append(connection)
    slow = []
    for _ in range(30):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", world.port))
        connection.sendall(f"GET {YEAR} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        slow.append(connection)
    statuses: dict[bytes, int] = {}
    waits: list[float] = []
    is_over = False

    async def good() -> None:
        while not is_over:
            began = time.perf_counter()
            head, _ = await fetch(world.port, f"/api/candles?{DAY}")
            assert head.startswith(b"HTTP/1.1 200"), head
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)

    async def bad(requests: Iterator[bytes]) -> None:
        for data in requests:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(data)
            try:
                writer.write_eof()
                answer = await reader.read()
            except (ConnectionError, OSError):
                answer = b""
            writer.close()
            statuses[answer[9:12]] = statuses.get(answer[9:12], 0) + 1
            assert b"Traceback" not in answer

    task = asyncio.ensure_future(good())
    requests = hostile_requests(10_000, seed=11)
    await asyncio.gather(*(bad(requests) for _ in range(20)))
    is_over = True
    await task
    count, _ = world.asked()
    for connection in held + slow:
        connection.close()
    show("10,000 hostile requests, 300 half-open, 30 slow readers:", "", "")
    show("  a good request, the slowest", f"{1e3 * max(waits):.0f} ms", "1,000 ms")
    show("  replies with status 500", str(statuses.get(b"500", 0)), "0")
    show("  requests that the exchange had", str(count), "0, but for symbols that look like real ones")
    print("  statuses:", {key.decode(): value for key, value in sorted(statuses.items())})


async def measure_end(world: World) -> None:
    connections = []
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /api/stream?symbols=BTC/USDT HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readline()
        connections.append((reader, writer))
    began = time.perf_counter()
    os.kill(world.service.pid, signal.SIGTERM)
    code = await asyncio.to_thread(world.service.wait, 30)
    show("SIGTERM with 50 streams: ended within", f"{time.perf_counter() - began:.1f} s", "3 s")
    show("  exit code", str(code), "0")


PARTS: dict[str, Callable[[World], Awaitable[None]]] = {
    "json": measure_json,
    "known": measure_known,
    "arrow": measure_arrow,
    "streams": measure_streams,
    "cold": measure_cold,
    "hostile": measure_hostile,
    "end": measure_end,
}


def main(words: list[str]) -> int:
    """Run the parts, and return 0."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        try:
            for name in words or PARTS:
                asyncio.run(_run(PARTS[name], world))
        finally:
            world.close()
    return 0


async def _run(part: Callable[[World], Awaitable[Any]], world: World) -> None:
    await part(world)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
