"""Funding rates: a calendar month is an entry, filled from its first instant on, so that only its tail is asked for.

Nothing about the distance of two records is assumed. What an answer is silent about is believed up to a minute before
now: a record may be written late. Later than that, or than the newest record, is asked for each time.

REST comes first: its records have mark prices, and a thousand of them cost one request. The archive's files, whole
months without mark prices, stand in where REST cannot be had. They are stored as a series of their own, so that a
record without its mark price never answers for one with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import SingleFlight, as_done
from candle_fetcher.core.candles import Candles, Gap, join, no_candles, overlay
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import (
    AccessDenied,
    ArchiveMismatch,
    Banned,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
    warn,
)
from candle_fetcher.core.events import Busy, Observe
from candle_fetcher.core.expiry import NEAR_MS
from candle_fetcher.core.facts import News, Unverified
from candle_fetcher.core.files import File, choose_files
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.pools import Pools
from candle_fetcher.sources import ArchiveSource, Errand, FileRead, FundingSource, is_denial

MONTH = parse_timeframe("1M")
_RECORD = parse_timeframe("1s")  # the slot of one record: records lie further apart
_MOST_CONTESTS = 5  # how often a record is asked for once more because another process stored another one meanwhile
_OF_FILES = (("source", "archive"),)  # what tells the series of the files from that of REST


@dataclass
class FundingTold:
    """The records of a span, the tiers that they came from, and what could not be had. `in_doubt`: nothing came, nor is
    anything stored, so that the symbol may not exist. `from_files` are the spans whose records are out of the archive's
    files, without mark prices; `unverified` the paths of those without a checksum, `rejected` of those not used."""

    span: Span
    records: Candles
    sources: dict[str, int]
    missing: list[Gap] = field(default_factory=list)
    refusal: SourceError | None = None
    in_doubt: bool = False
    from_files: list[Span] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)


class FundingGatherer:
    """Gathers funding rates over the cache and the sources. Shared by all threads of a fetcher."""

    def __init__(
        self,
        cache: CandleCache,
        pools: Pools,
        clock: Callable[[], float],
        observe: Observe,
        abort: Callable[[Errand], None],
    ) -> None:
        self._cache = cache
        self._pools = pools
        self._clock = clock
        self._observe = observe
        self._abort = abort
        self._flights: SingleFlight[Series, None] = SingleFlight()  # a series is gathered by one call at a time

    def gather(
        self,
        source: FundingSource,
        series: Series,
        span: Span,
        now_ms: int,
        errand: Errand,
        *,
        archive: ArchiveSource | None = None,
        refresh: bool = False,
        only_cache: bool = False,
        until_stored: bool = False,
    ) -> FundingTold:
        """Every record of the span, or what of it could not be had and why.

        What REST cannot be asked for is read from the `archive`, where there is one. `only_cache` asks nobody,
        `until_stored` then ends the span where the stored records end. Two threads that want the same series take
        turns: the second finds what the first has stored.
        """
        with self._flights.turn(series, errand):
            trip = _Trip(self._cache, source, series, span, now_ms, errand)
            files = _Files(self._cache, series, now_ms, errand)
            if refresh:
                trip.seen = {
                    month: one for month, (_, one) in self._cache.read_stored(series, _months(trip.span)).items()
                }
            else:
                trip.look_up()
                if only_cache:
                    files.look_up(_months(trip.span))
            if only_cache:
                ends_ms = [entry.covered.end_ms for entry in (*trip.entries.values(), *files.entries())]
                if until_stored and ends_ms:
                    trip.span = trip.span.before(max(ends_ms))
                return trip.told(files)
            for ask in trip.asks():
                trip.ask(ask, self._clock(), may_replace=archive is not None)
                if errand.doubts_clock:  # the span was made by a clock that is ahead
                    trip.span = trip.span.before(trip.now_ms)
                if trip.refusal is not None or errand.doubts_clock:
                    break
            if trip.refusal is not None and archive is not None:
                lacking = {month for one in trip.lacking() for month in _months(one)}
                self._gather_files(files, archive, sorted(lacking), refresh=refresh)
            return trip.told(files)

    def gather_files(
        self,
        source: FundingSource,
        archive: ArchiveSource,
        series: Series,
        span: Span,
        now_ms: int,
        errand: Errand,
        *,
        refresh: bool = False,
        from_first: bool = False,
        to_last: bool = False,
    ) -> FundingTold:
        """What the archive's files have of the span, and nobody else is asked. A month without a file is
        `not_published`.

        `from_first` begins the span at the first file that there is, `to_last` ends it at the last one.
        """
        files = _Files(self._cache, series, now_ms, errand)
        span = _clipped(span, source)
        self._gather_files(files, archive, _months(span), refresh=refresh, alone=True)
        published = sorted({*files.found, *files.errors})
        if published and from_first:
            span = Span(max(span.start_ms, MONTH.open_ms(published[0])), span.end_ms)
        if published and to_last:
            span = Span(span.start_ms, min(span.end_ms, MONTH.open_ms(published[-1] + 1)))
        return files.told(span)

    def _gather_files(
        self, files: _Files, archive: ArchiveSource, months: Iterable[int], *, refresh: bool, alone: bool = False
    ) -> None:
        """Brings the files of those months, side by side, each stored as it comes.

        Where the archive is asked `alone`, being denied access is an error of the call.
        """
        series, errand = files.series, files.errand

        def read(file: File) -> FileRead:
            began = time.perf_counter()
            try:
                return archive.read(series, file, errand, self._pools.files())
            finally:
                self._observe(Busy("network", time.perf_counter() - began))

        waiting: dict[Future[FileRead], File] = {}
        try:
            with self._flights.turn(series, errand):
                if refresh:
                    self._cache.forget_facts(series)
                else:
                    files.look_up(months)
                waiting = {self._pools.network().submit(read, file): file for file in files.choose(archive, months)}
                for future in as_done(waiting, errand):
                    try:
                        files.take(future.result())
                    except SourceError as error:
                        if alone and isinstance(error, AccessDenied):
                            raise
                        files.errors[_month_of(waiting[future])] = error
        except BaseException:
            errand.set()
            self._abort(errand)
            for future in waiting:
                future.cancel()
            raise
        finally:
            files.remember()
        for path, why in files.rejected.items():
            warn(ArchiveMismatch(f"{path} of the archive is not used: {why.reason}"))


def _merged(
    month: int, entry: Entry, answered: Span, seen: Entry | None, stored: Mapping[int, Entry]
) -> dict[int, Merged]:
    """Return the month's entry merged into what is stored of it now; `seen` was stored before the source was asked."""
    old = stored.get(month)
    if old is not None and old.candles.names == FUNDING_COLUMNS and old.covered.touches(entry.covered):
        return {month: merge_entries(old, entry, [answered], seen=seen, timeframe=_RECORD)}
    return {month: Merged(entry, (entry.covered,))}


