"""Replies with candles as values; the calls that a span needs; and the requests for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from candle_fetcher.core.call import Call
from candle_fetcher.core.candles import Candles, check, join
from candle_fetcher.core.errors import ReplyError, SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.providers import Feed
from candle_fetcher.sources.client import ServiceClient
from candle_fetcher.sources.clock import HOSTS_MS, ReplyHead, ServerClock
from candle_fetcher.sources.scope import CallScope

_MOST_PAGES = 100_000
# A hole of so many slots at the start or end of a requested span is more likely a shortened reply than an outage.
_LARGE_HOLE = 100


class SpanAnswer(NamedTuple):
    """The answer of a source about a span: its candles, and the holes that the source confirmed.

    The span may begin later than the requested one: where the series begins; at `served_ms`, where the provider serves
    no older candles; or after a hole, where `error` says why it is not known whether the series had begun.
    `open_ms` is the opening of the first candle that may still change, as the reply states; such candles are left out.
    """

    span: Span
    candles: Candles
    confirmed: tuple[Span, ...]
    served_ms: int = -FOREVER_MS
    error: SourceError | None = None
    open_ms: int = FOREVER_MS


class CandlePage(NamedTuple):
    """The candles of a reply, and the times that it states.

    made_ms: when the reply was made, by its Date header; of several replies the earliest, None where one has no Date.
    final_ms: candles that open then or later may still change, as the reply states. is_blank: whether the reply had no
    candle, not even outside the span.
    """

    candles: Candles
    made_ms: int | None
    head: ReplyHead
    final_ms: int = FOREVER_MS
    is_blank: bool = False

    @property
    def final(self) -> Candles:
        """Return the candles that are final, as the reply states."""
        return self.candles if self.final_ms == FOREVER_MS else self.candles.trim(ALL_TIME.before(self.final_ms))

    @property
    def open_ms(self) -> int:
        """Return the opening of the first candle that may still change; FOREVER_MS where there is none."""
        if self.final_ms == FOREVER_MS:
            return FOREVER_MS
        rest = self.candles.trim(ALL_TIME.after(self.final_ms))
        return int(rest.open_ms[0]) if rest.count else FOREVER_MS


def join_pages(pages: list[CandlePage]) -> CandlePage:
    """Return one page for several that follow each other."""
    made = [page.made_ms for page in pages]
    known = [made_ms for made_ms in made if made_ms is not None]
    return CandlePage(
        join([page.candles for page in pages]),
        min(known) if len(known) == len(made) else None,
        pages[-1].head,
        min(page.final_ms for page in pages),
        all(page.is_blank for page in pages),
    )


def is_late(page: CandlePage, settling: Settling, span: Span, scope: CallScope) -> bool:
    """Return whether the reply was certainly made after everything in the span had settled.

    Its Date header tells. Without one, the instant of the call tells, if it was read from the provider's clock.
    """
    as_of, needed_ms = scope.as_of, settling.settles_ms(span.end_ms)
    is_due = as_of is not None and as_of.is_checked and needed_ms <= as_of.ms
    if page.made_ms is None:
        return is_due
    return needed_ms <= page.made_ms + (HOSTS_MS if is_due else 0)


def may_be_cut(hole: Span, span: Span, timeframe: Timeframe) -> bool:
    """Return whether a short page may have caused the hole: it is large, and lies at the start or end of the span."""
    if hole.start_ms > span.start_ms and hole.end_ms < span.end_ms:
        return False
    return timeframe.first_slot(hole.end_ms) - timeframe.ordinal(hole.start_ms) >= _LARGE_HOLE


def page_rows(feed: Feed, timeframe: Timeframe, span: Span) -> int:
    """Return how many rows to request: one for each slot, but not fewer than 99, which cost the same."""
    slots = timeframe.first_slot(span.end_ms) - timeframe.ordinal(span.start_ms)
    return min(feed.limit, max(slots, 99))


def windows(feed: Feed, series: Series, span: Span) -> Iterator[Span]:
    """Yield the span in pieces that one call can answer: at most `limit` slots and `window_ms` long, cut at borders of
    slots, and of fixed windows where calls are for such."""
    timeframe, start_ms = series.timeframe, span.start_ms
    while start_ms < span.end_ms:
        slot = timeframe.ordinal(start_ms)
        stop_slot = slot + feed.limit
        if feed.window_ms is not None:
            stop_slot = min(stop_slot, timeframe.ordinal(start_ms + feed.window_ms))
        end_ms = min(timeframe.open_ms(max(stop_slot, slot + 1)), span.end_ms)
        fixed = feed.window(series, start_ms) if feed.window is not None else None
        if fixed is not None:
            end_ms = min(end_ms, fixed.end_ms)
        yield Span(start_ms, end_ms)
        start_ms = end_ms


def requests_for(feed: Feed, series: Series, span: Span) -> list[Call]:
    """Return the calls that a span needs if the replies have no holes; for plans."""
    return [
        feed.call(series, window, page_rows(feed, series.timeframe, window)) for window in windows(feed, series, span)
    ]


class SeriesPages:
    """Requests the candles of one series, page by page, for one public call."""

    def __init__(
        self, feed: Feed, series: Series, scope: CallScope, client: ServiceClient, server_clock: ServerClock
    ) -> None:
        self._feed, self._series, self._scope = feed, series, scope
        self._request = partial(client.request, symbol=series.symbol, scope=scope)
        self._server_clock = server_clock

    def get(
        self, span: Span, *, within: Span | None = None, since_ms: int = -FOREVER_MS, refresh: bool = False
    ) -> CandlePage:
        """Return the candles of the span: from a kept reply where replies serve more than it, else from a new one."""
        if not self._feed.replies_with_all and within is None:
            return self.get_new(span)
        page = self.get_kept(within or span, since_ms=since_ms, refresh=refresh)
        return page._replace(candles=page.candles.trim(span))

    def get_kept(self, span: Span, *, since_ms: int = -FOREVER_MS, refresh: bool = False) -> CandlePage:
        """Return the reply to the call for the span, which is kept for the rest of the public call. It is requested
        again with `refresh`, or where the kept one is older than `since_ms`."""
        return self._scope.replies.get(
            self._feed.call(self._series, span, page_rows(self._feed, self._series.timeframe, span)),
            lambda: self.get_new(span),
            self._scope,
            now_ms=self._server_clock.estimated_ms(),
            since_ms=since_ms,
            refresh=refresh,
        )

    def get_new(self, span: Span) -> CandlePage:
        """Request the candles of the span, and those for which the first reply had no room: on further pages, or where
        slots have two candles off the grid."""
        feed, timeframe = self._feed, self._series.timeframe
        rows = page_rows(feed, timeframe, span)
        call = feed.call(self._series, span, rows)
        if feed.next_call is not None:
            return self._get_all(call, span)
        parser = _PageParser(self._series, feed, *((ALL_TIME, None) if feed.replies_with_all else (span, rows)))
        page = self._page(parser, *self._request(call, parser))
        opens = page.candles.open_ms
        if not feed.replies_with_all and len(opens) == rows > len(set(timeframe.ordinals(opens).tolist())):
            rest = span.after(int(opens[-1]) + 1)
            if rest:
                return join_pages([page, self.get_new(rest)])
        return page

    def _get_all(self, first: Call, span: Span) -> CandlePage:
        """Request every page of an answer. Raises ReplyError where the pages do not end."""
        pages: list[CandlePage] = []
        calls: set[Call] = set()
        call: Call | None = first
        while call is not None:
            if call in calls or len(calls) > _MOST_PAGES:
                raise ReplyError(f"{self._series.provider} repeats a page, or has more than {_MOST_PAGES:,} of them")
            calls.add(call)
            parser = _PageParser(self._series, self._feed, span, None, call)
            pages.append(self._page(parser, *self._request(call, parser)))
            call = parser.following
        if len(pages) == 1:
            return pages[0]
        joined = join_pages(pages)
        return joined._replace(candles=check(joined.candles, span))

    def request(self, call: Call, span: Span, most: int | None = None) -> CandlePage:
        """Request one page. Raises ReplyError where it has more than `most` candles, or one outside the span."""
        parser = _PageParser(self._series, self._feed, span, most)
        return self._page(parser, *self._request(call, parser))

    def _page(self, parser: _PageParser, candles: Candles, head: ReplyHead) -> CandlePage:
        return CandlePage(candles, self._server_clock.made_ms(head), head, parser.final_ms, not candles.count)


class _PageParser:
    """Parses and checks the candles of one reply. Raises ReplyError for a candle outside the span, or more than `most`.
    Afterwards `final_ms` is the time from which candles may still change, and `following` the call for the next page.
    """

    def __init__(
        self, series: Series, feed: Feed, span: Span, most: int | None = None, call: Call | None = None
    ) -> None:
        self._series, self._feed, self._span, self._most, self._call = series, feed, span, most, call
        self.final_ms = FOREVER_MS
        self.following: Call | None = None

    def __call__(self, body: bytes) -> Candles:
        feed = self._feed
        candles = feed.parse(body, self._series)
        if feed.final_until is not None:
            self.final_ms = feed.final_until(body, candles)
        candles = check(candles, self._span)
        if self._most is not None and candles.count > self._most:
            raise ReplyError(f"expected at most {self._most:,} candles, got {candles.count:,}")
        if feed.next_call is not None and self._call is not None:
            self.following = feed.next_call(self._call, body)
        return candles
