"""Outliers of an audit: values far from those of their neighbours, which are listed and are no errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from world import World, ms

from candle_fetcher import IncompleteData
from candle_fetcher.cli import main
from candle_fetcher.core.candles import OHLCV, Candles, candles_from
from candle_fetcher.core.outliers import AROUND, find_outliers, find_outliers_in_parts
from candle_fetcher.practice import faults

HOUR = 3_600_000
WORLD = {"weight_limit": 10**6}
RANGE = ("2024-03-01", "2024-03-11")


def calm(count: int, seed: int = 1, price: float = 100.0) -> Candles:
    """Candles that move by at most 1 % from one to the next, with volumes from 5 to 15."""
    chance = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(chance.uniform(-0.01, 0.01, count)))
    opens = np.concatenate([[price], close[:-1]])
    high = np.maximum(opens, close) * (1 + chance.uniform(0, 0.002, count))
    low = np.minimum(opens, close) * (1 - chance.uniform(0, 0.002, count))
    volume = chance.uniform(5, 15, count)
    return candles_from(("open_time", *OHLCV), [np.arange(count) * HOUR, opens, high, low, close, volume])


def changed(candles: Candles, **values: dict[int, float]) -> Candles:
    block = candles.block.copy()
    for name, rows in values.items():
        for row, value in rows.items():
            block[candles.names.index(name)].view(np.float64)[row] = value
    return Candles(candles.names, block)


def found(candles: Candles) -> list[tuple[int, str]]:
    made = find_outliers(candles)
    return [(int(at) // HOUR, str(name)) for at, name in zip(made.open_ms, made.columns, strict=True)]


@examples()
@given(count=st.integers(0, 120), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1.0, 1e5]))
def test_a_calm_market_has_none(count: int, seed: int, scale: float) -> None:
    assert found(calm(count, seed, 100 * scale)) == []


@examples()
@given(
    seed=st.integers(0, 10**6),
    row=st.integers(1, 58),
    by=st.floats(1.2, 100),
    name=st.sampled_from(["high", "low", "volume"]),
)
def test_a_value_that_stands_out_is_found_where_it_is_and_nowhere_else(
    seed: int, row: int, by: float, name: str
) -> None:
    candles = calm(60, seed)
    value = candles.floats(name)[row] * {"high": by, "low": 1 / by, "volume": 4000 * by}[name]
    spoiled = changed(candles, **{name: {row: value}})
    assert found(spoiled) == [(row, name)]
    made = find_outliers(spoiled)
    assert made.ours[0] == value
    around = {"high": np.maximum, "low": np.minimum}.get(name)
    if around is not None:
        assert made.theirs[0] == around(*candles.floats(name)[[row - 1, row + 1]])
    else:
        places = [at for at in range(max(0, row - AROUND), min(60, row + AROUND + 1)) if at != row]
        assert made.theirs[0] == pytest.approx(np.median(candles.floats("volume")[places]))


@examples()
@given(seed=st.integers(0, 10**6), row=st.integers(2, 50), by=st.floats(1.05, 50), last=st.integers(2, 9))
def test_a_price_that_stays_or_comes_back_later_is_none(seed: int, row: int, by: float, last: int) -> None:
    candles = calm(60, seed)
    rows = range(row, min(60, row + last))
    moved = {name: {at: float(candles.floats(name)[at] * by) for at in rows} for name in OHLCV[:4]}
    assert [name for _, name in found(changed(candles, **moved))] == []


@examples()
@given(
    seed=st.integers(0, 10**6),
    rows=st.sets(st.integers(0, 89), max_size=6),
    cuts=st.lists(st.integers(0, 90), max_size=8),
)
def test_parts_have_the_outliers_of_the_whole(seed: int, rows: set[int], cuts: list[int]) -> None:
    candles = calm(90, seed)
    spoiled = changed(
        candles,
        high={row: float(candles.floats("high")[row] * 1.7) for row in rows},
        volume=dict.fromkeys(rows, 1000000.0),
    )
    borders = [0, *sorted(cuts), 90]
    pieces = [Candles(spoiled.names, spoiled.block[:, first:last]) for first, last in itertools.pairwise(borders)]
    parts = list(find_outliers_in_parts(pieces))
    whole = find_outliers(spoiled)
    for at in range(4):
        assert np.concatenate([part[at] for part in parts]).tolist() == whole[at].tolist()  # type: ignore[union-attr]
    assert sum(part.compared for part in parts) == whole.compared == 88


def test_steps_of_the_smallest_price_and_a_silent_market_are_none() -> None:
    count = 60
    flat = {name: np.full(count, 3e-8) for name in OHLCV[:4]}
    candles = candles_from(("open_time", *OHLCV), [np.arange(count) * HOUR, *flat.values(), np.zeros(count)])
    assert found(changed(candles, high={30: 6e-8}, low={40: 1e-8}, volume={30: 1e9})) == []
    assert found(changed(candles, high={30: 6e-8, 33: 5e-7, 50: 4e-8})) == [(33, "high")]


def test_prices_that_are_not_positive_or_not_known_are_never_found() -> None:
    candles = calm(40)
    spoiled = changed(candles, low={10: 0.0, 20: -5.0}, high={30: float("nan")}, volume={12: float("nan")})
    assert found(spoiled) == []


def rows_of(path: Path, unit_ms: int = 1) -> Candles:
    """The candles of a CSV with the time in front, or of a JSON list of rows."""
    if path.suffix == ".json":
        rows = [[float(value) for value in row[:6]] for row in json.loads(path.read_text())]
    else:
        lines = [line.split(",")[:6] for line in path.read_text().splitlines() if line[:1].isdigit()]
        rows = [[float(value) for value in line] for line in lines]
    table = np.array(rows).T
    return candles_from(("open_time", *OHLCV), [(table[0] * unit_ms).astype(np.int64), *table[1:].copy()])


@pytest.mark.slow
def test_of_real_candles_few_are_found_and_those_are_known_for_it(shared: Path) -> None:
    data = shared / "market_data"
    quiet = sorted((data / "binance_rest" / "spot" / "klines" / "BTCUSDT").rglob("*.json"))
    assert len(quiet) > 50
    assert [len(find_outliers(rows_of(path)).open_ms) for path in quiet] == [0] * len(quiet)
    hours = find_outliers(rows_of(data / "futures_1h_csv" / "FIL_USDT_1h.csv"))
    # A rise by 27 % within an hour of which a quarter stayed.
    assert [str(np.datetime64(int(ms), "ms"))[:13] for ms in hours.open_ms] == ["2025-04-04T07"]
    thin = find_outliers(rows_of(data / "kraken" / "XBTUSD_60.csv", 1000))
    days = {str(np.datetime64(int(ms), "ms"))[:10] for ms in thin.open_ms}
    assert {"2017-05-18", "2019-04-25", "2021-10-21"} <= days  # famous ones
    assert len(thin.open_ms) < thin.compared / 1000


# -- in an audit -------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(world: World) -> World:
    """A market with a price that jumps, and a volume far above the others."""
    at = ms("2024-03-05T07:00")
    high = world.exchange.truth("binance", "BTCUSDT", "1h", at, at + 1)["high"][0]
    world.exchange.restate("binance", "BTCUSDT", "1h", at, high=f"{high * 1.5:.2f}")
    world.exchange.restate("binance", "BTCUSDT", "1h", at + 5 * HOUR, volume="99999999.5")
    return world


def test_an_audit_lists_outliers_as_a_kind_of_their_own(spoiled: World) -> None:
    frame = spoiled.fetcher().audit("BTC/USDT", "1h", *RANGE, "neighbours")
    assert frame["against"].tolist() == ["neighbours"] * 2
    assert frame["column"].tolist() == ["high", "volume"]
    assert frame["timestamp"].dt.strftime("%dT%H").tolist() == ["05T07", "05T12"]
    assert (frame["ours"] > 1.4 * frame["theirs"]).all()
    facts = frame.attrs["candle_fetcher"]
    assert (facts["compared"], facts["outliers"]) == ({}, {"candles": 238, "found": 2})


def test_by_default_they_come_after_the_differences(spoiled: World) -> None:
    frame = spoiled.fetcher().audit("BTC/USDT", "1h", *RANGE)
    sides = list(dict.fromkeys(frame["against"]))
    assert sides == ["1m", "neighbours"]  # the 1h candles alone are restated, so that finer ones differ from them
    assert set(frame.attrs["candle_fetcher"]["compared"]) == {"cache", "1m", "archive"}


@pytest.mark.slow
def test_of_a_long_range_those_that_are_stored_are_judged_unless_all_are_asked_for(world: World) -> None:
    long = ("2024-01-01", "2024-03-11")
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1m", "2024-02-01", "2024-02-03")
    frame = fetcher.audit("BTC/USDT", "1m", *long)
    judged = frame.attrs["candle_fetcher"]["outliers"]["candles"]
    assert 2880 <= judged <= 6000  # whole chunks are stored
    assert world.fetcher().audit("BTC/USDT", "1m", *long, source="cache").attrs["candle_fetcher"]["outliers"] == {
        "candles": judged,
        "found": 0,
    }
    everything = fetcher.audit("BTC/USDT", "1m", *long, "neighbours")
    assert everything.attrs["candle_fetcher"]["outliers"] == {"candles": 70 * 1440 - 2, "found": 0}


def test_what_cannot_be_fetched_is_an_error_where_outliers_were_asked_for(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="klines")
    fetcher = world.fetcher(max_retries=0, source="rest")
    with pytest.raises(IncompleteData):
        fetcher.audit("BTC/USDT", "1h", *RANGE, "neighbours")


@pytest.mark.parametrize("end", ["2024-01-02", "2024-01-03"])
def test_where_no_candle_has_two_neighbours_there_is_nothing_to_judge(world: World, end: str) -> None:
    with pytest.raises(IncompleteData, match="3 candles of BTC/USDT 1d"):
        world.fetcher().audit("BTC/USDT", "1d", "2024-01-01", end, "neighbours")
    facts = world.fetcher().audit("BTC/USDT", "1d", "2024-01-01", "2024-01-04", "neighbours").attrs["candle_fetcher"]
    assert facts["outliers"] == {"candles": 1, "found": 0}


def test_the_command_lists_them_and_its_exit_code_is_that_of_the_differences(
    spoiled: World, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    words = ["audit", "BTC/USDT", "1h", "--start", RANGE[0], "--end", RANGE[1]]
    words += ["--base-url", f"binance={spoiled.exchange.url}", "--cache-dir", str(tmp_path)]
    assert main([*words, "--against", "neighbours"]) == 0
    out, err = capsys.readouterr()
    assert out.count("neighbours") == 2
    assert "238 candles beside their neighbours, 2 values stand out" in err
    assert main([*words, "--against", "neighbours", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["against"] for row in rows] == ["neighbours"] * 2
    assert main(words) == 1  # the finer candles were not restated
