"""Quotes of now: providers side by side, each symbol with an error of its own, on servers of this machine."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from loopback import Asked, Loopback, Said
from quote_replies import REPLIES
from world import World, ms, wait_until

import candle_fetcher
from candle_fetcher import CandleFetcher, CandleFetcherError, InputError, Quote, Quotes
from candle_fetcher.cli import main, quoting
from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.quote import Ticker
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import QuoteFeed, QuoteRequest, find_provider

NOW = "2024-06-14T15:00:30"  # a Friday, 11:00 in New York
KEYS = {"alpaca": {"key_id": "PRACTICE", "secret_key": "practice"}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, now=NOW) as made:
        yield made


def fetcher_of(world: World, **settings: Any) -> CandleFetcher:
    return world.fetcher(**{"api_keys": world.exchange.api_keys, **settings})


def whole(quote: Quote) -> bool:
    return quote.error is None and None not in (quote.last_price, quote.bid_price, quote.ask_price)


def requests(world: World) -> list[tuple[str, str | None, int]]:
    """Path, status and weight of the requests since the last look, in order of their paths."""
    found = sorted((one.path, one.params.get("symbol"), one.weight) for one in world.exchange.requests)
    world.exchange.clear_log()
    return found


def close_now(world: World, provider: str, symbol: str) -> float:
    """The last price by the candles."""
    now_ms = int(world.now_s * 1000)
    return float(world.exchange.truth(provider, symbol, "1m", now_ms - 3_600_000, now_ms)["close"][-1])


# -- what a quote says ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quotes_agree_with_the_candles(world: World) -> None:
    asked = {
        "binance:BTC/USDT": "BTCUSDT", "binance-us:BTC/USDT": "BTCUSDT", "binance-um:BTC/USDT": "BTCUSDT",
        "binance-cm:BTC/USD": "BTCUSD_PERP", "kraken:BTC/USD": "XBTUSD", "alpaca-crypto:BTC/USD": "BTC/USD",
    }  # fmt: skip
    quotes = fetcher_of(world).quotes(asked)
    assert [quote.symbol for quote in quotes] == ["BTC/USDT", "BTC/USDT", "BTC/USDT", "BTC/USD", "BTC/USD", "BTC/USD"]
    for quote, (name, symbol) in zip(quotes, asked.items(), strict=True):
        assert whole(quote), quote
        assert quote.provider == name.partition(":")[0]
        assert quote.last_price == close_now(world, quote.provider, symbol), name
        assert quote.bid_price is not None
        assert quote.ask_price is not None
        assert quote.bid_price <= quote.ask_price
        assert quote.provider_symbol == symbol
        assert not quote.is_stale
        assert quote.received_at == pd.Timestamp(NOW, tz="UTC")


def test_volume_is_that_of_24_hours_in_the_base_asset(world: World) -> None:
    names = ["binance:BTC/USDT", "binance-cm:BTC/USD", "kraken:BTC/USD", "alpaca-crypto:BTC/USD"]
    spot, coin, kraken, alpaca = fetcher_of(world).quotes(names)
    now_ms = int(world.now_s * 1000)
    for quote, provider, symbol, column in (
        (spot, "binance", "BTCUSDT", "volume"),
        (coin, "binance-cm", "BTCUSD_PERP", "quote_volume"),  # the exchange's name of the base's column
        (kraken, "kraken", "XBTUSD", "volume"),
    ):
        minutes = world.exchange.truth(provider, symbol, "1m", now_ms - 86_400_000, now_ms)
        # The day begins in the middle of a minute, and ends in one that still grows.
        assert quote.volume == pytest.approx(float(minutes[column].sum()), rel=0.01), provider
    assert alpaca.volume is None  # the bar of a day in Chicago


@pytest.mark.slow
def test_a_stock_says_its_feed_and_its_day(world: World) -> None:
    fetcher = fetcher_of(world)
    (free,) = fetcher.quotes(["AAPL"], provider="alpaca")
    assert (free.type, free.exchange, free.symbol) == ("stock", "iex", "AAPL")
    now_ms = int(world.now_s * 1000)
    day = world.exchange.alpaca.truth("AAPL", "1d", now_ms - 2 * 86_400_000, now_ms, feed="iex")
    assert free.volume == day["volume"][-1]
    assert free.timestamp is not None
    assert pd.Timestamp(NOW, tz="UTC") - free.timestamp < pd.Timedelta("10min")
    chosen = fetcher_of(world, provider_settings={"alpaca": {"feed": "sip"}}, use_cache=False)
    assert chosen.quotes(["alpaca:AAPL"])[0].exchange == "sip"


def test_the_age_is_counted_from_the_providers_time_or_from_the_receipt(world: World) -> None:
    binance, kraken = fetcher_of(world).quotes(["BTC/USDT", "kraken:BTC/USD"])
    assert binance.timestamp == pd.Timestamp(NOW, tz="UTC")
    assert kraken.timestamp is None
    assert (binance.age_s, kraken.age_s) == (0, 0)
    assert [one["timestamp"] for one in Quotes([binance, kraken]).to_json()["symbols"]] == [f"{NOW}Z", None]


@pytest.mark.parametrize(
    "name", ["BTC/USDT", "kraken:BTC/USD", pytest.param("alpaca-crypto:BTC/USD", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("skew_s", [3600, -3600, 2])
def test_a_wrong_clock_of_this_machine_makes_no_wrong_age(world: World, name: str, skew_s: int) -> None:
    right = fetcher_of(world, use_cache=False).quotes([name])[0]
    fetcher = fetcher_of(world, clock=lambda: world.now_s + skew_s, use_cache=False)
    wrong = fetcher.quotes([name], max_age_s=600)[0]
    assert wrong.error is None
    assert wrong.age_s is not None
    assert right.age_s is not None
    assert abs(wrong.age_s - right.age_s) <= 2
    assert not wrong.is_stale
    world.exchange.clear_log()
    fetcher.quotes([name])
    assert len(world.exchange.requests) == 1, "the clock was read already"


def test_no_bid_is_none_and_so_is_what_a_provider_leaves_out(world: World) -> None:
    world.exchange.fail(faults.fields(bidPrice="0.00000000", askPrice=None), match="24hr")
    world.exchange.fail(faults.fields(b=["0.0", "0", "0.000"], a=[]), match="Ticker")
    world.exchange.fail(faults.fields(latestQuote=None), match="snapshots")
    for quote in fetcher_of(world).quotes(["BTC/USDT", "kraken:BTC/USD", "alpaca-crypto:BTC/USD"]):
        assert (quote.error, quote.bid_price, quote.ask_price) == (None, None, None)
        assert quote.last_price is not None


def test_a_quote_of_long_ago_says_so(world: World) -> None:
    world.exchange.fail(faults.fields(closeTime=ms(NOW) - 90_000), match="24hr")
    (quote,) = fetcher_of(world).quotes(["BTC/USDT"], max_age_s=60)
    assert (quote.age_s, quote.is_stale, quote.error) == (90, True, None)


def test_a_symbol_without_any_price_is_an_error(world: World) -> None:
    def change(body: bytes) -> bytes:
        rows = json.loads(body)
        rows[0] |= {"bidPrice": "0", "askPrice": "0", "lastPrice": "0"}
        return json.dumps(rows).encode()

    world.exchange.fail(faults.transform(change), match="24hr")
    none, other = fetcher_of(world).quotes(["BTC/USDT", "ETH/USDT"])
    assert none.error == "binance states no price of BTC/USDT"
    assert (none.last_price, none.received_at, none.volume) == (None, None, None)
    assert whole(other)


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_provider_is_asked_as_its_limits_say(world: World) -> None:
    quotes = fetcher_of(world).quotes(
        ["BTC/USDT", "ETH/USDT", "binance-um:BTC/USDT", "binance-cm:BTC/USD", "kraken:BTC/USD", "kraken:ETH/USD",
         "alpaca:AAPL", "alpaca:SPY", "alpaca-crypto:BTC/USD", "alpaca-crypto:ETH/USD"]
    )  # fmt: skip
    assert all(map(whole, quotes))
    assert requests(world) == [
        ("/0/public/Ticker", None, 1),
        ("/api/v3/ticker/24hr", None, 2),
        ("/dapi/v1/ticker/24hr", "BTCUSD_PERP", 1),
        ("/dapi/v1/ticker/bookTicker", "BTCUSD_PERP", 2),
        ("/fapi/v1/ticker/24hr", "BTCUSDT", 1),
        ("/fapi/v1/ticker/bookTicker", "BTCUSDT", 2),
        ("/v1beta3/crypto/us/snapshots", None, 1),
        ("/v2/stocks/snapshots", None, 1),
    ]


def test_order_and_repetitions_are_those_of_the_call(world: World) -> None:
    names = ["ETH/USDT", "kraken:BTC/USD", "btcusdt", "ETH/USDT", "binance:BTC-USDT", "nosuch:X", "ETHUSDT"]
    quotes = fetcher_of(world).quotes(iter(names))
    assert [quote.symbol for quote in quotes] == [
        "ETH/USDT", "BTC/USD", "BTC/USDT", "ETH/USDT", "BTC/USDT", "X", "ETH/USDT",
    ]  # fmt: skip
    assert quotes[0] == quotes[3] == quotes[6]
    symbols = [one.params["symbols"] for one in world.exchange.requests if "symbols" in one.params]
    assert symbols == ['["ETHUSDT","BTCUSDT"]']


def test_one_unknown_symbol_does_not_sink_the_others_of_its_request(world: World) -> None:
    names = ["BTC/USDT", "NOPE/USDT", "ETH/USDT", "kraken:BTC/USD", "kraken:NOPE/USD", "kraken:ETH/USD"]
    names += ["alpaca:NOPE", "alpaca-crypto:NO/USD", "binance-um:NOPE/USDT"]
    quotes = fetcher_of(world, max_retries=0).quotes(names)
    wrong = [quote for quote in quotes if not whole(quote)]
    assert [quote.symbol for quote in wrong] == ["NOPE/USDT", "NOPE/USD", "NOPE", "NO/USD", "NOPE/USDT"]
    for quote in wrong:
        assert (
            quote.error
            == f"{quote.provider} does not know the symbol {quote.symbol!r}; symbols() lists those of the provider"
        )
        assert (quote.last_price, quote.received_at, quote.is_stale) == (None, None, False)
    paths = [path for path, _, _ in requests(world)]
    assert paths.count("/api/v3/ticker/24hr") == 1 + 3
    assert paths.count("/0/public/Ticker") == 1 + 1, "Kraken's limit is a request a second"


def test_the_quotes_of_futures_are_of_both_replies_or_none(world: World) -> None:
    """Without its book a future would seem to have no bid."""
    world.exchange.fail(faults.status(500), times=None, match="fapi/v1/ticker/bookTicker")
    lost, other = fetcher_of(world, max_retries=0).quotes(["binance-um:BTC/USDT", "binance-cm:BTC/USD"])
    assert "status 500" in (lost.error or "")
    assert (lost.last_price, lost.volume) == (None, None)
    assert whole(other)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def clocked(fetcher: CandleFetcher, is_over: Callable[[], bool]) -> CandleFetcher:
    """Let the time of every call of the fetcher be over once that is so."""
    runtime = fetcher._runtime
    runtime.wire = runtime.wire._replace(steady_s=lambda: 1e6 if is_over() else 0.0)
    return fetcher


def once_parsed(fetcher: CandleFetcher, count: int) -> Callable[[], bool]:
    """Whether so many replies were read, for some looks by now."""
    looks: list[None] = []

    def is_over() -> bool:
        parsed = fetcher.monitor.snapshot()["operations"].get("parse", {}).get("count", 0)
        looks.extend([None] * (parsed >= count))
        return len(looks) > 4

    return is_over


LETTERS = "ABCDEFGHIJ"
FORTY_NINE = (
    *(f"binance:{one}/USDT" for one in LETTERS),
    *(f"kraken:{one}/USD" for one in LETTERS),
    *(f"coingecko:{one}" for one in LETTERS.lower()),
    *(f"tradestation:{one}" for one in (*LETTERS, *LETTERS.replace("A", "").lower())),
)


def many(asked: Asked, stop: threading.Event) -> Said:
    """Answer for any symbols in the words of four providers; a fifth one sends nothing until the event is set."""
    if asked.path == "/v1beta3/crypto/us/snapshots":
        stop.wait()
        return Said(b"{}")
    value: Any
    if asked.path == "/api/v3/ticker/24hr":
        row = {"lastPrice": "2", "bidPrice": "1", "askPrice": "3", "volume": "4", "closeTime": ms(NOW)}
        value = [{"symbol": one, **row} for one in json.loads(asked.params["symbols"])]
    elif asked.path == "/0/public/Ticker":
        row = {"a": ["3", "1"], "b": ["1", "1"], "c": ["2", "1"], "v": ["1", "4"]}
        value = {"error": [], "result": dict.fromkeys(asked.params["pair"].split(","), row)}
    elif asked.path == "/api/v3/simple/price":
        value = {one: {"usd": 2, "usd_24h_vol": 8} for one in asked.params["ids"].split(",")}
    else:
        names = asked.path.removeprefix("/v3/marketdata/quotes/").split(",")
        value = {"Quotes": [{"Symbol": one, "Last": "2", "Bid": "1", "Ask": "3", "Volume": "4"} for one in names]}
    return Said(json.dumps(value).encode())


@pytest.fixture
def five(tmp_path: Path) -> Iterator[Loopback]:
    """A server that speaks as five providers, of which alpaca-crypto hangs."""
    stop = threading.Event()
    names = ("binance", "kraken", "coingecko", "tradestation", "alpaca-crypto")
    with Loopback(tmp_path, names, lambda asked: many(asked, stop), now=NOW) as made:
        yield made
        stop.set()


def ask_fifty(fetcher: CandleFetcher, **more: Any) -> Quote:
    """The quote of the provider that hangs, once all others are seen to be whole."""
    *others, lost = fetcher.quotes([*FORTY_NINE, "alpaca-crypto:BTC/USD"], **more)
    assert [quote.error for quote in others] == [None] * 49
    assert {(quote.last_price, quote.volume) for quote in others} == {(2.0, 4.0)}
    assert {(quote.bid_price, quote.ask_price) for quote in others} == {(1.0, 3.0), (None, None)}  # CoinGecko's
    return lost


@pytest.mark.fault("A01")
def test_of_fifty_symbols_of_five_providers_all_but_that_of_the_one_that_hangs_are_whole(five: Loopback) -> None:
    fetcher = five.fetcher(api_keys={"tradestation": {"access_token": "sesame"}})
    clocked(fetcher, once_parsed(fetcher, 4))
    assert ask_fifty(fetcher) == Quote(
        "BTC/USD",
        "crypto",
        "Alpaca",
        provider="alpaca-crypto",
        error="no answer within 5 s",
        provider_symbol="BTC/USD",
    )
    assert sorted(one.path.partition("A,B")[0] for one in five.asked()) == [
        "/0/public/Ticker",
        "/api/v3/simple/price",
        "/api/v3/ticker/24hr",
        "/v1beta3/crypto/us/snapshots",
        "/v3/marketdata/quotes/",
    ]


def test_a_provider_that_kept_failing_says_how_often(world: World) -> None:
    world.exchange.fail(faults.status(503), times=None, match="/api/v3/")
    fetcher = fetcher_of(world, waits=True)
    clocked(fetcher, lambda: fetcher.monitor.snapshot()["retries"]["count"] > 0)
    (quote,) = fetcher.quotes(["BTC/USDT"])  # the time is over while it waits before the second try
    assert quote.error == "no answer within 5 s, after 1 failed try"


@pytest.mark.slow
def test_a_provider_that_hangs_takes_no_more_than_the_time_of_the_call(five: Loopback) -> None:
    fetcher = five.fetcher(api_keys={"tradestation": {"access_token": "sesame"}})
    began_s = time.monotonic()
    assert ask_fifty(fetcher, timeout_s=3).error == "no answer within 3 s"
    assert time.monotonic() - began_s < 3.5
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("candle-quotes")], 5)


def test_a_fetch_that_has_all_threads_of_the_network_leaves_some_for_quotes(world: World) -> None:
    world.exchange.fail(faults.hang(60), times=None, match="/klines")
    fetcher = fetcher_of(world, performance_mode="low")
    lost = threading.Thread(target=fetch_all, args=(fetcher,))
    lost.start()
    try:
        wait_until(lambda: any("klines" in one.path for one in world.exchange.requests))
        assert whole(fetcher.quotes(["kraken:BTC/USD"])[0])
    finally:
        fetcher.close()
        lost.join()


def fetch_all(fetcher: CandleFetcher) -> None:
    with contextlib.suppress(CandleFetcherError):
        fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-14")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.status(503), "status 503"),
        (faults.body(b"{}"), "a reply of binance cannot be used"),
        (faults.reset(), "reset|closed|cut|connection"),
        (faults.forbidden(), "status 403"),
        (faults.banned(ms(NOW) + 60_000), "banned"),
        (faults.rate_limited(600), "600 s"),
    ],
)
def test_a_provider_that_fails_has_the_error_and_hides_no_other(world: World, fault: Any, said: str) -> None:
    world.exchange.fail(fault, times=None, match="/api/v3/")
    lost, other = fetcher_of(world, max_retries=1).quotes(["BTC/USDT", "kraken:BTC/USD"])
    assert lost.error is not None
    assert any(part in lost.error for part in said.split("|")), lost.error
    assert (lost.last_price, lost.provider, lost.type, lost.is_stale) == (None, "binance", "crypto", False)
    assert whole(other)


def test_a_provider_that_fails_later_has_the_quote_known_last(world: World) -> None:
    fetcher = fetcher_of(world, max_retries=0)
    (before,) = fetcher.quotes(["BTC/USDT"])
    fault = world.exchange.fail(faults.status(503), times=None, match="/api/v3/")
    world.now_s += 40
    (stale,) = fetcher.quotes(["BTC/USDT"])
    assert "status 503" in (stale.error or "")
    assert stale.is_stale
    assert stale.age_s == 40
    assert replace(stale, error=None, is_stale=False, age_s=0.0) == before
    fault.stop()
    (after,) = fetcher.quotes(["BTC/USDT"])
    assert whole(after)
    assert not after.is_stale


def test_an_unknown_symbol_has_no_last_quote(world: World) -> None:
    fetcher = fetcher_of(world, max_retries=0)
    assert whole(fetcher.quotes(["BTC/USDT"])[0])
    world.exchange.fail(faults.status(400, b'{"code":-1121,"msg":"Invalid symbol."}'), times=None, match="/api/v3/")
    (gone,) = fetcher.quotes(["BTC/USDT"])
    assert "does not know the symbol 'BTC/USDT'" in (gone.error or "")
    assert gone.last_price is None


@pytest.mark.slow
def test_a_quote_older_than_asked_for_is_stale(world: World) -> None:
    (fresh,) = fetcher_of(world).quotes(["alpaca:AAPL"], max_age_s=3600)
    world.now_s += 86_400  # a Saturday
    (old,) = fetcher_of(world, use_cache=False).quotes(["alpaca:AAPL"], max_age_s=3600)
    assert (fresh.is_stale, fresh.error) == (False, None)
    assert (old.is_stale, old.error) == (True, None)
    assert whole(old)
    assert old.age_s is not None
    assert old.age_s > 3600


def test_what_is_no_symbol_of_a_provider_is_the_error_of_that_quote(world: World) -> None:
    bare = replace(find_provider("binance"), name="bare", quotes=None)
    fetcher = world.fetcher(api_keys={}, provider=bare)
    names = ["nosuch:BTC/USD", "binance:BTC USDT", "BTC/USDT", "alpaca:AAPL", "", "kraken:BTC/USD"]
    quotes = fetcher.quotes(names)
    errors = [quote.error or "" for quote in quotes]
    assert errors[0].startswith("unknown provider 'nosuch'; expected one of")
    assert errors[1].startswith("symbol 'BTC USDT' is not valid for Binance")
    assert errors[2] == "bare has no quotes; choose another provider"
    assert errors[3].startswith("alpaca needs a key. Get one at")
    assert [quote.provider for quote in quotes] == ["nosuch", "binance", "bare", "alpaca", "bare", "kraken"]
    assert [quote.symbol for quote in quotes] == ["BTC/USD", "BTC USDT", "BTC/USDT", "AAPL", "", "BTC/USD"]
    assert whole(quotes[-1])
    conflict, unknown = fetcher.quotes(["kraken:BTC/USD"], provider="binance") + fetcher.quotes(
        ["X"], provider="biannce"
    )
    assert "names another" in (conflict.error or "")
    assert "unknown provider 'biannce'" in (unknown.error or "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symbols": "BTC/USDT"}, "symbols 'BTC/USDT' is not a list"),
        ({"symbols": None}, "is not a list"),
        ({"symbols": ["BTC/USDT", 5]}, "must all be text"),
        ({"symbols": [], "timeout_s": 0}, "timeout_s 0 is not allowed"),
        ({"symbols": [], "timeout_s": "5"}, "timeout_s '5' is not allowed"),
        ({"symbols": [], "timeout_s": float("nan")}, "timeout_s nan is not allowed"),
        ({"symbols": [], "max_age_s": -1}, "max_age_s -1 is not allowed"),
        ({"symbol": ["BTC/USDT"]}, "symbols"),
    ],
)
def test_other_arguments_that_are_wrong_are_raised(world: World, given: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, TypeError), match=said):
        world.fetcher().quotes(**given)
    assert requests(world) == []


def test_no_symbols_are_no_quotes_and_no_request(world: World) -> None:
    assert world.fetcher().quotes([]) == []
    assert requests(world) == []


def test_the_cache_as_the_only_source_sends_nothing(world: World) -> None:
    (quote,) = world.fetcher(source="cache").quotes(["BTC/USDT"])
    assert (quote.error or "").startswith("source='cache' sends no request")
    assert requests(world) == []


def test_a_closed_fetcher_is_refused_and_close_ends_a_call(world: World) -> None:
    world.exchange.fail(faults.hang(60), times=None)
    fetcher, errors = fetcher_of(world), []

    def ask() -> None:
        try:
            fetcher.quotes(["BTC/USDT"])
        except CandleFetcherError as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: world.exchange.requests)
    fetcher.close()
    asking.join(10)
    assert not asking.is_alive()
    ask()
    assert len(errors) == 2
    assert "its CandleFetcher was closed" in errors[0]
    assert "is closed" in errors[1]
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("candle-quotes")])


# -- providers of other packages --------------------------------------------------------------------------------------


def own_provider(url: str, parse: Callable[[bytes], Any]) -> Any:
    def ask(symbols: Any, settings: Any) -> list[QuoteRequest]:
        return [QuoteRequest(tuple(symbols), Call("/q", (("ids", ",".join(symbols)),)), parse)]

    feed = QuoteFeed(ask, lambda symbol: "stock", "Own")
    return replace(
        find_provider("alpaca-crypto"), name="own", hosts=(url,), quotes=feed, provider_symbol=lambda text, _: text
    )


@pytest.mark.parametrize(
    ("parse", "said"),
    [
        (lambda body: [Ticker("A", 1.5)], None),
        (lambda body: [Ticker("A", float("nan"))], "expected tickers with finite numbers"),
        (lambda body: [("A", 1.5)], "expected tickers with finite numbers"),
        (lambda body: None, "its parser raised TypeError"),
        (lambda body: {}["x"], "its parser raised KeyError"),
        (lambda body: [], "own does not know the symbol 'A'"),
    ],
)
def test_a_plug_in_offers_quotes_and_its_mistakes_are_errors(tmp_path: Path, parse: Any, said: str | None) -> None:
    with Loopback(tmp_path, ("own",), lambda asked: Said(b"1"), now=NOW) as server:
        url = f"http://127.0.0.1:{server._server.server_address[1]}"
        fetcher = server.fetcher(provider=own_provider(url, parse), base_urls={}, use_cache=False)
        (quote,) = fetcher.quotes(["A"])
    if said is None:
        assert (quote.last_price, quote.exchange, quote.type, quote.error) == (1.5, "Own", "stock", None)
    else:
        assert said in (quote.error or "")


def test_quotes_that_a_provider_counts_apart_have_a_budget_of_their_own(tmp_path: Path) -> None:
    with Loopback(tmp_path, ("own",), lambda asked: Said(b"1"), now="2024-06-14T15:00:00") as server:
        url = f"http://127.0.0.1:{server._server.server_address[1]}"
        own = own_provider(url, lambda body: [Ticker("A", 1.5)])
        own = replace(own, quotes=replace(own.quotes, limits=(Limit(10, 300),)))
        fetcher = server.fetcher(provider=own, base_urls={}, use_cache=False)
        errors = [fetcher.quotes(["A"])[0].error for _ in range(12)]
        assert errors == [None] * 12
        assert len(server.asked()) == 12
    assert max(server.waits) > 200, "the budget of five minutes was used up"


@pytest.mark.parametrize("broken", ["provider_symbol", "requests", "type_of"])
def test_a_plug_in_that_raises_anything_is_the_error_of_its_quotes(world: World, broken: str) -> None:
    def fail(*_: object) -> Any:
        raise KeyError("oops")

    own = own_provider(world.exchange.url, lambda body: [Ticker("A", 1.5)])
    if broken == "provider_symbol":
        own = replace(own, provider_symbol=fail)
    else:
        own = replace(own, quotes=replace(own.quotes, **{broken: fail}))
    world.exchange.fail(faults.body(b"{}"), match="/q")
    lost, other = world.fetcher(provider=own, base_urls=world.exchange.base_urls).quotes(["A", "kraken:BTC/USD"])
    assert whole(other)
    if broken == "type_of":
        assert (lost.last_price, lost.type, lost.error) == (1.5, None, None)
    else:
        assert lost.error == "KeyError: \"'oops'\""


# -- the providers that the practice exchange does not play -----------------------------------------------------------

OTHERS = {"alphavantage": "apikey", "coingecko": "demo_key", "tradestation": "access_token"}


def answer(asked: Asked) -> Said:
    """Answer with the replies of these providers that the tests of parsers have."""
    bodies = {reply.name: reply.body for reply in REPLIES}
    if asked.params.get("function") == "GLOBAL_QUOTE":
        return Said(bodies["alphavantage quotes"])
    if asked.params.get("function") == "CURRENCY_EXCHANGE_RATE":
        return Said(bodies["alphavantage quotes rate"])
    return Said(bodies["coingecko quotes" if "simple/price" in asked.path else "tradestation quotes"])


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Loopback]:
    with Loopback(tmp_path, tuple(OTHERS), answer, now="2024-06-04T12:00:00") as made:
        yield made


def test_the_other_providers_are_asked_with_their_keys(others: Loopback) -> None:
    keys = {name: {key: "sesame"} for name, key in OTHERS.items()}
    names = ["alphavantage:IBM", "alphavantage:BTC/EUR", "coingecko:bitcoin", "coingecko:bitcoin/eur",
             "tradestation:MSFT", "tradestation:NOPE", "tradestation:@CL"]  # fmt: skip
    ibm, rate, coin, euros, msft, nope, oil = others.fetcher(api_keys=keys).quotes(names)
    assert (ibm.last_price, ibm.volume, ibm.bid_price, ibm.timestamp) == (165.28, 2776058.0, None, None)
    # Its day ended at 04:00 UTC: it is eight hours old at least.
    assert ibm.age_s == 8 * 3600
    assert (rate.symbol, rate.last_price, rate.ask_price, rate.volume) == ("BTC/EUR", 62250.5, None, None)
    assert (coin.symbol, coin.last_price, coin.volume, coin.exchange) == ("bitcoin/usd", 67500.0, 200000.0, "CoinGecko")
    assert (euros.last_price, euros.volume) == (62500.5, None)
    assert (msft.exchange, msft.volume, msft.type) == ("TradeStation, 15 minutes delayed", 16930101.0, "stock")
    assert nope.error == "tradestation states no price of NOPE ('FAILED, INVALID SYMBOL')"
    assert (oil.last_price, oil.bid_price, oil.volume, oil.type) == (-37.63, None, None, "future")
    asked = {one.path: one for one in others.asked()}
    assert asked["/query"].params["apikey"] == "sesame"
    assert asked["/api/v3/simple/price"].headers["x-cg-demo-api-key"] == "sesame"
    assert asked["/v3/marketdata/quotes/MSFT,NOPE,@CL"].headers["authorization"] == "Bearer sesame"


def test_a_missing_key_is_the_error_of_its_quotes(others: Loopback) -> None:
    lost, coin = others.fetcher(api_keys={}).quotes(["tradestation:MSFT", "coingecko:bitcoin"])
    assert (lost.error or "").startswith("tradestation needs a key")
    assert coin.last_price == 67500.0


# -- the practice exchange --------------------------------------------------------------------------------------------


def test_the_practice_exchange_answers_in_the_shapes_that_were_recorded(world: World, shared: Path) -> None:
    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"{world.exchange.url}{path}", timeout=30) as reply:
            return json.load(reply)

    recorded = json.loads((shared / "recorded/kraken/ticker_xbtusdt.json").read_bytes())["result"]["XBTUSDT"]
    ours = ask("/0/public/Ticker?pair=XBTUSDT")["result"]["XBTUSDT"]
    assert ours.keys() == recorded.keys()
    assert {name: [type(one) for one in ours[name]] for name in "abcvptlh"} == {
        name: [type(one) for one in recorded[name]] for name in "abcvptlh"
    }
    assert list(ask("/0/public/Ticker?pair=XETHZUSD,XBTUSD")["result"]) == ["XXBTZUSD", "XETHZUSD"]
    assert len(ask("/0/public/Ticker")["result"]) == 7
    assert ask("/0/public/Ticker?pair=XBTUSD,NOPE") == {"error": ["EQuery:Unknown asset pair"]}
    path = shared / "recorded/alpaca/crypto_snapshot_btcusd_nov2024.json"
    snapshot = json.loads(path.read_bytes())["snapshots"]["BTC/USD"]
    theirs = ask("/v1beta3/crypto/us/snapshots?symbols=BTC/USD,NO/USD")["snapshots"]
    assert theirs.keys() == {"BTC/USD"}
    assert theirs["BTC/USD"].keys() == snapshot.keys()
    for name in ("dailyBar", "minuteBar", "prevDailyBar", "latestQuote"):
        assert theirs["BTC/USD"][name].keys() == snapshot[name].keys(), name


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def today() -> Iterator[PracticeExchange]:
    """An exchange at the time of the command, which has the clock of the machine."""
    with PracticeExchange() as exchange:
        yield exchange


def run(exchange: PracticeExchange, *words: str) -> int:
    urls = [f"--base-url={name}={url}" for name, url in exchange.base_urls.items()]
    return main(["quotes", *words, "--no-cache", *urls])


def test_the_command_prints_csv_into_a_pipe_and_says_what_is_wrong(
    today: PracticeExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(today, "BTC/USDT", "kraken:BTC/USD") == 0
    out, err = capsys.readouterr()
    header, *rows = list(csv.reader(out.splitlines()))
    assert header == [field.name for field in dataclasses.fields(Quote)][:-1]
    assert [row[0] for row in rows] == ["BTC/USDT", "BTC/USD"]
    assert "error" not in err
    assert run(today, "BTC/USDT", "nosuch:X") == 3
    out, err = capsys.readouterr()
    assert err.startswith("error: nosuch:X: unknown provider 'nosuch'")
    assert run(today, "nosuch:X") == 1
    assert run(today, "BTC/USDT", "--timeout", "0") == 2


def test_the_command_prints_json(today: PracticeExchange, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(today, "BTC/USDT", "kraken:BTC/USD", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["symbol"] for one in said["symbols"]] == ["BTCUSDT", "XBTUSD"]
    assert run(today, "BTC/USDT", "kraken:BTC/USD", "--jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["provider"] for line in lines] == ["binance", "kraken"]


def test_the_command_shows_a_table_on_a_terminal(
    today: PracticeExchange, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quoting, "is_terminal", lambda: True)
    assert run(today, "BTC/USDT", "nosuch:X") == 3
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["symbol", "last", "bid", "ask", "volume", "age"]
    assert first.split()[0] == "binance:BTC/USDT"
    assert second.startswith("nosuch:X          unknown provider 'nosuch'")
    assert max(map(len, (head, first, second))) < 80


# -- the function of the package --------------------------------------------------------------------------------------


def test_the_function_has_the_signature_of_the_method() -> None:
    own = inspect.signature(candle_fetcher.quotes)
    assert list(own.parameters.values()) == list(inspect.signature(CandleFetcher.quotes).parameters.values())[1:]
