"""Gather funding rates: a calendar month is an entry, and only what its entry does not cover is asked for.

REST is asked first: its records have mark prices, and one request brings a thousand of them. The archive's files, of
whole months without mark prices, serve where REST cannot. They are stored as a series of their own, so that a record
without its mark price never answers for one with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import AccessDenied, SourceError
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.facts import News, Unverified
from candle_fetcher.core.files import File
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, hull
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.gathering import read_now_ms
from candle_fetcher.fetcher.gathering.funding_months import (
    MONTH,
    FundingGathering,
    FundingResult,
    make_result,
    month_span,
    months_of,
)
from candle_fetcher.fetcher.gathering.result import warn_of_rejected
from candle_fetcher.fetcher.gathering.saving import MOST_CONTESTS
from candle_fetcher.fetcher.gathering.state import Task
from candle_fetcher.fetcher.policy import REST
from candle_fetcher.fetcher.pools import run_in_network
from candle_fetcher.fetcher.request import read_call_span
from candle_fetcher.sources import ArchiveSource, ends_call
from candle_fetcher.sources.funding import funding_pages

_RECORD = parse_timeframe("1s")  # the slot of one record: records lie further apart


def gather_funding(task: Task) -> FundingResult:
    """Return every funding rate of the request's range, or the parts of it that could not be fetched and why."""
    (_, request, policy, scope), wanted = task, task.request.range
    end_ms = FOREVER_MS if wanted.end_ms is None else wanted.end_ms
    now_ms = read_now_ms(task, end_ms)
    span = read_call_span(wanted, now_ms, now_ms, scope)
    if wanted.oldest:
        scope.span = span
    gathering = FundingGathering(task, span, now_ms)
    if not policy.is_archive_only:
        gathering.span = gathering.span.before(now_ms)
    elif gathering.archive is not None and wanted.end_ms is None:
        gathering.span = gathering.span.before(gathering.archive.end_ms(request.series, now_ms))
    _gather(gathering)
    result = make_result(gathering)
    if wanted.oldest:
        result = result._replace(span=Span(span.start_ms, result.span.end_ms))
    if scope.clock_error is not None and not result.missing and end_ms > now_ms:
        # Which records are the newest is not known by a clock that was not checked.
        missing = [Gap(now_ms, now_ms, 0, "fetch_failed")]
        result = result._replace(missing=missing, refusal=scope.clock_error)
    return result


def _gather(gathering: FundingGathering) -> None:
    """Load what is stored, ask REST for the rest, and read files where REST fails or may not be asked.

    Calls for one series take turns, so that the second one finds what the first one has stored.
    """
    series, policy = gathering.request.series, gathering.policy
    if not policy.is_archive_only:
        with gathering.cache.locks.turn(series, gathering.scope):
            if policy.is_offline or not policy.refresh:
                gathering.loaded = _load(gathering, series, months_of(gathering.span))
                gathering.entries = {month: entry for month, (_, entry) in gathering.loaded.items()}
            if not policy.is_offline:
                _ask(gathering)
    months = sorted({month for one in gathering.lacking() for month in months_of(one)})
    if policy.is_offline:
        gathering.files = _load(gathering, gathering.file_series, months)
    elif gathering.archive is not None and (policy.is_archive_only or gathering.refusal is not None):
        _read_files(gathering, gathering.archive, months)
    if not policy.allows(REST):
        _bound(gathering)


def _bound(gathering: FundingGathering) -> None:
    """Shorten the span to what is stored or published: at its end if the range has no end, and at its start if the
    range has no start and only files are used."""
    known = [entry.covered for _, entry in (*gathering.loaded.values(), *gathering.files.values())]
    known += [month_span(month) for month in gathering.unread]
    if known and gathering.request.range.end_ms is None:
        gathering.span = gathering.span.before(hull(known).end_ms)
    if known and gathering.policy.is_archive_only and not gathering.request.range.oldest:
        gathering.span = gathering.span.after(hull(known).start_ms)


def _load(gathering: FundingGathering, series: Series, months: Sequence[int]) -> dict[int, tuple[str, Entry]]:
    """Return what is stored of the months, with its tier. A month in memory that lacks something is read from the disk
    again, where another process may have stored more."""
    cache = gathering.cache
    found = cache.entries.load(series, months)
    short = [month for month, (tier, entry) in found.items() if tier == "memory" and gathering.lacks(month, entry)]
    found |= cache.entries.reload(series, short)
    if any(tier == "disk" for tier, _ in found.values()):
        cache.facts.reload(series)  # another process may have stored them, and known more
    return {month: one for month, one in found.items() if one[1].candles.names == FUNDING_COLUMNS}


