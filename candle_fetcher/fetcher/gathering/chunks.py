"""Fill one chunk, from the archive's files and from REST, by one thread of all processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial

from candle_fetcher.concurrency import wait_for
from candle_fetcher.core.candles import no_candles
from candle_fetcher.core.coverage import bridge
from candle_fetcher.core.entry import Entry, HoleState
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.plan import Ask, chunk_span, find_unconfirmed
from candle_fetcher.core.spans import ALL_TIME, Span, hull, subtract
from candle_fetcher.fetcher.gathering.archive import ArchiveFiles
from candle_fetcher.fetcher.gathering.bounds import SeriesBounds
from candle_fetcher.fetcher.gathering.saving import Saver
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance
from candle_fetcher.sources import SpanAnswer, windows

_LOCK_S = 60.0  # how long a chunk that another process fills is waited for: a suspended process keeps its lock
_SUSPENDED_S = 1.0  # the same, once a process was waited for in vain
_STORING_S = 0.005


class ChunkFiller:
    """Fills the chunks of one gathering. Its methods run in the threads of the network pool."""

    def __init__(self, gathering: Gathering, files: ArchiveFiles, bounds: SeriesBounds, saver: Saver) -> None:
        self._gathering = gathering
        self._files = files
        self._bounds = bounds
        self._saver = saver
        self.refused: dict[int, SourceError] = {}  # by chunk: why REST is not asked for it again

    def jobs(self, chunks: Sequence[int]) -> Iterator[tuple[int, Callable[[], object]]]:
        """Yield the chunks, each with the job that fills it. Chunks that one request may bring are locked together, so
        that no other thread or process asks for one of them meanwhile."""
        gathering, locked = self._gathering, []
        are_grouped = len(chunks) > 1 and not gathering.feed.replies_with_all
        if are_grouped:
            futures: dict[int, Future[Entry | None]] = {}
            try:
                locked = self._start(chunks, futures)
                self._saver.see(locked)
                spans = [ask.reach for chunk in locked for ask in gathering.asks(chunk) if not ask.again]
                within = hull(spans).before(gathering.rest_end_ms) if spans else None
                for chunk in locked:
                    if chunk not in gathering.confirms or chunk + 1 in locked:
                        yield chunk, partial(self.fill, chunk, futures.pop(chunk), within)
                    else:
                        yield chunk, _nothing
            finally:
                self._give_up(futures)
        for chunk in chunks:
            if chunk not in locked:
                yield chunk, _nothing if are_grouped and chunk in gathering.confirms else partial(self.fill, chunk)

    def _start(self, chunks: Sequence[int], futures: dict[int, Future[Entry | None]]) -> list[int]:
        """Begin those of the chunks that no other thread fills, and put their futures into `futures`, which the caller
        must complete. Return those of them that no other process fills; they are locked."""
        cache, series = self._gathering.cache, self._gathering.series
        for chunk in chunks:
            is_mine, future = cache.locks.start(series, chunk)
            if is_mine:
                futures[chunk] = future
        return [chunk for chunk in futures if cache.locks.try_acquire(f"{series.key}|{chunk}")]

    def _give_up(self, futures: dict[int, Future[Entry | None]]) -> None:
        """End the chunks without an entry: a thread that waits for one fills it itself."""
        for chunk, future in futures.items():
            self._gathering.cache.locks.finish(self._gathering.series, chunk)
            future.set_exception(CancelledError())

    def _begin(self, chunk: int) -> Future[Entry | None] | None:
        """Return the future of the chunk, for this thread to complete. While another thread fills the chunk, wait for
        the entry; None where it serves."""
        gathering = self._gathering
        while not gathering.scope.is_set():
            is_mine, future = gathering.cache.locks.start(gathering.series, chunk)
            if is_mine:
                return future
            entry = None
            try:
                wait_for([future], gathering.scope)
                entry = future.result()
            except CancelledError:
                if gathering.scope.is_set():
                    raise
            # For a refresh the other thread may have asked for a part only, or before this call began.
            if not gathering.policy.refresh:
                if entry is not None:
                    gathering.put(chunk, "memory", entry)
                if not gathering.asks(chunk):
                    return None
            gathering.scope.wait(_STORING_S)  # what the other thread brought may not be stored yet
        raise CancelledError

    def fill(self, chunk: int, locked: Future[Entry | None] | None = None, within: Span | None = None) -> None:
        """Fill the chunk. What has come is kept, whichever request fails.

        `locked` is the future of a chunk that the caller has begun and locked. `within` is the span to ask for at once,
        with the chunks beside it.
        """
        gathering = self._gathering
        future = locked or self._begin(chunk)
        if future is None:
            return
        before: Entry | None = None
        entry: Entry | None = None
        refusal: SourceError | None = None  # for which REST is not asked again
        try:
            try:
                is_new = locked is None and lock(gathering, f"{gathering.series.key}|{chunk}")[0]
                before = entry = look_again(gathering, [chunk], reads_disk=is_new).get(chunk)
                self._saver.see([chunk])
                entry, filled = self._files.fill(chunk, entry)
                gathering.note_answer(chunk, *filled)
                asks = [] if gathering.policy.is_archive_only else gathering.asks(chunk, entry)
                refusal = gathering.scope.denial or self.refused.get(chunk)
                if asks and refusal is not None:
                    raise refusal
                for ask in asks:
                    for answered in self._ask(chunk, entry, ask, within):
                        entry = answered
                refusal = gathering.scope.clock_error
                if refusal is not None and any(ask.span.end_ms > gathering.rest_end_ms for ask in asks):
                    raise refusal
                gathering.answered.add(chunk)
            finally:
                if entry is not None and entry is not before:
                    self._saver.save({chunk: entry})
                else:
                    gathering.cache.locks.finish(gathering.series, chunk)
            future.set_result(entry)
        except BaseException as error:
            # An error of another request than the chunk's own is not an error of the threads that wait.
            is_own = isinstance(error, SourceError) and error is not refusal
            future.set_exception(error if is_own else CancelledError())
            raise

    def _ask(self, chunk: int, entry: Entry | None, ask: Ask, within: Span | None) -> Iterator[Entry | None]:
        """Ask REST, request by request, and yield the entry with the answers so far."""
        gathering = self._gathering
        ask = ask._replace(span=ask.span.before(gathering.rest_end_ms))
        pieces = list(windows(gathering.feed, gathering.series, ask.reach)) if ask.reach else []
        confirms = ask.again and not _may_be_listing(gathering, entry, ask)
        if entry is not None and ask.span.end_ms <= entry.covered.start_ms:
            pieces.reverse()  # what is covered stays one span
        for window in pieces:
            # An answer before may say where the series begins.
            piece = gathering.facts.bounds(window, gathering.now_ms)
            if not piece:
                continue
            longer = within if within is not None and within.holds(piece) and not ask.again else None
            answer = gathering.reader.fetch_span(piece, self._bounds.listed_ms, again=confirms, within=longer)
            gathering.note_served(answer.served_ms)
            if not answer.span:
                continue
            # An entry covers one span: with an answer apart from it, what is stored would be lost.
            if answer.error is None or entry is None or answer.span.touches(entry.covered):
                entry = _merge_answer(gathering, entry, answer)
                gathering.note_answer(chunk, Provenance(answer.span, "rest"))
                yield entry
            if answer.error is not None:
                raise answer.error
        yield _without_unserved(gathering, entry, ask.span)

    def fill_from_files(self, chunks: Sequence[int]) -> tuple[list[int], Future[None] | None]:
        """Fill the chunks that the archive's files brought whole. Return the others, and the future of the storing."""
        gathering, saver = self._gathering, self._saver
        futures: dict[int, Future[Entry | None]] = {}
        complete: dict[int, Entry] = {}
        try:
            locked = self._start(chunks, futures)
            found = look_again(gathering, locked)
            saver.see(locked)
            for chunk in locked:
                entry, filled = self._files.fill(chunk, found.get(chunk))
                if entry is not None and filled and not gathering.asks(chunk, entry):
                    complete[chunk] = entry
                    gathering.note_answer(chunk, *filled)
        except BaseException:
            self._give_up(futures)
            raise
        self._give_up({chunk: future for chunk, future in futures.items() if chunk not in complete})
        try:
            save = saver.save(complete) if complete else None
        except BaseException:
            for chunk in complete:
                futures[chunk].set_exception(CancelledError())
            raise
        for chunk, entry in complete.items():
            futures[chunk].set_result(entry)
        return [chunk for chunk in chunks if chunk not in complete], save

    def ask_again(self, entry: Entry | None, span: Span) -> Entry | None:
        """Return the entry with the source's answers about the span, by requests that are sent now."""
        gathering = self._gathering
        for window in windows(gathering.feed, gathering.series, span):
            answer = gathering.reader.fetch_span(window, self._bounds.listed_ms, refresh=True)
            if answer.error is not None:
                raise answer.error
            if answer.span:
                entry = _merge_answer(gathering, entry, answer)
        return entry


