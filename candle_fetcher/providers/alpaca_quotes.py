"""Alpaca's quotes: snapshots of many symbols, each with its last trade, its best bid and ask, and the bar of the day.

A free key gets the stocks of the feed iex, one exchange with some 2 to 3 % of the volume: its prices differ from those
of all exchanges (sip), and so does the volume. An unknown symbol is left out of the reply, or null. The bar of a crypto
pair is that of the day in Chicago, which says nothing about the last 24 hours.
Sources: docs.alpaca.markets, stocksnapshots and cryptosnapshots (2026); alpaca-trade-api-go marketdata/rest_test.go and
alpaca-py tests (replies of 2021 to 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.call import Call
from candle_fetcher.core.faults import brief, unexpected
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS
from candle_fetcher.providers.quoting import (
    Always,
    QuoteFeed,
    QuoteRequest,
    batches,
    check_row,
    load_quotes,
    read_moment_ms,
    read_price,
    read_volume,
)

# "including the latest quotes of iex, which every plan includes"; sip needs a paid plan without a delay.
FREE_FEED = "iex"
# No page states how many symbols a request may name; the length of the URL stays below 2 KB.
_MOST_SYMBOLS = 200
_STOCKS, _PAIRS = "/v2/stocks/snapshots", "/v1beta3/crypto/us/snapshots"

# Raises the refusal that a decoded reply holds.
RaiseRefusal = Callable[[Any, bytes, str], None]


def parse_stocks(body: bytes, symbols: Sequence[str], feed: str, raise_refusal: RaiseRefusal) -> tuple[Ticker, ...]:
    """Return the tickers of these symbols that the reply has. Raises ReplyError where it is malformed, or the refusal
    in the body."""
    expected = "a JSON object of snapshots by symbol"
    value = load_quotes(body, expected)
    raise_refusal(value, body, _named(symbols))
    if not isinstance(value, dict):
        raise unexpected(expected, body)
    found = [_ticker(name, value[name], has_volume=True) for name in symbols if value.get(name) is not None]
    return tuple(ticker._replace(exchange=feed) for ticker in found)


def parse_pairs(body: bytes, symbols: Sequence[str], raise_refusal: RaiseRefusal) -> tuple[Ticker, ...]:
    """Return the tickers of these pairs that the reply has, without volumes. Raises as `parse_stocks` does."""
    expected = "a JSON object with snapshots"
    value = load_quotes(body, expected)
    raise_refusal(value, body, _named(symbols))
    rows = value.get("snapshots") if isinstance(value, dict) else None
    if not isinstance(rows, dict):
        raise unexpected(expected, body)
    return tuple(_ticker(name, rows[name], has_volume=False) for name in symbols if rows.get(name) is not None)


def _named(symbols: Sequence[str]) -> str:
    return symbols[0] if len(symbols) == 1 else ", ".join(symbols)


def _ticker(symbol: str, value: Any, *, has_volume: bool) -> Ticker:
    place = f"the snapshot of {brief(symbol)}"
    row = check_row(value, place)
    trade, quote, day = (
        check_row(row.get(name) or {}, f"{place}, field {name}") for name in ("latestTrade", "latestQuote", "dailyBar")
    )
    traded_ms, quoted_ms = (read_moment_ms(part, "t", place) for part in (trade, quote))
    volume = read_volume(day, "v", place)
    opened_ms = read_moment_ms(day, "t", place)
    if opened_ms is None or traded_ms is None or not 0 <= traded_ms - opened_ms < DAY_MS + HOUR_MS:
        volume = None  # the bar of another day than that of the last trade
    return Ticker(
        symbol,
        read_price(trade, "p", place),
        volume if has_volume else None,
        read_price(quote, "bp", place),
        read_price(quote, "ap", place),
        max((ms for ms in (traded_ms, quoted_ms) if ms is not None), default=None),
    )


def _stock_requests(
    symbols: Sequence[str], settings: Mapping[str, str], raise_refusal: RaiseRefusal, most: int = _MOST_SYMBOLS
) -> list[QuoteRequest]:
    feed = settings.get("feed", FREE_FEED)
    return [
        QuoteRequest(
            part,
            Call(_STOCKS, (("symbols", ",".join(part)), ("feed", feed))),
            partial(parse_stocks, symbols=part, feed=feed, raise_refusal=raise_refusal),
        )
        for part in batches(symbols, most)
    ]


def _pair_requests(
    symbols: Sequence[str], settings: Mapping[str, str], raise_refusal: RaiseRefusal, most: int = _MOST_SYMBOLS
) -> list[QuoteRequest]:
    return [
        QuoteRequest(
            part,
            Call(_PAIRS, (("symbols", ",".join(part)),)),
            partial(parse_pairs, symbols=part, raise_refusal=raise_refusal),
        )
        for part in batches(symbols, most)
    ]


def stock_quotes(raise_refusal: RaiseRefusal) -> QuoteFeed:
    """Return the quotes of stocks."""
    requests = partial(_stock_requests, raise_refusal=raise_refusal)
    return QuoteFeed(requests, Always("stock"), FREE_FEED, partial(requests, most=1))


def pair_quotes(raise_refusal: RaiseRefusal) -> QuoteFeed:
    """Return the quotes of crypto pairs."""
    requests = partial(_pair_requests, raise_refusal=raise_refusal)
    return QuoteFeed(requests, Always("crypto"), "Alpaca", partial(requests, most=1))
