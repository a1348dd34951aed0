"""Kraken beyond the contract of all: its envelope, its 720 candles, its words for what is wrong, end to end."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from world import World, ms, same

from candle_fetcher import (
    CandleFetcher,
    ClockSkew,
    IncompleteData,
    InputError,
    NotOffered,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.call import Limit, Reply
from candle_fetcher.core.candles import check
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, parse_timeframe
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import binance, find_provider
from candle_fetcher.providers.kraken import parse_candles, parse_listing, refusal
from candle_fetcher.sources.wire import LimiterClocks

KRAKEN = find_provider("kraken")
FEED = KRAKEN.feed("candles")
REFUSED = sorted((Path(__file__).parent / "replies" / "kraken").glob("*.refused.body"))
NOW_MS = 1_700_000_000_000
EVER = Span(0, 2**61)
# The worlds' clocks stand still: a limit a second would be one for ever.
UNHURRIED = replace(KRAKEN, default_limits=(Limit(1000, 1, "requests"),))


def series(timeframe="1m", symbol="XBTUSD"):
    return Series("kraken", None, symbol, parse_timeframe(timeframe))


def reply(rows, pair="XXBTZUSD", last=0, error=()):
    return json.dumps({"error": list(error), "result": {pair: rows, "last": last}}, separators=(",", ":")).encode()


ROW = [1_700_000_040, "0.2", "0.4", "0.1", "0.3", "0.25", "9.5", 7]


# -- the reply --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeframe", "minutes"),
    [("1m", 1), ("5m", 5), ("15m", 15), ("30m", 30), ("1h", 60), ("4h", 240), ("1d", 1440), ("1w", 10080)],
)
def test_a_call_asks_for_all_that_there_is_by_minutes(timeframe, minutes):
    call = FEED.call(series(timeframe), Span(5 * DAY_MS, 6 * DAY_MS), 7)
    assert call.path == "/0/public/OHLC"
    assert dict(call.params) == {"pair": "XBTUSD", "interval": str(minutes)}
    assert call == FEED.call(series(timeframe), Span(0, 1), 720)
    assert FEED.depth(series(timeframe)) == 720


def test_what_is_not_offered_is_made_of_what_is_or_refused():
    assert base_for(parse_timeframe("2h"), FEED.timeframes, "kraken").name == "1h"
    assert base_for(parse_timeframe("3m"), FEED.timeframes, "kraken").name == "1m"
    with pytest.raises(InputError, match="it offers 1m, 5m, 15m"):
        base_for(parse_timeframe("30s"), FEED.timeframes, "kraken")
    with pytest.raises(NotOffered, match="it offers candles"):
        KRAKEN.feed("mark")


def test_the_provider_asks_once_a_second_at_most():
    assert KRAKEN.default_limits == (Limit(1, 1, "requests"),)


texts = st.decimals(min_value="0.00000001", max_value="99999999", places=8).map(lambda number: f"{number:f}")
rows = st.lists(st.tuples(texts, texts, texts, texts, texts, texts, st.integers(0, 10**6)), max_size=6).map(
    lambda given: [[1_700_000_040 + 60 * at, *row] for at, row in enumerate(given)]
)


@examples()
@given(rows=rows, data=st.data())
def test_however_the_reply_is_written_its_candles_are_what_float_reads(rows, data):
    body = reply(rows)
    value = json.loads(body)
    others = [
        json.dumps({"result": value["result"], "error": []}).encode(),
        json.dumps({"error": [], "result": {"last": 0, "XXBTZUSD": rows}}).encode(),
        json.dumps({"error": [], "result": {"XXBTZUSD": rows}}).encode(),
        json.dumps(value, indent=data.draw(st.sampled_from([None, 0, 1, 4, "\t"]))).encode() + b"\n ",
        b" \r\n" + body,
        reply(rows, error=["WGeneral:Deprecated"]),
    ]
    for one in (body, *others):
        candles = parse_candles(one, series())
        assert candles.open_ms.tolist() == [row[0] * 1000 for row in rows]
        assert candles.integers("trades").tolist() == [row[7] for row in rows]
        for name, at in (("open", 1), ("high", 2), ("low", 3), ("close", 4), ("volume", 6)):
            assert candles.floats(name).tolist() == [float(row[at]) for row in rows]


@pytest.mark.fault("A10")
@pytest.mark.parametrize("pair", ["XETHZUSD", "XBTUSDT", "XBTUSDD", "result", "A" * 61, "XBT USD", "", "\x1b[31m"])
def test_rows_of_another_pair_are_a_reply_error(pair):
    with pytest.raises(ReplyError) as caught:
        parse_candles(reply([ROW], pair), series())
    assert "\x1b" not in str(caught.value)
    with pytest.raises(ReplyError):
        parse_candles(json.dumps({"error": [], "result": {"XXBTZUSD": [ROW], "XETHZUSD": [ROW]}}).encode(), series())


@pytest.mark.parametrize("error", [5, True, {}, {"x": "EQuery:Unknown asset pair"}, [5], [None], None])
def test_an_error_that_is_no_list_of_texts_is_not_taken_for_none(error):
    with pytest.raises(ReplyError, match="a JSON object with error and result"):
        parse_candles(json.dumps({"error": error, "result": {"XBTUSD": [ROW], "last": 5}}).encode(), series())


@pytest.mark.parametrize("pair", ["XXBTZUSD", "XBTUSD", "XBT/USD"])
def test_rows_of_the_pair_by_any_of_its_names_are_its_candles(pair):
    assert parse_candles(reply([ROW], pair), series()).count == 1


@pytest.mark.slow
def test_a_candle_costs_no_more_than_twice_what_binance_s_does():
    count = 1000
    ours = reply([[1_700_000_040 + 60 * at, "36501.5", "36544.0", "36500.0", "36540.1", "36520.7", "12.34567890", 321]
                  for at in range(count)])  # fmt: skip
    theirs = json.dumps(
        [[1_700_000_040_000 + 60_000 * at, *["36501.50000000"] * 4, "12.34567890", 1_700_000_099_999 + 60_000 * at,
          "450618.01234567", 321, "6.17283945", "225309.00617283", "0"] for at in range(count)],
        separators=(",", ":"),
    ).encode()  # fmt: skip

    def cost(parse):
        began = time.process_time()
        assert parse().count == count
        return time.process_time() - began

    of = series()
    pairs = [(cost(lambda: parse_candles(ours, of)), cost(lambda: binance.parse_candles(theirs))) for _ in range(60)]
    mine, other = (float(np.median(column)) for column in zip(*pairs, strict=True))
    assert mine <= 2 * other, f"{mine * 1e6:.0f} us against {other * 1e6:.0f} us"


# -- what Kraken says instead -----------------------------------------------------------------------------------------


def meant(words, status=200, now_ms=NOW_MS):
    return refusal(Reply(status, {}, json.dumps({"error": [words]}).encode(), 0.0), "XYZ", now_ms)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("EAPI:Rate limit exceeded", RateLimited),
        ("EGeneral:Too many requests", RateLimited),
        ("EGeneral:Temporary lockout", RateLimited),
        ("EService: Throttled: 1700000020", RateLimited),
        ("EService:Throttled", RateLimited),
        ("EService:Unavailable", TransportError),
        ("EService:Busy", TransportError),
        ("EService:Timeout", TransportError),
        ("EService: Timeout", TransportError),
        ("EGeneral:Internal error", TransportError),
        ("EService:Market in cancel_only mode", TransportError),
        ("EService:Market in post_only mode", TransportError),
        ("EQuery:Unknown asset pair", UnknownSymbol),
        ("EQuery:Invalid asset pair", UnknownSymbol),
        ("EGeneral:Invalid arguments", ProviderRefused),
        ("EGeneral:Invalid arguments:interval", ProviderRefused),
        ("EGeneral:Unknown method", ProviderRefused),
        ("EGeneral:Permission denied", ProviderRefused),
        ("E\x1b[31m\nEAPI:Rate limit exceeded", ProviderRefused),
    ],
)
def test_the_words_tell_the_error_with_status_200_or_another(words, kind):
    for status in (200, 400, 422):
        error = meant(words, status)
        assert type(error) is kind
        assert "\x1b" not in str(error)
        assert "\n" not in str(error)
    with pytest.raises(kind):
        parse_candles(json.dumps({"error": [words]}).encode(), series())
    with pytest.raises(kind):
        parse_listing(json.dumps({"error": [words]}).encode(), "XYZ")
    if kind is UnknownSymbol:
        assert meant(words).symbol == "XYZ"


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("EService: Throttled: 1700000020", 20.0),
        ("EService:Throttled:1700000020", 20.0),
        ("EService: Throttled: 1699999999", 0.0),
        ("EService: Throttled: 999999999999", 1e9),
        ("EService: Throttled: soon", None),
        ("EAPI:Rate limit exceeded", None),
    ],
)
def test_a_pause_lasts_until_the_second_that_kraken_names(words, seconds):
    assert meant(words).retry_after_s == seconds


def test_a_refusal_carries_its_words():
    error = meant("EGeneral:Invalid arguments:interval")
    assert (error.status, error.code) == (200, "EGeneral:Invalid arguments:interval")
    blocked = refusal(Reply(403, {}, b"<html>Cloudflare</html>", 0.0), "XYZ", NOW_MS)
    assert "firewall" in str(blocked)
    assert "api_keys" not in blocked.fix


# -- what was recorded ------------------------------------------------------------------------------------------------


@pytest.mark.fault("B12")
def test_the_recorded_reply_is_read_row_for_row_from_the_opening_on(shared, record_property):
    found = 0
    for path in (
        shared / "recorded" / "kraken" / "ohlc_xbtusdt_1m_nov2025.json",
        shared / "market_data" / "kraken" / "http_ohlc.json",
    ):
        if not path.exists():
            pytest.skip(f"{path.name} is not among the recorded data beside the repository")
        body = path.read_bytes()
        result = json.loads(body)["result"]
        sent = result["XBTUSDT"]
        for one in (body, reply(sent, "XBTUSDT", result["last"])):
            candles = check(parse_candles(one, series(symbol="XBTUSDT")), EVER)
            assert candles.open_ms.tolist() == [row[0] * 1000 for row in sent]
            for name, at in (("open", 1), ("high", 2), ("low", 3), ("close", 4), ("volume", 6)):
                assert candles.floats(name).tolist() == [float(row[at]) for row in sent]
            assert candles.integers("trades").tolist() == [row[7] for row in sent]
        # The server said 00:17:04 at that time: what is stamped 00:17:00 has just opened, `last` has closed.
        clock_ms = KRAKEN.clock.parse((shared / "recorded" / "kraken" / "server_time.json").read_bytes())
        assert sent[-1][0] * 1000 <= clock_ms < (sent[-1][0] + 60) * 1000
        assert sent[-2][0] == result["last"]
        found += len(sent)
    record_property("runs", found)


def test_every_recorded_pair_is_found_by_each_of_its_names(shared):
    for path in sorted((shared / "recorded" / "kraken").glob("asset_pairs_*.json")):
        if ".meta." in path.name:
            continue
        entries = json.loads(path.read_bytes())["result"]
        listing = parse_listing(path.read_bytes())
        traded = {name: entry for name, entry in entries.items() if "wsname" in entry}
        assert len(listing.symbols) == len(traded)
        assert listing.limits == ()
        for (name, entry), one in zip(traded.items(), listing.symbols, strict=True):
            assert one.trading
            assert one.provider_symbol == entry["altname"]
            for written in (name, entry["altname"], entry["wsname"], one.symbol, one.symbol.replace("/", "-").lower()):
                assert KRAKEN.provider_symbol(written, "candles") == entry["altname"]
            assert KRAKEN.unified(entry["altname"]) == one.symbol


# -- the practice dialect ---------------------------------------------------------------------------------------------


@pytest.fixture
def exchange():
    with PracticeExchange(clock=lambda: ms("2024-06-15T12:00:30") / 1000) as running:
        running.kraken.burst = 1000
        yield running


def got(exchange, path):
    with urllib.request.urlopen(f"{exchange.url}/0/public/{path}", timeout=10) as sent:
        assert sent.status == 200
        return json.loads(sent.read())


def recorded(shared, name):
    return json.loads((shared / "recorded" / "kraken" / f"{name}.json").read_bytes())


def shape(value):
    """Types and names, whatever the values: a list is told by its first member."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value)


