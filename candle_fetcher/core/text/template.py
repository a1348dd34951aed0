"""Finds where the values stand in rows that all repeat the text of the first row, for all rows at once.

The first row is the template. Another row matches if it has the same bytes between its values; a value is any number of
digits and points. At the end, the digits and points of the text must be as many as those of the values and of the text
between them: so no byte of any row stays unchecked.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.text.decimals import POINT, ZERO, Bytes, Floats, Int64s, parse_tokens

Place = tuple[int, int]
"""Where a piece of text stands: the index of its first byte, and the index after its last one."""

_NUMERIC = b"0123456789."
_BLOCK = 1 << 16
# Below it every integer is a float64.
_MOST_INTEGER = 2**53


@dataclass(frozen=True)
class MatchedRows:
    """Where the values of matching rows stand in the text.

    first, point, last: arrays of shape (places, rows). A place is [first, last); its decimal point stands at `point`,
    which equals `last` in a place without one.
    values: for each value, its index among the places.
    stamps: the digits of the time stamps, of shape (rows, digits).
    """

    text: bytes
    first: Int64s
    point: Int64s
    last: Int64s
    values: Sequence[int]
    stamps: Bytes

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.stamps)

    def floats(self, values: Sequence[int]) -> Floats | None:
        """Return these values as float64, of shape (values, rows); None where one is not a decimal."""
        return parse_tokens(self.text, *self._bounds(values))

    def integers(self, values: Sequence[int]) -> Int64s | None:
        """Return these values as int64; None where one is not an integer, or not below 2**53."""
        first, point, last = self._bounds(values)
        numbers = None if (point != last).any() else parse_tokens(self.text, first, point, last)
        return None if numbers is None or (numbers >= _MOST_INTEGER).any() else numbers.astype(np.int64)

    def are_json(self, values: Sequence[int]) -> bool:
        """Return whether these values are JSON numbers, without a sign or an exponent."""
        first, point, last = self._bounds(values)
        width = point - first
        if (width < 1).any() or (last - point == 1).any():
            return False
        return not ((np.frombuffer(self.text, np.uint8)[first] == ZERO) & (width > 1)).any()

    def _bounds(self, values: Sequence[int]) -> tuple[Int64s, Int64s, Int64s]:
        at = [self.values[value] for value in values]
        return self.first[at], self.point[at], self.last[at]


class _FirstRow(NamedTuple):
    """The first row, split at its values.

    lacks: how many bytes at the end of this row are absent from the last row of the text.
    places: the places of the values and of the stamp, in order.
    stops: the indexes of all marks in the row.
    fields: for each place, the number of the first stop after it.
    pieces: the texts before, between and after the places.
    """

    row: bytes
    lacks: int
    places: list[Place]
    stops: list[int]
    fields: list[int]
    pieces: list[bytes]


class _Marks(NamedTuple):
    """The marks and points of the text.

    at: their indexes. For arithmetic with whole rows, the last mark of an assumed row before the first one comes first,
    and the marks that the last row lacks come last.
    are_marks: which of them are marks. numeric: how many digits and points the text has.
    """

    at: Int64s
    are_marks: npt.NDArray[np.bool_]
    numeric: int


def match_template(
    text: bytes, part: Place, row: bytes, last_row_lacks: int, values: Sequence[Place], stamp: Place | None, mark: bytes
) -> MatchedRows | None:
    """Return the rows in that part of the text; None unless all of them match the first one.

    row: the first row and the text up to the next one. The last row lacks `last_row_lacks` bytes at the end of that.
    values: the places in `row` of digits and points that may differ from row to row, also in number.
    stamp: the place of a time, of which only the digits may differ.
    mark: a character that separates the fields; between two marks there is at most one place.
    """
    template = _take_apart(row, last_row_lacks, values, stamp, mark)
    marks = None if template is None else _scan(text, part, template)
    if template is None or marks is None:
        return None
    first, nearest, last = _find_places(template, marks)
    if not _has_pieces(text, part, template, first, last):
        return None
    signs, digits = 0, np.empty((first.shape[1], 0), np.uint8)
    if stamp is not None:
        at = template.places.index(stamp)
        stamps = _read_stamps(text, first[at], last[at], row[slice(*stamp)])
        if stamps is None:
            return None
        digits, signs = stamps, stamp[1] - stamp[0] - stamps.shape[1]
    has_point = nearest >= first
    if not _is_all(template, marks, has_point, signs, first, last):
        return None
    point = np.where(has_point, nearest, last)
    return MatchedRows(text, first, point, last, [template.places.index(value) for value in values], digits)


def _take_apart(row: bytes, lacks: int, values: Sequence[Place], stamp: Place | None, mark: bytes) -> _FirstRow | None:
    """Return the template; None unless each place is a number between two marks that every row has."""
    places = sorted([*values, stamp] if stamp else values)
    stops = [at for at, byte in enumerate(row) if byte == mark[0]]
    fields = [bisect.bisect_left(stops, first) for first, _ in places]
    if not fields or len(set(fields)) < len(fields) or fields[-1] == len(stops):
        return None
    edge = len(row) - lacks
    if any(row[first:last].strip(_NUMERIC) for first, last in values) or places[-1][1] > edge or _numeric(row[edge:]):
        return None
    edges = [0, *(edge for place in places for edge in place), len(row)]
    pieces = [row[end:begin] for end, begin in zip(edges[::2], edges[1::2], strict=True)]
    return _FirstRow(row, lacks, places, stops, fields, pieces)


def _numeric(text: bytes) -> int:
    """Return the number of digits and points."""
    return len(text) - len(text.translate(None, _NUMERIC))


def _column(numbers: Sequence[int]) -> Int64s:
    return np.array(numbers, np.int64)[:, None]


def _scan(text: bytes, part: Place, template: _FirstRow) -> _Marks | None:
    """Return the marks of that part of the text; None unless their number is a multiple of that of a row."""
    start, stop = part
    row, stops = template.row, template.stops
    mark = row[stops[0]]
    data = np.frombuffer(text, np.uint8)
    edge = len(row) - template.lacks
    lacking = [stop + at - edge for at in stops if at >= edge]
    pieces, numeric = [np.array([start + stops[-1] - len(row)], np.int64)], 0
    # In blocks, since memory for small arrays is reused, and not requested from the system each time.
    for at in range(start, stop, _BLOCK):
        block = data[at : min(at + _BLOCK, stop)]
        pieces.append(((block == mark) | (block == POINT)).nonzero()[0] + at)
        numeric += int(np.count_nonzero((block - POINT) < 12))
    if b"/" in text:  # the one character between the point and the digits
        numeric -= text.count(b"/", start, stop)
    found = np.concatenate([*pieces, np.array(lacking, np.int64)])
    are_marks = np.ones(len(found), np.bool_)
    inner = slice(1, len(found) - len(lacking))
    are_marks[inner] = data.take(found[inner]) == mark
    count = int(np.count_nonzero(are_marks)) - 1
    return _Marks(found, are_marks, numeric) if count > 0 and count % len(stops) == 0 else None


def _find_places(template: _FirstRow, marks: _Marks) -> tuple[Int64s, Int64s, Int64s]:
    """Return three arrays of shape (places, rows): where the places begin, the last point or mark in front of the mark
    that ends each place, and where the places end. They are right if the rows match, which is checked later."""
    row, _, places, stops, fields, _ = template
    at = np.flatnonzero(marks.are_marks)
    ends = at[1:].reshape(-1, len(stops)).T[fields]
    after, nearest = marks.at[ends], marks.at[ends - 1]
    before = marks.at[at[:-1].reshape(-1, len(stops)).T[fields]]
    starts = [stops[-1] - len(row), *stops]
    first = before + _column([begin - starts[field] for (begin, _), field in zip(places, fields, strict=True)])
    last = after - _column([stops[field] - end for (_, end), field in zip(places, fields, strict=True)])
    return first, nearest, last


def _has_pieces(text: bytes, part: Place, template: _FirstRow, first: Int64s, last: Int64s) -> bool:
    """Return whether the pieces of the template stand before, between and after the places of every row, and whether
    the rows fill the whole part of the text."""
    head, *inner, tail = template.pieces
    start, stop = part
    end, edge = last[-1, -1], len(tail) - template.lacks
    is_joined = (last >= first).all() and (first[1:] - last[:-1] == _column([len(piece) for piece in inner])).all()
    follows = first[0, 0] == start + len(head) and (first[0, 1:] - last[-1, :-1] == len(tail) + len(head)).all()
    if not is_joined or not follows or text[start : start + len(head)] != head:
        return False
    if stop - end != edge or text[end:stop] != tail[:edge]:
        return False
    between = all(_holds(text, at, piece) for at, piece in zip(last[:-1], inner, strict=True))
    return between and _holds(text, last[-1, :-1], tail + head)


def _holds(text: bytes, at: Int64s, piece: bytes) -> bool:
    """Return whether the piece stands at each of these indexes."""
    return not len(at) or _cut_out(text, at, len(piece)) == piece * len(at)


def _cut_out(text: bytes, at: Int64s, width: int) -> bytes:
    """Return `width` bytes of the text from each of these indexes, joined."""
    windows: npt.NDArray[np.void] = np.ndarray((len(text) - width + 1,), f"V{width}", text, strides=(1,))
    return windows[at].tobytes()


def _read_stamps(text: bytes, first: Int64s, last: Int64s, sample: bytes) -> Bytes | None:
    """Return the digits of the stamps at these places; None unless all other characters are those of the sample."""
    like = np.frombuffer(sample, np.uint8)
    if (last - first != len(like)).any():
        return None
    signs = (like - ZERO) > 9
    chars = np.frombuffer(_cut_out(text, first, len(like)), np.uint8).reshape(-1, len(like))
    digits: Bytes = chars[:, ~signs] - ZERO
    return None if (chars[:, signs] != like[signs]).any() or (digits > 9).any() else digits


def _is_all(
    template: _FirstRow, marks: _Marks, has_point: npt.NDArray[np.bool_], signs: int, first: Int64s, last: Int64s
) -> bool:
    """Return whether the text has no other digits and points than those of the pieces and places, and at most one point
    in each place. `signs` is how many characters of a stamp are not digits."""
    count, rest = first.shape[1], b"".join(template.pieces)
    points = rest.count(b".") * count + int(np.count_nonzero(has_point))
    if int(np.count_nonzero(~marks.are_marks)) != points:
        return False
    return bool(marks.numeric == (_numeric(rest) - signs) * count + int((last - first).sum()))
