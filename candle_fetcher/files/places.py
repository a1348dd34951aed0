"""Where files of candles lie: paths as users write them, and the manifest beside a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.errors import InputError, shown, unknown

# The endings of files that are written, with their formats.
ENDINGS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
    ".jsonl": "jsonl",
}
_CSV = ".csv"
# An ending such as .parquet means a file; an ending of digits, as in `v1.2`, may be part of the name of a folder.
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
        raise InputError(
            f"path {shown(path)} begins with the home folder of a user that is not known here; expected {expected}"
        ) from error


def refuse_device(path: Path, called: str) -> None:
    """Raise InputError where a pipe or a device is there: files are read more than once, and replaced as a whole."""
    with contextlib.suppress(OSError):  # the call that opens it raises that again
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{called} is a pipe or a device; expected a file")


class Place(NamedTuple):
    """Where a file is to be written: the path of the file itself, or of the folder in which it gets a name."""

    path: Path
    ending: str
    is_file: bool

    @property
    def format(self) -> str:
        """The format of the file."""
        return ENDINGS[self.ending]

    def file(self, stem: str) -> Path:
        """Return the file, which has that name where the place is a folder."""
        return self.path if self.is_file else self.path / f"{stem}{self.ending}"


def ending_of(name: str) -> str:
    """Return the ending by which a file's name says its format, in small letters; empty where it has none of ours."""
    lowered = name.lower()
    return max((one for one in ENDINGS if lowered.endswith(one)), key=len, default="")


def find_place(path: object, file_format: object = None) -> Place:
    """Return where a file is to be written, by the path and the format that were given; the default format is csv.

    A path is the file itself where it has an ending of ENDINGS, else a folder. Raises InputError for a format that is
    not known or that the ending contradicts, for a folder or device in the place of the file, and for another ending,
    unless such a folder is there or the path ends with a slash.
    """
    formats = dict.fromkeys(ENDINGS.values())
    if file_format is not None and (not isinstance(file_format, str) or file_format not in formats):
        if f".{file_format}" in ENDINGS:
            meant = ENDINGS[f".{file_format}"]
            raise InputError(
                f"format {shown(file_format)} is an ending; expected {meant!r}, or a path that ends in .{file_format}"
            )
        raise unknown("format", file_format, formats)
    found = find_home(path, f"a folder, or a name that ends in {', '.join(ENDINGS)}")
    is_folder = str(path).endswith(("/", os.sep)) or found.is_dir()
    ending = "" if str(path).endswith(("/", os.sep)) else ending_of(found.name)
    if ending and found.name.lower() != ending:
        if file_format not in (None, ENDINGS[ending]):
            raise InputError(
                f"path {shown(str(path))} ends in {ending}, and format is {file_format!r}; expected one of them alone, "
                "or two that agree"
            )
        if is_folder:
            raise InputError(f"path {shown(str(path))} is a folder; expected a file, or the folder with / at its end")
        refuse_device(found, f"path {shown(str(path))}")
        return Place(found, ending, is_file=True)
    if _ENDING.fullmatch(found.suffix) and not is_folder:
        raise InputError(
            f"path {shown(str(path))} ends in {found.suffix}, which is not written; expected {', '.join(ENDINGS)}, or "
            "a folder (end its path with / where its name has a dot)"
        )
    wanted = file_format or "csv"
    return Place(found, next(one for one, name in ENDINGS.items() if name == wanted), is_file=False)


def manifest_path(target: Path) -> Path:
    """Return where the manifest of that file lies, beside what a symbolic link points to: `x.json` beside `x.csv`.

    The name of another format stays whole, as in `x.jsonl.json`, so that two files never share a manifest.
    """
    real = Path(os.path.realpath(target))
    return real.with_suffix(".json") if real.suffix.lower() == _CSV else real.with_name(f"{real.name}.json")


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest beside the file; None where there is no such file, or it is JSON but no manifest.

    Raises InputError where the file cannot be read.
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
