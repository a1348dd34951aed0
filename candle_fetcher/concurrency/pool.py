"""A pool of daemon threads. A job is a part of the public call that submits it."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import nullcontext, suppress
from functools import partial
from operator import itemgetter
from typing import ParamSpec, TypeVar

from candle_fetcher.concurrency import start_thread
from candle_fetcher.concurrency.call import PublicCall, current_call

P = ParamSpec("P")
Item = TypeVar("Item")
Done = TypeVar("Done")


class ThreadPool(Executor):
    """Runs jobs in at most `size` daemon threads, started as they are needed and named `candle-NAME-N`.

    Where the system gives fewer threads, those that run do all of the work; where it gives none, `submit` does.
    Unlike an executor of the standard library it neither ends with the main thread nor holds the end of the program.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle: deque[None] = deque()  # an item for each thread that waits for a job
        self._threads: list[threading.Thread] = []
        self._starting = 0
        self._is_closed = False
        self._lock = threading.RLock()

    def submit(self, fn: Callable[P, Done], /, *args: P.args, **kwargs: P.kwargs) -> Future[Done]:
        """Hand the job over. Raises CancelledError where the pool is closed."""
        future: Future[Done] = Future()
        job = partial(_run, future, current_call(), partial(fn, *args, **kwargs))
        with self._lock:
            if self._is_closed:
                raise CancelledError
            self._jobs.put(job)
            number = self._number_of_new()
        if number is not None:
            self._start(number)
        with suppress(queue.Empty):
            while not self._threads:  # none could be started, or the first one is on its way
                alone = self._jobs.get_nowait()
                if alone is None:  # it ends a thread that has started meanwhile, in a pool that is being closed
                    self._jobs.put(None)
                    break
                alone()
        return future

    def spread(self, work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
        """Return the results of the work for the items, in order, by no more threads than this machine has cores.

        More of them would wait for the interpreter by turns. The calling thread is one of them, and begins while the
        others start. Raises the first error, once every thread has ended; CancelledError where the pool is closed.
        """
        if self._is_closed:
            raise CancelledError
        left = deque(enumerate(items))
        done: list[tuple[int, Done]] = []

        def take() -> None:
            while left:
                try:
                    at, item = left.popleft()
                except IndexError:  # another thread took the last one
                    return
                done.append((at, work(item)))

        jobs = [self.submit(take) for _ in range(min(len(left), os.cpu_count() or 1) - 1)]
        try:
            take()
        finally:
            wait(jobs)
        for job in jobs:
            job.result()
        return [result for _, result in sorted(done, key=itemgetter(0))]

    def _number_of_new(self) -> int | None:
        """Return the number of a thread that is to be started; None where one is idle, or there are enough."""
        with suppress(IndexError):
            self._idle.pop()
            return None
        number = len(self._threads) + self._starting
        if number >= self._size:
            return None
        self._starting += 1
        return number

    def _start(self, number: int) -> None:
        # Without the lock: a finalizer may run in the new thread before its work begins, and may make any call.
        thread = start_thread(f"candle-{self._name}-{number}", self._work)
        with self._lock:
            self._starting -= 1
            if thread is not None:
                self._threads.append(thread)
                if self._is_closed:
                    self._jobs.put(None)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._idle.append(None)
                job = self._jobs.get()
            if job is None:
                return
            job()
            del job  # what it holds may be large, and the next one may be long in coming

    def close(self, *, cancels: bool, patience_s: float | None = None) -> None:
        """Do what is queued, or cancel it, and end the threads; each is waited for, at most `patience_s` in all."""
        with self._lock:
            self._is_closed = True
            threads = list(self._threads)
            with suppress(queue.Empty):
                while cancels:
                    job = self._jobs.get_nowait()
                    if job is not None:
                        job.args[0].cancel()  # type: ignore[attr-defined]
            for _ in threads:
                self._jobs.put(None)
        ends_s = None if patience_s is None else time.monotonic() + patience_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if ends_s is None else max(0.0, ends_s - time.monotonic()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.close(cancels=cancel_futures, patience_s=None if wait else 0.0)


def _run(future: Future[Done], call: PublicCall | None, work: Callable[[], Done]) -> None:
    """Do the work as a part of the call, if there is one: its warnings are issued in the caller's thread."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        with nullcontext() if call is None else call.entered():
            done = work()
    except BaseException as error:  # noqa: BLE001 - it is raised again where the future is waited for
        future.set_exception(error)
        del future  # else the error's traceback leads to this frame, and this frame to the error
    else:
        future.set_result(done)
