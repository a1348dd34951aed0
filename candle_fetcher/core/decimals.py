"""Decimal text to float64 and int64 columns and back, exact to the last bit, whole columns at a time.

Reading: `parse_rows` (a JSON list of rows) and `parse_csv` give the float64 that `float(text)` gives, or raise.
The kernel finds every byte that is not a digit, demands that these marks repeat the declared row, reads eight
digits per step as one 64-bit word, and divides once. What it does not recognise goes to a careful reader, which
returns the same columns or names the row and the field. `parse_tokens` reads numbers of which others know where they
stand, `load_json` is for replies of another shape.

Writing: `format_rows` gives CSV lines in which each number is the shortest text that reads back the same float64,
never an exponent.

No Python object is made per value, except for numbers that are rare in market data (see `_floats` and `_positional`).
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import InputError, ReplyError

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]  # four characters each
Column = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
# Unix ms that are to be written as times.
Times = npt.NDArray[np.datetime64]
_TIMES = np.dtype("datetime64[ms]")

_EXPECTED = {"i": "an integer of at most 18 digits", "d": "a decimal", "x": "a decimal"}
# At most 18 digits, so that every integer fits an int64; no leading zero, which JSON forbids.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")

# As uint8, so that arithmetic with bytes wraps around and stays uint8.
_ZERO, _POINT, _MINUS = np.frombuffer(b"0.-", np.uint8)
# Words of eight bytes are loaded where a number begins, and may run past its end.
_PAD = 8
_MARGIN = b"0" * _PAD
CSV_PIECE_BYTES = 1 << 18
# Beyond any row, and any run of blank lines: what has no line end is not gathered for ever.
_LINE_BYTES = 1 << 16
_BLOCK_ROWS = 8192
# Of an integer in JSON, its minus too.
_MOST_DIGITS = 40

_DAY_MS = 86_400_000
_YEAR_1_MS = -62_135_596_800_000
_YEAR_10000_MS = 253_402_300_800_000

# `,false` and `,true`, each in two words.
_FLAG_WORDS = np.frombuffer(b",fal,truse\0\0e\0\0\0", np.uint32).reshape(2, 2)

_U = np.uint64
_TEN_TO = 10 ** np.arange(17, dtype=np.int64)
_TEN_TO_FLOAT = _TEN_TO.astype(np.float64)
_SMALL_WHOLE = 2**53 // _TEN_TO  # with k decimals and a whole part below the k-th, the mantissa is below 2**53


class Row:
    """The fields of a row: `Row("open_time:i open:d … ignore:x")`, or without names `Row("i d x")`.

    i is an integer of at most 18 digits, d a decimal (in JSON a quoted one), x a decimal that is checked and not
    returned.
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
        """How an error names a field; `row` counts from 1, `index` from 0."""
        name = f" ({self.names[index]})" if index < len(self.names) and self.names[index] else ""
        return f"row {row}, field {index + 1}{name}"

    def empty(self) -> tuple[Column, ...]:
        """The columns of no rows."""
        return tuple(_column(kind, []) for kind in self.kinds if kind != "x")


class _Layout:
    """A row as one container writes it; in the sample each field is a `0`.

    Marks are the bytes other than digits. The last of a row's marks separates it from the next row; `lead` stands
    before the first row, and `end` after the last one where a separator would stand.
    """

    __slots__ = ("bounds", "decimals", "end", "integers", "lead", "marks", "order", "pattern")

    def __init__(self, kinds: str, lead: str, sample: str, end: str) -> None:
        self.lead = ord(lead)
        self.end = ord(end)
        self.marks = np.array([ord(char) for char in sample if char != "0"], np.uint8)
        # Fields are handled in this order: decimals, integers, unread.
        self.order = sorted(range(len(kinds)), key=lambda field: "dix".index(kinds[field]))
        self.decimals = kinds.count("d")
        self.integers = kinds.count("i")
        self.pattern = re.compile(re.escape(sample).replace("0", "([.]?)").encode())
        plain = self.pattern.match(self.marks.tobytes())
        assert plain is not None
        self.bounds = _Bounds(plain, self.order)


