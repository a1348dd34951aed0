"""SQL databases as a vault needs them: sessions, transactions, rows in and out as arrays, and locks.

Rows come and go as one array of int64 for each piece: the first row of it has the times in Unix ms, each other one a
column: numbers by the bits of their float64, counts and times as they are, flags as 0 and 1; a count or time that is
missing is `MISSING`, a number NaN. In the database both are NULL.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from candle_fetcher.concurrency import POLL_S, pause
from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.errors import BadFile, InputError, MissingExtra
from candle_fetcher.vault.locks import SeriesLocks
from candle_fetcher.vault.state import Field

Rows = npt.NDArray[np.int64]
SCHEMES = ("postgresql+psycopg", "sqlite", "duckdb")
STAGE = "candles_stage"
TIME = "timestamp"
_PAGE_ROWS = 1_000_000
_WAIT_S = 60.0  # for a file that another process writes to
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")
# Bounds of what every database takes: the years 1 to 9999.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


class Session(ABC):
    """One transaction."""

    @abstractmethod
    def run(self, sql: str, **values: Any) -> list[Any]:
        """Run a statement with the values in place of its `:names`, and return its rows."""


class Database(ABC):
    """One database. Threads share it."""

    label: str  # for messages: without a password
    path: Path | None = None  # of a database in a file
    types: Mapping[str, str]  # of the kinds of columns
    text = "TEXT"
    ending = ""  # of CREATE TABLE
    differs = "IS DISTINCT FROM"
    row_lock = ""  # of a SELECT that is followed by a write
    stage_name = STAGE
    spelt: Mapping[str, str] = {}

    @abstractmethod
    def begin(self, *, is_write: bool) -> contextlib.AbstractContextManager[Session]:
        """Give a transaction, which ends with the block, undone by an error. Raises OSError for what the database does
        not do, ConnectionError where it is not there."""

    @abstractmethod
    def columns(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns of a table with their types in small letters; {} without the table."""

    @abstractmethod
    def stage(self, session: Session, fields: Sequence[Field], pieces: Iterable[Rows]) -> None:
        """Make the temporary table of rows, and fill it."""

    @abstractmethod
    def read(self, session: Session, sql: str, fields: Sequence[Field], values: Mapping[str, Any]) -> Rows:
        """Return rows. `sql` has `{fields}` in place of what is selected, the time first."""

    @abstractmethod
    def size_bytes(self, session: Session) -> int:
        """Return the bytes of all candles."""

    def staged(self, fields: Sequence[Field]) -> str:
        """Return the rows of the temporary table as a sub-select."""
        return f"(SELECT {', '.join([TIME, *(quoted(one.header) for one in fields)])} FROM {STAGE})"

    def time_value(self, ms: int) -> Any:
        """Return a time as the database takes it."""
        return _EPOCH + datetime.timedelta(milliseconds=min(max(ms, _FIRST_MS), _LAST_MS))

    def lock_all(self, session: Session) -> None:  # noqa: B027 - one that writes to a file is alone anyway
        """Make other transactions that call this wait until this one ends."""

    def created(self, session: Session) -> None:  # noqa: B027 - most have nothing to do
        """Do what is to be done once the table of candles is made."""

    @abstractmethod
    def try_acquire(self, name: str) -> bool:
        """Lock a name among all processes, without waiting. Return False where another writer has it."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Unlock the name, if this object has locked it."""

    @abstractmethod
    def close(self) -> None:
        """Release all locks and connections."""


def open_database(where: str) -> Database:
    """Return the database of a URL. Raises InputError for one that is not valid, MissingExtra without its driver."""
    scheme, _, rest = where.partition("://")
    if scheme in ("postgresql", "postgresql+psycopg"):
        return _Postgres(rest)
    kind = {"sqlite": _Sqlite, "sqlite+pysqlite": _Sqlite, "duckdb": _Duck}.get(scheme)
    if kind is None:
        raise InputError(f"a vault is not kept by {scheme}://; expected {', '.join(f'{one}://' for one in SCHEMES)}")
    place = rest[1:]
    if not rest.startswith("/") or not place or place.startswith(":memory:") or "?" in place:
        raise InputError(f"the URL names no file; expected one such as {scheme}:///candles.db")
    path = Path(place).expanduser().absolute()
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the file of a database")
    return kind(path)


