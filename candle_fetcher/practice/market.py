"""A deterministic market: the candles of a symbol are a pure function of a seed and of time.

Days are drawn first; a day is then refined into hours, hours into minutes, minutes into seconds. A refinement keeps
open, high, low, close and every sum to the last unit, so that coarse candles are the exact aggregates of fine ones,
and nothing has to be generated but what is looked at. All amounts are integers: prices count ticks, volumes count
steps, quote amounts count units of the last printed decimal.

    noise(path, level, number) -> day block -> refine -> hour block -> refine -> minute block -> refine -> second block
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from candle_fetcher.practice.listings import FOREVER_MS, Curve, MarketListing, Stops

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Name = TypeVar("Name")
Value = TypeVar("Value")

DAY, HOUR, MINUTE, SECOND = 0, 1, 2, 3
STEP_MS = (DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS)
_CHILDREN = (1, 24, 60, 60)
_BLOCK_PARENTS = 64
_BLOCK_DAYS = 512
_KEPT_BLOCKS = 96


class MarketCandles(NamedTuple):
    """Candles in order, one int64 array per column: ms, ticks, steps and quote units."""

    open_time: Int64s
    open: Int64s
    high: Int64s
    low: Int64s
    close: Int64s
    volume: Int64s
    close_time: Int64s
    quote_volume: Int64s
    trades: Int64s
    taker_buy_volume: Int64s
    taker_buy_quote_volume: Int64s


class Grid(NamedTuple):
    """Every slot of a stretch of one level, also those in which no trading was possible (`exists` is False there)."""

    exists: Bools
    previous: Int64s
    open: Int64s
    high: Int64s
    low: Int64s
    close: Int64s
    trades: Int64s
    volume: Int64s
    quote: Int64s
    taker: Int64s
    taker_quote: Int64s

    def cut(self, first: int, last: int) -> Grid:
        """Return the slots [first, last) as views."""
        exists, *columns = self
        return Grid(exists[first:last], *(column[first:last] for column in columns))

    def take(self, numbers: Int64s) -> Grid:
        """Return the slots with these numbers, counted from 0, as copies."""
        exists, *columns = self
        return Grid(exists[numbers], *(column[numbers] for column in columns))


class Draws(NamedTuple):
    """Random 16-bit numbers, four for each child: those that prices are made of, and those that amounts are."""

    price: npt.NDArray[np.uint16]
    amount: npt.NDArray[np.uint16]


class Hours:
    """When a symbol trades: from its listing to its end, without outages (no candles) and halts (flat candles)."""

    def __init__(self, listing: MarketListing, outages: Stops, halts: Stops) -> None:
        self._stops = np.array([stop for stop, _ in outages], np.int64)
        self._resumes = np.array([resume for _, resume in outages], np.int64)
        self._existing = self._clock(listing, outages)
        self._trading = self._clock(listing, [*outages, *halts]) if halts else self._existing

    @staticmethod
    def _clock(listing: MarketListing, stops: Stops) -> tuple[Floats, Floats]:
        """Return the corners of a clock that runs during trading: instants and the time it shows, both in ms."""
        at, shown = [float(listing.listed_ms)], [0.0]
        for stop, resume in sorted(stops):
            start, end = max(stop, listing.listed_ms), min(resume, listing.ended_ms)
            if start < end:
                shown += [shown[-1] + start - at[-1]] * 2
                at += [start, end]
        shown.append(shown[-1] + listing.ended_ms - at[-1])
        at.append(listing.ended_ms)
        return np.array(at), np.array(shown)

    def existing_ms(self, edges: Int64s) -> Floats:
        """Return how many ms of each stretch between two edges of a row lie outside outages, within the symbol's
        life."""
        return np.diff(np.interp(edges, *self._existing))

    def trading_ms(self, edges: Int64s) -> Floats:
        """Return `existing_ms` less the halts."""
        return np.diff(np.interp(edges, *self._trading))

    def close_times(self, opens: Int64s, ends: Int64s) -> Int64s:
        """Return the last ms of each candle: where trading stopped and did not go on before its end, the last ms
        traded."""
        if not len(self._stops):
            return ends - 1
        last = np.searchsorted(self._stops, ends, "left") - 1
        stop, resume = self._stops[last], self._resumes[last]
        return np.where((last >= 0) & (stop > opens) & (resume >= ends), stop, ends) - 1


class Path:
    """The candles of one listing at the four levels. Blocks of slots are made when asked for and kept for a while."""

    def __init__(self, seed: int, provider: str, listing: MarketListing, hours: Hours) -> None:
        self.listing = listing
        self.hours = hours
        self.number = next(_numbers)
        self._key = _key_of(f"{seed} {provider} {listing.path}")
        # An asset has one price on all markets of all providers; amounts are each market's own, and so is the premium.
        asset = listing.path if listing.offset else listing.base
        self._price_key = _key_of(f"{seed} {asset}/{listing.quote}" if listing.against else f"{seed} {asset}")
        self._assets = [(_key_of(f"{seed} {asset}"), 1.0, listing.curve)]
        if listing.against:
            self._assets.append((_key_of(f"{seed} {listing.quote}"), -1.0, listing.against))

    def rows(self, level: int, start_ms: int, end_ms: int) -> tuple[int, Grid]:
        """Return the number of the first slot, and the slots that open in [start_ms, end_ms) and in the symbol's
        life."""
        step = STEP_MS[level]
        first = max(start_ms, self.listing.listed_ms // step * step)
        last = min(end_ms, self.listing.ended_ms, FOREVER_MS)
        number, stop = -(-first // step), -(-last // step)
        size = _BLOCK_DAYS if level == DAY else _BLOCK_PARENTS * _CHILDREN[level]
        parts = []
        for index in range(number // size, -(-stop // size) if stop > number else number // size):
            block = self._block(level, index)
            parts.append(block.cut(max(number - index * size, 0), min(stop - index * size, size)))
        if len(parts) == 1:
            return number, parts[0]
        if not parts:
            return number, self._block(DAY, self.listing.listed_ms // DAY_MS // _BLOCK_DAYS).cut(0, 0)
        return number, Grid(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def children(self, level: int, parents: Int64s) -> tuple[Int64s, Grid]:
        """Return open times and slots of these parents: numbers of the level above, in order, at least one."""
        step = STEP_MS[level - 1]
        number, rows = self.rows(level - 1, int(parents[0]) * step, (int(parents[-1]) + 1) * step)
        parents = parents[(parents >= number) & (parents < number + len(rows.exists))]
        numbers = parents[:, None] * _CHILDREN[level] + np.arange(_CHILDREN[level])
        return numbers.ravel() * STEP_MS[level], self._refine(level, parents, rows.take(parents - number))

    def _block(self, level: int, index: int) -> Grid:
        name = (self.number, level, index)
        block = _blocks.find(name)
        if block is None:
            block = self._draw_days(index) if level == DAY else self._refine_block(level, index)
            _blocks.keep(name, block)
        return block

    def _refine_block(self, level: int, index: int) -> Grid:
        """Return the children of `_BLOCK_PARENTS` slots of the level above."""
        parent_first = index * _BLOCK_PARENTS
        per_parent_block = _BLOCK_DAYS if level == HOUR else _BLOCK_PARENTS * _CHILDREN[level - 1]
        parents = []
        at = parent_first
        while at < parent_first + _BLOCK_PARENTS:
            block, inside = divmod(at, per_parent_block)
            until = min(parent_first + _BLOCK_PARENTS - at + inside, per_parent_block)
            parents.append(self._block(level - 1, block).cut(inside, until))
            at += until - inside
        whole = parents[0] if len(parents) == 1 else Grid(*(np.concatenate(c) for c in zip(*parents, strict=True)))
        return self._refine(level, np.arange(parent_first, parent_first + _BLOCK_PARENTS, dtype=np.int64), whole)

    def _refine(self, level: int, parents: Int64s, rows: Grid) -> Grid:
        """Return the children of the slots with these numbers, which are those rows of the level above."""
        edges = parents[:, None] * _CHILDREN[level] + np.arange(_CHILDREN[level] + 1)
        numbers, edges = edges[:, :-1].ravel(), edges * STEP_MS[level]
        exists = self.hours.existing_ms(edges).ravel() > 0
        weights = self.hours.trading_ms(edges) / STEP_MS[level]
        keys = self._price_key, self._key
        draws = Draws(*(_noise(key, level, numbers).reshape(*weights.shape, 4) for key in keys))
        return _refine(rows, exists, weights, draws, self.listing)

    def _draw_days(self, index: int) -> Grid:
        """Return days: a smooth random walk around the listing's price curve."""
        listing = self.listing
        numbers = np.arange(index * _BLOCK_DAYS, (index + 1) * _BLOCK_DAYS + 1, dtype=np.int64)
        price_unit = 10.0**-listing.price_decimals * listing.tick
        borders = np.maximum(np.rint(np.exp(self._log_price(numbers)) / price_unit), 2).astype(np.int64)
        opens, closes = borders[:-1], borders[1:]
        draws = _noise(self._key, DAY, numbers[:-1]) / 65536.0
        reach = _noise(self._price_key, DAY, numbers[:-1]) / 65536.0
        edges = numbers * DAY_MS
        exists = self.hours.existing_ms(edges) > 0
        open_part = self.hours.trading_ms(edges) / DAY_MS
        traded = open_part > 0
        swing = 0.03 * listing.swing * np.where(traded, 1.0, 0.0)
        highs = np.maximum(opens, closes) + np.rint(opens * swing * reach[:, 0]).astype(np.int64)
        lows = np.minimum(opens, closes) - np.rint(opens * swing * 0.8 * reach[:, 1]).astype(np.int64)
        lows = np.maximum(lows, 1)
        trades = np.rint(listing.trades * (0.5 + draws[:, 2]) * open_part).astype(np.int64)
        trades = np.where(traded, np.maximum(trades, 1), 0)
        per_unit = 10.0**listing.volume_decimals / listing.step
        volume = np.rint(listing.volume * per_unit * (0.5 + 0.5 * draws[:, 2] + 0.5 * draws[:, 3]) * open_part).astype(
            np.int64
        )
        volume = np.where(traded, np.maximum(volume, trades), 0)
        middle = (opens + highs + lows + closes) / 4.0 * price_unit
        worth = (volume / per_unit) * (middle if listing.size is None else listing.size / middle)
        quote = np.rint(worth * 10.0**listing.quote_decimals).astype(np.int64)
        ratio = 0.4 + 0.2 * draws[:, 0]
        taker = np.rint(volume * ratio).astype(np.int64)
        taker_quote = np.minimum(np.rint(quote * (taker / np.maximum(volume, 1))).astype(np.int64), quote)
        return Grid(exists, opens, opens, highs, lows, closes, trades, volume, quote, taker, taker_quote)

    def _log_price(self, days: Int64s) -> Floats:
        """Return the logarithm of the price at the start of each day: of the base asset, less that of the quote
        asset."""
        total: Floats = np.zeros(len(days))
        for key, sign, curve in self._assets:
            total += sign * _log_worth(key, curve, self.listing.swing, days)
        return total


