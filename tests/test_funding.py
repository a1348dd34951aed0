"""Funding rates: every record as it was sent, nothing that is settled asked for twice, or an error."""

from __future__ import annotations

import csv
import json
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, manifest_of, ms

from candle_fetcher import (
    AccessDenied,
    ArchiveMismatch,
    Banned,
    CandleFetcherError,
    CandleFetcherWarning,
    ClockSkew,
    IncompleteData,
    InputError,
    NotOffered,
    ReplyError,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.cli import main
from candle_fetcher.core.candles import candles_from
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.funding import FUNDING_COLUMNS, check_funding, funding_frame
from candle_fetcher.core.spans import Span
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.practice import damage, faults
from candle_fetcher.practice.damage import pack
from candle_fetcher.providers import find_funding, find_provider
from candle_fetcher.providers.binance_funding import parse_funding

MONTH = ("BTC/USDT", "2024-03-01", "2024-04-01")
UM, CM = find_provider("binance-um"), find_provider("binance-cm")
ALL = Span(0, 2**60)


def quick(world: World, **settings: Any) -> Any:
    """A fetcher of USDⓈ-M."""
    return world.fetcher(**{"provider": "binance-um", **settings})


def sent(world: World, symbol: str, start: str, end: str, path: str = "/fapi/v1/fundingRate") -> list[dict[str, Any]]:
    """What the exchange answers about the range, asked without our client, 40 days at a time."""
    import urllib.request

    name = "binance-cm" if path.startswith("/dapi") else "binance-um"
    rows: list[dict[str, Any]] = []
    for at in range(ms(start), ms(end), 40 * 86_400_000):
        until = min(at + 40 * 86_400_000, ms(end)) - 1
        url = f"{world.exchange.base_urls[name]}{path}?symbol={symbol}&startTime={at}&endTime={until}&limit=1000"
        with urllib.request.urlopen(url) as reply:
            rows += json.load(reply)
    world.exchange.clear_log()
    return rows


def equal(frame: pd.DataFrame, rows: list[dict[str, Any]], *, marks: bool = True) -> None:
    """Fails unless the frame holds those records, bit for bit; none of them has a mark price without `marks`."""
    assert index_ms(frame).tolist() == [row["fundingTime"] for row in rows]
    rates = np.array([float(row["fundingRate"]) for row in rows])
    prices = np.array([float((row.get("markPrice") if marks else None) or "nan") for row in rows])
    assert np.array_equal(frame["funding_rate"], rates)
    assert np.array_equal(frame["mark_price"], prices, equal_nan=True)


def asked(world: World) -> list[dict[str, str]]:
    return world.asked("v1/fundingRate")


def files(world: World) -> Counter[str]:
    """How often each file of the archive was asked for, its CHECKSUM apart, since the last look."""
    paths = [request.path for request in world.exchange.requests if request.market == "archive"]
    world.exchange.clear_log()
    return Counter(path.rpartition("/")[2] for path in paths if path.endswith(".zip"))


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_the_frame_holds_what_was_sent_to_the_millisecond(world):
    rows = sent(world, "BTCUSDT", "2023-09-01", "2024-03-01")
    frame = world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2023-09-01", "2024-03-01")
    equal(frame, rows)
    assert any(row["fundingTime"] % 1000 for row in rows), "the exchange is to jitter"
    assert list(frame.columns) == ["funding_rate", "mark_price"]
    assert (frame.dtypes == np.float64).all()
    assert str(frame.index.dtype) == "datetime64[ns, UTC]"
    assert frame.index.name == "timestamp"
    assert frame.index.is_monotonic_increasing
    assert frame.index.is_unique
    # Older records have no mark price: NaN, and nothing invented.
    assert frame["mark_price"].isna().any()
    assert frame["mark_price"].notna().any()


def test_coin_m_has_rates_and_no_mark_prices(world):
    rows = sent(world, "BTCUSD_PERP", "2024-01-01", "2024-02-01", "/dapi/v1/fundingRate")
    frame = world.fetcher().fetch_funding("BTC/USD", "2024-01-01", "2024-02-01", provider="binance-cm")
    equal(frame, rows)
    assert len(frame) == 93
    assert frame["mark_price"].isna().all()
    assert frame.attrs["candle_fetcher"]["symbol"] == "BTC/USD"


def test_the_manifest_says_what_the_frame_is(world):
    frame = world.fetcher().fetch_funding(*MONTH, provider="binance-um")
    manifest = frame.attrs["candle_fetcher"]
    assert json.loads(json.dumps(manifest)) == {
        "provider": "binance-um",
        "origin": world.exchange.base_urls["binance-um"],
        "symbol": "BTC/USDT",
        "kind": "funding",
        "start": "2024-03-01T00:00:00Z",
        "end": "2024-04-01T00:00:00Z",
        "rows": 93,
        "sources": {"memory": 0, "disk": 0, "archive": 0, "rest": 93},
        "without_mark_price": [],
        "unverified": [],
        "rejected": [],
        "retries": 0,
        "version": manifest["version"],
    }


def test_the_range_is_half_open_at_the_times_as_sent(world):
    fetcher = world.fetcher(provider="binance-um")
    times = index_ms(fetcher.fetch_funding(*MONTH)).tolist()
    for first, last in ((0, 5), (3, 4), (7, 90)):
        assert index_ms(fetcher.fetch_funding("BTC/USDT", times[first], times[last])).tolist() == times[first:last]
        inner = fetcher.fetch_funding("BTC/USDT", times[first] + 1, times[last] + 1)
        assert index_ms(inner).tolist() == times[first + 1 : last + 1]


@pytest.mark.slow
def test_no_interval_is_taken_for_eight_hours(world):
    # Records are eight, four or one hours apart; nothing says so beforehand.
    listed = world.fetcher(provider="binance-um")
    frames = {name: listed.fetch_funding(name, *MONTH[1:]) for name in listed.symbols()["provider_symbol"]}
    counts = {len(frame) for name, frame in frames.items() if "_" not in name}
    assert counts == {93, 186, 744}
    for name, frame in frames.items():
        equal(frame, sent(world, name, *MONTH[1:]))


def test_all_there_are_without_a_start_and_days_count_back_from_now(world):
    fetcher = world.fetcher(provider="binance-um")
    everything = fetcher.fetch_funding("BTC/USDT")
    equal(everything, sent(world, "BTCUSDT", "2019-08-01", "2024-06-15T12:00:30"))
    week = fetcher.fetch_funding("BTC/USDT", days=7)
    assert len(week) == 21
    assert week.attrs["candle_fetcher"]["start"] == "2024-06-08T12:00:30Z"
    assert week.attrs["candle_fetcher"]["end"] == "2024-06-15T12:00:30Z"


def test_a_range_that_lies_ahead_ends_now(world):
    frame = world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2024-06-15", "2030-01-01")
    assert len(frame) == 2
    assert frame.attrs["candle_fetcher"]["end"] == "2024-06-15T12:00:30Z"


def test_a_delivery_contract_has_no_funding(world):
    fetcher = world.fetcher(provider="binance-cm")
    contract = next(name for name in fetcher.symbols()["provider_symbol"] if name[-1].isdigit())
    assert fetcher.fetch_funding(contract, "2024-05-01", "2024-06-01").empty


def test_a_frame_that_is_changed_changes_no_other(world):
    fetcher = world.fetcher(provider="binance-um")
    fetcher.fetch_funding(*MONTH)
    first = fetcher.fetch_funding(*MONTH)
    first.iloc[:, :] = 7.0
    equal(fetcher.fetch_funding(*MONTH), sent(world, "BTCUSDT", *MONTH[1:]))


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow(keep=("7", "93", "1000"))
@pytest.mark.parametrize("limit", [1, 2, 7, 92, 93, 94, 1000])
def test_pages_of_any_size_end_in_the_same_records(world, limit):
    provider = replace(UM, funding=replace(find_funding(UM), limit=limit, limits=()))
    frame = world.fetcher().fetch_funding(*MONTH, provider=provider)
    pages = asked(world)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]))
    times = index_ms(frame).tolist()
    assert [int(page["startTime"]) for page in pages[1:]] == [
        times[min(at, len(times)) - 1] + 1 for at in range(limit, len(times) + limit, limit)
    ]
    assert {page["endTime"] for page in pages} == {str(ms("2024-04-01") - 1)}


