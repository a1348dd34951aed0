"""Where a series begins and ends, as far as the provider says so and nothing contradicts it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from candle_fetcher.core.errors import Banned, ReplyError, SourceError, UnknownSymbol
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import EmptySpan, News
from candle_fetcher.core.gap import iso
from candle_fetcher.core.plan import Ask, chunk_of
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.fetcher.gathering.state import Gathering


class SeriesBounds:
    """The first candle of the series, and its last one where it is traded no more.

    One reply alone may be wrong: what it says is a claim, which the call uses and which is stored once a second reply,
    or the chunk itself, confirms it.
    """

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._lock = threading.Lock()  # one thread of the call asks
        self._claim_ms: int | None = None
        self._refuted: tuple[int, SourceError] | None = None  # a claim, and the error that contradicts it

    def are_unknown(self, lacking: dict[int, list[Ask]]) -> bool:
        """Return whether neither end of the series is known, so that the two ends of the span are asked for first."""
        first, found = min(lacking), self._gathering.found
        has_older = any(entry.candles.count for chunk, (_, entry) in found.items() if chunk < first)
        return len(lacking) > 1 and self._gathering.facts.first_ms is None and not has_older

    def is_due(self, chunk: int) -> bool:
        """Return whether the chunk is asked for now: one that ends before the claimed first candle is not."""
        return self._claim_ms is None or chunk >= chunk_of(self._gathering.timeframe, self._claim_ms)

    # -- the first candle -----------------------------------------------------------------------------------------

    def first_ms(self) -> int | None:
        """Return when the first candle of the series opens, confirmed and stored; None where there is none yet."""
        first_ms = self.listed_ms(Span(0, 1), None)
        self._confirm()
        return first_ms

    def listed_ms(self, hole: Span, seen_ms: int | None) -> int | None:
        """Return when the first candle opens, asked for once a series: `hole` may lie before the listing.

        `seen_ms` is when a candle at hand opens. Raises ReplyError where the first candle is said to open later than
        one that is at hand or stored.
        """
        gathering = self._gathering
        feed = gathering.feed
        with self._lock:
            known_ms = gathering.facts.first_ms
            is_news = known_ms is None or (seen_ms is not None and known_ms > seen_ms)
            first_ms = self._ask_listing(hole, seen_ms) if is_news else known_ms
            if first_ms is None:
                # A symbol that is traded soon has its first candle at any moment.
                end_ms = max(hole.end_ms, gathering.settling.end_ms(gathering.now_ms))
                gathering.learn(News(empty=EmptySpan(ALL_TIME.before(end_ms), "not_listed", gathering.now_ms)))
            elif is_news and feed.first_call is not None and first_ms != seen_ms:
                self._claim_ms = first_ms
            elif is_news and feed.window_ms is not None and first_ms >= hole.start_ms:
                self._claim_ms = first_ms  # a single reply said of each window before that it has no candle
            elif first_ms >= hole.start_ms or (is_news and feed.window_ms is None):
                # The empty reply that led here confirms what is known of the time before.
                self._learn_first(first_ms)
            return first_ms

    def _learn_first(self, first_ms: int) -> None:
        before = ALL_TIME.before(self._gathering.timeframe.floor_ms(first_ms))
        self._drop_claim()
        self._gathering.learn(News(first_ms, EmptySpan(before, "not_listed", self._gathering.now_ms)))

    def _drop_claim(self) -> None:
        self._claim_ms = None
        self._gathering.cache.facts.drop_unconfirmed(self._gathering.series)

    def _ask_listing(self, hole: Span, seen_ms: int | None) -> int | None:
        """Ask when the first candle opens, once a call. Raises ReplyError where that is impossible."""
        gathering, series = self._gathering, self._gathering.series
        first_ms = self._claim_ms
        if first_ms is None:
            first_ms = self._ask_first(hole)
        if first_ms is None and self._is_traded():
            raise ReplyError(f"{series.provider} lists {series.symbol} as traded, but says that it never had a candle")
        if first_ms is not None and gathering.feed.window_ms is not None and first_ms < hole.start_ms:
            return first_ms  # some candle before the hole, not the first one
        before_ms = gathering.now_ms if first_ms is None else first_ms
        oldest_ms = self._oldest_ms(before_ms) if seen_ms is None or seen_ms >= before_ms else seen_ms
        if oldest_ms is not None:
            gathering.source.renew()
            self._drop_claim()
            said = f"{series.symbol} " + ("has no candle" if first_ms is None else f"begins at {iso(first_ms)}")
            error = ReplyError(f"{series.provider} says that {said}, but sent a candle of {iso(oldest_ms)}")
            self._refuted = before_ms, error
            raise error
        return first_ms

    def _ask_first(self, hole: Span) -> int | None:
        """Ask when the first candle opens, once for all calls until it is confirmed."""
        gathering = self._gathering
        source, series, feed = gathering.source, gathering.series, gathering.feed
        claims = gathering.cache.facts.unconfirmed_first_ms
        # Where the provider is asked window by window, the answer is about the time from this hole on.
        key = series, None if feed.window_ms is None else hole

        def ask() -> int | None:
            first_ms = claims.get(key)
            if first_ms is None:
                first_ms = gathering.reader.first_ms(hole)
            if first_ms is None and (feed.first_call is not None or feed.window_ms is not None):
                source.renew()  # no single reply decides that there never was a candle, nor the windows from here on
                first_ms = gathering.reader.first_ms(Span(0, 1))
            if first_ms is not None:
                claims[key] = first_ms
            return first_ms

        return gathering.cache.facts.first_candles.run(key, ask, gathering.scope)

    def _oldest_ms(self, before_ms: int) -> int | None:
        """Return when the oldest candle at hand or stored opens, if it opens before that time."""
        gathering, series = self._gathering, self._gathering.series
        last = chunk_of(series.timeframe, before_ms)
        for chunk in sorted({*gathering.found, *gathering.cache.entries.chunks(series)}):
            if chunk > last:
                break
            found = gathering.found.get(chunk) or gathering.cache.entries.read(series, [chunk]).get(chunk)
            if found is not None and found[1].candles.count:
                oldest_ms = int(found[1].candles.open_ms[0])
                return oldest_ms if oldest_ms < before_ms else None
        return None

    def check(self, chunks: Sequence[int]) -> None:
        """Confirm the claim, if there is one. Where it proves wrong, what was taken to lie before it failed."""
        gathering, claim_ms = self._gathering, self._claim_ms or 0
        try:
            self._confirm()
        except Banned:
            raise
        except SourceError as error:
            self._refuted = claim_ms, error
        if self._refuted is not None:
            first_ms, why = self._refuted
            lacking = [ask.span for chunk in chunks for ask in gathering.asks(chunk) if ask.span.start_ms < first_ms]
            gathering.failed += [(span, why) for span in lacking]

    def end(self) -> None:
        """Forget a claim that nothing confirmed: the next call asks by itself."""
        if self._claim_ms is not None:
            self._gathering.cache.facts.drop_unconfirmed(self._gathering.series)

    def _confirm(self) -> None:
        """Store the claim if it is confirmed: by the chunk that holds it, with nothing before, else by a second reply.

        The second reply comes on another connection. A listing that was searched for window by window is searched for
        once more, from the provider's first day on. Raises ReplyError where the second reply differs.
        """
        gathering, first_ms = self._gathering, self._claim_ms
        if first_ms is None:
            return
        if gathering.facts.first_ms == first_ms and not gathering.policy.refresh:
            self._claim_ms = None  # another call confirmed it
            return
        if not self._is_seen(first_ms):
            again_ms = self._ask_first_again(first_ms)
            if again_ms != first_ms:
                said = "not at all" if again_ms is None else f"at {iso(again_ms)}"
                gathering.cache.facts.drop_unconfirmed(gathering.series)
                if gathering.feed.window_ms is not None and again_ms is not None and again_ms < first_ms:
                    self._learn_first(again_ms)  # a series that paused for longer than a window has
                what = f"{gathering.series.symbol} begins at {iso(first_ms)}, and then {said}"
                raise ReplyError(f"{gathering.series.provider} says that {what}")
        self._learn_first(first_ms)

    def _is_seen(self, first_ms: int) -> bool:
        """Return whether the chunk at hand begins with the claimed candle, and covers time before it."""
        gathering = self._gathering
        found = gathering.found.get(chunk_of(gathering.timeframe, first_ms))
        if gathering.feed.window_ms is not None or found is None or not found[1].candles.count:
            return False
        begins_there = int(found[1].candles.open_ms[0]) == first_ms
        return begins_there and found[1].covered.start_ms < gathering.timeframe.floor_ms(first_ms)

    def _ask_first_again(self, first_ms: int) -> int | None:
        """Ask for the first candle on another connection, once for all calls."""
        gathering, series, source = self._gathering, self._gathering.series, self._gathering.source

        def ask() -> int | None:
            if gathering.facts.first_ms == first_ms and not gathering.policy.refresh:
                return first_ms  # another call confirmed it
            source.renew()
            return gathering.reader.first_ms(Span(0, 1))

        return gathering.cache.facts.first_candles.run((series, Span(first_ms, first_ms)), ask, gathering.scope)

    # -- the last candle ----------------------------------------------------------------------------------------------

    def _is_traded(self) -> bool:
        """Return whether the provider lists the symbol as traded."""
        gathering = self._gathering
        try:
            listed = gathering.source.describe(gathering.series.symbol, gathering.scope).symbols
        except UnknownSymbol:
            return False
        return any(one.trading for one in listed if one.provider_symbol == gathering.series.symbol)

    def learn_end(self, newest: int) -> None:
        """Where the newest chunk ends in a hole, ask whether the series is over: nothing after it is asked for then.

        It is over where its last candle opens before that hole and it is traded no more. Where the provider does not
        say so, nothing is learned.
        """
        gathering, source, timeframe = self._gathering, self._gathering.source, self._gathering.timeframe
        found = gathering.found.get(newest)
        if found is None or gathering.failed or source.provider.describe is None:
            return
        candles, end_ms = found[1].candles, found[1].covered.end_ms
        seen_ms = int(candles.open_ms[-1]) if candles.count else None
        if seen_ms is not None and timeframe.open_ms(timeframe.ordinal(seen_ms) + 1) >= end_ms:
            return
        if any(one.span.end_ms == FOREVER_MS and one.is_believed(gathering.now_ms) for one in gathering.facts.empty):
            return
        with contextlib.suppress(SourceError):  # the answer is complete without this
            last_ms = gathering.reader.last_ms(gathering.now_ms)
            if last_ms is None or last_ms >= end_ms or (seen_ms is not None and last_ms != seen_ms):
                return
            if not self._is_traded():
                after_ms = timeframe.open_ms(timeframe.ordinal(last_ms) + 1)
                gathering.learn(News(empty=EmptySpan(ALL_TIME.after(after_ms), "after_delisting", gathering.now_ms)))
