"""The thread pools of a fetcher: network, disk, and files of an archive. No thread of them outlives the program."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from candle_fetcher.concurrency import start_thread
from candle_fetcher.core.events import Busy, Observe
from candle_fetcher.fetcher.calls import Call, current_call

# Files of an archive are unpacked and read by few threads: more are slower, since they wait for each other's Python,
# and each of them keeps some 30 MB that it worked with.
_FILE_THREADS = 2

P = ParamSpec("P")
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
        work = partial(fn, *args, **kwargs)
        call = current_call()
        job = partial(_run, future, work if call is None else partial(_work_for, call, work))
        with self._lock:
            if self._is_closed:
                raise CancelledError
            self._jobs.put(job)
            number = self._number_of_new()
        if number is not None:
            self._start(number)
        if not self._threads:
            with suppress(queue.Empty):
                while (alone := self._jobs.get_nowait()) is not None:
                    alone()
        return future

    def _number_of_new(self) -> int | None:
        """The number of a thread that is to be started; None where one is idle, or there are enough."""
        with suppress(IndexError):
            self._idle.pop()
            return None
        number = len(self._threads) + self._starting
        if number >= self._size:
            return None
        self._starting += 1
        return number

    def _start(self, number: int) -> None:
        # Without the lock: a finalizer may run in the new thread before its work begins, and call whatever it likes.
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


def _work_for(call: Call, work: Callable[[], Done]) -> Done:
    """Do the work as a part of the call: its warnings are issued in the caller's thread."""
    with call.entered():
        return work()


def _run(future: Future[Done], work: Callable[[], Done]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        done = work()
    except BaseException as error:  # noqa: BLE001 - it is raised again for whatever waits for the future
        future.set_exception(error)
        del future  # else the error's traceback leads to this frame, and this frame to the error
    else:
        future.set_result(done)


class Pools:
    """The thread pools, made when first used; threads are named candle-network-N, candle-io-N and candle-files-N."""

    def __init__(self, network_threads: int, io_threads: int) -> None:
        self.sizes = {"network": network_threads, "io": io_threads, "files": _FILE_THREADS}
        self._pools = {name: ThreadPool(name, size) for name, size in self.sizes.items()}

    def network(self) -> ThreadPool:
        return self._pools["network"]

    def io(self) -> ThreadPool:
        return self._pools["io"]

    def files(self) -> ThreadPool:
        return self._pools["files"]

    def close(self, patience_s: float | None = None) -> None:
        """End the threads: of the network first, whose last work may still have something to store. What is to be
        stored is stored. A second call waits as well."""
        for name, pool in self._pools.items():
            pool.close(cancels=name == "network", patience_s=patience_s)


class Timed:
    """Reports how long a worker of a pool was busy."""

    __slots__ = ("_began", "_observe", "_pool")

    def __init__(self, observe: Observe, pool: str) -> None:
        self._observe = observe
        self._pool = pool

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._observe(Busy(self._pool, time.perf_counter() - self._began))
