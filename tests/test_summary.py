"""A frame in a few figures, ready for JSON."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from candle_fetcher import InputError, summary
from candle_fetcher.core.candles import OHLCV, candles_from, no_candles
from candle_fetcher.core.frame import MANIFEST, Manifest, to_frame

HOUR = 3_600_000
NAMES = ("open_time", *OHLCV)


def frame_at(opens, columns="ohlcv"):
    row = np.arange(len(opens), dtype=float)
    return to_frame(candles_from(NAMES, [np.array(opens), 10 + row, 20 + row, 1 + row, 15 + row, row]), columns)


def test_a_frame_is_summed_up_as_the_contract_says():
    told = summary(frame_at([0, HOUR, 4 * HOUR]), "BTC/USDT", "1h")
    assert told == {
        "symbol": "BTC/USDT",
        "timeframe": "1h",
        "candles": {
            "count": 3,
            "start_time": "1970-01-01T00:00:00Z",
            "end_time": "1970-01-01T04:00:00Z",
            "gaps": [{"first": "1970-01-01T02:00:00Z", "last": "1970-01-01T03:00:00Z", "count": 2, "cause": None}],
            "gap_count": 1,
            "statistics": {"highest_price": 22.0, "lowest_price": 1.0, "total_volume": 3.0, "avg_price": 16.0},
        },
    }
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_symbol_and_timeframe_come_from_the_manifest_unless_given():
    frame = frame_at([0, 2 * HOUR])
    frame.attrs[MANIFEST] = Manifest(symbol="ETH/USDT", timeframe="1h").add_fingerprint(pytest.fail)
    told = summary(frame)
    assert (told["symbol"], told["timeframe"], told["candles"]["gap_count"]) == ("ETH/USDT", "1h", 1)
    told = summary(frame, "X/Y", "2h")
    assert (told["symbol"], told["timeframe"], told["candles"]["gap_count"]) == ("X/Y", "2h", 0)


def test_without_a_timeframe_no_gaps_are_claimed():
    told = summary(frame_at([0, 2 * HOUR]))
    assert (told["symbol"], told["timeframe"], told["candles"]["gaps"]) == (None, None, None)


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_an_empty_frame_has_no_figures_and_is_json_all_the_same(columns):
    told = summary(to_frame(no_candles(NAMES), columns), "BTC/USDT", "1h")["candles"]
    assert told["count"] == told["gap_count"] == 0
    assert told["start_time"] is told["end_time"] is None
    assert set(told["statistics"].values()) == {None}
    json.dumps(told, allow_nan=False)


def test_figures_that_are_not_there_are_null_in_json():
    frame = frame_at([0, HOUR])
    frame["volume"] = np.nan
    frame["close"] = pd.array([pd.NA, pd.NA], dtype="Float64")
    statistics = summary(frame, timeframe="1h")["candles"]["statistics"]
    assert statistics == {"highest_price": 21.0, "lowest_price": 1.0, "total_volume": None, "avg_price": None}
    json.dumps(statistics, allow_nan=False)


def test_a_frame_of_anything_else_is_an_input_error():
    with pytest.raises(InputError, match="lacks the columns low, volume"):
        summary(frame_at([0])[["open", "high", "close"]])
    with pytest.raises(InputError, match="DatetimeIndex"):
        summary(frame_at([0]).reset_index())
    with pytest.raises(InputError, match="unknown timeframe"):
        summary(frame_at([0]), timeframe="hourly")


def test_rows_in_another_order_are_summed_up_the_same():
    frame = frame_at([0, HOUR, 4 * HOUR])
    assert summary(frame[::-1], timeframe="1h") == summary(frame, timeframe="1h")


@pytest.mark.fault("H09")
@pytest.mark.parametrize(
    ("column", "figure"),
    [("high", "highest_price"), ("low", "lowest_price"), ("volume", "total_volume"), ("close", "avg_price")],
)
def test_a_figure_over_a_value_that_is_not_known_is_not_known(column, figure):
    frame = frame_at([0, HOUR, 4 * HOUR])
    frame.iloc[1, frame.columns.get_loc(column)] = np.nan
    told = summary(frame, timeframe="1h")["candles"]
    assert told["count"] == 3
    assert [name for name, value in told["statistics"].items() if value is None] == [figure]


def test_a_row_without_any_value_is_no_candle():
    frame = frame_at([0, HOUR, 4 * HOUR])
    hours = pd.date_range(frame.index[0], frame.index[-1], freq="h")
    spread = frame.reindex(hours.rename("timestamp"))
    assert summary(spread, timeframe="1h") == summary(frame, timeframe="1h")
