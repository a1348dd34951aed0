"""What is measured: each function is one client, run in a process of its own by run.py, and returns its figures.

    python tests/benchmarks/clients.py NAME '{"url": …}'    prints one line of JSON

Imports come before the clock starts, for everybody; whatever else a client does, it does while the clock runs.
"""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.metadata
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Figures = dict[str, Any]

SYMBOL, IDS = "BTC/USDT", "BTCUSDT"
MINUTE_MS = 60_000
PAGE = 1000
THREADS = 8


def ms_of(day: str) -> int:
    """Midnight UTC of the day in Unix ms."""
    return int(dt.datetime.fromisoformat(day).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


def timed(work: Callable[[], int]) -> Figures:
    """Seconds of the clock and of this process's CPU, all threads, that the work took; it returns how many candles."""
    wall, cpu = time.perf_counter(), time.process_time()
    candles = work()
    return {"candles": candles, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def peak_bytes() -> int:
    """The most memory that was resident since this process began."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be that of the process which started this one
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- downloads --------------------------------------------------------------------------------------------------------


def fetch_cold(url: str, start: str, end: str) -> Figures:
    """Ours, with everything on: checks, second looks, monitor, memory, and a disk cache in a new folder."""
    import candle_fetcher

    with tempfile.TemporaryDirectory() as folder:

        def work() -> int:
            with candle_fetcher.CandleFetcher(base_urls={"binance": url}, cache_dir=folder, progress=False) as fetcher:
                return len(fetcher.fetch(SYMBOL, "1m", start, end))

        return timed(work)


def fetch_ccxt(url: str, start: str, end: str) -> Figures:
    """ccxt's paging loop, markets loaded before the clock starts, throttle off; the rows stay a list of lists."""
    ccxt: Any = importlib.import_module("ccxt")
    exchange = ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
    exchange.urls["api"] = dict.fromkeys(exchange.urls["api"], f"{url}/api/v3")
    exchange.load_markets()
    end_ms = ms_of(end)

    def work() -> int:
        rows: list[Any] = []
        since_ms = ms_of(start)
        while since_ms < end_ms:
            page = exchange.fetch_ohlcv(SYMBOL, "1m", since=since_ms, limit=PAGE)
            if not page:
                break
            rows += page
            since_ms = page[-1][0] + 1
        return sum(row[0] < end_ms for row in rows)

    return timed(work)


def fetch_python_binance(url: str, start: str, end: str) -> Figures:
    """python-binance's get_historical_klines; its pauses (1 s every third request) are left out."""
    module: Any = importlib.import_module("binance.client")
    client = module.Client(ping=False)
    client.API_URL = f"{url}/api"
    module.time = SimpleNamespace(time=time.time, sleep=lambda seconds: None)

    def work() -> int:
        return len(client.get_historical_klines(IDS, "1m", ms_of(start), ms_of(end) - 1))

    return timed(work)


def fetch_pool(url: str, start: str, end: str) -> Figures:
    """A bare pool: a requests.Session for each of 8 threads, pandas.read_csv on each body, concat; nothing else."""
    import pandas as pd
    import requests

    local = threading.local()
    names = ["open_time", "open", "high", "low", "close", "volume", "close_time", *"abcd", "ignore"]

    def page(start_ms: int) -> pd.DataFrame:
        session = getattr(local, "session", None)
        if session is None:
            session = local.session = requests.Session()
        params: dict[str, Any] = {"symbol": IDS, "interval": "1m", "startTime": start_ms, "limit": PAGE}
        params["endTime"] = min(start_ms + PAGE * MINUTE_MS, ms_of(end)) - 1
        reply = session.get(f"{url}/api/v3/klines", params=params, timeout=30)
        reply.raise_for_status()
        lines = reply.content[2:-2].replace(b"],[", b"\n")
        return pd.read_csv(io.BytesIO(lines), header=None, names=names)

    def work() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            frame = pd.concat(pool.map(page, range(ms_of(start), ms_of(end), PAGE * MINUTE_MS)))
        frame.index = pd.to_datetime(frame.pop("open_time"), unit="ms", utc=True)
        return len(frame)

    return timed(work)


# -- what is stored ---------------------------------------------------------------------------------------------------


def fill(url: str, folder: str, start: str, end: str) -> Figures:
    """Fills a cache, for the clients below."""
    with _fetcher(folder, url) as fetcher:
        return timed(lambda: sum(map(len, fetcher.iter_frames(SYMBOL, "1m", start, end, columns="all"))))


def write_files(folder: str, start: str, end: str, url: str, into: str) -> Figures:
    """The same candles as numpy and pandas write them."""
    import numpy as np

    with _fetcher(folder, url) as fetcher:
        frame = fetcher.fetch(SYMBOL, "1m", start, end, columns="all")
    times = [frame.index.asi8, frame["close_time"].array.asi8]
    block = np.vstack([*(frame[name].to_numpy("f8").view("i8") for name in frame if name != "close_time"), *times])
    np.save(Path(into) / "block.npy", block)
    frame.attrs.clear()
    frame.to_pickle(Path(into) / "frame.pickle")
    return {"candles": len(frame), "bytes": block.nbytes}


def load_numpy(into: str) -> Figures:
    import numpy as np

    return timed(lambda: int(np.load(Path(into) / "block.npy").shape[1]))


def load_pickle(into: str) -> Figures:
    import pandas as pd

    return timed(lambda: len(pd.read_pickle(Path(into) / "frame.pickle")))


def load_disk(folder: str, start: str, end: str, url: str, again: int = 30) -> Figures:
    """A stored range in a new process, opening the cache included; then the same fetch again, some times."""
    with _fetcher(folder, url) as fetcher:

        def work() -> int:
            return len(fetcher.fetch(SYMBOL, "1m", start, end, columns="all"))

        figures = timed(work)
        figures["again_s"] = statistics.median(timed(work)["wall_s"] for _ in range(again))
    return figures


def export(folder: str, start: str, end: str, url: str) -> Figures:
    """A long export from the cache: by how much the most memory in use grew since the import."""
    with _fetcher(folder, url) as fetcher, tempfile.TemporaryDirectory() as into:
        before = peak_bytes()
        figures = timed(lambda: fetcher.export(SYMBOL, "1m", start, end, path=into).stat().st_size)
        return figures | {"growth_bytes": peak_bytes() - before, "rows": fetcher.monitor.snapshot()["candles"]}


def write_csv(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """Our writer and DataFrame.to_csv by turns, on the same candles, each to a file of its own."""
    import candle_fetcher.export
    from candle_fetcher.core.candles import OHLCV, candles_from

    with _fetcher(folder, url) as fetcher:
        frame = fetcher.fetch(SYMBOL, "1m", start, end).tz_localize(None)
    frame.attrs.clear()
    open_ms = frame.index.asi8 // 1_000_000
    candles = candles_from(("open_time", *OHLCV), [open_ms, *(frame[name].to_numpy() for name in OHLCV)])
    found: Figures = {"rows": len(frame), "ours_s": [], "peer_s": []}
    with tempfile.TemporaryDirectory() as into:
        ours, peer = Path(into) / "ours.csv", Path(into) / "peer.csv"
        for _ in range(pairs):
            found["ours_s"].append(_seconds(lambda: candle_fetcher.export.write_csv(ours, "", [candles], "ohlcv")))
            found["peer_s"].append(_seconds(lambda: frame.to_csv(peer)))
    return found


def plan(folder: str, start: str, end: str, url: str) -> Figures:
    """A plan in a new process, opening the cache included; then the same plan again."""
    with _fetcher(folder, url) as fetcher:
        figures = timed(lambda: sum(step.chunks for step in fetcher.plan(SYMBOL, "1m", start, end).steps))
        again = timed(lambda: sum(step.chunks for step in fetcher.plan(SYMBOL, "1m", start, end).steps))
        return figures | {"again_s": again["wall_s"]}


def watch(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """Warm reads with and without the monitor by turns, in one process; and what one event costs.

    `again`: the same fetch again. `joined`: its last month, put together anew from the memory tier.
    """
    from candle_fetcher.core.events import Operation, ignore

    found: Figures = {}
    with _fetcher(folder, url) as fetcher:
        monitor: Any = fetcher.monitor
        listen = monitor.observe
        fetcher.fetch(SYMBOL, "1m", start, end)
        begins = iter(range(ms_of(end) - 30 * 1440 * MINUTE_MS, ms_of(end), MINUTE_MS))
        for name in ("again", "joined"):

            def read(name: str = name) -> None:
                fetcher.fetch(SYMBOL, "1m", start if name == "again" else next(begins), end)

            listeners = [("with_s", listen), ("without_s", ignore)]
            found[name] = {which: [] for which, _ in listeners}
            for _ in range(pairs * 4):
                seconds: dict[str, list[float]] = {which: [] for which, _ in listeners}
                for _ in range(200):
                    listeners.reverse()
                    for which, observe in listeners:
                        monitor.observe = observe
                        seconds[which].append(_seconds(read))
                for which, values in seconds.items():
                    found[name][which].append(statistics.median(values))
            events: list[Any] = []
            monitor.observe = events.append
            read()
            found[name]["events"] = len(events)
        found["event_s"] = statistics.median(_seconds(lambda: listen(Operation("x", 0.0))) for _ in range(10_000))
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _fetcher(folder: str, url: str) -> Any:
    import candle_fetcher

    return candle_fetcher.CandleFetcher(base_urls={"binance": url}, cache_dir=folder, progress=False)


# -- imports ----------------------------------------------------------------------------------------------------------


def import_ours() -> Figures:
    began = time.perf_counter()
    import candle_fetcher

    return {"wall_s": time.perf_counter() - began, "version": candle_fetcher.__version__}


def import_peers() -> Figures:
    began = time.perf_counter()
    import pandas as pd
    import requests

    return {"wall_s": time.perf_counter() - began, "version": f"{pd.__version__} {requests.__version__}"}


def versions(packages: Sequence[str]) -> Figures:
    """Version by package; None where it is not installed."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