def is_url(where: object) -> bool:
    """Return whether this is the URL of a database of ours."""
    return isinstance(where, str) and where.partition("://")[0] in (*SCHEMES, "postgresql", "sqlite+pysqlite")


def quoted(name: str) -> str:
    """Return the name of a column in quotes. Raises InputError where it is no plain name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,58}", name):
        raise InputError(
            f"the column {name!r} cannot be one of a database; expected letters, digits and _, at most 59 of them"
        )
    return f'"{name}"'


class _SqlAlchemySession(Session):
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def run(self, sql: str, **values: Any) -> list[Any]:
        import sqlalchemy

        found: Any = self.connection.execute(sqlalchemy.text(sql), values)
        return list(found.all()) if found.returns_rows else []


@contextlib.contextmanager
def _translated(label: str, secret: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise errors of a driver as OSError, with the name of the database and without its password."""
    try:
        yield
    except errors as error:
        original = getattr(error, "orig", None) or error
        said = " ".join(str(original).split())
        if secret:
            said = said.replace(secret, "***")
        is_lost = getattr(error, "connection_invalidated", False) or _is_lost(original)
        kind = ConnectionError if is_lost else OSError
        if is_lost:
            said = f"the database does not answer, and the series is as before: {said}"
        raise kind(f"{label}: {said[:500]}") from None


def _is_lost(error: object) -> bool:
    state = getattr(error, "sqlstate", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        "OperationalError" in names
        and type(error).__module__.startswith("psycopg")
        and (state is None or str(state)[:2] in ("08", "57"))
    )


class _FileDatabase(Database):
    """A database in one file, with a file of locks beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = SeriesLocks(path.parent, f"{path.name}.lock")
        self._writing = threading.Lock()  # the threads of this process wait in turn

    def try_acquire(self, name: str) -> bool:
        """Lock a byte of the file."""
        self._make_folder()
        return self._locks.try_acquire(name)

    def _make_folder(self) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def release(self, name: str) -> None:
        """Unlock it."""
        self._locks.release(name)

    def close(self) -> None:
        """Release all locks."""
        self._locks.close()

    def size_bytes(self, session: Session) -> int:
        """Return the size of the file."""
        assert self.path is not None
        return self.path.stat().st_size


# -- SQLite ------------------------------------------------------------------------------------------------------------


class _Sqlite(_FileDatabase):
    """SQLite. A time is text in UTC, such as `2024-01-01 00:00:00`, as its functions of dates take and give it."""

    spelt = {"text": "varchar", "boolean": "bool"}  # noqa: RUF012
    types = {"float": "REAL", "int": "INTEGER", "bool": "BOOLEAN", "time": "TEXT"}  # noqa: RUF012 - never changed
    ending = " WITHOUT ROWID"
    differs = "IS NOT"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.label = f"sqlite:///{path}"
        _need_sqlalchemy("a vault in SQLite")

    @contextlib.contextmanager
    def begin(self, *, is_write: bool) -> Iterator[Session]:
        """Give a transaction; one that writes holds the file from its beginning on."""
        import sqlite3

        import sqlalchemy

        with contextlib.ExitStack() as stack:
            stack.enter_context(_translated(self.label, "", (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError)))
            if is_write:
                self._make_folder()
                stack.enter_context(self._writing)
            connect = {"timeout": _WAIT_S, "isolation_level": None}  # None: BEGIN is ours
            url = sqlalchemy.URL.create("sqlite", database=str(self.path))
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=connect)
            connection = stack.enter_context(engine.connect())
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
            try:
                yield _SqlAlchemySession(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def columns(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns by the table's PRAGMA."""
        found = session.run("SELECT name, lower(type) FROM pragma_table_info(:name)", name=table)
        return {row[0]: row[1] for row in found}

    def time_value(self, ms: int) -> str:
        """Return a time as text."""
        return str(_texts(np.array([min(max(ms, _FIRST_MS), _LAST_MS)], np.int64))[0])

    def stage(self, session: Session, fields: Sequence[Field], pieces: Iterable[Rows]) -> None:
        """Insert the rows into a temporary table."""
        assert isinstance(session, _SqlAlchemySession)
        parts = ["timestamp TEXT PRIMARY KEY", *(f"{quoted(one.header)} {self.types[one.kind]}" for one in fields)]
        session.run(f"CREATE TEMP TABLE {STAGE} ({', '.join(parts)}) WITHOUT ROWID")
        insert = f"INSERT INTO {STAGE} VALUES ({', '.join('?' * len(parts))})"
        cursor = session.connection.connection.driver_connection.cursor()
        for rows in pieces:
            columns = [_texts(rows[0]), *(_objects(row, one.kind) for row, one in zip(rows[1:], fields, strict=True))]
            cursor.executemany(insert, zip(*columns, strict=True))

    def read(self, session: Session, sql: str, fields: Sequence[Field], values: Mapping[str, Any]) -> Rows:
        """Return rows by one SELECT."""
        names = ", ".join([TIME, *(quoted(one.header) for one in fields)])
        found = session.run(sql.replace("{fields}", names), **values)
        made = np.empty((1 + len(fields), len(found)), np.int64)
        if not found:
            return made
        columns = list(zip(*found, strict=True))
        try:
            made[0] = np.array(columns[0], "M8[ms]").astype(np.int64)
            for at, one in enumerate(fields, start=1):
                if one.kind == "float":
                    made[at] = np.array(columns[at], np.float64).view(np.int64)
                elif one.kind == "time":
                    times = np.array(["NaT" if text is None else text for text in columns[at]], "M8[ms]")
                    made[at] = times.astype(np.int64)
                else:
                    made[at] = [MISSING if value is None else value for value in columns[at]]
        except (TypeError, ValueError) as error:
            raise BadFile(f"{self.label} has candles with values that no vault wrote: {error}") from None
        return made


