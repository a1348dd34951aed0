"""Values in frames of streams that are JSON numbers and RFC 3339 times, read strictly."""

from __future__ import annotations

import math

from candle_fetcher.core.text.objects import rfc3339_ms


def read_number(value: object) -> float:
    """Return a finite number. Raises ValueError for any other value."""
    if type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is float and math.isfinite(value):
        return value
    raise ValueError


def read_price(value: object) -> float:
    """Return a price; NaN where there is none, which is sent as 0 or null."""
    return math.nan if value is None else read_number(value) or math.nan


def read_time_ms(value: object) -> int:
    """Return the Unix ms of a time such as 2026-10-06T18:06:00.000000000Z, rounded down."""
    found = rfc3339_ms(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError
    return found


def read_text(value: object) -> str:
    """Return a text of at most 100 characters, such as a symbol."""
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise ValueError
    return value
