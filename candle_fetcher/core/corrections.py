"""How long after their close candles of a market change, learned from what changed between two replies.

A feed states when its candles are final (`Finality`). Where a candle that was read after that has other values in a
later reply, the provider corrects candles, and such a candle is requested once more, even where nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from candle_fetcher.core.errors import CandleFetcherWarning, warn_once
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS

# A candle that changes later than this after its close was restated; waiting does not help against that.
MOST_LAG_MS = HOUR_MS
# A market in which no candle was seen to change for so long counts as one that does not correct its candles.
_BELIEVED_MS = 30 * DAY_MS


class Corrections(NamedTuple):
    """How long after its close a candle was still seen to change, and when the last such change was seen; 0 where none
    was."""

    lag_ms: int = 0
    seen_ms: int = 0

    def at(self, now_ms: int) -> int:
        """Return the lag that is to be reckoned with at that time, 0 for none."""
        return min(self.lag_ms, MOST_LAG_MS) if abs(now_ms - self.seen_ms) < _BELIEVED_MS else 0

    def found(self, revisions: Iterable[Revision], settling: Settling) -> Corrections:
        """Return the corrections, given these revisions of one series.

        A candle that changed between two readings settled after the first one. It may have settled long before the
        second one, so that the lag becomes no more than what the feed states, or twice the age at the first reading.
        """
        known = self
        for one in revisions:
            close_ms = settling.close_ms(one.open_ms)
            before_ms, after_ms = one.old_read_ms - close_ms, one.new_read_ms - close_ms
            if settling.finality.delay_ms <= before_ms < min(after_ms, MOST_LAG_MS):
                lag_ms = min(after_ms, max(2 * before_ms + 1, settling.finality.confirm_ms), MOST_LAG_MS)
                known = Corrections(max(known.at(one.new_read_ms), lag_ms), max(known.seen_ms, one.new_read_ms))
        return known


def warn_of_unconfirmed(warned: set[str], label: str, reason: str) -> None:
    """Warn, once a call, that candles are as they were read before, though the provider is known to correct them."""
    why = f"the newest candles could not be read once more ({reason}), though candles there were seen to change"
    what = f"{label}: {why} after their close; they are as they were read before"
    warn_once(warned, "unconfirmed", CandleFetcherWarning(what))
