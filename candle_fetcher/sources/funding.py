"""A provider's funding rates by REST, page by page.

Hosts, retries, pauses and bans are shared with the provider's other requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.funding import check_funding
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.providers import find_funding
from candle_fetcher.sources.rest import RestSource
from candle_fetcher.sources.scope import AsOf, CallScope


def funding_pages(source: RestSource, symbol: str, span: Span, scope: CallScope) -> Iterator[tuple[Span, Candles]]:
    """Yield the records of the span, oldest first, each page with the span that it answers for.

    An empty page ends the reading; it answers for the rest of the span. An empty first page is requested again where
    the span is longer than a day. A reply says nothing about the time after it was made. Where the span ends later than
    that, this machine's clock is ahead: then the span is cut at the time of the reply, and `scope.as_of` is set to it.
    """
    funding = find_funding(source.provider)
    is_doubted = span.end_ms - span.start_ms > DAY_MS
    while span:
        records, made_ms = _request_page(source, symbol, span, funding.limit, scope)
        if made_ms is None and (scope.as_of is None or not scope.as_of.is_checked):
            made_ms = source.now_ms(scope, None)
        if made_ms is not None and span.end_ms > made_ms + funding.late_rows_ms:
            span = span.before(made_ms)
            scope.as_of = AsOf(made_ms, source.server_clock.moment().wall_s, is_checked=True)
        if records.count or not is_doubted:
            end_ms = int(records.open_ms[-1]) + 1 if records.count else span.end_ms
            yield Span(span.start_ms, end_ms), records
            span = Span(end_ms, span.end_ms)
        is_doubted = False


def has_funding(source: RestSource, symbol: str, scope: CallScope) -> bool:
    """Return whether the symbol has ever had a funding rate."""
    span = Span(find_funding(source.provider).since_ms, source.estimated_ms())
    return _request_page(source, symbol, span, 1, scope)[0].count > 0


def _request_page(
    source: RestSource, symbol: str, span: Span, rows: int, scope: CallScope
) -> tuple[Candles, int | None]:
    """Return the records of one reply, and when the reply was made; None for that where it does not state it."""
    funding = find_funding(source.provider)
    records, head = source.request(
        funding.call(symbol, span, rows),
        lambda body: check_funding(funding.parse(body, symbol), span),
        symbol=symbol,
        scope=scope,
        budget=source.funding_budget,
    )
    return records, head.made_ms
