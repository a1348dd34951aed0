"""Files beside the database, each written once: large values, which a reader takes in parts.

A file has a name that no other file ever had. It is written as `<name>.new` and renamed once its row is about to be
committed, so that a file without a row is a leftover: of a process that was killed, or of a row that was dropped.
The folder is not trusted: names come from checked rows, and nothing but a plain file is opened or removed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from candle_fetcher.store.files import look_at, make_folder, open_plain, prepare_once, within

FOLDER = "pages"
_FINISHED, _UNFINISHED = ".page", ".new"
_NAME = re.compile(r"[0-9a-f]{32}")
_ABANDONED_S = 3_600.0  # no process takes so long from the first byte of a file to its row
# Reads into several buffers by one system call, where the system has it.
_read_all: Any = getattr(os, "preadv", None)


# Nothing has the name, or something else: a link, a folder, a pipe.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EPERM, errno.EISDIR, errno.ENXIO})


class NotWhole(OSError):
    """There is no such file, or it is not what was written."""


class PageFiles:
    """The files in the folder `pages` of a cache folder. Methods raise OSError where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._parent = str(folder)
        self._folder = within(self._parent, FOLDER)

    def write(self, parts: Iterable[memoryview], *, syncs: bool) -> str:
        """Write the parts into a new file and return its name; `publish` gives it its place. `syncs` waits until the
        disk has it.

        Raises CacheError where the cache folder belongs to another program.
        """
        prepare_once(self._parent)
        make_folder(self._folder)
        name = secrets.token_hex(16)
        fd = open_plain(self._path(name, _UNFINISHED), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                for part in parts:
                    at = 0
                    while at < len(part):
                        at += file.write(part[at:])
                if syncs:
                    os.fsync(fd)
        except BaseException:
            self._unlink(name + _UNFINISHED)
            raise
        return name

    def publish(self, name: str) -> None:
        """Give a new file its place; to be called in the transaction that saves its row."""
        os.replace(self._path(name, _UNFINISHED), self._path(name, _FINISHED))  # noqa: PTH105 - as in files.py

    def discard(self, name: str) -> None:
        """Remove a new file that is not needed."""
        self._unlink(name + _UNFINISHED)

    def read(self, name: str, size_bytes: int, buffers: Sequence[Any]) -> None:
        """Fill the buffers, in order, with the beginning of the file.

        Raises NotWhole where there is no such file, or it has another size; another OSError where it cannot be read
        now.
        """
        try:
            if not _NAME.fullmatch(name) or not stat.S_ISDIR(os.lstat(self._folder).st_mode):
                raise NotWhole(f"{name!r} is not the name of a page")
            fd = open_plain(self._path(name, _FINISHED), os.O_RDONLY)
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise NotWhole(f"{name} is not there") from error
            raise
        try:
            if os.fstat(fd).st_size != size_bytes:
                raise NotWhole(f"{self._path(name, _FINISHED)} is cut")
            views = [memoryview(buffer).cast("B") for buffer in buffers]
            if _read_all is not None and _read_all(fd, views, 0) == sum(map(len, views)):
                return
            with os.fdopen(os.dup(fd), "rb") as file:
                file.seek(0)
                if any(file.readinto(view) != len(view) for view in views):
                    raise NotWhole(f"{self._path(name, _FINISHED)} is cut")
        finally:
            os.close(fd)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of rows that were dropped; one that cannot be removed now is left to `sweep`."""
        for name in names:
            if _NAME.fullmatch(name):
                self._unlink(name + _FINISHED)

    def sweep(self, known: Collection[str]) -> None:
        """Remove every file but the known ones; to be called while no other process can publish one."""
        with suppress(OSError):
            if not stat.S_ISDIR(os.lstat(self._folder).st_mode):
                return
            for entry in os.listdir(self._folder):  # noqa: PTH208 - as in files.py
                name, ending = os.path.splitext(entry)  # noqa: PTH122 - as in files.py
                if not _NAME.fullmatch(name):
                    continue
                if ending == _FINISHED and name not in known:
                    self._unlink(entry)
                elif ending == _UNFINISHED:
                    found = look_at(within(self._folder, entry))
                    if found is not None and abs(time.time() - found.st_mtime) > _ABANDONED_S:
                        self._unlink(entry)

    def _path(self, name: str, ending: str) -> str:
        return f"{self._folder}{os.sep}{name}{ending}"

    def _unlink(self, entry: str) -> None:
        path = within(self._folder, entry)
        with suppress(OSError):
            if stat.S_ISDIR(os.lstat(self._folder).st_mode) and stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)  # noqa: PTH108 - as in files.py
