"""Alpaca beyond the contract of all: its calls, pages and times, its words for what is wrong, end to end."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from world import World, ms, same

from candle_fetcher import (
    AccessDenied,
    CandleFetcherWarning,
    IncompleteData,
    InputError,
    NotOffered,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import MISSING, check
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import Listed, Listing, find_provider
from candle_fetcher.providers.alpaca import next_call, parse_candles, refusal, used
from candle_fetcher.providers.base import Question

# Without exchange_calendars nobody knows that an exchange is closed at night.
pytestmark = pytest.mark.filterwarnings("ignore:the gaps of .* count hours:candle_fetcher.CandleFetcherWarning")

STOCKS, PAIRS = find_provider("alpaca"), find_provider("alpaca-crypto")
FEED = STOCKS.feed("candles")
NOW_MS = 1_700_000_000_000
EVER = Span(0, 2**61)
CHOSEN = (("adjustment", "raw"), ("feed", "sip"))
# No part of it may be seen.
MARK = "SENTINEL"


def series(timeframe="1m", symbol="AAPL", settings=CHOSEN):
    return Series("alpaca", None, symbol, parse_timeframe(timeframe), "candles", settings)


def pair(timeframe="1m", symbol="BTC/USD"):
    return Series("alpaca-crypto", None, symbol, parse_timeframe(timeframe))


def reply(bars, symbol="AAPL", token=None):
    return json.dumps({"bars": bars, "next_page_token": token, "symbol": symbol}, separators=(",", ":")).encode()


BAR = {"t": "2024-01-02T14:30:00Z", "o": 2.5, "h": 4, "l": 1.25, "c": 3, "v": 7, "n": 2, "vw": 2.75}


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_for_stocks_has_its_choices_and_inclusive_bounds():
    settings = (("adjustment", "split"), ("feed", "iex"))
    call = FEED.call(series("1d", "BRK.B", settings), Span(ms("2024-03-01"), ms("2024-03-20")), 19)
    assert call == Call(
        "/v2/stocks/BRK.B/bars",
        (
            ("timeframe", "1Day"), ("start", "2024-03-01T00:00:00Z"), ("end", "2024-03-19T23:59:59.999Z"),
            ("limit", "19"), ("sort", "asc"), ("feed", "iex"), ("adjustment", "split"),
        ),
    )  # fmt: skip


def test_a_call_for_pairs_names_them_in_the_query():
    call = PAIRS.feed("candles").call(pair("1h"), Span(ms("2024-03-01"), ms("2024-03-02")), 24)
    assert (call.path, dict(call.params)["symbols"]) == ("/v1beta3/crypto/us/bars", "BTC/USD")
    assert not {"feed", "adjustment", "asof"} & dict(call.params).keys()


def test_the_first_candle_is_asked_for_without_an_end_and_the_last_one_backwards():
    first, last = dict(FEED.first_call(series()).params), dict(FEED.last_call(series(), ms("2024-03-01")).params)
    assert (first["start"], first["sort"], first["limit"]) == ("2000-01-01T00:00:00Z", "asc", "1")
    assert "end" not in first  # which would be refused where the plan has nothing of the last minutes
    assert (last["end"], last["sort"], last["limit"]) == ("2024-02-29T23:59:59.999Z", "desc", "1")
    assert "start" in last  # else it is the beginning of the current day


def test_a_symbol_is_mapped_to_who_has_it_today():
    for call in (FEED.call(series(), Span(0, 60_000), 1), FEED.first_call(series()), FEED.last_call(series(), 1)):
        assert "asof" not in dict(call.params)


def test_the_next_page_is_the_same_call_with_its_token():
    call = FEED.call(series(), Span(0, 60_000_000), 1000)
    following = next_call(call, reply([BAR], token="QUFQTHxN"))
    assert following == call._replace(params=(*call.params, ("page_token", "QUFQTHxN")))
    after = next_call(following, reply([BAR], token="QUFQTHxO"))
    assert after == call._replace(params=(*call.params, ("page_token", "QUFQTHxO")))
    assert next_call(after, reply([BAR])) is None
    assert next_call(after, reply(None, token="")) is None


# -- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@examples()
@given(data=st.data())
def test_bars_whole_columns_at_a_time_and_one_by_one_are_the_same(data):
    decimal = st.builds(
        lambda whole, part: f"{whole}.{part}" if part else f"{whole}",
        st.integers(0, 10**8 - 1),
        st.text("059", max_size=9),
    )
    names = data.draw(st.permutations(list(BAR)))
    lines = []
    for minute in range(data.draw(st.integers(1, 4))):
        values = {name: data.draw(decimal) for name in names}
        values |= {"t": f'"2024-01-02T14:3{minute}:00Z"', "n": str(data.draw(st.integers(0, 10**9)))}
        lines.append("{" + ",".join(f'"{name}":{values[name]}' for name in names) + "}")
    body = f'{{"symbol":"AAPL","bars":[{",".join(lines)}],"next_page_token":null}}'.encode()
    spaced = body.replace(b",", b", ")
    quick, careful = parse_candles(body, series()), parse_candles(spaced, series())
    assert quick.block.tolist() == careful.block.tolist()
    for at, line in enumerate(lines):
        told = json.loads(line, parse_float=str, parse_int=str)
        assert quick.floats("open")[at] == float(told["o"])
        assert quick.floats("volume")[at] == float(told["v"])
        assert quick.integers("trades")[at] == int(told["n"])


def test_a_bar_of_2021_tells_no_trades_and_other_bars_beside_it_do():
    old = {name: value for name, value in BAR.items() if name not in ("n", "vw")}
    assert parse_candles(reply([old]), series()).integers("trades").tolist() == [MISSING]
    new = BAR | {"t": "2024-01-02T14:31:00Z"}
    assert parse_candles(reply([old, new]), series()).integers("trades").tolist() == [MISSING, 2]


def test_what_not_every_plan_has_is_asked_for_only_where_it_is_wanted():
    assert FEED.embargo_ms(series()) == 900_000
    assert FEED.embargo_ms(series(settings=(("adjustment", "raw"), ("feed", "iex")))) == 0
    assert PAIRS.feed("candles").embargo_ms(pair()) == 0


def test_adjusted_prices_are_restated_and_raw_ones_are_not():
    assert not FEED.restates_history(series())
    assert FEED.restates_history(series(settings=(("adjustment", "all"), ("feed", "sip"))))
    assert not PAIRS.feed("candles").restates_history(pair())


@pytest.mark.parametrize("bars", [None, [], {}, {"AAPL": None}, {"AAPL": []}])
def test_no_bars_are_no_candles(bars):
    assert parse_candles(reply(bars), series()).count == 0
    assert parse_candles(json.dumps({"bars": bars, "next_page_token": None}).encode(), series()).count == 0


@pytest.mark.parametrize(
    "body",
    [
        reply([BAR], symbol="MSFT"),
        reply({"MSFT": [BAR]}, symbol=None),
        reply({"AAPL": [BAR], "MSFT": [BAR]}, symbol=None),
        reply({"AAPL": BAR}, symbol=None),
        # Objects that look like bars, where no bars stand.
        b'{"bars":null,"x":[' + json.dumps(BAR, separators=(",", ":")).encode() + b"]}",
        b'{"x":[' + json.dumps(BAR, separators=(",", ":")).encode() + b'],"bars":[0]}',
        b'{"bars":"[' + json.dumps(BAR, separators=(",", ":")).encode() + b']"}',
    ],
)
def test_what_is_no_reply_to_the_call_is_a_reply_error(body):
    if body.startswith(b'{"bars":null,"x"'):
        assert parse_candles(body, series()).count == 0
        return
    with pytest.raises(ReplyError):
        parse_candles(body, series())


@pytest.mark.fault("B16")
def test_days_keep_the_midnight_that_they_are_sent_with_over_both_changes_of_the_clock(record_property):
    """Days of a year by New York and by Chicago: none is dropped, none is shifted into the day beside it."""
    runs = 0
    for of, zone in ((series("1d"), "America/New_York"), (pair("1d"), "America/Chicago")):
        days = pd.date_range("2024-01-01", "2024-12-31", freq="D", tz=zone)
        assert len({day.utcoffset() for day in days}) == 2
        opens = [day.tz_convert("UTC") for day in days]
        bars = [BAR | {"t": open_.strftime("%Y-%m-%dT%H:%M:%SZ")} for open_ in opens]
        candles = check(parse_candles(reply({of.symbol: bars}, symbol=None), of), EVER)
        assert candles.open_ms.tolist() == [int(open_.timestamp() * 1000) for open_ in opens]
        dates = np.array([day.date() for day in days], "M8[D]").astype(np.int64)
        assert of.timeframe.ordinals(candles.open_ms).tolist() == dates.tolist()
        runs += len(days)
    record_property("runs", runs)


# -- what Alpaca says instead -----------------------------------------------------------------------------------------


def refused(status, code=None, said="", headers=()):
    body = {"message": said} if code is None else {"code": code, "message": said}
    return refusal(Reply(status, dict(headers), json.dumps(body).encode(), 0.0), "XYZ", NOW_MS)


@pytest.mark.parametrize(
    ("kind", "status", "code", "said"),
    [
        (AccessDenied, 401, 40110000, "request is not authorized"),
        (AccessDenied, 403, None, "forbidden."),
        (AccessDenied, 403, None, "subscription does not permit querying recent SIP data"),
        (AccessDenied, 200, 40110000, "request is not authorized"),
        (ProviderRefused, 400, 40010000, "unexpected parameter(s): adjustmen"),
        (ProviderRefused, 422, 42210000, "invalid timeframe"),
        (ProviderRefused, 200, 42210000, "invalid timeframe"),
        (ProviderRefused, 404, 40410000, "endpoint not found."),
        (UnknownSymbol, 400, None, "invalid symbol: XYZ"),
        (UnknownSymbol, 404, 40410000, "symbol not found: XYZ"),
        (RateLimited, 429, None, "too many requests."),
        (RateLimited, 429, 42910000, "rate limit exceeded"),
        (RateLimited, 200, 42910000, "rate limit exceeded"),
        (TransportError, 500, 50010000, "internal server error occurred"),
        (TransportError, 504, None, "upstream request timeout"),
    ],
)
def test_status_and_code_tell_the_error(kind, status, code, said):
    error = refused(status, code, said)
    assert type(error) is kind
    assert said[:20] in str(error) or kind is UnknownSymbol
    assert error.fix in str(error)


def test_who_has_no_plan_for_the_newest_candles_is_told_two_ways_out():
    error = refused(403, None, "subscription does not permit querying recent SIP data")
    assert "15 minutes" in error.fix
    assert "provider_settings={'alpaca': {'feed': 'iex'}}" in error.fix


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"x-ratelimit-reset": str(NOW_MS // 1000 + 42)}, 42.0),
        ({"retry-after": "7", "x-ratelimit-reset": str(NOW_MS // 1000 + 42)}, 7.0),
        ({"x-ratelimit-reset": str(NOW_MS // 1000 - 42)}, 0.0),
        ({"x-ratelimit-reset": "99999999999"}, 3600.0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "-5"}, None),
    ],
)
def test_a_pause_is_as_long_as_alpaca_says(headers, seconds):
    assert refused(429, None, "too many requests.", headers).retry_after_s == seconds


@pytest.mark.parametrize(
    ("limit", "left", "spent"),
    [("200", "199", 1), ("200", "0", 200), ("200", "201", 0), ("200", None, None), ("x", "1", None), ("-1", "0", None)],
)
def test_what_is_spent_is_read_off_the_headers(limit, left, spent):
    headers = {"x-ratelimit-limit": limit, "x-ratelimit-remaining": left}
    assert used({name: text for name, text in headers.items() if text is not None}) == spent


@pytest.mark.parametrize("text", ["BTC/USD", "BRK-B", "AAPL US", "BRK.", ".B", "A/B", "AAPL?", "BRK.B.C.D", "\u0131BM"])
def test_what_is_no_stock_is_an_input_error_that_names_the_other_provider(text):
    with pytest.raises(InputError, match="alpaca-crypto"):
        STOCKS.provider_symbol(text, "candles")


@pytest.mark.parametrize("text", ["AAPL", "BTC", "USD", "/USD", "BTC/", "BTC/USD/X", "BTC//USD"])
def test_what_is_no_pair_is_an_input_error(text):
    with pytest.raises(InputError, match="expected BASE/QUOTE"):
        PAIRS.provider_symbol(text, "candles")


# -- the practice exchange --------------------------------------------------------------------------------------------


@pytest.fixture
def exchange():
    with PracticeExchange(clock=lambda: ms("2025-06-11T17:00:30") / 1000) as made:
        yield made


def got(exchange, path, *, keys=True, **params):
    given = exchange.api_keys["alpaca"]
    headers = {"APCA-API-KEY-ID": given["key_id"], "APCA-API-SECRET-KEY": given["secret_key"]} if keys else {}
    return requests.get(exchange.url + path, params=params, headers=headers, timeout=10)


def bars_of(exchange, symbol, timeframe, start, end, **params):
    found, token = [], None
    while True:
        more = {"page_token": token} if token else {}
        answer = got(
            exchange, f"/v2/stocks/{symbol}/bars", timeframe=timeframe, start=start, end=end, **params, **more
        ).json()
        found += answer["bars"] or []
        token = answer["next_page_token"]
        if token is None:
            return found


def test_the_practice_exchange_sends_what_alpaca_does(shared, exchange):
    recorded = json.loads((shared / "recorded/alpaca/stock_bars_amzn_1day_apr2020.json").read_bytes())
    crypto = json.loads((shared / "recorded/alpaca/crypto_snapshot_btcusd_nov2024.json").read_bytes())
    ours = got(exchange, "/v2/stocks/AAPL/bars", timeframe="1Day", start="2024-03-08", end="2024-03-12").json()
    assert ours.keys() == recorded.keys()
    like = crypto["snapshots"]["BTC/USD"]["dailyBar"]
    assert list(ours["bars"][0]) == list(like)
    pairs = got(
        exchange,
        "/v1beta3/crypto/us/bars",
        symbols="BTC/USD",
        timeframe="1Day",
        start="2024-11-01",
        limit=1,
        keys=False,
    ).json()
    (bar,) = pairs["bars"]["BTC/USD"]
    assert list(bar) == list(like)
    assert bar["t"] == like["t"]


@pytest.mark.parametrize(
    ("path", "params", "status", "recorded"),
    [
        ("/v2/stocks/AAPL/bars", {"timeframe": "90Min"}, 422, "error_422_invalid_timeframe"),
        ("/v2/stocks/AAPL/bars", {"timeframe": "2Day"}, 422, "error_422_invalid_timeframe"),
        ("/v2/stocks/AAPL/bars", {"timeframe": "5Month"}, 422, "error_422_invalid_timeframe"),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "end": "2025-06-11T16:50:00Z"}, 403, "error_403_recent_sip"),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "symbol": "X"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "limit": "0"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "start": "yesterday"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "start": "2025-02-30"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "feed": "nyse"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "adjustment": "none"}, 400, None),
        ("/v2/stocks/AAPL/bars", {"timeframe": "1Min", "page_token": "!"}, 400, None),
        ("/v2/stocks/a%20b/bars", {"timeframe": "1Min"}, 400, None),
        ("/v2/stocks/AAPL/trades", {"timeframe": "1Min"}, 404, None),
        ("/v1beta3/crypto/us/bars", {"timeframe": "1Min"}, 400, None),
        ("/v1beta3/crypto/us/bars", {"timeframe": "1Min", "symbols": "BTCUSD"}, 400, None),
    ],
)
def test_the_practice_exchange_refuses_as_alpaca_does(shared, exchange, path, params, status, recorded):
    exchange.alpaca.is_free = True
    answer = got(exchange, path, **params)
    assert answer.status_code == status
    if recorded is not None:
        assert answer.json() == json.loads((shared / f"recorded/alpaca/{recorded}.json").read_bytes())
    assert set(answer.json()) <= {"code", "message"}


def test_the_practice_exchange_keeps_the_sessions_of_new_york(exchange):
    minutes = bars_of(exchange, "SPY", "1Min", "2024-03-08", "2024-03-12T00:00:00Z", limit=10_000)
    opens = pd.to_datetime([bar["t"] for bar in minutes]).tz_convert("America/New_York")
    assert sorted(set(opens.strftime("%Y-%m-%d"))) == ["2024-03-08", "2024-03-11"]  # and no weekend
    assert len(minutes) == 2 * 390
    assert set(opens.strftime("%H:%M")) == {
        f"{at // 60:02}:{at % 60:02}" for at in range(9 * 60 + 30, 16 * 60)
    }  # on both sides of the change of the clock
    holiday = bars_of(exchange, "SPY", "1Hour", "2024-11-28", "2024-11-30")
    assert [bar["t"][:13] for bar in holiday] == [f"2024-11-29T{hour}" for hour in (14, 15, 16, 17)]


@pytest.mark.slow
def test_bars_of_the_practice_exchange_are_made_of_its_minutes(exchange):
    (week,) = bars_of(exchange, "AAPL", "1Week", "2024-07-29", "2024-07-29T04:00:00Z")  # July and August
    days = bars_of(exchange, "AAPL", "1Day", "2024-07-29", "2024-08-03")
    minutes = bars_of(exchange, "AAPL", "1Min", "2024-07-29", "2024-08-03", limit=10_000)
    assert (week["t"], len(days), len(minutes)) == ("2024-07-29T04:00:00Z", 5, 5 * 390)
    for parts in (days, minutes):
        assert week["o"] == parts[0]["o"]
        assert week["c"] == parts[-1]["c"]
        assert week["h"] == max(part["h"] for part in parts)
        assert week["l"] == min(part["l"] for part in parts)
        assert week["v"] == sum(part["v"] for part in parts)
        assert week["n"] == sum(part["n"] for part in parts)


@pytest.mark.slow
def test_coarse_bars_of_pairs_on_the_practice_exchange_are_made_of_its_minutes(exchange):
    def bars(timeframe):
        params = {"symbols": "ETH/BTC", "timeframe": timeframe, "limit": 10_000}
        return got(
            exchange, "/v1beta3/crypto/us/bars", start="2025-06-10T05:00:00Z", end="2025-06-11T16:59:59Z", **params
        ).json()["bars"]["ETH/BTC"]

    minutes = bars("1Min")
    assert len(minutes) == 36 * 60
    for bar, parts in zip(
        [*bars("1Hour"), bars("1Day")[0]],
        [*(minutes[at : at + 60] for at in range(0, len(minutes), 60)), minutes[: 24 * 60]],
        strict=True,
    ):
        assert (bar["o"], bar["c"]) == (parts[0]["o"], parts[-1]["c"])
        assert (bar["h"], bar["l"]) == (max(part["h"] for part in parts), min(part["l"] for part in parts))
        assert bar["v"] == pytest.approx(sum(part["v"] for part in parts), abs=1e-9)
        assert bar["n"] == sum(part["n"] for part in parts)


@pytest.mark.slow
def test_the_practice_exchange_has_two_lives_of_a_symbol_and_shows_one_unless_asked_by_the_symbol_alone(exchange):
    def years(**params):
        return sorted({bar["t"][:4] for bar in bars_of(exchange, "S", "1Month", "2019-01-01", "2022-12-31", **params)})

    assert years() == ["2021", "2022"]
    assert years(asof="-") == ["2019", "2020", "2021", "2022"]


@pytest.mark.slow
def test_the_practice_exchange_answers_backwards_too(exchange):
    forward = bars_of(exchange, "GENC", "1Day", "2024-01-01", "2024-04-01", limit=7)
    back = bars_of(exchange, "GENC", "1Day", "2024-01-01", "2024-04-01", limit=7, sort="desc")
    assert back == forward[::-1]
    assert len(forward) == 61
    weeks = bars_of(exchange, "GENC", "1Week", "2024-01-01", "2024-04-01", limit=3)
    assert bars_of(exchange, "GENC", "1Week", "2024-01-01", "2024-04-01", limit=3, sort="desc") == weeks[::-1]


def test_the_practice_exchange_counts_requests_by_the_minute():
    now = [ms("2025-06-11T17:00:30") / 1000]
    with PracticeExchange(clock=lambda: now[0]) as exchange:
        exchange.alpaca.rate_limit = 2
        answers = [got(exchange, "/v2/stocks/AAPL/bars", timeframe="1Day", limit=1) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
        assert answers[2].headers["X-RateLimit-Reset"] == str(ms("2025-06-11T17:01") // 1000)
        now[0] += 30
        assert got(exchange, "/v2/stocks/AAPL/bars", timeframe="1Day", limit=1).status_code == 200


# -- end to end -------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    with World(tmp_path / "cache", now="2025-06-11T17:00:32") as made:
        made.exchange.alpaca.rate_limit = made.exchange.alpaca_crypto.rate_limit = 10**6
        yield made


def fetcher_of(world, **settings):
    return world.fetcher(**{"provider": "alpaca", "api_keys": world.exchange.api_keys, **settings})


def truth(world, symbol, timeframe, start, end, provider="alpaca", **chosen):
    market = world.exchange.alpaca if provider == "alpaca" else world.exchange.alpaca_crypto
    return market.truth(symbol, timeframe, ms(start), ms(end), **chosen)


def sent(world):
    return world.asked("/bars")


@pytest.mark.fault("B16")
@pytest.mark.slow(keep=("2024-03-07-2024-03-13-15m",))
@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h", "1d"])
@pytest.mark.parametrize(("start", "end"), [("2024-03-07", "2024-03-13"), ("2024-10-31", "2024-11-06")])
def test_candles_over_a_weekend_on_which_the_clock_changes(world, timeframe, start, end, record_property):
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("aapl", timeframe, start, end, columns="all")
    expected = truth(world, "AAPL", timeframe, start, end)
    same(frame.drop(columns="close_time"), expected)
    assert frame["trades"].dtype == "Int64"
    assert frame["close_time"].isna().all()
    local = frame.index.tz_convert("America/New_York")
    assert sorted(set(local.strftime("%a"))) == (["Fri", "Mon", "Thu", "Tue"])
    if timeframe == "1d":
        assert set(local.strftime("%H:%M")) == {"00:00"}
        assert set(frame.index.strftime("%H:%M")) == {"04:00", "05:00"}
    assert sent(world)
    pd.testing.assert_frame_equal(fetcher.fetch("AAPL", timeframe, start, end, columns="all"), frame, check_exact=True)
    pd.testing.assert_frame_equal(
        fetcher_of(world).fetch("AAPL", timeframe, start, end, columns="all"), frame, check_exact=True
    )
    assert sent(world) == []
    record_property("runs", len(frame))


@pytest.mark.slow
@pytest.mark.parametrize("timeframe", FEED.timeframes)
def test_every_timeframe_is_what_the_exchange_has(world, timeframe):
    start = "2024-01-01" if timeframe in ("1d", "1w", "1M") else "2024-07-01" if timeframe == "1m" else "2024-06-26"
    for symbol, provider in (("S" if timeframe in ("1w", "1M") else "GENC", "alpaca"), ("ETH/BTC", "alpaca-crypto")):
        frame = fetcher_of(world).fetch(symbol, timeframe, start, "2024-07-03", provider=provider)
        same(frame, truth(world, symbol, timeframe, start, "2024-07-03", provider))
        assert len(frame)


@pytest.mark.slow
@pytest.mark.fault("B16")
def test_days_of_pairs_open_at_midnight_of_chicago(world, record_property):
    frame = fetcher_of(world).fetch("btcusd", "1d", "2024-01-01", "2025-01-01", provider="alpaca-crypto")
    local = frame.index.tz_convert("America/Chicago")
    assert (
        local.strftime("%Y-%m-%d").tolist() == pd.date_range("2024-01-01", "2024-12-31").strftime("%Y-%m-%d").tolist()
    )
    assert set(local.strftime("%H:%M")) == {"00:00"}
    same(frame, truth(world, "BTC/USD", "1d", "2024-01-01", "2025-01-01", "alpaca-crypto"))
    assert frame.attrs["candle_fetcher"]["gap_count"] == 0
    record_property("runs", len(frame))


def test_minutes_without_trades_are_asked_for_once(world):
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("GENC", "1m", "2024-06-26", "2024-06-27")
    same(frame, truth(world, "GENC", "1m", "2024-06-26", "2024-06-27"))
    assert 5 < len(frame) < 100
    asked = [call["start"] for call in sent(world) if call["limit"] != "1"]
    assert len(asked) == len(set(asked)) <= 3  # the chunks, and no hole in them
    world.now_s += 31 * 86_400
    fetcher_of(world).fetch("GENC", "1m", "2024-06-26", "2024-06-27")
    assert sent(world) == []


@pytest.mark.fault("A11")
@pytest.mark.slow
@pytest.mark.parametrize("cap", [1, 2, 7, 300, 999, 1000])
def test_pages_of_whatever_size_are_the_whole(tmp_path, cap, record_property):
    with World(tmp_path, now="2025-06-11T17:00:30", page_cap=cap) as world:
        world.exchange.alpaca.rate_limit = 10**6
        days = "2024-06-26", "2024-06-27" if cap < 10 else "2024-07-03"
        timeframe = "15m" if cap < 10 else "1m"
        frame = fetcher_of(world, provider=unhurried(STOCKS)).fetch("AAPL", timeframe, *days)
        same(frame, truth(world, "AAPL", timeframe, *days))
        asked = sent(world)
        assert cap > 300 or any("page_token" in call for call in asked)
        record_property("runs", len(asked))


def unhurried(provider):
    """The provider, with a budget that no test waits for: the worlds' clocks stand still."""
    return replace(provider, default_limits=(Limit(10**6, 60),), used=lambda headers: None)


