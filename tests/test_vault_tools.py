"""Other programs read a Parquet vault as one table, the whole of it and one series, while an update is under way, too.

The tools themselves, where they are installed. Spark is not among the tools of `dev`: it needs Java, and its package
has 300 MB. So two quick tests look at what it needs: no column has nanoseconds, which it refuses, and all other names
begin with `_`, which it leaves out.
"""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from vault_files import T0, put, rows

from candle_fetcher.vault.months import MonthFiles
from candle_fetcher.vault.opening import save_document
from candle_fetcher.vault.state import Entry, SeriesId, VaultDocument
from candle_fetcher.vault.trees import FolderTree

pytest.importorskip("pyarrow")

PARTS = ("provider", "kind", "symbol", "timeframe")
SERIES = (
    SeriesId("binance", "BTC/USDT", "BTCUSDT", "1m"),
    SeriesId("binance", "BTC/USDT", "BTCUSDT", "1M"),
    SeriesId("binance", "1000SATS/USDT", "1000SATSUSDT", "1m"),
    SeriesId("binance-um", "BTC/USDT:USDT", "BTCUSDT", "1m", "mark"),
    SeriesId("kraken", "BTC/USD", "XBT/USD", "1m"),
    SeriesId("alpaca", "BRK.B", "BRK.B", "1d", "candles", (("feed", "iex"),)),
    SeriesId("plugin", "odd", "Ü %=é_2024", "1m"),
    SeriesId("plugin", "coin", "币安人生USDT", "1m"),
)
EXPECTED = {
    (
        one.provider,
        "candles,feed=iex" if one.settings else one.kind,
        one.provider_symbol,
        one.timeframe.replace("M", "mo"),
    )
    for one in SERIES
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with series of each sort, and an update of two months that was cut before it moved them."""
    folder = tmp_path_factory.mktemp("tools") / "vault"
    document = VaultDocument("parquet")
    for series in SERIES:
        document = document.with_series(series, T0, None)
    folder.mkdir()
    save_document(folder, document)
    (folder / "_vault.lock").touch()
    for entry in document.entries:
        put(MonthFiles(FolderTree(folder), entry, "parquet", None), 50, rows(0, 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderTree, "move", lambda *_: None)
        put(MonthFiles(FolderTree(folder), document.entries[0], "parquet", None), 60, rows(20, 60, seed=1), first=20)
    assert list(folder.rglob("*.part"))
    return folder


def pandas(where: str) -> pd.DataFrame:
    return pd.read_parquet(where).reset_index()


def arrow_dataset(where: str) -> pd.DataFrame:
    from pyarrow import dataset

    return dataset.dataset(where, format="parquet", partitioning="hive").to_table().to_pandas()


def arrow_parquet(where: str) -> pd.DataFrame:
    from pyarrow import parquet

    return parquet.read_table(where).to_pandas()


def polars_scan(where: str) -> pd.DataFrame:
    return _of_polars(pytest.importorskip("polars").scan_parquet(where).collect())


def polars_folder(where: str) -> pd.DataFrame:
    return _of_polars(pytest.importorskip("polars").read_parquet(f"{where}/"))


def polars_glob(where: str) -> pd.DataFrame:
    return _of_polars(
        pytest.importorskip("polars").scan_parquet(f"{where}/**/*.parquet", hive_partitioning=True).collect()
    )


def _of_polars(frame: Any) -> pd.DataFrame:
    assert str(frame.schema["timestamp"]) == "Datetime(time_unit='us', time_zone='UTC')"
    return pd.DataFrame(frame.to_dict(as_series=False))


def duckdb_glob(where: str) -> pd.DataFrame:
    return _of_duckdb(f"'{where}/**/*.parquet'")


def duckdb_hive(where: str) -> pd.DataFrame:
    return _of_duckdb(f"read_parquet('{where}/**/*.parquet', hive_partitioning=true, hive_types_autocast=false)")


def _of_duckdb(table: str) -> pd.DataFrame:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(":memory:") as database:
        database.execute("SET TimeZone = 'UTC'")
        return database.sql(f"SELECT * FROM {table}").df()


def dask_frame(where: str, **options: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own calls of pandas
        return pytest.importorskip("dask.dataframe").read_parquet(where, **options).compute(scheduler="synchronous")


def spark(where: str) -> pd.DataFrame:
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    session = _spark_session()
    columns = session.read.parquet(where)
    found = columns.collect()
    made = pd.DataFrame([row.asDict() for row in found], columns=columns.columns)
    return made.assign(timestamp=pd.to_datetime(made["timestamp"], utc=True).dt.as_unit("us"))


@functools.lru_cache(maxsize=1)
def _spark_session() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sql = pytest.importorskip("pyspark.sql")
        builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
        for name, value in (
            ("driver.host", "127.0.0.1"),
            ("driver.bindAddress", "127.0.0.1"),
            ("sql.session.timeZone", "UTC"),
        ):
            builder = builder.config(f"spark.{name}", value)
        return builder.getOrCreate()


OF_ALL = (pandas, arrow_dataset, arrow_parquet, polars_glob, duckdb_glob, duckdb_hive, dask_frame, spark)
OF_CANDLES = (*OF_ALL, polars_scan, polars_folder)


def check(frame: pd.DataFrame, count: int) -> None:
    assert str(frame["timestamp"].dtype) in ("datetime64[us, UTC]", "datetime64[ns, UTC]", "datetime64[ms, UTC]")
    assert len(frame) == 50 * count
    assert frame["close"].sum() == pytest.approx(rows(0, 50)["close"].sum() * count)


@pytest.mark.slow
@pytest.mark.parametrize(("read", "where"), [
    *((read, ".") for read in OF_ALL),
    *((read, "candles") for read in OF_CANDLES),
])  # fmt: skip
def test_a_program_reads_all_series_as_one_table(folder: Path, read: Callable[[str], pd.DataFrame], where: str) -> None:
    frame = read((folder / where).as_posix())
    check(frame, len(SERIES))
    found = set(frame[list(PARTS)].astype(str).drop_duplicates().itertuples(index=False, name=None))
    assert found == EXPECTED
    assert not frame.duplicated(["timestamp", *PARTS]).any()


@pytest.mark.slow
@pytest.mark.parametrize("read", OF_CANDLES)
def test_a_program_reads_the_folder_of_a_series_as_one_table(folder: Path, read: Callable[[str], pd.DataFrame]) -> None:
    series = folder / "candles" / SERIES[4].folder()
    check(read(series.as_posix()), 1)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pandas", "polars", "duckdb", "dask"])
def test_symbols_that_are_numbers_stay_texts_where_the_program_is_told(tmp_path: Path, tool: str) -> None:
    # By themselves these programs but DuckDB take 000001 for the number 1; beside other symbols Dask has NaN.
    import pyarrow as pa
    from pyarrow import dataset

    for symbol in ("000001", "600519"):
        entry = Entry(SeriesId("plugin", symbol, symbol, "1m"), symbol, T0)
        put(MonthFiles(FolderTree(tmp_path), entry, "parquet", None), 50, rows(0, 50))
    where = (tmp_path / "candles").as_posix()
    hive = dataset.partitioning(pa.schema([(name, pa.string()) for name in PARTS]), flavor="hive")
    if tool == "pandas":
        found = pd.read_parquet(where, partitioning=hive)
    elif tool == "polars":
        polars = pytest.importorskip("polars")
        scan = polars.scan_parquet(where, hive_schema=dict.fromkeys(PARTS, polars.String))
        found = pd.DataFrame(scan.collect().to_dict(as_series=False))
    elif tool == "duckdb":
        found = duckdb_hive(where)
    else:
        found = dask_frame(where, dataset={"partitioning": hive})
    assert set(found["symbol"]) == {"000001", "600519"}


def test_nothing_else_is_beside_the_months_and_other_names_begin_with_an_underscore(folder: Path) -> None:
    assert {one.suffix for one in (folder / "candles").rglob("*") if one.is_file()} == {".parquet"}
    assert sorted(one.name for one in folder.iterdir()) == ["_series", "_vault.json", "_vault.lock", "candles"]
    assert all(one.name.startswith("_") for one in (folder / "_series").rglob("*") if one.is_file())


def test_no_column_has_nanoseconds_which_spark_refuses(folder: Path) -> None:
    from pyarrow import parquet

    schema = parquet.read_schema(next((folder / "candles").rglob("*.parquet")))
    assert str(schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
