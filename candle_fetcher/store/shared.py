"""A few hundred bytes that the processes on one cache folder share, each set in a small file of its own.

    with state.locked():
        state.save(changed(state.load()))

A file has two places, written by turns and each with a checksum, so that a write which was cut leaves the one before
it. Nothing is synced: what a power cut takes is minutes old by then.

Trouble with the folder, the file or its locks is no error: `locked` then excludes the threads of this process alone,
and what is saved stays in memory. When the file can be used again, `load` returns both, for the caller to join. A file
of a newer version is left as it is. The disk tier, on the same folder, warns of such trouble.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import threading
import time
import zlib
from contextlib import AbstractContextManager
from operator import itemgetter
from pathlib import Path

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.files import open_plain, prepare_once, within
from candle_fetcher.store.locks import KeyLocks, LockFile, find_lock_file

FOLDER = "pacing"
VERSION = 3  # of the file, and of what is kept in it

PLACE_BYTES = 4096
# Magic and checksum; version, length and number of what follows, which are checked with it. The same in every version.
_HEAD = struct.Struct("<4sI")
_REST = struct.Struct("<HHQ")
_START_BYTES = _HEAD.size + _REST.size
_MAGIC = b"CNDS"
_NAME = re.compile(r"[0-9a-f]{32}")
_NUMBERS = 2**62

# The byte that is locked while the file is read and written; beyond all that is ever in it, for Windows' sake.
_BYTE = 1 << 20
# Other processes hold the lock for microseconds. One that holds it longer is suspended, and for a while nothing waits
# for it again.
PATIENCE_S = 1.0
REST_S = 5.0
REST_FAILED_S = 60.0
_PAUSES_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001)

IDLE_S = 30 * 86_400.0  # a file that was not written for so long holds nothing that still counts


class SharedState(AbstractContextManager[None]):
    """One set of bytes, by name, in a cache folder. Shared by threads; another process has its own of the same name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = str(folder)
        self._name = name.encode("utf-8", "surrogatepass")
        self._states = within(self._folder, FOLDER)
        self._path = within(self._states, hashlib.blake2b(self._name, digest_size=16).hexdigest())
        self._files: dict[int, LockFile] = {}  # by process
        self._locks = KeyLocks(self._path, self._folder)
        self._closed = False
        self._memory: bytes | None = None
        self._is_ahead = False  # memory holds what the file does not
        self._rests_until = 0.0
        # While locked: the file, whether it excludes other processes too, and then its content and the number of it.
        self._held: LockFile | None = None
        self._is_shared = False
        self._found: bytes | None = None
        self._number = 0

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._path)

    def locked(self) -> AbstractContextManager[None]:
        """Exclude other threads and processes in a block that loads or saves. Waits for other processes for a second at
        most."""
        return self

    def __enter__(self) -> None:
        file = self._file()
        file.turn.acquire()
        self._held = file
        try:
            self._is_shared = self._lock(file)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        file, self._held, self._is_shared = self._held, None, False
        assert file is not None
        try:
            file.unlock(_BYTE)  # locked or not
        finally:
            file.turn.release()

    def load(self) -> tuple[bytes, ...]:
        """Return what was saved last: nothing, the bytes, or those of the file and of memory where they differ. To be
        called in a block of `locked`."""
        theirs = self._found if self._is_shared else None
        if self._is_ahead or theirs is None:
            return tuple(data for data in (theirs, self._memory) if data is not None)
        return (theirs,)

    def save(self, data: bytes) -> None:
        """Save the bytes in place of those before. To be called in a block of `locked`."""
        self._memory = data
        if self._is_shared and data == self._found and not self._is_ahead:
            return
        self._is_ahead = True
        if self._is_shared and len(data) <= PLACE_BYTES - _START_BYTES:
            try:
                self._write(data)
                self._is_ahead = False
            except OSError:
                self._rests_until = time.monotonic() + REST_FAILED_S

    def acquire(self, key: str) -> bool:
        """Lock a key that belongs to these bytes; see KeyLocks."""
        return self._closed or self._locks.acquire(key)

    def release(self, key: str) -> None:
        """Unlock the key."""
        self._locks.release(key)

    def close(self) -> None:
        """Close the file. What is saved later stays in memory."""
        self._closed = True
        file = self._file()
        self._locks.close()
        with file.turn:
            file.leave(self)

    def _file(self) -> LockFile:
        pid = os.getpid()
        return self._files.get(pid) or self._files.setdefault(pid, find_lock_file(self._path, self._folder))

    def _lock(self, file: LockFile) -> bool:
        """Lock the file among processes, and read it. Return False where that is impossible."""
        began = time.monotonic()
        if self._closed or began < self._rests_until:
            return False
        rest_s = REST_FAILED_S
        try:
            if file.descriptor < 0:
                prepare_once(self._folder)
                _tidy(self._states)
            file.join(self)
            if not (file.lock(_BYTE) or _wait_for_lock(file, began + PATIENCE_S)):
                rest_s = REST_S
            elif self._read(file.descriptor):
                return True
        except (OSError, CacheError):
            pass
        self._rests_until = time.monotonic() + rest_s
        return False

    def _read(self, fd: int) -> bool:
        """Read the place that was written last. Return False where a newer version wrote it."""
        os.lseek(fd, 0, os.SEEK_SET)
        whole = os.read(fd, 2 * PLACE_BYTES)
        places = self._unpack(whole[:PLACE_BYTES]), self._unpack(whole[PLACE_BYTES:])
        self._number, version, self._found = max(places, key=_NUMBER_OF)
        return version <= VERSION

    def _write(self, data: bytes) -> None:
        assert self._held is not None
        number, fd = self._number + 1, self._held.descriptor
        rest = _REST.pack(VERSION, len(data), number) + data
        whole = _HEAD.pack(_MAGIC, zlib.crc32(rest, zlib.crc32(self._name))) + rest
        os.lseek(fd, number % 2 * PLACE_BYTES, os.SEEK_SET)
        if os.write(fd, whole) != len(whole):
            raise OSError(f"{self._path}: no room for {len(whole)} bytes")
        self._number, self._found = number, data

    def _unpack(self, place: bytes) -> tuple[int, int, bytes | None]:
        """Return number, version and bytes; no bytes where the place is damaged, or was written for another name."""
        if len(place) >= _START_BYTES:
            magic, checksum = _HEAD.unpack_from(place)
            version, length, number = _REST.unpack_from(place, _HEAD.size)
            rest = place[_HEAD.size : _START_BYTES + length]
            is_whole = magic == _MAGIC and len(rest) == _REST.size + length and number < _NUMBERS
            if is_whole and zlib.crc32(rest, zlib.crc32(self._name)) == checksum:
                return number, version, rest[_REST.size :]
        return 0, VERSION, None


