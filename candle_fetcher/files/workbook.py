"""Candles as an Excel workbook, written row by row by xlsxwriter in constant memory.

The sheet `candles` has real date cells without a zone, under headers that say UTC, a frozen first row, and number
formats that fit the prices of the first rows. The sheet `manifest` says what it holds. A cell of Excel keeps 16
significant digits.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import InputError, MissingExtra
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.text.formatting import format_fields
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.files.layout import TIME, Layout, plain_layout

EXTRA = "excel"
MOST_ROWS = (1 << 20) - 1  # of candles: a sheet has 1,048,576 rows, of which the header takes one
_EPOCH_DAYS = 25_569  # 1970-01-01 as Excel counts days
_PRICES = ("open", "high", "low", "close")
_SHOWN_ROWS, _MOST_PLACES = 1000, 8
_MOST_WIDTH = 60  # of a column; Excel refuses a file that has 256
_MOST_TEXT = 32_000  # a cell holds 32,767 characters
_MADE = dt.datetime(1980, 1, 1, tzinfo=dt.timezone.utc)  # as its zip has it: equal candles make equal files
_TIME_FORMATS = ("yyyy-mm-dd hh:mm:ss", "yyyy-mm-dd hh:mm:ss.000")


def need_xlsxwriter() -> None:
    """Raise MissingExtra where xlsxwriter is not installed."""
    try:
        import xlsxwriter  # noqa: F401
    except ImportError:
        raise MissingExtra(EXTRA, "an Excel workbook") from None


def check_rows(rows: int) -> None:
    """Raise InputError where a sheet does not hold so many candles."""
    if rows > MOST_ROWS:
        raise InputError(
            f"{rows:,} candles do not fit a sheet of Excel, which has {MOST_ROWS:,} rows below its header; expected "
            "a shorter range, a longer timeframe, or another format, such as csv or parquet"
        )


def write_workbook(
    file: IO[bytes], frames: Iterable[pd.DataFrame], layout: Layout | None, manifest: Callable[[], Mapping[str, Any]]
) -> None:
    """Write frames that have the same columns; `manifest` is called after the last one.

    Raises InputError where there are more rows than a sheet holds.
    """
    # xlsxwriter leaves the rows in its temporary files where it fails.
    with tempfile.TemporaryDirectory(prefix="candle_fetcher-", ignore_cleanup_errors=True) as folder:
        _write_book(_Guarded(file), folder, frames, layout, manifest)


def _write_book(
    file: _Guarded,
    folder: str,
    frames: Iterable[pd.DataFrame],
    layout: Layout | None,
    manifest: Callable[[], Mapping[str, Any]],
) -> None:
    import xlsxwriter

    book = xlsxwriter.Workbook(file, {"constant_memory": True, "tmpdir": folder})
    book.set_properties({"created": _MADE})
    try:
        _write_candles(book, frames, layout)
        about = book.add_worksheet("manifest")
        about.set_column(0, 0, 14)
        about.set_column(1, 1, 70)
        for row, (name, value) in enumerate(manifest().items()):
            about.write_string(row, 0, str(name), book.add_format({"bold": True}))
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            about.write_string(row, 1, text[:_MOST_TEXT])
        book.close()
    except BaseException as error:
        file.is_over = True
        with contextlib.suppress(Exception):
            book.close()
        if error.args and isinstance(error.args[0], OSError):  # which xlsxwriter wraps in an error of its own
            raise error.args[0] from error
        raise


class _Guarded:
    """The file of a workbook. Once writing it has failed, it takes what is written and keeps nothing: xlsxwriter
    leaves a zip behind that writes its end when it is collected, to a file that is closed or a disk that is full."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self.is_over = False

    def write(self, data: bytes) -> int:
        count = len(data) if self.is_over else self._file.write(data)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset if self.is_over else self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        if not self.is_over:
            self._file.flush()

    def seekable(self) -> bool:
        return True