def _texts(times_ms: Rows) -> list[Any]:
    """Return times as texts, with milliseconds where they have any; None for MISSING."""
    times = times_ms.view("M8[ms]")
    texts = np.char.replace(np.datetime_as_string(times, "s"), "T", " ").astype(object)
    for at in np.flatnonzero(times_ms % 1000):
        texts[at] = str(times[at]).replace("T", " ")
    texts[times_ms == MISSING] = None
    found: list[Any] = texts.tolist()
    return found


def _objects(row: Rows, kind: str) -> list[Any]:
    """Return the values of a column as Python objects, None for what is missing."""
    if kind == "time":
        return _texts(row)
    values: npt.NDArray[Any] = row.view(np.float64) if kind == "float" else row
    is_missing = np.isnan(values) if kind == "float" else row == MISSING
    if is_missing.any():
        values = values.astype(object)
        values[is_missing] = None
    found: list[Any] = values.tolist()
    return found


# -- DuckDB ------------------------------------------------------------------------------------------------------------


_turns: dict[str, threading.Lock] = {}


class _DuckSession(Session):
    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def run(self, sql: str, **values: Any) -> list[Any]:
        used = {name: values[name] for name in _NAMED.findall(sql)}
        found: list[Any] = self.raw.execute(_NAMED.sub(r"$\1", sql), used or None).fetchall()
        return found


