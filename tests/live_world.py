"""A practice exchange, its streams without sockets, and a follower without threads: all by one clock that tests set.

    world.follow(["BTC/USDT"], "1m")       a Driver: its lines and its follower, stepped by turns
    driver.run(seconds)                    the clock goes on, with all that happens meanwhile
    driver.items                           what was yielded

`world.network` decides what happens to connections and frames.
"""

from __future__ import annotations

import random
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from world import World

from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.events import Event
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.quote import Quote
from candle_fetcher.live.follow import make_follow
from candle_fetcher.live.follower import FollowOptions
from candle_fetcher.live.line import Line, Wires
from candle_fetcher.live.watch import make_watch
from candle_fetcher.net.stream import Frame
from candle_fetcher.practice.websocket import CLOSE, PING, PONG, TEXT, WireMessage


class Network:
    """What happens to connections and frames; tests replace its parts.

    refuse(now_s): the error of an attempt to connect, or None. change(text): the texts in place of a frame of data,
    change_answers(text) in place of an answer. judge(text): the answer to a message that the exchange does not get to
    see, or None.
    """

    def __init__(self) -> None:
        self.refuse: Callable[[float], Exception | None] = lambda now_s: None
        self.change: Callable[[bytes], Iterable[bytes]] = lambda text: (text,)
        self.change_answers: Callable[[bytes], Iterable[bytes]] = lambda text: (text,)
        self.judge: Callable[[str], bytes | None] = lambda text: None
        self.is_silent = False
        self.attempts: list[float] = []
        self.conns: list[Conn] = []

    def drop(self) -> None:
        """End all connections, without a word."""
        for conn in self.conns:
            conn.is_lost = True
        self.conns.clear()


class Conn:
    """A connection to a session of the practice exchange, without a socket."""

    def __init__(self, world: LiveWorld, url: str) -> None:
        self._world = world
        parts = urllib.parse.urlsplit(url)
        dialect = world.exchange.streams.find(parts.path)
        assert dialect is not None
        self._session: Any = dialect.open(parts.path, urllib.parse.parse_qsl(parts.query), {}, world.now_ms)
        self._frames: deque[WireMessage] = deque(self._session.opened(world.now_ms))
        self.is_lost = self.is_closed = self.is_ending = False
        self.sent: list[str] = []
        world.network.conns.append(self)

    def receive(self, timeout_s: float) -> Frame | None:
        self._check()
        network = self._world.network
        if not self._frames:
            for message in self._session.due(self._world.now_ms):
                if message.opcode == TEXT:
                    self._frames.extend(WireMessage(TEXT, text) for text in network.change(message.payload))
                else:
                    self._frames.append(message)
        if network.is_silent:
            self._frames.clear()
        if not self._frames and self.is_ending:
            self.is_lost = True
            return Frame("closed", b"1000")
        if not self._frames:
            return None
        message = self._frames.popleft()
        if message.opcode == PING:
            self._session.received(WireMessage(PONG, message.payload), self._world.now_ms)
            return Frame("ping", message.payload)
        if message.opcode == CLOSE:
            self.is_lost = True
            return Frame("closed", b"1000")
        return Frame("text" if message.opcode == TEXT else "pong", message.payload)

    def send(self, text: str) -> None:
        self._check()
        self.sent.append(text)
        network = self._world.network
        judged = network.judge(text)
        if judged is not None:
            self._frames.append(WireMessage(TEXT, judged))
            return
        for message in self._session.received(WireMessage(TEXT, text.encode()), self._world.now_ms):
            if message.opcode == TEXT:
                self._frames.extend(WireMessage(TEXT, said) for said in network.change_answers(message.payload))
            else:
                self._frames.append(message)

    def ping(self) -> None:
        self._check()
        self._session.received(WireMessage(PING, b""), self._world.now_ms)
        self._frames.append(WireMessage(PONG, b""))

    def close(self) -> None:
        self.is_closed = True
        self._session.ended()

    def _check(self) -> None:
        if self.is_lost:
            raise TransportError("the connection was lost")


class LiveWorld(World):
    """A World with streams."""

    def __init__(self, folder: Path, **given: Any) -> None:
        super().__init__(folder, **given)
        self.network = Network()
        self.events: list[Event] = []
        self.set_s = 0.0  # by how much this machine's clock was set
        self._chance = random.Random(1)

    @property
    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def wires(self, observe: Callable[[Event], None]) -> Wires:
        def connect(root: str, path: str, stop: Any, keys: Any, begun: Any) -> Conn:
            self.network.attempts.append(self.now_s)
            error = self.network.refuse(self.now_s)
            if error is not None:
                raise error
            return Conn(self, urllib.parse.urlsplit(root).path + path)

        def note(event: Event) -> None:
            self.events.append(event)
            observe(event)

        now_s = lambda: self.now_s  # noqa: E731
        wall_s = lambda: self.now_s + self.set_s  # noqa: E731
        return Wires(connect, now_s, wall_s, lambda stop, seconds: stop.is_set(), note, self._chance.random)

    def follow(self, symbols: list[str], timeframe: str, start: Any = None, **given: Any) -> Driver:
        fetcher = given.pop("fetcher", None) or self.fetcher(**given.pop("settings", {}))
        runtime = fetcher._runtime
        options = FollowOptions(timeframe, **given)
        wires = self.wires(runtime.observe)
        live = make_follow(runtime, fetcher._door, symbols, start, options, wires=wires, begins=False)
        return Driver(self, live)

    def watch(self, symbols: list[str], **given: Any) -> WatchDriver:
        settings = {"base_urls": self.exchange.base_urls, **given.pop("settings", {})}
        runtime = self.fetcher(**settings)._runtime
        wires = self.wires(runtime.observe)
        given = {"provider": None, "every_s": None, "max_age_s": 10, "to": (), **given}
        return WatchDriver(self, make_watch(runtime, symbols, **given, wires=wires, begins=False))


