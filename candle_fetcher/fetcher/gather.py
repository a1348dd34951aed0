"""One series, one span, all of its settled candles: look up, ask for what is missing, store it as it arrives.

The caller's thread tells the story; disk is read and written by the I/O pool, requests go out from the network pool.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from functools import partial

from candle_fetcher.cache import LOOK, CandleCache
from candle_fetcher.concurrency import POLL_S, wait_for
from candle_fetcher.core.candles import Candles, find_holes, iso, no_candles
from candle_fetcher.core.coverage import absorb, bridge
from candle_fetcher.core.entry import UNKNOWN, Entry, HoleState
from candle_fetcher.core.errors import (
    AccessDenied,
    ArchiveMismatch,
    Banned,
    CandleFetcherWarning,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
    UnknownSymbol,
    warn,
)
from candle_fetcher.core.events import Observe, Progress
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS, ask_again_ms
from candle_fetcher.core.facts import EmptySpan, Facts, Failed, News, Unverified
from candle_fetcher.core.files import USUAL_LAGS, File, choose_files
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.plan import (
    CHUNK_SLOTS,
    Ask,
    chunk_of,
    chunk_span,
    chunks_of,
    find_asks,
    find_unconfirmed,
    group_chunks,
)
from candle_fetcher.core.revisions import find_revisions
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span, hull, intersect, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.fetcher.pools import Pools, Timed
from candle_fetcher.fetcher.trip import Fresh, Gathered, Part, Trip, Waiting, Want
from candle_fetcher.sources import Answer, ArchiveSource, AsOf, Errand, SharedChunk, Source, is_denial, windows
from candle_fetcher.store.memory import give_back

_LOAD_AT_ONCE = 16
_CLAIM_S = 60.0  # how long another process's work is waited for: one that is halted holds its claims
_DOUBTED_MS = 60 * DAY_MS  # no clock is believed to be ahead by more
_HALTED_S = 1.0  # once one was waited for in vain
_LANDING_S = 0.005
_MOST_CONTESTS = 5  # how often a span is asked for once more because another process stored other values meanwhile
_NOT_ASKED = HoleState.DUE, HoleState.UNASKED  # holes about which REST was not asked


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
        self._listing_lock = threading.Lock()  # over the claims of one call

    def now_ms(
        self,
        source: Source | ArchiveSource,
        series: Series,
        end_ms: int,
        errand: Errand,
        *,
        ask: bool = True,
        archive: ArchiveSource | None = None,
    ) -> int:
        """The instant of the call: by the provider's clock, or that of its archive, where the end of a range is near,
        which is where it matters; else by this machine's. It is read once.

        Where the clock cannot be had, that of the `archive` serves, else this machine's, to look up what is stored;
        `gather` asks REST for nothing near to it then.
        """
        if errand.as_of is None:
            errand.as_of = AsOf(source.estimated_ms(), self._clock())
        as_of = errand.as_of
        is_near = end_ms > as_of.ms - NEAR_MS or errand.doubts_clock
        if as_of.is_checked or not ask or not is_near or errand.clock_error is not None:
            return as_of.ms
        try:
            errand.as_of = AsOf(source.now_ms(errand, series), self._clock(), is_checked=True)
        except (TransportError, ReplyError, RateLimited, AccessDenied) as error:
            is_denied = archive is not None and is_denial(error)
            if isinstance(error, Banned) or (isinstance(error, AccessDenied) and not is_denied):
                raise
            errand.clock_error = error
            errand.denial = error if is_denied else errand.denial
            if archive is not None:
                with contextlib.suppress(SourceError):
                    errand.as_of = AsOf(archive.now_ms(errand, series), self._clock())
        return errand.as_of.ms

    def gather(self, want: Want, errand: Errand) -> Gathered:
        """Every settled candle of the span, or the spans of it that could not be had and why."""
        doubted = errand.doubts_clock
        told = self._gather(want, errand)
        if not errand.doubts_clock or doubted:
            return told
        # The instant of the call was too late: what is settled is told once more.
        errand.shared.pop(self._share_key(want), None)
        return self._gather(want._replace(refresh=False), errand)

    def _gather(self, want: Want, errand: Errand) -> Gathered:
        series, cache = want.series, self._cache
        timeframe = series.timeframe
        clock = want.archive if want.only_archive and want.archive is not None else want.source
        spare = None if want.only_archive else want.archive
        now_ms = self.now_ms(clock, series, want.span.end_ms, errand, ask=not want.only_cache, archive=spare)
        span = want.span  # what is stored has settled, whatever our clock says
        if not want.only_cache:
            span = span.before(want.source.provider.feed(series.kind).settling(series).end_ms(now_ms))
        if (want.refresh or want.recheck) and not want.only_cache and series.key not in errand.renewed:
            # Once a call: what one piece of a stream learns serves the next one.
            errand.renewed[series.key] = set()
            cache.forget_facts(series)
            cache.drop_frames(series)
        trip = Trip(want, span, now_ms, errand)
        trip.generation = cache.generation(series)
        if not want.only_cache:
            trip.reach_ms = want.source.reach_ms(series, now_ms)
        chunks = chunks_of(timeframe, self._listed(series, span, 0 if want.only_cache else now_ms))
        renewed = errand.renewed.get(series.key, set())
        stored = [chunk for chunk in chunks if chunk in renewed] if want.refresh else chunks
        if stored:
            trip.found = self._load(trip, stored)
            self._take_shared(trip, stored)
            if any(tier == "disk" for tier, _ in trip.found.values()):
                cache.look_up_facts(series)  # another process may have brought them, and known more
        if span.start_ms < trip.reach_ms < span.end_ms + _DOUBTED_MS and self._lacks_older(trip, chunks):
            # Our clock may be ahead by days: before something is given up, the provider's is asked.
            trip.reach_ms = want.source.reach_ms(series, self.now_ms(want.source, series, FOREVER_MS, errand))
        todo = self._missing(trip, chunks)
        slots = len(timeframe.slots(span))
        if todo and want.only_cache:
            trip.failed = [(ask.span, None) for chunk in todo for ask in self._asks(trip, chunk)]
        elif todo:
            trip.slots, trip.done = slots, max(0, slots - CHUNK_SLOTS * len(todo))
            self._observe(Progress("start", want.label, trip.done, slots))
            left = 0  # of a fetch that failed or was interrupted nothing more came
            try:
                self._fetch(trip, todo)
                if want.refresh:
                    renewed.update(chunk for chunk in todo if chunk in trip.found)
                left = 0 if trip.failed else slots - trip.done
            finally:
                self._observe(Progress("end", want.label, left, slots))
        if want.refresh and want.source.provider.feed(series.kind).depth(series) is not None:
            self._take_older(trip, chunks)
        if errand.clock_error is not None and not trip.failed and want.span.end_ms > span.end_ms:
            # By this machine's clock, which nothing has checked, the rest has not settled.
            trip.failed.append((Span(span.end_ms, want.span.end_ms), errand.clock_error))
            trip.span = want.span
        self._leave_shared(trip)
        return self._told(trip)

    def _take_shared(self, trip: Trip, chunks: Sequence[int]) -> None:
        """Add the chunk that the piece before needed too, where it is not stored: it is not asked for again."""
        shared = trip.errand.shared.get(self._share_key(trip.want))
        if shared is not None and shared.chunk in chunks and shared.chunk not in trip.found:
            trip.put(shared.chunk, shared.tier, shared.entry)
            trip.fresh[shared.chunk] = [Fresh(*asked) for asked in shared.spans]

    def _share_key(self, want: Want) -> tuple[Hashable, ...]:
        """Name what a chunk may be shared with: pieces of the same series, out of the same cache and sources."""
        return id(self._cache), want.series.key, want.only_cache, want.only_archive

    def _leave_shared(self, trip: Trip) -> None:
        """Keep the last chunk for the next piece, where it reaches beyond this one."""
        last = max(trip.found, default=None)
        if last is not None and chunk_span(trip.timeframe, last).end_ms > trip.span.end_ms:
            spans = tuple((one.span, one.source) for one in trip.fresh.get(last, ()))
            trip.errand.shared[self._share_key(trip.want)] = SharedChunk(last, *trip.found[last], spans)

    # -- looking up -----------------------------------------------------------------------------------------------

    def _listed(self, series: Series, span: Span, now_ms: int) -> Span:
        """The span without its ends that are known to be empty, by what lies on disk where there are such."""
        bounds = self._cache.facts(series).bounds(span, now_ms)
        return bounds if bounds == span else self._cache.look_up_facts(series).bounds(span, now_ms)

    def _load(self, trip: Trip, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """What is stored of the chunks. A copy in memory that does not answer for all that is wanted of it is read from
        the disk again: another process may have stored more."""
        series, keep = trip.want.series, trip.want.keep
        found: dict[int, tuple[str, Entry]] = {}
        if len(chunks) <= _LOAD_AT_ONCE:
            found = self._cache.load(series, chunks, keep=keep)
        else:
            size = max(_LOAD_AT_ONCE, -(-len(chunks) // (4 * self._pools.sizes["io"])))
            batches = [chunks[at : at + size] for at in range(0, len(chunks), size)]
            for loaded in self._pools.io().map(lambda batch: self._cache.load(series, batch, keep=keep), batches):
                found.update(loaded)
        held = [(chunk, entry) for chunk, (tier, entry) in found.items() if tier == "memory"]
        short = [chunk for chunk, entry in held if self._lacks(trip, chunk, entry)]
        return found | (self._cache.reload(series, short) if short else {})

    def _lacks(self, trip: Trip, chunk: int, entry: Entry) -> bool:
        """Whether something of what is wanted of the chunk is neither stored in the entry nor known to be empty, or is
        to be asked for again."""
        span = chunk_span(trip.timeframe, chunk)
        wanted = span if trip.span.holds(span) else span.clip(trip.span)
        if not entry.holes and entry.covered.holds(wanted) and not trip.want.recheck:
            return False
        known = self._cache.facts(trip.want.series).bounds(wanted, 0 if trip.want.only_cache else trip.now_ms)
        if not entry.covered.holds(known.clip(wanted)):
            return True
        unknown = (hole.span for hole in entry.holes if hole.state in UNKNOWN)
        return any(span.clip(wanted) for span in unknown) or bool(self._asks(trip, chunk, entry))

    def _take_older(self, trip: Trip, chunks: Sequence[int]) -> None:
        """Adds what is stored of before the newest candles, which are all that could be asked for again."""
        for chunk, (tier, entry) in self._load(trip, chunks).items():
            found = trip.found.get(chunk)
            if found is None or entry.covered.holds(found[1].covered):
                trip.put(chunk, tier, entry)

    def _asks(self, trip: Trip, chunk: int, entry: Entry | None = None) -> list[Ask]:
        """What must be asked for before the chunk can answer, given what is stored (or `entry`) and known by now."""
        span = chunk_span(trip.timeframe, chunk)
        settled_ms = trip.settling.end_ms(trip.now_ms)
        held_ms = trip.feed.held_back_ms(trip.want.series)
        if held_ms:
            settled_ms = min(settled_ms, max(trip.span.end_ms, trip.settling.end_ms(trip.now_ms - held_ms)))
        # Where nobody may be asked, what is stored is believed however old the word is.
        asked_at_ms = 0 if trip.want.only_cache else trip.now_ms
        served = span.after(trip.reach_ms).before(settled_ms)
        bounds = self._cache.facts(trip.want.series).bounds(served, asked_at_ms)
        found = trip.found.get(chunk)
        if entry is None and found is not None:
            entry = found[1]
        asks = find_asks(
            entry,
            span,
            trip.span,
            bounds,
            settling=trip.settling,
            now_ms=asked_at_ms,
            ttl_ms=None if trip.want.only_cache else trip.want.ttl_ms,
            recheck=trip.want.recheck and chunk not in trip.answered,
            remembers=trip.feed.quiet_rows,
            serves_all=not trip.want.only_cache and trip.feed.depth(trip.want.series) is None,
        )
        if not asks and chunk in trip.confirm and chunk not in trip.answered:
            asks.append(Ask(Span(span.end_ms, span.end_ms), from_ms=trip.confirm[chunk]))
        return asks

    def _lacks_older(self, trip: Trip, chunks: Sequence[int]) -> bool:
        """Whether something is missing that opens before what the provider serves."""
        reach_ms, trip.reach_ms = trip.reach_ms, -FOREVER_MS
        lacking = [ask.span for chunk in chunks for ask in self._asks(trip, chunk)]
        trip.reach_ms = reach_ms
        return any(span.clip(trip.span).start_ms < reach_ms for span in lacking if span.clip(trip.span))

    def _missing(self, trip: Trip, chunks: Sequence[int]) -> list[int]:
        return [chunk for chunk in chunks if not _is_final(trip, chunk) and self._asks(trip, chunk)]

    def _is_within_reach(self, trip: Trip, chunks: Sequence[int]) -> bool:
        """Whether REST may be asked for anything that the chunks lack."""
        if trip.want.only_archive or trip.errand.denial is not None:
            return False
        return any(ask.span.start_ms < trip.reach_end_ms for chunk in chunks for ask in self._asks(trip, chunk))

    # -- asking -----------------------------------------------------------------------------------------------------

    def _fetch(self, trip: Trip, todo: list[int]) -> None:
        """Fills the chunks. Sends nothing more once the caller is interrupted or an error is final."""
        source, series = trip.want.source, trip.want.series
        self._confirm_before(trip, todo)
        if trip.feed.is_whole:
            self._see(trip, todo)  # the reply to the first question serves all of them
        self._cache.open_shelves(series, [*trip.confirm, *todo])
        try:
            # The limits before the burst; and the two ends, which tell where the series begins and ends.
            asks_rest = self._is_within_reach(trip, todo)
            opening = {todo[0], todo[-1]} if asks_rest and self._ends_unknown(trip, todo) else set()
            jobs = [lambda: source.learn_limits(series.symbol, trip.errand)]
            if source.limits_known or not asks_rest:
                jobs = []
            if opening or jobs:
                self._run(trip, sorted(opening), jobs)
            if opening:
                self._learn_end(trip, todo[-1])
            rest = [chunk for chunk in self._missing(trip, todo) if chunk not in opening and self._is_due(trip, chunk)]
            files = self._choose_files(trip, rest)
            self._run(trip, rest, [], files)
            if trip.want.only_archive:
                # Days serve where a month's file is late or no good, or has holes: nobody else has the last word.
                files = self._choose_files(trip, rest, {file.path for file in files}, holes=True)
                if files:
                    self._run(trip, self._missing(trip, rest), [], files)
                lacking = [ask.span for chunk in rest for ask in self._asks(trip, chunk) if not ask.again]
                trip.failed += [(span, trip.trouble(span)) for span in lacking]
            else:
                self._turn_to_archive(trip, todo, files)
                self._check_claim(trip, todo)
                if not opening:
                    self._learn_end(trip, todo[-1])
            self._note_unanswered(trip, todo)
            self._settle_contested(trip)
        except BaseException:
            trip.errand.set()
            self._abort(trip.errand)
            raise
        finally:
            wait(trip.saves)
            kept = {file: read for file, read in trip.errand.kept.items() if file.span.end_ms > trip.span.end_ms}
            trip.errand.kept = {**kept, **trip.kept}
            self._learn_facts(trip)
            if trip.claimed_ms is not None:
                self._cache.forget_claims(series)  # nothing bore it out: the next call asks by itself
            if trip.read_until_ms:
                give_back()  # what files were unpacked with, before the candles are joined
            self._cache.close_shelves(series, {chunk: self._believed_until(trip, chunk) for chunk in trip.filled})

    def _learn_facts(self, trip: Trip) -> None:
        """Remembers what cannot be read off the entries: what failed, and how late files come."""
        series, now_ms, cache = trip.want.series, trip.now_ms, self._cache
        failed = [Failed(span, str(error), now_ms) for span, error in trip.failed if error is not None]
        if failed or cache.look_up_facts(series).failed:
            filled = [trip.found[chunk][1].covered for chunk in trip.filled]
            cache.learn(series, News(filled=filled, failed=failed), now_ms)
        lags = cache.lags(series) if trip.absent or trip.published else USUAL_LAGS
        if trip.absent:
            cache.learn(series, News(absent=trip.absent), now_ms)
        learned = lags
        for file, published_ms in sorted(trip.published, key=lambda one: one[0].span):
            learned = learned.found(file, published_ms)
        for file in trip.absent:
            learned = learned.missed(file, now_ms)
        if learned != lags:
            cache.learn_lags(series, learned)

    def _ends_unknown(self, trip: Trip, todo: list[int]) -> bool:
        facts = self._cache.facts(trip.want.series)
        older = any(entry.candles.count for chunk, (_, entry) in trip.found.items() if chunk < todo[0])
        return len(todo) > 1 and facts.first_ms is None and not older

    def _turn_to_archive(self, trip: Trip, todo: Sequence[int], files: Sequence[File]) -> None:
        """Read from the archive's files what REST failed to give, at any cost: days too, where a month's file has
        holes. REST is not asked again for those chunks."""
        if trip.want.archive is None:
            return
        tried = {file.path for file in files}
        for holes in (False, True):
            trip.refused = {
                chunk: error
                for span, error in trip.failed
                if error is not None
                for chunk in chunks_of(trip.timeframe, span)
            }
            chunks = [chunk for chunk in todo if chunk in trip.refused]
            more = self._choose_files(trip, chunks, tried, forced=True, holes=holes)
            if not more:
                continue
            trip.forced = True
            trip.replaced = trip.replaced or trip.refused[chunks[0]]
            tried |= {file.path for file in more}
            trip.failed = [
                one for one in trip.failed if trip.refused.keys().isdisjoint(chunks_of(trip.timeframe, one[0]))
            ]
            self._run(trip, chunks, [], more)

    @staticmethod
    def _is_due(trip: Trip, chunk: int) -> bool:
        """Whether the chunk is to be asked for: one that ends before the series is said to begin is not for now."""
        return trip.claimed_ms is None or chunk >= chunk_of(trip.timeframe, trip.claimed_ms)

    def _check_claim(self, trip: Trip, todo: Sequence[int]) -> None:
        """Make sure of when the series begins; else what was taken to lie before could not be had."""
        claimed_ms = trip.claimed_ms or 0
        try:
            self._confirm_listing(trip)
        except Banned:
            raise
        except SourceError as error:
            trip.refuted = claimed_ms, error
        if trip.refuted is not None:
            first_ms, why = trip.refuted
            lacking = [ask.span for chunk in todo for ask in self._asks(trip, chunk) if ask.span.start_ms < first_ms]
            trip.failed += [(span, why) for span in lacking]

    def _note_unanswered(self, trip: Trip, todo: Sequence[int]) -> None:
        """What nobody answered for, and nobody failed to, is no gap."""
        for chunk in todo:
            if chunk not in trip.found and chunk not in trip.answered:
                lost = [ask.span for ask in self._asks(trip, chunk)]
                trip.failed += [(span, None) for span in lost if not any(span.clip(other) for other, _ in trip.failed)]

    def _choose_files(
        self,
        trip: Trip,
        chunks: Sequence[int],
        tried: Collection[str] = (),
        *,
        forced: bool = False,
        holes: bool = False,
    ) -> list[File]:
        """The archive's files that bring what the chunks lack at less cost than REST, or at any where it is `forced`;
        none of those `tried`. `holes` looks for what files had not, too."""
        want = trip.want
        forced = forced or want.only_archive
        asks = [ask._replace(again=ask.again and not holes) for chunk in chunks for ask in self._asks(trip, chunk)]
        if forced:
            asks = [ask._replace(span=ask.span.clip(trip.span)) for ask in asks]
        return find_files(
            want.source, want.archive, want.series, self._cache, asks, trip.now_ms, tried=tried, forced=forced
        )

    def _read(self, trip: Trip, file: File) -> None:
        """Reads a file and lays its candles out for the chunks that they belong to."""
        archive, series = trip.want.archive, trip.want.series
        assert archive is not None
        try:
            read = trip.errand.kept.get(file) or archive.read(series, file, trip.errand, self._pools.files())
        except SourceError as error:
            if isinstance(error, AccessDenied) and trip.want.only_archive:
                raise
            trip.unread.append((file, error))  # REST is asked instead
            return
        if file.span.end_ms > trip.span.end_ms:
            trip.kept[file] = read
        if read.trouble == "absent":
            trip.absent.append(file)
        elif read.error is not None:
            trip.rejected.append(file.path)
            trip.unread.append((file, read.error))
        if read.candles is None:
            return
        trip.read_until_ms.append(file.span.end_ms)
        if not read.verified:
            trip.unverified.append(file)
        if read.published_ms is not None:
            trip.published.append((file, read.published_ms))
        candles, whole = read.candles, file.span
        if read.published_ms is not None and read.published_ms >= file.span.end_ms:
            # The last candle of a month may end after it, and after the file was made.
            candles = trip.settling.settled(read.candles, read.published_ms)
            if candles.count < read.candles.count:
                first_ms = int(read.candles.open_ms[candles.count])
                whole = Span(whole.start_ms, trip.timeframe.floor_ms(first_ms))
        for chunk in chunks_of(trip.timeframe, whole):
            for span in subtract(chunk_span(trip.timeframe, chunk).clip(whole), file.disputed):
                trip.pieces.setdefault(chunk, []).append((span, candles.trim(span)))

    def _bring(self, trip: Trip, file: File, waiting: Waiting) -> tuple[list[int], list[int]]:
        """Reads a file and stores what it completes. Returns the chunks that no other file is waited for, and those of
        them that are still to be filled."""
        claim, touched = f"{trip.want.series.key}|file|{file.path}", waiting.touched[file]
        save = None
        waited, is_mine = self._claim(trip, claim)
        try:
            self._look_again(trip, touched, anew=waited)
            lacks = any(ask.span.clip(file.span) for chunk in touched for ask in self._asks(trip, chunk))
            if lacks and (trip.forced or file in self._choose_files(trip, touched)):
                self._see(trip, touched)
                self._read(trip, file)
            ready = waiting.came(file)
            left, save = self._lay_out(trip, ready)
            return ready, left
        finally:
            # Whoever waits for the file finds what it brought stored.
            if not is_mine:
                pass
            elif save is None:
                self._cache.unclaim(claim)
            else:
                save.add_done_callback(lambda _: self._cache.unclaim(claim))

    def _run(
        self, trip: Trip, chunks: Sequence[int], jobs: Sequence[Callable[[], None]], files: Sequence[File] = ()
    ) -> None:
        """Does the jobs, reads the files, and fills the chunks; a chunk when the files that it lies in have been
        read."""
        done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]] = queue.SimpleQueue()
        pool = self._pools.network()
        waiting = Waiting(trip.timeframe, chunks, files)
        unfilled: dict[File, list[int]] = {}

        def work(what: int | File | None, job: Callable[[], None]) -> None:
            with Timed(self._observe, "network"):
                try:
                    job()
                except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                    done.put((what, error))
                else:
                    done.put((what, None))

        def fill(some: Sequence[int]) -> None:
            def fill_all() -> None:
                for chunk, job in self._jobs(trip, some):
                    work(chunk, job)

            futures.append(pool.submit(fill_all))

        def read(file: File) -> None:
            ready, unfilled[file] = self._bring(trip, file, waiting)
            for chunk in set(ready).difference(unfilled[file]):
                done.put((chunk, None))

        futures = [pool.submit(work, None, job) for job in jobs]
        futures += [pool.submit(work, file, partial(read, file)) for file in files]
        confirmed = 0
        for some in group_chunks(waiting.for_none, trip.feed.limit // CHUNK_SLOTS):
            before = [chunk for chunk in trip.confirm if chunk + 1 == some[0] and chunk not in trip.answered]
            confirmed += len(before)
            fill([*before, *some])
        try:
            for _ in range(len(jobs) + len(files) + len(chunks) + confirmed):
                what, error = _next(done, trip.errand)
                if error is not None:
                    self._note(trip, what, error)
                elif isinstance(what, int) and what not in trip.confirm:
                    step = min(CHUNK_SLOTS, trip.slots - trip.done)
                    trip.done += step
                    self._observe(Progress("advance", trip.want.label, step, trip.slots))
                if isinstance(what, File):
                    for chunk in unfilled[what]:
                        fill([chunk])
        except BaseException:
            trip.errand.set()
            for future in futures:
                future.cancel()
            raise

    def _confirm_before(self, trip: Trip, todo: Sequence[int]) -> None:
        """Notes what is to be read once more of the chunk before those to ask for, where the same call has room for it:
        its newest candles were read soon after their close. No request is sent for it alone."""
        feed, series, first = trip.feed, trip.want.series, todo[-1]
        while first - 1 in todo:
            first -= 1
        asks = [ask for chunk in range(first, todo[-1] + 1) for ask in self._asks(trip, chunk) if not ask.again]
        if trip.want.refresh or trip.want.only_archive or not asks:
            return
        before = chunk_span(trip.timeframe, first - 1)
        if asks[0].span.start_ms != before.end_ms:
            return
        stored = trip.found.get(first - 1) or self._cache.reload(series, [first - 1]).get(first - 1)
        from_ms = None if stored is None else find_unconfirmed(stored[1], trip.settling)
        if stored is None or from_ms is None or stored[1].covered.end_ms != before.end_ms:
            return
        reach = Span(from_ms, asks[-1].span.end_ms)
        if feed.is_whole:
            fits = feed.call(series, reach, 1) == feed.call(series, asks[0].span, 1)
        else:
            fits = next(windows(feed, series, reach)) == reach
        if fits:
            trip.put(first - 1, *stored)
            trip.confirm[first - 1] = from_ms

    def _jobs(self, trip: Trip, chunks: Sequence[int]) -> Iterator[tuple[int, Callable[[], None]]]:
        """What fills the chunks, one by one. Of those that one call may bring nobody else asks for one meanwhile."""
        cache, series = self._cache, trip.want.series
        if len(chunks) < 2 or trip.feed.is_whole:
            yield from ((chunk, partial(self._fill, trip, chunk)) for chunk in chunks)
            return
        flights: dict[int, Future[Entry | None]] = {}

        def fly(chunk: int, within: Span | None) -> None:
            self._fly(trip, chunk, flights.pop(chunk), within, is_claimed=True)

        try:
            claimed = self._start(series, chunks, flights)
            self._see(trip, claimed)
            within = self._span_of(trip, claimed)
            for chunk in claimed:
                is_alone = chunk in trip.confirm and chunk + 1 not in claimed
                yield chunk, _nothing if is_alone else partial(fly, chunk, within)
        finally:
            for chunk, flight in flights.items():
                cache.finish_chunk(series, chunk)
                flight.set_exception(CancelledError())  # whoever waits for it may have it
        for chunk in chunks:
            if chunk not in claimed:
                yield chunk, _nothing if chunk in trip.confirm else partial(self._fill, trip, chunk)

    def _start(self, series: Series, chunks: Sequence[int], flights: dict[int, Future[Entry | None]]) -> list[int]:
        """Puts those of the chunks that no thread is at into `flights`, for the caller to land whatever happens.

        Returns those of them that no other process is at either; they are claimed now.
        """
        for chunk in chunks:
            is_mine, flight = self._cache.start_chunk(series, chunk)
            if is_mine:
                flights[chunk] = flight
        return [chunk for chunk in flights if self._cache.claim(f"{series.key}|{chunk}")]

    def _span_of(self, trip: Trip, chunks: Sequence[int]) -> Span | None:
        """What the chunks lack together, where one call may bring it."""
        spans = [ask.reach for chunk in chunks for ask in self._asks(trip, chunk) if not ask.again]
        return hull(spans).before(trip.reach_end_ms) if spans else None

    def _note(self, trip: Trip, chunk: int | File | None, error: BaseException) -> None:
        """Keep an error of one chunk; raise one that ends the call.

        A denial ends the asking of REST where the archive may serve. Where the chunk has all that is wanted of it, its
        error is that of a question beside the candles, such as when the series was listed.
        """
        if trip.may_replace and is_denial(error):
            assert isinstance(error, SourceError)
            trip.errand.denial = trip.errand.denial or error
            lacking = self._asks(trip, chunk) if isinstance(chunk, int) else []
        elif not isinstance(chunk, int) or not isinstance(error, SourceError) or isinstance(error, Banned):
            raise error
        else:
            lacking = self._asks(trip, chunk)
            if lacking and not isinstance(error, TransportError | ReplyError | RateLimited):
                raise error
        trip.failed += [(ask.span, error) for ask in lacking if ask.span]

    def _fill(self, trip: Trip, chunk: int) -> None:
        """Brings one chunk up to date; where another thread is at it already, waits for that one's entry."""
        cache, series = self._cache, trip.want.series
        while True:
            if trip.errand.is_set():
                raise CancelledError
            mine, flight = cache.start_chunk(series, chunk)
            if mine:
                self._fly(trip, chunk, flight)
                return
            try:
                entry = _result(flight, trip.errand)
            except CancelledError:
                entry = None  # whoever was at it was interrupted; it is our turn
            if not trip.want.refresh:  # else it may have asked for a part only, or before we were asked
                if entry is not None:
                    trip.put(chunk, "memory", entry)
                if not self._asks(trip, chunk):
                    return
            trip.errand.wait(_LANDING_S)  # what that one brought may still be on its way to the store

    def _bridged(self, trip: Trip, entry: Entry | None, span: Span) -> Entry | None:
        """The entry, ready for an answer about the span; where the provider serves the newest candles alone, what was
        stored before it is kept, though what lies between cannot be had any more."""
        if trip.feed.depth(trip.want.series) is None:
            return entry
        return bridge(entry, span, settling=trip.settling, now_ms=trip.now_ms, state=HoleState.BEYOND)

    def _without_older(self, trip: Trip, entry: Entry | None, asked: Span) -> Entry | None:
        """The entry, which knows what of the span the provider does not serve any more; it never will again."""
        if trip.want.refresh:
            return entry  # what is stored has not been looked at, and may hold it
        older = asked.before(trip.served_ms)
        if not older or (entry is not None and older.end_ms < entry.covered.start_ms):
            return entry
        for hole in subtract(older, [] if entry is None else [entry.covered]):
            entry = absorb(
                self._bridged(trip, entry, hole),
                hole,
                no_candles(trip.feed.columns),
                [hole],
                settling=trip.settling,
                now_ms=trip.now_ms,
                state=HoleState.BEYOND,
            )
        return entry

    def _fly(
        self,
        trip: Trip,
        chunk: int,
        flight: Future[Entry | None],
        within: Span | None = None,
        *,
        is_claimed: bool = False,
    ) -> None:
        """Brings the chunk up to date, which is in flight; `within` is what is to be asked for at once with it."""
        want, cache = trip.want, self._cache
        before: Entry | None = None
        entry: Entry | None = None
        refusal: SourceError | None = None
        try:
            try:
                waited = not is_claimed and self._claim(trip, f"{want.series.key}|{chunk}")[0]
                before = entry = self._look_again(trip, [chunk], anew=waited).get(chunk)
                self._see(trip, [chunk])
                entry, fresh = self._laid_out(trip, chunk, entry)
                trip.fresh.setdefault(chunk, []).extend(fresh)
                asks = [] if want.only_archive else self._asks(trip, chunk, entry)
                refusal = trip.errand.denial or trip.refused.get(chunk)
                if asks and refusal is not None:
                    raise refusal
                for ask in asks:
                    near = ask._replace(span=ask.span.before(trip.reach_end_ms))
                    for answer in self._answers(trip, near, entry, within):
                        if answer.error is not None and entry is not None and not answer.span.touches(entry.covered):
                            raise answer.error  # what is stored would be given up for this
                        entry = self._absorbed(trip, entry, answer)
                        trip.fresh.setdefault(chunk, []).append(Fresh(answer.span, "rest"))
                        if answer.error is not None:
                            raise answer.error
                    entry = self._without_older(trip, entry, near.span)
                refusal = trip.errand.clock_error
                if refusal is not None and any(ask.span.end_ms > trip.reach_end_ms for ask in asks):
                    raise refusal
                trip.answered.add(chunk)
            finally:
                if entry is not None and entry is not before:
                    self._keep(trip, {chunk: entry})
                else:
                    cache.finish_chunk(want.series, chunk)
            flight.set_result(entry)
        except BaseException as error:
            # An error of another request than this call's own: another call may have better luck with its own.
            is_own = isinstance(error, SourceError) and error is not refusal
            flight.set_exception(error if is_own else CancelledError())
            raise

    def _claim(self, trip: Trip, key: str) -> tuple[bool, bool]:
        """Takes the claim, after whoever on this cache folder is at it; whether that took waiting, and whether it is
        taken: one who is halted is not waited for in the end."""
        if self._cache.claim(key):
            return False, True
        is_mine = self._cache.await_claim(key, trip.errand, _HALTED_S if trip.halted else _CLAIM_S)
        trip.halted = trip.halted or not is_mine
        return True, is_mine

    def _lay_out(self, trip: Trip, chunks: Sequence[int]) -> tuple[list[int], Future[None] | None]:
        """Fills the chunks that the archive's files brought whole; returns the others, and the storing of these."""
        cache, series = self._cache, trip.want.series
        flights: dict[int, Future[Entry | None]] = {}
        whole: dict[int, Entry] = {}
        try:
            claimed = self._start(series, chunks, flights)
            found = self._look_again(trip, claimed)
            self._see(trip, claimed)
            for chunk in claimed:
                entry, fresh = self._laid_out(trip, chunk, found.get(chunk))
                if entry is not None and fresh and not self._asks(trip, chunk, entry):
                    whole[chunk] = entry
                    trip.fresh.setdefault(chunk, []).extend(fresh)
        finally:
            for chunk in flights.keys() - whole.keys():
                cache.finish_chunk(series, chunk)
                flights[chunk].set_exception(CancelledError())  # whoever waits for it may have it
        try:
            save = self._keep(trip, whole) if whole else None
        except BaseException:
            for chunk in whole:
                flights[chunk].set_exception(CancelledError())
            raise
        for chunk, entry in whole.items():
            flights[chunk].set_result(entry)
        return [chunk for chunk in chunks if chunk not in whole], save

    def _look_again(self, trip: Trip, chunks: Sequence[int], *, anew: bool = False) -> dict[int, Entry]:
        """What is stored of the chunks, where somebody has brought it since we looked; `anew` reads what we know too,
        from the disk."""
        if not trip.want.refresh:
            missing = [chunk for chunk in chunks if anew or chunk not in trip.found]
            found = self._cache.reload(trip.want.series, missing)
            for chunk, (tier, entry) in found.items():
                trip.put(chunk, tier, entry)
            if any(tier == "disk" for tier, _ in found.values()):
                self._cache.look_up_facts(trip.want.series)
        return {chunk: trip.found[chunk][1] for chunk in chunks if chunk in trip.found}

    def _see(self, trip: Trip, chunks: Sequence[int]) -> None:
        """Notes what is stored of the chunks, before a source is asked about them; what is noted already stays, for a
        reply may serve several chunks."""
        new = [chunk for chunk in chunks if chunk not in trip.seen]
        stored = self._cache.read_stored(trip.want.series, new) if trip.want.refresh and new else trip.found
        for chunk in new:
            trip.seen[chunk] = stored[chunk][1] if chunk in stored else None

    def _laid_out(self, trip: Trip, chunk: int, entry: Entry | None) -> tuple[Entry | None, list[Fresh]]:
        """The entry with what the archive's files have of the rest of the chunk, and what that is. Their holes are due
        at once: REST has the last word."""
        facts = self._cache.facts(trip.want.series)
        pieces = sorted(trip.pieces.get(chunk, ()), key=lambda piece: piece[0])
        inner = [(inside, candles) for span, candles in pieces if (inside := facts.bounds(span, trip.now_ms))]
        fresh: list[Fresh] = []
        for hole in [] if entry is None else [hole for hole in entry.holes if hole.state in _NOT_ASKED]:
            for span, candles in inner:
                part = span.clip(hole.span)
                # A day's file may have what the month's had not.
                if part and (hole.state is HoleState.UNASKED or candles.trim(part).count):
                    entry = self._laid_in(trip, entry, part, candles)
                    fresh.append(Fresh(part, "archive"))
        if entry is None and inner:
            # An entry covers one span: that run of files which has most of what is wanted.
            runs = merge(span for span, _ in inner)
            best = max(runs, key=lambda run: run.clip(trip.span).end_ms - run.clip(trip.span).start_ms)
            inner = [piece for piece in inner if best.holds(piece[0])]
        from_ms = None if entry is None else find_unconfirmed(entry, trip.settling)
        while True:
            covered = None if entry is None else entry.covered
            # What does not touch it is left out.
            at = next((at for at, (span, _) in enumerate(inner) if covered is None or span.touches(covered)), None)
            if at is None:
                return entry, fresh
            span, candles = inner.pop(at)
            if covered is not None and from_ms is not None and span.end_ms > covered.end_ms:
                covered = Span(covered.start_ms, from_ms)  # what was read soon after its close is read once more
            for part in [span] if covered is None else subtract(span, [covered]):
                entry = self._laid_in(trip, entry, part, candles)
                fresh.append(Fresh(part, "archive"))

    def _laid_in(self, trip: Trip, entry: Entry | None, span: Span, candles: Candles) -> Entry | None:
        found = candles.trim(span)
        holes = find_holes(found.open_ms, trip.timeframe, span)
        return absorb(
            entry,
            span,
            found,
            holes,
            settling=trip.settling,
            now_ms=trip.now_ms,
            state=HoleState.DUE,
        )

    def _answers(self, trip: Trip, ask: Ask, entry: Entry | None, within: Span | None) -> Iterator[Answer]:
        """The source's answers to an ask, call by call, so that what has come is kept whichever call fails."""
        source, series = trip.want.source, trip.want.series
        pieces = list(windows(trip.feed, series, ask.reach)) if ask.reach else []
        # What a file has not before its first candle may lie before the listing: only a first look finds that out.
        is_first = (
            self._cache.facts(series).first_ms is None
            and entry is not None
            and not entry.candles.trim(ALL_TIME.before(ask.span.start_ms)).count
            and any(hole.state is HoleState.DUE and hole.span.start_ms == ask.span.start_ms for hole in entry.holes)
        )
        if entry is not None and ask.span.end_ms <= entry.covered.start_ms:
            pieces.reverse()  # what is covered stays one span
        for window in pieces:
            # A piece before may have told where the series begins.
            piece = self._cache.facts(series).bounds(window, trip.now_ms)
            if piece:
                answer = source.look(
                    series,
                    piece,
                    again=ask.again and not is_first,
                    listed_ms=lambda hole, seen_ms: self._listed_ms(trip, hole, seen_ms),
                    stop=trip.errand,
                    within=within if within is not None and within.holds(piece) and not ask.again else None,
                )
                trip.served_from(answer.served_ms)
                if answer.span:
                    yield answer

    def _keep(self, trip: Trip, filled: Mapping[int, Entry]) -> Future[None]:
        """Goes on with the filled entries, and has them stored."""
        for chunk, entry in filled.items():
            trip.put(chunk, trip.found[chunk][0] if chunk in trip.found else "rest", entry)
            trip.pieces.pop(chunk, None)
        trip.filled.extend(filled)
        try:
            save = self._pools.io().submit(self._save, trip, filled)
        except BaseException:
            for chunk in filled:
                self._cache.finish_chunk(trip.want.series, chunk)
            raise
        trip.saves.append(save)
        return save

    def _save(self, trip: Trip, filled: Mapping[int, Entry]) -> None:
        """Stores the filled entries, whose chunks are in flight."""
        with Timed(self._observe, "io"):
            try:
                self._store(trip, filled)
            finally:
                for chunk in filled:
                    self._cache.finish_chunk(trip.want.series, chunk)

    def _store(self, trip: Trip, filled: Mapping[int, Entry]) -> None:
        """Merges the filled entries into what is stored of the chunks by now, and goes on with what is stored then."""
        series, cache = trip.want.series, self._cache
        seen = {chunk: trip.seen.pop(chunk, None) for chunk in filled}
        until: dict[int, float | None] = {}
        merged: dict[int, Merged] = {}
        stale: list[int] = []

        def change(stored: dict[int, Entry]) -> dict[int, Merged]:
            for chunk, entry in filled.items():
                merged[chunk] = self._merged(trip, chunk, stored.get(chunk), entry, seen[chunk])
                until[chunk] = self._stale_s(trip, chunk, merged[chunk].entry)
            olds = [one for one in seen.values() if one is not None]
            self._learn_unverified(trip, merged, [*olds, *stored.values()])
            for chunk, old in stored.items():
                new = merged[chunk].entry._replace(stored_ms=filled[chunk].stored_ms)
                cache.note(series, find_revisions(old, new))
                if not new.candles.trim(old.covered).equals(old.candles):
                    stale.append(chunk)
            return merged

        saved, _ = cache.update(series, list(filled), change, until, keep=trip.want.keep)
        if stale:
            cache.drop_frames(series)  # they may hold what is not stored any more
        for chunk, entry in filled.items():
            trip.contested += [(chunk, span) for span in merged[chunk].contested]
            # What a refresh has not asked for again is not a part of its answer.
            if not trip.want.refresh or merged[chunk].entry is entry:
                trip.share(chunk, entry, saved[chunk])

    def _settle_contested(self, trip: Trip) -> None:
        """Asks once more for what another process has stored with other values while the source was asked: nothing
        tells which of the two answers is newer. What stays contested counts as failed."""
        pool = self._pools.network()
        for _ in range(_MOST_CONTESTS):
            wait(trip.saves)
            contested: dict[int, list[Span]] = {}
            for chunk, span in trip.contested:
                contested.setdefault(chunk, []).append(span)
            if not contested:
                return
            trip.contested = []
            asked = [pool.submit(self._ask_once_more, trip, chunk, spans) for chunk, spans in contested.items()]
            wait_for(asked, trip.errand)
            for one in asked:
                one.result()
        trip.failed += [(span, None) for _, span in trip.contested]

    def _ask_once_more(self, trip: Trip, chunk: int, spans: Sequence[Span]) -> None:
        """Asks for contested spans of the chunk and stores the answers. No claim is needed: what another process stores
        meanwhile is found out again."""
        with Timed(self._observe, "network"):
            for span in spans:
                stored = self._cache.read_stored(trip.want.series, [chunk])
                seen = trip.seen[chunk] = stored[chunk][1] if chunk in stored else None
                try:
                    entry = self._answer_anew(trip, None if trip.want.refresh else seen, span)
                except (TransportError, ReplyError, RateLimited) as error:
                    if isinstance(error, Banned):
                        raise
                    trip.failed.append((span, error))
                    continue
                if entry is None:
                    continue
                trip.fresh.setdefault(chunk, []).append(Fresh(span, "rest"))
                tier, mine = trip.found[chunk]
                trip.put(chunk, tier, merge_entries(mine, entry, [span], timeframe=trip.timeframe, seen=mine).entry)
                self._store(trip, {chunk: entry})

    def _answer_anew(self, trip: Trip, entry: Entry | None, span: Span) -> Entry | None:
        """The entry with the source's answers about the span, by requests that are sent now."""
        series = trip.want.series
        for window in windows(trip.feed, series, span):
            answer = trip.want.source.look(
                series,
                window,
                again=False,
                listed_ms=lambda hole, seen_ms: self._listed_ms(trip, hole, seen_ms),
                stop=trip.errand,
                anew=True,
            )
            if answer.error is not None:
                raise answer.error
            if answer.span:
                entry = self._absorbed(trip, entry, answer)
        return entry

    def _absorbed(self, trip: Trip, entry: Entry | None, answer: Answer) -> Entry | None:
        return absorb(
            self._bridged(trip, entry, answer.span),
            answer.span,
            answer.candles,
            answer.believed,
            settling=trip.settling,
            now_ms=trip.now_ms,
            remember_ms=FOREVER_MS if trip.feed.quiet_rows else trip.settling.finality.late_ms,
            open_ms=answer.open_ms,
        )

    def _merged(self, trip: Trip, chunk: int, stored: Entry | None, entry: Entry, seen: Entry | None) -> Merged:
        """The entry merged into what is stored now. A file of the archive fills in what is missing; only a refresh
        takes its candles in place of stored ones."""
        fresh = trip.fresh.get(chunk, ())
        answered = [one.span for one in fresh if one.source != "archive" or trip.want.refresh]
        lacking = [] if stored is None else [hole.span for hole in stored.holes if hole.state is HoleState.DUE]
        answered += [part for one in fresh for hole in lacking if (part := one.span.clip(hole))]
        between = HoleState.UNASKED if trip.feed.depth(trip.want.series) is None else HoleState.BEYOND
        merged = merge_entries(stored, entry, answered, timeframe=trip.timeframe, seen=seen, between=between)
        if not merged.contested:
            return merged
        by_rest = [one.span for one in fresh if one.source != "archive"]
        return merged._replace(contested=tuple(intersect(merged.contested, by_rest)))

    def _stale_s(self, trip: Trip, chunk: int, entry: Entry) -> float | None:
        """Until when the entry may stay in memory (s, by this machine's clock); None is for good."""
        if entry.covered.end_ms >= chunk_span(trip.timeframe, chunk).end_ms:
            return None
        # Beyond this another process may have stored a newer one; the disk is looked at again.
        edge_ms = trip.settling.edge_until_ms(entry.covered.end_ms, trip.now_ms, trip.want.ttl_ms)
        return min(self._clock(), trip.wall_s) + (edge_ms - trip.now_ms) / 1000

    def _learn_unverified(self, trip: Trip, merged: Mapping[int, Merged], olds: Sequence[Entry]) -> None:
        """Notes which candles of the merged entries have no checksum; `olds` are the entries that were there before."""
        came = [
            one._replace(span=part)
            for chunk, result in merged.items()
            for one in trip.fresh.get(chunk, ())
            for span in result.replaced
            if (part := one.span.clip(span))
        ]
        parts = [
            Unverified(part, file.path)
            for file in trip.unverified
            for one in came
            if one.source == "archive" and (part := one.span.clip(file.span))
        ]
        if parts or self._cache.facts_about(trip.want.series, olds).unverified:
            had = [one.span for one in came]
            self._cache.look_up_facts(trip.want.series)
            self._cache.facts_about(trip.want.series, olds)
            self._cache.learn(trip.want.series, News(replaced=had, unverified=parts), trip.now_ms)

    # -- where the series begins and ends ---------------------------------------------------------------------------

    def first_ms(self, source: Source, series: Series, errand: Errand) -> int | None:
        """When the first candle of the series opens; remembered."""
        want = Want(source, series, Span(0, 0))
        now_ms = self.now_ms(source, series, FOREVER_MS, errand)
        trip = Trip(want, want.span, now_ms, errand)
        first_ms = self._listed_ms(trip, Span(0, 1), None)
        self._confirm_listing(trip)
        return first_ms

    def first_published_ms(self, archive: ArchiveSource, series: Series, errand: Errand) -> int | None:
        """When the first candle that the archive has of the series opens; None where it lists none. Not remembered."""
        return archive.first_ms(series, errand, self._pools.files())

    def _listed_ms(self, trip: Trip, hole: Span, seen_ms: int | None) -> int | None:
        """When the first candle opens, asked once a series: a hole at the start of a chunk may lie before the listing.

        `seen_ms` is a candle of the series at hand. What is said to begin later than a candle that is at hand or stored
        contradicts it, which is a ReplyError. What one reply alone says is noted in `trip.claimed_ms`, and remembered
        once another one bears it out; see `_confirm_listing`.
        """
        series, cache = trip.want.series, self._cache
        feed = trip.feed
        with self._listing_lock:
            known_ms = cache.facts(series).first_ms
            is_news = known_ms is None or (seen_ms is not None and known_ms > seen_ms)
            first_ms = self._ask_listing(trip, hole, seen_ms) if is_news else known_ms
            if first_ms is None:
                # A symbol that is to be traded soon has its first candle at any moment.
                end_ms = max(hole.end_ms, trip.settling.end_ms(trip.now_ms))
                nothing = EmptySpan(ALL_TIME.before(end_ms), "not_listed", trip.now_ms)
                cache.learn(series, News(empty=nothing), trip.now_ms)
            elif is_news and feed.first_call is not None and first_ms != seen_ms:
                trip.claimed_ms = first_ms
            elif is_news and feed.window_ms is not None and first_ms >= hole.start_ms:
                trip.claimed_ms = first_ms  # a single reply said of each window before that it has no candle
            elif first_ms >= hole.start_ms or (is_news and feed.window_ms is None):
                # The empty look that brought us here renews what is known of the time before.
                self._learn_listing(trip, first_ms)
            return first_ms

    def _learn_listing(self, trip: Trip, first_ms: int) -> None:
        timeframe = trip.want.series.timeframe
        slot_ms = timeframe.floor_ms(first_ms)
        before = EmptySpan(ALL_TIME.before(slot_ms), "not_listed", trip.now_ms)
        trip.claimed_ms = None
        self._cache.forget_claims(trip.want.series)
        self._cache.learn(trip.want.series, News(first_ms=first_ms, empty=before), trip.now_ms)

    def _ask_listing(self, trip: Trip, hole: Span, seen_ms: int | None) -> int | None:
        """Ask when the first candle opens, once a call. Raises ReplyError where that cannot be."""
        source, series = trip.want.source, trip.want.series
        first_ms = trip.claimed_ms
        if first_ms is None:
            first_ms = self._ask_first(trip, hole)
        if first_ms is None and self._is_traded(trip):
            raise ReplyError(f"{series.symbol} is traded, and the provider says that it never had a candle")
        if first_ms is not None and trip.feed.window_ms is not None and first_ms < hole.start_ms:
            return first_ms  # some candle before the hole, not the first one
        before_ms = trip.now_ms if first_ms is None else first_ms
        oldest_ms = self._oldest_ms(trip, before_ms) if seen_ms is None or seen_ms >= before_ms else seen_ms
        if oldest_ms is not None:
            source.renew()
            trip.claimed_ms = None
            self._cache.forget_claims(series)
            said = "never to have opened" if first_ms is None else f"to open at {iso(first_ms)}"
            error = ReplyError(f"the first candle is said {said}, and one came of {iso(oldest_ms)}")
            trip.refuted = before_ms, error
            raise error
        return first_ms

    def _ask_first(self, trip: Trip, hole: Span) -> int | None:
        """Ask when the first candle opens, once for all calls that want to know and until it is borne out."""
        source, series, claims = trip.want.source, trip.want.series, self._cache.first_claims
        # Where the provider is asked window by window, the answer is about the time from this hole on.
        key = series, None if trip.feed.window_ms is None else hole

        def ask() -> int | None:
            first_ms = claims.get(key)
            if first_ms is None:
                first_ms = source.first_ms(series, hole, trip.errand)
            if first_ms is None and (trip.feed.first_call is not None or trip.feed.window_ms is not None):
                source.renew()  # no single reply decides that there never was a candle, nor the windows from here on
                first_ms = source.first_ms(series, Span(0, 1), trip.errand)
            if first_ms is not None:
                claims[key] = first_ms
            return first_ms

        return self._cache.first_candles.run(key, ask, trip.errand)

    def _oldest_ms(self, trip: Trip, before_ms: int) -> int | None:
        """When the oldest candle at hand or stored opens, if it does before that time."""
        series = trip.want.series
        last = chunk_of(series.timeframe, before_ms)
        for chunk in sorted({*trip.found, *self._cache.stored_chunks(series)}):
            if chunk > last:
                break
            found = {chunk: trip.found[chunk]} if chunk in trip.found else self._cache.read_stored(series, [chunk])
            for _, entry in found.values():
                if entry.candles.count:
                    oldest_ms = int(entry.candles.open_ms[0])
                    return oldest_ms if oldest_ms < before_ms else None
        return None

    def _confirm_listing(self, trip: Trip) -> None:
        """Remember what one reply said of the listing if it is borne out: by the chunk that holds it, which has nothing
        before, else by a second reply, on another connection. A listing that was searched for window by window is
        searched for once more, from the provider's first day on. Raises ReplyError where that one says otherwise."""
        first_ms, series = trip.claimed_ms, trip.want.series
        if first_ms is None:
            return
        if self._cache.facts(series).first_ms == first_ms and not trip.want.refresh:
            trip.claimed_ms = None  # another call has had it borne out
            return
        found = trip.found.get(chunk_of(series.timeframe, first_ms))
        is_seen = (
            trip.feed.window_ms is None
            and found is not None
            and found[1].candles.count
            and int(found[1].candles.open_ms[0]) == first_ms
            and found[1].covered.start_ms < series.timeframe.floor_ms(first_ms)
        )
        if not is_seen:
            again_ms = self._ask_first_again(trip, first_ms)
            if again_ms != first_ms:
                said = "not to have opened" if again_ms is None else f"to open at {iso(again_ms)}"
                self._cache.forget_claims(series)
                if trip.feed.window_ms is not None and again_ms is not None and again_ms < first_ms:
                    self._learn_listing(trip, again_ms)  # a series that paused for longer than a window has
                raise ReplyError(f"the first candle is said to open at {iso(first_ms)}, and then {said}")
        self._learn_listing(trip, first_ms)

    def _ask_first_again(self, trip: Trip, first_ms: int) -> int | None:
        """Ask for the first candle on another connection, once for all calls that want to know."""
        series, source = trip.want.series, trip.want.source

        def ask() -> int | None:
            if self._cache.facts(series).first_ms == first_ms and not trip.want.refresh:
                return first_ms  # another call has had it borne out
            source.renew()
            return source.first_ms(series, Span(0, 1), trip.errand)

        return self._cache.first_candles.run((series, Span(first_ms, first_ms)), ask, trip.errand)

    def _is_traded(self, trip: Trip) -> bool:
        """Whether the provider lists the symbol as one that is traded."""
        series = trip.want.series
        try:
            listed = trip.want.source.describe(series.symbol, trip.errand).symbols
        except UnknownSymbol:
            return False
        return any(one.trading for one in listed if one.provider_symbol == series.symbol)

    def _learn_end(self, trip: Trip, newest: int) -> None:
        """Where the newest chunk ends in a hole, asks whether the series is over: then nothing after it needs asking.

        Over is what has its newest candle of all before that hole and is traded no more. Where the provider does not
        say so, nothing is learned, and the chunks are asked one by one.
        """
        source, series, timeframe = trip.want.source, trip.want.series, trip.timeframe
        found = trip.found.get(newest)
        if found is None or trip.failed or source.provider.describe is None:
            return
        candles, end_ms = found[1].candles, found[1].covered.end_ms
        seen_ms = int(candles.open_ms[-1]) if candles.count else None
        if seen_ms is not None and timeframe.open_ms(timeframe.ordinal(seen_ms) + 1) >= end_ms:
            return
        empty = self._cache.facts(series).empty
        if any(one.span.end_ms == FOREVER_MS and one.is_believed(trip.now_ms) for one in empty):
            return
        with contextlib.suppress(SourceError):  # the answer is whole without this
            last_ms = source.last_ms(series, trip.now_ms, trip.errand)
            if last_ms is None or last_ms >= end_ms or (seen_ms is not None and last_ms != seen_ms):
                return
            if not self._is_traded(trip):
                after_ms = timeframe.open_ms(timeframe.ordinal(last_ms) + 1)
                over = EmptySpan(ALL_TIME.after(after_ms), "after_delisting", trip.now_ms)
                self._cache.learn(series, News(empty=over), trip.now_ms)

    # -- telling ----------------------------------------------------------------------------------------------------

    def _believed_until(self, trip: Trip, chunk: int) -> int:
        entry = trip.found[chunk][1]
        span = chunk_span(trip.timeframe, chunk)
        if not entry.covered.holds(self._cache.facts(trip.want.series).bounds(span, trip.now_ms)):
            return LOOK
        late_ms = trip.settling.finality.late_ms
        return max(LOOK, min((hole.ask_again_ms(late_ms) for hole in entry.holes), default=FOREVER_MS))

    def _tell_of_archive(self, trip: Trip) -> None:
        """Warn, once a call, that candles are out of the archive because REST does not serve this machine."""
        error = trip.replaced
        if error is None or not trip.read_until_ms:
            return
        if is_denial(error) or (isinstance(error, TransportError) and not error.reached):
            warn_of_archive(trip.errand, trip.want.label, error)

    def _told(self, trip: Trip) -> Gathered:
        facts = self._cache.facts_about(trip.want.series, [entry for _, entry in trip.found.values()])
        unverified = {one.path for one in facts.unverified if one.span.clip(trip.span)}
        beyond = _beyond(trip, facts)
        told = Gathered(
            trip.want.series,
            Span(trip.span.start_ms, _known_end(trip, facts, beyond)),
            trip.now_ms,
            facts,
            trip.settling,
            failed=trip.failed,
            wall_s=trip.wall_s,
            generation=trip.generation,
            read_until_ms=max(trip.read_until_ms, default=0),
            unverified=sorted(unverified),
            rejected=sorted(trip.rejected),
            is_off_grid=trip.is_off_grid,
            asked_rest=not (trip.want.only_archive or trip.want.only_cache),
            beyond=beyond,
        )
        self._tell_of_archive(trip)
        for file, error in trip.unread:
            if file.path in trip.rejected:
                warn(ArchiveMismatch(f"{file.path} of the archive is not used: {error.reason}"))
        told.ends_now = trip.span.end_ms >= trip.settling.end_ms(trip.now_ms)
        if trip.want.ttl_ms is not None and told.ends_now:
            told.until_ms = trip.now_ms + trip.want.ttl_ms
        needed = told.facts.bounds(trip.span, trip.now_ms)
        late_ms = trip.settling.finality.late_ms
        again = [
            ask_again_ms(span.end_ms, asked_ms, late_ms)
            for span, _, asked_ms in told.facts.empty
            if trip.found and span.clip(trip.span)
        ]
        for chunk in sorted(trip.found):
            tier, entry = trip.found[chunk]
            told.parts.append(Part(entry, tier, tuple(trip.fresh.get(chunk, ()))))
            if not entry.covered.holds(chunk_span(trip.timeframe, chunk).clip(needed)):
                told.until_ms = trip.now_ms  # the newest candles are still to settle, or to be written
            again += [hole.ask_again_ms(late_ms) for hole in entry.holes if hole.span.clip(trip.span)]
        told.until_ms = min([told.until_ms, *again])
        return told


