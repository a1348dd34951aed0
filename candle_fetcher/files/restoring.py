"""A backup into the cache. It is read to its end and checked before the cache is changed, and then merged into it.

What is stored stays: a backup adds what is missing (`merging.fill_from_copy`), by the same transactions and locks as a
fetch. So a restore that was cut off leaves a cache that is right, and the next one goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from candle_fetcher.cache import CandleCache
from candle_fetcher.cache.contents import find_open_ms
from candle_fetcher.cache.entries import KEPT_REVISIONS
from candle_fetcher.cache.freshness import READ_ENTRY
from candle_fetcher.cache.pages import CHUNK
from candle_fetcher.core.actions import Known
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.entry import Entry, is_of_newer_version, unpack, unseal
from candle_fetcher.core.errors import BadFile, CacheError, CandleFetcherError, InputError, shown
from candle_fetcher.core.events import Observe, Progress
from candle_fetcher.core.facts import Facts, News, Unverified
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.merging import Merged, fill_from_copy
from candle_fetcher.core.page import Page, PageFile, page_of, unpack_page
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.reports import Restored
from candle_fetcher.core.revisions import Revision, find_revisions
from candle_fetcher.core.series import Series, split_key
from candle_fetcher.core.sizes import size_text
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.files.backup import DOCUMENT, PAGE, disk_of
from candle_fetcher.files.container import DOCUMENTS, FILES, VALUES, Member, key_of, read_facts, read_members
from candle_fetcher.files.places import find_home
from candle_fetcher.files.reading import naming_file
from candle_fetcher.store import MemoryTier, Store

_MOST_DOCUMENT_BYTES = 1 << 28
_FILE_UNKNOWN = "a file of unknown name"


class Item(NamedTuple):
    """Entries of a series out of a backup, by chunk; or a document under its key, of a series or of a provider."""

    series: Series | None
    entries: Mapping[int, Entry]
    key: str = ""
    data: bytes = b""


class _Newer(NamedTuple):
    """Stands for a value that a newer version of this package stored."""

    key: str


def restore(
    cache: CandleCache, path: object, now_ms: int, *, observe: Observe, pause: Callable[[], object]
) -> Restored:
    """Restore a backup; see `CandleCache.restore`. `pause` is called now and then, and may raise to end it."""
    source, disk = find_home(path, "the name of a backup"), disk_of(cache)
    with naming_file(source, "restored"), source.open("rb") as file:
        facts = read_facts(file)
        size_bytes, candles = (facts.get(name) for name in ("bytes", "candles"))
        if type(size_bytes) is not int or type(candles) is not int:
            raise BadFile("its head is not whole")
        if size_bytes > disk.stats().max_bytes:
            raise InputError(
                f"it holds {size_text(size_bytes)}, and the cache at most {size_text(disk.stats().max_bytes)}; raise"
                " disk_cache_size"
            )
        restorer = _Restorer(cache, source, now_ms)
        observe(Progress("start", "restore", 0, candles))
        try:
            for _ in _read_items(file):
                pause()
                observe(Progress("advance", "restore", 0, candles))
            for item in _batches(_read_items(file)):
                pause()
                done = restorer.candles
                restorer.take(item)
                observe(Progress("advance", "restore", restorer.candles - done, candles))
        finally:
            observe(Progress("end", "restore", 0, candles))
    return restorer.report()


# -- what is in a backup ------------------------------------------------------------------------------------------


def _read_items(file: IO[bytes]) -> Iterator[Item | _Newer]:
    """Yield what is in the backup. Raises BadFile where something in it is not what a backup has."""
    members = read_members(file)
    is_after_newer = False
    for member in members:
        if member.name.startswith(FILES) and is_after_newer:
            continue  # the files of a page that cannot be read here
        item = _read_item(member, members)
        is_after_newer = isinstance(item, _Newer)
        yield item


def _read_item(member: Member, members: Iterator[Member]) -> Item | _Newer:
    key = key_of(member.name)
    if is_of_newer_version(key, member.data):
        return _Newer(key)
    try:
        if member.name.startswith(VALUES):
            return _read_value(key, member, members)
        if member.name.startswith(DOCUMENTS) and DOCUMENT.fullmatch(key) and unseal(key, member.data) is not None:
            return Item(None, {}, key, member.data)
    except (ValueError, OverflowError, LookupError, struct.error) as error:  # it was not written by this package
        if isinstance(error, CandleFetcherError):
            raise
        raise _odd(member) from error
    raise _odd(member)


def _read_value(key: str, member: Member, members: Iterator[Member]) -> Item:
    split = split_key(key)
    if split is None:
        raise _odd(member)
    series, rest = split
    if PAGE.fullmatch(rest):
        page = unpack_page(key, member.data)
        if page is None or any(f"page|{page_of(chunk)}" != rest for chunk in page.chunks):
            raise _odd(member)
        return Item(series, _read_page(series, page, members))
    if not CHUNK.fullmatch(rest):
        if unseal(key, member.data) is None:
            raise _odd(member)
        return Item(series, {}, key, member.data)
    entry = unpack(key, member.data)
    if entry is None:
        raise _odd(member)
    return Item(series, {int(rest): _checked(series, int(rest), entry)})


def _read_page(series: Series, page: Page, members: Iterator[Member]) -> dict[int, Entry]:
    """Return the entries of a page, of which the next members are the files."""
    candles = [_read_file(file, next(members, None)) for file in page.files]
    return {chunk: _checked(series, chunk, page.entry(chunk, candles[one.file])) for chunk, one in page.chunks.items()}


def _read_file(file: PageFile, member: Member | None) -> Candles:
    if member is None or member.name != FILES + file.name or len(member.data) != file.size_bytes:
        raise BadFile(f"the file {shown(file.name)} of a page is missing in it")
    block = np.frombuffer(member.data, "<i8").reshape(len(file.names), file.rows)
    if not all(file.is_whole(at, column) for at, column in enumerate(block)):
        raise _odd(member)
    return Candles(file.names, block)


def _checked(series: Series, chunk: int, entry: Entry) -> Entry:
    """Return the entry. Raises BadFile where it cannot be that of the chunk."""
    covered, opens = entry.covered, entry.candles.open_ms
    is_within = series.kind == "funding" or chunk_span(series.timeframe, chunk).holds(covered)
    is_in_order = bool((np.diff(opens) > 0).all()) and (
        not len(opens) or covered.start_ms <= opens[0] <= opens[-1] < covered.end_ms
    )
    if not (is_within and is_in_order and all(covered.holds(hole.span) for hole in entry.holes)):
        raise BadFile(f"an entry of {series.symbol} {series.timeframe} in it cannot be one")
    return entry


def _odd(member: Member) -> BadFile:
    return BadFile(f"its member {shown(member.name)} is not one of a backup, or not whole")


def _batches(items: Iterable[Item | _Newer]) -> Iterator[Item | _Newer]:
    """Yield the items, with entries that belong to one page together."""
    waiting: dict[int, Entry] = {}
    series: Series | None = None
    for item in items:
        entries = item.entries if isinstance(item, Item) else {}
        number = page_of(min(entries, default=0))
        if waiting and not (entries and item[0] == series and number == page_of(min(waiting))):
            yield Item(series, waiting)
            waiting = {}
        if entries and isinstance(item, Item):
            series, waiting = item.series, {**entries, **waiting}
        else:
            yield item
    if waiting:
        yield Item(series, waiting)


# -- into the cache -----------------------------------------------------------------------------------------------


class _Restorer:
    """Merges what is in a backup into the cache, and counts what came of it."""

    def __init__(self, cache: CandleCache, path: Path, now_ms: int) -> None:
        self._cache = cache
        self._path = path
        self._now_ms = now_ms
        # The documents of the backup, which are read as those of any cache.
        self._memory = MemoryTier(_MOST_DOCUMENT_BYTES)
        self._copy = CandleCache(Store(self._memory), path=None, clock=lambda: now_ms / 1000)
        self._facts: tuple[Series | None, Facts] = None, Facts()  # of the series that came last, as the backup has them
        self._series: set[Series] = set()
        self.entries = self.candles = self.stored = self.added = self.differing = self.newer = 0

    def report(self) -> Restored:
        counts = self.entries, self.candles, self.stored, self.added, self.differing, self.newer
        return Restored(str(self._path), len(self._series), *counts)

    def take(self, item: Item | _Newer) -> None:
        """Merge an item into the cache. Raises CacheError where the disk does not take it."""
        if isinstance(item, _Newer):
            self.newer += 1
        elif item.entries and item.series is not None:
            self._store(item.series, item.entries)
        else:
            self._memory.save(item.key, item.data, len(item.data))  # where the documents of `_copy` lie
            with self._cache.documents.transaction() as is_writable:
                self._refuse(not is_writable)
                self._merge_document(item)
            self._memory.drop(item.key)

    def _refuse(self, is_refused: object) -> None:
        if is_refused:
            problem = self._cache.problem or "the disk did not take what was to be stored"
            raise CacheError(f"{self._path.name} was not restored completely: {problem}")

    # -- entries

    def _store(self, series: Series, entries: Mapping[int, Entry]) -> None:
        cache, came, added, revisions = self._cache, dict[int, Merged](), 0, list[Revision]()

        def change(stored: dict[int, Entry]) -> dict[int, Merged]:
            nonlocal added
            for chunk, entry in entries.items():
                old = stored.get(chunk)
                merged = _fill(series, old, entry)
                if merged is not None:
                    came[chunk] = merged
                    added += merged.entry.candles.count - (0 if old is None else old.candles.count)
                if old is not None and not old.candles.equals(entry.candles):
                    revisions.extend(find_revisions(*sorted((old, entry), key=lambda one: one.stored_ms)))
            cache.entries.note_revisions(series, revisions, once=True)
            self._learn_unverified(series, came, entries)
            return came

        try:
            self._refuse(not cache.entries.rewrite(series, sorted(entries), change))
        finally:
            if came:
                cache.frames.drop(series)
        cache.freshness.save(series, dict.fromkeys(came, READ_ENTRY))
        for merged in came.values():
            self._drop_empty(series, merged.entry)
        self._series.add(series)
        self.entries += len(entries)
        self.candles += sum(entry.candles.count for entry in entries.values())
        self.stored += len(came)
        self.added += added
        self.differing += len({revision.open_ms for revision in revisions})

    def _learn_unverified(self, series: Series, came: Mapping[int, Merged], entries: Mapping[int, Entry]) -> None:
        """Note which candles that came have no checksum: they are stored with this note or not at all."""
        unverified: list[Unverified] = []
        files = self._facts[1].unverified if self._facts[0] == series else ()
        for chunk, merged in came.items():
            for span in (part.clip(one) for part in merged.replaced for one in entries[chunk].unverified):
                noted = [one._replace(span=part) for one in files if (part := one.span.clip(span))]
                unverified += noted
                unverified += [Unverified(part, _FILE_UNKNOWN) for part in subtract(span, [one.span for one in noted])]
        replaced = merge(span for merged in came.values() for span in merged.replaced)
        known = self._cache.facts.reload(series)
        if unverified or any(one.span.clip(span) for one in known.unverified for span in replaced):
            self._cache.facts.learn(series, News(replaced=replaced, unverified=unverified), self._now_ms)

    def _drop_empty(self, series: Series, entry: Entry) -> None:
        """Forget that a span is empty in which the entry has candles."""
        opens = entry.candles.open_ms
        if len(opens):
            span = Span(int(opens[0]), int(opens[-1]) + 1)
            facts = self._cache.facts.get(series)
            if any(span.clip(empty) for empty in facts.empty_spans) or (facts.first_ms or 0) > span.start_ms:
                self._cache.facts.drop_empty(series, span)

    # -- documents

    def _merge_document(self, item: Item) -> None:
        name = item.key.rpartition("|")[2]
        if item.series is None:
            self._merge_of_provider(item.key)
        elif name == "facts":
            self._copy.facts.drop()
            self._facts = item.series, self._copy.facts.get(item.series)
            self._merge_facts(*self._facts)
        elif name == "revisions":
            room = KEPT_REVISIONS - len(self._cache.entries.load_revisions(item.key))
            revisions = self._copy.entries.load_revisions(item.key)
            self._cache.entries.note_revisions(item.series, revisions[-room:] if room > 0 else (), once=True)
        elif name == "actions":
            self._merge_actions(item.series)

    def _merge_facts(self, series: Series, facts: Facts) -> None:
        """Add what the backup knows of the series where the cache knows nothing."""
        store, known = self._cache.facts, self._cache.facts.reload(series)
        held = self._held(series) if facts.first_ms is not None or facts.empty else Span(0, 0)
        if facts.first_ms is not None and known.first_ms is None:
            first_ms = min(facts.first_ms, held.start_ms) if held else facts.first_ms
            store.learn(series, News(first_ms=first_ms), self._now_ms)
        for one in facts.empty:
            if not one.span.clip(held) and not any(map(one.span.clip, known.empty_spans)):
                store.learn(series, News(empty=one), self._now_ms)
        tried = [one.span for one in known.failed]
        failed = [one for one in facts.failed if not any(map(one.span.clip, tried))]
        if failed:
            store.learn(series, News(failed=failed), self._now_ms)

    def _held(self, series: Series) -> Span:
        """Return the span from the first to the last candle that the cache has of the series, empty for none."""
        entries = self._cache.entries
        chunks = entries.chunks(series)
        first_ms = find_open_ms(entries, series, chunks, 0)
        return Span(first_ms, find_open_ms(entries, series, chunks[::-1], -1) + 1) if first_ms else Span(0, 0)

    def _merge_actions(self, series: Series) -> None:
        ours, known = self._copy.listings.load_actions(series), self._cache.listings.load_actions(series)
        if ours is None:
            return
        newest: Known = ours if known is None or ours.asked_ms > known.asked_ms else known
        for one in (ours, known):
            for settings in one.used if one is not None else ():
                newest = newest.with_use(settings, is_newest=False)
        if newest != known:
            self._cache.listings.save_actions(series, newest)

    def _merge_of_provider(self, key: str) -> None:
        """Keep the newer one of two listings; of how late files are, what is stored."""
        kind, _, name = key.partition("|")
        ours, document = self._copy.listings.load(name), self._copy.documents.load(key)
        if kind == "listing":
            known = self._cache.listings.load(name)
            if ours is not None and (known is None or known[1] > ours[1]):
                self._cache.listings.save(name, ours[0])  # and again, with the time at which it was read
                self._cache.documents.save(key, document)
        elif self._cache.documents.load(key) is None:
            self._cache.documents.save(key, document)


def _fill(series: Series, stored: Entry | None, entry: Entry) -> Merged | None:
    """Return the stored entry with what it lacks of that of the backup, None where that is nothing."""
    if series.kind == "funding" and stored is not None:
        # Nothing is assumed about the time between two records: an entry without holes cannot reach over a gap.
        names = {stored.candles.names, entry.candles.names}
        if names != {FUNDING_COLUMNS} or not stored.covered.touches(entry.covered):
            return None
    return fill_from_copy(stored, entry, series.timeframe)
