"""One provider by REST: its client, keys, clock, limits and list of symbols. `reader.py` requests its candles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.errors import AccessDenied, Banned, NotOffered, RateLimited, ReplyError, TransportError
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.providers import Listing, Provider
from candle_fetcher.providers.refusals import by_status
from candle_fetcher.sources.client import Service, ServiceClient
from candle_fetcher.sources.clock import Reading, measure, measure_date
from candle_fetcher.sources.keyring import FixedKeys, Keyring
from candle_fetcher.sources.limits import RequestLimits, least_limits
from candle_fetcher.sources.pages import SeriesPages
from candle_fetcher.sources.scope import CallScope
from candle_fetcher.sources.wire import Wire

_TOKEN_LIMITS = (Limit(30, 60),)


class RestSource:
    """The REST side of one provider. Shared by all threads of a fetcher."""

    def __init__(
        self,
        provider: Provider,
        hosts: tuple[str, ...],
        wire: Wire,
        *,
        keys: Mapping[str, str] = MappingProxyType({}),
        token_host: str | None = None,
    ) -> None:
        self.provider = provider
        self.hosts = hosts
        self._wire = wire
        self.server_clock = wire.server_clock()
        self._token_host = token_host
        self.keyring = Keyring(provider, keys, self._ask_for_token, wire.steady_s)
        service = Service(
            provider.name,
            hosts,
            provider.refuse,
            provider.default_limits,
            provider.used,
            self.keyring,
            self.keyring.digest,
            least_limits(provider),
        )
        self._client = ServiceClient(service, wire, self.server_clock)
        self.limits = RequestLimits(provider, self._client, wire.steady_s)
        self.describe = self.limits.describe
        self.estimated_ms = self.server_clock.estimated_ms
        self.request = self._client.request
        self.budget = self._client.budget
        self.renew = self._client.renew
        self.gate = self._client.gate
        limits = provider.funding.limits if provider.funding is not None else ()
        self.funding_budget = self.budget(limits, "funding") if limits else None
        self._clock_reads: SingleFlight[tuple[Series | None, bool], int] = SingleFlight()
        self.warned: set[str] = set()  # kinds of warnings that a caller has received

    def _ask_for_token(self, call: Call, keys: Keys, parse: Callable[[bytes], Any], scope: CallScope) -> Any:
        """Return the parsed reply of the service that issues this provider's tokens."""
        token = self.provider.token
        assert token is not None

        def refuse(reply: Reply, symbol: str, now_ms: int) -> Exception:
            if reply.status not in (400, 401, 403):
                return by_status(token.name, reply, symbol, now_ms)
            return AccessDenied(
                f"{token.name} gave no token (status {reply.status})",
                fix=f"Sign in again at {self.provider.key_page}, and put the new values into api_keys",
                status=reply.status,
            )

        host = self._token_host or token.host
        service = Service(token.name, (host,), refuse, _TOKEN_LIMITS, keys=FixedKeys(keys))
        return ServiceClient(service, self._wire, self.server_clock).request(call, parse, scope=scope)[0]

    # -- the provider's clock and limits ------------------------------------------------------------------------

    def now_ms(self, scope: CallScope, series: Series | None, *, is_doubted: bool = False) -> int:
        """Return the provider's clock in Unix ms.

        The clock is requested where the last reading is old or `is_doubted`, or this machine's clock was set since.

        Where the provider has no request for its clock, the Date header of a reply with candles of the series counts.
        """
        known_ms = None if is_doubted else self.server_clock.known_ms()
        if known_ms is not None:
            return known_ms
        if self.provider.clock is None and series is None:
            return self.estimated_ms()
        read = partial(self.server_clock.read, self.provider.name, partial(self._read_clock, series, scope))
        try:
            return self._clock_reads.run((series, is_doubted), read, scope)
        except (TransportError, ReplyError, RateLimited) as error:
            known_ms = None if is_doubted or isinstance(error, Banned) else self.server_clock.lasting_ms()
            if known_ms is None:
                raise
            return known_ms

    def _read_clock(self, series: Series | None, scope: CallScope, again: bool) -> Reading | None:
        """Return one reading of the provider's clock; None where its replies do not state the time.

        The Date of a reply that the public call has kept is enough, unless the clock is read `again`.
        """
        clock = self.provider.clock
        if clock is not None:
            server_ms, head = self.request(clock.call, clock.parse, scope=scope)
            self.server_clock.note_lag(server_ms, head)
            return measure(server_ms, head)
        assert series is not None
        pages, first_call = self.pages(series, scope), self.provider.feed(series.kind).first_call
        if first_call is not None:  # without a key
            return measure_date(pages.request(first_call(series), ALL_TIME).head)
        own_ms, timeframe = self.estimated_ms(), series.timeframe
        newest = Span(timeframe.open_ms(timeframe.ordinal(own_ms) - 1), own_ms + 1)
        return measure_date(pages.get(newest, refresh=again).head)

    def pages(self, series: Series, scope: CallScope) -> SeriesPages:
        """Return an object that requests the candles of the series, page by page, for one public call."""
        return SeriesPages(self.provider.feed(series.kind), series, scope, self._client, self.server_clock)

    def listing(self, scope: CallScope) -> Listing:
        """Return every symbol that the provider lists. Raises NotOffered where it has no list."""
        question = self.provider.listing
        if question is None:
            raise NotOffered(f"{self.provider.name} has no list of symbols")
        return self.request(question.call, question.parse, scope=scope)[0]
