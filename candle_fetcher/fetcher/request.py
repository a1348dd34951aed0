"""What was asked for, checked and in the library's own terms."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from candle_fetcher.core.arguments import read_number, read_whole
from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import About, CandleFetcherError, InputError, NotOffered, shown
from candle_fetcher.core.ranges import FIRST, NOW, ago_ms, instant_ms, is_word
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.fetcher.adjusting import Adjusted
from candle_fetcher.fetcher.settings import one_of
from candle_fetcher.providers import Provider, all_providers, split_symbol
from candle_fetcher.sources import ArchiveSource, Source

ON_GAP = ("leave", "raise", "refetch", "ffill", "interpolate")
NEWEST = 500
_MOST = 1_000_000_000
# How much of a base, a quote or an id must be alike for a hint: `BCT` and `BTC` are 0.67.
_NEAR_BASE, _NEAR_QUOTE, _NEAR_ID = 0.65, 0.65, 0.8
_MOST_DAYS = 100_000  # a number of candles or of seconds is above it
_PAIR = re.compile(r"\s*([^\W_]+)[/-]([^\W_]+)\s*")


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
        """Start and end as errors show them; None where one of them is not known."""
        return None if not self.start_ms or self.end_ms is None else (iso(self.start_ms), iso(self.end_ms))


class Request(NamedTuple):
    """What to fetch. `series` is asked for and stored, `timeframe` comes out: resampled where the two differ.

    `adjusted` says by what the prices are adjusted, of a series whose history is restated.
    """

    source: Source
    series: Series
    symbol: str
    timeframe: Timeframe
    range: Range
    archive: ArchiveSource | None = None
    typed: str = ""  # the symbol as it was given, for messages
    adjusted: Adjusted | None = None

    @property
    def label(self) -> str:
        return f"{self.symbol} {self.timeframe}"

    @property
    def is_readjusted(self) -> bool:
        """Whether the provider may have adjusted the prices again since the request was made."""
        return self.adjusted is not None and self.adjusted.has_changed(self.source.estimated_ms())

    def about(self, span: Span | None) -> About:
        """Return what an error says of the request; `span` is the range, where it is known better than it was given."""
        wanted = self.range if span is None else Range(*span)
        timeframe = None if self.series.kind == "funding" else self.timeframe.name
        return About(self.series.provider, self.symbol, timeframe, wanted.ends)

    def settled_ms(self, now_ms: int) -> int:
        """The opening of the first slot that is not settled: of what is resampled, of the slot that holds that of the
        series."""
        end_ms = self.source.provider.feed(self.series.kind).settling(self.series).end_ms(now_ms)
        return self.timeframe.floor_ms(end_ms)


def read_range(
    start: Any, end: Any, days: Any = None, limit: Any = None, *, now_ms: Callable[[], int] | None = None
) -> Range:
    """Return the range out of what people write; `now_ms` is the time that words such as `today` count from.

    Raises InputError where the range is contradictory or empty.
    """
    if days is not None and start is not None:
        raise InputError(
            f"days={shown(days)} counts back from end and start={shown(start)} is given too; give one of them"
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
        raise InputError(f"end {shown(end)} lies before 1970; there are no candles that old")
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


def near_symbols(wanted: str, listed: Mapping[str, str]) -> list[str]:
    """Return the listed symbols that a mistyped one may have meant; `listed` has them by their name in capitals.

    Of `SHIB/USDT` the quote is like that of every other pair: the base has to be near too.
    """
    import difflib  # when something is wrong

    def likeness(name: str) -> float:
        parts, others = wanted.split("/"), name.split("/")
        if len(parts) != len(others):
            parts, others = [wanted.replace("/", "")], [name.replace("/", "")]
        alike = [difflib.SequenceMatcher(None, one, other).ratio() for one, other in zip(parts, others, strict=True)]
        is_near = alike[0] >= (_NEAR_BASE if len(alike) > 1 else _NEAR_ID) and min(alike) >= _NEAR_QUOTE
        return sum(alike) if is_near else 0.0

    found = sorted(((likeness(name), name) for name in listed if name != wanted), key=lambda one: (-one[0], one[1]))
    return [listed[name] for alike, name in found[:3] if alike]


def read_span(wanted: Range, settled_ms: int, now_ms: int) -> Span:
    """The span, given now, from 1970 on; without a start it begins there.

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
            f"start {iso(start_ms)} lies in the future; the range is [start, end) and end is now, {iso(end_ms)}"
        )
    return Span(start_ms, end_ms)


def check_on_gap(on_gap: object) -> str:
    """The on_gap setting, if it is one."""
    return one_of("on_gap", on_gap, ON_GAP)


def _with_others(error: NotOffered, offered: Callable[[Provider], object]) -> NotOffered:
    """The error, naming the providers that do offer it."""
    having = []
    for other in all_providers().values():
        with contextlib.suppress(InputError):
            offered(other)
            having.append(other.name)
    return NotOffered(f"{error.args[0]}; these do: {', '.join(having)}") if having else error


def read_pair(symbol: str) -> str | None:
    """Return BASE/QUOTE of a symbol that says where the one ends and the other begins; None of an id alone."""
    pair = _PAIR.fullmatch(symbol)
    return "/".join(pair.groups()).upper() if pair else None


@functools.lru_cache(maxsize=1024)
def _unified(unified: Callable[[str], str], provider_symbol: str) -> str:
    return unified(provider_symbol)


def read_series(
    provider: Provider, origin: str | None, symbol: str, timeframe: str, kind: str
) -> tuple[Series, str, Timeframe]:
    """The series to ask for, the symbol as BASE/QUOTE, and the timeframe that comes out."""
    try:
        feed = provider.feed(kind)
    except NotOffered as error:
        if kind == "funding":
            raise NotOffered(
                "funding rates are no candles; fetch_funding gets them, funding on the command line"
            ) from None
        raise _with_others(error, lambda other: other.feed(kind)) from None
    if not isinstance(timeframe, str):
        raise InputError(f"timeframe {shown(timeframe)} is not a text such as '1h'")
    wanted = parse_timeframe(timeframe)
    try:
        base = base_for(wanted, feed.timeframes, provider.name, feed.off_grid)
        if base != wanted and not feed.is_resampled:
            raise NotOffered(
                f"{provider.name} has no {shown(kind)} of {wanted}, and none is made of columns of its own; it offers "
                f"{', '.join(feed.timeframes)}"
            )
    except NotOffered as error:
        raise _with_others(error, lambda other: base_for(wanted, other.feed(kind).timeframes, other.name)) from None
    provider_symbol = provider.provider_symbol(symbol, kind)
    name = _unified(provider.unified, provider_symbol)
    # An id alone has to be taken apart.
    pair = read_pair(symbol)
    typed = pair or name
    if typed.replace("/", "") == name.replace("/", "").upper() and typed != name.upper():
        name = typed
    settings: tuple[tuple[str, str], ...] = ()
    if provider.settings:
        settings = tuple((one.name, one.allowed[0]) for one in provider.settings if one.is_of_series)
    return Series(provider.name, origin, provider_symbol, base, kind, settings), name, wanted
