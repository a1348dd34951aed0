"""What streams wait for: newer quotes, and candles that have settled. One thread asks, for all clients together.

    fetcher.watch, quotes, fetch  ->  the thread  ->  Subscriber (bounded, coalescing)  ->  the stream of one client

Quotes come by `watch`. Symbols that were added since it was opened are asked for by `quotes` until it is opened again,
and so are all where it cannot be opened.

A subscriber holds the newest quote of each of its symbols, however little the client has read, and how far each series
has settled. Candles are no events: the stream of a client reads them out of the cache from where that client is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from candle_fetcher.console import printable
from candle_fetcher.core.errors import CandleFetcherError, collecting_warnings
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe

if TYPE_CHECKING:
    from candle_fetcher.core.quote import Quote
    from candle_fetcher.fetcher import CandleFetcher

LOG = logging.getLogger("candle_fetcher.service")
# How often quotes are sent at most; and asked for, where they are not watched.
SENT_EVERY_S = 0.2
QUOTES_EVERY_S = 1.0
# How long symbols have to be wanted before they are watched, and how long a watch is kept at least.
WATCHED_AFTER_S = 2.0
_KEPT_S = 20.0
_FAILED_S = 60.0
# How old prices may be before they are marked stale.
MOST_AGE_S = 10.0
# How soon after its close a candle is asked for, and how often until it has settled.
CANDLE_AFTER_S = 2.2
CANDLE_EVERY_S = 1.0
# The thread ends where no client has been there for so long.
_IDLE_S = 30.0
_STEP_S = 0.05
_END_S = 1.0
# Symbols and series of all streams together.
MOST_TOPICS = 500


class Topic(NamedTuple):
    """What is watched: the quotes of a symbol (`timeframe` is None), or the candles of a series."""

    symbol: str
    timeframe: str | None
    provider: str | None


class Subscriber:
    """What has come for one client and was not sent yet. Used in the client's event loop alone."""

    def __init__(self, topics: Iterable[Topic], loop: asyncio.AbstractEventLoop) -> None:
        self.topics = frozenset(topics)
        self.loop = loop
        self.quotes: dict[Topic, str] = {}
        self.settled_ms: dict[Topic, int] = {}
        self.dropped = 0
        self._wake = asyncio.Event()

    def put(self, quotes: Mapping[Topic, str], settled_ms: Mapping[Topic, int]) -> None:
        """Take what is this client's; an older quote that was not sent is replaced."""
        for topic in self.topics & quotes.keys():
            self.dropped += topic in self.quotes
            self.quotes[topic] = quotes[topic]
            self._wake.set()
        for topic in self.topics & settled_ms.keys():
            self.settled_ms[topic] = settled_ms[topic]
            self._wake.set()

    def wake(self) -> None:
        """Let the client's stream look whether it is to end."""
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Return True once something has come, False after so many seconds."""
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._wake.clear()
        return True

    def take_quotes(self) -> dict[Topic, str]:
        """Return the quotes that came since the last time."""
        taken, self.quotes = self.quotes, {}
        return taken


class Hub:
    """The subscribers, and the thread that asks for them. Shared by threads."""

    def __init__(self, fetcher: CandleFetcher, clock: Callable[[], float] = time.time) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._lock = threading.Lock()
        self._subscribers: set[Subscriber] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._quotes: dict[Topic, tuple[Any, str]] = {}
        self._spellings: dict[tuple[str, str], set[Topic]] = {}
        self._watching: Watching | None = None
        self._send_at_s = self._ask_at_s = 0.0
        self._idle_since_s = time.monotonic()
        self._wanted_since: tuple[set[Topic], float] = (set(), 0.0)
        self._candles: dict[Topic, _Watched] = {}

    def add(self, topics: Iterable[Topic], loop: asyncio.AbstractEventLoop) -> Subscriber:
        """Return a new subscriber, which has the newest quotes that are known. Raises OverflowError for too many
        topics."""
        made = Subscriber(topics, loop)
        with self._lock:
            if len(self._topics() | made.topics) > MOST_TOPICS:
                raise OverflowError(f"{MOST_TOPICS} symbols are streamed already")
            known = {topic: one.last_ms for topic, one in self._candles.items() if one.last_ms is not None}
            made.put({topic: text for topic, (_, text) in self._quotes.items()}, known)
            self._subscribers.add(made)
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="candle-service-hub", daemon=True)
                self._thread.start()
        return made

    def remove(self, subscriber: Subscriber) -> None:
        """Forget the subscriber."""
        with self._lock:
            self._subscribers.discard(subscriber)

    def end(self) -> None:
        """Let every stream look whether it is to end, and the thread come to its end."""
        self._stop.set()
        with self._lock:
            for one in self._subscribers:
                one.loop.call_soon_threadsafe(one.wake)

    def close(self) -> None:
        """End the thread, and wait a moment for it: what it waits for ends with the fetcher."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_END_S)

    def _topics(self) -> set[Topic]:
        return {topic for one in self._subscribers for topic in one.topics}

    def _run(self) -> None:
        with collecting_warnings() as warnings:  # what a provider lacks is in the quotes and in the candles
            while not self._stop.wait(_STEP_S):
                try:
                    if self._is_idle():
                        break
                    self._step()
                except Exception:  # a fault here must not end all streams
                    LOG.exception("the thread of the streams goes on after a fault")
                warnings.clear()
        with self._lock:
            watching, self._watching = self._watching, None
            self._quotes, self._candles, self._spellings = {}, {}, {}
            self._thread = None
        if watching is not None:
            watching.close()

    def _is_idle(self) -> bool:
        """Return whether no client has been there for a while."""
        with self._lock:
            if self._subscribers:
                self._idle_since_s = time.monotonic()
        return time.monotonic() - self._idle_since_s > _IDLE_S

    def _step(self) -> None:
        """Ask for what is due, and hand it on."""
        with self._lock:
            topics = self._topics()
        quoted = {topic for topic in topics if topic.timeframe is None}
        now_s = time.monotonic()
        if now_s >= self._send_at_s and (fresh := self._watched_quotes(quoted)):
            self._send_at_s = now_s + SENT_EVERY_S
            self._tell(fresh, {})
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + QUOTES_EVERY_S
            self._quotes = {topic: known for topic, known in self._quotes.items() if topic in quoted}
            self._tell(self._ask_quotes(sorted(quoted - self._watched(), key=full_name)), {})
            self._watch(quoted)
        self._tell({}, self._ask_candles([topic for topic in topics if topic.timeframe is not None]))

    def _watched(self) -> frozenset[Topic]:
        """Return the topics that a watch brings the quotes of."""
        watching = self._watching
        return frozenset() if watching is None or watching.has_ended else watching.topics

    def _watch(self, quoted: set[Topic]) -> None:
        """Open a watch for these topics, where there is none or one for others; close one that is not needed."""
        watching, now_s = self._watching, time.monotonic()
        if self._wanted_since[0] != quoted:
            self._wanted_since = (set(quoted), now_s)
        if now_s - self._wanted_since[1] < WATCHED_AFTER_S:
            return
        if watching is not None:
            is_good = watching.topics == quoted and not watching.has_ended
            if is_good or now_s - watching.began_s < (_FAILED_S if watching.has_ended else _KEPT_S):
                return
        elif not quoted:
            return
        self._watching = Watching(self._fetcher, frozenset(quoted)) if quoted else None
        if watching is not None:
            watching.close()

    def _watched_quotes(self, quoted: set[Topic]) -> dict[Topic, str]:
        """Return the quotes that a watch has brought and that differ from those before, as JSON."""
        changed = {}
        for key, quote in (self._watching.take() if self._watching is not None else {}).items():
            for topic in self._spellings.get(key, set()) & quoted:
                changed.update(self._note(topic, quote))
        return changed

    def _note(self, topic: Topic, quote: Quote) -> dict[Topic, str]:
        """Keep the quote. Return it as JSON where it differs from the one before."""
        state = quote_state(quote)
        if topic in self._quotes and self._quotes[topic][0] == state:
            return {}
        text = quote_text(quote)
        self._quotes[topic] = (state, text)
        return {topic: text}

    def _ask_quotes(self, topics: list[Topic]) -> dict[Topic, str]:
        """Return the quotes that differ from those before, as JSON."""
        if not topics:
            return {}
        try:
            quotes = self._fetcher.quotes([full_name(topic) for topic in topics], timeout_s=5, max_age_s=MOST_AGE_S)
        except Exception:  # noqa: BLE001 - of any kind: the next round may succeed, and ages go on until then
            return {}
        changed = {}
        for topic, quote in zip(topics, quotes, strict=True):
            self._spellings.setdefault((quote.provider, quote.symbol), set()).add(topic)
            changed.update(self._note(topic, quote))
        return changed

    def _ask_candles(self, topics: list[Topic]) -> dict[Topic, int]:
        """Return how far each series has settled, where it has gone on."""
        found = {}
        for topic in topics:
            watched = self._candles.get(topic)
            if watched is None:
                watched = self._candles[topic] = _Watched(topic)
            if watched.is_due(self._clock()):
                last_ms = watched.ask(self._fetcher, self._clock())
                if last_ms is not None:
                    found[topic] = last_ms
        self._candles = {topic: one for topic, one in self._candles.items() if topic in set(topics)}
        return found

    def _tell(self, quotes: dict[Topic, str], settled_ms: dict[Topic, int]) -> None:
        if not quotes and not settled_ms:
            return
        with self._lock:
            loops: dict[asyncio.AbstractEventLoop, list[Subscriber]] = {}
            for one in self._subscribers:
                loops.setdefault(one.loop, []).append(one)
        for loop, several in loops.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put_all, several, quotes, settled_ms)


