"""Reads decimal digits in text as float64 and int64 columns, exact to the last bit.

Eight digits are read per step as one 64-bit word, and each number needs one division. `parse_tokens` returns the
float64 that `float(text)` returns. Only numbers that are rare in market data are read one by one, as Python objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Column = npt.NDArray[np.int64] | npt.NDArray[np.float64]

# As uint8, so that arithmetic with bytes wraps around and stays uint8.
ZERO, POINT, MINUS = np.frombuffer(b"0.-", np.uint8)
# A word of eight bytes at the start or end of a number may reach beyond the text: so the text gets margins.
PAD = 8
MARGIN = b"0" * PAD

_U = np.uint64
TEN_TO = 10 ** np.arange(17, dtype=np.int64)
TEN_TO_FLOAT = TEN_TO.astype(np.float64)
_SMALL_WHOLE = 2**53 // TEN_TO  # with k decimals and a whole part below the k-th, the mantissa is below 2**53


class Tokens(NamedTuple):
    """Where numbers stand in a text, as arrays of shape (fields, rows).

    Whole digits are [first, point), decimals [point + 1, last); `point` equals `last` in a number without a point.
    `minus` marks numbers with a minus before `first`.
    """

    first: Int64s
    point: Int64s
    last: Int64s
    minus: npt.NDArray[np.bool_]


def parse_tokens(text: bytes, first: Int64s, point: Int64s, last: Int64s) -> Floats | None:
    """Return the float64 values of the decimals at [first, last), as arrays of shape (fields, rows).

    The caller guarantees that only digits stand at [first, point) and [point + 1, last); `point` equals `last` in a
    number without a point. Returns None where a number lacks digits before or behind its point, or overflows.
    """
    has_point = point < last
    if (point <= first).any() or (last - point < 2 * has_point).any():
        return None
    # Words of eight bytes are loaded where numbers begin and where they end.
    margin = 0 if first.size and first.min() >= PAD and last.max() + PAD <= len(text) else PAD
    padded = MARGIN + text + MARGIN if margin else text
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    tokens = Tokens(first + margin, point + margin, last + margin, np.zeros(first.shape, np.bool_))
    return read_floats(padded, words, tokens, read_digits(words, tokens.first, tokens.point))


def read_digits(words: Uint64s, first: Int64s, last: Int64s) -> Int64s:
    """Return the integers written at [first, last); undefined for more than 16 digits.

    `words` views the text as the 64-bit word that begins at each byte.
    """
    length, first_of_eight = last - first, np.maximum(first, last - 8)
    long = np.flatnonzero(length > 8)
    count = length
    if len(long):  # the digits above the last eight of a number follow behind all others
        first_of_eight = np.concatenate([first_of_eight.ravel(), first.take(long)])
        count = np.concatenate([length.ravel(), length.take(long) - 8])
    # The first digit is the lowest byte of the little-endian word. Shifting the word up by the missing digits drops
    # what follows the number and puts zeros before it. Then neighbours are joined: digits to pairs, to fours, to eight.
    word = words[first_of_eight]
    word <<= (np.maximum(8 - count, 0) << 3).view(np.uint64)  # a shift by 64 gives 0
    word &= _U(0x0F0F0F0F0F0F0F0F)
    word *= _U(10 << 8 | 1)
    word >>= _U(8)
    word &= _U(0x00FF00FF00FF00FF)
    word *= _U(100 << 16 | 1)
    word >>= _U(16)
    word &= _U(0x0000FFFF0000FFFF)
    word *= _U(10000 << 32 | 1)
    word >>= _U(32)
    found = word.view(np.int64)
    if len(long):
        above = found[length.size :] * 10**8
        found = found[: length.size]
        found[long] += above
    return found.reshape(length.shape)


def read_integers(data: Bytes, tokens: Tokens, wholes: Int64s, fields: slice) -> Int64s | None:
    """Return the integer fields; None where one has a point, more than 16 digits or a leading zero."""
    first, last = tokens.first[fields], tokens.last[fields]
    length = last - first
    if (tokens.point[fields] != last).any() or (length > 16).any() or ((data[first] == ZERO) & (length > 1)).any():
        return None
    found = wholes[fields]
    np.negative(found, out=found, where=tokens.minus[fields])
    return found


def read_floats(text: bytes, words: Uint64s, tokens: Tokens, wholes: Int64s) -> Floats | None:
    """Return the decimal fields, correctly rounded; None where one overflows.

    `wholes` are the digits before the points. With m the digits as one integer and k decimals, the number is
    m / 10**k. Both are exact float64 while m < 2**53 and k <= 22, and IEEE division rounds the exact quotient once: the
    result is the nearest float64 (Clinger 1990).

    Larger m, with k <= 8 and a whole part w < 2**53: w + f, where f is the fraction's digits / 10**k, rounded. f < 1
    is off by at most 2**-54. The halfway points between the floats near w + f are multiples of 2**-s, s = 54 - b,
    where w has b bits; unless it is one of them, the exact fraction differs from them by at least 2**-s * 5**-k (over
    the common denominator, numerators differ by 1). m >= 2**53 with k <= 8 means b >= 27, so that is above 2**-46: the
    rounded f lies on the same side of each halfway point, and the addition rounds to where w + f exactly would.

    Numbers with more digits than that are read one by one; no Binance reply is known to have any.
    """
    rows = slice(0, len(wholes))
    first, point, last = tokens.first[rows], tokens.point[rows], tokens.last[rows]
    fraction_first = np.minimum(point + 1, last)
    count = last - fraction_first
    fractions = read_digits(words, fraction_first, last)
    at = np.minimum(count, 16)
    if (at == at[:, :1]).all():
        at = at[:, :1]
    scale = TEN_TO_FLOAT[at]
    found = (wholes * TEN_TO[at] + fractions) / scale
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