def shuffled(held: list[bytes], chance: random.Random) -> Iterable[bytes]:
    """Empty the list in a random order, and give one in ten of its frames twice."""
    chance.shuffle(held)
    while held:
        one = held.pop()
        yield one
        if chance.random() < 0.1:
            yield one


def step_lines(lines: Iterable[Line], most: int = 10_000) -> None:
    """Have the lines do what is to be done at this instant."""
    for line in lines:
        for _ in range(most):
            before = line.messages, line.connections
            if not line.is_over:
                line.step(0.0)
            if (line.messages, line.connections) == before:
                break


class WatchDriver:
    """A call of `watch`, stepped by one thread."""

    def __init__(self, world: LiveWorld, live: Any) -> None:
        self.world = world
        self.live = live
        self.watcher = live._core
        self.quotes: list[Quote] = []

    def step(self, *, reads: bool = True) -> None:
        """Do what is to be done at this instant; `reads`: the user's loop takes its items."""
        step_lines(self.live._streaming.lines)
        self.watcher.schedule(lambda work: work())
        while reads:
            self.watcher.say()
            found = self.watcher.next(0.0)
            if found is None and self.watcher._changed.empty():
                return
            self.quotes += [] if found is None else [found]

    def run(self, seconds: float, step_s: float = 0.5, *, reads: bool = True) -> list[Quote]:
        """Let the clock go on in steps, and return the quotes that came."""
        self.quotes = []
        ends_s = self.world.now_s + seconds
        while self.world.now_s < ends_s:
            self.world.now_s = min(ends_s, self.world.now_s + step_s)
            self.step(reads=reads)
        return self.quotes


class Driver:
    """A call of `follow`, stepped by one thread."""

    def __init__(self, world: LiveWorld, live: Any) -> None:
        self.world = world
        self.live = live
        self.follower = live._core
        self.lines = live._streaming.lines
        self.items: list[tuple[str, pd.DataFrame]] = []
        self.errors: list[BaseException] = []

    @property
    def stats(self) -> Any:
        return self.live.stats

    def step(self) -> None:
        """Do what is to be done at this instant, and take what was handed out."""
        self.work()
        self.take()

    def work(self) -> None:
        """Do what is to be done at this instant, while the user's loop is busy with something else."""
        step_lines(self.lines)
        self.follower.schedule(lambda work: work())

    def take(self) -> None:
        """Take what was handed out, as the user's loop does."""
        while True:
            try:
                self.follower.say()
                found = self.follower.next(0.0)
            except Exception as error:  # noqa: BLE001 - it is looked at by the test
                self.errors.append(error)
                continue
            if found is None:
                if self.follower._ready.empty() and not self.follower.has_said:
                    return
                continue
            self.items.append(found)

    def run(self, seconds: float, step_s: float = 0.5) -> None:
        """Let the clock go on in steps."""
        ends_s = self.world.now_s + seconds
        while self.world.now_s < ends_s:
            self.world.now_s = min(ends_s, self.world.now_s + step_s)
            self.step()

    def run_to(self, at_s: Iterable[float]) -> None:
        """Let the clock go on to those times."""
        for now_s in at_s:
            self.world.now_s = max(self.world.now_s, now_s)
            self.step()

    def opens(self, symbol: str) -> list[int]:
        """The open times of the closed candles that were yielded of the symbol, in order; not those yielded again."""
        found: list[int] = []
        for name, frame in self.items:
            if name == symbol and not ("is_revised" in frame and frame["is_revised"].all()):
                closed = frame[frame["is_closed"]] if "is_closed" in frame else frame
                found += index_ms(closed).tolist()
        return found

    def frame(self, symbol: str) -> pd.DataFrame:
        """All closed candles of the symbol, the last values of each."""
        frames = [frame for name, frame in self.items if name == symbol and len(frame)]
        frames = [frame[frame["is_closed"]] if "is_closed" in frame else frame for frame in frames]
        whole = pd.concat([frame[["open", "high", "low", "close", "volume"]] for frame in frames])
        return whole[~whole.index.duplicated(keep="last")].sort_index()
