"""What the clients of all services share: the transport, retries, observers, budgets and clocks of one fetcher."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from candle_fetcher.concurrency import Wait, pause
from candle_fetcher.core.events import Observe, ignore
from candle_fetcher.net.retry import Retry
from candle_fetcher.net.transport import Transport
from candle_fetcher.sources.clock import ServerClock
from candle_fetcher.store.shared import SharedStates


class LimiterClocks(NamedTuple):
    """The clocks by which a Limiter counts, in ms; see Limiter."""

    now_ms: Callable[[], int]
    steady_ms: Callable[[], int]
    machine_ms: Callable[[], int]


def limiter_clocks(server_clock: ServerClock) -> LimiterClocks:
    """Return the clocks by which a Limiter counts: the service's as it is known, and the two of this machine."""
    return LimiterClocks(
        server_clock.estimated_ms, lambda: int(time.monotonic() * 1000), lambda: int(time.time() * 1000)
    )


class Wire(NamedTuple):
    """The parts that the clients of all services share. A fetcher makes one.

    clock: the time of day in Unix seconds. steady_s: seconds of a clock that is never set.
    shared_states: budgets, holds and bans that processes share; None keeps them in this process.
    wait: waits for so many seconds, or until the event is set, and returns whether it is set.
    at_once: the most requests to one service that are under way at once; 0 for any number. share: the part of each
    budget that is for this fetcher.
    limiter_clocks: makes the clocks of a budget. A test with a `wait` that returns at once needs clocks that advance by
    the time waited.
    """

    transport: Transport
    retry: Retry = Retry()
    observe: Observe = ignore
    clock: Callable[[], float] = time.time
    shared_states: SharedStates | None = None
    wait: Wait = pause
    steady_s: Callable[[], float] = time.monotonic
    at_once: int = 0
    share: float = 1.0
    limiter_clocks: Callable[[ServerClock], LimiterClocks] = limiter_clocks

    def server_clock(self) -> ServerClock:
        """Return a new clock for a service, without a reading."""
        return ServerClock(self.clock, self.steady_s)
