"""Converts instants, in all notations that callers use, to UTC milliseconds. Naive times count as UTC."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from decimal import Decimal
from numbers import Rational
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from candle_fetcher.core.errors import InputError, nearest, shown
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS

# A date, an ISO text or a word, Unix milliseconds, a datetime, a pandas or NumPy time.
Instant: TypeAlias = "str | int | dt.date | dt.datetime | pd.Timestamp | np.datetime64 | None"

_ISO = re.compile(
    r"(\d{4})-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d\d(?::?[0-5]\d)?)?)?)?",
    re.IGNORECASE,
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_YEAR = re.compile(r"(?:19|20|21)\d\d(?:\d{4})?", re.ASCII)  # 2024, 20240131
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)
_AGO = re.compile(r"(\d{1,6})([hd])", re.IGNORECASE)
_AGO_MS = {"h": HOUR_MS, "d": DAY_MS}
FIRST = "first"  # as a start: the first candle of the series
NOW = "now"
# No provider has candles of minutes before this time, and Unix seconds of recent times, read as ms, lie before it.
_YEAR_1973_MS = 94_694_400_000
_MOST_LIMIT = 1_000_000  # a smaller number may be meant as a count
YEAR_1_MS = -62_135_596_800_000
YEAR_10000_MS = 253_402_300_800_000


def instant_ms(value: Any, name: str, now_ms: Callable[[], int] | None = None) -> int:
    """Return the instant in Unix milliseconds.

    Texts are ISO dates and times, `2024`, `20240101`, and, with a clock, the words `now`, `today`, `yesterday`
    (midnight in UTC), `7d` and `12h` (that long ago). Integers, also in texts, are Unix milliseconds, and never lie
    before 1973. Raises InputError, which names the argument and shows the value and the accepted notations.
    """
    ms = _text_ms(value.strip(), name, now_ms) if isinstance(value, str) else _value_ms(value, name)
    if not YEAR_1_MS <= ms < YEAR_10000_MS:
        raise InputError(
            f"{name} {shown(value)} lies outside the years 1 to 9999; integers are Unix milliseconds, expected in them"
        )
    if 0 < ms < _YEAR_1973_MS and ms % MINUTE_MS and ago_ms(value) is None:
        # The result of converting a number in the wrong unit, as pd.Timestamp does with seconds.
        raise InputError(
            f"{name} {shown(value)} lies in the first years of Unix time; expected a later time: "
            "was a number read in the wrong unit?"
        )
    return ms


def is_word(value: Any, word: str) -> bool:
    """Return whether the value is this word, in any case."""
    return isinstance(value, str) and value.strip().lower() == word


def ago_ms(value: Any) -> int | None:
    """Return how many milliseconds a text such as `7d` or `12h` goes back; None for any other value."""
    match = _AGO.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) * _AGO_MS[match[2].lower()] if match is not None else None


def _value_ms(value: Any, name: str) -> int:
    if isinstance(value, bool | np.bool_ | np.timedelta64):  # NumPy counts durations among its integers
        raise _not_understood(value, name)
    if isinstance(value, int | float | np.integer | np.floating | Decimal | Rational):
        return _number_ms(value, value, name)
    if isinstance(value, np.datetime64) and not np.isnat(value):
        if abs(int(value.astype("M8[Y]").astype(np.int64))) > 9_999:  # milliseconds might overflow
            raise _not_understood(value, name)
        return int(value.astype("M8[ms]").astype(np.int64))
    if isinstance(value, dt.datetime) and value is not pd.NaT:  # pd.Timestamp is one
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.timezone.utc)
        return (aware - _EPOCH) // dt.timedelta(milliseconds=1)
    if isinstance(value, dt.date) and value is not pd.NaT:
        return _date_ms(value)
    raise _not_understood(value, name)


def _date_ms(date: dt.date) -> int:
    return (date - _EPOCH.date()).days * DAY_MS


def _number_ms(number: Any, given: object, name: str) -> int:
    """Return the number as Unix milliseconds; `given` is how it was written. Raises InputError for others."""
    is_whole = isinstance(number, int | np.integer)
    size = int(number) if is_whole else _float(number)
    if not is_whole and not math.isfinite(size):
        raise _not_understood(given, name)
    if size < _YEAR_1973_MS:
        raise InputError(f"{name} {shown(given)} {_before_1973(size, name)}")
    if not is_whole:
        raise InputError(f"{name} {shown(given)} is a fraction; expected whole milliseconds: {int(size)}")
    return int(size)


def _float(number: Any) -> float:
    try:
        return float(number)
    except (OverflowError, ValueError):
        return math.nan


def _before_1973(number: float, name: str) -> str:
    """Return what to say about a number that is before 1973 as milliseconds: what it may be instead."""
    if number >= _YEAR_1973_MS // 1000:
        return f"looks like Unix seconds; expected milliseconds: {int(number * 1000)}"
    said = "lies before 1973 as Unix milliseconds; expected milliseconds such as 1704067200000"
    if not 1 <= number < _YEAR_1973_MS or number != int(number) or name not in ("start", "end"):
        return said
    text = str(int(number))
    if len(text) == 8 and _YEAR.fullmatch(text) and _compact_date(text) is not None:
        return f"{said}, or did you mean the date, {name}='{text}'?"
    if number <= _MOST_LIMIT:
        year = f" or the year, {name}='{text}'" if len(text) == 4 and _YEAR.fullmatch(text) else ""
        return f"{said}, or did you mean limit={text}{year}?"
    return said


def _compact_date(text: str) -> dt.date | None:
    """Return the date written as 20240131; None where there is no such day."""
    try:
        return dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _text_ms(text: str, name: str, now_ms: Callable[[], int] | None) -> int:
    ms = None if now_ms is None else _word_ms(text, now_ms)
    if ms is not None:
        return ms
    if _YEAR.fullmatch(text):
        date = _compact_date(text if len(text) == 8 else f"{text}0101")
        if date is None:
            raise InputError(f"{name} {shown(text)} is not a day of the calendar; expected one such as 20240131")
        return _date_ms(date)
    if _NUMBER.fullmatch(text) and text.isascii():
        return _number_ms(int(text) if text.isdigit() and len(text) < 19 else _float(text), text, name)
    match = _ISO.fullmatch(text)
    if match is None:
        raise _not_understood(text, name)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = dt.datetime(
            int(year), int(month), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=_zone(zone)
        )
    except ValueError as error:
        raise InputError(
            f"{name} {shown(text)} is not a date or time: {error}; expected one such as 2024-01-31 or 2024-01-31T12:00Z"
        ) from None
    milliseconds = int((fraction or "0").ljust(3, "0")[:3])
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1) + milliseconds


def _word_ms(text: str, now_ms: Callable[[], int]) -> int | None:
    """Return the instant of a word that is relative to now; None for any other text."""
    word, back_ms = text.lower(), ago_ms(text)
    if back_ms is not None:
        return now_ms() - back_ms
    if word == NOW:
        return now_ms()
    if word in ("today", "yesterday"):
        return now_ms() // DAY_MS * DAY_MS - (DAY_MS if word == "yesterday" else 0)
    return None


def _zone(text: str | None) -> dt.timezone:
    if text is None or text in "Zz":
        return dt.timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(-offset if text[0] == "-" else offset)


def _not_understood(value: object, name: str) -> InputError:
    meant = nearest(value, ("now", "today", "yesterday", "first")) if isinstance(value, str) else None
    return InputError(
        f"{name} {shown(value)} is not understood; expected a date such as 2024-01-31, 20240131 or 2024, an ISO time "
        "such as 2024-01-31T12:00Z, Unix milliseconds, a datetime, a pandas Timestamp, or one of the words now, today, "
        "yesterday, 7d, 12h, and for a start first" + (f". Did you mean {meant!r}?" if meant else "")
    )
