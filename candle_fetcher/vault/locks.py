"""One writer for each series of a vault, among the threads and processes of a machine.

Each series has a byte of one file, `_vault.lock`. The kernel frees it when its holder ends, so that a killed writer
holds up none after it. Where the folder's disk has no locks, nothing is written: two writers could meet.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from candle_fetcher.concurrency import POLL_S, pause
from candle_fetcher.store.files import open_plain
from candle_fetcher.store.locks import LockFile, offset_of

LOCK_NAME = "_vault.lock"  # programs that read the folder leave out what begins with _
_files: dict[tuple[int, str], LockFile] = {}


class _VaultLockFile(LockFile):
    """The lock file of a vault: its folder is the user's own, and is left as it is."""

    def _open(self) -> None:
        self.descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT)


class Holding:
    """What the locks of every kind of vault have in common: to hold a name for a block."""

    def try_acquire(self, name: str) -> bool:
        """Lock the name without waiting. Return False where another writer has it."""
        raise NotImplementedError

    def release(self, name: str) -> None:
        """Unlock the name, if this object has locked it."""
        raise NotImplementedError

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the name for a block, once no other writer does."""
        never = threading.Event()
        while not self.try_acquire(name):
            pause(never, POLL_S)
        try:
            yield
        finally:
            self.release(name)


class SeriesLocks(Holding):
    """Locks by name in one vault's folder, shared by threads."""

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        self._path = os.path.realpath(folder / name)

    def try_acquire(self, name: str) -> bool:
        """Lock the name without waiting. Return False where another writer has it. Raises OSError where the disk has
        no locks, or the folder cannot be written to."""
        file, offset = self._file(), offset_of(name)
        with file.turn:
            if offset in file.holders:
                return False
            file.join(self)
            if not file.lock(offset):
                return False
            file.holders[offset] = self
            return True

    def release(self, name: str) -> None:
        """Unlock the name, if this object has locked it."""
        file, offset = self._file(), offset_of(name)
        with file.turn:
            if file.holders.get(offset) is self:
                file.unlock(offset)

    def close(self) -> None:
        """Release every lock of this object."""
        file = self._file()
        with file.turn:
            file.leave(self)

    def _file(self) -> LockFile:
        key = (os.getpid(), self._path)
        folder = self._path.rpartition(os.sep)[0]
        return _files.get(key) or _files.setdefault(key, _VaultLockFile(self._path, folder))
