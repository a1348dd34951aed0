"""Calls for candles: from the arguments to a frame, frames in order, a file, or a table of gaps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.core.errors import IncompleteData
from candle_fetcher.core.events import Gaps, Missing, Operation
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.frame import MANIFEST, Manifest, gap_frame, hand_out
from candle_fetcher.core.memory import in_parts, many_failed
from candle_fetcher.core.missing import count_missing, warn_of_missing
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.fetcher.answers import Answer
from candle_fetcher.fetcher.calls import refuse_own_threads
from candle_fetcher.fetcher.collect import CandleResult, Collector
from candle_fetcher.fetcher.listings import naming_closest
from candle_fetcher.fetcher.policy import FetchPolicy
from candle_fetcher.fetcher.ready import copy_frame
from candle_fetcher.fetcher.refusals import refuse_incomplete, settled_frame
from candle_fetcher.fetcher.request import Arguments, Request, make_request
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.sources import CallScope
from candle_fetcher.workers import fetch_by_threads, fetch_by_workers, is_of_threads

if TYPE_CHECKING:
    from pathlib import Path

    from candle_fetcher.files.exporting import FileArguments

# Chunks that an export holds at once: memory stays bounded and the network pool stays busy.
_STREAM_CHUNKS = 64


def fetch_frame(runtime: Runtime, arguments: Arguments, policy: FetchPolicy) -> pd.DataFrame:
    """Return the frame of `CandleFetcher.fetch`."""
    began, frame, adjusts_again = time.perf_counter(), None, False
    while frame is None:
        request = make_request(runtime, arguments)
        collector = Collector(runtime.resources(), request, policy, CallScope())
        answer = Answer(collector)
        try:
            with runtime.scope(request, answer.scope), naming_closest(runtime, request):
                span = None if request.range.limit is not None else collector.span()
                frame = None if span is None else _cached_frame(runtime, request, span, policy)
                if frame is None:
                    found = collector.collect_limited() if span is None else collector.collect(span)
                    frame = _make_frame(runtime, answer, found, span)
        except IncompleteData:
            # Once more by the prices as they are adjusted now.
            if adjusts_again or not request.is_readjusted:
                raise
            adjusts_again = True
    manifest = frame.attrs[MANIFEST]
    if manifest["gap_count"]:
        count = manifest["expected"] - manifest["rows"] - count_missing(manifest)
        runtime.observe(Gaps(request.label, manifest["gap_count"], count))
    _note_missing(runtime, request, manifest)
    if policy.partial == "warn":
        warn_of_missing([manifest])
    runtime.observe(Operation("fetch", time.perf_counter() - began, len(frame), 0, request.label))
    return frame


def _note_missing(runtime: Runtime, request: Request, manifest: Manifest) -> None:
    """Report what a partial answer lacks to the listeners."""
    if count := count_missing(manifest):
        runtime.observe(Missing(request.label, count, manifest.why or ""))


def _make_frame(runtime: Runtime, answer: Answer, found: CandleResult, span: Span | None) -> pd.DataFrame:
    """Return the frame of what was found; it is kept for the next call where it fits. `span` is that of the request,
    None where it has a limit."""
    policy, request = answer.policy, answer.request
    # A partial frame is never kept. One with a warning is made again, and the warning is given again.
    is_plain = not (policy.include_open or policy.invents or found.failed or "symbol" in answer.scope.warned)
    found = found._replace(candles=found.candles.apart())
    settings, size_bytes = runtime.settings, found.candles.block.nbytes + 8 * found.candles.count  # with the index
    fits = settings.use_cache and size_bytes <= settings.memory_cache_size // 2
    is_held = not found.candles.block.flags.writeable  # the candles lie in the cache's memory
    if not (is_plain and found.span == span and (fits or is_held)):
        return answer.to_frame(answer.whole(found))
    answer.refuse(found)
    frame = settled_frame(answer.collector, found, is_shared=True)
    if not fits:
        return hand_out(frame)
    gathered, frames = found.gathered, runtime.cache.frames
    until_s = min(runtime.clock(), gathered.wall_s) + (gathered.until_ms - gathered.now_ms) / 1000
    # Before an adjusted frame is handed out again, it is asked by what it is adjusted.
    is_whole = request.range.end_ms == span.end_ms and request.adjusted is None
    frame.attrs[MANIFEST].is_final = is_whole and gathered.until_ms >= FOREVER_MS and not found.gaps
    key = _frame_key(request.series, span, request.timeframe, policy.columns)
    if gathered.ends_now:
        # A series that is polled gives another range each time: only the newest is asked for again.
        kind, _, _, columns = key.rsplit("|", 3)
        frames.replace(f"{kind}|{columns}", key, span)
    frames.save(gathered.series, key, frame, size_bytes, until_s, gathered.generation)
    return hand_out(frame)


def _cached_frame(runtime: Runtime, request: Request, span: Span, policy: FetchPolicy) -> pd.DataFrame | None:
    """Return the frame as it was handed out before, where it is still valid."""
    if policy.include_open or policy.invents or policy.refresh or policy.rechecks:
        return None
    key = _frame_key(request.series, span, request.timeframe, policy.columns)
    kept: pd.DataFrame | None = runtime.cache.frames.load(key)
    if kept is None or (policy.on_gap == "raise" and kept.attrs[MANIFEST]["gap_count"]):
        return None
    frame = copy_frame(kept, runtime.observe)
    if request.adjusted is not None:
        dict.update(frame.attrs[MANIFEST], adjusted=request.adjusted.describe())
    return frame


def _frame_key(series: Series, span: Span, timeframe: Timeframe, columns: str) -> str:
    """Return the key under which a finished frame is kept in memory."""
    return f"frame|{series.key}|{timeframe.name}|{span.start_ms}|{span.end_ms}|{columns}"


# -- several, in parts, into a file -----------------------------------------------------------------------------------


def fetch_frames(
    runtime: Runtime,
    symbols: Sequence[str],
    arguments: Arguments,
    policy: FetchPolicy,
    executor: Executor | None = None,
    make: Callable[..., Any] | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the frames of `CandleFetcher.fetch_many`; the arguments are those that all symbols have in common. `make`
    is the class of the fetchers that the executor's workers make."""
    # Each call of its own would warn of what it lacks; they are one call.
    quiet = policy._replace(partial="allow") if policy.partial == "warn" else policy
    calls = {symbol: (fetch_frame, arguments._replace(symbol=symbol), quiet) for symbol in symbols}
    if executor is None or is_of_threads(executor):
        found = runtime.calls.run(lambda: fetch_by_threads(runtime, executor, calls))
    else:
        refuse_own_threads()
        found = fetch_by_workers(runtime, make, executor, calls)
    frames = {symbol: found[symbol] for symbol in symbols if isinstance(found[symbol], pd.DataFrame)}
    if policy.partial == "warn":
        warn_of_missing(frame.attrs[MANIFEST] for frame in frames.values())
    if len(frames) < len(found):
        raise many_failed(frames, {symbol: found[symbol] for symbol in symbols if symbol not in frames})
    return frames


