"""What one frame of a stream says, as values. A provider's `Streams.parse` turns the bytes of a frame into these.

A frame may say several things, or nothing that matters here: then there is no event, and the frame is a sign of life
alone. Events name what they are about by `topic`, the provider's own name of a channel (`Channel.topic`). Times are
UTC milliseconds of the provider's clock.
"""

from __future__ import annotations

from typing import NamedTuple


class CandleUpdate(NamedTuple):
    """The present state of one candle.

    values: one for each column of the feed after `open_time`, in the feed's order and units; None where the frame does
    not say it. is_closed: the provider says that the candle is over. order: grows with each state of one candle, such
    as the id of its last trade; a state with a lower one than the last is old and is not applied. sent_ms: when the
    provider sent it. is_correction: the candle was closed before, and has other values now.
    """

    topic: str
    open_ms: int
    values: tuple[float | None, ...]
    is_closed: bool = False
    order: int = 0
    sent_ms: int | None = None
    is_correction: bool = False


class QuoteUpdate(NamedTuple):
    """What a frame says about a quote, in the units of `Quote`.

    None: the frame does not say this value, and the last one stays. NaN: the provider has none now, such as no bid.
    order: grows with each update of one topic, where the provider numbers them; an update with a lower one, other than
    0, is old and is not applied. time_ms: the time that the values are of. sent_ms: when the provider sent them.
    """

    topic: str
    last_price: float | None = None
    volume: float | None = None
    bid_price: float | None = None
    ask_price: float | None = None
    time_ms: int | None = None
    order: int = 0
    sent_ms: int | None = None


class Ack(NamedTuple):
    """A message was accepted: all of the message with that id, or these topics, where each has an ack of its own.

    `is_whole`: the topics are all that the connection is subscribed to.
    """

    id: int | None = None
    topics: tuple[str, ...] = ()
    is_whole: bool = False


class Refusal(NamedTuple):
    """A message was refused: all of the message with that id, or these topics; with neither, the connection as a whole.

    error: of the library's tree, such as UnknownSymbol, AccessDenied, ProviderRefused or RateLimited; users get it.
    again_s: the refusal may pass, and it is worth asking again after so many seconds; None: it lasts.
    """

    error: Exception
    id: int | None = None
    topics: tuple[str, ...] = ()
    again_s: float | None = None


class Ready(NamedTuple):
    """The connection takes subscriptions now, as after a login. Only where `Streams.waits_for_ready`."""


class Heartbeat(NamedTuple):
    """The provider says that it is there, or answers a ping of ours. Control frames need no such event."""

    sent_ms: int | None = None


class Say(NamedTuple):
    """The provider expects this text back at once, such as the answer to a ping in a text frame."""

    text: str


class Ending(NamedTuple):
    """The provider is going to end this connection: a new one takes over before."""

    reason: str = ""


class Notice(NamedTuple):
    """Something that the log should have, such as the announcement of maintenance."""

    text: str


LiveEvent = CandleUpdate | QuoteUpdate | Ack | Refusal | Ready | Heartbeat | Say | Ending | Notice
