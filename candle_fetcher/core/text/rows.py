"""Rows of numbers in a declared layout: a JSON list of rows, or CSV lines, as columns.

`Row` declares the fields. `parse_rows` and `parse_csv` return the same float64 as `float` for every number, or raise
ReplyError. A fast reader finds every byte that is not a digit and checks that these marks repeat the declared row.
Text that it does not recognise goes to a careful reader, which returns the same columns or names the wrong field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.errors import InputError, ReplyError
from candle_fetcher.core.faults import brief, too_long, unexpected
from candle_fetcher.core.text.decimals import (
    MARGIN,
    MINUS,
    PAD,
    POINT,
    ZERO,
    Bytes,
    Column,
    Int64s,
    Tokens,
    read_digits,
    read_floats,
    read_integers,
)
from candle_fetcher.core.text.quick import read_block, wants_more

CSV_PIECE_BYTES = 1 << 18
# Longer than any row or run of blank lines: a text without line ends is refused, and not collected in memory.
_LINE_BYTES = 1 << 16
# At most 18 digits, so that every integer fits an int64; no leading zero, which JSON forbids.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


class Row:
    """The declared fields of a row: `Row("open_time:i open:d … ignore:x")`, or without names `Row("i d x")`.

    i is an integer of at most 18 digits, d a decimal (quoted in JSON), x a decimal that is checked and not returned.
    Raises InputError for any other template.
    """

    __slots__ = ("_csv", "_json", "kinds", "names", "template")

    def __init__(self, template: str) -> None:
        fields = [field.rpartition(":") for field in template.split()]
        self.template = template
        self.names = tuple(name for name, _, _ in fields)
        self.kinds = "".join(kind for _, _, kind in fields)
        if len(self.kinds) != len(fields) or not set(self.kinds) <= set("idx") or not set(self.kinds) & set("id"):
            raise InputError(f"row template {template!r}; expected fields like 'open_time:i', 'open:d', 'x'")
        tokens = ["0" if kind == "i" else '"0"' for kind in self.kinds]
        self._json = _Layout(self.kinds, "[", f"[{','.join(tokens)}],", "]")
        self._csv = _Layout(self.kinds, "\n", f"{','.join('0' * len(fields))}\n", "\n")

    def __repr__(self) -> str:
        return f"Row({self.template!r})"

    def place(self, row: int, index: int) -> str:
        """Return where a field stands, for an error message; `row` counts from 1, `index` from 0."""
        return f"row {row}, {self.field(index)}"

    def field(self, index: int) -> str:
        """Return the number of a field, from 1, and its name if it has one; `index` counts from 0."""
        return f"field {index + 1} ({self.names[index]})" if self.names[index] else f"field {index + 1}"

    def empty(self) -> tuple[Column, ...]:
        """Return the columns of zero rows."""
        return tuple(_column(kind, []) for kind in self.kinds if kind != "x")


class _Layout:
    """A row as JSON or CSV writes it; in the sample each field is a `0`.

    Marks are the bytes other than digits. The last mark of a row separates it from the next row. `lead` stands before
    the first row, and `end` stands after the last row in place of that separator.
    """

    __slots__ = ("bounds", "decimals", "end", "integers", "lead", "marks", "order", "pattern")

    def __init__(self, kinds: str, lead: str, sample: str, end: str) -> None:
        self.lead = ord(lead)
        self.end = ord(end)
        self.marks = np.array([ord(char) for char in sample if char != "0"], np.uint8)
        # The order in which fields are read: decimals, integers, those that are only checked.
        self.order = sorted(range(len(kinds)), key=lambda field: "dix".index(kinds[field]))
        self.decimals = kinds.count("d")
        self.integers = kinds.count("i")
        self.pattern = re.compile(re.escape(sample).replace("0", "([.]?)").encode())
        plain = self.pattern.match(self.marks.tobytes())
        assert plain is not None
        self.bounds = _Bounds(plain, self.order)


class _Bounds:
    """Which marks of a row bound its fields, and which marks adjoin each other.

    Field f lies between the mark before[f], counted from the mark that ends the previous row, and the mark after[f],
    counted from the first mark of its own row. point[f], counted like after[f], is its decimal point, or after[f] where
    it has none. Runs of marks without a field between them go from run_first (counted like `before`) to run_last
    (counted like `after`).
    """

    __slots__ = ("after", "before", "point", "run_first", "run_last", "run_steps", "width")

    def __init__(self, row: re.Match[bytes], order: list[int]) -> None:
        self.width = row.end()
        spans = np.array([row.span(field + 1) for field in order])
        self.before = self.point = spans[:, 0]
        self.after = spans[:, 1]
        bare = np.ones(self.width + 2, np.bool_)
        bare[[0, -1]] = False
        bare[1 + self.before] = bare[1 + self.after] = False
        self.run_first = np.flatnonzero(bare[1:] & ~bare[:-1])
        self.run_last = np.flatnonzero(bare[:-1] & ~bare[1:]) - 1
        self.run_steps = (self.run_last - self.run_first + 1)[:, None]


def parse_rows(body: bytes, row: Row) -> tuple[Column, ...]:
    """Return the columns of a JSON list of rows, in field order: int64 for i, float64 as `float` reads it for d.

    Raises ReplyError. It names the row and the field, both from 1, or shows the first 80 bytes of a body that is not a
    list.
    """
    found = _read(MARGIN + body + MARGIN, row.kinds, row._json)
    return _read_json(body, row) if found is None else found


def parse_csv(text: bytes, row: Row) -> tuple[Column, ...]:
    """Return the columns of CSV text of unquoted numbers, as `parse_rows` does.

    Lines end in LF or CRLF; the last one may lack it. A byte order mark, one header line (its first byte is a letter)
    and blank lines are skipped. A text that was cut between two digits looks whole, so that the caller has to check its
    size or checksum before. Raises ReplyError, which names the row (the header does not count) and the field, from 1.
    """
    pieces = (text[at : at + CSV_PIECE_BYTES] for at in range(0, len(text), CSV_PIECE_BYTES))
    blocks = list(iter_csv(pieces, row))
    if not blocks:
        return row.empty()
    return blocks[0] if len(blocks) == 1 else tuple(np.concatenate(column) for column in zip(*blocks, strict=True))


def iter_csv(pieces: Iterable[bytes], row: Row) -> Iterator[tuple[Column, ...]]:
    """Yield the columns of CSV text that comes in pieces, block by block; see `parse_csv`. They may be read-only.

    Pieces of CSV_PIECE_BYTES are a good size; a reader that wants more at once gets several of them.
    """
    rows = 0
    for lines in _whole_lines(pieces):
        columns = read_block(lines, row.kinds)
        if columns is not None:
            del lines  # before the next ones are made
            rows += len(columns[0])
            yield columns
            continue
        block = lines.replace(b"\r\n", b"\n").removesuffix(b"\r")
        if b"\n\n" in block or block[:1] in (b"", b"\n") or block.endswith(b"\n"):
            block = b"\n".join(line for line in block.split(b"\n") if line)
            if not block:
                continue
        found = _read(MARGIN + b"\n" + block + b"\n" + MARGIN, row.kinds, row._csv)
        columns = _read_lines(block, row, rows) if found is None else found
        rows += len(columns[0])
        yield columns


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole lines of the pieces, without byte order mark, header, and blank lines at the end.

    Lines are yielded once they have the size that the reader of this process wants at once; see `wants_more`.
    """
    begun, rest = False, b""
    lines: list[memoryview] = []
    size = 0
    for piece in pieces:
        rest += piece
        if not begun:
            if b"\n" in rest:
                begun, rest = True, _without_header(rest)
            elif len(rest) <= _LINE_BYTES:
                continue
        # The last line may not be whole yet, and blank lines after it may be the end.
        cut = rest.rstrip(b"\r\n").rfind(b"\n")
        if cut >= 0:
            lines.append(memoryview(rest)[:cut])
            size += cut
            rest = rest[cut + 1 :]
        if lines and not wants_more(size):
            block, lines, size = b"\n".join(lines), [], 0
            yield block
            del block  # before the next one is made
        if len(rest) > _LINE_BYTES:
            raise too_long(rest, _LINE_BYTES)
    if lines:
        yield b"\n".join(lines)
    rest = (rest if begun else _without_header(rest)).rstrip(b"\r\n")
    if rest:
        yield rest


