"""Alpha Vantage's quotes: stocks by GLOBAL_QUOTE, pairs by CURRENCY_EXCHANGE_RATE, one symbol in each request.

A stock has no bid, no ask and no time: only the date of its last trading day, on which its price and volume are of. On
the free plan that is the last session that ended. A pair has no volume; its time is in UTC, to the second.
Sources: alphavantage.co/documentation (2026); replies recorded in 2018, 2020 and 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.faults import unexpected, wrong_field, wrong_symbol
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.core.zones import NEW_YORK, zone
from candle_fetcher.providers.alphavantage_replies import TITLE, is_pair, raise_message
from candle_fetcher.providers.quoting import (
    QuoteFeed,
    QuoteRequest,
    check_row,
    load_quotes,
    read_moment_ms,
    read_price,
    read_volume,
)

_STOCK, _RATE = "Global Quote", "Realtime Currency Exchange Rate"
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def parse_stock(body: bytes, symbol: str) -> tuple[Ticker, ...]:
    """Return the ticker of the stock; none where the reply is empty, as it is for an unknown symbol.

    Raises ReplyError where the body is malformed or of another symbol, or the refusal in the body.
    """
    row = _row(body, _STOCK, symbol)
    if not row:
        return ()
    named = row.get("symbol")
    if not isinstance(named, str) or named.upper() != symbol:
        raise wrong_symbol(f"the quote of {symbol}", named)
    return (
        Ticker(
            symbol,
            read_price(row, "price", _STOCK),
            read_volume(row, "volume", _STOCK),
            latest_ms=_end_of_day_ms(row),
        ),
    )


def _end_of_day_ms(row: Mapping[str, Any]) -> int:
    """Return when the last trading day ends in New York, which no exchange outlasts by its own date."""
    day = row.get("latest trading day")
    moment = {"day": f"{day}T00:00:00Z" if isinstance(day, str) and _DAY.fullmatch(day) else None}
    try:
        local_ms = read_moment_ms(moment, "day", _STOCK)
    except ReplyError:
        local_ms = None
    if local_ms is None:
        raise wrong_field(f"{_STOCK}, field latest trading day", "a date such as 2024-06-03", day)
    return int(zone(NEW_YORK).to_utc(np.array([local_ms + DAY_MS]))[0])


def parse_rate(body: bytes, symbol: str) -> tuple[Ticker, ...]:
    """Return the ticker of the pair. Raises ReplyError where the body is malformed or of another pair, or the refusal
    in the body."""
    row = _row(body, _RATE, symbol)
    named = "/".join(str(row.get(name)).upper() for name in ("From_Currency Code", "To_Currency Code"))
    if named != symbol:
        raise wrong_symbol(f"the quote of {symbol}", named)
    if row.get("Time Zone") != "UTC":
        raise wrong_field(f"{_RATE}, field Time Zone", "UTC", row.get("Time Zone"))
    stamp = row.get("Last Refreshed")
    moment = {"Last Refreshed": f"{stamp.replace(' ', 'T', 1)}Z" if isinstance(stamp, str) else stamp}
    return (
        Ticker(
            symbol,
            read_price(row, "Exchange Rate", _RATE),
            bid_price=read_price(row, "Bid Price", _RATE),
            ask_price=read_price(row, "Ask Price", _RATE),
            time_ms=read_moment_ms(moment, "Last Refreshed", _RATE),
        ),
    )


def _row(body: bytes, title: str, symbol: str) -> Mapping[str, Any]:
    """Return the fields of the reply by their names without numbers. Raises the refusal in the body."""
    expected = f"a JSON object with {title}"
    value = load_quotes(body, expected)
    if not isinstance(value, dict):
        raise unexpected(expected, body)
    # In some plans the title ends in words on the delay of the data.
    found = [row for name, row in value.items() if name.startswith(title)]
    if len(found) != 1:
        raise_message(value, symbol)
        raise unexpected(expected, body)
    fields = check_row(found[0], title)
    named = {name.partition(". ")[2]: value for name, value in fields.items()}
    if len(named) < len(fields):
        raise unexpected(f"{title} with each field once", body)
    return named


def _requests(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    return [_request(symbol) for symbol in symbols]


def _request(symbol: str) -> QuoteRequest:
    if is_pair(symbol):
        base, quote = symbol.split("/")
        params = (("function", "CURRENCY_EXCHANGE_RATE"), ("from_currency", base), ("to_currency", quote))
        return QuoteRequest((symbol,), Call("/query", params), partial(parse_rate, symbol=symbol))
    call = Call("/query", (("function", "GLOBAL_QUOTE"), ("symbol", symbol)))
    return QuoteRequest((symbol,), call, partial(parse_stock, symbol=symbol))


QUOTES = QuoteFeed(_requests, lambda symbol: "crypto" if is_pair(symbol) else "stock", TITLE)
