"""Which call fetches which chunk: a future among threads, a file lock among processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from candle_fetcher.concurrency import POLL_S, Cancel, CancelEvent, SingleFlight, pause
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.series import Series
from candle_fetcher.store import files
from candle_fetcher.store.locks import KeyLocks

LOCKS = "claims"  # the name of the lock file in the cache folder
# The usual time to store an entry, and the longest wait for the lock of a process that may be suspended.
_STORING_S = 0.005
_SUSPENDED_S = 60.0


class ChunkLocks:
    """Locks by key in one cache folder; without a folder they exclude nothing. Shared by threads."""

    def __init__(self, folder: Path | None) -> None:
        self._fetches: SingleFlight[tuple[Series, int], Entry | None] = SingleFlight()
        self._turns: SingleFlight[Series, None] = SingleFlight()
        self._locks = None if folder is None else KeyLocks(files.within(str(folder), LOCKS))

    def start(self, series: Series, chunk: int) -> tuple[bool, Future[Entry | None]]:
        """Return whether the caller is to fetch the chunk, and the future of its entry, for which other calls wait.

        The caller sets the result of the future and calls `finish`, also after an error.
        """
        return self._fetches.begin((series, chunk))

    def finish(self, series: Series, chunk: int) -> None:
        """End the caller's work on the chunk, once its entry can be found in the store or cannot be fetched."""
        self.release(f"{series.key}|{chunk}")
        self._fetches.end((series, chunk))

    def turn(self, series: Series, cancel: Cancel) -> AbstractContextManager[None]:
        """Hold the series for a block, once no other thread holds it by a call of this method.

        Raises CancelledError once `cancel` is set.
        """
        return self._turns.turn(series, cancel)

    @contextmanager
    def hold(self, series: Series, chunks: Sequence[int]) -> Iterator[None]:
        """Keep the chunks from being fetched during a block, once no call fetches them any more.

        The lock of a process that stays suspended is not waited for in the end.
        """
        with ExitStack() as held:
            for chunk in chunks:
                is_mine, entry = self.start(series, chunk)
                while not is_mine:
                    wait([entry], timeout=POLL_S)
                    pause(CancelEvent(), _STORING_S)  # the entry is on its way to the store
                    is_mine, entry = self.start(series, chunk)
                held.callback(entry.set_exception, CancelledError())  # calls that wait look at what is stored
                held.callback(self.finish, series, chunk)
                self.acquire(f"{series.key}|{chunk}", CancelEvent(), _SUSPENDED_S)
            yield

    def try_acquire(self, key: str) -> bool:
        """Lock the key among all threads and processes on the cache folder, until `release` or the end of the process.
        Return False where it is locked."""
        return self._locks is None or self._locks.acquire(key)

    def acquire(self, key: str, cancel: threading.Event, timeout_s: float) -> bool:
        """Wait for the lock of the key. Return False after `timeout_s` seconds: a suspended process keeps its lock.

        Raises CancelledError once `cancel` is set.
        """
        ends_s = time.monotonic() + timeout_s
        while not self.try_acquire(key):
            if time.monotonic() >= ends_s:
                return False
            if pause(cancel, POLL_S):
                raise CancelledError
        return True

    def release(self, key: str) -> None:
        """Release the caller's lock of the key, if it has one."""
        if self._locks is not None:
            self._locks.release(key)

    def close(self) -> None:
        """Release every lock and close the lock file."""
        if self._locks is not None:
            self._locks.close()
