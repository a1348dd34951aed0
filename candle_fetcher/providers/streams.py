"""What a provider offers as streams: a value made of facts and pure functions, as `Provider` is.

Connections, pings, subscribing again, pauses and renewals are the work of `live/`, by the facts here. A dialect has no
state and no clock: bytes in, events out; and the text of messages for channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from candle_fetcher.core.call import Limit
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.live import LiveEvent


class Subscription(NamedTuple):
    """What a user wants to hear of: the candles of a series, or the quote of a symbol.

    what: "candles" or "quotes". symbol: the provider's id. timeframe, kind and settings are those of the series; for
    quotes `settings` are the choices of the user that quotes depend on, such as the feed.
    """

    what: str
    symbol: str
    timeframe: str = ""
    kind: str = "candles"
    settings: tuple[tuple[str, str], ...] = ()


class Channel(NamedTuple):
    """One thing that a connection is subscribed to.

    path: of the connection that carries it, below the root. topic: its name, unique on the connection; events name it.
    symbol: the provider's id.
    """

    path: str
    topic: str
    symbol: str


class Message(NamedTuple):
    """A text for the server. `topics` are subscribed or unsubscribed by it; `id` comes back in the ack."""

    text: str
    id: int
    topics: tuple[str, ...]


def _no_pace(channel: Channel) -> float | None:
    return None


@dataclass(frozen=True)
class Streams:
    """The WebSocket streams of a provider. `hosts` are roots that serve the same data, the preferred one first; users
    replace them by `base_urls={"NAME-stream": "wss://…"}`.

    Dialect, pure functions:

    channels(subscription): the channels that carry it, each with the path of its connection; none where the provider
    has no stream for it: then it is polled. A quote may take several, also on different connections: what they say is
    merged.
    subscribe(channels, number), unsubscribe(channels, number): the messages for channels of one path, with ids counted
    from `number`. A message above `most_message_bytes` is asked for again with half of the channels.
    parse(frame): the events of a text frame, given as bytes. Unknown keys are ignored. Raises ReplyError for a frame
    that cannot be read; the connection goes on.
    login(keys): the messages that carry the user's keys, sent first; None where none are sent. Keys never stand in a
    path.

    Facts:

    sends_keys: the key headers of the provider are sent with the handshake. needs_keys: there is no stream without
    keys.
    waits_for_ready: nothing is subscribed before the event Ready.
    silence_s: a connection without any frame for so long, pings and pongs among them, is dead.
    ping_s: after so long without a frame, a ping is sent: as text by `ping(id)` where there is one, else as a control
    frame.
    ack_s: a message without an ack for so long is sent again, with half of the channels.
    update_s(channel): while there is trading, the provider sends something on this channel at least that often; None
    where it does not say so. What is silent for three times as long is doubted.
    marks_closed: an update of a candle says when it is closed. Without it, a candle is closed by a later one, or by the
    clock.
    lifetime_s: a connection is replaced by a new one at this age; None where the provider ends none.
    attempts: the connection attempts that the provider allows to this address, in whole intervals. For a limit of N in
    any such time, state N/2: two neighbouring intervals may both be full.
    spacing_s: the shortest time between two attempts. first_pause_s, most_pause_s: the pauses after failures, which
    double.
    messages_per_s: the most messages to the server, pings among them.
    most_channels: on one connection. most_message_bytes: of one message.
    most_connections: the provider allows so many connections with one path; None: any number.
    """

    hosts: tuple[str, ...]
    channels: Callable[[Subscription], tuple[Channel, ...]]
    subscribe: Callable[[Sequence[Channel], int], tuple[Message, ...]]
    unsubscribe: Callable[[Sequence[Channel], int], tuple[Message, ...]]
    parse: Callable[[bytes], Sequence[LiveEvent]]
    login: Callable[[Keys], tuple[str, ...]] | None = None
    ping: Callable[[int], str] | None = None
    update_s: Callable[[Channel], float | None] = _no_pace
    sends_keys: bool = False
    needs_keys: bool = False
    waits_for_ready: bool = False
    marks_closed: bool = True
    silence_s: float = 60.0
    ping_s: float = 20.0
    ack_s: float = 5.0
    lifetime_s: float | None = None
    attempts: tuple[Limit, ...] = (Limit(60, 300, "attempts"),)
    spacing_s: float = 1.0
    first_pause_s: float = 1.0
    most_pause_s: float = 60.0
    messages_per_s: float = 4.0
    most_channels: int = 200
    most_message_bytes: int = 4000
    most_connections: int | None = None
