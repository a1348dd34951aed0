"""Several writers of one cache: whatever one of them has stored, another one's older copy never replaces."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, ms, same

from candle_fetcher import CandleFetcher, IncompleteData, InputError
from candle_fetcher.cache.contents import find_holdings
from candle_fetcher.cli import main
from candle_fetcher.core.candles import OHLCV, Candles, candles_from
from candle_fetcher.core.entry import Entry, Hole, HoleState
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe

HOUR = 3_600_000
MINUTE = parse_timeframe("1m")
STEP = 60_000
DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")


def hour(number: int, day: str = "2024-03-05") -> tuple[int, int]:
    return ms(day) + number * HOUR, ms(day) + (number + 1) * HOUR


def without(truth: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: np.delete(column, row) for name, column in truth.items()}


# -- a copy in memory, and newer candles on disk ----------------------------------------------------------------------


@pytest.mark.fault("K02")
@pytest.mark.parametrize("settings", [{"source": "rest"}, {}, {"compression": True}], ids=["rest", "auto", "packed"])
def test_a_hole_that_is_asked_for_again_leaves_what_another_fetcher_has_stored_since(tmp_path, settings):
    with World(tmp_path) as world:
        for number in (10, 15):
            world.exchange.hide("binance", "BTCUSDT", hour(number))
        ours, theirs = world.fetcher(**settings), world.fetcher(**settings)
        assert len(ours.fetch(*DAY)) == 22
        world.exchange.unhide("binance", "BTCUSDT", hour(10))
        world.exchange.restate("binance", "BTCUSDT", "1h", hour(5)[0], volume="77.00000000")
        assert len(theirs.fetch(*DAY, refresh=True)) == 23
        truth = without(world.truth("BTCUSDT", *DAY[1:]), 15)
        same(ours.fetch(*DAY, on_gap="refetch"), truth)
        same(world.fetcher(source="cache").fetch(*DAY), truth)


@pytest.mark.fault("K02")
def test_a_young_hole_that_is_due_leaves_what_another_fetcher_has_stored_since(tmp_path):
    today = ("BTC/USDT", "1h", "2024-06-15", "2024-06-15T12:00")
    with World(tmp_path) as world:
        for number in (3, 6):
            world.exchange.hide("binance", "BTCUSDT", hour(number, "2024-06-15"))
        ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
        assert len(ours.fetch(*today)) == 10
        world.exchange.unhide("binance", "BTCUSDT", hour(3, "2024-06-15"))
        world.exchange.restate("binance", "BTCUSDT", "1h", hour(1, "2024-06-15")[0], volume="77.00000000")
        theirs.fetch(*today, refresh=True)
        world.now_s += 3_700  # what is believed of the holes is over
        truth = without(world.truth("BTCUSDT", *today[1:]), 6)
        same(ours.fetch(*today), truth)
        same(world.fetcher(source="cache").fetch(*today), truth)
        theirs.fetch("BTC/USDT", "1h", "2024-06-15")  # as does the tail, which each of them asks for
        ours.fetch("BTC/USDT", "1h", "2024-06-15")
        same(world.fetcher(source="cache").fetch(*today), truth)


@pytest.mark.fault("K02")
def test_a_correction_is_kept_by_a_fetcher_that_asks_for_the_next_candles(tmp_path):
    with World(tmp_path) as world:
        ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
        ours.fetch("BTC/USDT", "1h", "2024-06-15")
        world.exchange.restate("binance", "BTCUSDT", "1h", hour(5, "2024-06-15")[0], volume="88.00000000")
        theirs.fetch("BTC/USDT", "1h", "2024-06-15", refresh=True)
        world.now_s += 3_600
        frame = ours.fetch("BTC/USDT", "1h", "2024-06-15")
        truth = world.truth("BTCUSDT", "1h", "2024-06-15", "2024-06-15T13:00")
        same(frame, truth)
        same(world.fetcher(source="cache").fetch("BTC/USDT", "1h", "2024-06-15", "2024-06-15T13:00"), truth)
        assert len(ours.cache.revisions())


# -- imported history -------------------------------------------------------------------------------------------------


def kraken_file(world: World, folder: Path, start: str, end: str) -> Path:
    truth = world.exchange.kraken.truth("XBTUSD", "1h", ms(start), ms(end))
    path = folder / "XBTUSD_60.csv"
    with path.open("w", newline="") as file:
        columns = [truth[name] for name in OHLCV]
        for at, open_ms in enumerate(truth["open_time"]):
            csv.writer(file, lineterminator="\n").writerow([open_ms // 1000, *(repr(float(c[at])) for c in columns), 1])
    return path


@pytest.mark.slow(keep=("refresh",))
@pytest.mark.fault("K03")
@pytest.mark.parametrize("source", ["auto", "cache", "refresh"])
def test_what_another_fetcher_has_imported_is_found_and_outlives_a_refresh(tmp_path, source):
    with World(tmp_path / "cache") as world:
        ours, theirs = (world.fetcher(provider="kraken") for _ in range(2))
        recent = ("BTC/USD", "1h", "2024-05-20", "2024-06-15")
        older = ("BTC/USD", "1h", "2024-05-01", "2024-06-15")
        ours.fetch(*recent)
        with pytest.raises(IncompleteData):
            ours.fetch(*older)
        (tmp_path / "files").mkdir()
        path = kraken_file(world, tmp_path / "files", "2024-04-20", "2024-05-25")
        assert theirs.cache.import_file(path, provider="kraken").added > 480
        truth = world.exchange.kraken.truth("XBTUSD", "1h", ms("2024-05-01"), ms("2024-06-15"))
        how = {"refresh": True} if source == "refresh" else {"source": source}
        same(ours.fetch(*older, **how), truth)
        same(ours.fetch(*older), truth)
        same(world.fetcher(provider="kraken", source="cache").fetch(*older), truth)


# -- one entry out of two ---------------------------------------------------------------------------------------------

SLOTS = 24
# What an entry says of a slot: a value, the state of a hole and when it was confirmed, or nothing.
DUE, BEYOND, UNASKED = ((state, None) for state in (HoleState.DUE, HoleState.BEYOND, HoleState.UNASKED))
words = st.one_of(st.integers(1, 9), st.sampled_from([(HoleState.CONFIRMED, 70), DUE, BEYOND, UNASKED]))


@st.composite
def entries(draw: st.DrawFn, stored_ms: int) -> tuple[Entry, dict[int, object]]:
    first = draw(st.integers(0, SLOTS - 1))
    said = dict(enumerate(draw(st.lists(words, min_size=1, max_size=SLOTS - first)), first))
    rows = {slot: word for slot, word in said.items() if isinstance(word, int)}
    opens = np.array(sorted(rows), np.int64)
    values = np.array([rows[int(slot)] for slot in opens], float)
    holes = [Hole(Span(s * STEP, (s + 1) * STEP), *w) for s, w in said.items() if isinstance(w, tuple)]
    covered = Span(first * STEP, (first + len(said)) * STEP)
    candles = candles_from(("open_time", *OHLCV), [opens * STEP, *[values] * 5])
    return Entry(covered, stored_ms, tuple(holes), candles), said


def words_of(entry: Entry) -> dict[int, object]:
    said: dict[int, object] = {}
    for span, *word in entry.holes:
        for slot in range(span.start_ms // STEP, span.end_ms // STEP):
            assert slot not in said
            said[slot] = tuple(word)
    for open_ms, value in zip(entry.candles.open_ms.tolist(), entry.candles.floats("close").tolist(), strict=True):
        assert open_ms // STEP not in said
        said[open_ms // STEP] = int(value)
    assert sorted(said) == list(range(entry.covered.start_ms // STEP, entry.covered.end_ms // STEP))
    return said


def expected(stored: object, ours: object, seen: object, *, is_answered: bool) -> tuple[object, bool]:
    """The word about a slot, slot by slot, and whether it is contested."""
    unknown = (None, UNASKED, BEYOND)
    if ours in unknown:
        return ours if stored is None else stored, False
    if stored in unknown:
        return ours, False
    if not is_answered or ours == DUE:
        return stored, False
    if stored not in (seen, DUE):
        return stored, stored != ours  # it came since the source was asked, by an earlier or a later question
    return ours, False


@pytest.mark.slow
@pytest.mark.fault("K02", "K03")
@given(st.data())
def test_each_slot_keeps_the_newer_word(data):
    stored, theirs = data.draw(entries(1))
    ours, mine = data.draw(entries(2))
    seen, before = data.draw(st.one_of(st.just((None, {})), entries(0)))
    answered = data.draw(st.sets(st.integers(0, SLOTS)))
    spans = [Span(slot * STEP, (slot + 1) * STEP) for slot in sorted(answered)]
    entry, replaced, contested = merge_entries(stored, ours, spans, timeframe=MINUTE, seen=seen)
    said = words_of(entry)
    doubted = {slot for span in contested for slot in range(span.start_ms // STEP, span.end_ms // STEP)}
    for slot, word in said.items():
        told = theirs.get(slot), mine.get(slot)
        if told == (None, None):
            assert word == UNASKED
        else:
            is_answered = slot in answered
            assert (word, slot in doubted) == expected(*told, before.get(slot), is_answered=is_answered), slot
    assert set(said) >= {*theirs, *mine}
    end = Span(entry.covered.end_ms - STEP, entry.covered.end_ms)
    assert entry.stored_ms == (2 if any(span.holds(end) for span in replaced) else 1)


def test_an_entry_is_taken_as_it_is_where_nothing_is_stored():
    opens = np.arange(3, dtype=np.int64) * STEP
    ours = Entry(Span(0, 3 * STEP), 1, (), candles_from(("open_time", *OHLCV), [opens, *np.ones((5, 3))]))
    assert merge_entries(None, ours, [], timeframe=MINUTE) == (ours, (ours.covered,), ())


# -- what is stored, and one series less ------------------------------------------------------------------------------


def stored_in(fetcher: CandleFetcher) -> set[tuple[str, str, str, str]]:
    frame = fetcher.cache.list()
    return set(zip(frame["provider"], frame["symbol"], frame["timeframe"], frame["kind"], strict=True))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose folder holds several series."""
    with World(tmp_path_factory.mktemp("filled")) as world:
        fetcher = world.fetcher(source="rest")
        fetcher.fetch(*DAY)
        fetcher.fetch("BTC/USDT", "1m", "2024-03-05", "2024-03-05T20:00")
        fetcher.fetch("ETH/USDT", *DAY[1:])
        fetcher.fetch("kraken:BTC/USD", "1h", "2024-06-10")
        fetcher.fetch("BTC/USDT", *DAY[1:], provider="binance-um", kind="mark")
        fetcher.fetch_funding("BTC/USDT", "2024-03-01", "2024-03-05", provider="binance-um")
        fetcher.close()
        yield world


