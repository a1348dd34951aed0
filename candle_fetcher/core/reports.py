"""What calls of the cache report, as values."""

from __future__ import annotations

from typing import NamedTuple


class CacheStats(NamedTuple):
    """Entries and bytes by tier, their upper bounds, and the folder of the disk tier."""

    path: str | None
    memory_entries: int
    memory_bytes: int
    memory_max_bytes: int
    disk_entries: int
    disk_bytes: int
    disk_max_bytes: int
    problem: str | None = None


class Verified(NamedTuple):
    """How many entries were read, and the keys of the damaged ones, which were dropped and count as missing.

    `newer` of the entries were written by a newer version of this package: they stay, and cannot be read here.
    """

    entries: int
    damaged: tuple[str, ...]
    newer: int = 0


class Compacted(NamedTuple):
    """How many chunks were moved into pages, and by how many bytes the disk holds less than before."""

    chunks: int
    freed_bytes: int


class Imported(NamedTuple):
    """The result of an import: the series of the file, and its rows.

    `rows` are its candles, of which `added` were not stored; `first` and `last` open times (UTC) among them, None where
    there are none. `differing` candles are stored with other values, which stay, and are noted in `revisions()`.
    `ignored` were left out: not settled yet, or known to be wrong. `chunks` is how many chunks the candles lie in.
    `lacking` are columns of the series that the file does not have: they are empty in the candles added, until a
    refresh. `verified` says that the checksum beside the file matched; None where such files have none.
    """

    path: str
    provider: str
    symbol: str
    timeframe: str
    kind: str
    rows: int
    added: int
    differing: int
    ignored: int
    chunks: int
    first: str | None
    last: str | None
    lacking: tuple[str, ...]
    verified: bool | None


class Backup(NamedTuple):
    """The result of a backup: its file and the bytes of that; the series, entries (stored chunks) and candles in it.

    Left out were `vanished` entries, which were evicted or cleared before they were read; `damaged` ones, which are not
    what was written; and `newer` ones, which a newer version of this package stored.
    """

    path: str
    series: int
    entries: int
    candles: int
    bytes: int
    vanished: int
    damaged: int
    newer: int


class Restored(NamedTuple):
    """The result of a restore: the series, entries (stored chunks) and candles in the backup, and what came of them.

    `stored` entries had something that the cache lacked, `added` candles among it; of the others, the cache had as much
    or more. `differing` candles are stored with other values, which stay, and are noted in `revisions()`. `newer`
    entries are of a newer version of this package, and were left out.
    """

    path: str
    series: int
    entries: int
    candles: int
    stored: int
    added: int
    differing: int
    newer: int
