"""The provider's clock decides what is settled, whatever ours says, has said, or will say."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import CandleFetcher, ClockSkew, IncompleteData, InputError
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import faults
from candle_fetcher.store import MemoryTier

ROOT = Path(__file__).resolve().parents[1]
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
YEAR_S = 365 * 86_400
SKEWS_S = [sign * size for size in (60, 3_600, 86_400, 7 * 86_400, YEAR_S) for sign in (1, -1)]


@pytest.fixture
def any_clock() -> Iterator[None]:
    """Skews are meant here; that they are told is a test of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClockSkew)
        yield


def settled(world: World, timeframe: str, start: str, end: str) -> dict[str, Any]:
    """What of the range closed 2 s ago or earlier, by the exchange's clock."""
    truth = world.truth("BTCUSDT", timeframe, start, end)
    frame = parse_timeframe(timeframe)
    final = np.array([frame.close_ms(int(at)) + 2 * SECOND <= round(world.now_s * 1000) for at in truth["open_time"]])
    return {name: column[final.astype(bool)] for name, column in truth.items()}


def stored_is_final(world: World, timeframe: str, start: str, end: str) -> None:
    """Fails where the cache holds anything that the exchange, an hour later, does not say too."""
    try:
        held = world.fetcher().fetch("BTC/USDT", timeframe, start, source="cache")
    except IncompleteData:
        return
    now_s, world.now_s = world.now_s, world.now_s + 40 * 86_400
    truth = world.truth("BTCUSDT", timeframe, start, end)
    world.now_s = now_s
    assert len(held) <= len(truth["open_time"])
    same(held, {name: column[: len(held)] for name, column in truth.items()})


# -- clocks that are wrong ---------------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("0",))
@pytest.mark.fault("B02", "B03")
@pytest.mark.usefixtures("any_clock")
@pytest.mark.parametrize("skew_s", [0, 61, -61, 3_600, -3_600, 7 * 86_400])
def test_around_a_close_no_open_candle_is_final_and_no_settled_one_is_missing(world: World, skew_s: int) -> None:
    close_s = ms("2024-06-15T12:01") / 1000
    start = "2024-06-15T11:30"
    near = (-2_000, -1_100, -100, 0, 100, 1_000, 1_900, 2_000, 2_100)
    for number, late_ms in enumerate(range(-2_000, 2_101, 100) if FAULT_RUNS >= 1 else near):
        world.now_s = close_s + late_ms / 1000
        fetcher = world.fetcher(clock=lambda: world.now_s + skew_s, cache_dir=world.folder / str(number))
        end = (None, "2024-06-15T12:05", "2024-06-16")[number % 3]
        truth = settled(world, "1m", start, "2024-06-16")
        assert truth["open_time"][-1] == ms("2024-06-15T12:00" if late_ms >= 2_000 else "2024-06-15T11:59")
        same(fetcher.fetch("BTC/USDT", "1m", start, end), truth)
        same(fetcher.fetch("BTC/USDT", "1m", start, source="cache"), truth)
        open_too = fetcher.fetch("BTC/USDT", "1m", start, end, include_open=True)
        assert not open_too["is_closed"].iloc[-1]
        same(open_too[open_too["is_closed"]].drop(columns="is_closed"), truth)
        fetcher.close()


@pytest.mark.slow(keep=("60", "-31536000"))
@pytest.mark.fault("B03")
@pytest.mark.parametrize("skew_s", SKEWS_S)
def test_a_clock_that_is_wrong_by_a_minute_or_a_year_changes_a_warning_alone(world: World, skew_s: int) -> None:
    wrong = world.fetcher(clock=lambda: world.now_s + skew_s)
    tomorrow, start = "2024-06-16T12:00", "2024-06-15T09:00"
    with pytest.warns(ClockSkew, match=f"{abs(skew_s):,} s {'ahead' if skew_s > 0 else 'behind'}"):
        same(wrong.fetch("BTC/USDT", "1m", start, tomorrow), settled(world, "1m", start, tomorrow))
    for minutes in range(3):
        world.now_s += 60 * minutes
        for end in (None, tomorrow):
            same(wrong.fetch("BTC/USDT", "1m", start, end), settled(world, "1m", start, tomorrow))
    hours = settled(world, "1h", "2024-06-13T12:00", tomorrow)
    same(wrong.fetch("BTC/USDT", "1h", days=2), hours)
    same(wrong.fetch("BTC/USDT", "1h", limit=48), hours)
    same(wrong.fetch("BTC/USDT", "1h", end=tomorrow, limit=48), hours)
    same(wrong.fetch("BTC/USDT", "1h", "2024-06-13T12:00", limit=10**6), hours)
    stored_is_final(world, "1m", start, tomorrow)
    same(world.fetcher().fetch("BTC/USDT", "1m", start), settled(world, "1m", start, tomorrow))


