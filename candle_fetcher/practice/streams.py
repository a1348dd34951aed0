"""The streams of the practice exchange: WebSocket connections, and the dialects that fill them.

A dialect's session is a state machine without input, output or clock: it gets messages and instants, and returns
messages. Here it meets a socket, the exchange's clock and faults.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.server import ClientConnection
from candle_fetcher.practice.stream_faults import StreamAction, StreamFault
from candle_fetcher.practice.websocket import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    ProtocolFault,
    WireMessage,
    WireReader,
    accept,
    close,
    frame,
)

# How often a connection looks at the clock, which tests set as they like.
_LOOK_S = 0.01


class StreamSession(Protocol):
    """One connection as the exchange sees it, from the handshake on."""

    @property
    def subscribed(self) -> Sequence[str]:
        """What is subscribed, in the provider's words."""

    def opened(self, now_ms: int) -> Sequence[WireMessage]:
        """Return what is sent at once after the handshake."""

    def received(self, message: WireMessage, now_ms: int) -> Sequence[WireMessage]:
        """Return the answers to a text, ping or pong. A close frame among them ends the connection."""

    def due(self, now_ms: int) -> Sequence[WireMessage]:
        """Return what is to be sent by the instant."""

    def ended(self) -> None:
        """Know that the connection has ended."""


class StreamDialect(Protocol):
    """The streams of a provider: its paths, and what a handshake gets."""

    def answers(self, path: str) -> bool:
        """Return whether the path is one of its own."""

    def open(
        self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str], now_ms: int
    ) -> StreamSession | ServedReply:
        """Return the session of a new connection, or the reply that refuses it."""

    name: str


class ClientMessage(NamedTuple):
    """A text, ping, pong or close frame of a client; `time_ms` by the exchange's clock, `connection` counts from 0."""

    time_ms: int
    connection: int
    provider: str
    path: str
    opcode: int
    text: str


