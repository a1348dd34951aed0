"""The gaps of collected candles, with their causes."""

from __future__ import annotations

from candle_fetcher.core.candles import Candles, find_holes, gap_of
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.fetcher.gathering import GatherResult
from candle_fetcher.sessions import OpenParts


def find_all_gaps(
    found: GatherResult, candles: Candles, timeframe: Timeframe, span: Span, open_parts: OpenParts
) -> list[Gap]:
    """Return every gap of the span, with its cause, in order; `candles` may reach beyond the span.

    A part that failed is no gap, and neither is a part of a hole that `open_parts` leaves out.
    """
    holes = _final_holes(found, candles, timeframe, span)
    if not holes:
        return []
    # A span in which there are candles after all is no reason any more.
    empty = [
        (span, cause)
        for span, cause, _ in found.facts.empty
        if not any(part.entry.candles.trim(span).count for part in found.chunks)
    ]
    lost = [_outwards(span, timeframe) for span in (*(span for span, _ in found.failed), *found.beyond)]
    gaps = []
    for piece in (piece for hole in holes for piece in subtract(hole, lost)):
        known = [(_inwards(piece.clip(span), timeframe), cause) for span, cause in empty]
        gaps += [gap_of(part, timeframe, cause) for part, cause in known if part]
        for left in subtract(piece, [part for part, _ in known]):
            gaps += [gap_of(part, timeframe, "no_candle") for part in open_parts(left)]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def _final_holes(found: GatherResult, candles: Candles, timeframe: Timeframe, span: Span) -> list[Span]:
    """Return the holes of the span, without slots that may still get a candle."""
    borders = _borders(found, candles, timeframe, span)
    knows_hole = timeframe != found.series.timeframe or any(part.entry.holes for part in found.chunks)
    if not knows_hole and candles.trim(borders).count == len(timeframe.slots(borders)):
        return []  # there is a candle for each slot
    holes = find_holes(candles.open_ms, timeframe, borders)
    if holes and candles.count:
        until_ms = forming_ms(candles, found.settling.of(timeframe), span.end_ms, found.now_ms)
        if until_ms < span.end_ms:
            holes = [hole for one in holes if (hole := one.clip(Span(holes[0].start_ms, until_ms)))]
    return holes


def forming_ms(candles: Candles, settling: Settling, end_ms: int, now_ms: int) -> int:
    """Return where the slots begin that may still get a candle, after the newest one; `end_ms` where none may.

    Candles off the grid close later than their slots.
    """
    timeframe = settling.timeframe
    newest_ms = int(candles.open_ms[-1])
    newest = timeframe.ordinal(newest_ms)
    late_ms = newest_ms - timeframe.open_ms(newest)
    slot = timeframe.first_slot(end_ms)
    last_ms = now_ms - settling.finality.delay_ms
    while late_ms and slot - 1 > newest and _close_ms(settling, slot - 1, late_ms) > last_ms:
        slot -= 1
    return min(end_ms, timeframe.open_ms(slot))


def _close_ms(settling: Settling, slot: int, late_ms: int) -> int:
    """Return when the candle is over that opens so long after its slot; in a zone, that opens at its midnight."""
    if settling.zone_name is not None:
        return settling.slot_close_ms(slot)
    return settling.close_ms(settling.timeframe.open_ms(slot) + late_ms)


def _borders(found: GatherResult, candles: Candles, timeframe: Timeframe, span: Span) -> Span:
    """Return the slots of the candles that open in the span, from border to border.

    On the grid a candle opens with its slot. In a zone, or where candles have a phase of their own, it opens later.
    """
    first, stop = timeframe.ordinal(span.start_ms), timeframe.first_slot(span.end_ms)
    if not span or timeframe != found.series.timeframe:
        first = timeframe.first_slot(span.start_ms)
        return timeframe.span(first, max(first, stop))
    if _expected_ms(found, candles, timeframe, first) < span.start_ms:
        first += 1
    if _expected_ms(found, candles, timeframe, stop - 1) >= span.end_ms:
        stop -= 1
    return timeframe.span(first, max(first, stop))


def _expected_ms(found: GatherResult, candles: Candles, timeframe: Timeframe, slot: int) -> int:
    """Return when the candle of the slot is expected to open: with the slot, unless it is known to open later."""
    open_ms = timeframe.open_ms(slot)
    if found.settling.zone_name is not None:
        return found.settling.of(timeframe).slot_open_ms(slot)
    if not found.is_off_grid or not candles.count:
        return open_ms
    known_ms = int(candles.open_ms[-1])
    return open_ms + known_ms - timeframe.floor_ms(known_ms)


def _outwards(span: Span, timeframe: Timeframe) -> Span:
    """Return the span up to the borders of the slots that it touches."""
    return Span(timeframe.floor_ms(span.start_ms), timeframe.ceil_ms(span.end_ms))


def _inwards(span: Span, timeframe: Timeframe) -> Span:
    """Return the slots that lie wholly in the span; an empty span where there is none."""
    if not span:
        return span
    return Span(timeframe.ceil_ms(span.start_ms), timeframe.floor_ms(span.end_ms))


def failed_gaps(found: GatherResult, candles: Candles, timeframe: Timeframe, span: Span, cause: str) -> list[Gap]:
    """Return the parts of the span that could not be fetched, as slots of the candles that open in it.

    `cause` is the cause of a part for which no source raised an error.
    """
    wanted = _borders(found, candles, timeframe, span)
    touched = _outwards(span, timeframe)
    if found.is_off_grid and not candles.count and timeframe == found.series.timeframe:
        wanted = touched  # where candles open in their slots is not known: one of the first slot may be in the range
    gaps = []
    for why, failed in (
        (cause, [span for span, error in found.failed if error is None]),
        ("fetch_failed", [span for span, error in found.failed if error is not None]),
        ("depth_limit", found.beyond),
    ):
        slots = merge(_outwards(part, timeframe).clip(touched) for one in failed if (part := one.clip(found.span)))
        # Where no candle is expected to open in the range, one off the grid may all the same.
        gaps += [gap_of(one.clip(wanted) or one, timeframe, why) for one in slots]
    return sorted(gaps, key=lambda gap: gap.first_ms)
