"""Floor 2: candles as a file for a spreadsheet. Written beside its place and moved there when it is whole."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from candle_fetcher.core.candles import INTEGERS, OHLCV, Candles
from candle_fetcher.core.decimals import Column, Times, format_rows
from candle_fetcher.core.frame import ALL_COLUMNS
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# Names that Windows keeps for devices, whatever their ending.
_DEVICES = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)$")


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
            file.write(format_rows(part.open_ms, [_values(part, column) for column in header]))
            rows += part.count
    return target, rows


def _header(part: Candles, columns: str) -> tuple[str, ...]:
    if columns == "ohlcv":
        return OHLCV
    return (*ALL_COLUMNS, *(name for name in part.names[1:] if name not in ALL_COLUMNS))


def _values(part: Candles, name: str) -> Column | Times:
    if name not in part.names:
        return np.full(part.count, np.nan)
    if name == "close_time":
        return part.integers(name).view("M8[ms]")
    return part.integers(name) if name in INTEGERS else part.floats(name)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the target's place when the block ends well and leaves no trace when it does not."""
    name = None
    try:
        with contextlib.suppress(FileExistsError):  # a file in the folder's place: the next line says so more clearly
            target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
        Path(name).replace(target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {target} was not written", str(target)) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)