class _Bounds:
    """Which marks of a row bound its fields, and which stand side by side.

    Field f lies between the mark before[f], counted from the mark that ends the previous row, and the mark after[f],
    counted from the row's first; point[f] is its point, counted likewise, or after[f] where it has none. Runs of
    marks without a field between them go from run_first (counted as `before`) to run_last (counted as `after`).
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
    """The columns of a JSON list of rows, in field order: int64 for i, float64 for d, equal to what `float` reads.

    Raises ReplyError with row and field (both from 1), or the first 80 bytes where the body is no list.
    """
    found = _read(_MARGIN + body + _MARGIN, row.kinds, row._json)
    return _read_json(body, row) if found is None else found


def parse_csv(text: bytes, row: Row) -> tuple[Column, ...]:
    """The columns of CSV text of unquoted numbers, as `parse_rows`.

    Lines end in LF or CRLF, the last one may lack it; a byte order mark, one header line (its first byte is a
    letter) and blank lines are passed over. A text cut between two digits cannot be told from a whole
    one: check its size or checksum first. Raises ReplyError with row (without the header) and field, from 1.
    """
    pieces = (text[at : at + CSV_PIECE_BYTES] for at in range(0, len(text), CSV_PIECE_BYTES))
    blocks = list(iter_csv(pieces, row))
    if not blocks:
        return row.empty()
    return blocks[0] if len(blocks) == 1 else tuple(np.concatenate(column) for column in zip(*blocks, strict=True))


def iter_csv(pieces: Iterable[bytes], row: Row) -> Iterator[tuple[Column, ...]]:
    """The columns of CSV text that comes in pieces, block by block, as `parse_csv`; CSV_PIECE_BYTES suits them."""
    rows = 0
    for lines in _whole_lines(pieces):
        block = lines.replace(b"\r\n", b"\n").removesuffix(b"\r")
        if b"\n\n" in block or block[:1] in (b"", b"\n") or block.endswith(b"\n"):
            block = b"\n".join(line for line in block.split(b"\n") if line)
            if not block:
                continue
        found = _read(_MARGIN + b"\n" + block + b"\n" + _MARGIN, row.kinds, row._csv)
        columns = _read_lines(block, row, rows) if found is None else found
        rows += len(columns[0])
        yield columns


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of the text, as many at a time as a piece brings, less byte order mark, header and blank end."""
    begun, rest = False, b""
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
            yield rest[:cut]
            rest = rest[cut + 1 :]
        if len(rest) > _LINE_BYTES:
            raise ReplyError(f"a line, or blank lines, of more than {_LINE_BYTES:,} bytes: {rest[:80]!r}")
    rest = (rest if begun else _without_header(rest)).rstrip(b"\r\n")
    if rest:
        yield rest


def _without_header(text: bytes) -> bytes:
    text = text.removeprefix(b"\xef\xbb\xbf")
    return text.partition(b"\n")[2] if text[:1].isalpha() else text


class _Tokens(NamedTuple):
    """Where the numbers stand in the text, each an array (fields x rows). Whole digits are [first, point), decimals
    [point + 1, last); point == last where there is none. `minus`: a minus stands before `first`."""

    first: Int64s
    point: Int64s
    last: Int64s
    minus: npt.NDArray[np.bool_]


def _read(text: bytes, kinds: str, layout: _Layout) -> tuple[Column, ...] | None:
    """The columns of the text between the two margins; None wherever in doubt."""
    data = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((data[_PAD:-_PAD] - _ZERO) > 9)
    marks += _PAD
    tokens = _tokens(data, marks, layout)
    if tokens is None:
        return None
    decimals, read = layout.decimals, layout.decimals + layout.integers
    words = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    wholes = _digits(words, tokens.first[:read], tokens.point[:read])
    integers = _integers(data, tokens, wholes, slice(decimals, read))
    floats = _floats(text, words, tokens, wholes[:decimals])
    if integers is None or floats is None:
        return None
    left: dict[str, Iterator[Column]] = {"i": iter(integers), "d": iter(floats)}
    return tuple(next(left[kind]) for kind in kinds if kind != "x")


