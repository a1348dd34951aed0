"""The live calls of a CandleFetcher, as functions of which its class makes methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.types import CandleKind

if TYPE_CHECKING:
    from candle_fetcher.core.quote import Quotes
    from candle_fetcher.live.door import Door
    from candle_fetcher.live.follow import Follow, LiveRuntime
    from candle_fetcher.live.quotes import Desk
    from candle_fetcher.live.watch import Watch, WatchRuntime
    from candle_fetcher.providers import Provider


class HasDesk(Protocol):
    """What the live calls take for a fetcher."""

    @property
    def _runtime(self) -> Desk: ...


class HasStreams(Protocol):
    """What the live calls take for a fetcher that has quotes and streams."""

    @property
    def _runtime(self) -> WatchRuntime: ...


class HasDoor(Protocol):
    """What the live calls take for a fetcher that has candles."""

    @property
    def _runtime(self) -> LiveRuntime: ...
    @property
    def _door(self) -> Door: ...


def quotes(
    self: HasDesk,
    symbols: Iterable[str],
    *,
    provider: str | Provider | None = None,
    timeout_s: float = 5,
    max_age_s: float | None = None,
) -> Quotes:
    """Return what providers say of the symbols now, in the order given, at most `timeout_s` seconds later.

    `Quotes` is a list of `Quote`; print it, or take `to_frame()` or `to_json()`. Providers are asked side by side.
    max_age_s: a quote of a higher `age_s` is marked `is_stale`. Where a provider does not answer, a symbol has the last
    quote known, marked so too, or none. An unknown symbol or provider, a missing key and any other failure is the
    `error` of that quote alone; InputError is raised for the other arguments.
    """
    from candle_fetcher.live.quotes import ask_quotes  # when used: few do

    return ask_quotes(self._runtime, symbols, provider, timeout_s, max_age_s)


def watch(
    self: HasStreams,
    symbols: Iterable[str],
    *,
    provider: str | Provider | None = None,
    every_s: float | None = None,
    max_age_s: float | None = 10,
    to: Any = (),
) -> Watch:
    """Return an iterator of `Quote` as prices and volumes change, for ever; by WebSocket where a provider has streams,
    else by polling within its budget, and so while a stream is down.

    A slow loop gets the newest quote of each symbol; what it replaced is counted in `.stats.merged`.

    every_s: at most one quote of a symbol in so many seconds.
    max_age_s: a quote that grows older is yielded once more, with `is_stale`; None: never.
    to: a callable, RedisSink, SqlSink or a list of them, which get each quote too. One that fails is tried again, with
    a warning.

    Use it in a `with` block, or `close()` it: any thread may, and the loop ends. `.stats` has what was done so far.
    Raises InputError, UnknownSymbol, AccessDenied or ProviderRefused at once; MissingExtra where the extra `live` is
    not installed and a provider has streams.
    """
    from candle_fetcher.live.watch import make_watch  # when used: few do

    return make_watch(self._runtime, symbols, provider, every_s, max_age_s, to)


def follow(
    self: HasDoor,
    symbols: Iterable[str],
    timeframe: str,
    start: Instant = None,
    *,
    provider: str | Provider | None = None,
    kind: CandleKind = "candles",
    include_open: bool = False,
    revisions: bool = False,
    max_delay_s: float | None = None,
    to: Any = (),
) -> Follow:
    """Return an iterator of `(symbol, frame)`: the settled candles from `start` on, for ever.

    Each candle comes exactly once and in order of its series, in a frame as `fetch` returns it; `symbol` is that of
    `symbols`. History comes first, in frames of many rows. What a lost connection, a sleep of the machine or a slow
    loop left out is fetched before a later candle of that symbol. All of it is in the cache.

    start: as of `fetch`; without it, from the next candle that closes.
    include_open: also yields the forming candle as it changes; the column `is_closed` is False for it.
    revisions: yields a candle once more that its provider changed after it was yielded, and one that it had later than
    newer ones; the column `is_revised` is True for it.
    max_delay_s: raises IncompleteData for a candle that has not come so long after it was due; by default it is tried
    for ever. The other symbols go on, and so does the loop, if it asks for the next item.
    to: a callable, RedisSink, SqlSink or a list of them, which get each pair too. One that fails is tried again, with a
    warning.

    Use it in a `with` block, or `close()` it: any thread may, and the loop ends. `.stats` has what was done so far.
    Raises InputError, NotOffered, UnknownSymbol, AccessDenied or ProviderRefused at once; MissingExtra where the extra
    `live` is not installed and the provider has streams.
    """
    from candle_fetcher.live.follow import make_follow  # when used: few do
    from candle_fetcher.live.follower import FollowOptions

    options = FollowOptions(timeframe, provider, kind, include_open, revisions, max_delay_s)
    return make_follow(self._runtime, self._door, symbols, start, options, to)
