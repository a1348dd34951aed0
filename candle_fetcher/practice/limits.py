"""Request weight as Binance counts it: by whole minutes of its clock, 429 above the limit, 418 after that."""

from __future__ import annotations

import threading
from typing import NamedTuple

MINUTE_MS = 60_000


class Verdict(NamedTuple):
    """The answer to one request: status 200, 429 or 418; the weight used in this window, this request included."""

    status: int
    used: int
    until_ms: int


class Counts(NamedTuple):
    """What one market counted so far. `weights`: used weight by the Unix ms at which its window began."""

    requests: int
    weights: dict[int, int]
    refusals: int
    bans: int


class Budget:
    """`limit` weight in each window of the clock; more than `patience` refusals in one window are a ban."""

    def __init__(self, limit: int, *, window_ms: int = MINUTE_MS, patience: int = 10, ban_ms: int = 120_000) -> None:
        self.limit = limit
        self._window_ms = window_ms
        self._patience = patience
        self._ban_ms = ban_ms
        self._lock = threading.Lock()
        self._weights: dict[int, int] = {}
        self._refused: dict[int, int] = {}
        self._requests = 0
        self._refusals = 0
        self._bans = 0
        self._banned_until_ms = 0

    def spend(self, weight: int, now_ms: int) -> Verdict:
        """Count a request, and return whether it is answered."""
        window = now_ms // self._window_ms * self._window_ms
        with self._lock:
            self._requests += 1
            used = self._weights.get(window, 0)
            if now_ms < self._banned_until_ms:
                return Verdict(418, used, self._banned_until_ms)
            used = self._weights[window] = used + weight
            if used <= self.limit:
                return Verdict(200, used, 0)
            self._refusals += 1
            refused = self._refused[window] = self._refused.get(window, 0) + 1
            if refused > self._patience:
                self._bans += 1
                self._refused[window] = 0
                self._banned_until_ms = now_ms + self._ban_ms
                return Verdict(418, used, self._banned_until_ms)
            return Verdict(429, used, window + self._window_ms)

    def counts(self) -> Counts:
        """Return a copy of the counts."""
        with self._lock:
            return Counts(self._requests, dict(self._weights), self._refusals, self._bans)