def _without_header(text: bytes) -> bytes:
    text = text.removeprefix(b"\xef\xbb\xbf")
    return text.partition(b"\n")[2] if text[:1].isalpha() else text


def _read(text: bytes, kinds: str, layout: _Layout) -> tuple[Column, ...] | None:
    """Return the columns of the text between the two margins; None where the text does not have the layout."""
    data = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((data[PAD:-PAD] - ZERO) > 9)
    marks += PAD
    tokens = _tokens(data, marks, layout)
    if tokens is None:
        return None
    decimals, read = layout.decimals, layout.decimals + layout.integers
    words = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    wholes = read_digits(words, tokens.first[:read], tokens.point[:read])
    integers = read_integers(data, tokens, wholes, slice(decimals, read))
    floats = read_floats(text, words, tokens, wholes[:decimals])
    if integers is None or floats is None:
        return None
    left: dict[str, Iterator[Column]] = {"i": iter(integers), "d": iter(floats)}
    return tuple(next(left[kind]) for kind in kinds if kind != "x")


def _tokens(data: Bytes, marks: Int64s, layout: _Layout) -> Tokens | None:
    """Return where the numbers stand; None unless all rows have the layout and all numbers are well formed."""
    if len(marks) < 2 or marks[0] != PAD or marks[-1] != len(data) - PAD - 1:
        return None
    chars = data.take(marks)
    if chars[0] != layout.lead or chars[-1] != layout.end:
        return None
    chars[-1] = layout.marks[-1]
    sample = layout.pattern.match(chars[1 : 1 + 2 * len(layout.marks)].tobytes())
    is_uniform = sample is not None and _repeats(chars, np.frombuffer(sample[0], np.uint8))
    if sample is not None and is_uniform:  # every row has its points where the first row has them, and no minus
        bounds, at = _Bounds(sample, layout.order), marks
    else:
        ends = np.flatnonzero((chars - MINUS) > 1)  # the marks that are neither minus nor point
        if not _repeats(chars.take(ends), layout.marks):
            return None
        bounds, at = layout.bounds, marks.take(ends)
    before = at[:-1].reshape(-1, bounds.width).T
    after = at[1:].reshape(-1, bounds.width).T
    # Marks that have to adjoin may have no digits between them, such as `"` and `,`.
    if (after[bounds.run_last] - before[bounds.run_first] != bounds.run_steps).any():
        return None
    first = before[bounds.before] + 1
    last = after[bounds.after]
    if is_uniform:
        minus = np.zeros(first.shape, np.bool_)
        point = after[bounds.point]
        has_point = np.broadcast_to((bounds.point < bounds.after)[:, None], first.shape)
    else:
        minus = data.take(first) == MINUS
        first += minus
        final = ends[1:].reshape(-1, bounds.width).T[bounds.after] - 1  # the mark before the one that ends the field
        has_point = chars.take(final) == POINT
        point = np.where(has_point, marks.take(final), last)
        if (final - ends[:-1].reshape(-1, bounds.width).T[bounds.before] - minus != has_point).any():
            return None
    if (point <= first).any() or (last - point < 2 * has_point).any():
        return None
    return Tokens(first, point, last, minus)


