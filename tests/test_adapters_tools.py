"""The tools themselves take what the adapters make, and see each candle when it is closed, with its values.

They are installed by the extra `tools`, in an environment of its own (`.ci/run`), since some of them want another
version of pandas than `dev` has. Each test is skipped where its tool is not installed. zipline is not among `tools`: a
part of it has to be compiled, which takes minutes.
"""

from __future__ import annotations

import datetime as dt
import gc
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from adapted import PARTS, candles, describe, stocks, with_gap, with_invented
from pages import DOCS, find_blocks
from test_docs import find_wrong, missing, needs

from candle_fetcher import CandleFetcherWarning, InputError, adapters

# The tools warn of much; the adapters must not.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::candle_fetcher.CandleFetcherWarning"),
]

COLUMNS = ["open", "high", "low", "close", "volume"]


def coarser(frame: pd.DataFrame, timeframe: str, rule: str) -> pd.DataFrame:
    """Return the frame's candles as those of a timeframe that its rows fill."""
    made = frame.resample(rule).agg(PARTS)
    made.index.name = "timestamp"
    return describe(made, timeframe)


def whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(volume=np.round(frame["volume"] * 100))


# -- backtesting.py ----------------------------------------------------------------------------------------------------


def test_backtesting_trades_at_the_next_opening_and_knows_what_is_invented() -> None:
    backtesting = pytest.importorskip("backtesting")
    frame = with_invented(candles(60, "1d"), 7)
    frame["trades"] = pd.array(range(60), "Int64")
    seen: list[tuple[float, bool, int]] = []

    class Once(backtesting.Strategy):  # type: ignore[misc, name-defined, unused-ignore]
        def init(self) -> None:
            pass

        def next(self) -> None:
            seen.append((self.data.Close[-1], bool(self.data.is_synthetic[-1]), int(self.data.trades[-1])))
            if len(self.data) == 10:
                self.buy(size=1)

    made = adapters.to_backtesting(frame)
    result = backtesting.Backtest(made, Once, cash=10_000_000, finalize_trades=True).run()
    closes, marks, trades = zip(*seen, strict=True)
    assert list(closes) == frame["close"].tolist()[1:]
    assert [number for number, mark in zip(trades, marks, strict=True) if mark] == [7]
    (trade,) = result["_trades"].itertuples()
    assert trade.EntryPrice == frame["open"].iloc[10]
    assert trade.EntryTime == pd.Timestamp("2024-01-11")


# -- backtrader --------------------------------------------------------------------------------------------------------


def run_backtrader(add: Any) -> list[list[tuple[dt.datetime, int, tuple[float, ...]]]]:
    """Run a strategy over the feeds that `add(cerebro)` adds; return what it sees of each, bar after bar: the time, how
    many bars of the first feed there were, and the values."""
    backtrader = pytest.importorskip("backtrader")
    seen: list[list[tuple[dt.datetime, int, tuple[float, ...]]]] = []

    class Look(backtrader.Strategy):  # type: ignore[misc, name-defined, unused-ignore]
        def prenext(self) -> None:
            self.next()

        def next(self) -> None:
            for at, data in enumerate(self.datas):
                seen.extend([] for _ in range(at + 1 - len(seen)))
                if len(data) > len(seen[at]):
                    values = tuple(getattr(data, name)[0] for name in COLUMNS)
                    seen[at].append((data.datetime.datetime(0), len(self.data0), values))

    cerebro = backtrader.Cerebro()
    add(cerebro)
    cerebro.addstrategy(Look)
    cerebro.run()
    return seen


