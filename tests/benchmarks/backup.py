"""How quickly a cache is saved into a file and restored, beside a copy of that file, and in how much memory.

    python tests/benchmarks/backup.py [--gb 1] [--turns 5] [--own]

A cache of that size is made up (`--own`: each chunk in an entry of its own, as in caches of older versions).
The backup, a copy of it that is read and written in pieces and synced to the disk as the backup is, and a restore into
an empty folder run by turns, each in a process of its own. Files that are read lie in the system's page cache. Prints
MB/s, the ratio to the copy of the same turn, and the growth of the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np
from clients import peak_bytes

from candle_fetcher import CandleFetcher
from candle_fetcher.core.candles import OHLCV, Candles
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.merging import Merged
from candle_fetcher.core.page import PAGE_CHUNKS
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe

NAMES = ("open_time", *OHLCV, "close_time", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
MINUTE = parse_timeframe("1m")
PAGES = 100  # of a series


def open_cache(folder: str) -> CandleFetcher:
    return CandleFetcher(cache_dir=folder, progress=False, disk_cache_size="1000GB")


def fill(folder: str, size_bytes: float, own: bool) -> None:
    """Store so many bytes of candles."""
    rng, rows = np.random.default_rng(1), PAGE_CHUNKS * CHUNK_SLOTS
    with open_cache(folder) as fetcher:
        for page in range(max(1, round(size_bytes / (8 * len(NAMES) * rows)))):
            series = Series("binance", None, f"S{page // PAGES}USDT", MINUTE)
            first = (880 + page % PAGES) * PAGE_CHUNKS
            block = rng.random((len(NAMES), rows)).view("<i8")
            block[0] = chunk_span(MINUTE, first).start_ms + 60_000 * np.arange(rows)
            for at in range(0, PAGE_CHUNKS, 4 if own else PAGE_CHUNKS):
                some = {}
                for chunk in range(at, at + (4 if own else PAGE_CHUNKS)):
                    span = chunk_span(MINUTE, first + chunk)
                    candles = Candles(NAMES, block[:, chunk * CHUNK_SLOTS : (chunk + 1) * CHUNK_SLOTS])
                    # Read so soon that it may not lie in a page, or long after.
                    read_ms = span.end_ms + (0 if own else 86_400_000)
                    some[first + chunk] = Merged(Entry(span, read_ms, (), candles), (span,))
                fetcher.cache.entries.update(series, list(some), lambda _, some=some: some, keep=False)


def measure(action: str, folder: str, path: str) -> None:
    """Print seconds and growth of memory."""
    with open_cache(folder) as fetcher:
        fetcher.cache.stats()
        before, began = peak_bytes(), time.perf_counter()
        if action == "copy":
            with Path(path).open("rb") as source, Path(f"{path}.copy").open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
        else:
            getattr(fetcher.cache, action)(path)
        print(json.dumps([time.perf_counter() - began, peak_bytes() - before]))


def run(action: str, folder: str, path: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, __file__, action, folder, path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, growth = json.loads(done.stdout)
    return seconds, growth


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--gb", type=float, default=1.0, help="size of the cache (default 1)")
    reader.add_argument("--turns", type=int, default=5, help="(default 5)")
    reader.add_argument("--own", action="store_true", help="no pages")
    given = reader.parse_args()
    with tempfile.TemporaryDirectory(prefix="candle-bench-") as work:
        cache, path = f"{work}/cache", f"{work}/cache.tar"
        fill(cache, given.gb * 1e9, given.own)
        found: dict[str, list[tuple[float, float]]] = {"copy": [], "backup": [], "restore": []}
        for turn in range(given.turns + 1):
            figures = {"backup": run("backup", cache, path), "copy": run("copy", cache, path)}
            Path(f"{path}.copy").unlink()
            figures["restore"] = run("restore", f"{work}/again", path)
            shutil.rmtree(f"{work}/again")
            if turn:
                for name, one in figures.items():
                    found[name].append(one)
        size = Path(path).stat().st_size / 1e6
    print(f"python {' '.join(sys.argv)} | {size:,.0f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':8} {'MB/s':>6} {'seconds':>8} {'of a copy':>10} {'growth':>8}   (medians of {given.turns})")
    for name, figures in found.items():
        seconds = statistics.median(one[0] for one in figures)
        ratio = statistics.median(copy[0] / one[0] for copy, one in zip(found["copy"], figures, strict=True))
        growth = max(one[1] for one in figures) / 1e6
        print(f"{name:8} {size / seconds:6,.0f} {seconds:8.2f} {ratio:10.2f} {growth:5.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("copy", "backup", "restore"):
        measure(*sys.argv[1:4])
    else:
        main()
