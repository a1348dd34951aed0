"""A few hundred bytes that the processes on one cache folder share, each set in a small file of its own.

    with state.locked():
        state.save(changed(state.load()))

A file has two places, written by turns and each with a checksum, so that a write which was cut leaves the one before
it. Nothing is synced: what a power cut takes is minutes old by then.

Whatever is wrong with the folder, the file or its locks is no error: `locked` then excludes the threads of this process
alone, and what is saved stays in memory. When the file can be used again, `load` returns both, and the caller joins
them. A file of a newer version is left as it is. The disk tier, on the same folder, is who warns of such things.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store import files
from candle_fetcher.store.locks import Claims, LockFile, find_lock_file

FOLDER = "pacing"
VERSION = 3  # of the file, and of what is kept in it

PLACE_BYTES = 4096
# Magic and checksum; version, length and number of what follows, which are checked with it. The same in every version.
_HEAD = struct.Struct("<4sI")
_REST = struct.Struct("<HHQ")
_MAGIC = b"CNDS"
_NAME = re.compile(r"[0-9a-f]{32}")
_NUMBERS = 2**62

# The byte that is locked while the file is read and written; beyond all that is ever in it, for Windows' sake.
_BYTE = 1 << 20
# Others hold the lock for microseconds. Who holds it longer is halted, and not waited for again for a while.
PATIENCE_S = 1.0
REST_S = 5.0
REST_FAILED_S = 60.0
_PAUSES_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001)

IDLE_S = 30 * 86_400.0  # a file that nobody wrote to for so long holds nothing that still counts


class _Place(NamedTuple):
    number: int
    version: int
    data: bytes


class SharedState:
    """One set of bytes, by name, in a cache folder. Shared by threads; another process has its own of the same name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = Path(folder)
        self._name = name.encode("utf-8", "surrogatepass")
        self.path = self._folder / FOLDER / hashlib.blake2b(self._name, digest_size=16).hexdigest()
        self._files: dict[int, LockFile] = {}  # by process
        self._claims = Claims(self.path, self._folder)
        self._closed = False
        self._memory: bytes | None = None
        self._is_ahead = False  # memory holds what the file does not
        self._rests_until = 0.0
        # While locked: whether for other processes too, and then what the file holds and under which number.
        self._is_shared = False
        self._found: bytes | None = None
        self._number = 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else loads or saves meanwhile. Waits for other processes a second at most."""
        file = self._file()
        with file.turn:
            try:
                self._is_shared = self._enter(file)
                yield
            finally:
                self._is_shared = False
                file.unlock(_BYTE)  # held or not

    def load(self) -> tuple[bytes, ...]:
        """What was saved last: nothing, the bytes, or theirs and ours where they went apart. To be called locked."""
        theirs = self._found if self._is_shared else None
        ours = self._memory if self._is_ahead or theirs is None else None
        return tuple(data for data in (theirs, ours) if data is not None)

    def save(self, data: bytes) -> None:
        """Keeps the bytes in place of those before. To be called locked."""
        self._memory = data
        if self._is_shared and data == self._found and not self._is_ahead:
            return
        self._is_ahead = True
        if self._is_shared and len(data) <= PLACE_BYTES - _HEAD.size - _REST.size:
            try:
                self._write(data)
                self._is_ahead = False
            except OSError:
                self._rests_until = time.monotonic() + REST_FAILED_S

    def take(self, key: str) -> bool:
        """Takes a claim that goes with these bytes; see Claims."""
        return self._closed or self._claims.take(key)

    def free(self, key: str) -> None:
        """Frees the claim."""
        self._claims.free(key)

    def close(self) -> None:
        """Lets go of the file. What is saved later stays in memory."""
        self._closed = True
        file = self._file()
        self._claims.close()
        with file.turn:
            file.leave(self)

    def _file(self) -> LockFile:
        pid = os.getpid()
        return self._files.get(pid) or self._files.setdefault(pid, find_lock_file(self.path, self._folder))

    def _enter(self, file: LockFile) -> bool:
        """Locks the file for this process, and reads it; False where that cannot be."""
        began = time.monotonic()
        if self._closed or began < self._rests_until:
            return False
        rest_s = REST_FAILED_S
        try:
            if file.descriptor < 0:
                files.prepare(self._folder)
                _tidy(self.path.parent)
            file.join(self)
            if not _lock(file, began + PATIENCE_S):
                rest_s = REST_S
            elif self._read(file):
                return True
        except (OSError, CacheError):
            pass
        self._rests_until = time.monotonic() + rest_s
        return False

    def _read(self, file: LockFile) -> bool:
        """Reads the place that was written last; False where a newer version wrote it."""
        fd = file.descriptor
        os.lseek(fd, 0, os.SEEK_SET)
        whole = os.read(fd, 2 * PLACE_BYTES)
        places = [self._unpack(whole[:PLACE_BYTES]), self._unpack(whole[PLACE_BYTES:])]
        newest = max((place for place in places if place is not None), default=None)
        self._number, version, self._found = newest or (0, VERSION, None)
        return version <= VERSION

    def _write(self, data: bytes) -> None:
        number = self._number + 1
        rest = _REST.pack(VERSION, len(data), number) + data
        whole = _HEAD.pack(_MAGIC, self._sum(rest)) + rest
        fd = self._file().descriptor
        os.lseek(fd, number % 2 * PLACE_BYTES, os.SEEK_SET)
        if os.write(fd, whole) != len(whole):
            raise OSError(f"{self.path}: no room for {len(whole)} bytes")
        self._number, self._found = number, data

    def _unpack(self, place: bytes) -> _Place | None:
        if len(place) < _HEAD.size + _REST.size:
            return None
        magic, checksum = _HEAD.unpack_from(place)
        version, length, number = _REST.unpack_from(place, _HEAD.size)
        end = _HEAD.size + _REST.size + length
        if magic != _MAGIC or end > len(place) or number >= _NUMBERS or self._sum(place[_HEAD.size : end]) != checksum:
            return None
        return _Place(number, version, place[_HEAD.size + _REST.size : end])

    def _sum(self, data: bytes) -> int:
        """A checksum that covers the name too, so that a file under another one's name is none."""
        return zlib.crc32(data, zlib.crc32(self._name))


