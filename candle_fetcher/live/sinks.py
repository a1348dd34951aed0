"""Where live calls write beside the user's loop: callables, Redis, SQL databases.

Each sink has a thread and a bounded queue of its own: one that is slow or fails delays neither the loop nor the others.
A write that fails is tried again with growing pauses; what does not fit into the queue meanwhile is dropped, the oldest
first, and counted.
"""

from __future__ import annotations

import inspect
import io
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from candle_fetcher.concurrency import CancelEvent, Wait, pause, start_thread
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
        self._batch: list[Any] = []  # what is being written
        self._has_items = CancelEvent()
        self._stop = CancelEvent()
        self.failures = self.written = 0
        self._dropped = 0
        self._is_over = False
        self.problem = ""
        self._thread: threading.Thread | None = None

    def put(self, item: Any) -> None:
        if self._thread is None:
            self._thread = start_thread("candle-sink", self._run)
        if len(self._items) >= MOST_ITEMS:
            self._items.popleft()
            self._dropped += 1
        self._items.append(item)
        self._has_items.set()

    def _run(self) -> None:
        pause_s, most_s = _PAUSES_S
        while not self._stop.is_set() or (self._items and not self.problem):
            batch = self._batch
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
            except BaseException as error:  # noqa: BLE001 - a sink is the user's, and may raise anything
                self.written += before - len(batch)
                self._fail(error)
                self._wait(self._stop, pause_s)
                pause_s = min(most_s, 2 * pause_s)
                if self._stop.is_set():
                    break
            else:
                self.written += before
                self._batch = []
                pause_s, self.problem = _PAUSES_S[0], ""
        self._is_over = True
        self.sink.close()

    def _fail(self, error: BaseException) -> None:
        self.failures += 1
        is_new = not self.problem
        self.problem = f"{type(error).__name__}: {str(error)[:160]}"
        if is_new:
            self._tell(f"the sink {self.sink!r} failed ({self.problem}); it is tried again")

    @property
    def left(self) -> int:
        """How many items are not written yet."""
        return len(self._items) + len(self._batch)

    @property
    def dropped(self) -> int:
        """How many items will not be written."""
        return self._dropped + (self.left if self._is_over else 0)

    def end(self) -> None:
        self._stop.set()
        self._has_items.set()

    def join(self, ends_s: float) -> None:
        if self._thread is None:
            self.sink.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(max(0.0, ends_s - time.monotonic()))


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
        """Hand an item to every sink: its frame is a copy, which neither the user's loop nor another sink changes."""
        for flow in self.flows:
            flow.put((item[0], item[1].copy()) if isinstance(item, tuple) else item)

    def close(self) -> None:
        """Write what is there, as far as that is quick, and end the threads."""
        for flow in self.flows:
            flow.end()
        ends_s = time.monotonic() + _END_S
        for flow in self.flows:
            flow.join(ends_s)

    def warn_of_left(self) -> None:
        """Warn of what was not written when the threads ended."""
        for flow in self.flows:
            if flow.left:
                what = f"the sink {flow.sink!r} has not written {flow.left:,} of its items at the end of the call"
                warn(CandleFetcherWarning(f"{what}; candles are in the cache, from where it can have them"))


def _sink_of(given: Any) -> Sink:
    functions = (given, type(given).__call__, getattr(given, "write", None))
    kinds = {"a class": isinstance(given, type), "a file": isinstance(given, io.IOBase)}
    kinds["asynchronous"] = any(map(inspect.iscoroutinefunction, functions))
    for kind, is_so in kinds.items():
        if is_so:
            raise InputError(f"to={shown(given)} is {kind}; expected a function, RedisSink, SqlSink, or a list of such")
    if callable(getattr(given, "write", None)) and callable(getattr(given, "close", None)):
        sink: Sink = given
        return sink
    if callable(given):
        return _Calling(given)
    raise InputError(f"to={shown(given)} is no sink; expected a callable, RedisSink, SqlSink, or a list of such")
