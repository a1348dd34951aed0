"""CSV lines written from columns: exact, fast, and never with an exponent.

`format_rows` and `format_fields` write each float64 as the shortest text that reads back as the same value, or, where
asked, rounded to a number of decimals. Only numbers that are rare in market data become a Python object (see
`_positional` and `_rounded`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.ranges import YEAR_1_MS, YEAR_10000_MS
from candle_fetcher.core.text.decimals import MINUS, TEN_TO, TEN_TO_FLOAT, Column, Floats, Int64s, Uint64s
from candle_fetcher.core.timeframe import DAY_MS

Words = npt.NDArray[np.uint32]  # four characters each
Flags = npt.NDArray[np.bool_]
Times = npt.NDArray[np.datetime64]  # of milliseconds
_TIMES = np.dtype("datetime64[ms]")
BLOCK_ROWS = 8192
_U = np.uint64
_LF, _COMMA = b"\n,"
# `,false` and `,true`, each in two words.
_FLAG_WORDS = np.frombuffer(b",fal,truse\0\0e\0\0\0", np.uint32).reshape(2, 2)


def format_rows(open_ms: Int64s, columns: Sequence[Column | Times | Flags]) -> bytes:
    """Return CSV lines such as `2024-01-01 00:00:00,42283.58`, each ended by LF; `open_ms` is the first field.

    See `format_fields`. Raises InputError for a time outside the years 1 to 9999, and for a column of another type or
    length.
    """
    return format_fields([open_ms.view(_TIMES), *columns])


def format_fields(
    columns: Sequence[Column | Times | Flags],
    separator: str = ",",
    point: str = ".",
    places: Sequence[int | None] | None = None,
) -> bytes:
    """Return lines with these columns, in this order, each ended by LF.

    datetime64[ms] columns are times in UTC, with `.789` where they have milliseconds. int64 columns become integers,
    bool columns `true` and `false`. Each float64 is the shortest text without an exponent that reads back as the same
    value: 42283.0 is `42283`, -0.0 is `-0`, NaN is an empty field. Where `places` has a number for the column (0 to
    18), it has that many decimals, and the exact value is rounded to them, half to even. `separator` and `point` are
    one ASCII character each. A time has the same sign before its milliseconds, since spreadsheets take it for a time
    only so (ISO 8601 allows both).

    Raises InputError for a time outside the years 1 to 9999 (NaT too), and for a column of another type or length.
    """
    count = _check(columns)
    leads = b"\n" + b"," * (len(columns) - 1)
    marks = bytes.maketrans(b",.", f"{separator}{point}".encode("ascii"))
    blocks = []
    for start in range(0, count, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        blocks.append(_lines([column[block] for column in columns], leads, marks, places or [None] * len(columns)))
    if blocks:
        blocks[0] = blocks[0][1:]  # each line came with its line end in front
        blocks.append(b"\n")
    return b"".join(blocks)


def format_objects(columns: Sequence[Column | Times | Flags], names: Sequence[str]) -> bytes:
    """Return JSON objects, one a line, such as `{"timestamp":"2024-01-01T00:00:00Z","open":42283.58}`, each ended by
    LF. `names` are the columns' names, at most 127.

    Times are UTC, `...:00.789Z` where they have milliseconds. Numbers are as in `format_fields`, without a fixed number
    of decimals; a missing value is null. Raises InputError as that does.
    """
    count = _check(columns)
    leads = bytes(range(0x80, 0x80 + len(columns)))  # one byte for the text before each value, put in at the end
    marks = bytes.maketrans(b" ", b"T")
    texts = []
    end = b""
    for at, (name, column) in enumerate(zip(names, columns, strict=True)):
        quote = b'"' if column.dtype == _TIMES else b""
        texts.append(end + (b"," if at else b"}\n{") + json.dumps(name).encode() + b":" + quote)
        end = b'Z"' if quote else b""
    last = end + b"}\n"
    texts[0] = end + texts[0]
    blocks = []
    for start in range(0, count, BLOCK_ROWS):
        block = [column[start : start + BLOCK_ROWS] for column in columns]
        text = _lines(block, leads, marks, [None] * len(columns)) + leads[:1]
        for at, column in enumerate(block):
            if column.dtype == np.float64 and np.isnan(column).any():
                around = bytes([leads[at], leads[(at + 1) % len(leads)]])
                for _ in range(1 + (len(leads) == 1)):  # once more where two gaps share a byte
                    text = text.replace(around, around[:1] + b"null" + around[1:])
        text = text[1:-1]
        for lead, before in zip(leads, texts, strict=True):
            text = text.replace(bytes([lead]), before)
        blocks += [texts[0].rpartition(b"\n")[2], text, last]
    return b"".join(blocks)


def _check(columns: Sequence[Column | Times | Flags]) -> int:
    """Return the number of rows. Raises InputError for a column of another type, or of another length than the first,
    and for a time outside the years 1 to 9999."""
    shape = columns[0].shape
    for column in columns:
        if column.dtype not in (np.float64, np.int64, np.bool_, _TIMES) or column.shape != shape or len(shape) != 1:
            raise InputError(f"a column of {column.dtype} {column.shape}; expected float64, int64, bool or ms {shape}")
        if column.dtype == _TIMES and len(column):
            ms = column.view(np.int64)
            if ms.min() < YEAR_1_MS or ms.max() >= YEAR_10000_MS:
                raise InputError(f"open times {ms.min()} to {ms.max()} ms; expected the years 1 to 9999")
    return len(columns[0])


def _lines(
    columns: Sequence[Column | Times | Flags], leads: bytes, marks: bytes, places: Sequence[int | None]
) -> bytes:
    """Return the rows of a block. Each field has its byte of `leads` in front; `marks` translates all bytes at the end.

    Every line has the same number of four-byte words. The byte 0 is a filler and is deleted at the end.
    """
    words: list[Words] = []
    odd = np.zeros((len(columns[0]), len(columns)), np.bool_)
    for index, column in enumerate(columns):
        if column.dtype == _TIMES:
            first, *others = _time_words(column.view(np.int64))
        elif column.dtype == np.bool_:
            first, *others = [words_of.take(column.view(np.int8)) for words_of in _FLAG_WORDS]
        elif column.dtype == np.int64:
            whole = column.view(np.int64)
            first, *others = _signed(whole < 0, _whole_words(np.abs(whole).view(np.uint64)))
        else:
            first, *others = _float_words(column.astype(np.float64, copy=False), odd[:, index], places[index])
        if leads[index] != (_LF if column.dtype == _TIMES else _COMMA):
            first = _begun_by(leads[index], first)
        words += [first, *others]
    text = np.stack(words, axis=1).tobytes().translate(marks, b"\0")
    if not odd.any():
        return text
    rows, fields = np.nonzero(odd)
    pieces = text.split(_LATER)
    texts = [b""] * (2 * len(pieces) - 1)
    texts[::2] = pieces
    for field, column in enumerate(columns):
        at = np.flatnonzero(fields == field)
        for place, value in zip(at.tolist(), column[rows[at]].tolist(), strict=True):
            number = _positional(value) if (count := places[field]) is None else _rounded(value, count)
            texts[2 * place + 1] = number.translate(marks)
    return b"".join(texts)


def _time_words(open_ms: Int64s) -> list[Words]:
    """Return the words of LF and `2024-01-01 00:00:00`: five, and a sixth where any time has milliseconds."""
    days = open_ms // DAY_MS
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))  # a day's text is made once per run of rows
    counts = np.diff(starts, append=len(days))
    dates = days[starts].astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    day = (dates - months).astype(np.int64)
    month = months.astype(np.int64) + 1970 * 12
    of_day = (open_ms - days * DAY_MS).astype(np.uint32)
    second = of_day // np.uint32(1000)
    ms = of_day - second * np.uint32(1000)
    tens = second // np.uint32(600)
    words = [
        np.repeat(_LF_YEARS.take(month // 120), counts),
        np.repeat(_YEAR_MONTHS.take(month % 120), counts),
        np.repeat(_DAYS.take(day), counts),
        _HOURS.take(tens),
        _SECONDS.take(second - tens * np.uint32(600)),
    ]
    return [*words, _MILLISECONDS.take(ms)] if ms.any() else words


def _begun_by(lead: int, words: Words) -> Words:
    """Return the words with another first byte."""
    chars = words.copy().view(np.uint8)
    chars[::4] = lead
    return chars.view(np.uint32)


def _float_words(values: Floats, odd: npt.NDArray[np.bool_], places: int | None) -> list[Words]:
    """Return the words of `,` and each number. Where `odd` is set, a placeholder stands for a text inserted later."""
    size = np.abs(values)
    known, whole, fraction = _digits(size) if places is None else _rounded_digits(size, places)
    odd |= ~known
    decimals = _fraction_words(fraction) if places is None else _fixed_words(fraction, places)
    words = _whole_words(whole.view(np.uint64)) + decimals
    missing = np.isnan(values)
    odd &= ~missing
    blank = odd | missing
    if blank.any():
        for word in words:
            word[blank] = 0
        words[0][missing] = _COMMA_WORD
        words[0][odd] = _LATER_WORD
    return _signed(np.signbit(values) & ~blank, words)


def _digits(size: Floats) -> tuple[npt.NDArray[np.bool_], Int64s, Int64s]:
    """Return whether the shortest text was found, its whole part, and its fraction in units of 10**-8.

    Two decimals of at most 15 significant digits never read as the same float64 (DBL_DIG). So where
    m = rint(v * 10**8) < 10**15 and m / 10**8 == v, m without its trailing zeros is the shortest text.
    """
    with np.errstate(over="ignore"):
        mantissa = np.rint(size * 1e8)
    short = (mantissa < 1e15) & (mantissa / 1e8 == size)
    rest = np.flatnonzero(~short)
    long = size[rest]
    if len(rest):
        size, mantissa = np.where(short, (size, mantissa), 0)
    below = np.floor(size)  # of m / 10**8 too, which is less than 10**7: its neighbours are nearer than 10**-8
    whole, fraction = below.astype(np.int64), (mantissa - below * 1e8).astype(np.int64)
    if len(rest):
        short[rest], whole[rest], fraction[rest] = _long_digits(long)
    return short, whole, fraction


def _rounded_digits(size: Floats, places: int) -> tuple[npt.NDArray[np.bool_], Int64s, Int64s]:
    """Return whether the number was rounded, its whole part, and its fraction in units of 10**-places.

    The fraction f of v is exact, and so is f * 10**places as p + e (Dekker 1971), since 10**18 has 42 bits behind its
    last zero. p - rint(p) is exact, and e - rint(e) too. Which integer is nearest is said by the sign of their sum less
    one half: rounding a sum of two floats never changes its sign.
    """
    known = size < 2.0**63
    size = np.where(known, size, 0.0)
    floor = np.floor(size)
    whole = floor.astype(np.int64)
    p, e = _product(size - floor, 10.0**places)
    near, step = np.rint(p), np.rint(e)
    p -= near
    e -= step
    digits = near.astype(np.int64) + step.astype(np.int64)
    is_odd = digits & 1 == 1
    above, below = (p - 0.5) + e, (p + 0.5) + e
    digits += (above > 0) | ((above == 0) & is_odd)
    digits -= (below < 0) | ((below == 0) & is_odd)
    if places == 0:  # the fraction is 0 or 1; a half goes to the even whole part
        digits += (size - floor == 0.5) & (whole & 1 == 1)
    carry = digits == 10**places
    digits[carry] = 0
    return known, whole + carry, digits


def _product(values: Floats, scale: float) -> tuple[Floats, Floats]:
    """Return the products, and what they lack to be exact (Dekker 1971). No product may overflow."""
    p = values * scale
    high = values * (2**27 + 1)
    high -= high - values
    low = values - high
    scale_high = scale * (2**27 + 1)
    scale_high -= scale_high - scale
    scale_low = scale - scale_high
    return p, ((high * scale_high - p) + high * scale_low + low * scale_high) + low * scale_low


def _long_digits(size: Floats) -> tuple[npt.NDArray[np.bool_], Int64s, Int64s]:
    """Return whether the shortest text was found, its whole part, and its fraction in units of 10**-8.

    For numbers of more than 15 digits. For each count of significant digits from 15 to 17, the integer m nearest to
    v * 10**k is the one candidate, where k is the number of decimals that remain. (Powers of two have neighbours at two
    distances, but are integers here.) The product is exact as p + e: 10**k has at most 27 bits, so v is split into
    two parts with exact products (Dekker 1971). v >= 10**7 is a multiple of 2**-29, hence so are e and the decimals of
    p, and their sum is exact. The sum in `read_floats` decides whether m reads as v: v has b >= 24 bits before the
    point, and 2**-54 < 2**-(54 - b) * 5**-k.
    """
    known = np.zeros(len(size), np.bool_)
    wholes, fractions = np.zeros((2, len(size)), np.int64)
    within = np.flatnonzero((size >= 1e7) & (size < 2**53))
    for digits in (15, 16, 17):
        v = size[within]
        places = np.clip(digits - np.searchsorted(TEN_TO, v, side="right"), 0, 8)
        scale = TEN_TO_FLOAT[places]
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
        whole, fraction = np.divmod(m, TEN_TO[places])
        found = whole + fraction / scale == v
        at = within[found]
        known[at] = True
        wholes[at] = whole[found]
        fractions[at] = fraction[found] * TEN_TO[8 - places[found]]
        within = within[~found]
    return known, wholes, fractions


def _whole_words(values: Uint64s) -> list[Words]:
    """Return the words of `,` and each integer without leading zeros: a word of three digits, then words of four."""
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
    """Return the words of `.` and each fraction without trailing zeros: three digits, four, one.

    Fractions are given in units of 10**-8.
    """
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


def _fixed_words(values: Int64s, places: int) -> list[Words]:
    """Return the words of `.` and each fraction with all its digits: three, then four, then the rest."""
    if not places:
        return []
    words: list[Words] = []
    left = places
    while left:
        count = min(left, 4 if words else 3)
        left -= count
        digits = values // 10**left
        values = values - digits * 10**left
        words.append(_fixed_table(count, "" if words else ".").take(digits))
    return words


@functools.lru_cache(maxsize=8)
def _fixed_table(count: int, lead: str) -> Words:
    """Return the words of all numbers with that many digits, each after `lead`."""
    return _table(f"{lead}{n:0{count}}".ljust(4, "_") for n in range(10**count))


def _signed(minus: npt.NDArray[np.bool_], words: list[Words]) -> list[Words]:
    """Return the words with `-` after the `,` where `minus` is set; the comma then gets its own word."""
    if not minus.any():
        return words
    text = words[0].view(np.uint8).reshape(-1, 4)
    head = np.zeros_like(text)
    head[:, 0] = text[:, 0]
    head[:, 1] = minus * MINUS
    text[:, 0] = 0
    return [head.view(np.uint32).ravel(), *words]


def _positional(value: float) -> bytes:
    """Return the shortest text of a float64, without an exponent."""
    text = repr(value)
    if "e" in text:
        text = np.format_float_positional(value, unique=True, trim="-")
    return text.removesuffix(".0").encode()


def _rounded(value: float, places: int) -> bytes:
    """Return the text of a float64 with that many decimals: Python rounds its exact value, half to even."""
    return f"{value:.{places}f}".encode()


def _table(texts: Iterable[str]) -> Words:
    """Return the texts as four-byte words; `_` becomes the filler byte."""
    return np.frombuffer("".join(texts).replace("_", "\0").encode(), np.uint32)


_LF_YEARS = _table(f"\n{decade:03}" for decade in range(1000))
_YEAR_MONTHS = _table(f"{year}-{month:02}" for year in range(10) for month in range(1, 13))
_DAYS = _table(f"-{day:02} " for day in range(1, 32))
_HOURS = _table(f"{hour:02}:{tens}" for hour in range(24) for tens in range(6))
_SECONDS = _table(f"{minute}:{second:02}" for minute in range(10) for second in range(60))
_MILLISECONDS = _table(["____", *(f".{ms:03}" for ms in range(1, 1000))])

_FULL = [f"{n:04}" for n in range(10_000)]
# Four digits: first without leading zeros, for the highest word; then with them.
_UPPER = _table([*(f"{n or '':_>4}" for n in range(10_000)), *_FULL])
_UNITS = _table([*(f"{n:_>4}" for n in range(10_000)), *_FULL])
_COMMA_UPPER = _table(f",{n or '':_>3}" for n in range(1000))
_COMMA_UNITS = _table(f",{n:_>3}" for n in range(1000))
# Decimals: first without trailing zeros, for the last word; then with them.
_LAST = _table([*(f"{text.rstrip('0'):_<4}" for text in _FULL), *_FULL])
_POINT_LAST = _table(
    [*(f".{n:03}".rstrip(".0").ljust(4, "_") for n in range(1000)), *(f".{n:03}" for n in range(1000))]
)
_EIGHTH = _table(f"{n or '':_<4}" for n in range(10))
_LATER = b"\x01"  # the placeholder of a text that is inserted after the words are joined
_COMMA_WORD, _LATER_WORD = _table([",___", ",\x01__"])
