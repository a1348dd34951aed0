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
        self._entries = self._made()
        self._is_under_way = False

    def _made(self) -> cachetools.TLRUCache[str, _Entry]:
        return cachetools.TLRUCache(
            self._max_bytes,
            ttu=lambda key, entry, now: entry.until_s,
            timer=self._passed,
            getsizeof=lambda entry: entry.size_bytes,
        )

    def _begin(self) -> cachetools.TLRUCache[str, _Entry]:
        """The entries, for whoever has the lock and is going to look or to change; see `_end`.

        What an interruption left half done cachetools would stumble over from then on: it is forgotten.
        """
        if self._is_under_way:
            self._entries = self._made()
        self._is_under_way = True
        return self._entries

    def _end(self) -> None:
        self._is_under_way = False

    def _passed(self) -> float:
        """Seconds since the first call, by the clock that went on farther each time."""
        now = self._clock(), self._steady()
        before, self._read_s = self._read_s or now, now
        self._passed_s += max(0.0, now[0] - before[0], now[1] - before[1])
        return self._passed_s

    def load(self, key: str) -> Any | None:
        """The value under the key, None where there is none or its time is over."""
        with self._lock:
            entries = self._begin()
            try:
                entry = entries[key]
            except KeyError:
                entry = None
            self._end()
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            return entry.value

    def save(self, key: str, value: Any, size_bytes: int, until_s: float | None = None) -> None:
        """Keep the value until `until_s` (None: no end), in place of the one before.

        One larger than the whole tier is not kept, and the one before goes all the same.
        """
        with self._lock:
            entries = self._begin()
            if self._max_bytes and size_bytes <= self._max_bytes:
                until_s = math.inf if until_s is None else self._passed() + until_s - self._clock()
                entries[key] = _Entry(value, size_bytes, until_s)
            else:
                entries.pop(key, None)
            self._end()

    def drop(self, key: str) -> None:
        """Forget the key."""
        with self._lock:
            self._begin().pop(key, None)
            self._end()

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that start with the prefix."""
        with self._lock:
            found = [key for key in self._begin() if key.startswith(prefix)]
            self._end()
            return found

    def drop_prefix(self, prefix: str) -> None:
        """Forget every key that starts with the prefix."""
        with self._lock:
            entries = self._begin()
            for key in [key for key in entries if key.startswith(prefix)]:
                entries.pop(key, None)
            self._end()

    def clear(self) -> None:
        """Forget everything; the counts of hits and misses go on."""
        with self._lock:
            self._begin().clear()
            self._end()

    def stats(self) -> MemoryStats:
        """What is held now; entries whose time is over are not."""
        with self._lock:
            entries = self._begin()
            entries.expire()
            self._end()
            return MemoryStats(len(entries), int(entries.currsize), self._max_bytes, self._hits, self._misses)


def give_back() -> None:
    """Hands freed memory back to the system where the C library would keep it: glibc does, for each thread apart."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)
