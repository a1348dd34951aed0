"""What a frame of candles amounts to, in a few figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.frame import MANIFEST, find_gaps, index_ms


def summary(frame: pd.DataFrame, symbol: str | None = None, timeframe: str | None = None) -> dict[str, Any]:
    """Count, first and last open time, missing candles, and the highest, lowest, total and mean figures; JSON-able.

    Symbol and timeframe are those of the frame's manifest unless given. `gaps` counts the missing candles between the
    first and the last row, or those that the manifest counts; None without a timeframe. `avg_price` is the mean close.
    Raises InputError where a column is missing.
    """
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
    empty = not len(open_ms)
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "candles": {
            "count": len(open_ms),
            "start_time": None if empty else iso(int(open_ms[0])),
            "end_time": None if empty else iso(int(open_ms[-1])),
            "gaps": gaps,
            "statistics": {
                "highest_price": None if empty else float(frame["high"].max()),
                "lowest_price": None if empty else float(frame["low"].min()),
                "total_volume": None if empty else float(frame["volume"].sum()),
                "avg_price": None if empty else float(frame["close"].mean()),
            },
        },
    }