@pytest.mark.slow(keep=("1h-30-86400", "1M-400-31536000", "8h-3--86400"))
@pytest.mark.fault("B03")
@pytest.mark.usefixtures("any_clock")
@pytest.mark.parametrize("skew_s", SKEWS_S)
@pytest.mark.parametrize(("timeframe", "days"), [("1h", 30), ("1d", 30), ("1M", 400), ("8h", 3)])
def test_a_range_of_the_past_stores_no_open_candle_of_its_chunk(
    world: World, timeframe: str, days: int, skew_s: int
) -> None:
    """A chunk is asked for whole, up to what our clock thinks settled: its end may lie at the live edge."""
    span = ("2022-01-01" if days > 100 else "2024-05-01", str(dt.date(2024, 6, 15) - dt.timedelta(days)))
    wrong = world.fetcher(clock=lambda: world.now_s + skew_s)
    same(wrong.fetch("BTC/USDT", timeframe, *span), settled(world, timeframe, *span))
    stored_is_final(world, timeframe, span[0], "2024-07-15")
    # Once the open candle has closed, it is there, by a clock that has been set right.
    world.now_s += 33 * 86_400
    same(world.fetcher().fetch("BTC/USDT", timeframe, span[0]), settled(world, timeframe, span[0], "2024-07-19"))


@pytest.mark.slow
@pytest.mark.fault("B03")
@pytest.mark.usefixtures("any_clock")
@pytest.mark.parametrize("skew_s", [61, 7 * 86_400, YEAR_S])
def test_streams_gaps_and_resampled_candles_end_where_the_provider_says(world: World, skew_s: int) -> None:
    span = ("2024-06-14", "2024-06-15T13:00")
    truth = settled(world, "1m", *span)

    def wrong() -> CandleFetcher:
        return world.fetcher(clock=lambda: world.now_s + skew_s, cache_dir=world.folder / str(len(world.fetchers)))

    same(pd.concat(list(wrong().iter_frames("BTC/USDT", "1m", *span, rows=500))), truth)
    path = wrong().export("BTC/USDT", "1m", *span, path=world.folder / "file.csv")
    assert len(path.read_text().splitlines()) == 1 + len(truth["open_time"])
    assert wrong().gaps("BTC/USDT", "1m", *span).empty
    frame = wrong().fetch("BTC/USDT", "7m", *span)
    assert frame.index[-1] + pd.Timedelta(minutes=7, seconds=2) <= pd.Timestamp(world.now_s, unit="s", tz="UTC")
    assert frame.attrs["candle_fetcher"]["partial"] == []
    same(frame, {name: world.fetcher().fetch("BTC/USDT", "7m", *span)[name].to_numpy() for name in frame} | {
        "open_time": index_ms(frame)
    })  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("B03", "D25")
@pytest.mark.usefixtures("any_clock")
def test_what_was_said_to_be_missing_under_a_wrong_clock_is_asked_again_under_the_right_one(world: World) -> None:
    hole = (ms("2023-05-02T03:00"), ms("2023-05-02T05:00"))
    world.exchange.hide("binance", "BTCUSDT", hole)
    span = ("BTC/USDT", "1m", "2023-05-01", "2023-05-04")
    early = ("NEWER/USDT", "1h", "2024-01-01", "2024-02-01")
    rows = [[at, "1", "1", "1", "1", "1", at + HOUR - 1, "1", 1, "1", "1", "0"] for at in range(
        ms("2024-01-15"), ms("2024-03-01"), HOUR
    )]  # fmt: skip
    world.exchange.load("binance", "NEWERUSDT", "1h", rows)
    wrong = world.fetcher(clock=lambda: world.now_s + YEAR_S)
    assert len(wrong.fetch(*span)) == 3 * 1440 - 120
    assert len(wrong.fetch(*early)) == 17 * 24
    listed = len(wrong.symbols())
    wrong.close()
    # The clock is set right, and the exchange has what it had not.
    world.exchange.unhide("binance", "BTCUSDT", hole)
    older = [[at, *rows[0][1:6], at + HOUR - 1, *rows[0][7:]] for at in range(ms("2024-01-05"), ms("2024-01-15"), HOUR)]
    world.exchange.load("binance", "NEWERUSDT", "1h", [*older, *rows])
    world.exchange.load("binance", "NEWESTUSDT", "1h", rows)
    right = world.fetcher()
    planned = right.plan(*span)
    assert planned.chunks["rest"] > 0
    world.asked()
    same(right.fetch(*span), world.truth("BTCUSDT", *span[1:]))
    assert len(world.asked()) == planned.requests
    assert len(right.fetch(*early)) == 27 * 24
    assert len(right.symbols()) == listed + 1
    world.asked()
    right.fetch(*span)
    assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("B03")