def warn_of_archive(errand: Errand, label: str, error: SourceError) -> None:
    """Warn, once a call, that the archive answers because REST does not serve this machine."""
    if "archive" not in errand.warned:
        errand.warned.add("archive")
        warn(
            CandleFetcherWarning(
                f"{label}: REST could not be had ({type(error).__name__}: {error}); the archive's files "
                "serve in its place as far as they go"
            )
        )


def _nothing() -> None:
    """Does nothing: a chunk that was only to be confirmed beside another one is left as it is."""


def find_files(
    source: Source,
    archive: ArchiveSource | None,
    series: Series,
    cache: CandleCache,
    asks: Sequence[Ask],
    now_ms: int,
    *,
    tried: Collection[str] = (),
    forced: bool,
) -> list[File]:
    """The archive's files to fetch for the asks; holes that were believed once are for REST alone."""
    if archive is None or not asks:
        return []
    find, facts = archive.archive.find_file, cache.facts(series)
    return choose_files(
        [ask.span for ask in asks if not ask.again],
        series.timeframe,
        lambda ms, monthly: find(series, ms, monthly=monthly),
        now_ms=now_ms,
        rows_per_call=source.provider.feed(series.kind).limit,
        is_absent=lambda path: path in tried or facts.is_absent(path, now_ms),
        lags=cache.lags(series),
        forced=forced,
    )


