"""A page: settled chunks of one series, stored together in files of columns, and not as an entry for each chunk.

Page k of a series holds chunks k*32 ... k*32+31, or some of them. Its head is stored under the page's key, sealed like
an entry. The head names the files, and has for each chunk all that an entry has except the candles. A file holds the
candles of some chunks, in order, one column after the other, so that a reader reads only the columns that it needs. The
head has a CRC-32 of each column.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from candle_fetcher.core.candles import Candles, Int64s, no_candles
from candle_fetcher.core.checksum import find_crc32
from candle_fetcher.core.entry import Entry, Hole, HoleState, pack_spans, seal, unpack_spans, unseal
from candle_fetcher.core.spans import Span

PAGE_CHUNKS = 32
MOST_ROWS = 1 << 17  # of a file: four times the slots of a page. A head that states more is damaged
# Where a chunk was read this long after its end, all its candles are confirmed (`Finality.confirm_ms`), even if the
# last one opened late in its slot.
_CONFIRMED_MS = 2 * 3_600_000
_COUNTS = struct.Struct("<II")
_CHUNK = struct.Struct("<qqqqHHIII")


class PageFile(NamedTuple):
    """A file of a page: its name, its columns with a CRC-32 each, and how many candles it has."""

    name: str
    names: tuple[str, ...]
    checksums: tuple[int, ...]
    rows: int

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return len(self.names) * self.rows * 8

    def is_whole(self, column: int, data: Int64s) -> bool:
        """Return whether the data of the column with that index are those that were written, by their CRC-32."""
        return find_crc32()(data) == self.checksums[column]


class PagedChunk(NamedTuple):
    """One chunk in the head of a page: its entry without the candles, and where the candles lie: the index of the file,
    the first row in it, and the number of rows."""

    covered: Span
    stored_ms: int
    holes: tuple[Hole, ...]
    unverified: tuple[Span, ...]
    file: int
    first_row: int
    rows: int


class Page(NamedTuple):
    """The head of a page: its files, and its chunks by number.

    A chunk that was stored again later is no longer among the chunks; its old rows stay in the file, unused.
    """

    files: tuple[PageFile, ...]
    chunks: Mapping[int, PagedChunk]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    def without(self, chunks: Collection[int]) -> Page:
        """Return the page without those chunks, and without the files that then hold no chunk."""
        left = {chunk: one for chunk, one in self.chunks.items() if chunk not in chunks}
        used = sorted({one.file for one in left.values()})
        place = {old: new for new, old in enumerate(used)}
        kept = {chunk: one._replace(file=place[one.file]) for chunk, one in left.items()}
        return Page(tuple([self.files[at] for at in used]), kept)

    def added(self, file: PageFile, entries: Mapping[int, Entry]) -> Page:
        """Return the page with one more file, which holds the candles of these entries, in their order."""
        chunks, first = dict(self.chunks), 0
        for chunk, (covered, stored_ms, holes, candles, unverified) in entries.items():
            chunks[chunk] = PagedChunk(covered, stored_ms, holes, unverified, len(self.files), first, candles.count)
            first += candles.count
        return Page((*self.files, file), chunks)

    @property
    def is_in_order(self) -> bool:
        """Whether reading the files one after the other gives the candles in order: no file has chunks from between
        those of another file."""
        files = [self.chunks[chunk].file for chunk in sorted(self.chunks)]
        return sum(a != b for a, b in pairwise(files)) < len(self.files)

    def outline(self, chunk: int) -> Entry:
        """Return the entry of the chunk without its candles."""
        covered, stored_ms, holes, unverified, file, *_ = self.chunks[chunk]
        return Entry(covered, stored_ms, holes, no_candles(self.files[file].names), unverified)

    def entry(self, chunk: int, candles: Candles) -> Entry:
        """Return the entry of the chunk; `candles` are those of its file."""
        covered, stored_ms, holes, unverified, _, first, rows = self.chunks[chunk]
        return Entry(
            covered, stored_ms, holes, Candles(candles.names, candles.block[:, first : first + rows]), unverified
        )

    def entries(self, chunks: Sequence[int], candles: Candles, *, together: bool) -> dict[int, Entry]:
        """Return the entries of chunks of one file, which are given in order. With `together` they are one and the same
        entry, which answers for all of them, where they adjoin and nothing but their candles is to be said of them."""
        if not (together and self._adjoin(chunks)):
            return {chunk: self.entry(chunk, candles) for chunk in chunks}
        first, last = self.chunks[chunks[0]], self.chunks[chunks[-1]]
        block = candles.block[:, first.first_row : last.first_row + last.rows]
        covered = Span(first.covered.start_ms, last.covered.end_ms)
        return dict.fromkeys(chunks, Entry(covered, last.stored_ms, (), Candles(candles.names, block), ()))

    def _adjoin(self, chunks: Sequence[int]) -> bool:
        """Return whether the candles of the chunks, and the spans that they cover, follow one another without a hole
        or an unverified span."""
        row, end_ms = self.chunks[chunks[0]].first_row, self.chunks[chunks[0]].covered.start_ms
        for chunk in chunks:
            covered, _, holes, unverified, _, first, rows = self.chunks[chunk]
            if first != row or covered.start_ms != end_ms or holes or unverified:
                return False
            row, end_ms = row + rows, covered.end_ms
        return True


class Part(NamedTuple):
    """A part of a block that is filled in one step: a file of a page, or the candles of an entry outside of pages."""

    chunk: int
    number: int
    file: PageFile | None
    own: Entry | None
    wanted: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.file.rows if self.file is not None else self.own.candles.count if self.own is not None else 0


EMPTY_PAGE = Page((), {})
EMPTY_FILE = PageFile("", (), (), 0)


def page_of(chunk: int) -> int:
    """Return the number of the page that may hold the chunk."""
    return chunk // PAGE_CHUNKS


def chunks_in(page: int) -> range:
    """Return the chunks that the page may hold."""
    return range(page * PAGE_CHUNKS, (page + 1) * PAGE_CHUNKS)


def is_paged(chunk: int, pages: Mapping[int, Page]) -> bool:
    """Return whether the chunk lies in one of the pages, which are given by their numbers."""
    page = pages.get(page_of(chunk))
    return page is not None and chunk in page.chunks


def runs_of(chunks: Iterable[int]) -> list[list[int]]:
    """Return the chunks, which are given in order, in runs of adjoining numbers."""
    runs: list[list[int]] = []
    for chunk in chunks:
        if runs and chunk == runs[-1][-1] + 1:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs


def fits_page(entry: Entry, span: Span) -> bool:
    """Return whether an entry may be stored in a page: it covers its whole chunk, and no part of it will be requested
    again soon."""
    return (
        entry.covered.holds(span)
        and entry.stored_ms - span.end_ms >= _CONFIRMED_MS
        and all(hole.state is HoleState.CONFIRMED for hole in entry.holes)
    )


def parts_of(pages: Mapping[int, Page], chunks: Iterable[int]) -> list[Part]:
    """Return the files that have to be read for the chunks, each with the chunks that are needed from it."""
    wanted: dict[tuple[int, int], list[int]] = {}
    for chunk in chunks:
        number = page_of(chunk)
        one = pages[number].chunks.get(chunk) if number in pages else None
        if one is not None:
            wanted.setdefault((number, one.file), []).append(chunk)
    return [
        Part(some[0], number, pages[number].files[file], None, tuple(some)) for (number, file), some in wanted.items()
    ]


def serves(has: tuple[str, ...], names: Sequence[str] | None, *chunks: PagedChunk) -> bool:
    """Return whether reading only the columns `names` is enough: they come first in the file, and no chunk has a hole
    that a call may fill."""
    return names is not None and has[: len(names)] == tuple(names) and not any(one.holes for one in chunks)


def by_columns(
    parts: Sequence[Part], pages: Mapping[int, Page], names: Sequence[str] | None
) -> Iterator[tuple[tuple[str, ...], list[Part]]]:
    """Yield groups of parts that fit into one block, in the order of their chunks, each with the block's columns."""
    groups: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        if part.file is not None:
            columns = part.file.names
            if serves(columns, names, *(pages[part.number].chunks[chunk] for chunk in part.wanted)):
                columns = tuple(names or ())
            groups.setdefault(columns, []).append(part)
    for part in parts:
        if part.own is not None:
            has, few = part.own.candles.names, tuple(names or ())
            columns = few if few in groups and serves(has, names) else has
            if columns in groups:
                groups[columns].append(part)
    for columns, some in groups.items():
        yield columns, sorted(some, key=lambda one: one.chunk)


