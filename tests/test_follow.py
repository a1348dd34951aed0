"""`follow`: every settled candle once, in order, equal to REST, also while the network fails."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_world import LiveWorld, shuffled
from runs import FAULT_RUNS
from world import ms, same

from candle_fetcher import CandleFetcherWarning, ClockSkew, IncompleteData, InputError, NotOffered, UnknownSymbol
from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.events import Yielded

MINUTE = 60_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30") as world:
        yield world


def slots(start: str, count: int, step_ms: int = MINUTE) -> list[int]:
    return [ms(start) + step_ms * number for number in range(count)]


def test_the_next_candle_comes_when_it_has_settled_and_is_in_the_cache(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(31)
    assert driver.items == []
    driver.run(2)
    assert driver.opens("BTC/USDT") == [ms("2024-06-15T12:00")]
    driver.run(60)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 2)
    world.asked()
    again = world.fetcher().fetch("BTC/USDT", "1m", "2024-06-15T12:00", "2024-06-15T12:02")
    assert world.asked() == []
    assert driver.frame("BTC/USDT").equals(again)
    assert driver.stats.confirmed == 2
    assert driver.stats.connections == 1


def test_history_goes_over_into_the_present_without_a_seam(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m", "2024-06-15T09:00")
    driver.run(200)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T09:00", 183)
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", "2024-06-15T09:00", "2024-06-15T12:03"))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("seconds", [pytest.param(5, marks=SLOW), 90, pytest.param(20 * 60, marks=SLOW)])
def test_what_closed_during_a_drop_comes_before_anything_newer(world: LiveWorld, seconds: float) -> None:
    driver = world.follow(["BTC/USDT", "ETH/USDT"], "1m")
    logged: list[object] = []
    driver.follower._base.log = logged.append
    driver.run(100)
    world.network.drop()
    back_s = world.now_s + seconds
    world.network.refuse = lambda now_s: TransportError("refused") if now_s < back_s else None
    driver.run(seconds + 130, 1.0)
    for symbol in ("BTC/USDT", "ETH/USDT"):
        opens = driver.opens(symbol)
        assert opens == slots("2024-06-15T12:00", len(opens))
        assert len(opens) == (world.now_ms - 2_000 - ms("2024-06-15T12:00")) // MINUTE
    assert driver.stats.connections == 2
    kinds = [event.kind for event in logged if isinstance(event, Yielded)]
    assert kinds.count("filled") >= (2 if seconds >= 90 else 0)


def test_a_stream_that_lies_changes_no_candle(world: LiveWorld) -> None:
    def lie(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        if body.get("data", {}).get("e") == "kline":
            body["data"]["k"]["c"] = "1.0"
        yield json.dumps(body).encode()

    world.network.change = lie
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(200)
    same(driver.frame("BTC/USDT"), world.truth("BTCUSDT", "1m", "2024-06-15T12:00", "2024-06-15T12:03"))
    assert driver.stats.differing == 3
    assert driver.stats.confirmed == 0


def test_shuffled_and_doubled_frames_give_each_candle_once(world: LiveWorld) -> None:
    chance, held = random.Random(3), []

    def shuffle(text: bytes) -> Iterator[bytes]:
        held.append(text)
        if len(held) > 5:
            chance.shuffle(held)
            yield from (held.pop(), held[0])

    world.network.change = shuffle
    driver = world.follow(["BTC/USDT", "ETH/USDT"], "1m")
    driver.run(300)
    for symbol in ("BTC/USDT", "ETH/USDT"):
        assert driver.opens(symbol) == slots("2024-06-15T12:00", 5)
        same(driver.frame(symbol), world.truth(symbol.replace("/", ""), "1m", "2024-06-15T12:00", "2024-06-15T12:05"))


def test_a_silent_stream_is_replaced_within_a_minute_and_holds_nothing_back(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(100)
    world.network.is_silent = True
    driver.run(62)
    assert len(world.network.attempts) == 2
    world.network.is_silent = False
    driver.run(200)
    opens = driver.opens("BTC/USDT")
    assert opens == slots("2024-06-15T12:00", len(opens))


@pytest.mark.slow
def test_a_rest_api_that_is_down_holds_candles_back_until_it_is_up(world: LiveWorld) -> None:
    from candle_fetcher.practice import faults

    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(40)
    down = world.exchange.fail(faults.status(503), times=None, match="klines")
    driver.run(150)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 1)
    down.stop()
    driver.run(40)
    opens = driver.opens("BTC/USDT")
    assert opens == slots("2024-06-15T12:00", len(opens))
    assert len(opens) >= 3


def test_a_candle_that_is_corrected_is_noted_and_yielded_again_where_that_is_asked_for(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m", revisions=True)
    plain = world.follow(["BTC/USDT"], "1m", settings={"cache_dir": world.folder / "apart"})
    for one in (driver, plain):
        one.step()
    for _ in range(35):
        world.now_s += 1
        driver.step()
        plain.step()
    first_ms = ms("2024-06-15T12:00")
    before = driver.items[0][1]
    world.exchange.restate("binance", "BTCUSDT", "1m", first_ms, close=str(float(before["high"].iloc[0])))
    for _ in range(62):
        world.now_s += 1
        driver.step()
        plain.step()
    changed = [frame for _, frame in driver.items if frame["is_revised"].all()]
    assert [frame.index[0].value // 10**6 for frame in changed] == [first_ms]
    assert changed[0]["close"].iloc[0] == before["high"].iloc[0]
    assert driver.opens("BTC/USDT") == plain.opens("BTC/USDT") == slots("2024-06-15T12:00", 2)
    assert "is_revised" not in plain.items[0][1]
    assert (driver.stats.revised, plain.stats.revised) == (1, 1)
    again = world.fetcher().fetch("BTC/USDT", "1m", "2024-06-15T12:00", "2024-06-15T12:02")
    assert driver.frame("BTC/USDT").equals(again)
    assert len(world.fetcher().cache.revisions()) == 1


def test_a_long_candle_is_read_once_more_two_minutes_after_its_close(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1h", revisions=True)
    hour_s = ms("2024-06-15T13:00") / 1000
    driver.run_to([hour_s + 2.1])
    high = float(driver.items[0][1]["high"].iloc[0])
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-15T12:00"), close=str(high))
    world.asked()
    driver.run_to([hour_s + 60, hour_s + 119])
    assert world.asked() == []
    driver.run_to([hour_s + 121, hour_s + 200, hour_s + 1800])
    assert len(world.asked()) == 1
    (_, again) = driver.items[-1]
    assert (again["is_revised"].all(), again["close"].iloc[0]) == (True, high)
    assert len(world.fetcher().cache.revisions()) == 1
    frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-06-15T12:00", "2024-06-15T13:00")
    assert frame["close"].iloc[0] == high
    assert world.asked() == []


def test_the_forming_candle_is_shown_between_closed_ones_and_never_after_its_close(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m", include_open=True)
    driver.run(200)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 3)
    seen: list[tuple[int, bool]] = []
    for _, frame in driver.items:
        seen += zip((frame.index.astype("int64") // 10**6).tolist(), frame["is_closed"].tolist(), strict=True)
    assert sum(not closed for _, closed in seen) > 50
    assert [open_ms for open_ms, _ in seen] == sorted(open_ms for open_ms, _ in seen)
    for number, (open_ms, closed) in enumerate(seen):
        if closed:
            assert all(later > open_ms for later, _ in seen[number + 1 :])


def test_the_forming_candle_is_shown_before_the_first_closed_one(world: LiveWorld) -> None:
    """A follower of 1h showed none in its first hour."""
    driver = world.follow(["BTC/USDT"], "1h", include_open=True)
    driver.run(10, 1.0)
    assert driver.items
    assert all(not frame["is_closed"].any() for _, frame in driver.items)


def test_a_forming_candle_that_no_stream_has_is_said_to_be_missing(world: LiveWorld) -> None:
    with pytest.warns(CandleFetcherWarning, match="no stream has BTC/USDT 7m"):
        world.follow(["BTC/USDT"], "7m", include_open=True)


def test_where_the_budget_is_small_the_streams_rows_come_first_and_are_compared_in_groups(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT", "ETH/USDT"], "1s")
    for lane in driver.follower.lanes:
        lane.ledger.every = 10
    world.asked()
    driver.run(62, 0.25)
    asked = world.asked()
    assert len(asked) <= 2 * 8
    for symbol in ("BTC/USDT", "ETH/USDT"):
        opens = driver.opens(symbol)
        assert opens == slots("2024-06-15T12:00:30", len(opens), 1000)
        assert len(opens) >= 59
        truth = world.truth(symbol.replace("/", ""), "1s", "2024-06-15T12:00:30", "2024-06-15T12:01:40")
        same(driver.frame(symbol), truth, slice(0, len(opens)))
    stats = driver.stats
    assert stats.confirmed + stats.unconfirmed == stats.candles
    assert stats.unconfirmed < 20
    world.asked()
    frame = world.fetcher().fetch("BTC/USDT", "1s", "2024-06-15T12:00:30", "2024-06-15T12:01:29")
    assert driver.frame("BTC/USDT").iloc[: len(frame)].equals(frame)
    assert world.asked() == []


def test_a_lie_that_was_handed_out_before_it_was_compared_is_taken_back(world: LiveWorld) -> None:
    def lie(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        if body.get("data", {}).get("e") == "kline":
            body["data"]["k"]["v"] = "7.0"
        yield json.dumps(body).encode()

    world.network.change = lie
    driver = world.follow(["BTC/USDT"], "1s", revisions=True)
    driver.follower.lanes[0].ledger.every = 5
    driver.run(33, 0.25)
    assert driver.stats.revised >= 20
    whole = driver.frame("BTC/USDT")
    opens = driver.opens("BTC/USDT")
    assert opens == slots("2024-06-15T12:00:30", len(opens), 1000)
    compared = len(opens) - driver.stats.unconfirmed
    assert not (whole["volume"].iloc[:compared] == 7.0).any()


def test_the_streams_rows_at_the_end_of_a_chunk_are_compared_too(tmp_path: Path) -> None:
    """No request is sent for a chunk that is complete, so that a lie in its last candles stayed for good."""
    border_s = 1_718_453_000  # a chunk of 1s has 1000 s

    def lie(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        if body.get("data", {}).get("e") == "kline":
            body["data"]["k"]["v"] = "7.0"
        yield json.dumps(body).encode()

    with LiveWorld(tmp_path, now="2024-06-15T12:03:17") as world:
        world.network.change = lie
        driver = world.follow(["BTC/USDT"], "1s")
        driver.follower.lanes[0].ledger.every = 5
        driver.run(9, 0.5)
        span = [(border_s + seconds) * 1000 for seconds in (-3, 0)]
        frame = world.fetcher().fetch("BTC/USDT", "1s", *span)
        same(frame, world.exchange.truth("binance", "BTCUSDT", "1s", *span))


def test_a_candle_that_does_not_come_in_time_is_an_error_and_the_loop_goes_on(world: LiveWorld) -> None:
    from candle_fetcher.practice import faults

    driver = world.follow(["BTC/USDT", "ETH/USDT"], "1m", max_delay_s=30)
    driver.run(40)
    down = world.exchange.fail(
        faults.status(503), times=None, match=lambda path, params: params.get("symbol") == "BTCUSDT"
    )
    driver.run(110)
    assert {type(error) for error in driver.errors} == {IncompleteData}
    assert driver.errors[0].symbol == "BTC/USDT"
    assert "503" in str(driver.errors[0])
    assert len(driver.opens("ETH/USDT")) == 2
    down.stop()
    driver.run(40)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 3)


@pytest.mark.slow
def test_a_missing_candle_of_the_provider_is_a_gap_and_holds_nothing_back(world: LiveWorld) -> None:
    first = ms("2024-06-15T12:01")
    world.exchange.hide("binance", "BTCUSDT", (first, first + MINUTE))
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(300)
    opens = driver.opens("BTC/USDT")
    assert opens == [open_ms for open_ms in slots("2024-06-15T12:00", len(opens) + 1) if open_ms != first]
    assert len(opens) >= 4


def test_a_machine_that_slept_connects_at_once_and_fills_what_it_missed(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(100)
    world.now_s += 3600
    driver.run(10)
    assert len(world.network.attempts) == 2
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 62)


@pytest.mark.parametrize("wrong_s", [-90, 90])
def test_a_wrong_clock_of_this_machine_changes_nothing(world: LiveWorld, wrong_s: float) -> None:
    driver = world.follow(["BTC/USDT"], "1m", settings={"clock": lambda: world.now_s + wrong_s})
    driver.run(155)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 3)


def test_a_finalizer_or_a_signal_handler_may_end_a_call_within_any_step(world: LiveWorld) -> None:
    """An Event takes a lock, which the step that was interrupted holds."""
    driver = world.follow(["BTC/USDT"], "1m")

    def interrupted() -> None:
        for event in (driver.follower.stop, driver.follower._wake, *(line.stop for line in driver.lines)):
            with event._cond:
                driver.follower.end()
                for line in driver.lines:
                    line.cut()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("set_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_holds_nothing_back(world: LiveWorld, set_s: float) -> None:
    """Once this machine's clock was set back, no candle came before that time had passed again."""
    driver = world.follow(["BTC/USDT"], "1m", settings={"clock": lambda: world.now_s + world.set_s})
    driver.run(40, 1.0)
    world.set_s = set_s
    with pytest.warns(ClockSkew):
        driver.run(120, 1.0)
    assert driver.opens("BTC/USDT") == slots("2024-06-15T12:00", 3)


