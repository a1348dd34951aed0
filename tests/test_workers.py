"""Whole series by the workers of an executor: the same frames and errors, one budget, no keys, and what is lost."""

from __future__ import annotations

import _thread
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from executors import METHODS, Losing, Postal, Stuck, kill_all, of_forks, processes
from world import wait_until

import candle_fetcher
from candle_fetcher import (
    CandleFetcher,
    CandleFetcherError,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    InputError,
    UnknownSymbol,
    WorkerError,
)
from candle_fetcher.core.call import Limit
from candle_fetcher.net.budget import divided
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import find_provider
from candle_fetcher.workers import recipe, work
from candle_fetcher.workers.parcel import pack_value, unpack_value
from candle_fetcher.workers.work import close_fetchers

JANUARY = ("1h", "2024-01-01", "2024-02-01")
SYMBOLS = ["ETH/USDT", "BTC/USDT", "BNB/USDT"]
MANIFEST = "candle_fetcher"


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as made:
        yield made


@pytest.fixture(autouse=True)
def no_fetcher_is_left() -> Iterator[None]:
    yield
    close_fetchers()


Make = Callable[..., CandleFetcher]


@pytest.fixture
def make(exchange: PracticeExchange, tmp_path: Path) -> Iterator[Make]:
    made: list[CandleFetcher] = []

    def make(**settings: Any) -> CandleFetcher:
        folder = tmp_path / f"cache{len(made)}"
        usual = {"base_urls": exchange.base_urls, "cache_dir": folder, "progress": False, "max_retries": 0}
        made.append(CandleFetcher(**{**usual, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def same(frames: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    """Hold the frames against others: order, values to the last bit, and manifests, but for where they came from."""
    assert list(frames) == list(expected)
    for symbol, frame in frames.items():
        pd.testing.assert_frame_equal(frame, expected[symbol], check_exact=True, check_freq=True)
        one, other = (dict(made.attrs[MANIFEST]) for made in (frame, expected[symbol]))
        assert one.pop("sources").keys() == other.pop("sources").keys()
        assert one == other
        assert type(frame.attrs[MANIFEST]) is type(expected[symbol].attrs[MANIFEST])


def set_keys(exchange: PracticeExchange, patch: pytest.MonkeyPatch) -> list[str]:
    """Set the keys of Alpaca in the environment, and return them."""
    for key in find_provider("alpaca").keys:
        patch.setenv(key.environment, exchange.api_keys["alpaca"][key.name])
    return list(exchange.api_keys["alpaca"].values())


# -- frames ------------------------------------------------------------------------------------------------------------


@of_forks
@pytest.mark.parametrize("method", [pytest.param(one, marks=pytest.mark.slow(keep=METHODS[:1])) for one in METHODS])
def test_processes_give_the_same_frames_in_the_same_order(make: Make, method: str) -> None:
    with processes(method) as pool:
        frames = make().fetch_many(SYMBOLS, *JANUARY, executor=pool)
        again = make().fetch_many(SYMBOLS, *JANUARY, columns="all", executor=pool)
    same(frames, make().fetch_many(SYMBOLS, *JANUARY))
    same(again, make().fetch_many(SYMBOLS, *JANUARY, columns="all"))


@pytest.mark.parametrize(
    "words",
    [
        {"limit": 30},
        {"columns": "all", "include_open": True},
        {"on_gap": "ffill", "provider": "binance-um"},
        {"kind": "mark", "provider": "binance-um"},
        {"source": "rest", "refresh": True},
        {"with_manifest": True},
    ],
    ids=str,
)
def test_arguments_travel(make: Make, words: dict[str, Any]) -> None:
    frames = make().fetch_many(SYMBOLS[:2], *JANUARY, executor=Postal(), **words)
    expected = make().fetch_many(SYMBOLS[:2], *JANUARY, **words)
    if "with_manifest" in words:
        assert all(frames[one][1]["fingerprint"] == expected[one][1]["fingerprint"] for one in expected)
    else:
        same(frames, expected)


def test_outputs_travel(make: Make) -> None:
    polars = pytest.importorskip("polars")
    frames = make().fetch_many(SYMBOLS[:1], *JANUARY, executor=Postal(), output="polars")
    assert frames["ETH/USDT"].equals(make().fetch_many(SYMBOLS[:1], *JANUARY, output="polars")["ETH/USDT"])
    assert isinstance(frames["ETH/USDT"], polars.DataFrame)


@pytest.mark.slow
def test_settings_travel(exchange: PracticeExchange, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(exchange, monkeypatch)
    settings = {"provider": "alpaca", "provider_settings": {"alpaca": {"adjustment": "raw", "feed": "iex"}}}
    days = ("1d", "2024-03-01", "2024-04-01")
    same(make(**settings).fetch_many(["AAPL"], *days, executor=Postal()), make(**settings).fetch_many(["AAPL"], *days))


def test_a_range_is_read_once_for_all(make: Make) -> None:
    frames = make().fetch_many(SYMBOLS, "1d", days=3, executor=Postal())
    assert len({str(frame.index[0]) for frame in frames.values()}) == 1


def test_threads_of_an_executor_share_the_fetcher(exchange: PracticeExchange, make: Make) -> None:
    fetcher = make(api_keys={"binance": {}}, clock=lambda: time.time())
    with ThreadPoolExecutor(2) as pool:
        same(fetcher.fetch_many(SYMBOLS, *JANUARY, executor=pool), make().fetch_many(SYMBOLS, *JANUARY))
        exchange.clear_log()
        fetcher.fetch_many(SYMBOLS, *JANUARY, executor=pool)
    assert exchange.requests == []


def test_threads_of_an_executor_that_was_shut_down_do_nothing(make: Make) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    error = failure(make(), SYMBOLS, executor=pool)
    assert list(error.errors) == SYMBOLS
    assert all(isinstance(one, WorkerError) and "after shutdown" in str(one) for one in error.errors.values())


def test_a_worker_keeps_its_fetcher_for_the_next_job(exchange: PracticeExchange, make: Make) -> None:
    fetcher = make(disk_cache_size=0)
    fetcher.fetch_many(SYMBOLS, *JANUARY, executor=Postal())
    exchange.clear_log()
    fetcher.fetch_many(SYMBOLS, *JANUARY, executor=Postal())
    make(disk_cache_size=0, cache_dir=fetcher.cache.path or fetcher._runtime.settings.cache_dir).fetch_many(
        SYMBOLS, *JANUARY, executor=Postal()
    )
    assert exchange.requests == []
    make(disk_cache_size=0, timeout_s=7).fetch_many(SYMBOLS, *JANUARY, executor=Postal())
    assert exchange.requests != []


@pytest.mark.slow
def test_a_worker_keeps_few_fetchers(make: Make) -> None:
    before = threading.active_count()
    for timeout_s in range(10, 20):
        make(timeout_s=timeout_s).fetch_many(SYMBOLS[:1], *JANUARY, executor=Postal())
    assert len(work._fetchers._kept) <= 5
    close_fetchers()
    wait_until(lambda: threading.active_count() <= before)


@of_forks
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_a_worker_fetched_is_stored_when_its_process_ends(
    exchange: PracticeExchange, make: Make, method: str
) -> None:
    fetcher = make()
    with processes(method) as pool:
        frames = fetcher.fetch_many(SYMBOLS, *JANUARY, executor=pool)
    same(frames, fetcher.fetch_many(SYMBOLS, *JANUARY, source="cache"))


def test_progress_and_the_monitor_count_symbols(make: Make) -> None:
    seen: list[Any] = []
    fetcher = make(progress=seen.append)
    fetcher.fetch_many(SYMBOLS, *JANUARY, executor=Postal())
    assert [(one.phase, one.label, one.done, one.total) for one in seen] == [
        ("start", "3 symbols", 0, 3),
        *[("advance", "3 symbols", 1, 3)] * 3,
        ("end", "3 symbols", 0, 3),
    ]
    assert "3" in str(fetcher.monitor.report())


# -- errors ------------------------------------------------------------------------------------------------------------


def failure(fetcher: CandleFetcher, symbols: list[str], **words: Any) -> FetchManyError:
    with pytest.raises(FetchManyError) as caught:
        fetcher.fetch_many(symbols, *JANUARY, **words)
    return caught.value


def facts_of(error: Any) -> dict[str, Any]:
    facts = {name: value for name, value in vars(error).items() if name not in ("cause", "frame", "refusals")}
    return {"type": type(error), "text": str(error), **facts}


def test_errors_come_back_whole_beside_the_frames(exchange: PracticeExchange, make: Make) -> None:
    names = ["BTC/USDT", "NOPE/USDT", "kraken:BTC/USD", "ETH/USDT", "nowhere:X"]
    # A reply that cannot be read says nothing of its host: after several failures the host is asked for no symbol.
    failing = exchange.fail(
        faults.body(b"[["), match=lambda path, params: params.get("symbol") == "ETHUSDT", times=None
    )
    try:
        ours = failure(make(source="rest"), names, executor=Postal())
        theirs = failure(make(source="rest"), names)
    finally:
        failing.stop()
    assert str(ours) == str(theirs)
    same(ours.frames, theirs.frames)
    assert list(ours.errors) == list(theirs.errors) == names[1:]
    assert [facts_of(one) for one in ours.errors.values()] == [facts_of(one) for one in theirs.errors.values()]
    assert isinstance(ours.errors["NOPE/USDT"], UnknownSymbol)
    lacking, expected = ours.errors["ETH/USDT"], theirs.errors["ETH/USDT"]
    assert isinstance(lacking, IncompleteData)
    assert isinstance(expected, IncompleteData)
    assert lacking.missing == expected.missing != ()
    assert [facts_of(one) for one in lacking.refusals] == [facts_of(one) for one in expected.refusals]
    assert str(lacking.cause) == str(expected.cause)
    # It names the call that it ended.
    assert (lacking.provider, lacking.symbol, lacking.timeframe) == ("binance", "ETH/USDT", "1h")
    depth = ours.errors["kraken:BTC/USD"]
    assert isinstance(depth, IncompleteData)
    assert depth.missing


def test_a_partial_answer_warns_once_where_the_call_was_made(exchange: PracticeExchange, make: Make) -> None:
    failing = exchange.fail(faults.status(500), match="klines", times=None)
    try:
        with pytest.warns(CandleFetcherWarning, match="the answer is partial") as caught:
            frames = make(source="rest").fetch_many(SYMBOLS, *JANUARY, partial="warn", executor=Postal())
    finally:
        failing.stop()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert all("missing" in frame.attrs[MANIFEST] for frame in frames.values())


def test_warnings_of_workers_are_given_where_the_call_was_made(make: Make, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    with pytest.warns(candle_fetcher.CacheWarning) as caught:
        make(cache_dir=taken).fetch_many(SYMBOLS[:1], *JANUARY, executor=Postal())
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("refused", "failed: Lost: no room for it"),
        ("cancelled", "the executor cancelled the job"),
        ("interrupted", "the worker was interrupted"),
        ("failed", "failed: Lost: a worker went away"),
    ],
)
def test_a_lost_job_is_the_error_of_its_symbol(make: Make, how: str, said: str) -> None:
    error = failure(make(), SYMBOLS, executor=Losing("BTC/USDT", how))
    assert list(error.frames) == ["ETH/USDT", "BNB/USDT"]
    (lost,) = error.errors.values()
    assert isinstance(lost, WorkerError)
    assert said in str(lost)
    assert "Make the call again" in str(lost)
    assert (lost.symbol, lost.provider) == ("BTC/USDT", "binance")
    assert lost.cause is not None
    assert type(pickle.loads(pickle.dumps(error)).errors["BTC/USDT"]) is WorkerError


def test_many_symbols_travel_several_in_a_job_and_fail_each_by_itself(exchange: PracticeExchange, make: Make) -> None:
    names = ["ETH/USDT", "BTC/USDT", "NOPE/USDT", "BNB/USDT", "XRP/USDT", "ADA/USDT", "SOL/USDT", "DOGE/USDT"]
    executor = Postal(1)
    error = failure(make(), names, executor=executor)
    assert len(executor.sent) == 4
    expected = failure(make(), names)
    same(error.frames, expected.frames)
    assert [facts_of(one) for one in error.errors.values()] == [facts_of(one) for one in expected.errors.values()]
    losing = Losing("SOL/USDT", "failed")
    losing._max_workers = 1
    error = failure(make(), names, executor=losing)
    assert list(error.errors) == ["NOPE/USDT", "SOL/USDT", "DOGE/USDT"]
    lost = [error.errors["SOL/USDT"], error.errors["DOGE/USDT"]]
    assert [(type(one), one.symbol, one.cause is not None) for one in lost] == [  # type: ignore[attr-defined]
        (WorkerError, "SOL/USDT", True),
        (WorkerError, "DOGE/USDT", True),
    ]


@of_forks
@pytest.mark.slow
def test_a_killed_process_is_the_error_of_what_it_did_not_do(exchange: PracticeExchange, make: Make) -> None:
    fetcher = make()
    with processes() as pool:
        held = exchange.fail(faults.hang(60), match=lambda path, params: params.get("symbol") == "BTCUSDT", times=None)
        try:
            threading.Thread(target=lambda: (wait_until(lambda: held.hits), kill_all(pool)), daemon=True).start()
            error = failure(fetcher, ["ETH/USDT", "BTC/USDT", "BNB/USDT"], executor=pool, source="rest")
        finally:
            held.stop()
        assert isinstance(error.errors["BTC/USDT"], WorkerError)
        assert "killed" in str(error.errors["BTC/USDT"])
        broken = failure(fetcher, SYMBOLS, executor=pool)  # it stays broken, and says so
        assert all(isinstance(one, WorkerError) for one in broken.errors.values())
    with processes() as pool:
        same(fetcher.fetch_many(SYMBOLS, *JANUARY, executor=pool), make().fetch_many(SYMBOLS, *JANUARY))


class Faulty(CandleFetcher):
    """Fails as a fault of the program does, where a worker makes it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if "clock" in settings:
            raise ZeroDivisionError("a fault of the program")


def test_a_fault_of_the_program_is_raised_with_the_traceback_of_the_worker(
    exchange: PracticeExchange, tmp_path: Path
) -> None:
    with (
        Faulty(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher,
        pytest.raises(ZeroDivisionError, match="a fault of the program") as caught,
    ):
        fetcher.fetch_many(SYMBOLS, *JANUARY, executor=Postal())
    assert "in a worker:" in str(caught.value.__cause__)
    assert "in make_fetcher" in str(caught.value.__cause__)


# -- the end of a call -------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_wait_and_cancels_what_has_not_begun(make: Make) -> None:
    executor = Stuck()
    threading.Timer(0.05, _thread.interrupt_main).start()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make().fetch_many(SYMBOLS, *JANUARY, executor=executor)
    assert time.monotonic() - began_s < 10
    assert [future.cancelled() for future in executor.futures] == [True] * 3


class Late(Stuck):
    """Does its jobs after the call, as a process does with those that it was handed ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.sent.append(pickle.dumps((fn, args)))
        return super().submit(fn, *args, **kwargs)

    def errors(self) -> list[str]:
        """Do all jobs, and return what their errors say."""
        jobs = [pickle.loads(one) for one in self.sent]
        return [str(work(*arguments).error) for work, arguments in jobs]


def test_a_worker_begins_no_job_of_a_call_that_is_over(
    exchange: PracticeExchange, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candle_fetcher.workers.marker.MEMORY_FOLDER", str(tmp_path))
    executor, fetcher = Late(), make()
    threading.Timer(0.05, fetcher.close).start()
    with pytest.raises(CandleFetcherError, match="was closed"):
        fetcher.fetch_many(SYMBOLS, *JANUARY, executor=executor)
    assert list(tmp_path.glob("candle-call-*")) == []
    exchange.clear_log()
    assert ["the call of this job is over" in said for said in executor.errors()] == [True] * 3
    assert exchange.requests == []
    # Where another folder stands in that place, nothing is known of the call.
    tmp_path.rename(tmp_path.with_name("away"))
    tmp_path.mkdir()
    assert executor.errors() == ["None"] * 3


def test_closing_the_fetcher_ends_the_wait(make: Make) -> None:
    executor, fetcher = Stuck(), make()
    threading.Timer(0.05, fetcher.close).start()
    with pytest.raises(CandleFetcherError, match="was closed"):
        fetcher.fetch_many(SYMBOLS, *JANUARY, executor=executor)
    assert [future.cancelled() for future in executor.futures] == [True] * 3
    with pytest.raises(CandleFetcherError, match="closed"):
        fetcher.fetch_many(SYMBOLS, *JANUARY, executor=executor)


# -- what is not sent --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_keys_are_never_sent(exchange: PracticeExchange, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Postal()
    fetcher = make(provider="alpaca", api_keys=exchange.api_keys)
    with pytest.raises(InputError, match=r"api_keys .* never sent .* environment"):
        fetcher.fetch_many(["AAPL"], *JANUARY, executor=executor)
    assert executor.sent == []
    secrets = set_keys(exchange, monkeypatch)
    make(provider="alpaca").fetch_many(["AAPL"], "1d", "2024-03-01", "2024-04-01", executor=executor)
    assert executor.sent
    assert not any(secret.encode() in sent for secret in secrets for sent in executor.sent)


class Client:
    """Looks like the client of a Dask cluster, which is no executor itself."""

    def get_executor(self) -> Executor:
        return Postal()

    def submit(self, *args: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "executor", [4, "processes", ProcessPoolExecutor, Client()], ids=["4", "text", "class", "client"]
)
def test_what_is_no_executor_is_refused(exchange: PracticeExchange, make: Make, executor: Any) -> None:
    exchange.clear_log()
    expected = "get_executor" if isinstance(executor, Client) else "ProcessPoolExecutor"
    with pytest.raises(InputError, match=expected):
        make().fetch_many(SYMBOLS, *JANUARY, executor=executor)
    assert exchange.requests == []


def test_what_cannot_be_pickled_is_refused_before_anything_is_sent(exchange: PracticeExchange, make: Make) -> None:
    executor, binance = Postal(), find_provider("binance")
    mine = replace(binance, name="mine", provider_symbol=lambda symbol, kind: symbol)
    exchange.clear_log()
    with pytest.raises(InputError, match="clock cannot be sent to the workers"):
        make(clock=lambda: time.time()).fetch_many(SYMBOLS, *JANUARY, executor=executor)
    with pytest.raises(InputError, match="provider 'mine' cannot be sent to the workers"):
        make(provider=mine).fetch_many(SYMBOLS, *JANUARY, executor=executor)
    with pytest.raises(InputError, match="provider 'mine' cannot be sent to the workers"):
        make().fetch_many(SYMBOLS, *JANUARY, provider=mine, executor=executor)
    assert executor.sent == []
    assert exchange.requests == []


def clock_of_a_module() -> float:
    return time.time()


@pytest.mark.slow
def test_a_clock_and_a_provider_of_modules_travel(exchange: PracticeExchange, make: Make) -> None:
    mine = replace(find_provider("kraken"), name="mine")
    settings = {"clock": clock_of_a_module, "base_urls": {"mine": exchange.base_urls["kraken"]}}
    words: Any = {"symbols": ["BTC/USD"], "timeframe": "1h", "limit": 24}
    expected = make().fetch_many(provider="kraken", **words)["BTC/USD"]
    frames = [
        make(**settings, provider=mine).fetch_many(executor=Postal(), **words),
        make(**settings, provider=mine).fetch_many(executor=Postal(), provider=mine, **words),
    ]
    for one in frames:
        pd.testing.assert_frame_equal(one["BTC/USD"], expected)


# -- the budget --------------------------------------------------------------------------------------------------------


class Ahead(tuple[float]):
    """A clock that is so many seconds ahead, and can be pickled."""

    def __call__(self) -> float:
        return time.time() + self[0]


def weights_of(fetcher: CandleFetcher, exchange: PracticeExchange, pool: Executor, symbols: list[str]) -> list[int]:
    """What the exchange counted in each of its minutes, after a call that needs more than one of them."""
    fetcher.fetch_many(symbols, "1m", "2024-03-01", "2024-03-12", executor=pool)
    counts = exchange.counts["binance"]
    assert (counts.refusals, counts.bans) == (0, 0)
    return [weight for _, weight in sorted(counts.weights.items())]


@of_forks
@pytest.mark.slow
@pytest.mark.parametrize(
    "use_cache",
    [pytest.param(True, id="one folder"), pytest.param(False, id="no folder", marks=pytest.mark.long)],
)
def test_processes_keep_within_one_budget(make: Make, use_cache: bool) -> None:
    ahead = Ahead((-(time.time() + 3.0) % 60,))  # a minute ends in so many seconds
    symbols = ["BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "ADAUSDT", "SOLUSDT", "DOGEUSDT", "ETHBTC"]
    with PracticeExchange(clock=ahead, weight_limit=200, delay_s=0.02) as exchange:
        settings = {"base_urls": exchange.base_urls, "clock": ahead, "source": "rest", "use_cache": use_cache}
        with processes(count=4) as pool:
            weights = weights_of(make(**settings), exchange, pool, symbols)
    assert len(weights) > 1
    assert max(weights) <= 200
    assert weights[0] > 60  # and it is used


def test_a_worker_without_the_folder_has_its_part_of_the_limit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_to_workers(**settings: Any) -> int:
        make(**settings).fetch_many(SYMBOLS[:1], *JANUARY, executor=Postal(4))
        ((limit, _), *_) = list(work._fetchers._kept.values())[-1]._runtime.rest(find_provider("binance")).limits.left()
        return int(limit.cost)

    assert left_to_workers() == 6_000
    assert left_to_workers(use_cache=False) == 1_500
    assert left_to_workers(disk_cache_size=0) == 1_500
    assert left_to_workers(disk_cache_size=0, budget_share=0.5) == 750
    assert left_to_workers(budget_share=0.5) == 3_000
    machines = iter(["here", "there"])
    monkeypatch.setattr(recipe, "this_machine", lambda: next(machines))
    assert left_to_workers() == 1_500


def test_the_number_of_workers_is_that_of_the_executor_or_of_the_jobs() -> None:
    class Dask(Stuck):
        class _client:  # noqa: N801 - as it is there
            @staticmethod
            def nthreads() -> dict[str, int]:
                return {"tcp://a": 4, "tcp://b": 4, "tcp://c": 4}

    assert recipe._count_workers(Postal(7), 100) == 7
    assert recipe._count_workers(Dask(), 100) == 3
    assert recipe._count_workers(Stuck(), 100) == 100


@pytest.mark.parametrize(
    ("limit", "share", "part"),
    [
        (Limit(6_000, 60), 1.0, Limit(6_000, 60)),
        (Limit(6_000, 60), 0.25, Limit(1_500, 60)),
        (Limit(6_000, 60), 1 / 7, Limit(857, 60)),
        (Limit(6_000, 60), 0.001, Limit(22, 220)),  # 6 would let no request through
        (Limit(1, 1, "requests"), 0.25, Limit(1, 4, "requests")),
        (Limit(10, 60), 0.25, Limit(10, 240)),
    ],
    ids=str,
)
def test_a_part_of_a_limit_lets_requests_through(limit: Limit, share: float, part: Limit) -> None:
    assert divided(limit, share, 22 if limit.kind == "weight" else 1) == part


@pytest.mark.parametrize("share", [0, -1, 1.5, "x", None, float("nan"), True])
def test_a_share_is_a_part(make: Make, share: Any) -> None:
    with pytest.raises(InputError, match="budget_share"):
        make(budget_share=share)


def test_a_share_counts_the_providers_own_figure_as_one_of_several() -> None:
    now = [3_600_000]
    limiter = Limiter(provider="fake", limits=[Limit(100, 60)], now_ms=lambda: now[0], share=0.25)
    limiter.release(limiter.acquire(1, stop=threading.Event()), used=40)  # of all four, of which this one spent 1
    ((limit, left),) = limiter.left()
    assert (limit.cost, left) == (25, 25 - 10)


# -- a cluster ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A client of two processes of Dask on this machine."""
    distributed = pytest.importorskip("distributed", reason="pip install distributed: a Dask cluster is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own
        made = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0)
        client = distributed.Client(made)
        yield client
        client.close()
        made.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask, which are its own
def test_a_dask_cluster_gives_the_same_frames_and_errors(exchange: PracticeExchange, make: Make, cluster: Any) -> None:
    names = ["BTC/USDT", "NOPE/USDT", "ETH/USDT"]
    ours, theirs = failure(make(), names, executor=cluster.get_executor()), failure(make(), names)
    same(ours.frames, theirs.frames)
    assert [facts_of(one) for one in ours.errors.values()] == [facts_of(one) for one in theirs.errors.values()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_never_answers_with_what_it_remembers(
    exchange: PracticeExchange, make: Make, cluster: Any
) -> None:
    fetcher, executor = make(source="rest"), cluster.get_executor()
    kept = fetcher.fetch_many(SYMBOLS[:1], *JANUARY, executor=executor)
    exchange.clear_log()
    same(fetcher.fetch_many(SYMBOLS[:1], *JANUARY, refresh=True, executor=executor), kept)
    assert [one for one in exchange.requests if "klines" in one.path]
    exchange.clear_log()
    fetcher.fetch_many(SYMBOLS[:1], *JANUARY, refresh=True, executor=executor)
    assert [one for one in exchange.requests if "klines" in one.path]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_of_a_cluster_that_cannot_do_a_job_is_the_error_of_its_symbol(make: Make, cluster: Any) -> None:
    executor = cluster.get_executor(workers=["tcp://127.0.0.1:1"], allow_other_workers=False)
    threading.Timer(1, executor.shutdown, kwargs={"wait": False}).start()
    error = failure(make(), SYMBOLS[:1], executor=executor)
    assert isinstance(error.errors["ETH/USDT"], WorkerError)


# -- results by a file ------------------------------------------------------------------------------------------------


def test_arrays_come_by_a_file_that_is_read_once(tmp_path: Path) -> None:
    value = {"a": pd.DataFrame({"x": np.arange(50_000.0), "y": np.arange(50_000)}), "b": "text"}
    packed = pack_value(value, str(tmp_path))
    assert len(pickle.dumps(packed)) < 10_000
    assert len(list(tmp_path.iterdir())) == 1
    back = unpack_value(pickle.loads(pickle.dumps(packed)))
    assert list(tmp_path.iterdir()) == []
    pd.testing.assert_frame_equal(back["a"], value["a"])
    back["a"].iloc[0, 0] = 7.0  # it is the caller's own
    assert back["b"] == "text"
    with pytest.raises(OSError, match="No such file"):
        unpack_value(packed)


def test_what_is_small_or_finds_no_room_is_sent_as_it_is(tmp_path: Path) -> None:
    small, large = np.arange(10), np.arange(100_000)
    assert pack_value(small, str(tmp_path)) is small
    assert pack_value(large, str(tmp_path / "not there")) is large
    alone = lambda: large  # noqa: E731 - cannot be pickled
    assert pack_value(alone, str(tmp_path)) is alone
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_is_no_result(tmp_path: Path) -> None:
    packed = pack_value(np.arange(100_000), str(tmp_path))
    (path,) = tmp_path.iterdir()
    os.truncate(path, 100)
    with pytest.raises(OSError, match="is cut"):
        unpack_value(packed)
