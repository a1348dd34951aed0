"""Symbols that a provider lists, the closest names to a misspelt one, and the first candle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import pandas as pd

from candle_fetcher.concurrency import is_ours
from candle_fetcher.core.errors import CandleFetcherError, IncompleteData, SourceError, UnknownSymbol
from candle_fetcher.core.events import Operation
from candle_fetcher.fetcher.collect import Collector
from candle_fetcher.fetcher.policy import ONLY_CACHE, FetchPolicy
from candle_fetcher.fetcher.refusals import warn_of_limits
from candle_fetcher.fetcher.request import Arguments, Range, Request, make_request
from candle_fetcher.fetcher.runtime import Runtime
from candle_fetcher.providers import Listing, Provider
from candle_fetcher.sources import CallScope, RestSource

_LISTING_S = 86_400.0
# How much of a base, a quote or an id must be alike for a hint: `BCT` and `BTC` are 0.67.
_NEAR_BASE, _NEAR_QUOTE, _NEAR_ID = 0.65, 0.65, 0.8
_COLUMNS = ["symbol", "provider_symbol", "base", "quote", "status"]


def load_listing(runtime: Runtime, source: RestSource, scope: CallScope) -> Listing:
    """Return the provider's symbols, at most a day old, or older where it cannot be asked."""
    provider = source.provider
    name = f"{provider.name}|{runtime.origin(provider) or ''}"
    stored = runtime.cache.listings.load(name)
    # One that was stored at a time to come was stored by a clock that was wrong.
    if stored is not None and (abs(stored[1]) < _LISTING_S or runtime.is_offline()):
        return stored[0]
    if runtime.is_offline():
        raise IncompleteData(f"the symbols of {provider.name} are not in the cache, and {ONLY_CACHE}")
    try:
        listing = source.listing(scope)
    except SourceError:
        if stored is not None:
            return stored[0]
        raise
    source.limits.set_from(listing)
    warn_of_limits(source)
    runtime.cache.listings.save(name, listing)
    return listing


def list_symbols(runtime: Runtime, provider: str | Provider | None) -> pd.DataFrame:
    """Return the table of `CandleFetcher.symbols`."""
    began = time.perf_counter()
    with runtime.scope() as scope:
        found = runtime.find(provider)
        listing = load_listing(runtime, runtime.rest(found), scope)
    runtime.observe(Operation("symbols", time.perf_counter() - began, label=found.name))
    rows = [tuple(getattr(one, name) for name in _COLUMNS) for one in listing.symbols]
    return pd.DataFrame(rows, columns=_COLUMNS).sort_values("symbol", ignore_index=True)


def find_first_candle(
    runtime: Runtime, symbol: str, provider: str | Provider | None, kind: str, policy: FetchPolicy
) -> pd.Timestamp:
    """Return the time of `CandleFetcher.first_available`."""
    finest = "1m"
    if isinstance(kind, str):
        names = runtime.split_symbol(symbol, provider)[0].feed(kind).timeframes
        finest = "1m" if "1m" in names else names[0]
    request = make_request(runtime, Arguments(symbol, finest, Range(None, None), provider, kind, policy.source))
    with runtime.scope(request) as scope, naming_closest(runtime, request):
        first_ms = Collector(runtime.resources(), request, policy, scope).listed_ms()
    return pd.Timestamp(first_ms, unit="ms", tz="UTC").as_unit("ns")


@contextlib.contextmanager
def naming_closest(runtime: Runtime, request: Request) -> Iterator[None]:
    """Add the closest names to an UnknownSymbol, where the listing can be fetched."""
    try:
        yield
    except UnknownSymbol as error:
        # A listing is asked for by a thread of the fetcher, also where the caller's thread writes a file.
        close = _closest(runtime, request) if is_ours() else runtime.calls.run(lambda: _closest(runtime, request))
        raise UnknownSymbol(request.typed or request.symbol, request.series.provider, close) from error


def _closest(runtime: Runtime, request: Request) -> list[str]:
    """Return at most three listed symbols that the request may mean; none where no listing can be fetched."""
    wanted = request.symbol.upper()
    with contextlib.suppress(CandleFetcherError), runtime.scope() as scope:
        found = load_listing(runtime, request.source, scope).symbols
        listed = {one.symbol.upper(): one.symbol for one in found}
        same = [one.symbol for one in found if f"{one.base}/{one.quote}".upper() == wanted]
        same = [name for name in same if name.upper() != wanted]
        return [*dict.fromkeys([*same, *near_symbols(wanted, listed)])][:3]
    return []


def near_symbols(wanted: str, listed: Mapping[str, str]) -> list[str]:
    """Return the listed symbols that a misspelt one may mean, at most three; `listed` has them by name in capitals.

    Of `SHIB/USDT` the quote is like that of every other pair: the base has to be near too.
    """
    import difflib  # when something is wrong

    def likeness(name: str) -> float:
        parts, others = wanted.split("/"), name.split("/")
        if len(parts) != len(others):
            parts, others = [wanted.replace("/", "")], [name.replace("/", "")]
        alike = [difflib.SequenceMatcher(None, one, other).ratio() for one, other in zip(parts, others, strict=True)]
        is_near = alike[0] >= (_NEAR_BASE if len(alike) > 1 else _NEAR_ID) and min(alike) >= _NEAR_QUOTE
        return sum(alike) if is_near else 0.0

    found = sorted(((likeness(name), name) for name in listed if name != wanted), key=lambda one: (-one[0], one[1]))
    return [listed[name] for alike, name in found[:3] if alike]
