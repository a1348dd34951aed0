"""Updates of a vault by the workers of an executor: they write, and the report comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from executors import METHODS, Losing, Postal, Stuck, kill_all, of_forks, processes
from world import wait_until

from candle_fetcher import CandleFetcher, FetchManyError, InputError, UnknownSymbol, Vault, WorkerError
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.vault.locks import SeriesLocks
from candle_fetcher.workers.work import close_fetchers

SYMBOLS = ["ETH/USDT", "BTC/USDT", "BNB/USDT"]
DAYS = ("1h", "2024-03-01", "2024-03-03")
MORE = ("1h", "2024-03-01", "2024-03-08")
VARIES = ["path", "requests", "seconds"]


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as made:
        yield made


@pytest.fixture(autouse=True)
def no_fetcher_is_left() -> Iterator[None]:
    yield
    close_fetchers()


Make = Callable[..., Vault]


@pytest.fixture
def make(exchange: PracticeExchange, tmp_path: Path) -> Iterator[Make]:
    """Make a vault with a fetcher of its own; options of the fetcher under `fetcher`."""
    made: list[Any] = []

    def make(name: str = "vault", fetcher: dict[str, Any] | None = None, **options: Any) -> Vault:
        usual = {"base_urls": exchange.base_urls, "cache_dir": tmp_path / f"cache of {name}", "progress": False}
        made.append(CandleFetcher(**{**usual, "max_retries": 0, **(fetcher or {})}))
        made.append(Vault(tmp_path / name, made[-1], **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def same(vault: Vault, report: pd.DataFrame, other: Vault, expected: pd.DataFrame, symbols: list[str]) -> None:
    pd.testing.assert_frame_equal(report.drop(columns=VARIES), expected.drop(columns=VARIES))
    for symbol in symbols:
        pd.testing.assert_frame_equal(vault.read(symbol, "1h"), other.read(symbol, "1h"))
    assert vault.verify()["whole"].all()


def add_mean(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(mean=frame["close"].rolling(3).mean())


@pytest.mark.slow(keep=["csv"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"format": "parquet"},
        {"columns": {"ds": "timestamp", "{symbol}": "close", "mean": "mean"}, "process": add_mean, "context": 2},
    ],
    ids=["csv", "parquet", "processors"],
)
def test_workers_write_what_threads_write(exchange: PracticeExchange, make: Make, options: dict[str, Any]) -> None:
    if options.get("format") == "parquet":
        pytest.importorskip("pyarrow")
    ours, theirs = make(**options), make("other", **options)
    for days in (DAYS, MORE):
        report = ours.update(SYMBOLS, *days, executor=Postal())
        same(ours, report, theirs, theirs.update(SYMBOLS, *days), SYMBOLS)
    assert report["added"].tolist() == [5 * 24] * 3
    assert (report["requests"] == 0).all()  # the chunk was fetched whole, into the cache of all
    exchange.clear_log()
    assert ours.update(end="2024-03-08", executor=Postal())["added"].tolist() == [0] * 3
    assert exchange.requests == []


@of_forks
@pytest.mark.parametrize("method", [pytest.param(one, marks=pytest.mark.slow) for one in METHODS])
def test_processes_write_what_threads_write(make: Make, method: str) -> None:
    ours, theirs = make(), make("other")
    with processes(method) as pool:
        for days in (DAYS, MORE):
            report = ours.update(SYMBOLS, *days, executor=pool)
            same(ours, report, theirs, theirs.update(SYMBOLS, *days), SYMBOLS)


def test_threads_of_an_executor_share_the_fetcher(make: Make) -> None:
    vault, other = make(fetcher={"api_keys": {"alpaca": {}}, "clock": lambda: time.time()}), make("other")
    with ThreadPoolExecutor(2) as pool:
        report = vault.update(SYMBOLS, *DAYS, executor=pool)
    same(vault, report, other, other.update(SYMBOLS, *DAYS), SYMBOLS)


def failure(vault: Vault, symbols: list[str] | None, *days: str, **words: Any) -> FetchManyError:
    with pytest.raises(FetchManyError) as caught:
        vault.update(symbols, *days, **words)
    return caught.value


def test_one_failure_stops_no_other(make: Make) -> None:
    names = ["BTC/USDT", "NOPE/USDT", "nowhere:X", "ETH/USDT"]
    error = failure(make(), names, *DAYS, executor=Postal())
    assert error.report is not None
    assert error.report["rows"].tolist() == [48, 0, 0, 48]
    assert error.report["error"].isna().tolist() == [True, False, False, True]
    assert list(error.errors) == ["NOPE/USDT", "nowhere:X"]
    assert isinstance(error.errors["NOPE/USDT"], UnknownSymbol)
    expected = failure(make("other"), names, *DAYS)
    pd.testing.assert_frame_equal(error.report.drop(columns=VARIES), expected.report.drop(columns=VARIES))


def test_a_lost_job_is_the_error_of_its_series_and_shows_what_is_there(make: Make) -> None:
    vault = make()
    vault.update(SYMBOLS, *DAYS)
    error = failure(vault, SYMBOLS, *MORE, executor=Losing("BTCUSDT", "failed"))
    assert error.report is not None
    assert error.report[["rows", "added"]].values.tolist() == [[168, 120], [48, 0], [168, 120]]
    assert isinstance(error.errors["BTC/USDT"], WorkerError)
    assert (error.errors["BTC/USDT"].symbol, error.errors["BTC/USDT"].timeframe) == ("BTC/USDT", "1h")
    assert error.report["path"][1] == str(vault.path("BTC/USDT", "1h"))
    assert vault.update(SYMBOLS, *MORE, executor=Postal())["added"].tolist() == [0, 120, 0]


@of_forks
@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "grown"])
def test_the_next_update_repairs_what_a_killed_worker_left(
    exchange: PracticeExchange, make: Make, is_new: bool
) -> None:
    vault, other = make(fetcher={"source": "rest"}), make("other")
    if not is_new:
        vault.update(SYMBOLS, "1h", "2023-03-01", "2023-03-03")
    days = ("1h", "2023-03-01", "2024-03-01")
    with processes() as pool:
        held = exchange.fail(faults.hang(60), match=lambda path, params: params.get("symbol") == "BTCUSDT", times=None)
        try:
            threading.Thread(target=lambda: (wait_until(lambda: held.hits), kill_all(pool)), daemon=True).start()
            error = failure(vault, ["BTC/USDT", *SYMBOLS], *days, executor=pool)
        finally:
            held.stop()
    assert isinstance(error.errors["BTC/USDT"], WorkerError)
    assert set(vault.verify()["problem"]) <= ({"", "it has no files; update it"} if is_new else {""})
    with processes() as pool:
        report = vault.update(SYMBOLS, *days, executor=pool)
    assert report["rows"].tolist() == other.update(SYMBOLS, *days)["rows"].tolist()
    for symbol in SYMBOLS:
        pd.testing.assert_frame_equal(vault.read(symbol, "1h"), other.read(symbol, "1h"))
    assert vault.verify()["whole"].all()


def test_a_series_that_is_held_comes_after_the_others(make: Make, tmp_path: Path) -> None:
    vault, executor = make(), Postal()
    vault.update(SYMBOLS, *DAYS)
    (name,) = [entry.name for entry in vault._load().entries if entry.series.symbol == "ETH/USDT"]  # type: ignore[union-attr]
    locks, done = SeriesLocks(tmp_path / "vault"), list[str]()
    assert locks.try_acquire(name)
    threading.Timer(0.15, locks.release, (name,)).start()
    report = vault.update(SYMBOLS, *MORE, executor=executor, progress=lambda event: done.append(event.phase))
    assert report["added"].tolist() == [120] * 3
    assert len(executor.sent) > 3
    assert done == ["start", *["advance"] * 3, "end"]
    locks.close()


class Elsewhere(Postal):
    """A machine where another folder stands in the place of the vault's."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        away = self.folder.rename(self.folder.with_name("away"))
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            assert not self.folder.exists()
            away.rename(self.folder)


