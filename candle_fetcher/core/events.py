"""What happened, as frozen records. Whoever does something tells an `Observe`; who listens is not its business.

    transport, pacing, store, cache, fetcher  ->  observe(event)  ->  PerformanceMonitor, progress bar, your callable

Records are NamedTuples: building one costs a fraction of a microsecond, which keeps a warm read cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Operation(NamedTuple):
    """One piece of work ended: fetch, export, plan, audit, parse, disk_read, disk_write."""

    name: str
    seconds: float
    candles: int = 0
    bytes: int = 0


class Lookup(NamedTuple):
    """A tier (memory, disk) was asked for entries."""

    tier: str
    hits: int
    misses: int


class Sent(NamedTuple):
    """One HTTP request ended; status None where no reply came. Bytes are those of the body on the wire."""

    provider: str
    path: str
    status: int | None
    seconds: float
    bytes: int


class Retried(NamedTuple):
    """A request is going to be sent again after `wait_s` seconds."""

    provider: str
    reason: str
    attempt: int
    wait_s: float


class Waited(NamedTuple):
    """A request was held back: reason budget, or hold (429)."""

    provider: str
    reason: str
    seconds: float


class Busy(NamedTuple):
    """A worker of a pool (network, io) worked for so long."""

    pool: str
    seconds: float


class Progress(NamedTuple):
    """Candles of a call under way: `phase` is start, advance or end, `done` how many are there in addition to those
    told before, `total` how many there can be: it counts slots."""

    phase: str
    label: str
    done: int
    total: int


Event = Operation | Lookup | Sent | Retried | Waited | Busy | Progress
Observe = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An Observe that listens to nothing."""
