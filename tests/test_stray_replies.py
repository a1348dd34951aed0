"""Replies that belong to another request: no single one of them decides about the history of a series."""

from __future__ import annotations

import json
from typing import Any

import pytest
from world import World, ms, same

from candle_fetcher import IncompleteData
from candle_fetcher.practice import faults

HOUR, DAY = 3_600_000, 86_400_000


def is_probe(path: str, params: Any) -> bool:
    return params.get("startTime") == "0" and params.get("limit") == "1"


def is_first(text: str) -> Any:
    return lambda path, params: "klines" in path and params.get("startTime") == str(ms(text))


def rows(world: World, start: str, end: str, timeframe: str = "1h") -> bytes:
    truth = world.truth("BTCUSDT", timeframe, start, end)
    columns = [truth[name].tolist() for name in ("open_time", "open", "high", "low", "close", "volume")]
    kept = [
        [row[0], *map(str, row[1:]), row[0] + HOUR - 1, "1", 1, "1", "1", "0"] for row in zip(*columns, strict=True)
    ]
    return json.dumps(kept).encode()


@pytest.mark.fault("K04")
@pytest.mark.parametrize("count", [1, 500])
def test_an_empty_reply_and_then_the_one_of_before_hide_no_history(world: World, count: int) -> None:
    """Replies that are shifted by one: nothing for a chunk, then its rows for the question when the series began."""
    start, end = "2024-04-20T08:00", "2024-05-20"
    late = f"2024-04-{20 + (count == 1)}T08:00"
    world.exchange.fail(faults.body(b"[]"), match=is_first(start))
    stray = rows(world, late, "2024-05-11T04:00")
    if count == 1:
        stray = json.dumps(json.loads(stray)[:1]).encode()
    world.exchange.fail(faults.body(stray), match=is_probe)
    fetcher = world.fetcher(source="rest")
    try:
        frame = fetcher.fetch("BTC/USDT", "1h", start, end)
    except IncompleteData as error:
        frame = error.frame
        assert not frame.attrs["candle_fetcher"]["gap_count"]
    else:
        same(frame, world.truth("BTCUSDT", "1h", start, end))
    again = world.fetcher(source="rest").fetch("BTC/USDT", "1h", "2024-01-01", end)
    same(again, world.truth("BTCUSDT", "1h", "2024-01-01", end))
    assert fetcher.first_available("BTC/USDT").isoformat() == "2017-08-17T04:00:00+00:00"


@pytest.mark.slow
@pytest.mark.fault("K04")
def test_a_first_candle_that_one_reply_alone_tells_is_asked_for_again(world: World) -> None:
    stray = json.dumps(json.loads(rows(world, "2023-05-01", "2023-05-02"))[:1]).encode()
    world.exchange.fail(faults.body(stray), match=is_probe)
    with pytest.raises(IncompleteData, match="BTCUSDT begins at 2023-05-01T00:00:00Z, and then"):
        world.fetcher(source="rest").fetch("BTC/USDT", "1h", "2016-01-01", "2018-06-01")
    frame = world.fetcher(source="rest").fetch("BTC/USDT", "1h", "2016-01-01", "2018-06-01")
    same(frame, world.truth("BTCUSDT", "1h", "2016-01-01", "2018-06-01"))


@pytest.mark.fault("K04")
def test_a_listing_later_than_a_stored_candle_is_not_believed(world: World) -> None:
    fetcher = world.fetcher(source="rest")
    fetcher.fetch("BTC/USDT", "1h", "2024-01-10", "2024-01-20")
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-04-20T08:00"), ms("2024-04-22")))
    stray = json.dumps(json.loads(rows(world, "2024-04-23", "2024-04-24"))[:1]).encode()
    world.exchange.fail(faults.body(stray), times=None, match=is_probe)
    with pytest.raises(IncompleteData, match="begins at 2024-04-23T00:00:00Z, but sent a candle"):
        world.fetcher(source="rest").fetch("BTC/USDT", "1h", "2024-04-20T08:00", "2024-04-25")
    kept = world.fetcher(source="cache").fetch("BTC/USDT", "1h", "2024-01-10", "2024-01-20")
    same(kept, world.truth("BTCUSDT", "1h", "2024-01-10", "2024-01-20"))


@pytest.mark.fault("K04")
def test_a_start_before_the_listing_costs_no_more_than_before(world: World) -> None:
    world.fetcher(source="rest").fetch("BTC/USDT", "1d", "2010-01-01", "2024-01-01")
    asked = world.asked("klines")
    # Chunks of 2010 (empty), the listing, and three chunks with rows.
    assert len(asked) == 5


@pytest.mark.fault("K04")
def test_after_a_reply_that_contradicts_its_request_a_new_connection_is_used(world: World) -> None:
    opened = []
    world.exchange.fail(faults.body(rows(world, "2023-05-01", "2023-05-02")), match=is_first("2024-04-20T08:00"))
    fetcher = world.fetcher(source="rest", network_threads=1)
    renew = fetcher._runtime.transport.renew
    fetcher._runtime.transport.renew = lambda root: (opened.append(root), renew(root))
    same(
        fetcher.fetch("BTC/USDT", "1h", "2024-04-21", "2024-04-25"),
        world.truth("BTCUSDT", "1h", "2024-04-21", "2024-04-25"),
    )
    assert opened == [world.exchange.base_urls["binance"]]


