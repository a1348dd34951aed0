"""What is known of each series beside its candles, kept in memory and on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from candle_fetcher.cache.documents import DocumentStore, int64, text
from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.corrections import Corrections
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.facts import EmptySpan, Facts, FailedSpan, News, Unverified
from candle_fetcher.core.files import DEFAULT_LAGS, Lags
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge
from candle_fetcher.store import Store

# Stands for the file of candles without checksum, where the facts with its name are lost.
_NAME_LOST = "a file of unknown name"


class FactStore:
    """The facts of each series. Shared by threads."""

    def __init__(self, store: Store, documents: DocumentStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._documents = documents
        self._clock = clock
        # When a series begins: one request at a time, and what one reply said until another one confirms it.
        self.first_candles: SingleFlight[tuple[Series, Span | None], int | None] = SingleFlight()
        self.unconfirmed_first_ms: dict[tuple[Series, Span | None], int] = {}
        self._facts: dict[Series, Facts] = {}
        self._unsaved: set[Series] = set()  # series with facts that the disk did not take
        self._lock = threading.Lock()  # over `_facts`
        self._corrections: dict[str, Corrections] = {}  # by market

    def get(self, series: Series) -> Facts:
        """Return the facts, from memory once they were read."""
        known = self._facts.get(series)
        return self.reload(series) if known is None else known

    def reload(self, series: Series) -> Facts:
        """Return the facts as they lie on disk, where another process may have added to them."""
        known = self._facts.get(series)
        if known is not None and (self._store.disk is None or series in self._unsaved):
            return known
        facts = _read_facts(self._documents.load(f"{series.key}|facts"))
        with self._lock:
            newest = self._facts.get(series)
            if newest is known:  # otherwise another thread has changed them meanwhile
                newest = self._facts[series] = facts or known or Facts()  # on disk they may be lost, or never saved
            return newest or Facts()

    def restore_unverified(self, series: Series, entries: Iterable[Entry]) -> Facts:
        """Return the facts. Where those about candles without checksum are lost, restore them from the entries."""
        known = self.get(series)
        spans = merge([span for entry in entries for span in entry.unverified])
        if not spans or not known.lacks_note_of(spans):
            return known
        with self._documents.transaction():
            lost = self.reload(series).lacks_note_of(spans)
            unverified = [Unverified(span, _NAME_LOST) for span in lost]
            return self.learn(series, News(unverified=unverified), int(self._clock() * 1000))

    def learn(self, series: Series, news: News, now_ms: int) -> Facts:
        """Add the news to the facts of the series, and return them."""
        return self._change(series, lambda facts: facts.learn(news, now_ms))

    def drop_empty(self, series: Series, span: Span) -> None:
        """Forget the empty spans within a span that has candles at both its ends."""
        self._change(series, lambda facts: facts.without_empty(span))

    def forget(self, series: Series) -> None:
        """Forget the listing, the empty spans and the absent files, so that they are asked for again."""
        self.drop_unconfirmed(series)
        self._change(series, lambda facts: Facts(failed=facts.failed, unverified=facts.unverified))

    def drop_unconfirmed(self, series: Series) -> None:
        """Forget what one reply said of the first candle: another reply has confirmed or refuted it."""
        for key in [key for key in list(self.unconfirmed_first_ms) if key[0] == series]:
            self.unconfirmed_first_ms.pop(key, None)

    def drop(self, series: Series | None = None) -> None:
        """Forget all that is in memory of the series, or of every series."""
        with self._lock:
            if series is None:
                self._corrections.clear()
            for one in list(self._facts) if series is None else [series]:
                self._facts.pop(one, None)
                self._unsaved.discard(one)

    def known_series(self) -> set[Series]:
        """Return the series that have facts in memory."""
        return set(self._facts)

    def lags(self, series: Series) -> Lags:
        """Return how late the files of the series' market are, as far as was seen."""
        document = self._documents.load(f"lags|{series.provider}|{series.origin or ''}")
        try:
            lags = Lags(*map(int64, document))
        except (TypeError, ValueError):
            return DEFAULT_LAGS
        return Lags(*(min(max(0, ms), most_ms) for ms, most_ms in zip(lags, DEFAULT_LAGS, strict=True)))

    def save_lags(self, series: Series, lags: Lags) -> None:
        """Store how late the files of the series' market are."""
        self._documents.save(f"lags|{series.provider}|{series.origin or ''}", lags)

    def corrections(self, series: Series) -> Corrections:
        """Return how long after their close candles of the series' market were seen to change."""
        market = f"settling|{series.provider}|{series.origin or ''}"
        known = self._corrections.get(market)
        if known is None:
            try:
                known = Corrections(*map(int64, self._documents.load(market) or ()))
            except (TypeError, ValueError):
                known = Corrections()
            self._corrections[market] = known
        return known

    def learn_corrections(self, series: Series, revisions: Iterable[Revision], settling: Settling) -> bool:
        """Learn from revisions how long after their close candles of the market change. Return whether it is longer
        than was known."""
        market = f"settling|{series.provider}|{series.origin or ''}"
        with self._documents.transaction():
            self._corrections.pop(market, None)  # another process may have learned more
            known = self.corrections(series)
            found = self._corrections[market] = known.found(revisions, settling)
            if found != known:
                self._documents.save(market, found)
        return found.lag_ms > known.at(found.seen_ms)

    def _change(self, series: Series, change: Callable[[Facts], Facts]) -> Facts:
        with self._documents.transaction():
            old = self.reload(series)
            facts = change(old)
            if facts != old or series in self._unsaved:
                self._save(series, facts)
        return facts

    def _save(self, series: Series, facts: Facts) -> None:
        """Keep the facts, in memory alone while the disk cannot take them."""
        with self._lock:
            self._facts[series] = facts
        if self._documents.save(f"{series.key}|facts", _document_of(facts)):
            self._unsaved.discard(series)
        else:
            self._unsaved.add(series)


def _document_of(facts: Facts) -> dict[str, Any]:
    """Return the facts as JSON: each is a list that begins with the start and the end of its span."""
    return {
        "first_ms": facts.first_ms,
        "quiet": [(*span, *rest) for span, *rest in facts.empty],
        "absent": facts.absent,
        "failed": [(*span, *rest) for span, *rest in facts.failed],
        "unverified": [(*span, *rest) for span, *rest in facts.unverified],
    }


def _read_facts(document: Any) -> Facts | None:
    """Return the facts of a JSON document, None where it holds anything else."""
    try:
        first_ms = document["first_ms"]
        return Facts(
            None if first_ms is None else int64(first_ms),
            tuple(EmptySpan(_span(a, b), text(why), int64(at)) for a, b, why, at in document["quiet"]),
            tuple((text(path), int64(until)) for path, until in document["absent"]),
            tuple(FailedSpan(_span(a, b), text(error), int64(at)) for a, b, error, at in document["failed"]),
            tuple(Unverified(_span(a, b), text(path)) for a, b, path in document["unverified"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _span(start_ms: Any, end_ms: Any) -> Span:
    """Return the span between two integers. Raises ValueError for other values."""
    return Span(int64(start_ms), int64(end_ms))
