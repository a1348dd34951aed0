"""The rows of an imported file: read to the end and checked, then stored chunk by chunk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from candle_fetcher.cache import CandleCache
from candle_fetcher.cache.freshness import READ_ENTRY
from candle_fetcher.core.candles import INTEGERS, MISSING, Candles, join, widen
from candle_fetcher.core.coverage import fill
from candle_fetcher.core.entry import Entry, HoleState
from candle_fetcher.core.errors import CacheError, InputError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import News, Unverified
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.gap import iso
from candle_fetcher.core.merging import Merged
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span, chunks_of
from candle_fetcher.core.reports import Imported
from candle_fetcher.core.revisions import Revision, find_revisions
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, SECOND_MS, Timeframe, parse_timeframe
from candle_fetcher.providers import Provider

# Chunks that are stored at once.
_BATCH = 32
# Rows that span more chunks most likely have another timeframe than the stated one.
_MOST_CHUNKS = 200_000
# If at least so many rows all lie on a coarser grid, that is no accident.
_SURE_ROWS = 12
_MOST_DISTANCES = 1_000


@dataclass(frozen=True)
class ImportJob:
    """A file, the series that its candles belong to, and how to read its rows.

    blocks: returns the rows, from the first one on at each call.
    spans: the spans for which the file has all candles; None where it only answers from its first row to its last one.
    missing: spans for which it does not answer, since their candles could not be fetched when it was exported.
    verified: whether the file matches its checksum; None for a format without checksums.
    archive_path: the path of the file in its archive, for the note that its candles are unverified.
    are_holes_facts: whether a missing row proves that there is no candle.
    """

    path: Path
    provider: Provider
    series: Series
    symbol: str
    blocks: Callable[[], Iterator[Candles]]
    spans: tuple[Span, ...] | None = None
    verified: bool | None = None
    archive_path: str = ""
    are_holes_facts: bool = False
    missing: tuple[Span, ...] = ()

    @property
    def timeframe(self) -> Timeframe:
        return self.series.timeframe

    @property
    def settling(self) -> Settling:
        return self.provider.feed(self.series.kind).settling(self.series)

    def settled(self, block: Candles, now_ms: int) -> Candles:
        """Return the candles of the block that may be stored: not those that were invented or may still change."""
        for name, value in (("is_synthetic", 0.0), ("is_closed", 1.0)):
            if name in block.names:
                block = Candles(block.names, block.block[:, block.floats(name) == value])
        return self.settling.settled(block, now_ms)


@dataclass
class Survey:
    """Facts about all rows of a file: its settled candles, and the distances between its rows in ms."""

    count: int = 0
    unsettled: int = 0
    first_ms: int = 0
    last_ms: int = 0
    columns: set[str] = field(default_factory=set)
    distances: Counter[int] = field(default_factory=Counter)
    slots: int = 0  # the greatest number of slots that all distances are multiples of

    def span(self, timeframe: Timeframe) -> Span:
        """Return the span from the slot of the first row to the end of that of the last one."""
        return timeframe.span(timeframe.ordinal(self.first_ms), timeframe.ordinal(self.last_ms) + 1)


def store_rows(cache: CandleCache, job: ImportJob, now_ms: int) -> Imported:
    """Read the file to its end, check it, and merge its rows into the stored candles of the series.

    Raises ReplyError and BadFile for rows that cannot be read, InputError where the distances between rows show another
    timeframe, and CacheError where the disk cannot store them.
    """
    survey = _survey(job, now_ms)
    _check_grid(job.timeframe, survey)
    series, columns = job.series, job.provider.feed(job.series.kind).columns
    names = tuple(name for name in columns if name in survey.columns)
    spans = _covered_spans(job, survey, now_ms)
    writer = _ChunkWriter(cache, job, now_ms)
    if survey.count and spans:
        cache.facts.drop_empty(series, survey.span(job.timeframe))
        try:
            writer.write(_by_chunk(job, spans, names, now_ms))
        finally:
            cache.frames.drop(series)
        cache.facts.learn(series, News(filled=spans), now_ms)
    return Imported(
        path=str(job.path),
        provider=series.provider,
        symbol=job.symbol,
        timeframe=job.timeframe.name,
        kind=series.kind,
        rows=writer.rows,
        added=writer.added,
        differing=writer.differing,
        ignored=survey.count + survey.unsettled - writer.rows,
        chunks=writer.chunks,
        first=iso(writer.first_ms) if writer.rows else None,
        last=iso(writer.last_ms) if writer.rows else None,
        lacking=tuple(name for name in columns if name not in names),
        verified=job.verified,
    )


def _survey(job: ImportJob, now_ms: int) -> Survey:
    """Read the file to its end and return the facts about its rows.

    Raises what reading the rows raises, and InputError where none of them can be stored.
    """
    survey = Survey()
    last_ms: list[int] = []
    for block in job.blocks():
        opens = np.concatenate((np.array(last_ms, np.int64), block.open_ms))
        last_ms = [int(opens[-1])]
        distances, counts = np.unique(np.diff(opens), return_counts=True)
        survey.distances.update(dict(zip(distances.tolist(), counts.tolist(), strict=True)))
        if len(survey.distances) > _MOST_DISTANCES:
            survey.distances = Counter(dict(survey.distances.most_common(_MOST_DISTANCES // 2)))
        survey.slots = math.gcd(survey.slots, int(np.gcd.reduce(np.diff(job.timeframe.ordinals(opens)), initial=0)))
        settled = job.settled(block, now_ms)
        survey.unsettled += block.count - settled.count
        if settled.count:
            survey.first_ms = survey.first_ms if survey.count else int(settled.open_ms[0])
            survey.last_ms = int(settled.open_ms[-1])
            survey.count += settled.count
            survey.columns |= {name for name in settled.names if _has_values(settled, name)}
    if not survey.count and survey.unsettled:
        raise InputError(
            "none of its candles can be stored, since each is invented, still open, or in the future by this machine's "
            f"clock ({iso(now_ms)}); expected closed candles of the provider"
        )
    return survey


def _has_values(candles: Candles, name: str) -> bool:
    if name in INTEGERS:
        return bool((candles.integers(name) != MISSING).any())
    return not np.isnan(candles.floats(name)).all()


def _check_grid(timeframe: Timeframe, survey: Survey) -> None:
    """Raise InputError where the distances between the rows show that they have another timeframe."""
    if not survey.distances:
        return
    common_ms = survey.distances.most_common(1)[0][0]
    shortest_ms = timeframe.step_ms or timeframe.count * 28 * DAY_MS
    if common_ms < shortest_ms:
        raise InputError(
            f"its rows are mostly {_length(common_ms)} apart, closer than candles of {timeframe}; give their timeframe"
        )
    if survey.slots > 1 and survey.count >= _SURE_ROWS:
        raise InputError(
            f"all its rows lie {survey.slots} or more slots of {timeframe} apart, mostly {_length(common_ms)}; "
            "give their timeframe"
        )
    slots = timeframe.ordinal(survey.last_ms) - timeframe.ordinal(survey.first_ms)
    if slots > _MOST_CHUNKS * CHUNK_SLOTS:
        raise InputError(
            f"its rows span {slots:,} slots of {timeframe}, more than any series has; give their timeframe"
        )


def _length(ms: int) -> str:
    """Return a distance as the name of a timeframe if it has one, else in seconds or days."""
    if ms % SECOND_MS:
        return f"{ms / SECOND_MS:g} s"
    if 27 * DAY_MS < ms < 32 * DAY_MS:
        return "1M"
    seconds = ms // SECOND_MS
    return parse_timeframe(f"{seconds}s").name if 0 < seconds < 100_000 else f"{seconds / 86_400:g}d"


def _covered_spans(job: ImportJob, survey: Survey, now_ms: int) -> list[Span]:
    """Return the settled spans for which the file answers; after its last row, only where no row can be late."""
    if not survey.count:
        return []
    rows = survey.span(job.timeframe)
    if job.spans is None:
        return subtract(rows, job.missing)
    known = Span(0, max(rows.end_ms, job.settling.known_ms(now_ms)))
    return [part for span in job.spans if (part := span.clip(known))]


def _by_chunk(
    job: ImportJob, spans: Sequence[Span], names: Sequence[str], now_ms: int
) -> Iterator[tuple[int, Span, Candles]]:
    """Yield, for each chunk that a span touches, its number, the part of the span in it, and that part's candles."""
    timeframe = job.timeframe
    blocks = (job.settled(block, now_ms).pick(names) for block in job.blocks())
    held = next(blocks, None)
    for span in spans:
        for chunk in chunks_of(timeframe, span):
            while held is not None and (not held.count or chunk_of(timeframe, int(held.open_ms[-1])) <= chunk):
                block = next(blocks, None)
                if block is None:
                    break
                held = join([held, block])
            if held is not None:
                part = chunk_span(timeframe, chunk).clip(span)
                held = held.trim(ALL_TIME.after(part.start_ms))
                yield chunk, part, held.trim(part)


