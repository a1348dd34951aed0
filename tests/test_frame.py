"""The frame that the user gets, its manifest, and the gaps of any frame."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher.core.candles import COLUMNS, OHLCV, candles_from, no_candles
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.frame import MANIFEST, Manifest, check_columns, gap_frame, index_ms, to_frame
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.missing import find_gaps
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
NAMES = COLUMNS[:11]
COIN = (*COLUMNS[:7], "trades", "taker_buy_volume", "base_volume", "taker_buy_base_volume")
ALL = [
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
]


def candles_at(opens, names=NAMES):
    values = np.arange(len(names) * len(opens)).reshape(len(names), -1) + 0.5
    return candles_from(names, [np.asarray(opens, np.int64), *values[1:]])


def frame_at(opens, tz="UTC"):
    index = pd.DatetimeIndex(np.asarray(opens, np.int64).astype("M8[ms]"))
    return pd.DataFrame({"close": np.ones(len(opens))}, index=index.tz_localize("UTC").tz_convert(tz) if tz else index)


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("names", [NAMES, COIN, NAMES[:6]], ids=["spot", "coin", "bare"])
@pytest.mark.parametrize("opens", [[], [0], [0, HOUR, 2 * HOUR, 7 * HOUR + 14_789]])
def test_the_index_is_utc_in_nanoseconds_named_timestamp_without_a_frequency(columns, names, opens):
    frame = to_frame(candles_at(opens, names), columns)
    index = frame.index
    assert (str(index.dtype), index.name, index.freq) == ("datetime64[ns, UTC]", "timestamp", None)
    assert index.is_unique
    assert index.is_monotonic_increasing
    assert (index.asi8 // 1_000_000).tolist() == opens


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_the_names_of_the_columns_are_an_index_as_pandas_makes_it(columns):
    found = to_frame(candles_at([0, 60_000]), columns).columns
    wanted = pd.DataFrame({name: [0.0] for name in found}).columns
    pd.testing.assert_index_equal(found, wanted, exact=True)
    assert type(found.array) is type(wanted.array)
    assert found.equals(wanted)
    frame = to_frame(candles_at([0, 60_000]), columns)
    frame.columns.name = "ours"  # which is no other frame's
    assert to_frame(candles_at([0, 60_000]), columns).columns.name is None


def test_five_float_columns_are_the_default():
    frame = to_frame(candles_at([0, HOUR]), "ohlcv")
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == dict.fromkeys(OHLCV, "float64")
    candles = candles_at([0, HOUR])
    for name in OHLCV:
        assert frame[name].tolist() == candles.floats(name).tolist()


def test_all_columns_have_their_types_and_values():
    candles = candles_at([0, HOUR])
    frame = to_frame(candles, "all")
    assert list(frame) == ALL
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == dict.fromkeys(ALL, "float64") | {"close_time": "datetime64[ns, UTC]", "trades": "Int64"}
    assert (pd.DatetimeIndex(frame["close_time"]).asi8 // 1_000_000).tolist() == candles.integers("close_time").tolist()
    assert frame["trades"].tolist() == candles.integers("trades").tolist()


@pytest.mark.parametrize("rows", [0, 3])
def test_a_column_that_a_provider_lacks_is_there_and_empty(rows):
    frame = to_frame(candles_at(np.arange(rows) * HOUR, NAMES[:6]), "all")
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == dict.fromkeys(ALL, "float64") | {"close_time": "datetime64[ns, UTC]", "trades": "Int64"}
    assert frame[ALL[5:]].isna().all().all()
    assert not frame[ALL[:5]].isna().any().any()


def test_base_volume_is_never_called_quote_volume():
    candles = candles_at([0, HOUR], COIN)
    frame = to_frame(candles, "all")
    assert list(frame) == [*ALL, "base_volume", "taker_buy_base_volume"]
    assert frame["quote_volume"].isna().all()
    assert frame["taker_buy_quote_volume"].isna().all()
    assert frame["base_volume"].tolist() == candles.floats("base_volume").tolist()


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
def test_an_empty_frame_has_the_same_columns_and_types_as_a_full_one(columns):
    empty, full = to_frame(no_candles(NAMES), columns), to_frame(candles_at([0]), columns)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert empty.index.dtype == full.index.dtype
    assert len(empty) == 0


def test_closed_says_which_candles_are_over():
    frame = to_frame(candles_at([0, HOUR]), "ohlcv", np.array([True, False]))
    assert list(frame) == [*OHLCV, "is_closed"]
    assert frame["is_closed"].dtype == bool
    assert frame["is_closed"].tolist() == [True, False]


@pytest.mark.parametrize("columns", ["OHLCV", "", None, 5, ["open"]])
def test_other_columns_settings_are_input_errors(columns):
    with pytest.raises(InputError, match="ohlcv, all"):
        check_columns(columns)


# -- the manifest -----------------------------------------------------------------------------------------------------


def lazy(calls=None, **facts):
    def work_out():
        if calls is not None:
            calls.append(1)
        return "f00d"

    return Manifest(symbol="BTC/USDT", gaps=[{"count": 1}], **facts).add_fingerprint(work_out, version="1")


PLAIN = {"symbol": "BTC/USDT", "gaps": [{"count": 1}], "fingerprint": "f00d", "version": "1"}

READINGS = {
    "[]": lambda manifest: manifest["fingerprint"],
    "get": lambda manifest: manifest.get("fingerprint"),
    "dict": lambda manifest: dict(manifest)["fingerprint"],
    "**": lambda manifest: {**manifest}["fingerprint"],
    "|": lambda manifest: (manifest | {"more": 1})["fingerprint"],
    "| on the right": lambda manifest: ({"more": 1} | manifest)["fingerprint"],
    "update": lambda manifest: _updated(manifest)["fingerprint"],
    "copy": lambda manifest: manifest.copy()["fingerprint"],
    "copy.copy": lambda manifest: copy.copy(manifest)["fingerprint"],
    "deepcopy": lambda manifest: copy.deepcopy(manifest)["fingerprint"],
    "pickle": lambda manifest: pickle.loads(pickle.dumps(manifest))["fingerprint"],
    "items": lambda manifest: dict(manifest.items())["fingerprint"],
    "values": lambda manifest: list(manifest.values())[2],
    "setdefault": lambda manifest: manifest.setdefault("fingerprint", "other"),
    "pop": lambda manifest: manifest.pop("fingerprint"),
    "json": lambda manifest: json.loads(json.dumps(manifest))["fingerprint"],
    "json, indented": lambda manifest: json.loads(json.dumps({"a": manifest}, indent=1))["a"]["fingerprint"],
}


def _updated(manifest):
    into = {}
    into.update(manifest)
    return into


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_the_fingerprint_is_there_however_the_manifest_is_read(read):
    assert read(lazy()) == "f00d"


@pytest.mark.parametrize("same", [lazy, lambda: dict(PLAIN), lambda: lazy().copy()], ids=["lazy", "dict", "copy"])
def test_a_manifest_equals_what_it_says(same):
    assert lazy() == same()
    assert same() == lazy()
    assert (lazy() != same()) is False
    assert lazy() != {**PLAIN, "fingerprint": ""}
    assert repr(lazy()) == repr(PLAIN)
    assert list(lazy()) == list(PLAIN)


def test_the_fingerprint_is_worked_out_once_and_only_when_read():
    calls = []
    manifest = lazy(calls)
    assert manifest["symbol"] == "BTC/USDT"
    assert (len(manifest), "fingerprint" in manifest, manifest.get("no such fact")) == (4, True, None)
    copy.deepcopy(manifest)
    assert calls == []
    assert manifest["fingerprint"] == dict(manifest)["fingerprint"] == "f00d"
    assert calls == [1]


def test_who_reads_while_another_works_the_fingerprint_out_does_not_see_its_empty_place():
    working, go = threading.Event(), threading.Event()

    def work_out():
        working.set()
        assert go.wait(10)
        return "f00d"

    manifest, seen = Manifest().add_fingerprint(work_out), []
    first = threading.Thread(target=lambda: seen.append(manifest["fingerprint"]))
    first.start()
    assert working.wait(10)
    second = threading.Thread(target=lambda: seen.append(manifest["fingerprint"]))
    second.start()
    second.join(0.05)
    go.set()
    first.join()
    second.join()
    assert seen == ["f00d", "f00d"]


def test_the_manifest_survives_what_is_done_to_a_frame_and_is_not_worked_out_by_it():
    calls = []
    frame = to_frame(candles_at(np.arange(5) * HOUR), "ohlcv")
    frame.attrs[MANIFEST] = lazy(calls)
    for other in (frame[1:3], frame.copy(), frame * 2, frame.loc[frame["open"] > 0], frame[["open"]], frame["open"]):
        assert isinstance(other.attrs[MANIFEST], Manifest)
    assert calls == []
    assert frame[1:]["open"].to_frame().attrs[MANIFEST]["fingerprint"] == "f00d"
    assert json.loads(json.dumps(frame.attrs))[MANIFEST] == PLAIN
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(frame)), frame, check_exact=True)
    assert pickle.loads(pickle.dumps(frame)).attrs == {MANIFEST: PLAIN}


# -- gaps -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    name=st.sampled_from(["1m", "1h", "7m", "1d", "1w", "1M"]),
    first=st.integers(0, 500),
    slots=st.sets(st.integers(0, 25)),
    tz=st.sampled_from([None, "UTC", "Asia/Tokyo", "America/New_York"]),
    late=st.sampled_from([0, 14_789]),
)
def test_gaps_are_the_missing_slots_between_the_first_row_and_the_last(name, first, slots, tz, late):
    grid = parse_timeframe(name)
    frame = frame_at([grid.open_ms(first + slot) + late for slot in sorted(slots)], tz)
    gaps = find_gaps(frame, name)
    assert list(gaps) == ["first", "last", "count"]
    missing = [slot for slot in range(min(slots, default=0), max(slots, default=0)) if slot not in slots]
    told = []

    def ms_of(stamp):
        return int(stamp.timestamp()) * 1000

    for row in gaps.itertuples():
        told += range(grid.ordinal(ms_of(row.first)), grid.ordinal(ms_of(row.last)) + 1)
        assert row.count == grid.ordinal(ms_of(row.last)) - grid.ordinal(ms_of(row.first)) + 1
        assert row.first.tz is not None
        assert row.first.utcoffset().total_seconds() == 0
    assert told == [first + slot for slot in missing]
    assert len(gaps) == sum(slot - 1 not in missing for slot in missing)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_gaps_are_found_whatever_the_resolution_and_order_of_the_index(unit):
    frame = frame_at([7 * HOUR, 0, HOUR, 4 * HOUR, HOUR])
    frame.index = frame.index.as_unit(unit)
    assert find_gaps(frame, "1h")["count"].tolist() == [2, 2]


def test_a_frame_without_times_is_an_input_error():
    for index in (pd.RangeIndex(3), pd.Index(["a", "b", "c"])):
        with pytest.raises(InputError, match="DatetimeIndex"):
            index_ms(pd.DataFrame({"close": [1.0, 2.0, 3.0]}, index=index))
    with pytest.raises(InputError, match="unknown timeframe"):
        find_gaps(frame_at([0]), "hourly")


def test_a_gap_from_the_year_1_on_is_told_as_it_is():
    gap = Gap(-62_135_596_800_000, 0, 5, "not_listed")
    frame = gap_frame([gap])
    assert frame["first"][0].year == 1
    assert frame["last"][0] == pd.Timestamp(0, tz="UTC")
    assert frame["count"].tolist() == [5]
    assert frame["cause"].tolist() == ["not_listed"]
    assert gap_frame([]).dtypes.to_dict() == frame.dtypes.to_dict()
