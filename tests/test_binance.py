"""Binance beyond the contract of all providers: calls, costs, codes, rows, and every recorded reply."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candle_fetcher.core.call import Limit, Reply
from candle_fetcher.core.candles import INTEGERS, OHLCV, check
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    ProviderRefused,
    RateLimited,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, parse_timeframe
from candle_fetcher.providers import find_provider
from candle_fetcher.providers.binance import KLINE_COLUMNS, parse_candles, parse_coin_candles, refusal

NOW_MS = 1_700_000_000_000
NAMES = ("binance", "binance-us", "binance-um", "binance-cm")


def series(name, timeframe, kind="candles", symbol="XYZ"):
    return Series(name, None, symbol, parse_timeframe(timeframe), kind)


def same_bits(candles, names, rows):
    """Whether the candles are those rows, to the last bit."""
    assert candles.names == tuple(names)
    assert candles.count == len(rows)
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        expected = np.array(values, np.int64 if name in INTEGERS else np.float64).view(np.int64)
        assert candles.integers(name).tolist() == expected.tolist(), name


def whole(candles):
    return Span(int(candles.open_ms[0]), int(candles.open_ms[-1]) + 1) if candles.count else Span(0, 0)


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(status, code=None, msg="", headers=(), body=None):
    if body is None:
        body = b"" if code is None else json.dumps({"code": code, "msg": msg}).encode()
    return refusal(Reply(status, dict(headers), body, 0.0), "BTCUSDX", NOW_MS)


HTML = b"<html><head><title>403 Forbidden</title></head><body>Please enable cookies.</body></html>"


@pytest.mark.parametrize(
    ("kind", "status", "code", "body"),
    [
        (RateLimited, 429, -1003, None),
        (RateLimited, 429, None, HTML),
        (RateLimited, 400, -1003, None),
        (Banned, 418, -1003, None),
        (Banned, 418, None, HTML),
        (AccessDenied, 403, None, HTML),
        (AccessDenied, 451, 0, None),
        (AccessDenied, 401, -2015, None),
        (TransportError, 500, -1000, None),
        (TransportError, 500, None, HTML),
        (TransportError, 502, None, b""),
        (TransportError, 503, -1008, None),
        (TransportError, 503, None, b"Service Unavailable."),
        (TransportError, 504, None, HTML),
        (TransportError, 408, None, b""),
        (TransportError, 400, -1000, None),
        (TransportError, 400, -1001, None),
        (TransportError, 400, -1006, None),
        (TransportError, 400, -1007, None),
        (TransportError, 400, -1008, None),
        (UnknownSymbol, 400, -1121, None),
        (UnknownSymbol, 400, -1122, None),
        (ProviderRefused, 400, -1016, None),
        (ProviderRefused, 400, -1023, None),
        (ProviderRefused, 400, -1100, None),
        (ProviderRefused, 400, -1101, None),
        (ProviderRefused, 400, -1102, None),
        (ProviderRefused, 400, -1104, None),
        (ProviderRefused, 400, -1120, None),
        (ProviderRefused, 400, -1127, None),
        (ProviderRefused, 400, -1130, None),
        (ProviderRefused, 400, -4088, None),
        (ProviderRefused, 404, None, HTML),
        (ProviderRefused, 301, None, b""),
    ],
)
def test_status_and_code_tell_the_error_whatever_the_text(kind, status, code, body):
    for msg in ("", "IP banned until 1 o'clock", "Invalid symbol.", "Too many requests", "\x1b[31m" + "x" * 10_000):
        error = refused(status, code, msg, body=body)
        assert type(error) is kind
        assert len(str(error)) < 500
        assert "\x1b" not in str(error)


@pytest.mark.fault("A21")
def test_a_ban_ends_when_the_message_says_else_after_retry_after_else_after_two_minutes():
    ends = 1_660_090_423_228
    error = refused(418, -1003, f"Way too much request weight used; IP banned until {ends}. Please use the websocket.")
    assert error.until == dt.datetime(2022, 8, 10, 0, 13, 43, 228_000, tzinfo=dt.timezone.utc)
    assert "2022-08-10 00:13:43 UTC" in str(error)
    now = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.timezone.utc)
    assert refused(418, -1003, "banned", {"retry-after": "720"}).until - now == dt.timedelta(seconds=720)
    assert refused(418, -1003, "banned").until - now == dt.timedelta(seconds=120)
    assert refused(418, body=HTML).until - now == dt.timedelta(seconds=120)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("35", 35.0), (" 7 ", 7.0), ("0", 0.0), ("-3", 0.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", 92_567_680.0)],
)
def test_a_pause_is_as_long_as_the_provider_asks_for(text, seconds):
    assert refused(429, -1003, "", {"retry-after": text}).retry_after_s == seconds
    assert refused(429, -1003).retry_after_s is None


def test_errors_carry_their_facts():
    error = refused(400, -1120, "Invalid interval.")
    assert (error.status, error.code, error.message) == (400, -1120, "Invalid interval.")
    assert (refused(400, -1121).symbol, refused(400, -1121).provider) == ("BTCUSDX", "Binance")
    assert refused(503, -1008).status == 503
    denied = refused(451, 0, "Service unavailable from a restricted location")
    assert denied.status == 451
    assert denied.fix in str(denied)
    assert "region" in str(denied)
    assert refused(403, body=HTML).status == 403


@pytest.mark.parametrize(
    ("headers", "used"),
    [
        ({}, None),
        ({"x-mbx-used-weight-1m": "41"}, 41),
        ({"x-mbx-used-weight": "40"}, 40),
        ({"x-mbx-used-weight": "40", "x-mbx-used-weight-1m": "41"}, 41),
        ({"x-mbx-used-weight-1m": "-1"}, None),
        ({"x-mbx-used-weight-1m": "many"}, None),
        ({"x-mbx-used-weight-1m": "9" * 40}, None),
        ({"x-mbx-used-weight-1m": "\u0663"}, None),
    ],
)
def test_the_used_weight_is_read_from_the_headers(headers, used):
    assert find_provider("binance").used(headers) == used


@pytest.mark.parametrize(
    ("name", "kind", "path", "key", "limit"),
    [
        ("binance", "candles", "/api/v3/klines", "symbol", 1000),
        ("binance-us", "candles", "/api/v3/klines", "symbol", 1000),
        ("binance-um", "candles", "/fapi/v1/klines", "symbol", 1500),
        ("binance-um", "mark", "/fapi/v1/markPriceKlines", "symbol", 1500),
        ("binance-um", "index", "/fapi/v1/indexPriceKlines", "pair", 1500),
        ("binance-um", "premium", "/fapi/v1/premiumIndexKlines", "symbol", 1500),
        ("binance-cm", "candles", "/dapi/v1/klines", "symbol", 1500),
        ("binance-cm", "index", "/dapi/v1/indexPriceKlines", "pair", 1500),
    ],
)
def test_calls_go_where_the_documentation_says(name, kind, path, key, limit):
    feed = find_provider(name).feed(kind)
    call = feed.call(series(name, "1M", kind), Span(-5, 10 * DAY_MS), 7)
    assert (call.path, feed.limit) == (path, limit)
    assert dict(call.params) == {
        key: "XYZ", "interval": "1M", "startTime": "0", "endTime": str(10 * DAY_MS - 1), "limit": "7",
    }  # fmt: skip
    last = feed.last_call(series(name, "1h", kind), DAY_MS)
    assert dict(last.params) == {key: "XYZ", "interval": "1h", "endTime": str(DAY_MS - 1), "limit": "1"}
    if feed.first_call is not None:
        first = feed.first_call(series(name, "1h", kind))
        assert dict(first.params) == {key: "XYZ", "interval": "1h", "startTime": "0", "limit": "1"}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in NAMES for kind in find_provider(name).feeds])
@given(first=st.integers(0, 900_000), slots=st.integers(1, 1000))
@settings(max_examples=10)
def test_a_call_asks_for_the_span_with_inclusive_bounds(name, kind, first, slots):
    feed = find_provider(name).feed(kind)
    span = Span(first * HOUR_MS, (first + slots) * HOUR_MS)
    values = dict(feed.call(series(name, "1h", kind), span, min(slots, feed.limit)).params).values()
    assert {str(span.start_ms), str(span.end_ms - 1), str(min(slots, feed.limit)), "XYZ"} <= set(values)


@pytest.mark.parametrize("status", [418])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"code":-1003,"msg":"x"}', b"\xff"])
def test_every_418_is_a_ban(status, body):
    assert isinstance(refusal(Reply(status, {}, body, 0.0), "XYZ", NOW_MS), Banned)


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("binance", {1: 2, 500: 2, 1000: 2}),
        ("binance-um", {1: 1, 99: 1, 100: 2, 499: 2, 500: 5, 1000: 5, 1001: 10, 1500: 10}),
        ("binance-cm", {1: 1, 99: 1, 100: 2, 499: 2, 500: 5, 1000: 5, 1001: 10, 1500: 10}),
    ],
)
def test_a_call_costs_what_the_documentation_says(name, costs):
    feed, hours = find_provider(name).feed("candles"), series(name, "1h")
    assert {rows: feed.call(hours, Span(0, rows * HOUR_MS), rows).cost for rows in costs} == costs


def test_only_coin_m_has_a_window_of_two_hundred_days():
    windows = {name: {feed.window_ms for feed in find_provider(name).feeds.values()} for name in NAMES}
    assert windows == {"binance": {None}, "binance-us": {None}, "binance-um": {None}, "binance-cm": {200 * DAY_MS}}


INFO = {
    "serverTime": NOW_MS,
    "rateLimits": [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
        {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
    ],
    "symbols": [{"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}],
}


def test_limits_and_symbols_are_read_from_exchange_info():
    listing = find_provider("binance").listing.parse(json.dumps(INFO).encode())
    assert listing.limits == (Limit(6000, 60, "weight"), Limit(61000, 300, "requests"))
    (btc,) = listing.symbols
    assert btc[:4] == ("BTC/USDT", "BTCUSDT", "BTC", "USDT")
    assert btc.trading
    assert find_provider("binance").clock.parse(b'{"serverTime":1499827319559}') == 1_499_827_319_559


@pytest.mark.parametrize(
    "bad", [{"limit": 0}, {"limit": -1}, {"intervalNum": 0}, {"limit": 6000.5}, {"interval": "FORTNIGHT"}]
)
def test_a_limit_that_lets_nothing_through_is_one_of_0_and_the_symbols_stay(bad):
    info = {**INFO, "rateLimits": [{**INFO["rateLimits"][0], **bad}]}
    listing = find_provider("binance").listing.parse(json.dumps(info).encode())
    assert listing.limits == (Limit(0, 60, "weight"),)
    assert [one.provider_symbol for one in listing.symbols] == ["BTCUSDT"]


GOOD = ["0.2", "0.4", "0.1", "0.3", "9", "5", "3", "2"]


def row_of(texts=GOOD, opened=0):
    o, h, low, c, v, q, tb, tq = (f'"{text}"' for text in texts)
    return f'[{opened},{o},{h},{low},{c},{v},{opened + 59_999},{q},17,{tb},{tq},"0"]'


def body(*rows):
    return f"[{','.join(rows)}]".encode()


# -- what was recorded ------------------------------------------------------------------------------------------------


def sent(path):
    """The columns of a recorded reply by json and float."""
    return [
        [int(value) if at in (0, 6, 8) else float(value) for at, value in enumerate(row[:11])]
        for row in json.loads(path.read_bytes())
    ]


def accepted(path, parse, names, order=range(11)):
    rows = sent(path)
    candles = parse(path.read_bytes())
    same_bits(candles, names, [[row[at] for at in order] for row in rows])
    assert check(candles, whole(candles)) is candles
    return len(rows)


def recorded(shared, folder):
    found = sorted(path for path in (shared / "recorded" / folder).glob("*klines*.json") if ".meta." not in path.name)
    assert found
    return found


@pytest.mark.slow(only=("binance_spot",))
@pytest.mark.parametrize("folder", ["binance_spot", "binance_um", "binance_cm"])
def test_every_recorded_reply_is_read_to_the_last_bit_and_accepted(shared, folder):
    coin = ("open_time", *OHLCV, "close_time", "trades", "taker_buy_volume", "base_volume", "taker_buy_base_volume")
    for path in recorded(shared, folder):
        if folder == "binance_cm":
            assert accepted(path, parse_coin_candles, coin, (0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10))
        else:
            assert accepted(path, parse_candles, KLINE_COLUMNS)


@pytest.mark.slow
def test_every_recorded_row_of_market_data_is_read_to_the_last_bit_and_accepted(shared):
    paths = sorted((shared / "market_data" / "binance_rest").rglob("*.json"))
    assert sum(accepted(path, parse_candles, KLINE_COLUMNS) for path in paths) > 40_000


@pytest.mark.parametrize(
    ("folder", "case", "status", "kind"),
    [
        ("binance_spot", "error_400_illegal_characters_end_time", 400, ProviderRefused),
        ("binance_spot", "error_400_invalid_symbol", 400, UnknownSymbol),
        ("binance_spot", "error_418_ip_banned", 418, Banned),
        ("binance_spot", "error_429_weight", 429, RateLimited),
        ("binance_spot", "error_451_restricted_location", 451, AccessDenied),
        ("binance_um", "error_400_invalid_symbol", 400, UnknownSymbol),
        ("binance_um", "error_400_mandatory_param_with_headers", 400, ProviderRefused),
        ("binance_um", "error_503_server_overloaded", 503, TransportError),
        ("binance_cm", "error_400_window_over_200_days", 400, ProviderRefused),
    ],
)
def test_every_recorded_refusal_is_told(shared, folder, case, status, kind):
    path = shared / "recorded" / folder / f"{case}.json"
    meta = json.loads(path.with_suffix(".meta.json").read_bytes())
    assert meta["status"] == status
    headers = {name.lower(): text for name, text in (meta["headers"] or {}).items()}
    assert type(refusal(Reply(status, headers, path.read_bytes(), 0.1), "X", NOW_MS)) is kind
    if headers:
        assert find_provider("binance-um").used(headers) == 34


@pytest.mark.parametrize(
    ("name", "folder"), [("binance", "binance_spot"), ("binance-um", "binance_um"), ("binance-cm", "binance_cm")]
)
def test_every_recorded_listing_is_read(shared, name, folder):
    provider = find_provider(name)
    for path in sorted((shared / "recorded" / folder).glob("exchange_info_*.json")):
        if ".meta." in path.name:
            continue
        info = json.loads(path.read_bytes())
        listing = provider.listing.parse(path.read_bytes())
        assert len(listing.symbols) == len(info["symbols"])
        weights = [one["limit"] for one in info["rateLimits"] if one["rateLimitType"] == "REQUEST_WEIGHT"]
        assert [limit.cost for limit in listing.limits if limit.kind == "weight"] == weights
        for entry, one in zip(info["symbols"], listing.symbols, strict=True):
            assert one.provider_symbol == entry["symbol"]
            # However it is written, the symbol leads back to the provider's own.
            assert provider.provider_symbol(one.symbol, "candles") == entry["symbol"]
            assert provider.provider_symbol(entry["symbol"].lower(), "candles") == entry["symbol"]
            if "_2" not in entry["symbol"]:
                assert provider.unified(entry["symbol"]) == one.symbol == f"{entry['baseAsset']}/{entry['quoteAsset']}"


def test_recorded_clocks_are_read(shared):
    for folder, name in (("binance_spot", "binance"), ("binance_um", "binance-um")):
        path = shared / "recorded" / folder / "server_time.json"
        assert find_provider(name).clock.parse(path.read_bytes()) == json.loads(path.read_bytes())["serverTime"]


def test_an_open_time_is_shown_as_what_it_is():
    assert iso(int(parse_candles(body(row_of())).open_ms[0])) == "1970-01-01T00:00:00Z"
