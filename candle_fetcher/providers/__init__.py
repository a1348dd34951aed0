"""Floor 1: facts about providers and pure functions. One file a provider; its `PROVIDERS` are found by themselves."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from candle_fetcher.core.errors import InputError, NotOffered, unknown
from candle_fetcher.providers.base import Archive, Feed, Funding, Listed, Listing, Provider

__all__ = [
    "Archive",
    "Feed",
    "Funding",
    "Listed",
    "Listing",
    "Provider",
    "all_providers",
    "find_funding",
    "find_provider",
]


@functools.cache
def all_providers() -> dict[str, Provider]:
    """Every provider by its id."""
    found: dict[str, Provider] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if module != "base":
            offered = getattr(importlib.import_module(f"{__name__}.{module}"), "PROVIDERS", ())
            found.update((provider.name, provider) for provider in offered)
    return found


def find_provider(name: object) -> Provider:
    """The provider with that id; InputError names the closest one."""
    if isinstance(name, Provider):
        return name
    provider = all_providers().get(name) if isinstance(name, str) else None
    if provider is None:
        raise unknown("provider", name, all_providers())
    if not isinstance(provider, Provider):
        raise InputError(f"provider {name!r} is not a Provider")
    return provider


def find_funding(provider: Provider) -> Funding:
    """The provider's funding rates; NotOffered names the providers that have some."""
    if provider.funding is None:
        having = ", ".join(name for name, one in all_providers().items() if one.funding is not None)
        raise NotOffered(f"{provider.name} has no funding rates; these have: {having}")
    return provider.funding
