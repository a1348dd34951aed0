"""A provider's list of corporate actions, page by page."""

from __future__ import annotations

from candle_fetcher.core.actions import Action
from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import NotOffered, ReplyError
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import MINUTE_MS
from candle_fetcher.sources.rest import RestSource
from candle_fetcher.sources.scope import CallScope

_MOST_PAGES = 100
# This machine's clock decides which actions count.
_MOST_SKEW_MS = 10 * MINUTE_MS


def read_actions(source: RestSource, series: Series, scope: CallScope) -> list[Action]:
    """Return every corporate action that changes the series, announced ones too.

    Raises NotOffered where the provider lists none, ReplyError where a page repeats or the reply's date shows that this
    machine's clock is wrong, and what `ServiceClient.request` raises.
    """
    actions = source.provider.feed(series.kind).actions
    if actions is None:
        raise NotOffered(f"{source.provider.name} lists no corporate actions")
    found: list[Action] = []
    calls: set[Call] = set()
    call: Call | None = actions.call(series, source.estimated_ms())
    while call is not None:
        if call in calls or len(calls) >= _MOST_PAGES:
            raise ReplyError(f"{source.provider.name} repeats a page of actions, or has more than {_MOST_PAGES}")
        calls.add(call)

        def parse(body: bytes, sent: Call = call) -> tuple[tuple[Action, ...], Call | None]:
            return actions.parse(sent, body, series)

        (page, call), head = source.request(call, parse, symbol=series.symbol, scope=scope)
        found += page
    made_ms, now_ms = head.made_ms, source.estimated_ms()
    if made_ms is not None and abs(made_ms - now_ms) > _MOST_SKEW_MS:
        raise ReplyError(f"the list of actions is dated {iso(made_ms)}, but this machine's clock says {iso(now_ms)}")
    return found
