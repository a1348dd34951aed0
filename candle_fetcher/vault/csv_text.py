"""CSV text of a vault read back: rows in it found by time, and its values as a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import INTEGERS, MISSING, Candles, in_order, join, no_candles
from candle_fetcher.core.errors import BadFile, ReplyError
from candle_fetcher.core.frame import index_ms, utc_index
from candle_fetcher.core.text.csv import read_lines
from candle_fetcher.files.layout import TIME, CsvOptions
from candle_fetcher.vault.state import Field

_WINDOW = 4096


def find_row(file: IO[bytes], start: int, stop: int, ms: int, separator: str, at: int) -> int:
    """Return where the first row begins that has the time `ms` or a later one, among the rows at [start,
    stop); `stop` where none has. `at` is the number of the field with the time."""
    low, high = start, stop  # the row lies at [low, high]
    while low < high:
        middle = (low + high) // 2
        row = _next_row(file, low, middle, high)
        if row >= high:  # one row is left
            row = low
        line = _line_at(file, row)
        if _time_ms(line, separator, at) < ms:
            low = row + len(line)
        else:
            high = row
    return low


def _next_row(file: IO[bytes], low: int, middle: int, high: int) -> int:
    """Return where the first row after `middle` begins; `low` where `middle` is there."""
    if middle == low:
        return low
    place = middle - 1  # a row may begin at `middle`
    while place < high:
        file.seek(place)
        window = file.read(min(_WINDOW, high - place))
        found = window.find(b"\n")
        if found >= 0:
            return place + found + 1
        if not window:
            break
        place += len(window)
    return high


def _line_at(file: IO[bytes], place: int) -> bytes:
    file.seek(place)
    line = file.readline(1 << 16)
    if not line.endswith(b"\n"):
        raise BadFile(f"a row without an end: {line[:80]!r}")
    return line


def _time_ms(line: bytes, separator: str, at: int) -> int:
    """Return the Unix ms of the time in a row."""
    try:
        return instant_of(line.rstrip(b"\n").split(separator.encode())[at].decode("ascii", "replace"))
    except (ValueError, IndexError):
        raise BadFile(f"a row without a time: {line[:80]!r}") from None


def instant_of(text: str) -> int:
    """Return the Unix ms of a time as a CSV has it. Raises ValueError for another text."""
    return int(np.datetime64(text.replace(",", ".").replace(" ", "T"), "ms").astype(np.int64))


def row_ms(line: bytes, separator: str, at: int) -> int:
    """Return the Unix ms of the time in a row; raises BadFile where there is none."""
    return _time_ms(line, separator, at)


def is_text_of(text: bytes, rows: pd.DataFrame, fields: Sequence[Field], options: CsvOptions) -> bool:
    """Return whether lines of text are the rows. False also of flags and of other times, without a look."""
    lines = text.decode("ascii", "replace").splitlines()
    if len(lines) != len(rows) or any(one.kind not in ("float", "int") for one in fields if one.column != TIME):
        return False
    times = index_ms(rows).tolist()
    columns = [
        times if one.column == TIME else rows[one.column].to_numpy(dtype=np.float64, na_value=np.nan).tolist()
        for one in fields
    ]
    try:
        return all(
            _is_line_of(line.split(options.separator), values, fields, options.decimal)
            for line, values in zip(lines, zip(*columns, strict=True), strict=True)
        )
    except ValueError:
        return False


def _is_line_of(texts: Sequence[str], values: Sequence[float], fields: Sequence[Field], decimal: str) -> bool:
    for field, text, value in zip(fields, texts, values, strict=True):
        if field.column == TIME:
            is_same = instant_of(text) == value
        else:
            is_same = float(text.replace(decimal, ".")) == value if text else math.isnan(value)
        if not is_same:
            return False
    return True


def parse_text(text: bytes, fields: Sequence[Field], options: CsvOptions) -> pd.DataFrame:
    """Return the rows of the text as a frame: the columns by their headers, the time as index `timestamp` (UTC).

    Raises BadFile where the text does not hold such rows.
    """
    names = _names_of(fields)
    text = text.translate(bytes.maketrans(f"{options.separator}{options.decimal}".encode(), b",."))
    if any(field.kind == "bool" for field in fields):
        text = text.replace(b"true", b"1").replace(b"false", b"0")
    try:
        blocks = list(read_lines(text, names)) if text else []
    except ReplyError as error:
        headers = options.separator.join(field.header for field in fields)
        raise BadFile(f"it does not hold rows of {headers}: {error.args[0]}") from error
    candles = join(blocks) if blocks else no_candles(in_order(names))
    data = {
        field.header: _values_of(candles, name, field.kind)
        for name, field in zip(names, fields, strict=True)
        if name != "open_time"
    }
    return pd.DataFrame(data, index=utc_index(candles.open_ms, TIME), copy=False)


def _names_of(fields: Sequence[Field]) -> list[str]:
    """Return a name for each field that says to the reader of lines how to read it."""
    known = {TIME: "open_time", "trades": "trades"}
    found = []
    for at, field in enumerate(fields):
        name = "close_time" if field.kind == "time" and field.column != TIME else known.get(field.column, f"column{at}")
        found.append(f"column{at}" if name in found else name)
    return found


def _values_of(candles: Candles, name: str, kind: str) -> Any:
    if name in INTEGERS:
        values = candles.integers(name)
        if kind == "time":
            return utc_index(values)
        return pd.arrays.IntegerArray(values, values == MISSING, copy=False)
    floats = candles.floats(name)
    if kind == "bool":
        return floats == 1
    if kind == "int":
        is_missing = np.isnan(floats)
        return pd.arrays.IntegerArray(np.where(is_missing, 0, floats).astype(np.int64), is_missing)
    return floats
