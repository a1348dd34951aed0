"""CandleFetcher: the public calls, their arguments and what they answer. What a call does is in the rooms beside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.arguments import read_whole
from candle_fetcher.core.events import Progress
from candle_fetcher.core.keywords import checked_constructor, read_symbols
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.tracebacks import short_errors_of_items
from candle_fetcher.core.types import (
    CandleKind,
    ColumnSet,
    FileFormat,
    GapPolicy,
    OutputName,
    PartialPolicy,
    PerformanceMode,
    SourceName,
)
from candle_fetcher.fetcher.answers import Answer
from candle_fetcher.fetcher.calls import checked_call, frame_call, public_call
from candle_fetcher.fetcher.frames import export_file, fetch_frame, fetch_frames, iterate_frames, list_gaps, make_answer
from candle_fetcher.fetcher.listings import find_first_candle, list_symbols
from candle_fetcher.fetcher.policy import read_policy
from candle_fetcher.fetcher.request import Arguments, Range, make_request, read_call
from candle_fetcher.fetcher.runtime import make_runtime
from candle_fetcher.files.outputs import (
    hand_over,
    hand_over_each,
    typed_fetch_funding,
    typed_fetch_many,
    typed_iter_frames,
)
from candle_fetcher.live import calls as live
from candle_fetcher.live.door import Door
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.providers import Provider, all_providers
from candle_fetcher.settings import default


class CandleFetcher:
    """Fetch candles, complete or not at all, and keep them. Use it in a `with` block, or `close()` it.

    Threads may share it. A setting that is not given is read from the environment (`CANDLE_FETCHER_` and its name in
    capitals), else it has the default shown. Nothing is opened or sent before the first call.

    provider: id of the provider of calls that name none.
    cache_dir: folder of the cache; by default the user's cache folder of the system.
    use_cache: False neither reads nor writes memory or disk.
    memory_cache_size, disk_cache_size: limits, in bytes or as text such as "256MB".
    cache_ttl: the longest time in seconds for which the newest candles are used; settled history does not expire.
    compression: packs entries on disk with zlib: smaller, slower.
    network_threads: the most requests to a service that are under way at once. io_threads: threads for the disk. By
    default `performance_mode` ("low", "standard", "high") sets both.
    source: "auto", "rest", "archive" (whole files only), or "cache" (sends no request).
    max_retries: how often a failed request is sent again, with growing pauses.
    timeout_s: seconds for one request, from connecting to the last byte. A call may send several requests, one after
    another, and each again up to `max_retries` times.
    budget_share: the part of each provider's request limits that this fetcher uses, above 0 and at most 1, such as 0.25
    for one of four on machines that share an address. Fetchers on one `cache_dir` share their budget anyway.
    api_keys: {provider: {name: value}}, for providers that need a key; else the key is read from the environment, under
    the name that the provider's users know, such as ALPACA_API_KEY_ID. Keys are never shown and never written.
    base_urls: {provider: URL}; a URL given here is the only host asked. http is allowed to loopback only.
    provider_settings: {provider: {name: value}}: what a provider lets its users choose, such as
    {"alpaca": {"feed": "iex", "adjustment": "split"}}. Choices that change values are part of the series.
    progress: None shows a bar on a terminal or in Jupyter; True and False force it; a callable receives the events.
    clock: a callable like time.time, for the time of day.

    Raises InputError for a setting that is not valid.
    """

    @checked_constructor
    def __init__(
        self,
        provider: str | Provider = default("binance"),
        *,
        cache_dir: str | os.PathLike[str] | None = default(None),
        use_cache: bool = default(True),
        memory_cache_size: int | str = default("256MB"),
        disk_cache_size: int | str = default("10GB"),
        cache_ttl: float | None = default(None),
        compression: bool = default(False),
        network_threads: int | None = default(None),
        io_threads: int | None = default(None),
        performance_mode: PerformanceMode = default("standard"),
        source: SourceName = default("auto"),
        max_retries: int = default(5),
        timeout_s: float = default(30),
        budget_share: float = default(1),
        api_keys: Mapping[str, Mapping[str, str]] | None = None,
        base_urls: Mapping[str, str] | str | None = default(None),
        provider_settings: Mapping[str, Mapping[str, str]] | str | None = default(None),
        progress: bool | Callable[[Progress], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._runtime = make_runtime(locals())
        self._door = Door(self._runtime, fetch_frame, find_first_candle, make_request, Arguments, Range, read_policy)

    def __repr__(self) -> str:
        facts = self._runtime.describe()
        return f"CandleFetcher({', '.join(f'{name}={value}' for name, value in facts.items())})"

    def _repr_html_(self) -> str:
        from candle_fetcher.core.html import fact_table  # when used: few do

        return fact_table("CandleFetcher", self._runtime.describe().items())

    def __reduce__(self) -> str:
        raise TypeError("a CandleFetcher cannot be pickled; make one in each process, with the same cache_dir")

    def __enter__(self) -> CandleFetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the calls under way, and free threads, sockets and files. A second call does nothing.

        A signal handler or a finalizer may call it; in a thread of the fetcher's own it does not wait.
        """
        self._runtime.close()

    @property
    def cache(self) -> CandleCache:
        """The cache of this fetcher: `path`, `stats()`, `list()`, `clear()`, `verify()`, `revisions()`,
        `import_file()`."""
        return self._runtime.cache

    @property
    def monitor(self) -> PerformanceMonitor:
        """What the calls have cost so far: `report()`, `snapshot()`, `to_frame()`, `reset()`."""
        return self._runtime.monitor

    @frame_call
    def fetch(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
        columns: ColumnSet = "ohlcv",
        include_open: bool = False,
        on_gap: GapPolicy = "leave",
        partial: PartialPolicy = "raise",
        refresh: bool = False,
        output: OutputName = "pandas",
        with_manifest: bool = False,
    ) -> pd.DataFrame:
        """Return the settled candles that open in [start, end), oldest first.

        The index is a UTC DatetimeIndex named `timestamp`, which holds opening times.

        start, end: dates, ISO texts, Unix ms (from 1973 on) or datetimes; a naive time is UTC. Words: now, today,
        yesterday (midnight in UTC), 7d, 12h (so long ago), 2024, 20240131, and for a start first (the listing). Without
        `end` it is now. `days` counts back from the end, else from the end of the newest settled candle.
        limit: that many candles: the oldest from `start` on, else the newest before `end`; 500 where no range is given.
        kind: "candles", and on Binance futures "mark", "index", "premium".
        source: overrides the setting of the fetcher.
        columns: "ohlcv" (float64 open, high, low, close, volume) or "all".
        include_open: adds candles that may still change, and a boolean column `is_closed`, which is False for these.
        on_gap: "leave" lists in the manifest what the provider lacks; "raise" raises IncompleteData; "refetch" asks for
        it again; "ffill" and "interpolate" invent rows and mark them in the column `is_synthetic`.
        partial: where a part of the range could not be fetched, "raise" raises IncompleteData; "allow" returns what
        there is, and the manifest lists `missing` spans with causes, which are no gaps; "warn" warns of them once, too.
        refresh: asks again for everything in the range.
        output: "pandas"; "polars" or "arrow" for a polars.DataFrame or a pyarrow.Table with the same columns behind
        `timestamp`, without copying a column of floats (extras `polars`, `arrow`; else MissingExtra).
        with_manifest: returns a pair, the frame or table and its manifest. An Arrow table has it in its schema, too.

        `frame.attrs["candle_fetcher"]` is the manifest: range, gaps with causes, sources, retries, fingerprint.
        Raises InputError, AccessDenied, Banned or ProviderRefused at once; IncompleteData where a part of the range
        could not be fetched (its `.frame` holds the rest).
        """
        return fetch_frame(self._runtime, *read_call(self._runtime, locals()))

    @typed_fetch_many
    @checked_call
    def fetch_many(
        self,
        symbols: Iterable[str],
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
        columns: ColumnSet = "ohlcv",
        include_open: bool = False,
        on_gap: GapPolicy = "leave",
        partial: PartialPolicy = "raise",
        refresh: bool = False,
        output: OutputName = "pandas",
        with_manifest: bool = False,
        executor: Executor | None = None,
    ) -> dict[str, Any]:
        """Return a frame for each symbol, fetched side by side, once the slowest of them has arrived or failed.

        symbols: several; one may name its provider, as `binance:BTC/USDT` and `kraken:BTC/USD` do; see `combine`.
        executor: a concurrent.futures.Executor, such as ProcessPoolExecutor(4) or that of a Dask cluster, by which the
        symbols are fetched; None: threads of this fetcher. Its workers read API keys from their own environment.
        The other arguments are those of `fetch`.

        Raises FetchManyError where some failed: `.frames` has the others, `.errors` the reasons, by symbol.
        """
        call = read_call(self._runtime, locals())
        frames = fetch_frames(self._runtime, read_symbols(symbols), *call, executor, type(self))
        return {name: hand_over(frame, output, with_manifest) for name, frame in frames.items()}

    @typed_iter_frames
    @checked_call
    def iter_frames(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        rows: int = 100_000,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
        columns: ColumnSet = "ohlcv",
        include_open: bool = False,
        on_gap: GapPolicy = "leave",
        partial: PartialPolicy = "raise",
        refresh: bool = False,
        output: OutputName = "pandas",
        with_manifest: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator of frames of at most `rows` rows, oldest first; joined, they are what `fetch` returns.

        Memory is bounded by `rows`, or by `limit` where it is given. Each frame has a manifest of its own. Nothing is
        fetched ahead. The other arguments are those of `fetch`.
        Raises what `fetch` raises, when the frame concerned is due.
        """
        arguments, policy = read_call(self._runtime, locals())
        rows = read_whole("rows", rows, 1, 10**9)
        answer = self._runtime.calls.run(lambda: make_answer(self._runtime, arguments, policy))
        return self._iter_frames(answer, rows, output, with_manifest=with_manifest)

    @short_errors_of_items
    def _iter_frames(self, answer: Answer, rows: int, output: OutputName, *, with_manifest: bool) -> Iterator[Any]:
        return hand_over_each(iterate_frames(self._runtime, answer, rows), output, with_manifest=with_manifest)

    @checked_call
    def export(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        path: str | os.PathLike[str] = "historical_data",
        format: FileFormat | None = None,  # noqa: A002 - the usual word
        columns: ColumnSet | Mapping[str, str] = "ohlcv",
        separator: str = ",",
        decimal: str = ".",
        decimals: int | None = None,
        name: str | None = None,
        manifest: bool = False,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
        include_open: bool = False,
        on_gap: GapPolicy = "leave",
        partial: PartialPolicy = "raise",
        refresh: bool = False,
    ) -> Path:
        """Write the candles to a file and return its path. Times are in UTC; numbers are exact, unless `decimals` is
        given. The file appears whole or not at all, and replaces an older one. Memory stays the same for any range.

        path: a folder, where the file gets `name`, or one that says what it holds; or the file, by its ending: .csv,
        .csv.gz, .parquet, .arrow, .feather, .xlsx, .jsonl. format: "csv", "parquet", "arrow", "excel", "jsonl".
        columns: also {header: column}, such as {"ds": "timestamp", "{symbol}": "close"}.
        separator, decimal, decimals: of a CSV; `decimals` rounds each number to so many.
        manifest: writes the manifest beside the file. It is written in any case where neither name nor file say all.
        include_open, on_gap: as of `fetch`; an import leaves out such rows.
        partial: as of `fetch`; the name of a partial file ends in `_partial`, and its manifest is beside it.

        Raises what `fetch` raises; InputError also for more rows than a sheet of Excel holds; MissingExtra; OSError.
        """
        from candle_fetcher.files.exporting import read_file_arguments  # when used: its tables of digits take 5 ms

        options = {"separator": separator, "decimal": decimal, "decimals": decimals}
        file = read_file_arguments(path, format, columns, name, manifest, **options)
        arguments, policy = read_call(self._runtime, {**locals(), "columns": file.column_set})
        return export_file(self._runtime, arguments, policy, file)

    @public_call
    def plan(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
    ) -> FetchPlan:
        """Return what `fetch` would do and what it would cost; sends no request. Print it."""
        from candle_fetcher.fetcher.planning import plan_fetch  # when used: few do

        return plan_fetch(self._runtime, *read_call(self._runtime, locals()))

    @public_call
    def gaps(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
    ) -> pd.DataFrame:
        """Return every gap of the range: first and last missing open time (UTC), count, cause. Fetch what is missing.

        Causes: `no_candle` (the provider was asked again and has none), `not_listed`, `after_delisting`. For stocks,
        hours in which their exchange is closed are no gaps; this needs the extra `calendars` (else MissingExtra).
        """
        return list_gaps(self._runtime, *read_call(self._runtime, locals(), needs_start=True))

    @public_call
    def coverage(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
    ) -> pd.DataFrame:
        """Return what the cache knows of the series, span by span; sends no request. Without a range, of all time.

        Columns: start, end (excluded), state, asked, ask_again (UTC; NaT: never), evidence. States: `stored`;
        `unverified` (stored, from a file of the archive without a checksum); `no_candle`, `not_listed`,
        `after_delisting` (the provider has none); `failed` (the last request failed, and why). Ranges absent from the
        table were never requested. For a resampled timeframe, the rows describe its base.
        """
        from candle_fetcher.fetcher.coverage import describe_coverage  # when used: few do

        is_all = start is None and end is None and days is None
        arguments, _ = read_call(self._runtime, {**locals(), "source": "cache"})
        return describe_coverage(self._runtime, arguments, is_all=is_all)

    @public_call
    def audit(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        against: str | None = None,
        *,
        days: float | None = None,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
    ) -> pd.DataFrame:
        """Return what disagrees about the candles of the range: timestamp (UTC), column, ours, theirs, against.

        A row for each value that differs; NaN on the side that lacks the candle; no row where all agrees. `against`:

        "finer", or a timeframe such as "1h": compares with candles resampled from finer ones; prices and volume.
        "finer" takes the day, the hour or the minute, the longest that is shorter.
        "archive": compares the candles by REST with the archive's; in a long range, for a sample of its days.
        "cache": compares the stored candles with a copy fetched now.
        "neighbours": lists outliers, which may be true: prices that jump and come back within one candle, volumes a
        thousand times those around. None: all of these that are possible; of a long range, the outliers stored.

        `frame.attrs["candle_fetcher"]["compared"]` counts the candles compared, by comparison. Nothing is changed.
        Raises what `fetch` raises, and IncompleteData where the named comparison has nothing to compare.
        """
        from candle_fetcher.fetcher import audit  # when used: few do

        return audit.audit(self._runtime, *read_call(self._runtime, locals(), needs_start=True), against)

    @typed_fetch_funding
    @public_call
    def fetch_funding(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        provider: str | Provider | None = None,
        source: SourceName | None = None,
        refresh: bool = False,
        floor: str | None = None,
        output: OutputName = "pandas",
        with_manifest: bool = False,
    ) -> Any:
        """Return the funding rates of a perpetual future in [start, end), oldest first; without a start, all so far.

        Columns: `funding_rate` (float64, a fraction: 0.0001 is 0.01 %) and `mark_price`, NaN where there is none. The
        index is a UTC DatetimeIndex named `timestamp`: funding times as sent, some milliseconds after the hour. The
        distance between them differs by symbol and changes. A delivery contract has none: an empty frame.
        source: "auto" (REST; the archive's files where REST fails), "rest", "archive" (files only; without a start
        from the first one, without an end up to the last one), "cache" (sends no request). Files have no mark prices:
        records from files have NaN there, are listed in the manifest, and give a warning unless source="archive" asked
        for them.
        refresh: asks again for everything in the range.
        floor: a timeframe such as "1h", to the borders of which funding times are moved that are less than a minute
        late, so that they join with candles. No record is lost: two that would share a time keep their own, and
        `floored` in the manifest lists them.

        `frame.attrs["candle_fetcher"]` is the manifest: range, rows, sources, `without_mark_price` (spans from files),
        files that are `unverified` or `rejected`, retries.
        Raises NotOffered where the provider has no futures, and what `fetch` raises. `missing` of an IncompleteData
        counts 0: how many records a span holds is not known.
        """
        from candle_fetcher.fetcher.funding import fetch_rates  # when used: few do

        arguments, _ = read_call(self._runtime, locals())
        frame = fetch_rates(self._runtime, symbol, arguments.range, provider, source, refresh=refresh, floor=floor)
        return hand_over(frame, output, with_manifest)

    quotes = public_call(live.quotes)
    watch = public_call(live.watch)
    follow = public_call(live.follow)

    @public_call
    def symbols(self, *, provider: str | Provider | None = None) -> pd.DataFrame:
        """Return what the provider lists: symbol, provider_symbol, base, quote, status.

        The list is kept for a day; an older one serves where the provider cannot be asked.
        """
        return list_symbols(self._runtime, provider)

    @staticmethod
    def providers() -> pd.DataFrame:
        """Return what each provider offers, those of installed packages too; sends no request. Every value is text.

        Columns: provider, timeframes (its own; multiples are resampled), kinds, history (how far back it goes),
        more_columns (beyond OHLCV), quiet_interval (whether an interval without trades has a row), sessions (the
        exchange that sets its hours), symbols (whether it lists them), key (the environment variable that holds it),
        limits, settings (for `provider_settings`, the default first).
        """
        from candle_fetcher.providers.offers import offers_frame  # when used: few do

        return offers_frame(all_providers().values())

    @public_call
    def availability(self) -> pd.DataFrame:
        """Return which bases are traded on Binance spot, USDⓈ-M and COIN-M, and since when the archive has candles.

        A row for each, the oldest first, as text: market (spot), symbol (the id of its USDT pair), earliest_date (the
        day of the archive's first daily file of 1d; without one, of the first candle by REST), available_intervals (of
        its daily files, the shortest first, separated by commas), um, cm (the ids of its perpetual futures in USDT and
        in dollars). Traded is what exchangeInfo says is TRADING; see `symbols`.

        Raises an error where a part of it cannot be fetched; rows are never left out.
        """
        from candle_fetcher.fetcher import availability  # when used: few do

        return availability.availability(self._runtime, read_policy(self._runtime.settings, None))

    @public_call
    def first_available(
        self,
        symbol: str,
        *,
        provider: str | Provider | None = None,
        kind: CandleKind = "candles",
        source: SourceName | None = None,
    ) -> pd.Timestamp:
        """Return when the first candle of the symbol opens (UTC), of 1m or the provider's finest timeframe.

        The answer is stored. Where REST refuses or is out of reach, and with source="archive", it is the first candle
        of the archive's files; this is not stored, and gives a warning unless source="archive" asked for it.
        Raises IncompleteData where there is no candle yet, or where the cache is the only source and does not know;
        NotOffered where the provider cannot be asked for it.
        """
        return find_first_candle(self._runtime, symbol, provider, kind, read_policy(self._runtime.settings, source))

    @public_call
    def doctor(self, *, provider: str | Provider | None = None) -> pd.DataFrame:
        """Return what may keep a fetch from its candles, a row for each check.

        Columns: check, subject, passed, found, what_to_do.

        Checks proxy, name resolution, TLS, access (region block, firewall), clock skew, limits left, keys, disk space,
        permissions, cache entries (whole or damaged), cache orphans, and versions with known defects. `passed` is NA
        where there was nothing to check or no way to. It changes nothing, works without a network, and ends within
        `timeout_s` or 15 s on the network, whichever is shorter, and 5 s for the cache. With source="cache" it sends no
        request. Raises InputError for an unknown provider.
        """
        return self._runtime.diagnose(provider)
