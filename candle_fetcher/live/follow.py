"""`follow`: the settled candles of several series as they close, from history on, each once and in order."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any, Protocol

import pandas as pd

from candle_fetcher.concurrency import pause, wait_for
from candle_fetcher.core.arguments import is_several, read_flag, read_number
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, shown, warn
from candle_fetcher.core.ranges import FIRST, NOW, ago_ms, instant_ms, is_word
from candle_fetcher.live.door import Door
from candle_fetcher.live.follower import Caching, Follower, FollowOptions, Lane
from candle_fetcher.live.iterator import LiveIterator
from candle_fetcher.live.line import Outlet, Wires
from candle_fetcher.live.sinks import Sinks
from candle_fetcher.live.streaming import Streaming, find_channels, make_outlet, open_stream, roots_of
from candle_fetcher.providers import Channel, Provider, Subscription
from candle_fetcher.settings import Settings
from candle_fetcher.sources import Wire

_LONGEST_DELAY_S = 1e9


class LiveRuntime(Caching, Protocol):
    """What a fetcher has for live calls with streams."""

    settings: Settings
    wire: Wire
    live: Any  # a WeakSet of what is to be closed with the fetcher

    def origin(self, provider: Provider, /) -> str | None: ...
    def is_offline(self) -> bool: ...


def wires_of(runtime: LiveRuntime) -> Wires:
    """Return the wires of live calls: sockets, this machine's clocks, chance."""
    wire = runtime.wire
    return Wires(open_stream, time.monotonic, wire.clock, pause, runtime.observe, random.random)


def stream_roots(runtime: LiveRuntime, provider: Provider) -> tuple[str, ...]:
    """Return the roots of the provider's streams that may be asked; none where it is polled."""
    return roots_of(provider, runtime.settings.base_urls, is_own=runtime.origin(provider) is None)


def make_follow(
    runtime: LiveRuntime,
    door: Door,
    symbols: Iterable[str],
    start: Any,
    options: FollowOptions,
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


def _start_ms(start: Any, runtime: LiveRuntime) -> int:
    back_ms = ago_ms(start)
    now_ms = int(runtime.clock() * 1000)
    if back_ms is not None:
        return now_ms - back_ms
    return 0 if is_word(start, FIRST) else instant_ms(start, "start", lambda: now_ms)


class Follow(LiveIterator[tuple[str, pd.DataFrame]]):
    """Settled candles as they close: an iterator of pairs, the symbol as it was given and a DataFrame.

    Use it in a `for` loop, and in a `with` block or with `close()`, which any thread may call; the loop then ends.
    """

    def __init__(self, runtime: LiveRuntime, follower: Follower, sinks: Sinks, *, from_first: bool) -> None:
        names = [lane.symbol for lane in follower.lanes]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        label = f"{', '.join(names[:5])}{more}, {follower.options.timeframe}"
        streaming = Streaming(follower.wires, follower, follower.stats)
        super().__init__(follower, follower, streaming, sinks, len(names), label)
        follower.doubt = streaming.doubt
        try:
            jobs = [self._pool.submit(follower.prime, lane, from_first=from_first) for lane in follower.lanes]
            wait_for(jobs, follower.stop)
            for job in jobs:
                job.result()
            self._connect(runtime, follower)
        except BaseException:
            self.close()
            raise
        runtime.live.add(self)

    def _connect(self, runtime: LiveRuntime, follower: Follower) -> None:
        """Prepare the streams of the series that have some."""
        outlets: dict[int, tuple[Outlet, list[tuple[Channel, Lane]]]] = {}
        for lane in follower.lanes:
            source, series = lane.wanted.source, lane.wanted.series
            roots = stream_roots(runtime, source.provider)
            if not roots or series.timeframe != lane.wanted.timeframe:
                continue
            subscription = Subscription("candles", series.symbol, series.timeframe.name, series.kind, series.settings)
            channels = find_channels(source.provider, subscription)
            if not channels:
                continue
            if id(source) not in outlets:
                outlets[id(source)] = make_outlet(source, roots, runtime.wire), []
            outlets[id(source)][1].extend((channel, lane) for channel in channels)
            lane.is_streamed = True
        for outlet, theirs in outlets.values():
            self._streaming.add(outlet, theirs)
        follower.share_budget()
        unheard = [lane.wanted.label for lane in follower.lanes if not lane.is_streamed]
        if follower.options.include_open and unheard:
            what = f"no stream has {', '.join(unheard[:5])}{' and others' if len(unheard) > 5 else ''}"
            warn(
                CandleFetcherWarning(
                    f"{what}, so that include_open yields no forming candle of it; fetch(…, include_open=True) has it"
                )
            )
