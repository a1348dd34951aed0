"""Binance: spot, Binance.US, USDⓈ-M and COIN-M futures, by REST.

Both bounds of a call are inclusive and refer to open times. Where a window holds more candles than the limit, spot and
USDⓈ-M reply with the oldest ones, COIN-M with the newest; COIN-M refuses windows above 200 days (-4088). An interval
without trades has a row; a missing row means an outage, or a time before the listing or after the delisting.
Sources: binance-spot-api-docs rest-api.md, errors.md; binance-connector-python derivatives_trading_* (2026).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import (
    ReplyError,
)
from candle_fetcher.core.faults import too_large, unexpected
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.rows import parse_rows
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS
from candle_fetcher.providers.base import Answer, Archive, Feed, Funding, Listed, Listing, Provider, Question
from candle_fetcher.providers.binance_archive import ARCHIVE
from candle_fetcher.providers.binance_funding import CM_FUNDING, UM_FUNDING
from candle_fetcher.providers.binance_klines import COIN_COLUMNS, KLINE, KLINE_COLUMNS, coin_candles, kline_candles
from candle_fetcher.providers.binance_quotes import CM_FEED, SPOT_FEED, UM_FEED, US_FEED
from candle_fetcher.providers.binance_refusals import raise_refusal, refusal
from candle_fetcher.providers.binance_streams import CM_STREAMS, SPOT_STREAMS, UM_STREAMS, US_STREAMS
from candle_fetcher.providers.binance_symbols import (
    CM_QUOTES,
    QUOTES,
    US_QUOTES,
    find_cm_symbol,
    find_spot_symbol,
    find_um_symbol,
    unify,
)
from candle_fetcher.providers.quoting import QuoteFeed
from candle_fetcher.providers.refusals import checked_name, wrong_listing
from candle_fetcher.providers.streams import Streams

# No page states how long a candle may change after its close. Changes were observed for up to two seconds, and once for
# some 40 s. During an outage no rows come; no other row was observed to be late by more than a minute.
FINALITY = Finality(
    delay_ms=2_000, late_rows_ms=MINUTE_MS, source="observed: no page states it; later corrections are read once more"
)

TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
SPOT_TIMEFRAMES = ("1s", *TIMEFRAMES)

_PLAUSIBLE_MS = (1_483_228_800_000, 4_102_444_800_000)  # a clock of the years 2017 to 2099
# 1500 rows have some 0.3 MB. Spot's exchangeInfo of 3,400 symbols has a million values in 16 MB. Larger bodies are not
# decoded, since each value takes about a hundred bytes in memory.
_MOST_ROW_BYTES = 2 * 2**20
_MOST_VALUES = 2_500_000
_MOST_CONTAINERS = 500_000
_MOST_LIMIT = 10**9
_LIMIT_KINDS = {"REQUEST_WEIGHT": "weight", "RAW_REQUESTS": "requests"}
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}


def parse_candles(body: bytes, series: Series | None = None) -> Candles:
    """Return candles in the order sent; volumes are in base and quote units.

    Raises ReplyError where the body is not a list of rows with the 12 fields of KLINE, or the refusal in the body.
    """
    return kline_candles(_read(body, _read_klines))


def parse_coin_candles(body: bytes, series: Series | None = None) -> Candles:
    """Return candles of COIN-M: `volume` is in contracts, `base_volume` in the base asset; there is no quote volume.

    Raises what `parse_candles` raises.
    """
    return coin_candles(_read(body, _read_klines))


_read_klines: Callable[[bytes], tuple[Column, ...]] = partial(parse_rows, row=KLINE)


def _read(body: bytes, parse: Callable[[bytes], Answer]) -> Answer:
    """Return what `parse` makes of the body. Raises the refusal that the body holds, if it holds no rows."""
    if len(body) > _MOST_ROW_BYTES:
        raise too_large(body, most_bytes=_MOST_ROW_BYTES)
    try:
        return parse(body)
    except ReplyError:
        raise_refusal(body)
        raise


def parse_clock(body: bytes) -> int:
    """Return the provider's time in Unix ms."""
    expected = "a JSON object with serverTime in Unix ms, of the years 2017 to 2099"
    server_ms = _object(body, expected).get("serverTime")
    if type(server_ms) is not int or not _PLAUSIBLE_MS[0] <= server_ms <= _PLAUSIBLE_MS[1]:
        raise unexpected(expected, body)
    return server_ms


