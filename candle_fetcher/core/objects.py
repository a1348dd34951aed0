"""JSON objects that are alike, `{"t":"2024-01-02T05:00:00Z","o":1.5},{…}`, as columns, whole columns at a time.

`parse_alike` reads text in which every object is written as the first one is. Whatever it does not recognise is None,
and for `read_objects`, which goes through what `load_json` made of it value by value, and gives the same columns or
says what is wrong.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
import re
import reprlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.decimals import Column, Pattern, parse_pattern
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

Int64s = npt.NDArray[np.int64]

# The kinds of fields: i an integer, d a decimal, both bare; q a decimal in quotes; t a time in quotes, RFC 3339, read
# as Unix ms; what is finer is dropped.
_EXPECTED = {"i": "an integer", "d": "a number", "q": "a decimal in quotes", "t": "a time such as 2024-01-02T05:00:00Z"}
_MISSING = {"i": MISSING, "t": MISSING, "d": math.nan, "q": math.nan}
_MOST_INTEGER = 10**18

_VALUE = rb'(?:"[^"\\]*"|[^\s,"{}\[\]]+)'
_FIRST = re.compile(rb'\{"[^"\\]+":_(?:,"[^"\\]+":_)*\}'.replace(b"_", _VALUE))
_FIELD = re.compile(rb'(?P<before>[{,]"(?P<name>[^"\\]+)":)(?P<value>_)'.replace(b"_", _VALUE))
_BARE = re.compile(rb"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_PLAIN_TIME = re.compile(rb'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"')
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)

# A pattern takes a minus for the sign of a number, so another character stands for it.
_STAND_IN = b"~"
_NO_MINUS = bytes.maketrans(b"-", _STAND_IN)
# A time is six numbers to a pattern, which reads none of them.
_TIME_ROW, _TIME_KINDS = '"0~0~0T0:0:0Z"', "xxxxxx"
_TIME_TEXT = np.frombuffer(b"0000-00-00T00:00:00Z", np.uint8)
_ZERO, _QUOTE, _COLON, _Z = np.frombuffer(b'0":Z', np.uint8)
_SIGNS = np.flatnonzero(_TIME_TEXT != _ZERO)
# Where each part of a time stands in it.
_PARTS = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))


def parse_alike(text: bytes, fields: Mapping[str, str]) -> dict[str, Column] | None:
    """The columns of those fields (name to kind) that the objects have, by name; None wherever in doubt.

    `text` is objects with a comma between them, without blanks. Fields that are not asked for are bare numbers, or
    alike in every object. A field that the objects lack has no column.
    """
    first = _FIRST.match(text)
    if first is None or _STAND_IN in text:
        return None
    row, pattern_kinds, names, time = "", "", [], None
    kinds = dict(fields)
    seen = set()
    for match in _FIELD.finditer(first[0]):
        before, name, value = (part.decode("latin-1") for part in match.groups())
        kind = kinds.get(name, "x" if _BARE.fullmatch(match["value"]) else "")
        if name in seen or not _is_of(kind, match["value"]) or (kind == "t" and time is not None):
            return None
        seen.add(name)
        time = name if kind == "t" else time
        names += [name] if kind in "dqi" and kind else []
        row += before + {"": value, "t": _TIME_ROW, "q": '"0"'}.get(kind, "0")
        pattern_kinds += {"t": _TIME_KINDS, "q": "d"}.get(kind, kind)
    # Between two objects stands `},{`: the pattern begins behind the first brace and ends with one.
    row = row[1:] + "},{"
    if not names or row.count("0") != len(pattern_kinds) or (time and row.count("Z") != 1):
        return None
    pattern = _pattern(pattern_kinds, row)
    found = None if pattern is None else parse_pattern(text.translate(_NO_MINUS) + b",}", pattern)
    if found is None or _has_leading_zero(text):
        return None
    columns = dict(zip(names, found, strict=True))
    if time is not None:
        times = _times_ms(text)
        if times is None:
            return None
        columns[time] = times
    return columns


def _is_of(kind: str, value: bytes) -> bool:
    """Whether the value, as it is written, may be of that kind."""
    if kind == "t":
        return _PLAIN_TIME.fullmatch(value) is not None
    return not kind or value.startswith(b'"') == (kind == "q")


@functools.lru_cache(maxsize=64)
def _pattern(kinds: str, row: str) -> Pattern | None:
    """None where the text between the numbers has what belongs to numbers, what JSON has escaped, or no ASCII."""
    between = row.replace("0", "")
    return None if re.search("[^!-~]|[0-9.-]", between) else Pattern(kinds, "{", row, "}")


def _has_leading_zero(text: bytes) -> bool:
    """Whether a bare number begins with a 0 that another digit follows, as JSON forbids."""
    data = np.frombuffer(text, np.uint8)
    leads = (data[:-3] == _QUOTE) & (data[1:-2] == _COLON) & (data[2:-1] == _ZERO)
    leads &= (data[3:] - _ZERO) <= 9
    return bool(leads.any())


def _times_ms(text: bytes) -> Int64s | None:
    """Unix ms of the times, of which there is one before each Z; None where one is none."""
    data = np.frombuffer(text, np.uint8)
    starts = np.flatnonzero(data == _Z) - (len(_TIME_TEXT) - 1)
    if starts[0] < 1 or (data[starts - 1] != _QUOTE).any():
        return None
    chars = np.lib.stride_tricks.sliding_window_view(data, len(_TIME_TEXT))[starts]
    digits = chars - _ZERO
    if (chars[:, _SIGNS] != _TIME_TEXT[_SIGNS]).any():
        return None
    parts = []
    for first, last in _PARTS:
        part = digits[:, first].astype(np.int64)
        for at in range(first + 1, last):
            part = part * 10 + digits[:, at]
        parts.append(part)
    digits[:, _SIGNS] = 0
    if (digits > 9).any():
        return None
    year, month, day, hour, minute, second = parts
    months = (year - 1970) * 12 + month - 1
    first_day, next_day = (
        one.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for one in (months, months + 1)
    )
    length = next_day - first_day
    fine = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    if not (fine & (hour < 24) & (minute < 60) & (second < 60)).all():
        return None
    found: Int64s = (first_day + day - 1) * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS + second * SECOND_MS
    return found


def read_objects(
    objects: object, fields: Mapping[str, str], *, optional: frozenset[str] = frozenset()
) -> dict[str, Column]:
    """The columns of those fields (name to kind) of a list of decoded objects, by name.

    A field that is `optional` and not there is NaN, or MISSING where it is an integer or a time. Raises ReplyError with
    the object (from 1) and the field.
    """
    if not isinstance(objects, list):
        raise ReplyError(f"expected a list of objects, got {reprlib.repr(objects)}")
    columns: dict[str, list[float]] = {name: [] for name in fields}
    for number, one in enumerate(objects, 1):
        if not isinstance(one, dict):
            raise ReplyError(f"object {number}: expected one with {', '.join(fields)}, got {reprlib.repr(one)}")
        for name, kind in fields.items():
            missing = _MISSING[kind] if name in optional else None
            found = _value(one[name], kind) if name in one else missing
            if found is None:
                shown = reprlib.repr(one[name]) if name in one else "none"
                raise ReplyError(f"object {number}, {name}: expected {_EXPECTED[kind]}, got {shown}")
            columns[name].append(found)
    return {name: _column(columns[name], kind) for name, kind in fields.items()}


def _column(values: list[float], kind: str) -> Column:
    return np.array(values, np.int64) if kind in "it" else np.array(values, np.float64)


def _value(value: object, kind: str) -> float | None:
    """What the value reads as; None where it is not of that kind."""
    if kind == "t":
        return _time_ms(value) if isinstance(value, str) else None
    if kind == "q":
        return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None
    if kind == "i":
        return value if type(value) is int and abs(value) < _MOST_INTEGER else None
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _time_ms(text: str) -> int | None:
    """Unix ms of a time in RFC 3339, what is finer dropped; None where it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.timezone.utc)
    except ValueError:
        return None
    offset_ms = int(match[9] or 0) * HOUR_MS + int(match[10] or 0) * MINUTE_MS
    ms = (moment - _EPOCH) // dt.timedelta(milliseconds=1) + int((match[7] or "").ljust(3, "0")[:3])
    return ms - (-offset_ms if match[8] == "-" else offset_ms)