def _key_of(name: str) -> int:
    """Return the key of the noise of that name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _log_worth(key: int, curve: Curve, swing: float, days: Int64s) -> Floats:
    """Return the logarithm of an asset's worth at the start of each day: the curve, and noise of four lengths between
    its knots."""
    at = np.array([ms for ms, _ in curve], np.float64) / DAY_MS
    level = np.log([price for _, price in curve])
    if len(curve) > 1:
        level = level - _wander(key, swing, np.floor(at).astype(np.int64))
    worth: Floats = np.interp(days, at, level) + _wander(key, swing, days)
    return worth


def _wander(key: int, swing: float, days: Int64s) -> Floats:
    """Return the sum of noise of four lengths at the start of each day."""
    total: Floats = np.zeros(len(days))
    for stream, (length, size) in enumerate(((1, 0.012), (5, 0.03), (19, 0.05), (67, 0.08))):
        slot = days // length
        part = (days - slot * length) / length
        left = _noise(key, 16 + stream, slot)[:, 0] / 65536.0 - 0.5
        right = _noise(key, 16 + stream, slot + 1)[:, 0] / 65536.0 - 0.5
        total += 2 * size * swing * (left * (1 - part) + right * part)
    return total


class Kept(Generic[Name, Value]):
    """The values used last, at most so many, for all threads."""

    def __init__(self, most: int) -> None:
        self._kept: OrderedDict[Name, Value] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def find(self, name: Name) -> Value | None:
        """Return the value, None where it has to be made."""
        with self._lock:
            value = self._kept.get(name)
            if value is not None:
                self._kept.move_to_end(name)
            return value

    def keep(self, name: Name, value: Value) -> None:
        """Keep the value, and drop the one that was not used for longest."""
        with self._lock:
            self._kept[name] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


# Of all paths and exchanges.
_blocks: Kept[tuple[int, int, int], Grid] = Kept(_KEPT_BLOCKS)
_numbers = itertools.count()


@functools.lru_cache(maxsize=256)
def find_path(seed: int, provider: str, listing: MarketListing, outages: Stops, halts: Stops) -> Path:
    """Return the path of the listing in the market of the seed, one for all exchanges; the stops are tuples."""
    return Path(seed, provider, listing, Hours(listing, outages, halts))


def _noise(key: int, stream: int, numbers: Int64s) -> npt.NDArray[np.uint16]:
    """Return four random 16-bit numbers per number, always the same ones (the splitmix64 finalizer over a counter)."""
    start = (key + stream * 0xD1342543DE82EF95) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed.astype("<u8").view("<u2").reshape(len(numbers), 4)


def _share(totals: Int64s, weights: Floats) -> Int64s:
    """Return each total split over its row in proportion to the weights; rows sum to the total, weight 0 gets
    nothing."""
    running = np.cumsum(weights, axis=1)
    whole = running[:, -1:]
    part = running / np.where(whole > 0, whole, 1.0)
    column = totals[:, None]
    dealt = np.minimum((column * part).astype(np.int64), column)
    dealt = np.where(part >= 1.0, column, dealt)
    return np.diff(dealt, axis=1, prepend=0)


def _share_trades(parents: Grid, weights: Floats, draws: Floats) -> Int64s:
    """Return trades of the children. A parent that opens off the previous close trades in its first open child."""
    running = np.cumsum(weights * (0.4 + draws), axis=1)
    whole = running[:, -1:]
    part = running / np.where(whole > 0, whole, 1.0)
    rounding = np.where(parents.open != parents.previous, 1 - 2.0**-30, draws[:, 0])[:, None]
    column = parents.trades[:, None]
    dealt = np.where(part >= 1.0, column, np.minimum(np.floor(column * part + rounding).astype(np.int64), column))
    dealt = np.where(running > 0, dealt, 0)
    return np.diff(dealt, axis=1, prepend=0)


def _share_taker(parents: Grid, volume: Int64s, draws: Floats) -> Int64s:
    """Return the taker buy part of each child's volume: around the parent's part, never above the child's volume."""
    most = np.maximum(parents.volume, 1)
    ratio = (parents.taker / most)[:, None]
    mean = ((volume * draws).sum(axis=1) / most)[:, None]
    slope = ratio + 0.8 * np.minimum(ratio, 1 - ratio) * (draws - mean)
    dealt = np.minimum(np.rint(np.cumsum(volume * slope, axis=1)).astype(np.int64), parents.taker[:, None])
    dealt[:, -1] = parents.taker
    taker: Int64s = np.diff(dealt, axis=1, prepend=0)
    return taker


