"""Frames for Polars and Arrow: the columns of the pandas frame, none of its floats copied, and its manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, manifest_of, ms

import candle_fetcher
from candle_fetcher import CandleFetcher, IncompleteData, InputError, MissingExtra
from candle_fetcher.fetcher.shared import shared_fetcher
from candle_fetcher.practice import PracticeExchange, faults

pa = pytest.importorskip("pyarrow")
DAYS = ("2024-06-01", "2024-06-04")
LIBRARIES = ["polars", "arrow"]


@pytest.fixture(params=LIBRARIES)
def output(request: pytest.FixtureRequest) -> str:
    if request.param == "polars":
        pytest.importorskip("polars")
    return str(request.param)


def type_of(output: str) -> Any:
    if output == "arrow":
        return pa.Table
    return pytest.importorskip("polars").DataFrame


def arrow_of(table: Any) -> Any:
    return table if isinstance(table, pa.Table) else table.to_arrow()


def check_equal(table: Any, frame: pd.DataFrame) -> None:
    """Fails unless the table has `timestamp` and the columns of the frame, with the same values."""
    rows = arrow_of(table)
    assert rows.column_names == ["timestamp", *frame.columns]
    assert rows["timestamp"].type == pa.timestamp(pd.DatetimeIndex(frame.index).unit, tz="UTC")
    assert rows["timestamp"].cast(pa.int64()).to_pylist() == pd.DatetimeIndex(frame.index).asi8.tolist()
    for name in frame.columns:
        ours, kind = rows[name], frame[name].dtype
        assert ours.null_count == int(frame[name].isna().sum()), name
        if kind == np.float64:
            assert ours.type == pa.float64()
            assert np.array_equal(ours.to_numpy(zero_copy_only=False), frame[name].to_numpy(), equal_nan=True)
        elif kind == np.bool_:
            assert ours.to_pylist() == frame[name].tolist()
        elif isinstance(kind, pd.DatetimeTZDtype):
            assert ours.type == pa.timestamp("ns", tz="UTC")
            assert ours.cast(pa.int64()).drop_null().to_pylist() == pd.DatetimeIndex(frame[name].dropna()).asi8.tolist()
        else:
            assert ours.type == pa.int64()
            assert ours.to_pylist() == [None if pd.isna(value) else int(value) for value in frame[name]]


def addresses(table: Any) -> dict[str, int]:
    """Where the values of each column of floats lie in memory."""
    rows = arrow_of(table)
    floats = [name for name in rows.column_names if rows[name].type == pa.float64()]
    parts = {name: rows[name].chunks for name in floats}
    assert all(len(chunks) == 1 for chunks in parts.values())
    return {name: chunks[0].buffers()[1].address + 8 * chunks[0].offset for name, chunks in parts.items()}


def addresses_of_frame(frame: pd.DataFrame) -> dict[str, int]:
    floats = [name for name in frame.columns if frame[name].dtype == np.float64]
    return {name: frame[name].to_numpy().__array_interface__["data"][0] for name in floats}


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_a_table_has_the_columns_of_the_frame(world: World, output: str, columns: Any) -> None:
    fetcher = world.fetcher()
    for _ in range(3):  # cold, and twice as it is kept in memory
        table = fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns, output=output)
        assert type(table) is type_of(output)
        check_equal(table, fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns))
    cold = world.fetcher(use_cache=False).fetch("BTC/USDT", "1m", *DAYS, columns=columns, output=output)
    check_equal(cold, fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns))


@pytest.mark.skipif(int(pd.__version__.partition(".")[0]) < 3, reason="earlier ones copy a frame to hand it out again")
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_no_column_of_floats_is_copied(world: World, output: str, columns: Any) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns)
    frame = fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns)
    table = fetcher.fetch("BTC/USDT", "1m", *DAYS, columns=columns, output=output)
    assert addresses(table) == addresses_of_frame(frame)
    assert len(addresses(table)) == (5 if columns == "ohlcv" else 8)


def test_a_column_of_floats_with_missing_values_is_not_copied_either(output: str) -> None:
    from candle_fetcher.core.frame import MANIFEST, Manifest
    from candle_fetcher.files.outputs import hand_over

    index = pd.date_range("2024-01-01", periods=100, freq="h", tz="UTC", name="timestamp", unit="ns")
    frame = pd.DataFrame({"close": np.arange(100.0), "volume": np.where(np.arange(100) % 7, 1.5, np.nan)}, index=index)
    frame.attrs[MANIFEST] = Manifest(rows=100)
    table = hand_over(frame, output)
    assert addresses(table) == addresses_of_frame(frame)
    assert arrow_of(table)["volume"].null_count == 15
    check_equal(table, frame)


@pytest.mark.parametrize("words", [{"include_open": True}, {"on_gap": "ffill"}, {"on_gap": "interpolate"}], ids=str)
def test_marks_and_missing_values_stay_what_they_are(world: World, output: str, words: dict[str, Any]) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-15T03:00:00"), ms("2024-06-15T05:00:00")))
    call: Any = ("BTC/USDT", "1m", "2024-06-15", None)
    fetcher = world.fetcher()
    table = fetcher.fetch(*call, columns="all", output=output, **words)
    frame = fetcher.fetch(*call, columns="all", **words)
    check_equal(table, frame)
    if "on_gap" in words:
        assert arrow_of(table)["close_time"].null_count == 120


def test_trades_that_a_provider_lacks_are_null(world: World, output: str) -> None:
    fetcher = world.fetcher(provider="kraken")
    table = fetcher.fetch("BTC/USD", "1h", "2024-06-14", "2024-06-15", columns="all", output=output)
    check_equal(table, fetcher.fetch("BTC/USD", "1h", "2024-06-14", "2024-06-15", columns="all"))
    assert arrow_of(table)["quote_volume"].null_count == 24


def test_an_empty_answer_has_its_columns_and_types(world: World, output: str) -> None:
    words: Any = {"columns": "all", "partial": "allow"}
    table = world.fetcher(source="cache").fetch("BTC/USDT", "1h", *DAYS, output=output, **words)
    check_equal(table, world.fetcher(source="cache").fetch("BTC/USDT", "1h", *DAYS, **words))


def test_the_manifest_is_in_the_schema_of_an_arrow_table(world: World) -> None:
    fetcher = world.fetcher()
    for _ in range(3):
        table = fetcher.fetch("BTC/USDT", "1m", *DAYS, output="arrow")
        manifest = json.loads(table.schema.metadata[b"candle_fetcher"])
        assert manifest["rows"] == 4320
    frame = fetcher.fetch("BTC/USDT", "1m", *DAYS)
    assert manifest == dict(manifest_of(frame))
    assert manifest["sources"] == {"memory": 4320, "disk": 0, "archive": 0, "rest": 0}
    back = table.to_pandas()
    pd.testing.assert_frame_equal(back, frame, check_freq=False)  # with its index


@pytest.mark.parametrize("name", ["pandas", *LIBRARIES])
def test_with_manifest_gives_it_as_a_second_value(world: World, name: str) -> None:
    if name == "polars":
        pytest.importorskip("polars")
    fetcher = world.fetcher()
    expected = manifest_of(fetcher.fetch("BTC/USDT", "1h", *DAYS))["fingerprint"]
    for _ in range(2):
        made, manifest = fetcher.fetch("BTC/USDT", "1h", *DAYS, output=name, with_manifest=True)
        assert len(made) == manifest["rows"] == 72
        assert manifest["fingerprint"] == expected
    many = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", *DAYS, output=name, with_manifest=True)
    assert {symbol: pair[1]["symbol"] for symbol, pair in many.items()} == {name: name for name in many}
    pieces = list(fetcher.iter_frames("BTC/USDT", "1h", *DAYS, rows=30, output=name, with_manifest=True))
    assert [(len(one), facts["rows"]) for one, facts in pieces] == [(30, 30), (30, 30), (12, 12)]
    call: Any = ("BTC/USDT", "2024-05-01", "2024-06-01")
    rates, facts = fetcher.fetch_funding(*call, provider="binance-um", output=name, with_manifest=True)
    assert len(rates) == facts["rows"] == 93


def test_every_call_that_returns_frames_takes_it(world: World, output: str) -> None:
    fetcher = world.fetcher()
    many = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", *DAYS, output=output)
    for symbol, table in many.items():
        check_equal(table, fetcher.fetch(symbol, "1h", *DAYS))
    pieces = list(fetcher.iter_frames("BTC/USDT", "1h", *DAYS, rows=30, output=output))
    frames = list(fetcher.iter_frames("BTC/USDT", "1h", *DAYS, rows=30))
    for table, frame in zip(pieces, frames, strict=True):
        check_equal(table, frame)
    call: Any = ("BTC/USDT", "2024-05-01", "2024-06-01")
    rates = fetcher.fetch_funding(*call, provider="binance-um", output=output)
    check_equal(rates, fetcher.fetch_funding(*call, provider="binance-um"))


def test_a_table_that_was_changed_changes_no_other(world: World) -> None:
    pl = pytest.importorskip("polars")
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1h", *DAYS)
    one = fetcher.fetch("BTC/USDT", "1h", *DAYS, output="polars")
    one.insert_column(0, pl.Series("mine", range(72)))
    one[3, "close"] = 1.0
    other = fetcher.fetch("BTC/USDT", "1h", *DAYS, output="polars")
    check_equal(other, fetcher.fetch("BTC/USDT", "1h", *DAYS))
    assert other.columns[0] == "timestamp"
    writable = fetcher.fetch("BTC/USDT", "1h", *DAYS, output="arrow")["close"].to_numpy()
    assert not writable.flags.writeable


def test_a_partial_answer_says_so_in_each_library(world: World, output: str) -> None:
    world.exchange.fail(faults.status(500), times=None, match=lambda path, params: params.get("symbol") == "ETHUSDT")
    fetcher = world.fetcher(source="rest", max_retries=0)
    table, manifest = fetcher.fetch("ETH/USDT", "1h", *DAYS, partial="allow", output=output, with_manifest=True)
    assert len(table) == 0
    assert manifest["missing"][0]["count"] == 72
    if output == "arrow":
        assert json.loads(table.schema.metadata[b"candle_fetcher"])["missing"] == manifest["missing"]
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch("ETH/USDT", "1h", *DAYS, output=output)
    assert isinstance(caught.value.frame, pd.DataFrame)


def calls(fetcher: CandleFetcher, **words: Any) -> list[Any]:
    return [
        lambda: fetcher.fetch("BTC/USDT", "1h", *DAYS, **words),
        lambda: fetcher.fetch_many(["BTC/USDT"], "1h", *DAYS, **words),
        lambda: list(fetcher.iter_frames("BTC/USDT", "1h", *DAYS, **words)),
        lambda: fetcher.fetch_funding("BTC/USDT", *DAYS, provider="binance-um", **words),
    ]


@pytest.mark.parametrize(("name", "package"), [("arrow", "pyarrow"), ("polars", "polars"), ("polars", "pyarrow")])
def test_a_missing_package_is_said_before_anything_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    if package == "pyarrow":
        pytest.importorskip("polars")
    monkeypatch.setitem(sys.modules, package, None)
    for call in calls(world.fetcher(), output=name):
        with pytest.raises(MissingExtra) as caught:
            call()
        assert caught.value.extra == name
        assert f'pip install "candle-fetcher[{name}]"' in str(caught.value)
    assert world.asked("") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"output": "panda"}, "unknown output 'panda'; expected one of pandas, polars, arrow"),
        ({"output": None}, "unknown output None"),
        ({"with_manifest": 1}, "with_manifest 1 is not understood; expected True or False"),
    ],
    ids=str,
)
def test_another_word_is_refused_before_anything_is_fetched(world: World, words: dict[str, Any], said: str) -> None:
    for call in calls(world.fetcher(), **words):
        with pytest.raises(InputError, match=said):
            call()
    assert world.asked("") == []


def test_the_function_of_the_package_takes_it_too(tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_CACHE_DIR", str(tmp_path))
    shared_fetcher.cache_clear()
    with PracticeExchange() as exchange:
        hosts = ",".join(f"{name}={url}" for name, url in exchange.base_urls.items())
        monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", hosts)
        try:
            table = candle_fetcher.fetch("BTC/USDT", "1h", *DAYS, output=output)
            check_equal(table, candle_fetcher.fetch("BTC/USDT", "1h", *DAYS))
            assert [*candle_fetcher.fetch_many(["BTC/USDT"], "1h", *DAYS, output=output)] == ["BTC/USDT"]
        finally:
            shared_fetcher().close()
            shared_fetcher.cache_clear()
