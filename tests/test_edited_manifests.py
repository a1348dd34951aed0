"""A manifest that was edited or damaged by hand, and columns that hold no numbers: an answer, or an error of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World

from candle_fetcher import (
    CandleFetcherError,
    CandleFetcherWarning,
    InputError,
    combine,
    fingerprint,
    manifest_of,
    resample,
    summary,
)
from candle_fetcher.adapters import to_backtesting, to_statsforecast

HOLED = "2024-03-01", "2024-03-03"
GAP = {"first": "2024-03-01T01:00:00Z", "last": "2024-03-01T02:00:00Z", "count": 2, "cause": "no_candle"}
BAD = (
    *(None, float("nan"), float("inf"), "x", b"x", -1, 5, True, [], [1], ["x"], [{}], {}, 10**30),
    *([GAP | {"count": "x"}], [{name: GAP[name] for name in ("first", "last", "count")}], [GAP | {"cause": 1}]),
    *([GAP | {"last": "2024-02-01T00:00:00Z"}], "2024-02-31T00:00:00Z", "0h", "1M"),
)
ADDED = ("missing", "adjusted", "settings", "part_of", "left_out")
CALLS: dict[str, Callable[[Any], Any]] = {
    "manifest_of": manifest_of,
    "summary": summary,
    "resample": lambda frame: resample(frame, "4h", base="1h"),
    "combine": lambda frame: combine({"a": frame}, "close"),
    "to_statsforecast": to_statsforecast,
}


@pytest.fixture
def frame(world: World) -> pd.DataFrame:
    with world.fetcher() as fetcher:
        return fetcher.fetch("BTC/USDT", "1h", *HOLED)


def edited(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield frames whose manifest has a bad value for each key in turn, or lacks it, or is none."""
    stated = dict(frame.attrs["candle_fetcher"])
    for key in (*stated, *ADDED):
        for bad in BAD:
            made = frame.copy()
            made.attrs = {"candle_fetcher": {**stated, key: bad}}
            yield f"{key}={bad!r}", made
        made = frame.copy()
        made.attrs = {"candle_fetcher": {name: value for name, value in stated.items() if name != key}}
        yield f"no {key}", made
    for bad in BAD:
        made = frame.copy()
        made.attrs = {"candle_fetcher": bad}
        yield f"{bad!r}", made


