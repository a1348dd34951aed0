"""CoinGecko: prices of coins over all markets, by the coin's id and a currency.

A reply holds the newest candles of so many `days`: candles of 30 minutes for 1 day, of 4 hours for 30 days, of 4 days
for more. Nothing older is available, and there are no volumes. A time stamp is the end of its candle. The newest row is
the current candle. It stays in a cached reply for 15 minutes after its end, and no field states whether it is over: so
the newest row counts as a candle that may change, until a newer one follows.
Sources: docs.coingecko.com reference/coins-id-ohlc, reference/coins-list and docs/errors-and-rate-limits (2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from candle_fetcher.core.call import Call, Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import OHLCV, Candles, Int64s, candles_from
from candle_fetcher.core.errors import AccessDenied, RateLimited, ReplyError, UnknownSymbol
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.faults import brief, too_large, unexpected, wrong_field
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.rows import Row, parse_csv
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS, Timeframe
from candle_fetcher.providers.base import Feed, Key, Listed, Listing, Provider, Question, Setting
from candle_fetcher.providers.quoting import (
    Always,
    QuoteFeed,
    QuoteRequest,
    batches,
    check_row,
    load_quotes,
    read_price,
    read_time_ms,
    read_volume,
)
from candle_fetcher.providers.refusals import (
    by_status,
    checked_name,
    error_object,
    facts_of,
    not_a_symbol,
    refused_by_firewall,
    status_of,
)

TITLE = "CoinGecko"
COLUMNS = ("open_time", *OHLCV)
KEY_PAGE = "https://www.coingecko.com/en/developers/dashboard"

# "Data granularity (candle's body) is automatic: 1 - 2 days: 30 minutes, 3 - 30 days: 4 hours, 31 days and beyond: 4
# days"; more than 365 days are for paid plans.
_DAYS = {"30m": 1, "4h": 30, "4d": 365}
_DEPTHS = {"30m": 48, "4h": 180, "4d": 92}
# "Every 15 minutes", every 30 until September 2024; "the last completed UTC day is available 35 minutes after
# midnight".
FINALITY = Finality(
    delay_ms=0,
    late_rows_ms=35 * MINUTE_MS,
    source="a newer row in the reply; replies are cached for 15 to 30 minutes (coins-id-ohlc)",
)
_ROW = Row("i d d d d")
# A reply has at most 180 rows, in 20 KB. The list of 17,000 coins has 1 MB, and 3 MB with their platforms.
_MOST_BYTES = 2**20
_MOST_ROWS = 10_000
_MOST_LIST_BYTES = 16 * 2**20
_MOST_COINS = 100_000
_MOST_MS = 2**53
_COIN = r"[a-z0-9][a-z0-9._-]{0,119}"
_SYMBOL = re.compile(rf"({_COIN})(?:/([a-z]{{2,8}}))?")
_LEADING_ZERO = re.compile(rb"[,\n]-?0[0-9]")


# -- candles ----------------------------------------------------------------------------------------------------------


def _call(series: Series, span: Span, rows: int) -> Call:
    coin, currency = series.symbol.split("/")
    days = str(_DAYS[series.timeframe.name])
    return Call(f"/api/v3/coins/{coin}/ohlc", (("vs_currency", currency), ("days", days)))


def parse_candles(body: bytes, series: Series) -> Candles:
    """Return candles in the order sent, the newest one last; all volumes are NaN.

    Raises ReplyError where the body is not a list of rows of that timeframe, or the refusal in the body.
    """
    if len(body) > _MOST_BYTES or body.count(b"[") + body.count(b"{") > _MOST_ROWS:
        raise too_large(body, most_bytes=_MOST_BYTES, most_brackets=_MOST_ROWS)
    ends, *prices = _rows(body)
    opens = _opens_ms(ends.view(np.int64), series.timeframe)
    return candles_from(COLUMNS, [opens, *prices, np.full(len(opens), np.nan)])


def final_until(body: bytes, candles: Candles) -> int:
    """Return the open time of the newest candle, which may still change even if it is over; FOREVER_MS without one."""
    return int(candles.open_ms[-1]) if candles.count else FOREVER_MS


def _opens_ms(ends: Int64s, timeframe: Timeframe) -> Int64s:
    """Return the open times of candles that end at these times. Raises ReplyError for a time that ends no candle.

    A candle of 4 days begins no earlier than the one before it ends: no page states whether a candle may be shorter at
    the end of a month.
    """
    step = timeframe.nominal_ms
    is_long = step > DAY_MS
    strays = np.flatnonzero(ends % min(step, DAY_MS))
    if len(strays):
        raise ReplyError(
            f"row {strays[0] + 1}, field 1 (time): expected the end of candles of {timeframe}, got {ends[strays[0]]} ms"
        )
    opens = ends - step
    if is_long:
        opens[1:] = np.where(ends[1:] > ends[:-1], np.maximum(opens[1:], ends[:-1]), opens[1:])
    return opens


def _rows(body: bytes) -> tuple[Column, ...]:
    found = _uniform_rows(body)
    return _each_row(body) if found is None else found


def _uniform_rows(body: bytes) -> tuple[Column, ...] | None:
    """Return the columns of rows without blanks and exponents, whole columns at a time; None for any other text."""
    is_plain = body.startswith(b"[[") and body.endswith(b"]]") and body[2:3].isdigit()
    if not is_plain or b"\n" in body or b"\r" in body or b"[]" in body:
        return None
    lines = body[2:-2].replace(b"],[", b"\n")
    if _LEADING_ZERO.search(lines) or lines[:2].startswith(b"0"):
        return None
    try:
        return parse_csv(lines, _ROW)
    except ReplyError:
        return None


def _each_row(body: bytes) -> tuple[Column, ...]:
    """Return the columns, value by value: for bodies with blanks, with exponents, or with errors."""
    rows = load_json(body, "a JSON list of rows")
    if isinstance(rows, dict):
        _raise_refusal(body)
    if not isinstance(rows, list):
        raise unexpected("a JSON list of rows", body)
    columns: list[list[float]] = [[] for _ in range(5)]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != 5 or type(row[0]) is not int or not 0 < row[0] < _MOST_MS:
            raise wrong_field(f"row {number}", "[time in Unix ms, open, high, low, close]", row)
        columns[0].append(row[0])
        for column, name, value in zip(columns[1:], OHLCV, row[1:], strict=False):
            column.append(_number(value, number, name))
    return (np.array(columns[0], np.int64), *(np.array(column, np.float64) for column in columns[1:]))


def _number(value: object, row: int, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise wrong_field(f"row {row}, field {name}", "a number", value)
    return float(value)


# -- quotes -----------------------------------------------------------------------------------------------------------

# No page states how many coins a request may name; the length of the URL stays below 4 KB.
_MOST_COINS_ASKED = 100


def parse_prices(body: bytes, symbols: Sequence[str]) -> tuple[Ticker, ...]:
    """Return the tickers of these symbols that the reply has; unknown coins and currencies are left out of it.

    The reply states a volume over all exchanges in the currency, made of that in coins at the current price: so divided
    by this price it is that in coins. Raises ReplyError where the body is malformed, or the refusal in the body.
    """
    expected = "a JSON object of prices by coin"
    value = load_quotes(body, expected)
    if not isinstance(value, dict):
        raise unexpected(expected, body)
    _raise_refusal(body)
    found = []
    for symbol in symbols:
        coin, _, currency = symbol.partition("/")
        row = check_row(value.get(coin, {}), f"the prices of {coin}")
        if currency in row:
            place = f"the prices of {coin}"
            price = read_price(row, currency, place)
            traded = read_volume(row, f"{currency}_24h_vol", place)
            volume = traded / price if traded is not None and price is not None else None
            time_ms = read_time_ms(row, "last_updated_at", place, scale=1000)
            found.append(Ticker(symbol, price, volume, time_ms=time_ms))
    return tuple(found)


def _quote_requests(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    return [_quote_request(part) for part in batches(symbols, _MOST_COINS_ASKED)]


def _quote_request(symbols: tuple[str, ...]) -> QuoteRequest:
    """Return the request for all of these coins in all of their currencies."""
    coins, currencies = (
        ",".join(dict.fromkeys(symbol.split("/")[at] for symbol in symbols)) for at in (0, 1)
    )  # a blank after a comma would drop the coin
    params = (
        ("ids", coins), ("vs_currencies", currencies), ("include_24hr_vol", "true"),
        ("include_last_updated_at", "true"), ("precision", "full"),
    )  # fmt: skip
    return QuoteRequest(symbols, Call("/api/v3/simple/price", params), partial(parse_prices, symbols=symbols))


# -- symbols ----------------------------------------------------------------------------------------------------------


def _symbol(text: str, kind: str) -> str:
    """Return the coin's id and the currency (usd by default) in small letters, such as bitcoin-cash/eur.

    Raises InputError for other text. A dash is part of an id, so that only / separates the two.
    """
    match = _SYMBOL.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if match is None:
        raise not_a_symbol(TITLE, text, "the id of a coin and a currency, such as bitcoin/usd or bitcoin-cash/eur")
    return f"{match[1]}/{match[2] or 'usd'}"


def parse_listing(body: bytes) -> Listing:
    """Return every coin, quoted in dollars; its symbol is made of its id, since tickers (the base) are not unique."""
    if len(body) > _MOST_LIST_BYTES or body.count(b"[") + body.count(b"{") > 2 * _MOST_COINS:
        raise too_large(body, most_bytes=_MOST_LIST_BYTES, most_brackets=2 * _MOST_COINS)
    coins = load_json(body, "a JSON list of coins")
    if isinstance(coins, dict):
        _raise_refusal(body)
    if not isinstance(coins, list):
        raise unexpected("a JSON list of coins", body)
    return Listing((), tuple(listed for coin in coins if (listed := _listed(coin)) is not None))


def _listed(coin: Any) -> Listed | None:
    """Return the coin; None where its id cannot be requested."""
    name, ticker = (coin.get("id"), coin.get("symbol")) if isinstance(coin, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(ticker, str):
        raise ReplyError(f"expected a coin with id and symbol, got {brief(coin)}")
    if not re.fullmatch(_COIN, name):
        return None
    try:
        base = checked_name(ticker)
    except ValueError:  # tickers are free text
        base = name
    symbol = f"{name}/usd"
    return Listed(symbol, symbol, base.upper(), "USD", "listed", True)


# -- refusals ---------------------------------------------------------------------------------------------------------

# What to do, by the codes of "Common Errors & Rate Limit".
_FIXES = {
    10002: f"Get a key at {KEY_PAGE}, and give it as api_keys={{'coingecko': {{'demo_key': …}}}}",
    10005: "Request 30m, 4h or 4d, which every plan has, or take a paid plan and set plan='pro'",
    10010: "The key belongs to a paid plan: set plan='pro', and give the key as 'pro_key'",
    10011: "The key belongs to the Demo plan: set plan='demo', and give the key as 'demo_key'",
    10012: "Request the last 365 days, or take a paid plan and set plan='pro'",
}


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a reply: by its code if it has one, else by its status and message."""
    code, said = _said(reply.body)
    reply = reply._replace(status=status_of(reply.status, code))
    words = facts_of(reply.status, said, code)
    if reply.status == 429:
        asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
        pause_s = asked_s or 60.0  # requests are counted by the minute
        return RateLimited(f"{TITLE} asks for a pause of {pause_s:g} s ({words})", retry_after_s=pause_s)
    if code in _FIXES:
        return AccessDenied(f"{TITLE} refused access ({words})", fix=_FIXES[code], status=reply.status)
    if reply.status == 401:
        return AccessDenied(
            f"{TITLE} refused the key ({words})",
            fix="Check the key for coingecko in api_keys, and the setting plan",
            status=401,
        )
    if reply.status == 403:
        return refused_by_firewall(TITLE)
    if said in ("coin not found", "invalid vs_currency") and reply.status in (200, 400, 404, 422):
        return UnknownSymbol(symbol, TITLE)
    return by_status(TITLE, reply, symbol, now_ms, said)


