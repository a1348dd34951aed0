"""What runs in a worker: one job after the other, with a fetcher that is kept for the next one."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from candle_fetcher.core.errors import CandleFetcherError, CandleFetcherWarning, WorkerError, collecting_warnings
from candle_fetcher.core.tracebacks import shorten
from candle_fetcher.workers.marker import Marker
from candle_fetcher.workers.parcel import pack_value
from candle_fetcher.workers.recipe import Recipe, this_machine

# Fetchers of other settings that a worker keeps.
_MOST_KEPT = 4
_EXIT_S = 5.0  # how long the end of a process waits for each kind of thread


class WorkerJob(NamedTuple):
    """A call for a worker: `work(fetcher, *arguments)`. The name is that of no other job, so that an executor that
    remembers results never answers with one. Once the marker is gone, the call is over."""

    name: str
    recipe: Recipe
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    marker: Marker | None = None


class Done(NamedTuple):
    """What came of a job: a value or an error, and the warnings, which are issued where the call was made."""

    value: Any = None
    error: Exception | None = None
    warnings: tuple[CandleFetcherWarning, ...] = ()


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text."""


def run_job(job: WorkerJob) -> Done:
    """Do the job in this process. An error is returned: one that is raised is the executor's."""
    value, failed = None, None  # type: Any, Exception | None
    marker = job.marker if job.recipe.machine == this_machine() else None
    if marker is not None and marker.is_gone():
        return Done(error=WorkerError("the call of this job is over"))
    with collecting_warnings() as warnings:
        try:
            with _fetchers.use(job.recipe) as fetcher:
                value = job.work(fetcher, *job.arguments)
        except CandleFetcherError as error:
            failed = shorten(error)
        except Exception as error:  # noqa: BLE001 - it is raised in the process that made the call
            failed = _sendable(error)
    if marker is not None and marker.is_near():
        value = pack_value(value, marker.path)
    return Done(value, failed, tuple(warnings))


def close_fetchers() -> None:
    """Close the fetchers of this process that were made for jobs; the next job makes another one."""
    _fetchers.close()


def _sendable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it cannot be pickled, with its traceback as an argument."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - of any class
        error = RuntimeError(f"{type(error).__name__}: {error}")
    vars(error)["_in_worker"] = text
    return error


class _WorkerFetchers:
    """The fetchers of this process, by recipe. They are closed when it ends, or when too many others are kept."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._users: collections.Counter[str] = collections.Counter()
        self._pid = 0
        self.reset()

    def reset(self) -> None:
        """Make another lock; in a forked process it may be held by a thread that is not there."""
        self._lock = threading.Lock()
        self._users.clear()

    @contextlib.contextmanager
    def use(self, recipe: Recipe) -> Iterator[Any]:
        """Give the fetcher of the recipe, for a block."""
        with self._lock:
            fetcher = self._kept.get(recipe.key)
            if fetcher is None:
                fetcher = self._kept[recipe.key] = recipe.make_fetcher()
            self._kept.move_to_end(recipe.key)
            self._users[recipe.key] += 1
            idle = [key for key in self._kept if not self._users[key]]
            ended = [self._kept.pop(key) for key in idle[: max(0, len(self._kept) - _MOST_KEPT)]]
            self._close_at_exit()
        for one in ended:
            one.close()
        try:
            yield fetcher
        finally:
            with self._lock:
                self._users[recipe.key] -= 1

    def _close_at_exit(self) -> None:
        """Have the fetchers closed when a process of multiprocessing ends: it does not run what `atexit` knows."""
        from multiprocessing import parent_process  # here: it takes 4 ms of an import that needs no process

        if self._pid != os.getpid() and parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, self.close, exitpriority=10)
        self._pid = os.getpid()

    def close(self) -> None:
        """Close all, as at the end of the process."""
        while self._kept:
            _, fetcher = self._kept.popitem()
            fetcher._runtime.close(_EXIT_S)


_fetchers = _WorkerFetchers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fetchers.reset)