@pytest.mark.slow
def test_a_token_that_leads_back_ends_the_fetch(world):
    token = base64.b64encode(b"AAPL|d|2024-06-03T04:00:00.000000000Z").decode()

    def same_token(body):
        return json.dumps(json.loads(body) | {"next_page_token": token}).encode()

    world.exchange.fail(faults.transform(same_token), times=None, match="/bars")
    with pytest.raises(IncompleteData) as caught:
        fetcher_of(world, max_retries=0).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    assert {type(one) for one in caught.value.refusals} == {ReplyError}
    assert len(sent(world)) < 20


@pytest.mark.slow
@pytest.mark.fault("C15")
def test_what_settings_change_is_never_mixed(world, record_property):
    """A share was split in ten on 2024-06-10: the choices give four histories, and each keeps to its own."""
    seen = {}
    for feed in ("sip", "iex"):
        for adjustment in ("raw", "split"):
            chosen = {"alpaca": {"feed": feed, "adjustment": adjustment}}
            fetcher = fetcher_of(world, provider_settings=chosen)
            frame = fetcher.fetch("NVDA", "1d", "2024-05-28", "2024-06-21")
            same(frame, truth(world, "NVDA", "1d", "2024-05-28", "2024-06-21", feed=feed, adjustment=adjustment))
            assert (frame["close"].max() > 1000) == (adjustment == "raw")
            asked = sent(world)
            assert asked
            assert {(call["feed"], call["adjustment"]) for call in asked} == {(feed, adjustment)}
            seen[feed, adjustment] = frame
    for (feed, adjustment), frame in seen.items():  # out of the cache
        chosen = {"alpaca": {"feed": feed, "adjustment": adjustment}}
        again = fetcher_of(world, provider_settings=chosen).fetch("NVDA", "1d", "2024-05-28", "2024-06-21")
        pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert sent(world) == []
    record_property("runs", sum(len(frame) for frame in seen.values()))