def test_the_practice_exchange_sends_what_kraken_does(shared, exchange):
    for name, path in (
        ("server_time", "Time"), ("system_status", "SystemStatus"), ("error_unknown_asset_pair", "OHLC?pair=ETHXBT.d"),
    ):  # fmt: skip
        assert shape(got(exchange, path)) == shape(recorded(shared, name))
    ours = got(exchange, "OHLC?pair=XBTUSDT")
    theirs = recorded(shared, "ohlc_xbtusdt_1m_nov2025")
    assert shape(ours) == shape(theirs)
    for one in (ours, theirs):
        sent = one["result"]["XBTUSDT"]
        assert [[type(value) for value in row] for row in sent] == [[int, *[str] * 6, int]] * 721
        assert set(np.diff([row[0] for row in sent]).tolist()) == {60}
        assert one["result"]["last"] == sent[-2][0]
        decimals = {len(text.partition(".")[2]) for row in sent for text in row[1:6]}
        assert decimals == {1}
        assert {len(row[6].partition(".")[2]) for row in sent} == {8}
        quiet = [(before, row) for before, row in itertools.pairwise(sent) if row[7] == 0]
        assert 50 < len(quiet) < 400
        for before, row in quiet:
            assert row[1:] == [before[4]] * 4 + ["0.0", "0.00000000", 0]
    pair, real = got(exchange, "AssetPairs?pair=XBTUSDT"), recorded(shared, "asset_pairs_xbtusdt")
    mine, other = pair["result"]["XBTUSDT"], real["result"]["XBTUSDT"]
    assert {name: shape(other[name])[:0] if isinstance(other[name], list) else type(other[name]) for name in mine} == {
        name: shape(mine[name])[:0] if isinstance(mine[name], list) else type(mine[name]) for name in mine
    }
    assert {name: mine[name] for name in ("altname", "wsname", "base", "quote")} == {
        name: other[name] for name in ("altname", "wsname", "base", "quote")
    }
    assert got(exchange, "Nope")["error"] == ["EGeneral:Unknown method"]
    assert got(exchange, "OHLC")["error"] == got(exchange, "OHLC?pair=XBTUSD&interval=2")["error"]


