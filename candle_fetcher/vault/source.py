"""The calls of a CandleFetcher for one series, and the series that a user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from candle_fetcher.core.revisions import Revision
from candle_fetcher.core.series import Series
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.providers import Provider, settings_beside_defaults
from candle_fetcher.providers.series import read_series
from candle_fetcher.vault.state import SeriesId


class Resolved(NamedTuple):
    """A series that a user named: as a vault has it, as the cache has it (another timeframe where it is resampled), and
    its provider."""

    series: SeriesId
    stored: Series
    provider: Provider


def resolve(fetcher: CandleFetcher, symbol: str, timeframe: str, provider: Any, kind: str) -> Resolved:
    """Return the series. Raises InputError for what is not valid, NotOffered for what the provider does not have."""
    runtime = fetcher._runtime
    found, name = runtime.split_symbol(symbol, provider)
    stored, unified, target = read_series(found, runtime.origin(found), name, timeframe, kind)
    settings = tuple(sorted(settings_beside_defaults(stored).items()))
    series = SeriesId(found.name, unified, stored.symbol, target.name, kind, settings)
    return Resolved(series, stored, found)


class FetcherSource:
    """A series by the public calls of a CandleFetcher."""

    def __init__(self, fetcher: CandleFetcher, named: Resolved, columns: Any, partial: str = "raise") -> None:
        self._fetcher, self._named = fetcher, named
        self._words: tuple[str, str] = named.series.provider_symbol, named.series.timeframe
        self._options: dict[str, Any] = {"provider": named.provider, "kind": named.series.kind, "columns": columns}
        self._asked: dict[str, Any] = {**self._options, "partial": partial}

    def fetch(self, start: Any, end: int | None, limit: int | None = None) -> pd.DataFrame:
        """Return the settled candles of the range, with their manifest."""
        frame: pd.DataFrame = self._fetcher.fetch(*self._words, start, end, limit=limit, **self._asked)
        return frame

    def iterate(self, start: Any, end: int | None, rows: int) -> Iterator[pd.DataFrame]:
        """Yield the same in parts."""
        return self._fetcher.iter_frames(*self._words, start, end, rows=rows, **self._asked)

    def cached(self, start: Any, end: int) -> pd.DataFrame:
        """Return the candles of the range, out of the cache alone. Raises IncompleteData where it lacks some."""
        frame: pd.DataFrame = self._fetcher.fetch(*self._words, start, end, source="cache", **self._options)
        return frame

    def revisions(self, settings: Sequence[tuple[str, str]] = ()) -> Sequence[Revision]:
        """Return what the cache has noted of values that the provider changed; `settings` are those of the candles."""
        stored = self._named.stored
        others = tuple(one for one in settings if one[0] not in dict(stored.settings))
        key = stored._replace(settings=(*stored.settings, *others)).key
        return self._fetcher.cache.entries.load_revisions(f"{key}|revisions")

    @property
    def keeps_holes(self) -> bool:
        """Whether a young hole is asked for again: the provider has a row for each interval, and there is a cache."""
        return self._named.provider.feed(self._named.series.kind).has_empty_bars and not self._fetcher.cache.is_off
