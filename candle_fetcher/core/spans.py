"""Half-open spans of UTC milliseconds: merge, subtract, clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """[start_ms, end_ms); empty where the end is not after the start."""

    start_ms: int
    end_ms: int

    @classmethod
    def between(cls, start_ms: int, end_ms: int) -> Span:
        """Return the span from start to end; empty at the start where the end is before it."""
        return cls(start_ms, max(start_ms, end_ms))

    def __bool__(self) -> bool:
        return self.end_ms > self.start_ms

    def clip(self, other: Span) -> Span:
        """Return the part that lies in both spans; empty where they do not overlap."""
        return Span(max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms))

    def before(self, ms: int) -> Span:
        """Return the part before the instant; empty at the start where there is none."""
        start_ms, end_ms = self
        return self if start_ms <= end_ms <= ms else Span(start_ms, max(start_ms, min(end_ms, ms)))

    def after(self, ms: int) -> Span:
        """Return the part after the instant; empty at the end where there is none."""
        start_ms, end_ms = self
        return self if ms <= start_ms <= end_ms else Span(min(end_ms, max(start_ms, ms)), end_ms)

    def touches(self, other: Span) -> bool:
        """Return whether the two overlap or adjoin."""
        return self.start_ms <= other.end_ms and other.start_ms <= self.end_ms

    def holds(self, other: Span) -> bool:
        """Return whether the other span lies entirely in this one; an empty span lies in every span."""
        (start_ms, end_ms), (first_ms, last_ms) = self, other  # one step: this runs for every chunk
        return (start_ms <= first_ms and last_ms <= end_ms) or first_ms >= last_ms


# Far beyond every instant that a provider can name.
ALL_TIME = Span(-(2**62), 2**62)


def hull(spans: Iterable[Span]) -> Span:
    """Return the shortest span that holds all of the spans, of which there must be at least one."""
    starts, ends = zip(*spans, strict=True)
    return Span(min(starts), max(ends))


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return the union of the spans, in order, as the smallest number of spans."""
    merged: list[Span] = []
    for span in sorted(span for span in spans if span):
        if merged and span.start_ms <= merged[-1].end_ms:
            merged[-1] = Span(merged[-1].start_ms, max(merged[-1].end_ms, span.end_ms))
        else:
            merged.append(span)
    return merged


def subtract(span: Span, covered: Iterable[Span]) -> list[Span]:
    """Return the parts of the span outside all covered spans, in order."""
    missing: list[Span] = []
    at = span.start_ms
    for done in merge(covered):
        if done.end_ms <= at:
            continue
        if done.start_ms >= span.end_ms:
            break
        if done.start_ms > at:
            missing.append(Span(at, done.start_ms))
        at = done.end_ms
    if at < span.end_ms:
        missing.append(Span(at, span.end_ms))
    return missing


def intersect(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """Return the overlap of the spans with the others, in order, as the smallest number of spans."""
    return merge(part for span in spans for other in others if (part := span.clip(other)))
