"""How long after their close candles change is learned, and used: a candle that may have changed is read once more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_world import Driver, LiveWorld
from world import World, ms

from candle_fetcher import Banned
from candle_fetcher.core.candles import candles_from
from candle_fetcher.core.corrections import MOST_LAG_MS, Corrections
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import CandleFetcherWarning
from candle_fetcher.core.finality import Finality, Settling
from candle_fetcher.core.live import CandleUpdate
from candle_fetcher.core.plan import find_corrected
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import faults

MINUTE, DAY = 60_000, 86_400_000
SETTLING = Settling(parse_timeframe("1m"), Finality(delay_ms=2_000, confirm_ms=2 * MINUTE))
NOON = "2024-06-15T12:00"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, now="2024-06-15T12:00:03") as world:
        yield world


def revision(before_ms: int, after_ms: int, open_ms: int = ms(NOON)) -> Revision:
    """A candle that had other values at the second of these ages than at the first one."""
    close_ms = open_ms + MINUTE
    return Revision(open_ms, "close", 1.0, 2.0, close_ms + before_ms, close_ms + after_ms)


@pytest.mark.parametrize(
    ("before_ms", "after_ms", "lag_ms"),
    [
        (3_000, 48_000, 48_000),
        (3_000, 5 * MINUTE, 2 * MINUTE),  # by what the feed states it had settled long before
        (3_000, 30 * DAY, 2 * MINUTE),
        (3 * MINUTE, 30 * MINUTE, 6 * MINUTE + 1),
        (3 * MINUTE, 4 * MINUTE, 4 * MINUTE),
        (40 * MINUTE, 30 * DAY, MOST_LAG_MS),
        (1_999, 60_000, 0),  # it had not settled
        (-60_000, 60_000, 0),  # a stream's candle
        (2 * 60 * MINUTE, 3 * 60 * MINUTE, 0),  # restated
    ],
)
def test_the_lag_is_between_two_readings(before_ms: int, after_ms: int, lag_ms: int) -> None:
    found = Corrections().found([revision(before_ms, after_ms)], SETTLING)
    assert found.at(found.seen_ms) == lag_ms
    assert found.seen_ms == (ms(NOON) + MINUTE + after_ms if lag_ms else 0)


@pytest.mark.parametrize(("timeframe", "lag_ms"), [("1s", 900_000), ("1m", MOST_LAG_MS), ("1d", MOST_LAG_MS)])
def test_no_more_candles_are_read_once_more_than_a_request_can_read(timeframe: str, lag_ms: int) -> None:
    settling = Settling(parse_timeframe(timeframe), SETTLING.finality, corrected_ms=MOST_LAG_MS)
    assert settling.confirm_ms == lag_ms


AGES = st.integers(-MINUTE, 2 * MOST_LAG_MS)


@given(st.lists(st.tuples(AGES, AGES), max_size=5))
def test_after_the_lag_no_candle_was_seen_to_change_but_for_restated_ones(ages: list[tuple[int, int]]) -> None:
    found = Corrections()
    for before_ms, after_ms in ages:
        found = found.found([revision(before_ms, after_ms)], SETTLING)
    seen = [before for before, after in ages if 2_000 <= before < min(after, MOST_LAG_MS)]
    lag_ms = found.at(found.seen_ms)
    assert lag_ms <= MOST_LAG_MS
    assert (lag_ms > max(seen)) if seen else lag_ms == 0
    assert all(found.at(found.seen_ms + later_ms) == 0 for later_ms in (30 * DAY, -30 * DAY))


def correct_one(world: World, **settings: Any) -> None:
    """Have a fetcher see that a candle of BTC/USDT was corrected between 3 and 63 seconds after its close."""
    fetcher = world.fetcher(**settings)
    fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00", NOON)
    world.exchange.restate("binance", "BTCUSDT", "1m", ms("2024-06-15T11:59"), volume=1.5)
    world.now_s += 60
    frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00", "2024-06-15T12:01")
    assert frame["volume"].iloc[-2] == 1.5
    world.asked()


def restate_last(world: World, **fields: Any) -> None:
    world.exchange.restate("binance", "ETHUSDT", "1m", ms(NOON), **fields)


SPAN = "ETH/USDT", "1m", "2024-06-15T11:00", "2024-06-15T12:01"


def test_a_candle_is_read_once_more_where_the_provider_is_known_to_correct_them(world: World) -> None:
    correct_one(world)
    fetcher = world.fetcher()
    fetcher.fetch(*SPAN)
    restate_last(world, volume=2.5)
    world.asked()
    world.now_s += 60
    assert fetcher.fetch(*SPAN)["volume"].iloc[-1] != 2.5
    assert world.asked() == []  # it is too early to know more
    world.now_s += 60
    assert world.fetcher().fetch(*SPAN, source="cache")["volume"].iloc[-1] != 2.5
    frame = fetcher.fetch(*SPAN)
    assert frame["volume"].iloc[-1] == 2.5
    assert [one["startTime"] for one in world.asked()] == [str(ms("2024-06-15T11:59"))]
    for again in (fetcher, world.fetcher()):
        assert again.fetch(*SPAN).equals(frame)
    assert world.asked() == []
    assert [int(one.value // 10**6) for one in fetcher.cache.revisions()["timestamp"]] == [
        ms("2024-06-15T11:59"),
        ms(NOON),
    ]


def test_no_request_is_sent_for_it_where_the_provider_is_not_known_to_correct_candles(world: World) -> None:
    fetcher = world.fetcher()
    world.now_s += 60
    first = fetcher.fetch(*SPAN)
    restate_last(world, volume=2.5)
    world.asked()
    world.now_s += 600
    assert fetcher.fetch(*SPAN).equals(first)
    assert world.fetcher().fetch(*SPAN).equals(first)
    assert world.asked() == []


def test_frames_in_memory_are_not_final_any_more_once_a_correction_was_seen(world: World) -> None:
    fetcher = world.fetcher()
    span = "ETH/USDT", "1m", "2024-06-15T11:00", NOON
    fetcher.fetch(*span)
    fetcher.fetch(*span)
    world.exchange.restate("binance", "ETHUSDT", "1m", ms("2024-06-15T11:59"), volume=2.5)
    correct_one(world, cache_dir=fetcher.cache.path)
    world.now_s += 120
    other = world.fetcher()
    assert other.fetch(*span)["volume"].iloc[-1] == 2.5


def test_a_fetcher_drops_its_frames_when_it_learns_of_corrections(world: World) -> None:
    fetcher = world.fetcher()
    span = "ETH/USDT", "1m", "2024-06-15T11:00", NOON
    for _ in range(2):
        fetcher.fetch(*span)
    world.exchange.restate("binance", "ETHUSDT", "1m", ms("2024-06-15T11:59"), volume=2.5)
    btc = "BTC/USDT", "1m", "2024-06-15T11:00"
    fetcher.fetch(*btc, NOON)
    world.exchange.restate("binance", "BTCUSDT", "1m", ms("2024-06-15T11:59"), volume=1.5)
    world.now_s += 60
    fetcher.fetch(*btc, "2024-06-15T12:01")
    world.now_s += 60
    assert fetcher.fetch(*span)["volume"].iloc[-1] == 2.5


def test_what_is_stored_answers_where_the_provider_cannot_be_asked_once_more(world: World) -> None:
    correct_one(world)
    fetcher = world.fetcher()
    first = fetcher.fetch(*SPAN)
    world.now_s += 120
    down = world.exchange.fail(faults.status(503), times=None, match="klines")
    with pytest.warns(CandleFetcherWarning, match="could not be read once more") as raised:
        assert fetcher.fetch(*SPAN).equals(first)
    assert len(raised) == 1
    assert world.asked() != []
    down.stop()
    restate_last(world, volume=2.5)
    assert fetcher.fetch(*SPAN)["volume"].iloc[-1] == 2.5


def test_a_ban_does_not_keep_back_what_is_stored(world: World) -> None:
    correct_one(world)
    fetcher = world.fetcher()
    first = fetcher.fetch(*SPAN)
    world.now_s += 120
    world.exchange.fail(faults.banned(int((world.now_s + 600) * 1000)), times=None, match="klines")
    for _ in range(2):
        with pytest.warns(CandleFetcherWarning, match="could not be read once more"):
            assert fetcher.fetch(*SPAN).equals(first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Banned):
            fetcher.fetch("ETH/USDT", "1m", "2024-06-13", "2024-06-15T12:01")


def test_coverage_says_which_candles_are_read_once_more_and_when(world: World) -> None:
    correct_one(world)
    fetcher = world.fetcher()
    fetcher.fetch(*SPAN)
    *_, row = fetcher.coverage(*SPAN).itertuples()
    assert (row.state, row.start.isoformat()) == ("stored", "2024-06-15T11:59:00+00:00")
    assert (row.asked, row.ask_again) == (pd.Timestamp("2024-06-15T12:01:03Z"), pd.Timestamp("2024-06-15T12:03Z"))
    assert row.evidence.startswith("binance was seen to change candles up to 63.0 s after their close")
    world.now_s += 120
    fetcher.fetch(*SPAN)
    *_, row = fetcher.coverage(*SPAN).itertuples()
    assert (row.state, row.evidence) == ("stored", "")


def test_candles_that_the_provider_serves_no_more_are_final(world: World) -> None:
    """Kraken serves the newest 720."""
    world.exchange.kraken.burst = 1_000
    changed = revision(3_000, 60_000, ms("2024-06-15T11:00"))
    span = "ETH/USD", "1m", "2024-06-15T11:00", NOON
    for later_s, requests in ((120, 1), (DAY / 1000, 0)):
        fetcher = world.fetcher(provider="kraken", cache_dir=world.folder / str(later_s))
        wanted = fetcher._door.request("BTC/USD", "1m", None, "candles")
        assert fetcher.cache.facts.learn_corrections(wanted.series, [changed], wanted.feed.settling(wanted.series))
        first = fetcher.fetch(*span)
        world.asked("OHLC")
        world.now_s += later_s
        assert fetcher.fetch(*span).equals(first)
        assert len(world.asked("OHLC")) == requests
        world.now_s -= later_s


def test_providers_that_allow_few_requests_a_day_are_not_asked_once_more() -> None:
    entry = Entry(Span(0, MINUTE), MINUTE + 3_000, (), candles_from(["open_time"], [np.zeros(1, np.int64)]))
    for spares, from_ms in ((False, 0), (True, None)):
        settling = Settling(SETTLING.timeframe, Finality(spares_edge=spares), corrected_ms=MINUTE)
        assert find_corrected(entry, settling) == from_ms


def test_a_market_that_corrected_nothing_for_a_month_counts_as_one_that_does_not(world: World) -> None:
    correct_one(world)
    world.now_s += 31 * DAY / 1000
    fetcher = world.fetcher()
    minute_ms = int(world.now_s // 60 * 60_000)
    span = "ETH/USDT", "1m", minute_ms - 60 * MINUTE, minute_ms
    fetcher.fetch(*span)
    world.asked()
    world.now_s += 600
    fetcher.fetch(*span)
    assert world.asked() == []


def test_clear_forgets_what_was_learned(world: World) -> None:
    correct_one(world)
    fetcher = world.fetcher()
    fetcher.fetch(*SPAN)
    fetcher.cache.clear()
    fetcher.fetch(*SPAN)
    world.asked()
    world.now_s += 600
    fetcher.fetch(*SPAN)
    assert world.asked() == []


def correct(world: LiveWorld, driver: Driver, open_ms: int, volume: float, *, is_in_rest: bool = True) -> None:
    """Have the stream say that a candle of the first series has another volume."""
    if is_in_rest:
        world.exchange.restate("binance", "BTCUSDT", "1m", open_ms, volume=volume)
    truth = world.exchange.truth("binance", "BTCUSDT", "1m", open_ms, open_ms + MINUTE)
    prices = (float(truth[name][0]) for name in ("open", "high", "low", "close"))
    update = CandleUpdate("BTC/USDT", open_ms, (*prices, volume), True, 1, None, True)
    driver.follower.heard(driver.follower.lanes[0], update, world.now_s)


def revised(driver: Driver) -> list[tuple[int, float]]:
    """The open times and volumes of the candles that were yielded once more."""
    frames = [frame for _, frame in driver.items if frame["is_revised"].all()]
    return [(int(one.index[0].value // 10**6), float(one["volume"].iloc[0])) for one in frames]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30") as live:
        yield live


def test_a_correction_long_after_the_close_is_yielded_and_learned(live: LiveWorld) -> None:
    driver = live.follow(["BTC/USDT"], "1m", revisions=True)
    driver.run(333, 9.0)
    correct(live, driver, ms(NOON), 1.5)
    driver.run(2)
    assert revised(driver) == [(ms(NOON), 1.5)]
    assert driver.stats.revised == 1
    again = live.fetcher().fetch("BTC/USDT", "1m", NOON, "2024-06-15T12:06")
    assert driver.frame("BTC/USDT").equals(again)
    series = driver.follower.lanes[0].wanted.series
    assert driver.follower._cache.facts.corrections(series).at(live.now_ms) > 4 * MINUTE


def test_a_correction_is_yielded_without_a_cache(live: LiveWorld) -> None:
    driver = live.follow(["BTC/USDT"], "1m", revisions=True, settings={"use_cache": False})
    driver.run(333, 9.0)
    correct(live, driver, ms(NOON), 1.5)
    driver.run(2)
    assert revised(driver) == [(ms(NOON), 1.5)]


def test_each_follower_of_a_series_yields_its_correction(live: LiveWorld) -> None:
    first = live.follow(["BTC/USDT"], "1m", revisions=True)
    second = live.follow(["BTC/USDT"], "1m", revisions=True, fetcher=live.fetchers[0])
    for _ in range(37):
        live.now_s += 9
        first.step()
        second.step()
    for driver in (first, second):
        correct(live, driver, ms(NOON), 1.5)
        driver.step()
        assert revised(driver) == [(ms(NOON), 1.5)]


def test_a_candle_before_the_first_one_is_not_yielded_as_a_correction(live: LiveWorld) -> None:
    live.fetcher().fetch("BTC/USDT", "1m", "2024-06-15T11:50", NOON)
    driver = live.follow(["BTC/USDT"], "1m", revisions=True)
    driver.run(40)
    correct(live, driver, ms("2024-06-15T11:55"), 1.5)
    driver.run(2)
    assert revised(driver) == []


def test_a_correction_that_rest_has_later_than_the_stream_is_yielded_then(live: LiveWorld) -> None:
    driver = live.follow(["BTC/USDT"], "1m", revisions=True)
    driver.run(333, 9.0)
    correct(live, driver, ms(NOON), 1.5, is_in_rest=False)
    driver.run(10)
    assert revised(driver) == []
    live.exchange.restate("binance", "BTCUSDT", "1m", ms(NOON), volume=1.5)
    driver.run(40)
    assert revised(driver) == [(ms(NOON), 1.5)]
    live.asked()
    correct(live, driver, ms(NOON), 2.5, is_in_rest=False)
    driver.run(600, 15.0)
    starts = [one["startTime"] for one in live.asked()]
    assert starts.count(str(ms(NOON))) == 4  # and no more: what REST says counts


def test_a_correction_that_comes_while_another_is_read_is_not_lost(live: LiveWorld) -> None:
    driver = live.follow(["BTC/USDT"], "1m", revisions=True)
    driver.run(333, 9.0)
    meant = [(ms(NOON), 1.5), (ms(NOON) + MINUTE, 2.5)]

    def hear(path: str, params: dict[str, str]) -> bool:
        if len(said) == 1:
            said.append(meant[1])
            correct(live, driver, *meant[1])
        return False

    said = [meant[0]]
    live.exchange.fail(faults.status(503), match=hear)
    correct(live, driver, *meant[0])
    driver.run(2)
    assert revised(driver) == meant


def test_a_correction_is_yielded_that_is_seen_when_a_candle_is_read_for_the_last_time(live: LiveWorld) -> None:
    """It went into the cache, and was no more compared with what had been yielded."""
    driver = live.follow(["BTC/USDT"], "1m", revisions=True)
    driver.run(140, 5.0)
    assert driver.opens("BTC/USDT")[0] == ms(NOON)
    live.exchange.restate("binance", "BTCUSDT", "1m", ms(NOON), volume=1.5)
    driver.run(30, 5.0)
    assert revised(driver) == [(ms(NOON), 1.5)]


@pytest.mark.slow
def test_a_series_is_compared_for_as_long_as_another_one_of_its_market_was_seen_to_change(live: LiveWorld) -> None:
    driver = live.follow(["BTC/USDT", "ETH/USDT"], "1m", revisions=True)
    driver.run(333, 9.0)
    correct(live, driver, ms(NOON), 1.5)
    driver.run(3)
    open_ms = ms("2024-06-15T12:06")
    driver.run(270, 9.0)  # it was read at the ages of 2, 62, 122 and 182 s
    live.exchange.restate("binance", "ETHUSDT", "1m", open_ms, volume=2.5)
    driver.run(120, 9.0)
    assert revised(driver) == [(ms(NOON), 1.5), (open_ms, 2.5)]


def test_a_candle_that_the_provider_has_after_later_ones_is_yielded_as_a_correction(live: LiveWorld) -> None:
    """It was in the cache later, and never yielded."""
    open_ms = live.now_ms + 1_000
    live.exchange.hide("binance", "BTCUSDT", (open_ms, open_ms + 1_000))
    driver = live.follow(["BTC/USDT"], "1s", revisions=True)
    driver.run(6, 1.0)
    assert driver.opens("BTC/USDT") == [open_ms - 1_000, open_ms + 1_000, open_ms + 2_000]
    live.exchange.unhide("binance", "BTCUSDT")
    driver.run(2, 1.0)
    assert [one for one, _ in revised(driver)] == [open_ms]
    span = "BTC/USDT", "1s", open_ms - 1_000, open_ms + 5_000
    assert driver.frame("BTC/USDT").equals(live.fetcher().fetch(*span, source="cache"))


def test_a_candle_of_several_is_not_forgotten_before_all_of_them_count_as_read(live: LiveWorld) -> None:
    """The newer candles of its stream were not read with it, so that its last one was read once more, unseen."""
    driver = live.follow(["BTC/USDT"], "7m", revisions=True)
    driver.run_to(ms("2024-06-15T12:00") / 1000 + seconds for seconds in (402, 430, 441, 530))
    assert driver.opens("BTC/USDT") == [ms("2024-06-15T11:58")]
    live.exchange.restate("binance", "BTCUSDT", "1m", ms("2024-06-15T12:04"), volume=500.0)
    driver.run(400, 9.0)
    frame = live.fetcher().fetch("BTC/USDT", "7m", "2024-06-15T11:58", "2024-06-15T12:12", source="cache")
    assert driver.frame("BTC/USDT").equals(frame)
