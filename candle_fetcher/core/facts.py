"""Facts about a series in addition to its candles, and how they change with what a call learns."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from candle_fetcher.core.expiry import is_due
from candle_fetcher.core.files import DEFAULT_LAGS, File
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS

# How long an absent file of the archive is not requested again: a day, or an hour for a file that may only be late.
_ABSENT_MS = DAY_MS
_LATE_MS = DAY_MS // 24


class EmptySpan(NamedTuple):
    """A span known to have no candle, the cause, and when the provider was asked."""

    span: Span
    cause: str
    asked_ms: int

    def is_believed(self, now_ms: int) -> bool:
        """Return whether the fact is still valid, so that the span is not requested again."""
        return not is_due(self.span.end_ms, self.asked_ms, now_ms)


class FailedSpan(NamedTuple):
    """A span that could not be fetched when it was last requested, and the error. The next call requests it again."""

    span: Span
    error: str
    asked_ms: int


class Unverified(NamedTuple):
    """A span of candles out of a file of the archive without a checksum."""

    span: Span
    path: str


Fact = TypeVar("Fact", EmptySpan, FailedSpan, Unverified)


class News(NamedTuple):
    """What a call learned of a series.

    first_ms, empty: None where the call learned nothing about them.
    absent: files that the archive does not have.
    replaced: spans with new candles, for which earlier notes are void. filled: spans that no longer lack anything.
    """

    first_ms: int | None = None
    empty: EmptySpan | None = None
    absent: Sequence[File] = ()
    failed: Sequence[FailedSpan] = ()
    unverified: Sequence[Unverified] = ()
    replaced: Sequence[Span] = ()
    filled: Sequence[Span] = ()


class Facts(NamedTuple):
    """Facts about a series in addition to its candles. `first_ms`: when its first candle opens; None while unknown.
    `absent`: the files that its archive did not have, each with the time until which it is not requested again."""

    first_ms: int | None = None
    empty: tuple[EmptySpan, ...] = ()
    absent: tuple[tuple[str, int], ...] = ()
    failed: tuple[FailedSpan, ...] = ()
    unverified: tuple[Unverified, ...] = ()

    @property
    def empty_spans(self) -> list[Span]:
        """The spans that are known to hold no candle."""
        return [one.span for one in self.empty]

    def is_absent(self, path: str, now_ms: int) -> bool:
        """Return whether the archive answered recently that it has no such file, so that it is not requested now."""
        return any(one == path and now_ms < until_ms <= now_ms + _ABSENT_MS for one, until_ms in self.absent)

    def unverified_in(self, span: Span) -> tuple[Span, ...]:
        """Return the parts of the span that have no checksum."""
        before = self.unverified[: bisect.bisect_left(self.unverified, ((span.end_ms,),))]
        return tuple(merge(one.span.clip(span) for one in before if one.span.end_ms > span.start_ms))

    def lacks_note_of(self, spans: Iterable[Span]) -> list[Span]:
        """Return the parts of these unverified spans that the facts do not note as such."""
        noted = merge(one.span for one in self.unverified)
        return [part for span in spans for part in subtract(span, noted)]

    def bounds(self, span: Span, now_ms: int) -> Span:
        """Return the span without its ends that are known to be empty."""
        start_ms, end_ms = span
        for empty in self.empty:
            if not empty.is_believed(now_ms):
                continue
            (first_ms, last_ms), *_ = empty
            if first_ms <= start_ms < last_ms:
                start_ms = last_ms
            if first_ms < end_ms <= last_ms:
                end_ms = first_ms
        return Span(start_ms, max(start_ms, end_ms))

    def learn(self, news: News, now_ms: int) -> Facts:
        """Return the facts with the news, which replace what was known of the same spans."""
        empty = list(self.empty)
        if news.empty is not None:
            empty = [*(one for one in empty if not one.span.clip(news.empty.span)), news.empty]
        absent = {path: until_ms for path, until_ms in self.absent if now_ms < until_ms <= now_ms + _ABSENT_MS}
        for file in news.absent:
            may_be_late = now_ms < file.span.end_ms + DEFAULT_LAGS.of(file)
            absent[file.path] = now_ms + (_LATE_MS if may_be_late else _ABSENT_MS)
        tried = [*news.filled, *(one.span for one in news.failed)]
        return Facts(
            self.first_ms if news.first_ms is None else news.first_ms,
            tuple(sorted(empty)),
            tuple(sorted(absent.items())),
            tuple(sorted([*_outside(self.failed, tried), *news.failed])),
            tuple(sorted([*_outside(self.unverified, news.replaced), *news.unverified])),
        )

    def without_empty(self, span: Span) -> Facts:
        """Return the facts for a series that has candles at both ends of the span: no part of it is empty."""
        first_ms = None if self.first_ms is None else min(self.first_ms, span.start_ms)
        return self._replace(first_ms=first_ms, empty=tuple(_outside(self.empty, [span])))


def _outside(facts: Iterable[Fact], spans: Sequence[Span]) -> list[Fact]:
    """Return the facts, restricted to the time outside the spans."""
    return [one._replace(span=part) for one in facts for part in subtract(one.span, spans)]
