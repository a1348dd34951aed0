"""What is said of a frame: its gaps with their causes, the tiers that its rows came from, its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from candle_fetcher.core.candles import Candles, Gap, find_holes, gap_of, iso
from candle_fetcher.core.expiry import GRACE_MS
from candle_fetcher.core.frame import Manifest
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.sessions import OpenParts
from candle_fetcher.fetcher.trip import Gathered

_SHOWN = 10


def find_all_gaps(
    told: Gathered, candles: Candles, timeframe: Timeframe, span: Span, open_parts: OpenParts
) -> list[Gap]:
    """Every gap of the span, with its cause, in order; `candles` may reach beyond the span. What failed is no gap, nor
    what `open_parts` leaves out of a hole."""
    holes = find_holes(candles.open_ms, timeframe, span)
    if holes and candles.count:
        holes = _without_forming(holes, candles, timeframe, told.now_ms)
    # A span in which there are candles after all is no reason any more.
    spans = [(Span(one.start_ms, one.end_ms), one.cause) for one in told.facts.quiet]
    quiet = [(one, cause) for one, cause in spans if not any(part.entry.candles.trim(one).count for part in told.parts)]
    gaps = []
    for hole in holes:
        lost = [*(span for span, _ in told.failed), *told.beyond]
        for piece in subtract(hole, [_outwards(span, timeframe) for span in lost]):
            told_apart = [(_inwards(piece.clip(span), timeframe), cause) for span, cause in quiet]
            gaps += [gap_of(part, timeframe, cause) for part, cause in told_apart if part]
            lacking = [part for left in subtract(piece, [part for part, _ in told_apart]) for part in open_parts(left)]
            gaps += [gap_of(part, timeframe, "no_candle") for part in lacking]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def _without_forming(holes: list[Span], candles: Candles, timeframe: Timeframe, now_ms: int) -> list[Span]:
    """The holes less the newest slots, where the series is off the grid and its next candle is still forming."""
    newest_ms = int(candles.open_ms[-1])
    phase_ms = newest_ms - timeframe.open_ms(timeframe.ordinal(newest_ms))
    last = holes[-1]
    while phase_ms and last:
        slot_ms = timeframe.open_ms(timeframe.ordinal(last.end_ms - 1))
        if timeframe.close_ms(slot_ms + phase_ms) <= now_ms - GRACE_MS:
            break
        last = Span(last.start_ms, slot_ms)
    return [*holes[:-1], last] if last else holes[:-1]


def _outwards(span: Span, timeframe: Timeframe) -> Span:
    """The span up to the borders of the slots that it touches."""
    return Span(
        timeframe.open_ms(timeframe.ordinal(span.start_ms)), timeframe.open_ms(timeframe.first_slot(span.end_ms))
    )


def _inwards(span: Span, timeframe: Timeframe) -> Span:
    """The slots that lie wholly in the span; empty where there is none."""
    if not span:
        return span
    return Span(
        timeframe.open_ms(timeframe.first_slot(span.start_ms)), timeframe.open_ms(timeframe.ordinal(span.end_ms))
    )


def failed_gaps(told: Gathered, timeframe: Timeframe, span: Span, cause: str) -> list[Gap]:
    """What of the span could not be had, as slots that open in it; `cause` is that of what nobody failed to bring."""
    wanted = Span(
        timeframe.open_ms(timeframe.first_slot(span.start_ms)), timeframe.open_ms(timeframe.first_slot(span.end_ms))
    )
    gaps = []
    for why, failed in (
        (cause, [span for span, error in told.failed if error is None]),
        ("fetch_failed", [span for span, error in told.failed if error is not None]),
        ("depth_limit", told.beyond),
    ):
        slots = [_outwards(span.clip(told.span), timeframe).clip(wanted) for span in failed]
        gaps += [gap_of(one, timeframe, why) for one in merge(slots)]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def count_sources(told: Gathered, span: Span) -> dict[str, int]:
    """How many candles of the span came from each tier or source."""
    counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
    for part in told.parts:
        inside = part.entry.candles.trim(span)
        left = [Span(-(2**62), 2**62)]
        # A later answer has the last word about its span, so the answers are counted from the last one back.
        for asked, source in reversed(part.fresh):
            for piece in [one.clip(asked) for one in left]:
                counts[source] += inside.trim(piece).count if piece else 0
            left = [rest for one in left for rest in subtract(one, [asked])]
        if part.tier != "rest":
            counts[part.tier] += sum(inside.trim(one).count for one in left)
    return counts


def make_manifest(
    told: Gathered,
    *,
    symbol: str,
    timeframe: Timeframe,
    span: Span,
    rows: int,
    gaps: Sequence[Gap],
    partial: Sequence[int],
    retries: int,
    elapsed_s: float,
    fingerprint: Callable[[], str],
) -> Manifest:
    """The manifest of a frame, JSON-able; `expected` counts its candles and the missing ones."""
    series = told.series
    return Manifest(
        provider=series.provider,
        origin=series.origin,
        symbol=symbol,
        timeframe=timeframe.name,
        kind=series.kind,
        start=iso(span.start_ms),
        end=iso(span.end_ms),
        expected=rows + sum(gap.count for gap in gaps),
        rows=rows,
        gaps=[describe(gap) for gap in gaps[:_SHOWN]],
        gap_count=len(gaps),
        sources=count_sources(told, span),
        unverified=list(told.unverified),
        rejected=list(told.rejected),
        partial=[iso(ms) for ms in partial],
        retries=retries,
        elapsed_s=round(elapsed_s, 6),
    ).lazily(fingerprint, version=__version__)


def describe(gap: Gap) -> dict[str, Any]:
    """The gap as the manifest shows it."""
    return {"first": gap.first, "last": gap.last, "count": gap.count, "cause": gap.cause}


def series_frame_key(series: Series, span: Span, timeframe: Timeframe, columns: str) -> str:
    """The key under which a finished frame is kept in memory."""
    return f"frame|{series.key}|{timeframe.name}|{span.start_ms}|{span.end_ms}|{columns}"
