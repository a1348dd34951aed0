"""Alpaca's streams: bars of one minute, quotes and trades of stocks and of crypto pairs by WebSocket.

A bar (`b`) comes within two seconds of its minute. Half a minute later it comes again (`u`), if late trades changed it.
A minute without trades has no bar; that of a pair has one, out of quotes. Bars are not adjusted for splits and
dividends. Each frame is a list of objects. A subscription is answered by the whole set that counts from then on; it is
not checked, so that a symbol that does not exist is accepted and silent. Some refusals (402, 409) leave the connection
open and silent. One connection is allowed for each key and path: a second one is refused (406).
Sources: docs.alpaca.markets, streaming-market-data (2026-08-27), real-time-stock-pricing-data and
real-time-crypto-pricing-data (2025-11-14); measurements of 2026-09; recorded frames of 2023 to 2026.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, TransportError
from candle_fetcher.core.faults import unexpected
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.live import Ack, CandleUpdate, LiveEvent, Notice, QuoteUpdate, Ready, Refusal
from candle_fetcher.core.text.json import load_json
from candle_fetcher.providers.stream_fields import read_number, read_price, read_text, read_time_ms
from candle_fetcher.providers.streams import Channel, Message, Streams, Subscription

KEY_HEADER, SECRET_HEADER = "APCA-API-KEY-ID", "APCA-API-SECRET-KEY"
_EXPECTED = "a frame of Alpaca's streams, a list of objects"
_NAME = "Alpaca"
_STOCK_PATHS = {"iex": "/v2/iex", "sip": "/v2/sip", "boats": "/v1beta1/boats"}
_PAIR_PATH = "/v1beta3/crypto/us"
_KINDS = ("trades", "quotes", "bars", "updatedBars", "dailyBars")
_PRICES = ("o", "h", "l", "c")
_MOST_ITEMS = 50_000
_MOST_SAID = 160
# The newcomer is refused while the server still holds an earlier connection of the key, which may be dead.
_TAKEN_S, _BUSY_S = 20.0, 5.0
# While a place is taken it is tried every 20 to 30 s: it may become free at any time.
_MOST_PAUSE_S = 24.0


def parse_frame(frame: bytes) -> Sequence[LiveEvent]:
    """Return what a frame says; an object of another kind says nothing.

    Raises ReplyError for a frame that is no list of objects, or lacks what its kind needs.
    """
    value = load_json(frame, _EXPECTED)
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise unexpected(_EXPECTED, frame)
    events: list[LiveEvent] = []
    try:
        for item in value:
            read = _READERS.get(item.get("T"))
            if read is not None:
                events += read(item)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise unexpected(_EXPECTED, frame) from error
    return events


def _bar(item: dict[str, Any], topic: str, is_correction: bool) -> Sequence[LiveEvent]:
    trades = item.get("n")
    if trades is not None and (type(trades) is not int or not 0 <= trades < 2**63):
        raise ValueError
    values = (*(read_number(item[name]) for name in _PRICES), read_number(item["v"]), trades)
    symbol, open_ms = read_text(item["S"]), read_time_ms(item["t"])
    # A bar has no time of sending.
    return (CandleUpdate(f"{topic} {symbol}", open_ms, values, True, int(is_correction), None, is_correction),)


def _day(item: dict[str, Any]) -> Sequence[LiveEvent]:
    """Return the day's volume so far. Its close is no quote: the bar is repeated after the market has closed."""
    return (QuoteUpdate(f"dailyBars {read_text(item['S'])}", volume=read_number(item["v"])),)


def _quote(item: dict[str, Any]) -> Sequence[LiveEvent]:
    time_ms = read_time_ms(item["t"])
    bid, ask = read_price(item["bp"]), read_price(item["ap"])
    topic = f"quotes {read_text(item['S'])}"
    return (QuoteUpdate(topic, bid_price=bid, ask_price=ask, time_ms=time_ms, order=time_ms, sent_ms=time_ms),)


def _trade(item: dict[str, Any]) -> Sequence[LiveEvent]:
    time_ms = read_time_ms(item["t"])
    topic = f"trades {read_text(item['S'])}"
    return (QuoteUpdate(topic, last_price=read_price(item["p"]), time_ms=time_ms, order=time_ms, sent_ms=time_ms),)


def _success(item: dict[str, Any]) -> Sequence[LiveEvent]:
    return (Ready(),) if item["msg"] == "authenticated" else ()


def _subscription(item: dict[str, Any]) -> Sequence[LiveEvent]:
    """Return the whole set; a kind without symbols is an empty list, or left out."""
    topics = []
    for kind in _KINDS:
        symbols = item.get(kind, [])
        if not isinstance(symbols, list):
            raise ValueError
        topics += [f"{kind} {read_text(symbol)}" for symbol in symbols]
    return (Ack(topics=tuple(topics), is_whole=True),)


