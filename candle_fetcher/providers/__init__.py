"""Floor 1: facts about providers and pure functions. One file a provider; its `PROVIDERS` are found by themselves."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from candle_fetcher.core.errors import InputError, unknown
from candle_fetcher.providers.base import Archive, Feed, Listed, Listing, Provider

__all__ = ["Archive", "Feed", "Listed", "Listing", "Provider", "all_providers", "find_provider"]


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
