"""Candles as columns: a two-dimensional block of 8-byte values, with a row for each column and an item for each candle.

Times are UTC integer milliseconds, prices and volumes float64, counts int64. Volumes are in base units unless the
column's name says otherwise; on Binance COIN-M `volume` counts contracts and `base_volume` the base asset.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.faults import contradiction, out_of_order, outside
from candle_fetcher.core.gap import Gap, iso
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import Timeframe

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

# The bits of an entry's mask on disk stand for these columns in this order: append new ones, and never reorder.
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
# Stands for a missing value in a column of integers (as a time it is NumPy's NaT). In other columns NaN does.
MISSING = -(2**63)
_BLOCK_ROWS = 1 << 16
# Memory that a child of this process does not share costs fewer steps for each page.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if sys.platform != "win32" else None
_LEAST_MAPPED, _MOST_MAPPED = 1 << 20, 32 << 20  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Candles in one int64 block of shape (len(names), candles), which is not written to after it was filled.

    Columns other than INTEGERS hold the bits of float64.
    """

    names: tuple[str, ...]
    block: Int64s

    @property
    def count(self) -> int:
        """The number of candles."""
        return int(self.block.shape[1])

    @property
    def open_ms(self) -> Int64s:
        """The open times in Unix ms."""
        row: Int64s = self.block[self.names.index("open_time")]
        return row

    def integers(self, name: str) -> Int64s:
        """Return the column as int64."""
        row: Int64s = self.block[self.names.index(name)]
        return row

    def floats(self, name: str) -> Float64s:
        """Return the column as float64."""
        row: Float64s = self.block[self.names.index(name)].view(np.float64)
        return row

    def trim(self, span: Span) -> Candles:
        """Return the candles that open in the span; they share memory with these."""
        opens = self.open_ms
        if not self.count or (span.start_ms <= opens[0] and opens[-1] < span.end_ms):
            return self
        first, last = np.searchsorted(opens, (span.start_ms, span.end_ms))
        return Candles(self.names, self.block[:, first:last])

    def apart(self) -> Candles:
        """Return a copy where the candles are less than half of the block that holds them; else return them unchanged.

        As long as the candles are referenced, the whole block stays in memory.
        """
        base = self.block.base
        is_small = isinstance(base, np.ndarray) and base.nbytes > 2 * self.block.nbytes
        return Candles(self.names, self.block.copy()) if is_small else self

    def equals(self, other: Candles) -> bool:
        """Return whether the other candles are the same, bit for bit."""
        return self.names == other.names and bool(np.array_equal(self.block, other.block))

    def pick(self, names: Sequence[str]) -> Candles:
        """Return the candles with those columns alone, open_time first. The first columns in order share memory."""
        if names == self.names:
            return self
        if tuple(names) == self.names[: len(names)]:
            return Candles(tuple(names), self.block[: len(names)])
        return Candles(tuple(names), self.block[[self.names.index(name) for name in names]])


