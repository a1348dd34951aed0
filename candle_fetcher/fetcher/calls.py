"""Public calls. A thread of the library does each one, while the thread that called waits and holds nothing.

A signal handler runs in the main thread, wherever that is: here it waits. So an exception out of a handler leaves no
lock taken and nothing half done, and a handler may make any call of its own. What is for the caller's own thread goes
back to it: progress, warnings and log lines, as they come, and then the result or the error.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from candle_fetcher.concurrency import POLL_S, is_ours, mark_ours, start_thread
from candle_fetcher.concurrency.call import Outcome, PublicCall, tell_caller
from candle_fetcher.core.errors import CandleFetcherError, completing_errors, deliver_warnings_by, shown
from candle_fetcher.core.events import Failed
from candle_fetcher.core.keywords import check_arguments, names_of
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.fetcher.ready import call_key, find_ready
from candle_fetcher.files.outputs import hand_over
from candle_fetcher.sources import CallScope

if TYPE_CHECKING:
    import pandas as pd

    from candle_fetcher.typed import FetchCall

# How long an interrupted caller waits for the call to end, so that what has arrived is stored.
_LEAVE_S = 0.4
_END: Any = object()

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class _Worker:
    """A thread that does one call after another."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[PublicCall | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


class Calls:
    """The public calls of one fetcher; `stop` ends a scope, from any thread and without a lock."""

    def __init__(self, stop: Callable[[threading.Event], None]) -> None:
        self._stop = stop
        self._idle: list[_Worker] = []
        self._workers: list[_Worker] = []
        self._is_closed = False
        self._pid = os.getpid()

    def run(self, work: Callable[[], T], *scopes: CallScope) -> T:
        """Return what the work returns, done by another thread. An exception that interrupts the wait ends the call.

        Raises CandleFetcherError in a thread of ours, which may hold what the work needs.
        """
        refuse_own_threads()
        call = PublicCall(work)
        for scope in scopes:
            call.join(scope)
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

    def each(self, items: Iterator[T], scope: CallScope) -> Iterator[T]:
        """Yield the items, each of which is made by another thread."""
        while True:
            item = self.run(lambda: next(items, _END), scope)
            if item is _END:
                return
            yield item
            del item  # it is freed before the next one is made

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

    def _hand_over(self, call: PublicCall) -> _Worker:
        """Return the thread that is to do the call."""
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
            # Idle before the outcome is out: the caller's next call finds this worker, and starts no other one.
            call.do(functools.partial(self._idle.append, worker))
            del call
            if self._is_closed:
                return

    def _wait(self, call: PublicCall, worker: _Worker) -> Outcome:
        """Return the outcome, once all that came before it has been done here."""
        outcome = None
        while outcome is None:
            try:
                outcome = _receive(call, POLL_S)
            except queue.Empty:
                if os.getpid() != self._pid:
                    raise CandleFetcherError(
                        "this process was forked during a call of its parent and lacks the parent's threads; make the "
                        "call again"
                    ) from None
                if worker.thread is not None and not worker.thread.is_alive():  # it was closed just then
                    _do_here(call)
        return outcome

    def _end(self, call: PublicCall) -> None:
        """Stop the call, and wait a moment for it."""
        call.stop.set()
        for scope in list(call.scopes):
            self._stop(scope)
        ends_s, outcome = time.monotonic() + _LEAVE_S, None
        with suppress(queue.Empty):
            while outcome is None and os.getpid() == self._pid:
                outcome = _receive(call, max(0.0, ends_s - time.monotonic()))


def refuse_own_threads() -> None:
    """Raise CandleFetcherError in a thread of ours, which may hold what a call needs."""
    if is_ours():
        raise CandleFetcherError(
            "a finalizer, a callback of the garbage collector or a provider's function made this call in a thread "
            "of a CandleFetcher, where it could wait for itself; make the call from a thread of your own"
        )


def _receive(call: PublicCall, timeout_s: float) -> Outcome | None:
    """Return the outcome of the call, if it comes next; else do what came for this thread. Raises queue.Empty."""
    item = call.outbox.get(timeout=timeout_s)
    if isinstance(item, Outcome):
        return item
    function, arguments = item
    function(*arguments)
    return None


def _do_here(call: PublicCall) -> None:
    """Do the call in the calling thread, where no other can be started. What a signal handler or a finalizer calls
    meanwhile is refused."""
    before = mark_ours()
    try:
        call.do()
    finally:
        mark_ours(before)


def public_call(method: F) -> F:
    """Decorate a public call of a fetcher: another thread does it while the caller's waits.

    A keyword that it does not have is an UnknownArgument. A call that fails is reported to the listeners, and its error
    has a short traceback.
    """
    return checked_call(_done_by_a_thread(method))


def frame_call(method: Callable[..., pd.DataFrame]) -> FetchCall:
    """Decorate a public call that answers with a frame: where the same call was made before and its frame is final, it
    is handed out at once, in the calling thread, as `output` says. As `public_call` otherwise."""
    checked = _checked(_done_by_a_thread(method))

    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        key = call_key(args, kwargs)
        runtime = self._runtime
        frame = None if key is None else find_ready(runtime, key)
        if frame is None:
            epoch = runtime.epoch
            frame = checked(self, *args, **kwargs)
            if key is not None:
                runtime.ready_frames.keep(key, frame, epoch)
        if "output" in kwargs or "with_manifest" in kwargs:
            return hand_over(frame, kwargs.get("output", "pandas"), kwargs.get("with_manifest", False))
        return frame

    return cast("FetchCall", short_errors(called))


def _done_by_a_thread(method: F) -> F:
    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._runtime.calls.run(functools.partial(method, self, *args, **kwargs))

    return cast(F, called)


def checked_call(method: F) -> F:
    """Decorate a public call that hands its own parts to threads; as `public_call` otherwise."""
    return short_errors(_checked(method))


def _checked(method: F) -> F:
    names = names_of(method)
    known = frozenset(names)

    @functools.wraps(method)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        with completing_errors(lambda: self._runtime.about(names, {**dict(zip(names, args, strict=False)), **kwargs})):
            if not known.issuperset(kwargs):
                check_arguments(f"{method.__name__}()", kwargs, names)
            began = time.perf_counter()
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                about = " ".join(shown(value).strip("'") for value in args[:2])
                reason = f"{type(error).__name__}: {error}"
                self._runtime.observe(Failed(method.__name__, about, time.perf_counter() - began, reason))
                raise

    return cast(F, called)


deliver_warnings_by(tell_caller)
