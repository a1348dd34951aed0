"""A cache folder as it is, read without a change to it: its entries, its permissions, files left over."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from candle_fetcher.core.errors import CacheError
from candle_fetcher.store.files import DATABASE, LOG, MARKER, check_names, exists, is_plain, look_at

_ENTRIES = (
    "SELECT key, raw = 1 AND typeof(key) = 'text' AND mode = 1 AND filename IS NULL AND typeof(value) = 'blob', value"
    " FROM Cache WHERE rowid = ?"
)
_BUSY_S = 2.0


class Content(NamedTuple):
    """How many entries there are, how many of them were read, and the keys of those that are not whole.

    `problem` says why the database cannot be read, "" where it can.
    """

    entries: int = 0
    read: int = 0
    damaged: tuple[str, ...] = ()
    problem: str = ""


class FolderAccess(NamedTuple):
    """What this process may do with a folder or, where it does not exist yet, with the nearest one above it.

    `refusal` says why no file can be made in it, "" where one can. `owner` is False where it belongs to another user.
    """

    nearest: Path
    is_there: bool
    refusal: str = ""
    owner: bool = True
    open_to_all: bool = False
    foreign: bool = False


def read_content(
    folder: Path, is_whole: Callable[[str, bytes], bool], *, most: int = 2_000, patience_s: float = 5.0
) -> Content | None:
    """Return what is in the database, None where there is none. Reads `most` entries at most, evenly spread, and stops
    after `patience_s` seconds."""
    path = folder / DATABASE
    if look_at(path) is None:
        return None
    try:
        check_names(folder)
    except CacheError as error:
        return Content(problem=str(error))
    is_still = not _waiting_bytes(path)
    content = _read(path, is_whole, most, patience_s, is_still=is_still)
    if is_still and (content.problem or content.damaged) and _waiting_bytes(path):
        # Another process began to write meanwhile, which an immutable file does not allow for.
        content = _read(path, is_whole, most, patience_s, is_still=False)
    return content


def _read(
    path: Path, is_whole: Callable[[str, bytes], bool], most: int, patience_s: float, *, is_still: bool
) -> Content:
    ends_s = time.monotonic() + patience_s
    entries = read = 0
    damaged: list[str] = []
    try:
        with contextlib.closing(_connect(path, is_still=is_still)) as con:
            con.text_factory = bytes
            rowids = [row[0] for row in con.execute("SELECT rowid FROM Cache")]
            entries = len(rowids)
            for rowid in rowids[:: -(-entries // most) or 1]:
                row = con.execute(_ENTRIES, (rowid,)).fetchone()
                if row is None:  # it left meanwhile
                    continue
                key, ours, value = row
                name = key.decode("utf-8", "replace") if isinstance(key, bytes) else repr(key)
                read += 1
                if not (ours and is_whole(name, value)):
                    damaged.append(name)
                if time.monotonic() > ends_s:
                    break
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        return Content(entries, read, tuple(damaged), str(error) or type(error).__name__)
    return Content(entries, read, tuple(damaged))


def _waiting_bytes(path: Path) -> int:
    """Return how many bytes wait in the log."""
    try:
        return path.with_name(LOG).stat().st_size
    except OSError:
        return 0


def _connect(path: Path, *, is_still: bool) -> sqlite3.Connection:
    """Open the database for reading. `is_still` reads it without log and lock, which SQLite would otherwise create."""
    still = "&immutable=1" if is_still else ""
    con = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{still}", uri=True, timeout=_BUSY_S)
    con.execute("PRAGMA trusted_schema = OFF")
    return con


def find_access(folder: Path) -> FolderAccess:
    """Return what this process may do with the folder."""
    nearest = folder.absolute()
    while not exists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    is_there = nearest == folder.absolute()
    refusal = ""
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        refusal = error.strerror or str(error)
    foreign = is_there and exists(nearest / DATABASE) and not exists(nearest / MARKER)
    if os.name != "posix" or not is_there:
        return FolderAccess(nearest, is_there, refusal, foreign=foreign)
    found = nearest.stat()
    owner = os.geteuid() in (0, found.st_uid)
    return FolderAccess(nearest, is_there, refusal, owner, bool(found.st_mode & stat.S_IWOTH), foreign)


def find_orphans(folder: Path, *, pattern: str, older_s: float, now_s: float) -> list[Path]:
    """Return the files of that pattern that were not written for `older_s` seconds, oldest first."""
    found: list[tuple[float, Path]] = []
    try:
        for path in filter(is_plain, folder.glob(pattern)):
            changed_s = os.lstat(path).st_mtime
            if now_s - changed_s > older_s:
                found.append((changed_s, path))
    except OSError:  # it is gone or cannot be read: find_access says so
        pass
    return [path for _, path in sorted(found)]
