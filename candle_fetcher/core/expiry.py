"""Until when the word about a hole is believed, given now. All times are UTC milliseconds of the provider's clock."""

from __future__ import annotations

from candle_fetcher.core.spans import ALL_TIME
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS

FOREVER_MS = ALL_TIME.end_ms
# A range that ends further back than this is settled whatever our own clock says, if that is right by days.
NEAR_MS = 2 * DAY_MS
_YOUNG_MS = 2 * DAY_MS


def ask_again_ms(end_ms: int, asked_ms: int, late_ms: int = 0) -> int:
    """When a hole that ends there is asked for again: after an hour while younger than two days, else after 30 days.

    One that was younger than `late_ms` when it was asked for may have been a row that was late: it is asked for again
    as soon as that is over, if that is sooner.
    """
    age_ms = asked_ms - end_ms
    again_ms = asked_ms + (HOUR_MS if age_ms < _YOUNG_MS else 30 * DAY_MS)
    return min(again_ms, end_ms + late_ms) if age_ms < late_ms else again_ms


def is_due(end_ms: int, asked_ms: int, now_ms: int, late_ms: int = 0) -> bool:
    """Whether a hole that ends there is to be asked for again; never where `now_ms` is 0: nobody can be asked.

    One that was asked for at a time still to come was so by a clock that was wrong, and is not believed until then.
    """
    return now_ms >= ask_again_ms(end_ms, asked_ms, late_ms) or 0 < now_ms < asked_ms - HOUR_MS
