"""The plan of a fetch, read off the cache's shelves; asks nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from candle_fetcher.cache import ABSENT, LOOK, CandleCache
from candle_fetcher.core.call import Call
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.plan import (
    CHUNK_SLOTS,
    Ask,
    FetchPlan,
    Step,
    chunk_of,
    chunk_span,
    chunks_of,
    find_asks,
    group_chunks,
    merge_steps,
)
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, hull, merge, subtract
from candle_fetcher.fetcher.collect import How
from candle_fetcher.fetcher.gather import find_files
from candle_fetcher.fetcher.request import Request, read_span
from candle_fetcher.net.ledger import usable
from candle_fetcher.net.pacing import LONGEST_WAIT_S
from candle_fetcher.providers import Feed
from candle_fetcher.sources import Source, requests_for

# A candle of Binance as text, and how fast things go on an ordinary line; for estimates only.
_ROW_BYTES = 175
_ZIPPED_BYTES = 60
_REPLY_S = 0.15
_CHUNK_S = 0.0005


def make_plan(request: Request, cache: CandleCache, threads: int, how: How) -> FetchPlan:
    """What a fetch of the request would do: chunks by source, requests, weight, bytes, seconds."""
    source, series = request.source, request.series
    clock = request.archive if how.only_archive and request.archive is not None else source
    now_ms = clock.estimated_ms()
    listed_ms = cache.facts(series).first_ms
    span = _span(request, now_ms, how, listed_ms)
    steps = merge_steps(_steps(request, cache, span, now_ms, how))
    requests = sum(step.requests for step in steps)
    notes = []
    asks_rest = not (how.only_cache or how.only_archive)
    if asks_rest and request.adjusted is not None and request.adjusted.is_due:
        notes.append("1 request for the corporate actions; one since the last time makes all of it a request again")
    if span.end_ms > now_ms - NEAR_MS and not how.only_cache:
        whose = "provider" if asks_rest else "archive"
        notes.append(f"1 request for the {whose}'s clock, unless it was asked in the last minutes")
    if requests and not source.limits_known and asks_rest:
        notes.append("1 request for the provider's request limits")
    if requests and listed_ms is None and asks_rest:
        uses_files = any(step.source == "archive" for step in steps)
        ends = "REST is asked for the chunks at both ends, and " if uses_files else ""
        notes.append(f"the listing is not known yet: {ends}a start before it costs 1 empty reply and 1 request more")
    if requests and source.provider.feed(series.kind).quiet_rows and asks_rest:
        notes.append("1 request for every hole, which is asked again, alone, before it is believed")
    wait_s, warnings = _wait_for_budget(source, steps) if asks_rest else (0.0, [])
    notes += warnings
    seconds = max(requests / threads * _REPLY_S, wait_s)
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


def _wait_for_budget(source: Source, steps: Sequence[Step]) -> tuple[float, list[str]]:
    """How many seconds the steps wait for the provider's limits, and a note for each limit that ends the call before
    its end: one that leaves less than they take, in an interval longer than is waited for."""
    asked = [step for step in steps if step.source == "rest"]
    counts = {"weight": sum(step.weight for step in asked), "requests": sum(step.requests for step in asked)}
    waits_s, notes = [0.0], []
    for limit, left in source.limits_left():
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


def _span(request: Request, now_ms: int, how: How, listed_ms: int | None) -> Span:
    """The span that a fetch would look at first; a limit counts slots here, for gaps are not known beforehand."""
    timeframe, limit = request.timeframe, request.range.limit
    settled_ms = request.settled_ms(now_ms)
    span = read_span(request.range, settled_ms, now_ms)
    if request.range.from_first and listed_ms is not None:
        span = Span(min(timeframe.floor_ms(listed_ms), span.end_ms), span.end_ms)
    end_ms = min(span.end_ms, settled_ms)
    if how.only_archive and request.range.end_ms is None and request.archive is not None:
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


def _look_up(
    request: Request, cache: CandleCache, wanted: Span, now_ms: int
) -> tuple[list[Step], list[tuple[int, list[Ask]]]]:
    """A step for each chunk that is stored, told by its shelf, or by its entry where the shelf says to look there; the
    slots of the others, and what they lack."""
    series, base = request.series, request.series.timeframe
    facts = cache.facts(series)
    feed = request.source.provider.feed(series.kind)
    settling = feed.settling(series)
    settled_ms = settling.end_ms(now_ms)
    serves_all = feed.depth(series) is None
    chunks = chunks_of(base, wanted)
    believed = cache.believed_until(series, chunks) or {}
    lacking: list[tuple[int, list[Ask]]] = []
    steps = []
    empty = facts.empty_spans
    for chunk in chunks:
        borders = chunk_span(base, chunk)
        word = believed.get(chunk, ABSENT)
        if word == ABSENT and wanted.holds(borders) and not any(one.clip(borders) for one in empty):
            lacking.append((CHUNK_SLOTS, [Ask(borders)]))  # by far the most, where nothing is stored
            continue
        asks = []
        if word < FOREVER_MS:  # how long holes are believed the entry says best: our clock may have been ahead then
            entry = cache.load(series, [chunk]).get(chunk) if word >= LOOK else None
            bounds = facts.bounds(Span(borders.start_ms, min(borders.end_ms, settled_ms)), now_ms)
            find = partial(
                find_asks,
                chunk=borders,
                wanted=wanted,
                bounds=bounds,
                settling=settling,
                now_ms=now_ms,
                serves_all=serves_all,
            )
            asks = find(entry[1] if entry else None)
            if asks and entry is not None and entry[0] == "memory":  # another process may have stored more
                entry = cache.reload(series, [chunk]).get(chunk, entry)
                asks = find(entry[1])
        inside = borders.clip(wanted)
        slots = CHUNK_SLOTS
        if inside != borders:
            slots = len(base.slots(inside))
        if asks:
            lacking.append((slots, asks))
        else:
            steps.append(Step("disk", 1, slots))
    return steps, lacking


def _steps(request: Request, cache: CandleCache, span: Span, now_ms: int, how: How) -> list[Step]:
    """What each source does of the span."""
    series, base = request.series, request.series.timeframe
    wanted = cache.facts(series).bounds(span, now_ms)
    steps, lacking = _look_up(request, cache, wanted, now_ms)
    if how.only_cache:
        return [*steps, *(Step("missing", 1, slots) for slots, _ in lacking)]
    every = [ask for _, asks in lacking for ask in asks]
    if how.only_archive:
        every = [ask._replace(span=ask.span.clip(wanted)) for ask in every]
    archive = request.archive if how.use_archive else None
    files = find_files(request.source, archive, series, cache, every, now_ms, forced=how.only_archive)
    steps += [Step("archive", 0, 0, 2, 0, len(base.slots(file.span)) * _ZIPPED_BYTES) for file in files]
    feed, reach_ms = request.source.provider.feed(series.kind), request.source.reach_ms(series, now_ms)
    shared: list[Ask] = []  # asks that one call may answer together
    costs: dict[int, tuple[int, int]] = {}
    spans = merge([part for file in files for part in file.parts])  # few, where months adjoin
    whole = whole_slots = 0
    for slots, asks in lacking:
        if all(ask.span.clip(wanted).end_ms <= reach_ms for ask in asks):
            steps.append(Step("missing", 1, slots))
            continue
        if any(part.holds(asks[0].span) for part in spans) and len(asks) == 1:
            whole, whole_slots = whole + 1, whole_slots + slots
            continue
        # What the files bring of a chunk may do for this request; only else is the rest of the chunk asked for.
        left = [span for ask in asks for span in subtract(ask.span.clip(wanted), spans)]
        rest = [ask.part(span) for ask in asks for span in subtract(ask.span, spans)] if left else []
        found = [_cost(request, ask, costs) for ask in rest]
        if not found:
            steps.append(Step("archive", 1, slots))
        elif how.only_archive:
            steps.append(Step("missing", 1, slots))
        elif feed.is_whole or feed.limit >= 2 * CHUNK_SLOTS:
            shared += rest
            steps.append(Step("rest", 1, slots, 0, 0, slots * _ROW_BYTES))
        else:
            requests, weight = sum(one[0] for one in found), sum(one[1] for one in found)
            steps.append(Step("rest", 1, slots, requests, weight, slots * _ROW_BYTES))
    if whole:
        steps.append(Step("archive", whole, whole_slots))
    if shared:
        calls = _shared_calls(feed, series, shared)
        steps.append(Step("rest", 0, 0, len(calls), sum(call.cost for call in calls)))
    return steps


def _shared_calls(feed: Feed, series: Series, asks: Sequence[Ask]) -> list[Call]:
    """The calls for these asks, where one call may answer several."""
    if feed.is_whole:
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


def _cost(request: Request, ask: Ask, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Requests and weight of an ask; spans of one length cost the same, but for months."""
    series = request.series
    length_ms = ask.reach.end_ms - ask.reach.start_ms
    if series.timeframe.unit != "M" and length_ms in known:
        return known[length_ms]
    calls = requests_for(request.source.provider.feed(series.kind), series, ask.reach)
    known[length_ms] = len(calls), sum(call.cost for call in calls)
    return known[length_ms]
