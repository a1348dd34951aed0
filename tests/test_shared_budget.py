"""One budget, one pause and one ban for all processes on one cache folder, whatever becomes of one of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import random
import shutil
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import examples
from world import ms, wait_until

from candle_fetcher import CacheWarning, CandleFetcher, CandleFetcherError
from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.frame import index_ms
from candle_fetcher.net.budget import State, Window, pack_state
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.store import locks, shared
from candle_fetcher.store.shared import SharedState, SharedStates

GO = threading.Event()  # never set

MINUTES = int(os.environ.get("SHARED_BUDGET_MINUTES", "0"))
SYMBOLS = ["BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "ADAUSDT", "SOLUSDT", "DOGEUSDT", "ETHBTC"]
COLUMNS = ["open", "high", "low", "close", "volume"]

PROCESSES = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


def fetch(folder, base_urls, symbols, start, end, ahead_s=0.0, until_s=0.0, until=None):
    """Fetch the symbols in threads: once, again and again until that time, or until that file is there."""
    errors, rows = [], {}
    with CandleFetcher(
        base_urls=base_urls, cache_dir=folder, clock=lambda: time.time() + ahead_s, network_threads=8, source="rest"
    ) as fetcher:

        def one(symbol):
            while True:
                try:
                    frame = fetcher.fetch(symbol, "1m", start, end, refresh=bool(until_s or until))
                    digest = hashlib.sha256(index_ms(frame).astype("<i8").tobytes())
                    for name in frame:
                        digest.update(frame[name].to_numpy().tobytes())
                    rows[symbol] = digest.hexdigest()
                except CandleFetcherError as error:
                    errors.append(type(error).__name__)
                    return
                if time.time() >= until_s and (until is None or until.exists()):
                    return

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, symbols))
    return {"rows": rows, "errors": errors}


def reserve(folder, name, limit, count):
    limiter = make_limiter(SharedStates(Path(folder)).state(name), Limit(*limit))
    for _ in range(count):
        limiter.acquire(1, stop=threading.Event())
    return "reserved"


def hold(connection, folder, name, seconds):
    with SharedStates(Path(folder)).state(name).locked():
        connection.send("held")
        threading.Event().wait(seconds)
    return "freed"


def serve(connection: Connection) -> None:
    """Does what a line of stdin says, and prints the result."""
    while True:
        what, arguments = connection.recv()
        does = {"fetch": fetch, "reserve": reserve, "hold": functools.partial(hold, connection)}[what]
        connection.send(does(**arguments))


class Worker:
    """Another process; `tell` and `hear` take turns."""

    def __init__(self) -> None:
        self._connection, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=serve, args=(theirs,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the threads of an exchange
            self._process.start()
        theirs.close()

    def tell(self, what: str, **arguments: Any) -> Worker:
        self._connection.send((what, arguments))
        return self

    def hear(self) -> Any:
        return self._connection.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(10)
        self._process.close()
        self._connection.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Four processes; a test that kills one puts another in its place."""
    made = [Worker() for _ in range(4)]
    try:
        yield made
    finally:
        for worker in made:
            worker.kill()


@contextlib.contextmanager
def exchange_before_a_minute_ends(seconds: float, **settings: Any) -> Iterator[tuple[PracticeExchange, float]]:
    """An exchange by whose clock the minute ends in so many seconds, and how far that clock is ahead."""
    ahead_s = -(time.time() + seconds) % 60
    with PracticeExchange(clock=lambda: time.time() + ahead_s, **settings) as exchange:
        yield exchange, ahead_s


def truth(exchange: PracticeExchange, symbol: str, start: str, end: str) -> str:
    """What the exchange has of the symbol in 1m, as a worker sums it up."""
    rows = exchange.truth("binance", symbol, "1m", ms(start), ms(end))
    digest = hashlib.sha256(rows["open_time"].astype("<i8").tobytes())
    for name in COLUMNS:
        digest.update(rows[name].tobytes())
    return digest.hexdigest()


def arrived(exchange: PracticeExchange) -> list[tuple[float, str]]:
    """When each request for candles came, by the exchange's clock, and of what."""
    return sorted((one.time, one.params["symbol"]) for one in exchange.requests if "klines" in one.path)


def fault_s(exchange: PracticeExchange) -> float:
    """When the request came that got the fault."""
    return min(one.time for one in exchange.requests if one.status is None)


