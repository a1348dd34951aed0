"""What a frame lacks, with its causes, and the hours in which no candle is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from candle_fetcher.core.candles import OHLCV, Int64s, find_holes, gap_of
from candle_fetcher.core.errors import CandleFetcherError, MissingExtra
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.plot.reading import Drawn
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.series import read_series
from candle_fetcher.sessions import OpenParts, find_open_parts

# What stands in place of the cause where it is not known: of frames without a manifest, and after the last row, where a
# manifest names ten other gaps.
UNNAMED = "missing row"
# Stands in place of `no_candle` where the sessions of the exchange are not known for lack of the extra `calendars`.
MAYBE_CLOSED = "gap, or the exchange was closed (the extra calendars tells)"
# Of rows that have some prices, but not all: such a candle cannot be drawn.
UNPRICED = "a price is missing"
_MOST = 600  # shades of one cause


class Shade(NamedTuple):
    """A span to shade, the number of gaps in it and of their candles."""

    span: Span
    gaps: int
    candles: int


def find_lacking(drawn: Drawn) -> list[Gap]:
    """Return the gaps of the picture, in order, with their causes. Hours in which an exchange is closed are none."""
    timeframe, manifest = drawn.timeframe, drawn.manifest
    if timeframe is None or not drawn.span:
        return []
    known = [*_named(manifest, "gaps", timeframe, drawn.span), *_named(manifest, "missing", timeframe, drawn.span)]
    left = _unnamed(drawn, [span for span, _ in known])
    if not left and not known:
        return []
    open_parts = _sessions(drawn)
    no_candle, unnamed = (MAYBE_CLOSED, MAYBE_CLOSED) if open_parts is None else ("no_candle", UNNAMED)
    if open_parts is not None:
        left = [part for hole in left for part in open_parts(hole)]
    gaps = [gap_of(span, timeframe, no_candle if cause == "no_candle" else cause) for span, cause in known]
    # The manifest names ten; by the meaning of the causes, any other gap between candles of the provider has this one.
    last_ms = int(drawn.candles.open_ms[-1]) if manifest.get("gap_count") is not None and drawn.candles.count else 0
    gaps += [gap_of(span, timeframe, no_candle if span.start_ms < last_ms else unnamed) for span in left]
    return sorted(gaps, key=lambda gap: gap.first_ms)


def find_unpriced(drawn: Drawn) -> list[Gap]:
    """Return the runs of rows that cannot be drawn as candles, since one of their prices is missing or infinite."""
    timeframe = drawn.timeframe
    if timeframe is None:
        return []
    is_known = np.logical_and.reduce([np.isfinite(drawn.candles.floats(name)) for name in OHLCV[:4]])
    if is_known.all():
        return []
    slots = timeframe.ordinals(drawn.candles.open_ms[~is_known])
    runs = np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1)
    return [gap_of(timeframe.span(int(run[0]), int(run[-1]) + 1), timeframe, UNPRICED) for run in runs]


def _unnamed(drawn: Drawn, known: Sequence[Span]) -> list[Span]:
    """Return the holes that the manifest does not name; none where it names each gap: then no other hole is one."""
    manifest = drawn.manifest
    if "gaps" in manifest and manifest.get("gap_count") == len(manifest["gaps"]):
        return []
    assert drawn.timeframe is not None
    spans = merge(known)
    holes = find_holes(drawn.candles.open_ms[~drawn.is_invented], drawn.timeframe, drawn.span)
    return [part for hole in holes for part in subtract(hole, _near(spans, hole))]


def _near(spans: Sequence[Span], hole: Span) -> Iterable[Span]:
    return (span for span in spans if span.clip(hole)) if spans else ()


def _named(manifest: Mapping[str, Any], key: str, timeframe: Timeframe, shown: Span) -> list[tuple[Span, str]]:
    """Return the spans that the manifest lists under that key, with their causes, as far as they are shown."""
    found = []
    for gap in manifest.get(key, ()):
        first_ms, last_ms = instant_ms(gap["first"], "first"), instant_ms(gap["last"], "last")
        span = Span(timeframe.floor_ms(first_ms), timeframe.close_ms(timeframe.floor_ms(last_ms)))
        part = span.clip(Span(timeframe.floor_ms(shown.start_ms), timeframe.ceil_ms(shown.end_ms)))
        if part:
            found.append((part, str(gap["cause"])))
    return found


def _sessions(drawn: Drawn) -> OpenParts | None:
    """Return the function that says which slots of a hole owe a candle: all, where trading never stops. None where the
    extra `calendars` is missing, which knows the hours of the exchange."""
    facts = drawn.manifest
    try:
        provider = find_provider(facts["provider"])
        series, _, timeframe = read_series(provider, None, facts["symbol"], facts["timeframe"], facts["kind"])
        calendar = provider.calendar(series)
        if calendar is not None:
            return find_open_parts(calendar, timeframe, drawn.span.start_ms)
    except MissingExtra:
        return None
    except (KeyError, CandleFetcherError):  # of a frame without a manifest, or a provider that is not installed here
        pass
    return lambda hole: [hole]


def find_closed(opens_ms: Int64s, cell: Timeframe, gaps: Iterable[Gap], timeframe: Timeframe) -> list[Span]:
    """Return the spans between the drawn cells in which no candle is due: no gap touches them."""
    if len(opens_ms) < 2:
        return []
    lacking = merge(Span(cell.floor_ms(gap.first_ms), cell.ceil_ms(timeframe.close_ms(gap.last_ms))) for gap in gaps)
    holes = find_holes(opens_ms, cell, Span(int(opens_ms[0]), int(opens_ms[-1])))
    return [part for hole in holes for part in subtract(hole, _near(lacking, hole))]


def shades_of(gaps: Sequence[Gap], timeframe: Timeframe, cell: Timeframe) -> list[Shade]:
    """Return the spans to shade of gaps of one cause: each gap, or where these are too many to draw, the cells that
    they touch, so that none is hidden."""
    spans = [Span(gap.first_ms, timeframe.close_ms(gap.last_ms)) for gap in gaps]
    if len(gaps) <= _MOST:
        return [Shade(span, 1, gap.count) for span, gap in zip(spans, gaps, strict=True)]
    whole = merge(Span(cell.floor_ms(span.start_ms), cell.ceil_ms(span.end_ms)) for span in spans)
    at = np.searchsorted([span.start_ms for span in whole], [gap.first_ms for gap in gaps], "right") - 1
    counts = np.bincount(at, minlength=len(whole))
    lost = np.bincount(at, [gap.count for gap in gaps], minlength=len(whole))
    return [Shade(span, int(n), int(m)) for span, n, m in zip(whole, counts, lost, strict=True)]
