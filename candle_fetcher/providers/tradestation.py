"""TradeStation: US stocks, futures and crypto pairs.

A time stamp is the end of its candle; for a daily candle, that is the close of its session. This module lets daily
candles open at midnight in New York, weekly ones on Monday and monthly ones on the first, so that the date of the open
time is that of the session. The current candle comes with the others; its BarStatus is `Open`. There is no row for an
interval without trades.

No page says whether firstdate and lastdate are inclusive, or whether they mean the start or the end of a candle. So a
call asks for a fixed window and one more day on both sides. Candles of 60 minutes begin with the session, at half past
nine, and are not offered here: candles of 1h are made of candles of 30m.
Sources: api.tradestation.com/docs (barcharts, rate-limiting/historical-bar, authentication), and its OpenAPI as in
mxcoppell/tradestation-api-ts docs (2026). No reply of the real service was available.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from candle_fetcher.core.call import Call, Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import OHLCV, Candles, Int64s, candles_from
from candle_fetcher.core.errors import (
    AccessDenied,
    ProviderRefused,
    RateLimited,
    ReplyError,
    UnknownSymbol,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.faults import too_large, unexpected, wrong_field
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.gap import iso
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.objects import parse_uniform, read_objects
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, Timeframe
from candle_fetcher.core.zones import NEW_YORK, zone
from candle_fetcher.providers.base import Feed, Key, Provider, Setting, Token
from candle_fetcher.providers.quoting import (
    QuoteFeed,
    QuoteRequest,
    batches,
    check_row,
    load_quotes,
    named_once,
    read_moment_ms,
    read_name,
    read_price,
    read_volume,
)
from candle_fetcher.providers.refusals import by_status, error_object, facts_of, not_a_symbol

TITLE = "TradeStation"
COLUMNS = ("open_time", *OHLCV)
KEY_PAGE = "https://api.tradestation.com/docs/fundamentals/authentication/auth-overview"
SESSIONS = ("Default", "USEQPre", "USEQPost", "USEQPreAndPost", "USEQ24Hour")

# No page states how soon a bar is available.
FINALITY = Finality(delay_ms=0, late_rows_ms=HOUR_MS, source="the bar's own BarStatus (barcharts)")

_MINUTES = {"1m": "1", "5m": "5", "15m": "15", "30m": "30"}
_UNITS = {"1d": "Daily", "1w": "Weekly", "1M": "Monthly"}
# "57,600 bars, regardless of the bar interval", and "three calendar years of minute bar data": a window of this many
# slots stays below both. The newest window is requested again while it grows.
_WINDOW_SLOTS = 5_000
_MOST_ROWS = 57_600
# An object has some 400 bytes.
_MOST_BYTES = 32 * 2**20
_MOST_ERROR_BYTES = 2**16
_FIELDS = {"TimeStamp": "t", "Open": "q", "High": "q", "Low": "q", "Close": "q", "TotalVolume": "q"}
# Futures (@ES), indices ($SPX.X), classes of shares (BRK.B), pairs (BTCUSD).
_SYMBOL = re.compile(r"[@$]?[A-Z0-9][A-Z0-9]{0,19}(?:\.[A-Z0-9]{1,8}){0,2}")
_PAIR = re.compile(r"([A-Z0-9]{2,10})[/-]([A-Z]{3,5})")
# "symbollists/cryptopairs": pairs are quoted in dollars.
_JOINED = re.compile(r"([A-Z0-9]{3,10})(USD|USDC|USDT)")


# -- calls ------------------------------------------------------------------------------------------------------------


def _window(series: Series, ms: int) -> Span:
    """Return the 5000 slots, counted from 1970, that hold the instant."""
    timeframe = series.timeframe
    first = timeframe.ordinal(ms) // _WINDOW_SLOTS * _WINDOW_SLOTS
    return Span(timeframe.open_ms(first), timeframe.open_ms(first + _WINDOW_SLOTS))


def _call(series: Series, span: Span, rows: int) -> Call:
    name = series.timeframe.name
    window = _window(series, span.start_ms)
    params = [
        ("interval", _MINUTES.get(name, "1")),
        ("unit", _UNITS.get(name, "Minute")),
        ("firstdate", iso(max(0, window.start_ms - DAY_MS))),
    ]
    # A window of days or longer candles ends far in the future: its call has no end, which means now.
    params += [("lastdate", iso(window.end_ms + DAY_MS))] if name in _MINUTES else []
    params += [("sessiontemplate", dict(series.settings).get("session", SESSIONS[0]))]
    return Call(f"/v3/marketdata/barcharts/{series.symbol}", tuple(params))


# -- replies ----------------------------------------------------------------------------------------------------------


def parse_candles(body: bytes, series: Series) -> Candles:
    """Return candles in the order sent, including the current one.

    Raises ReplyError where the body is not an object with Bars, or the refusal in the body.
    """
    if len(body) > _MOST_BYTES:
        raise too_large(body, most_bytes=_MOST_BYTES)
    found = _read_uniform(body)
    ends, *prices = _read_each(body) if found is None else found
    return candles_from(COLUMNS, [_opens_ms(ends, series.timeframe), *prices])


def final_until(body: bytes, candles: Candles) -> int:
    """Return the open time of the first bar with the status Open; FOREVER_MS where all are Closed.

    Raises ReplyError where a bar has no status.
    """
    statuses = _STATUS.findall(body)
    if len(statuses) != candles.count:
        raise ReplyError(f"expected a BarStatus in each of {candles.count:,} bars, got {len(statuses):,} of them")
    return int(candles.open_ms[statuses.index(b"Open")]) if b"Open" in statuses else FOREVER_MS


def _opens_ms(ends_ms: Int64s, timeframe: Timeframe) -> Int64s:
    """Return the open times of candles that end at these times."""
    if timeframe.name in _MINUTES:
        return ends_ms - timeframe.nominal_ms
    eastern = zone(NEW_YORK)
    # A candle that ends at midnight belongs to the day before.
    local_ms = eastern.to_local(ends_ms - 1)
    return eastern.to_utc(timeframe.opens_ms(timeframe.ordinals(local_ms)))


_STATUS = re.compile(rb'"BarStatus"[ \t\r\n]*:[ \t\r\n]*"(Open|Closed)"')
_BARS = re.compile(rb'\{"Bars":\[(?=\{)')


def _read_uniform(body: bytes) -> list[Any] | None:
    """Return times, prices and volumes, whole columns at a time; None where the bars do not all have one layout.

    The last bar differs from the others ("IsEndOfHistory":true), and is read on its own.
    """
    body = body.rstrip(b" \t\r\n")
    head = _BARS.match(body)
    at = body.rfind(b",{")
    if head is None or at < 0 or not body.endswith(b"}]}"):
        return None
    bars = body[head.end() : at]
    # Bars of one layout have the same texts, so that the status of the first bar is that of all.
    columns = parse_uniform(bars, _FIELDS) if b'"BarStatus":"Closed"' in bars.partition(b"}")[0] else None
    if columns is None or len(columns) < len(_FIELDS):
        return None
    newest = _read_each(b'{"Bars":[' + body[at + 1 :])
    return [np.concatenate(pair) for pair in zip((columns[name] for name in _FIELDS), newest, strict=True)]


def _read_each(body: bytes) -> list[Any]:
    """Return times, prices and volumes, bar by bar. Raises ReplyError for a malformed bar, or the body's refusal."""
    if body.count(b"{") + body.count(b"[") > _MOST_ROWS + 100:
        raise too_large(body, most_brackets=_MOST_ROWS + 100)
    value = load_json(body, "a JSON object with Bars")
    bars = value.get("Bars") if isinstance(value, dict) else None
    if not isinstance(bars, list):
        _raise_refusal(body)
        raise unexpected("a JSON object with Bars", body)
    for number, bar in enumerate(bars, 1):
        status = bar.get("BarStatus") if isinstance(bar, dict) else None
        if status not in ("Open", "Closed"):
            raise wrong_field(f"row {number}, field BarStatus", "Open or Closed", bar if status is None else status)
    columns = read_objects(bars, _FIELDS)
    return [columns[name] for name in _FIELDS]


