"""A line: the channels of one path, kept subscribed by one thread through losses of the connection.

A connection that ends is replaced after a pause; one that is to end is replaced before, and read until the new one
delivers. Each piece of I/O comes from a `Wires`, so that tests have neither sockets nor time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from typing import NamedTuple, Protocol

from candle_fetcher.concurrency import CancelEvent, Wait
from candle_fetcher.core.errors import AccessDenied, CandleFetcherError, RateLimited, ReplyError, SourceError
from candle_fetcher.core.events import Connected, Disconnected, Noted, Observe
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.live import CandleUpdate, LiveEvent, Notice, QuoteUpdate
from candle_fetcher.live.link import Action, Drop, Link, Send
from candle_fetcher.live.pauses import Pauses
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.net.stream import Frame, HandshakeRefused
from candle_fetcher.providers import Channel, Provider, Streams

# How long a thread waits for a frame before it looks at the time and at its end.
_SLICE_S = 0.5
# The same while two connections are read by turns.
_HANDOVER_S = 0.02
# A handover that takes longer is given up: the older connection ends by itself.
_HANDOVER_MOST_S = 120.0
# The status by which firewalls refuse an address.
_FIREWALL = 403
# Where the clocks move on by more between two looks, the machine slept, and the connection is dead.
_SLEPT_S = 30.0
_SPANS = 100


class Conn(Protocol):
    """An open connection, as `net.stream.StreamConnection`."""

    def receive(self, timeout_s: float) -> Frame | None: ...
    def send(self, text: str) -> None: ...
    def ping(self) -> None: ...
    def close(self) -> None: ...


class Wires(NamedTuple):
    """What live calls work with: connections, clocks, waits, listeners and chance.

    connect(root, path, stop, keys, begun): an open connection; `begun` gets the function that cuts it, at any step.
    steady_s: seconds of a clock that is never set. wall_s: the time of day. wait: waits for so many seconds, or until
    the event is set, and returns whether it is set.
    """

    connect: Callable[[str, str, threading.Event, Keys, Callable[[Callable[[], None]], object]], Conn]
    steady_s: Callable[[], float]
    wall_s: Callable[[], float]
    wait: Wait
    observe: Observe
    random: Callable[[], float]


class Outlet(NamedTuple):
    """A provider's streams as this machine reaches them: roots, keys, pauses and the budget of attempts."""

    provider: Provider
    streams: Streams
    roots: tuple[str, ...]
    keys: Callable[[], Keys]
    pauses: Pauses
    attempts: Limiter


