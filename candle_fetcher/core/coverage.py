"""Adds an answer of a source to what is stored of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, find_holes, join, no_candles, overlay
from candle_fetcher.core.entry import Entry, Hole, HoleState, holes_outside
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.spans import Span, hull, subtract
from candle_fetcher.core.timeframe import Timeframe


def absorb(
    entry: Entry | None,
    span: Span,
    candles: Candles,
    holes: Sequence[Span],
    *,
    settling: Settling,
    now_ms: int,
    state: HoleState = HoleState.CONFIRMED,
    remember_ms: int = FOREVER_MS,
    open_ms: int = FOREVER_MS,
) -> Entry | None:
    """Return the entry with an answer for the span merged in.

    In the span, the answer's candles replace the stored ones, slot by slot. Where the answer has no candle, a stored
    one stays, since a reply may lack rows. Candles that are not settled are left out, and the covered span ends before
    them. It also ends before a hole at the live edge, which may be a late row, unless the feed sets `spares_edge`. An
    answer that does not touch the covered span replaces the entry, because an entry covers one span.

    state: the state of the answer's holes; DUE where REST still has to confirm them. remember_ms: older holes are not
    stored. open_ms: when a candle opens that may still change, as the reply states, and that is not in `candles`; the
    covered span ends before its slot, unless the candle closed long ago.
    """
    timeframe = settling.timeframe
    settled = settling.settled(candles, now_ms)
    end_ms = span.end_ms
    if settled.count < candles.count:
        end_ms = min(end_ms, timeframe.floor_ms(int(candles.open_ms[settled.count])))
    if settling.changes(open_ms, now_ms):
        end_ms = min(end_ms, timeframe.floor_ms(open_ms))
    if holes and holes[-1].end_ms >= end_ms and not settling.finality.spares_edge:
        end_ms = min(end_ms, max(holes[-1].start_ms, settling.known_ms(now_ms)))
    span = Span(span.start_ms, end_ms)
    candles = settled.trim(span)
    if entry is not None and entry.candles.count:
        stored = entry.candles.trim(span)
        candles = _with_stored(candles, stored, timeframe)
        holes = [part for hole in holes for part in _without(hole, stored, timeframe)]
    clipped = [hole.clip(span) for hole in holes]
    kept = [Hole.at(hole, state, now_ms) for hole in clipped if hole and now_ms - hole.end_ms < remember_ms]
    if entry is None or not span.touches(entry.covered):
        return Entry(span, now_ms, tuple(kept), candles) if span else entry
    if not span:
        return entry
    kept += holes_outside(entry.holes, [span])
    covered = hull([span, entry.covered])
    # An answer about the middle says nothing about the live edge.
    stored_ms = now_ms if span.end_ms >= entry.covered.end_ms else entry.stored_ms
    return Entry(covered, stored_ms, tuple(sorted(kept)), overlay(entry.candles, candles, span))


def _with_stored(candles: Candles, stored: Candles, timeframe: Timeframe) -> Candles:
    """Return the candles together with the stored candles of all other slots."""
    stays = ~np.isin(timeframe.ordinals(stored.open_ms), timeframe.ordinals(candles.open_ms))
    if not stays.any():
        return candles
    joined = join([candles, Candles(stored.names, stored.block[:, stays])])
    return Candles(joined.names, joined.block[:, np.argsort(joined.open_ms, kind="stable")])


def _without(hole: Span, stored: Candles, timeframe: Timeframe) -> list[Span]:
    """Return the parts of the hole without a stored candle in their slots."""
    slots = timeframe.ordinals(stored.trim(hole).open_ms).tolist()
    return subtract(hole, [timeframe.span(slot, slot + 1) for slot in slots])


def bridge(entry: Entry | None, span: Span, *, settling: Settling, now_ms: int, state: HoleState) -> Entry | None:
    """Return the entry extended up to the span; the part between them becomes a hole in that state.

    Without this, an answer that does not touch the entry would replace it, and the stored candles would be lost.
    """
    if entry is None or not span or span.touches(entry.covered):
        return entry
    between = Span(entry.covered.end_ms, span.start_ms)
    if span.end_ms < entry.covered.start_ms:
        between = Span(span.end_ms, entry.covered.start_ms)
    nothing = no_candles(entry.candles.names)
    return absorb(entry, between, nothing, [between], settling=settling, now_ms=now_ms, state=state)


class Filled(NamedTuple):
    """An entry after `fill`, and the spans that were filled."""

    entry: Entry
    spans: tuple[Span, ...]


def fill(
    entry: Entry | None, span: Span, candles: Candles, *, timeframe: Timeframe, now_ms: int, state: HoleState | None
) -> Filled:
    """Return the entry with the candles that it lacks in the span; stored candles stay.

    candles: all candles of the span, with the entry's columns. state: the state of holes in the added parts; None where
    the absence of these candles is a fact, so that no hole is noted. Where the span does not touch the covered span,
    the part between them becomes an UNASKED hole.
    """
    if entry is None:
        entry = Entry(Span(span.start_ms, span.start_ms), now_ms, (), candles.trim(Span(0, 0)))
    holes = holes_outside(entry.holes, [span])
    covered = hull([span, entry.covered])
    holes += [Hole(between, HoleState.UNASKED) for between in subtract(covered, [entry.covered, span])]
    empty: list[Hole] = []
    if state is not None:
        empty += [Hole.at(part, state, now_ms) for part in subtract(span, [entry.covered])]
        empty += [max(hole, Hole.at(hole.span, state, now_ms)) for hole in entry.holes]
    spans = [*subtract(span, [entry.covered])]
    spans += find_holes(entry.candles.open_ms, timeframe, span.clip(entry.covered))
    parts = [entry.candles]
    for part in spans:
        rows = candles.trim(part)
        parts += [rows] if rows.count else []
        for hole in find_holes(rows.open_ms, timeframe, part):
            pieces = [known._replace(span=known.span.clip(hole).clip(part)) for known in empty]
            holes += [piece for piece in pieces if piece.span]
    joined = join([part for part in parts if part.count] or parts[:1])
    order = np.argsort(joined.open_ms, kind="stable")
    stored_ms = now_ms if span.end_ms > entry.covered.end_ms else entry.stored_ms
    whole = Candles(joined.names, joined.block[:, order])
    return Filled(Entry(covered, stored_ms, tuple(sorted(holes)), whole), tuple(spans))
