"""One entry out of what is stored of a chunk now and what a call knows of it: the newer word about each span stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import overlay
from candle_fetcher.core.entry import UNKNOWN, Entry, Hole, HoleState, holes_outside
from candle_fetcher.core.spans import Span, hull, merge, subtract
from candle_fetcher.core.timeframe import Timeframe


class Merged(NamedTuple):
    """An entry to store, and the spans of it in which the call's word replaces the stored one."""

    entry: Entry
    replaced: tuple[Span, ...]


def merge_entries(
    stored: Entry | None,
    ours: Entry,
    answered: Sequence[Span],
    *,
    timeframe: Timeframe,
    seen: Entry | None = None,
    between: HoleState = HoleState.UNASKED,
) -> Merged:
    """Merge `ours`, the entry as a call has it, into the entry that is stored now.

    `answered` are the spans for which a source answered in this call: there `ours` replaces what is stored. Everywhere
    else `ours` is a copy that may be old, and what is stored stays. `seen` is what was stored before the source was
    asked: a candle that was stored since then comes from a later question, and stays too. A hole that is DUE deletes
    no candle. What only one of the two knows is kept. Where they do not touch, the span between them is a hole in the
    state `between`.
    """
    if stored is None:
        return Merged(ours, (ours.covered,))
    if not ours.covered:
        return Merged(stored, ())
    replaced = _without(answered, [span.clip(stored.covered) for span in _spans(ours, HoleState.DUE)])
    replaced = _without(replaced, _stored_since(stored, seen, timeframe))
    # What is not stored, or stored as not known, may be known to our copy.
    replaced += [*subtract(ours.covered, [stored.covered]), *_spans(stored, *UNKNOWN)]
    replaced = [span.clip(ours.covered) for span in replaced]
    replaced = merge(_without(replaced, [span.clip(stored.covered) for span in _spans(ours, *UNKNOWN)]))
    candles = stored.candles
    for span in replaced:
        candles = overlay(candles, ours.candles.trim(span), span)
    covered = hull([stored.covered, ours.covered])
    holes = holes_outside(stored.holes, replaced)
    holes += [hole._replace(span=part) for hole in ours.holes for span in replaced if (part := span.clip(hole.span))]
    holes += [Hole(span, between) for span in subtract(covered, [stored.covered, ours.covered])]
    # A word about the middle says nothing about the live edge.
    has_end = bool(replaced) and replaced[-1].end_ms == covered.end_ms
    stored_ms = ours.stored_ms if has_end else stored.stored_ms
    return Merged(Entry(covered, stored_ms, tuple(sorted(holes)), candles), tuple(replaced))


def _stored_since(stored: Entry, seen: Entry | None, timeframe: Timeframe) -> list[Span]:
    """The slots of the candles that are stored, and were not, or with other values, in `seen`."""
    opens = stored.candles.open_ms
    if seen is not None:
        old, new = seen.candles, stored.candles
        if old.names == new.names and np.array_equal(old.block, new.block):
            return []
        names = [name for name in new.names if name in old.names]
        _, at, was_at = np.intersect1d(new.open_ms, old.open_ms, assume_unique=True, return_indices=True)
        same = (new.pick(names).block[:, at] == old.pick(names).block[:, was_at]).all(axis=0)
        opens = np.delete(opens, at[same])
    numbers = np.unique(timeframe.ordinals(opens)).tolist()
    return [timeframe.span(number, number + 1) for number in numbers]


def _spans(entry: Entry, *states: HoleState) -> list[Span]:
    return [hole.span for hole in entry.holes if hole.state in states]


def _without(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    return [part for span in spans for part in subtract(span, others)]