def _tokens(data: Bytes, marks: Int64s, layout: _Layout) -> _Tokens | None:
    """The numbers between the marks; None unless every row is written as declared and every number well formed."""
    if len(marks) < 2 or marks[0] != _PAD or marks[-1] != len(data) - _PAD - 1:
        return None
    chars = data.take(marks)
    if chars[0] != layout.lead or chars[-1] != layout.end:
        return None
    chars[-1] = layout.marks[-1]
    sample = layout.pattern.match(chars[1 : 1 + 2 * len(layout.marks)].tobytes())
    alike = sample is not None and _repeats(chars, np.frombuffer(sample[0], np.uint8))
    if sample is not None and alike:
        bounds, at = _Bounds(sample, layout.order), marks
    else:
        ends = np.flatnonzero((chars - _MINUS) > 1)  # the marks that are neither minus nor point
        if not _repeats(chars.take(ends), layout.marks):
            return None
        bounds, at = layout.bounds, marks.take(ends)
    before = at[:-1].reshape(-1, bounds.width).T
    after = at[1:].reshape(-1, bounds.width).T
    # Digits between `"` and `,` are as wrong as a missing mark.
    if (after[bounds.run_last] - before[bounds.run_first] != bounds.run_steps).any():
        return None
    first = before[bounds.before] + 1
    last = after[bounds.after]
    if alike:
        minus = np.zeros(first.shape, np.bool_)
        point = after[bounds.point]
        has_point = np.broadcast_to((bounds.point < bounds.after)[:, None], first.shape)
    else:
        minus = data.take(first) == _MINUS
        first += minus
        final = ends[1:].reshape(-1, bounds.width).T[bounds.after] - 1  # the mark before the one that ends the field
        has_point = chars.take(final) == _POINT
        point = np.where(has_point, marks.take(final), last)
        if (final - ends[:-1].reshape(-1, bounds.width).T[bounds.before] - minus != has_point).any():
            return None
    if (point <= first).any() or (last - point < 2 * has_point).any():
        return None
    return _Tokens(first, point, last, minus)


def _repeats(chars: Bytes, row: Bytes) -> bool:
    """Whether the characters after the first are whole rows, at least one."""
    return len(chars) > 1 and len(chars) % len(row) == 1 and bool((chars[1:].reshape(-1, len(row)) == row).all())


def _digits(words: Uint64s, first: Int64s, last: Int64s) -> Int64s:
    """The integers written at [first, last), at most 16 digits each; anything where there are more."""
    length = last - first
    found = _eight(words, np.maximum(first, last - 8), length)
    long = np.flatnonzero(length > 8)
    if len(long):
        above = _eight(words, first.take(long), length.take(long) - 8)
        above *= 10**8
        above += found.take(long)
        found.put(long, above)
    return found


def _eight(words: Uint64s, first: Int64s, length: Int64s) -> Int64s:
    """The integers of the first `length` (here at most 8) of the eight digits at `first`.

    The first digit is the lowest byte of the little-endian word. Shifting the word up by the missing digits drops what
    follows the number and puts zeros before it; then neighbours are joined: digits to pairs, to fours, to eight.
    """
    word = words[first]
    word <<= (np.maximum(8 - length, 0) << 3).view(np.uint64)  # a shift by 64 gives 0
    word &= _U(0x0F0F0F0F0F0F0F0F)
    word *= _U(10 << 8 | 1)
    word >>= _U(8)
    word &= _U(0x00FF00FF00FF00FF)
    word *= _U(100 << 16 | 1)
    word >>= _U(16)
    word &= _U(0x0000FFFF0000FFFF)
    word *= _U(10000 << 32 | 1)
    word >>= _U(32)
    return word.view(np.int64)


def _integers(data: Bytes, tokens: _Tokens, wholes: Int64s, fields: slice) -> Int64s | None:
    """The integer fields; None where one has a point, more than 16 digits or a leading zero."""
    first, last = tokens.first[fields], tokens.last[fields]
    length = last - first
    if (tokens.point[fields] != last).any() or (length > 16).any() or ((data[first] == _ZERO) & (length > 1)).any():
        return None
    found = wholes[fields]
    np.negative(found, out=found, where=tokens.minus[fields])
    return found


