"""Finds differences between two sources of the same candles, and between coarse candles and finer ones."""

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
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

NEIGHBOURS = "neighbours"  # stands in place of a source for outliers
_TIMES = ("open_time", "close_time")
# Enough digits for an exact sum of any number of float64 prices or volumes.
_DIGITS = Context(prec=800)
# Of a range of more candles than this, only so many days are compared with the archive.
WHOLE_ROWS = 10_000
_SAMPLE_DAYS = 8
# A day's file of the archive is published by then.
_LAG_MS = 2 * DAY_MS


class Differences(NamedTuple):
    """One element for each value that differs, by time and then by column; NaN where one side has no candle.

    `compared` is the number of candles compared, including those that only one side has.
    """

    open_ms: Int64s
    columns: npt.NDArray[np.str_]
    ours: Float64s
    theirs: Float64s
    compared: int


def find_differences(ours: Candles, theirs: Candles, names: Sequence[str] | None = None) -> Differences:
    """Return the values that differ, bit for bit, in the named columns.

    Without names, these are all columns that both sides have, except the times. Candles are compared where they open at
    the same instant; a candle that only one side has differs in every column.
    """
    if names is None:
        names = [name for name in ours.names if name in theirs.names and name not in _TIMES]
    opens = np.union1d(ours.open_ms, theirs.open_ms)
    here = np.array([_spread(ours, name, opens) for name in names]).reshape(len(names), opens.size)
    there = np.array([_spread(theirs, name, opens) for name in names]).reshape(len(names), opens.size)
    at, column = np.nonzero(((here != there) & ~(np.isnan(here) & np.isnan(there))).T)
    return Differences(opens[at], np.array(names, np.str_)[column], here[column, at], there[column, at], opens.size)


def _spread(candles: Candles, name: str, opens: Int64s) -> Float64s:
    """Return the column with a place for each of the opens, NaN where there is no candle."""
    values = np.full(opens.size, np.nan)
    at = np.searchsorted(opens, candles.open_ms)
    values[at] = candles.integers(name) if name in INTEGERS else candles.floats(name)
    if name in INTEGERS:
        values[at[candles.integers(name) == MISSING]] = np.nan
    return values


def find_borders(coarse: Candles, timeframe: Timeframe, span: Span) -> Int64s:
    """Return the instants at which the finer candles of the span have to be cut, in order.

    A coarse candle begins where it opens, on the grid or off it. A slot without a candle begins at its border, or at
    the end of a candle that extends into it.
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
    """Return `timeframe.close_ms` of each open time."""
    step = timeframe.step_ms
    return timeframe.opens_ms(timeframe.ordinals(opens) + 1) if step is None else opens + step


def find_differences_with_finer(coarse: Candles, fine: Candles, borders: Int64s) -> Differences:
    """Return the differences between coarse candles and the finer ones put together, cut at the borders.

    Prices and volumes have to be exactly equal: a volume is compared with the sum of the finer volumes as decimals, not
    as floats. The finer candles may be incomplete.
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
    """Return the float64 nearest to the exact sum of the values, each taken as the decimal of its shortest text.

    That text is what the provider sent.
    """
    return float(reduce(_DIGITS.add, (Decimal(repr(value)) for value in values), Decimal(0)))


def find_sample(span: Span, timeframe: Timeframe, now_ms: int) -> list[Span]:
    """Return the parts of the span to compare with an archive: all of it; of a long one, evenly spaced days, the first
    and the last published day among them."""
    if len(timeframe.slots(span)) <= WHOLE_ROWS:
        return [span] if span else []
    end_ms = max(span.start_ms + 1, min(span.end_ms, now_ms - _LAG_MS))
    days = np.linspace(span.start_ms // DAY_MS, (end_ms - 1) // DAY_MS, _SAMPLE_DAYS).round().astype(np.int64)
    return [Span(day * DAY_MS, (day + 1) * DAY_MS).clip(span) for day in dict.fromkeys(days.tolist())]
