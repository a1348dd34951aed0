"""The streams of Binance over the practice market: klines, tickers and best prices of spot, US, USD-M and COIN-M.

What a stream says at an instant is what REST says then: an update of a kline is the row of the open candle, a closing
(`x`) is the row right after its end. USD-M has klines and tickers on `/market`, best prices on `/public`; its path
without either acknowledges everything and has what `/public` has. A stream that does not exist is acknowledged, too.
Sources: binance-spot-api-docs `web-socket-streams.md` (2026-07); the WebSocket pages of both futures; frames recorded
from 2021 to 2026.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.klines import INTERVALS
from candle_fetcher.practice.limits import Budget
from candle_fetcher.practice.listings import MarketListing
from candle_fetcher.practice.request import View
from candle_fetcher.practice.series import Slots, Tape, page, slots_of
from candle_fetcher.practice.tickers import book_tickers, day_tickers
from candle_fetcher.practice.websocket import CLOSE, PING, PONG, TEXT, WireMessage, text

STREAM_ROOTS = {"binance": "", "binance-us": "/us", "binance-um": "/um", "binance-cm": "/cm"}
MOST_STREAMS = 1024
# A longer message of a client gets no answer, and does nothing (Binance.Net, issue 1180).
MOST_MESSAGE_BYTES = 4096
LIFE_MS = DAY_MS
_NAME = re.compile(r"([^\W@A-Z]+)@(?:kline_(\w+)|(ticker|miniTicker|bookTicker))")
_ON_PUBLIC = ("bookTicker",)
_TICKER = {
    "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "x": "prevClosePrice", "c": "lastPrice",
    "Q": "lastQty", "b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty", "o": "openPrice", "h": "highPrice",
    "l": "lowPrice", "v": "volume", "q": "quoteVolume", "O": "openTime", "C": "closeTime", "F": "firstId",
    "L": "lastId", "n": "count",
}  # fmt: skip
_MINI = ("c", "o", "h", "l", "v", "q")
_BOOK = {"b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty"}


class MarketRules(NamedTuple):
    """How a market's streams differ: times in ms, and messages that a client may send in a second."""

    ping_ms: int
    patience_ms: int
    messages: int
    kline_ms: int
    ticker_ms: int
    closing_ms: int
    market_type: int | None = None


_SPOT = MarketRules(20_000, 60_000, 5, 2_000, 1_000, 4)
RULES = {
    "binance": _SPOT,
    "binance-us": _SPOT,
    "binance-um": MarketRules(180_000, 600_000, 10, 250, 2_000, 494, 1),
    "binance-cm": MarketRules(180_000, 600_000, 10, 250, 500, 4, 2),
}

Event = dict[str, Any]


class BinanceStreams:
    """The streams of one market. An address may open `attempts` connections in five minutes."""

    def __init__(self, provider: str, tape: Tape, *, attempts: int = 300) -> None:
        self.name = provider
        self.life_ms = LIFE_MS
        self._tape = tape
        self._root = STREAM_ROOTS[provider]
        self._attempts = Budget(attempts, window_ms=300_000)

    def answers(self, path: str) -> bool:
        """Return whether the path is one of this market's."""
        return self._split(path) is not None

    def open(
        self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str], now_ms: int
    ) -> BinanceSession | ServedReply:
        """Return the session of a new connection, or the refusal 429 or 418 of too many."""
        status = self._attempts.spend(1, now_ms).status
        if status != 200:
            return ServedReply(status, (("Content-Type", "text/plain"),), b"")
        group, combined, named = self._split(path) or ("", False, [])
        names = named or [name for name in dict(pairs).get("streams", "").split("/") if name]
        if len(names) > MOST_STREAMS:
            return ServedReply(400, (("Content-Type", "text/plain"),), b"Too many streams")
        return BinanceSession(self.name, self._tape, group, combined, names, now_ms, self.life_ms)

    def _split(self, path: str) -> tuple[str, bool, list[str]] | None:
        """Return the group (`market`, `public` or none), whether events are wrapped, and the streams in the path."""
        match = re.fullmatch(rf"{self._root}(?:/(market|public))?/(?:(stream)|ws(?:/(.+))?)", path)
        if match is None or (match[1] and self.name != "binance-um"):
            return None
        return match[1] or "", bool(match[2]), match[3].split("/") if match[3] else []


