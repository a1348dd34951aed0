"""CSV text of a vault read back: rows in it found by time, and its values as a frame."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import COLUMNS, join
from candle_fetcher.core.errors import BadFile, ReplyError
from candle_fetcher.core.frame import frame_of, utc_index
from candle_fetcher.core.text.csv import read_rows
from candle_fetcher.files.layout import PLAIN, TIME, CsvOptions
from candle_fetcher.vault.state import Field

_WINDOW = 4096
_KINDS = {"float": "float64", "int": "Int64", "bool": "boolean", "time": "str"}
# From 3.1 on, pandas reads each number as the nearest float64 by itself, and warns where it is told to.
_EXACT = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}


def find_row(file: IO[bytes], start: int, stop: int, ms: int, separator: str, at: int) -> int:
    """Return where the first row begins that has the time `ms` or a later one, among the rows at [start, stop); `stop` where
    none is. `at` is the number of the field with the time."""
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
    text = line.rstrip(b"\n").split(separator.encode())[at].decode("ascii", "replace")
    try:
        return int(np.datetime64(text.replace(" ", "T"), "ms").astype(np.int64))
    except ValueError:
        raise BadFile(f"a row without a time: {line[:80]!r}") from None


def row_ms(line: bytes, separator: str, at: int) -> int:
    """Return the Unix ms of the time in a row; raises BadFile where there is none."""
    return _time_ms(line, separator, at)


def parse_text(text: bytes, fields: Sequence[Field], options: CsvOptions) -> pd.DataFrame:
    """Return the rows of the text as a frame: the columns by their headers, the first `timestamp` as index, UTC.

    Raises BadFile where the text does not hold such rows.
    """
    names = [field.column for field in fields]
    headers = [field.header for field in fields]
    is_plain = options.separator == PLAIN.separator and options.decimal == PLAIN.decimal and headers == names
    try:
        if text and is_plain and names[0] == TIME and set(names[1:]) <= set(COLUMNS):
            header = ",".join(names).encode() + b"\n"
            blocks = list(read_rows([header + text], None))
            return frame_of(join(blocks), names[1:])
        return _parse_other(text, fields, options) if text else _no_rows(fields)
    except (ReplyError, ValueError, pd.errors.ParserError) as error:
        raise BadFile(f"it does not hold rows of {options.separator.join(headers)}: {error.args[0]}") from error


def _parse_other(text: bytes, fields: Sequence[Field], options: CsvOptions) -> pd.DataFrame:
    numbers = [str(at) for at in range(len(fields))]  # headers may be equal to each other when case is ignored
    dtypes: dict[Any, Any] = {at: _KINDS[field.kind] for at, field in zip(numbers, fields, strict=True)}
    exact: Any = _EXACT
    table = pd.read_csv(
        io.BytesIO(text),
        sep=options.separator,
        decimal=options.decimal,
        header=None,
        names=numbers,
        index_col=False,
        dtype=dtypes,
        keep_default_na=False,
        na_values=[""],
        **exact,
    )
    times = next(at for at, field in zip(numbers, fields, strict=True) if field.column == TIME)
    index = _times(table[times]).rename(TIME)
    data = {}
    for at, field in zip(numbers, fields, strict=True):
        if at != times:
            column = table[at]
            if field.kind == "time":
                data[field.header] = _times(column).to_numpy()
            else:
                data[field.header] = column.to_numpy(bool) if field.kind == "bool" else column.array
    made = pd.DataFrame(data, index=index)
    for field in fields:
        if field.kind == "time" and field.header in made:
            made[field.header] = made[field.header].dt.tz_localize("UTC")
    return made


def _no_rows(fields: Sequence[Field]) -> pd.DataFrame:
    dtypes = {"float": "float64", "int": "Int64", "bool": "bool", "time": "datetime64[ns, UTC]"}
    time = next(field for field in fields if field.column == TIME)
    data = {field.header: pd.Series([], dtype=dtypes[field.kind]) for field in fields if field is not time}
    return pd.DataFrame(data, index=utc_index(np.zeros(0, np.int64), TIME))


def _times(texts: pd.Series[Any]) -> pd.DatetimeIndex:
    ms = np.array([text.replace(" ", "T") if isinstance(text, str) else "NaT" for text in texts], "M8[ms]")
    return utc_index(ms.astype(np.int64))
