"""availability(): symbols by exchangeInfo, with dates and intervals by the archive's bucket."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pandas as pd

from candle_fetcher.core.events import Operation
from candle_fetcher.fetcher.listings import find_first_candle, load_listing
from candle_fetcher.fetcher.policy import FetchPolicy
from candle_fetcher.fetcher.pools import run_in_network
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.providers.binance_bucket import MARKETS, SPOT, daily_folder, find_intervals, find_trios
from candle_fetcher.sources import CallScope
from candle_fetcher.sources.bucket import BucketSource

COLUMNS = ("market", "symbol", "earliest_date", "available_intervals", "um", "cm")


def _look_up(bucket: BucketSource, symbol: str, scope: CallScope) -> tuple[int | None, tuple[str, ...]]:
    """Return the day of the oldest daily file of 1d (Unix ms; None without one), and the intervals in the bucket."""
    folder = daily_folder(symbol)
    folders = [name for page in bucket.pages(folder, scope) for name in page.folders]
    first_ms = bucket.first_ms(f"{folder}1d/", scope) if f"{folder}1d/" in folders else None
    return first_ms, find_intervals(folders)


def availability(runtime: Runtime, policy: FetchPolicy) -> pd.DataFrame:
    """Return the table of `CandleFetcher.availability`: a row for each base, the oldest first.

    Where the bucket has no day, the first candle gives the date. Raises what asking for it raises: a row without its
    date would look like a symbol without candles.
    """
    began = time.perf_counter()
    bucket = runtime.bucket()
    with runtime.scope() as scope:
        try:
            sources = {market: runtime.rest(runtime.find(market.provider)) for market in MARKETS}
            trios = find_trios({market: load_listing(runtime, source, scope) for market, source in sources.items()})
            jobs = [partial(_look_up, bucket, trio.spot, scope) for trio in trios]
            found = run_in_network(runtime.pools, runtime.observe, jobs, scope)
        except BaseException:
            runtime.stop(scope)
            raise
    rows = []
    for (spot, um, cm), (first_ms, intervals) in zip(trios, found, strict=True):
        if first_ms is None:
            day = f"{find_first_candle(runtime, spot, SPOT.provider, 'candles', policy):%Y-%m-%d}"
        else:
            day = str(np.datetime64(first_ms, "ms").astype("M8[D]"))
        rows.append((SPOT.name, spot, day, ",".join(intervals), um, cm))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["earliest_date", "symbol"], ignore_index=True)
    runtime.observe(Operation("availability", time.perf_counter() - began, label=f"{len(frame):,} symbols"))
    return frame
