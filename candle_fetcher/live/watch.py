"""`watch`: quotes of several symbols as they change, by streams where their providers have some, else by polling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from candle_fetcher.core.arguments import read_number
from candle_fetcher.core.errors import InputError, UnknownSymbol
from candle_fetcher.core.quote import Quote
from candle_fetcher.live.follow import LiveRuntime, stream_roots, wires_of
from candle_fetcher.live.iterator import LiveIterator
from candle_fetcher.live.line import Outlet, Wires
from candle_fetcher.live.quotes import Desk, ask_quotes, find_wanted, read_names
from candle_fetcher.live.sinks import Sinks
from candle_fetcher.live.streaming import Streaming, find_channels, make_outlet
from candle_fetcher.live.watcher import Group, Pace, Watched, Watcher
from candle_fetcher.providers import Channel, Provider, Subscription

_TIMEOUT_S = 5.0
_LONGEST_S = 1e9


class WatchRuntime(LiveRuntime, Desk, Protocol):
    """What a fetcher has for `watch`."""


def make_watch(
    runtime: WatchRuntime,
    symbols: Iterable[str],
    provider: str | Provider | None,
    every_s: float | None,
    max_age_s: float | None,
    to: Any,
    wires: Wires | None = None,
    *,
    begins: bool = True,
) -> Watch:
    """Return the iterator of `CandleFetcher.watch`; its work has begun, unless `begins` says no.

    Raises InputError for arguments that are not valid, UnknownSymbol and AccessDenied for what cannot be had.
    """
    names = read_names(symbols)
    if not names:
        raise InputError("symbols is empty; expected a list such as ['BTC/USDT', 'kraken:ETH/USD']")
    if every_s is not None:
        every_s = read_number("every_s", every_s, 0, _LONGEST_S)
    if max_age_s is not None:
        max_age_s = read_number("max_age_s", max_age_s, 0, _LONGEST_S, is_open=True)
    if runtime.is_offline():
        raise InputError("source='cache' sends no request, which watch needs")
    sinks = Sinks(to)
    watched: dict[str, Watched] = {}
    for name in dict.fromkeys(names):
        wanted = find_wanted(runtime, name, provider)
        if wanted.source is None:
            raise InputError(wanted.error)
        missing = wanted.source.keyring.missing()
        if missing is not None:
            raise missing
        feed = wanted.source.provider.quotes
        assert feed is not None
        watched[name] = Watched(name, wanted, wanted.source, feed)

    def ask(several: Sequence[Watched]) -> None:
        for one, quote in zip(
            several, ask_quotes(runtime, [one.name for one in several], provider, _TIMEOUT_S, max_age_s), strict=True
        ):
            watcher.polled(one, quote)

    watcher = Watcher(runtime, Pace(every_s, max_age_s), wires or wires_of(runtime), ask)
    watcher.watched = list(watched.values())
    live = Watch(runtime, watcher, sinks, provider)
    if begins:
        live.begin()
    return live


class Watch(LiveIterator[Quote]):
    """Quotes as they change: an iterator of `Quote`.

    Use it in a `for` loop, and in a `with` block or with `close()`, which any thread may call; the loop then ends.
    """

    def __init__(self, runtime: WatchRuntime, watcher: Watcher, sinks: Sinks, provider: str | Provider | None) -> None:
        names = [one.name for one in watcher.watched]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        streaming = Streaming(watcher.wires, watcher, watcher.stats)
        super().__init__(watcher, watcher, streaming, sinks, len(names), f"{', '.join(names[:5])}{more}")
        try:
            self._prime(runtime, watcher, provider)
            self._connect(runtime, watcher)
        except BaseException:
            self.close()
            raise
        runtime.live.add(self)

    def _prime(self, runtime: WatchRuntime, watcher: Watcher, provider: str | Provider | None) -> None:
        """Ask for all quotes once. Raises what no waiting heals."""
        refused: dict[str, Exception] = {}
        names = [one.name for one in watcher.watched]
        quotes = watcher.run_call(lambda: ask_quotes(runtime, names, provider, _TIMEOUT_S, None, refused))
        for name, error in refused.items():
            raise UnknownSymbol(name, error.provider or "") if isinstance(error, UnknownSymbol) else error
        for one, quote in zip(watcher.watched, quotes, strict=True):
            watcher.polled(one, quote)

    def _connect(self, runtime: WatchRuntime, watcher: Watcher) -> None:
        outlets: dict[int, tuple[Outlet, list[tuple[Channel, Watched]]]] = {}
        groups: dict[int, list[Watched]] = {}
        for one in watcher.watched:
            found, source = one.source.provider, one.source
            groups.setdefault(id(source), []).append(one)
            roots = stream_roots(runtime, found)
            settings = tuple(runtime.settings.provider_settings.get(found.name, {}).items())
            subscription = Subscription("quotes", one.wanted.provider_symbol, settings=settings)
            channels = find_channels(found, subscription) if roots else ()
            streams = found.streams
            if not channels or (streams is not None and streams.needs_keys and not source.keyring.names):
                continue
            if id(source) not in outlets:
                outlets[id(source)] = make_outlet(source, roots, runtime.wire), []
            outlets[id(source)][1].extend((channel, one) for channel in channels)
            one.topics = frozenset(channel.topic for channel in channels)
        for outlet, theirs in outlets.values():
            self._streaming.add(outlet, theirs)
        for those in groups.values():
            group = Group(those[0].source, those[0].feed, those, watcher.every_s)
            group.due_s = watcher.wires.steady_s() + group.pause_s(len(those), {})
            watcher.groups.append(group)
