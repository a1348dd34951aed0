"""What the cache stores for a chunk, and how it becomes bytes: plain columns behind a checksum that covers the key.

Layout, little-endian: magic `CNDL`, CRC-32 of everything else and of the key, version, packing (0 plain, 1 zlib), two
bytes of padding, length of the head, head, body. Whatever does not check out is None: a miss, never an error.
The head of an entry: covered start and end, stored at (ms), rows, bit mask of COLUMNS, number of believed gaps, number
of unverified spans; then each gap as start, end, asked at (ms), and each of those spans as start, end. The body is the
block of `Candles`. Columns that are not in COLUMNS are named at the end of the head; see NAMED.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import COLUMNS, Candles, in_order
from candle_fetcher.core.spans import Span

VERSION = 1
# The version of an entry whose columns are not those of COLUMNS in their order: its mask is 0, and their names end the
# head. A program that does not know it takes it for one of a newer version.
NAMED = VERSION | 0x80
_ENVELOPE = struct.Struct("<4sIBBHI")
_MAGIC = b"CNDL"
_VERSION_AT = 8
_HEAD = struct.Struct("<qqqIIII")
_GAP = struct.Struct("<qqq")
_SPAN = struct.Struct("<qq")
# What a packed body may unpack to: more than any listing or chunk, less than a bomb.
_MOST_BYTES = 64 * 2**20
_MASK_OF: dict[tuple[str, ...], int] = {}
_NAMES_OF: dict[int, tuple[str, ...]] = {}


# In the place of the time of asking: a hole that is due at once, for its source's word is not enough; and one that lay
# beyond the newest candles that the provider serves, which is no gap, and about which it cannot be asked any more.
# And one that nobody has been asked about: it lies between two files that were imported, and is not covered after all.
DUE, BEYOND, UNASKED = 0, -1, -2


class Believed(NamedTuple):
    """A hole that the provider confirmed: [start_ms, end_ms), and when it was last asked, or DUE, BEYOND or UNASKED."""

    start_ms: int
    end_ms: int
    asked_ms: int


class Entry(NamedTuple):
    """A stored chunk: every settled candle of the covered span, and the holes in it that are believed.

    `stored_ms` is when the end of the covered span was last asked for. `unverified` are, once it is stored, the spans
    whose candles have no checksum; the series' facts tell out of which file they are.
    """

    covered: Span
    stored_ms: int
    believed: tuple[Believed, ...]
    candles: Candles
    unverified: tuple[Span, ...] = ()


def seal(key: str, head: bytes, body: bytes, *, compress: bool = False, version: int = VERSION) -> bytes:
    """The bytes to store under the key. Head and body come back from `unseal` under the same key only."""
    packing = 0
    if compress:
        body, packing = zlib.compress(body, 1), 1
    start = _ENVELOPE.pack(_MAGIC, 0, version, packing, 0, len(head))
    checksum = zlib.crc32(body, zlib.crc32(head, zlib.crc32(start[8:], zlib.crc32(key.encode()))))
    return b"".join((_MAGIC, struct.pack("<I", checksum), start[8:], head, body))


def unseal(key: str, data: bytes, *, trusted: bool = False) -> tuple[bytes, memoryview] | None:
    """Head and body; None where the bytes are cut, changed, of another key or of another version.

    `trusted` skips the checksum, for bytes that never left this process's memory since they were checked.
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
    """Whether the bytes are whole and a newer version of this package sealed them."""
    version = _sealed_version(key, data)
    return version is not None and version > VERSION and version != NAMED


def is_of_older_version(key: str, data: bytes) -> bool:
    """Whether the bytes are whole and an older version of this package sealed them."""
    version = _sealed_version(key, data)
    return version is not None and version < VERSION


def _sealed_version(key: str, data: bytes) -> int | None:
    """The version in the envelope, which is the same in every version; None where the bytes are not whole."""
    if len(data) < _ENVELOPE.size:
        return None
    magic, checksum, version, *_ = _ENVELOPE.unpack_from(data)
    is_whole = magic == _MAGIC and zlib.crc32(data[8:], zlib.crc32(key.encode())) == checksum
    return int(version) if is_whole else None


def pack(key: str, entry: Entry, *, compress: bool = False) -> bytes:
    """The entry as bytes to store under the key."""
    candles = entry.candles
    counts = candles.count, _mask(candles.names), len(entry.believed), len(entry.unverified)
    head = _HEAD.pack(*entry.covered, entry.stored_ms, *counts)
    head += b"".join(_GAP.pack(*gap) for gap in entry.believed)
    head += b"".join(_SPAN.pack(*span) for span in entry.unverified)
    version = VERSION if counts[1] else NAMED
    if version == NAMED:
        head += "\0".join(candles.names).encode()
    body = np.ascontiguousarray(candles.block, dtype="<i8").tobytes()
    return seal(key, head, body, compress=compress, version=version)


def unpack(key: str, data: bytes, *, trusted: bool = False) -> Entry | None:
    """The entry, its candles sharing the bytes; None where they are not a whole entry of this key and version."""
    opened = unseal(key, data, trusted=trusted)
    if opened is None or len(opened[0]) < _HEAD.size:
        return None
    head, body = opened
    start_ms, end_ms, stored_ms, rows, mask, gaps, unverified = _HEAD.unpack_from(head)
    spans_at = _HEAD.size + gaps * _GAP.size
    end = spans_at + unverified * _SPAN.size
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
    believed = tuple(Believed(*gap) for gap in _GAP.iter_unpack(head[_HEAD.size : spans_at])) if gaps else ()
    spans = tuple(Span(*span) for span in _SPAN.iter_unpack(head[spans_at:end])) if unverified else ()
    return Entry(Span(start_ms, end_ms), stored_ms, believed, Candles(names, block), spans)


HEAD_BYTES = _ENVELOPE.size + _HEAD.size


def count_rows(beginning: bytes) -> int | None:
    """The candles of a stored entry, by its first HEAD_BYTES bytes; None where they are none of this version."""
    if len(beginning) < HEAD_BYTES:
        return None
    magic, _, version, *_ = _ENVELOPE.unpack_from(beginning)
    return _HEAD.unpack_from(beginning, _ENVELOPE.size)[3] if magic == _MAGIC and version == VERSION else None


def _mask(names: tuple[str, ...]) -> int:
    """The columns as bits; 0 where these are not the names in their order."""
    mask = _MASK_OF.get(names)
    if mask is None:
        is_usual = set(names) <= set(COLUMNS) and names == in_order(names)
        mask = _MASK_OF[names] = sum(1 << COLUMNS.index(name) for name in names) if is_usual else 0
    return mask


def _names(mask: int) -> tuple[str, ...]:
    names = _NAMES_OF.get(mask)
    if names is None:
        if mask >> len(COLUMNS):
            return ()
        names = _NAMES_OF[mask] = tuple(name for bit, name in enumerate(COLUMNS) if mask >> bit & 1)
    return names
