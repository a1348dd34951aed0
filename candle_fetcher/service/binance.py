"""Binance's REST dialect over the cache: klines, exchangeInfo and time as api.binance.com spells them.

Programs written for Binance (ccxt, freqtrade) read through the cache by this: settled candles come out of it, and what
has not settled is asked for at most once a second for all clients. Errors are Binance's own codes.
Source: binance-spot-api-docs `rest-api.md`, `errors.md`.
"""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from candle_fetcher.core.errors import Banned, InputError, RateLimited, UnknownSymbol
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.service.edges import EDGE_CANDLES
from candle_fetcher.service.parameters import ERRORS
from candle_fetcher.service.refusals import ServiceRefusal
from candle_fetcher.service.state import ServiceState, client_of, state_of
from candle_fetcher.service.tables import list_symbols

router = APIRouter(prefix="/binance/api/v3")

INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_PROVIDER = "binance"
_OPENED_MS = 1_483_228_800_000  # 2017: before the first candle of Binance
_MICROSECONDS = 10**14  # a time above this is in microseconds
_MOST, _USUAL = 1000, 500
_DECIMALS = 8
_FLOATS = ("open", "high", "low", "close", "volume")
_MORE = ("quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
# A candle that closed longer ago than this, and the few candles before it, are read from the cache alone.
_SETTLES_MS = 10_000
_INTEGER = re.compile(r"[0-9]{1,20}", re.ASCII)
_SYMBOL = re.compile(r"(?:(?![a-z])[\w\-.]){1,50}")  # there are symbols in Chinese
# Above it a float64 has fewer than eight exact decimals, and its shortest text is what was sent.
_EXACT_BELOW = 1e7
_TYPE = "application/json;charset=UTF-8"
_INVALID_SYMBOL = (-1121, "Invalid symbol.")
_JSON: dict[int | str, dict[str, Any]] = {
    **{status: ERRORS[status] for status in (401, 403, 421)},
    200: {"description": "as Binance answers", "content": {"application/json": {"schema": {}}}},
    400: {"description": "Binance's code and msg"},
    418: {"description": "Binance has banned the address of the service"},
    429: {"description": "wait as long as Retry-After says"},
    503: {"description": "the service or Binance cannot answer now"},
}


class BinanceRefusal(ServiceRefusal):
    """A request that Binance would refuse, with its code and message."""

    def __init__(self, code: int, message: str, *, status: int = 400, retry_after_s: float | None = None) -> None:
        self.code = code
        super().__init__(status, "BinanceRefusal", message, retry_after_s=retry_after_s)


def refuse(error: Exception) -> Response:
    """Return the reply by which Binance says what the error says."""
    code, message, status, wait_s = (
        -1001,
        "Internal error; unable to process your request. Please try again.",
        503,
        None,
    )
    if isinstance(error, BinanceRefusal):
        code, message, status, wait_s = error.code, error.message, error.status, error.retry_after_s
    elif isinstance(error, UnknownSymbol):
        (code, message), status = _INVALID_SYMBOL, 400
    elif isinstance(error, InputError) or (isinstance(error, ServiceRefusal) and error.status == 400):
        code, message, status = -1100, "Illegal characters found in a parameter.", 400
    elif isinstance(error, RateLimited) or (isinstance(error, ServiceRefusal) and error.status == 429):
        code, message = -1003, "Too many requests; please use the websocket for live updates to avoid polling the API."
        status, wait_s = 418 if isinstance(error, Banned) else 429, error.retry_after_s or 1.0
    headers = {"Retry-After": str(max(1, round(wait_s)))} if wait_s is not None else {}
    return _reply({"code": code, "msg": message}, status, headers)


def _reply(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type=_TYPE)


def _weighed(request: Request, weight: int) -> dict[str, str]:
    """Return the headers that say how much weight the client has used in this minute."""
    used = state_of(request).weights
    key = (client_of(request), int(time.time() // 60))
    counts = used.get(key)
    if counts is None:
        used.put(key, counts := [0])
    counts[0] += weight
    return {"x-mbx-used-weight": str(counts[0]), "x-mbx-used-weight-1m": str(counts[0])}


def _check_names(request: Request, known: tuple[str, ...]) -> None:
    pairs = request.query_params.multi_items()
    if len(dict(pairs)) < len(pairs):
        raise BinanceRefusal(-1101, f"Too many parameters; expected '{len(dict(pairs))}' and received '{len(pairs)}'.")
    read = sum(name in known for name, _ in pairs)
    if read < len(pairs):
        raise BinanceRefusal(
            -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(pairs)}'."
        )


def _integer(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not _INTEGER.fullmatch(value):
        raise BinanceRefusal(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        )
    return int(value)


def _time(name: str, value: str | None) -> int | None:
    ms = _integer(name, value)
    return ms // 1000 if ms is not None and ms > _MICROSECONDS else ms


def _symbol(value: str | None) -> str:
    if not value:
        raise BinanceRefusal(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if not _SYMBOL.fullmatch(value):
        raise BinanceRefusal(
            -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'."
        )
    return value


@router.get(
    "/ping", name="binance_ping", summary="Binance: test the connection", response_class=Response, responses=_JSON
)
async def ping(request: Request) -> Response:
    """Return {}."""
    return _reply(b"{}", headers=_weighed(request, 1))


@router.get("/time", name="binance_time", summary="Binance: the time", response_class=Response, responses=_JSON)
async def server_time(request: Request) -> Response:
    """Return the time of this machine as serverTime."""
    return _reply({"serverTime": int(time.time() * 1000)}, headers=_weighed(request, 1))


@router.get(
    "/exchangeInfo", name="binance_exchange_info", summary="Binance: symbols", response_class=Response, responses=_JSON
)
def exchange_info(
    request: Request,
    symbol: Annotated[str | None, Query()] = None,
    symbols: Annotated[str | None, Query(description='["BTCUSDT","ETHUSDT"]')] = None,
    permissions: Annotated[str | None, Query()] = None,
    show_permission_sets: Annotated[str | None, Query(alias="showPermissionSets")] = None,
    symbol_status: Annotated[str | None, Query(alias="symbolStatus")] = None,
) -> Response:
    """Return the symbols that the provider lists, with what is known of them; filters for orders are left out."""
    _check_names(request, ("symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"))
    frame = list_symbols(state_of(request), client_of(request), _PROVIDER)
    names = [_symbol(symbol)] if symbol is not None else None if symbols is None else _names(symbols)
    if names is not None:
        if not set(names) <= set(frame["provider_symbol"]):
            raise BinanceRefusal(*_INVALID_SYMBOL)
        frame = frame[frame["provider_symbol"].isin(names)]
    if symbol_status is not None:
        frame = frame[frame["status"] == symbol_status]
    document = {
        "timezone": "UTC",
        "serverTime": int(time.time() * 1000),
        "rateLimits": [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}],
        "exchangeFilters": [],
        "symbols": [_listing(row) for row in frame.itertuples(index=False)],
    }
    return _reply(document, headers=_weighed(request, 20))


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise BinanceRefusal(-1100, "Illegal characters found in parameter 'symbols'.")
    return [_symbol(one) for one in names]


def _listing(row: Any) -> dict[str, Any]:
    is_trading = row.status == "TRADING"
    return {
        "symbol": row.provider_symbol,
        "status": row.status,
        "baseAsset": row.base,
        "baseAssetPrecision": _DECIMALS,
        "quoteAsset": row.quote,
        "quotePrecision": _DECIMALS,
        "quoteAssetPrecision": _DECIMALS,
        "orderTypes": [],
        "isSpotTradingAllowed": is_trading,
        "isMarginTradingAllowed": False,
        "filters": [],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


@router.get("/klines", name="binance_klines", summary="Binance: klines", response_class=Response, responses=_JSON)
def klines(
    request: Request,
    symbol: Annotated[str | None, Query(description="such as BTCUSDT")] = None,
    interval: Annotated[str | None, Query(description=", ".join(INTERVALS))] = None,
    start_time: Annotated[str | None, Query(alias="startTime", description="Unix ms")] = None,
    end_time: Annotated[str | None, Query(alias="endTime", description="Unix ms, included")] = None,
    limit: Annotated[str | None, Query(description="default 500, at most 1000")] = None,
    time_zone: Annotated[str | None, Query(alias="timeZone", description="0")] = None,
) -> Response:
    """Return klines as Binance does, the forming one included: settled ones out of the cache."""
    _check_names(request, ("symbol", "interval", "startTime", "endTime", "limit", "timeZone"))
    name = _symbol(symbol)
    if not interval:
        raise BinanceRefusal(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
    if interval not in INTERVALS:
        raise BinanceRefusal(-1120, "Invalid interval.")
    if time_zone not in (None, "0", "00:00", "+00:00", "-00:00"):
        raise BinanceRefusal(-1130, "Data sent for parameter 'timeZone' is not valid.")
    start_ms, end_ms, count = _time("startTime", start_time), _time("endTime", end_time), _integer("limit", limit)
    if count == 0:
        raise BinanceRefusal(-1130, "Data sent for parameter 'limit' is not valid.")
    count = min(count or _USUAL, _MOST)
    frame = read_klines(state_of(request), client_of(request), name, interval, start_ms, end_ms, count)
    return _reply(_kline_text(frame), headers=_weighed(request, 2))


def read_klines(
    service: ServiceState,
    client: str,
    symbol: str,
    timeframe: str,
    start_ms: int | None,
    end_ms: int | None,
    count: int,
    provider: str | None = _PROVIDER,
) -> pd.DataFrame:
    """Return the candles, the forming one included, that open in [start_ms, end_ms]: the first `count` of them, or the
    last where there is no start. All columns. Raises what `fetch` raises."""
    grid, now_ms = parse_timeframe(timeframe), int(time.time() * 1000)
    # What opens before this is settled: so many candles at the edge are asked for together.
    sure_ms = grid.open_ms(grid.ordinal(now_ms - _SETTLES_MS) - EDGE_CANDLES // 2)
    stop_ms = (min(now_ms, end_ms) if end_ms is not None else now_ms) + 1
    start_ms = None if start_ms is None else max(start_ms, _OPENED_MS)
    if start_ms is not None and start_ms >= stop_ms:
        stop_ms = start_ms
    settled = None
    if start_ms is not None and start_ms < min(stop_ms, sure_ms):
        settled = _settled(service, client, symbol, timeframe, start_ms, min(stop_ms, sure_ms), count, provider)
        if len(settled) == count or stop_ms <= sure_ms:
            return settled
    elif start_ms is None and _OPENED_MS < stop_ms <= sure_ms:
        return _settled(service, client, symbol, timeframe, None, stop_ms, count, provider)
    edge = service.edges.newest(client, symbol, timeframe, provider)
    opens_ms = index_ms(edge)
    if not len(edge) or stop_ms <= _OPENED_MS:
        return edge.iloc[:0] if settled is None else settled
    first_ms = int(opens_ms[0])
    lower_ms = max(first_ms, start_ms or 0)
    edge = edge[(opens_ms >= lower_ms) & (opens_ms < stop_ms)]
    left = count - len(edge)
    if start_ms is None:
        before = _settled(service, client, symbol, timeframe, None, first_ms, left, provider) if left > 0 else None
        return _joined(before, edge).iloc[-count:]
    if start_ms < first_ms:
        settled = _settled(service, client, symbol, timeframe, start_ms, min(stop_ms, first_ms), count, provider)
    return _joined(settled if start_ms < first_ms else None, edge).iloc[:count]


def _joined(before: pd.DataFrame | None, edge: pd.DataFrame) -> pd.DataFrame:
    edge = edge.drop(columns="is_closed", errors="ignore")
    if before is None or not len(before):
        return edge
    before.attrs = edge.attrs = {}  # of parts: they describe no joined frame
    return pd.concat([before, edge])


def _settled(
    service: ServiceState,
    client: str,
    symbol: str,
    timeframe: str,
    start_ms: int | None,
    stop_ms: int,
    count: int,
    provider: str | None,
) -> pd.DataFrame:
    """Return settled candles out of the cache; what it lacks is fetched into it."""
    words: dict[str, Any] = {"limit": count, "provider": provider}
    plan = service.fetcher.plan(symbol, timeframe, start_ms, stop_ms, **words)
    service.budget.charge(client, plan.requests)
    with service.lanes.cold(is_needed=plan.requests > 0):
        frame: pd.DataFrame = service.fetcher.fetch(symbol, timeframe, start_ms, stop_ms, columns="all", **words)
        return frame


def _kline_text(frame: pd.DataFrame) -> bytes:
    """Return the rows as Binance writes them. Raises BinanceRefusal where a column is not known."""
    if frame[[*_FLOATS, *_MORE, "trades", "close_time"]].isna().to_numpy().any():
        raise BinanceRefusal(-1001, "The stored candles lack columns of Binance's klines.", status=503)
    closes = frame["close_time"].dt.tz_localize(None).to_numpy().astype("M8[ms]").astype("int64").tolist()
    texts = {name: _decimals(frame[name].tolist()) for name in (*_FLOATS, *_MORE)}
    columns = (
        index_ms(frame).tolist(),
        *(texts[name] for name in _FLOATS),
        closes,
        texts["quote_volume"],
        frame["trades"].tolist(),
        texts["taker_buy_volume"],
        texts["taker_buy_quote_volume"],
    )
    rows = [
        f'[{at},"{o}","{h}","{low}","{c}","{v}",{closed},"{quote}",{trades},"{taker}","{taker_quote}","0"]'
        for at, o, h, low, c, v, closed, quote, trades, taker, taker_quote in zip(*columns, strict=True)
    ]
    return f"[{','.join(rows)}]".encode()


def _decimals(values: list[float]) -> list[str]:
    """Return each number with eight decimals, as Binance prints it."""
    return [f"{value:.8f}" if abs(value) < _EXACT_BELOW else f"{Decimal(repr(value)):.8f}" for value in values]
