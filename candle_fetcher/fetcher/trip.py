"""What is gathered, how it is under way, and what came of it: the values that the gatherer works with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.files import File
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.plan import chunks_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.sources import ArchiveSource, Errand, FileRead, Source


class Want(NamedTuple):
    """What to gather, and how. `refresh` asks again for everything, `recheck` for the holes that are believed. `keep`
    puts what comes from disk into memory; streams do without."""

    source: Source
    series: Series
    span: Span
    archive: ArchiveSource | None = None
    only_archive: bool = False
    label: str = ""
    refresh: bool = False
    only_cache: bool = False
    recheck: bool = False
    keep: bool = True
    ttl_ms: int | None = None


class Fresh(NamedTuple):
    """A span that a source answered for just now."""

    span: Span
    source: str


class Part(NamedTuple):
    """A chunk's candles, the tier that had them, and what was asked for just now, in the order of the answers."""

    entry: Entry
    tier: str
    fresh: tuple[Fresh, ...]


@dataclass
class Gathered:
    """What came of a span: its parts in order, what is known beside them, and what could not be had."""

    series: Series
    span: Span
    now_ms: int
    facts: Facts
    settling: Settling
    is_off_grid: bool = False  # candles open elsewhere than their slots do, at a phase of the symbol's
    parts: list[Part] = field(default_factory=list)
    failed: list[tuple[Span, SourceError | None]] = field(default_factory=list)
    until_ms: int = FOREVER_MS
    ends_now: bool = False  # at the newest candle that has settled
    wall_s: float = 0.0  # by this machine's clock, at `now_ms`
    generation: int = 0  # of the series, when they were looked up
    read_until_ms: int = 0  # where the newest file that was read ends
    unverified: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    asked_rest: bool = False  # not the cache or the archive alone
    beyond: list[Span] = field(default_factory=list)  # older than what the provider serves, and not stored


class Trip:
    """The state of one gathering. Lists are appended to."""

    def __init__(self, want: Want, span: Span, now_ms: int, errand: Errand) -> None:
        self.want = want
        self.span = span
        self.now_ms = now_ms
        self.errand = errand
        self.wall_s = errand.as_of.wall_s if errand.as_of is not None else 0.0
        self.timeframe = want.series.timeframe
        self.feed = want.source.provider.feed(want.series.kind)
        self.is_off_grid = self.timeframe.name in self.feed.off_grid
        self.settling = self.feed.settling(want.series)
        # Where the provider serves the newest candles alone: before the one it has none, before the other none was
        # served just now.
        self.reach_ms = self.served_ms = -FOREVER_MS
        self.found: dict[int, tuple[str, Entry]] = {}
        self._lock = threading.Lock()  # over `found`, which workers and the storing of what they brought write
        self.seen: dict[int, Entry | None] = {}  # by chunk, what was stored before a source was asked about it
        self.contested: list[tuple[int, Span]] = []  # by chunk, of which another process stored other values
        self.fresh: dict[int, list[Fresh]] = {}
        self.filled: list[int] = []
        self.saves: list[Future[None]] = []
        self.failed: list[tuple[Span, SourceError | None]] = []
        self.slots = self.done = 0
        # what the archive's files brought, by chunk, and what became of the files that cannot be used
        self.pieces: dict[int, list[tuple[Span, Candles]]] = {}
        self.unread: list[tuple[File, SourceError]] = []
        self.read_until_ms: list[int] = []
        self.absent: list[File] = []
        self.rejected: list[str] = []
        self.unverified: list[File] = []
        self.published: list[tuple[File, int]] = []
        self.kept: dict[File, FileRead] = {}
        self.generation = 0
        self.halted = False  # somebody who holds a claim does not move
        self.forced = want.only_archive  # files are taken at any cost
        self.answered: set[int] = set()  # chunks of which all was asked for
        self.claimed_ms: int | None = None  # when the series is said to begin, by one reply alone
        self.refuted: tuple[int, SourceError] | None = None  # a time that was claimed so, and what contradicts it
        self.confirm: dict[int, int] = {}  # from where on a stored chunk is to be read once more, beside the next one
        self.refused: dict[int, SourceError] = {}  # why REST is not asked for those chunks again
        self.replaced: SourceError | None = None  # why files were read in place of REST

    @property
    def may_replace(self) -> bool:
        """Whether the archive serves what REST cannot give."""
        return self.want.archive is not None and not self.want.only_archive

    @property
    def reach_end_ms(self) -> int:
        """Where what REST may be asked for ends: near to now, without the provider's clock, nothing is known to be
        settled."""
        if self.errand.clock_error is None:
            return FOREVER_MS
        return self.timeframe.floor_ms(self.now_ms - NEAR_MS)

    def put(self, chunk: int, tier: str, entry: Entry) -> None:
        with self._lock:
            self.found[chunk] = (tier, entry)

    def served_from(self, ms: int) -> None:
        with self._lock:
            self.served_ms = max(self.served_ms, ms)

    def share(self, chunk: int, entry: Entry, shared: Entry) -> None:
        """Goes on with the bytes that the memory tier holds, so that what they were made of can be freed."""
        with self._lock:
            tier, found = self.found[chunk]
            if found is entry:
                self.found[chunk] = (tier, shared)

    def trouble(self, span: Span) -> SourceError | None:
        """Why the archive's files could not serve the span; None where it has none."""
        return next((error for file, error in self.unread if file.span.clip(span)), None)


class Waiting:
    """Which files each chunk waits for. Shared by threads."""

    def __init__(self, timeframe: Timeframe, chunks: Sequence[int], files: Sequence[File]) -> None:
        counts = dict.fromkeys(chunks, 0)
        self.touched = {file: [chunk for chunk in chunks_of(timeframe, file.span) if chunk in counts] for file in files}
        for chunk in chain.from_iterable(self.touched.values()):
            counts[chunk] += 1
        self.for_none = [chunk for chunk, count in counts.items() if not count]
        self._counts = counts
        self._lock = threading.Lock()

    def came(self, file: File) -> list[int]:
        """The chunks that waited for this file last."""
        with self._lock:
            for chunk in self.touched[file]:
                self._counts[chunk] -= 1
            return [chunk for chunk in self.touched[file] if not self._counts[chunk]]
