"""Records of what happened in the package, and the type of a function that receives them.

    transport, limiter, store, cache, fetcher  ->  observe(event)  ->  PerformanceMonitor, progress bar, a callable

Code that does something calls an `Observe` and does not depend on what receives the record. Records are NamedTuples:
building one costs a fraction of a microsecond, which keeps a warm read cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Operation(NamedTuple):
    """A piece of work ended: fetch, export, plan, audit, parse, disk_read, disk_write.

    `label` names the series of a public call; other work has none.
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
    """A tier of the cache (memory, disk) was searched for entries."""

    tier: str
    hits: int
    misses: int


class Sent(NamedTuple):
    """One HTTP request ended; `status` is None where no reply came. `bytes` counts the body as transferred."""

    provider: str
    path: str
    status: int | None
    seconds: float
    bytes: int


class Retried(NamedTuple):
    """A request will be sent again after `wait_s` seconds, for the `attempt`th time of `most`.

    `reason` is the class of the error, `detail` what happened, such as `status 503`.
    """

    provider: str
    reason: str
    attempt: int
    wait_s: float
    most: int = 0
    detail: str = ""


class Rerouted(NamedTuple):
    """A request goes to another host of the provider, or its candles come from another source.

    `reason` says why.
    """

    provider: str
    to: str
    reason: str


class Gaps(NamedTuple):
    """An answer lacks candles that the provider itself lacks: the number of gaps, and of candles."""

    label: str
    gaps: int
    candles: int


class Missing(NamedTuple):
    """A partial answer lacks candles that could not be fetched: their number, and what the source said, if anything."""

    label: str
    candles: int
    reason: str = ""


class Waited(NamedTuple):
    """A request had to wait; `reason` is budget, or hold after a reply of 429."""

    provider: str
    reason: str
    seconds: float


class Busy(NamedTuple):
    """A worker of a pool (network, io) worked for that time."""

    pool: str
    seconds: float


class Connected(NamedTuple):
    """A stream is connected; `channels` are subscribed on this connection."""

    provider: str
    path: str
    channels: int


class Disconnected(NamedTuple):
    """A stream was lost, or could not be connected, after `seconds`; `reason` says why."""

    provider: str
    path: str
    reason: str
    seconds: float


class Noted(NamedTuple):
    """A provider announced something by its stream, or sent what cannot be read."""

    provider: str
    text: str


class Yielded(NamedTuple):
    """A live call handed out candles of the series `label`.

    kind: `closed`; `filled` for those of them of which the stream said nothing; `revised` where they had been handed
    out with other values before. lag_s: of closed ones, from the end of the newest of them to now.
    """

    label: str
    kind: str
    candles: int
    lag_s: float


class Progress(NamedTuple):
    """Candles of a running call. `phase` is start, advance or end.

    `done` counts the candles since the last such event, `total` the slots of the range.
    """

    phase: str
    label: str
    done: int
    total: int


Event = (
    Operation | Failed | Lookup | Sent | Retried | Rerouted | Waited | Gaps | Missing | Busy | Progress
    | Connected | Disconnected | Noted | Yielded
)  # fmt: skip
Observe = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Receive an event and do nothing."""
