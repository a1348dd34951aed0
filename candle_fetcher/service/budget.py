"""What one client may take of the service: requests to providers, and threads that wait for them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from candle_fetcher.service.refusals import ServiceRefusal

_MOST_CLIENTS = 4096
# Requests that wait for a provider at the same time; further ones are refused, so that stored candles stay quick.
COLD = 96
# Long answers that are prepared at the same time. Each holds its candles once while it works out their fingerprint.
LONG = 2
_LONG_WAIT_S = 60.0


class ClientBudget:
    """Requests to providers by client: `per_minute`, refilled evenly. Shared by threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def charge(self, client: str, cost: int) -> None:
        """Take the cost from what the client has left; a call that costs more than a minute's share waits until all of
        it is there. Raises ServiceRefusal where too little is left."""
        if cost <= 0:
            return
        most = float(self._per_minute)
        with self._lock:
            now_s = self._clock()
            left, since_s = self._left.pop(client, (most, now_s))
            left = min(most, left + (now_s - since_s) * most / 60)
            needed = min(cost, most)
            if left >= needed:
                self._left[client] = (left - cost, now_s)
            else:
                self._left[client] = (left, now_s)
            while len(self._left) > _MOST_CLIENTS:
                self._left.popitem(last=False)
        if left < needed:
            raise ServiceRefusal(
                429,
                "TooManyRequests",
                f"this needs {cost:,} requests to the provider, and a client may cause {self._per_minute:,} a minute",
                retry_after_s=(needed - left) * 60 / most,
            )


class Lanes:
    """Bounds the threads that wait for providers, and the long answers that are prepared at once."""

    def __init__(self) -> None:
        self._cold = threading.BoundedSemaphore(COLD)
        self._long = threading.BoundedSemaphore(LONG)

    @contextlib.contextmanager
    def cold(self, *, is_needed: bool) -> Iterator[None]:
        """Hold a place for a call that asks a provider. Raises ServiceRefusal where all are taken."""
        if not is_needed:
            yield
            return
        if not self._cold.acquire(blocking=False):
            raise ServiceRefusal(503, "Busy", f"{COLD} requests wait for providers already", retry_after_s=1)
        try:
            yield
        finally:
            self._cold.release()

    @contextlib.contextmanager
    def long(self, *, is_needed: bool) -> Iterator[None]:
        """Hold a place for a long answer. Raises ServiceRefusal where none becomes free in time."""
        if not is_needed:
            yield
            return
        if not self._long.acquire(timeout=_LONG_WAIT_S):
            raise ServiceRefusal(503, "Busy", "other long answers are being prepared", retry_after_s=5)
        try:
            yield
        finally:
            self._long.release()
