"""A backup of the cache: every series in one file, as it is at one moment, while other threads and processes write.

The values come out of one snapshot of the database. The files of pages are not in it: what is evicted, cleared or
stored again meanwhile takes them away. Where such a file is gone, the backup has what the cache has now; entries
that it does not have any more are left out, and counted. What belongs to a process or can be found out again is left
out too: locks, budgets and bans, which lie in other files, and the freshness index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from candle_fetcher.cache import CandleCache
from candle_fetcher.cache.pages import CHUNK
from candle_fetcher.core.entry import HEAD_BYTES, count_rows, is_of_newer_version, pack, unpack, unseal
from candle_fetcher.core.errors import CacheError, InputError, shown
from candle_fetcher.core.events import Observe, Progress
from candle_fetcher.core.gap import iso
from candle_fetcher.core.page import PAGE_CHUNKS, Page, PageFile, pack_page, unpack_page
from candle_fetcher.core.reports import Backup
from candle_fetcher.core.series import Series, split_key
from candle_fetcher.core.version import __version__
from candle_fetcher.files.container import FILES, ContainerWriter, document_name_of, name_of
from candle_fetcher.files.places import find_home
from candle_fetcher.files.writing import replacing
from candle_fetcher.store import DiskTier, NotWhole, Snapshot, SnapshotLost

ENDING = ".tar"
DOCUMENT = re.compile(r"(?:listing|lags)\|.*")  # what is known of a provider, not of a series
PAGE = re.compile(r"page\|(-?[0-9]{1,18})")
_OF_SERIES = ("facts", "actions", "revisions")
_NO_PLACE = (2, 0, "")
_TRIES = 5
_AT_ONCE = 32  # values


def back_up(cache: CandleCache, path: object, now_ms: int, *, observe: Observe, pause: Callable[[], object]) -> Backup:
    """Write the backup; see `CandleCache.backup`. `pause` is called now and then, and may raise to end it."""
    target = find_home(path, f"the name of a file that ends in {ENDING}")
    if target.suffix.lower() != ENDING or target.is_dir():
        raise InputError(f"path {shown(str(path))} is no name of a backup; expected a file that ends in {ENDING}")
    disk = disk_of(cache)
    for left in range(_TRIES - 1, -1, -1):
        try:
            with disk.snapshot() as snapshot, replacing(target) as file, ContainerWriter(file) as out:
                return _BackupWriter(cache, disk, snapshot, out, observe, pause).write(target, now_ms)
        except SnapshotLost:
            if not left:
                raise
    raise AssertionError


def disk_of(cache: CandleCache) -> DiskTier:
    """Return the disk tier. Raises InputError where there is none."""
    if cache.store.disk is None:
        raise InputError("there is no cache on disk; use a CandleFetcher with use_cache=True and a cache_dir")
    return cache.store.disk


class _BackupWriter:
    """Writes what is in a snapshot into a container, and counts it."""

    def __init__(
        self,
        cache: CandleCache,
        disk: DiskTier,
        snapshot: Snapshot,
        out: ContainerWriter,
        observe: Observe,
        pause: Callable[[], object],
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._snapshot = snapshot
        self._out = out
        self._observe = observe
        self._pause = pause
        self._own: set[str] = set()  # keys of the chunks of one series that have entries of their own
        self.entries = self.candles = self.value_bytes = 0
        self.vanished = self.damaged = self.newer = 0

    def write(self, target: Path, now_ms: int) -> Backup:
        """Write everything. Return the report of the backup under that path."""
        by_series, documents, candles = self._survey()
        count, label = 0, "backup"
        self._observe(Progress("start", label, 0, candles))
        try:
            for series, keys in by_series.items():
                before = self.entries
                self._own = {key for key in keys if CHUNK.fullmatch(_rest(series, key))}
                for key, value in self._load(sorted(keys, key=lambda one: _place(_rest(series, one)))):
                    done = self.candles
                    self._add(series, key, value)
                    self._observe(Progress("advance", label, self.candles - done, candles))
                count += self.entries > before
            for key, value in self._load(documents):
                self._add_document(document_name_of(key), key, value)
        finally:
            self._observe(Progress("end", label, 0, candles))
        facts = {"series": count, "entries": self.entries, "candles": self.candles, "bytes": self.value_bytes}
        self._out.finish({"written": iso(now_ms), "written_by": f"candle_fetcher {__version__}", **facts})
        left_out = self.vanished, self.damaged, self.newer
        return Backup(str(target), count, self.entries, self.candles, self._out.bytes, *left_out)

    def _survey(self) -> tuple[dict[Series, list[str]], list[str], int]:
        """Return the keys to write of each series, those of documents, and the number of candles."""
        by_series: dict[Series, list[str]] = {}
        documents, pages, candles = [], [], 0
        for key, _, beginning in self._snapshot.beginnings(HEAD_BYTES):
            split = split_key(key)
            if split is None and DOCUMENT.fullmatch(key):
                documents.append(key)
            elif split is not None and _place(split[1]) != _NO_PLACE:
                by_series.setdefault(split[0], []).append(key)
                if PAGE.fullmatch(split[1]):
                    pages.append(key)
                elif CHUNK.fullmatch(split[1]):
                    candles += count_rows(beginning) or 0
        for key, value in self._load(pages):
            page = unpack_page(key, value)
            candles += 0 if page is None else sum(one.rows for one in page.chunks.values())
        return by_series, documents, candles

    def _load(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the keys, in their order, with their values."""
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            values = self._snapshot.load_many(some)
            for key in some:
                self._pause()
                if key in values:
                    yield key, values.pop(key)
                else:  # the index and the table of the database disagree
                    self.damaged += 1

    def _add(self, series: Series, key: str, value: bytes) -> None:
        """Write the value of a series' key, with what belongs to it."""
        rest = _rest(series, key)
        if PAGE.fullmatch(rest):
            page = unpack_page(key, value)
            if page is None:
                self._note_unread(key, value)
            else:
                self._add_page(series, key, value, page)
        elif CHUNK.fullmatch(rest):
            entry = unpack(key, value)
            if entry is None:
                self._note_unread(key, value)
            else:
                self._write(name_of(key), value)
                self._count(entry.candles.count)
        else:
            self._add_document(name_of(key), key, value)

    def _add_document(self, name: str, key: str, value: bytes) -> None:
        if unseal(key, value) is None:
            self._note_unread(key, value)
        else:
            self._write(name, value)

    def _add_page(self, series: Series, key: str, value: bytes, page: Page) -> None:
        """Write the head of a page and its files. Chunks of files that are gone are written as the cache has them
        now."""
        prefix = series.key
        # A chunk that has an entry of its own, too, counts as that; see `PageStore.take_out`.
        kept = page.without([chunk for chunk in page.chunks if f"{prefix}|{chunk}" in self._own])
        data = {file.name: self._read_file(file) for file in kept.files}
        lost = [chunk for chunk, one in kept.chunks.items() if data[kept.files[one.file].name] is None]
        kept = kept.without(lost)
        if lost and self._disk.load(key) == value:  # it is still stored so, and its files are not what was written
            self.damaged += len(lost)
            lost = []
        if kept.chunks:
            self._write(name_of(key), value if kept == page else pack_page(key, kept))
            for file in kept.files:
                self._write(FILES + file.name, data[file.name] or b"")
            for one in kept.chunks.values():
                self._count(one.rows)
        found = self._cache.entries.read(series, lost) if lost else {}
        for chunk, (_, entry) in found.items():
            name = f"{prefix}|{chunk}"
            self._write(name_of(name), pack(name, entry))
            self._count(entry.candles.count)
        self.vanished += len(lost) - len(found)

    def _read_file(self, file: PageFile) -> memoryview | None:
        """Return the bytes of a file, None where it is gone or damaged. Raises CacheError where it cannot be read."""
        data = memoryview(bytearray(file.size_bytes))
        try:
            self._disk.files.read(file.name, file.size_bytes, [data])
        except NotWhole:
            return None
        except OSError as error:
            raise CacheError(f"the page {file.name} of the cache cannot be read: {error}") from error
        block = np.frombuffer(data, "<i8").reshape(len(file.names), file.rows)
        return data if all(file.is_whole(at, column) for at, column in enumerate(block)) else None

    def _note_unread(self, key: str, value: bytes) -> None:
        if is_of_newer_version(key, value):
            self.newer += 1
        else:
            self.damaged += 1

    def _count(self, candles: int) -> None:
        self.entries += 1
        self.candles += candles

    def _write(self, name: str, data: bytes | memoryview) -> None:
        self._out.add(name, data)
        self.value_bytes += len(data)


def _rest(series: Series, key: str) -> str:
    return key.removeprefix(f"{series.key}|")


def _place(rest: str) -> tuple[int, int, str]:
    """Return where a value of a series stands in a backup, by the end of its key; _NO_PLACE for what is left out.

    What is known of the series comes first, then its chunks in order, alone or in pages.
    """
    page = PAGE.fullmatch(rest)
    if page is not None:
        return 1, int(page[1]) * PAGE_CHUNKS, rest
    if CHUNK.fullmatch(rest):
        return 1, int(rest), ""
    return (0, 0, rest) if rest in _OF_SERIES else _NO_PLACE
