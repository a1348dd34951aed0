"""A vault in an SQL database: the tables `candles`, `candles_series` and `candles_vault`.

    candles         provider, settings, symbol, timeframe, kind, timestamp (the key), and a column for each value
    candles_series  a row for each series: rows, first, last, and its state, as a file in a folder would say it
    candles_vault   one row: the document of the vault

An update of a series is one transaction: its rows are copied into a temporary table, rows that are gone are deleted,
rows with other values updated, rows that are not there inserted, and the record of the series is replaced. Rows that
are as they were are not written. A writer that lost its lock with its connection finds another state in the record
than it began with, and changes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.errors import BadFile, InputError
from candle_fetcher.core.frame import index_ms, utc_index
from candle_fetcher.core.spans import Span
from candle_fetcher.files.layout import TIME, Layout
from candle_fetcher.vault.databases import Database, Rows, Session, open_database, quoted
from candle_fetcher.vault.fields import fields_of, join_fields
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.locks import Holding
from candle_fetcher.vault.opening import Options, layout_of_series, new_document
from candle_fetcher.vault.state import NOTHING, Entry, Facts, Field, Piece, SeriesId, SeriesState, VaultDocument

FORMAT = "sql"
KEYS = ("provider", "settings", "symbol", "timeframe", "kind")
_INDEX = ("provider", "symbol", "timeframe", "kind", "settings")  # as queries name them: what is often left out is last
_VALUES = ":provider, :settings, :symbol, :timeframe, :kind"
_PIECE = "rows"
_IN_MEMORY = 1 << 26
_FIX = "remove the series and update it again: what the cache has is not asked for"


class SqlHome(Holding):
    """A vault in a database. Threads share it."""

    def __init__(self, where: str, options: Options) -> None:
        self._options = options
        self._database = open_database(where)
        self.close = self._database.close
        self._is_checked = False

    def __str__(self) -> str:
        return self._database.label

    def try_acquire(self, name: str) -> bool:
        """Lock a series without waiting. Return False where another writer has it."""
        return self._database.try_acquire(name)

    def release(self, name: str) -> None:
        """Unlock the series, if this object has locked it."""
        self._database.release(name)

    def load(self) -> VaultDocument | None:
        """Return what the table candles_vault says; None where there is none."""
        path = self._database.path
        if path is not None and not path.exists():
            return None
        with self._database.begin(is_write=False) as session:
            return self._load(session)

    def _load(self, session: Session) -> VaultDocument | None:
        if not self._is_checked:
            if not self._check_tables(session):
                return None
            self._is_checked = True
        found = session.run("SELECT document FROM candles_vault WHERE id = 1")
        place = f"the table candles_vault of {self._database.label}"
        return VaultDocument.from_bytes(str(found[0][0]).encode(), place) if found else None

    def _check_tables(self, session: Session) -> bool:
        """Return whether the tables are there. Raises InputError where one of them is not a vault's."""
        database, needed = self._database, {
            "candles_vault": ("id", "document"),
            "candles_series": (*KEYS, "state"),
            "candles": (*KEYS, TIME),
        }  # fmt: skip
        there = {name: database.columns(session, name) for name in needed}
        if not any(there.values()):
            return False
        for name, columns in needed.items():
            lacking = [one for one in columns if one not in there[name]]
            if not lacking:
                continue
            has = f"has the columns {', '.join(there[name])}" if there[name] else "is not there"
            raise InputError(
                f"the tables of {database.label} were not made by a vault: {name} {has}; expected "
                f"{', '.join(columns)}. Rename that table, or use another database or schema"
            )
        return True

    def change(self, change: Callable[[VaultDocument], VaultDocument]) -> VaultDocument:
        """Change the document, and make the tables of a new vault; what it does not name any more is deleted."""
        with self._database.begin(is_write=True) as session:
            self._database.lock_all(session)
            before = self._load(session)
            after = change(before or new_document(self._options)._replace(format=FORMAT))
            if before is None and not self._is_checked:
                self._create(session)
            if after == before:
                return after
            _check_keys(after)
            for entry in before.entries if before is not None else ():
                if after.find(entry.series) is None:
                    SqlFiles(self._database, entry.series, None).delete(session)
            session.run("DELETE FROM candles_vault")
            session.run(
                "INSERT INTO candles_vault (id, document) VALUES (1, :document)", document=after.to_bytes().decode()
            )
        self._is_checked = True
        return after

    def _create(self, session: Session) -> None:
        database = self._database
        keys = ", ".join(f"{name} {database.text} NOT NULL" for name in KEYS)
        index = ", ".join(_INDEX)
        time = database.types["time"]
        session.run("CREATE TABLE candles_vault (id INTEGER PRIMARY KEY, document TEXT NOT NULL)")
        session.run(
            f"CREATE TABLE candles_series ({keys}, provider_symbol TEXT NOT NULL, row_count BIGINT NOT NULL, "
            f"first_timestamp {time}, last_timestamp {time}, covered_until {time}, state TEXT NOT NULL, "
            f"PRIMARY KEY ({index}))"
        )
        session.run(
            f"CREATE TABLE candles ({keys}, {TIME} {time} NOT NULL, PRIMARY KEY ({index}, {TIME})){database.ending}"
        )
        database.created(session)

    def files(self, document: VaultDocument, entry: Entry) -> Files:
        """Return the rows of a series."""
        if document.format != FORMAT:
            raise InputError(f"the vault in {self} has the format {document.format!r}, which is not of a database")
        return SqlFiles(self._database, entry.series, layout_of_series(document, entry.series))

    def settle(self) -> None:
        """Do nothing: a transaction that has ended is lasting."""