class _ChunkWriter:
    """Stores the rows of a file, several chunks at a time, and counts rows that were added, kept, or differed."""

    def __init__(self, cache: CandleCache, job: ImportJob, now_ms: int) -> None:
        self._cache = cache
        self._job = job
        self._now_ms = now_ms
        self.rows = self.added = self.differing = self.chunks = 0
        self.first_ms, self.last_ms = FOREVER_MS, -FOREVER_MS

    def write(self, pieces: Iterable[tuple[int, Span, Candles]]) -> None:
        """Store the pieces. Each is a chunk, the span for which its candles answer, and the candles.

        Raises CacheError where the disk cannot store them.
        """
        batch: dict[int, list[tuple[Span, Candles]]] = {}
        for chunk, span, candles in pieces:
            if chunk not in batch and len(batch) >= _BATCH:
                self._write_batch(batch)
                batch = {}
            batch.setdefault(chunk, []).append((span, candles))
        self._write_batch(batch)

    def _write_batch(self, batch: dict[int, list[tuple[Span, Candles]]]) -> None:
        cache, series, chunks = self._cache, self._job.series, sorted(batch)
        if not cache.entries.rewrite(series, chunks, lambda stored: self._merge_batch(batch, stored)):
            problem = cache.problem or "the disk did not store some of its candles"
            raise CacheError(f"{self._job.path.name} was imported only in part: {problem}")
        cache.freshness.save(series, dict.fromkeys(chunks, READ_ENTRY))
        self.chunks += len(chunks)

    def _merge_batch(self, batch: dict[int, list[tuple[Span, Candles]]], stored: dict[int, Entry]) -> dict[int, Merged]:
        """Return the entries of the chunks with the rows of the file; note rows that contradict stored candles."""
        merged: dict[int, Merged] = {}
        revisions: list[Revision] = []
        for chunk, pieces in batch.items():
            entry = stored.get(chunk)
            filled: list[Span] = []
            for span, candles in pieces:
                if entry is not None:
                    found = find_revisions(entry, Entry(span, self._now_ms, (), candles))
                    revisions += found
                    self.differing += len({revision.open_ms for revision in found})
                entry, spans = self._fill(entry, span, candles)
                filled += spans
            if entry is not None:
                merged[chunk] = Merged(entry, tuple(merge(filled)))
        self._cache.entries.note_revisions(self._job.series, revisions, once=True)
        if self._job.verified is False:  # noted before the candles are stored, so that none is without the note
            replaced = merge(span for one in merged.values() for span in one.replaced)
            news = News(unverified=[Unverified(span, self._job.archive_path) for span in replaced])
            self._cache.facts.learn(self._job.series, news, self._now_ms)
        return merged

    def _fill(self, entry: Entry | None, span: Span, candles: Candles) -> tuple[Entry, Sequence[Span]]:
        """Return the entry with the candles in its empty slots, and the spans that were filled; count the candles."""
        job, feed = self._job, self._job.provider.feed(self._job.series.kind)
        made = fill(
            entry,
            span,
            widen(candles, feed.columns),
            timeframe=job.timeframe,
            now_ms=self._now_ms,
            state=None if job.are_holes_facts or not feed.has_empty_bars else HoleState.DUE,
        )
        added, kept = made.entry.candles.count, 0
        if entry is not None:
            added -= entry.candles.count
            kept = int(np.isin(candles.open_ms, entry.candles.open_ms).sum())
        self.added += added
        self.rows += added + kept
        if candles.count:
            self.first_ms = min(self.first_ms, int(candles.open_ms[0]))
            self.last_ms = max(self.last_ms, int(candles.open_ms[-1]))
        return made.entry, made.spans