@pytest.fixture
def several(filled: World, tmp_path: Path) -> tuple[World, CandleFetcher]:
    """The world, on a copy of its folder, and a fetcher."""
    filled.folder = Path(shutil.copytree(filled.fetchers[0].cache.path, tmp_path / "cache"))
    return filled, filled.fetcher(source="rest")


ALL = {
    ("binance", "BTC/USDT", "1h", "candles"),
    ("binance", "BTC/USDT", "1m", "candles"),
    ("binance", "ETH/USDT", "1h", "candles"),
    ("kraken", "BTC/USD", "1h", "candles"),
    ("binance-um", "BTC/USDT", "1h", "mark"),
    ("binance-um", "BTC/USDT", "1M", "funding"),
}


@pytest.mark.slow
@pytest.mark.fault("J27")
def test_the_stored_series_are_listed(several):
    world, fetcher = several
    for one in (fetcher, world.fetcher(compression=True), world.fetcher(source="cache")):
        assert stored_in(one) == ALL
    frame = fetcher.cache.list().set_index(["provider", "symbol", "timeframe"])
    row = frame.loc[("binance", "BTC/USDT", "1m")]
    assert row["chunks"] == 2
    assert row["rows"] >= 1_200
    assert row["first"] <= pd.Timestamp("2024-03-05", tz="UTC")
    assert row["last"] >= pd.Timestamp("2024-03-05T19:59", tz="UTC")
    assert row["bytes"] > row["rows"] * 80
    assert row["origin"] == world.exchange.base_urls["binance"]
    with CandleFetcher(use_cache=False, progress=False) as none:
        assert none.cache.list().empty
        assert none.cache.clear() == 0


