"""What is known of the funding rates of one span, month by month, and what comes of it.

Nothing is assumed about the time between two records, so an entry has no holes. A record may come late: an answer
covers the time up to its newest record, and up to a minute before now. What is later is asked for in each call.
"""

from __future__ import annotations

from typing import NamedTuple

from candle_fetcher.core.candles import Candles, join, no_candles, overlay
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import ReplyError, SourceError
from candle_fetcher.core.expiry import NEAR_MS
from candle_fetcher.core.files import File
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.spans import Span, hull, intersect, merge, subtract
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.gathering.state import Task
from candle_fetcher.fetcher.policy import ARCHIVE
from candle_fetcher.providers import find_funding

MONTH = parse_timeframe("1M")
_OF_FILES = (("source", "archive"),)  # the setting in the key of the series of files


def months_of(span: Span) -> range:
    """Return the numbers of the months that the span touches."""
    return range(MONTH.ordinal(span.start_ms), MONTH.first_slot(span.end_ms)) if span else range(0)


def month_span(month: int) -> Span:
    """Return [start, end) of the month."""
    return MONTH.span(month, month + 1)


class FundingGathering:
    """The funding rates of one span, by month, as far as they are known by now, and what could not be fetched."""

    def __init__(self, task: Task, span: Span, now_ms: int) -> None:
        self.resources, self.request, self.policy, self.scope = resources, request, policy, _ = task
        self.cache, self.now_ms = resources.cache, now_ms
        self.archive = request.archive if policy.allows(ARCHIVE) else None
        self.funding = find_funding(request.source.provider)
        self.span = span.after(self.funding.since_ms)
        self.loaded: dict[int, tuple[str, Entry]] = {}  # what the cache had, with its tier
        self.entries: dict[int, Entry] = {}  # the same, with the answers of REST
        self.answered: list[Span] = []  # spans for which REST answered
        self.contested: list[Span] = []  # of which another process stored other records meanwhile
        self.refusal: SourceError | None = None
        self.file_series = request.series._replace(settings=_OF_FILES)
        self.files: dict[int, tuple[str, Entry]] = {}  # what files have, with the tier or "archive"
        self.absent: list[File] = []
        self.unread: dict[int, SourceError] = {}
        self.rejected: dict[str, ReplyError] = {}  # by path

    def lacks(self, month: int, entry: Entry | None) -> bool:
        """Return whether the entry of the month does not cover all that is wanted of it."""
        return entry is None or not entry.covered.holds(month_span(month).clip(self.span))

    def asks(self) -> list[Span]:
        """Return what to ask REST for: the rest of each month of which the cache lacks something that is wanted."""
        possible = Span(self.funding.since_ms, max(self.span.end_ms, self.now_ms - NEAR_MS))
        asks = []
        for month in months_of(self.span):
            entry, rest = self.entries.get(month), month_span(month).clip(possible)
            if self.lacks(month, entry):
                asks.append(rest if entry is None else rest.after(entry.covered.end_ms))
        return merge(asks)

    def add(self, month: int, answered: Span, records: Candles) -> None:
        """Add an answer to the entry of the month. The entry ends where records may still come late."""
        covered, entry = month_span(month).clip(answered), self.entries.get(month)
        records = records.trim(covered)
        if entry is not None and entry.covered.touches(covered):
            records = overlay(entry.candles, records, covered)
            covered = hull([entry.covered, covered])
        newest_ms = int(records.open_ms[-1]) + 1 if records.count else covered.start_ms
        covered = covered.before(max(newest_ms, self.now_ms - self.funding.late_rows_ms))
        self.entries[month] = Entry(covered, self.now_ms, (), records)

    def lacking(self) -> list[Span]:
        """Return what of the span neither the cache nor REST has answered for."""
        covered = [*self.answered, *(entry.covered for entry in self.entries.values())]
        return merge([*subtract(self.span, covered), *intersect(self.contested, [self.span])])


class FundingResult(NamedTuple):
    """The records of a span, how many came from each source, and what could not be fetched.

    in_doubt: REST answered, and neither its answer nor the cache has a record, so the symbol may not exist.
    from_files: the spans of records out of the archive's files, which have no mark prices.
    unverified: the paths of those files that have no checksum. rejected: the paths of files that are not used.
    """

    span: Span
    records: Candles
    sources: dict[str, int]
    missing: list[Gap]
    refusal: SourceError | None
    in_doubt: bool
    from_files: list[Span]
    unverified: list[str]
    rejected: list[str]


def make_result(gathering: FundingGathering) -> FundingResult:
    """Return the records, with those of files where neither the cache nor REST answered, and what is missing then."""
    span, lacking, files = gathering.span, gathering.lacking(), gathering.files
    parts = [gathering.entries[month].candles for month in sorted(gathering.entries)]
    records = join(parts).trim(span) if parts else no_candles(FUNDING_COLUMNS)
    for one in gathering.contested:
        records = overlay(records, no_candles(FUNDING_COLUMNS), one)
    counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
    for tier, entry in gathering.loaded.values():
        counts[tier] += entry.candles.trim(span).count
    counts["rest"] = max(0, records.count - sum(counts.values()))
    from_files: list[Span] = []
    for tier, entry in files.values():
        for part in filter(None, [entry.covered.clip(one) for one in lacking]):
            inside = entry.candles.trim(part)
            records = overlay(records, inside, part)
            counts[tier] += inside.count
            from_files.append(part)
    unverified: set[str] = set()
    if from_files:
        facts = gathering.cache.facts.restore_unverified(gathering.file_series, [one for _, one in files.values()])
        unverified = {one.path for one in facts.unverified if intersect([one.span], from_files)}
    return FundingResult(
        span,
        records,
        counts,
        _find_missing(gathering, [left for one in lacking for left in subtract(one, from_files)]),
        gathering.refusal or (gathering.unread[max(gathering.unread)] if gathering.unread else None),
        in_doubt=bool(gathering.answered) and not any(part.count for part in parts),
        from_files=merge(from_files),
        unverified=sorted(unverified),
        rejected=sorted(gathering.rejected),
    )


def _find_missing(gathering: FundingGathering, lost: list[Span]) -> list[Gap]:
    """Return the lost spans as gaps with their causes, in order. How many records a gap lacks is not known: 0."""
    unread = [month_span(month) for month in gathering.unread]
    failed = intersect(lost, unread) if gathering.policy.is_archive_only else merge(lost)
    unpublished = [left for one in lost for left in subtract(one, failed)]
    gaps = [Gap(one.start_ms, one.end_ms - 1, 0, "fetch_failed") for one in failed]
    gaps += [Gap(one.start_ms, one.end_ms - 1, 0, "not_published") for one in unpublished]
    return sorted(gaps, key=lambda gap: gap.first_ms)
