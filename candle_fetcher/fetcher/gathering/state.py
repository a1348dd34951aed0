"""The state that the parts of a gathering share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.block import AnswerBlock
from candle_fetcher.core.coverage import absorb
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.events import Observe
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.facts import Facts, News
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.plan import Ask, Query, chunk_span, find_corrected
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher.policy import ARCHIVE, REST, FetchPolicy
from candle_fetcher.fetcher.pools import Pools
from candle_fetcher.fetcher.request import Request
from candle_fetcher.sources import CallScope, SeriesReader


class Resources(NamedTuple):
    """What a gathering works with: the cache, the thread pools, this machine's clock, where events go, and the call
    that cancels a scope and ends its requests."""

    cache: CandleCache
    pools: Pools
    clock: Callable[[], float]
    observe: Observe
    stop: Callable[[CallScope], None]


class Task(NamedTuple):
    """What a call asks for, how it is to be answered, and what the call works with."""

    resources: Resources
    request: Request
    policy: FetchPolicy
    scope: CallScope


class Provenance(NamedTuple):
    """A span for which a source, "rest" or "archive", answered in this gathering."""

    span: Span
    source: str


def make_query(
    request: Request, settling: Settling, span: Span, policy: FetchPolicy, now_ms: int, *, reach_ms: int = -FOREVER_MS
) -> Query:
    """Return the rules that decide what stored chunks lack of the span."""
    feed = request.feed
    settled_ms = settling.end_ms(now_ms)
    embargo_ms = feed.embargo_ms(request.series)
    if embargo_ms:
        settled_ms = min(settled_ms, max(span.end_ms, settling.end_ms(now_ms - embargo_ms)))
    return Query(
        span,
        settling,
        now_ms=0 if policy.is_offline else now_ms,
        settled_ms=settled_ms,
        reach_ms=reach_ms,
        ttl_ms=None if policy.is_offline else policy.ttl_ms,
        recheck=policy.rechecks,
        stores_holes=feed.has_empty_bars,
        serves_all=not policy.is_offline and feed.depth(request.series) is None,
    )


class Gathering:
    """The settled candles of one span, as far as they are known by now, and what could not be fetched.

    The caller's thread and workers share it. A lock guards what both write; lists are appended to, which needs none.
    """

    def __init__(self, task: Task, span: Span, now_ms: int, corrected_ms: int = 0) -> None:
        self.resources, self.request, self.policy, self.scope = resources, request, policy, scope = task
        self.cache, self.series, self.span, self.now_ms = resources.cache, request.series, span, now_ms
        self.source, self.label, self.feed = request.source, request.label, request.feed
        self.archive = request.archive if policy.allows(ARCHIVE) else None
        self.wall_s = scope.as_of.wall_s if scope.as_of is not None else 0.0
        self.timeframe = self.series.timeframe
        self.reader = SeriesReader(self.source, self.series, scope)
        self.settling = self.feed.settling(self.series, corrected_ms)
        self.absorb = partial(absorb, settling=self.settling, now_ms=now_ms)  # an answer into an entry
        self.generation = self.cache.frames.generation(self.series)
        # Where the provider serves the newest candles only: it just now served none before this.
        self.served_ms = -FOREVER_MS
        self.found: dict[int, tuple[str, Entry]] = {}  # by chunk: the tier or source, and what is known
        self.provenance: dict[int, list[Provenance]] = {}  # by chunk, in the order of the answers
        self.failed: list[tuple[Span, SourceError | None]] = []
        self.answered: set[int] = set()  # chunks for which every Ask was answered
        self.confirms: dict[int, int] = {}  # by stored chunk: from where it is read once more, with the next chunk
        self.forces_files = policy.is_archive_only  # files are read at any cost
        self.block: AnswerBlock | None = None  # where the candles of a large gathering are put together
        self.halted = False  # another process holds a lock and does not go on
        self._lock = threading.Lock()
        self._complete: dict[int, Entry] = {}  # by chunk: the entry that is known to answer for all of it
        self.set_reach(-FOREVER_MS)

    # -- what is missing ----------------------------------------------------------------------------------------------

    def set_reach(self, reach_ms: int) -> None:
        """Note before which time the provider serves no candle: it may serve the newest ones only."""
        self.reach_ms = reach_ms
        self._query = make_query(self.request, self.settling, self.span, self.policy, self.now_ms, reach_ms=reach_ms)
        self._query_answered = self._query._replace(recheck=False)  # for chunks that are answered

    def asks(self, chunk: int, entry: Entry | None = None) -> list[Ask]:
        """Return what must be asked for before the chunk can answer, given `entry`, else what is found of it by now."""
        if entry is None:
            found = self.found.get(chunk)
            entry = None if found is None else found[1]
        query = self._query_answered if chunk in self.answered else self._query
        asks = query.asks(chunk, entry, self.facts)
        if not asks and chunk in self.confirms and chunk not in self.answered:
            end_ms = chunk_span(self.timeframe, chunk).end_ms
            asks.append(Ask(Span(end_ms, end_ms), from_ms=self.confirms[chunk]))
        return asks

    def missing(self, chunks: Sequence[int]) -> dict[int, list[Ask]]:
        """Return those of the chunks that lack something, with what they lack."""
        lacking, found, before = {}, self.found, None
        for chunk in chunks:
            entry = found[chunk][1] if chunk in found else None
            if entry is None or (entry is not before and not self.is_complete(chunk, entry)):
                lacking[chunk] = self.asks(chunk)
            else:
                before = entry  # which may answer for the next chunk, too
        return {chunk: asks for chunk, asks in lacking.items() if asks}

    def lacks_before(self, ms: int, chunks: Sequence[int]) -> bool:
        """Return whether something that opens before that time would be asked for, if the provider served it."""
        query = self._query._replace(reach_ms=-FOREVER_MS)
        for chunk in chunks:
            found = self.found.get(chunk)
            for ask in query.asks(chunk, None if found is None else found[1], self.facts):
                span = ask.span.clip(self.span)
                if span and span.start_ms < ms:
                    return True
        return False

    def is_complete(self, chunk: int, entry: Entry) -> bool:
        """Return whether the entry answers for all of the chunk, and nothing in it is ever asked for again."""
        if self._complete.get(chunk) is entry:
            return True
        if entry.holes or self.policy.rechecks or not entry.covered.holds(chunk_span(self.timeframe, chunk)):
            return False
        if find_corrected(entry, self.settling, self.reach_ms) is not None:
            return False
        self._complete[chunk] = entry
        return True

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        """What is known of the series beside its candles, as far as this process knows."""
        return self.cache.facts.get(self.series)

    def learn(self, news: News) -> None:
        """Add the news to the facts of the series."""
        self.cache.facts.learn(self.series, news, self.now_ms)

    @property
    def asks_rest(self) -> bool:
        """Whether REST may be asked, by the policy and by what the call has met so far."""
        return self.policy.allows(REST) and self.scope.denial is None

    @property
    def may_replace(self) -> bool:
        """Whether the archive's files serve where REST cannot."""
        return self.archive is not None and not self.policy.is_archive_only

    @property
    def rest_end_ms(self) -> int:
        """Where the span ends that REST may be asked for: near to now, without the provider's clock, it is not known
        what has settled."""
        if self.scope.clock_error is None:
            return FOREVER_MS
        return self.timeframe.floor_ms(self.now_ms - NEAR_MS)

    @property
    def share_key(self) -> tuple[Hashable, ...]:
        """The key under which the parts of one call share a chunk: the same cache, series and sources."""
        return id(self.cache), self.series.key, self.policy.source

    def put(self, chunk: int, tier: str, entry: Entry) -> None:
        """Set what is found of the chunk."""
        with self._lock:
            self.found[chunk] = (tier, entry)

    def place(self, chunk: int, entry: Entry) -> Entry:
        """Return the entry with its candles where they adjoin those of other chunks, if there is such a place."""
        if self.block is None:
            return entry
        candles = self.block.place(chunk, entry.candles)
        return entry if candles is entry.candles else entry._replace(candles=candles)

    def share(self, chunk: int, entry: Entry, stored: Entry) -> None:
        """Use the bytes that the memory tier holds, so that what the entry was made of can be freed."""
        with self._lock:
            tier, found = self.found[chunk]
            if found is entry and self.block is None:
                self.found[chunk] = (tier, stored)

    def note_answer(self, chunk: int, *answers: Provenance) -> None:
        """Add spans for which a source answered just now."""
        self.provenance.setdefault(chunk, []).extend(answers)

    def note_served(self, ms: int) -> None:
        """Note that the provider just now served no candle before that time."""
        with self._lock:
            self.served_ms = max(self.served_ms, ms)
