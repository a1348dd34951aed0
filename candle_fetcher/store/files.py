"""The folder of a disk tier: whose it is, what its files are called, and where a damaged database goes."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from candle_fetcher.core.errors import CacheError

DATABASE = "cache.db"
LOG = "cache.db-wal"
SHARED_MEMORY = "cache.db-shm"
MARKER = "candle_fetcher.cache"


def prepare(folder: Path) -> str:
    """Make the folder where it is missing and mark it as ours; what to warn of, "" for nothing.

    Raises CacheError where it is somebody else's, OSError where it cannot be made.
    """
    marker = folder / MARKER
    if (folder / DATABASE).exists() and not marker.exists():  # in this order: the marker is written first
        raise CacheError(f"{folder / DATABASE} was not written by candle_fetcher. Choose another cache_dir")
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    warning = ""
    if os.name == "posix":
        found = folder.stat()
        if os.geteuid() not in (0, found.st_uid):
            raise CacheError(f"{folder} belongs to another user. Choose another cache_dir")
        if made or not any(folder.iterdir()):
            folder.chmod(0o700)
        elif found.st_mode & stat.S_IWOTH:
            warning = f"{folder} can be written by every user of this machine: chmod 700 it"
    if not marker.exists():
        marker.touch(mode=0o600)
    return warning


def move_aside(folder: Path) -> str:
    """Keep the damaged database under the name that is returned; of those before it none."""
    for old in folder.glob(f"{DATABASE}.bad-*"):
        old.unlink(missing_ok=True)
    bad = f"{DATABASE}.bad-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    with contextlib.suppress(FileNotFoundError):
        (folder / DATABASE).replace(folder / bad)
    with contextlib.suppress(FileNotFoundError):
        (folder / LOG).replace(folder / f"{bad}-wal")
    (folder / SHARED_MEMORY).unlink(missing_ok=True)
    return bad


def identify(folder: Path) -> tuple[int, int] | None:
    """What tells one database file from another of the same name; None where there is none."""
    try:
        found = (folder / DATABASE).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def size_bytes(folder: Path) -> int:
    """Bytes of the database and its log."""
    total = 0
    for name in (DATABASE, LOG):
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    return total