def _raise_refusal(body: bytes) -> None:
    """Raise the refusal that the body holds. An error object counts even with status 200."""
    if _said(body)[1]:
        raise refusal(Reply(200, {}, body, 0.0), "", 0)  # the caller knows the symbol, and adds it


def _said(body: bytes) -> tuple[int | None, str]:
    """Return the code and the message of an error object; None and "" for another body.

    An error object is {"error": …} or {"status": {"error_code": …, "error_message": …}}.
    """
    value = error_object(body)
    error = value.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else value
    status = inner.get("status")
    facts: dict[str, Any] = status if isinstance(status, dict) else inner
    code, said = facts.get("error_code"), facts.get("error_message", facts.get("error"))
    return (
        code if type(code) is int and abs(code) < 10**6 else None,
        said if isinstance(said, str) else "",
    )


# -- the provider -----------------------------------------------------------------------------------------------------

_FEED = Feed(
    timeframes=tuple(_DAYS),
    columns=COLUMNS,
    call=_call,
    parse=parse_candles,
    limit=_MOST_ROWS,
    replies_with_all=True,
    probe="4h",
    finality=FINALITY,
    final_until=final_until,
    depth=lambda series: _DEPTHS[series.timeframe.name],
)


def _configure(settings: Mapping[str, str]) -> Provider:
    if settings.get("plan", "demo") == "demo":
        return PROVIDER
    return replace(
        PROVIDER,
        hosts=("https://pro-api.coingecko.com",),
        keys=(Key("pro_key", "COINGECKO_PRO_API_KEY", header="x-cg-pro-api-key"),),
        default_limits=(Limit(250, 60),),  # of the smallest plan
    )


PROVIDER = Provider(
    name="coingecko",
    hosts=("https://api.coingecko.com",),
    feeds={"candles": _FEED},
    listing=Question(Call("/api/v3/coins/list"), parse_listing),
    # The lower of two limits of the Demo plan: the pricing page says 30, the page of errors 100. Without a key it is
    # even lower, per address, and a 429 says so.
    default_limits=(Limit(30, 60),),
    refusal=refusal,
    provider_symbol=_symbol,
    keys=(Key("demo_key", "COINGECKO_DEMO_API_KEY", header="x-cg-demo-api-key", is_needed=False),),
    key_page=KEY_PAGE,
    settings=(Setting("plan", ("demo", "pro"), is_of_series=False),),
    configure=_configure,
    # A price is an index of the prices on many exchanges.
    quotes=QuoteFeed(_quote_requests, Always("crypto"), TITLE),
)

PROVIDERS = (PROVIDER,)
