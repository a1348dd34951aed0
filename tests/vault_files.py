"""Files of one series and rows for them, without a fetcher; and faults at the n-th step of a write."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from candle_fetcher.core.frame import index_ms
from candle_fetcher.files.layout import CsvOptions
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.months import MonthFiles
from candle_fetcher.vault.slots import SlotFiles
from candle_fetcher.vault.state import Entry, Facts, SeriesId, SeriesState
from candle_fetcher.vault.trees import FolderTree

MINUTE = 60_000
T0 = 1_717_198_200_000  # 2024-05-31T23:30: the minute 30 is in the next month
SERIES = SeriesId("binance", "BTC/USDT", "BTCUSDT", "1m")


def slot_files(folder: Path, options: CsvOptions | None = None) -> SlotFiles:
    return SlotFiles(folder, SERIES.name(), SERIES, options or CsvOptions(), None)


def make_files(file_format: str, folder: Path) -> Files:
    if file_format == "csv":
        return slot_files(folder)
    pytest.importorskip("pyarrow")
    return MonthFiles(FolderTree(folder), Entry(SERIES, SERIES.name(), T0), file_format, None)


def rows(first: int, stop: int, seed: int = 0) -> pd.DataFrame:
    """Return the rows of the minutes [first, stop); another seed gives other values."""
    at = np.arange(first, stop)
    index = pd.DatetimeIndex((T0 + at * MINUTE) * 1_000_000, tz="UTC", name="timestamp")
    data = {name: 100 + at + seed / 8 + place / 16 for place, name in enumerate(("open", "high", "low", "close"))}
    return pd.DataFrame({**data, "volume": at % 7 + seed / 4}, index=index)


def facts(stop: int) -> Facts:
    return Facts(T0, T0 + stop * MINUTE, T0 + stop * MINUTE)


def put(files: Files, stop: int, new: pd.DataFrame, *, first: int | None = None) -> SeriesState:
    """Write the rows from that minute on, or behind the last one."""
    from_ms = None if first is None else T0 + first * MINUTE
    return files.write(files.load(), lambda: facts(stop), from_ms, [new])


def stored(files: Files) -> pd.DataFrame | None:
    """Return all rows of the series, checked; None where nothing is there."""
    state = files.load()
    if state is None:
        return None
    assert files.verify(state) == []
    found = files.read(state)
    assert len(found) == state.piece.rows
    if len(found):
        assert int(index_ms(found)[0]) == state.piece.first_ms
        assert int(index_ms(found)[-1]) == state.piece.last_ms
    return found


def is_equal(found: pd.DataFrame | None, expected: pd.DataFrame | None) -> bool:
    if found is None or expected is None:
        return found is expected
    try:
        pd.testing.assert_frame_equal(found, expected, check_freq=True, check_dtype=False)
    except AssertionError:
        return False
    return True


class _Failing:
    """A file of which each write counts as a step; the one that fails leaves half of its bytes."""

    def __init__(self, file: Any, step: Callable[[], bool]) -> None:
        self._file, self._step = file, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        if self._step():
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))


@contextmanager
def failing_at(number: int, patch: Any) -> Iterator[list[int]]:
    """Fail the `number`-th of all writes, syncs and renames of a block, and all after it: the disk is full. Gives a
    list of the steps that were taken."""
    steps: list[int] = []

    def step() -> bool:
        steps.append(len(steps))
        return len(steps) > number

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if step():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return called

    opened = Path.open

    def open_path(self: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file: io.IOBase = opened(self, mode, *arguments, **named)
        return _Failing(file, step) if set(mode) & set("wa+") else file

    with patch.context() as inside:
        inside.setattr(Path, "open", open_path)
        inside.setattr(os, "fsync", guarded(os.fsync))
        inside.setattr(Path, "replace", guarded(Path.replace))
        yield steps
