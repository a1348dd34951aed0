"""Text of rows that are all written as the first one, whatever the format: where their values stand, found for all rows
at once.

A mark is looked for, such as a comma, and values are where the first row has them, counted from its marks. What stands
between two values must be what stands there in the first row, byte for byte, and there must be as many digits and
points as the values have places. So no byte of any row is left unseen.
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
_POINT, _ZERO = np.frombuffer(b".0", np.uint8)
_BLOCK = 1 << 16
# Below it every integer is a float64.
_MOST_INTEGER = 2**53


@dataclass(frozen=True)
class Alike:
    """The rows of the text: where their places begin, end and have their points (the end where there is none), each of
    the shape (places, rows); which of the places the values are; and the digits of the stamps, a row of them each."""

    text: bytes
    first: Int64s
    point: Int64s
    last: Int64s
    values: Sequence[int]
    stamps: Bytes

    @property
    def count(self) -> int:
        return len(self.stamps)

    def floats(self, wanted: Sequence[int]) -> Floats | None:
        """These values as float64, of the shape (values, rows); None where one is no decimal."""
        return parse_tokens(self.text, *self._bounds(wanted))

    def integers(self, wanted: Sequence[int]) -> Int64s | None:
        """These values as int64; None where one is not a whole number, or is beyond 2**53."""
        first, point, last = self._bounds(wanted)
        found = None if (point != last).any() else parse_tokens(self.text, first, point, last)
        return None if found is None or (found >= _MOST_INTEGER).any() else found.astype(np.int64)

    def are_json(self, wanted: Sequence[int]) -> bool:
        """Whether these values are numbers as JSON writes them, without a sign or an exponent."""
        first, point, last = self._bounds(wanted)
        width = point - first
        if (width < 1).any() or (last - point == 1).any():
            return False
        return not ((np.frombuffer(self.text, np.uint8)[first] == _ZERO) & (width > 1)).any()

    def _bounds(self, wanted: Sequence[int]) -> tuple[Int64s, Int64s, Int64s]:
        at = [self.values[value] for value in wanted]
        return self.first[at], self.point[at], self.last[at]


def find_alike(
    text: bytes, part: Place, row: bytes, border: int, values: Sequence[Place], stamp: Place | None, mark: bytes
) -> Alike | None:
    """The rows of that part of the text, each with what stands between it and the next one; None unless all are written
    as `row`, the first one. `border` is how much of that the last one lacks.

    `values` are the places in it, [first, last), of digits and points that may be others in another row, and as many as
    they like; `stamp` is where there is a time, of which only the digits may be others. They stand between marks (one
    character), no two between the same ones.
    """
    places = sorted([*values, stamp] if stamp else values)
    stops = [at for at, byte in enumerate(row) if byte == mark[0]]
    # A place stands between two marks, of which the one after it is counted here.
    fields = [bisect.bisect_left(stops, first) for first, _ in places]
    is_fine = bool(fields) and len(set(fields)) == len(fields) and fields[-1] < len(stops)
    are_numbers = not any(row[first:last].strip(_NUMERIC) for first, last in values)
    edge = len(row) - border
    if not is_fine or not are_numbers or places[-1][1] > edge or _numeric(row[edge:]):
        return None
    found, are_marks, numeric = _scan(text, part, row, border, stops)
    at = np.flatnonzero(are_marks)
    if len(at) < 2 or (len(at) - 1) % len(stops):
        return None
    ends = at[1:].reshape(-1, len(stops)).T[fields]
    after, nearest = found[ends], found[ends - 1]
    before = found[at[:-1].reshape(-1, len(stops)).T[fields]]
    starts = [stops[-1] - len(row), *stops]
    first = before + _column([begins - starts[field] for (begins, _), field in zip(places, fields, strict=True)])
    last = after - _column([stops[field] - ends for (_, ends), field in zip(places, fields, strict=True)])
    edges = [0, *(edge for place in places for edge in place), len(row)]
    pieces = [row[ends:begins] for ends, begins in zip(edges[::2], edges[1::2], strict=True)]
    if not _has_pieces(text, part, border, pieces, first, last):
        return None
    count, signs, digits = first.shape[1], 0, np.empty((first.shape[1], 0), np.uint8)
    if stamp is not None:
        stamps = _digits_of(text, first[places.index(stamp)], last[places.index(stamp)], row[slice(*stamp)])
        if stamps is None:
            return None
        digits, signs = stamps, stamp[1] - stamp[0] - stamps.shape[1]
    # Digits and points beyond those of the pieces fill the values, with a point in each at most.
    has_point, rest = nearest >= first, b"".join(pieces)
    points = rest.count(b".") * count + int(np.count_nonzero(has_point))
    if len(found) - len(at) != points or numeric != (_numeric(rest) - signs) * count + int((last - first).sum()):
        return None
    return Alike(text, first, np.where(has_point, nearest, last), last, [places.index(one) for one in values], digits)


def _numeric(text: bytes) -> int:
    """How many digits and points there are."""
    return len(text) - len(text.translate(None, _NUMERIC))


def _column(numbers: Sequence[int]) -> Int64s:
    return np.array(numbers, np.int64)[:, None]


def _scan(
    text: bytes, part: Place, row: bytes, border: int, stops: Sequence[int]
) -> tuple[Int64s, npt.NDArray[np.bool_], int]:
    """Where marks and points stand, which of them are marks, and how many digits and points there are.

    As if a row stood before the first one, of which the last mark counts, and as if the last one lacked none.
    """
    start, stop = part
    mark = row[stops[0]]
    data = np.frombuffer(text, np.uint8)
    edge = len(row) - border
    lacking = [stop + at - edge for at in stops if at >= edge]
    pieces, numeric = [np.array([start + stops[-1] - len(row)], np.int64)], 0
    # Block by block: what is small need not be got from the system each time.
    for at in range(start, stop, _BLOCK):
        block = data[at : min(at + _BLOCK, stop)]
        pieces.append(((block == mark) | (block == _POINT)).nonzero()[0] + at)
        numeric += int(np.count_nonzero((block - _POINT) < 12))
    if b"/" in text:  # which stands between point and zero
        numeric -= text.count(b"/", start, stop)
    found = np.concatenate([*pieces, np.array(lacking, np.int64)])
    are_marks = np.ones(len(found), np.bool_)
    inner = slice(1, len(found) - len(lacking))
    are_marks[inner] = data.take(found[inner]) == mark
    return found, are_marks, numeric


def _has_pieces(text: bytes, part: Place, border: int, pieces: Sequence[bytes], first: Int64s, last: Int64s) -> bool:
    """Whether the pieces stand before, between and behind the places of all rows, and these follow one another from the
    beginning of the part to its end."""
    head, *inner, tail = pieces
    start, stop = part
    end, edge = last[-1, -1], len(tail) - border
    is_joined = (last >= first).all() and (first[1:] - last[:-1] == _column([len(piece) for piece in inner])).all()
    follows = first[0, 0] == start + len(head) and (first[0, 1:] - last[-1, :-1] == len(tail) + len(head)).all()
    if not is_joined or not follows or text[start : start + len(head)] != head:
        return False
    if stop - end != edge or text[end:stop] != tail[:edge]:
        return False
    between = all(_holds(text, at, piece) for at, piece in zip(last[:-1], inner, strict=True))
    return between and _holds(text, last[-1, :-1], tail + head)


def _holds(text: bytes, at: Int64s, piece: bytes) -> bool:
    """Whether the piece stands at each of these places."""
    return not len(at) or _taken(text, at, len(piece)) == piece * len(at)


def _taken(text: bytes, at: Int64s, width: int) -> bytes:
    """So many bytes of the text from each of these places, one after the other."""
    windows: npt.NDArray[np.void] = np.ndarray((len(text) - width + 1,), f"V{width}", text, strides=(1,))
    return windows[at].tobytes()


def _digits_of(text: bytes, first: Int64s, last: Int64s, sample: bytes) -> Bytes | None:
    """The digits of the stamps at these places; None unless each has its signs where the sample has them."""
    like = np.frombuffer(sample, np.uint8)
    if (last - first != len(like)).any():
        return None
    signs = (like - _ZERO) > 9
    chars = np.frombuffer(_taken(text, first, len(like)), np.uint8).reshape(-1, len(like))
    digits: Bytes = chars[:, ~signs] - _ZERO
    return None if (chars[:, signs] != like[signs]).any() or (digits > 9).any() else digits
