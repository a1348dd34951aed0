"""resample(frame, timeframe) makes what a fetch in that timeframe returns, and says of what it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World

from candle_fetcher import (
    CandleFetcherWarning,
    IncompleteData,
    InputError,
    combine,
    fingerprint,
    manifest_of,
    resample,
)
from candle_fetcher.core.frame import to_frame
from candle_fetcher.providers.binance import parse_candles

MANIFEST = "candle_fetcher"
OUTAGE = ("2018-02-05", "2018-02-15")  # 32 hours without candles, from 01:00 of the 8th on
OF_THE_SOURCE = {"sources", "resampled", "partial"}
Fetch = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def fetch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetch]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        yield world.fetcher().fetch


@pytest.fixture(scope="module")
def fetch_stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetch]:
    with World(tmp_path_factory.mktemp("cache")) as world:
        yield world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys).fetch


def hours(prices: list[float], first: str = "2024-01-01", step: str = "1h") -> pd.DataFrame:
    """Candles of equal open, high, low and close, each with the volume 1."""
    index = pd.date_range(first, periods=len(prices), freq=step, tz="UTC", name="timestamp", unit="ns")
    made = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), prices), index=index, dtype=float)
    return made.assign(volume=1.0)


def times(frame: pd.DataFrame) -> list[str]:
    return [time.strftime("%Y-%m-%d %H:%M") for time in frame.index]


@pytest.mark.slow(every=3)
@pytest.mark.fault("B10")
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize(
    ("base", "target", "start", "end"),
    [
        ("1h", "4h", "2024-01-01", "2024-01-10"),
        ("15m", "45m", "2024-05-05", "2024-05-06"),
        ("1h", "1d", *OUTAGE),
        ("1m", "7m", "2024-01-01T00:00", "2024-01-01T09:56"),
        ("1d", "1w", "2024-01-03", "2024-05-27"),
        ("1d", "1M", "2023-12-15", "2024-06-01"),
        ("1h", "2d", "2018-02-05", "2018-02-14"),
    ],
)
def test_the_result_is_that_of_a_fetch(
    fetch: Fetch, base: str, target: str, start: str, end: str, columns: str
) -> None:
    fetched = fetch("BTC/USDT", target, start, end, columns=columns)
    source = fetch("BTC/USDT", base, start, end, columns=columns)
    made = resample(source, target)
    sums = ["quote_volume", "taker_buy_quote_volume"]  # of more than 15 digits, so that the last one may differ
    pd.testing.assert_frame_equal(made.drop(columns=sums, errors="ignore"), fetched.drop(columns=sums, errors="ignore"))
    if columns == "all":
        pd.testing.assert_frame_equal(made[sums], fetched[sums], rtol=1e-14)
    ours, theirs = made.attrs[MANIFEST], fetched.attrs[MANIFEST]
    assert {name: ours[name] for name in theirs if name not in OF_THE_SOURCE} == {
        name: theirs[name] for name in theirs if name not in OF_THE_SOURCE
    }
    stated = source.attrs[MANIFEST]
    assert ours["resampled"] == {
        "timeframe": base,
        **{name: stated[name] for name in ("start", "end", "rows", "fingerprint")},
    }
    assert manifest_of(made) == ours
    assert json.loads(json.dumps(ours)) == ours


def test_the_gaps_and_incomplete_candles_are_those_of_a_fetch_that_resamples(fetch: Fetch) -> None:
    span = ("2018-02-07", "2018-02-11")
    fetched = fetch("BTC/USDT", "10h", "2018-02-06T18:00", "2018-02-10T22:00")
    made = resample(fetch("BTC/USDT", "2h", "2018-02-06T18:00", "2018-02-10T22:00"), "10h")
    pd.testing.assert_frame_equal(made, fetched, check_exact=True)
    for name in ("expected", "rows", "gaps", "gap_count", "partial", "fingerprint"):
        assert made.attrs[MANIFEST][name] == fetched.attrs[MANIFEST][name], name
    assert made.attrs[MANIFEST]["gap_count"] == 1
    assert made.attrs[MANIFEST]["partial"] == ["2018-02-08T00:00:00Z", "2018-02-09T06:00:00Z"]
    days = resample(fetch("BTC/USDT", "1h", *span), "1d")
    assert days.attrs[MANIFEST]["partial"] == ["2018-02-08T00:00:00Z", "2018-02-09T00:00:00Z"]


def test_incomplete_candles_are_listed_dropped_or_kept(fetch: Fetch) -> None:
    source = fetch("BTC/USDT", "1h", "2018-02-06T05:00", "2018-02-11T07:00")
    listed, dropped, kept = (resample(source, "1d", incomplete=how) for how in ("list", "drop", "keep"))
    days = [f"2018-02-{day:02} 00:00" for day in range(6, 12)]
    assert times(listed) == days[1:5]
    assert times(dropped) == [days[1], days[4]]
    assert times(kept) == days
    assert kept["is_partial"].tolist() == [True, False, True, True, False, True]
    manifests = [one.attrs[MANIFEST] for one in (listed, dropped, kept)]
    assert [len(one["partial"]) for one in manifests] == [2, 0, 4]
    assert manifests[1]["left_out"] == ["2018-02-08T00:00:00Z", "2018-02-09T00:00:00Z"]
    assert [one["start"][:10] for one in manifests] == ["2018-02-06", "2018-02-06", "2018-02-06"]
    assert [one["end"] for one in manifests] == [f"2018-02-{day}T00:00:00Z" for day in (11, 11, 12)]
    assert kept["open"].iloc[0] == source["open"].iloc[0]
    for frame, manifest in zip((listed, dropped, kept), manifests, strict=True):
        assert manifest["rows"] == len(frame)
        assert manifest_of(frame) == manifest
    again = resample(kept, "2d")  # what lacks a part makes what lacks a part
    assert again.attrs[MANIFEST]["partial"] == ["2018-02-06T00:00:00Z", "2018-02-08T00:00:00Z", "2018-02-10T00:00:00Z"]


def test_a_frame_without_a_manifest_has_to_say_its_timeframe() -> None:
    frame = hours([1, 5, 2, 3, 9, 4, 4, 8])
    with pytest.raises(InputError, match="give it, such as base='1m'"):
        resample(frame, "4h")
    made = resample(frame, "4h", base="1h")
    assert made.to_numpy().tolist() == [[1, 5, 1, 3, 4], [9, 9, 4, 8, 4]]
    stated = made.attrs[MANIFEST]
    assert "symbol" not in stated
    assert stated["resampled"]["timeframe"] == "1h"
    assert stated["fingerprint"] == fingerprint(made, "4h")
    assert len(resample(frame.iloc[1:], "4h", base="1h")) == 1
    holed = resample(frame.drop(frame.index[2]), "4h", base="1h")
    assert holed.attrs[MANIFEST]["partial"] == ["2024-01-01T00:00:00Z"]
    assert resample(made, "8h").to_numpy().tolist() == [[1, 9, 1, 8, 8]]
    assert resample(frame, "60min", base="1h").equals(frame)


def test_a_manifest_of_another_frame_is_not_believed(fetch: Fetch) -> None:
    source = fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-10")
    chosen = source[source["close"] > source["open"]]
    if MANIFEST in chosen.attrs:
        with pytest.warns(CandleFetcherWarning, match="is ignored"), pytest.raises(InputError, match="base="):
            resample(chosen, "4h")
    part = resample(source.iloc[3:30], "4h")
    assert times(part)[0], times(part)[-1] == ("2024-01-01 04:00", "2024-01-02 00:00")
    assert part.attrs[MANIFEST]["resampled"]["part_of"]["rows"] == len(source)
    changed = resample(source * 2, "4h")
    assert changed.attrs[MANIFEST].get("changed") is (True if MANIFEST in (source * 2).attrs else None)


def test_invented_and_open_rows_are_no_part_of_a_candle(fetch: Fetch) -> None:
    filled = fetch("BTC/USDT", "1h", *OUTAGE, on_gap="ffill")
    plain = fetch("BTC/USDT", "1h", *OUTAGE)
    pd.testing.assert_frame_equal(resample(filled, "4h"), resample(plain, "4h"))
    now = fetch("BTC/USDT", "1h", "2024-06-14", include_open=True)
    assert not now["is_closed"].all()
    days = resample(now, "1d")
    assert times(days) == ["2024-06-14 00:00"]
    assert resample(now, "1d", incomplete="keep")["is_partial"].tolist() == [False, True]


def test_what_could_not_be_fetched_makes_no_candle(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-15")
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-03-01", source="cache", partial="allow")
        assert frame.attrs[MANIFEST]["missing"]
        made = resample(frame, "1d")
        stated = made.attrs[MANIFEST]
        fetched = fetcher.fetch("BTC/USDT", "1d", "2024-01-01", "2024-03-01")
        pd.testing.assert_frame_equal(made, fetched.loc[made.index])
        assert stated["fingerprint"] is None
        assert stated["rows"] + sum(one["count"] for one in stated["missing"]) == stated["expected"] == 60
        with pytest.raises(IncompleteData):
            fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-03-01", source="cache")


@pytest.mark.slow(every=6)
@pytest.mark.parametrize(
    ("base", "target", "start", "end"),
    [
        ("1h", "1d", "2024-03-01T05:00", "2024-03-20T04:00"),  # the clock is put forward on the 10th
        ("1h", "1d", "2023-11-01T04:00", "2023-11-30T05:00"),  # and back on the 5th; the 24th is a half day
        ("1d", "1w", "2024-01-01", "2024-05-27"),
        ("1d", "1M", "2024-01-01", "2024-06-01"),
        ("30m", "2h", "2024-03-01", "2024-03-20"),
        ("1d", "2d", "2024-01-02", "2024-05-31"),
    ],
)
def test_bars_of_stocks_are_those_of_their_exchange(
    fetch_stock: Fetch, base: str, target: str, start: str, end: str
) -> None:
    fetched, source = fetch_stock("AAPL", target, start, end), fetch_stock("AAPL", base, start, end)
    made = resample(source, target)
    pd.testing.assert_frame_equal(made, fetched, check_exact=True)
    assert made.attrs[MANIFEST]["partial"] == []
    assert made.attrs[MANIFEST]["gap_count"] == 0


def test_a_day_of_a_stock_is_left_out_where_the_frame_ends_before_its_midnight(fetch_stock: Fetch) -> None:
    source = fetch_stock("AAPL", "1h", "2024-03-11", "2024-03-15")
    assert [time[:10] for time in times(resample(source, "1d"))] == ["2024-03-11", "2024-03-12", "2024-03-13"]
    assert resample(source, "1d", incomplete="keep")["is_partial"].tolist() == [False, False, False, True]


@pytest.mark.slow
def test_prices_of_futures_can_be_resampled_and_funding_rates_cannot(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher(provider="binance-um")
        for kind in ("mark", "index", "premium"):
            words: dict[str, Any] = {"kind": kind, "columns": "all"}
            fetched = fetcher.fetch("BTC/USDT", "4h", "2024-03-01", "2024-03-03", **words)
            made = resample(fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-03", **words), "4h")
            pd.testing.assert_frame_equal(made, fetched, check_exact=True)
        with pytest.raises(InputError, match="funding rates are not candles"):
            resample(fetcher.fetch_funding("BTC/USDT", "2024-03-01", "2024-03-03"), "1d")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("30m", "coarser than 30m"),
        ("90m", "do not consist of whole candles of 1h"),
        ("5x", "unknown timeframe"),
        (5, "unknown timeframe"),
        ("3d", "counts candles of 3d from another day"),
    ],
)
def test_what_cannot_be_made_is_refused(fetch: Fetch, target: Any, said: str) -> None:
    source = fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    with pytest.raises(InputError, match=said):
        resample(source, target)


def test_odd_arguments_are_refused(fetch: Fetch) -> None:
    source = fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-03")
    odd: list[tuple[Any, dict[str, Any], str]] = [
        (source, {"base": "2h"}, "base is 2h, but the frame is of 1h"),
        (source, {"incomplete": "skip"}, "incomplete"),
        (source, {"incomplete": None}, "incomplete"),
        (source.assign(sma=1.0), {}, "the column 'sma'"),
        (source.assign(volume="many"), {}, "the column 'volume' of the frame cannot be read"),
        (source[::-1], {}, "not in order"),
        (source.reset_index(), {}, "DatetimeIndex"),
        (5, {}, "expected a frame"),
        (pd.DataFrame({"rate": [1.0]}, index=source.index[:1]), {"base": "1h"}, "the column 'rate'"),
        (source[[]], {}, "no prices"),
    ]
    for frame, words, said in odd:
        with pytest.raises(InputError, match=said):
            resample(frame, "4h", **words)


def read_real(shared: Path, timeframe: str) -> pd.DataFrame:
    rows: dict[int, Any] = {}
    for path in sorted((shared / "market_data/binance_rest/spot/klines/BTCUSDT" / timeframe).glob("*.json")):
        rows |= {row[0]: row for row in json.loads(path.read_bytes())}
    bodies = [json.dumps(part, separators=(",", ":")) for part in batches([rows[ms] for ms in sorted(rows)], 4_000)]
    return pd.concat([to_frame(parse_candles(body.encode()), "all") for body in bodies])


def batches(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


@pytest.mark.slow(keep=("1d-1M-100",))
@pytest.mark.fault("B10", "B11")
@pytest.mark.parametrize(
    ("base", "name", "at_least"),
    [
        *[("1d", "1w", 450), ("1d", "1M", 100), ("15m", "1d", 14), ("30m", "1h", 1_300), ("30m", "1w", 8)],
        *[("1h", "1d", 900), ("1h", "1M", 30), ("2h", "4h", 5_000), ("2h", "1w", 120), ("4h", "1d", 860)],
    ],
)
def test_real_candles_make_the_coarser_ones_of_the_exchange(shared: Path, base: str, name: str, at_least: int) -> None:
    made, sent = resample(read_real(shared, base), name, base=base), read_real(shared, name)
    both = made.index.intersection(sent.index)
    assert len(both) >= at_least
    exact = ["open", "high", "low", "close", "close_time", "trades"]
    pd.testing.assert_frame_equal(made.loc[both, exact], sent.loc[both, exact], check_exact=True)
    np.testing.assert_allclose(made.loc[both, "volume"], sent.loc[both, "volume"], rtol=1e-12)


@pytest.mark.slow(keep=("arrow",))
@pytest.mark.parametrize("output", ["arrow", "polars"])
def test_tables_of_other_libraries_are_taken(tmp_path: Path, output: Any) -> None:
    pytest.importorskip("pyarrow", reason="it holds the tables")
    pytest.importorskip(output if output == "polars" else "pyarrow", reason="it holds the tables")
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        span = ("2024-01-01", "2024-01-05")
        for _ in range(2):
            frame = fetcher.fetch("BTC/USDT", "1h", *span, columns="all")
        table, manifest = fetcher.fetch("BTC/USDT", "1h", *span, columns="all", output=output, with_manifest=True)
    assert fingerprint(table, "1h") == frame.attrs[MANIFEST]["fingerprint"]
    days = resample(frame, "1d")
    if output == "arrow":
        assert manifest_of(table) == frame.attrs[MANIFEST]
        assert combine([table], "close").equals(combine([frame], "close"))
    else:
        assert manifest_of(table) is None
    for given in (table, (table, manifest)):
        words = {"base": "1h"} if given is table and output == "polars" else {}
        made = resample(given, "1d", **words)
        pd.testing.assert_frame_equal(made, days, check_exact=True)
    assert combine({"other": (table, manifest), "mine": frame}, "close").notna().all(axis=None)
