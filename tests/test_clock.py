"""The clock of a provider: how far one reply is believed about it, and one instant for each public call."""

from __future__ import annotations

import contextlib
import email.utils
import time
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, ms, same

from candle_fetcher import CandleFetcher, ClockSkew, IncompleteData, InputError
from candle_fetcher.core.errors import ReplyError, TransportError
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import faults
from candle_fetcher.providers import find_provider
from candle_fetcher.sources.clock import Reading, ReplyHead, ServerClock, measure, measure_date

DAY_S, YEAR_S = 86_400, 365 * 86_400


# -- readings ----------------------------------------------------------------------------------------------------------


class Line:
    """A service at the end of a line: its clock, this machine's two clocks, and how long each reply takes."""

    def __init__(self, *, ahead_s: float = 0.0) -> None:
        self.true_s = 1_718_452_830.25
        self.steady_s = 50.0
        self.ahead_s = ahead_s  # of the service, before this machine
        self.asked = 0
        self.clock = ServerClock(lambda: self.true_s - self.ahead_s, lambda: self.steady_s)

    def passes(self, seconds: float) -> None:
        self.true_s += seconds
        self.steady_s += seconds

    def ask(self, there_s: float = 0.03, back_s: float = 0.03, *, lies_s: float = 0.0, dated: bool = False) -> Reading:
        self.asked += 1
        sent = self.clock.moment()
        self.passes(there_s)
        server_s = self.true_s + lies_s
        self.passes(back_s)
        headers = {"date": email.utils.formatdate(int(server_s), usegmt=True)} if dated else {}
        heard = ReplyHead(headers, sent, self.clock.moment())
        reading = measure_date(heard) if dated else measure(int(server_s * 1000), heard)
        assert reading is not None
        return reading

    def read(self, *replies: Callable[[], Reading | None]) -> float:
        """How far the clock is then believed to be behind the service's, in seconds."""
        left = list(replies)
        server_ms = self.clock.read("fake", lambda again: left.pop(0)())
        return self.true_s - server_ms / 1000


@pytest.mark.fault("K06")
def test_a_slow_reply_is_asked_for_again_and_neither_delays_nor_warns() -> None:
    line = Line()
    assert line.read(lambda: line.ask(0, 12), line.ask) == pytest.approx(0.03, abs=0.002)
    assert line.asked == 2
    assert line.clock.skew_s == 0
    line.passes(500)
    known_ms = line.clock.known_ms()
    assert known_ms is not None
    assert line.true_s - known_ms / 1000 == pytest.approx(0.03, abs=0.002)


@pytest.mark.fault("K06")
@pytest.mark.parametrize("dated", [False, True])
def test_over_a_slow_line_each_call_asks_and_nothing_settles_too_early(dated: bool) -> None:
    line = Line()
    behind_s = line.read(*[lambda: line.ask(0.1, 11.9, dated=dated)] * 2)
    assert 11.9 <= behind_s <= 13
    assert line.clock.known_ms() is None
    assert line.clock.skew_s == 0


@pytest.mark.fault("K06")
def test_over_a_slow_line_a_clock_that_is_wrong_is_warned_of_all_the_same() -> None:
    line = Line(ahead_s=-3_600)
    line.read(*[lambda: line.ask(6, 6)] * 2)
    assert -3_600 <= line.clock.skew_s <= -3_590


@pytest.mark.fault("K06", "B04")
@pytest.mark.parametrize("step_s", [-3_600, 3_600])
def test_a_clock_that_is_set_while_a_reply_is_awaited_is_read_again(step_s: float) -> None:
    line = Line()

    def stepped() -> Reading:
        sent = line.clock.moment()
        line.passes(0.05)
        line.ahead_s -= step_s
        return measure(int(line.true_s * 1000), ReplyHead({}, sent, line.clock.moment()))

    assert line.read(stepped, line.ask, line.ask) == pytest.approx(0.03, abs=0.002)


