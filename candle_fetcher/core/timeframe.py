"""The candle grid. Every slot has a number, so that rounding, counting, splitting and finding gaps use integers.

Slot 0 holds 1970-01-01T00:00Z. Seconds, minutes, hours and days count from there; weeks open on Monday, so their slot 0
opens on 1969-12-29; months are calendar months. A real candle may open off the border of its slot (after an outage, or
Binance's 3d candles, which are anchored per symbol): it belongs to the slot that holds its time, and keeps that time.

All times are UTC integer milliseconds.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import InputError, nearest, shown
from candle_fetcher.core.spans import Span

SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS

# 1969-12-29 is the Monday before 1970-01-01: weeks are counted from there.
_MONDAY_MS = -3 * DAY_MS
_UNIT_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": WEEK_MS}
# By unit: the start of slot 0, and the length of the unit.
_GRID = {unit: (_MONDAY_MS if unit == "w" else 0, length_ms) for unit, length_ms in _UNIT_MS.items()}
_PATTERN = re.compile(r"([1-9][0-9]{0,4})([A-Za-z]+)")
# In any case of letters, except that m is a minute and M a month: no text has two meanings.
_WORDS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
    "w": ("w", "week", "weeks"),
    "M": ("mo", "month", "months"),
}
_UNITS = {word: unit for unit, words in _WORDS.items() for word in words}
# What is not taken, and most likely meant so.
_LIKELY = {"t": "m", "hourly": "h", "daily": "d", "weekly": "w", "monthly": "M", "mon": "M", "mth": "M", "wk": "w"}
# A length is the same timeframe in every unit: 60m is 1h. Not so weeks: 7d counts from a Thursday.
_CLIMB = (("s", 60, "m"), ("m", 60, "h"), ("h", 24, "d"))

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A candle length: `count` times s, m, h, d, w (Monday weeks) or M (calendar months)."""

    count: int
    unit: str

    @property
    def name(self) -> str:
        return f"{self.count}{self.unit}"

    @property
    def step_ms(self) -> int | None:
        """The length in milliseconds; None for months, which differ."""
        return None if self.unit == "M" else self.count * _UNIT_MS[self.unit]

    @property
    def nominal_ms(self) -> int:
        """The length in milliseconds, a month taken as 30 days; for estimates only."""
        return self.step_ms or self.count * 30 * DAY_MS

    def ordinal(self, ms: int) -> int:
        """Return the number of the slot that holds the instant."""
        if self.unit == "M":
            month = int(np.datetime64(ms // DAY_MS, "D").astype("datetime64[M]").astype(np.int64))
            return month // self.count
        origin_ms, unit_ms = _GRID[self.unit]
        return (ms - origin_ms) // (self.count * unit_ms)

    def open_ms(self, ordinal: int) -> int:
        """Return the instant at which the slot opens."""
        if self.unit == "M":
            day = np.datetime64(ordinal * self.count, "M").astype("datetime64[D]").astype(np.int64)
            return int(day) * DAY_MS
        origin_ms, unit_ms = _GRID[self.unit]
        return origin_ms + ordinal * self.count * unit_ms

    def floor_ms(self, ms: int) -> int:
        """Return the opening of the slot that holds the instant."""
        if self.unit == "M":
            return self.open_ms(self.ordinal(ms))
        origin_ms, unit_ms = _GRID[self.unit]
        return ms - (ms - origin_ms) % (self.count * unit_ms)

    def ceil_ms(self, ms: int) -> int:
        """Return the first opening of a slot at or after the instant."""
        return self.open_ms(self.first_slot(ms))

    def ordinals(self, ms: Int64s) -> Int64s:
        """Return `ordinal` of each instant."""
        if self.unit == "M":
            months = (ms // DAY_MS).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
            return months // self.count
        origin_ms, unit_ms = _GRID[self.unit]
        return (ms - origin_ms) // (self.count * unit_ms)

    def opens_ms(self, ordinals: Int64s) -> Int64s:
        """Return `open_ms` of each slot."""
        if self.unit == "M":
            days = (ordinals * self.count).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
            return days * DAY_MS
        origin_ms, unit_ms = _GRID[self.unit]
        return origin_ms + ordinals * (self.count * unit_ms)

    def first_slot(self, ms: int) -> int:
        """Return the first slot that opens at or after the instant.

        A range [ms, …) begins with it, and a range [.., ms) ends before it.
        """
        slot = self.ordinal(ms)
        return slot if self.open_ms(slot) == ms else slot + 1

    def slots(self, span: Span) -> range:
        """Return the slots that open in the span."""
        return range(self.first_slot(span.start_ms), self.first_slot(span.end_ms))

    def span(self, first: int, stop: int) -> Span:
        """Return the span from the opening of slot `first` to the opening of slot `stop`."""
        return Span(self.open_ms(first), self.open_ms(stop))

    def close_ms(self, open_ms: int) -> int:
        """Return when a candle that opened at `open_ms` is over; months by the calendar."""
        if self.unit == "M":
            return self.open_ms(self.ordinal(open_ms) + 1)
        return open_ms + self.count * _UNIT_MS[self.unit]

    def divides(self, other: Timeframe) -> bool:
        """Return whether each slot of `other` consists of whole slots of this timeframe."""
        if "M" in (self.unit, other.unit):
            return (self.unit == other.unit and other.count % self.count == 0) or (
                self.unit in "smhd" and DAY_MS % self.nominal_ms == 0
            )
        step = self.nominal_ms
        return other.nominal_ms % step == 0 and (_GRID[other.unit][0] - _GRID[self.unit][0]) % step == 0

    def __str__(self) -> str:
        return self.name


def parse_timeframe(text: str) -> Timeframe:
    """Return the timeframe of a text: a count and s, m, h, d, w or M, or a word for it, such as 1m, 45m, 4hours, 1M.

    Case matters for m (minute) and M (month) alone. Equal lengths are the same timeframe: 60m is 1h, 24h is 1d. Raises
    InputError for other texts.
    """
    found = _parse(text) if isinstance(text, str) else None
    if found is None:
        raise InputError(
            f"unknown timeframe {shown(text)}; expected a count and a unit s, m, h, d, w or M, such as 1m, 15m, 4h, "
            f"1d, 1w or 1M, or words such as 1min, 4hours, 1month{_hint(text if isinstance(text, str) else '')}"
        )
    return found


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Timeframe | None:
    match = _PATTERN.fullmatch(text)
    unit = None if match is None else _unit(match[2])
    if match is None or unit is None:
        return None
    count = int(match[1])
    for smaller, factor, larger in _CLIMB:
        if unit == smaller and count % factor == 0:
            count, unit = count // factor, larger
    return Timeframe(count, unit)


def _unit(word: str) -> str | None:
    return word if word in ("m", "M") else _UNITS.get(word.lower())


def _hint(text: str) -> str:
    """Return what 5T, h1, 1hh, 4hous, daily or `1 h` most likely means, as the end of a message."""
    match = re.fullmatch(r"\s*([1-9][0-9]{0,4})?\s*([A-Za-z]+)\s*", text)
    turned = re.fullmatch(r"\s*([A-Za-z]+)([1-9][0-9]{0,4})\s*", text)
    if turned is not None and _unit(turned[1]) is not None:
        return f". Did you mean {turned[2]}{_unit(turned[1])}?"
    unit = None if match is None else _unit(match[2]) or _LIKELY.get(match[2].lower())
    if match is not None and unit is None:
        word = match[2].lower()
        meant = word[0] if set(word) == {word[0]} else nearest(word, [one for one in _UNITS if len(one) > 2])
        unit = _unit(meant or "")
    return "" if match is None or unit is None else f". Did you mean {match[1] or '1'}{unit}?"