def _floats(text: bytes, words: Uint64s, tokens: _Tokens, wholes: Int64s) -> Floats | None:
    """The decimal fields, correctly rounded; None where one overflows.

    With m the digits as one integer and k decimals, the number is m / 10**k. Both are exact float64 while m < 2**53
    and k <= 22, and IEEE division rounds the exact quotient, once: the result is the nearest float64 (Clinger 1990).

    Larger m, with k <= 8 and a whole part w < 2**53: w + f, where f is the fraction's digits / 10**k, rounded. f < 1
    is off by at most 2**-54. The halfway points between the floats near w + f are multiples of 2**-s, s = 54 - b,
    where w has b bits; unless it is one of them, the exact fraction differs from them by at least 2**-s * 5**-k (over
    the common denominator, numerators differ by 1). m >= 2**53 with k <= 8 means b >= 27, so that is above 2**-46: the
    rounded f lies on the same side of each halfway point, and the addition rounds to where w + f exactly would.

    What is left (more digits than that) is read one by one; no Binance reply is known to have it.
    """
    rows = slice(0, len(wholes))
    first, point, last = tokens.first[rows], tokens.point[rows], tokens.last[rows]
    fraction_first = np.minimum(point + 1, last)
    count = last - fraction_first
    fractions = _digits(words, fraction_first, last)
    at = np.minimum(count, 16)
    if (at == at[:, :1]).all():
        at = at[:, :1]
    scale = _TEN_TO_FLOAT[at]
    found = (wholes * _TEN_TO[at] + fractions) / scale
    rare = (wholes >= _SMALL_WHOLE[at]) | (count > 16) | (point - first > 16)
    if rare.any():
        summed = rare & (wholes < 2**53) & (count <= 8) & (point - first <= 16)
        found[summed] = wholes[summed] + fractions[summed] / np.broadcast_to(scale, found.shape)[summed]
        for place in zip(*np.nonzero(rare & ~summed), strict=True):
            found[place] = float(text[first[place] : last[place]])
        if not np.isfinite(found).all():
            return None
    np.negative(found, out=found, where=tokens.minus[rows])
    return found


def parse_tokens(text: bytes, first: Int64s, point: Int64s, last: Int64s) -> Floats | None:
    """The float64 of the decimals that stand at [first, last) in the text, each array of the shape (fields, rows); as
    `float` reads them, None wherever in doubt.

    There are digits alone at [first, point) and at [point + 1, last), which the caller knows; `point` is `last` where
    there is none.
    """
    has_point = point < last
    if (point <= first).any() or (last - point < 2 * has_point).any():
        return None
    # Words of eight bytes are loaded where numbers begin and where they end.
    margin = 0 if first.size and first.min() >= _PAD and last.max() + _PAD <= len(text) else _PAD
    padded = _MARGIN + text + _MARGIN if margin else text
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    tokens = _Tokens(first + margin, point + margin, last + margin, np.zeros(first.shape, np.bool_))
    return _floats(padded, words, tokens, _digits(words, tokens.first, tokens.point))


def load_json(body: bytes, wanted: str) -> Any:
    """The value of a JSON body. Raises ReplyError, which says what was `wanted`, where it is no JSON, is nested without
    end, or holds what JSON does not know (NaN) or nobody means: an integer of thousands of digits takes minutes."""
    try:
        return json.loads(body, parse_int=_int, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"expected {wanted}, got {len(body)} bytes: {repr(body[:80])[:200]}") from error


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _read_json(body: bytes, row: Row) -> tuple[Column, ...]:
    """As `parse_rows`, one value at a time, for bodies with blanks, escapes or errors."""
    wanted = f"expected a JSON list of rows, got {len(body)} bytes: {repr(body[:80])[:200]}"
    try:
        rows = json.loads(body, parse_int=_Bare, parse_float=_Bare, parse_constant=_Bare)
    except (ValueError, RecursionError) as error:
        raise ReplyError(wanted) from error
    if not isinstance(rows, list):
        raise ReplyError(wanted)
    for number, fields in enumerate(rows, 1):
        if not isinstance(fields, list):
            raise ReplyError(f"row {number}: expected a list of {len(row.kinds)} fields, got {_shown(fields)}")
    return _columns(rows, row, 0, {"i": _Bare, "d": str, "x": str})


def _read_lines(block: bytes, row: Row, rows_before: int) -> tuple[Column, ...]:
    """As `parse_csv` for lines without blank ones, one value at a time."""
    lines = [line.split(",") for line in block.decode("ascii", "backslashreplace").split("\n")]
    return _columns(lines, row, rows_before, dict.fromkeys("idx", str))


