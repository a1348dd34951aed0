"""Calls by the hundred and the thousand, one inside another, given up half way: what is left over afterwards."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import FAULT_RUNS
from world import World, same

from candle_fetcher import CandleFetcher, CandleFetcherError, FetchManyError, IncompleteData
from candle_fetcher.practice import faults

WEEK = ("BTC/USDT", "1m", "2024-06-01", "2024-06-08")
DAYS = [f"2023-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "cache", weight_limit=10**7) as made:
        yield made


def held() -> tuple[int, int, int]:
    """Threads and descriptors of this process, and its resident bytes."""
    gc.collect()
    process = psutil.Process()
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return threading.active_count(), files, process.memory_info().rss


def is_left(before: tuple[int, int, int], after: tuple[int, int, int], mb: int) -> None:
    assert after[0] <= before[0] + 1, "threads (the exchange may still be ending a connection's)"
    assert after[1] <= before[1] + 5, "descriptors"
    assert after[2] <= before[2] + mb * 2**20, "memory"


def calls(fetcher: CandleFetcher, count: int) -> None:
    """Fetches of every kind: cold and warm, of one and of many, of wrong input, given up, and without a cache."""
    for number in range(count):
        day = DAYS[number % 20]
        kind = number % 8
        if kind == 5:
            with pytest.raises(CandleFetcherError):
                fetcher.fetch("NO/SUCH", "1m", day, days=1)
        elif kind == 6:
            next(fetcher.iter_frames("BTC/USDT", "1m", day, rows=500))
        elif kind == 7:
            fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", day, limit=24)
        else:
            fetcher.fetch("BTC/USDT", ("1m", "5m", "1h", "7m")[kind % 4], day, limit=300, refresh=kind == 3)


@pytest.mark.fault("E06")
def test_a_hundred_calls_leave_nothing_more_than_the_first_ones(world: World) -> None:
    fetcher = world.fetcher(memory_cache_size="8MB")
    calls(fetcher, 80)
    before = held()
    calls(fetcher, 100)
    is_left(before, held(), 20)


@pytest.mark.long
@pytest.mark.fault("E06")
def test_a_thousand_calls_leave_nothing(world: World) -> None:
    fetcher = world.fetcher(memory_cache_size="8MB")
    calls(fetcher, 200)
    before = held()
    calls(fetcher, round(1_000 * FAULT_RUNS))
    is_left(before, held(), 20)


@pytest.mark.long
@pytest.mark.fault("E06")
def test_a_thousand_fetchers_leave_nothing(world: World) -> None:
    def once(number: int) -> None:
        with world.fetcher() as fetcher:
            fetcher.fetch("BTC/USDT", "1m", DAYS[number % 40], limit=100)
        world.fetchers.clear()
        world.exchange.clear_log()

    for number in range(100):
        once(number)
    before = held()
    for number in range(round(1_000 * FAULT_RUNS)):
        once(number)
    is_left(before, held(), 20)


@pytest.mark.fault("E06", "A01")
def test_calls_that_fail_leave_nothing(world: World) -> None:
    fetcher = world.fetcher(max_retries=0, use_cache=False, source="rest")
    fetcher.fetch(*WEEK)

    def fail(action: faults.Action) -> None:
        fault = world.exchange.fail(action, times=None, match="klines", after=2)
        with pytest.raises(CandleFetcherError):
            fetcher.fetch(*WEEK)
        fault.stop()

    ways = [faults.cut(0.5), faults.reset(), faults.close_before_reply(), faults.html_200(), faults.cut_chunked(0.5)]
    fail(ways[0])
    before = held()
    for action in ways * 6:
        fail(action)
    time.sleep(0.1)
    is_left(before, held(), 20)


# -- one inside another ------------------------------------------------------------------------------------------------


def nested(world: World, turn: int, network_threads: int) -> None:
    """A fetch in a callback of the progress, in the loop over a stream, and in another's thread pool."""
    found: list[int] = []
    day = DAYS[turn % 300]

    def inside(event: Any) -> None:
        if event.phase == "advance" and event.label.startswith("BTC") and len(found) < 3:
            found.append(0)
            found[-1] = len(fetcher.fetch("ETH/USDT", "1m", DAYS[(turn + len(found)) % len(DAYS)], limit=5))

    fetcher = world.fetcher(
        network_threads=network_threads, io_threads=1, progress=inside, use_cache=bool(turn % 2), source="rest"
    )
    assert len(fetcher.fetch("BTC/USDT", "1m", day, limit=4_000)) == 4_000
    assert found or turn % 2, "with a cache, all of it may be there"
    assert set(found) <= {5}
    rows = 0
    for frame in fetcher.iter_frames("BNB/USDT", "1m", day, DAYS[turn % 300 + 2], rows=1_000):
        rows += len(frame)
        assert len(fetcher.fetch("ETH/USDT", "5m", day, limit=7)) == 7
        if rows >= 3_000:
            break
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda name: len(fetcher.fetch(name, "1m", day, limit=9)), ["BTC/USDT", "ETH/USDT"])) == {9}
    fetcher.close()
    world.fetchers.clear()


def within(seconds: float, work: Callable[[], None]) -> None:
    """Fails where the work takes longer, or fails: a deadlock would last for ever."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"
    if failed:
        raise failed[0]


@pytest.mark.fault("E04")
@pytest.mark.parametrize("network_threads", [1, 2, 4])
def test_calls_inside_calls_do_not_wait_for_each_other(world: World, network_threads: int) -> None:
    for turn in range(4):
        within(10, lambda: nested(world, turn, network_threads))  # noqa: B023 - it is over within the turn


@pytest.mark.long
@pytest.mark.fault("E04")
@pytest.mark.parametrize("network_threads", [1, 2, 4])
def test_a_hundred_calls_inside_calls_do_not_wait_for_each_other(world: World, network_threads: int) -> None:
    for turn in range(round(100 * FAULT_RUNS)):
        world.exchange.clear_log()
        within(20, lambda: nested(world, turn, network_threads))  # noqa: B023 - it is over within the turn


# -- workers that fail, streams that are given up ----------------------------------------------------------------------


@pytest.mark.fault("E05")
def test_every_failure_of_a_worker_is_told_and_none_is_swallowed(world: World) -> None:
    broken = {"1717200000000", "1717320000000"}  # 2024-06-01 00:00 and 2024-06-02 09:20, where chunks of 1m begin
    world.exchange.fail(faults.status(500), times=None, match=lambda path, params: params.get("startTime") in broken)
    fetcher = world.fetcher(max_retries=0, source="rest")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch(*WEEK)
    error = raised.value
    assert sum(gap.count for gap in error.missing) == 2_000
    assert len(error.refusals) == 2
    assert len(error.frame) == 10_080 - 2_000
    with pytest.raises(FetchManyError) as several:
        fetcher.fetch_many(["BTC/USDT", "NO/SUCH"], "1m", *WEEK[2:])
    assert set(several.value.errors) == {"BTC/USDT", "NO/SUCH"}


@pytest.mark.fault("E09")
def test_a_stream_that_is_given_up_sends_nothing_more(tmp_path: Path) -> None:
    with World(tmp_path, delay_s=0.02, weight_limit=10**7) as world:
        fetcher = world.fetcher(source="rest")
        for count, _ in enumerate(fetcher.iter_frames("BTC/USDT", "1m", "2023-01-01", "2024-01-01", rows=5_000)):
            if count:
                break
        sent = len(world.exchange.requests)
        time.sleep(1.0)
        assert len(world.exchange.requests) == sent
        same(fetcher.fetch(*WEEK), world.truth("BTCUSDT", *WEEK[1:]))
