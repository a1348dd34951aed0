"""Binance: spot, Binance.US, USDⓈ-M and COIN-M futures, over REST.

Both bounds of a call are inclusive on open time. Spot and USDⓈ-M answer with the oldest candles of a window that holds
more than the limit, COIN-M with the newest, and COIN-M refuses windows above 200 days (-4088). An interval without
trades has a row; a missing row is an outage, a time before the listing or after the delisting.
Sources: binance-spot-api-docs rest-api.md, errors.md; binance-connector-python derivatives_trading_* (2026).
"""

from __future__ import annotations

import datetime as dt
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from candle_fetcher.core.call import Call, Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.decimals import Column, load_json, parse_rows
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    InputError,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
    UnknownSymbol,
    shown,
)
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS
from candle_fetcher.providers.base import (
    Answer,
    Archive,
    Feed,
    Funding,
    Listed,
    Listing,
    Provider,
    Question,
    of_seconds,
    status_of,
)
from candle_fetcher.providers.binance_archive import ARCHIVE
from candle_fetcher.providers.binance_funding import CM_FUNDING, UM_FUNDING
from candle_fetcher.providers.binance_klines import COIN_COLUMNS, KLINE, KLINE_COLUMNS, coin_candles, kline_candles

# No page states how long a candle may change after its close; it was seen to for less than two seconds as a rule, and
# for some 40 s once. An outage has no rows, and one that is late by more than a minute was not seen.
FINALITY = Finality(
    delay_ms=2_000, late_ms=MINUTE_MS, source="observed: no page states it; later corrections are read once more"
)

TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
SPOT_TIMEFRAMES = ("1s", *TIMEFRAMES)

_PLAUSIBLE_MS = (1_483_228_800_000, 4_102_444_800_000)  # a clock of the years 2017 to 2099
# Codes of errors.md that say "again later" whatever the status; 5xx and 408 say so by themselves.
_TRANSIENT = frozenset({-1000, -1001, -1006, -1007, -1008})
# TOO_MANY_REQUESTS, TOO_MANY_CONNECTIONS.
_PAUSE_CODES = frozenset({-1003, -1034})
# UNAUTHORIZED, BAD_API_ID, BAD_API_KEY_FMT, REJECTED_MBX_KEY; with 401 or without.
_KEY_CODES = frozenset({-1002, -2008, -2014, -2015})
# 1500 rows are some 0.3 MB. Spot's exchangeInfo of 3,400 symbols has a million values in 16 MB. Beyond these bounds a
# body is not decoded: a few bytes of JSON become a hundred in memory.
_MOST_ROW_BYTES = 2 * 2**20
_MOST_VALUES = 2_500_000
_MOST_CONTAINERS = 500_000
_MOST_ERROR_BYTES = 2**16
_MOST_LIMIT = 10**9
_MOST_NAME = 60
_LONGEST_BAN_S = 3 * 86_400
_LIMIT_KINDS = {"REQUEST_WEIGHT": "weight", "RAW_REQUESTS": "requests"}
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}
# Longest first, for ids that are not in a listing at hand; a listing knows better.
_QUOTES = (
    "FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USDP", "USD1", "BKRW", "BIDR", "IDRT", "BVND", "USDS", "EURI", "RLUSD",
    "DAI", "PAX", "UST", "VAI", "BTC", "ETH", "BNB", "TRX", "XRP", "DOT", "DOGE", "SOL", "EUR", "GBP", "AUD", "BRL",
    "TRY", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "JPY", "MXN", "COP", "CZK", "IDR", "USD",
)  # fmt: skip
# BNBUSD and DOTUSD are no pairs of BUSD and TUSD: Binance.US trades in dollars, and COIN-M in nothing else.
_US_QUOTES = ("USDT", "USDC", "DAI", "BTC", "ETH", "BNB", "USD")
_CM_QUOTES = ("USD",)
_SYMBOL = re.compile(r"[^\W_]\w{0,39}(?:[/-]\w{1,20})?")


