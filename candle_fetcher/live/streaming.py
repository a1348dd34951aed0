"""The streams of a live call: which channels go on which connection, and the threads of the lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from candle_fetcher.concurrency import start_thread
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.core.live import CandleUpdate, QuoteUpdate
from candle_fetcher.core.version import __version__
from candle_fetcher.live.line import Conn, Line, Outlet, Wires
from candle_fetcher.live.pauses import Pauses
from candle_fetcher.live.stats import LiveStats
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.net.stream import connect, load_package
from candle_fetcher.providers import Channel, Provider, Subscription
from candle_fetcher.settings import STREAM
from candle_fetcher.sources import CallScope, RestSource, Wire

Thing = TypeVar("Thing")
Thing_contra = TypeVar("Thing_contra", contravariant=True)

# How long connecting and the handshake may take.
_CONNECT_S = 10.0
# How long the end of a call waits for its threads.
_END_S = 1.5


def open_stream(
    root: str, path: str, stop: threading.Event, keys: Keys, begun: Callable[[Callable[[], None]], object]
) -> Conn:
    """Return an open connection; `begun` gets the function that cuts it."""
    agent = f"candle-fetcher/{__version__}"
    return connect(root, path, stop=stop, user_agent=agent, timeout_s=_CONNECT_S, keys=keys, begun=begun)


def roots_of(provider: Provider, base_urls: Mapping[str, str], *, is_own: bool) -> tuple[str, ...]:
    """Return the roots of the provider's streams; none where it has no streams, or where another REST root was given
    and none for the streams: then the provider's own streams are not asked. `is_own`: its own REST root is used."""
    given = base_urls.get(provider.name + STREAM)
    if provider.streams is None:
        return ()
    if given is not None:
        return (given,)
    return provider.streams.hosts if is_own else ()


def make_outlet(source: RestSource, roots: tuple[str, ...], wire: Wire) -> Outlet:
    """Return what lines need of a provider. Its attempts to connect are counted by all processes on one cache folder,
    as its requests are."""
    provider, streams = source.provider, source.provider.streams
    assert streams is not None
    name = f"{provider.name}{STREAM}"
    clocks = wire.limiter_clocks(source.server_clock)
    limiter = Limiter(
        provider=name,
        limits=streams.attempts,
        share=wire.share,
        now_ms=clocks.now_ms,
        steady_ms=clocks.steady_ms,
        machine_ms=clocks.machine_ms,
        shared=wire.shared_states.state(f"{name}|{roots[0]}") if wire.shared_states is not None else None,
        observe=wire.observe,
        wait=wire.wait,
    )

    def keys() -> Keys:
        needed = streams.sends_keys or streams.login is not None
        return source.keyring.keys(CallScope()) if needed else NO_KEYS

    return Outlet(provider, streams, roots, keys, Pauses(streams), limiter)


class Hearer(Protocol[Thing_contra]):
    """What a live call does with what its streams say of a thing, such as a series or a symbol; in a line's thread."""

    def heard(self, thing: Thing_contra, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        """Take an update of the thing."""

    def connected(self, thing: Thing_contra, topic: str, now_s: float) -> None:
        """The topic is subscribed on a new connection; before it, updates may have been missed."""

    def disconnected(self, thing: Thing_contra, topic: str, now_s: float) -> None:
        """There is no connection for the topic now."""

    def refused(self, thing: Thing_contra, topic: str, error: Exception) -> None:
        """The topic will not come by stream."""


class _Listeners(Generic[Thing]):
    """The board of the lines of one provider: which things a topic is about."""

    def __init__(self, hearer: Hearer[Thing]) -> None:
        self._hearer = hearer
        self._things: dict[str, list[Thing]] = {}

    def add(self, topic: str, thing: Thing) -> None:
        self._things.setdefault(topic, []).append(thing)

    def take(self, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        for thing in self._things.get(event.topic, ()):
            self._hearer.heard(thing, event, now_s)

    def connected(self, topics: Iterable[str], now_s: float) -> None:
        for topic in topics:
            for thing in self._things.get(topic, ()):
                self._hearer.connected(thing, topic, now_s)

    def disconnected(self, topics: Iterable[str], now_s: float) -> None:
        for topic in topics:
            for thing in self._things.get(topic, ()):
                self._hearer.disconnected(thing, topic, now_s)

    def refused(self, topic: str, error: Exception) -> None:
        for thing in self._things.pop(topic, ()):
            self._hearer.refused(thing, topic, error)


class Streaming(Generic[Thing]):
    """The lines of one live call, each in a thread of its own."""

    def __init__(self, wires: Wires, hearer: Hearer[Thing], stats: LiveStats) -> None:
        self._wires = wires
        self._hearer = hearer
        self._stats = stats
        self.lines: list[Line] = []
        self._of: dict[int, list[tuple[Line, str]]] = {}  # by thing: what carries it
        self._threads: list[threading.Thread] = []

    def add(self, outlet: Outlet, wanted: Sequence[tuple[Channel, Thing]]) -> None:
        """Add the lines that carry the channels, each for a thing: by path, and as many on each as the provider
        allows. Raises MissingExtra without the package for sockets."""
        if self._wires.connect is open_stream:
            load_package()
        board = _Listeners(self._hearer)
        by_path: dict[str, dict[Channel, list[Thing]]] = {}
        for channel, thing in wanted:
            board.add(channel.topic, thing)
            by_path.setdefault(channel.path, {}).setdefault(channel, []).append(thing)
        for path, things in by_path.items():
            channels = list(things)
            most = len(channels) if outlet.streams.most_connections == 1 else outlet.streams.most_channels
            for at in range(0, len(channels), most):
                line = Line(outlet, path, channels[at : at + most], self._wires, board)
                self.lines.append(line)
                for channel in channels[at : at + most]:
                    for thing in things[channel]:
                        self._of.setdefault(id(thing), []).append((line, channel.topic))

    def start(self) -> None:
        """Start the threads."""
        for number, line in enumerate(self.lines):
            thread = start_thread(f"candle-stream-{number}", line.run)
            if thread is not None:
                self._threads.append(thread)

    def doubt(self, thing: Thing) -> None:
        """Have the channels of a thing checked, from which nothing comes."""
        for line, topic in self._of.get(id(thing), ()):
            line.doubt(topic)

    def count(self) -> None:
        """Bring the figures of the lines into the stats."""
        stats, lines = self._stats, self.lines
        stats.connections = sum(line.connections for line in lines)
        stats.reconnects = sum(max(0, line.connections - 1) for line in lines)
        stats.messages = sum(line.messages for line in lines)
        stats.unreadable = sum(line.unreadable for line in lines)
        stats.stale_spans = sorted(span for line in lines for span in line.spans_down())

    def end(self) -> None:
        """Cut every connection; any thread may call it."""
        for line in self.lines:
            line.cut()

    def join(self, patience_s: float = _END_S) -> None:
        """Wait for the threads, so long in all."""
        ends_s = self._wires.steady_s() + patience_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_s - self._wires.steady_s()))


def find_channels(provider: Provider, subscription: Subscription) -> tuple[Channel, ...]:
    """Return the channels that carry the subscription; none where the provider has no stream for it."""
    return () if provider.streams is None else provider.streams.channels(subscription)
