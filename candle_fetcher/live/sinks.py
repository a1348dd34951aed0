"""Where live calls write beside the user's loop: callables, Redis, SQL databases.

Each sink has a thread and a bounded queue of its own: one that is slow or fails delays neither the loop nor the others.
A write that fails is tried again with growing pauses; what does not fit into the queue meanwhile is dropped, the oldest
first, and counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from candle_fetcher.concurrency import Wait, pause, start_thread
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, shown, warn

MOST_ITEMS = 10_000
_PAUSES_S = (0.2, 30.0)
_LOOK_S = 0.5
# How long the end of a call waits for what is still to be written.
_END_S = 1.0


class Sink(Protocol):
    """Something that live calls write to. A callable is one, too."""

    def write(self, items: list[Any]) -> None:
        """Write the items, oldest first; raise any Exception where that fails, to be called again with them."""

    def close(self) -> None:
        """Free what the sink holds."""


class _Calling:
    """A callable as a sink: it is called once for each item."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def write(self, items: list[Any]) -> None:
        while items:
            self._function(items[0])
            del items[0]

    def close(self) -> None:
        pass

    def __repr__(self) -> str:
        return getattr(self._function, "__name__", repr(self._function))[:80]


class _Outflow:
    """The queue and the thread of one sink."""

    def __init__(self, sink: Sink, tell: Callable[[str], None], wait: Wait) -> None:
        self.sink = sink
        self._tell = tell
        self._wait = wait
        self._items: deque[Any] = deque()
        self._has_items = threading.Event()
        self._stop = threading.Event()
        self.failures = self.dropped = self.written = 0
        self.problem = ""
        self._thread: threading.Thread | None = None

    def put(self, item: Any) -> None:
        if self._thread is None:
            self._thread = start_thread("candle-sink", self._run)
        if len(self._items) >= MOST_ITEMS:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._has_items.set()

    def _run(self) -> None:
        pause_s, most_s = _PAUSES_S
        batch: list[Any] = []
        while not self._stop.is_set() or (self._items and not self.problem):
            if not batch:
                if not self._items:
                    self._has_items.wait(_LOOK_S)
                    self._has_items.clear()
                while self._items and len(batch) < 1000:
                    batch.append(self._items.popleft())
            if not batch:
                continue
            before = len(batch)
            try:
                self.sink.write(batch)
                batch = []
            except Exception as error:  # noqa: BLE001 - a sink is the user's, and may raise anything
                self._fail(error)
                self._wait(self._stop, pause_s)
                pause_s = min(most_s, 2 * pause_s)
                if self._stop.is_set():
                    break
            else:
                pause_s, self.problem = _PAUSES_S[0], ""
            self.written += before - len(batch)
        self.sink.close()

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        is_new = not self.problem
        self.problem = f"{type(error).__name__}: {str(error)[:160]}"
        if is_new:
            self._tell(f"the sink {self.sink!r} failed ({self.problem}); it is tried again")

    def close(self) -> None:
        self._stop.set()
        self._has_items.set()
        if self._thread is None:
            self.sink.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_END_S)


class Sinks:
    """The sinks of one live call. Raises InputError where `to` is neither a sink nor several.

    tell: has a function called with arguments in the user's loop, so that its warnings appear there.
    """

    def __init__(self, to: Any, wait: Wait = pause) -> None:
        each = list(to) if isinstance(to, list | tuple) else [to]
        self.tell: Callable[..., None] = lambda function, *arguments: function(*arguments)
        self.flows = [_Outflow(_sink_of(one), self._warn, wait) for one in each]

    def _warn(self, text: str) -> None:
        self.tell(warn, CandleFetcherWarning(text))

    @property
    def dropped(self) -> int:
        """How many items the sinks did not take."""
        return sum(flow.dropped for flow in self.flows)

    def put(self, item: Any) -> None:
        """Hand an item to every sink."""
        for flow in self.flows:
            flow.put(item)

    def close(self) -> None:
        """Write what is there, as far as that is quick, and end the threads."""
        for flow in self.flows:
            flow.close()


def _sink_of(given: Any) -> Sink:
    if callable(getattr(given, "write", None)) and callable(getattr(given, "close", None)):
        sink: Sink = given
        return sink
    if callable(given):
        return _Calling(given)
    raise InputError(f"to={shown(given)} is no sink; expected a callable, RedisSink, SqlSink, or a list of such")