# The middle of an hour, so that no test of a limit by the hour runs into the next one, at any time of day.
MIDDLE_MS = 3_601_800_000


def make_limiter(state: SharedState, limit: Limit) -> Limiter:
    return Limiter(
        provider="fake",
        limits=[limit],
        now_ms=lambda: MIDDLE_MS,
        steady_ms=lambda: int(time.monotonic() * 1000),
        shared=state,
    )


def spent_by(limiter: Limiter) -> list[int]:
    """What was spent lately of each limit."""
    windows = limiter.load().windows.values()
    return [sum(cost for _, cost in (*window.done, *window.sent)) for window in windows]


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("E07", "A21")
def test_four_processes_with_eight_threads_each_keep_within_one_budget(workers: list[Worker], tmp_path: Path) -> None:
    days = [{"start": f"2024-03-{day:02}", "end": f"2024-03-{day + 2:02}"} for day in (1, 3, 5, 7)]
    with exchange_before_a_minute_ends(2.0, weight_limit=200, delay_s=0.02) as (exchange, ahead_s):
        how = {"folder": str(tmp_path), "base_urls": exchange.base_urls, "symbols": SYMBOLS, "ahead_s": ahead_s}
        for worker, range_ in zip(workers, days, strict=True):
            worker.tell("fetch", **how, **range_)
        for worker, range_ in zip(workers, days, strict=True):
            rows = {symbol: truth(exchange, symbol, **range_) for symbol in SYMBOLS}
            assert worker.hear() == {"rows": rows, "errors": []}
        counts = exchange.counts["binance"]
        asked = [one.path for one in exchange.requests]
    assert (counts.refusals, counts.bans) == (0, 0)
    first, *later = [weight for _, weight in sorted(counts.weights.items())]
    assert 200 - 2 * 32 - 4 <= first <= 200  # what was under way at once may have been counted twice
    assert later
    assert sum("exchangeInfo" in path for path in asked) == 1  # one was told the limits, and all knew them


@pytest.mark.slow
@pytest.mark.fault("A20", "E07")
def test_a_pause_that_one_process_is_asked_for_holds_the_others(workers: list[Worker], tmp_path: Path) -> None:
    with PracticeExchange(delay_s=0.05) as exchange:
        stop = keep_fetching(workers, exchange, tmp_path)
        fault = exchange.fail(faults.rate_limited(2), match="klines")
        wait_until(lambda: fault.hits > 0)
        paused_s = fault_s(exchange)
        wait_until(lambda: {symbol for when, symbol in arrived(exchange) if when > paused_s + 2} == set(SYMBOLS))
        stop()
        came = arrived(exchange)
    # Until the one that is paused has written it down, the others go on; that takes a second at the very most.
    assert [when for when, _ in came if paused_s + 1 < when < paused_s + 2] == []


@pytest.mark.slow
@pytest.mark.fault("A21", "E07")
def test_a_ban_that_one_process_is_told_of_binds_the_others(workers: list[Worker], tmp_path: Path) -> None:
    with PracticeExchange(delay_s=0.05) as exchange:
        keep_fetching(workers, exchange, tmp_path)
        exchange.fail(faults.banned(int(1000 * (time.time() + 120))), match="klines")
        assert [worker.hear()["errors"] for worker in workers] == [["Banned"] * 2] * 4
        exchange.clear_log()
        with (
            CandleFetcher(cache_dir=tmp_path, base_urls=exchange.base_urls) as later,
            pytest.raises(Banned, match="has banned this address"),
        ):
            later.fetch("BTCUSDT", "1m", "2022-01-01", "2022-01-02")
        assert exchange.requests == []


@pytest.mark.slow
@pytest.mark.fault("E07", "D23")
def test_the_others_go_on_when_one_is_killed(workers: list[Worker], tmp_path: Path) -> None:
    with PracticeExchange(delay_s=0.02) as exchange:
        stop = keep_fetching(workers, exchange, tmp_path)
        workers[0].kill()
        killed_s = time.time()
        # The next but one, since the first may have been on its way.
        wait_until(lambda: twice_after(killed_s, arrived(exchange)) >= set(SYMBOLS[2:]))
        del workers[0]
        stop()
    workers.insert(0, Worker())