@pytest.mark.parametrize(
    ("unit", "count", "timeframe", "rule"),
    [("Minutes", 5, "5m", "5min"), ("Minutes", 60, "1h", "1h"), ("Days", 1, "1d", "1D")],
)
def test_backtrader_makes_coarser_candles_as_we_do(unit: str, count: int, timeframe: str, rule: str) -> None:
    backtrader = pytest.importorskip("backtrader")
    frame = candles(2 * 1440, "1m")

    def add(cerebro: Any) -> None:
        feed = adapters.to_backtrader(frame)
        cerebro.adddata(feed)
        cerebro.resampledata(feed, timeframe=getattr(backtrader.TimeFrame, unit), compression=count)

    fine, coarse = run_backtrader(add)
    assert [values for *_, values in fine] == list(frame[COLUMNS].itertuples(index=False, name=None))
    ours = coarser(frame, timeframe, rule)
    assert len(coarse) == len(ours)
    np.testing.assert_allclose([values for *_, values in coarse], ours[COLUMNS].to_numpy(), rtol=1e-12)
    # Known when the last minute of it is there, and not before.
    minutes = len(frame) // len(ours)
    assert [known for _, known, _ in coarse][:-1] == [minutes * number for number in range(1, len(ours))] or [
        known for _, known, _ in coarse
    ][:-1] == [minutes * number + 1 for number in range(1, len(ours))]


def test_backtrader_knows_a_day_when_it_is_over_and_not_in_its_first_hour() -> None:
    backtrader = pytest.importorskip("backtrader")
    hours = candles(72, "1h")
    days = coarser(hours, "1d", "1D")

    def add(cerebro: Any) -> None:
        cerebro.adddata(adapters.to_backtrader(hours))
        cerebro.adddata(adapters.to_backtrader(days))

    _, seen = run_backtrader(add)
    assert [known for _, known, _ in seen] == [24, 48, 72]
    assert [time.date().isoformat() for time, *_ in seen] == ["2024-01-01", "2024-01-02", "2024-01-03"]

    def add_openings(cerebro: Any) -> None:  # what the frame as it is would do
        for frame in (hours, days):
            cerebro.adddata(backtrader.feeds.PandasData(dataname=frame.tz_localize(None)))

    _, ahead = run_backtrader(add_openings)
    assert [known for _, known, _ in ahead] == [1, 25, 49]


def test_a_feed_of_backtrader_has_timeframe_name_and_the_line_of_invented_rows() -> None:
    backtrader = pytest.importorskip("backtrader")
    for timeframe, unit, count in (
        ("30s", "Seconds", 30),
        ("5m", "Minutes", 5),
        ("4h", "Minutes", 240),
        ("1d", "Days", 1),
        ("1w", "Weeks", 1),
        ("1M", "Months", 1),
    ):
        feed = adapters.to_backtrader(candles(5, timeframe))
        assert (feed._timeframe, feed._compression) == (getattr(backtrader.TimeFrame, unit), count)
        assert feed._name == "BTC/USDT"
        assert feed.p.dataname.attrs["candle_fetcher"]["timeframe"] == timeframe
    feed = adapters.to_backtrader(with_invented(candles(10), 3))
    cerebro = backtrader.Cerebro()
    cerebro.adddata(feed)
    cerebro.addstrategy(backtrader.Strategy)
    cerebro.run()
    assert feed.lines.is_synthetic.array.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    days = adapters.to_backtrader(stocks(), zone="America/New_York").p.dataname.index
    assert days.normalize().tolist() == pd.bdate_range("2024-03-01", periods=20).tolist()
    with pytest.raises(InputError, match="give timeframe="):
        adapters.to_backtrader(pd.DataFrame(candles(5).to_dict("series")))


