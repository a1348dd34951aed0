"""What a fetch returns, what it asks for, and what it says: against the practice exchange over loopback."""

from __future__ import annotations

import inspect
import json
import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from world import World, manifest_of, ms, same

import candle_fetcher
from candle_fetcher import (
    CandleFetcher,
    ClockSkew,
    FetchManyError,
    IncompleteData,
    InputError,
    NotOffered,
    UnknownSymbol,
)
from candle_fetcher.core.frame import COPIES_ON_WRITE, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.policy import read_policy
from candle_fetcher.fetcher.request import Arguments, make_request, read_range
from candle_fetcher.practice import faults
from candle_fetcher.settings import read_settings

MANIFEST = "candle_fetcher"
# pandas 2 reads numbers of eight integer digits and more inexactly unless it is told not to; pandas 3 knows no other
# way.
EXACT = {} if COPIES_ON_WRITE else {"float_precision": "round_trip"}


# -- the same candles, however they come ------------------------------------------------------------------------------


@pytest.mark.slow(keep=("1m", "1h", "1d", "3d", "1w", "1M"))
@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "4h", "1d", "3d", "1w", "1M"])
def test_a_fetch_returns_exactly_the_candles_that_the_exchange_has(world: World, timeframe: str) -> None:
    start = {"1m": "2024-05-30", "5m": "2024-05-01", "1h": "2024-01-01"}.get(timeframe, "2019-01-01")
    frame = world.fetcher().fetch("BTC/USDT", timeframe, start, "2024-06-01", columns="all")
    same(frame, world.truth("BTCUSDT", timeframe, start, "2024-06-01"))
    assert len(frame) > 3


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["binance-um", "binance-cm", "binance-us"])
@pytest.mark.parametrize("timeframe", ["15m", "6h", "1d", "1M"])
def test_futures_and_us_come_whole_too(world: World, provider: str, timeframe: str) -> None:
    symbol, theirs = ("BTC/USD", "BTCUSD_PERP") if provider == "binance-cm" else ("BTC/USDT", "BTCUSDT")
    start = "2024-05-01" if timeframe == "15m" else "2020-09-01"
    frame = world.fetcher(provider=provider).fetch(symbol, timeframe, start, "2024-06-01", columns="all")
    same(frame, world.truth(theirs, timeframe, start, "2024-06-01", provider=provider))
    assert len(frame) > 40
    if provider == "binance-cm":
        assert frame["quote_volume"].isna().all()
        assert not frame["base_volume"].isna().any()


@pytest.mark.slow(keep=("binance-um-mark", "binance-um-premium", "binance-cm-index"))
@pytest.mark.parametrize("kind", ["mark", "index", "premium"])
@pytest.mark.parametrize("provider", ["binance-um", "binance-cm"])
def test_price_candles_of_futures_are_series_of_their_own(world: World, provider: str, kind: str) -> None:
    symbol = "BTC/USD" if provider == "binance-cm" else "BTC/USDT"
    theirs = {"binance-um": "BTCUSDT", "binance-cm": "BTCUSD_PERP"}[provider]
    fetcher = world.fetcher(provider=provider)
    frame = fetcher.fetch(symbol, "1h", "2024-05-01", "2024-05-03", kind=kind)
    same(frame, world.truth(theirs, "1h", "2024-05-01", "2024-05-03", provider=provider, kind=kind))
    candles = fetcher.fetch(symbol, "1h", "2024-05-01", "2024-05-03")
    assert not np.array_equal(candles["close"], frame["close"])
    assert manifest_of(frame)["kind"] == kind


def test_seconds_come_whole_on_spot_and_are_not_offered_on_futures(world: World) -> None:
    fetcher = world.fetcher()
    same(
        fetcher.fetch("BTC/USDT", "1s", "2024-06-01T00:10", "2024-06-01T01:00"),
        world.truth("BTCUSDT", "1s", "2024-06-01T00:10", "2024-06-01T01:00"),
    )
    with pytest.raises(InputError, match="1m"):
        fetcher.fetch("BTC/USDT", "30s", "2024-06-01", "2024-06-02", provider="binance-um")


@pytest.mark.slow
def test_the_fingerprint_is_one_whether_by_network_memory_or_disk(world: World) -> None:
    fetcher = world.fetcher()
    prints, sources = [], []
    for _ in range(2):
        frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03")
        prints.append(manifest_of(frame)["fingerprint"])
        sources.append(manifest_of(frame)["sources"])
    again = world.fetcher().fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03")
    bare = world.fetcher(use_cache=False).fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03")
    packed = world.fetcher(cache_dir=world.folder.parent / "packed", compression=True)
    packed.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03")
    unpacked = world.fetcher(cache_dir=world.folder.parent / "packed").fetch(
        "BTC/USDT", "1m", "2024-06-01", "2024-06-03"
    )
    prints += [manifest_of(frame)["fingerprint"] for frame in (again, bare, unpacked)]
    assert len(set(prints)) == 1
    assert [source for found in sources for source, rows in found.items() if rows] == ["rest", "memory"]
    assert manifest_of(again)["sources"] == {"memory": 0, "disk": 2880, "archive": 0, "rest": 0}
    assert manifest_of(unpacked)["sources"]["disk"] == 2880


@pytest.mark.slow
@pytest.mark.fault("A11")
@pytest.mark.parametrize("cap", [1, 2, 7, 300, 999])
def test_a_server_that_caps_its_pages_below_the_documented_limit_loses_nothing(tmp_path: Path, cap: int) -> None:
    with World(tmp_path, page_cap=cap, weight_limit=10**6) as world:
        hours = 30 if cap < 7 else 120 if cap < 100 else 1200
        end = "2024-01-28"  # of a chunk, which would be asked for whole
        start = str(pd.Timestamp(end) - pd.Timedelta(hours=hours))[:16]
        world.exchange.hide("binance", "BTCUSDT", (0, ms(start)))
        frame = world.fetcher().fetch("BTC/USDT", "1h", start, end)
        same(frame, world.truth("BTCUSDT", "1h", start, end))
        assert len(frame) == hours