def test_a_connection_is_renewed_before_its_end_and_nothing_is_lost(world: LiveWorld) -> None:
    def announce(text: bytes) -> Iterator[bytes]:
        yield text
        if world.now_s - began_s > 70 and not said:
            said.append(world.now_s)
            yield b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}'

    began_s, said = world.now_s, []
    world.network.change = announce
    driver = world.follow(["BTC/USDT"], "1m")
    driver.run(300)
    assert len(said) == 1
    assert len(world.network.attempts) == 2
    assert driver.stats.confirmed == driver.stats.candles == 5
    assert all(end - start < 1 for start, end in driver.stats.stale_spans)
    assert sum(conn.is_closed for conn in world.network.conns) == 1


def test_arguments_are_checked(world: LiveWorld) -> None:
    for wrong in ("BTC/USDT", [], [1], ["BTC/USDT", "BTC/USDT"], ["nowhere:BTC/USDT"]):
        with pytest.raises(InputError):
            world.follow(wrong, "1m")  # type: ignore[arg-type]
    with pytest.raises(UnknownSymbol, match="NO/SUCH"):
        world.follow(["BTC/USDT", "NO/SUCH"], "1m")
    with pytest.raises(InputError, match="max_delay_s"):
        world.follow(["BTC/USDT"], "1m", max_delay_s=0)
    with pytest.raises(InputError, match="cache"):
        world.follow(["BTC/USDT"], "1m", settings={"source": "cache"})
    with pytest.raises(NotOffered):
        world.follow(["BTC/USDT"], "1m", kind="mark")


