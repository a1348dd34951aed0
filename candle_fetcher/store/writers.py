"""The order of the writers of one database, threads and processes: first come, first served.

SQLite lets one write and has the others sleep and look again, ever longer, so that the last to come is often served
first, and the first only after seconds. So a writer queues before it turns to SQLite. The queue gives order and nothing
else: SQLite's own lock excludes, and a writer that waits too long, behind a suspended process, goes on.

Among the threads of a process the turn is handed on. Among processes, each one in the queue locks a byte of a file, the
later the farther back; the process that finds no byte locked before its own has the turn. The kernel releases the bytes
of a process that ends (`locks.py`). Handing over costs several writes, so a process keeps its turn for a moment while
more of its threads wait.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from pathlib import Path

from candle_fetcher.store.locks import OFFSET_BITS, LockFile, find_lock_file

KEEP_S = 0.01  # for which a process keeps its turn, while more of its threads wait
PATIENCE_S = 1.0  # with the processes in front; one that takes longer is suspended
REST_S = 5.0  # and for so long the queue is not used
_PAUSES_S = (0.0001, 0.0002)
_PAUSE_S = 0.0005
_TICK_NS = 2**20  # about a millisecond, so that the bytes that Windows has last for days


class WriterQueue:
    """The queue of one database, as one user of it sees it; the file shows the others. A forked child makes its own."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._file: LockFile | None = None
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()  # each is released to hand its thread the turn
        self._is_taken = self._is_closed = False
        self._held: list[tuple[int, int]] = []  # offset and length of the bytes that are locked, or soon will be
        self._since_s = self._rests_until = 0.0

    def enter(self, patience_s: float) -> bool:
        """Wait for the turn of this thread among those of the process. Return False where that takes too long."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            return mine.acquire(timeout=patience_s) or not self._give_up(mine)
        except BaseException:
            if not self._give_up(mine):
                self.leave()
            raise

    def wait_for_processes(self) -> None:
        """Wait for the turn of this process, or until that takes too long. The calling thread has the turn."""
        if self._held or time.monotonic() < self._rests_until:
            return
        try:
            # The byte of this process; all before it are those of the processes in front.
            byte = 1 + time.monotonic_ns() // _TICK_NS % 2 ** (OFFSET_BITS - 1)
            self._held = [(0, byte + 1)]
            if self._try_lock(self._held[0]):
                return  # no other process is in the queue
            while True:
                self._held = [(byte, 1), (0, byte)]
                if self._try_lock(self._held[0]):
                    break
                byte += 1  # another process came in the same tick
            ends_s = time.monotonic() + PATIENCE_S
            pauses = iter(_PAUSES_S)
            while not self._try_lock(self._held[1]):
                if time.monotonic() > ends_s:
                    self._rests_until = time.monotonic() + REST_S
                    break
                threading.Event().wait(next(pauses, _PAUSE_S))
        except OSError:  # no locks here, and no queue
            pass
        finally:
            self._since_s = time.monotonic()

    def leave(self) -> None:
        """Hand the turn on."""
        with self._lock:
            try:
                if self._held and (not self._waiting or time.monotonic() - self._since_s > KEEP_S):
                    self._unlock()
            finally:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._is_taken = False

    def close(self) -> None:
        """Leave the file for good."""
        self._is_closed = True
        if self._file is not None:
            with self._file.turn:
                self._file.leave(self)

    def _give_up(self, mine: threading.Lock) -> bool:
        """Leave the queue of threads. Return False where the turn came at this very moment."""
        with self._lock:
            if mine not in self._waiting:
                return False
            self._waiting.remove(mine)
            return True

    def _try_lock(self, part: tuple[int, int]) -> bool:
        """Lock these bytes, unless another process has one of them. Raises OSError where nothing can be locked."""
        self._file = file = self._file or find_lock_file(self._path)
        with file.turn:
            if self._is_closed:
                raise OSError(errno.EBADF, "closed")
            file.join(self)
            return file.lock(*part)

    def _unlock(self) -> None:
        held, self._held = self._held, []
        if self._file is not None:
            with self._file.turn:
                for part in held:
                    self._file.unlock(*part)
