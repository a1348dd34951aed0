"""Kraken's streams, version 2: candles and tickers by WebSocket.

Pairs are named as they are shown, BTC/USD; the names of REST (XBTUSD, XBT/USD) are refused. Each pair of a message has
an ack or a refusal of its own, and a refused pair is silent afterwards, while heartbeats go on. Updates of a candle
come with trades alone: an interval without trades has none, and none in the snapshot, though REST has a row for it.
Nothing says that a candle is closed; a later one does, or the clock. Numbers are JSON numbers.
Sources: docs.kraken.com, spot-websocket-v2 (ticker, ohlc, heartbeat, ping) and guides/websockets (introduction,
reconnection) (2026); guides/spot-ws-intro (150 connections in 10 minutes); recorded frames of 2024 to 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import ProviderRefused, RateLimited, UnknownSymbol
from candle_fetcher.core.faults import unexpected
from candle_fetcher.core.live import Ack, CandleUpdate, Heartbeat, LiveEvent, Notice, QuoteUpdate, Refusal
from candle_fetcher.core.text.json import load_json
from candle_fetcher.providers.stream_fields import read_number, read_price, read_text, read_time_ms
from candle_fetcher.providers.streams import Channel, Message, Streams, Subscription

PATH = "/v2"
_EXPECTED = "a frame of Kraken's streams"
_NAME = "Kraken"
# "interval" in minutes; the feed's columns behind the open time, but for `trades`.
_INTERVALS = (1, 5, 15, 30, 60, 240, 1440, 10080)
_FIELDS = ("open", "high", "low", "close", "volume")
_NO_SUCH_PAIR = re.compile(
    r"Currency pair not (?:supported|in ISO 4217-A3 format)|Symbol\(s\) not found", re.IGNORECASE
)
_TOO_FAST = re.compile(r"Exceeded msg rate|rate limit|Too many requests", re.IGNORECASE)
_AGAIN_S = 5.0  # no page says how long the pause is
_MOST_SAID = 160


def parse_frame(frame: bytes) -> Sequence[LiveEvent]:
    """Return what a frame says. A channel that is not subscribed here says nothing.

    Raises ReplyError for a frame that is no JSON object, or lacks what its kind needs.
    """
    value = load_json(frame, _EXPECTED)
    try:
        channel = value.get("channel")
        if channel == "ohlc":
            sent_ms = read_time_ms(value["timestamp"]) if "timestamp" in value else None
            return tuple([_candle(item, sent_ms) for item in _items(value)])
        if channel == "ticker":
            return tuple([_ticker(item) for item in _items(value)])
        if channel == "heartbeat":
            return (Heartbeat(),)
        if channel == "status":
            return tuple(_notices(_items(value)))
        if value.get("method") == "pong":
            return (Heartbeat(read_time_ms(value["time_out"]) if "time_out" in value else None),)
        if value.get("success") is True:
            return _ack(value)
        said = value.get("error", value.get("Error"))
        if isinstance(said, str):
            return (_refusal(value, said),)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise unexpected(_EXPECTED, frame) from error
    return ()


def _items(value: dict[str, Any]) -> list[dict[str, Any]]:
    items = value["data"]
    if not isinstance(items, list):
        raise ValueError
    return items


def _candle(item: dict[str, Any], sent_ms: int | None) -> CandleUpdate:
    trades = item["trades"]
    if type(trades) is not int or not 0 <= trades < 2**63:
        raise ValueError
    return CandleUpdate(
        topic=_ohlc(item["interval"], read_text(item["symbol"])),
        open_ms=read_time_ms(item["interval_begin"]),  # `timestamp` is its end
        values=(*(read_number(item[name]) for name in _FIELDS), trades),
        order=trades,
        sent_ms=sent_ms,
    )


def _ticker(item: dict[str, Any]) -> QuoteUpdate:
    # `timestamp` is sent since 2026. Volume is of the last 24 hours, in the base asset.
    time_ms = read_time_ms(item["timestamp"]) if "timestamp" in item else None
    return QuoteUpdate(
        topic=f"ticker {read_text(item['symbol'])}",
        last_price=read_price(item["last"]),
        volume=read_number(item["volume"]),
        bid_price=read_price(item["bid"]),
        ask_price=read_price(item["ask"]),
        time_ms=time_ms,
        sent_ms=time_ms,
    )


def _notices(items: Iterable[dict[str, Any]]) -> Iterable[Notice]:
    """Yield what the status of the engine announces; while all is well, nothing."""
    for item in items:
        system = item.get("system")
        if isinstance(system, str) and system != "online":
            yield Notice(f"Kraken's engine is in the state {system[:40]!r}")
        for name in ("upcoming_maintenance", "emergency"):
            if item.get(name):
                yield Notice(f"Kraken announces {name.replace('_', ' ')}: {str(item[name])[:_MOST_SAID]!r}")


def _ack(value: dict[str, Any]) -> tuple[LiveEvent, ...]:
    if value.get("method") != "subscribe":
        return ()  # of unsubscribing
    result = value["result"]
    channel, symbol = result["channel"], read_text(result["symbol"])
    if channel not in ("ohlc", "ticker"):
        return ()
    topic = f"ticker {symbol}" if channel == "ticker" else _ohlc(result["interval"], symbol)
    return (Ack(topics=(topic,)),)


def _refusal(value: dict[str, Any], said: str) -> Refusal:
    """Return the refusal of a pair, or of a whole message. The reply does not say which channel was asked for."""
    number, symbol = value.get("req_id"), value.get("symbol")
    number = number if type(number) is int else None
    words = said[:_MOST_SAID]
    error: Exception = ProviderRefused(f"{_NAME} refused a subscription ({words!r})", status=200, said=said[:1000])
    again_s = None
    if _TOO_FAST.search(said):
        error = RateLimited(f"{_NAME} asks for a pause ({words!r})", retry_after_s=_AGAIN_S)
        again_s = _AGAIN_S
    if not isinstance(symbol, str) or not symbol:
        return Refusal(error, number, again_s=again_s)
    if _NO_SUCH_PAIR.search(said):
        error = UnknownSymbol(symbol[:40], _NAME)
    topics = (f"ticker {symbol}", *(_ohlc(minutes, symbol) for minutes in _INTERVALS))
    return Refusal(error, topics=topics, again_s=again_s)


def _ohlc(minutes: object, symbol: str) -> str:
    if type(minutes) is not int:
        raise ValueError
    return f"ohlc {minutes} {symbol}"


def find_channels(
    subscription: Subscription, intervals: dict[str, int], unified: Callable[[str], str]
) -> tuple[Channel, ...]:
    """Return the channel of a subscription; none for a pair of which the name that is shown is not known."""
    shown = unified(subscription.symbol)
    if "/" not in shown:
        return ()
    if subscription.what == "quotes":
        return (Channel(PATH, f"ticker {shown}", subscription.symbol),)
    if subscription.kind != "candles" or subscription.timeframe not in intervals:
        return ()
    return (Channel(PATH, _ohlc(intervals[subscription.timeframe], shown), subscription.symbol),)


def write_messages(method: str, channels: Sequence[Channel], number: int) -> tuple[Message, ...]:
    """Return one message for all pairs of a channel and an interval: many messages at once are refused at random."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for channel in channels:
        groups.setdefault(tuple(channel.topic.split(" ")[:-1]), []).append(channel.topic)
    messages = []
    for later, (group, topics) in enumerate(groups.items()):
        # To unsubscribe, all parameters are repeated.
        params: dict[str, Any] = {"channel": group[0], "symbol": [topic.split(" ")[-1] for topic in topics]}
        if group[0] == "ohlc":
            params["interval"] = int(group[1])
        else:
            params["event_trigger"] = "bbo"
        if method == "subscribe":
            params["snapshot"] = True  # the default has changed once
        text = json.dumps({"method": method, "params": params, "req_id": number + later}, separators=(",", ":"))
        messages.append(Message(text, number + later, tuple(topics)))
    return tuple(messages)


def write_ping(number: int) -> str:
    """Return the text of a ping."""
    return json.dumps({"method": "ping", "req_id": number}, separators=(",", ":"))


def make_streams(intervals: dict[str, int], unified: Callable[[str], str]) -> Streams:
    """Return Kraken's streams; `intervals` are minutes by timeframe, `unified` the shown name of a pair."""
    return Streams(
        hosts=("wss://ws.kraken.com",),
        channels=partial(find_channels, intervals=intervals, unified=unified),
        subscribe=partial(write_messages, "subscribe"),
        unsubscribe=partial(write_messages, "unsubscribe"),
        parse=parse_frame,
        ping=write_ping,
        marks_closed=False,
        # Heartbeats come once a second; "no message of any kind for 5 s" means a dead connection (reconnection page).
        silence_s=10,
        ping_s=4,
        # "approximately 150 per rolling 10 minutes"; beyond, the address is banned for 10 minutes, by REST, too.
        attempts=(Limit(60, 600, "attempts"),),
        messages_per_s=2,
    )
