"""What a provider is: a value made of facts and pure functions. Asking for what it lacks is `NotOffered`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from candle_fetcher.core.actions import Action
from candle_fetcher.core.call import Call, Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import COLUMNS, OHLCV, Candles, have_prices
from candle_fetcher.core.errors import (
    AccessDenied,
    InputError,
    NotOffered,
    ProviderRefused,
    RateLimited,
    TransportError,
    shown,
)
from candle_fetcher.core.files import File
from candle_fetcher.core.finality import UNSTATED, Finality, Settling
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import MINUTE_MS

Answer = TypeVar("Answer")

# What frames and files call columns of theirs.
_RESERVED = ("timestamp", "is_closed", "is_synthetic")
_SYMBOL = re.compile(r"[^\W_][\w./-]{0,39}")


class Listed(NamedTuple):
    """A symbol that the provider lists, `trading` or not any more."""

    symbol: str
    provider_symbol: str
    base: str
    quote: str
    status: str
    trading: bool


class Listing(NamedTuple):
    """What the provider says of itself: its request limits and its symbols."""

    limits: tuple[Limit, ...]
    symbols: tuple[Listed, ...]


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A call and the function that reads its reply."""

    call: Call
    parse: Callable[[bytes], Answer]


@dataclass(frozen=True)
class Archive:
    """Whole days and months of a provider's candles as files, and of its funding rates where `Funding` says so.

    `find_file(series, ms, monthly=…)` is the file that holds the instant, or None; `find_checksum(text, name)` the
    SHA-256 that stands beside a file, or None; `read_file(data, file, series)` its rows, in order. `refusal` is the
    error for a status other than 200; a 404 is a ProviderRefused. `listing_host` lists the files as S3 does; None where
    nothing lists them.
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
    """The corporate actions by which the prices of a series are adjusted.

    `call(series, now_ms)` asks for all there ever were of the symbol, and for those that are announced. `parse(call,
    body, series)` reads its reply: the actions, each with whether it changes the prices of this series, and the call
    for those that it had no room for, None where there are no more. A list without any is not believed: it may be one
    that does not know the symbol.
    """

    call: Callable[[Series, int], Call]
    parse: Callable[[Call, bytes, Series], tuple[tuple[Action, ...], Call | None]]


@dataclass(frozen=True)
class Feed:
    """Candles of one kind, or rows of another sort on the same grid.

    `columns` are open_time, the five of candles, and what else there is; a feed without prices, such as one of open
    interest, has open_time and columns of its own, which are float64 and may lack values (NaN).
    `call(series, span, rows)` asks for the candles that open in the span, at most `rows` of them, `limit` being the
    provider's own bound; `parse(body, series)` reads its reply. `next_call(call, body)` asks for what a reply had no
    room for; it is None where the rows tell that, and returns None where there is no more. `first_call(series)` asks
    for the first candle there ever was, None where the provider cannot be asked that; `last_call(series, end_ms)` for
    the newest one before that time. `window_ms` is the longest span of one call, `window(series, ms)` the one that
    holds the instant where calls are for fixed spans, such as months, None where they are for all of time. Nothing is
    older than `since_ms`. `probe` is the timeframe with which to look for the listing through such windows.

    `zone(series)` is the zone at whose midnight its days, weeks and months open and close, where that is not UTC.
    No others are made of the timeframes that are `off_grid`: theirs open elsewhere than the slots do.

    `finality` states when candles stop changing and how late rows may come, and which page says so. Where a reply tells
    more, `final_until(body, candles)` gives the opening of the first candle that may still change: that one and those
    after it are not settled, whatever the clock says; `FOREVER_MS` where the reply has none.

    `quiet_rows` says that an interval without trades has a row, so that a hole is suspect and asked for again. Where it
    has none, a hole that is older than `finality.late_ms` is a fact, and not asked for again.
    `held_back_ms(series)` is the age that candles must have before everybody may ask for them: younger ones are asked
    for only where they are wanted. `restates(series)` says that all of history changes now and then, as prices do that
    are adjusted for splits: what was fetched on different days is kept apart, or where `actions` lists the splits and
    dividends, what was fetched before one of them and after it.
    `is_whole` says that a reply holds all that the provider has, or all of the call's window, and that the call depends
    on nothing else of the span: rows outside it are no error, and the same call is sent once. `depth(series)` is how
    many of the newest candles the provider serves; None means all of them.
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
    zone: Callable[[Series], str | None] = lambda series: None
    off_grid: tuple[str, ...] = ()
    finality: Finality = UNSTATED
    final_until: Callable[[bytes, Candles], int] | None = None
    quiet_rows: bool = True
    held_back_ms: Callable[[Series], int] = lambda series: 0
    restates: Callable[[Series], bool] = lambda series: False
    actions: Actions | None = None
    is_whole: bool = False
    depth: Callable[[Series], int | None] = lambda series: None

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
        """Whether coarser candles can be made of its candles: how, is known of the columns of candles alone."""
        return have_prices(self.columns) and set(self.columns) <= set(COLUMNS)

    def settling(self, series: Series) -> Settling:
        """When candles of the series settle."""
        timeframe = series.timeframe
        return Settling(timeframe, self.finality, self.zone(series) if timeframe.unit in "dwM" else None)

    def tells_first(self, series: Series) -> bool:
        """Whether the provider can be asked since when it has candles of the series."""
        if self.is_whole:
            return self.window is None or self.window(series, 0) is None
        return self.first_call is not None or self.window_ms is not None


