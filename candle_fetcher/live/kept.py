"""What the live calls of one fetcher keep between them: the last known quotes, and budgets of quotes alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from candle_fetcher.core.quote import Ticker

if TYPE_CHECKING:
    from candle_fetcher.net.limiter import Limiter
    from candle_fetcher.sources import RestSource

# The quotes known last are kept of so many symbols.
_MOST = 20_000


class Received(NamedTuple):
    """A ticker, and this machine's time in Unix ms when it came."""

    ticker: Ticker
    ms: int


class LastKnown:
    """The last known ticker of each symbol. Shared by threads."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[int, str], Received] = OrderedDict()
        self._budgets: dict[int, Limiter] = {}
        self._lock = threading.Lock()

    def keep(self, source: RestSource, received: Received) -> None:
        """Keep the ticker, unless a newer one is kept."""
        key = id(source), received.ticker.symbol
        with self._lock:
            before = self._found.pop(key, received)
            self._found[key] = max(before, received, key=lambda one: one.ms)
            while len(self._found) > _MOST:
                self._found.popitem(last=False)

    def find(self, source: RestSource, symbol: str) -> Received | None:
        """Return the ticker kept of the provider's symbol; None where there is none."""
        return self._found.get((id(source), symbol))

    def budget(self, source: RestSource) -> Limiter | None:
        """Return the budget of the provider's quotes, where it counts them apart; else None."""
        feed = source.provider.quotes
        if feed is None or not feed.limits:
            return None
        with self._lock:
            if id(source) not in self._budgets:
                self._budgets[id(source)] = source.budget(feed.limits, "quotes")
            return self._budgets[id(source)]
