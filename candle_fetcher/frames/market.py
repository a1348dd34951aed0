"""What a provider says of the series of a frame, by the frame's manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from candle_fetcher.core.candles import Int64s
from candle_fetcher.core.errors import unknown
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.zones import zone
from candle_fetcher.providers import Feed, find_known


class Market(NamedTuple):
    """The feed of a series, and the time zone in which its days open at midnight; None for UTC."""

    provider: str
    feed: Feed
    zone_name: str | None

    def zone_of(self, timeframe: Timeframe) -> str | None:
        """Return the zone in which candles of that length open; None for UTC."""
        return self.zone_name if timeframe.unit in "dwM" else None


def find_market(manifest: Mapping[str, Any] | None) -> Market | None:
    """Return the market of the series that the manifest names; None where it names none, or no provider known here.

    Raises InputError where the provider cannot have such a symbol.
    """
    if manifest is None:
        return None
    name, symbol, kind = (manifest.get(key) for key in ("provider", "symbol", "kind"))
    provider = find_known(name) if isinstance(name, str) else None
    if provider is None or not isinstance(symbol, str) or not isinstance(kind, str) or kind not in provider.feeds:
        return None
    feed = provider.feed(kind)
    timeframe = parse_timeframe(manifest.get("timeframe", "1d"))
    series = Series(provider.name, manifest.get("origin"), provider.provider_symbol(symbol, kind), timeframe, kind)
    return Market(provider.name, feed, feed.zone(series))


def check_word(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise InputError where the value is not one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise unknown(name, value, allowed)


def to_local(utc_ms: Int64s, zone_name: str | None) -> Int64s:
    """Return instants as local times of the zone, which count like Unix ms."""
    return utc_ms if zone_name is None else zone(zone_name).to_local(utc_ms)


def to_utc(local_ms: Int64s, zone_name: str | None) -> Int64s:
    """Return the first instants at which clocks of the zone show these times."""
    return local_ms if zone_name is None else zone(zone_name).begins_ms(np.asarray(local_ms))
