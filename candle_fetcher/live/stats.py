"""What a live call has done so far, in figures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_SAMPLES = 2048


@dataclass
class LiveStats:
    """What a live call has done so far.

    connections, reconnects: of streams. messages: frames of text; `unreadable` of them could not be read. merged:
    updates that a newer one replaced before they were handed out. dropped: items that a sink did not take. quotes,
    candles: handed out; of the candles, `confirmed` by stream and REST, `unconfirmed` as the stream said, `backfilled`
    without a word of the stream. differing: the stream and REST disagreed, and REST counted. revised: found to have
    other values after they were handed out. requests_failed: fetches that were tried again. stale_spans: the latest
    spans without a stream, in Unix seconds.
    """

    connections: int = 0
    reconnects: int = 0
    messages: int = 0
    unreadable: int = 0
    merged: int = 0
    dropped: int = 0
    quotes: int = 0
    candles: int = 0
    confirmed: int = 0
    unconfirmed: int = 0
    backfilled: int = 0
    differing: int = 0
    revised: int = 0
    requests_failed: int = 0
    stale_spans: list[tuple[float, float]] = field(default_factory=list, repr=False)
    _lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES), repr=False)

    def note_lag(self, seconds: float) -> None:
        """Note how long after its close, or its time, something was handed out."""
        self._lags_s.append(seconds)

    @property
    def lag_p50_s(self) -> float | None:
        """The median of the latest lags in seconds; None without any."""
        return self._percentile(50)

    @property
    def lag_p99_s(self) -> float | None:
        """The 99th percentile of the latest lags in seconds; None without any."""
        return self._percentile(99)

    def _percentile(self, percent: int) -> float | None:
        ordered = sorted(self._lags_s)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
