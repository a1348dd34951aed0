"""The streams of Alpaca over the practice market: bars of a minute, days so far, quotes and trades.

A bar is sent 0.7 s after its minute. Half a minute later it is sent once more, if it has other values by then. A minute
without trades has no bar; that of a pair has one. Symbols are not checked. One connection is allowed for each path.
Sources: docs.alpaca.markets, streaming-market-data (2026-08), real-time-crypto-pricing-data (2025-11); measurements of
2026-09 (pings, refusals, delays); frames recorded from 2023 to 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from candle_fetcher.practice.alpaca import KEY_ID, SECRET_KEY, Bars
from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.websocket import CLOSE, PING, PONG, TEXT, WireMessage, text

ALPACA_ROOT = "/alpaca"
_STOCKS, _PAIRS = re.compile(r"/alpaca/v2/(iex|sip)"), "/alpaca/v1beta3/crypto/us"
_MINUTE_MS, _DAY_MS = 60_000, 86_400_000
_LATE_MS, _AGAIN_MS = 700, 29_700
_PING_MS, _PATIENCE_MS, _LOGIN_MS, _TAKEN_MS = 54_000, 6_000, 10_000, 10_000
_CHANNELS = ("trades", "quotes", "bars", "updatedBars", "dailyBars")
_STOCK_CHANNELS = (*_CHANNELS, "statuses", "lulds", "corrections", "cancelErrors")
_PAIR_CHANNELS = (*_CHANNELS, "orderbooks")
_ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed", 403: "already authenticated",
    404: "auth timeout", 405: "symbol limit exceeded", 406: "connection limit exceeded",
    409: "insufficient subscription",
}  # fmt: skip

Event = dict[str, Any]


class AlpacaStreams:
    """The streams of stocks or of pairs. `most_symbols` of trades and of quotes each are allowed on a connection."""

    def __init__(self, bars: Bars, *, most_symbols: int = 30) -> None:
        self.name = bars.name
        self.most_symbols = most_symbols
        self._bars = bars
        self._live: dict[str, AlpacaSession] = {}

    def answers(self, path: str) -> bool:
        """Return whether the path is one of its own."""
        return path == _PAIRS if self.name == "alpaca-crypto" else _STOCKS.fullmatch(path) is not None

    def open(
        self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str], now_ms: int
    ) -> AlpacaSession | ServedReply:
        """Return the session of a new connection."""
        session = AlpacaSession(self, self._bars, path, headers, now_ms)
        self._live.setdefault(path, session)
        return session

    def is_first(self, session: AlpacaSession) -> bool:
        """Return whether the session holds the one connection of its path."""
        return self._live.get(session.path) is session

    def leave(self, session: AlpacaSession) -> None:
        """Give up the place of a session that has ended."""
        if self.is_first(session):
            del self._live[session.path]


class AlpacaSession:
    """One connection."""

    def __init__(self, streams: AlpacaStreams, bars: Bars, path: str, headers: Mapping[str, str], now_ms: int) -> None:
        self.path = path
        self._streams = streams
        self._bars = bars
        self._is_crypto = bars.name == "alpaca-crypto"
        feed = _STOCKS.fullmatch(path)
        self._feed = feed[1] if feed else "sip"
        self._has_keys = (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")) == (KEY_ID, SECRET_KEY)
        self._is_in = False
        self._set: dict[str, list[str]] = {name: [] for name in self._channels}
        self._minute = now_ms // _MINUTE_MS
        self._again: list[tuple[int, str, Event]] = []
        self._second = now_ms // 1000
        self._quoted: dict[str, Event] = {}
        self._login_ms = now_ms + _LOGIN_MS
        self._ping_ms = now_ms + _PING_MS
        self._unanswered_ms: int | None = None
        self._end_ms: int | None = None

    @property
    def _channels(self) -> tuple[str, ...]:
        return _PAIR_CHANNELS if self._is_crypto else _STOCK_CHANNELS

    @property
    def subscribed(self) -> Sequence[str]:
        """Channel and symbol of each subscription."""
        return [f"{name} {symbol}" for name, symbols in self._set.items() for symbol in symbols]

    def ended(self) -> None:
        """Give up the place of the connection."""
        self._streams.leave(self)

    def opened(self, now_ms: int) -> Sequence[WireMessage]:
        """Return the greeting, and what a login by headers gets."""
        greeting = _message({"T": "success", "msg": "connected"})
        return (greeting, *self._admitted(now_ms)) if self._has_keys else (greeting,)

    def received(self, message: WireMessage, now_ms: int) -> Sequence[WireMessage]:
        """Return the answer to an action. Most refusals leave the connection open."""
        if message.opcode == PONG:
            self._unanswered_ms = None
        if message.opcode != TEXT:
            return ()
        try:
            request = json.loads(message.payload)
        except ValueError:
            return (_error(400),)
        action = request.get("action") if isinstance(request, dict) else None
        if action == "auth":
            if self._is_in:
                return (_error(403),)
            if (request.get("key"), request.get("secret")) != (KEY_ID, SECRET_KEY):
                return (_error(402),)
            return self._admitted(now_ms)
        if action not in ("subscribe", "unsubscribe"):
            return (_error(400),)
        if not self._is_in:
            return (_error(401),)
        return self._change(request, adds=action == "subscribe")

    def due(self, now_ms: int) -> Sequence[WireMessage]:
        """Return bars, quotes, trades and pings; without a login or a pong, the end."""
        unanswered = self._unanswered_ms
        if (self._end_ms is not None and now_ms >= self._end_ms) or (
            unanswered is not None and now_ms - unanswered >= _PATIENCE_MS
        ):
            return (WireMessage(CLOSE, b""),)
        if not self._is_in and now_ms >= self._login_ms:
            return (_error(404), WireMessage(CLOSE, b""))
        messages = []
        events = [*self._bars_due(now_ms), *self._again_due(now_ms), *self._books_due(now_ms)]
        if events:
            messages.append(text(json.dumps(events, separators=(",", ":"))))
        if now_ms >= self._ping_ms:
            self._ping_ms = now_ms + _PING_MS
            self._unanswered_ms = now_ms if unanswered is None else unanswered
            messages.append(WireMessage(PING, b""))
        return messages

    def _admitted(self, now_ms: int) -> Sequence[WireMessage]:
        if self._feed == "sip" and self._bars.is_free and not self._is_crypto:
            return (_error(409),)
        if not self._streams.is_first(self):
            self._end_ms = now_ms + _TAKEN_MS
            return (_error(406),)
        self._is_in = True
        return (_message({"T": "success", "msg": "authenticated"}),)

    def _change(self, request: dict[str, Any], *, adds: bool) -> Sequence[WireMessage]:
        wanted = {name: symbols for name, symbols in request.items() if name != "action"}
        if not wanted or not all(
            name in self._set and isinstance(symbols, list) and symbols for name, symbols in wanted.items()
        ):
            return (_error(400),)
        changed = {name: list(symbols) for name, symbols in self._set.items()}
        for name, symbols in wanted.items():
            changed[name] = (
                [*changed[name], *(one for one in symbols if one not in changed[name])]
                if adds
                else [one for one in changed[name] if one not in symbols]
            )
        if any(len(changed[name]) > self._streams.most_symbols for name in ("trades", "quotes")):
            return (_error(405),)
        self._set = changed
        return (_message({"T": "subscription", **{name: symbols for name, symbols in changed.items() if symbols}}),)

    # Data

    def _bars_due(self, now_ms: int) -> list[Event]:
        """Return the bars of the minutes that are over, and the days so far."""
        events: list[Event] = []
        while (self._minute + 1) * _MINUTE_MS + _LATE_MS <= now_ms:
            open_ms, self._minute = self._minute * _MINUTE_MS, self._minute + 1
            for symbol in dict.fromkeys((*self._set["bars"], *self._set["updatedBars"])):
                for event in self._bar(symbol, "1m", open_ms, open_ms + 1):
                    if symbol in self._set["bars"]:
                        events.append({"T": "b", **event})
                    if symbol in self._set["updatedBars"]:
                        self._again.append((open_ms + _MINUTE_MS + _LATE_MS + _AGAIN_MS, symbol, event))
            for symbol in self._set["dailyBars"]:
                days = self._bar(symbol, "1d", now_ms - _DAY_MS, now_ms + 1)
                events += [{"T": "d", **event} for event in days[-1:]]
        return events

    def _again_due(self, now_ms: int) -> list[Event]:
        """Return the bars that have other values than they were sent with."""
        events: list[Event] = []
        while self._again and self._again[0][0] <= now_ms:
            at_ms, symbol, sent = self._again.pop(0)
            open_ms = at_ms - _AGAIN_MS - _LATE_MS - _MINUTE_MS
            events += [{"T": "u", **event} for event in self._bar(symbol, "1m", open_ms, open_ms + 1) if event != sent]
        return events

    def _books_due(self, now_ms: int) -> list[Event]:
        """Return the last trade and the best prices of symbols where they have changed, once a second."""
        if now_ms // 1000 == self._second:
            return []
        self._second = now_ms // 1000
        time = f"{np.datetime64(now_ms, 'ms')}000000Z"
        events: list[Event] = []
        for symbol in dict.fromkeys((*self._set["trades"], *self._set["quotes"])):
            traded = self._bars.trade(symbol, now_ms)
            if traded is None:
                continue
            price, ask, trades = traded
            quote = {"T": "q", "S": symbol, "bp": price, "bs": 1, "ap": ask, "as": 2}
            if symbol in self._set["trades"] and trades:
                events.append({"T": "t", "S": symbol, "i": self._second, "p": price, "s": 1, "t": time})
            if symbol in self._set["quotes"] and self._quoted.get(symbol) != quote:
                self._quoted[symbol] = quote
                events.append({**quote, "t": time})
        return events

    def _bar(self, symbol: str, timeframe: str, start_ms: int, end_ms: int) -> list[Event]:
        """Return the bars as the market has them now; none of a symbol that does not exist."""
        try:
            found = self._bars.truth(symbol, timeframe, start_ms, end_ms, feed=self._feed)
        except ValueError:
            return []
        names = ("open", "high", "low", "close", "volume", "trades", "open_time")
        rows = zip(*(found[name].tolist() for name in names), strict=True)
        letters = ("o", "h", "l", "c", "v", "n")
        return [
            {"S": symbol, **dict(zip(letters, row[:-1], strict=True)), "t": f"{np.datetime64(row[-1] // 1000, 's')}Z"}
            for row in rows
        ]


def _message(value: Event) -> WireMessage:
    return text(json.dumps([value], separators=(",", ":")))


def _error(code: int) -> WireMessage:
    return _message({"T": "error", "code": code, "msg": _ERRORS[code]})
