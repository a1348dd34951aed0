"""Finished results in the memory tier, and when they are no longer true."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.store import MemoryTier

# Results of ranges that end now, of one series, timeframe and choice of columns.
_NEWEST_FRAMES = 4


class FrameStore:
    """Finished results by key. `epoch` grows when results are dropped; reading it takes no lock. Shared by threads."""

    def __init__(self, memory: MemoryTier) -> None:
        self._memory = memory
        self._generations: Counter[Series] = Counter()
        self.epoch = 0
        self._newest: dict[str, dict[str, Span]] = {}  # by group, keys of results with a range up to now
        self._lock = threading.Lock()

    def load(self, key: str) -> Any:
        """Return the result that was saved under the key, or None."""
        return self._memory.load(key)

    def save(
        self, series: Series, key: str, value: Any, size_bytes: int, until_s: float | None, generation: int
    ) -> None:
        """Keep a finished result until `until_s`, unless the generation of the series is no longer the given one."""
        with self._lock:
            if generation == self._generations[series]:
                self._memory.save(key, value, size_bytes, until_s)

    def replace(self, group: str, key: str, span: Span) -> None:
        """Drop the results of the group that the result under the key replaces: ranges that ended at the present, and
        have the same start or length; of the others all but the newest few."""
        with self._lock:
            held = self._newest.setdefault(group, {})
            held.pop(key, None)
            old = [
                other
                for other, (start_ms, end_ms) in held.items()
                if start_ms == span.start_ms or end_ms - start_ms == span.end_ms - span.start_ms
            ]
            others = [other for other in held if other not in old]
            old += others[: max(0, len(others) + 1 - _NEWEST_FRAMES)]
            for other in old:
                del held[other]
                self._memory.drop(other)
            held[key] = span

    def generation(self, series: Series) -> int:
        """Return how often the results of the series were dropped; a result belongs to the generation of its start."""
        return self._generations[series]

    def drop(self, series: Series) -> None:
        """Drop the results of the series, because its candles were asked for again."""
        with self._lock:
            self._generations[series] += 1
            self.epoch += 1
        self._memory.drop_prefix(f"frame|{series.key}|")

    def drop_all(self) -> None:
        """Drop the results of every series."""
        with self._lock:
            self.epoch += 1
        self._memory.drop_prefix("frame|")
