"""What streams wait for: newer quotes, and candles that have settled. One thread asks, for all clients together.

    fetcher.quotes, fetcher.fetch  ->  the thread  ->  Subscriber (bounded, coalescing)  ->  the stream of one client

A subscriber holds the newest quote of each of its symbols, however little the client has read, and how far each series
has settled. Candles are no events: the stream of a client reads them out of the cache from where that client is.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from candle_fetcher.core.errors import CandleFetcherError, collecting_warnings
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe

if TYPE_CHECKING:
    from candle_fetcher.core.quote import Quote
    from candle_fetcher.fetcher import CandleFetcher

# How often quotes are asked for, and how old prices may be before they are marked stale.
QUOTES_EVERY_S = 1.0
MOST_AGE_S = 10.0
# How soon after its close a candle is asked for, and how often until it has settled.
CANDLE_AFTER_S = 2.2
CANDLE_EVERY_S = 1.0
# The thread ends where no client has been there for so long.
_IDLE_S = 30.0
_STEP_S = 0.05
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

    def wake_all(self) -> None:
        """Let every stream look whether it is to end."""
        with self._lock:
            for one in self._subscribers:
                one.loop.call_soon_threadsafe(one.wake)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(10)

    def _topics(self) -> set[Topic]:
        return {topic for one in self._subscribers for topic in one.topics}

    def _run(self) -> None:
        quotes_at_s, idle_since_s = 0.0, time.monotonic()
        with collecting_warnings() as warnings:  # what a provider lacks is in the quotes and in the candles
            while not self._stop.wait(_STEP_S):
                with self._lock:
                    topics = self._topics()
                    is_idle = not topics and time.monotonic() - idle_since_s > _IDLE_S
                    if is_idle:
                        self._thread = None
                        self._quotes, self._candles = {}, {}
                        return
                if topics:
                    idle_since_s = time.monotonic()
                quoted = [topic for topic in topics if topic.timeframe is None]
                if quoted and time.monotonic() >= quotes_at_s:
                    quotes_at_s = time.monotonic() + QUOTES_EVERY_S
                    self._tell(self._ask_quotes(quoted), {})
                self._tell({}, self._ask_candles([topic for topic in topics if topic.timeframe is not None]))
                warnings.clear()
        with self._lock:
            self._thread = None

    def _ask_quotes(self, topics: list[Topic]) -> dict[Topic, str]:
        """Return the quotes that differ from those before, as JSON."""
        try:
            quotes = self._fetcher.quotes([full_name(topic) for topic in topics], timeout_s=5, max_age_s=MOST_AGE_S)
        except Exception:  # noqa: BLE001 - of any kind: the next round may succeed, and ages go on until then
            return {}
        changed = {}
        for topic, quote in zip(topics, quotes, strict=True):
            state = quote_state(quote)
            if topic not in self._quotes or self._quotes[topic][0] != state:
                text = quote_text(quote)
                self._quotes[topic] = (state, text)
                changed[topic] = text
        self._quotes = {topic: known for topic, known in self._quotes.items() if topic in set(topics)}
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
