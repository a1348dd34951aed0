"""JSON objects that are alike, `{"t":"2024-01-02T05:00:00Z","o":1.5},{…}`, as columns, whole columns at a time.

`parse_alike` reads text in which every object is written as the first one is: it finds the fields, `alike` where they
stand in all rows. Whatever it does not recognise is None, and for `read_objects`, which goes through what `load_json`
made of it value by value, and gives the same columns or says what is wrong.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import reprlib
from collections.abc import Mapping

import numpy as np

from candle_fetcher.core.alike import Alike, Place, find_alike
from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.decimals import Column, load_json
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.timeframe import HOUR_MS, MINUTE_MS
from candle_fetcher.core.zones import clock_ms

# The kinds of fields: i an integer, d a decimal, both bare; q a decimal in quotes; t a time in quotes, RFC 3339, read
# as Unix ms; what is finer is dropped.
_EXPECTED = {"i": "an integer", "d": "a number", "q": "a decimal in quotes", "t": "a time such as 2024-01-02T05:00:00Z"}
_MISSING = {"i": MISSING, "t": MISSING, "d": math.nan, "q": math.nan}
_MOST_INTEGER = 10**18

_VALUE = rb'(?:"[^"\\]*"|[^\s,"{}\[\]]+)'
_FIRST = re.compile(rb'\{"[^"\\]+":_(?:,"[^"\\]+":_)*\}'.replace(b"_", _VALUE))
_FIELD = re.compile(rb'(?P<before>[{,]"(?P<name>[^"\\]+)":)(?P<value>_)'.replace(b"_", _VALUE))
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")
_NO_ZERO = re.compile(rb"(?!0\Z)[0-9]+(?:\.[0-9]+)?")
# What a value of each kind is in an object that the others are like.
_ALIKE = {
    "i": re.compile(rb"[0-9]+"),
    "d": _NUMBER,
    "q": re.compile(rb'"[0-9]+(?:\.[0-9]+)?"'),
    "t": re.compile(rb'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"'),
}
_QUOTE = ord('"')
# What the digits of a time count, read as one integer.
_POWERS = 10 ** np.arange(13, -1, -1, dtype=np.int64)
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def parse_alike(text: bytes, fields: Mapping[str, str]) -> dict[str, Column] | None:
    """The columns of those fields (name to kind) that the objects have, by name; None wherever in doubt.

    `text` is objects with a comma between them, without blanks. Fields that are not asked for are numbers without a
    sign, bare or in quotes, or alike in every object. A field that the objects lack has no column.
    """
    first = _FIRST.match(text)
    if first is None:
        return None
    try:
        load_json(first[0], "an object")
    except ReplyError:
        return None
    places: dict[str, Place] = {}
    for match in _FIELD.finditer(first[0]):
        name, value = match["name"].decode("latin-1"), match["value"]
        if name in places or (name in fields and not _ALIKE[fields[name]].fullmatch(value)):
            return None
        is_quoted = value.startswith(b'"')
        places[name] = (match.start("value") + is_quoted, match.end("value") - is_quoted)
    found = [name for name in places if name in fields]
    times = [name for name in found if fields[name] == "t"]
    if not found or len(times) > 1:
        return None
    stamp = places[times[0]] if times else None
    # What nobody reads and is 0 is often so in every object, and costs less as a text.
    for unread in (_NO_ZERO, _NUMBER):
        read = {name: fields.get(name, "") for name in places if name not in times}
        kinds = {name: kind for name, kind in read.items() if kind or unread.fullmatch(text, *places[name])}
        alike = find_alike(text, (0, len(text)), first[0] + b",", 1, [places[name] for name in kinds], stamp, b",")
        if alike is not None:
            break
    bare = [at for at, name in enumerate(kinds) if text[places[name][0] - 1] != _QUOTE]
    if alike is None or not alike.are_json(bare):
        return None
    columns = _columns(alike, kinds)
    if times:
        columns |= {times[0]: clock_ms(alike.stamps.astype(np.int64) @ _POWERS)}
    told = {name: column for name, column in columns.items() if column is not None}
    return told if len(told) == len(found) else None


def _columns(alike: Alike, kinds: Mapping[str, str]) -> dict[str, Column | None]:
    """The columns of those numbers that have a kind; None for one that is not of it."""
    at = {name: number for number, name in enumerate(kinds)}
    decimals = [name for name, kind in kinds.items() if kind in ("d", "q")]
    floats = alike.floats([at[name] for name in decimals]) if decimals else None
    columns: dict[str, Column | None] = dict.fromkeys(decimals)
    if floats is not None:
        columns |= zip(decimals, floats, strict=True)
    for name, kind in kinds.items():
        if kind == "i":
            whole = alike.integers([at[name]])
            columns[name] = None if whole is None else whole[0]
    return columns


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
