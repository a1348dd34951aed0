"""Lines of a provider's streams over the sessions of the practice exchange, by a clock that tests set: no socket, no
thread, no waiting."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from live_world import LiveWorld

from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.core.live import CandleUpdate, QuoteUpdate
from candle_fetcher.live.line import Line, Outlet
from candle_fetcher.live.pauses import Pauses
from candle_fetcher.providers import Channel, Subscription, find_provider


class FreeAttempts:
    """A budget of attempts without a bound, which counts them."""

    def __init__(self) -> None:
        self.count = 0

    def acquire(self, cost: int, *, stop: threading.Event) -> int:
        self.count += 1
        return cost

    def release(self, reservation: object) -> None:
        pass

    def left(self) -> list[tuple[Any, float]]:
        return []


class Seen:
    """A Board: what the lines had, with the times."""

    def __init__(self, world: LiveWorld) -> None:
        self._world = world
        self.updates: list[tuple[float, CandleUpdate | QuoteUpdate]] = []
        self.refusals: dict[str, Exception] = {}
        self.ups: list[float] = []
        self.downs: list[float] = []

    def take(self, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        self.updates.append((now_s, event))

    def connected(self, topics: Iterable[str], now_s: float) -> None:
        self.ups.append(now_s)

    def disconnected(self, topics: Iterable[str], now_s: float) -> None:
        self.downs.append(now_s)

    def refused(self, topic: str, error: Exception) -> None:
        self.refusals[topic] = error

    @property
    def topics(self) -> set[str]:
        return {event.topic for _, event in self.updates}


class LinePlay:
    """The lines for some subscriptions of one provider; `facts` replace those of its streams."""

    def __init__(
        self,
        world: LiveWorld,
        provider: str,
        subscriptions: Iterable[Subscription],
        *,
        keys: Keys = NO_KEYS,
        **facts: Any,
    ) -> None:
        self.world = world
        found = find_provider(provider)
        assert found.streams is not None
        self.streams = replace(found.streams, **facts)
        self.seen = Seen(world)
        self.attempts = FreeAttempts()
        roots = (world.exchange.stream_urls[provider],)
        outlet = Outlet(found, self.streams, roots, lambda: keys, Pauses(self.streams), self.attempts)  # type: ignore[arg-type]
        by_path: dict[str, list[Channel]] = {}
        for one in subscriptions:
            for channel in self.streams.channels(one):
                by_path.setdefault(channel.path, []).append(channel)
        wires = world.wires(lambda event: None)
        self.lines = [Line(outlet, path, channels, wires, self.seen) for path, channels in by_path.items()]

    def run(self, seconds: float, step_s: float = 0.5, until: Callable[[], object] = lambda: False) -> None:
        """Let the clock go on in steps, until it is so."""
        ends_s = self.world.now_s + seconds
        while self.world.now_s < ends_s and not until():
            self.world.now_s = min(ends_s, self.world.now_s + step_s)
            for line in self.lines:
                for _ in range(1_000):
                    before = line.messages, line.connections, len(self.world.network.attempts)
                    if not line.is_over:
                        line.step(0.0)
                    if before == (line.messages, line.connections, len(self.world.network.attempts)):
                        break

    @property
    def gaps_s(self) -> list[float]:
        """The seconds between attempts to connect."""
        tried = self.world.network.attempts
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(tried)]


def klines(*symbols: str, timeframe: str = "1m") -> list[Subscription]:
    return [Subscription("candles", symbol, timeframe) for symbol in symbols]


def refused(now_s: float) -> Exception:
    return TransportError("refused")
