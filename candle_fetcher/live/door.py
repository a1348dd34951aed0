"""How live calls reach the candles of a fetcher: what they take of it, and how a stream's rows enter the cache.

What is stored goes the way of any answer: absorbed into the entry, and merged with what is stored by then. Rows of a
stream do not count as read, so that the next request of the series reads them once more, and notes differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import INTEGERS, MISSING, Candles
from candle_fetcher.core.coverage import absorb
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.live import CandleUpdate
from candle_fetcher.core.merging import Merged, merge_entries
from candle_fetcher.core.plan import chunk_of, chunk_span
from candle_fetcher.core.revisions import find_revisions
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.providers import Feed, Provider
from candle_fetcher.sources import AsOf, RestSource, SeriesReader


class SeriesRequest(Protocol):
    """A request for candles, as a fetcher makes it of a symbol and a timeframe."""

    @property
    def source(self) -> RestSource: ...
    @property
    def series(self) -> Series: ...
    @property
    def symbol(self) -> str: ...
    @property
    def timeframe(self) -> Timeframe: ...
    @property
    def feed(self) -> Feed: ...
    @property
    def label(self) -> str: ...


class Door(NamedTuple):
    """What live calls take of a fetcher: the functions behind `fetch`, which the floor above has."""

    runtime: Any
    fetch_frame: Callable[[Any, Any, Any], pd.DataFrame]
    find_first_candle: Callable[[Any, str, str | Provider | None, str, Any], pd.Timestamp]
    make_request: Callable[[Any, Any], SeriesRequest]
    arguments: Callable[..., Any]
    range: Callable[..., Any]
    read_policy: Callable[..., Any]

    def request(self, symbol: str, timeframe: str, provider: str | Provider | None, kind: str) -> SeriesRequest:
        """Return the request for a series. Raises InputError for arguments that are not valid."""
        wanted = self.arguments(symbol, timeframe, self.range(None, None), provider, kind)
        return self.make_request(self.runtime, wanted)

    def frame(
        self,
        symbol: str,
        timeframe: str,
        provider: str | Provider | None,
        kind: str,
        span: Span,
        source: str | None = None,
    ) -> pd.DataFrame:
        """Return the settled candles of the span, as `fetch` returns them."""
        wanted = self.arguments(symbol, timeframe, self.range(*span), provider, kind)
        return self.fetch_frame(self.runtime, wanted, self.read_policy(self.runtime.settings, source))

    def first_ms(self, symbol: str, provider: str | Provider | None, kind: str) -> int:
        """Return the opening of the first candle of the symbol."""
        policy = self.read_policy(self.runtime.settings, None)
        return int(self.find_first_candle(self.runtime, symbol, provider, kind, policy).value // 10**6)

    def read_clock(self, wanted: SeriesRequest) -> None:
        """Have the clock of the provider read, unless what is known of it still holds."""
        with self.runtime.scope() as scope:
            wanted.source.now_ms(scope, wanted.series)

    def read_again(self, wanted: SeriesRequest, span: Span) -> bool:
        """Read candles of a short span that has settled once more, and return whether that could be done. What differs
        from what is stored takes its place, and is noted as a revision."""
        series, source, cache = wanted.series, wanted.source, self.runtime.cache
        settling, timeframe = wanted.feed.settling(series), series.timeframe
        with self.runtime.scope() as scope:
            now_ms = source.now_ms(scope, series)
            scope.as_of = AsOf(now_ms, source.server_clock.moment().wall_s, is_checked=True)
            answer = SeriesReader(source, series, scope).fetch_span(span, lambda hole, first_ms: 0)
        if answer.error is not None or not answer.candles.count:
            return False
        chunks = range(chunk_of(timeframe, answer.span.start_ms), chunk_of(timeframe, answer.span.end_ms - 1) + 1)

        def change(stored: dict[int, Entry]) -> dict[int, Merged]:
            changed = {}
            for chunk, old in stored.items():
                part = chunk_span(timeframe, chunk).clip(answer.span).clip(old.covered)
                new = absorb(old, part, answer.candles.trim(part), [], settling=settling, now_ms=now_ms)
                if part and new is not None:
                    changed[chunk] = merge_entries(old, new, [part], timeframe=timeframe, seen=old)
                    entry = changed[chunk].entry._replace(stored_ms=now_ms)
                    cache.entries.note_revisions(series, find_revisions(old, entry), settling)
            return changed

        until_s = self.runtime.clock() + timeframe.nominal_ms / 1000
        cache.entries.update(series, list(chunks), change, dict.fromkeys(chunks, until_s))
        cache.frames.drop(series)
        return True


def candles_of(updates: Sequence[CandleUpdate], columns: Sequence[str]) -> Candles:
    """Return the candles that a stream says, with the columns of the feed; NaN or MISSING for what it does not say."""
    block = np.empty((len(columns), len(updates)), np.int64)
    block[0] = [update.open_ms for update in updates]
    for row, name in enumerate(columns[1:]):
        values = [update.values[row] for update in updates]
        if name in INTEGERS:
            block[row + 1] = [MISSING if value is None else int(value) for value in values]
        else:
            block[row + 1].view(np.float64)[:] = [np.nan if value is None else value for value in values]
    return Candles(tuple(columns), block)


def store_streamed(
    cache: CandleCache, wanted: SeriesRequest, updates: Sequence[CandleUpdate], now_ms: int, until_s: float
) -> None:
    """Store adjoining settled candles that a stream closed, until `until_s` also in memory. What is stored of their
    slots already stays."""
    series, settling = wanted.series, wanted.feed.settling(wanted.series)
    timeframe = series.timeframe
    whole = candles_of(updates, wanted.feed.columns)
    span = timeframe.span(timeframe.ordinal(updates[0].open_ms), timeframe.ordinal(updates[-1].open_ms) + 1)
    chunks = range(chunk_of(timeframe, span.start_ms), chunk_of(timeframe, span.end_ms - 1) + 1)

    def change(stored: dict[int, Entry]) -> dict[int, Merged]:
        changed = {}
        for chunk in chunks:
            old, part = stored.get(chunk), chunk_span(timeframe, chunk).clip(span)
            if old is not None and part.start_ms < old.covered.end_ms:
                part = part.after(old.covered.end_ms)
            before = old if old is not None and part.touches(old.covered) else None
            new = absorb(before, part, whole.trim(part), [], settling=settling, now_ms=now_ms) if part else None
            if new is not None:
                read_ms = updates[0].open_ms if before is None else before.stored_ms  # no request was sent since
                new = new._replace(stored_ms=read_ms)
                changed[chunk] = merge_entries(old, new, [part], timeframe=timeframe, seen=old)
        return changed

    cache.entries.update(series, list(chunks), change, dict.fromkeys(chunks, until_s))
    cache.frames.drop(series)