@pytest.mark.fault("K09")
@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("lies_s", [3_600, -3_600, 400 * DAY_S, -400 * DAY_S])
def test_one_reply_that_contradicts_this_machine_decides_nothing(dated: bool, lies_s: float) -> None:
    line = Line()
    behind_s = line.read(lambda: line.ask(lies_s=lies_s, dated=dated), lambda: line.ask(dated=dated), line.ask)
    assert 0 <= behind_s <= 1.1
    assert line.clock.skew_s == 0


@pytest.mark.fault("K09", "B03")
@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("ahead_s", [3_600, -3_600, YEAR_S, -YEAR_S])
def test_two_replies_that_agree_are_believed_and_the_next_one_is_believed_at_once(dated: bool, ahead_s: float) -> None:
    line = Line(ahead_s=ahead_s)
    for asked in (2, 3):
        assert 0 <= line.read(*[lambda: line.ask(dated=dated)] * 2) <= 1.1
        assert line.asked == asked
        assert line.clock.skew_s == pytest.approx(ahead_s, abs=1.1)
        line.passes(700)
        assert line.clock.known_ms() is None


@pytest.mark.fault("K09")
@pytest.mark.parametrize("lies_s", [400 * DAY_S, -400 * DAY_S])
def test_dates_of_another_year_are_an_error_that_shows_both_clocks(lies_s: float) -> None:
    line = Line()
    with pytest.raises(ReplyError, match=r"202[35]-.*this machine's clock says 2024-06-15T12:00"):
        line.read(*[lambda: line.ask(lies_s=lies_s, dated=True)] * 3)
    assert line.clock.skew_s == 0


@pytest.mark.fault("K09")
@pytest.mark.parametrize(
    ("age", "ahead_s"), [("90", 90), ("86400", 86_400), ("86401", 0), ("999999999", 0), ("-1", 0), ("soon", 0)]
)
def test_what_lay_in_a_cache_is_older_by_its_age_and_none_lies_there_for_years(age: str, ahead_s: int) -> None:
    line = Line()
    heard = ReplyHead(
        {"date": email.utils.formatdate(line.true_s, usegmt=True), "age": age}, line.clock.moment(), line.clock.moment()
    )
    assert heard.server_ms is not None
    assert heard.made_ms is not None
    assert heard.server_ms - heard.made_ms == 1000 * ahead_s


def test_an_older_reading_serves_where_no_other_can_be_had_until_the_clock_is_set() -> None:
    line = Line(ahead_s=90)
    line.read(line.ask, line.ask)
    line.passes(3_000)
    assert line.clock.known_ms() is None
    lasting_ms = line.clock.lasting_ms()
    assert lasting_ms is not None
    assert lasting_ms / 1000 == pytest.approx(line.true_s, abs=0.05)
    line.ahead_s = 0
    assert line.clock.lasting_ms() is None


def test_a_service_that_does_not_tell_the_time_leaves_it_to_this_machine() -> None:
    line = Line(ahead_s=90)
    assert line.read(lambda: None) == pytest.approx(90, abs=0.01)
    assert line.clock.known_ms() is None


# -- one instant for a call --------------------------------------------------------------------------------------------


