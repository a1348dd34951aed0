"""Which files of an archive to fetch. Pure: what is missing and what a request brings in, files out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# A file costs two requests, for itself and for its checksum; it is worth them where REST would need more than this
# many.
_WORTH_CALLS = 4
# Files come out after their time is over: a day's within a day or two, a month's on the first of the next or days
# later.
# Before that they are not asked for; that one may come later still is learned from its absence.
_DAY_LAG_MS = 2 * DAY_MS
_MONTH_LAG_MS = 1 * DAY_MS


class File(NamedTuple):
    """A file of an archive: its path below the archive's root, and the span whose candles it holds."""

    path: str
    span: Span


def choose_files(
    missing: Sequence[Span],
    timeframe: Timeframe,
    find_file: Callable[[int, bool], File | None],
    *,
    now_ms: int,
    rows_per_call: int,
    is_absent: Callable[[str], bool],
    forced: bool = False,
) -> list[File]:
    """The files to fetch for what is missing, in order: months, and days where there is no month's file.

    `find_file(ms, monthly)` is the file of that day or month. A file is worth its requests where REST would need more;
    `forced` takes every file there can be.
    """
    chosen: dict[str, File] = {}

    def is_worth(file: File, lag_ms: int) -> bool:
        if file.span.end_ms + lag_ms > now_ms or is_absent(file.path):
            return False
        wanted = [span for one in spans if (span := one.clip(file.span))]
        slots = sum(timeframe.first_slot(span.end_ms) - timeframe.first_slot(span.start_ms) for span in wanted)
        return slots > 0 and (forced or -(-slots // rows_per_call) >= _WORTH_CALLS)

    spans = merge(missing)
    for month in _files(spans, lambda ms: find_file(ms, True)):
        if is_worth(month, _MONTH_LAG_MS):
            chosen[month.path] = month
    rest = [span for one in spans for span in subtract(one, [file.span for file in chosen.values()])]
    spans = merge(rest)
    for day in _files(spans, lambda ms: find_file(ms, False)):
        if is_worth(day, _DAY_LAG_MS):
            chosen[day.path] = day
    return sorted(chosen.values(), key=lambda file: file.span)


def published_end_ms(find_file: Callable[[int, bool], File | None], now_ms: int) -> int:
    """Where the newest file that there can be ends; 0 where the archive has none of the series."""
    newest = [find_file(now_ms - lag_ms, monthly) for monthly, lag_ms in ((True, _MONTH_LAG_MS), (False, _DAY_LAG_MS))]
    return max((file.span.start_ms for file in newest if file is not None), default=0)  # its own is not over yet


def _files(spans: Sequence[Span], find: Callable[[int], File | None]) -> Iterator[File]:
    """The files that the spans touch, each once."""
    last = None
    for span in spans:
        at_ms = span.start_ms
        while at_ms < span.end_ms:
            file = find(at_ms)
            if file is None:
                return
            if file != last:
                yield file
            last, at_ms = file, file.span.end_ms
