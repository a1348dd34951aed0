"""From a request to its candles: the range made definite, gathered, resampled where it must be, gaps named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import OHLCV, Candles, Gap, gap_of, have_prices, join, no_candles, overlay
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    IncompleteData,
    MissingExtra,
    RateLimited,
    SourceError,
    TransportError,
    UnknownSymbol,
    warn,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span
from candle_fetcher.core.resample import resample
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.fetcher.gather import Gatherer, warn_of_archive
from candle_fetcher.fetcher.manifest import failed_gaps, find_all_gaps, forming_ms
from candle_fetcher.fetcher.request import Request, read_span
from candle_fetcher.fetcher.sessions import OpenParts, find_open_parts
from candle_fetcher.fetcher.trip import Gathered, Want
from candle_fetcher.sources import Errand, Page, is_denial


class How(NamedTuple):
    """How to collect: the columns, and what `Want` says of the rest. `needs_sessions` says that hours in which an
    exchange is closed must not be taken for gaps; else they are where its calendar is not installed."""

    columns: str = "ohlcv"
    refresh: bool = False
    recheck: bool = False
    only_cache: bool = False
    use_archive: bool = True
    only_archive: bool = False
    keep: bool = True
    ttl_ms: int | None = None
    needs_sessions: bool = False


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
        """The provider's clock where the request is near to it, else ours; the archive's where that alone is asked."""
        end_ms = FOREVER_MS if request.range.end_ms is None else request.range.end_ms
        clock = request.archive if how.only_archive and request.archive is not None else request.source
        archive = request.archive if how.use_archive and not how.only_archive else None
        return self._gatherer.now_ms(clock, request.series, end_ms, errand, ask=not how.only_cache, archive=archive)

    def span(self, request: Request, how: How, errand: Errand) -> Span:
        """The span of the request, up to what is settled; out of the cache alone, up to what is stored."""
        now_ms = self.now_ms(request, how, errand)
        timeframe, settled_ms = request.timeframe, request.settled_ms(now_ms)
        span = read_span(request.range, settled_ms, now_ms)
        if request.range.from_first:
            listed_ms = timeframe.floor_ms(self.listed_ms(request, how, errand))
            span = Span(min(listed_ms, span.end_ms), span.end_ms)
        end_ms = min(span.end_ms, settled_ms)
        if how.only_cache and (request.range.end_ms is None or end_ms < span.end_ms):
            # What is stored has settled, though our clock be behind.
            stored_ms = self._stored_end_ms(request, span)
            if request.range.end_ms is not None:
                end_ms = max(end_ms, min(span.end_ms, timeframe.floor_ms(stored_ms)))
            elif stored_ms <= span.start_ms:
                errand.span = span
                raise IncompleteData(
                    f"nothing of {request.label} is stored in that range, and only the cache may be asked"
                )
            else:
                end_ms = timeframe.floor_ms(stored_ms)
        if how.only_archive and request.range.end_ms is None and request.archive is not None:
            published_ms = request.archive.end_ms(request.series, now_ms)
            end_ms = min(end_ms, timeframe.floor_ms(published_ms))
        elif errand.clock_error is not None:
            # Whether the next candle has settled is not known either.
            wanted_ms = now_ms if request.range.end_ms is None else span.end_ms
            end_ms = max(end_ms, min(wanted_ms, timeframe.close_ms(end_ms)))
        span = Span.between(span.start_ms, end_ms)
        if request.range.oldest and request.range.limit is None:
            errand.span = span
        return span

    def listed_ms(self, request: Request, how: How, errand: Errand) -> int:
        """Return when the first candle of the series opens; asked for once, where REST may be asked.

        Raises IncompleteData where there is none yet, or where it is not stored and may not be asked for; NotOffered
        where the provider cannot be asked for it.
        """
        first_ms = self._cache.facts(request.series).first_ms
        if first_ms is None and how.only_archive and request.archive is not None:
            first_ms = self._gatherer.first_published_ms(request.archive, request.series, errand)
        elif first_ms is None and not (how.only_cache or how.only_archive):
            first_ms = self._ask_first_ms(request, how, errand)
        if first_ms is None:
            raise IncompleteData(f"{request.label} has no first candle that is known of")
        return first_ms

    def _ask_first_ms(self, request: Request, how: How, errand: Errand) -> int | None:
        """Return when the first candle opens, by REST; where REST cannot be had, by the archive, with a warning."""
        archive = request.archive if how.use_archive else None
        try:
            if errand.denial is not None and archive is not None:
                raise errand.denial
            return self._gatherer.first_ms(request.source, request.series, errand)
        except (TransportError, RateLimited, AccessDenied) as error:
            is_final = isinstance(error, AccessDenied) and not is_denial(error)
            if archive is None or is_final or isinstance(error, Banned):
                raise
            if is_denial(error):
                errand.denial = error
            try:
                first_ms = self._gatherer.first_published_ms(archive, request.series, errand)
            except SourceError as unread:
                raise error from unread
            if first_ms is None:
                raise
            warn_of_archive(errand, request.label, error)
            return first_ms

    def _stored_end_ms(self, request: Request, span: Span) -> int:
        """Where the newest stored chunk ends; the start of the span where there is none."""
        oldest = chunk_of(request.series.timeframe, max(span.start_ms, 0))
        for chunk in reversed(self._cache.stored_chunks(request.series)):
            if chunk < oldest:
                break
            found = self._cache.read_stored(request.series, [chunk])
            if chunk in found:
                return found[chunk][1].covered.end_ms
        return span.start_ms

    def collect(self, request: Request, span: Span, how: How, errand: Errand) -> Collected:
        """The settled candles of the span, its gaps, and what of it could not be had."""
        series, base, timeframe = request.series, request.series.timeframe, request.timeframe
        columns = request.source.provider.feed(series.kind).columns
        names = columns[: 1 + len(OHLCV)] if how.columns == "ohlcv" and have_prices(columns) else columns
        wanted = span
        if base != timeframe:
            wanted = Span(timeframe.ceil_ms(span.start_ms), timeframe.ceil_ms(span.end_ms))
        told = self._gatherer.gather(self._want(request, wanted, how), errand)
        if told.span.end_ms < wanted.end_ms:  # what follows may still come, or change
            span = span.before(timeframe.floor_ms(told.span.end_ms))
        parts = [part.entry.candles.pick(names) for part in told.parts if part.entry.candles.count]
        candles = join(parts) if parts else no_candles(names)
        for lost, _ in told.failed:
            # What was to be confirmed and could not be is not believed any longer: it is missing, not a row.
            candles = overlay(candles, no_candles(names), lost)
        lacking: list[int] = []
        if base != timeframe:
            if candles.count:
                # A slot has settled once the last of its candles has, which may be hours later than the slot itself.
                until_ms = forming_ms(candles, told.settling, told.span.end_ms, told.now_ms)
                if until_ms < told.span.end_ms:
                    span = span.before(timeframe.floor_ms(until_ms))
            candles, lacking = resample(candles, base, timeframe, told.span)
            # Where the rest could not be had, the span reaches into a slot that is still forming, or may be.
            settled_ms = told.settling.end_ms(told.now_ms)
            if how.only_cache:
                settled_ms = max((part.entry.covered.end_ms for part in told.parts), default=told.span.end_ms)
            candles = candles.trim(ALL_TIME.before(timeframe.floor_ms(settled_ms)))
            if not request.source.provider.feed(series.kind).quiet_rows:
                # A slot without a row had no trade: only what could not be had is lacking.
                away = [*(one for one, _ in told.failed), *told.beyond]
                lacking = [ms for ms in lacking if any(Span(ms, timeframe.close_ms(ms)).clip(one) for one in away)]
            lacking = [ms for ms in lacking if ms < span.end_ms]
        if not candles.count and not how.only_cache:
            self._doubt_symbol(request, told, errand)
        failed = failed_gaps(told, candles, timeframe, span, "not_published" if how.only_archive else "fetch_failed")
        if failed and candles.count and _ends_late(request, told, span, failed[-1], how):
            span, failed = Span.between(span.start_ms, failed[-1].first_ms), failed[:-1]
            lacking = [ms for ms in lacking if ms < span.end_ms]
        return Collected(
            candles=candles.trim(span),
            span=span,
            gaps=find_all_gaps(told, candles, timeframe, span, self.open_parts(request, timeframe, span, how)),
            failed=failed,
            partial=lacking,
            refusals=tuple(error for _, error in told.failed if error is not None),
            told=told,
        )

    def _doubt_symbol(self, request: Request, told: Gathered, errand: Errand) -> None:
        """Raise UnknownSymbol, or warn, where the provider has no candle of the symbol in all of time.

        Some answer a request for a symbol that does not exist with no rows. Their list of symbols decides, if there is
        one; a provider that describes a single symbol has refused an unknown one already.
        """
        provider = request.source.provider
        is_never = told.facts.first_ms is None and any(
            empty.cause == "not_listed" and empty.span.start_ms == -FOREVER_MS for empty in told.facts.empty
        )
        if not is_never or provider.describe is not None or "symbol" in errand.warned:
            return
        if provider.listing is not None:
            with contextlib.suppress(SourceError):
                listed = request.source.listing(errand).symbols
                if all(one.provider_symbol != request.series.symbol for one in listed):
                    raise UnknownSymbol(request.symbol, provider.name)
                return
        errand.warned.add("symbol")
        warn(
            CandleFetcherWarning(
                f"{provider.name} has no candle of {request.symbol}, and never had one; see whether the symbol is right"
            )
        )

    def open_parts(self, request: Request, timeframe: Timeframe, span: Span, how: How) -> OpenParts:
        """Which slots of a hole owe a candle; all of them where trading never ends, or nobody knows when it does."""
        calendar = request.source.provider.calendar(request.series)
        try:
            return _all_of if calendar is None else find_open_parts(calendar, timeframe, span.start_ms)
        except MissingExtra as error:
            if how.needs_sessions:
                raise
            return partial(_all_unknown, request.label, error.fix)

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
        now_ms = self.now_ms(request, how, errand)
        whole = self.span(request, how, errand)
        slots = limit
        while True:
            # Where the series is known to begin and to end: nothing beyond has to be looked through.
            known = self._known(request, whole, now_ms)
            if request.range.oldest:
                edge = timeframe.first_slot(known.start_ms) + slots
                end_ms = timeframe.open_ms(edge)
                span = whole.before(end_ms)
                is_all = end_ms >= known.end_ms
            else:
                edge = max(timeframe.first_slot(known.end_ms) - slots, 0)
                start_ms = timeframe.open_ms(edge)
                span = whole.after(start_ms)
                is_all = start_ms <= known.start_ms
            got = self.collect(request, span, how, errand)
            if got.span.end_ms < span.end_ms and got.candles.count < limit and not request.range.oldest:
                whole = whole.before(got.span.end_ms)  # the newest rows are late: count back from those before
                if whole:
                    continue
            news = self._known(request, whole, now_ms) != known
            if got.candles.count >= limit or got.failed or (is_all and not news):
                return cut(got, limit, request)
            # The rest of the chunk costs nothing; the next one may fail, though the answer does not need it.
            left = -edge % CHUNK_SLOTS if request.range.oldest else edge % CHUNK_SLOTS
            slots = slots + left if left else 2 * slots + CHUNK_SLOTS

    def _known(self, request: Request, whole: Span, now_ms: int) -> Span:
        """The span without what is known to be empty at its ends; its end where all of it is."""
        known = self._cache.facts(request.series).bounds(whole, now_ms).clip(whole)
        return known if known else Span(whole.end_ms, whole.end_ms)

    def stream(self, request: Request, how: How, chunks: int, errand: Errand) -> Iterator[tuple[Collected, bool]]:
        """The span of the request piece by piece, cut where chunks end, so that nothing is looked up twice; and whether
        the piece is the last one."""
        span = self.span(request, how, errand)
        timeframe = request.timeframe
        while True:
            border_ms = chunk_span(timeframe, chunk_of(timeframe, span.start_ms) + chunks - 1).end_ms
            piece = span.before(border_ms)
            got = self.collect(request, piece, how, errand)
            span = span.after(piece.end_ms)
            is_last = not span or got.span.end_ms < piece.end_ms
            yield got, is_last
            if is_last:
                return

    def forming(self, request: Request, got: Collected, how: How, errand: Errand) -> Candles:
        """The candles after those of `got` that may still change, the last of them still forming; none where the range
        ends before."""
        source, series, timeframe, names = request.source, request.series, request.timeframe, got.candles.names
        base, settling = series.timeframe, got.told.settling
        now_ms = self.now_ms(request, how, errand)
        wanted = read_span(request.range, request.settled_ms(now_ms), now_ms)
        if request.range.end_ms is None:
            wanted = Span(wanted.start_ms, now_ms + 1)
        edge_ms = settling.end_ms(now_ms)
        is_cut = got.told.span.end_ms < min(wanted.end_ms, edge_ms)
        if is_cut:  # what follows may be final by now, and was not when it was asked for
            edge_ms = got.told.span.end_ms
        # Off the grid, a candle that opened in the slot before may not have settled yet.
        span = Span(base.open_ms(base.ordinal(edge_ms) - 1), now_ms + 1)
        if how.only_cache or how.only_archive or wanted.end_ms <= span.start_ms:
            return no_candles(names)
        if errand.denial is not None:
            raise errand.denial
        page = source.page(series, span, errand)
        first_ms = min(_unsettled_ms(page, settling, now_ms), edge_ms if is_cut else FOREVER_MS)
        newest = page.candles.trim(Span(max(first_ms, _last_ms(got.told) + 1), span.end_ms)).pick(names)
        if base != timeframe:
            open_ms = timeframe.floor_ms(edge_ms)
            if newest.count:
                open_ms = min(open_ms, timeframe.floor_ms(int(newest.open_ms[0])))
            settled = self.collect(request._replace(timeframe=base), Span(open_ms, edge_ms), how, errand).candles
            newest, _ = resample(join([settled, newest]), base, timeframe, Span(open_ms, span.end_ms))
            if got.candles.count:
                newest = newest.trim(Span(int(got.candles.open_ms[-1]) + 1, FOREVER_MS))
        return newest.trim(Span(max(wanted.start_ms, got.span.start_ms), wanted.end_ms))


def _all_of(hole: Span) -> list[Span]:
    return [hole]


def _all_unknown(label: str, fix: str, hole: Span) -> list[Span]:
    warn(CandleFetcherWarning(f"the gaps of {label} count hours in which its exchange is closed; {fix}"))
    return [hole]


def _last_ms(told: Gathered) -> int:
    """When the newest candle opens; long ago where there is none."""
    return max((int(part.entry.candles.open_ms[-1]) for part in told.parts if part.entry.candles.count), default=-1)


def _unsettled_ms(page: Page, settling: Settling, now_ms: int) -> int:
    """The open time of the first candle that is not settled; the far future where all are."""
    candles, settled = page.candles, settling.settled(page.final, now_ms).count
    return int(candles.open_ms[settled]) if settled < candles.count else FOREVER_MS


def _ends_late(request: Request, told: Gathered, span: Span, last: Gap, how: How) -> bool:
    """Whether the newest files of the archive are late, and it was asked for all it has: it ends before them then."""
    if not how.only_archive or request.archive is None or request.range.end_ms is not None:
        return False
    if last.first_ms < told.read_until_ms:
        return False  # there are later ones
    if span.end_ms < min(request.archive.end_ms(request.series, told.now_ms), told.now_ms):
        return False
    is_last = request.timeframe.ordinal(last.last_ms) + 1 == request.timeframe.first_slot(span.end_ms)
    return is_last and last.cause == "not_published"


def cut(got: Collected, limit: int, request: Request) -> Collected:
    """Return at most `limit` of the candles, with what is said of their span alone: the oldest candles where the
    request has a start, the newest else. What failed before or after them is no part of the answer."""
    if got.candles.count < limit:
        return got
    timeframe, is_oldest = request.timeframe, request.range.oldest
    first = 0 if is_oldest else got.candles.count - limit
    candles = Candles(got.candles.names, got.candles.block[:, first : first + limit])
    span = got.span
    if not limit:
        span = Span(span.end_ms, span.end_ms)
        slots = range(0)
    elif is_oldest:
        newest_ms = int(candles.open_ms[-1])
        span = Span(span.start_ms, timeframe.close_ms(newest_ms))
        slots = range(timeframe.ordinal(span.start_ms), timeframe.ordinal(newest_ms))
    else:
        span = Span(int(candles.open_ms[0]), span.end_ms)
        slots = range(timeframe.ordinal(span.start_ms) + 1, timeframe.first_slot(span.end_ms))
    return got._replace(
        candles=candles,
        span=span,
        gaps=[gap for gap in got.gaps if span.start_ms <= gap.first_ms < span.end_ms],
        failed=[inner for gap in got.failed if (inner := _clipped(gap, slots, timeframe))],
        partial=[ms for ms in got.partial if span.start_ms <= ms < span.end_ms],
    )


def _clipped(gap: Gap, slots: range, timeframe: Timeframe) -> Gap | None:
    """Return what of the gap lies in those slots; None where nothing does."""
    inner = Span(gap.first_ms, timeframe.close_ms(gap.last_ms)).clip(timeframe.span(slots.start, slots.stop))
    return gap_of(inner, timeframe, gap.cause) if inner else None
