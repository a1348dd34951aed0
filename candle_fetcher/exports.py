"""Floor 2: candles as a file for a spreadsheet. Written beside its place and moved there when it is whole.

Where the name of a file says less than its series is, `NAME.json` with the manifest lies beside it. It is written
first: a crash between the two leaves a file that is refused, and never one that is taken for another series'.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from candle_fetcher.core.decimals import Column, Flags, Times, format_rows
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import index_ms

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows: there nobody can remove a file that another has open
    import fcntl

_CSV = ".csv"
_BLOCK_ROWS = 100_000
# An ending such as .parquet, which no folder is meant to have; one of digits, as in `v1.2`, is part of a name.
_ENDING = re.compile(r"\.[A-Za-z]\w{0,7}")
_MOST_MANIFEST_BYTES = 1 << 24
# What a file must say to be a manifest of ours.
_IDENTITY = ("provider", "origin", "symbol", "timeframe", "kind", "start", "end")

# A file while it is written, by the name that `replacing` gives it. Killed writers leave it behind.
_PART = re.compile(r"\..+\.(?:csv|json)\.\w{8}\.part", re.IGNORECASE)
ORPHAN_S = 3600.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # for a virus scanner that looks at the file there


def find_home(path: object, expected: str) -> Path:
    """Return the path, in which a leading `~` is the home folder. Raises InputError where it is none."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"path {shown(path)} is not understood; expected {expected}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"path {shown(path)} begins with ~, and {error}; expected {expected}") from None


def find_target(path: object, name: str) -> Path:
    """Return the file to write: the path where it ends in .csv, else `name` in the folder that it is.

    Raises InputError for another ending, unless such a folder is there or the path ends with a slash.
    """
    found = find_home(path, "a folder, or a name that ends in .csv")
    if found.suffix.lower() == _CSV:
        return found
    if _ENDING.fullmatch(found.suffix) and not str(path).endswith(("/", os.sep)) and not found.is_dir():
        raise InputError(
            f"path {shown(str(path))} ends in {found.suffix}, and only CSV is written; expected a name that ends in "
            ".csv, or a folder: end it with / where its name has a dot"
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
        raise InputError(f"{path.name} beside it cannot be read ({type(error).__name__}); move it away") from None
    return found if isinstance(found, dict) and all(name in found for name in _IDENTITY) else None


def check_manifest_place(target: Path) -> None:
    """Raises InputError where the manifest of the file would replace what is not one."""
    path = manifest_path(target)
    if path.exists() and read_manifest(target) is None:
        raise InputError(f"{path} is there and is not a manifest; expected another path, so that it is not replaced")


def write_file(target: Path, pieces: Iterable[bytes], manifest: Callable[[], Mapping[str, Any]] | None) -> None:
    """Write the pieces as they come, and then what `manifest` returns beside them; without it, an older one goes.

    Raises OSError naming the file; then the file that was there before is untouched.
    """
    with replacing(target) as file:
        for piece in pieces:
            file.write(piece)
        if manifest is not None:
            with replacing(manifest_path(target)) as beside:
                beside.write(json.dumps(dict(manifest()), indent=2, ensure_ascii=False, allow_nan=False).encode())
                beside.write(b"\n")
    if manifest is None:
        with contextlib.suppress(OSError, InputError):
            if read_manifest(target) is not None:
                manifest_path(target).unlink()


def csv_pieces(frames: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    """Yield the file of frames that have the same columns, as bytes: its header, then their rows."""
    for place, frame in enumerate(frames):
        if not place:
            yield ",".join(("timestamp", *frame.columns)).encode() + b"\n"
        open_ms = index_ms(frame)
        columns = [_values(frame[name]) for name in frame.columns]
        borders = {*range(0, len(open_ms), _BLOCK_ROWS), len(open_ms)}
        for times in (column for column in columns if column.dtype.kind == "M"):
            # Invented rows have no close time: a piece has them throughout or not at all.
            borders.update((np.flatnonzero(np.diff(np.isnat(times))) + 1).tolist())
        for start, stop in itertools.pairwise(sorted(borders)):
            yield format_rows(open_ms[start:stop], [_without_nat(column[start:stop]) for column in columns])


def _values(values: pd.Series[Any]) -> Column | Times | Flags:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        times: Times = values.dt.tz_localize(None).to_numpy().astype("M8[ms]")
        return times
    if values.dtype == np.bool_:
        return values.to_numpy(dtype=np.bool_)
    if values.dtype == np.float64:
        return values.to_numpy(dtype=np.float64)
    if values.isna().any():
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return values.to_numpy(dtype=np.int64)


def _without_nat(column: Column | Times | Flags) -> Column | Times | Flags:
    return np.full(len(column), np.nan) if column.dtype.kind == "M" and np.isnat(column).all() else column


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the target's place when the block ends well and leaves no trace when it does not.

    A target that is a symbolic link stays one: what it points to is replaced.
    """
    name = None
    try:
        target = Path(os.path.realpath(target)) if target.is_symlink() else target
        with contextlib.suppress(FileExistsError):  # a file in the folder's place: the next line says so more clearly
            target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target.parent)
        handle, name = _begin(target)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):
                mask = os.umask(0)
                os.umask(mask)
                Path(name).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
            if fcntl is not None:  # while it is locked, so that no other export takes it for an orphan
                _move(Path(name), target)
        if fcntl is None:
            _move(Path(name), target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {target} was not written", str(target)) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _begin(target: Path) -> tuple[int, str]:
    """Make the file that is to take the target's place, and lock it. Returns its descriptor and its name."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        # Before it was locked, another export may have taken it for an orphan.
        if _lock(handle) is not False and (fcntl is None or os.fstat(handle).st_nlink):
            return handle, name
        os.close(handle)


def _move(path: Path, target: Path) -> None:
    """Moves the file there. Waits a moment where another program has the target open, which Windows minds."""
    for pause_s in _PAUSES_S:
        try:
            path.replace(target)
            return
        except PermissionError:
            threading.Event().wait(pause_s)
    path.replace(target)


def _lock(handle: int) -> bool | None:
    """Lock the open file until it is closed, by whatever ends its process too; False where another process has it, None
    where the disk knows no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _tidy(folder: Path) -> None:
    """Remove what killed exports left in the folder.

    A process that is still writing holds the lock, however long ago it wrote last. Where there are no locks, a file
    goes after an hour on Windows, which removes none that is open, and stays elsewhere.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for one in found:
            if _PART.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_orphan(one)


def _remove_orphan(found: os.DirEntry[str]) -> None:
    if fcntl is None:
        if time.time() - found.stat().st_mtime > ORPHAN_S:
            os.unlink(found.path)  # noqa: PTH108
        return
    handle = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if _lock(handle):
            os.unlink(found.path)  # noqa: PTH108
    finally:
        os.close(handle)
