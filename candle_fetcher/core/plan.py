"""Plans which spans a fetch requests from its sources, as a pure function of what is stored and known.

`CandleFetcher.plan` prints the plan of a range, and a fetch runs it. Chunk k of a series holds the slots
k*1000 ... k*1000+999 of its grid in every call, so each stored chunk serves every later call that touches it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from candle_fetcher.core.entry import UNKNOWN, Entry, HoleState
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.files import File
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.gap import iso
from candle_fetcher.core.sizes import duration_text
from candle_fetcher.core.spans import Span, subtract
from candle_fetcher.core.timeframe import Timeframe

CHUNK_SLOTS = 1_000


def chunk_of(timeframe: Timeframe, ms: int) -> int:
    """Return the number of the chunk that holds the instant."""
    return timeframe.ordinal(ms) // CHUNK_SLOTS


@functools.lru_cache(maxsize=1 << 14)  # it is needed in each step of the work on a chunk
def chunk_span(timeframe: Timeframe, chunk: int) -> Span:
    """Return [start, end) of the chunk."""
    return Span(timeframe.open_ms(chunk * CHUNK_SLOTS), timeframe.open_ms((chunk + 1) * CHUNK_SLOTS))


def chunks_of(timeframe: Timeframe, span: Span) -> range:
    """Return the numbers of the chunks that the span touches."""
    if not span:
        return range(0)
    return range(chunk_of(timeframe, span.start_ms), chunk_of(timeframe, span.end_ms - 1) + 1)


def group_chunks(chunks: Sequence[int], most: int) -> list[list[int]]:
    """Return the chunks in runs of adjoining numbers, at most `most` in each; a run begins at a multiple of `most`."""
    groups: list[list[int]] = []
    for chunk in sorted(chunks):
        if groups and chunk == groups[-1][-1] + 1 and most > 1 and chunk % most:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


class Ask(NamedTuple):
    """A span to request. `again` marks a hole that was confirmed before, so that one empty answer is enough.

    `from_ms`: where the request begins, if that is before the span, to read stored candles there once more.
    """

    span: Span
    again: bool = False
    from_ms: int | None = None

    @property
    def reach(self) -> Span:
        """The span of the request."""
        return self.span if self.from_ms is None else Span(self.from_ms, self.span.end_ms)

    def part(self, span: Span) -> Ask:
        """Return the Ask for a part of its span."""
        return Ask(span, from_ms=self.from_ms if span.start_ms == self.span.start_ms else None)


class Query(NamedTuple):
    """The span of a series that a call needs, and the rules that decide what stored chunks lack of it.

    now_ms: the instant of the call; 0 where no source may be asked, and every stored fact counts at any age.
    settled_ms: where the newest settled slot ends. reach_ms: before it the provider serves no candle.
    ttl_ms: the longest time for which the last candle before the live edge is valid; None for no such limit.
    recheck: whether confirmed holes of any age are requested again. stores_holes: False where the feed's holes are not
    stored, so that a recheck requests the whole span. serves_all: whether old candles can be requested, which is True
    unless the provider serves the newest candles only.
    """

    span: Span
    settling: Settling
    now_ms: int
    settled_ms: int = FOREVER_MS
    reach_ms: int = -FOREVER_MS
    ttl_ms: int | None = None
    recheck: bool = False
    stores_holes: bool = True
    serves_all: bool = False

    def asks(self, chunk: int, entry: Entry | None, facts: Facts) -> list[Ask]:
        """Return what must be requested before the chunk can answer for the span, given its stored entry."""
        borders = chunk_span(self.settling.timeframe, chunk)
        bounds = facts.bounds(borders.after(self.reach_ms).before(self.settled_ms), self.now_ms)
        return find_asks(entry, borders, bounds, self)


def find_asks(entry: Entry | None, chunk: Span, bounds: Span, query: Query) -> list[Ask]:
    """Return what must be requested before the chunk can answer for the span of the query; empty if nothing.

    `bounds` is the part of the chunk in which the series is listed and settled. Of a chunk without an entry, all of
    that part is requested; else what the entry does not cover. A confirmed hole is requested alone, once it is due. The
    request for the newest part begins with the candles and holes that are not confirmed yet; where candles of the
    market were seen to change, they are requested without a newer part, too.
    """
    needed = query.span.clip(bounds).clip(chunk)
    if not needed:
        return []
    whole = chunk.clip(bounds)
    if entry is None:
        return [Ask(whole)]
    covered = _valid_part(entry, chunk, query)
    asks = [*_hole_asks(entry, needed, bounds, covered, query)]
    if query.recheck and not query.stores_holes and needed.clip(covered):
        asks.append(Ask(needed.clip(covered)))
    if not covered.holds(needed):
        for span in subtract(whole, [covered]):
            from_ms = find_unconfirmed(entry, query.settling) if span.start_ms == covered.end_ms else None
            asks.append(Ask(span, from_ms=from_ms if from_ms is not None and from_ms < span.start_ms else None))
    elif entry.candles.count and not asks:
        from_ms = find_corrected(entry, query.settling, query.reach_ms)
        if from_ms is not None and from_ms < needed.end_ms and confirmable_ms(entry, query.settling) <= query.now_ms:
            asks.append(Ask(Span(covered.end_ms, covered.end_ms), from_ms=from_ms))
    return asks


def find_corrected(entry: Entry, settling: Settling, reach_ms: int = -FOREVER_MS) -> int | None:
    """Return from where on the entry's candles are requested once more though nothing is missing, since candles of the
    market were seen to change so long after their close; None where that does not apply.

    Nor does it where the provider serves them no more, before `reach_ms`, or allows few requests a day.
    """
    if not settling.corrected_ms or settling.finality.spares_edge:
        return None
    from_ms = settling.unconfirmed_ms(entry.candles, entry.stored_ms)
    return from_ms if from_ms is not None and from_ms >= reach_ms else None


def confirmable_ms(entry: Entry, settling: Settling) -> int:
    """Return when the newest candle of the entry, which has one, can be confirmed."""
    return settling.close_ms(int(entry.candles.open_ms[-1])) + settling.confirm_ms


def _valid_part(entry: Entry, chunk: Span, query: Query) -> Span:
    """Return the covered span of the entry, without a last candle at the live edge that is older than the ttl."""
    covered, ttl_ms = entry.covered, query.ttl_ms
    if ttl_ms is None or covered.end_ms >= chunk.end_ms or not entry.candles.count:
        return covered
    if abs(query.now_ms - entry.stored_ms) < ttl_ms:
        return covered
    return covered.before(query.settling.timeframe.floor_ms(int(entry.candles.open_ms[-1])))


def _hole_asks(entry: Entry, needed: Span, bounds: Span, covered: Span, query: Query) -> Iterator[Ask]:
    """Yield an Ask for each hole of the entry that was never requested, then for each hole that is due."""
    open_states = UNKNOWN if query.serves_all else (HoleState.UNASKED,)
    for hole in entry.holes:
        span = hole.span.clip(bounds)
        if hole.state in open_states and span.clip(needed):
            yield Ask(span)
    late_ms = query.settling.finality.late_rows_ms
    for hole in entry.holes:
        if hole.state in UNKNOWN or not hole.span.clip(needed) or hole.span.end_ms > covered.end_ms:
            continue  # a hole behind the covered part is requested together with the newest part
        if query.recheck or hole.is_due(query.now_ms, late_ms):
            yield Ask(hole.span, again=True)


def find_unconfirmed(entry: Entry, settling: Settling) -> int | None:
    """Return where the part of the entry begins that the next request reads once more; None where all is confirmed.

    That part begins with the first candle that was read soon after its close, or the first hole that may have been a
    late row.
    """
    covered, late_ms = entry.covered, settling.finality.late_rows_ms
    starts = [
        span.start_ms for span, _, asked_ms in entry.holes if asked_ms is not None and asked_ms - span.end_ms < late_ms
    ]
    first_ms = settling.unconfirmed_ms(entry.candles, entry.stored_ms)
    starts += [] if first_ms is None else [first_ms]
    return max(covered.start_ms, min(starts)) if starts else None


class Plan(NamedTuple):
    """What a fetch does for the chunks that lack something.

    asks: what each chunk lacks, by its number. files: the archive's files to read. groups: the chunks that no file
    touches; one request serves a whole group, where the provider's pages are long enough. Every other chunk waits for
    its files; then the rest of it is requested by REST.
    """

    asks: Mapping[int, Sequence[Ask]]
    files: Sequence[File]
    groups: Sequence[Sequence[int]]


def make_plan(
    asks: Mapping[int, Sequence[Ask]],
    choose: Callable[[Sequence[Ask]], Sequence[File]],
    *,
    timeframe: Timeframe,
    rows_per_call: int,
) -> Plan:
    """Return the plan for what the chunks lack. `choose` returns the files that answer Asks at less cost than REST."""
    files = choose([ask for several in asks.values() for ask in several])
    touched = {chunk for file in files for chunk in chunks_of(timeframe, file.span)}
    direct = [chunk for chunk in asks if chunk not in touched]
    return Plan(asks, files, group_chunks(direct, rows_per_call // CHUNK_SLOTS))


class Step(NamedTuple):
    """Chunks that one source answers, and what that costs."""

    source: str
    chunks: int
    candles: int
    requests: int = 0
    weight: int = 0
    bytes: int = 0


class FetchPlan(NamedTuple):
    """What a fetch would do. Exact for settled spans with a known listing and no fault.

    `notes` lists requests that cannot be foreseen: for the provider's clock, its limits, the listing, and holes.
    """

    provider: str
    symbol: str
    timeframe: str
    kind: str
    span: Span
    steps: tuple[Step, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def chunks(self) -> dict[str, int]:
        """The number of chunks by source."""
        return {step.source: step.chunks for step in self.steps}

    @property
    def candles(self) -> int:
        """The number of slots in the range, which is the largest possible number of candles."""
        return sum(step.candles for step in self.steps)

    @property
    def requests(self) -> int:
        return sum(step.requests for step in self.steps)

    @property
    def weight(self) -> int:
        return sum(step.weight for step in self.steps)

    @property
    def bytes(self) -> int:
        """The estimated number of bytes to download."""
        return sum(step.bytes for step in self.steps)

    @property
    def files(self) -> int:
        """The number of archive files to download."""
        return sum(step.requests for step in self.steps if step.source == "archive") // 2  # each with its checksum

    def __str__(self) -> str:
        kind = "" if self.kind == "candles" else f" {self.kind}"
        lines = [
            f"{self.provider} {self.symbol} {self.timeframe}{kind}: {self.candles:,} candles at most",
            f"  {iso(self.span.start_ms)} to {iso(self.span.end_ms)} (end excluded)",
        ]
        lines += _step_lines(self.steps)
        lines.append(f"  about {duration_text(self.seconds)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from candle_fetcher.core.html import fact_table, html_table

        title, *_ = str(self).splitlines()
        facts = [
            ("range", f"{iso(self.span.start_ms)} to {iso(self.span.end_ms)} (end excluded)"),
            ("time", f"about {duration_text(self.seconds)}"),
            *(("note", note) for note in self.notes),
        ]
        rows = [[one.source, *(f"{figure:,}" for figure in one[1:5]), f"{one.bytes / 1e6:,.1f}"] for one in self.steps]
        return fact_table(title, facts) + html_table(("source", "chunks", "candles", "requests", "weight", "MB"), rows)


def _step_lines(steps: Sequence[Step]) -> list[str]:
    """Return a line for each step, with the figures of all below each other."""
    rows = [
        (f"{one.chunks:,}", f"{one.requests:,}", f"{one.weight:,}", f"{one.bytes / 1e6:,.1f}", bool(one.requests))
        for one in steps
    ]
    chunks, requests, weight, size = (max((len(str(row[place])) for row in rows), default=0) for place in range(4))
    return [
        f"  {step.source:<8}{row[0]:>{max(6, chunks)}} chunks"
        + (f", {row[1]:>{requests}} requests, weight {row[2]:>{weight}}, about {row[3]:>{size}} MB" if row[4] else "")
        for step, row in zip(steps, rows, strict=True)
    ]


def merge_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return one step per source, in the order in which the sources are asked."""
    merged: dict[str, Step] = {}
    for step in steps:
        old = merged.get(step.source)
        merged[step.source] = (
            step if old is None else Step(step.source, *(a + b for a, b in zip(old[1:], step[1:], strict=True)))
        )
    order = ("memory", "disk", "archive", "rest", "missing")
    return tuple(merged[source] for source in order if source in merged)