def file_of(name: str, candles: Candles) -> PageFile:
    """Return the description of a file of that name with those candles, for the head of a page."""
    return PageFile(name, candles.names, tuple(map(find_crc32(), candles.block)), candles.count)


def pack_page(key: str, page: Page) -> bytes:
    """Return the head of the page as bytes to store under the key."""
    files = json.dumps(page.files).encode()
    parts = [_COUNTS.pack(len(files), len(page.chunks)), files]
    for chunk, (covered, stored_ms, holes, unverified, file, first, rows) in page.chunks.items():
        parts.append(_CHUNK.pack(chunk, *covered, stored_ms, len(holes), len(unverified), file, first, rows))
        parts.append(pack_spans(holes, unverified))
    return seal(key, b"".join(parts), b"")


def unpack_page(key: str, data: bytes) -> Page | None:
    """Return the head of the page; None unless the bytes are a whole head of this key and version."""
    opened = unseal(key, data)
    try:
        return None if opened is None else _read_page(opened[0])
    except (struct.error, ValueError, TypeError, LookupError, RecursionError):
        return None


def _read_page(head: bytes) -> Page:
    length, count = _COUNTS.unpack_from(head)
    at = _COUNTS.size + length
    described: Sequence[Any] = json.loads(head[_COUNTS.size : at])
    files = tuple(_read_file(*one) for one in described)
    chunks = {}
    has_spans = len(head) != at + count * _CHUNK.size
    for chunk, start_ms, end_ms, stored_ms, holes, unverified, file, first, rows in (
        () if has_spans else _CHUNK.iter_unpack(memoryview(head)[at:])
    ):
        if holes or unverified or first + rows > files[file].rows:
            raise ValueError
        chunks[chunk] = PagedChunk(Span(start_ms, end_ms), stored_ms, (), (), file, first, rows)
    if not has_spans:
        return Page(files, chunks)
    for _ in range(count):
        chunk, start_ms, end_ms, stored_ms, holes, unverified, file, first, rows = _CHUNK.unpack_from(head, at)
        own, spans, at = unpack_spans(head, at + _CHUNK.size, holes, unverified)
        if first + rows > files[file].rows:
            raise ValueError
        chunks[chunk] = PagedChunk(Span(start_ms, end_ms), stored_ms, own, spans, file, first, rows)
    if at != len(head):
        raise ValueError
    return Page(files, chunks)


def _read_file(name: Any, names: Any, checksums: Any, rows: Any) -> PageFile:
    """Return the description of a file from the decoded head. Raises ValueError where it is impossible."""
    is_so = isinstance(name, str) and type(rows) is int and 0 < rows <= MOST_ROWS
    if not is_so or not names or len(names) != len(checksums) or not all(isinstance(one, str) for one in names):
        raise ValueError
    return PageFile(name, tuple(names), tuple(checksums), rows)
