"""CSV files that `export` wrote, read back as candles, whole columns at a time.

The first line names the columns: `timestamp`, then open, high, low, close, volume and those that `columns="all"` adds;
a kind without prices has its own columns. Times are UTC, `2024-01-01 00:00:00`, with `.789` where there are
milliseconds. An empty field is a missing value. Every line ends in LF or CRLF, including the last one, so that a file
that was cut inside a line is recognised. The character behind `timestamp` is the separator; where it is no comma, a
comma is a decimal sign.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from candle_fetcher.core.candles import COLUMNS, INTEGERS, MISSING, OHLCV, Candles, candles_from, have_prices, in_order
from candle_fetcher.core.errors import InputError, ReplyError, shown
from candle_fetcher.core.faults import beginning, cut_off, too_long, wrong_field
from candle_fetcher.core.text.decimals import ZERO, Bytes, Column, Int64s
from candle_fetcher.core.text.rows import Row, parse_csv
from candle_fetcher.core.timeframe import DAY_MS

_FIRST = b"timestamp"
# Columns of `true` and `false`, read as 1 and 0; older files have 1 and 0.
FLAG_COLUMNS = ("is_closed", "is_synthetic")
_TIMES = frozenset({"open_time", "close_time"})
_LINE_BYTES = 1 << 16  # longer than any row: a text without line ends is refused, and not collected in memory
_COMMA, _LF = np.frombuffer(b",\n", np.uint8)
_MOST_NAME = 100  # characters of the name of a column
# The formats of a time; a 0 stands for a digit.
_FORMATS = tuple(np.frombuffer(text, np.uint8) for text in (b"0000-00-00 00:00:00", b"0000-00-00 00:00:00.000"))
_MOST_PARTS = (12, 31, 23, 59, 59, 999)


def read_rows(
    pieces: Iterable[bytes],
    columns: Sequence[str] | None = COLUMNS,
    *,
    headers: Mapping[str, str] | None = None,
    separator: str | None = None,
) -> Iterator[Candles]:
    """Yield the candles of a file, given in pieces, block by block, with the columns that its header names.

    `columns` are the ones that it may have; None allows any. `headers` says the column of each header where they differ
    (`timestamp` is the open time), and the separator then has to be given. Raises InputError for a header that `export`
    never writes, and ReplyError for a line that was cut or does not hold numbers.
    """
    names: tuple[str, ...] = ()
    rows = 0
    for lines in whole_lines(pieces):
        block = lines
        if not names:
            header, _, block = lines.partition(b"\n")
            separator = separator or find_separator(header) or ","
            fields = header.decode("utf-8", "backslashreplace").split(separator)
            names = _read_header(fields, columns) if headers is None else _read_headers(fields, headers)
        if not block:
            continue
        if separator not in (",", None):
            block = block.translate(bytes.maketrans(f"{separator},".encode(), b",."))
        for candles in read_lines(block, names, rows):
            rows += candles.count
            yield candles


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole lines that each piece completes, each ended by LF, without byte order mark and blank lines.

    Raises ReplyError where the last line has no line end, which shows that the file was cut.
    """
    rest, begun = b"", False
    for piece in pieces:
        rest += piece
        cut = rest.rfind(b"\n") + 1
        if cut:
            lines, rest = rest[:cut], rest[cut:]
            lines = lines if begun else lines.removeprefix(b"\xef\xbb\xbf")
            begun = True
            lines = lines.replace(b"\r\n", b"\n")
            if lines.startswith(b"\n") or b"\n\n" in lines:
                lines = b"".join(line + b"\n" for line in lines.split(b"\n") if line)
            if lines:
                yield lines
        if len(rest) > _LINE_BYTES:
            raise too_long(rest, _LINE_BYTES)
    if rest:
        raise cut_off(rest)


def find_separator(line: bytes) -> str | None:
    """Return the separator of a first line that `export` writes: what follows `timestamp`; None of another line."""
    behind = line[len(_FIRST) : len(_FIRST) + 1].decode("ascii", "replace")
    is_ours = line.startswith(_FIRST) and behind and not (behind.isalnum() or behind in "_ \r\n\ufffd")
    return behind if is_ours else None


