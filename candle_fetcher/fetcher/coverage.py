"""coverage(): the state of each span of a series in the cache, with its evidence. Sends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.entry import Hole, HoleState
from candle_fetcher.core.errors import naming_errors
from candle_fetcher.core.events import Operation
from candle_fetcher.core.expiry import ask_again_ms
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.gap import iso
from candle_fetcher.core.plan import chunks_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.fetcher.request import Arguments, make_request
from candle_fetcher.fetcher.runtime import Runtime

_BATCH = 64
# The bounds of a call without a range.
_FIRST_MS, _LAST_MS = 0, 253_402_300_800_000


class Line(NamedTuple):
    """A span, its state, and the evidence for it. `asked_ms` is the time of the last request for it, `again_ms` the
    time after which it is requested again; None for what is final."""

    span: Span
    state: str
    asked_ms: int | None
    again_ms: int | None
    evidence: str


def read_coverage(cache: CandleCache, series: Series, span: Span | None, late_rows_ms: int) -> list[Line]:
    """Return the states of the span, or of all time, in order. Parts without a line were never requested.

    `late_rows_ms` is how late a row may come, in ms.
    """
    facts = cache.facts.reload(series)
    empty = facts.empty_spans
    lines: list[Line] = []
    stored: list[Span] = []
    for batch in _batches(cache, series, span):
        for _, entry in cache.entries.read(series, batch).values():
            stored += subtract(entry.covered, [hole.span for hole in entry.holes])
            for hole in entry.holes:
                if hole.state is not HoleState.UNASKED:
                    known = _of_hole(hole, series.provider, late_rows_ms)
                    lines += [known._replace(span=part) for part in subtract(hole.span, empty)]
    facts = cache.facts.get(series)  # an entry may know more than they did
    unverified = [one.span for one in facts.unverified]
    lines += [Line(part, "stored", None, None, "") for one in merge(stored) for part in subtract(one, unverified)]
    lines += _of_facts(facts, series.provider, known=[*empty, *stored, *(line.span for line in lines)])
    clipped = [line._replace(span=line.span.clip(span or Span(_FIRST_MS, _LAST_MS))) for line in lines]
    return _joined(sorted(line for line in clipped if line.span))


def _of_hole(hole: Hole, provider: str, late_rows_ms: int) -> Line:
    """Return the state of a hole for which a source was asked."""
    if hole.state is HoleState.BEYOND:
        evidence = f"it was older than what {provider} serves when it was last asked"
        return Line(hole.span, "depth_limit", None, None, evidence)
    evidence = f"{provider} was asked for it alone and has none"
    if hole.state is HoleState.DUE:
        evidence = "a file has none; REST is asked before that is believed"
    return Line(hole.span, "no_candle", hole.asked_ms, hole.ask_again_ms(late_rows_ms), evidence)


def _of_facts(facts: Facts, provider: str, known: list[Span]) -> Iterator[Line]:
    """Yield the states of the facts; failures only where no better state is known."""
    for span, cause, asked_ms in facts.empty:
        evidence = f"{provider} answered for it with nothing"
        if cause == "not_listed" and facts.first_ms is not None:
            evidence = f"{provider} says that the first candle opens at {iso(facts.first_ms)}"
        yield Line(span, cause, asked_ms, ask_again_ms(span.end_ms, asked_ms), evidence)
    for failed in facts.failed:
        for part in subtract(failed.span, known):
            yield Line(part, "failed", failed.asked_ms, failed.asked_ms, failed.error)
    for one in facts.unverified:
        evidence = f"{one.path} of the archive has no checksum"
        yield Line(one.span, "unverified", None, None, evidence)


def _batches(cache: CandleCache, series: Series, span: Span | None) -> Iterator[Sequence[int]]:
    """Yield the numbers of the stored chunks of the span, some at a time."""
    chunks = cache.entries.chunks(series)
    if span is not None:
        wanted = chunks_of(series.timeframe, span)
        chunks = [chunk for chunk in chunks if chunk in wanted]
    for at in range(0, len(chunks), _BATCH):
        yield chunks[at : at + _BATCH]


def _joined(lines: list[Line]) -> list[Line]:
    """Return the lines, with adjoining ones of the same state and evidence joined."""
    done: list[Line] = []
    for line in lines:
        last = done[-1] if done else None
        if last is not None and last[1:] == line[1:] and last.span.end_ms == line.span.start_ms:
            done[-1] = last._replace(span=Span(last.span.start_ms, line.span.end_ms))
        else:
            done.append(line)
    return done


def coverage_frame(lines: list[Line]) -> pd.DataFrame:
    """Return columns start, end (excluded), state, asked, ask_again (UTC, NaT where there is no such time),
    evidence."""

    def times(values: list[int | None]) -> pd.DatetimeIndex:
        stamps = [np.datetime64("NaT", "ms") if ms is None else np.datetime64(ms, "ms") for ms in values]
        return pd.DatetimeIndex(np.array(stamps, "M8[ms]")).tz_localize("UTC")

    return pd.DataFrame(
        {
            "start": times([line.span.start_ms for line in lines]),
            "end": times([line.span.end_ms for line in lines]),
            "state": pd.Series([line.state for line in lines], dtype="str"),
            "asked": times([line.asked_ms for line in lines]),
            "ask_again": times([line.again_ms for line in lines]),
            "evidence": pd.Series([line.evidence for line in lines], dtype="str"),
        }
    )


def describe_coverage(runtime: Runtime, arguments: Arguments, *, is_all: bool) -> pd.DataFrame:
    """Return the table of `CandleFetcher.coverage`; `is_all` takes all of time in place of the range."""
    began = time.perf_counter()
    request, span = make_request(runtime, arguments), None
    if not is_all:
        wanted = request.range
        end_ms = request.source.estimated_ms() if wanted.end_ms is None else wanted.end_ms
        start_ms = 0 if wanted.back_ms is None else end_ms - wanted.back_ms
        span = Span(start_ms if wanted.start_ms is None else wanted.start_ms, end_ms)
    late_rows_ms = request.feed.finality.late_rows_ms
    with naming_errors(lambda: request.about(span)):
        frame = coverage_frame(read_coverage(runtime.cache, request.series, span, late_rows_ms))
    runtime.observe(Operation("coverage", time.perf_counter() - began, label=request.label))
    return frame
