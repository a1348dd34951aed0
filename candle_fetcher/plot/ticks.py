"""Labels of a time axis out of which hours are cut: plotly would set several of them at the end of a night."""

from __future__ import annotations

from typing import Any

import numpy as np

from candle_fetcher.core.candles import Int64s
from candle_fetcher.core.thinning import starts
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.plot.themes import time_of

_MOST, _FEWEST = 14, 3
_LEVELS = (("1d", "%d %b"), ("1w", "%d %b"), ("1M", "%b"), ("3M", "%b"), ("12M", "%Y"), ("60M", "%Y"))


def session_ticks(opens_ms: Int64s) -> dict[str, Any]:
    """Return labels at the first candle of each day, week, month, quarter or year, as of an axis of plotly; nothing for
    candles of so few days that plotly's own labels are better."""
    levels = ((form, opens_ms[starts(parse_timeframe(name).ordinals(opens_ms))]) for name, form in _LEVELS)
    form, firsts = next((level for level in levels if len(level[1]) <= _MOST), ("%Y", opens_ms[:0]))
    if len(firsts) < _FEWEST:
        return {}
    days = [one.item() for one in firsts.astype("M8[ms]").astype("M8[D]")]
    texts = [f"{one:{form}}".lstrip("0") for one in days]
    if form != "%Y":  # the first one, and the first of each year, say the year
        years = np.array([one.year for one in days])
        news = np.diff(years, prepend=0) != 0
        texts = [f"{text}<br>{year}" if new else text for text, year, new in zip(texts, years, news, strict=True)]
    return {"tickmode": "array", "tickvals": [time_of(int(ms)) for ms in firsts], "ticktext": texts}
