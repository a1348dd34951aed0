"""What a frame of candles amounts to, in a few figures."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.frame import MANIFEST, find_gaps, index_ms


def summary(frame: pd.DataFrame, symbol: str | None = None, timeframe: str | None = None) -> dict[str, Any]:
    """Count, first and last open time, missing candles, and the highest, lowest, total and mean figures; JSON-able.

    Symbol and timeframe are those of the frame's manifest unless given. `gaps` counts the missing candles between the
    first and the last row; None without a timeframe. `avg_price` is the mean close. A figure that is not there is None.
    Raises InputError where a column is missing.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"expected a frame of candles, got {type(frame).__name__}")
    lacking = [name for name in ("high", "low", "close", "volume") if name not in frame]
    if lacking:
        raise InputError(f"expected a frame of candles; it lacks the columns {', '.join(lacking)}")
    manifest = frame.attrs.get(MANIFEST) or {}
    symbol = symbol or manifest.get("symbol")
    timeframe = timeframe or manifest.get("timeframe")
    gaps: int | None = None
    if timeframe is not None:
        gaps = int(find_gaps(frame, timeframe)["count"].sum())
    open_ms = index_ms(frame)
    empty = not open_ms.size
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "candles": {
            "count": int(open_ms.size),
            "start_time": None if empty else iso(int(open_ms.min())),
            "end_time": None if empty else iso(int(open_ms.max())),
            "gaps": gaps,
            "statistics": {
                "highest_price": None if empty else _figure(frame["high"].max()),
                "lowest_price": None if empty else _figure(frame["low"].min()),
                "total_volume": None if empty else _figure(frame["volume"].sum()),
                "avg_price": None if empty else _figure(frame["close"].mean()),
            },
        },
    }


def _figure(value: Any) -> float | None:
    """None for what JSON has no number for."""
    return None if pd.isna(value) or not math.isfinite(value) else float(value)
