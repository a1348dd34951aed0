"""Finds candles that stand out from those around them. An outlier may be true: it is a candle to look at, no error.

- A price jumps and comes back within one candle: its high is above the highs of both neighbours (or its low below their
  lows) by at least 3 %, and by six times what is usual there: the ranges of candles from low to high, the moves from
  close to close, and the ranges of the neighbours themselves. In prices of few digits it is at least ten of the
  smallest steps between prices, so that single steps are none.
- A volume is at least a thousand times the median of those around it, and a hundred times that of both neighbours.

Neighbours are the candles before and after, also across a gap or a night; the first and the last one have no two, and
are not judged. Around a candle are the ten before and the ten after it, as far as there are some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from candle_fetcher.core.candles import Candles, Float64s, join
from candle_fetcher.core.compare import Differences

AROUND = 10  # candles on each side
_JUMP, _RANGES, _STEPS = np.log(1.03), 6, 10
_TIMES, _TIMES_BESIDE = 1000, 100
_COLUMNS = ("high", "low", "volume")


def find_outliers(candles: Candles, first: int = 0, stop: int | None = None) -> Differences:
    """Return the outliers among the candles from index `first` up to `stop`, by time and then by column.

    `ours` is the value, `theirs` that of the neighbours: the higher of their highs, the lower of their lows, the median
    of the volumes around. `columns` are high, low and volume; `compared` is the number of candles that were judged.
    """
    stop = candles.count if stop is None else stop
    count = max(0, min(stop, candles.count - 1) - max(first, 1))  # of those to be judged
    if not count:
        nothing = np.empty(0)
        return Differences(np.empty(0, np.int64), np.empty(0, "U1"), nothing, nothing, count)
    values = {name: candles.floats(name) for name in _COLUMNS}
    beside = {"high": _beside(values["high"], np.maximum), "low": _beside(values["low"], np.minimum)}
    beside["volume"] = _median_around(values["volume"])
    found = {
        **_jumps(values["high"], values["low"], candles.floats("close"), beside),
        "volume": _bursts(values["volume"], beside["volume"]),
    }
    rows = np.column_stack([found[name] for name in _COLUMNS])
    rows[:first] = rows[stop:] = False
    at, column = np.nonzero(rows)
    ours, theirs = (np.column_stack([one[name] for name in _COLUMNS])[at, column] for one in (values, beside))
    return Differences(candles.open_ms[at], np.array(_COLUMNS, np.str_)[column], ours, theirs, count)


def find_outliers_in_parts(parts: Iterable[Candles]) -> Iterator[Differences]:
    """Yield the outliers among candles that come in parts, in order: the same as among all of them at once.

    The candles at the end of a part are judged with the next one, beside all that are around them. Nothing is yielded
    where there are fewer than three.
    """
    before: Candles | None = None
    for part in parts:
        candles = part if before is None else join([before, part])
        yield from _some(find_outliers(candles, _first(before), max(0, candles.count - AROUND)))
        before = Candles(candles.names, candles.block[:, -2 * AROUND :].copy())
    if before is not None:
        yield from _some(find_outliers(before, _first(before)))


def _some(found: Differences) -> Iterator[Differences]:
    """Yield it if a candle was judged."""
    if found.compared:
        yield found


def _first(before: Candles | None) -> int:
    return 0 if before is None else max(0, before.count - AROUND)


def _jumps(
    high: Float64s, low: Float64s, close: Float64s, beside: dict[str, Float64s]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which highs and lows jump and come back."""
    with np.errstate(divide="ignore", invalid="ignore"):  # prices of 0 and below are never found to jump
        ranges = np.log(high / low)
        moves = np.abs(np.diff(np.log(close), prepend=np.nan))
        usual = np.fmax(_beside(ranges, np.maximum), np.fmax(_median_around(ranges), _median_around(moves)))
        rises = np.log(high / beside["high"]), (high - beside["high"]) / _step(high, low)
        falls = np.log(beside["low"] / low), (beside["low"] - low) / _step(high, low)
        return {
            name: (by >= _JUMP) & (by >= _RANGES * usual) & (steps >= _STEPS) & (low > 0) & np.isfinite(by)
            for name, (by, steps) in (("high", rises), ("low", falls))
        }


def _bursts(volume: Float64s, around: Float64s) -> npt.NDArray[np.bool_]:
    """Return which volumes are a thousand times those around; where nothing is traded around, none."""
    with np.errstate(invalid="ignore"):
        return (around > 0) & (volume >= _TIMES * around) & (volume >= _TIMES_BESIDE * _beside(volume, np.maximum))


def _beside(values: Float64s, choose: np.ufunc) -> Float64s:
    """Return the larger or the smaller value of the two neighbours; NaN for the first and the last one."""
    made = np.full(len(values), np.nan)
    made[1:-1] = choose(values[:-2], values[2:])
    return made


def _median_around(values: Float64s) -> Float64s:
    """Return for each value the median of those around it, without the value itself."""
    spread = np.concatenate([np.full(AROUND, np.nan), values, np.full(AROUND, np.nan)])
    around = sliding_window_view(spread, 2 * AROUND + 1)
    made = np.full(len(values), np.nan)
    for at in range(0, len(values), 1 << 16):  # of bounded memory
        part = np.delete(around[at : at + (1 << 16)], AROUND, axis=1)
        part.sort(axis=1)  # NaN comes last
        known = (~np.isnan(part)).sum(axis=1)
        rows = np.arange(len(part))
        made[at : at + len(part)] = (part[rows, np.maximum(known - 1, 0) // 2] + part[rows, known // 2]) / 2
    return made


def _step(high: Float64s, low: Float64s) -> float:
    """Return the smallest distance of two prices, 0 where there is one price alone."""
    steps = np.diff(np.unique(np.concatenate([high, low])))
    return float(steps.min(initial=np.inf)) if steps.size else 0.0
