"""Locks between processes that the kernel releases when their holder ends: bytes of files that are never removed.

On POSIX they are fcntl locks: they belong to a process (a fork inherits none, a killed one loses all), and closing any
descriptor of a file drops every lock of the process on it. So a process opens a lock file once for all its users, and
closes it when the last of them leaves. Threads exclude each other in memory, before the kernel is asked. On Windows
they are msvcrt locks. Where there are neither, or the file cannot be used, only memory excludes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.files import make_folder, open_plain, prepare_once

fcntl: Any = None
msvcrt: Any = None
try:
    import fcntl
except ImportError:  # Windows
    with contextlib.suppress(ImportError):
        import msvcrt

# Windows' C library locks at 32-bit offsets.
OFFSET_BITS = 62 if msvcrt is None else 30
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK))
_REPLACED_AT_MOST = 5  # tries, where another program removes the file each time

# Files by process and real path. A forked child starts without any: what its parent locked is not its own.
_files: dict[tuple[int, str], LockFile] = {}


class LockFile:
    """A file as this process has it open: one descriptor for all its users. Made by `find_lock_file`.

    Nothing is made in the cache folder where it is not ours. `turn` is held, for moments only, while anything of the
    file is used.
    """

    def __init__(self, path: str, folder: str) -> None:
        self.path = path
        self._folder = folder
        self.turn = threading.Lock()
        self.holders: dict[int, object] = {}  # by offset, of locks that outlive the turn
        self._users: set[int] = set()
        self.descriptor = -1  # where the file is closed

    def join(self, user: object) -> None:
        """Keep the file open until this user has left too."""
        self._users.add(id(user))

    def leave(self, user: object) -> None:
        """Release the locks of the user, and close the file after the last one."""
        for offset in [offset for offset, holder in self.holders.items() if holder is user]:
            self.unlock(offset)
        self._users.discard(id(user))
        if not self._users:
            self.close()

    def lock(self, offset: int, length: int = 1) -> bool:
        """Lock the bytes. Return False where another process has one of them. Raises OSError where they cannot be
        locked at all.

        A file that was removed or replaced is opened again: a lock on the old one excludes no other process any more.
        """
        for _ in range(_REPLACED_AT_MOST):
            if self.descriptor < 0:
                self._open()
            is_ours = self._lock(offset, length)
            try:
                named, opened = os.lstat(self.path), os.fstat(self.descriptor)
                if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                    return is_ours
            except FileNotFoundError:
                pass
            self.close()
        raise OSError(errno.ESTALE, f"{self.path} is replaced all the time")

    def _open(self) -> None:
        try:
            prepare_once(self._folder)
        except CacheError as error:
            raise OSError(errno.EPERM, str(error)) from error
        parent = self.path.rpartition(os.sep)[0]
        if parent != self._folder:
            make_folder(parent)
        self.descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT)

    def _lock(self, offset: int, length: int) -> bool:
        try:
            if fcntl is not None:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, offset)
            elif msvcrt is not None:
                os.lseek(self.descriptor, offset, os.SEEK_SET)
                msvcrt.locking(self.descriptor, msvcrt.LK_NBLCK, length)
            else:
                raise OSError(errno.ENOLCK, "this system has no file locks")
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def unlock(self, offset: int, length: int = 1) -> None:
        """Release the bytes that were locked together; nothing where they were not locked."""
        self.holders.pop(offset, None)
        if self.descriptor < 0:
            return
        try:
            if fcntl is not None:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, length, offset)
            elif msvcrt is not None:
                os.lseek(self.descriptor, offset, os.SEEK_SET)
                msvcrt.locking(self.descriptor, msvcrt.LK_UNLCK, length)
        except OSError:
            pass

    def close(self) -> None:
        """Close the descriptor, and with it release every lock; it is opened again when it is needed."""
        fd, self.descriptor = self.descriptor, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def find_lock_file(path: str, folder: str | None = None) -> LockFile:
    """Return the file as this process has it: the same object for every name of it, another one after a fork.

    It lies in the cache folder, or in a folder right below; then `folder` is the cache folder.
    """
    # The cache folder itself may be a link; what lies in it is not followed.
    above = os.path.dirname(path) if folder is None else folder  # noqa: PTH120 - a Path takes ten calls to make
    root = os.path.realpath(above)
    real = f"{root}{os.sep}{path[len(above) :].lstrip(os.sep)}"
    key = (os.getpid(), real)
    return _files.get(key) or _files.setdefault(key, LockFile(real, root))


class KeyLocks:
    """Locks by key among all threads and processes that use the same file. Shared by threads.

    A lock ends with `release`, with the `close` of its KeyLocks, and with its process. A forked child has none of its
    parent's. Two keys may, very rarely, exclude each other. Where the file cannot be used, a lock excludes the threads
    of this process alone.

    `folder` is the cache folder, where the file does not lie in it but in one right below.
    """

    def __init__(self, path: Path | str, folder: str | None = None) -> None:
        self._path = str(path)
        self._folder = folder
        self._files: dict[int, LockFile] = {}  # by process

    def acquire(self, key: str) -> bool:
        """Lock the key without waiting. Return False where it is locked already, even by this object."""
        offset = offset_of(key)
        file = self._file()
        with file.turn:
            if offset in file.holders:
                return False
            file.join(self)
            try:
                is_ours = file.lock(offset)
            except OSError:
                is_ours = True
            if is_ours:
                file.holders[offset] = self
            return is_ours

    def release(self, key: str) -> None:
        """Unlock the key, if this object has locked it."""
        offset = offset_of(key)
        file = self._file()
        with file.turn:
            if file.holders.get(offset) is self:
                file.unlock(offset)

    def close(self) -> None:
        """Release every lock of this object and close the file, which a later `acquire` opens again."""
        file = self._file()
        with file.turn:
            file.leave(self)

    def _file(self) -> LockFile:
        """Return this process's file: a child finds its own, because its parent's threads may have held the other."""
        pid = os.getpid()
        return self._files.get(pid) or self._files.setdefault(pid, find_lock_file(self._path, self._folder))


def offset_of(key: str) -> int:
    """Return the byte of a lock file that stands for the key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - OFFSET_BITS)
