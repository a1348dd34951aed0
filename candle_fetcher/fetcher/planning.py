"""The plan of a fetch as `CandleFetcher.plan` prints it.

No source is asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import naming_errors
from candle_fetcher.core.events import Operation
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.plan import (
    CHUNK_SLOTS,
    Ask,
    FetchPlan,
    Step,
    chunk_of,
    chunk_span,
    chunks_of,
    group_chunks,
    merge_steps,
)
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, hull, merge, subtract
from candle_fetcher.fetcher.adjusting import guess_adjusted
from candle_fetcher.fetcher.gathering import choose_files_for, make_query
from candle_fetcher.fetcher.policy import REST, FetchPolicy
from candle_fetcher.fetcher.request import Arguments, Request, make_request, read_span
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.net.budget import usable
from candle_fetcher.net.retry import LONGEST_WAIT_S
from candle_fetcher.providers import Feed
from candle_fetcher.sources import RestSource, requests_for

# A candle of Binance as text, and the speed of an ordinary line; for estimates only.
_ROW_BYTES = 175
_ZIPPED_BYTES = 60
_REPLY_S = 0.15
_CHUNK_S = 0.0005


def plan_fetch(runtime: Runtime, arguments: Arguments, policy: FetchPolicy) -> FetchPlan:
    """Return the plan of `CandleFetcher.plan`."""
    began = time.perf_counter()
    request = make_request(runtime, arguments, guess_adjusted)
    with naming_errors(lambda: request.about(None)):
        made = _plan_fetch(request, runtime.cache, runtime.settings.network_threads, policy)
    runtime.observe(Operation("plan", time.perf_counter() - began, label=request.label))
    return made


def _plan_fetch(request: Request, cache: CandleCache, threads: int, policy: FetchPolicy) -> FetchPlan:
    """Return what a fetch of the request would do: chunks by source, requests, weight, bytes, seconds."""
    source, series = request.source, request.series
    clock = request.archive if policy.is_archive_only and request.archive is not None else source
    now_ms = clock.estimated_ms()
    listed_ms = cache.facts.get(series).first_ms
    span = _span(request, now_ms, policy, listed_ms)
    steps = merge_steps(_Steps(request, cache, span, now_ms, policy).all())
    asks_rest = policy.allows(REST)
    wait_s, warnings = _wait_for_budget(source, steps) if asks_rest else (0.0, [])
    notes = [*_notes(request, span, now_ms, steps, policy, is_listed=listed_ms is not None), *warnings]
    seconds = max(sum(step.requests for step in steps) / threads * _REPLY_S, wait_s)
    seconds += sum(step.chunks for step in steps) * _CHUNK_S
    return FetchPlan(
        provider=series.provider,
        symbol=request.symbol,
        timeframe=request.timeframe.name,
        kind=series.kind,
        span=span,
        steps=steps,
        seconds=round(seconds, 2),
        notes=tuple(notes),
    )


def _notes(
    request: Request, span: Span, now_ms: int, steps: Sequence[Step], policy: FetchPolicy, *, is_listed: bool
) -> Iterator[str]:
    """Yield a sentence for each cost that depends on what the provider answers."""
    source, asks_rest = request.source, policy.allows(REST)
    if asks_rest and request.adjusted is not None and request.adjusted.is_due:
        yield "1 request for the corporate actions; one since the last time makes all of it a request again"
    if span.end_ms > now_ms - NEAR_MS and not policy.is_offline:
        owner = "provider" if asks_rest else "archive"
        yield f"1 request for the {owner}'s clock, unless it was asked in the last minutes"
    if not asks_rest or not any(step.requests for step in steps):
        return
    if not source.limits.are_known:
        yield "1 request for the provider's request limits"
    if not is_listed:
        uses_files = any(step.source == "archive" for step in steps)
        ends = "REST is asked for the chunks at both ends, and " if uses_files else ""
        yield f"the listing is not known yet: {ends}a start before it costs 1 empty reply and 1 request more"
    if request.feed.has_empty_bars:
        yield "1 request for every hole, which is asked again, alone, before it is believed"


def _wait_for_budget(source: RestSource, steps: Sequence[Step]) -> tuple[float, list[str]]:
    """How many seconds the steps wait for the provider's limits, and a note for each limit that ends the call before
    its end: one that leaves less than they take, in an interval longer than is waited for."""
    asked = [step for step in steps if step.source == "rest"]
    counts = {"weight": sum(step.weight for step in asked), "requests": sum(step.requests for step in asked)}
    waits_s, notes = [0.0], []
    for limit, left in source.limits.left():
        count = counts.get(limit.kind, counts["requests"])
        if limit.interval_s <= LONGEST_WAIT_S:
            # Half an interval is over, on the average; what fits into it waits for none.
            waits_s.append((math.ceil(count / usable(limit)) - 1.5) * limit.interval_s)
        elif count > left:
            unit = "requests" if count == counts["requests"] else "units of weight"
            waits_s.append(math.ceil((count - left) / usable(limit)) * limit.interval_s)
            budget = f"{limit.cost:,} {unit} in {_length(limit.interval_s)}"
            notes.append(
                f"{source.provider.name} allows {budget}, {left:,} are left, and this takes {count:,}: "
                f"{_length(int(waits_s[-1]))} and more. The call ends with RateLimited once they are used up; what "
                "arrived is stored, and the same call goes on later"
            )
    return max(waits_s), notes


def _length(seconds: int) -> str:
    """As 1 day, 2 hours or 90 s."""
    for unit_s, name in ((86_400, "day"), (3_600, "hour")):
        if seconds % unit_s == 0:
            return f"{seconds // unit_s} {name}{'s' if seconds > unit_s else ''}"
    return f"{seconds:,} s"


def _span(request: Request, now_ms: int, policy: FetchPolicy, listed_ms: int | None) -> Span:
    """Return the span that a fetch would look at first; a limit counts slots here, since gaps are not known yet."""
    timeframe, limit = request.timeframe, request.range.limit
    settled_ms = request.settled_ms(now_ms)
    span = read_span(request.range, settled_ms, now_ms)
    if request.range.from_first and listed_ms is not None:
        span = Span(min(timeframe.floor_ms(listed_ms), span.end_ms), span.end_ms)
    end_ms = min(span.end_ms, settled_ms)
    if policy.is_archive_only and request.range.end_ms is None and request.archive is not None:
        published_ms = request.archive.end_ms(request.series, now_ms)
        end_ms = min(end_ms, timeframe.floor_ms(published_ms))
    if limit is not None and request.range.oldest:
        end_ms = min(end_ms, timeframe.open_ms(timeframe.first_slot(span.start_ms) + limit))
    elif limit is not None:
        span = Span(timeframe.open_ms(max(timeframe.first_slot(end_ms) - limit, 0)), end_ms)
    span = Span.between(span.start_ms, end_ms)
    if timeframe == request.series.timeframe:
        return span
    # What is resampled is made of whole slots.
    return Span(timeframe.ceil_ms(span.start_ms), timeframe.ceil_ms(span.end_ms))


class _Steps:
    """What each source does of a span."""

    def __init__(self, request: Request, cache: CandleCache, span: Span, now_ms: int, policy: FetchPolicy) -> None:
        self._request, self._cache, self._policy, self._now_ms = request, cache, policy, now_ms
        self._series, self._base = request.series, request.series.timeframe
        self._feed = request.feed
        self._facts = cache.facts.get(self._series)
        self._wanted = self._facts.bounds(span, 0 if policy.is_offline else now_ms)
        self._query = make_query(request, request.feed.settling(self._series), self._wanted, policy, now_ms)
        # The chunks that lie whole in the span.
        first, stop = self._base.first_slot(self._wanted.start_ms), self._base.ordinal(self._wanted.end_ms)
        self._whole = range(-(-first // CHUNK_SLOTS), stop // CHUNK_SLOTS)
        self._reach_ms = self._feed.reach_ms(self._series, now_ms)
        self._shares_calls = self._feed.replies_with_all or self._feed.limit >= 2 * CHUNK_SLOTS
        self._costs: dict[int, tuple[int, int]] = {}
        self._steps: list[Step] = []

    def all(self) -> list[Step]:
        """Return steps, several for a source, for all chunks and files."""
        lacking, absent = self._look_up()
        if self._policy.is_offline:
            slots = [self._slots(chunk) for chunk in lacking]
            steps = [Step("missing", len(run), len(run) * CHUNK_SLOTS) for run in absent]
            return [*self._steps, *(Step("missing", 1, count) for count in slots), *steps]
        choose = choose_files_for(self._request, self._cache, self._wanted, self._now_ms, self._policy)
        files = choose([*(ask for asks in lacking.values() for ask in asks), *(Ask(self._span(run)) for run in absent)])
        for file in files:
            self._steps.append(Step("archive", 0, 0, 2, 0, len(self._base.slots(file.span)) * _ZIPPED_BYTES))
        parts = merge([part for file in files for part in file.parts])  # few, where months adjoin
        for run in absent:
            lacking |= self._add_absent(run, parts)
        self._add(lacking, parts)
        return self._steps

    def _slots(self, chunk: int) -> int:
        if chunk in self._whole:
            return CHUNK_SLOTS
        return len(self._base.slots(chunk_span(self._base, chunk).clip(self._wanted)))

    def _span(self, run: range) -> Span:
        return Span(chunk_span(self._base, run[0]).start_ms, chunk_span(self._base, run[-1]).end_ms)

    def _look_up(self) -> tuple[dict[int, list[Ask]], list[range]]:
        """Add steps for the chunks that are stored, by the freshness index, or by its entry where the index says so.

        Return what other chunks lack, and the runs of whole chunks of which nothing is stored: by far the most, where
        little is.
        """
        chunks = chunks_of(self._base, self._wanted)
        stored = [chunk for chunk in self._cache.entries.chunks(self._series) if chunk in chunks]
        fresh = self._cache.freshness.load(self._series, stored)
        known = {*fresh, *(chunk for chunk in (*chunks[:1], *chunks[-1:]) if chunk not in self._whole)}
        for empty in self._facts.empty_spans:
            known.update(chunks_of(self._base, empty.clip(self._wanted)))
        lacking: dict[int, list[Ask]] = {}
        for chunk in sorted(known):
            until_ms = fresh.get(chunk)
            # For how long holes are valid the entry says best: this machine's clock may have been ahead then.
            if until_ms is None or until_ms < FOREVER_MS:
                asks = self._asks(chunk, reads_entry=until_ms is not None)
                if asks:
                    lacking[chunk] = asks
        slots = [self._slots(chunk) for chunk in known if chunk not in lacking]
        self._steps += [Step("disk", len(slots), sum(slots))] if slots else []
        return lacking, [*_between(chunks, known)]

    def _asks(self, chunk: int, *, reads_entry: bool) -> list[Ask]:
        outline = self._cache.entries.outline(self._series, chunk) if reads_entry else None
        if outline is not None:
            return self._query.asks(chunk, outline, self._facts)
        found = self._cache.entries.load(self._series, [chunk]).get(chunk) if reads_entry else None
        asks = self._query.asks(chunk, found[1] if found else None, self._facts)
        if asks and found is not None and found[0] == "memory":  # another process may have stored more
            found = self._cache.entries.reload(self._series, [chunk]).get(chunk, found)
            asks = self._query.asks(chunk, found[1], self._facts)
        return asks

    def _add_absent(self, run: range, parts: Sequence[Span]) -> dict[int, list[Ask]]:
        """Add steps for a run of whole chunks of which nothing is stored, many at once where they cost the same.

        Return what the others lack. `parts` is what files bring.
        """
        if self._shares_calls or self._base.unit == "M" or self._wanted.start_ms < self._reach_ms:
            return {chunk: [Ask(chunk_span(self._base, chunk))] for chunk in run}
        ends = {chunk_of(self._base, ms) for start_ms, end_ms in parts for ms in (start_ms, end_ms - 1)}
        for same in _between(run, ends):
            count, first = len(same), Ask(chunk_span(self._base, same[0]))
            slots = count * CHUNK_SLOTS
            if any(part.holds(first.span) for part in parts):
                self._steps.append(Step("archive", count, slots))
            elif self._policy.is_archive_only:
                self._steps.append(Step("missing", count, slots))
            else:
                requests, weight = self._cost(first)
                self._steps.append(Step("rest", count, slots, count * requests, count * weight, slots * _ROW_BYTES))
        return {chunk: [Ask(chunk_span(self._base, chunk))] for chunk in ends.intersection(run)}

    def _add(self, lacking: Mapping[int, Sequence[Ask]], parts: Sequence[Span]) -> None:
        """Add a step for each chunk that lacks something, of which files bring `parts`."""
        shared: list[Ask] = []  # Asks that one request may answer together
        for chunk, asks in lacking.items():
            slots = self._slots(chunk)
            if all(ask.span.clip(self._wanted).end_ms <= self._reach_ms for ask in asks):
                self._steps.append(Step("missing", 1, slots))
                continue
            rest = self._left_by_files(asks, parts)
            if not rest:
                self._steps.append(Step("archive", 1, slots))
            elif self._policy.is_archive_only:
                self._steps.append(Step("missing", 1, slots))
            elif self._shares_calls:
                shared += rest
                self._steps.append(Step("rest", 1, slots, 0, 0, slots * _ROW_BYTES))
            else:
                costs = [self._cost(ask) for ask in rest]
                requests, weight = sum(one[0] for one in costs), sum(one[1] for one in costs)
                self._steps.append(Step("rest", 1, slots, requests, weight, slots * _ROW_BYTES))
        if shared:
            calls = _shared_calls(self._feed, self._series, shared)
            self._steps.append(Step("rest", 0, 0, len(calls), sum(call.cost for call in calls)))

    def _left_by_files(self, asks: Sequence[Ask], parts: Sequence[Span]) -> list[Ask]:
        """Return what REST is asked for. Where files bring all of a chunk that the request wants, that is nothing; else
        it is the rest of the chunk."""
        if len(asks) == 1 and any(part.holds(asks[0].span) for part in parts):
            return []
        if not any(subtract(ask.span.clip(self._wanted), parts) for ask in asks):
            return []
        return [ask.part(span) for ask in asks for span in subtract(ask.span, parts)]

    def _cost(self, ask: Ask) -> tuple[int, int]:
        """Return the requests and the weight of an Ask; spans of one length cost the same, except months."""
        length_ms = ask.reach.end_ms - ask.reach.start_ms
        if self._base.unit != "M" and length_ms in self._costs:
            return self._costs[length_ms]
        calls = requests_for(self._feed, self._series, ask.reach)
        self._costs[length_ms] = len(calls), sum(call.cost for call in calls)
        return self._costs[length_ms]


def _between(chunks: range, known: Collection[int]) -> Iterator[range]:
    """Yield the runs of the chunks that are not known."""
    start = chunks.start
    for chunk in sorted(chunk for chunk in known if chunk in chunks):
        if start < chunk:
            yield range(start, chunk)
        start = chunk + 1
    if start < chunks.stop:
        yield range(start, chunks.stop)


def _shared_calls(feed: Feed, series: Series, asks: Sequence[Ask]) -> list[Call]:
    """Return the calls for these Asks, where one call may answer several."""
    if feed.replies_with_all:
        return list({call for ask in asks for call in requests_for(feed, series, ask.reach)})
    calls = [call for ask in asks if ask.again for call in requests_for(feed, series, ask.reach)]
    spans: dict[int, list[Span]] = {}
    for ask in asks:
        if not ask.again:
            spans.setdefault(chunk_of(series.timeframe, ask.span.start_ms), []).append(ask.reach)
    for chunks in group_chunks(list(spans), feed.limit // CHUNK_SLOTS):
        every = [span for chunk in chunks for span in spans[chunk]]
        for span in every if len(chunks) == 1 else [hull(every)]:
            calls += requests_for(feed, series, span)
    return calls