@pytest.mark.fault("K04")
@pytest.mark.parametrize("times", [1, 3, 6])
def test_empty_windows_on_the_way_to_the_first_candle_hide_no_history(world: World, times: int) -> None:
    """Where a provider answers windows only, the listing is searched for: one empty reply each is no proof either."""

    def is_window(path: str, params: Any) -> bool:
        return "klines" in path and params.get("interval") == "1d"

    fetcher = world.fetcher(source="rest", network_threads=1)
    start, end = "2020-01-01", "2021-05-03"
    market = world.exchange.truth("binance-cm", "BTCUSD_PERP", "2h", ms(start), ms(end))["open_time"].tolist()
    assert market[0] > ms(start)  # the range begins before the listing
    fault = world.exchange.fail(faults.body(b"[]"), match=is_window, times=times)
    lost: list[tuple[int, int]] = []
    try:
        frame = fetcher.fetch("binance-cm:BTC/USD", "2h", start, end)
    except IncompleteData as error:
        frame, lost = error.frame, [(ms(gap.first), ms(gap.last)) for gap in error.missing]
    fault.stop()
    there = set(frame.index.as_unit("ms").asi8.tolist())
    assert all(at in there or any(first <= at <= last for first, last in lost) for at in market)
    again = fetcher.fetch("binance-cm:BTC/USD", "2h", start, end)
    assert again.index.as_unit("ms").asi8.tolist() == market


@pytest.mark.slow
@pytest.mark.fault("K04")
def test_a_pause_at_the_live_edge_does_not_contradict_what_is_stored_of_before(world: World) -> None:
    fetcher = world.fetcher(source="rest")
    fetcher.fetch("binance-cm:BTC/USD", "1h", "2022-02-01", "2022-03-01")
    fetcher.fetch("binance-cm:BTC/USD", "1h", "2024-06-14", "2024-06-15T12:00")
    world.exchange.hide("binance-cm", "BTCUSD_PERP", (ms("2024-06-15T06:00"), ms("2024-06-16")))
    world.now_s += 5 * 3_600
    frame = world.fetcher(source="rest").fetch("binance-cm:BTC/USD", "1h", "2024-06-14")
    assert len(frame) == 36


BLANK = b'{"bars": null, "next_page_token": null, "symbol": "AAPL"}'


@pytest.mark.slow(every=2)
@pytest.mark.fault("K04")
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_one_blank_reply_of_a_provider_without_rows_for_quiet_slots_hides_no_history(world: World, nth: int) -> None:
    """Where any slot may have no row, a reply without a single one is no fact yet: nor that there never was one."""
    fetcher = world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys, network_threads=1)
    world.exchange.fail(faults.body(BLANK), match="/bars", after=nth)
    truth = world.exchange.truth("alpaca", "AAPL", "1d", ms("2015-12-01"), ms("2016-06-01"))
    same(fetcher.fetch("AAPL", "1d", "2015-12-01", "2016-06-01"), truth)


@pytest.mark.fault("K04")
def test_that_there_never_was_a_candle_is_not_believed_beside_one(world: World) -> None:
    fetcher = world.fetcher(provider="alpaca", api_keys=world.exchange.api_keys, network_threads=1)
    fault = world.exchange.fail(
        faults.body(BLANK), times=None, match=lambda path, params: "/bars" in path and params.get("limit") == "1"
    )
    with pytest.raises(IncompleteData, match="has no candle, but sent a candle"):
        fetcher.fetch("AAPL", "1d", "2015-12-01", "2016-06-01")
    fault.stop()
    truth = world.exchange.truth("alpaca", "AAPL", "1d", ms("2015-12-01"), ms("2016-06-01"))
    same(fetcher.fetch("AAPL", "1d", "2015-12-01", "2016-06-01"), truth)


@pytest.mark.fault("K20")
def test_a_hole_of_hundreds_of_slots_is_looked_at_a_third_time(world: World) -> None:
    start, end = "2024-04-20T08:00", "2024-06-01"
    world.exchange.fail(
        faults.transform(lambda body: json.dumps(json.loads(body)[:300]).encode()), match=is_first(start)
    )
    world.exchange.fail(faults.body(b"[]"), match=is_first("2024-05-02T20:00"))
    frame = world.fetcher(source="rest").fetch("BTC/USDT", "1h", start, end)
    same(frame, world.truth("BTCUSDT", "1h", start, end))


@pytest.mark.fault("K18")
def test_a_symbol_that_is_to_be_traded_soon_is_not_listed_yet(world: World) -> None:
    pending = {"symbol": "NEWUSDT", "status": "PENDING_TRADING", "baseAsset": "NEW", "quoteAsset": "USDT"}
    info = {"timezone": "UTC", "serverTime": 0, "rateLimits": [], "exchangeFilters": [], "symbols": [pending]}
    world.exchange.fail(faults.body(json.dumps(info).encode()), times=None, match="exchangeInfo")
    nothing = world.exchange.fail(faults.body(b"[]"), times=None, match="klines")
    fetcher = world.fetcher(source="rest")
    frame = fetcher.fetch("NEW/USDT", "1h", "2024-06-14", "2024-06-15T10:00")
    assert frame.empty
    assert [gap["cause"] for gap in frame.attrs["candle_fetcher"]["gaps"]] == ["not_listed"]
    nothing.stop()
    first = ms("2024-06-15T12:00")
    row = [first, "1", "1", "1", "1", "1", first + HOUR - 1, "1", 1, "1", "1", "0"]
    world.exchange.fail(faults.body(json.dumps([row]).encode()), times=None, match="klines")
    world.now_s = first / 1000 + 3630
    assert len(fetcher.fetch("NEW/USDT", "1h", "2024-06-14", "2024-06-15T13:00")) == 1
