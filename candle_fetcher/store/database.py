"""One SQLite file in diskcache's layout: its connections, its schema, its rows, and the meaning of its errors.

diskcache is imported only where a database is made: `import candle_fetcher` does not load it.

Measured for values of 88 KB: pages of 8 KB give the fastest reads that do not slow writes down; a page cache above 1 MB
makes reading slower, not faster; memory mapping brings nothing and counts as our memory.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.files import DATABASE, check_names, identify, within
from candle_fetcher.store.forks import fork_guard

if TYPE_CHECKING:
    from candle_fetcher.store.layout import Layout

PAGE_BYTES = 8192
PAGE_CACHE_KB = 1024
BUSY_S = 2.0  # for the write lock; readers never wait

SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
# The SHA-256 of diskcache's schema, which has not changed since its version 5.6. Of another one diskcache itself is
# asked, which takes longer to import than a database to open.
_KNOWN_SCHEMA = "ce3d1074269c26486c9326df5a4e8402cd9cbbad226e6ea8529ba4158cf8afb9"
# Mode 1 of diskcache is a value that lies in its row as it is; 4 would be a pickle, 2 and 3 name a file. The names
# of our own files that belong to a row are its tag, and their bytes its size, which triggers of diskcache add up.
_SAVE = (
    "INSERT INTO Cache(key, raw, store_time, access_time, access_count, tag, size, mode, value)"
    " VALUES (:key, 1, :now, :now, 0, :files, :size, 1, :value) ON CONFLICT(key, raw) DO UPDATE SET store_time = :now,"
    " expire_time = NULL, access_time = :now, access_count = 0, tag = :files, size = :size, mode = 1, filename = NULL,"
    " value = :value"
)


class Damaged(Exception):
    """The file is a database of another layout."""


class Gone(Exception):
    """The database was closed under the caller."""


# All errors of a disk. The decoding error comes out of sqlite3 itself, where its message quotes damaged bytes.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError, Damaged, Gone, CacheError)


class Database:
    """The open file, and the connections to it. Shared by threads.

    A connection is taken for one piece of work, by any thread, and put back: there are as many as ever worked at once,
    and `close` can close them all. With `readonly` the file is read as it lies there, without lock or log. Names in the
    folder must have been checked before; see `prepare`. Raises one of FAILURES where it cannot be opened.
    """

    def __init__(self, folder: Path, max_bytes: int, wal_bytes: int, *, readonly: bool = False) -> None:
        self.readonly = readonly
        self._max_bytes = max_bytes
        self._folder = str(folder)
        self._path = within(self._folder, DATABASE)
        self._wal_bytes = wal_bytes
        self._free: list[sqlite3.Connection] = []
        self._taken = 0
        self._closed = False
        self._local = threading.local()  # .con of this thread's transaction
        self._lock = threading.Lock()
        self._put_back = threading.Condition(self._lock)
        con = self._connect()
        try:
            schema = self._prepare(con)
            if digest_schema(schema) != _KNOWN_SCHEMA and sorted(schema) != sorted(self._layout.schema):
                raise Damaged("its tables are not those of this version")
            self.page_bytes = int(con.execute("PRAGMA page_size").fetchone()[0])
        except BaseException:
            con.close()
            raise
        self.identity = identify(self._path)
        self._free.append(con)
        fork_guard.suspendable.add(self)

    def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows, as this thread's transaction sees them if it is in one."""
        con: sqlite3.Connection | None = getattr(self._local, "con", None)
        if con is not None:
            return con.execute(sql, values).fetchall()
        con = self._take()
        try:
            return con.execute(sql, values).fetchall()
        finally:
            self._put(con)

    def begin(self) -> None:
        """Begin a transaction of this thread, with the write lock."""
        con = self._take()
        try:
            con.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._put(con)
            raise
        self._local.con = con

    def end(self, *, commit: bool) -> None:
        """Commit this thread's transaction, or roll it back."""
        con: sqlite3.Connection = self._local.__dict__.pop("con")
        try:
            if commit:
                con.execute("COMMIT")
        finally:
            self._put(con)

    def write(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run the statement in this thread's transaction, once for each row of values. Return how many rows of the
        table it changed."""
        con: sqlite3.Connection = self._local.con
        return con.executemany(sql, rows).rowcount

    def save(self, key: str, value: bytes, files: str | None = None, size_bytes: int = 0) -> None:
        """Save the value under the key, in this thread's transaction, with the names and the size of its files."""
        con: sqlite3.Connection = self._local.con
        con.execute(_SAVE, {"key": key, "value": value, "now": time.time(), "files": files, "size": size_bytes})

    def pages(self) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them are free, in this thread's transaction."""
        con: sqlite3.Connection = self._local.con
        ((count,),) = con.execute("PRAGMA page_count").fetchall()
        ((free,),) = con.execute("PRAGMA freelist_count").fetchall()
        return count, free

    def shrink(self, pages: int) -> None:
        """Give up to so many free pages back to the file system, in this thread's transaction."""
        for _ in range(min(pages, self.pages()[1])):
            self.select("PRAGMA incremental_vacuum(1)")  # Python runs a pragma without columns for one step only

    def compact(self) -> None:
        """Give all free pages back, unless another process holds a lock; fast only while little is stored."""
        with suppress(sqlite3.OperationalError):
            self.select("VACUUM")

    def connect_snapshot(self) -> sqlite3.Connection:
        """Return a connection of its own, to be closed by the caller, which sees the database as it is now."""
        check_names(self._folder)
        con = self._connect()
        try:
            con.execute("BEGIN")
            con.execute("SELECT 1 FROM Cache LIMIT 1").fetchall()  # a transaction begins with its first read
        except BaseException:
            con.close()
            raise
        return con

    def close(self) -> None:
        """Close every connection, those in use when they are put back, and wait a while for them.

        Waiting matters: SQLite removes the log by its name when the last connection closes, and by then it could be the
        log of a new database.
        """
        with self._lock:
            self._closed = True
            self._close_free()
            own = 1 if hasattr(self._local, "con") else 0
            self._put_back.wait_for(lambda: self._taken <= own, timeout=2 * BUSY_S)

    def suspend(self) -> None:
        """Close the connections that are not in use; the next use opens one."""
        with self._lock, suppress(sqlite3.Error):
            self._close_free()

    def _close_free(self) -> None:
        while self._free:
            self._free.pop().close()

    def _take(self) -> sqlite3.Connection:
        """Return a connection for this thread alone, to be put back."""
        with self._lock:
            if self._closed:
                raise Gone(self._path)
            self._taken += 1
            if self._free:
                return self._free.pop()
        try:
            check_names(self._folder)  # SQLite follows links, and waits for pipes
            return self._connect()
        except BaseException:
            self._put(None)
            raise

    def _put(self, con: sqlite3.Connection | None) -> None:
        if con is not None and con.in_transaction:  # a COMMIT that failed, or work that did
            with suppress(sqlite3.Error):
                con.rollback()
        with self._lock:
            self._taken -= 1
            if con is not None:
                self._free.append(con)
            if self._closed:
                self._close_free()
                self._put_back.notify_all()

    def _connect(self) -> sqlite3.Connection:
        name = f"{Path(self._path).as_uri()}?mode=ro&immutable=1" if self.readonly else self._path
        con = sqlite3.connect(
            name, uri=self.readonly, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )  # one thread at a time has it, but not always the same one
        try:
            if not self.readonly:
                os.chmod(self._path, 0o600)  # noqa: PTH101 - the log takes its mode from the database
            con.text_factory = bytes  # a flipped bit in a text must not raise before we look at it
            con.execute("PRAGMA trusted_schema = OFF")
            con.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KB}")
            con.execute("PRAGMA mmap_size = 0")
            # Debian's SQLite overwrites what is deleted with zeros, which doubles what each new value writes.
            con.execute("PRAGMA secure_delete = OFF").fetchall()
            con.execute("PRAGMA synchronous = NORMAL")
            con.execute(f"PRAGMA wal_autocheckpoint = {max(8, self._wal_bytes // PAGE_BYTES)}").fetchall()
            con.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}").fetchall()
        except BaseException:
            con.close()
            raise
        return con

    def _prepare(self, con: sqlite3.Connection) -> list[tuple[Any, ...]]:
        """Return the schema, which is made where there is none. An existing database is only read: its writers are not
        waited for."""
        deadline = time.monotonic() + BUSY_S
        while not (found := con.execute(SCHEMA).fetchall()) and not self.readonly:
            self._create(con, last=time.monotonic() > deadline)
        return found

    @property
    def _layout(self) -> Layout:
        from candle_fetcher.store.layout import make_layout

        return make_layout(self._max_bytes, PAGE_CACHE_KB, SCHEMA)

    def _create(self, con: sqlite3.Connection, *, last: bool) -> None:
        try:
            con.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # these two must precede the first table
            con.execute("PRAGMA auto_vacuum = INCREMENTAL")
            con.execute("PRAGMA synchronous = OFF")  # an empty database that is lost with the power is no loss
            con.execute("PRAGMA journal_mode = WAL").fetchall()
            con.execute("BEGIN IMMEDIATE")
            if not con.execute(SCHEMA).fetchall():  # another process may have been faster
                layout = self._layout
                for _, _, sql in layout.schema:
                    con.execute(sql.decode())
                con.executemany("INSERT INTO Settings VALUES (?, ?)", layout.settings)
            con.execute("COMMIT")
        except sqlite3.OperationalError as error:
            con.rollback()
            if last or not is_lock(error):
                raise
            con.execute("BEGIN IMMEDIATE")  # waits for its turn, which the switch to WAL does not
            con.rollback()
        finally:
            con.rollback()  # after another error; within a transaction the next line would hide it
            con.execute("PRAGMA synchronous = NORMAL")


def digest_schema(statements: Iterable[tuple[bytes, bytes, bytes]]) -> str:
    """Return the SHA-256 of the statements of a schema, in any order."""
    return hashlib.sha256(repr(sorted(statements)).encode()).hexdigest()


_DAMAGE = ("malformed", "not a database", "unsupported file format", "no such table", "no such column")


def is_damage(error: BaseException) -> bool:
    """Return whether the file itself is wrong, so that only a new one helps."""
    if isinstance(error, sqlite3.OperationalError):
        return any(text in str(error) for text in _DAMAGE)
    kinds = (sqlite3.DatabaseError, sqlite3.IntegrityError, sqlite3.InternalError)
    return isinstance(error, (Damaged, UnicodeDecodeError)) or type(error) in kinds


def is_lock(error: BaseException) -> bool:
    """Return whether another program held a lock for too long."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def find_first(error: BaseException) -> BaseException:
    """Return the error of SQLite that came first: those of further attempts hide it."""
    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error
