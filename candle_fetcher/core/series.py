"""The value that identifies a series, and the cache keys made of it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe


class Series(NamedTuple):
    """What a candle belongs to: provider, origin, symbol, timeframe, kind, and the settings that change values.

    `symbol` is the provider's own id, so that a key needs no listing. `origin` is the base URL, None for the provider's
    own host: candles of a practice exchange never answer a request to the real one.
    """

    provider: str
    origin: str | None
    symbol: str
    timeframe: Timeframe
    kind: str = "candles"
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """The prefix of the series' cache keys. Fields are percent-encoded, so that no field can imitate another."""
        provider, origin, symbol, timeframe, kind, settings = self
        return _key_of(provider, origin, symbol, timeframe.count, timeframe.unit, kind, settings)


# Its arguments are the parts of the timeframe, since Python compares numbers and texts faster than our dataclass.
@lru_cache(maxsize=4096)
def _key_of(
    provider: str,
    origin: str | None,
    symbol: str,
    count: int,
    unit: str,
    kind: str,
    settings: tuple[tuple[str, str], ...],
) -> str:
    chosen = ",".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in settings)
    fields = (provider, origin or "", symbol, Timeframe(count, unit).name, kind, chosen)
    return "|".join(quote(field, safe="") for field in fields)


def split_key(key: str) -> tuple[Series, str] | None:
    """Return the series of a cache key, and the rest of the key; None for another key."""
    *fields, rest = key.split("|", 6)
    if len(fields) != 6:
        return None
    provider, origin, symbol, timeframe, kind, settings = map(unquote, fields)
    pairs = [pair.partition("=") for pair in settings.split(",") if pair]
    try:
        grid = parse_timeframe(timeframe)
    except InputError:
        return None
    chosen = tuple((unquote(name), unquote(value)) for name, _, value in pairs)
    series = Series(provider, origin or None, symbol, grid, kind, chosen)
    return (series, rest) if key == f"{series.key}|{rest}" else None
