"""Cases that are easy to get wrong: late candles, odd grids, aged beliefs, replies that lie, calls that meet."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, ms, same

from candle_fetcher import CacheWarning, CandleFetcher, CandleFetcherError, FetchManyError, IncompleteData, InputError
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.plan import chunk_of, chunk_span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import faults
from candle_fetcher.providers import find_provider

HOUR = 3_600_000
DAY = 24 * HOUR
SETTLE = 2000  # ms after its close until a candle counts as final


@pytest.fixture
def late_world(tmp_path: Path) -> Iterator[World]:
    """One in which EOS/ETH is long delisted."""
    with World(tmp_path, now="2026-06-15T12:00:30") as made:
        yield made


def manifest(frame: pd.DataFrame) -> Any:
    return frame.attrs["candle_fetcher"]


def causes(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return [(gap["cause"], gap["count"]) for gap in manifest(frame)["gaps"]]


def chunk_end(day: str) -> int:
    """The end of the chunk of 1h candles that holds the day."""
    hourly = parse_timeframe("1h")
    return chunk_span(hourly, chunk_of(hourly, ms(day))).end_ms


def held(reached: threading.Event, gate: threading.Event) -> faults.FaultAction:
    """The reply waits at the gate."""

    def act(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        reached.set()
        gate.wait(10)
        wire.send(reply.whole())
        return True

    return faults.FaultAction("held", act)


# Candles that come late, and candles off the usual grid


def test_a_candle_that_comes_late_is_there_at_the_next_call(world: World) -> None:
    world.now_s = ms("2024-06-15T12:00:05") / 1000
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-15T11:00"), ms("2024-06-15T12:00")))
    fetcher = world.fetcher()
    wanted = ("BTC/USDT", "1h", "2024-06-15T00:00", "2024-06-15T12:00")
    early = fetcher.fetch(*wanted)
    assert (causes(early), manifest(early)["end"]) == ([], "2024-06-15T11:00:00Z")  # it may still come
    world.exchange.unhide("binance", "BTCUSDT")
    world.now_s += 5 * 3600
    for asked in (fetcher, world.fetcher()):
        frame = asked.fetch(*wanted)
        same(frame, world.truth("BTCUSDT", *wanted[1:]))
        assert manifest(frame)["gaps"] == []


def test_a_day_that_comes_late_is_there_at_the_next_call_without_an_end(world: World) -> None:
    world.now_s = ms("2024-06-15T00:00:05") / 1000
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-14"), ms("2024-06-15")))
    fetcher = world.fetcher()
    assert len(fetcher.fetch("BTC/USDT", "1d", "2024-06-01")) == 13
    world.exchange.unhide("binance", "BTCUSDT")
    world.now_s += 20 * 3600
    same(fetcher.fetch("BTC/USDT", "1d", "2024-06-01"), world.truth("BTCUSDT", "1d", "2024-06-01", "2024-06-15"))


@pytest.mark.slow
@pytest.mark.fault("B02")
def test_every_3d_candle_is_there_once_it_is_settled(world: World) -> None:
    fetcher = world.fetcher()
    for step in range(28):
        now = ms("2024-06-01") + step * 18 * HOUR + 30_000
        world.now_s = now / 1000
        opens = world.truth("BTCUSDT", "3d", "2024-01-01", "2024-12-01")["open_time"]
        frame = fetcher.fetch("BTC/USDT", "3d", "2024-01-01")
        assert index_ms(frame).tolist() == opens[opens + 3 * DAY <= now - SETTLE].tolist(), step
        assert manifest(frame)["gap_count"] == 0


def test_filling_does_not_make_up_the_3d_candle_that_is_forming(world: World) -> None:
    fetcher = world.fetcher()
    for day in range(1, 10):
        world.now_s = ms(f"2024-06-{day:02}T12:00:30") / 1000
        frame = fetcher.fetch("BTC/USDT", "3d", "2024-05-01", on_gap="ffill")
        assert not frame["is_synthetic"].any(), day
        assert manifest(frame)["rows"] == len(frame)
        assert manifest(frame)["gap_count"] == 0


@pytest.mark.slow
def test_the_forming_3d_candle_is_found_alone_in_its_range(world: World) -> None:
    fetcher = world.fetcher()
    for day in range(1, 14):
        world.now_s = ms(f"2024-06-{day:02}T12:00:30") / 1000
        last = int(world.truth("BTCUSDT", "3d", "2024-05-01", "2024-07-01")["open_time"][-1])
        for start in (last, last - HOUR):
            frame = fetcher.fetch("BTC/USDT", "3d", start, include_open=True)
            assert index_ms(frame).tolist() == [last], day
            assert frame["is_closed"].tolist() == [False]


# The forming candle, and limits


def test_the_oldest_candles_come_without_the_forming_one_of_now(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-01-01", limit=5, include_open=True)
    same(frame, world.truth("BTCUSDT", "1h", "2024-01-01", "2024-01-01T05:00"))
    assert frame["is_closed"].all()
    found = manifest(frame)
    assert (found["end"], found["expected"], found["rows"]) == ("2024-01-01T05:00:00Z", 5, 5)
    assert found["gaps"] == []


@pytest.mark.parametrize(("timeframe", "start"), [("1d", "2024-06-15T05:00"), ("7h", "2024-06-15T12:00:10")])
def test_a_forming_candle_that_opens_before_the_start_is_left_out(world: World, timeframe: str, start: str) -> None:
    frame = world.fetcher().fetch("BTC/USDT", timeframe, start, include_open=True)
    assert len(frame) == 0
    assert manifest(frame)["rows"] == 0


def test_the_newest_candles_with_the_forming_one_are_as_many_as_the_manifest_says(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "1h", limit=5, include_open=True)
    assert frame["is_closed"].tolist() == [True] * 4 + [False]
    found = manifest(frame)
    assert (len(frame), found["rows"], found["expected"], sum(found["sources"].values())) == (5, 5, 5, 5)
    assert found["start"] == "2024-06-15T08:00:00Z"
    assert index_ms(frame)[0] == ms("2024-06-15T08:00")


@pytest.mark.parametrize("timeframe", ["1m", "1s"])
def test_few_requests_find_the_last_candles_of_a_symbol_that_was_delisted(late_world: World, timeframe: str) -> None:
    assert len(late_world.fetcher().fetch("EOS/ETH", timeframe, limit=5)) == 5
    assert len(late_world.exchange.requests) < 20


@pytest.mark.parametrize("timeframe", ["1m", "1s"])
def test_few_requests_find_the_first_candles_after_an_early_start(late_world: World, timeframe: str) -> None:
    assert len(late_world.fetcher().fetch("SOL/USDT", timeframe, "2010-01-01", limit=5)) == 5
    assert len(late_world.exchange.requests) < 20


@pytest.mark.fault("B13")
@pytest.mark.parametrize("limit", [10**12, 10**19, 10**30])
@pytest.mark.parametrize("timeframe", ["1M", "1w", "1d", "45m"])
def test_a_limit_beyond_all_time_is_refused(world: World, timeframe: str, limit: int) -> None:
    fetcher = world.fetcher()
    for start in (None, "2024-05-01"):
        for call in (fetcher.fetch, fetcher.plan):
            with pytest.raises(InputError, match="limit"):
                call("BTC/USDT", timeframe, start, limit=limit)


@pytest.mark.parametrize("timeframe", ["1M", "1w", "1d", "45m"])
def test_a_limit_beyond_the_history_gives_all_of_it_from_the_start(world: World, timeframe: str) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", timeframe, "2024-05-01", limit=10**9)
    pd.testing.assert_frame_equal(frame, fetcher.fetch("BTC/USDT", timeframe, "2024-05-01"), check_exact=True)
    assert len(frame) > 0


def test_a_refresh_with_a_limit_renews_what_lies_before_a_long_gap(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1h", "2023-12-01", "2024-06-01")
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-04"), ms("2024-05-20")))
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-02-20"), volume=12345.5)
    frame = fetcher.fetch("BTC/USDT", "1h", end="2024-06-01", limit=700, refresh=True)
    assert len(frame) == 700
    assert frame.loc["2024-02-20 00:00", "volume"] == 12345.5


# Holes, and what is believed about them


def test_a_hole_over_the_end_of_a_chunk_hides_nothing_of_a_delisted_symbol(late_world: World) -> None:
    border = chunk_end("2021-06-01")
    late_world.exchange.hide("binance", "EOSETH", (border - 3 * HOUR, border + 2 * HOUR))
    fetcher = late_world.fetcher()
    assert len(fetcher.fetch("EOS/ETH", "1h", border - 10 * HOUR, border - HOUR)) == 7
    frame = fetcher.fetch("EOS/ETH", "1h", border - 10 * HOUR, border + 500 * HOUR)
    assert (len(frame), causes(frame)) == (505, [("no_candle", 5)])
    frame = late_world.fetcher().fetch("EOS/ETH", "1h", border + 100 * HOUR, border + 500 * HOUR)
    assert (len(frame), causes(frame)) == (400, [])


def test_refetching_asks_for_a_hole_at_the_end_of_the_range_and_of_a_chunk(world: World) -> None:
    border = chunk_end("2023-06-01")
    world.exchange.hide("binance", "BTCUSDT", (border - 3 * HOUR, border + 2 * HOUR))
    fetcher = world.fetcher()
    assert len(fetcher.fetch("BTC/USDT", "1h", border - 10 * HOUR, border)) == 7
    world.exchange.unhide("binance", "BTCUSDT")
    for end, rows in ((border, 10), (border + 10 * HOUR, 20)):
        frame = fetcher.fetch("BTC/USDT", "1h", border - 10 * HOUR, end, on_gap="refetch")
        assert (len(frame), causes(frame)) == (rows, [])


def test_a_gap_that_a_wider_refetch_mended_is_mended_in_every_range(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-05"), ms("2024-03-05T05:00")))
    fetcher = world.fetcher()
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-03-04", "2024-03-07")) == 67
    world.exchange.unhide("binance", "BTCUSDT")
    assert causes(fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-10", on_gap="refetch")) == []
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-03-04", "2024-03-07")
    same(frame, world.truth("BTCUSDT", "1h", "2024-03-04", "2024-03-07"))
    assert causes(frame) == []


@pytest.mark.slow
def test_when_a_symbol_was_listed_is_asked_again_after_a_month_and_then_known(world: World) -> None:
    frame = world.fetcher().fetch("SOL/USDT", "1h", "2015-01-01", "2021-01-01")
    listed = (len(frame), causes(frame))
    assert listed[1][0] == ("not_listed", 49182)
    for _ in range(3):
        world.now_s += 31 * 86400
        world.asked()
        fetcher = world.fetcher()
        planned = fetcher.plan("SOL/USDT", "1h", "2015-01-01", "2021-01-01").requests
        frame = fetcher.fetch("SOL/USDT", "1h", "2015-01-01", "2021-01-01")
        assert (len(frame), causes(frame)) == listed
        assert 0 < len(world.asked()) <= planned
        fetcher.fetch("SOL/USDT", "1h", "2015-01-01", "2021-01-02")
        assert world.asked() == []


def test_the_causes_before_the_listing_and_after_the_delisting_stay_after_a_month(late_world: World) -> None:
    frame = late_world.fetcher().fetch("EOS/ETH", "1d", "2017-01-01", "2026-06-01")
    assert [cause for cause, _ in causes(frame)] == ["not_listed", "after_delisting"]
    late_world.now_s += 31 * 86400
    again = late_world.fetcher().fetch("EOS/ETH", "1d", "2017-01-01", "2026-06-01")
    assert causes(again) == causes(frame)


def test_candles_that_came_are_given_although_the_listing_cannot_be_asked_for(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-15T05:00"), ms("2024-06-15T12:00")))
    world.exchange.fail(faults.status(500), times=None, match="exchangeInfo")
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-15T10:00")
    same(frame, world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-15T05:00"))


# From the cache alone


def test_the_cache_alone_gives_what_outlived_its_time(world: World) -> None:
    world.fetcher(cache_ttl=60).fetch("BTC/USDT", "1h", "2024-06-01")
    world.now_s += 120
    world.asked("")
    frame = world.fetcher(cache_ttl=60).fetch("BTC/USDT", "1h", "2024-06-01", source="cache")
    same(frame, world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-15T12:00"))
    assert world.asked("") == []


def test_the_cache_alone_gives_what_lies_around_a_gap_a_month_later(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-05"), ms("2024-03-05T05:00")))
    wanted = ("BTC/USDT", "1h", "2024-03-01", "2024-03-10")
    frame = world.fetcher().fetch(*wanted)
    world.now_s += 31 * 86400
    again = world.fetcher().fetch(*wanted, source="cache")
    assert len(again) == 9 * 24 - 5
    assert causes(again) == causes(frame) == [("no_candle", 5)]


def test_the_cache_alone_gives_what_follows_the_listing_a_month_later(world: World) -> None:
    frame = world.fetcher().fetch("SOL/USDT", "1d", "2020-01-01", "2021-01-01")
    world.now_s += 31 * 86400
    again = world.fetcher().fetch("SOL/USDT", "1d", "2020-01-01", "2021-01-01", source="cache")
    assert len(again) == 143
    assert index_ms(again).tolist() == index_ms(frame).tolist()


def test_the_cache_alone_has_nothing_where_nothing_was_fetched(world: World) -> None:
    with pytest.raises(IncompleteData, match="allows no other source"):
        world.fetcher().fetch("BTC/USDT", "1h", "2024-01-01", source="cache")
    assert world.asked("") == []


# What a caller does to a frame


@pytest.mark.fault("D27")
def test_changing_a_manifest_changes_no_other(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-05"), ms("2024-03-05T05:00")))
    fetcher = world.fetcher()
    first = manifest(fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-10"))
    first["gaps"].clear()
    first["gap_count"] = 0
    frame = fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-10")
    assert causes(frame) == [("no_candle", 5)]
    assert manifest(frame)["gap_count"] == 1
    assert re.fullmatch("[0-9a-f]{64}", (manifest(frame) | {})["fingerprint"])


@pytest.mark.fault("D27")
def test_changing_a_frame_changes_no_other(world: World) -> None:
    fetcher = world.fetcher()
    first = fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-10", columns="all")
    untouched = first.copy(deep=True)
    first.index.name = "moved"
    first.iloc[0, 0] = 1.0
    first.loc[:, "close"] *= 2
    again = fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-10", columns="all")
    pd.testing.assert_frame_equal(again, untouched, check_exact=True)
    assert again.index.name == "timestamp"


# Replies that lie


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("said", [10**30, -5, 0, 2**63 - 1, 1_718_452_830])
def test_a_clock_that_lies_gives_the_truth_or_an_error_of_ours(world: World, said: int) -> None:
    world.exchange.fail(faults.body(b'{"serverTime":%d}' % said), times=None, match="/time")
    fetcher = world.fetcher(max_retries=0)
    for timeframe, end in (("1d", "2024-06-15"), ("1M", "2024-06-01")):
        try:
            frame = fetcher.fetch("BTC/USDT", timeframe, "2024-01-01")
        except CandleFetcherError:
            continue
        same(frame, world.truth("BTCUSDT", timeframe, "2024-01-01", end))


@pytest.mark.slow
@pytest.mark.fault("A10")
def test_a_first_candle_that_belongs_to_another_request_hides_no_candle(world: World) -> None:
    row = [ms("2023-01-01"), "1", "1", "1", "1", "1", ms("2023-01-02") - 1, "1", 1, "1", "1", "0"]
    world.exchange.fail(
        faults.body(json.dumps([row]).encode()),
        match=lambda _, params: params.get("startTime") == "0" and params.get("limit") == "1",
    )
    fetcher = world.fetcher()
    for end in ("2021-01-01", "2024-01-01"):
        try:
            frame = fetcher.fetch("SOL/USDT", "1d", "2020-01-01", end)
        except IncompleteData:
            continue
        same(frame, world.truth("SOLUSDT", "1d", "2020-01-01", end))
    frame = world.fetcher().fetch("SOL/USDT", "1d", "2020-01-01", "2024-01-01")
    same(frame, world.truth("SOLUSDT", "1d", "2020-01-01", "2024-01-01"))


@pytest.mark.fault("A13", "D24")
def test_empty_replies_do_not_make_a_traded_symbol_one_that_was_never_listed(world: World) -> None:
    world.exchange.fail(faults.body(b"[]"), times=3, match="klines")
    with pytest.raises(IncompleteData, match="traded"):
        world.fetcher().fetch("BTC/USDT", "1d", "2024-01-01", "2024-03-01", source="rest")
    world.now_s += 3590
    frame = world.fetcher().fetch("BTC/USDT", "1d", "2023-01-01", "2024-03-01")
    same(frame, world.truth("BTCUSDT", "1d", "2023-01-01", "2024-03-01"))


@pytest.mark.fault("A11")
@pytest.mark.slow
@pytest.mark.parametrize("cap", [1, 7, 150, 300])
def test_coin_m_pages_shorter_than_documented_leave_nothing_out(tmp_path: Path, cap: int) -> None:
    with World(tmp_path, page_cap=cap) as world:
        end = "2020-09-01" if cap == 1 else "2021-06-01"
        frame = world.fetcher().fetch("BTC/USD", "1d", "2020-06-01", end, provider="binance-cm", source="rest")
        same(frame, world.truth("BTCUSD_PERP", "1d", "2020-06-01", end, provider="binance-cm"))
        assert causes(frame) == [("not_listed", 71)]


@pytest.mark.slow
@pytest.mark.fault("A20")
def test_asking_during_a_pause_does_not_make_it_longer(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    world.exchange.fail(faults.rate_limited(400), match="klines")
    for _ in range(40):
        with pytest.raises(IncompleteData) as caught:
            fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02", source="rest")
    free = re.search(r"free in (\d+)", str(caught.value))
    assert free is not None
    assert int(free[1]) <= 400
    assert len(world.asked()) == 1


# Calls that meet


@pytest.mark.slow
@pytest.mark.fault("E05")
def test_a_failure_among_many_leaves_the_calls_of_other_threads_alone(tmp_path: Path) -> None:
    def fail_eth(event: Any) -> None:
        if event.label.startswith("ETH") and event.phase != "start":
            raise RuntimeError("callback")

    reached, gate = threading.Event(), threading.Event()
    found: list[Any] = []
    with World(tmp_path) as world:
        fetcher = world.fetcher(progress=fail_eth)

        def other() -> None:
            try:
                found.append(fetcher.fetch("BTC/USDT", "1m", "2024-01-01", "2024-01-08", source="rest"))
            except BaseException as error:
                found.append(error)
                raise

        world.exchange.fail(held(reached, gate), match=lambda _, params: params.get("symbol") == "BTCUSDT")
        thread = threading.Thread(target=other)
        thread.start()
        try:
            assert reached.wait(10)
            with pytest.raises((RuntimeError, FetchManyError)):
                fetcher.fetch_many(["ETH/USDT", "BNB/USDT"], "1h", "2024-01-01", "2024-03-01", source="rest")
        finally:
            gate.set()
            thread.join()
        same(found[0], world.truth("BTCUSDT", "1m", "2024-01-01", "2024-01-08"))


@pytest.mark.slow
def test_a_refresh_that_meets_a_fetch_of_the_same_chunk_renews_it(world: World) -> None:
    fetcher = world.fetcher(source="rest")
    fetcher.fetch("BTC/USDT", "1h", "2024-06-10")
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-12"), volume=12345.5)
    world.now_s += 7200
    fetcher.fetch("BTC/USDT", "1d", limit=1)  # asks for the time, so that the next request is one for candles
    reached, gate = threading.Event(), threading.Event()
    world.exchange.fail(held(reached, gate), match=lambda _, params: params.get("interval") == "1h")
    found: dict[str, pd.DataFrame] = {}

    def ask(name: str, **options: Any) -> threading.Thread:
        def run() -> None:
            found[name] = fetcher.fetch("BTC/USDT", "1h", "2024-06-10", **options)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first = ask("first")
    try:
        assert reached.wait(10)
        second = ask("second", refresh=True)
        second.join(0.1)  # it may wait for the first, or not
    finally:
        gate.set()
        first.join()
    second.join()
    assert found["second"].loc["2024-06-12 00:00", "volume"] == 12345.5
    assert len(found["first"]) == len(found["second"])


# What is planned, and what is sent

MARKETS = [
    ("binance", "SOLUSDT"),
    ("binance-um", "BTCUSDT"),
    ("binance-cm", "BTCUSD_PERP"),
    ("binance-us", "ADAUSDT"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_as_many_requests_are_sent_as_were_planned(late_world: World, seed: int) -> None:
    chance = random.Random(seed)
    provider, symbol = MARKETS[seed]
    timeframe = chance.choice(["1h", "1d", "15m", "45m", "1w", "1M", "4h"])
    options: dict[str, Any] = {"provider": provider, "source": chance.choice(["rest", "rest", "auto"])}
    fetcher = late_world.fetcher()
    fetcher.first_available(symbol, provider=provider)
    if timeframe in {"1d", "1w", "1M"}:
        fetcher.fetch(symbol, timeframe, "2010-01-01", "2023-03-01", provider=provider, source="rest")
    low, high = ms("2023-04-01"), ms("2026-05-01")
    for step in range(5):
        start = chance.randrange(low, high)
        end = min(high, start + chance.choice([1, 20, 90, 400]) * DAY)
        limit = chance.choice([3, 1200]) if step == 4 else None
        plan = fetcher.plan(symbol, timeframe, start, end, limit=limit, **options)
        late_world.exchange.clear_log()
        fetcher.fetch(symbol, timeframe, start, end, limit=limit, **options)
        requests = late_world.exchange.requests
        sent = [request for request in requests if "lines" in request.path or request.path.startswith("/data")]
        weight = sum(request.weight for request in sent if "/data" not in request.path)
        assert (plan.requests, plan.weight) == (len(sent), weight), (timeframe, step)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_plan_counts_what_was_evicted(world: World) -> None:
    wanted = ("BTC/USDT", "1m", "2024-01-01", "2024-02-01")
    fetcher = world.fetcher(disk_cache_size=1_000_000, memory_cache_size=0, source="rest")
    fetcher.fetch(*wanted)
    world.asked()
    plan = fetcher.plan(*wanted)
    assert plan.chunks["rest"] > 0
    fetcher.fetch(*wanted)
    assert len(world.asked()) == plan.requests


def test_a_provider_of_ones_own_under_a_known_name_fills_no_cache_of_the_real_one(world: World) -> None:
    settings: dict[str, Any] = {"cache_dir": world.folder, "clock": lambda: world.now_s, "progress": False}
    own = dataclasses.replace(find_provider("binance"), hosts=(world.exchange.url,))
    with CandleFetcher(**settings, source="rest", provider=own) as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1d", "2024-01-01", "2024-01-05")
    assert manifest(frame)["origin"] == world.exchange.url
    with CandleFetcher(**settings, source="cache") as fetcher, pytest.raises(IncompleteData):
        fetcher.fetch("BTC/USDT", "1d", "2024-01-01", "2024-01-05")


@pytest.mark.slow(every=3)
@pytest.mark.fault("D06")
@pytest.mark.parametrize(
    "number", ["999999999999", "9223372036854775807", "-999999999999", "9" * 5_000, "--5", "٣", ""]
)
def test_a_chunk_that_cannot_be_is_passed_over(world: World, number: str) -> None:
    with world.fetcher(source="rest") as fetcher:
        fetcher.fetch("BTC/USDT", "1h", "2024-05-01", "2024-05-03")
    con = sqlite3.connect(world.folder / "cache.db")
    copied = [name for _, name, *_ in con.execute("PRAGMA table_info(Cache)") if name not in ("rowid", "key")]
    key = next(
        key for (key,) in con.execute("SELECT key FROM Cache") if re.search(r"\|[0-9]+$", key) and "shelf" not in key
    )
    columns = ", ".join(copied)
    values = f"?, {columns} FROM Cache WHERE key = ?"
    con.execute(f"INSERT INTO Cache (key, {columns}) SELECT {values}", (f"{key.rpartition('|')[0]}|{number}", key))
    con.commit()
    con.close()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # an entry that is not its key's is damaged
        frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-05-01", source="cache")
    assert time.monotonic() - began < 30
    assert len(frame) == 744
    assert world.fetcher().fetch("BTC/USDT", "1h", "2024-05-01", "2024-05-03", source="cache").equals(frame[:48])


# Settings and arguments of the wrong kind

NOT_KINDS: list[Any] = [[], None]
NOT_COLUMNS: list[Any] = [[], np.array([1, 2])]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"cache_dir": value} for value in ("~nosuch/x", 5, "a\0b", "\0")),
        *({name: []} for name in ("performance_mode", "source")),
        *({name: 5} for name in ("clock", "progress", "api_keys", "provider")),
        *({"memory_cache_size": value} for value in (float("nan"), float("inf"))),
        *({"base_urls": value} for value in ({"binance": 5}, {5: "x"})),
        {"max_retries": 1.5},
        {"cache_ttl": True},
        {"timeout_s": float("inf")},
    ],
    ids=repr,
)
def test_a_setting_of_the_wrong_kind_is_refused(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        world.fetcher(**wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_FILE", "/dev/null/x.log"),
        ("LOG_FILE", "{folder}"),
        ("LOG_LEVEL", "x"),
        ("USE_CACHE", "x"),
        ("CACHE_TTL", "abc"),
        ("BASE_URLS", "x"),
        ("PROVIDER", "x"),
        ("SOURCE", "x"),
        ("NETWORK_THREADS", "2.5"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CANDLE_FETCHER_{name}", value.format(folder=tmp_path))
    with pytest.raises(InputError):
        CandleFetcher()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"kind": value} for value in NOT_KINDS),
        *({"columns": value} for value in NOT_COLUMNS),
        *({name: np.array([1, 2])} for name in ("on_gap", "source")),
        *({name: "no"} for name in ("refresh", "include_open")),
        *({"limit": value} for value in (5.0, True, 0)),
        *({"days": value} for value in (True, float("nan"), "3")),
        *({"start": value} for value in (1.7e12, float("nan"), 10**400)),
        {"provider": []},
    ],
    ids=lambda wrong: f"{wrong}"[:40],
)
def test_an_argument_of_the_wrong_kind_is_refused_before_anything_is_asked(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        world.fetcher().fetch("BTC/USDT", "1d", **wrong)
    assert world.asked("") == []


@pytest.mark.parametrize("name", ["limit", "days"])
def test_whole_numbers_of_numpy_are_whole_numbers(world: World, name: str) -> None:
    wanted: dict[str, Any] = {name: np.int64(5)}
    frame = world.fetcher().fetch("BTC/USDT", "1d", **wanted)
    same(frame, world.truth("BTCUSDT", "1d", "2024-06-10", "2024-06-15"))


# Anything, against the truth

BASES = {"45m": "15m", "7h": "1h"}
NOWS = ["2024-06-15T12:00:30", "2020-08-15T03:20:11", "2025-05-30T00:00:01", "2018-02-12T01:00:00"]
Rows = list[tuple[float, ...]]


def settled(world: World, provider: str, symbol: str, timeframe: str, start: int, end: int) -> Rows:
    """Open time, open, high, low and close of the final candles in the range, resampled here where nobody has them."""
    grid = parse_timeframe(timeframe)
    done = int(world.now_s * 1000) - SETTLE
    base = BASES.get(timeframe, timeframe)
    wide = 2 * grid.nominal_ms if base != timeframe else 0
    truth = world.exchange.truth(provider, symbol, base, start - wide, end + wide)
    fields = [truth[name] for name in ("open_time", "open", "high", "low", "close")]
    rows: Rows = list(zip(*(field.tolist() for field in fields), strict=True))
    if base != timeframe:
        slots: dict[int, Rows] = {}
        for row in rows:
            slots.setdefault(grid.open_ms(grid.ordinal(int(row[0]))), []).append(row)
        rows = [
            (opened, part[0][1], max(row[2] for row in part), min(row[3] for row in part), part[-1][4])
            for opened, part in slots.items()
        ]
    return [row for row in rows if start <= row[0] < end and grid.close_ms(int(row[0])) <= done]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow(keep=("0",))
@pytest.mark.parametrize("seed", range(10))
def test_any_fetch_gives_the_final_candles_of_its_range(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    provider, symbol = [*MARKETS, ("binance", "EOSETH")][seed % 5]
    timeframes = ["3d", "1w", "1M", "45m", "7h"]
    first = ms("2016-06-01")
    with World(tmp_path, now=NOWS[seed % 4], page_cap=chance.choice([None, None, 300])) as world:
        fetcher = world.fetcher(cache_ttl=chance.choice([None, 30]), source="rest")
        try:
            fetcher.first_available(symbol, provider=provider)
        except CandleFetcherError:
            world.now_s = ms("2021-02-03T04:05:06") / 1000
        for step in range(10):
            world.now_s += chance.choice([0, 0, 0.5, 3, 3700, 86400, 3 * 86400, 40 * 86400])
            if chance.random() < 0.2:
                fetcher = world.fetcher(source="rest")
            timeframe = timeframes[(seed + step) % 5]
            size, now = parse_timeframe(timeframe).nominal_ms, int(world.now_s * 1000)
            end = None if chance.random() < 0.5 else now - chance.randrange(400) * chance.choice([size, size // 3 + 1])
            start = max(first, (end or now) - chance.choice([1, 3, 50, 999, 1001]) * size - chance.randrange(size))
            if end is not None and end <= start:
                continue
            mode = chance.choice(["range", "range", "open", "newest", "oldest"])
            limit = chance.choice([1, 5, 700])
            until = end if end is not None else now + 1
            options: dict[str, Any] = {"provider": provider}
            if mode == "newest":
                wanted = settled(world, provider, symbol, timeframe, first, until)[-limit:]
                frame = fetcher.fetch(symbol, timeframe, end=end, limit=limit, **options)
            elif mode == "oldest":
                wanted = settled(world, provider, symbol, timeframe, start, now + 1)[:limit]
                frame = fetcher.fetch(symbol, timeframe, start, limit=limit, **options)
            else:
                wanted = settled(world, provider, symbol, timeframe, start, until)
                frame = fetcher.fetch(symbol, timeframe, start, end, include_open=mode == "open", **options)
            told = (step, timeframe, mode, limit, dt.datetime.fromtimestamp(start / 1000, dt.timezone.utc), end, now)
            if mode == "range":
                assert len(fetcher.gaps(symbol, timeframe, start, end, **options)) == manifest(frame)["gap_count"], told
            assert manifest(frame)["rows"] == len(frame), told
            if mode == "open":
                frame = frame[frame["is_closed"]]
            values = (frame[name].tolist() for name in ("open", "high", "low", "close"))
            assert list(zip(index_ms(frame).tolist(), *values, strict=True)) == wanted, told


@pytest.mark.parametrize("timeframe", ["1d", "2d", "2w", "45m"])
def test_a_limit_before_the_listing_stays_in_its_range(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher(source="rest")
        for _ in range(2):
            oldest = fetcher.fetch("SOL/USDT", timeframe, "2019-06-01", "2019-07-01", limit=5)
            newest = fetcher.fetch("SOL/USDT", timeframe, end="2019-07-01", limit=5)
            for frame in (oldest, newest):
                manifest = frame.attrs["candle_fetcher"]
                assert len(frame) == manifest["rows"] == 0
                assert manifest["start"] <= manifest["end"] <= "2019-07-01T00:00:00Z"
                assert {gap["cause"] for gap in manifest["gaps"]} <= {"not_listed"}


@pytest.mark.parametrize("timeframe", ["2d", "2w", "7h", "1w"])
def test_a_listing_inside_a_slot_is_the_cause_of_what_lies_before(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path) as world:
        gaps = world.fetcher(source="rest").gaps("SOL/USDT", timeframe, "2019-06-01", "2020-10-01")
        assert gaps["cause"].tolist() == ["not_listed"]


def test_a_limit_that_cannot_be_reached_ends_also_when_everything_is_asked_again(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        ticking = world.fetcher(clock=lambda: world.now_s + time.monotonic() % 1 / 10)
        for _ in range(2):
            frame = ticking.fetch("SOL/USDT", "1M", limit=500, refresh=True)
            assert frame.index[0] == pd.Timestamp("2020-08-01", tz="UTC")
