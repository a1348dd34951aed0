"""What frames lack: the gaps between their rows, and in a partial answer the spans that could not be fetched.

The manifest lists these in `missing`. They are no gaps: the provider may have candles there. Unlike the gaps, all of
them are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import find_holes, gap_of
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, warn
from candle_fetcher.core.frame import GAP_COLUMNS, MANIFEST, Manifest, gap_frame, index_ms
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors

SHOWN = 10  # gaps that a manifest lists


def describe_gap(gap: Gap) -> dict[str, Any]:
    """Return the gap as a manifest lists it."""
    return {"first": gap.first, "last": gap.last, "count": gap.count, "cause": gap.cause}


def count_missing(manifest: Mapping[str, Any]) -> int:
    """Return how many candles of the answer could not be fetched."""
    return sum(gap["count"] for gap in manifest.get("missing", ()))


def read_missing(manifest: Mapping[str, Any]) -> list[Span]:
    """Return the missing spans of a manifest. Raises InputError where they cannot be read."""
    try:
        timeframe = parse_timeframe(manifest["timeframe"])
        ends = [[instant_ms(gap[name], name) for name in ("first", "last")] for gap in manifest["missing"]]
    except (KeyError, TypeError, InputError):
        raise InputError("`missing` in its manifest cannot be read; expected `first` and `last` of each") from None
    return merge(Span(timeframe.floor_ms(first_ms), timeframe.close_ms(last_ms)) for first_ms, last_ms in ends)


def missing_in(frame: pd.DataFrame) -> list[Span]:
    """Return the spans of a frame that its manifest lists as missing, or for combined frames one of its manifests.

    A manifest is that of other times where rows lie outside its range: of a frame that was shifted.
    """
    manifest = frame.attrs.get(MANIFEST)
    if not isinstance(manifest, Mapping):
        return []
    is_one = isinstance(manifest, Manifest) or "timeframe" in manifest
    if is_one and "missing" in manifest and _is_of_other_times(frame, manifest):
        return []
    several = [manifest] if is_one else [one for one in manifest.values() if isinstance(one, Mapping)]
    return merge(span for one in several if "missing" in one for span in read_missing(one))


def _is_of_other_times(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> bool:
    if "is_closed" in frame:  # what is open lies behind the range
        frame = frame[frame["is_closed"].to_numpy(dtype=bool)]
    open_ms = index_ms(frame)
    ends = [instant_ms(manifest[name], name) for name in ("start", "end") if name in manifest]
    return open_ms.size > 0 and len(ends) == 2 and bool(open_ms.min() < ends[0] or open_ms.max() >= ends[1])


def without_missing(holes: Iterable[Span], missing: Sequence[Span], timeframe: Timeframe) -> list[Span]:
    """Return the holes without the slots that a missing span touches."""
    lost = [Span(timeframe.floor_ms(one.start_ms), timeframe.ceil_ms(one.end_ms)) for one in missing]
    return [part for hole in holes for part in subtract(hole, lost)]


def fillable(hole: Span, next_ms: int, missing: Iterable[Gap], how: str) -> Span:
    """Return the part of a hole in which invented rows do not depend on what is missing.

    next_ms: when the next candle opens; the hole begins after the one before. By `ffill` a row repeats the candle
    before it, by `interpolate` it depends on the candle behind it, too.
    """
    lost_ms = [gap.first_ms for gap in missing if hole.start_ms <= gap.last_ms and gap.first_ms < next_ms]
    if not lost_ms:
        return hole
    return hole.before(hole.start_ms if how == "interpolate" else min(lost_ms))


def join_gaps(gaps: Sequence[Gap], timeframe: Timeframe) -> list[Gap]:
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


def join_manifests(
    parts: Sequence[Manifest], gaps: Sequence[Gap], failed: Sequence[Gap], timeframe: Timeframe, fingerprint: str
) -> Manifest:
    """Return the manifest of candles that came in parts, in order, given the manifests of the parts, the gaps of all of
    them, what of them could not be fetched, and the fingerprint."""
    whole, missing = join_gaps(gaps, timeframe), join_gaps(failed, timeframe)
    made = Manifest(parts[0])
    made["end"] = parts[-1]["end"]
    for name in ("expected", "rows"):
        made[name] = sum(part[name] for part in parts)
    made["gaps"] = [describe_gap(gap) for gap in whole[:SHOWN]]
    made["gap_count"] = len(whole)
    made["sources"] = {name: sum(part["sources"][name] for part in parts) for name in parts[0]["sources"]}
    for name in ("unverified", "rejected"):
        if any(name in part for part in parts):
            made[name] = sorted({path for part in parts for path in part.get(name, ())})
    made["partial"] = [time for part in parts for time in part["partial"]]
    made["retries"] = parts[-1]["retries"]  # of the call so far
    made["fingerprint"] = None if missing else fingerprint
    if missing:
        made["missing"] = [describe_gap(gap) for gap in missing]
        made.why = next((part.why for part in parts if part.why), None)
    return made


def warn_of_missing(manifests: Iterable[Mapping[str, Any]]) -> bool:
    """Warn, once for all, of what the answers lack; return whether they lack anything."""
    lacking = [one for one in manifests if "missing" in one]
    if not lacking:
        return False
    said = []
    for one in lacking[:3]:
        spans, count = one["missing"], count_missing(one)
        causes = ", ".join(dict.fromkeys(span["cause"] for span in spans))
        candles = "1 candle" if count == 1 else f"{count:,} candles"
        series = f"{one['symbol']} {one['timeframe']}"
        why = getattr(one, "why", None)
        reason = f"{causes}: {why}" if why else causes
        said.append(f"{candles} of {series} from {spans[0]['first']} to {spans[-1]['last']} ({reason})")
    more = f" and {len(lacking) - 3} more series" if len(lacking) > 3 else ""
    warn(
        CandleFetcherWarning(
            f"the answer is partial: it lacks {', '.join(said)}{more}; its manifest lists them in `missing`, and the "
            "same call asks for them again"
        )
    )
    return True


@short_errors
def find_gaps(frame: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Return the runs of missing candles between the first and the last row: columns first, last, count.

    Works on any frame with a DatetimeIndex of open times; naive times count as UTC. Only the index is used, so that
    causes are unknown: `CandleFetcher.gaps` gives them. What the manifest of a partial frame lists as `missing` is no
    gap: it is left out, with a warning. Raises InputError where the index has no times.
    """
    gaps, has_more = gaps_between_rows(frame, parse_timeframe(timeframe))
    if has_more:
        warn(
            CandleFetcherWarning(
                "candles between the rows of this frame could not be fetched, which is no gap; its manifest lists them "
                "in `missing`, and the same fetch asks for them again"
            )
        )
    return gaps


def gaps_between_rows(frame: pd.DataFrame, timeframe: Timeframe) -> tuple[pd.DataFrame, bool]:
    """Return what `find_gaps` returns, and whether something was left out that could not be fetched."""
    open_ms = np.sort(index_ms(frame))
    holes = find_holes(open_ms, timeframe, Span(int(open_ms[0]), int(open_ms[-1]))) if open_ms.size else []
    left = without_missing(holes, missing_in(frame), timeframe)
    return gap_frame([gap_of(hole, timeframe, "") for hole in left])[list(GAP_COLUMNS[:3])], left != holes
