"""`follow`: the settled candles of several series as they close, from history on, each once and in order."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol

import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import POLL_S, pause, start_thread, wait_for
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.arguments import is_several, read_flag, read_number
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.ranges import FIRST, NOW, ago_ms, instant_ms, is_word
from candle_fetcher.live.door import Door
from candle_fetcher.live.follower import Base, Follower, Options
from candle_fetcher.live.line import Outlet, Wires
from candle_fetcher.live.sinks import Sinks
from candle_fetcher.live.stats import LiveStats
from candle_fetcher.live.streaming import Streaming, find_channels, make_outlet, open_stream, roots_of
from candle_fetcher.providers import Channel, Provider, Subscription
from candle_fetcher.settings import Settings
from candle_fetcher.sources import Wire

_THREADS = 8
_LONGEST_DELAY_S = 1e9
_END_S = 1.5


class Runtime(Base, Protocol):
    """What a fetcher has for live calls with streams."""

    settings: Settings
    wire: Wire
    live: Any  # a WeakSet of what is to be closed with the fetcher

    @property
    def cache(self) -> CandleCache: ...
    def origin(self, provider: Provider, /) -> str | None: ...
    def is_offline(self) -> bool: ...


def wires_of(runtime: Runtime) -> Wires:
    """Return the wires of live calls: sockets, this machine's clocks, chance."""
    wire = runtime.wire
    return Wires(open_stream, time.monotonic, wire.clock, pause, runtime.observe, random.random)


def make_follow(
    runtime: Runtime,
    door: Door,
    symbols: Iterable[str],
    start: Any,
    options: Options,
    to: Any = (),
    wires: Wires | None = None,
    *,
    begins: bool = True,
) -> Follow:
    """Return the iterator of `CandleFetcher.follow`; its work has begun, unless `begins` says no.

    Raises InputError for arguments that are not valid, and UnknownSymbol, NotOffered, AccessDenied or ProviderRefused
    for a series that cannot be had.
    """
    names = _read_symbols(symbols)
    read_flag("include_open", options.include_open)
    read_flag("revisions", options.revisions)
    if options.max_delay_s is not None:
        read_number("max_delay_s", options.max_delay_s, 0, _LONGEST_DELAY_S, is_open=True)
    if runtime.is_offline() or runtime.settings.source == "archive":
        raise InputError(f"source={runtime.settings.source!r} sends no request to REST, which follow needs")
    sinks = Sinks(to)
    follower = Follower(runtime, door, options, wires or wires_of(runtime))
    wanted = [(name, door.request(name, options.timeframe, options.provider, options.kind)) for name in names]
    start_ms = None if start is None or is_word(start, NOW) else _start_ms(start, runtime)
    for name, one in wanted:
        follower.add(name, one, start_ms)
    live = Follow(runtime, follower, sinks, from_first=is_word(start, FIRST))
    if begins:
        live.begin()
    return live


def _read_symbols(symbols: Any) -> list[str]:
    if isinstance(symbols, str):
        raise InputError(f"symbols {shown(symbols)} is a text; expected a list such as ['BTC/USDT', 'kraken:BTC/USD']")
    names = list(symbols) if is_several(symbols) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"symbols {shown(symbols)}: expected a list such as ['BTC/USDT', 'kraken:BTC/USD']")
    if len(set(names)) < len(names):
        raise InputError(f"symbols {shown(names)} has one of them twice; expected each once")
    return names


def _start_ms(start: Any, runtime: Runtime) -> int:
    back_ms = ago_ms(start)
    now_ms = int(runtime.clock() * 1000)
    if back_ms is not None:
        return now_ms - back_ms
    return 0 if is_word(start, FIRST) else instant_ms(start, "start", lambda: now_ms)


class Follow:
    """Settled candles as they close: an iterator of pairs, the symbol as it was given and a DataFrame.

    Use it in a `for` loop, and in a `with` block or with `close()`, which any thread may call; the loop then ends.
    """

    def __init__(self, runtime: Runtime, follower: Follower, sinks: Sinks, *, from_first: bool) -> None:
        self._follower = follower
        self._sinks = sinks
        self._streaming = Streaming(follower._wires, follower, follower.stats)
        follower.doubt = self._streaming.doubt
        sinks.tell = follower.tell
        self._pool = ThreadPool("live", min(_THREADS, len(follower.lanes)))
        self._threads: list[threading.Thread] = []
        self._end = weakref.finalize(self, _end, follower, self._streaming, self._pool, sinks)
        self._end.atexit = False
        self._is_closed = False
        try:
            self._prime(from_first)
            self._connect(runtime)
        except BaseException:
            self.close()
            raise
        runtime.live.add(self)

    def begin(self) -> None:
        """Start the threads."""
        self._streaming.start()
        follower = self._follower
        thread = start_thread("candle-follow", _scheduler(follower, self._pool))
        self._threads += [] if thread is None else [thread]

    def _prime(self, from_first: bool) -> None:
        """Have all series primed, side by side. Raises the first error."""
        follower = self._follower
        jobs = [self._pool.submit(follower.prime, lane, from_first=from_first) for lane in follower.lanes]
        wait_for(jobs, follower.stop)
        for job in jobs:
            job.result()

    def _connect(self, runtime: Runtime) -> None:
        """Prepare the streams of the series that have some."""
        follower = self._follower
        outlets: dict[int, tuple[Outlet, list[Channel]]] = {}
        for lane in follower.lanes:
            source, series = lane.wanted.source, lane.wanted.series
            roots = roots_of(
                source.provider, runtime.settings.base_urls, is_own=runtime.origin(source.provider) is None
            )
            if not roots or series.timeframe != lane.wanted.timeframe:
                continue
            subscription = Subscription("candles", series.symbol, series.timeframe.name, series.kind, series.settings)
            channels = find_channels(source.provider, subscription)
            if not channels:
                continue
            if id(source) not in outlets:
                outlets[id(source)] = make_outlet(source, roots, runtime.wire), []
            outlets[id(source)][1].extend(channels)
            for channel in channels:
                follower.listen(channel.topic, lane)
        for outlet, channels_ in outlets.values():
            self._streaming.add(outlet, channels_)
        follower.share_budget()

    # -- the user's side ----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[str, pd.DataFrame]]:
        return self

    def __next__(self) -> tuple[str, pd.DataFrame]:
        follower = self._follower
        while True:
            found = follower.next(POLL_S)
            if found is not None:
                self._sinks.put(found)
                return found
            if follower.stop.is_set():
                raise StopIteration

    def __enter__(self) -> Follow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(lane.symbol for lane in self._follower.lanes[:5])
        more = len(self._follower.lanes) - 5
        state = ", closed" if self._is_closed else ""
        return f"Follow({names}{f' and {more} more' if more > 0 else ''}, {self._follower.options.timeframe}{state})"

    def close(self) -> None:
        """End the streams, requests and threads; within two seconds, also where the peer is dead. A second call does
        nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end()
        self._streaming.join(_END_S)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_S / 3)
        self._streaming.count()

    @property
    def stats(self) -> LiveStats:
        """What has been done so far."""
        self._streaming.count()
        return self._follower.stats


def _scheduler(follower: Follower, pool: ThreadPool) -> Callable[[], None]:
    return lambda: follower.run(pool.submit)


def _end(follower: Follower, streaming: Streaming, pool: ThreadPool, sinks: Sinks) -> None:
    """End what an iterator has begun, without waiting."""
    follower.end()
    streaming.end()
    pool.close(cancels=True, patience_s=0.0)
    sinks.close()
