"""The tables of a vault: what it holds, what an update did, and whether all is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.errors import CandleFetcherError, IncompleteData
from candle_fetcher.core.frame import MANIFEST, Manifest, index_ms, utc_index
from candle_fetcher.core.gap import iso
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.homes import Home
from candle_fetcher.vault.opening import fetched_columns, make_rows, read_options
from candle_fetcher.vault.source import FetcherSource, resolve
from candle_fetcher.vault.state import NOTHING, Entry, SeriesId, SeriesState, VaultDocument
from candle_fetcher.vault.update import compare

_NAMES = ("provider", "symbol", "timeframe", "kind", "path")
REPORT = (*_NAMES, "rows", "added", "revised", "gaps", "first", "last", "requests", "seconds", "error")
SERIES = (*_NAMES, "rows", "first", "last", "age", "size")
VERIFIED = (*_NAMES, "rows", "compared", "whole", "problem")


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows as a frame; `first` and `last` are Unix ms or None, and become times."""
    made = pd.DataFrame([tuple(row) for row in rows], columns=list(columns))
    for name in {"first", "last"} & set(columns):
        values = [row[columns.index(name)] for row in rows]
        made[name] = utc_index(np.array([MISSING if value is None else value for value in values], np.int64))
    for name in ("path", "error", "problem"):
        if name in made:
            made[name] = pd.Series([row[columns.index(name)] for row in rows], dtype=object)
    return made


def names_of(series: SeriesId, path: object) -> tuple[Any, ...]:
    """Return the first fields of a row."""
    return series.provider, series.symbol, series.timeframe, series.kind, None if path is None else str(path)


def list_series(home: Home, document: VaultDocument | None, now_ms: int) -> pd.DataFrame:
    """Return the table of `Vault.series`."""
    rows = []
    for entry in document.entries if document is not None else ():
        assert document is not None
        files = home.files(document, entry)
        state = files.load()
        piece, path, size = NOTHING, None, 0
        age: Any = pd.NaT
        if state is not None:
            piece, path, size = state.piece, files.path(state), files.size_bytes(state)
            age = pd.Timedelta(max(0, now_ms - state.facts.end_ms), "ms")
        rows.append((*names_of(entry.series, path), piece.rows, piece.first_ms, piece.last_ms, age, size))
    made = table(rows, SERIES)
    made["age"] = pd.to_timedelta(made["age"].astype(object))  # else no age at all is a column of dates
    return made


def verify_series(home: Home, document: VaultDocument | None, fetcher: CandleFetcher) -> pd.DataFrame:
    """Return the table of `Vault.verify`."""
    rows = []
    for entry in document.entries if document is not None else ():
        assert document is not None
        files, state, path, compared, said = home.files(document, entry), None, None, 0, list[str]()
        try:
            state = files.load()
            if state is None:
                said = ["it has no files; update it"]
            else:
                path = files.path(state)
                said = files.verify(state)
                if not said and not document.processors:
                    compared, said = _compare_cache(fetcher, document, entry, files, state)
        except (CandleFetcherError, OSError) as error:
            said = [str(error)]
        count = 0 if state is None else state.piece.rows
        rows.append((*names_of(entry.series, path), count, compared, not said, "; ".join(said)))
    return table(rows, VERIFIED)


def _compare_cache(
    fetcher: CandleFetcher, document: VaultDocument, entry: Entry, files: Files, state: SeriesState
) -> tuple[int, list[str]]:
    """Return how many rows the cache has too, and what differs from it, in sentences."""
    series, facts = entry.series, state.facts
    named = resolve(fetcher, series.provider_symbol, series.timeframe, series.provider, series.kind)
    if state.piece.first_ms is None or named.series.key != series.key:
        return 0, []
    try:
        cached = FetcherSource(fetcher, named, fetched_columns(document)).cached(state.piece.first_ms, facts.end_ms)
    except IncompleteData as error:
        if not isinstance(error.frame, pd.DataFrame):
            return 0, []
        cached = error.frame
    manifest = cached.attrs.get(MANIFEST, {})
    if not len(cached) or tuple(sorted(manifest.get("settings", {}).items())) != facts.settings:
        return 0, []
    rows = make_rows(read_options(None, None, None, 0, {}), document)
    theirs = files.normalize(rows.select(cached, cached))
    ours = files.read(state)
    times = index_ms(theirs)
    changes = compare(ours[np.isin(index_ms(ours), times)], theirs)
    if changes.added or changes.revised:
        first = "" if changes.from_ms is None else f", from {iso(changes.from_ms)} on"
        return len(times), [
            f"{changes.revised:,} rows differ from the cache and {changes.added:,} are not there{first}; update it"
        ]
    return len(times), []


def describe_rows(document: VaultDocument, state: SeriesState, span: Span | None, rows: int) -> Manifest:
    """Return the manifest of rows that were read: the series, the range that they cover, and what was done to them."""
    series, facts, options = state.series, state.facts, dict(document.options)
    covered = Span.between(facts.start_ms, facts.end_ms)
    covered = covered if span is None else covered.after(span.start_ms).before(span.end_ms)
    made = Manifest(
        provider=series.provider,
        origin=dict(document.origins).get(series.provider),
        symbol=series.symbol,
        timeframe=series.timeframe,
        kind=series.kind,
        start=iso(covered.start_ms),
        end=iso(covered.end_ms),
        rows=rows,
    )
    if series.settings:
        made["settings"] = dict(series.settings)
    if document.processors:
        made["processed"] = list(document.processors)
    if options.get("decimals") is not None:
        made["decimals"] = options["decimals"]
    return made