def test_a_long_history_costs_a_request_a_thousand_records_and_one(world):
    frame = world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2020-01-01", "2024-01-01")
    assert len(frame) == 4383
    assert len(asked(world)) == 6


def test_a_short_page_is_not_the_end(world):
    world.exchange.fail(faults.transform(lambda body: json.dumps(json.loads(body)[:10]).encode()), match="fundingRate")
    frame = world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]))


def test_an_empty_first_page_of_a_month_is_not_believed_at_once(world):
    world.exchange.fail(faults.body(b"[]"), match="fundingRate")
    frame = world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]))


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_settled_history_is_asked_for_once(world):
    fetcher = world.fetcher(provider="binance-um")
    first = fetcher.fetch_funding("BTC/USDT", "2023-01-10", "2024-02-20")
    asked(world)
    again = fetcher.fetch_funding("BTC/USDT", "2023-01-10", "2024-02-20")
    inner = fetcher.fetch_funding("BTC/USDT", "2023-02-03T05:00", "2023-02-04")
    whole = fetcher.fetch_funding("BTC/USDT", "2023-01-01", "2024-03-01")  # months are asked for whole
    assert asked(world) == []
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert len(inner) == 2
    assert whole.attrs["candle_fetcher"]["sources"] == {"memory": len(whole), "disk": 0, "archive": 0, "rest": 0}


def test_another_process_reads_from_disk(world):
    first = world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    asked(world)
    again = world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    assert asked(world) == []
    assert again.attrs["candle_fetcher"]["sources"] == {"memory": 0, "disk": 93, "archive": 0, "rest": 0}
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_at_the_live_edge_only_the_tail_is_asked_for(world):
    fetcher = world.fetcher(provider="binance-um")
    last_ms = int(index_ms(fetcher.fetch_funding("BTC/USDT", "2024-01-01"))[-1])
    asked(world)
    world.now_s = ms("2024-06-15T16:30:00") / 1000
    for one in (fetcher, world.fetcher(provider="binance-um")):
        frame = one.fetch_funding("BTC/USDT", "2024-01-01")
        tail = asked(world)
        assert all(int(page["startTime"]) > last_ms for page in tail)
        assert len(tail) <= 2
        assert int(frame.index[-1].timestamp()) == ms("2024-06-15T16:00:00") // 1000
    equal(frame, sent(world, "BTCUSDT", "2024-01-01", "2024-06-15T16:30:00"))


def test_a_record_that_is_written_late_is_found(world):
    fetcher = world.fetcher(provider="binance-um")
    world.now_s = ms("2024-06-15T16:00:20") / 1000
    world.exchange.fail(
        faults.transform(lambda body: json.dumps(json.loads(body)[:-1]).encode()), times=1, match="fundingRate"
    )
    world.exchange.fail(faults.body(b"[]"), times=1, match="fundingRate")
    before = fetcher.fetch_funding("BTC/USDT", days=3)
    assert before.index[-1].hour == 8
    world.now_s += 10
    assert fetcher.fetch_funding("BTC/USDT", days=3).index[-1].hour == 16


@pytest.mark.fault("B03")
@pytest.mark.parametrize("ahead_s", [86_400 * 3, 86_400 * 40])
def test_with_a_clock_that_is_ahead_by_days_nothing_to_come_is_believed_to_be_known(world, ahead_s):
    early = world.fetcher(provider="binance-um", clock=lambda: world.now_s + ahead_s)
    for start, end in (("2024-06-01", "2024-06-10"), ("2024-06-10", "2024-06-16T20:00"), ("2024-06-12", None)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClockSkew)
            records = early.fetch_funding("BTC/USDT", start, end)
        assert records.index[-1] <= pd.Timestamp(world.now_s, unit="s", tz="UTC")
    world.now_s += 2 * 86_400
    after = world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", "2024-06-10", "2024-06-17")
    assert len(after) == 7 * 3


def test_a_refresh_that_breaks_off_loses_nothing_that_was_stored(world):
    months = ("SOL/USDT", "2024-04-01", "2024-06-01")  # hourly: two pages
    fetcher = world.fetcher(provider="binance-um", max_retries=0)
    before = fetcher.fetch_funding(*months)
    assert len(before) == 24 * 61
    world.exchange.fail(faults.status(500), times=None, match="fundingRate", after=1)
    with pytest.raises(IncompleteData):
        fetcher.fetch_funding(*months, refresh=True, source="rest")
    for one in (fetcher, world.fetcher(provider="binance-um")):
        pd.testing.assert_frame_equal(one.fetch_funding(*months, source="cache"), before, check_exact=True)


