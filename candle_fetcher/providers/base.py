"""What a provider is: a value made of facts and pure functions.

A field is None where the provider lacks something, such as an archive; a call that needs it raises NotOffered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from candle_fetcher.core.actions import Action
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import COLUMNS, OHLCV, Candles, have_prices
from candle_fetcher.core.errors import (
    InputError,
    NotOffered,
    shown,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.files import File
from candle_fetcher.core.finality import UNSTATED, Finality, Settling
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import MINUTE_MS
from candle_fetcher.providers.quoting import QuoteFeed
from candle_fetcher.providers.refusals import by_status, not_a_symbol
from candle_fetcher.providers.streams import Streams

Answer = TypeVar("Answer")

# Columns that frames and files add to those of a feed.
_RESERVED = ("timestamp", "is_closed", "is_synthetic")
_SYMBOL = re.compile(r"[^\W_][\w./-]{0,39}")


class Listed(NamedTuple):
    """A symbol in the provider's list; `trading` is False once the symbol is no longer traded."""

    symbol: str
    provider_symbol: str
    base: str
    quote: str
    status: str
    trading: bool


class Listing(NamedTuple):
    """What the provider says about itself: its request limits and its symbols."""

    limits: tuple[Limit, ...]
    symbols: tuple[Listed, ...]


# Defaults of fields below are functions of this module, so that a provider of such functions can be pickled.


def _none_for(given: object) -> None:
    return None


def _zero_for(given: object) -> int:
    return 0


def _false_for(given: object) -> bool:
    return False


