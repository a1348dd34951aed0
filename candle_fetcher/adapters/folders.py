"""Files of other programs: never replaced by one that has less, and named after symbols that may have odd letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from candle_fetcher.adapters.bars import Int64s
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.gap import iso
from candle_fetcher.files.places import find_home
from candle_fetcher.files.writing import write_file

_FORBIDDEN = '/\\:*?"<>|\0'  # of the systems on which the files may lie


def find_folder(folder: object) -> Path:
    """Return the folder. Raises InputError where it is no path, or a file."""
    found = find_home(folder, "a folder")
    if found.exists() and not found.is_dir():
        raise InputError(f"path {shown(str(folder))} is a file; expected a folder")
    return found


def file_part(text: str) -> str:
    """Return the text, which becomes a part of a path. Raises InputError where it would lead elsewhere."""
    if not text or text.startswith(".") or not text.isprintable() or any(sign in text for sign in _FORBIDDEN):
        raise InputError(f"{shown(text)} cannot be the name of a file; give another symbol")
    return text


def write_whole_file(
    target: Path, content: bytes, opens_ms: Int64s, read_ends: Callable[[Path], tuple[int, int]], *, overwrite: bool
) -> Path:
    """Write the file, complete or not at all, and return its path.

    `opens_ms` are the times of its rows, and `read_ends` returns the first and the last time of a file that is there.
    Raises InputError where that has rows before or after these, unless `overwrite` is set.
    """
    if target.exists() and not overwrite:
        try:
            first_ms, last_ms = read_ends(target)
        except Exception as error:  # noqa: BLE001 - any error of the reader of that format
            raise InputError(
                f"{target} is there and cannot be read ({type(error).__name__}); remove it, or give overwrite=True"
            ) from None
        if first_ms < opens_ms[0] or last_ms > opens_ms[-1]:
            raise InputError(
                f"{target} has candles from {iso(first_ms)} to {iso(last_ms)}, of which the frame lacks some; fetch "
                "the whole range, which asks for nothing that is in the cache, or give overwrite=True"
            )
    write_file(target, [content], None)
    return target
