"""Chooses the files of an archive to fetch, by what is missing and what requests cost."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, Timeframe

# A file costs two requests, one for itself and one for its checksum. It is chosen where REST would need at least this
# many requests.
_WORTH_CALLS = 4
_MONTH_MS = 31 * DAY_MS
# Files are published after the end of their span: days within two days, months on the first of the next month or some
# days later. Unless more is known, they are requested only after that. One that is later still is absent.
_DAY_LAG_MS = 2 * DAY_MS
_MONTH_LAG_MS = 1 * DAY_MS
_SLACK_MS = DAY_MS // 24  # files are not published at the same minute every day


class File(NamedTuple):
    """A file of an archive: its path below the archive's root, and the span of its candles.

    In the parts that are `disputed` its rows are not used: another file, or REST, is more reliable.
    """

    path: str
    span: Span
    disputed: tuple[Span, ...] = ()

    @property
    def parts(self) -> list[Span]:
        """The parts of its span in which its rows are used."""
        return subtract(self.span, self.disputed)

    @property
    def monthly(self) -> bool:
        """Whether it holds a month, not a day."""
        return self.span.end_ms - self.span.start_ms > DAY_MS


class Lags(NamedTuple):
    """How long after the end of their span files are known to be published, by the day and by the month."""

    daily_ms: int = _DAY_LAG_MS
    monthly_ms: int = _MONTH_LAG_MS

    def of(self, file: File) -> int:
        """Return the lag of such a file."""
        return self.monthly_ms if file.monthly else self.daily_ms

    def found(self, file: File, published_ms: int) -> Lags:
        """Return the lags, given that this file was published at that time.

        A file that was published later than usual is ignored: it may have been replaced.
        """
        lag_ms = published_ms - file.span.end_ms + _SLACK_MS
        return self._with(file, lag_ms) if _SLACK_MS <= lag_ms <= DEFAULT_LAGS.of(file) else self

    def missed(self, file: File, now_ms: int) -> Lags:
        """Return the lags, given that this file is absent now; unchanged where the file is not due yet."""
        return self._with(file, DEFAULT_LAGS.of(file)) if now_ms >= file.span.end_ms + self.of(file) else self

    def _with(self, file: File, lag_ms: int) -> Lags:
        return self._replace(monthly_ms=lag_ms) if file.monthly else self._replace(daily_ms=lag_ms)


DEFAULT_LAGS = Lags()


def choose_files(
    missing: Sequence[Span],
    timeframe: Timeframe,
    find_file: Callable[[int, bool], File | None],
    *,
    now_ms: int,
    rows_per_call: int,
    is_absent: Callable[[str], bool],
    read_lags: Callable[[], Lags] = lambda: DEFAULT_LAGS,
    forced: bool = False,
) -> list[File]:
    """Return the files to fetch for the missing spans, in order: months, then days where no month is chosen.

    `find_file(ms, monthly)` gives the file of that day or month. A file is chosen where it should be published, by its
    lags, and REST would need more requests; `forced` chooses every file that can exist. `read_lags` is called where
    there is such a file.
    """
    chosen: dict[str, File] = {}
    read_lags = functools.cache(read_lags)

    def can_pay(longest_ms: int) -> bool:
        """Return whether any file of at most that length can save requests."""
        most = _count_slots(timeframe, spans)
        if timeframe.step_ms is not None:
            most = min(most, -(-longest_ms // timeframe.step_ms))
        return forced or -(-most // rows_per_call) >= _WORTH_CALLS

    def is_worth(file: File) -> bool:
        if file.span.end_ms + (0 if forced else read_lags().of(file)) > now_ms or is_absent(file.path):
            return False
        slots = _count_slots(timeframe, _touched(spans, ends_ms, file.span))
        return slots > 0 and (forced or -(-slots // rows_per_call) >= _WORTH_CALLS)

    spans = merge(missing)
    ends_ms = [span.end_ms for span in spans]
    for month in _files(spans, lambda ms: find_file(ms, True)) if can_pay(_MONTH_MS) else ():
        if is_worth(month):
            chosen[month.path] = month
    had = [part for file in chosen.values() for part in file.parts]
    if had:
        spans = merge(span for one in spans for span in subtract(one, had))
        ends_ms = [span.end_ms for span in spans]
    for day in _files(spans, lambda ms: find_file(ms, False)) if can_pay(DAY_MS) else ():
        if is_worth(day):
            chosen[day.path] = day
    return sorted(chosen.values(), key=lambda file: file.span)


def _count_slots(timeframe: Timeframe, spans: Iterable[Span]) -> int:
    """Return the number of slots that open in the spans."""
    return sum(len(timeframe.slots(span)) for span in spans)


def _touched(spans: Sequence[Span], ends_ms: Sequence[int], file: Span) -> Iterator[Span]:
    """Yield the parts of the spans that lie in the file. The spans are in order and apart; `ends_ms` are their ends."""
    for at in range(bisect_right(ends_ms, file.start_ms), len(spans)):
        if spans[at].start_ms >= file.end_ms:
            return
        yield spans[at].clip(file)


def published_end_ms(find_file: Callable[[int, bool], File | None], now_ms: int) -> int:
    """Return where the newest file that can exist ends; 0 where the archive has no files of the series."""
    present = [find_file(now_ms, monthly) for monthly in (True, False)]
    # The file that holds the present is not complete, so that the newest one ends where it begins.
    return max((file.span.start_ms for file in present if file is not None), default=0)


def _files(spans: Sequence[Span], find: Callable[[int], File | None]) -> Iterator[File]:
    """Yield the files that the spans touch, each once."""
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