def moves(world: World, seconds: float, part: str) -> faults.Fault:
    """Lets the time pass with each reply whose path holds the part."""

    def act(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        wire.send(reply.whole())
        world.now_s += seconds
        return True

    return world.exchange.fail(faults.FaultAction("time passes", act), times=None, match=part)


@pytest.mark.slow
@pytest.mark.fault("K05")
@pytest.mark.parametrize(("timeframe", "seconds"), [("1s", 1.0), ("1s", 0.7), ("1m", 45.0), ("2s", 1.3), ("7m", 200.0)])
def test_a_candle_that_settles_during_the_call_is_in_the_frame_once(
    world: World, timeframe: str, seconds: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClockSkew)
        moves(world, seconds, "klines")
        fetcher = world.fetcher()
        for _ in range(8):
            frame = fetcher.fetch("BTC/USDT", timeframe, days=0.02, include_open=True)
            step_ms = pd.Timedelta(timeframe.replace("m", "min")).total_seconds() * 1000
            assert set(np.diff(index_ms(frame)).tolist()) == {step_ms}
            assert frame["is_closed"].tolist() == sorted(frame["is_closed"], reverse=True)
            assert not frame["is_closed"].iloc[-1]
            world.now_s += 1.1


@pytest.mark.fault("K05")
def test_the_provider_is_asked_for_its_clock_once_though_the_call_takes_long(world: World) -> None:
    moves(world, 700.0, "klines")
    fetcher = world.fetcher(source="rest")
    frames = list(fetcher.iter_frames("BTC/USDT", "1m", "2024-06-12", rows=1000))
    assert sum(map(len, frames)) == 3 * 1440 + 720
    assert [request.path for request in world.exchange.requests].count("/api/v3/time") == 1


@pytest.mark.fault("K06")
def test_after_a_slow_reply_to_the_clocks_request_no_fetch_is_short_and_nothing_is_warned_of(world: World) -> None:
    steady_s = 0.0
    fetcher = world.fetcher(source="rest")
    fetcher._runtime.rest(find_provider("binance")).server_clock._steady = lambda: steady_s

    def passes(seconds: float) -> None:
        nonlocal steady_s
        steady_s += seconds
        world.now_s += seconds

    def slow(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        passes(12)
        wire.send(reply.whole())
        return True

    world.exchange.fail(faults.FaultAction("slow", slow), match="/time")
    for _ in range(4):
        frame = fetcher.fetch("BTC/USDT", "1s", "2024-06-15T12:00")
        assert index_ms(frame)[-1] == (int(world.now_s) - 3) * 1000
        passes(100)
    assert [request.path for request in world.exchange.requests].count("/api/v3/time") == 2


# -- dates on replies --------------------------------------------------------------------------------------------------


def dated(seconds: float | None) -> faults.FaultAction:
    """A reply whose Date header is off by so many seconds, or lacking."""

    def act(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        headers = dict(reply.headers)
        made_s = email.utils.parsedate_to_datetime(headers.pop("Date")).timestamp()
        if seconds is not None:
            headers["Date"] = email.utils.formatdate(made_s + seconds, usegmt=True)
        wire.send(reply._replace(headers=tuple(headers.items())).whole())
        return True

    return faults.FaultAction("dated", act)


def stored_is_final(fetcher: CandleFetcher, world: World, symbol: str, timeframe: str, start: str) -> None:
    """Fails where the cache holds what the exchange does not say too once everything has settled."""
    held = fetcher.fetch(symbol, timeframe, start, source="cache")
    now_s, world.now_s = world.now_s, world.now_s + 40 * DAY_S
    names = {"alpaca": "alpaca", "binance": "binance"}
    provider = held.attrs["candle_fetcher"]["provider"]
    truth = world.exchange.truth(
        names[provider], symbol.replace("/", ""), timeframe, ms(start), int(held.index[-1].timestamp() * 1000) + 1
    )
    world.now_s = now_s
    same(held, truth)


@pytest.mark.slow(keep=("3600-0", "-3600-1", "None-0"))
@pytest.mark.fault("K09")
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("seconds", [3_600, 3 * DAY_S, 400 * DAY_S, -3_600, None])
def test_a_date_that_is_wrong_on_one_reply_makes_no_open_bar_final(
    tmp_path: Path, number: int, seconds: float | None
) -> None:
    with World(tmp_path, now="2025-06-11T17:30:30") as world:
        fetcher = world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys, max_retries=1)
        world.exchange.fail(dated(seconds), match="bars", after=number)
        span = ("AAPL", "1h", "2025-06-11T13:00")
        with contextlib.suppress(IncompleteData):
            frame = fetcher.fetch(*span)
            assert frame.index.hour.tolist() == [13, 14, 15, 16]
        world.now_s += 3_600
        later = world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys).fetch(*span)
        same(later, world.exchange.truth("alpaca", "AAPL", "1h", ms("2025-06-11T13:00"), ms("2025-06-11T18:00")))


@pytest.mark.fault("K09", "B03")
@pytest.mark.parametrize("ahead_s", [2.1 * DAY_S, 30 * DAY_S])
def test_without_dates_a_clock_that_is_ahead_by_days_makes_no_open_candle_final(world: World, ahead_s: float) -> None:
    world.exchange.fail(dated(None), times=None, match="klines")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClockSkew)
        fetcher = world.fetcher(clock=lambda: world.now_s + ahead_s)
        for start, end in (("2024-06-01", "2024-06-10"), ("2024-06-10", "2024-06-15T23:00")):
            same(
                fetcher.fetch("BTC/USDT", "1h", start, end),
                world.truth("BTCUSDT", "1h", start, min(end, "2024-06-15T12:00")),
            )
    stored_is_final(world.fetcher(), world, "BTC/USDT", "1h", "2024-06-01")