def test_refresh_asks_again_and_stores_what_came(world):
    fetcher = world.fetcher(provider="binance-um")
    fetcher.fetch_funding(*MONTH)
    asked(world)

    def restated(body: bytes) -> bytes:
        return body.replace(b'"fundingRate":"0.0001', b'"fundingRate":"0.0002')

    world.exchange.fail(faults.transform(restated), times=None, match="fundingRate")
    fresh = fetcher.fetch_funding(*MONTH, refresh=True)
    assert len(asked(world)) == 2
    assert fresh.attrs["candle_fetcher"]["sources"]["rest"] == 93
    assert (fresh["funding_rate"] >= 0.0002).any()
    pd.testing.assert_frame_equal(fetcher.fetch_funding(*MONTH), fresh, check_exact=True)
    assert asked(world) == []


def test_without_a_cache_it_is_asked_each_time(world):
    fetcher = world.fetcher(provider="binance-um", use_cache=False)
    for _ in range(2):
        assert len(fetcher.fetch_funding(*MONTH)) == 93
        assert len(asked(world)) == 2


def test_the_cache_alone_answers_what_it_has_and_refuses_the_rest(world):
    world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    world.exchange.clear_log()
    fetcher = world.fetcher(provider="binance-um", source="cache")
    assert len(fetcher.fetch_funding(*MONTH)) == 93
    assert len(fetcher.fetch_funding("BTC/USDT", "2024-03-01")) == 93  # up to what is stored
    with pytest.raises(IncompleteData, match="source='cache' allows no other source") as caught:
        fetcher.fetch_funding("BTC/USDT", "2024-02-01", "2024-03-15")
    assert len(caught.value.frame) == 42
    assert [(gap.first, gap.last, gap.cause) for gap in caught.value.missing] == [
        ("2024-02-01T00:00:00Z", "2024-02-29T23:59:59.999Z", "fetch_failed")
    ]
    with pytest.raises(IncompleteData):
        fetcher.fetch_funding("ETH/USDT", days=3)
    assert world.exchange.requests == []


def test_a_practice_exchange_never_answers_for_another(world, tmp_path):
    world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    with World(tmp_path / "cache", seed=2) as other:
        frame = other.fetcher(provider="binance-um").fetch_funding(*MONTH)
        assert frame.attrs["candle_fetcher"]["sources"]["rest"] == 93


def test_threads_that_want_the_same_ask_once(world):
    fetcher = world.fetcher(provider="binance-um")
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda _: fetcher.fetch_funding(*MONTH), range(8)))
    assert len(asked(world)) == 2
    for frame in frames:
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [faults.status(500), faults.status(503), faults.cut(0.5), faults.reset(), faults.html_200()]
)
def test_a_request_that_fails_is_sent_again(world, fault):
    world.exchange.fail(fault, times=2, match="fundingRate")
    frame = quick(world).fetch_funding(*MONTH)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]))
    assert frame.attrs["candle_fetcher"]["retries"] == 2


def test_a_page_of_html_is_an_error_and_not_an_empty_table(world):
    world.exchange.fail(faults.html_200(), times=None, match="fundingRate")
    fetcher = quick(world, max_retries=2, source="rest")
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch_funding(*MONTH)
    assert caught.value.frame.empty
    assert isinstance(caught.value.cause, ReplyError)
    assert len(caught.value.refusals) == 1


def test_what_arrived_is_stored_when_a_later_page_fails(world):
    provider = replace(UM, funding=replace(find_funding(UM), limit=50, limits=()))
    fetcher = quick(world, max_retries=0)
    fault = world.exchange.fail(faults.status(500), times=None, after=1, match="fundingRate")
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch_funding(*MONTH, provider=provider)
    assert len(caught.value.frame) == 50
    fault.stop()
    asked(world)
    frame = fetcher.fetch_funding(*MONTH, provider=provider)
    assert int(asked(world)[0]["startTime"]) == int(index_ms(frame)[49]) + 1
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]))
    assert frame.attrs["candle_fetcher"]["sources"]["rest"] == 43


def test_without_the_clock_of_the_provider_nothing_near_to_now_is_stored(world):
    world.exchange.fail(faults.status(500), times=None, match="/time")
    fetcher = quick(world, max_retries=0)
    with pytest.raises(IncompleteData):
        fetcher.fetch_funding("BTC/USDT", days=1)
    assert len(fetcher.fetch_funding(*MONTH)) == 93  # long settled: whose clock does not matter


@pytest.mark.parametrize(("fault", "kind"), [(faults.forbidden(), AccessDenied), (faults.restricted(), AccessDenied)])
def test_a_closed_door_is_told_at_once(world, fault, kind):
    world.exchange.fail(fault, times=None, match="fundingRate")
    with pytest.raises(kind):
        quick(world).fetch_funding(*MONTH)


def test_a_ban_holds_for_candles_too(world):
    world.exchange.fail(faults.banned(ms("2024-06-15T13:00:00")), match="fundingRate")
    fetcher = quick(world)
    with pytest.raises(Banned):
        fetcher.fetch_funding(*MONTH)
    world.exchange.clear_log()
    with pytest.raises(Banned):
        fetcher.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-02")
    assert world.exchange.requests == []


def test_spot_has_no_funding_and_says_who_has(world):
    with pytest.raises(NotOffered, match="binance-um, binance-cm"):
        world.fetcher().fetch_funding(*MONTH)
    assert world.exchange.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "2024-02-01", "end": "2024-01-01"},
        {"start": "2031-01-01"},
        {"start": "2024-01-01", "days": 3},
        {"start": "2024-01-01", "source": "ftp"},
    ],
)
def test_what_cannot_be_is_refused(world, wrong):
    with pytest.raises(InputError):
        world.fetcher(provider="binance-um").fetch_funding("BTC/USDT", **wrong)


def test_an_unknown_symbol_is_refused_with_the_closest(world):
    with pytest.raises(UnknownSymbol) as caught:
        world.fetcher(provider="binance-um").fetch_funding("BTC/UDST", "2024-03-01", "2024-04-01")
    assert "BTC/USDT" in caught.value.closest


def test_a_symbol_of_which_nothing_ever_came_and_nothing_is_listed_is_unknown(world):
    # The exchange may answer such a question with an empty list.
    world.exchange.fail(faults.body(b"[]"), times=None, match="fundingRate")
    fetcher = world.fetcher(provider="binance-um")
    assert fetcher.fetch_funding("ETH/USDT", "2024-03-01", "2024-04-01").empty  # listed: it may have none
    with pytest.raises(UnknownSymbol):
        fetcher.fetch_funding("NONE/USDT", "2024-03-01", "2024-04-01")