def _write_candles(book: Any, frames: Iterable[pd.DataFrame], layout: Layout | None) -> None:
    sheet = book.add_worksheet("candles")
    sheet.freeze_panes(1, 0)
    sheet.repeat_rows(0)  # on each printed page
    sheet.fit_to_pages(1, 0)
    writers: list[Callable[[int, Any], object]] = []
    rows = 0
    for frame in frames:
        layout = layout or plain_layout(frame.columns)
        if not writers:
            for at, (header, name) in enumerate(zip(layout.headers, layout.columns, strict=True)):
                title, shown = _title(header, name), _format_of(frame, name)
                side = "left" if at == 0 else "right"
                sheet.write_string(0, at, title, book.add_format({"bold": True, "align": side}))
                width = max(len(shown), len(title), _digits(frame, name) + len(shown), 10) + 2
                sheet.set_column(at, at, min(width, _MOST_WIDTH))
                writers.append(_writer(sheet, at, book.add_format({"num_format": shown}), frame, name))
        check_rows(rows + len(frame))
        columns = [_cells(frame, name) for name in layout.columns]
        for row, cells in enumerate(zip(*columns, strict=True), rows + 1):
            for write, cell in zip(writers, cells, strict=True):
                if cell is not None:
                    write(row, cell)
        rows += len(frame)
        del frame, columns  # they are freed before the next one is made


def _title(header: str, name: str) -> str:
    """Return the header, which says that times are in UTC unless it is of the user's own."""
    return f"{name} (UTC)" if header == name and (name in (TIME, "close_time")) else header


def _writer(sheet: Any, at: int, shown: Any, frame: pd.DataFrame, name: str) -> Callable[[int, Any], object]:
    """Return what writes a cell of the column, given its row and its value."""
    if name != TIME and frame[name].dtype == np.bool_:
        return lambda row, cell: sheet.write_boolean(row, at, cell)
    return lambda row, cell: sheet.write_number(row, at, cell, shown)


def _format_of(frame: pd.DataFrame, name: str) -> str:
    """Return the number format of a column: dates, whole numbers, or the decimals that its first rows have."""
    if name == TIME:
        ms = index_ms(frame)
        return _TIME_FORMATS[bool((ms % 1000).any())]
    dtype = frame[name].dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _TIME_FORMATS[1]
    if dtype != np.float64:
        return "General" if dtype == np.bool_ else "0"
    names = [one for one in _PRICES if one in frame] if name in _PRICES else [name]
    most = 0
    for one in names:
        text = format_fields([frame[one].to_numpy(dtype=np.float64)[:_SHOWN_ROWS]]).decode("ascii")
        most = max([most, *(len(number.partition(".")[2]) for number in text.split())])
    places = min(most, _MOST_PLACES)
    return f"0.{'0' * places}" if places else "0"


def _digits(frame: pd.DataFrame, name: str) -> int:
    """Return how many digits more than one the largest of the first numbers has before its point; 0 for others.

    A number that is wider than its column is shown as ###.
    """
    if name == TIME or isinstance(frame[name].dtype, pd.DatetimeTZDtype):
        return 0
    numbers = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)[:_SHOWN_ROWS]
    most = float(np.nanmax(np.abs(numbers), initial=1.0))
    return int(math.log10(most)) + 1 if math.isfinite(most) else 0  # one to spare, for the rows behind


def _cells(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return the values of a column as cells: numbers, days since 1900 for times, bools, None where one is missing."""
    if name == TIME:
        return list(_days(index_ms(frame).astype(np.float64)).tolist())
    values: pd.Series[Any] = frame[name]
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        times = values.dt.tz_localize(None).to_numpy().astype("M8[ms]")
        numbers = np.where(np.isnat(times), np.nan, times.astype(np.int64))
        cells = _days(numbers)
    elif values.dtype == np.bool_:
        return list(values)
    else:
        cells = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return [None if math.isnan(cell) else cell for cell in cells.tolist()]


def _days(ms: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return ms / DAY_MS + _EPOCH_DAYS
