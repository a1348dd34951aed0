"""How a call is answered: the sources that may be asked, the columns and rows of its frames."""

from __future__ import annotations

from typing import NamedTuple

from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.frame import check_columns
from candle_fetcher.core.types import GAP_POLICIES, PARTIAL_POLICIES
from candle_fetcher.settings import Settings, one_of

REST, ARCHIVE = "rest", "archive"
# Why no source is asked, as messages say it.
ONLY_CACHE = "source='cache' allows no other source"
_INVENTING = ("ffill", "interpolate")


class FetchPolicy(NamedTuple):
    """How a call is answered. The first six fields are the arguments of the public calls.

    ttl_ms: the longest time for which the newest candles are valid. keeps_entries: puts chunks that come from disk
    into memory; streams do without. needs_sessions: the hours in which an exchange is closed must be known, so that
    they are not counted as gaps; else they are counted, with a warning, where its calendar is not installed.
    """

    source: str = "auto"
    columns: str = "ohlcv"
    include_open: bool = False
    on_gap: str = "leave"
    refresh: bool = False
    partial: str = "raise"
    ttl_ms: int | None = None
    keeps_entries: bool = True
    needs_sessions: bool = False

    def allows(self, source: str) -> bool:
        """Return whether REST, or ARCHIVE, may be asked."""
        return self.source in ("auto", source)

    @property
    def is_offline(self) -> bool:
        """Return whether only the cache answers."""
        return self.source == "cache"

    @property
    def is_archive_only(self) -> bool:
        """Return whether the archive's files are the only source."""
        return self.source == ARCHIVE

    @property
    def rechecks(self) -> bool:
        """Return whether confirmed holes are asked for again."""
        return self.on_gap == "refetch"

    @property
    def takes_partial(self) -> bool:
        """Return whether an answer may lack what could not be fetched."""
        return self.partial != "raise"

    @property
    def invents(self) -> bool:
        """Return whether rows are invented where the provider has no candle."""
        return self.on_gap in _INVENTING


def read_policy(
    settings: Settings,
    source: str | None,
    columns: str = "ohlcv",
    include_open: bool = False,
    on_gap: str = "leave",
    refresh: bool = False,
    partial: str = "raise",
) -> FetchPolicy:
    """Return the policy of a call, by its arguments and the settings of the fetcher.

    Raises InputError for an argument that is not valid.
    """
    ttl_s = settings.cache_ttl
    read_flag("include_open", include_open)
    read_flag("refresh", refresh)
    one_of("on_gap", on_gap, GAP_POLICIES)
    one_of("partial", partial, PARTIAL_POLICIES)
    return FetchPolicy(
        settings.source if source is None else source,
        check_columns(columns),
        include_open,
        on_gap,
        refresh,
        partial,
        ttl_ms=None if ttl_s is None else int(ttl_s * 1000),
        needs_sessions=on_gap == "raise",
    )
