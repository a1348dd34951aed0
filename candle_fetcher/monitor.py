"""PerformanceMonitor listens to events and counts durations, requests and cache hits. The only psutil.

    observe(event)  ->  inbox (a deque; appending needs no lock)  ->  folded into totals, under a lock, when read

Writers never wait for each other: one of them folds when the inbox is long, the others go on appending.
Memory is bounded: percentiles are those of the latest SAMPLES durations, the other figures are exact, and names
beyond the first NAMES of their sort are counted together under "other".
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from candle_fetcher.concurrency.call import count_request
from candle_fetcher.core.events import Busy, Event, Lookup, Operation, Retried, Sent, Waited
from candle_fetcher.core.sizes import size_text

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = 2048
NAMES = 64
_INBOX = 1024
# Public calls: their candles and seconds make the headline. The other operations are parts of these.
_CALLS = ("fetch", "export")

_Row = TypeVar("_Row")


class PerformanceMonitor:
    """Counts and durations of all events since it was made or reset.

    It is an `Observe`: call it with events, from any thread. `pools` maps a pool's name to its number of threads,
    without which its utilization is unknown. `clock` counts seconds and never goes back.
    """

    def __init__(self, *, pools: Mapping[str, int] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pools = dict(pools or {})
        self._clock = clock
        self._inbox: deque[Event] = deque()
        self._lock = threading.RLock()
        self._totals = _Totals()
        self._since_s: float | None = None
        self._last_s = 0.0
        self._cpu_from = (clock(), time.process_time())

    def observe(self, event: Event) -> None:
        """Take note of the event."""
        inbox = self._inbox
        inbox.append(event)
        self._last_s = now_s = self._clock()
        if self._since_s is None:
            self._since_s = now_s - getattr(event, "seconds", 0.0)
        if type(event) is Sent:
            count_request()
        if len(inbox) >= _INBOX:
            with self._lock:
                self._fold()

    __call__ = observe

    @property
    def has_room(self) -> bool:
        """Whether the next events are noted without a lock."""
        return len(self._inbox) < _INBOX - 16

    def reset(self) -> None:
        """Forget everything, except the process's peak memory, which the system keeps."""
        with self._lock:
            self._inbox.clear()
            self._totals = _Totals()
            self._since_s = None
            self._cpu_from = (self._clock(), time.process_time())

    def snapshot(self) -> dict[str, Any]:
        """Return all figures as a JSON-able dict; a ratio or percentage of nothing is None.

        `wall_s` runs from the start of the first event to the last event. A pool's utilization is the part of
        threads x wall_s in which its workers worked. A cache's overall `hit_ratio` is the part of the entries asked
        of any tier that some tier had. `cpu_percent` is that of the process since the monitor was made or reset, and
        exceeds 100 where several cores worked.
        """
        with self._lock:
            self._fold()
            totals = self._totals
            wall_s = 0.0 if self._since_s is None else max(0.0, self._last_s - self._since_s)
            operations, providers = dict(totals.operations), dict(totals.providers)  # a signal handler may add to them
            calls = [spent for name, spent in operations.items() if name in _CALLS]
            candles, call_s = sum(call.candles for call in calls), sum(call.total_s for call in calls)
            return {
                "wall_s": wall_s,
                "candles": candles,
                "candles_per_s": _ratio(candles, call_s),
                "operations": {name: spent.figures() for name, spent in operations.items()},
                "requests": {
                    **asdict(totals.requests),
                    "providers": {name: asdict(requests) for name, requests in providers.items()},
                },
                "retries": _sum(totals.retries),
                "waits": _sum(totals.waits),
                "cache": _cache_figures(totals.tiers),
                "pools": self._pool_figures(wall_s),
                "memory": _memory_figures(),
                "cpu_percent": self._cpu_percent(),
            }

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each operation, in the order first seen: `count`, `total_s`, `p50_ms`, `p95_ms`,
        `max_ms`."""
        import pandas as pd

        operations = self.snapshot()["operations"]
        columns = ["count", "total_s", "p50_ms", "p95_ms", "max_ms"]
        rows = [[row[column] for column in columns] for row in operations.values()]
        frame = pd.DataFrame(rows, columns=columns, index=pd.Index(list(operations), name="operation", dtype=object))
        return frame.astype({"count": "int64", **dict.fromkeys(columns[1:], "float64")})

    def report(self) -> str:
        """Return the figures as aligned text, without a newline at the end."""
        now = self.snapshot()
        facts = _headline(now)
        margin = max(len(name) for name, _ in facts)
        lines = [f"{name:<{margin}}  {value}" for name, value in facts]
        table = _operation_rows(now)
        if len(table) > 1:
            widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
            lines.append("")
            for row in table:
                cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
                lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        now = self.snapshot()
        counts = {"candles": now["candles"], **{name: now[name]["count"] for name in ("requests", "retries", "waits")}}
        return f"PerformanceMonitor({', '.join(f'{name}={count:,}' for name, count in counts.items())})"

    def _repr_html_(self) -> str:
        from candle_fetcher.core.html import fact_table, html_table

        now = self.snapshot()
        head, *rows = _operation_rows(now)
        return fact_table("", _headline(now)) + html_table(head, rows)

    def _fold(self) -> None:
        """Move what is in the inbox into the totals; the lock is held.

        A signal handler may do the same in the middle of it, or reset, since the lock is re-entrant: then less is left.
        """
        take, add = self._inbox.popleft, self._totals.add
        with contextlib.suppress(IndexError):
            for _ in range(len(self._inbox)):
                add(take())

    def _pool_figures(self, wall_s: float) -> dict[str, dict[str, Any]]:
        busy_s = {name: times.seconds for name, times in self._totals.busy.items()}
        return {
            name: {
                "threads": self._pools.get(name),
                "busy_s": busy_s.get(name, 0.0),
                "utilization": _part(busy_s.get(name, 0.0), self._pools.get(name, 0) * wall_s),
            }
            for name in dict.fromkeys([*self._pools, *busy_s])
        }

    def _cpu_percent(self) -> float | None:
        since_s, used_s = self._cpu_from
        share = _ratio(time.process_time() - used_s, self._clock() - since_s)
        return None if share is None else 100 * share


@dataclass(slots=True)
class _Spent:
    """Durations of one operation, and what it moved."""

    count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0
    candles: int = 0
    bytes: int = 0
    latest_s: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def add(self, seconds: float, candles: int, size_bytes: int) -> None:
        self.count += 1
        self.total_s += seconds
        self.max_s = max(self.max_s, seconds)
        self.candles += candles
        self.bytes += size_bytes
        self.latest_s.append(seconds)

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.latest_s)
        return {
            "count": self.count,
            "total_s": self.total_s,
            "p50_ms": 1e3 * _percentile(ordered, 50),
            "p95_ms": 1e3 * _percentile(ordered, 95),
            "max_ms": 1e3 * self.max_s,
            "candles": self.candles,
            "candles_per_s": _ratio(self.candles, self.total_s) if self.candles else None,
            "bytes": self.bytes,
        }


@dataclass(slots=True)
class _Requests:
    """Requests of one provider, or of all; failed ones had no reply or a status of 400 and above."""

    count: int = 0
    failed: int = 0
    total_s: float = 0.0
    bytes: int = 0


@dataclass(slots=True)
class _Times:
    """How often and for how long: pauses for one reason, the work of one pool."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class _Tier:
    """Entries asked of one tier."""

    hits: int = 0
    misses: int = 0