# -- refusals ---------------------------------------------------------------------------------------------------------


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a refused request, by the status, the kind of error, and for a symbol by the message."""
    kind, said = _said(reply.body)
    words = facts_of(reply.status, ": ".join(filter(None, [kind[:40], said])))
    is_quota = reply.status == 403 and b"quota exceeded" in reply.body[:_MOST_ERROR_BYTES].lower()
    if reply.status == 429 or is_quota or kind == "TooManyRequests":
        asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
        # "Quotas are reset on a 5-minute interval based on when the user issued the first request."
        pause_s = asked_s or 300.0
        return RateLimited(f"{TITLE} asks for a pause of {pause_s:g} s ({words})", retry_after_s=pause_s)
    if reply.status == 401 or kind == "Unauthorized":
        return AccessDenied(
            f"{TITLE} refused the token ({words})",
            fix="Give client_id, client_secret and refresh_token in api_keys of tradestation, or a new access_token",
            status=reply.status,
        )
    if reply.status == 403 or kind == "Forbidden":
        return AccessDenied(
            f"{TITLE} refused access ({words})",
            fix="Check that the key has the scope MarketData, and that the account includes the data of that exchange",
            status=reply.status,
        )
    if reply.status in (200, 400, 404) and ("symbol" in said.lower() or kind == "NotFound"):
        return UnknownSymbol(symbol, TITLE)
    if reply.status == 200:
        return ProviderRefused(f"{TITLE} refused the request ({words})", status=200, said=said)
    return by_status(TITLE, reply, symbol, now_ms, said)


def _raise_refusal(body: bytes) -> None:
    """Raise the refusal that the body holds. An error object counts even with status 200."""
    if any(_said(body)):
        raise refusal(Reply(200, {}, body, 0.0), "", 0)  # the caller knows the symbol, and adds it


def _said(body: bytes) -> tuple[str, str]:
    """Return the kind and the message of an error object, such as {"Error": "BadRequest", "Message": …}; else ""."""
    value = error_object(body)
    kind, said = value.get("Error"), value.get("Message")
    return kind if isinstance(kind, str) else "", said if isinstance(said, str) else ""


# -- symbols ----------------------------------------------------------------------------------------------------------


def _symbol(text: str, kind: str) -> str:
    symbol = text.strip().upper() if isinstance(text, str) else ""
    pair = _PAIR.fullmatch(symbol)
    if pair is not None:
        return pair[1] + pair[2]
    if not _SYMBOL.fullmatch(symbol):
        raise not_a_symbol(TITLE, text, "one such as MSFT, BRK.B, @ES or BTC/USD")
    return symbol


def _unified(symbol: str) -> str:
    pair = _JOINED.fullmatch(symbol)
    return symbol if pair is None else f"{pair[1]}/{pair[2]}"


def _calendar(series: Series) -> str | None:
    """Return the exchange that has the sessions of the candles; None for pairs, futures and indices."""
    return "XNYS" if series.symbol[0] not in "@$" and _unified(series.symbol) == series.symbol else None


# -- quotes -----------------------------------------------------------------------------------------------------------

# "A maximum of 100 symbols may be specified"; "250 requests per 5 minutes", apart from those for bars.
_MOST_SYMBOLS = 100
_QUOTE_LIMITS = (Limit(250, 300),)
# A contract of a future, such as ESZ26.
_CONTRACT = re.compile(r"[A-Z]{1,4}[FGHJKMNQUVXZ][0-9]{2}")
_MOST_REFUSAL = 200


def type_of(symbol: str) -> str:
    """Return what the symbol is. An index counts as a stock."""
    if symbol.startswith("@") or _CONTRACT.fullmatch(symbol):
        return "future"
    return "stock" if _unified(symbol) == symbol else "crypto"


def parse_quotes(body: bytes, symbols: Sequence[str]) -> tuple[Ticker, ...]:
    """Return the tickers of these symbols; one that is refused has the reason. Any field may be absent.

    Volumes are those of the day. Raises ReplyError where the body is malformed, or the refusal in the body.
    """
    expected = "a JSON object with Quotes"
    value = load_quotes(body, expected)
    if not isinstance(value, dict) or not {"Quotes", "Errors"} & value.keys():
        _raise_refusal(body)
        raise unexpected(expected, body)
    lists = [value.get(name, []) for name in ("Quotes", "Errors")]
    if not all(isinstance(rows, list) for rows in lists):
        raise unexpected(f"{expected} and Errors, two lists", body)
    found, wanted = [], frozenset(symbols)
    for rows, read in zip(lists, (_quote, _refused), strict=True):
        for number, one in enumerate(rows, 1):
            row = check_row(one, f"row {number}")
            symbol = read_name(row, "Symbol", f"row {number}").upper()
            if symbol in wanted:
                found.append(read(symbol, row, f"row {number}"))
    return named_once(found)


def _quote(symbol: str, row: Mapping[str, Any], place: str) -> Ticker:
    kind = type_of(symbol)
    last, bid, ask = (read_price(row, name, place, below_zero=kind == "future") for name in ("Last", "Bid", "Ask"))
    volume, flags = read_volume(row, "Volume", place), check_row(row.get("MarketFlags") or {}, place)
    return Ticker(
        symbol,
        last,
        volume if kind == "stock" else None,
        bid,
        ask,
        read_moment_ms(row, "TradeTime", place),
        exchange=f"{TITLE}, 15 minutes delayed" if flags.get("IsDelayed") is True else "",
    )


def _refused(symbol: str, row: Mapping[str, Any], place: str) -> Ticker:
    said = row.get("Error")
    return Ticker(symbol, refusal=f"{said}"[:_MOST_REFUSAL] if isinstance(said, str) and said else "no reason given")


def _quote_requests(
    symbols: Sequence[str], settings: Mapping[str, str], most: int = _MOST_SYMBOLS
) -> list[QuoteRequest]:
    return [
        QuoteRequest(part, Call(f"/v3/marketdata/quotes/{','.join(part)}"), partial(parse_quotes, symbols=part))
        for part in batches(symbols, most)
    ]


# -- the token --------------------------------------------------------------------------------------------------------

# "access tokens … expire after 20 minutes".
_TOKEN_S = 1200
_MOST_TOKEN_S = 86_400


def _ask_token(keys: Mapping[str, str]) -> tuple[Call, Keys] | None:
    """Return the call for an access token and the keys to send; None without a client id or a refresh token."""
    if not keys.get("client_id") or not keys.get("refresh_token"):
        return None
    params = tuple((name, keys[name]) for name in ("client_id", "client_secret", "refresh_token") if keys.get(name))
    return Call("/oauth/token", (("grant_type", "refresh_token"),), is_form=True), Keys(params=params)


def parse_token(body: bytes) -> tuple[Mapping[str, str], float]:
    """Return the new access token, with a new refresh token if it changed, and the seconds for which it is valid.

    Raises ReplyError, which never shows the body, where there is no token.
    """
    value = error_object(body)
    found = {name: value[name] for name in ("access_token", "refresh_token") if value.get(name)}
    seconds = value.get("expires_in", _TOKEN_S)
    fine = all(isinstance(value, str) and value.isascii() and value.isprintable() for value in found.values())
    if "access_token" not in found or not fine or type(seconds) is not int or not 0 < seconds <= _MOST_TOKEN_S:
        # The body is not shown: it may hold a token.
        raise ReplyError(f"expected an access token, got {len(body):,} bytes without one")
    return found, float(seconds)


# -- the provider -----------------------------------------------------------------------------------------------------

PROVIDER = Provider(
    name="tradestation",
    hosts=("https://api.tradestation.com",),
    feeds={
        "candles": Feed(
            timeframes=(*_MINUTES, *_UNITS),
            columns=COLUMNS,
            call=_call,
            parse=parse_candles,
            limit=_WINDOW_SLOTS,
            window=_window,
            has_empty_bars=False,
            finality=FINALITY,
            final_until=final_until,
            zone=lambda series: NEW_YORK,
            replies_with_all=True,
        )
    },
    # "the overall rate limit of 500 bar chart requests per 5 minutes"; its window begins with the first request.
    default_limits=(Limit(500, 300),),
    refusal=refusal,
    provider_symbol=_symbol,
    unified=_unified,
    calendar=_calendar,
    keys=(
        Key("access_token", "TRADESTATION_ACCESS_TOKEN", header="Authorization", prefix="Bearer ", is_needed=False),
        Key("client_id", "TRADESTATION_CLIENT_ID", is_needed=False),
        Key("client_secret", "TRADESTATION_CLIENT_SECRET", is_needed=False),
        Key("refresh_token", "TRADESTATION_REFRESH_TOKEN", is_needed=False),
    ),
    key_page=KEY_PAGE,
    token=Token("tradestation-signin", "https://signin.tradestation.com", _ask_token, parse_token),
    settings=(Setting("session", SESSIONS),),
    quotes=QuoteFeed(_quote_requests, type_of, TITLE, partial(_quote_requests, most=1), _QUOTE_LIMITS),
)

PROVIDERS = (PROVIDER,)
