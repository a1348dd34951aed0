"""Binance's streams: klines and tickers by WebSocket, on connections that take subscriptions (`/stream`).

Frames of all markets are alike. A kline has the whole candle so far, and `x` once it is closed; this comes once, and is
not repeated after a reconnect. The server sends a ping every 20 s on spot, every 3 min on futures. An ack
(`{"result":null,"id":1}`) also comes for streams that do not exist. A SUBSCRIBE above some 4,096 bytes is ignored
without an answer.
Sources: binance-spot-api-docs web-socket-streams.md and CHANGELOG.md (2026-07-21); "Important WebSocket Change Notice"
(2026-03-06); binance-connector-python stream docstrings (2026-08-21); recorded frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import ProviderRefused
from candle_fetcher.core.faults import unexpected
from candle_fetcher.core.live import Ack, CandleUpdate, Ending, LiveEvent, QuoteUpdate, Refusal
from candle_fetcher.core.text.json import load_json
from candle_fetcher.providers.streams import Channel, Message, Streams, Subscription

_EXPECTED = "a frame of Binance's streams"
# Fields of a kline in the order of KLINE_COLUMNS and of COIN_COLUMNS, without the open time.
_FIELDS = ("o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")
_MOST_INTEGER = 2**63  # what an int64 column holds
_MOST_MS = 253_402_300_800_000  # the end of the year 9999
_COIN_FIELDS = ("o", "h", "l", "c", "v", "T", "n", "V", "q", "Q")

# A quote's parts, each as the path of its connection and the stream's name behind `symbol@`.
Parts = tuple[tuple[str, str], ...]


def parse_frame(frame: bytes, fields: tuple[str, ...] = _FIELDS) -> Sequence[LiveEvent]:
    """Return what a frame says; `fields` are those of a kline in the order of the feed's columns.

    Raises ReplyError for a frame that is no JSON object, or lacks what its kind needs. A kind that is not subscribed
    here says nothing.
    """
    value = load_json(frame, _EXPECTED)
    try:
        data = value.get("data", value)
        kind = data.get("e")
        if kind == "kline":
            return (_candle(value.get("stream"), data, fields),)
        if kind == "24hrTicker":
            return (_ticker(value.get("stream"), data),)
        if kind == "bookTicker" or (kind is None and "u" in data and "a" in data and "b" in data):
            return (_book(value.get("stream"), data),)
        if kind == "serverShutdown":
            return (Ending("serverShutdown"),)
        if kind is None and ("error" in value or "code" in value):
            return (_refusal(value),)
        if kind is None and "result" in value:
            return (Ack(_id_of(value)),)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise unexpected(_EXPECTED, frame) from error
    return ()


def _candle(stream: str | None, data: dict[str, Any], fields: tuple[str, ...]) -> CandleUpdate:
    kline = data["k"]
    open_ms, is_closed = _time(kline["t"]), kline["x"]
    if type(is_closed) is not bool:
        raise ValueError
    values = tuple([_number(kline[name]) for name in fields])
    topic = stream or f"{kline['s'].lower()}@kline_{kline['i']}"
    return CandleUpdate(topic, open_ms, values, is_closed, _whole(kline["n"]), _time(data["E"]))


def _ticker(stream: str | None, data: dict[str, Any]) -> QuoteUpdate:
    sent_ms, base = _time(data["E"]), data["v"]
    if "ps" in data and "_" in data["s"] and data.get("st") != 1:
        base = data["q"]  # COIN-M: `v` counts contracts, `q` the base asset
    return QuoteUpdate(
        topic=stream or f"{data['s'].lower()}@ticker",
        last_price=_price(data["c"]),
        volume=_number(base),
        bid_price=_price(data["b"]) if "b" in data else None,
        ask_price=_price(data["a"]) if "a" in data else None,
        time_ms=_time(data["C"]) if "C" in data else sent_ms,
        sent_ms=sent_ms,
    )


def _book(stream: str | None, data: dict[str, Any]) -> QuoteUpdate:
    sent_ms = _time(data["E"]) if "E" in data else None
    return QuoteUpdate(
        topic=stream or f"{data['s'].lower()}@bookTicker",
        bid_price=_price(data["b"]),
        ask_price=_price(data["a"]),
        time_ms=_time(data["T"]) if "T" in data else sent_ms,
        order=_whole(data["u"]),
        sent_ms=sent_ms,
    )


def _refusal(value: dict[str, Any]) -> Refusal:
    """Return the refusal of a message: its facts are nested under `error`, though the page shows them flat."""
    nested = value.get("error", value)
    code, said = nested.get("code"), str(nested.get("msg", ""))[:200]
    error = ProviderRefused(f"Binance refused a subscription ({code}: {said})", status=200, code=code, said=said)
    return Refusal(error, _id_of(value))


def _id_of(value: dict[str, Any]) -> int | None:
    number = value.get("id")
    return number if type(number) is int else None


def _number(value: object) -> float:
    """Return a number that is sent as text, or a count."""
    if type(value) is str:
        number = float(value)
        if math.isfinite(number) and value.isascii() and "_" not in value:  # which Python would read, too
            return number
    elif type(value) is int and abs(value) < _MOST_INTEGER:
        return value
    raise ValueError


def _price(value: object) -> float:
    """Return a price; NaN for none, which is sent as 0."""
    return _number(value) or math.nan


def _time(value: object) -> int:
    """Return a time in Unix ms, which none in another unit can be."""
    if type(value) is not int or not 0 <= value < _MOST_MS:
        raise ValueError
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST_INTEGER:
        raise ValueError
    return value


def find_channels(subscription: Subscription, candle_path: str, quote_parts: Parts) -> tuple[Channel, ...]:
    """Return the channels of a subscription: the klines of its timeframe, or the streams that make up a quote."""
    symbol = subscription.symbol
    name = symbol.lower()
    if subscription.what == "quotes":
        return tuple(Channel(path, f"{name}@{part}", symbol) for path, part in quote_parts)
    if subscription.kind != "candles":
        return ()
    return (Channel(candle_path, f"{name}@kline_{subscription.timeframe}", symbol),)


def write_message(method: str, channels: Sequence[Channel], number: int) -> tuple[Message, ...]:
    """Return the message SUBSCRIBE or UNSUBSCRIBE for the channels."""
    topics = tuple(channel.topic for channel in channels)
    text = json.dumps({"method": method, "params": topics, "id": number}, separators=(",", ":"), ensure_ascii=False)
    return (Message(text, number, topics),)


def make_streams(
    hosts: tuple[str, ...],
    *,
    candle_path: str = "/stream",
    quote_parts: Parts = (("/stream", "ticker"),),
    fields: tuple[str, ...] = _FIELDS,
    **facts: Any,
) -> Streams:
    """Return the streams of one of Binance's markets."""
    parse: Callable[[bytes], Sequence[LiveEvent]] = partial(parse_frame, fields=fields)
    return Streams(
        hosts=hosts,
        channels=partial(find_channels, candle_path=candle_path, quote_parts=quote_parts),
        subscribe=partial(write_message, "SUBSCRIBE"),
        unsubscribe=partial(write_message, "UNSUBSCRIBE"),
        parse=parse,
        # "300 connections per attempt every 5 minutes per IP", rolling; the connection ends after 24 hours.
        attempts=(Limit(140, 300, "attempts"),),
        lifetime_s=23 * 3600,
        **facts,
    )


SPOT_STREAMS = make_streams(
    # The second host serves public data only, and also works where the first is blocked (market_data_only.md).
    ("wss://stream.binance.com:9443", "wss://data-stream.binance.vision"),
    silence_s=60,  # pings come every 20 s
    messages_per_s=2,  # of 5, pings and pongs among them
)

US_STREAMS = make_streams(("wss://stream.binance.us:9443",), silence_s=60, messages_per_s=2)

# A kline has the volume in contracts, and `q` is in the base asset.
CM_STREAMS = make_streams(
    ("wss://dstream.binance.com",),
    quote_parts=(("/stream", "ticker"), ("/stream", "bookTicker")),
    fields=_COIN_FIELDS,
)

# Since 2026-04 each stream has its path: on the other one, and on none, it is acknowledged and silent.
UM_STREAMS = make_streams(
    ("wss://fstream.binance.com",),
    candle_path="/market/stream",
    quote_parts=(("/market/stream", "ticker"), ("/public/stream", "bookTicker")),
)
