"""When an exchange is open, out of exchange_calendars: a slot in which it is closed lacks no candle."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from candle_fetcher.core.candles import Int64s
from candle_fetcher.core.errors import MissingExtra
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# Sessions are read from the beginning of a decade on, so that few calendars are made.
_DECADE_DAYS = 3_653

# One thread at a time makes a calendar, which takes a while, and silences what is warned of meanwhile.
_making = threading.RLock()

OpenParts = Callable[[Span], list[Span]]


def find_open_parts(calendar: str, timeframe: Timeframe, since_ms: int) -> OpenParts:
    """Return a function that returns the slots of a hole that an open session touches, for times from `since_ms` on.

    Regular sessions count, half days up to their early close; trade before and after them needs no candle. Raises
    MissingExtra without exchange_calendars.
    """
    with _making:
        known, opens, closes = _sessions(calendar, since_ms // DAY_MS // _DECADE_DAYS)

    def open_parts(hole: Span) -> list[Span]:
        first = int(np.searchsorted(closes, hole.start_ms, "right"))
        stop = int(np.searchsorted(opens, hole.end_ms, "left"))
        parts = subtract(hole, [known])  # no calendar says anything about it
        for start_ms, end_ms in zip(opens[first:stop].tolist(), closes[first:stop].tolist(), strict=True):
            first_ms, last_ms = max(start_ms, hole.start_ms), min(end_ms, hole.end_ms)
            slots = Span(timeframe.floor_ms(first_ms), timeframe.ceil_ms(last_ms))
            parts.append(slots.clip(hole))
        return merge(part for part in parts if part)

    return open_parts


@functools.lru_cache(maxsize=16)
def _sessions(calendar: str, decade: int) -> tuple[Span, Int64s, Int64s]:
    """Return the span of which the sessions are known, from the decade on, and when they open and close, in Unix ms."""
    try:
        import exchange_calendars
    except ImportError as error:
        raise MissingExtra(
            "calendars", "Telling a stock's gaps from the hours in which its exchange is closed"
        ) from error
    first_ms = decade * _DECADE_DAYS * DAY_MS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas: no user can mend them
        try:
            made = exchange_calendars.get_calendar(calendar, start=_date(first_ms))
        except ValueError:  # not so far back, or not so far ahead: its own years serve
            made = exchange_calendars.get_calendar(calendar)
            bound = made.bound_min()
            first_ms = max(first_ms, _ms_of(made.first_session if bound is None else bound))
            if first_ms <= _ms_of(made.last_session):
                made = exchange_calendars.get_calendar(calendar, start=_date(first_ms))
        known, schedule = Span.between(first_ms, _ms_of(made.last_session) + DAY_MS), made.schedule
    opens, closes = (
        schedule[name].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
        for name in ("open", "close")
    )
    return known, opens, closes


def _date(ms: int) -> str:
    return str(np.datetime64(ms, "ms").astype("M8[D]"))


def _ms_of(day: Any) -> int:
    """Return a day of a calendar in Unix ms."""
    return int(day.to_datetime64().astype("M8[ms]").astype(np.int64))
