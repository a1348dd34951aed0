"""What the adapters make of frames: layouts, names, times, and what they refuse or warn of. No tool is needed here;
tests/test_adapters_tools.py hands the results to the tools themselves."""

from __future__ import annotations

import inspect
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from adapted import candles, describe, stocks, with_gap, with_invented, with_missing, with_open
from world import World

import candle_fetcher
from candle_fetcher import CandleFetcherWarning, InputError, MissingExtra, adapters

Adapter = Callable[[pd.DataFrame], Any]


@pytest.fixture
def every(tmp_path: Path) -> dict[str, Adapter]:
    """The adapters that need no tool; those that write files do so in folders of their own."""
    return {
        "to_backtesting": adapters.to_backtesting,
        "to_prophet": adapters.to_prophet,
        "to_statsforecast": adapters.to_statsforecast,
        "to_freqtrade": adapters.to_freqtrade,
        "to_lean": lambda frame: adapters.to_lean(frame, tmp_path / "lean"),
        "to_zipline": lambda frame: adapters.to_zipline(frame, tmp_path / "zipline"),
    }


def daily() -> pd.DataFrame:
    """Return candles that each of the tools takes."""
    frame = candles(20, "1d", price=420.0)
    frame["volume"] = np.round(frame["volume"])
    return frame


def lines_of(path: Path) -> tuple[str, list[str]]:
    """Return the name of the file in an archive, and its lines."""
    with zipfile.ZipFile(path) as found:
        (name,) = found.namelist()
        return name, found.read(name).decode("ascii").splitlines()


# -- what holds for all ------------------------------------------------------------------------------------------------


def test_the_module_is_found_without_an_import_of_its_own() -> None:
    assert candle_fetcher.adapters.to_prophet is adapters.to_prophet
    assert sorted(adapters.__all__) == adapters.__all__


def test_no_adapter_changes_the_frame_that_it_is_given(every: dict[str, Adapter]) -> None:
    for adapt in every.values():
        frame = daily()
        adapt(frame)
        pd.testing.assert_frame_equal(frame, daily(), check_exact=True)
        assert frame.attrs == daily().attrs


def test_a_candle_that_still_forms_never_gets_to_a_tool_and_never_goes_without_a_word(
    every: dict[str, Adapter], tmp_path: Path
) -> None:
    for name, adapt in every.items():
        with pytest.warns(CandleFetcherWarning, match="2024-01-20T00:00:00Z still forms and is left out") as warned:
            made = adapt(with_open(daily()))
        assert len(warned) == 1, name
        assert Path(warned[0].filename).name == "test_adapters.py", name
        if isinstance(made, pd.DataFrame):
            assert len(made) == 19, name
    assert len(lines_of(tmp_path / "lean/crypto/binance/daily/btcusdt_trade.zip")[1]) == 19
    assert len((tmp_path / "zipline/daily/BTC_USDT.csv").read_text().splitlines()) == 20


@pytest.mark.parametrize("name", ["to_statsforecast", "to_freqtrade", "to_lean", "to_zipline"])
def test_invented_rows_are_warned_of_where_the_tool_has_no_column_for_them(
    every: dict[str, Adapter], name: str
) -> None:
    with pytest.warns(CandleFetcherWarning, match=r"BTC/USDT 1d says: 2 of its rows are invented \(is_synthetic\)"):
        every[name](with_invented(daily(), 3, 4))


@pytest.mark.parametrize("name", ["to_backtesting", "to_prophet"])
def test_invented_rows_stay_marked_where_the_tool_takes_a_column(every: dict[str, Adapter], name: str) -> None:
    made = every[name](with_invented(daily(), 3, 4))
    assert np.flatnonzero(made["is_synthetic"]).tolist() == [3, 4]


def test_what_could_not_be_fetched_never_goes_without_a_word(every: dict[str, Adapter]) -> None:
    for name, adapt in every.items():
        if name == "to_statsforecast":
            with pytest.raises(InputError, match="BTC/USDT: a part of the range could not be fetched"):
                adapt(with_missing(daily(), 5, 7))
        else:
            with pytest.warns(CandleFetcherWarning, match="could not be fetched from 2024-01-06T00:00:00Z"):
                adapt(with_missing(daily(), 5, 7))


