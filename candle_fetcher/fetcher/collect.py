"""From a request to its candles: definite range, gathering, resampling, named gaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from candle_fetcher.core.candles import OHLCV, Candles, gap_of, have_prices, join, no_candles, overlay
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
    warn_once,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.page import PAGE_CHUNKS
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span
from candle_fetcher.core.resample import resample
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.fetcher.gaps import failed_gaps, find_all_gaps, forming_ms
from candle_fetcher.fetcher.gathering import (
    GatherResult,
    Task,
    find_first_ms,
    gather,
    read_now_ms,
    warn_of_archive,
)
from candle_fetcher.fetcher.policy import ARCHIVE, ONLY_CACHE, REST
from candle_fetcher.fetcher.request import Request, read_call_span, read_span
from candle_fetcher.sessions import OpenParts, find_open_parts
from candle_fetcher.sources import CandlePage, SeriesReader, is_denial


class CandleResult(NamedTuple):
    """Candles of a definite span, and what must be said of them. `failed` could not be fetched, because of `refusals`.
    `partial` are the opening times (ms) of resampled candles that lack a part."""

    candles: Candles
    span: Span
    gaps: list[Gap]
    failed: list[Gap]
    partial: list[int]
    refusals: tuple[SourceError, ...]
    gathered: GatherResult


class Collector(Task):
    """Collects the candles of one request, for one public call."""

    __slots__ = ()

    # -- the range ----------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return the instant of the call (ms): by the provider's clock where the range is near to it."""
        end_ms = FOREVER_MS if self.request.range.end_ms is None else self.request.range.end_ms
        return read_now_ms(self, end_ms)

    def span(self) -> Span:
        """Return the span of the request, up to what is settled; out of the cache alone, up to what is stored."""
        request, scope = self.request, self.scope
        now_ms = self.now_ms()
        timeframe, settled_ms = request.timeframe, request.settled_ms(now_ms)
        span = read_call_span(request.range, settled_ms, now_ms, scope)
        if request.range.from_first:
            span = Span(min(timeframe.floor_ms(self.listed_ms()), span.end_ms), span.end_ms)
        end_ms = min(span.end_ms, settled_ms)
        if self.policy.is_offline and (request.range.end_ms is None or end_ms < span.end_ms):
            end_ms = self._stored_end_ms(span, end_ms)
        if self.policy.is_archive_only and request.range.end_ms is None and request.archive is not None:
            end_ms = min(end_ms, timeframe.floor_ms(request.archive.end_ms(request.series, now_ms)))
        elif scope.clock_error is not None:
            # Whether the next candle has settled is not known either.
            wanted_ms = now_ms if request.range.end_ms is None else span.end_ms
            end_ms = max(end_ms, min(wanted_ms, timeframe.close_ms(end_ms)))
        span = Span.between(span.start_ms, end_ms)
        if request.range.oldest and request.range.limit is None:
            scope.span = span
        return span

    def _stored_end_ms(self, span: Span, settled_ms: int) -> int:
        """Return where the span ends by what is stored, which has settled though this machine's clock may be behind.

        Raises IncompleteData where nothing of a range without an end is stored.
        """
        request, timeframe = self.request, self.request.timeframe
        stored_ms = self._newest_stored_ms(span)
        if request.range.end_ms is not None:
            return max(settled_ms, min(span.end_ms, timeframe.floor_ms(stored_ms)))
        if stored_ms <= span.start_ms and self.policy.takes_partial:
            return settled_ms
        if stored_ms <= span.start_ms:
            self.scope.span = span
            raise IncompleteData(f"the cache has no candle of {request.label} in that range, and {ONLY_CACHE}")
        return timeframe.floor_ms(stored_ms)

    def _newest_stored_ms(self, span: Span) -> int:
        """Return where the newest stored chunk ends; the start of the span where none is stored."""
        cache, series = self.resources.cache, self.request.series
        oldest = chunk_of(series.timeframe, max(span.start_ms, 0))
        for chunk in reversed(cache.entries.chunks(series)):
            if chunk < oldest:
                break
            found = cache.entries.read(series, [chunk])
            if chunk in found:
                return found[chunk][1].covered.end_ms
        return span.start_ms

    def listed_ms(self) -> int:
        """Return when the first candle of the series opens; asked for once, where REST may be asked.

        Raises IncompleteData where there is none yet, or where it is not stored and may not be asked for; NotOffered
        where the provider cannot be asked for it.
        """
        request = self.request
        first_ms = self.resources.cache.facts.get(request.series).first_ms
        if first_ms is None and self.policy.is_archive_only and request.archive is not None:
            first_ms = self._first_published_ms()
        elif first_ms is None and self.policy.allows(REST):
            first_ms = self._ask_first_ms()
        if first_ms is None:
            raise IncompleteData(f"no source that was asked knows the first candle of {request.label}")
        return first_ms

    def _first_published_ms(self) -> int | None:
        """Return when the first candle that the archive has opens; None where it lists none. It is not stored."""
        assert self.request.archive is not None
        return self.request.archive.first_ms(self.request.series, self.scope, self.resources.pools.files)

    def _ask_first_ms(self) -> int | None:
        """Return when the first candle opens, by REST; where REST fails, by the archive, with a warning."""
        scope = self.scope
        may_replace = self.request.archive is not None and self.policy.allows(ARCHIVE)
        try:
            if scope.denial is not None and may_replace:
                raise scope.denial
            return find_first_ms(self)
        except (TransportError, RateLimited, AccessDenied) as error:
            is_final = isinstance(error, AccessDenied) and not is_denial(error)
            if not may_replace or is_final or isinstance(error, Banned):
                raise
            if is_denial(error):
                scope.denial = error
            try:
                first_ms = self._first_published_ms()
            except SourceError as unread:
                raise error from unread
            if first_ms is None:
                raise
            warn_of_archive(scope, self.request.label, error)
            return first_ms

    # -- the candles ----------------------------------------------------------------------------------------------

    def collect(self, span: Span) -> CandleResult:
        """Return the settled candles of the span, its gaps, and what of it could not be fetched."""
        request, timeframe = self.request, self.request.timeframe
        columns = self.request.feed.columns
        names = columns[: 1 + len(OHLCV)] if self.policy.columns == "ohlcv" and have_prices(columns) else columns
        wanted = span
        if request.series.timeframe != timeframe:
            wanted = Span(timeframe.ceil_ms(span.start_ms), timeframe.ceil_ms(span.end_ms))
        found = gather(self, wanted)
        if found.span.end_ms < wanted.end_ms:  # what follows may still come, or change
            span = span.before(timeframe.floor_ms(found.span.end_ms))
        if found.read_until_ms:  # what files brought lies in pages by now, and is not held twice
            self.resources.cache.entries.pages.release(request.series)
        candles = found.join(names)
        for lost, _ in found.failed:
            # What was to be confirmed and could not be is missing, not a row.
            candles = overlay(candles, no_candles(names), lost)
        lacking: list[int] = []
        if request.series.timeframe != timeframe:
            candles, lacking, span = self._resample(found, candles, span)
        if not candles.count and not self.policy.is_offline:
            self._check_symbol(found)
        cause = "not_published" if self.policy.is_archive_only else "fetch_failed"
        failed = failed_gaps(found, candles, timeframe, span, cause)
        if failed and candles.count and self._ends_late(found, span, failed[-1]):
            span, failed = Span.between(span.start_ms, failed[-1].first_ms), failed[:-1]
            lacking = [ms for ms in lacking if ms < span.end_ms]
        if self.policy.takes_partial:
            candles, lacking = _without(candles, lacking, failed, timeframe)
        return CandleResult(
            candles=candles.trim(span),
            span=span,
            gaps=find_all_gaps(found, candles, timeframe, span, self.open_parts(span)),
            failed=failed,
            partial=lacking,
            refusals=tuple(error for _, error in found.failed if error is not None),
            gathered=found,
        )

    def _resample(self, found: GatherResult, candles: Candles, span: Span) -> tuple[Candles, list[int], Span]:
        """Return the candles in the timeframe of the request, the opening times of those that lack a part, and the
        span up to the last slot that has settled."""
        request, timeframe = self.request, self.request.timeframe
        if candles.count:
            # A slot has settled once the last of its candles has, which may be hours later than the slot itself.
            until_ms = forming_ms(candles, found.settling, found.span.end_ms, found.now_ms)
            if until_ms < found.span.end_ms:
                span = span.before(timeframe.floor_ms(until_ms))
        candles, lacking = resample(candles, request.series.timeframe, timeframe, found.span)
        # Where the rest could not be fetched, the span reaches into a slot that is still forming, or may be.
        settled_ms = found.settling.end_ms(found.now_ms)
        if self.policy.is_offline:
            settled_ms = max((part.entry.covered.end_ms for part in found.chunks), default=found.span.end_ms)
        candles = candles.trim(ALL_TIME.before(timeframe.floor_ms(settled_ms)))
        if not self.request.feed.has_empty_bars:
            # A slot without a row had no trade: only what could not be fetched is lacking.
            away = [*(one for one, _ in found.failed), *found.beyond]
            lacking = [ms for ms in lacking if any(Span(ms, timeframe.close_ms(ms)).clip(one) for one in away)]
        return candles, [ms for ms in lacking if ms < span.end_ms], span

    def _check_symbol(self, found: GatherResult) -> None:
        """Raise UnknownSymbol, or warn, where the provider never had a candle of the symbol.

        Some providers answer for a symbol that does not exist with no rows. Their list of symbols decides, where there
        is one; a provider that describes a single symbol has refused an unknown one already.
        """
        request, provider = self.request, self.request.source.provider
        is_never = found.facts.first_ms is None and any(
            empty.cause == "not_listed" and empty.span.start_ms == -FOREVER_MS for empty in found.facts.empty
        )
        if not is_never or provider.describe is not None or "symbol" in self.scope.warned:
            return
        if provider.listing is not None:
            with contextlib.suppress(SourceError):
                listed = request.source.listing(self.scope).symbols
                if all(one.provider_symbol != request.series.symbol for one in listed):
                    raise UnknownSymbol(request.symbol, provider.name)
                return
        what = f"{provider.name} has no candle of {request.symbol}, and never had one; check the symbol"
        warn_once(self.scope.warned, "symbol", CandleFetcherWarning(what))

    def _ends_late(self, found: GatherResult, span: Span, last: Gap) -> bool:
        """Return whether the archive's newest files are late and it was asked for all it has: the span ends before
        them then."""
        request = self.request
        if not self.policy.is_archive_only or request.archive is None or request.range.end_ms is not None:
            return False
        if last.first_ms < found.read_until_ms:
            return False  # there are later ones
        if span.end_ms < min(request.archive.end_ms(request.series, found.now_ms), found.now_ms):
            return False
        is_last = request.timeframe.ordinal(last.last_ms) + 1 == request.timeframe.first_slot(span.end_ms)
        return is_last and last.cause == "not_published"

    def open_parts(self, span: Span) -> OpenParts:
        """Return the function that says which slots of a hole owe a candle: all, where trading never ends or the hours
        of the exchange are not known."""
        calendar = self.request.source.provider.calendar(self.request.series)
        try:
            if calendar is not None:
                return find_open_parts(calendar, self.request.timeframe, span.start_ms)
        except MissingExtra as error:
            if self.policy.needs_sessions:
                raise
            return partial(_all_unknown, self.request.label, error.fix)
        return lambda hole: [hole]

    def collect_limited(self) -> CandleResult:
        """Return as many candles as asked for: the oldest from the start, or the newest before the end. Gaps do not
        count."""
        request, timeframe, is_oldest = self.request, self.request.timeframe, self.request.range.oldest
        limit = request.range.limit or 0
        now_ms, whole, slots = self.now_ms(), self.span(), limit
        while True:
            # Where the series is known to begin and to end: nothing beyond has to be looked through.
            known = self._known(whole, now_ms)
            if is_oldest:
                edge = timeframe.first_slot(known.start_ms) + slots
                end_ms = timeframe.open_ms(edge)
                span = whole.before(end_ms)
                is_all = end_ms >= known.end_ms
            else:
                edge = max(timeframe.first_slot(known.end_ms) - slots, 0)
                start_ms = timeframe.open_ms(edge)
                span = whole.after(start_ms)
                is_all = start_ms <= known.start_ms
            found = self.collect(span)
            if found.span.end_ms < span.end_ms and found.candles.count < limit and not is_oldest:
                whole = whole.before(found.span.end_ms)  # the newest rows are late: count back from those before
                if whole:
                    continue
            has_news = self._known(whole, now_ms) != known
            if found.candles.count >= limit or found.failed or (is_all and not has_news):
                return cut(found, limit, request)
            # The rest of the chunk costs nothing; the next one may fail, though the answer does not need it.
            left = -edge % CHUNK_SLOTS if is_oldest else edge % CHUNK_SLOTS
            slots = slots + left if left else 2 * slots + CHUNK_SLOTS

    def _known(self, whole: Span, now_ms: int) -> Span:
        """Return the span without what is known to be empty at its ends; its end where all of it is."""
        known = self.resources.cache.facts.get(self.request.series).bounds(whole, now_ms).clip(whole)
        return known if known else Span(whole.end_ms, whole.end_ms)

    def stream(self, chunks: int) -> Iterator[tuple[CandleResult, bool]]:
        """Yield the span of the request part by part, and whether the part is the last one. Parts end where chunks end,
        so that nothing is looked up twice, and where pages end, if they hold as much."""
        span, timeframe = self.span(), self.request.timeframe
        while True:
            stop = chunk_of(timeframe, span.start_ms) + chunks
            stop -= stop % PAGE_CHUNKS if chunks >= PAGE_CHUNKS else 0
            part = span.before(chunk_span(timeframe, stop - 1).end_ms)
            found = self.collect(part)
            span = span.after(part.end_ms)
            is_last = not span or found.span.end_ms < part.end_ms
            yield found, is_last
            del found  # a part is freed before the next one is gathered
            if is_last:
                return

    def forming(self, found: CandleResult) -> Candles:
        """Return the candles after those found that may still change, the last of them still forming; none where the
        range ends before."""
        request, series, timeframe = self.request, self.request.series, self.request.timeframe
        names = found.candles.names
        base, settling = series.timeframe, found.gathered.settling
        now_ms = self.now_ms()
        wanted = read_span(request.range, request.settled_ms(now_ms), now_ms)
        if request.range.end_ms is None:
            wanted = Span(wanted.start_ms, now_ms + 1)
        edge_ms = settling.end_ms(now_ms)
        is_cut = found.gathered.span.end_ms < min(wanted.end_ms, edge_ms)
        if is_cut:  # what follows may be final by now, and was not when it was asked for
            edge_ms = found.gathered.span.end_ms
        # Off the grid, a candle that opened in the slot before may not have settled yet.
        span = Span(base.open_ms(base.ordinal(edge_ms) - 1), now_ms + 1)
        if not self.policy.allows(REST) or wanted.end_ms <= span.start_ms:
            return no_candles(names)
        if self.scope.denial is not None:
            raise self.scope.denial
        page = SeriesReader(request.source, series, self.scope).read_page(span)
        first_ms = min(_unsettled_ms(page, settling, now_ms), edge_ms if is_cut else FOREVER_MS)
        newest = page.candles.trim(Span(max(first_ms, _last_ms(found.gathered) + 1), span.end_ms)).pick(names)
        if base != timeframe:
            open_ms = timeframe.floor_ms(edge_ms)
            if newest.count:
                open_ms = min(open_ms, timeframe.floor_ms(int(newest.open_ms[0])))
            settled = self._replace(request=request._replace(timeframe=base)).collect(Span(open_ms, edge_ms)).candles
            newest, _ = resample(join([settled, newest]), base, timeframe, Span(open_ms, span.end_ms))
            if found.candles.count:
                newest = newest.trim(Span(int(found.candles.open_ms[-1]) + 1, FOREVER_MS))
        return newest.trim(Span(max(wanted.start_ms, found.span.start_ms), wanted.end_ms))


