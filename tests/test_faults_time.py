"""Clocks that step, sleep and disagree; local time; borders of the calendar; candles corrected after their close."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from world import World, ms, same

from candle_fetcher import ClockSkew, UnknownSymbol
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import faults

MINUTE, DAY = 60_000, 86_400_000


@pytest.mark.slow(keep=("klines--3600", "time-3600"))
@pytest.mark.fault("B04")
@pytest.mark.parametrize(("during", "step_s"), [("klines", -3600), ("klines", 3600), ("time", -3600), ("time", 3600)])
def test_a_clock_that_steps_while_a_reply_is_awaited_makes_no_open_candle_final(
    world: World, during: str, step_s: int
) -> None:
    stepped_s = 0

    def step(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        nonlocal stepped_s
        stepped_s += step_s
        wire.send(reply.whole())
        return True

    fetcher = world.fetcher(clock=lambda: world.now_s + stepped_s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClockSkew)
        for turn in range(6):
            if turn % 2:
                world.exchange.fail(faults.FaultAction("step", step), match=during)
            settled_ms = int(world.now_s * 1000) - 2_000
            frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-15T09:00", "2024-06-15T15:00")
            truth = world.truth("BTCUSDT", "1m", "2024-06-15T09:00", "2024-06-15T15:00")
            final = truth["open_time"] + MINUTE <= settled_ms
            same(frame, {name: column[final] for name, column in truth.items()})
            world.now_s += 137
    assert stepped_s
    # What was stored on the way is final too.
    stored = world.fetcher().fetch("BTC/USDT", "1m", "2024-06-15T09:00", source="cache")
    held = world.truth("BTCUSDT", "1m", "2024-06-15T09:00", "2024-06-15T15:00")
    same(stored, {name: column[: len(stored)] for name, column in held.items()})


@pytest.mark.fault("B05")
def test_after_a_sleep_of_eight_hours_nothing_stale_is_served(world: World) -> None:
    """The wall clock goes on while the machine sleeps, its monotonic one does not: here hardly a moment passes."""
    fetcher = world.fetcher()
    span = ("BTC/USDT", "5m", "2024-06-15")
    assert fetcher.fetch(*span).index[-1] == pd.Timestamp("2024-06-15 11:55", tz="UTC")
    symbols = len(fetcher.symbols())
    world.now_s += 8 * 3600
    frame = fetcher.fetch(*span)
    same(frame, world.truth("BTCUSDT", "5m", "2024-06-15", "2024-06-15T20:00"))
    assert fetcher.fetch("BTC/USDT", "1h", limit=1).index[-1] == pd.Timestamp("2024-06-15 19:00", tz="UTC")
    assert len(fetcher.symbols()) == symbols


@pytest.mark.slow
@pytest.mark.fault("B07")
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a running process cannot be set here")
@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2024-03-10", 71),
        ("America/New_York", "2023-11-05", 73),
        ("Europe/Paris", "2024-03-31", 71),
        ("Europe/Paris", "2023-10-29", 73),
    ],
)
def test_local_days_of_23_and_25_hours_cost_no_candle(
    world: World, monkeypatch: pytest.MonkeyPatch, zone: str, day: str, hours: int
) -> None:
    before, after = (str(np.datetime64(day) + np.timedelta64(add, "D")) for add in (-1, 2))
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        fetcher = world.fetcher()
        frame = fetcher.fetch("BTC/USDT", "1h", before, after)
        local = pd.Timestamp(before, tz=zone), pd.Timestamp(after, tz=zone)
        away = fetcher.fetch("BTC/USDT", "1h", *local)
        for start in pd.date_range(before, after, freq="h")[:-1]:
            hour = fetcher.fetch("BTC/USDT", "1h", start.to_pydatetime(), start + pd.Timedelta(hours=1))
            assert index_ms(hour).tolist() == [start.value // 10**6]
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    same(frame, world.truth("BTCUSDT", "1h", before, after))
    assert len(frame) == 72
    ends = [int(moment.timestamp() * 1000) for moment in local]
    assert len(away) == hours
    assert index_ms(away).tolist() == list(range(ends[0], ends[1], 3_600_000))


@pytest.mark.slow(keep=("rest-2024-02-29",))
@pytest.mark.fault("B14")
@pytest.mark.parametrize("border", ["2024-02-29", "2024-03-01", "2023-03-01", "2024-01-01", "2025-01-01"])
@pytest.mark.parametrize("source", ["rest", "archive"])
def test_over_each_border_of_the_calendar_no_candle_is_missing_or_twice(
    tmp_path: Path, source: str, border: str
) -> None:
    with World(tmp_path, now="2025-06-15T12:00:30") as world:
        middle = ms(border)
        fetcher = world.fetcher(source=source)
        for timeframe, step in (("5m", 5 * MINUTE), ("1h", 60 * MINUTE), ("1d", DAY)):
            frame = fetcher.fetch("BTC/USDT", timeframe, middle - 2 * DAY, middle + 2 * DAY, columns="all")
            assert index_ms(frame).tolist() == list(range(middle - 2 * DAY, middle + 2 * DAY, step))
            assert set((frame["close_time"] - frame.index).dt.total_seconds()) == {step / 1000 - 0.001}
            truth = world.exchange.truth("binance", "BTCUSDT", timeframe, middle - 2 * DAY, middle + 2 * DAY)
            same(frame.drop(columns="close_time"), truth)


@pytest.mark.fault("B15")
def test_a_candle_that_is_corrected_shortly_after_its_close_is_stored_as_corrected(world: World) -> None:
    close_s = ms("2024-06-15T12:01") / 1000
    span = ("BTC/USDT", "1m", "2024-06-15T11:30", "2024-06-15T12:05")
    fetcher = world.fetcher()
    for late_s in (-0.5, 0.0, 0.4, 0.5, 1.0, 1.9):
        world.now_s = close_s + late_s
        if late_s == 0.5:
            world.exchange.restate("binance", "BTCUSDT", "1m", ms("2024-06-15T12:00"), volume="77.00000000")
        assert fetcher.fetch(*span).index[-1] == pd.Timestamp("2024-06-15 11:59", tz="UTC"), late_s
    world.now_s = close_s + 2.1
    for asked in (fetcher, world.fetcher()):
        frame = asked.fetch(*span)
        assert frame.index[-1] == pd.Timestamp("2024-06-15 12:00", tz="UTC")
        assert frame["volume"].iloc[-1] == 77
    assert fetcher.cache.revisions().empty


@pytest.mark.fault("D25")
def test_a_symbol_that_was_unknown_is_there_within_an_hour_of_its_listing(tmp_path: Path) -> None:
    with World(tmp_path, now="2025-09-01T12:59:00") as world:
        fetcher = world.fetcher(max_retries=0)
        assert "WLFI/USDT" not in set(fetcher.symbols()["symbol"])
        with pytest.raises(UnknownSymbol):
            fetcher.fetch("WLFI/USDT", "1m", "2025-09-01T12:00", "2025-09-01T15:00")
        world.now_s = ms("2025-09-01T13:00:30") / 1000
        early = fetcher.fetch("WLFI/USDT", "1m", "2025-09-01T12:00", "2025-09-01T15:00")
        assert early.empty
        world.now_s = ms("2025-09-01T13:59:30") / 1000
        for asked in (fetcher, world.fetcher()):
            frame = asked.fetch("WLFI/USDT", "1m", "2025-09-01T12:00", "2025-09-01T15:00")
            same(frame, world.truth("WLFIUSDT", "1m", "2025-09-01T12:00", "2025-09-01T13:59"))
            assert [gap["cause"] for gap in frame.attrs["candle_fetcher"]["gaps"]] == ["not_listed"]
