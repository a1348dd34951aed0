"""One entry out of what is stored of a chunk now and what a call knows of it: the newer word about each span stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, Int64s, overlay
from candle_fetcher.core.entry import UNKNOWN, Entry, Hole, HoleState, holes_outside
from candle_fetcher.core.spans import Span, hull, intersect, merge, subtract
from candle_fetcher.core.timeframe import Timeframe


class Merged(NamedTuple):
    """An entry to store, and the spans of it in which the call's word replaces the stored one.

    `contested` are spans in which the call's answer and what was stored since `seen` differ. Nothing tells which of
    the two questions came first: what is stored stays, and the source is to be asked once more.
    """

    entry: Entry
    replaced: tuple[Span, ...]
    contested: tuple[Span, ...] = ()


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
    asked: what was stored since then comes from a question that may be earlier or later, and stays too; where the two
    answers differ, the span is contested. A hole that is DUE deletes no candle. What only one of the two knows is
    kept. Where they do not touch, the span between them is a hole in the state `between`.
    """
    if stored is None:
        return Merged(ours, (ours.covered,))
    if not ours.covered:
        return Merged(stored, ())
    replaced = [span.clip(ours.covered) for span in answered]
    replaced = _without(replaced, [span.clip(stored.covered) for span in _spans(ours, HoleState.DUE)])
    newer = _differing(stored, seen, timeframe)
    contested = intersect(intersect(replaced, newer), _differing(stored, ours, timeframe)) if newer else []
    contested = _without(contested, _spans(ours, *UNKNOWN))
    replaced = _without(replaced, newer)
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
    return Merged(Entry(covered, stored_ms, tuple(sorted(holes)), candles), tuple(replaced), tuple(contested))


def _differing(entry: Entry, other: Entry | None, timeframe: Timeframe) -> list[Span]:
    """Return the slots of which `entry` has a candle or a confirmed hole, and the other something else or nothing."""
    holes = _spans(entry, HoleState.CONFIRMED)
    if other is not None:
        known = _spans(other, HoleState.CONFIRMED)
        holes = _without(sorted(set(holes).difference(known)), known)  # most holes are the same
    numbers = np.unique(timeframe.ordinals(_differing_opens(entry.candles, other))).tolist()
    return merge([*holes, *(timeframe.span(number, number + 1) for number in numbers)])


def _differing_opens(candles: Candles, other: Entry | None) -> Int64s:
    """Return the open times of the candles that the other entry lacks, or has with other values."""
    if other is None or candles.equals(other.candles):
        return candles.open_ms if other is None else candles.open_ms[:0]
    names = [name for name in candles.names if name in other.candles.names]
    ours, theirs = candles.pick(names), other.candles.pick(names)
    _, at, their_at = np.intersect1d(ours.open_ms, theirs.open_ms, assume_unique=True, return_indices=True)
    same = (ours.block[:, at] == theirs.block[:, their_at]).all(axis=0)
    return np.delete(candles.open_ms, at[same])


def _spans(entry: Entry, *states: HoleState) -> list[Span]:
    return [hole.span for hole in entry.holes if hole.state in states]


def _without(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    return [part for span in spans for part in subtract(span, others)]