def _may_be_listing(gathering: Gathering, entry: Entry | None, ask: Ask) -> bool:
    """Return whether the hole may lie before the listing: what a file lacks before its first candle. Only a first
    request finds that out."""
    return (
        gathering.facts.first_ms is None
        and entry is not None
        and not entry.candles.trim(ALL_TIME.before(ask.span.start_ms)).count
        and any(hole.state is HoleState.DUE and hole.span.start_ms == ask.span.start_ms for hole in entry.holes)
    )


def _without_unserved(gathering: Gathering, entry: Entry | None, asked: Span) -> Entry | None:
    """Return the entry, which notes what of the span the provider serves no more; it never will again."""
    older = asked.before(gathering.served_ms)
    if gathering.policy.refresh or not older:  # a refresh has not looked at what is stored, which may hold it
        return entry
    if entry is not None and older.end_ms < entry.covered.start_ms:
        return entry
    nothing = no_candles(gathering.feed.columns)
    for hole in subtract(older, [] if entry is None else [entry.covered]):
        entry = gathering.absorb(_bridge(gathering, entry, hole), hole, nothing, [hole], state=HoleState.BEYOND)
    return entry


def _bridge(gathering: Gathering, entry: Entry | None, span: Span) -> Entry | None:
    """Return the entry, ready for an answer about the span. Where the provider serves the newest candles only, what was
    stored before the span is kept, though what lies between is served no more."""
    if gathering.feed.depth(gathering.series) is None:
        return entry
    return bridge(entry, span, settling=gathering.settling, now_ms=gathering.now_ms, state=HoleState.BEYOND)


