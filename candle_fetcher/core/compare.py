"""Where two sides disagree about the same candles: value by value, or coarse candles against finer ones."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.candles import INTEGERS, MISSING, OHLCV, Candles, Float64s, Int64s, no_candles
from candle_fetcher.core.resample import aggregate
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe

_TIMES = ("open_time", "close_time")
# Wide enough for the sum of any number of float64 prices or volumes as they are printed.
_DIGITS = Context(prec=800)


class Differences(NamedTuple):
    """A place in each for every value that differs, by time and then by column; NaN where a side has no candle.

    `compared` counts the candles that were looked at, those that only one side has among them.
    """

    open_ms: Int64s
    columns: npt.NDArray[np.str_]
    ours: Float64s
    theirs: Float64s
    compared: int


def find_differences(ours: Candles, theirs: Candles, names: Sequence[str] | None = None) -> Differences:
    """What differs, bit for bit, in the named columns, or in all that both sides have but for the times.

    Candles are the same candle where they open at the same instant; a candle of one side alone differs in every column.
    """
    if names is None:
        names = [name for name in ours.names if name in theirs.names and name not in _TIMES]
    opens = np.union1d(ours.open_ms, theirs.open_ms)
    here = np.array([_spread(ours, name, opens) for name in names]).reshape(len(names), opens.size)
    there = np.array([_spread(theirs, name, opens) for name in names]).reshape(len(names), opens.size)
    at, column = np.nonzero(((here != there) & ~(np.isnan(here) & np.isnan(there))).T)
    return Differences(opens[at], np.array(names, np.str_)[column], here[column, at], there[column, at], opens.size)


def _spread(candles: Candles, name: str, opens: Int64s) -> Float64s:
    """The column with a place for each of the opens, NaN where there is no candle."""
    values = np.full(opens.size, np.nan)
    at = np.searchsorted(opens, candles.open_ms)
    values[at] = candles.integers(name) if name in INTEGERS else candles.floats(name)
    if name in INTEGERS:
        values[at[candles.integers(name) == MISSING]] = np.nan
    return values


def find_borders(coarse: Candles, timeframe: Timeframe, span: Span) -> Int64s:
    """The instants at which the finer candles of the span are to be cut, in order.

    A coarse candle begins where it opens, on the grid or off it. A slot without one begins at its border, or later, at
    the end of the candle that runs over it.
    """
    opens = coarse.open_ms
    wanted = timeframe.slots(span)
    slots = np.arange(wanted.start, wanted.stop, dtype=np.int64)
    empty = timeframe.opens_ms(np.setdiff1d(slots, timeframe.ordinals(opens)))
    before = np.searchsorted(opens, empty) - 1
    has_one = before >= 0
    empty[has_one] = np.maximum(empty[has_one], ends_ms(opens[before[has_one]], timeframe))
    return np.sort(np.concatenate([opens, empty]))


def ends_ms(opens: Int64s, timeframe: Timeframe) -> Int64s:
    """`timeframe.close_ms` of each."""
    step = timeframe.step_ms
    return timeframe.opens_ms(timeframe.ordinals(opens) + 1) if step is None else opens + step


def find_differences_with_finer(coarse: Candles, fine: Candles, borders: Int64s) -> Differences:
    """What differs between coarse candles and the finer ones put together, cut at the borders.

    Prices and volumes have to be equal exactly: a volume is held against the sum of the finer ones as they are printed,
    not as floats add up. The finer candles may be an incomplete set; no trade is in what was never there.
    """
    names = ("open_time", *OHLCV)
    fine = fine.pick(names)
    runs = np.searchsorted(borders, fine.open_ms, side="right") - 1
    fine = Candles(names, fine.block[:, runs >= 0])
    runs = runs[runs >= 0]
    firsts = np.flatnonzero(np.diff(runs, prepend=-1))
    made = aggregate(fine, firsts, borders[runs[firsts]]) if fine.count else no_candles(names)
    found = find_differences(coarse, made, OHLCV)
    theirs = found.theirs.copy()
    stops = np.append(firsts[1:], fine.count)
    for at in np.flatnonzero((found.columns == "volume") & np.isfinite(theirs)).tolist():
        run = int(np.searchsorted(made.open_ms, found.open_ms[at]))
        theirs[at] = _exact_sum(fine.floats("volume")[firsts[run] : stops[run]].tolist())
    differs = ~(found.ours == theirs)
    return Differences(
        found.open_ms[differs], found.columns[differs], found.ours[differs], theirs[differs], found.compared
    )


def _exact_sum(values: Sequence[float]) -> float:
    """The float64 of the sum of the values as they are printed, which their texts still are."""
    return float(reduce(_DIGITS.add, (Decimal(repr(value)) for value in values), Decimal(0)))
