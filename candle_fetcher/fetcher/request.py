"""The arguments of a call, checked: a range and a request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from candle_fetcher.core.arguments import read_number, read_whole
from candle_fetcher.core.errors import (
    About,
    CandleFetcherError,
    IncompleteData,
    InputError,
    NotOffered,
    completing_errors,
    shown,
)
from candle_fetcher.core.gap import iso
from candle_fetcher.core.ranges import FIRST, NOW, ago_ms, instant_ms, is_word
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe
from candle_fetcher.core.types import SOURCE_NAMES
from candle_fetcher.fetcher.adjusting import Adjusted, ask_adjusted, stored_adjusted
from candle_fetcher.fetcher.policy import FetchPolicy, read_policy
from candle_fetcher.files.outputs import check_output
from candle_fetcher.providers import Feed, Provider, split_symbol
from candle_fetcher.providers.series import read_pair, read_series
from candle_fetcher.settings import one_of
from candle_fetcher.sources import ArchiveSource, CallScope, RestSource

if TYPE_CHECKING:
    from candle_fetcher.cache import CandleCache
    from candle_fetcher.fetcher.runtime import Runtime

NEWEST = 500
_MOST = 1_000_000_000
_MOST_DAYS = 100_000  # a number of candles or of seconds is above it


class Range(NamedTuple):
    """[start_ms, end_ms) as far as it was given, or back_ms before its end; and how many candles of it, the newest ones
    unless there is a start. `from_first` begins at the listing of the series, of which start_ms 0 is an early bound."""

    start_ms: int | None
    end_ms: int | None
    back_ms: int | None = None
    limit: int | None = None
    from_first: bool = False

    @property
    def oldest(self) -> bool:
        return self.start_ms is not None or self.back_ms is not None

    @property
    def ends(self) -> tuple[str, str] | None:
        """Return start and end as errors show them; None where one of them is not known."""
        return None if not self.start_ms or self.end_ms is None else (iso(self.start_ms), iso(self.end_ms))


class Request(NamedTuple):
    """What to fetch. `series` is asked for and stored, `timeframe` comes out: resampled where the two differ.

    `adjusted` says by what the prices are adjusted, where the provider restates the history of the series.
    """

    source: RestSource
    series: Series
    symbol: str
    timeframe: Timeframe
    range: Range
    archive: ArchiveSource | None = None
    typed: str = ""  # the symbol as it was given, for messages
    adjusted: Adjusted | None = None

    @property
    def feed(self) -> Feed:
        return self.source.provider.feed(self.series.kind)

    @property
    def label(self) -> str:
        return f"{self.symbol} {self.timeframe}"

    @property
    def is_readjusted(self) -> bool:
        """Return whether the provider may have adjusted the prices again since the request was made."""
        return self.adjusted is not None and self.adjusted.has_changed(self.source.estimated_ms())

    def about(self, span: Span | None) -> About:
        """Return what an error says of the request; `span` is the range, where it is known better than it was given."""
        wanted = self.range if span is None else Range(*span)
        timeframe = None if self.series.kind == "funding" else self.timeframe.name
        return About(self.series.provider, self.symbol, timeframe, wanted.ends)

    def describe(self, span: Span) -> dict[str, Any]:
        """Return the facts of the request that its manifests have in common, for a frame of that span."""
        series = self.series
        return {
            "provider": series.provider,
            "origin": series.origin,
            "symbol": self.symbol,
            "timeframe": self.timeframe.name,
            "kind": series.kind,
            "start": iso(span.start_ms),
            "end": iso(span.end_ms),
        }

    def settled_ms(self, now_ms: int) -> int:
        """Return the opening of the first slot that is not settled: of resampled candles, of the slot that holds that
        of the series."""
        end_ms = self.feed.settling(self.series).end_ms(now_ms)
        return self.timeframe.floor_ms(end_ms)


class Arguments(NamedTuple):
    """The arguments of a call that say which candles it is about."""

    symbol: str
    timeframe: str
    range: Range
    provider: str | Provider | None = None
    kind: str = "candles"
    source: str | None = None


def read_call(
    runtime: Runtime, given: Mapping[str, Any], *, needs_start: bool = False
) -> tuple[Arguments, FetchPolicy]:
    """Return the arguments of a call that say which candles it is about, and how it is answered. `given` has them by
    name, those that the call has.

    Raises InputError where one is not valid, or the start is missing of a call that needs one.
    """
    check_output(given.get("output", "pandas"), given.get("with_manifest", False))
    words = [name for name in ("columns", "include_open", "on_gap", "refresh", "partial") if name in given]
    policy = read_policy(runtime.settings, given.get("source"), **{name: given[name] for name in words})
    start, end, days, limit = (given.get(name) for name in ("start", "end", "days", "limit"))
    wanted = read_range(start, end, days, limit, now_ms=lambda: int(runtime.clock() * 1000))
    if needs_start and wanted.start_ms is None and wanted.back_ms is None:
        raise InputError("start is missing; this call needs one, such as start='2024-01-01'")
    symbol, timeframe = given.get("symbol", ""), given.get("timeframe", "")
    kind = given.get("kind", "candles")
    return Arguments(symbol, timeframe, wanted, given.get("provider"), kind, given.get("source")), policy


def make_request(
    runtime: Runtime, arguments: Arguments, adjust: Callable[[RestSource, CandleCache, Series], Adjusted] | None = None
) -> Request:
    """Return the request of a call. `adjust` finds by what a restated series is adjusted; unless given, the provider is
    asked where it may be.

    Raises InputError for an argument that is not valid, NotOffered for what the provider does not have.
    """
    symbol, timeframe, wanted, provider, kind, source = arguments
    with completing_errors(lambda: About(span=wanted.ends)):
        if source is not None:
            one_of("source", source, SOURCE_NAMES)
        if not isinstance(kind, str):
            raise InputError(f"kind {shown(kind)} is not a text; expected a name such as 'candles'")
        found, symbol = runtime.split_symbol(symbol, provider)
        archive = runtime.archive(found)
        if archive is None and (source or runtime.settings.source) == "archive":
            raise NotOffered(f"{found.name} has no archive here; use source='auto' or 'rest'")
        series, name, target = read_series(found, runtime.origin(found), symbol, timeframe, kind)
        if read_pair(symbol) is None:
            name = runtime.cache.listings.unified_symbol(found, series.origin, series.symbol)
        adjusted = None
        if series.settings and found.feed(kind).restates_history(series):
            adjust = adjust or (stored_adjusted if runtime.is_offline(source) else partial(_ask_adjusted, runtime))
            adjusted = adjust(runtime.rest(found), runtime.cache, series)
            series = series._replace(settings=(*series.settings, *adjusted.settings))
        return Request(runtime.rest(found), series, name, target, wanted, archive, symbol.strip(), adjusted)


def _ask_adjusted(runtime: Runtime, source: RestSource, cache: CandleCache, series: Series) -> Adjusted:
    with runtime.scope() as scope:
        return ask_adjusted(source, cache, series, scope)


def read_range(
    start: Any, end: Any, days: Any = None, limit: Any = None, *, now_ms: Callable[[], int] | None = None
) -> Range:
    """Return the range out of what people write; `now_ms` is the time that words such as `today` count from.

    Raises InputError where the range is contradictory or empty.
    """
    if days is not None and start is not None:
        raise InputError(
            f"days={shown(days)} counts back from end, but start={shown(start)} is given too; give only one of them"
        )
    if is_word(end, NOW):
        end = None
    back_ms = None if days is None else max(1, int(read_number("days", days, 0, _MOST_DAYS, is_open=True) * DAY_MS))
    if end is None and start is not None and ago_ms(start) is not None:
        start, back_ms = None, ago_ms(start)  # by the provider's clock, as `days`
    from_first = is_word(start, FIRST)
    start_ms = 0 if from_first else None if start is None else instant_ms(start, "start", now_ms)
    end_ms = None if end is None else instant_ms(end, "end", now_ms)
    if limit is not None:
        limit = read_whole("limit", limit, 1, _MOST)
    if end_ms is not None and end_ms <= 0:
        raise InputError(f"end {shown(end)} lies before 1970, and no candle is that old; expected a later time")
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise InputError(f"start {shown(start)} is not before end {shown(end)}; the range is [start, end)")
    if start_ms is None and back_ms is None and limit is None:
        limit = NEWEST
    return Range(start_ms, end_ms, back_ms, limit, from_first)


def about_arguments(names: Collection[str], given: Mapping[str, Any], find: Callable[[Any], Provider]) -> About:
    """Return what a call is about by its arguments alone: `names` are those that it has, `given` those that it got.

    A call for several symbols is about no provider unless one is given, since each symbol may name its own.
    """
    symbol, timeframe, provider = (given.get(name) for name in ("symbol", "timeframe", "provider"))
    prefix = None
    if isinstance(symbol, str):
        prefix, symbol = split_symbol(symbol.strip())
    name = None
    if provider is not None or ("provider" in names and "symbols" not in names):
        with contextlib.suppress(CandleFetcherError):
            name = find(prefix if provider is None else provider).name
    return About(
        provider=name,
        symbol=symbol if isinstance(symbol, str) and symbol else None,
        timeframe=timeframe if isinstance(timeframe, str) and timeframe else None,
    )


def read_span(wanted: Range, settled_ms: int, now_ms: int) -> Span:
    """Return the span, given now, from 1970 on; without a start it begins there.

    Days without an end count from `settled_ms`, where the newest settled candle ends, so that two days of 1h are 48
    candles at any minute.
    """
    end_ms = now_ms if wanted.end_ms is None else wanted.end_ms
    if wanted.end_ms is None and wanted.back_ms is not None:
        end_ms = settled_ms
    start_ms = wanted.start_ms
    if wanted.back_ms is not None:
        start_ms = end_ms - wanted.back_ms
    start_ms = max(0, start_ms or 0)
    if start_ms >= end_ms:
        raise InputError(
            f"start {iso(start_ms)} lies in the future; the range is [start, end), and now is {iso(now_ms)}"
        )
    return Span(start_ms, end_ms)


def read_call_span(wanted: Range, settled_ms: int, now_ms: int, scope: CallScope) -> Span:
    """Return the span as `read_span`, of a call that is under way.

    Raises IncompleteData where it begins in the future by this machine's clock, because the provider's could not be
    read: there may be candles.
    """
    try:
        return read_span(wanted, settled_ms, now_ms)
    except InputError as error:
        if scope.clock_error is None:
            raise
        raise IncompleteData(
            f"the provider's clock could not be read, and by this machine's clock {error.reason}",
            refusals=(scope.clock_error,),
            fix="Call again, and set this machine's clock if it is wrong",
        ) from scope.clock_error
