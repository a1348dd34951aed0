"""manifest_of(frame): what is still true of a frame, after what pandas did to it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World

from candle_fetcher import (
    CandleFetcher,
    CandleFetcherWarning,
    InputError,
    combine,
    find_gaps,
    fingerprint,
    manifest_of,
    resample,
    summary,
)

MANIFEST = "candle_fetcher"
GAPPY = ("BTC/USDT", "1h", "2018-02-01", "2018-02-20")  # 32 candles are missing from 2018-02-08 01:00 on
OHLCV = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CandleFetcher]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        yield world.fetcher()


def kept(frame: pd.DataFrame, of: pd.DataFrame) -> pd.DataFrame:
    """The frame, with the manifest that pandas would have carried to it where this version of it did not."""
    frame.attrs = dict(of.attrs)
    return frame


UNCHANGED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "whole": lambda frame: frame,
    "a copy": lambda frame: frame.copy(),
    "with an indicator": lambda frame: frame.assign(sma=frame["close"].rolling(5).mean()),
    "backwards": lambda frame: frame[::-1],
    "in another zone": lambda frame: frame.tz_convert("America/New_York"),
    "halves": lambda frame: pd.concat([frame.iloc[:100], frame.iloc[100:]]),
}
OTHERS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "resampled": lambda frame: frame.resample("4h").agg(OHLCV),
    "selected": lambda frame: frame[frame["close"] > frame["open"]],
    "one row less": lambda frame: frame.drop(frame.index[50]),
    "shifted": lambda frame: frame.shift(30, freq="D"),
    "twice": lambda frame: pd.concat([frame, frame]),
    "by the close": lambda frame: frame.set_axis(frame.index + pd.Timedelta("1h")),
}


@pytest.mark.fault("H07")
@pytest.mark.parametrize("way", UNCHANGED)
def test_a_frame_with_the_same_candles_has_its_manifest(fetcher: CandleFetcher, way: str) -> None:
    frame = fetcher.fetch(*GAPPY)
    assert manifest_of(kept(UNCHANGED[way](frame), frame)) == frame.attrs[MANIFEST]


@pytest.mark.fault("H07")
@pytest.mark.parametrize("way", OTHERS)
def test_other_rows_have_no_manifest(fetcher: CandleFetcher, way: str) -> None:
    frame = fetcher.fetch(*GAPPY)
    assert manifest_of(kept(OTHERS[way](frame), frame)) is None


@pytest.mark.fault("H07")
def test_a_part_has_the_manifest_that_a_fetch_of_it_has(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY)
    for start, end in (("2018-02-01", "2018-02-05"), ("2018-02-03", "2018-02-12"), ("2018-02-10", "2018-02-20")):
        part = kept(frame[(frame.index >= start) & (frame.index < end)], frame)
        fetched = fetcher.fetch(*GAPPY[:2], start, end).attrs[MANIFEST]
        found = manifest_of(part)
        assert found is not None
        whole = frame.attrs[MANIFEST]
        assert found["part_of"] == {name: whole[name] for name in ("start", "end", "rows", "fingerprint")}
        for name in set(fetched) - {"sources", "retries"}:
            assert found[name] == fetched[name], name
        assert "sources" not in found
    assert frame.attrs[MANIFEST]["rows"] == len(frame)  # the whole keeps its own


def test_a_part_of_many_gaps_does_not_count_what_it_cannot_know(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY)
    manifest = {**frame.attrs[MANIFEST], "gap_count": 12}  # of which one is listed
    part = frame.loc["2018-02-03":"2018-02-12"]
    part.attrs = {MANIFEST: manifest}
    found = manifest_of(part)
    assert found is not None
    assert (found["gap_count"], found["expected"]) == (1, 240)  # each slot owes a candle
    part.attrs = {MANIFEST: {**manifest, "expected": 400, "gaps": []}}  # as of a stock, with hours without one
    found = manifest_of(part)
    assert found is not None
    assert (found["gap_count"], found["expected"]) == (None, None)


@pytest.mark.fault("H07")
def test_changed_values_are_told_from_those_of_the_provider(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY)
    for changed in (frame * 2, frame.round(0), frame.assign(close=1.0), frame.shift(1)):
        found = manifest_of(kept(changed, frame))
        assert found is not None
        assert found["changed"] is True
        assert found["fingerprint"] == fingerprint(changed, "1h") != frame.attrs[MANIFEST]["fingerprint"]
    found = manifest_of(kept(frame[["close"]], frame))
    assert found is not None
    assert found["fingerprint"] is None
    assert "changed" not in found
    found = manifest_of(kept(frame.astype(str), frame))
    assert found is not None
    assert (found["fingerprint"], found["changed"]) == (None, True)


def test_the_forming_candle_and_invented_rows_do_not_change_a_frame(fetcher: CandleFetcher) -> None:
    for words in ({"on_gap": "ffill"}, {"include_open": True}):
        arguments: Any = GAPPY if "on_gap" in words else ("BTC/USDT", "1h", "2024-06-10")
        frame = fetcher.fetch(*arguments, **words)
        assert manifest_of(frame) == frame.attrs[MANIFEST]
    assert frame.attrs[MANIFEST]["rows"] == len(frame) > frame["is_closed"].sum()
    found = manifest_of(kept(frame.iloc[5:], frame))
    assert found is not None
    assert found["part_of"]["rows"] == len(frame)


def test_what_has_no_manifest_of_its_own_has_none(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY)
    assert manifest_of(pd.DataFrame(frame)[["close"]].set_axis(frame.index).copy().pipe(_bare)) is None
    assert manifest_of(combine({"a": frame, "b": frame})) is None
    empty = manifest_of(kept(frame.iloc[:0], frame))
    assert empty is not None
    assert empty["rows"] == empty["expected"] == 0
    broken = kept(frame.copy(), frame)
    for value in (5, {"start": "x", "end": "y", "kind": "candles"}, {"kind": "candles", "rows": "many", "start": 1}):
        broken.attrs[MANIFEST] = value
        assert manifest_of(broken) in (None, value)
    for wrong in (5, None, frame["close"], frame.reset_index()):
        with pytest.raises(InputError):
            manifest_of(wrong)  # type: ignore[arg-type]


def _bare(frame: pd.DataFrame) -> pd.DataFrame:
    frame.attrs = {}
    return frame


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("gaps", "missing", "partial") for value in (5, [5], ["x"], [{}], [{"first": 1}])],
        *[(name, "x") for name in ("rows", "expected", "start", "end", "timeframe", "gap_count", "fingerprint")],
        *[(name, [1]) for name in ("rows", "expected", "start", "end", "timeframe", "gap_count", "fingerprint")],
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_read_is_not_believed(fetcher: CandleFetcher, name: str, value: object) -> None:
    frame = fetcher.fetch(*GAPPY)
    for one in (frame, frame.iloc[:9], frame[::2]):
        broken = one.copy()
        broken.attrs = {MANIFEST: {**frame.attrs[MANIFEST], name: value}}
        found = manifest_of(broken)
        assert found is None or name in ("gap_count", "fingerprint")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(combine({"a": broken, "b": frame})) == len(frame)
            with contextlib.suppress(InputError):
                resample(broken, "4h")


def test_funding_rates_have_a_manifest_of_their_rows(fetcher: CandleFetcher) -> None:
    rates = fetcher.fetch_funding("binance-um:BTC/USDT", "2024-03-01", "2024-03-11")
    assert manifest_of(rates) == rates.attrs[MANIFEST]
    found = manifest_of(kept(rates.iloc[3:6], rates))
    assert found is not None
    assert (found["rows"], found["start"]) == (3, "2024-03-02T00:00:00.002Z")
    assert manifest_of(kept(rates.shift(90, freq="D"), rates)) is None


def test_combined_frames_hold_what_is_true_of_each(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY)
    made = combine({"part": kept(frame.iloc[5:20], frame), "double": kept(frame * 2, frame), "whole": frame}, "close")
    manifests = made.attrs[MANIFEST]
    assert manifests["part"]["rows"] == 15
    assert manifests["double"]["changed"] is True
    assert manifests["whole"] == frame.attrs[MANIFEST]


def test_the_fingerprint_is_that_of_the_manifest(fetcher: CandleFetcher) -> None:
    frame = fetcher.fetch(*GAPPY, columns="all")
    stated = frame.attrs[MANIFEST]["fingerprint"]
    assert fingerprint(frame, "1h") == stated
    assert fingerprint(frame[["volume", "close", "low", "high", "open"]].tz_localize(None), "60min") == stated
    assert fingerprint(fetcher.fetch(*GAPPY, on_gap="ffill"), "1h") == stated
    assert fingerprint(frame.iloc[1:], "1h") != stated
    for wrong, said in (
        (frame[["close"]], "lacks the columns open, high, low, volume"),
        (frame[::-1], "not in order"),
        (frame.assign(close="x"), "others than numbers"),
        (5, "expected a frame"),
    ):
        with pytest.raises(InputError, match=said):
            fingerprint(wrong, "1h")  # type: ignore[arg-type]


def test_a_summary_of_a_part_lists_what_the_part_lacks(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        for day in ("2024-01-01", "2024-05-15"):
            fetcher.fetch("BTC/USDT", "1h", day, days_later(day))
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-05-16", source="cache", partial="allow")
    assert summary(frame)["candles"]["missing"] == frame.attrs[MANIFEST]["missing"]
    for part in (frame.iloc[:24], frame.iloc[-24:]):
        assert "missing" not in summary(kept(part, frame))["candles"]
    assert summary(kept(frame.iloc[5:-5], frame))["candles"]["missing"]


def test_gaps_of_a_shifted_frame_are_not_hidden_by_what_the_old_times_lack(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        for day in ("2024-01-01", "2024-05-15"):
            fetcher.fetch("BTC/USDT", "1h", day, days_later(day))
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-05-16", source="cache", partial="allow")
    with pytest.warns(CandleFetcherWarning, match="could not be fetched"):
        assert find_gaps(frame, "1h").empty
    shifted = kept(frame.shift(1, freq="30D"), frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_gaps(shifted, "1h")) == 1


def days_later(day: str) -> str:
    return str((pd.Timestamp(day) + pd.Timedelta("1D")).date())
