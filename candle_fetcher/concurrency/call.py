"""A public call under way: its parts in several threads, and what they have for the thread that made it."""

from __future__ import annotations

import contextvars
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from candle_fetcher.concurrency import CancelEvent

_here = threading.local()


class Outcome:
    """The value of a call, or the error that it ended with."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class PublicCall:
    """One public call under way: its work, its scopes, and what it has for the caller's thread. No method takes a
    lock."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop = CancelEvent()
        self.is_over = False  # nothing that is put into the outbox is done any more
        self.scopes: list[threading.Event] = []
        self.requests: list[None] | None = getattr(_here, "requests", None)  # an item for each, where they are counted
        context: Any = contextvars.copy_context()
        self._work: list[Callable[[], Any]] = [functools.partial(context.run, work)]  # until a thread takes it

    def join(self, scope: threading.Event) -> None:
        """Have the scope end when the call does."""
        self.scopes.append(scope)
        if self.stop.is_set():
            scope.set()

    def do(self, ready: Callable[[], object] = lambda: None) -> None:
        """Do the work in the calling thread, as a part of this call; nothing where another thread has begun it.

        `ready` is called after the work, before the caller gets the outcome.
        """
        try:
            work = self._work.pop()
        except IndexError:
            return
        with self.entered():
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                self.is_over = True
                ready()
                self.outbox.put(Outcome(None, error))
            else:
                self.is_over = True
                ready()
                self.outbox.put(Outcome(value))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Mark the calling thread as one that works for this call, for a block."""
        before, _here.call = current_call(), self
        try:
            yield
        finally:
            _here.call = before


def current_call() -> PublicCall | None:
    """Return the public call that the calling thread works for."""
    return getattr(_here, "call", None)


@contextmanager
def counting_requests() -> Iterator[list[None]]:
    """Give a list that grows by an item with each request sent for public calls that this thread makes in a block."""
    _here.requests = requests = list[None]()
    try:
        yield requests
    finally:
        _here.requests = None


def count_request() -> None:
    """Note that a request was sent for the public call that the calling thread works for."""
    call = current_call()
    if call is not None and call.requests is not None:
        call.requests.append(None)


def tell_caller(function: Callable[..., object], *arguments: object) -> None:
    """Have the function called in the thread that made the public call; here, where no thread waits for it."""
    call = current_call()
    if call is None or call.is_over or call.stop.is_set():
        function(*arguments)
    else:
        call.outbox.put((function, arguments))
