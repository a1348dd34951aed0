"""Alpaca: US stocks, and crypto pairs on its own exchange, by REST.

Both bounds of a call are inclusive. A page may be shorter than requested; only its token shows whether there is
another. Stocks have no bar for an interval without trades. Crypto now has a bar made of quotes there, but had none in
2022, so that a missing bar proves nothing. As the token shows that an answer is complete, no hole is requested again.
The time of a bar is its start: daily bars of stocks open at midnight in New York, those of crypto at midnight in
Chicago, weeks on Monday and months on the first, even if that is a holiday.

A symbol stands for the company that has it today (`asof`), and includes its bars before a renaming. With the symbol
alone (`asof=-`), S would be Sprint until 2020 and SentinelOne from 2021 on, two companies in one series.

Adjusted bars change with each split or dividend, from its ex-date on. A reply with bars does not show that, but the
list of corporate actions does. The list is requested by the days on which actions are processed. A dividend is
processed when it is paid, weeks after its ex-date, so that the request reaches a year ahead.
Sources: docs.alpaca.markets, historical bars of stocks and crypto (market-data-api, 2026), Market Data FAQ (403),
corporate actions (reference/corporateactions: types, process_date, no guarantee on when one is listed); alpaca-py,
data/models/corporate_actions.py (fields); the forum's topics 13087 (asof), 14660 (ex_date counts) and 18614 (a dividend
with its process_date two weeks after its ex_date, by which bars were adjusted); replies of 2021 to 2024 (no `n` and
`vw` in early 2021; latest crypto bars in 2022).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import numpy as np

from candle_fetcher.core.actions import Action, is_day
from candle_fetcher.core.call import Call, Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import MISSING, OHLCV, Candles, candles_from
from candle_fetcher.core.errors import (
    AccessDenied,
    ProviderRefused,
    RateLimited,
    ReplyError,
    UnknownSymbol,
)
from candle_fetcher.core.faults import brief, too_large, unexpected, wrong_field, wrong_symbol
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.objects import parse_uniform, read_objects
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS
from candle_fetcher.core.zones import NEW_YORK
from candle_fetcher.providers.alpaca_quotes import pair_quotes, stock_quotes
from candle_fetcher.providers.alpaca_streams import KEY_HEADER, PAIR_STREAMS, SECRET_HEADER, STOCK_STREAMS
from candle_fetcher.providers.base import Actions, Feed, Key, Provider, Setting
from candle_fetcher.providers.refusals import by_status, error_object, facts_of, not_a_symbol, of_seconds, status_of

TITLE = "Alpaca"
KEY_PAGE = "https://app.alpaca.markets"
COLUMNS = ("open_time", *OHLCV, "trades")

# A bar of one minute is sent at its end, and computed again half a minute later to include late trades ("updatedBars",
# real-time-stock-pricing-data; forum topic 8947). Longer bars are made of bars of one minute.
FINALITY = Finality(
    delay_ms=31_000, late_rows_ms=MINUTE_MS, source="updatedBars: bars are computed again 30 s after their end"
)

# "[1-59]Min, [1-23]Hour, 1Day, 1Week, [1,2,3,4,6,12]Month"; no page says how those of several hours are aligned.
_TIMEFRAMES = {
    "1m": "1Min", "5m": "5Min", "15m": "15Min", "30m": "30Min", "1h": "1Hour", "1d": "1Day", "1w": "1Week",
    "1M": "1Month",
}  # fmt: skip
_EXPECTED = "a JSON object with bars"
_FIELDS = {"t": "t", "o": "d", "h": "d", "l": "d", "c": "d", "v": "d", "n": "i"}
_OPTIONAL = frozenset({"n"})
# Older than every bar. Without a start, a call begins with the current day.
_LONG_AGO = "2000-01-01T00:00:00Z"
# "limit 1-10000". A bar has some 120 bytes, or 200 with line breaks.
_MOST_ROWS = 10_000
_MOST_BYTES = 4 * 2**20
_MOST_CONTAINERS = 2 * _MOST_ROWS
# "limit 1-1000"
_MOST_ACTIONS = 1_000
_MOST_ACTION_BYTES = 2**20
_ANNOUNCED_MS = 366 * DAY_MS
_MOST_HEAD_BYTES = 2**12
_MOST_CODE = 10**9
# Stands for the list of bars in a body of which the bars are read separately. No reply has this value.
_STAND_IN = [-7e-301]
_CHICAGO = "America/Chicago"
_TOKEN = re.compile(r"[!-~]{1,1000}")

_STOCK = re.compile(r"[A-Z0-9]{1,12}(?:\.[A-Z0-9]{1,6}){0,2}")
_PAIR = re.compile(r"([A-Z0-9]{1,15})[/-]([A-Z0-9]{2,8})")
# What pairs are quoted in, the longest first.
_QUOTES = ("USDT", "USDC", "USD", "BTC")
_NO_SYMBOL = re.compile(r"(?:invalid|unknown) symbol|symbol not found", re.IGNORECASE)


# -- calls ------------------------------------------------------------------------------------------------------------


def _bars_call(series: Series, start: str, end: str | None, rows: int, sort: str) -> Call:
    params = [("timeframe", _TIMEFRAMES[series.timeframe.name]), ("start", start)]
    params += [("end", end)] if end is not None else []
    params += [("limit", str(rows)), ("sort", sort)]
    if series.provider == "alpaca-crypto":
        return Call("/v1beta3/crypto/us/bars", (("symbols", series.symbol), *params))
    chosen = dict(series.settings)
    params += [(setting.name, chosen.get(setting.name, setting.allowed[0])) for setting in _SETTINGS]
    return Call(f"/v2/stocks/{quote(series.symbol, safe='')}/bars", tuple(params))


def call_candles(series: Series, span: Span, rows: int) -> Call:
    """Return the call for the first page. Its end is inclusive, unlike that of the span."""
    return _bars_call(series, iso(max(span.start_ms, 0)), iso(max(span.end_ms - 1, 0)), rows, "asc")


def first_call(series: Series) -> Call:
    """Return the call for the first candle.

    The call has no end, so that it serves every plan: Alpaca then ends it now, or 15 minutes ago in the free plan.
    """
    return _bars_call(series, _LONG_AGO, None, 1, "asc")


def last_call(series: Series, end_ms: int) -> Call:
    """Return the call for the newest candle before `end_ms`."""
    return _bars_call(series, _LONG_AGO, iso(max(end_ms - 1, 0)), 1, "desc")


def next_call(call: Call, body: bytes) -> Call | None:
    """Return the call for the next page: the same call with the token in its reply; None after the last page.

    Raises ReplyError where the token is malformed or that of the same page.
    """
    value = _envelope(body)[1]
    token = value.get("next_page_token") if isinstance(value, dict) else None
    if not token and (token is None or token == ""):
        return None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise wrong_field("field next_page_token", "a token of 1 to 1000 printable characters, or null", token)
    params = dict(call.params)
    if params.get("page_token") == token:
        raise wrong_field("field next_page_token", "the token of another page", token)
    return call._replace(params=tuple((params | {"page_token": token}).items()))


# -- replies ----------------------------------------------------------------------------------------------------------


def parse_candles(body: bytes, series: Series) -> Candles:
    """Return candles in the order sent; `trades` is MISSING where a bar has no count.

    Raises ReplyError where a bar is malformed or of another symbol, or the refusal in the body.
    """
    rows, value = _envelope(body)
    bars = _bars(value, series, body)
    columns = parse_uniform(rows, _FIELDS) if rows else None
    if columns is None or not columns.keys() >= _FIELDS.keys() - _OPTIONAL:
        bars = _bars(_decoded(body), series, body) if rows else bars
        columns = read_objects(bars, _FIELDS, optional=_OPTIONAL)
    if "n" not in columns:
        columns["n"] = np.full(len(columns["t"]), MISSING, np.int64)
    return candles_from(COLUMNS, [columns[name] for name in _FIELDS])


def _envelope(body: bytes) -> tuple[bytes, Any]:
    """Return the text between the brackets of the list of bars, and the decoded body with _STAND_IN as that list.

    Where the body has another layout, the text is empty and the body is decoded whole.
    """
    if len(body) > _MOST_BYTES or body.count(b"{") + body.count(b"[") > _MOST_CONTAINERS:
        raise too_large(body, most_bytes=_MOST_BYTES, most_brackets=_MOST_CONTAINERS)
    first, last = body.find(b"["), body.find(b"]")
    if 0 <= first < last - 1 and len(body) - (last - first) <= _MOST_HEAD_BYTES:
        try:
            value = load_json(body[:first] + b"[-7e-301]" + body[last + 1 :], _EXPECTED)
        except ReplyError:
            return b"", _decoded(body)
        bars = value.get("bars") if isinstance(value, dict) else None
        if bars == _STAND_IN or (isinstance(bars, dict) and list(bars.values()) == [_STAND_IN]):
            return body[first + 1 : last], value
    return b"", _decoded(body)


def _decoded(body: bytes) -> Any:
    return load_json(body, _EXPECTED)


def _bars(value: Any, series: Series, body: bytes) -> list[Any]:
    """Return the bars of the series in a decoded body, which has a list of them, or lists by symbol.

    `null`, `{}` and `[]` are no bars. Raises ReplyError for another body or symbol, or the refusal in the body.
    """
    if not isinstance(value, dict):
        raise unexpected(_EXPECTED, body)
    if "bars" not in value:
        if isinstance(value.get("message"), str):
            # The caller knows the symbol, and adds it.
            raise refusal(Reply(200, {}, body, 0.0), series.symbol, 0)
        raise unexpected(_EXPECTED, body)
    bars, symbol = value["bars"], value.get("symbol")
    if isinstance(bars, dict):
        others = [name for name in bars if name != series.symbol]
        symbol = others[0] if others else symbol
        bars = bars.get(series.symbol)
    if symbol is not None and symbol != series.symbol:
        raise wrong_symbol(f"candles of {series.symbol}", symbol)
    if bars is not None and not isinstance(bars, list):
        raise wrong_field("field bars", "a list", bars)
    return bars or []


# -- corporate actions ------------------------------------------------------------------------------------------------

# An action counts for every adjustment if it changes the number of shares, or may give the symbol to other shares: no
# page states what counts as a split. A cash dividend only counts for prices that are adjusted for dividends.
_ACTION_TYPES = (
    *("forward_split", "reverse_split", "unit_split", "stock_dividend", "spin_off", "rights_distribution"),
    *("name_change", "stock_merger", "stock_and_cash_merger", "cash_merger", "cash_dividend"),
)
_CASH, _OF_CASH = "cash_dividends", ("dividend", "all")
# An action counts from a day on: the first of these fields that it has.
_DAYS = ("ex_date", "effective_date", "process_date")
_TERMS = ("symbol", "rate")


def actions_call(series: Series, now_ms: int) -> Call:
    """Return the call for every corporate action of the symbol that may change prices."""
    params = (
        ("symbols", series.symbol), ("types", ",".join(_ACTION_TYPES)), ("start", _LONG_AGO[:10]),
        ("end", iso(now_ms + _ANNOUNCED_MS)[:10]), ("limit", str(_MOST_ACTIONS)), ("sort", "asc"),
    )  # fmt: skip
    return Call("/v1/corporate-actions", params)


def parse_actions(call: Call, body: bytes, series: Series) -> tuple[tuple[Action, ...], Call | None]:
    """Return the actions on a page, and the call for the next page, or None.

    Raises ReplyError where an action is malformed or of another symbol, or the refusal in the body.
    """
    if len(body) > _MOST_ACTION_BYTES:
        raise too_large(body, most_bytes=_MOST_ACTION_BYTES)
    expected = "a JSON object with corporate_actions, an object of lists by type"
    value = load_json(body, expected)
    if isinstance(value, dict) and "corporate_actions" not in value and isinstance(value.get("message"), str):
        raise refusal(Reply(200, {}, body, 0.0), series.symbol, 0)
    groups = value.get("corporate_actions") if isinstance(value, dict) else None
    if not isinstance(groups, dict) or not all(
        kind.isidentifier() and isinstance(rows, list | None) for kind, rows in groups.items()
    ):
        raise unexpected(expected, body)
    found = [_action(kind, row, series) for kind, rows in groups.items() for row in rows or ()]
    return tuple(found), next_call(call, body)


def _action(kind: str, row: Any, series: Series) -> Action:
    row = row if isinstance(row, dict) else {}
    day = next((row[name] for name in _DAYS if row.get(name)), None)
    terms = {name: value for name, value in row.items() if name.endswith(_TERMS) and not isinstance(value, dict | list)}
    if not is_day(day) or series.symbol not in terms.values():
        raise ReplyError(f"expected a corporate action of {series.symbol} with its day, got {brief(row)}")
    counts = kind != _CASH or dict(series.settings).get("adjustment") in _OF_CASH
    return Action(day, f"{kind} {json.dumps(terms, sort_keys=True)}", counts)


# -- refusals ---------------------------------------------------------------------------------------------------------


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a status other than 200, or for an error object.

    A code begins with the status that it stands for: 40110000 is a 401.
    """
    code, said = _said(reply.body)
    status = status_of(reply.status, code // 100_000 if code is not None and code >= 100_000 else code)
    reply = reply._replace(status=status)
    words = facts_of(status, said, code)
    if status in (401, 403) and "subscription" in said.lower():
        return AccessDenied(
            f"the plan of this key at {TITLE} does not include the data ({words})",
            fix="Choose an end at least 15 minutes ago, or provider_settings={'alpaca': {'feed': 'iex'}}, which every "
            "plan includes",
            status=status,
        )
    if status in (401, 403):
        # "403 … the request was not authenticated, the provided credentials were incorrect" (FAQ).
        return AccessDenied(
            f"{TITLE} refused the key ({words})",
            fix=f"Check the key at {KEY_PAGE}, and give both of its parts as api_keys={{'alpaca': {{'key_id': …, "
            "'secret_key': …}}",
            status=status,
        )
    if status == 429:
        asked_s = _pause_s(reply, now_ms)
        return RateLimited(f"{TITLE} asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    if status in (400, 404, 422):
        if _NO_SYMBOL.match(said):
            return UnknownSymbol(symbol, TITLE)
        return ProviderRefused(f"{TITLE} refused the request ({words})", status=status, code=code, said=said)
    return by_status(TITLE, reply, symbol, now_ms, said[:40])


def raise_refusal(value: Any, body: bytes, symbol: str) -> None:
    """Raise the refusal that a decoded reply holds: an object with a message counts even with status 200."""
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        raise refusal(Reply(200, {}, body, 0.0), symbol, 0)


def _said(body: bytes) -> tuple[int | None, str]:
    """Return code and message of an error object; None and "" for another body."""
    value = error_object(body)
    code, said = value.get("code"), value.get("message")
    return (
        code if type(code) is int and 0 <= code <= _MOST_CODE else None,
        said if isinstance(said, str) else "",
    )


def _pause_s(reply: Reply, now_ms: int) -> float | None:
    """Return the seconds to wait: by Retry-After, else until X-RateLimit-Reset (Unix s), an hour at most; else None."""
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    reset_s = _integer(reply.headers.get("x-ratelimit-reset"))
    if asked_s is not None or reset_s is None:
        return asked_s
    return min(max(0.0, reset_s - now_ms / 1000), 3600.0)


def used(headers: Mapping[str, str]) -> int | None:
    """Return the requests that the key has sent in the current minute, including this one."""
    limit, left = (_integer(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining"))
    return None if limit is None or left is None else max(0, limit - left)


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else None


# -- symbols ----------------------------------------------------------------------------------------------------------


def _capitals(text: object) -> str:
    return text.strip().upper() if isinstance(text, str) and text.isascii() else ""


def find_stock(text: str, kind: str = "candles") -> str:
    """Return the symbol in capitals; a class of shares follows a point: BRK.B. Raises InputError for other text."""
    symbol = _capitals(text)
    if not _STOCK.fullmatch(symbol):
        raise not_a_symbol(TITLE, text, "a stock such as AAPL or BRK.B (pairs have provider='alpaca-crypto')")
    return symbol


def find_pair(text: str, kind: str = "candles") -> str:
    """Return the pair as BASE/QUOTE, for BASE/QUOTE, BASE-QUOTE and BASEQUOTE. Raises InputError for other text."""
    symbol = _capitals(text)
    match = _PAIR.fullmatch(symbol)
    if match is not None:
        return f"{match[1]}/{match[2]}"
    for end in _QUOTES:
        base = symbol.removesuffix(end)
        if base != symbol and base.isalnum() and len(base) <= 15:
            return f"{base}/{end}"
    raise not_a_symbol("alpaca-crypto", text, f"BASE/QUOTE such as BTC/USD, quoted in {', '.join(_QUOTES)}")


def embargo_ms(series: Series) -> int:
    """Return 15 minutes for the feed sip, else 0: the "latest 15 minutes of sip" are not in the free plan."""
    return 15 * MINUTE_MS if dict(series.settings).get("feed") == "sip" else 0


def restates_history(series: Series) -> bool:
    """Return whether the prices are adjusted, so that each split or dividend changes all prices before it."""
    return dict(series.settings).get("adjustment", "raw") != "raw"


# -- providers --------------------------------------------------------------------------------------------------------

_FEED = Feed(
    timeframes=tuple(_TIMEFRAMES),
    columns=COLUMNS,
    call=call_candles,
    parse=parse_candles,
    limit=_MOST_ROWS,
    next_call=next_call,
    first_call=first_call,
    last_call=last_call,
    finality=FINALITY,
    has_empty_bars=False,
    embargo_ms=embargo_ms,
    restates_history=restates_history,
    actions=Actions(actions_call, parse_actions),
    zone=lambda series: NEW_YORK if series.provider == "alpaca" else _CHICAGO,
)
# A free key gets sip except for the last 15 minutes, and iex, the prices of one exchange, up to now.
_SETTINGS = (
    Setting("feed", ("sip", "iex", "otc", "boats")),
    Setting("adjustment", ("raw", "split", "dividend", "spin-off", "all")),
)
# "Basic: 200 API calls / min"; other plans have more, as the headers show.
_LIMITS = (Limit(200, 60),)
_HOSTS = ("https://data.alpaca.markets",)
_KEYS = (
    Key("key_id", "ALPACA_API_KEY_ID", header=KEY_HEADER),
    Key("secret_key", "ALPACA_API_SECRET_KEY", header=SECRET_HEADER),
)

PROVIDERS = (
    Provider(
        name="alpaca",
        hosts=_HOSTS,
        feeds={"candles": _FEED},
        default_limits=_LIMITS,
        used=used,
        refusal=refusal,
        provider_symbol=find_stock,
        calendar=lambda series: "XNYS",
        keys=_KEYS,
        key_page=KEY_PAGE,
        settings=_SETTINGS,
        streams=STOCK_STREAMS,
        quotes=stock_quotes(raise_refusal),
    ),
    Provider(
        name="alpaca-crypto",
        hosts=_HOSTS,
        feeds={"candles": _FEED},
        default_limits=_LIMITS,
        used=used,
        refusal=refusal,
        provider_symbol=find_pair,
        # Requests need no key, streams do.
        keys=tuple(replace(key, is_needed=False) for key in _KEYS),
        key_page=KEY_PAGE,
        streams=PAIR_STREAMS,
        quotes=pair_quotes(raise_refusal),
    ),
)
