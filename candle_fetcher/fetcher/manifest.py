"""What is said of a frame: its gaps with their causes, the tiers that its rows came from, its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from candle_fetcher.core.candles import Candles, Gap, find_holes, gap_of, iso
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.frame import Manifest
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span, merge, subtract
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.request import Request
from candle_fetcher.fetcher.sessions import OpenParts
from candle_fetcher.fetcher.trip import Gathered
from candle_fetcher.providers import settings_beside_defaults

_SHOWN = 10


def find_all_gaps(
    told: Gathered, candles: Candles, timeframe: Timeframe, span: Span, open_parts: OpenParts
) -> list[Gap]:
    """Every gap of the span, with its cause, in order; `candles` may reach beyond the span. What failed is no gap, nor
    what `open_parts` leaves out of a hole."""
    holes = find_holes(candles.open_ms, timeframe, _borders(told, candles, timeframe, span))
    if holes and candles.count:
        until_ms = forming_ms(candles, told.settling.of(timeframe), span.end_ms, told.now_ms)
        if until_ms < span.end_ms:
            holes = [hole for one in holes if (hole := one.clip(Span(holes[0].start_ms, until_ms)))]
    # A span in which there are candles after all is no reason any more.
    empty = [
        (span, cause)
        for span, cause, _ in told.facts.empty
        if not any(part.entry.candles.trim(span).count for part in told.parts)
    ]
    gaps = []
    for hole in holes:
        lost = [*(span for span, _ in told.failed), *told.beyond]
        for piece in subtract(hole, [_outwards(span, timeframe) for span in lost]):
            told_apart = [(_inwards(piece.clip(span), timeframe), cause) for span, cause in empty]
            gaps += [gap_of(part, timeframe, cause) for part, cause in told_apart if part]
            lacking = [part for left in subtract(piece, [part for part, _ in told_apart]) for part in open_parts(left)]
            gaps += [gap_of(part, timeframe, "no_candle") for part in lacking]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def forming_ms(candles: Candles, settling: Settling, end_ms: int, now_ms: int) -> int:
    """Where those slots before the end begin, after the newest candle, whose own is still forming: a series off the
    grid closes later than its slots do. The end where there is none."""
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
    """When the candle is over that opens so long after its slot; in a zone, that opens at its midnight."""
    if settling.zone_name is not None:
        return settling.slot_close_ms(slot)
    return settling.close_ms(settling.timeframe.open_ms(slot) + late_ms)


def _borders(told: Gathered, candles: Candles, timeframe: Timeframe, span: Span) -> Span:
    """Return the slots whose candles open in the span, from border to border.

    On the grid these are the slots that open in it. In a zone, or where the candles have a phase of their own, they are
    those whose candles do.
    """
    first, stop = timeframe.ordinal(span.start_ms), timeframe.first_slot(span.end_ms)
    if not span or timeframe != told.series.timeframe:
        first = timeframe.first_slot(span.start_ms)
        return timeframe.span(first, max(first, stop))
    if _expected_ms(told, candles, timeframe, first) < span.start_ms:
        first += 1
    if _expected_ms(told, candles, timeframe, stop - 1) >= span.end_ms:
        stop -= 1
    return timeframe.span(first, max(first, stop))


def _expected_ms(told: Gathered, candles: Candles, timeframe: Timeframe, slot: int) -> int:
    """Return when the candle of the slot is expected to open: with the slot, unless it is known to open later."""
    open_ms = timeframe.open_ms(slot)
    if told.settling.zone_name is not None:
        return told.settling.of(timeframe).slot_open_ms(slot)
    if not told.is_off_grid or not candles.count:
        return open_ms
    known_ms = int(candles.open_ms[-1])
    return open_ms + known_ms - timeframe.floor_ms(known_ms)


def _outwards(span: Span, timeframe: Timeframe) -> Span:
    """The span up to the borders of the slots that it touches."""
    return Span(timeframe.floor_ms(span.start_ms), timeframe.ceil_ms(span.end_ms))


def _inwards(span: Span, timeframe: Timeframe) -> Span:
    """The slots that lie wholly in the span; empty where there is none."""
    if not span:
        return span
    return Span(timeframe.ceil_ms(span.start_ms), timeframe.floor_ms(span.end_ms))


def failed_gaps(told: Gathered, candles: Candles, timeframe: Timeframe, span: Span, cause: str) -> list[Gap]:
    """What of the span could not be had, as slots whose candles open in it; `cause` is that of what nobody failed to
    bring."""
    wanted = _borders(told, candles, timeframe, span)
    touched = _outwards(span, timeframe)
    gaps = []
    for why, failed in (
        (cause, [span for span, error in told.failed if error is None]),
        ("fetch_failed", [span for span, error in told.failed if error is not None]),
        ("depth_limit", told.beyond),
    ):
        slots = merge(_outwards(part, timeframe).clip(touched) for one in failed if (part := one.clip(told.span)))
        # Where no candle is expected to open in the range, one off the grid may all the same.
        gaps += [gap_of(one.clip(wanted) or one, timeframe, why) for one in slots]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def count_sources(told: Gathered, span: Span) -> dict[str, int]:
    """How many candles of the span came from each tier or source."""
    counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
    for part in told.parts:
        inside = part.entry.candles.trim(span)
        if not part.fresh:
            counts[part.tier] += inside.count if part.tier != "rest" else 0
            continue
        left = [ALL_TIME]
        # A later answer has the last word about its span, so the answers are counted from the last one back.
        for asked, source in reversed(part.fresh):
            for piece in [one.clip(asked) for one in left]:
                counts[source] += inside.trim(piece).count if piece else 0
            left = [rest for one in left for rest in subtract(one, [asked])]
        if part.tier != "rest":
            counts[part.tier] += sum(inside.trim(one).count for one in left)
    return counts


def make_manifest(
    request: Request,
    told: Gathered,
    *,
    span: Span,
    rows: int,
    gaps: Sequence[Gap],
    partial: Sequence[int],
    retries: int,
    fingerprint: Callable[[], str],
) -> Manifest:
    """The manifest of a frame, JSON-able; `expected` counts its candles and the missing ones.

    `settings` is there only where the series has some that are not the provider's default, `adjusted` only where its
    history is restated, `rejected` only where this call rejected a file of the archive.
    """
    series = told.series
    made = Manifest(
        provider=series.provider,
        origin=series.origin,
        symbol=request.symbol,
        timeframe=request.timeframe.name,
        kind=series.kind,
        start=iso(span.start_ms),
        end=iso(span.end_ms),
        expected=rows + sum(gap.count for gap in gaps),
        rows=rows,
        gaps=[describe(gap) for gap in gaps[:_SHOWN]],
        gap_count=len(gaps),
        sources=count_sources(told, span),
        unverified=list(told.unverified),
        partial=[iso(ms) for ms in partial],
        retries=retries,
    ).lazily(fingerprint, version=__version__)
    settings = settings_beside_defaults(series)
    if settings:
        made["settings"] = settings
    if request.adjusted is not None:
        made["adjusted"] = request.adjusted.describe()
    if told.rejected:
        made["rejected"] = list(told.rejected)
    return made


def join_manifests(parts: Sequence[Manifest], gaps: Sequence[Gap], timeframe: Timeframe, fingerprint: str) -> Manifest:
    """The manifest of candles that came in parts, in order: theirs, the gaps of all of them, and the fingerprint."""
    whole = _join_gaps(gaps, timeframe)
    made = Manifest(parts[0])
    made["end"] = parts[-1]["end"]
    for name in ("expected", "rows"):
        made[name] = sum(part[name] for part in parts)
    made["gaps"] = [describe(gap) for gap in whole[:_SHOWN]]
    made["gap_count"] = len(whole)
    made["sources"] = {name: sum(part["sources"][name] for part in parts) for name in parts[0]["sources"]}
    for name in ("unverified", "rejected"):
        if any(name in part for part in parts):
            made[name] = sorted({path for part in parts for path in part.get(name, ())})
    made["partial"] = [time for part in parts for time in part["partial"]]
    made["retries"] = parts[-1]["retries"]  # of the call so far
    made["fingerprint"] = fingerprint
    return made


def _join_gaps(gaps: Sequence[Gap], timeframe: Timeframe) -> list[Gap]:
    """The gaps, those that a border of parts cut in two as one."""
    joined: list[Gap] = []
    for gap in gaps:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.cause == gap.cause
            and timeframe.ordinal(last.last_ms) + 1 == timeframe.ordinal(gap.first_ms)
        ):
            joined[-1] = Gap(last.first_ms, gap.last_ms, last.count + gap.count, gap.cause)
        else:
            joined.append(gap)
    return joined


def describe(gap: Gap) -> dict[str, Any]:
    """The gap as the manifest shows it."""
    return {"first": gap.first, "last": gap.last, "count": gap.count, "cause": gap.cause}


def series_frame_key(series: Series, span: Span, timeframe: Timeframe, columns: str) -> str:
    """The key under which a finished frame is kept in memory."""
    return f"frame|{series.key}|{timeframe.name}|{span.start_ms}|{span.end_ms}|{columns}"
