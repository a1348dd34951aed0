"""Funding rates as columns: the funding time as `open_time`, the rate, and the mark price (NaN where unknown).

A record has the time that the provider sent, some milliseconds after the hour. The interval between records (8, 4 or 1
h) differs by symbol and changes. So no grid is assumed: only their order is checked.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import CandleFetcherWarning, ReplyError, warn
from candle_fetcher.core.faults import contradiction, out_of_order, outside
from candle_fetcher.core.frame import MANIFEST, index_ms, utc_index
from candle_fetcher.core.gap import iso
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import MINUTE_MS, Timeframe

FUNDING_COLUMNS = ("open_time", "funding_rate", "mark_price")


def check_funding(records: Candles, span: Span) -> Candles:
    """Return the records without equal duplicates, after checking that they are possible.

    Raises ReplyError where they are out of order, contradict each other, lie outside the span, or hold a number that is
    not finite; a mark price may be missing.
    """
    times = records.open_ms
    if not records.count:
        return records
    for stray in (int(times.min()), int(times.max())):
        if not span.start_ms <= stray < span.end_ms:
            raise outside("funding rates", stray, span)
    steps = np.diff(times)
    if (steps < 0).any():
        row = int(np.argmax(steps < 0)) + 1
        raise out_of_order(row + 1, int(times[row]), int(times[row - 1]))
    fine = np.isfinite(records.floats("funding_rate")) & ~np.isinf(records.floats("mark_price"))
    if not fine.all():
        row = int(np.argmin(fine))
        shown = ", ".join(f"{name} {float(records.floats(name)[row])!r}" for name in FUNDING_COLUMNS[1:])
        raise ReplyError(
            f"row {row + 1} ({iso(int(times[row]))}) cannot be a funding rate: {shown}; expected finite numbers"
        )
    twins = np.flatnonzero(steps == 0)
    if twins.size:
        differing = (records.block[:, twins] != records.block[:, twins + 1]).any(axis=0)
        if differing.any():
            row = int(twins[np.argmax(differing)]) + 1
            raise contradiction(f"row {row + 1}", int(times[row]))
        records = Candles(records.names, np.delete(records.block, twins + 1, axis=1))
    return records


def funding_frame(records: Candles) -> pd.DataFrame:
    """Return float64 funding_rate and mark_price, with the funding times as a UTC index named `timestamp`."""
    data = {name: records.floats(name) for name in FUNDING_COLUMNS[1:]}
    return pd.DataFrame(data, index=utc_index(records.open_ms, "timestamp"), copy=False)


def floor_times(frame: pd.DataFrame, floor: Timeframe) -> None:
    """Move each funding time that is late by less than a minute to the border of its slot, in place.

    A record keeps its own time where the border lies before the start in the manifest or is the time of another record.
    `floored` in the manifest says to what, how many moved, by how many ms at most, and which did not. Warn of these.
    """
    manifest = frame.attrs[MANIFEST]
    times = index_ms(frame)
    borders = floor.opens_ms(floor.ordinals(times))
    moves = (times - borders < MINUTE_MS) & (borders >= instant_ms(manifest["start"], "start"))
    wanted = np.where(moves, borders, times)
    found, counts = np.unique(wanted, return_counts=True)
    moves &= ~np.isin(wanted, found[counts > 1])
    moved = moves & (times > borders)
    kept = [iso(ms) for ms in times[~moves & (times > borders)].tolist()]
    frame.index = utc_index(np.where(moves, borders, times), "timestamp")
    most_ms = int((times - borders)[moved].max(initial=0))
    manifest["floored"] = {"to": floor.name, "moved": int(moved.sum()), "most_ms": most_ms, "kept": kept}
    if kept:
        many = f"{len(kept):,} funding times" if len(kept) > 1 else "a funding time"
        warn(
            CandleFetcherWarning(
                f"{many} of {manifest['symbol']} (from {kept[0]} on) could not be moved to {floor}: one is late by a "
                "minute or more, or two would share a time; `floored` in the manifest lists them"
            )
        )
