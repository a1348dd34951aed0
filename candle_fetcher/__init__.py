"""Market candles that are complete, correct and instant the second time. No account, no server, no asyncio.

from candle_fetcher import CandleFetcher

with CandleFetcher() as fetcher:
    frame = fetcher.fetch("BTC/USDT", "4h", "2024-01-01", "2024-03-29")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.errors import (
    AccessDenied,
    ArchiveMismatch,
    BadFile,
    Banned,
    CacheError,
    CacheWarning,
    CandleFetcherError,
    CandleFetcherWarning,
    ClockSkew,
    FetchManyError,
    FetchManyOutOfMemory,
    IncompleteData,
    InputError,
    MissingExtra,
    NotOffered,
    OutOfMemory,
    ProviderRefused,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
    UnknownArgument,
    UnknownSymbol,
    WorkerError,
)
from candle_fetcher.core.events import Progress
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.manifests import fingerprint, manifest_of
from candle_fetcher.core.missing import find_gaps
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.reports import Backup, CacheStats, Compacted, Imported, Restored, Verified
from candle_fetcher.core.summary import summary
from candle_fetcher.core.types import (
    Alignment,
    CandleKind,
    ColumnSet,
    FileFormat,
    GapPolicy,
    IncompletePolicy,
    JoinPolicy,
    OutputName,
    PartialPolicy,
    PerformanceMode,
    SourceName,
    VaultFormat,
)
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.shared import export, fetch, fetch_many, gaps, plan, quotes, symbols
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.providers import Provider

if TYPE_CHECKING:
    from candle_fetcher import plot as plot
    from candle_fetcher.core.quote import Quote, Quotes
    from candle_fetcher.files.loading import read_csv, read_file
    from candle_fetcher.frames.combining import combine
    from candle_fetcher.frames.resampling import resample
    from candle_fetcher.vault import Vault
    from candle_fetcher.verification import FileReport, verify_file

__all__ = [
    "AccessDenied",
    "Alignment",
    "ArchiveMismatch",
    "Backup",
    "BadFile",
    "Banned",
    "CacheError",
    "CacheStats",
    "CacheWarning",
    "CandleCache",
    "CandleFetcher",
    "CandleFetcherError",
    "CandleFetcherWarning",
    "CandleKind",
    "ClockSkew",
    "ColumnSet",
    "Compacted",
    "FetchManyError",
    "FetchManyOutOfMemory",
    "FetchPlan",
    "FileFormat",
    "FileReport",
    "Gap",
    "GapPolicy",
    "Imported",
    "IncompleteData",
    "IncompletePolicy",
    "InputError",
    "JoinPolicy",
    "MissingExtra",
    "NotOffered",
    "OutOfMemory",
    "OutputName",
    "PartialPolicy",
    "PerformanceMode",
    "PerformanceMonitor",
    "Progress",
    "Provider",
    "ProviderRefused",
    "Quote",
    "Quotes",
    "RateLimited",
    "ReplyError",
    "Restored",
    "SourceError",
    "SourceName",
    "TransportError",
    "UnknownArgument",
    "UnknownSymbol",
    "Vault",
    "VaultFormat",
    "Verified",
    "WorkerError",
    "__version__",
    "combine",
    "export",
    "fetch",
    "fetch_many",
    "find_gaps",
    "fingerprint",
    "gaps",
    "manifest_of",
    "plan",
    "quotes",
    "read_csv",
    "read_file",
    "resample",
    "summary",
    "symbols",
    "verify_file",
]


# Imported when they are used: the tables of digits with which files are written take 15 ms.
_LATE = {
    "Quote": "candle_fetcher.core.quote",
    "Quotes": "candle_fetcher.core.quote",
    "Vault": "candle_fetcher.vault",
    "FileReport": "candle_fetcher.verification",
    "read_csv": "candle_fetcher.files.loading",
    "read_file": "candle_fetcher.files.loading",
    "combine": "candle_fetcher.frames.combining",
    "resample": "candle_fetcher.frames.resampling",
    "verify_file": "candle_fetcher.verification",
}
# Modules of public names, such as candle_fetcher.plot.candles.
_ROOMS = ("adapters", "plot")


if not TYPE_CHECKING:  # type checkers would take any name for one

    def __getattr__(name: str) -> Any:
        """Return a public name that is imported late, or a room of public names."""
        from importlib import import_module

        if name in _ROOMS:
            return import_module(f"candle_fetcher.{name}")
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(_LATE[name]), name)
        return globals()[name]


def __dir__() -> list[str]:
    """Return the public names, and none of the modules."""
    return [*__all__, *(name for name in globals() if name.startswith("__") and name not in __all__)]