def open_sql(where: str, options: Options) -> SqlHome:
    """Return the vault of a URL. Raises InputError for a URL or an argument that does not fit a database, MissingExtra
    where a driver is not installed."""
    if options.format is not None:
        raise InputError(f"format={options.format!r} is of folders, and this vault is in a database; leave it out")
    if options.csv:
        raise InputError(f"{next(iter(options.csv))} is of CSVs, and this vault is in a database; leave it out")
    if isinstance(options.columns, tuple):
        _check_headers(options.columns)
    return SqlHome(where, options)


def _check_headers(columns: tuple[tuple[str, str], ...]) -> None:
    taken = {name: f"the column {name} is of the key" for name in KEYS}
    for header, name in columns:
        if (name == TIME) != (header == TIME):
            raise InputError(f"columns has {header!r}: {name!r}; in a database the time is the column {TIME}")
        if "{" in header:
            raise InputError(
                f"columns has the header {header!r}; in a database each series has the same columns, and its symbol is "
                "a column of its own"
            )
        quoted(header)
        said = taken.get(header.lower())
        if said is not None:
            raise InputError(f"columns has the header {header!r}, and {said}; expected another one")
        taken[header.lower()] = f"{header} is there already"


def _check_keys(document: VaultDocument) -> None:
    """Raise InputError where two series would have the same rows."""
    seen: dict[tuple[str, ...], SeriesId] = {}
    for entry in document.entries:
        key = tuple(_key_of(entry.series).values())
        other = seen.setdefault(key, entry.series)
        if other.key != entry.series.key:
            raise InputError(
                f"{entry.series.provider_symbol} and {other.provider_symbol} are both {entry.series.symbol} of "
                f"{entry.series.provider}, by which their rows are distinguished; keep one of them in another vault"
            )


def _key_of(series: SeriesId) -> dict[str, str]:
    settings = ",".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in series.settings)
    return {
        "provider": series.provider,
        "settings": settings,
        "symbol": series.symbol,
        "timeframe": series.timeframe,
        "kind": series.kind,
    }