@dataclass(slots=True)
class _Totals:
    """What the folded events add up to."""

    operations: dict[str, _Spent] = field(default_factory=dict)
    requests: _Requests = field(default_factory=_Requests)
    providers: dict[str, _Requests] = field(default_factory=dict)
    retries: dict[str, _Times] = field(default_factory=dict)
    waits: dict[str, _Times] = field(default_factory=dict)
    tiers: dict[str, _Tier] = field(default_factory=dict)
    busy: dict[str, _Times] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        if isinstance(event, Operation):
            _named(self.operations, event.name, _Spent).add(event.seconds, event.candles, event.bytes)
        elif isinstance(event, Lookup):
            tier = _named(self.tiers, event.tier, _Tier)
            tier.hits += event.hits
            tier.misses += event.misses
        elif isinstance(event, Busy):
            _named(self.busy, event.pool, _Times).add(event.seconds)
        elif isinstance(event, Sent):
            self._add_request(event)
        elif isinstance(event, Retried):
            _named(self.retries, event.reason, _Times).add(event.wait_s)
        elif isinstance(event, Waited):
            _named(self.waits, event.reason, _Times).add(event.seconds)

    def _add_request(self, event: Sent) -> None:
        # A request is an operation too, and has no Operation event of its own.
        _named(self.operations, "request", _Spent).add(event.seconds, 0, event.bytes)
        failed = event.status is None or event.status >= 400
        for requests in (self.requests, _named(self.providers, event.provider, _Requests)):
            requests.count += 1
            requests.failed += failed
            requests.total_s += event.seconds
            requests.bytes += event.bytes


