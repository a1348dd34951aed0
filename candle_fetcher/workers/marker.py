"""A folder that is there while a call waits for its workers, so that a worker begins no job of a call that is over.

Executors hand jobs to processes ahead, and those cannot be cancelled any more: after Ctrl-C they would all be done.
Workers on the same machine put the arrays of their results into it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

MEMORY_FOLDER = "/dev/shm"


class Marker(NamedTuple):
    """The folder, and what tells its parent from others: a worker may see another one in its place, or none."""

    path: str
    device: int
    inode: int

    def is_near(self) -> bool:
        """Return whether this process sees the same parent folder."""
        try:
            parent = Path(self.path).parent.stat()
        except OSError:
            return False
        return (parent.st_dev, parent.st_ino) == (self.device, self.inode)

    def is_gone(self) -> bool:
        """Return whether the folder was removed; False where this process cannot know."""
        return self.is_near() and not os.path.lexists(self.path)

    def remove(self) -> None:
        """Remove the folder: the call is over."""
        shutil.rmtree(self.path, ignore_errors=True)


def make_marker() -> Marker | None:
    """Make a new folder, in memory where the system has a place for that; return None where that is not possible."""
    for parent in (MEMORY_FOLDER, None):
        try:
            path = tempfile.mkdtemp(prefix="candle-call-", dir=parent)
            found = Path(path).parent.stat()
        except OSError:
            continue
        return Marker(path, found.st_dev, found.st_ino)
    return None
