"""Alpha Vantage: stocks of many exchanges and crypto pairs, through one endpoint.

A reply holds a whole series, its newest 100 points, or a calendar month of it: nothing can be asked for by its times.
It is a JSON object keyed by time, newest first, every value a string, and the numbers before the names in it differ by
function. Errors come with status 200, as `Information`, `Note` or `Error Message`, and are told apart by their words
alone. Values are raw, as traded. There is no row for an interval without trades.

Times of stocks are the wall clock of New York, those of pairs UTC. An intraday stamp is the start of its candle, a
weekly or monthly one the last trading day so far. Daily candles open at midnight of New York, so that the date of
their open time is that of the session.
Sources: alphavantage.co/documentation; alphavantage/alpha_vantage_mcp api/src/av_api (2026); that free keys get the
newest 100 days, and 25 requests a day: their refusals, 2024 to 2026.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from candle_fetcher.core.alike import Place, find_alike
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import OHLCV, Candles, Float64s, Int64s, candles_from
from candle_fetcher.core.errors import (
    AccessDenied,
    InputError,
    NotOffered,
    ProviderRefused,
    RateLimited,
    ReplyError,
    UnknownSymbol,
)
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from candle_fetcher.core.zones import NEW_YORK, clock_ms, zone
from candle_fetcher.providers.base import Feed, Key, Provider, Setting, by_status

TITLE = "Alpha Vantage"
COLUMNS = ("open_time", *OHLCV)
KEY_PAGE = "https://www.alphavantage.co/support/#api-key"

# "Updated at the end of each trading day for all users by default", and 15 minutes late where a plan has the day that
# goes on; a free key was shown a day when it was over, and at weekends not at all.
FINALITY = Finality(
    delay_ms=16 * MINUTE_MS,
    late_ms=2 * DAY_MS,
    spares_edge=True,
    source="updated at the end of each trading day, or 15 minutes delayed (documentation, TIME_SERIES_INTRADAY)",
)

_INTERVALS = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
_FUNCTIONS = {"1d": "DAILY", "1w": "WEEKLY", "1M": "MONTHLY"}
# "compact returns only the latest 100 data points" (TIME_SERIES_DAILY).
_COMPACT = 100
# A month of minutes from 04:00 to 20:00 has 22,000 rows in 4 MB. Beyond these bounds a body is not decoded.
_MOST_BYTES = 8 * 2**20
_MOST_ROWS = 50_000
_MOST_VALUES = 16 * _MOST_ROWS
_STOCK = re.compile(r"[A-Z0-9][A-Z0-9]{0,14}(?:[.-][A-Z0-9]{1,8}){0,2}")
_PAIR = re.compile(r"([A-Z0-9]{1,15})[/-]([A-Z0-9]{2,8})")
# What stands behind a dash in a pair; behind another one stands a class of shares, as in BRK-B.
_QUOTES = frozenset(
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
# The exchange by the end of a symbol ("symbol=TSCO.LON", Quick Start); none where it is not known.
_CALENDARS = {"LON": "XLON", "TRT": "XTSE", "DEX": "XETR", "BSE": "XBOM", "SHH": "XSHG", "SHZ": "XSHG"}
# Its documentation calls the zone US/Eastern.
_ZONES = {"US/Eastern": NEW_YORK, "America/New_York": NEW_YORK, "UTC": "UTC"}
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_SHOWN = 160


class _Told(NamedTuple):
    """What a reply says: its zone, the stamps as integers (20171218145600, or 20171218) and OHLCV in its order."""

    zone: str
    stamps: Int64s
    columns: tuple[Float64s, ...]


class _Layout(NamedTuple):
    """How a row is written: its text up to the next one, where its values and its stamp stand in that, and which of the
    values are OHLC, and volume where there is one."""

    row: bytes
    values: tuple[Place, ...]
    stamp: Place
    wanted: tuple[int, ...]


# -- calls ------------------------------------------------------------------------------------------------------------


def _is_pair(symbol: str) -> bool:
    return "/" in symbol


def _call(size: str) -> Callable[[Series, Span, int], Call]:
    def call(series: Series, span: Span, rows: int) -> Call:
        name, symbol = series.timeframe.name, series.symbol
        params: tuple[tuple[str, str], ...]
        if _is_pair(symbol):
            if name in _INTERVALS:
                raise NotOffered(
                    f"{TITLE} does not say how far back its intraday candles of pairs reach; it offers "
                    f"{', '.join(_FUNCTIONS)} of {symbol}, and kraken or binance have candles of {name}"
                )
            base, quote = symbol.split("/")
            params = (("function", f"DIGITAL_CURRENCY_{_FUNCTIONS[name]}"), ("symbol", base), ("market", quote))
        elif name in _INTERVALS:
            params = (
                ("function", "TIME_SERIES_INTRADAY"),
                ("symbol", symbol),
                ("interval", _INTERVALS[name]),
                ("adjusted", "false"),
                ("extended_hours", "true"),
                ("month", str(np.datetime64(_local_ms(span.start_ms), "ms"))[:7]),
                ("outputsize", "full"),
            )
        else:
            params = (("function", f"TIME_SERIES_{_FUNCTIONS[name]}"), ("symbol", symbol))
            params += (("outputsize", size),) if name == "1d" else ()
        return Call("/query", params)

    return call


def _window(series: Series, ms: int) -> Span | None:
    """The calendar month in New York that holds the instant, for intraday candles; else all of time."""
    if series.timeframe.name not in _INTERVALS or _is_pair(series.symbol):
        return None
    month = Timeframe(1, "M")
    slot = month.ordinal(_local_ms(ms))
    start_ms, end_ms = zone(NEW_YORK).to_utc(np.array([month.open_ms(slot), month.open_ms(slot + 1)])).tolist()
    return Span(start_ms, end_ms)


def _local_ms(ms: int) -> int:
    return int(zone(NEW_YORK).to_local(np.array([ms]))[0])


def _title_of(series: Series) -> bytes:
    """The name under which a reply has the series; another one stands in a reply to another call."""
    name = series.timeframe.name
    if name in _INTERVALS:
        return f"Time Series ({_INTERVALS[name]})".encode()
    word = _FUNCTIONS[name].capitalize()
    if _is_pair(series.symbol):
        return f"Time Series (Digital Currency {word})".encode()
    return b"Time Series (Daily)" if name == "1d" else f"{word} Time Series".encode()


# -- replies ----------------------------------------------------------------------------------------------------------


def parse_candles(body: bytes, series: Series) -> Candles:
    """Candles in rising order; the volume is NaN where the reply has none. Raises ReplyError, or what the body says of
    a refusal."""
    if len(body) > _MOST_BYTES:
        raise _too_much(body)
    told = _read_alike(body, series) or _read_each(body, series)
    opens = _opens_ms(told, series)
    is_falling = len(opens) > 1 and bool((opens[1:] < opens[:-1]).all())
    order = slice(None, None, -1) if is_falling else np.argsort(opens, kind="stable")
    return candles_from(COLUMNS, [opens[order], *(column[order] for column in told.columns)])


def _too_much(body: bytes) -> ReplyError:
    return ReplyError(f"a reply of {len(body):,} bytes with more values than any has: {body[:80]!r}")


def _opens_ms(told: _Told, series: Series) -> Int64s:
    """When the candles open, given their stamps."""
    is_intraday = series.timeframe.name in _INTERVALS
    local_ms = clock_ms(told.stamps if is_intraday else told.stamps * 1_000_000)
    if local_ms is None:
        raise ReplyError(f"expected dates and times, got others among those from {told.stamps.min()} on")
    if not is_intraday:
        # The stamp is the last trading day of the week or month, so far: "last trading day of each week".
        local_ms = series.timeframe.opens_ms(series.timeframe.ordinals(local_ms))
    return local_ms if told.zone == "UTC" else zone(told.zone).to_utc(local_ms)


_BLANK = rb"[ \t\r\n]*"
_HEAD = re.compile(
    rb'_(\{_"Meta Data"_:_\{[^{}]*\})_,_"([^"\\]{1,60})"_:_\{_(?=")'.replace(b"_", _BLANK)  # then the first row
)
_STAMP = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?: [0-9]{2}:[0-9]{2}:[0-9]{2})?"
_NEXT = re.compile(rb'_,_(?="[0-9])'.replace(b"_", _BLANK))
_TAIL = re.compile(rb'"_\}_\}_\}_\Z'.replace(b"_", _BLANK))
_TOKEN = re.compile(rb'"([^"\\]*)"')
_MOST_FIELDS = 12
_POWERS = {8: 10 ** np.arange(7, -1, -1, dtype=np.int64), 14: 10 ** np.arange(13, -1, -1, dtype=np.int64)}


def _read_alike(body: bytes, series: Series) -> _Told | None:
    """What a reply says in which every row is written as the first one is; None wherever in doubt."""
    head = _HEAD.match(body)
    tail = _TAIL.search(body, max(0, len(body) - 200))
    if head is None or tail is None or head[2] != _title_of(series):
        return None
    try:
        meta = json.loads(head[1] + b"}", object_pairs_hook=_only_once)["Meta Data"]
    except (ValueError, RecursionError):
        return None
    layout = _layout_of(body, head.end(), series)
    if layout is None:
        return None
    border = len(layout.row) - layout.values[-1][1] - 1
    part = (head.end(), tail.start() + 1)
    rows = find_alike(body, part, layout.row, border, layout.values, layout.stamp, b'"')
    found = None if rows is None else rows.floats(layout.wanted)
    if rows is None or found is None:
        return None
    stamps: Int64s = rows.stamps.astype(np.int64) @ _POWERS[rows.stamps.shape[1]]
    if (stamps[1:] >= stamps[:-1]).any():
        return None  # they are to be newest first, and none twice
    lacking = [np.full(rows.count, np.nan)] * (len(OHLCV) - len(found))
    return _Told(_zone_of(meta, series), stamps, (*found, *lacking))


def _layout_of(body: bytes, start: int, series: Series) -> _Layout | None:
    """How the first row, which begins there, is written; None where none follows."""
    end = body.find(b"}", start)
    following = _NEXT.match(body, end + 1)
    row = body[start : end + 1]
    if end < 0 or following is None or len(row) > 2000:
        return None
    try:
        ((stamp, fields),) = json.loads(b"{" + row + b"}", object_pairs_hook=_only_once).items()
    except (ValueError, RecursionError):
        return None
    tokens = list(_TOKEN.finditer(row))
    told = [token[1].decode("utf-8", "replace") for token in tokens]
    if not isinstance(fields, dict) or told != [stamp, *(text for pair in fields.items() for text in map(str, pair))]:
        return None
    names = _names(fields, series)
    if None in names[:4] or len(fields) > _MOST_FIELDS:
        return None
    if not re.fullmatch(_STAMP, tokens[0][1]) or len(stamp) != _width_of(series):
        return None
    wanted = tuple(list(fields).index(name) for name in names if name is not None)
    values = tuple(token.span(1) for token in tokens[2::2])
    return _Layout(row + following[0], values, tokens[0].span(1), wanted)


def _width_of(series: Series) -> int:
    """How long a stamp is: 2017-12-18 14:56:00, or the date alone."""
    return 19 if series.timeframe.name in _INTERVALS else 10


def _read_each(body: bytes, series: Series) -> _Told:
    """What a reply says, row by row."""
    if body.count(b"{") + body.count(b"[") > _MOST_ROWS or body.count(b",") > _MOST_VALUES:
        raise _too_much(body)
    try:
        value = json.loads(body, object_pairs_hook=_only_once)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"expected a JSON object, got {body[:80]!r}") from error
    title = _title_of(series).decode()
    if not isinstance(value, dict) or not isinstance(value.get(title), dict):
        if isinstance(value, dict):
            _raise_refusal(value, series)
        raise ReplyError(f"expected a JSON object with {title!r}, got {body[:80]!r}")
    zone_name = _zone_of(value.get("Meta Data"), series)
    stamps: list[int] = []
    columns: list[list[float]] = [[] for _ in OHLCV]
    width = _width_of(series)
    for stamp, fields in value[title].items():
        if len(stamp) != width or not stamp.isascii() or not re.fullmatch(_STAMP, stamp.encode()):
            raise ReplyError(f"expected a row of a time, got {reprlib.repr(stamp)}")
        if not isinstance(fields, dict):
            raise ReplyError(f"{stamp}: expected an object of values, got {reprlib.repr(fields)}")
        stamps.append(int(re.sub("[^0-9]", "", stamp)))
        for column, what, name in zip(columns, OHLCV, _names(fields, series), strict=True):
            column.append(_number(None if name is None else fields[name], f"{stamp}, {what}"))
    return _Told(zone_name, np.array(stamps, np.int64), tuple(np.array(column, np.float64) for column in columns))


def _number(text: object, place: str) -> float:
    """The decimal as `float` reads it; NaN for a volume that is not there."""
    if text is None and place.endswith("volume"):
        return math.nan
    number = float(text) if isinstance(text, str) and _DECIMAL.fullmatch(text) else math.inf
    if math.isinf(number):
        raise ReplyError(f"{place}: expected a decimal, got {reprlib.repr(text)}")
    return number


def _names(fields: dict[str, object], series: Series) -> list[str | None]:
    """The names that OHLCV have in a row: `1. open`, until 2024 `1a. open (CNY)`, which `1b. open (USD)` followed."""
    market = series.symbol.partition("/")[2]
    plain = {name.partition(". ")[2]: name for name in reversed(fields)}
    return [plain.get(what) or plain.get(f"{what} ({market})") for what in OHLCV]


def _zone_of(meta: object, series: Series) -> str:
    """The zone of the stamps. ReplyError for one that is not known, and for data about something else."""
    told = {name.partition(". ")[2]: text for name, text in meta.items()} if isinstance(meta, dict) else {}
    wanted = series.symbol.split("/")
    for name, symbol in zip(
        ("Digital Currency Code", "Market Code") if wanted[1:] else ("Symbol",), wanted, strict=True
    ):
        if str(told.get(name, symbol)).upper() != symbol:
            raise ReplyError(f"expected candles of {series.symbol}, got {reprlib.repr(told.get(name))}")
    named = told.get("Time Zone")
    if not isinstance(named, str) or named not in _ZONES:
        raise ReplyError(f"expected times of US/Eastern or UTC, got those of {reprlib.repr(named)}")
    return _ZONES[named]


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


# -- refusals ---------------------------------------------------------------------------------------------------------

_WAYS = ("Information", "Note", "Error Message", "detail")


def _raise_refusal(value: Mapping[str, object], series: Series) -> None:
    """Raises what the object says, where it says something instead of giving candles."""
    for way in _WAYS:
        said = value.get(way)
        if isinstance(said, str):
            raise _meaning(said, series.symbol, None, is_intraday=series.timeframe.name in _INTERVALS)


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """The error that a reply stands for: by its words where it has some, else by its status."""
    said = _said(reply.body)
    if said and reply.status in (200, 400, 401, 403, 429):
        return _meaning(said, symbol, now_ms, status=reply.status)
    return by_status(TITLE, reply, symbol, now_ms, said)


def _said(body: bytes) -> str:
    if len(body) > 2**16:
        return ""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    found = [value[way] for way in _WAYS if isinstance(value.get(way), str)] if isinstance(value, dict) else []
    return found[0] if found else ""


def _meaning(said: str, symbol: str, now_ms: int | None, *, status: int = 200, is_intraday: bool = False) -> Exception:
    """The error that the words stand for. There is no code, and the status is 200."""
    words = f"{said[:_SHOWN]!r}"[: _SHOWN + 40]
    lower = said.lower()
    if "per second" in lower:  # it names the 25 requests a day as well
        return RateLimited(f"{TITLE} asks for a second between two requests: {words}", retry_after_s=1.0)
    if "per minute" in lower:  # the older one names 500 calls a day as well
        return RateLimited(f"{TITLE} asks for a pause: {words}", retry_after_s=60.0)
    if "per day" in lower:
        return _used_up(words, now_ms)
    if "apikey" in lower or "api key" in lower or status == 401:
        return AccessDenied(
            f"{TITLE} refused the key: {words}",
            fix=f"Check 'apikey' in api_keys of alphavantage; a free one is at {KEY_PAGE}",
            status=status,
        )
    if "premium" in lower and "call volume" not in lower and "frequency" not in lower:
        return AccessDenied(
            f"{TITLE} has this for premium plans alone: {words}",
            fix="Ask for 1d, 1w or 1M with the setting plan='free', or take a premium plan "
            "(https://www.alphavantage.co/premium/)",
            status=status,
        )
    if "call volume" in lower or "frequency" in lower or "rate limit" in lower or status == 429:
        return RateLimited(f"{TITLE} asks for a pause: {words}", retry_after_s=60.0)
    if "invalid api call" in lower and not is_intraday:
        return UnknownSymbol(symbol, TITLE)
    hint = ""
    if "invalid api call" in lower:
        hint = f"; it does not know {symbol[:40]!r}, or has none of its candles in that month: ask for 1d to see which"
    return ProviderRefused(f"{TITLE} refused the request: {words}{hint}", status=status, said=said)


def _used_up(words: str, now_ms: int | None) -> RateLimited:
    """The allowance of a day is used up. At which hour it returns is not documented: at midnight of New York, is
    assumed, by whose clock its data go; without a clock at hand, it is asked again in an hour."""
    if now_ms is None:
        return RateLimited(
            f"{TITLE}: the requests of the day are used up; they return within a day, at midnight of New York as far "
            f"as is known: {words}",
            retry_after_s=3600.0,
        )
    now = np.array([now_ms])
    back_ms = int(zone(NEW_YORK).midnight_ms(zone(NEW_YORK).midnight_ms(now) + 36 * HOUR_MS)[0])
    back = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(milliseconds=back_ms)
    return RateLimited(
        f"{TITLE}: the requests of the day are used up; they return at {back:%Y-%m-%d %H:%M} UTC, midnight of New "
        f"York, as far as is known: {words}",
        retry_after_s=(back_ms - now_ms) / 1000,
    )


# -- symbols ----------------------------------------------------------------------------------------------------------


def _symbol(text: str, kind: str) -> str:
    """Stocks as Alpha Vantage writes them (IBM, TSCO.LON, BRK-B), pairs as BASE/QUOTE."""
    symbol = text.strip().upper() if isinstance(text, str) else ""
    pair = _PAIR.fullmatch(symbol)
    if pair is not None and ("/" in symbol or pair[2] in _QUOTES):
        return f"{pair[1]}/{pair[2]}"
    if not _STOCK.fullmatch(symbol):
        raise InputError(f"{text!r} is not a symbol; expected one such as IBM, TSCO.LON or BTC/USD")
    return symbol


def _calendar(series: Series) -> str | None:
    """The exchange whose sessions the candles keep to."""
    if _is_pair(series.symbol):
        return None
    end = series.symbol.partition(".")[2]
    return _CALENDARS.get(end) if len(end) > 1 else "XNYS"


# -- the provider -----------------------------------------------------------------------------------------------------


def _feed(size: str) -> Feed:
    def depth(series: Series) -> int | None:
        return _COMPACT if size == "compact" and series.timeframe.name == "1d" and not _is_pair(series.symbol) else None

    return Feed(
        timeframes=(*_INTERVALS, *_FUNCTIONS),
        columns=COLUMNS,
        call=_call(size),
        parse=parse_candles,
        limit=_MOST_ROWS,
        window=_window,
        since_ms=946_702_800_000,  # "any month in the last 20+ years since 2000-01"
        zone=lambda series: None if _is_pair(series.symbol) else NEW_YORK,
        quiet_rows=False,
        finality=FINALITY,
        is_whole=True,
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
)

PROVIDERS = (PROVIDER,)
