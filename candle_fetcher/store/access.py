"""The database of a disk tier: opened when it is needed, opened again when it changed, left alone after a failure.

After any fault of the disk, the folder or the file, a read returns nothing, a write returns its default, and one
CacheWarning a day for each kind of trouble says what to do, for all processes together (one in each process where the
folder cannot be written).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from candle_fetcher.core.errors import CacheError, CacheWarning, warn
from candle_fetcher.store.database import FAILURES, Database, Gone, find_first, is_damage, is_lock
from candle_fetcher.store.files import (
    DATABASE,
    MARKER,
    WARN_AGAIN_S,
    identify,
    is_warned_of,
    move_aside,
    prepare,
    within,
)
from candle_fetcher.store.forks import fork_guard
from candle_fetcher.store.writers import WriterQueue

if TYPE_CHECKING:
    from candle_fetcher.store.snapshot import Snapshot

T = TypeVar("T")

TURN_S = 10.0  # for the other writers of this process
REST_LOCKED_S = 30.0  # after a lock that did not come, so that a fetch waits for it once
REST_FAILED_S = 60.0  # after a disk that is full, gone or not ours to write

# When this process last warned of each kind of trouble with a folder: the folder itself may not take the note.
_warned_s: dict[tuple[Path, str], float] = {}


class _Unavailable(Exception):
    """The disk is left alone for a while after a failure, or the access is closed."""


class DatabaseAccess:
    """The access to the database in `folder`. Shared by threads.

    `problem` says what does not work now, "" while all is well.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.problem = ""
        self._sizes = max_bytes, max(1 << 16, min(4 << 20, max_bytes // 20))  # of the database and its log
        self._path = within(str(folder), DATABASE)
        self._db: Database | None = None
        self._suspect: Database | None = None  # found damaged: moved aside before anything else
        self._inherited: Database | None = None
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.RLock()  # over opening, and the fields of this object
        self._writers = self._new_queue()
        self._refused = threading.RLock()  # held in a transaction that the disk did not take
        # .db, .writers and .is_refused of a thread's transaction; .tried is the database that it used last
        self._inside = threading.local()
        self._unsaid: deque[str] = deque()  # warnings that are still to be given
        self._no_open_until = 0.0
        self._no_write_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether this process has the database open."""
        return self._db is not None and self._pid == os.getpid()

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows, none where the disk cannot be read now."""
        inner: Database | None = getattr(self._inside, "db", None)
        rows: list[tuple[Any, ...]] = []
        fork_guard.enter()
        try:
            for _ in range(2):  # what failed may be mended
                try:
                    db = inner or self._database()
                    rows = db.select(sql, values)
                except _Unavailable:
                    break
                except Exception as error:  # noqa: BLE001 - one that is no failure of the disk is raised again
                    if not self._can_mend(error, writes=False):
                        break
                else:
                    if self.problem and not (db.readonly or time.monotonic() < self._no_write_until):
                        self.problem = ""
                    break
        finally:
            fork_guard.leave()
        if self._unsaid and inner is None:
            self.give_warnings()
        return rows

    def write(self, work: Callable[..., T], default: T, *arguments: object) -> T:
        """Return the result of the work, which gets the database and the arguments in a transaction; `default` where
        the disk cannot be written now."""
        inner: Database | None = getattr(self._inside, "db", None)
        if inner is None:
            return self._attempt(self._write_once, default, work, arguments)
        try:
            done = work(inner, *arguments)
        except Exception as error:  # noqa: BLE001 - one that is no failure of the disk is raised again
            self._can_mend(error, writes=True)
            return default
        self.problem = ""
        return done

    def after_commit(self, work: Callable[[], object]) -> None:
        """Have the work done once this thread's transaction is committed, and not if it is rolled back."""
        self._inside.__dict__.setdefault("after", []).append(work)

    def compact(self) -> None:
        """Give free pages back to the file system."""
        self._attempt(lambda db: db.compact(), None)

    def snapshot(self) -> Snapshot:
        """Return the database as it is now, to be closed by the caller. Raises CacheError where it cannot be read."""
        from candle_fetcher.store.snapshot import Snapshot

        fork_guard.enter()
        try:
            return Snapshot(self._database().connect_snapshot())
        except (*FAILURES, _Unavailable) as error:
            raise CacheError(self.problem or f"the cache in {self.folder} cannot be read now ({error!r})") from error
        finally:
            fork_guard.leave()

    def transaction(self) -> AbstractContextManager[bool]:
        """Exclude other writers in a block; see DiskTier.transaction."""
        return _Transaction(self)

    def close(self) -> None:
        """Close every connection of every thread, for good."""
        with self._lock:
            self._leave_to_parent()
            self._closed = True
            db, self._db = self._db, None
        fork_guard.enter()
        try:
            if db is not None:
                db.close()
            self._writers.close()
        finally:
            fork_guard.leave()

    def _attempt(self, work: Callable[..., T], default: T, *arguments: object, keeps_turn: bool = False) -> T:
        """Return the result of the work, which gets the database and the arguments in this thread's turn to write, and
        again if what failed can be mended; `default` where the disk cannot do it now.

        Warn where no lock is held: a filter may turn warnings into exceptions.
        """
        fork_guard.enter()
        done = default
        try:
            for _ in range(2):
                try:
                    writers, db = self._take_turn()
                    is_kept = False
                    try:
                        done = work(db, *arguments)
                        is_kept = keeps_turn
                    finally:
                        if not is_kept:
                            writers.leave()
                    break
                except _Unavailable:
                    break
                except Exception as error:  # noqa: BLE001 - one that is no failure of the disk is raised again
                    if not self._can_mend(error, writes=True):
                        break
        finally:
            fork_guard.leave()
        if self._unsaid and getattr(self._inside, "db", None) is None:
            self.give_warnings()
        return done

    def _write_once(self, db: Database, work: Callable[..., T], arguments: Sequence[object]) -> T:
        db.begin()
        try:
            done = work(db, *arguments)
        except BaseException:
            self._finish(db, commit=False)
            raise
        self._finish(db, commit=True)
        self.problem = ""
        return done

    def _finish(self, db: Database, *, commit: bool) -> None:
        """Commit the transaction of this thread and do what waits for that, or roll it back."""
        after = self._inside.__dict__.pop("after", ())
        db.end(commit=commit)
        for work in after if commit else ():
            work()

    def _begin(self, db: Database) -> bool:
        """Begin the transaction of this thread, which keeps its turn."""
        db.begin()
        self._inside.writers, self._inside.db = self._writers, db
        return True

    def _end(self, *, commit: bool) -> None:
        """End the transaction of this thread."""
        db = self._inside.__dict__.pop("db")
        try:
            self._finish(db, commit=commit)
        except Exception as error:  # noqa: BLE001 - one that is no failure of the disk is raised again
            self._can_mend(error, writes=True)
        finally:
            self._inside.writers.leave()

    def _take_turn(self) -> tuple[WriterQueue, Database]:
        """Wait for this thread's turn to write, and return the queue to leave. Raises _Unavailable where it takes too
        long, or writing failed lately."""
        if self._pid != os.getpid():
            with self._lock:
                self._leave_to_parent()
        writers = self._writers
        is_refused = getattr(self._inside, "is_refused", False)  # what its transaction read may have changed since
        if is_refused or time.monotonic() < self._no_write_until or not writers.enter(TURN_S):
            raise _Unavailable
        try:
            if time.monotonic() < self._no_write_until:  # found out by the thread that had the turn
                raise _Unavailable
            db = self._database()
            writers.wait_for_processes()
        except BaseException:
            writers.leave()
            raise
        return writers, db

    def _database(self) -> Database:
        """Return the open database; opened again where its file was removed, replaced or found damaged."""
        self._inside.tried = None
        with self._lock:
            if self._pid != os.getpid():
                self._leave_to_parent()
            db, rests = self._db, time.monotonic() < self._no_open_until
            is_same = db is not None and identify(self._path) == db.identity
            if db is not None and is_same and db is not self._suspect and (rests or not db.readonly):
                self._inside.tried = db
                return db
            if self._closed or rests:
                raise _Unavailable
            if db is not None:
                self._db = None
                db.close()
                if is_same and db is self._suspect:
                    self._move_aside("a page of it is damaged")
            self._db = self._inside.tried = self._open()
            return self._db

    def _new_queue(self) -> WriterQueue:
        return WriterQueue(within(str(self.folder), MARKER))

    def _leave_to_parent(self) -> None:
        """Give up the connections after a fork. They are kept, because closing the parent's here could harm it."""
        if self._pid != os.getpid():
            self._inherited, self._db, self._pid = self._db, None, os.getpid()
            self._writers = self._new_queue()

    def _open(self) -> Database:
        warning = prepare(self.folder)
        if warning:
            self.warn("shared", warning)
        before = identify(self._path)
        try:
            return Database(self.folder, *self._sizes)
        except FAILURES as error:
            if is_damage(error):
                if identify(self._path) == before:  # else another process was faster
                    self._move_aside(str(error))
            elif before is None or is_lock(error):
                raise
            else:  # it is there and cannot be written; perhaps it can be read
                db = Database(self.folder, *self._sizes, readonly=True)
                self._no_open_until = time.monotonic() + REST_FAILED_S  # then it may be writable again
                self.note_problem(error)
                return db
        return Database(self.folder, *self._sizes)

    def _move_aside(self, reason: str) -> None:
        bad = move_aside(self.folder)
        self.warn(
            "damaged",
            f"the cache in {self.folder} was damaged ({reason}) and starts empty. The damaged file is now {bad};"
            " remove it if you do not want to examine it",
        )

    def _can_mend(self, failure: Exception, *, writes: bool) -> bool:
        """Return whether to try again at once; otherwise note the problem, and how long to leave the disk alone.

        Raises an error that is no failure of the disk.
        """
        if not isinstance(failure, FAILURES):
            raise failure
        error = find_first(failure)
        tried: Database | None = self._inside.tried  # None where it could not be opened
        with self._lock:
            if tried is not None:
                if isinstance(error, Gone) or tried is not self._db:
                    return True
                if is_damage(error):
                    self._suspect = tried
                    return True
                with contextlib.suppress(OSError):
                    if identify(self._path) != tried.identity:
                        return True
            rest_s = REST_LOCKED_S if is_lock(error) else REST_FAILED_S
            if tried is None:
                self._no_open_until = math.inf if isinstance(error, CacheError) else time.monotonic() + rest_s
            elif writes:
                self._no_write_until = time.monotonic() + rest_s
            self.note_problem(error)
            return False

    def note_problem(self, error: BaseException) -> None:
        """Note what does not work on the disk now; `give_warnings` tells of it."""
        advice = "another program is writing"
        if not is_lock(error):
            advice = "make room there, make it writable, or choose another cache_dir"
        self.problem = f"the cache in {self.folder} cannot be used as it should ({error}): {advice}"
        self.warn("locked" if is_lock(error) else "failed", f"{self.problem}. Results are right, only slower to get")

    def warn(self, kind: str, message: str) -> None:
        """Add the warning to those to give, once a day for all tiers and processes on the folder."""
        now_s = time.time()
        warned_s = _warned_s.setdefault((self.folder, kind), now_s)
        if warned_s is not now_s and 0 <= now_s - warned_s < WARN_AGAIN_S:
            return
        _warned_s[self.folder, kind] = now_s
        if not is_warned_of(self.folder, kind):
            self._unsaid.append(message)

    def give_warnings(self) -> None:
        """Give the warnings that were added."""
        with contextlib.suppress(IndexError):
            while True:
                warn(CacheWarning(self._unsaid.popleft()))


class _Transaction(AbstractContextManager[bool]):
    """A transaction of the calling thread; see DatabaseAccess.transaction."""

    def __init__(self, access: DatabaseAccess) -> None:
        self._access = access
        self._inside = access._inside
        self._is_outer = self._begun = self._was_refused = False

    def __enter__(self) -> bool:
        access, inside = self._access, self._inside
        if getattr(inside, "db", None) is not None:
            return True
        fork_guard.enter()
        try:
            self._begun = access._attempt(access._begin, False, keeps_turn=True)
            if not self._begun:
                access._refused.acquire()
            self._is_outer = True
            self._was_refused = getattr(inside, "is_refused", False)
            inside.is_refused = not self._begun
        except BaseException:
            if self._begun:
                access._end(commit=False)
            fork_guard.leave()
            raise
        return self._begun

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        if not self._is_outer:
            return
        try:
            self._inside.is_refused = self._was_refused
            if self._begun:
                self._access._end(commit=kind is None)
            else:
                self._access._refused.release()
        finally:
            fork_guard.leave()
        if kind is None and self._access._unsaid:
            self._access.give_warnings()
