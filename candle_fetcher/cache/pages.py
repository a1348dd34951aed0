"""Pages of a series: settled chunks in files of columns beside the database.

A chunk lies in a page or has an entry of its own. Where it has both, another version of this package stored the entry,
and the entry counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from candle_fetcher.cache.documents import DocumentStore
from candle_fetcher.core.candles import Candles, Int64s, join
from candle_fetcher.core.entry import Entry, is_of_newer_version, unpack
from candle_fetcher.core.errors import CacheError
from candle_fetcher.core.page import (
    EMPTY_FILE,
    EMPTY_PAGE,
    MOST_ROWS,
    PAGE_CHUNKS,
    Page,
    PageFile,
    Part,
    by_columns,
    chunks_in,
    file_of,
    fits_page,
    pack_page,
    page_of,
    parts_of,
    runs_of,
    serves,
    unpack_page,
)
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.store import NotWhole, Store, WriteWatch

T = TypeVar("T")
U = TypeVar("U")
# Applies a function to each item, by this thread or by several.
Run = Callable[[Callable[[T], U], Iterable[T]], Iterable[U]]

# What a file of a page is found to be.
FileState = Literal["whole", "damaged", "unreadable"]

CHUNK = re.compile(r"-?[0-9]{1,18}")  # the number of a chunk or a page, as it ends a key
LEAST_CHUNKS = 8  # so many of one page that come together are written into a file
_MOST_FILES = 4  # of a page; one more, and all are written into one


class _Held(NamedTuple):
    """A page in memory: its head, and what was read of each of its files; None of one that was not read."""

    page: Page
    files: tuple[Candles | None, ...]


class PageStore:
    """The pages of each series. Shared by threads.

    Without a disk tier there are none; without `writes` they are read, and chunks are taken out of them alone.
    """

    def __init__(self, store: Store, documents: DocumentStore, watch: WriteWatch, *, writes: bool = True) -> None:
        self._disk = store.disk
        self._watch = watch
        self._writes = writes
        self._memory = store.memory
        self._documents = documents
        # A page in memory keeps the whole block that it was read with.
        self._most_bytes = store.memory.max_bytes // 8

    def has_any(self, series: Series) -> bool:
        """Return whether the series may have pages."""
        return self._disk is not None and series.kind != "funding"

    def keys(self, series: Series, chunks: Iterable[int]) -> dict[str, int]:
        """Return the keys under which the heads of the pages that may hold the chunks are stored, with their
        numbers."""
        if self._disk is None or series.kind == "funding":
            return {}
        prefix = series.key
        return {f"{prefix}|page|{number}": number for number in sorted({chunk // PAGE_CHUNKS for chunk in chunks})}

    def unpack(self, data: Mapping[str, bytes], keys: Mapping[str, int]) -> dict[int, Page]:
        """Return the heads that were read from disk, by the number of the page; a damaged one is dropped, with a
        warning."""
        found = {}
        for key, value in data.items():
            page = unpack_page(key, value)
            if page is not None:
                found[keys[key]] = page
            elif self.drop_if_damaged(key):
                self._documents.warn_of_damage(key, value)
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
        names = [key.removeprefix(prefix) for key in self._disk.keys(prefix)]
        numbers = [int(name) for name in names if CHUNK.fullmatch(name)]
        return self.find(series, [chunks_in(number)[0] for number in numbers])

    # -- reading ------------------------------------------------------------------------------------------------------

    def held(self, pages: Mapping[int, Any], chunks: Sequence[int], names: Sequence[str] | None) -> dict[int, Entry]:
        """Return the entries of those chunks that lie in pages in memory, which are given as they lie there, by their
        numbers; with those columns at least, None: all."""
        found = {}
        for chunk in chunks:
            held: _Held | None = pages.get(page_of(chunk))
            one = held.page.chunks.get(chunk) if held is not None else None
            if held is None or one is None:
                continue
            candles, has_all = held.files[one.file], held.page.files[one.file].names
            if candles is not None and (candles.names == has_all or serves(candles.names, names, one)):
                found[chunk] = held.page.entry(chunk, candles)
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
        token: int | None = None,
        together: bool = False,
    ) -> dict[int, Entry]:
        """Return the entries of the chunks that lie in the pages.

        They share one block with those of `own`, chunks with entries of their own that come with them, so that their
        candles are joined without a copy. `names` are the columns that are wanted, the first ones of a file; None:
        all. A file with holes in the chunks is read whole. What was read is put into memory where the series was not
        written to since the token was given; None: never. `together`: see `Page.entries`.
        """
        own = own or {}
        parts = parts_of(pages, [chunk for chunk in chunks if chunk not in own])
        if not parts:
            return {}
        parts += [Part(chunk, page_of(chunk), None, entry, (chunk,)) for chunk, entry in own.items()]
        found: dict[int, Entry] = {}
        read: dict[int, dict[PageFile, Candles]] = {}
        for columns, some in by_columns(parts, pages, names):
            for part, candles in self._fill(columns, some, run):
                if part.file is None:
                    found[part.chunk] = own[part.chunk]._replace(candles=candles)
                    continue
                found.update(pages[part.number].entries(part.wanted, candles, together=together))
                read.setdefault(part.number, {})[part.file] = candles
        fits = sum(one.block.nbytes for files in read.values() for one in files.values()) <= self._most_bytes
        with self._watch.lock:
            for number, files in read.items() if fits and self._watch.is_unchanged(series.key, token) else ():
                self._keep(_key(series, number), pages[number], files)
        lost = [chunk for part in parts for chunk in part.wanted if chunk not in found and chunk not in own]
        return found | (self._read_again(series, pages, lost) if lost else {})

    def _keep(self, key: str, page: Page, files: Mapping[PageFile, Candles]) -> None:
        """Put files of the page into memory, with what is there of its other files."""
        held: _Held | None = self._memory.load(key)
        known = dict(zip(held.page.files, held.files, strict=True)) if held is not None else {}
        for file, candles in files.items():
            before = known.get(file)
            if before is None or len(before.names) < len(candles.names):
                known[file] = candles
        kept = tuple(known.get(file) for file in page.files)
        self._memory.save(key, _Held(page, kept), sum(one.block.nbytes for one in kept if one is not None))

    def _fill(
        self, columns: tuple[str, ...], parts: Sequence[Part], run: Run[Any, Any]
    ) -> Iterator[tuple[Part, Candles]]:
        """Yield each part with its candles in one block that holds all of them; a damaged file is left out."""
        block = np.empty((len(columns), sum(one.rows for one in parts)), np.int64)
        places, at = [], 0
        for one in parts:
            places.append((one, block[:, at : at + one.rows]))
            at += one.rows
        states = list(run(self._fill_part, places))
        block.flags.writeable = False
        at = 0
        for one, state in zip(parts, states, strict=True):
            if state == "whole":
                yield one, Candles(columns, block[:, at : at + one.rows])
            at += one.rows

    def _fill_part(self, place: tuple[Part, Int64s]) -> FileState:
        """Fill a place in a block; return whether its bytes are those that were written."""
        part, block = place
        if part.own is not None:
            block[:] = part.own.candles.block[: len(block)]
        return "whole" if part.file is None else self._read_file(part.file, block)

    def _read_file(self, file: PageFile, block: Int64s) -> FileState:
        """Read the first columns of a file into the block. What cannot be read now is no damage, but warned of."""
        assert self._disk is not None
        try:
            self._disk.files.read(file.name, file.size_bytes, list(block))
        except NotWhole:
            return "damaged"
        except OSError as error:
            self._disk.note_failure(error)
            return "unreadable"
        return "whole" if all(file.is_whole(at, column) for at, column in enumerate(block)) else "damaged"

    def _read_again(self, series: Series, tried: Mapping[int, Page], chunks: Sequence[int]) -> dict[int, Entry]:
        """Return entries of files that could not be read: another process may have replaced them. What is damaged of a
        page that is still the same is dropped."""
        now = self.find(series, chunks)
        newer = {number: page for number, page in now.items() if page.files != tried[number].files}
        for number in now.keys() - newer.keys():
            key = _key(series, number)
            if self.drop_if_damaged(key):
                self._documents.warn_of_damage(key, b"")
        return self.read(series, newer, chunks) if newer else {}

    def drop_if_damaged(self, key: str) -> bool:
        """Drop what is damaged of the page with that key: the chunks of files that are not what was written, or all
        where the head is not. Return whether there was something."""
        assert self._disk is not None
        with self._documents.transaction():  # so that no other process replaces a file that is looked at
            data = self._disk.load(key)
            if data is None or is_of_newer_version(key, data):
                return False
            page = unpack_page(key, data)
            if page is None:
                self._memory.drop(key)
                self._disk.drop(key)
                return True
            damaged = {at for at, file in enumerate(page.files) if self._read_file(file, _room(file)) == "damaged"}
            lost = [chunk for chunk, one in page.chunks.items() if one.file in damaged]
            if damaged:
                self._leave(key, page.without(lost))
            return bool(damaged)

    def is_whole(self, key: str, data: bytes) -> bool:
        """Return whether the files of the page with that head under the key are what was written, or cannot be read
        now."""
        page = unpack_page(key, data)
        return page is not None and all(self._read_file(file, _room(file)) != "damaged" for file in page.files)

    # -- writing, in a transaction ------------------------------------------------------------------------------------

    def store(
        self,
        series: Series,
        entries: Mapping[int, Entry],
        pages: Mapping[int, Page],
        values: Mapping[int, bytes],
        *,
        keep: bool,
    ) -> dict[int, Entry]:
        """Write the entries into pages, where enough of a page come together, and return those that lie in one now.
        `pages` are the heads of all pages that the entries may lie in, `values` what they have on their own on disk."""
        stored: dict[int, Entry] = {}
        for number, some in groupby(sorted(entries), page_of) if self.has_any(series) else ():
            ours = {chunk: entries[chunk] for chunk in some}
            if len(ours) < LEAST_CHUNKS and number not in pages and (number + 1) * PAGE_CHUNKS - 1 not in ours:
                continue  # they neither are enough nor complete a page: its last chunk is settled last
            new = {
                chunk: entry
                for chunk, entry in ours.items()
                if self._writes
                and fits_page(entry, chunk_span(series.timeframe, chunk))
                and not (chunk in values and is_of_newer_version(f"{series.key}|{chunk}", values[chunk]))
            }
            before = self._still_stored(series, number, pages[number]) if number in pages else EMPTY_PAGE
            page, own = before.without(ours), {}
            if 0 < len(new) < LEAST_CHUNKS:
                chunks = self._own(series, number, ours)
                if len({*new, *chunks, *page.chunks}) == len(chunks_in(number)):
                    own = self._load_own(series, chunks)
            is_saved = False
            runs = [new | own] if own else [{chunk: new[chunk] for chunk in run} for run in runs_of(new)]
            runs = [run for run in runs if own or len(run) >= LEAST_CHUNKS]
            if runs and not self._is_of_newer_version(series, number, pages):
                for run in runs:
                    old = [*own, *(chunk for chunk in run if chunk in values)]
                    page, written = self._write(series, number, page, run, old, keep=keep)
                    stored.update({chunk: entry for chunk, entry in written.items() if chunk in new})
                    is_saved = is_saved or bool(written)
            if not is_saved and len(page.chunks) < len(before.chunks):
                self._leave(_key(series, number), page)
        return stored

    def _still_stored(self, series: Series, number: int, page: Page) -> Page:
        """Return the head of the page, empty where it was dropped in this transaction: damaged, or to make room."""
        assert self._disk is not None
        return page if self._disk.present([_key(series, number)]) else EMPTY_PAGE

    def _is_of_newer_version(self, series: Series, number: int, pages: Mapping[int, Page]) -> bool:
        """Return whether there is a head that is not among the pages: it cannot be read here, and stays."""
        assert self._disk is not None
        return number not in pages and bool(self._disk.present([_key(series, number)]))

    def _leave(self, key: str, page: Page) -> None:
        """Store the head without the chunks that are stored on their own now."""
        assert self._disk is not None
        self._memory.drop(key)
        if page.chunks:
            files = [one.name for one in page.files]
            self._disk.save_with_files(key, pack_page(key, page), files, page.size_bytes)
        else:
            self._disk.drop(key)

    def take_out(
        self, series: Series, pages: dict[int, Page], own: Collection[int], asked: Collection[int]
    ) -> dict[int, Page]:
        """Return the pages without chunks that have entries of their own on disk: another version stored these. `own`
        are those of the asked chunks.

        The copies in the pages are older. They are dropped, lest they are found once the entries are evicted.
        """
        assert self._disk is not None
        prefix, known = series.key, set(asked)
        others = {f"{prefix}|{one}": one for page in pages.values() for one in page.chunks if one not in known}
        twice = {chunk for page in pages.values() for chunk in page.chunks if chunk in own}
        twice.update(others[key] for key in self._disk.present(list(others)))
        if not twice:
            return pages
        with self._documents.transaction():
            for number, page in self.find(series, twice).items():
                left = page.without(self._own(series, number, ()))
                if len(left.chunks) < len(page.chunks):
                    self._leave(_key(series, number), left)
        return {number: page.without(twice) for number, page in pages.items()}

    def pack(self, series: Series, number: int) -> int:
        """Move chunks that have entries of their own into their page, where there are LEAST_CHUNKS of them that may lie
        in one, or they complete it. Return how many."""
        pages = self.find(series, chunks_in(number))
        if not self._writes or self._is_of_newer_version(series, number, pages):
            return 0
        page = pages.get(number, EMPTY_PAGE)
        own = self._load_own(series, self._own(series, number, ()))
        is_enough = len(own) >= LEAST_CHUNKS or len({*own, *page.chunks}) == len(chunks_in(number))
        _, written = self._write(series, number, page, own, own, keep=False) if own and is_enough else (page, {})
        return sum(chunk in own for chunk in written)

    def _own(self, series: Series, number: int, besides: Collection[int]) -> list[int]:
        """Return the chunks of the page, besides those, that have entries of their own on disk."""
        assert self._disk is not None
        prefix = series.key
        keys = {f"{prefix}|{chunk}": chunk for chunk in chunks_in(number) if chunk not in besides}
        return sorted([keys[key] for key in self._disk.present(list(keys))])

    def _load_own(self, series: Series, chunks: Sequence[int]) -> dict[int, Entry]:
        """Return those of the entries on disk that may lie in a page."""
        assert self._disk is not None
        prefix, found = series.key, {}
        keys = {f"{prefix}|{chunk}": chunk for chunk in chunks}
        for key, data in self._disk.load_many(keys).items():
            entry = unpack(key, data)
            if entry is not None and fits_page(entry, chunk_span(series.timeframe, keys[key])):
                found[keys[key]] = entry
        return found

    def _write(
        self,
        series: Series,
        number: int,
        page: Page,
        entries: Mapping[int, Entry],
        own: Collection[int],
        *,
        keep: bool,
    ) -> tuple[Page, dict[int, Entry]]:
        """Write a file of the entries and add it to the page, in place of what is stored of them; `own` have entries of
        their own on disk. Where files would be many, or their chunks not in order, one file is made of all.

        Return the page, and the entries as they lie in the new file; the page as it was, and none, where the disk does
        not take it.
        """
        assert self._disk is not None
        key, names, before = _key(series, number), next(iter(entries.values())).candles.names, page
        page, syncs = page.without(entries), bool(own)
        is_fine = len(page.files) < _MOST_FILES and page.added(EMPTY_FILE, entries).is_in_order
        if not is_fine and all(file.names == names for file in page.files):
            entries = {**self.read(series, {number: page}, list(page.chunks)), **entries}
            page, syncs = EMPTY_PAGE, True
        entries = {chunk: entries[chunk] for chunk in sorted(entries) if entries[chunk].candles.names == names}
        candles = join([entry.candles for entry in entries.values()])
        if not 0 < candles.count <= MOST_ROWS:
            return before, {}
        block = candles.block.astype("<i8", copy=False)
        block.flags.writeable = False
        candles = Candles(names, block)
        try:
            # What is deleted for it must not be lost with the power.
            name = self._disk.files.write([memoryview(column).cast("B") for column in block], syncs=syncs)
        except (OSError, CacheError):  # the database says what is wrong with the folder
            return before, {}
        file = file_of(name, candles)
        page = page.added(file, entries)
        files = [one.name for one in page.files]
        if not self._disk.save_with_files(key, pack_page(key, page), files, page.size_bytes, name, file.size_bytes):
            return before, {}
        prefix = series.key
        self._disk.drop_many([f"{prefix}|{chunk}" for chunk in own if chunk in entries])
        for chunk in entries:
            self._memory.drop(f"{prefix}|{chunk}")
        whole = block if block.base is None else block.base
        if keep and (not isinstance(whole, np.ndarray) or whole.nbytes <= self._most_bytes):
            self._keep(key, page, {file: candles})
        else:
            self._memory.drop(key)
        return page, {chunk: page.entry(chunk, candles) for chunk in entries}

    def release(self, series: Series) -> None:
        """Drop the pages of the series from memory; the disk has them."""
        self._memory.drop_prefix(_prefix(series))

    def forget(self, series: Series, chunks: Iterable[int], pages: Mapping[int, Page]) -> bool:
        """Drop the pages in memory that are not those on disk any more, which are given by their numbers, or that hold
        one of the chunks: another process stored them again. Return whether there was one."""
        again: dict[int, set[int]] = {number: set() for number in pages}
        for chunk in chunks:
            again.setdefault(page_of(chunk), set()).add(chunk)
        is_dropped = False
        for number, some in again.items():
            held: _Held | None = self._memory.load(_key(series, number))
            is_old = held is not None and held.page != pages.get(number, held.page)
            if held is not None and (is_old or not held.page.chunks.keys().isdisjoint(some)):
                self._memory.drop(_key(series, number))
                is_dropped = True
        return is_dropped


def _room(file: PageFile) -> Int64s:
    return np.empty((len(file.names), file.rows), np.int64)


def _prefix(series: Series) -> str:
    return f"{series.key}|page|"


def _key(series: Series, number: int) -> str:
    return f"{series.key}|page|{number}"
