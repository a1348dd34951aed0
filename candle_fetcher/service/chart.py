"""What the page shows of a series: as many candles as a screen has room for, its gaps, and what the cache has of it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from candle_fetcher.core.candles import OHLCV, candles_from
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.thinning import thin
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.service.candles import CandleCall, admit
from candle_fetcher.service.encoding import PIECE_ROWS
from candle_fetcher.service.parameters import (
    CHECKED,
    NO_CACHE,
    Days,
    EndTime,
    Limit,
    ProviderName,
    StartTime,
    Symbol,
    TimeframeText,
    answers,
    instant_of,
)
from candle_fetcher.service.refusals import ServiceRefusal
from candle_fetcher.service.state import ServiceState, state_of
from candle_fetcher.service.tables import rows_of

_MOST_GAPS = 2_000
_MOST_SPANS = 20_000
_FACTS = ("provider", "symbol", "timeframe", "origin", "start", "end", "rows", "gap_count")

router = APIRouter()


@router.get(
    "/api/chart",
    name="chart",
    summary="Candles for a screen: coarser ones where there are many, and the gaps",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("columns of the candles, and gaps with their causes", "Document"),
)
def chart(
    request: Request,
    symbol: Symbol,
    timeframe: TimeframeText,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    limit: Limit = None,
    provider: ProviderName = None,
    points: Annotated[int, Query(ge=10, le=5_000, description="the most candles")] = 1_000,
) -> Response:
    """Return settled candles as columns: `t` in Unix ms, `o`, `h`, `l`, `c`, `v`.

    Of more than `points` candles coarser ones are made, with each high and low; `cell` is then their timeframe, else
    null. `rows` counts the candles behind them. `gaps` has the first 2,000 with their causes; `gap_count` counts all.
    """
    service = state_of(request)
    call = CandleCall(symbol, timeframe, instant_of(start), instant_of(end), days, limit, provider, "candles", "ohlcv")
    try:
        rows, is_cold = admit(service, request, call, "csv")
    except ServiceRefusal as error:
        if error.status != 413:
            raise
        raise _too_many(**error.facts) from None
    # Few are prepared at once, until they are thinned: each holds all its candles until then.
    with service.lanes.cold(is_needed=is_cold), service.lanes.long(is_needed=rows > 2 * PIECE_ROWS):
        document = _document(service, call, points)
    return JSONResponse(document, headers=NO_CACHE)


def _too_many(rows: int, most: int, **others: object) -> ServiceRefusal:
    message = f"the range has up to {rows:,} candles, and a chart at most {most:,}"
    fix = "choose a shorter range, or a longer timeframe"
    return ServiceRefusal(413, "TooManyRows", message, rows=rows, most=most, fix=fix)


def _document(service: ServiceState, call: CandleCall, points: int) -> dict[str, Any]:
    frame = service.fetcher.fetch(call.symbol, call.timeframe, call.start, call.end, **call.words)
    manifest = frame.attrs[MANIFEST]
    gaps = manifest["gaps"]
    if len(gaps) < manifest["gap_count"]:  # it lists the first ones alone
        span = (manifest["start"], manifest["end"])
        found = service.fetcher.gaps(call.symbol, call.timeframe, *span, provider=call.provider)
        gaps = rows_of(found.head(_MOST_GAPS))
    facts = {name: manifest[name] for name in _FACTS}
    return {**facts, "gaps": gaps, **_columns_of(frame, points)}


def _columns_of(frame: pd.DataFrame, points: int) -> dict[str, Any]:
    """Return the candles as they are drawn, with the timeframe of those that were made coarser."""
    columns = [index_ms(frame), *(frame[name].to_numpy() for name in OHLCV)]
    timeframe = parse_timeframe(frame.attrs[MANIFEST]["timeframe"])
    thinned = thin(candles_from(("open_time", *OHLCV), columns), timeframe, points)
    kept = thinned.candles
    found: dict[str, Any] = {"cell": None if thinned.cell is None else str(thinned.cell), "t": kept.open_ms.tolist()}
    for letter, name in zip("ohlcv", OHLCV, strict=True):
        values = kept.floats(name)
        found[letter] = [None if math.isnan(value) else value for value in values.tolist()]
    return found


@router.get(
    "/api/cache",
    name="cache",
    summary="What the cache has",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("the series, and the size of it all", "Document"),
)
def cache(request: Request) -> Response:
    """Return each stored series with its rows, first and last candle and bytes; and the size of both tiers."""
    tiers = state_of(request).fetcher.cache
    stats = tiers.stats()._asdict()
    document = {name: value for name, value in stats.items() if name not in ("path", "problem")}
    return JSONResponse({**document, "series": rows_of(tiers.list())}, headers={"Cache-Control": "no-store"})


@router.get(
    "/api/coverage",
    name="coverage",
    summary="What the cache knows of a series, span by span",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("a list of spans", "Rows"),
)
def coverage(
    request: Request,
    symbol: Symbol,
    timeframe: TimeframeText,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    provider: ProviderName = None,
) -> Response:
    """Return start, end and state of each span, 20,000 at most: stored, missing and why. No provider is asked."""
    span = (instant_of(start), instant_of(end))
    frame = state_of(request).fetcher.coverage(symbol, timeframe, *span, days=days, provider=provider)
    if len(frame) > _MOST_SPANS:
        message = f"there are {len(frame):,} spans, and an answer has at most {_MOST_SPANS:,}"
        facts: dict[str, Any] = {"rows": len(frame), "most": _MOST_SPANS, "fix": "choose a shorter range"}
        raise ServiceRefusal(413, "TooManyRows", message, **facts)
    return JSONResponse(rows_of(frame), headers=NO_CACHE)