def _error(item: dict[str, Any]) -> Sequence[LiveEvent]:
    """Return the refusal of the connection. No error says which message or symbol it is about."""
    code, said = item["code"], item.get("msg")
    words = f"{code}: {str(said)[:_MOST_SAID]!r}"
    if type(code) is not int:
        raise ValueError
    if code in (401, 402, 404):
        fix = "Check the key at https://app.alpaca.markets, and give both of its parts as api_keys (key_id, secret_key)"
        return (Refusal(AccessDenied(f"{_NAME} refused the key ({words})", fix=fix, status=code)),)
    if code == 409:
        fix = "Choose provider_settings={'alpaca': {'feed': 'iex'}}, which every plan includes"
        error = AccessDenied(
            f"the plan of this key at {_NAME} does not include the stream ({words})", fix=fix, status=409
        )
        return (Refusal(error),)
    if code == 406:
        said = f"another connection of this key is open at {_NAME}, which allows one ({words})"
        return (Refusal(RateLimited(said, retry_after_s=_TAKEN_S), again_s=_TAKEN_S),)
    if code == 403:
        return ()  # authenticated already
    if code == 407:
        return (Notice(f"{_NAME} finds this connection too slow ({words})"),)
    if code >= 500:
        return (Refusal(TransportError(f"{_NAME} could not answer ({words})", status=code), again_s=_BUSY_S),)
    refused = ProviderRefused(
        f"{_NAME} refused a subscription ({words})", status=code, code=code, said=str(said)[:1000]
    )
    return (Refusal(refused),)


_READERS: dict[Any, Callable[[dict[str, Any]], Sequence[LiveEvent]]] = {
    "b": partial(_bar, topic="bars", is_correction=False),
    "u": partial(_bar, topic="updatedBars", is_correction=True),
    "d": _day,
    "q": _quote,
    "t": _trade,
    "success": _success,
    "subscription": _subscription,
    "error": _error,
}


def find_stock_channels(subscription: Subscription) -> tuple[Channel, ...]:
    """Return the channels of a stock, by the feed that the user chose; none for adjusted or longer bars."""
    chosen = dict(subscription.settings)
    path = _STOCK_PATHS.get(chosen.get("feed", "sip"))
    if path is None or (subscription.what == "candles" and chosen.get("adjustment", "raw") != "raw"):
        return ()
    return _channels(subscription, path, ("trades", "quotes", "dailyBars"))


def find_pair_channels(subscription: Subscription) -> tuple[Channel, ...]:
    """Return the channels of a pair. Its day bar is no source of a volume of 24 hours."""
    return _channels(subscription, _PAIR_PATH, ("trades", "quotes"))


def _channels(subscription: Subscription, path: str, quote_kinds: tuple[str, ...]) -> tuple[Channel, ...]:
    symbol = subscription.symbol
    kinds = quote_kinds
    if subscription.what == "candles":
        kinds = ("bars", "updatedBars") if (subscription.timeframe, subscription.kind) == ("1m", "candles") else ()
    return tuple(Channel(path, f"{kind} {symbol}", symbol) for kind in kinds)


def write_message(action: str, channels: Sequence[Channel], number: int) -> tuple[Message, ...]:
    """Return the message `subscribe` or `unsubscribe`, which adds to the set or takes from it; it has no id."""
    named: dict[str, list[str]] = {}
    for channel in channels:
        kind, _, symbol = channel.topic.partition(" ")
        named.setdefault(kind, []).append(symbol)
    text = json.dumps({"action": action, **named}, separators=(",", ":"))
    return (Message(text, number, tuple(channel.topic for channel in channels)),)


def write_login(keys: Keys) -> tuple[str, ...]:
    """Return the message that carries the keys: it is expected within ten seconds."""
    given = dict(keys.headers)
    login = {"action": "auth", "key": given.get(KEY_HEADER, ""), "secret": given.get(SECRET_HEADER, "")}
    return (json.dumps(login, separators=(",", ":")),)


def make_streams(channels: Callable[[Subscription], tuple[Channel, ...]]) -> Streams:
    """Return the streams of stocks or of pairs."""
    return Streams(
        hosts=("wss://stream.data.alpaca.markets",),
        channels=channels,
        subscribe=partial(write_message, "subscribe"),
        unsubscribe=partial(write_message, "unsubscribe"),
        parse=parse_frame,
        login=write_login,
        needs_keys=True,
        waits_for_ready=True,
        # The server's pings come every 54 s, ours are answered within 0.3 s: measured, and not documented.
        silence_s=120,
        ping_s=30,
        # No limit is documented; connections were accepted again at once, and handshakes got 429 in a storm of them.
        attempts=(Limit(60, 600, "attempts"),),
        most_pause_s=_MOST_PAUSE_S,
        most_connections=1,
    )


STOCK_STREAMS = make_streams(find_stock_channels)
PAIR_STREAMS = make_streams(find_pair_channels)