def foreign_errors(call: Callable[[Any], Any], frames: Iterator[tuple[str, Any]]) -> list[str]:
    """What came of the calls other than answers, and errors and warnings of this package."""
    found = []
    for what, one in frames:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                call(one)
            except CandleFetcherError:
                pass
            except Exception as error:  # noqa: BLE001 - what is looked for
                found.append(f"{what}: {error!r}")
        found += [f"{what}: {w.message}" for w in said if not issubclass(w.category, CandleFetcherWarning)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_an_edited_manifest_ends_no_call_by_an_error_of_others(frame: pd.DataFrame, name: str) -> None:
    assert not foreign_errors(CALLS[name], edited(frame))


@pytest.mark.slow
def test_an_edited_manifest_ends_no_picture_by_an_error_of_others(frame: pd.DataFrame) -> None:
    pytest.importorskip("plotly")
    from candle_fetcher import plot

    keys = ("gaps=", "missing=", "kind=", "no ", "start=", "expected=", "adjusted=")
    chosen = [(what, one) for what, one in edited(frame) if what.startswith(keys)]
    assert not foreign_errors(plot.candles, iter(chosen))


@pytest.mark.parametrize(
    "changes",
    [
        {"gaps": None},
        {"gaps": [{name: GAP[name] for name in ("first", "last", "count")}]},
        {"expected": float("inf")},
        {"kind": []},
        {"adjusted": "x"},
        {"start": "2024-03-05T00:00:00Z"},
    ],
)
def test_a_manifest_that_cannot_be_read_is_ignored_with_a_warning(frame: pd.DataFrame, changes: Any) -> None:
    frame.attrs = {"candle_fetcher": {**frame.attrs["candle_fetcher"], **changes}}
    assert manifest_of(frame) is None
    with pytest.warns(CandleFetcherWarning, match="it cannot be read; it was changed, or damaged"):
        assert summary(frame)["symbol"] is None


def test_a_manifest_that_is_none_is_said_to_be_ignored(frame: pd.DataFrame) -> None:
    frame.attrs = {"candle_fetcher": "x"}
    with pytest.warns(CandleFetcherWarning, match="the manifest of this frame is ignored"):
        assert resample(frame, "4h", base="1h").attrs["candle_fetcher"].get("symbol") is None


def test_a_manifest_without_a_range_is_resampled_by_its_rows(frame: pd.DataFrame) -> None:
    expected = resample(frame, "4h")
    frame.attrs = {"candle_fetcher": {"timeframe": "1h"}}
    pd.testing.assert_frame_equal(resample(frame, "4h"), expected)


CANDLE_CALLS = (
    lambda frame: fingerprint(frame, "1h"),
    summary,
    lambda frame: resample(frame, "4h"),
    to_backtesting,
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", CANDLE_CALLS)
def test_a_column_that_is_there_twice_is_refused(frame: pd.DataFrame, call: Callable[[Any], Any]) -> None:
    twice = pd.concat([frame, frame[["close"]] * 2], axis=1)
    with pytest.raises(InputError):
        call(twice)
    with pytest.raises(InputError, match="a column twice"):
        combine({"a": twice}, "close")


@pytest.mark.parametrize("call", CANDLE_CALLS)
def test_complex_numbers_and_texts_are_no_prices(frame: pd.DataFrame, call: Callable[[Any], Any]) -> None:
    for other in (frame.astype(complex), frame.assign(close="1.5"), frame.assign(close=frame["close"].map(str))):
        with pytest.raises(InputError, match="others than numbers"):
            call(other)


def test_numbers_as_objects_are_the_numbers(frame: pd.DataFrame) -> None:
    assert fingerprint(frame.astype(object), "1h") == fingerprint(frame, "1h")
    found = manifest_of(frame.astype(object))
    assert found is not None
    assert "changed" not in found


def test_a_table_with_numbers_for_times_is_refused(frame: pd.DataFrame) -> None:
    polars = pytest.importorskip("polars")
    table = polars.from_pandas(frame.reset_index())
    for times in (table["timestamp"].cast(polars.Int64), table["timestamp"].cast(polars.Utf8)):
        with pytest.raises(InputError, match="the column timestamp has others than times"):
            resample(table.with_columns(times), "4h", base="1h")
    assert summary(table, timeframe="1h") == summary(pd.DataFrame(frame), timeframe="1h")


def test_a_table_whose_metadata_is_damaged_has_no_manifest(frame: pd.DataFrame) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pandas(frame)
    for noted in (b"{bad", b"\xff", b"[1]"):
        damaged = table.replace_schema_metadata({**table.schema.metadata, b"candle_fetcher": noted, b"pandas": b""})
        assert manifest_of(damaged.replace_schema_metadata({b"candle_fetcher": noted})) is None


@pytest.mark.filterwarnings("error")
def test_sums_beyond_floats_are_unknown(frame: pd.DataFrame) -> None:
    assert summary(frame.assign(volume=np.full(len(frame), 1e308)))["candles"]["statistics"]["total_volume"] is None


@pytest.mark.parametrize("name", ["is_closed", "is_synthetic"])
@pytest.mark.parametrize("call", [*CANDLE_CALLS[:1], *CANDLE_CALLS[2:], manifest_of])
def test_flags_that_are_texts_are_refused(frame: pd.DataFrame, call: Callable[[Any], Any], name: str) -> None:
    with pytest.raises(InputError, match=f"the column {name} has others than True and False"):
        call(frame.assign(**{name: "True"}))


def test_a_picture_with_flags_that_are_texts_is_refused(frame: pd.DataFrame) -> None:
    pytest.importorskip("plotly")
    from candle_fetcher import plot

    with pytest.raises(InputError, match="others than True and False"):
        plot.candles(frame.assign(is_closed="True"))
    assert plot.candles(frame.assign(is_closed=[*[True] * (len(frame) - 1), None])).data