class BinanceSession:
    """One connection to a market's streams."""

    def __init__(
        self, provider: str, tape: Tape, group: str, combined: bool, names: Sequence[str], now_ms: int, life_ms: int
    ) -> None:
        self._provider = provider
        self._tape = tape
        self._rules = RULES[provider]
        self._group = group
        self._is_combined = combined
        self._streams: dict[str, _Ticks | None] = {}
        self._recent: deque[int] = deque()
        self._end_ms = now_ms + life_ms
        self._ping_ms = now_ms + self._rules.ping_ms
        self._unanswered_ms: int | None = None
        for name in names:
            self._add(name, now_ms)

    @property
    def subscribed(self) -> Sequence[str]:
        """The names of streams, those that do not exist, too."""
        return list(self._streams)

    def opened(self, now_ms: int) -> Sequence[WireMessage]:
        """Return nothing: the first frame is an event or an answer."""
        return ()

    def received(self, message: WireMessage, now_ms: int) -> Sequence[WireMessage]:
        """Return the answer to a request. Too many messages in a second end the connection."""
        self._recent.append(now_ms)
        while self._recent[0] <= now_ms - 1000:
            self._recent.popleft()
        if len(self._recent) > self._rules.messages:
            return (WireMessage(CLOSE, b""),)
        if message.opcode == PONG:
            self._unanswered_ms = None
        if message.opcode != TEXT or len(message.payload) > MOST_MESSAGE_BYTES:
            return ()
        return (text(json.dumps(self._answer(message.payload, now_ms), separators=(",", ":"))),)

    def due(self, now_ms: int) -> Sequence[WireMessage]:
        """Return events and pings; after 24 hours, or without a pong, the end."""
        unanswered = self._unanswered_ms
        if now_ms >= self._end_ms or (unanswered is not None and now_ms - unanswered >= self._rules.patience_ms):
            return (WireMessage(CLOSE, b""),)
        events = [
            (event.get("E", now_ms), name, event)
            for name, stream in self._streams.items()
            if stream is not None
            for event in stream.due(now_ms)
        ]
        messages = [self._event(name, event) for _, name, event in sorted(events, key=lambda one: one[0])]
        if now_ms >= self._ping_ms:
            self._ping_ms = now_ms + self._rules.ping_ms
            self._unanswered_ms = now_ms if unanswered is None else unanswered
            messages.append(WireMessage(PING, str(now_ms).encode()))
        return messages

    def ended(self) -> None:
        """Do nothing: an address may have any number of connections."""

    def _event(self, name: str, event: Event) -> WireMessage:
        body = {"stream": name, "data": event} if self._is_combined else event
        return text(json.dumps(body, separators=(",", ":"), ensure_ascii=False))

    def _answer(self, payload: bytes, now_ms: int) -> Event:
        try:
            request = json.loads(payload)
        except ValueError as error:
            return _error(3, f"Invalid JSON: {error}")
        if not isinstance(request, dict) or "method" not in request:
            return _error(2, "Invalid request: missing field `method` at line 1 column 1")
        number, method, params = request.get("id"), request["method"], request.get("params", [])
        if isinstance(number, bool) or not isinstance(number, int | str | None) or len(str(number)) > 36:
            return _error(2, "Invalid request: request ID must be an unsigned integer")
        answers: dict[str, Callable[[list[Any], int], Any]] = {
            "SUBSCRIBE": self._subscribe, "UNSUBSCRIBE": self._unsubscribe, "LIST_SUBSCRIPTIONS": self._list,
            "SET_PROPERTY": self._set_property, "GET_PROPERTY": self._get_property,
        }  # fmt: skip
        if method not in answers or not isinstance(params, list):
            known = ", ".join(f"`{name}`" for name in answers)
            return _error(2, f"Invalid request: unknown variant `{method}`, expected one of {known}", number)
        result = answers[method](params, now_ms)
        return result | {"id": number} if isinstance(result, dict) else {"result": result, "id": number}

    def _subscribe(self, names: list[Any], now_ms: int) -> Event | None:
        if len(self._streams.keys() | set(names)) > MOST_STREAMS:
            return _error(4, "Too many subscriptions")
        for name in names:
            if name not in self._streams:
                self._add(name, now_ms)
        return None

    def _unsubscribe(self, names: list[Any], now_ms: int) -> None:
        for name in names:
            self._streams.pop(name, None)

    def _list(self, names: list[Any], now_ms: int) -> list[str]:
        return list(self._streams)

    def _set_property(self, values: list[Any], now_ms: int) -> Event | None:
        if values[:1] != ["combined"]:
            return _error(0, "Unknown property")
        if len(values) != 2 or not isinstance(values[1], bool):
            return _error(1, "Invalid value type: expected Boolean")
        self._is_combined = values[1]
        return None

    def _get_property(self, names: list[Any], now_ms: int) -> Event | bool:
        return self._is_combined if names == ["combined"] else _error(0, "Unknown property")

    def _add(self, name: str, now_ms: int) -> None:
        match = _NAME.fullmatch(name)
        listing = None if match is None else self._tape.find(self._provider, match[1].upper())
        self._streams[name] = None
        if match is None or listing is None or listing.listed_ms > now_ms:
            return
        timeframe, what = match[2], match[3]
        if self._provider == "binance-um" and (self._group != "market") != (what in _ON_PUBLIC):
            return
        view = View(self._provider, self._tape, now_ms, 0)
        if what == "bookTicker":
            self._streams[name] = _Books(view, listing, 1_000)
        elif what is not None:
            self._streams[name] = _Tickers(view, listing, self._rules, is_mini=what == "miniTicker")
        elif timeframe in INTERVALS or (timeframe == "1s" and not view.futures):
            self._streams[name] = _Klines(view, listing, timeframe, self._rules)


