"""Makes as many candles as a screen shows: coarser ones, in which each high and low survives.

Pure. A coarse candle has the first open, the highest high, the lowest low, the last close and the sum of the volumes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.candles import Candles, Float64s, Int64s
from candle_fetcher.core.resample import aggregate
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe

MOST = 1500
_LADDER = (
    "1s 2s 5s 10s 15s 30s 1m 2m 3m 5m 10m 15m 20m 30m 1h 2h 3h 4h 6h 8h 12h 1d 2d 3d 1w 2w 4w 1M 2M 3M 6M 12M 24M 60M"
)


class Thinned(NamedTuple):
    """Candles to draw: one for each cell that has any. `firsts` are the indexes at which the cells begin; `cell` is
    None where each candle is drawn as it is."""

    candles: Candles
    firsts: Int64s
    cell: Timeframe | None


def thin(candles: Candles, timeframe: Timeframe | None, most: int = MOST) -> Thinned:
    """Return at most `most` candles, each of whole slots of the timeframe; the candles themselves if they are few."""
    everything = np.arange(candles.count, dtype=np.int64)
    if candles.count <= most:
        return Thinned(candles, everything, None)
    cell = find_cell(candles.open_ms, timeframe, most)
    firsts = starts(cell.ordinals(candles.open_ms))
    return Thinned(aggregate(candles, firsts, cell.opens_ms(cell.ordinals(candles.open_ms[firsts]))), firsts, cell)


def find_cell(opens_ms: Int64s, timeframe: Timeframe | None, most: int) -> Timeframe:
    """Return the shortest usual timeframe of which the candles fill at most `most` slots."""
    base = timeframe or parse_timeframe("1s")
    for name in _LADDER.split():
        cell = parse_timeframe(name)
        if cell.nominal_ms > base.nominal_ms and base.divides(cell) and _count(cell, opens_ms) <= most:
            return cell
    cell = Timeframe(base.count * -(-len(opens_ms) // most), base.unit)
    while _count(cell, opens_ms) > most:
        cell = Timeframe(cell.count * 2, cell.unit)
    return cell


def _count(cell: Timeframe, opens_ms: Int64s) -> int:
    return len(starts(cell.ordinals(opens_ms)))


def starts(slots: Int64s) -> Int64s:
    """Return the indexes at which another slot begins."""
    if not slots.size:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))


def any_of(flags: npt.NDArray[np.bool_], firsts: Int64s) -> npt.NDArray[np.bool_]:
    """Return whether a flag is set in each run; run n begins at index `firsts[n]`."""
    return np.logical_or.reduceat(flags, firsts) if flags.size else flags


def thin_line(opens_ms: Int64s, values: Float64s, most: int = MOST) -> Int64s:
    """Return the indexes of the points of a line to draw: of each of `most` equal parts of time the first, the lowest,
    the highest and the last one. Points without a value stay, so that the line breaks there."""
    if len(opens_ms) <= 4 * most:
        return np.arange(len(opens_ms), dtype=np.int64)
    part_ms = max(1, -(-int(opens_ms[-1] + 1 - opens_ms[0]) // most))
    parts = (opens_ms - opens_ms[0]) // part_ms
    order = np.lexsort((values, parts))  # NaN comes last
    firsts = starts(parts)
    lasts = np.append(firsts[1:], len(parts)) - 1
    known = np.add.reduceat((~np.isnan(values)).astype(np.int64), firsts)
    highest = order[firsts + np.maximum(known - 1, 0)]
    is_break = np.isnan(values) & ~np.isnan(np.append(values[:1], values[:-1]))
    return np.unique(np.concatenate([firsts, lasts, order[firsts], highest, np.flatnonzero(is_break)]))