def parse_candles(body: bytes, series: Series | None = None) -> Candles:
    """Candles in the order sent; volumes in base and quote units. Raises ReplyError where a row is not of 12 fields."""
    return kline_candles(_read(body, _rows))


def parse_coin_candles(body: bytes, series: Series | None = None) -> Candles:
    """Candles of COIN-M: `volume` in contracts, `base_volume` in the base asset, no quote volume."""
    return coin_candles(_read(body, _rows))


def _rows(body: bytes) -> tuple[Column, ...]:
    return parse_rows(body, KLINE)


def _read(body: bytes, parse: Callable[[bytes], Answer]) -> Answer:
    """The parsed body of rows. Where it is none, what it refuses is raised."""
    if len(body) > _MOST_ROW_BYTES:
        raise ReplyError(f"a reply of {len(body):,} bytes; rows can be {_MOST_ROW_BYTES:,} at most: {body[:80]!r}")
    try:
        return parse(body)
    except ReplyError:
        _raise_refusal(body)
        raise


def parse_clock(body: bytes) -> int:
    """The provider's clock in Unix ms."""
    server_ms = _object(body).get("serverTime")
    if type(server_ms) is not int or not _PLAUSIBLE_MS[0] <= server_ms <= _PLAUSIBLE_MS[1]:
        raise ReplyError(f"expected a serverTime in ms, got {body[:80]!r}")
    return server_ms


