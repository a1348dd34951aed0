"""What to ask whom. Pure: coverage in, asks out; the fetch does what the plan says and `plan()` prints it.

Chunk k of a series holds the slots k*1000 … k*1000+999 of its grid, whoever asks, so that every stored chunk serves
every later request that touches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from candle_fetcher.core.candles import iso
from candle_fetcher.core.entry import UNKNOWN, Entry, HoleState
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.spans import Span, subtract
from candle_fetcher.core.timeframe import Timeframe

CHUNK_SLOTS = 1_000


def chunk_of(timeframe: Timeframe, ms: int) -> int:
    """The number of the chunk that holds the instant."""
    return timeframe.ordinal(ms) // CHUNK_SLOTS


def chunk_span(timeframe: Timeframe, chunk: int) -> Span:
    """[start, end) of the chunk."""
    return Span(timeframe.open_ms(chunk * CHUNK_SLOTS), timeframe.open_ms((chunk + 1) * CHUNK_SLOTS))


def chunks_of(timeframe: Timeframe, span: Span) -> range:
    """The numbers of the chunks that the span touches."""
    if not span:
        return range(0)
    return range(chunk_of(timeframe, span.start_ms), chunk_of(timeframe, span.end_ms - 1) + 1)


def group_chunks(chunks: Sequence[int], most: int) -> list[list[int]]:
    """The chunks in runs that adjoin, of at most so many; a run begins at a multiple of that number."""
    groups: list[list[int]] = []
    for chunk in sorted(chunks):
        if groups and chunk == groups[-1][-1] + 1 and most > 1 and chunk % most:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


class Ask(NamedTuple):
    """A span to ask a source for. `again` marks a hole that was believed once: one empty answer renews the belief.

    `from_ms` is where the request begins: before the span, where what is stored in front of it is to be read once more.
    """

    span: Span
    again: bool = False
    from_ms: int | None = None

    @property
    def reach(self) -> Span:
        """What is asked for."""
        return self.span if self.from_ms is None else Span(self.from_ms, self.span.end_ms)

    def part(self, span: Span) -> Ask:
        """The ask for a part of its span."""
        return Ask(span, from_ms=self.from_ms if span.start_ms == self.span.start_ms else None)


def find_asks(
    entry: Entry | None,
    chunk: Span,
    wanted: Span,
    bounds: Span,
    *,
    settling: Settling,
    now_ms: int,
    ttl_ms: int | None = None,
    recheck: bool = False,
    remembers: bool = True,
    serves_all: bool = False,
) -> list[Ask]:
    """What has to be asked for before the chunk can answer for the wanted span; empty where nothing.

    `bounds` is what is listed and settled. A chunk is asked whole, clipped to its bounds, or its uncovered part; a
    believed hole is asked alone when its time has come, or at once to `recheck`; where none is remembered, all of the
    wanted part is asked for to recheck it. What lay beyond what the provider served is asked for where it `serves_all`
    of its candles after all. `ttl_ms` caps how long the last candle before the live edge is believed: then the tail is
    asked for from its slot on. Where the tail is asked for, the request begins with what is not confirmed yet.
    """
    needed = wanted.clip(bounds).clip(chunk)
    if not needed:
        return []
    whole = chunk.clip(bounds)
    if entry is None:
        return [Ask(whole)]
    covered = entry.covered
    at_edge = covered.end_ms < chunk.end_ms
    if ttl_ms is not None and at_edge and entry.candles.count and abs(now_ms - entry.stored_ms) >= ttl_ms:
        newest_ms = settling.timeframe.floor_ms(int(entry.candles.open_ms[-1]))
        covered = covered.before(newest_ms)
    open_ = UNKNOWN if serves_all else (HoleState.UNASKED,)
    unasked = [hole.span.clip(bounds) for hole in entry.holes if hole.state in open_]
    asks = [Ask(span) for span in unasked if span.clip(needed)]
    asks += [
        Ask(hole.span, again=True)
        for hole in entry.holes
        if hole.state not in UNKNOWN
        and hole.span.clip(needed)
        and hole.span.end_ms <= covered.end_ms  # else it is part of the tail
        and (recheck or hole.is_due(now_ms, settling.finality.late_ms))
    ]
    if recheck and not remembers and needed.clip(covered):
        asks.append(Ask(needed.clip(covered)))
    if not covered.holds(needed):
        for span in subtract(whole, [covered]):
            from_ms = find_unconfirmed(entry, settling) if span.start_ms == covered.end_ms else None
            asks.append(Ask(span, from_ms=from_ms if from_ms is not None and from_ms < span.start_ms else None))
    return asks


def find_unconfirmed(entry: Entry, settling: Settling) -> int | None:
    """Where what is not confirmed yet of the entry begins: candles that were read soon after their close, and holes
    that may have been rows that were late. None where everything is."""
    covered, late_ms = entry.covered, settling.finality.late_ms
    starts = [
        span.start_ms for span, _, asked_ms in entry.holes if asked_ms is not None and asked_ms - span.end_ms < late_ms
    ]
    first_ms = settling.unconfirmed_ms(entry.candles, entry.stored_ms)
    starts += [] if first_ms is None else [first_ms]
    return max(covered.start_ms, min(starts)) if starts else None


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

    `notes` counts apart what cannot be known without asking: the provider's clock, its limits, the listing, second
    looks.
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
        """Chunks by source."""
        return {step.source: step.chunks for step in self.steps}

    @property
    def candles(self) -> int:
        """Slots in the range: the most candles that can come."""
        return sum(step.candles for step in self.steps)

    @property
    def requests(self) -> int:
        return sum(step.requests for step in self.steps)

    @property
    def weight(self) -> int:
        return sum(step.weight for step in self.steps)

    @property
    def bytes(self) -> int:
        """Bytes to download, estimated."""
        return sum(step.bytes for step in self.steps)

    @property
    def files(self) -> int:
        """Archive files to download."""
        return sum(step.requests for step in self.steps if step.source == "archive") // 2  # each with its checksum

    def __str__(self) -> str:
        kind = "" if self.kind == "candles" else f" {self.kind}"
        lines = [
            f"{self.provider} {self.symbol} {self.timeframe}{kind}: {self.candles:,} candles at most",
            f"  {iso(self.span.start_ms)} to {iso(self.span.end_ms)} (end excluded)",
        ]
        for step in self.steps:
            line = f"  {step.source:<8}{step.chunks:>6,} chunks"
            if step.requests:
                line += f", {step.requests:,} requests, weight {step.weight:,}, about {step.bytes / 1e6:,.1f} MB"
            lines.append(line)
        lines.append(f"  about {_duration(self.seconds)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><td>{html.escape(step.source)}</td><td>{step.chunks:,}</td><td>{step.candles:,}</td>"
            f"<td>{step.requests:,}</td><td>{step.weight:,}</td><td>{step.bytes / 1e6:,.1f}</td></tr>"
            for step in self.steps
        )
        title, *_ = str(self).splitlines()
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        head = "".join(f"<th>{name}</th>" for name in ("source", "chunks", "candles", "requests", "weight", "MB"))
        return (
            f"<div><b>{html.escape(title)}</b><div>{iso(self.span.start_ms)} to {iso(self.span.end_ms)}, "
            f"about {_duration(self.seconds)}</div><table><tr>{head}</tr>{rows}</table>{notes}</div>"
        )


def _duration(seconds: float) -> str:
    """As 37.5 s, 12.0 min, 24.0 h or 3.0 days."""
    for unit_s, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:,.1f} {name}"
    return f"{seconds:,.1f} s"


def merge_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """One step per source, in the order in which the sources are asked."""
    merged: dict[str, Step] = {}
    for step in steps:
        old = merged.get(step.source)
        merged[step.source] = (
            step if old is None else Step(step.source, *(a + b for a, b in zip(old[1:], step[1:], strict=True)))
        )
    order = ("memory", "disk", "archive", "rest", "missing")
    return tuple(merged[source] for source in order if source in merged)
