"""When an exchange is open, out of exchange_calendars: a slot in which it is closed lacks no candle."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable

import numpy as np

from candle_fetcher.core.candles import Int64s
from candle_fetcher.core.errors import MissingExtra
from candle_fetcher.core.spans import Span, merge
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# Sessions are read from the beginning of a decade on, so that few calendars are made.
_DECADE_DAYS = 3_653

OpenParts = Callable[[Span], list[Span]]


def find_open_parts(calendar: str, timeframe: Timeframe, since_ms: int) -> OpenParts:
    """A function that tells of a hole which of its slots an open session touches, for times from `since_ms` on.

    Regular sessions count, half days up to their early close; what trades before and after them owes no candle. Raises
    MissingExtra without exchange_calendars.
    """
    opens, closes = _sessions(calendar, since_ms // DAY_MS // _DECADE_DAYS)

    def open_parts(hole: Span) -> list[Span]:
        first = int(np.searchsorted(closes, hole.start_ms, "right"))
        stop = int(np.searchsorted(opens, hole.end_ms, "left"))
        parts = []
        for start_ms, end_ms in zip(opens[first:stop].tolist(), closes[first:stop].tolist(), strict=True):
            slots = Span(
                timeframe.open_ms(timeframe.ordinal(max(start_ms, hole.start_ms))),
                timeframe.open_ms(timeframe.first_slot(min(end_ms, hole.end_ms))),
            )
            parts.append(slots.clip(hole))
        return merge(part for part in parts if part)

    return open_parts


@functools.lru_cache(maxsize=16)
def _sessions(calendar: str, decade: int) -> tuple[Int64s, Int64s]:
    """The opening and closing times of all sessions since the decade, in Unix ms."""
    try:
        exchange_calendars = importlib.import_module("exchange_calendars")
    except ImportError as error:
        raise MissingExtra(
            "calendars", "Telling a stock's gaps from the hours in which its exchange is closed"
        ) from error
    first = np.datetime64(decade * _DECADE_DAYS, "D")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what it uses of pandas is its authors' affair
        schedule = exchange_calendars.get_calendar(calendar, start=str(first)).schedule
    opens, closes = (
        schedule[name].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
        for name in ("open", "close")
    )
    return opens, closes
