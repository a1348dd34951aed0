"""What a candle costs to parse, provider by provider, beside what it costs of Binance.

    python tests/benchmarks/parsing.py [--rounds N]

Each reply has 1,000 candles, written as the provider's documentation shows it. CPU time, the least of many rounds, by
turns; exits 1 where a candle costs more than twice what it does of Binance.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np

from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers import find_provider

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
    print(f"more than {BAR:g} times Binance's" if is_slow else f"none more than {BAR:g} times Binance's")
    return 1 if is_slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
