"""The state of each span of a series, as it is stored, with the evidence for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.entry import Entry, Hole, HoleState
from candle_fetcher.core.expiry import ask_again_ms
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.gap import iso
from candle_fetcher.core.plan import confirmable_ms, find_corrected
from candle_fetcher.core.sizes import duration_text
from candle_fetcher.core.spans import Span, subtract


class SpanState(NamedTuple):
    """A span, its state, and the evidence for it. `asked_ms` is the time of the last request for it, `again_ms` the
    time after which it is requested again; None for what is final."""

    span: Span
    state: str
    asked_ms: int | None
    again_ms: int | None
    evidence: str


def state_of_hole(hole: Hole, provider: str, late_rows_ms: int) -> SpanState:
    """Return the state of a hole for which a source was asked; a row may come `late_rows_ms` late."""
    if hole.state is HoleState.BEYOND:
        evidence = f"it was older than what {provider} serves when it was last asked"
        return SpanState(hole.span, "depth_limit", None, None, evidence)
    evidence = f"{provider} was asked for it alone and has none"
    if hole.state is HoleState.DUE:
        evidence = "a file has none; REST is asked before that is believed"
    return SpanState(hole.span, "no_candle", hole.asked_ms, hole.ask_again_ms(late_rows_ms), evidence)


def states_of_facts(facts: Facts, provider: str, known: list[Span]) -> Iterator[SpanState]:
    """Yield the states that facts give; failures only where no better state is known."""
    for span, cause, asked_ms in facts.empty:
        evidence = f"{provider} answered for it with nothing"
        if cause == "not_listed" and facts.first_ms is not None:
            evidence = f"{provider} says that the first candle opens at {iso(facts.first_ms)}"
        yield SpanState(span, cause, asked_ms, ask_again_ms(span.end_ms, asked_ms), evidence)
    for failed in facts.failed:
        for part in subtract(failed.span, known):
            yield SpanState(part, "failed", failed.asked_ms, failed.asked_ms, failed.error)
    for one in facts.unverified:
        evidence = f"{one.path} of the archive has no checksum"
        yield SpanState(one.span, "unverified", None, None, evidence)


def states_of_corrected(entry: Entry, provider: str, settling: Settling) -> list[SpanState]:
    """Return the states of the newest candles of the entry, where they are read once more because the provider is known
    to correct candles."""
    from_ms = find_corrected(entry, settling)
    if from_ms is None:
        return []
    lag = duration_text(settling.corrected_ms / 1000)
    evidence = f"{provider} was seen to change candles up to {lag} after their close, and these were read sooner"
    parts = subtract(Span(from_ms, entry.covered.end_ms), [hole.span for hole in entry.holes])
    again_ms = confirmable_ms(entry, settling)
    return [SpanState(part, "stored", entry.stored_ms, again_ms, evidence) for part in parts]


def join_states(states: list[SpanState]) -> list[SpanState]:
    """Return the states, with adjoining ones of the same state and evidence joined."""
    done: list[SpanState] = []
    for one in states:
        last = done[-1] if done else None
        if last is not None and last[1:] == one[1:] and last.span.end_ms == one.span.start_ms:
            done[-1] = last._replace(span=Span(last.span.start_ms, one.span.end_ms))
        else:
            done.append(one)
    return done


def states_frame(states: Sequence[SpanState]) -> pd.DataFrame:
    """Return columns start, end (excluded), state, asked, ask_again (UTC, NaT where there is no such time),
    evidence."""

    def times(values: list[int | None]) -> pd.DatetimeIndex:
        stamps = [np.datetime64("NaT", "ms") if ms is None else np.datetime64(ms, "ms") for ms in values]
        return pd.DatetimeIndex(np.array(stamps, "M8[ms]")).tz_localize("UTC")

    return pd.DataFrame(
        {
            "start": times([one.span.start_ms for one in states]),
            "end": times([one.span.end_ms for one in states]),
            "state": pd.Series([one.state for one in states], dtype="str"),
            "asked": times([one.asked_ms for one in states]),
            "ask_again": times([one.again_ms for one in states]),
            "evidence": pd.Series([one.evidence for one in states], dtype="str"),
        }
    )