def test_other_timeframes_than_the_streams_are_followed_by_requests(world: LiveWorld) -> None:
    driver = world.follow(["BTC/USDT"], "7m", "2024-06-15T11:00")
    driver.run(1000, 2)
    opens = driver.opens("BTC/USDT")
    truth = world.fetcher().fetch("BTC/USDT", "7m", "2024-06-15T11:00", world.now_ms)
    assert driver.frame("BTC/USDT").equals(truth)
    assert len(opens) == len(truth) >= 10


class Storm:
    """A network that drops, refuses, falls silent, doubles, shuffles and lies, all the time."""

    def __init__(self, world: LiveWorld, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.held: list[bytes] = []
        self.began_s = world.now_s
        world.network.change = self.change
        world.network.refuse = self.refuse

    def at(self, minute: int) -> None:
        """Do what is due in a minute."""
        if minute % 3 == 2:
            self.world.network.drop()
        self.world.network.is_silent = minute % 120 in range(60, 66)

    def refuse(self, now_s: float) -> Exception | None:
        minute = int(now_s - self.began_s) // 60
        return TransportError("refused") if minute % 47 < 3 or self.chance.random() < 0.1 else None

    def change(self, text: bytes) -> Iterator[bytes]:
        chance = self.chance.random()
        if chance < 0.02:
            body = json.loads(text)
            if body.get("data", {}).get("e") == "kline":
                body["data"]["k"].update(c="1.0", v="7.0")
                text = json.dumps(body).encode()
        self.held.append(text)
        if chance < 0.1:
            return
        yield from shuffled(self.held, self.chance)


def storm(world: LiveWorld, symbols: list[str], hours: float) -> None:
    """Follow the symbols through a storm, and hold every candle against the exchange."""
    first_ms = world.now_ms // MINUTE * MINUTE
    driver = world.follow(symbols, "1m")
    trouble = Storm(world, 5)
    minutes = round(hours * 60)
    for minute in range(minutes):
        trouble.at(minute)
        base_s = first_ms / 1000 + 60 * (minute + 1)
        driver.run_to(base_s + offset_s for offset_s in (0.01, 1.2, 2.005, 2.5, 4.0, 15.0, 31.0, 47.0))
    world.network.change, world.network.is_silent = (lambda text: (text,)), False
    driver.run(8, 1.0)
    end_ms = first_ms + MINUTE * minutes
    for symbol in symbols:
        assert driver.opens(symbol) == [first_ms + MINUTE * number for number in range(minutes)]
        provider, _, name = symbol.rpartition(":")
        truth = world.exchange.truth(provider or "binance", name.replace("/", ""), "1m", first_ms, end_ms)
        same(driver.frame(symbol), truth)
    stats = driver.stats
    assert stats.candles == minutes * len(symbols)
    assert stats.differing > 0 or hours < 1
    assert driver.errors == []
    rate = max(
        sum(1 for one in world.network.attempts if 0 <= one - start_s < 300) for start_s in world.network.attempts
    )
    assert rate <= 140
    again = world.fetcher()
    world.asked()
    for symbol in symbols:
        frame = again.fetch(symbol, "1m", first_ms, end_ms)
        assert driver.frame(symbol).equals(frame)
    assert world.asked() == []


def test_two_symbols_through_a_storm(world: LiveWorld) -> None:
    storm(world, ["BTC/USDT", "ETH/USDT"], 0.25)


@pytest.mark.long
def test_twenty_symbols_through_a_day_of_storm(world: LiveWorld) -> None:
    symbols = [
        "ADA/USDT",
        "BNB/USDT",
        "BTC/USDT",
        "DOGE/USDT",
        "ETH/BTC",
        "ETH/USDT",
        "SOL/USDT",
        "XRP/USDT",
        "ADA/BTC",
    ]
    symbols += [f"binance-um:{name}" for name in ("BTC/USDT", "ETH/USDT", "DOGE/USDT", "SOL/USDT")]
    symbols += [f"binance-us:{name}" for name in ("ADA/USDT", "BNB/USDT", "BTC/USDT", "ETH/USDT", "SOL/USDT")]
    symbols += ["binance-cm:BTCUSD_PERP", "binance-cm:ETHUSD_PERP"]
    assert len(symbols) == 20
    storm(world, symbols, min(24, 24 * FAULT_RUNS))
