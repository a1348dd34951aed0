"""The request limits of a provider: when they are read, and which of them are too low to be obeyed."""

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

# For how long limits serve that were read.
_SERVE_S = 3_600.0


class RequestLimits:
    """The limits that a client keeps to. Shared by all threads of a fetcher."""

    def __init__(self, provider: Provider, client: ServiceClient, steady_s: Callable[[], float]) -> None:
        self._provider = provider
        self._client = client
        self._steady_s = steady_s
        self._read_s = -math.inf  # of the steady clock, when they were requested
        self.refused: list[Limit] = []  # limits of the provider that are too low to be obeyed

    @property
    def are_known(self) -> bool:
        """Return whether the limits were read in the last hour, here or by another process, or cannot be read."""
        if self._provider.describe is None or self._client.limiter.knows_limits():
            return True
        return self._steady_s() - self._read_s < _SERVE_S

    def read(self, symbol: str, scope: CallScope) -> None:
        """Read the limits, once an hour. Where they cannot be read, the documented ones stay in force.

        Other threads and processes that need them meanwhile wait a while for the reply.
        """
        with self._client.limiter.asking_limits(scope) as is_my_turn:
            if not is_my_turn or self.are_known:
                return
            try:
                self.set_from(self.describe(symbol, scope))
            except (Banned, AccessDenied, CancelledError):
                raise  # the next call has to read them
            except CandleFetcherError:
                pass  # an unknown symbol shows when its candles are requested; without limits a fetch goes on
            self._read_s = self._steady_s()

    def describe(self, symbol: str, scope: CallScope) -> Listing:
        """Return what the provider lists about the symbol, and its limits; an empty listing where it has none of them.

        Raises UnknownSymbol where it lists no such symbol.
        """
        if self._provider.describe is None:
            return Listing((), ())
        question = self._provider.describe(symbol)
        return self._client.request(question.call, question.parse, symbol=symbol, scope=scope)[0]

    def set_from(self, listing: Listing) -> None:
        """Count by the limits of the listing from now on, where it has any."""
        if listing.limits:
            self.refused += self._client.limiter.set_limits(listing.limits)

    def left(self) -> list[tuple[Limit, int]]:
        """Return the limits in force, each with what it lets through before its present interval ends."""
        return self._client.limiter.left()


def least_limits(provider: Provider) -> Mapping[str, int]:
    """Return what one request for the limits and the candles of one chunk take, by kind: no limit can be lower."""
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
