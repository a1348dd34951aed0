"""A provider's candles by REST, and the second look.

A hole in a reply is not a fact yet: it is asked for again, alone, and believed when that answer is empty. A look that
brings rows starts the count anew, so short pages, page caps and rows that were late all end in the whole truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from candle_fetcher.core.call import Call
from candle_fetcher.core.candles import Candles, check, find_holes, join, overlay
from candle_fetcher.core.errors import AccessDenied, Banned, CandleFetcherError
from candle_fetcher.core.expiry import FOREVER_MS, GRACE_MS, drop_unsettled, settled_end_ms
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.providers import Feed, Listing, Provider
from candle_fetcher.sources.asking import Asker, Errand, Service, date_ms

# When the series begins, given a hole at the start of a span and the candle after it; None where it has not begun.
ListedMs = Callable[[Span, "int | None"], "int | None"]

# How long a reading of the provider's clock serves, if our two clocks have kept step since.
_CLOCK_S = 600.0
_STEP_S = 1.0


class Answer(NamedTuple):
    """What a source says about a span: its candles, and the holes in it that it confirmed."""

    span: Span
    candles: Candles
    believed: tuple[Span, ...]


class Source:
    """The REST side of one provider. Shared by all threads of a fetcher."""

    def __init__(self, provider: Provider, hosts: tuple[str, ...], clock: Callable[[], float], **how: Any) -> None:
        self.provider = provider
        self._clock = clock
        self._asker = Asker(
            Service(provider.name, hosts, provider.default_limits, provider.used, provider.refusal),
            now_ms=self.estimated_ms,
            **how,
        )
        self.ask = self._asker.ask
        self.budget = self._asker.budget
        self._lock = threading.Lock()
        self._limits_asked = False
        self._warned = False
        # (offset of the provider's clock from ours in ms, our wall clock then, our monotonic clock then)
        self._reading: tuple[int, float, float] | None = None
        self._told_ms = FOREVER_MS  # by the newest reply; the far future where it does not tell

    # -- the provider's clock and limits ------------------------------------------------------------------------

    def estimated_ms(self) -> int:
        """The provider's clock as far as it is known, our own before it was asked."""
        offset_ms = self._reading[0] if self._reading else 0
        return int(self._clock() * 1000) + offset_ms

    def now_ms(self, stop: Errand) -> int:
        """The provider's clock in Unix ms; asked for where the last reading is old or our clock has been set since."""
        with self._lock:
            wall_s, monotonic_s = self._clock(), time.monotonic()  # read once: it may be set at any moment
            if self._reading is not None:
                offset_ms, then_s, monotonic_then_s = self._reading
                since_s = monotonic_s - monotonic_then_s
                if since_s < _CLOCK_S and abs(wall_s - then_s - since_s) < _STEP_S:
                    return int(wall_s * 1000) + offset_ms
            server_ms = self.ask(self.provider.clock.call, self.provider.clock.parse, stop=stop)
            # The reply is as old as half of its journey; counting it as new settles no candle too early. What our
            # clock said before it was sent does not count: it may have been set meanwhile.
            came_s = self._clock()
            self._reading = (server_ms - int(1000 * came_s), came_s, time.monotonic())
            return server_ms

    @property
    def skew_s(self) -> float:
        """How far the provider's clock is ahead of ours, in seconds; 0 while it was not asked."""
        return self._reading[0] / 1000 if self._reading else 0.0

    def warn_once(self) -> bool:
        """True the first time it is called."""
        warned, self._warned = self._warned, True
        return not warned

    @property
    def limits_known(self) -> bool:
        """Whether the request limits have been asked for, here or by another process in the last hour."""
        return self._limits_asked or self._asker.limiter.knows_limits()

    def learn_limits(self, symbol: str, stop: Errand) -> None:
        """Reads the request limits once. Where the provider does not tell, the documented ones stay in force.

        Others who want to know them meanwhile, here and in other processes, wait a while for the answer.
        """
        with self._asker.limiter.asking_limits(stop) as is_my_turn:
            if not is_my_turn or self.limits_known:
                return
            try:
                self.set_limits(self.describe(symbol, stop))
            except (Banned, AccessDenied, CancelledError):
                raise  # the next call has to read them
            except CandleFetcherError:
                pass  # an unknown symbol is for the candles to tell; a failing exchangeInfo is no reason to stop
            self._limits_asked = True

    def set_limits(self, listing: Listing) -> None:
        if listing.limits:
            self._asker.limiter.set_limits(listing.limits)

    def describe(self, symbol: str, stop: Errand) -> Listing:
        """What the provider says of the symbol, and its limits. Raises UnknownSymbol where it lists no such symbol."""
        question = self.provider.describe(symbol)
        return self.ask(question.call, question.parse, symbol=symbol, stop=stop)

    def listing(self, stop: Errand) -> Listing:
        """Every symbol that the provider lists."""
        return self.ask(self.provider.listing.call, self.provider.listing.parse, stop=stop)

    # -- candles --------------------------------------------------------------------------------------------------

    def look(self, series: Series, span: Span, *, again: bool, listed_ms: ListedMs, stop: Errand) -> Answer:
        """The truth about a span that one call can answer; see `windows`.

        `again` says that its hole was believed before: then one empty answer is enough. `listed_ms` tells when the
        series begins; the answer's span leaves out what lies before.
        """
        feed = self.provider.feed(series.kind)
        timeframe = series.timeframe
        candles = self._page(feed, series, span, stop)
        if span.end_ms + GRACE_MS > self._told_ms:
            # By the hour on the reply the span has not settled: our own clock is ahead, and the provider's decides.
            now_ms = self.now_ms(stop)
            settled_ms = settled_end_ms(timeframe, now_ms)
            if settled_ms < span.end_ms:
                stop.doubts_clock = True
                span = Span(span.start_ms, max(span.start_ms, settled_ms))
                candles = drop_unsettled(candles, timeframe, now_ms).trim(span)
                if not span:
                    return Answer(span, candles, ())
        believed: list[Span] = []
        if again and not candles.count:
            return Answer(span, candles, (span,))
        holes = find_holes(candles.open_ms, timeframe, span)
        if holes and holes[0].start_ms <= span.start_ms:
            first_ms = listed_ms(holes[0], int(candles.open_ms[0]) if candles.count else None)
            if first_ms is None or first_ms >= holes[0].end_ms:
                span = Span(holes.pop(0).end_ms, span.end_ms)
            elif first_ms > span.start_ms:
                span = Span(timeframe.open_ms(timeframe.ordinal(first_ms)), span.end_ms)
                holes[0] = holes[0].clip(span)
        while holes:
            hole = holes.pop()
            more = self._page(feed, series, hole, stop) if feed.quiet_rows else None
            if more is None or not more.count:
                believed.append(hole)
                continue
            candles = overlay(candles, more, hole)
            holes += find_holes(more.open_ms, timeframe, hole)
        return Answer(span, candles, tuple(sorted(believed)))

    def _page(self, feed: Feed, series: Series, span: Span, stop: Errand) -> Candles:
        """One reply, checked; and what it had no room for, where two candles off the grid share a slot."""
        rows = page_rows(feed, series.timeframe, span)
        candles = self._asked(feed, series, feed.call(series.symbol, series.timeframe, span, rows), span, stop)
        if candles.count >= rows and candles.count > len(set(series.timeframe.ordinals(candles.open_ms).tolist())):
            rest = Span(int(candles.open_ms[-1]) + 1, span.end_ms)
            if rest:
                return join([candles, self._page(feed, series, rest, stop)])
        return candles

    def first_ms(self, series: Series, before: Span, stop: Errand) -> int | None:
        """When the first candle of the series opens; None where none opens after the start of `before`, an empty span.

        Returns a time before `before` where the series is older than it. A provider that answers windows only is asked
        for the window before, then window by window.
        """
        feed = self.provider.feed(series.kind)
        now_ms = self.estimated_ms()
        if feed.first_call is not None:
            call = feed.first_call(series.symbol, series.timeframe)
            first = self._asked(feed, series, call, Span(-(2**62), now_ms + DAY_MS), stop)
            return int(first.open_ms[0]) if first.count else None
        probe = series._replace(timeframe=parse_timeframe(feed.probe))
        window_ms = feed.window_ms or 200 * DAY_MS
        since_ms = max(before.start_ms, feed.since_ms)
        if since_ms > feed.since_ms:
            earlier = self._page(feed, probe, Span(since_ms - window_ms, since_ms), stop)
            if earlier.count:
                return int(earlier.open_ms[0])
        for start_ms in range(since_ms, now_ms, window_ms):
            day_ms = self._oldest_ms(feed, probe, Span(start_ms, min(start_ms + window_ms, now_ms)), stop)
            if day_ms is not None:
                timeframe = series.timeframe
                slot_ms = timeframe.open_ms(timeframe.ordinal(day_ms))
                for window in windows(
                    feed, timeframe, Span(slot_ms, max(day_ms + DAY_MS, timeframe.close_ms(slot_ms)))
                ):
                    first_ms = self._oldest_ms(feed, series, window, stop)
                    if first_ms is not None:
                        return first_ms
                return day_ms
        return None

    def _oldest_ms(self, feed: Feed, series: Series, span: Span, stop: Errand) -> int | None:
        """When the first candle in the span opens; what lies before it has been seen empty, however short a reply
        was."""
        oldest_ms = None
        while span:
            candles = self._page(feed, series, span, stop)
            if not candles.count:
                break
            oldest_ms = int(candles.open_ms[0])
            span = Span(span.start_ms, oldest_ms)
        return oldest_ms

    def _asked(self, feed: Feed, series: Series, call: Call, span: Span, stop: Errand) -> Candles:
        """The reply's candles, every one of them in the span."""
        return self.ask(
            call, lambda body: check(feed.parse(body), span), symbol=series.symbol, stop=stop, hear=self._heard
        )

    def _heard(self, headers: Mapping[str, str]) -> None:
        """Keeps the hour that stands on a reply; it may be a second more."""
        told_ms = date_ms(headers.get("date"))
        self._told_ms = FOREVER_MS if told_ms is None else told_ms

    def last_ms(self, series: Series, end_ms: int, stop: Errand) -> int | None:
        """When the newest candle before the end opens; None where the provider has none there, or cannot be asked."""
        feed = self.provider.feed(series.kind)
        if feed.last_call is None:
            return None
        call = feed.last_call(series.symbol, series.timeframe, end_ms)
        last = self._asked(feed, series, call, Span(-(2**62), end_ms), stop)
        return int(last.open_ms[-1]) if last.count else None


def page_rows(feed: Feed, timeframe: Timeframe, span: Span) -> int:
    """How many rows to ask for: a row a slot, and not fewer than cost the same."""
    slots = timeframe.first_slot(span.end_ms) - timeframe.ordinal(span.start_ms)
    return min(feed.limit, max(slots, 99))


def windows(feed: Feed, timeframe: Timeframe, span: Span) -> Iterator[Span]:
    """The span in pieces that one call answers, cut at slots: at most `limit` rows and `window_ms` each."""
    start_ms = span.start_ms
    while start_ms < span.end_ms:
        slot = timeframe.ordinal(start_ms)
        stop = slot + feed.limit
        if feed.window_ms is not None:
            stop = min(stop, timeframe.ordinal(start_ms + feed.window_ms))
        end_ms = min(timeframe.open_ms(max(stop, slot + 1)), span.end_ms)
        yield Span(start_ms, end_ms)
        start_ms = end_ms


def requests_for(feed: Feed, symbol: str, timeframe: Timeframe, span: Span) -> list[Call]:
    """The calls that a span costs where nothing is missing in it; for plans."""
    return [
        feed.call(symbol, timeframe, window, page_rows(feed, timeframe, window))
        for window in windows(feed, timeframe, span)
    ]
