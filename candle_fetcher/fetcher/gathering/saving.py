"""Store filled entries, merged into what is stored by then, many in one transaction."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial

from candle_fetcher.cache.freshness import READ_ENTRY
from candle_fetcher.core.entry import Entry, HoleState
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import News, Unverified
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.revisions import find_revisions
from candle_fetcher.core.spans import Span, intersect
from candle_fetcher.fetcher.gathering.archive import ArchiveFiles
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance
from candle_fetcher.fetcher.pools import Timed, run_in_network
from candle_fetcher.sources import ends_call

_BATCH_CHUNKS = 64  # bounds a transaction
# Of a large gathering, so many chunks are stored together where they come within this time: those that adjoin are
# written into a page at once.
_TOGETHER_CHUNKS, _TOGETHER_S, _LOOK_S = 32, 0.2, 0.02
MOST_CONTESTS = 5  # how often a span is asked for once more because another process stored other values meanwhile

# Asks for a span once more, by requests that are sent now; returns the entry with the answers.
AskAgain = Callable[["Entry | None", Span], "Entry | None"]


class Saver:
    """Stores what a gathering fills, and settles what another process stored meanwhile with other values.

    One job at a time stores the filled entries that wait, in batches: what is added during one transaction goes into
    the next one. The thread that fills the only chunk of a gathering (`is_single`) stores it, too.
    """

    def __init__(self, gathering: Gathering, files: ArchiveFiles, *, is_single: bool) -> None:
        self._gathering = gathering
        self._files = files
        self._is_single = is_single
        self._lock = threading.Lock()  # over the next three
        self._batches: deque[tuple[dict[int, Entry], Future[None]]] = deque()
        self._saves: list[Future[None]] = []
        self._is_running = False
        self._is_last = threading.Event()  # nothing more is to be waited for
        self._seen: dict[int, Entry | None] = {}  # by chunk, what was stored before a source was asked about it
        self._contested: list[tuple[int, Span]] = []  # by chunk: another process stored other values
        self.filled: list[int] = []  # chunks

    def see(self, chunks: Sequence[int]) -> None:
        """Note what is stored of the chunks, before a source is asked about them. What was noted before stays: one
        reply may serve several chunks."""
        gathering = self._gathering
        new = [chunk for chunk in chunks if chunk not in self._seen]
        stored = gathering.found
        if gathering.policy.refresh and new:
            stored = gathering.cache.entries.read(gathering.series, new)
        for chunk in new:
            self._seen[chunk] = stored[chunk][1] if chunk in stored else None

    def save(self, filled: Mapping[int, Entry]) -> Future[None]:
        """Continue with the filled entries, and have them stored; return the future that is done then.

        Each chunk stays in progress, by `ChunkLocks.start`, until its entry is stored.
        """
        gathering = self._gathering
        filled = {chunk: gathering.place(chunk, entry) for chunk, entry in filled.items()}
        for chunk, entry in filled.items():
            gathering.put(chunk, gathering.found[chunk][0] if chunk in gathering.found else "rest", entry)
            self._files.drop(chunk)
        self.filled.extend(filled)
        with self._lock:
            if not self._batches or len(self._batches[-1][0]) >= _BATCH_CHUNKS:
                self._batches.append(({}, Future()))
                self._saves.append(self._batches[-1][1])
            batch, save = self._batches[-1]
            batch.update(filled)
            is_first, self._is_running = not self._is_running, True
        if is_first and self._is_single:
            self._run()
        elif is_first:
            try:
                gathering.resources.pools.io.submit(self._run)
            except BaseException:
                self._run()  # the pool is closed
                raise
        return save

    def wait(self) -> None:
        """Wait until all that was filled is stored, or could not be."""
        self._is_last.set()
        wait(self._saves)

    def _run(self) -> None:
        """Store the entries that wait, a batch in one transaction, and then those that were added meanwhile."""
        gathering = self._gathering
        while True:
            if gathering.block is not None:
                self._wait_for_more()
            with self._lock:
                if not self._batches:
                    self._is_running = False
                    return
                filled, save = self._batches.popleft()
            with Timed(gathering.resources.observe, "io"):
                try:
                    self._store(filled)
                except BaseException as error:  # noqa: BLE001 - the answer is right without it
                    save.set_exception(error)
                else:
                    save.set_result(None)
                finally:
                    for chunk in filled:
                        gathering.cache.locks.finish(gathering.series, chunk)

    def _wait_for_more(self) -> None:
        """Wait until enough chunks are there to store, or for a while."""
        ends_s = time.monotonic() + _TOGETHER_S
        while len(self._batches) == 1 and len(self._batches[0][0]) < _TOGETHER_CHUNKS and time.monotonic() < ends_s:
            if self._is_last.wait(_LOOK_S):
                return

    def _store(self, filled: Mapping[int, Entry]) -> None:
        """Merge the filled entries into what is stored of the chunks by now, and continue with what is stored then."""
        gathering = self._gathering
        series, cache = gathering.series, gathering.cache
        seen = {chunk: self._seen.pop(chunk, None) for chunk in filled}
        until_s: dict[int, float | None] = {}
        merged: dict[int, Merged] = {}
        replaced: list[int] = []  # chunks of which stored candles change

        def change(stored: dict[int, Entry]) -> dict[int, Merged]:
            for chunk, entry in filled.items():
                merged[chunk] = self._merge(chunk, stored.get(chunk), entry, seen[chunk])
                until_s[chunk] = self._in_memory_until_s(chunk, merged[chunk].entry)
            olds = [one for one in seen.values() if one is not None]
            self._learn_unverified(merged, [*olds, *stored.values()])
            for chunk, old in stored.items():
                new = merged[chunk].entry._replace(stored_ms=filled[chunk].stored_ms)
                if not new.candles.trim(old.covered).equals(old.candles):
                    replaced.append(chunk)
                    cache.entries.note_revisions(series, find_revisions(old, new), gathering.settling)
            return merged

        keeps = gathering.policy.keeps_entries
        # What lies in the block of the answer is not held in memory, since the block is closed up in the end.
        saved, _ = cache.entries.update(
            series, list(filled), change, until_s, keep=keeps, keeps_pages=keeps and gathering.block is None
        )
        if replaced:
            cache.frames.drop(series)  # they may hold what is stored no more
        for chunk, entry in filled.items():
            self._contested += [(chunk, span) for span in merged[chunk].contested]
            # What a refresh has not asked for again is not a part of its answer.
            if not gathering.policy.refresh or merged[chunk].entry is entry:
                gathering.share(chunk, entry, saved[chunk])

    def _merge(self, chunk: int, stored: Entry | None, entry: Entry, seen: Entry | None) -> Merged:
        """Return the entry merged into what is stored now. An archive's file fills in what is missing; only a refresh
        takes its candles in place of stored ones."""
        gathering = self._gathering
        answers = gathering.provenance.get(chunk, ())
        answered = [one.span for one in answers if one.source != "archive" or gathering.policy.refresh]
        lacking = [] if stored is None else [hole.span for hole in stored.holes if hole.state is HoleState.DUE]
        answered += [part for one in answers for hole in lacking if (part := one.span.clip(hole))]
        between = HoleState.UNASKED if gathering.feed.depth(gathering.series) is None else HoleState.BEYOND
        merged = merge_entries(stored, entry, answered, timeframe=gathering.timeframe, seen=seen, between=between)
        by_rest = [one.span for one in answers if one.source != "archive"]
        return merged._replace(contested=tuple(intersect(merged.contested, by_rest)))

    def _in_memory_until_s(self, chunk: int, entry: Entry) -> float | None:
        """Return until when the entry may stay in memory (s, by this machine's clock); None: for good."""
        gathering = self._gathering
        if entry.covered.end_ms >= chunk_span(gathering.timeframe, chunk).end_ms:
            return None
        # After this another process may have stored a newer one; the disk is read again.
        edge_ms = gathering.settling.edge_until_ms(entry.covered.end_ms, gathering.now_ms, gathering.policy.ttl_ms)
        return min(gathering.resources.clock(), gathering.wall_s) + (edge_ms - gathering.now_ms) / 1000

    def _learn_unverified(self, merged: Mapping[int, Merged], olds: Sequence[Entry]) -> None:
        """Store which candles of the merged entries have no checksum; `olds` are the entries that were there before."""
        gathering = self._gathering
        series, cache = gathering.series, gathering.cache
        came = [
            one._replace(span=part)
            for chunk, result in merged.items()
            for one in gathering.provenance.get(chunk, ())
            for span in result.replaced
            if (part := one.span.clip(span))
        ]
        parts = [
            Unverified(part, file.path)
            for file in self._files.unverified
            for one in came
            if one.source == "archive" and (part := one.span.clip(file.span))
        ]
        if parts or cache.facts.restore_unverified(series, olds).unverified:
            cache.facts.reload(series)
            cache.facts.restore_unverified(series, olds)
            gathering.learn(News(replaced=[one.span for one in came], unverified=parts))

    def settle_contested(self, ask_again: AskAgain) -> None:
        """Ask once more for what another process stored with other values while the source was asked.

        Nothing tells which of the two answers is newer. What stays contested counts as failed.
        """
        gathering = self._gathering
        pools, observe = gathering.resources.pools, gathering.resources.observe
        for _ in range(MOST_CONTESTS):
            self.wait()
            contested: dict[int, list[Span]] = {}
            for chunk, span in self._contested:
                contested.setdefault(chunk, []).append(span)
            if not contested:
                return
            self._contested = []
            jobs = [partial(self._settle, chunk, spans, ask_again) for chunk, spans in contested.items()]
            run_in_network(pools, observe, jobs, gathering.scope)
        gathering.failed += [(span, None) for _, span in self._contested]

    def _settle(self, chunk: int, spans: Sequence[Span], ask_again: AskAgain) -> None:
        """Ask for contested spans of the chunk and store the answers. No lock is needed: what another process stores
        meanwhile is found out again."""
        gathering = self._gathering
        for span in spans:
            stored = gathering.cache.entries.read(gathering.series, [chunk])
            seen = self._seen[chunk] = stored[chunk][1] if chunk in stored else None
            try:
                entry = ask_again(None if gathering.policy.refresh else seen, span)
            except SourceError as error:
                if ends_call(error):
                    raise
                gathering.failed.append((span, error))
                continue
            if entry is None:
                continue
            gathering.note_answer(chunk, Provenance(span, "rest"))
            tier, mine = gathering.found[chunk]
            merged = merge_entries(mine, entry, [span], timeframe=gathering.timeframe, seen=mine)
            gathering.put(chunk, tier, merged.entry)
            self._store({chunk: entry})

    def valid_until(self) -> dict[int, int]:
        """Return until when (ms) each filled chunk answers without a look at its entry; READ_ENTRY: it must be read."""
        gathering = self._gathering
        late_ms = gathering.settling.finality.late_rows_ms
        until_ms = {}
        for chunk in self.filled:
            entry = gathering.found[chunk][1]
            until_ms[chunk] = READ_ENTRY
            if entry.covered.holds(gathering.facts.bounds(chunk_span(gathering.timeframe, chunk), gathering.now_ms)):
                until_ms[chunk] = max(
                    READ_ENTRY, min((hole.ask_again_ms(late_ms) for hole in entry.holes), default=FOREVER_MS)
                )
        return until_ms
