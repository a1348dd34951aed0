"""Slots without a candle, and instants as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Gap:
    """Slots without a candle: the first and the last missing open time (ms), their number, and the cause."""

    first_ms: int
    last_ms: int
    count: int
    cause: str

    @property
    def first(self) -> str:
        """The first missing open time as text."""
        return iso(self.first_ms)

    @property
    def last(self) -> str:
        """The last missing open time as text."""
        return iso(self.last_ms)


def iso(ms: int) -> str:
    """Return the instant as 2024-01-01T00:00:00Z, with milliseconds only where they are not 0."""
    text = str(np.datetime64(ms, "ms"))
    return (text[:-4] if text.endswith(".000") else text) + "Z"
