"""A provider's list of corporate actions, page by page."""

from __future__ import annotations

from candle_fetcher.core.actions import Action
from candle_fetcher.core.call import Call
from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import NotOffered, ReplyError
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import MINUTE_MS
from candle_fetcher.sources.asking import Errand
from candle_fetcher.sources.clock import Heard
from candle_fetcher.sources.rest import Source

_MOST_PAGES = 100
# By this machine's clock it is decided which actions count.
_MOST_SKEW_MS = 10 * MINUTE_MS


def read_actions(source: Source, series: Series, stop: Errand) -> list[Action]:
    """Every corporate action that changes the series, those that are announced too.

    Raises NotOffered where the provider lists none, ReplyError where a page leads back, or the reply's date shows that
    this machine's clock is wrong; and what `Source.ask` raises.
    """
    actions = source.provider.feed(series.kind).actions
    if actions is None:
        raise NotOffered(f"{source.provider.name} lists no corporate actions")
    found: list[Action] = []
    heard: list[Heard] = []
    asked: set[Call] = set()
    more: Call | None = actions.call(series, source.estimated_ms())
    while more is not None:
        if more in asked or len(asked) >= _MOST_PAGES:
            raise ReplyError(f"page {len(asked) + 1} of the corporate actions leads back to a page before")
        asked.add(more)

        def parse(body: bytes, sent: Call = more) -> tuple[tuple[Action, ...], Call | None]:
            return actions.parse(sent, body, series)

        page, more = source.ask(more, parse, symbol=series.symbol, stop=stop, hear=heard.append)
        found += page
    made_ms, now_ms = heard[-1].made_ms, source.estimated_ms()
    if made_ms is not None and abs(made_ms - now_ms) > _MOST_SKEW_MS:
        raise ReplyError(f"the list is dated {iso(made_ms)}, and this machine's clock says {iso(now_ms)}")
    return found
