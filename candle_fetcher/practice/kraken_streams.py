"""The streams of Kraken, version 2, over the practice market: `ticker` and `ohlc`, status, heartbeats and pings.

What a stream says at an instant is what REST says then. A candle is sent when a second had trades in it, and never as
closed; a snapshot has the newest candles that had trades. Numbers have the decimals that are sent.
Sources: docs.kraken.com, spot-websocket-v2 and guides/websockets (2026); frames recorded from 2024 to 2026. What no
source states is chosen here: ten messages a second, and the texts for a wrong channel and interval.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.kraken import BANNED, INTERVALS, PAIRS, Kraken, Pair
from candle_fetcher.practice.limits import Budget
from candle_fetcher.practice.request import View
from candle_fetcher.practice.series import Tape
from candle_fetcher.practice.tickers import last_day
from candle_fetcher.practice.websocket import CLOSE, TEXT, WireMessage, text

PATH = "/kraken/v2"
_SNAPSHOT = 12
_HEARTBEAT_MS, _IDLE_MS = 1_000, 60_000
_MESSAGES = 10
_COMMON = {"XBT": "BTC", "XDG": "DOGE"}
_PRIVATE = ("executions", "balances")
_NO_PRIVATE = "Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"
_TOO_MANY = "Exceeded msg rate"


def _shown(pair: Pair) -> str:
    """Return the name by which streams know a pair."""
    return "/".join(_COMMON.get(asset, asset) for asset in pair.wsname.split("/"))


_BY_NAME = {_shown(pair): pair for pair in PAIRS}


def _at(ms: int, digits: int) -> str:
    """Return the instant as text, with so many digits of a second."""
    return f"{np.datetime64(ms, 'ms')}{'0' * (digits - 3)}Z"


class KrakenStreams:
    """The streams of Kraken. An address may open `attempts` connections in ten minutes, else it is banned for ten, also
    from REST."""

    name = "kraken"

    def __init__(self, kraken: Kraken, tape: Tape, *, attempts: int = 150) -> None:
        self._kraken = kraken
        self._tape = tape
        self._attempts = Budget(attempts, window_ms=600_000, patience=0, ban_ms=600_000)

    def answers(self, path: str) -> bool:
        """Return whether the path is that of version 2."""
        return path == PATH

    def open(
        self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str], now_ms: int
    ) -> KrakenSession | ServedReply:
        """Return the session of a new connection, or the firewall's refusal of too many."""
        verdict = self._attempts.spend(1, now_ms)
        if verdict.status != 200:
            self._kraken.banned_until_ms = verdict.until_ms
            return BANNED
        return KrakenSession(self._kraken, self._tape, now_ms)


class _Subscribed(NamedTuple):
    """A subscription: the pair, and the interval in minutes for `ohlc`."""

    channel: str
    symbol: str
    interval: int | None