@pytest.mark.slow
@pytest.mark.fault("C15")
def test_what_was_adjusted_before_a_split_and_after_it_is_never_mixed(world, record_property):
    """The day before the split a part of the history is fetched, and the day after it a longer one."""
    chosen = {"alpaca": {"adjustment": "split"}}
    world.now_s = ms("2024-06-09T12:00") / 1000
    before = fetcher_of(world, provider_settings=chosen).fetch("NVDA", "1h", "2024-05-28", "2024-06-01")
    assert before["close"].min() > 1000
    world.now_s = ms("2024-06-11T12:00") / 1000
    fetcher = fetcher_of(world, provider_settings=chosen)
    frame = fetcher.fetch("NVDA", "1h", "2024-05-01", "2024-06-11")
    same(frame, truth(world, "NVDA", "1h", "2024-05-01", "2024-06-11", adjustment="split"))
    assert frame["close"].max() < 200
    sent(world)
    pd.testing.assert_frame_equal(fetcher.fetch("NVDA", "1h", "2024-05-01", "2024-06-11"), frame, check_exact=True)
    assert sent(world) == []
    record_property("runs", len(frame))


@pytest.mark.slow
@pytest.mark.fault("C14")
def test_a_symbol_that_two_companies_had_shows_the_one_that_has_it(world, record_property):
    frame = fetcher_of(world).fetch("S", "1d", "2019-06-01", "2022-01-01")
    same(frame, truth(world, "S", "1d", "2019-06-01", "2022-01-01"))
    assert frame.index[0] >= pd.Timestamp("2021-06-30", tz="UTC")
    assert frame.attrs["candle_fetcher"]["gaps"][0]["cause"] == "not_listed"
    record_property("runs", len(frame))


