"""One SQLite file in diskcache's layout: its connections, its schema, the rows it may hold, and what its errors mean.

Imported when a disk tier first opens, so that `import candle_fetcher` loads neither sqlite3 nor diskcache.

Measured for values of 88 KB: pages of 8 KB give the fastest reads that do not slow writes down; a page cache above 1 MB
makes reading slower, not faster; memory mapping brings nothing and counts as our memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diskcache  # type: ignore[import-untyped]

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.files import DATABASE, check_names, identify
from candle_fetcher.store.forks import gate

PAGE_BYTES = 8192
PAGE_CACHE_KB = 1024
BUSY_S = 2.0  # for the write lock; readers never wait
RAW = 1  # diskcache's mode of a value that lies in its row as it is; 4 would be a pickle, 2 and 3 name a file


class Damaged(Exception):
    """The file is a database, but not laid out as ours."""


class Gone(Exception):
    """The database was closed under the caller."""


# All that a disk can do to us. The decoding error comes out of sqlite3 itself, where its message quotes damaged bytes.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError, diskcache.Timeout, Damaged, Gone, CacheError)


class _Rows(diskcache.Disk):  # type: ignore[misc]
    """Rows hold bytes under str: nothing is pickled or unpickled, no file named in a row is opened or removed."""

    def put(self, key: str) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a key is a str, not {key!r}")
        return key, True

    def store(self, value: bytes, read: bool, key: object = None) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes:
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        return 0, RAW, None, value

    def get(self, key: object, raw: object) -> Any:
        raise NotImplementedError("keys are read by DiskTier.keys, which trusts no row")

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> Any:
        raise NotImplementedError("values are read by DiskTier.load_many, which trusts no row")

    def filename(self, key: object = None, value: object = None) -> Any:
        raise NotImplementedError("no value is kept in a file")

    def remove(self, file_path: object) -> None:
        """Nothing: a file name in a row is somebody else's."""


class _Cache(diskcache.Cache):  # type: ignore[misc]
    """diskcache over the connection that the calling thread borrowed.

    Its constructor writes every setting at every open and waits up to 60 s for the lock. So it works on a database in
    memory: that gives the schema, and what a file says about settings is never believed. Its own connections, one for
    each thread and closed only by that thread, are not used.
    """

    def __init__(self, max_bytes: int) -> None:
        self.borrowed = threading.local()
        self.borrowed.con = template = sqlite3.connect(":memory:", isolation_level=None)
        super().__init__(
            os.sep,  # it expands $ and ~ in the name and makes the folder: no path of ours passes through it
            timeout=0,
            disk=_Rows,
            statistics=0,
            tag_index=0,
            eviction_policy="least-recently-stored",  # for its index on store_time, which a use moves
            size_limit=max_bytes,
            cull_limit=0,  # DiskTier evicts: diskcache's own culling says nothing
            sqlite_auto_vacuum=2,  # incremental: pages are reused, and given back only when the bound shrinks
            sqlite_cache_size=-PAGE_CACHE_KB,
            sqlite_journal_mode="wal",
            sqlite_mmap_size=0,
            sqlite_synchronous=1,
            disk_min_file_size=2**62,
            disk_pickle_protocol=0,
        )
        self.schema: list[tuple[str, ...]] = template.execute(_SCHEMA).fetchall()
        self.rows_of_settings: list[tuple[Any, ...]] = template.execute("SELECT key, value FROM Settings").fetchall()
        del self.borrowed.con
        template.close()

    @property
    def _con(self) -> sqlite3.Connection:
        con: sqlite3.Connection = self.borrowed.con
        return con

    def close(self) -> None:
        """Nothing: Database owns the connections, and the constructor calls this."""


_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"


