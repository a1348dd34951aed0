"""What the routes of one application share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from starlette.requests import HTTPConnection

from candle_fetcher.service.budget import ClientBudget, Lanes

if TYPE_CHECKING:
    from candle_fetcher.fetcher import CandleFetcher
    from candle_fetcher.service.hub import Topic

K = TypeVar("K")
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """A mapping that keeps what was used last, up to a total size. Shared by threads."""

    def __init__(self, most: int, size_of: Callable[[V], int] = lambda value: 1) -> None:
        self._most = most
        self._size_of = size_of
        self._lock = threading.Lock()
        self._size = 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keep the value, and drop the ones that were not used for the longest time."""
        with self._lock:
            old = self._values.pop(key, None)
            self._size -= self._size_of(old) if old is not None else 0
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._most and self._values:
                _, dropped = self._values.popitem(last=False)
                self._size -= self._size_of(dropped)


class Traffic:
    """Counts of what was asked and answered, for `/metrics`. Shared by threads."""

    def __init__(self) -> None:
        self.began_s = time.time()
        self._lock = threading.Lock()
        self.replies: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.dropped_events = 0
        self.streams = 0

    def add(self, route: str, status: int, seconds: float, size_bytes: int) -> None:
        """Count one reply."""
        with self._lock:
            self.replies[route, status] += 1
            self.seconds[route] += seconds  # type: ignore[assignment]
            self.bytes[route] += size_bytes


class ServiceState:
    """The fetcher, and what bounds and remembers the answers of one application."""

    def __init__(self, fetcher: CandleFetcher, requests_per_minute: int, is_open: bool) -> None:
        from candle_fetcher.service.edges import LiveEdges, OnceASecond
        from candle_fetcher.service.hub import Hub

        self.fetcher = fetcher
        self.budget = ClientBudget(requests_per_minute)
        self.lanes = Lanes()
        self.traffic = Traffic()
        self.edges = LiveEdges(self)
        # Whether caches between the service and a client may keep an answer for others: not where a token guards it.
        self.cache_scope = "public" if is_open else "private"
        self.bodies: RecentlyUsed[Any, bytes] = RecentlyUsed(32_000_000, len)
        self.fingerprints: RecentlyUsed[int, Any] = RecentlyUsed(1024)
        # Settled calls that were answered a moment ago, with their number of rows: they need no plan.
        self.settled: RecentlyUsed[Any, tuple[float, int]] = RecentlyUsed(4096)
        self.is_ending = False
        self.hub = Hub(fetcher)
        self.quotes: OnceASecond[list[str]] = OnceASecond()
        # What streams that are being opened wait for; used in the event loop alone.
        self.checks: dict[Any, asyncio.Future[dict[Topic, int]]] = {}
        self.weights: RecentlyUsed[tuple[str, int], list[int]] = RecentlyUsed(4096)

    def end_streams(self) -> None:
        """End the streams: the server is about to end. Called in the event loop."""
        self.is_ending = True
        self.hub.end()


def state_of(connection: HTTPConnection) -> ServiceState:
    """Return the state of the application that the request came to."""
    state: ServiceState = connection.app.state.service
    return state


def client_of(connection: HTTPConnection) -> str:
    """Return the address of the client, without its port."""
    return connection.client.host if connection.client is not None else ""
