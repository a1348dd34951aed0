"""Where files of candles lie: paths as users write them, and the manifest beside a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from candle_fetcher.core.errors import InputError, shown

_CSV = ".csv"
# An ending such as .parquet, which no folder is meant to have; one of digits, as in `v1.2`, is part of a name.
_ENDING = re.compile(r"\.[A-Za-z]\w{0,7}")
_MOST_MANIFEST_BYTES = 1 << 24
# What a file must say to be a manifest of ours.
_IDENTITY = ("provider", "origin", "symbol", "timeframe", "kind", "start", "end")


def find_home(path: object, expected: str) -> Path:
    """Return the path, with the home folder for a leading `~`. Raises InputError where it is not a path."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"path {shown(path)} is not understood; expected {expected}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"path {shown(path)} begins with ~, but {error}; expected {expected}") from None


def find_target(path: object, name: str) -> Path:
    """Return the file to write: the path where it ends in .csv, else `name` in the folder that it is.

    Raises InputError for another ending, unless such a folder is there or the path ends with a slash.
    """
    found = find_home(path, "a folder, or a name that ends in .csv")
    if found.suffix.lower() == _CSV:
        return found
    if _ENDING.fullmatch(found.suffix) and not str(path).endswith(("/", os.sep)) and not found.is_dir():
        raise InputError(
            f"path {shown(str(path))} ends in {found.suffix}, but only CSV is written; expected a name that ends in "
            ".csv, or a folder (end its path with / where its name has a dot)"
        )
    return found / name


def manifest_path(target: Path) -> Path:
    """Return where the manifest of that file lies: beside what a symbolic link points to."""
    return Path(os.path.realpath(target)).with_suffix(".json")


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest beside the file; None where there is none, or what is there is not one of ours.

    Raises InputError where it cannot be read.
    """
    path = manifest_path(target)
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_MANIFEST_BYTES))
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name} beside it cannot be read ({type(error).__name__}); move that file away"
        ) from None
    return found if isinstance(found, dict) and all(name in found for name in _IDENTITY) else None


def check_manifest_place(target: Path) -> None:
    """Raise InputError where the manifest of the file would replace another file."""
    path = manifest_path(target)
    if path.exists() and read_manifest(target) is None:
        raise InputError(
            f"the manifest would replace {path}, which is not a manifest; expected another path for the export"
        )