def _ask(gathering: FundingGathering) -> None:
    """Ask REST for what the cache lacks, until a request is refused or shows that the instant of the call is wrong.

    What another process stored meanwhile with other values is asked for once more: nothing tells which of the two
    answers is newer. What stays contested is missing.
    """
    scope, near_ms = gathering.scope, gathering.now_ms - NEAR_MS
    if scope.denial is not None:
        gathering.refusal = scope.denial
        return
    for span in gathering.asks():
        if scope.clock_error is not None and span.end_ms > near_ms:
            gathering.refusal, span = scope.clock_error, span.before(near_ms)  # noqa: PLW2901
        try:
            _take_pages(gathering, span)
            for _ in range(MOST_CONTESTS):
                for one in list(gathering.contested):
                    _take_pages(gathering, one)
                    gathering.contested.remove(one)
        except SourceError as error:
            if ends_call(error, has_archive=gathering.archive is not None):
                raise
            gathering.refusal = error
        if scope.as_of is not None and scope.as_of.ms < gathering.now_ms:  # a reply showed that it was too late
            gathering.now_ms = scope.as_of.ms
            gathering.span = gathering.span.before(gathering.now_ms)
            return
        if gathering.refusal is not None:
            return


def _take_pages(gathering: FundingGathering, span: Span) -> None:
    """Ask REST for the span, and store each page as it comes."""
    scope, series, stored_s = gathering.scope, gathering.request.series, gathering.resources.clock()
    seen = {month: one for month, (_, one) in gathering.cache.entries.read(series, months_of(span)).items()}
    for answered, records in funding_pages(gathering.request.source, series.symbol, span, scope):
        gathering.answered.append(answered)
        for month in months_of(answered):
            gathering.add(month, answered, records)
        _store(gathering, answered, seen, stored_s)


def _store(gathering: FundingGathering, answered: Span, seen: dict[int, Entry], stored_s: float) -> None:
    """Merge the entries that the answer extends into what is stored of their months by now.

    `seen`: what was stored before REST was asked, at `stored_s`; it is updated to what is stored now.
    """
    filled = {month: entry for month in months_of(answered) if (entry := gathering.entries[month]).covered}
    # Another process may store more of a month that is not over: the disk is read again soon.
    again_s = stored_s + gathering.funding.late_rows_ms / 1000
    until_s = {month: again_s for month, one in filled.items() if one.covered.end_ms < month_span(month).end_ms}

    def change(stored: dict[int, Entry]) -> dict[int, Merged]:
        merged = {}
        for month, entry in filled.items():
            old = stored.get(month)
            if old is not None and (old.candles.names != FUNDING_COLUMNS or not old.covered.touches(entry.covered)):
                old = None
            merged[month] = merge_entries(old, entry, [answered], seen=seen.get(month), timeframe=_RECORD)
            gathering.contested += merged[month].contested
        return merged

    if filled:
        seen |= gathering.cache.entries.update(gathering.request.series, list(filled), change, until_s)[0]


def _read_files(gathering: FundingGathering, archive: ArchiveSource, months: Sequence[int]) -> None:
    """Load what is stored of the files of the months, and read the others side by side. Warn of files that are not
    used."""
    cache, scope, series, now_ms = gathering.cache, gathering.scope, gathering.file_series, gathering.now_ms
    try:
        with cache.locks.turn(series, scope):
            if gathering.policy.refresh:
                cache.facts.forget(series)
            else:
                gathering.files = _load(gathering, series, months)
            facts = cache.facts.get(series)
            starts_ms = [MONTH.open_ms(month) for month in months if month not in gathering.files]
            files = [archive.archive.find_file(series, start_ms, monthly=True) for start_ms in starts_ms]
            jobs = [
                partial(_read_file, gathering, archive, file)
                for file in files
                if file is not None and file.span.end_ms <= now_ms and not facts.is_absent(file.path, now_ms)
            ]
            run_in_network(gathering.resources.pools, gathering.resources.observe, jobs, scope)
    except BaseException:
        gathering.resources.stop(scope)
        raise
    finally:
        if gathering.absent:
            cache.facts.learn(series, News(absent=gathering.absent), now_ms)
    for path, error in gathering.rejected.items():
        warn_of_rejected(path, error)


def _read_file(gathering: FundingGathering, archive: ArchiveSource, file: File) -> None:
    """Read a file and store its records, or note why there are none. Runs in a thread of the network pool."""
    cache, series, month = gathering.cache, gathering.file_series, MONTH.ordinal(file.span.start_ms)
    try:
        read = archive.read(series, file, gathering.scope, gathering.resources.pools.files)
    except SourceError as error:
        if gathering.policy.is_archive_only and isinstance(error, AccessDenied):
            raise
        gathering.unread[month] = error
        return
    if read.candles is not None:
        entry = Entry(file.span, gathering.now_ms, (), read.candles)
        unverified = [] if read.verified else [Unverified(file.span, file.path)]
        with cache.documents.transaction():
            cache.facts.learn(series, News(replaced=[file.span], unverified=unverified), gathering.now_ms)
            cache.entries.update(series, [month], lambda _: {month: Merged(entry, (file.span,))})
        gathering.files[month] = "archive", entry
    elif read.error is not None:
        gathering.unread[month] = gathering.rejected[file.path] = read.error
    else:
        gathering.absent.append(file)