@pytest.mark.parametrize("name", ["to_lean", "to_zipline"])
def test_gaps_are_warned_of_where_nothing_else_says_so(every: dict[str, Adapter], name: str) -> None:
    with pytest.warns(CandleFetcherWarning, match=r"2 candles between its rows do not exist \(gaps\)"):
        every[name](with_gap(daily(), 5, 7))


def test_tables_keep_the_manifest(every: dict[str, Adapter]) -> None:
    for name in ("to_backtesting", "to_prophet", "to_statsforecast", "to_freqtrade"):
        made = every[name](daily())
        assert made.attrs["candle_fetcher"]["symbol"] == "BTC/USDT", name


@pytest.mark.parametrize("kind", ["mark", "premium"])
def test_prices_at_which_nothing_was_traded_are_refused_or_warned_of(every: dict[str, Adapter], kind: str) -> None:
    frame = describe(daily(), "1d", kind=kind, provider="binance-um")
    with pytest.warns(CandleFetcherWarning, match=f"its rows are {kind} prices"):
        every["to_backtesting"](frame)
    for name in ("to_lean", "to_zipline"):
        with pytest.raises(InputError, match=f"{kind} prices, at which nothing was traded"):
            every[name](frame)
    assert every["to_statsforecast"](frame)["unique_id"].unique().tolist() == [f"BTC/USDT {kind}"]


def test_what_is_no_frame_of_candles_is_an_input_error(every: dict[str, Adapter]) -> None:
    frame = daily()
    strange: list[Any] = [
        None,
        5,
        {"close": [1.0]},
        frame["close"],
        frame.reset_index(),
        frame[["volume"]],
        frame.iloc[::-1],
        pd.concat([frame, frame.tail(1)]),
        frame.assign(open="a", close="a"),
        frame.assign(close=frame.index.tz_localize(None), volume=frame.index),
        pd.concat({"BTC/USDT": frame}, axis=1),
        pd.concat([frame, frame], axis=1),
    ]
    for name, adapt in every.items():
        for one in strange:
            if name == "to_statsforecast" and isinstance(one, dict):
                continue
            with pytest.raises(InputError):
                adapt(one)


def test_an_unknown_price_is_refused_by_its_time(every: dict[str, Adapter]) -> None:
    frame = daily()
    frame.iloc[4, 0] = np.nan
    for name in ("to_backtesting", "to_freqtrade", "to_lean", "to_zipline"):
        with pytest.raises(InputError, match="1 of 20 rows have no open, the first at 2024-01-05T00:00:00Z"):
            every[name](frame)


def test_an_unknown_volume_is_refused_where_a_file_cannot_hold_it(every: dict[str, Adapter]) -> None:
    frame = daily().assign(volume=np.nan)
    for name in ("to_lean", "to_zipline"):
        with pytest.raises(InputError, match="have no volume"):
            every[name](frame)
    assert every["to_freqtrade"](frame)["volume"].isna().all()
    assert every["to_backtesting"](frame)["Volume"].isna().all()


def test_a_frame_without_a_manifest_needs_the_facts_of_its_series(tmp_path: Path) -> None:
    frame = daily()
    frame.attrs = {}
    adapters.to_backtesting(frame)
    adapters.to_freqtrade(frame)
    with pytest.raises(InputError, match="give timeframe='1h'"):
        adapters.to_lean(frame, tmp_path)
    with pytest.raises(InputError, match="give market='binance'"):
        adapters.to_lean(frame, tmp_path, timeframe="1d", symbol="BTC/USDT")
    (path,) = adapters.to_lean(frame, tmp_path, timeframe="1d", symbol="BTC/USD", market="coinbase")
    assert path == tmp_path / "crypto/coinbase/daily/btcusd_trade.zip"
    assert adapters.to_statsforecast(frame, symbol="X", timeframe="1d")["unique_id"].tolist() == ["X"] * 20
    with pytest.raises(InputError, match="give symbol="):
        adapters.to_zipline(frame, tmp_path, timeframe="1d")


