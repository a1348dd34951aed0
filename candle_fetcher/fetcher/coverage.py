"""What the cache knows of a series, span by span: stored, empty and who said so, failed. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import iso
from candle_fetcher.core.entry import Hole, HoleState
from candle_fetcher.core.expiry import ask_again_ms
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.plan import chunks_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract

_BATCH = 64
# Where time begins for those who ask about all of it.
_FIRST_MS, _LAST_MS = 0, 253_402_300_800_000


class Line(NamedTuple):
    """A span and what is known of it; `evidence` says how. `asked_ms` is when somebody was asked about it, and
    `again_ms` when somebody will be asked again: None for what is final."""

    span: Span
    state: str
    asked_ms: int | None
    again_ms: int | None
    evidence: str


def read_coverage(cache: CandleCache, series: Series, span: Span | None, late_ms: int) -> list[Line]:
    """What is known of the span, or of all time, in order. What no line speaks of has never been asked for.

    `late_ms` is how late a row may come.
    """
    facts = cache.look_up_facts(series)
    empty = facts.empty_spans
    lines: list[Line] = []
    stored: list[Span] = []
    for batch in _batches(cache, series, span):
        for _, entry in cache.read_stored(series, batch).values():
            stored += subtract(entry.covered, [hole.span for hole in entry.holes])
            for hole in entry.holes:
                if hole.state is not HoleState.UNASKED:
                    known = _of_hole(hole, series.provider, late_ms)
                    lines += [known._replace(span=part) for part in subtract(hole.span, empty)]
    facts = cache.facts(series)  # an entry may know more than they did
    unverified = [one.span for one in facts.unverified]
    lines += [Line(part, "stored", None, None, "") for one in merge(stored) for part in subtract(one, unverified)]
    lines += _of_facts(facts, series.provider, known=[*empty, *stored, *(line.span for line in lines)])
    clipped = [line._replace(span=line.span.clip(span or Span(_FIRST_MS, _LAST_MS))) for line in lines]
    return _joined(sorted(line for line in clipped if line.span))


def _of_hole(hole: Hole, provider: str, late_ms: int) -> Line:
    """What is known of a hole that a source was asked about."""
    if hole.state is HoleState.BEYOND:
        evidence = f"it was older than what {provider} serves when it was last asked"
        return Line(hole.span, "depth_limit", None, None, evidence)
    evidence = f"{provider} was asked for it alone and has none"
    if hole.state is HoleState.DUE:
        evidence = "a file has none; REST is asked before that is believed"
    return Line(hole.span, "no_candle", hole.asked_ms, hole.ask_again_ms(late_ms), evidence)


def _of_facts(facts: Facts, provider: str, known: list[Span]) -> Iterator[Line]:
    """What the facts tell; that something failed where nothing better is known."""
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
    """The numbers of the stored chunks of the span, some at a time."""
    chunks = cache.stored_chunks(series)
    if span is not None:
        wanted = chunks_of(series.timeframe, span)
        chunks = [chunk for chunk in chunks if chunk in wanted]
    for at in range(0, len(chunks), _BATCH):
        yield chunks[at : at + _BATCH]


def _joined(lines: list[Line]) -> list[Line]:
    """Lines of one state that adjoin and say the same, as one."""
    done: list[Line] = []
    for line in lines:
        last = done[-1] if done else None
        if last is not None and last[1:] == line[1:] and last.span.end_ms == line.span.start_ms:
            done[-1] = last._replace(span=Span(last.span.start_ms, line.span.end_ms))
        else:
            done.append(line)
    return done


def coverage_frame(lines: list[Line]) -> pd.DataFrame:
    """Columns start, end (excluded), state, asked, ask_again (UTC, NaT where there is no such time), evidence."""

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
