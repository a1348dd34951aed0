"""When a candle is final. Each feed states its rule as a `Finality`; `Settling` applies it to one series.

A candle is **over** once it has closed, and **settled** once its provider no longer changes it. In between it is
provisional: it is not stored, and it is requested again. Rows may also be late: a hole at the live edge that is younger
than `late_rows_ms` is not a fact yet, and the known part of the series ends before it. All times are UTC milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS, Timeframe
from candle_fetcher.core.zones import zone

# How many candles are read once more, at most, because of a lag that was learned.
_MOST_CONFIRMED = 900


@dataclass(frozen=True)
class Finality:
    """When the candles of a feed stop changing. `source` names the page that states so, or how it was observed.

    delay_ms: a candle may still change for this long after its close.
    late_rows_ms: a row may be absent from replies for this long after its candle closed.
    confirm_ms: a candle that was read sooner than this after its close is read once more. No request is sent for that
    alone, unless candles of the market were seen to change: the next request for newer candles begins with it.
    spares_edge: whether a live edge without rows is requested only once an hour, like any other young hole; for
    providers that allow few requests a day.

    The defaults are for a feed that states nothing.
    """

    delay_ms: int = MINUTE_MS
    late_rows_ms: int = 10 * MINUTE_MS
    confirm_ms: int = 2 * MINUTE_MS
    spares_edge: bool = False
    source: str = "nothing is stated: a safe default"


UNSTATED = Finality()


@dataclass(frozen=True)
class Settling:
    """When the candles of one series settle. Days, weeks and months open at midnight in `zone_name`, if given.

    corrected_ms: how long after their close candles of the market were seen to change, by `Corrections`; 0: none were.
    """

    timeframe: Timeframe
    finality: Finality
    zone_name: str | None = None
    corrected_ms: int = 0

    def of(self, timeframe: Timeframe) -> Settling:
        """Return when candles of another length settle, by the same rule."""
        zone_name = self.zone_name if timeframe.unit in "dwM" else None
        return Settling(timeframe, self.finality, zone_name, self.corrected_ms)

    @property
    def confirm_ms(self) -> int:
        """How long after its close a candle has to be read to be confirmed: as the feed states, or as was learned, but
        no longer than one request can read again."""
        return max(self.finality.confirm_ms, min(self.corrected_ms, _MOST_CONFIRMED * self.timeframe.nominal_ms))

    def close_ms(self, open_ms: int) -> int:
        """Return when a candle that opens at that time is over.

        A day has 25 hours in a zone where the clock is put back on it.
        """
        timeframe = self.timeframe
        if self.zone_name is None:
            return timeframe.close_ms(open_ms)
        local_ms = self._local_ms(open_ms)
        if zone(self.zone_name).midnight_ms(np.array([open_ms]))[0] == open_ms:
            local_ms -= local_ms % DAY_MS  # a day with a skipped midnight opens at a later local time
        return self._utc_ms(timeframe.close_ms(local_ms))

    def slot_open_ms(self, slot: int) -> int:
        """Return when the candle of that slot should open: with the slot, or at the zone's midnight in the slot."""
        timeframe = self.timeframe
        if self.zone_name is None:
            return timeframe.open_ms(slot)
        return self._utc_ms(timeframe.ceil_ms(self._local_ms(timeframe.open_ms(slot))))

    def slot_close_ms(self, slot: int) -> int:
        """Return when the candle of that slot is over, if it opens where it should."""
        timeframe = self.timeframe
        if self.zone_name is None:
            return timeframe.open_ms(slot + 1)
        own = timeframe.first_slot(self._local_ms(timeframe.open_ms(slot)))
        return self._utc_ms(timeframe.open_ms(own + 1))

    def end_ms(self, now_ms: int) -> int:
        """Return the opening of the first slot that is not settled."""
        return self.over_ms(now_ms - self.finality.delay_ms)

    def over_ms(self, ms: int) -> int:
        """Return the opening of the first slot with a candle that was not over at that time."""
        timeframe = self.timeframe
        if self.zone_name is None:
            return timeframe.floor_ms(ms)
        forming_ms = timeframe.floor_ms(self._local_ms(ms))
        return timeframe.floor_ms(self._utc_ms(forming_ms))

    def settles_ms(self, end_ms: int) -> int:
        """Return when every slot that ends by `end_ms` is settled."""
        return self.slot_close_ms(self.timeframe.ordinal(end_ms - 1)) + self.finality.delay_ms

    def settled(self, candles: Candles, now_ms: int) -> Candles:
        """Return the settled candles. A candle off the grid settles by its own open time, later than its slot."""
        count, opens, last_ms = candles.count, candles.open_ms, now_ms - self.finality.delay_ms
        while count and self.close_ms(int(opens[count - 1])) > last_ms:
            count -= 1
        return candles if count == candles.count else Candles(candles.names, candles.block[:, :count])

    def known_ms(self, now_ms: int) -> int:
        """Return where facts end: a hole after this time may be a late row."""
        return self.over_ms(now_ms - self.finality.late_rows_ms)

    def changes(self, open_ms: int, now_ms: int) -> bool:
        """Return whether to believe a reply that marks this candle as one that may still change.

        Only while the candle has not been over for longer than `late_rows_ms`.
        """
        return open_ms < FOREVER_MS and self.close_ms(open_ms) > now_ms - self.finality.late_rows_ms

    def edge_until_ms(self, end_ms: int, stored_ms: int, ttl_ms: int | None) -> int:
        """Return until when a range up to `end_ms` is the newest one that exists.

        That is until the next candle settles, or until the ttl has passed.
        """
        next_ms = self.slot_close_ms(self.timeframe.ordinal(end_ms)) + self.finality.delay_ms
        return next_ms if ttl_ms is None else min(next_ms, stored_ms + ttl_ms)

    def unconfirmed_ms(self, candles: Candles, stored_ms: int) -> int | None:
        """Return the opening of the slot of the oldest unconfirmed candle; None where all are confirmed.

        A candle is unconfirmed if it was younger than `confirm_ms` when it was read, at `stored_ms`.
        """
        opens, since_ms = candles.open_ms, stored_ms - self.confirm_ms
        if self.timeframe.unit in "smh":
            first = int(np.searchsorted(opens, since_ms - self.timeframe.nominal_ms, side="right"))
        else:
            first = len(opens)
            while first and self.close_ms(int(opens[first - 1])) > since_ms:
                first -= 1
        if first == len(opens):
            return None
        return self.timeframe.floor_ms(int(opens[first]))

    def _local_ms(self, ms: int) -> int:
        return int(zone(self.zone_name or "UTC").to_local(np.array([ms]))[0])

    def _utc_ms(self, local_ms: int) -> int:
        return int(zone(self.zone_name or "UTC").begins_ms(np.array([local_ms]))[0])