# -- the archive alone -------------------------------------------------------------------------------------------------

ZIP = "BTCUSDT-fundingRate-2024-03.zip"
PATH = f"/data/futures/um/monthly/fundingRate/BTCUSDT/{ZIP}"


@pytest.mark.slow(keep=("binance-cm-BTC/USD-BTCUSD_PERP",))
@pytest.mark.parametrize(
    ("provider", "symbol", "theirs"),
    [
        ("binance-um", "BTC/USDT", "BTCUSDT"),
        ("binance-um", "DOGE/USDT", "DOGEUSDT"),  # every four hours
        ("binance-um", "SOL/USDT", "SOLUSDT"),  # every hour
        ("binance-cm", "BTC/USD", "BTCUSD_PERP"),
    ],
)
def test_files_have_the_rates_of_rest_and_no_mark_prices(world, provider, symbol, theirs):
    span = ("2024-01-10T05:00", "2024-04-20")
    rows = sent(world, theirs, *span, f"/{'d' if provider == 'binance-cm' else 'f'}api/v1/fundingRate")
    frame = world.fetcher(provider=provider, source="archive").fetch_funding(symbol, *span)
    assert {request.market for request in world.exchange.requests} == {"archive"}
    equal(frame, rows, marks=False)
    assert list(frame.columns) == ["funding_rate", "mark_price"]
    assert manifest_of(frame)["sources"] == {"memory": 0, "disk": 0, "archive": len(rows), "rest": 0}
    assert manifest_of(frame)["unverified"] == manifest_of(frame)["rejected"] == []
    # On COIN-M nobody has mark prices, so that nothing is lost.
    without = [{"start": "2024-01-10T05:00:00Z", "end": "2024-04-20T00:00:00Z"}] if provider == "binance-um" else []
    assert manifest_of(frame)["without_mark_price"] == without
    json.dumps(manifest_of(frame))


@pytest.mark.parametrize("hours", [1, 4, 8, None])
def test_files_of_any_interval_are_read_as_they_are(world, hours):
    at, end, rows = ms("2024-03-01"), ms("2024-04-01"), []
    while at < end:
        step = hours or (8 if at < ms("2024-03-11") else 1)  # None: it changes
        rows.append((at + len(rows) % 46, step, f"{(len(rows) % 7 - 3) / 10**4:.8f}"))
        at += step * 3_600_000
    text = "calc_time,funding_interval_hours,last_funding_rate\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    world.exchange.archive.load(PATH[1:], pack(ZIP.replace(".zip", ".csv"), [text.encode()]))
    frame = world.fetcher(provider="binance-um", source="archive").fetch_funding(*MONTH)
    equal(frame, [{"fundingTime": at, "fundingRate": rate} for at, _, rate in rows])


@pytest.mark.slow
def test_the_archive_alone_goes_from_its_first_file_to_its_last(world):
    fetcher = world.fetcher(provider="binance-um", source="archive")
    frame = fetcher.fetch_funding("BTC/USDT")
    assert {request.market for request in world.exchange.requests} == {"archive"}
    equal(frame, sent(world, "BTCUSDT", "2020-01-01", "2024-06-01"), marks=False)
    assert manifest_of(frame)["start"] == "2020-01-01T00:00:00Z"
    assert manifest_of(frame)["end"] == "2024-06-01T00:00:00Z"
    world.exchange.clear_log()
    again = fetcher.fetch_funding("BTC/USDT")  # the months before the first file are known to have none
    assert world.exchange.requests == []
    assert again.equals(frame)
    assert manifest_of(again)["sources"]["memory"] == len(frame)
    since = fetcher.fetch_funding("BTC/USDT", "2024-05-20")
    assert manifest_of(since)["end"] == "2024-06-01T00:00:00Z"
    assert len(since) == 36
    assert world.exchange.requests == []


def test_the_archive_alone_ends_before_a_file_that_is_late(world):
    late = world.exchange.archive.spoil("fundingRate-2024-05", damage.missing())
    fetcher = world.fetcher(provider="binance-um", source="archive")
    assert manifest_of(fetcher.fetch_funding("BTC/USDT", "2024-03-01"))["end"] == "2024-05-01T00:00:00Z"
    late.stop()
    assert manifest_of(fetcher.fetch_funding("BTC/USDT", "2024-03-01"))["end"] == "2024-05-01T00:00:00Z"  # asked today
    files(world)
    world.now_s += 25 * 3600
    assert manifest_of(fetcher.fetch_funding("BTC/USDT", "2024-03-01"))["end"] == "2024-06-01T00:00:00Z"
    assert files(world) == {"BTCUSDT-fundingRate-2024-05.zip": 1}


def test_a_file_that_may_come_any_hour_is_asked_for_again_in_an_hour(world):
    world.now_s = ms("2024-06-01T07:30") / 1000  # the month's files come out at eight
    fetcher = world.fetcher(provider="binance-um", source="archive")
    for minutes, end in ((0, "2024-05-01"), (45, "2024-05-01"), (30, "2024-06-01")):
        world.now_s += minutes * 60
        assert manifest_of(fetcher.fetch_funding("BTC/USDT", "2024-03-01"))["end"] == f"{end}T00:00:00Z"


@pytest.mark.slow
def test_a_month_without_a_file_is_an_error_and_no_silence(world):
    world.exchange.archive.spoil(ZIP, damage.missing())
    fetcher = world.fetcher(provider="binance-um", source="archive")
    with pytest.raises(IncompleteData, match="source='auto'") as caught:
        fetcher.fetch_funding("BTC/USDT", "2024-02-01", "2024-05-01")
    assert [(gap.first, gap.last, gap.cause) for gap in caught.value.missing] == [
        ("2024-03-01T00:00:00Z", "2024-03-31T23:59:59.999Z", "not_published")
    ]
    assert caught.value.cause is None
    assert len(caught.value.frame) == 87 + 90
    with pytest.raises(IncompleteData):  # nor where both ends are the archive's own
        fetcher.fetch_funding("BTC/USDT")


def test_what_is_not_published_yet_is_named_and_not_asked_for(world):
    with pytest.raises(IncompleteData) as caught:
        world.fetcher(provider="binance-um", source="archive").fetch_funding("BTC/USDT", "2024-05-01", "2024-06-10")
    assert [(gap.first, gap.cause) for gap in caught.value.missing] == [("2024-06-01T00:00:00Z", "not_published")]
    assert len(caught.value.frame) == 93
    assert files(world) == {"BTCUSDT-fundingRate-2024-05.zip": 1}