def _repeats(chars: Bytes, row: Bytes) -> bool:
    """Return whether the characters after the first one are whole rows, at least one."""
    return len(chars) > 1 and len(chars) % len(row) == 1 and bool((chars[1:].reshape(-1, len(row)) == row).all())


def _read_json(body: bytes, row: Row) -> tuple[Column, ...]:
    """Return what `parse_rows` returns, read value by value: for bodies with blanks, escapes or errors."""
    try:
        rows = json.loads(body, parse_int=_Bare, parse_float=_Bare, parse_constant=_Bare)
    except (ValueError, RecursionError) as error:
        raise unexpected("a JSON list of rows", body) from error
    if not isinstance(rows, list):
        raise unexpected("a JSON list of rows", body)
    for number, fields in enumerate(rows, 1):
        if not isinstance(fields, list):
            raise ReplyError(f"row {number}: expected a list of {len(row.kinds)} fields, got {_shown(fields)}")
    return _columns(rows, row, 0, {"i": _JSON_INTEGER, "d": _JSON_DECIMAL, "x": _JSON_DECIMAL})


def _read_lines(block: bytes, row: Row, rows_before: int) -> tuple[Column, ...]:
    """Return what `parse_csv` returns, read value by value. No line is blank; `rows_before` rows came before them."""
    lines = [line.split(",") for line in block.decode("ascii", "backslashreplace").split("\n")]
    return _columns(lines, row, rows_before, {"i": _CSV_INTEGER, "d": _CSV_DECIMAL, "x": _CSV_DECIMAL})


def _columns(
    rows: Sequence[Sequence[object]], row: Row, rows_before: int, kinds: Mapping[str, _Kind]
) -> tuple[Column, ...]:
    """Return the columns of rows of text fields; `kinds` says how the file format writes each kind of field."""
    columns: list[list[float]] = [[] for _ in row.kinds]
    for number, fields in enumerate(rows, rows_before + 1):
        if len(fields) != len(row.kinds):
            lacks = f"; {row.field(len(fields))} is missing" if len(fields) < len(row.kinds) else ""
            raise ReplyError(f"row {number}: expected {len(row.kinds)} fields, got {len(fields)}{lacks}")
        for index, (kind, value) in enumerate(zip(row.kinds, fields, strict=True)):
            pattern = _INTEGER if kind == "i" else _DECIMAL
            if type(value) is not kinds[kind].type or not pattern.fullmatch(value):
                raise ReplyError(f"{row.place(number, index)}: expected {kinds[kind].expected}, got {_shown(value)}")
            read = int(value) if kind == "i" else float(value)
            if kind != "x" and math.isinf(read):
                raise ReplyError(f"{row.place(number, index)}: {_shown(value)} is too large for a float64")
            columns[index].append(read)
    return tuple(_column(kind, column) for kind, column in zip(row.kinds, columns, strict=True) if kind != "x")


def _column(kind: str, values: list[float]) -> Column:
    return np.array(values, np.int64) if kind == "i" else np.array(values, np.float64)


class _Bare(str):
    """A number or constant without quotes in JSON."""

    __slots__ = ()


class _Kind(NamedTuple):
    """How a file format writes a kind of field: the type of its text when decoded, and the words of an error."""

    type: type[str]
    expected: str


_JSON_INTEGER = _Kind(_Bare, "an integer of at most 18 digits, without quotes")
_JSON_DECIMAL = _Kind(str, "a decimal in quotes, without an exponent")
_CSV_INTEGER = _Kind(str, "an integer of at most 18 digits")
_CSV_DECIMAL = _Kind(str, "a decimal without an exponent")


def _shown(value: object) -> str:
    """Return the value for a message: cut to a readable length, and without quotes where JSON had none."""
    return brief(str(value)).strip("'") if isinstance(value, _Bare) else brief(value)