class Database:
    """The open file, and the connections to it.

    A connection is borrowed for one piece of work, by whatever thread, and given back: there are as many as ever worked
    at once, and `close` can close them all. With `readonly` the file is read as it lies there, without lock or log.
    Raises one of FAILURES where it cannot be opened.
    """

    def __init__(self, folder: Path, max_bytes: int, wal_bytes: int, *, readonly: bool = False) -> None:
        self.cache = _Cache(max_bytes)
        self.readonly = readonly
        self._path = folder / DATABASE
        self._wal_bytes = wal_bytes
        self._free: list[sqlite3.Connection] = []
        self._out = 0
        self._closed = False
        self._turn = threading.Condition()
        con = self._connect()
        try:
            self._prepare(con)
            self.page_bytes = int(con.execute("PRAGMA page_size").fetchone()[0])
        except BaseException:
            con.close()
            raise
        self.identity = identify(folder)
        self._free.append(con)
        gate.resting.add(self)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own; inside another `borrow` the same one."""
        held: sqlite3.Connection | None = getattr(self.cache.borrowed, "con", None)
        if held is not None:
            yield held
            return
        with self._turn:
            if self._closed:
                raise Gone(str(self._path))
            con = self._free.pop() if self._free else None
            self._out += 1
        try:
            con = con or self._connect()
            self.cache.borrowed.con = con
            yield con
        finally:
            self.cache.borrowed.__dict__.pop("con", None)
            with self._turn:
                self._out -= 1
                if con is not None:
                    self._take_back(con)
                self._turn.notify_all()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection that holds the write lock; inside another `transaction` a part of that one."""
        with self.borrow() as con, self.cache.transact():
            yield con

    def write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> int:
        """Run the statement once for each row of values, in one transaction; how many rows of the table it changed."""
        with self.transaction() as con:
            return con.executemany(sql, rows).rowcount

    def pages(self) -> tuple[int, int]:
        """How many pages the file has, and how many of them are free."""
        with self.borrow() as con:
            (count,) = con.execute("PRAGMA page_count").fetchone()
            (free,) = con.execute("PRAGMA freelist_count").fetchone()
        return count, free

    def shrink(self, pages: int) -> None:
        """Give up to so many free pages back to the file system."""
        _, free = self.pages()
        with self.transaction() as con:
            for _ in range(min(pages, free)):
                con.execute("PRAGMA incremental_vacuum(1)")  # Python runs a pragma without columns for one step only

    def compact(self) -> None:
        """Give all free pages back, where nobody else is in the way; fast only while little is stored."""
        with self.borrow() as con, contextlib.suppress(sqlite3.OperationalError):
            con.execute("VACUUM")

    def close(self) -> None:
        """Close every connection, those in use as they come back, and wait a while for them.

        Waiting matters: SQLite removes the log by its name when the last connection closes, and by then it could be the
        log of a new database.
        """
        with self._turn:
            self._closed = True
            while self._free:
                self._free.pop().close()
            own = 1 if hasattr(self.cache.borrowed, "con") else 0
            self._turn.wait_for(lambda: self._out <= own, timeout=2 * BUSY_S)

    def rest(self) -> None:
        """Close the connections that nobody has borrowed; the next one who needs one opens it."""
        with self._turn, contextlib.suppress(sqlite3.Error):
            while self._free:
                self._free.pop().close()

    def _take_back(self, con: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            if con.in_transaction:  # a COMMIT that failed, or work cut short
                con.rollback()
        if self._closed:
            con.close()
        else:
            self._free.append(con)

    def _connect(self) -> sqlite3.Connection:
        check_names(self._path.parent)  # SQLite follows links, and waits for pipes
        name = f"{self._path.as_uri()}?mode=ro&immutable=1" if self.readonly else str(self._path)
        con = sqlite3.connect(
            name, uri=self.readonly, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )  # one thread at a time has it, but not always the same one
        try:
            if not self.readonly:
                self._path.chmod(0o600)  # the log takes its mode from the database
            con.text_factory = bytes  # a flipped bit in a text must not raise before we look at it
            con.execute("PRAGMA trusted_schema = OFF")
            con.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KB}")
            con.execute("PRAGMA mmap_size = 0")
            con.execute("PRAGMA synchronous = NORMAL")
            con.execute(f"PRAGMA wal_autocheckpoint = {max(8, self._wal_bytes // PAGE_BYTES)}").fetchall()
            con.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}").fetchall()
        except BaseException:
            con.close()
            raise
        return con

    def _prepare(self, con: sqlite3.Connection) -> None:
        """Make the schema where there is none. An existing database is only read: its writers are not waited for."""
        deadline = time.monotonic() + BUSY_S
        while not self.readonly and not con.execute(_SCHEMA).fetchall():
            self._create(con, last=time.monotonic() > deadline)
        found = [tuple(text.decode("utf-8", "replace") for text in row) for row in con.execute(_SCHEMA)]
        if sorted(found) != sorted(self.cache.schema):
            raise Damaged("its tables are not those of this version")

    def _create(self, con: sqlite3.Connection, *, last: bool) -> None:
        try:
            con.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # these two must precede the first table
            con.execute("PRAGMA auto_vacuum = INCREMENTAL")
            con.execute("PRAGMA journal_mode = WAL").fetchall()
            con.execute("BEGIN IMMEDIATE")
            if not con.execute(_SCHEMA).fetchall():  # another process may have been faster
                for _, _, sql in self.cache.schema:
                    con.execute(sql)
                con.executemany("INSERT INTO Settings VALUES (?, ?)", self.cache.rows_of_settings)
            con.execute("COMMIT")
        except sqlite3.OperationalError as error:
            con.rollback()
            if last or not is_lock(error):
                raise
            con.execute("BEGIN IMMEDIATE")  # waits for its turn, which the switch to WAL does not
            con.rollback()


_DAMAGE = ("malformed", "not a database", "unsupported file format", "no such table", "no such column")


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is wrong, so that only a new one helps."""
    if isinstance(error, sqlite3.OperationalError):
        return any(text in str(error) for text in _DAMAGE)
    kinds = (sqlite3.DatabaseError, sqlite3.IntegrityError, sqlite3.InternalError)
    return isinstance(error, (Damaged, UnicodeDecodeError)) or type(error) in kinds


def is_lock(error: BaseException) -> bool:
    """Whether somebody else was writing for too long."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def find_first(error: BaseException) -> BaseException:
    """The error of SQLite that came first: diskcache's Timeout or a failing ROLLBACK hides it."""
    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error
