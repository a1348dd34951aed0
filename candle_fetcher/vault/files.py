"""What a format offers for one series, and the one way in which small documents are replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import pandas as pd

from candle_fetcher.core.spans import Span
from candle_fetcher.vault.state import Facts, SeriesState

PART = ".part"  # the ending of a document while it is written


class Files(Protocol):
    """One series in one format. The caller holds the lock of the series while it writes."""

    def path(self, state: SeriesState) -> Path | str:
        """Return where the series is read by other programs: a path, or a URL."""

    def load(self) -> SeriesState | None:
        """Return the state of the series, None where nothing of it is there.

        Raises BadFile where the state is damaged, or what it speaks of is not there as it says.
        """

    def write(
        self,
        before: SeriesState | None,
        facts: Callable[[], Facts],
        from_ms: int | None,
        frames: Iterable[pd.DataFrame],
    ) -> SeriesState:
        """Replace the rows from that time on (None: after the last one) by those of the frames, and return the state.

        `facts` is called after the last frame has come; the columns of the rows are added to what it returns.
        If it is interrupted, at any byte, the series is as before or as after. Raises OSError with the name of the file
        where it cannot be written.
        """

    def repair(self, state: SeriesState) -> SeriesState:
        """Make a file again that was removed, and return the state."""

    def note(self, state: SeriesState) -> None:
        """Replace the state alone."""

    def read(self, state: SeriesState, span: Span | None = None) -> pd.DataFrame:
        """Return the rows that open in the span, or all: the columns by their headers, `timestamp` as index."""

    def holds(self, state: SeriesState, rows: pd.DataFrame, span: Span) -> bool:
        """Return whether the rows are exactly what is stored of that time, where that is known without reading them;
        else False."""

    def normalize(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows as `read` would return them once they are written."""

    def verify(self, state: SeriesState) -> list[str]:
        """Return what is wrong with the files, in sentences."""

    def remove(self) -> None:
        """Remove the files of the series."""

    def size_bytes(self, state: SeriesState) -> int:
        """Return the bytes of the files of the series."""


def replace_document(path: Path, data: bytes) -> None:
    """Replace a small file by one rename. Raises OSError, naming the file; then the old one is untouched."""
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise naming_target(error, path) from error


def naming_target(error: OSError, path: Path | str) -> OSError:
    """Return the error with the name of the file that was not written."""
    return OSError(
        error.errno, f"{error.strerror or error}; {path} was not written, and the series is as before", str(path)
    )


def sync_folder(folder: Path) -> None:
    """Make the renames in the folder last beyond a power cut, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
