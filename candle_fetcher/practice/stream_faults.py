"""Faults of streams: what the practice exchange does to one frame on its way to the client.

    exchange.streams.fail(stream_faults.drop(), match='"x":true')
    exchange.streams.fail(stream_faults.lie(k={"c": "1.0"}), match='"x":true')

A refused or redirected handshake is a reply of HTTP: `exchange.fail(faults.status(429), match="/stream")`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from candle_fetcher.practice.faults import Turn
from candle_fetcher.practice.websocket import TEXT, WireMessage, close, fragments, frame, head, text


class StreamWire(Protocol):
    """The connection as an action sees it."""

    def send(self, data: bytes) -> None:
        """Send these bytes. Raises OSError where the client has gone."""

    def reset(self) -> None:
        """End the connection with a RST."""

    def hold(self, message: WireMessage, frames: int) -> None:
        """Send the message after so many other frames."""

    def mute(self, *, data_only: bool) -> None:
        """Send nothing from now on; with `data_only`, pings, pongs and answers are still sent."""

    def end_in(self, seconds: float) -> None:
        """Close the connection so many seconds later, by the exchange's clock."""


class StreamAction(NamedTuple):
    """What is done to a frame; `act` returns whether the connection goes on."""

    name: str
    act: Callable[[StreamWire, WireMessage], bool]


class StreamFault(Turn):
    """An action, and the frames that get it: `match` is a part of their text, or a function of text and parameters,
    which are the `provider` and `path` of the connection."""

    def __init__(self, action: StreamAction, *, times: int | None, match: Any, after: int) -> None:
        super().__init__(times=times, match=match, after=after)
        self.action = action


def _instead(name: str, made: Callable[[WireMessage], Sequence[bytes]]) -> StreamAction:
    def act(wire: StreamWire, message: WireMessage) -> bool:
        for data in made(message):
            wire.send(data)
        return True

    return StreamAction(name, act)


def _at_end(name: str, made: Callable[[WireMessage], bytes]) -> StreamAction:
    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.send(made(message))
        return False

    return StreamAction(name, act)


# Connections


def drop(code: int | None = None, reason: str = "") -> StreamAction:
    """End the connection in place of the frame: by a close frame with that code, or without one."""
    return _at_end(f"drop {code}", lambda message: b"" if code is None else frame(close(code, reason)))


def reset() -> StreamAction:
    """End the connection with a RST in place of the frame."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.reset()
        return False

    return StreamAction("reset", act)


def stall() -> StreamAction:
    """Stay connected, and send nothing any more: no frame, no ping, no pong, no close."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.mute(data_only=False)
        return True

    return StreamAction("stall", act)


def silence() -> StreamAction:
    """Send no data any more; pings, pongs, heartbeats and answers go on."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.mute(data_only=True)
        return True

    return StreamAction("silence", act)


def shutdown_notice(lead_s: float = 600) -> StreamAction:
    """Send Binance's `serverShutdown` before the frame, and close the connection so much later."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        is_combined = b'"stream":' in message.payload[:10]
        # The time of the notice is that of the frame before which it is sent.
        event = json.loads(message.payload)
        event = event.get("data", event) if isinstance(event, dict) else {}
        notice = {"e": "serverShutdown", "E": event.get("E", 0)}
        body = {"stream": "!serverShutdown", "data": notice} if is_combined else notice
        wire.send(frame(text(json.dumps(body, separators=(",", ":")))))
        wire.send(frame(message))
        wire.end_in(lead_s)
        return True

    return StreamAction("shutdown notice", act)


# Messages


def leave_out() -> StreamAction:
    """Do not send the frame: a closing that never comes."""
    return _instead("leave out", lambda message: ())


def double(times: int = 2) -> StreamAction:
    """Send the frame so many times."""
    return _instead("double", lambda message: [frame(message)] * times)


def delay(frames: int = 1) -> StreamAction:
    """Send the frame after the next so many frames: out of order."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.hold(message, frames)
        return True

    return StreamAction("delay", act)


def lie(**fields: Any) -> StreamAction:
    """Change fields of the frame's event; a mapping changes fields of an inner object: `k={"c": "1.0"}`."""

    def changed(message: WireMessage) -> bytes:
        body = json.loads(message.payload)
        target = body["data"] if isinstance(body, dict) and "data" in body else body
        _change(target[0] if isinstance(target, list) else target, fields)
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    return transform(changed, "lie")


def transform(change: Callable[[WireMessage], bytes], name: str = "transform") -> StreamAction:
    """Send another text in place of the frame's."""
    return _instead(name, lambda message: [frame(WireMessage(TEXT, change(message)))])


def _change(target: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _change(target[name], value)
        else:
            target[name] = value


def insert(content: str | bytes) -> StreamAction:
    """Send this text before the frame."""
    data = content.encode() if isinstance(content, str) else content
    return _instead("insert", lambda message: [frame(WireMessage(TEXT, data)), frame(message)])


# Frames


def half_frame() -> StreamAction:
    """Send the first half of the frame's bytes, then close the connection."""
    return _at_end("half frame", lambda message: frame(message)[: len(frame(message)) // 2])


def fragmented(count: int = 3) -> StreamAction:
    """Send the frame in so many fragments, which is allowed."""
    return _instead("fragmented", lambda message: fragments(message, count))


def invalid_utf8() -> StreamAction:
    """Send bytes that are no text in a frame of text."""
    return _instead("invalid UTF-8", lambda message: [frame(WireMessage(TEXT, b'{"e":"\xc3\x28\xff"}'))])


def huge(payload_bytes: int = 64 * 2**20) -> StreamAction:
    """Announce a frame of so many bytes, and send them as long as the client takes them."""

    def act(wire: StreamWire, message: WireMessage) -> bool:
        wire.send(head(TEXT, payload_bytes))
        block = b" " * 2**16
        for _ in range(payload_bytes // len(block)):
            wire.send(block)
        wire.send(b" " * (payload_bytes % len(block)))
        return True

    return StreamAction("huge", act)


def garbage() -> StreamAction:
    """Send bytes that are no frame: reserved bits, and a length of 2**63."""
    return _at_end("garbage", lambda message: b"\xf3\x7f" + b"\xff" * 200)
