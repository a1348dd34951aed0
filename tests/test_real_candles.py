"""Real candles served over HTTP come back row for row as they lie in their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import World

from candle_fetcher.core.frame import index_ms

NAMES = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
         "taker_buy_volume", "taker_buy_quote_volume")  # fmt: skip


def fetched_like(world: World, provider: str, symbol: str, timeframe: str, rows: list[list[Any]]) -> Any:
    """The frame of a fetch over the span of the rows, compared with them bit for bit."""
    world.exchange.load(provider, symbol, timeframe, rows)
    first, last = int(rows[0][0]), int(rows[-1][0])
    fetcher = world.fetcher(provider=provider)
    frame = fetcher.fetch(symbol, timeframe, first, last + 1, columns="all")
    assert index_ms(frame).tolist() == [int(row[0]) for row in rows]
    for at, name in enumerate(NAMES[1:], 1):
        expected = np.array([float(row[at]) for row in rows])
        if name == "close_time":
            assert (frame[name].astype("datetime64[ms, UTC]").astype("int64") == expected.astype(np.int64)).all()
        else:
            assert np.array_equal(frame[name].to_numpy(dtype=np.float64), expected), name
    warm = world.fetcher(provider=provider).fetch(symbol, timeframe, first, last + 1, columns="all")
    assert warm.equals(frame)
    assert warm.attrs["candle_fetcher"]["fingerprint"] == frame.attrs["candle_fetcher"]["fingerprint"]
    return frame


@pytest.mark.slow(keep=("3d",))
@pytest.mark.parametrize("timeframe", ["15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"])
def test_the_rest_rows_of_years_come_back_row_for_row(shared: Path, tmp_path: Path, timeframe: str) -> None:
    files = sorted((shared / "market_data/binance_rest/spot/klines/BTCUSDT" / timeframe).glob("*.json"))
    if not files:
        pytest.skip(f"no {timeframe} rows among the real candles")
    with World(tmp_path, now="2026-06-15T12:00:30") as world:
        rows = [row for file in files for row in json.loads(file.read_text())]
        frame = fetched_like(world, "binance", "BTCUSDT", timeframe, rows)
        holes = frame.attrs["candle_fetcher"]["expected"] - len(rows)
        assert holes >= 0
        assert all(gap["cause"] in ("no_candle", "not_listed") for gap in frame.attrs["candle_fetcher"]["gaps"])


@pytest.mark.fault("A11", "B09")
@pytest.mark.slow
@pytest.mark.parametrize("cap", [None, 1, 7, 100, 639, 640])
def test_the_month_that_left_the_grid_comes_back_as_it_is(shared: Path, tmp_path: Path, cap: int | None) -> None:
    file = shared / "market_data/vision_csv/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2018-02.csv"
    with file.open() as lines:
        rows: list[list[Any]] = [
            [int(field) if at in (0, 6, 8) else field for at, field in enumerate(row)] for row in csv.reader(lines)
        ]
    assert sum(row[0] % 3_600_000 != 0 for row in rows) == 43
    with World(tmp_path, page_cap=cap, weight_limit=10**6) as world:
        frame = fetched_like(world, "binance", "BTCUSDT", "1h", rows)
        gaps = [gap for gap in frame.attrs["candle_fetcher"]["gaps"] if gap["cause"] == "no_candle"]
        assert [(gap["first"], gap["last"], gap["count"]) for gap in gaps] == [
            ("2018-02-08T01:00:00Z", "2018-02-09T08:00:00Z", 32)
        ]


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("name", ["klines_btcusdt_12h_2018_outages", "klines_adausdt_3d_anchor_listing_day",
                                  "klines_btcusdt_2h_sep2017_zero_volume_close", "klines_ethusdt_1w_first_partial_week",
                                  "klines_bnbusdt_1M_calendar_months"])  # fmt: skip
def test_recorded_replies_come_back_row_for_row(shared: Path, tmp_path: Path, name: str) -> None:
    rows = json.loads((shared / f"recorded/binance_spot/{name}.json").read_text())
    _, symbol, timeframe, *_ = name.split("_")
    with World(tmp_path, now="2026-11-15T12:00:30") as world:
        fetched_like(world, "binance", symbol.upper(), timeframe, rows)