class _Duck(_FileDatabase):
    """DuckDB by its own driver. The file is open while a transaction runs, and no longer, since one process has it."""

    spelt = {"timestamptz": "timestamp with time zone"}  # noqa: RUF012
    types = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "time": "TIMESTAMPTZ"}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.label = f"duckdb:///{path}"
        try:
            import duckdb  # noqa: F401
        except ImportError:
            raise MissingExtra("duckdb", "a vault in DuckDB") from None

    @contextlib.contextmanager
    def begin(self, *, is_write: bool) -> Iterator[Session]:
        """Give a transaction. Waits for another process that has the file open."""
        import duckdb

        with contextlib.ExitStack() as stack:
            stack.enter_context(_translated(self.label, "", (duckdb.Error,)))
            if is_write:
                self._make_folder()
            # One at a time in this process: a file that is opened by two threads at once lacks functions in one.
            stack.enter_context(_turns.setdefault(str(self.path), threading.Lock()))
            raw = self._connect()
            try:
                raw.execute("BEGIN")
                yield _DuckSession(raw)
                raw.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    raw.execute("ROLLBACK")
                raise
            finally:
                raw.close()

    def _connect(self) -> Any:
        import duckdb

        assert self.path is not None
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            head = file.read(12)
            if head and head[8:] != b"DUCK":  # for a file of SQLite, DuckDB would download an extension
                raise BadFile(f"{self.path} is no file of DuckDB; use another name")
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                return duckdb.connect(str(self.path))
            except duckdb.IOException as error:
                is_held = "lock" in str(error)
                if not is_held or time.monotonic() > until:
                    raise
            pause(threading.Event(), POLL_S)

    def columns(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns by the catalogue."""
        found = session.run(
            "SELECT column_name, lower(data_type) FROM duckdb_columns() WHERE table_name = :name "
            "AND database_name = current_database() AND schema_name = current_schema() ORDER BY column_index",
            name=table,
        )
        return dict(found)

    def stage(self, session: Session, fields: Sequence[Field], pieces: Iterable[Rows]) -> None:
        """Insert the rows out of arrays."""
        import pandas as pd

        assert isinstance(session, _DuckSession)
        parts = ["timestamp TIMESTAMPTZ", *(f"{quoted(one.header)} {self.types[one.kind]}" for one in fields)]
        session.run(f"CREATE TEMP TABLE {STAGE} ({', '.join(parts)})")
        shown = ["make_timestamptz(c0 * 1000)"]
        for at, one in enumerate(fields, start=1):
            value = f"nullif(c{at}, {MISSING})"
            if one.kind == "float":
                value = f"CASE WHEN isnan(c{at}) THEN NULL ELSE c{at} END"
            shown.append({"time": f"make_timestamptz({value} * 1000)", "bool": f"c{at} = 1"}.get(one.kind, value))
        for rows in pieces:
            kinds = ("time", *(one.kind for one in fields))
            arrays = {
                f"c{at}": row.view(np.float64) if kind == "float" else row
                for at, (row, kind) in enumerate(zip(rows, kinds, strict=True))
            }
            session.raw.register("candles_piece", pd.DataFrame(arrays, copy=False))
            session.run(f"INSERT INTO {STAGE} SELECT {', '.join(shown)} FROM candles_piece")
            session.raw.unregister("candles_piece")

    def read(self, session: Session, sql: str, fields: Sequence[Field], values: Mapping[str, Any]) -> Rows:
        """Return rows, column by column."""
        assert isinstance(session, _DuckSession)
        names = ["epoch_ms(timestamp) AS c0"]
        for at, one in enumerate(fields, start=1):
            name = quoted(one.header)
            value = {"float": f"coalesce({name}, 'NaN'::DOUBLE)", "bool": f"{name}::BIGINT"}.get(one.kind, name)
            value = f"epoch_ms({name})" if one.kind == "time" else value
            names.append(f"{value if one.kind == 'float' else f'coalesce({value}, {MISSING})'} AS c{at}")
        used = {name: values[name] for name in _NAMED.findall(sql)}
        text = _NAMED.sub(r"$\1", sql).replace("{fields}", ", ".join(names))
        found = session.raw.execute(text, used or None).fetchnumpy()
        made = np.empty((1 + len(fields), len(found["c0"])), np.int64)
        for at in range(len(made)):
            column = np.asarray(found[f"c{at}"])
            made[at] = column.view(np.int64) if column.dtype == np.float64 else column.astype(np.int64)
        return made


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

_PG_EPOCH_US = 946_684_800_000_000
_PG_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_PG_END = b"\xff\xff"
_KEEPALIVE = {
    "connect_timeout": "15", "keepalives": "1", "keepalives_idle": "30", "keepalives_interval": "10",
    "keepalives_count": "3", "tcp_user_timeout": "60000", "application_name": "candle_fetcher",
}  # fmt: skip


class _Postgres(Database):
    """PostgreSQL by psycopg: rows come by COPY and go as arrays of bytes, column by column."""

    row_lock = " FOR UPDATE"
    spelt = {"timestamptz": "timestamp with time zone"}  # noqa: RUF012
    types = {"float": "DOUBLE PRECISION", "int": "BIGINT", "bool": "BOOLEAN", "time": "TIMESTAMPTZ"}  # noqa: RUF012
    text = 'TEXT COLLATE "C"'

    def __init__(self, rest: str) -> None:
        sqlalchemy = _need_sqlalchemy("a vault in PostgreSQL")
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise MissingExtra("sql", "a vault in PostgreSQL") from None
        try:
            url = sqlalchemy.make_url(f"postgresql+psycopg://{rest}")
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise InputError("the URL of the database cannot be read; expected postgresql+psycopg://…") from None
        self._secret = str(url.password or url.query.get("password") or "")
        port = f":{url.port}" if url.port else ""
        user = f"{url.username}@" if url.username else ""
        self.label = f"postgresql://{user}{url.host or ''}{port}/{url.database or ''}"
        extra = {name: value for name, value in _KEEPALIVE.items() if name not in url.query}
        self._engine = sqlalchemy.create_engine(
            url, pool_size=4, max_overflow=32, pool_pre_ping=True, connect_args=extra, hide_parameters=True
        )
        self._turn = threading.Lock()
        self._holder: Any = None  # the connection that has the locks
        self._held: set[str] = set()

    @contextlib.contextmanager
    def begin(self, *, is_write: bool) -> Iterator[Session]:
        """Give a transaction; one that reads sees one state of all tables."""
        with self._translated(), self._engine.connect() as connection:
            if not is_write:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield _SqlAlchemySession(connection)

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        import psycopg
        import sqlalchemy

        return _translated(self.label, self._secret, (psycopg.Error, sqlalchemy.exc.SQLAlchemyError))

    def columns(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns by the catalogue."""
        found = session.run(
            "SELECT a.attname, lower(format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a "
            "WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            name=table,
        )
        return {row[0]: row[1] for row in found}

    def lock_all(self, session: Session) -> None:
        """Hold an advisory lock to the end of the transaction."""
        session.run("SELECT pg_advisory_xact_lock(:key)", key=self._key("vault"))

    def created(self, session: Session) -> None:
        """Make the table a hypertable where the extension timescaledb is there."""
        if session.run("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
            session.run(
                "SELECT create_hypertable('candles', 'timestamp', chunk_time_interval => INTERVAL '90 days', "
                "if_not_exists => TRUE)"
            )

    def stage(self, session: Session, fields: Sequence[Field], pieces: Iterable[Rows]) -> None:
        """Copy the rows into a temporary table, in PostgreSQL's binary format."""
        assert isinstance(session, _SqlAlchemySession)
        parts = ["timestamp TIMESTAMPTZ", *(f"{quoted(one.header)} {self.types[one.kind]}" for one in fields)]
        session.run(f"CREATE TEMP TABLE {STAGE} ({', '.join(parts)}) ON COMMIT DROP")
        layout: list[tuple[str, str]] = [("count", ">i2"), ("size0", ">i4"), ("value0", ">i8")]
        for at, one in enumerate(fields, start=1):
            layout += [(f"size{at}", ">i4"), (f"value{at}", {"float": ">f8", "bool": "i1"}.get(one.kind, ">i8"))]
        record = np.dtype(layout)
        driver = session.connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {STAGE} FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(_PG_SIGNATURE)
            for rows in pieces:
                made = np.empty(rows.shape[1], record)
                made["count"], made["size0"], made["value0"] = len(rows), 8, _to_pg(rows[0])
                for at, one in enumerate(fields, start=1):
                    made[f"size{at}"] = record[f"value{at}"].itemsize
                    values = rows[at].view(np.float64) if one.kind == "float" else rows[at]
                    made[f"value{at}"] = _to_pg(values) if one.kind == "time" else values
                copy.write(made.tobytes())
            copy.write(_PG_END)
        # Each join is quick then, also of tables that the planner has no statistics of.
        session.run(f"CREATE UNIQUE INDEX ON {STAGE} ({TIME})")
        session.run(f"ANALYZE {STAGE}")

    def staged(self, fields: Sequence[Field]) -> str:
        """Return the rows as a sub-select, in which what is missing is NULL."""
        missing = {
            "float": "'NaN'::float8",
            "int": f"({MISSING})::bigint",
            "time": "'-infinity'::timestamptz",
        }
        shown = [TIME]
        for one in fields:
            name = quoted(one.header)
            shown.append(name if one.kind == "bool" else f"nullif({name}, {missing[one.kind]}) AS {name}")
        return f"(SELECT {', '.join(shown)} FROM {STAGE})"

    def read(self, session: Session, sql: str, fields: Sequence[Field], values: Mapping[str, Any]) -> Rows:
        """Return rows: the server joins the bytes of each column."""
        assert isinstance(session, _SqlAlchemySession)
        sends = [f"timestamptz_send({TIME})"]
        for one in fields:
            name = quoted(one.header)
            sends.append(
                {
                    "float": f"float8send(coalesce({name}, 'NaN'::float8))",
                    "int": f"int8send(coalesce({name}, ({MISSING})::bigint))",
                    "bool": f"int8send(coalesce({name}::int, 0)::bigint)",
                    "time": f"timestamptz_send(coalesce({name}, '-infinity'::timestamptz))",
                }[one.kind]
            )
        joined = ", ".join(f"string_agg({one}, '')" for one in sends)
        names = ", ".join([TIME, *(quoted(one.header) for one in fields)])
        text = _NAMED.sub(r"%(\1)s", sql.replace("{fields}", names).replace("%", "%%"))
        parts, after = [], dict(values)
        driver = session.connection.connection.driver_connection
        with driver.cursor(binary=True) as cursor:
            # In pages, since a value of PostgreSQL has at most 1 GB.
            page = f"SELECT {joined} FROM (SELECT * FROM ({text}) AS q LIMIT {_PAGE_ROWS} OFFSET %(skipped)s) AS page"
            skipped = 0
            while True:
                cursor.execute(page, {**after, "skipped": skipped})
                part = _page(cursor.fetchone(), fields)
                parts.append(part)
                skipped += part.shape[1]
                if part.shape[1] < _PAGE_ROWS:
                    break
        made = np.concatenate(parts, axis=1)
        order = np.argsort(made[0], kind="stable")
        return made if (np.diff(order) == 1).all() else made[:, order]

    def size_bytes(self, session: Session) -> int:
        """Return the bytes of the table and its index."""
        return int(session.run("SELECT coalesce(pg_total_relation_size(to_regclass('candles')), 0)")[0][0])

    def _key(self, name: str) -> int:
        digest = hashlib.blake2b(f"candle_fetcher|{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def try_acquire(self, name: str) -> bool:
        """Take an advisory lock, which the server frees when the session of its holder ends."""
        import sqlalchemy

        with self._turn, self._translated():
            if name in self._held:
                return False
            if self._holder is None:
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                self._holder = connection
            try:
                lock = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
                is_taken = bool(self._holder.execute(lock, {"key": self._key(name)}).scalar())
            except sqlalchemy.exc.SQLAlchemyError:
                self._drop_holder()  # its locks are gone with its session
                raise
            if is_taken:
                self._held.add(name)
            return is_taken

    def _drop_holder(self) -> None:
        holder, self._holder = self._holder, None
        self._held.clear()
        if holder is not None:
            holder.invalidate()
            holder.close()

    def release(self, name: str) -> None:
        """Free the lock."""
        import sqlalchemy

        with self._turn:
            if name not in self._held or self._holder is None:
                return
            self._held.discard(name)
            try:
                self._holder.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key(name)})
            except sqlalchemy.exc.SQLAlchemyError:
                self._drop_holder()

    def close(self) -> None:
        """Free the locks, and end all sessions."""
        import sqlalchemy

        with self._turn:
            if self._held and self._holder is not None:  # the end of a session is noticed a moment later
                with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                    self._holder.execute(sqlalchemy.text("SELECT pg_advisory_unlock_all()"))
            self._drop_holder()
        self._engine.dispose()


def _to_pg(times_ms: npt.NDArray[Any]) -> Rows:
    return np.where(times_ms == MISSING, MISSING, times_ms * 1000 - _PG_EPOCH_US)


def _page(row: Any, fields: Sequence[Field]) -> Rows:
    """Return the rows of arrays of bytes."""
    columns = [np.frombuffer(one or b"", ">i8").astype(np.int64) for one in row]
    made = np.empty((1 + len(fields), len(columns[0])), np.int64)
    for at, (column, kind) in enumerate(zip(columns, ("time", *(one.kind for one in fields)), strict=True)):
        made[at] = np.where(column == MISSING, MISSING, (column + _PG_EPOCH_US) // 1000) if kind == "time" else column
    return made


def _need_sqlalchemy(purpose: str) -> Any:
    try:
        import sqlalchemy
    except ImportError:
        raise MissingExtra("sql", purpose) from None
    return sqlalchemy