def test_files_that_were_absent_under_a_wrong_clock_are_asked_for_under_the_right_one(world: World) -> None:
    """A clock ahead by a year looks for files that are not there yet, and must not remember that for a year."""
    wrong = world.fetcher(clock=lambda: world.now_s + YEAR_S)
    with pytest.raises(IncompleteData):
        wrong.fetch("BTC/USDT", "1m", "2024-06-10", "2024-06-20", source="archive")
    wrong.close()
    world.now_s += 10 * 86_400
    right = world.fetcher().fetch("BTC/USDT", "1m", "2024-06-10", "2024-06-20", source="archive")
    same(right, world.truth("BTCUSDT", "1m", "2024-06-10", "2024-06-20"))


@pytest.mark.slow
@pytest.mark.fault("B03")
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("skew_s", [3_600, 5 * 86_400, -5 * 86_400, YEAR_S, -YEAR_S])
def test_the_archive_alone_ends_where_its_own_clock_says(world: World, skew_s: int, is_stored: bool) -> None:
    if is_stored:
        world.fetcher(source="archive").fetch("BTC/USDT", "1h", "2024-05-01")
    wrong = world.fetcher(source="archive", clock=lambda: world.now_s + skew_s)
    world.exchange.clear_log()
    same(
        wrong.fetch("BTC/USDT", "1h", "2024-05-01", "2024-06-12"),
        world.truth("BTCUSDT", "1h", "2024-05-01", "2024-06-12"),
    )
    same(wrong.fetch("BTC/USDT", "1h", "2024-05-01"), world.truth("BTCUSDT", "1h", "2024-05-01", "2024-06-15"))
    assert all(request.market == "archive" for request in world.exchange.requests), "nobody else is asked"
    with pytest.raises(IncompleteData) as raised:
        wrong.fetch("BTC/USDT", "1h", "2024-05-01", "2024-06-16")
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2024-06-15T00:00:00Z", 12)]


@pytest.mark.fault("B03")
def test_the_cache_alone_answers_with_all_that_it_holds_though_the_clock_be_behind(world: World) -> None:
    start, end = "2024-06-15T09:00", "2024-06-15T12:00"
    world.fetcher().fetch("BTC/USDT", "1m", start)
    behind = world.fetcher(clock=lambda: world.now_s - 2 * 3_600, source="cache")
    for until in (None, end):
        same(behind.fetch("BTC/USDT", "1m", start, until), settled(world, "1m", start, end))


@pytest.mark.slow
@pytest.mark.fault("B03", "C02")
def test_what_nobody_could_be_asked_for_without_a_clock_is_not_taken_for_a_gap(world: World) -> None:
    """The archive helps out with the older candles; that the newest could not be had is told all the same."""
    span = ("2024-06-01", "2024-06-15T08:00")
    world.fetcher().fetch("BTC/USDT", "5m", "2024-01-01", "2024-01-02")  # the listing is known
    for what in ("api/v3/klines", "api/v3/time"):
        world.exchange.fail(faults.status(500), times=None, match=what)
    with pytest.raises(IncompleteData) as raised:
        world.fetcher(max_retries=0).fetch("BTC/USDT", "5m", *span)
    error, truth = raised.value, world.truth("BTCUSDT", "5m", *span)
    assert len(error.frame) + sum(gap.count for gap in error.missing) == len(truth["open_time"])
    assert error.frame.attrs["candle_fetcher"]["gap_count"] == 0
    assert 1000 <= len(error.frame) < len(truth["open_time"])


