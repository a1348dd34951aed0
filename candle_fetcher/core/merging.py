"""Merges what a call knows of a chunk into what is stored of it by now: for each span, the newer answer is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, Int64s, find_holes, overlay
from candle_fetcher.core.entry import UNKNOWN, Entry, Hole, HoleState, holes_outside
from candle_fetcher.core.spans import Span, hull, intersect, merge, subtract
from candle_fetcher.core.timeframe import Timeframe


class Merged(NamedTuple):
    """An entry to store, and the spans in which the call's answer replaces what was stored.

    `contested` are spans in which the call's answer differs from what another call stored meanwhile. It is not known
    which of the two answers is newer: what is stored stays, and the source has to be asked once more.
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

    answered: the spans for which a source answered in this call. There `ours` replaces what is stored; everywhere else
    `ours` may be an old copy, so that what is stored stays.
    seen: what was stored before the call asked the source. What another call stored since then may be older or newer
    than our answer. It stays, and where the two differ, the span is contested.
    between: the state of the hole between the two entries, where they do not touch.

    A hole that is DUE deletes no candle. Parts that only one of the two entries covers are kept.
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
    # Where nothing is stored, or it is stored as unknown, even an old copy knows more.
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
    # An answer about the middle says nothing about the live edge.
    has_end = bool(replaced) and replaced[-1].end_ms == covered.end_ms
    stored_ms = ours.stored_ms if has_end else stored.stored_ms
    return Merged(Entry(covered, stored_ms, tuple(sorted(holes)), candles), tuple(replaced), tuple(contested))


def fill_from_copy(stored: Entry | None, copy: Entry, timeframe: Timeframe) -> Merged | None:
    """Return the stored entry with what a copy of it, made at any time, knows beside it; None where that is nothing.

    What is stored stays, but that a candle of the copy fills a hole, unless that was confirmed later than the copy was
    read, and a confirmed hole one that is to be asked for.
    """
    if stored is None:
        return Merged(copy, (copy.covered,))
    spans: list[Span] = []
    for hole in stored.holes:
        part = hole.span.clip(copy.covered)
        if part and copy.stored_ms >= (hole.asked_ms or 0):
            spans += subtract(part, find_holes(copy.candles.open_ms, timeframe, part))
        if hole.state is HoleState.DUE:
            spans += [one.clip(hole.span) for one in _spans(copy, HoleState.CONFIRMED)]
    merged = merge_entries(stored, copy, merge(spans), timeframe=timeframe, seen=stored)
    return merged if merged.replaced else None


def _differing(entry: Entry, other: Entry | None, timeframe: Timeframe) -> list[Span]:
    """Return the slots where `entry` has a candle or a confirmed hole, and the other entry has not the same."""
    holes = _spans(entry, HoleState.CONFIRMED)
    if other is not None:
        known = _spans(other, HoleState.CONFIRMED)
        holes = _without(
            sorted(set(holes).difference(known)), known
        )  # first the equal ones, which most are: it is faster
    numbers = np.unique(timeframe.ordinals(_differing_opens(entry.candles, other))).tolist()
    return merge([*holes, *(timeframe.span(number, number + 1) for number in numbers)])


def _differing_opens(candles: Candles, other: Entry | None) -> Int64s:
    """Return the open times of the candles that the other entry lacks or has with different values."""
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
