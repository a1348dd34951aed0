"""A provider that changes what was settled is caught at it: both values and both dates are kept."""

from __future__ import annotations

import pandas as pd
import pytest
from world import World, ms

COLUMNS = ["provider", "symbol", "timeframe", "kind", "timestamp", "column", "old", "new", "old_read", "new_read"]


@pytest.mark.fault("C05")
def test_a_changed_candle_is_listed_with_both_values_and_both_dates(world: World) -> None:
    fetcher = world.fetcher()
    span = ("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    old = fetcher.fetch(*span)["volume"].iloc[5]
    assert list(fetcher.cache.revisions().columns) == COLUMNS
    assert fetcher.cache.revisions().empty
    first_read = pd.Timestamp(world.now_s, unit="s", tz="UTC").floor("ms")
    world.now_s += 3_600
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-01T05:00"), volume="77.00000000")
    fetcher.fetch(*span)
    assert fetcher.cache.revisions().empty
    fetcher.fetch(*span, refresh=True)
    for cache in (fetcher.cache, world.fetcher().cache):
        (row,) = cache.revisions().to_dict("records")
        assert (row["provider"], row["symbol"], row["timeframe"], row["kind"]) == (
            "binance",
            "BTCUSDT",
            "1h",
            "candles",
        )
        assert (row["timestamp"], row["column"]) == (pd.Timestamp("2024-06-01 05:00", tz="UTC"), "volume")
        assert (row["old"], row["new"]) == (old, 77.0)
        assert (row["old_read"], row["new_read"]) == (first_read, first_read + pd.Timedelta(hours=1))


def test_the_newest_candle_that_is_read_again_is_compared_too(world: World) -> None:
    fetcher = world.fetcher(cache_ttl=60)
    fetcher.fetch("BTC/USDT", "1h", "2024-06-15")
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-15T11:00"), close="1.00000000", low="1.00000000")
    world.now_s += 61
    fetcher.fetch("BTC/USDT", "1h", "2024-06-15")
    assert fetcher.cache.revisions()["column"].tolist() == ["close", "low"]


@pytest.mark.slow
def test_nothing_is_listed_where_nothing_changed(world: World) -> None:
    fetcher = world.fetcher()
    for _ in range(3):
        fetcher.fetch("BTC/USDT", "1m", "2024-06-10", "2024-06-15", refresh=True)
        world.now_s += 100
    assert fetcher.cache.revisions().empty
    assert world.fetcher(use_cache=False).cache.revisions().empty
