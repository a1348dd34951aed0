"""Kraken: spot candles by REST.

Each reply holds the newest 720 candles of a pair and the current one. Older candles are not available; the parameter
`since` only shortens the reply. An interval without trades has a row, with the previous close as its prices. Errors
come with status 200. Candles of 15 days (interval 21600) are not offered here, since no source states where they begin.
None states it for weeks either, so that weekly candles keep the time that Kraken sends.
Sources: docs.kraken.com, api-reference/market-data (get-ohlc-data, get-tradable-asset-pairs, get-server-time) and
guides/spot-rest-ratelimits (2026); krakenfx/kraken-cli, skills/kraken-rate-limits and src/errors.rs (2026-04); a
recorded AssetPairs of 2021 for the names.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.errors import (
    InputError,
    ProviderRefused,
    RateLimited,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.faults import too_large, unexpected, wrong_field, wrong_symbol
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.rows import Row, parse_rows
from candle_fetcher.core.timeframe import MINUTE_MS
from candle_fetcher.providers.base import Feed, Listed, Listing, Provider, Question
from candle_fetcher.providers.kraken_streams import make_streams
from candle_fetcher.providers.quoting import (
    Always,
    QuoteFeed,
    QuoteRequest,
    batches,
    check_row,
    named_once,
    read_price,
    read_volume,
)
from candle_fetcher.providers.refusals import (
    by_status,
    checked_name,
    error_object,
    facts_of,
    not_a_symbol,
    of_seconds,
    refused_by_firewall,
    wrong_listing,
)

NAME = "Kraken"
# "interval": minutes.
INTERVALS = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440, "1w": 10080}
COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "trades")
# "Returns up to 720 of the most recent entries", and the current one.
DEPTH = 720

FINALITY = Finality(
    delay_ms=0,
    late_rows_ms=5 * MINUTE_MS,
    source="the reply's own `last` (get-ohlc-data); one was seen 34 s behind",
)

# [int <time>, string <open>, <high>, <low>, <close>, <vwap>, <volume>, int <count>]
_ROW = Row("open_time:i open:d high:d low:d close:d vwap:x volume:d trades:i")
_LAST_S = 253_402_300_799  # the end of the year 9999
_PLAUSIBLE_S = (1_356_998_400, 4_102_444_800)  # a clock of the years 2013 to 2099

# 721 rows have some 50 kB, or 180 kB indented; the 304 pairs of 2021 had 170 kB. Bodies of many times this size are not
# decoded, since each value takes about a hundred bytes in memory.
_MOST_ROW_BYTES = 2**20
_MOST_ROW_VALUES = 20_000
_MOST_BYTES = 2**25
_MOST_VALUES = 1_500_000
_MOST_CONTAINERS = 500_000

# The text before and after the rows in Kraken's usual layout, with any JSON white space.
_HEAD = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"error"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\][ \t\r\n]*,[ \t\r\n]*"result"[ \t\r\n]*:'
    rb'[ \t\r\n]*\{[ \t\r\n]*"([A-Za-z0-9./]{1,60})"[ \t\r\n]*:[ \t\r\n]*(?=\[)'
)
_TAIL = re.compile(rb'"last"[ \t\r\n]*:[ \t\r\n]*(0|[1-9][0-9]{0,17})[ \t\r\n]*\}[ \t\r\n]*\}[ \t\r\n]*')
_LAST = re.compile(rb'"last"[ \t\r\n]*:[ \t\r\n]*"?([0-9]{1,18})')
_BLANKS = b" \t\r\n"

# Errors have the form <severity><category>:<message>, perhaps with a blank after the colon. Here they are listed by how
# they begin, without that blank. An error in none of these lists is final.
_PAUSES = (
    "EAPI:Rate limit exceeded",
    "EGeneral:Too many requests",
    "EService:Throttled",
    "EGeneral:Temporary lockout",
)
_TRANSIENT = (
    "EService:Unavailable",
    "EService:Busy",
    "EService:Timeout",
    "EGeneral:Internal error",
    # "Market in cancel_only mode", "post_only mode": maintenance.
    "EService:Market in ",
)
_NO_SUCH_PAIR = ("EQuery:Unknown asset pair", "EQuery:Invalid asset pair")
_THROTTLED = re.compile(r"EService:Throttled:\s?([0-9]{1,12})")

# Kraken has names of its own for some assets: XBT is BTC, XDG is DOGE. The oldest assets have a second name, with an X
# before a coin or a Z before a currency. Newer names may begin with X or Z by chance (XTZ, ZRX).
_COMMON = {"XBT": "BTC", "XDG": "DOGE"}
_OWN = {common: own for own, common in _COMMON.items()}
_LEGACY = {
    name: name[1:]
    for name in (
        "XETC", "XETH", "XLTC", "XMLN", "XREP", "XXBT", "XXDG", "XXLM", "XXMR", "XXRP", "XZEC",
        "ZAUD", "ZCAD", "ZEUR", "ZGBP", "ZJPY", "ZUSD",
    )
}  # fmt: skip
# The only id that joins a newer name and an old one (ZUSD). Other ids only look so: XTZUSD is XTZ/USD.
_MIXED = {"USDTZUSD": "USDTUSD"}
# Quotes of 2021, and stable coins since then, to split ids without a separator; the longest ending counts first.
_QUOTES = (
    "PYUSD", "RLUSD", "USDT", "USDC", "USDG", "USDQ", "USDR", "EURC", "EURQ", "EURR", "EURT", "USD", "EUR", "GBP",
    "CAD", "JPY", "AUD", "CHF", "AED", "XBT", "BTC", "ETH", "DAI", "DOT", "SOL",
)  # fmt: skip
_SYMBOL = re.compile(r"[A-Z0-9]{1,30}(?:\.[A-Z0-9]{1,10})?(?:[/-][A-Z0-9]{1,20})?")

# "online", and the states in which some orders are refused. A delisted pair is not in the list at all.
_TRADING = frozenset({"online", "post_only", "limit_only", "reduce_only", "cancel_only"})


def parse_candles(body: bytes, series: Series) -> Candles:
    """Return the newest candles of the pair, oldest first, the current one last; volume is in the base asset.

    Raises ReplyError where the body is malformed or the candles are another pair's, or the refusal in the body.
    """
    if len(body) > _MOST_ROW_BYTES:
        raise too_large(body, most_bytes=_MOST_ROW_BYTES)
    found = _split(body)
    pair, rows = _decoded_rows(body, series.symbol) if found is None else found
    if not _is_named(pair, series.symbol):
        raise wrong_symbol(f"candles of {series.symbol}", pair)
    return _candles(parse_rows(rows, _ROW))


def final_until(body: bytes, candles: Candles) -> int:
    """Return the time from which candles are not committed yet, in Unix ms.

    The reply's `last` is the open time of the newest committed candle. Without `last`, only the newest candle is not
    committed: it "is for the current, not-yet-committed timeframe".
    """
    at = body.rfind(b'"last"')
    last = _LAST.match(body, at) if at >= 0 else None
    if last is not None:
        return int(last[1]) * 1000 + 1
    return int(candles.open_ms[-1]) if candles.count else FOREVER_MS


def _is_named(pair: str, symbol: str) -> bool:
    """Return whether `pair` is one of Kraken's names for the symbol."""
    try:
        return find_symbol(pair) == symbol
    except InputError:
        return False


