"""What live calls cost, and how they behave at their limits, beside the bars that they are held to.

    python tests/benchmarks/live.py [lag flood parse silence back close storm week] [--days 7] [--seconds 40]

Without names, all but `week`. `lag`, `flood`, `back` and `close` take real time, with a practice exchange or a server
of frames in processes of their own; the others take the time of an injected clock. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import psutil
from live_world import LiveWorld

from candle_fetcher import CandleFetcher
from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import PracticeExchange, stream_faults

EXCHANGE = """
import json, sys
from candle_fetcher.practice import PracticeExchange
with PracticeExchange(port=int(sys.argv[1]), weight_limit=10**9, log=False) as exchange:
    print(json.dumps(dict(exchange.base_urls)), flush=True)
    sys.stdin.read()
"""
# Sends so many updates of one candle a second, a closing each second, and a ping each second; says what came back.
FLOOD = """
import base64, hashlib, json, socket, struct, sys, threading, time
rate = int(sys.argv[1])
def frame(code, data):
    head = bytes([0x80 | code])
    return head + (bytes([len(data)]) if len(data) < 126 else b"\\x7e" + struct.pack(">H", len(data))) + data
def serve(conn):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += conn.recv(4096)
    lines = head.decode().split("\\r\\n")
    key = next(line for line in lines if line.lower().startswith("sec-websocket-key")).split()[1]
    token = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    reply = ["HTTP/1.1 101 X", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {token}", "", ""]
    conn.sendall("\\r\\n".join(reply).encode())
    threading.Thread(target=listen, args=(conn,), daemon=True).start()
    sent, began, second = 0, time.monotonic(), int(time.time())
    kline = {"s": "BTCUSDT", "i": "1s", "f": 1, "L": 2, "o": "1.0", "c": "1.0", "h": "1.0", "l": "1.0", "v": "1.0",
             "q": "1.0", "V": "1.0", "Q": "1.0", "B": "0"}
    while True:
        now = int(time.time())
        due = int((time.monotonic() - began) * rate) - sent
        batch = []
        if now > second:
            batch.append(frame(1, text(kline, second, True)))
            batch.append(frame(9, str(now).encode()))
            counts["pings"] += 1
            second = now
        batch += [frame(1, text(kline, second, False, sent + n)) for n in range(min(due, 500))]
        sent += min(due, 500)
        counts["sent"] = sent
        try:
            conn.sendall(b"".join(batch))
        except OSError:  # the client has closed
            return
        time.sleep(0.002)
def text(kline, second, closed, n=0):
    k = {**kline, "t": second * 1000, "T": second * 1000 + 999, "n": 10**9 if closed else n, "x": closed}
    data = {"e": "kline", "E": int(time.time() * 1000), "s": "BTCUSDT", "k": k}
    return json.dumps({"stream": "btcusdt@kline_1s", "data": data}).encode()
def listen(conn):
    while True:
        data = conn.recv(4096)
        if not data:
            return
        counts["pongs"] += data.count(b"\\x8a")
counts = {"sent": 0, "pings": 0, "pongs": 0}
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def accept():
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
for _ in sys.stdin:
    print(json.dumps(counts), flush=True)
"""


class Line(NamedTuple):
    """A figure beside its bar."""

    what: str
    value: float
    bar: float
    unit: str

    @property
    def is_reached(self) -> bool:
        return self.value >= self.bar if self.unit.endswith("/s") else self.value <= self.bar


class Server:
    """A script in a process of its own; `said` is its first line."""

    def __init__(self, code: str, *words: object) -> None:
        command = [sys.executable, "-c", code, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.said = self._line()

    def ask(self) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def lag(arguments: argparse.Namespace) -> Iterator[Line]:
    """From the end of the grace to the yielded candle, one symbol of 1s."""
    exchange = Server(EXCHANGE, 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=json.loads(exchange.said), cache_dir=folder, progress=False) as fetcher,
    ):
        beyond: list[float] = []
        with fetcher.follow(["BTC/USDT"], "1s") as live:
            for _, frame in live:
                beyond.append(time.time() - (int(index_ms(frame)[-1]) / 1000 + 1 + 2))
                if len(beyond) >= arguments.seconds:
                    break
    exchange.kill()
    beyond = beyond[3:]
    yield Line("grace to yielded candle, p50", 1000 * percentile(beyond, 50), 5, "ms")
    yield Line("grace to yielded candle, p99", 1000 * percentile(beyond, 99), 50, "ms")


def flood(arguments: argparse.Namespace) -> Iterator[Line]:
    """2,000 messages a second on one connection, and a loop that sleeps ten seconds."""
    exchange, stream = Server(EXCHANGE, 0), Server(FLOOD, 2000)
    urls = {**json.loads(exchange.said), "binance-stream": f"ws://127.0.0.1:{stream.said}"}
    process = psutil.Process()
    with (
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=urls, cache_dir=folder, progress=False) as fetcher,
        fetcher.follow(["BTC/USDT"], "1s", include_open=True) as live,
    ):
        opens: list[int] = []
        for _, frame in live:
            closed = frame[frame["is_closed"]]
            opens += index_ms(closed).tolist()
            if len(opens) >= 5:
                break
        before, messages = process.memory_info().rss, live.stats.messages
        time.sleep(10)
        grown = process.memory_info().rss - before
        came = live.stats.messages - messages
        until_s = time.monotonic() + 5
        for _, frame in live:
            opens += index_ms(frame[frame["is_closed"]]).tolist()
            if time.monotonic() > until_s:
                break
        counts = stream.ask()
        missing = sum(later - first != 1000 for first, later in itertools.pairwise(opens))
    exchange.kill()
    stream.kill()
    yield Line("memory while the loop sleeps 10 s", grown / 2**20, 20, "MB")
    yield Line("messages received meanwhile", came / 10, 1900, "/s")
    yield Line("closings missing or doubled afterwards", missing, 0, "")
    yield Line("pings without a pong", max(0, counts["pings"] - counts["pongs"] - 1), 0, "")


def parse(arguments: argparse.Namespace) -> Iterator[Line]:
    """Frames of klines, parsed and handed on."""
    with tempfile.TemporaryDirectory() as folder, LiveWorld(Path(folder), now="2024-06-15T12:00:30") as world:
        driver = world.follow(["BTC/USDT"], "1m", include_open=True)
        driver.run(3)
        line = driver.lines[0]
        kline = {
            "t": 1718452800000, "T": 1718452859999, "s": "BTCUSDT", "i": "1m", "f": 13562205, "L": 13562210,
            "o": "64591.75000000", "c": "64591.75000000", "h": "64603.99000000", "l": "64591.75000000",
            "v": "624.60000000", "x": False, "q": "129.95848000", "V": "24.60000000", "Q": "9.95848000", "B": "0",
        }  # fmt: skip
        frames = [
            json.dumps(
                {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 1, "s": "BTCUSDT", "k": kline | {"n": n}}}
            )
            for n in range(50_000)
        ]
        data = [text.encode() for text in frames]
        began = time.process_time()
        for one in data:
            line._read(line._current, one, world.now_s)
        spent = time.process_time() - began
    yield Line("messages parsed and handed on, a CPU second", len(data) / spent, 30_000, "/s")


def silence(arguments: argparse.Namespace) -> Iterator[Line]:
    """A stream that says nothing any more."""
    with tempfile.TemporaryDirectory() as folder, LiveWorld(Path(folder), now="2024-06-15T12:00:30") as world:
        driver = world.follow(["BTC/USDT"], "1m")
        driver.run(30)
        began_s, world.network.is_silent = world.now_s, True
        while len(world.network.attempts) < 2:
            driver.run(0.5)
        yield Line("a silent stream is replaced after", world.now_s - began_s, 62, "s")


def back(arguments: argparse.Namespace) -> Iterator[Line]:
    """A server that is away for 20 s, and comes back at the same port."""
    port = free_port()
    exchange = Server(EXCHANGE, port)
    with (
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=json.loads(exchange.said), cache_dir=folder, progress=False) as fetcher,
    ):
        with fetcher.follow(["BTC/USDT"], "1s") as live:
            next(live)
            exchange.kill()
            got: list[float] = []
            opens: list[int] = []

            def read() -> None:
                for _, frame in live:
                    got.append(time.monotonic())
                    opens.extend(index_ms(frame).tolist())

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            time.sleep(20)
            exchange = Server(EXCHANGE, port)
            came_s = time.monotonic()
            while not [one for one in got if one > came_s] and time.monotonic() < came_s + 60:
                time.sleep(0.01)
            first_s = min(one for one in got if one > came_s) - came_s
            time.sleep(3)
        reader.join()
    exchange.kill()
    yield Line("first candle after the server is back", first_s, 5, "s")
    yield Line("candles missing or doubled", sum(b - a != 1000 for a, b in itertools.pairwise(opens)), 0, "")


def close(arguments: argparse.Namespace) -> Iterator[Line]:
    """The end, with a peer that is there and one that is dead."""
    for name, action in (("alive", None), ("dead", stream_faults.stall())):
        with contextlib.ExitStack() as stack:
            exchange = stack.enter_context(PracticeExchange())
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            settings = {"base_urls": exchange.base_urls, "cache_dir": folder, "progress": False}
            live = stack.enter_context(CandleFetcher(**settings)).follow(["BTC/USDT"], "1s")
            next(live)
            if action is not None:
                exchange.streams.fail(action, times=None, match="kline")
                time.sleep(1.5)
            began_s = time.monotonic()
            live.close()
            took_s = time.monotonic() - began_s
        yield Line(f"close() with a peer that is {name}", took_s, 2, "s")


def storm(arguments: argparse.Namespace) -> Iterator[Line]:
    """Ten minutes of refused connections, two fetchers on one cache folder, several connections each."""
    for symbols, allowed in (
        (["BTC/USDT", "binance-um:BTC/USDT"], 300),
        (["kraken:BTC/USD", "kraken:ETH/USD"], 150),
    ):
        with tempfile.TemporaryDirectory() as folder, LiveWorld(Path(folder), now="2024-06-15T12:00:30") as world:
            world.network.refuse = lambda now_s: TransportError("refused")
            drivers = [world.follow(symbols, "1m") for _ in range(2)]
            while world.now_s < min(world.network.attempts, default=world.now_s) + 600:
                for driver in drivers:
                    driver.run(0.5, 0.5)
            yield Line(f"attempts in 10 min, {symbols[-1].partition(':')[0]}", len(world.network.attempts), allowed, "")


def week(arguments: argparse.Namespace) -> Iterator[Line]:
    """Days of following, with a drop each hour: what is there after two days, and what has come to it since.

    Memory is what was allocated since and is still held, without that of the practice exchange in this process, which
    keeps the market that it has made.
    """
    process = psutil.Process()
    now = "2024-06-03T12:00:30"
    with tempfile.TemporaryDirectory() as folder, LiveWorld(Path(folder), now=now, log=False) as world:
        driver = world.follow(["BTC/USDT"], "1m")
        first_ms, found = world.now_ms // 60_000 * 60_000, []
        for day in range(arguments.days):
            if day == 2:
                tracemalloc.start(12)
            for hour in range(24):
                world.network.drop()
                for minute in range(60):
                    base_s = first_ms / 1000 + 86_400 * day + 3600 * hour + 60 * minute
                    driver.run_to([base_s + 20, base_s + 40, base_s + 60.01, base_s + 62.01])
            assert len(driver.opens("BTC/USDT")) == 1440
            driver.items.clear()
            world.events.clear()
            world.waits.clear()
            found.append((threading.active_count(), process.num_fds()))
        gc.collect()
        grown = sum(
            trace.size
            for trace in tracemalloc.take_snapshot().traces
            if not any("practice" in frame.filename or "tests" in frame.filename for frame in trace.traceback)
        )
        tracemalloc.stop()
    yield Line(f"memory grown in {arguments.days - 2} days", grown / 2**20, 10, "MB")
    yield Line("threads more than after two days", found[-1][0] - found[1][0], 0, "")
    yield Line("descriptors more than after two days", found[-1][1] - found[1][1], 0, "")


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    one.__name__: one for one in (lag, flood, parse, silence, back, close, storm, week)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *MEASURES], help="what to measure")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=40)
    arguments = parser.parse_args()
    is_reached = True
    for name in arguments.names or [name for name in MEASURES if name != "week"]:
        for line in MEASURES[name](arguments):
            mark = "" if line.is_reached else "  missed"
            print(f"{line.what:<50}{line.value:>12,.2f} {line.unit:<4}{line.bar:>10,g}{mark}", flush=True)
            is_reached &= line.is_reached
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