@pytest.mark.fault("K09")
@pytest.mark.parametrize("times", [1, None])
def test_a_reply_out_of_the_store_of_a_proxy_is_asked_for_again_and_never_believed_to_be_new(
    world: World, times: int | None
) -> None:
    fetcher = world.fetcher(source="rest")
    fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00")
    world.now_s += 600
    world.exchange.fail(dated(-300), times=times, match="klines")
    span = ("BTC/USDT", "1m", "2024-06-15T11:00")
    if times is None:
        with pytest.raises(IncompleteData, match="a proxy that stores replies") as raised:
            fetcher.fetch(*span)
        assert sum(gap.count for gap in raised.value.missing) == 10
    else:
        same(fetcher.fetch(*span), world.truth("BTCUSDT", "1m", "2024-06-15T11:00", "2024-06-15T12:10"))


def test_a_host_whose_dates_are_always_late_serves_all_the_same(world: World) -> None:
    world.exchange.fail(dated(-300), times=None)
    fetcher = world.fetcher(source="rest")
    for _ in range(2):
        same(
            fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00"),
            world.truth("BTCUSDT", "1m", "2024-06-15T11:00", settled_minute(world)),
        )
        world.now_s += 60


def settled_minute(world: World) -> str:
    return str(np.datetime64(int(world.now_s) // 60 * 60, "s"))


# -- without the clock of the provider ---------------------------------------------------------------------------------


@pytest.mark.slow(every=2)
@pytest.mark.fault("K10")
@pytest.mark.parametrize("behind_s", [DAY_S, 3_600, 0])
def test_what_is_near_to_a_clock_that_nothing_has_checked_is_not_known(world: World, behind_s: float) -> None:
    world.fetcher().fetch("BTC/USDT", "1h", "2024-06-10")
    world.exchange.fail(faults.status(500), times=None, match="/time")
    fetcher = world.fetcher(source="rest", max_retries=0, clock=lambda: world.now_s - behind_s)
    now = pd.Timestamp(world.now_s - behind_s, unit="s", tz="UTC").floor("h")
    calls: list[Callable[[], Any]] = [
        lambda: fetcher.fetch("BTC/USDT", "1h", "2024-06-10"),
        lambda: fetcher.fetch("BTC/USDT", "1h", days=2),
        lambda: fetcher.fetch("BTC/USDT", "1h", limit=5),
        lambda: fetcher.fetch("BTC/USDT", "4h", "2024-06-10"),
        lambda: list(fetcher.iter_frames("BTC/USDT", "1h", "2024-06-10")),
        lambda: fetcher.export("BTC/USDT", "1h", "2024-06-10", path=world.folder / "out"),
        lambda: fetcher.gaps("BTC/USDT", "1h", "2024-06-10"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(IncompleteData) as raised:
            call()
        assert isinstance(raised.value.cause, TransportError)
        assert raised.value.missing[-1].cause == "fetch_failed"
        if number != 3:
            assert pd.Timestamp(raised.value.missing[-1].first) == now
    with pytest.raises(IncompleteData):
        fetcher.fetch("BTC/USDT", "1h", "2024-06-10", source="auto")
    # What is stored has settled: a range that ends before is whole.
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-06-10", "2024-06-14")) == 96
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-06-10", source="cache")) == 132


@pytest.mark.fault("K10")
@pytest.mark.parametrize("timeframe", ["5h", "7h", "10h"])
def test_no_made_candle_that_still_forms_comes_with_what_could_not_be_had(world: World, timeframe: str) -> None:
    world.fetcher().fetch("BTC/USDT", timeframe, "2024-06-10")
    world.exchange.fail(faults.status(500), times=None, match="/time")
    with pytest.raises(IncompleteData) as raised:
        world.fetcher(source="rest", max_retries=0).fetch("BTC/USDT", timeframe, "2024-06-10")
    newest = raised.value.frame.index[-1] + pd.Timedelta(timeframe)
    assert newest <= pd.Timestamp(world.now_s, unit="s", tz="UTC") < newest + pd.Timedelta(timeframe)


@pytest.mark.fault("K10")
def test_funding_rates_near_to_a_clock_that_nothing_has_checked_are_not_known(world: World) -> None:
    world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2024-06-01")
    world.exchange.fail(faults.status(500), times=None, match="/time")
    fetcher = world.fetcher(provider="binance-um", max_retries=0, clock=lambda: world.now_s - DAY_S)
    with pytest.raises(IncompleteData):
        fetcher.fetch_funding("BTC/USDT", "2024-06-01")
    assert len(fetcher.fetch_funding("BTC/USDT", "2024-06-01", "2024-06-10")) == 27


@pytest.mark.fault("K10")
def test_a_range_that_begins_after_a_clock_that_nothing_has_checked_is_not_called_a_wrong_one(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="/time")
    settings = {"max_retries": 0, "clock": lambda: world.now_s - DAY_S}
    futures = world.fetcher(provider="binance-um", **settings)
    calls: list[Callable[[], Any]] = [
        lambda: world.fetcher(source="rest", **settings).fetch("BTC/USDT", "1h", "2024-06-15"),
        lambda: world.fetcher(source="rest", **settings).fetch("BTC/USDT", "1h", "2024-06-15", limit=3),
        lambda: futures.fetch_funding("BTC/USDT", "2024-06-15"),
    ]
    for call in calls:
        with pytest.raises(
            IncompleteData,
            match=r"could not be fetched: |clock could not be read, and by this machine's clock start .* in the future",
        ) as raised:
            call()
        assert isinstance(raised.value.cause, TransportError)
    with pytest.raises(InputError, match="lies in the future"):
        world.fetcher(source="cache", **settings).fetch("BTC/USDT", "1h", "2024-06-15")


# -- the clock that is given -------------------------------------------------------------------------------------------


@pytest.mark.fault("J20")
@pytest.mark.parametrize(
    "clock",
    [
        time.time_ns,
        lambda: time.time() * 1000,
        lambda: -1.0,
        lambda: float("nan"),
        lambda: float("inf"),
        lambda: None,
        lambda: "5",
        lambda: True,
        lambda: 1j,
        lambda: 10**400,
        lambda: pd.Timestamp("2024-06-15"),
    ],
)
def test_a_clock_that_does_not_tell_unix_seconds_is_an_input_error(tmp_path: Path, clock: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"clock returned .*Unix seconds"):
        CandleFetcher(cache_dir=tmp_path, clock=clock)


@pytest.mark.fault("J20")
def test_a_clock_that_goes_wrong_later_is_an_input_error_too(world: World) -> None:
    times: list[Any] = [world.now_s]
    fetcher = world.fetcher(clock=lambda: times[-1])
    fetcher.fetch("BTC/USDT", "1h", "2024-06-10")
    times.append(-5.0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"clock returned -5\.0"):
            fetcher.fetch("BTC/USDT", "1h", "2024-06-10")
    times.append(Decimal(int(world.now_s)))
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-06-10")) == 132
