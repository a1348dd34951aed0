"""What comes of checking a file of candles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

NOT_COMPARABLE = "not comparable"
MOST_DIFFERENCES = 1_000


class Difference(NamedTuple):
    """A value of a file that differs from the cache; None on the side that lacks the candle (column `timestamp`)."""

    timestamp: pd.Timestamp
    column: str
    file: float | int | None
    cache: float | int | None


@dataclass(frozen=True)
class FileReport:
    """What `verify_file` found.

    whole: the file reads to its end, its candles are in order, rows and fingerprint are those of its manifest, where it
    has one, and that lists nothing as missing. missing: how many candles it lists, in a partial file. rows: of candles.
    fingerprint: worked out from its values; None where it lacks the columns or nothing says the timeframe. differences:
    values that differ from the cache, the first 1,000; empty where none does, None where the cache does not have the
    candles, "not comparable" where rows are not in order, and for a workbook: its cells keep 16 digits.
    """

    path: Path
    whole: bool
    rows: int
    fingerprint: str | None
    differences: tuple[Difference, ...] | str | None
    missing: int = 0

    @property
    def is_good(self) -> bool:
        """Whether the file is whole and differs nowhere from the cache, as far as that has its candles."""
        return self.whole and (isinstance(self.differences, str) or not self.differences)

    def __str__(self) -> str:
        """Return the report on a line."""
        if self.differences is None:
            said = "not in the cache"
        elif isinstance(self.differences, str):
            said = "not comparable with the cache"
        else:
            said = _count_text(len(self.differences))
        state = "whole" if self.whole else "NOT WHOLE"
        if self.missing:
            state = f"PARTIAL, {self.missing:,} candle{'s' * (self.missing > 1)} missing"
        return f"{self.path.name}: {state}, {self.rows:,} rows, {said}"


def _count_text(count: int) -> str:
    if not count:
        return "equal to the cache"
    more = "+" if count == MOST_DIFFERENCES else ""
    return f"{count:,}{more} values differ from the cache" if count > 1 else "1 value differs from the cache"


class Identity(NamedTuple):
    """The series of a file, as its manifest or its name says."""

    provider: str
    origin: str | None
    symbol: str
    timeframe: str
    kind: str
    settings: Mapping[str, str]
