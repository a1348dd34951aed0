"""The layout of a database, as diskcache makes it.

Imported where a database is made, or is of a layout that is not known: diskcache takes a while to import.
"""

from __future__ import annotations

import os
import sqlite3
from functools import lru_cache
from typing import Any, NamedTuple

import diskcache  # type: ignore[import-untyped]


class Layout(NamedTuple):
    """The statements of diskcache's schema, as bytes, and the rows of its settings."""

    schema: list[tuple[bytes, bytes, bytes]]
    settings: list[tuple[Any, ...]]


class _Template(diskcache.Cache):  # type: ignore[misc]
    """diskcache in memory, for its layout: its constructor writes every setting at every open and waits up to 60 s for
    the lock of a file. What a file says about settings is never believed."""

    def __init__(self, max_bytes: int, page_cache_kb: int) -> None:
        self.con = sqlite3.connect(":memory:", isolation_level=None)
        super().__init__(
            os.sep,  # it expands $ and ~ in the name and makes the folder: no path of ours passes through it
            timeout=0,
            statistics=0,
            tag_index=0,
            eviction_policy="least-recently-stored",  # for its index on store_time, which a use moves
            size_limit=max_bytes,
            cull_limit=0,  # DiskTier evicts: diskcache's own culling says nothing
            sqlite_auto_vacuum=2,  # incremental: pages are reused, and given back only when the bound shrinks
            sqlite_cache_size=-page_cache_kb,
            sqlite_journal_mode="wal",
            sqlite_mmap_size=0,
            sqlite_synchronous=1,
            disk_min_file_size=2**62,
            disk_pickle_protocol=0,
        )

    @property
    def _con(self) -> sqlite3.Connection:
        return self.con


@lru_cache(maxsize=8)
def make_layout(max_bytes: int, page_cache_kb: int, read_schema: str) -> Layout:
    """Return what diskcache writes into a new database with that bound; its schema as that statement reads it."""
    con = _Template(max_bytes, page_cache_kb).con
    try:
        settings = con.execute("SELECT key, value FROM Settings").fetchall()
        con.text_factory = bytes
        return Layout(con.execute(read_schema).fetchall(), settings)
    finally:
        con.close()
