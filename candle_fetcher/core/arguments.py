"""Numbers and flags as arguments: one rule for every setting and every call.

A number is an int, a float, a Decimal, a Fraction or a NumPy number; a whole number is an integer of Python or NumPy.
Neither is ever a text or a bool. A flag is a bool.
"""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Rational  # of which a Fraction is one; the module of it takes 1 ms to import
from typing import Any, TypeGuard

import numpy as np

from candle_fetcher.core.errors import InputError, shown

Number = int | float | np.integer[Any] | np.floating[Any] | Decimal | Rational


def is_number(value: object) -> TypeGuard[Number]:
    """Return whether the value is a real number; bools, durations and texts of numbers are not."""
    kinds = (int, float, np.integer, np.floating, Decimal, Rational)
    return isinstance(value, kinds) and not isinstance(value, bool | np.timedelta64)


def float_of(value: object) -> float:
    """Return the number as a float; NaN where the value is not a number or too large for a float."""
    try:
        return float(value) if is_number(value) else math.nan
    except (OverflowError, ValueError):
        return math.nan


def read_number(name: str, value: object, least: float, most: float, *, is_open: bool = False) -> float:
    """Return the number, from least to most; `is_open` excludes the least.

    Raises InputError for any other value.
    """
    number = float_of(value)
    if not least <= number <= most or (is_open and number == least):
        bound = f"above {least:g}" if is_open else f"of at least {least:g}"
        raise InputError(f"{name} {shown(value)} is not allowed; expected a number {bound} and at most {most:,g}")
    return number


def read_whole(name: str, value: object, least: int, most: int) -> int:
    """Return the whole number from least to most. Raises InputError for any other value."""
    is_whole = isinstance(value, int | np.integer) and is_number(value)
    if not is_whole or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise InputError(f"{name} {shown(value)} is not allowed; expected a whole number from {least} to {most:,}")
    return int(value)  # type: ignore[call-overload,no-any-return]


def is_several(value: object) -> bool:
    """Return whether the value can be iterated over and is not a text; a NumPy array of 0 dimensions cannot."""
    if isinstance(value, str | bytes):
        return False
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def read_flag(name: str, value: object) -> bool:
    """Return the flag. Raises InputError for anything but True and False, of Python or NumPy."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InputError(f"{name} {shown(value)} is not understood; expected True or False")
