"""Frames of candles with the manifest of a fetch, for the tests of the adapters: no exchange is asked for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.gap import iso
from candle_fetcher.core.timeframe import parse_timeframe

PARTS = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def candles(
    count: int = 48,
    timeframe: str = "1h",
    start: str = "2024-01-01",
    *,
    price: float = 42_000.0,
    **facts: Any,
) -> pd.DataFrame:
    """Return so many candles of two decimals, volumes of five, with a manifest in which `facts` replace the usual."""
    grid = parse_timeframe(timeframe)
    first = grid.ordinal(int(pd.Timestamp(start, tz="UTC").timestamp() * 1000))
    opens_ms = grid.opens_ms(np.arange(first, first + count))
    random = np.random.default_rng(7)
    closes = np.round(price * (1 + random.normal(0, 0.001, count).cumsum()), 2)
    opens = np.r_[price, closes[:-1]]
    frame = pd.DataFrame(
        {
            "open": opens,
            "high": np.round(np.maximum(opens, closes) + 1, 2),
            "low": np.round(np.minimum(opens, closes) - 1, 2),
            "close": closes,
            "volume": np.round(random.random(count) * 100, 5),
        },
        index=pd.DatetimeIndex(opens_ms * 1_000_000, tz="UTC", name="timestamp"),
    )
    return describe(frame, timeframe, **facts)


def describe(frame: pd.DataFrame, timeframe: str, **facts: Any) -> pd.DataFrame:
    """Give the frame the manifest of a fetch of its rows."""
    opens_ms = frame.index.as_unit("ms").asi8.tolist()
    frame.attrs["candle_fetcher"] = {
        "provider": "binance",
        "origin": None,
        "symbol": "BTC/USDT",
        "timeframe": timeframe,
        "kind": "candles",
        "start": iso(opens_ms[0]) if opens_ms else "2024-01-01T00:00:00Z",
        "end": iso(parse_timeframe(timeframe).close_ms(opens_ms[-1])) if opens_ms else "2024-01-02T00:00:00Z",
        "expected": len(frame),
        "rows": len(frame),
        "gaps": [],
        "gap_count": 0,
        **facts,
    }
    return frame


def stocks(symbol: str = "AAPL", days: int = 20) -> pd.DataFrame:
    """Return daily candles of a stock, on weekdays. They open at midnight in New York, in summer too."""
    dates = pd.bdate_range("2024-03-01", periods=days)
    frame = candles(days, "1d", price=180.0)
    frame.index = pd.DatetimeIndex(dates.tz_localize("America/New_York").tz_convert("UTC"), name="timestamp")
    frame.index = frame.index.as_unit("ns")
    frame["volume"] = np.round(frame["volume"] * 1e6)
    return describe(frame, "1d", provider="alpaca", symbol=symbol)


def with_gap(frame: pd.DataFrame, first: int, stop: int) -> pd.DataFrame:
    """Return the frame without some rows, which its manifest names as a gap."""
    lost = frame.index[first:stop].as_unit("ms").asi8
    made = frame.drop(frame.index[first:stop])
    gap = {"first": iso(int(lost[0])), "last": iso(int(lost[-1])), "count": len(lost), "cause": "no_candle"}
    made.attrs["candle_fetcher"] = {
        **frame.attrs["candle_fetcher"],
        "rows": len(made),
        "gaps": [gap],
        "gap_count": 1,
    }
    return made


def with_open(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its last candle as one that still forms."""
    made = frame.assign(is_closed=True)
    made.iloc[-1, made.columns.get_loc("is_closed")] = False
    made.attrs["candle_fetcher"] = {
        **frame.attrs["candle_fetcher"],
        "end": iso(int(frame.index[-1].timestamp() * 1000)),
    }
    return made


def with_invented(frame: pd.DataFrame, *rows: int) -> pd.DataFrame:
    """Return the frame with these rows marked as invented."""
    made = frame.assign(is_synthetic=False)
    made.iloc[list(rows), made.columns.get_loc("is_synthetic")] = True
    made.attrs["candle_fetcher"] = {**frame.attrs["candle_fetcher"], "rows": len(frame) - len(rows)}
    return made


def with_missing(frame: pd.DataFrame, first: int, stop: int) -> pd.DataFrame:
    """Return the frame without rows that could not be fetched."""
    made = with_gap(frame, first, stop)
    manifest = made.attrs["candle_fetcher"]
    missing = [{**manifest["gaps"][0], "cause": "fetch_failed"}]
    made.attrs["candle_fetcher"] = {**manifest, "gaps": [], "gap_count": 0, "missing": missing}
    return made
