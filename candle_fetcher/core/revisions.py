"""Revisions: values of settled candles that a provider changed later."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.candles import INTEGERS, MISSING, Int64s
from candle_fetcher.core.entry import Entry


class Revision(NamedTuple):
    """One changed value of one candle: old and new value, and when each was read. Times are Unix ms."""

    open_ms: int
    column: str
    old: float
    new: float
    old_read_ms: int
    new_read_ms: int


def find_revisions(old: Entry, new: Entry) -> list[Revision]:
    """Return the values that differ, among the candles and columns that both entries have."""

    def has(name: str, column: Int64s) -> npt.NDArray[np.bool_]:
        return column != MISSING if name in INTEGERS else ~np.isnan(column.view(np.float64))

    _, ours, theirs = np.intersect1d(old.candles.open_ms, new.candles.open_ms, assume_unique=True, return_indices=True)
    found = []
    for name in old.candles.names[1:]:
        if name not in new.candles.names:
            continue
        before, after = old.candles.integers(name)[ours], new.candles.integers(name)[theirs]
        differ = np.flatnonzero(before != after)
        for at in differ[has(name, before[differ]) & has(name, after[differ])].tolist():
            values = [
                column[at : at + 1] if name in INTEGERS else column[at : at + 1].view(np.float64)
                for column in (before, after)
            ]
            open_ms = int(old.candles.open_ms[ours[at]])
            read_ms = max(old.stored_ms, open_ms)  # a stream's candle opened after the newest reply
            found.append(Revision(open_ms, name, values[0].item(), values[1].item(), read_ms, new.stored_ms))
    return sorted(found)