# -- clocks that step, and machines that sleep -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("B04", "B05")
@pytest.mark.usefixtures("any_clock")
@pytest.mark.parametrize("step_s", [8 * 3_600, -8 * 3_600, 3_600, -3_600])
def test_after_a_step_of_the_wall_clock_alone_nothing_stale_is_served(world: World, step_s: int) -> None:
    """Time went on by minutes, and our clock by hours; the monotonic one, which stands for a sleep, hardly at all."""
    stepped_s = 0
    fetcher = world.fetcher(clock=lambda: world.now_s + stepped_s)
    start, end = "2024-06-15T09:00", "2024-06-15T15:00"
    for _ in range(4):
        same(fetcher.fetch("BTC/USDT", "1m", start), settled(world, "1m", start, end))
        stepped_s += step_s
        same(fetcher.fetch("BTC/USDT", "1m", start), settled(world, "1m", start, end))
        world.now_s += 61
        same(fetcher.fetch("BTC/USDT", "1m", start, end), settled(world, "1m", start, end))
        stepped_s -= step_s
        world.now_s += 61
    stored_is_final(world, "1m", start, end)


@pytest.mark.fault("B04", "B05")
@pytest.mark.parametrize(("wall_s", "steady_s"), [(8 * 3_600, 0), (-8 * 3_600, 61), (8 * 3_600 + 61, 61), (61, 61)])
def test_what_is_believed_for_a_minute_is_not_after_it_by_either_clock(wall_s: int, steady_s: int) -> None:
    now = [1_700_000_000.0, 50.0]
    tier = MemoryTier(1000, clock=lambda: now[0], steady=lambda: now[1])
    tier.save("minute", b"1", 1, until_s=now[0] + 60)
    tier.save("for ever", b"1", 1)
    now[1] += 59
    assert tier.load("minute") is not None
    now[0] += wall_s
    now[1] += steady_s
    assert tier.load("minute") is None
    assert tier.load("for ever") is not None
    # What is put in after the step has its whole time.
    tier.save("minute", b"1", 1, until_s=now[0] + 60)
    now[0] += 59
    assert tier.load("minute") is not None
    now[0] += 2
    assert tier.load("minute") is None


def walk(world: World, seed: int, steps: int) -> None:
    """Fetches at random times, by a clock that does what it likes."""
    pick = random.Random(seed)
    wrong_s = 0.0
    start, end = "2024-06-15T11:00", "2024-06-25"

    def clock() -> float:
        return world.now_s + wrong_s

    fetcher = world.fetcher(clock=clock)
    for _ in range(steps):
        before_s = clock()
        world.now_s += pick.choice([0.1, 0.9, 1.3, 29.7, 60, 61.9, 400, 3_600])
        wrong_s = pick.choice([wrong_s, wrong_s, 0, 61, -61, 3_600, -3_600, 8 * 3_600, 86_400, -86_400, 9 * 86_400])
        if abs(clock() - before_s) < 5:
            world.now_s += 5  # a sleep that a step undoes to the second cannot be seen by any clock of ours
        timeframe = pick.choice(["1m", "5m", "1h"])
        if pick.random() < 0.1:
            fetcher.close()
            fetcher = world.fetcher(clock=clock)
        frame = fetcher.fetch("BTC/USDT", timeframe, start, pick.choice([None, end]), refresh=pick.random() < 0.05)
        same(frame, settled(world, timeframe, start, end))
    for timeframe in ("1m", "5m", "1h"):
        stored_is_final(world, timeframe, start, end)


@pytest.mark.slow
@pytest.mark.fault("B02", "B03", "B04", "B05")
@pytest.mark.usefixtures("any_clock")
def test_whatever_our_clock_does_the_settled_candles_come_and_no_other(world: World) -> None:
    walk(world, 1, 30)


@pytest.mark.long
@pytest.mark.fault("B02", "B03", "B04", "B05")
@pytest.mark.usefixtures("any_clock")
def test_a_thousand_fetches_under_clocks_that_step(tmp_path: Path) -> None:
    for seed in range(round(10 * FAULT_RUNS)):
        with World(tmp_path / str(seed)) as world:
            walk(world, seed, 100)