# -- freqtrade ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "timeframe", "pair", "kind"),
    [
        ({}, "1h", "BTC/USDT", "spot"),
        ({}, "1M", "BTC/USDT", "spot"),
        ({"symbol": "1000SATS/USDT"}, "5m", "1000SATS/USDT", "spot"),
        ({"symbol": "币安人生/USDT"}, "1h", "币安人生/USDT", "spot"),
        ({"provider": "binance-um"}, "1h", "BTC/USDT:USDT", "futures"),
        ({"provider": "binance-cm", "symbol": "ETH/USD"}, "1h", "ETH/USD:ETH", "futures"),
        ({"provider": "binance-um", "kind": "mark"}, "8h", "BTC/USDT:USDT", "mark"),
        ({"provider": "binance-um", "kind": "premium"}, "1h", "BTC/USDT:USDT", "premiumIndex"),
    ],
)
def test_freqtrade_lists_and_loads_what_was_written(
    tmp_path: Path, facts: dict[str, Any], timeframe: str, pair: str, kind: str
) -> None:
    pytest.importorskip("freqtrade")
    from freqtrade.data.history import load_pair_history
    from freqtrade.data.history.datahandlers.featherdatahandler import FeatherDataHandler
    from freqtrade.enums import CandleType, TradingMode

    frame = candles(48, timeframe, **facts)
    path = adapters.write_freqtrade(frame, tmp_path)
    of_kind = CandleType.from_string("" if kind == "spot" else kind)
    mode = TradingMode.SPOT if kind == "spot" else TradingMode.FUTURES
    assert FeatherDataHandler.ohlcv_get_available_data(tmp_path, mode) == [(pair, timeframe, of_kind)]
    loaded = load_pair_history(
        pair, timeframe, tmp_path, data_format="feather", candle_type=of_kind, fill_up_missing=False,
        drop_incomplete=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(loaded, adapters.to_freqtrade(frame), check_exact=True)
    own = FeatherDataHandler(tmp_path / "own")
    (tmp_path / "own/futures").mkdir(parents=True)
    own.ohlcv_store(pair, timeframe, adapters.to_freqtrade(frame), of_kind)
    (stored,) = (tmp_path / "own").rglob("*.feather")
    assert stored.relative_to(tmp_path / "own") == path.relative_to(tmp_path)
    pd.testing.assert_frame_equal(pd.read_feather(stored), pd.read_feather(path), check_exact=True)


def test_freqtrade_fills_a_gap_itself(tmp_path: Path) -> None:
    pytest.importorskip("freqtrade")
    from freqtrade.data.history import load_pair_history

    adapters.write_freqtrade(with_gap(candles(48), 5, 7), tmp_path)
    loaded = load_pair_history("BTC/USDT", "1h", tmp_path, data_format="feather", drop_incomplete=False)
    assert len(loaded) == 48
    assert loaded["volume"].iloc[5:7].tolist() == [0, 0]


# -- nautilus ----------------------------------------------------------------------------------------------------------


def values_of(bar: Any) -> list[float]:
    """Return the values of a bar by their digits: float() of nautilus' fixed numbers may be off by the last bit."""
    return [float(str(getattr(bar, name))) for name in COLUMNS]


def test_nautilus_hands_each_bar_to_a_strategy_at_its_close() -> None:
    pytest.importorskip("nautilus_trader")
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig
    from nautilus_trader.model.currencies import USDT
    from nautilus_trader.model.enums import AccountType, OmsType
    from nautilus_trader.model.identifiers import Venue
    from nautilus_trader.model.objects import Money
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.trading.strategy import Strategy

    instrument = TestInstrumentProvider.btcusdt_binance()
    frame = candles(48, "1h")
    bars = adapters.to_nautilus(frame, instrument)
    seen: list[tuple[int, list[float]]] = []

    class Look(Strategy):  # type: ignore[misc, unused-ignore]
        def on_start(self) -> None:
            self.subscribe_bars(bars[0].bar_type)

        def on_bar(self, bar: Any) -> None:
            seen.append((self.clock.timestamp_ns(), values_of(bar)))

    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.CASH, starting_balances=[Money(1_000_000, USDT)])
    engine.add_instrument(instrument)
    engine.add_data(bars)
    engine.add_strategy(Look())
    engine.run()
    engine.dispose()
    assert [at for at, _ in seen] == (frame.index + pd.Timedelta("1h")).as_unit("ns").asi8.tolist()
    assert [values for _, values in seen] == frame[COLUMNS].to_numpy().tolist()


