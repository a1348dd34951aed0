"""The disk tier: values by key in one SQLite file, bounded by bytes on disk; the least recently used leave first.

Trouble with the disk, the folder, the file or a row in it costs speed and nothing else: a load is a miss, a save
returns False, and one CacheWarning a day for each kind of trouble says what to do (`access.py`). No row is trusted:
nothing in it is unpickled or opened as a file. The caller checks whether a value is whole and still holds.

Threads, processes and forks may meet here at any time; see `forks.py` for the last.

A read needs no write for the order of eviction. `store_time` is the time of the last use: a save sets it, and a use
that finds it more than a day old is noted and written later, many in one transaction (`flush`, `close`, an eviction).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from candle_fetcher.core.events import Observe, Operation, ignore
from candle_fetcher.store.access import DatabaseAccess
from candle_fetcher.store.files import size_bytes
from candle_fetcher.store.forks import fork_guard
from candle_fetcher.store.page_files import PageFiles

if TYPE_CHECKING:
    from candle_fetcher.store.database import Database
    from candle_fetcher.store.snapshot import Snapshot

USE_STEP_S = 86_400.0  # a use is written down at most once a day
KEYS_PER_SELECT = 32
KEYS_PER_PAGE = 500
_MANY_KEYS = 100
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
    "SELECT key, length(value) + size, substr(value, 1, ?) FROM Cache"
    " WHERE raw = 1 AND typeof(key) = 'text' AND typeof(value) = 'blob' AND key > ? ORDER BY key LIMIT ?"
)
_PRESENT = "SELECT key FROM Cache WHERE raw = 1 AND key {}"
# Which rows are deleted.
_OF_KEY = "key = ? AND raw = 1"
_OF_ROW = "rowid = ?"
_SOME = f"rowid IN (SELECT rowid FROM Cache LIMIT {ROWS_PER_CLEAR})"
_OLDEST = "rowid = (SELECT rowid FROM Cache ORDER BY store_time LIMIT 1)"
_FILES_OF = "SELECT tag FROM Cache WHERE size > 0 AND {}"
_FILE_BYTES = (
    "SELECT COALESCE(SUM(value), 0) FROM Settings WHERE key = 'size' AND typeof(value) = 'integer' AND value > 0"
)


class DiskStats(NamedTuple):
    """The entries of the disk tier, and its bytes on disk with the log."""

    entries: int
    bytes: int
    max_bytes: int


class DiskTier:
    """Values by key in `folder`, which is made at the first use. Shared by threads and processes.

    `problem` says what does not work now, "" while all is well. Emits Operation disk_read and disk_write.
    """

    def __init__(self, folder: Path, max_bytes: int, *, observe: Observe = ignore) -> None:
        self.folder = Path(folder).absolute()
        self._access = DatabaseAccess(self.folder, max_bytes)
        self._spare_pages = 0  # that may be written before the size of the database is looked at
        self._max_bytes = max_bytes
        self._observe = observe
        self.files = PageFiles(self.folder)
        self._swept: tuple[int, int] | None = None  # the database that leftovers were removed beside
        self._used: set[str] = set()
        self._lock = threading.RLock()  # over `_used`

    @property
    def problem(self) -> str:
        """What does not work on the disk now; "" while all is well."""
        return self._access.problem

    def load(self, key: str) -> bytes | None:
        """Return the value, None where there is none or the disk cannot be read."""
        return self.load_many((key,)).get(key)

    def load_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values that are there, by key."""
        started = time.perf_counter()
        asked = list(keys)
        found: dict[str, bytes] = {}
        foreign: list[int] = []
        used: set[str] = set()
        for at in range(0, len(asked), KEYS_PER_SELECT):
            some = asked[at : at + KEYS_PER_SELECT]
            rows = self._access.read(_LOAD.format(",".join("?" * len(some))), some)
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
        if foreign:
            self._drop_foreign(foreign)
        self._observe(Operation("disk_read", time.perf_counter() - started, bytes=sum(map(len, found.values()))))
        return found

    def save(self, key: str, data: bytes) -> bool:
        """Save the value in place of the one before. Return False where it could not be saved."""
        return self.save_many(((key, data),))

    def save_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bool:
        """Save the values, in one transaction while the log is long enough. Return False where one was not saved."""
        started = time.perf_counter()
        saved, total = True, 0
        for group in self._groups(items.items() if isinstance(items, Mapping) else items):
            saved &= self._access.write(self._save_into, False, group)
            total += sum(len(data) for _, data in group)
        self._observe(Operation("disk_write", time.perf_counter() - started, bytes=total if saved else 0))
        return saved

    def save_with_files(
        self, key: str, data: bytes, files: Sequence[str], size_bytes: int, new: str = "", new_bytes: int = 0
    ) -> bool:
        """Save the value with the names of its files and their size in all. `new`, of that size, is the one of them
        that is published with it.

        Files of the value before that are not among them are removed. Return False where it could not be saved: a new
        file is then discarded.
        """
        started = time.perf_counter()
        is_saved = self._access.write(self._save_files, False, key, data, files, size_bytes, new, new_bytes)
        if new and not is_saved:
            self.files.discard(new)
        self._observe(Operation("disk_write", time.perf_counter() - started, bytes=new_bytes if is_saved else 0))
        return is_saved

    def present(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that have a value, without reading it."""
        if len(keys) > _MANY_KEYS:  # most often those of adjoining chunks: few others lie between them
            rows = self._access.read(_PRESENT.format("BETWEEN ? AND ?"), (min(keys), max(keys)))
        else:
            rows = self._access.read(_PRESENT.format(f"IN ({','.join('?' * len(keys))})"), keys) if keys else []
        return {name for (key,) in rows if (name := _decode(key)) is not None}.intersection(keys)

    def drop(self, key: str) -> None:
        """Drop the value under the key."""
        self._drop(_OF_KEY, [(key,)])

    def drop_many(self, keys: Iterable[str]) -> None:
        """Drop the values under the keys, in one transaction."""
        self._drop(_OF_KEY, [(key,) for key in keys])

    def note_failure(self, error: OSError) -> None:
        """Note that a file beside the database cannot be read now, and warn of it."""
        self._access.note_problem(error)
        self._access.give_warnings()

    def warn_of_damage(self) -> None:
        """Warn that a value was not whole, which its reader finds out."""
        self._access.warn(
            "changed",
            f"the cache in {self.folder} had entries that are cut or changed; they are dropped, and their candles are"
            " fetched again. If this happens often, check the disk",
        )
        self._access.give_warnings()

    def clear(self) -> None:
        """Drop everything and give the space back."""
        while self._drop(_SOME, [()]):
            pass  # in steps, so that other processes can write in between
        self.sweep()
        self._access.compact()

    def sweep(self) -> None:
        """Remove files that belong to no value: leftovers of processes that were killed."""
        self._access.write(self._sweep, None)

    def compact(self) -> None:
        """Give free space of the database back to the file system, and remove files that belong to no value."""
        self.sweep()
        self._access.compact()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with the prefix, in order; those saved meanwhile may be missing."""
        after: tuple[str, int] = (prefix, -1)
        foreign: list[int] = []
        before = None
        while after != before:
            before = after
            for rowid, name, ours in self._access.read(_KEYS, (*after, KEYS_PER_PAGE)):
                key = _decode(name) if ours else None
                if key is None:
                    foreign.append(rowid)
                elif key.startswith(prefix):
                    after = (key, 1)
                    yield key
                else:
                    before = after  # past the last one
                    break
        if foreign:
            self._drop_foreign(foreign)

    def beginnings(self, length: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield every key in order, with the size of its value and the first `length` bytes, which alone are read."""
        after, rows = b"", [(b"", 0, b"")]
        while rows:
            rows = self._access.read(_BEGINNINGS, (length, after.decode("utf-8", "replace"), KEYS_PER_PAGE))
            for after, size, beginning in rows:
                key = _decode(after)
                if key is not None:
                    yield key, size, beginning

    def snapshot(self) -> Snapshot:
        """Return all values as they are now, to be closed by the caller. Raises CacheError where the disk fails."""
        return self._access.snapshot()

    def stats(self) -> DiskStats:
        """Return what is on the disk now."""
        rows = self._access.read("SELECT COUNT(*) FROM Cache")
        size = size_bytes(self.folder) + sum(size for (size,) in self._access.read(_FILE_BYTES))
        return DiskStats(rows[0][0] if rows else 0, size, self._max_bytes)

    def transaction(self) -> AbstractContextManager[bool]:
        """Exclude the writes of all other threads and processes while the block reads and writes. Its writes are kept
        together, and none of them where it raises.

        Gives False where the disk cannot be written now: the block excludes the threads of this process alone, and its
        saves return False.
        """
        return self._access.transaction()

    def flush(self) -> None:
        """Write down which entries were used since the last time."""
        if self._used:
            self._access.write(self._write_used, None)

    def close(self) -> None:
        """Close every connection of every thread; later loads miss and later saves return False."""
        if self._access.is_open:
            self.flush()
        self._access.close()

    def _drop(self, which: str, rows: list[tuple[object, ...]]) -> int:
        return self._access.write(self._delete, 0, which, rows)

    def _delete(self, db: Database, which: str, rows: list[tuple[object, ...]]) -> int:
        """Delete rows, and their files once the transaction is committed. Return how many rows there were."""
        files = [name for row in rows for name in self._files_of(db, which, row)]
        count = db.write(f"DELETE FROM Cache WHERE {which}", rows)
        if files:
            self._access.after_commit(partial(self.files.remove, files))
        return count

    def _files_of(self, db: Database, which: str, row: Sequence[object] = ()) -> list[str]:
        """Return the names of the files that belong to the values of those rows."""
        tags = [_decode(tag) for (tag,) in db.select(_FILES_OF.format(which), row)]
        return [name for tag in tags if tag for name in tag.split(",")]

    def _sweep(self, db: Database) -> None:
        self.files.sweep(set(self._files_of(db, "tag IS NOT NULL")))

    def _save_files(
        self, db: Database, key: str, data: bytes, files: Sequence[str], size_bytes: int, new: str, new_bytes: int
    ) -> bool:
        if new:
            if (
                self._swept != db.identity
            ):  # leftovers of a database that was moved aside, of processes that were killed
                self._sweep(db)
                self._swept = db.identity
            if not self._make_room(db, len(data), new_bytes):
                return False
        before = set(self._files_of(db, _OF_KEY, (key,)))
        if not {new, *before}.issuperset(files):
            return False  # the value before was evicted with its files, perhaps to make room
        if new:
            self.files.publish(new)
        old = before.difference(files)
        db.save(key, data, ",".join(files), size_bytes)
        if old:
            self._access.after_commit(partial(self.files.remove, old))
        return True

    def _groups(self, items: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
        """Yield the values in lists, each for one transaction."""
        group: list[tuple[str, bytes]] = []
        waiting = 0
        for key, data in items:
            if group and waiting + len(data) > min(16 << 20, self._max_bytes // 20):
                yield group
                group, waiting = [], 0
            group.append((key, data))
            waiting += len(data)
        if group:
            yield group

    def _save_into(self, db: Database, items: list[tuple[str, bytes]]) -> bool:
        fits = True
        for key, data in items:
            if self._make_room(db, len(data)):
                db.save(key, data)
            else:
                self._delete(db, _OF_KEY, [(key,)])
                fits = False
        return fits

    def _make_room(self, db: Database, size_bytes: int, file_bytes: int = 0) -> bool:
        """Evict until a value of that size fits under the bound, with its file. Return False where it never would."""
        limit = self._max_bytes // db.page_bytes
        need = size_bytes // db.page_bytes + 4  # its pages, and those that its key may add to the indexes
        need_file = -(-file_bytes // db.page_bytes)
        if need + need_file > limit:
            return False
        if need + need_file <= self._spare_pages:
            self._spare_pages -= need + need_file
            return True
        count, free, files = self._usage(db)
        if count - free + files + need + need_file <= limit and count + files + need_file <= limit:
            # A part of the room is used without another look: other processes take their parts of it, too.
            self._spare_pages = max(0, limit - count - files) // 8
            return True
        self._write_used(db)
        for _ in range(EVICTIONS_PER_SAVE):
            if count - free + files + need + need_file <= limit:
                break
            if not self._delete(db, _OLDEST, [()]):
                return False  # nothing left to evict: the bound is too small for anything
            self._access.warn(
                "evicted",
                f"the cache in {self.folder} is full ({self._max_bytes / 1e6:,.0f} MB): the least recently used"
                " entries are removed. Raise disk_cache_size to keep more",
            )
            count, free, files = self._usage(db)
        over = count + files + need_file - limit
        if over > 0:
            db.shrink(min(over, PAGES_PER_SHRINK))
        # A file, which takes as much as many values, waits until there is room for it.
        return not file_bytes or count - free + files + need + need_file <= limit

    def _usage(self, db: Database) -> tuple[int, int, int]:
        """Return the pages of the database, those of them that are free, and the pages that the files would take."""
        ((file_bytes,),) = db.select(_FILE_BYTES)
        return *db.pages(), -(-file_bytes // db.page_bytes)

    def _note_used(self, keys: set[str]) -> None:
        fork_guard.enter()
        try:
            with self._lock:
                self._used |= keys
        finally:
            fork_guard.leave()

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
        self._access.warn("foreign", f"{self.folder}: entries that candle_fetcher did not write were dropped, unread")
        self._drop(_OF_ROW, [(rowid,) for rowid in rowids])


def _decode(name: object) -> str | None:
    try:
        return name.decode() if isinstance(name, bytes) else None
    except UnicodeDecodeError:
        return None
