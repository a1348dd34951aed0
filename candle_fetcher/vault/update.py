"""One update of one series in any format: what to ask for, what came back, and which rows to write."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.missing import count_missing, missing_in
from candle_fetcher.core.ranges import FIRST, instant_ms
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS, Timeframe, parse_timeframe
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.processing import Processor, process_rows
from candle_fetcher.vault.state import Facts, SeriesId, SeriesState

# What was read sooner after its close may be read with another value by the next request, and is compared again.
_CONFIRM_MS = 2 * MINUTE_MS
# Holes that are younger may be filled yet: a provider is asked for them again.
_YOUNG_MS = 2 * DAY_MS
_AT_ONCE = 300_000  # candles; more of a new series come in parts
_PART_ROWS = 100_000
_NEAR = 1e-9


class Source(Protocol):
    """The calls of a CandleFetcher for one series."""

    def fetch(self, start: Any, end: int | None, limit: int | None = None) -> pd.DataFrame:
        """Return the settled candles of the range, with their manifest."""

    def iterate(self, start: Any, end: int | None, rows: int) -> Iterator[pd.DataFrame]:
        """Yield the same in parts."""

    def revisions(self, settings: Sequence[tuple[str, str]] = ()) -> Sequence[Revision]:
        """Return what the cache has noted of values that the provider changed."""

    @property
    def keeps_holes(self) -> bool:
        """Whether a hole is asked for again while it is young: the provider has a row for each interval, and the cache
        keeps the others."""


class Rows(NamedTuple):
    """How candles become rows of a file: processors, how many rows before the new ones these get, and which columns
    are written (None: those of the candles)."""

    processors: tuple[Processor, ...] = ()
    context: int = 0
    columns: tuple[str, ...] | None = None

    def select(self, made: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
        """Return the columns that are written, of rows that were made of raw ones. Raises InputError for one that is
        not there."""
        names = list(raw.columns if self.columns is None else self.columns)
        lacking = [name for name in names if name not in made]
        if lacking:
            raise InputError(
                f"there is no column {lacking[0]!r} to write; expected one of {', '.join(map(str, made.columns))}, "
                "or a processor that adds it"
            )
        return made[names]


class Updated(NamedTuple):
    """What an update did: rows that are new, rows with other values than before, gaps in the time that it asked for,
    and candles that could not be fetched, where a partial answer was allowed."""

    state: SeriesState | None
    added: int = 0
    revised: int = 0
    gaps: int = 0
    missing: int = 0


class Asked(NamedTuple):
    """What is asked for: from where on, and the revisions that it takes account of."""

    from_ms: int
    revisions: tuple[int, int]


def update_series(
    source: Source, files: Files, rows: Rows, series: SeriesId, start_ms: int, end_ms: int | None, now_ms: int
) -> Updated:
    """Bring the series up to `end_ms`, or to the last settled candle, and begin it by `start_ms`; 0 is the listing.

    Raises what the fetch raises; then the files are as before.
    """
    state = files.load()
    if state is None:
        return _begin(source, files, rows, series, start_ms, end_ms, now_ms)
    earlier = Updated(state)
    if start_ms < state.facts.start_ms:
        earlier = _prepend(source, files, rows, state, start_ms)
        state = earlier.state or state
    later = _extend(source, files, rows, state, end_ms, now_ms)
    return Updated(later.state, *(before + after for before, after in zip(earlier[1:], later[1:], strict=True)))


def _begin(
    source: Source, files: Files, rows: Rows, series: SeriesId, start_ms: int, end_ms: int | None, now_ms: int
) -> Updated:
    grid = parse_timeframe(series.timeframe)
    revisions = _mark(source.revisions())
    start: Any = start_ms or FIRST
    if (min(end_ms or now_ms, now_ms) - start_ms) // grid.nominal_ms <= _AT_ONCE:
        parts = iter([source.fetch(start, end_ms)])
    else:
        parts = source.iterate(start, end_ms, _PART_ROWS)
    first = next(parts)  # before anything is written
    stream = _Stream(rows, series.label, itertools.chain([first], parts), first[:0], source.keeps_holes)

    def facts() -> Facts:
        recheck_ms = _recheck_ms(stream, grid, now_ms, start_ms or stream.first_ms or 0)
        return Facts(start_ms, stream.ends_ms, recheck_ms, revisions, now_ms, _settings(first))

    state = files.write(None, facts, None, stream)
    return Updated(state, state.piece.rows, 0, stream.gaps, stream.missing)


def _prepend(source: Source, files: Files, rows: Rows, state: SeriesState, start_ms: int) -> Updated:
    """Put what lies before the series in front of it. Rows that processors made are made again, with their context."""
    facts = state.facts
    if rows.processors:
        found = source.fetch(start_ms or FIRST, facts.end_ms)
    else:
        found = source.fetch(start_ms or FIRST, facts.start_ms)
    stream = _Stream(rows, state.series.label, [found], found[:0], keeps_holes=False)
    new = list(stream)
    if not rows.processors:
        new.append(_as_written(files.read(state), state))
    recheck_ms = min([facts.recheck_ms or facts.end_ms, *(lost.start_ms for lost in stream.lost)])
    after = files.write(state, lambda: facts._replace(start_ms=start_ms, recheck_ms=recheck_ms), start_ms, new)
    return Updated(after, after.piece.rows - state.piece.rows, 0, stream.gaps, stream.missing)


def _as_written(stored: pd.DataFrame, state: SeriesState) -> pd.DataFrame:
    """Return rows of a file by our names of the columns, as they are written."""
    made = {one.column: stored[one.header] for one in state.facts.fields if one.header in stored}
    return pd.DataFrame(made, index=stored.index)


def _extend(source: Source, files: Files, rows: Rows, state: SeriesState, end_ms: int | None, now_ms: int) -> Updated:
    facts, grid = state.facts, parse_timeframe(state.series.timeframe)
    asked = find_asked(state, source.revisions(facts.settings), grid)
    if (end_ms is not None and end_ms <= asked.from_ms) or now_ms < asked.from_ms:
        return Updated(files.repair(state))
    found = source.fetch(asked.from_ms, end_ms)
    settings = _settings(found)
    if settings != facts.settings:  # prices that are adjusted by a newer corporate action: all of them
        found, asked = source.fetch(facts.start_ms or FIRST, end_ms), asked._replace(from_ms=facts.start_ms)
    context = _context(source, rows, facts.start_ms, asked.from_ms, state)
    stream = _Stream(rows, state.series.label, [found], context, source.keeps_holes)
    (new,) = stream
    if stream.lost:
        new = _with_stored(files, state, new, stream.lost)
    ends_ms = max(facts.end_ms, stream.ends_ms)
    after = facts._replace(
        end_ms=ends_ms,
        recheck_ms=max(asked.from_ms, _recheck_ms(stream, grid, now_ms, asked.from_ms)),
        revisions=asked.revisions,
        updated_ms=now_ms,
        settings=settings,
    )
    is_old = index_ms(new) < facts.end_ms
    changes = _compare_stored(files, state, new[is_old], asked.from_ms, exactly=not rows.processors)
    changes = changes._replace(added=changes.added + int((~is_old).sum()))
    if changes.from_ms is None and not changes.added:
        repaired = files.repair(state)
        if after._replace(updated_ms=0) != facts._replace(updated_ms=0):
            repaired = repaired._replace(facts=after._replace(fields=repaired.facts.fields))
            piece = repaired.piece._replace(end_ms=ends_ms)
            repaired = repaired.with_piece(repaired.current, piece)
            files.note(repaired)
        return Updated(repaired, 0, 0, stream.gaps, stream.missing)
    from_ms = changes.from_ms
    if from_ms is None:  # only what lies behind the last row is new
        last_ms = state.piece.last_ms
        new = new[index_ms(new) > last_ms] if last_ms is not None else new
    else:
        new = new[index_ms(new) >= from_ms]
    written = files.write(state, lambda: after, from_ms, [new])
    return Updated(written, changes.added, changes.revised, stream.gaps, stream.missing)


def _with_stored(files: Files, state: SeriesState, new: pd.DataFrame, lost: Sequence[Span]) -> pd.DataFrame:
    """Return the rows, and those that are stored of spans that could not be fetched now."""
    stored = [_as_written(files.read(state, span), state) for span in lost if span.start_ms < state.facts.end_ms]
    return pd.concat([new, *(rows for rows in stored if len(rows))]).sort_index()


def _compare_stored(files: Files, state: SeriesState, again: pd.DataFrame, from_ms: int, *, exactly: bool) -> Changes:
    """Compare rows that came again with those that are stored from that time on."""
    span = Span(from_ms, max(from_ms, state.facts.end_ms))
    if span.start_ms == span.end_ms or files.holds(state, again, span):
        return Changes(None, 0, 0)
    return compare(files.read(state, span), files.normalize(again), exactly=exactly)


def _context(source: Source, rows: Rows, start_ms: int, from_ms: int, state: SeriesState) -> pd.DataFrame:
    """Return the candles of the series that processors get before the new ones."""
    nothing = pd.DataFrame()
    if not (rows.processors and rows.context) or from_ms <= start_ms or not state.piece.rows:
        return nothing
    first_ms = state.piece.first_ms
    if first_ms is None or from_ms <= first_ms:
        return nothing
    if state.piece.rows <= rows.context:
        return source.fetch(first_ms, from_ms)[-rows.context :]
    found = source.fetch(None, from_ms, rows.context)
    return found[index_ms(found) >= first_ms]


# -- what to ask for, and what came back -------------------------------------------------------------------------------


def find_asked(state: SeriesState, revisions: Sequence[Revision], grid: Timeframe) -> Asked:
    """Return from where on to ask: the end of the series, or the first of its candles that may have changed."""
    facts, mark = state.facts, _mark(revisions)
    new: list[Revision] = []
    if mark != facts.revisions:
        known, read_ms = facts.revisions
        seen = sum(one.new_read_ms <= read_ms for one in revisions)
        # Where some of those that were known are gone, or came late, all of them count.
        new = [one for one in revisions if seen != known or one.new_read_ms > read_ms]
    starts = [facts.end_ms, facts.recheck_ms or facts.end_ms]
    starts += [grid.floor_ms(one.open_ms) for one in new if facts.start_ms <= one.open_ms < facts.end_ms]
    return Asked(max(min(starts), facts.start_ms), mark)


def _mark(revisions: Sequence[Revision]) -> tuple[int, int]:
    return len(revisions), max((one.new_read_ms for one in revisions), default=0)


class Changes(NamedTuple):
    """How new rows differ from stored ones: from which time on, how many were not there, how many have other values.

    `from_ms` is None where all that is new lies behind the last stored row."""

    from_ms: int | None
    added: int
    revised: int


def compare(old: pd.DataFrame, new: pd.DataFrame, *, exactly: bool = True) -> Changes:
    """Compare stored rows with those that came for the same time. What processors made differs by the last bits where
    they got other rows before it: then values count as equal that are as close as `_NEAR`."""
    if list(old.columns) != list(new.columns):
        raise InputError(
            f"the file has the columns {', '.join(old.columns)}, and the new rows have {', '.join(new.columns)}; use "
            "the same columns and processors, or another vault"
        )
    before, after = index_ms(old), index_ms(new)
    _, ours, theirs = np.intersect1d(before, after, assume_unique=True, return_indices=True)
    differs = np.zeros(len(ours), np.bool_)
    for name in old.columns:
        left, right = _numbers(old[name])[ours], _numbers(new[name])[theirs]
        is_equal = (left == right) | (np.isnan(left) & np.isnan(right))
        if not exactly:
            is_equal |= np.abs(left - right) <= _NEAR * np.maximum(np.abs(left), np.abs(right))
        differs |= ~is_equal
    gone, added = np.setdiff1d(before, after), np.setdiff1d(after, before)
    last_ms = int(before[-1]) if len(before) else None
    inner = added[added < last_ms] if last_ms is not None else added[:0]
    changed = [*before[ours][differs][:1].tolist(), *gone[:1].tolist(), *inner[:1].tolist()]
    return Changes(min(changed, default=None), len(added), int(differs.sum()) + len(gone))


def _numbers(column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    if column.dtype.kind == "M":
        times = column.dt.tz_localize(None).to_numpy().astype("M8[ms]")
        return np.where(np.isnat(times), np.nan, times.astype(np.int64))
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


class _Stream:
    """Frames of a fetch as rows for a file, one after the other; and what their manifests say."""

    def __init__(self, rows: Rows, label: str, parts: Any, context: pd.DataFrame, keeps_holes: bool) -> None:
        self._rows, self._label, self._parts, self._context = rows, label, parts, context
        self.keeps_holes = keeps_holes
        self.gaps, self.ends_ms, self.missing = 0, 0, 0
        self.lost: list[Span] = []  # what could not be fetched
        self.first_ms: int | None = None
        self.newest: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def end_ms(self, frame: pd.DataFrame) -> int:
        """Return where the answer ends."""
        return instant_ms(frame.attrs[MANIFEST]["end"], "end")

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for frame in self._parts:
            self.gaps += frame.attrs[MANIFEST]["gap_count"]
            self.missing += count_missing(frame.attrs[MANIFEST])
            self.lost += missing_in(frame)
            self.ends_ms = self.end_ms(frame)
            times = index_ms(frame)
            if len(times) and self.first_ms is None:
                self.first_ms = int(times[0])
            self.newest = np.concatenate([self.newest, times])
            self.newest = self.newest[self.newest >= self.ends_ms - _YOUNG_MS - DAY_MS]
            made = process_rows(self._rows.processors, self._context, frame, self._label)
            if self._rows.processors and self._rows.context:
                self._context = pd.concat([self._context, frame])[-self._rows.context :]
            yield self._rows.select(made, frame)


def _recheck_ms(stream: _Stream, grid: Timeframe, now_ms: int, from_ms: int) -> int:
    """Return from where on the next update looks again: the first hole that is young, or the first candle that was read
    soon after its close; where all is well, the end."""
    end_ms = stream.ends_ms
    starts = [end_ms, *(lost.start_ms for lost in stream.lost)]
    soon = [at for at in stream.newest.tolist() if grid.close_ms(at) > now_ms - _CONFIRM_MS]
    starts += soon[:1]
    if stream.keeps_holes:
        since_ms = max(from_ms, now_ms - _YOUNG_MS)
        slots = grid.slots(Span(since_ms, end_ms)) if since_ms < end_ms else range(0)
        there = grid.ordinals(stream.newest[stream.newest >= since_ms])
        is_whole = len(there) == len(slots) and bool((np.diff(there) == 1).all())
        lacking = there[:0] if is_whole else np.setdiff1d(np.arange(slots.start, slots.stop), there)
        starts += [grid.open_ms(int(lacking[0]))] if lacking.size else []
    return min(starts)


def _settings(frame: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(frame.attrs[MANIFEST].get("settings", {}).items()))
