"""Floor 2: what is stored of each series, over the tiers of the store.

    CandleCache  ->  EntryStore       the candles of each chunk
                 ->  FactStore        what is known of a series beside its candles
                 ->  FreshnessIndex   until when each chunk answers without being asked for again
                 ->  ListingStore     what providers say of their symbols
                 ->  FrameStore       finished results, in memory alone
                 ->  ChunkLocks       which call fetches which chunk

All of them but the last two keep their documents in a DocumentStore.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from candle_fetcher.cache.contents import Holding, find_holdings, list_revisions, list_series
from candle_fetcher.cache.documents import DocumentStore
from candle_fetcher.cache.entries import EntryStore
from candle_fetcher.cache.facts import FactStore
from candle_fetcher.cache.frames import FrameStore
from candle_fetcher.cache.freshness import FreshnessIndex
from candle_fetcher.cache.listings import ListingStore
from candle_fetcher.cache.locks import ChunkLocks
from candle_fetcher.core.entry import is_of_newer_version, unseal
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.reports import Backup, CacheStats, Compacted, Imported, Restored, Verified
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.store import DiskStats, MemoryTier, Store

F = TypeVar("F", bound=Callable[..., Any])


# Makes a test of series out of a symbol as the user wrote it.
Matcher = Callable[[str], Callable[[Series], bool]]
# Does the work of that name (import, backup, restore) on a cache and the path of a file.
FileWork = Callable[..., Any]


def _user_call(method: F) -> F:
    """Decorate a call of the user: a thread of the fetcher does it, as its own calls, and errors have short
    tracebacks."""

    @functools.wraps(method)
    def called(self: CandleCache, *args: Any, **kwargs: Any) -> Any:
        return self._run(functools.partial(method, self, *args, **kwargs))

    return short_errors(cast(F, called))


class CandleCache:
    """The cache of a fetcher: memory over disk. Its user calls `path`, `stats`, `list`, `clear`, `verify`, `compact`,
    `revisions`, `import_file`, `backup` and `restore`; the fetcher works with its parts. Without a store nothing is
    kept."""

    def __init__(
        self,
        store: Store | None,
        *,
        path: Path | None,
        compress: bool = False,
        clock: Callable[[], float] = time.time,
        with_file: FileWork | None = None,
        run: Callable[[Callable[[], Any]], Any] = lambda work: work(),
        matcher: Matcher | None = None,
    ) -> None:
        self.is_off = store is None
        self.store = store = store or Store(MemoryTier(0))
        self._with_file = with_file
        self._matcher = matcher
        self._run = run
        self._path = path
        self.documents = DocumentStore(store)
        self.locks = ChunkLocks(None if self.is_off else path)
        self.frames = FrameStore(store.memory)
        self.facts = FactStore(store, self.documents, clock)
        self.entries = EntryStore(store, self.documents, self.facts, self.frames, self.locks, compress=compress)
        self.freshness = FreshnessIndex(store, self.documents)
        self.listings = ListingStore(self.documents, clock)

    def __repr__(self) -> str:
        return f"CandleCache({'off' if self.is_off else self._path or 'memory only'})"

    def _repr_html_(self) -> str:
        from candle_fetcher.core.html import fact_table

        return fact_table(repr(self), self.stats()._asdict().items())

    @property
    def path(self) -> Path | None:
        """The folder of the disk tier; None without one."""
        return self._path

    @property
    def problem(self) -> str:
        """What does not work on the disk now; "" while all is well."""
        return self.store.problem

    @_user_call
    def stats(self) -> CacheStats:
        """Return the entries and bytes of both tiers."""
        return self._stats()

    def _stats(self) -> CacheStats:
        disk = DiskStats(0, 0, 0) if self.store.disk is None else self.store.disk.stats()
        problem = "use_cache is off" if self.is_off else self.store.problem or None
        return CacheStats(str(self._path) if self._path else None, *self.store.memory.stats()[:3], *disk, problem)

    @_user_call
    def list(self) -> pd.DataFrame:
        """Return a row for each series that has candles or funding rates stored.

        Columns: provider, symbol, timeframe, kind, settings (text, such as "feed=iex"), origin (the root, where it is
        not the provider's own), chunks, rows, first, last (UTC, open times), bytes (of all that is stored of it).
        """
        return list_series(self.store, self.entries, self.listings)

    @_user_call
    def clear(self, symbol: str | None = None, timeframe: str | None = None) -> int:
        """Remove what is stored of a series from both tiers: its candles of every kind, its facts and its revisions.
        Return how many entries were removed.

        symbol: as in a fetch, such as "BTC/USDT" or "kraken:BTC/USD"; default: every symbol and provider.
        timeframe: as it is stored, such as "1m"; default: every timeframe.

        Without arguments everything is removed, what is known of the providers too. Raises InputError for an invalid
        symbol or timeframe.
        """
        if symbol is None and timeframe is None:
            stats = self._stats()
            self.facts.drop()
            self.entries.drop_unsaved()
            self.frames.drop_all()
            self.store.clear()
            return stats.disk_entries if self.store.disk is not None else stats.memory_entries
        grid = None if timeframe is None else parse_timeframe(timeframe)
        is_named = self._matcher(symbol) if symbol is not None and self._matcher is not None else None
        with self.documents.transaction():
            held = find_holdings(self.store)
            chosen = [
                one
                for one in {*held, *self.facts.known_series()}
                if grid in (None, one.timeframe) and (is_named is None or is_named(one))
            ]
            keys = [key for series in chosen for key in held.get(series, Holding()).keys]
            self.store.drop_many(keys)
        for series in chosen:
            self.facts.drop(series)
            self.store.memory.drop_prefix(f"{series.key}|")
            self.frames.drop(series)
        self.entries.drop_unsaved(keys)
        return len(keys)

    @_user_call
    def verify(self) -> Verified:
        """Check every entry and page on disk against its checksums, and drop the damaged ones."""
        disk = self.store.disk
        entries, newer, damaged = 0, 0, []
        for key in list(disk.keys()) if disk is not None else ():
            data = disk.load(key) if disk is not None else None
            if data is None:  # it has been evicted since, or the disk cannot be read now
                continue
            entries += 1
            if unseal(key, data) is not None and ("|page|" not in key or self.entries.pages.is_whole(key, data)):
                continue
            if is_of_newer_version(key, data):
                newer += 1
            elif self._drop_if_damaged(key, data):
                damaged.append(key)
        if disk is not None:
            disk.sweep()
        return Verified(entries, tuple(damaged), newer)

    def _drop_if_damaged(self, key: str, data: bytes) -> bool:
        """Drop what is damaged under the key, unless another process has replaced the value since it was read. Return
        whether it was dropped."""
        if "|page|" in key:
            return self.entries.pages.drop_if_damaged(key)
        with self.documents.transaction():
            is_same = self.store.disk is not None and self.store.disk.load(key) == data
            if is_same:
                self.store.drop(key)
        return is_same

    @_user_call
    def compact(self) -> Compacted:
        """Move chunks that were stored one by one into pages, which are read several times as fast, and give free space
        of the disk back. Fetches do the first as they go; this does it for what older versions have stored."""
        before = self._stats().disk_bytes
        chunks = sum(self.entries.pack(series, one.chunks) for series, one in find_holdings(self.store).items())
        if self.store.disk is not None:
            self.store.disk.compact()
        return Compacted(chunks, max(0, before - self._stats().disk_bytes))

    @_user_call
    def revisions(self) -> pd.DataFrame:
        """Return every value of a settled candle that a provider changed afterwards, as far as it was asked for again.

        Columns: provider, symbol, timeframe, kind, timestamp, column, old, new, old_read, new_read (UTC).
        """
        return list_revisions(self.store, self.entries)

    @_user_call
    def import_file(
        self,
        path: str | os.PathLike[str],
        symbol: str | None = None,
        timeframe: str | None = None,
        *,
        provider: Any = None,
        kind: str | None = None,
    ) -> Imported:
        """Store the candles of a file, for every later fetch of the series.

        path: a CSV that `export` wrote; a file of Binance's archive, the zip or the CSV inside (a CHECKSUM beside the
        zip is compared with it); a CSV of Kraken's downloadable OHLCVT history.
        symbol, timeframe, provider, kind: what the name of the file does not say. By default the provider is the
        fetcher's and the kind is "candles". The manifest beside a CSV of `export`, a `.json` of the same name, is
        obeyed: candles of another host are refused, those of other settings go to the series of these settings.

        The file is read to its end before anything is stored. Stored candles stay: the file fills in what is missing. A
        file of the archive covers its whole day or month, another file the time from its first row to its last. A
        candle that is missing in between is requested from the provider when it is needed; not where the provider has
        no row without trades, or no longer serves that time.

        Raises InputError where the file is of another form, or contradicts the arguments; BadFile where it is cut or
        damaged, or its values cannot be candles; CacheError where the cache cannot keep it; OSError where it cannot be
        read.
        """
        given = {"symbol": symbol, "timeframe": timeframe, "provider": provider, "kind": kind}
        done: Imported = self._work_on_file("import", path, **given)
        return done

    @_user_call
    def backup(self, path: str | os.PathLike[str]) -> Backup:
        """Write what lies on disk of every series into one file, a tar, which `restore` reads on any machine.

        It is what is stored at one moment, though threads and processes go on writing; the file appears whole or not at
        all. It has candles, funding rates, gaps, revisions, listings and corporate actions; no keys, locks or budgets.

        Raises InputError where the path does not end in .tar or there is no cache on disk, CacheError where the cache
        cannot be read, OSError where the file cannot be written.
        """
        done: Backup = self._work_on_file("backup", path)
        return done

    @_user_call
    def restore(self, path: str | os.PathLike[str]) -> Restored:
        """Add to the cache what a backup has and the cache lacks. What is stored stays, and so do other series.

        The file is checked to its end before anything is stored. A restore that was cut off can be made again.

        Raises BadFile where the file is damaged; InputError where it is no backup, of a newer version, or larger than
        the cache may be; CacheError where the disk does not take it, OSError where the file cannot be read.
        """
        done: Restored = self._work_on_file("restore", path)
        return done

    def _work_on_file(self, work: str, path: object, **given: Any) -> Any:
        if self._with_file is None or self.is_off:
            raise InputError(f"there is no cache for {work}; use a CandleFetcher with use_cache=True")
        return self._with_file(work, self, path, **given)

    def close(self) -> None:
        """Write what waits to be written, and close the files."""
        self.locks.close()
        self.store.close()
