"""Floor 5: pictures of candles, by plotly (extra `plot`).

`candle_fetcher.plot` is imported when it is used, and plotly when a picture is made.
"""

from __future__ import annotations

from candle_fetcher.plot.chart import candles
from candle_fetcher.plot.comparison import compare
from candle_fetcher.plot.coverage_map import coverage
from candle_fetcher.plot.saving import save

__all__ = ["candles", "compare", "coverage", "save"]
