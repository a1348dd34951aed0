"""What people write for an instant, as UTC milliseconds. One rule for all of it: naive is UTC, aware is converted."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import InputError, shown

# A date, an ISO text, Unix milliseconds, a datetime, a pandas or NumPy time.
Instant: TypeAlias = "str | int | dt.date | dt.datetime | pd.Timestamp | np.datetime64 | None"

_ISO = re.compile(
    r"(\d{4})-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d\d(?::?[0-5]\d)?)?)?)?",
    re.IGNORECASE,
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_YEAR_1_MS = -62_135_596_800_000
_YEAR_10000_MS = 253_402_300_800_000


def instant_ms(value: Any, name: str) -> int:
    """The instant in Unix milliseconds. InputError names the argument, shows the value and what is understood."""
    ms = _text_ms(value.strip(), name) if isinstance(value, str) else _value_ms(value, name)
    if not _YEAR_1_MS <= ms < _YEAR_10000_MS:
        raise InputError(f"{name} {shown(value)} lies outside the years 1 to 9999; integers are Unix milliseconds")
    return ms


def _value_ms(value: Any, name: str) -> int:
    if isinstance(value, bool | np.timedelta64):  # NumPy counts durations among its integers
        raise _not_understood(value, name)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, np.datetime64) and not np.isnat(value):
        if abs(int(value.astype("M8[Y]").astype(np.int64))) > 9_999:  # milliseconds might overflow
            raise _not_understood(value, name)
        return int(value.astype("M8[ms]").astype(np.int64))
    if isinstance(value, dt.datetime) and value is not pd.NaT:  # pd.Timestamp is one
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.timezone.utc)
        return (aware - _EPOCH) // dt.timedelta(milliseconds=1)
    if isinstance(value, dt.date) and value is not pd.NaT:
        return (dt.datetime(value.year, value.month, value.day, tzinfo=dt.timezone.utc) - _EPOCH) // dt.timedelta(
            milliseconds=1
        )
    raise _not_understood(value, name)


def _text_ms(text: str, name: str) -> int:
    if re.fullmatch(r"\d{11,14}", text):  # Unix ms, as a command line has it
        return int(text)
    match = _ISO.fullmatch(text)
    if match is None:
        raise _not_understood(text, name)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = dt.datetime(
            int(year), int(month), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=_zone(zone)
        )
    except ValueError as error:
        raise InputError(f"{name} {shown(text)} is no date or time: {error}") from None
    milliseconds = int((fraction or "0").ljust(3, "0")[:3])
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1) + milliseconds


def _zone(text: str | None) -> dt.timezone:
    if text is None or text in "Zz":
        return dt.timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(-offset if text[0] == "-" else offset)


def _not_understood(value: object, name: str) -> InputError:
    return InputError(
        f"{name} {shown(value)} is not understood; expected a date such as 2024-01-31, an ISO time such as "
        "2024-01-31T12:00Z, Unix milliseconds, a datetime or a pandas Timestamp"
    )