def parse_listing(body: bytes) -> Listing:
    """Request limits and symbols from exchangeInfo. COIN-M calls the status contractStatus.

    A limit that is malformed, or not a whole number above 0 for a day at most, is one of 0, which the limiter does not
    obey: it takes nothing from the symbols.
    """
    info = _object(body)
    try:
        limits = tuple(limit for entry in info["rateLimits"] if (limit := _limit(entry)) is not None)
        symbols = tuple(_listed(entry) for entry in info["symbols"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReplyError(f"exchangeInfo lacks {str(error)[:80]} or has another shape: {body[:80]!r}") from error
    return Listing(limits, symbols)


def _limit(entry: Any) -> Limit | None:
    """The limit; one of 0 where it is malformed, None where it is not one of requests."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind = fields.get("rateLimitType")
    if not isinstance(kind, str):
        return Limit(0, 60)
    if kind not in _LIMIT_KINDS:
        return None
    cost, count, unit = fields.get("limit"), fields.get("intervalNum"), fields.get("interval")
    unit_s = _SECONDS.get(unit, 0) if isinstance(unit, str) else 0
    if type(cost) is not int or type(count) is not int or cost <= 0 or not 0 < count * unit_s <= _SECONDS["DAY"]:
        return Limit(0, 60, _LIMIT_KINDS[kind])
    return Limit(min(cost, _MOST_LIMIT), count * unit_s, _LIMIT_KINDS[kind])


def _listed(entry: dict[str, Any]) -> Listed:
    status = _name(entry.get("status", entry.get("contractStatus", "unknown")))
    provider_symbol, base, quote = _name(entry["symbol"]), _name(entry["baseAsset"]), _name(entry["quoteAsset"])
    # A delivery contract shares base and quote with the perpetual: its own id is its only name.
    perpetual = entry.get("contractType", "PERPETUAL") in ("PERPETUAL", "TRADIFI_PERPETUAL", "PERPETUAL DELIVERING")
    return Listed(
        symbol=f"{base}/{quote}" if perpetual else provider_symbol,
        provider_symbol=provider_symbol,
        base=base,
        quote=quote,
        status=status,
        trading=status in ("TRADING", "TRADING_HALT", "HALT", "CANCEL_ONLY", "PRE_DELIVERING"),
    )


def _name(text: object) -> str:
    """The text, if it can be a name. Names end up in messages and in cells: none may command a terminal, or begin as a
    spreadsheet's formula does (= + - @, tab)."""
    if not isinstance(text, str) or len(text) > _MOST_NAME or not text.isprintable() or not text[:1].isalnum():
        raise ValueError(f"a name, not {reprlib.repr(text)},")
    return text


def _object(body: bytes) -> dict[str, Any]:
    value = _decoded(body)
    if not isinstance(value, dict):
        raise ReplyError(f"expected a JSON object, got {body[:80]!r}")
    _raise_refusal(body)
    return value


def _decoded(body: bytes) -> Any:
    if body.count(b",") > _MOST_VALUES or body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS:
        raise ReplyError(f"a reply of {len(body):,} bytes with more values than any has: {body[:80]!r}")
    return load_json(body, "a JSON object")


def _raise_refusal(body: bytes) -> None:
    """Raises what the body refuses; an error object counts as one with status 200, too."""
    code, said = _code(body)
    if code is not None and said:
        # The caller knows the symbol, and puts it in.
        raise refusal(Reply(200, {}, body, 0.0), "", 0)


def used_weight(headers: Mapping[str, str]) -> int | None:
    """The weight that the address has used in the current minute, this call included."""
    text = headers.get("x-mbx-used-weight-1m") or headers.get("x-mbx-used-weight") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def refusal(reply: Reply, symbol: str, now_ms: int, *, has_archive: bool = True) -> Exception:
    """The error that a reply with a status other than 200, or an error object, stands for. Told by status and code,
    never by the text."""
    code, said = _code(reply.body)
    status = status_of(reply.status, code)
    # The provider's words are shown escaped: they may hold anything.
    words = f": {said[:160]!r}"[:200] if said else ""
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    if status == 418:
        until_s = _ban_end_s(said, asked_s, now_ms)
        until = dt.datetime.fromtimestamp(until_s, dt.timezone.utc)
        return Banned(
            f"Binance has banned this address until {until:%Y-%m-%d %H:%M:%S} UTC; nothing is sent before",
            until=until,
            retry_after_s=asked_s,
        )
    if status == 429 or code in _PAUSE_CODES:
        return RateLimited(f"Binance asks for a pause{of_seconds(asked_s)}{words}", retry_after_s=asked_s)
    elsewhere = "; source='archive' has all but the newest days" if has_archive else ""
    if status == 451:
        return AccessDenied(
            f"Binance does not serve this region (451){words}",
            fix=f"Use data from another provider, such as binance-us, or run where Binance is available{elsewhere}",
            status=451,
        )
    if status == 403:
        return AccessDenied(
            "Binance's firewall refused the request (403)",
            fix="Wait some minutes, and send less often from this address; a proxy or VPN in between can cause it "
            f"too{elsewhere}",
            status=403,
        )
    if status == 401 or code in _KEY_CODES:
        return AccessDenied(f"Binance refused the key ({status}){words}", fix="Check api_keys", status=status)
    if status >= 500 or status == 408 or code in _TRANSIENT:
        return TransportError(f"Binance could not answer (status {status}){words}", status=status)
    if code in (-1121, -1122):
        return UnknownSymbol(symbol, "Binance")
    shown_code = "" if code is None else f", code {code}"
    return ProviderRefused(
        f"Binance refused the request (status {status}{shown_code}){words}", status=status, code=code, said=said
    )


def _code(body: bytes) -> tuple[int | None, str]:
    """Code and message of an error object; None and nothing where the body is none."""
    if len(body) > _MOST_ERROR_BYTES:
        return None, ""
    try:
        value = load_json(body, "a JSON object")
    except ReplyError:
        return None, ""
    if not isinstance(value, dict):
        return None, ""
    code, said = value.get("code"), value.get("msg")
    return (
        code if type(code) is int and abs(code) <= _MOST_LIMIT else None,
        said if isinstance(said, str) else "",
    )


def _ban_end_s(said: str, asked_s: float | None, now_ms: int) -> float:
    """Unix seconds; from the message, which gives it in ms, else from Retry-After. At most three days ahead: Binance
    gives no longer ban."""
    ends = re.findall(r"\b1[0-9]{12}\b", said)
    if ends:
        return min(int(ends[-1]) / 1000, now_ms / 1000 + _LONGEST_BAN_S)
    # Two minutes is the shortest ban that Binance gives.
    return now_ms / 1000 + min(asked_s or 120, _LONGEST_BAN_S)


def _spot_symbol(text: str, kind: str) -> str:
    if isinstance(text, str) and "/" in text.partition(":")[0] and ":" in text:
        raise InputError(
            f"{shown(text)} is not a symbol of a spot market; expected BASE/QUOTE such as BTC/USDT; perpetuals are "
            "symbols of binance-um, such as BTC/USDT:USDT, and of binance-cm, such as BTC/USD:BTC"
        )
    return _checked(text).replace("/", "").replace("-", "")


def _um_symbol(text: str, kind: str) -> str:
    symbol = _checked(_of_perpetual(text, settled_in=1)).replace("/", "").replace("-", "")
    # Index candles belong to the pair: a delivery contract shares them with the perpetual.
    return symbol.partition("_")[0] if kind == "index" else symbol


def _cm_symbol(text: str, kind: str) -> str:
    symbol = _checked(_of_perpetual(text, settled_in=0)).replace("/", "").replace("-", "")
    if kind == "index":
        return symbol.partition("_")[0]
    return symbol if "_" in symbol else f"{symbol}_PERP"


def _of_perpetual(text: str, *, settled_in: int) -> str:
    """Return the pair of `BTC/USDT:USDT`, the perpetual as ccxt writes it; other texts as they are. `settled_in` says
    which part of the pair such a contract is settled in."""
    pair, colon, settle = text.strip().upper().partition(":") if isinstance(text, str) else ("", "", "")
    if not colon:
        return text
    parts = pair.split("/")
    if len(parts) != 2 or parts[settled_in] != settle:
        raise InputError(
            f"{shown(text)} is no perpetual of this provider; expected such as "
            f"{('BTC/USD:BTC', 'BTC/USDT:USDT')[settled_in]}; binance-um settles in the quote, binance-cm in the base"
        )
    return pair


def _checked(text: str) -> str:
    symbol = text.strip().upper() if isinstance(text, str) else ""
    if not _SYMBOL.fullmatch(symbol):
        given = shown(text)
        raise InputError(f"{given} is not a symbol; expected BASE/QUOTE such as BTC/USDT, or the provider's own id")
    return symbol


def _unified(provider_symbol: str, quotes: tuple[str, ...]) -> str:
    name = provider_symbol.removesuffix("_PERP")
    if "_" in name:
        return name
    for quote in quotes:
        if name.endswith(quote) and len(name) > len(quote):
            return f"{name[: -len(quote)]}/{quote}"
    return name


def _spot_cost(rows: int) -> int:
    return 2  # "Weight: 2", whatever the limit (rest-api.md, since 2023-08-25)


def _futures_cost(rows: int) -> int:
    return 1 if rows < 100 else 2 if rows < 500 else 5 if rows <= 1000 else 10


def _feed(
    path: str,
    *,
    timeframes: tuple[str, ...] = TIMEFRAMES,
    columns: tuple[str, ...] = KLINE_COLUMNS,
    parse: Callable[[bytes, Series], Candles] = parse_candles,
    cost: Callable[[int], int] = _futures_cost,
    limit: int = 1500,
    name: str = "symbol",
    window_ms: int | None = None,
    since_ms: int = 0,
) -> Feed:
    def call(series: Series, span: Span, rows: int) -> Call:
        params = (
            (name, series.symbol),
            ("interval", series.timeframe.name),
            ("startTime", str(max(span.start_ms, 0))),
            ("endTime", str(span.end_ms - 1)),  # theirs is inclusive, ours is not
            ("limit", str(rows)),
        )
        return Call(path, params, cost(rows))

    def first_call(series: Series) -> Call:
        params = ((name, series.symbol), ("interval", series.timeframe.name), ("startTime", "0"), ("limit", "1"))
        return Call(path, params, cost(1))

    def last_call(series: Series, end_ms: int) -> Call:
        params = (
            (name, series.symbol),
            ("interval", series.timeframe.name),
            ("endTime", str(end_ms - 1)),
            ("limit", "1"),
        )
        return Call(path, params, cost(1))

    return Feed(
        timeframes=timeframes,
        columns=columns,
        call=call,
        parse=parse,
        limit=limit,
        first_call=None if window_ms else first_call,
        last_call=last_call,
        window_ms=window_ms,
        since_ms=since_ms,
        finality=FINALITY,
        off_grid=("3d",),  # anchored per symbol
    )


def _guarded(funding: Funding) -> Funding:
    def parse(body: bytes, symbol: str) -> Candles:
        return _read(body, lambda rows: funding.parse(rows, symbol))

    return replace(funding, parse=parse)


def _futures_feeds(prefix: str, **facts: Any) -> dict[str, Feed]:
    return {
        "candles": _feed(f"{prefix}/klines", **facts),
        "mark": _feed(f"{prefix}/markPriceKlines", **facts),
        "index": _feed(f"{prefix}/indexPriceKlines", name="pair", **facts),
        "premium": _feed(f"{prefix}/premiumIndexKlines", **facts),
    }


def _provider(
    name: str,
    hosts: tuple[str, ...],
    prefix: str,
    feeds: Mapping[str, Feed],
    symbol: Callable[[str, str], str],
    weight: int,
    *,
    info_cost: int = 1,
    by_symbol: bool = False,
    quotes: tuple[str, ...] = _QUOTES,
    archive: Archive | None = ARCHIVE,
    funding: Funding | None = None,
) -> Provider:
    info = f"{prefix}/exchangeInfo"

    def describe(provider_symbol: str) -> Question[Listing]:
        # Spot's whole exchangeInfo is some 10 MB; that of one symbol carries the same limits. Futures take no
        # parameter.
        params = (("symbol", provider_symbol),) if by_symbol else ()
        return Question(Call(info, params, info_cost), parse_listing)

    return Provider(
        name=name,
        hosts=hosts,
        feeds=feeds,
        clock=Question(Call(f"{prefix}/time"), parse_clock),
        describe=describe,
        listing=Question(Call(info, (), info_cost), parse_listing),
        default_limits=(Limit(weight, 60),),
        used=used_weight,
        refusal=partial(refusal, has_archive=archive is not None),
        provider_symbol=symbol,
        unified=lambda provider_symbol: _unified(provider_symbol, quotes),
        archive=archive,
        funding=funding,
    )


_SPOT_FEEDS = {"candles": _feed("/api/v3/klines", timeframes=SPOT_TIMEFRAMES, cost=_spot_cost, limit=1000)}

PROVIDERS = (
    _provider(
        "binance",
        # The second host serves public data only; it answers where the first is out of reach (market_data_only.md).
        ("https://api.binance.com", "https://data-api.binance.vision"),
        "/api/v3",
        _SPOT_FEEDS,
        _spot_symbol,
        6000,
        info_cost=20,
        by_symbol=True,
    ),
    _provider(
        "binance-us",
        ("https://api.binance.us",),
        "/api/v3",
        _SPOT_FEEDS,
        _spot_symbol,
        1200,
        info_cost=20,
        by_symbol=True,
        quotes=_US_QUOTES,
        archive=None,
    ),
    _provider(
        "binance-um",
        ("https://fapi.binance.com",),
        "/fapi/v1",
        _futures_feeds("/fapi/v1"),
        _um_symbol,
        2400,
        funding=_guarded(UM_FUNDING),
    ),
    _provider(
        "binance-cm",
        ("https://dapi.binance.com",),
        "/dapi/v1",
        # COIN-M opened in June 2020; it is asked for its listing window by window, and not from 1970 on.
        _futures_feeds(
            "/dapi/v1",
            columns=COIN_COLUMNS,
            parse=parse_coin_candles,
            window_ms=200 * DAY_MS,
            since_ms=1_577_836_800_000,
        ),
        _cm_symbol,
        2400,
        quotes=_CM_QUOTES,
        funding=_guarded(CM_FUNDING),
    ),
)
