"""The quotes in replies of each provider: values that were worked out by hand, requests as the provider counts them,
and what cannot be true."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from quote_replies import RECORDED, REPLIES, QuoteReply

from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, ReplyError, UnknownSymbol
from candle_fetcher.core.quote import Ticker
from candle_fetcher.providers import QuoteRequest, all_providers, find_provider

BY_NAME = {reply.name: reply for reply in REPLIES}


def same(tickers: Sequence[Ticker], expected: Sequence[Ticker], digits: int = 17) -> None:
    """Whether the tickers are those, to the last bit; volumes to so many digits."""
    assert [one._replace(volume=None) for one in tickers] == [one._replace(volume=None) for one in expected]
    for one, other in zip(tickers, expected, strict=True):
        assert (
            one.volume == pytest.approx(other.volume, rel=10.0 ** (1 - digits), abs=0)
            if other.volume
            else (one.volume == other.volume)
        )


def requests(name: str, symbols: Sequence[str], **settings: str) -> Sequence[QuoteRequest]:
    feed = find_provider(name).quotes
    assert feed is not None
    return feed.requests(tuple(symbols), settings)


def test_each_provider_has_quotes_and_a_reply_here() -> None:
    assert {reply.provider for reply in REPLIES} == set(all_providers())
    assert all(provider.quotes is not None for provider in all_providers().values())


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.name)
def test_a_reply_has_the_quotes_worked_out_by_hand(reply: QuoteReply) -> None:
    same(reply.parse(reply.body), reply.expected)


@pytest.mark.parametrize("reply", RECORDED, ids=lambda reply: reply.name)
def test_a_recorded_reply_has_the_quotes_that_were_read_off_it(shared: Path, reply: QuoteReply) -> None:
    path = shared / reply.path
    if not path.exists():
        pytest.skip(f"{reply.path} is not among the recorded data beside the repository")
    same(reply.parse(path.read_bytes()), reply.expected, digits=15)


def test_a_stock_without_a_bid_has_none_and_not_0(shared: Path) -> None:
    path = shared / "recorded/alpaca/stock_snapshot_spot.json"
    if not path.exists():
        pytest.skip("the recorded data are not beside the repository")
    (request,) = requests("alpaca", ["SPOT"], feed="sip")
    (ticker,) = request.parse(b'{"SPOT":' + path.read_bytes() + b"}")
    assert ticker == Ticker("SPOT", 256.06, 32594.0, None, 256.12, 1625757578013, exchange="sip")


# -- requests ---------------------------------------------------------------------------------------------------------


def names(count: int) -> list[str]:
    return [f"A{number:03}USDT" for number in range(count)]


def costs(found: Sequence[QuoteRequest]) -> list[int]:
    return [one.call.cost for one in found]


@pytest.mark.parametrize("name", ["binance", "binance-us"])
@pytest.mark.parametrize(
    ("count", "weights"), [(1, [2]), (20, [2]), (21, [40]), (100, [40]), (101, [40, 2]), (200, [40, 40]), (201, [80])]
)
def test_spot_takes_a_list_of_symbols_at_the_documented_weight(name: str, count: int, weights: list[int]) -> None:
    found = requests(name, names(count))
    assert costs(found) == weights
    assert [symbol for one in found for symbol in one.symbols] == names(count)
    for one in found:
        assert one.call.path == "/api/v3/ticker/24hr"
        if weights != [80]:
            assert json.loads(dict(one.call.params)["symbols"]) == list(one.symbols)
        else:
            assert one.call.params == ()


@pytest.mark.parametrize(("name", "root"), [("binance-um", "/fapi/v1"), ("binance-cm", "/dapi/v1")])
def test_futures_are_asked_for_one_by_one_as_long_as_that_costs_less_than_all(name: str, root: str) -> None:
    few, many = requests(name, names(13)), requests(name, names(14))
    assert costs(few) == [1, 2] * 13
    assert costs(many) == [40, 5]
    assert [one.call for one in many] == [Call(f"{root}/ticker/24hr", (), 40), Call(f"{root}/ticker/bookTicker", (), 5)]
    assert [dict(one.call.params)["symbol"] for one in few] == [symbol for symbol in names(13) for _ in range(2)]
    assert all(one.symbols == tuple(names(14)) for one in many)


def test_kraken_takes_a_list_of_pairs_and_all_of_them_where_the_list_is_long() -> None:
    (one,) = requests("kraken", ["XBTUSD", "ETHUSD"])
    assert one.call == Call("/0/public/Ticker", (("pair", "XBTUSD,ETHUSD"),))
    assert [len(one.call.params) for one in requests("kraken", names(101))] == [0]


def test_alpaca_asks_for_the_feed_that_every_plan_has_unless_one_was_chosen() -> None:
    (free,), (chosen,) = requests("alpaca", ["AAPL", "BRK.B"]), requests("alpaca", ["AAPL"], feed="sip")
    assert free.call == Call("/v2/stocks/snapshots", (("symbols", "AAPL,BRK.B"), ("feed", "iex")))
    assert dict(chosen.call.params)["feed"] == "sip"
    assert len(requests("alpaca", names(201))) == 2
    (pairs,) = requests("alpaca-crypto", ["BTC/USD", "ETH/USD"])
    assert pairs.call == Call("/v1beta3/crypto/us/snapshots", (("symbols", "BTC/USD,ETH/USD"),))


def test_alpha_vantage_takes_one_symbol_a_request() -> None:
    stock, pair = requests("alphavantage", ["IBM", "BTC/EUR"])
    assert dict(stock.call.params) == {"function": "GLOBAL_QUOTE", "symbol": "IBM"}
    assert dict(pair.call.params) == {
        "function": "CURRENCY_EXCHANGE_RATE",
        "from_currency": "BTC",
        "to_currency": "EUR",
    }


def test_coingecko_takes_coins_and_currencies_in_one_request() -> None:
    (one,) = requests("coingecko", ["bitcoin/usd", "bitcoin/eur", "ethereum/usd"])
    assert one.call.path == "/api/v3/simple/price"
    assert dict(one.call.params) == {
        "ids": "bitcoin,ethereum",
        "vs_currencies": "usd,eur",
        "include_24hr_vol": "true",
        "include_last_updated_at": "true",
        "precision": "full",
    }


def test_tradestation_takes_a_hundred_symbols_and_counts_quotes_apart() -> None:
    assert [one.call.path.count(",") for one in requests("tradestation", names(150))] == [99, 49]
    feed = find_provider("tradestation").quotes
    assert feed is not None
    assert [(limit.cost, limit.interval_s) for limit in feed.limits] == [(250, 300)]


@pytest.mark.parametrize(
    ("name", "symbol", "type_"),
    [
        ("binance", "BTCUSDT", "crypto"), ("binance-um", "BTCUSDT", "future"), ("binance-cm", "BTCUSD_PERP", "future"),
        ("kraken", "XBTUSD", "crypto"), ("alpaca", "AAPL", "stock"), ("alpaca-crypto", "BTC/USD", "crypto"),
        ("alphavantage", "TSCO.LON", "stock"), ("alphavantage", "BTC/EUR", "crypto"),
        ("coingecko", "bitcoin/usd", "crypto"),
        ("tradestation", "MSFT", "stock"), ("tradestation", "@ES", "future"), ("tradestation", "ESZ26", "future"),
        ("tradestation", "BTCUSD", "crypto"),
    ],
)  # fmt: skip
def test_each_quote_says_what_it_is_of(name: str, symbol: str, type_: str) -> None:
    feed = find_provider(name).quotes
    assert feed is not None
    assert feed.type_of(symbol) == type_


@pytest.mark.parametrize(("count", "apart"), [(20, [2] * 20), (21, [80])])
def test_a_refused_list_of_spot_symbols_is_asked_for_apart(count: int, apart: list[int]) -> None:
    feed = find_provider("binance").quotes
    assert feed is not None
    assert feed.apart is not None
    assert costs(feed.apart(names(count), {})) == apart


# -- what cannot be true ----------------------------------------------------------------------------------------------


def changed(name: str, change: Callable[[Any], object]) -> bytes:
    value = json.loads(BY_NAME[name].body)
    change(value)
    return json.dumps(value).encode()


def set_last(text: object) -> Callable[[Any], object]:
    return lambda rows: rows[0].update(lastPrice=text)


@pytest.mark.parametrize("text", ["-1", "NaN", "inf", "1e999", "1_0", "x", " 1", True, [], {}])
def test_a_price_that_is_no_number_or_below_0_is_a_damaged_reply(text: object) -> None:
    with pytest.raises(ReplyError, match="row 1, field lastPrice: expected a price"):
        BY_NAME["binance quotes"].parse(changed("binance quotes", set_last(text)))


@pytest.mark.parametrize("text", ["0", "0.00000000", "", "-", None, 0])
def test_a_price_of_0_or_none_is_none(text: object) -> None:
    assert BY_NAME["binance quotes"].parse(changed("binance quotes", set_last(text)))[0].last_price is None


def test_a_volume_below_0_is_a_damaged_reply_and_a_crossed_book_is_not() -> None:
    with pytest.raises(ReplyError, match="field volume: expected a volume, got '-1'"):
        BY_NAME["binance quotes"].parse(changed("binance quotes", lambda rows: rows[0].update(volume="-1")))
    crossed = changed("binance quotes", lambda rows: rows[0].update(bidPrice="70000", askPrice="60000"))
    assert BY_NAME["binance quotes"].parse(crossed)[0][3:5] == (70000.0, 60000.0)


@pytest.mark.parametrize("time", [0, 1717243199, "1717243199999", 1e12, -5])
def test_a_time_that_cannot_be_is_a_damaged_reply(time: object) -> None:
    with pytest.raises(ReplyError, match="field closeTime: expected a Unix time"):
        BY_NAME["binance quotes"].parse(changed("binance quotes", lambda rows: rows[0].update(closeTime=time)))


def test_two_rows_of_a_symbol_that_differ_are_a_damaged_reply() -> None:
    twice = changed("binance quotes", lambda rows: rows.append(rows[0] | {"lastPrice": "1"}))
    with pytest.raises(ReplyError, match="'BTCUSDT'"):
        BY_NAME["binance quotes"].parse(twice)


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("binance quotes", b'{"code":-1121,"msg":"Invalid symbol."}', UnknownSymbol),
        ("kraken quotes", b'{"error":["EQuery:Unknown asset pair"]}', UnknownSymbol),
        ("kraken quotes", b'{"error":["EAPI:Rate limit exceeded"]}', RateLimited),
        ("alpaca quotes", b'{"code":40110000,"message":"request is not authorized"}', AccessDenied),
        ("alpaca-crypto quotes", b'{"message":"invalid symbol: X"}', ProviderRefused),
        ("alphavantage quotes", b'{"Information":"Please consider ... 25 requests per day"}', RateLimited),
        ("alphavantage quotes rate", b'{"Error Message":"Invalid API call. Please retry."}', UnknownSymbol),
        ("coingecko quotes", b'{"status":{"error_code":429,"error_message":"Too many"}}', RateLimited),
        ("tradestation quotes", b'{"Error":"Unauthorized","Message":"Token expired"}', AccessDenied),
        *((name, body, ReplyError) for name in BY_NAME for body in (b"", b"7", b'"x"', b"<html>", b"[[1]]")),
    ],
)
def test_a_refusal_in_place_of_quotes_is_its_error(name: str, body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        BY_NAME[name].parse(body)
    assert type(caught.value) is error


def test_an_empty_quote_of_alpha_vantage_is_no_quote() -> None:
    assert BY_NAME["alphavantage quotes"].parse(b'{"Global Quote": {}}') == ()


def test_another_symbol_than_the_one_asked_for_is_a_damaged_reply() -> None:
    for name, other in (("alphavantage quotes", b"IBM"), ("alphavantage quotes rate", b"EUR")):
        with pytest.raises(ReplyError, match="expected the quote of"):
            BY_NAME[name].parse(BY_NAME[name].body.replace(other, b"ZZZ"))


def test_numbers_are_never_nan() -> None:
    for reply in REPLIES:
        for ticker in reply.parse(reply.body):
            assert all(math.isfinite(value) for value in ticker if isinstance(value, float))
