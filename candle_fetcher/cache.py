"""Floor 2: chunks of candles over the store: what is stored, what is known to be empty, who is fetching what.

Under a series' key lie its entries (one a chunk), its facts (since when it is listed, spans known to be empty) and its
shelves: for every thousand chunks, until when each may be believed, so that planning years reads a handful of entries.
A shelf is a hint: what an entry says decides. It is marked open before the first chunk goes in, so that a plan after a
crash looks at the entries themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd

from candle_fetcher.concurrency import POLL_S, SingleFlight, Stop, pause
from candle_fetcher.core.actions import Action, Known, is_day
from candle_fetcher.core.call import Limit
from candle_fetcher.core.entry import (
    HEAD_BYTES,
    Entry,
    count_rows,
    is_of_newer_version,
    is_of_older_version,
    pack,
    seal,
    unpack,
    unseal,
)
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.facts import EmptySpan, Facts, Failed, News, Unverified
from candle_fetcher.core.files import USUAL_LAGS, Lags
from candle_fetcher.core.frame import utc_index
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.series import Series, split_key
from candle_fetcher.core.spans import Span, merge
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.providers import Listed, Listing, Provider, all_providers
from candle_fetcher.store import Store
from candle_fetcher.store.locks import Claims

SHELF_CHUNKS = 1_000
CLAIMS = "claims"  # the file of locks by which processes know what the others are at
# Results of ranges that end now, of one series, timeframe and choice of columns.
_NEWEST_FRAMES = 4
_KEPT_REVISIONS = 10_000  # of a series
# How long an entry takes to be stored, about, and how long another process is waited for.
_STORING_S = 0.005
_SUSPENDED_S = 60.0
# Of which file candles are that have no checksum, where only an entry still knows that they have none.
_NAME_LOST = "a file, whose name is lost,"
# The number of a chunk in its key; whoever else writes into the database may write anything there.
_CHUNK = re.compile(r"-?[0-9]{1,18}")
# A shelf's word for a chunk: nothing stored, look at the entry, or believed until that time.
ABSENT, LOOK = 0, 1


class CacheStats(NamedTuple):
    """Entries and bytes by tier, the bounds, and where the disk tier lies."""

    path: str | None
    memory_entries: int
    memory_bytes: int
    memory_max_bytes: int
    disk_entries: int
    disk_bytes: int
    disk_max_bytes: int
    problem: str | None = None


class Verified(NamedTuple):
    """How many entries were read, and the keys of those that are not whole; these count as missing and were dropped.

    `newer` of the entries were written by a newer version of this package: they stay, and cannot be read here.
    """

    entries: int
    damaged: tuple[str, ...]
    newer: int = 0


class Imported(NamedTuple):
    """What came of a file: the series that it was taken for, and its rows.

    `rows` are its candles, of which `added` were not stored; `first` and `last` open times (UTC) among them, None where
    there are none. `differing` candles are stored with other values, which stay, and are noted in `revisions()`.
    `ignored` were left alone: not settled yet, or known to be wrong. `chunks` is how many chunks they lie in.
    `lacking` are columns of the series that the file has not: they are empty in the candles added, until a refresh.
    `verified` says that a checksum stood beside the file, and fits; None where such files have none.
    """

    path: str
    provider: str
    symbol: str
    timeframe: str
    kind: str
    rows: int
    added: int
    differing: int
    ignored: int
    chunks: int
    first: str | None
    last: str | None
    lacking: tuple[str, ...]
    verified: bool | None


class _Held:
    """What is stored of a series: all its keys, the numbers of its chunks, candles and bytes."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.chunks: list[int] = []
        self.rows = 0
        self.bytes = 0


# Whether a series is the one that a symbol, as it was given, names.
Matcher = Callable[[str], Callable[[Series], bool]]
Importer = Callable[["CandleCache", Any, "str | None", "str | None", Any, "str | None"], Imported]


class _Ahead(NamedTuple):
    """Spans of an entry that memory has and the disk did not take, and what the disk had of it then."""

    spans: tuple[Span, ...]
    seen: Entry | None