_NUMBER_OF = itemgetter(0)


class SharedStates:
    """All that the processes on one cache folder share beside candles: a SharedState for each name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[str, SharedState] = {}

    def state(self, name: str) -> SharedState:
        """Return the state of that name, always the same object."""
        return self._states.get(name) or self._states.setdefault(name, SharedState(self._folder, name))

    def close(self) -> None:
        """Close every file."""
        for state in list(self._states.values()):
            state.close()


def _wait_for_lock(file: LockFile, until_s: float) -> bool:
    """Wait for the lock by polling. Return False where another process still has it then, by the monotonic clock."""
    pauses = iter(_PAUSES_S)
    pause_s = 0.0
    while time.monotonic() < until_s:
        pause_s = next(pauses, pause_s)
        threading.Event().wait(pause_s)
        if file.lock(_BYTE):
            return True
    return False


def _tidy(folder: str) -> None:
    """Remove states that were not written for a month, such as those of practice exchanges that are gone.

    A process that has one open notices: a lock counts only while its file has the name.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return
        for found in os.scandir(folder):
            with contextlib.suppress(OSError):
                if time.time() - found.stat(follow_symlinks=False).st_mtime > IDLE_S and _is_state(Path(found.path)):
                    os.unlink(found.path)  # noqa: PTH108 - a Path for each takes ten calls


def _is_state(path: Path) -> bool:
    """Return whether a SharedState wrote the file, by its name, its length, and its first bytes."""
    if not _NAME.fullmatch(path.name):
        return False
    fd = open_plain(path, os.O_RDONLY)
    try:
        whole = os.read(fd, 2 * PLACE_BYTES + 1)
    finally:
        os.close(fd)
    return len(whole) <= 2 * PLACE_BYTES and _MAGIC in (whole[:4], whole[PLACE_BYTES : PLACE_BYTES + 4])
