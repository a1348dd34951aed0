"""Makes coarse candles of fine ones: first open, last close, highest high, lowest low, sums of the other columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from candle_fetcher.core.candles import MISSING, Candles, Float64s, Int64s, candles_from, find_holes
from candle_fetcher.core.errors import NotOffered
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe

_PLACES = 1e8
_EXACT = 2.0**53  # below it every whole number is a float64, so that sums of whole numbers are exact


def base_for(timeframe: Timeframe, native: Sequence[str], provider: str, off_grid: Collection[str] = ()) -> Timeframe:
    """Return the largest native timeframe that divides this one; a native timeframe is its own base.

    Timeframes in `off_grid` are never a base: their candles open elsewhere than their slots. Raises NotOffered where no
    native timeframe divides this one.
    """
    if timeframe.name in native:
        return timeframe
    offered = [parse_timeframe(name) for name in native]
    bases = [base for base in offered if base.divides(timeframe) and base.name not in off_grid]
    if not bases:
        raise NotOffered(
            f"{provider} has no candles that make up {timeframe.name}; it offers {', '.join(native)} "
            "and multiples of them"
        )
    return max(bases, key=lambda base: base.nominal_ms)


def resample(candles: Candles, base: Timeframe, target: Timeframe, span: Span) -> tuple[Candles, list[int]]:
    """Return the target timeframe's candles that open in the span, and the open times of the incomplete ones.

    A slot with at least one fine candle has a candle; it is incomplete where others are missing. Open times are those
    of the slots, close times those of the last fine candle.
    """
    candles = candles.trim(span)
    slots = target.ordinals(candles.open_ms)
    firsts = np.flatnonzero(np.diff(slots, prepend=slots[:1] - 1)) if candles.count else np.empty(0, np.int64)
    made = aggregate(candles, firsts, target.opens_ms(slots[firsts]))
    holes = find_holes(candles.open_ms, base, span)
    holed = {
        target.open_ms(slot)
        for hole in holes
        for slot in range(target.ordinal(hole.start_ms), target.ordinal(hole.end_ms - 1) + 1)
    }
    return made, sorted(holed.intersection(made.open_ms.tolist()))


def aggregate(candles: Candles, firsts: Int64s, opens_ms: Int64s) -> Candles:
    """Return a candle for each run of candles; run n begins at index `firsts[n]`, and its candle at `opens_ms[n]`."""
    columns: list[Int64s | Float64s] = []
    for name in candles.names:
        if name == "open_time":
            columns.append(opens_ms)
        elif not candles.count:
            columns.append(candles.integers(name))
        elif name == "close_time":
            columns.append(candles.integers(name)[np.append(firsts[1:], candles.count) - 1])
        elif name == "trades":
            columns.append(_counts(candles.integers(name), firsts))
        elif name == "open":
            columns.append(candles.floats(name)[firsts])
        elif name == "close":
            columns.append(candles.floats(name)[np.append(firsts[1:], candles.count) - 1])
        elif name in ("high", "low"):
            reduce = np.maximum if name == "high" else np.minimum
            columns.append(reduce.reduceat(candles.floats(name), firsts))
        else:
            columns.append(_sums(candles.floats(name), firsts))
    return candles_from(candles.names, columns)


def _counts(values: Int64s, firsts: Int64s) -> Int64s:
    """Return the sum of each run of counts; MISSING for a run that lacks a count."""
    sums: Int64s = np.add.reduceat(values, firsts)
    missing = values == MISSING
    if missing.any():
        sums[np.logical_or.reduceat(missing, firsts)] = MISSING
    return sums


def _sums(values: Float64s, firsts: Int64s) -> Float64s:
    """Return the sum of each run of values; NaN for a run that lacks a value.

    Decimals of at most eight places are added as integers, which gives the sum as the provider prints it; a sum of
    floats may end at a neighbouring value. Other values are added as floats.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(values * _PLACES)
        sums: Float64s = np.add.reduceat(values, firsts)
        is_decimal = (scaled / _PLACES == values) | np.isnan(values)
        if not is_decimal.all() or not np.nanmax(np.abs(sums), initial=0) < _EXACT / _PLACES:
            return sums
    return np.add.reduceat(scaled, firsts) / _PLACES
