"""audit(): candles of two sources, and the values that differ."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import Candles, have_prices
from candle_fetcher.core.compare import (
    NEIGHBOURS,
    WHOLE_ROWS,
    Differences,
    ends_ms,
    find_borders,
    find_differences,
    find_differences_with_finer,
    find_sample,
)
from candle_fetcher.core.errors import (
    AccessDenied,
    CandleFetcherWarning,
    IncompleteData,
    InputError,
    NotOffered,
    TransportError,
    shown,
    warn,
)
from candle_fetcher.core.events import Operation
from candle_fetcher.core.frame import MANIFEST, utc_index
from candle_fetcher.core.outliers import find_outliers_in_parts
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.spans import Span, hull, subtract
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.fetcher.collect import CandleResult, Collector
from candle_fetcher.fetcher.listings import naming_closest
from candle_fetcher.fetcher.policy import ARCHIVE, FetchPolicy
from candle_fetcher.fetcher.refusals import refuse_incomplete
from candle_fetcher.fetcher.request import Arguments, Request, make_request
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.sources import is_denial

FINER, CACHE = "finer", "cache"
_NOTHING = {ARCHIVE: "the archive has no usable file", CACHE: "the cache has nothing", NEIGHBOURS: "under 3 candles"}
# The most that is in memory at once: chunks of the cache, finer candles.
_STREAM_CHUNKS = 48
_FINE_ROWS = 200_000


def _audit(stored: Collector, against: str | None) -> pd.DataFrame:
    """Return every value that differs, by comparison; `stored` collects with the cache of the fetcher.

    Raises NotOffered for rows without prices.
    """
    request = stored.request
    provider, kind = request.source.provider, request.series.kind
    if not have_prices(provider.feed(kind).columns):
        raise NotOffered(f"{kind} of {provider.name} has no prices to compare; expected a kind of candles")
    sides = find_sides(against, request, stored.policy, is_cached=not stored.resources.cache.is_off)
    span = stored.span()
    found: dict[str, list[Differences]] = {}
    for side in sides:
        try:
            found[side] = list(_compare(stored, side, span, is_named=against is not None))
        except (AccessDenied, IncompleteData) as error:
            has_compared = any(part.compared for several in found.values() for part in several)
            if against is not None or side != ARCHIVE or not has_compared or not _is_without_rest(error):
                raise
            why = f"{type(error).__name__}: {error.reason}"
            warn(CandleFetcherWarning(f"{request.label} is not compared with the archive: REST failed ({why})"))
            continue
        if against is not None and span and not found[side] and side in _NOTHING:
            raise IncompleteData(f"there is nothing to compare: {_NOTHING[side]} of {request.label} in that range")
    return _to_frame(found, request, span)


def _compare(stored: Collector, side: str, span: Span, *, is_named: bool) -> Iterator[Differences]:
    if side == ARCHIVE:
        return _with_archive(stored, span)
    if side == NEIGHBOURS:
        is_short = len(stored.request.timeframe.slots(span)) <= WHOLE_ROWS
        return _with_neighbours(stored, fetches=is_named or is_short)
    return _cache_with_fresh(stored) if side == CACHE else _with_finer(stored, span, parse_timeframe(side))


def _with_finer(stored: Collector, span: Span, finer: Timeframe) -> Iterator[Differences]:
    """Yield the differences from finer candles, in pieces of bounded memory."""
    request = stored.request
    timeframe = request.timeframe
    ours = _collect(stored, span)
    around = ours
    if (timeframe.opens_ms(timeframe.ordinals(ours.open_ms)) != ours.open_ms).any():
        # Off the grid, the neighbours say where the first one begins and the last one ends.
        slots = timeframe.slots(span)
        wide = timeframe.span(slots.start - 1, slots.stop + 1).after(0)
        around = stored.collect(wide).candles
    base = base_for(finer, request.feed.timeframes, request.series.provider)
    fine = request._replace(series=request.series._replace(timeframe=base), timeframe=finer)
    collector = stored._replace(request=fine, policy=stored.policy._replace(keeps_entries=False))
    settled_ms = fine.settled_ms(stored.now_ms())
    borders = find_borders(around, timeframe, span)
    ends = ends_ms(borders, timeframe)
    wanted = (borders >= span.start_ms) & (borders < span.end_ms) & (ends <= settled_ms)
    if not wanted.any():
        return
    first, stop = int(np.argmax(wanted)), len(wanted) - int(np.argmax(wanted[::-1]))
    borders = np.append(borders, max(int(ends[-1]), int(borders[-1]) + 1))
    step = max(1, _FINE_ROWS * finer.nominal_ms // timeframe.nominal_ms)
    for at in range(first, stop, step):
        cuts = borders[at : min(at + step, stop) + 1]
        piece = Span(int(cuts[0]), int(cuts[-1]))
        yield find_differences_with_finer(ours.trim(piece), _collect(collector, piece), cuts[:-1])


def _fresh(stored: Collector, source: str) -> Collector:
    """Return a Collector of all columns that knows nothing yet."""
    resources = stored.resources._replace(cache=CandleCache(None, path=None, clock=stored.resources.clock))
    policy = stored.policy._replace(source=source, columns="all", keeps_entries=False)
    return Collector(resources, stored.request, policy, stored.scope)


def _with_archive(stored: Collector, span: Span) -> Iterator[Differences]:
    """Yield the differences of the candles by REST from those of the archive, as far as that has files."""
    timeframe = stored.request.timeframe
    now_ms = _fresh(stored, "rest").now_ms()
    for part in find_sample(span, timeframe, now_ms):
        archive = _fresh(stored, "archive")
        theirs = archive.collect(part)
        if theirs.refusals:
            refuse_incomplete(archive, theirs)
        there = _complete_parts(theirs, timeframe)
        if there:
            ours = _collect(_fresh(stored, "rest"), hull(there))
            yield from (find_differences(ours.trim(one), theirs.candles.trim(one)) for one in there)


def _cache_with_fresh(stored: Collector) -> Iterator[Differences]:
    """Yield the differences of what is stored from a copy that is asked for now."""
    policy = stored.policy._replace(source="cache", columns="all", keeps_entries=False, ttl_ms=None)
    for part, _ in stored._replace(policy=policy).stream(_STREAM_CHUNKS):
        for one in _complete_parts(part, stored.request.timeframe):
            yield find_differences(part.candles.trim(one), _collect(_fresh(stored, stored.policy.source), one))


def _with_neighbours(stored: Collector, *, fetches: bool) -> Iterator[Differences]:
    """Yield the outliers among all candles, or among those that are stored."""
    policy = stored.policy if fetches else stored.policy._replace(source="cache", ttl_ms=None)
    stored = stored._replace(policy=policy._replace(keeps_entries=False))

    def parts() -> Iterator[Candles]:
        for part, _ in stored.stream(_STREAM_CHUNKS):
            if fetches:
                refuse_incomplete(stored, part)
            yield part.candles

    return find_outliers_in_parts(parts())


def _collect(collector: Collector, span: Span) -> Candles:
    """Return all candles of the span. Raises IncompleteData where one could not be fetched."""
    found = collector.collect(span)
    refuse_incomplete(collector, found)
    return found.candles


def _is_without_rest(error: AccessDenied | IncompleteData) -> bool:
    """Return whether the error came of a REST side that refuses this address, or cannot be reached."""
    causes = error.refusals if isinstance(error, IncompleteData) else (error,)
    return any(is_denial(one) or (isinstance(one, TransportError) and not one.reached) for one in causes)


def find_sides(against: str | None, request: Request, policy: FetchPolicy, *, is_cached: bool) -> list[str]:
    """Return what to compare with: names of timeframes, "archive", "cache". Raises InputError or NotOffered where that
    is not possible."""
    finer = find_finer(request)
    if against is None:
        asks = not policy.is_offline
        # The cache comes first, before the other comparisons store anything.
        sides = [CACHE] if asks and is_cached else []
        sides += [finer] if finer else []
        sides += [ARCHIVE] if asks and request.archive is not None and policy.allows(ARCHIVE) else []
        return [*sides, NEIGHBOURS]
    if not isinstance(against, str):
        raise InputError(
            f"against {shown(against)} is not a text; expected 'finer', 'archive', 'cache' or such as '1h'"
        )
    if against in (ARCHIVE, CACHE) and policy.is_offline:
        raise InputError(
            f"against={against!r} asks the provider, but source='cache' sends no request; use another source"
        )
    if against == ARCHIVE and request.archive is None:
        raise NotOffered(f"{request.series.provider} has no archive here to compare with")
    if against == CACHE and not is_cached:
        raise InputError("against='cache' compares stored candles, but use_cache=False stores nothing; use the cache")
    if against == FINER:
        if finer is None:
            raise InputError(
                f"no finer timeframe than {request.timeframe} is available; name one, such as against='1m'"
            )
        return [finer]
    return [against] if against in (ARCHIVE, CACHE, NEIGHBOURS) else [_named(against, request)]


def _named(against: str, request: Request) -> str:
    """Return the timeframe named. Raises InputError where its candles do not make up those of the request."""
    try:
        named = parse_timeframe(against)
    except InputError as error:
        raise InputError(
            f"against {shown(against)} is not known; expected 'finer', 'archive', 'cache' or a timeframe such as '1h'; "
            "'neighbours' lists outliers"
        ) from error
    feed = request.feed
    if named == request.timeframe or named.name in feed.off_grid or not named.divides(request.timeframe):
        raise InputError(f"candles of {named} cannot be compared with {request.timeframe}; expected a finer timeframe")
    base_for(named, feed.timeframes, request.series.provider, feed.off_grid)
    return named.name


def find_finer(request: Request) -> str | None:
    """Return the longest of day, hour and minute below the provider's timeframe of the request; None for 1m and
    less."""
    offered = request.feed.timeframes
    base = request.series.timeframe
    for name in ("1d", "1h", "1m"):
        one = parse_timeframe(name)
        if name in offered and one.nominal_ms < base.nominal_ms and one.divides(request.timeframe):
            return name
    return None


def _complete_parts(found: CandleResult, timeframe: Timeframe) -> list[Span]:
    """Return the parts of the span without missing candles."""
    failed = [Span(gap.first_ms, timeframe.close_ms(gap.last_ms)) for gap in found.failed]
    return subtract(found.span, failed)


def _to_frame(found: dict[str, list[Differences]], request: Request, span: Span) -> pd.DataFrame:
    """Return columns timestamp (UTC), column, ours, theirs, against; a row for each value that differs."""
    parts = [(side, part) for side, several in found.items() for part in several]

    def whole(arrays: Iterable[npt.NDArray[Any]], kind: str) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, kind), *arrays])

    frame = pd.DataFrame(
        {
            "timestamp": utc_index(whole((part.open_ms for _, part in parts), "i8")),
            "column": pd.Series(whole((part.columns.astype(object) for _, part in parts), "O"), dtype="str"),
            "ours": whole((part.ours for _, part in parts), "f8"),
            "theirs": whole((part.theirs for _, part in parts), "f8"),
            "against": pd.Series([side for side, part in parts for _ in part.ours], dtype="str"),
        }
    )
    compared = {side: sum(part.compared for part in several) for side, several in found.items()}
    frame.attrs[MANIFEST] = {**request.describe(span), "compared": compared}
    if NEIGHBOURS in compared:
        judged, outliers = compared.pop(NEIGHBOURS), sum(part.open_ms.size for part in found[NEIGHBOURS])
        frame.attrs[MANIFEST]["outliers"] = {"candles": judged, "found": outliers}
    return frame


def audit(runtime: Runtime, arguments: Arguments, policy: FetchPolicy, against: str | None) -> pd.DataFrame:
    """Return the table of `CandleFetcher.audit`."""
    began = time.perf_counter()
    request = make_request(runtime, arguments)
    with runtime.scope(request) as scope, naming_closest(runtime, request):
        frame = _audit(Collector(runtime.resources(), request, policy, scope), against)
    compared = sum(frame.attrs[MANIFEST]["compared"].values())
    runtime.observe(Operation("audit", time.perf_counter() - began, compared, 0, request.label))
    return frame