@pytest.mark.slow
@pytest.mark.fault("A11")
@pytest.mark.parametrize("seed", range(3))
def test_pages_that_end_wherever_they_like_lose_nothing(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)

    def some(body: bytes) -> bytes:
        rows = json.loads(body)
        return json.dumps(rows[: pick.randint(min(1, len(rows)), len(rows))]).encode()

    with World(tmp_path, weight_limit=10**6) as world:
        world.exchange.fail(faults.transform(some), times=None, match="klines")
        span = ("2024-01-01", "2024-04-01")
        same(world.fetcher(source="rest").fetch("BTC/USDT", "1h", *span), world.truth("BTCUSDT", "1h", *span))


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_limit_counts_candles_the_newest_without_a_start_the_oldest_with_one(world: World) -> None:
    fetcher = world.fetcher()
    newest = fetcher.fetch("BTC/USDT", "1m", limit=10)
    assert newest.index[-1] == pd.Timestamp("2024-06-15 11:59", tz="UTC")
    assert len(newest) == 10
    before = fetcher.fetch("BTC/USDT", "1h", end="2024-01-01", limit=7)
    assert before.index[-1] == pd.Timestamp("2023-12-31 23:00", tz="UTC")
    assert len(before) == 7
    oldest = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", limit=7)
    assert oldest.index[0] == pd.Timestamp("2024-01-01", tz="UTC")
    assert len(oldest) == 7
    assert len(fetcher.fetch("BTC/USDT", "1h")) == 500


def test_limit_reaches_over_an_outage_and_stops_at_the_listing(world: World) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "1m", end="2023-03-24T14:00", limit=30)
    assert len(frame) == 30
    assert frame.index[-1] == pd.Timestamp("2023-03-24 12:39", tz="UTC")
    assert len(fetcher.fetch("BTC/USDT", "1d", end="2017-08-20", limit=100)) == 3


def test_days_count_back_from_the_end(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "1h", days=2)
    assert len(frame) == 48
    assert frame.index[-1] == pd.Timestamp("2024-06-15 11:00", tz="UTC")
    assert len(world.fetcher().fetch("BTC/USDT", "1h", end="2024-06-03", days=1)) == 24


@pytest.mark.slow
@pytest.mark.fault("B08")
def test_every_small_range_returns_each_candle_once(world: World) -> None:
    fetcher = world.fetcher()
    everything = world.truth("BTCUSDT", "5m", "2024-06-01", "2024-06-01T02:00")
    for first in range(0, 120, 7):
        for length in (1, 4, 5, 6, 23, 60):
            start_ms = ms("2024-06-01") + first * 60_000
            end_ms = min(start_ms + length * 60_000, ms("2024-06-01T02:00"))
            frame = fetcher.fetch("BTC/USDT", "5m", start_ms, end_ms)
            inside = (everything["open_time"] >= start_ms) & (everything["open_time"] < end_ms)
            assert index_ms(frame).tolist() == everything["open_time"][inside].tolist()
    assert len(world.asked()) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"symbol": "../../x"}, "not valid for"),
        ({"timeframe": "hourly"}, "Did you mean 1h"),
        ({"timeframe": "1T"}, "Did you mean 1m"),
        ({"start": "tomorrow"}, "start 'tomorrow'"),
        ({"start": "2024-06-02", "end": "2024-06-01"}, "not before end"),
        ({"start": "2024-06-01", "days": 3}, "days=3"),
        ({"start": "2030-01-01"}, "lies in the future"),
        ({"limit": 0}, "limit 0"),
        ({"end": "1960-01-01"}, "before 1970"),
        ({"columns": "olhc"}, "columns 'olhc'"),
        ({"on_gap": "fil"}, "on_gap 'fil'"),
        ({"kind": "marks"}, "'marks'"),
        ({"provider": "binanse"}, "Did you mean 'binance"),
        ({"source": "net"}, "source 'net'"),
    ],
)
def test_wrong_input_is_told_with_its_value_and_asks_nobody(world: World, wrong: dict, said: str) -> None:
    arguments = {"symbol": "BTC/USDT", "timeframe": "1h", **wrong}
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        world.fetcher().fetch(**arguments)
    assert world.asked() == []


@pytest.mark.fault("H01")
def test_a_start_in_seconds_is_refused_before_anything_is_asked(world: World) -> None:
    fetcher = world.fetcher()
    now_s = int(world.now_s)
    for call in (
        lambda: fetcher.fetch("BTC/USDT", "1h", now_s - 86_400),
        lambda: fetcher.fetch("BTC/USDT", "1h", "2024-01-01", now_s),
        lambda: fetcher.fetch("BTC/USDT", "1d", 100),
        lambda: fetcher.export("BTC/USDT", "1d", float(now_s)),
        lambda: fetcher.plan("BTC/USDT", "1d", np.int64(now_s)),
        lambda: fetcher.gaps("BTC/USDT", "1d", str(now_s)),
        lambda: fetcher.fetch_funding("BTC/USDT", now_s, provider="binance-um"),
    ):
        with pytest.raises(InputError, match="expected milliseconds"):
            call()
    assert world.asked("") == []


def test_words_name_instants_of_the_fetchers_clock(world: World) -> None:
    fetcher = world.fetcher()
    yesterday = fetcher.fetch("BTC/USDT", "1h", "yesterday", "today")
    same(yesterday, world.truth("BTCUSDT", "1h", "2024-06-14", "2024-06-15"))
    assert (
        manifest_of(fetcher.fetch("BTC/USDT", "1h", "7d"))["rows"]
        == manifest_of(fetcher.fetch("BTC/USDT", "1h", days=7))["rows"]
        == 168
    )
    assert manifest_of(fetcher.fetch("BTC/USDT", "1h", "2024", "20240102"))["rows"] == 24
    assert fetcher.fetch("BTC/USDT", "1h", end="now", limit=1).index[-1] == pd.Timestamp("2024-06-15 11:00", tz="UTC")