@pytest.mark.slow(keep=("words2-gone2", "words4-gone4", "words6-gone6"))
@pytest.mark.fault("J27")
@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (("BTCUSDT", "1m"), {("binance", "BTC/USDT", "1m", "candles")}),
        (("btc-usdt",), {one for one in ALL if one[:2] == ("binance", "BTC/USDT")}),
        (("Kraken:XBT/USD", "60m"), {("kraken", "BTC/USD", "1h", "candles")}),
        (("BINANCE-UM:BTC/USDT",), {one for one in ALL if one[0] == "binance-um"}),
        ((None, "1h"), {one for one in ALL if one[2] == "1h"}),
        (("SOL/USDT", "1h"), set()),
        ((), ALL),
    ],
)
def test_a_series_is_cleared_with_all_that_is_known_of_it(several, words, gone):
    world, fetcher = several
    fetcher.cache.clear(*words)
    for one in (fetcher, world.fetcher()):
        assert stored_in(one) == ALL - gone
    store = fetcher.cache.store
    assert store is not None
    left = [key for key, _, _ in store.beginnings(0) if key.count("|") >= 6]
    assert bool(left) == bool(ALL - gone)
    world.asked("")
    fetcher.fetch(*DAY)
    assert bool(world.asked("")) == (("binance", "BTC/USDT", "1h", "candles") in gone)


