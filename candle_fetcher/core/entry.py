"""A stored chunk as a value, and as bytes: plain columns behind a checksum, which also covers the key.

Layout, little-endian: magic `CNDL`, CRC-32 of everything else and of the key, version, packing (0 plain, 1 zlib), two
bytes of padding, length of the head, head, body. Bytes that fail a check read as None: a miss, never an error.

The head of an entry: covered start and end, stored at (ms), rows, bit mask of COLUMNS, number of holes, number of
unverified spans; then each hole as start, end, and time of asking (ms) or number of its state; then each unverified
span as start, end. Names of columns that are not in COLUMNS end the head; see NAMED. The body is the block of
`Candles`.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import COLUMNS, Candles, in_order
from candle_fetcher.core.expiry import FOREVER_MS, ask_again_ms, is_due
from candle_fetcher.core.spans import Span, subtract

VERSION = 1
# The version of an entry with other columns than those of COLUMNS, or in another order: its mask is 0, and their names
# end the head. A program that does not know this version treats the entry as one of a newer version.
NAMED = VERSION | 0x80
_ENVELOPE = struct.Struct("<4sIBBHI")
_MAGIC = b"CNDL"
_VERSION_AT = 8
_HEAD = struct.Struct("<qqqIIII")
_HOLE = struct.Struct("<qqq")
_SPAN = struct.Struct("<qq")
# The most bytes that a packed body may unpack to: more than any listing or chunk.
_MOST_BYTES = 64 * 2**20
_MASK_OF: dict[tuple[str, ...], int] = {}
_NAMES_OF: dict[int, tuple[str, ...]] = {}


class HoleState(enum.IntEnum):
    """What is known about a hole. A state further down outranks those above it.

    In stored bytes, the number of the state takes the place of the time of asking, which only a confirmed hole has.
    """

    UNASKED = -2
    """No source was asked: the hole lies between two imported files, and its slots do not count as covered."""
    BEYOND = -1
    """The provider does not serve such old candles: the hole is not a gap, and cannot be requested any more."""
    DUE = 0
    """It has to be requested at once: the source that lacked the candles, such as a file, is not enough evidence."""
    CONFIRMED = 1
    """The provider was asked for exactly this span and has no candle. The answer expires; see `expiry`."""


class Hole(NamedTuple):
    """A part of the covered span that has no candle; `asked_ms` is when it was confirmed, None in other states."""

    span: Span
    state: HoleState
    asked_ms: int | None = None

    @classmethod
    def at(cls, span: Span, state: HoleState, now_ms: int) -> Hole:
        """Return a hole in that state; a CONFIRMED one was confirmed at `now_ms`."""
        return cls(span, state, now_ms if state is HoleState.CONFIRMED else None)

    def ask_again_ms(self, late_rows_ms: int = 0) -> int:
        """Return when the hole is requested again: 0 for at once, FOREVER_MS for never; see `expiry.ask_again_ms`."""
        if self.asked_ms is not None:
            return ask_again_ms(self.span.end_ms, self.asked_ms, late_rows_ms)
        return FOREVER_MS if self.state is HoleState.BEYOND else 0

    def is_due(self, now_ms: int, late_rows_ms: int = 0) -> bool:
        """Return whether the hole has to be requested again now; see `expiry.is_due`.

        Where `now_ms` is 0, no source may be asked, and it never has to.
        """
        if self.asked_ms is not None:
            return is_due(self.span.end_ms, self.asked_ms, now_ms, late_rows_ms)
        return self.state is HoleState.DUE and now_ms > 0


# States of a hole that is not known to be empty.
UNKNOWN = HoleState.UNASKED, HoleState.BEYOND
_STATES = {int(state): state for state in HoleState if state is not HoleState.CONFIRMED}


def holes_outside(holes: Iterable[Hole], spans: Sequence[Span]) -> list[Hole]:
    """Return the parts of the holes that lie outside the spans."""
    return [hole._replace(span=part) for hole in holes for part in subtract(hole.span, spans)]


class Entry(NamedTuple):
    """A stored chunk: every settled candle of the covered span, and the holes in it.

    stored_ms: when the end of the covered span was last asked for.
    unverified: in a stored entry, the spans of candles without a checksum; the series' facts name their files.
    """

    covered: Span
    stored_ms: int
    holes: tuple[Hole, ...]
    candles: Candles
    unverified: tuple[Span, ...] = ()


def seal(key: str, head: bytes, body: bytes, *, compress: bool = False, version: int = VERSION) -> bytes:
    """Return the bytes to store under the key. `unseal` returns head and body only for the same key."""
    packing = 0
    if compress:
        body, packing = zlib.compress(body, 1), 1
    start = _ENVELOPE.pack(_MAGIC, 0, version, packing, 0, len(head))
    checksum = zlib.crc32(body, zlib.crc32(head, zlib.crc32(start[8:], zlib.crc32(key.encode()))))
    return b"".join((_MAGIC, struct.pack("<I", checksum), start[8:], head, body))


def unseal(key: str, data: bytes, *, trusted: bool = False) -> tuple[bytes, memoryview] | None:
    """Return head and body; None where the bytes are cut, changed, of another key or of another version.

    `trusted` skips the checksum, for bytes that were checked and have stayed in this process's memory since.
    """
    if len(data) < _ENVELOPE.size:
        return None
    magic, checksum, version, packing, _, head_length = _ENVELOPE.unpack_from(data)
    if magic != _MAGIC or version not in (VERSION, NAMED) or _ENVELOPE.size + head_length > len(data):
        return None
    view = memoryview(data)
    if not trusted and zlib.crc32(view[8:], zlib.crc32(key.encode())) != checksum:
        return None
    body = view[_ENVELOPE.size + head_length :]
    if packing == 1:
        unzip = zlib.decompressobj()
        try:
            body = memoryview(unzip.decompress(body, _MOST_BYTES))
        except zlib.error:
            return None
        if not unzip.eof:
            return None
    elif packing != 0:
        return None
    return bytes(view[_ENVELOPE.size : _ENVELOPE.size + head_length]), body


def is_of_newer_version(key: str, data: bytes) -> bool:
    """Return whether the bytes are whole and were sealed by a newer version of this package."""
    version = _sealed_version(key, data)
    return version is not None and version > VERSION and version != NAMED


def is_of_older_version(key: str, data: bytes) -> bool:
    """Return whether the bytes are whole and were sealed by an older version of this package."""
    version = _sealed_version(key, data)
    return version is not None and version < VERSION


def _sealed_version(key: str, data: bytes) -> int | None:
    """Return the version in the envelope; None where the bytes are not whole. All versions share this envelope."""
    if len(data) < _ENVELOPE.size:
        return None
    magic, checksum, version, *_ = _ENVELOPE.unpack_from(data)
    is_whole = magic == _MAGIC and zlib.crc32(data[8:], zlib.crc32(key.encode())) == checksum
    return int(version) if is_whole else None


def pack(key: str, entry: Entry, *, compress: bool = False) -> bytes:
    """Return the entry as bytes to store under the key."""
    candles = entry.candles
    counts = candles.count, _mask(candles.names), len(entry.holes), len(entry.unverified)
    head = _HEAD.pack(*entry.covered, entry.stored_ms, *counts)
    if entry.holes or entry.unverified:
        head += pack_spans(entry.holes, entry.unverified)
    version = VERSION if counts[1] else NAMED
    if version == NAMED:
        head += "\0".join(candles.names).encode()
    body = np.ascontiguousarray(candles.block, dtype="<i8").tobytes()
    return seal(key, head, body, compress=compress, version=version)


def unpack(key: str, data: bytes, *, trusted: bool = False) -> Entry | None:
    """Return the entry; its candles share the bytes. None unless they are a whole entry of this key and version."""
    opened = unseal(key, data, trusted=trusted)
    if opened is None or len(opened[0]) < _HEAD.size:
        return None
    head, body = opened
    start_ms, end_ms, stored_ms, rows, mask, hole_count, unverified = _HEAD.unpack_from(head)
    end = _HEAD.size + hole_count * _HOLE.size + unverified * _SPAN.size
    names = _names(mask) if mask else tuple(head[end:].decode("utf-8", "replace").split("\0"))
    is_named = data[_VERSION_AT] == NAMED
    if (
        len(head) < end
        or is_named is bool(mask)
        or (mask and len(head) > end)
        or len(body) != len(names) * rows * 8
        or not names
    ):
        return None
    block = np.frombuffer(body, "<i8").reshape(len(names), rows)
    holes, spans, _ = unpack_spans(head, _HEAD.size, hole_count, unverified)
    return Entry(Span(start_ms, end_ms), stored_ms, holes, Candles(names, block), spans)


def pack_spans(holes: Iterable[Hole], unverified: Iterable[Span]) -> bytes:
    """Return the holes and the unverified spans of an entry as bytes."""
    data = b"".join(_HOLE.pack(*span, state if asked_ms is None else asked_ms) for span, state, asked_ms in holes)
    return data + b"".join(_SPAN.pack(*span) for span in unverified)


def unpack_spans(head: bytes, at: int, holes: int, unverified: int) -> tuple[tuple[Hole, ...], tuple[Span, ...], int]:
    """Return that many holes and unverified spans, which begin at `at` in the head, and the index after them."""
    if not holes and not unverified:
        return (), (), at
    spans_at = at + holes * _HOLE.size
    end = spans_at + unverified * _SPAN.size
    if end > len(head):
        raise ValueError("the head is cut")
    found = [
        Hole(Span(first, stop), _STATES.get(word, HoleState.CONFIRMED), None if word in _STATES else word)
        for first, stop, word in _HOLE.iter_unpack(head[at:spans_at])
    ]
    return tuple(found), tuple(Span(*span) for span in _SPAN.iter_unpack(head[spans_at:end])), end


HEAD_BYTES = _ENVELOPE.size + _HEAD.size


def count_rows(beginning: bytes) -> int | None:
    """Return the number of candles of a stored entry, given its first HEAD_BYTES bytes; None for other bytes."""
    if len(beginning) < HEAD_BYTES:
        return None
    magic, _, version, *_ = _ENVELOPE.unpack_from(beginning)
    return _HEAD.unpack_from(beginning, _ENVELOPE.size)[3] if magic == _MAGIC and version == VERSION else None


def _mask(names: tuple[str, ...]) -> int:
    """Return the columns as bits; 0 where they are not names of COLUMNS in its order."""
    mask = _MASK_OF.get(names)
    if mask is None:
        is_ordered = set(names) <= set(COLUMNS) and names == in_order(names)
        mask = _MASK_OF[names] = sum(1 << COLUMNS.index(name) for name in names) if is_ordered else 0
    return mask


def _names(mask: int) -> tuple[str, ...]:
    names = _NAMES_OF.get(mask)
    if names is None:
        if mask >> len(COLUMNS):
            return ()
        names = _NAMES_OF[mask] = tuple(name for bit, name in enumerate(COLUMNS) if mask >> bit & 1)
    return names
