"""The manifest of a frame."""

from __future__ import annotations

from functools import partial

from candle_fetcher.core.candles import fingerprint
from candle_fetcher.core.frame import Manifest
from candle_fetcher.core.gap import iso
from candle_fetcher.core.missing import SHOWN, describe_gap
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.spans import ALL_TIME, Span, subtract
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.collect import CandleResult, Collector
from candle_fetcher.fetcher.gathering import GatherResult
from candle_fetcher.providers import settings_beside_defaults


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
    history is restated, `rejected` only where this call rejected a file of the archive, `missing` only where a part
    could not be fetched; then the fingerprint is None, since a whole answer may consist of the same candles. Else it is
    computed when it is first read, and holds the candles until then: the manifest of a part (`is_part`) has none.
    """
    request, gathered, series = collector.request, found.gathered, found.gathered.series
    candles, timeframe = found.candles, request.timeframe
    made = Manifest(
        **request.describe(found.span),
        expected=candles.count + sum(gap.count for gap in (*found.gaps, *found.failed)),
        rows=candles.count,
        gaps=[describe_gap(gap) for gap in found.gaps[:SHOWN]],
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
    if found.failed:
        made.why = found.refusals[-1].reason if found.refusals else None
        made.add_fingerprint(lambda: None, missing=[describe_gap(gap) for gap in found.failed])
    return made
