"""What a call warns of, and what it refuses to hand out as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from candle_fetcher.core.errors import (
    AccessDenied,
    CandleFetcherWarning,
    ClockSkew,
    IncompleteData,
    SourceError,
    warn,
    warn_once,
)
from candle_fetcher.core.frame import MANIFEST, to_frame
from candle_fetcher.core.gap import Gap
from candle_fetcher.fetcher.collect import CandleResult, Collector
from candle_fetcher.fetcher.manifest import make_manifest
from candle_fetcher.fetcher.policy import ONLY_CACHE, REST, FetchPolicy
from candle_fetcher.fetcher.request import Request
from candle_fetcher.sources import RestSource

_FIX = "Call again, or allow more sources; .frame holds what arrived"
_FIX_BY_ARCHIVE = "Call again, or use source='archive'; .frame holds what arrived"
# A smaller difference between two clocks is ordinary; the provider's decides in any case.
_SKEW_S = 5.0


def warn_of_limits(source: RestSource) -> None:
    """Warn of limits that the provider states and that are not obeyed, the first time alone."""
    if not source.limits.refused or "limits" in source.warned:
        return
    source.warned.add("limits")
    for limit in source.limits.refused:
        warn(
            CandleFetcherWarning(
                f"{source.provider.name} states a limit of {limit.cost} ({limit.kind}) in {limit.interval_s} s, "
                "which is less than one chunk needs; the documented limits apply instead"
            )
        )


def warn_of_clock(source: RestSource) -> None:
    """Warn of a clock of this machine that is wrong, and of limits that are not obeyed, where the source knows."""
    warn_of_limits(source)
    skew_s = source.server_clock.skew_s
    if abs(skew_s) > _SKEW_S:
        where = f"{abs(skew_s):,.0f} s {'behind' if skew_s > 0 else 'ahead of'} that of {source.provider.name}"
        what = f"this machine's clock is {where}, which decides what is settled; set this machine's clock"
        warn_once(source.warned, "clock", ClockSkew(what))


def refuse_incomplete(collector: Collector, found: CandleResult) -> None:
    """Warn of a wrong clock; raise IncompleteData, with what there is, where part of the span could not be fetched and
    the call does not take a partial answer.

    It is raised without a frame where the provider may have adjusted the prices during the call.
    """
    request, scope = collector.request, collector.scope
    warn_of_clock(request.source)
    if request.is_readjusted:
        raise IncompleteData(
            f"a corporate action of {request.symbol} took effect while its adjusted prices were fetched, so some "
            "prices may be adjusted for it and others not",
            fix="Call again",
        )
    if not found.failed:
        return
    scope.span = found.span
    count = sum(gap.count for gap in found.failed)
    last = found.refusals[-1] if found.refusals else None
    if isinstance(last, AccessDenied) and not found.candles.count:
        raise last
    if collector.policy.takes_partial:
        return
    why, fix = explain_missing(request, collector.policy, found.failed, last)
    if all(gap.cause == "depth_limit" for gap in found.failed):
        name = request.series.provider
        why = f"{name} serves only the newest candles of a series, and these are older and not in the cache"
        fix = (
            ".frame holds the rest, and what was fetched stays stored, so that history grows; "
            "cache.import_file adds candles from files"
        )
    elif last is not None and found.candles.count and not collector.resources.cache.is_off:
        why += " (what arrived is stored)"
    raise IncompleteData(
        f"{_candles(count)} of {request.label} from {found.failed[0].first} to {found.failed[-1].last} could not be "
        f"fetched: {why}",
        frame=settled_frame(collector, found),
        missing=found.failed,
        refusals=found.refusals,
        fix=fix,
    ) from last


def explain_missing(
    request: Request, policy: FetchPolicy, missing: Sequence[Gap], error: SourceError | None
) -> tuple[str, str]:
    """Return why a part could not be fetched, and what the caller can do; `error` is that of the source, if any."""
    if error is not None:
        return error.reason, _FIX if request.archive is None or not policy.allows(REST) else _FIX_BY_ARCHIVE
    if missing[0].cause == "not_published":
        return "the archive has no file with them; source='auto' asks REST too", _FIX
    return f"they are not in the cache, and {ONLY_CACHE}", _FIX


def _candles(count: int) -> str:
    return "1 candle" if count == 1 else f"{count:,} candles"


def refuse_gaps(collector: Collector, found: CandleResult) -> None:
    """Raise IncompleteData, with what there is, for candles that the provider lacks."""
    request = collector.request
    collector.scope.span = found.span
    count = sum(gap.count for gap in found.gaps)
    raise IncompleteData(
        f"{request.series.provider} lacks {_candles(count)} of {request.label}, from {found.gaps[0].first} on "
        f"({found.gaps[0].cause})",
        frame=settled_frame(collector, found),
        missing=found.gaps,
        fix="on_gap='leave' lists them instead",
    )


def settled_frame(collector: Collector, found: CandleResult, *, is_shared: bool = False) -> pd.DataFrame:
    """Return a frame of the settled candles alone, with its manifest."""
    frame = to_frame(found.candles, collector.policy.columns, is_shared=is_shared)
    frame.attrs[MANIFEST] = make_manifest(collector, found)
    return frame
