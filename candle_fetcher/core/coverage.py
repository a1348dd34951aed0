"""What an answer adds to what is stored of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, find_holes, join, no_candles, overlay
from candle_fetcher.core.entry import UNASKED, Believed, Entry
from candle_fetcher.core.expiry import FOREVER_MS, LAG_MS, drop_unsettled
from candle_fetcher.core.spans import Span, subtract
from candle_fetcher.core.timeframe import Timeframe


def absorb(
    entry: Entry | None,
    span: Span,
    candles: Candles,
    holes: Sequence[Span],
    *,
    timeframe: Timeframe,
    now_ms: int,
    asked_ms: int | None = None,
    remember_ms: int = FOREVER_MS,
    zone_name: str | None = None,
) -> Entry | None:
    """The entry with the answer in it: inside the span the answer's candles and holes, outside it what was there.

    Candles that are not settled are left out, and so is as much of a hole at the end as is so close to now that its
    rows may still be written; what is covered ends before them. An answer that does not touch what is covered replaces
    it: an entry covers one span. `asked_ms` is when the holes were asked about, now unless given: DUE for a source
    whose word is not enough. What is covered is a fact all the same where holes are not to be asked for again: those
    that are older than `remember_ms`. `zone_name` is the zone at whose midnight days open, where they do not in UTC.
    """
    settled = drop_unsettled(candles, timeframe, now_ms, zone_name)
    end_ms = span.end_ms
    if settled.count < candles.count:
        end_ms = min(end_ms, timeframe.open_ms(timeframe.ordinal(int(candles.open_ms[settled.count]))))
    if holes and holes[-1].end_ms >= end_ms and now_ms - holes[-1].end_ms < LAG_MS:
        end_ms = min(end_ms, max(holes[-1].start_ms, timeframe.open_ms(timeframe.ordinal(now_ms - LAG_MS))))
    span = Span(span.start_ms, end_ms)
    asked_ms = now_ms if asked_ms is None else asked_ms
    told = [hole.clip(span) for hole in holes]
    believed = [Believed(*hole, asked_ms) for hole in told if hole and now_ms - hole.end_ms < remember_ms]
    if entry is None or span.start_ms > entry.covered.end_ms or span.end_ms < entry.covered.start_ms:
        return Entry(span, now_ms, tuple(believed), settled.trim(span)) if span else entry
    if not span:
        return entry
    for old in entry.believed:
        for kept in (
            Span(old.start_ms, min(old.end_ms, span.start_ms)),
            Span(max(old.start_ms, span.end_ms), old.end_ms),
        ):
            believed += [Believed(*kept, old.asked_ms)] if kept else []
    covered = Span(min(span.start_ms, entry.covered.start_ms), max(span.end_ms, entry.covered.end_ms))
    # A look into the middle says nothing about the live edge.
    stored_ms = now_ms if span.end_ms >= entry.covered.end_ms else entry.stored_ms
    return Entry(covered, stored_ms, tuple(sorted(believed)), overlay(entry.candles, settled.trim(span), span))


def bridge(entry: Entry | None, span: Span, *, timeframe: Timeframe, now_ms: int, asked_ms: int) -> Entry | None:
    """The entry, covering up to the span that it does not touch: what lies between is a hole asked for at `asked_ms`.

    Without this an answer would replace it, and what was stored would be lost.
    """
    if entry is None or not span or not (span.start_ms > entry.covered.end_ms or span.end_ms < entry.covered.start_ms):
        return entry
    between = Span(entry.covered.end_ms, span.start_ms)
    if span.end_ms < entry.covered.start_ms:
        between = Span(span.end_ms, entry.covered.start_ms)
    nothing = no_candles(entry.candles.names)
    return absorb(entry, between, nothing, [between], timeframe=timeframe, now_ms=now_ms, asked_ms=asked_ms)


class Filled(NamedTuple):
    """An entry that was filled in, and the spans in which it has been."""

    entry: Entry
    spans: tuple[Span, ...]


def fill(
    entry: Entry | None, span: Span, candles: Candles, *, timeframe: Timeframe, now_ms: int, asked_ms: int | None
) -> Filled:
    """The entry with what it lacks of the span: `candles` are all that there are in it, with the entry's columns. What
    is stored stays.

    A hole in what is added counts as asked for at `asked_ms`; with None it is a fact, and not to be asked for. Where
    the span does not touch what is covered, what lies between is UNASKED.
    """
    if entry is None:
        entry = Entry(Span(span.start_ms, span.start_ms), now_ms, (), candles.trim(Span(0, 0)))
    believed = [Believed(*part, hole.asked_ms) for hole in entry.believed for part in subtract(Span(*hole[:2]), [span])]
    covered = Span(min(span.start_ms, entry.covered.start_ms), max(span.end_ms, entry.covered.end_ms))
    believed += [Believed(*between, UNASKED) for between in subtract(covered, [entry.covered, span])]
    empty = [Believed(*part, asked_ms) for part in subtract(span, [entry.covered]) if asked_ms is not None]
    empty += [hole._replace(asked_ms=max(hole.asked_ms, asked_ms)) for hole in entry.believed if asked_ms is not None]
    spans = [*subtract(span, [entry.covered])]
    spans += find_holes(entry.candles.open_ms, timeframe, span.clip(entry.covered))
    parts = [entry.candles]
    for part in spans:
        rows = candles.trim(part)
        parts += [rows] if rows.count else []
        for hole in find_holes(rows.open_ms, timeframe, part):
            pieces = [(Span(*one[:2]).clip(hole).clip(part), one.asked_ms) for one in empty]
            believed += [Believed(*piece, at_ms) for piece, at_ms in pieces if piece]
    joined = join([part for part in parts if part.count] or parts[:1])
    order = np.argsort(joined.open_ms, kind="stable")
    stored_ms = now_ms if span.end_ms > entry.covered.end_ms else entry.stored_ms
    whole = Candles(joined.names, joined.block[:, order])
    return Filled(Entry(covered, stored_ms, tuple(sorted(believed)), whole), tuple(spans))