def test_a_timeframe_that_the_frame_contradicts_is_refused(tmp_path: Path) -> None:
    frame = candles(48, "1h")
    with pytest.raises(InputError, match="timeframe '1d' contradicts the manifest of the frame, which says 1h"):
        adapters.to_lean(frame, tmp_path, timeframe="1d")
    frame.attrs = {}
    with pytest.raises(InputError, match="several rows in one 1d"):
        adapters.to_lean(frame, tmp_path, timeframe="1d", symbol="BTC/USDT", market="binance")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_another_frame_is_not_believed(tmp_path: Path) -> None:
    thinned = candles(48, "1h").iloc[::4]  # pandas copies the manifest of 1h to it
    with pytest.warns(CandleFetcherWarning, match="manifest of this frame"), pytest.raises(InputError):
        adapters.to_lean(thinned, tmp_path)


@pytest.mark.parametrize("name", ["backtrader", "nautilus_trader", "pyarrow"])
def test_a_tool_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    from candle_fetcher.adapters import objects

    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    for module in (name, "nautilus_trader.model.data"):
        monkeypatch.setitem(sys.modules, module, None)
    objects._backtrader_feed.cache_clear()
    calls: dict[str, Adapter] = {
        "backtrader": adapters.to_backtrader,
        "nautilus_trader": adapters.to_nautilus,
        "pyarrow": lambda frame: adapters.write_freqtrade(frame, tmp_path),
    }
    with pytest.raises(MissingExtra, match=f"pip install {name}|candle-fetcher\\[arrow\\]"):
        calls[name](daily())


def test_every_adapter_says_what_it_does_with_a_candle_that_still_forms() -> None:
    for name in adapters.__all__:
        text = " ".join(inspect.getdoc(getattr(adapters, name)).split())  # type: ignore[union-attr]
        assert "that still forms is left out, with a warning" in text, name


# -- frames of a fetch -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_frames_of_a_fetch_go_to_every_tool(world: World, every: dict[str, Adapter], tmp_path: Path) -> None:
    fetcher = world.fetcher()
    asked = ("BTC/USDT", "1h", "2024-06-14T00:00")
    whole = fetcher.fetch(*asked)
    assert len(whole) == 36
    with pytest.warns(CandleFetcherWarning, match="the candle of 2024-06-15T12:00:00Z still forms") as warned:
        made = adapters.to_freqtrade(fetcher.fetch(*asked, include_open=True))
    assert len(warned) == 1
    pd.testing.assert_frame_equal(made, adapters.to_freqtrade(whole), check_exact=True)
    (path,) = adapters.to_lean(whole, tmp_path)
    assert len(lines_of(path)[1]) == 36
    assert adapters.to_statsforecast(fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *asked[1:])).shape == (72, 3)
    future = fetcher.fetch("BTC/USDT", "1h", "2024-06-15T00:00", provider="binance-um", columns="all")
    (path,) = adapters.to_lean(future, tmp_path)
    assert path == tmp_path / "cryptofuture/binance/hour/btcusdt_trade.zip"
    assert adapters.to_backtesting(future)["trades"].dtype == "Int64"


