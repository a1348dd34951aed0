"""Fills gaps with invented candles, where a call asks for that. Each is marked, and none is ever stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import find_holes
from candle_fetcher.core.frame import index_ms, utc_index
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe

_PRICES = ["open", "high", "low", "close"]
_COUNTS = [
    "volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
    "base_volume", "taker_buy_base_volume",
]  # fmt: skip


def fill_gaps(
    frame: pd.DataFrame,
    timeframe: Timeframe,
    span: Span,
    how: str,
    open_parts: Callable[[Span], list[Span]] = lambda hole: [hole],
) -> pd.DataFrame:
    """Return the frame with a row in every slot from its first row to the end of the span, and `is_synthetic`.

    `open_parts(hole)` gives the parts of a hole to fill. `how="ffill"`: open, high, low and close of an invented row
    are the close before it. `how="interpolate"`: each price lies on the line between its neighbours; a run at the end
    repeats the close before it. Either way, volumes and trades of invented rows are 0, or missing where the row before
    the hole lacks them. Slots before the first row stay empty.
    """
    filled = frame.copy()
    filled["is_synthetic"] = False
    if frame.empty:
        return filled
    open_ms = index_ms(frame)
    found = find_holes(open_ms, timeframe, Span(int(open_ms[0]), span.end_ms))
    holes = [part for hole in found for part in open_parts(hole)]
    if not holes:
        return filled
    slots = np.concatenate(
        [
            np.arange(timeframe.ordinal(hole.start_ms), timeframe.first_slot(hole.end_ms), dtype=np.int64)
            for hole in holes
        ]
    )
    invented = utc_index(timeframe.opens_ms(slots), "timestamp")
    filled = filled.reindex(filled.index.append(invented).sort_values())
    filled.index.name = "timestamp"
    mask = filled["is_synthetic"].isna().to_numpy()
    filled["is_synthetic"] = mask
    close_before = filled["close"].ffill()
    for name in _PRICES:
        if how == "interpolate":
            filled[name] = filled[name].interpolate(method="time", limit_area="inside")
        filled[name] = filled[name].where(filled[name].notna(), close_before)
    row_before = np.cumsum(~mask) - 1
    for name in _COUNTS:
        if name in filled:
            is_known = frame[name].notna().to_numpy()[row_before]
            filled[name] = filled[name].where(~(mask & is_known), 0)
    if "is_closed" in filled:
        filled["is_closed"] = filled["is_closed"].where(~mask, True).astype(bool)
    return filled
