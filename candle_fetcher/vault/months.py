"""A series as Parquet or Arrow files, one for each calendar month (UTC) by open time, in hive layout.

    candles/provider=binance/kind=candles/symbol=BTCUSDT/timeframe=1m/2024-01.parquet
    _series/binance_BTCUSDT_1m/_state.json

Programs that read a folder as one table stop at other files in it, so `candles` has months alone, and only complete
ones. An update writes the months that change beside the state, under names that no other update uses; then it replaces
the state, which names them. With that one step the update is done: what is not yet moved to its place is read where it
is, and moved by the next update. Months that do not change are not touched.

Nothing is replaced that another writer has changed since the series was loaded: where no lock keeps it away, the state
and the files are looked at again before the state is replaced.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import BadFile
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.files.layout import TIME, Layout
from candle_fetcher.vault.fields import fields_of, join_fields, layout_of
from candle_fetcher.vault.files import PART, naming_target
from candle_fetcher.vault.state import NOTHING, Entry, Facts, Field, Piece, SeriesState
from candle_fetcher.vault.tables_of_months import no_values, read_month, write_month
from candle_fetcher.vault.trees import Listed, Tree

CANDLES, DOCUMENTS = "candles", "_series"  # programs that read the whole folder leave out what begins with _
ALL = ""  # the name of the sums
_STATE = "_state.json"
_MONTH = Timeframe(1, "M")
_NAME = re.compile(r"-?\d{4,}-\d\d")
_TRIES = 20


class _Seen(NamedTuple):
    """What was there at one moment: the state's text, and the months."""

    state: bytes | None
    months: dict[str, Listed]


