"""Alpha Vantage: stocks of many exchanges and crypto pairs, through one endpoint.

A reply holds a whole series, its newest 100 candles, or a calendar month; no request names a range of times. A reply is
a JSON object with a row for each time, newest first; every value is a string, and the numbers before the names differ
by function. Errors come with status 200, as `Information`, `Note` or `Error Message`, and differ only in their text.
Prices are not adjusted. There is no row for an interval without trades.

Times of stocks are local times of New York, those of pairs UTC. An intraday time is the start of its candle, a weekly
or monthly one the last trading day so far. This module lets daily candles open at midnight in New York, so that the
date of the open time is that of the session.
Sources: alphavantage.co/documentation; alphavantage/alpha_vantage_mcp api/src/av_api (2026); refusals of 2024 to 2026,
which say that free keys get the newest 100 days, and 25 requests a day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.errors import NotOffered
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS, Timeframe
from candle_fetcher.core.zones import NEW_YORK, zone
from candle_fetcher.providers.alphavantage_quotes import QUOTES
from candle_fetcher.providers.alphavantage_replies import (
    COLUMNS,
    FUNCTIONS,
    INTERVALS,
    KEY_PAGE,
    MOST_ROWS,
    TITLE,
    is_pair,
    parse_candles,
    refusal,
)
from candle_fetcher.providers.base import Feed, Key, Provider, Setting
from candle_fetcher.providers.refusals import not_a_symbol

# "Updated at the end of each trading day for all users by default", and delayed by 15 minutes in plans that have the
# current day. A free key was observed to get a day once it was over, and no day at weekends.
FINALITY = Finality(
    delay_ms=16 * MINUTE_MS,
    late_rows_ms=2 * DAY_MS,
    spares_edge=True,
    source="updated at the end of each trading day, or 15 minutes delayed (documentation, TIME_SERIES_INTRADAY)",
)

# "compact returns only the latest 100 data points" (TIME_SERIES_DAILY).
_COMPACT = 100
_STOCK = re.compile(r"[A-Z0-9][A-Z0-9]{0,14}(?:[.-][A-Z0-9]{1,8}){0,2}")
_PAIR = re.compile(r"([A-Z0-9]{1,15})[/-]([A-Z0-9]{2,8})")
# Text after a dash is the quote of a pair if it is one of these, else a class of shares, as in BRK-B.
_CURRENCIES = frozenset(
    [
        "USD",
        "EUR",
        "GBP",
        "JPY",
        "CNY",
        "AUD",
        "CAD",
        "CHF",
        "HKD",
        "SGD",
        "INR",
        "KRW",
        "BRL",
        "MXN",
        "RUB",
        "TRY",
        "ZAR",
        "SEK",
        "NOK",
        "DKK",
        "PLN",
        "NZD",
        "USDT",
        "USDC",
        "BTC",
        "ETH",
    ]
)
# The exchange by the ending of a symbol ("symbol=TSCO.LON", Quick Start). The calendar of others is not known.
_CALENDARS = {"LON": "XLON", "TRT": "XTSE", "DEX": "XETR", "BSE": "XBOM", "SHH": "XSHG", "SHZ": "XSHG"}


# -- calls ------------------------------------------------------------------------------------------------------------


def _call(size: str) -> Callable[[Series, Span, int], Call]:
    def call(series: Series, span: Span, rows: int) -> Call:
        name, symbol = series.timeframe.name, series.symbol
        params: tuple[tuple[str, str], ...]
        if is_pair(symbol):
            if name in INTERVALS:
                raise NotOffered(
                    f"{TITLE} does not state how far back its intraday candles of pairs reach; request "
                    f"{', '.join(FUNCTIONS)} of {symbol}, or candles of {name} from kraken or binance"
                )
            base, quote = symbol.split("/")
            params = (("function", f"DIGITAL_CURRENCY_{FUNCTIONS[name]}"), ("symbol", base), ("market", quote))
        elif name in INTERVALS:
            params = (
                ("function", "TIME_SERIES_INTRADAY"),
                ("symbol", symbol),
                ("interval", INTERVALS[name]),
                ("adjusted", "false"),
                ("extended_hours", "true"),
                ("month", str(np.datetime64(_local_ms(span.start_ms), "ms"))[:7]),
                ("outputsize", "full"),
            )
        else:
            params = (("function", f"TIME_SERIES_{FUNCTIONS[name]}"), ("symbol", symbol))
            params += (("outputsize", size),) if name == "1d" else ()
        return Call("/query", params)

    return call


def _window(series: Series, ms: int) -> Span | None:
    """Return the calendar month in New York that holds the instant, for intraday candles; else None."""
    if series.timeframe.name not in INTERVALS or is_pair(series.symbol):
        return None
    month = Timeframe(1, "M")
    slot = month.ordinal(_local_ms(ms))
    start_ms, end_ms = zone(NEW_YORK).to_utc(np.array([month.open_ms(slot), month.open_ms(slot + 1)])).tolist()
    return Span(start_ms, end_ms)


def _local_ms(ms: int) -> int:
    return int(zone(NEW_YORK).to_local(np.array([ms]))[0])


# -- symbols ----------------------------------------------------------------------------------------------------------


def _symbol(text: str, kind: str) -> str:
    """Return a stock as Alpha Vantage writes it (IBM, TSCO.LON, BRK-B), and a pair as BASE/QUOTE.

    Raises InputError for other text.
    """
    symbol = text.strip().upper() if isinstance(text, str) else ""
    pair = _PAIR.fullmatch(symbol)
    if pair is not None and ("/" in symbol or pair[2] in _CURRENCIES):
        return f"{pair[1]}/{pair[2]}"
    if not _STOCK.fullmatch(symbol):
        raise not_a_symbol(TITLE, text, "one such as IBM, TSCO.LON or BTC/USD")
    return symbol


def _calendar(series: Series) -> str | None:
    """Return the exchange that has the sessions of the candles; None where it is not known or the symbol is a pair."""
    if is_pair(series.symbol):
        return None
    end = series.symbol.partition(".")[2]
    return _CALENDARS.get(end) if len(end) > 1 else "XNYS"


# -- the provider -----------------------------------------------------------------------------------------------------


def _feed(size: str) -> Feed:
    def depth(series: Series) -> int | None:
        return _COMPACT if size == "compact" and series.timeframe.name == "1d" and not is_pair(series.symbol) else None

    return Feed(
        timeframes=(*INTERVALS, *FUNCTIONS),
        columns=COLUMNS,
        call=_call(size),
        parse=parse_candles,
        limit=MOST_ROWS,
        window=_window,
        since_ms=946_702_800_000,  # "any month in the last 20+ years since 2000-01"
        zone=lambda series: None if is_pair(series.symbol) else NEW_YORK,
        has_empty_bars=False,
        finality=FINALITY,
        replies_with_all=True,
        depth=depth,
    )


def _configure(settings: Mapping[str, str]) -> Provider:
    if settings.get("plan", "free") == "free":
        return PROVIDER
    # "75 API requests per minute" is the smallest of the premium plans.
    return replace(PROVIDER, feeds={"candles": _feed("full")}, default_limits=(Limit(75, 60),))


PROVIDER = Provider(
    name="alphavantage",
    hosts=("https://www.alphavantage.co",),
    feeds={"candles": _feed("compact")},
    # "25 requests per day", and "1 request per second".
    default_limits=(Limit(1, 1), Limit(25, 86_400)),
    refusal=refusal,
    provider_symbol=_symbol,
    calendar=_calendar,
    keys=(Key("apikey", "ALPHAVANTAGE_API_KEY", param="apikey"),),
    key_page=KEY_PAGE,
    settings=(Setting("plan", ("free", "premium"), is_of_series=False),),
    configure=_configure,
    quotes=QUOTES,
)

PROVIDERS = (PROVIDER,)