@pytest.mark.slow(only=("BTCUSDT_240628",))
@pytest.mark.parametrize("symbol", ["NONE/USDT", "BTCUSDT_240628"])
def test_a_symbol_without_files_is_not_a_symbol_without_funding(world, symbol):
    with pytest.raises(IncompleteData) as caught:
        world.fetcher(provider="binance-um", source="archive").fetch_funding(symbol, "2024-01-01")
    assert {gap.cause for gap in caught.value.missing} == {"not_published"}


def test_a_host_of_ones_own_has_no_archive(world):
    fetcher = world.fetcher(base_urls={"binance-um": world.exchange.base_urls["binance-um"]}, max_retries=0)
    with pytest.raises(NotOffered, match="archive"):
        fetcher.fetch_funding(*MONTH, provider="binance-um", source="archive")
    world.exchange.fail(faults.status(500), times=None, match="/fapi/v1/fundingRate")
    with pytest.raises(IncompleteData):
        fetcher.fetch_funding(*MONTH, provider="binance-um")
    unfiled = replace(UM, funding=replace(find_funding(UM), in_archive=False))
    with pytest.raises(NotOffered, match="archive"):
        world.fetcher().fetch_funding(*MONTH, provider=unfiled, source="archive")
    assert not files(world)


# -- files that are not what they should be ----------------------------------------------------------------------------


def changed(line: int, field: int, text: bytes) -> Any:
    """A damage: another text in one field of a row."""

    def change(lines: Any) -> list[bytes]:
        values = lines[line].split(b",")
        values[field] = text
        return [*lines[:line], b",".join(values), *lines[line + 1 :]]

    return damage.rows(change)


UNUSABLE = {
    "wrong checksum": damage.wrong_checksum(),
    "cut and published": damage.cut().published(),
    "member of another month": damage.renamed("BTCUSDT-fundingRate-2024-02.csv"),
    "a row of another month": damage.shift(31 * 86_400_000, 5, 6),
    "the first of the next": changed(92, 0, str(ms("2024-04-01")).encode()),
    "mixed units": damage.in_unit("us", 50),
    "twins that differ": damage.rows(lambda lines: [lines[0] + b"1", *lines]),
    "not a number": changed(7, 2, b"nan"),
    "no rows": damage.rows(lambda lines: []),
}


@pytest.mark.slow(every=9)
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_file_that_is_not_what_it_should_be_is_fetched_once_more_and_then_not_used(world, what):
    world.exchange.archive.spoil(ZIP, UNUSABLE[what])
    fetcher = world.fetcher(provider="binance-um", source="archive")
    with pytest.warns(ArchiveMismatch, match=ZIP), pytest.raises(IncompleteData) as caught:
        fetcher.fetch_funding("BTC/USDT", "2024-02-01", "2024-04-01")
    assert files(world) == {ZIP: 2, ZIP.replace("03", "02"): 1}
    assert [(gap.first, gap.cause) for gap in caught.value.missing] == [("2024-03-01T00:00:00Z", "fetch_failed")]
    assert isinstance(caught.value.cause, ReplyError)
    assert len(caught.value.frame) == 87
    assert manifest_of(caught.value.frame)["rejected"] == [PATH]
    # Nothing of it is stored: REST is whole.
    equal(world.fetcher().fetch_funding(*MONTH, provider="binance-um"), sent(world, "BTCUSDT", *MONTH[1:]))


REPAIRED = {
    "damaged on the way once": None,
    "out of order": damage.out_of_order(),
    "twins": damage.rows(lambda lines: [lines[0], *lines]),
    "no header": damage.csv(lambda text: text.partition(b"\n")[2]),
    "crlf": damage.csv(lambda text: text.replace(b"\n", b"\r\n")),
    "blank line at the end": damage.csv(lambda text: text + b"\n"),
    "no line end": damage.csv(lambda text: text.rstrip(b"\n")),
    "byte order mark": damage.csv(lambda text: b"\xef\xbb\xbf" + text),
    "microseconds": damage.in_unit("us"),
    "upper case checksum": damage.checksum_text(lambda text: text[:64].upper() + text[64:] + "\n"),
}


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("what", REPAIRED)
def test_rows_written_otherwise_are_the_same_rows(world, what):
    how = REPAIRED[what]
    world.exchange.archive.spoil(ZIP, how or damage.flip(), times=None if how else 1)
    frame = world.fetcher(provider="binance-um", source="archive").fetch_funding(*MONTH)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]), marks=False)
    assert manifest_of(frame)["rejected"] == manifest_of(frame)["unverified"] == []


def test_a_file_without_a_checksum_is_used_and_named(world):
    world.exchange.archive.spoil(ZIP, damage.missing_checksum())
    frame = world.fetcher(provider="binance-um", source="archive").fetch_funding(*MONTH)
    equal(frame, sent(world, "BTCUSDT", *MONTH[1:]), marks=False)
    assert manifest_of(frame)["unverified"] == [PATH]
    later = world.fetcher(provider="binance-um", source="archive")
    assert manifest_of(later.fetch_funding(*MONTH))["unverified"] == [PATH]  # out of the cache it is the same file
    assert manifest_of(later.fetch_funding("BTC/USDT", "2024-04-01", "2024-05-01"))["unverified"] == []
    assert manifest_of(later.fetch_funding(*MONTH, source="rest"))["unverified"] == []


def test_a_file_that_was_replaced_comes_with_refresh(world):
    fetcher = world.fetcher(provider="binance-um", source="archive")
    fetcher.fetch_funding(*MONTH)
    world.exchange.archive.spoil(ZIP, changed(3, 2, b"0.00770000"))
    assert 0.0077 not in fetcher.fetch_funding(*MONTH)["funding_rate"].tolist()
    assert fetcher.fetch_funding(*MONTH, refresh=True)["funding_rate"].iloc[3] == 0.0077
    assert fetcher.fetch_funding(*MONTH)["funding_rate"].iloc[3] == 0.0077


# -- one series of REST, one of files ----------------------------------------------------------------------------------


def test_files_never_answer_for_rest_nor_rest_for_files(world):
    fetcher = world.fetcher(provider="binance-um")
    rows = sent(world, "BTCUSDT", *MONTH[1:])
    equal(fetcher.fetch_funding(*MONTH, source="archive"), rows, marks=False)
    for source in ("auto", "rest"):
        equal(fetcher.fetch_funding(*MONTH, source=source), rows)
    assert files(world) == {ZIP: 1}
    again = world.fetcher(provider="binance-um").fetch_funding(*MONTH, source="archive")
    equal(again, rows, marks=False)
    assert manifest_of(again)["sources"] == {"memory": 0, "disk": 93, "archive": 0, "rest": 0}
    equal(fetcher.fetch_funding(*MONTH, source="cache"), rows)
    assert world.exchange.requests == []


