"""What one source of a provider cannot give, the other does: each kind of failure, at each moment of a call."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import FAULT_RUNS
from world import World, ms, roots_at, same

from candle_fetcher import (
    AccessDenied,
    CandleFetcher,
    CandleFetcherError,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    TransportError,
)
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import damage, faults

pytestmark = [pytest.mark.fault("J01"), pytest.mark.filterwarnings("ignore:.*REST failed")]
# Two chunks and a part of a third, whose newest day has no file yet.
SPAN = ("1h", "2024-03-20", "2024-06-14")
TODAY = ("1h", "2024-06-10", "2024-06-15T10:00")
CUT = ms("2024-04-20T08:00")
SYMBOLS = {"binance": "BTC/USDT", "binance-um": "BTC/USDT", "binance-cm": "BTC/USD"}
IDS = {"binance": "BTCUSDT", "binance-um": "BTCUSDT", "binance-cm": "BTCUSD_PERP"}
FAILURES = {
    "451": faults.restricted(),
    "403": faults.forbidden(),
    "500": faults.status(500),
    "reset": faults.reset(),
    "cut": faults.cut(0.5),
    "html": faults.html_200(),
    "429": faults.rate_limited(900),
}


def is_rest(path: str) -> bool:
    return path.startswith(("/api/", "/fapi/", "/dapi/"))


def is_page(params: Any, first: int, last: int) -> bool:
    return first <= int(params.get("endTime", 0)) < last


MOMENTS = {
    "every": lambda path, params: is_rest(path),
    "limits": lambda path, params: is_rest(path) and "exchangeInfo" in path,
    "clock": lambda path, params: is_rest(path) and path.endswith("/time"),
    "listing": lambda path, params: is_rest(path) and params.get("startTime") == "0",
    "beginning": lambda path, params: is_rest(path) and "klines" in path and is_page(params, 0, CUT),
    "middle": lambda path, params: is_rest(path) and "klines" in path and is_page(params, CUT, ms("2024-06-01")),
    "end": lambda path, params: is_rest(path) and "klines" in path and is_page(params, ms("2024-06-01"), 2**60),
}


def quick(world: World, **settings: Any) -> CandleFetcher:
    return world.fetcher(**{"max_retries": 1, **settings})


def unreachable(world: World, **settings: Any) -> CandleFetcher:
    """A fetcher to whose REST roots no connection can be made, but to the archive's."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    urls = roots_at(url, world.exchange.base_urls) | {"binance-archive": world.exchange.url}
    return quick(world, base_urls=urls, max_retries=0, **settings)


def refused(world: World, **settings: Any) -> CandleFetcher:
    world.exchange.fail(faults.restricted(), times=None, match=MOMENTS["every"])
    return quick(world, **settings)


def cases() -> Iterator[Any]:
    """Every failure at every moment of every provider; those that differ little from others are long.

    In a part of the long run, each pair of a failure, a moment and a provider is there, and not each three of them.
    """
    for (at, provider), (nth, moment), (which, failure) in product(*map(enumerate, (SYMBOLS, MOMENTS, FAILURES))):
        is_new = failure in ("451", "500") if provider == "binance" else (failure, moment) == ("403", "every")
        if is_new:
            is_telling = moment == "every" or (failure, moment) in (
                ("451", "middle"),
                ("500", "end"),
                ("451", "limits"),
            )
            yield pytest.param(failure, moment, provider, marks=[] if is_telling else pytest.mark.slow)
        elif FAULT_RUNS >= 1 or (nth + which) % len(SYMBOLS) == at:
            yield pytest.param(failure, moment, provider, marks=pytest.mark.long)


@pytest.mark.slow(keep=("451-middle-binance",))
@pytest.mark.parametrize(("failure", "moment", "provider"), [*cases()])
def test_whatever_fails_of_rest_and_when_the_archive_serves_what_it_has(
    world: World, failure: str, moment: str, provider: str
) -> None:
    world.exchange.fail(FAILURES[failure], times=None, match=MOMENTS[moment])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = quick(world).fetch(SYMBOLS[provider], *SPAN, provider=provider, columns="all")
    same(frame, world.truth(IDS[provider], *SPAN, provider=provider))
    assert len(said) <= 1
    if moment == "every" and failure in ("451", "403"):
        assert [one.category for one in said] == [CandleFetcherWarning]
        assert failure in str(said[0].message)


