"""All values of a disk tier as they are at one moment, however much other threads and processes write meanwhile.

It is one read transaction of SQLite, which no writer waits for. The log of the database grows as long as it is open.
No connection lives through a fork (`forks.py`), so a fork ends it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.forks import fork_guard

if TYPE_CHECKING:
    import sqlite3

_AT_ONCE = 500
# Of values that lie in their rows as they are; see `database.py`.
_OURS = "raw = 1 AND typeof(key) = 'text' AND mode = 1 AND filename IS NULL AND typeof(value) = 'blob'"
_BEGINNINGS = (
    f"SELECT key, length(value) + size, substr(value, 1, ?) FROM Cache WHERE {_OURS} AND key > CAST(? AS TEXT)"
    " ORDER BY key LIMIT ?"
)
_VALUES = "SELECT key, value FROM Cache WHERE {} AND key IN ({})"


class SnapshotLost(CacheError):
    """The process was forked, and the snapshot is gone."""

    fix = "Try again when no process is started meanwhile"


class Snapshot(contextlib.AbstractContextManager["Snapshot"]):
    """The values of one moment. For one thread. Raises SnapshotLost after a fork, CacheError where the disk fails."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con: sqlite3.Connection | None = con
        fork_guard.suspendable.add(self)

    def beginnings(self, length: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield every key in order, with the size of its value and files, and the first `length` bytes of the value."""
        after = b""
        while rows := self._select(_BEGINNINGS, (length, after, _AT_ONCE)):
            for after, size, beginning in rows:
                yield after.decode("utf-8", "replace"), size, beginning

    def load_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys, 32 at most."""
        rows = self._select(_VALUES.format(_OURS, ",".join("?" * len(keys))), keys)
        return {key.decode("utf-8", "replace"): value for key, value in rows}

    def suspend(self) -> None:
        """End the snapshot before a fork."""
        con, self._con = self._con, None
        if con is not None:
            con.close()

    def close(self) -> None:
        """End the snapshot."""
        fork_guard.enter()
        try:
            self.suspend()
        finally:
            fork_guard.leave()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        from candle_fetcher.store.database import FAILURES  # when used: it imports sqlite3

        fork_guard.enter()
        try:
            if self._con is None:
                raise SnapshotLost("the process was forked while the cache was read")
            return self._con.execute(sql, values).fetchall()
        except CacheError:
            raise
        except FAILURES as error:
            raise CacheError(f"the cache cannot be read ({error}); run candle-fetcher cache verify") from error
        finally:
            fork_guard.leave()
