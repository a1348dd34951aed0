"""The disk tier: values by key in one SQLite file, least recently used first out, bounded by bytes on disk.

Whatever is wrong with the disk, the folder, the file or a row in it changes speed and nothing else: a load is a miss, a
save returns False, and one CacheWarning a day for each kind of trouble says what to do, whatever process finds it (one
of each process, where the folder cannot be written). No row is trusted: nothing in it is unpickled or opened as a file.
Whether a value is whole and still holds is checked by whoever unpacks it.

Threads, processes and forks may meet here at any time; see `forks.py` for the last.

Eviction needs no write for each read. `store_time` is the time of the last use: a save sets it, and a use that finds it
more than a day old is noted and written down later, many in one transaction (`flush`, `close`, before an eviction).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from candle_fetcher.core.errors import CacheError, CacheWarning, warn
from candle_fetcher.core.events import Observe, Operation, ignore
from candle_fetcher.store import files
from candle_fetcher.store.forks import gate
from candle_fetcher.store.line import Line

if TYPE_CHECKING:
    from candle_fetcher.store.database import Database

T = TypeVar("T")

USE_STEP_S = 86_400.0  # a use is written down at most once a day
TURN_S = 10.0  # for the other writers of this process
REST_LOCKED_S = 30.0  # after a lock that did not come, so that a fetch waits for it once
REST_FAILED_S = 60.0  # after a disk that is full, gone or not ours to write
KEYS_PER_SELECT = 32
KEYS_PER_PAGE = 500
EVICTIONS_PER_SAVE = 64  # bounds a save; a bound that was lowered is reached after some of them
PAGES_PER_SHRINK = 2048
ROWS_PER_CLEAR = 200

_LOAD = (
    "SELECT rowid, key, store_time, mode = 1 AND filename IS NULL AND typeof(value) = 'blob', value"
    " FROM Cache WHERE raw = 1 AND key IN ({})"
)
_KEYS = (
    "SELECT rowid, key, raw = 1 AND typeof(key) = 'text' FROM Cache WHERE (key, raw) > (?, ?) ORDER BY key, raw LIMIT ?"
)
_BEGINNINGS = (
    "SELECT key, length(value), substr(value, 1, ?) FROM Cache"
    " WHERE raw = 1 AND typeof(key) = 'text' AND typeof(value) = 'blob' AND key > ? ORDER BY key LIMIT ?"
)
_EVICT = "DELETE FROM Cache WHERE rowid = (SELECT rowid FROM Cache ORDER BY store_time LIMIT 1)"


# When each kind of trouble with a folder was last said here: where the folder takes no note of it, this does.
_said: dict[tuple[Path, str], float] = {}


class DiskStats(NamedTuple):
    """What the disk tier holds; bytes as they lie on the disk, the log included."""

    entries: int
    bytes: int
    max_bytes: int


class _Again(Exception):
    """It failed, and what was wrong can be put right at once."""


class _Resting(Exception):
    """It failed and is left alone for a while, or it is closed."""


class DiskTier:
    """Values by key in `folder`, made when it is first asked. Threads and processes may share it.

    `problem` says what does not work now, "" while all is well. Emits Operation disk_read and disk_write.
    """

    def __init__(self, folder: Path, max_bytes: int, *, observe: Observe = ignore) -> None:
        self.folder = Path(folder).absolute()
        self.problem = ""
        self._max_bytes = max_bytes
        self._wal_bytes = max(1 << 16, min(4 << 20, max_bytes // 20))
        self._observe = observe
        self._db: Database | None = None
        self._suspect: Database | None = None  # found damaged: moved aside before anything else
        self._inherited: Database | None = None
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.RLock()  # over opening, and the fields of this object
        self._line = Line(self.folder / files.MARKER)  # of those who write
        self._inside = threading.local()  # .db, .is_refused of its transaction(); .tried what it worked on last
        self._used: set[str] = set()
        self._unsaid: deque[str] = deque()
        self._no_open_until = 0.0
        self._no_write_until = 0.0

    def load(self, key: str) -> bytes | None:
        """The value, None where there is none or the disk cannot say."""
        return self.load_many((key,)).get(key)

    def load_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values that are there, by key."""
        started = time.perf_counter()
        asked = list(keys)
        found: dict[str, bytes] = {}
        foreign: list[int] = []
        used: set[str] = set()
        for at in range(0, len(asked), KEYS_PER_SELECT):
            some = asked[at : at + KEYS_PER_SELECT]
            rows = self._rows(_LOAD.format(",".join("?" * len(some))), some)
            now = time.time()
            for rowid, name, used_s, ours, value in rows:
                key = _decode(name) if ours else None
                if key not in some:  # an index that is not whole finds other rows too
                    foreign.append(rowid)
                    continue
                found[key] = value
                if type(used_s) is not float or abs(now - used_s) > USE_STEP_S:
                    used.add(key)
        if used:
            self._note_used(used)
        self._drop_foreign(foreign)
        self._observe(Operation("disk_read", time.perf_counter() - started, bytes=sum(map(len, found.values()))))
        return found

    def save(self, key: str, data: bytes) -> bool:
        """Keep the value in place of the one before; False where that could not be done."""
        return self.save_many(((key, data),))

    def save_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bool:
        """Keep the values, in one transaction while that is short enough for the log; False where one is not kept."""
        started = time.perf_counter()
        group: list[tuple[str, bytes]] = []
        saved, waiting, total = True, 0, 0
        for key, data in items.items() if isinstance(items, Mapping) else items:
            if group and waiting + len(data) > min(16 << 20, self._max_bytes // 20):
                saved &= self._save_group(group)
                group, waiting = [], 0
            group.append((key, data))
            waiting += len(data)
            total += len(data)
        saved &= self._save_group(group)
        self._observe(Operation("disk_write", time.perf_counter() - started, bytes=total if saved else 0))
        return saved

    def drop(self, key: str) -> None:
        """Forget the key."""
        self._write("DELETE FROM Cache WHERE key = ? AND raw = 1", [(key,)])

    def drop_many(self, keys: Iterable[str]) -> None:
        """Forget the keys, in one transaction."""
        self._write("DELETE FROM Cache WHERE key = ? AND raw = 1", [(key,) for key in keys])

    def warn_of_damage(self) -> None:
        """Tell that a value was not whole, as whoever unpacks them finds out."""
        self._say(
            "changed",
            f"the cache in {self.folder} had entries that are cut or changed; they are dropped, and their candles asked"
            " for again. If this happens often, have the disk checked",
        )
        self._tell()

    def clear(self) -> None:
        """Forget everything and give the space back."""
        delete = f"DELETE FROM Cache WHERE rowid IN (SELECT rowid FROM Cache LIMIT {ROWS_PER_CLEAR})"
        while self._write(delete, [()]):
            pass  # in steps, so that others write too
        self._run(lambda db: db.compact(), None, writes=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix, in order; those saved meanwhile may be missing."""
        after: tuple[str, int] = (prefix, -1)
        foreign: list[int] = []
        before = None
        while after != before:
            before = after
            for rowid, name, ours in self._rows(_KEYS, (*after, KEYS_PER_PAGE)):
                key = _decode(name) if ours else None
                if key is None:
                    foreign.append(rowid)
                elif key.startswith(prefix):
                    after = (key, 1)
                    yield key
                else:
                    before = after  # past the last one
                    break
        self._drop_foreign(foreign)

    def beginnings(self, length: int) -> Iterator[tuple[str, int, bytes]]:
        """Every key in order, with the size of its value and the first `length` bytes of it; no value is read whole."""
        after, rows = b"", [(b"", 0, b"")]
        while rows:
            rows = self._rows(_BEGINNINGS, (length, after.decode("utf-8", "replace"), KEYS_PER_PAGE))
            for after, size, beginning in rows:
                key = _decode(after)
                if key is not None:
                    yield key, size, beginning

    def stats(self) -> DiskStats:
        """What is on the disk now."""
        rows = self._rows("SELECT COUNT(*) FROM Cache", ())
        return DiskStats(rows[0][0] if rows else 0, files.size_bytes(self.folder), self._max_bytes)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[bool]:
        """Nobody else writes while the body reads and writes; all of it is kept, or nothing where the body raises.

        False where the disk cannot be written now: the body runs all the same, and its saves return False.
        """
        if self._inner is not None:
            yield True
            return
        with gate.entered():
            held = contextlib.ExitStack()
            begun = self._attempt(lambda: self._begin(held), False)
            was_refused = getattr(self._inside, "is_refused", False)
            self._inside.is_refused = not begun
            try:
                yield begun
            except BaseException:
                with contextlib.suppress(Exception):  # of the rollback; the caller's own error is the one to show
                    held.__exit__(*sys.exc_info())
                raise
            finally:
                self._inside.is_refused = was_refused
            with contextlib.suppress(_Again, _Resting), self._minding(writes=True):
                held.close()
        self._tell()

    def flush(self) -> None:
        """Write down which entries were used since the last time."""
        if self._used:
            self._run(self._write_used, None, writes=True)

    def close(self) -> None:
        """Close every connection of every thread; later loads miss and later saves return False."""
        if self._db is not None and self._pid == os.getpid():
            self.flush()
        with self._lock:
            self._leave_to_parent()
            self._closed = True
            db, self._db = self._db, None
        with gate.entered():
            if db is not None:
                db.close()
            self._line.close()

    # -- the work itself ----------------------------------------------------------------------------------------------

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._run(lambda db: _select(db, sql, values), [], writes=False)

    def _write(self, sql: str, rows: list[tuple[object, ...]]) -> int:
        return self._run(lambda db: db.write(sql, rows), 0, writes=True)

    def _save_group(self, items: list[tuple[str, bytes]]) -> bool:
        return not items or self._run(lambda db: self._save_into(db, items), False, writes=True)

    def _save_into(self, db: Database, items: list[tuple[str, bytes]]) -> bool:
        fits = True
        with db.transaction():
            for key, data in items:
                if self._make_room(db, len(data)):
                    db.cache.set(key, data)
                else:
                    db.cache.delete(key)
                    fits = False
        return fits

    def _make_room(self, db: Database, size_bytes: int) -> bool:
        """Evict until a value of that size fits under the bound; False where it never would."""
        limit = self._max_bytes // db.page_bytes
        need = size_bytes // db.page_bytes + 4  # its pages, and those that its key may add to the indexes
        if need > limit:
            return False
        count, free = db.pages()
        if count - free + need <= limit and count <= limit:
            return True
        self._write_used(db)
        for _ in range(EVICTIONS_PER_SAVE):
            if count - free + need <= limit:
                break
            if not db.write(_EVICT, [()]):
                return False  # nothing left to evict: the bound is too small for anything
            self._say(
                "evicted",
                f"the cache in {self.folder} is full ({self._max_bytes / 1e6:,.0f} MB): what was not used for longest"
                " leaves. Raise disk_cache_size to keep more",
            )
            count, free = db.pages()
        if count > limit:
            db.shrink(min(count - limit, PAGES_PER_SHRINK))
        return True

    def _note_used(self, keys: set[str]) -> None:
        with gate.entered(), self._lock:
            self._used |= keys

    def _write_used(self, db: Database) -> None:
        with self._lock:
            used, self._used = self._used, set()
        now = time.time()
        try:
            db.write("UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1", [(now, key) for key in used])
        except BaseException:
            self._note_used(used)
            raise

    def _drop_foreign(self, rowids: list[int]) -> None:
        if rowids:
            self._say("foreign", f"{self.folder}: entries that candle_fetcher did not write were dropped, unread")
            self._write("DELETE FROM Cache WHERE rowid = ?", [(rowid,) for rowid in rowids])

    # -- opening, and what to do when something fails -----------------------------------------------------------------

    @property
    def _inner(self) -> Database | None:
        """The database of the transaction that this thread is in."""
        db: Database | None = getattr(self._inside, "db", None)
        return db

    def _run(self, work: Callable[[Database], T], default: T, *, writes: bool) -> T:
        """What the work returns; `default` where the disk cannot do it now."""

        def once() -> T:
            with self._minding(writes), self._turn_to_write() if writes else contextlib.nullcontext() as given:
                db = given or self._inner or self._database()
                done = work(db)
                if self.problem and (writes or not (db.readonly or time.monotonic() < self._no_write_until)):
                    self.problem = ""
                return done

        return self._attempt(once, default)

    def _attempt(self, once: Callable[[], T], default: T) -> T:
        """Up to two tries, then the warnings, where no lock is held: a filter may turn them into exceptions."""
        try:
            with gate.entered(), contextlib.suppress(_Resting):
                for _ in range(2):
                    with contextlib.suppress(_Again):
                        return once()
            return default
        finally:
            if self._inner is None:
                self._tell()

    def _begin(self, held: contextlib.ExitStack) -> bool:
        with self._minding(writes=True), contextlib.ExitStack() as trying:
            db = trying.enter_context(self._turn_to_write())
            trying.enter_context(db.transaction())
            self._inside.db = db
            trying.callback(self._inside.__dict__.pop, "db")
            held.push(trying.pop_all())
        return True

    @contextlib.contextmanager
    def _turn_to_write(self) -> Iterator[Database]:
        if self._inner is not None:  # has the turn, and what it began is not to be kept by halves
            yield self._inner
            return
        with self._lock:
            self._leave_to_parent()
            line = self._line
        is_refused = getattr(self._inside, "is_refused", False)  # what it read may have been changed since
        if is_refused or time.monotonic() < self._no_write_until or not line.enter(TURN_S):
            raise _Resting
        try:
            if time.monotonic() < self._no_write_until:  # found out by the one who had the turn
                raise _Resting
            db = self._database()
            line.wait_for_processes()
            yield db
        finally:
            line.leave()

    def _database(self) -> Database:
        """The open database; opened again where its file was removed, replaced or found damaged."""
        self._inside.tried = None
        with self._lock:
            self._leave_to_parent()
            db = self._db
            rests = time.monotonic() < self._no_open_until
            same = db is not None and files.identify(self.folder) == db.identity
            if db is not None and same and db is not self._suspect and (rests or not db.readonly):
                self._inside.tried = db
                return db
            if self._closed or rests:
                raise _Resting
            if db is not None:
                self._db = None
                db.close()
                if same and db is self._suspect:
                    self._move_aside("a page of it is not whole")
            self._db = self._inside.tried = self._open()
            return self._db

    def _leave_to_parent(self) -> None:
        """After a fork the connections are the parent's: they are kept, for closing them here could harm it."""
        if self._pid != os.getpid():
            self._inherited, self._db, self._pid = self._db, None, os.getpid()
            self._line = Line(self.folder / files.MARKER)

    def _open(self) -> Database:
        from candle_fetcher.store import database

        warning = files.prepare(self.folder)
        if warning:
            self._say("shared", warning)
        before = files.identify(self.folder)
        sizes = self._max_bytes, self._wal_bytes
        try:
            return database.Database(self.folder, *sizes)
        except database.FAILURES as error:
            if database.is_damage(error):
                if files.identify(self.folder) == before:  # else another process was faster
                    self._move_aside(str(error))
            elif before is None or database.is_lock(error):
                raise
            else:  # it is there and cannot be written; perhaps it can be read
                db = database.Database(self.folder, *sizes, readonly=True)
                self._no_open_until = time.monotonic() + REST_FAILED_S  # then it may be writable again
                self._trouble(error)
                return db
        return database.Database(self.folder, *sizes)

    def _move_aside(self, reason: str) -> None:
        bad = files.move_aside(self.folder)
        self._say(
            "damaged",
            f"the cache in {self.folder} was damaged ({reason}) and starts empty. What was there is now {bad};"
            " remove it if you do not want to look into it",
        )

    @contextlib.contextmanager
    def _minding(self, writes: bool) -> Iterator[None]:
        """Turns whatever a disk can do to us into _Again or _Resting."""
        from candle_fetcher.store.database import FAILURES

        try:
            yield
        except FAILURES as error:
            raise (_Again if self._can_mend(error, writes) else _Resting) from error

    def _can_mend(self, failure: BaseException, writes: bool) -> bool:
        """Whether to try again at once; else notes the problem, and for how long to leave it alone."""
        from candle_fetcher.store import database

        error = database.find_first(failure)
        tried: Database | None = self._inside.tried  # None where it could not be opened
        with self._lock:
            if tried is not None:
                if isinstance(error, database.Gone) or tried is not self._db:
                    return True
                if database.is_damage(error):
                    self._suspect = tried
                    return True
                with contextlib.suppress(OSError):
                    if files.identify(self.folder) != tried.identity:
                        return True
            rest_s = REST_LOCKED_S if database.is_lock(error) else REST_FAILED_S
            if tried is None:
                self._no_open_until = math.inf if isinstance(error, CacheError) else time.monotonic() + rest_s
            elif writes:
                self._no_write_until = time.monotonic() + rest_s
            self._trouble(error)
            return False

    def _trouble(self, error: BaseException) -> None:
        from candle_fetcher.store.database import is_lock

        advice = "another program is writing"
        if not is_lock(error):
            advice = "make room there, make it writable, or choose another cache_dir"
        self.problem = f"the cache in {self.folder} cannot be used as it should ({error}): {advice}"
        self._say("locked" if is_lock(error) else "failed", f"{self.problem}. Results are right, only slower to get")

    def _say(self, kind: str, message: str) -> None:
        """Once a day, whichever tier and process it is that finds the trouble."""
        now_s = time.time()
        said_s = _said.setdefault((self.folder, kind), now_s)
        if said_s is not now_s and 0 <= now_s - said_s < files.WARN_AGAIN_S:
            return
        _said[self.folder, kind] = now_s
        if not files.is_warned_of(self.folder, kind):
            self._unsaid.append(message)

    def _tell(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                warn(CacheWarning(self._unsaid.popleft()))


def _select(db: Database, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    with db.borrow() as con:
        return con.execute(sql, values).fetchall()


def _decode(name: object) -> str | None:
    try:
        return name.decode() if isinstance(name, bytes) else None
    except UnicodeDecodeError:
        return None