def _walk(parents: Grid, active: Bools, volume: Int64s, middle: Floats, draws: Floats) -> Int64s:
    """Return the closes of the children: a random walk from the parent's open to its close, around its mean price.

    A child without trades closes where the one before closed.
    """
    open_, close = parents.open[:, None], parents.close[:, None]
    high, low = parents.high[:, None], parents.low[:, None]
    count = np.cumsum(active, axis=1)
    part = count / np.maximum(count[:, -1:], 1)
    walk = np.cumsum((draws - 0.5) * active, axis=1)
    walk -= part * walk[:, -1:]
    line = open_ + (close - open_) * part
    spread = walk.max(axis=1, keepdims=True) - walk.min(axis=1, keepdims=True)
    most = 3.0 * (high - low) / np.where(spread > 0, spread, 1.0)
    size = np.abs(walk)
    room = np.where(walk > 0, high - line, line - low) / np.where(size > 0, size, 1.0)
    up = np.minimum(np.where(walk > 0, room, np.inf).min(axis=1, keepdims=True), most)
    down = np.minimum(np.where(walk < 0, room, np.inf).min(axis=1, keepdims=True), most)
    closes = line + walk * np.where(walk > 0, up, down)
    # A bow over the whole walk brings its mean to the parent's mean price.
    bow = part * (1.0 - part)
    lever = (volume * bow).sum(axis=1)
    off = parents.volume * middle - (volume * closes).sum(axis=1)
    closes += bow * (off / np.where(lever > 0, lever, 1.0))[:, None]
    rounded: Int64s = np.clip(np.rint(closes).astype(np.int64), low, high)
    return rounded


