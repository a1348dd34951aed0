"""Holes, files, merges and settings: faults in what a provider has, not in how it is reached.

The ids are those of the table that `python tests/faults.py` prints.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World, manifest_of, ms, same

import candle_fetcher
from candle_fetcher import ArchiveMismatch, CacheWarning, IncompleteData
from candle_fetcher.cli import main
from candle_fetcher.core.candles import OHLCV, Candles, candles_from
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.facts import News
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.merging import Merged
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import damage, faults

WORLD = {"weight_limit": 10**7}

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MARCH = ("BTC/USDT", "5m", "2024-03-01", "2024-04-01")
ZIP = "BTCUSDT-5m-2024-03.zip"
KEY = f"data/spot/monthly/klines/BTCUSDT/5m/{ZIP}"
HOURS = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
HOUR_FILES = "BTCUSDT-1h-2024-03"  # the month and its days


def asked_for(world: World, name: str) -> int:
    """How often a file of the archive was asked for."""
    return sum(request.path.endswith(f"/{name}") for request in world.exchange.requests)


# -- the archive and REST disagree ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("C04")
def test_where_archive_and_rest_disagree_a_candle_is_of_one_of_them_and_the_audit_lists_both(world: World) -> None:
    at = ms("2024-03-10T05:00")
    truth = world.truth("BTCUSDT", *MARCH[1:])
    row = truth["open_time"].tolist().index(at)
    filed = {"volume": 12.5, "close": float(truth["open"][row])}
    assert filed["close"] != truth["close"][row]
    change = {name: repr(value) for name, value in filed.items()}
    world.exchange.archive.spoil("BTCUSDT-5m-2024-03", damage.revise(at, **change).published())
    fetcher = world.fetcher()
    frame = fetcher.fetch(*MARCH)
    assert manifest_of(frame)["sources"]["archive"] > 0
    candle = {name: frame[name].iloc[row] for name in OHLCV}
    by_rest = {name: truth[name][row] for name in OHLCV}
    assert candle == by_rest | filed, "history comes out of files, the whole candle"
    others = np.arange(len(frame)) != row
    for name in OHLCV:
        assert (frame[name].to_numpy()[others] == truth[name][others]).all()
    found = fetcher.audit("BTC/USDT", "5m", "2024-03-10", "2024-03-11", "archive")
    assert found[["column", "ours", "theirs"]].to_numpy().tolist() == [
        ["close", by_rest["close"], filed["close"]],
        ["volume", by_rest["volume"], filed["volume"]],
    ]
    # Asked of REST again, the candle becomes that of REST, the whole of it, and what it was before is written down.
    again = fetcher.fetch(*MARCH, source="rest", refresh=True)
    assert {name: again[name].iloc[row] for name in OHLCV} == by_rest
    revised = fetcher.cache.revisions()
    assert revised[["column", "old", "new"]].to_numpy().tolist() == [
        ["close", filed["close"], by_rest["close"]],
        ["volume", filed["volume"], by_rest["volume"]],
    ]
    assert set(revised["timestamp"]) == {pd.Timestamp(at, unit="ms", tz="UTC")}


@pytest.mark.slow
@pytest.mark.fault("C05")
def test_a_file_that_was_published_anew_is_told_as_a_revision_once_it_is_asked_for_again(world: World) -> None:
    fetcher = world.fetcher()
    old = fetcher.fetch(*MARCH)
    world.exchange.archive.spoil(ZIP, damage.revise(ms("2024-03-10T05:00"), volume="12.5").published())
    assert fetcher.fetch(*MARCH).equals(old)
    assert fetcher.cache.revisions().empty
    new = fetcher.fetch(*MARCH, refresh=True)
    row = (ms("2024-03-10T05:00") - ms("2024-03-01")) // (5 * MINUTE)
    assert new["volume"].iloc[row] == 12.5
    assert manifest_of(new)["fingerprint"] != manifest_of(old)["fingerprint"]
    assert manifest_of(new).get("rejected", []) == []
    (revision,) = fetcher.cache.revisions().to_dict("records")
    assert (revision["column"], revision["old"], revision["new"]) == ("volume", old["volume"].iloc[row], 12.5)
    assert world.fetcher().fetch(*MARCH).equals(new)


@pytest.mark.slow
@pytest.mark.fault("C05")
def test_a_file_that_changes_while_it_is_fetched_is_read_in_one_revision(world: World) -> None:
    old = world.exchange.archive.read(KEY)
    assert old is not None
    spans = [(ms("2024-03-05"), "11.5"), (ms("2024-03-25"), "12.5")]
    new = old
    for at, volume in spans:
        change = damage.revise(at, volume=volume).zip
        assert change is not None
        new = change(new) or b""

    def publish(wire: faults.FaultConnection, reply: faults.ServedReply) -> bool:
        """The old file goes out; its CHECKSUM, asked for after it, is the new one's."""
        world.exchange.archive.load(KEY, new)
        wire.send(reply.whole())
        return True

    world.exchange.fail(faults.FaultAction("publish", publish), match=lambda path, params: path.endswith(ZIP))
    frame = world.fetcher().fetch(*MARCH)
    assert asked_for(world, ZIP) == 2
    rows = [(at - ms("2024-03-01")) // (5 * MINUTE) for at, _ in spans]
    assert [frame["volume"].iloc[row] for row in rows] == [11.5, 12.5]
    assert manifest_of(frame).get("rejected", []) == manifest_of(frame)["unverified"] == []


# -- checksums and files ----------------------------------------------------------------------------------------------


@pytest.mark.fault("C06")
def test_a_checksum_that_never_fits_leaves_the_day_to_rest_and_nothing_of_the_file_in_the_cache(world: World) -> None:
    world.exchange.archive.spoil(HOUR_FILES, damage.wrong_checksum())
    fetcher = world.fetcher(max_retries=0)
    with pytest.warns(ArchiveMismatch), pytest.raises(IncompleteData) as raised:
        fetcher.fetch(*HOURS, source="archive")
    assert raised.value.frame.empty
    with pytest.raises(IncompleteData):
        world.fetcher().fetch(*HOURS, source="cache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArchiveMismatch)
        frame = fetcher.fetch(*HOURS)
    same(frame, world.truth("BTCUSDT", *HOURS[1:]))
    assert manifest_of(frame)["sources"]["rest"] == 24
    same(world.fetcher().fetch(*HOURS, source="cache"), world.truth("BTCUSDT", *HOURS[1:]))


CHECKSUMS = {
    "as it should be": (damage.checksum_text(lambda text: text), "verified"),
    "upper case": (damage.checksum_text(lambda text: text[:64].upper() + text[64:]), "verified"),
    "crlf": (damage.checksum_text(lambda text: text + "\r\n"), "verified"),
    "absent": (damage.missing_checksum(), "unverified"),
    "empty": (damage.checksum_text(lambda text: ""), "unverified"),
    "of another file": (damage.checksum_text(lambda text: text.replace("2024-03", "2024-02")), "rejected"),
}


@pytest.mark.slow(every=2)
@pytest.mark.fault("C07")
@pytest.mark.parametrize("what", CHECKSUMS)
def test_each_form_of_a_checksum_has_its_verdict(world: World, what: str) -> None:
    how, verdict = CHECKSUMS[what]
    world.exchange.archive.spoil(ZIP, how)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        frame = world.fetcher().fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    paths = [f"/{KEY}"]
    assert manifest_of(frame)["unverified"] == (paths if verdict == "unverified" else [])
    assert manifest_of(frame).get("rejected", []) == (paths if verdict == "rejected" else [])
    assert [one.category for one in warned] == ([ArchiveMismatch] if verdict == "rejected" else [])
    assert (manifest_of(frame)["sources"]["archive"] == 0) == (verdict == "rejected")


HEADER = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume"


def eleven(lines: list[bytes]) -> list[bytes]:
    return [line.rsplit(b",", 1)[0] for line in lines]


FORMS = {
    "no header": damage.csv(lambda text: text),
    "a header": damage.csv(lambda text: HEADER + b",ignore\n" + text),
    "microseconds": damage.in_unit("us"),
    "byte order mark": damage.csv(lambda text: b"\xef\xbb\xbf" + text),
    "crlf": damage.csv(lambda text: text.replace(b"\n", b"\r\n")),
    "blank line at the end": damage.csv(lambda text: text + b"\r\n\n"),
    "blank line": damage.rows(lambda lines: [*lines[:300], b"", *lines[300:]]),
    "eleven columns": damage.rows(eleven),
}


@pytest.mark.slow
@pytest.mark.fault("C09")
@pytest.mark.parametrize("what", FORMS)
def test_however_a_file_is_written_its_rows_are_the_same(world: World, what: str) -> None:
    world.exchange.archive.spoil("BTCUSDT-5m-2024-03", FORMS[what].published())
    frame = world.fetcher().fetch(*MARCH, columns="all")
    same(frame.drop(columns="close_time"), world.truth("BTCUSDT", *MARCH[1:]))
    closes = frame["close_time"] - frame.index
    assert set(closes.dt.total_seconds()) == {299.999}
    assert manifest_of(frame)["sources"]["archive"] > 0
    assert manifest_of(frame).get("rejected", []) == []
    alone = world.fetcher(use_cache=False).fetch(*MARCH, columns="all", source="archive")
    assert alone.equals(frame)


@pytest.mark.slow
@pytest.mark.fault("C10")
@pytest.mark.parametrize("by_ms", [DAY, -DAY, 31 * DAY, -31 * DAY])
def test_a_row_of_another_day_is_not_accepted_and_rest_has_the_truth(world: World, by_ms: int) -> None:
    moved = damage.shift(by_ms, 100, 101)
    world.exchange.archive.spoil(ZIP, moved.published())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArchiveMismatch)
        frame = world.fetcher().fetch(*MARCH)
    same(frame, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(frame)["gap_count"] == 0
    # Outside the month the whole file is wrong; on another day of it, the row meets that day's own.
    assert manifest_of(frame).get("rejected", []) == [f"/{KEY}"]
    with pytest.warns(ArchiveMismatch), pytest.raises(IncompleteData):
        world.exchange.archive.spoil("BTCUSDT-5m-2024-03-", damage.missing())
        world.fetcher(cache_dir=world.folder.parent / "alone").fetch(*MARCH, source="archive")


@pytest.mark.slow
@pytest.mark.fault("C10")
@pytest.mark.parametrize("row", [0, 1, 4444, 8927])
def test_a_row_that_a_file_lacks_without_a_known_hole_is_asked_of_rest_or_told(world: World, row: int) -> None:
    at = ms("2024-03-01") + row * 5 * MINUTE
    world.exchange.archive.spoil("BTCUSDT-5m-2024-03", damage.drop(at, at + 1).published())
    alone = world.fetcher(cache_dir=world.folder.parent / "alone")
    try:
        frame = alone.fetch(*MARCH, source="archive")
        missing = [(gap["first"], gap["count"]) for gap in manifest_of(frame)["gaps"]]
    except IncompleteData as error:
        frame = error.frame
        missing = [(gap.first, gap.count) for gap in error.missing]
    moment = pd.Timestamp(at, unit="ms").strftime("%Y-%m-%dT%H:%M:00Z")
    assert missing == [(moment, 1)]
    assert len(frame) == 31 * 288 - 1
    whole = world.fetcher().fetch(*MARCH)
    same(whole, world.truth("BTCUSDT", *MARCH[1:]))
    assert manifest_of(whole)["gap_count"] == 0


@pytest.mark.fault("A29")
def test_an_absent_file_is_asked_for_again_after_a_day_and_one_out_of_reach_at_once(world: World) -> None:
    truth = world.truth("BTCUSDT", *HOURS[1:])
    late = world.exchange.archive.spoil(HOUR_FILES, damage.missing())
    for hours, times in ((0, 1), (23, 0), (2, 1)):
        world.now_s += hours * 3600
        world.exchange.clear_log()
        with pytest.raises(IncompleteData) as raised:
            world.fetcher().fetch(*HOURS, source="archive")
        assert {gap.cause for gap in raised.value.missing} == {"not_published"}
        assert asked_for(world, f"{HOUR_FILES}.zip") == times
    late.stop()
    world.now_s += 25 * 3600
    for action in (faults.forbidden(), faults.status(500), faults.overloaded()):
        fault = world.exchange.fail(action, times=None, match="/data/")
        with pytest.raises(IncompleteData) as raised:
            world.fetcher(max_retries=0).fetch(*HOURS, source="archive")
        assert {gap.cause for gap in raised.value.missing} == {"fetch_failed"}
        fault.stop()
    frame = world.fetcher().fetch(*HOURS, source="archive")
    same(frame, truth)
    assert manifest_of(frame)["gap_count"] == 0


# -- holes and what is made of them -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("C11")
def test_of_forty_chunks_one_that_fails_for_good_costs_itself_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk = 1000 * MINUTE
    start = ms("2024-04-01") // chunk * chunk
    end, lost = start + 40 * chunk, start + 17 * chunk
    fault = world.exchange.fail(
        faults.status(500), times=None, match=lambda path, params: params.get("startTime") == str(lost)
    )
    fetcher = world.fetcher(max_retries=0)
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1m", start, end, source="rest")
    (missing,) = raised.value.missing
    assert (missing.first_ms, missing.count, missing.cause) == (lost, 1000, "fetch_failed")
    assert missing.first[:16] in str(raised.value).replace(" ", "T"), "the message names the range"
    assert len(raised.value.frame) == 39_000
    plan = world.fetcher().plan("BTC/USDT", "1m", start, end, source="cache")
    assert plan.chunks == {"disk": 39, "missing": 1}
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")
    words = ["fetch", "BTC/USDT", "1m", "--start", str(start), "--end", str(end), "--source", "rest"]
    words += ["--base-url", f"binance={world.exchange.base_urls['binance']}", "--cache-dir", str(world.folder)]
    world.exchange.clear_log()
    capsys.readouterr()
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{pd.Timestamp(lost, unit='ms'):%Y-%m-%d %H:%M}" in err
    assert "fetch_failed" in err
    assert {one["startTime"] for one in world.asked()} == {str(lost)}
    fault.stop()
    assert main(words) == 0
    assert [one["startTime"] for one in world.asked()] == [str(lost)]
    truth = world.exchange.truth("binance", "BTCUSDT", "1m", start, end)
    same(world.fetcher().fetch("BTC/USDT", "1m", start, end, source="cache"), truth)


@pytest.mark.fault("C12")
def test_what_is_missing_is_told_without_the_manifest(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-02T10:00"), ms("2024-06-02T13:00")))
    fetcher = world.fetcher(max_retries=0)
    days = [("2024-06-01", "2024-06-02"), ("2024-06-02", "2024-06-03")]
    parts = [fetcher.fetch("BTC/USDT", "1h", *day) for day in days]
    joined = pd.concat(parts)
    assert joined.attrs == {}
    assert len(joined) == 45
    lost = [(pd.Timestamp("2024-06-02 10:00", tz="UTC"), pd.Timestamp("2024-06-02 12:00", tz="UTC"), 3)]
    # Told by the rows alone, and by a call of its own.
    for gaps in (
        candle_fetcher.find_gaps(joined, "1h"),
        fetcher.gaps("BTC/USDT", "1h", "2024-06-01", "2024-06-03"),
    ):
        assert [row[:3] for row in gaps.itertuples(index=False, name=None)] == lost
    # What we failed to get is never only a note: it is an exception, which carries what there is and what there is not.
    world.exchange.fail(faults.status(500), times=None, match="klines")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", "2024-04-20", "2024-06-03")
    assert sum(gap.count for gap in raised.value.missing) + len(raised.value.frame) + 3 == 44 * 24
    # A frame without its manifest, or with a wrong one, harms no later call.
    for part in parts:
        part.attrs.clear()
    again = fetcher.fetch("BTC/USDT", "1h", *days[1])
    assert manifest_of(again)["gap_count"] == 1
    assert candle_fetcher.summary(joined)["candles"]["count"] == 45


@pytest.mark.slow(every=2)
@pytest.mark.fault("C13")
@pytest.mark.parametrize("seed", range(4))
def test_no_rollup_from_an_incomplete_set_passes_for_a_whole_one(world: World, seed: int) -> None:
    dice = np.random.default_rng(seed)
    name, base = [("7m", "1m"), ("45m", "15m"), ("10h", "2h"), ("2d", "1d")][seed]
    coarse, fine = parse_timeframe(name), parse_timeframe(base)
    start = ms("2023-04-01") if fine.nominal_ms > HOUR else ms("2024-06-01")
    end = start + 300 * fine.nominal_ms
    truth = world.exchange.truth("binance", "BTCUSDT", base, start - 2 * coarse.nominal_ms, end + coarse.nominal_ms)
    opens = truth["open_time"]
    hidden: set[int] = set()
    for at in dice.choice(opens[10:-10], 12, replace=False).tolist():
        length = int(dice.integers(1, 2 * coarse.nominal_ms // fine.nominal_ms + 2)) * fine.nominal_ms
        world.exchange.hide("binance", "BTCUSDT", (at, at + length))
        hidden |= set(range(at, at + length, fine.nominal_ms))
    frame = world.fetcher().fetch("BTC/USDT", name, start, end)
    seen = opens[~np.isin(opens, list(hidden))]
    held = dict(zip(*np.unique(coarse.ordinals(seen), return_counts=True), strict=True))
    slots = range(coarse.first_slot(start), coarse.first_slot(end))
    per = coarse.nominal_ms // fine.nominal_ms
    partial = [slot for slot in slots if 0 < held.get(slot, 0) < per]
    assert partial
    assert [coarse.ordinal(ms(text[:19])) for text in manifest_of(frame)["partial"]] == partial
    assert coarse.ordinals(index_ms(frame)).tolist() == [slot for slot in slots if held.get(slot, 0)]
    gaps = {
        coarse.ordinal(ms(gap["first"][:19])) + at for gap in manifest_of(frame)["gaps"] for at in range(gap["count"])
    }
    assert gaps == {slot for slot in slots if not held.get(slot, 0)}


def life(start: str, days: int, price: float) -> list[list[Any]]:
    """Daily rows around a price that only this life of the symbol has."""
    opens = [ms(start) + day * DAY for day in range(days)]
    return [
        [at, *(f"{price + add}" for add in (0, 2, -1, 1)), f"{day}.5", at + DAY - 1, "1", day, "1", "1", "0"]
        for day, at in enumerate(opens)
    ]


@pytest.mark.fault("C14")
def test_of_a_symbol_with_two_lives_each_range_has_the_rows_of_its_own_and_the_rest_has_a_cause(world: World) -> None:
    first, second = life("2021-01-01", 400, 100.0), life("2023-01-01", 300, 1.0)
    world.exchange.load("binance", "LUNAUSDT", "1d", first + second)
    fetcher = world.fetcher()
    for start, end, rows in [
        ("2021-03-01", "2021-05-01", first),
        ("2023-02-01", "2023-04-01", second),
        ("2020-06-01", "2024-06-01", first + second),
        ("2022-03-01", "2022-12-01", []),
    ]:
        frame = fetcher.fetch("LUNAUSDT", "1d", start, end)
        wanted = [row for row in rows if ms(start) <= row[0] < ms(end)]
        assert index_ms(frame).tolist() == [row[0] for row in wanted]
        assert frame["open"].tolist() == [float(row[1]) for row in wanted]
        slots = (ms(end) - ms(start)) // DAY
        causes = [(gap["cause"], gap["count"]) for gap in manifest_of(frame)["gaps"]]
        assert sum(count for _, count in causes) + len(frame) == slots
        if start == "2020-06-01":
            assert [cause for cause, _ in causes] == ["not_listed", "no_candle", "no_candle"]


@pytest.mark.fault("C14")
def test_a_symbol_that_is_listed_again_is_found_although_it_was_known_to_be_gone(world: World) -> None:
    first, second = life("2021-01-01", 400, 100.0), life("2024-06-10", 60, 1.0)
    world.exchange.load("binance", "LUNAUSDT", "1d", first)
    wanted = ("LUNAUSDT", "1d", "2021-12-01", "2024-06-14")
    gone = world.fetcher().fetch(*wanted)
    assert index_ms(gone).max() == first[-1][0]
    assert len(manifest_of(gone)["gaps"]) == 1
    world.exchange.load("binance", "LUNAUSDT", "1d", first + second)
    world.now_s += 31 * 86_400
    frame = world.fetcher().fetch("LUNAUSDT", "1d", "2021-12-01", "2024-07-10")
    rows = [row for row in first + second if ms("2021-12-01") <= row[0] < ms("2024-07-10")]
    assert index_ms(frame).tolist() == [row[0] for row in rows]
    assert frame["open"].tolist() == [float(row[1]) for row in rows]
    assert [gap["cause"] for gap in manifest_of(frame)["gaps"]] == ["no_candle"]


@pytest.mark.slow
@pytest.mark.fault("C14")
def test_a_renamed_symbol_and_a_rolled_contract_have_no_rows_of_the_other(tmp_path: Path) -> None:
    with World(tmp_path, now="2024-10-15T12:00:30") as world:
        world.exchange.load("binance", "MATICUSDT", "1d", life("2023-01-01", 500, 100.0))
        world.exchange.load("binance", "POLUSDT", "1d", life("2024-05-20", 120, 1.0))
        fetcher = world.fetcher()
        old = fetcher.fetch("MATICUSDT", "1d", "2024-05-01", "2024-09-01")
        new = fetcher.fetch("POLUSDT", "1d", "2024-05-01", "2024-09-01")
        assert set(old["open"]) == {100.0}
        assert set(new["open"]) == {1.0}
        assert manifest_of(new)["gaps"][0]["cause"] == "not_listed"
        quarters = {
            symbol: fetcher.fetch(symbol, "1d", "2024-03-01", "2024-10-10", provider="binance-um")
            for symbol in ("BTCUSDT_240628", "BTCUSDT_240927")
        }
        for symbol, frame in quarters.items():
            truth = world.truth(symbol, "1d", "2024-03-01", "2024-10-10", provider="binance-um")
            same(frame, truth)
            end = pd.Timestamp(f"20{symbol[-6:]}", tz="UTC")
            assert frame.index[-1] <= end
            assert manifest_of(frame)["gaps"][-1]["cause"] == "after_delisting"


# -- settings that change values --------------------------------------------------------------------------------------


@pytest.mark.fault("C15")
def test_two_settings_of_a_series_never_share_what_is_stored(world: World) -> None:
    """Before a split a share cost twice what the adjusted history says of it."""
    day = parse_timeframe("1d")
    plain = Series("alpaca", None, "AAPL", day)
    held = {
        plain._replace(settings=settings): price
        for settings, price in {
            (): 1.0,
            (("adjustment", "raw"), ("feed", "iex")): 200.0,
            (("adjustment", "split"), ("feed", "iex")): 100.0,
            (("adjustment", "all"), ("feed", "iex")): 99.5,
            (("adjustment", "split"), ("feed", "sip")): 100.5,
        }.items()
    }
    assert len({series.key for series in held}) == len(held)

    def entry(price: float) -> Entry:
        opens = np.arange(5, dtype=np.int64) * DAY
        return Entry(Span(0, 5 * DAY), 1, (), candles_from(("open_time", *OHLCV), [opens, *np.full((5, 5), price)]))

    def closes(candles: Candles) -> set[float]:
        return set(candles.floats("close").tolist())

    cache = world.fetcher().cache
    for series, price in held.items():
        assert cache.entries.load(series, [0]) == {}
        merged = Merged(entry(price), (Span(0, 5 * DAY),))
        cache.entries.update(series, [0], lambda _, merged=merged: {0: merged})
        cache.facts.learn(series, News(first_ms=int(price)), 1)
    for made in (cache, world.fetcher().cache):  # out of memory, and off the disk
        for series, price in held.items():
            assert closes(made.entries.load(series, [0])[0][1].candles) == {price}
            assert made.facts.get(series).first_ms == int(price)
        assert made.entries.load(plain._replace(settings=(("adjustment", "raw"),)), [0]) == {}
        assert made.entries.load(plain._replace(settings=(("feed", "iex"), ("adjustment", "raw"))), [0]) == {}
    # Bytes that end up under the key of the other setting are of another key, and no entry.
    disk = world.fetchers[0].cache.store.disk  # type: ignore[union-attr]
    raw, split = (f"{series.key}|0" for series in list(held)[1:3])
    assert disk is not None
    data = disk.load(raw)
    assert data is not None
    disk.save(split, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        assert world.fetcher().cache.entries.load(list(held)[2], [0]) == {}
