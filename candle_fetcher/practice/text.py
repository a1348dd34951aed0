"""Candles as Binance prints them, JSON rows or CSV lines, and as the numbers these read as. Whole columns at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.practice.market import Int64s, MarketCandles

# The fields of a row, in order; the twelfth is "0" and means nothing.
FIELDS = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)
WHOLE = ("open_time", "close_time", "trades")
_FOUR_DIGITS = np.frombuffer(b"".join(b"%04d" % n for n in range(10_000)), np.uint32)
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_EXACT = 2**53
_MICROSECONDS = {"open_time": b"000", "close_time": b"999"}
# Characters of every candle or of all of them alike, and which of their columns show where that differs.
_Piece = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]


class Style(NamedTuple):
    """Decimals of each quantity; None prints amounts as "0", as price candles (mark, index, premium) do."""

    price: int
    volume: int | None
    quote: int | None

    def decimals(self, field: str) -> int | None:
        """Return the decimals of a field that is printed as a string."""
        if field in ("open", "high", "low", "close"):
            return self.price
        return self.volume if field in ("volume", "taker_buy_volume") else self.quote


class Rows(NamedTuple):
    """Printed rows: row i is data[offsets[i]:offsets[i + 1]], with a comma at its end."""

    opens: Int64s
    data: bytes
    offsets: Int64s

    def text(self, first: int, last: int) -> bytes:
        """Return the rows [first, last), each with its comma."""
        return self.data[self.offsets[first] : self.offsets[last]]


def print_rows(candles: MarketCandles, style: Style) -> Rows:
    """Return the candles as compact JSON arrays of 12."""
    pieces: list[_Piece] = []
    before = b"["
    for field in FIELDS:
        quote = b"" if field in WHOLE else b'"'
        pieces += [(_constant(before + quote), None), *_field(candles, field, style)]
        before = quote + b","
    pieces.append((_constant(before + b'"0"],'), None))
    page, shown = _lay_out(pieces, len(candles.open_time))
    offsets = np.zeros(len(page) + 1, np.int64)
    np.cumsum(shown.sum(axis=1), out=offsets[1:])
    return Rows(candles.open_time, page[shown].tobytes(), offsets)


def print_csv(candles: MarketCandles, style: Style, *, in_microseconds: bool) -> bytes:
    """Return the candles as CSV lines of 12 fields without a header; a close time in µs is the last one of its ms."""
    pieces: list[_Piece] = []
    for field in FIELDS:
        pieces += _field(candles, field, style)
        pieces.append((_constant((_MICROSECONDS.get(field, b"") if in_microseconds else b"") + b","), None))
    pieces.append((_constant(b"0\n"), None))
    page, shown = _lay_out(pieces, len(candles.open_time))
    return page[shown].tobytes()


def csv_of_raw(rows: Sequence[Sequence[Any]], *, in_microseconds: bool) -> bytes:
    """Return raw rows as lines of CSV, other values than times as they are."""
    more = [(_MICROSECONDS.get(field, b"") if in_microseconds else b"").decode() for field in FIELDS] + [""]
    return "".join(
        ",".join(f"{value}{digits}" for value, digits in zip(row, more, strict=True)) + "\n" for row in rows
    ).encode()


def _field(candles: MarketCandles, field: str, style: Style) -> list[_Piece]:
    decimals = 0 if field in WHOLE else style.decimals(field)
    return [(_constant(b"0"), None)] if decimals is None else _digits(getattr(candles, field), decimals)


def _lay_out(pieces: Sequence[_Piece], count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the characters side by side, one line for each candle, and which of them show."""
    width = sum(chars.shape[1] for chars, _ in pieces)
    page = np.empty((count, width), np.uint8)
    shown = np.ones((count, width), np.bool_)
    at = 0
    for chars, mask in pieces:
        until = at + chars.shape[1]
        page[:, at:until] = chars
        if mask is not None:
            shown[:, at : at + mask.shape[1]] = mask
        at = until
    return page, shown


def _constant(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)[None, :]


