"""What the practice exchange shows of its market: all timeframes, loaded candles, corrections, temporary holes.

Path (market) -> Generated (one timeframe, printed by chunks) -+
                                    Loaded (rows as given)     +-> page(): the rows that one request gets
                                                               +-> csv(): the lines of one archive file
"""

from __future__ import annotations

import bisect
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.practice.listings import (
    MarketListing,
    Stops,
    documented_halts,
    documented_outages,
    find_listing,
    list_symbols,
    premium_of,
)
from candle_fetcher.practice.market import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    STEP_MS,
    Grid,
    Int64s,
    MarketCandles,
    Path,
    find_path,
    gather,
)
from candle_fetcher.practice.text import (
    FIELDS,
    WHOLE,
    Rows,
    Style,
    amend,
    amend_rows,
    csv_of_raw,
    print_csv,
    print_number,
    print_raw,
    print_rows,
    read_candles,
    read_rows,
)

Holes = Sequence[tuple[int, int]]

KINDS = ("candles", "mark", "index", "premium")
_LEVELS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": DAY, "M": DAY}
_CHUNK_SLOTS = {"s": 2048, "m": 2048, "h": 1024, "d": 512, "w": 512, "M": 128}
_KEPT_BYTES = 96 * 2**20
# Mark and index prices follow the last price at a fixed distance, so that their candles aggregate exactly as well.
_FOLLOWS = {"mark": 1.0000137, "index": 0.9999371}