def test_the_gap_of_a_fetch_is_seen_in_all_of_it_and_in_a_part_of_it(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher()
    asked = ("BTC/USDT", "1h", "2018-02-01", "2018-02-20")  # 32 candles do not exist
    frame = fetcher.fetch(*asked)
    with pytest.warns(CandleFetcherWarning, match="32 candles between its rows"):
        adapters.to_lean(frame, tmp_path)
    with pytest.raises(InputError, match="32 candles between the rows"):
        adapters.to_statsforecast(frame)
    after = frame[frame.index >= "2018-02-10"]
    assert len(adapters.to_statsforecast(after)) == len(after)
    with pytest.warns(CandleFetcherWarning, match="32 of its rows are invented"):
        filled = adapters.to_statsforecast(fetcher.fetch(*asked, on_gap="ffill"))
    assert len(filled) == 19 * 24


# -- tables ------------------------------------------------------------------------------------------------------------


def test_backtesting_has_its_names_and_times_without_a_zone() -> None:
    frame = candles(5, "1h").assign(trades=pd.array([1] * 5, "Int64"))
    made = adapters.to_backtesting(frame)
    assert made.columns.tolist() == ["Open", "High", "Low", "Close", "Volume", "trades"]
    assert made.index.tz is None
    assert made.index[1] == pd.Timestamp("2024-01-01 01:00")
    assert (made["Close"].to_numpy() == frame["close"].to_numpy()).all()


def test_times_of_stocks_are_shown_by_the_clocks_of_their_exchange() -> None:
    frame = stocks()  # over the change to summer time on 10 March
    days = adapters.to_backtesting(frame, zone="America/New_York").index
    assert (days == days.normalize()).all()
    assert days[0] == pd.Timestamp("2024-03-01")
    assert adapters.to_prophet(frame, zone="America/New_York")["ds"].tolist() == days.tolist()
    assert adapters.to_backtesting(frame).index[0] == pd.Timestamp("2024-03-01 05:00")


def test_times_that_clocks_show_twice_are_refused() -> None:
    frame = candles(6, "30m", "2024-11-03T04:30")
    with pytest.raises(InputError, match="show some of these times twice"):
        adapters.to_backtesting(frame, zone="America/New_York")
    with pytest.raises(InputError, match="zone 'Mars'"):
        adapters.to_backtesting(frame, zone="Mars")


def test_prophet_takes_any_column_and_funding_rates_too() -> None:
    frame = candles(5, "1h")
    made = adapters.to_prophet(frame, "volume")
    assert made.columns.tolist() == ["ds", "y"]
    assert made["ds"].dt.tz is None
    assert made["y"].tolist() == frame["volume"].tolist()
    rates = pd.DataFrame({"rate": [0.0001, 0.0002]}, index=pd.date_range("2024-01-01", periods=2, freq="8h", tz="UTC"))
    assert adapters.to_prophet(rates, "rate")["y"].tolist() == [0.0001, 0.0002]
    for wrong in ("median", 5, None, ["close"]):
        with pytest.raises(InputError):
            adapters.to_prophet(frame, wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            adapters.to_statsforecast(frame, wrong)  # type: ignore[arg-type]


def test_statsforecast_takes_what_fetch_many_returns() -> None:
    frames = {"BTC/USDT": candles(5), "ETH/USDT": candles(4, price=2_000.0, symbol="ETH/USDT")}
    made = adapters.to_statsforecast(frames)
    assert made.columns.tolist() == ["unique_id", "ds", "y"]
    assert made["unique_id"].tolist() == ["BTC/USDT"] * 5 + ["ETH/USDT"] * 4
    assert made.index.tolist() == list(range(9))
    for wrong in ({}, {"BTC/USDT": 5}):
        with pytest.raises(InputError):
            adapters.to_statsforecast(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="their keys"):
        adapters.to_statsforecast(frames, symbol="BTC/USDT")


def test_statsforecast_counts_rows_so_that_a_frame_with_gaps_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 candles between the rows do not exist, and .* counts rows of 1h"):
        adapters.to_statsforecast(with_gap(candles(), 5, 7))
    with pytest.raises(InputError, match="could not be fetched"):
        adapters.to_statsforecast(with_missing(candles(), 5, 7))
    assert len(adapters.to_statsforecast(stocks())) == 20  # a weekend is no gap
    with pytest.raises(InputError, match="do not exist"):
        adapters.to_statsforecast(with_gap(stocks(), 5, 7))
    assert len(adapters.to_statsforecast(with_gap(candles(), 5, 7).iloc[10:])) == 36  # which lie after it
    unknown = with_gap(candles(), 5, 7)
    unknown.attrs = {}
    with pytest.raises(InputError, match="do not exist"):
        adapters.to_statsforecast(unknown, symbol="BTC/USDT", timeframe="1h")
    with pytest.warns(CandleFetcherWarning, match="2 times of 1h between the rows of X have no candle"):
        adapters.to_statsforecast(unknown, symbol="X", timeframe="1h")


def test_freqtrade_has_its_columns() -> None:
    frame = candles(5)
    made = adapters.to_freqtrade(frame.assign(extra=1))
    assert made.columns.tolist() == ["date", "open", "high", "low", "close", "volume"]
    assert str(made["date"].dtype) == "datetime64[ms, UTC]"
    assert made["date"].tolist() == frame.index.tolist()
    assert made.index.tolist() == [0, 1, 2, 3, 4]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "timeframe", "name"),
    [
        ({}, "1h", "BTC_USDT-1h.feather"),
        ({}, "1M", "BTC_USDT-1Mo.feather"),
        ({"symbol": "1000SATS/USDT"}, "5m", "1000SATS_USDT-5m.feather"),
        ({"symbol": "币安人生/USDT"}, "1h", "币安人生_USDT-1h.feather"),
        ({"provider": "kraken", "symbol": "BTC/USD"}, "1d", "BTC_USD-1d.feather"),
        ({"provider": "binance-um"}, "1h", "futures/BTC_USDT_USDT-1h-futures.feather"),
        ({"provider": "binance-um", "symbol": "BTC/USDT:USDT"}, "1h", "futures/BTC_USDT_USDT-1h-futures.feather"),
        ({"provider": "binance-cm", "symbol": "BTC/USD"}, "1h", "futures/BTC_USD_BTC-1h-futures.feather"),
        ({"provider": "binance-um", "kind": "mark"}, "8h", "futures/BTC_USDT_USDT-8h-mark.feather"),
        ({"provider": "binance-um", "kind": "premium"}, "8h", "futures/BTC_USDT_USDT-8h-premiumIndex.feather"),
    ],
)
def test_freqtrade_finds_its_file_by_name(tmp_path: Path, facts: dict[str, Any], timeframe: str, name: str) -> None:
    feather = pytest.importorskip("pyarrow.feather")
    frame = candles(5, timeframe, **facts)
    path = adapters.write_freqtrade(frame, tmp_path)
    assert path == tmp_path / name
    pd.testing.assert_frame_equal(feather.read_feather(path), adapters.to_freqtrade(frame), check_exact=True)
    manifest = json.loads(feather.read_table(path).schema.metadata[b"candle_fetcher"])
    assert manifest == frame.attrs["candle_fetcher"]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for symbol in ("../x/y", "..", "a\\b/c", "con:/x", "BTCUSDT", "BTCUSDT_261225", "BTC/USDT:", "", "a/b/c"):
        frame = candles(5, symbol=symbol)
        for write in (adapters.write_freqtrade, adapters.to_lean):
            with pytest.raises(InputError):
                write(frame, tmp_path / "data")
    assert list(tmp_path.rglob("*")) == []


