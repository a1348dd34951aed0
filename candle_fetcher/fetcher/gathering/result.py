"""What came of a gathering: chunks, facts, and what could not be fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from candle_fetcher.core.block import AnswerBlock
from candle_fetcher.core.candles import Candles, join, no_candles, part_of_one_block
from candle_fetcher.core.entry import UNKNOWN, Entry, HoleState
from candle_fetcher.core.errors import (
    ArchiveMismatch,
    CandleFetcherWarning,
    SourceError,
    TransportError,
    warn,
    warn_once,
)
from candle_fetcher.core.expiry import FOREVER_MS, ask_again_ms
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_span, confirmable_ms, find_corrected
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.fetcher.gathering.run import Fetch
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance
from candle_fetcher.sources import CallScope, is_denial


class ChunkResult(NamedTuple):
    """The tier that had a chunk, or several in a row, its candles, and the spans that sources answered for, in order of
    the answers."""

    tier: str
    entry: Entry
    provenance: tuple[Provenance, ...]


class GatherResult(NamedTuple):
    """What came of a span: its chunks in order, what is known beside them, and what could not be fetched.

    The span ends where facts end. `until_ms` is when the result is no more the whole answer. `ends_now` says that the
    span ends with the newest settled candle. `wall_s` is this machine's clock at `now_ms`. `generation` is that of the
    series before the look-up. `beyond` is older than what the provider serves, and not stored. `is_off_grid` says that
    candles open at a phase of the symbol's own within their slots. `read_until_ms` is where the newest file that was
    read ends.
    """

    series: Series
    span: Span
    now_ms: int
    facts: Facts
    settling: Settling
    is_off_grid: bool
    chunks: list[ChunkResult]
    failed: list[tuple[Span, SourceError | None]]
    until_ms: int
    ends_now: bool
    wall_s: float
    generation: int
    read_until_ms: int
    unverified: list[str]
    rejected: list[str]
    beyond: list[Span]
    block: AnswerBlock | None

    def join(self, names: tuple[str, ...]) -> Candles:
        """Return all candles in one block, with those columns; from then on the chunks share it.

        A chunk is copied and let go before the next one is, so that little more than the block is held.
        """
        parts = [one.entry.candles.pick(names) for one in self.chunks if one.entry.candles.count]
        whole = part_of_one_block(parts) if parts else no_candles(names)
        if whole is not None:
            return whole
        block = self.block
        if block is None or block.names[: len(names)] != names:
            block = AnswerBlock(names, range(-(-sum(part.count for part in parts) // CHUNK_SLOTS) + 1))
        filled = [index for index, one in enumerate(self.chunks) if one.entry.candles.count]
        del parts
        # Each part is taken when its turn comes.
        moved = block.close_up(self.chunks[index].entry.candles.pick(names) for index in filled)
        for index, candles in zip(filled, moved, strict=True):
            one = self.chunks[index]
            self.chunks[index] = one._replace(entry=one.entry._replace(candles=candles))
        return join([self.chunks[index].entry.candles for index in filled])


def make_result(gathering: Gathering, fetch: Fetch | None) -> GatherResult:
    """Return what came of the gathering; `fetch` is None where no source was asked. Warn of files that are not used."""
    found, span, now_ms = gathering.found, gathering.span, gathering.now_ms
    facts = gathering.cache.facts.restore_unverified(gathering.series, [entry for _, entry in found.values()])
    beyond = _beyond(gathering, facts)
    if fetch is not None:
        _warn_of_files(gathering, fetch)
    ends_now = span.end_ms >= gathering.settling.end_ms(now_ms)
    again_ms = [FOREVER_MS, *_changes_ms(gathering, facts)]
    if gathering.policy.ttl_ms is not None and ends_now:
        again_ms.append(now_ms + gathering.policy.ttl_ms)
    return GatherResult(
        gathering.series,
        Span(span.start_ms, _known_end(gathering, facts, beyond)),
        now_ms,
        facts,
        gathering.settling,
        is_off_grid=gathering.timeframe.name in gathering.feed.off_grid,
        chunks=_chunk_results(gathering),
        failed=gathering.failed,
        until_ms=min(again_ms),
        ends_now=ends_now,
        wall_s=gathering.wall_s,
        generation=gathering.generation,
        read_until_ms=0 if fetch is None else fetch.files.read_until_ms,
        unverified=sorted({one.path for one in facts.unverified if one.span.clip(span)}),
        rejected=[] if fetch is None else sorted(fetch.files.rejected),
        beyond=beyond,
        block=gathering.block,
    )


def _chunk_results(gathering: Gathering) -> list[ChunkResult]:
    """Return the results of the chunks, in order; chunks that share an entry have one result."""
    found, results, before = gathering.found, list[ChunkResult](), None
    for chunk in sorted(found):
        tier, entry = found[chunk]
        if entry is not before:
            results.append(ChunkResult(tier, entry, tuple(gathering.provenance.get(chunk, ()))))
        before = entry
    return results


def _changes_ms(gathering: Gathering, facts: Facts) -> Iterator[int]:
    """Yield the times at which a part of the span is asked for again."""
    needed = facts.bounds(gathering.span, gathering.now_ms)
    late_ms = gathering.settling.finality.late_rows_ms
    for span, _, asked_ms in facts.empty if gathering.found else ():
        if span.clip(gathering.span):
            yield ask_again_ms(span.end_ms, asked_ms, late_ms)
    before = None
    for chunk, (_, entry) in gathering.found.items():
        if entry is before or gathering.is_complete(chunk, entry):
            before = entry
            continue
        if not entry.covered.holds(chunk_span(gathering.timeframe, chunk).clip(needed)):
            yield gathering.now_ms  # the newest candles are still to settle, or to be published
        if find_corrected(entry, gathering.settling, gathering.reach_ms) is not None:
            yield confirmable_ms(entry, gathering.settling)
        yield from (hole.ask_again_ms(late_ms) for hole in entry.holes if hole.span.clip(gathering.span))


def _warn_of_files(gathering: Gathering, fetch: Fetch) -> None:
    """Warn that files served in place of REST, and of each file that is not used."""
    error = fetch.replaced_error
    is_unreached = isinstance(error, TransportError) and not error.reached
    if error is not None and fetch.files.read_until_ms and (is_denial(error) or is_unreached):
        warn_of_archive(gathering.scope, gathering.label, error)
    for file, why in fetch.files.unread:
        if file.path in fetch.files.rejected:
            warn_of_rejected(file.path, why)


def warn_of_rejected(path: str, error: SourceError) -> None:
    """Warn that a file of the archive is not used."""
    warn(ArchiveMismatch(f"{path} of the archive is not used: {error.reason}"))


def warn_of_archive(scope: CallScope, label: str, error: SourceError) -> None:
    """Warn, once a call, that the archive answers because REST does not serve this machine."""
    why = f"REST failed ({type(error).__name__}: {error.reason})"
    what = f"{label}: {why}; the archive's files serve in its place as far as they go"
    warn_once(scope.warned, "archive", CandleFetcherWarning(what))


def _beyond(gathering: Gathering, facts: Facts) -> list[Span]:
    """Return what of the span is neither stored nor served: the provider serves the newest candles only."""
    older = gathering.span.before(max(gathering.reach_ms, gathering.served_ms))
    lost = [
        hole.span.clip(gathering.span if hole.state is HoleState.BEYOND else older)
        for _, entry in gathering.found.values()
        for hole in entry.holes
        if hole.state in UNKNOWN
    ]
    if older:
        known = [entry.covered for _, entry in gathering.found.values()]
        known += facts.empty_spans
        lost += subtract(older, [*known, *(span for span, _ in gathering.failed)])
    return merge(span for span in lost if span)


def _known_end(gathering: Gathering, facts: Facts, beyond: Sequence[Span]) -> int:
    """Return where what is known of the span ends: candles after it may still change, or their rows be late."""
    span = gathering.span
    at = Span(span.end_ms - 1, span.end_ms)
    if any(not entry.holes and entry.covered.holds(at) for _, entry in reversed(gathering.found.values())):
        return span.end_ms
    known = facts.empty_spans + [failed for failed, _ in gathering.failed]
    for _, entry in gathering.found.values():
        start_ms, end_ms = entry.covered
        newest, _, asked_ms = entry.holes[-1] if entry.holes else (None, None, None)
        if newest is not None and newest.end_ms == end_ms and asked_ms is not None:
            end_ms = max(newest.start_ms, min(end_ms, gathering.settling.known_ms(asked_ms)))
        known.append(Span(start_ms, end_ms))
    unknown = subtract(span, [*known, *beyond])
    is_tail = bool(unknown) and unknown[-1].end_ms == span.end_ms
    return unknown[-1].start_ms if is_tail else span.end_ms