def test_the_cache_alone_tells_that_what_it_has_is_out_of_files(world):
    world.fetcher(provider="binance-um", source="archive").fetch_funding("BTC/USDT", "2024-02-01", "2024-04-01")
    world.fetcher(provider="binance-um").fetch_funding(*MONTH)
    rows = sent(world, "BTCUSDT", "2024-02-01", "2024-04-01")
    with pytest.warns(CandleFetcherWarning, match="no mark prices; source='cache' allows no other source") as warned:
        frame = world.fetcher(provider="binance-um", source="cache").fetch_funding("BTC/USDT", "2024-02-01")
    assert len(warned) == 1
    assert warned[0].filename == __file__
    equal(frame[:87], rows[:87], marks=False)
    equal(frame[87:], rows[87:])
    assert manifest_of(frame)["sources"]["disk"] == 87 + 93
    assert manifest_of(frame)["without_mark_price"] == [
        {"start": "2024-02-01T00:00:00Z", "end": "2024-03-01T00:00:00Z"}
    ]
    assert world.exchange.requests == []


@pytest.mark.slow
def test_where_rest_fails_files_stand_in_until_it_is_back(world):
    rows = sent(world, "BTCUSDT", "2024-01-01", "2024-04-01")
    provider = replace(UM, funding=replace(find_funding(UM), limit=50, limits=()))
    fetcher = quick(world, max_retries=1)
    down = world.exchange.fail(faults.status(500), times=None, after=1, match="/fapi/v1/fundingRate")
    with pytest.warns(CandleFetcherWarning, match=r"no mark prices; REST failed.*500") as warned:
        frame = fetcher.fetch_funding("BTC/USDT", "2024-01-01", "2024-04-01", provider=provider)
    assert warned[0].filename == __file__
    equal(frame[:50], rows[:50])
    equal(frame[50:], rows[50:], marks=False)
    assert manifest_of(frame)["sources"] == {"memory": 0, "disk": 0, "archive": len(rows) - 50, "rest": 50}
    (without,) = manifest_of(frame)["without_mark_price"]
    assert ms(without["start"][:-1]) == rows[49]["fundingTime"] + 1
    assert without["end"] == "2024-04-01T00:00:00Z"
    files(world)
    with pytest.warns(CandleFetcherWarning, match="no mark prices"):
        again = fetcher.fetch_funding("BTC/USDT", "2024-01-01", "2024-04-01", provider=provider)
    assert again.equals(frame)
    assert not files(world), "they are stored"
    down.stop()
    whole = quick(world).fetch_funding("BTC/USDT", "2024-01-01", "2024-04-01", provider=provider)
    equal(whole, rows)
    assert manifest_of(whole)["without_mark_price"] == []
    assert manifest_of(whole)["sources"] == {"memory": 0, "disk": 50, "archive": 0, "rest": len(rows) - 50}


def test_the_month_that_has_no_file_yet_is_missing_while_rest_fails(world):
    world.exchange.fail(faults.status(500), times=None, match="/fapi/")
    with pytest.raises(IncompleteData, match="500") as caught:
        quick(world, max_retries=0).fetch_funding("BTC/USDT", "2024-04-01")
    assert [(gap.first, gap.cause) for gap in caught.value.missing] == [("2024-06-01T00:00:00Z", "fetch_failed")]
    assert isinstance(caught.value.cause, TransportError)
    assert len(caught.value.frame) == 90 + 93
    assert manifest_of(caught.value.frame)["without_mark_price"] == [
        {"start": "2024-04-01T00:00:00Z", "end": "2024-06-01T00:00:00Z"}
    ]


def test_on_coin_m_nothing_is_lost_with_a_file_and_nobody_is_warned(world):
    rows = sent(world, "BTCUSD_PERP", *MONTH[1:], "/dapi/v1/fundingRate")
    world.exchange.fail(faults.status(500), times=None, match="/dapi/")
    frame = quick(world, max_retries=0).fetch_funding("BTC/USD", *MONTH[1:], provider="binance-cm")
    equal(frame, rows)
    assert manifest_of(frame)["sources"]["archive"] == 93
    assert manifest_of(frame)["without_mark_price"] == []


def test_rest_alone_takes_no_file_and_a_closed_door_is_told_at_once(world):
    closed = pytest.warns(CandleFetcherWarning, match="firewall")
    world.exchange.fail(faults.status(500), times=1, match="/fapi/v1/fundingRate")
    with pytest.raises(IncompleteData):
        quick(world, max_retries=0, source="rest").fetch_funding(*MONTH)
    world.exchange.fail(faults.forbidden(), times=None, match="/fapi/v1/fundingRate")
    with pytest.raises(AccessDenied, match="source='archive'"):
        quick(world, max_retries=0, source="rest").fetch_funding(*MONTH)
    assert not files(world)
    with closed:
        assert len(quick(world, max_retries=0).fetch_funding(*MONTH)) == 93


@pytest.mark.slow(only=("action2",))
@pytest.mark.parametrize("action", [faults.status(503), faults.cut(0.5), faults.reset()])
def test_an_archive_out_of_reach_is_an_error_and_asked_again_next_time(world, action):
    fault = world.exchange.fail(action, times=None, match="/data/")
    fetcher = quick(world, max_retries=1, source="archive")
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch_funding(*MONTH)
    assert {gap.cause for gap in caught.value.missing} == {"fetch_failed"}
    assert isinstance(caught.value.cause, TransportError)
    fault.stop()
    assert len(quick(world, source="archive").fetch_funding(*MONTH)) == 93


def test_who_may_not_read_the_archive_is_told_so_where_it_was_asked_for(world):
    world.exchange.fail(faults.restricted(), times=None, match="/data/")
    with pytest.raises(AccessDenied):
        quick(world, source="archive").fetch_funding(*MONTH)
    world.exchange.fail(faults.status(500), times=None, match="/fapi/v1/fundingRate")
    with pytest.raises(IncompleteData, match="500"):
        quick(world, max_retries=0).fetch_funding(*MONTH)


