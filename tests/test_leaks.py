"""Calls by the hundred and the thousand, one inside another, given up half way: what is left over afterwards."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from runs import FAULT_RUNS
from world import World, same

from candle_fetcher import CandleFetcher, CandleFetcherError, FetchManyError, IncompleteData
from candle_fetcher.fetcher.pools import Pools
from candle_fetcher.practice import faults
from candle_fetcher.settings import MODES

WORLD = {"weight_limit": 10**7}
SIZES = Pools(*MODES["standard"]).sizes
WEEK = ("BTC/USDT", "1m", "2024-06-01", "2024-06-08")
DAYS = [f"2023-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)]


POOLED = re.compile(r"candle-(network|io|files)-(\d+)")
OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """Leave out of the count what other tests have left running."""
    OTHERS.update(threading.enumerate())
    yield
    OTHERS.clear()


class Held(NamedTuple):
    """What this process holds: threads, and descriptors, without those that come and go with the load."""

    threads: int
    files: int
    sockets: int
    memory: int


def held() -> Held:
    """A pool starts its threads as they are needed, up to its size, and with each comes a connection to the exchange:
    how many run depends on how much there was to do at once, so that they do not count. There is one fetcher at a
    time, whose threads differ by name.
    """
    gc.collect()
    process = psutil.Process()
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    connections = getattr(process, "net_connections", None) or process.connections  # the name up to psutil 5
    sockets = len(connections(kind="inet"))
    names = [thread.name for thread in threading.enumerate() if thread not in OTHERS]
    pooled = [name for name in names if is_pooled(name)]
    assert len(pooled) == len(set(pooled)), "threads of a pool whose fetcher is gone"
    served = names.count("practice-connection")
    return Held(len(names) - len(pooled) - served, files - sockets, sockets, process.memory_info().rss)


def is_pooled(name: str) -> bool:
    """Whether a pool of a fetcher may have a thread of that name."""
    found = POOLED.fullmatch(name)
    return found is not None and int(found[2]) < SIZES[found[1]]


def is_left(before: Held, after: Held, mb: int) -> None:
    assert after.threads <= before.threads + 1, "threads"
    assert after.files <= before.files + 5, "descriptors"
    # Both ends of the connections of each thread that asks, and of the caller's own.
    assert after.sockets <= before.sockets + 2 * (SIZES["network"] + 1), "sockets"
    assert after.memory <= before.memory + mb * 2**20, "memory"


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


@pytest.mark.slow
@pytest.mark.fault("E06")
def test_fifty_calls_leave_nothing_more_than_the_first_ones(world: World) -> None:
    fetcher = world.fetcher(memory_cache_size="8MB")
    calls(fetcher, 20)
    before = held()
    calls(fetcher, 50)
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


@pytest.mark.slow
@pytest.mark.fault("E06", "A01")
def test_calls_that_fail_leave_nothing(world: World) -> None:
    fetcher = world.fetcher(max_retries=0, use_cache=False, source="rest")
    fetcher.fetch(*WEEK)

    def fail(action: faults.FaultAction) -> None:
        fault = world.exchange.fail(action, times=None, match="klines", after=2)
        with pytest.raises(CandleFetcherError):
            fetcher.fetch(*WEEK)
        fault.stop()

    ways = [faults.cut(0.5), faults.reset(), faults.close_before_reply(), faults.html_200(), faults.cut_chunked(0.5)]
    fail(ways[0])
    before = held()
    for action in ways * 3:
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


@pytest.mark.slow
@pytest.mark.fault("E04")
@pytest.mark.parametrize("network_threads", [1, 2, 4])
def test_calls_inside_calls_do_not_wait_for_each_other(world: World, network_threads: int) -> None:
    for turn in range(2):
        within(10, lambda: nested(world, turn, network_threads))  # noqa: B023 - it is over within the turn


@pytest.mark.long
@pytest.mark.fault("E04")
@pytest.mark.parametrize("network_threads", [1, 2, 4])
def test_a_hundred_calls_inside_calls_do_not_wait_for_each_other(world: World, network_threads: int) -> None:
    for turn in range(round(100 * FAULT_RUNS)):
        world.exchange.clear_log()
        within(20, lambda: nested(world, turn, network_threads))  # noqa: B023 - it is over within the turn


# -- workers that fail, streams that are given up ----------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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
