"""Which files of an archive to fetch. Pure: what is missing and what a request brings in, files out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# A file costs two requests, for itself and for its checksum; it is worth them where REST would need more than this
# many.
_WORTH_CALLS = 4
_MONTH_MS = 31 * DAY_MS
# Files come out after their time is over: a day's within a day or two, a month's on the first of the next or days
# later. Unless more is known, they are not asked for before that; that one may come later still is learned from its
# absence.
_DAY_LAG_MS = 2 * DAY_MS
_MONTH_LAG_MS = 1 * DAY_MS
_SLACK_MS = DAY_MS // 24  # files do not come out at the same minute


class File(NamedTuple):
    """A file of an archive: its path below the archive's root, and the span whose candles it holds. For parts that are
    `disputed` another file, or REST, has the word."""

    path: str
    span: Span
    disputed: tuple[Span, ...] = ()

    @property
    def parts(self) -> list[Span]:
        """What of its span it is believed about."""
        return subtract(self.span, self.disputed)

    @property
    def monthly(self) -> bool:
        return self.span.end_ms - self.span.start_ms > DAY_MS


class Lags(NamedTuple):
    """How long after their time is over files are known to be out, days and months."""

    daily_ms: int = _DAY_LAG_MS
    monthly_ms: int = _MONTH_LAG_MS

    def of(self, file: File) -> int:
        return self.monthly_ms if file.monthly else self.daily_ms

    def found(self, file: File, published_ms: int) -> Lags:
        """What is known once a file has come that was published at that time. Of one that was replaced, nothing."""
        lag_ms = published_ms - file.span.end_ms + _SLACK_MS
        return self._with(file, lag_ms) if _SLACK_MS <= lag_ms <= USUAL_LAGS.of(file) else self

    def missed(self, file: File, now_ms: int) -> Lags:
        """What is known once the file is not out by now: nothing, where it should have been."""
        return self._with(file, USUAL_LAGS.of(file)) if now_ms >= file.span.end_ms + self.of(file) else self

    def _with(self, file: File, lag_ms: int) -> Lags:
        return self._replace(monthly_ms=lag_ms) if file.monthly else self._replace(daily_ms=lag_ms)


USUAL_LAGS = Lags()


def choose_files(
    missing: Sequence[Span],
    timeframe: Timeframe,
    find_file: Callable[[int, bool], File | None],
    *,
    now_ms: int,
    rows_per_call: int,
    is_absent: Callable[[str], bool],
    lags: Lags = USUAL_LAGS,
    forced: bool = False,
) -> list[File]:
    """The files to fetch for what is missing, in order: months, and days where there is no month's file.

    `find_file(ms, monthly)` is the file of that day or month. A file is worth its requests where it should be out by
    its `lags` and REST would need more of them; `forced` takes every file there can be.
    """
    chosen: dict[str, File] = {}

    def can_pay(longest_ms: int) -> bool:
        """Whether any file of at most that length can; the files are not walked through where none can."""
        most = _count_slots(timeframe, spans)
        if timeframe.step_ms is not None:
            most = min(most, -(-longest_ms // timeframe.step_ms))
        return forced or -(-most // rows_per_call) >= _WORTH_CALLS

    def is_worth(file: File) -> bool:
        if file.span.end_ms + (0 if forced else lags.of(file)) > now_ms or is_absent(file.path):
            return False
        wanted = [span for one in spans if (span := one.clip(file.span))]
        slots = _count_slots(timeframe, wanted)
        return slots > 0 and (forced or -(-slots // rows_per_call) >= _WORTH_CALLS)

    spans = merge(missing)
    for month in _files(spans, lambda ms: find_file(ms, True)) if can_pay(_MONTH_MS) else ():
        if is_worth(month):
            chosen[month.path] = month
    had = [part for file in chosen.values() for part in file.parts]
    rest = [span for one in spans for span in subtract(one, had)]
    spans = merge(rest)
    for day in _files(spans, lambda ms: find_file(ms, False)) if can_pay(DAY_MS) else ():
        if is_worth(day):
            chosen[day.path] = day
    return sorted(chosen.values(), key=lambda file: file.span)


def _count_slots(timeframe: Timeframe, spans: Sequence[Span]) -> int:
    """Return how many slots open in the spans."""
    return sum(len(timeframe.slots(span)) for span in spans)


def published_end_ms(find_file: Callable[[int, bool], File | None], now_ms: int) -> int:
    """Where the newest file that there can be ends; 0 where the archive has none of the series."""
    present = [find_file(now_ms, monthly) for monthly in (True, False)]
    return max((file.span.start_ms for file in present if file is not None), default=0)  # its own is not over yet


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
