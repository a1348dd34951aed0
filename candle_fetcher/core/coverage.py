"""What an answer adds to what is stored of a chunk."""

from __future__ import annotations

from collections.abc import Sequence

from candle_fetcher.core.candles import Candles, overlay
from candle_fetcher.core.entry import Believed, Entry
from candle_fetcher.core.expiry import LAG_MS, drop_unsettled
from candle_fetcher.core.spans import Span, subtract
from candle_fetcher.core.timeframe import Timeframe


def extend(old: Entry, new: Entry) -> Entry:
    """The new entry, and of the old one what lies before and after it; the new one alone where they do not touch."""
    if new.covered.start_ms > old.covered.end_ms or new.covered.end_ms < old.covered.start_ms:
        return new
    believed = [*new.believed]
    for hole in old.believed:
        parts = subtract(Span(hole.start_ms, hole.end_ms), [new.covered])
        believed += [Believed(*part, hole.asked_ms) for part in parts]
    return Entry(
        Span(min(old.covered.start_ms, new.covered.start_ms), max(old.covered.end_ms, new.covered.end_ms)),
        new.stored_ms if new.covered.end_ms >= old.covered.end_ms else old.stored_ms,
        tuple(sorted(believed)),
        overlay(old.candles, new.candles, new.covered),
    )


def absorb(
    entry: Entry | None,
    span: Span,
    candles: Candles,
    holes: Sequence[Span],
    *,
    timeframe: Timeframe,
    now_ms: int,
    asked_ms: int | None = None,
) -> Entry | None:
    """The entry with the answer in it: inside the span the answer's candles and holes, outside it what was there.

    Candles that are not settled are left out, and so is as much of a hole at the end as is so close to now that its
    rows may still be written; what is covered ends before them. An answer that does not touch what is covered replaces
    it: an entry covers one span. `asked_ms` is when the holes were asked about, now unless given: 0 for a source whose
    word is not enough, so that they are due at once.
    """
    settled = drop_unsettled(candles, timeframe, now_ms)
    end_ms = span.end_ms
    if settled.count < candles.count:
        end_ms = min(end_ms, timeframe.open_ms(timeframe.ordinal(int(candles.open_ms[settled.count]))))
    if holes and holes[-1].end_ms >= end_ms and now_ms - holes[-1].end_ms < LAG_MS:
        end_ms = min(end_ms, max(holes[-1].start_ms, timeframe.open_ms(timeframe.ordinal(now_ms - LAG_MS))))
    span = Span(span.start_ms, end_ms)
    asked_ms = now_ms if asked_ms is None else asked_ms
    believed = [Believed(*hole.clip(span), asked_ms) for hole in holes if hole.clip(span)]
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
