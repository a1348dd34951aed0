"""`limit=N` answers with N candles: what could not be had before or after them is no part of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World, ms, same

from candle_fetcher import IncompleteData
from candle_fetcher.practice import faults

pytestmark = pytest.mark.fault("J02")
HOUR, DAY = 3_600_000, 86_400_000
# Chunk 476 of 1h holds 2024-04-20T08:00 to 2024-06-01T00:00 (excluded).
BORDER, NEXT = "2024-04-20T08:00", "2024-06-01"


def hide(world: World, first: str, hours: int, symbol: str = "BTCUSDT") -> None:
    world.exchange.hide("binance", symbol, (ms(first), ms(first) + hours * HOUR))


def fail_before(world: World, text: str) -> Any:
    return world.exchange.fail(
        faults.status(500),
        times=None,
        match=lambda path, params: "klines" in path and int(params.get("startTime", 0)) < ms(text),
    )


def truth(
    world: World, start: str, end: str, hidden: tuple[str, int], symbol: str = "BTCUSDT", timeframe: str = "1h"
) -> Any:
    """The exchange's candles without those of the hidden hours."""
    found = world.truth(symbol, timeframe, start, end)
    first = ms(hidden[0])
    kept = (found["open_time"] < first) | (found["open_time"] >= first + hidden[1] * HOUR)
    return {name: column[kept] for name, column in found.items()}


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="timestamp", parse_dates=True).tz_localize("UTC")


def test_out_of_the_cache_a_hole_among_the_newest_slots_takes_nothing_away(world: World) -> None:
    hole = ("2024-05-05T02:00", 3)
    hide(world, *hole)
    world.fetcher().fetch("BTC/USDT", "1h", "2024-05-04", "2024-05-05T20:00")
    stored = world.fetcher(source="cache")
    frame = stored.fetch("BTC/USDT", "1h", end="2024-05-05T20:00", limit=20)
    expected = truth(world, "2024-05-04T21:00", "2024-05-05T20:00", hole)
    same(frame, expected)
    same(read(stored.export("BTC/USDT", "1h", end="2024-05-05T20:00", limit=20, path=world.folder)), expected)


@pytest.mark.parametrize("limit", [20, 28])
def test_a_failure_before_the_newest_candles_is_not_reported(world: World, limit: int) -> None:
    hole = ("2024-04-20T20:00", 2)
    hide(world, *hole)
    fail_before(world, BORDER)
    fetcher = world.fetcher(source="rest", max_retries=0)
    # 28 candles are those from the border of the chunk on: the look goes on into the chunk before, which fails.
    frame = fetcher.fetch("BTC/USDT", "1h", end="2024-04-21T14:00", limit=limit)
    assert len(frame) == limit
    same(frame, truth(world, BORDER, "2024-04-21T14:00", hole), slice(-limit, None))
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", end="2024-04-21T14:00", limit=29)
    assert len(raised.value.frame) == 28


def test_a_failure_after_the_oldest_candles_is_not_reported(world: World) -> None:
    hole = ("2024-05-31T12:00", 4)
    hide(world, *hole)
    world.exchange.fail(
        faults.status(500),
        times=None,
        match=lambda path, params: "klines" in path and int(params.get("endTime", 0)) >= ms(NEXT),
    )
    frame = world.fetcher(source="rest", max_retries=0).fetch("BTC/USDT", "1h", "2024-05-31", limit=20)
    same(frame, truth(world, "2024-05-31", NEXT, hole))


def test_a_failure_among_the_newest_candles_is_reported_alone(world: World) -> None:
    fetcher = world.fetcher(source="rest", max_retries=0)
    fetcher.fetch("BTC/USDT", "1h", "2024-04-20T00:00", BORDER)
    fail = world.exchange.fail(faults.status(500), times=None, match="klines")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", end="2024-04-20T10:00", limit=5)
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2024-04-20T08:00:00Z", 2)]
    fail.stop()


@pytest.mark.slow
def test_the_archive_alone_gives_the_newest_candles_though_it_begins_soon_before(world: World) -> None:
    world.exchange.hide("binance", "SOLUSDT", (ms("2020-09-05"), ms("2020-09-08")))
    fetcher = world.fetcher(source="archive")
    frame = fetcher.fetch("SOL/USDT", "1d", end="2020-09-16", limit=20)
    same(frame, truth(world, "2020-08-24", "2020-09-16", ("2020-09-05", 72), "SOLUSDT", "1d"))
    assert len(frame) == 20


def test_resampled_candles_are_counted_the_same_way(world: World) -> None:
    hide(world, "2024-04-20T16:00", 4)
    fail_before(world, BORDER)
    frame = world.fetcher(source="rest", max_retries=0).fetch("BTC/USDT", "10h", end="2024-04-22", limit=3)
    assert len(frame) == 3


@pytest.mark.slow
def test_the_newest_candle_alone_comes_where_two_may_still_change(tmp_path: Path) -> None:
    with World(tmp_path / "cache", now="2024-06-15T12:30:10") as world:  # Alpaca's bars are final half a minute late
        fetcher = world.fetcher(provider="alpaca-crypto")
        two = fetcher.fetch("BTC/USD", "15m", limit=2, include_open=True)
        one = fetcher.fetch("BTC/USD", "15m", limit=1, include_open=True)
    assert two.index[-1] == one.index[0] == pd.Timestamp("2024-06-15T12:30", tz="UTC")
    assert two["is_closed"].tolist() == [False, False]
    assert len(one) == 1
    assert one.attrs["candle_fetcher"]["start"] == "2024-06-15T12:30:00Z"
