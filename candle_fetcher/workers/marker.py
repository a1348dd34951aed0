"""A file that is there while a call waits for its workers, so that a worker begins no job of a call that is over.

Executors hand jobs to processes ahead, and those cannot be cancelled any more: after Ctrl-C they would all be done.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple


class Marker(NamedTuple):
    """The file, and what tells its folder from others: a worker may see another one in its place, or none."""

    path: str
    device: int
    inode: int

    def is_gone(self) -> bool:
        """Return whether the file was removed; False where this process cannot know."""
        try:
            folder = Path(self.path).parent.stat()
            return (folder.st_dev, folder.st_ino) == (self.device, self.inode) and not os.path.lexists(self.path)
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the file: the call is over."""
        with contextlib.suppress(OSError):
            Path(self.path).unlink()


def make_marker() -> Marker | None:
    """Make a new file in the folder for temporary files; return None where that is not possible."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="candle-call-")
        os.close(descriptor)
        folder = Path(path).parent.stat()
    except OSError:
        return None
    return Marker(path, folder.st_dev, folder.st_ino)
