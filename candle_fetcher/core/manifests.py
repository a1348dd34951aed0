"""Whether a frame still is what its manifest says.

pandas copies a manifest to frames that are derived from a frame: to a slice, to changed values, to coarser candles. The
calls of this package that take frames believe only what `manifest_of` says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import OHLCV, Candles, Int64s, candles_from, find_holes
from candle_fetcher.core.candles import fingerprint as sum_up
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, warn
from candle_fetcher.core.frame import (
    MANIFEST,
    Convertible,
    Manifest,
    as_pandas,
    check_columns_of,
    flags_in,
    floats_in,
    index_ms,
)
from candle_fetcher.core.gap import iso
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.readable import is_readable
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors

# Columns of rows that a manifest does not count, and the value of the rows that it does.
_MEANT = (("is_synthetic", False), ("is_closed", True))
UNREADABLE = "it cannot be read"
_OF_THE_CALL = ("sources", "retries")  # what a manifest says of the whole answer alone


class _Rows(NamedTuple):
    """The rows of a frame that its manifest describes: their open times, in order, and whether they are all of its
    rows. `is_always_open`: its provider owes a candle for each slot of the range."""

    open_ms: Int64s
    is_whole: bool
    timeframe: Timeframe | None
    span: Span | None
    is_always_open: bool = False


@short_errors
def manifest_of(frame: pd.DataFrame | Convertible) -> Manifest | None:
    """Return a manifest that is true of the frame as it is now; None where nothing can be said of it.

    It is `frame.attrs["candle_fetcher"]` where the frame still is what it says. Of consecutive rows it is narrowed to
    them: `part_of` has start, end, rows and fingerprint of the whole, `fingerprint` is that of the rows, and what only
    the call as a whole had (`sources`, `retries`) is left out. `gap_count` and `expected` are None where they are not
    known: the manifest of the whole lists ten gaps only. Where values of the whole have changed, `changed` is True, and
    `fingerprint` is that of the present values; a part is not compared with the whole. Without one of open, high, low,
    close and volume, `fingerprint` is None. Columns that were added do not matter.

    It is None for selected, shifted or resampled rows, for frames without a manifest, and for combined ones, which hold
    one for each series. Tables of Polars and Arrow are taken, too: the manifest of an Arrow table is in its schema.
    Raises InputError where the frame is no frame with times as its index.
    """
    given: Any = as_pandas(frame)
    open_ms = index_ms(given)
    manifest = given.attrs.get(MANIFEST)
    if not isinstance(manifest, Mapping) or not _is_one(manifest):
        return None
    rows = _rows_of(given, open_ms, manifest)
    return None if isinstance(rows, str) else _described(given, manifest, rows)


def true_manifest(frame: pd.DataFrame) -> Manifest | None:
    """Return what `manifest_of` does; warn where the frame has a manifest that is of another frame."""
    found = _fitting(frame)
    if found is None:
        return None
    manifest, rows = found
    return _described(frame, manifest, rows) if _is_one(manifest) else Manifest(manifest)


def list_missing(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what of the frame could not be fetched, as its manifest lists it: of a part, only what lies in it."""
    listed: list[dict[str, Any]] = list(manifest.get("missing", ()))
    rows = _rows_of(frame, index_ms(frame), manifest) if listed else ""
    if isinstance(rows, str) or rows.is_whole or rows.timeframe is None or rows.span is None:
        return listed
    span = _span_of(rows, rows.timeframe, rows.span)
    return [one for one in listed if _lies_in(one, span)]


def manifest_that_fits(frame: pd.DataFrame) -> Mapping[str, Any] | None:
    """Return the manifest of a frame while it describes the frame's index; None without one.

    It still describes consecutive rows of the frame, but neither candles of another timeframe nor selected rows. For
    these, warn and return None.
    """
    found = _fitting(frame)
    return None if found is None else found[0]


def _fitting(frame: pd.DataFrame) -> tuple[Mapping[str, Any], _Rows] | None:
    """Return the manifest of a frame, and the rows that it describes; None without one. Warn where it is ignored."""
    open_ms = index_ms(frame)
    manifest = frame.attrs.get(MANIFEST)
    if manifest is None:
        return None
    rows = _rows_of(frame, open_ms, manifest) if isinstance(manifest, Mapping) else UNREADABLE
    if not isinstance(rows, str):
        return manifest, rows
    named = [str(manifest.get(name)) for name in ("symbol", "timeframe")] if isinstance(manifest, Mapping) else []
    of = f" ({' '.join(named)[:60]})" if named else ""
    reason = "it was changed, or damaged" if rows == UNREADABLE else "pandas has copied it from another frame"
    warn(CandleFetcherWarning(f"the manifest of this frame{of} is ignored, since {rows}; {reason}"))
    return None