class Slots(NamedTuple):
    """The candle grid of a timeframe; 3d candles are counted from the symbol's listing day (`phase_days`)."""

    timeframe: Timeframe
    phase_days: int | None = None

    def ordinal(self, ms: int) -> int:
        if self.phase_days is not None:
            return (ms // DAY_MS - self.phase_days) // 3
        return self.timeframe.ordinal(ms)

    def ordinals(self, ms: Int64s) -> Int64s:
        if self.phase_days is not None:
            return (ms // DAY_MS - self.phase_days) // 3
        return self.timeframe.ordinals(ms)

    def open_ms(self, ordinal: int) -> int:
        if self.phase_days is not None:
            return (ordinal * 3 + self.phase_days) * DAY_MS
        return self.timeframe.open_ms(ordinal)

    def opens_ms(self, ordinals: Int64s) -> Int64s:
        if self.phase_days is not None:
            return (ordinals * 3 + self.phase_days) * DAY_MS
        return self.timeframe.opens_ms(ordinals)


def slots_of(name: str, listing: MarketListing) -> Slots:
    if name == "3d":
        return Slots(parse_timeframe(name), listing.listed_ms // DAY_MS % 3)
    return Slots(parse_timeframe(name))


# The key of printed rows: path, timeframe, kind and chunk of the market; of corrected rows, the series and its version.
_Name = tuple[int | str, ...]


class Printed:
    """Printed chunks used last, bounded by bytes, shared by all exchanges of the process and their threads."""

    def __init__(self, most_bytes: int = _KEPT_BYTES) -> None:
        self._kept: OrderedDict[_Name, Rows] = OrderedDict()
        self._bytes = 0
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def find(self, name: _Name) -> Rows | None:
        """Return the chunk, None where it has to be printed."""
        with self._lock:
            rows = self._kept.get(name)
            if rows is not None:
                self._kept.move_to_end(name)
            return rows

    def keep(self, name: _Name, rows: Rows) -> None:
        """Keep the chunk, and drop those that were not used for longest."""
        with self._lock:
            self._drop(name)
            self._kept[name] = rows
            self._bytes += len(rows.data)
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def drop(self, name: _Name) -> None:
        """Forget the chunk."""
        with self._lock:
            self._drop(name)

    def _drop(self, name: _Name) -> None:
        old = self._kept.pop(name, None)
        if old is not None:
            self._bytes -= len(old.data)


_printed = Printed()
_numbers = itertools.count()


class Generated:
    """One timeframe of a path as the exchange prints it."""

    def __init__(self, path: Path, timeframe: str, kind: str) -> None:
        listing = path.listing
        self._path = path
        self._kind = kind
        self._slots = slots_of(timeframe, listing)
        self._level = _LEVELS[self._slots.timeframe.unit]
        self._size = _CHUNK_SLOTS[self._slots.timeframe.unit]
        self._market_name = (path.number, timeframe, kind)
        self._number = next(_numbers)
        self._changes: dict[int, dict[str, Any]] = {}
        self._restated: dict[int, int] = {}  # by chunk, how often a candle of it was
        self.version = 0
        self.style = (
            Style(listing.price_decimals, listing.volume_decimals, listing.quote_decimals)
            if kind == "candles"
            else Style(8, None, None)
        )

    @property
    def market(self) -> Path | None:
        """The path that all its rows come from; None once one was restated."""
        return None if self._changes else self._path

    def restate(self, open_ms: int, changes: Mapping[str, Any]) -> None:
        """Give the candle that opens then these values from now on."""
        self._changes[open_ms] = {**self._changes.get(open_ms, {}), **changes}
        self.version += 1
        chunk = self._slots.ordinal(open_ms) // self._size
        old = self._name(chunk) if chunk in self._restated else None
        self._restated[chunk] = self._restated.get(chunk, 0) + 1
        if old is not None:
            _printed.drop(old)

    def ahead(self, start_ms: int, now_ms: int) -> Iterator[Rows]:
        """Yield rows in order: chunks of closed candles from the one that holds the instant, then the open candle."""
        closed_until = self._slots.ordinal(now_ms)
        first = self._slots.ordinal(max(start_ms, self._path.listing.listed_ms)) // self._size
        last = self._last_slot(now_ms) // self._size
        for chunk in range(first, last + 1):
            yield self._cut(self._chunk(chunk), closed_until)
        yield self._forming(now_ms)

    def back(self, end_ms: int, now_ms: int) -> Iterator[Rows]:
        """Yield the rows from the end: the open candle, then chunks downwards from the one that holds the instant."""
        closed_until = self._slots.ordinal(now_ms)
        first = self._slots.ordinal(self._path.listing.listed_ms) // self._size
        last = min(self._slots.ordinal(end_ms), self._last_slot(now_ms)) // self._size
        if end_ms >= self._slots.open_ms(closed_until):
            yield self._forming(now_ms)
        for chunk in range(last, first - 1, -1):
            yield self._cut(self._chunk(chunk), closed_until)

    def truth(self, start_ms: int, end_ms: int, now_ms: int) -> dict[str, npt.NDArray[Any]]:
        """Return columns of the candles that open in [start_ms, end_ms), the open one included."""
        live_ms = self._slots.open_ms(self._slots.ordinal(now_ms))
        closed = self._candles(start_ms, min(end_ms, live_ms))
        columns = read_candles(closed, self.style)
        if start_ms <= live_ms < end_ms:
            live = read_candles(self._live(now_ms), self.style)
            columns = {field: np.concatenate((columns[field], live[field])) for field in FIELDS}
        for open_ms, changes in list(self._changes.items()):
            at = int(np.searchsorted(columns["open_time"], open_ms))
            if at < len(columns["open_time"]) and columns["open_time"][at] == open_ms:
                for field, value in changes.items():
                    decimals = self.style.decimals(field) or 0
                    columns[field][at] = value if field in WHOLE else float(print_number(value, decimals))
        return columns

    def minutes(self, hours: Int64s) -> dict[str, npt.NDArray[Any]]:
        """Return columns of the minutes of these hours alone, by their numbers, in order; they are closed, and not
        restated."""
        opens, grid = self._path.children(MINUTE, hours)
        opens, _, candles = gather(grid, opens, opens)
        closes = self._path.hours.close_times(opens, opens + STEP_MS[MINUTE])
        return read_candles(self._as_printed(candles._replace(close_time=closes)), self.style)

    @property
    def life(self) -> tuple[int, int]:
        """From the open of the first candle to the end of trading."""
        listing = self._path.listing
        return self._slots.open_ms(self._slots.ordinal(listing.listed_ms)), listing.ended_ms

    def has_rows(self, start_ms: int, end_ms: int) -> bool:
        """Return whether any candle opens in [start_ms, end_ms)."""
        first, last = (self._slots.open_ms(self._first_slot(ms)) for ms in (start_ms, end_ms))
        return first < last and bool(self._path.hours.existing_ms(np.array([first, last], np.int64))[0] > 0)

    def closed_ms(self, end_ms: int) -> int:
        """Return the close time of the last candle that opens before the instant."""
        return self._slots.open_ms(self._first_slot(end_ms))

    def csv(self, start_ms: int, end_ms: int, hidden: Holes = (), *, in_microseconds: bool) -> bytes:
        """Return CSV lines of the closed candles that open in [start_ms, end_ms), without those that open in the
        holes."""
        candles = self._candles(start_ms, end_ms)
        for first, last in hidden:
            seen = (candles.open_time < first) | (candles.open_time >= last)
            candles = MarketCandles(*(column[seen] for column in candles))
        if not any(start_ms <= open_ms < end_ms for open_ms in list(self._changes)):
            return print_csv(candles, self.style, in_microseconds=in_microseconds)
        rows = json.loads(b"[" + self._amended(print_rows(candles, self.style)).data[:-1] + b"]")
        return csv_of_raw(rows, in_microseconds=in_microseconds)

    def candles_between(self, start_ms: int, end_ms: int) -> MarketCandles:
        """Return one candle of all trades in [start_ms, end_ms), empty where nothing was; as printed, times not
        set."""
        parts = self._cover(DAY, start_ms, end_ms) or [self._path.rows(SECOND, end_ms, end_ms)[1]]
        whole = Grid(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        none = np.zeros(len(whole.exists), np.int64)
        return self._as_printed(gather(whole, none, none)[2])

    def _cover(self, level: int, start_ms: int, end_ms: int) -> list[Grid]:
        """Return the span in as few rows as possible: whole slots of this level, finer ones before and after them."""
        step = STEP_MS[level]
        first, last = -(-start_ms // step) * step, end_ms // step * step
        if first >= last:
            return self._cover(level + 1, start_ms, end_ms) if level < SECOND else []
        inner = [self._path.rows(level, first, last)[1]]
        if level == SECOND:
            return inner
        return [*self._cover(level + 1, start_ms, first), *inner, *self._cover(level + 1, last, end_ms)]

    def _first_slot(self, ms: int) -> int:
        """Return the first slot that opens at or after the instant."""
        slot = self._slots.ordinal(ms)
        return slot if self._slots.open_ms(slot) >= ms else slot + 1

    def _last_slot(self, now_ms: int) -> int:
        return self._slots.ordinal(min(now_ms, self._path.listing.ended_ms - 1))

    def _cut(self, rows: Rows, closed_until: int) -> Rows:
        """Return the rows of slots before the one that is still open."""
        until_ms = self._slots.open_ms(closed_until)
        if not len(rows.opens) or rows.opens[-1] < until_ms:
            return rows
        count = int(np.searchsorted(rows.opens, until_ms))
        return Rows(rows.opens[:count], rows.data, rows.offsets[: count + 1])

    def _name(self, chunk: int) -> _Name:
        """Return the name under which the chunk is kept as it is now: rows printed during a correction are not found
        after it, and no other exchange finds corrected rows."""
        restated = self._restated.get(chunk, 0)
        return (self._number, chunk, restated) if restated else (*self._market_name, chunk)

    def _chunk(self, chunk: int) -> Rows:
        name, as_made = self._name(chunk), (*self._market_name, chunk)
        rows = _printed.find(name)
        if rows is None:
            rows = _printed.find(as_made)
            if rows is None:
                first = chunk * self._size
                candles = self._candles(self._slots.open_ms(first), self._slots.open_ms(first + self._size))
                rows = print_rows(candles, self.style)
                _printed.keep(as_made, rows)
            if name != as_made:
                rows = self._amended(rows)
                _printed.keep(name, rows)
        return rows

    def _amended(self, rows: Rows) -> Rows:
        changes = list(self._changes.items())
        changes = [one for one in changes if len(rows.opens) and rows.opens[0] <= one[0] <= rows.opens[-1]]
        return amend_rows(rows, dict(changes)) if changes else rows

    def _candles(self, start_ms: int, end_ms: int) -> MarketCandles:
        """Return the whole candles that open in [start_ms, end_ms), as printed."""
        slots = self._slots
        first = self._first_slot(start_ms)
        last = slots.ordinal(end_ms - 1) + 1 if end_ms > start_ms else first
        number, grid = self._path.rows(self._level, slots.open_ms(first), slots.open_ms(max(last, first)))
        opens = np.arange(number, number + len(grid.exists), dtype=np.int64) * STEP_MS[self._level]
        found, _, candles = gather(grid, opens, slots.ordinals(opens))
        opens, ends = slots.opens_ms(found), slots.opens_ms(found + 1)
        return self._as_printed(candles._replace(open_time=opens, close_time=self._path.hours.close_times(opens, ends)))

    def _live(self, now_ms: int) -> MarketCandles:
        """Return the candle that is open at the instant, made of the seconds that have begun; none where there were
        none."""
        slot = self._slots.ordinal(now_ms)
        open_ms, end_ms = self._slots.open_ms(slot), self._slots.open_ms(slot + 1)
        candles = self.candles_between(open_ms, now_ms // 1000 * 1000 + 1000)
        if not len(candles.open_time):
            return candles
        opens, ends = np.array([open_ms], np.int64), np.array([end_ms], np.int64)
        closes = self._path.hours.close_times(opens, ends)
        return candles._replace(open_time=opens, close_time=np.where(closes <= now_ms, closes, ends - 1))

    def _forming(self, now_ms: int) -> Rows:
        return self._amended(print_rows(self._live(now_ms), self.style))

    def _as_printed(self, candles: MarketCandles) -> MarketCandles:
        """Return ticks and steps as units of the last printed decimal."""
        listing = self._path.listing
        prices = [price * listing.tick for price in (candles.open, candles.high, candles.low, candles.close)]
        if self._kind in _FOLLOWS:
            scale = 10.0 ** (8 - listing.price_decimals) * _FOLLOWS[self._kind]
            prices = [np.rint(price * scale).astype(np.int64) for price in prices]
        open_, high, low, close = (price - listing.offset for price in prices)
        return candles._replace(
            open=open_,
            high=high,
            low=low,
            close=close,
            volume=candles.volume * listing.step,
            taker_buy_volume=candles.taker_buy_volume * listing.step,
        )


class Loaded:
    """Real candles, served as they came."""

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        self._raw = sorted((list(row) for row in rows), key=lambda row: int(row[0]))
        self._rows = print_raw(self._raw)
        self.version = 0

    def restate(self, open_ms: int, changes: Mapping[str, Any]) -> None:
        """Give the candle that opens then these values from now on."""
        at = self._find(open_ms)
        if at < len(self._raw) and self._raw[at][0] == open_ms:
            self._raw[at] = amend(self._raw[at], dict(changes))
            self._rows = print_raw(self._raw)
        self.version += 1  # last: a file that is made meanwhile is not found under this version

    def ahead(self, start_ms: int, now_ms: int) -> Iterator[Rows]:
        """Return all rows; the caller selects."""
        yield self._rows

    def back(self, end_ms: int, now_ms: int) -> Iterator[Rows]:
        """Return all rows; the caller selects."""
        yield self._rows

    def truth(self, start_ms: int, end_ms: int, now_ms: int) -> dict[str, npt.NDArray[Any]]:
        """Return columns of the candles that open in [start_ms, end_ms) and have opened by now."""
        return read_rows([row for row in self._between(start_ms, end_ms) if int(row[0]) <= now_ms])

    @property
    def life(self) -> tuple[int, int]:
        """From the open of the first row to the instant after that of the last; both 0 where there are none."""
        return (int(self._raw[0][0]), int(self._raw[-1][0]) + 1) if self._raw else (0, 0)

    def has_rows(self, start_ms: int, end_ms: int) -> bool:
        """Return whether any row opens in [start_ms, end_ms)."""
        return self._find(start_ms) < self._find(end_ms)

    def closed_ms(self, end_ms: int) -> int:
        """Return the own close time of the last candle that opens before the instant."""
        at = self._find(end_ms)
        return max(end_ms, int(self._raw[at - 1][6]) + 1) if at else end_ms

    def csv(self, start_ms: int, end_ms: int, hidden: Holes = (), *, in_microseconds: bool) -> bytes:
        """Return CSV lines of the rows that open in [start_ms, end_ms), without those that open in the holes."""
        rows = [
            row
            for row in self._between(start_ms, end_ms)
            if not any(first <= int(row[0]) < last for first, last in hidden)
        ]
        return csv_of_raw(rows, in_microseconds=in_microseconds)

    def _between(self, start_ms: int, end_ms: int) -> list[list[Any]]:
        return self._raw[self._find(start_ms) : self._find(end_ms)]

    def _find(self, ms: int) -> int:
        """Return the index of the first row that opens at or after the instant."""
        return bisect.bisect_left(self._raw, ms, key=lambda row: int(row[0]))


Series = Generated | Loaded


def page(
    series: Series,
    start_ms: int,
    end_ms: int,
    limit: int,
    now_ms: int,
    *,
    newest: bool,
    hidden: Holes = (),
) -> bytes:
    """Return a JSON list of at most `limit` rows that open in [start_ms, end_ms], both inclusive: the oldest or the
    newest."""
    end_ms = min(end_ms, now_ms)
    parts: list[bytes] = []
    left = limit if start_ms <= end_ms else 0
    chunks = series.back(end_ms, now_ms) if newest else series.ahead(start_ms, now_ms)
    while left > 0:
        rows = next(chunks, None)
        if rows is None:
            break
        opens = rows.opens
        first, last = int(opens.searchsorted(start_ms)), int(opens.searchsorted(end_ms, "right"))
        past_end = len(opens) > 0 and (opens[0] < start_ms if newest else opens[-1] > end_ms)
        if not hidden:
            first, last = (max(first, last - left), last) if newest else (first, min(last, first + left))
            if last > first:
                parts.append(rows.text(first, last))
                left -= last - first
        elif last > first:
            seen = [at for at in range(first, last) if not any(a <= opens[at] < b for a, b in hidden)]
            seen = seen[-left:] if newest else seen[:left]
            parts.append(b"".join(rows.text(at, at + 1) for at in seen))
            left -= len(seen)
        if past_end:
            break
    if newest:
        parts.reverse()
    body = b"".join(parts)
    return b"[" + body[:-1] + b"]"


class Tape:
    """All series of the exchange, by provider, symbol, timeframe and kind."""

    def __init__(self, seed: int, outages: Stops | None = None) -> None:
        self._seed = seed
        self._outages = outages
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, str, str], Series] = {}
        self._loaded_symbols: dict[tuple[str, str], MarketListing] = {}
        self._hidden: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}

    def find(self, provider: str, symbol: str) -> MarketListing | None:
        """Return the listing of a symbol, loaded ones included."""
        return find_listing(provider, symbol) or self._loaded_symbols.get((provider, symbol))

    def symbols(self, provider: str, now_ms: int) -> list[MarketListing]:
        """Return the symbols of exchangeInfo at the instant."""
        loaded = [listing for (of, _), listing in self._loaded_symbols.items() if of == provider]
        return [*list_symbols(provider, now_ms), *loaded]

    def series(self, provider: str, listing: MarketListing, timeframe: str, kind: str) -> Series:
        """Return the series, made at the first request."""
        name = (provider, listing.symbol, timeframe, kind)
        with self._lock:
            if name not in self._series:
                if (provider, listing.symbol) in self._loaded_symbols:
                    return Loaded([])
                self._series[name] = self._generate(provider, listing, timeframe, kind)
            return self._series[name]

    def _generate(self, provider: str, listing: MarketListing, timeframe: str, kind: str) -> Generated:
        if kind == "premium":
            listing = premium_of(listing)
        stops = documented_outages(provider) if self._outages is None else self._outages
        outages = tuple((stop, resume) for stop, resume in stops) if provider == "binance" else ()
        path = find_path(self._seed, provider, listing, outages, tuple(documented_halts(provider)))
        return Generated(path, timeframe, kind)

    def generated(
        self, provider: str, listing: MarketListing, timeframe: str = "1m", kind: str = "candles"
    ) -> Generated:
        """Return the market's own series, without loaded rows."""
        found = self.series(provider, listing, timeframe, kind)
        return found if isinstance(found, Generated) else self._generate(provider, listing, timeframe, kind)

    def load(self, provider: str, symbol: str, timeframe: str, rows: Sequence[Sequence[Any]], kind: str) -> None:
        """Replace the rows of the market, for one timeframe and kind."""
        loaded = Loaded(rows)
        with self._lock:
            self._series[provider, symbol, timeframe, kind] = loaded
            if find_listing(provider, symbol) is None:
                self._loaded_symbols[provider, symbol] = _listing_of(symbol, rows)

    def hide(self, provider: str, symbol: str, span: tuple[int, int]) -> None:
        """Hide the rows of the symbol that open in the span."""
        with self._lock:
            self._hidden[provider, symbol] = (*self.hidden(provider, symbol), (span[0], span[1]))

    def unhide(self, provider: str, symbol: str, span: tuple[int, int] | None) -> None:
        """Serve the hidden rows of the span again; without a span, all of the symbol."""
        with self._lock:
            left = tuple(hole for hole in self.hidden(provider, symbol) if span is not None and hole != tuple(span))
            self._hidden[provider, symbol] = left

    def hidden(self, provider: str, symbol: str) -> tuple[tuple[int, int], ...]:
        """Return the holes of the symbol."""
        return self._hidden.get((provider, symbol), ())


def _listing_of(symbol: str, rows: Sequence[Sequence[Any]]) -> MarketListing:
    """Return a listing for a symbol that only has loaded candles."""
    pair = symbol.partition("_")[0]
    quote = next(
        (q for q in ("USDT", "USDC", "FDUSD", "BUSD", "USD", "BTC", "ETH", "BNB") if pair.endswith(q) and pair != q),
        "USDT",
    )
    first = min((int(row[0]) for row in rows), default=0)
    return MarketListing(
        symbol, pair.removesuffix(quote), quote, first, ((0, 1.0),), symbol, 1, 1.0, pair=pair, contract="PERPETUAL"
    )  # fmt: skip
