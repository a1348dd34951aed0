"""Pages of a series: runs of settled chunks, each in a file of columns beside the database.

A chunk lies in a page or has an entry of its own. Where it has both, another version of this package stored the entry,
and the entry counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np

from candle_fetcher.cache.documents import DocumentStore
from candle_fetcher.core.candles import Candles, Int64s, join
from candle_fetcher.core.entry import Entry, is_of_newer_version, unpack
from candle_fetcher.core.page import Page, chunks_in, fits_page, make_page, pack_page, page_of, unpack_page
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.store import Store

T = TypeVar("T")
U = TypeVar("U")
# Applies a function to each item, by this thread or by several.
Run = Callable[[Callable[[T], U], Iterable[T]], Iterable[U]]

LEAST_CHUNKS = 8  # a page that is not full is written for so many chunks that are not in it yet


class _Held(NamedTuple):
    """A page in memory: its head, and the columns that were read of it."""

    page: Page
    candles: Candles


class _Segment(NamedTuple):
    """A part of a block that is read at once: a page, or a chunk with an entry of its own."""

    chunk: int
    page: Page | None
    own: Entry | None

    @property
    def rows(self) -> int:
        return self.page.rows if self.page is not None else self.own.candles.count if self.own is not None else 0


class PageStore:
    """The pages of each series. Shared by threads.

    Without a disk tier, and where entries are compressed, there are none.
    """

    def __init__(self, store: Store, documents: DocumentStore, *, is_on: bool = True) -> None:
        self._disk = store.disk if is_on else None
        self._memory = store.memory
        self._documents = documents

    def has_any(self, series: Series) -> bool:
        """Return whether the series may have pages."""
        return self._disk is not None and series.kind != "funding"

    def keys(self, series: Series, chunks: Iterable[int]) -> dict[str, int]:
        """Return the keys under which the heads of the pages that may hold the chunks are stored, with their
        numbers."""
        if not self.has_any(series):
            return {}
        return {_key(series, number): number for number in sorted({page_of(chunk) for chunk in chunks})}

    def unpack(self, data: Mapping[str, bytes], keys: Mapping[str, int]) -> dict[int, Page]:
        """Return the heads that were read from disk, by the number of the page; a damaged one is dropped, with a
        warning."""
        found = {}
        for key, value in data.items():
            page = unpack_page(key, value)
            if page is not None:
                found[keys[key]] = page
            elif not is_of_newer_version(key, value):
                self._drop_damaged(key, value)
        return found

    def find(self, series: Series, chunks: Iterable[int]) -> dict[int, Page]:
        """Return the heads of the pages that may hold the chunks, by number, as they lie on disk."""
        keys = self.keys(series, chunks)
        return {} if self._disk is None or not keys else self.unpack(self._disk.load_many(keys), keys)

    def find_all(self, series: Series) -> dict[int, Page]:
        """Return the heads of all pages of the series, by number."""
        if self._disk is None or not self.has_any(series):
            return {}
        prefix = _prefix(series)
        numbers = [int(key.removeprefix(prefix)) for key in self._disk.keys(prefix)]
        return self.find(series, [chunks_in(number)[0] for number in numbers])

    # -- reading ------------------------------------------------------------------------------------------------------

    def held(self, series: Series, chunks: Sequence[int], names: Sequence[str] | None) -> dict[int, Entry]:
        """Return the entries of those chunks that lie in pages in memory, with those columns at least; None: all."""
        if not self.has_any(series):
            return {}
        keys = {_key(series, number): number for number in {page_of(chunk) for chunk in chunks}}
        pages: dict[int, _Held] = {keys[key]: held for key, held in self._memory.load_many(keys).items()}
        found = {}
        for chunk in chunks if pages else ():
            held = pages.get(page_of(chunk))
            if held is not None and chunk in held.page.chunks:
                has, is_closed = held.candles.names, not held.page.chunks[chunk].holes
                if has == held.page.names or (names is not None and is_closed and has[: len(names)] == tuple(names)):
                    found[chunk] = held.page.entry(chunk, held.candles)
        return found

    def read(
        self,
        series: Series,
        pages: Mapping[int, Page],
        chunks: Sequence[int],
        *,
        names: Sequence[str] | None = None,
        own: Mapping[int, Entry] | None = None,
        run: Run[Any, Any] = map,
        keep: bool = False,
    ) -> dict[int, Entry]:
        """Return the entries of the chunks that lie in the pages.

        They share one block with those of `own`, chunks with entries of their own that come with them, so that their
        candles are joined without a copy. `names` are the columns that are wanted, the first ones of a page; None:
        all. A page with holes in the chunks is read whole. `keep` puts the pages into memory.
        """
        own = own or {}
        wanted = {number: [] for number in pages}  # type: dict[int, list[int]]
        for chunk in chunks:
            page = pages.get(page_of(chunk))
            if page is not None and chunk in page.chunks and chunk not in own:
                wanted[page_of(chunk)].append(chunk)
        segments = [_Segment(some[0], pages[number], None) for number, some in wanted.items() if some]
        if not segments:
            return {}
        segments += [_Segment(chunk, None, entry) for chunk, entry in own.items()]
        found: dict[int, Entry] = {}
        for columns, some in _by_columns(segments, wanted, names):
            for segment, candles in self._fill(columns, some, run):
                page = segment.page
                if page is None:
                    found[segment.chunk] = own[segment.chunk]._replace(candles=candles)
                    continue
                number = page_of(segment.chunk)
                found.update({chunk: page.entry(chunk, candles) for chunk in wanted[number]})
                if keep:
                    self._memory.save(_key(series, number), _Held(page, candles), candles.block.nbytes)
        lost = [chunk for some in wanted.values() for chunk in some if chunk not in found]
        return found | (self._read_again(series, pages, lost) if lost else {})

    def _fill(
        self, columns: tuple[str, ...], segments: Sequence[_Segment], run: Run[Any, Any]
    ) -> Iterator[tuple[_Segment, Candles]]:
        """Yield each segment with its part of one block that holds all of them; a page that is damaged is left out."""
        block = np.empty((len(columns), sum(one.rows for one in segments)), np.int64)
        parts, at = [], 0
        for one in segments:
            parts.append((one, block[:, at : at + one.rows]))
            at += one.rows
        are_whole = list(run(self._fill_part, parts))
        block.flags.writeable = False
        at = 0
        for one, is_whole in zip(segments, are_whole, strict=True):
            if is_whole:
                yield one, Candles(columns, block[:, at : at + one.rows])
            at += one.rows

    def _fill_part(self, part: tuple[_Segment, Int64s]) -> bool:
        """Fill the part of a block; return whether its bytes are those that were written."""
        (_, page, own), block = part
        if own is not None:
            block[:] = own.candles.block[: len(block)]
            return True
        assert page is not None
        assert self._disk is not None
        try:
            self._disk.files.read(page.file, page.size_bytes, list(block))
        except OSError:
            return False
        return all(page.is_whole(at, column) for at, column in enumerate(block))

    def _read_again(self, series: Series, tried: Mapping[int, Page], chunks: Sequence[int]) -> dict[int, Entry]:
        """Return entries whose pages could not be read: another process may have replaced the file of a page. A page
        that is still the same is damaged."""
        assert self._disk is not None
        now = self.find(series, chunks)
        newer = {number: page for number, page in now.items() if page.file != tried[number].file}
        for number in now.keys() - newer.keys():
            key = _key(series, number)
            self._drop_damaged(key, self._disk.load(key) or b"")
        return self.read(series, newer, chunks) if newer else {}

    def is_whole(self, key: str, data: bytes) -> bool:
        """Return whether the file of the page whose head was stored under the key is what was written."""
        page = unpack_page(key, data)
        if page is None:
            return False
        block = np.empty((len(page.names), page.rows), np.int64)
        return self._fill_part((_Segment(0, page, None), block))

    def _drop_damaged(self, key: str, data: bytes) -> None:
        assert self._disk is not None
        self._memory.drop(key)
        self._disk.drop(key)
        self._documents.warn_of_damage(key, data)

    # -- writing, in a transaction ------------------------------------------------------------------------------------

    def store(
        self, series: Series, entries: Mapping[int, Entry], pages: Mapping[int, Page], *, keep: bool
    ) -> dict[int, Entry]:
        """Write the pages that the entries complete, and return the entries that lie in them; the others are to be
        stored on their own. `pages` are the heads of those that hold chunks of the same pages now."""
        stored: dict[int, Entry] = {}
        if self._disk is None or not self.has_any(series):
            return stored
        for number, some in groupby(sorted(entries), page_of):
            new = {chunk: entries[chunk] for chunk in some}
            if not all(fits_page(entry, chunk_span(series.timeframe, chunk)) for chunk, entry in new.items()):
                continue
            page, size = pages.get(number), len(chunks_in(number))
            own = self._own(series, number, new) if len(new) < size else []
            if len({*new, *own, *(page.chunks if page is not None else ())}) < size:
                continue
            found = self._collect(series, number, new, page, own)
            if len(found) == size:
                made = self._write(series, number, found, own, keep=keep)
                stored.update({chunk: made[chunk] for chunk in new if chunk in made})
        return stored

    def pack(self, series: Series, number: int) -> int:
        """Write the chunks that have entries of their own into their page, where at least LEAST_CHUNKS of them may lie
        in one. Return how many there were."""
        own = self._own(series, number, ())
        if len(own) < LEAST_CHUNKS:
            return 0
        page = self.find(series, chunks_in(number)).get(number)
        found = self._collect(series, number, {}, page, own)
        taken = [chunk for chunk in own if chunk in found]
        return len(taken) if len(taken) >= LEAST_CHUNKS and self._write(series, number, found, taken, keep=False) else 0

    def _own(self, series: Series, number: int, besides: Collection[int]) -> list[int]:
        """Return the chunks of the page, besides those, that have entries of their own on disk."""
        assert self._disk is not None
        keys = {f"{series.key}|{chunk}": chunk for chunk in chunks_in(number) if chunk not in besides}
        return sorted(keys[key] for key in self._disk.present(list(keys)))

    def _collect(
        self, series: Series, number: int, new: Mapping[int, Entry], page: Page | None, own: Sequence[int]
    ) -> dict[int, Entry]:
        """Return the entries that may lie in the page, in order: the new ones, those of their own, and those of the
        page as it is. All have the same columns."""
        assert self._disk is not None
        entries: dict[int, Entry] = {}
        if page is not None:
            entries = self.read(series, {number: page}, [one for one in page.chunks if one not in new])
        keys = {f"{series.key}|{chunk}": chunk for chunk in own}
        for key, data in self._disk.load_many(keys).items():
            entry = unpack(key, data)
            if entry is not None and fits_page(entry, chunk_span(series.timeframe, keys[key])):
                entries[keys[key]] = entry
            else:
                entries.pop(keys[key], None)
        entries |= new
        names = next((entry.candles.names for entry in entries.values()), ())
        return {chunk: entries[chunk] for chunk in sorted(entries) if entries[chunk].candles.names == names}

    def _write(
        self, series: Series, number: int, entries: Mapping[int, Entry], own: Sequence[int], *, keep: bool
    ) -> dict[int, Entry]:
        """Write a page of the entries, in place of what is stored of them; `own` have entries of their own on disk.
        Return the entries as they lie in it; none where the disk does not take it."""
        assert self._disk is not None
        candles = join([entry.candles for entry in entries.values()])
        block = np.ascontiguousarray(candles.block, dtype="<i8")
        block.flags.writeable = False
        candles = Candles(candles.names, block)
        try:
            # What is deleted for it must not be lost with the power.
            file = self._disk.files.write(memoryview(block).cast("B"), syncs=bool(own))
        except OSError:
            return {}
        page, key = make_page(file, entries, candles), _key(series, number)
        if not self._disk.save_with_file(key, pack_page(key, page), file, page.size_bytes):
            return {}
        self._disk.drop_many([f"{series.key}|{chunk}" for chunk in own])
        for chunk in entries:
            self._memory.drop(f"{series.key}|{chunk}")
        self._memory.drop(key)
        if keep:
            self._memory.save(key, _Held(page, candles), block.nbytes)
        return {chunk: page.entry(chunk, candles) for chunk in entries}

    def leave(self, series: Series, chunks: Collection[int], pages: Mapping[int, Page]) -> None:
        """Take the chunks, which are stored on their own now, out of the pages."""
        for number, page in pages.items():
            left, key = page.without(chunks), _key(series, number)
            if len(left.chunks) == len(page.chunks):
                continue
            assert self._disk is not None
            self._memory.drop(key)
            if left.chunks:
                self._disk.save_with_file(key, pack_page(key, left), page.file, page.size_bytes)
            else:
                self._disk.drop(key)

    def forget(self, series: Series, chunks: Iterable[int]) -> bool:
        """Drop the pages in memory that hold one of the chunks: another process stored it anew. Return whether there
        was one."""
        is_dropped = False
        for number, some in groupby(sorted(chunks), page_of):
            held: _Held | None = self._memory.load(_key(series, number))
            if held is not None and not held.page.chunks.keys().isdisjoint(some):
                self._memory.drop(_key(series, number))
                is_dropped = True
        return is_dropped


def _by_columns(
    segments: Sequence[_Segment], wanted: Mapping[int, Sequence[int]], names: Sequence[str] | None
) -> Iterator[tuple[tuple[str, ...], list[_Segment]]]:
    """Yield the segments that can lie in one block, in the order of their chunks, with the columns of the block."""
    groups: dict[tuple[str, ...], list[_Segment]] = {}
    for segment in segments:
        if segment.page is not None:
            columns = segment.page.names
            has_holes = any(segment.page.chunks[chunk].holes for chunk in wanted[page_of(segment.chunk)])
            if names is not None and not has_holes and columns[: len(names)] == tuple(names):
                columns = tuple(names)
            groups.setdefault(columns, []).append(segment)
    for segment in segments:
        if segment.own is not None:
            has = segment.own.candles.names
            for columns, some in groups.items():
                if has == columns or (not segment.own.holes and has[: len(columns)] == columns):
                    some.append(segment)
                    break
    for columns, some in groups.items():
        yield columns, sorted(some, key=lambda one: one.chunk)


def _prefix(series: Series) -> str:
    return f"{series.key}|page|"


def _key(series: Series, number: int) -> str:
    return f"{series.key}|page|{number}"