def _itself(symbol: str) -> str:
    return symbol


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A call and the function that parses its reply."""

    call: Call
    parse: Callable[[bytes], Answer]


@dataclass(frozen=True)
class Archive:
    """Files with whole days and months of a provider's candles, and of its funding rates if `Funding.in_archive`.

    find_file(series, ms, monthly=…): the file that holds the instant; None where there are no such files.
    find_checksum(text, name): the SHA-256 in `text`, the checksum file of `name`; None where it has none.
    read_file(data, file, series): the rows of a file, in order.
    refusal(reply, name, now_ms): the error for a status other than 200; for 404 it is a ProviderRefused.
    listing_host: the host that lists the files as S3 does; None where no host lists them.
    """

    name: str
    host: str
    find_file: Callable[..., File | None]
    find_checksum: Callable[[bytes, str], str | None]
    read_file: Callable[[bytes, File, Series], Candles]
    refusal: Callable[[Reply, str, int], Exception]
    listing_host: str | None = None


@dataclass(frozen=True)
class Actions:
    """The corporate actions that change the adjusted prices of a series.

    call(series, now_ms): the call for all past and announced actions of the symbol.
    parse(call, body, series): the actions in a reply, and the call for the next page, or None. A list without any
    action is not trusted, since the provider may not know the symbol there.
    """

    call: Callable[[Series, int], Call]
    parse: Callable[[Call, bytes, Series], tuple[tuple[Action, ...], Call | None]]


@dataclass(frozen=True)
class Feed:
    """Candles of one kind, or rows of another kind on the same grid, such as open interest.

    Required:

    timeframes: the names of those that the provider serves.
    columns: `open_time`, the five columns of candles, then any others. A feed without prices has `open_time` and its
    own columns: float64, NaN where a value is missing.
    call(series, span, rows): the `Call` for the candles that open in the span, at most `rows` of them.
    parse(body, series): the candles of a reply, oldest first.
    limit: the most rows that one call can ask for.

    How the provider is asked:

    next_call(call, body): the call for the next page, None after the last one; None as a field where rows are enough to
    tell.
    first_call(series), last_call(series, end_ms): the calls for the first candle ever, and for the newest one before
    `end_ms`. `first_call` is None where the provider has no such request.
    window_ms: the longest span of one call.
    window(series, ms): the fixed span that holds the instant, where calls are for fixed spans such as months; None
    where a call is for all of time.
    since_ms: no candle is older.
    probe: the timeframe in which the first candle is searched for, window by window, where there is no `first_call`.
    replies_with_all: a reply holds everything that the provider has, or everything in the call's window, for each span
    alike. So rows outside the span are no error, and equal calls are sent once.
    depth(series): how many of the newest candles the provider serves; None means all.
    embargo_ms(series): candles younger than this need a special permission; they are requested only where a range
    includes them.

    What the candles mean:

    zone(series): the time zone in which days, weeks and months open at midnight; None means UTC.
    off_grid: timeframes with candles that do not open where their slots do; no coarser candles are made of them.
    finality: when candles stop changing and how late rows may be.
    final_until(body, candles): the open time of the first candle in the reply that may still change, `FOREVER_MS`
    where there is none. That candle and those after it are not settled, even if `finality` says so.
    has_empty_bars: an interval without trades has a row, so that a hole is doubted and requested again. Without such
    rows, a hole older than `finality.late_rows_ms` is a fact.
    restates_history(series): all past values change at times, as adjusted prices do after a split. Values of different
    days are then stored apart; with `actions`, only values from before and after a corporate action are.
    """

    timeframes: tuple[str, ...]
    columns: tuple[str, ...]
    call: Callable[[Series, Span, int], Call]
    parse: Callable[[bytes, Series], Candles]
    limit: int
    next_call: Callable[[Call, bytes], Call | None] | None = None
    first_call: Callable[[Series], Call] | None = None
    last_call: Callable[[Series, int], Call] | None = None
    window_ms: int | None = None
    window: Callable[[Series, int], Span | None] | None = None
    since_ms: int = 0
    probe: str = "1d"
    zone: Callable[[Series], str | None] = _none_for
    off_grid: tuple[str, ...] = ()
    finality: Finality = UNSTATED
    final_until: Callable[[bytes, Candles], int] | None = None
    has_empty_bars: bool = True
    embargo_ms: Callable[[Series], int] = _zero_for
    restates_history: Callable[[Series], bool] = _false_for
    actions: Actions | None = None
    replies_with_all: bool = False
    depth: Callable[[Series], int | None] = _none_for

    def __post_init__(self) -> None:
        """Raise InputError for columns that no frame, entry or file can have."""
        names = self.columns
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise InputError(f"columns {shown(names)} of a feed must be a tuple of names")
        strange = [name for name in names if not name.isidentifier() or name in _RESERVED or names.count(name) > 1]
        if names[:1] != ("open_time",) or len(names) < 2 or strange:
            raise InputError(
                f"columns {shown(names)} of a feed must be open_time and then others, each once, of letters, digits "
                f"and _, none of them {', '.join(_RESERVED)}"
            )
        if set(OHLCV).intersection(names) and not have_prices(names):
            raise InputError(
                f"columns {shown(names)} of a feed must be open_time, {', '.join(OHLCV)} and others; or none of these"
            )

    @property
    def is_resampled(self) -> bool:
        """Whether coarser candles can be made of its candles: only where all its columns are in COLUMNS."""
        return have_prices(self.columns) and set(self.columns) <= set(COLUMNS)

    def settling(self, series: Series, corrected_ms: int = 0) -> Settling:
        """Return when candles of the series settle; `corrected_ms` is how long after their close they were seen to
        change."""
        timeframe = series.timeframe
        zone_name = self.zone(series) if timeframe.unit in "dwM" else None
        return Settling(timeframe, self.finality, zone_name, corrected_ms)

    def tells_first(self, series: Series) -> bool:
        """Return whether the provider can be asked for the first candle of the series."""
        if self.replies_with_all:
            return self.window is None or self.window(series, 0) is None
        return self.first_call is not None or self.window_ms is not None

    def reach_ms(self, series: Series, now_ms: int) -> int:
        """Return the time before which no candle is served any more; -FOREVER_MS where every candle is served."""
        depth = self.depth(series)
        if depth is None:
            return -FOREVER_MS
        # The depth counts rows. Where a slot without trades has no row, the rows span more slots: on no market more
        # than twice as many and some.
        slots = depth + 1 if self.has_empty_bars else 2 * depth + 7
        return series.timeframe.open_ms(series.timeframe.ordinal(now_ms) - slots)


@dataclass(frozen=True)
class Funding:
    """Funding rates, with the columns of `core/funding.py`.

    call(symbol, span, rows): the call for the oldest records of the span, at most `rows` of them.
    parse(body, symbol): the records of a reply.
    limit: the most rows that one call can ask for.
    since_ms: no record is older.
    late_rows_ms: a record may be absent from replies for this long after its time.
    limits: the limits of these requests alone, where the provider counts them apart from its other requests.
    has_marks: whether newer records have a mark price.
    in_archive: whether the archive has files of funding rates, one for each month, without mark prices.
    """

    call: Callable[[str, Span, int], Call]
    parse: Callable[[bytes, str], Candles]
    limit: int
    since_ms: int
    late_rows_ms: int = MINUTE_MS
    limits: tuple[Limit, ...] = ()
    has_marks: bool = True
    in_archive: bool = False


@dataclass(frozen=True)
class Key:
    """A value that users get from the provider; `name` is its name in `api_keys`.

    environment: the environment variable that holds it where `api_keys` does not.
    header, prefix: the request header that carries it, and the text before it in that header.
    param: the query parameter that carries it. A key with neither of them only serves to get a `Token`.
    is_needed: whether no request is possible without it.
    """

    name: str
    environment: str
    header: str = ""
    prefix: str = ""
    param: str = ""
    is_needed: bool = True


@dataclass(frozen=True)
class Token:
    """A key that is valid for some minutes, and the service that gives it for permanent keys.

    name: the service's name in `base_urls`. host: its root URL.
    call(keys): given the values of `api_keys` by name, the call for a token and the keys to send with it; None where
    these values are not enough.
    parse(body): the new values by name, and the seconds for which they are valid.
    """

    name: str
    host: str
    call: Callable[[Mapping[str, str]], tuple[Call, Keys] | None]
    parse: Callable[[bytes], tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Setting:
    """A choice in `provider_settings`; the first of `allowed` is the default.

    is_of_series: whether the choice changes values, so that it is part of the series and of its cache keys.
    """

    name: str
    allowed: tuple[str, ...]
    is_of_series: bool = True


def any_symbol(text: str, kind: str) -> str:
    """Return the symbol in capitals: a letter or digit, then at most 39 letters, digits and . _ / - characters.

    Raises InputError for other text.
    """
    symbol = text.strip().upper() if isinstance(text, str) else ""
    if not _SYMBOL.fullmatch(symbol):
        raise not_a_symbol("the provider", text, "letters, digits and . _ / -, such as AAPL or BTC/USD")
    return symbol


@dataclass(frozen=True)
class Provider:
    """A source of candles. `hosts` are root URLs that serve the same data, the preferred one first.

    refusal(reply, symbol, now_ms): the error for a reply other than 200; `by_status` by default.
    default_limits: the documented limits. used(headers): how much weight is spent of them, by the headers of a reply.
    provider_symbol(symbol, kind): the provider's id for any spelling of a symbol.
    unified(provider_symbol): BASE/QUOTE, or the symbol where it is not a pair.
    clock: the question for the provider's time; without it, the Date header of replies is used.
    describe(provider_symbol): the question for the request limits and one symbol. listing: the question for every
    symbol; None where the provider has no list.
    calendar(series): the exchange that has the sessions of the candles, by its id in exchange_calendars; None where
    trading never stops.
    keys: the keys of a user; key_page: where to get them; token: the service that exchanges them for a token.
    settings: the choices of the user. configure(settings): the provider with these choices, needed where they change
    more than the series.
    streams: its WebSocket streams; without them, live calls poll.
    quotes: its quotes; None where it has none.
    """

    name: str
    hosts: tuple[str, ...]
    feeds: Mapping[str, Feed]
    clock: Question[int] | None = None
    describe: Callable[[str], Question[Listing]] | None = None
    listing: Question[Listing] | None = None
    default_limits: tuple[Limit, ...] = (Limit(60, 60),)
    used: Callable[[Mapping[str, str]], int | None] = _none_for
    refusal: Callable[[Reply, str, int], Exception] | None = None
    provider_symbol: Callable[[str, str], str] = any_symbol
    unified: Callable[[str], str] = _itself
    archive: Archive | None = None
    funding: Funding | None = None
    calendar: Callable[[Series], str | None] = _none_for
    keys: tuple[Key, ...] = ()
    key_page: str = ""
    token: Token | None = None
    settings: tuple[Setting, ...] = ()
    configure: Callable[[Mapping[str, str]], Provider] | None = None
    streams: Streams | None = None
    quotes: QuoteFeed | None = None

    def feed(self, kind: str) -> Feed:
        """Return the feed of that kind. Raises NotOffered, which names those that exist."""
        feed = self.feeds.get(kind)
        if feed is None:
            offered = ", ".join(self.feeds)
            raise NotOffered(f"{self.name} offers no {shown(kind)} candles; it offers {offered}")
        return feed

    def refuse(self, reply: Reply, symbol: str, now_ms: int) -> Exception:
        """Return the error for a reply other than 200."""
        if self.refusal is None:
            return by_status(self.name, reply, symbol, now_ms)
        return self.refusal(reply, symbol, now_ms)
