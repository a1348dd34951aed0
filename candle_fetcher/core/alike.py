"""Text of rows that are all written as the first one, whatever the format: where their values stand, found for all rows
at once.

Quotes are looked for, and values are where the first row has them, counted from its quotes. What stands between two
values must be what stands there in the first row, byte for byte, and there must be as many digits and points as the
values have places. So no byte of any row is left unseen.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.decimals import parse_tokens

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Place = tuple[int, int]

_NUMERIC = b"0123456789."
_QUOTE, _POINT, _ZERO = np.frombuffer(b'".0', np.uint8)
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Alike:
    """The rows of the text: where their values begin, end and have their points (the end where there is none), each of
    the shape (values, rows), and the digits of their stamps, as a row of them each."""

    text: bytes
    first: Int64s
    point: Int64s
    last: Int64s
    stamps: Bytes

    @property
    def count(self) -> int:
        return len(self.stamps)

    def floats(self, wanted: Sequence[int]) -> Floats | None:
        """These values as float64, of the shape (values, rows); None where one is no decimal."""
        at = list(wanted)
        return parse_tokens(self.text, self.first[at], self.point[at], self.last[at])

    def are_integers(self, wanted: Sequence[int]) -> bool:
        """Whether these values are whole numbers as JSON writes them, without a sign."""
        at = list(wanted)
        first, last = self.first[at], self.last[at]
        if (self.point[at] != last).any() or (last <= first).any():
            return False
        return not ((np.frombuffer(self.text, np.uint8)[first] == _ZERO) & (last - first > 1)).any()


def find_alike(
    text: bytes, part: Place, row: bytes, border: int, values: Sequence[Place], stamp: Place
) -> Alike | None:
    """The rows of that part of the text, each with what stands between it and the next one; None unless all are written
    as `row`, the first one. `border` is how much of that the last one lacks.

    `values` are the places in it, [first, last), of digits and points that may be others in another row, and as many as
    they like; `stamp` is where there is a time, of which only the digits may be others. They stand between quotes, and
    none beside another.
    """
    start, stop = part
    data = np.frombuffer(text, np.uint8)[start:stop]
    marks = np.flatnonzero(np.frombuffer(row, np.uint8) == _QUOTE).tolist()
    found, at, numeric = _scan(data)
    are_numbers = not any(row[first:last].strip(_NUMERIC) for first, last in values)
    if not are_numbers or not len(marks) or not len(found) or len(found) % len(marks):
        return None
    quotes = found.reshape(-1, len(marks)).T + start
    places = sorted([*values, stamp])
    bounds = [bound for place in places if (bound := _bounds_of(quotes, marks, place)) is not None]
    if len(bounds) < len(places) or not _has_pieces(text, part, row, border, places, bounds):
        return None
    by_place = dict(zip(places, bounds, strict=True))
    digits = _digits_of(text, by_place[stamp], row[slice(*stamp)])
    first = np.array([by_place[place][0] for place in values])
    last = np.array([by_place[place][1] for place in values])
    points = _points_of(at + start, row, values, first, last)
    if digits is None or points is None:
        return None
    around = len(row) - len(row.translate(None, _NUMERIC)) - sum(last - first for first, last in values)
    if b"/" in text:
        numeric -= text.count(b"/", start, stop)
    if numeric != around * quotes.shape[1] + int((last - first).sum()):
        return None
    return Alike(text, first, points, last, digits)


def _scan(data: Bytes) -> tuple[Int64s, Int64s, int]:
    """Where the quotes stand, and where the points, and how many bytes there are from the point to the nine: digits,
    points, and the slash between them. Block by block: what is small need not be got from the system each time."""
    quotes, points, numeric = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        quotes.append((block == _QUOTE).nonzero()[0] + at)
        points.append((block == _POINT).nonzero()[0] + at)
        numeric += int(np.count_nonzero((block - _POINT) < 12))
    return np.concatenate(quotes), np.concatenate(points), numeric


def _bounds_of(quotes: Int64s, marks: Sequence[int], place: Place) -> tuple[Int64s, Int64s] | None:
    """Where the place begins and ends in each row: as far from the quotes before and after it as in the first one."""
    first, last = place
    after = bisect.bisect_left(marks, first)
    if not 0 < after < len(marks) or marks[after] < last:
        return None
    return quotes[after - 1] + (first - marks[after - 1]), quotes[after] - (marks[after] - last)


def _has_pieces(
    text: bytes,
    part: Place,
    row: bytes,
    border: int,
    places: Sequence[Place],
    bounds: Sequence[tuple[Int64s, Int64s]],
) -> bool:
    """Whether what stands between the places is the same in all rows, and these follow one another from the beginning
    of the part to its end."""
    starts = bounds[0][0] - places[0][0]
    here, at = starts, 0
    for (first, last), (begins, stops) in zip(places, bounds, strict=True):
        if (begins - here != first - at).any() or (stops < begins).any() or not _holds(text, here, row[at:first]):
            return False
        here, at = stops, last
    follows = (starts[1:] - here[:-1] == len(row) - at).all() and _holds(text, here[:-1], row[at:])
    return bool(follows) and starts[0] == part[0] and text[here[-1] : part[1]] == row[at : len(row) - border]


def _holds(text: bytes, at: Int64s, piece: bytes) -> bool:
    """Whether the piece stands at each of these places."""
    return not len(at) or bool((_windows(text, len(piece))[at] == np.frombuffer(piece, np.uint8)).all())


def _windows(text: bytes, width: int) -> Bytes:
    """What stands at each place of the text, so many bytes of it."""
    return np.ndarray((len(text) - width + 1, width), np.uint8, text, strides=(1, 1))


def _digits_of(text: bytes, bounds: tuple[Int64s, Int64s], sample: bytes) -> Bytes | None:
    """The digits of the stamps between these bounds; None unless each has its signs where the sample has them."""
    like = np.frombuffer(sample, np.uint8)
    if (bounds[1] - bounds[0] != len(like)).any():
        return None
    signs = (like - _POINT) > 11
    chars = _windows(text, len(like))[bounds[0]]
    digits: Bytes = chars[:, ~signs] - _ZERO
    return None if (chars[:, signs] != like[signs]).any() or (digits > 9).any() else digits


def _points_of(at: Int64s, row: bytes, values: Sequence[Place], first: Int64s, last: Int64s) -> Int64s | None:
    """Where the points of the values stand, their end where there is none; None unless each row has its points where
    the first one has."""
    marks = [place for place, byte in enumerate(row) if byte == _POINT]
    points = last.copy()
    if not marks:
        return None if len(at) else points
    if len(at) != len(marks) * first.shape[1]:
        return None
    columns = at.reshape(-1, len(marks)).T
    for value, (begins, ends) in enumerate(values):
        within = [column for column, mark in zip(columns, marks, strict=True) if begins <= mark < ends]
        if len(within) > 1 or any(((one < first[value]) | (one >= last[value])).any() for one in within):
            return None
        if within:
            points[value] = within[0]
    return points