def _without(
    candles: Candles, lacking: list[int], failed: list[Gap], timeframe: Timeframe
) -> tuple[Candles, list[int]]:
    """Return the candles, and those that lack a part, without slots that failed: a resampled candle of which a part
    could not be fetched is missing, and not a row."""
    for gap in failed:
        lost = Span(gap.first_ms, timeframe.close_ms(gap.last_ms))
        candles = overlay(candles, no_candles(candles.names), lost)
        lacking = [ms for ms in lacking if not lost.start_ms <= ms < lost.end_ms]
    return candles, lacking


def without_forming(found: CandleResult, request: Request, now_ms: int) -> CandleResult:
    """Return what was found, and what follows it up to now as missing."""
    timeframe = request.timeframe
    end_ms = now_ms + 1 if request.range.end_ms is None else min(now_ms + 1, request.range.end_ms)
    lost = Span(timeframe.ceil_ms(found.span.end_ms), timeframe.ceil_ms(end_ms))
    return found._replace(failed=[*found.failed, gap_of(lost, timeframe, "fetch_failed")]) if lost else found


def _all_unknown(label: str, fix: str, hole: Span) -> list[Span]:
    warn(CandleFetcherWarning(f"the gaps of {label} include hours in which its exchange is closed; {fix}"))
    return [hole]


