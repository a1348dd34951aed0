"""The public archive of the practice exchange: files of the same market, their CHECKSUMs and the bucket's listing.

exchange.archive.spoil("BTCUSDT-1h-2024-03.zip", damage.wrong_checksum())
exchange.archive.load("data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2020-01-01.zip", path.read_bytes())
"""

from __future__ import annotations

import email.utils
import hashlib
import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe
from candle_fetcher.practice.bucket import XML, BucketEntry, list_keys, no_such_key
from candle_fetcher.practice.damage import Damage, gone, pack
from candle_fetcher.practice.faults import Match, ServedReply, Turn
from candle_fetcher.practice.funding import funding_csv
from candle_fetcher.practice.listings import MarketListing, find_pair, list_all
from candle_fetcher.practice.request import View
from candle_fetcher.practice.series import Generated, Holes, Series, Tape
from candle_fetcher.practice.vision import (
    KINDS,
    MARKETS,
    PERIODS,
    PublicationLags,
    VisionFile,
    begins_ms,
    kinds,
    make_file,
    read_interval,
    read_key,
    timeframes,
    write_interval,
)

_CHECKSUM = ".CHECKSUM"
_KEPT_BYTES = 192 * 2**20
_PIECE_MS = {"1s": DAY_MS // 4}  # a month of seconds is half a GB of text; it is written a part at a time
_ROW_BYTES = 58  # of a zipped row, about
_LOCKS = 16


class Stored(NamedTuple):
    """A file as it should be."""

    data: bytes
    checksum: str
    modified_ms: int


class Spoil(Turn):
    """A damage, and the files that have it: `match` is a part of a key or a function of a key."""

    def __init__(self, match: Match, damage: Damage, since_ms: int, *, times: int | None) -> None:
        super().__init__(times=times, match=match)
        self.damage = damage
        self.since_ms = since_ms


# The key of a file's bytes: its name, the origin of its rows, and the time of its publication.
_State = tuple[str, object, int, Holes, int]


class Built:
    """The files used last, of all exchanges of the process, bounded by bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: OrderedDict[_State, Stored] = OrderedDict()
        self._bytes = 0
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def find(self, state: _State) -> Stored | None:
        """Return the file, None where it has to be built."""
        with self._lock:
            found = self._kept.get(state)
            if found is not None:
                self._kept.move_to_end(state)
            return found

    def keep(self, state: _State, stored: Stored) -> None:
        """Keep the file, and drop those that were not used for longest."""
        with self._lock:
            old = self._kept.pop(state, None)
            self._kept[state] = stored
            self._bytes += len(stored.data) - (len(old.data) if old else 0)
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].data)


_built = Built(_KEPT_BYTES)
_building = [threading.Lock() for _ in range(_LOCKS)]


class PracticeArchive:
    """Binance's public archive over the practice market. Files are made when asked for, and kept for a while."""

    def __init__(self, tape: Tape, clock_ms: Callable[[], int], lags: PublicationLags) -> None:
        self.next_marker = True
        self._tape = tape
        self._clock_ms = clock_ms
        self._lags = lags
        self._lock = threading.Lock()
        self._loaded: dict[str, Stored] = {}
        self._spoils: list[Spoil] = []

    def read(self, key: str) -> bytes | None:
        """Return the zip with this key without its damages; None where there is none yet."""
        stored = self._find(key)
        return stored.data if stored else None

    def load(self, key: str, zip_bytes: bytes, checksum: str | None = None) -> None:
        """Serve these bytes under the key from now on; with this CHECKSUM text, else with the right one."""
        stored = Stored(zip_bytes, _checksum(key, zip_bytes) if checksum is None else checksum, self._clock_ms())
        with self._lock:
            self._loaded[key] = stored

    def spoil(self, match: str | Callable[[str], bool], damage: Damage, *, times: int | None = None) -> Spoil:
        """Damage the files that match, a part of the key of the zip or a function of it, until stopped.

        `times` counts the replies that show it: zips where the zip is changed, else CHECKSUMs. What was published shows
        in the CHECKSUM as long as it shows in the zip.
        """
        found: Match = match if isinstance(match, str) else lambda key, params: match(key)
        spoil = Spoil(found, damage, self._clock_ms(), times=times)
        with self._lock:
            self._spoils.append(spoil)
        return spoil

    def answers(self, path: str, params: Mapping[str, str]) -> bool:
        """Return whether a request is for the archive: a key, or a listing at the root."""
        return path.startswith("/data/") or (path == "/" and "prefix" in params)

    def answer(self, path: str, params: Mapping[str, str]) -> ServedReply:
        """Return a zip, a CHECKSUM, a listing, or the 404 of S3."""
        if path == "/":
            body = list_keys(self._names, self._describe, params, next_marker=self.next_marker)
            return ServedReply(200, (("Content-Type", XML),), body)
        key = path[1:]
        zip_key = key.removesuffix(_CHECKSUM)
        stored = self._find(zip_key)
        data = None if stored is None else self._zip(key, stored) if key == zip_key else self._sum(zip_key, stored)
        if data is None:
            return ServedReply(404, (("Content-Type", XML),), no_such_key(key))
        entry = self._describe(key)
        headers = (
            ("Content-Type", "application/zip" if key == zip_key else "binary/octet-stream"),
            ("Last-Modified", email.utils.formatdate(entry.modified_ms // 1000, usegmt=True)),
            ("ETag", entry.etag),
        )
        return ServedReply(200, headers, data)

    # One file

    def _zip(self, key: str, stored: Stored) -> bytes | None:
        data: bytes | None = stored.data
        for spoil in self._spoils_of(key):
            if data is not None and spoil.damage.zip and spoil.take(key, {}):
                data = spoil.damage.zip(data)
        return data

    def _sum(self, zip_key: str, stored: Stored) -> bytes | None:
        data: bytes | None = stored.data
        text: str | None = stored.checksum
        spoils = self._spoils_of(zip_key)
        for spoil in spoils:
            if data is not None and spoil.damage.zip and spoil.damage.follows and spoil.is_on:
                data = spoil.damage.zip(data)
        if data is None:
            return None
        if data is not stored.data:
            text = _checksum(zip_key, data)
        for spoil in spoils:
            if text is not None and spoil.damage.checksum and spoil.take(zip_key, {}):
                text = spoil.damage.checksum(text)
        return None if text is None else text.encode()

    def _spoils_of(self, zip_key: str) -> list[Spoil]:
        with self._lock:
            return [spoil for spoil in self._spoils if spoil.matches(zip_key, {})]

    def _find(self, key: str) -> Stored | None:
        if key in self._loaded:
            return self._loaded[key]
        file = read_key(key)
        if file is None or not self._exists(file):
            return None
        state = self._state(file)
        stored = _built.find(state)
        if stored is None:
            with _building[hash(key) % _LOCKS]:
                stored = _built.find(state) or self._build(file)
                if stored is not None:
                    _built.keep(state, stored)
        return stored

    def _build(self, file: VisionFile) -> Stored | None:
        """Return the file; None where it has no row."""
        pieces = filter(None, self._pieces(file))
        first = next(pieces, None)
        if first is None:
            return None
        modified_ms = self._published_ms(file)
        data = pack(f"{file.name}.csv", itertools.chain((file.header, first), pieces), modified_ms)
        return Stored(data, _checksum(file.key, data), modified_ms)

    def _pieces(self, file: VisionFile) -> Iterator[bytes]:
        """Yield the data rows, a few at a time."""
        listing = self._listing(file)
        assert listing is not None
        series = self._series(file)
        if series is None:
            view = View(file.provider, self._tape, self._clock_ms(), 0)
            yield funding_csv(view, listing, file.start_ms, file.end_ms)
            return
        hidden = self._tape.hidden(file.provider, listing.symbol)
        step = _PIECE_MS.get(file.timeframe, file.end_ms - file.start_ms)
        for start_ms in range(file.start_ms, file.end_ms, step):
            yield series.csv(start_ms, start_ms + step, hidden, in_microseconds=file.in_microseconds)

    # Which files there are

    def _listing(self, file: VisionFile) -> MarketListing | None:
        """Return the symbol, or the perpetual contract of the pair for index prices; None where the archive has
        none."""
        listing = self._tape.find(file.provider, file.symbol)
        if file.kind == "index":
            listing = find_pair(file.provider, file.symbol) or listing
            return listing if listing and listing.pair == file.symbol else None
        perpetual = listing is not None and listing.contract == "PERPETUAL"
        if not perpetual and (file.kind == "funding" or (file.kind == "premium" and file.provider == "binance-cm")):
            return None
        return listing

    def _series(self, file: VisionFile) -> Series | None:
        """Return the candles of the file; None for funding rates."""
        listing = self._listing(file)
        if listing is None or file.kind == "funding":
            return None
        return self._tape.series(file.provider, listing, file.timeframe, file.kind)

    def _state(self, file: VisionFile) -> _State:
        """Return a key that is equal for equal bytes of the file, in other exchanges too."""
        series, listing = self._series(file), self._listing(file)
        hidden = self._tape.hidden(file.provider, listing.symbol) if listing else ()
        owner: object = series or self
        if isinstance(series, Generated) and series.market is not None:
            owner = series.market
        return file.key, owner, series.version if series else 0, hidden, self._published_ms(file)

    def _life(self, file: VisionFile) -> tuple[int, int]:
        """Return the start and the end of the archive's rows of the file's series."""
        series, listing = self._series(file), self._listing(file)
        if listing is None:
            return 0, 0
        start_ms, end_ms = series.life if series else (listing.listed_ms, listing.ended_ms)
        return max(start_ms, begins_ms(file.provider, file.symbol, is_month=file.is_month)), end_ms

    def _exists(self, file: VisionFile) -> bool:
        start_ms, end_ms = self._life(file)
        if file.start_ms >= end_ms or file.end_ms <= start_ms or self._published_ms(file) > self._clock_ms():
            return False
        series = self._series(file)
        return series is None or series.has_rows(file.start_ms, file.end_ms)

    def _published_ms(self, file: VisionFile) -> int:
        series = self._series(file)
        return self._lags.published_ms(file, series.closed_ms(file.end_ms) if series else file.end_ms)

    # The bucket

    def _names(self, folder: str) -> Iterator[str]:
        """Yield the names in a folder of the bucket, in order, one by one: a listing may stop early."""
        with self._lock:
            loaded = {key[len(folder) :] for key in self._loaded if key.startswith(folder)}
        names = {name.partition("/")[0] + "/" for name in loaded if "/" in name}
        names |= {name + ending for name in loaded if "/" not in name for ending in ("", _CHECKSUM)}
        merged = heapq.merge(self._market_names(folder), sorted(names))
        for name, _ in itertools.groupby(merged):
            if name.endswith("/") or not self._is_gone(folder + name):
                yield name

    def _market_names(self, folder: str) -> Iterable[str]:
        """Return the names that the market has in a folder of the bucket, in order."""
        for root, provider in MARKETS.items():
            if folder.startswith(root):
                return self._names_below(provider, folder[len(root) :].split("/")[:-1])
        below = {root[len(folder) :].partition("/")[0] for root in MARKETS if root.startswith(folder)}
        return sorted(f"{name}/" for name in below)

    def _names_below(self, provider: str, path: Sequence[str]) -> Iterable[str]:
        """Return the names below period, kind, symbol and interval, as far as they are given."""
        period, folder, symbol, interval = (*path, *[""] * 4)[:4]
        kind, is_month = KINDS.get(folder, ""), period == "monthly"
        if not path:
            names: Iterable[str] = PERIODS
        elif period not in PERIODS or (folder and folder not in kinds(provider, period)):
            return []
        elif len(path) == 1:
            names = kinds(provider, period)
        elif len(path) == 2:
            names = self._symbols(provider, kind)
        elif len(path) == 3 and kind != "funding":
            names = map(write_interval, timeframes(provider, kind, is_month=is_month))
        else:
            timeframe = read_interval(interval)
            if timeframe not in timeframes(provider, kind, is_month=is_month) or len(path) > 4:
                return []
            files = self._files(provider, kind, symbol, timeframe, is_month=is_month)
            return (file.name + ending for file in files for ending in (".zip", ".zip" + _CHECKSUM))
        return sorted(f"{name}/" for name in names)

    def _symbols(self, provider: str, kind: str) -> set[str]:
        now_ms = self._clock_ms()
        listings = {*list_all(provider, now_ms), *self._tape.symbols(provider, now_ms)}
        return {listing.pair if kind == "index" else listing.symbol for listing in listings}

    def _files(self, provider: str, kind: str, symbol: str, timeframe: str, *, is_month: bool) -> Iterator[VisionFile]:
        """Yield the files of a series, oldest first."""
        start_ms, end_ms = self._life(make_file(provider, kind, symbol, timeframe, 0, is_month=is_month))
        end_ms = min(end_ms, self._clock_ms())
        while start_ms < end_ms:
            file = make_file(provider, kind, symbol, timeframe, start_ms, is_month=is_month)
            if self._exists(file):
                yield file
            start_ms = file.end_ms

    def _estimate(self, file: VisionFile) -> int:
        """Return an estimate of the bytes of the zip."""
        start_ms, end_ms = self._life(file)
        covered_ms = min(file.end_ms, end_ms) - max(file.start_ms, start_ms)
        return 200 + covered_ms // parse_timeframe(file.timeframe or "8h").nominal_ms * _ROW_BYTES

    def _is_gone(self, key: str) -> bool:
        """Return whether a damage hides the key at present."""
        zip_key = key.removesuffix(_CHECKSUM)
        return any(
            spoil.is_on and (spoil.damage.zip is gone or (key != zip_key and spoil.damage.checksum is gone))
            for spoil in self._spoils_of(zip_key)
        )

    def _describe(self, key: str) -> BucketEntry:
        """Return time, ETag and size; the size of a zip that is made of the market is an estimate."""
        zip_key = key.removesuffix(_CHECKSUM)
        stored = self._loaded.get(zip_key)
        file = None if stored else read_key(zip_key)
        modified_ms = stored.modified_ms if stored else self._published_ms(file) if file else 0
        published = [spoil.since_ms for spoil in self._spoils_of(zip_key) if spoil.damage.follows and spoil.is_on]
        modified_ms = max([modified_ms, *published])
        version = self._state(file)[1] if file else 0
        etag = hashlib.md5(f"{key} {modified_ms} {version}".encode(), usedforsecurity=False).hexdigest()
        if key != zip_key:
            size = len(stored.checksum) if stored else len(_checksum(zip_key, b""))
        else:
            size = len(stored.data) if stored else self._estimate(file) if file else 0
        return BucketEntry(modified_ms, f'"{etag}"', size)


def _checksum(key: str, data: bytes) -> str:
    """Return the text of a CHECKSUM as the archive writes it: two spaces, no line end."""
    return f"{hashlib.sha256(data).hexdigest()}  {key.rpartition('/')[2]}"
