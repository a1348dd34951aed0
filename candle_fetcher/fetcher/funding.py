"""Funding rates: a calendar month is an entry, filled from its first instant on, so that only its tail is asked for.

Nothing about the distance of two records is assumed. What an answer is silent about is believed up to a minute before
now: a record may be written late. Later than that, or than the newest record, is asked for each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.candles import Candles, Gap, join, no_candles, overlay
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import Banned, RateLimited, ReplyError, SourceError, TransportError
from candle_fetcher.core.expiry import LAG_MS
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe
from candle_fetcher.fetcher.gather import POLL_S
from candle_fetcher.sources import Errand, FundingSource

MONTH = parse_timeframe("1M")
# A range that ends further back than this is settled whatever our clock says, and may be asked for without asking it.
_NEAR_MS = 2 * DAY_MS


@dataclass
class FundingTold:
    """The records of a span, the tiers that they came from, and what could not be had. `in_doubt`: nothing came, nor is
    anything stored, so that the symbol may not exist."""

    span: Span
    records: Candles
    sources: dict[str, int]
    missing: list[Gap] = field(default_factory=list)
    refusal: SourceError | None = None
    in_doubt: bool = False


class FundingGatherer:
    """Gathers funding rates over the cache and a source. Shared by all threads of a fetcher."""

    def __init__(self, cache: CandleCache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._locks: dict[Series, threading.Lock] = {}

    def gather(
        self,
        source: FundingSource,
        series: Series,
        span: Span,
        now_ms: int,
        errand: Errand,
        *,
        refresh: bool = False,
        only_cache: bool = False,
        until_stored: bool = False,
    ) -> FundingTold:
        """Every record of the span, or what of it could not be had and why.

        `only_cache` asks nobody, `until_stored` then ends the span where the stored records end. Two threads that want
        the same series take turns: the second finds what the first has stored.
        """
        lock = self._locks.setdefault(series, threading.Lock())
        while not lock.acquire(timeout=POLL_S):
            if errand.is_set():
                raise CancelledError
        try:
            trip = _Trip(self._cache, source, series, span, now_ms, errand)
            if not refresh:
                trip.look_up()
            if only_cache and until_stored and trip.entries:
                stored_ms = max(entry.covered.end_ms for entry in trip.entries.values())
                trip.span = Span(trip.span.start_ms, max(trip.span.start_ms, min(stored_ms, span.end_ms)))
            asks = trip.asks()
            if not only_cache:
                for ask in asks:
                    trip.ask(ask, self._clock())
                    if trip.refusal is not None:
                        break
            return trip.told()
        finally:
            lock.release()


class _Trip:
    """The state of one gathering."""

    def __init__(
        self, cache: CandleCache, source: FundingSource, series: Series, span: Span, now_ms: int, errand: Errand
    ) -> None:
        self.cache = cache
        self.source = source
        self.series = series
        self.span = Span(min(max(span.start_ms, source.funding.since_ms), span.end_ms), span.end_ms)
        self.now_ms = now_ms
        self.errand = errand
        self.entries: dict[int, Entry] = {}
        self.kept: dict[str, list[Candles]] = {"memory": [], "disk": []}
        self.fresh: list[Span] = []
        self.refusal: SourceError | None = None

    def _months(self) -> range:
        return range(MONTH.ordinal(self.span.start_ms), MONTH.first_slot(self.span.end_ms)) if self.span else range(0)

    def look_up(self) -> None:
        for month, (tier, entry) in self.cache.load(self.series, self._months()).items():
            if entry.candles.names == FUNDING_COLUMNS:
                self.entries[month] = entry
                self.kept[tier].append(entry.candles)

    def asks(self) -> list[Span]:
        """What to ask for: the rest of each month of which something is wanted that is not covered."""
        until_ms = max(self.span.end_ms, self.now_ms - _NEAR_MS)
        asks = []
        for month in self._months():
            whole = Span(max(MONTH.open_ms(month), self.source.funding.since_ms), MONTH.open_ms(month + 1))
            entry = self.entries.get(month)
            if entry is None or not entry.covered.holds(whole.clip(self.span)):
                start_ms = whole.start_ms if entry is None else entry.covered.end_ms
                asks.append(Span(start_ms, min(whole.end_ms, until_ms)))
        return merge(asks)

    def ask(self, span: Span, stored_s: float) -> None:
        """Asks for the span and stores each page as it comes."""
        error = self.errand.clock_error
        if error is not None and span.end_ms > self.now_ms - _NEAR_MS:
            self.refusal = error
            return
        try:
            for page in self.source.pages(self.series.symbol, span, self.errand):
                self.fresh.append(page.span)
                self._store(page.span, page.records, stored_s)
        except Banned:
            raise
        except (TransportError, ReplyError, RateLimited) as refused:
            self.refusal = refused

    def _store(self, span: Span, records: Candles, stored_s: float) -> None:
        for month in range(MONTH.ordinal(span.start_ms), MONTH.first_slot(span.end_ms)):
            whole = Span(MONTH.open_ms(month), MONTH.open_ms(month + 1))
            piece = whole.clip(span)
            inside = records.trim(piece)
            old = self.entries.get(month)
            covered, candles = piece, inside
            if old is not None and old.covered.end_ms >= piece.start_ms:
                covered = Span(old.covered.start_ms, max(old.covered.end_ms, piece.end_ms))
                candles = overlay(old.candles, inside, piece)
            newest_ms = int(candles.open_ms[-1]) + 1 if candles.count else covered.start_ms
            covered = Span(covered.start_ms, max(newest_ms, min(covered.end_ms, self.now_ms - LAG_MS)))
            entry = self.entries[month] = Entry(covered, self.now_ms, (), candles)
            if covered:
                # Another process may have stored more of a month that is not over: the disk is looked at again.
                until_s = None if covered.end_ms == whole.end_ms else stored_s + LAG_MS / 1000
                self.cache.save(self.series, month, entry, until_s=until_s)

    def told(self) -> FundingTold:
        parts = [self.entries[month].candles for month in sorted(self.entries)]
        records = join(parts).trim(self.span) if parts else no_candles(FUNDING_COLUMNS)
        covered = [*self.fresh, *(entry.covered for entry in self.entries.values())]
        counts = {"memory": 0, "disk": 0, "archive": 0, "rest": 0}
        for tier, kept in self.kept.items():
            counts[tier] = sum(one.trim(self.span).count for one in kept)
        counts["rest"] = records.count - counts["memory"] - counts["disk"]
        return FundingTold(
            span=self.span,
            records=records,
            sources=counts,
            # How many records a span holds cannot be known of one that did not come.
            missing=[Gap(one.start_ms, one.end_ms - 1, 0, "fetch_failed") for one in subtract(self.span, covered)],
            refusal=self.refusal,
            in_doubt=bool(self.fresh) and not any(entry.candles.count for entry in self.entries.values()),
        )