@pytest.mark.parametrize(
    ("facts", "timeframe", "name"),
    [
        ({}, "1h", "BTCUSDT.BINANCE-1-HOUR-LAST-EXTERNAL"),
        ({"provider": "binance-um"}, "5m", "BTCUSDT-PERP.BINANCE-5-MINUTE-LAST-EXTERNAL"),
        ({"provider": "binance-um", "kind": "mark"}, "8h", "BTCUSDT-PERP.BINANCE-8-HOUR-MARK-EXTERNAL"),
        ({"provider": "binance-cm", "symbol": "BTC/USD"}, "1d", "BTCUSD-PERP.BINANCE-1-DAY-LAST-EXTERNAL"),
        ({"provider": "kraken", "symbol": "BTC/USD"}, "1w", "BTC/USD.KRAKEN-1-WEEK-LAST-EXTERNAL"),
        ({"provider": "alpaca", "symbol": "BRK.B"}, "1M", "BRK.B.ALPACA-1-MONTH-LAST-EXTERNAL"),
        ({}, "1s", "BTCUSDT.BINANCE-1-SECOND-LAST-EXTERNAL"),
    ],
)
def test_bars_of_nautilus_name_their_series_and_close_by_the_calendar(
    facts: dict[str, Any], timeframe: str, name: str
) -> None:
    pytest.importorskip("nautilus_trader")
    frame = candles(5, timeframe, **facts)
    bars = adapters.to_nautilus(frame)
    assert {str(bar.bar_type) for bar in bars} == {name}
    assert [bar.ts_event for bar in bars[:-1]] == frame.index[1:].as_unit("ns").asi8.tolist()
    assert [bar.ts_init for bar in bars] == [bar.ts_event for bar in bars]


def test_nautilus_never_gets_a_value_that_it_would_round() -> None:
    pytest.importorskip("nautilus_trader")
    from nautilus_trader.test_kit.providers import TestInstrumentProvider

    frame = candles(5)
    frame.iloc[2] = [1e-8, 0.1, 1e-8, 0.30000001, 123456.12345678]
    bars = adapters.to_nautilus(frame)
    assert str(bars[2].open) == "0.00000001"
    assert {bar.close.precision for bar in bars} == {8}
    assert [values_of(bar) for bar in bars] == frame.to_numpy().tolist()
    with pytest.raises(InputError, match="have up to 8 decimals, and the price_precision of the instrument is 2"):
        adapters.to_nautilus(frame, TestInstrumentProvider.btcusdt_binance())
    with pytest.raises(InputError, match="size_precision"):
        adapters.to_nautilus(candles(5).assign(volume=0.12345678), TestInstrumentProvider.btcusdt_binance())
    assert adapters.to_nautilus(candles(5), "ABC.XYZ")[0].bar_type.instrument_id.value == "ABC.XYZ"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (candles(5, "10h"), "takes no bars BTCUSDT.BINANCE-10-HOUR"),
        (candles(5, kind="index", provider="binance-um"), "index prices, at which nothing was traded"),
        (candles(5).assign(volume=np.nan), "have no volume"),
        (candles(5).assign(volume=-1.0), "takes no bars"),
        (candles(5).assign(volume=1e30), "takes no bars"),
    ],
)
def test_nautilus_refuses_what_it_does_not_have(frame: pd.DataFrame, said: str) -> None:
    pytest.importorskip("nautilus_trader")
    with pytest.raises(InputError, match=said):
        adapters.to_nautilus(frame)


# -- forecasts ---------------------------------------------------------------------------------------------------------


def test_prophet_forecasts_the_days_after_the_last_candle() -> None:
    prophet = pytest.importorskip("prophet")
    frame = with_invented(with_gap(candles(60, "1d"), 20, 25), 3)
    model = prophet.Prophet().fit(adapters.to_prophet(frame))
    forecast = model.predict(model.make_future_dataframe(3))
    assert forecast["ds"].tolist()[-4:] == pd.date_range("2024-02-29", periods=4).tolist()
    assert len(forecast) == 58


