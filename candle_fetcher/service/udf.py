"""TradingView's UDF protocol: its charts, and programs that speak it, take the service as a datafeed.

Every reply is 200, since the protocol has errors in the body. Times are Unix seconds.
"""

from __future__ import annotations

import json
import math
import time
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from candle_fetcher.core.errors import CandleFetcherError, NotOffered, UnknownSymbol
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.service.binance import read_klines
from candle_fetcher.service.parameters import CHECKED, ERRORS, ProviderName
from candle_fetcher.service.refusals import ServiceRefusal, refusal_of, without_paths
from candle_fetcher.service.state import client_of, state_of
from candle_fetcher.service.streams import ask_quotes, read_topics
from candle_fetcher.service.tables import list_symbols

router = APIRouter(prefix="/udf")

# TradingView's resolutions and our timeframes.
RESOLUTIONS = {
    "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h", "360": "6h",
    "480": "8h", "720": "12h", "1D": "1d", "1W": "1w", "1M": "1M",
}  # fmt: skip
_SAME = {"D": "1D", "W": "1W", "M": "1M"}
_INTRADAY = [name for name in RESOLUTIONS if name.isdigit()]
_NEW_YORK = "XNYS"  # the exchange that sets the hours of stocks, for all providers
_MOST_BARS = 20_000
_MOST_FOUND = 100
_USUAL_BARS = 500
_JSON: dict[int | str, dict[str, Any]] = {
    **{status: ERRORS[status] for status in (400, 401, 403, 421, 429, 503)},
    200: {"description": "as UDF says", "content": {"application/json": {"schema": {}}}},
}


def refuse(error: Exception) -> Response:
    """Return the reply by which UDF says what the error says."""
    if isinstance(error, UnknownSymbol):
        return JSONResponse({"s": "error", "errmsg": "unknown_symbol"})
    if isinstance(error, CandleFetcherError):
        return JSONResponse({"s": "error", "errmsg": without_paths(str(error))})
    if isinstance(error, ServiceRefusal) and error.status in (429, 503):
        return refusal_of(error)
    return JSONResponse({"s": "error", "errmsg": error.message if isinstance(error, ServiceRefusal) else "fault"})


@router.get(
    "/config", name="udf_config", summary="UDF: what the datafeed can do", response_class=Response, responses=_JSON
)
async def config() -> Response:
    """Return the resolutions and which parts of the protocol there are."""
    return JSONResponse(
        {
            "supports_search": True,
            "supports_group_request": False,
            "supported_resolutions": list(RESOLUTIONS),
            "supports_marks": False,
            "supports_timescale_marks": False,
            "supports_time": True,
            "exchanges": [],
            "symbols_types": [],
        }
    )


