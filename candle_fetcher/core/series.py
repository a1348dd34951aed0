"""Which candles: the value that names a series, and the cache keys made of it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from candle_fetcher.core.timeframe import Timeframe


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
