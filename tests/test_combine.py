"""Frames side by side: nothing is invented, nothing is moved, and types stay."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from world import World

from candle_fetcher import CandleFetcher, InputError, combine
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.frames import combining as module

DAYS = ("2024-03-01", "2024-03-03")


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CandleFetcher]:
    with World(tmp_path_factory.mktemp("combine")) as world:
        yield world.fetcher()


def frame(times: list[int], value: float = 1.0, **manifest: Any) -> pd.DataFrame:
    """A frame of those hours."""
    index = pd.to_datetime(np.array(times, np.int64) * 3_600_000_000_000, unit="ns", utc=True).rename("timestamp")
    made = pd.DataFrame(
        {"close": np.full(len(times), value), "volume": np.arange(len(times), dtype=float)}, index=index
    )
    if manifest:
        made.attrs[MANIFEST] = manifest
    return made


def test_the_example_of_the_docstring_is_true(fetcher: CandleFetcher) -> None:
    globs = {"fetcher": fetcher, "combine": combine}
    runner = doctest.DocTestRunner()
    for one in doctest.DocTestFinder().find(combine, "combine", module=False, globs=globs):
        runner.run(one)
    assert runner.tries == 3
    assert not runner.failures


def test_frames_by_name_become_pairs_of_series_and_column(fetcher: CandleFetcher) -> None:
    frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", *DAYS, columns="all")
    made = combine(frames)
    assert made.columns.names == ["series", "column"]
    assert made.index.name == "timestamp"
    assert (str(made.index.tz), made.index.unit, made.index.freq) == ("UTC", "ns", None)
    for name, one in frames.items():
        pd.testing.assert_frame_equal(made[name].rename_axis(columns=None), one, check_exact=True)
        assert made.attrs[MANIFEST][name]["fingerprint"] == one.attrs[MANIFEST]["fingerprint"]
    assert json.loads(json.dumps(made.attrs[MANIFEST]))["ETH/USDT"]["symbol"] == "ETH/USDT"


def test_one_column_is_one_column_a_series(fetcher: CandleFetcher) -> None:
    frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", *DAYS)
    made = combine(frames, "close")
    assert made.columns.tolist() == ["BTC/USDT", "ETH/USDT"]
    assert made.columns.name == "series"
    assert made["ETH/USDT"].tolist() == frames["ETH/USDT"]["close"].tolist()


def test_several_frames_are_named_by_their_manifests(fetcher: CandleFetcher) -> None:
    spot = fetcher.fetch("BTC/USDT", "1h", *DAYS)
    eth = fetcher.fetch("ETH/USDT", "1h", *DAYS)
    um = fetcher.fetch("BTC/USDT", "1h", *DAYS, provider="binance-um")
    assert combine([spot, eth], "close").columns.tolist() == ["BTC/USDT", "ETH/USDT"]
    assert combine(iter([spot, um]), "close").columns.tolist() == ["binance:BTC/USDT", "binance-um:BTC/USDT"]
    mark = fetcher.fetch("BTC/USDT", "1h", *DAYS, provider="binance-um", kind="mark")
    with pytest.raises(InputError, match="two frames are of BTC/USDT"):
        combine([um, mark])
    assert combine({"last": um, "mark": mark}, "close").columns.tolist() == ["last", "mark"]


def test_types_stay_where_candles_are_missing(fetcher: CandleFetcher) -> None:
    whole = fetcher.fetch("BTC/USDT", "1h", *DAYS, columns="all", on_gap="ffill")
    part = fetcher.fetch("ETH/USDT", "1h", "2024-03-02", "2024-03-03", columns="all", on_gap="ffill")
    made = combine({"whole": whole, "part": part})
    kinds = made["part"].dtypes.astype(str)
    assert kinds["trades"] == "Int64"
    assert kinds["close"] == "float64"
    assert kinds["close_time"] == "datetime64[ns, UTC]"
    assert kinds["is_synthetic"] == "boolean"
    assert made["whole"].dtypes.astype(str)["is_synthetic"] == "bool"
    assert made["part"].isna().all(axis=1).tolist() == [True] * 24 + [False] * 24


def test_candles_off_the_grid_stay_at_their_own_times() -> None:
    one, other = frame([0, 1, 2]), frame([0, 2])
    other.index = other.index + pd.to_timedelta([0, 1694789], unit="ms")
    made = combine({"one": one, "other": other}, "close")
    assert made["one"].isna().tolist() == [False, False, False, True]
    assert made["other"].isna().tolist() == [False, True, True, False]


def test_empty_frames_are_fine(fetcher: CandleFetcher) -> None:
    empty = fetcher.fetch("BTC/USDT", "1h", "2012-01-01", "2012-01-02")
    assert empty.empty
    made = combine({"none": empty, "some": frame([1, 2])})
    assert made["none"].isna().all(axis=None)
    assert made["none"].dtypes.astype(str).unique().tolist() == ["float64"]
    assert combine({"none": empty}).empty
    assert combine({"none": empty}, "close").columns.tolist() == ["none"]


def test_times_without_a_zone_are_utc_and_others_are_converted() -> None:
    one, other = frame([0, 1]), frame([0, 1], 2.0)
    one.index = one.index.tz_localize(None)
    other.index = other.index.tz_convert("America/New_York").as_unit("ms")
    made = combine({"one": one, "other": other}, "close")
    assert made.notna().all(axis=None)
    assert str(made.index.tz) == "UTC"


def test_timeframes_have_to_be_one() -> None:
    hour, day = (
        frame([0], timeframe="1h", symbol="A", provider="p"),
        frame([0], timeframe="1d", symbol="B", provider="p"),
    )
    with pytest.raises(InputError, match="A is of 1h, B is of 1d"):
        combine([hour, day])
    assert len(combine({"hour": hour, "unknown": frame([1])})) == 2


@pytest.mark.parametrize(
    ("frames", "column", "said"),
    [
        ({}, None, "frames is empty"),
        ([], None, "frames is empty"),
        (frame([0]), None, "one frame; expected several"),
        ([frame([0])], None, "does not name its series"),
        ([1], None, "does not name its series"),
        ({"a": 1}, None, "a must be a frame"),
        ({1: frame([0])}, None, "a frame has the name 1"),
        ({"a": pd.DataFrame({"close": [1.0]})}, None, "a must be a frame"),
        ({"a": frame([0, 0])}, None, "a time twice"),
        ({"a": frame([0])}, "open", "a has no column 'open'; it has close, volume"),
    ],
)
def test_what_cannot_be_combined_is_refused(frames: Any, column: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        combine(frames, column)


@examples()
@given(st.lists(st.sets(st.integers(0, 20)), min_size=1, max_size=4))
def test_every_value_is_where_it_was_and_no_other(parts: list[set[int]]) -> None:
    frames = {str(at): frame(sorted(hours), at + 1.0) for at, hours in enumerate(parts)}
    made = combine(frames, "close")
    slots = sorted(set().union(*parts))
    assert (made.index.asi8 // 3_600_000_000_000).tolist() == slots
    for at, hours in enumerate(parts):
        assert made[str(at)].notna().tolist() == [slot in hours for slot in slots]
    assert all(module.combine({"a": one}).shape == (len(one), 2) for one in frames.values())