@router.get(
    "/time",
    name="udf_time",
    summary="UDF: the time",
    response_class=Response,
    responses={200: {"description": "Unix seconds", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def server_time() -> Response:
    """Return the time of this machine in Unix seconds, as text."""
    return PlainTextResponse(str(int(time.time())))


@router.get("/symbols", name="udf_symbols", summary="UDF: one symbol", response_class=Response, responses=_JSON)
def resolve(request: Request, symbol: Annotated[str, Query(max_length=64)]) -> Response:
    """Return what a chart needs to know of a symbol, such as binance:BTC/USDT or BTCUSDT."""
    provider, name = _split(symbol)
    service, client = state_of(request), client_of(request)
    try:
        canonical = _listed(list_symbols(service, client, provider), name)
    except NotOffered:  # a provider that lists none, as those of stocks: the candles say whether it is there
        canonical = name
    if canonical is None:
        return JSONResponse({"s": "error", "errmsg": "unknown_symbol"})
    edge = service.edges.newest(client, canonical, "1d", provider)
    ticker = canonical if provider is None else f"{provider}:{canonical}"
    exchange = provider or str(edge.attrs["candle_fetcher"]["provider"])
    return JSONResponse(
        {
            "name": canonical,
            "ticker": ticker,
            "description": f"{canonical} on {exchange}",
            **_hours(exchange),
            "exchange": exchange,
            "listed_exchange": exchange,
            "minmov": 1,
            "pricescale": _price_scale(edge),
            "has_intraday": True,
            "has_daily": True,
            "has_weekly_and_monthly": True,
            "supported_resolutions": list(RESOLUTIONS),
            "intraday_multipliers": _INTRADAY,
            "volume_precision": 8,
            "data_status": "streaming",
        }
    )


def _hours(provider: str) -> dict[str, str]:
    """Return the type of the provider's symbols, and when they are traded, as charts want it."""
    offers = CandleFetcher.providers().set_index("provider")
    if provider in offers.index and offers.at[provider, "sessions"] == _NEW_YORK:
        return {"type": "stock", "session": "0930-1600", "timezone": "America/New_York"}
    return {"type": "crypto", "session": "24x7", "timezone": "Etc/UTC"}


def _split(symbol: str) -> tuple[str | None, str]:
    """Return provider and symbol of `provider:symbol`; TradingView writes the exchange in capitals."""
    name, colon, rest = symbol.partition(":")
    return (name.strip().lower(), rest) if colon and "/" not in name else (None, symbol)


def _listed(frame: pd.DataFrame, name: str) -> str | None:
    """Return the canonical symbol of a name in either spelling; None where it is not listed."""
    plain = name.strip().upper()
    found = frame[(frame["symbol"] == plain) | (frame["provider_symbol"].astype(str).str.upper() == plain)]
    return str(found["symbol"].iloc[0]) if len(found) else None


def _price_scale(frame: pd.DataFrame) -> int:
    """Return 10 to the number of decimals that the newest prices have, at most 8."""
    texts = [
        f"{value:.8f}".rstrip("0") for value in frame[["open", "high", "low", "close"]].to_numpy().ravel().tolist()
    ]
    return int(10 ** max((len(text.partition(".")[2]) for text in texts), default=2))


@router.get(
    "/search",
    name="udf_search",
    summary="UDF: symbols by a part of their name",
    dependencies=CHECKED,
    response_class=Response,
    responses=_JSON,
)
def search(
    request: Request,
    query: Annotated[str, Query(max_length=40)] = "",
    type: Annotated[str, Query(max_length=40)] = "",  # noqa: A002 - a word of the protocol
    exchange: Annotated[str, Query(max_length=40)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 30,
    provider: ProviderName = None,
) -> Response:
    """Return the symbols that have the query in them, those that begin with it first."""
    named, text = _split(query)
    provider = provider or named or exchange.lower() or None
    frame = list_symbols(state_of(request), client_of(request), provider)
    needle = text.strip().upper().replace("/", "")
    names = frame["symbol"].str.replace("/", "", regex=False)
    order = (~names.str.startswith(needle)).astype(int)
    found = frame.assign(_order=order)[names.str.contains(needle, regex=False)]
    found = found.sort_values(["_order", "symbol"], kind="stable").head(min(limit, _MOST_FOUND))
    where = provider or ""
    return JSONResponse(
        [
            {
                "symbol": row.symbol,
                "full_name": f"{where}:{row.symbol}" if where else row.symbol,
                "description": row.symbol,
                "exchange": where,
                "ticker": f"{where}:{row.symbol}" if where else row.symbol,
                "type": "crypto",
            }
            for row in found.itertuples(index=False)
        ]
    )


@router.get("/history", name="udf_history", summary="UDF: bars", response_class=Response, responses=_JSON)
def history(
    request: Request,
    symbol: Annotated[str, Query(max_length=64)],
    resolution: Annotated[str, Query(max_length=8)],
    to: Annotated[float, Query(ge=0, le=1e11, description="Unix seconds, excluded")],
    from_: Annotated[float | None, Query(alias="from", ge=0, le=1e11, description="Unix seconds")] = None,
    countback: Annotated[int | None, Query(ge=1, le=10**6, description="so many bars before `to`")] = None,
) -> Response:
    """Return the bars that open in [from, to), or the last `countback` before `to`; the forming one included."""
    timeframe = RESOLUTIONS.get(_SAME.get(resolution, resolution))
    if timeframe is None:
        return JSONResponse({"s": "error", "errmsg": f"unknown_resolution; expected {', '.join(RESOLUTIONS)}"})
    provider, name = _split(symbol)
    service, client, grid = state_of(request), client_of(request), parse_timeframe(timeframe)
    end_ms, start_ms = math.ceil(to * 1000) - 1, None if from_ is None else math.ceil(from_ * 1000)
    if countback is None and start_ms is not None and start_ms <= end_ms:
        slots = grid.first_slot(end_ms + 1) - grid.first_slot(start_ms)
        if slots > _MOST_BARS:
            return JSONResponse({"s": "error", "errmsg": f"more than {_MOST_BARS} bars; ask for a shorter range"})
    if countback is not None:
        start_ms = None
    count = min(countback or (_MOST_BARS if start_ms is not None else _USUAL_BARS), _MOST_BARS)
    frame = read_klines(service, client, name, timeframe, start_ms, end_ms, count, provider)
    if len(frame):
        seconds = (index_ms(frame) // 1000).tolist()
        columns = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
        return JSONResponse(
            {"s": "ok", "t": seconds, **{key: frame[column].tolist() for key, column in columns.items()}}
        )
    document: dict[str, Any] = {"s": "no_data"}
    if start_ms is not None:
        before = read_klines(service, client, name, timeframe, None, start_ms - 1, 1, provider)
        if len(before):
            document["nextTime"] = int(index_ms(before)[-1]) // 1000
    return JSONResponse(document)


@router.get("/quotes", name="udf_quotes", summary="UDF: quotes", response_class=Response, responses=_JSON)
def quotes(request: Request, symbols: Annotated[str, Query(max_length=3000)]) -> Response:
    """Return the newest prices of symbols that are separated by commas; what a provider does not say is left out."""
    names = [name for name in symbols.split(",") if name.strip()]
    topics = read_topics(symbols, None, None)
    texts = ask_quotes(state_of(request), client_of(request), topics)
    return JSONResponse({"s": "ok", "d": [_quote(*one) for one in zip(names, texts, strict=False)]})


def _quote(name: str, text: str) -> dict[str, Any]:
    found = json.loads(text)
    if found["last_price"] is None:
        return {"s": "error", "n": name, "v": {}}
    bid, ask = found["bid_price"], found["ask_price"]
    values = {
        "short_name": found["name"],
        "exchange": found["exchange"],
        "description": found["name"],
        "lp": found["last_price"],
        "bid": bid,
        "ask": ask,
        "spread": None if bid is None or ask is None else ask - bid,
        "volume": found["volume"],
    }
    return {"s": "ok", "n": name, "v": {key: value for key, value in values.items() if value is not None}}