class SqlFiles:
    """The rows of one series, and its record."""

    def __init__(self, database: Database, series: SeriesId, layout: Layout | None) -> None:
        self._database, self._series, self._layout = database, series, layout
        self._key = _key_of(series)

    def path(self, state: SeriesState) -> Path | str:
        """Return the file of the database, or its URL without a password."""
        return self._database.path or self._database.label

    # -- the state ----------------------------------------------------------------------------------------------------

    def load(self) -> SeriesState | None:
        """Return the state; None where there is none. Raises BadFile where the last row is not as the state says."""
        with self._database.begin(is_write=False) as session:
            state = self._read_state(session)
            if state is not None and self._tail(session, state.facts.fields) != (state.piece.last_ms, state.piece.tail):
                raise BadFile(
                    f"the last row of {self._series.label} in {self._database.label} is not what was written: the "
                    f"table candles was edited; {_FIX}"
                )
            return state

    def _read_state(self, session: Session, suffix: str = "") -> SeriesState | None:
        if not self._database.columns(session, "candles_series"):
            return None
        found = session.run(f"SELECT state FROM candles_series WHERE {_where('candles_series')}{suffix}", **self._key)
        place = f"the record of {self._series.label} in {self._database.label}"
        state = SeriesState.from_bytes(str(found[0][0]).encode(), place) if found else None
        if state is not None and state.series.key != self._series.key:
            raise BadFile(f"{place} is of {state.series.provider_symbol}; {_FIX}")
        return state

    def _tail(self, session: Session, fields: tuple[Field, ...]) -> tuple[int | None, int]:
        """Return time and checksum of the last row."""
        sql = f"SELECT {{fields}} FROM candles WHERE {_where('candles')} ORDER BY {TIME} DESC LIMIT 1"
        rows = self._database.read(session, sql, _values_of(fields), self._key)
        return (int(rows[0, 0]), _sum(rows)) if rows.shape[1] else (None, 0)

    def note(self, state: SeriesState) -> None:
        """Replace the record alone."""
        with self._database.begin(is_write=True) as session:
            self._check_unchanged(session, state)
            self._record(session, state)

    def repair(self, state: SeriesState) -> SeriesState:
        """Return the state: there is nothing to make again."""
        return state

    def _check_unchanged(self, session: Session, before: SeriesState | None) -> None:
        """Raise OSError where another writer has changed the series since its state was read."""
        now = self._read_state(session, self._database.row_lock)
        known = None if before is None else (before.facts.rewrites, before.piece.check, before.piece.rows)
        if known != (None if now is None else (now.facts.rewrites, now.piece.check, now.piece.rows)):
            raise OSError(
                f"{self._series.label} in {self._database.label} was changed by another writer meanwhile; its rows "
                "stay: update again"
            )

    def _record(self, session: Session, state: SeriesState) -> None:
        piece, facts = state.piece, state.facts
        times = {
            name: None if ms is None else self._database.time_value(ms)
            for name, ms in (("first", piece.first_ms), ("last", piece.last_ms), ("until", facts.end_ms))
        }
        session.run(f"DELETE FROM candles_series WHERE {_where('candles_series')}", **self._key)
        session.run(
            f"INSERT INTO candles_series ({', '.join(KEYS)}, provider_symbol, row_count, first_timestamp, "
            f"last_timestamp, covered_until, state) VALUES ({_VALUES}, :symbol_id, :count, :first, :last, :until, "
            ":state)",
            **self._key,
            **times,
            symbol_id=self._series.provider_symbol,
            count=piece.rows,
            state=state.to_bytes().decode(),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        before: SeriesState | None,
        facts: Callable[[], Facts],
        from_ms: int | None,
        frames: Iterable[pd.DataFrame],
    ) -> SeriesState:
        """Replace rows in one transaction; see `Files.write`. No transaction is open while frames come."""
        with _Spool() as spool:
            fields = () if before is None else before.facts.fields
            count, check, first_ms, last_ms = 0, 0, None, None
            for frame in frames:
                fields = self._join(fields, frame)
                rows = _rows_of(frame, fields)
                if not rows.shape[1]:
                    continue
                spool.add(rows)
                count, check, last_ms = count + rows.shape[1], check + _sum(rows), int(rows[0, -1])
                first_ms = int(rows[0, 0]) if first_ms is None else first_ms
            said = facts()
            self._add_columns(fields)
            with self._database.begin(is_write=True) as session:
                self._check_unchanged(session, before)
                base = self._base(session, before, from_ms)
                if base.last_ms is not None:
                    from_ms = base.last_ms + 1
                self._replace(session, from_ms if base.rows else None, fields, spool)
                self._check_count(session, base.rows + count)
                last_ms = base.last_ms if last_ms is None else last_ms
                first_ms = base.first_ms if base.rows else first_ms
                stored_ms, tail = self._tail(session, fields)
                if stored_ms != last_ms:
                    raise BadFile(f"the last row of {self._series.label} is not the one that was written")
                total = (base.check + check) % (1 << 64)
                piece = Piece(0, base.rows + count, total, tail, first_ms, last_ms, said.end_ms)
                said = said._replace(fields=fields, rewrites=1 + (0 if before is None else before.facts.rewrites))
                after = SeriesState(self._series, said, ((_PIECE, piece),), _PIECE)
                self._record(session, after)
        return after

    def _join(self, before: tuple[Field, ...], frame: pd.DataFrame) -> tuple[Field, ...]:
        found = fields_of(frame, self._layout)
        if not before:
            _check_headers(tuple((one.header, one.column) for one in found))
            return found
        joined = join_fields(before, found)
        changed = next((one for one, old in zip(joined, before, strict=True) if one != old), None)
        if changed is not None:
            raise InputError(
                f"the column {changed.header} of {self._series.label} has whole numbers, and new rows have others; "
                "expected floats from the first update on: .astype(float) in the processor, and another vault"
            )
        return joined

    def _add_columns(self, fields: tuple[Field, ...]) -> None:
        """Add the columns that the table does not have. Raises InputError where one is of another type."""
        with self._database.begin(is_write=False) as session:
            if not self._lacking(session, fields):
                return
        with self._database.begin(is_write=True) as session:
            self._database.lock_all(session)
            for one in self._lacking(session, fields):
                session.run(f"ALTER TABLE candles ADD COLUMN {quoted(one.header)} {self._database.types[one.kind]}")

    def _lacking(self, session: Session, fields: tuple[Field, ...]) -> list[Field]:
        there = self._database.columns(session, "candles")
        if TIME not in there:
            raise BadFile(f"{self._database.label} has no table candles any more; {_FIX}")
        same_case = {name.lower(): name for name in there}
        lacking = []
        for one in _values_of(fields):
            if one.header not in there:
                other = same_case.get(one.header.lower())
                if other is not None:
                    raise InputError(f"the column {one.header!r} is {other!r} in the table candles; use one spelling")
                lacking.append(one)
                continue
            expected = self._database.types[one.kind].lower()
            if there[one.header] not in (expected, self._database.spelt.get(expected)):
                raise InputError(
                    f"the column {one.header!r} of the table candles is {there[one.header]}, and the values of "
                    f"{self._series.label} are {expected}; give it another header, or use another vault"
                )
        return lacking

    def _base(self, session: Session, before: SeriesState | None, from_ms: int | None) -> Piece:
        """Return what stays: the rows before `from_ms`."""
        piece = NOTHING if before is None else before.piece
        if piece.last_ms is None or from_ms is None or from_ms > piece.last_ms:
            return piece
        if before is None or piece.first_ms is None or from_ms <= piece.first_ms:
            return NOTHING
        fields = before.facts.fields
        values = {**self._key, "from": self._database.time_value(from_ms)}
        where = f"{_where('candles')} AND {TIME} >= :from ORDER BY {TIME}"
        gone = self._database.read(session, f"SELECT {{fields}} FROM candles WHERE {where}", _values_of(fields), values)
        where = f"{_where('candles')} AND {TIME} < :from ORDER BY {TIME} DESC LIMIT 1"
        last = self._database.read(session, f"SELECT {{fields}} FROM candles WHERE {where}", (), values)
        check = (piece.check - _sum(gone)) % (1 << 64)
        last_ms = int(last[0, 0]) if last.shape[1] else None
        return Piece(0, piece.rows - gone.shape[1], check, 0, piece.first_ms, last_ms, from_ms)

    def _replace(self, session: Session, from_ms: int | None, fields: tuple[Field, ...], spool: _Spool) -> None:
        """Make the rows from that time on (None: all) those of the spool."""
        database, key = self._database, _where("candles")
        values: dict[str, Any] = dict(self._key)
        since = ""
        if from_ms is not None:
            since, values["from"] = f" AND candles.{TIME} >= :from", database.time_value(from_ms)
        database.stage(session, _values_of(fields), spool)
        staged = database.staged(_values_of(fields))
        if session.run(f"SELECT 1 FROM candles WHERE {key}{since} LIMIT 1", **values):
            session.run(
                f"DELETE FROM candles WHERE {key}{since} AND NOT EXISTS "
                f"(SELECT 1 FROM {staged} AS s WHERE s.{TIME} = candles.{TIME})",
                **values,
            )
            names = [quoted(one.header) for one in _values_of(fields)]
            if names:
                session.run(
                    f"UPDATE candles SET {', '.join(f'{name} = s.{name}' for name in names)} FROM {staged} AS s "
                    f"WHERE {key}{since} AND candles.{TIME} = s.{TIME} AND "
                    f"({' OR '.join(f'candles.{name} {database.differs} s.{name}' for name in names)})",
                    **values,
                )
        columns = [TIME, *(quoted(one.header) for one in _values_of(fields))]
        chosen = ", ".join(f"s.{name}" for name in columns)
        typed = ", ".join(f"CAST(:{name} AS TEXT)" for name in KEYS)
        session.run(
            f"INSERT INTO candles ({', '.join([*KEYS, *columns])}) SELECT {typed}, {chosen} FROM {staged} AS s "
            f"WHERE NOT EXISTS (SELECT 1 FROM candles WHERE {key}{since} AND candles.{TIME} = s.{TIME})",
            **values,
        )
        session.run(f"DROP TABLE {database.stage_name}")

    def _check_count(self, session: Session, count: int) -> None:
        found = session.run(f"SELECT count(*) FROM candles WHERE {_where('candles')}", **self._key)[0][0]
        if found != count:
            raise BadFile(
                f"{self._series.label} in {self._database.label} would have {found:,} rows; expected {count:,}: the "
                f"table candles was edited; {_FIX}"
            )

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, state: SeriesState, span: Span | None = None) -> pd.DataFrame:
        """Return the rows; see `Files.read`. All of them are held against the record's checksum."""
        with self._database.begin(is_write=False) as session:
            now = self._read_state(session)
            if now is None:
                raise BadFile(f"{self._series.label} was removed from {self._database.label} meanwhile")
            rows = self._read(session, now.facts.fields, span)
        fault = self._fault(now, rows) if span is None else ""
        if fault:
            raise BadFile(f"{fault}; {_FIX}")
        return _frame_of(rows, now.facts.fields)

    def _read(self, session: Session, fields: tuple[Field, ...], span: Span | None) -> Rows:
        where, values = _where("candles"), dict[str, Any](self._key)
        if span is not None:
            where += f" AND {TIME} >= :first AND {TIME} < :stop"
            values |= {
                "first": self._database.time_value(span.start_ms),
                "stop": self._database.time_value(span.end_ms),
            }
        sql = f"SELECT {{fields}} FROM candles WHERE {where} ORDER BY {TIME}"
        return self._database.read(session, sql, _values_of(fields), values)

    def _fault(self, state: SeriesState, rows: Rows) -> str:
        piece, label = state.piece, f"{self._series.label} in {self._database.label}"
        if rows.shape[1] != piece.rows:
            return f"{label} has {rows.shape[1]:,} rows, and its record says {piece.rows:,}: the table was edited"
        if _sum(rows) != piece.check:
            return f"{label} is not what was written: the table candles was edited"
        return ""

    def holds(self, state: SeriesState, rows: pd.DataFrame, span: Span) -> bool:
        """Return False: to read the rows takes no time."""
        return False

    def normalize(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows as they are once they come out of the database."""
        fields = fields_of(frame, self._layout)
        return _frame_of(_rows_of(frame, fields), fields)

    # -- all of it ----------------------------------------------------------------------------------------------------

    def verify(self, state: SeriesState) -> list[str]:
        """Return what is wrong: number, values and order of all rows."""
        with self._database.begin(is_write=False) as session:
            now = self._read_state(session)
            if now is None:
                return ["its record is not there"]
            rows = self._read(session, now.facts.fields, None)
        said = [one for one in [self._fault(now, rows)] if one]
        if (np.diff(rows[0]) <= 0).any():
            said.append("its rows are not in order")
        return said

    def remove(self) -> None:
        """Delete the rows and the record in one transaction."""
        with self._database.begin(is_write=True) as session:
            self.delete(session)

    def delete(self, session: Session) -> None:
        """Delete the rows and the record."""
        for table in ("candles", "candles_series"):
            session.run(f"DELETE FROM {table} WHERE {_where(table)}", **self._key)

    def size_bytes(self, state: SeriesState) -> int:
        """Return the share of the database's candles, by the number of rows."""
        with self._database.begin(is_write=False) as session:
            total = session.run("SELECT coalesce(sum(row_count), 0) FROM candles_series")[0][0]
            return round(self._database.size_bytes(session) * state.piece.rows / max(1, int(total)))


def _where(table: str) -> str:
    return " AND ".join(f"{table}.{name} = :{name}" for name in KEYS)


def _values_of(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    return tuple(one for one in fields if one.column != TIME)


# -- rows as arrays ----------------------------------------------------------------------------------------------------


class _Spool:
    """Rows that wait for their transaction: in memory, and from 64 MB on in a temporary file."""

    def __enter__(self) -> _Spool:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Rows) -> None:
        np.lib.format.write_array(self._file, np.ascontiguousarray(rows), allow_pickle=False)
        self._count += 1

    def __iter__(self) -> Iterator[Rows]:
        self._file.seek(0)
        for _ in range(self._count):
            yield np.lib.format.read_array(self._file, allow_pickle=False)


def _rows_of(frame: pd.DataFrame, fields: tuple[Field, ...]) -> Rows:
    made = np.empty((len(fields), len(frame)), np.int64)
    made[0] = index_ms(frame)
    for at, one in enumerate(_values_of(fields), start=1):
        values = frame[one.column]
        if one.kind == "float":
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0  # no minus zero, which SQLite lacks
            made[at] = np.where(np.isnan(numbers), np.nan, numbers).view(np.int64)
        elif one.kind == "time":
            times = values.dt.tz_localize(None) if values.dt.tz is None else values.dt.tz_convert(None)
            made[at] = times.to_numpy().astype("M8[ms]").astype(np.int64)
        elif one.kind == "bool":
            made[at] = values.to_numpy(dtype=np.bool_)
        else:
            made[at] = values.to_numpy(dtype=np.int64, na_value=MISSING)
    return made


def _frame_of(rows: Rows, fields: tuple[Field, ...]) -> pd.DataFrame:
    data: dict[str, Any] = {}
    for row, one in zip(rows[1:], _values_of(fields), strict=True):
        if one.kind == "float":
            data[one.header] = row.view(np.float64)
        elif one.kind == "time":
            data[one.header] = utc_index(row)
        elif one.kind == "bool":
            data[one.header] = row == 1
        else:
            data[one.header] = pd.arrays.IntegerArray(np.where(row == MISSING, 0, row), row == MISSING)
    return pd.DataFrame(data, index=utc_index(rows[0], TIME), copy=False)


def _sum(rows: Rows) -> int:
    """Return a checksum of rows: the sum of one for each row, so that rows can be added and taken away."""
    if not rows.shape[1]:
        return 0
    found = np.zeros(rows.shape[1], np.uint64)
    for row in rows:
        found ^= row.view(np.uint64) if row.flags.c_contiguous else np.ascontiguousarray(row).view(np.uint64)
        found *= np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return int(found.sum(dtype=np.uint64))
