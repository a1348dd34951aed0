"""Several processes on one cache folder: what one of them downloads, the others find."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import children
import pytest
from world import World, ms, same, wait_until

from candle_fetcher import IncompleteData
from candle_fetcher.practice import PracticeExchange, damage, faults

# Fetches the ranges, each in a thread of its own, once the parent says go; prints rows and fingerprints.
CHILD = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from candle_fetcher import CandleFetcher
job = json.loads(sys.argv[1])
settings = {name: job[name] for name in ("base_urls", "cache_dir", "source")}
with CandleFetcher(**settings, progress=False) as fetcher:
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(len(job["ranges"])) as pool:
        frames = list(pool.map(lambda span: fetcher.fetch("BTC/USDT", job["timeframe"], *span), job["ranges"]))
    print(json.dumps([[len(f), f.attrs["candle_fetcher"]["fingerprint"]] for f in frames]), flush=True)
"""


class Process:
    """A child that waits for `go`."""

    def __init__(
        self, exchange: PracticeExchange, folder: Path, ranges: list[Any], timeframe: str = "1m", source: str = "rest"
    ) -> None:
        job = {
            "base_urls": exchange.base_urls,
            "cache_dir": str(folder),
            "ranges": ranges,
            "timeframe": timeframe,
            "source": source,
        }
        self.process = children.start(CHILD, json.dumps(job))
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> list[tuple[int, str]]:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return [(rows, fingerprint) for rows, fingerprint in json.loads(out)]


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def start(*arguments: Any, **named: Any) -> Process:
        made.append(Process(*arguments, **named))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.kill()
        for pipe in (one.process.stdin, one.process.stdout, one.process.stderr):
            pipe.close()


def day(number: int) -> str:
    return f"2024-03-{number:02d}"


def chunk_requests(exchange: PracticeExchange) -> Counter[str]:
    """How often each chunk was asked for: a request for candles, unless it is a look for the first or the last one."""
    asked = [request.params for request in exchange.requests if request.path.endswith("/klines")]
    return Counter(one["startTime"] for one in asked if one.get("limit") == "1000")


def files(exchange: PracticeExchange) -> Counter[str]:
    return Counter(request.path.rpartition("/")[2] for request in exchange.requests if request.market == "archive")


@pytest.mark.slow
@pytest.mark.fault("D16", "D22")
def test_thirty_two_threads_in_four_processes_ask_once_for_each_chunk(tmp_path: Path, start: Any) -> None:
    with PracticeExchange(delay_s=0.05) as exchange:
        children = [
            start(exchange, tmp_path, [(day(1 + (step + shift) % 5), day(7 + (step + shift) % 5)) for step in range(8)])
            for shift in range(4)
        ]
        for child in children:
            child.go()
        answers = [child.answer() for child in children]
        asked = chunk_requests(exchange)
    assert set(asked.values()) == {1}
    for shift, answer in enumerate(answers):
        assert [rows for rows, _ in answer] == [6 * 1440] * 8
        for step, (_, fingerprint) in enumerate(answer):
            twin = answers[0][(step + shift) % 5]
            assert fingerprint == twin[1]