def _error(code: int, message: str, number: int | str | None = None) -> Event:
    body: Event = {"error": {"code": code, "msg": message}}
    return body if number is None else body | {"id": number}


class _Ticks:
    """A stream that says something at whole multiples of a period, as of that instant."""

    def __init__(self, view: View, listing: MarketListing, period_ms: int) -> None:
        self._view = view
        self._listing = listing
        self._period_ms = period_ms
        self._tick = view.now_ms // period_ms

    def due(self, now_ms: int) -> Iterator[Event]:
        """Yield what is to be said by now: of several ticks that have passed, the last."""
        if now_ms // self._period_ms > self._tick:
            self._tick = now_ms // self._period_ms
            yield from self._at(self._tick * self._period_ms)

    def _at(self, at_ms: int) -> Iterator[Event]:
        raise NotImplementedError

    def _row(self, endpoint: Callable[[View, dict[str, str]], bytes], at_ms: int) -> Event:
        """Return what REST answers at the instant for the symbol."""
        row = json.loads(endpoint(self._view._replace(now_ms=at_ms), {"symbol": self._listing.symbol}))
        found: Event = row[0] if isinstance(row, list) else row
        return found

    def _extras(self) -> Event:
        """Return the keys that only events of futures have."""
        if not self._view.futures:
            return {}
        return {"ps": self._listing.pair, "st": RULES[self._view.provider].market_type}


class _Tickers(_Ticks):
    """The rolling day, whole or in short."""

    def __init__(self, view: View, listing: MarketListing, rules: MarketRules, *, is_mini: bool) -> None:
        super().__init__(view, listing, rules.ticker_ms)
        self._is_mini = is_mini

    def _at(self, at_ms: int) -> Iterator[Event]:
        row = self._row(day_tickers, at_ms)
        row["quoteVolume"] = row.get("quoteVolume", row.get("baseVolume"))
        names = _MINI if self._is_mini else _TICKER
        event = {"e": "24hrMiniTicker" if self._is_mini else "24hrTicker", "E": at_ms, "s": self._listing.symbol}
        event |= {short: row[_TICKER[short]] for short in names if _TICKER[short] in row}
        yield event | self._extras()


