"""What a cache holds, series by series, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pandas as pd

from candle_fetcher.cache.entries import EntryStore
from candle_fetcher.cache.pages import CHUNK, PageStore
from candle_fetcher.core.entry import HEAD_BYTES, count_rows
from candle_fetcher.core.frame import utc_index
from candle_fetcher.core.series import Series, split_key
from candle_fetcher.providers import all_providers
from candle_fetcher.store import Store

if TYPE_CHECKING:
    from candle_fetcher.cache.listings import ListingStore


class Holding:
    """What is stored of a series: all its keys, the numbers of its chunks, candles and bytes."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.chunks: list[int] = []
        self.rows = 0
        self.bytes = 0


def find_holdings(store: Store) -> dict[Series, Holding]:
    """Return what is stored of each series, by the first bytes of the entries."""
    found: dict[Series, Holding] = {}
    for key, size, beginning in store.beginnings(HEAD_BYTES):
        split = split_key(key)
        if split is None:
            continue
        series, rest = split
        holding = found.setdefault(series, Holding())
        holding.keys.append(key)
        holding.bytes += size
        if CHUNK.fullmatch(rest):
            holding.chunks.append(int(rest))
            holding.rows += count_rows(beginning) or 0
    return found


def add_pages(held: Mapping[Series, Holding], pages: PageStore) -> None:
    """Add the chunks and rows that lie in pages; their keys and bytes are there already."""
    for series, holding in held.items():
        for page in pages.find_all(series).values() if any("|page|" in key for key in holding.keys) else ():
            holding.chunks += page.chunks
            holding.rows += sum(one.rows for one in page.chunks.values())


def list_series(store: Store, entries: EntryStore, listings: ListingStore) -> pd.DataFrame:
    """Return a row for each series that has candles or funding rates stored; see `CandleCache.list`."""
    rows, held = [], find_holdings(store)
    add_pages(held, entries.pages)
    for series, holding in sorted(held.items(), key=lambda item: item[0].key):
        if not holding.chunks:
            continue
        settings = ",".join(f"{name}={value}" for name, value in series.settings)
        provider, symbol = all_providers().get(series.provider), series.symbol
        if provider is not None:
            symbol = listings.unified_symbol(provider, series.origin, symbol)
        names = series.provider, symbol, series.timeframe.name, series.kind, settings, series.origin
        chunks = sorted(set(holding.chunks))
        ends = find_open_ms(entries, series, chunks, 0), find_open_ms(entries, series, chunks[::-1], -1)
        rows.append((*names, len(chunks), holding.rows, *ends, holding.bytes))
    columns = ("provider", "symbol", "timeframe", "kind", "settings", "origin")
    return _frame(rows, (*columns, "chunks", "rows", "first", "last", "bytes"), ("first", "last"))


def list_revisions(store: Store, entries: EntryStore) -> pd.DataFrame:
    """Return a row for each stored revision; see `CandleCache.revisions`."""
    rows = []
    for key in list(store.disk.keys()) if store.disk is not None else ():
        if key.endswith("|revisions"):
            provider, _, symbol, timeframe, kind, *_ = [*key.split("|"), *[""] * 5]
            names = provider, unquote(symbol), timeframe, kind
            rows += [(*names, *revision) for revision in entries.load_revisions(key)]
    columns = ("provider", "symbol", "timeframe", "kind", "timestamp", "column", "old", "new", "old_read", "new_read")
    return _frame(rows, columns, ("timestamp", "old_read", "new_read"))


def find_open_ms(entries: EntryStore, series: Series, chunks: Iterable[int], at: int) -> int:
    """Return the open time of the candle at that index of the first chunk that has candles, 0 where none has."""
    for chunk in chunks:
        for _, entry in entries.read(series, [chunk]).values():
            if entry.candles.count:
                return int(entry.candles.open_ms[at])
    return 0


def _frame(rows: Sequence[tuple[object, ...]], columns: Sequence[str], times: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in times:
        frame[name] = utc_index(frame[name].to_numpy(np.int64))
    return frame
