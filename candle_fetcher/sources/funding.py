"""A provider's funding rates by REST, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.expiry import FOREVER_MS, LAG_MS
from candle_fetcher.core.funding import check_funding
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.providers import Funding
from candle_fetcher.sources.asking import Errand, told_ms
from candle_fetcher.sources.rest import Source


class Page(NamedTuple):
    """Every record of the span."""

    span: Span
    records: Candles


class FundingSource:
    """The funding rates of one provider. Shared by all threads of a fetcher.

    Requests take the way of the provider's others (hosts, retries, holds and bans are the same), and keep to the
    budget that the provider sets for them alone, where it does.
    """

    def __init__(self, source: Source, funding: Funding) -> None:
        self.source = source
        self.funding = funding
        self.told_ms = FOREVER_MS  # the hour on the newest reply; the far future where it does not tell
        self._budget = source.budget(funding.limits, "funding") if funding.limits else None

    def pages(self, symbol: str, span: Span, stop: Errand) -> Iterator[Page]:
        """The records of the span, oldest first, up to the page that is empty; its span runs to the end.

        A short page is no end, whatever made it short. An empty first page is believed of a day; of more than that it
        is asked for again. Nobody is believed about the time after the hour on the reply: our own clock is ahead then,
        and the span ends there.
        """
        doubts = span.end_ms - span.start_ms > DAY_MS
        while span:
            records = self._page(symbol, span, self.funding.limit, stop)
            if span.end_ms > self.told_ms + LAG_MS:
                span = Span(span.start_ms, max(span.start_ms, self.told_ms))
                stop.doubts_clock = True
            if records.count:
                next_ms = int(records.open_ms[-1]) + 1
                yield Page(Span(span.start_ms, next_ms), records)
                span = Span(next_ms, span.end_ms)
            elif not doubts:
                yield Page(span, records)
                return
            doubts = False

    def has_any(self, symbol: str, end_ms: int, stop: Errand) -> bool:
        """Whether the symbol has ever had a funding rate before the end."""
        return self._page(symbol, Span(self.funding.since_ms, end_ms), 1, stop).count > 0

    def _page(self, symbol: str, span: Span, rows: int, stop: Errand) -> Candles:
        def parse(body: bytes) -> Candles:
            return check_funding(self.funding.parse(body, symbol), span)

        return self.source.ask(
            self.funding.call(symbol, span, rows),
            parse,
            symbol=symbol,
            stop=stop,
            budget=self._budget,
            hear=self._heard,
        )

    def _heard(self, headers: Mapping[str, str]) -> None:
        now_ms = told_ms(headers)
        self.told_ms = FOREVER_MS if now_ms is None else now_ms
