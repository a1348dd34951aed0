"""How a table of candles is laid out in a file: which columns under which headers, and how a CSV writes its values.

`columns` is "ohlcv", "all", or a mapping from headers to columns of ours, such as {"ds": "timestamp", "{symbol}":
"close"}, in the order in which they are written. `{symbol}` in a header becomes the provider's id of the symbol.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.arguments import read_whole
from candle_fetcher.core.candles import OHLCV
from candle_fetcher.core.errors import InputError, nearest, shown
from candle_fetcher.core.frame import check_columns, index_ms
from candle_fetcher.core.text.csv import FLAG_COLUMNS
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.formatting import BLOCK_ROWS, Flags, Times, format_fields, format_objects

TIME, SYNTHETIC = "timestamp", "is_synthetic"
SYMBOL = "{symbol}"
MOST_DECIMALS = 18
_MOST_FIELDS, _MOST_HEADER = 100, 255
_MOST_EXACT = 1 << 53  # a float64 has every whole number up to it
_PLACEHOLDER = re.compile(r"\{\w*\}")
# Characters of numbers, times and the names of columns, and those that quote or end a field.
_NO_SEPARATORS = frozenset("+-.:_\"'\\ ")

# Header and column of each field, in order.
Mapped = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """How a CSV writes its values. Raises InputError where an option is invalid.

    separator: between two fields; one ASCII character that occurs neither in numbers nor in times, such as `;` or a
    tab. decimal: the decimal sign, `.` or `,`. decimals: how many decimals each number gets, 0 to 18, rounded half to
    even by its exact value, so that it is not exact any more; None for the shortest text that reads back as the same
    float64. Counts such as `trades` never have any.
    """

    separator: str = ","
    decimal: str = "."
    decimals: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError where an option is not valid, or two of them contradict each other."""
        separator, decimal = self.separator, self.decimal
        if not isinstance(decimal, str) or decimal not in (".", ","):
            raise InputError(f"decimal {shown(decimal)} is not understood; expected '.' or ','")
        if not isinstance(separator, str) or len(separator) != 1:
            raise InputError(f"separator {shown(separator)} is not understood; expected one character, such as ';'")
        if separator == decimal:
            raise InputError(
                f"separator and decimal are both {decimal!r}, so that one number would look like two; "
                "expected separator=';' beside decimal=','"
            )
        is_printed = separator == "\t" or separator.isprintable()
        if not separator.isascii() or separator.isalnum() or separator in _NO_SEPARATORS or not is_printed:
            raise InputError(
                f"separator {shown(separator)} may occur in numbers, times or names; expected one of , ; | or a tab"
            )
        if self.decimals is not None:
            read_whole("decimals", self.decimals, 0, MOST_DECIMALS)

    def header(self, layout: Layout) -> bytes:
        """Return the first line of a CSV. Raises InputError where a header has a character that would need quotes."""
        for name in layout.headers:
            if self.separator in name or '"' in name or not name.isprintable():
                raise InputError(
                    f"the header {shown(name)} has a separator, a quote or a line end in it; expected other characters"
                )
        return self.separator.join(layout.headers).encode() + b"\n"

    def rows(self, frame: pd.DataFrame, layout: Layout) -> Iterator[bytes]:
        """Yield the lines of the frame, in parts. Each line ends with LF; a missing value is an empty field."""
        # Counts are floats where some are missing, and have no decimals there either.
        places = [self.decimals if name == TIME or frame[name].dtype == np.float64 else None for name in layout.columns]
        for fields in _blocks(frame, layout):
            yield format_fields(fields, self.separator, self.decimal, places)