def _split(body: bytes) -> tuple[str, bytes] | None:
    """Return the pair and the text of its rows; None where the reply does not have Kraken's usual layout."""
    head = _HEAD.match(body)
    at = body.rfind(b'"last"')
    if head is None or at < head.end() or not _TAIL.fullmatch(body, at):
        return None
    rows = body[head.end() : at].rstrip(_BLANKS)
    return (head[1].decode(), rows[:-1].rstrip(_BLANKS)) if rows.endswith(b",") else None


def _decoded_rows(body: bytes, symbol: str) -> tuple[str, bytes]:
    """Return the pair and the text of its rows, for a reply in another layout. Raises the refusal in the body."""
    result = _result(body, symbol, _MOST_ROW_VALUES, _MOST_ROW_VALUES)
    pairs = [name for name in result if name != "last"]
    if len(pairs) != 1 or not isinstance(result[pairs[0]], list):
        raise unexpected(f"the rows of one pair ({symbol})", body)
    return pairs[0], json.dumps(result[pairs[0]]).encode()


def _candles(columns: Sequence[Column]) -> Candles:
    opens = columns[0]
    if len(opens) and not (opens.min() >= 0 and opens.max() <= _LAST_S):
        row = int(np.argmax((opens < 0) | (opens > _LAST_S)))
        raise wrong_field(f"row {row + 1}, field 1 (open_time)", "a time in Unix seconds", int(opens[row]))
    return candles_from(COLUMNS, [opens * 1000, *columns[1:]])


def parse_clock(body: bytes) -> int:
    """Return the provider's time in Unix ms, with a resolution of a second."""
    now_s = _result(body, "").get("unixtime")
    if type(now_s) is not int or not _PLAUSIBLE_S[0] <= now_s <= _PLAUSIBLE_S[1]:
        raise unexpected("a result with unixtime in Unix seconds, of the years 2013 to 2099", body)
    return now_s * 1000