@dataclass(frozen=True)
class Funding:
    """Funding rates, as columns of `core/funding.py`.

    `call(symbol, span, rows)` asks for the oldest records of the span, at most `rows` of them, `limit` being the
    provider's own bound; `parse(body, symbol)` reads the reply. Nothing is older than `since_ms`. A record may be
    absent from replies for `late_ms` after its time. `limits` is the budget that the provider sets for these requests
    alone, if any. `has_marks` says that newer records have a mark price, `in_archive` that the provider's archive has
    files of them: calendar months, without mark prices.
    """

    call: Callable[[str, Span, int], Call]
    parse: Callable[[bytes, str], Candles]
    limit: int
    since_ms: int
    late_ms: int = MINUTE_MS
    limits: tuple[Limit, ...] = ()
    has_marks: bool = True
    in_archive: bool = False


@dataclass(frozen=True)
class Key:
    """A value that its user gets from the provider, `name` in `api_keys`.

    `environment` names the variable where it is looked for else. It is sent as `header`, after `prefix`, or as the
    parameter `param` of the query; neither where it only serves to get a `Token`. `is_needed` says that nothing can be
    asked without it.
    """

    name: str
    environment: str
    header: str = ""
    prefix: str = ""
    param: str = ""
    is_needed: bool = True