def test_the_practice_exchange_never_sends_more_than_the_newest_720_and_the_running_one(exchange):
    for name in ("XBTUSD", "XXBTZUSD", "XBT%2FUSD"):
        result = got(exchange, f"OHLC?pair={name}&interval=60&since=1")["result"]
        assert list(result) == ["XXBTZUSD", "last"]
        sent = result["XXBTZUSD"]
        assert (len(sent), sent[-1][0]) == (721, ms("2024-06-15T12:00") // 1000)
    since = sent[-4][0]
    left = got(exchange, f"OHLC?pair=XBTUSD&interval=60&since={since}")["result"]["XXBTZUSD"]
    assert left == sent[-3:]
    assert got(exchange, f"OHLC?pair=XBTUSD&interval=60&since={10**11}")["result"]["XXBTZUSD"] == sent[-1:]
    truth = exchange.truth("kraken", "XBTUSD", "1h", sent[0][0] * 1000, sent[-1][0] * 1000 + 1)
    assert [float(row[4]) for row in sent] == truth["close"].tolist()


def test_weeks_of_the_practice_exchange_are_seven_of_its_days(exchange):
    week = got(exchange, "OHLC?pair=XETHXXBT&interval=10080")["result"]["XETHXXBT"][-2]
    assert dt.datetime.fromtimestamp(week[0], dt.timezone.utc).weekday() == 3
    days = [
        row
        for row in got(exchange, "OHLC?pair=ETHXBT&interval=1440")["result"]["XETHXXBT"]
        if week[0] <= row[0] < week[0] + 7 * 86400
    ]
    assert len(days) == 7
    assert week[1] == days[0][1]
    assert week[4] == days[-1][4]
    assert float(week[2]) == max(float(row[2]) for row in days)
    assert float(week[3]) == min(float(row[3]) for row in days)
    assert float(week[6]) == pytest.approx(sum(float(row[6]) for row in days), abs=1e-8)
    assert week[7] == sum(row[7] for row in days)


def test_the_practice_exchange_refuses_whoever_asks_too_often():
    at = [1_700_000_000.0]
    with PracticeExchange(clock=lambda: at[0]) as exchange:
        exchange.kraken.burst = 3
        assert [bool(got(exchange, "Time")["error"]) for _ in range(4)] == [False, False, False, True]
        assert got(exchange, "Time") == {"error": ["EAPI:Rate limit exceeded"]}
        at[0] += 2.5
        assert got(exchange, "Time")["error"] != []
        at[0] += 3
        assert got(exchange, "Time")["error"] == []


# -- end to end -------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    with World(tmp_path) as made:
        made.exchange.kraken.burst = 10**6
        yield made


def fetcher_of(world, **settings):
    """A fetcher of Kraken; its waits pass at once."""
    return world.fetcher(**{"provider": UNHURRIED, **settings})


def sent(world):
    """The requests for candles since the last look."""
    return world.asked("/OHLC")


def truth(world, timeframe, start, end, symbol="XBTUSD"):
    return world.truth(symbol, timeframe, start, end, provider="kraken")


def test_the_newest_candles_come_by_one_request_and_then_by_none(world):
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("BTC/USD", "1h", limit=100)
    same(frame, truth(world, "1h", "2024-06-11T08:00", "2024-06-15T12:00"))
    assert sent(world) == [{"pair": "XBTUSD", "interval": "60"}]
    assert frame.attrs["candle_fetcher"]["provider"] == "kraken"
    assert frame.attrs["candle_fetcher"]["symbol"] == "BTC/USD"
    for spelling in ("BTC/USD", "xbtusd", "XXBTZUSD", "BTC-USD"):
        pd.testing.assert_frame_equal(fetcher.fetch(spelling, "1h", limit=100), frame, check_exact=True)
    again = fetcher_of(world).fetch("BTCUSD", "1h", limit=100)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert sent(world) == []
    everything = fetcher.fetch("BTC/USD", "1h", limit=3, columns="all")
    assert (
        everything["trades"].tolist() == truth(world, "1h", "2024-06-15T09:00", "2024-06-15T12:00")["trades"].tolist()
    )
    assert everything["quote_volume"].isna().all()


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("timeframe", FEED.timeframes)
def test_every_timeframe_is_what_the_exchange_has(world, timeframe):
    steps = 30 * parse_timeframe(timeframe).nominal_ms
    end = ms("2024-06-15T12:00:30")
    start = dt.datetime.fromtimestamp((end - steps) / 1000, dt.timezone.utc).isoformat()
    frame = fetcher_of(world).fetch("ETH/BTC", timeframe, start)
    there = world.exchange.truth("kraken", "ETHXBT", timeframe, end - steps, end)
    closed = there["open_time"] + parse_timeframe(timeframe).nominal_ms <= end - 2000
    same(frame, {name: values[closed] for name, values in there.items()})
    assert len(frame) in (29, 30)
    assert frame.attrs["candle_fetcher"]["gap_count"] == 0
    assert len(sent(world)) == 1


def test_a_range_of_several_chunks_is_one_reply(world):
    frame = fetcher_of(world).fetch("BTC/USD", "1m", "2024-06-15T00:01", "2024-06-15T12:00")
    same(frame, truth(world, "1m", "2024-06-15T00:01", "2024-06-15T12:00"))
    assert len(sent(world)) == 1


def test_a_quiet_pair_has_a_flat_candle_for_each_minute(world):
    frame = fetcher_of(world).fetch("BTC/USDT", "1m", limit=600)
    same(frame, truth(world, "1m", "2024-06-15T02:00", "2024-06-15T12:00", "XBTUSDT"))
    assert (frame["volume"] == 0).sum() > 30
    assert frame.attrs["candle_fetcher"]["gap_count"] == 0


def test_what_is_older_than_720_candles_is_missing_and_the_rest_is_kept(world):
    fetcher = fetcher_of(world)
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch("BTC/USD", "1m", "2024-06-14T12:00", "2024-06-15T12:00")
    (missing,) = caught.value.missing
    assert (missing.cause, missing.first, missing.last, missing.count) == (
        "depth_limit", "2024-06-14T12:00:00Z", "2024-06-14T23:59:00Z", 720,
    )  # fmt: skip
    same(caught.value.frame, truth(world, "1m", "2024-06-15T00:00", "2024-06-15T12:00"))
    assert len(sent(world)) == 1
    kept = fetcher.fetch("BTC/USD", "1m", "2024-06-15T00:00", "2024-06-15T12:00", source="cache")
    assert len(kept) == 720
    with pytest.raises(IncompleteData) as caught:
        fetcher.fetch("BTC/USD", "1m", "2020-01-01", "2020-01-02")
    assert {gap.cause for gap in caught.value.missing} == {"depth_limit"}
    assert len(caught.value.frame) == 0


def test_a_listing_within_the_newest_720_is_no_depth_limit(world):
    frame = fetcher_of(world).fetch("DOGE/USD", "1w", "2019-01-01", "2024-06-01")
    there = truth(world, "1w", "2019-01-01", "2024-06-01", "XDGUSD")
    same(frame, there)
    (gap,) = frame.attrs["candle_fetcher"]["gaps"]
    assert gap["cause"] == "not_listed"


@pytest.mark.slow
def test_history_grows_with_each_fetch(world):
    wanted, begun = "2024-06-15T00:00", world.now_s
    fetcher_of(world).fetch("BTC/USD", "1m", wanted)
    for hours in (6, 12, 18, 24, 36):
        world.now_s = begun + hours * 3600
        end = dt.datetime.fromtimestamp(world.now_s // 60 * 60, dt.timezone.utc).replace(tzinfo=None).isoformat()
        frame = fetcher_of(world).fetch("BTC/USD", "1m", wanted)
        same(frame, truth(world, "1m", wanted, end))
    assert len(frame) == 48 * 60
    assert {params["interval"] for params in sent(world)} == {"1"}


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("pause_h", [12.5, 13, 14, 30, 24 * 7])
def test_what_was_ever_fetched_stays_though_the_next_reply_does_not_touch_it(world, pause_h):
    """Two windows of 720 minutes apart, within one chunk of 1,000 or not: the minutes between are lost, no others."""
    begun_ms = int(world.now_s * 1000)
    first = fetcher_of(world).fetch("BTC/USD", "1m", limit=700)
    world.now_s += pause_h * 3600
    later_ms = int(world.now_s * 1000)
    second = fetcher_of(world).fetch("BTC/USD", "1m", limit=700)
    with pytest.raises(IncompleteData) as caught:
        fetcher_of(world).fetch("BTC/USD", "1m", int(index_ms(first)[0]), later_ms // MINUTE_MS * MINUTE_MS)
    assert {gap.cause for gap in caught.value.missing} == {"depth_limit"}
    frame = caught.value.frame
    stamps = index_ms(frame)
    assert set(index_ms(first).tolist()) <= set(stamps.tolist())
    assert set(index_ms(second).tolist()) <= set(stamps.tolist())
    lost = sum(gap.count for gap in caught.value.missing)
    reach_ms = later_ms // MINUTE_MS * MINUTE_MS - 720 * MINUTE_MS
    assert lost == (reach_ms - begun_ms // MINUTE_MS * MINUTE_MS) // MINUTE_MS
    for part in (first, second):
        pd.testing.assert_frame_equal(frame.loc[part.index], part, check_freq=False, check_exact=True)
    # And so it is for whoever asks nobody.
    kept = fetcher_of(world).fetch(
        "BTC/USD", "1m", int(index_ms(first)[0]), begun_ms // MINUTE_MS * MINUTE_MS, source="cache"
    )
    pd.testing.assert_frame_equal(kept, first, check_freq=False, check_exact=True)


def test_two_hours_are_made_of_hours(world):
    frame = fetcher_of(world).fetch("BTC/USD", "2h", "2024-06-14", "2024-06-15")
    hours = truth(world, "1h", "2024-06-14", "2024-06-15")
    assert frame["open"].tolist() == hours["open"][::2].tolist()
    assert frame["close"].tolist() == hours["close"][1::2].tolist()
    assert frame["high"].tolist() == hours["high"].reshape(-1, 2).max(axis=1).tolist()
    assert sent(world) == [{"pair": "XBTUSD", "interval": "60"}]


def test_the_running_candle_comes_only_where_it_is_asked_for(world):
    fetcher = fetcher_of(world)
    assert "is_closed" not in fetcher.fetch("BTC/USD", "1h", limit=3)
    frame = fetcher.fetch("BTC/USD", "1h", limit=3, include_open=True)
    assert frame["is_closed"].tolist() == [True, True, False]
    same(frame.drop(columns="is_closed"), truth(world, "1h", "2024-06-15T10:00", "2024-06-15T12:01"))
    world.now_s += 1800
    later = fetcher.fetch("BTC/USD", "1h", limit=3, include_open=True)
    assert later["volume"].iloc[-1] > frame["volume"].iloc[-1]
    world.now_s += 1800
    final = fetcher.fetch("BTC/USD", "1h", limit=1)
    same(final, truth(world, "1h", "2024-06-15T12:00", "2024-06-15T13:00"))


@pytest.mark.slow
@pytest.mark.fault("B10")
def test_weeks_keep_the_time_that_they_are_sent_with_on_whatever_day_they_are_asked_for(world, record_property):
    """The practice exchange's open on Thursdays: in the middle of our slots, and a slot's candle is late by days."""
    for day in range(9):
        frame = fetcher_of(world).fetch("ETH/BTC", "1w", "2024-01-01")
        there = truth(world, "1w", "2024-01-01", "2025-01-01", "ETHXBT")
        closed = there["open_time"] + 7 * DAY_MS <= world.now_s * 1000
        same(frame, {name: values[closed] for name, values in there.items()})
        assert set(((index_ms(frame) // DAY_MS + 3) % 7).tolist()) == {3}
        assert frame.attrs["candle_fetcher"]["gap_count"] == 0, day
        world.now_s += 86400
    record_property("runs", 9)


def test_a_hole_inside_is_asked_for_again_and_then_believed(world):
    first = ms("2024-06-15T05:00")
    world.exchange.hide("kraken", "XBTUSD", (first, first + 2 * HOUR_MS))
    frame = fetcher_of(world).fetch("BTC/USD", "1h", "2024-06-14", "2024-06-15T12:00")
    assert frame.attrs["candle_fetcher"]["gaps"] == [
        {"first": "2024-06-15T05:00:00Z", "last": "2024-06-15T06:00:00Z", "count": 2, "cause": "no_candle"}
    ]
    assert len(sent(world)) == 2


def test_a_rate_limit_is_waited_for_though_its_status_is_200(world):
    fault = world.exchange.fail(faults.body(b'{"error":["EAPI:Rate limit exceeded"]}'), match="/OHLC")
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("BTC/USD", "1h", limit=5)
    assert fault.hits == 1
    assert sum(world.waits) >= 1
    assert len(frame) == 5
    assert frame.attrs["candle_fetcher"]["retries"] == 1
    assert len(sent(world)) == 2


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("words", ["EService:Unavailable", "EService:Busy", "EGeneral:Internal error"])
def test_what_passes_is_tried_again(world, words):
    world.exchange.fail(faults.body(json.dumps({"error": [words]}).encode()), match="/OHLC")
    assert len(fetcher_of(world).fetch("BTC/USD", "1h", limit=5)) == 5
    assert len(sent(world)) == 2


@pytest.mark.slow
@pytest.mark.fault("A07")
def test_an_error_with_status_200_is_that_error_and_nothing_is_stored(world, record_property):
    runs = 0
    for path in REFUSED:
        if not path.read_bytes().startswith(b"{"):
            continue
        fault = world.exchange.fail(faults.body(path.read_bytes()), times=None, match="/OHLC")
        with fetcher_of(world, max_retries=0, cache_dir=world.folder / path.name) as fetcher:
            words = json.loads(path.read_bytes())["error"][0]
            expected = type(meant(words))
            with pytest.raises((expected, IncompleteData)) as caught:
                fetcher.fetch("BTC/USD", "1h", "2024-06-14", "2024-06-15")
            if isinstance(caught.value, IncompleteData):
                assert not len(caught.value.frame)
                assert {type(one) for one in caught.value.refusals} == {expected}
            fault.stop()
            with pytest.raises(IncompleteData):
                fetcher.fetch("BTC/USD", "1h", "2024-06-14", "2024-06-15", source="cache")
            runs += 1
    assert runs >= 15
    record_property("runs", runs)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    "action",
    [faults.html_200(), faults.cut(0.5), faults.body(b""), faults.body(b'{"error":[],"result":{"XXBTZUSD":[]'),
     faults.status(520, b"<html>520</html>"), faults.status(503)],
    ids=lambda action: action.name,
)  # fmt: skip
def test_a_reply_that_is_none_is_asked_for_again(world, action):
    world.exchange.fail(action, match="/OHLC")
    frame = fetcher_of(world).fetch("BTC/USD", "1h", limit=24)
    same(frame, truth(world, "1h", "2024-06-14T12:00", "2024-06-15T12:00"))


def test_an_unknown_pair_is_told_with_the_closest_names(world):
    with pytest.raises(UnknownSymbol) as caught:
        fetcher_of(world).fetch("BTX/USD", "1h", limit=5)
    assert "BTC/USD" in caught.value.closest


def test_what_there_is_can_be_listed(world):
    listed = fetcher_of(world).symbols()
    assert {"BTC/USD", "ETH/BTC", "DOGE/USD"} <= set(listed["symbol"])
    assert set(listed["status"]) == {"online"}


def test_several_pairs_are_fetched_at_once(world):
    frames = fetcher_of(world).fetch_many(["BTC/USD", "ETH/USD", "SOL/USD"], "1h", "2024-06-10", "2024-06-15")
    for name, frame in frames.items():
        same(frame, truth(world, "1h", "2024-06-10", "2024-06-15", name.replace("/", "").replace("BTC", "XBT")))
    assert len(sent(world)) == 3


def test_a_file_of_it_is_written_like_any_other(world, tmp_path):
    path = fetcher_of(world).export("BTC/USD", "1h", "2024-06-10", "2024-06-15", path=tmp_path / "out")
    assert len(pd.read_csv(path)) == 120


@pytest.mark.fault("E07", "B03")
def test_calls_go_out_one_a_second(tmp_path):
    """Waits pass at once, by a clock that the exchange and the fetcher share. Each reply is another reading of it.

    One call at a time: what is under way in another thread would arrive seconds later by that clock.
    """
    now_s, lock = ms("2024-06-15T12:00:30") / 1000, threading.Lock()

    def passes(seconds):
        nonlocal now_s
        with lock:
            now_s += seconds
            return now_s

    def clock():
        return passes(0.007)

    def wait(stop, seconds):
        passes(seconds)
        return stop.is_set()

    def clocks(server_clock):
        return LimiterClocks(server_clock.estimated_ms, lambda: int(1000 * now_s), lambda: int(1000 * now_s))

    with PracticeExchange(clock=clock) as exchange, CandleFetcher(
        "kraken", base_urls=exchange.base_urls, cache_dir=tmp_path, clock=clock, progress=False, network_threads=1
    ) as fetcher:  # fmt: skip
        fetcher._runtime.wire = fetcher._runtime.wire._replace(wait=wait, limiter_clocks=clocks)
        exchange.kraken.burst = 2.5
        frames = [fetcher.fetch(symbol, "1h", "2024-06-10", "2024-06-15") for symbol in ("BTC/USD", "ETH/USD")]
        assert [len(frame) for frame in frames] == [120, 120]
        assert [frame.attrs["candle_fetcher"]["retries"] for frame in frames] == [0, 0]
        at = [request.time for request in exchange.requests]
    # Its clock tells whole seconds: a second begins anew when it becomes known, by the second call.
    assert len(at) >= 3
    assert at[-1] - at[1] > 0.85 * (len(at) - 2)  # a busy machine may notice one late, and the next in time


def test_a_slow_reader_of_pieces_is_given_no_candle_that_was_forming_when_they_were_asked_for(world):
    """The pieces of a stream share a reply. A candle that settled between two of them was forming in it."""
    border_ms = int(world.now_s * 1000) // MINUTE_MS // 1000 * 1000 * MINUTE_MS
    world.now_s = border_ms / 1000 + 300 * 60 + 30
    start_ms, end_ms = border_ms - 200 * MINUTE_MS, border_ms + 305 * MINUTE_MS
    stream = fetcher_of(world).iter_frames("BTC/USD", "1m", start_ms, rows=100)
    next(stream)
    world.now_s += 300
    assert sum(map(len, stream))
    frame = fetcher_of(world).fetch("BTC/USD", "1m", start_ms, end_ms)
    same(frame, world.exchange.kraken.truth("XBTUSD", "1m", start_ms, end_ms))


def test_to_ask_for_everything_again_loses_nothing_that_is_not_served_any_more(world):
    fetcher = fetcher_of(world)
    fetcher.fetch("BTC/USD", "1h", "2024-05-20")
    world.now_s += 10 * 86_400
    frame = fetcher.fetch("BTC/USD", "1h", "2024-05-20", "2024-06-25")
    sent(world)
    for span in (("2024-05-20", "2024-06-25"), ("2024-05-20", "2024-05-22")):
        again = fetcher.fetch("BTC/USD", "1h", *span, refresh=True)
        pd.testing.assert_frame_equal(again, frame.loc[: again.index[-1]], check_freq=False, check_exact=True)
        assert len(again) == (ms(span[1]) - ms(span[0])) // HOUR_MS
    assert len(sent(world)) == 1  # there is nothing to ask for of what is older
    assert sum(again.attrs["candle_fetcher"]["sources"].values()) == len(again)


@pytest.mark.parametrize("days", [3, 40])
def test_nothing_is_given_up_because_our_clock_is_ahead(world, days):
    fetcher = fetcher_of(world, clock=lambda: world.now_s + days * 86_400)
    with pytest.warns(ClockSkew):
        frame = fetcher.fetch("BTC/USD", "1m", "2024-06-15T10:00", "2024-06-15T12:00")
    same(frame, world.exchange.kraken.truth("XBTUSD", "1m", ms("2024-06-15T10:00"), ms("2024-06-15T12:00")))


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(("timeframe", "start"), [("1h", "2024-05-01"), ("1m", "2024-06-14"), ("1d", "2021-01-01")])
def test_what_is_not_served_any_more_is_asked_for_once(world, timeframe, start):
    found = []
    for _ in range(2):
        with pytest.raises(IncompleteData) as caught:
            fetcher_of(world).fetch("BTC/USD", timeframe, start)
        found.append((len(caught.value.frame), caught.value.missing))
    assert found[0] == found[1]
    assert found[0][0] == 720
    assert len(sent(world)) == 1


def test_what_was_not_served_once_is_asked_for_where_all_is_served_now(world):
    """As by a plan that is paid for, of which the series are those of the free one."""
    feed = UNHURRIED.feed("candles")

    def parse(body, series):
        newest = feed.parse(body, series)
        return newest.trim(Span(int(newest.open_ms[-100]), int(newest.open_ms[-1]) + 1))

    shallow = replace(UNHURRIED, feeds={"candles": replace(feed, parse=parse, depth=lambda series: 99)})
    whole = replace(UNHURRIED, feeds={"candles": replace(feed, depth=lambda series: None)})
    for provider in (shallow, shallow):
        with pytest.raises(IncompleteData):
            fetcher_of(world, provider=provider).fetch("BTC/USD", "1h", "2024-05-20")
        world.now_s += 8 * 86_400
    world.now_s -= 8 * 86_400
    fetcher = fetcher_of(world, provider=whole)
    sent(world)
    frame = fetcher.fetch("BTC/USD", "1h", "2024-05-25")
    same(frame, truth(world, "1h", "2024-05-25", "2024-06-23T12:00"))
    assert len(sent(world)) == 1


@pytest.mark.fault("J02")
@pytest.mark.filterwarnings("ignore:this machine's clock")
def test_a_slot_without_a_row_among_the_newest_takes_nothing_from_them(tmp_path):
    with World(tmp_path) as world:
        world.exchange.hide("kraken", "XBTUSD", (ms("2024-06-15T07:00"), ms("2024-06-15T08:00")))
        frame = fetcher_of(world).fetch("BTC/USD", "1h", limit=10)
        assert len(frame) == 10
        assert index_ms(frame)[0] == ms("2024-06-15T01:00")
        stored = fetcher_of(world, source="cache").fetch("BTC/USD", "1h", end="2024-06-15T12:00", limit=100)
        assert len(stored) == 100
