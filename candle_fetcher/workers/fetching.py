"""Frames of several symbols: by threads of this process, or by the workers of an executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any

from candle_fetcher.concurrency import as_done, mark_ours
from candle_fetcher.concurrency.call import PublicCall, current_call
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.errors import CandleFetcherError, complete_error, completing_errors
from candle_fetcher.core.events import Operation, Progress
from candle_fetcher.core.frame import MANIFEST, Manifest
from candle_fetcher.workers.recipe import make_recipe, sendable_provider
from candle_fetcher.workers.sending import Workers, lost_job


def fetch_by_workers(
    runtime: Any, make: Callable[..., Any] | None, executor: Executor, calls: Mapping[str, tuple[Any, Any, Any]]
) -> dict[str, Any]:
    """Return a frame or an error for each symbol. A call is a function `(runtime, arguments, policy)` that returns a
    frame, and the last two of its arguments.

    The frames are pickled on their way. The listeners of the runtime get an event for each call. Raises InputError for
    what cannot be sent, before anything is.
    """
    recipe, symbols = make_recipe(runtime, make, executor, len(calls)), list(calls)
    label, count = f"{len(calls)} symbols", len(calls)
    found: dict[str, Any] = {}
    with runtime.scope() as scope, Workers(executor, recipe) as workers:
        for at, (fetch, arguments, policy) in enumerate(calls.values()):
            sent = arguments._replace(provider=sendable_provider(runtime, arguments.provider))
            workers.submit(at, _fetch_in_worker, fetch, sent, policy)
        runtime.observe(Progress("start", label, 0, count))
        for at, done in workers.results(scope):
            symbol = symbols[at]
            if done.error is None:
                frame, seconds = done.value
                manifest = frame.attrs[MANIFEST] = Manifest(frame.attrs[MANIFEST])
                name = f"{manifest['symbol']} {manifest['timeframe']}"
                runtime.observe(Operation("fetch", seconds, len(frame), 0, name))
            elif isinstance(done.error, CandleFetcherError):
                complete_error(done.error, runtime.about(("provider",), {"symbol": symbol}))
            found[symbol] = frame if done.error is None else done.error
            runtime.observe(Progress("advance", label, 1, count))
        runtime.observe(Progress("end", label, 0, count))
    return found


def _fetch_in_worker(fetcher: Any, fetch: Callable[..., Any], arguments: Any, policy: Any) -> tuple[Any, float]:
    """Return the frame, and the seconds that it took, by the fetcher of the worker."""
    runtime, began = fetcher._runtime, time.perf_counter()
    with completing_errors(lambda: runtime.about(("provider",), {"symbol": arguments.symbol})):
        frame = runtime.calls.run(partial(fetch, runtime, arguments, policy))
    return frame, time.perf_counter() - began


def fetch_by_threads(
    runtime: Any, executor: Executor | None, calls: Mapping[str, tuple[Any, Any, Any]]
) -> dict[str, Any]:
    """Return the same by threads of this process: those of the executor, or without one our own."""
    found: dict[str, Any] = {}
    # These threads only wait and join; requests and disk have pools of their own, so nothing here can deadlock.
    callers = ThreadPool("caller", max(1, min(len(calls), runtime.settings.network_threads)))
    call = current_call() or PublicCall(lambda: None)

    def fetch_in_call(symbol: str) -> Any:
        fetch, arguments, policy = calls[symbol]
        before = mark_ours()  # a thread of the executor too, for so long
        try:
            with call.entered(), completing_errors(lambda: runtime.about(("provider",), {"symbol": symbol})):
                return fetch(runtime, arguments, policy)
        finally:
            mark_ours(before)

    waiting: dict[Future[Any], str] = {}
    try:
        for symbol in calls:
            waiting[(executor or callers).submit(fetch_in_call, symbol)] = symbol
        for future in as_done(waiting, call.stop):
            try:
                found[waiting[future]] = future.result()
            except CandleFetcherError as error:
                found[waiting[future]] = error
            except CancelledError as error:
                if executor is None:
                    raise
                found[waiting[future]] = lost_job(error)
    except BaseException:
        for scope in list(call.scopes):
            runtime.stop(scope)
        raise
    finally:
        for future in waiting:
            future.cancel()
        callers.close(cancels=True)
    return found