def test_a_file_with_more_rows_is_not_replaced_unless_it_is_said(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for write in (adapters.write_freqtrade, adapters.to_lean):
        frame = candles(48, "1h")
        write(frame, tmp_path)
        write(candles(60, "1h"), tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
        for less in (frame, candles(48, "1h", "2024-01-02")):
            with pytest.raises(InputError, match=r"candles from 2024-01-01T00:00:00Z to .* overwrite=True"):
                write(less, tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
        write(frame, tmp_path, overwrite=True)
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(b"cut")
    for write in (adapters.write_freqtrade, adapters.to_lean):
        with pytest.raises(InputError, match="cannot be read"):
            write(candles(48, "1h"), tmp_path)
        with pytest.raises(InputError, match="overwrite 1"):
            write(candles(48, "1h"), tmp_path, overwrite=1)


# Files among Lean's own data (QuantConnect/Lean, Data, August 2026): what they are of, their names, and some lines.
LEANS_OWN = [
    (
        {},
        "1h",
        "2018-05-01",
        "crypto/binance/hour/btcusdt_trade.zip",
        "btcusdt.csv",
        (
            "20180501 00:00,9246.01,9248.99,8934.44,8955.01,5263.799551",
            "20180501 01:00,8955.13,9020.99,8870,8994.99,4347.876744",
        ),
    ),
    (
        {"symbol": "BTC/BUSD"},
        "1m",
        "2022-12-13",
        "crypto/binance/minute/btcbusd/20221213_trade.zip",
        "20221213_btcbusd_minute_trade.csv",
        ("0,17212.12,17216.55,17208.88,17208.88,110.66042", "60000,17209.49,17227.24,17208.84,17226.99,147.61285"),
    ),
    (
        {"symbol": "ADA/USDT", "provider": "binance-um"},
        "1d",
        "2022-12-07",
        "cryptofuture/binance/daily/adausdt_trade.zip",
        "adausdt_trade_perp.csv",
        (
            "20221207 00:00,0.3179,0.3199,0.3063,0.31,488692362",
            "20221208 00:00,0.3099,0.3156,0.3069,0.3143,458682640",
        ),
    ),
    (
        {"symbol": "ADA/USDT:USDT", "provider": "binance-um"},
        "1m",
        "2022-12-13",
        "cryptofuture/binance/minute/adausdt/20221213_trade.zip",
        "20221213_adausdt_minute_trade_perp.csv",
        ("0,0.3067,0.3068,0.3066,0.3068,274004", "60000,0.3068,0.3072,0.3067,0.3071,1031647"),
    ),
    (
        {"symbol": "AAPL", "provider": "alpaca"},
        "1h",
        "1998-01-02T14:00",
        "equity/usa/hour/aapl.zip",
        "aapl.csv",
        ("19980102 09:00,136300,137500,135000,136300,540700", "19980102 10:00,136300,148100,135600,144400,1974100"),
    ),
    (
        {"symbol": "AAPL", "provider": "alpaca"},
        "1m",
        "2014-06-05T23:58",
        "equity/usa/minute/aapl/20140605_trade.zip",
        "20140605_aapl_minute_trade.csv",
        ("71880000,6469800,6469800,6466500,6466500,350", "71940000,6467500,6469900,6467500,6469700,370"),
    ),
    (
        {"symbol": "AIG", "provider": "alpaca"},
        "1s",
        "2013-10-04T10:59:16",
        "equity/usa/second/aig/20131004_trade.zip",
        "20131004_aig_second_trade.csv",
        ("25156000,490000,490000,490000,490000,300", "25157000,490000,490000,490000,490000,200"),
    ),
]


@pytest.mark.parametrize(("facts", "timeframe", "start", "path", "name", "lines"), LEANS_OWN)
def test_the_files_for_lean_are_as_its_own(
    tmp_path: Path, facts: dict[str, Any], timeframe: str, start: str, path: str, name: str, lines: tuple[str, ...]
) -> None:
    frame = candles(len(lines), timeframe, start, **facts)
    scale = 10_000 if path.startswith("equity") else 1
    for at, line in enumerate(lines):
        *prices, volume = (float(value) for value in line.split(",")[1:])
        frame.iloc[at] = [*(price / scale for price in prices), volume]
    assert adapters.to_lean(frame, tmp_path) == [tmp_path / path]
    assert lines_of(tmp_path / path) == (name, list(lines))


def test_lean_has_a_file_of_all_hours(tmp_path: Path) -> None:
    frame = candles(48, "1h")
    (path,) = adapters.to_lean(frame, tmp_path)
    assert path == tmp_path / "crypto/binance/hour/btcusdt_trade.zip"
    name, lines = lines_of(path)
    assert name == "btcusdt.csv"
    assert lines[1].startswith("20240101 01:00,")
    values = np.array([[float(value) for value in line.split(",")[1:]] for line in lines])
    assert (values == frame.to_numpy()).all()


def test_lean_has_a_file_for_each_day_of_minutes(tmp_path: Path) -> None:
    frame = candles(1500, "1m", "2024-01-01T23:00", provider="binance-um")
    paths = adapters.to_lean(frame, tmp_path)
    folder = tmp_path / "cryptofuture/binance/minute/btcusdt"
    assert paths == [folder / "20240101_trade.zip", folder / "20240102_trade.zip"]
    name, lines = lines_of(paths[1])
    assert name == "20240102_btcusdt_minute_trade_perp.csv"
    assert len(lines) == 1440
    assert lines[0].startswith("0,")
    assert lines[-1].startswith("86340000,")
    with pytest.raises(InputError, match="from 2024-01-02T00:00:00Z"):  # half of a day that is there
        adapters.to_lean(frame.iloc[60:700], tmp_path)


def test_lean_has_stocks_in_ten_thousandths_and_in_the_time_of_new_york(tmp_path: Path) -> None:
    frame = stocks("BRK.B")
    frame.iloc[0, :4] = [185.1234, 185.12345, 0.0001, 1.005]
    (path,) = adapters.to_lean(frame, tmp_path)
    assert path == tmp_path / "equity/usa/daily/brk.b.zip"
    name, lines = lines_of(path)
    assert name == "brk.b.csv"
    assert lines[0].split(",")[:5] == ["20240301 00:00", "1851234", "1851234.5", "1", "10050"]
    assert [line[:14] for line in lines] == [f"{day:%Y%m%d} 00:00" for day in pd.bdate_range("2024-03-01", periods=20)]
    for line, close in zip(lines[1:], frame["close"].tolist()[1:], strict=True):
        assert int(line.split(",")[4]) * 1e-4 == pytest.approx(close, abs=1e-9)


def test_lean_never_sees_an_exponent(tmp_path: Path) -> None:
    frame = candles(3, "1h", symbol="SHIB/USDT")
    frame.iloc[0] = [1e-8, 2e-8, 1e-8, 1e-8, 123456789012.5]
    (path,) = adapters.to_lean(frame, tmp_path)
    assert lines_of(path)[1][0] == "20240101 00:00,0.00000001,0.00000002,0.00000001,0.00000001,123456789012.5"


def test_candles_that_open_between_minutes_never_lose_their_seconds_without_a_word(tmp_path: Path) -> None:
    for timeframe, adapt in (("1h", adapters.to_lean), ("1m", adapters.to_zipline)):
        frame = candles(5, timeframe, price=420.0)
        frame["volume"] = 1.0
        frame.index += pd.Timedelta("28min14s")  # as Binance's after an outage
        frame = describe(frame, timeframe)
        if timeframe == "1h":
            with pytest.warns(CandleFetcherWarning, match="5 of the candles open between minutes"):
                (path,) = adapt(frame, tmp_path)  # type: ignore[misc]
            assert lines_of(path)[1][1].startswith("20240101 01:28,")
        else:
            with pytest.raises(InputError, match="between them"):
                adapt(frame, tmp_path)
    (path,) = adapters.to_lean(frame, tmp_path)
    assert lines_of(path)[1][1].startswith("1754000,")  # files of minutes have milliseconds


@pytest.mark.parametrize(
    ("facts", "timeframe", "said"),
    [
        ({}, "4h", "expected one of 1s, 1m, 1h, 1d"),
        ({"provider": "coingecko"}, "1h", "give market="),
        ({"provider": "alpaca-crypto"}, "1h", "give market="),
        ({"provider": "alphavantage", "symbol": "BTC/USD"}, "1h", "is a pair"),
        ({"provider": "alpaca", "symbol": "AAPL"}, "1d", "midnight"),
        ({"provider": "binance", "symbol": "BTCUSDT"}, "1h", "give symbol='BTC/USDT'"),
    ],
)
def test_lean_refuses_what_it_does_not_have(tmp_path: Path, facts: dict[str, Any], timeframe: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        adapters.to_lean(candles(5, timeframe, **facts), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_adjusted_prices_are_warned_of_where_the_tool_may_adjust_them_again(tmp_path: Path) -> None:
    frame = describe(
        stocks(),
        "1d",
        provider="alpaca",
        symbol="AAPL",
        settings={"adjustment": "split"},
        adjusted={"as_of": "2020-08-31"},
    )
    for adapt in (adapters.to_lean, adapters.to_zipline):
        with pytest.warns(CandleFetcherWarning, match=r"prices are adjusted \(adjustment: split, as_of: 2020-08-31\)"):
            adapt(frame, tmp_path)


def test_zipline_has_days_by_their_date_and_minutes_by_their_end(tmp_path: Path) -> None:
    path = adapters.to_zipline(stocks("BRK.B"), tmp_path)
    assert path == tmp_path / "daily/BRK_B.csv"
    lines = path.read_text().splitlines()
    assert lines[0] == "date,open,high,low,close,volume"
    assert [line[:10] for line in lines[1:]] == [f"{day:%Y-%m-%d}" for day in pd.bdate_range("2024-03-01", periods=20)]
    minutes = candles(5, "1m", price=420.0)
    minutes["volume"] = 5.0
    path = adapters.to_zipline(minutes, tmp_path)
    assert path == tmp_path / "minute/BTC_USDT.csv"
    assert path.read_text().splitlines()[1].startswith("2024-01-01 00:01:00,")
    with pytest.raises(InputError, match="overwrite=True"):
        adapters.to_zipline(minutes.iloc[1:], tmp_path)
    with pytest.raises(InputError, match="expected 1m or 1d"):
        adapters.to_zipline(candles(5, "1h"), tmp_path)


def test_what_zipline_would_cut_off_is_warned_of_or_refused(tmp_path: Path) -> None:
    frame = daily()
    with pytest.warns(CandleFetcherWarning, match=r"volume \(1 by up to 100%\)"):
        adapters.to_zipline(frame.assign(volume=[0.5, *[2.0] * 19]), tmp_path)
    with pytest.raises(InputError, match="multiply the prices"):
        adapters.to_zipline(frame / 1e7, tmp_path)
    with pytest.raises(InputError, match="zipline stores volume from 0"):
        adapters.to_zipline(frame.assign(volume=5e9), tmp_path)
    with pytest.raises(InputError, match="zipline stores high from 0"):
        adapters.to_zipline(frame.assign(high=5e6), tmp_path)


def test_what_is_no_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (adapters.write_freqtrade, adapters.to_lean, adapters.to_zipline):
        for folder in (None, 5, b"x", "a\0b", tmp_path / "file"):
            with pytest.raises(InputError):
                write(daily(), folder)  # type: ignore[arg-type]
        if write is not adapters.write_freqtrade:
            with pytest.raises(InputError, match="no closed candle"):
                write(daily().iloc[:0], tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_series_of_different_timeframes_have_no_common_freq() -> None:
    hours = pd.DataFrame({"close": 1.0}, index=pd.date_range("2024-01-01", periods=5, freq="h", tz="UTC"))
    days = pd.DataFrame({"close": 1.0}, index=pd.date_range("2024-01-01", periods=5, freq="D", tz="UTC"))
    for frame, timeframe in ((hours, "1h"), (days, "1d")):
        frame.attrs = {"candle_fetcher": {"symbol": "BTC/USDT", "timeframe": timeframe, "kind": "candles"}}
    with pytest.raises(InputError, match="the timeframes differ: a is of 1h, b is of 1d"):
        adapters.to_statsforecast({"a": hours, "b": days})
    with pytest.raises(InputError, match="a frame has the name 1; expected a text"):
        adapters.to_statsforecast({1: hours, "1": hours})


def test_tables_of_polars_and_arrow_are_taken() -> None:
    polars = pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    index = pd.date_range("2024-01-01", periods=5, freq="h", tz="UTC", name="timestamp")
    frame = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), 1.5), index=index)
    frame.attrs = {"candle_fetcher": {"symbol": "BTC/USDT", "timeframe": "1h", "kind": "candles"}}
    table = polars.from_pandas(frame.reset_index())
    for given in ((table, frame.attrs["candle_fetcher"]), arrow.Table.from_pandas(frame), frame):
        assert adapters.to_statsforecast(given)["unique_id"].tolist() == ["BTC/USDT"] * 5
        assert len(adapters.to_backtesting(given)) == 5