def _beyond(trip: Trip, facts: Facts) -> list[Span]:
    """What of the span is neither stored nor served: the provider has only the newest candles."""
    older = trip.span.before(max(trip.reach_ms, trip.served_ms))
    lost = [
        hole.span.clip(trip.span if hole.state is HoleState.BEYOND else older)
        for _, entry in trip.found.values()
        for hole in entry.holes
        if hole.state in UNKNOWN
    ]
    if older:
        known = [entry.covered for _, entry in trip.found.values()]
        known += facts.empty_spans
        lost += subtract(older, [*known, *(span for span, _ in trip.failed)])
    return merge(span for span in lost if span)


def _known_end(trip: Trip, facts: Facts, beyond: Sequence[Span]) -> int:
    """Where what is known of the span ends: the candles after it may still change, or their rows be late."""
    at = Span(trip.span.end_ms - 1, trip.span.end_ms)
    if any(not entry.holes and entry.covered.holds(at) for _, entry in reversed(trip.found.values())):
        return trip.span.end_ms
    known = facts.empty_spans + [span for span, _ in trip.failed]
    for _, entry in trip.found.values():
        start_ms, end_ms = entry.covered
        newest, _, asked_ms = entry.holes[-1] if entry.holes else (None, None, None)
        if newest is not None and newest.end_ms == end_ms and asked_ms is not None:
            end_ms = max(newest.start_ms, min(end_ms, trip.settling.known_ms(asked_ms)))
        known.append(Span(start_ms, end_ms))
    unknown = subtract(trip.span, [*known, *beyond])
    is_tail = bool(unknown) and unknown[-1].end_ms == trip.span.end_ms
    return unknown[-1].start_ms if is_tail else trip.span.end_ms


def _is_final(trip: Trip, chunk: int) -> bool:
    """Whether all of the chunk is stored, with nothing in it that may have to be asked for again."""
    found = trip.found.get(chunk)
    if found is None or found[1].holes or trip.want.recheck:
        return False
    return found[1].covered.holds(chunk_span(trip.timeframe, chunk))


def _next(
    done: queue.SimpleQueue[tuple[int | File | None, BaseException | None]], errand: Errand
) -> tuple[int | File | None, BaseException | None]:
    while True:
        try:
            return done.get(timeout=POLL_S)
        except queue.Empty:
            if errand.is_set():  # work that was cancelled before it began says nothing
                raise CancelledError from None


def _result(flight: Future[Entry | None], errand: Errand) -> Entry | None:
    wait_for([flight], errand)
    return flight.result()
