"""Funding rates: from the arguments of the call to its frame."""

from __future__ import annotations

import time

import pandas as pd

from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.errors import (
    AccessDenied,
    CandleFetcherWarning,
    IncompleteData,
    NotOffered,
    UnknownSymbol,
    warn,
)
from candle_fetcher.core.events import Operation
from candle_fetcher.core.frame import MANIFEST, Manifest
from candle_fetcher.core.funding import floor_times, funding_frame
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.types import SOURCE_NAMES
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.gathering import Task
from candle_fetcher.fetcher.gathering.funding import gather_funding
from candle_fetcher.fetcher.gathering.funding_months import MONTH, FundingResult
from candle_fetcher.fetcher.listings import load_listing, naming_closest
from candle_fetcher.fetcher.policy import ONLY_CACHE, FetchPolicy
from candle_fetcher.fetcher.refusals import explain_missing, warn_of_clock
from candle_fetcher.fetcher.request import Range, Request
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.providers import Provider, find_funding
from candle_fetcher.settings import one_of
from candle_fetcher.sources import CallScope
from candle_fetcher.sources.funding import has_funding


def fetch_rates(
    runtime: Runtime,
    symbol: str,
    wanted: Range,
    provider: str | Provider | None,
    source: str | None,
    *,
    refresh: bool,
    floor: str | None,
) -> pd.DataFrame:
    """Return the frame of `CandleFetcher.fetch_funding`."""
    began = time.perf_counter()
    read_flag("refresh", refresh)
    grid = None if floor is None else parse_timeframe(floor)
    if source is not None:
        one_of("source", source, SOURCE_NAMES)
    policy = FetchPolicy(source or runtime.settings.source, refresh=refresh)
    request = _make_request(runtime, symbol, wanted, provider, policy)
    with runtime.scope(request) as scope, naming_closest(runtime, request):
        found = gather_funding(Task(runtime.resources(), request, policy, scope))
        warn_of_clock(request.source)
        if found.in_doubt:
            _refuse_unknown(runtime, request, scope)
        frame = _to_frame(request, policy, found, scope.retries, grid)
    runtime.observe(Operation("fetch_funding", time.perf_counter() - began, len(frame), 0, request.symbol))
    return frame


def _make_request(
    runtime: Runtime, symbol: str, wanted: Range, provider: str | Provider | None, policy: FetchPolicy
) -> Request:
    found, symbol = runtime.split_symbol(symbol, provider)
    archive = runtime.archive(found) if find_funding(found).in_archive else None
    if archive is None and policy.is_archive_only:
        raise NotOffered(f"{found.name} has no archive of funding rates here; use source='auto' or 'rest'")
    series = Series(found.name, runtime.origin(found), found.provider_symbol(symbol, "funding"), MONTH, "funding")
    name = runtime.cache.listings.unified_symbol(found, series.origin, series.symbol)
    if wanted.from_first:
        wanted = wanted._replace(start_ms=None)
    return Request(runtime.rest(found), series, name, MONTH, wanted, archive, symbol.strip())


def _refuse_unknown(runtime: Runtime, request: Request, scope: CallScope) -> None:
    """Raise UnknownSymbol where the provider neither lists the symbol nor ever had a funding rate of it. It may answer
    for such a symbol with no records."""
    listed = load_listing(runtime, request.source, scope).symbols
    is_listed = any(one.provider_symbol == request.series.symbol for one in listed)
    if not is_listed and not has_funding(request.source, request.series.symbol, scope):
        raise UnknownSymbol(request.symbol, request.series.provider)


def _to_frame(
    request: Request, policy: FetchPolicy, found: FundingResult, retries: int, floor: Timeframe | None
) -> pd.DataFrame:
    """Return the frame with its manifest. Warn of records without mark prices that the caller did not ask for.

    Raises IncompleteData where a part could not be fetched.
    """
    frame = funding_frame(found.records)
    without_mark = found.from_files if find_funding(request.source.provider).has_marks else []
    frame.attrs[MANIFEST] = Manifest(
        provider=request.series.provider,
        origin=request.series.origin,
        symbol=request.symbol,
        kind=request.series.kind,
        start=iso(found.span.start_ms),
        end=iso(found.span.end_ms),
        rows=len(frame),
        sources=found.sources,
        without_mark_price=[{"start": iso(one.start_ms), "end": iso(one.end_ms)} for one in without_mark],
        unverified=found.unverified,
        rejected=found.rejected,
        retries=retries,
        version=__version__,
    )
    if floor is not None:
        floor_times(frame, floor)
    if found.missing:
        _refuse_missing(request, policy, found, frame)
    if without_mark and not policy.is_archive_only:
        why = f"REST failed ({found.refusal.reason})" if found.refusal else ONLY_CACHE
        warn(
            CandleFetcherWarning(
                f"funding rates of {request.symbol} between {iso(without_mark[0].start_ms)} and "
                f"{iso(without_mark[-1].end_ms)} come from the archive's files, which have no mark prices; {why}"
            )
        )
    return frame


def _refuse_missing(request: Request, policy: FetchPolicy, found: FundingResult, frame: pd.DataFrame) -> None:
    """Raise IncompleteData, or AccessDenied where the frame is empty because of it."""
    error = found.refusal
    if isinstance(error, AccessDenied) and frame.empty:
        raise error
    why, fix = explain_missing(request, policy, found.missing, error)
    raise IncompleteData(
        f"funding rates of {request.symbol} from {found.missing[0].first} to {found.missing[-1].last} could not be "
        f"fetched: {why} (what arrived is stored)",
        frame=frame,
        missing=found.missing,
        refusals=() if error is None else (error,),
        fix=fix,
    ) from error
