"""A series as CSV, in two slots that are written by turns.

One slot is the current one: no byte of it changes while it is. An update brings the older slot up to date (it appends
the bytes that the current one has beyond it, and the new rows), syncs it, and then replaces the state file, by which it
becomes the current one. So an update writes each row twice in all, however long the series is; and a program
that reads the current file is not disturbed by the next update.

The rows of both slots are the same text, so that the older one is a beginning of the current one, up to the byte that
the state file says. Where rows change, both are cut to what did not: the state file says so before a byte is touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from candle_fetcher.core.checksum import find_crc32
from candle_fetcher.core.errors import BadFile
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.files.layout import TIME, CsvOptions, Layout, csv_bytes
from candle_fetcher.vault.csv_text import find_row, is_text_of, parse_text, row_ms
from candle_fetcher.vault.fields import fields_of, join_fields, layout_of
from candle_fetcher.vault.files import PART, naming_target, replace_document
from candle_fetcher.vault.state import NOTHING, TAIL_BYTES, Facts, Field, Piece, SeriesId, SeriesState

SLOTS = ("1", "2")
_BLOCK = 1 << 20
_MOST_HELD = 16  # rows that are quicker compared one by one
_TRIES = 20  # of a read beside updates that are quicker than it
_crc32 = find_crc32()


class SlotFiles:
    """The files of one series: `NAME_1.csv`, `NAME_2.csv`, and the state, `NAME.json`."""

    def __init__(self, folder: Path, name: str, series: SeriesId, options: CsvOptions, layout: Layout | None) -> None:
        self._folder, self._name, self._series = folder, name, series
        self._options, self._layout = options, layout

    # -- the state ----------------------------------------------------------------------------------------------------

    def path(self, state: SeriesState) -> Path:
        """Return the current file."""
        return self._slot(state.current)

    def _slot(self, name: str) -> Path:
        return self._folder / f"{self._name}_{name}.csv"

    @property
    def _state_path(self) -> Path:
        return self._folder / f"{self._name}.json"

    def load(self) -> SeriesState | None:
        """Return the state; None where there is none. Where the current file was removed, the older one is current, as
        far as it goes. Raises BadFile for a file that is not as the state says."""
        state = self._read_state()
        if state is None:
            return None
        piece = state.piece
        if not self._slot(state.current).exists():
            return self._without(state)
        said = self._find_fault(state.current, piece)
        if said:
            fix = "Remove that file, and the next update makes it again; a copy of yours is best kept elsewhere"
            raise BadFile(f"{self._slot(state.current)} {said}. {fix}")
        return state

    def _read_state(self) -> SeriesState | None:
        try:
            data = self._state_path.read_bytes()
        except FileNotFoundError:
            return None
        state = SeriesState.from_bytes(data, str(self._state_path))
        if state.series.key != self._series.key:
            raise BadFile(f"{self._state_path} is of {state.series.label}, not of {self._series.label}; put it back")
        return state

    def _without(self, state: SeriesState) -> SeriesState | None:
        """Return the state without its current file, which is gone; None where both are."""
        other = _other(state.current)
        piece = dict(state.pieces).get(other, NOTHING)
        if not piece.bytes or self._find_fault(other, piece, may_be_longer=True):
            return None
        facts = state.facts
        cut = facts._replace(end_ms=piece.end_ms, recheck_ms=min(facts.recheck_ms, piece.end_ms))
        return SeriesState(state.series, cut, ((other, piece),), other)

    def _find_fault(self, name: str, piece: Piece, *, may_be_longer: bool = False) -> str:
        """Return what differs from the state: the length, or the last bytes; "" where nothing does."""
        try:
            with self._slot(name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < piece.bytes or (size > piece.bytes and not may_be_longer):
                    return f"has {size:,} bytes, and its state file says {piece.bytes:,}: it was cut or edited"
                if _tail(file, piece.bytes) != piece.tail:
                    return "does not end as its state file says: it was edited or is damaged"
        except (FileNotFoundError, IsADirectoryError):
            return "is not there"
        return ""

    def note(self, state: SeriesState) -> None:
        """Replace the state file."""
        replace_document(self._state_path, state.to_bytes())

    def repair(self, state: SeriesState) -> SeriesState:
        """Write the slot again that is not there."""
        return state if len(state.pieces) == len(SLOTS) else self.write(state, lambda: state.facts, None, ())

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        before: SeriesState | None,
        facts: Callable[[], Facts],
        from_ms: int | None,
        frames: Iterable[pd.DataFrame],
    ) -> SeriesState:
        """Bring the older slot up to date; see `Files.write`. Of a new series both slots are written."""
        if before is None:
            before = SeriesState(self._series, Facts(0, 0, 0), (), SLOTS[1])
        current, older = before.current, _other(before.current)
        base = self._base(before, from_ms)
        agreed = dict(before.pieces).get(older, NOTHING)
        if agreed.bytes and self._find_fault(older, agreed, may_be_longer=True):
            agreed = NOTHING  # what it should have is in the current slot
        if agreed.bytes > base.bytes:
            agreed = base
        if agreed != dict(before.pieces).get(older, NOTHING):
            # Said before a byte is touched: to the next writer, and to one that reads this slot by an older state.
            facts_then = before.facts._replace(rewrites=before.facts.rewrites + 1)
            before = before._replace(facts=facts_then).with_piece(older, agreed)
            self.note(before)
        piece, fields = self._write_slot(older, agreed, base, before, frames)
        is_cut = base.bytes < before.piece.bytes
        kept = base if is_cut else before.piece
        said = facts()
        piece = piece._replace(end_ms=said.end_ms)
        said = said._replace(fields=fields, rewrites=before.facts.rewrites + is_cut)
        after = SeriesState(self._series, said, ((older, piece),), older)
        after = after.with_piece(current, kept) if kept.bytes else after
        self.note(after)
        if before.piece.bytes:
            return after
        # The second slot of a new series, so that the next update has to write no more than what is new.
        self._write_slot(current, NOTHING, piece, after, ())
        after = after.with_piece(current, piece)
        self.note(after)
        return after

    def _write_slot(
        self, name: str, agreed: Piece, base: Piece, before: SeriesState, frames: Iterable[pd.DataFrame]
    ) -> tuple[Piece, tuple[Field, ...]]:
        """Write a slot that is not current beyond its agreed byte, and sync it: what the current one has up to `base`,
        then the rows of the frames. Return what it holds then."""
        path = self._slot(name)
        try:
            with self._open(path, agreed) as file:
                self._copy(before.current, file, agreed, base)
                return self._append(file, base, before.facts.fields if base.bytes else (), frames)
        except OSError as error:
            raise naming_target(error, path) from error

    @contextlib.contextmanager
    def _open(self, path: Path, agreed: Piece) -> Iterator[IO[bytes]]:
        """Give the file, cut to what it agrees to; one that begins again appears under its name when it is whole.

        What a block wrote that fails is cut off again, where that is possible.
        """
        if path.exists() and not path.is_file():
            raise BadFile(f"{path} is no file, and a series is to be written there; move it away")
        part = path if agreed.bytes else path.with_name(path.name + PART)
        try:
            with part.open("r+b" if agreed.bytes else "w+b") as file:
                try:
                    file.truncate(agreed.bytes)
                    file.seek(agreed.bytes)
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                except BaseException:
                    if agreed.bytes:
                        with contextlib.suppress(OSError):
                            os.ftruncate(file.fileno(), agreed.bytes)
                    raise
            if not agreed.bytes:
                part.replace(path)
        finally:
            if not agreed.bytes:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)

    def _base(self, state: SeriesState, from_ms: int | None) -> Piece:
        """Return the beginning of the current slot that stays: the rows before `from_ms`."""
        piece = state.piece
        if from_ms is None or piece.last_ms is None or from_ms > piece.last_ms:
            return piece
        if piece.first_ms is None or from_ms <= piece.first_ms:
            return NOTHING
        with self._slot(state.current).open("rb") as file:
            place = self._find(file, state, from_ms)
            known = [one for _, one in state.pieces if one.bytes <= place]
            nearest = max(known, key=lambda one: one.bytes, default=NOTHING)
            file.seek(nearest.bytes)
            check, rows = nearest.check, nearest.rows if nearest.bytes else -1  # the header is no row
            for block in _blocks(file, place - nearest.bytes):
                check = _crc32(block, check)
                rows += block.count(b"\n")
            file.seek(max(0, place - (1 << 16)))
            line = file.read(min(place, 1 << 16)).splitlines(keepends=True)[-1]
            last_ms = self._row_ms(line, state)
            return Piece(place, rows, check, _tail(file, place), piece.first_ms, last_ms, from_ms)

    def _copy(self, current: str, file: IO[bytes], agreed: Piece, base: Piece) -> None:
        """Append what the current slot has beyond the agreed byte. Raises BadFile where it was edited or is damaged."""
        if base.bytes == agreed.bytes:
            return
        check = agreed.check
        with self._slot(current).open("rb") as source:
            source.seek(agreed.bytes)
            for block in _blocks(source, base.bytes - agreed.bytes):
                check = _crc32(block, check)
                file.write(block)
        if check != base.check:
            raise BadFile(
                f"{self._slot(current)} is not what was written: it was edited or is damaged. Remove that file, and "
                "the next update makes it again"
            )

    def _append(
        self, file: IO[bytes], piece: Piece, fields: tuple[Field, ...], frames: Iterable[pd.DataFrame]
    ) -> tuple[Piece, tuple[Field, ...]]:
        """Append the rows of the frames; a file that begins with them gets a header first."""
        size, rows, check, first_ms, last_ms = piece.bytes, piece.rows, piece.check, piece.first_ms, piece.last_ms
        for frame in frames:
            layout = self._layout or layout_of(frame)
            fields = join_fields(fields, fields_of(frame, layout))
            parts = [csv_bytes(frame, self._options, layout)] if len(frame) else []
            if not size:
                parts.insert(0, self._options.header(layout))
            for part in parts:
                file.write(part)
                size, check = size + len(part), _crc32(part, check)
            if len(frame):
                times = index_ms(frame)
                first_ms = int(times[0]) if first_ms is None else first_ms
                rows, last_ms = rows + len(frame), int(times[-1])
        file.flush()
        return Piece(size, rows, check, _tail(file, size), first_ms, last_ms, piece.end_ms), fields

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, state: SeriesState, span: Span | None = None) -> pd.DataFrame:
        """Return the rows; see `Files.read`. An update that rewrites the file meanwhile makes it read again."""
        for _ in range(_TRIES):
            text = self._read_text(state, span)
            now = self._read_state()
            if now is not None and now.facts.rewrites == state.facts.rewrites:
                if span is None and _crc32(text) != state.piece.check:
                    raise BadFile(f"{self.path(state)} is not what was written: it was edited or is damaged")
                rows = text.partition(b"\n")[2] if span is None else text
                return self._parse(rows, state)
            state = self.load() or state
        raise BadFile(f"{self.path(state)} changes all the time; is its folder synchronized by another program?")

    def _parse(self, rows: bytes, state: SeriesState) -> pd.DataFrame:
        try:
            return parse_text(rows, state.facts.fields, self._options)
        except BadFile as error:
            raise BadFile(f"{self.path(state)} is damaged: {error.args[0]}") from error

    def _read_text(self, state: SeriesState, span: Span | None) -> bytes:
        with self.path(state).open("rb") as file:
            if span is None:
                return file.read(state.piece.bytes)
            start = self._find(file, state, span.start_ms)
            stop = self._find(file, state, span.end_ms)
            file.seek(start)
            return file.read(stop - start)

    def _find(self, file: IO[bytes], state: SeriesState, ms: int) -> int:
        file.seek(0)
        begin = len(file.readline())
        if state.piece.last_ms is None or ms > state.piece.last_ms:
            return max(begin, state.piece.bytes)
        return find_row(file, begin, state.piece.bytes, ms, self._options.separator, self._time_field(state))

    def _row_ms(self, line: bytes, state: SeriesState) -> int:
        return row_ms(line, self._options.separator, self._time_field(state))

    def _time_field(self, state: SeriesState) -> int:
        return [field.column for field in state.facts.fields].index(TIME)

    def holds(self, state: SeriesState, rows: pd.DataFrame, span: Span) -> bool:
        """Return whether the rows are the same text as the stored ones of that time."""
        layout, fields = self._layout or layout_of(rows), state.facts.fields
        if len(rows) > _MOST_HELD or [one.header for one in fields] != list(layout.headers):
            return False
        return is_text_of(self._read_text(state, span), rows, fields, self._options)

    def normalize(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows as they are once they were text."""
        layout = self._layout or layout_of(frame)
        return parse_text(csv_bytes(frame, self._options, layout), fields_of(frame, layout), self._options)

    # -- all of it ----------------------------------------------------------------------------------------------------

    def verify(self, state: SeriesState) -> list[str]:
        """Return what is wrong: of both slots every byte, of the current one also the order and number of its rows."""
        said = []
        for name, piece in state.pieces:
            is_current = name == state.current
            fault = self._find_fault(name, piece, may_be_longer=not is_current) if piece.bytes else ""
            if not fault and piece.bytes:
                with self._slot(name).open("rb") as file:
                    check = 0
                    for block in _blocks(file, piece.bytes):
                        check = _crc32(block, check)
                fault = "" if check == piece.check else "is not what was written: it was edited or is damaged"
            if fault:
                said.append(f"{self._slot(name).name} {fault}")
        if not said and state.piece.bytes:
            times = index_ms(self.read(state))
            if len(times) != state.piece.rows:
                said.append(f"{self.path(state).name} has {len(times):,} rows; expected {state.piece.rows:,}")
            if (np.diff(times) <= 0).any():
                said.append(f"{self.path(state).name} is not in order")
        return said

    def remove(self) -> None:
        """Remove the state first: without it the slots are nothing."""
        for path in (self._state_path, *map(self._slot, SLOTS)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def size_bytes(self, state: SeriesState) -> int:
        """Return the bytes of both slots."""
        return sum(piece.bytes for _, piece in state.pieces)


def _other(name: str) -> str:
    return SLOTS[1 - SLOTS.index(name)]


def _blocks(file: IO[bytes], count: int) -> Iterator[bytes]:
    while count > 0 and (block := file.read(min(_BLOCK, count))):
        count -= len(block)
        yield block


def _tail(file: IO[bytes], size: int) -> int:
    """Return the checksum of the last bytes before that place."""
    begin = max(0, size - TAIL_BYTES)
    file.seek(begin)
    return _crc32(file.read(size - begin))
