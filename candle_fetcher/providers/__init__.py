"""The built-in providers, and those of installed packages. One module per provider lists its `PROVIDERS`.

An installed package offers providers through the entry-point group `candle_fetcher.providers`: a Provider, several, or
a module with `PROVIDERS`. One that cannot be loaded causes a warning and does not affect the others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from candle_fetcher.core.actions import Action
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, NotOffered, unknown, warn
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.live import (
    Ack,
    CandleUpdate,
    Ending,
    Heartbeat,
    LiveEvent,
    Notice,
    QuoteUpdate,
    Ready,
    Refusal,
    Say,
)
from candle_fetcher.core.quote import Ticker
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.providers.base import (
    Actions,
    Archive,
    Feed,
    Funding,
    Key,
    Listed,
    Listing,
    Provider,
    Question,
    Setting,
    Token,
    any_symbol,
)
from candle_fetcher.providers.quoting import QuoteFeed, QuoteRequest
from candle_fetcher.providers.refusals import by_status
from candle_fetcher.providers.streams import Channel, Message, Streams, Subscription

__all__ = [
    "Ack",
    "Action",
    "Actions",
    "Archive",
    "Call",
    "CandleUpdate",
    "Candles",
    "Channel",
    "Ending",
    "Feed",
    "Finality",
    "Funding",
    "Heartbeat",
    "Key",
    "Limit",
    "Listed",
    "Listing",
    "LiveEvent",
    "Message",
    "Notice",
    "Provider",
    "Question",
    "QuoteFeed",
    "QuoteRequest",
    "QuoteUpdate",
    "Ready",
    "Refusal",
    "Reply",
    "Say",
    "Series",
    "Setting",
    "Span",
    "Streams",
    "Subscription",
    "Ticker",
    "Token",
    "all_providers",
    "any_symbol",
    "by_status",
    "candles_from",
    "find_funding",
    "find_known",
    "find_provider",
    "settings_beside_defaults",
    "split_symbol",
    "suggested_providers",
]

GROUP = "candle_fetcher.providers"


class _PlugIns(NamedTuple):
    """The providers of installed packages by id, and, by the name of the entry point, why others cannot be used."""

    providers: dict[str, Provider]
    broken: dict[str, str]


_MODULES = ("alpaca", "alphavantage", "binance", "coingecko", "kraken", "tradestation")


def _import(module: str) -> Sequence[Provider]:
    """Return the providers of a built-in module, imported on demand; none for another name.

    The imports are written out because tools that freeze a program follow no others.
    """
    if module == "alpaca":
        from candle_fetcher.providers import alpaca

        return alpaca.PROVIDERS
    if module == "alphavantage":
        from candle_fetcher.providers import alphavantage

        return alphavantage.PROVIDERS
    if module == "binance":
        from candle_fetcher.providers import binance

        return binance.PROVIDERS
    if module == "coingecko":
        from candle_fetcher.providers import coingecko

        return coingecko.PROVIDERS
    if module == "kraken":
        from candle_fetcher.providers import kraken

        return kraken.PROVIDERS
    if module == "tradestation":
        from candle_fetcher.providers import tradestation

        return tradestation.PROVIDERS
    return ()


@functools.cache
def _of_module(module: str) -> dict[str, Provider]:
    return {provider.name: provider for provider in _import(module)}


@functools.cache
def _built_in() -> dict[str, Provider]:
    return {name: provider for module in _MODULES for name, provider in _of_module(module).items()}


@functools.cache
def _plug_ins() -> _PlugIns:
    from importlib import metadata  # on demand: looking through all packages takes 10 ms

    found = _PlugIns({}, {})
    for point in metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else point.value
        try:
            for provider in _offered(point.load()):
                if provider.name in _built_in() or provider.name in found.providers:
                    raise InputError(f"the id {provider.name!r} is taken; a plug-in needs an id of its own")
                found.providers[provider.name] = provider
        except (Exception, SystemExit) as error:  # noqa: BLE001 - another package may raise anything
            why = f"{type(error).__name__}: {str(error)[:200]}"
            said = f"the plug-in {point.name!r} of {package} cannot be used ({why}); update or uninstall {package}"
            found.broken[point.name] = said
            warn(CandleFetcherWarning(said))
    return found


def _offered(value: Any) -> list[Provider]:
    """Return the providers that an entry point offers. Raises InputError where its value has none."""
    value = getattr(value, "PROVIDERS", value)
    providers = [value] if isinstance(value, Provider) else value
    if not isinstance(providers, list | tuple) or not all(isinstance(one, Provider) for one in providers):
        raise InputError(
            f"it offers {str(value)[:80]!r}; expected a Provider, a list of them, or a module with PROVIDERS"
        )
    return list(providers)


def all_providers() -> dict[str, Provider]:
    """Return every provider by its id: built-in ones and those of installed packages."""
    return {**_built_in(), **_plug_ins().providers}


def find_known(name: str) -> Provider | None:
    """Return the provider with that id, in any case; None where there is none.

    Every import takes time: so the module that the name suggests is imported first, and installed packages are searched
    only for ids that are not built in.
    """
    name = name.strip().lower()
    found = _of_module(name.partition("-")[0]).get(name)
    return found or _built_in().get(name) or _plug_ins().providers.get(name)


def suggested_providers(name: object) -> list[Provider]:
    """Return the providers of the one built-in module that the name suggests; none for another name.

    No other module is imported.
    """
    return list(_of_module(name.partition("-")[0]).values()) if isinstance(name, str) else []


def split_symbol(text: str) -> tuple[str | None, str]:
    """Return the provider and the symbol of `provider:symbol`; None and the text where it names no provider.

    `BTC/USDT:USDT` names none: as in ccxt, the part after the colon is the currency that settles a perpetual.
    """
    name, colon, rest = text.partition(":")
    if not colon or "/" in name:
        return None, text
    return name.strip().lower(), rest


def find_provider(name: object) -> Provider:
    """Return the provider with that id, or the value itself if it is a Provider.

    Raises InputError for another value; it names the closest id, or why a plug-in of that name cannot be used.
    """
    if isinstance(name, Provider):
        return name
    provider = find_known(name) if isinstance(name, str) else None
    if provider is None:
        broken = _plug_ins().broken.get(name) if isinstance(name, str) else None
        if broken is not None:
            raise InputError(broken)
        raise unknown("provider", name, all_providers())
    return provider


def settings_beside_defaults(series: Series) -> dict[str, str]:
    """Return the settings of the series that are not the provider's default, by name."""
    known = find_known(series.provider)
    defaults = {} if known is None else {one.name: one.allowed[0] for one in known.settings}
    return {name: value for name, value in series.settings if defaults.get(name) != value}


def find_funding(provider: Provider) -> Funding:
    """Return the provider's funding rates. Raises NotOffered, which names the providers that have some."""
    if provider.funding is None:
        having = ", ".join(name for name, one in all_providers().items() if one.funding is not None)
        raise NotOffered(f"{provider.name} has no funding rates; these providers have them: {having}")
    return provider.funding
