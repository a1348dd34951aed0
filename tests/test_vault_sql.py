"""A vault in SQLite, DuckDB and PostgreSQL: what other vaults do, and what only a database can suffer.

| fault                                   | the series after it           | error                                   |
| --------------------------------------- | ----------------------------- | --------------------------------------- |
| server killed in a transaction          | the old state                 | ConnectionError; the next update goes   |
| disk full                               | the old state                 | OSError, names the database             |
| an error among the frames               | the old state                 | that error                              |
| two writers, one without its lock       | the state of the first        | OSError of the second                   |
| a row edited by another program         | unchanged                     | BadFile of a whole read, and of verify  |
| the last row removed                    | unchanged                     | BadFile                                 |
| a table `candles` of another program    | untouched                     | InputError, names what is there         |

`python tests/vault_kills.py --format sqlite` (or `duckdb`, `postgresql`) kills processes that update.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vault_kills
from databases import KINDS, Postgres, serving
from runs import FAULT_RUNS
from vault_files import MINUTE, SERIES, T0, facts, is_equal, put, rows, stored
from world import World

from candle_fetcher import BadFile, FetchManyError, InputError, MissingExtra, Vault
from candle_fetcher.cli import main
from candle_fetcher.core.spans import Span
from candle_fetcher.vault.homes import Home, open_home
from candle_fetcher.vault.opening import read_options
from candle_fetcher.vault.sql import SqlFiles, SqlHome
from candle_fetcher.vault.state import SeriesId

pytest.importorskip("sqlalchemy")
pytest.importorskip("duckdb")
DAY_S = 86_400
START = "2024-06-13"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    with serving() as made:
        yield made


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        found: str = request.getfixturevalue("server").url()
        return found
    return f"{request.param}:///{tmp_path}/vault/candles.db"


@pytest.fixture
def vault(world: World, url: str) -> Iterator[Vault]:
    with Vault(url, world.fetcher()) as made:
        yield made


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], SqlHome]]:
    made: list[Home] = []

    def open_one() -> Any:
        made.append(open_home(url, read_options(None, None, None, 0, {})))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def files_of(home: Home, series: SeriesId = SERIES) -> SqlFiles:
    document = home.change(lambda found: found if found.find(series) else found.with_series(series, 0, None))
    entry = document.find(series)
    assert entry is not None
    found: Any = home.files(document, entry)
    return found


def run(home: Any, sql: str, **values: Any) -> list[Any]:
    with home._database.begin(is_write=True) as session:
        found: list[Any] = session.run(sql, **values)
        return found


def same_as_fetch(vault: Vault, world: World, symbol: str = "BTC/USDT", timeframe: str = "1h") -> None:
    pd.testing.assert_frame_equal(vault.read(symbol, timeframe), world.fetcher().fetch(symbol, timeframe, START))


# -- one series --------------------------------------------------------------------------------------------------------


def test_any_sequence_of_writes_is_what_is_read(opened: Callable[[], SqlHome]) -> None:
    random = np.random.default_rng(4)
    files = files_of(opened())
    other = files_of(opened(), SERIES._replace(symbol="ETH/USDT", provider_symbol="ETHUSDT"))
    put(other, 3, rows(0, 3))
    expected, stop = rows(0, 5), 5
    put(files, 5, expected)
    for seed in range(1, 12):
        if random.random() < 0.5:
            new, first = rows(stop, stop + 4, seed), None
        else:
            first = int(random.integers(-3, stop))
            new = rows(first, stop + 2, seed)
            new = new[random.random(len(new)) > 0.2]
        new = new.mask(random.random(new.shape) < 0.1)
        stop += 4
        put(files, stop, new, first=first)
        kept = expected if first is None else expected[expected.index < rows(first, first + 1).index[0]]
        expected = pd.concat([kept, new])
        stop = max(stop, 0)
        assert is_equal(stored(files), expected)
        since = T0 + 2 * MINUTE
        state = files.load()
        assert state is not None
        part = files.read(state, Span(since, since + 5 * MINUTE))
        assert is_equal(
            part, expected[(expected.index >= rows(2, 3).index[0]) & (expected.index < rows(7, 8).index[0])]
        )
    assert is_equal(stored(other), rows(0, 3))


def test_rows_that_are_as_they_were_are_not_written(opened: Callable[[], SqlHome]) -> None:
    home = opened()
    files = files_of(home)
    put(files, 9, rows(0, 9))
    assert is_equal(files.normalize(rows(0, 9)), rows(0, 9))
    if "postgresql" in str(home):
        before = run(home, "SELECT xmin, ctid FROM candles ORDER BY timestamp")
        put(files, 10, rows(2, 10), first=2)
        assert run(home, "SELECT xmin, ctid FROM candles ORDER BY timestamp")[:9] == before


def test_an_error_among_the_frames_leaves_the_old_state(opened: Callable[[], SqlHome]) -> None:
    files = files_of(opened())
    put(files, 5, rows(0, 5))

    def frames() -> Iterator[pd.DataFrame]:
        yield rows(3, 9, 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        files.write(files.load(), lambda: facts(9), T0 + 3 * MINUTE, frames())
    assert is_equal(stored(files), rows(0, 5))


def test_a_symbol_is_a_value_and_never_a_part_of_a_statement(opened: Callable[[], SqlHome]) -> None:
    home = opened()
    odd = SERIES._replace(symbol="A'; DROP TABLE candles; --/:x%s$1", provider_symbol='"ü?', provider="p:q")
    files = files_of(home, odd)
    put(files, 3, rows(0, 3))
    assert is_equal(stored(files), rows(0, 3))
    assert run(home, "SELECT DISTINCT symbol FROM candles")[0][0] == odd.symbol


def test_two_series_with_one_key_are_refused(opened: Callable[[], SqlHome]) -> None:
    home = opened()
    files_of(home)
    with pytest.raises(InputError, match="BTCUSDT are both BTC/USDT"):
        files_of(home, SERIES._replace(provider_symbol="XBTUSDT"))


def test_a_writer_that_lost_its_lock_changes_nothing(opened: Callable[[], SqlHome]) -> None:
    first, second = files_of(opened()), files_of(opened())
    put(first, 5, rows(0, 5))
    before = second.load()
    put(first, 7, rows(5, 7))
    with pytest.raises(OSError, match="changed by another writer meanwhile"):
        second.write(before, lambda: facts(9), None, [rows(5, 9, 1)])
    assert is_equal(stored(second), rows(0, 7))


def test_locks_are_among_all_that_open_the_vault(opened: Callable[[], SqlHome]) -> None:
    first, second = opened(), opened()
    files_of(first)
    assert first.try_acquire("x")
    assert not first.try_acquire("x")
    assert not second.try_acquire("x")
    assert second.try_acquire("y")
    first.release("x")
    assert second.try_acquire("x")
    second.close()
    assert first.try_acquire("x")


@pytest.mark.parametrize(("sql", "said"), [
    ("UPDATE candles SET close = 1 WHERE open > 101.9 AND open < 102.9", "not what was written"),
    ("DELETE FROM candles WHERE open > 101.9 AND open < 102.9", "has 4 rows"),
    ("UPDATE candles SET close = NULL WHERE open > 101.9 AND open < 102.9", "not what was written"),
])  # fmt: skip
def test_an_edit_of_a_row_is_seen(opened: Callable[[], SqlHome], sql: str, said: str) -> None:
    home = opened()
    files = files_of(home)
    put(files, 5, rows(0, 5))
    run(home, sql)
    state = files.load()
    assert state is not None
    assert said in files.verify(state)[0]
    with pytest.raises(BadFile, match=said):
        files.read(state)


def test_an_edit_of_the_last_row_is_seen_by_the_next_update(opened: Callable[[], SqlHome]) -> None:
    home = opened()
    files = files_of(home)
    put(files, 5, rows(0, 5))
    run(home, "DELETE FROM candles WHERE open > 103.9")
    with pytest.raises(BadFile, match="last row of binance:BTC/USDT 1m"):
        files.load()
    files.remove()
    assert files.load() is None
    put(files, 5, rows(0, 5))
    assert is_equal(stored(files), rows(0, 5))


# -- a vault -----------------------------------------------------------------------------------------------------------


def test_a_vault_in_a_database_does_what_others_do(vault: Vault, world: World, url: str) -> None:
    report = vault.update(["BTC/USDT", "ETH/USDT"], "1h", START)
    assert report[["symbol", "rows", "added", "revised"]].values.tolist() == [
        ["BTC/USDT", 60, 60, 0],
        ["ETH/USDT", 60, 60, 0],
    ]
    world.now_s += DAY_S
    assert vault.update()["added"].tolist() == [24, 24]
    world.exchange.restate("binance", "BTCUSDT", "1h", T0 + 13 * DAY_S * 1000 + 30 * MINUTE, volume="7.00000000")
    vault._fetcher().fetch("BTC/USDT", "1h", "2024-06-13", "2024-06-15", refresh=True)
    assert vault.update()["revised"].tolist() == [1, 0]
    assert vault.update("BTC/USDT", "1h", "2024-06-12")["added"].tolist() == [24]
    pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1h"), world.fetcher().fetch("BTC/USDT", "1h", "2024-06-12"))
    pd.testing.assert_frame_equal(
        vault.read("BTC/USDT", "1h", "2024-06-13", "2024-06-14"),
        world.fetcher().fetch("BTC/USDT", "1h", "2024-06-13", "2024-06-14"),
    )
    verified = vault.verify()
    assert verified["whole"].tolist() == [True, True]
    assert verified["compared"].tolist() == [108, 84]
    there = vault.series()
    assert there["rows"].tolist() == [108, 84]
    assert (there["size"] > 0).all()
    with Vault(url, world.fetcher()) as again:
        assert again.series()["rows"].tolist() == [108, 84]
    vault.remove("BTC/USDT", "1h")
    assert vault.series()["symbol"].tolist() == ["ETH/USDT"]
    assert run(vault._home, "SELECT count(*), count(DISTINCT symbol) FROM candles")[0] == (84, 1)
    assert "hidden-word" not in f"{vault.path('ETH/USDT', '1h')} {vault!r} {there.to_string()} {report.to_string()}"
    if "postgresql" not in url:
        assert vault.path("ETH/USDT", "1h").name == "candles.db"


def test_its_tables_are_for_sql(vault: Vault, world: World) -> None:
    vault.update("BTC/USDT", "1h", START)
    sql = "SELECT close FROM candles WHERE provider = :provider AND symbol = :symbol AND timeframe = :timeframe AND "
    sql += "timestamp >= '2024-06-13 05:00:00' AND timestamp < '2024-06-13 07:00:00' ORDER BY timestamp"
    found = run(vault._home, sql, provider="binance", symbol="BTC/USDT", timeframe="1h")
    assert [row[0] for row in found] == world.fetcher().fetch("BTC/USDT", "1h", START)["close"][5:7].tolist()
    assert run(vault._home, "SELECT symbol, row_count FROM candles_series")[0] == ("BTC/USDT", 60)


def test_all_columns_come_back_as_they_were(world: World, url: str) -> None:
    with Vault(url, world.fetcher(), columns="all") as vault:
        vault.update("BTC/USDT", "1h", START)
        vault.update("binance-cm:BTC/USD:BTC", "1h", START)
        expected = world.fetcher().fetch("BTC/USDT", "1h", START, columns="all")
        pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1h"), expected)
        expected = world.fetcher().fetch("binance-cm:BTC/USD:BTC", "1h", START, columns="all")
        pd.testing.assert_frame_equal(vault.read("binance-cm:BTC/USD:BTC", "1h"), expected)
        assert vault.verify()["whole"].all()


def test_columns_of_processors_are_columns_of_the_table(world: World, url: str) -> None:
    def add(frame: pd.DataFrame) -> pd.DataFrame:
        mean = frame["close"].rolling(3).mean()
        return frame.assign(mean=mean, is_up=frame["close"] > frame["open"], rank=np.arange(len(frame)))

    columns = {"timestamp": "timestamp", "price": "close", "mean": "mean", "is_up": "is_up", "rank": "rank"}
    with Vault(url, world.fetcher(), columns=columns, process=add, context=2) as vault:
        vault.update("BTC/USDT", "1h", START, "2024-06-14")
        vault.update()
        close = world.fetcher().fetch("BTC/USDT", "1h", START)["close"]
        found = vault.read("BTC/USDT", "1h")
        np.testing.assert_allclose(found["mean"], close.rolling(3).mean())
        assert found["is_up"].dtype == bool
        assert run(vault._home, "SELECT count(*), count(mean) FROM candles")[0] == (60, 58)

    def add_texts(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(mean=1, is_up=True, rank=0.5)

    with Vault(url, world.fetcher(), columns=columns, process=add_texts) as vault, pytest.raises(InputError):
        vault.update("ETH/USDT", "1h", START)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"columns": {"ds": "timestamp", "close": "close"}}, "the time is the column timestamp"),
    ({"columns": {"timestamp": "timestamp", "{symbol}": "close"}}, "each series has the same columns"),
    ({"columns": {"timestamp": "timestamp", "Symbol": "close"}}, "the column symbol is of the key"),
    ({"columns": {"timestamp": "timestamp", 'x"; --': "close"}}, "letters, digits and _"),
    ({"columns": {"timestamp": "timestamp", "x": "close", "X": "open"}}, "x is there already"),
    ({"format": "csv"}, "leave it out"),
    ({"separator": ";"}, "leave it out"),
])  # fmt: skip
def test_arguments_that_do_not_fit_a_database_are_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        Vault(f"sqlite:///{tmp_path}/x.db", **arguments)


@pytest.mark.parametrize(("where", "said"), [
    ("sqlite://", "names no file"),
    ("duckdb:///:memory:", "names no file"),
    ("mysql://me:hidden-word@host/db", "no vault is kept"),
    ("postgresql+psycopg://me:hidden-word@host:port/db", "cannot be read"),
])  # fmt: skip
def test_a_url_that_is_no_database_is_refused_without_its_password(where: str, said: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=said) as caught:
        Vault(where)
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize(("where", "package", "extra"), [
    ("postgresql+psycopg://host/db", "psycopg", "sql"),
    ("sqlite:///x.db", "sqlalchemy", "sql"),
    ("duckdb:///x.db", "duckdb", "duckdb"),
])  # fmt: skip
def test_a_missing_extra_is_said_before_anything_is_fetched(
    where: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        Vault(where)
    assert caught.value.extra == extra


def test_a_table_of_another_program_is_left_alone(vault: Vault, world: World) -> None:
    run(vault._home, "CREATE TABLE candles (id INTEGER, wax REAL)")
    with pytest.raises((InputError, FetchManyError), match="were not made by a vault"):
        vault.update("BTC/USDT", "1h", START)
    assert run(vault._home, "SELECT count(*) FROM candles")[0][0] == 0


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_of_another_kind_is_an_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" * 100 if kind == "duckdb" else b"no database" * 100)
    with pytest.raises((BadFile, OSError), match=r"x\.db"):
        Vault(f"{kind}:///{tmp_path}/x.db")


def test_another_origin_is_an_error(vault: Vault, world: World, url: str, tmp_path: Path) -> None:
    vault.update("BTC/USDT", "1h", START)
    said = pytest.raises(FetchManyError, match="use another vault for them")
    with World(tmp_path / "other") as other, Vault(url, other.fetcher()) as second, said:
        second.update()


def test_a_password_is_shown_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://me:hidden-word@127.0.0.1:1/db"
    with pytest.raises(ConnectionError, match=r"postgresql://me@127\.0\.0\.1:1/db") as caught:
        Vault(url)
    assert "hidden-word" not in repr(caught.value)
    assert main(["vault", "list", url, "--cache-dir", str(tmp_path)]) != 0
    assert "hidden-word" not in "".join(capsys.readouterr())


def test_the_command_takes_a_url(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"sqlite:///{tmp_path}/x.db"
    with Vault(where, world.fetcher()) as vault:
        vault.update("BTC/USDT", "1h", START)
    assert main(["vault", "list", where, "--cache-dir", str(world.folder), "--json"]) == 0
    assert '"rows": 60' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "duckdb", "postgresql"])
def test_updates_that_are_killed_leave_each_series_whole(kind: str) -> None:
    made = vault_kills.run(round(300 * FAULT_RUNS / 20), kind, 1)
    assert made.faults == 0
    assert made.killed > 0


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_updaters_at_once_lose_and_double_nothing(vault: Vault, world: World, url: str) -> None:
    symbols = ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    vault.update(symbols, "1h", START)
    with Vault(url, world.fetcher()) as second:
        for _ in range(2):
            world.now_s += DAY_S
            with ThreadPoolExecutor(2) as pool:
                reports = list(pool.map(lambda one: one.update(), [vault, second]))
            assert sum(report["added"].sum() for report in reports) == 24 * len(symbols)
    assert vault.verify()["whole"].all()
    for symbol in symbols:
        same_as_fetch(vault, world, symbol)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_full_disk_leaves_the_old_state(kind: str, tmp_path: Path) -> None:
    home = open_home(f"{kind}:///{tmp_path}/x.db", read_options(None, None, None, 0, {}))
    files = files_of(home)
    put(files, 500, rows(0, 500))
    size = (tmp_path / "x.db").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 65_536, hard))
    try:
        with pytest.raises(OSError, match=f"{kind}:///"):
            put(files, 300_000, rows(500, 300_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert is_equal(stored(files), rows(0, 500))
    put(files, 600, rows(500, 600))
    assert is_equal(stored(files), rows(0, 600))
    home.close()


@pytest.mark.slow
def test_the_table_becomes_a_hypertable_where_timescaledb_is_there(server: Postgres, world: World) -> None:
    url = server.url()
    with server.connect(url.partition("@/")[2].partition("?")[0]) as connection:  # as if the extension was there
        connection.execute("SET allow_system_table_mods = on")
        connection.execute("INSERT INTO pg_extension VALUES (99999, 'timescaledb', 10, 2200, false, '2', NULL, NULL)")
        connection.execute("CREATE TABLE made (name TEXT)")
        connection.execute(
            "CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, chunk_time_interval interval, "
            "if_not_exists boolean) RETURNS void LANGUAGE sql AS $$ INSERT INTO made VALUES ($1 || '.' || $2) $$"
        )
    with Vault(url, world.fetcher()) as vault:
        vault.update("BTC/USDT", "1h", START)
        assert run(vault._home, "SELECT name FROM made") == [("candles.timestamp",)]
        same_as_fetch(vault, world)


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_the_old_state(
    server: Postgres, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Vault(server.url(), world.fetcher()) as vault:
        vault.update("BTC/USDT", "1h", START)
        world.now_s += DAY_S

        def kill(self: SqlFiles, session: Any, count: int) -> None:
            os.kill(session.run("SELECT pg_backend_pid()")[0][0], signal.SIGKILL)
            session.run("SELECT 1")

        with monkeypatch.context() as patch:
            patch.setattr(SqlFiles, "_check_count", kill)
            with pytest.raises(FetchManyError) as caught:
                vault.update()
        (error,) = caught.value.errors.values()
        assert isinstance(error, ConnectionError)
        assert "hidden-word" not in str(error)
        server.wait()
        assert vault.series()["rows"].tolist() == [60]
        assert vault.update()["added"].tolist() == [24]
        same_as_fetch(vault, world)
        assert vault.verify()["whole"].all()