@pytest.mark.parametrize("timeframe", ["1d", "1w", "2d"])
def test_the_first_start_is_the_listing(world: World, timeframe: str) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("SOL/USDT", timeframe, "first", "2020-09-20")
    slot = parse_timeframe(timeframe)
    assert index_ms(frame)[0] == slot.open_ms(slot.ordinal(ms("2020-08-11T06:00")))
    assert manifest_of(frame)["gaps"] == []
    assert (
        manifest_of(frame)["expected"] == len(frame) == len(fetcher.fetch("SOL/USDT", timeframe, "2020", "2020-09-20"))
    )
    assert len(fetcher.fetch("SOL/USDT", timeframe, "first", limit=3)) == 3
    whole = fetcher.plan("SOL/USDT", timeframe, "first", "2020-09-20").span
    assert iso(whole.start_ms) == manifest_of(frame)["start"]
    pieces = list(fetcher.iter_frames("SOL/USDT", timeframe, "first", "2020-09-20", rows=1000))
    assert pieces[0].equals(frame)


def test_a_listing_that_cannot_be_known_is_an_error(world: World) -> None:
    with pytest.raises(IncompleteData, match="no source that was asked knows the first candle"):
        world.fetcher().fetch("SOL/USDT", "1d", "first", source="cache")
    with pytest.raises(candle_fetcher.NotOffered, match="cannot be asked for the first"):
        world.fetcher().fetch("BTC/USD", "1h", "first", provider="kraken")


