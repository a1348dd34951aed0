"""Floor 2: candles as a file for a spreadsheet. Written beside its place and moved there when it is whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from candle_fetcher.core.candles import INTEGERS, MISSING, OHLCV, Candles
from candle_fetcher.core.decimals import Column, Times, format_rows
from candle_fetcher.core.frame import ALL_COLUMNS
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows: there nobody can remove a file that another has open
    import fcntl

# Names that Windows keeps for devices, whatever their ending.
_DEVICES = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)$")

# A file while it is written, by the name that `replacing` gives it. Killed writers leave it behind.
_PART = re.compile(r"\..+\.\w{8}\.part")
ORPHAN_S = 3600.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # for a virus scanner that looks at the file there


def csv_name(provider: str, symbol: str, kind: str, timeframe: Timeframe, span: Span) -> str:
    """`[PROVIDER_]BASE_QUOTE[_KIND]_TIMEFRAME_START_END.csv`; `1mo` for 1M, since some disks ignore case."""
    base = re.sub(r"[^\w-]", "_", symbol)
    length = f"{timeframe.count}mo" if timeframe.unit == "M" else timeframe.name
    parts = [
        *([] if provider == "binance" else [provider]),
        f"{base}_" if _DEVICES.match(base) else base,
        *([] if kind == "candles" else [kind]),
        length,
        _stamp(span.start_ms),
        _stamp(span.end_ms),
    ]
    return "_".join(parts) + ".csv"


def _stamp(ms: int) -> str:
    """The date as 20240101, or with a time of day as 20240101T0630."""
    text = str(np.datetime64(ms, "ms"))
    date = text[:10].replace("-", "")
    return date if ms % DAY_MS == 0 else f"{date}T{text[11:16].replace(':', '')}"


def write_csv(path: Path, name: str, parts: Iterable[Candles], columns: str) -> tuple[Path, int]:
    """The file written and its number of candles. `path` is a folder, or the file where it ends in .csv.

    Every part is written as it comes. Raises OSError naming the file; then the file that was there before is untouched.
    """
    target = path if path.suffix.lower() == ".csv" else path / name
    rows = 0
    with replacing(target) as file:
        header: tuple[str, ...] | None = None
        for part in parts:
            if header is None:
                header = _header(part, columns)
                file.write(",".join(("timestamp", *header)).encode() + b"\n")
            for piece in _alike(part):
                file.write(format_rows(piece.open_ms, [_values(piece, column) for column in header]))
            rows += part.count
    return target, rows


def _header(part: Candles, columns: str) -> tuple[str, ...]:
    if columns == "ohlcv":
        return OHLCV
    return (*ALL_COLUMNS, *(name for name in part.names[1:] if name not in ALL_COLUMNS))


def _alike(part: Candles) -> Iterator[Candles]:
    """The candles in runs that lack the same integers."""
    lacks = part.block[[at for at, name in enumerate(part.names) if name in INTEGERS]] == MISSING
    cuts = np.flatnonzero((lacks[:, 1:] != lacks[:, :-1]).any(axis=0)) + 1 if lacks.any() else ()
    for first, last in itertools.pairwise((0, *cuts, part.count)):
        yield Candles(part.names, part.block[:, first:last])


def _values(part: Candles, name: str) -> Column | Times:
    if name not in part.names or (name in INTEGERS and part.count and part.integers(name)[0] == MISSING):
        return np.full(part.count, np.nan)
    if name == "close_time":
        return part.integers(name).view("M8[ms]")
    return part.integers(name) if name in INTEGERS else part.floats(name)


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
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            _lock(handle)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.utime(name)  # young while it has no lock any more
        with contextlib.suppress(OSError):
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
        _move(Path(name), target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {target} was not written", str(target)) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _move(path: Path, target: Path) -> None:
    """Moves the file there. Waits a moment where another program has the target open, which Windows minds."""
    for pause_s in _PAUSES_S:
        try:
            path.replace(target)
            return
        except PermissionError:
            threading.Event().wait(pause_s)
    path.replace(target)


def _lock(handle: int) -> bool:
    """Locks the open file until it is closed, by whatever ends its process too; False where another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _tidy(folder: Path) -> None:
    """Removes what killed writers left in the folder an hour ago or earlier.

    Whoever is still at it holds the lock, however long ago it wrote last. On a disk without locks everything stays.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for one in found:
            if _PART.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - one.stat().st_mtime > ORPHAN_S:
                        _remove_orphan(one.path)


def _remove_orphan(path: str) -> None:
    if fcntl is None:
        os.unlink(path)  # noqa: PTH108
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if _lock(handle):
            os.unlink(path)  # noqa: PTH108
    finally:
        os.close(handle)