def _last_ms(found: GatherResult) -> int:
    """Return when the newest candle opens; -1 where there is none."""
    return max((int(part.entry.candles.open_ms[-1]) for part in found.chunks if part.entry.candles.count), default=-1)


def _unsettled_ms(page: CandlePage, settling: Settling, now_ms: int) -> int:
    """Return when the first candle opens that is not settled; FOREVER_MS where all are."""
    candles, settled = page.candles, settling.settled(page.final, now_ms).count
    return int(candles.open_ms[settled]) if settled < candles.count else FOREVER_MS


def part_of(found: CandleResult, span: Span) -> CandleResult:
    """Return what was found of a part of its span."""
    if span == found.span:
        return found
    return found._replace(
        candles=found.candles.trim(span),
        span=span,
        gaps=[gap for gap in found.gaps if span.start_ms <= gap.first_ms < span.end_ms],
        failed=[
            gap
            for gap in found.failed
            if (span.start_ms <= gap.first_ms or span.start_ms == found.span.start_ms)
            and (gap.first_ms < span.end_ms or span.end_ms == found.span.end_ms)
        ],
        partial=[ms for ms in found.partial if span.start_ms <= ms < span.end_ms],
    )


def cut(found: CandleResult, limit: int, request: Request) -> CandleResult:
    """Return at most `limit` of the candles, with what is said of their span alone: the oldest candles where the
    request has a start, the newest else. What failed before or after them is no part of the answer."""
    if found.candles.count < limit:
        return found
    timeframe, is_oldest = request.timeframe, request.range.oldest
    first = 0 if is_oldest else found.candles.count - limit
    candles = Candles(found.candles.names, found.candles.block[:, first : first + limit])
    span = found.span
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
    failed = [inner for gap in found.failed if (inner := _clipped(gap, slots, timeframe))]
    return part_of(found, span)._replace(candles=candles, failed=failed)


def _clipped(gap: Gap, slots: range, timeframe: Timeframe) -> Gap | None:
    """Return what of the gap lies in those slots; None where nothing does."""
    inner = Span(gap.first_ms, timeframe.close_ms(gap.last_ms)).clip(timeframe.span(slots.start, slots.stop))
    return gap_of(inner, timeframe, gap.cause) if inner else None