class PracticeStreams:
    """What the streams of an exchange got and sent, and the faults that they show."""

    def __init__(self, dialects: Sequence[StreamDialect], now_ms: Callable[[], int], *, log: bool = True) -> None:
        self._dialects = list(dialects)
        self._has_log = log
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._faults: list[StreamFault] = []
        self._messages: list[ClientMessage] = []
        self._live: dict[int, _StreamConnection] = {}
        self._sent = 0

    def play(self, dialect: StreamDialect) -> None:
        """Answer the paths of this dialect by it, also those of the exchange's own dialects."""
        self._dialects.insert(0, dialect)

    def fail(self, action: StreamAction, *, times: int | None = 1, match: Any = None, after: int = 0) -> StreamFault:
        """Show a fault to the next `times` frames that match (None: until stopped), after `after` that pass.

        `match` is a part of the frame's text, or a function of it and of the connection's `provider` and `path`.
        """
        fault = StreamFault(action, times=times, match=match, after=after)
        with self._lock:
            self._faults.append(fault)
        return fault

    def end_all(self, code: int | None = None) -> int:
        """End every connection now, by a close frame with that code or without one; return how many there were."""
        with self._lock:
            live = list(self._live.values())
        for one in live:
            one.end(code)
        return len(live)

    @property
    def messages(self) -> list[ClientMessage]:
        """What clients have sent, in order; nothing where the exchange has no log."""
        with self._lock:
            return list(self._messages)

    @property
    def subscribed(self) -> dict[int, tuple[str, ...]]:
        """What is subscribed on each open connection, by its number."""
        with self._lock:
            return {number: tuple(one.session.subscribed) for number, one in self._live.items()}

    @property
    def sent(self) -> int:
        """How many frames were sent."""
        with self._lock:
            return self._sent

    def find(self, path: str) -> StreamDialect | None:
        """Return the dialect of a path."""
        return next((dialect for dialect in self._dialects if dialect.answers(path)), None)

    def open(
        self, dialect: StreamDialect, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> tuple[StreamSession | None, ServedReply]:
        """Return the session of a handshake with the reply 101, or None with the reply that refuses it."""
        accepted = accept(headers)
        if accepted is None:
            return None, ServedReply(400, (("Content-Type", "text/plain"),), b"not a WebSocket handshake of version 13")
        opened = dialect.open(path, pairs, headers, self._now_ms())
        return (None, opened) if isinstance(opened, ServedReply) else (opened, ServedReply(101, accepted, b""))

    def serve(
        self,
        connection: ClientConnection,
        session: StreamSession,
        reply: ServedReply,
        dialect: StreamDialect,
        path: str,
    ) -> None:
        """Send the reply 101 and play the session to its end. The first frames are in one piece with the reply."""
        number = next(self._numbers)
        one = _StreamConnection(connection, session, self, {"provider": dialect.name, "path": path}, number)
        with self._lock:
            self._live[number] = one
        try:
            one.run(reply.head(), self._now_ms)
        finally:
            with self._lock:
                self._live.pop(number, None)
            session.ended()

    def note(self, number: int, params: Mapping[str, str], message: WireMessage, now_ms: int) -> None:
        """Keep what a client sent, where there is a log."""
        if not self._has_log:
            return
        said = "" if message.opcode == CLOSE else message.payload.decode("utf-8", "replace")
        kept = ClientMessage(now_ms, number, params["provider"], params["path"], message.opcode, said)
        with self._lock:
            self._messages.append(kept)

    def find_fault(self, message: WireMessage, params: Mapping[str, str]) -> StreamFault | None:
        """Count a frame that is about to be sent, and return the fault that it gets."""
        with self._lock:
            self._sent += 1
            faults = list(self._faults)
        if not faults or message.opcode != TEXT:
            return None
        said = message.payload.decode()
        return next((fault for fault in faults if fault.take(said, params)), None)


class _StreamConnection:
    """One connection: a socket, a session, and what faults have done to it."""

    def __init__(
        self,
        connection: ClientConnection,
        session: StreamSession,
        streams: PracticeStreams,
        params: Mapping[str, str],
        number: int,
    ) -> None:
        self.session = session
        self._connection = connection
        self._streams = streams
        self._params = params
        self._number = number
        self._head = b""
        self._held: list[tuple[int, WireMessage]] = []
        self._is_mute = False
        self._is_silent = False
        self._now_ms = 0
        self._end_ms: int | None = None
        self._end_code: int | None = None
        self._is_asked_to_end = threading.Event()

    def end(self, code: int | None) -> None:
        """End the connection soon, from another thread."""
        self._end_code = code
        self._is_asked_to_end.set()

    def run(self, reply_head: bytes, clock_ms: Callable[[], int]) -> None:
        """Play the session until one side ends the connection."""
        reader = WireReader()
        self._now_ms = clock_ms()
        self._head = reply_head
        going = all(self._put(message) for message in self.session.opened(self._now_ms))
        self.send(b"")
        while going:
            data = self._connection.poll(_LOOK_S)
            if data == b"" or self._connection.wait(0):
                return
            self._now_ms = clock_ms()
            going = self._take(reader, data or b"") and self._tick()

    def _tick(self) -> bool:
        """Send what is due; return whether the connection goes on."""
        if self._is_asked_to_end.is_set() or (self._end_ms is not None and self._now_ms >= self._end_ms):
            if self._end_code is not None:
                self.send(frame(close(self._end_code)))
            return False
        return all(self._put(message) for message in self.session.due(self._now_ms))

    def _take(self, reader: WireReader, data: bytes) -> bool:
        """Give the session what came; return whether the connection goes on."""
        try:
            for message in reader.feed(data):
                self._streams.note(self._number, self._params, message, self._now_ms)
                if message.opcode == CLOSE:
                    if not self._is_mute:
                        self.send(frame(message))
                    return False
                if message.opcode == PING and not self._is_mute:
                    self.send(frame(WireMessage(PONG, message.payload)))
                if not all(self._put(answer) for answer in self.session.received(message, self._now_ms)):
                    return False
        except ProtocolFault as fault:
            self.send(frame(close(fault.code, str(fault))))
            return False
        return True

    def _put(self, message: WireMessage) -> bool:
        """Send a frame, or show the fault that it gets; return whether the connection goes on."""
        if self._is_mute or (self._is_silent and _is_data(message)):
            return True
        fault = self._streams.find_fault(message, self._params)
        if fault is not None:
            return fault.action.act(self, message)
        self.send(frame(message))
        if message.opcode == TEXT and self._held:
            self._held = [(left - 1, held) for left, held in self._held]
            for _, held in [one for one in self._held if one[0] <= 0]:
                self.send(frame(held))
            self._held = [one for one in self._held if one[0] > 0]
        return message.opcode != CLOSE

    # What a fault may do

    def send(self, data: bytes) -> None:
        """Send bytes, behind the reply to the handshake where that was not sent yet."""
        data, self._head = self._head + data, b""
        if data:
            self._connection.send(data)

    def reset(self) -> None:
        """End the connection with a RST."""
        self._connection.reset()

    def hold(self, message: WireMessage, frames: int) -> None:
        """Send the message after so many other frames."""
        self._held.append((frames, message))

    def mute(self, *, data_only: bool) -> None:
        """Send nothing from now on, or no data."""
        self._is_silent = True
        self._is_mute = self._is_mute or not data_only

    def end_in(self, seconds: float) -> None:
        """Close the connection so many seconds later."""
        self._end_ms = self._now_ms + round(seconds * 1000)


# What marks a text as an answer, a heartbeat or a status; everything else is data.
_NOT_DATA = (
    b'"result"', b'"method"', b'"id"', b'"error"', b'"channel":"heartbeat"', b'"channel":"status"',
    b'"T":"success"', b'"T":"subscription"', b'"T":"error"',
)  # fmt: skip


def _is_data(message: WireMessage) -> bool:
    return message.opcode == TEXT and not any(mark in message.payload for mark in _NOT_DATA)
