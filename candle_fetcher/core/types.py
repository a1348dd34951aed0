"""The words that arguments of public calls take, as types: a checker names a misspelt one before the program runs."""

from __future__ import annotations

from typing import Literal, get_args

SourceName = Literal["auto", "cache", "archive", "rest"]
CandleKind = Literal["candles", "mark", "index", "premium"]
ColumnSet = Literal["ohlcv", "all"]
GapPolicy = Literal["leave", "raise", "refetch", "ffill", "interpolate"]
PartialPolicy = Literal["raise", "warn", "allow"]
IncompletePolicy = Literal["list", "drop", "keep"]
Alignment = Literal["time", "date"]
JoinPolicy = Literal["outer", "inner", "left"]
OutputName = Literal["pandas", "polars", "arrow"]
PerformanceMode = Literal["low", "standard", "high"]
FileFormat = Literal["csv", "parquet", "arrow", "excel", "jsonl"]
VaultFormat = Literal["csv", "parquet", "arrow"]

SOURCE_NAMES: tuple[str, ...] = get_args(SourceName)
COLUMN_SETS: tuple[str, ...] = get_args(ColumnSet)
GAP_POLICIES: tuple[str, ...] = get_args(GapPolicy)
OUTPUTS: tuple[str, ...] = get_args(OutputName)
PARTIAL_POLICIES: tuple[str, ...] = get_args(PartialPolicy)
FILE_FORMATS: tuple[str, ...] = get_args(FileFormat)
INCOMPLETE_POLICIES: tuple[str, ...] = get_args(IncompletePolicy)
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)
JOIN_POLICIES: tuple[str, ...] = get_args(JoinPolicy)
