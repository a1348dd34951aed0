"""Bytes by key: in memory, on disk, and both. Nothing here knows candles or providers.

    Store  ->  MemoryTier   cachetools, one lock, bounded by bytes, entries may expire
           ->  DiskTier     SQLite in diskcache's layout, bounded by bytes on disk; its failures never reach the caller

Keys are str, values are bytes (the memory tier alone holds any object, with the size that the caller gives).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

from candle_fetcher.core.events import Lookup, Observe, ignore
from candle_fetcher.store.disk import DiskStats, DiskTier
from candle_fetcher.store.memory import MemoryStats, MemoryTier, WriteWatch
from candle_fetcher.store.page_files import NotWhole
from candle_fetcher.store.snapshot import Snapshot, SnapshotLost

__all__ = [
    "DiskStats",
    "DiskTier",
    "MemoryStats",
    "MemoryTier",
    "NotWhole",
    "Snapshot",
    "SnapshotLost",
    "Store",
    "WriteWatch",
]


class Store:
    """Memory first, then disk. `.memory` and `.disk` (None: no disk tier) are the tiers themselves."""

    def __init__(self, memory: MemoryTier, disk: DiskTier | None = None, observe: Observe = ignore) -> None:
        self.memory = memory
        self.disk = disk
        self.keeps = disk is not None or memory.max_bytes > 0  # False: what is saved is dropped at once
        self.observe = observe
        self._lock = threading.RLock()

    @property
    def problem(self) -> str:
        """What does not work on the disk now; "" while all is well."""
        return self.disk.problem if self.disk is not None else ""

    def load(self, key: str, *, keep: bool = True) -> tuple[str, bytes] | tuple[None, None]:
        """Return the tier (memory, disk) and the value. `keep` puts a value from disk into memory."""
        return self.load_many((key,), keep=keep).get(key, (None, None))

    def load_many(self, keys: Iterable[str], *, keep: bool = True) -> dict[str, tuple[str, bytes]]:
        """Return tier and value of each entry that is there, in the order of the keys. Emits one Lookup for each tier.

        Ask for 16 to 64 keys at a time and use them up: a long list costs page faults, not disk time.
        """
        asked = list(dict.fromkeys(keys))
        held = self.memory.load_many(asked)
        wanted = [key for key in asked if key not in held]
        self.observe(Lookup("memory", len(held), len(wanted)))
        if not wanted or self.disk is None:
            return {key: ("memory", data) for key, data in held.items()}
        read = self.disk.load_many(wanted)
        self.observe(Lookup("disk", len(read), len(wanted) - len(read)))
        if keep:
            for key, data in read.items():
                self.memory.save(key, data, len(data))
        return {
            key: ("memory", held[key]) if key in held else ("disk", read[key])
            for key in asked
            if key in held or key in read
        }

    def save(self, key: str, data: bytes, *, until_s: float | None = None, keep: bool = True) -> bool:
        """Save the value in both tiers. Return False where the disk tier could not.

        `until_s` (seconds of the memory tier's clock) ends its stay in memory; None is no end. The disk knows no
        expiry: the bytes themselves say when they are stale. With `keep` False memory drops the value.
        """
        return self.save_many({key: data}, {key: until_s}, keep=keep)

    def save_many(self, items: Mapping[str, bytes], until_s: Mapping[str, float | None], *, keep: bool = True) -> bool:
        """Save the values, on disk in one transaction; otherwise as `save`."""
        for key, data in items.items():
            if keep:
                self.memory.save(key, data, len(data), until_s.get(key))
            else:
                self.memory.drop(key)
        return self.disk is None or self.disk.save_many(items)

    def transaction(self) -> AbstractContextManager[bool]:
        """Exclude other writers in a block; see DiskTier.transaction. Without a disk it excludes other threads."""
        return self._lock if self.disk is None else self.disk.transaction()

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with the prefix, of both tiers, in order."""
        return sorted({*self.memory.keys(prefix), *(self.disk.keys(prefix) if self.disk is not None else ())})

    def drop(self, key: str) -> None:
        """Drop the value under the key from both tiers."""
        self.memory.drop(key)
        if self.disk is not None:
            self.disk.drop(key)

    def drop_many(self, keys: Collection[str]) -> None:
        """Drop the values under the keys from both tiers, on disk in one transaction."""
        for key in keys:
            self.memory.drop(key)
        if self.disk is not None:
            self.disk.drop_many(keys)

    def beginnings(self, length: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield each key with the size and the first bytes of its value; without a disk, those in memory."""
        if self.disk is not None:
            yield from self.disk.beginnings(length)
            return
        for key in sorted(self.memory.keys()):
            value = self.memory.load(key)
            if isinstance(value, bytes):
                yield key, len(value), value[:length]

    def clear(self) -> None:
        """Drop everything in both tiers."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.clear()

    def flush(self) -> None:
        """Write to disk which entries were used, for the order of eviction."""
        if self.disk is not None:
            self.disk.flush()

    def close(self) -> None:
        """Empty the memory tier and close every file. May be called repeatedly, from any thread."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.close()
