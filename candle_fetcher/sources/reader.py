"""The candles of a series by REST, and the second request for each hole.

A hole in a reply may be an error: it is requested again, alone, and counts as confirmed if that answer is empty too. If
the answer has rows, the holes in it are requested in turn. So short pages, page limits and late rows lose no candle.
"""

from __future__ import annotations

from collections.abc import Callable

from candle_fetcher.core.candles import Candles, find_holes, overlay
from candle_fetcher.core.errors import NotOffered, ReplyError, SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe
from candle_fetcher.sources.pages import CandlePage, SeriesPages, SpanAnswer, is_late, join_pages, may_be_cut, windows
from candle_fetcher.sources.rest import RestSource
from candle_fetcher.sources.scope import AsOf, CallScope

# A function that returns when the series begins, or None if it has not begun. Its arguments: a hole at the start of a
# span, and the opening of the candle after the hole, or None.
ListedMs = Callable[[Span, "int | None"], "int | None"]


class SeriesReader:
    """Reads the candles of one series by REST, for one public call. Shared by its threads."""

    def __init__(self, source: RestSource, series: Series, scope: CallScope) -> None:
        self._source, self._series, self._scope = source, series, scope
        self._feed = source.provider.feed(series.kind)
        self._settling = self._feed.settling(series)
        self._pages = source.pages(series, scope)

    def fetch_span(
        self, span: Span, listed_ms: ListedMs, *, again: bool = False, within: Span | None = None, refresh: bool = False
    ) -> SpanAnswer:
        """Return the candles of a span that one call can answer (see `windows`), with every hole requested again.

        listed_ms: tells when the series begins; the answer's span leaves out the time before. again: the span is a hole
        that was confirmed before, so that one empty answer is enough. within: a longer span that one call can answer
        too, and that is needed whole: it is requested once. refresh: send a request even where the public call has kept
        a reply for the span.
        """
        feed, timeframe = self._feed, self._series.timeframe
        if feed.replies_with_all or within is not None:
            # In a reply from early in a long public call, the newest candle may still have been forming.
            since_ms = self._settling.settles_ms(span.end_ms)
            page = self._pages.get(span, within=within, since_ms=since_ms, refresh=refresh)
        else:
            page = self._pages.get_new(span)
        served_ms = self._served_ms(span)
        span = span.after(served_ms)
        if span and not self._is_late(page, span):
            page, span = self._settled_page(page, span)
        if not span:
            return SpanAnswer(span, page.candles.trim(span), (), served_ms)
        candles = page.final
        if again and not candles.count:
            return SpanAnswer(span, candles, (span,), served_ms, open_ms=page.open_ms)
        unknown: SourceError | None = None
        holes = find_holes(candles.open_ms, timeframe, span)
        may_be_unlisted = feed.tells_first(self._series) and served_ms == -FOREVER_MS
        if may_be_unlisted and holes and holes[0].start_ms <= span.start_ms:
            span, unknown = self._listed_part(span, holes[0], candles, listed_ms)
            holes = find_holes(candles.open_ms, timeframe, span)
        candles, confirmed = self._confirm(span, page, holes)
        return SpanAnswer(span, candles, confirmed, served_ms, unknown, page.open_ms)

    def _is_late(self, page: CandlePage, span: Span) -> bool:
        return is_late(page, self._settling, span, self._scope)

    def _settled_page(self, page: CandlePage, span: Span) -> tuple[CandlePage, Span]:
        """Return the settled part of the page and its span, where the reply was made before the whole span had settled.

        Either the instant of the call was too late: the provider's clock is read, and if it is earlier, it becomes the
        instant of the call. Or the reply is an old one from a cache: then it is requested again.
        """
        source, scope, as_of = self._source, self._scope, self._scope.as_of
        is_doubted = page.made_ms is not None and as_of is not None and as_of.is_checked
        now_ms = source.now_ms(scope, self._series, is_doubted=is_doubted)
        if as_of is None or now_ms < as_of.ms:
            scope.as_of = AsOf(now_ms, source.server_clock.moment().wall_s, is_checked=True)
        else:
            scope.as_of = as_of._replace(is_checked=True)
        settled_ms = self._settling.end_ms(now_ms)
        if settled_ms < span.end_ms:
            span = span.before(settled_ms)
            page = page._replace(candles=self._settling.settled(page.candles, now_ms).trim(span))
        if span and not self._is_late(page, span):
            page = self._pages.get(span, refresh=True)
            if not self._is_late(page, span):
                raise ReplyError(
                    f"{source.provider.name} dates a reply {iso(page.made_ms or 0)}, before its candles until "
                    f"{iso(span.end_ms)} had settled; look for a proxy that stores replies"
                )
        return page, span

    def _listed_part(
        self, span: Span, hole: Span, candles: Candles, listed_ms: ListedMs
    ) -> tuple[Span, SourceError | None]:
        """Return the span from where the series begins, given the hole at its start, which may lie before that.

        Where the start of the series cannot be found out, return the span after the hole, and the error.
        """
        after = Span(hole.end_ms, span.end_ms)
        try:
            first_ms = listed_ms(hole, int(candles.open_ms[0]) if candles.count else None)
        except SourceError as error:
            if not candles.count:
                raise
            return after, error
        if first_ms is None or first_ms >= after.start_ms:
            return after, None
        if first_ms > span.start_ms:
            return Span(self._series.timeframe.floor_ms(first_ms), span.end_ms), None
        return span, None

    def _confirm(self, span: Span, page: CandlePage, holes: list[Span]) -> tuple[Candles, tuple[Span, ...]]:
        """Request each hole again, alone; twice where a short page may have caused it (see `may_be_cut`).

        Return the candles with the rows that came, and the holes that stayed. Where slots without trades have no row,
        only a reply without any candle is doubted, since it may be the reply to another request.
        """
        confirmed: list[Span] = []
        candles = page.final
        if not holes:
            return candles, ()
        has_empty_bars, timeframe = self._feed.has_empty_bars, self._series.timeframe
        # A hole at the live edge may be a late row, and is requested again later in any case.
        is_blank = page.is_blank and span.start_ms < self._settling.known_ms(self._source.estimated_ms())
        while holes:
            hole = holes.pop()
            # The reply itself states that its newest slots may still change: another request now would not tell more.
            is_open = hole.end_ms >= span.end_ms and page.final_ms < hole.end_ms
            is_doubted = has_empty_bars or (is_blank and hole == span)
            if is_open or not is_doubted:
                confirmed.append(hole)
                continue
            if not has_empty_bars:
                self._source.renew()
            more = self._pages.get(hole, refresh=True).final
            if has_empty_bars and not more.count and may_be_cut(hole, span, timeframe):
                self._source.renew()
                more = self._pages.get(hole, refresh=True).final
            if not more.count:
                confirmed.append(hole)
                continue
            candles = overlay(candles, more, hole)
            holes += find_holes(more.open_ms, timeframe, hole)
        return candles, tuple(sorted(confirmed))

    def read_page(self, span: Span) -> CandlePage:
        """Return the candles of a span as the provider sends them: checked, but with no hole requested again."""
        pages = [self._pages.get(window) for window in windows(self._feed, self._series, span)]
        return pages[0] if len(pages) == 1 else join_pages(pages)

    # -- where the series begins and ends -----------------------------------------------------------------------------

    def _served_ms(self, span: Span) -> int:
        """Return the opening of the oldest candle that the provider serves; -FOREVER_MS where it serves all."""
        depth = self._feed.depth(self._series)
        if depth is None:
            return -FOREVER_MS
        timeframe, opens = self._series.timeframe, self._pages.get_kept(span).candles.open_ms
        if len(opens) < depth - 1:  # of `depth` candles, the newest one may not be sent yet
            if not len(opens) or not self._feed.has_empty_bars:
                return -FOREVER_MS
            # Rows may be missing: so the series begins in the reply only if that begins well within the depth.
            if int(opens[0]) >= timeframe.open_ms(timeframe.ordinal(self._source.estimated_ms()) - depth + 2):
                return -FOREVER_MS
        return timeframe.floor_ms(int(opens[0]))

    def first_ms(self, before: Span) -> int | None:
        """Return when the first candle of the series opens; None where no candle opens after the start of `before`.

        `before` is a span known to be empty. The first candle may be older than that. Raises NotOffered where the
        provider has no request for the first candle, or serves only the newest candles of the series.
        """
        feed, series, provider = self._feed, self._series, self._source.provider
        now_ms = self._source.estimated_ms()
        if not feed.tells_first(series):
            raise NotOffered(f"{provider.name} has no request for the first candle of a series")
        if feed.replies_with_all:
            newest = Span(now_ms, now_ms + 1)
            if self._served_ms(newest) > -FOREVER_MS:
                raise NotOffered(
                    f"{provider.name} serves only the newest {feed.depth(series)} candles of {series.timeframe}, so "
                    "that it cannot be asked for the first one"
                )
            return _first_of(self._pages.get_kept(newest))
        if feed.first_call is not None:
            return _first_of(self._pages.request(feed.first_call(series), ALL_TIME.before(now_ms + DAY_MS), 1))
        return self._search_first_ms(before, now_ms)

    def _search_first_ms(self, before: Span, now_ms: int) -> int | None:
        """Return what `first_ms` does, for a provider that only answers for windows: request the window before
        `before`, then window by window from there."""
        feed, series, timeframe = self._feed, self._series, self._series.timeframe
        probes = self._source.pages(series._replace(timeframe=parse_timeframe(feed.probe)), self._scope)
        window_ms = feed.window_ms or 200 * DAY_MS
        since_ms = max(before.start_ms, feed.since_ms)
        if since_ms > feed.since_ms:
            earlier_ms = _first_of(probes.get(Span(since_ms - window_ms, since_ms)))
            if earlier_ms is not None:
                return earlier_ms
        for start_ms in range(since_ms, now_ms, window_ms):
            day_ms = _oldest_ms(probes, Span(start_ms, min(start_ms + window_ms, now_ms)))
            if day_ms is not None:
                slot_ms = timeframe.floor_ms(day_ms)
                day = Span(slot_ms, max(day_ms + DAY_MS, timeframe.close_ms(slot_ms)))
                found = (_oldest_ms(self._pages, window) for window in windows(feed, series, day))
                return next((first_ms for first_ms in found if first_ms is not None), day_ms)
        return None

    def last_ms(self, end_ms: int) -> int | None:
        """Return when the newest candle before the end opens; None where there is none, or no request for it."""
        if self._feed.last_call is None:
            return None
        call = self._feed.last_call(self._series, end_ms)
        return _first_of(self._pages.request(call, ALL_TIME.before(end_ms), 1))


def _first_of(page: CandlePage) -> int | None:
    return int(page.candles.open_ms[0]) if page.candles.count else None


def _oldest_ms(pages: SeriesPages, span: Span) -> int | None:
    """Return when the first candle in the span opens. A reply may be short: so the time before its first candle is
    requested, until that is empty."""
    oldest_ms = None
    while span:
        first_ms = _first_of(pages.get(span))
        if first_ms is None:
            break
        oldest_ms, span = first_ms, Span(span.start_ms, first_ms)
    return oldest_ms
