"""The work of `watch`: quotes out of streams and of polling, merged, and handed out as they change.

    stream -> take -> Watched (the newest values) -> a queue of symbols that changed -> the user's loop

A symbol stands in the queue at most once: a slow loop gets the newest values, and what they replaced is counted.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from candle_fetcher.core.errors import CandleFetcherError, CandleFetcherWarning, warn
from candle_fetcher.core.live import CandleUpdate, QuoteUpdate
from candle_fetcher.core.quote import Quote, Ticker, make_quote
from candle_fetcher.live.kept import LastKnown, Received
from candle_fetcher.live.line import Wires
from candle_fetcher.live.quotes import Wanted
from candle_fetcher.live.working import Base, Work
from candle_fetcher.providers import QuoteFeed
from candle_fetcher.sources import RestSource

# A symbol without a stream for so long is polled.
_DOWN_S = 3.0
# Quotes are polled at most this often, and with this part of the provider's budget; of budgets by the day, with all.
_FASTEST_S, _SHARE, _LONG_S = 1.0, 0.5, 3_600
_LOOK_S = 0.25
_VALUES = ("last_price", "volume", "bid_price", "ask_price")


class Remembering(Base, Protocol):
    """What a fetcher has for `watch`."""

    last_known: LastKnown


class Pace(NamedTuple):
    """How often quotes are handed out and asked for. every_s: of one symbol; None: as they change. max_age_s: after
    which a quote is stale."""

    every_s: float | None
    max_age_s: float | None


@dataclass
class Watched:
    """One watched symbol: the newest values, and what was handed out of them."""

    name: str
    wanted: Wanted
    source: RestSource
    feed: QuoteFeed
    topics: frozenset[str] = frozenset()
    up: set[str] = field(default_factory=set)  # of the topics, those that are connected
    orders: dict[str, int] = field(default_factory=dict)
    ticker: Ticker | None = None
    received_ms: int = 0
    error: str | None = None
    is_queued: bool = False
    shown: tuple[object, ...] = ()
    shown_s: float = -math.inf
    is_shown_stale: bool = False
    down_since_s: float | None = 0.0  # None while all of its topics are connected

    @property
    def values(self) -> tuple[object, ...]:
        """What changes of a quote are changes of."""
        ticker = self.ticker
        return (self.error, *(None if ticker is None else getattr(ticker, name) for name in _VALUES))


class Group:
    """The symbols of one provider that are polled together, and when."""

    def __init__(self, source: RestSource, feed: QuoteFeed, watched: Sequence[Watched], every_s: float | None) -> None:
        self.source, self.feed, self.watched = source, feed, watched
        self.due_s = -math.inf
        self._every_s = every_s
        self.is_busy = False

    def polled(self, now_s: float) -> list[Watched]:
        """Return the symbols that no stream serves now."""
        return [
            one
            for one in self.watched
            if not one.topics or (one.down_since_s is not None and now_s - one.down_since_s >= _DOWN_S)
        ]

    def pause_s(self, symbols: int, settings: dict[str, str]) -> float:
        """Return how long the budget wants between two rounds for so many symbols."""
        ids = [one.wanted.provider_symbol for one in self.watched][:symbols]
        cost = sum(request.call.cost for request in self.feed.requests(ids, settings))
        rates = [
            limit.cost / limit.interval_s * (1.0 if limit.interval_s >= _LONG_S else _SHARE)
            for limit in self.feed.limits or self.source.provider.default_limits
            if limit.kind in ("weight", "requests")
        ]
        return max(_FASTEST_S, self._every_s or 0.0, cost / min(rates) if rates else 0.0)


class Watcher(Work):
    """The watched symbols of one call, which hears its streams."""

    def __init__(self, base: Remembering, pace: Pace, wires: Wires, ask: Callable[[Sequence[Watched]], object]) -> None:
        super().__init__(base)
        self._last_known = base.last_known
        self._pace = pace
        self.wires = wires
        self._ask = ask
        self.watched: list[Watched] = []
        self.groups: list[Group] = []
        self._changed: queue.SimpleQueue[Watched | None] = queue.SimpleQueue()
        self._delayed: list[Watched] = []  # changed, and not to be handed out before `every_s` has passed
        self._lock = threading.Lock()
        self._looked_s = -math.inf

    @property
    def every_s(self) -> float | None:
        """How often a symbol is handed out at most."""
        return self._pace.every_s

    # -- the streams --------------------------------------------------------------------------------------------------

    def heard(self, one: Watched, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        """Take an update of a stream."""
        if type(event) is not QuoteUpdate:
            return
        if event.order:
            if event.order <= one.orders.get(event.topic, 0):
                return
            one.orders[event.topic] = event.order
        self._set(one, merged(one.ticker, one.wanted.provider_symbol, event), int(self.wires.wall_s() * 1000))

    def connected(self, one: Watched, topic: str, now_s: float) -> None:
        """Note that a stream delivers from now on."""
        one.orders.pop(topic, None)
        one.up.add(topic)
        if one.up >= one.topics:
            one.down_since_s = None

    def disconnected(self, one: Watched, topic: str, now_s: float) -> None:
        """Note that a stream is lost."""
        one.up.discard(topic)
        if one.down_since_s is None:
            one.down_since_s = now_s

    def refused(self, one: Watched, topic: str, error: Exception) -> None:
        """Note that the quotes of a symbol come by requests alone."""
        one.topics = frozenset()
        self.tell(warn, CandleFetcherWarning(f"{one.name} does not come by stream ({error}); it is polled"))

    # -- values -------------------------------------------------------------------------------------------------------

    def _set(self, one: Watched, ticker: Ticker | None, received_ms: int, error: str | None = None) -> None:
        with self._lock:
            one.ticker, one.received_ms, one.error = ticker, received_ms, error
            if one.values == one.shown and not one.is_shown_stale:
                return
            if one.is_queued:
                self.stats.merged += 1
                return
            one.is_queued = True
        self._changed.put(one)

    def polled(self, one: Watched, quote: Quote) -> None:
        """Take the quote of a round of polling."""
        received = self._last_known.find(one.source, one.wanted.provider_symbol)
        if quote.error is None and received is not None:
            self._set(one, received.ticker, received.ms)
        else:
            self._set(one, one.ticker, one.received_ms, quote.error)

    def quote(self, one: Watched) -> Quote:
        """Return the quote of the symbol as it is known now."""
        wanted, max_age_s = one.wanted, self._pace.max_age_s
        if one.ticker is None:
            type_ = one.feed.type_of(wanted.provider_symbol)
            own = wanted.provider_symbol
            return Quote(
                wanted.symbol, type_, one.feed.exchange, provider=wanted.provider, error=one.error, provider_symbol=own
            )
        now_ms = int(self._base.clock() * 1000)
        return make_quote(
            one.ticker,
            symbol=wanted.symbol,
            type=one.feed.type_of(wanted.provider_symbol),
            exchange=one.feed.exchange,
            provider=wanted.provider,
            received_ms=one.received_ms,
            age_s=one.ticker.age_s(one.received_ms, now_ms, one.source.estimated_ms()),
            max_age_s=max_age_s,
            error=one.error,
        )

    # -- polling ------------------------------------------------------------------------------------------------------

    def run(self, submit: Callable[[Callable[[], None]], object]) -> None:
        """Poll the symbols that no stream serves, until `stop` is set."""
        while not self.stop.is_set():
            self.wires.wait(self.stop, max(0.01, self.schedule(submit)))

    def schedule(self, submit: Callable[[Callable[[], None]], object]) -> float:
        """Hand over the rounds that are due, and return the seconds until the next look."""
        now_s = self.wires.steady_s()
        for group in self.groups:
            if group.is_busy or group.due_s > now_s:
                continue
            polled = group.polled(now_s)
            if polled:
                group.is_busy = True
                submit(lambda group=group, polled=polled: self._poll(group, polled))  # type: ignore[misc]
        return _LOOK_S

    def _poll(self, group: Group, polled: Sequence[Watched]) -> None:
        began_s = self.wires.steady_s()
        try:
            self.run_call(lambda: self._ask(polled))
        except (CandleFetcherError, CancelledError) as error:
            if self._base.is_closed and not self.stop.is_set():
                self.raise_later(error)
                self.end()
        except BaseException as error:  # noqa: BLE001 - the user's loop raises it
            self.raise_later(error)
        finally:
            group.due_s = began_s + group.pause_s(len(polled), {})
            group.is_busy = False

    # -- the user's loop ----------------------------------------------------------------------------------------------

    def next(self, timeout_s: float) -> Quote | None:
        """Return the next quote that changed, or became stale; None where there is none within the time."""
        now_s = self.wires.steady_s()
        one = self._due_again(now_s)
        if one is None:
            try:
                one = self._changed.get(timeout=timeout_s) if timeout_s > 0 else self._changed.get_nowait()
            except queue.Empty:
                return None
        if one is None:
            return None
        every_s = self._pace.every_s
        if every_s is not None and now_s - one.shown_s < every_s:
            self._delayed.append(one)
            return None
        return self._show(one, now_s)

    def _due_again(self, now_s: float) -> Watched | None:
        """Return a symbol that was held back and is due, or one with a quote that has become stale."""
        every_s = self._pace.every_s or 0.0
        for one in self._delayed:
            if now_s - one.shown_s >= every_s:
                self._delayed.remove(one)
                return one
        max_age_s = self._pace.max_age_s
        if max_age_s is None or now_s - self._looked_s < _LOOK_S:
            return None
        self._looked_s = now_s
        now_ms = int(self._base.clock() * 1000)
        for one in self.watched:
            if one.ticker is None or one.is_queued or one.is_shown_stale or not one.shown:
                continue
            if now_s - one.shown_s < every_s:
                continue
            if one.ticker.age_s(one.received_ms, now_ms, one.source.estimated_ms()) > max_age_s:
                self._looked_s = -math.inf  # there may be more
                return one
        return None

    def _show(self, one: Watched, now_s: float) -> Quote:
        with self._lock:
            one.is_queued = False
            quote = self.quote(one)
            one.shown, one.shown_s, one.is_shown_stale = one.values, now_s, quote.is_stale
        if one.ticker is not None:
            self._last_known.keep(one.source, Received(one.ticker, one.received_ms))
            if quote.age_s is not None:
                self.stats.note_lag(quote.age_s)
        self.stats.quotes += 1
        return quote

    def end(self) -> None:
        """Break off what is under way."""
        super().end()
        self._changed.put(None)


def merged(before: Ticker | None, symbol: str, update: QuoteUpdate) -> Ticker:
    """Return what is known of a symbol after an update, which may say a part of it."""
    known = Ticker(symbol) if before is None else before
    values: dict[str, Any] = {name: getattr(update, name) for name in _VALUES}
    values = {name: None if math.isnan(value) else value for name, value in values.items() if value is not None}
    times = [ms for ms in (known.time_ms, update.time_ms) if ms is not None]
    return known._replace(time_ms=max(times, default=None), **values)
