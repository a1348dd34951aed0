"""A page: a run of settled chunks of one series, whose columns lie in a file of their own.

The head of a page is stored under its key, sealed as an entry is: the name of the file, the names of the columns, a
CRC-32 of each column, and of each chunk what an entry has beside its candles. The file holds the columns one after the
other, so that a reader takes only those that it needs. Page k of a series holds chunks k*32 ... k*32+31.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from candle_fetcher.core.candles import Candles, Int64s
from candle_fetcher.core.entry import Entry, Hole, HoleState, pack_spans, seal, unpack_spans, unseal
from candle_fetcher.core.spans import Span

PAGE_CHUNKS = 32
# A chunk that is read so long after its end has no candle that is read once more (`Finality.confirm_ms`), though its
# last candle may open late in its slot.
_CONFIRMED_MS = 2 * 3_600_000
_COUNTS = struct.Struct("<II")
_CHUNK = struct.Struct("<qqqqIII")


class PagedChunk(NamedTuple):
    """What a page says of one chunk: its entry without the candles, and the rows of the page that are its candles."""

    covered: Span
    stored_ms: int
    holes: tuple[Hole, ...]
    unverified: tuple[Span, ...]
    first_row: int
    rows: int


class Page(NamedTuple):
    """The head of a page: its file, its columns with a CRC-32 each, the rows of the file, and its chunks by number.

    A chunk that was stored anew since is not among the chunks any more, and its rows stay in the file.
    """

    file: str
    names: tuple[str, ...]
    checksums: tuple[int, ...]
    rows: int
    chunks: Mapping[int, PagedChunk]

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return len(self.names) * self.rows * 8

    def without(self, chunks: Iterable[int]) -> Page:
        """Return the page without those chunks."""
        gone = set(chunks)
        return self._replace(chunks={chunk: one for chunk, one in self.chunks.items() if chunk not in gone})

    def entry(self, chunk: int, candles: Candles) -> Entry:
        """Return the entry of the chunk; `candles` are those of the whole page."""
        covered, stored_ms, holes, unverified, first, rows = self.chunks[chunk]
        own = Candles(candles.names, candles.block[:, first : first + rows])
        return Entry(covered, stored_ms, holes, own, unverified)

    def is_whole(self, column: int, data: Int64s) -> bool:
        """Return whether the column of that index is what was written."""
        return zlib.crc32(data) == self.checksums[column]


def page_of(chunk: int) -> int:
    """Return the number of the page that may hold the chunk."""
    return chunk // PAGE_CHUNKS


def chunks_in(page: int) -> range:
    """Return the chunks that the page may hold."""
    return range(page * PAGE_CHUNKS, (page + 1) * PAGE_CHUNKS)


def fits_page(entry: Entry, span: Span) -> bool:
    """Return whether an entry may lie in a page: it answers for the span of its chunk, and nothing in it is asked for
    soon."""
    return (
        entry.covered.holds(span)
        and entry.stored_ms - span.end_ms >= _CONFIRMED_MS
        and all(hole.state is HoleState.CONFIRMED for hole in entry.holes)
    )


def make_page(file: str, entries: Mapping[int, Entry], candles: Candles) -> Page:
    """Return the head of a page of those entries, in the order of their chunks; `candles` are theirs, joined."""
    chunks, first = {}, 0
    for chunk, (covered, stored_ms, holes, own, unverified) in entries.items():
        chunks[chunk] = PagedChunk(covered, stored_ms, holes, unverified, first, own.count)
        first += own.count
    checksums = tuple(zlib.crc32(column) for column in candles.block)
    return Page(file, candles.names, checksums, candles.count, chunks)


def pack_page(key: str, page: Page) -> bytes:
    """Return the head of the page as bytes to store under the key."""
    about = json.dumps([page.file, page.names, page.checksums, page.rows]).encode()
    parts = [_COUNTS.pack(len(about), len(page.chunks)), about]
    for chunk, (covered, stored_ms, holes, unverified, first, rows) in page.chunks.items():
        parts.append(_CHUNK.pack(chunk, *covered, stored_ms, first, rows, len(holes) << 16 | len(unverified)))
        parts.append(pack_spans(holes, unverified))
    return seal(key, b"".join(parts), b"")


def unpack_page(key: str, data: bytes) -> Page | None:
    """Return the head of the page; None unless the bytes are a whole head of this key and version."""
    opened = unseal(key, data)
    try:
        return None if opened is None else _read_page(opened[0])
    except (struct.error, ValueError, TypeError):
        return None


def _read_page(head: bytes) -> Page:
    length, count = _COUNTS.unpack_from(head)
    at = _COUNTS.size + length
    about: Sequence[Any] = json.loads(head[_COUNTS.size : at])
    file, names, checksums, rows = about
    chunks = {}
    for _ in range(count):
        chunk, start_ms, end_ms, stored_ms, first, own, counts = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        holes, unverified, at = unpack_spans(head, at, counts >> 16, counts & 0xFFFF)
        if first + own > rows:
            raise ValueError
        chunks[chunk] = PagedChunk(Span(start_ms, end_ms), stored_ms, holes, unverified, first, own)
    if at != len(head) or len(names) != len(checksums) or not names:
        raise ValueError
    return Page(file, tuple(names), tuple(checksums), int(rows), chunks)
