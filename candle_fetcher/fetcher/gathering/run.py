"""Run a plan: requests, files and storing side by side, then a second plan for what is left."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from itertools import chain

from candle_fetcher.cache.pages import LEAST_CHUNKS
from candle_fetcher.concurrency import POLL_S
from candle_fetcher.core.corrections import warn_of_unconfirmed
from candle_fetcher.core.errors import Banned, SourceError
from candle_fetcher.core.events import Progress
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import FailedSpan, News
from candle_fetcher.core.files import File
from candle_fetcher.core.plan import CHUNK_SLOTS, Ask, Plan, chunks_of, group_chunks
from candle_fetcher.fetcher.gathering.archive import ArchiveFiles
from candle_fetcher.fetcher.gathering.bounds import SeriesBounds
from candle_fetcher.fetcher.gathering.chunks import ChunkFiller, choose_confirm, lock, look_again
from candle_fetcher.fetcher.gathering.saving import Saver
from candle_fetcher.fetcher.gathering.state import Gathering
from candle_fetcher.fetcher.pools import Timed
from candle_fetcher.sources import ends_call, is_denial
from candle_fetcher.store.memory import trim_heap


class FileDependencies:
    """Which files each chunk waits for. Shared by threads."""

    def __init__(self, gathering: Gathering, plan: Plan) -> None:
        timeframe = gathering.timeframe
        self.chunks = {
            file: [chunk for chunk in chunks_of(timeframe, file.span) if chunk in plan.asks] for file in plan.files
        }
        self._left = Counter(chain.from_iterable(self.chunks.values()))
        self._lock = threading.Lock()

    def done(self, file: File) -> list[int]:
        """Note that the file is read. Return the chunks that wait for no other file."""
        with self._lock:
            self._left.subtract(self.chunks[file])
            return [chunk for chunk in self.chunks[file] if not self._left[chunk]]


class Fetch:
    """Asks the sources for what the chunks of a gathering lack."""

    def __init__(self, gathering: Gathering, lacking: dict[int, list[Ask]], slots: int) -> None:
        self._gathering = gathering
        self._lacking = lacking
        self.files = ArchiveFiles(gathering)
        self._bounds = SeriesBounds(gathering)
        self._saver = Saver(gathering, self.files, is_single=len(lacking) == 1)
        self._filler = ChunkFiller(gathering, self.files, self._bounds, self._saver)
        self._slots = slots
        self._slots_done = max(0, slots - CHUNK_SLOTS * len(lacking))
        self.replaced_error: SourceError | None = None  # why files were read in place of REST

    def run(self) -> None:
        """Ask for everything that is missing, and store it as it comes. Nothing more is sent once an error is final."""
        gathering, chunks = self._gathering, list(self._lacking)
        slots_left = 0  # of a fetch that failed or was interrupted nothing more came
        self._report("start", self._slots_done)
        try:
            choose_confirm(gathering, self._lacking, chunks[-1])
            if gathering.feed.replies_with_all:
                self._saver.see(chunks)  # the reply to the first request serves all of them
            try:
                self._run_rounds(chunks)
            except BaseException:
                gathering.resources.stop(gathering.scope)
                raise
            finally:
                self._end()
            slots_left = 0 if gathering.failed else self._slots - self._slots_done
        finally:
            self._report("end", slots_left)

    def _run_rounds(self, chunks: list[int]) -> None:
        """Ask for the limits and the two ends first, then for the rest by plan, then for what is left of it."""
        gathering, source = self._gathering, self._gathering.source
        rest_end_ms = gathering.rest_end_ms if gathering.asks_rest else -FOREVER_MS
        asks_rest = any(ask.span.start_ms < rest_end_ms for ask in chain.from_iterable(self._lacking.values()))
        ends = [chunks[0], chunks[-1]] if asks_rest and self._bounds.are_unknown(self._lacking) else []
        learns_limits = asks_rest and not source.limits.are_known
        first = chunks if asks_rest and len(chunks) == 1 else ends  # no file is worth its requests for one chunk
        if ends or learns_limits:
            limits = [partial(source.limits.read, gathering.series.symbol, gathering.scope)] if learns_limits else []
            groups = group_chunks(first, gathering.feed.limit // CHUNK_SLOTS)
            self._run(Plan(dict.fromkeys(first, ()), (), groups), limits)
        else:
            first = []
        if ends:
            self._bounds.learn_end(chunks[-1])
        lacking = gathering.missing(chunks)
        rest = {chunk: asks for chunk, asks in lacking.items() if chunk not in first and self._bounds.is_due(chunk)}
        plan = self.files.plan(rest)
        self._run(plan)
        if gathering.policy.is_archive_only:
            self._read_days(list(rest), plan)
        else:
            self._replace_rest(chunks, plan)
            self._bounds.check(chunks)
            if not ends:
                self._bounds.learn_end(chunks[-1])
        self._note_unanswered(chunks)
        self._saver.settle_contested(self._filler.ask_again)

    def _end(self) -> None:
        """Wait until all is stored; store what was learned of the series."""
        gathering = self._gathering
        self._saver.wait()
        series, cache = gathering.series, gathering.cache
        failed = [
            FailedSpan(span, str(error), gathering.now_ms) for span, error in gathering.failed if error is not None
        ]
        if failed or cache.facts.get(series).failed:
            filled = [gathering.found[chunk][1].covered for chunk in self._saver.filled]
            gathering.learn(News(filled=filled, failed=failed))
        self.files.end()
        self._bounds.end()
        if self.files.read_until_ms:
            trim_heap()  # what files were unpacked with, before the candles are joined
        cache.freshness.save(series, self._saver.valid_until())
        if len(self._saver.filled) >= LEAST_CHUNKS:
            with suppress(RuntimeError):  # the pool is closed; the call does not wait for it either way
                gathering.resources.pools.io.submit(cache.entries.pack, series, self._saver.filled)

    def _report(self, step: str, slots: int) -> None:
        self._gathering.resources.observe(Progress(step, self._gathering.label, slots, self._slots))

    # -- one round ----------------------------------------------------------------------------------------------------

    def _run(self, plan: Plan, questions: Sequence[Callable[[], object]] = ()) -> None:
        """Run the plan in the network pool: ask the questions, read the files, fill the chunks. A chunk is filled once
        the files that it lies in are read."""
        gathering = self._gathering
        if not (plan.asks or questions):
            return
        done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]] = queue.SimpleQueue()
        dependencies = FileDependencies(gathering, plan)
        unfilled: dict[File, list[int]] = {}
        pool, observe = gathering.resources.pools.network, gathering.resources.observe

        def work(jobs: Iterable[tuple[int | File | None, Callable[[], object]]]) -> None:
            for what, job in jobs:
                error = None
                with Timed(observe, "network"):
                    try:
                        job()
                    except BaseException as raised:  # noqa: BLE001 - it is raised again in the caller's thread
                        error = raised
                done.put((what, error))
                del error

        def read(file: File) -> None:
            ready, unfilled[file] = self._read(file, dependencies)
            for chunk in set(ready).difference(unfilled[file]):
                done.put((chunk, None))

        futures: list[Future[None]] = [pool.submit(work, [(None, question)]) for question in questions]
        futures += [pool.submit(work, [(file, partial(read, file))]) for file in plan.files]
        left = len(futures) + len(plan.asks)
        for group in plan.groups:
            before = [
                chunk for chunk in gathering.confirms if chunk + 1 == group[0] and chunk not in gathering.answered
            ]
            left += len(before)
            futures.append(pool.submit(work, self._filler.jobs([*before, *group])))
        try:
            for _ in range(left):
                what, error = _next(done, gathering)
                if error is not None:
                    self._note_error(what, error)
                elif isinstance(what, int) and what not in gathering.confirms:
                    slots = min(CHUNK_SLOTS, self._slots - self._slots_done)
                    self._slots_done += slots
                    self._report("advance", slots)
                if isinstance(what, File):
                    futures += [pool.submit(work, self._filler.jobs([chunk])) for chunk in unfilled[what]]
        except BaseException:
            gathering.scope.set()
            for future in futures:
                future.cancel()
            raise

    def _read(self, file: File, dependencies: FileDependencies) -> tuple[list[int], list[int]]:
        """Read a file and store what it completes. Return the chunks that wait for no other file, and those of them
        that are still to be filled."""
        gathering, chunks, save = self._gathering, dependencies.chunks[file], None
        key = f"{gathering.series.key}|file|{file.path}"
        has_waited, is_mine = lock(gathering, key)
        try:
            look_again(gathering, chunks, reads_disk=has_waited)
            if self.files.is_useful(file, chunks):
                self._saver.see(chunks)
                self.files.read(file)
            ready = dependencies.done(file)
            unfilled, save = self._filler.fill_from_files(ready)
            return ready, unfilled
        finally:
            # A thread that waits for the file finds stored what it brought.
            if not is_mine:
                pass
            elif save is None:
                gathering.cache.locks.release(key)
            else:
                save.add_done_callback(lambda _: gathering.cache.locks.release(key))

    def _note_error(self, what: int | File | None, error: BaseException) -> None:
        """Keep an error of one chunk; raise one that ends the call.

        After a denial REST is not asked again, where the archive may serve. Where a chunk has all that is wanted of it,
        its error is that of a request beside the candles, such as when the series was listed.
        """
        gathering = self._gathering
        lacking = gathering.asks(what) if isinstance(what, int) else []
        is_stored = gathering.settling.corrected_ms and lacking and not any(ask.span for ask in lacking)
        if is_stored and what not in gathering.confirms and isinstance(error, SourceError):
            warn_of_unconfirmed(gathering.scope.warned, gathering.label, error.reason)
        elif gathering.may_replace and is_denial(error):
            assert isinstance(error, SourceError)
            gathering.scope.denial = gathering.scope.denial or error
        elif not isinstance(error, SourceError) or not isinstance(what, int) or _ends(error, lacking):
            raise error
        gathering.failed += [(ask.span, error) for ask in lacking if ask.span]

    # -- what a round has left ----------------------------------------------------------------------------------------

    def _read_days(self, chunks: Sequence[int], plan: Plan) -> None:
        """Read files of days where a month's file is late or damaged, or has holes: no other source is asked."""
        gathering = self._gathering
        tried = {file.path for file in plan.files}
        days = self.files.plan(gathering.missing(chunks), tried, asks_holes=True)
        if days.files:
            self._run(days)
        lost = [ask.span for chunk in chunks for ask in gathering.asks(chunk) if not ask.again]
        gathering.failed += [(span, self.files.error_of(span)) for span in lost]

    def _replace_rest(self, chunks: Sequence[int], plan: Plan) -> None:
        """Read from the archive's files what REST failed to give, at any cost: days too, where a month's file has
        holes. REST is not asked again for those chunks."""
        gathering = self._gathering
        if gathering.archive is None:
            return
        tried = {file.path for file in plan.files}
        for asks_holes in (False, True):
            refused = self._filler.refused = {
                chunk: error
                for span, error in gathering.failed
                if error is not None
                for chunk in chunks_of(gathering.timeframe, span)
            }
            failed = [chunk for chunk in chunks if chunk in refused]
            asks = {chunk: gathering.asks(chunk) for chunk in failed}
            more = self.files.plan(asks, tried, forced=True, asks_holes=asks_holes)
            if not more.files:
                continue
            gathering.forces_files = True
            self.replaced_error = self.replaced_error or refused[failed[0]]
            tried |= {file.path for file in more.files}
            gathering.failed = [
                one for one in gathering.failed if refused.keys().isdisjoint(chunks_of(gathering.timeframe, one[0]))
            ]
            self._run(more)

    def _note_unanswered(self, chunks: Sequence[int]) -> None:
        """Note as failed what no source answered for, and no source failed to: it is no gap."""
        gathering = self._gathering
        for chunk in chunks:
            if chunk not in gathering.found and chunk not in gathering.answered:
                lost = [ask.span for ask in gathering.asks(chunk)]
                gathering.failed += [
                    (span, None) for span in lost if not any(span.clip(other) for other, _ in gathering.failed)
                ]


def _ends(error: SourceError, lacking: Sequence[Ask]) -> bool:
    return isinstance(error, Banned) or (bool(lacking) and ends_call(error))


def _next(
    done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]], gathering: Gathering
) -> tuple[int | File | None, BaseException | None]:
    while True:
        try:
            return done.get(timeout=POLL_S)
        except queue.Empty:
            if gathering.scope.is_set():  # work that was cancelled before it began reports nothing
                raise CancelledError from None
