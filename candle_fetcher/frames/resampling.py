"""Makes a frame of coarser candles, with a manifest that says what was made of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import COLUMNS, OHLCV, Candles, Int64s, find_holes
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import (
    MANIFEST,
    Convertible,
    Manifest,
    as_pandas,
    candles_in,
    flags_in,
    frame_of,
    index_ms,
)
from candle_fetcher.core.gap import Gap, iso
from candle_fetcher.core.manifests import fingerprint, true_manifest
from candle_fetcher.core.missing import SHOWN, describe_gap, read_missing
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.resample import aggregate
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import FLAG_COLUMNS
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.types import INCOMPLETE_POLICIES, IncompletePolicy
from candle_fetcher.core.version import __version__
from candle_fetcher.frames.market import Market, check_word, find_market, to_local, to_utc

PARTIAL = "is_partial"
_FLAGS = (*FLAG_COLUMNS, PARTIAL)
_CANDLE_COLUMNS = frozenset(COLUMNS) - {"open_time", "funding_rate", "mark_price"}


@short_errors
def resample(
    frame: pd.DataFrame | Convertible, timeframe: str, *, base: str | None = None, incomplete: IncompletePolicy = "list"
) -> pd.DataFrame:
    """Return coarser candles made of those of the frame, as `fetch` makes them: the same rows, values and types.

    frame: of pandas, or a table of Polars or Arrow.
    timeframe: a multiple of the frame's, such as "4h" of "1h", "1w" or "1M" of "1d". Slots count from 1970, weeks open
    on Monday, months are those of the calendar. Days, weeks and months are those of the provider's zone where it has
    one: of stocks, those of New York, so that a bar never holds parts of two sessions.
    base: the timeframe of the frame, needed where its manifest does not say it.
    incomplete: what to do with candles of which a part is lacking. "list", as `fetch`: at the ends of the frame they
    are left out; between them they are made of what there is, and listed in `partial` of the manifest. "drop": they
    are left out, too, and listed in `left_out`. "keep": all are there, with a column `is_partial`. Where the provider
    has no row for an interval without a trade, as for stocks, such an interval lacks nothing.

    Invented rows (`is_synthetic`) and rows that may still change (`is_closed`) are no part of any candle. The manifest
    is that of the frame with `timeframe`, `rows`, `gaps` and `fingerprint` of the result, and `resampled`: timeframe,
    start, end, rows and fingerprint of the frame that it was made of.

    Raises InputError for a finer timeframe or one that the frame's does not divide, for funding rates and other rows
    without prices, and for a frame with columns of which no coarser value can be made.
    """
    target = parse_timeframe(timeframe)
    check_word("incomplete", incomplete, INCOMPLETE_POLICIES)
    given: Any = as_pandas(frame)
    source = _read_source(given, base)
    _check_target(source, target)
    if source.base == target:
        made: pd.DataFrame = given.copy()
        if source.manifest is not None:
            made.attrs = {**given.attrs, MANIFEST: source.manifest}
        return made
    return _Resampling(source, target, incomplete).frame()


class _Source(NamedTuple):
    """The frame to be resampled: its settled candles, timeframe and columns, its manifest and market where they are
    known, the span that it covers, and the open times of candles of it that lack a part."""

    candles: Candles
    base: Timeframe
    names: tuple[str, ...]
    manifest: Manifest | None
    market: Market | None
    span: Span
    lacking_ms: Int64s

    @property
    def missing(self) -> list[Span]:
        """The spans that could not be fetched."""
        return read_missing(self.manifest) if self.manifest is not None and "missing" in self.manifest else []

    @property
    def owes_each(self) -> bool:
        """Whether a slot without a row lacks a candle; else nothing may have been traded."""
        return self.market is None or self.market.feed.has_empty_bars


def _read_source(frame: pd.DataFrame, base: str | None) -> _Source:
    open_ms = index_ms(frame)
    if (np.diff(open_ms) <= 0).any():
        raise InputError("the rows of the frame are not in order; expected each time once, oldest first")
    manifest = true_manifest(frame)
    timeframe = _read_base(base, manifest)
    market = find_market(manifest)
    names = _check_columns(frame, manifest, market)
    keep = np.ones(len(frame), np.bool_)
    for name, value in zip(FLAG_COLUMNS, (True, False), strict=True):
        if name in frame:
            keep &= flags_in(frame, name, value)
    lacking = open_ms[frame[PARTIAL].to_numpy(dtype=bool)] if PARTIAL in frame else np.empty(0, np.int64)
    if manifest is not None:
        listed = [instant_ms(time, "partial") for time in manifest.get("partial", ())]
        lacking = np.union1d(lacking, np.array(listed, np.int64))
    if manifest is not None and "start" in manifest:
        span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    elif len(open_ms):
        slots = timeframe.ordinals(open_ms[[0, -1]])
        span = timeframe.span(int(slots[0]), int(slots[1]) + 1)
    else:
        span = Span(0, 0)
    if "is_closed" in frame and not frame["is_closed"].all():
        span = span.before(int(open_ms[~frame["is_closed"].to_numpy(dtype=bool)][0]))
    candles = candles_in(frame if keep.all() else frame[keep], names)
    return _Source(candles, timeframe, names, manifest, market, span, lacking)


def _read_base(base: str | None, manifest: Mapping[str, Any] | None) -> Timeframe:
    """Return the timeframe of the frame, as it was given or as its manifest says."""
    if manifest is not None and manifest.get("kind") == "funding":
        raise InputError(
            "funding rates are not candles, and their distance changes; add them up with "
            "rates['funding_rate'].resample('1D').sum()"
        )
    stated = None if manifest is None or "timeframe" not in manifest else parse_timeframe(manifest["timeframe"])
    given = None if base is None else parse_timeframe(base)
    if given is None and stated is None:
        raise InputError(
            "the frame does not say its timeframe: it has no manifest, or one that is of another frame; give it, such "
            "as base='1m'"
        )
    if given is not None and stated is not None and given != stated:
        raise InputError(f"base is {given}, but the frame is of {stated}; leave base out")
    found = given if stated is None else stated
    assert found is not None
    return found


def _check_columns(frame: pd.DataFrame, manifest: Mapping[str, Any] | None, market: Market | None) -> tuple[str, ...]:
    """Return the columns to be resampled. Raises InputError where coarser values cannot be made of one."""
    names = tuple(name for name in frame.columns if name not in _FLAGS)
    if market is not None and manifest is not None and not market.feed.is_resampled:
        raise InputError(f"rows of the kind {manifest['kind']} of {market.provider} cannot be resampled")
    strange = [name for name in names if name not in _CANDLE_COLUMNS or names.count(name) > 1]
    if strange or not set(OHLCV).intersection(names):
        what = f"the column {shown(strange[0])}, of which" if strange else "no prices, and"
        raise InputError(
            f"the frame has {what} no coarser value can be made; expected columns of candles alone, such as "
            "frame[['open', 'high', 'low', 'close', 'volume']]"
        )
    return names


def _check_target(source: _Source, target: Timeframe) -> None:
    """Raise InputError where candles of that length cannot be made of those of the frame."""
    base = source.base
    if base == target:
        return
    off_grid = () if source.market is None else source.market.feed.off_grid
    if target.nominal_ms < base.nominal_ms:
        raise InputError(f"the frame is of {base}, which is coarser than {target}; fetch it in {target}")
    if not base.divides(target):
        raise InputError(f"candles of {target} do not consist of whole candles of {base}, of which the frame is")
    for name in (base.name, target.name):
        if name in off_grid and source.market is not None:
            raise InputError(
                f"{source.market.provider} counts candles of {name} from another day for each symbol; expected another "
                f"timeframe, or fetch(…, {target.name!r})"
            )


class _Resampling:
    """One call of `resample`: the slots of the target, and which of them hold, cover and lack what.

    Slots are counted in local time where days open at midnight of a zone.
    """

    def __init__(self, source: _Source, target: Timeframe, incomplete: str) -> None:
        self._source, self._target, self._incomplete = source, target, incomplete
        market = source.market
        self._zone = None if market is None else market.zone_of(target)
        # Candles that the provider has itself open at midnight of its zone, those that `fetch` makes with their slots.
        self._is_native = market is not None and target.name in market.feed.timeframes

    def frame(self) -> pd.DataFrame:
        """Return the coarser candles with their manifest."""
        source = self._source
        slots = self._slots_of(source.candles.open_ms)
        firsts = np.flatnonzero(np.diff(slots, prepend=slots[:1] - 1)) if len(slots) else np.empty(0, np.int64)
        own = slots[firsts]
        made = aggregate(source.candles, firsts, self._opens_ms(own))
        inside, lost = self._are_covered(own), np.isin(own, self._touched(source.missing))
        holed = np.isin(own, self._slots_of(source.lacking_ms))
        if source.owes_each:
            holed |= np.isin(own, self._touched(find_holes(source.candles.open_ms, source.base, source.span)))
        lacking = ~inside | lost | holed
        keep = {"list": inside & ~lost, "drop": ~lacking, "keep": np.ones(len(own), np.bool_)}[self._incomplete]
        candles = Candles(made.names, made.block[:, keep])
        frame = frame_of(candles, source.names)
        if self._incomplete == "keep":
            frame[PARTIAL] = lacking
        times = [iso(ms) for ms in made.open_ms[lacking & keep].tolist()]
        left_out = [iso(ms) for ms in made.open_ms[holed & inside & ~lost & ~keep].tolist()]
        frame.attrs[MANIFEST] = self._describe(frame, own, times, left_out)
        return frame

    # -- slots ----------------------------------------------------------------------------------------------------

    def _slots_of(self, utc_ms: Int64s) -> Int64s:
        return self._target.ordinals(to_local(utc_ms, self._zone))

    def _opens_ms(self, slots: Int64s) -> Int64s:
        """Return the open times of the candles of these slots."""
        return self._starts_ms(slots) if self._is_native else self._target.opens_ms(slots)

    def _starts_ms(self, slots: Int64s) -> Int64s:
        """Return when the slots begin."""
        return to_utc(self._target.opens_ms(slots), self._zone)

    def _are_covered(self, slots: Int64s) -> npt.NDArray[np.bool_]:
        """Return of which slots the frame covers each candle: the first and the last open in its span."""
        target, span = self._target, self._source.span
        base, ends_ms = self._source.base, target.opens_ms(slots + 1)
        lasts_ms = to_utc(base.opens_ms(base.ordinals(ends_ms - 1)), self._zone)
        firsts_ms = np.minimum(self._starts_ms(slots), self._opens_ms(slots))
        return (firsts_ms >= span.start_ms) & (lasts_ms < span.end_ms)

    def _touched(self, spans: Sequence[Span]) -> Int64s:
        """Return the slots that one of the spans touches."""
        ends = [self._slots_of(np.array([span.start_ms, span.end_ms - 1])) for span in spans if span]
        runs = [np.arange(first, last + 1) for first, last in ends]
        return np.unique(np.concatenate(runs)) if runs else np.empty(0, np.int64)

    def _span(self, own: Int64s) -> tuple[Span, range]:
        """Return the span of the result, and the slots in it: those that the frame covers, or touches."""
        span = self._source.span
        if not span:
            return span, range(0)
        first, last = self._slots_of(np.array([span.start_ms, span.end_ms - 1])).tolist()
        slots = np.arange(first, last + 1)
        if self._incomplete != "keep":
            slots = slots[self._are_covered(slots)]
        if not slots.size:
            return Span(span.start_ms, span.start_ms), range(0)
        start_ms = min(span.start_ms, *self._opens_ms(slots[:1]).tolist())
        behind_ms = int(self._opens_ms(slots[-1:] + 1)[0])
        end_ms = behind_ms if behind_ms < span.end_ms or self._incomplete == "keep" else span.end_ms
        return Span(start_ms, end_ms), range(int(slots[0]), int(slots[-1]) + 1)

    # -- the manifest ---------------------------------------------------------------------------------------------

    def _describe(self, frame: pd.DataFrame, own: Int64s, partial: list[str], left_out: list[str]) -> Manifest:
        source, target = self._source, self._target
        span, slots = self._span(own)
        stated = source.manifest
        made = Manifest() if stated is None else Manifest(stated)
        of = {name: made.get(name) for name in ("start", "end", "rows", "fingerprint")}
        if stated is None:
            of = {"start": iso(source.span.start_ms), "end": iso(source.span.end_ms), "rows": source.candles.count}
        part_of = made.pop("part_of", None)
        made.update(timeframe=target.name, start=iso(span.start_ms), end=iso(span.end_ms), rows=len(frame))
        missing = self._missing(slots)
        if stated is not None:
            gaps, is_all = self._gaps(slots, own)
            count = sum(gap["count"] for gap in (*gaps, *missing)) + len(left_out) + len(frame)
            made.update(gaps=gaps[:SHOWN], gap_count=len(gaps) if is_all else None, expected=count if is_all else None)
        made["partial"] = partial
        made.pop("missing", None)
        made.update(version=__version__, resampled={"timeframe": source.base.name, **of})
        if left_out:
            made["left_out"] = left_out
        if part_of is not None:
            made["resampled"]["part_of"] = part_of
        has_prices = all(name in frame for name in OHLCV) and not missing
        made["fingerprint"] = fingerprint(frame, target.name) if has_prices else None
        if missing:
            made["missing"] = missing
        return made

    def _gaps(self, slots: range, own: Int64s) -> tuple[list[dict[str, Any]], bool]:
        """Return the slots without a candle that owe one, as a manifest lists gaps, and whether these are all.

        Where a provider's exchange closes at times, only slots that hold a gap of the frame owe a candle.
        """
        source, stated = self._source, self._source.manifest
        assert stated is not None
        listed = stated.get("gaps") or ()
        is_all = stated.get("gap_count") == len(listed)
        is_always_open = len(source.base.slots(source.span)) == stated.get("expected")
        found = [(self._touched([_span_of(gap, source.base)]), gap["cause"]) for gap in listed]
        causes = {slot: cause for slots_of_gap, cause in reversed(found) for slot in slots_of_gap.tolist()}
        lost = self._touched(source.missing).tolist()
        empty = sorted(set(slots).difference(own.tolist(), lost))
        if not is_always_open:
            empty = [slot for slot in empty if slot in causes]
        gaps: list[Gap] = []
        last = None
        for slot in empty:
            open_ms, cause = int(self._opens_ms(np.array([slot]))[0]), causes.get(slot)
            if gaps and last == slot - 1 and gaps[-1].cause == cause:
                gaps[-1] = Gap(gaps[-1].first_ms, open_ms, gaps[-1].count + 1, gaps[-1].cause)
            else:
                gaps.append(Gap(open_ms, open_ms, 1, cause))  # type: ignore[arg-type]
            last = slot
        return [describe_gap(gap) for gap in gaps], is_all or is_always_open

    def _missing(self, slots: range) -> list[dict[str, Any]]:
        """Return the slots of which a part could not be fetched, as a manifest lists them."""
        made = []
        stated = self._source.manifest
        for one in () if stated is None else stated.get("missing", ()):
            touched = self._touched([_span_of(one, self._source.base)])
            inside = touched[(touched >= slots.start) & (touched < slots.stop)] if len(slots) else touched[:0]
            if inside.size:
                opens = self._opens_ms(inside[[0, -1]]).tolist()
                made.append(describe_gap(Gap(opens[0], opens[1], len(inside), one["cause"])))
        return made


def _span_of(gap: Mapping[str, Any], timeframe: Timeframe) -> Span:
    return Span(instant_ms(gap["first"], "first"), timeframe.close_ms(instant_ms(gap["last"], "last")))
