"""Frames of several symbols: by threads of this process, or by the workers of an executor."""

from __future__ import annotations

import copy
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
from candle_fetcher.core.tracebacks import shorten
from candle_fetcher.workers.recipe import make_recipe, sendable_provider
from candle_fetcher.workers.sending import Workers, lost_job

# Symbols of one job, at most: fewer messages, against more that is lost with a worker.
_AT_ONCE = 4
# Jobs for each worker, at least, so that none waits long for the last ones.
_TURNS = 4

Call = tuple[Callable[..., Any], Any, Any]


def fetch_by_workers(
    runtime: Any, make: Callable[..., Any] | None, executor: Executor, calls: Mapping[str, Call]
) -> dict[str, Any]:
    """Return a frame or an error for each symbol. A call is a function `(runtime, arguments, policy)` that returns a
    frame, and the last two of its arguments.

    The frames are pickled on their way. The listeners of the runtime get an event for each call. Raises InputError for
    what cannot be sent, before anything is.
    """
    recipe, symbols = make_recipe(runtime, make, executor, len(calls)), list(calls)
    sent = {symbol: (fetch, _sendable(runtime, words), policy) for symbol, (fetch, words, policy) in calls.items()}
    size = max(1, min(_AT_ONCE, len(symbols) // (_TURNS * recipe.workers)))
    parts = [symbols[at : at + size] for at in range(0, len(symbols), size)]
    label, count = f"{len(calls)} symbols", len(calls)
    found: dict[str, Any] = {}
    with runtime.scope() as scope, Workers(executor, recipe) as workers:
        for at, part in enumerate(parts):
            workers.submit(at, _fetch_in_worker, {symbol: sent[symbol] for symbol in part})
        runtime.observe(Progress("start", label, 0, count))
        for at, done in workers.results(scope):
            for symbol in parts[at]:
                found[symbol] = _receive(
                    runtime, symbol, _own(done.error) if done.value is None else done.value[symbol]
                )
            runtime.observe(Progress("advance", label, len(parts[at]), count))
        runtime.observe(Progress("end", label, 0, count))
    return found


def _own(error: Any) -> Any:
    """Return a copy of the error of a job, which several symbols have in common."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    if isinstance(own, CandleFetcherError):
        own.cause = error.__cause__
    return own


def _sendable(runtime: Any, arguments: Any) -> Any:
    return arguments._replace(provider=sendable_provider(runtime, arguments.provider))


def _receive(runtime: Any, symbol: str, given: Any) -> Any:
    """Return the frame as `fetch` gives it, or the error with what it is about."""
    if isinstance(given, Exception):
        if isinstance(given, CandleFetcherError):
            complete_error(given, runtime.about(("provider",), {"symbol": symbol}))
        return given
    frame, seconds = given
    manifest = frame.attrs[MANIFEST] = Manifest(frame.attrs[MANIFEST])
    label = f"{manifest['symbol']} {manifest['timeframe']}"
    runtime.observe(Operation("fetch", seconds, len(frame), 0, label))
    return frame


def _fetch_in_worker(fetcher: Any, calls: Mapping[str, Call]) -> dict[str, Any]:
    """Return a frame and the seconds that it took, or an error, for each symbol, by the fetcher of the worker."""
    runtime = fetcher._runtime
    found: dict[str, Any] = runtime.calls.run(partial(_fetch_in_turn, runtime, calls))
    return {symbol: shorten(one) if isinstance(one, Exception) else one for symbol, one in found.items()}


def _fetch_in_turn(runtime: Any, calls: Mapping[str, Call]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for symbol, (fetch, arguments, policy) in calls.items():
        began = time.perf_counter()
        try:
            with completing_errors(partial(runtime.about, ("provider",), {"symbol": symbol})):
                found[symbol] = fetch(runtime, arguments, policy), time.perf_counter() - began
        except CandleFetcherError as error:
            found[symbol] = error
    return found


def fetch_by_threads(runtime: Any, executor: Executor | None, calls: Mapping[str, Call]) -> dict[str, Any]:
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
            try:
                waiting[(executor or callers).submit(fetch_in_call, symbol)] = symbol
            except RuntimeError as error:
                if executor is None:
                    raise
                found[symbol] = lost_job(error)  # it was shut down
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