def parse_listing(body: bytes, symbol: str = "") -> Listing:
    """Return the pairs of AssetPairs, which states no limits.

    Pairs without a wsname are left out: they are dark pools, which have no candles.
    """
    entries = _result(body, symbol)
    try:
        return Listing((), tuple(_listed(entry) for entry in entries.values() if entry.get("wsname")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong_listing("AssetPairs", error, body) from error


def _listed(entry: dict[str, Any]) -> Listed:
    own, pair, status = (
        checked_name(text) for text in (entry["altname"], entry["wsname"], entry.get("status", "online"))
    )
    base, slash, quote = pair.partition("/")
    if not slash:
        raise ValueError(f"expected a pair such as XBT/USD as wsname, got {pair!r}")
    base, quote = (checked_name(_COMMON.get(asset, asset)) for asset in (base, quote))
    return Listed(f"{base}/{quote}", own, base, quote, status, status in _TRADING)


def _result(
    body: bytes, symbol: str, most_values: int = _MOST_VALUES, most_containers: int = _MOST_CONTAINERS
) -> dict[str, Any]:
    """Return the object `result` of a reply. Raises the errors that the reply states."""
    # A body has at most as many values as it has commas and opening brackets together.
    containers = body.count(b"[") + body.count(b"{")
    if len(body) > _MOST_BYTES or body.count(b",") > most_values or containers > most_containers:
        raise too_large(body, most_bytes=_MOST_BYTES, most_commas=most_values, most_brackets=most_containers)
    value = load_json(body, "a JSON object with error and result")
    _raise_errors(_errors(value), symbol)
    said = value.get("error") if isinstance(value, dict) else None
    are_texts = isinstance(said, list) and all(isinstance(text, str) for text in said)
    if not are_texts or not isinstance(value.get("result"), dict):
        raise unexpected("a JSON object with error and result", body)
    result: dict[str, Any] = value["result"]
    return result


def _raise_errors(errors: Sequence[str], symbol: str) -> None:
    if errors:
        raise _error_of(errors, 200, symbol, None)


def _errors(value: object) -> list[str]:
    """Return the errors that a decoded reply states. Texts that begin with W are warnings, and left out."""
    error = value.get("error") if isinstance(value, dict) else None
    texts = [error] if isinstance(error, str) else error if isinstance(error, list) else []
    return [text for text in texts if isinstance(text, str) and text and not text.startswith("W")]


def _error_of(errors: Sequence[str], status: int, symbol: str, now_ms: int | None) -> Exception:
    """Return the library's error for the errors of Kraken; the first of them decides.

    `now_ms` is Kraken's time, from which the length of a pause is counted; None where it is unknown.
    """
    said = re.sub(r":\s+", ":", errors[0])
    words = facts_of(status, ", ".join(errors))
    if said.startswith(_PAUSES):
        until = _THROTTLED.match(said)
        asked_s = None
        if until is not None and now_ms is not None:
            asked_s = min(max(0.0, int(until[1]) - now_ms / 1000), 1e9)
        return RateLimited(f"{NAME} asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    if said.startswith(_TRANSIENT):
        return TransportError(f"{NAME} could not answer ({words})", status=status)
    if said.startswith(_NO_SUCH_PAIR):
        return UnknownSymbol(symbol, NAME)
    return ProviderRefused(
        f"{NAME} refused the request ({words})", status=status, code=errors[0][:160], said=", ".join(errors)[:1000]
    )


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a status other than 200, or for the errors that the reply states."""
    # Where a proxy or firewall in front of Kraken answers, the body states no errors, and the status decides.
    errors = _errors(error_object(reply.body))
    if errors and (reply.status == 200 or 400 <= reply.status < 500) and reply.status not in (401, 403, 408, 429, 451):
        return _error_of(errors, reply.status, symbol, now_ms)
    if reply.status == 403:
        return refused_by_firewall(NAME)
    return by_status(NAME, reply, symbol, now_ms, ", ".join(errors))


def find_symbol(text: str, kind: str = "candles") -> str:
    """Return the pair's altname, such as XBTUSD, for BTC/USD, btc-usd, XBT/USD, XBTUSD and XXBTZUSD.

    Raises InputError for other text.
    """
    symbol = text.strip().upper() if isinstance(text, str) and text.isascii() else ""
    if _SYMBOL.fullmatch(symbol):
        base, slash, quote = symbol.replace("-", "/").partition("/")
        found = _altname(f"{_asset(base)}{_asset(quote)}" if slash else symbol)
        if _SYMBOL.fullmatch(found):
            return found
    raise not_a_symbol(NAME, text, "BASE/QUOTE such as BTC/USD, or Kraken's own name of a pair such as XBTUSD")


def _altname(pair: str) -> str:
    if pair[:4] in _LEGACY and pair[4:] in _LEGACY:
        return _LEGACY[pair[:4]] + _LEGACY[pair[4:]]
    base, quote = _split_pair(_MIXED.get(pair, pair))
    return f"{_OWN.get(base, base)}{_OWN.get(quote, quote)}"


def _asset(name: str) -> str:
    plain = _LEGACY.get(name, name)
    return _OWN.get(plain, plain)


def _split_pair(pair: str) -> tuple[str, str]:
    """Return base and quote; quote is "" where the end of the pair is not a known quote."""
    for quote in _QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            return pair[: -len(quote)], quote
    return pair, ""


def unified(provider_symbol: str) -> str:
    """Return BASE/QUOTE, or the altname where its quote is not known."""
    base, quote = _split_pair(provider_symbol)
    return f"{_COMMON.get(base, base)}/{_COMMON.get(quote, quote)}" if quote else base


def call_candles(series: Series, span: Span, rows: int) -> Call:
    """Return the call for all candles that Kraken has: one reply serves every span."""
    return Call("/0/public/OHLC", (("pair", series.symbol), ("interval", str(INTERVALS[series.timeframe.name]))))


# Where a list of several hundred pairs was sent, the network in front of Kraken failed (status 520). Without a list,
# the reply has all pairs, in 430 KB.
_MOST_PAIRS = 100
# What a ticker has in lists: its name here, its name there, and its place in the list. Of the volumes, the first is
# that since midnight in UTC, the second that of 24 hours.
_PRICES = (("last", "c", 0), ("bid", "b", 0), ("ask", "a", 0), ("volume", "v", 1))


def parse_tickers(body: bytes, symbols: Sequence[str]) -> tuple[Ticker, ...]:
    """Return the tickers of these pairs that the reply has; it states no time.

    Raises ReplyError where the body is malformed, or the refusal in the body.
    """
    rows = _result(body, symbols[0] if len(symbols) == 1 else ", ".join(symbols))
    found, wanted = [], frozenset(symbols)
    for name, row in rows.items():
        symbol = ""
        with contextlib.suppress(InputError):
            symbol = find_symbol(name)
        if symbol in wanted:
            found.append(_ticker(symbol, check_row(row, f"the ticker of {symbol}")))
    return named_once(found)


def _ticker(symbol: str, lists: Mapping[str, Any]) -> Ticker:
    row, place = {}, f"the ticker of {symbol}"
    for name, theirs, at in _PRICES:
        values = lists.get(theirs, [])
        if not isinstance(values, list) or 0 < len(values) <= at:
            raise wrong_field(f"{place}, field {theirs}", "a list of at least two values", values)
        row[name] = values[at] if values else None
    last, bid, ask = (read_price(row, name, place) for name in ("last", "bid", "ask"))
    return Ticker(symbol, last, read_volume(row, "volume", place), bid, ask)


def _quote_requests(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    if len(symbols) > _MOST_PAIRS:
        return _quotes_of_all(symbols, settings)
    return [_quote_request(part, (("pair", ",".join(part)),)) for part in batches(symbols, _MOST_PAIRS)]


def _quotes_of_all(symbols: Sequence[str], settings: Mapping[str, str]) -> list[QuoteRequest]:
    return [_quote_request(tuple(symbols), ())]


def _quote_request(symbols: tuple[str, ...], params: tuple[tuple[str, str], ...]) -> QuoteRequest:
    parse = functools.partial(parse_tickers, symbols=symbols)
    return QuoteRequest(symbols, Call("/0/public/Ticker", params), parse)


def describe(provider_symbol: str) -> Question[Listing]:
    """Return the question for one pair."""
    parse = functools.partial(parse_listing, symbol=provider_symbol)
    return Question(Call("/0/public/AssetPairs", (("pair", provider_symbol),)), parse)


def _depth(series: Series) -> int:
    return DEPTH


PROVIDERS = (
    Provider(
        name="kraken",
        hosts=("https://api.kraken.com",),
        feeds={
            "candles": Feed(
                timeframes=tuple(INTERVALS),
                columns=COLUMNS,
                call=call_candles,
                parse=parse_candles,
                limit=DEPTH,
                finality=FINALITY,
                final_until=final_until,
                off_grid=("1w",),  # no page says on which day weeks open
                replies_with_all=True,
                depth=_depth,
            )
        },
        clock=Question(Call("/0/public/Time"), parse_clock),
        describe=describe,
        listing=Question(Call("/0/public/AssetPairs"), parse_listing),
        # No number is published; one call a second is within the limits, which are per address.
        default_limits=(Limit(1, 1, "requests"),),
        refusal=refusal,
        provider_symbol=find_symbol,
        unified=unified,
        streams=make_streams(INTERVALS, unified),
        quotes=QuoteFeed(_quote_requests, Always("crypto"), NAME, _quotes_of_all),
    ),
)
