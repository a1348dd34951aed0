"""The memory tier: values by key, least recently used first out, bounded by the bytes that it is told."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cachetools


class MemoryStats(NamedTuple):
    """What the memory tier holds, and how often it was asked with and without success."""

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int


class _Entry(NamedTuple):
    value: Any
    size_bytes: int
    until_s: float


class MemoryTier:
    """Values by key, handed out by reference: give it what nobody changes, or copy what you get.

    `clock` tells seconds like `time.time`; an entry is there while the clock is before its `until_s`. A clock that is
    set back gives no entry more time than it was given: `steady` goes on. While the machine sleeps, only `clock` does.
    """

    def __init__(
        self,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()  # cachetools locks nothing itself
        self._clock = clock
        self._steady = steady
        self._passed_s = 0.0  # by whichever clock says more, read after read
        self._read_s: tuple[float, float] | None = None
        self._hits = 0
        self._misses = 0
        self._max_bytes = max_bytes
        self._entries: cachetools.TLRUCache[str, _Entry] = cachetools.TLRUCache(
            max_bytes,
            ttu=lambda key, entry, now: entry.until_s,
            timer=self._passed,
            getsizeof=lambda entry: entry.size_bytes,
        )

    def _passed(self) -> float:
        """Seconds since the first call, by the clock that went on farther each time."""
        now = self._clock(), self._steady()
        before, self._read_s = self._read_s or now, now
        self._passed_s += max(0.0, now[0] - before[0], now[1] - before[1])
        return self._passed_s

    def load(self, key: str) -> Any | None:
        """The value under the key, None where there is none or its time is over."""
        with self._lock:
            try:
                value = self._entries[key].value
            except KeyError:
                self._misses += 1
                return None
            self._hits += 1
            return value

    def save(self, key: str, value: Any, size_bytes: int, until_s: float | None = None) -> None:
        """Keep the value until `until_s` (None: no end), in place of the one before.

        One larger than the whole tier is not kept, and the one before goes all the same.
        """
        with self._lock:
            if self._max_bytes and size_bytes <= self._max_bytes:
                until_s = math.inf if until_s is None else self._passed() + until_s - self._clock()
                self._entries[key] = _Entry(value, size_bytes, until_s)
            else:
                self._entries.pop(key, None)

    def drop(self, key: str) -> None:
        """Forget the key."""
        with self._lock:
            self._entries.pop(key, None)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that start with the prefix."""
        with self._lock:
            return [key for key in self._entries if key.startswith(prefix)]

    def drop_prefix(self, prefix: str) -> None:
        """Forget every key that starts with the prefix."""
        with self._lock:
            for key in [key for key in self._entries if key.startswith(prefix)]:
                self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything; the counts of hits and misses go on."""
        with self._lock:
            self._entries.clear()

    def stats(self) -> MemoryStats:
        """What is held now; entries whose time is over are not."""
        with self._lock:
            self._entries.expire()
            size = int(self._entries.currsize)
            return MemoryStats(len(self._entries), size, self._max_bytes, self._hits, self._misses)


def give_back() -> None:
    """Hands freed memory back to the system where the C library would keep it: glibc does, for each thread apart."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)