def test_statsforecast_forecasts_each_series() -> None:
    statsforecast = pytest.importorskip("statsforecast")
    models = importlib.import_module("statsforecast.models")
    frames = {"BTC/USDT": candles(30, "1d"), "ETH/USDT": candles(30, "1d", price=2_000.0)}
    table = adapters.to_statsforecast(frames)
    made = statsforecast.StatsForecast([models.Naive()], freq="D").forecast(df=table, h=2)
    assert made["unique_id"].tolist() == ["BTC/USDT"] * 2 + ["ETH/USDT"] * 2
    assert made["ds"].tolist() == [pd.Timestamp("2024-01-31"), pd.Timestamp("2024-02-01")] * 2
    lasts = [frame["close"].iloc[-1] for frame in frames.values() for _ in range(2)]
    np.testing.assert_allclose(made["Naive"], lasts, rtol=1e-6)


# -- zipline -----------------------------------------------------------------------------------------------------------


def test_zipline_ingests_days_of_stocks_and_minutes_of_coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zipline")
    monkeypatch.setenv("ZIPLINE_ROOT", str(tmp_path / "root"))
    from zipline.data import bundles
    from zipline.data.bundles.csvdir import csvdir_equities

    days = stocks("BRK.B", 20)
    minutes = whole_numbers(candles(2 * 1440, "1m", price=420.0))
    adapters.to_zipline(days, tmp_path / "stocks")
    adapters.to_zipline(minutes, tmp_path / "coins")
    sessions = ("XNYS", "2024-03-01", "2024-03-28")
    made = _ingest(bundles, csvdir_equities(["daily"], str(tmp_path / "stocks")), *sessions)
    asset = made.asset_finder.lookup_symbol("BRK_B", as_of_date=None)
    dates = pd.bdate_range(*sessions[1:])
    for name in COLUMNS:
        got = [made.equity_daily_bar_reader.get_value(asset.sid, day, name) for day in dates]
        np.testing.assert_allclose(got, days[name], atol=5e-4)
    made = _ingest(bundles, csvdir_equities(["minute"], str(tmp_path / "coins")), "24/7", "2024-01-01", "2024-01-02")
    asset = made.asset_finder.lookup_symbol("BTC_USDT", as_of_date=None)
    for at in (0, 1, 1439, 1440, 2000):
        end = (minutes.index[at] + pd.Timedelta("1min")).tz_localize(None)
        got = made.equity_minute_bar_reader.get_value(asset.sid, end, "close")
        assert got == pytest.approx(minutes["close"].iloc[at], abs=5e-4)
    with pytest.warns(CandleFetcherWarning, match="2 candles between its rows do not exist"):
        adapters.to_zipline(with_gap(days, 5, 7), tmp_path / "fewer")
    with pytest.raises(AssertionError, match="Missing sessions"):  # zipline takes no part of them
        _ingest(bundles, csvdir_equities(["daily"], str(tmp_path / "fewer")), *sessions)
    del made
    gc.collect()  # zipline leaves databases open, and warns of it here


def _ingest(bundles: Any, ingest: Any, calendar: str, first: str, last: str) -> Any:
    name = f"{calendar} {first} {last}"
    bundles.register(
        name,
        ingest,
        calendar_name=calendar,
        start_session=pd.Timestamp(first),
        end_session=pd.Timestamp(last),
        minutes_per_day=1440 if calendar == "24/7" else 390,
    )
    bundles.ingest(name, show_progress=False)
    return bundles.load(name)


# -- the frame as it is ------------------------------------------------------------------------------------------------


def test_mplfinance_draws_the_frame_as_it_is(tmp_path: Path) -> None:
    mplfinance = pytest.importorskip("mplfinance")
    importlib.import_module("matplotlib").use("Agg")
    mplfinance.plot(candles(60, "1d"), type="candle", volume=True, savefig=str(tmp_path / "btc.png"))
    assert (tmp_path / "btc.png").read_bytes().startswith(b"\x89PNG")


