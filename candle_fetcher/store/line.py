"""Who writes next: the writers of one database, threads and processes, in the order in which they came.

SQLite lets one write and has the others sleep and look again, ever longer, so that the last to come is often served
first, and the first only after seconds. So a writer stands in line before it turns to SQLite. The line gives order and
nothing else: what excludes is SQLite's own lock, and who waits too long, because somebody in front is halted, goes on.

Among the threads of a process the turn is handed on. Among processes, everyone in line holds a byte of a file, the
later the farther back; whose turn it is finds none held before its own. The kernel lets go of those of a process that
ends (`locks.py`). Handing over costs several writes, so a process keeps its turn for a moment while others wait in it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from pathlib import Path

from candle_fetcher.store.locks import OFFSET_BITS, LockFile, find_lock_file

KEEP_S = 0.01  # a process its turn, while more of its threads wait
PATIENCE_S = 1.0  # with the processes in front; who takes longer is halted
REST_S = 5.0  # and the line is no use for a while
_PAUSES_S = (0.0001, 0.0002)
_PAUSE_S = 0.0005
_TICK_NS = 2**20  # about a millisecond, so that the bytes that Windows has last for days


class Line:
    """The line for one database, as one user of it sees it; the others are known by the file. A child makes its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: LockFile | None = None
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()  # each is released to whose turn it is
        self._is_taken = self._is_closed = False
        self._held: list[tuple[int, int]] = []  # offset and length, of what we lock or are about to
        self._since_s = self._rests_until = 0.0

    def enter(self, patience_s: float) -> bool:
        """Waits until it is the turn of this thread among those of the process; False where that takes too long."""
        mine = threading.Lock()
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            mine.acquire()
            self._waiting.append(mine)
        try:
            return mine.acquire(timeout=patience_s) or not self._give_up(mine)
        except BaseException:
            if not self._give_up(mine):
                self.leave()
            raise

    def wait_for_processes(self) -> None:
        """Waits until it is the turn of this process, or until that takes too long. To be called by whose turn it is
        among its threads."""
        if self._held or time.monotonic() < self._rests_until:
            return
        try:
            if self._stand_in():
                return
            ends_s = time.monotonic() + PATIENCE_S
            pauses = iter(_PAUSES_S)
            while not self._is_first():
                if time.monotonic() > ends_s:
                    self._rests_until = time.monotonic() + REST_S
                    break
                threading.Event().wait(next(pauses, _PAUSE_S))
        except OSError:  # no locks here, and no line
            pass
        finally:
            self._since_s = time.monotonic()

    def leave(self) -> None:
        """Gives the turn to the next one."""
        with self._lock:
            try:
                if self._held and (not self._waiting or time.monotonic() - self._since_s > KEEP_S):
                    self._step_out()
            finally:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._is_taken = False

    def close(self) -> None:
        """Lets go of the file for good."""
        self._is_closed = True
        if self._file is not None:
            with self._file.turn:
                self._file.leave(self)

    def _give_up(self, mine: threading.Lock) -> bool:
        """Leaves the line of threads; False where the turn came at this very moment."""
        with self._lock:
            if mine not in self._waiting:
                return False
            self._waiting.remove(mine)
            return True

    def _stand_in(self) -> bool:
        """Whether nobody stands before us."""
        byte = 1 + time.monotonic_ns() // _TICK_NS % 2 ** (OFFSET_BITS - 1)
        self._held = [(0, byte + 1)]
        if self._take(self._held[0]):
            return True
        while True:
            self._held = [(byte, 1), (0, byte)]
            if self._take(self._held[0]):
                return False
            byte += 1  # another one came in the same tick

    def _is_first(self) -> bool:
        return self._take(self._held[1])

    def _take(self, part: tuple[int, int]) -> bool:
        """Locks that, unless another process has a byte of it. Raises OSError where nothing can be locked."""
        self._file = file = self._file or find_lock_file(self._path)
        with file.turn:
            if self._is_closed:
                raise OSError(errno.EBADF, "closed")
            file.join(self)
            return file.lock(*part)

    def _step_out(self) -> None:
        held, self._held = self._held, []
        if self._file is not None:
            with self._file.turn:
                for part in held:
                    self._file.unlock(*part)
