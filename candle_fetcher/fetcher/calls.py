"""Public calls: each is done by a thread of ours, while the thread that called waits and holds nothing.

A signal handler runs in the main thread, wherever that is: here it waits. So an exception out of a handler leaves no
lock taken and nothing half done, and a handler may make any call of its own. What is for the caller's own thread goes
back to it: progress, warnings and log lines, as they come, and then the result or the error.
"""

from __future__ import annotations

import contextvars
import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from candle_fetcher.concurrency import POLL_S, Stop, is_ours, mark_ours, start_thread
from candle_fetcher.core.errors import CandleFetcherError, completing_errors, deliver_warnings_by, shown
from candle_fetcher.core.events import Failed
from candle_fetcher.fetcher.arguments import check_arguments, names_of
from candle_fetcher.fetcher.ready import call_key
from candle_fetcher.sources import Errand

# How long a caller who was interrupted waits for the call to end, so that what has come is stored.
_LEAVE_S = 0.4
_END: Any = object()

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_here = threading.local()


class _Outcome:
    """What came of a call: its value, or the error that it ended with."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Call:
    """One public call under way: its work, its errands, and what it has for the caller's thread. No method takes a
    lock."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop = Stop()
        self.is_over = False  # nothing that is put into the outbox is done any more
        self.errands: list[Errand] = []
        context: Any = contextvars.copy_context()
        self._work: list[Callable[[], Any]] = [functools.partial(context.run, work)]  # until a thread takes it

    def join(self, errand: Errand) -> None:
        """The errand ends when the call does."""
        self.errands.append(errand)
        if self.stop.is_set():
            errand.set()

    def do(self) -> None:
        """Do the work in the calling thread, as a part of this call; nothing where another thread has begun it."""
        try:
            work = self._work.pop()
        except IndexError:
            return
        with self.entered():
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                self.is_over = True
                self.outbox.put(_Outcome(None, error))
            else:
                self.is_over = True
                self.outbox.put(_Outcome(value))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread works for this call."""
        before, _here.call = current_call(), self
        try:
            yield
        finally:
            _here.call = before


class _Worker:
    """A thread that does one call after another."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    @property
    def has_ended(self) -> bool:
        return self.thread is not None and not self.thread.is_alive()


class Calls:
    """The public calls of one fetcher; `stop` ends an errand, from any thread and without a lock."""

    def __init__(self, stop: Callable[[Errand], None]) -> None:
        self._stop = stop
        self._idle: list[_Worker] = []
        self._workers: list[_Worker] = []
        self._is_closed = False
        self._pid = os.getpid()

    def run(self, work: Callable[[], T], *errands: Errand) -> T:
        """What the work returns, done by another thread. An exception that interrupts the wait ends the call.

        Raises CandleFetcherError in a thread of ours, which may hold what the work needs.
        """
        if is_ours():
            raise CandleFetcherError(
                "this call came out of a finalizer, a callback of the garbage collector or a provider's function, in a "
                "thread at work for a CandleFetcher, where it might wait for itself; make it from a thread of your own"
            )
        call = Call(work)
        for errand in errands:
            call.join(errand)
        try:
            outcome = self._wait(call, self._hand_over(call))
        except BaseException:
            self._end(call)
            raise
        if outcome.error is not None:
            try:
                raise outcome.error
            finally:
                del outcome  # else the error's traceback leads to this frame, and this frame to the error
        value: T = outcome.value
        return value

    def each(self, items: Iterator[T], errand: Errand) -> Iterator[T]:
        """The items, each of which is made by another thread."""
        while (item := self.run(lambda: next(items, _END), errand)) is not _END:
            yield item

    def close(self, patience_s: float | None = None) -> None:
        """End the threads; later calls are done by the thread that makes them."""
        self._is_closed = True
        workers = list(self._workers)
        for worker in workers:
            worker.inbox.put(None)
        ends_s = None if patience_s is None else time.monotonic() + patience_s
        for worker in workers:
            if worker.thread is not None and worker.thread is not threading.current_thread():
                worker.thread.join(None if ends_s is None else max(0.0, ends_s - time.monotonic()))

    def _hand_over(self, call: Call) -> _Worker:
        """The thread that is to do the call."""
        while not self._is_closed:
            try:
                worker = self._idle.pop()
            except IndexError:
                break
            worker.inbox.put(call)
            return worker
        worker = _Worker()
        worker.inbox.put(call)
        work = functools.partial(self._work, worker)
        if self._is_closed or start_thread("candle-call", work) is None:
            _do_here(call)
        return worker

    def _work(self, worker: _Worker) -> None:
        # Noted here, where no signal comes in between.
        worker.thread = threading.current_thread()
        self._workers.append(worker)
        while (call := worker.inbox.get()) is not None:
            call.do()
            del call
            if self._is_closed:
                return
            self._idle.append(worker)

    def _wait(self, call: Call, worker: _Worker) -> _Outcome:
        """The outcome, once all that came before it has been done here."""
        while True:
            try:
                item = call.outbox.get(timeout=POLL_S)
            except queue.Empty:
                if os.getpid() != self._pid:
                    raise CandleFetcherError(
                        "this process was forked inside a call of its parent, whose threads it does not have; make the "
                        "call again"
                    ) from None
                if worker.has_ended:  # it was closed just then
                    _do_here(call)
                continue
            if isinstance(item, _Outcome):
                return item
            function, arguments = item
            function(*arguments)

    def _end(self, call: Call) -> None:
        """Stop the call, and wait a moment for it."""
        call.stop.set()
        for errand in list(call.errands):
            self._stop(errand)
        ends_s = time.monotonic() + _LEAVE_S
        with suppress(queue.Empty):
            while os.getpid() == self._pid:
                item = call.outbox.get(timeout=max(0.0, ends_s - time.monotonic()))
                if isinstance(item, _Outcome):
                    return
                function, arguments = item
                function(*arguments)


