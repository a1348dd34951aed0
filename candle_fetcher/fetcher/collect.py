"""From a request to its candles: the range made definite, gathered, resampled where it must be, gaps named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from candle_fetcher.cache import ABSENT, CandleCache
from candle_fetcher.core.candles import OHLCV, Candles, Gap, check, join, no_candles, overlay
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.expiry import FOREVER_MS, settled_end_ms
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span
from candle_fetcher.core.resample import resample
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher.gather import Gathered, Gatherer, Want
from candle_fetcher.fetcher.manifest import failed_gaps, find_all_gaps
from candle_fetcher.fetcher.request import Request, read_span
from candle_fetcher.sources import Errand, page_rows


class How(NamedTuple):
    """How to collect: the columns, and what `Want` says of the rest."""

    columns: str = "ohlcv"
    refresh: bool = False
    recheck: bool = False
    only_cache: bool = False
    use_archive: bool = True
    only_archive: bool = False
    keep: bool = True
    ttl_ms: int | None = None


class Collected(NamedTuple):
    """Candles of a definite span, and what must be said of them. `failed` could not be had, because of `refusals`."""

    candles: Candles
    span: Span
    gaps: list[Gap]
    failed: list[Gap]
    partial: list[int]
    refusals: tuple[SourceError, ...]
    told: Gathered


class Collector:
    """Answers requests out of gathered spans. Holds nothing of its own."""

    def __init__(self, gatherer: Gatherer, cache: CandleCache) -> None:
        self._gatherer = gatherer
        self._cache = cache

    def now_ms(self, request: Request, how: How, errand: Errand) -> int:
        """The provider's clock where the request is near to it, else ours."""
        end_ms = FOREVER_MS if request.range.end_ms is None else request.range.end_ms
        return self._gatherer.now_ms(request.source, end_ms, errand, ask=not how.only_cache)

    def span(self, request: Request, how: How, errand: Errand) -> Span:
        """The span of the request, up to what is settled; out of the cache alone, up to what is stored."""
        now_ms = self.now_ms(request, how, errand)
        span = read_span(request.range, request.timeframe, now_ms)
        end_ms = min(span.end_ms, settled_end_ms(request.timeframe, now_ms))
        if how.only_cache and request.range.end_ms is None:
            end_ms = min(end_ms, self._stored_end_ms(request, span, now_ms))
            end_ms = request.timeframe.open_ms(request.timeframe.ordinal(end_ms))
        return Span(span.start_ms, max(end_ms, span.start_ms))

    def _stored_end_ms(self, request: Request, span: Span, now_ms: int) -> int:
        """Where the newest stored chunk before now ends; the start of the span where there is none."""
        timeframe = request.series.timeframe
        newest, oldest = chunk_of(timeframe, now_ms), chunk_of(timeframe, max(span.start_ms, 0))
        while newest >= oldest:
            chunks = range(max(oldest, newest - newest % CHUNK_SLOTS), newest + 1)
            stored = [
                chunk
                for chunk, word in (self._cache.believed_until(request.series, chunks) or {}).items()
                if word != ABSENT
            ]
            for chunk in sorted(stored, reverse=True):
                found = self._cache.load(request.series, [chunk])
                if chunk in found:
                    return found[chunk][1].covered.end_ms
            newest = chunks.start - 1
        return span.start_ms

    def collect(self, request: Request, span: Span, how: How, errand: Errand) -> Collected:
        """The settled candles of the span, its gaps, and what of it could not be had."""
        series, base, timeframe = request.series, request.series.timeframe, request.timeframe
        columns = request.source.provider.feed(series.kind).columns
        names = columns[: 1 + len(OHLCV)] if how.columns == "ohlcv" else columns
        wanted = span
        if base != timeframe:
            slots = timeframe.first_slot(span.start_ms), timeframe.first_slot(span.end_ms)
            wanted = Span(timeframe.open_ms(slots[0]), timeframe.open_ms(slots[1]))
        told = self._gatherer.gather(self._want(request, wanted, how), errand)
        parts = [part.entry.candles.pick(names) for part in told.parts if part.entry.candles.count]
        candles = join(parts) if parts else no_candles(names)
        for failed, _ in told.failed:
            # What was to be confirmed and could not be is not believed any longer: it is missing, not a row.
            candles = overlay(candles, no_candles(names), failed)
        partial: list[int] = []
        if base != timeframe:
            candles, partial = resample(candles, base, timeframe, told.span)
        return Collected(
            candles=candles.trim(span),
            span=span,
            gaps=find_all_gaps(told, candles, timeframe, span),
            failed=failed_gaps(told, timeframe, span, "not_published" if how.only_archive else "fetch_failed"),
            partial=partial,
            refusals=tuple(error for _, error in told.failed if error is not None),
            told=told,
        )

    def _want(self, request: Request, span: Span, how: How) -> Want:
        return Want(
            request.source,
            request.series,
            span,
            archive=request.archive if how.use_archive else None,
            only_archive=how.only_archive,
            label=request.label,
            refresh=how.refresh,
            only_cache=how.only_cache,
            recheck=how.recheck,
            keep=how.keep,
            ttl_ms=how.ttl_ms,
        )

    def collect_limited(self, request: Request, how: How, errand: Errand) -> Collected:
        """As many candles as asked for: the oldest from the start, or the newest before the end. Gaps do not count."""
        limit = request.range.limit or 0
        timeframe = request.timeframe
        whole = self.span(request, how, errand)
        slots = limit
        while True:
            if request.range.oldest:
                first = timeframe.first_slot(whole.start_ms)
                span = Span(whole.start_ms, min(whole.end_ms, timeframe.open_ms(first + slots)))
                is_all = span.end_ms == whole.end_ms
            else:
                start_ms = timeframe.open_ms(timeframe.first_slot(whole.end_ms) - slots)
                span = Span(max(start_ms, whole.start_ms), whole.end_ms)
                listed_ms = self._cache.facts(request.series).first_ms
                is_all = span.start_ms <= (0 if listed_ms is None else listed_ms)
            got = self.collect(request, span, how, errand)
            if got.candles.count >= limit or is_all or got.failed:
                break
            how = how._replace(refresh=False, recheck=False)
            slots += max(limit - got.candles.count, CHUNK_SLOTS)
        return cut(got, limit, request)

    def stream(self, request: Request, how: How, chunks: int, errand: Errand) -> Iterator[Collected]:
        """The span of the request piece by piece, cut where chunks end, so that nothing is looked up twice."""
        span = self.span(request, how, errand)
        timeframe = request.timeframe
        while True:
            border_ms = chunk_span(timeframe, chunk_of(timeframe, span.start_ms) + chunks - 1).end_ms
            piece = Span(span.start_ms, min(border_ms, span.end_ms))
            yield self.collect(request, piece, how, errand)
            span = Span(piece.end_ms, span.end_ms)
            if not span:
                return

    def forming(self, request: Request, got: Collected, how: How, errand: Errand) -> Candles:
        """The candles after the settled ones, the last of them still forming; none where the range ends before."""
        source, series, timeframe = request.source, request.series, request.timeframe
        now_ms = self.now_ms(request, how, errand)
        open_ms = settled_end_ms(timeframe, now_ms)
        end_ms = now_ms + 1 if request.range.end_ms is None else min(request.range.end_ms, now_ms + 1)
        names = got.candles.names
        base = series.timeframe
        if how.only_cache or end_ms <= open_ms:
            return no_candles(names)
        settled = no_candles(names)
        start_ms = open_ms
        if base != timeframe:
            settled_ms = settled_end_ms(base, now_ms)
            settled = self.collect(request._replace(timeframe=base), Span(open_ms, settled_ms), how, errand).candles
            start_ms = settled_ms
        elif got.candles.count and int(got.candles.open_ms[-1]) >= base.open_ms(base.ordinal(open_ms) - 2):
            start_ms = (
                int(got.candles.open_ms[-1]) + 1
            )  # off the grid, a candle older than its slot's border may be forming
        feed = source.provider.feed(series.kind)
        span = Span(start_ms, max(start_ms + 1, now_ms + 1))
        call = feed.call(series.symbol, base, span, page_rows(feed, base, span))
        newest = source.ask(call, lambda body: check(feed.parse(body), span), symbol=series.symbol, stop=errand).pick(
            names
        )
        if base != timeframe:
            newest, _ = resample(join([settled, newest]), base, timeframe, Span(open_ms, span.end_ms))
        return newest.trim(Span(-FOREVER_MS, end_ms))


def cut(got: Collected, limit: int, request: Request) -> Collected:
    """At most so many of the candles, the oldest where the request has a start and the newest else, with the gaps between."""
    if got.candles.count <= limit:
        return got
    first = 0 if request.range.oldest else got.candles.count - limit
    candles = Candles(got.candles.names, got.candles.block[:, first : first + limit])
    span = got.span
    if not limit:
        span = Span(span.end_ms, span.end_ms)
    elif request.range.oldest:
        span = Span(span.start_ms, request.timeframe.close_ms(int(candles.open_ms[-1])))
    else:
        span = Span(int(candles.open_ms[0]), span.end_ms)
    return got._replace(
        candles=candles,
        span=span,
        gaps=[gap for gap in got.gaps if span.start_ms <= gap.first_ms < span.end_ms],
        partial=[ms for ms in got.partial if span.start_ms <= ms < span.end_ms],
    )
