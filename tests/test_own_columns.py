"""Kinds of a plug-in with columns of their own: fetched, stored, exported, and never taken for candles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from candle_fetcher import CandleFetcher, InputError, NotOffered, combine, find_gaps, read_csv
from candle_fetcher.core.candles import COLUMNS, OHLCV, Candles, candles_from, join
from candle_fetcher.core.entry import Entry, Hole, HoleState, is_of_newer_version, pack, unpack
from candle_fetcher.core.spans import Span
from candle_fetcher.providers import Feed, Provider, Series

ROOT = Path(__file__).resolve().parents[1]
INTEREST = ("open_time", "open_interest", "value")
WIDE = ("open_time", *OHLCV, "trades", "vwap", "quote_volume")
SPAN = ("2024-01-01", "2024-02-25")  # more than a chunk


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import own_provider
    import price_service

    def table(body: bytes) -> Any:
        return np.array(json.loads(body)["rows"], np.float64).reshape(-1, 6).T

    def interest(body: bytes, series: Series) -> Candles:
        rows = table(body)
        value = np.where(rows[0] % 86_400 < 43_200, np.nan, rows[4])  # not known of each other half day
        return candles_from(INTEREST, [(rows[0] * 1000).astype(np.int64), rows[1], value])

    def wide(body: bytes, series: Series) -> Candles:
        rows = table(body)
        opens = (rows[0] * 1000).astype(np.int64)
        return candles_from(WIDE, [opens, *rows[1:], opens // 1000 % 97, rows[1] + 0.5, rows[5] * 3])

    with price_service.serve() as url:
        made = own_provider.provider(url)
        feed = made.feed("candles")
        feeds = {
            "candles": replace(feed, columns=WIDE, parse=wide),
            "open_interest": replace(feed, columns=INTEREST, parse=interest),
        }
        yield replace(made, feeds=feeds)


@pytest.mark.slow(keep=("True",))
@pytest.mark.fault("J08")
@pytest.mark.parametrize("compression", [False, True])
def test_a_kind_with_own_columns_is_fetched_stored_and_exported(
    provider: Provider, tmp_path: Path, compression: bool
) -> None:
    frames = []
    for source in ("rest", "cache", "cache"):
        with CandleFetcher(provider, cache_dir=tmp_path, compression=compression) as fetcher:
            for columns in ("ohlcv", "all"):
                frame = fetcher.fetch("GOLD", "1h", *SPAN, kind="open_interest", source=source, columns=columns)
                assert list(frame.columns) == ["open_interest", "value"]
                frames.append(frame)
            assert fetcher.cache.verify().damaged == ()
    assert len(frames[0]) == 55 * 24
    assert frames[0]["value"].isna().sum() == 55 * 12
    for frame in frames:
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)
        assert frame.attrs["candle_fetcher"]["fingerprint"] == frames[0].attrs["candle_fetcher"]["fingerprint"]
        assert frame.attrs["candle_fetcher"]["kind"] == "open_interest"
    with CandleFetcher(provider, cache_dir=tmp_path) as fetcher:
        path = fetcher.export("GOLD", "1h", *SPAN, kind="open_interest", path=tmp_path)
        assert path.name == "price-service_GOLD_open_interest_1h_20240101_20240225.csv"
        lines = path.read_text().splitlines()
        assert lines[0] == "timestamp,open_interest,value"
        pd.testing.assert_frame_equal(read_csv(path), frames[0], check_freq=False, check_exact=True)
        first, noon = frames[0]["open_interest"].iloc[[0, 12]].tolist()
        assert lines[1] == f"2024-01-01 00:00:00,{first!r},"
        assert lines[13].startswith(f"2024-01-01 12:00:00,{noon!r},2")
        assert len(lines) == 1 + 55 * 24
        pieces = fetcher.iter_frames("GOLD", "1h", *SPAN, kind="open_interest", rows=500)
        pd.testing.assert_frame_equal(pd.concat(list(pieces)), frames[0], check_exact=True)
        assert len(fetcher.fetch("GOLD", "1h", end=SPAN[1], limit=3, kind="open_interest")) == 3
        assert fetcher.gaps("GOLD", "1h", *SPAN, kind="open_interest").empty
    with CandleFetcher(provider, cache_dir=tmp_path / "other") as other:
        assert other.cache.import_file(path, provider=provider).added == 55 * 24
        again = other.fetch("GOLD", "1h", *SPAN, kind="open_interest", source="cache")
        pd.testing.assert_frame_equal(again, frames[0], check_exact=True)
    assert find_gaps(frames[0], "1h").empty
    assert combine({"a": frames[0]}, "value").shape == (55 * 24, 1)


@pytest.mark.slow
@pytest.mark.fault("J08")
def test_what_candles_alone_can_do_is_refused_of_own_columns(provider: Provider, tmp_path: Path) -> None:
    with CandleFetcher(provider, cache_dir=tmp_path) as fetcher:
        what: dict[str, Any] = {"start": SPAN[0], "end": SPAN[1], "kind": "open_interest"}
        for call in (
            lambda: fetcher.fetch("GOLD", "4h", **what),
            lambda: fetcher.fetch("GOLD", "1h", on_gap="ffill", **what),
            lambda: fetcher.audit("GOLD", "1h", **what),
            lambda: fetcher.fetch("GOLD", "4h", *SPAN),  # vwap is no sum
        ):
            with pytest.raises(NotOffered):
                call()
        path = fetcher.export("GOLD", "1h", path=tmp_path, **what)
        with pytest.raises(InputError, match="its header"):
            fetcher.cache.import_file(path.rename(tmp_path / "x.csv"), "GOLD", "1h", provider=provider)


@pytest.mark.slow
@pytest.mark.fault("J08")
def test_candles_with_more_columns_in_any_order_come_back_as_they_were(provider: Provider, tmp_path: Path) -> None:
    frames = []
    for source in ("rest", "cache"):
        with CandleFetcher(provider, cache_dir=tmp_path) as fetcher:
            frames.append(fetcher.fetch("GOLD", "1h", *SPAN, columns="all", source=source))
            assert list(fetcher.fetch("GOLD", "1h", *SPAN).columns) == list(OHLCV)
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    frame = frames[0]
    assert frame.columns[-1] == "vwap"
    assert (frame["vwap"] == frame["open"] + 0.5).all()
    assert (frame["quote_volume"] == frame["volume"] * 3).all()
    assert frame["trades"].tolist() == [int(time.timestamp()) % 97 for time in frame.index]


def test_an_entry_with_named_columns_is_of_a_newer_version_for_those_that_know_none() -> None:
    block = np.arange(9, dtype=np.int64).reshape(3, 3)
    entry = Entry(Span(0, 9), 7, (Hole(Span(1, 2), HoleState.CONFIRMED, 3),), Candles(INTEREST, block), (Span(4, 5),))
    for compress in (False, True):
        data = pack("key", entry, compress=compress)
        again = unpack("key", data)
        assert again is not None
        assert (again.candles.names, again.holes, again.unverified) == (INTEREST, entry.holes, entry.unverified)
        assert again.candles.block.tolist() == block.tolist()
        assert data[8] > 1  # the version, which programs that know no names compare with theirs
        assert not is_of_newer_version("key", data)
        assert all(unpack("key", data[:size]) is None for size in range(len(data)))
    usual = pack("key", entry._replace(candles=Candles(COLUMNS[:3], block)))
    assert usual[8] == 1
    other = pack("key", entry._replace(candles=Candles(("open_time", "trades", "volume"), block)))
    back = unpack("key", other)
    assert back is not None
    assert back.candles.names == ("open_time", "trades", "volume")


def test_parts_with_different_own_columns_are_joined() -> None:
    one = candles_from(("open_time", "a"), [np.array([0]), np.array([1.5])])
    two = candles_from(("open_time", "b", "volume"), [np.array([1]), np.array([2.5]), np.array([3.0])])
    whole = join([one, two])
    assert whole.names == ("open_time", "volume", "a", "b")
    assert np.isnan(whole.floats("a")).tolist() == [False, True]


@pytest.mark.parametrize(
    "columns",
    [
        ("open_interest",), ("open_time",), ("open_time", "a", "a"), ("open_time", "timestamp"), ("open_time", "a,b"),
        ("open_time", "is_closed"), ("open_time", "close", "x"), ["open_time", "x"], ("open_time", 5), 5,
        ("open_time", "high", "open", "low", "close", "volume"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_are_refused(columns: Any) -> None:
    with pytest.raises(InputError, match="must be"):
        Feed(timeframes=("1h",), columns=columns, call=None, parse=None, limit=1)  # type: ignore[arg-type]