def _columns(
    rows: Sequence[Sequence[object]], row: Row, rows_before: int, types: Mapping[str, type[str]]
) -> tuple[Column, ...]:
    """The columns of rows of text fields, each of exactly the type of its kind."""
    columns: list[list[float]] = [[] for _ in row.kinds]
    for number, fields in enumerate(rows, rows_before + 1):
        if len(fields) != len(row.kinds):
            place = row.place(number, min(len(fields), len(row.kinds)))
            raise ReplyError(
                f"{place}: {'missing' if len(fields) < len(row.kinds) else 'too many'}; "
                f"expected {len(row.kinds)} fields, got {len(fields)}"
            )
        for index, (kind, value) in enumerate(zip(row.kinds, fields, strict=True)):
            pattern = _INTEGER if kind == "i" else _DECIMAL
            if type(value) is not types[kind] or not pattern.fullmatch(value):
                raise ReplyError(f"{row.place(number, index)}: expected {_EXPECTED[kind]}, got {_shown(value)}")
            read = int(value) if kind == "i" else float(value)
            if kind != "x" and math.isinf(read):
                raise ReplyError(f"{row.place(number, index)}: {_shown(value)} is too large for a float64")
            columns[index].append(read)
    return tuple(_column(kind, column) for kind, column in zip(row.kinds, columns, strict=True) if kind != "x")


def _column(kind: str, values: list[float]) -> Column:
    return np.array(values, np.int64) if kind == "i" else np.array(values, np.float64)


class _Bare(str):
    """A number or constant that stands in JSON without quotes."""

    __slots__ = ()


def _shown(value: object) -> str:
    """The value as it came, cut to a readable length."""
    return reprlib.repr(str(value)).strip("'") if isinstance(value, _Bare) else reprlib.repr(value)