def _clipped(span: Span, source: FundingSource) -> Span:
    """The span without what is older than any record."""
    return span.after(source.funding.since_ms)


def _months(span: Span) -> range:
    return range(MONTH.ordinal(span.start_ms), MONTH.first_slot(span.end_ms)) if span else range(0)


def _span_of(month: int) -> Span:
    return MONTH.span(month, month + 1)


def _month_of(file: File) -> int:
    return MONTH.ordinal(file.span.start_ms)


class _Files:
    """What is known of the archive's files of a series, by month: entries with the tiers that they came from, and why
    others could not be had. A month that is neither found nor has an error is not published."""

    def __init__(self, cache: CandleCache, series: Series, now_ms: int, errand: Errand) -> None:
        self.cache = cache
        self.series = series._replace(settings=_OF_FILES)
        self.now_ms = now_ms
        self.errand = errand
        self.found: dict[int, tuple[str, Entry]] = {}
        self.errors: dict[int, SourceError] = {}
        self.absent: list[File] = []
        self.rejected: dict[str, ReplyError] = {}

    def entries(self) -> list[Entry]:
        return [entry for _, entry in self.found.values()]

    def look_up(self, months: Iterable[int]) -> None:
        found = self.cache.load(self.series, list(months))
        if any(tier == "disk" for tier, _ in found.values()):
            self.cache.look_up_facts(self.series)  # another process may have brought them, and known more
        for month, (tier, entry) in found.items():
            if entry.candles.names == FUNDING_COLUMNS and entry.covered == _span_of(month):
                self.found[month] = tier, entry

    def choose(self, archive: ArchiveSource, months: Iterable[int]) -> list[File]:
        """The files to read for the months that are not found."""
        facts = self.cache.facts(self.series)
        return choose_files(
            [_span_of(month) for month in months if month not in self.found],
            MONTH,
            lambda ms, monthly: archive.archive.find_file(self.series, ms, monthly=monthly),
            now_ms=self.now_ms,
            rows_per_call=1,
            is_absent=lambda path: facts.is_absent(path, self.now_ms),
            forced=True,
        )

    def take(self, read: FileRead) -> None:
        """Stores what came of a file, or keeps in mind why nothing did."""
        file, month = read.file, _month_of(read.file)
        if read.candles is not None:
            entry = Entry(file.span, self.now_ms, (), read.candles)
            unverified = [] if read.verified else [Unverified(file.span, file.path)]
            with self.cache.together():
                news = News(replaced=[entry.covered], unverified=unverified)
                self.cache.learn(self.series, news, self.now_ms)
                self.cache.update(self.series, [month], lambda _: {month: Merged(entry, (entry.covered,))})
            self.found[month] = "archive", entry
        elif read.error is not None:
            self.errors[month] = self.rejected[file.path] = read.error
        else:
            self.absent.append(file)

    def remember(self) -> None:
        """Keeps which files there are not, for an hour where they may just be late."""
        if self.absent:
            self.cache.learn(self.series, News(absent=self.absent), self.now_ms)

    def unverified_of(self, spans: Sequence[Span]) -> list[str]:
        """The files without a checksum that what was found of the spans is out of."""
        known = self.cache.facts_about(self.series, self.entries()).unverified if spans else ()
        return sorted({one.path for one in known for span in spans if one.span.clip(span)})

    def told(self, span: Span) -> FundingTold:
        """The records of the span, out of files alone."""
        filled, counts, from_files = self.fill(no_candles(FUNDING_COLUMNS), [span])
        without = [month for month in _months(span) if month not in self.found]
        missing = [
            Gap(one.start_ms, one.end_ms - 1, 0, cause)
            for cause, months in (
                ("fetch_failed", [month for month in without if month in self.errors]),
                ("not_published", [month for month in without if month not in self.errors]),
            )
            for one in merge(_span_of(month).clip(span) for month in months)
        ]
        return FundingTold(
            span=span,
            records=filled,
            sources=counts,
            missing=sorted(missing, key=lambda gap: gap.first_ms),
            refusal=self.errors[max(self.errors)] if self.errors else None,
            from_files=from_files,
            unverified=self.unverified_of(from_files),
            rejected=sorted(self.rejected),
        )

    def fill(self, records: Candles, holes: Iterable[Span]) -> tuple[Candles, dict[str, int], list[Span]]:
        """The records with what the files have of the holes, how many came from which tier, and for which spans."""
        counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
        spans = []
        for hole in holes:
            for month in _months(hole):
                if month in self.found:
                    tier, entry = self.found[month]
                    piece = entry.covered.clip(hole)
                    inside = entry.candles.trim(piece)
                    records = overlay(records, inside, piece)
                    counts[tier] += inside.count
                    spans.append(piece)
        return records, counts, merge(spans)