def _put_all(several: list[Subscriber], quotes: dict[Topic, str], settled_ms: dict[Topic, int]) -> None:
    for one in several:
        one.put(quotes, settled_ms)


class Watching:
    """A watch of some quotes, in a thread of its own; the newest of each symbol since it was last asked."""

    def __init__(self, fetcher: CandleFetcher, topics: frozenset[Topic]) -> None:
        self.topics = topics
        self.began_s = time.monotonic()
        self.has_ended = False
        self._fetcher = fetcher
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str], Quote] = {}
        self._is_closed = False
        self._live: Any = None
        self._thread = threading.Thread(target=self._run, name="candle-service-watch", daemon=True)
        self._thread.start()

    def take(self) -> dict[tuple[str, str], Quote]:
        """Return the quotes that came since the last time, by provider and symbol."""
        with self._lock:
            taken, self._newest = self._newest, {}
        return taken

    def close(self) -> None:
        """End the watch."""
        self._is_closed = True
        live = self._live
        if live is not None:
            live.close()
        self._thread.join(_END_S)

    def _run(self) -> None:
        names = sorted(full_name(topic) for topic in self.topics)
        try:
            with (
                collecting_warnings() as warnings,
                self._fetcher.watch(names, every_s=SENT_EVERY_S, max_age_s=MOST_AGE_S) as live,
            ):
                self._live = live
                for quote in () if self._is_closed else live:
                    with self._lock:
                        self._newest[quote.provider, quote.symbol] = quote
                    warnings.clear()
        except Exception as error:  # noqa: BLE001 - of any kind: quotes are asked for instead
            LOG.warning("%s", printable(f"quotes are asked for, not watched: {type(error).__name__}: {error}"))
        finally:
            self.has_ended = True


