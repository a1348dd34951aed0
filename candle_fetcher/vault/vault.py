"""Vault: the public calls for series that grow, their arguments and what they answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import Any

import pandas as pd

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.events import Progress
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.memory import many_failed
from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.spans import Span
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.types import PARTIAL_POLICIES, CandleKind, OutputName, PartialPolicy, VaultFormat
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.request import Range, read_range
from candle_fetcher.files.outputs import check_output, convert
from candle_fetcher.providers import Provider
from candle_fetcher.settings import one_of
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.homes import open_home
from candle_fetcher.vault.opening import check_document, check_processors, read_options
from candle_fetcher.vault.processing import Processor
from candle_fetcher.vault.source import resolve
from candle_fetcher.vault.state import Entry, SeriesId, SeriesState, VaultDocument
from candle_fetcher.vault.tables import describe_rows, list_series, verify_series
from candle_fetcher.vault.work import Updates, label_of
from candle_fetcher.workers import is_of_threads

# What a `Vault.read` without a start or an end begins and ends with.
_ALL = Span(-(2**62), 2**62)


class Vault:
    """Series of candles in a folder, each of which an update brings up to date. Use it in a `with` block.

    where: the folder, or the URL of a database: sqlite:///FILE, duckdb:///FILE, postgresql+psycopg://USER@HOST/NAME. It
    is made by the first update, and remembers format, columns, options and series. A URL such as s3://bucket/candles
    has Parquet files (extra `fsspec`); there one update may run at a time.
    fetcher: asks for the candles. Without one the vault makes one, and closes it.
    format: "csv", the default of a new vault; "parquet" or "arrow", with a file for each month (extra `arrow`).
    columns: "ohlcv" (the default), "all", or a mapping {header: column}, in order, such as {"ds": "timestamp",
    "{symbol}": "close"}; `{symbol}` is the provider's id. It names `timestamp` once.
    process: a function frame -> frame, or several, that new rows go through. They get up to `context` settled rows
    before the new ones, and return each new row exactly once; columns that they add are written where `columns` names
    them.
    separator, decimal, decimals: how a CSV writes its values, as in `CandleFetcher.export`.

    A vault that is there keeps what it was made with: InputError where an argument differs. Threads may share it, and
    several processes may use one folder: a series has one writer at a time.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        fetcher: CandleFetcher | None = None,
        *,
        format: VaultFormat | None = None,  # noqa: A002 - the usual word
        columns: str | Mapping[str, str] | None = None,
        process: Processor | Sequence[Processor] | None = None,
        context: int = 0,
        separator: str | None = None,
        decimal: str | None = None,
        decimals: int | None = None,
    ) -> None:
        csv = {"separator": separator, "decimal": decimal, "decimals": decimals}
        self._options = read_options(format, columns, process, context, csv)
        self._where, self._home = where, open_home(where, self._options)
        self._given = fetcher
        self._made: CandleFetcher | None = None
        self._making = threading.Lock()
        self._load()

    def __repr__(self) -> str:
        return f"Vault({str(self._home)!r})"

    def __enter__(self) -> Vault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the vault's locks, and close the fetcher that it made. A second call does nothing."""
        self._home.close()
        made, self._made = self._made, None
        if made is not None:
            made.close()

    @short_errors
    def update(
        self,
        symbols: str | Iterable[str] | None = None,
        timeframe: str | None = None,
        start: Instant = None,
        end: Instant = None,
        *,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        partial: PartialPolicy = "raise",
        executor: Executor | None = None,
        progress: bool | Callable[[Progress], object] | None = None,
    ) -> pd.DataFrame:
        """Bring series up to their last settled candle, and return a row for each; ask only for what is new.

        symbols: one, or several; without any, all series of the vault (of that timeframe and provider, where given).
        start: where a series that is not there yet begins; it may also lie before what is there. `first` is the
        listing. end: brings series up to there, and not beyond.
        partial: "raise" leaves a series as it was where a part of its new rows cannot be fetched; "warn" (with a
        warning) and "allow" write what there is, say in `error` how much is missing, and the next update asks for it.
        executor: a concurrent.futures.Executor, such as ProcessPoolExecutor(4): its workers write the series into the
        vault, and read API keys from their own environment; None: threads of this process.
        progress: a callable receives an event for each series, True shows a bar.

        Columns: provider, symbol, timeframe, kind, path, rows, added (rows that were not there), revised (rows with
        other values than before), gaps (in what was asked for), first, last (UTC), requests, seconds, error (None where
        all is well). Series are updated side by side. A series that another process updates is waited for, after all
        others.

        Raises FetchManyError after all are done, where some failed: `.report` is the table, `.errors` has the errors,
        by symbol, or by series where no symbols were given. What failed is as it was before. Raises InputError for
        arguments that are not valid, and where the vault was made with other processors.
        """
        fetcher = self._fetcher()
        wanted = read_range(start, end, now_ms=lambda: int(fetcher._runtime.clock() * 1000))
        updates = Updates(self._home, self._options, fetcher, wanted, one_of("partial", partial, PARTIAL_POLICIES))
        document = self._load()
        check_processors(self._options, document or VaultDocument("csv"), self._home)
        if symbols is None:
            for entry in _chosen(document, timeframe, provider, fetcher):
                updates.add_entry(entry)
        else:
            if timeframe is None:
                raise InputError("timeframe is missing; expected one such as '1m' with the symbols")
            names = [symbols] if isinstance(symbols, str) else list(symbols)
            for symbol in dict.fromkeys(names):
                updates.add_symbol(symbol, timeframe, provider, kind)
        report, errors = self._run(updates, fetcher, (wanted, partial), executor, progress)
        if errors:
            raise many_failed({}, errors, report)
        return report

    @short_errors
    def read(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        output: OutputName = "pandas",
    ) -> Any:
        """Return the rows that open in [start, end), without arguments all: the columns as they stand in the file, by
        their headers, and `timestamp` (UTC) as index. Sends no request. `output="polars"` and `"arrow"` give a frame or
        a table of these libraries, `timestamp` first. `attrs["candle_fetcher"]` says of which series and range the rows
        are, and by which processors they went; a vault does not keep gaps, sources or fingerprints.

        Raises InputError, which lists what is there, for a series that is not; BadFile where the file is damaged.
        """
        check_output(output, False)
        files, state, document = self._find(symbol, timeframe, provider, kind)
        span = self._span(start, end)
        rows = files.read(state, span)
        rows.attrs[MANIFEST] = describe_rows(document, state, span, len(rows))
        return convert(rows, output)

    def _span(self, start: Instant, end: Instant) -> Span | None:
        """Return the span of a read; None for all of it."""
        if start is None and end is None:
            return None
        wanted = read_range(start, end, now_ms=lambda: int(self._fetcher()._runtime.clock() * 1000))
        end_ms = _ALL.end_ms if wanted.end_ms is None else wanted.end_ms
        start_ms = wanted.start_ms
        if wanted.back_ms is not None:
            start_ms = min(end_ms, int(self._fetcher()._runtime.clock() * 1000)) - wanted.back_ms
        return Span(_ALL.start_ms if start_ms is None else start_ms, end_ms)

    @short_errors
    def series(self) -> pd.DataFrame:
        """Return a row for each series: provider, symbol, timeframe, kind, path, rows, first, last (UTC, open times),
        age (since the end of what it covers), size (bytes of all its files). Sends no request."""
        now_ms = int(self._fetcher()._runtime.clock() * 1000)
        return list_series(self._home, self._load(), now_ms)

    @short_errors
    def path(
        self,
        symbol: str,
        timeframe: str,
        *,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
    ) -> Any:
        """Return where other programs read a series. Of a CSV it is the path of the file that is current now: an update
        makes the other one current, and leaves this one as it is until the update after. Of months it is the path of
        their folder, or its URL. Of a database it is its file, or its URL without a password."""
        files, state, _ = self._find(symbol, timeframe, provider, kind)
        return files.path(state)

    @short_errors
    def verify(self) -> pd.DataFrame:
        """Check every series to its last byte: checksums, order, number of rows, and the cache where that has the same
        candles. Sends no request.

        Return a row for each: provider, symbol, timeframe, kind, path, rows, compared (rows that the cache has too),
        whole (a bool), problem ("" for none).
        """
        return verify_series(self._home, self._load(), self._fetcher())

    @short_errors
    def remove(
        self,
        symbol: str,
        timeframe: str,
        *,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
    ) -> None:
        """Remove a series and its files; the cache keeps its candles. Waits for an update of it."""
        document = self._load()
        entry = self._entry(document, symbol, timeframe, provider, kind)
        updates = Updates(self._home, self._options, self._fetcher(), read_range(None, None, limit=1))
        updates.remove(entry)

    def _run(
        self, updates: Updates, fetcher: CandleFetcher, asked: tuple[Range, str], executor: Any, progress: Any
    ) -> tuple[pd.DataFrame, dict[str, Exception]]:
        if executor is None or is_of_threads(executor):
            return updates.run(progress, threads=executor)
        from candle_fetcher.vault.by_workers import SentVault, run_by_workers, sendable_place  # when used: few do

        vault = SentVault(sendable_place(self._where), self._options, *asked)
        return updates.run(progress, lambda updates, tell: run_by_workers(updates, vault, fetcher, executor, tell))

    # -- what the calls have in common --------------------------------------------------------------------------------

    def _load(self) -> VaultDocument | None:
        document = self._home.load()
        if document is not None:
            check_document(self._options, document, self._home)
        return document

    def _fetcher(self) -> CandleFetcher:
        if self._given is not None:
            return self._given
        with self._making:
            self._made = self._made or CandleFetcher()
            return self._made

    def _find(self, symbol: str, timeframe: str, provider: Any, kind: str) -> tuple[Files, SeriesState, VaultDocument]:
        document = self._load()
        entry = self._entry(document, symbol, timeframe, provider, kind)
        assert document is not None
        files = self._home.files(document, entry)
        state = files.load()
        if state is None:
            raise InputError(f"{entry.series.label} has no rows yet; update it first")
        return files, state, document

    def _entry(self, document: VaultDocument | None, symbol: str, timeframe: str, provider: Any, kind: str) -> Entry:
        series: SeriesId = resolve(self._fetcher(), symbol, timeframe, provider, kind).series
        found = None if document is None else document.find(series)
        if found is None:
            there = [one.series.label for one in document.entries] if document is not None else []
            listed = f"it has {', '.join(there)}" if there else "it has none yet: update one first"
            raise InputError(f"the vault in {self._home} has no series {label_of(series)}; {listed}")
        return found


def _chosen(
    document: VaultDocument | None, timeframe: str | None, provider: Any, fetcher: CandleFetcher
) -> list[Entry]:
    entries = list(document.entries) if document is not None else []
    if timeframe is not None:
        entries = [one for one in entries if one.series.timeframe == timeframe]
    if provider is not None:
        name = fetcher._runtime.find(provider).name
        entries = [one for one in entries if one.series.provider == name]
    if not entries:
        raise InputError("the vault has no such series yet; expected symbols, a timeframe and a start, as '2024-01-01'")
    return entries