class KrakenSession:
    """One connection."""

    def __init__(self, kraken: Kraken, tape: Tape, now_ms: int) -> None:
        self._kraken = kraken
        self._tape = tape
        self._last: dict[_Subscribed, Any] = {}
        self._recent: deque[int] = deque()
        self._second = now_ms // 1000
        self._busy_ms = now_ms
        self._heartbeat_ms = now_ms + _HEARTBEAT_MS

    @property
    def subscribed(self) -> Sequence[str]:
        """Channel, interval and pair of each subscription."""
        return [" ".join(str(part) for part in (one[0], one[2], one[1]) if part is not None) for one in self._last]

    def opened(self, now_ms: int) -> Sequence[WireMessage]:
        """Return the status, which is the first frame."""
        status = {"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 18125794168470749634}
        data = [{**status, "upcoming_maintenance": [], "emergency": []}]
        return (_message({"channel": "status", "type": "update", "data": data}),)

    def received(self, message: WireMessage, now_ms: int) -> Sequence[WireMessage]:
        """Return acks, refusals, snapshots and pongs."""
        self._busy_ms = now_ms
        if message.opcode != TEXT:
            return ()
        try:
            request = json.loads(message.payload)
        except ValueError:
            return (_message({"error": "JSON parse error", "success": False, **_times(now_ms)}),)
        self._recent.append(now_ms)
        while self._recent[0] <= now_ms - 1000:
            self._recent.popleft()
        method = request.get("method") if isinstance(request, dict) else None
        methods: dict[Any, Callable[[dict[str, Any], int], list[WireMessage]]] = {
            "ping": self._pong, "subscribe": self._subscribe, "unsubscribe": self._unsubscribe,
        }  # fmt: skip
        if method not in methods:
            return (self._refused(request if isinstance(request, dict) else {}, "Unsupported method", None, now_ms),)
        return methods[method](request, now_ms)

    def due(self, now_ms: int) -> Sequence[WireMessage]:
        """Return updates of the second that has begun, and a heartbeat; without any traffic, the end."""
        if not self._last and now_ms - self._busy_ms >= _IDLE_MS:
            return (WireMessage(CLOSE, b""),)
        messages: list[WireMessage] = []
        if now_ms // 1000 > self._second:
            self._second = now_ms // 1000
            at_ms = self._second * 1000
            for one in self._last:
                messages += self._updates(one, at_ms)
        if self._last and now_ms >= self._heartbeat_ms:
            self._heartbeat_ms = now_ms + _HEARTBEAT_MS
            messages.append(_message({"channel": "heartbeat"}))
        return messages

    def ended(self) -> None:
        """Do nothing: an address may have any number of connections."""

    # Requests

    def _pong(self, request: dict[str, Any], now_ms: int) -> list[WireMessage]:
        return [_message({"method": "pong", **_number(request), **_times(now_ms)})]

    def _subscribe(self, request: dict[str, Any], now_ms: int) -> list[WireMessage]:
        params = request.get("params")
        params = params if isinstance(params, dict) else {}
        channel, symbols, interval = params.get("channel"), params.get("symbol"), params.get("interval", 1)
        if channel in _PRIVATE:
            return [self._refused(request, _NO_PRIVATE, None, now_ms)]
        if channel not in ("ticker", "ohlc") or not isinstance(symbols, list):
            return [self._refused(request, "Subscription channel not supported", None, now_ms)]
        messages = []
        for symbol in symbols:
            error = self._error(symbol, channel, interval)
            if error is not None:
                messages.append(self._refused(request, error, symbol, now_ms))
                continue
            one = _Subscribed(channel, symbol, interval if channel == "ohlc" else None)
            self._last.setdefault(one, None)
            result: dict[str, Any] = {"channel": channel}
            if channel == "ohlc":
                result |= {"interval": interval}
            else:
                result |= {"event_trigger": params.get("event_trigger", "trades")}
            result |= {"snapshot": params.get("snapshot", True), "symbol": symbol}
            if channel == "ohlc":
                result["warnings"] = ["timestamp is deprecated, use interval_begin"]
            answer = {"method": "subscribe", "result": result, "success": True, **_times(now_ms), **_number(request)}
            messages.append(_message(answer))
            if params.get("snapshot", True):
                messages += self._snapshot(one, now_ms)
        return messages

    def _unsubscribe(self, request: dict[str, Any], now_ms: int) -> list[WireMessage]:
        params = request.get("params", {})
        messages = []
        for symbol in params.get("symbol", []):
            interval = params.get("interval", 1) if params.get("channel") == "ohlc" else None
            if self._last.pop(_Subscribed(params.get("channel"), symbol, interval), 0) == 0:
                messages.append(self._refused(request, "Subscription Not Found", symbol, now_ms))
                continue
            result = {"channel": params.get("channel"), "symbol": symbol}
            answer = {"method": "unsubscribe", "result": result, "success": True, **_times(now_ms), **_number(request)}
            messages.append(_message(answer))
        return messages

    def _error(self, symbol: Any, channel: str, interval: Any) -> str | None:
        if len(self._recent) > _MESSAGES:
            return _TOO_MANY
        if not isinstance(symbol, str) or "/" not in symbol:
            return f"Currency pair not in ISO 4217-A3 format {symbol}"
        if symbol not in _BY_NAME:
            return f"Currency pair not supported {symbol}"
        return "Ohlc interval not supported" if channel == "ohlc" and interval not in INTERVALS else None

    def _refused(self, request: dict[str, Any], error: str, symbol: Any, now_ms: int) -> WireMessage:
        answer: dict[str, Any] = {"error": error, "method": request.get("method"), "success": False}
        if symbol is not None:
            answer["symbol"] = symbol
        return _message({**answer, **_times(now_ms), **_number(request)})

    # Data

    def _snapshot(self, one: _Subscribed, now_ms: int) -> list[WireMessage]:
        if one.channel == "ticker":
            self._last[one] = self._ticker(one, now_ms)
            return [_ticker_message("snapshot", self._last[one], now_ms)]
        items = self._candles(one, now_ms, _SNAPSHOT)
        self._last[one] = items[-1] if items else None
        return [_candle_message("snapshot", items, now_ms)]

    def _updates(self, one: _Subscribed, at_ms: int) -> list[WireMessage]:
        if one.channel == "ticker":
            found = self._ticker(one, at_ms)
            is_new, self._last[one] = found != self._last[one], found
            return [_ticker_message("update", found, at_ms)] if is_new else []
        # Of several seconds that have passed: what is new of the candles since then.
        items = self._candles(one, at_ms, 3)
        known = self._last[one]
        new = [item for item in items if known is None or (item[0] >= known[0] and item[1] != known[1])]
        if new:
            self._last[one] = new[-1]
        return [_candle_message("update", [item], at_ms) for item in new[-2:]]

    def _ticker(self, one: _Subscribed, at_ms: int) -> str:
        pair = _BY_NAME[one.symbol]
        places = pair.listing.price_decimals
        day = last_day(View("kraken", self._tape, at_ms, 0), pair.listing)
        change = day.close - day.open
        percent = change / day.open * 100 if day.open else 0.0
        mean = day.quote / day.volume if day.volume else 0.0
        prices = (("low", day.low), ("high", day.high), ("change", change))
        return (
            f'{{"symbol":"{one.symbol}","bid":{day.close:.{places}f},"bid_qty":2.00000000,'
            f'"ask":{day.close + 10.0**-places:.{places}f},"ask_qty":1.00000000,"last":{day.close:.{places}f},'
            f'"volume":{day.volume:.8f},"vwap":{mean:.{places}f},'
            + ",".join(f'"{name}":{price:.{places}f}' for name, price in prices)
            + f',"change_pct":{percent:.2f},"trades":{day.trades}'
        )

    def _candles(self, one: _Subscribed, now_ms: int, count: int) -> list[tuple[int, str]]:
        """Return open time and text of the newest candles that had trades, oldest first."""
        pair, minutes = _BY_NAME[one.symbol], one.interval or 1
        step_ms = minutes * 60_000
        start_ms = now_ms // step_ms * step_ms - 10 * count * step_ms
        columns = self._kraken.candles(pair, INTERVALS[minutes], start_ms, now_ms + 1, now_ms)
        places = pair.listing.price_decimals
        names = ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades")
        items = []
        holes = self._tape.hidden("kraken", pair.altname)
        for opened, *prices, volume, worth, trades in zip(*(columns[name].tolist() for name in names), strict=True):
            if not trades or any(first <= opened < last for first, last in holes):
                continue
            shown = zip(("open", "high", "low", "close"), prices, strict=True)
            body = (
                f'{{"symbol":"{one.symbol}",'
                + ",".join(f'"{name}":{price:.{places}f}' for name, price in shown)
                + f',"trades":{trades},"volume":{volume:.8f},"vwap":{worth / volume if volume else 0:.{places}f},'
                f'"interval_begin":"{_at(opened, 9)}","interval":{minutes},"timestamp":"{_at(opened + step_ms, 6)}"}}'
            )
            items.append((opened, body))
        return items[-count:]


def _candle_message(kind: str, items: Sequence[tuple[int, str]], at_ms: int) -> WireMessage:
    data = ",".join(body for _, body in items)
    return text(f'{{"channel":"ohlc","type":"{kind}","timestamp":"{_at(at_ms, 9)}","data":[{data}]}}')


def _ticker_message(kind: str, body: str, at_ms: int) -> WireMessage:
    return text(f'{{"channel":"ticker","type":"{kind}","data":[{body},"timestamp":"{_at(at_ms, 6)}"}}]}}')


def _message(value: dict[str, Any]) -> WireMessage:
    return text(json.dumps(value, separators=(",", ":")))


def _times(now_ms: int) -> dict[str, str]:
    return {"time_in": _at(now_ms, 6), "time_out": _at(now_ms, 6)}


def _number(request: dict[str, Any]) -> dict[str, int]:
    number = request.get("req_id")
    return {"req_id": number} if isinstance(number, int) else {}