def parse_listing(body: bytes) -> Listing:
    """Return the request limits and symbols of exchangeInfo. The status of a symbol is contractStatus on COIN-M.

    A limit that is malformed, not a whole number above 0, or for more than a day becomes a limit of 0. The limiter
    ignores it, and the symbols can still be read.
    """
    info = _object(body, "exchangeInfo, a JSON object with rateLimits and symbols")
    try:
        limits = tuple(limit for entry in info["rateLimits"] if (limit := _limit(entry)) is not None)
        symbols = tuple(_listed(entry) for entry in info["symbols"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise wrong_listing("exchangeInfo", error, body) from error
    return Listing(limits, symbols)


def _limit(entry: Any) -> Limit | None:
    """Return the limit, with a cost of 0 where it is malformed; None where it does not limit requests."""
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
    status = checked_name(entry.get("status", entry.get("contractStatus", "unknown")))
    provider_symbol, base, quote = (checked_name(entry[name]) for name in ("symbol", "baseAsset", "quoteAsset"))
    # A delivery contract has the base and quote of the perpetual, so that only its id identifies it.
    perpetual = entry.get("contractType", "PERPETUAL") in ("PERPETUAL", "TRADIFI_PERPETUAL", "PERPETUAL DELIVERING")
    return Listed(
        symbol=f"{base}/{quote}" if perpetual else provider_symbol,
        provider_symbol=provider_symbol,
        base=base,
        quote=quote,
        status=status,
        trading=status in ("TRADING", "TRADING_HALT", "HALT", "CANCEL_ONLY", "PRE_DELIVERING"),
    )


def _object(body: bytes, expected: str) -> dict[str, Any]:
    """Return the JSON object in the body. Raises ReplyError for any other body, or the refusal in the body."""
    if body.count(b",") > _MOST_VALUES or body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS:
        raise too_large(body, most_commas=_MOST_VALUES, most_brackets=_MOST_CONTAINERS)
    value = load_json(body, expected)
    if not isinstance(value, dict):
        raise unexpected(expected, body)
    raise_refusal(body)
    return value


def used_weight(headers: Mapping[str, str]) -> int | None:
    """Return the weight that the address has used in the current minute, including this call."""
    text = headers.get("x-mbx-used-weight-1m") or headers.get("x-mbx-used-weight") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _spot_cost(rows: int) -> int:
    return 2  # "Weight: 2", for any limit (rest-api.md, since 2023-08-25)


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
            ("endTime", str(span.end_ms - 1)),  # inclusive, unlike span.end_ms
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
    quote_feed: QuoteFeed,
    *,
    info_cost: int = 1,
    by_symbol: bool = False,
    quotes: tuple[str, ...] = QUOTES,
    archive: Archive | None = ARCHIVE,
    funding: Funding | None = None,
    streams: Streams | None = None,
) -> Provider:
    info = f"{prefix}/exchangeInfo"

    def describe(provider_symbol: str) -> Question[Listing]:
        # Spot's whole exchangeInfo has some 10 MB; that of one symbol has the same limits. Futures take no parameter.
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
        unified=lambda provider_symbol: unify(provider_symbol, quotes),
        archive=archive,
        funding=funding,
        streams=streams,
        quotes=quote_feed,
    )


_SPOT_FEEDS = {"candles": _feed("/api/v3/klines", timeframes=SPOT_TIMEFRAMES, cost=_spot_cost, limit=1000)}

PROVIDERS = (
    _provider(
        "binance",
        # The second host serves public data only; it also works where the first is blocked (market_data_only.md).
        ("https://api.binance.com", "https://data-api.binance.vision"),
        "/api/v3",
        _SPOT_FEEDS,
        find_spot_symbol,
        6000,
        SPOT_FEED,
        info_cost=20,
        by_symbol=True,
        streams=SPOT_STREAMS,
    ),
    _provider(
        "binance-us",
        ("https://api.binance.us",),
        "/api/v3",
        _SPOT_FEEDS,
        find_spot_symbol,
        1200,
        US_FEED,
        info_cost=20,
        by_symbol=True,
        quotes=US_QUOTES,
        archive=None,
        streams=US_STREAMS,
    ),
    _provider(
        "binance-um",
        ("https://fapi.binance.com",),
        "/fapi/v1",
        _futures_feeds("/fapi/v1"),
        find_um_symbol,
        2400,
        UM_FEED,
        funding=_guarded(UM_FUNDING),
        streams=UM_STREAMS,
    ),
    _provider(
        "binance-cm",
        ("https://dapi.binance.com",),
        "/dapi/v1",
        # COIN-M opened in June 2020. The first candle is searched window by window: not from 1970 on.
        _futures_feeds(
            "/dapi/v1",
            columns=COIN_COLUMNS,
            parse=parse_coin_candles,
            window_ms=200 * DAY_MS,
            since_ms=1_577_836_800_000,
        ),
        find_cm_symbol,
        2400,
        CM_FEED,
        quotes=CM_QUOTES,
        funding=_guarded(CM_FUNDING),
        streams=CM_STREAMS,
    ),
)