@pytest.mark.skipif(not MINUTES, reason="takes minutes: set SHARED_BUDGET_MINUTES=3")
@pytest.mark.fault("E07", "D23")
def test_the_budget_of_every_minute_is_kept_though_processes_are_killed(workers: list[Worker], tmp_path: Path) -> None:
    with PracticeExchange(weight_limit=900, delay_s=0.01) as exchange:
        ends_s = time.time() + 60 * MINUTES
        how = {"folder": str(tmp_path), "base_urls": exchange.base_urls, "symbols": SYMBOLS, "until_s": ends_s}
        days = [{"start": f"2024-03-{day:02}", "end": f"2024-03-{day + 2:02}"} for day in (1, 3, 5, 7)]
        for worker, range_ in zip(workers, days, strict=True):
            worker.tell("fetch", **how, **range_)
        killed = 0
        while time.time() < ends_s - 20:
            time.sleep(random.uniform(1, 8))
            at = killed % 3
            workers[at].kill()
            workers[at] = Worker()
            workers[at].tell("fetch", **how, **days[at])
            killed += 1
        for worker, range_ in zip(workers, days, strict=True):
            rows = {symbol: truth(exchange, symbol, **range_) for symbol in SYMBOLS}
            assert worker.hear() == {"rows": rows, "errors": []}
        counts = exchange.counts["binance"]
    assert (counts.refusals, counts.bans) == (0, 0)
    whole = list(counts.weights.values())[1:-1]
    assert min(whole) > 0.8 * 900
    assert max(whole) <= 900


def twice_after(since_s: float, came: list[tuple[float, str]]) -> set[str]:
    """The symbols that were asked for more than once since then."""
    counts = Counter(symbol for when, symbol in came if when > since_s)
    return {symbol for symbol, count in counts.items() if count > 1}


def keep_fetching(workers: list[Worker], exchange: PracticeExchange, folder: Path) -> Callable[[], None]:
    """Let each process fetch two symbols of its own, again and again; return, once all are at it, what ends it without
    an error."""
    until = folder / "stop"
    for at, worker in enumerate(workers):
        worker.tell(
            "fetch",
            folder=str(folder),
            base_urls=exchange.base_urls,
            symbols=SYMBOLS[2 * at : 2 * at + 2],
            start="2024-03-01",
            end="2024-03-01T08:00",  # one request
            until=until,
        )
    wait_until(lambda: {symbol for _, symbol in arrived(exchange)} == set(SYMBOLS))

    def stop() -> None:
        until.touch()
        assert [worker.hear()["errors"] for worker in workers] == [[]] * len(workers)

    return stop


@pytest.mark.slow
@pytest.mark.fault("D23")
def test_who_is_halted_or_killed_inside_stops_nobody(tmp_path: Path) -> None:
    limit = Limit(1000, 3600)
    worker, state = Worker(), SharedStates(tmp_path).state("a")
    try:
        worker.tell("reserve", folder=str(tmp_path), name="a", limit=limit, count=200)
        assert worker.hear() == "reserved"
        limiter = make_limiter(state, limit)
        assert limiter.load() != State()
        worker.tell("hold", folder=str(tmp_path), name="a", seconds=60)
        assert worker.hear() == "held"
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            for ticket in pool.map(lambda _: limiter.acquire(1, stop=GO), range(8)):
                limiter.release(ticket)
        assert 0.9 < time.monotonic() - began < 8  # waited for once, a second, and not by each thread
    finally:
        worker.kill()
    limiter = make_limiter(SharedState(tmp_path, "a"), limit)
    for _ in range(300):
        limiter.release(limiter.acquire(1, stop=GO))
    assert spent_by(limiter) == [500]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads, which is what is tested
