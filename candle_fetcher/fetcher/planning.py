"""The plan of a fetch, read off the cache's shelves; asks nobody."""

from __future__ import annotations

from candle_fetcher.cache import ABSENT, LOOK, CandleCache
from candle_fetcher.core.expiry import settled_end_ms
from candle_fetcher.core.plan import Ask, FetchPlan, Step, chunk_span, chunks_of, find_asks, merge_steps
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.fetcher.request import Request, read_span
from candle_fetcher.sources import requests_for

# A candle of Binance as text, and how fast things go on an ordinary line; for estimates only.
_ROW_BYTES = 175
_REPLY_S = 0.15
_CHUNK_S = 0.0005


def make_plan(request: Request, cache: CandleCache, threads: int, *, only_cache: bool) -> FetchPlan:
    """What a fetch of the request would do: chunks by source, requests, weight, bytes, seconds."""
    source, series = request.source, request.series
    base = series.timeframe
    feed = source.provider.feed(series.kind)
    now_ms = source.estimated_ms()
    span = read_span(request.range, request.timeframe, now_ms)
    end_ms = min(span.end_ms, settled_end_ms(request.timeframe, now_ms))
    limit = request.range.limit
    if limit is not None:
        slots = limit * (request.timeframe.nominal_ms // base.nominal_ms or 1)
        if request.range.oldest:
            end_ms = min(end_ms, base.open_ms(base.first_slot(span.start_ms) + slots))
        else:
            span = Span(base.open_ms(base.first_slot(end_ms) - slots), end_ms)
    span = Span(span.start_ms, max(end_ms, span.start_ms))
    facts = cache.facts(series)
    wanted = facts.bounds(span, now_ms)
    chunks = chunks_of(base, wanted)
    believed = cache.believed_until(series, chunks) or {}
    steps: dict[tuple[str, int, int, int], int] = {}
    costs: dict[int, tuple[int, int]] = {}
    slots_of: dict[tuple[str, int, int, int], int] = {}
    for chunk in chunks:
        borders = chunk_span(base, chunk)
        word = believed.get(chunk, ABSENT)
        asks = []
        if word <= now_ms:
            entry = cache.load(series, [chunk]).get(chunk) if word >= LOOK else None
            bounds = facts.bounds(Span(borders.start_ms, min(borders.end_ms, settled_end_ms(base, now_ms))), now_ms)
            asks = find_asks(entry[1] if entry else None, borders, wanted, bounds, now_ms=now_ms)
        requests, weight = 0, 0
        for ask in asks:
            cost = _cost(request, ask, costs)
            requests, weight = requests + cost[0], weight + cost[1]
        kind = ("rest" if asks and not only_cache else "none" if asks else "disk", requests, weight, len(asks))
        steps[kind] = steps.get(kind, 0) + 1
        inside = borders.clip(wanted)
        slots_of[kind] = slots_of.get(kind, 0) + base.first_slot(inside.end_ms) - base.first_slot(inside.start_ms)
    found = merge_steps(
        [
            Step(
                name,
                count,
                slots_of[name, requests, weight, asked],
                requests * count if name == "rest" else 0,
                weight * count if name == "rest" else 0,
                slots_of[name, requests, weight, asked] * _ROW_BYTES if name == "rest" else 0,
            )
            for (name, requests, weight, asked), count in steps.items()
        ]
    )
    notes = []
    requests = sum(step.requests for step in found)
    if span.end_ms > now_ms - 2 * DAY_MS and not only_cache:
        notes.append("1 request for the provider's clock, unless it was asked in the last minutes")
    if requests and not source.limits_known:
        notes.append("1 request for the provider's request limits")
    if requests and facts.first_ms is None:
        notes.append("the listing is not known yet: a start before it costs one empty reply and one request for the first candle")
    if requests and feed.quiet_rows:
        notes.append("1 request for every hole, which is asked again, alone, before it is believed")
    weight = sum(step.weight for step in found)
    per_minute = min((limit.cost * 60 / limit.interval_s for limit in source.provider.default_limits), default=6000)
    seconds = max(requests / threads * _REPLY_S, max(0.0, weight / per_minute - 1) * 60)
    seconds += sum(step.chunks for step in found) * _CHUNK_S
    return FetchPlan(
        provider=series.provider,
        symbol=request.symbol,
        timeframe=request.timeframe.name,
        kind=series.kind,
        span=span,
        steps=found,
        seconds=round(seconds, 2),
        notes=tuple(notes),
    )


def _cost(request: Request, ask: Ask, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Requests and weight of an ask; spans of one length cost the same, but for months."""
    series = request.series
    length_ms = ask.span.end_ms - ask.span.start_ms
    if series.timeframe.unit != "M" and length_ms in known:
        return known[length_ms]
    calls = requests_for(request.source.provider.feed(series.kind), series.symbol, series.timeframe, ask.span)
    known[length_ms] = len(calls), sum(call.cost for call in calls)
    return known[length_ms]