@dataclass(frozen=True)
class Token:
    """A key that lives for some minutes, and is got with lasting ones.

    `name` is its host's name in `base_urls`. `call(keys)` asks for one, given the values in `api_keys` by name: the
    call and the keys that go with it, None where they do not suffice. `parse(body)` gives the new values by name, and
    for how many seconds they serve.
    """

    name: str
    host: str
    call: Callable[[Mapping[str, str]], tuple[Call, Keys] | None]
    parse: Callable[[bytes], tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Setting:
    """A choice that the provider leaves to its user, in `provider_settings`; the first of `allowed` unless chosen.

    `is_of_series` says that it changes values, and is part of the series.
    """

    name: str
    allowed: tuple[str, ...]
    is_of_series: bool = True


def any_symbol(text: str, kind: str) -> str:
    """The symbol in capitals: letters, digits and . _ / - after a letter or digit; InputError for anything else."""
    symbol = text.strip().upper() if isinstance(text, str) else ""
    if not _SYMBOL.fullmatch(symbol):
        raise InputError(
            f"{shown(text)} is not a symbol; expected letters, digits and . _ / -, such as AAPL or BTC/USD"
        )
    return symbol


def status_of(status: int, code: object) -> int:
    """The status that an error stands for: its code where that is a status, of either sign, and the reply says 200."""
    if status == 200 and type(code) is int and 400 <= abs(code) < 600:
        return abs(code)
    return status


def of_seconds(asked_s: float | None) -> str:
    """` of 30 s` for a pause of which the length is known."""
    return f" of {asked_s:g} s" if asked_s else ""


def by_status(name: str, reply: Reply, symbol: str, now_ms: int, said: str = "") -> Exception:
    """The error that a status other than 200 stands for where the provider means by it what HTTP does; `said` are its
    words."""
    status = reply.status
    # The provider's words are shown escaped: they may hold anything.
    words = f"status {status}" + (f": {said[:160]!r}" if said else "")
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    if status == 429:
        return RateLimited(f"{name} asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    if status in (401, 403, 407):
        return AccessDenied(f"{name} refused access ({words})", fix=f"Check api_keys of {name}", status=status)
    if status == 451:
        return AccessDenied(
            f"{name} does not serve this region ({words})", fix="Use data from another provider", status=status
        )
    if status >= 500 or status == 408:
        return TransportError(f"{name} could not answer ({words})", status=status)
    return ProviderRefused(f"{name} refused the request ({words})", status=status, said=said)


@dataclass(frozen=True)
class Provider:
    """A source of candles. `hosts` are root URLs that serve the same data, the preferred one first.

    `refusal(reply, symbol, now_ms)` is the error that a reply other than 200 stands for; `by_status` unless given.
    `default_limits` is the documented budget, and `used(headers)` how much of it the provider says is spent.
    `provider_symbol(symbol, kind)` reads every spelling, `unified` gives BASE/QUOTE back, or the symbol where there is
    no pair.

    `clock` asks for the provider's time; without one the hour on its replies tells. `describe(provider_symbol)` asks
    for the request limits and for what is said of the symbol, `listing` for every symbol: None where it cannot be
    asked. `calendar(series)` is the exchange whose sessions the candles keep to, by its id in exchange_calendars; None
    where trading never ends.

    `keys` are what its user must have, `key_page` says where to get them, `token` turns them into one that is sent.
    `settings` are its user's choices; where they change more than the series, `configure(settings)` is the provider
    that they make.
    """

    name: str
    hosts: tuple[str, ...]
    feeds: Mapping[str, Feed]
    clock: Question[int] | None = None
    describe: Callable[[str], Question[Listing]] | None = None
    listing: Question[Listing] | None = None
    default_limits: tuple[Limit, ...] = (Limit(60, 60),)
    used: Callable[[Mapping[str, str]], int | None] = lambda headers: None
    refusal: Callable[[Reply, str, int], Exception] | None = None
    provider_symbol: Callable[[str, str], str] = any_symbol
    unified: Callable[[str], str] = lambda provider_symbol: provider_symbol
    archive: Archive | None = None
    funding: Funding | None = None
    calendar: Callable[[Series], str | None] = lambda series: None
    keys: tuple[Key, ...] = ()
    key_page: str = ""
    token: Token | None = None
    settings: tuple[Setting, ...] = ()
    configure: Callable[[Mapping[str, str]], Provider] | None = None

    def feed(self, kind: str) -> Feed:
        """The feed of that kind; NotOffered names those that there are."""
        feed = self.feeds.get(kind)
        if feed is None:
            offered = ", ".join(self.feeds)
            raise NotOffered(f"{self.name} offers no {shown(kind)} candles; it offers {offered}")
        return feed

    def refuse(self, reply: Reply, symbol: str, now_ms: int) -> Exception:
        """The error that a reply other than 200 stands for."""
        if self.refusal is None:
            return by_status(self.name, reply, symbol, now_ms)
        return self.refusal(reply, symbol, now_ms)
