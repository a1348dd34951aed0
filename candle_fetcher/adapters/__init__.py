"""Frames of candles as other tools take them: frames in, objects of the tool or files for it out.

    Bars         a frame, checked: closed candles in order, and the facts of its manifest
      -> tables    backtesting.py, freqtrade, prophet, statsforecast: a DataFrame, which keeps the manifest in `attrs`
      -> objects   backtrader, nautilus: objects of the tool, stamped with closing times
      -> files     freqtrade, Lean, zipline: files where the tool looks for them

A candle that still forms is left out with a warning. A fact that the tool cannot hold, such as invented rows, is warned
of; what would become a wrong value is refused.
"""

from __future__ import annotations

from candle_fetcher.adapters.lean import to_lean
from candle_fetcher.adapters.objects import to_backtrader, to_nautilus
from candle_fetcher.adapters.tables import to_backtesting, to_freqtrade, to_prophet, to_statsforecast
from candle_fetcher.adapters.tool_files import to_zipline, write_freqtrade

__all__ = [
    "to_backtesting",
    "to_backtrader",
    "to_freqtrade",
    "to_lean",
    "to_nautilus",
    "to_prophet",
    "to_statsforecast",
    "to_zipline",
    "write_freqtrade",
]
