"""What an audit finds: exactly the values on which two sides disagree, and nothing where they agree."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from world import World, ms

from candle_fetcher import CandleFetcher, IncompleteData, InputError, NotOffered, UnknownSymbol
from candle_fetcher.cli import main
from candle_fetcher.core.candles import COLUMNS, OHLCV, Candles, candles_from, no_candles
from candle_fetcher.core.compare import Differences, find_borders, find_differences, find_differences_with_finer
from candle_fetcher.core.resample import resample
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.audit import find_sample
from candle_fetcher.practice import damage

WORLD = {"weight_limit": 10**6}
NAMES = COLUMNS[:11]
HOUR, DAY = 3_600_000, 86_400_000


def made(opens: Any, seed: int, names: tuple[str, ...] = NAMES) -> Candles:
    """Candles of eight decimals, as a provider prints them."""
    chance = np.random.default_rng(seed)
    low, *inside, high = np.sort(chance.integers(1, 10**12, (4, len(opens))), axis=0) / 1e8
    values = {"open_time": np.asarray(opens), "close_time": np.asarray(opens) + 59_999, "trades": inside[0] // 1}
    values |= {"open": inside[0], "close": inside[1], "high": high, "low": low}
    return candles_from(names, [values.get(name, chance.integers(0, 10**11, len(opens)) / 1e8) for name in names])


def changed(candles: Candles, row: int, name: str, value: float) -> Candles:
    block = candles.block.copy()
    block[candles.names.index(name)].view(np.float64)[row] = value
    return Candles(candles.names, block)


def told(found: Differences) -> list[tuple[int, str, float | None, float | None]]:
    """The differences, None where a side has no candle."""
    rows = zip(found.open_ms.tolist(), found.columns.tolist(), found.ours.tolist(), found.theirs.tolist(), strict=True)
    return [(at, name, *(None if math.isnan(value) else value for value in values)) for at, name, *values in rows]


# -- side by side ------------------------------------------------------------------------------------------------------


@examples()
@given(
    ours=st.sets(st.integers(0, 30)),
    theirs=st.sets(st.integers(0, 30)),
    edits=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(OHLCV), st.integers(1, 9)), max_size=8),
)
def test_the_differences_are_those_that_a_loop_over_the_rows_finds(
    ours: set[int], theirs: set[int], edits: list[tuple[int, str, int]]
) -> None:
    whole = made(np.arange(31) * HOUR, 1)
    edited = whole
    for row, name, value in edits:
        edited = changed(edited, row, name, value / 8)
    one = Candles(whole.names, whole.block[:, sorted(ours)])
    other = Candles(whole.names, edited.block[:, sorted(theirs)])
    expected = []
    for row in sorted(ours | theirs):
        for name in OHLCV:
            values = (
                float(whole.floats(name)[row]) if row in ours else None,
                float(edited.floats(name)[row]) if row in theirs else None,
            )
            if values[0] != values[1]:
                expected.append((row * HOUR, name, *values))
    found = find_differences(one, other, OHLCV)
    assert told(found) == expected
    assert found.compared == len(ours | theirs)


def test_all_columns_but_the_times_are_compared_where_none_is_named() -> None:
    candles = made([0, HOUR], 3)
    block = candles.block + 1
    block[0] = candles.block[0]
    found = find_differences(candles, Candles(candles.names, block))
    names = [name for name in NAMES if name not in ("open_time", "close_time")]
    assert found.columns.tolist() == names * 2
    assert found.open_ms.tolist() == [0] * 9 + [HOUR] * 9


def test_a_value_that_neither_side_has_is_no_difference() -> None:
    candles = changed(made([0, HOUR], 3), 1, "quote_volume", np.nan)
    assert told(find_differences(candles, candles)) == []


def test_nothing_and_nothing_agree() -> None:
    found = find_differences(no_candles(NAMES), no_candles(NAMES))
    assert (told(found), found.compared) == ([], 0)
    found = find_differences_with_finer(no_candles(NAMES), no_candles(NAMES), np.empty(0, np.int64))
    assert (told(found), found.compared) == ([], 0)


# -- against finer ones ------------------------------------------------------------------------------------------------


@examples()
@given(
    pair=st.sampled_from([("1h", "1d"), ("15m", "45m"), ("1d", "1w"), ("1d", "1M"), ("1h", "1M"), ("2h", "10h")]),
    missing=st.sets(st.integers(0, 299), max_size=200),
    start=st.integers(0, 40_000),
    seed=st.integers(0, 99),
    edit=st.none() | st.tuples(st.integers(0, 299), st.sampled_from(OHLCV)),
)
def test_coarse_candles_agree_with_what_they_were_made_of_and_one_that_was_changed_is_found(
    pair: tuple[str, str], missing: set[int], start: int, seed: int, edit: tuple[int, str] | None
) -> None:
    fine, coarse = map(parse_timeframe, pair)
    slots = fine.ordinal(coarse.open_ms(start // 24)) + np.arange(300)
    present = [slot for at, slot in enumerate(slots.tolist()) if at not in missing]
    candles = made(fine.opens_ms(np.array(present, np.int64)), seed)
    span = Span(coarse.open_ms(start // 24), coarse.open_ms(coarse.ordinal(fine.open_ms(int(slots[-1]))) + 1))
    whole, _ = resample(candles, fine, coarse, span)
    borders = find_borders(whole, coarse, span)
    assert (
        borders.tolist()
        == coarse.opens_ms(np.arange(coarse.ordinal(span.start_ms), coarse.ordinal(span.end_ms))).tolist()
    )
    found = find_differences_with_finer(whole, candles, borders)
    assert (told(found), found.compared) == ([], whole.count)
    if edit is not None and whole.count:
        row, name = edit[0] % whole.count, edit[1]
        was = float(whole.floats(name)[row])
        found = find_differences_with_finer(changed(whole, row, name, was + 0.5), candles, borders)
        assert told(found) == [(int(whole.open_ms[row]), name, was + 0.5, was)]


@examples()
@given(cuts=st.sets(st.integers(1, 239), max_size=9), phase=st.integers(0, 59), seed=st.integers(0, 99))
def test_candles_off_the_grid_are_held_against_their_own_time(cuts: set[int], phase: int, seed: int) -> None:
    hour, minute = parse_timeframe("1h"), 60_000
    opens = np.array([at * HOUR + phase * minute for at in range(4)], np.int64)
    fine = made(np.array([at for at in range(phase, phase + 240) if at not in cuts], np.int64) * minute, seed)
    whole = []
    for at in opens.tolist():
        part = fine.trim(Span(at, at + HOUR))
        values = {name: part.floats(name) for name in OHLCV}
        volume = float(sum(map(Decimal, map(repr, values["volume"].tolist())), Decimal(0)))
        columns = [at, values["open"][0], values["high"].max(), values["low"].min(), values["close"][-1], volume]
        whole.append(columns)
    coarse = candles_from(NAMES[:6], list(np.array(whole, object).T))
    found = find_differences_with_finer(coarse, fine, find_borders(coarse, hour, Span(0, 5 * HOUR)))
    assert told(found) == []
    # The slot behind the last one begins where that one ends.
    assert find_borders(coarse, hour, Span(0, 5 * HOUR)).tolist() == [*opens.tolist(), 4 * HOUR + phase * minute]


def test_a_candle_of_one_side_alone_differs_in_every_column() -> None:
    hour, day = parse_timeframe("1h"), parse_timeframe("1d")
    fine = made(np.arange(48, dtype=np.int64) * HOUR, 5)
    span = Span(0, 3 * DAY)
    whole, _ = resample(fine, hour, day, span)
    second = Candles(whole.names, whole.block[:, 1:])
    first_hours = fine.trim(Span(0, DAY))
    found = told(find_differences_with_finer(second, first_hours, find_borders(second, day, span)))
    assert [(at, name) for at, name, _, _ in found] == [(at, name) for at in (0, DAY) for name in OHLCV]
    assert [ours is None for _, _, ours, _ in found] == [True] * 5 + [False] * 5
    assert [theirs is None for _, _, _, theirs in found] == [False] * 5 + [True] * 5


def test_volumes_too_large_to_add_as_floats_are_still_added_exactly() -> None:
    hour, day = parse_timeframe("1h"), parse_timeframe("1d")
    chance = np.random.default_rng(7)
    for _ in range(50):
        volumes = [Decimal(int(number)).scaleb(-2) for number in chance.integers(10**10, 10**13, 24)]
        fine = made(np.arange(24, dtype=np.int64) * HOUR, 5)
        for row, volume in enumerate(volumes):
            fine = changed(fine, row, "volume", float(volume))
        whole, _ = resample(fine, hour, day, Span(0, DAY))
        whole = changed(whole, 0, "volume", float(sum(volumes)))
        assert told(find_differences_with_finer(whole, fine, np.array([0]))) == []
        more = changed(whole, 0, "volume", float(sum(volumes) + Decimal("0.01")))
        assert told(find_differences_with_finer(more, fine, np.array([0]))) == [
            (0, "volume", float(sum(volumes) + Decimal("0.01")), float(sum(volumes)))
        ]


# -- sampling ----------------------------------------------------------------------------------------------------------


@examples()
@given(start=st.integers(0, 20_000 * DAY), minutes=st.integers(1, 3_000_000), late=st.integers(0, 10 * DAY))
def test_a_long_range_is_sampled_by_few_days_of_it(start: int, minutes: int, late: int) -> None:
    span = Span(start, start + minutes * 60_000)
    sample = find_sample(span, parse_timeframe("1m"), span.end_ms + late)
    if minutes <= 10_000:
        assert sample == [span]
        return
    assert sample[0].start_ms == span.start_ms
    assert all(one and span.holds(one) and one.end_ms - one.start_ms <= DAY for one in sample)
    assert all(one.end_ms <= other.start_ms for one, other in itertools.pairwise(sample))
    assert len(sample) <= 8
    published_ms = max(span.start_ms, min(span.end_ms, span.end_ms + late - 2 * DAY) - 1)
    assert sample[-1].start_ms <= published_ms < sample[-1].start_ms + DAY


# -- by a fetcher ------------------------------------------------------------------------------------------------------


def compared(frame: pd.DataFrame) -> dict[str, int]:
    found: dict[str, int] = frame.attrs["candle_fetcher"]["compared"]
    return found


def rows(frame: pd.DataFrame) -> list[list[Any]]:
    """The rows, times as text, None for NaN."""
    cells = frame.assign(timestamp=frame["timestamp"].dt.strftime("%Y-%m-%d %H:%M")).astype(object)
    return list(cells.where(cells.notna(), None).to_numpy().tolist())


RANGE = ("2024-03-01", "2024-03-11")


@pytest.mark.slow(keep=("1h-binance",))
@pytest.mark.parametrize("provider", ["binance", "binance-um", "binance-cm"])
@pytest.mark.parametrize("timeframe", ["1h", "1d", "3d", "45m", "1M"])
def test_where_all_agrees_the_frame_is_empty_and_says_what_was_compared(
    world: World, provider: str, timeframe: str
) -> None:
    fetcher = world.fetcher(provider=provider)
    symbol = "BTC/USD" if provider == "binance-cm" else "BTC/USDT"
    start, end = ("2024-01-01", "2024-04-01") if timeframe == "1M" else RANGE
    count = len(fetcher.fetch(symbol, timeframe, start, end))
    frame = fetcher.audit(symbol, timeframe, start, end)
    assert frame.empty
    assert [str(frame.dtypes[name]) for name in ("timestamp", "ours", "theirs")] == [
        "datetime64[ns, UTC]",
        "float64",
        "float64",
    ]
    assert frame.dtypes["column"] == frame.dtypes["against"] == pd.Series(["text"], dtype="str").dtype
    assert list(frame) == ["timestamp", "column", "ours", "theirs", "against"]
    finer = {"1h": "1m", "45m": "1m", "1d": "1h", "3d": "1d", "1M": "1d"}[timeframe]
    assert compared(frame) == {"cache": count, finer: count, "archive": count}
    json.dumps(frame.attrs)


def test_a_corrected_day_is_told_from_its_hours(world: World) -> None:
    day = ms("2024-03-05")
    truth = world.truth("BTCUSDT", "1d", "2024-03-05", "2024-03-06")
    world.exchange.restate("binance", "BTCUSDT", "1d", day, volume="12.5", close=str(truth["close"][0] - 1))
    expected = [
        ["2024-03-05 00:00", "close", truth["close"][0] - 1, truth["close"][0], "1h"],
        ["2024-03-05 00:00", "volume", 12.5, truth["volume"][0], "1h"],
    ]
    fetcher = world.fetcher()
    assert rows(fetcher.audit("BTC/USDT", "1d", *RANGE, "finer")) == expected
    assert rows(fetcher.audit("BTC/USDT", "1d", *RANGE, against="1h")) == expected
    assert rows(fetcher.audit("BTC/USDT", "1d", *RANGE)) == expected
    assert fetcher.audit("BTC/USDT", "1d", "2024-03-06", "2024-03-11", "1h").empty
    assert fetcher.monitor.snapshot()["operations"]["audit"]["count"] == 4


@pytest.mark.slow
def test_a_range_too_long_for_one_piece_is_compared_to_the_last_candle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candle_fetcher.fetcher.audit._FINE_ROWS", 20_000)
    # 20,000 minutes are 333 hours: the first piece ends before 2023-06-14T21:00.
    wrong = ["2023-06-01T00:00", "2023-06-14T20:00", "2023-06-14T21:00", "2023-06-16T23:00"]
    for text in wrong:
        world.exchange.restate("binance", "BTCUSDT", "1h", ms(text), volume="12.5")
    frame = world.fetcher().audit("BTC/USDT", "1h", "2023-06-01", "2023-06-17", "1m")
    assert [row[:3] for row in rows(frame)] == [[text.replace("T", " "), "volume", 12.5] for text in wrong]
    assert compared(frame) == {"1m": 16 * 24}


@pytest.mark.fault("C04")
def test_what_the_archive_has_otherwise_or_not_at_all_is_told(world: World) -> None:
    at, gone = ms("2024-03-05T07:00"), ms("2024-03-06T09:00")
    key = "BTCUSDT-1h-2024-03"
    world.exchange.archive.spoil(key, damage.revise(at, volume="12.5").published())
    world.exchange.archive.spoil(key, damage.drop(gone, gone + HOUR).published())
    truth = world.truth("BTCUSDT", "1h", *RANGE)
    fetcher = world.fetcher()
    frame = fetcher.audit("BTC/USDT", "1h", *RANGE, "archive")
    revised, lost = (truth["open_time"].tolist().index(moment) for moment in (at, gone))
    names = [name for name in NAMES if name not in ("open_time", "close_time")]
    assert rows(frame) == [
        ["2024-03-05 07:00", "volume", truth["volume"][revised], 12.5, "archive"],
        *(["2024-03-06 09:00", name, float(truth[name][lost]), None, "archive"] for name in names),
    ]
    assert compared(frame) == {"archive": 240}
    assert fetcher.cache.stats().disk_entries == 0, "what an audit asks twice is not stored"


@pytest.mark.slow
def test_a_long_range_is_held_against_the_archive_in_a_sample_of_its_days(world: World) -> None:
    frame = world.fetcher().audit("BTC/USDT", "1m", "2024-03-01", "2024-04-01", "archive")
    assert frame.empty
    assert compared(frame) == {"archive": 8 * 1440}


@pytest.mark.slow
@pytest.mark.fault("C04")
def test_the_side_of_rest_comes_by_rest_however_long_it_is(world: World) -> None:
    world.exchange.archive.spoil("BTCUSDT-1m-2024-03", damage.revise(ms("2024-03-05"), volume="12.5").published())
    frame = world.fetcher().audit("BTC/USDT", "1m", "2024-03-01", "2024-03-07", "archive")
    assert [row[:2] for row in rows(frame)] == [["2024-03-05 00:00", "volume"]]
    assert compared(frame) == {"archive": 6 * 1440}


def test_candles_are_not_held_against_themselves_because_another_comparison_stored_them(world: World) -> None:
    assert compared(world.fetcher().audit("BTC/USDT", "1d", *RANGE)) == {"cache": 0, "1h": 10, "archive": 10}


def test_a_short_candle_off_the_grid_ends_where_the_next_one_begins(world: World) -> None:
    def row(at: int, *minutes: list[Any]) -> list[Any]:
        prices = [
            minutes[0][1],
            max((one[2] for one in minutes), key=float),
            min((one[3] for one in minutes), key=float),
            minutes[-1][4],
        ]
        volume = sum(Decimal(one[5]) for one in minutes)
        return [at, *prices, str(volume), minutes[-1][6], "0", 1, "0", "0", "0"]

    day = ms("2024-03-05")
    times = [day + at * 60_000 for at in range(300) if not 60 <= at < 88]
    fine = [row(at, [at, *[f"{at // 60_000 % 97 + 1}.5"] * 4, f"0.{at // 60_000 % 89}", at + 59_999]) for at in times]
    opens = [day + at * 60_000 for at in (0, 88, 148, 208, 240, 300)]
    hours = [row(at, *(one for one in fine if at <= one[0] < until)) for at, until in itertools.pairwise(opens)]
    world.exchange.load("binance", "BTCUSDT", "1m", fine)
    world.exchange.load("binance", "BTCUSDT", "1h", hours)
    for start, end, count in ((0, 300, 5), (60, 240, 3), (90, 209, 2), (208, 240, 1), (120, 180, 1)):
        frame = world.fetcher().audit("BTC/USDT", "1h", day + start * 60_000, day + end * 60_000, "1m")
        assert frame.empty, frame
        assert compared(frame) == {"1m": count}


def test_what_is_stored_is_held_against_a_fresh_copy(world: World) -> None:
    world.fetcher().fetch("BTC/USDT", "1h", *RANGE)
    truth = world.truth("BTCUSDT", "1h", *RANGE)
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-03-02T05:00"), close="1.5", low="1.5")
    fetcher = world.fetcher()
    frame = fetcher.audit("BTC/USDT", "1h", *RANGE, "cache")
    assert rows(frame) == [["2024-03-02 05:00", name, truth[name][29], 1.5, "cache"] for name in ("low", "close")]
    assert compared(frame) == {"cache": 240}
    assert fetcher.fetch("BTC/USDT", "1h", *RANGE)["close"].tolist() == truth["close"].tolist(), "nothing is mended"


def test_of_the_cache_only_what_is_stored_is_asked_for(world: World) -> None:
    world.fetcher().fetch("BTC/USDT", "1m", "2024-03-05", "2024-03-06")
    frame = world.fetcher().audit("BTC/USDT", "1m", "2024-03-01", "2024-03-11", "cache")
    assert frame.empty
    assert 1440 <= compared(frame)["cache"] <= 4000


@pytest.mark.slow
def test_an_outage_is_no_disagreement(world: World) -> None:
    frame = world.fetcher().audit("BTC/USDT", "1h", "2018-02-01", "2018-02-20")
    assert frame.empty
    assert compared(frame)["1m"] == 19 * 24 - 32


def test_the_cache_alone_is_enough_for_a_finer_comparison(world: World) -> None:
    fetcher = world.fetcher()
    with pytest.raises(IncompleteData, match="not in the cache"):
        fetcher.audit("BTC/USDT", "1d", *RANGE, source="cache")
    for timeframe in ("1d", "1h"):
        fetcher.fetch("BTC/USDT", timeframe, *RANGE)
    world.asked("")
    assert compared(fetcher.audit("BTC/USDT", "1d", *RANGE, source="cache")) == {"1h": 10}
    assert world.asked("") == []


@pytest.mark.slow
@pytest.mark.parametrize("later_days", [0, 1, 2])
def test_the_newest_candles_are_compared_as_far_as_both_are_settled(world: World, later_days: int) -> None:
    world.now_s += later_days * 86_400
    for timeframe in ("1h", "1d", "3d", "1w"):
        frame = world.fetcher().audit("BTC/USDT", timeframe, days=30, against="finer")
        assert frame.empty, frame
        assert sum(compared(frame).values()) >= 3


@pytest.mark.parametrize(
    ("timeframe", "against", "said"),
    [
        ("1d", "archives", "'archives' is not known; expected 'finer', 'archive', 'cache' or a timeframe"),
        ("1h", "7m", "candles of 7m cannot be compared with 1h"),
        ("1h", "1h", "candles of 1h cannot be compared with 1h"),
        ("1h", "1d", "candles of 1d cannot be compared with 1h"),
        ("9d", "3d", "candles of 3d cannot be compared with 9d"),
        ("1m", "finer", "no finer timeframe than 1m is available"),
        ("1h", 5, "against 5 is not a text"),
    ],
)
def test_what_cannot_be_compared_is_an_input_error(world: World, timeframe: str, against: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        world.fetcher().audit("BTC/USDT", timeframe, *RANGE, against)
    assert world.asked("") == []


def test_a_comparison_that_has_nothing_to_compare_says_so(world: World) -> None:
    fetcher = world.fetcher()
    with pytest.raises(IncompleteData, match="the cache has nothing of BTC/USDT 1h"):
        fetcher.audit("BTC/USDT", "1h", *RANGE, "cache")
    with pytest.raises(IncompleteData, match="the archive has no usable file of BTC/USDT 1h"):
        fetcher.audit("BTC/USDT", "1h", "2024-06-15", "2024-06-15T06:00", "archive")
    with pytest.raises(InputError, match="use_cache=False stores nothing"):
        world.fetcher(use_cache=False).audit("BTC/USDT", "1h", *RANGE, "cache")
    with pytest.raises(InputError, match="source='cache' sends no request"):
        fetcher.audit("BTC/USDT", "1h", *RANGE, "archive", source="cache")
    with pytest.raises(NotOffered, match="binance-us has no archive"):
        fetcher.audit("BTC/USDT", "1h", *RANGE, "archive", provider="binance-us")
    with pytest.raises(UnknownSymbol, match="BTC/USDT"):
        fetcher.audit("BTX/USDT", "1h", *RANGE)
    with pytest.raises(InputError, match="start is missing"):
        fetcher.audit("BTC/USDT", "1h")


def test_the_archive_is_left_alone_where_rest_alone_may_be_asked(world: World) -> None:
    frame = world.fetcher(use_cache=False).audit("BTC/USDT", "1d", *RANGE, source="rest")
    assert compared(frame) == {"1h": 10}
    assert world.asked("/data/") == []


# -- by a command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_what_disagrees_and_exits_with_1(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [f"--base-url={name}={url}" for name, url in world.exchange.base_urls.items()]
    words = ["audit", "BTC/USDT", "1d", "--start", RANGE[0], "--end", RANGE[1], *hosts, "--cache-dir", str(tmp_path)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == "timestamp,column,ours,theirs,against\n"
    assert "10 candles compared, 0 differ" in err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    truth = world.truth("BTCUSDT", "1d", "2024-03-05", "2024-03-06")
    world.exchange.restate("binance", "BTCUSDT", "1d", ms("2024-03-05"), volume="12.5")
    assert main([*words, "--against", "1h", "--no-cache"]) == 1
    out, err = capsys.readouterr()
    volume = float(truth["volume"][0])
    assert out.splitlines()[1:] == [f"2024-03-05 00:00:00,volume,12.5,{volume},1h"]
    assert "10 candles compared, 1 differ" in err
    assert main([*words, "--against", "cache", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {"timestamp": "2024-03-05T00:00:00Z", "column": "volume", "ours": volume, "theirs": 12.5, "against": "cache"}
    ]
    assert main([*words, "--against", "nobody"]) == 2


# -- real candles ------------------------------------------------------------------------------------------------------


def real_rest(shared: Path, timeframe: str) -> list[list[Any]]:
    found = {}
    for file in sorted((shared / "market_data/binance_rest/spot/klines/BTCUSDT" / timeframe).glob("*.json")):
        found |= {row[0]: row for row in json.loads(file.read_text())}
    return [found[at] for at in sorted(found)]


def real_archive(shared: Path, years: str) -> list[list[Any]]:
    found: list[list[Any]] = []
    for file in sorted((shared / "market_data/vision_csv/spot/monthly/klines/BTCUSDT/1h").glob(f"*-{years}-*.csv")):
        with file.open() as lines:
            found += [
                [int(cell) if at in (0, 6, 8) else cell for at, cell in enumerate(row)] for row in csv.reader(lines)
            ]
    return found


@pytest.fixture
def real(shared: Path, tmp_path: Path) -> Iterator[CandleFetcher]:
    """A fetcher in a world of real candles: 1h out of the archive, the others by REST."""
    with World(tmp_path, now="2026-06-15T12:00:30", weight_limit=10**6) as world:
        world.exchange.load("binance", "BTCUSDT", "1h", real_archive(shared, "201[789]"))
        for timeframe in ("1d", "3d", "1w", "1M"):
            world.exchange.load("binance", "BTCUSDT", timeframe, real_rest(shared, timeframe))
        yield world.fetcher()


@pytest.mark.slow
def test_real_days_differ_from_the_hours_of_the_archive_where_they_are_known_to(real: CandleFetcher) -> None:
    frame = real.audit("BTC/USDT", "1d", "2017-08-01", "2020-01-01", "1h")
    found: dict[str, set[str]] = {}
    for at, column, *_ in rows(frame):
        found.setdefault(at[:10], set()).add(column)
    assert found == {
        "2018-02-09": {"high", "close", "volume"},
        "2018-02-10": {"open", "close", "volume"},
        "2018-02-11": {"open", "high", "volume"},
        "2018-11-26": {"volume"},
        "2018-12-17": {"volume"},
        "2019-05-08": {"volume"},
        "2019-10-01": {"volume"},
        "2019-12-04": {"volume"},
    }
    assert compared(frame) == {"1h": 867}
    assert real.audit("BTC/USDT", "1d", "2017-08-01", "2020-01-01", "finer").equals(frame)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("timeframe", "end", "count"), [("1w", "2026-04-20", 453), ("1M", "2026-04-01", 104), ("3d", "2026-04-20", 1056)]
)
def test_real_weeks_and_months_and_three_days_off_the_grid_are_made_of_their_days(
    real: CandleFetcher, timeframe: str, end: str, count: int
) -> None:
    frame = real.audit("BTC/USDT", timeframe, "2017-08-01", end, "1d")
    assert frame.empty, frame
    assert compared(frame) == {"1d": count}