@short_errors
def fingerprint(frame: pd.DataFrame | Convertible, timeframe: str) -> str:
    """Return the fingerprint of the candles in a frame: equal candles have equal fingerprints, from any source.

    It is the one that manifests have: a SHA-256 of open times, open, high, low, close and volume. Rows that are
    invented or may still change (`is_synthetic`, `is_closed`) do not count, nor do other columns. Naive times are UTC.
    Raises InputError where one of these columns is missing, or rows are not in order.
    """
    length = parse_timeframe(timeframe)
    given: Any = as_pandas(frame)
    if isinstance(given, pd.DataFrame):
        check_columns_of(given, OHLCV)
    open_ms = index_ms(given)
    meant = _meant(given)
    if (np.diff(open_ms[meant]) <= 0).any():
        raise InputError("the rows of the frame are not in order; expected each time once, oldest first")
    return sum_up(_prices(given, open_ms, meant), length, CHUNK_SLOTS)


def _is_one(manifest: Mapping[str, Any]) -> bool:
    """Return whether it is the manifest of one series: combined frames have a mapping of several by name."""
    return isinstance(manifest, Manifest) or any(isinstance(manifest.get(name), str) for name in ("timeframe", "kind"))


def _meant(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which rows a manifest describes: those that are neither invented nor open."""
    found = np.ones(len(frame), np.bool_)
    for name, value in _MEANT:
        if name in frame:
            found &= flags_in(frame, name, value)
    return found


def _prices(frame: pd.DataFrame, open_ms: Int64s, meant: npt.NDArray[np.bool_]) -> Candles:
    """Return times and prices of those rows. Raises InputError for a column without numbers."""
    columns = [floats_in(frame, name)[meant] for name in OHLCV]
    return candles_from(("open_time", *OHLCV), [open_ms[meant], *columns])


def _rows_of(frame: pd.DataFrame, open_ms: Int64s, manifest: Mapping[str, Any]) -> _Rows | str:
    """Return the rows that the manifest describes, or what contradicts it, in words."""
    found = open_ms[_meant(frame)]
    if (found[1:] < found[:-1]).any():
        found = np.sort(found)
    is_open = "is_closed" in frame and not frame["is_closed"].all()
    if not is_readable(manifest):
        return UNREADABLE
    if "start" not in manifest:
        return _Rows(found, True, None, None)
    span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    timeframe = parse_timeframe(manifest["timeframe"]) if "timeframe" in manifest else None
    rows = int(manifest.get("rows", len(found)))
    # Rows that may still change are among the rows of a manifest, and lie behind its end.
    stated = rows - int((~frame["is_closed"].astype(bool)).sum()) if is_open else rows
    if found.size and (found[0] < span.start_ms or found[-1] >= span.end_ms):
        return f"rows lie outside its range, {manifest['start']} to {manifest['end']}"
    if len(found) > rows or (np.diff(found) <= 0).any():
        return f"the frame does not have its {rows:,} rows"
    made = _Rows(found, len(found) == stated, timeframe, span)
    if timeframe is None or not found.size:
        return made
    if _are_most(np.diff(timeframe.ordinals(found)) < 1):
        return f"the rows are not {timeframe} apart"
    if made.is_whole:
        return made
    return _check_part(made, manifest, timeframe, span, rows)


def _are_most(flags: npt.NDArray[np.bool_]) -> bool:
    return 2 * int(np.count_nonzero(flags)) > flags.size


def _check_part(rows: _Rows, manifest: Mapping[str, Any], timeframe: Timeframe, span: Span, count: int) -> _Rows | str:
    """Return the rows if they may be consecutive rows of the whole, or what contradicts that, in words."""
    slots = timeframe.ordinals(rows.open_ms)
    wanted, expected = len(timeframe.slots(span)), manifest.get("expected")
    expected = count if expected is None else int(expected)
    # Consecutive rows lack at most as many slots as the whole, and most of them adjoin.
    steps = np.diff(slots)
    if int(steps.sum()) - len(steps) > max(wanted, expected) - count or (steps.size > 1 and _are_most(steps > 1)):
        return f"the rows are not {timeframe} apart"
    is_always_open = wanted == expected
    known = [*(manifest.get("gaps") or ()), *manifest.get("missing", ())]
    if is_always_open and manifest.get("gap_count") == len(manifest.get("gaps") or ()):
        listed = [Span(timeframe.floor_ms(first), timeframe.close_ms(last)) for first, last in map(_ends, known)]
        holes = find_holes(rows.open_ms, timeframe, Span(int(rows.open_ms[0]), int(rows.open_ms[-1])))
        if not all(any(one.holds(hole) for one in listed) for hole in holes):
            return "rows of it were taken out"
    return rows._replace(is_always_open=is_always_open)


def _ends(gap: Mapping[str, Any]) -> tuple[int, int]:
    return instant_ms(gap["first"], "first"), instant_ms(gap["last"], "last")


def _described(frame: pd.DataFrame, manifest: Mapping[str, Any], rows: _Rows) -> Manifest:
    """Return the manifest of the rows that it describes, checked against their values."""
    made = Manifest(manifest)
    if rows.timeframe is None:  # funding rates
        if rows.span is not None and not rows.is_whole:
            made = _narrow_funding(made, rows)
        return made
    stated = manifest.get("fingerprint")
    if not rows.is_whole:
        made = _narrow(made, rows)
    if "missing" in made or "fingerprint" not in manifest:
        return made
    if not all(name in frame for name in OHLCV):
        made["fingerprint"] = None
        return made
    try:
        ordered = frame if frame.index.is_monotonic_increasing else frame.sort_index()
        made["fingerprint"] = fingerprint(ordered, str(rows.timeframe))
    except InputError:  # texts, for example
        made["fingerprint"], made["changed"] = None, True
        return made
    if rows.is_whole and stated is not None and made["fingerprint"] != stated:
        made["changed"] = True
    return made


def _narrow(manifest: Manifest, rows: _Rows) -> Manifest:
    """Return the manifest of a part of the rows that it is of."""
    assert rows.timeframe is not None
    assert rows.span is not None
    whole, timeframe, opens = rows.span, rows.timeframe, rows.open_ms
    span = _span_of(rows, timeframe, whole)
    made = Manifest(manifest)
    for name in _OF_THE_CALL:
        dict.pop(made, name, None)
    made["part_of"] = {name: manifest.get(name) for name in ("start", "end", "rows", "fingerprint")}
    made["start"], made["end"], made["rows"] = iso(span.start_ms), iso(span.end_ms), len(opens)
    for name in ("gaps", "missing"):
        if name in manifest:
            made[name] = [one for one in manifest[name] if _lies_in(one, span)]
    if not made.get("missing", True):
        del made["missing"]
    made["partial"] = [time for time in manifest.get("partial", ()) if _holds(span, time)]
    count: int | None = len(made.get("gaps", ()))
    listed = manifest.get("gaps") or ()
    if manifest.get("gap_count") != len(listed):
        last_ms = _ends(listed[-1])[1] if listed else whole.start_ms
        rest = opens[np.searchsorted(opens, last_ms) :]
        holes = find_holes(rest, timeframe, Span(int(rest[0]), int(rest[-1]))) if rest.size else []
        if holes and not rows.is_always_open:
            count = None
        elif count is not None:
            count += len(holes)
    made["gap_count"] = count
    known = count is not None and count == len(made.get("gaps", ()))
    lacking = sum(int(one["count"]) for one in (*made.get("gaps", ()), *made.get("missing", ())))
    made["expected"] = len(opens) + lacking if known else (len(timeframe.slots(span)) if count is not None else None)
    return made


def _span_of(rows: _Rows, timeframe: Timeframe, whole: Span) -> Span:
    """Return the span of a part: from the slot of its first row to that of the last one."""
    if not rows.open_ms.size:
        return Span(whole.start_ms, whole.start_ms)
    first, last = timeframe.ordinals(rows.open_ms[[0, -1]]).tolist()
    return timeframe.span(first, last + 1).clip(whole)


def _narrow_funding(manifest: Manifest, rows: _Rows) -> Manifest:
    assert rows.span is not None
    made = Manifest(manifest)
    for name in _OF_THE_CALL:
        dict.pop(made, name, None)
    made["part_of"] = {name: manifest.get(name) for name in ("start", "end", "rows")}
    made["rows"] = len(rows.open_ms)
    ends = rows.open_ms[[0, -1]].tolist() if rows.open_ms.size else [rows.span.start_ms, rows.span.start_ms - 1]
    made["start"], made["end"] = iso(ends[0]), iso(ends[1] + 1)
    return made


def _lies_in(gap: Mapping[str, Any], span: Span) -> bool:
    first_ms, last_ms = _ends(gap)
    return span.start_ms <= first_ms and last_ms < span.end_ms


def _holds(span: Span, time: object) -> bool:
    return span.start_ms <= instant_ms(time, "partial") < span.end_ms