class Board(Protocol):
    """Receives what a line has, in the line's thread."""

    def take(self, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        """Take an update."""

    def connected(self, topics: Iterable[str], now_s: float) -> None:
        """The topics are subscribed on a new connection; before it, updates may have been missed."""

    def disconnected(self, topics: Iterable[str], now_s: float) -> None:
        """There is no connection for the topics now."""

    def refused(self, topic: str, error: Exception) -> None:
        """The topic will not come by stream."""


class _Open(NamedTuple):
    """A connection that is open, and its states."""

    conn: Conn
    link: Link
    opened_s: float


class Line:
    """See the module. `step` does one piece of work and returns; `run` does it until `stop` is set."""

    def __init__(self, outlet: Outlet, path: str, channels: Sequence[Channel], wires: Wires, board: Board) -> None:
        self.path = path
        self._outlet = outlet
        self._channels = {channel.topic: channel for channel in channels}
        self._wires = wires
        self._board = board
        self._root = 0
        self._current: _Open | None = None
        self._successor: _Open | None = None
        self._looked = (0.0, 0.0)  # the two clocks at the last look
        self._doubted: list[str] = []
        self._cuts: deque[Callable[[], None]] = deque(maxlen=2)  # of the newest connections
        self.stop = CancelEvent()
        self.is_over = False
        self._down_since_s: float | None = wires.wall_s()
        self._spans_down: deque[tuple[float, float]] = deque(maxlen=_SPANS)
        self.connections = self.messages = self.unreadable = 0

    def run(self) -> None:
        """Keep the channels subscribed until `stop` is set or nothing is left to subscribe."""
        try:
            while not self.stop.is_set() and not self.is_over:
                self._step_on()
        except CancelledError:
            pass
        finally:
            self.end()

    def _step_on(self) -> None:
        """Do one piece of work. A mistake in it, such as a plug-in's, costs the connection and not the thread."""
        try:
            self.step(_SLICE_S)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - after any error the next connection is tried
            self._wires.observe(
                Noted(self._outlet.provider.name, f"{self.path}: {type(error).__name__}: {error}"[:300])
            )
            for opened in (self._successor, self._current):
                if opened is not None:
                    self._lose(opened, f"an error in this program ({type(error).__name__})")
            self._outlet.pauses.failed(self._wires.steady_s(), self._wires.random())

    def end(self) -> None:
        """Close what is open."""
        self.stop.set()
        for one in (self._current, self._successor):
            if one is not None:
                one.conn.close()
        self._current = self._successor = None

    def cut(self) -> None:
        """Have the thread end at once; any thread may call it."""
        self.stop.set()
        for cut in list(self._cuts):
            cut()

    def doubt(self, topic: str) -> None:
        """Note that a channel is silent though it should not be: it is subscribed again; at the second time within one
        connection, that is replaced. Any thread may call it."""
        self._doubted.append(topic)

    def spans_down(self) -> list[tuple[float, float]]:
        """Return the latest spans without a connection, in Unix seconds; the last of them may go on."""
        since_s = self._down_since_s
        return [*self._spans_down, *([] if since_s is None else [(since_s, self._wires.wall_s())])]

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self, most_s: float) -> None:
        """Do one piece of work, and wait for it for so many seconds at most."""
        now_s = self._wires.steady_s()
        current = self._current
        if current is None:
            wait_s = self._outlet.pauses.next_s - now_s
            if wait_s > 0:
                self._wires.wait(self.stop, min(most_s, wait_s))
            else:
                self._current = opened = self._open(now_s)
                self._looked = self._clocks()
                self._greet(opened)
            return
        if self._has_slept():
            self._lose(current, "the machine slept")
            return
        self._hand_over(current, now_s)
        if self._successor is None:
            self._pump(current, most_s)
            return
        slice_s = min(most_s, _HANDOVER_S)
        self._pump(current, slice_s)
        if self._successor is not None:
            self._pump(self._successor, slice_s)

    def _clocks(self) -> tuple[float, float]:
        return self._wires.steady_s(), self._wires.wall_s()

    def _has_slept(self) -> bool:
        before, self._looked = self._looked, self._clocks()
        return any(now - then > _SLEPT_S for now, then in zip(self._looked, before, strict=True))

    def _hand_over(self, current: _Open, now_s: float) -> None:
        """Open a successor where one is wanted, and end the older connection once the successor delivers."""
        successor = self._successor
        if successor is not None:
            if successor.link.delivers or now_s - successor.opened_s > _HANDOVER_MOST_S:
                current.conn.close()
                self._current, self._successor = successor, None
            return
        if not current.link.wants_successor(now_s) or now_s < self._outlet.pauses.next_s:
            return
        if self._outlet.streams.most_connections == 1:
            self._lose(current, "it is replaced by a new one")
        elif all(left > 1 for _, left in self._outlet.attempts.left()):
            self._successor = opened = self._open(now_s)
            self._greet(opened)

    def _open(self, now_s: float) -> _Open | None:
        """Return a new connection; None where none came about, and note the pause then."""
        outlet, wires = self._outlet, self._wires
        root = outlet.roots[self._root % len(outlet.roots)]
        try:
            keys = outlet.keys()
            outlet.attempts.release(outlet.attempts.acquire(1, stop=self.stop))
            outlet.pauses.tried(wires.steady_s())
            conn = wires.connect(root, self.path, self.stop, keys, self._cuts.append)
        except HandshakeRefused as error:
            self._refused(outlet.provider.refuse(error.reply, "", int(wires.wall_s() * 1000)), now_s)
        except (SourceError, CandleFetcherError) as error:
            self._refused(error, now_s)
        else:
            now_s = wires.steady_s()
            login = outlet.streams.login(keys) if outlet.streams.login is not None else ()
            link = Link(outlet.streams, self._channels.values(), now_s, login)
            opened = _Open(conn, link, now_s)
            self.connections += 1
            wires.observe(Connected(outlet.provider.name, self.path, len(self._channels)))
            if self._down_since_s is not None:
                self._spans_down.append((self._down_since_s, wires.wall_s()))
                self._down_since_s = None
            self._board.connected(self._channels, now_s)
            return opened
        return None

    def _greet(self, opened: _Open | None) -> None:
        """Send the first messages of a new connection, which may be lost by then."""
        if opened is not None:
            try:
                self._do(opened, opened.link.tick(self._wires.steady_s()))
            except SourceError as error:
                self._lose(opened, _reason(error))

    def _refused(self, error: Exception, now_s: float) -> None:
        """Note a pause after a try without a connection; a denial sends the next try to another host."""
        outlet, wires = self._outlet, self._wires
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        outlet.pauses.failed(now_s, wires.random(), asked_s)
        wires.observe(Disconnected(outlet.provider.name, self.path, _reason(error), 0.0))
        if isinstance(error, AccessDenied):
            self._root += 1
            if self._root >= len(outlet.roots) and error.status == _FIREWALL:
                self._root = 0  # a firewall refuses an address for some minutes, and then no more
            elif self._root >= len(outlet.roots):
                self._give_up(error)
        elif not isinstance(error, SourceError):
            self._give_up(error)
        elif self._root + 1 < len(outlet.roots) and not isinstance(error, RateLimited):
            self._root += 1
        else:
            self._root = 0

    def _give_up(self, error: Exception) -> None:
        self.is_over = True
        for topic in self._channels:
            self._board.refused(topic, error)

    # -- one connection -----------------------------------------------------------------------------------------------

    def _pump(self, opened: _Open, timeout_s: float) -> None:
        """Receive one frame, and do what follows from it and from the time."""
        link, wires = opened.link, self._wires
        try:
            frame = opened.conn.receive(timeout_s)
            now_s = wires.steady_s()
            if frame is not None:
                link.hear(now_s)
                if frame.kind == "closed":
                    self._lose(opened, f"closed by the server ({frame.data.decode('utf-8', 'replace')})")
                    return
                if frame.kind == "text":
                    self.messages += 1
                    self._read(opened, frame.data, now_s)
            while self._doubted and self._is_open(opened):
                self._renew(opened, self._doubted.pop())
            if self._is_open(opened) and now_s >= link.due_s(now_s):
                self._do(opened, link.tick(now_s))
        except SourceError as error:
            self._lose(opened, _reason(error))

    def _is_open(self, opened: _Open) -> bool:
        return opened is self._current or opened is self._successor

    def _read(self, opened: _Open, data: bytes, now_s: float) -> None:
        """Give the events of a frame to the board and the link. A frame that cannot be read is counted, and the
        connection goes on."""
        link, take = opened.link, self._board.take
        try:
            events = self._outlet.streams.parse(data)
        except ReplyError as error:
            self._note_unreadable(error)
            return
        for event in events:
            kind = type(event)
            if kind is CandleUpdate or kind is QuoteUpdate:
                link.receive(event, now_s)
                take(event, now_s)  # type: ignore[arg-type]
            else:
                self._follow(opened, event, now_s)
                if not self._is_open(opened):
                    return

    def _follow(self, opened: _Open, event: LiveEvent, now_s: float) -> None:
        if isinstance(event, Notice):
            self._wires.observe(Noted(self._outlet.provider.name, event.text))
            return
        actions = opened.link.receive(event, now_s)
        for channel, error in opened.link.refused:
            if self._channels.pop(channel.topic, None) is not None:
                self._board.refused(channel.topic, error)
        opened.link.refused.clear()
        self._do(opened, actions)

    def _note_unreadable(self, error: ReplyError) -> None:
        self.unreadable += 1
        if self.unreadable == 1:
            self._wires.observe(Noted(self._outlet.provider.name, f"a frame cannot be read: {error}"))

    def _do(self, opened: _Open, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Drop):
                self._drop(opened, action)
                return
            if isinstance(action, Send):
                opened.conn.send(action.text)
            else:
                opened.conn.ping()

    def _drop(self, opened: _Open, action: Drop) -> None:
        self._lose(opened, action.reason, action.again_s)
        if action.error is not None:
            self._give_up(action.error)

    def _renew(self, opened: _Open, topic: str) -> None:
        if not opened.link.subscribe_again(topic):
            self._lose(opened, f"nothing comes for {topic}")

    def _lose(self, opened: _Open, reason: str, asked_s: float | None = None) -> None:
        """End the connection; a successor takes its place, else the next try is due after a pause."""
        now_s, outlet = self._wires.steady_s(), self._outlet
        opened.conn.close()
        self._doubted.clear()
        if asked_s is None and opened.link.was_useful(now_s):
            outlet.pauses.lost(now_s, self._wires.random())
        else:
            outlet.pauses.failed(now_s, self._wires.random(), asked_s)
        if opened is self._successor:
            self._successor = None
            return
        self._current, self._successor = self._successor, None
        self._wires.observe(Disconnected(outlet.provider.name, self.path, reason, now_s - opened.opened_s))
        if self._current is None:
            self._down_since_s = self._wires.wall_s()
            self._board.disconnected(self._channels, now_s)


def _reason(error: Exception) -> str:
    return f"{error.args[0] if error.args else type(error).__name__}"