@pytest.mark.parametrize("make", [refused, unreachable])
def test_what_neither_source_has_is_an_error_that_names_the_archive(world: World, make: Any) -> None:
    fetcher = make(world)
    with pytest.raises(IncompleteData, match="source='archive'") as raised:
        fetcher.fetch("BTC/USDT", *TODAY)
    same(raised.value.frame, world.truth("BTCUSDT", "1h", "2024-06-10", "2024-06-15"))
    assert [(gap.first, gap.count, gap.cause) for gap in raised.value.missing] == [
        ("2024-06-15T00:00:00Z", 10, "fetch_failed")
    ]
    expected = AccessDenied if make is refused else IncompleteData
    with pytest.raises(expected, match="source='archive'"):
        fetcher.fetch("BTC/USDT", "1h", "2024-06-15T02:00", "2024-06-15T10:00")


@pytest.mark.slow
def test_a_region_that_is_refused_is_asked_no_more_in_that_call(world: World) -> None:
    fetcher = refused(world)
    fetcher.fetch("BTC/USDT", "15m", "2024-01-01", "2024-04-01")
    # The limits and both ends of the range, side by side.
    assert len([one for one in world.exchange.requests if is_rest(one.path)]) <= 3
    same(fetcher.fetch("BTC/USDT", *SPAN), world.truth("BTCUSDT", *SPAN))


@pytest.mark.slow
@pytest.mark.parametrize("make", [refused, unreachable])
def test_every_call_that_gives_candles_turns_to_the_archive(world: World, make: Any, tmp_path: Path) -> None:
    fetcher = make(world)
    truth = world.truth("BTCUSDT", *SPAN)
    with pytest.warns(CandleFetcherWarning) as said:
        same(pd.concat(list(fetcher.iter_frames("BTC/USDT", *SPAN, rows=1000))), truth)
    assert len(said) == 1
    fetcher.cache.clear()
    with pytest.warns(CandleFetcherWarning) as said:
        path = fetcher.export("BTC/USDT", *SPAN, path=tmp_path)
    assert len(said) == 1
    same(pd.read_csv(path, index_col=0, parse_dates=True).tz_localize("UTC"), truth)
    fetcher.cache.clear()
    assert fetcher.gaps("BTC/USDT", *SPAN).empty
    fetcher.cache.clear()
    same(fetcher.fetch("BTC/USDT", "1h", end="2024-06-14", limit=1500), truth, slice(-1500, None))
    fetcher.cache.clear()
    same(fetcher.fetch("BTC/USDT", "1h", "2024-03-20", limit=1500), truth, slice(1500))
    fetcher.cache.clear()
    frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *SPAN)
    same(frames["BTC/USDT"], truth)
    same(frames["ETH/USDT"], world.truth("ETHUSDT", *SPAN))
    with pytest.raises(CandleFetcherError) as raised:
        fetcher.fetch("BTC/USDT", "1h", days=5)
    assert len(raised.value.frame) > 90
    with pytest.raises(FetchManyError) as many:
        fetcher.fetch_many(["BTC/USDT"], "1h", "2024-06-15T02:00", "2024-06-15T10:00")
    assert type(many.value.errors["BTC/USDT"]) is (AccessDenied if make is refused else IncompleteData)


@pytest.mark.parametrize("make", [refused, unreachable])
def test_funding_rates_come_out_of_files_in_the_same_call(world: World, make: Any) -> None:
    fetcher = make(world, provider="binance-um")
    with pytest.warns(CandleFetcherWarning, match="mark prices"):
        assert len(fetcher.fetch_funding("BTC/USDT", "2024-03-01", "2024-04-01")) == 93
    with pytest.raises(IncompleteData, match="source='archive'") as raised:
        fetcher.fetch_funding("BTC/USDT", "2024-05-01")
    assert len(raised.value.frame) == 93


@pytest.mark.slow
@pytest.mark.parametrize("make", [refused, unreachable])
def test_an_audit_leaves_out_the_comparison_that_needs_rest(world: World, make: Any) -> None:
    fetcher = make(world)
    with pytest.warns(CandleFetcherWarning, match="is not compared with the archive: REST failed"):
        frame = fetcher.audit("BTC/USDT", "1d", "2024-04-01", "2024-04-11")
    assert frame.empty
    assert frame.attrs["candle_fetcher"]["compared"] == {"cache": 0, "1h": 10}
    for against in ("archive", None):  # no candles are finer than those of a minute: nothing is left to compare
        timeframe = "1m" if against is None else "1d"
        with pytest.raises(AccessDenied if make is refused else IncompleteData):
            fetcher.audit("BTC/USDT", timeframe, "2024-04-01", "2024-04-02", against)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [faults.status(500), faults.forbidden(), faults.restricted(), faults.reset()])