@pytest.mark.fault("J20")
def test_a_number_may_be_text_in_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "timeout_s": "5", "max_retries": "2", "network_threads": "3", "io_threads": "1", "cache_ttl": "60",
        "use_cache": "no", "compression": "true",
    }  # fmt: skip
    for name, text in texts.items():
        with pytest.raises(InputError, match=f"{name} '{text}'"):
            candle_fetcher.CandleFetcher(**{name: text})
        monkeypatch.setenv(f"CANDLE_FETCHER_{name.upper()}", text)
    signature = inspect.signature(candle_fetcher.CandleFetcher).parameters
    _, settings = read_settings({name: one.default for name, one in signature.items()}, os.environ)
    assert (settings.timeout_s, settings.max_retries, settings.network_threads, settings.io_threads) == (5, 2, 3, 1)
    assert (settings.cache_ttl, settings.use_cache, settings.compression) == (60, False, True)
    for name in texts:
        monkeypatch.setenv(f"CANDLE_FETCHER_{name.upper()}", "much")
        with pytest.raises(InputError, match=f"{name} 'much'"):
            candle_fetcher.CandleFetcher()
        monkeypatch.delenv(f"CANDLE_FETCHER_{name.upper()}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("performance_mode", "fast"),
        ("memory_cache_size", "much"),
        ("network_threads", 0),
        ("timeout_s", -1),
        ("source", "web"),
        ("base_urls", {"binance": "http://example.com"}),
        ("base_urls", {"binance": "ftp://127.0.0.1"}),
        ("max_retries", "x"),
        ("cache_ttl", -5),
        ("progress", "yes"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(tmp_path: Path, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{value}" if setting != "base_urls" else "http|ftp"):
        candle_fetcher.CandleFetcher(**{setting: value})


def test_an_argument_beats_the_environment_which_beats_the_default(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_PROVIDER", "binance-um")
    monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", f"binance-um={world.exchange.base_urls['binance-um']}")
    from_environment = candle_fetcher.CandleFetcher(cache_dir=world.folder, clock=lambda: world.now_s)
    world.fetchers.append(from_environment)
    assert manifest_of(from_environment.fetch("BTC/USDT", "1h", limit=2))["provider"] == "binance-um"
    assert manifest_of(world.fetcher(provider="binance").fetch("BTC/USDT", "1h", limit=2))["provider"] == "binance"


# -- the truth about gaps
# -----------------------------------------------------------------------------------------------


@pytest.mark.fault("A13", "C01", "C03")
def test_an_outage_is_asked_for_again_alone_and_then_listed_as_a_gap(world: World) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "1m", "2023-03-24T12:00", "2023-03-24T15:00")
    same(frame, world.truth("BTCUSDT", "1m", "2023-03-24T12:00", "2023-03-24T15:00"))
    gap = {"first": "2023-03-24T12:40:00Z", "last": "2023-03-24T13:59:00Z", "count": 80, "cause": "no_candle"}
    assert manifest_of(frame)["gaps"] == [gap]
    assert (manifest_of(frame)["expected"], manifest_of(frame)["rows"]) == (180, 100)
    first, again = world.asked()
    assert (again["startTime"], again["endTime"]) == (str(ms("2023-03-24T12:40")), str(ms("2023-03-24T14:00") - 1))
    assert int(first["endTime"]) - int(first["startTime"]) == 60_000_000 - 1
    world.fetcher().fetch("BTC/USDT", "1m", "2023-03-24T12:00", "2023-03-24T15:00")
    assert world.asked() == []
    world.now_s += 31 * 86_400
    world.fetcher().fetch("BTC/USDT", "1m", "2023-03-24T12:00", "2023-03-24T15:00")
    assert [one["startTime"] for one in world.asked()] == [str(ms("2023-03-24T12:40"))]


@pytest.mark.fault("C01")
def test_rows_that_come_late_are_found_and_the_count_starts_anew(world: World) -> None:
    hole = (ms("2024-06-01T10:00"), ms("2024-06-01T11:00"))
    world.exchange.hide("binance", "BTCUSDT", hole)
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-02")
    assert manifest_of(frame)["gap_count"] == 1
    world.exchange.unhide("binance", "BTCUSDT")
    assert len(fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-02")) == 1380
    whole = fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-02", on_gap="refetch")
    same(whole, world.truth("BTCUSDT", "1m", "2024-06-01", "2024-06-02"))
    assert len(world.fetcher().fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-02")) == 1440


@pytest.mark.fault("C03")
def test_a_young_gap_is_asked_for_again_after_an_hour(world: World) -> None:
    hole = (ms("2024-06-15T10:00"), ms("2024-06-15T11:00"))
    world.exchange.hide("binance", "BTCUSDT", hole)
    fetcher = world.fetcher()
    for _ in range(100):
        fetcher.fetch("BTC/USDT", "1m", "2024-06-15T09:00", "2024-06-15T11:30")
    assert len(world.asked()) == 2
    world.exchange.unhide("binance", "BTCUSDT")
    world.now_s += 3601
    assert len(fetcher.fetch("BTC/USDT", "1m", "2024-06-15T09:00", "2024-06-15T11:30")) == 150


@pytest.mark.fault("A13")
def test_a_start_before_the_listing_costs_two_replies_once(world: World) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "1h", "2010-01-01", "2017-09-01")
    same(frame, world.truth("BTCUSDT", "1h", "2017-01-01", "2017-09-01"))
    assert manifest_of(frame)["gaps"][0] == {
        "first": "2010-01-01T00:00:00Z",
        "last": "2017-08-17T03:00:00Z",
        "count": 66_844,
        "cause": "not_listed",
    }
    assert len(world.asked()) <= 1 + 2
    fetcher.fetch("BTC/USDT", "1h", "2011-01-01", "2017-09-01")
    world.fetcher().fetch("BTC/USDT", "1h", "2012-01-01", "2017-09-01")
    assert world.asked() == []


def test_a_start_before_the_listing_of_coin_margined_futures_costs_its_windows(world: World) -> None:
    fetcher = world.fetcher(provider="binance-cm")
    frame = fetcher.fetch("BTC/USD", "1h", "2019-01-01", "2020-09-01")
    same(frame, world.truth("BTCUSD_PERP", "1h", "2019-01-01", "2020-09-01", provider="binance-cm"))
    assert manifest_of(frame)["gaps"][0]["cause"] == "not_listed"
    assert len(world.asked()) <= 13  # the windows up to the first candle are asked twice: one empty reply is no proof
    fetcher.fetch("BTC/USD", "1h", "2019-02-01", "2020-09-01")
    assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("A13", "C14")
def test_after_the_delisting_nothing_is_asked_chunk_by_chunk(tmp_path: Path) -> None:
    with World(tmp_path, now="2026-06-15T12:00:30") as world:
        fetcher = world.fetcher()
        frame = fetcher.fetch("EOS/ETH", "15m", "2025-03-01", "2026-06-01")
        same(frame, world.truth("EOSETH", "15m", "2025-03-01", "2026-06-01"))
        assert manifest_of(frame)["gaps"][-1]["cause"] == "after_delisting"
        needed = (frame.index[-1] - frame.index[0]) // pd.Timedelta(minutes=15_000) + 1
        assert needed < 12  # of 44 chunks
        assert len(world.asked()) <= needed + 6
        fetcher.fetch("EOS/ETH", "15m", "2025-03-01", "2026-06-01", columns="all")
        assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("B13")
@pytest.mark.parametrize("provider", ["binance", "binance-um", "binance-cm"])
def test_a_start_in_any_year_is_a_start_at_the_listing(world: World, provider: str) -> None:
    symbol, theirs = ("BTC/USD", "BTCUSD_PERP") if provider == "binance-cm" else ("BTC/USDT", "BTCUSDT")
    fetcher = world.fetcher(provider=provider)
    for timeframe in ("1d", "1w", "1M", "3d"):
        for start in ("0001-01-01", "1969-12-31", "1970-01-01"):
            frame = fetcher.fetch(symbol, timeframe, start, "2024-06-01", columns="all")
            same(frame, world.truth(theirs, timeframe, "2015-01-01", "2024-06-01", provider=provider))
            assert manifest_of(frame)["gaps"][0]["cause"] == "not_listed"
            assert manifest_of(frame)["gaps"][0]["first"][:4] in ("1969", "1970")
    frame = fetcher.fetch(symbol, "1h", "2024-06-14", "9999-12-31")
    assert frame.index[-1] == pd.Timestamp("2024-06-15 11:00", tz="UTC")


def test_first_available_is_the_first_minute_and_remembered(world: World) -> None:
    fetcher = world.fetcher()
    assert fetcher.first_available("SOL/USDT") == pd.Timestamp("2020-08-11 06:00", tz="UTC")
    assert fetcher.first_available("BTC/USD", provider="binance-cm") == pd.Timestamp("2020-08-11 06:00", tz="UTC")
    world.asked()
    assert fetcher.first_available("SOL/USDT", source="cache") == pd.Timestamp("2020-08-11 06:00", tz="UTC")
    assert world.asked() == []


@pytest.mark.fault("C01")
def test_on_gap_can_raise_or_invent_marked_rows_that_are_never_stored(world: World) -> None:
    fetcher = world.fetcher()
    span = ("BTC/USDT", "1m", "2023-03-24T12:00", "2023-03-24T15:00")
    with pytest.raises(IncompleteData, match="80 candles") as raised:
        fetcher.fetch(*span, on_gap="raise")
    assert raised.value.missing[0].count == 80
    assert len(raised.value.frame) == 100
    for how in ("ffill", "interpolate"):
        filled = fetcher.fetch(*span, on_gap=how)
        assert len(filled) == 180
        assert filled["is_synthetic"].sum() == 80
        assert filled.loc[filled["is_synthetic"], "volume"].eq(0).all()
        same(filled[~filled["is_synthetic"]].drop(columns="is_synthetic"), world.truth("BTCUSDT", *span[1:]))
    assert len(fetcher.fetch(*span)) == 100
    assert "is_synthetic" not in fetcher.fetch(*span)


def test_gaps_lists_every_gap_with_its_cause(world: World) -> None:
    gaps = world.fetcher().gaps("BTC/USDT", "1h", "2017-08-01", "2024-01-01")
    assert list(gaps.columns) == ["first", "last", "count", "cause"]
    assert gaps["cause"].tolist()[0] == "not_listed"
    assert set(gaps["cause"]) == {"not_listed", "no_candle"}
    # exchanges: on 1h the real outages leave 28 runs since the listing, of which the practice exchange has those from
    # 2018 on
    assert len(gaps) >= 25


# -- the live edge
# -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("B02")
def test_only_settled_candles_come_back_and_only_the_tail_is_asked_for(world: World) -> None:
    fetcher = world.fetcher()
    seen = []
    for _ in range(6):
        frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00")
        now_ms = world.now_s * 1000
        assert index_ms(frame)[-1] + 60_000 <= now_ms - 2_000
        assert index_ms(frame)[-1] + 60_000 > now_ms - 2_000 - 60_000
        seen.append([int(one["startTime"]) for one in world.asked()])
        world.now_s += 31
    assert seen[0]
    # And with it what was read within two minutes of its close.
    assert [start for starts in seen[1:] for start in starts] == [
        ms("2024-06-15T11:58") + minute * 60_000 for minute in range(3)
    ]


def test_a_range_that_ends_before_the_tail_sends_nothing(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00")
    world.asked()
    world.now_s += 300
    fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00", "2024-06-15T11:50")
    assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("B02")
def test_include_open_adds_the_forming_candle_and_says_so(world: World) -> None:
    fetcher = world.fetcher()
    for timeframe in ("1m", "1h", "1d", "3d", "45m"):
        frame = fetcher.fetch("BTC/USDT", timeframe, limit=5, include_open=True)
        assert frame["is_closed"].tolist() == [True] * 4 + [False]
        settled = fetcher.fetch("BTC/USDT", timeframe, limit=4)
        assert index_ms(frame)[:4].tolist() == index_ms(settled).tolist()
    assert "is_closed" not in fetcher.fetch("BTC/USDT", "1m", limit=5)


@pytest.mark.fault("B03")
@pytest.mark.parametrize("skew_s", [-86_400, -61, 61, 86_400])
def test_the_clock_of_the_provider_decides_and_a_skew_is_told(world: World, skew_s: int) -> None:
    fetcher = world.fetcher(clock=lambda: world.now_s + skew_s)
    with pytest.warns(ClockSkew, match=f"{abs(skew_s):,}"):
        frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-15T11:00", "2024-06-15T13:00")
    same(frame, world.truth("BTCUSDT", "1m", "2024-06-15T11:00", "2024-06-15T12:00"))


def test_cache_ttl_caps_how_long_the_newest_candle_is_believed(world: World) -> None:
    fetcher = world.fetcher(cache_ttl=60)
    fetcher.fetch("BTC/USDT", "1h", "2024-06-15")
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-15T11:00"), volume="77.00000000")
    assert fetcher.fetch("BTC/USDT", "1h", "2024-06-15")["volume"].iloc[-1] != 77
    world.now_s += 61
    assert fetcher.fetch("BTC/USDT", "1h", "2024-06-15")["volume"].iloc[-1] == 77


def test_refresh_asks_again_for_everything_and_keeps_the_new_values(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-01T05:00"), volume="77.00000000")
    assert fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")["volume"].iloc[5] != 77
    assert fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02", refresh=True)["volume"].iloc[5] == 77
    assert world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")["volume"].iloc[5] == 77


# -- resampling
# ------------------------------------------------------------------------------------------------------------


def test_other_multiples_are_made_of_the_largest_timeframe_that_divides_them(world: World) -> None:
    fetcher = world.fetcher()
    frame = fetcher.fetch("BTC/USDT", "45m", "2024-06-01", "2024-06-02")
    fine = fetcher.fetch("BTC/USDT", "15m", "2024-06-01", "2024-06-02")
    assert {one["interval"] for one in world.asked()} == {"15m"}
    assert len(frame) == 32
    assert frame["high"].iloc[0] == fine["high"].iloc[:3].max()
    assert frame["open"].iloc[1] == fine["open"].iloc[3]
    assert manifest_of(frame)["timeframe"] == "45m"
    same(
        fetcher.fetch("BTC/USDT", "60m", "2024-06-01", "2024-06-02"),
        world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-02"),
    )


@pytest.mark.fault("C13")
def test_a_resampled_candle_of_an_incomplete_set_is_listed_as_partial(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "7h", "2023-03-23", "2023-03-26")
    hour = ms("2023-03-24T13:00")
    assert [ms(text[:-1]) for text in manifest_of(frame)["partial"]] == [hour - hour % (7 * 3_600_000)]
    assert manifest_of(frame)["gap_count"] == 0


# -- many symbols, threads, memory
# -----------------------------------------------------------------------------------------


def test_fetch_many_returns_each_symbol_and_one_failure_loses_none(world: World) -> None:
    fetcher = world.fetcher()
    frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT", "BNB/USDT"], "1h", "2024-06-01", "2024-06-08")
    assert list(frames) == ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    for name, frame in frames.items():
        same(frame, world.truth(name.replace("/", ""), "1h", "2024-06-01", "2024-06-08"))
    with pytest.raises(FetchManyError) as raised:
        fetcher.fetch_many(["BTC/USDT", "BTC/USDX"], "1h", "2024-06-01", "2024-06-08")
    assert list(raised.value.frames) == ["BTC/USDT"]
    assert isinstance(raised.value.errors["BTC/USDX"], UnknownSymbol)
    assert "BTC/USDT" in raised.value.errors["BTC/USDX"].closest


@pytest.mark.fault("D22")
def test_threads_that_want_the_same_chunks_download_each_once(world: World) -> None:
    fetcher = world.fetcher()
    frames: list[pd.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: frames.append(fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-08")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(frames) == 16
    asked = [(one["startTime"], one["endTime"]) for one in world.asked()]
    assert len(asked) == len(set(asked)) == 11
    for frame in frames:
        same(frame, world.truth("BTCUSDT", "1m", "2024-06-01", "2024-06-08"))


@pytest.mark.fault("D27")
def test_editing_a_frame_that_was_handed_out_changes_no_other(world: World) -> None:
    fetcher = world.fetcher()
    truth = world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-08")
    for _ in range(3):
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-08")
        same(frame, truth)
        frame.iloc[3, 0] = -1.0
        frame.loc[:, "close"] = 0.0
        frame["volume"] += 1.0
        manifest_of(frame)["rows"] = -5
    assert manifest_of(fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-08"))["rows"] == 168


def test_iter_frames_yields_the_whole_range_in_order_in_bounded_pieces(world: World) -> None:
    fetcher = world.fetcher()
    whole = fetcher.fetch("BTC/USDT", "1m", "2023-03-20", "2023-03-27")
    for rows in (1000, 2500, 100_000):
        pieces = list(fetcher.iter_frames("BTC/USDT", "1m", "2023-03-20", "2023-03-27", rows=rows))
        assert max(len(piece) for piece in pieces) <= rows
        pd.testing.assert_frame_equal(pd.concat(pieces), whole, check_exact=True)
        assert sum(manifest_of(piece)["rows"] for piece in pieces) == len(whole)
        assert sum(gap["count"] for piece in pieces for gap in manifest_of(piece)["gaps"]) == 80


@pytest.mark.fault("E09")
def test_an_iterator_that_is_given_up_asks_for_nothing_more(world: World) -> None:
    for _ in world.fetcher().iter_frames("BTC/USDT", "1m", "2024-01-01", "2024-06-01", rows=5_000):
        break
    asked = len(world.asked())
    assert asked <= 8
    assert world.asked() == []


# -- without a network
# -------------------------------------------------------------------------------------------------------


def test_out_of_the_cache_alone_it_asks_nobody_and_ends_at_what_is_stored(world: World) -> None:
    world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-10")
    stored = world.asked()
    assert stored
    offline = world.fetcher(source="cache")
    assert len(offline.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-10")) == 216
    newest = offline.fetch("BTC/USDT", "1h", "2024-06-01")
    assert len(newest) >= 216
    with pytest.raises(IncompleteData, match="allows no other source") as raised:
        offline.fetch("BTC/USDT", "1h", "2023-01-01", "2024-06-10")
    assert len(raised.value.frame) == 216
    assert raised.value.missing[0].cause == "fetch_failed"
    with pytest.raises(IncompleteData):
        offline.fetch("ETH/USDT", "1h", "2024-06-01", "2024-06-10")
    assert world.exchange.requests == []


def test_an_archive_that_is_not_offered_is_said_so(world: World) -> None:
    with pytest.raises(NotOffered, match="archive"):
        world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-10", source="archive", provider="binance-us")


# -- what is said
# ---------------------------------------------------------------------------------------------------------------


def test_the_manifest_is_json_and_tells_range_rows_and_sources(world: World) -> None:
    frame = world.fetcher().fetch("btc-usdt", "1h", "2024-06-01", "2024-06-02")
    manifest = json.loads(json.dumps(frame.attrs))[MANIFEST]
    assert manifest["symbol"] == "BTC/USDT"
    assert manifest["origin"] == world.exchange.base_urls["binance"]
    assert (manifest["start"], manifest["end"]) == ("2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z")
    assert (manifest["expected"], manifest["rows"], manifest["gap_count"]) == (24, 24, 0)
    assert manifest["sources"] == {"memory": 0, "disk": 0, "archive": 0, "rest": 24}
    assert len(manifest["fingerprint"]) == 64
    assert manifest["version"] == candle_fetcher.__version__


def test_the_plan_is_what_the_fetch_then_sends(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.first_available("BTC/USDT")
    for start, end in (("2024-02-01", "2024-03-01"), ("2024-01-20", "2024-03-10"), ("2024-02-05", "2024-02-10")):
        fetcher.fetch("BTC/USDT", "1h", "2017-09-20", "2017-10-01")
        world.asked()
        plan = fetcher.plan("BTC/USDT", "1m", start, end)
        fetcher.fetch("BTC/USDT", "1m", start, end)
        requests = [request for request in world.exchange.requests if "klines" in request.path]
        world.asked()
        assert len(requests) == plan.requests
        assert sum(request.path.endswith(".zip") for request in requests) == plan.files
        assert sum(request.weight for request in requests) == plan.weight
        assert str(plan).startswith("binance BTC/USDT 1m")
    assert fetcher.plan("BTC/USDT", "1m", "2024-01-20", "2024-03-10").requests == 0


def test_symbols_are_listed_once_a_day_and_served_stale_without_a_network(world: World) -> None:
    fetcher = world.fetcher()
    listed = fetcher.symbols()
    assert {"BTC/USDT", "EOS/ETH"} <= set(listed["symbol"])
    assert len(world.asked("exchangeInfo")) == 1
    world.fetcher().symbols()
    assert world.asked("exchangeInfo") == []
    world.now_s += 90_000
    late = world.fetcher(max_retries=0)
    world.exchange.close()
    assert len(late.symbols()) == len(listed)


def test_a_closed_fetcher_says_so_and_can_be_closed_again(world: World) -> None:
    others = set(threading.enumerate())

    def own() -> list[str]:
        started = [thread.name for thread in threading.enumerate() if thread not in others]
        return [name for name in started if name.startswith("candle-") and "practice" not in name]

    fetcher = world.fetcher()
    fetcher.fetch("BTC/USDT", "1h", limit=3)
    assert any(name.startswith("candle-network-") for name in own())
    fetcher.close()
    fetcher.close()
    assert own() == []
    with pytest.raises(candle_fetcher.CandleFetcherError, match="closed"):
        fetcher.fetch("BTC/USDT", "1h", limit=3)


def test_nothing_is_written_and_nobody_asked_before_the_first_call(tmp_path: Path) -> None:
    with candle_fetcher.CandleFetcher(cache_dir=tmp_path / "cache"):
        assert not (tmp_path / "cache").exists()


def test_the_module_level_fetch_uses_one_fetcher(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", f"binance={world.exchange.base_urls['binance']}")
    monkeypatch.setenv("CANDLE_FETCHER_CACHE_DIR", str(world.folder))
    world.now_s = time.time()  # which is the clock of a fetcher that is made so
    frame = candle_fetcher.fetch("BTC/USDT", "1h", "2023-06-01", "2023-06-02")
    again = candle_fetcher.fetch("BTC/USDT", "1h", "2023-06-01", "2023-06-02")
    same(frame, world.truth("BTCUSDT", "1h", "2023-06-01", "2023-06-02"))
    assert manifest_of(again)["sources"]["memory"] == 24
    from candle_fetcher.fetcher import shared

    shared.shared_fetcher().close()
    shared.shared_fetcher.cache_clear()


def test_warm_and_cold_frames_are_equal_to_the_last_attribute(world: World) -> None:
    fetcher = world.fetcher()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cold = fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03", columns="all")
        warm = fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-03", columns="all")
    pd.testing.assert_frame_equal(cold, warm, check_exact=True)
    for frame in (cold, warm):
        assert frame.index.name == "timestamp"
        assert str(frame.index.dtype) == "datetime64[ns, UTC]"
        assert frame.index.freq is None
        assert frame["trades"].dtype == "Int64"


@pytest.mark.slow
@pytest.mark.fault("F05", "F07")
def test_an_exported_file_reads_back_as_the_frame_and_has_a_telling_name(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher()
    for columns in ("ohlcv", "all"):
        path = fetcher.export("BTC/USDT", "1m", "2023-03-23", "2023-03-26", path=tmp_path / columns, columns=columns)
        assert path.name == "BTC_USDT_1m_20230323_20230326.csv"
        times = ["timestamp", "close_time"] if columns == "all" else ["timestamp"]
        read = pd.read_csv(path, parse_dates=times, date_format="ISO8601", index_col=0, **EXACT)
        frame = fetcher.fetch("BTC/USDT", "1m", "2023-03-23", "2023-03-26", columns=columns)
        assert list(read.columns) == list(frame.columns)
        assert (read.index.tz_localize("UTC") == frame.index).all()
        for name in frame.columns:
            values = read[name].dt.tz_localize("UTC") if name == "close_time" else read[name]
            assert (values.to_numpy() == frame[name].to_numpy()).all(), name
        assert path.read_bytes().startswith(b"timestamp,open,high,low,close,volume")
        assert b"\n2023-03-23 00:00:00," in path.read_bytes()
    names = [
        fetcher.export("BTC/USDT", "1M", "2023-01-01", "2024-01-01", path=tmp_path).name,
        fetcher.export("BTC/USD", "1h", "2024-01-01T06:30", "2024-01-02", path=tmp_path, provider="binance-cm").name,
        fetcher.export(
            "BTC/USDT", "1h", "2024-01-01", "2024-01-02", path=tmp_path, provider="binance-um", kind="mark"
        ).name,
        fetcher.export("BTC/USDT", "1d", limit=3, path=tmp_path / "mine.csv").name,
    ]
    assert names == [
        "BTC_USDT_1mo_20230101_20240101.csv",
        "binance-cm_BTC_USD_1h_20240101T0630_20240102.csv",
        "binance-um_BTC_USDT_mark_1h_20240101_20240102.csv",
        "mine.csv",
    ]
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


@pytest.mark.slow
def test_an_export_that_fails_leaves_the_old_file_and_no_other(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher(max_retries=0)
    path = fetcher.export("BTC/USDT", "1h", "2024-06-01", "2024-06-02", path=tmp_path / "mine.csv")
    before = path.read_bytes()
    world.exchange.close()
    with pytest.raises(IncompleteData):
        fetcher.export("BTC/USDT", "1h", "2024-01-01", "2024-06-02", path=tmp_path / "mine.csv")
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["mine.csv", "mine.json"]
    assert path.read_bytes() == before
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"):
        fetcher.export("BTC/USDT", "1h", "2024-06-01", "2024-06-02", path=tmp_path / "taken")


def other_files(fetcher: CandleFetcher, folder: Path) -> dict[str, bytes]:
    """What may lie under the name of an export of SPRING already."""
    other = lambda *what, **how: fetcher.export(*what, path=folder / "other.csv", **how).read_bytes()  # noqa: E731
    whole = other(*SPRING)
    return {
        "overlap": other("BTC/USDT", "1m", "2024-04-30", "2024-05-02"),
        "another timeframe": other("BTC/USDT", "1h", *SPRING[2:]),
        "other columns": other(*SPRING, columns="all"),
        "no newline at the end": whole.rstrip(b"\n"),
        "foreign": "Datum;Schlu\u00df\r\n1.6.2024;67.540,01\r\n".encode("utf-16"),
        "cut": whole[: len(whole) * 2 // 3 + 7],
    }


SPRING = ("BTC/USDT", "1m", "2024-05-01", "2024-06-08")  # more than is written at once


@pytest.mark.slow
@pytest.mark.fault("F08")
def test_an_export_takes_the_place_of_what_was_there_and_adds_to_nothing(
    world: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("runs", 6)
    fetcher = world.fetcher()
    expected = fetcher.export(*SPRING, path=tmp_path).read_bytes()
    target = tmp_path / "exported" / "mine.csv"
    target.parent.mkdir()
    for name, before in other_files(fetcher, tmp_path).items():
        target.write_bytes(before)
        assert fetcher.export(*SPRING, path=target) == target
        assert target.read_bytes() == expected != before, name
        assert sorted(target.parent.iterdir()) == [target, target.with_suffix(".json")], name
    times = pd.read_csv(target, index_col="timestamp", parse_dates=True).index
    assert times.is_unique
    assert len(times) == 38 * 1440


@pytest.mark.slow
@pytest.mark.fault("F08")
def test_an_export_that_fails_half_way_leaves_what_was_there(
    world: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("runs", 6)
    target = tmp_path / "exported" / "mine.csv"
    target.parent.mkdir()
    with world.fetcher() as other:
        files = other_files(other, tmp_path)
        other.cache.clear()
    fetcher = world.fetcher(max_retries=0, source="rest")
    fetcher.fetch("BTC/USDT", "1m", "2024-05-01", "2024-06-05")
    world.exchange.fail(faults.status(500), times=None, match="klines")
    for name, before in files.items():
        target.write_bytes(before)
        with pytest.raises(IncompleteData):
            fetcher.export(*SPRING, path=target)
        assert target.read_bytes() == before, name
        assert list(target.parent.iterdir()) == [target], name


def test_resampled_sums_are_the_ones_that_the_exchange_prints(world: World) -> None:
    from candle_fetcher.core.resample import resample
    from candle_fetcher.core.timeframe import parse_timeframe
    from candle_fetcher.fetcher.collect import Collector

    fetcher = world.fetcher()
    request = make_request(fetcher._runtime, Arguments("BTC/USDT", "1m", read_range("2024-06-01", "2024-06-03")))
    with fetcher._runtime.scope() as scope:
        collector = Collector(
            fetcher._runtime.resources(), request, read_policy(fetcher._runtime.settings, None, "all"), scope
        )
        fine = collector.collect(collector.span())
    made, partial = resample(fine.candles, parse_timeframe("1m"), parse_timeframe("1h"), fine.span)
    truth = world.truth("BTCUSDT", "1h", "2024-06-01", "2024-06-03")
    assert partial == []
    for name in made.names:
        ours = made.integers(name) if name in ("open_time", "close_time", "trades") else made.floats(name)
        assert np.array_equal(ours, truth[name]), name


@pytest.mark.slow(keep=("1w",))
@pytest.mark.fault("C14")
@pytest.mark.parametrize("timeframe", ["1h", "1d", "1w"])
def test_a_delisting_is_the_cause_wherever_the_range_ends(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path, now="2026-06-15T12:00:30") as world:
        for span in (("2025-05-20", "2025-06-05"), ("2025-05-20", "2026-06-05"), ("2017-01-01", "2026-06-05")):
            gaps = world.fetcher(use_cache=False).gaps("EOS/ETH", timeframe, *span)
            assert gaps["cause"].tolist()[-1] == "after_delisting", span


@pytest.mark.fault("A13")
def test_an_outage_at_the_end_of_what_is_asked_is_no_delisting(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-15T10:00"), ms("2024-06-15T12:00")))
    fetcher = world.fetcher()
    for _ in range(5):
        frame = fetcher.fetch("BTC/USDT", "1m", "2024-06-15T08:00")
        assert [gap["cause"] for gap in manifest_of(frame)["gaps"]] == ["no_candle"]
        world.now_s += 60
    assert len(world.asked("exchangeInfo")) <= 2
    world.exchange.unhide("binance", "BTCUSDT")
    world.now_s += 3_700
    assert manifest_of(fetcher.fetch("BTC/USDT", "1m", "2024-06-15T08:00"))["gap_count"] == 0


def test_an_unknown_setting_is_told_with_the_closest_one() -> None:
    with pytest.raises(InputError, match="memory_cache_size"):
        candle_fetcher.CandleFetcher(memory_cache="1GB")
    with pytest.raises(InputError, match="Did you mean 'binance'"):
        candle_fetcher.CandleFetcher(base_urls={"binanse": "http://127.0.0.1:1"})


@pytest.mark.slow(keep=("leave-1m", "leave-3d", "ffill-1m"))
@pytest.mark.parametrize("timeframe", ["1m", "1d", "3d", "45m"])
@pytest.mark.parametrize("on_gap", ["leave", "ffill"])
def test_the_forming_candle_counts_among_the_newest(world: World, timeframe: str, on_gap: str) -> None:
    fetcher = world.fetcher()
    for limit in (1, 2, 3, 1500):
        frame = fetcher.fetch("BTC/USDT", timeframe, limit=limit, include_open=True, on_gap=on_gap)
        manifest = manifest_of(frame)
        assert len(frame) == manifest["rows"]
        assert manifest["expected"] == len(frame) + sum(gap["count"] for gap in manifest["gaps"])
        assert timeframe == "45m" or sum(manifest["sources"].values()) == len(frame)
        assert len(frame) == limit or manifest["gaps"][0]["cause"] == "not_listed"
        assert frame["is_closed"].tolist() == [True] * (len(frame) - 1) + [False]


@pytest.mark.slow
def test_the_oldest_candles_do_not_reach_for_the_forming_one(world: World) -> None:
    frame = world.fetcher().fetch("BTC/USDT", "1h", "2024-01-01", limit=5, include_open=True)
    assert frame["is_closed"].tolist() == [True] * 5
    assert manifest_of(frame)["rows"] == 5
    near = world.fetcher().fetch("BTC/USDT", "1h", "2024-06-15T10:00", limit=5, include_open=True)
    assert near["is_closed"].tolist() == [True, True, False]
