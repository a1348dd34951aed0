"""The work of a live call: pieces that can be broken off, and what they have for the user's loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from candle_fetcher.concurrency import CancelEvent
from candle_fetcher.concurrency.call import PublicCall
from candle_fetcher.core.events import Event
from candle_fetcher.live.stats import LiveStats

Result = TypeVar("Result")

# Warnings and log lines that wait for the user's loop.
_MOST_SAID = 1_000


class Base(Protocol):
    """What a fetcher has for every live call."""

    clock: Callable[[], float]
    is_closed: bool

    def observe(self, event: Event, /) -> None: ...
    def stop(self, scope: threading.Event, /) -> None: ...


class Work:
    """What the kinds of live calls have in common. Any thread may call its methods; `say` is for the user's loop."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._calls: set[PublicCall] = set()
        self._said: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque(maxlen=_MOST_SAID)
        self.stop = CancelEvent()
        self.stats = LiveStats()

    def run_call(self, work: Callable[[], Result]) -> Result:
        """Return the result of the work, which `end` breaks off. Its warnings are issued in the user's loop."""
        call = PublicCall(work)
        self._calls.add(call)
        if self.stop.is_set():
            call.stop.set()
        try:
            call.do()
        finally:
            self._calls.discard(call)
        item = call.outbox.get()
        while isinstance(item, tuple):
            self._said.append(item)
            item = call.outbox.get()
        if item.error is not None:
            raise item.error
        result: Result = item.value
        return result

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the function called in the user's loop."""
        self._said.append((function, arguments))

    def raise_later(self, error: BaseException) -> None:
        """Have the user's loop raise the error."""
        self.tell(_raise, error)

    def say(self) -> None:
        """Do what waits for the user's loop: warnings, log lines, errors."""
        while self._said:
            function, arguments = self._said.popleft()
            function(*arguments)

    @property
    def has_said(self) -> bool:
        """Return whether something waits for the user's loop."""
        return bool(self._said)

    def end(self) -> None:
        """Break off what is under way."""
        self.stop.set()
        for call in list(self._calls):
            call.stop.set()
            for scope in list(call.scopes):
                self._base.stop(scope)


def _raise(error: BaseException) -> None:
    raise error
