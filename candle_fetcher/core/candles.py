"""Candles as columns: one block of 8-byte values, a row of the block for each column, a place in it for each candle.

Times are UTC integer milliseconds, prices and volumes float64, counts int64. Volumes are in base units unless the
column says otherwise; on Binance COIN-M `volume` counts contracts and `base_volume` the base asset.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import Timeframe

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

# The order is the order of an entry on disk, where a bit mask says which of them are there: append, never reorder.
COLUMNS = (
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
    "base_volume",
    "taker_buy_base_volume",
    "funding_rate",
    "mark_price",
)
INTEGERS = frozenset({"open_time", "close_time", "trades"})
OHLCV = COLUMNS[1:6]
# In a column of integers: there is no such value. As a time it is NumPy's NaT. Of decimals that is NaN.
MISSING = -(2**63)
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """`block` is int64 of shape (len(names), candles); float columns are float64 bits in it. Read, never written."""

    names: tuple[str, ...]
    block: Int64s

    @property
    def count(self) -> int:
        return int(self.block.shape[1])

    @property
    def open_ms(self) -> Int64s:
        return self.integers("open_time")

    def integers(self, name: str) -> Int64s:
        row: Int64s = self.block[self.names.index(name)]
        return row

    def floats(self, name: str) -> Float64s:
        return self.integers(name).view(np.float64)

    def trim(self, span: Span) -> Candles:
        """The candles that open in the span, sharing memory."""
        opens = self.open_ms
        if not self.count or (span.start_ms <= opens[0] and opens[-1] < span.end_ms):
            return self
        first, last = np.searchsorted(opens, (span.start_ms, span.end_ms))
        return Candles(self.names, self.block[:, first:last])

    def equals(self, other: Candles) -> bool:
        """Whether they are the same candles, bit for bit."""
        return self.names == other.names and bool(np.array_equal(self.block, other.block))

    def pick(self, names: Sequence[str]) -> Candles:
        """Only those columns, open_time first; adjoining ones share memory."""
        if tuple(names) == self.names[: len(names)]:
            return Candles(tuple(names), self.block[: len(names)])
        return Candles(tuple(names), self.block[[self.names.index(name) for name in names]])


def have_prices(names: Sequence[str]) -> bool:
    """Whether the columns are those of candles: open, high, low, close and volume after the time. Others are rows on
    the grid with columns of their own, such as open interest."""
    return tuple(names[1:6]) == OHLCV


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once: those of COLUMNS in their order, then the others as they come."""
    each = tuple(dict.fromkeys(names))
    return (*(name for name in COLUMNS if name in each), *(name for name in each if name not in COLUMNS))


def candles_from(names: Sequence[str], columns: Sequence[npt.NDArray[np.generic]]) -> Candles:
    """Candles made of equally long columns, `open_time` first. Columns that are not in COLUMNS are float64."""
    block = np.empty((len(names), len(columns[0])), np.int64)
    for row, name, column in zip(block, names, columns, strict=True):
        if name in INTEGERS:
            row[:] = column
        else:
            row.view(np.float64)[:] = column
    return Candles(tuple(names), block)


def no_candles(names: Sequence[str]) -> Candles:
    """Columns without a candle."""
    return Candles(tuple(names), np.empty((len(names), 0), np.int64))


def join(parts: Sequence[Candles]) -> Candles:
    """The parts in one block, by one allocation. They follow each other in time."""
    if len({part.names for part in parts}) > 1:
        names = in_order(name for part in parts for name in part.names)
        parts = [widen(part, names) for part in parts]
    return Candles(parts[0].names, np.concatenate([part.block for part in parts], axis=1))


def widen(part: Candles, names: tuple[str, ...]) -> Candles:
    """The same candles with the named columns; those that it lacks are NaN, or MISSING in a column of integers."""
    block = np.full((len(names), part.count), MISSING, np.int64)
    for row, name in zip(block, names, strict=True):
        if name in part.names:
            row[:] = part.integers(name)
        elif name not in INTEGERS:
            row.view(np.float64)[:] = np.nan
    return Candles(names, block)


def overlay(base: Candles, newer: Candles, span: Span) -> Candles:
    """The newer candles inside the span and the base ones outside it, in order of open time."""
    return join([base.trim(ALL_TIME.before(span.start_ms)), newer, base.trim(ALL_TIME.after(span.end_ms))])


def check(candles: Candles, span: Span) -> Candles:
    """The candles, equal duplicates dropped, if they can be true.

    Raises ReplyError where they are out of order, contradict each other, lie outside the span, or hold a number that no
    market prints: not finite, low above open or close, high below them, a negative volume. A column that is not in
    COLUMNS may lack values (NaN), and is never infinite.
    """
    opens = candles.open_ms
    if not candles.count:
        return candles
    if opens[0] < span.start_ms or opens[-1] >= span.end_ms:
        stray = int(opens[0] if opens[0] < span.start_ms else opens[-1])
        raise ReplyError(f"a candle of {iso(stray)} came for {iso(span.start_ms)} to {iso(span.end_ms)}")
    steps = np.diff(opens)
    if steps.size and steps.min() <= 0:
        if steps.min() < 0:
            row = int(np.argmax(steps < 0)) + 1
            raise ReplyError(
                f"row {row + 1} ({iso(int(opens[row]))}) came after {iso(int(opens[row - 1]))}: out of order"
            )
        twins = np.flatnonzero(steps == 0)
        differing = (candles.block[:, twins] != candles.block[:, twins + 1]).any(axis=0)
        if differing.any():
            row = int(twins[np.argmax(differing)]) + 1
            raise ReplyError(f"row {row + 1} ({iso(int(opens[row]))}) contradicts the row before it")
        candles = Candles(candles.names, np.delete(candles.block, twins + 1, axis=1))
    _check_numbers(candles)
    return candles


