"""The manifest of a frame, and the manifest of several parts in one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.candles import fingerprint
from candle_fetcher.core.frame import Manifest
from candle_fetcher.core.gap import Gap, iso
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.spans import ALL_TIME, Span, subtract
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.collect import CandleResult, Collector
from candle_fetcher.fetcher.gathering import GatherResult
from candle_fetcher.providers import settings_beside_defaults

_SHOWN = 10  # gaps that a manifest lists


def count_sources(found: GatherResult, span: Span) -> dict[str, int]:
    """Return how many candles of the span came from each tier or source."""
    counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
    for part in found.chunks:
        inside = part.entry.candles.trim(span)
        if not part.provenance:
            counts[part.tier] += inside.count if part.tier != "rest" else 0
            continue
        left = [ALL_TIME]
        # A later answer has the last word about its span, so the answers are counted from the last one back.
        for asked, source in reversed(part.provenance):
            for piece in [one.clip(asked) for one in left]:
                counts[source] += inside.trim(piece).count if piece else 0
            left = [rest for one in left for rest in subtract(one, [asked])]
        if part.tier != "rest":
            counts[part.tier] += sum(inside.trim(one).count for one in left)
    return counts


def make_manifest(collector: Collector, found: CandleResult, *, is_part: bool = False) -> Manifest:
    """Return the manifest of settled candles, JSON-able; `expected` counts them and the missing ones.

    `settings` is there only where the series has some that are not the provider's default, `adjusted` only where its
    history is restated, `rejected` only where this call rejected a file of the archive. The fingerprint is computed
    when it is first read, and holds the candles until then: the manifest of a part (`is_part`) has none.
    """
    request, gathered, series = collector.request, found.gathered, found.gathered.series
    candles, timeframe = found.candles, request.timeframe
    made = Manifest(
        **request.describe(found.span),
        expected=candles.count + sum(gap.count for gap in found.gaps),
        rows=candles.count,
        gaps=[_describe(gap) for gap in found.gaps[:_SHOWN]],
        gap_count=len(found.gaps),
        sources=count_sources(gathered, found.span),
        unverified=list(gathered.unverified),
        partial=[iso(ms) for ms in found.partial],
        retries=collector.scope.retries,
    )
    compute = str if is_part else partial(fingerprint, candles, timeframe, CHUNK_SLOTS)
    made.add_fingerprint(compute, version=__version__)
    settings = settings_beside_defaults(series)
    if settings:
        made["settings"] = settings
    if request.adjusted is not None:
        made["adjusted"] = request.adjusted.describe()
    if gathered.rejected:
        made["rejected"] = list(gathered.rejected)
    return made


def join_manifests(parts: Sequence[Manifest], gaps: Sequence[Gap], timeframe: Timeframe, fingerprint: str) -> Manifest:
    """Return the manifest of candles that came in parts, in order, given the manifests of the parts, the gaps of all of
    them, and the fingerprint."""
    whole = _join_gaps(gaps, timeframe)
    made = Manifest(parts[0])
    made["end"] = parts[-1]["end"]
    for name in ("expected", "rows"):
        made[name] = sum(part[name] for part in parts)
    made["gaps"] = [_describe(gap) for gap in whole[:_SHOWN]]
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
    """Return the gaps, with those that a border of parts cut in two joined."""
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


def _describe(gap: Gap) -> dict[str, Any]:
    """Return the gap as the manifest shows it."""
    return {"first": gap.first, "last": gap.last, "count": gap.count, "cause": gap.cause}