class Desk:
    """All that the processes on one cache folder share beside candles: a SharedState for each name."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._states: dict[str, SharedState] = {}

    def state(self, name: str) -> SharedState:
        """The state of that name, always the same object."""
        return self._states.get(name) or self._states.setdefault(name, SharedState(self._folder, name))

    def close(self) -> None:
        """Lets go of every file."""
        for state in list(self._states.values()):
            state.close()


def _lock(
    file: LockFile, until_s: float, wait: Callable[[threading.Event, float], bool] = threading.Event.wait
) -> bool:
    """Whether the lock was free before then, by the monotonic clock."""
    pauses = iter(_PAUSES_S)
    pause_s = 0.0
    while True:
        if file.lock(_BYTE):
            return True
        if time.monotonic() >= until_s:
            return False
        pause_s = next(pauses, pause_s)
        wait(threading.Event(), pause_s)


def _tidy(folder: Path) -> None:
    """Removes states that nobody has written to for a month, such as those of practice exchanges long gone.

    Whoever still has one open notices: a lock counts only while its file has the name.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > IDLE_S and _is_state(path):
                    path.unlink()


def _is_state(path: Path) -> bool:
    """Whether the file is one that a SharedState wrote: by its name, its length, and what it begins with."""
    if not _NAME.fullmatch(path.name):
        return False
    fd = files.open_plain(path, os.O_RDONLY)
    try:
        whole = os.read(fd, 2 * PLACE_BYTES + 1)
    finally:
        os.close(fd)
    return len(whole) <= 2 * PLACE_BYTES and _MAGIC in (whole[:4], whole[PLACE_BYTES : PLACE_BYTES + 4])