def test_closing_the_fetcher_ends_a_call_that_reads_files(world):
    world.exchange.fail(faults.hang(30), times=None, match="/data/")
    fetcher = world.fetcher(provider="binance-um", source="archive")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(fetcher.fetch_funding, "BTC/USDT", "2023-01-01", "2024-01-01")
        while not world.exchange.requests:
            assert not call.done()
            time.sleep(0.01)
        fetcher.close()
        with pytest.raises(CandleFetcherError, match="closed"):
            call.result(timeout=10)


@pytest.mark.slow
def test_the_monitor_counts_the_files(world):
    fetcher = world.fetcher(provider="binance-um", source="archive")
    fetcher.fetch_funding("BTC/USDT", "2023-01-01", "2024-01-01")
    figures = fetcher.monitor.snapshot()
    assert figures["requests"]["count"] == 24
    assert figures["operations"]["unzip"]["count"] == 12
    assert figures["operations"]["fetch_funding"]["count"] == 1


@pytest.mark.slow
def test_threads_that_want_the_same_files_read_them_once(world):
    fetcher = world.fetcher(provider="binance-um", source="archive")
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda _: fetcher.fetch_funding("BTC/USDT", "2023-01-01", "2024-01-01"), range(8)))
    assert set(files(world).values()) == {1}
    for frame in frames:
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)


# -- the budget --------------------------------------------------------------------------------------------------------


def test_usd_m_counts_funding_apart_and_coin_m_by_weight(world):
    assert [(limit.cost, limit.interval_s, limit.kind) for limit in find_funding(UM).limits] == [(500, 300, "requests")]
    assert find_funding(UM).call("BTCUSDT", Span(0, 9), 5).cost == 0
    assert find_funding(CM).limits == ()
    assert find_funding(CM).call("BTCUSD_PERP", Span(0, 9), 5).cost == 1
    budget = world.fetcher()._runtime.rest(UM).budget(find_funding(UM).limits)
    stop = threading.Event()
    budget._wait = lambda stop, seconds: stop.set() or True
    for _ in range(490):
        budget.release(budget.acquire(1, stop=stop))
    from concurrent.futures import CancelledError

    with pytest.raises(CancelledError):  # the margin is left to others; it would wait
        budget.acquire(1, stop=stop)
    assert isinstance(budget, Limiter)


def test_each_try_is_counted(world):
    fetcher = quick(world)
    world.exchange.fail(faults.status(500), times=3, match="fundingRate")
    fetcher.fetch_funding(*MONTH)
    windows = fetcher._runtime.rest(UM).funding_budget.load().windows
    assert [sum(cost for _, cost in window.done) for window in windows.values()] == [5]


# -- parse and check ---------------------------------------------------------------------------------------------------

ROW = '{"symbol":"BTCUSDT","fundingTime":1700000000001,"fundingRate":"-0.00010000","markPrice":"37000.5"}'


def test_a_record_is_read_with_and_without_a_mark_price():
    bare = ROW.replace(',"markPrice":"37000.5"', "").replace("0001,", "0002,")
    empty = ROW.replace("37000.5", "").replace("0001,", "0003,")
    special = ROW.replace("}", ',"rateType":"Special","more":[1]}').replace("0001,", "0004,")
    records = parse_funding(f"[{ROW},{bare},{empty},{special}]".encode(), "BTCUSDT")
    assert records.open_ms.tolist() == [1700000000001, 1700000000002, 1700000000003, 1700000000004]
    assert records.floats("funding_rate").tolist() == [-0.0001] * 4
    assert np.array_equal(records.floats("mark_price"), [37000.5, np.nan, np.nan, 37000.5], equal_nan=True)


def test_no_record_is_an_empty_frame_of_the_same_kind():
    frame = funding_frame(parse_funding(b"[]", "BTCUSDT"))
    assert frame.empty
    assert list(frame.columns) == ["funding_rate", "mark_price"]
    assert str(frame.index.dtype) == "datetime64[ns, UTC]"


def of(*rows: tuple[int, float, float]) -> Any:
    return candles_from(FUNDING_COLUMNS, [np.array(column) for column in zip(*rows, strict=True)])


@pytest.mark.parametrize(
    "rows",
    [
        [(5, 0.1, 1.0), (4, 0.1, 1.0)],
        [(5, 0.1, 1.0), (5, 0.2, 1.0)],
        [(5, 0.1, 1.0), (5, 0.1, np.nan)],
        [(5, np.nan, 1.0)],
        [(5, np.inf, 1.0)],
        [(5, 0.1, np.inf)],
        [(-1, 0.1, 1.0)],
        [(10, 0.1, 1.0)],
        [(10, 0.1, 1.0), (5, 0.1, 1.0)],
    ],
)
def test_records_that_cannot_be_are_refused(rows):
    with pytest.raises(ReplyError):
        check_funding(of(*rows), Span(0, 10))


def test_equal_duplicates_are_dropped():
    checked = check_funding(of((1, 0.1, np.nan), (1, 0.1, np.nan), (2, 0.2, 3.0), (2, 0.2, 3.0)), Span(0, 10))
    assert checked.open_ms.tolist() == [1, 2]


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 4 * 10**12), st.integers(-(10**10), 10**10), st.none() | st.integers(0, 10**14)),
        unique_by=lambda row: row[0],
    )
)
def test_what_is_printed_is_read_to_the_last_bit(rows):
    def row(time_ms: int, rate: int, mark: int | None) -> dict[str, Any]:
        printed = {"symbol": "X", "fundingTime": time_ms, "fundingRate": f"{rate / 10**8:.8f}"}
        return printed if mark is None else {**printed, "markPrice": f"{mark / 10**8:.8f}"}

    sent_rows = [row(*one) for one in sorted(rows)]
    equal(funding_frame(check_funding(parse_funding(json.dumps(sent_rows).encode(), "X"), ALL)), sent_rows)


# -- what was recorded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "symbol", "count"),
    [
        ("binance_um/funding_btcusdt_default_100.json", "BTCUSDT", 100),
        ("binance_um/funding_btcusdt_latest1.json", "BTCUSDT", 1),
        ("binance_cm/funding_btcusd_perp_limit5.json", "BTCUSD_PERP", 5),
    ],
)
def test_every_recorded_reply_is_read_to_the_last_bit(shared, path, symbol, count):
    body = (shared / "recorded" / path).read_bytes()
    records = check_funding(parse_funding(body, symbol), ALL)
    assert records.count == count
    equal(funding_frame(records), json.loads(body))