PLAIN = CsvOptions()


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of a file: the header of each, and the column of a frame that it shows (`timestamp`: the index)."""

    headers: tuple[str, ...]
    columns: tuple[str, ...]


def plain_layout(names: Iterable[str]) -> Layout:
    """Return the layout of a frame with those columns under their own names, behind `timestamp`."""
    fields = (TIME, *names)
    return Layout(fields, fields)


def read_columns(columns: object) -> str | Mapped:
    """Return the argument `columns` of a call that writes files: "ohlcv", "all", or the pairs of a mapping.

    Raises InputError for another value. Whether the columns exist is seen by `make_layout`.
    """
    if isinstance(columns, str):
        return check_columns(columns)
    if not isinstance(columns, Mapping):
        raise InputError(
            f"columns {shown(columns)} is not understood; expected 'ohlcv', 'all', or a mapping of headers to columns, "
            "such as {'ds': 'timestamp', 'y': 'close'}"
        )
    pairs = tuple(columns.items())
    if not pairs:
        raise InputError("columns is an empty mapping; expected headers and columns, such as {'y': 'close'}")
    for header, name in pairs:
        if not (isinstance(header, str) and header.strip() and isinstance(name, str)):
            raise InputError(f"columns has {shown(header)}: {shown(name)}; expected a text for each header and column")
        if len(header) > _MOST_HEADER:
            raise InputError(f"the header {shown(header)} is too long; expected at most {_MOST_HEADER} characters")
        check_placeholders(f"the header {shown(header)}", header)
    if len(pairs) > _MOST_FIELDS:
        raise InputError(f"columns has {len(pairs)} headers; expected at most {_MOST_FIELDS}")
    return pairs


def check_placeholders(what: str, text: str) -> None:
    """Raise InputError where the text has a word in braces that nothing replaces."""
    found = _PLACEHOLDER.search(text.replace(SYMBOL, ""))
    if found is not None:
        raise InputError(f"{what} has {found[0]}, which nothing replaces; expected {SYMBOL} alone in braces")


def column_set(columns: str | Mapped) -> str:
    """Return the set of columns, "ohlcv" or "all", that a frame needs for a file with these columns."""
    if isinstance(columns, str):
        return columns
    return "ohlcv" if {name for _, name in columns} <= {TIME, *OHLCV, *FLAG_COLUMNS} else "all"


def make_layout(columns: str | Mapped, names: Sequence[str], symbol: str) -> Layout:
    """Return the layout of a file. `names` are the columns of its frames, or those that they may have, where `columns`
    is a mapping; `symbol` is the provider's id.

    Raises InputError for a column that is not among them, with the closest one, and for a header that is there twice.
    """
    if isinstance(columns, str):
        return plain_layout(names)
    known = (TIME, *names)
    for header, name in columns:
        if name not in known:
            close = nearest(name, known)
            hint = f" Did you mean {close!r}?" if close else ""
            if name in FLAG_COLUMNS:
                hint = (
                    " It is there with include_open=True."
                    if name == "is_closed"
                    else " It marks rows that on_gap invents."
                )
            raise InputError(
                f"columns has {shown(header)}: {shown(name)}, but there is no such column; expected one of "
                f"{', '.join(known)}.{hint}"
            )
    headers = [header.replace(SYMBOL, symbol) for header, _ in columns]
    twice = next((header for header in headers if headers.count(header) > 1), None)
    if twice is not None:
        raise InputError(f"columns has the header {shown(twice)} twice; expected another one for each column")
    return Layout(tuple(headers), tuple(name for _, name in columns))


def csv_pieces(
    frames: Iterable[pd.DataFrame], options: CsvOptions = PLAIN, layout: Layout | None = None
) -> Iterator[bytes]:
    """Yield the file of frames that have the same columns, as bytes: its header, then their rows.

    Without a layout it has all columns of the first frame.
    """
    has_header = False
    for frame in frames:
        layout = layout or plain_layout(frame.columns)
        if not has_header:
            has_header = True
            yield options.header(layout)
        yield from options.rows(frame, layout)
        del frame  # it is freed before the next one is made


def csv_bytes(frame: pd.DataFrame, options: CsvOptions = PLAIN, layout: Layout | None = None) -> bytes:
    """Return the lines of a frame, without a header; see `csv_pieces`."""
    return b"".join(options.rows(frame, layout or plain_layout(frame.columns)))


def json_pieces(frames: Iterable[pd.DataFrame], layout: Layout | None = None) -> Iterator[bytes]:
    """Yield the frames as JSON objects, one a line; times are ISO with Z, missing values null."""
    for frame in frames:
        layout = layout or plain_layout(frame.columns)
        for fields in _blocks(frame, layout):
            yield format_objects(fields, layout.headers)
        del frame  # it is freed before the next one is made


def _blocks(frame: pd.DataFrame, layout: Layout) -> Iterator[list[Column | Times | Flags]]:
    """Yield the columns of the layout, some rows at a time."""
    columns = [_values(frame, name) for name in layout.columns]
    borders = {*range(0, len(frame), BLOCK_ROWS), len(frame)}
    for times in (column for column in columns if column.dtype.kind == "M"):
        # Invented rows have no close time: a part has them throughout or not at all.
        borders.update((np.flatnonzero(np.diff(np.isnat(times))) + 1).tolist())
    for start, stop in itertools.pairwise(sorted(borders)):
        yield [_without_nat(column[start:stop]) for column in columns]


def _values(frame: pd.DataFrame, name: str) -> Column | Times | Flags:
    """Return a column as the writer takes it: ms, float64, int64 or bool."""
    if name == TIME:
        return index_ms(frame).view("M8[ms]")
    values: pd.Series[Any] = frame[name]
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        times: Times = values.dt.tz_localize(None).to_numpy().astype("M8[ms]")
        return times
    if values.dtype == np.bool_:
        return values.to_numpy(dtype=np.bool_)
    if values.dtype == np.float64:
        return values.to_numpy(dtype=np.float64)
    if values.isna().any():
        if (values.abs() > _MOST_EXACT).any():
            raise InputError(
                f"{name} has missing values beside whole numbers above {_MOST_EXACT:,}, which text would round; "
                "expected the format parquet or arrow"
            )
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return values.to_numpy(dtype=np.int64)


def _without_nat(column: Column | Times | Flags) -> Column | Times | Flags:
    return np.full(len(column), np.nan) if column.dtype.kind == "M" and np.isnat(column).all() else column
