"""Entries of chunks over the store: loaded, merged with what other processes stored, and their revisions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from candle_fetcher.cache.documents import DocumentStore, int64, text
from candle_fetcher.cache.facts import FactStore
from candle_fetcher.cache.frames import FrameStore
from candle_fetcher.cache.locks import ChunkLocks
from candle_fetcher.core.entry import Entry, is_of_newer_version, pack, unpack
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge
from candle_fetcher.store import Store

CHUNK = re.compile(r"-?[0-9]{1,18}")  # the number of a chunk, as it ends the key of an entry
_KEPT_REVISIONS = 10_000  # of a series


class _Unsaved(NamedTuple):
    """The spans of an entry that memory has and the disk did not take, and the entry that was on disk then."""

    spans: tuple[Span, ...]
    seen: Entry | None


class EntryStore:
    """The entries of each series, one a chunk. Shared by threads."""

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
        self._unsaved: dict[str, _Unsaved] = {}  # by key

    def chunks(self, series: Series) -> list[int]:
        """Return the numbers of the chunks that have an entry, in order."""
        prefix = f"{series.key}|"
        names = {key.removeprefix(prefix) for key in self._store.keys(prefix)}
        return sorted(int(name) for name in names if CHUNK.fullmatch(name))

    def load(self, series: Series, chunks: Sequence[int], *, keep: bool = True) -> dict[int, tuple[str, Entry]]:
        """Return the stored entries of the chunks, each with its tier. `keep` puts those from disk into memory."""
        prefix = series.key
        keys = {f"{prefix}|{chunk}": chunk for chunk in chunks}
        found = {}
        for key, (tier, data) in self._store.load_many(keys, keep=keep).items():
            entry = unpack(key, data, trusted=tier == "memory")
            if entry is not None:
                found[keys[key]] = (tier, entry)
            elif is_of_newer_version(key, data):
                self._store.memory.drop(key)
            else:
                self._store.drop(key)
                self._documents.warn_of_damage(key, data)
        if found:
            self._facts.restore_unverified(series, [entry for _, entry in found.values()])
        return found

    def read(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """Return the entries as they lie on disk now, where another process may have stored newer ones than those in
        memory; from memory those that the disk does not have. Emits no Lookup event."""
        return self._merge_memory(series, chunks, self._read_disk(series, chunks))

    def reload(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """Return what `read` does, and put what another process has stored into memory in place of the old copy."""
        read = self._read_disk(series, chunks)
        found = self._merge_memory(series, chunks, read)
        for chunk, (tier, entry) in found.items():
            key = f"{series.key}|{chunk}"
            held = self._store.memory.load(key) if tier == "disk" else None
            if held is None:
                continue
            if held == read[key]:
                found[chunk] = "memory", entry
            else:
                self._store.memory.save(key, read[key], len(read[key]))
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
    ) -> tuple[dict[int, Entry], bool]:
        """Store what `change` returns for the entries of the chunks as they are stored now. No other thread or process
        writes in between.

        `keep` puts them into memory, until `until_s`, after which the disk is read again; without it memory drops them.
        Returns the entries, and whether the disk took them. Where their columns lie in memory as they are, the entries
        share these bytes, so that they are held once.
        """
        with self._documents.transaction():
            read = self._read_disk(series, chunks)
            stored = self._merge_memory(series, chunks, read)
            merged = change({chunk: entry for chunk, (_, entry) in stored.items()})
            facts = self._facts.get(series)
            entries = {
                chunk: one.entry._replace(unverified=facts.unverified_in(one.entry.covered))
                for chunk, one in merged.items()
            }
            if not self._store.keeps:
                return entries, False
            prefix = series.key
            keys = {chunk: f"{prefix}|{chunk}" for chunk in entries}
            data = {keys[chunk]: pack(keys[chunk], entry, compress=self._compress) for chunk, entry in entries.items()}
            until = {keys[chunk]: one for chunk, one in (until_s or {}).items()}
            is_stored = self._save(data, until, read, keep=keep)
            replaced = {keys[chunk]: one.replaced for chunk, one in merged.items()}
            self._note_unsaved(replaced, read, is_unsaved=keep and not is_stored)
        if self._compress or not keep:
            return entries, is_stored
        shared = {chunk: unpack(key, data[key], trusted=True) or entries[chunk] for chunk, key in keys.items()}
        return shared, is_stored

    def rewrite(
        self, series: Series, chunks: Sequence[int], change: Callable[[dict[int, Entry]], Mapping[int, Merged]]
    ) -> bool:
        """Do what `update` does while no call fetches the chunks; with a disk tier, nothing is put into memory. Return
        whether the entries were stored."""
        with self._locks.hold(series, chunks):
            return self.update(series, chunks, change, keep=self._store.disk is None)[1]

    def drop_unsaved(self, keys: Collection[str] | None = None) -> None:
        """Forget that memory has what the disk does not have, of the keys or of all."""
        for key in list(self._unsaved) if keys is None else keys:
            self._unsaved.pop(key, None)

    def note_revisions(self, series: Series, revisions: Sequence[Revision], *, once: bool = False) -> None:
        """Add revisions to the newest stored ones of the series; `once` leaves out those with known values."""
        if not revisions:
            return
        key = f"{series.key}|revisions"
        with self._documents.transaction():
            known = self.load_revisions(key)
            same = {revision[:4] for revision in known} if once else ()
            kept = [*known, *(one for one in revisions if one[:4] not in same)][-_KEPT_REVISIONS:]
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

    def _read_disk(self, series: Series, chunks: Sequence[int]) -> dict[str, bytes]:
        """Return the values that the disk has of the chunks, by key."""
        disk, prefix = self._store.disk, series.key
        return {} if disk is None or not chunks else disk.load_many([f"{prefix}|{chunk}" for chunk in chunks])

    def _merge_memory(
        self, series: Series, chunks: Sequence[int], read: Mapping[str, bytes]
    ) -> dict[int, tuple[str, Entry]]:
        """Return the entries that were read from disk, merged with what memory has because the disk did not take it."""
        found: dict[int, tuple[str, Entry]] = {}
        prefix = series.key if chunks else ""
        for chunk in chunks:
            key = f"{prefix}|{chunk}"
            stored = unpack(key, read[key]) if key in read else None
            unsaved = self._unsaved.get(key)
            held = self._store.memory.load(key) if stored is None or unsaved is not None else None
            ours = None if held is None else unpack(key, held, trusted=True)
            if ours is not None:
                spans, seen = unsaved or ((), None)
                merged = merge_entries(stored, ours, spans, timeframe=series.timeframe, seen=seen)
                found[chunk] = "memory", merged.entry
            elif stored is not None:
                found[chunk] = "disk", stored
        if found:
            self._facts.restore_unverified(series, [entry for _, entry in found.values()])
        return found

    def _save(
        self, data: Mapping[str, bytes], until_s: Mapping[str, float | None], read: Mapping[str, bytes], *, keep: bool
    ) -> bool:
        """Save the values; in memory alone where the disk has a value of a newer version of this package."""
        newer = {key: data[key] for key in data if key in read and is_of_newer_version(key, read[key])}
        for key, value in newer.items() if keep else ():
            self._store.memory.save(key, value, len(value), until_s.get(key))
        others = {key: value for key, value in data.items() if key not in newer}
        return self._store.save_many(others, until_s, keep=keep) and not newer

    def _note_unsaved(
        self, replaced: Mapping[str, tuple[Span, ...]], read: Mapping[str, bytes], *, is_unsaved: bool
    ) -> None:
        """Note which spans of each entry memory has and the disk does not, or that there are none any more."""
        before = {key: self._unsaved.pop(key, _Unsaved((), None)).spans for key in replaced}
        if not is_unsaved:
            return
        held = set(self._store.memory.keys())
        self._unsaved = {key: one for key, one in self._unsaved.items() if key in held}
        for key, spans in replaced.items():
            seen = unpack(key, read[key]) if key in read else None
            self._unsaved[key] = _Unsaved(tuple(merge([*before[key], *spans])), seen)