@pytest.mark.slow
@pytest.mark.fault("D23")
def test_who_is_killed_has_its_place_taken(tmp_path: Path, start: Any) -> None:
    gate = threading.Event()
    held: list[str] = []

    def is_first(path: str, params: dict[str, str]) -> bool:
        if held or params.get("limit") != "1000":
            return False
        held.append(params["startTime"])
        return True

    def hold(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        gate.wait(30)
        return False

    with PracticeExchange() as exchange:
        first = start(exchange, tmp_path, [(day(1), day(7))])
        second = start(exchange, tmp_path, [(day(1), day(7))])
        exchange.fail(faults.FaultAction("held", hold), match=is_first)
        first.go()
        wait_until(lambda: held)
        second.go()
        time.sleep(0.7)
        assert chunk_requests(exchange)[held[0]] == 1  # the second waits for the first
        first.kill()
        answer = second.answer()
        gate.set()
        asked = chunk_requests(exchange)
    assert [rows for rows, _ in answer] == [6 * 1440]
    assert asked[held[0]] == 2
    assert sum(asked.values()) == len(asked) + 1


@pytest.mark.slow
def test_a_file_of_the_archive_is_downloaded_once(tmp_path: Path, start: Any) -> None:
    with PracticeExchange(delay_s=0.2) as exchange:
        children = [start(exchange, tmp_path, [("2024-03-01", "2024-05-01")], "5m", "auto") for _ in range(3)]
        for child in children:
            child.go()
        answers = [child.answer() for child in children]
        assert len({answer[0] for answer in answers}) == 1
        asked = files(exchange)
        assert asked["BTCUSDT-5m-2024-03.zip"] == asked["BTCUSDT-5m-2024-04.zip"] == 1
        again = chunk_requests(exchange)
        assert all(count == 1 for count in again.values())


@pytest.mark.slow
def test_who_began_earlier_and_ends_later_takes_no_newer_candle_away(tmp_path: Path) -> None:
    """Two fetchers with a memory each, as two processes have."""
    reached, gate = threading.Event(), threading.Event()

    def hold(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        reached.set()
        gate.wait(20)
        return False

    def is_old(path: str, params: dict[str, str]) -> bool:
        return "klines" in path and "startTime" in params and int(params["startTime"]) < ms("2024-06-13")

    with World(tmp_path) as world, ThreadPoolExecutor(1) as pool:
        quick, slow = world.fetcher(source="rest"), world.fetcher(source="rest", network_threads=1)
        quick.fetch("BTC/USDT", "1m", "2024-06-15T09:00")
        world.now_s += 600
        world.exchange.fail(faults.FaultAction("held", hold), match=is_old)
        late = pool.submit(slow.fetch, "BTC/USDT", "1m", "2024-06-01")
        assert reached.wait(10)
        world.now_s += 1200
        rows = len(quick.fetch("BTC/USDT", "1m", "2024-06-15T09:00"))
        gate.set()
        late.result()
        stored = world.fetcher(source="cache").fetch("BTC/USDT", "1m", "2024-06-15T09:00")
        assert len(stored) == rows == 210
        same(stored, world.truth("BTCUSDT", "1m", "2024-06-15T09:00", "2024-06-15T12:30"))


def test_a_refresh_leaves_no_frame_of_the_old_candles_behind(tmp_path: Path) -> None:
    day = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
    with World(tmp_path) as world, ThreadPoolExecutor(1) as pool:
        fetcher = world.fetcher(source="rest")
        fetcher.fetch(*day)
        world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-03-05"), volume="77.00000000")
        update, between = fetcher.cache.entries.update, []

        def with_a_look_before(*arguments: Any, **named: Any) -> Any:
            between.append(pool.submit(fetcher.fetch, *day).result()["volume"].iloc[0])
            return update(*arguments, **named)

        fetcher.cache.entries.update = with_a_look_before  # type: ignore[method-assign]
        assert fetcher.fetch(*day, refresh=True)["volume"].iloc[0] == 77
        assert between
        assert fetcher.fetch(*day)["volume"].iloc[0] == 77


# -- threads of one process --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_waits_for_one_that_found_nothing_asks_itself(tmp_path: Path) -> None:
    day = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
    with World(tmp_path, delay_s=0.3) as world, ThreadPoolExecutor(2) as pool:
        world.exchange.archive.spoil("BTCUSDT-1h-", damage.missing())
        fetcher = world.fetcher()
        alone = pool.submit(fetcher.fetch, *day, source="archive")
        time.sleep(0.1)
        both = pool.submit(fetcher.fetch, *day)
        assert alone.exception() is None or isinstance(alone.exception(), IncompleteData)  # as the others were quick
        same(both.result(), world.truth("BTCUSDT", *day[1:]))
        same(fetcher.fetch(*day), world.truth("BTCUSDT", *day[1:]))


@pytest.mark.slow
def test_close_ends_every_call_that_is_under_way(tmp_path: Path) -> None:
    with World(tmp_path, delay_s=0.2) as world, ThreadPoolExecutor(12) as pool:
        fetcher = world.fetcher(network_threads=2)
        starts = [f"2024-0{1 + at % 4}-0{1 + at // 4}" for at in range(12)]
        calls = [pool.submit(fetcher.fetch, "BTC/USDT", "1m", start, "2024-06-01", source="rest") for start in starts]
        time.sleep(0.5)
        fetcher.close()
        done, left = wait(calls, timeout=30)
        assert not left
        assert all(call.exception() is not None for call in done)


@pytest.mark.slow
def test_two_threads_may_close_while_candles_are_being_stored(tmp_path: Path) -> None:
    day = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
    with World(tmp_path) as world, ThreadPoolExecutor(3) as pool:
        fetcher = world.fetcher(source="rest")
        update, is_at_it = fetcher.cache.entries.update, threading.Event()

        def slow(*arguments: Any, **named: Any) -> Any:
            is_at_it.set()
            time.sleep(0.3)
            return update(*arguments, **named)

        fetcher.cache.entries.update = slow  # type: ignore[method-assign]
        call = pool.submit(fetcher.fetch, *day)
        assert is_at_it.wait(10)
        for closing in [pool.submit(fetcher.close) for _ in range(2)]:
            closing.result(10)
        call.exception(10)
        same(world.fetcher(source="cache").fetch(*day), world.truth("BTCUSDT", *day[1:]))


@pytest.mark.slow
@pytest.mark.fault("J07")
@pytest.mark.parametrize("how", ["one range each", "the same range", "first_available"])
def test_threads_that_look_before_the_listing_ask_for_the_first_candle_once(tmp_path: Path, how: str) -> None:
    with World(tmp_path, delay_s=0.1) as world, ThreadPoolExecutor(4) as pool:
        fetcher = world.fetcher(source="rest")

        def call(number: int) -> object:
            if how == "first_available":
                return fetcher.first_available("BTC/USDT")
            return len(fetcher.fetch("BTC/USDT", "1d", f"201{3 + number % (4 if 'each' in how else 1)}-01-01", "2019"))

        list(pool.map(call, range(4)))
        asked = [one.params for one in world.exchange.requests if one.path.endswith("/klines")]
    # Where no candles are asked for, a second reply has to bear the first one out.
    assert len([one for one in asked if one.get("limit") == "1"]) == (2 if how == "first_available" else 1)
