"""What interrupts a call may close, fetch, raise or end the program, wherever it comes; and programs may end anyhow."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import children
import pytest
from runs import FAULT_RUNS
from world import World

from candle_fetcher import CandleFetcher, CandleFetcherError
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.practice import PracticeExchange, faults

DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork, and few signals")


def run(script: str, *words: object, limit_s: float = 60.0) -> tuple[int, str, str]:
    """Return code, stdout and stderr of a program that has a fetcher to make, and a day to fetch."""
    head = f"""
    import atexit, contextlib, signal, sys, threading, time
    from candle_fetcher import CandleFetcher, CandleFetcherError
    DAY = {DAY!r}
    def make(**settings):
        return CandleFetcher(base_urls={{"binance": sys.argv[1]}}, cache_dir=sys.argv[2], progress=False, **settings)
    """
    return children.run(textwrap.dedent(head) + textwrap.dedent(script), *words, timeout=limit_s)


def places(count: int, seed: int) -> str:
    """The last line of tests/places.py, which exits with 1 where something hangs or is wrong."""
    script = "import sys, places; sys.exit(places.main())"
    code, out, err = children.run(script, "--places", count, "--seed", seed, timeout=600)
    assert code == 0, out + err
    return out.splitlines()[-1]


@pytest.mark.fault("I01", "I02")
def test_an_interruption_at_any_place_leaves_a_fetcher_that_fetches_and_closes() -> None:
    assert places(6, 7).startswith("6 places, 0 hangs, 0 wrong results")


@pytest.mark.long
@pytest.mark.fault("I01", "I02")
def test_interruptions_at_two_hundred_places() -> None:
    count = round(200 * FAULT_RUNS)
    assert places(count, 1).startswith(f"{count:,} places, 0 hangs, 0 wrong results")


@pytest.mark.slow
@pytest.mark.fault("I01")
def test_a_signal_handler_closes_the_fetcher_that_it_interrupts(tmp_path: Path) -> None:
    script = """
    fetcher = make()
    signal.signal(signal.SIGTERM, lambda *_: fetcher.close())
    threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)).start()
    try:
        fetcher.fetch(*DAY)
    except CandleFetcherError as error:
        print(error)
    """
    with PracticeExchange() as exchange:
        exchange.fail(faults.hang(30), times=None, match="klines")
        code, out, err = run(script, exchange.url, tmp_path)
    assert (code, err) == (0, "")
    assert "its CandleFetcher was closed" in out


@pytest.mark.fault("I01")
def test_a_call_out_of_a_finalizer_in_a_thread_of_ours_is_refused_at_once(tmp_path: Path) -> None:
    said: list[str] = []

    class Doomed:
        def __del__(self) -> None:
            try:
                fetcher.fetch(*DAY)
            except CandleFetcherError as error:
                said.append(str(error))

    with World(tmp_path) as world:
        fetcher = world.fetcher(source="rest")
        load = fetcher.cache.entries.load

        def with_a_finalizer(*arguments: object, **named: object) -> object:
            Doomed()
            return load(*arguments, **named)  # type: ignore[arg-type]

        fetcher.cache.entries.load = with_a_finalizer  # type: ignore[assignment,method-assign]
        assert len(fetcher.fetch(*DAY)) == 24
    assert said
    assert all("finalizer" in one for one in said)


@pytest.mark.slow
@pytest.mark.fault("I02")
def test_a_timeout_out_of_a_signal_ends_the_call_and_the_next_one_works(tmp_path: Path) -> None:
    script = """
    def late(*_):
        raise TimeoutError("too long")
    signal.signal(signal.SIGALRM, late)
    fetcher = make()
    for seconds in (0.2, 0.3, 0.4):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01", source="rest")
        except TimeoutError:
            print("late")
        print(len(fetcher.fetch(*DAY)))
    fetcher.close()
    """
    with PracticeExchange(delay_s=0.05, weight_limit=10**7) as exchange:
        assert run(script, exchange.url, tmp_path) == (0, "late\n24\n" * 3, "")


@pytest.mark.slow
@pytest.mark.fault("I03")
def test_a_thread_that_outlives_the_main_thread_fetches(tmp_path: Path) -> None:
    script = """
    fetcher = make()
    def poll():
        threading.main_thread().join()
        print(len(fetcher.fetch(*DAY)))
        print([len(one) for one in fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *DAY[1:]).values()])
        with make(use_cache=False) as another:
            print(len(another.fetch(*DAY)))
    threading.Thread(target=poll).start()
    """
    with PracticeExchange() as exchange:
        assert run(script, exchange.url, tmp_path) == (0, "24\n[24, 24]\n24\n", "")


@pytest.mark.slow
@pytest.mark.fault("I03")
def test_a_handler_at_exit_fetches(tmp_path: Path) -> None:
    script = """
    fetcher = make()
    def last():
        print(len(fetcher.fetch(*DAY)))
        print([len(one) for one in fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *DAY[1:]).values()])
    atexit.register(last)
    """
    with PracticeExchange() as exchange:
        assert run(script, exchange.url, tmp_path) == (0, "24\n[24, 24]\n", "")


@pytest.mark.slow
@pytest.mark.fault("K16")
def test_a_daemon_thread_that_waits_for_a_silent_server_does_not_hold_the_end_of_the_program(tmp_path: Path) -> None:
    script = """
    fetcher = make()
    def fetch():
        with contextlib.suppress(CandleFetcherError):
            fetcher.fetch(*DAY)
    threading.Thread(target=fetch, daemon=True).start()
    time.sleep(0.3)
    print(time.time())
    sys.exit(3)
    """
    with PracticeExchange() as exchange:
        exchange.fail(faults.hang(30), times=None, match="klines")
        code, out, err = run(script, exchange.url, tmp_path)
        assert time.time() - float(out) < 10
    assert (code, err) == (3, "")


FEWER = """
    start, left = threading.Thread.start, 0
    def limited(self):
        global left
        if left <= 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        start(self)
    threading.Thread.start = limited
    for threads in (0, 1, 2, 3, 5, 8):
        left = threads
        with CandleFetcher(base_urls={"binance": sys.argv[1]}, use_cache=False, progress=False) as fetcher:
            found = len(fetcher.fetch("BTC/USDT", "1m", "2024-03-01", "2024-03-05", source="rest"))
            print(found, [len(one) for one in fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *DAY[1:]).values()])
    left = 1
    with make() as fetcher:
        fetcher.fetch(*DAY)
    print(len(make().fetch(*DAY, source="cache")))
"""


@pytest.mark.slow
@pytest.mark.fault("K17")
def test_where_no_more_threads_can_be_started_fewer_do_all_of_the_work(tmp_path: Path) -> None:
    with PracticeExchange() as exchange:
        assert run(FEWER, exchange.url, tmp_path) == (0, "5760 [24, 24]\n" * 6 + "24\n", "")


def test_what_was_handed_to_a_pool_is_done_when_it_closes() -> None:
    pool, done = ThreadPool("test", 2), []
    for number in range(20):
        pool.submit(done.append, number)
    pool.close(cancels=False)
    assert sorted(done) == list(range(20))


def test_a_closed_fetcher_says_so_in_every_thread(tmp_path: Path) -> None:
    fetcher = CandleFetcher(cache_dir=tmp_path, progress=False)
    fetcher.close()
    fetcher.close()
    with pytest.raises(CandleFetcherError, match="closed"):
        fetcher.fetch(*DAY, source="cache")
