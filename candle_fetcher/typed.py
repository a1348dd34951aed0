"""The calls that answer by `output` and `with_manifest`, as type checkers see them: nothing here runs.

A checker that reads `fetch(…, output="polars")` finds the overload for it. The signatures that run are those of
CandleFetcher; `tests/test_types.py` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, overload

import pandas as pd

from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.types import CandleKind, ColumnSet, GapPolicy, PartialPolicy, SourceName
from candle_fetcher.providers import Provider

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from typing_extensions import Unpack

Facts: TypeAlias = Mapping[str, Any]
Pandas: TypeAlias = Literal["pandas"]
Polars: TypeAlias = Literal["polars"]
Arrow: TypeAlias = Literal["arrow"]
Yes: TypeAlias = Literal[True]
No: TypeAlias = Literal[False]


class _Words(TypedDict, total=False):
    """The keywords that these calls have in common."""

    days: float | None
    provider: str | Provider | None
    source: SourceName | None
    refresh: bool


class FundingWords(_Words, total=False):
    """The other keywords of `fetch_funding`."""

    floor: str | None


class FetchWords(_Words, total=False):
    """The other keywords of `fetch`."""

    limit: int | None
    kind: CandleKind
    columns: ColumnSet
    include_open: bool
    on_gap: GapPolicy
    partial: PartialPolicy


class ManyWords(FetchWords, total=False):
    """The other keywords of `fetch_many`."""

    executor: Executor | None


class IterWords(FetchWords, total=False):
    """The other keywords of `iter_frames`."""

    rows: int


class FetchCall(Protocol):
    """`CandleFetcher.fetch`, and `candle_fetcher.fetch`."""

    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: No = False,
        **words: Unpack[FetchWords],
    ) -> pd.DataFrame: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: No = False,
        **words: Unpack[FetchWords],
    ) -> pl.DataFrame: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: No = False,
        **words: Unpack[FetchWords],
    ) -> pa.Table: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: Yes,
        **words: Unpack[FetchWords],
    ) -> tuple[pd.DataFrame, Facts]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: Yes,
        **words: Unpack[FetchWords],
    ) -> tuple[pl.DataFrame, Facts]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: Yes,
        **words: Unpack[FetchWords],
    ) -> tuple[pa.Table, Facts]: ...


class FetchManyCall(Protocol):
    """`CandleFetcher.fetch_many`, and `candle_fetcher.fetch_many`."""

    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: No = False,
        **words: Unpack[ManyWords],
    ) -> dict[str, pd.DataFrame]: ...
    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: No = False,
        **words: Unpack[ManyWords],
    ) -> dict[str, pl.DataFrame]: ...
    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: No = False,
        **words: Unpack[ManyWords],
    ) -> dict[str, pa.Table]: ...
    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: Yes,
        **words: Unpack[ManyWords],
    ) -> dict[str, tuple[pd.DataFrame, Facts]]: ...
    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: Yes,
        **words: Unpack[ManyWords],
    ) -> dict[str, tuple[pl.DataFrame, Facts]]: ...
    @overload
    def __call__(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: Yes,
        **words: Unpack[ManyWords],
    ) -> dict[str, tuple[pa.Table, Facts]]: ...


class IterFramesCall(Protocol):
    """`CandleFetcher.iter_frames`."""

    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: No = False,
        **words: Unpack[IterWords],
    ) -> Iterator[pd.DataFrame]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: No = False,
        **words: Unpack[IterWords],
    ) -> Iterator[pl.DataFrame]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: No = False,
        **words: Unpack[IterWords],
    ) -> Iterator[pa.Table]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: Yes,
        **words: Unpack[IterWords],
    ) -> Iterator[tuple[pd.DataFrame, Facts]]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: Yes,
        **words: Unpack[IterWords],
    ) -> Iterator[tuple[pl.DataFrame, Facts]]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: Yes,
        **words: Unpack[IterWords],
    ) -> Iterator[tuple[pa.Table, Facts]]: ...


class FundingCall(Protocol):
    """`CandleFetcher.fetch_funding`."""

    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: No = False,
        **words: Unpack[FundingWords],
    ) -> pd.DataFrame: ...
    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: No = False,
        **words: Unpack[FundingWords],
    ) -> pl.DataFrame: ...
    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: No = False,
        **words: Unpack[FundingWords],
    ) -> pa.Table: ...
    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Pandas = "pandas",
        with_manifest: Yes,
        **words: Unpack[FundingWords],
    ) -> tuple[pd.DataFrame, Facts]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Polars,
        with_manifest: Yes,
        **words: Unpack[FundingWords],
    ) -> tuple[pl.DataFrame, Facts]: ...
    @overload
    def __call__(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        output: Arrow,
        with_manifest: Yes,
        **words: Unpack[FundingWords],
    ) -> tuple[pa.Table, Facts]: ...
