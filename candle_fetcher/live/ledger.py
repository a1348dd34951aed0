"""What is known of one followed series: where its candles go on, what the stream said of them, what was handed out.

The candles themselves come by fetch, once they have settled by the provider's clock. So a stream that is silent, late,
shuffled or wrong changes no candle: its closings are compared with what fetch returns. Only where the budget of
requests does not allow that for each candle, `takes_stream` hands out the stream's rows, to be compared later.
Pure: times are Unix ms of the provider's clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.live import CandleUpdate
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span

# Open, high, low, close and volume.
Prices = tuple[float | None, ...]
_PRICES = 5
# Closings of a stream that are held for one series. Older ones are not needed: fetch has them.
MOST_CLOSINGS = 2_000
# A gap in closings of so many candles in a row, though fetch has them, is no chance.
_SILENT = 2


class Compared(NamedTuple):
    """What a comparison of fetched candles with the stream's closings found, in candles."""

    confirmed: int = 0
    differing: int = 0
    unheard: int = 0


class Ledger:
    """See the module. `first_ms` opens the first slot that is handed out, `next_ms` the first that was not yet.

    settling: when candles of the followed timeframe settle. every: how many closings one comparison is for; above 1,
    the stream's rows are handed out before. marks_closed: whether the stream says when a candle is closed; else the
    first word of a later candle closes the one before.
    """

    def __init__(self, settling: Settling, next_ms: int, every: int = 1, *, marks_closed: bool = True) -> None:
        self.settling = settling
        self._marks_closed = marks_closed
        self.first_ms = self.next_ms = next_ms
        self.every = every
        self.closings: OrderedDict[int, CandleUpdate] = OrderedDict()
        self.forming: CandleUpdate | None = None
        self.heard_from_ms = FOREVER_MS  # closings of candles that open from here on should come by the stream
        self.silent = 0  # candles in a row that came by fetch alone though the stream should have closed them
        self.uncompared: OrderedDict[int, Prices] = OrderedDict()  # handed out as the stream said
        self.handed: OrderedDict[int, Prices] = OrderedDict()  # handed out lately: they may be corrected
        self.skipped: set[int] = set()  # openings of slots lately passed over; candles of them may come yet
        self.corrected: dict[int, Prices] = {}  # handed out long ago, and what the stream says that they are now

    def begin(self, first_ms: int) -> None:
        """Begin with the candle that opens then."""
        self.first_ms = self.next_ms = first_ms

    # -- the stream ---------------------------------------------------------------------------------------------------

    def hear(self, update: CandleUpdate) -> bool:
        """Take an update of the stream, and return whether it is news: an older state of a candle is not, nor one that
        would open a closed candle again."""
        open_ms = update.open_ms
        known = self.closings.get(open_ms)
        if known is not None:
            if not update.is_closed or (update.order < known.order and not update.is_correction) or known == update:
                return False
        elif not update.is_closed:
            return self._form(update)
        self.closings[open_ms] = update
        while len(self.closings) > MOST_CLOSINGS:
            self.closings.popitem(last=False)
        if self.forming is not None and self.forming.open_ms <= open_ms:
            self.forming = None
        return True

    def _form(self, update: CandleUpdate) -> bool:
        forming = self.forming
        if forming is not None:
            if update.open_ms > forming.open_ms and not self._marks_closed:
                self.closings[forming.open_ms] = forming._replace(is_closed=True)
            if update.open_ms < forming.open_ms:
                return False
            if update.open_ms == forming.open_ms and update.order < forming.order:
                return False
        elif update.open_ms < self.next_ms:
            return False
        self.forming = update
        return True

    def connected(self, now_ms: int) -> None:
        """Note that the stream delivers from now on: it should close each candle that opens later."""
        timeframe = self.settling.timeframe
        self.heard_from_ms = timeframe.open_ms(timeframe.ordinal(now_ms) + 1)
        self.silent = 0

    def disconnected(self) -> None:
        """Note that there is no stream now."""
        self.heard_from_ms = FOREVER_MS
        self.forming = None

    # -- what is due --------------------------------------------------------------------------------------------------

    def settles_ms(self) -> int:
        """Return when the next candle has settled."""
        timeframe = self.settling.timeframe
        return self.settling.slot_close_ms(timeframe.ordinal(self.next_ms)) + self.settling.finality.delay_ms

    def settled_end_ms(self, now_ms: int) -> int:
        """Return where the settled candles end by now."""
        return max(self.next_ms, self.settling.end_ms(now_ms))

    def streamed(self, now_ms: int) -> list[CandleUpdate]:
        """Return the closings that may be handed out without a comparison: the next candles, settled by now.

        The last one of so many is fetched: its request reads those before once more. So is the last one of a chunk, as
        no request is sent for a chunk that is complete.
        """
        found: list[CandleUpdate] = []
        timeframe, end_ms = self.settling.timeframe, self.settled_end_ms(now_ms)
        slot = timeframe.ordinal(self.next_ms)
        while timeframe.open_ms(slot) < end_ms and len(self.uncompared) + len(found) < self.every - 1:
            if (slot + 1) % CHUNK_SLOTS == 0:
                break
            update = self.closings.get(timeframe.open_ms(slot))
            if update is None or not is_sound(update.values):
                break
            if not self._marks_closed and update.open_ms < self.heard_from_ms:
                break  # the connection came in the middle of it, and its last word may be missing
            found.append(update)
            slot += 1
        return found

    # -- what is handed out -------------------------------------------------------------------------------------------

    def hand_streamed(self, updates: Sequence[CandleUpdate]) -> None:
        """Note that the closings are handed out as the stream says."""
        timeframe = self.settling.timeframe
        for update in updates:
            self.uncompared[update.open_ms] = update.values[:_PRICES]
            self.closings.pop(update.open_ms, None)
            self.next_ms = timeframe.open_ms(timeframe.ordinal(update.open_ms) + 1)

    def compare(self, rows: Sequence[tuple[int, Prices]], now_ms: int, end_ms: int = 0) -> Compared:
        """Compare fetched candles that are to be handed out with the stream's closings, which are dropped.

        now_ms: when they were requested, at the latest. end_ms: up to where there are no others.
        """
        self._skip(rows, now_ms, end_ms)
        confirmed = differing = unheard = 0
        for open_ms, prices in rows:
            update = self.closings.pop(open_ms, None)
            if update is not None:
                same = agrees(update.values, prices)
                confirmed, differing, self.silent = confirmed + same, differing + (not same), 0
            else:
                unheard += 1
                if open_ms >= self.heard_from_ms:
                    self.silent += any(prices[_PRICES - 1 : _PRICES])  # without a trade there may be no word of it
            if now_ms - self.settling.close_ms(open_ms) < self.settling.confirm_ms:
                self.handed[open_ms] = prices
        return Compared(confirmed, differing, unheard)

    def _skip(self, rows: Sequence[tuple[int, Prices]], now_ms: int, end_ms: int) -> None:
        """Note the slots up to `end_ms` without a candle that were read soon after their close."""
        timeframe = self.settling.timeframe
        slots = range(timeframe.ordinal(self.next_ms), timeframe.ordinal(end_ms)) if end_ms > self.next_ms else range(0)
        if len(rows) >= len(slots):
            return
        present = {timeframe.ordinal(open_ms) for open_ms, _ in rows}
        for slot in reversed(slots):
            if now_ms - self.settling.slot_close_ms(slot) >= self.settling.confirm_ms:
                break
            if slot not in present:
                self.skipped.add(timeframe.open_ms(slot))

    def advance(self, end_ms: int) -> None:
        """Note that all before that time is handed out, gaps too."""
        self.next_ms = max(self.next_ms, end_ms)
        for open_ms in list(self.closings):
            if open_ms >= self.next_ms:
                break
            del self.closings[open_ms]

    def is_silent(self) -> bool:
        """Return, once, whether the stream keeps the closings of candles from us that exist."""
        if self.silent < _SILENT:
            return False
        self.silent = 0
        return True

    def check_from_ms(self) -> int:
        """Return the opening of the oldest candle that was handed out, or passed over, and may be corrected; `next_ms`
        without one."""
        return min([*self.handed, *self.uncompared, *self.skipped], default=self.next_ms)

    def corrections(self, rows: Sequence[tuple[int, Prices]], now_ms: int) -> tuple[list[int], Compared]:
        """Return the open times of candles that were handed out with other values than these, or passed over, and what
        the comparison of those found that were handed out as the stream said. All count as handed out with these values
        now.

        now_ms: when they were requested, at the latest; what was old enough then is forgotten.
        """
        found, confirmed, differing = [], 0, 0
        for open_ms, prices in rows:
            is_uncompared = open_ms in self.uncompared
            before = self.uncompared.pop(open_ms) if is_uncompared else self.handed.get(open_ms)
            if before is None and not self._is_skipped(open_ms):
                continue
            same = before is not None and agrees(before, prices)
            confirmed, differing = confirmed + (is_uncompared and same), differing + (is_uncompared and not same)
            found += [] if same else [open_ms]
            self.handed[open_ms] = prices
            self.skipped.discard(self._slot_ms(open_ms))
        self._forget(now_ms)
        return found, Compared(confirmed, differing)

    def doubts(self, update: CandleUpdate) -> bool:
        """Return whether a closing says something else of a candle than what was handed out."""
        open_ms = update.open_ms
        prices = self.handed.get(open_ms, self.uncompared.get(open_ms))
        if prices is not None or self._is_skipped(open_ms):
            return update.is_closed and (prices is None or not agrees(update.values, prices))
        if not update.is_correction or not self.first_ms <= open_ms < self.next_ms:
            return False
        self.corrected[open_ms] = update.values[:_PRICES]
        return True

    def take_corrected(self) -> dict[int, Prices]:
        """Return the candles that are said to be corrected, and forget them here."""
        taken, self.corrected = self.corrected, {}
        return taken

    def _slot_ms(self, open_ms: int) -> int:
        return self.settling.timeframe.floor_ms(open_ms)

    def _is_skipped(self, open_ms: int) -> bool:
        return bool(self.skipped) and self._slot_ms(open_ms) in self.skipped

    def _forget(self, now_ms: int) -> None:
        """Forget the candles that were read long enough after their close; those of a complete chunk together, since
        they are read once more together."""
        timeframe, settling = self.settling.timeframe, self.settling
        chunk, kept_ms = chunk_of(timeframe, self.next_ms), now_ms - settling.confirm_ms

        def is_old(open_ms: int) -> bool:
            own = chunk_of(timeframe, open_ms)
            close_ms = settling.close_ms(open_ms) if own == chunk else chunk_span(timeframe, own).end_ms
            return close_ms <= kept_ms

        for open_ms in list(self.handed):
            if not is_old(open_ms):
                break
            del self.handed[open_ms]
        self.skipped = {open_ms for open_ms in self.skipped if not is_old(open_ms)}


def agrees(said: Sequence[float | None], prices: Prices) -> bool:
    """Return whether what the stream says of the prices is what fetch says. What is not said does not differ."""
    return all(
        one is None or other is None or one == other or (one != one and other != other)  # noqa: PLR0124 - NaN
        for one, other in zip(said[:_PRICES], prices, strict=False)
    )


def is_sound(values: Sequence[float | None]) -> bool:
    """Return whether the values can be a candle: finite prices in order, a volume that is not negative."""
    prices = values[:_PRICES]
    if len(prices) < _PRICES or not all(value is not None and math.isfinite(value) for value in prices):
        return False
    opened, high, low, close, volume = (float(value or 0.0) for value in prices)
    return low <= min(opened, close) and max(opened, close) <= high and volume >= 0
