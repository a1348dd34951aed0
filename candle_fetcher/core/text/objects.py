"""JSON objects with the same fields, `{"t":"2024-01-02T05:00:00Z","o":1.5},{…}`, as columns.

`parse_uniform` reads the text of objects that all repeat the layout of the first one, whole columns at a time, and
returns None for any other text. `read_objects` reads decoded objects value by value. It returns the same columns, or
raises an error that names the wrong field.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.faults import brief, missing_field, wrong_field
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.template import MatchedRows, Place, match_template
from candle_fetcher.core.timeframe import HOUR_MS, MINUTE_MS
from candle_fetcher.core.zones import clock_ms

# The kinds of fields: i an integer, d a decimal, both without quotes; q a decimal in quotes; t a time in quotes, RFC
# 3339, read as Unix ms (rounded down).
_EXPECTED = {
    "i": "an integer",
    "d": "a number",
    "q": "a decimal in quotes, without an exponent",
    "t": "a time such as 2024-01-02T05:00:00Z",
}
_MISSING = {"i": MISSING, "t": MISSING, "d": math.nan, "q": math.nan}
_MOST_INTEGER = 10**18

_VALUE = rb'(?:"[^"\\]*"|[^\s,"{}\[\]]+)'
_FIRST = re.compile(rb'\{"[^"\\]+":_(?:,"[^"\\]+":_)*\}'.replace(b"_", _VALUE))
_FIELD = re.compile(rb'(?P<before>[{,]"(?P<name>[^"\\]+)":)(?P<value>_)'.replace(b"_", _VALUE))
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")
_NO_ZERO = re.compile(rb"(?!0\Z)[0-9]+(?:\.[0-9]+)?")
# How the first object has to write a value of each kind.
_UNIFORM = {
    "i": re.compile(rb"[0-9]+"),
    "d": _NUMBER,
    "q": re.compile(rb'"[0-9]+(?:\.[0-9]+)?"'),
    "t": re.compile(rb'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"'),
}
# The digits of a time, as the weights that make one integer of them.
_POWERS = 10 ** np.arange(13, -1, -1, dtype=np.int64)
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


class _Field(NamedTuple):
    """A field of the first object: its kind ("" if it is not read), and the place of its value, quotes excluded."""

    kind: str
    place: Place
    is_quoted: bool


def parse_uniform(text: bytes, fields: Mapping[str, str]) -> dict[str, Column] | None:
    """Return the columns of those fields (name to kind) that the objects have, by name; None for any other text.

    `text` is objects without blanks, with a comma between them. Their other fields must be numbers without a sign, with
    or without quotes, or have the same text in every object.
    """
    first = _FIRST.match(text)
    found = None if first is None else _find_fields(first[0], fields)
    if first is None or found is None:
        return None
    matched = _match(text, first[0], found)
    return None if matched is None else _columns(*matched, found)


def _find_fields(text: bytes, kinds: Mapping[str, str]) -> dict[str, _Field] | None:
    """Return the fields of one object; None where a value is not written as its kind, or there is nothing to read."""
    try:
        load_json(text, "an object")
    except ReplyError:
        return None
    found: dict[str, _Field] = {}
    for match in _FIELD.finditer(text):
        name, value = match["name"].decode("latin-1"), match["value"]
        kind = kinds.get(name, "")
        if name in found or (kind and not _UNIFORM[kind].fullmatch(value)):
            return None
        is_quoted = value.startswith(b'"')
        found[name] = _Field(kind, (match.start("value") + is_quoted, match.end("value") - is_quoted), is_quoted)
    read = [field.kind for field in found.values() if field.kind]
    return found if read and read.count("t") <= 1 else None


def _match(text: bytes, first: bytes, fields: Mapping[str, _Field]) -> tuple[MatchedRows, list[str]] | None:
    """Return the objects, and the names of their values; None unless all match the first one."""
    stamp = next((field.place for field in fields.values() if field.kind == "t"), None)
    # A field that is not read and is 0 in the first object is often 0 in all: as template text, it is found faster.
    for unread in (_NO_ZERO, _NUMBER):
        names = [
            name
            for name, (kind, place, _) in fields.items()
            if kind != "t" and (kind or unread.fullmatch(first, *place))
        ]
        places = [fields[name].place for name in names]
        rows = match_template(text, (0, len(text)), first + b",", 1, places, stamp, b",")
        if rows is not None:
            bare = [at for at, name in enumerate(names) if not fields[name].is_quoted]
            return (rows, names) if rows.are_json(bare) else None
    return None


def _columns(rows: MatchedRows, names: Sequence[str], fields: Mapping[str, _Field]) -> dict[str, Column] | None:
    """Return the columns of the fields that have a kind; None where a value is not of that kind."""
    columns: dict[str, Column | None] = {}
    decimals = [at for at, name in enumerate(names) if fields[name].kind in ("d", "q")]
    if decimals:
        floats = rows.floats(decimals)
        if floats is None:
            return None
        columns |= zip([names[at] for at in decimals], floats, strict=True)
    for at, name in enumerate(names):
        if fields[name].kind == "i":
            whole = rows.integers([at])
            columns[name] = None if whole is None else whole[0]
    for name, field in fields.items():
        if field.kind == "t":
            columns[name] = clock_ms(rows.stamps.astype(np.int64) @ _POWERS)
    read = {name: column for name, column in columns.items() if column is not None}
    return read if len(read) == len(columns) else None


def read_objects(
    objects: object, fields: Mapping[str, str], *, optional: frozenset[str] = frozenset()
) -> dict[str, Column]:
    """Return the columns of those fields (name to kind) of a list of decoded objects, by name.

    A field that is `optional` and absent is NaN, or MISSING where it is an integer or a time. Raises ReplyError. Its
    message names the object as a row, counted from 1, and the field.
    """
    if not isinstance(objects, list):
        raise ReplyError(f"expected a list of objects, got {brief(objects)}")
    columns: dict[str, list[float]] = {name: [] for name in fields}
    for number, one in enumerate(objects, 1):
        if not isinstance(one, dict):
            raise wrong_field(f"row {number}", f"an object with {', '.join(fields)}", one)
        for name, kind in fields.items():
            missing = _MISSING[kind] if name in optional else None
            found = _value(one[name], kind) if name in one else missing
            if found is None and name not in one:
                raise missing_field(f"row {number}", name, _EXPECTED[kind])
            if found is None:
                raise wrong_field(f"row {number}, field {name}", _EXPECTED[kind], one[name])
            columns[name].append(found)
    return {name: _column(columns[name], kind) for name, kind in fields.items()}


def _column(values: list[float], kind: str) -> Column:
    return np.array(values, np.int64) if kind in "it" else np.array(values, np.float64)


def _value(value: object, kind: str) -> float | None:
    """Return the value as a number; None where it is not of that kind."""
    if kind == "t":
        return rfc3339_ms(value) if isinstance(value, str) else None
    if kind == "q":
        return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None
    if kind == "i":
        return value if type(value) is int and abs(value) < _MOST_INTEGER else None
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def rfc3339_ms(text: str) -> int | None:
    """Return the Unix ms of an RFC 3339 time, rounded down; None for another text."""
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
