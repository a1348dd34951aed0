"""Locks between processes that the kernel drops when their holder dies: bytes of files that are never removed.

On POSIX they are fcntl locks: they belong to a process (a fork inherits none, a killed one loses all), and closing any
descriptor of a file drops every lock that the process has on it. So a process opens a lock file once, whoever asks, and
closes it when nobody uses it any more. What threads may do to each other is settled in memory, before the kernel is
asked. On Windows they are msvcrt locks. Where there are neither, or the disk is in the way, only memory excludes.
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
from candle_fetcher.store import files

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

# Of a file that somebody else removes at the wrong moment, as often as that.
_REPLACED_AT_MOST = 5

# Files by process and real path. A forked child starts without any: what its parent locked is not its own.
_files: dict[tuple[int, str], LockFile] = {}


class LockFile:
    """A file as this process has it open: one descriptor, shared by all who use it. Made by `find_lock_file`.

    Nothing is made in `folder`, that of the cache, where it is not ours. `turn` is held while anything of the file is
    touched; it is held for moments only.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self.folder = folder
        self.turn = threading.Lock()
        self.holders: dict[int, object] = {}  # by offset, for whoever keeps a lock beyond the turn
        self._users: set[int] = set()
        self._fd: int | None = None

    def join(self, user: object) -> None:
        """The file stays open until this user has left too."""
        self._users.add(id(user))

    def leave(self, user: object) -> None:
        """Gives up what the user holds; the last one closes the file."""
        for offset in [offset for offset, holder in self.holders.items() if holder is user]:
            self.unlock(offset)
        self._users.discard(id(user))
        if not self._users:
            self.close()

    @property
    def descriptor(self) -> int:
        """The descriptor, -1 where the file is closed."""
        return -1 if self._fd is None else self._fd

    def lock(self, offset: int, length: int = 1) -> bool:
        """Locks the bytes; False where another process has one. Raises OSError where they cannot be locked at all.

        A file that was removed or replaced is opened anew: a lock on the old one excludes nobody any more.
        """
        for _ in range(_REPLACED_AT_MOST):
            taken = self._lock(offset, length)
            if self._is_current():
                return taken
            self.close()
        raise OSError(errno.ESTALE, f"{self.path} is replaced all the time")

    def _lock(self, offset: int, length: int) -> bool:
        if self._fd is None:
            try:
                files.prepare(self.folder)
            except CacheError as error:
                raise OSError(errno.EPERM, str(error)) from error
            if self.path.parent != self.folder:
                files.make_folder(self.path.parent)
            self._fd = files.open_plain(self.path, os.O_RDWR | os.O_CREAT)
        try:
            if fcntl is not None:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, offset)
            elif msvcrt is not None:
                os.lseek(self._fd, offset, os.SEEK_SET)
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, length)
            else:
                raise OSError(errno.ENOLCK, "this system has no file locks")
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def _is_current(self) -> bool:
        """Whether the open file is the one that has the name."""
        if self._fd is None:
            return False
        try:
            named, opened = os.lstat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def unlock(self, offset: int, length: int = 1) -> None:
        """Lets go of the bytes that were locked together; nothing where they were not locked."""
        self.holders.pop(offset, None)
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, length, offset)
            elif msvcrt is not None:
                os.lseek(self._fd, offset, os.SEEK_SET)
                msvcrt.locking(self._fd, msvcrt.LK_UNLCK, length)

    def close(self) -> None:
        """Closes the descriptor, and with it every lock; it is opened again when it is needed."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def find_lock_file(path: Path, folder: Path | None = None) -> LockFile:
    """The file as this process has it: the same object for every name of it, another one after a fork.

    It lies in the cache's folder, or in one right below; then `folder` is the cache's.
    """
    # The cache's folder may be a link; what lies in it is not followed.
    root = os.path.realpath(path.parent if folder is None else folder)
    real = os.path.join(root, path.name if folder is None else path.relative_to(folder))  # noqa: PTH118
    key = (os.getpid(), real)
    return _files.get(key) or _files.setdefault(key, LockFile(Path(real), Path(root)))


class Claims:
    """Who is at work on what, among all threads and processes that name the same file.

    A claim is free again when it is freed, when its Claims is closed, and when its process ends, however it ends. A
    forked child has none of its parent's. Two keys may, very rarely, exclude each other. Whatever is wrong with the
    file, a claim is taken all the same, and excludes within this process only. Shared by threads.

    `folder` is that of the cache, where the file does not lie in it but in one right below.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self._path = Path(path)
        self._folder = folder
        self._files: dict[int, LockFile] = {}  # by process

    def take(self, key: str) -> bool:
        """Takes the claim and returns at once; False where it is taken, be it by this very object."""
        offset = _offset(key)
        file = self._file()
        with file.turn:
            if offset in file.holders:
                return False
            file.join(self)
            try:
                taken = file.lock(offset)
            except OSError:
                taken = True
            if taken:
                file.holders[offset] = self
            return taken

    def free(self, key: str) -> None:
        """Frees the claim; nothing where this object does not have it."""
        offset = _offset(key)
        file = self._file()
        with file.turn:
            if file.holders.get(offset) is self:
                file.unlock(offset)

    def close(self) -> None:
        """Frees every claim of this object and lets go of the file. A later `take` opens it again."""
        file = self._file()
        with file.turn:
            file.leave(self)

    def _file(self) -> LockFile:
        """This process's; a child finds its own, for what its parent's threads held at the fork is held for ever."""
        pid = os.getpid()
        return self._files.get(pid) or self._files.setdefault(pid, find_lock_file(self._path, self._folder))


def _offset(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - OFFSET_BITS)