def _do_here(call: Call) -> None:
    """Do the call without a thread of its own: none is to be had. What a signal handler or a finalizer calls meanwhile
    is refused."""
    before = mark_ours()
    try:
        call.do()
    finally:
        mark_ours(before)


def public_call(method: F) -> F:
    """Decorate a public call of a fetcher: another thread does it while the caller's waits.

    A keyword that it does not have is an UnknownArgument. A call that fails is reported to the listeners.
    """
    return checked_call(_done_by_a_thread(method), names_of(method))


def ready_first(method: F) -> F:
    """Decorate a public call that answers with a frame: where the same call was made before and its frame is final, it
    is handed out at once, in the calling thread."""

    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        key = call_key(args, kwargs)
        if key is None:
            return method(self, *args, **kwargs)
        frame = self._find_ready(key)
        if frame is None:
            epoch = self._epoch
            frame = method(self, *args, **kwargs)
            self._ready_frames.keep(key, frame, epoch)
        return frame

    return cast(F, called)


def passing_to(other: Callable[..., Any]) -> Callable[[F], F]:
    """Decorate a public call that passes keywords on to another one, for each symbol."""

    def decorate(method: F) -> F:
        own = names_of(method)
        allowed = own + [name for name in names_of(other) if name not in ("symbol", *own)]
        return checked_call(_done_by_a_thread(method), allowed)

    return decorate


def _done_by_a_thread(method: F) -> F:
    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._calls.run(functools.partial(method, self, *args, **kwargs))

    return cast(F, called)


def checked_call(method: F, allowed: Sequence[str] = ()) -> F:
    """Decorate a public call that hands its own parts to threads; as `public_call` otherwise."""
    own = names_of(method)
    names = list(allowed) or own
    known = frozenset(names)

    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        with completing_errors(lambda: self._about(names, {**dict(zip(own, args, strict=False)), **kwargs})):
            if not known.issuperset(kwargs):
                check_arguments(f"{method.__name__}()", kwargs, names)
            began = time.perf_counter()
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                about = " ".join(shown(value).strip("'") for value in args[:2])
                reason = f"{type(error).__name__}: {error}"
                self._observe(Failed(method.__name__, about, time.perf_counter() - began, reason))
                raise

    return cast(F, called)


def current_call() -> Call | None:
    """The public call that the calling thread works for."""
    return getattr(_here, "call", None)


def tell_caller(function: Callable[..., object], *arguments: object) -> None:
    """Have the function called in the thread that made the public call; here, where no thread waits for it."""
    call = current_call()
    if call is None or call.is_over or call.stop.is_set():
        function(*arguments)
    else:
        call.outbox.put((function, arguments))


deliver_warnings_by(tell_caller)
