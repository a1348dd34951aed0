"""A stream that plays a script: a dialect for `exchange.streams.play`, over sockets or, without, in a LiveWorld."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from candle_fetcher.practice.websocket import PONG, TEXT, WireMessage, text


class Scripted:
    """Plays the same script on each connection to its path.

    opening: what is sent with the handshake. script: seconds after it, and what is sent then: a text, or any message,
    such as a close frame. answer(text): the answers to a text of the client. `said` are the texts of all clients.
    """

    name = "scripted"

    def __init__(
        self,
        path: str,
        opening: Sequence[str] = (),
        script: Sequence[tuple[float, str | WireMessage]] = (),
        answer: Callable[[str], Sequence[str]] = lambda said: (),
    ) -> None:
        self._path = path
        self.opening = opening
        self.script = script
        self.answer = answer
        self.said: list[str] = []
        self.sessions: list[ScriptedSession] = []

    def answers(self, path: str) -> bool:
        return path == self._path

    def open(self, path: str, pairs: object, headers: object, now_ms: int) -> ScriptedSession:
        self.sessions.append(ScriptedSession(self, now_ms))
        return self.sessions[-1]


class ScriptedSession:
    """One connection."""

    subscribed = ()

    def __init__(self, script: Scripted, now_ms: int) -> None:
        self._script = script
        self._opened_ms = now_ms
        self._left = [(at_s, text(one) if isinstance(one, str) else one) for at_s, one in script.script]
        self.pongs = 0
        self.has_ended = False

    def opened(self, now_ms: int) -> list[WireMessage]:
        return [text(one) for one in self._script.opening]

    def received(self, message: WireMessage, now_ms: int) -> list[WireMessage]:
        self.pongs += message.opcode == PONG
        if message.opcode != TEXT:
            return []
        said = message.payload.decode()
        self._script.said.append(said)
        return [text(one) for one in self._script.answer(said)]

    def due(self, now_ms: int) -> list[WireMessage]:
        due = [one for at_s, one in self._left if self._opened_ms + at_s * 1000 <= now_ms]
        self._left = self._left[len(due) :]
        return due

    def ended(self) -> None:
        self.has_ended = True
