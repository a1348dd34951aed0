"""One series, one span, all of its settled candles: look up, ask for what is missing, store it as it arrives.

The caller's thread tells the story; disk is read and written by the I/O pool, requests go out from the network pool.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from typing import NamedTuple

from candle_fetcher.cache import LOOK, CandleCache, Facts, Quiet, is_believed
from candle_fetcher.core.candles import Candles, find_holes
from candle_fetcher.core.coverage import absorb
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import Banned, RateLimited, ReplyError, SourceError, TransportError, UnknownSymbol
from candle_fetcher.core.events import Busy, Observe, Progress
from candle_fetcher.core.expiry import FOREVER_MS, ask_again_ms, edge_until_ms, settled_end_ms
from candle_fetcher.core.files import File, choose_files
from candle_fetcher.core.plan import CHUNK_SLOTS, Ask, chunk_span, chunks_of, find_asks
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.sources import Answer, ArchiveSource, Errand, Source, windows

# A range that ends further back than this is settled whatever our clock says.
_NEAR_MS = 2 * DAY_MS
_LOAD_AT_ONCE = 16
# How long a wait in the caller's thread lasts before it looks up again; a lock wait cannot be interrupted on Windows.
POLL_S = 0.2


class Pools:
    """The two thread pools, made when first used; threads are named candle-network-N and candle-io-N."""

    def __init__(self, network_threads: int, io_threads: int) -> None:
        self.sizes = {"network": network_threads, "io": io_threads}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._closed: set[str] = set()
        self._lock = threading.Lock()

    def network(self) -> ThreadPoolExecutor:
        return self._pool("network")

    def io(self) -> ThreadPoolExecutor:
        return self._pool("io")

    def _pool(self, name: str) -> ThreadPoolExecutor:
        with self._lock:
            if name in self._closed:
                raise CancelledError
            pool = self._pools.get(name)
            if pool is None:
                numbers = count()

                def christen() -> None:
                    threading.current_thread().name = f"candle-{name}-{next(numbers)}"

                pool = self._pools[name] = ThreadPoolExecutor(self.sizes[name], initializer=christen)
            return pool

    def close(self) -> None:
        """Ends the threads: of the network first, whose last work may still have something to store."""
        for name in self.sizes:
            with self._lock:
                pool = self._pools.pop(name, None)
                self._closed.add(name)
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=name == "network")


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
    parts: list[Part] = field(default_factory=list)
    failed: list[tuple[Span, SourceError | None]] = field(default_factory=list)
    until_ms: int = FOREVER_MS
    unverified: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)


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


class Gatherer:
    """Gathers spans over the cache and the sources. Shared by all threads of a fetcher."""

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
        self._listing_lock = threading.Lock()

    def now_ms(self, source: Source, end_ms: int, errand: Errand, *, ask: bool = True) -> int:
        """The provider's clock where the end of a range is near, which is where it matters; else our own.

        Where the clock cannot be had, our own serves to look up what is stored; `gather` asks for nothing near to it
        then.
        """
        own_ms = int(self._clock() * 1000)
        if not ask or end_ms <= own_ms - _NEAR_MS or errand.clock_error is not None:
            return own_ms
        try:
            return source.now_ms(errand)
        except (TransportError, ReplyError, RateLimited) as error:
            if isinstance(error, Banned):
                raise
            errand.clock_error = error
            return own_ms

    def gather(self, want: Want, errand: Errand) -> Gathered:
        """Every settled candle of the span, or the spans of it that could not be had and why."""
        series, cache = want.series, self._cache
        timeframe = series.timeframe
        now_ms = self.now_ms(want.source, want.span.end_ms, errand, ask=not want.only_cache)
        span = Span(want.span.start_ms, min(want.span.end_ms, settled_end_ms(timeframe, now_ms)))
        if want.refresh:
            cache.forget_facts(series)
            cache.drop_frames(series)
        trip = _Trip(want, span, now_ms, errand)
        chunks = chunks_of(timeframe, cache.facts(series).bounds(span, now_ms))
        if not want.refresh:
            trip.found = self._load(trip, chunks)
        todo = self._without_clock(trip, self._missing(trip, chunks))
        slots = max(0, timeframe.first_slot(span.end_ms) - timeframe.first_slot(span.start_ms))
        if todo and want.only_cache:
            trip.failed = [(ask.span, None) for chunk in todo for ask in self._asks(trip, chunk)]
        elif todo:
            trip.slots, trip.done = slots, max(0, slots - CHUNK_SLOTS * len(todo))
            self._observe(Progress("start", want.label, trip.done, slots))
            left = 0  # of a fetch that failed or was interrupted nothing more came
            try:
                self._fetch(trip, todo)
                left = 0 if trip.failed else slots - trip.done
            finally:
                self._observe(Progress("end", want.label, left, slots))
        return self._told(trip)

    # -- looking up -----------------------------------------------------------------------------------------------

    def _load(self, trip: _Trip, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        series, keep = trip.want.series, trip.want.keep
        if len(chunks) <= _LOAD_AT_ONCE:
            return self._cache.load(series, chunks, keep=keep)
        size = max(_LOAD_AT_ONCE, -(-len(chunks) // (4 * self._pools.sizes["io"])))
        batches = [chunks[at : at + size] for at in range(0, len(chunks), size)]
        found: dict[int, tuple[str, Entry]] = {}
        for loaded in self._pools.io().map(lambda batch: self._cache.load(series, batch, keep=keep), batches):
            found.update(loaded)
        return found

    def _asks(self, trip: _Trip, chunk: int, entry: Entry | None = None) -> list[Ask]:
        """What must be asked for before the chunk can answer, given what is stored (or `entry`) and known by now."""
        span = chunk_span(trip.timeframe, chunk)
        settled_ms = settled_end_ms(trip.timeframe, trip.now_ms)
        bounds = self._cache.facts(trip.want.series).bounds(
            Span(span.start_ms, min(span.end_ms, settled_ms)), trip.now_ms
        )
        found = trip.found.get(chunk)
        if entry is None and found is not None:
            entry = found[1]
        return find_asks(
            entry,
            span,
            trip.span,
            bounds,
            now_ms=trip.now_ms,
            ttl_ms=trip.want.ttl_ms,
            recheck=trip.want.recheck,
        )

    def _missing(self, trip: _Trip, chunks: Sequence[int]) -> list[int]:
        return [chunk for chunk in chunks if self._asks(trip, chunk)]

    def _without_clock(self, trip: _Trip, todo: list[int]) -> list[int]:
        """The chunks that may be asked for: none near to now, where nobody could tell what is settled."""
        error = trip.errand.clock_error
        if error is None:
            return todo
        near_ms = trip.now_ms - _NEAR_MS
        for chunk in todo:
            trip.failed += [(ask.span, error) for ask in self._asks(trip, chunk) if ask.span.end_ms > near_ms]
        return [chunk for chunk in todo if all(ask.span.end_ms <= near_ms for ask in self._asks(trip, chunk))]

    # -- asking -----------------------------------------------------------------------------------------------------

    def _fetch(self, trip: _Trip, todo: list[int]) -> None:
        """Fills the chunks. Sends nothing more once the caller is interrupted or an error is final."""
        source, series = trip.want.source, trip.want.series
        self._cache.open_shelves(series, todo)
        try:
            # The limits before the burst; and the two ends, which tell where the series begins and ends.
            opening = {todo[0], todo[-1]} if self._ends_unknown(trip, todo) and not trip.want.only_archive else set()
            jobs = (
                []
                if source.limits_known or trip.want.only_archive
                else [lambda: source.learn_limits(series.symbol, trip.errand)]
            )
            if opening or jobs:
                self._run(trip, sorted(opening), jobs)
            if opening:
                self._learn_end(trip, todo[-1])
            rest = [chunk for chunk in self._missing(trip, todo) if chunk not in opening]
            self._run(trip, rest, [], self._choose_files(trip, rest))
            if trip.want.only_archive:
                error = trip.unread[-1][1] if trip.unread else None
                trip.failed += [(ask.span, error) for chunk in rest for ask in self._asks(trip, chunk) if not ask.again]
            elif not opening:
                self._learn_end(trip, todo[-1])
        except BaseException:
            trip.errand.set()
            self._abort(trip.errand)
            raise
        finally:
            wait(trip.saves)
            if trip.absent:
                self._cache.learn(series, absent=trip.absent, now_ms=trip.now_ms)
            self._cache.close_shelves(series, {chunk: self._believed_until(trip, chunk) for chunk in trip.filled})

    def _ends_unknown(self, trip: _Trip, todo: list[int]) -> bool:
        facts = self._cache.facts(trip.want.series)
        older = any(entry.candles.count for chunk, (_, entry) in trip.found.items() if chunk < todo[0])
        return len(todo) > 1 and facts.first_ms is None and not older

    def _choose_files(self, trip: _Trip, chunks: Sequence[int]) -> list[File]:
        """The archive's files that bring what the chunks lack at less cost than REST."""
        want = trip.want
        asks = [ask for chunk in chunks for ask in self._asks(trip, chunk)]
        facts = self._cache.facts(want.series)
        return find_files(want.source, want.archive, want.series, facts, asks, trip.now_ms, forced=want.only_archive)

    def _read(self, trip: _Trip, file: File) -> None:
        """Reads a file and lays its candles out for the chunks that they belong to."""
        archive, series = trip.want.archive, trip.want.series
        assert archive is not None
        try:
            read = archive.read(series, file, trip.errand)
        except (TransportError, RateLimited) as error:
            trip.unread.append((file, error))  # REST is asked instead
            return
        if read.trouble == "absent":
            trip.absent.append(file.path)
        elif read.trouble:
            trip.rejected.append(file.path)
        if read.candles is None:
            return
        if not read.verified:
            trip.unverified.append(file.path)
        for chunk in chunks_of(trip.timeframe, file.span):
            span = chunk_span(trip.timeframe, chunk).clip(file.span)
            trip.pieces.setdefault(chunk, []).append((span, read.candles.trim(span)))

    def _run(
        self, trip: _Trip, chunks: Sequence[int], jobs: Sequence[Callable[[], None]], files: Sequence[File] = ()
    ) -> None:
        """Does the jobs, reads the files, and fills the chunks; a chunk when the files that it lies in have been
        read."""
        done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]] = queue.SimpleQueue()
        pool = self._pools.network()
        waiting = dict.fromkeys(chunks, 0)
        touched = {
            file: [chunk for chunk in chunks_of(trip.timeframe, file.span) if chunk in waiting] for file in files
        }
        for chunk in chain.from_iterable(touched.values()):
            waiting[chunk] += 1

        def work(what: int | File | None, job: Callable[[], None]) -> None:
            with _Timed(self._observe, "network"):
                try:
                    job()
                except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                    done.put((what, error))
                else:
                    done.put((what, None))

        def fill(chunk: int) -> None:
            futures.append(pool.submit(work, chunk, lambda: self._fill(trip, chunk)))

        futures = [pool.submit(work, None, job) for job in jobs]
        futures += [pool.submit(work, file, partial(self._read, trip, file)) for file in files]
        for chunk in [chunk for chunk, files_left in waiting.items() if not files_left]:
            fill(chunk)
        try:
            for _ in range(len(jobs) + len(files) + len(waiting)):
                what, error = _next(done)
                if error is not None:
                    self._note(trip, what, error)
                elif isinstance(what, int):
                    step = min(CHUNK_SLOTS, trip.slots - trip.done)
                    trip.done += step
                    self._observe(Progress("advance", trip.want.label, step, trip.slots))
                if isinstance(what, File):
                    for chunk in touched[what]:
                        waiting[chunk] -= 1
                        if not waiting[chunk]:
                            fill(chunk)
        except BaseException:
            trip.errand.set()
            for future in futures:
                future.cancel()
            raise

    def _note(self, trip: _Trip, chunk: int | File | None, error: BaseException) -> None:
        """Keeps an error that other chunks may be spared; raises one that they are not."""
        if not isinstance(chunk, int) or (
            not isinstance(error, TransportError | ReplyError) and type(error) is not RateLimited
        ):
            raise error
        trip.failed += [(ask.span, error) for ask in self._asks(trip, chunk)]

    def _fill(self, trip: _Trip, chunk: int) -> None:
        """Brings one chunk up to date; where another thread is at it already, waits for that one's entry."""
        cache, series = self._cache, trip.want.series
        while True:
            if trip.errand.is_set():
                raise CancelledError
            mine, flight = cache.take_off(series, chunk)
            if mine:
                self._fly(trip, chunk, flight)
                return
            try:
                entry = _result(flight, trip.errand)
            except CancelledError:
                continue  # whoever was at it was interrupted; it is our turn
            if entry is not None:
                trip.found[chunk] = ("memory", entry)
            if entry is None or not self._asks(trip, chunk):
                return

    def _fly(self, trip: _Trip, chunk: int, flight: Future[Entry | None]) -> None:
        want, cache = trip.want, self._cache
        entry: Entry | None = None
        try:
            brought = None if want.refresh or chunk in trip.found else cache.peek(want.series, chunk)
            if brought is not None:
                trip.found[chunk] = brought  # by another thread, since we looked
            if chunk in trip.found:
                entry = trip.found[chunk][1]
            before = entry
            try:
                entry = self._laid_out(trip, chunk, entry)
                for ask in self._asks(trip, chunk, entry):
                    if want.only_archive:
                        continue
                    for answer in self._answers(trip, ask, entry):
                        entry = absorb(
                            entry,
                            answer.span,
                            answer.candles,
                            answer.believed,
                            timeframe=trip.timeframe,
                            now_ms=trip.now_ms,
                        )
                        trip.fresh.setdefault(chunk, []).append(Fresh(answer.span, "rest"))
            finally:
                if entry is not None and entry is not before:
                    tier = trip.found[chunk][0] if chunk in trip.found else "rest"
                    trip.found[chunk] = (tier, entry)
                    trip.filled.append(chunk)
                    trip.saves.append(self._pools.io().submit(self._save, trip, chunk, entry))
                else:
                    cache.land(want.series, chunk)
            flight.set_result(entry)
        except BaseException as error:
            flight.set_exception(error if isinstance(error, SourceError) else CancelledError())
            raise

    def _laid_out(self, trip: _Trip, chunk: int, entry: Entry | None) -> Entry | None:
        """The entry with what the archive's files have of the chunk. Their holes are due at once: REST has the last
        word."""
        facts = self._cache.facts(trip.want.series)
        for span, candles in sorted(trip.pieces.pop(chunk, []), key=lambda piece: piece[0]):
            inside = facts.bounds(span, trip.now_ms)
            if not inside:
                continue
            found = candles.trim(inside)
            holes = find_holes(found.open_ms, trip.timeframe, inside)
            entry = absorb(entry, inside, found, holes, timeframe=trip.timeframe, now_ms=trip.now_ms, asked_ms=0)
            trip.fresh.setdefault(chunk, []).append(Fresh(inside, "archive"))
        return entry

    def _answers(self, trip: _Trip, ask: Ask, entry: Entry | None) -> Iterator[Answer]:
        """The source's answers to an ask, call by call, so that what has come is kept whichever call fails."""
        source, series = trip.want.source, trip.want.series
        pieces = list(windows(source.provider.feed(series.kind), series.timeframe, ask.span))
        if entry is not None and ask.span.end_ms <= entry.covered.start_ms:
            pieces.reverse()  # what is covered stays one span
        for window in pieces:
            # A piece before may have told where the series begins.
            piece = self._cache.facts(series).bounds(window, trip.now_ms)
            if piece:
                yield source.look(
                    series, piece, again=ask.again, listed_ms=lambda hole: self._listed_ms(trip, hole), stop=trip.errand
                )

    def _save(self, trip: _Trip, chunk: int, entry: Entry) -> None:
        with _Timed(self._observe, "io"):
            series = trip.want.series
            try:
                until_s = None
                if entry.covered.end_ms < chunk_span(trip.timeframe, chunk).end_ms:
                    # Beyond this another process may have stored a newer one; the disk is looked at again.
                    edge_ms = edge_until_ms(trip.timeframe, entry.covered.end_ms, trip.now_ms, trip.want.ttl_ms)
                    until_s = self._clock() + (edge_ms - trip.now_ms) / 1000
                self._cache.save(series, chunk, entry, until_s=until_s, keep=trip.want.keep)
            finally:
                self._cache.land(series, chunk)

    # -- where the series begins and ends ---------------------------------------------------------------------------

    def first_ms(self, source: Source, series: Series, errand: Errand) -> int | None:
        """When the first candle of the series opens; remembered."""
        want = Want(source, series, Span(0, 0))
        now_ms = self.now_ms(source, FOREVER_MS, errand)
        return self._listed_ms(_Trip(want, want.span, now_ms, errand), Span(0, 1))

    def _listed_ms(self, trip: _Trip, hole: Span) -> int | None:
        """When the first candle opens; asked once a series, since a hole at a chunk's start may precede the listing."""
        source, series, cache = trip.want.source, trip.want.series, self._cache
        with self._listing_lock:
            known = cache.facts(series).first_ms
            if known is not None:
                return known
            first_ms = source.first_ms(series, hole, trip.errand)
            if first_ms is None:
                cache.learn(series, quiet=Quiet(-FOREVER_MS, FOREVER_MS, "not_listed", trip.now_ms), now_ms=trip.now_ms)
            elif first_ms >= hole.start_ms or source.provider.feed(series.kind).first_call is not None:
                slot_ms = series.timeframe.open_ms(series.timeframe.ordinal(first_ms))
                before = Quiet(-FOREVER_MS, slot_ms, "not_listed", trip.now_ms)
                cache.learn(series, first_ms=first_ms, quiet=before, now_ms=trip.now_ms)
            return first_ms

    def _learn_end(self, trip: _Trip, newest: int) -> None:
        """Where the newest chunk ends in a hole, learns since when, and whether the symbol is still traded.

        What lies between the newest candle there is and the end of the range then needs no asking.
        """
        source, series, timeframe = trip.want.source, trip.want.series, trip.timeframe
        found = trip.found.get(newest)
        if found is None or trip.failed:
            return
        candles, end_ms = found[1].candles, found[1].covered.end_ms
        last_ms = int(candles.open_ms[-1]) if candles.count else source.last_ms(series, end_ms, trip.errand)
        if last_ms is None:
            return
        after_ms = timeframe.open_ms(timeframe.ordinal(last_ms) + 1)
        known = [quiet for quiet in self._cache.facts(series).quiet if quiet.start_ms == after_ms]
        if after_ms >= end_ms or any(is_believed(quiet, trip.now_ms) for quiet in known):
            return
        try:
            listed = source.describe(series.symbol, trip.errand).symbols
            over = not any(one.trading for one in listed if one.provider_symbol == series.symbol)
        except UnknownSymbol:
            over = True
        quiet = Quiet(after_ms, FOREVER_MS if over else end_ms, "after_delisting" if over else "no_candle", trip.now_ms)
        self._cache.learn(series, quiet=quiet, now_ms=trip.now_ms)

    # -- telling ----------------------------------------------------------------------------------------------------

    def _believed_until(self, trip: _Trip, chunk: int) -> int:
        entry = trip.found[chunk][1]
        span = chunk_span(trip.timeframe, chunk)
        if not entry.covered.holds(self._cache.facts(trip.want.series).bounds(span, trip.now_ms)):
            return LOOK
        return min((ask_again_ms(hole.end_ms, hole.asked_ms) for hole in entry.believed), default=FOREVER_MS)

    def _told(self, trip: _Trip) -> Gathered:
        told = Gathered(
            trip.want.series, trip.span, trip.now_ms, self._cache.facts(trip.want.series), failed=trip.failed
        )
        if trip.want.ttl_ms is not None and trip.span.end_ms >= settled_end_ms(trip.timeframe, trip.now_ms):
            told.until_ms = trip.now_ms + trip.want.ttl_ms
        for chunk in sorted(trip.found):
            tier, entry = trip.found[chunk]
            told.parts.append(Part(entry, tier, tuple(trip.fresh.get(chunk, ()))))
            empty = [(hole.start_ms, hole.end_ms, hole.asked_ms) for hole in entry.believed]
            empty += [(quiet.start_ms, quiet.end_ms, quiet.asked_ms) for quiet in told.facts.quiet]
            for start_ms, end_ms, asked_ms in empty:
                if Span(start_ms, end_ms).clip(trip.span):
                    told.until_ms = min(told.until_ms, ask_again_ms(end_ms, asked_ms))
        return told