def test_a_month_of_the_archive_survives_the_way_through_pages_and_cache(world, shared):
    path = "market_data/vision_csv/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-08.csv"
    with (shared / path).open() as file:
        rows = [
            {"symbol": "BTCUSDT", "fundingTime": int(row["calc_time"]), "fundingRate": row["last_funding_rate"]}
            for row in csv.DictReader(file)
        ]
    assert_kept(world, rows, "2026-08-01", "2026-09-01")


@pytest.mark.slow
@pytest.mark.parametrize("symbol", ["BTC", "ETH"])
def test_years_of_real_funding_survive_the_way_through_pages_and_cache(world, shared, symbol):
    pytest.importorskip("pyarrow")
    assert_kept(world, real_rows(shared, symbol), "2022-01-01", "2025-11-01")


def real_rows(shared: Path, symbol: str) -> list[dict[str, Any]]:
    frame = pd.read_feather(shared / "market_data" / "funding" / f"{symbol}_USDT_USDT-8h-funding_rate.feather")
    times = frame["date"].dt.tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64).tolist()
    return [
        {"symbol": "BTCUSDT", "fundingTime": time_ms, "fundingRate": np.format_float_positional(rate, trim="0")}
        for time_ms, rate in zip(times, frame["open"].tolist(), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("symbol", ["BTC", "ETH"])
def test_years_of_real_funding_survive_the_way_through_files(world, shared, symbol):
    pytest.importorskip("pyarrow")
    world.now_s = ms("2026-10-03") / 1000
    rows = real_rows(shared, symbol)
    by_month: dict[str, list[str]] = {}
    for row in rows:
        month = str(np.datetime64(row["fundingTime"], "ms").astype("M8[M]"))
        by_month.setdefault(month, []).append(f"{row['fundingTime']},8,{row['fundingRate']}\n")
    for month, lines in by_month.items():
        name = f"{symbol}USDT-fundingRate-{month}"
        text = "".join(["calc_time,funding_interval_hours,last_funding_rate\n", *lines]).encode()
        key = f"data/futures/um/monthly/fundingRate/{symbol}USDT/{name}.zip"
        world.exchange.archive.load(key, pack(f"{name}.csv", [text]))
    for tier in ("archive", "disk"):
        fetcher = world.fetcher(provider="binance-um", source="archive")
        frame = fetcher.fetch_funding(f"{symbol}/USDT", rows[0]["fundingTime"], rows[-1]["fundingTime"] + 1)
        equal(frame, rows)
        assert manifest_of(frame)["sources"][tier] == len(rows)


def test_a_real_file_comes_row_for_row(world, shared):
    name = "BTCUSDT-fundingRate-2026-08"
    folder = "futures/um/monthly/fundingRate/BTCUSDT"
    text = (shared / "market_data" / "vision_csv" / folder / f"{name}.csv").read_bytes()
    world.now_s = ms("2026-10-03") / 1000
    world.exchange.archive.load(f"data/{folder}/{name}.zip", pack(f"{name}.csv", [text]))
    frame = world.fetcher(provider="binance-um", source="archive").fetch_funding("BTC/USDT", "2026-08-01", "2026-09-01")
    rows = list(csv.DictReader(text.decode().splitlines()))
    equal(frame, [{"fundingTime": int(row["calc_time"]), "fundingRate": row["last_funding_rate"]} for row in rows])
    assert len(frame) == 93


def assert_kept(world: World, rows: list[dict[str, Any]], start: str, end: str) -> None:
    """Fails unless records that are served as the exchange would come out, and out of the cache again."""
    world.now_s = ms("2026-10-01") / 1000

    def served(symbol: str, span: Span, count: int) -> Any:
        within = [row for row in rows if span.start_ms <= row["fundingTime"] < span.end_ms][:count]
        pages.append(json.dumps(within).encode())
        return find_funding(UM).call(symbol, span, count)

    pages: list[bytes] = []
    world.exchange.fail(faults.transform(lambda _: pages[-1]), times=None, match="fundingRate")
    provider = replace(UM, funding=replace(find_funding(UM), call=served))
    fetcher = world.fetcher()
    for _ in range(2):
        equal(fetcher.fetch_funding("BTC/USDT", start, end, provider=provider), rows)
    assert len(pages) == -(-len(rows) // 1000) + 1


# -- the command -------------------------------------------------------------------------------------------------------


def command(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    hosts = [word for name, url in world.exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]
    code = main(["funding", *words, *hosts, "--cache-dir", str(world.folder)])
    return code, *capsys.readouterr()


def test_the_command_pipes_csv_of_usd_m_futures(world, capsys):
    code, out, _ = command(world, capsys, "BTC/USDT", "--start", "2023-10-30", "--end", "2023-11-01")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "timestamp,funding_rate,mark_price"
    rows = sent(world, "BTCUSDT", "2023-10-30", "2023-11-01")
    assert len(lines) == 7
    for line, row in zip(lines[1:], rows, strict=True):
        time, rate, mark = line.split(",")
        assert ms(time.replace(" ", "T")) == row["fundingTime"]
        assert float(rate) == float(row["fundingRate"])
        assert mark == "" or float(mark) == float(row["markPrice"])


def test_the_command_prints_json(world, capsys):
    words = ("BTC/USD", "--start", "2024-01-01", "--end", "2024-01-02", "--provider", "binance-cm", "--json")
    code, out, _ = command(world, capsys, *words)
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 3
    assert rows[0] == {"timestamp": "2024-01-01T00:00:00.007Z", "funding_rate": 0.0001, "mark_price": None}


def test_the_command_reads_files_and_says_what_they_lack(world, capsys):
    words = ("BTC/USDT", "--start", "2024-03-01", "--end", "2024-04-01")
    code, out, said = command(world, capsys, *words, "--source", "archive")
    assert code == 0
    assert said == ""
    lines = out.splitlines()
    assert len(lines) == 94
    assert all(line.endswith(",") for line in lines[1:])  # no mark price
    code, out, said = command(world, capsys, *words, "--source", "cache")
    assert (code, len(out.splitlines())) == (0, 94)
    assert "no mark prices" in said
    code, out, said = command(
        world, capsys, "BTC/USDT", "--start", "2024-06-01", "--end", "2024-06-02", "--source", "archive"
    )
    assert (code, out) == (3, "")
    assert "not_published" in said


def test_the_command_refuses_spot_and_says_what_is_missing(world, capsys):
    code, out, said = command(world, capsys, "BTC/USDT", "--days", "3", "--provider", "binance")
    assert (code, out) == (2, "")
    assert "binance-um" in said
    code, out, said = command(world, capsys, "BTC/USDT", "--days", "3", "--source", "cache")
    assert (code, out) == (3, "")
    assert "could not be fetched" in said
