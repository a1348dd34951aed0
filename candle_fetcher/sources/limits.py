"""The request limits of a provider: when they are read, and below which bound they are ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError

from candle_fetcher.core.call import Limit
from candle_fetcher.core.errors import AccessDenied, Banned, CandleFetcherError
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers import Listing, Provider
from candle_fetcher.sources.client import ServiceClient
from candle_fetcher.sources.pages import requests_for
from candle_fetcher.sources.scope import CallScope

# How long limits are used before they are read again.
_SERVE_S = 3_600.0


class RequestLimits:
    """The limits that the requests of a client obey. Shared by all threads of a fetcher."""

    def __init__(self, provider: Provider, client: ServiceClient, steady_s: Callable[[], float]) -> None:
        self._provider = provider
        self._client = client
        self._steady_s = steady_s
        self._read_s = -math.inf  # of the steady clock, when they were requested
        self.refused: list[Limit] = []  # limits of the provider that are too low to be obeyed

    @property
    def are_known(self) -> bool:
        """Return whether the limits need not be read: they were in the last hour, in any process, or cannot be."""
        if self._provider.describe is None or self._client.limiter.knows_limits():
            return True
        return self._steady_s() - self._read_s < _SERVE_S

    def read(self, symbol: str, scope: CallScope) -> None:
        """Read the limits, if they were not read in the last hour. If reading fails, the documented ones stay in force.

        Other threads and processes that need the limits wait for the reply, some seconds at most.
        """
        with self._client.limiter.asking_limits(scope) as is_my_turn:
            if not is_my_turn or self.are_known:
                return
            try:
                self.set_from(self.describe(symbol, scope))
            except (Banned, AccessDenied, CancelledError):
                raise  # the next call has to read the limits
            except CandleFetcherError:
                pass  # the documented limits are enough; an unknown symbol is refused when its candles are requested
            self._read_s = self._steady_s()

    def describe(self, symbol: str, scope: CallScope) -> Listing:
        """Return the provider's limits and its entry for the symbol; an empty listing where it has no such request.

        Raises UnknownSymbol where the provider lists no such symbol.
        """
        if self._provider.describe is None:
            return Listing((), ())
        question = self._provider.describe(symbol)
        return self._client.request(question.call, question.parse, symbol=symbol, scope=scope)[0]

    def set_from(self, listing: Listing) -> None:
        """Obey the limits of the listing from now on, if it has any."""
        if listing.limits:
            self.refused += self._client.limiter.set_limits(listing.limits)

    def left(self) -> list[tuple[Limit, int]]:
        """Return the limits in force, each with the weight or requests left until its present interval ends."""
        return self._client.limiter.left()


def least_limits(provider: Provider) -> Mapping[str, int]:
    """Return, by kind, the cost of reading the limits and the candles of one chunk; a lower limit cannot be true."""
    if provider.describe is None or "candles" not in provider.feeds:
        return {}
    feed = provider.feeds["candles"]
    try:
        symbol = provider.provider_symbol("BTC/USDT", "candles")
        series = Series(provider.name, None, symbol, parse_timeframe(feed.timeframes[0]), "candles")
        calls = [provider.describe(symbol).call, *requests_for(feed, series, chunk_span(series.timeframe, 0))]
    except Exception:  # noqa: BLE001 - a provider of another package may have no such symbol
        return {}
    return {"weight": sum(call.cost for call in calls), "requests": len(calls)}