def iterate_frames(runtime: Runtime, answer: Answer, rows: int) -> Iterator[pd.DataFrame]:
    """Yield the frames of `CandleFetcher.iter_frames`."""
    began, count, warns = time.perf_counter(), 0, answer.policy.partial == "warn"
    request = answer.request
    with runtime.scope(request, answer.scope) as scope, naming_closest(runtime, request), in_parts(request, rows):
        for frame in runtime.calls.each(answer.frames(rows), scope):
            count += len(frame)
            _note_missing(runtime, request, frame.attrs[MANIFEST])
            warns = warns and not warn_of_missing([frame.attrs[MANIFEST]])
            yield frame
    runtime.observe(Operation("iter_frames", time.perf_counter() - began, count, 0, request.label))


def make_answer(runtime: Runtime, arguments: Arguments, policy: FetchPolicy) -> Answer:
    """Return the answer to a call that hands it out in parts."""
    request, policy = make_request(runtime, arguments), policy._replace(keeps_entries=False)
    return Answer(Collector(runtime.resources(), request, policy, CallScope()))


def export_file(runtime: Runtime, arguments: Arguments, policy: FetchPolicy, file: FileArguments) -> Path:
    """Write the file of `CandleFetcher.export` and return its path. The caller's thread writes it, and removes it where
    it is interrupted."""
    from candle_fetcher.fetcher.exporting import span_that_fits, write_answer  # when used: its tables take 5 ms

    began = time.perf_counter()
    run = runtime.calls.run
    answer = run(lambda: make_answer(runtime, arguments, policy))
    request = answer.request
    with runtime.scope(request, answer.scope) as scope, naming_closest(runtime, request), in_parts(request):
        span = run(lambda: span_that_fits(answer, file), scope)
        pieces = runtime.calls.each(answer.pieces(_STREAM_CHUNKS), scope)
        target, rows, manifest = write_answer(answer, file, span, pieces)
    _note_missing(runtime, request, manifest)
    if policy.partial == "warn":
        warn_of_missing([manifest])
    size = target.stat().st_size
    runtime.observe(Operation("export", time.perf_counter() - began, rows, size, request.label))
    return target


def list_gaps(runtime: Runtime, arguments: Arguments, policy: FetchPolicy) -> pd.DataFrame:
    """Return the table of `CandleFetcher.gaps`."""
    began = time.perf_counter()
    request = make_request(runtime, arguments)
    with runtime.scope(request) as scope, naming_closest(runtime, request):
        collector = Collector(runtime.resources(), request, policy._replace(needs_sessions=True), scope)
        found = collector.collect(collector.span())
        refuse_incomplete(collector, found)
    runtime.observe(Operation("gaps", time.perf_counter() - began, found.candles.count, 0, request.label))
    return gap_frame(found.gaps)