class CandleCache:
    """The dual cache of a fetcher: memory over disk. For its user: `path`, `stats`, `list`, `clear`, `verify`,
    `revisions`, `import_file`."""

    def __init__(
        self,
        store: Store | None,
        *,
        path: Path | None,
        compress: bool = False,
        clock: Callable[[], float] = time.time,
        importer: Importer | None = None,
        run: Callable[[Callable[[], Any]], Any] = lambda work: work(),
        matcher: Matcher | None = None,
    ) -> None:
        self._store = store
        self._importer = importer
        self._matcher = matcher
        self._run = run  # what users call is done by a thread of the fetcher's, as its own calls are
        self._path = path
        self._compress = compress
        self._clock = clock
        self._flights: SingleFlight[tuple[Series, int], Entry | None] = SingleFlight()
        # Single flights of the question when a series begins; what one reply said, until another one bears it out.
        self.first_candles: SingleFlight[tuple[Series, Span | None], int | None] = SingleFlight()
        self.first_claims: dict[tuple[Series, Span | None], int] = {}
        self._claims = Claims(path / CLAIMS) if path is not None and store is not None else None
        self._facts: dict[Series, Facts] = {}
        self._unsaved: set[Series] = set()  # those whose facts the disk did not take
        self._generations: Counter[Series] = Counter()
        self.epoch = 0  # grows whenever finished frames are forgotten; read without a lock
        self._ahead: dict[str, _Ahead] = {}  # by key
        self._newest: dict[str, dict[str, Span]] = {}  # keys of finished results that ended at their time, by group
        self._listed_names: dict[str, dict[str, str]] = {}  # by id, of the listings that were looked up
        self._lock = threading.RLock()  # over the fields of this object, for moments
        self._writing = threading.RLock()  # of those who write, where the disk does not keep them apart

    # -- for the user -----------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The folder of the disk tier; None without one."""
        return self._path

    @property
    def problem(self) -> str:
        """What does not work on the disk now; "" while all is well."""
        return self._store.problem if self._store is not None else ""

    def stats(self) -> CacheStats:
        """Entries and bytes of both tiers."""
        stats: CacheStats = self._run(self._stats)
        return stats

    def _stats(self) -> CacheStats:
        if self._store is None:
            return CacheStats(None, 0, 0, 0, 0, 0, 0, "use_cache is off")
        memory, disk = self._store.memory.stats(), self._store.disk.stats() if self._store.disk else None
        return CacheStats(
            path=str(self._path) if self._path else None,
            memory_entries=memory.entries,
            memory_bytes=memory.bytes,
            memory_max_bytes=memory.max_bytes,
            disk_entries=disk.entries if disk else 0,
            disk_bytes=disk.bytes if disk else 0,
            disk_max_bytes=disk.max_bytes if disk else 0,
            problem=self._store.problem or None,
        )

    def list(self) -> pd.DataFrame:
        """Every series that has candles or funding rates stored, a row each.

        Columns: provider, symbol, timeframe, kind, settings (text, such as "feed=iex"), origin (the root, where it is
        not the provider's own), chunks, rows, first, last (UTC, open times), bytes (of all that is stored of it).
        """
        frame: pd.DataFrame = self._run(self._list)
        return frame

    def _list(self) -> pd.DataFrame:
        rows = []
        for series, held in sorted(self._contents().items(), key=lambda item: item[0].key):
            if held.chunks:
                first, last = self._ends(series, held.chunks)
                settings = ",".join(f"{name}={value}" for name, value in series.settings)
                known = all_providers().get(series.provider)
                symbol = series.symbol
                if known is not None:
                    symbol = self.listed_name(known, series.origin, symbol)
                names = series.provider, symbol, series.timeframe.name, series.kind, settings, series.origin
                rows.append((*names, len(held.chunks), held.rows, first, last, held.bytes))
        frame = pd.DataFrame(
            rows,
            columns=[
                *("provider", "symbol", "timeframe", "kind", "settings", "origin"),
                *("chunks", "rows", "first", "last", "bytes"),
            ],
        )
        for name in ("first", "last"):
            frame[name] = utc_index(frame[name].to_numpy(np.int64))
        return frame

    def _contents(self) -> dict[Series, _Held]:
        """What is stored of each series, by the beginnings of the entries."""
        found: dict[Series, _Held] = {}
        for key, size, beginning in self._store.beginnings(HEAD_BYTES) if self._store is not None else ():
            split = split_key(key)
            if split is None:
                continue
            series, rest = split
            held = found.setdefault(series, _Held())
            held.keys.append(key)
            held.bytes += size
            if _CHUNK.fullmatch(rest):
                held.chunks.append(int(rest))
                held.rows += count_rows(beginning) or 0
        return found

    def _ends(self, series: Series, chunks: Sequence[int]) -> tuple[int, int]:
        """The open times of the first and the last candle; where no entry has one, what they cover."""
        first_ms, last_ms = 0, 0
        for chunk in sorted(chunks, reverse=True):
            entry = self.read_stored(series, [chunk]).get(chunk, ("", None))[1]
            if entry is not None and entry.candles.count:
                last_ms = int(entry.candles.open_ms[-1])
                break
        for chunk in sorted(chunks):
            entry = self.read_stored(series, [chunk]).get(chunk, ("", None))[1]
            if entry is not None and entry.candles.count:
                first_ms = int(entry.candles.open_ms[0])
                break
        return first_ms, last_ms

    def clear(self, symbol: str | None = None, timeframe: str | None = None) -> int:
        """Forgets what is stored of a series, in both tiers: its candles of every kind, what is known of it, and its
        revisions. Returns how many entries were removed.

        symbol: as in a fetch, such as "BTC/USDT" or "kraken:BTC/USD"; of every symbol and provider unless given.
        timeframe: as it is stored, such as "1m"; every one unless given.

        Without arguments everything is forgotten, what is known of the providers too. Raises InputError for a symbol or
        a timeframe that there cannot be.
        """
        count: int = self._run(lambda: self._clear(symbol, timeframe))
        return count

    def _clear(self, symbol: str | None, timeframe: str | None) -> int:
        if self._store is None:
            return 0
        if symbol is None and timeframe is None:
            stats = self._stats()
            with self._lock:
                self._facts.clear()
                self._unsaved.clear()
                self._ahead.clear()
                self.epoch += 1
            self._store.clear()
            return stats.disk_entries if self._store.disk is not None else stats.memory_entries
        grid = None if timeframe is None else parse_timeframe(timeframe)
        is_named = self._matcher(symbol) if symbol is not None and self._matcher is not None else _any_series
        with self.together():
            contents = self._contents()
            wanted = [one for one in {*contents, *self._facts} if grid in (None, one.timeframe) and is_named(one)]
            keys = [key for series in wanted for key in contents.get(series, _Held()).keys]
            self._store.drop_many(keys)
        for series in wanted:
            with self._lock:
                self._facts.pop(series, None)
                self._unsaved.discard(series)
            self._store.memory.drop_prefix(f"{series.key}|")
            self.drop_frames(series)
        for key in keys:
            self._ahead.pop(key, None)
        return len(keys)

    def verify(self) -> Verified:
        """Reads every entry on disk against its checksum and drops those that are not whole."""
        verified: Verified = self._run(self._verify)
        return verified

    def _verify(self) -> Verified:
        if self._store is None or self._store.disk is None:
            return Verified(0, ())
        disk = self._store.disk
        entries, newer, damaged = 0, 0, []
        for key in list(disk.keys()):
            data = disk.load(key)
            if data is None:  # it has left since, or the disk cannot say now: nothing is known against it
                continue
            entries += 1
            if unseal(key, data) is not None:
                continue
            if is_of_newer_version(key, data):
                newer += 1
            else:
                damaged.append(key)
                self._store.drop(key)
        return Verified(entries, tuple(damaged), newer)

    def revisions(self) -> pd.DataFrame:
        """Every value of a settled candle that a provider changed afterwards, as far as it was asked for again.

        Columns: provider, symbol, timeframe, kind, timestamp, column, old, new, old_read, new_read (UTC).
        """
        revised: pd.DataFrame = self._run(self._revisions)
        return revised

    def _revisions(self) -> pd.DataFrame:
        rows = []
        for key in self._revised():
            provider, _, symbol, timeframe, kind, *_ = [*key.split("|"), *[""] * 5]
            rows += [(provider, unquote(symbol), timeframe, kind, *revision) for revision in self._load_revisions(key)]
        frame = pd.DataFrame(
            rows,
            columns=[
                *("provider", "symbol", "timeframe", "kind"),
                *("timestamp", "column", "old", "new", "old_read", "new_read"),
            ],
        )
        for name in ("timestamp", "old_read", "new_read"):
            frame[name] = utc_index(frame[name].to_numpy(np.int64))
        return frame

    def import_file(
        self,
        path: str | os.PathLike[str],
        symbol: str | None = None,
        timeframe: str | None = None,
        *,
        provider: Any = None,
        kind: str | None = None,
    ) -> Imported:
        """Takes the candles of a file into the cache, where every later fetch of the series finds them.

        path: a CSV that `export` wrote; a file of Binance's archive, the zip or the CSV inside (a CHECKSUM beside the
        zip is held against it); a CSV of Kraken's downloadable OHLCVT history.
        symbol, timeframe, provider, kind: what of it the file's name does not say. The provider is the fetcher's, and
        the kind "candles", where nothing says so. The manifest beside a CSV of `export`, a `.json` of the same name, is
        obeyed: candles of another host are refused, those of other settings go to the series of these settings.

        It is read to its end before anything is stored. What is stored already stays: the file fills in what is
        missing. A file of the archive answers for its whole day or month, another one from its first row to its last. A
        candle that the file lacks in between is asked of the provider when it is wanted; not where the provider has no
        row without trades, or cannot be asked any more.

        Raises InputError where it is no such file, or is contradicted by what is said of it; BadFile where it was cut,
        damaged, or holds what cannot be candles; CacheError where the cache cannot keep it; OSError where it cannot be
        read.
        """
        if self._importer is None or self._store is None:
            raise InputError("there is no cache to import into; use a CandleFetcher with use_cache=True")
        importer = self._importer
        imported: Imported = self._run(lambda: importer(self, path, symbol, timeframe, provider, kind))
        return imported

    def note(self, series: Series, revisions: Sequence[Revision], *, once: bool = False) -> None:
        """Keeps the newest revisions of a series beside those that were noted before; `once` leaves out those whose
        values were."""
        if not revisions or self._store is None:
            return
        key = f"{series.key}|revisions"
        with self.together():
            known = self._load_revisions(key)
            told = {revision[:4] for revision in known} if once else ()
            kept = [*known, *(one for one in revisions if one[:4] not in told)][-_KEPT_REVISIONS:]
            self._save_document(key, kept)

    def _revised(self) -> Sequence[str]:
        if self._store is None or self._store.disk is None:
            return []
        return [key for key in list(self._store.disk.keys()) if key.endswith("|revisions")]

    def _load_revisions(self, key: str) -> Sequence[Revision]:
        try:
            return [
                Revision(_whole(at), _text(column), float(old), float(new), _whole(old_read), _whole(new_read))
                for at, column, old, new, old_read, new_read in self._load_document(key) or ()
            ]
        except (TypeError, ValueError, OverflowError):
            return []

    # -- entries ------------------------------------------------------------------------------------------------------

    def load(self, series: Series, chunks: Sequence[int], *, keep: bool = True) -> dict[int, tuple[str, Entry]]:
        """The stored entries of those chunks, each with the tier that it came from. `keep` puts them into memory."""
        if self._store is None:
            return {}
        prefix = series.key
        keys = {f"{prefix}|{chunk}": chunk for chunk in chunks}
        found = {}
        for key, (tier, data) in self._store.load_many(keys, keep=keep).items():
            if data is None or tier is None:
                continue
            entry = unpack(key, data, trusted=tier == "memory")
            if entry is not None:
                found[keys[key]] = (tier, entry)
            elif is_of_newer_version(key, data):
                self._store.memory.drop(key)
            else:
                self._store.drop(key)
                self._warn_of_damage(key, data)
        self.facts_about(series, [entry for _, entry in found.values()])
        return found

    def _warn_of_damage(self, key: str, data: bytes) -> None:
        """Warn of what is not whole; what an older version wrote is."""
        if self._store is not None and self._store.disk is not None and not is_of_older_version(key, data):
            self._store.disk.warn_of_damage()

    def stored_chunks(self, series: Series) -> Sequence[int]:
        """The numbers of the chunks that have an entry, in order."""
        if self._store is None:
            return []
        prefix = f"{series.key}|"
        names = {key.removeprefix(prefix) for key in self._store.keys(prefix)}
        return sorted(int(name) for name in names if _CHUNK.fullmatch(name))

    def read_stored(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """The entries of chunks as they lie on disk now, where another process may have written them since they were
        put into memory; those that the disk does not have, from memory. Emits no Lookup event."""
        return self._entries_of(series, chunks, self._read_disk(series, chunks))

    def _read_disk(self, series: Series, chunks: Sequence[int]) -> dict[str, bytes]:
        """What the disk has of the chunks, by key."""
        if self._store is None or self._store.disk is None:
            return {}
        return self._store.disk.load_many([f"{series.key}|{chunk}" for chunk in chunks])

    def _entries_of(
        self, series: Series, chunks: Sequence[int], read: Mapping[str, bytes]
    ) -> dict[int, tuple[str, Entry]]:
        """The entries in what was read from the disk, with what is in memory because the disk did not take it."""
        if self._store is None:
            return {}
        found: dict[int, tuple[str, Entry]] = {}
        for chunk in chunks:
            key = f"{series.key}|{chunk}"
            stored = unpack(key, read[key]) if key in read else None
            ahead = self._ahead.get(key)
            held = self._store.memory.load(key) if stored is None or ahead is not None else None
            ours = None if held is None else unpack(key, held, trusted=True)
            if ours is not None:
                spans, seen = ahead or ((), None)
                merged = merge_entries(stored, ours, spans, timeframe=series.timeframe, seen=seen)
                found[chunk] = "memory", merged.entry
            elif stored is not None:
                found[chunk] = "disk", stored
        self.facts_about(series, [entry for _, entry in found.values()])
        return found

    def reload(self, series: Series, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
        """Like `read_stored`, and puts what another process has written since into memory in place of the old copy."""
        read = self._read_disk(series, chunks)
        found = self._entries_of(series, chunks, read)
        for chunk, (tier, entry) in found.items():
            key = f"{series.key}|{chunk}"
            held = self._store.memory.load(key) if self._store is not None and tier == "disk" else None
            if held is None or self._store is None:
                continue
            if held == read[key]:
                found[chunk] = "memory", entry
            else:
                self._store.memory.save(key, read[key], len(read[key]))
                self.drop_frames(series)
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
        """Stores what `change` makes of the entries of the chunks as they are stored now; no other thread or process
        writes in between.

        `keep` puts them into memory, until `until_s`, after which the disk is looked at again; without it memory
        forgets them. Returns the entries, and whether the disk took them. They share the bytes in memory where these
        are their plain columns: they are then held once.
        """
        with self.together():
            read = self._read_disk(series, chunks)
            stored = self._entries_of(series, chunks, read)
            merged = change({chunk: entry for chunk, (_, entry) in stored.items()})
            entries = self._flagged(series, {chunk: one.entry for chunk, one in merged.items()})
            if self._store is None:
                return entries, False
            keys = {chunk: f"{series.key}|{chunk}" for chunk in entries}
            data = {keys[chunk]: pack(keys[chunk], entry, compress=self._compress) for chunk, entry in entries.items()}
            until = {keys[chunk]: one for chunk, one in (until_s or {}).items()}
            newer = {key for key in data if key in read and is_of_newer_version(key, read[key])}
            is_stored = self._put(data, until, newer, keep=keep)
            self._note_ahead(
                {keys[chunk]: one.replaced for chunk, one in merged.items()}, read, is_ahead=keep and not is_stored
            )
        if self._compress or not keep:
            return entries, is_stored
        shared = {chunk: unpack(key, data[key], trusted=True) or entries[chunk] for chunk, key in keys.items()}
        return shared, is_stored

    def _note_ahead(
        self, replaced: Mapping[str, tuple[Span, ...]], read: Mapping[str, bytes], *, is_ahead: bool
    ) -> None:
        """Notes in which spans of each entry memory is ahead of the disk, or that it is not any more."""
        assert self._store is not None
        before = {key: self._ahead.pop(key, _Ahead((), None)).spans for key in replaced}
        if not is_ahead:
            return
        held = set(self._store.memory.keys())
        self._ahead = {key: one for key, one in self._ahead.items() if key in held}
        for key, spans in replaced.items():
            seen = unpack(key, read[key]) if key in read else None
            self._ahead[key] = _Ahead(tuple(merge([*before[key], *spans])), seen)

    def _put(
        self, data: Mapping[str, bytes], until_s: Mapping[str, float | None], newer: Collection[str], *, keep: bool
    ) -> bool:
        """Stores the values; those in the place of which a newer version of this package wrote, in memory alone."""
        assert self._store is not None
        for key in newer:
            if keep:
                self._store.memory.save(key, data[key], len(data[key]), until_s.get(key))
        rest = {key: value for key, value in data.items() if key not in newer}
        return self._store.save_many(rest, until_s, keep=keep) and not newer

    def _flagged(self, series: Series, entries: Mapping[int, Entry]) -> dict[int, Entry]:
        """The entries, each of which says by itself which of its candles have no checksum."""
        facts = self.facts(series)
        return {
            chunk: entry._replace(unverified=facts.unverified_in(entry.covered)) for chunk, entry in entries.items()
        }

    def rewrite(
        self, series: Series, chunks: Sequence[int], change: Callable[[dict[int, Entry]], Mapping[int, Merged]]
    ) -> bool:
        """Like `update`, once no fetch of the chunks is under way, and with nothing of it in memory where there is a
        disk. Returns whether it could be stored."""
        flights: dict[int, Future[Entry | None]] = {}
        try:
            for chunk in chunks:
                flights[chunk] = self._take(series, chunk)
            return self.update(series, chunks, change, keep=self._store is not None and self._store.disk is None)[1]
        finally:
            for chunk, flight in flights.items():
                self.finish_chunk(series, chunk)
                flight.set_exception(CancelledError())  # whoever waits for it looks at what is stored

    def _take(self, series: Series, chunk: int) -> Future[Entry | None]:
        """Start on the chunk and claim it, once no other call is at it. A process that is suspended is not waited for
        in the end."""
        is_mine, flight = self.start_chunk(series, chunk)
        while not is_mine:
            wait([flight], timeout=POLL_S)
            pause(Stop(), _STORING_S)  # what it brought is on its way to the store
            is_mine, flight = self.start_chunk(series, chunk)
        self.await_claim(f"{series.key}|{chunk}", Stop(), _SUSPENDED_S)
        return flight

    def start_chunk(self, series: Series, chunk: int) -> tuple[bool, Future[Entry | None]]:
        """Whether the caller is the one to fill the chunk, and the future of its entry for which other calls wait.

        The caller gives the future its outcome, and ends with `finish_chunk`, whatever happens.
        """
        return self._flights.begin((series, chunk))

    def finish_chunk(self, series: Series, chunk: int) -> None:
        """End the caller's work on the chunk, once its entry can be found in the store or cannot be had."""
        self.unclaim(f"{series.key}|{chunk}")
        self._flights.end((series, chunk))

    def claim(self, key: str) -> bool:
        """Whether nobody else on this cache folder is at work on what the key names; the caller is then, until
        `unclaim`, or until its process ends."""
        return self._claims is None or self._claims.take(key)

    def await_claim(self, key: str, cancel: threading.Event, timeout_s: float) -> bool:
        """Whether the caller has the claim, for which it waits at most `timeout_s`: a suspended process keeps its own.

        Raises CancelledError once `cancel` is set.
        """
        ends_s = time.monotonic() + timeout_s
        while not self.claim(key):
            if time.monotonic() >= ends_s:
                return False
            if pause(cancel, POLL_S):
                raise CancelledError
        return True

    def unclaim(self, key: str) -> None:
        """Ends the caller's claim; nothing where it has none."""
        if self._claims is not None:
            self._claims.free(key)

    # -- frames ready to hand out -----------------------------------------------------------------------------------

    def load_frame(self, key: str) -> Any:
        """What was put away under the key by `save_frame`, or None."""
        return self._store.memory.load(key) if self._store is not None else None

    def save_frame(
        self, series: Series, key: str, value: Any, size_bytes: int, until_s: float | None, generation: int
    ) -> None:
        """Puts a finished result into the memory tier, counted by its bytes; not one of an earlier generation."""
        with self._lock:
            if self._store is not None and generation == self._generations[series]:
                self._store.memory.save(key, value, size_bytes, until_s)

    def replace_frames(self, group: str, key: str, span: Span) -> None:
        """Forgets the results of the group that the one under the key takes the place of: of ranges that end now, those
        that began at the same time or are as long, and all but the newest few."""
        with self._lock:
            held = self._newest.setdefault(group, {})
            held.pop(key, None)
            old = [
                one
                for one, (start_ms, end_ms) in held.items()
                if start_ms == span.start_ms or end_ms - start_ms == span.end_ms - span.start_ms
            ]
            rest = [one for one in held if one not in old]
            old += rest[: max(0, len(rest) + 1 - _NEWEST_FRAMES)]
            for one in old:
                del held[one]
                if self._store is not None:
                    self._store.memory.drop(one)
            held[key] = span

    def generation(self, series: Series) -> int:
        """How often the candles of the series have been asked for again; a result belongs to that which it began in."""
        return self._generations[series]

    def drop_frames(self, series: Series) -> None:
        """Forgets the finished results of the series, because its candles were asked for again."""
        with self._lock:
            self._generations[series] += 1
            self.epoch += 1
        if self._store is not None:
            self._store.memory.drop_prefix(f"frame|{series.key}|")

    # -- facts --------------------------------------------------------------------------------------------------------

    def facts(self, series: Series) -> Facts:
        """What is known of the series beside its candles."""
        known = self._facts.get(series)
        return self.look_up_facts(series) if known is None else known

    def look_up_facts(self, series: Series) -> Facts:
        """The facts as they lie on disk, where another process may have written them since."""
        known = self._facts.get(series)
        if known is not None and (self._store is None or self._store.disk is None or series in self._unsaved):
            return known
        facts = _read_facts(self._load_document(f"{series.key}|facts"))
        with self._lock:
            newest = self._facts.get(series)
            if newest is known:  # else another thread has learned more meanwhile
                newest = self._facts[series] = facts or known or Facts()  # they may be lost, or never learned
            return newest or Facts()

    def facts_about(self, series: Series, entries: Iterable[Entry]) -> Facts:
        """The facts, with those about entries without checksum restored where they are lost: damaged, or evicted."""
        spans = merge(span for entry in entries for span in entry.unverified)
        known = self.facts(series)
        if not spans or not known.lacks_note_of(spans):
            return known
        with self.together():
            lost = self.look_up_facts(series).lacks_note_of(spans)
            unverified = [Unverified(span, _NAME_LOST) for span in lost]
            return self.learn(series, News(unverified=unverified), int(self._clock() * 1000))

    def learn(self, series: Series, news: News, now_ms: int) -> Facts:
        """Add the news to the facts of the series."""
        return self._change_facts(series, lambda facts: facts.learn(news, now_ms))

    def _change_facts(self, series: Series, change: Callable[[Facts], Facts]) -> Facts:
        with self.together():
            old = self.look_up_facts(series)
            facts = change(old)
            if facts != old or series in self._unsaved:
                self._save_facts(series, facts)
        return facts

    def _save_facts(self, series: Series, facts: Facts) -> None:
        """Keeps the facts, in memory alone while the disk is in the way."""
        with self._lock:
            self._facts[series] = facts
        if self._save_document(f"{series.key}|facts", _facts_document(facts)):
            self._unsaved.discard(series)
        else:
            self._unsaved.add(series)

    def contradict(self, series: Series, span: Span) -> None:
        """Forgets that parts of the span are known to be empty: there are candles at both its ends."""
        self._change_facts(series, lambda facts: facts.without_empty(span))

    def forget_claims(self, series: Series) -> None:
        """Forget what one reply said of the first candle: it was borne out or refuted."""
        for key in [key for key in list(self.first_claims) if key[0] == series]:
            self.first_claims.pop(key, None)

    def forget_facts(self, series: Series) -> None:
        """Forgets listing, empty spans and absent files, so that they are asked for again."""
        self.forget_claims(series)
        self._change_facts(series, lambda facts: Facts(failed=facts.failed, unverified=facts.unverified))

    def lags(self, series: Series) -> Lags:
        """How late the files of the series' market are known to be."""
        document = self._load_document(f"lags|{series.provider}|{series.origin or ''}")
        try:
            daily_ms, monthly_ms = (_whole(ms) for ms in document)
        except (TypeError, ValueError):
            return USUAL_LAGS
        return Lags(*(min(max(0, ms), most_ms) for ms, most_ms in zip((daily_ms, monthly_ms), USUAL_LAGS, strict=True)))

    def learn_lags(self, series: Series, lags: Lags) -> None:
        """Remembers how late they are."""
        self._save_document(f"lags|{series.provider}|{series.origin or ''}", lags)

    # -- listings ----------------------------------------------------------------------------

    def load_listing(self, name: str) -> tuple[Listing, float] | None:
        """A stored listing and its age in seconds."""
        document = self._load_document(f"listing|{name}")
        try:
            listing = Listing(
                tuple(
                    Limit(_whole(cost), _whole(interval_s), _text(kind))
                    for cost, interval_s, kind in document["limits"]
                ),
                tuple(
                    Listed(_text(symbol), _text(own), _text(base), _text(quote), _text(status), bool(trading))
                    for symbol, own, base, quote, status, trading in document["symbols"]
                ),
            )
            return listing, self._clock() - float(document["stored_s"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def listed_name(self, provider: Provider, origin: str | None, provider_symbol: str) -> str:
        """Return BASE/QUOTE of the provider's id: as its stored listing splits it, else as the provider guesses."""
        guess, name = provider.unified(provider_symbol), f"{provider.name}|{origin or ''}"
        names = self._listed_names.get(name)
        if names is None:
            stored = self.load_listing(name) if provider.listing is not None else None
            names = {one.provider_symbol: one.symbol for one in stored[0].symbols} if stored is not None else {}
            self._listed_names[name] = names
        listed = names.get(provider_symbol, guess)
        return listed if listed.replace("/", "") == guess.replace("/", "") else guess

    def save_listing(self, name: str, listing: Listing) -> None:
        """Stores what the provider lists, to be kept for a day."""
        self._listed_names.pop(name, None)
        document = {"limits": listing.limits, "symbols": listing.symbols, "stored_s": self._clock()}
        self._save_document(f"listing|{name}", document)

    # -- corporate actions -------------------------------------------------------------------

    def load_actions(self, series: Series) -> Known | None:
        """What was last said of the corporate actions of the symbol, for every timeframe of the series."""
        return _read_known(self._load_document(_actions_key(series)))

    def save_actions(self, series: Series, known: Known) -> None:
        """Stores what was said of them."""
        self._save_document(_actions_key(series), known._asdict())

    def _load_document(self, key: str) -> Any:
        opened = self._open(key) if self._store is not None else None
        if opened is None:
            return None
        try:
            return json.loads(bytes(opened[1]))
        except (ValueError, RecursionError):
            return None

    def _save_document(self, key: str, document: Any) -> bool:
        return self._store is None or self._write(key, seal(key, b"", json.dumps(document).encode(), compress=True))

    # -- shelves ------------------------------------------------------------------------------------------------------

    def believed_until(self, series: Series, chunks: range) -> dict[int, int] | None:
        """Until when each chunk may be believed (ms), ABSENT or LOOK; None without a cache."""
        if self._store is None:
            return None
        # What has left the cache since, for its bound or because it was damaged, is not there whatever its shelf says.
        prefix = f"{series.key}|"
        there = {key.removeprefix(prefix) for key in self._store.keys(prefix)}
        believed: dict[int, int] = {}
        for shelf in _shelves(chunks):
            opened, words = self._load_shelf(series, shelf)
            first = shelf * SHELF_CHUNKS
            for chunk in range(max(chunks.start, first), min(chunks.stop, first + SHELF_CHUNKS)):
                word = int(words[chunk - first]) if str(chunk) in there else ABSENT
                # Who was killed may have stored it without a word.
                believed[chunk] = LOOK if word == ABSENT and (opened or str(chunk) in there) else word
        return believed

    def open_shelves(self, series: Series, chunks: Iterable[int]) -> None:
        """Marks the shelves of the chunks as being filled."""
        if self._store is None:
            return
        shut = [shelf for shelf in _shelves(chunks) if not self._load_shelf(series, shelf)[0]]
        with self._store.transaction() if shut else contextlib.nullcontext():
            for shelf in shut:
                self._save_shelf(series, shelf, True, self._load_shelf(series, shelf)[1])

    def close_shelves(self, series: Series, until: Mapping[int, int]) -> None:
        """Writes until when each of the chunks may be believed, and marks their shelves as up to date."""
        if self._store is None or not until:
            return
        with self._store.transaction():
            for shelf in _shelves(until):
                _, words = self._load_shelf(series, shelf)
                words = words.copy()
                first = shelf * SHELF_CHUNKS
                for chunk, word in until.items():
                    if chunk // SHELF_CHUNKS == shelf:
                        words[chunk - first] = word
                self._save_shelf(series, shelf, False, words)

    def _load_shelf(self, series: Series, shelf: int) -> tuple[bool, np.ndarray[Any, np.dtype[np.int64]]]:
        opened = self._open(f"{series.key}|shelf|{shelf}")
        if opened is None or len(opened[0]) != 1 or len(opened[1]) != SHELF_CHUNKS * 8:
            return False, np.zeros(SHELF_CHUNKS, np.int64)
        return opened[0] == b"\1", np.frombuffer(opened[1], "<i8")

    def _save_shelf(self, series: Series, shelf: int, opened: bool, words: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        key = f"{series.key}|shelf|{shelf}"
        assert self._store is not None
        data = seal(key, b"\1" if opened else b"\0", words.tobytes(), compress=True)
        self._write(key, data)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """No other thread or process on this cache folder writes between what is read and what is written; all of it
        is kept, or nothing where the body raises."""
        if self._store is None or self._store.disk is None:
            with self._writing:
                yield
            return
        # A thread that has the disk's turn to write waits for no lock that is held while another waits for that turn.
        with self._store.transaction() as begun, contextlib.nullcontext() if begun else self._writing:
            yield

    def _open(self, key: str) -> tuple[bytes, memoryview] | None:
        """Head and body of a document, None where there is none that is whole. It lies on disk, where another process
        may have written it since; in memory without a disk."""
        assert self._store is not None
        data = self._store.disk.load(key) if self._store.disk else self._store.memory.load(key)
        if data is None:
            return None
        opened = unseal(key, data)
        if opened is None and not is_of_newer_version(key, data):
            self._warn_of_damage(key, data)
        return opened

    def _write(self, key: str, data: bytes) -> bool:
        """Stores a document, unless a newer version of this package wrote the one that is there."""
        assert self._store is not None
        disk = self._store.disk
        if disk is not None and is_of_newer_version(key, disk.load(key) or b""):
            return False
        return self._store.save(key, data, keep=disk is None)

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Writes what waits to be written and lets go of the files."""
        if self._claims is not None:
            self._claims.close()
        if self._store is not None:
            self._store.close()


def _any_series(series: Series) -> bool:
    return True


def _facts_document(facts: Facts) -> dict[str, Any]:
    """The facts as they are stored: each is a list that begins with the start and the end of its span."""
    return {
        "first_ms": facts.first_ms,
        "quiet": [(*span, *rest) for span, *rest in facts.empty],
        "absent": facts.absent,
        "failed": [(*span, *rest) for span, *rest in facts.failed],
        "unverified": [(*span, *rest) for span, *rest in facts.unverified],
    }


def _read_facts(document: Any) -> Facts | None:
    """The facts of a document, None where it is none."""
    try:
        first_ms = document["first_ms"]
        return Facts(
            None if first_ms is None else _whole(first_ms),
            tuple(EmptySpan(_span(a, b), _text(why), _whole(at)) for a, b, why, at in document["quiet"]),
            tuple((_text(path), _whole(until)) for path, until in document["absent"]),
            tuple(Failed(_span(a, b), _text(error), _whole(at)) for a, b, error, at in document["failed"]),
            tuple(Unverified(_span(a, b), _text(path)) for a, b, path in document["unverified"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _span(start_ms: Any, end_ms: Any) -> Span:
    """The span between two integers. Raises ValueError for anything else."""
    return Span(_whole(start_ms), _whole(end_ms))


def _actions_key(series: Series) -> str:
    return f"{series._replace(timeframe=Timeframe(1, 'd')).key}|actions"


def _read_known(document: Any) -> Known | None:
    """The corporate actions of a document, None where it is none."""
    try:
        known = Known(
            _whole(document["asked_ms"]),
            tuple(Action(_text(day), _text(terms), bool(counts)) for day, terms, counts in document["listed"]),
            _whole(document["changed_ms"]),
            _text(document["error"]),
            tuple(tuple((_text(name), _text(value)) for name, value in one) for one in document["used"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return known if all(is_day(one.day) for one in known.listed) else None


def _whole(value: Any) -> int:
    """The value, if it is an integer that an int64 holds. Raises ValueError for another."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _text(value: Any) -> str:
    """The value, if it is text. Raises ValueError for another."""
    if not isinstance(value, str):
        raise ValueError
    return value


def _shelves(chunks: Iterable[int]) -> list[int]:
    if isinstance(chunks, range):
        return list(range(chunks.start // SHELF_CHUNKS, (chunks.stop - 1) // SHELF_CHUNKS + 1)) if chunks else []
    return sorted({chunk // SHELF_CHUNKS for chunk in chunks})
