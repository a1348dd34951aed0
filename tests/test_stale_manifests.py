"""A manifest that pandas carried along to another frame: where it is believed, and where it is ignored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from world import World

from candle_fetcher import CandleFetcherWarning, InputError, combine, find_gaps, summary

MANIFEST = "candle_fetcher"
GAPPY = ("BTC/USDT", "1h", "2018-02-01", "2018-02-20")  # 32 candles are missing
OHLCV = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}

MADE: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "resampled": lambda frame: frame.resample("4h").agg(OHLCV),
    "resampled to days": lambda frame: frame.resample("D").agg(OHLCV),
    "a part, resampled": lambda frame: frame.iloc[:48].resample("2h").agg(OHLCV),
    "selected": lambda frame: frame[frame["close"] > frame["open"]],
    "each second": lambda frame: frame.iloc[::2],
    "shifted": lambda frame: frame.shift(30, freq="D"),
    "twice": lambda frame: pd.concat([frame, frame]),
    "with rows between": lambda frame: frame.resample("30min").ffill(),
    "two ends": lambda frame: pd.concat([frame.iloc[:50], frame.iloc[-50:]]),
}

PARTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "whole": lambda frame: frame,
    "head": lambda frame: frame.head(),
    "the middle, with the gap": lambda frame: frame.loc["2018-02-05":"2018-02-14"],
    "one": lambda frame: frame.iloc[[7]],
    "none": lambda frame: frame.iloc[:0],
    "backwards": lambda frame: frame[::-1],
    "halves": lambda frame: pd.concat([frame.iloc[:100], frame.iloc[100:]]),
    "changed": lambda frame: frame * 2,
    "in another zone": lambda frame: frame.tz_convert("America/New_York"),
    "without a zone": lambda frame: frame.tz_localize(None),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, pd.DataFrame]]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        fetcher = world.fetcher()
        stocks = world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys)
        yield {
            "plain": fetcher.fetch("ETH/USDT", "1h", "2024-05-01", "2024-05-20"),
            "with a gap": fetcher.fetch(*GAPPY),
            "filled": fetcher.fetch(*GAPPY, on_gap="ffill"),
            "with the open one": fetcher.fetch("BTC/USDT", "1h", "2024-06-01", include_open=True),
            "of stocks": stocks.fetch("AAPL", "1h", "2024-05-01", "2024-05-20"),
        }


@pytest.mark.slow(every=3)
@pytest.mark.fault("H07")
@pytest.mark.parametrize("which", ["plain", "with a gap", "filled", "with the open one", "of stocks"])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_a_part_of_a_frame_has_its_manifest(frames: dict[str, Any], which: str, part: str) -> None:
    frame = PARTS[part](frames[which])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = summary(frame)
        combined = combine([frame])
    assert (told["symbol"], told["timeframe"]) == (frame.attrs[MANIFEST]["symbol"], "1h")
    assert list(combined.attrs[MANIFEST]) == [frame.attrs[MANIFEST]["symbol"]]


@pytest.mark.slow(every=2)
@pytest.mark.fault("H07")
@pytest.mark.parametrize("which", ["plain", "with a gap", "of stocks"])
@pytest.mark.parametrize("way", MADE)
def test_what_is_made_of_a_frame_has_another_manifest_or_none(frames: dict[str, Any], which: str, way: str) -> None:
    frame = MADE[way](frames[which])
    if MANIFEST not in frame.attrs:
        pytest.skip("this version of pandas drops the manifest")
    with pytest.warns(CandleFetcherWarning, match="is ignored"):
        told = summary(frame)
    assert (told["symbol"], told["timeframe"], told["candles"]["gaps"]) == (None, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = summary(frame, "BTC/USDT", "4h")  # what is given needs no manifest
    assert (told["symbol"], told["timeframe"]) == ("BTC/USDT", "4h")
    with (
        pytest.warns(CandleFetcherWarning, match="is ignored"),
        pytest.raises(InputError, match="frame 1 does not name its series"),
    ):
        combine([frame])
    if frame.index.is_unique:
        with pytest.warns(CandleFetcherWarning, match="is ignored"):
            combined = combine({"mine": frame, "whole": frames[which]})
        assert list(combined.attrs[MANIFEST]) == ["whole"]


@pytest.mark.fault("J06", "K19")
@pytest.mark.parametrize("call", [lambda frame: find_gaps(frame, "1h"), summary, lambda frame: combine({"a": frame})])
def test_an_index_without_times_is_refused(frames: dict[str, Any], call: Callable[[Any], object]) -> None:
    frame = frames["plain"].iloc[:5]
    lacking = frame.set_axis(frame.index[:4].append(pd.DatetimeIndex([pd.NaT], tz="UTC")))
    for wrong in (lacking, frame.reset_index(), 5, None, frame["close"], "frame", [1, 2]):
        with pytest.raises(InputError):
            call(wrong)


@pytest.mark.fault("K19")
@pytest.mark.parametrize("frames", [5, None, "BTC/USDT", [5], [None], {}, [], {"a": 5}, {5: pd.DataFrame()}, object()])
def test_what_are_no_frames_cannot_be_combined(frames: Any) -> None:
    with pytest.raises(InputError):
        combine(frames)


@pytest.mark.fault("K19")
@pytest.mark.parametrize("column", [5, ["close"], ("close",), {}, "", float("nan")])
def test_what_is_no_column_cannot_be_combined(frames: dict[str, Any], column: Any) -> None:
    with pytest.raises(InputError):
        combine({"a": frames["plain"]}, column)
