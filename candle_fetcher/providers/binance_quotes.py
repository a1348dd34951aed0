"""Binance's quotes: spot and Binance.US in one reply, futures in two, since their 24-hour tickers have no book.

The window of a 24-hour ticker ends at `closeTime`, the time of the reply's snapshot, which moves on without a trade.
That of futures opens on a whole minute, and is up to a minute longer.
Sources: binance-spot-api-docs rest-api.md, "24hr ticker price change statistics" (2026-07-21); binance-connector-python
derivatives_trading_{usds,coin}_futures, market data (2026-08); replies recorded in 2020, 2021 and 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.call import Call
from candle_fetcher.core.faults import unexpected
from candle_fetcher.core.quote import Ticker
from candle_fetcher.providers.binance_refusals import raise_refusal
from candle_fetcher.providers.quoting import (
    Always,
    QuoteFeed,
    QuoteRequest,
    batches,
    check_row,
    load_quotes,
    named_once,
    read_name,
    read_price,
    read_time_ms,
    read_volume,
)

NAME = "Binance"
# "Weight: 2 for 1-20 symbols, 40 for 21-100, 80 for 101 or more, or for all".
_MOST_LISTED = 100
_WEIGHTS = ((20, 2), (100, 40))
_ALL_WEIGHT = 80
# Up to so many symbols, one request for each (weight 2) is cheaper than one for all.
_MOST_APART = 20
# The weights of futures: 1 and 2 for one symbol, 40 and 5 for all. Up to so many symbols, those of each cost less.
_MOST_SINGLE = 13
_EXPECTED = "a ticker, or a JSON list of tickers"

Parse = Callable[[Mapping[str, Any], str, str], Ticker]


def _day(row: Mapping[str, Any], symbol: str, place: str, *, volume: str = "volume") -> Ticker:
    return Ticker(
        symbol,
        read_price(row, "lastPrice", place),
        read_volume(row, volume, place),
        read_price(row, "bidPrice", place),
        read_price(row, "askPrice", place),
        read_time_ms(row, "closeTime", place),
    )


# Of COIN-M, `volume` counts contracts.
_coin_day = partial(_day, volume="baseVolume")


def _book(row: Mapping[str, Any], symbol: str, place: str) -> Ticker:
    bid, ask = (read_price(row, name, place) for name in ("bidPrice", "askPrice"))
    return Ticker(symbol, bid_price=bid, ask_price=ask, time_ms=read_time_ms(row, "time", place))


def parse_tickers(body: bytes, symbols: Sequence[str], read: Parse) -> tuple[Ticker, ...]:
    """Return the tickers of these symbols that the reply has, as `read` makes them of their rows.

    Raises ReplyError where the body is no ticker and no list of them, or the refusal in the body.
    """
    value = load_quotes(body, _EXPECTED)
    if isinstance(value, dict):
        raise_refusal(body)
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise unexpected(_EXPECTED, body)
    found, wanted = [], frozenset(symbols)
    for number, value in enumerate(rows, 1):
        place = f"row {number}"
        row = check_row(value, place)
        symbol = read_name(row, "symbol", place)
        if symbol in wanted:
            found.append(read(row, symbol, place))
    return named_once(found)


def _request(
    path: str, params: tuple[tuple[str, str], ...], cost: int, symbols: Sequence[str], read: Parse
) -> QuoteRequest:
    parse = partial(parse_tickers, symbols=tuple(symbols), read=read)
    return QuoteRequest(tuple(symbols), Call(path, params, cost), parse)


def _spot_requests(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    if len(symbols) > 2 * _MOST_LISTED:  # two lists weigh as much as all symbols
        return [_request("/api/v3/ticker/24hr", (), _ALL_WEIGHT, symbols, _day)]
    return [_listed(part) for part in batches(symbols, _MOST_LISTED)]


def _listed(symbols: Sequence[str]) -> QuoteRequest:
    names = ",".join(f'"{symbol}"' for symbol in symbols)
    cost = next(weight for most, weight in _WEIGHTS if len(symbols) <= most)
    return _request("/api/v3/ticker/24hr", (("symbols", f"[{names}]"),), cost, symbols, _day)


def _spot_apart(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    if len(symbols) > _MOST_APART:
        return [_request("/api/v3/ticker/24hr", (), _ALL_WEIGHT, symbols, _day)]
    return [_listed([symbol]) for symbol in symbols]


def _futures_requests(
    symbols: Sequence[str], settings: Mapping[str, str], *, prefix: str, day: Parse
) -> list[QuoteRequest]:
    """Return two requests for each symbol, or for all symbols: no request of futures takes several."""
    kinds = ((f"{prefix}/ticker/24hr", day, 1, 40), (f"{prefix}/ticker/bookTicker", _book, 2, 5))
    if len(symbols) > _MOST_SINGLE:
        return [_request(path, (), all_cost, symbols, read) for path, read, _, all_cost in kinds]
    return [
        _request(path, (("symbol", symbol),), cost, [symbol], read)
        for symbol in symbols
        for path, read, cost, _ in kinds
    ]


SPOT_FEED = QuoteFeed(_spot_requests, Always("crypto"), NAME, _spot_apart)
US_FEED = QuoteFeed(_spot_requests, Always("crypto"), "Binance.US", _spot_apart)
UM_FEED = QuoteFeed(partial(_futures_requests, prefix="/fapi/v1", day=_day), Always("future"), NAME)
CM_FEED = QuoteFeed(partial(_futures_requests, prefix="/dapi/v1", day=_coin_day), Always("future"), NAME)
