"""Invented candles are marked, are where nothing was, and change nothing that was sent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import COLUMNS, OHLCV, candles_from
from candle_fetcher.core.fill import fill_gaps
from candle_fetcher.core.frame import MANIFEST, to_frame
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
NAMES = COLUMNS[:11]
PRICES = OHLCV[:4]
COUNTS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


def frame_at(opens, columns="ohlcv", names=NAMES):
    low, *inside, high = np.sort(np.random.default_rng(len(opens)).integers(1, 800, (4, len(opens))), axis=0) / 8
    values = {"open_time": opens, "open": inside[0], "close": inside[1], "high": high, "low": low}
    parts = [np.asarray(values.get(name, np.arange(len(opens)) + 5)) for name in names]
    return to_frame(candles_from(names, parts), columns)


def opens_of(frame):
    return (frame.index.asi8 // 1_000_000).tolist()


@pytest.mark.slow
@examples()
@given(
    name=st.sampled_from(["1h", "1d", "1M", "7m"]),
    slots=st.sets(st.integers(0, 20)),
    columns=st.sampled_from(["ohlcv", "all"]),
    how=st.sampled_from(["ffill", "interpolate"]),
    late=st.sampled_from([0, 14_789]),
    more=st.integers(0, 3),
)
def test_every_slot_has_a_row_and_every_invented_one_is_marked(name, slots, columns, how, late, more):
    grid = parse_timeframe(name)
    slots = sorted(slots)
    frame = frame_at([grid.open_ms(slot) + late for slot in slots], columns)
    stop = slots[-1] + 1 + more if slots else 3
    filled = fill_gaps(frame, grid, Span(grid.open_ms(-2), grid.open_ms(stop)), how)

    assert list(filled) == [*frame, "is_synthetic"]
    assert filled["is_synthetic"].dtype == bool
    assert filled.dtypes[: len(frame.columns)].to_dict() == frame.dtypes.to_dict()
    assert (filled.index.dtype, filled.index.name, filled.index.freq) == (frame.index.dtype, "timestamp", None)
    real, invented = filled[~filled["is_synthetic"]], filled[filled["is_synthetic"]]
    pd.testing.assert_frame_equal(real.drop(columns="is_synthetic"), frame, check_exact=True)
    missing = [slot for slot in range(slots[0], stop) if slot not in slots] if slots else []
    assert opens_of(invented) == [grid.open_ms(slot) for slot in missing]
    assert filled.index.is_monotonic_increasing
    for column in set(COUNTS) & set(frame):
        assert (invented[column] == 0).all()
    assert (invented["high"] >= invented[["open", "close", "low"]].max(axis=1)).all()
    assert (invented["low"] <= invented[["open", "close"]].min(axis=1)).all()


@examples()
@given(slots=st.sets(st.integers(0, 20), min_size=1))
def test_a_forward_filled_row_stands_at_the_close_before_it(slots):
    frame = frame_at([slot * HOUR for slot in sorted(slots)])
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 22 * HOUR), "ffill")
    close = None
    for row in filled.itertuples():
        if row.is_synthetic:
            assert {row.open, row.high, row.low, row.close} == {close}
        close = row.close


@pytest.mark.slow
@examples()
@given(slots=st.sets(st.integers(0, 20), min_size=1))
def test_an_interpolated_price_lies_on_the_line_between_its_neighbours(slots):
    slots = sorted(slots)
    frame = frame_at([slot * HOUR for slot in slots])
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 22 * HOUR), "interpolate")
    for name in PRICES:
        line = np.interp(range(slots[0], 22), slots, frame[name])
        line[slots[-1] - slots[0] + 1 :] = frame["close"].iloc[-1]
        np.testing.assert_allclose(filled[name].to_numpy(), line, rtol=1e-12)


@pytest.mark.parametrize("how", ["ffill", "interpolate"])
def test_what_a_provider_lacks_stays_missing_in_invented_rows(how):
    frame = frame_at([0, 3 * HOUR], "all", NAMES[:6])
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 5 * HOUR), how)
    assert filled[["quote_volume", "trades", "close_time"]].isna().all().all()
    assert filled["trades"].dtype == "Int64"
    assert filled["volume"].tolist() == [5, 0, 0, 6, 0]


@pytest.mark.parametrize("how", ["ffill", "interpolate"])
def test_an_invented_row_before_the_forming_candle_counts_as_closed(how):
    frame = frame_at([0, 3 * HOUR])
    frame["is_closed"] = [True, False]
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 4 * HOUR), how)
    assert filled["is_closed"].dtype == bool
    assert filled["is_closed"].tolist() == [True, True, True, False]


@pytest.mark.parametrize("how", ["ffill", "interpolate"])
def test_the_frame_that_was_handed_in_stays_as_it_is(how):
    frame = frame_at([0, 3 * HOUR])
    frame.attrs[MANIFEST] = {"rows": 2}
    before = frame.copy()
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 5 * HOUR), how)
    pd.testing.assert_frame_equal(frame, before, check_exact=True)
    assert filled.attrs[MANIFEST] == {"rows": 2}


def test_a_frame_without_gaps_is_only_marked():
    frame = frame_at([0, HOUR])
    filled = fill_gaps(frame, parse_timeframe("1h"), Span(0, 2 * HOUR), "ffill")
    pd.testing.assert_frame_equal(filled.drop(columns="is_synthetic"), frame, check_exact=True)
    assert not filled["is_synthetic"].any()