class _Watched:
    """A series of which each candle is asked for when it has settled."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._grid = parse_timeframe(topic.timeframe or "1m")
        self.last_ms: int | None = None
        self._next_s = 0.0

    def is_due(self, now_s: float) -> bool:
        return now_s >= self._next_s

    def ask(self, fetcher: CandleFetcher, now_s: float) -> int | None:
        """Return the open time of the newest settled candle, where it is a newer one. What fails is tried again."""
        self._next_s = now_s + CANDLE_EVERY_S
        topic = self._topic
        try:
            frame = fetcher.fetch(topic.symbol, topic.timeframe or "1m", limit=1, provider=topic.provider)
        except CandleFetcherError:
            return None
        if not len(frame):
            return None
        last_ms = int(index_ms(frame)[-1])
        # The candle after it closes then.
        due_s = self._grid.close_ms(self._grid.close_ms(last_ms)) / 1000 + CANDLE_AFTER_S
        self._next_s = max(self._next_s, due_s)
        is_newer = self.last_ms is None or last_ms > self.last_ms
        self.last_ms = last_ms
        return last_ms if is_newer else None


def full_name(topic: Topic) -> str:
    """Return the symbol with its provider, as calls take it."""
    return topic.symbol if topic.provider is None else f"{topic.provider}:{topic.symbol}"


def quote_state(quote: Quote) -> Any:
    """Return what has to change for a quote to be sent again."""
    names = ("last_price", "volume", "bid_price", "ask_price", "timestamp", "is_stale", "error")
    return tuple(getattr(quote, name) for name in names)


def quote_text(quote: Quote) -> str:
    """Return the quote as JSON on one line."""
    from candle_fetcher.service.refusals import without_paths

    document = quote.to_json()
    if document.get("error") is not None:
        document["error"] = without_paths(str(document["error"]))
    return json.dumps({**document, "name": quote.symbol}, allow_nan=False)
