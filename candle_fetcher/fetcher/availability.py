"""availability(): what exchangeInfo and the archive's bucket say together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from candle_fetcher.concurrency import as_done
from candle_fetcher.core.events import Busy, Observe
from candle_fetcher.fetcher.pools import Pools
from candle_fetcher.providers.binance_bucket import SPOT, Trio, daily_folder, find_first_day, find_intervals
from candle_fetcher.sources import BucketSource, Errand

COLUMNS = ("market", "symbol", "earliest_date", "available_intervals", "um", "cm")
# Keys are in the order of their dates: the first zip is what is wanted, and no page of a thousand.
_FIRST_KEYS = 20


class Found(NamedTuple):
    """What the bucket has of a symbol; `first_day` None where it has no day of 1d candles (yet)."""

    first_day: str | None
    intervals: tuple[str, ...]


def look_up(
    bucket: BucketSource, symbols: Sequence[str], pools: Pools, errand: Errand, observe: Observe
) -> list[Found]:
    """What the bucket has of each symbol, asked by the network pool. Raises the first error, and asks no more then."""

    def look(symbol: str) -> Found:
        began = time.perf_counter()
        try:
            return _look(bucket, symbol, errand)
        finally:
            observe(Busy("network", time.perf_counter() - began))

    pool = pools.network()
    futures = [pool.submit(look, symbol) for symbol in symbols]
    try:
        for future in as_done(futures, errand):
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _look(bucket: BucketSource, symbol: str, errand: Errand) -> Found:
    folder = daily_folder(symbol)
    folders = [name for page in bucket.pages(folder, errand) for name in page.folders]
    first_day = None
    if f"{folder}1d/" in folders:
        days = (find_first_day(page.keys) for page in bucket.pages(f"{folder}1d/", errand, most=_FIRST_KEYS))
        first_day = next((day for day in days if day), None)
    return Found(first_day, find_intervals(folders))


def availability_frame(
    trios: Sequence[Trio], found: Sequence[Found], first_candle: Callable[[str], pd.Timestamp]
) -> pd.DataFrame:
    """A row for each base, the oldest first. `first_candle(symbol)` is asked where the bucket has no day of a symbol.

    Raises what it raises: a row that lacks its date would pass for one that has none.
    """
    rows = []
    for trio, one in zip(trios, found, strict=True):
        first_day = one.first_day or f"{first_candle(trio.spot):%Y-%m-%d}"
        rows.append((SPOT.name, trio.spot, first_day, ",".join(one.intervals), trio.um, trio.cm))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["earliest_date", "symbol"], ignore_index=True)