def test_the_newest_candles_settle_by_the_hour_on_the_reply(world):
    frame = fetcher_of(world).fetch("AAPL", "1m", limit=5)
    assert index_ms(frame).tolist() == [ms(f"2025-06-11T16:{minute}") for minute in range(55, 60)]
    same(frame, truth(world, "AAPL", "1m", "2025-06-11T16:55", "2025-06-11T17:00"))


def test_four_hours_are_made_of_hours(world):
    frame = fetcher_of(world).fetch("AAPL", "4h", "2024-06-26", "2024-06-28")
    hours = truth(world, "AAPL", "1h", "2024-06-26", "2024-06-28")
    assert {call["timeframe"] for call in sent(world)} == {"1Hour"}
    assert index_ms(frame).tolist() == sorted({open_ms // 14_400_000 * 14_400_000 for open_ms in hours["open_time"]})
    assert frame["volume"].sum() == hours["volume"].sum()
    with pytest.raises(InputError, match="it offers 1m, 5m"):
        fetcher_of(world).fetch("AAPL", "30s", "2024-06-26", "2024-06-28")


def test_a_symbol_that_nobody_has_is_a_gap_that_says_so(world):
    with pytest.warns(CandleFetcherWarning, match="never had one"):
        frame = fetcher_of(world).fetch("NOSUCH", "1d", "2024-06-03", "2024-06-08")
    assert len(frame) == 0
    assert [gap["cause"] for gap in frame.attrs["candle_fetcher"]["gaps"]] == ["not_listed"]


def test_what_alpaca_does_not_offer_is_told(world):
    fetcher = fetcher_of(world)
    with pytest.raises(NotOffered, match="candles"):
        fetcher.fetch("AAPL", "1d", "2024-06-03", "2024-06-08", kind="mark")
    with pytest.raises(NotOffered):
        fetcher.symbols()
    with pytest.raises(InputError, match="sip, iex, otc, boats"):
        fetcher_of(world, provider_settings={"alpaca": {"feed": "nyse"}}).fetch("AAPL", "1d", limit=5)
    assert sent(world) == []


# -- refusals, end to end ---------------------------------------------------------------------------------------------


def test_a_missing_key_is_one_sentence_and_no_request(world, monkeypatch):
    for name in ("ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for keys in (None, {"alpaca": {"key_id": f"PK{MARK}"}}):
        with pytest.raises(AccessDenied) as caught:
            fetcher_of(world, api_keys=keys).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
        for part in ("https://app.alpaca.markets", "api_keys={'alpaca': {", "'key_id': ", "'secret_key': "):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert MARK not in str(caught.value)
    assert sent(world) == []


def test_keys_of_the_environment_serve(world, monkeypatch):
    keys = world.exchange.api_keys["alpaca"]
    monkeypatch.setenv("ALPACA_API_KEY_ID", keys["key_id"])
    monkeypatch.setenv("ALPACA_API_SECRET_KEY", keys["secret_key"])
    frame = fetcher_of(world, api_keys=None).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    assert len(frame) == 5


def test_pairs_need_no_key_and_get_none(world):
    keys = {"alpaca": world.exchange.api_keys["alpaca"]}
    frame = world.fetcher(provider="alpaca-crypto", api_keys=keys).fetch("BTC/USD", "1h", limit=3)
    assert len(frame) == 3
    for request in world.exchange.requests:
        assert not [name for name in request.headers if name.startswith("apca")]


def test_a_key_that_is_refused_is_told_at_once_and_never_shown(world, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    keys = {"alpaca": {"key_id": f"PK{MARK}+id/=", "secret_key": f"{MARK}+secret/="}}

    def echo(path, params):
        return "/bars" in path

    # A reply that repeats the keys, as some do.
    said = f"key PK{MARK}+id/= with {MARK}+secret/= is not authorized"
    fault = faults.status(401, json.dumps({"code": 40110000, "message": said}).encode())
    for action in (None, fault, faults.body(said.encode()), faults.status(500, said.encode())):
        failing = None if action is None else world.exchange.fail(action, times=None, match=echo)
        fetcher = fetcher_of(world, api_keys=keys, max_retries=0)
        with pytest.raises((AccessDenied, IncompleteData)) as caught:
            fetcher.fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
        if action in (None, fault):
            assert isinstance(caught.value, AccessDenied)
            assert "https://app.alpaca.markets" in caught.value.fix
        told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(vars(fetcher))
        assert MARK not in told
        if failing is not None:
            failing.stop()
    assert all(request.headers["apca-api-key-id"] == f"PK{MARK}+id/=" for request in world.exchange.requests)
    assert MARK not in caplog.text
    assert MARK not in "".join(capsys.readouterr())
    stored = b"".join(path.read_bytes() for path in Path(world.folder).rglob("*") if path.is_file())
    assert MARK.encode() not in stored


def test_a_full_minute_is_waited_for(world):
    body, headers = b'{"message":"too many requests."}', (("Retry-After", "0"),)
    world.exchange.fail(faults.status(429, body, headers), times=1, match="/bars")
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    assert len(frame) == 5
    assert frame.attrs["candle_fetcher"]["retries"] == 1
    assert sum(world.waits) >= 60 - world.now_s % 60


def test_a_pause_of_hours_is_told(world):
    body, headers = b'{"message":"too many requests."}', (("Retry-After", "7200"),)
    world.exchange.fail(faults.status(429, body, headers), times=None, match="/bars")
    with pytest.raises((RateLimited, IncompleteData)) as caught:
        fetcher_of(world).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    assert "7200" in str(caught.value) + "".join(map(str, getattr(caught.value, "refusals", ())))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (422, b'{"code":42210000,"message":"invalid timeframe"}', ProviderRefused),
        (400, b'{"code":40010000,"message":"unexpected parameter(s): sort"}', ProviderRefused),
        (400, b'{"message":"invalid symbol: AAPL"}', UnknownSymbol),
        (403, b'{"message":"forbidden."}', AccessDenied),
    ],
)
def test_what_is_refused_is_told_at_once(world, status, body, kind):
    world.exchange.fail(faults.status(status, body), times=None, match="/bars")
    with pytest.raises(kind):
        fetcher_of(world).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    assert len(sent(world)) <= 2


@pytest.mark.slow(keep=("cut",))
@pytest.mark.parametrize(
    "action",
    [faults.html_200(), faults.cut(0.5), faults.body(b""), faults.body(b'{"bars":[{"t":"2024'), faults.status(500),
     faults.status(504, b'{"message":"upstream request timeout"}'), faults.body(reply([BAR], symbol="MSFT"))],
    ids=lambda action: action.name,
)  # fmt: skip
def test_a_reply_that_is_none_is_asked_for_again(world, action):
    world.exchange.fail(action, times=1, match="/bars")
    frame = fetcher_of(world).fetch("AAPL", "1d", "2024-06-03", "2024-06-08")
    same(frame, truth(world, "AAPL", "1d", "2024-06-03", "2024-06-08"))


def test_the_newest_minutes_on_a_free_plan_are_told_with_the_way_out(world):
    world.exchange.alpaca.is_free = True
    with pytest.raises(AccessDenied, match="15 minutes"):
        fetcher_of(world).fetch("AAPL", "5m", "2025-06-11")
    free = fetcher_of(world, provider_settings={"alpaca": {"feed": "iex"}})
    frame = free.fetch("AAPL", "5m", "2025-06-11")
    same(frame, truth(world, "AAPL", "5m", "2025-06-11", "2025-06-11T17:00", feed="iex"))
    assert len(frame) > 20


@pytest.mark.parametrize("end", ["2025-06-11", "2025-06-11T16:45"])
def test_a_free_plan_serves_what_is_older_than_15_minutes(world, end):
    world.exchange.alpaca.is_free = True
    fetcher = fetcher_of(world)
    frame = fetcher.fetch("AAPL", "5m", "2025-06-10", end)
    same(frame, truth(world, "AAPL", "5m", "2025-06-10", end))
    assert {request.status for request in world.exchange.requests} == {200}
    sent(world)
    pd.testing.assert_frame_equal(fetcher.fetch("AAPL", "5m", "2025-06-10", end), frame, check_exact=True)
    assert sent(world) == []


# The days on which the clock of Chicago is put back, the weeks and months that end so, and a month like any other.
@pytest.mark.slow(keep=("1d-2024-10-28-2024-11-04T05:30:00-2024-11-02T05:00-2024-11-04T06:00:32",))
@pytest.mark.fault("B16")
@pytest.mark.parametrize(
    ("timeframe", "start", "now", "newest", "next_open"),
    [
        ("1d", "2024-10-28", "2024-11-04T05:30:00", "2024-11-02T05:00", "2024-11-04T06:00:32"),
        ("1w", "2024-10-01", "2024-11-04T05:30:00", "2024-10-21T05:00", "2024-11-04T06:00:32"),
        ("1M", "2024-06-01", "2024-12-01T05:30:00", "2024-10-01T05:00", "2024-12-01T06:00:32"),
        ("1M", "2024-01-01", "2024-07-01T00:30:00", "2024-05-01T05:00", "2024-07-01T05:00:32"),
    ],
)
def test_a_candle_is_over_when_its_day_is_on_the_clock_of_its_zone(
    tmp_path, timeframe, start, now, newest, next_open, record_property
):
    record_property("runs", 2)
    with World(tmp_path, now=now) as world:
        fetcher = world.fetcher(provider="alpaca-crypto")
        frame = fetcher.fetch("BTC/USD", timeframe, start)
        assert (str(frame.index[-1])[:16], frame.attrs["candle_fetcher"]["gaps"]) == (newest.replace("T", " "), [])
        shown = fetcher.fetch("BTC/USD", timeframe, start, include_open=True)
        assert shown["is_closed"].tolist() == [*[True] * len(frame), False]
        world.now_s = ms(next_open) / 1000
        found = fetcher.fetch("BTC/USD", timeframe, start)
        same(found, truth(world, "BTC/USD", timeframe, start, next_open[:13], provider="alpaca-crypto"))
        assert len(found) == len(frame) + 1


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    ("timeframe", "slot", "now", "over"),
    [
        ("2d", "2024-06-14", "2024-06-16T02:00:00", "2024-06-16T05:00:32"),
        ("3d", "2024-06-13", "2024-06-16T02:00:00", "2024-06-16T05:00:32"),
        ("2w", "2024-06-03", "2024-06-17T02:00:00", "2024-06-17T05:00:32"),
    ],
)
def test_what_is_made_of_days_settles_when_the_last_of_them_does(tmp_path, timeframe, slot, now, over):
    with World(tmp_path, now=now) as world:
        fetcher = world.fetcher(provider="alpaca-crypto")
        forming = pd.Timestamp(slot, tz="UTC")
        assert forming not in fetcher.fetch("BTC/USD", timeframe, "2024-05-01").index
        shown = fetcher.fetch("BTC/USD", timeframe, "2024-05-01", include_open=True)
        assert (shown.index[-1], shown["is_closed"].tolist()[-2:]) == (forming, [True, False])
        world.now_s = ms(over) / 1000
        frame = fetcher.fetch("BTC/USD", timeframe, "2024-05-01")
        assert frame.index[-1] == forming
        base = "1w" if timeframe == "2w" else "1d"
        days = truth(world, "BTC/USD", base, slot, over[:13], provider="alpaca-crypto")
        assert frame["close"].iloc[-1] == days["close"][-1]
        assert frame["volume"].iloc[-1] == pytest.approx(days["volume"].sum())


@pytest.mark.slow
def test_threads_that_want_a_part_of_what_is_asked_for_together_ask_for_nothing_twice(world):
    fetcher = fetcher_of(world)
    fetcher.fetch("AAPL", "1h", "2015-12-30", "2016-01-06")
    fetcher.fetch("AAPL", "1m", "2015-12-30", "2016-01-06")
    sent(world)
    world.exchange.fail(faults.hang(0.5), times=None, match="/bars")
    spans = [("2024-03-02T17:20", "2024-03-09T15:00"), ("2024-03-06", "2024-03-09T15:00"), ("2024-03-04", "2024-03-09")]
    frames = {}

    def fetch(span):
        frames[span] = fetcher.fetch("AAPL", "1m", *span)

    threads = [threading.Thread(target=fetch, args=(span,)) for span in spans]
    for thread in threads:
        thread.start()
        until_s = time.monotonic() + 5
        while not world.exchange.requests and time.monotonic() < until_s:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert len(sent(world)) == 1
    for (start, end), frame in frames.items():
        same(frame, truth(world, "AAPL", "1m", start, end))


@pytest.mark.fault("H10")
def test_a_symbol_that_never_had_a_candle_is_warned_of(world):
    fetcher = fetcher_of(world)
    empty = json.dumps({"bars": None, "next_page_token": None, "symbol": "APPL"}).encode()
    world.exchange.fail(faults.body(empty), times=None, match="/APPL/")
    calls = (fetcher.fetch, fetcher.fetch, fetcher.export, lambda *what: list(fetcher.iter_frames(*what)))
    for call in calls:  # the second time as the first
        options = {"path": world.folder} if call == fetcher.export else {}
        with pytest.warns(CandleFetcherWarning, match="never had one") as said:
            call("APPL", "1d", "2023-01-01", "2024-06-01", **options)
        assert len([one for one in said if "never had one" in str(one.message)]) == 1


@pytest.mark.fault("H10")
def test_a_symbol_that_is_not_in_the_list_of_a_provider_is_unknown(world):
    listed = Listed("MSFT", "MSFT", "MSFT", "", "active", True)
    known = Question(Call("/v2/listed"), lambda body: Listing((), (listed,)))
    provider = replace(STOCKS, listing=known)
    empty = json.dumps({"bars": None, "next_page_token": None}).encode()
    world.exchange.fail(faults.body(empty), times=None, match="/v2/")
    fetcher = world.fetcher(provider=provider, api_keys=world.exchange.api_keys)
    with pytest.raises(UnknownSymbol):
        fetcher.fetch("MSTF", "1d", "2023-01-01", "2024-06-01")
    assert fetcher.fetch("MSFT", "1d", "2023-01-01", "2024-06-01").empty