class MonthFiles:
    """The files of one series: a file for each month, and the state."""

    def __init__(self, tree: Tree, entry: Entry, file_format: str, layout: Layout | None) -> None:
        self._tree, self._series, self._format, self._layout = tree, entry.series, file_format, layout
        self._folder = f"{CANDLES}/{entry.series.folder()}"
        self._beside = f"{DOCUMENTS}/{entry.name}"
        self._seen: _Seen | None = None

    def path(self, state: SeriesState) -> Path | str:
        """Return the folder of the series, or its URL."""
        return self._tree.place(self._folder)

    def _place(self, month: str) -> str:
        return f"{self._folder}/{month}.{self._format}"

    def _shown(self, month: str) -> str:
        return str(self._tree.place(self._place(month)))

    # -- the state ----------------------------------------------------------------------------------------------------

    def load(self) -> SeriesState | None:
        """Return the state; None where there is none. Where a month was removed, the series ends before it. Raises
        BadFile for a file that is not as the state says."""
        for _ in range(_TRIES):
            seen = self._seen = self._look()
            if seen.state is None:
                return None
            state = self._parse(seen.state)
            beside = self._tree.listing(self._beside) if state.moving else {}
            moving = dict(state.moving)
            wrong = None
            for month, piece in state.pieces:
                there = beside.get(moving.get(month, "")) or seen.months.get(f"{month}.{self._format}")
                if month != ALL and (there is None or there.size != piece.bytes):
                    wrong = month, there, piece
                    break
            if wrong is None:
                return state
            if self._read_text() == seen.state:  # no update was done meanwhile
                break
        else:
            raise BadFile(f"{self._tree.place(self._folder)} changes all the time; try again")
        month, there, piece = wrong
        if there is None:
            return self._before(state, month)
        raise BadFile(
            f"{self._shown(month)} has {there.size:,} bytes, and its state file says {piece.bytes:,}: it was edited. "
            "Remove that file, and the next update makes it again"
        )

    def _look(self) -> _Seen:
        return _Seen(self._read_text(), self._tree.listing(self._folder))

    def _read_text(self) -> bytes | None:
        try:
            return self._tree.read(f"{self._beside}/{_STATE}")
        except FileNotFoundError:
            return None

    def _parse(self, text: bytes) -> SeriesState:
        path = self._tree.place(f"{self._beside}/{_STATE}")
        state = SeriesState.from_bytes(text, str(path))
        if state.series.key != self._series.key:
            raise BadFile(f"{path} is of {state.series.label}, not of {self._series.label}; put it back")
        return state

    def _read_state(self) -> SeriesState | None:
        text = self._read_text()
        return None if text is None else self._parse(text)

    def _find(self, state: SeriesState, month: str) -> str:
        """Return where the month lies: at its place, or beside the state."""
        beside = dict(state.moving).get(month)
        if beside is not None and self._tree.exists(f"{self._beside}/{beside}"):
            return f"{self._beside}/{beside}"
        return self._place(month)

    def _read_month(self, state: SeriesState, month: str) -> pd.DataFrame:
        source = self._tree.source(self._find(state, month))
        return read_month(source, self._shown(month), state.facts.fields, self._format)

    def _before(self, state: SeriesState, month: str) -> SeriesState | None:
        """Return the state without that month and those after it; None without any."""
        pieces = [(name, piece) for name, piece in state.pieces if ALL < name < month]
        if not pieces:
            return None
        end_ms = _start_ms(month)
        facts = state.facts._replace(end_ms=end_ms, recheck_ms=min(state.facts.recheck_ms, end_ms))
        return state._replace(facts=facts, pieces=_with_sums(pieces))

    def note(self, state: SeriesState) -> None:
        """Replace the state file."""
        self._check_unchanged()
        self._replace_state(state)

    def repair(self, state: SeriesState) -> SeriesState:
        """Move what an update left beside the state that was cut. Months that were removed are written with the rows
        that come."""
        if any(self._tree.exists(f"{self._beside}/{beside}") for _, beside in state.moving):
            self._check_unchanged()
            self._finish(state)
        return state

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        before: SeriesState | None,
        facts: Callable[[], Facts],
        from_ms: int | None,
        frames: Iterable[pd.DataFrame],
    ) -> SeriesState:
        """Replace the months that change; see `Files.write`. Raises BadFile where another writer changed the series
        since it was loaded."""
        before = before or SeriesState(self._series, Facts(0, 0, 0), ((ALL, NOTHING),), ALL)
        number = before.facts.rewrites + 1
        if from_ms is None:  # behind the last row: a month that is closed is not touched
            from_ms, frames = _begin_of(frames)
        begin_ms = from_ms
        kept = [(name, piece) for name, piece in before.pieces if name != ALL and _stop_ms(name) <= begin_ms]
        cut = [name for name, piece in before.pieces if name != ALL and _start_ms(name) < begin_ms < _stop_ms(name)]
        moving: list[tuple[str, str]] = []
        try:
            self._check_unchanged()
            if before.moving:
                self._move(before)
                self._seen = self._look()
            self._tidy(before)
            fields = before.facts.fields
            started = [rows for name in cut if len(rows := self._read_before(before, name, begin_ms))]
            made: list[tuple[str, Piece]] = []
            mark = f"{number}-{secrets.token_hex(4)}"
            for month, rows, found in self._months(started, frames, fields if kept or cut else ()):
                fields = found
                moving.append((month, f"_{month}.{mark}{PART}"))
                made.append((month, self._write_month(moving[-1][1], rows, fields)))
            said = facts()._replace(fields=fields, rewrites=number)
            pieces = [*kept, *made]
            if pieces:
                pieces[-1] = (pieces[-1][0], pieces[-1][1]._replace(end_ms=said.end_ms))
            after = SeriesState(self._series, said, _with_sums(pieces), ALL, tuple(moving))
            self._check_unchanged([(name, piece) for (_, name), (_, piece) in zip(moving, made, strict=True)])
            self._replace_state(after)
        except OSError as error:
            self._drop(moving)
            raise naming_target(error, self._tree.place(self._folder)) from error
        except BaseException:
            self._drop(moving)
            raise
        with contextlib.suppress(OSError):  # it is done: the next update moves what is left
            self._finish(after)
        return after

    def _months(
        self, started: list[pd.DataFrame], frames: Iterable[pd.DataFrame], fields: tuple[Field, ...]
    ) -> Iterator[tuple[str, pd.DataFrame, tuple[Field, ...]]]:
        """Yield the rows month by month, with their fields; each month once, when its last row has come."""
        waiting, month = started, ""
        if started:
            month = _month_of(int(index_ms(started[0])[-1]))
        for frame in frames:
            fields = join_fields(fields, fields_of(frame, self._layout))
            months = (index_ms(frame) // 86_400_000).astype("M8[D]").astype("M8[M]")
            borders = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), len(frame)]
            for start, stop in itertools.pairwise(borders):
                if start == stop:
                    continue
                name = str(months[start])
                if waiting and name != month:
                    yield month, pd.concat(waiting), fields
                    waiting = []
                month = name
                waiting = [*waiting, frame.iloc[start:stop]]
        if waiting:
            yield month, pd.concat(waiting), fields

    def _read_before(self, state: SeriesState, month: str, ms: int) -> pd.DataFrame:
        """Return the rows of the month before that time, by our names of the columns. Raises BadFile where the month is
        not what was written."""
        piece = dict(state.pieces)[month]
        if self._tree.sums(self._find(state, month)) != (piece.bytes, piece.check, piece.tail):
            raise BadFile(
                f"{self._shown(month)} is not what was written: it was edited or is damaged. Remove that file, and the "
                "next update makes it again"
            )
        rows = self._read_month(state, month)
        rows = rows[index_ms(rows) < ms]
        names = {field.column: rows[field.header] for field in state.facts.fields if field.column != TIME}
        return pd.DataFrame(names, index=rows.index)

    def _write_month(self, beside: str, rows: pd.DataFrame, fields: tuple[Field, ...]) -> Piece:
        name = f"{self._beside}/{beside}"
        size, check, tail = self._tree.write(name, lambda file: write_month(file, rows, fields, self._format))
        times = index_ms(rows)
        return Piece(size, len(rows), check, tail, int(times[0]), int(times[-1]), int(times[-1]) + 1)

    def _check_unchanged(self, written: Sequence[tuple[str, Piece]] = ()) -> None:
        """Raise BadFile where something is not as it was when the series was loaded, or what this update has written is
        not there."""
        now = self._look()
        self._seen = self._seen or now
        beside = self._tree.listing(self._beside) if written else {}
        is_there = all(name in beside and beside[name].size == piece.bytes for name, piece in written)
        if now != self._seen or not is_there:
            raise BadFile(
                f"{self._tree.place(self._folder)} changed while it was updated: another program writes to it. Let one "
                "update run at a time, and update again"
            )

    def _replace_state(self, state: SeriesState) -> None:
        text = state.to_bytes()
        self._tree.replace(f"{self._beside}/{_STATE}", text)
        self._seen = None if self._seen is None else self._seen._replace(state=text)

    def _finish(self, state: SeriesState) -> None:
        """Bring the files to what the state says: an update is done."""
        self._move(state)
        self._tidy(state)
        for name in self._tree.listing(self._folder):
            month, _, ending = name.partition(".")
            if ending == self._format and _NAME.fullmatch(month) and month not in dict(state.pieces):
                self._tree.remove(f"{self._folder}/{name}")
        if self._seen is not None:
            self._seen = self._seen._replace(months=self._tree.listing(self._folder))

    def _move(self, state: SeriesState) -> None:
        """Move files to their places that were written beside the state by an update that is done."""
        for month, beside in state.moving:
            with contextlib.suppress(FileNotFoundError):
                self._tree.move(f"{self._beside}/{beside}", self._place(month))

    def _tidy(self, state: SeriesState) -> None:
        """Remove what updates left that were cut."""
        known = {beside for _, beside in state.moving}
        for name in self._tree.listing(self._beside):
            if name.endswith(PART) and name not in known:
                self._tree.remove(f"{self._beside}/{name}")

    def _drop(self, moving: Sequence[tuple[str, str]]) -> None:
        """Remove what this update has written, unless the state names it by now."""
        with contextlib.suppress(OSError, BadFile):
            state = self._read_state()
            known = {beside for _, beside in state.moving} if state is not None else set()
            for _, beside in moving:
                if beside not in known:
                    self._tree.remove(f"{self._beside}/{beside}")

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, state: SeriesState, span: Span | None = None) -> pd.DataFrame:
        """Return the rows; see `Files.read`. Of one month of an Arrow file no column of floats is copied."""
        for _ in range(_TRIES):
            try:
                found = self._read(state, span)
            except FileNotFoundError:
                found = None
            now = self._read_state()
            if found is not None and now is not None and now.facts.rewrites == state.facts.rewrites:
                return found
            if found is None and now is not None and now.facts.rewrites == state.facts.rewrites:
                break
            state = self.load() or state
        raise BadFile(
            f"a month of {self._tree.place(self._folder)} is not there; update the series, which makes it again"
        )

    def _read(self, state: SeriesState, span: Span | None) -> pd.DataFrame:
        fields = state.facts.fields
        months = [
            name
            for name, _ in state.pieces
            if name != ALL and (span is None or (_start_ms(name) < span.end_ms and _stop_ms(name) > span.start_ms))
        ]
        parts = []
        for month in months:
            part = self._read_month(state, month)
            if span is not None:
                part = _clip(part, span)
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return pd.concat(parts) if parts else _no_rows(fields)

    def holds(self, state: SeriesState, rows: pd.DataFrame, span: Span) -> bool:
        """Return False: to read the rows takes no time."""
        return False

    def normalize(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with their headers."""
        layout = self._layout or layout_of(frame)
        pairs = zip(layout.headers, layout.columns, strict=True)
        return pd.DataFrame({header: frame[name] for header, name in pairs if name != TIME}, index=frame.index)

    # -- all of it ----------------------------------------------------------------------------------------------------

    def verify(self, state: SeriesState) -> list[str]:
        """Return what is wrong: every byte of each month, and the order and number of its rows."""
        for _ in range(_TRIES):
            said, now = self._verify(state), self._read_state()
            if not said or now is None or now.facts.rewrites == state.facts.rewrites:
                break
            state = self.load() or state  # an update was done meanwhile
        return said

    def _verify(self, state: SeriesState) -> list[str]:
        said, last_ms = [], -(2**62)
        for month, piece in state.pieces:
            if month == ALL:
                continue
            name = f"{month}.{self._format}"
            try:
                if self._tree.sums(self._find(state, month)) != (piece.bytes, piece.check, piece.tail):
                    said.append(f"{name} is not what was written: it was edited or is damaged")
                    continue
                times = index_ms(self._read_month(state, month))
            except FileNotFoundError:
                said.append(f"{name} is not there")
                continue
            if len(times) != piece.rows:
                said.append(f"{name} has {len(times):,} rows; expected {piece.rows:,}")
            elif (np.diff(times) <= 0).any() or (len(times) and times[0] <= last_ms):
                said.append(f"{name} is not in order")
            last_ms = int(times[-1]) if len(times) else last_ms
        return said

    def remove(self) -> None:
        """Remove the state first: without it the months are nothing. Folders that are empty then go too."""
        self._tree.remove(f"{self._beside}/{_STATE}")
        for folder, ending in ((self._folder, f".{self._format}"), (self._beside, PART)):
            for name in self._tree.listing(folder):
                if name.endswith(ending):
                    self._tree.remove(f"{folder}/{name}")
            self._tree.prune(folder)

    def size_bytes(self, state: SeriesState) -> int:
        """Return the bytes of all months."""
        return state.piece.bytes


def _begin_of(frames: Iterable[pd.DataFrame]) -> tuple[int, Iterable[pd.DataFrame]]:
    """Return when the first row opens (never, without one), and the frames, none of which is empty."""
    rest = iter(frames)
    for frame in rest:
        if len(frame):
            return int(index_ms(frame)[0]), itertools.chain([frame], rest)
    return 2**62, ()


def _clip(rows: pd.DataFrame, span: Span) -> pd.DataFrame:
    """Return the rows that open in the span, without a copy."""
    index: Any = rows.index
    ns = index.asi8
    low, high = (int(np.searchsorted(ns, min(max(ms, -(2**43)), 2**43) * 1_000_000)) for ms in span)
    return rows if high - low == len(rows) else rows.iloc[low:high]


def _month_of(ms: int) -> str:
    return str(np.datetime64(ms, "ms").astype("M8[M]"))


def _start_ms(month: str) -> int:
    return int(np.datetime64(month, "M").astype("M8[ms]").astype(np.int64))


def _stop_ms(month: str) -> int:
    return _MONTH.close_ms(_start_ms(month))


def _with_sums(pieces: list[tuple[str, Piece]]) -> tuple[tuple[str, Piece], ...]:
    """Return the months behind their sums."""
    if not pieces:
        return ((ALL, NOTHING),)
    each = [piece for _, piece in sorted(pieces)]
    sums = Piece(
        sum(one.bytes for one in each),
        sum(one.rows for one in each),
        0,
        0,
        each[0].first_ms,
        each[-1].last_ms,
        each[-1].end_ms,
    )
    return ((ALL, sums), *sorted(pieces))


def _no_rows(fields: tuple[Field, ...]) -> pd.DataFrame:
    data = {field.header: no_values(field.kind) for field in fields if field.column != TIME}
    return pd.DataFrame(data, index=no_values("time").rename(TIME))