class _Trip:
    """The state of one gathering."""

    def __init__(
        self, cache: CandleCache, source: FundingSource, series: Series, span: Span, now_ms: int, errand: Errand
    ) -> None:
        self.cache = cache
        self.source = source
        self.series = series
        self.span = _clipped(span, source)
        self.now_ms = now_ms
        self.errand = errand
        self.entries: dict[int, Entry] = {}
        self.kept: dict[str, list[Candles]] = {"memory": [], "disk": []}
        self.seen: dict[int, Entry] = {}  # what was stored before the source was asked, and what was stored since here
        self.fresh: list[Span] = []
        self.contested: list[Span] = []  # of which another process stored other records while the source was asked
        self.refusal: SourceError | None = None

    def look_up(self) -> None:
        """Takes what is stored; a month in memory that lacks something is read from the disk again, where another
        process may have stored more."""
        found = self.cache.load(self.series, _months(self.span))
        short = [month for month, (_, entry) in found.items() if not self._has_all(month, entry)]
        again = self.cache.reload(self.series, short)
        for month, (tier, entry) in found.items():
            if again.get(month, ("", entry))[0] == "disk":  # else it is what has just been loaded
                tier, entry = again[month]  # noqa: PLW2901
            if entry.candles.names == FUNDING_COLUMNS:
                self.entries[month] = self.seen[month] = entry
                self.kept[tier].append(entry.candles)

    def _has_all(self, month: int, entry: Entry | None) -> bool:
        return entry is not None and entry.covered.holds(self._whole(month).clip(self.span))

    def _whole(self, month: int) -> Span:
        return _span_of(month).after(self.source.funding.since_ms)

    def asks(self) -> list[Span]:
        """What to ask for: the rest of each month of which something is wanted that is not covered."""
        until_ms = max(self.span.end_ms, self.now_ms - NEAR_MS)
        asks = []
        for month in _months(self.span):
            whole = self._whole(month)
            entry = self.entries.get(month)
            if not self._has_all(month, entry):
                start_ms = whole.start_ms if entry is None else entry.covered.end_ms
                asks.append(Span(start_ms, min(whole.end_ms, until_ms)))
        return merge(asks)

    def ask(self, span: Span, stored_s: float, *, may_replace: bool) -> None:
        """Ask for the span and store each page as it comes; `may_replace` says that files serve where REST does not."""
        errand = self.errand
        near_ms = self.now_ms - NEAR_MS
        if errand.denial is not None or (errand.clock_error is not None and span.end_ms > near_ms):
            self.refusal = errand.denial or errand.clock_error
            span = span.before(span.start_ms if errand.denial is not None else near_ms)
        try:
            self._take(span, stored_s)
            for _ in range(_MOST_CONTESTS):
                # Nothing tells which of the two answers is newer. What stays contested could not be had.
                for one in list(self.contested):
                    self._take(one, stored_s)
                    self.contested.remove(one)
        except Banned:
            raise
        except (TransportError, ReplyError, RateLimited, AccessDenied) as refused:
            if isinstance(refused, AccessDenied) and not (may_replace and is_denial(refused)):
                raise
            self.refusal = refused

    def _take(self, span: Span, stored_s: float) -> None:
        """Store the pages of the span as they come."""
        for page in self.source.pages(self.series.symbol, span, self.errand):
            if self.errand.doubts_clock:
                self.now_ms = min(self.now_ms, page.span.end_ms)
            self.fresh.append(page.span)
            self._store(page.span, page.records, stored_s)

    def _store(self, span: Span, records: Candles, stored_s: float) -> None:
        late_ms = self.source.funding.late_ms
        for month in _months(span):
            whole = _span_of(month)
            piece = whole.clip(span)
            inside = records.trim(piece)
            old = self.entries.get(month)
            covered, candles = piece, inside
            if old is not None and old.covered.end_ms >= piece.start_ms:
                covered = Span(old.covered.start_ms, max(old.covered.end_ms, piece.end_ms))
                candles = overlay(old.candles, inside, piece)
            newest_ms = int(candles.open_ms[-1]) + 1 if candles.count else covered.start_ms
            covered = Span(covered.start_ms, max(newest_ms, min(covered.end_ms, self.now_ms - late_ms)))
            entry = self.entries[month] = Entry(covered, self.now_ms, (), candles)
            if covered:
                # Another process may have stored more of a month that is not over: the disk is looked at again.
                until_s = None if covered.end_ms == whole.end_ms else stored_s + late_ms / 1000
                self._save(month, entry, piece, until_s)

    def _save(self, month: int, entry: Entry, answered: Span, until_s: float | None) -> None:
        """Merge the month's entry into what is stored of it by now."""
        seen = self.seen.get(month)

        def change(stored: Mapping[int, Entry]) -> dict[int, Merged]:
            merged = _merged(month, entry, answered, seen, stored)
            self.contested += merged[month].contested
            return merged

        self.seen |= self.cache.update(self.series, [month], change, {month: until_s})[0]

    def lacking(self) -> list[Span]:
        """What of the span REST has not answered for."""
        covered = [*self.fresh, *(entry.covered for entry in self.entries.values())]
        return merge([*subtract(self.span, covered), *(one.clip(self.span) for one in self.contested)])

    def told(self, files: _Files) -> FundingTold:
        """The records, with what the files have of the rest."""
        parts = [self.entries[month].candles for month in sorted(self.entries)]
        records = join(parts).trim(self.span) if parts else no_candles(FUNDING_COLUMNS)
        for one in self.contested:
            records = overlay(records, no_candles(FUNDING_COLUMNS), one)
        kept = {tier: sum(one.trim(self.span).count for one in entries) for tier, entries in self.kept.items()}
        by_rest = max(0, records.count - sum(kept.values()))
        records, counts, from_files = files.fill(records, self.lacking())
        return FundingTold(
            span=self.span,
            records=records,
            sources={**counts, **{tier: counts[tier] + count for tier, count in kept.items()}, "rest": by_rest},
            # How many records a span holds cannot be known of one that did not come.
            missing=[
                Gap(left.start_ms, left.end_ms - 1, 0, "fetch_failed")
                for one in self.lacking()
                for left in subtract(one, from_files)
            ],
            refusal=self.refusal,
            in_doubt=bool(self.fresh)
            and not records.count
            and not any(entry.candles.count for entry in self.entries.values()),
            from_files=from_files,
            unverified=files.unverified_of(from_files),
            rejected=sorted(files.rejected),
        )
