"""Entries of chunks over the store: loaded, merged with what other processes stored, and their revisions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from candle_fetcher.cache.documents import DocumentStore, int64, text
from candle_fetcher.cache.facts import FactStore
from candle_fetcher.cache.frames import FrameStore
from candle_fetcher.cache.locks import ChunkLocks
from candle_fetcher.cache.pages import CHUNK, PageStore, Run
from candle_fetcher.core.entry import Entry, is_of_newer_version, pack, unpack
from candle_fetcher.core.events import Lookup
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.page import Page, chunks_in, fits_page, is_paged, page_of
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge
from candle_fetcher.store import Store, WriteWatch

KEPT_REVISIONS = 10_000  # of a series
_BATCH_CHUNKS = 16  # of more, the entries are read in batches, side by side
_BATCHES = 16


class _Unsaved(NamedTuple):
    """The spans of an entry that memory has and the disk did not take, and the entry that was on disk then."""

    spans: tuple[Span, ...]
    seen: Entry | None


class _Stored(NamedTuple):
    """What the disk has of some chunks: the values of those that have entries of their own, the heads of pages that may
    hold others, and the entries of all of them."""

    data: dict[int, bytes]
    pages: dict[int, Page]
    entries: dict[int, Entry]


class EntryStore:
    """The entries of each series, one a chunk: on their own, or in `pages`. Shared by threads."""

    def __init__(
        self,
        store: Store,
        documents: DocumentStore,
        facts: FactStore,
        frames: FrameStore,
        locks: ChunkLocks,
        *,
        compress: bool,
    ) -> None:
        self._store = store
        self._documents = documents
        self._facts = facts
        self._frames = frames
        self._locks = locks
        self._compress = compress
        self._watch = WriteWatch()
        self.pages = PageStore(store, documents, self._watch, writes=not compress)
        self._unsaved: dict[str, _Unsaved] = {}  # by key

    def chunks(self, series: Series) -> list[int]:
        """Return the numbers of the chunks that are stored, in order."""
        prefix = f"{series.key}|"
        names = {key.removeprefix(prefix) for key in self._store.keys(prefix)}
        chunks = {int(name) for name in names if CHUNK.fullmatch(name)}
        return sorted(chunks.union(*(page.chunks for page in self.pages.find_all(series).values())))

    def load(
        self,
        series: Series,
        chunks: Sequence[int],
        *,
        keep: bool = True,
        names: Sequence[str] | None = None,
        run: Run[Any, Any] = map,
        together: bool = False,
    ) -> dict[int, tuple[str, Entry]]:
        """Return the stored entries of the chunks, each with its tier. Emits a Lookup for each tier.

        `keep` puts those from disk into memory. `names`: the columns that are wanted, where an entry answers for its
        whole chunk and has no hole; it may have others. `run` does parts of the work, side by side where it can.
        `together`: settled chunks without holes may share one entry, which answers for all of them.
        """
        prefix = series.key
        token = self._watch.token(prefix) if keep else None
        heads = self.pages.keys(series, chunks)
        store, memory = self._store, self._load_memory(prefix, heads, chunks, names)
        left = [chunk for chunk in chunks if chunk not in memory]
        store.observe(Lookup("memory", len(memory), len(left)))
        found = {chunk: ("memory", entry) for chunk, entry in memory.items()}
        if left and store.disk is not None:
            data, pages = self._read_disk(series, left, run, heads if len(left) == len(chunks) else None)
            if pages:
                pages = self.pages.take_out(series, pages, data, left)
            own = {chunk: entry for chunk, value in data.items() if (entry := self._unpack(series, chunk, value))}
            if own:
                with self._watch.lock:
                    for chunk in own if self._watch.is_unchanged(prefix, token) else ():
                        store.memory.save(f"{prefix}|{chunk}", data[chunk], len(data[chunk]))
            # What may be asked for again keeps all of its columns.
            final = {
                chunk: entry
                for chunk, entry in own.items()
                if names is None or (not entry.holes and fits_page(entry, chunk_span(series.timeframe, chunk)))
            }
            others = [chunk for chunk in left if chunk not in data]
            read = own
            if pages:
                read |= self.pages.read(
                    series, pages, others, names=names, own=final, run=run, token=token, together=together
                )
                lost = [chunk for chunk in others if chunk not in read and is_paged(chunk, pages)]
                if lost:  # another process may have stored them on their own, and removed the files
                    read |= self._read_stored(series, lost).entries
            store.observe(Lookup("disk", len(read), len(left) - len(read)))
            found |= {chunk: ("disk", entry) for chunk, entry in read.items()}
        if found:
            self._facts.restore_unverified(series, [entry for _, entry in found.values()])
        return found

    def _load_memory(
        self, prefix: str, heads: Mapping[str, int], chunks: Sequence[int], names: Sequence[str] | None
    ) -> dict[int, Entry]:
        """Return the entries that memory has."""
        found, keys = {}, {f"{prefix}|{chunk}": chunk for chunk in chunks}
        held = self._store.memory.load_many([*keys, *heads])
        pages = {number: held.pop(key) for key, number in heads.items() if key in held}
        for key, data in held.items():
            entry = unpack(key, data, trusted=True)
            if entry is not None:
                found[keys[key]] = entry
        return found | self.pages.held(pages, [one for one in chunks if one not in found], names) if pages else found

    def _read_disk(
        self, series: Series, chunks: Sequence[int], run: Run[Any, Any] = map, heads: dict[str, int] | None = None
    ) -> tuple[dict[int, bytes], dict[int, Page]]:
        """Return the values of the chunks that have entries of their own on disk, and the heads of pages that may hold
        the others; `heads` are their keys, where they are known."""
        disk, prefix = self._store.disk, series.key
        if disk is None or not chunks:
            return {}, {}
        keys = {f"{prefix}|{chunk}": chunk for chunk in chunks}
        heads = self.pages.keys(series, chunks) if heads is None else heads
        if len(chunks) <= _BATCH_CHUNKS:
            data = disk.load_many([*heads, *keys])
            found = {key: data.pop(key) for key in heads if key in data}
            pages = self.pages.unpack(found, heads) if found else {}
        else:
            pages = self.pages.unpack(disk.load_many(heads), heads)
            # Most chunks of a long range lie in pages: then it is quicker to see first which of them do not.
            present = disk.present(list(keys)) if pages else keys
            asked = [key for key in keys if key in present]
            size = max(_BATCH_CHUNKS, -(-len(asked) // _BATCHES))
            data = {}
            for read in run(disk.load_many, [asked[at : at + size] for at in range(0, len(asked), size)]):
                data.update(read)
            # Meanwhile another thread or process may have moved chunks into pages.
            left = [chunk for key, chunk in keys.items() if key not in data and not is_paged(chunk, pages)]
            pages |= self.pages.find(series, left)
        return {keys[key]: value for key, value in data.items()}, pages

    def _unpack(self, series: Series, chunk: int, data: bytes) -> Entry | None:
        """Return the entry of the chunk that was read from disk; damaged bytes are dropped, with a warning."""
        key = f"{series.key}|{chunk}"
        entry = unpack(key, data)
        if entry is None and is_of_newer_version(key, data):
            self._store.memory.drop(key)
        elif entry is None:
            self._store.drop(key)
            self._documents.warn_of_damage(key, data)
        return entry

    def outline(self, series: Series, chunk: int) -> Entry | None:
        """Return the entry of a chunk that lies in a page on disk, without its candles: a page says what is covered,
        and nothing in it is to be confirmed. None of another chunk."""
        data, pages = self._read_disk(series, [chunk])
        is_in_memory = self._store.memory.load(f"{series.key}|{chunk}") is not None
        return pages[page_of(chunk)].outline(chunk) if is_paged(chunk, pages) and not (data or is_in_memory) else None

    def read(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """Return the entries as they lie on disk now, where another process may have stored newer ones than those in
        memory; from memory those that the disk does not have. Emits no Lookup event."""
        return self._merge_memory(series, chunks, self._read_stored(series, chunks).entries)

    def reload(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """Return what `read` does, and put what another process has stored into memory in place of the old copy."""
        stored, memory = self._read_stored(series, chunks), self._store.memory
        found = self._merge_memory(series, chunks, stored.entries)
        is_old = bool(stored.data or stored.pages) and self.pages.forget(series, stored.data, stored.pages)
        for chunk, (tier, entry) in found.items():
            key = f"{series.key}|{chunk}"
            held = memory.load(key) if tier == "disk" else None
            if held is None:
                continue
            if held == stored.data.get(chunk):
                found[chunk] = "memory", entry
            elif chunk in stored.data:
                memory.save(key, stored.data[chunk], len(stored.data[chunk]))
                is_old = True
            else:
                memory.drop(key)
                is_old = True
        if is_old:
            self._frames.drop(series)
        return found

    def update(
        self,
        series: Series,
        chunks: Sequence[int],
        change: Callable[[dict[int, Entry]], Mapping[int, Merged]],
        until_s: Mapping[int, float | None] | None = None,
        *,
        keep: bool = True,
        keeps_pages: bool = True,
    ) -> tuple[dict[int, Entry], bool]:
        """Store what `change` returns for the entries of the chunks as they are stored now. No other thread or process
        writes in between. Chunks that complete a page are written into it.

        `keep` puts them into memory, until `until_s`, after which the disk is read again; without it memory drops them.
        Without `keeps_pages` it drops those that are written into pages.
        Returns the entries, and whether the disk took them. Where their columns lie in memory as they are, the entries
        share these bytes, so that they are held once.
        """
        prefix = series.key
        self._watch.begin(prefix)
        try:
            with self._documents.transaction():
                stored = self._read_stored(series, chunks)
                known = self._merge_memory(series, chunks, stored.entries)
                merged = change({chunk: entry for chunk, (_, entry) in known.items()})
                facts = self._facts.get(series)
                entries = {
                    chunk: one.entry._replace(unverified=facts.unverified_in(one.entry.covered))
                    for chunk, one in merged.items()
                }
                if not self._store.keeps:
                    return entries, False
                paged = self.pages.store(series, entries, stored.pages, stored.data, keep=keep and keeps_pages)
                keys = {chunk: f"{prefix}|{chunk}" for chunk in entries if chunk not in paged}
                data = {key: pack(key, entries[chunk], compress=self._compress) for chunk, key in keys.items()}
                until = {keys[chunk]: one for chunk, one in (until_s or {}).items() if chunk in keys}
                is_stored = self._save(series, data, until, stored, keep=keep)
                replaced = {chunk: one.replaced for chunk, one in merged.items()}
                self._note_unsaved(series, replaced, stored.entries, is_unsaved=keep and not is_stored)
        finally:
            self._watch.end(prefix)
        if self._compress or not keep:
            return entries, is_stored
        shared = {chunk: unpack(key, data[key], trusted=True) or entries[chunk] for chunk, key in keys.items()}
        return paged | shared, is_stored

    def rewrite(
        self, series: Series, chunks: Sequence[int], change: Callable[[dict[int, Entry]], Mapping[int, Merged]]
    ) -> bool:
        """Do what `update` does while no call fetches the chunks; with a disk tier, nothing is put into memory. Return
        whether the entries were stored."""
        with self._locks.hold(series, chunks):
            return self.update(series, chunks, change, keep=self._store.disk is None)[1]

    def pack(self, series: Series, chunks: Iterable[int]) -> int:
        """Move chunks with entries of their own into their pages, each page in one transaction. Return how many."""
        packed, disk = 0, self._store.disk
        numbers = {page_of(chunk) for chunk in chunks} if self.pages.has_any(series) else ()
        keys = {f"{series.key}|{chunk}": number for number in numbers for chunk in chunks_in(number)}
        for number in sorted({keys[key] for key in disk.present(list(keys))}) if disk is not None else ():
            with self._documents.transaction():
                packed += self.pages.pack(series, number)
        return packed

    def drop_unsaved(self, keys: Collection[str] | None = None) -> None:
        """Forget that memory has what the disk does not have, of the keys or of all."""
        for key in list(self._unsaved) if keys is None else keys:
            self._unsaved.pop(key, None)

    def note_revisions(
        self, series: Series, revisions: Sequence[Revision], settling: Settling | None = None, *, once: bool = False
    ) -> None:
        """Add revisions to the newest stored ones of the series; `once` leaves out those with known values.

        With `settling`, learn from them how long after their close the market's candles change.
        """
        if not revisions:
            return
        if settling is not None and self._facts.learn_corrections(series, revisions, settling):
            self._frames.drop_all()  # finished results may have candles that are to be confirmed now
        key = f"{series.key}|revisions"
        with self._documents.transaction():
            known = self.load_revisions(key)
            same = {revision[:4] for revision in known} if once else ()
            kept = [*known, *(one for one in revisions if one[:4] not in same)][-KEPT_REVISIONS:]
            self._documents.save(key, kept)

    def load_revisions(self, key: str) -> list[Revision]:
        """Return the revisions that are stored under the key."""
        try:
            return [
                Revision(int64(at), text(column), float(old), float(new), int64(old_read), int64(new_read))
                for at, column, old, new, old_read, new_read in self._documents.load(key) or ()
            ]
        except (TypeError, ValueError, OverflowError):
            return []

    def _read_stored(self, series: Series, chunks: Sequence[int]) -> _Stored:
        """Return what the disk has of the chunks."""
        data, pages = self._read_disk(series, chunks)
        entries = {chunk: entry for chunk, value in data.items() if (entry := unpack(f"{series.key}|{chunk}", value))}
        if pages:
            entries |= self.pages.read(series, pages, [one for one in chunks if one not in data])
        return _Stored(data, pages, entries)

    def _merge_memory(
        self, series: Series, chunks: Sequence[int], stored: Mapping[int, Entry]
    ) -> dict[int, tuple[str, Entry]]:
        """Return the entries that were read from disk, merged with what memory has because the disk did not take it."""
        found: dict[int, tuple[str, Entry]] = {}
        prefix = series.key if chunks else ""
        for chunk in chunks:
            key = f"{prefix}|{chunk}"
            unsaved = self._unsaved.get(key)
            held = self._store.memory.load(key) if chunk not in stored or unsaved is not None else None
            ours = None if held is None else unpack(key, held, trusted=True)
            if ours is not None:
                spans, seen = unsaved or ((), None)
                merged = merge_entries(stored.get(chunk), ours, spans, timeframe=series.timeframe, seen=seen)
                found[chunk] = "memory", merged.entry
            elif chunk in stored:
                found[chunk] = "disk", stored[chunk]
        if found:
            self._facts.restore_unverified(series, [entry for _, entry in found.values()])
        return found

    def _save(
        self,
        series: Series,
        data: Mapping[str, bytes],
        until_s: Mapping[str, float | None],
        stored: _Stored,
        *,
        keep: bool,
    ) -> bool:
        """Save the values; in memory alone where the disk has a value of a newer version of this package."""
        read = {f"{series.key}|{chunk}": value for chunk, value in stored.data.items()}
        newer = {key: data[key] for key in data if key in read and is_of_newer_version(key, read[key])}
        for key, value in newer.items() if keep else ():
            self._store.memory.save(key, value, len(value), until_s.get(key))
        others = {key: value for key, value in data.items() if key not in newer}
        return self._store.save_many(others, until_s, keep=keep) and not newer

    def _note_unsaved(
        self,
        series: Series,
        replaced: Mapping[int, tuple[Span, ...]],
        stored: Mapping[int, Entry],
        *,
        is_unsaved: bool,
    ) -> None:
        """Note which spans of each entry memory has and the disk does not, or that there are none any more."""
        keys = {chunk: f"{series.key}|{chunk}" for chunk in replaced}
        before = {chunk: self._unsaved.pop(key, _Unsaved((), None)).spans for chunk, key in keys.items()}
        if not is_unsaved:
            return
        held = set(self._store.memory.keys())
        self._unsaved = {key: one for key, one in self._unsaved.items() if key in held}
        for chunk, spans in replaced.items():
            self._unsaved[keys[chunk]] = _Unsaved(tuple(merge([*before[chunk], *spans])), stored.get(chunk))
