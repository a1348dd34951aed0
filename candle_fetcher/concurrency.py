"""Threads of this library, waits that can be cancelled, and work that several threads want once.

Python runs signal handlers in the main thread alone, between any two of its steps. So whatever must not be left half
done, and whatever takes a lock, runs in a thread started here; the thread that called waits for it and holds nothing.
Finalizers and callbacks of the garbage collector run in any thread: `is_ours` recognizes those that hold locks.
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

K = TypeVar("K")
V = TypeVar("V")

_here = threading.local()


def is_ours() -> bool:
    """Whether the calling thread is one of this library's, which may hold any of its locks."""
    return getattr(_here, "is_ours", False)


def mark_ours(value: bool = True) -> bool:
    """Mark the calling thread as one of this library's, or not; the mark before."""
    before = is_ours()
    _here.is_ours = value
    return before


def start_thread(name: str, work: Callable[[], object]) -> threading.Thread | None:
    """Run the work in a daemon thread of this library. None where no thread can be started: there are too many, or the
    interpreter is ending."""

    def run() -> None:
        mark_ours()
        work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


class Stop(threading.Event):
    """An event whose methods take no lock, so that a signal handler or a finalizer may interrupt any of them and call
    another one."""

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
    """Wait so many seconds, or until `stop` is set; whether it is set."""
    return stop.wait(seconds)


class Cancel(Protocol):
    """What says that something is not wanted any more: an Event, or what is asked as one is."""

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
    """The futures, each once it is done. Raises CancelledError once `cancel` is set."""
    left = set(futures)
    while left:
        if cancel.is_set():
            raise CancelledError
        done, left = wait(left, timeout=POLL_S, return_when=FIRST_COMPLETED)
        yield from done


class SingleFlight(Generic[K, V]):
    """Makes a value once for all threads that want it at the same time.

    `run` does all of it, and `turn` lets one thread at a time into a block. Where the value is made in another thread
    than the one that began, or its key is to stay taken for longer: `begin`, then `make`, or `end` and the outcome.
    """

    def __init__(self) -> None:
        self._flights: dict[K, Future[V]] = {}

    def run(self, key: K, make: Callable[[], V], cancel: Cancel) -> V:
        """The value that `make` returns, made by the first thread that asks for the key; the others wait for it.

        An error is raised in all of them. Where the maker was cancelled, the next of them makes the value. Raises
        CancelledError once `cancel` is set.
        """
        while True:
            is_mine, flight = self.begin(key)
            if is_mine:
                return self.make(key, make, flight)
            wait_for([flight], cancel)
            with suppress(CancelledError):
                return flight.result()

    @contextmanager
    def turn(self, key: K, cancel: Cancel) -> Iterator[None]:
        """Hold the key for a block, once no other thread does. Raises CancelledError once `cancel` is set."""
        while True:
            is_mine, flight = self.begin(key)
            if is_mine:
                break
            wait_for([flight], cancel)
        try:
            yield
        finally:
            self.end(key)
            flight.set_exception(CancelledError())  # there is no value: the next thread takes its turn

    def begin(self, key: K) -> tuple[bool, Future[V]]:
        """Whether the calling thread is to make the value, and the future that the others wait for."""
        mine: Future[V] = Future()
        flight = self._flights.setdefault(key, mine)
        return flight is mine, flight

    def make(self, key: K, make: Callable[[], V], flight: Future[V]) -> V:
        """Make the value of a flight that began, for the threads that wait too. Raises what `make` raises."""
        try:
            value = make()
        except BaseException as error:
            self.end(key)
            flight.set_exception(error if isinstance(error, Exception) else CancelledError())
            raise
        self.end(key)
        flight.set_result(value)
        return value

    def end(self, key: K) -> None:
        """Free the key: the next thread that asks for it begins a flight of its own."""
        self._flights.pop(key, None)