def test_ta_lib_takes_columns_and_the_frame_as_it_is() -> None:
    talib = pytest.importorskip("talib")
    frame = candles(60)
    average = talib.SMA(frame["close"], 5)
    assert average.index.equals(frame.index)
    np.testing.assert_allclose(average.iloc[4:], frame["close"].rolling(5).mean().iloc[4:])
    span = importlib.import_module("talib.abstract").TRANGE(frame)
    assert span.iloc[5] == pytest.approx(
        max(frame["high"].iloc[5], frame["close"].iloc[4]) - min(frame["low"].iloc[5], frame["close"].iloc[4])
    )


def test_vectorbt_takes_a_column_as_it_is() -> None:
    vectorbt = pytest.importorskip("vectorbt")
    close = candles(60, "1d")["close"]
    fast, slow = close.rolling(3).mean(), close.rolling(10).mean()
    portfolio = vectorbt.Portfolio.from_signals(close, entries=fast > slow, exits=fast < slow)
    assert portfolio.wrapper.index.equals(close.index)
    assert portfolio.orders.count() > 0
    assert (portfolio.orders.records["price"] == close.to_numpy()[portfolio.orders.records["idx"]]).all()


def test_statsmodels_takes_a_column_as_it_is() -> None:
    tsa = pytest.importorskip("statsmodels.tsa.api")
    frame = candles(60, "1d")
    forecast = tsa.ARIMA(frame["close"], order=(1, 1, 0)).fit().forecast(1)
    assert forecast.index[0] == pd.Timestamp("2024-03-01", tz="UTC")


def test_plotly_takes_the_frame_as_it_is() -> None:
    objects = pytest.importorskip("plotly.graph_objects")
    frame = candles(5)
    prices = {name: frame[name] for name in COLUMNS[:4]}
    drawn = objects.Figure(objects.Candlestick(x=frame.index, **prices)).data[0]
    assert pd.DatetimeIndex(drawn.x).tz_localize(None).tolist() == frame.index.tz_localize(None).tolist()


def test_polars_and_duckdb_leave_out_the_times_of_a_pandas_frame_unless_they_are_a_column() -> None:
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    frame = candles(5)
    assert polars.from_pandas(frame).columns == COLUMNS
    assert polars.from_pandas(frame.reset_index())["timestamp"].to_list() == frame.index.tolist()
    lost = duckdb.sql("SELECT * FROM frame").columns
    rows = frame.reset_index()
    kept = duckdb.sql("SELECT * FROM rows").columns
    assert (lost, kept, len(rows)) == (COLUMNS, ["timestamp", *COLUMNS], 5)


def test_arcticdb_keeps_the_manifest_as_metadata(tmp_path: Path) -> None:
    arcticdb = pytest.importorskip("arcticdb")
    frame = candles(48)
    library = arcticdb.Arctic(f"lmdb://{tmp_path}").get_library("candles", create_if_missing=True)
    library.write("BTC/USDT 1h", frame, metadata=dict(frame.attrs["candle_fetcher"]))
    read = library.read("BTC/USDT 1h")
    pd.testing.assert_frame_equal(read.data, frame, check_exact=True, check_freq=False)
    assert json.loads(json.dumps(read.metadata)) == frame.attrs["candle_fetcher"]


# -- what is written of them -------------------------------------------------------------------------------------------


def test_the_pages_print_what_they_say_where_the_tools_are_installed(tmp_path: Path) -> None:
    pytest.importorskip("backtesting")
    blocks = [block for name in ("adapters", "recipes") for block in find_blocks(DOCS / f"{name}.md")]
    blocks = [block for block in blocks if not missing(block) and "slow" not in block.marks]
    assert {"prophet", "nautilus_trader", "vectorbt"} <= {name for block in blocks for name in needs(block)}
    wrong = find_wrong(blocks, tmp_path, "ignore")
    assert not wrong, "\n\n".join(wrong)
