"""What a provider is: a value made of facts and pure functions. Asking for what it lacks is `NotOffered`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import NotOffered
from candle_fetcher.core.files import File
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe

Answer = TypeVar("Answer")


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
    error for a status other than 200; a 404 is a ProviderRefused.
    """

    name: str
    host: str
    find_file: Callable[..., File | None]
    find_checksum: Callable[[bytes, str], str | None]
    read_file: Callable[[bytes, File, Series], Candles]
    refusal: Callable[[Reply, str, int], Exception]


@dataclass(frozen=True)
class Feed:
    """Candles of one kind.

    `call(symbol, timeframe, span, rows)` asks for the candles that open in the span, at most `rows` of them, `limit`
    being the provider's own bound; `first_call(symbol, timeframe)` for the first candle there ever was, None where the
    provider cannot be asked that. `window_ms` is the longest span of one call. Nothing is older than `since_ms`.
    `probe` is the timeframe with which to look for the listing through such windows. `quiet_rows` says that an interval
    without trades has a row, so that a hole is suspect.
    """

    timeframes: tuple[str, ...]
    columns: tuple[str, ...]
    call: Callable[[str, Timeframe, Span, int], Call]
    parse: Callable[[bytes], Candles]
    limit: int
    first_call: Callable[[str, Timeframe], Call] | None = None
    last_call: Callable[[str, Timeframe, int], Call] | None = None
    window_ms: int | None = None
    since_ms: int = 0
    probe: str = "1d"
    quiet_rows: bool = True


@dataclass(frozen=True)
class Funding:
    """Funding rates, as columns of `core/funding.py`.

    `call(symbol, span, rows)` asks for the oldest records of the span, at most `rows` of them, `limit` being the
    provider's own bound; `parse(body, symbol)` reads the reply. Nothing is older than `since_ms`. `limits` is the
    budget that the provider sets for these requests alone, if any. `has_marks` says that newer records have a mark
    price, `in_archive` that the provider's archive has files of them: calendar months, without mark prices.
    """

    call: Callable[[str, Span, int], Call]
    parse: Callable[[bytes, str], Candles]
    limit: int
    since_ms: int
    limits: tuple[Limit, ...] = ()
    has_marks: bool = True
    in_archive: bool = False


@dataclass(frozen=True)
class Provider:
    """A source of candles. `hosts` are root URLs that serve the same data, the preferred one first.

    `describe(provider_symbol)` asks for the request limits and for what is said of the symbol, `listing` for every
    symbol. `refusal(reply, symbol, now_ms)` is the error that a reply other than 200 stands for. `used(headers)` is the
    budget that the provider says is spent. `provider_symbol(symbol, kind)` reads every spelling; `unified` gives
    BASE/QUOTE back.
    """

    name: str
    hosts: tuple[str, ...]
    feeds: Mapping[str, Feed]
    clock: Question[int]
    describe: Callable[[str], Question[Listing]]
    listing: Question[Listing]
    default_limits: tuple[Limit, ...]
    used: Callable[[Mapping[str, str]], int | None]
    refusal: Callable[[Reply, str, int], Exception]
    provider_symbol: Callable[[str, str], str]
    unified: Callable[[str], str]
    archive: Archive | None = None
    funding: Funding | None = None

    def feed(self, kind: str) -> Feed:
        """The feed of that kind; NotOffered names those that there are."""
        feed = self.feeds.get(kind)
        if feed is None:
            offered = ", ".join(self.feeds)
            raise NotOffered(f"{self.name} offers no {kind!r} candles; it offers {offered}")
        return feed
