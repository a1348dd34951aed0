"""Replies of Alpha Vantage: candles, and refusals, which only their text tells apart.

Replies in the usual layout are read whole columns at a time, others value by value. The facts about the provider and
their sources stand in the module alphavantage.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from candle_fetcher.core.call import Reply
from candle_fetcher.core.candles import OHLCV, Candles, Float64s, Int64s, candles_from
from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, ReplyError, UnknownSymbol
from candle_fetcher.core.faults import missing_field, too_large, unexpected, wrong_field, wrong_symbol
from candle_fetcher.core.series import Series
from candle_fetcher.core.text.template import Place, match_template
from candle_fetcher.core.timeframe import HOUR_MS
from candle_fetcher.core.zones import NEW_YORK, clock_ms, zone
from candle_fetcher.providers.refusals import by_status, error_object, facts_of

TITLE = "Alpha Vantage"
COLUMNS = ("open_time", *OHLCV)
KEY_PAGE = "https://www.alphavantage.co/support/#api-key"
INTERVALS = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
FUNCTIONS = {"1d": "DAILY", "1w": "WEEKLY", "1M": "MONTHLY"}
# A month of minutes from 04:00 to 20:00 has 22,000 rows in 4 MB. A larger body is not decoded.
_MOST_BYTES = 8 * 2**20
MOST_ROWS = 50_000
_MOST_VALUES = 16 * MOST_ROWS
# The time zones that a reply may name. The documentation calls that of New York US/Eastern.
_ZONES = {"US/Eastern": NEW_YORK, "America/New_York": NEW_YORK, "UTC": "UTC"}
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_A_DECIMAL = "a decimal in quotes, without an exponent"


class _Content(NamedTuple):
    """The content of a reply: its time zone, its times as integers (20171218145600, or 20171218), OHLCV in order."""

    zone: str
    stamps: Int64s
    columns: tuple[Float64s, ...]


class _RowPlaces(NamedTuple):
    """The layout of a row, taken from the first row of a reply.

    row: the text of the row up to the next one.
    values, stamp: where its values and its time stand in that text.
    wanted: which of the values are open, high, low, close, and volume if there is one, by their index.
    """

    row: bytes
    values: tuple[Place, ...]
    stamp: Place
    wanted: tuple[int, ...]


def is_pair(symbol: str) -> bool:
    return "/" in symbol


def _title_of(series: Series) -> bytes:
    """Return the name under which a reply has the rows of the series; it differs by timeframe and kind of symbol."""
    name = series.timeframe.name
    if name in INTERVALS:
        return f"Time Series ({INTERVALS[name]})".encode()
    word = FUNCTIONS[name].capitalize()
    if is_pair(series.symbol):
        return f"Time Series (Digital Currency {word})".encode()
    return b"Time Series (Daily)" if name == "1d" else f"{word} Time Series".encode()


def parse_candles(body: bytes, series: Series) -> Candles:
    """Return candles, oldest first; the volume is NaN where the reply has none.

    Raises ReplyError where the body is malformed or of another symbol, or the refusal in the body.
    """
    if len(body) > _MOST_BYTES:
        raise too_large(body, most_bytes=_MOST_BYTES)
    content = _read_uniform(body, series) or _read_each(body, series)
    opens = _opens_ms(content, series)
    is_falling = len(opens) > 1 and bool((opens[1:] < opens[:-1]).all())
    order = slice(None, None, -1) if is_falling else np.argsort(opens, kind="stable")
    return candles_from(COLUMNS, [opens[order], *(column[order] for column in content.columns)])


def _opens_ms(content: _Content, series: Series) -> Int64s:
    """Return the open times of the candles, given the times in the reply."""
    is_intraday = series.timeframe.name in INTERVALS
    local_ms = clock_ms(content.stamps if is_intraday else content.stamps * 1_000_000)
    if local_ms is None:
        first = content.stamps.min()
        raise ReplyError(f"expected rows with times of the calendar, got an impossible one (the oldest is {first})")
    if not is_intraday:
        # The time is the last trading day of the week or month so far: "last trading day of each week".
        local_ms = series.timeframe.opens_ms(series.timeframe.ordinals(local_ms))
    return local_ms if content.zone == "UTC" else zone(content.zone).to_utc(local_ms)


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


def _read_uniform(body: bytes, series: Series) -> _Content | None:
    """Return the content of a reply, whole columns at a time; None unless all rows have the layout of the first one."""
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
    last_row_lacks = len(layout.row) - layout.values[-1][1] - 1
    part = (head.end(), tail.start() + 1)
    rows = match_template(body, part, layout.row, last_row_lacks, layout.values, layout.stamp, b'"')
    found = None if rows is None else rows.floats(layout.wanted)
    if rows is None or found is None:
        return None
    stamps: Int64s = rows.stamps.astype(np.int64) @ _POWERS[rows.stamps.shape[1]]
    if (stamps[1:] >= stamps[:-1]).any():
        return None  # expected: newest first, without duplicates
    lacking = [np.full(rows.count, np.nan)] * (len(OHLCV) - len(found))
    return _Content(_zone_of(meta, series), stamps, (*found, *lacking))


def _layout_of(body: bytes, start: int, series: Series) -> _RowPlaces | None:
    """Return the layout of the first row, which begins at `start`; None where no row follows it."""
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
    texts = [token[1].decode("utf-8", "replace") for token in tokens]
    if not isinstance(fields, dict) or texts != [stamp, *(text for pair in fields.items() for text in map(str, pair))]:
        return None
    names = _names(fields, series)
    if None in names[:4] or len(fields) > _MOST_FIELDS:
        return None
    if not re.fullmatch(_STAMP, tokens[0][1]) or len(stamp) != _width_of(series):
        return None
    wanted = tuple(list(fields).index(name) for name in names if name is not None)
    values = tuple(token.span(1) for token in tokens[2::2])
    return _RowPlaces(row + following[0], values, tokens[0].span(1), wanted)


def _width_of(series: Series) -> int:
    """Return how many characters a time has: those of 2017-12-18 14:56:00 for intraday candles, else of the date."""
    return 19 if series.timeframe.name in INTERVALS else 10


def _read_each(body: bytes, series: Series) -> _Content:
    """Return the content of a reply, value by value. Raises ReplyError, or the refusal in the body."""
    if body.count(b"{") + body.count(b"[") > MOST_ROWS or body.count(b",") > _MOST_VALUES:
        raise too_large(body, most_commas=_MOST_VALUES, most_brackets=MOST_ROWS)
    title = _title_of(series).decode()
    expected = f"a JSON object with {title!r}"
    try:
        value = json.loads(body, object_pairs_hook=_only_once)
    except (ValueError, RecursionError) as error:
        raise unexpected(expected, body) from error
    if not isinstance(value, dict) or not isinstance(value.get(title), dict):
        if isinstance(value, dict):
            _raise_refusal(value, series)
        raise unexpected(expected, body)
    zone_name = _zone_of(value.get("Meta Data"), series)
    stamps: list[int] = []
    columns: list[list[float]] = [[] for _ in OHLCV]
    width = _width_of(series)
    for stamp, fields in value[title].items():
        if len(stamp) != width or not stamp.isascii() or not re.fullmatch(_STAMP, stamp.encode()):
            sample = "2024-01-02 09:30:00" if width > 10 else "2024-01-02"
            raise wrong_field(f"row {len(stamps) + 1}", f"a time such as {sample} as its name", stamp)
        if not isinstance(fields, dict):
            raise wrong_field(f"row {stamp}", "an object of values", fields)
        stamps.append(int(re.sub("[^0-9]", "", stamp)))
        for column, what, name in zip(columns, OHLCV, _names(fields, series), strict=True):
            column.append(_number(None if name is None else fields[name], f"row {stamp}", what))
    return _Content(zone_name, np.array(stamps, np.int64), tuple(np.array(column, np.float64) for column in columns))


def _number(text: object, row: str, field: str) -> float:
    """Return the decimal as `float` reads it; NaN for an absent volume."""
    if text is None and field == "volume":
        return math.nan
    if text is None:
        raise missing_field(row, field, _A_DECIMAL)
    number = float(text) if isinstance(text, str) and _DECIMAL.fullmatch(text) else math.inf
    if math.isinf(number):
        raise wrong_field(f"{row}, field {field}", _A_DECIMAL, text)
    return number


def _names(fields: dict[str, object], series: Series) -> list[str | None]:
    """Return the names that the five columns of OHLCV have in a row; None for a column that the row lacks.

    A name is `1. open`, or, until 2024, `1a. open (CNY)` and then `1b. open (USD)`.
    """
    market = series.symbol.partition("/")[2]
    plain = {name.partition(". ")[2]: name for name in reversed(fields)}
    return [plain.get(what) or plain.get(f"{what} ({market})") for what in OHLCV]


def _zone_of(meta: object, series: Series) -> str:
    """Return the zone of the times. Raises ReplyError for another zone than those known, or for another symbol."""
    facts = {name.partition(". ")[2]: text for name, text in meta.items()} if isinstance(meta, dict) else {}
    wanted = series.symbol.split("/")
    names = ("Digital Currency Code", "Market Code") if wanted[1:] else ("Symbol",)
    found = "/".join(str(facts.get(name, symbol)).upper() for name, symbol in zip(names, wanted, strict=True))
    if found != series.symbol:
        raise wrong_symbol(f"candles of {series.symbol}", found)
    named = facts.get("Time Zone")
    if not isinstance(named, str) or named not in _ZONES:
        raise wrong_field("field Time Zone", " or ".join(_ZONES), named)
    return _ZONES[named]


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a duplicate name")
    return found


_WAYS = ("Information", "Note", "Error Message", "detail")


def _raise_refusal(value: Mapping[str, object], series: Series) -> None:
    """Raise the error for the message in the object, if it has one in place of candles."""
    for way in _WAYS:
        said = value.get(way)
        if isinstance(said, str):
            raise _meaning(said, series.symbol, None, is_intraday=series.timeframe.name in INTERVALS)


def raise_message(value: Mapping[str, object], symbol: str) -> None:
    """Raise the error for the message in the object, if it has one in place of a quote."""
    said = next((text for way in _WAYS if isinstance(text := value.get(way), str)), None)
    if said is not None:
        raise _meaning(said, symbol, None)


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a refused request: by the message of the reply, else by its status."""
    said = _said(reply.body)
    if said and reply.status in (200, 400, 401, 403, 429):
        return _meaning(said, symbol, now_ms, status=reply.status)
    return by_status(TITLE, reply, symbol, now_ms, said)