class _Books(_Ticks):
    """The best prices, each time they change."""

    _last: Event | None = None

    def _at(self, at_ms: int) -> Iterator[Event]:
        row = self._row(book_tickers, at_ms)
        book = {short: row[name] for short, name in _BOOK.items()}
        if book == self._last:
            return
        self._last = book
        event: Event = {"u": at_ms // 1000, "s": self._listing.symbol, **book}
        if self._view.futures:
            event = {"e": "bookTicker", **event, "T": at_ms, "E": at_ms, **self._extras()}
        yield event


class _Klines(_Ticks):
    """The open candle each time it has changed, and each candle once when it is closed."""

    def __init__(self, view: View, listing: MarketListing, timeframe: str, rules: MarketRules) -> None:
        super().__init__(view, listing, min(1_000, rules.kline_ms) if timeframe == "1s" else rules.kline_ms)
        self._timeframe = timeframe
        self._rules = rules
        self._slots: Slots = slots_of(timeframe, listing)
        self._slot = self._slots.ordinal(view.now_ms)
        self._series = view.tape.series(view.provider, listing, timeframe, "candles")
        self._trades = (listing.listed_ms // 1000 * 1000, 0)
        self._last: Event | None = None

    def due(self, now_ms: int) -> Iterator[Event]:
        """Yield the closings of every candle that has ended, then the update of the open one."""
        while (end_ms := self._slots.open_ms(self._slot + 1)) + self._rules.closing_ms <= now_ms:
            yield from self._event(self._slot, end_ms + self._rules.closing_ms, is_closed=True)
            self._slot += 1
        for event in super().due(now_ms):
            # No update of a candle is from before the closing of the one before it.
            event["E"] = min(now_ms, max(event["E"], self._slots.open_ms(self._slot) + self._rules.closing_ms))
            yield event

    def _at(self, at_ms: int) -> Iterator[Event]:
        slot = self._slots.ordinal(at_ms)
        if slot == self._slot:  # else the closing is not out yet
            yield from self._event(slot, at_ms, is_closed=False)

    def _event(self, slot: int, at_ms: int, *, is_closed: bool) -> Iterator[Event]:
        open_ms = self._slots.open_ms(slot)
        hidden = self._view.tape.hidden(self._view.provider, self._listing.symbol)
        rows = json.loads(page(self._series, open_ms, open_ms, 1, at_ms, newest=True, hidden=hidden))
        if not rows:
            return
        opened, *prices, volume, _, quote, count, taker, taker_quote, _ = rows[0]
        first = self._first_trade(open_ms) if count else -1
        kline = {
            "t": opened, "T": self._slots.open_ms(slot + 1) - 1, "s": self._listing.symbol, "i": self._timeframe,
            "f": first, "L": first + count - 1 if count else -1, "o": prices[0], "c": prices[3], "h": prices[1],
            "l": prices[2], "v": volume, "n": count, "x": is_closed, "q": quote, "V": taker, "Q": taker_quote,
            "B": "0",
        }  # fmt: skip
        if is_closed or kline != self._last:
            self._last = kline
            yield {"e": "kline", "E": at_ms, "s": self._listing.symbol, "k": kline}

    def _first_trade(self, open_ms: int) -> int:
        """Return the number of the first trade of a candle: one more than there were before it."""
        counted_ms, trades = self._trades
        if counted_ms != open_ms:
            series = self._view.tape.generated(self._view.provider, self._listing)
            more = series.candles_between(counted_ms, open_ms).trades
            self._trades = open_ms, trades + (int(more[0]) if len(more) else 0)
        return self._trades[1] + 1