def test_what_the_archive_cannot_give_rest_does(world: World, fault: Any) -> None:
    world.exchange.fail(fault, times=None, match="/data/")
    frame = quick(world).fetch("BTC/USDT", "5m", "2024-03-01", "2024-04-01")
    same(frame, world.truth("BTCUSDT", "5m", "2024-03-01", "2024-04-01"))


@pytest.mark.slow
def test_a_month_with_holes_is_filled_from_its_days_where_rest_is_refused(world: World) -> None:
    hole = ms("2024-04-10T05:00"), ms("2024-04-10T07:00")
    world.exchange.archive.spoil("1h-2024-04.zip", damage.drop(*hole).published())
    same(refused(world).fetch("BTC/USDT", *SPAN), world.truth("BTCUSDT", *SPAN))


@pytest.mark.slow
def test_a_hole_of_the_files_is_no_gap_while_rest_is_refused(world: World) -> None:
    first = ms("2024-04-10T05:00")
    world.exchange.hide("binance", "BTCUSDT", (first, first + 7_200_000))
    fetcher = refused(world)
    with pytest.raises(IncompleteData, match="source='archive'") as raised:
        fetcher.fetch("BTC/USDT", *SPAN)
    assert [(gap.first_ms, gap.count) for gap in raised.value.missing] == [(first, 2)]
    frame = fetcher.fetch("BTC/USDT", *SPAN, source="archive")
    assert frame.attrs["candle_fetcher"]["gap_count"] == 1
    assert index_ms(frame).tolist() == index_ms(raised.value.frame).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("provider", [*SYMBOLS])
def test_the_archive_says_since_when_there_are_candles_where_rest_is_refused(world: World, provider: str) -> None:
    symbol = {"binance": "SOL/USDT", "binance-um": "SOL/USDT", "binance-cm": "BTC/USD"}[provider]
    since = quick(world, cache_dir=world.folder / "other", provider=provider).first_available(symbol)
    fetcher = refused(world, provider=provider)
    for _ in range(2):  # it is not remembered: REST may have older ones
        world.asked("")
        with pytest.warns(CandleFetcherWarning, match=r"REST failed \(AccessDenied") as said:
            assert fetcher.first_available(symbol) == since
        assert len(said) == 1
        assert sum("klines" not in one.get("prefix", "") for one in world.asked("")) < 8
    assert fetcher.first_available(symbol, source="archive") == since


def test_a_range_from_the_first_candle_on_begins_with_the_archives_where_rest_is_refused(world: World) -> None:
    with pytest.warns(CandleFetcherWarning, match="REST failed") as said:
        frame = refused(world).fetch("BTC/USDT", "1d", "first", "2017-10-01")
    same(frame, world.truth("BTCUSDT", "1d", "2017-08-17", "2017-10-01"))
    assert len(said) == 1


@pytest.mark.slow
def test_a_first_candle_that_no_file_tells_is_the_refusal_of_rest(world: World) -> None:
    world.exchange.archive.spoil("1m-", damage.drop(0, 2**60).published())
    for symbol in ("BTC/USDT", "NOSUCH/USDT"):
        with pytest.raises(AccessDenied):
            refused(world).first_available(symbol)
    with pytest.raises(AccessDenied):
        refused(world, source="rest").first_available("BTC/USDT")
    with pytest.raises(IncompleteData):
        quick(world).first_available("NOSUCH/USDT", source="archive")


def test_rest_alone_says_at_once_that_it_is_refused_and_names_the_archive(world: World) -> None:
    fetcher = refused(world, source="rest")
    with pytest.raises(AccessDenied, match="source='archive'"):
        fetcher.fetch("BTC/USDT", *SPAN)
    assert len(world.exchange.requests) == 1


def test_where_there_is_no_archive_a_refusal_comes_as_it_is(world: World) -> None:
    world.exchange.fail(faults.restricted(), times=None)
    with pytest.raises(AccessDenied, match="region") as raised:
        quick(world, provider="binance-us").fetch("BTC/USDT", *SPAN)
    assert "archive" not in str(raised.value)
    with pytest.raises(TransportError):
        raise unreachable_error(world)


def unreachable_error(world: World) -> BaseException:
    with pytest.raises(IncompleteData) as raised:
        unreachable(world, provider="binance-us").fetch("BTC/USDT", *SPAN)
    assert raised.value.cause is not None
    return raised.value.cause