def find_files(
    source: Source,
    archive: ArchiveSource | None,
    series: Series,
    facts: Facts,
    asks: Sequence[Ask],
    now_ms: int,
    *,
    forced: bool,
) -> list[File]:
    """The archive's files to fetch for the asks; holes that were believed once are for REST alone."""
    if archive is None:
        return []
    find = archive.archive.find_file
    return choose_files(
        [ask.span for ask in asks if not ask.again],
        series.timeframe,
        lambda ms, monthly: find(series, ms, monthly=monthly),
        now_ms=now_ms,
        rows_per_call=source.provider.feed(series.kind).limit,
        is_absent=lambda path: facts.is_absent(path, now_ms),
        forced=forced,
    )


class _Trip:
    """The state of one gathering. `found` is written by one worker a chunk; lists are appended to."""

    def __init__(self, want: Want, span: Span, now_ms: int, errand: Errand) -> None:
        self.want = want
        self.span = span
        self.now_ms = now_ms
        self.errand = errand
        self.timeframe = want.series.timeframe
        self.found: dict[int, tuple[str, Entry]] = {}
        self.fresh: dict[int, list[Fresh]] = {}
        self.filled: list[int] = []
        self.saves: list[Future[None]] = []
        self.failed: list[tuple[Span, SourceError | None]] = []
        self.slots = self.done = 0
        # what the archive's files brought, by chunk, and what became of the files that cannot be used
        self.pieces: dict[int, list[tuple[Span, Candles]]] = {}
        self.unread: list[tuple[File, SourceError]] = []
        self.absent: list[str] = []
        self.rejected: list[str] = []
        self.unverified: list[str] = []


class _Timed:
    """Reports how long a worker of a pool was busy."""

    __slots__ = ("_began", "_observe", "_pool")

    def __init__(self, observe: Observe, pool: str) -> None:
        self._observe = observe
        self._pool = pool

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._observe(Busy(self._pool, time.perf_counter() - self._began))


def _next(
    done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]],
) -> tuple[int | File | None, BaseException | None]:
    while True:
        try:
            return done.get(timeout=POLL_S)
        except queue.Empty:
            continue


def _result(flight: Future[Entry | None], errand: Errand) -> Entry | None:
    while not errand.is_set():
        done, _ = wait([flight], timeout=POLL_S)
        if done:
            return flight.result()
    raise CancelledError