@pytest.mark.fault("D20")
def test_a_forked_child_shares_the_budget_whatever_the_parents_threads_are_at(tmp_path: Path) -> None:
    state = SharedStates(tmp_path).state("a")
    limiter = make_limiter(state, Limit(1000, 3600))
    inside = threading.Event()

    def stay() -> None:
        with state.locked():
            inside.set()
            time.sleep(0.2)

    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(stay)
        inside.wait(5)
        child = os.fork()
        if not child:
            for _ in range(5):
                limiter.release(limiter.acquire(1, stop=GO))
            os._exit(0)
        staying.result(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    limiter.release(limiter.acquire(1, stop=GO))
    assert spent_by(limiter) == [6]


# -- a fetcher ---------------------------------------------------------------------------------------------------------


def test_without_a_cache_on_disk_nothing_is_written(tmp_path: Path) -> None:
    with PracticeExchange() as exchange:
        for how in ({"use_cache": False}, {"disk_cache_size": 0}):
            with CandleFetcher(cache_dir=tmp_path / "cache", base_urls=exchange.base_urls, **how) as fetcher:
                assert len(fetcher.fetch("BTCUSDT", "1h", "2024-03-01", "2024-03-02")) == 24
    assert list(tmp_path.iterdir()) == []


def test_two_fetchers_share_and_another_exchange_has_a_budget_of_its_own(tmp_path: Path) -> None:
    def exchange_infos(exchange: PracticeExchange) -> int:
        return sum("exchangeInfo" in one.path for one in exchange.requests)

    with PracticeExchange() as one, PracticeExchange() as other:
        for base_urls, expected in ((one.base_urls, (1, 0)), (one.base_urls, (1, 0)), (other.base_urls, (1, 1))):
            with CandleFetcher(cache_dir=tmp_path, base_urls=base_urls, source="rest") as fetcher:
                fetcher.fetch("BTCUSDT", "1h", "2024-03-01", "2024-03-02", refresh=True)
            assert (exchange_infos(one), exchange_infos(other)) == expected
    folder = tmp_path / shared.FOLDER
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.fault("D13")
def test_a_fetch_does_not_mind_that_nothing_can_be_shared(tmp_path: Path) -> None:
    (tmp_path / shared.FOLDER).touch()
    with PracticeExchange() as exchange:
        for start in ("2024-03-01", "2024-05-01"):
            with CandleFetcher(cache_dir=tmp_path, base_urls=exchange.base_urls, source="rest") as fetcher:
                assert len(fetcher.fetch("BTCUSDT", "1h", start, f"{start[:-1]}2")) == 24
                assert fetcher.cache.stats().disk_entries > 0


@pytest.mark.slow
@pytest.mark.fault("D13")
def test_in_a_folder_that_is_not_ours_nothing_is_made(tmp_path: Path) -> None:
    foreign = tmp_path / "cache.db"
    foreign.write_bytes(b"another program's")
    with (
        PracticeExchange() as exchange,
        pytest.warns(CacheWarning, match="was not written by candle_fetcher"),
        CandleFetcher(cache_dir=tmp_path, base_urls=exchange.base_urls) as fetcher,
    ):
        assert len(fetcher.fetch("BTCUSDT", "1h", "2024-03-01", "2024-03-02")) == 24
        assert len(fetcher.fetch("BTCUSDT", "1m", "2022-01-01", "2022-02-01")) == 44_640  # by files
    assert list(tmp_path.iterdir()) == [foreign]
    assert foreign.read_bytes() == b"another program's"


# -- the file ----------------------------------------------------------------------------------------------------------


def save(state: SharedState, data: bytes) -> None:
    with state.locked():
        state.save(data)


def load(state: SharedState) -> tuple[bytes, ...]:
    with state.locked():
        return state.load()


@contextlib.contextmanager
def state_in(folder: Path, name: str = "a") -> Iterator[SharedState]:
    state = SharedState(folder, name)
    yield state
    state.close()


def test_what_one_saves_the_other_loads_and_a_name_has_its_own(tmp_path: Path) -> None:
    with state_in(tmp_path) as one, state_in(tmp_path) as other, state_in(tmp_path, "b") as third:
        assert load(one) == ()
        for data in (b"first", b"second", b"", b"x" * 3000):
            save(one, data)
            assert load(other) == (data,)
            assert load(one) == (data,)
        assert load(third) == ()
        third.path.write_bytes(one.path.read_bytes())  # under the other's name it says nothing
        assert load(third) == ()


@pytest.mark.fault("D14")
def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    with state_in(tmp_path / "cache") as one, state_in(tmp_path / "cache") as other:
        save(one, b"first")
        assert load(other) == (b"first",)
        shutil.rmtree(tmp_path / "cache")
        assert load(one) == (b"first",)  # as it remembers
        save(one, b"second")
        assert load(other) == (b"second",)


TROUBLES = ["a file as the folder", "a folder as the file", "no locks", "a full disk", "a newer version", "foreign"]


@pytest.mark.fault("D11", "D13", "D21", "D30")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_with_any_trouble_a_process_has_a_budget_of_its_own(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    break_state(folder, trouble, monkeypatch)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    with state_in(folder) as state:
        limiter = make_limiter(state, Limit(5, 3600))
        for _ in range(5):
            limiter.release(limiter.acquire(1, stop=GO))
        with pytest.raises(RateLimited):
            limiter.acquire(1, stop=GO)
        limiter.ban(MIDDLE_MS + 60_000, "no more")
        with pytest.raises(Banned, match="no more"):
            limiter.acquire(1, stop=GO)
    if trouble in ("a newer version", "foreign"):
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def break_state(folder: Path, trouble: str, patch: pytest.MonkeyPatch) -> None:
    path = SharedState(folder, "a").path
    if trouble == "a file as the folder":
        folder.touch()
    elif trouble == "a folder as the file":
        path.mkdir(parents=True)
    elif trouble == "no locks":
        patch.setattr(locks, "fcntl", None)
        patch.setattr(locks, "msvcrt", None)
    elif trouble == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("this system has no disk that is always full")
        path.parent.mkdir(parents=True)
        path.symlink_to("/dev/full")
    elif trouble == "a newer version":
        with patch.context() as newer, state_in(folder) as state:
            newer.setattr(shared, "VERSION", shared.VERSION + 1)
            save(state, b"what nobody can know yet")
    else:
        folder.mkdir()
        (folder / "cache.db").write_bytes(b"another program's")


def test_what_went_apart_is_joined_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "REST_FAILED_S", 0.0)
    with state_in(tmp_path) as one, state_in(tmp_path) as other:
        limiters = [make_limiter(state, Limit(100, 3600)) for state in (one, other)]
        limiters[0].release(limiters[0].acquire(1, stop=GO), used=10)
        with monkeypatch.context() as patch:
            patch.setattr(locks, "fcntl", None)
            patch.setattr(locks, "msvcrt", None)
            limiters[1].release(limiters[1].acquire(1, stop=GO), used=50)
        assert spent_by(limiters[0]) == [10]
        limiters[1].release(limiters[1].acquire(1, stop=GO))
        assert spent_by(limiters[0]) == [10 + 50 + 1]


@settings(parent=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_that_was_there_before_or_none(tmp_path: Path, data: st.DataObject) -> None:
    said = [pack_state(State({"weight/60": Window(((7, used),))}))[0] for used in range(3)]
    with state_in(tmp_path) as writer:
        for one in said:
            save(writer, one)
        whole = bytearray(writer.path.read_bytes())
        sound = len(whole)
        for at in data.draw(st.lists(st.integers(0, sound - 1), max_size=4)):
            whole[at] ^= 1 << data.draw(st.integers(0, 7))
        cut = data.draw(st.sampled_from([sound, sound, data.draw(st.integers(0, sound))]))
        writer.path.write_bytes(whole[:cut])
    with state_in(tmp_path) as reader:
        found = load(reader)
        assert found in {(), (said[1],), (said[2],)}
        save(reader, b"next")
        with state_in(tmp_path) as second:
            assert load(second) == (b"next",)
        reader.path.unlink()


def test_files_that_nobody_wrote_to_for_a_month_are_removed(tmp_path: Path) -> None:
    with state_in(tmp_path, "old") as old, state_in(tmp_path, "young") as young:
        save(old, b"old")
        save(young, b"young")
        past_s = time.time() - shared.IDLE_S - 1
        os.utime(old.path, (past_s, past_s))
        with state_in(tmp_path, "new") as new:
            save(new, b"new")
            assert sorted(path.name for path in new.path.parent.iterdir()) == sorted([young.path.name, new.path.name])
        save(old, b"again")  # it notices
        with state_in(tmp_path, "old") as other:
            assert load(other) == (b"again",)


@pytest.mark.slow
def test_a_closed_one_opens_nothing_and_remembers(tmp_path: Path) -> None:
    with state_in(tmp_path) as state:
        save(state, b"before")
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    save(state, b"after")
    assert load(state) == (b"after",)
    assert before == (len(list(folder.iterdir())) if folder.is_dir() else 0)
    assert state.acquire("key")
    with state_in(tmp_path) as other:
        assert load(other) == (b"before",)