def _read_headers(fields: Sequence[str], headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the columns under headers of one's own."""
    names = tuple(headers.get(field, "") for field in fields)
    if not all(names):
        raise InputError(f"its header is {shown(','.join(fields))}; expected {', '.join(headers)}")
    if _FIRST.decode() not in names:
        raise InputError("it has no column of times; expected one, without which no candle can be checked")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"it has the column {twice} twice; expected each once")
    return tuple("open_time" if name == _FIRST.decode() else name for name in names)


def _read_header(fields: Sequence[str], columns: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the columns as `Candles` has them, in the order of the line."""
    begin = ("timestamp", *OHLCV) if columns is not None and have_prices(columns) else ("timestamp",)
    if tuple(fields[: len(begin)]) != begin or len(fields) < 2:
        raise InputError(f"its header is {shown(','.join(fields))}; expected one that begins with {','.join(begin)}")
    others = fields[len(begin) :]
    strange = [name for name in others if not name.isidentifier() or len(name) > _MOST_NAME or fields.count(name) > 1]
    if columns is not None:
        strange += [name for name in others if name not in columns]
    if strange:
        raise InputError(f"its column {shown(strange[0])} is not one of the provider's; export the candles without it")
    return ("open_time", *fields[1:])


def read_lines(text: bytes, names: Sequence[str], before: int = 0) -> Iterator[Candles]:
    """Yield the candles of whole lines; `before` is the number of rows before them. Raises ReplyError."""
    if b"\r" in text:
        line = text.count(b"\n", 0, text.index(b"\r"))
        found = beginning(text.split(b"\n")[line])
        raise ReplyError(f"row {before + line + 1:,}: expected CR at the end of a line only, got {found}")
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((data == _COMMA) | (data == _LF))
    is_line = data[ends] == _LF
    width = len(names)
    if len(ends) % width or not is_line[width - 1 :: width].all() or is_line.sum() * width != len(ends):
        row, bad = next((row, line) for row, line in enumerate(text.split(b"\n"), 1) if line.count(b",") != width - 1)
        count = bad.count(b",") + 1
        raise ReplyError(f"row {before + row:,}: expected {width} fields, got {count}: {beginning(bad)}")
    last = ends.reshape(-1, width)
    first = np.concatenate(([0], ends[:-1] + 1)).reshape(-1, width)
    # Adjoining rows that lack the same values are read together.
    is_blank = first == last
    cuts = np.flatnonzero((is_blank[1:] != is_blank[:-1]).any(axis=1)) + 1
    for start, stop in itertools.pairwise((0, *cuts.tolist(), len(last))):
        rows = slice(start, stop)
        try:
            yield _read_run(data, first[rows], last[rows], names)
        except ReplyError as error:
            skipped = f"counted after row {before + start:,}: " if before + start else ""
            raise ReplyError(f"{skipped}{error.args[0]}") from error


def _read_run(data: Bytes, first: Int64s, last: Int64s, names: Sequence[str]) -> Candles:
    """Return the candles with fields at [first, last), of shape (rows, columns).

    Each column is blank in all of these rows or in none.
    """
    has = [name for at, name in enumerate(names) if last[0, at] > first[0, at]]
    lacking = [name for name in names if name not in has]
    if not set(has) >= ({"open_time", *OHLCV[:4]} if have_prices(names) else {"open_time"}):
        raise ReplyError(f"row 1: field {lacking[0]} is empty; expected a value")
    columns: dict[str, Column] = {}
    for name in lacking:
        columns[name] = np.full(len(first), MISSING) if name in INTEGERS else np.full(len(first), np.nan)
    for at, name in enumerate(names):
        if name in has and name in _TIMES:
            columns[name] = read_times(data, first[:, at], last[:, at], "timestamp" if name == "open_time" else name)
        if name in FLAG_COLUMNS:
            columns[name] = _read_flags(data, first[:, at], last[:, at], name)
    numbers = [name for name in has if name not in _TIMES and name not in FLAG_COLUMNS]
    if numbers:
        columns.update(zip(numbers, _read_numbers(data, first, last, names, numbers), strict=True))
    order = in_order(columns)
    return candles_from(order, [columns[name] for name in order])


def _read_numbers(
    data: Bytes, first: Int64s, last: Int64s, names: Sequence[str], numbers: Sequence[str]
) -> Sequence[Column]:
    """Return the columns in `numbers`, of rows that have a value in each of them."""
    row = Row(" ".join(f"{name}:{'i' if name in INTEGERS else 'd'}" for name in numbers))
    # All other fields are cut out, each with one of the commas beside it.
    keep = np.zeros(int(last[-1, -1]) + 2 - int(first[0, 0]), np.int8)
    base = int(first[0, 0])
    for at in [names.index(name) for name in numbers]:
        keep[first[:, at] - base] += 1
        keep[last[:, at] + 1 - base] -= 1
    text = data[base : base + len(keep) - 1][np.cumsum(keep[:-1], dtype=np.int8).view(np.bool_)]
    if names[-1] != numbers[-1]:  # the comma after the last number now ends its line
        text = text.copy()
        commas = np.flatnonzero((text == _COMMA) | (text == _LF))
        text[commas[len(numbers) - 1 :: len(numbers)]] = _LF
    # With a header line, since a first line that begins with a letter would be taken for one.
    return parse_csv(b"h\n" + text.tobytes(), row)


def _read_flags(data: Bytes, first: Int64s, last: Int64s, field: str) -> Column:
    """Return 1.0 where `true` or 1 stands at [first, last), and 0.0 where `false` or 0 does.

    Raises ReplyError, which names the first row with another text.
    """
    found = np.full(len(first), np.nan)
    for text, value in ((b"true", 1), (b"false", 0), (b"True", 1), (b"False", 0), (b"1", 1), (b"0", 0)):
        chars = np.frombuffer(text, np.uint8)
        rows = np.flatnonzero(last - first == len(chars))
        if rows.size:
            is_equal = (data[first[rows][:, None] + np.arange(len(chars))] == chars).all(axis=1)
            found[rows[is_equal]] = value
    if np.isnan(found).any():
        row = int(np.argmax(np.isnan(found)))
        text = data[int(first[row]) : int(last[row])].tobytes()
        raise wrong_field(f"row {row + 1}, field {field}", "true or false", text.decode("ascii", "backslashreplace"))
    return found


def read_times(data: Bytes, first: Int64s, last: Int64s, field: str = "timestamp") -> Int64s:
    """Return the Unix ms of the times at [first, last).

    Raises ReplyError, which names the first row without a time.
    """
    found = np.empty(len(first), np.int64)
    is_time = np.zeros(len(first), np.bool_)
    for pattern in _FORMATS:
        rows = np.flatnonzero(last - first == len(pattern))
        if not rows.size:
            continue
        chars = data[first[rows][:, None] + np.arange(len(pattern))]
        digits = chars - ZERO  # a character below `0` wraps around to a large number
        is_digit = pattern == ZERO
        fine = (chars[:, ~is_digit] == pattern[~is_digit]).all(axis=1) & (digits[:, is_digit] <= 9).all(axis=1)
        year = _number(digits[:, :4])
        parts = [_number(digits[:, at : at + 2]) for at in range(5, 19, 3)]
        parts += [_number(digits[:, 20:23])] if len(pattern) > 19 else []
        fine &= year > 0
        for part, most in zip(parts, _MOST_PARTS, strict=False):
            fine &= part <= most
        month = np.clip((year - 1970) * 12 + parts[0] - 1, -(12 * 1970), 12 * 8030).astype("M8[M]")
        date = month.astype("M8[D]") + (parts[1] - 1).astype("m8[D]")
        fine &= (parts[0] >= 1) & (parts[1] >= 1) & (date.astype("M8[M]") == month)
        seconds = (parts[2] * 60 + parts[3]) * 60 + parts[4]
        found[rows] = date.astype(np.int64) * DAY_MS + seconds * 1000 + (parts[5] if len(parts) > 5 else 0)
        is_time[rows] = fine
    if not is_time.all():
        row = int(np.argmin(is_time))
        text = data[int(first[row]) : int(last[row])].tobytes().decode("ascii", "backslashreplace")
        raise wrong_field(f"row {row + 1}, field {field}", "a time such as 2024-01-31 12:00:00", text)
    return found


def _number(digits: Bytes) -> Int64s:
    """Return the integers that rows of digits write."""
    found = np.zeros(len(digits), np.int64)
    for column in digits.T:
        found = found * 10 + column
    return found
