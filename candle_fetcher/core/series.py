"""Which candles: the value that names a series, and the cache keys made of it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe


class Series(NamedTuple):
    """(provider, origin, symbol, timeframe, kind, settings that change values).

    `symbol` is the provider's own id, so that a key needs no listing. `origin` is the base URL where it is not the
    provider's own: candles of a practice exchange can never answer a request to the real one.
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
        settings = ",".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.settings)
        fields = (self.provider, self.origin or "", self.symbol, self.timeframe.name, self.kind, settings)
        return "|".join(quote(field, safe="") for field in fields)


def split_key(key: str) -> tuple[Series, str] | None:
    """The series that a cache key is of, and the rest of the key; None for a key that is of none."""
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
