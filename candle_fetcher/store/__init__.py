"""Bytes by key: in memory, on disk, and both. Nothing here knows what a candle or a provider is.

    Store  ->  MemoryTier   cachetools, one lock, bounded by bytes, entries may expire
           ->  DiskTier     diskcache over SQLite, bounded by bytes on disk; no failure of it ever reaches the caller

Keys are str, values are bytes (the memory tier alone holds any object, with the size that it is told).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from candle_fetcher.core.events import Lookup, Observe, ignore
from candle_fetcher.store.disk import DiskStats, DiskTier
from candle_fetcher.store.memory import MemoryStats, MemoryTier

__all__ = ["DiskStats", "DiskTier", "MemoryStats", "MemoryTier", "Store"]


class Store:
    """Memory first, then disk. `.memory` and `.disk` (None: no disk tier) are the tiers themselves."""

    def __init__(self, memory: MemoryTier, disk: DiskTier | None = None, observe: Observe = ignore) -> None:
        self.memory = memory
        self.disk = disk
        self._observe = observe

    @property
    def problem(self) -> str:
        """What does not work on the disk now; "" while all is well."""
        return self.disk.problem if self.disk is not None else ""

    def load(self, key: str, *, keep: bool = True) -> tuple[str, bytes] | tuple[None, None]:
        """The tier (memory, disk) and the value. A hit on disk is put into memory, unless `keep` is False."""
        return self.load_many((key,), keep=keep).get(key, (None, None))

    def load_many(self, keys: Iterable[str], *, keep: bool = True) -> dict[str, tuple[str, bytes]]:
        """Tier and value of each entry that is there, in the order asked; one Lookup for each tier.

        Ask for 16 to 64 keys at a time and use them up: a long list costs page faults, not disk time.
        """
        asked = list(dict.fromkeys(keys))
        held = {key: data for key in asked if (data := self.memory.load(key)) is not None}
        wanted = [key for key in asked if key not in held]
        self._observe(Lookup("memory", len(held), len(wanted)))
        if not wanted or self.disk is None:
            return {key: ("memory", data) for key, data in held.items()}
        read = self.disk.load_many(wanted)
        self._observe(Lookup("disk", len(read), len(wanted) - len(read)))
        if keep:
            for key, data in read.items():
                self.memory.save(key, data, len(data))
        return {
            key: ("memory", held[key]) if key in held else ("disk", read[key])
            for key in asked
            if key in held or key in read
        }

    def save(self, key: str, data: bytes, *, until_s: float | None = None, keep: bool = True) -> bool:
        """Keep the value in both tiers; False where the disk tier could not.

        `until_s` (seconds of the memory tier's clock) ends its stay in memory; None is no end. The disk knows no
        expiry: an entry that can grow stale says so itself, to whoever loads it. With `keep` False memory forgets it.
        """
        return self.save_many({key: data}, {key: until_s}, keep=keep)

    def save_many(self, items: Mapping[str, bytes], until_s: Mapping[str, float | None], *, keep: bool = True) -> bool:
        """Keep the values, on disk in one transaction; otherwise as `save`."""
        for key, data in items.items():
            if keep:
                self.memory.save(key, data, len(data), until_s.get(key))
            else:
                self.memory.drop(key)
        return self.disk is None or self.disk.save_many(items)

    @contextmanager
    def transaction(self) -> Iterator[bool]:
        """Nobody else writes to the disk tier meanwhile; see DiskTier.transaction. Without a disk it does nothing."""
        if self.disk is None:
            yield True
            return
        with self.disk.transaction() as begun:
            yield begun

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that start with the prefix, of both tiers, in order."""
        return sorted({*self.memory.keys(prefix), *(self.disk.keys(prefix) if self.disk is not None else ())})

    def drop(self, key: str) -> None:
        """Forget the key in both tiers."""
        self.memory.drop(key)
        if self.disk is not None:
            self.disk.drop(key)

    def drop_many(self, keys: Collection[str]) -> None:
        """Forget the keys in both tiers, on disk in one transaction."""
        for key in keys:
            self.memory.drop(key)
        if self.disk is not None:
            self.disk.drop_many(keys)

    def beginnings(self, length: int) -> Iterator[tuple[str, int, bytes]]:
        """Each key with the size of its value and the value's first bytes; without a disk, those in memory."""
        if self.disk is not None:
            yield from self.disk.beginnings(length)
            return
        for key in sorted(self.memory.keys()):
            value = self.memory.load(key)
            if isinstance(value, bytes):
                yield key, len(value), value[:length]

    def clear(self) -> None:
        """Forget everything in both tiers."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.clear()

    def flush(self) -> None:
        """Write down which entries were used, for the eviction order."""
        if self.disk is not None:
            self.disk.flush()

    def close(self) -> None:
        """Empty the memory tier and close every file; may be called again and from any thread."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.close()
