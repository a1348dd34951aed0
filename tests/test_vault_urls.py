"""A vault of Parquet files at a URL: what is put there is the old state or the new one, whatever step was the last.

| fault                                     | the series after it          | error                              |
| ----------------------------------------- | ---------------------------- | ---------------------------------- |
| the process ends before or after any step | the old state or the new one |                                    |
| the service refuses any step              | the old state or the new one | OSError, names what was not written |
| another program changes the series        | as that program left it      | BadFile                            |
| another program changes the document      | as that program left it      | BadFile                            |
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from vault_files import SERIES, T0, facts, is_equal, put, rows, stored
from world import World

from candle_fetcher import BadFile, FetchManyError, InputError, MissingExtra, Vault
from candle_fetcher.vault.months import MonthFiles
from candle_fetcher.vault.state import Entry
from candle_fetcher.vault.urls import UrlTree

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

START = "2024-06-13"


class Store(MemoryFileSystem):  # type: ignore[misc]
    """An object store that does no step any more from the `limit`-th on; that one is done where `is_done`."""

    protocol = "store"
    cachable = False

    def __init__(self, limit: int = 10**9, *, is_done: bool = False, error: type[BaseException] = OSError) -> None:
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.limit, self.is_done, self.error, self.steps = limit, is_done, error, 0

    def _step(self, call: Callable[[], object]) -> None:
        self.steps += 1
        if self.steps < self.limit or (self.steps == self.limit and self.is_done):
            call()
        if self.steps >= self.limit:
            raise self.error("refused")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._step(lambda: super(Store, self).pipe_file(path, value, mode, **options))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._step(lambda: super(Store, self).cp_file(path1, path2, **options))

    def rm_file(self, path: str) -> None:
        self._step(lambda: super(Store, self).rm_file(path))

    def months(self) -> list[str]:
        return [name for name in self.find("/v/candles") if name.endswith(".parquet")]


def files_in(store: Store) -> MonthFiles:
    return MonthFiles(UrlTree(store, "/v", "store://v"), Entry(SERIES, SERIES.name(), T0), "parquet", None)


def append(files: MonthFiles) -> None:
    put(files, 60, rows(40, 60), first=40)


def rewrite(files: MonthFiles) -> None:
    put(files, 60, rows(20, 60, seed=5), first=20)


def shorten(files: MonthFiles) -> None:
    put(files, 20, rows(15, 20, seed=5), first=15)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("write", [append, rewrite, shorten])
def test_a_write_that_is_cut_at_any_step_leaves_the_old_state_or_the_new_one(
    write: Callable[[MonthFiles], None], error: type[BaseException]
) -> None:
    refused = KeyboardInterrupt if error is KeyboardInterrupt else OSError
    for limit, is_done in ((at // 2 + 1, bool(at % 2)) for at in itertools.count()):
        store = Store()
        put(files_in(store), 40, rows(0, 40))
        old, months = stored(files_in(store)), store.months()
        store.steps, store.limit, store.is_done, store.error = 0, limit, is_done, error
        is_refused = False
        try:
            write(files_in(store))
        except refused:
            is_refused = True
        was_cut, store.limit = store.steps >= limit, 10**9
        after = stored(files_in(store))
        assert set(store.months()) <= set(months)  # no row of the table is there twice
        write(files_in(store))
        new = stored(files_in(store))
        assert is_equal(after, old) or is_equal(after, new)
        assert is_equal(after, old) or not is_refused or is_done or error is KeyboardInterrupt
        assert [name.rpartition("/")[2] for name in store.find("/v/_series")] == ["_state.json"]
        table = pd.concat([pd.read_parquet(store.open(name)) for name in sorted(store.months())])
        assert new is not None
        assert table["close"].tolist() == new["close"].tolist()
        if not was_cut:
            assert not is_refused
            break
    assert limit > 3


@pytest.mark.slow
def test_the_first_write_that_is_cut_at_any_step_leaves_nothing_or_all() -> None:
    for limit in itertools.count(1):
        store = Store(limit)
        is_over = True
        try:
            put(files_in(store), 40, rows(0, 40))
        except OSError:
            is_over = False
        is_over &= store.steps < limit
        store.limit = 10**9
        after = stored(files_in(store))
        assert after is None or is_equal(after, rows(0, 40))
        put(files_in(store), 40, rows(0, 40), first=0)
        assert is_equal(stored(files_in(store)), rows(0, 40))
        if is_over:
            break


@pytest.mark.parametrize("what", ["state", "month", "pending"])
def test_what_changed_under_an_update_is_an_error_and_stays(what: str) -> None:
    store = Store()
    put(files_in(store), 40, rows(0, 40))
    left: dict[str, bytes] = {}

    def new_rows() -> Iterator[pd.DataFrame]:
        yield rows(20, 35, seed=5)
        if what == "state":
            put(files_in(store), 45, rows(40, 45, seed=2))
        elif what == "month":
            store.pipe_file(store.months()[0], store.cat_file(store.months()[0]))  # the same bytes, put again
        else:
            (name,) = (one for one in store.find("/v/_series") if one.endswith(".part"))
            store.rm_file(name)
        left.update({name: store.cat_file(name) for name in store.find("/v") if not name.endswith(".part")})

    files = files_in(store)
    with pytest.raises(BadFile, match="changed while it was updated: another program writes to it"):
        files.write(files.load(), lambda: facts(60), T0 + 20 * 60_000, new_rows())
    assert {name: store.cat_file(name) for name in store.find("/v")} == left
    assert stored(files_in(store)) is not None


@pytest.mark.slow(keep=["memory"])
def test_a_document_that_changed_under_an_update_is_an_error(world: World, url: str) -> None:
    if url.startswith("file"):
        return  # a folder, which has locks
    Vault(url, world.fetcher()).update("BTC/USDT", "1h", START)
    system, root = fsspec.core.url_to_fs(url)
    home = Vault(url, world.fetcher())._home

    def change(document: Any) -> Any:
        text = system.cat_file(f"{root}/_vault.json")
        system.pipe_file(f"{root}/_vault.json", text + b" ")
        return document._replace(context=3)

    with pytest.raises(BadFile, match=r"_vault\.json changed while it was updated"):
        home.change(change)
    assert Vault(url, world.fetcher()).series()["rows"].tolist() == [60]


# -- the calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "dir", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "memory": f"memory://{tmp_path.name}/candles",
        "dir": f"dir::file://{(tmp_path / 'candles').as_posix()}",
        "file": (tmp_path / "candles").as_uri(),
    }[request.param]


@pytest.mark.slow(keep=["memory"])
def test_a_vault_at_a_url_is_updated_read_verified_and_removed_as_a_folder_is(world: World, url: str) -> None:
    vault = Vault(url, world.fetcher(), format="parquet")
    vault.update(["BTC/USDT", "ETH/USDT"], "1h", "2024-05-20")
    world.now_s += 86_400
    report = Vault(url, world.fetcher()).update()
    assert report[["added", "error"]].values.tolist() == [[24, None], [24, None]]
    truth = world.fetcher().fetch("BTC/USDT", "1h", "2024-05-20")
    pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1h"), truth)
    part = vault.read("BTC/USDT", "1h", "2024-05-31T20:00", "2024-06-02")
    pd.testing.assert_frame_equal(part, truth["2024-05-31T20:00":"2024-06-01"])
    assert vault.verify()[["whole", "compared"]].values.tolist() == [[True, len(truth)]] * 2
    listed = vault.series()
    assert listed["path"].tolist() == [str(vault.path(one, "1h")) for one in ("BTC/USDT", "ETH/USDT")]
    assert (listed["size"] > 5000).all()
    vault.remove("BTC/USDT", "1h")
    assert vault.series()["symbol"].tolist() == ["ETH/USDT"]
    system, root = fsspec.core.url_to_fs(url)
    assert [name for name in system.find(root) if "BTCUSDT" in name] == []


def test_other_programs_read_a_url_as_one_table(world: World, tmp_path: Path) -> None:
    where = f"memory://{tmp_path.name}/candles"
    vault = Vault(where, world.fetcher())
    vault.update(["BTC/USDT", "ETH/USDT"], "1h", "2024-05-20")
    for folder in (where, f"{where}/candles"):
        table = pd.read_parquet(folder)
        assert table.groupby("symbol", observed=True).size().to_dict() == {"BTCUSDT": 636, "ETHUSDT": 636}
    assert (
        pd.read_parquet(vault.path("BTC/USDT", "1h"))["close"].tolist()
        == vault.read("BTC/USDT", "1h")["close"].tolist()
    )


def test_a_service_that_fails_is_an_error_of_the_series_and_the_next_update_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(f"memory://{tmp_path.name}", world.fetcher())
    vault.update("BTC/USDT", "1h", START)
    world.now_s += 86_400

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("SlowDown: https://me:secret@host/x")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", refuse)
        with pytest.raises(
            FetchManyError, match=r"RuntimeError: SlowDown: https://\*\*\*@host/x; memory://.* was not written"
        ):
            vault.update()
    assert vault.read("BTC/USDT", "1h").shape[0] == 60
    assert vault.update()["added"].tolist() == [24]


@pytest.mark.slow
def test_two_updates_at_once_by_threads_lose_and_double_nothing(world: World, tmp_path: Path) -> None:
    where = f"memory://{tmp_path.name}"
    symbols = ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    vaults = [Vault(where, world.fetcher()) for _ in range(2)]
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(lambda one: one.update(symbols, "1h", START), vaults))
        assert sum(report["added"].sum() for report in reports) in (60 * 3, 24 * 3)
        world.now_s += 86_400
    assert vaults[0].verify()["whole"].tolist() == [True] * 3


@pytest.mark.slow
def test_workers_in_other_processes_are_refused(world: World, tmp_path: Path) -> None:
    vault = Vault(f"memory://{tmp_path.name}", world.fetcher())
    with ProcessPoolExecutor(1) as pool, pytest.raises(InputError, match="no locks between processes"):
        vault.update("BTC/USDT", "1h", START, executor=pool)


# -- what is not valid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "options", "said"), [
    ("memory://x", {"format": "csv"}, "expected format='parquet'"),
    ("memory://x", {"format": "arrow"}, "expected format='parquet'"),
    ("file:///x", {"format": "csv"}, "expected format='parquet'"),
    ("memory://x", {"separator": ";"}, "separator is of CSVs"),
    ("nothing://me:secret@host/x", {}, "nothing://… is a URL at which no vault is kept"),
])  # fmt: skip
def test_what_is_not_valid_at_a_url_is_said(where: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Vault(where, **options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("candlestore", "no_such_package.FileSystem", clobber=True, errtxt="Install it")
    with pytest.raises(MissingExtra, match="pip install no_such_package") as caught:
        Vault("candlestore://x/y")
    assert caught.value.extra == "no_such_package"
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"candle-fetcher\[fsspec\]"):
        Vault("memory://x")


def test_months_without_their_document_are_an_error(world: World, tmp_path: Path) -> None:
    where = f"memory://{tmp_path.name}"
    Vault(where, world.fetcher()).update("BTC/USDT", "1h", START)
    fsspec.filesystem("memory").rm_file(f"/{tmp_path.name}/_vault.json")
    with pytest.raises(FetchManyError, match=r"_series is there, and no _vault\.json says what it is"):
        Vault(where, world.fetcher()).update("BTC/USDT", "1h", START)
