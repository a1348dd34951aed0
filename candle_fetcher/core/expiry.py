"""How long the answer "there is no candle" is valid before the provider is asked again.

All times are UTC milliseconds of the provider's clock.
"""

from __future__ import annotations

from candle_fetcher.core.spans import ALL_TIME
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS

FOREVER_MS = ALL_TIME.end_ms
# A range that ended longer ago is settled even if this machine's clock is wrong by up to two days.
NEAR_MS = 2 * DAY_MS
_YOUNG_MS = 2 * DAY_MS


def ask_again_ms(end_ms: int, asked_ms: int, late_rows_ms: int = 0) -> int:
    """Return when a hole that ends at `end_ms`, and was last requested at `asked_ms`, is requested again.

    A hole that was younger than two days then is requested after an hour, an older one after 30 days. One that was
    younger than `late_rows_ms` may be a late row: it is requested once it is older than that, if this is sooner.
    """
    age_ms = asked_ms - end_ms
    again_ms = asked_ms + (HOUR_MS if age_ms < _YOUNG_MS else 30 * DAY_MS)
    return min(again_ms, end_ms + late_rows_ms) if age_ms < late_rows_ms else again_ms


def is_due(end_ms: int, asked_ms: int, now_ms: int, late_rows_ms: int = 0) -> bool:
    """Return whether a hole that ends at `end_ms`, and was last requested at `asked_ms`, has to be requested again now.

    False where `now_ms` is 0, which means that no source may be asked. True where `asked_ms` lies more than an hour in
    the future, since the clock was wrong at that request.
    """
    return now_ms >= ask_again_ms(end_ms, asked_ms, late_rows_ms) or 0 < now_ms < asked_ms - HOUR_MS