def _quote_unit(listing: MarketListing) -> float:
    """Return quote units of one step of volume at a price of one tick; on COIN-M they fall as the price rises."""
    steps = listing.step * 10.0 ** (listing.quote_decimals - listing.volume_decimals)
    tick = listing.tick * 10.0**-listing.price_decimals
    return steps * tick if listing.size is None else steps * listing.size / tick


def _worth(total: Int64s, volume: Int64s, lows: Int64s, highs: Int64s, listing: MarketListing) -> Floats:
    """Return the worth of each child's volume, between its low and its high; rows sum to the totals where possible."""
    unit = _quote_unit(listing)
    if listing.size is None:
        least, most = volume * (lows * unit), volume * (highs * unit)
    else:
        least, most = volume * (unit / np.maximum(highs, 1)), volume * (unit / np.maximum(lows, 1))
    room = most - least
    share = (total - least.sum(axis=1)) / np.maximum(room.sum(axis=1), 1e-9)
    worth: Floats = least + room * np.clip(share, 0.0, 1.0)[:, None]
    return worth


def _refine(parents: Grid, exists: Bools, weights: Floats, draws: Draws, listing: MarketListing) -> Grid:
    """Return the children of each parent, row after row: exact in open, high, low, close and in every sum."""
    unit, amount = draws.price / 65536.0, draws.amount / 65536.0
    trades = _share_trades(parents, weights, amount[..., 0])
    active = trades > 0
    volume = trades + _share(parents.volume - parents.trades, trades * (0.5 + amount[..., 1]))
    high, low = parents.high[:, None], parents.low[:, None]
    worth = parents.quote / np.maximum(parents.volume, 1) / _quote_unit(listing)
    middle = worth if listing.size is None else 1.0 / np.where(worth > 0, worth, 1.0)
    closes = _walk(parents, active, volume, middle, unit[..., 2])
    opens = np.concatenate((parents.open[:, None], closes[:, :-1]), axis=1)
    before: Int64s = np.cumsum(active, axis=1) - active
    previous = np.where(
        before > 0, np.concatenate((parents.previous[:, None], closes[:, :-1]), axis=1), parents.previous[:, None]
    )
    if listing.gaps:
        # The first child that trades opens where its parent does, though trading may begin in the middle of it.
        jumps = active & (before > 0) & (unit[..., 3] < 0.5)
        step = np.where(jumps, (draws.price[..., 3] & 7).astype(np.int64) - 3, 0)
        opens = np.clip(opens + step, low, high)
    reach = (high - low) * (0.3 / weights.shape[1] ** 0.5) * active
    highs = np.minimum(np.maximum(opens, closes) + np.rint(reach * unit[..., 0]).astype(np.int64), high)
    lows = np.maximum(np.minimum(opens, closes) - np.rint(reach * unit[..., 1]).astype(np.int64), low)
    rows = np.arange(len(weights))
    highs[rows, np.argmax(np.where(active, highs, -1), axis=1)] = parents.high
    lows[rows, np.argmin(np.where(active, lows, np.iinfo(np.int64).max), axis=1)] = parents.low
    quote = _share(parents.quote, _worth(parents.quote, volume, lows, highs, listing))
    taker = _share_taker(parents, volume, amount[..., 1])
    taker_quote = _share(parents.taker_quote, (quote + 1) * (taker / np.maximum(volume, 1)))
    columns = (previous, opens, highs, lows, closes, trades, volume, quote, taker, taker_quote)
    return Grid(exists, *(column.reshape(-1) for column in columns))


