"""What happened, as frozen records. Whoever does something tells an `Observe`; who listens is not its business.

    transport, pacing, store, cache, fetcher  ->  observe(event)  ->  PerformanceMonitor, progress bar, your callable

Records are NamedTuples: building one costs a fraction of a microsecond, which keeps a warm read cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Operation(NamedTuple):
    """One piece of work ended: fetch, export, plan, audit, parse, disk_read, disk_write.

    `label` says what a public call was about; the other pieces of work have none.
    """

    name: str
    seconds: float
    candles: int = 0
    bytes: int = 0
    label: str = ""


class Failed(NamedTuple):
    """A public call ended with an error; `reason` is its class and message."""

    name: str
    label: str
    seconds: float
    reason: str


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
    """A request is going to be sent again after `wait_s` seconds, for the `attempt`th time of `most`. `reason` is the
    class of the error, `detail` what happened: `status 503`."""

    provider: str
    reason: str
    attempt: int
    wait_s: float
    most: int = 0
    detail: str = ""


class Rerouted(NamedTuple):
    """A request goes to another host of the provider, or its candles come from another source; `reason` says why."""

    provider: str
    to: str
    reason: str


class Gaps(NamedTuple):
    """An answer lacks candles that the provider itself lacks: how many gaps, and how many candles."""

    label: str
    gaps: int
    candles: int


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


Event = Operation | Failed | Lookup | Sent | Retried | Rerouted | Waited | Gaps | Busy | Progress
Observe = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An Observe that listens to nothing."""
