"""Executors as tests need them: one that sends everything by post, one that loses a job, one that never does any."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import pytest

METHODS = [name for name in ("fork", "spawn", "forkserver") if name in multiprocessing.get_all_start_methods()]
# A fork beside the threads of an exchange, which a user's program does not have.
of_forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def processes(method: str | None = None, count: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(method or METHODS[0]))


def kill_all(pool: ProcessPoolExecutor) -> None:
    for process in list(pool._processes.values()):
        os.kill(process.pid, signal.SIGKILL)


class Postal(Executor):
    """Does each job at once, in this process, as a worker would that gets it by post."""

    def __init__(self, workers: int = 2) -> None:
        self._max_workers = workers
        self.sent: list[bytes] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.sent.append(pickle.dumps((fn, args, kwargs)))
        work, arguments, words = pickle.loads(self.sent[-1])
        future.set_result(pickle.loads(pickle.dumps(work(*arguments, **words))))
        return future


class Stuck(Executor):
    """Never does a job."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


class Lost(Exception):
    """What an executor may fail with."""


class Losing(Postal):
    """Loses the job of one symbol, each time in another way."""

    def __init__(self, symbol: str, how: str) -> None:
        super().__init__()
        self.symbol, self.how = symbol, how

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.symbol not in repr(args):
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        if self.how == "refused":
            raise Lost("no room\nfor it")
        if self.how == "cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif self.how == "interrupted":
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_exception(Lost("a worker went away"))
        return future