def format_rows(open_ms: Int64s, columns: Sequence[Column | Times | Flags]) -> bytes:
    """CSV lines `2024-01-01 00:00:00,42283.58,…` (UTC; `.789` where a time has milliseconds), each ended by LF.

    Every float64 is the shortest text that reads back the same, without exponent: 42283.0 is `42283`, -0.0 `-0`, NaN
    an empty field. int64 columns are integers, datetime64[ms] columns times, bool columns `true` and `false`. Raises
    InputError for a time outside the years 1 to 9999.
    """
    for column in columns:
        if column.dtype not in (np.float64, np.int64, np.bool_, _TIMES) or column.shape != open_ms.shape:
            raise InputError(
                f"a column of {column.dtype} {column.shape}; expected float64, int64, bool or ms {open_ms.shape}"
            )
    if len(open_ms) and (open_ms.min() < _YEAR_1_MS or open_ms.max() >= _YEAR_10000_MS):
        raise InputError(f"open times {open_ms.min()} to {open_ms.max()} ms; expected the years 1 to 9999")
    blocks = []
    for start in range(0, len(open_ms), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        blocks.append(_lines(open_ms[block], [column[block] for column in columns]))
    if blocks:
        blocks[0] = blocks[0][1:]  # each line came with its line end in front
        blocks.append(b"\n")
    return b"".join(blocks)


def _lines(open_ms: Int64s, columns: Sequence[Column | Times | Flags]) -> bytes:
    """The lines of a block, each with its line end in front.

    Every line is a row of the same four-byte words, in which the byte 0 stands for nothing and is deleted at the end.
    """
    words = _time_words(open_ms)
    odd = np.zeros((len(open_ms), len(columns)), np.bool_)
    for index, column in enumerate(columns):
        if column.dtype == _TIMES:
            first, *others = _time_words(column.view(np.int64))
            words += [_comma_first(first), *others]
        elif column.dtype == np.bool_:
            words += [words_of.take(column.view(np.int8)) for words_of in _FLAG_WORDS]
        elif column.dtype == np.int64:
            whole = column.view(np.int64)
            words += _signed(whole < 0, _whole_words(np.abs(whole).view(np.uint64)))
        else:
            words += _float_words(column.astype(np.float64, copy=False), odd[:, index])
    text = np.stack(words, axis=1).tobytes().translate(None, b"\0")
    if not odd.any():
        return text
    rows, fields = np.nonzero(odd)
    pieces = text.split(_LATER)
    texts = [b""] * (2 * len(pieces) - 1)
    texts[::2] = pieces
    for field, column in enumerate(columns):
        at = np.flatnonzero(fields == field)
        for place, value in zip(at.tolist(), column[rows[at]].tolist(), strict=True):
            texts[2 * place + 1] = _positional(value)
    return b"".join(texts)


def _time_words(open_ms: Int64s) -> list[Words]:
    """`LF 2024-01-01 00:00:00` in five words, and a sixth where any time has milliseconds."""
    days = open_ms // _DAY_MS
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))  # a day's text is made once per run of rows
    counts = np.diff(starts, append=len(days))
    dates = days[starts].astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    day = (dates - months).astype(np.int64)
    month = months.astype(np.int64) + 1970 * 12
    second, ms = np.divmod(open_ms - days * _DAY_MS, 1000)
    words = [
        np.repeat(_LF_YEARS.take(month // 120), counts),
        np.repeat(_YEAR_MONTHS.take(month % 120), counts),
        np.repeat(_DAYS.take(day), counts),
        _HOURS.take(second // 600),
        _SECONDS.take(second % 600),
    ]
    return [*words, _MILLISECONDS.take(ms)] if ms.any() else words


def _comma_first(words: Words) -> Words:
    """The words with a comma in place of their first byte."""
    chars = words.copy().view(np.uint8)
    chars[::4] = ord(",")
    return chars.view(np.uint32)


def _float_words(values: Floats, odd: npt.NDArray[np.bool_]) -> list[Words]:
    """The words of `,` and each number; sets `odd` where a byte that stands for a later text is written instead.

    A number of at most 15 significant digits is the only one of so few that reads as its float64 (DBL_DIG). So where
    m = rint(v * 10**8) < 10**15 and m / 10**8 == v, m without its trailing zeros is the shortest text.
    """
    size = np.abs(values)
    with np.errstate(over="ignore"):
        mantissa = np.rint(size * 1e8)
    short = (mantissa < 1e15) & (mantissa / 1e8 == size)
    scaled = np.where(short, mantissa, 0).astype(np.int64)
    whole = scaled // 10**8
    fraction = scaled - whole * 10**8
    if not short.all():
        rest = np.flatnonzero(~short)
        known, whole[rest], fraction[rest] = _long_digits(size[rest])
        odd[rest[~known]] = True
    words = _whole_words(whole.view(np.uint64)) + _fraction_words(fraction)
    missing = np.isnan(values)
    odd &= ~missing
    blank = odd | missing
    if blank.any():
        for word in words:
            word[blank] = 0
        words[0][missing] = _COMMA_WORD
        words[0][odd] = _LATER_WORD
    return _signed(np.signbit(values) & ~blank, words)


def _long_digits(size: Floats) -> tuple[npt.NDArray[np.bool_], Int64s, Int64s]:
    """Whether the shortest text is known, its whole part and its fraction in 10**-8; for numbers of over 15 digits.

    For each count of significant digits from 15 to 17, the integer m nearest to v * 10**k is the one candidate, k the
    decimals that leaves. (Powers of two, whose neighbours lie at two distances, are integers here.) The product is
    exact as p + e: 10**k has at most 27 bits, so v is split in two that give exact products (Dekker 1971). v >= 10**7
    is a multiple of 2**-29, hence so are e and what p has behind the point, and their sum is exact. Whether m reads as
    v is answered by the sum of `_floats`: v has b >= 24 bits before the point, and 2**-54 < 2**-(54 - b) * 5**-k.
    """
    known = np.zeros(len(size), np.bool_)
    wholes, fractions = np.zeros((2, len(size)), np.int64)
    within = np.flatnonzero((size >= 1e7) & (size < 2**53))
    for digits in (15, 16, 17):
        v = size[within]
        places = np.clip(digits - np.searchsorted(_TEN_TO, v, side="right"), 0, 8)
        scale = _TEN_TO_FLOAT[places]
        p = v * scale
        high = v * (2**27 + 1)
        high -= high - v
        e = (high * scale - p) + (v - high) * scale
        below = np.floor(p)
        behind = (p - below) + e
        step = np.floor(behind)
        m = below.astype(np.int64) + step.astype(np.int64)
        behind -= step
        m += (behind > 0.5) | ((behind == 0.5) & (m & 1 == 1))
        whole, fraction = np.divmod(m, _TEN_TO[places])
        found = whole + fraction / scale == v
        at = within[found]
        known[at] = True
        wholes[at] = whole[found]
        fractions[at] = fraction[found] * _TEN_TO[8 - places[found]]
        within = within[~found]
    return known, wholes, fractions


def _whole_words(values: Uint64s) -> list[Words]:
    """The words of `,` and each integer, without leading zeros: one of three digits, then as many of four as needed."""
    words: list[Words] = []
    largest = values.max()
    table = _UNITS
    while largest >= 1000:
        above = values // _U(10_000)
        words.append(table.take((values - above * _U(10_000) + (above > 0) * _U(10_000)).view(np.int64)))
        table = _UPPER
        largest //= _U(10_000)
        values = above
    words.append((_COMMA_UPPER if words else _COMMA_UNITS).take(values.view(np.int64)))
    return words[::-1]


def _fraction_words(values: Int64s) -> list[Words]:
    """The words of `.` and each fraction, given in 10**-8, without trailing zeros: three digits, four, one."""
    if not values.any():
        return []
    first = values // 100_000
    rest = values - first * 100_000
    if not rest.any():
        return [_POINT_LAST.take(first)]
    second = rest // 10
    third = rest - second * 10
    words = [_POINT_LAST.take(first + (rest > 0) * 1000), _LAST.take(second + (third > 0) * 10_000)]
    return [*words, _EIGHTH.take(third)] if third.any() else words


def _signed(minus: npt.NDArray[np.bool_], words: list[Words]) -> list[Words]:
    """The words with `-` behind the `,` where asked: then the comma gets a word of its own."""
    if not minus.any():
        return words
    text = words[0].view(np.uint8).reshape(-1, 4)
    head = np.zeros_like(text)
    head[:, 0] = text[:, 0]
    head[:, 1] = minus * _MINUS
    text[:, 0] = 0
    return [head.view(np.uint32).ravel(), *words]


def _positional(value: float) -> bytes:
    """The shortest text of any float64, without exponent."""
    text = repr(value)
    if "e" in text:
        text = np.format_float_positional(value, unique=True, trim="-")
    return text.removesuffix(".0").encode()


def _table(texts: Iterable[str]) -> Words:
    """The four-byte words of the texts; `_` is the byte that stands for nothing."""
    return np.frombuffer("".join(texts).replace("_", "\0").encode(), np.uint32)


_LF_YEARS = _table(f"\n{decade:03}" for decade in range(1000))
_YEAR_MONTHS = _table(f"{year}-{month:02}" for year in range(10) for month in range(1, 13))
_DAYS = _table(f"-{day:02} " for day in range(1, 32))
_HOURS = _table(f"{hour:02}:{tens}" for hour in range(24) for tens in range(6))
_SECONDS = _table(f"{minute}:{second:02}" for minute in range(10) for second in range(60))
_MILLISECONDS = _table(["____", *(f".{ms:03}" for ms in range(1, 1000))])

_FULL = [f"{n:04}" for n in range(10_000)]
# Four digits where nothing stands before them, then where something does.
_UPPER = _table([*(f"{n or '':_>4}" for n in range(10_000)), *_FULL])
_UNITS = _table([*(f"{n:_>4}" for n in range(10_000)), *_FULL])
_COMMA_UPPER = _table(f",{n or '':_>3}" for n in range(1000))
_COMMA_UNITS = _table(f",{n:_>3}" for n in range(1000))
# Digits behind the point where none follows, then where one does.
_LAST = _table([*(f"{text.rstrip('0'):_<4}" for text in _FULL), *_FULL])
_POINT_LAST = _table(
    [*(f".{n:03}".rstrip(".0").ljust(4, "_") for n in range(1000)), *(f".{n:03}" for n in range(1000))]
)
_EIGHTH = _table(f"{n or '':_<4}" for n in range(10))
_LATER = b"\x01"  # stands for a text that is put in after the words are joined
_COMMA_WORD, _LATER_WORD = _table([",___", ",\x01__"])
