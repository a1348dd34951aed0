"""A series as Parquet or Arrow files, one for each calendar month (UTC) by open time, in hive layout.

    provider=binance/kind=candles/symbol=BTCUSDT/timeframe=1m/2024-01.parquet

Files are only ever replaced by rename. An update writes the months that change beside their places, under names that
begin with a dot, and syncs them; then it replaces the state file, which names them. With that one rename the update is
done: what is not yet moved to its place is read where it is, and moved by the next update. Months that do not change
are not touched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from candle_fetcher.core.checksum import find_crc32
from candle_fetcher.core.errors import BadFile
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.files.layout import TIME, Layout
from candle_fetcher.vault.fields import fields_of, join_fields, layout_of
from candle_fetcher.vault.files import PART, naming_target, replace_document
from candle_fetcher.vault.state import NOTHING, TAIL_BYTES, Facts, Field, Piece, SeriesId, SeriesState
from candle_fetcher.vault.tables_of_months import no_values, read_month, write_month

STATE = "_state.json"  # programs that read the folder leave out what begins with _ or a dot
ALL = ""  # the name of the sums
_MONTH = Timeframe(1, "M")
_BLOCK = 1 << 20
_TRIES = 20
_crc32 = find_crc32()


class MonthFiles:
    """The files of one series: a file for each month, and the state."""

    def __init__(self, root: Path, series: SeriesId, file_format: str, layout: Layout | None) -> None:
        self._root, self._series, self._format, self._layout = root, series, file_format, layout
        settings = [f"{name}={value}" for name, value in series.settings]
        names = (
            ("provider", series.provider),
            ("kind", ",".join([series.kind, *settings])),
            ("symbol", series.provider_symbol),
            ("timeframe", series.timeframe.replace("M", "mo")),
        )
        self._folder = root.joinpath(*(f"{name}={quote(value, safe='')}" for name, value in names))

    def path(self, state: SeriesState) -> Path:
        """Return the folder of the series."""
        return self._folder

    def _place(self, month: str) -> Path:
        return self._folder / f"{month}.{self._format}"

    # -- the state ----------------------------------------------------------------------------------------------------

    def load(self) -> SeriesState | None:
        """Return the state; None where there is none. Where a month was removed, the series ends before it. Raises
        BadFile for a file that is not as the state says."""
        state = self._read_state()
        if state is None:
            return None
        for month, piece in state.pieces:
            if month == ALL:
                continue
            try:
                size = self._find(state, month).stat().st_size
            except FileNotFoundError:
                return self._before(state, month)
            if size != piece.bytes:
                raise BadFile(
                    f"{self._place(month)} has {size:,} bytes, and its state file says {piece.bytes:,}: it was edited. "
                    "Remove that file, and the next update makes it again"
                )
        return state

    def _read_state(self) -> SeriesState | None:
        path = self._folder / STATE
        try:
            state = SeriesState.from_bytes(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        if state.series.key != self._series.key:
            raise BadFile(f"{path} is of {state.series.label}, not of {self._series.label}; put it back")
        return state

    def _find(self, state: SeriesState, month: str) -> Path:
        """Return where the month lies: at its place, or beside it."""
        beside = dict(state.moving).get(month)
        if beside is not None and (self._folder / beside).exists():
            return self._folder / beside
        return self._place(month)

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
        replace_document(self._folder / STATE, state.to_bytes())

    def repair(self, state: SeriesState) -> SeriesState:
        """Return the state: months that were removed are written with the rows that come."""
        return state

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        before: SeriesState | None,
        facts: Callable[[], Facts],
        from_ms: int | None,
        frames: Iterable[pd.DataFrame],
    ) -> SeriesState:
        """Replace the months that change; see `Files.write`."""
        before = before or SeriesState(self._series, Facts(0, 0, 0), ((ALL, NOTHING),), ALL)
        number = before.facts.rewrites + 1
        if from_ms is None:  # behind the last row: a month that is closed is not touched
            from_ms, frames = _begin_of(frames)
        begin_ms = from_ms
        kept = [(name, piece) for name, piece in before.pieces if name != ALL and _stop_ms(name) <= begin_ms]
        cut = [name for name, piece in before.pieces if name != ALL and _start_ms(name) < begin_ms < _stop_ms(name)]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._move(before)
            self._tidy()
            fields = before.facts.fields
            started = [rows for name in cut if len(rows := self._read_before(before, name, begin_ms))]
            made: list[tuple[str, Piece]] = []
            moving: list[tuple[str, str]] = []
            for month, rows, found in self._months(started, frames, fields if kept or cut else ()):
                fields = found
                beside = f".{month}.{number}{PART}"
                made.append((month, self._write_month(self._folder / beside, rows, fields)))
                moving.append((month, beside))
            said = facts()._replace(fields=fields, rewrites=number)
            pieces = [*kept, *made]
            if pieces:
                pieces[-1] = (pieces[-1][0], pieces[-1][1]._replace(end_ms=said.end_ms))
            after = SeriesState(self._series, said, _with_sums(pieces), ALL, tuple(moving))
            self.note(after)
        except OSError as error:
            self._tidy()
            raise naming_target(error, self._folder) from error
        except BaseException:
            self._tidy()
            raise
        gone = {name for name, _ in before.pieces} - {name for name, _ in after.pieces}
        with contextlib.suppress(OSError):  # it is done: the next update moves what is left
            self._move(after)
            for name in gone:
                self._place(name).unlink(missing_ok=True)
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
        if _check(self._find(state, month)) != (piece.bytes, piece.check, piece.tail):
            raise BadFile(
                f"{self._place(month)} is not what was written: it was edited or is damaged. Remove that file, and the "
                "next update makes it again"
            )
        rows = read_month(self._find(state, month), state.facts.fields, self._format)
        rows = rows[index_ms(rows) < ms]
        names = {field.column: rows[field.header] for field in state.facts.fields if field.column != TIME}
        return pd.DataFrame(names, index=rows.index)

    def _write_month(self, path: Path, rows: pd.DataFrame, fields: tuple[Field, ...]) -> Piece:
        with path.open("wb") as file:
            write_month(file, rows, fields, self._format)
            file.flush()
            os.fsync(file.fileno())
        size, check, tail = _check(path)
        times = index_ms(rows)
        return Piece(size, len(rows), check, tail, int(times[0]), int(times[-1]), int(times[-1]) + 1)

    def _move(self, state: SeriesState) -> None:
        """Move files to their places that were written beside them by an update that is done."""
        for month, beside in state.moving:
            with contextlib.suppress(FileNotFoundError):
                (self._folder / beside).replace(self._place(month))

    def _tidy(self) -> None:
        """Remove what updates left that were cut."""
        with contextlib.suppress(OSError):
            state = self._read_state()
            known = {beside for _, beside in state.moving} if state is not None else set()
            for path in self._folder.glob(f".*{PART}"):
                if path.name not in known:
                    path.unlink(missing_ok=True)

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
        raise BadFile(f"a month of {self._folder} is not there; update the series, which makes it again")

    def _read(self, state: SeriesState, span: Span | None) -> pd.DataFrame:
        fields = state.facts.fields
        months = [
            name
            for name, _ in state.pieces
            if name != ALL and (span is None or (_start_ms(name) < span.end_ms and _stop_ms(name) > span.start_ms))
        ]
        parts = []
        for month in months:
            part = read_month(self._find(state, month), fields, self._format)
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
        said, last_ms = [], -(2**62)
        for month, piece in state.pieces:
            if month == ALL:
                continue
            path = self._find(state, month)
            try:
                if _check(path) != (piece.bytes, piece.check, piece.tail):
                    said.append(f"{path.name} is not what was written: it was edited or is damaged")
                    continue
                times = index_ms(read_month(path, state.facts.fields, self._format))
            except FileNotFoundError:
                said.append(f"{path.name} is not there")
                continue
            if len(times) != piece.rows:
                said.append(f"{path.name} has {len(times):,} rows; expected {piece.rows:,}")
            elif (np.diff(times) <= 0).any() or (len(times) and times[0] <= last_ms):
                said.append(f"{path.name} is not in order")
            last_ms = int(times[-1]) if len(times) else last_ms
        return said

    def remove(self) -> None:
        """Remove the state first: without it the months are nothing. Folders that are empty then go too."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / STATE).unlink()
        for path in [*self._folder.glob(f"*.{self._format}"), *self._folder.glob(f".*{PART}")]:
            path.unlink(missing_ok=True)
        folder = self._folder
        with contextlib.suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

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


def _check(path: Path) -> tuple[int, int, int]:
    """Return the size of a file, its checksum, and that of its end."""
    size = check = 0
    end = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, check = size + len(block), _crc32(block, check)
            end = (end + block)[-TAIL_BYTES:]
    return size, check, _crc32(end)


def _no_rows(fields: tuple[Field, ...]) -> pd.DataFrame:
    data = {field.header: no_values(field.kind) for field in fields if field.column != TIME}
    return pd.DataFrame(data, index=no_values("time").rename(TIME))
