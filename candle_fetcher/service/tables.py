"""The routes that answer as the calls of the same names: symbols, providers, gaps, plan, funding."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.gap import iso
from candle_fetcher.core.types import CandleKind
from candle_fetcher.service.encoding import CAPS
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
from candle_fetcher.service.state import ServiceState, client_of, state_of

# A call of unforeseeable requests counts as so many.
_FUNDING_COST = 10
_LISTING_COST = 1

router = APIRouter()
Kind = Annotated[CandleKind, Query(description="candles; mark, index, premium on Binance futures")]
_LIST = answers("a list of rows", "Rows")


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON-able dicts: times as 2024-01-01T00:00:00Z, None where there is no value."""
    columns: dict[str, list[Any]] = {}
    for name in frame:
        values = frame[name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            times = values.dt.tz_localize(None).to_numpy().astype("M8[ms]").astype("int64")
            columns[str(name)] = [None if bad else iso(int(ms)) for ms, bad in zip(times, values.isna(), strict=True)]
        else:
            plain = values.astype(object)
            columns[str(name)] = plain.where(values.notna(), None).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@router.get(
    "/api/symbols",
    name="symbols",
    summary="What a provider lists",
    dependencies=CHECKED,
    response_class=Response,
    responses=_LIST,
)
def symbols(
    request: Request,
    provider: ProviderName = None,
    query: Annotated[str | None, Query(max_length=40, description="a part of the symbol")] = None,
    limit: Annotated[int | None, Query(ge=1, le=100_000, description="the most rows")] = None,
) -> Response:
    """Return symbol, provider_symbol, base, quote and status of each. The list is kept for a day."""
    frame = list_symbols(state_of(request), client_of(request), provider)
    if query:
        needle = query.replace("/", "").replace("-", "").lower()
        plain = frame["symbol"].str.replace("/", "", regex=False).str.lower()
        ids = frame["provider_symbol"].astype(str).str.lower()
        frame = frame[plain.str.contains(needle, regex=False) | ids.str.contains(query.lower(), regex=False)]
    return JSONResponse(rows_of(frame.head(limit) if limit is not None else frame), headers=NO_CACHE)


def list_symbols(service: ServiceState, client: str, provider: str | None) -> pd.DataFrame:
    """Return what the provider lists. Raises what `symbols` raises."""
    name = (provider or "").lower()
    known = service.settled.get(("symbols", name))
    service.budget.charge(client, 0 if known is not None else _LISTING_COST)
    with service.lanes.cold(is_needed=known is None):
        frame = service.fetcher.symbols(provider=provider)
    service.settled.put(("symbols", name), (0.0, len(frame)))
    return frame


@router.get(
    "/api/providers",
    name="providers",
    summary="What each provider offers",
    dependencies=CHECKED,
    response_class=Response,
    responses=_LIST,
)
def providers(request: Request) -> Response:
    """Return timeframes, kinds, history, limits and settings of each provider. No provider is asked."""
    return JSONResponse(rows_of(state_of(request).fetcher.providers()), headers=NO_CACHE)


@router.get(
    "/api/gaps",
    name="gaps",
    summary="The missing candles of a range, with their causes",
    dependencies=CHECKED,
    response_class=Response,
    responses=_LIST,
)
def gaps(
    request: Request,
    symbol: Symbol,
    timeframe: TimeframeText,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    provider: ProviderName = None,
    kind: Kind = "candles",
) -> Response:
    """Return first and last missing open time, count and cause of each gap. What is not stored is fetched."""
    service = state_of(request)
    words: dict[str, Any] = {"days": days, "provider": provider, "kind": kind}
    span = (instant_of(start), instant_of(end))
    plan = service.fetcher.plan(symbol, timeframe, *span, **words)
    if plan.candles > CAPS["csv"]:
        raise ServiceRefusal(
            413,
            "TooManyRows",
            f"the range has up to {plan.candles:,} candles; gaps are looked for in {CAPS['csv']:,} at most",
            rows=plan.candles,
            most=CAPS["csv"],
        )
    service.budget.charge(client_of(request), plan.requests)
    with service.lanes.cold(is_needed=plan.requests > 0):
        frame = service.fetcher.gaps(symbol, timeframe, *span, **words)
    return JSONResponse(rows_of(frame), headers=NO_CACHE)


@router.get(
    "/api/plan",
    name="plan",
    summary="What a fetch would request and cost",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("the plan", "Document"),
)
def plan(
    request: Request,
    symbol: Symbol,
    timeframe: TimeframeText,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    limit: Limit = None,
    provider: ProviderName = None,
    kind: Kind = "candles",
) -> Response:
    """Return chunks, requests, bytes and seconds by source. No provider is asked."""
    words: dict[str, Any] = {"days": days, "limit": limit, "provider": provider, "kind": kind}
    made = state_of(request).fetcher.plan(symbol, timeframe, instant_of(start), instant_of(end), **words)
    document = {
        "provider": made.provider,
        "symbol": made.symbol,
        "timeframe": made.timeframe,
        "kind": made.kind,
        "start": iso(made.span.start_ms),
        "end": iso(made.span.end_ms),
        "candles": made.candles,
        "requests": made.requests,
        "weight": made.weight,
        "bytes": made.bytes,
        "seconds": made.seconds,
        "steps": [step._asdict() for step in made.steps],
        "notes": list(made.notes),
        "text": str(made),
    }
    return JSONResponse(document, headers=NO_CACHE)


@router.get(
    "/api/funding",
    name="funding",
    summary="Funding rates of a perpetual future",
    dependencies=CHECKED,
    response_class=Response,
    responses=answers("the rates and their manifest", "Document"),
)
def funding(
    request: Request,
    symbol: Symbol,
    start: StartTime = None,
    end: EndTime = None,
    days: Days = None,
    provider: ProviderName = None,
) -> Response:
    """Return funding times and rates in [start, end), oldest first; without a start, all so far."""
    service = state_of(request)
    service.budget.charge(client_of(request), _FUNDING_COST)
    with service.lanes.cold(is_needed=True):
        frame = service.fetcher.fetch_funding(symbol, instant_of(start), instant_of(end), days=days, provider=provider)
    manifest = dict(frame.attrs[MANIFEST])
    return JSONResponse(
        {"symbol": manifest["symbol"], "manifest": manifest, "funding": rows_of(frame.reset_index())},
        headers=NO_CACHE,
    )