def test_a_worker_that_does_not_see_the_vault_makes_none(make: Make, tmp_path: Path) -> None:
    error = failure(make(), SYMBOLS[:1], *DAYS, executor=Elsewhere(tmp_path / "vault"))
    assert "a place that all workers share" in str(error.errors["ETH/USDT"])


def test_what_cannot_be_sent_is_refused_before_anything_is(
    exchange: PracticeExchange, make: Make, tmp_path: Path
) -> None:
    executor = Postal()
    for options, said in (
        ({"process": lambda frame: frame}, "process cannot be sent"),
        ({"fetcher": {"api_keys": {"alpaca": {}, "alphavantage": {"key": "x"}}}}, "keys are never sent"),
        ({"fetcher": {"clock": lambda: time.time()}}, "clock cannot be sent"),
    ):
        with pytest.raises(InputError, match=said):
            make(**options).update(SYMBOLS, *DAYS, executor=executor)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a concurrent"):
        make().update(SYMBOLS, *DAYS, executor=4)  # type: ignore[arg-type]
    assert executor.sent == []
    assert not (tmp_path / "vault").exists()


def test_a_pool_of_threads_that_is_shut_down_loses_the_rest(exchange: PracticeExchange, make: Make) -> None:
    pool, vault = ThreadPoolExecutor(1), make()
    busy = threading.Event()
    pool.submit(busy.wait)

    def shut_down() -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        busy.set()

    threading.Timer(0.1, shut_down).start()
    error = failure(vault, SYMBOLS, *DAYS, executor=pool)
    assert all(isinstance(one, WorkerError) for one in error.errors.values())
    assert len(error.errors) == 3


def test_a_pool_of_threads_that_was_shut_down_does_nothing(make: Make) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    error = failure(make(), SYMBOLS, *DAYS, executor=pool)
    assert all(isinstance(one, WorkerError) for one in error.errors.values())
    assert len(error.errors) == 3


def test_closing_the_fetcher_ends_the_wait(make: Make) -> None:
    vault, executor = make(), Stuck()
    threading.Timer(0.05, vault._fetcher().close).start()
    with pytest.raises(Exception, match="was closed"):
        vault.update(SYMBOLS, *DAYS, executor=executor)
    assert all(future.cancelled() for future in executor.futures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask, which are its own
def test_a_dask_cluster_writes_what_threads_write(make: Make) -> None:
    distributed = pytest.importorskip("distributed", reason="pip install distributed: a Dask cluster is not there")
    ours, theirs = make(), make("other")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, memory_limit=0) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor: Executor = client.get_executor()
        for days in (DAYS, MORE):
            report = ours.update(SYMBOLS, *days, executor=executor)
            same(ours, report, theirs, theirs.update(SYMBOLS, *days), SYMBOLS)