def _digits(values: Int64s, decimals: int) -> list[_Piece]:
    """Return the characters of each number, and which of them show: no leading zeros, a minus only before negative
    ones."""
    pieces: list[_Piece] = []
    if len(values) and int(values.min()) < 0:
        pieces.append((np.full((len(values), 1), ord("-"), np.uint8), (values < 0)[:, None]))
        values = np.abs(values)
    top = int(values.max()) if len(values) else 0
    digits = max(len(str(top)), decimals + 1)
    groups = -(-digits // 4)
    words = np.empty((len(values), groups), np.uint32)
    rest = values
    for group in range(groups - 1, 0, -1):
        higher = rest // 10_000
        words[:, group] = _FOUR_DIGITS[rest - higher * 10_000]
        rest = higher
    words[:, 0] = _FOUR_DIGITS[rest]
    chars = words.view(np.uint8)[:, groups * 4 - digits :]
    leading = digits - decimals - 1
    mask = None
    if leading and int(values.min()) < _POWERS[digits - 1]:
        mask = values[:, None] >= _POWERS[digits - 1 - np.arange(leading)]
    pieces.append((chars[:, : digits - decimals], mask))
    if decimals:
        pieces += [(_constant(b"."), None), (chars[:, digits - decimals :], None)]
    return pieces


def read_numbers(values: Int64s, decimals: int) -> npt.NDArray[np.float64]:
    """Return the float64 of the text of each value: both sides of the division are exact, so it rounds
    once."""
    numbers: npt.NDArray[np.float64] = values / 10.0**decimals
    for index in np.flatnonzero(np.abs(values) > _EXACT):
        numbers[index] = int(values[index]) / 10**decimals
    return numbers


def read_candles(candles: MarketCandles, style: Style) -> dict[str, npt.NDArray[Any]]:
    """Return the columns that the printed rows read as: float64 columns, int64 for times and trades."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for field in FIELDS:
        values: Int64s = getattr(candles, field)
        if field in WHOLE:
            columns[field] = values
        else:
            decimals = style.decimals(field)
            columns[field] = np.zeros(len(values)) if decimals is None else read_numbers(values, decimals)
    return columns


def read_rows(rows: Sequence[Sequence[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of raw rows of 12 fields."""
    return {
        field: np.array([row[at] for row in rows], np.int64)
        if field in WHOLE
        else np.array([float(row[at]) for row in rows], np.float64)
        for at, field in enumerate(FIELDS)
    }


def print_raw(rows: Sequence[Sequence[Any]]) -> Rows:
    """Return raw rows in order of open time, every value as it is."""
    rows = sorted(rows, key=lambda row: row[0])
    data = json.dumps(rows, separators=(",", ":")).encode()[1:-1] + b"," * bool(rows)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("]")) + 2
    if len(ends) != len(rows):  # a value of a row holds such a bracket itself
        texts = [json.dumps(row, separators=(",", ":")).encode() + b"," for row in rows]
        data, ends = b"".join(texts), np.cumsum([len(text) for text in texts])
    offsets = np.concatenate((np.zeros(1, np.int64), ends.astype(np.int64)))
    return Rows(np.array([int(row[0]) for row in rows], np.int64), data, offsets)


def amend(row: list[Any], changes: dict[str, Any]) -> list[Any]:
    """Return the row with some fields changed; a number gets the decimals of the field it replaces, a string stays."""
    amended = list(row)
    for field, value in changes.items():
        at = FIELDS.index(field)
        if field in WHOLE:
            amended[at] = int(value)
        else:
            amended[at] = print_number(value, len(str(row[at]).partition(".")[2]))
    return amended


def amend_rows(rows: Rows, changes: Mapping[int, dict[str, Any]]) -> Rows:
    """Return the rows with some fields changed of those that open at these times; the others are not read."""
    pieces, sizes, done = [], np.diff(rows.offsets), 0
    for open_ms in sorted(changes):
        at = int(np.searchsorted(rows.opens, open_ms))
        if rows.opens[at] == open_ms:
            amended = json.dumps(amend(json.loads(rows.text(at, at + 1)[:-1]), changes[open_ms]), separators=(",", ":"))
            pieces += [rows.text(done, at), amended.encode() + b","]
            sizes[at] = len(pieces[-1])
            done = at + 1
    pieces.append(rows.text(done, len(rows.opens)))
    return Rows(rows.opens, b"".join(pieces), np.concatenate(([0], np.cumsum(sizes))))


def print_number(value: Any, decimals: int) -> str:
    """Return the number with so many decimals; a string stays as it is."""
    return value if isinstance(value, str) else f"{Decimal(str(value)):.{decimals}f}"