def gather(grid: Grid, opens: Int64s, slots: Int64s) -> tuple[Int64s, Int64s, MarketCandles]:
    """Return candles of the slots that existing rows fall into, after the slots and the opens of their first rows.

    `open_time` is the first row's own, `close_time` is 0: the caller knows the borders.
    """
    rows = np.flatnonzero(grid.exists)
    slots, opens = slots[rows], opens[rows]
    if not len(rows):
        return slots, opens, MarketCandles(*[np.zeros(0, np.int64)] * 11)
    grid = grid.take(rows)
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
    if len(starts) == len(rows):  # each is a candle by itself
        none = np.zeros(len(rows), np.int64)
        prices = grid.open, grid.high, grid.low, grid.close
        amounts = grid.quote, grid.trades, grid.taker, grid.taker_quote
        return slots, opens, MarketCandles(opens, *prices, grid.volume, none, *amounts)
    ends = np.append(starts[1:], len(rows)) - 1

    def total(column: Int64s) -> Int64s:
        return np.add.reduceat(column, starts)

    candles = MarketCandles(
        opens[starts],
        grid.open[starts],
        np.maximum.reduceat(grid.high, starts),
        np.minimum.reduceat(grid.low, starts),
        grid.close[ends],
        total(grid.volume),
        np.zeros(len(starts), np.int64),
        total(grid.quote),
        total(grid.trades),
        total(grid.taker),
        total(grid.taker_quote),
    )
    return slots[starts], opens[starts], candles
