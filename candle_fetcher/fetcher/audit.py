"""audit(): the same candles from two sides, and what they disagree about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import Candles, have_prices, iso
from candle_fetcher.core.compare import (
    Differences,
    ends_ms,
    find_borders,
    find_differences,
    find_differences_with_finer,
)
from candle_fetcher.core.errors import IncompleteData, InputError, NotOffered, shown
from candle_fetcher.core.frame import MANIFEST, utc_index
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.spans import Span, hull, subtract
from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.fetcher.collect import Collected, Collector, How
from candle_fetcher.fetcher.request import Request
from candle_fetcher.sources import Errand

FINER, ARCHIVE, CACHE = "finer", "archive", "cache"
# What is held in memory at once: chunks of the cache, finer candles.
_STREAM_CHUNKS = 48
_FINE_ROWS = 200_000
# A range of more candles than this is held against the archive in so many of its days only.
_WHOLE_ROWS = 10_000
_SAMPLE_DAYS = 8
# A day's file of the archive is out by then.
_LAG_MS = 2 * DAY_MS


class Auditor(NamedTuple):
    """Compares. `fresh` makes a collector that knows nothing yet, `refuse` raises for what could not be had."""

    stored: Collector
    fresh: Callable[[], Collector]
    refuse: Callable[[Request, Collected], None]
    errand: Errand
    is_cached: bool

    def audit(self, request: Request, how: How, against: str | None) -> pd.DataFrame:
        """Every value that differs, one comparison after the other. Raises NotOffered for rows without prices."""
        provider, kind = request.source.provider, request.series.kind
        if not have_prices(provider.feed(kind).columns):
            raise NotOffered(f"{kind} of {provider.name} has no prices to compare; expected a kind of candles")
        sides = find_sides(against, request, how, is_cached=self.is_cached)
        span = self.stored.span(request, how, self.errand)
        found: dict[str, list[Differences]] = {}
        for side in sides:
            if side == ARCHIVE:
                parts = self._with_archive(request, span, how)
            elif side == CACHE:
                parts = self._cache_with_fresh(request, how)
            else:
                parts = self._with_finer(request, span, how, parse_timeframe(side))
            found[side] = list(parts)
            if against is not None and span and not found[side] and side in (ARCHIVE, CACHE):
                what = "has no sound file" if side == ARCHIVE else "holds nothing"
                raise IncompleteData(f"there is nothing to compare: the {side} {what} of {request.label} in that range")
        return _to_frame(found, request, span)

    def _with_finer(self, request: Request, span: Span, how: How, finer: Timeframe) -> Iterator[Differences]:
        """The candles against finer ones, as much at a time as memory should hold."""
        timeframe = request.timeframe
        ours = self._collect(request, span, how)
        around = ours
        if (timeframe.opens_ms(timeframe.ordinals(ours.open_ms)) != ours.open_ms).any():
            # Off the grid, the neighbours say where the first one begins and the last one ends.
            slots = timeframe.slots(span)
            wide = timeframe.span(slots.start - 1, slots.stop + 1).after(0)
            around = self.stored.collect(request, wide, how, self.errand).candles
        base = base_for(finer, request.source.provider.feed(request.series.kind).timeframes, request.series.provider)
        fine = request._replace(series=request.series._replace(timeframe=base), timeframe=finer)
        settled_ms = fine.settled_ms(self.stored.now_ms(request, how, self.errand))
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
            candles = self._collect(fine, piece, how._replace(keep=False))
            yield find_differences_with_finer(ours.trim(piece), candles, cuts[:-1])

    def _with_archive(self, request: Request, span: Span, how: How) -> Iterator[Differences]:
        """The candles by REST against those of the archive, as far as that has files."""
        how = how._replace(columns="all", keep=False, use_archive=False, only_archive=False)
        now_ms = self.stored.now_ms(request, how, self.errand)
        for part in find_sample(span, request.timeframe, now_ms):
            theirs = self.fresh().collect(request, part, how._replace(use_archive=True, only_archive=True), self.errand)
            if theirs.refusals:
                self.refuse(request, theirs)
            there = _had(theirs, request.timeframe)
            if there:
                collector = self.fresh()
                ours = self._collect(request, hull(there), how, collector)
                yield from (find_differences(ours.trim(one), theirs.candles.trim(one)) for one in there)

    def _cache_with_fresh(self, request: Request, how: How) -> Iterator[Differences]:
        """The stored candles, wherever there are any, against a copy that is asked for now."""
        how = how._replace(columns="all", keep=False)
        stored_how = how._replace(only_cache=True, ttl_ms=None)
        for stored, _ in self.stored.stream(request, stored_how, _STREAM_CHUNKS, self.errand):
            for one in _had(stored, request.timeframe):
                yield find_differences(stored.candles.trim(one), self._collect(request, one, how, self.fresh()))

    def _collect(self, request: Request, span: Span, how: How, collector: Collector | None = None) -> Candles:
        """All candles of the span; raises where one could not be had."""
        got = (collector or self.stored).collect(request, span, how, self.errand)
        self.refuse(request, got)
        return got.candles


def find_sides(against: str | None, request: Request, how: How, *, is_cached: bool) -> list[str]:
    """What to compare with: names of timeframes, "archive", "cache". InputError, NotOffered where that cannot be."""
    finer = find_finer(request)
    if against is None:
        asks = not how.only_cache
        # The cache comes first, before the other comparisons store anything.
        sides = [CACHE] if asks and is_cached else []
        sides += [finer] if finer else []
        return sides + ([ARCHIVE] if asks and request.archive is not None and how.use_archive else [])
    if not isinstance(against, str):
        raise InputError(
            f"against {shown(against)} is not a text; expected 'finer', 'archive', 'cache' or such as '1h'"
        )
    if against in (ARCHIVE, CACHE) and how.only_cache:
        raise InputError(f"against={against!r} asks the provider, and source='cache' asks nobody; use another source")
    if against == ARCHIVE and request.archive is None:
        raise NotOffered(f"{request.series.provider} has no archive here to compare with")
    if against == CACHE and not is_cached:
        raise InputError("against='cache' compares what is stored, and use_cache=False stores nothing")
    if against == FINER:
        if finer is None:
            raise InputError(f"no finer timeframe than {request.timeframe} is at hand; name one, such as against='1m'")
        return [finer]
    return [against] if against in (ARCHIVE, CACHE) else [_named(against, request)]


def _named(against: str, request: Request) -> str:
    """The timeframe named, where candles of it make up those that are asked for."""
    try:
        named = parse_timeframe(against)
    except InputError as error:
        raise InputError(
            f"against {shown(against)} is not known; expected 'finer', 'archive', 'cache' or a timeframe such as '1h'"
        ) from error
    feed = request.source.provider.feed(request.series.kind)
    if named == request.timeframe or named.name in feed.off_grid or not named.divides(request.timeframe):
        raise InputError(f"candles of {named} do not make up {request.timeframe}; expected a finer one that divides it")
    base_for(named, feed.timeframes, request.series.provider, feed.off_grid)
    return named.name


def find_finer(request: Request) -> str | None:
    """The day, hour or minute, whichever is the longest below what is asked of the provider; None for 1m and less."""
    offered = request.source.provider.feed(request.series.kind).timeframes
    base = request.series.timeframe
    for name in ("1d", "1h", "1m"):
        one = parse_timeframe(name)
        if name in offered and one.nominal_ms < base.nominal_ms and one.divides(request.timeframe):
            return name
    return None


def find_sample(span: Span, timeframe: Timeframe, now_ms: int) -> list[Span]:
    """The span, or days of it that lie evenly, the first and the last published one among them, where it is long."""
    if len(timeframe.slots(span)) <= _WHOLE_ROWS:
        return [span] if span else []
    end_ms = max(span.start_ms + 1, min(span.end_ms, now_ms - _LAG_MS))
    days = np.linspace(span.start_ms // DAY_MS, (end_ms - 1) // DAY_MS, _SAMPLE_DAYS).round().astype(np.int64)
    return [Span(day * DAY_MS, (day + 1) * DAY_MS).clip(span) for day in dict.fromkeys(days.tolist())]


def _had(got: Collected, timeframe: Timeframe) -> list[Span]:
    """What of the span was not missing."""
    failed = [Span(gap.first_ms, timeframe.close_ms(gap.last_ms)) for gap in got.failed]
    return subtract(got.span, failed)


def _to_frame(found: dict[str, list[Differences]], request: Request, span: Span) -> pd.DataFrame:
    """Columns timestamp (UTC), column, ours, theirs, against; a row for each value that differs."""
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
    frame.attrs[MANIFEST] = {
        "provider": request.series.provider,
        "origin": request.series.origin,
        "symbol": request.symbol,
        "timeframe": request.timeframe.name,
        "kind": request.series.kind,
        "start": iso(span.start_ms),
        "end": iso(span.end_ms),
        "compared": {side: sum(part.compared for part in several) for side, several in found.items()},
    }
    return frame