# -- times as they are written -----------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("mixed",))
@pytest.mark.fault("B01")
@pytest.mark.parametrize("change", [
    lambda at: at // 1000, lambda at: at * 1000, lambda at: at * 10**6, lambda at: at * 1000 if at % HOUR else at
], ids=["s", "us", "ns", "mixed"])  # fmt: skip
@pytest.mark.slow
def test_a_reply_in_another_unit_never_becomes_rows(world: World, change: Callable[[int], int]) -> None:
    def spoil(body: bytes) -> bytes:
        return json.dumps([[change(row[0]), *row[1:]] for row in json.loads(body)]).encode()

    world.exchange.fail(faults.transform(spoil), times=None, match="klines")
    fetcher = world.fetcher(source="rest", max_retries=1)
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1m", "2024-05-31T23:00", "2024-06-01T01:00")
    assert raised.value.frame.empty


SIX = """
    import datetime as dt, hashlib, sys
    import pandas as pd
    from candle_fetcher import CandleFetcher
    zone = dt.timezone(dt.timedelta(hours=-5))
    ways = [
        (dt.datetime(2024, 3, 10), dt.datetime(2024, 3, 11, 12)),
        ("2024-03-10", "2024-03-11T12:00:00"),
        ("2024-03-10T00:00:00Z", "2024-03-11T07:00:00-05:00"),
        (pd.Timestamp("2024-03-10"), pd.Timestamp("2024-03-11 12:00")),
        (1710028800000, 1710158400000),
        (dt.datetime(2024, 3, 9, 19, tzinfo=zone), pd.Timestamp("2024-03-11 13:00", tz="Europe/Paris")),
    ]
    for turn, (start, end) in enumerate(ways):
        with CandleFetcher(base_urls={"binance": sys.argv[1]}, use_cache=False, progress=False) as fetcher:
            frame = fetcher.fetch("BTC/USDT", "1h", start, end, columns="all")
        path = f"{sys.argv[2]}-{turn}.csv"
        frame.to_csv(path)
        print(hashlib.sha256(open(path, "rb").read()).hexdigest(), len(frame), frame.index[0], frame.attrs["candle_fetcher"]["fingerprint"])
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.fault("B06")
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be set here")
def test_six_ways_to_write_a_range_in_four_zones_are_one_frame(world: World, tmp_path: Path) -> None:
    """24 runs, byte for byte."""
    world.now_s = time.time()  # which is the clock of the fetchers
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(SIX), world.exchange.base_urls["binance"],
             str(tmp_path / zone.replace("/", "-"))],
            env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for zone in ("UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo")
    ]  # fmt: skip
    lines: list[str] = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        lines += out.splitlines()
    assert len(lines) == 24
    assert len(set(lines)) == 1
    assert " 36 2024-03-10 00:00:00+00:00 " in lines[0]


@pytest.mark.slow(only=("America/New_York-2024-03-10",))
@pytest.mark.fault("B07")
@pytest.mark.parametrize(("zone", "day"), [("America/New_York", "2024-11-03"), ("America/New_York", "2024-03-10")])
def test_hours_of_a_local_day_that_are_not_or_are_twice_are_told_apart(tmp_path: Path, zone: str, day: str) -> None:
    with World(tmp_path, now="2025-01-15T12:00:30") as world:
        fetcher = world.fetcher()
        local = dt.datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
        hours = [(local + dt.timedelta(hours=hour)).replace(fold=fold) for hour in range(24) for fold in (0, 1)]
        for hour in hours:
            start_ms = round(hour.timestamp()) * 1000
            frame = fetcher.fetch("BTC/USDT", "1h", hour, limit=1)
            assert index_ms(frame).tolist() == [start_ms]
        whole = fetcher.fetch("BTC/USDT", "1h", local, local + dt.timedelta(days=1))
        assert len(whole) == {"2024-11-03": 25, "2024-03-10": 23}[day]


# -- borders -----------------------------------------------------------------------------------------------------------

BORDER_MS = 28_600_000 * MINUTE  # where a chunk of 1m begins; 2024-05-18
FIRST_MS = BORDER_MS - 20 * MINUTE


def fifty(world: World) -> list[int]:
    """The open times of a symbol that has 50 candles, across the border of two chunks."""
    opens = [FIRST_MS + at * MINUTE for at in range(50)]
    rows = [
        [at, f"{at // MINUTE % 1000 + 1}", "2000", "0.5", "7", "1", at + MINUTE - 1, "1", 1, "1", "1", "0"]
        for at in opens
    ]
    world.exchange.load("binance", "FIFTYUSDT", "1m", rows)
    return opens


def borders(world: World, step: int, shift_ms: int) -> int:
    """Every start, end and limit, `step` apart; returns how many."""
    opens = fifty(world)
    fetcher = world.fetcher(source="rest")
    edges = [None, *(FIRST_MS + at * MINUTE + shift_ms for at in range(-2, 53, step))]
    count = 0
    for start, end, limit in product(edges, edges, [None, 1, 29, 50]):
        if start is not None and end is not None and start >= end:
            continue
        if start is None and (limit is None or end is None):
            continue
        frame = fetcher.fetch("FIFTY/USDT", "1m", start, end, limit=limit)
        inside = [at for at in opens if (start is None or start <= at) and (end is None or at < end)]
        if limit is not None:
            inside = inside[:limit] if start is not None else inside[-limit:]
        assert index_ms(frame).tolist() == inside, (start, end, limit)
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.fault("B08")
def test_every_nineteenth_start_end_and_limit_of_fifty_candles_returns_each_once(world: World) -> None:
    assert borders(world, 19, 0) > 30


@pytest.mark.long
@pytest.mark.fault("B08")
@pytest.mark.parametrize("shift_ms", [0, 1, -1])
def test_every_start_end_and_limit_of_fifty_candles_returns_each_once(world: World, shift_ms: int) -> None:
    assert borders(world, 4 if shift_ms else 1 if FAULT_RUNS >= 1 else 3, shift_ms) > 300


def off_grid(count: int) -> list[list[Any]]:
    """Hours that leave the grid for 43 candles and come back by a short one, as those of February 2018 did."""
    start = ms("2018-01-20")
    opens = [start + at * HOUR for at in range(460)]
    moved = ms("2018-02-09T09:28:14") + 789
    opens = [at for at in opens if at < moved - 10 * HOUR] + [moved + at * HOUR for at in range(43)]
    again = -(-opens[-1] // HOUR) * HOUR
    opens += [again + at * HOUR for at in range(count - len(opens))]
    closes = [*opens[1:], opens[-1] + HOUR]
    return [
        [at, "1", "2", "0.5", f"{1 + number % 7 / 10}", str(number), min(at + HOUR, until) - 1, "1", 1, "1", "1", "0"]
        for number, (at, until) in enumerate(zip(opens, closes, strict=True))
    ]


def pages(folder: Path, caps: Iterable[int]) -> None:
    rows = off_grid(1_200)
    with World(folder, weight_limit=10**7) as world:
        world.exchange.load("binance", "LOOSEUSDT", "1h", rows)
        for cap in caps:
            world.exchange._page_cap = cap
            world.now_s += 61  # another minute's weight
            fetcher = world.fetcher(use_cache=False, source="rest")
            frame = fetcher.fetch("LOOSE/USDT", "1h", "2018-01-20", "2018-03-20")
            fetcher.close()
            world.fetchers.clear()
            assert index_ms(frame).tolist() == [row[0] for row in rows], cap
            assert frame["volume"].tolist() == [float(row[5]) for row in rows], cap
            assert frame.attrs["candle_fetcher"]["gap_count"] <= 2


@pytest.mark.slow
@pytest.mark.fault("B09", "A11")
def test_off_the_grid_no_candle_is_lost_whatever_the_size_of_a_page(tmp_path: Path) -> None:
    pages(tmp_path, [17, 86, 335, 999])


@pytest.mark.long
@pytest.mark.fault("B09", "A11")
def test_off_the_grid_no_candle_is_lost_with_any_size_of_a_page(tmp_path: Path) -> None:
    pages(tmp_path, range(1, 1_001, max(1, round(1 / FAULT_RUNS))))


@pytest.mark.slow
@pytest.mark.fault("B10", "B11")
@pytest.mark.parametrize("source", ["rest", "archive"])
def test_weeks_and_months_of_two_years_are_what_their_days_are(tmp_path: Path, source: str) -> None:
    with World(tmp_path, now="2025-06-15T12:00:30") as world:
        fetcher = world.fetcher(source=source)
        start, end = "2023-01-01", "2025-01-01"
        days = fetcher.fetch("BTC/USDT", "1d", "2022-12-26", "2025-01-06")
        how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        months = fetcher.fetch("BTC/USDT", "1M", start, end)
        assert len(months) == 24
        assert [at.days_in_month for at in months.index][13] == 29
        same(months, world.truth("BTCUSDT", "1M", start, end))
        pd.testing.assert_frame_equal(days[start:"2024-12-31"].resample("MS").agg(how), months, check_freq=False)
        if source == "rest":
            weeks = fetcher.fetch("BTC/USDT", "1w", "2022-12-26", "2025-01-06")
            assert set(weeks.index.day_name()) == {"Monday"}
            rolled = days[: weeks.index[-1] + pd.Timedelta(days=6)].resample("W-MON", label="left", closed="left")
            pd.testing.assert_frame_equal(rolled.agg(how), weeks, check_freq=False)
        minute = fetcher.fetch("BTC/USDT", "1m", "2024-02-01", limit=3)
        assert index_ms(minute).tolist() == [ms("2024-02-01") + at * MINUTE for at in range(3)]
        asked = {request["interval"] for request in world.asked() if "interval" in request}
        assert asked >= ({"1M", "1m", "1w"} if source == "rest" else set())


FAR_MS = ms("9999-12-31")
instants = st.integers(0, FAR_MS) | st.sampled_from([0, 1, FAR_MS, ms("2024-06-15T12:00:30"), ms("2024-06-15")])
YEAR_1973_MS = ms("1973-01-01")


def written(instant_ms: int) -> object:
    """The instant as a number, where one may be that old, or else as a time."""
    return instant_ms if instant_ms >= YEAR_1973_MS else np.datetime64(instant_ms, "ms")


names = st.sampled_from(["1s", "1m", "7m", "1h", "1d", "3d", "1w", "1M"])


@pytest.mark.slow
@pytest.mark.fault("B13")
def test_no_range_is_too_odd_and_an_empty_one_asks_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    with World(tmp_path_factory.mktemp("odd"), weight_limit=10**7) as world:
        fetcher = world.fetcher(source="rest")
        fetcher.fetch("BTC/USDT", "1m", limit=1)  # the clock and the limits are known from here on

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(start=instants, length=st.integers(-2, 3 * DAY) | st.sampled_from([0, 1]), timeframe=names)
        def check(start: int, length: int, timeframe: str) -> None:
            world.exchange.clear_log()
            end = start + length
            frame = parse_timeframe(timeframe)
            try:
                got = fetcher.fetch("BTC/USDT", timeframe, *map(written, (start, min(end, start + 400 * MINUTE))))
            except InputError:
                assert start >= end or start > world.now_s * 1000 or end > FAR_MS or start < YEAR_1973_MS
                # A clock that stands still for a second is read again.
                assert all(request.path.endswith("/time") for request in world.exchange.requests)
                return
            opens = index_ms(got)
            assert ((opens >= start) & (opens < end)).all()
            if start >= frame.open_ms(frame.ordinal(round(world.now_s * 1000) - 2_000)):
                assert len(got) == 0
                assert all(request.path.endswith("/time") for request in world.exchange.requests)
            truth = world.exchange.truth(
                "binance", "BTCUSDT", timeframe if timeframe != "7m" else "1m", start, min(end, start + 400 * MINUTE)
            )
            if timeframe != "7m":
                final = [at for at in truth["open_time"].tolist() if frame.close_ms(at) + 2_000 <= world.now_s * 1000]
                assert opens.tolist() == final

        check()


@pytest.mark.slow(keep=("0", "61"))
@pytest.mark.fault("B15")
@pytest.mark.usefixtures("any_clock")
@pytest.mark.parametrize("skew_s", [0, 61, -61, 9 * 86_400])
def test_a_correction_within_the_grace_wins_under_any_clock(world: World, skew_s: int) -> None:
    close_s = ms("2024-06-15T12:00") / 1000
    fetcher = world.fetcher(clock=lambda: world.now_s + skew_s)
    past = ("BTC/USDT", "1h", "2024-05-20", "2024-06-01")  # its chunk ends at the live edge
    near = ("BTC/USDT", "1h", "2024-06-15", "2024-06-16")
    for late_s in (-0.3, 0.0, 0.4, 0.5, 1.2, 1.9):
        world.now_s = close_s + late_s
        if late_s == 0.5:
            world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-15T11:00"), volume="77.00000000")
        fetcher.fetch(*past)
        assert fetcher.fetch(*near).index[-1] == pd.Timestamp("2024-06-15 10:00", tz="UTC"), late_s
    world.now_s = close_s + 2.1
    for asked in (fetcher, world.fetcher()):
        frame = asked.fetch(*near)
        assert frame.index[-1] == pd.Timestamp("2024-06-15 11:00", tz="UTC")
        assert frame["volume"].iloc[-1] == 77
    assert fetcher.cache.revisions().empty