def _merge_answer(gathering: Gathering, entry: Entry | None, answer: SpanAnswer) -> Entry | None:
    return gathering.absorb(
        _bridge(gathering, entry, answer.span),
        answer.span,
        answer.candles,
        answer.confirmed,
        remember_ms=FOREVER_MS if gathering.feed.has_empty_bars else gathering.settling.finality.late_rows_ms,
        open_ms=answer.open_ms,
    )


def lock(gathering: Gathering, key: str) -> tuple[bool, bool]:
    """Take the lock, after another process on this cache folder has freed it. Return whether the lock was waited for,
    and whether it is taken: a suspended process is not waited for in the end."""
    if gathering.cache.locks.try_acquire(key):
        return False, True
    timeout_s = _SUSPENDED_S if gathering.halted else _LOCK_S
    is_mine = gathering.cache.locks.acquire(key, gathering.scope, timeout_s)
    gathering.halted = gathering.halted or not is_mine
    return True, is_mine


def look_again(gathering: Gathering, chunks: Sequence[int], *, reads_disk: bool = False) -> dict[int, Entry]:
    """Return what is stored of the chunks, where another thread or process may have stored them since the look-up.

    `reads_disk` reads also the chunks that are found already.
    """
    cache, series = gathering.cache, gathering.series
    if not gathering.policy.refresh:
        missing = [chunk for chunk in chunks if reads_disk or chunk not in gathering.found]
        found = cache.entries.reload(series, missing)
        for chunk, (tier, entry) in found.items():
            gathering.put(chunk, tier, entry)
        if any(tier == "disk" for tier, _ in found.values()):
            cache.facts.reload(series)
    return {chunk: gathering.found[chunk][1] for chunk in chunks if chunk in gathering.found}


def choose_confirm(gathering: Gathering, lacking: Collection[int], last: int) -> None:
    """Note the stored chunk that the request for the newest chunks, up to the last one, reads once more.

    Its newest candles were read soon after their close, and the request has room for them; no request is sent for them
    alone.
    """
    if gathering.policy.refresh or gathering.policy.is_archive_only:
        return
    feed, series, first = gathering.feed, gathering.series, last
    while first - 1 in lacking:
        first -= 1
    before, chunks = chunk_span(gathering.timeframe, first - 1), range(first, last + 1)
    begins = next((ask for chunk in chunks for ask in gathering.asks(chunk) if not ask.again), None)
    ends = next((ask for chunk in chunks[::-1] for ask in gathering.asks(chunk)[::-1] if not ask.again), begins)
    if begins is None or ends is None or begins.span.start_ms != before.end_ms:
        return
    stored = gathering.found.get(first - 1) or gathering.cache.entries.reload(series, [first - 1]).get(first - 1)
    from_ms = None if stored is None else find_unconfirmed(stored[1], gathering.settling)
    if stored is None or from_ms is None or stored[1].covered.end_ms != before.end_ms:
        return
    reach = Span(from_ms, ends.span.end_ms)
    if feed.replies_with_all:
        fits = feed.call(series, reach, 1) == feed.call(series, begins.span, 1)
    else:
        fits = next(windows(feed, series, reach)) == reach
    if fits:
        gathering.put(first - 1, *stored)
        gathering.confirms[first - 1] = from_ms


def _nothing() -> None:
    """Do nothing: a chunk that was only to be confirmed beside another one is left as it is."""