@pytest.mark.fault("J27")
def test_what_cannot_be_cleared_is_wrong_input(several):
    for words in (("binanc:BTC/USDT",), ("BTC/USDT", "1x"), ("kraken:", "1h")):
        with pytest.raises(InputError):
            several[1].cache.clear(*words)


@pytest.mark.slow
@pytest.mark.fault("I04", "J27")
def test_the_command_line_lists_and_clears(several, capsys, monkeypatch):
    world, fetcher = several
    fetcher.close()
    where = ("--cache-dir", str(world.folder))
    assert main(["cache", "list", "--json", *where]) == 0
    assert {(one["provider"], one["symbol"]) for one in json.loads(capsys.readouterr().out)} == {o[:2] for o in ALL}
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nothing)
        for words in ((), ("BTC/USDT",), ("BTC/USDT", "1m")):
            assert main(["cache", "clear", *words, *where]) == 2
            assert "--yes" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
        assert main(["cache", "clear", *where]) == 2  # a pipe is no one to ask either
        assert stored_in(world.fetcher()) == ALL
        assert main(["cache", "clear", "BTC/USDT", "1m", "--yes", *where]) == 0
        assert stored_in(world.fetcher()) == ALL - {("binance", "BTC/USDT", "1m", "candles")}
        assert main(["cache", "clear", "BTC/USD", "--provider", "kraken", "--yes", *where]) == 0
        for words in (
            ("BTC/USDT", "1m", "1h"),
            ("--provider", "kraken"),
            ("BTC/USDT", "1h", "--kind", "mark"),
            ("BTC/USDT", "--base-url", "binance=http://127.0.0.1:9"),
            ("kraken:BTC/USD", "--provider", "binance"),
        ):
            assert main(["cache", "clear", *words, "--yes", *where]) == 2
        assert len(stored_in(world.fetcher())) == 4
        assert main(["cache", "clear", "BTC/USDT:USDT", "1M", "--provider", "Binance-UM", "--yes", *where]) == 0
        assert len(stored_in(world.fetcher())) == 3
        for action in ("list", "stats", "verify", "revisions"):
            assert main(["cache", action, "--symbol", "BTC/USDT", *where]) == 2
        assert main(["cache", "clear", "--yes", *where]) == 0
    assert not stored_in(world.fetcher())


# -- funding rates ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("K02")
def test_the_tail_of_a_month_leaves_the_funding_rates_that_another_fetcher_has_corrected(tmp_path):
    june = ("BTC/USDT", "2024-06-01")
    with World(tmp_path) as world:
        ours, theirs = (world.fetcher(provider="binance-um") for _ in range(2))
        before = ours.fetch_funding(*june)["funding_rate"]
        cache = theirs.cache
        (series,) = [one for one in find_holdings(cache.store) if one.kind == "funding"]
        month = parse_timeframe("1M").ordinal(ms("2024-06-01"))

        def correct(stored: dict[int, Entry]) -> dict[int, Merged]:
            old = stored[month]
            block = old.candles.block.copy()
            block[1, 0] = np.float64(0.5).view(np.int64)
            new = old._replace(candles=Candles(old.candles.names, block))
            return {month: Merged(new, (new.covered,))}

        cache.entries.update(series, [month], correct)
        world.now_s += 9 * 3_600
        after = ours.fetch_funding(*june)["funding_rate"]
        assert len(after) > len(before)
        assert after.iloc[0] == 0.5
        assert world.fetcher(provider="binance-um", source="cache").fetch_funding(*june)["funding_rate"].iloc[0] == 0.5
