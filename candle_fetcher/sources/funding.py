"""A provider's funding rates by REST, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.funding import check_funding
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.providers import Funding
from candle_fetcher.sources.asking import Errand
from candle_fetcher.sources.clock import Heard
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
        self._budget = source.budget(funding.limits, "funding") if funding.limits else None

    def pages(self, symbol: str, span: Span, stop: Errand) -> Iterator[Page]:
        """The records of the span, oldest first, up to the page that is empty; its span runs to the end.

        A short page is no end, whatever made it short. An empty first page is believed of a day; of more than that it
        is asked for again. No reply is believed about the time after it was made: this machine's clock is ahead then,
        and the span ends there.
        """
        doubts = span.end_ms - span.start_ms > DAY_MS
        while span:
            records, made_ms = self._page(symbol, span, self.funding.limit, stop)
            if made_ms is None and (stop.as_of is None or not stop.as_of.is_checked):
                made_ms = self.source.now_ms(stop, None)
            if made_ms is not None and span.end_ms > made_ms + self.funding.late_ms:
                span = span.before(made_ms)
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
        return self._page(symbol, Span(self.funding.since_ms, end_ms), 1, stop)[0].count > 0

    def _page(self, symbol: str, span: Span, rows: int, stop: Errand) -> tuple[Candles, int | None]:
        """The records of one reply, and when it was made; None where it does not say."""

        def parse(body: bytes) -> Candles:
            return check_funding(self.funding.parse(body, symbol), span)

        heard: list[Heard] = []
        records = self.source.ask(
            self.funding.call(symbol, span, rows),
            parse,
            symbol=symbol,
            stop=stop,
            budget=self._budget,
            hear=heard.append,
        )
        return records, heard[-1].made_ms
