"""Gather every settled candle of a span of one series: look up, plan, ask, store.

The caller's thread tells the workers what to do. The I/O pool reads and writes the disk, and the network pool sends the
requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from candle_fetcher.core.block import AnswerBlock
from candle_fetcher.core.errors import SourceError
from candle_fetcher.core.expiry import FOREVER_MS, NEAR_MS
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.fetcher.gathering.archive import choose_files_for
from candle_fetcher.fetcher.gathering.bounds import SeriesBounds
from candle_fetcher.fetcher.gathering.lookup import find_chunks, leave_shared, load_older, look_up
from candle_fetcher.fetcher.gathering.result import ChunkResult, GatherResult, make_result, warn_of_archive
from candle_fetcher.fetcher.gathering.run import Fetch
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance, Resources, Task, make_query
from candle_fetcher.fetcher.policy import REST, FetchPolicy
from candle_fetcher.sources import ArchiveSource, AsOf, RestSource, ends_call, is_denial

__all__ = [
    "ChunkResult",
    "GatherResult",
    "Provenance",
    "Resources",
    "Task",
    "choose_files_for",
    "find_first_ms",
    "gather",
    "make_query",
    "read_now_ms",
    "warn_of_archive",
]

_FEW_CHUNKS = 16  # are joined by a copy
_DOUBTED_MS = 60 * DAY_MS  # no machine's clock is taken to be ahead by more


def gather(task: Task, span: Span) -> GatherResult:
    """Return every settled candle of the span, or the parts of it that could not be fetched and why."""
    (resources, request, policy, scope), fetch = task, None
    gathering = _begin(task, span)
    chunks = find_chunks(gathering, resources.cache.facts.get(request.series))
    renewed = scope.renewed.get(request.series.key, set())
    stored = [chunk for chunk in chunks if chunk in renewed] if policy.refresh else chunks
    if stored:
        look_up(gathering, stored)
    _check_reach(gathering, chunks)
    lacking = gathering.missing(chunks)
    if lacking and policy.is_offline:
        gathering.failed = [(ask.span, None) for asks in lacking.values() for ask in asks]
    elif lacking:
        if len(lacking) == len(chunks) > _FEW_CHUNKS and policy.keeps_entries:
            gathering.block = AnswerBlock(gathering.feed.columns, chunks)
        fetch = Fetch(gathering, lacking, len(gathering.timeframe.slots(gathering.span)))
        fetch.run()
        renewed.update(lacking.keys() & gathering.found.keys())
    if policy.refresh and gathering.feed.depth(request.series) is not None:
        load_older(gathering, chunks)
    if scope.clock_error is not None and not gathering.failed and span.end_ms > gathering.span.end_ms:
        # By this machine's clock, which was not checked, the rest has not settled.
        gathering.failed.append((Span(gathering.span.end_ms, span.end_ms), scope.clock_error))
        gathering.span = span
    leave_shared(gathering)
    result = make_result(gathering, fetch)
    if _is_too_late(gathering):  # what is settled is decided once more
        scope.shared.pop(gathering.share_key, None)
        return gather(task._replace(policy=policy._replace(refresh=False)), span)
    return result


def _is_too_late(gathering: Gathering) -> bool:
    """Return whether a reply showed that the span ends after what had settled: the instant of the call was too late."""
    as_of = gathering.scope.as_of
    if as_of is None or as_of.ms >= gathering.now_ms:
        return False
    return gathering.settling.end_ms(as_of.ms) < gathering.span.end_ms


def _begin(task: Task, span: Span) -> Gathering:
    """Return the gathering of the part of the span that has settled.

    At first, what is known of the series is forgotten, if it is to be asked for again: once a call, so that what one
    part of a stream learns serves the next part.
    """
    (resources, request, policy, scope), series = task, task.request.series
    now_ms = read_now_ms(task, span.end_ms)
    if (policy.refresh or policy.rechecks) and not policy.is_offline and series.key not in scope.renewed:
        scope.renewed[series.key] = set()
        resources.cache.facts.forget(series)
        resources.cache.frames.drop(series)
    if policy.is_offline:  # what is stored has settled, though this machine's clock may be behind
        return Gathering(task, span, now_ms)
    corrected_ms = resources.cache.facts.corrections(series).at(now_ms) if policy.allows(REST) else 0
    settled_ms = request.feed.settling(series).end_ms(now_ms)
    gathering = Gathering(task, span.before(settled_ms), now_ms, corrected_ms)
    gathering.set_reach(gathering.feed.reach_ms(series, now_ms))
    return gathering


def _check_reach(gathering: Gathering, chunks: Sequence[int]) -> None:
    """Ask for the provider's clock before a part is given up as older than what the provider serves: this machine's
    clock may be ahead by days."""
    span, reach_ms = gathering.span, gathering.reach_ms
    if span.start_ms < reach_ms < span.end_ms + _DOUBTED_MS and gathering.lacks_before(reach_ms, chunks):
        task = Task(gathering.resources, gathering.request, FetchPolicy(REST), gathering.scope)
        gathering.set_reach(gathering.feed.reach_ms(gathering.series, read_now_ms(task, FOREVER_MS)))


def read_now_ms(task: Task, end_ms: int) -> int:
    """Return the instant of the call, in ms: by the provider's clock where the end of the range is near, else by this
    machine's. It is read once a call. The clock is that of the archive where no other source may be asked.

    Where the clock cannot be read, that of the archive serves, else this machine's, to look up what is stored; REST is
    asked for nothing near to it then. Raises Banned, and AccessDenied where no archive serves.
    """
    (resources, request, policy, scope), series = task, task.request.series
    source: RestSource | ArchiveSource = request.source
    spare = request.archive if policy.source == "auto" else None
    if policy.is_archive_only and request.archive is not None:
        source = request.archive
    if scope.as_of is None:
        scope.as_of = AsOf(source.estimated_ms(), resources.clock())
    as_of = scope.as_of
    is_near = end_ms > as_of.ms - NEAR_MS
    if as_of.is_checked or policy.is_offline or not is_near or scope.clock_error is not None:
        return as_of.ms
    try:
        scope.as_of = AsOf(source.now_ms(scope, series), resources.clock(), is_checked=True)
    except SourceError as error:
        if ends_call(error, has_archive=spare is not None):
            raise
        scope.clock_error = error
        scope.denial = error if is_denial(error) else scope.denial
        if spare is not None:
            with contextlib.suppress(SourceError):
                scope.as_of = AsOf(spare.now_ms(scope, series), resources.clock())
    return scope.as_of.ms


def find_first_ms(task: Task) -> int | None:
    """Return when the first candle of the series opens, by REST; confirmed and stored. None where there is none yet."""
    task = task._replace(policy=FetchPolicy(REST))
    return SeriesBounds(Gathering(task, Span(0, 0), read_now_ms(task, FOREVER_MS))).first_ms()