def _check_numbers(candles: Candles) -> None:
    fine = _have_true_prices(candles) if have_prices(candles.names) else np.ones(candles.count, np.bool_)
    for name in candles.names[1:]:
        if name not in INTEGERS and name not in OHLCV:
            values = candles.floats(name)
            fine &= np.isfinite(values) if name in COLUMNS else ~np.isinf(values)
    if not fine.all():
        row = int(np.argmin(fine))
        found = {name: float(candles.floats(name)[row]) for name in candles.names if name not in INTEGERS}
        shown = ", ".join(
            f"{name} {value!r}" for name, value in found.items() if name in OHLCV or not math.isfinite(value)
        )
        raise ReplyError(f"row {row + 1} ({iso(int(candles.open_ms[row]))}) cannot be a candle: {shown}")


def _have_true_prices(candles: Candles) -> npt.NDArray[np.bool_]:
    open_, high, low, close, volume = (candles.floats(name) for name in OHLCV)
    if np.isnan(volume).all():
        volume = np.zeros(1)  # the provider has no volumes; a single one that is lacking is an error
    with np.errstate(invalid="ignore", over="ignore"):
        # A NaN makes every comparison false, an infinity makes the sum not finite.
        fine = (low <= open_) & (low <= close) & (open_ <= high) & (close <= high) & (volume >= 0)
        return np.asarray(fine & np.isfinite(high - low + volume))


@dataclass(frozen=True, slots=True)
class Gap:
    """Slots without a candle: the first and the last open time that is missing (ms), how many, and why."""

    first_ms: int
    last_ms: int
    count: int
    cause: str

    @property
    def first(self) -> str:
        return iso(self.first_ms)

    @property
    def last(self) -> str:
        return iso(self.last_ms)


def find_holes(open_ms: Int64s, timeframe: Timeframe, span: Span) -> list[Span]:
    """The runs of slots without a candle, among the slots that open in the span; in order, border to border."""
    wanted = timeframe.slots(span)
    if not wanted:
        return []
    first, stop = wanted.start, wanted.stop
    holes, last = [], first - 1
    # By blocks: whole columns of slots and steps would be the largest things around.
    for at in range(0, len(open_ms), _BLOCK_ROWS):
        slots = timeframe.ordinals(open_ms[at : at + _BLOCK_ROWS])
        begin, end = np.searchsorted(slots, (first, stop))
        slots = slots[begin:end]
        if not slots.size:
            continue
        holes += [(last, int(slots[0]))] if slots[0] - last > 1 else []
        jumps = np.flatnonzero(np.diff(slots) > 1)
        holes += [(int(slots[jump]), int(slots[jump + 1])) for jump in jumps]
        last = int(slots[-1])
    holes += [(last, stop)] if stop - last > 1 else []
    return [Span(timeframe.open_ms(before + 1), timeframe.open_ms(after)) for before, after in holes]


def gap_of(hole: Span, timeframe: Timeframe, cause: str) -> Gap:
    """The hole, which runs from border to border of slots, told by its first and last slot."""
    first, stop = timeframe.ordinal(hole.start_ms), timeframe.first_slot(hole.end_ms)
    return Gap(hole.start_ms, timeframe.open_ms(stop - 1), stop - first, cause)


def chunk_pieces(candles: Candles, timeframe: Timeframe, chunk_slots: int) -> Iterator[Candles]:
    """The candles cut at the borders of chunks, in order."""
    if not candles.count:
        return
    chunks = timeframe.ordinals(candles.open_ms) // chunk_slots
    cuts = np.flatnonzero(np.diff(chunks)) + 1
    for first, last in zip([0, *cuts], [*cuts, candles.count], strict=True):
        yield Candles(candles.names, candles.block[:, first:last])


class Fingerprint:
    """SHA-256 over the SHA-256 digests of the pieces that chunk borders cut.

    A piece is its open times as little-endian int64 ms, then open, high, low, close, volume as little-endian float64,
    column after column; of rows without prices, their own columns. The same candles give the same text however they
    came. Candles may be added part by part, where each part but the last ends where a chunk does.
    """

    def __init__(self, timeframe: Timeframe, chunk_slots: int) -> None:
        self._timeframe = timeframe
        self._chunk_slots = chunk_slots
        self._whole = hashlib.sha256()

    def add(self, candles: Candles) -> None:
        """Add candles that follow those added before."""
        for piece in chunk_pieces(candles, self._timeframe, self._chunk_slots):
            digest = hashlib.sha256()
            for name in piece.names[: 1 + len(OHLCV)] if have_prices(piece.names) else piece.names:
                digest.update(np.ascontiguousarray(piece.integers(name), dtype="<i8").data)
            self._whole.update(digest.digest())

    @property
    def text(self) -> str:
        """The fingerprint of all candles added so far."""
        return self._whole.hexdigest()


def fingerprint(candles: Candles, timeframe: Timeframe, chunk_slots: int) -> str:
    """Return the fingerprint of the candles; see `Fingerprint`."""
    made = Fingerprint(timeframe, chunk_slots)
    made.add(candles)
    return made.text


def iso(ms: int) -> str:
    """The instant as 2024-01-01T00:00:00Z, with milliseconds only where there are some."""
    text = str(np.datetime64(ms, "ms"))
    return (text[:-4] if text.endswith(".000") else text) + "Z"