def _named(rows: dict[str, _Row], name: str, new: Callable[[], _Row]) -> _Row:
    """Return the row of that name, made where there is none; the row "other" once there are too many."""
    row = rows.get(name)
    if row is None:
        name = name if len(rows) < NAMES else "other"
        row = rows.setdefault(name, new())
    return row


def _percentile(ordered: list[float], percent: int) -> float:
    """Return the smallest value that at least so many percent of the values do not exceed; 0 for no values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _part(part: float, whole: float) -> float | None:
    """Return their ratio, at most 1: work that began before the first event ended can exceed the time since then."""
    return min(1.0, part / whole) if whole > 0 else None


def _sum(times: dict[str, _Times]) -> dict[str, Any]:
    return {
        "count": sum(row.count for row in times.values()),
        "seconds": math.fsum(row.seconds for row in times.values()),
        "reasons": {name: asdict(row) for name, row in times.items()},
    }


def _cache_figures(tiers: dict[str, _Tier]) -> dict[str, Any]:
    hits = sum(tier.hits for tier in tiers.values())
    # What one tier misses the next is asked for, so the tier that was asked most was asked for everything.
    asked = max((tier.hits + tier.misses for tier in tiers.values()), default=0)
    return {
        "hits": hits,
        "misses": max(0, asked - hits),
        "hit_ratio": _part(hits, asked),
        "tiers": {
            name: {**asdict(tier), "hit_ratio": _ratio(tier.hits, tier.hits + tier.misses)}
            for name, tier in tiers.items()
        },
    }


def _memory_figures() -> dict[str, int]:
    """Return the resident bytes of this process: now, and the most since it began."""
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        peak = info.peak_wset
    else:
        import resource

        # Kilobytes, but bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"rss_bytes": info.rss, "peak_rss_bytes": max(peak, info.rss)}


def _headline(now: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and text of each fact; what never happened is left out."""
    requests, cache, memory = now["requests"], now["cache"], now["memory"]
    rows = [("candles", f"{now['candles']:,} at {_count(now['candles_per_s'])}/s" if now["candles"] else "0")]
    failed = f", {requests['failed']:,} failed" if requests["failed"] else ""
    rows.append(("requests", f"{requests['count']:,}, {size_text(requests['bytes'])}{failed}"))
    for name in ("retries", "waits"):
        pauses = now[name]
        if pauses["count"]:
            reasons = ", ".join(f"{_plain(reason)} {row['count']:,}" for reason, row in pauses["reasons"].items())
            rows.append((name, f"{pauses['count']:,}, {_duration(pauses['seconds'])} ({reasons})"))
    for name, tier in cache["tiers"].items():
        rows.append(
            (
                f"cache {_plain(name)}",
                f"{tier['hits']:,} hits, {tier['misses']:,} misses, {_percent(tier['hit_ratio'])}",
            )
        )
    if len(cache["tiers"]) > 1:
        rows.append(("cache", f"{cache['hits']:,} hits, {cache['misses']:,} misses, {_percent(cache['hit_ratio'])}"))
    for name, pool in now["pools"].items():
        threads = f" of {pool['threads']} threads" if pool["threads"] else ""
        rows.append(
            (f"pool {_plain(name)}", f"{_percent(pool['utilization'])}{threads}, {_duration(pool['busy_s'])} busy")
        )
    rows.append(("RSS", f"{size_text(memory['rss_bytes'])} now, {size_text(memory['peak_rss_bytes'])} at most"))
    rows.append(("CPU", "–" if now["cpu_percent"] is None else f"{now['cpu_percent']:.0f} %"))
    return rows


def _operation_rows(now: dict[str, Any]) -> list[list[str]]:
    """Return the table of operations as text, its head first."""
    rows = [["operation", "count", "total", "p50", "p95", "max", "candles/s", "bytes"]]
    for name, row in now["operations"].items():
        durations = [_duration(row["total_s"]), *(_duration(row[key] / 1e3) for key in ("p50_ms", "p95_ms", "max_ms"))]
        rows.append(
            [
                _plain(name),
                f"{row['count']:,}",
                *durations,
                _count(row["candles_per_s"]),
                size_text(row["bytes"]) if row["bytes"] else "–",
            ]
        )
    return rows


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.1f} %"


def _plain(text: str) -> str:
    """Return the text with each character replaced that could move a cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)
