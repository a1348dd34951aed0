"""Tickers: the last price, the book's best prices and the rolling day, read from the same candles."""

from __future__ import annotations

from typing import Any, NamedTuple

from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.practice.listings import MarketListing
from candle_fetcher.practice.request import Params, Refused, View, answer_each, dump, printed, read_listing


class Day(NamedTuple):
    """The last 24 hours as floats, and what was traded."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    quote: float
    trades: int


def last_day(view: View, listing: MarketListing, kind: str = "candles") -> Day:
    """Return the rolling day up to the instant, by whole seconds; the last day of a symbol that has ended."""
    series = view.tape.generated(view.provider, listing, kind=kind)
    end = min(view.now_ms // 1000 * 1000 + 1000, listing.ended_ms)
    candles = series.candles_between(max(end - DAY_MS, listing.listed_ms // 1000 * 1000), end)
    if not len(candles.open):
        return Day(0, 0, 0, 0, 0, 0, 0)
    price, style = 10.0**series.style.price, series.style
    prices = [float(column[0]) / price for column in (candles.open, candles.high, candles.low, candles.close)]
    volume = float(candles.volume[0]) / 10.0 ** (style.volume or 0)
    quote = float(candles.quote_volume[0]) / 10.0 ** (style.quote or 0)
    return Day(prices[0], prices[1], prices[2], prices[3], volume, quote, int(candles.trades[0]))


def _ticker_24hr(view: View, listing: MarketListing) -> dict[str, Any]:
    day = last_day(view, listing)
    price, amount, quote = listing.price_decimals, listing.volume_decimals, listing.quote_decimals
    average = 0.0
    if day.volume:
        average = day.quote / day.volume if listing.size is None else day.volume * listing.size / day.quote
    tick = 10.0**-price * listing.tick
    row: dict[str, Any] = {
        "symbol": listing.symbol,
        "priceChange": printed(day.close - day.open, price),
        "priceChangePercent": printed((day.close / day.open - 1) * 100 if day.open else 0.0, 3),
        "weightedAvgPrice": printed(average, 8 if listing.size else price),
        "lastPrice": printed(day.close, price),
        "lastQty": printed(listing.step * 10.0**-amount * 10, amount),
        "openPrice": printed(day.open, price),
        "highPrice": printed(day.high, price),
        "lowPrice": printed(day.low, price),
        "volume": printed(day.volume, amount),
        ("baseVolume" if listing.size else "quoteVolume"): printed(day.quote, quote),
        "openTime": view.now_ms - DAY_MS,
        "closeTime": view.now_ms,
        "firstId": 1_000_000,
        "lastId": 1_000_000 + max(day.trades - 1, 0),
        "count": day.trades,
    }
    if view.coin:
        row["pair"] = listing.pair
    if not view.futures:
        row |= {
            "prevClosePrice": printed(day.open, price),
            "bidPrice": printed(day.close, price),
            "bidQty": row["lastQty"],
        }
        row |= {"askPrice": printed(day.close + tick, price), "askQty": row["lastQty"]}
    return row


_MINI = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)


def day_tickers(view: View, params: Params) -> bytes:
    if params.get("type", "FULL") not in ("FULL", "MINI"):
        raise Refused(-1130, "Data sent for parameter 'type' is not valid.")
    mini = params.get("type") == "MINI"

    def row(view: View, listing: MarketListing) -> dict[str, Any]:
        full = _ticker_24hr(view, listing)
        return {name: full[name] for name in _MINI} if mini else full

    return answer_each(view, params, row)


def _identity(view: View, listing: MarketListing) -> dict[str, Any]:
    return {"symbol": listing.symbol, "ps": listing.pair} if view.coin else {"symbol": listing.symbol}


def price_tickers(view: View, params: Params) -> bytes:
    def row(view: View, listing: MarketListing) -> dict[str, Any]:
        price = {"price": printed(last_day(view, listing).close, listing.price_decimals)}
        return _identity(view, listing) | price | ({"time": view.now_ms} if view.futures else {})

    return answer_each(view, params, row)


def book_tickers(view: View, params: Params) -> bytes:
    def row(view: View, listing: MarketListing) -> dict[str, Any]:
        last = last_day(view, listing).close
        decimals, amount = listing.price_decimals, listing.volume_decimals
        quantity = listing.step * 10.0**-amount
        names = {"symbol": listing.symbol, "pair": listing.pair} if view.coin else {"symbol": listing.symbol}
        return names | {
            "bidPrice": printed(last, decimals),
            "bidQty": printed(quantity * 37, amount),
            "askPrice": printed(last + 10.0**-decimals * listing.tick, decimals),
            "askQty": printed(quantity * 23, amount),
            **({"time": view.now_ms} if view.futures else {}),
        }

    return answer_each(view, params, row)


def average_price(view: View, params: Params) -> bytes:
    listing = read_listing(view, params, "symbol")
    return dump({"mins": 5, "price": printed(last_day(view, listing).close, 8), "closeTime": view.now_ms})
