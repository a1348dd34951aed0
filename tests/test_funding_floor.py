"""Funding times on the grid of candles: no record is lost, and none moves by more than its milliseconds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from candle_fetcher import CandleFetcherWarning, InputError, combine, manifest_of
from candle_fetcher.core.frame import Manifest, index_ms, utc_index
from candle_fetcher.core.funding import floor_times
from candle_fetcher.core.timeframe import parse_timeframe


def rates_at(times: list[int], start: str = "2024-01-01") -> pd.DataFrame:
    made = pd.DataFrame({"funding_rate": [0.0001] * len(times)}, index=utc_index(np.array(times), "timestamp"))
    made.attrs = {"candle_fetcher": Manifest(symbol="BTC/USDT", kind="funding", start=start, end="2024-02-01")}
    return made


HOUR, DAY_1 = 3_600_000, 1_704_067_200_000


def test_funding_times_are_moved_to_the_grid_and_join_with_prices(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher(provider="binance-um")
        span = ("BTC/USDT", "2024-01-01", "2024-01-08")
        sent, floored = fetcher.fetch_funding(*span), fetcher.fetch_funding(*span, floor="1h")
        prices = fetcher.fetch(span[0], "1h", *span[1:])
    assert (sent.index != floored.index).any()
    assert (floored.index == sent.index.floor("1h")).all()
    assert (floored.index.name, str(floored.index.dtype)) == ("timestamp", "datetime64[ns, UTC]")
    pd.testing.assert_frame_equal(floored.reset_index(drop=True), sent.reset_index(drop=True), check_exact=True)
    late_ms = (sent.index - floored.index) // pd.Timedelta("1ms")
    assert floored.attrs["candle_fetcher"]["floored"] == {
        "to": "1h",
        "moved": int((late_ms > 0).sum()),
        "most_ms": int(late_ms.max()),
        "kept": [],
    }
    both = combine({"price": prices, "funding": floored})
    assert len(both) == len(prices)
    assert both["funding", "funding_rate"].dropna().tolist() == sent["funding_rate"].tolist()
    assert "floored" not in sent.attrs["candle_fetcher"]
    assert manifest_of(floored) == floored.attrs["candle_fetcher"]


def test_records_that_would_share_a_time_or_are_late_keep_their_own() -> None:
    times = [DAY_1 + 5, DAY_1 + 8 * HOUR + 3, DAY_1 + 8 * HOUR + 900, DAY_1 + 12 * HOUR + 61_000, DAY_1 + 16 * HOUR]
    frame = rates_at(times)
    with pytest.warns(CandleFetcherWarning, match=r"3 funding times of BTC/USDT \(from 2024-01-01T08:00:00.003Z on\)"):
        floor_times(frame, parse_timeframe("1h"))
    assert index_ms(frame).tolist() == [DAY_1, *times[1:]]
    floored = frame.attrs["candle_fetcher"]["floored"]
    assert (floored["moved"], floored["most_ms"]) == (1, 5)
    assert floored["kept"] == ["2024-01-01T08:00:00.003Z", "2024-01-01T08:00:00.900Z", "2024-01-01T12:01:01Z"]
    # To a grid that is too coarse for them nothing moves by hours.
    frame = rates_at([DAY_1 + 2, DAY_1 + 4 * HOUR + 1, DAY_1 + 8 * HOUR + 1])
    with pytest.warns(CandleFetcherWarning, match="a funding time"):
        floor_times(frame, parse_timeframe("8h"))
    assert index_ms(frame).tolist() == [DAY_1, DAY_1 + 4 * HOUR + 1, DAY_1 + 8 * HOUR]
    # And none out of the range that was asked for.
    frame = rates_at([DAY_1 + 2], "2024-01-01T00:00:00.001")
    with pytest.warns(CandleFetcherWarning):
        floor_times(frame, parse_timeframe("1h"))
    assert index_ms(frame).tolist() == [DAY_1 + 2]
    floor_times(empty := rates_at([]), parse_timeframe("1h"))
    assert empty.attrs["candle_fetcher"]["floored"] == {"to": "1h", "moved": 0, "most_ms": 0, "kept": []}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 70_000)), unique=True, max_size=30))
def test_no_record_is_lost_or_overtakes_another(pairs: list[tuple[int, int]]) -> None:
    times = sorted({DAY_1 + hour * HOUR + late for hour, late in pairs})
    frame = rates_at(times).assign(funding_rate=np.arange(len(times), dtype=float))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        floor_times(frame, parse_timeframe("1h"))
    made = index_ms(frame)
    assert (np.diff(made) > 0).all()
    assert frame["funding_rate"].tolist() == list(range(len(times)))
    assert ((np.array(times) - made >= 0) & (np.array(times) - made < 60_000)).all()


@pytest.mark.parametrize("floor", ["5x", 5, "", [], True])
def test_a_floor_that_is_no_timeframe_is_refused(tmp_path: Path, floor: Any) -> None:
    with World(tmp_path) as world, pytest.raises(InputError, match="unknown timeframe"):
        world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2024-01-01", "2024-01-02", floor=floor)