def have_prices(names: Sequence[str]) -> bool:
    """Return whether the columns are those of candles: the time, then open, high, low, close and volume.

    Rows of other kinds, such as open interest, have columns of their own.
    """
    return tuple(names[1:6]) == OHLCV


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without duplicates: those in COLUMNS in its order, then the others in the given order."""
    each = tuple(dict.fromkeys(names))
    return (*(name for name in COLUMNS if name in each), *(name for name in each if name not in COLUMNS))


def empty_block(columns: int, rows: int) -> Int64s:
    """Return a block with undefined values, to be filled.

    A block of 1 to 32 MB is a memory mapping, so that its memory returns to the system as soon as the block is freed.
    The C library would keep the memory of such blocks, which adds up when many files are read. It maps larger blocks
    itself.
    """
    size = columns * rows * 8
    if not _LEAST_MAPPED <= size < _MOST_MAPPED:
        return np.empty((columns, rows), np.int64)
    memory = mmap.mmap(-1, size) if _PRIVATE is None else mmap.mmap(-1, size, flags=_PRIVATE)
    return np.frombuffer(memory, np.int64).reshape(columns, rows)


def candles_from(names: Sequence[str], columns: Sequence[npt.NDArray[np.generic]]) -> Candles:
    """Return candles made of equally long columns, `open_time` first.

    Columns that are not in COLUMNS are float64.
    """
    block = empty_block(len(names), len(columns[0]))
    _fill(block, names, columns)
    return Candles(tuple(names), block)


def _fill(block: Int64s, names: Sequence[str], columns: Sequence[npt.NDArray[np.generic]]) -> None:
    for row, name, column in zip(block, names, columns, strict=True):
        if name in INTEGERS:
            row[:] = column
        else:
            row.view(np.float64)[:] = column


def no_candles(names: Sequence[str]) -> Candles:
    """Return zero candles with these columns."""
    return Candles(tuple(names), np.empty((len(names), 0), np.int64))


def join(parts: Sequence[Candles]) -> Candles:
    """Return the parts, which follow each other in time, in one block.

    Where they adjoin in a read-only block already, a view of that block is returned; else they are copied.
    """
    whole = part_of_one_block(parts)
    if whole is not None:
        return whole
    if len({part.names for part in parts}) > 1:
        names = in_order(name for part in parts for name in part.names)
        parts = [widen(part, names) for part in parts]
    block = empty_block(len(parts[0].names), sum(part.count for part in parts))
    return Candles(parts[0].names, np.concatenate([part.block for part in parts], axis=1, out=block))


def part_of_one_block(parts: Sequence[Candles]) -> Candles | None:
    """Return the parts as one view of the block that they share; None where they do not adjoin in a read-only block."""
    names, first = parts[0].names, parts[0].block
    base = first.base
    if not isinstance(base, np.ndarray) or first.flags.writeable or base.ndim != 2 or first.strides != base.strides:
        return None
    place, at = first.ctypes.data, 0
    for part in parts:
        block = part.block
        if part.names != names or (block.base is not base and block is not base):
            return None
        if block.ctypes.data != place + at * first.strides[1]:
            return None
        at += block.shape[1]
    column, start = divmod((place - base.ctypes.data) // base.itemsize, base.shape[1] or 1)
    if start + at > base.shape[1]:
        return None
    whole = base[column : column + len(names), start : start + at]
    whole.flags.writeable = False
    return Candles(names, whole)


def collect(parts: Iterable[Sequence[npt.NDArray[np.generic]]], names: Sequence[str], room: int) -> Candles:
    """Return candles made of the columns of all parts, as `candles_from` makes them of the columns of one.

    `parts` may be a generator. `room` is the expected number of candles: the block is allocated for that many, and
    grows where there are more.
    """
    block, count = empty_block(len(names), room), 0
    for columns in parts:
        stop = count + len(columns[0])
        if stop > block.shape[1]:
            grown = empty_block(len(names), 2 * stop)
            grown[:, :count] = block[:, :count]
            block = grown
        _fill(block[:, count:stop], names, columns)
        count = stop
    return Candles(tuple(names), block[:, :count])


def widen(part: Candles, names: tuple[str, ...]) -> Candles:
    """Return the candles with the named columns; a column that they lack has NaN, or MISSING if it holds integers."""
    block = np.full((len(names), part.count), MISSING, np.int64)
    for row, name in zip(block, names, strict=True):
        if name in part.names:
            row[:] = part.integers(name)
        elif name not in INTEGERS:
            row.view(np.float64)[:] = np.nan
    return Candles(names, block)


def overlay(base: Candles, newer: Candles, span: Span) -> Candles:
    """Return the newer candles inside the span and the base candles outside it, in order of open time."""
    return join([base.trim(ALL_TIME.before(span.start_ms)), newer, base.trim(ALL_TIME.after(span.end_ms))])


def check(candles: Candles, span: Span) -> Candles:
    """Check that the candles are possible, and return them without equal duplicates.

    Raises ReplyError where they are out of order, two of one time differ, one lies outside the span, or has impossible
    numbers: low above open or close, high below open or close, a negative volume, or a number that is not finite. A
    column that is not in COLUMNS may have NaN, but no infinity.
    """
    opens = candles.open_ms
    if not candles.count:
        return candles
    if opens[0] < span.start_ms or opens[-1] >= span.end_ms:
        stray = int(opens[0] if opens[0] < span.start_ms else opens[-1])
        raise outside("candles", stray, span)
    steps = np.diff(opens)
    if steps.size and steps.min() <= 0:
        if steps.min() < 0:
            row = int(np.argmax(steps < 0)) + 1
            raise out_of_order(row + 1, int(opens[row]), int(opens[row - 1]))
        twins = np.flatnonzero(steps == 0)
        differing = (candles.block[:, twins] != candles.block[:, twins + 1]).any(axis=0)
        if differing.any():
            row = int(twins[np.argmax(differing)]) + 1
            raise contradiction(f"row {row + 1}", int(opens[row]))
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
        rule = "expected low <= open, close <= high, volume >= 0, and finite numbers"
        raise ReplyError(f"row {row + 1} ({iso(int(candles.open_ms[row]))}) cannot be a candle: {shown}; {rule}")


def _have_true_prices(candles: Candles) -> npt.NDArray[np.bool_]:
    open_, high, low, close, volume = (candles.floats(name) for name in OHLCV)
    if np.isnan(volume).all():
        volume = np.zeros(1)  # the provider has no volumes; if only some are missing, that is an error
    with np.errstate(invalid="ignore", over="ignore"):
        # A NaN makes every comparison false, an infinity makes the sum not finite.
        fine = (low <= open_) & (low <= close) & (open_ <= high) & (close <= high) & (volume >= 0)
        return np.asarray(fine & np.isfinite(high - low + volume))


def find_holes(open_ms: Int64s, timeframe: Timeframe, span: Span) -> list[Span]:
    """Return the runs of slots without a candle, among the slots that open in the span, in order.

    Each run is a span from the opening of its first slot to the end of its last one.
    """
    wanted = timeframe.slots(span)
    if not wanted:
        return []
    first, stop = wanted.start, wanted.stop
    holes, last = [], first - 1
    # In blocks of rows, to bound the memory for the slots.
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
    """Return the hole as a gap with its cause. The hole begins and ends at borders of slots."""
    first, stop = timeframe.ordinal(hole.start_ms), timeframe.first_slot(hole.end_ms)
    return Gap(hole.start_ms, timeframe.open_ms(stop - 1), stop - first, cause)


def chunk_pieces(candles: Candles, timeframe: Timeframe, chunk_slots: int) -> Iterator[Candles]:
    """Yield the candles cut at the borders of chunks, in order."""
    if not candles.count:
        return
    chunks = timeframe.ordinals(candles.open_ms) // chunk_slots
    cuts = np.flatnonzero(np.diff(chunks)) + 1
    for first, last in zip([0, *cuts], [*cuts, candles.count], strict=True):
        yield Candles(candles.names, candles.block[:, first:last])


class Fingerprint:
    """A SHA-256 of candles: equal candles have equal fingerprints, from any source.

    It is computed over the SHA-256 digests of the candles of each chunk: of their open times as little-endian int64 ms,
    then of open, high, low, close and volume as little-endian float64, column after column. Rows without prices use
    their own columns. Candles may be added in parts if each part except the last one ends at a chunk border.
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
