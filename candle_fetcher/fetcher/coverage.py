"""coverage(): the state of each span of a series in the cache, with its evidence. Sends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.entry import HoleState
from candle_fetcher.core.errors import naming_errors
from candle_fetcher.core.events import Operation
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.plan import chunks_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.states import (
    SpanState,
    join_states,
    state_of_hole,
    states_frame,
    states_of_corrected,
    states_of_facts,
)
from candle_fetcher.fetcher.request import Arguments, make_request
from candle_fetcher.fetcher.runtime import Runtime

_BATCH = 64
# The bounds of a call without a range.
_FIRST_MS, _LAST_MS = 0, 253_402_300_800_000


def read_coverage(cache: CandleCache, series: Series, span: Span | None, settling: Settling) -> list[SpanState]:
    """Return the states of the span, or of all time, in order. Parts without a state were never requested."""
    facts, late_rows_ms = cache.facts.reload(series), settling.finality.late_rows_ms
    empty = facts.empty_spans
    states: list[SpanState] = []
    stored: list[Span] = []
    for batch in _batches(cache, series, span):
        for _, entry in cache.entries.read(series, batch).values():
            unconfirmed = states_of_corrected(entry, series.provider, settling)
            states += unconfirmed
            others = [hole.span for hole in entry.holes] + [one.span for one in unconfirmed]
            stored += subtract(entry.covered, others)
            for hole in entry.holes:
                if hole.state is not HoleState.UNASKED:
                    known = state_of_hole(hole, series.provider, late_rows_ms)
                    states += [known._replace(span=part) for part in subtract(hole.span, empty)]
    facts = cache.facts.get(series)  # an entry may know more than they did
    unverified = [one.span for one in facts.unverified]
    states += [SpanState(part, "stored", None, None, "") for one in merge(stored) for part in subtract(one, unverified)]
    states += states_of_facts(facts, series.provider, known=[*empty, *stored, *(one.span for one in states)])
    clipped = [one._replace(span=one.span.clip(span or Span(_FIRST_MS, _LAST_MS))) for one in states]
    return join_states(sorted(one for one in clipped if one.span))


def _batches(cache: CandleCache, series: Series, span: Span | None) -> Iterator[Sequence[int]]:
    """Yield the numbers of the stored chunks of the span, some at a time."""
    chunks = cache.entries.chunks(series)
    if span is not None:
        wanted = chunks_of(series.timeframe, span)
        chunks = [chunk for chunk in chunks if chunk in wanted]
    for at in range(0, len(chunks), _BATCH):
        yield chunks[at : at + _BATCH]


def describe_coverage(runtime: Runtime, arguments: Arguments, *, is_all: bool) -> pd.DataFrame:
    """Return the table of `CandleFetcher.coverage`; `is_all` takes all of time in place of the range."""
    began = time.perf_counter()
    request, span = make_request(runtime, arguments), None
    if not is_all:
        wanted = request.range
        end_ms = request.source.estimated_ms() if wanted.end_ms is None else wanted.end_ms
        start_ms = 0 if wanted.back_ms is None else end_ms - wanted.back_ms
        span = Span(start_ms if wanted.start_ms is None else wanted.start_ms, end_ms)
    corrected_ms = runtime.cache.facts.corrections(request.series).at(request.source.estimated_ms())
    settling = request.feed.settling(request.series, corrected_ms)
    with naming_errors(lambda: request.about(span)):
        frame = states_frame(read_coverage(runtime.cache, request.series, span, settling))
    runtime.observe(Operation("coverage", time.perf_counter() - began, label=request.label))
    return frame