def _said(body: bytes) -> str:
    value = error_object(body)
    found = [value[way] for way in _WAYS if isinstance(value.get(way), str)]
    return found[0] if found else ""


def _meaning(said: str, symbol: str, now_ms: int | None, *, status: int = 200, is_intraday: bool = False) -> Exception:
    """Return the error for a message. Only its words tell errors apart: there is no code, and the status is 200."""
    words = facts_of(status, said)
    lower = said.lower()
    if "per second" in lower:  # this message also names the 25 requests a day
        return RateLimited(f"{TITLE} asks for a pause of 1 s ({words})", retry_after_s=1.0)
    if "per minute" in lower:  # the older message also names 500 calls a day
        return RateLimited(f"{TITLE} asks for a pause of 60 s ({words})", retry_after_s=60.0)
    if "per day" in lower:
        return _used_up(words, now_ms)
    if "apikey" in lower or "api key" in lower or status == 401:
        return AccessDenied(
            f"{TITLE} refused the key ({words})",
            fix=f"Check 'apikey' in api_keys of alphavantage; a free one is at {KEY_PAGE}",
            status=status,
        )
    if "premium" in lower and "call volume" not in lower and "frequency" not in lower:
        return AccessDenied(
            f"{TITLE} offers this only in premium plans ({words})",
            fix="Request 1d, 1w or 1M with the setting plan='free', or take a premium plan "
            "(https://www.alphavantage.co/premium/)",
            status=status,
        )
    if "call volume" in lower or "frequency" in lower or "rate limit" in lower or status == 429:
        return RateLimited(f"{TITLE} asks for a pause of 60 s ({words})", retry_after_s=60.0)
    if "invalid api call" in lower and not is_intraday:
        return UnknownSymbol(symbol, TITLE)
    hint = ""
    if "invalid api call" in lower:
        hint = f"; it does not know {symbol[:40]!r} or has no candles of it in that month: request 1d to find out"
    return ProviderRefused(f"{TITLE} refused the request ({words}){hint}", status=status, said=said)


def _used_up(words: str, now_ms: int | None) -> RateLimited:
    """Return the error for a day without requests left.

    No page states when requests return. Midnight in New York is assumed, since the data follow that clock. The pause is
    an hour where the current time is not known (`now_ms` is None).
    """
    if now_ms is None:
        return RateLimited(
            f"{TITLE} has no requests left today; they are assumed to return at midnight in New York ({words})",
            retry_after_s=3600.0,
        )
    now = np.array([now_ms])
    back_ms = int(zone(NEW_YORK).midnight_ms(zone(NEW_YORK).midnight_ms(now) + 36 * HOUR_MS)[0])
    back = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(milliseconds=back_ms)
    return RateLimited(
        f"{TITLE} has no requests left today; they are assumed to return at {back:%Y-%m-%d %H:%M} UTC, midnight in New "
        f"York ({words})",
        retry_after_s=(back_ms - now_ms) / 1000,
    )
