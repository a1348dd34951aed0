"""Until when something may be believed, given now. All times are UTC milliseconds of the provider's clock."""

from __future__ import annotations

import numpy as np

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, Timeframe
from candle_fetcher.core.zones import zone

# Binance restates a candle for a moment after its close; what closed this recently is not yet final.
GRACE_MS = 2_000
FOREVER_MS = 2**62
# A range that ends further back than this is settled whatever our own clock says, if that is right by days.
NEAR_MS = 2 * DAY_MS
# A hole that ends this close to now may be a row that the provider has not written yet: it is reported, not remembered.
LAG_MS = 60_000
_YOUNG_MS = 2 * DAY_MS


def settled_end_ms(timeframe: Timeframe, now_ms: int) -> int:
    """The open time of the first slot that is not settled: every slot before it closed at least GRACE_MS ago."""
    return timeframe.open_ms(timeframe.ordinal(now_ms - GRACE_MS))


def close_ms(timeframe: Timeframe, open_ms: int, zone_name: str | None = None) -> int:
    """When a candle that opens there is over. In a zone its days, weeks and months are those of the wall clock: a day
    has 25 hours where the clock is put back, and a month ends at midnight there."""
    if zone_name is None or timeframe.unit not in "dwM":
        return timeframe.close_ms(open_ms)
    local = zone(zone_name)
    opened = int(local.to_local(np.array([open_ms]))[0])
    if local.midnight_ms(np.array([open_ms]))[0] == open_ms:
        opened -= opened % DAY_MS  # a day whose midnight is skipped opens later by the clock
    return int(local.begins_ms(np.array([timeframe.close_ms(opened)]))[0])


def drop_unsettled(candles: Candles, timeframe: Timeframe, now_ms: int, zone_name: str | None = None) -> Candles:
    """The settled candles. A candle off the grid settles by its own open time, later than its slot; see `close_ms`."""
    count = candles.count
    opens = candles.open_ms
    while count and close_ms(timeframe, int(opens[count - 1]), zone_name) > now_ms - GRACE_MS:
        count -= 1
    return candles if count == candles.count else Candles(candles.names, candles.block[:, :count])


def ask_again_ms(end_ms: int, asked_ms: int) -> int:
    """When a hole that ends there is asked for again: after an hour while younger than two days, else after 30 days."""
    young = asked_ms - end_ms < _YOUNG_MS
    return asked_ms + (HOUR_MS if young else 30 * DAY_MS)


def is_due(end_ms: int, asked_ms: int, now_ms: int) -> bool:
    """Whether a hole that ends there is to be asked for again; never where `now_ms` is 0: nobody can be asked.

    One that was asked for at a time still to come was so by a clock that was wrong, and is not believed until then.
    """
    return now_ms >= ask_again_ms(end_ms, asked_ms) or 0 < now_ms < asked_ms - HOUR_MS


def edge_until_ms(timeframe: Timeframe, settled_ms: int, stored_ms: int, ttl_ms: int | None) -> int:
    """Until when a range up to the live edge is the newest there is: its next candle settles, or the ttl is up."""
    next_ms = timeframe.close_ms(settled_ms) + GRACE_MS
    return next_ms if ttl_ms is None else min(next_ms, stored_ms + ttl_ms)
