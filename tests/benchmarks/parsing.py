"""What a candle costs to parse, provider by provider, beside what it costs of Binance; and a month of its archive.

    python tests/benchmarks/parsing.py [--rounds N]

Each reply has 1,000 candles, written as the provider's documentation shows it. CPU time, the least of many rounds, by
turns; exits 1 where a candle costs more than twice what it does of Binance.

The month has 43,200 rows of 1m. It is unpacked and read with what is installed of the extra `fast`, and without it,
beside a bare read_csv of the same bytes. CPU time by turns: the median, and the median of the ratios to ours, turn for
turn; then the wall time for each of two months that two threads read side by side.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import itertools
import json
import platform
import random
import statistics
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np
import pandas as pd

from candle_fetcher.core import unzip
from candle_fetcher.core.checksum import find_zlib
from candle_fetcher.core.series import Series
from candle_fetcher.core.text import quick
from candle_fetcher.core.text.rows import CSV_PIECE_BYTES, iter_csv
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.binance_archive import find_file, read_file
from candle_fetcher.providers.binance_klines import KLINE

COUNT, BAR = 1_000, 2.0
START = dt.datetime(2024, 1, 2, 14, 30, tzinfo=dt.timezone.utc)
MINUTES = [START + dt.timedelta(minutes=at) for at in range(COUNT)]


def prices(decimals: int) -> list[tuple[float, float, float, float]]:
    """Open, high, low and close of a walk, rounded as a market of so many decimals prints them."""
    chance, last, rows = random.Random(1), 43_000.0 if decimals != 4 else 187.0, []
    for _ in range(COUNT):
        first, last = last, last * (1 + chance.gauss(0, 1e-4))
        spread = first * abs(chance.gauss(0, 1e-4))
        four = (first, max(first, last) + spread, min(first, last) - spread, last)
        rows.append(tuple(round(price, decimals) for price in four))
    return rows


def packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def unix(when: dt.datetime) -> int:
    return int(when.timestamp())


def binance() -> bytes:
    return packed(
        [
            [unix(when) * 1000, *(f"{price:.8f}" for price in four), f"{at * 1.37:.8f}", unix(when) * 1000 + 59_999,
             f"{at * 58_000.5:.8f}", at * 11, f"{at * 0.7:.8f}", f"{at * 30_000.25:.8f}", "0"]
            for at, (when, four) in enumerate(zip(MINUTES, prices(2), strict=True))
        ]
    )  # fmt: skip


def kraken() -> bytes:
    rows = [
        [unix(when), *(f"{price:.1f}" for price in four), f"{four[0]:.1f}", f"{at * 1.37:.8f}", at]
        for at, (when, four) in enumerate(zip(MINUTES, prices(1), strict=True))
    ]
    return packed({"error": [], "result": {"XXBTZUSD": rows, "last": unix(MINUTES[-2])}})


def alpaca() -> bytes:
    bars = [
        {"t": f"{when:%Y-%m-%dT%H:%M:%SZ}", **dict(zip("ohlc", four, strict=True)), "v": 900 + at * 7, "n": at + 3,
         "vw": round(sum(four) / 4, 6)}
        for at, (when, four) in enumerate(zip(MINUTES, prices(4), strict=True))
    ]  # fmt: skip
    return packed({"bars": bars, "symbol": "AAPL", "next_page_token": None})


def alphavantage() -> bytes:
    names = ("1. open", "2. high", "3. low", "4. close")
    rows = {
        f"{when - dt.timedelta(hours=5):%Y-%m-%d %H:%M:%S}": {
            **{name: f"{price:.4f}" for name, price in zip(names, four, strict=True)},
            "5. volume": str(900 + at * 7),
        }
        for at, (when, four) in reversed([*enumerate(zip(MINUTES, prices(4), strict=True))])
    }
    meta = {
        "1. Information": "Intraday (1min)",
        "2. Symbol": "IBM",
        "4. Interval": "1min",
        "6. Time Zone": "US/Eastern",
    }
    return json.dumps({"Meta Data": meta, "Time Series (1min)": rows}, indent=4).encode()


def coingecko() -> bytes:
    half_hours = [START + dt.timedelta(minutes=30 * at) for at in range(COUNT)]
    return packed([[unix(when) * 1000, *four] for when, four in zip(half_hours, prices(2), strict=True)])


def tradestation() -> bytes:
    names = ("Open", "High", "Low", "Close")
    bars = [
        {**{name: f"{price:.2f}" for name, price in zip(names, four, strict=True)},
         "TimeStamp": f"{when:%Y-%m-%dT%H:%M:%SZ}",
         "TotalVolume": str(900 + at * 7), "DownTicks": at + 5, "DownVolume": at * 3 + 100, "OpenInterest": "0",
         "IsRealtime": False, "IsEndOfHistory": False, "TotalTicks": 2 * at + 11, "UnchangedTicks": 0,
         "UnchangedVolume": 0, "UpTicks": at + 6, "UpVolume": at * 4 + 200, "Epoch": unix(when) * 1000,
         "BarStatus": "Closed"}
        for at, (when, four) in enumerate(zip(MINUTES, prices(4), strict=True))
    ]  # fmt: skip
    return packed({"Bars": bars})


REPLIES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "kraken": (kraken, "XBTUSD", "1m"),
    "alpaca": (alpaca, "AAPL", "1m"),
    "alphavantage": (alphavantage, "IBM", "1m"),
    "coingecko": (coingecko, "bitcoin/usd", "30m"),
    "tradestation": (tradestation, "MSFT", "1m"),
}


def job(name: str, make: Callable[[], bytes], symbol: str, timeframe: str) -> tuple[int, Callable[[], None]]:
    """The bytes of a reply, and how to parse it."""
    provider, body = find_provider(name), make()
    settings = tuple((one.name, one.allowed[0]) for one in provider.settings if one.is_of_series)
    series = Series(name, None, symbol, parse_timeframe(timeframe), "candles", settings)

    def parse() -> None:
        count = provider.feed("candles").parse(body, series).count
        # CoinGecko's newest candle may still form, and is never taken.
        assert COUNT - 1 <= count <= COUNT, count

    return len(body), parse


def month() -> bytes:
    """The text of a month of 1m as the archive has it: 43,200 rows."""
    chance, last, rows = random.Random(1), 43_000.0, []
    for open_ms in range(1_704_067_200_000, 1_704_067_200_000 + 43_200 * 60_000, 60_000):
        first, last = last, last * (1 + chance.gauss(0, 1e-4))
        volume = chance.expovariate(1 / 30)
        rows.append(
            f"{open_ms},{first:.8f},{max(first, last) * 1.0001:.8f},{min(first, last) * 0.9999:.8f},{last:.8f},"
            f"{volume:.8f},{open_ms + 59_999},{volume * last:.8f},{int(volume * 30)},{volume / 2:.8f},"
            f"{volume * last / 2:.8f},0\n"
        )
    return "".join(rows).encode()


def readers() -> dict[str, quick.Read | None]:
    """Ours, and those of other packages that are installed and exact."""
    found: dict[str, quick.Read | None] = {"ours": None}
    for name, make in quick.READERS.items():
        try:
            read = make()
        except ImportError:
            continue
        if quick.is_exact(read):
            found[name] = read
    return found


def choose(read: quick.Read | None, inflater: Any) -> None:
    """Read and unpack by these from now on."""
    quick.find_reader = lambda: read  # type: ignore[assignment]
    unzip.find_zlib = lambda: inflater  # type: ignore[assignment]


def month_jobs(text: bytes, packed: bytes) -> dict[str, Callable[[], object]]:
    """What to do with the month, in the order of the table; each begins with what others are held against."""
    series = Series("binance", None, "BTCUSDT", parse_timeframe("1m"), "candles")
    file = find_file(series, 1_704_067_200_000, monthly=True)
    assert file is not None
    inflaters = {"zlib": zlib, **({"isal": find_zlib()} if find_zlib() is not zlib else {})}

    def parse(read: quick.Read | None) -> None:
        choose(read, zlib)
        pieces = (text[at : at + CSV_PIECE_BYTES] for at in range(0, len(text), CSV_PIECE_BYTES))
        assert sum(len(columns[0]) for columns in iter_csv(pieces, KLINE)) == 43_200

    def unpack(inflater: Any) -> None:
        choose(None, inflater)
        assert sum(map(len, unzip.unzip(packed, "BTCUSDT-1m-2024-01.csv", len(text)))) == len(text)

    def read_month(read: quick.Read | None, inflater: Any) -> None:
        choose(read, inflater)
        assert read_file(packed, file, series).count == 43_200

    jobs: dict[str, Callable[[], object]] = {}
    for name, inflater in inflaters.items():
        jobs[f"unpack: {name}"] = lambda inflater=inflater: unpack(inflater)
    for name, read in readers().items():
        jobs[f"parse: {name}"] = lambda read=read: parse(read)
    jobs["parse: bare read_csv"] = lambda: pd.read_csv(io.BytesIO(text), header=None)
    for (unpacker, inflater), (name, read) in itertools.product(inflaters.items(), readers().items()):
        jobs[f"file: {unpacker}, {name}"] = lambda read=read, inflater=inflater: read_month(read, inflater)
    jobs["file: bare read_csv"] = lambda: pd.read_csv(io.BytesIO(packed), compression="zip", header=None)
    return jobs


def side_by_side(work: Callable[[], object]) -> float:
    """The wall time in s for each of two times that two threads do it at once."""
    threads = [threading.Thread(target=work) for _ in range(2)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / 2


def print_month(rounds: int) -> None:
    """Print what a month costs to unpack and to read."""
    text, made = month(), io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-1m-2024-01.csv", text)
    jobs = month_jobs(text, made.getvalue())
    times: dict[str, list[float]] = {name: [] for name in jobs}
    walls: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, work in jobs.items():
            began = time.process_time()
            work()
            times[name].append(time.process_time() - began)
            walls[name].append(side_by_side(work))
    print(f"\na month of 1m, {len(text) / 1e6:.1f} MB in {len(made.getvalue()) / 1e6:.1f} MB, pandas {pd.__version__}")
    print(f"{'':<28}{'ms':>8}{'ratio':>8}{'ms, two threads':>18}")
    first = ""
    for name, each in times.items():
        first = first if first.partition(":")[0] == name.partition(":")[0] else name
        ratio = statistics.median(one / other for one, other in zip(each, times[first], strict=True))
        wall = statistics.median(walls[name])
        print(f"{name:<28}{statistics.median(each) * 1e3:>8.1f}{ratio:>8.2f}{wall * 1e3:>18.1f}")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, metavar="N")
    rounds = parser.parse_args(words).rounds
    jobs = {name: job(name, *facts) for name, facts in REPLIES.items()}
    _, usual = job("binance", binance, "BTCUSDT", "1m")
    print(f"python tests/benchmarks/parsing.py, {platform.python_version()}, numpy {np.__version__}, {rounds} rounds")
    print(f"{'provider':<14}{'bytes a row':>12}{'us for 1,000':>14}{'of Binance':>12}{'ratio':>8}")
    is_slow = False
    for name, (size, parse) in jobs.items():
        ours, theirs = [], []
        for _ in range(rounds):
            for times, work in ((ours, parse), (theirs, usual)):
                began = time.process_time()
                work()
                times.append(time.process_time() - began)
        ratio = min(ours) / min(theirs)
        is_slow = is_slow or ratio > BAR
        print(f"{name:<14}{size / COUNT:>12.0f}{min(ours) * 1e6:>14.0f}{min(theirs) * 1e6:>12.0f}{ratio:>8.2f}")
    print_month(max(1, rounds // 20))
    print(f"more than {BAR:g} times Binance's" if is_slow else f"none more than {BAR:g} times Binance's")
    return 1 if is_slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
