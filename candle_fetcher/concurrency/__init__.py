"""Threads of this library, waits that can be cancelled, and values that several threads need once.

Python runs signal handlers in the main thread alone, between any two of its steps. Work that must not be left half
done, or that takes a lock, runs in a thread started here; the calling thread waits for it and holds nothing.
Finalizers and callbacks of the garbage collector run in any thread: `is_ours` recognizes the threads that hold locks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

POLL_S = 0.05  # how often a wait looks whether it is cancelled
_SLICE_S = 1.0  # a `set` that an exception cut short is noticed within this time

# Waits for so many seconds, or until the event is set; returns whether it is set.
Wait = Callable[[threading.Event, float], bool]

K = TypeVar("K")
V = TypeVar("V")

_here = threading.local()


class _Thread(threading.Thread):
    """A thread of this library. Its class marks it before its work begins: a garbage collector's callback may run
    as early as that."""


def is_ours() -> bool:
    """Return whether the calling thread is one of this library's, which may hold any of its locks."""
    return getattr(_here, "is_ours", False) or isinstance(threading.current_thread(), _Thread)


def mark_ours(value: bool = True) -> bool:
    """Mark the calling thread as one that works for this library, or not. Return the mark before."""
    before = getattr(_here, "is_ours", False)
    _here.is_ours = value
    return before


def start_thread(name: str, work: Callable[[], object]) -> threading.Thread | None:
    """Run the work in a daemon thread of this library, and return the thread.

    Return None where no thread can be started: there are too many, or the interpreter is ending.
    """

    thread = _Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


class CancelEvent(threading.Event):
    """An event without a lock, so that a signal handler or a finalizer may interrupt any method and call another."""

    def __init__(self) -> None:
        super().__init__()
        self._has_come = False
        self._sleepers: deque[threading.Lock] = deque()  # each is released to wake its thread

    def is_set(self) -> bool:
        return self._has_come

    def set(self) -> None:
        self._has_come = True
        with suppress(IndexError):
            while True:
                self._sleepers.popleft().release()

    def clear(self) -> None:
        self._has_come = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._has_come:
            return True
        ends_s = None if timeout is None else time.monotonic() + timeout
        sleeper = threading.Lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        while not self._has_come:
            left_s = _SLICE_S if ends_s is None else min(_SLICE_S, ends_s - time.monotonic())
            if left_s <= 0 or sleeper.acquire(timeout=left_s):
                break
        with suppress(ValueError, IndexError):
            self._sleepers.remove(sleeper)
        return self._has_come


def pause(stop: threading.Event, seconds: float) -> bool:
    """Wait so many seconds, or until `stop` is set; return whether it is set."""
    return stop.wait(seconds)


class Cancel(Protocol):
    """Cancels a wait once it is set: an Event, or an object with the same question."""

    def is_set(self) -> bool: ...


def wait_for(futures: Iterable[Future[Any]], cancel: Cancel, *, timeout_s: float | None = None) -> None:
    """Wait until all futures are done. Raises CancelledError once `cancel` is set, TimeoutError after `timeout_s`
    seconds."""
    left: Collection[Future[Any]] = list(futures)
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    while not cancel.is_set():
        left = wait(left, timeout=POLL_S).not_done
        if not left:
            return
        if ends_s is not None and time.monotonic() >= ends_s:
            raise TimeoutError
    raise CancelledError


def as_done(futures: Iterable[Future[V]], cancel: Cancel) -> Iterator[Future[V]]:
    """Yield the futures, each once it is done. Raises CancelledError once `cancel` is set."""
    left = set(futures)
    while left:
        if cancel.is_set():
            raise CancelledError
        done, left = wait(left, timeout=POLL_S, return_when=FIRST_COMPLETED)
        yield from done


class SingleFlight(Generic[K, V]):
    """Makes a value once for all threads that need it at the same time.

    `run` does all of it, and `turn` lets one thread at a time into a block. Where another thread makes the value than
    the one that began, or its key stays taken for longer: `begin`, then `make`, or `end` and the result of the future.
    """

    def __init__(self) -> None:
        self._pending: dict[K, Future[V]] = {}

    def run(self, key: K, make: Callable[[], V], cancel: Cancel) -> V:
        """Return the value of `make`, which the first thread that needs the key calls; the others wait for it.

        An error is raised in all of them. Where the maker was cancelled, the next of them makes the value. Raises
        CancelledError once `cancel` is set.
        """
        while True:
            is_mine, future = self.begin(key)
            if is_mine:
                return self.make(key, make, future)
            wait_for([future], cancel)
            with suppress(CancelledError):
                return future.result()

    @contextmanager
    def turn(self, key: K, cancel: Cancel) -> Iterator[None]:
        """Hold the key for a block, once no other thread does. Raises CancelledError once `cancel` is set."""
        while True:
            is_mine, future = self.begin(key)
            if is_mine:
                break
            wait_for([future], cancel)
        try:
            yield
        finally:
            self.end(key)
            future.set_exception(CancelledError())  # there is no value: the next thread takes its turn

    def begin(self, key: K) -> tuple[bool, Future[V]]:
        """Return whether the calling thread is to make the value, and the future that the others wait for."""
        mine: Future[V] = Future()
        future = self._pending.setdefault(key, mine)
        return future is mine, future

    def make(self, key: K, make: Callable[[], V], future: Future[V]) -> V:
        """Make the value, after `begin`, for the threads that wait too. Raises what `make` raises."""
        try:
            value = make()
        except BaseException as error:
            self.end(key)
            future.set_exception(error if isinstance(error, Exception) else CancelledError())
            raise
        self.end(key)
        future.set_result(value)
        return value

    def end(self, key: K) -> None:
        """Free the key: the next thread that needs it begins again."""
        self._pending.pop(key, None)
