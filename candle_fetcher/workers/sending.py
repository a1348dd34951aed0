"""Jobs for the workers of an executor, and what comes of them."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from types import TracebackType
from typing import Any

from candle_fetcher.concurrency import POLL_S, Cancel
from candle_fetcher.core.errors import CandleFetcherError, WorkerError, warn
from candle_fetcher.workers.marker import Marker, make_marker
from candle_fetcher.workers.parcel import Parcel, unpack_value
from candle_fetcher.workers.recipe import Recipe
from candle_fetcher.workers.work import Done, WorkerJob, WorkerTraceback, run_job


class Workers:
    """The jobs of one call in an executor. At the end of its block, those that have not begun are cancelled.

    An executor of any package may be used: of its futures only `add_done_callback`, `exception`, `result` and `cancel`
    are used.
    """

    def __init__(self, executor: Executor, recipe: Recipe) -> None:
        self._executor, self._recipe = executor, recipe
        self._done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()  # with a future, or a Done
        self._under_way: dict[int, Any] = {}
        self._call = uuid.uuid4().hex
        self._count = 0
        self._marker: Marker | None = None

    def __enter__(self) -> Workers:
        self._marker = make_marker()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._marker is not None:
            self._marker.remove()
        for future in list(self._under_way.values()):
            if future is not None:
                future.cancel()

    def submit(self, at: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Hand over `work(fetcher, *arguments)`, a function of a module. `at` is its number among the jobs."""
        self._count += 1
        job = WorkerJob(f"{self._call}-{self._count}", self._recipe, work, arguments, self._marker)
        self._under_way[at] = None
        try:
            future = self._under_way[at] = self._executor.submit(run_job, job)
        except Exception as error:  # noqa: BLE001 - that of any executor
            self._done.put((at, Done(error=lost_job(error))))
        else:
            future.add_done_callback(lambda done: self._done.put((at, done)))

    def results(self, cancel: Cancel) -> Iterator[tuple[int, Done]]:
        """Yield number and result of each job, once it is done, until none is under way; more may be handed over
        meanwhile. Warnings of the workers are issued here.

        Raises an error of a worker that is a fault of the program; CancelledError once `cancel` is set.
        """
        while self._under_way:
            try:
                at, found = self._done.get(timeout=POLL_S)
            except queue.Empty:
                if cancel.is_set():
                    raise CancelledError from None
                continue
            del self._under_way[at]
            done = found if isinstance(found, Done) else _result_of(found)
            for warning in done.warnings:
                warn(warning)
            if done.error is not None and not isinstance(done.error, CandleFetcherError):
                if isinstance(done.error, OSError) and done.error.filename is not None:
                    yield at, done
                    continue
                trace = vars(done.error).pop("_in_worker", "")
                raise done.error from WorkerTraceback(f"in a worker:\n{trace}")
            yield at, done


def _result_of(future: Any) -> Done:
    try:
        error = future.exception()
    except Exception as cancelled:  # noqa: BLE001 - executors have classes of their own for it
        error = cancelled
    if error is not None:
        return Done(error=lost_job(error))
    done: Done = future.result()
    if not isinstance(done.value, Parcel):
        return done
    try:
        return done._replace(value=unpack_value(done.value))
    except OSError as lost:
        return Done(error=lost_job(lost))


def lost_job(error: BaseException) -> WorkerError:
    """Return the error of a job that its worker did not do, given that of the executor."""
    if isinstance(error, BrokenExecutor):
        said = "a worker process of the executor ended abruptly: it was killed, or ran out of memory"
    elif isinstance(error, CancelledError):
        said = "the executor cancelled the job"
    elif isinstance(error, KeyboardInterrupt):
        said = "the worker was interrupted"
    else:
        said = f"the executor or its worker failed: {type(error).__name__}: {' '.join(str(error).split())}"
    made = WorkerError(f"{said}. {WorkerError.fix}")
    made.cause = made.__cause__ = error
    return made
