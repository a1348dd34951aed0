"""The memory tier: values by key, bounded by the sizes that the caller gives; the least recently used leave first."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import cachetools


class MemoryStats(NamedTuple):
    """The entries of the memory tier, and how many loads found one and how many did not."""

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int


# A value, its bytes, and the time until which it may be handed out.
_Item = tuple[Any, int, float]


class MemoryTier:
    """Values by key, handed out by reference: save immutable ones, or copy what you load. Shared by threads.

    `clock` tells seconds like `time.time`; an entry is there while the clock is before its `until_s`. A clock that is
    set back gives no entry more time than it was given: `steady` goes on. While the machine sleeps, only `clock` does.
    """

    def __init__(
        self,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()  # cachetools locks nothing itself
        self._clock = clock
        self._steady = steady
        self._passed_s = 0.0  # since the first reading, by the clock that advanced more each time
        self._read_s: tuple[float, float] | None = None
        self._hits = 0
        self._misses = 0
        self._is_in_use = False
        self._items = self._new_items()

    def _new_items(self) -> cachetools.LRUCache[str, _Item]:
        self._expires_s = math.inf  # before which no item expires
        return cachetools.LRUCache(self.max_bytes, getsizeof=_SIZE_OF)

    def _begin(self) -> cachetools.LRUCache[str, _Item]:
        """Return the items, for a caller that holds the lock and sets `_is_in_use` to False in the end.

        An interruption may have left them in a state that cachetools cannot work with: then they are dropped.
        """
        if self._is_in_use:
            self._items = self._new_items()
        self._is_in_use = True
        return self._items

    def _now(self) -> float:
        """Return the seconds since the first call."""
        now = self._clock(), self._steady()
        before, self._read_s = self._read_s or now, now
        self._passed_s += max(0.0, now[0] - before[0], now[1] - before[1])
        return self._passed_s

    def _drop_expired(self, items: cachetools.LRUCache[str, _Item]) -> None:
        now = self._now()
        if now >= self._expires_s:
            for key in [key for key, (_, _, until_s) in items.items() if now >= until_s]:
                del items[key]
            self._expires_s = min([until_s for _, _, until_s in items.values()], default=math.inf)

    def load(self, key: str) -> Any | None:
        """Return the value under the key, None where there is none or its time is over."""
        return self.load_many((key,)).get(key)

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that are there, by key, at one reading of the clock."""
        found: dict[str, Any] = {}
        with self._lock:
            items = self._begin()
            now = self._now()
            asked = list(keys)
            for key in asked if items else ():  # no look at each of many keys where there is nothing
                value, _, until_s = items.get(key, _NOTHING)
                if now < until_s:
                    found[key] = value
            self._hits += len(found)
            self._misses += len(asked) - len(found)
            self._is_in_use = False
        return found

    def save(self, key: str, value: Any, size_bytes: int, until_s: float | None = None) -> None:
        """Save the value until `until_s` (None: no end), in place of the one before.

        A value larger than the whole tier is not saved, and the one before is dropped all the same.
        """
        with self._lock:
            items = self._begin()
            if self.max_bytes and size_bytes <= self.max_bytes:
                if items.currsize + size_bytes > self.max_bytes:
                    self._drop_expired(items)
                if until_s is None:
                    until_s = math.inf
                else:
                    until_s += self._now() - self._clock()
                    self._expires_s = min(self._expires_s, until_s)
                items[key] = value, size_bytes, until_s
            else:
                items.pop(key, None)
            self._is_in_use = False

    def drop(self, key: str) -> None:
        """Drop the value under the key."""
        with self._lock:
            self._begin().pop(key, None)
            self._is_in_use = False

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with the prefix."""
        with self._lock:
            items = self._begin()
            self._drop_expired(items)
            found = [key for key in items if key.startswith(prefix)]
            self._is_in_use = False
            return found

    def drop_prefix(self, prefix: str) -> None:
        """Drop every value with a key that starts with the prefix."""
        with self._lock:
            items = self._begin()
            for key in [key for key in items if key.startswith(prefix)]:
                del items[key]
            self._is_in_use = False

    def clear(self) -> None:
        """Drop every value; the counts of hits and misses go on."""
        with self._lock:
            self._begin().clear()
            self._is_in_use = False

    def stats(self) -> MemoryStats:
        """Return what is held now, without expired values."""
        with self._lock:
            items = self._begin()
            self._drop_expired(items)
            self._is_in_use = False
            return MemoryStats(len(items), int(items.currsize), self.max_bytes, self._hits, self._misses)


class WriteWatch:
    """Which keys are written to, so that what was read before a write is not put into memory after it. Shared by
    threads; `lock` is held while something that was read is put into memory."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._writers: dict[str, int] = {}  # by key
        self._writes: dict[str, int] = {}

    def token(self, key: str) -> int | None:
        """Return what `is_unchanged` takes; None while the key is written to."""
        return None if self._writers.get(key) else self._writes.get(key, 0)

    def is_unchanged(self, key: str, token: int | None) -> bool:
        """Return whether nothing was written to it since the token was given, to a thread with the lock."""
        return token is not None and token == self.token(key)

    def begin(self, key: str) -> None:
        """Note that the key is written to, until `end`."""
        with self.lock:
            self._writers[key] = self._writers.get(key, 0) + 1

    def end(self, key: str) -> None:
        """Note that a write has ended."""
        with self.lock:
            self._writers[key] -= 1
            self._writes[key] = self._writes.get(key, 0) + 1


_SIZE_OF = itemgetter(1)
_NOTHING: _Item = (None, 0, -math.inf)


def trim_heap() -> None:
    """Hand freed memory back to the system where the C library would keep it: glibc does, for each thread apart."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)
