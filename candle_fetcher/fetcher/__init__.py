"""Floor 3: CandleFetcher, the story told once.

request -> plan -> look up -> ask sources -> parse -> check -> store -> join -> export
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.cache import CandleCache, Imported
from candle_fetcher.concurrency import as_done, is_ours, start_thread
from candle_fetcher.console import make_progress
from candle_fetcher.core.arguments import is_several, read_flag, read_whole
from candle_fetcher.core.candles import Gap, iso
from candle_fetcher.core.errors import (
    About,
    AccessDenied,
    CacheWarning,
    CandleFetcherError,
    CandleFetcherWarning,
    FetchManyError,
    IncompleteData,
    InputError,
    NotOffered,
    SourceError,
    UnknownSymbol,
    completing_errors,
    naming_errors,
    shown,
    unknown,
    warn,
)
from candle_fetcher.core.events import Event, Gaps, Lookup, Operation, Progress
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.frame import MANIFEST, Manifest, gap_frame, hand_out
from candle_fetcher.core.funding import funding_frame
from candle_fetcher.core.plan import CHUNK_SLOTS, FetchPlan
from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.adjusting import Adjusted, ask_adjusted, guess_adjusted, stored_adjusted
from candle_fetcher.fetcher.answers import (
    FIX,
    FIX_BY_ARCHIVE,
    Answer,
    Options,
    read_options,
    refuse_incomplete,
    settled_frame,
    warn_of_clock,
    warn_of_limits,
)
from candle_fetcher.fetcher.arguments import check_arguments
from candle_fetcher.fetcher.calls import (
    Call,
    Calls,
    checked_call,
    current_call,
    passing_to,
    public_call,
    ready_first,
    tell_caller,
)
from candle_fetcher.fetcher.collect import Collected, Collector, How
from candle_fetcher.fetcher.coverage import coverage_frame, read_coverage
from candle_fetcher.fetcher.funding import MONTH, FundingGatherer, FundingTold
from candle_fetcher.fetcher.gather import Gatherer
from candle_fetcher.fetcher.log import EventLog, set_up_logging
from candle_fetcher.fetcher.manifest import series_frame_key
from candle_fetcher.fetcher.planning import make_plan
from candle_fetcher.fetcher.pools import Pools, ThreadPool
from candle_fetcher.fetcher.ready import ReadyFrames
from candle_fetcher.fetcher.request import (
    Range,
    Request,
    about_arguments,
    near_symbols,
    read_pair,
    read_range,
    read_series,
    read_span,
)
from candle_fetcher.fetcher.settings import (
    SOURCES,
    check_api_keys,
    choose,
    default,
    one_of,
    read_settings,
    warn_of_unknown_variables,
)
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.net.pacing import Retry
from candle_fetcher.net.transport import Transport, check_root
from candle_fetcher.providers import (
    Archive,
    Listing,
    Provider,
    all_providers,
    find_funding,
    find_known,
    find_provider,
    split_symbol,
)
from candle_fetcher.providers.binance_bucket import MARKETS, NAME, SPOT, find_trios
from candle_fetcher.sources import ApiKeys, ArchiveSource, BucketSource, Errand, FundingSource, Source, check_clock
from candle_fetcher.store import DiskTier, MemoryTier, Store
from candle_fetcher.store.shared import Desk

if TYPE_CHECKING:
    from candle_fetcher.fetcher.exporting import Export

_LISTING_S = 86_400.0
# Chunks that an export holds at once: memory stays bounded and the network pool stays busy.
_STREAM_CHUNKS = 48


# How long the end of the program waits for each kind of thread: what arrived is being stored.
_EXIT_S = 5.0

# Who is not closed by its user is closed at exit, so that no file is left open.
_open: weakref.WeakSet[CandleFetcher] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for fetcher in list(_open):
        fetcher._close(_EXIT_S)


def _set_up_again() -> None:
    """Lets a forked child use the fetchers of its parent, whose threads it does not have: each begins anew."""
    for fetcher in list(_open):
        fetcher._set_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_up_again)


class CandleFetcher:
    """Fetches candles, complete or not at all, and keeps them. Use it in a `with` block, or `close()` it.

    Safe to share between threads. A setting that is not given is read from the environment (`CANDLE_FETCHER_` and its
    name in capitals), else it has the default shown. Nothing is opened, made or asked before the first call.

    provider: id of the provider of calls that name none.
    cache_dir: folder of the cache; the user's cache folder of the system unless given.
    use_cache: False neither reads nor writes memory or disk.
    memory_cache_size, disk_cache_size: bounds, in bytes or as text such as "256MB".
    cache_ttl: seconds for which the newest candles are believed at most; settled history never goes stale.
    compression: packs entries on disk with zlib: smaller, slower.
    network_threads, io_threads: sizes of the pools; unless given, `performance_mode` ("low", "standard", "high") sets
    them.
    source: "auto", "rest", "archive" (whole files alone), or "cache" (asks nobody).
    max_retries: how often a failed request is sent again, with growing pauses.
    timeout_s: seconds for one request, from connecting to the last byte. A call sends several, one after another where
    each needs the answer of the last (the clock, the limits, the candles), and each again up to `max_retries` times.
    api_keys: {provider: {name: value}}, for providers that need a key; else it is looked for in the environment, under
    the name that the provider's users know, such as ALPACA_API_KEY_ID. Never shown, and never written anywhere.
    base_urls: {provider: URL}; a URL given here is the only host asked. http to loopback only.
    provider_settings: {provider: {name: value}}: choices that a provider leaves to its user, such as
    {"alpaca": {"feed": "iex", "adjustment": "split"}}. Those that change values are part of the series.
    progress: None shows a bar on a terminal or in Jupyter, True and False force it, a callable receives the events.
    clock: a callable like time.time, for the time of day.

    Raises InputError for a setting that cannot be.
    """

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
        performance_mode: str = default("standard"),
        source: str = default("auto"),
        max_retries: int = default(5),
        timeout_s: float = default(30),
        api_keys: Mapping[str, Mapping[str, str]] | None = None,
        base_urls: Mapping[str, str] | str | None = default(None),
        provider_settings: Mapping[str, Mapping[str, str]] | str | None = default(None),
        progress: bool | Callable[[Progress], object] | None = None,
        clock: Callable[[], float] | None = None,
        **unheard_of: Any,
    ) -> None:
        given = locals()
        if unheard_of:
            names_of_ours = list(inspect.signature(CandleFetcher).parameters)[:-1]
            check_arguments("CandleFetcher()", unheard_of, names_of_ours)

        def names() -> list[str]:
            known = [*all_providers().values(), *([provider] if isinstance(provider, Provider) else [])]
            return [*dict.fromkeys(one.name for one in known), *sorted(_hosts_beside(known))]

        named, settings = read_settings(given, os.environ, check_root, names)
        self._settings = settings
        if settings.cache_dir is None and settings.use_cache and settings.disk_cache_size:
            problem = "this user has no home folder that is known, so nothing is kept on disk"
            warn(CacheWarning(f"{problem}; give cache_dir, or set HOME"))
        for name in settings.provider_settings:
            find_provider(name)
        self._chosen: dict[str, Provider] = {}
        if named is None:
            raise unknown("provider", named, names())
        self._provider = self._find(named)
        self._api_keys = ApiKeys(check_api_keys(api_keys, names), os.environ)
        if clock is not None and not callable(clock):
            raise InputError(f"clock {shown(clock)} cannot be called; expected a callable like time.time")
        self._clock = check_clock(clock or time.time)
        self._clock()
        set_up_logging(os.environ)

        def keys() -> set[str]:
            return {key.environment for one in (*all_providers().values(), self._provider) for key in one.keys}

        warn_of_unknown_variables(os.environ, keys)
        self._progress = progress
        self._is_closed = False
        self._set_up()
        _open.add(self)

    def _set_up(self) -> None:
        """Makes what belongs to one process: threads, connections, files and locks, and what they serve."""
        settings = self._settings
        self._monitor = PerformanceMonitor(pools={"network": settings.network_threads, "io": settings.io_threads})
        self._show = make_progress(self._progress)
        self._log = EventLog()
        self._pools = Pools(settings.network_threads, settings.io_threads)
        self._transport = Transport(
            timeout_s=settings.timeout_s, user_agent=f"candle-fetcher/{__version__}", observe=self._observe
        )
        # What processes share lies beside the cache on disk: without that there is nothing to share.
        self._desk = None if settings.disk_folder is None else Desk(settings.disk_folder)
        self._sources: dict[int, Source] = {}
        self._archives: dict[str, ArchiveSource] = {}
        self._bucket: BucketSource | None = None
        self._fundings: dict[int, FundingSource] = {}
        self._funding_gatherer: FundingGatherer | None = None
        self._errands: set[Errand] = set()
        self._calls = Calls(self._stop)
        self._lock = threading.RLock()
        self._closing = threading.Lock()
        self._closers: list[threading.Thread] = []
        self._made: dict[str, CandleCache] = {}
        self._ready_frames = ReadyFrames()

    # -- a resource -----------------------------------------------------------------------------------------------

    def __reduce__(self) -> str:
        raise TypeError("a CandleFetcher cannot be pickled; make one in each process, with the same cache_dir")

    def __enter__(self) -> CandleFetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way and lets go of threads, sockets and files. Calling it again does nothing.

        A signal handler may call it, and so may a finalizer; in a thread of the fetcher's own it does not wait.
        """
        self._close(None)

    def _close(self, patience_s: float | None) -> None:
        self._is_closed = True
        for errand in list(self._errands):
            self._stop(errand)
        closing = start_thread("candle-close", lambda: self._let_go(patience_s))
        if closing is not None:
            self._closers.append(closing)
        if is_ours():
            return
        if closing is None:
            self._let_go(patience_s)
        for one in list(self._closers):
            one.join()

    def _let_go(self, patience_s: float | None) -> None:
        with self._closing:
            self._pools.close(patience_s)
            self._calls.close(patience_s)
            self._transport.close()
            for cache in self._made.values():
                cache.close()
            if self._desk is not None:
                self._desk.close()

    @property
    def cache(self) -> CandleCache:
        """The cache of this fetcher: `path`, `stats()`, `list()`, `clear()`, `verify()`, `revisions()`,
        `import_file()`."""
        return self._made.get("cache") or self._made.setdefault("cache", self._make_cache())

    def _make_cache(self) -> CandleCache:
        settings, store, path = self._settings, None, None
        if settings.use_cache:
            disk = None
            path = settings.disk_folder
            if path is not None:
                disk = DiskTier(path, settings.disk_cache_size, observe=self._observe)
            store = Store(MemoryTier(settings.memory_cache_size, self._clock), disk, observe=self._observe)
        return CandleCache(
            store,
            path=path,
            compress=settings.compression,
            clock=self._clock,
            importer=self._import_file,
            run=self._calls.run,
            matcher=self._series_named,
        )

    def _series_named(self, symbol: str) -> Callable[[Series], bool]:
        with completing_errors(lambda: self._about(("provider",), {"symbol": symbol})):
            provider, name = self._told_apart(symbol, None)
            provider.provider_symbol(name, "candles")  # says what is wrong with it, whatever is stored

        def is_named(series: Series) -> bool:
            return series.provider == provider.name and series.symbol == provider.provider_symbol(name, series.kind)

        return is_named

    def _import_file(
        self,
        cache: CandleCache,
        path: Any,
        symbol: str | None,
        timeframe: str | None,
        provider: str | Provider | None,
        kind: str | None,
    ) -> Imported:
        from candle_fetcher.exports import find_home  # when used: it is not often
        from candle_fetcher.fetcher.importing import import_file

        began = time.perf_counter()
        path = find_home(path, "the name of a file")
        for name, text in (("symbol", symbol), ("timeframe", timeframe), ("kind", kind)):
            if text is not None and not isinstance(text, str):
                raise InputError(f"{name} {shown(text)} is not understood; expected a text")
        given = {"symbol": symbol, "timeframe": timeframe, "provider": provider}
        with completing_errors(lambda: self._about((), given)):
            done = import_file(
                cache,
                path,
                symbol,
                timeframe,
                kind,
                provider=None if provider is None else self._find(provider),
                usual=self._provider,
                find=self._find,
                series_of=lambda found, *what: read_series(found, self._origin(found), *what),
                now_ms=int(self._clock() * 1000),
            )
        self._observe(
            Operation(
                "import", time.perf_counter() - began, done.rows, path.stat().st_size, f"{done.symbol} {done.timeframe}"
            )
        )
        return done

    @property
    def monitor(self) -> PerformanceMonitor:
        """What everything has cost so far: `report()`, `snapshot()`, `to_frame()`, `reset()`."""
        return self._monitor

    # -- candles ----------------------------------------------------------------------------------------------------

    @ready_first
    @public_call
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
        kind: str = "candles",
        source: str | None = None,
        columns: str = "ohlcv",
        include_open: bool = False,
        on_gap: str = "leave",
        refresh: bool = False,
    ) -> pd.DataFrame:
        """The settled candles that open in [start, end), oldest first, with a UTC DatetimeIndex named `timestamp`.

        start, end: dates, ISO texts, Unix ms (never before 1973), datetimes; naive is UTC. Words: now, today, yesterday
        (midnight in UTC), 7d, 12h (so long ago), 2024, 20240131, and for a start first (the listing). `end=None` is
        now; `days` counts back from the end, or where there is none from the end of the newest settled candle.
        limit: that many candles: the oldest from `start` on, else the newest before `end`; 500 without any range.
        kind: "candles", and on Binance futures "mark", "index", "premium".
        source: overrides the fetcher's.
        columns: "ohlcv" (float64 open, high, low, close, volume) or "all".
        include_open: adds the candles that may still change, and a boolean column `is_closed`: false for the one that
            forms, and for one that is over but not final yet by the provider's rule; true for settled ones.
        on_gap: "leave" lists what the provider itself lacks in the manifest, "raise" raises IncompleteData, "refetch"
        asks for it again, "ffill" and "interpolate" invent rows and mark them in `is_synthetic`.
        refresh: asks again for everything in the range.

        `frame.attrs["candle_fetcher"]` is the manifest: range, gaps with causes, sources, retries, fingerprint.
        Raises InputError, AccessDenied, Banned or ProviderRefused at once, IncompleteData where part of the range could
        not be had (its `.frame` holds the rest).
        """
        began = time.perf_counter()
        options = read_options(columns, include_open=include_open, on_gap=on_gap, refresh=refresh)
        wanted = self._range(start, end, days, limit)
        request = self._request(symbol, timeframe, wanted, provider, kind, source)
        try:
            frame = self._fetch(request, options, source)
        except IncompleteData:
            if not request.is_readjusted:
                raise
            request = self._request(symbol, timeframe, wanted, provider, kind, source)
            frame = self._fetch(request, options, source)
        self._observe_gaps(request.label, frame.attrs[MANIFEST])
        self._observe(Operation("fetch", time.perf_counter() - began, len(frame), 0, request.label))
        return frame

    @passing_to(fetch)
    def fetch_many(
        self, /, symbols: Iterable[str], timeframe: str, start: Instant = None, end: Instant = None, **options: Any
    ) -> dict[str, pd.DataFrame]:
        """A frame for each symbol, fetched side by side; takes what `fetch` takes. A symbol may name its provider:
        `binance:BTC/USDT`, `kraken:BTC/USD`; see `combine`. It returns once the slowest of them has come or failed.

        Raises FetchManyError where some failed: `.frames` has the others, `.errors` says why, by symbol.
        """
        if not is_several(symbols):
            raise InputError(
                f"symbols {shown(symbols)} are not several; expected a list, such as ['BTC/USDT', 'ETH/USDT']"
            )
        several = list(symbols)
        if not all(isinstance(name, str) for name in several):
            raise InputError(
                f"symbols {shown(several)} are not all text; expected a list such as ['BTC/USDT', 'ETH/USDT']"
            )
        names = list(dict.fromkeys(several))
        frames: dict[str, pd.DataFrame] = {}
        errors: dict[str, Exception] = {}
        # These threads only wait and join; requests and disk have pools of their own, so nothing here can deadlock.
        callers = ThreadPool("caller", max(1, min(len(names), self._settings.network_threads)))
        call = current_call() or Call(lambda: None)
        fetch = inspect.unwrap(CandleFetcher.fetch)

        def fetch_one(name: str) -> pd.DataFrame:
            given = {"symbol": name, "timeframe": timeframe, **options}
            with call.entered(), completing_errors(lambda: self._about(("provider",), given)):
                frame: pd.DataFrame = fetch(self, name, timeframe, start, end, **options)
                return frame

        try:
            waiting = {callers.submit(fetch_one, name): name for name in names}
            for future in as_done(waiting, call.stop):
                try:
                    frames[waiting[future]] = future.result()
                except CandleFetcherError as error:
                    errors[waiting[future]] = error
        except BaseException:
            for errand in list(call.errands):
                self._stop(errand)
            raise
        finally:
            callers.close(cancels=True)
        if errors:
            raise FetchManyError({name: frames[name] for name in names if name in frames}, errors)
        return {name: frames[name] for name in names}

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
        kind: str = "candles",
        source: str | None = None,
        columns: str = "ohlcv",
        include_open: bool = False,
        on_gap: str = "leave",
        refresh: bool = False,
    ) -> Iterator[pd.DataFrame]:
        """Frames of at most `rows` rows, oldest first: one after the other, they are what `fetch` returns.

        Memory is bounded by `rows` whatever the range, and by `limit` where that is given. Each frame has a manifest of
        its own, which covers its part of the range. Nothing is fetched ahead, so an iterator that is given up costs
        nothing more. The other arguments are those of `fetch`.
        Raises what `fetch` raises, when the frame concerned is due.
        """
        options = read_options(columns, include_open=include_open, on_gap=on_gap, refresh=refresh)
        rows = read_whole("rows", rows, 1, 10**9)
        wanted = self._range(start, end, days, limit)
        answer = self._calls.run(
            lambda: self._answer(self._request(symbol, timeframe, wanted, provider, kind, source), options, source)
        )
        return self._iter_frames(answer, rows)

    def _iter_frames(self, answer: Answer, rows: int) -> Iterator[pd.DataFrame]:
        began, count = time.perf_counter(), 0
        with self._errand(answer.request) as errand:
            for frame in self._calls.each(answer.frames(errand, rows), errand):
                count += len(frame)
                yield frame
        self._observe(Operation("iter_frames", time.perf_counter() - began, count, 0, answer.request.label))

    @checked_call
    def export(
        self,
        symbol: str,
        timeframe: str,
        start: Instant = None,
        end: Instant = None,
        *,
        path: str | os.PathLike[str] = "historical_data",
        format: str = "csv",  # noqa: A002 - the word that everybody looks for
        columns: str = "ohlcv",
        manifest: bool = False,
        days: float | None = None,
        limit: int | None = None,
        provider: str | Provider | None = None,
        kind: str = "candles",
        source: str | None = None,
        include_open: bool = False,
        on_gap: str = "leave",
        refresh: bool = False,
    ) -> Path:
        """The path of the CSV file written: `timestamp,open,high,low,close,volume`; times in UTC, exact numbers.

        path: a folder, in which the file gets a telling name, or a name that ends in .csv; `~` is the home folder. The
        file appears whole or not at all; an older one of that name is replaced. Memory stays the same whatever the
        range.
        manifest: writes the manifest beside the file, as a `.json` of the same name. It is written in any case where
        the name does not say the whole series: candles of another host than the provider's own, and prices that are
        adjusted as of a day.
        include_open, on_gap: as of `fetch`; `is_closed` and `is_synthetic` are columns of `true` and `false`. Neither a
        candle that may still change nor an invented one is stored when the file is imported.

        Raises what `fetch` raises, InputError for another ending of the path or where the manifest would replace
        another file, and OSError where the file cannot be written.
        """
        find_target, export_of = self._calls.run(_import_export)
        began = time.perf_counter()
        options = read_options(columns, include_open=include_open, on_gap=on_gap, refresh=refresh)
        find_target(path, "")
        if not isinstance(manifest, bool):
            raise InputError(f"manifest {shown(manifest)} is not understood; expected True or False")
        if format != "csv":
            raise unknown("format", format, ("csv",))
        wanted = self._range(start, end, days, limit)
        request = self._calls.run(lambda: self._request(symbol, timeframe, wanted, provider, kind, source))
        with self._errand(request) as errand:
            answer = self._calls.run(lambda: self._answer(request, options, source, keep=False), errand)
            span = self._calls.run(lambda: answer.span(errand), errand)
            # The file is written by the caller's thread, which removes it where it is interrupted.
            made = export_of(request, path, span, with_manifest=manifest)
            pieces = self._calls.each(answer.pieces(errand, _STREAM_CHUNKS), errand)
            made.write(pieces, lambda piece: answer.manifest(piece, errand))
        self._observe(
            Operation("export", time.perf_counter() - began, made.rows, made.target.stat().st_size, request.label)
        )
        return made.target

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
        kind: str = "candles",
        source: str | None = None,
    ) -> FetchPlan:
        """What `fetch` would do and what it would cost; touches no network. Print it."""
        began = time.perf_counter()
        wanted = self._range(start, end, days, limit)
        request = self._request(symbol, timeframe, wanted, provider, kind, source, adjust=guess_adjusted)
        with naming_errors(lambda: request.about(None)):
            made = make_plan(request, self.cache, self._settings.network_threads, self._how(source))
        self._observe(Operation("plan", time.perf_counter() - began, label=request.label))
        return made

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
        kind: str = "candles",
        source: str | None = None,
    ) -> pd.DataFrame:
        """Every gap of the range: first and last missing open time (UTC), count, and cause. Fetches what is not stored.

        Causes: `no_candle` (the provider was asked again and has none), `not_listed`, `after_delisting`. Of stocks, the
        hours in which their exchange is closed are no gaps; knowing them needs the extra `calendars` (MissingExtra).
        """
        began = time.perf_counter()
        request = self._request(symbol, timeframe, _bounded(self._range(start, end, days)), provider, kind, source)
        how = self._how(source)._replace(needs_sessions=True)
        with self._errand(request) as errand:
            got = self._collector().collect(request, self._collector().span(request, how, errand), how, errand)
            refuse_incomplete(request, got, how.columns, errand, stores=self._settings.use_cache)
        self._observe(Operation("gaps", time.perf_counter() - began, got.candles.count, 0, request.label))
        return gap_frame(got.gaps)

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
        kind: str = "candles",
    ) -> pd.DataFrame:
        """What the cache knows of the series, span by span and in order; asks nobody. Without a start, of all time.

        Columns: start, end (excluded), state, asked, ask_again (UTC; NaT: never), evidence. States: `stored`;
        `unverified` (stored, out of a file of the archive without a checksum); `no_candle`, `not_listed`,
        `after_delisting` (the provider has none); `failed` (it could not be had when last asked for, and why). What no
        row speaks of has never been asked for. A timeframe that is made of another tells of that one.
        """
        began = time.perf_counter()
        wanted = self._range(start, end, days)
        request = self._request(symbol, timeframe, wanted, provider, kind, "cache")
        span = None
        if (start, end, days) != (None, None, None):
            end_ms = request.source.estimated_ms() if wanted.end_ms is None else wanted.end_ms
            start_ms = 0 if wanted.back_ms is None else end_ms - wanted.back_ms
            span = Span(start_ms if wanted.start_ms is None else wanted.start_ms, end_ms)
        late_ms = request.source.provider.feed(kind).finality.late_ms
        with naming_errors(lambda: request.about(span)):
            frame = coverage_frame(read_coverage(self.cache, request.series, span, late_ms))
        self._observe(Operation("coverage", time.perf_counter() - began, label=request.label))
        return frame

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
        kind: str = "candles",
        source: str | None = None,
    ) -> pd.DataFrame:
        """What disagrees about the candles of the range: timestamp (UTC), column, ours, theirs, against.

        A row for each value that differs; NaN on the side that has no such candle; no row where all agrees. `against`:

        "finer", or a timeframe such as "1h": the candles against those put together of finer ones; prices and volume.
        "finer" takes the day, the hour or the minute, whichever is the longest below.
        "archive": the candles by REST against the archive's; in a long range, in a sample of its days.
        "cache": the stored candles against a copy asked for now; what is not stored is not compared.
        None: all of these that can be had.

        `frame.attrs["candle_fetcher"]["compared"]` counts the candles compared, by comparison. Nothing is mended.
        Raises what `fetch` raises, and IncompleteData where the comparison that was named has nothing to compare.
        """
        from candle_fetcher.fetcher.audit import Auditor  # when used: few do

        began = time.perf_counter()
        request = self._request(symbol, timeframe, _bounded(self._range(start, end, days)), provider, kind, source)

        def unknowing() -> Collector:
            cache = CandleCache(None, path=None, clock=self._clock)
            return Collector(self._gatherer(cache), cache)

        with self._errand(request) as errand, self._closest(request):

            def refuse(asked: Request, got: Collected) -> None:
                refuse_incomplete(asked, got, "ohlcv", errand, stores=self._settings.use_cache)

            auditor = Auditor(self._collector(), unknowing, refuse, errand, self._settings.use_cache)
            frame = auditor.audit(request, self._how(source), against)
        compared = sum(frame.attrs[MANIFEST]["compared"].values())
        self._observe(Operation("audit", time.perf_counter() - began, compared, 0, request.label))
        return frame

    # -- funding rates ------------------------------------------------------------------------------------------------

    @public_call
    def fetch_funding(
        self,
        symbol: str,
        start: Instant = None,
        end: Instant = None,
        *,
        days: float | None = None,
        provider: str | Provider | None = None,
        source: str | None = None,
        refresh: bool = False,
    ) -> pd.DataFrame:
        """The funding rates of a perpetual future in [start, end), oldest first; without a start, all so far.

        float64 `funding_rate`, as a fraction (0.0001 is 0.01 %), and `mark_price`, NaN where the provider has none;
        a UTC DatetimeIndex named `timestamp`: the funding times as sent, some milliseconds after the hour. No distance
        between them is assumed: it differs by symbol and changes. A delivery contract has none: an empty frame.
        source: "auto" (REST; the archive's files where REST cannot be had), "rest", "archive" (files alone; without a
        start from the first, without an end up to the last one), "cache" (asks nobody). Files have no mark prices:
        what comes out of them is NaN there, listed in the manifest, never taken for what REST would say, and warned of
        where you did not ask for it.
        refresh: asks again for everything in the range.

        `frame.attrs["candle_fetcher"]` is the manifest: range, rows, sources, `without_mark_price` (spans out of files
        whose mark prices only REST has), files that are `unverified` or `rejected`, retries.
        Raises NotOffered where the provider has no futures, and what `fetch` raises; `missing` of an IncompleteData
        counts 0, since nobody knows how many records a span holds that did not come.
        """
        began = time.perf_counter()
        read_flag("refresh", refresh)
        wanted = self._range(start, end, days)
        if wanted.from_first:
            wanted = wanted._replace(start_ms=None)
        if source is not None:
            one_of("source", source, SOURCES)
        found, symbol = self._told_apart(symbol, provider)
        funding = find_funding(found)
        archive = self._archive(found) if funding.in_archive else None
        way = source or self._settings.source
        if archive is None and way == "archive":
            raise NotOffered(f"{found.name} has no archive of funding rates here; use source='auto' or 'rest'")
        provider_symbol = found.provider_symbol(symbol, "funding")
        series = Series(found.name, self._origin(found), provider_symbol, MONTH, "funding")
        name = self.cache.listed_name(found, series.origin, provider_symbol)
        request = Request(self._source(found), series, name, MONTH, wanted, archive)
        with self._lock:
            rates = self._fundings.setdefault(id(found), FundingSource(request.source, funding))
        with self._errand(request) as errand, self._closest(request):
            frame = self._fetch_funding(request, rates, errand, refresh, way)
        self._observe(Operation("fetch_funding", time.perf_counter() - began, len(frame), 0, request.symbol))
        return frame

    def _fetch_funding(
        self, request: Request, rates: FundingSource, errand: Errand, refresh: bool, way: str
    ) -> pd.DataFrame:
        wanted, series, archive = request.range, request.series, request.archive
        end_ms = FOREVER_MS if wanted.end_ms is None else wanted.end_ms
        clock = archive if way == "archive" and archive is not None else request.source
        spare = archive if way == "auto" else None
        now_ms = self._gatherer().now_ms(clock, series, end_ms, errand, ask=way != "cache", archive=spare)
        span = read_span(wanted._replace(end_ms=now_ms if wanted.end_ms is None else end_ms), now_ms, now_ms)
        if wanted.oldest:
            errand.span = span
        with self._lock:
            if self._funding_gatherer is None:
                self._funding_gatherer = FundingGatherer(
                    self.cache, self._pools, self._clock, self._observe, self._transport.abort
                )
        if way == "archive" and archive is not None:
            if wanted.end_ms is None:
                span = span.before(archive.end_ms(series, now_ms))
            told = self._funding_gatherer.gather_files(
                rates,
                archive,
                series,
                span,
                now_ms,
                errand,
                refresh=refresh,
                from_first=not wanted.oldest,
                to_last=wanted.end_ms is None,
            )
        else:
            span = span.before(now_ms)
            told = self._funding_gatherer.gather(
                rates,
                series,
                span,
                now_ms,
                errand,
                archive=archive if way == "auto" else None,
                refresh=refresh,
                only_cache=way == "cache",
                until_stored=wanted.end_ms is None,
            )
        if errand.clock_error is not None and not told.missing and end_ms > now_ms:
            # Which records are the newest is not known by a clock that nothing has checked.
            told.missing, told.refusal = [Gap(now_ms, now_ms, 0, "fetch_failed")], errand.clock_error
        warn_of_clock(request.source)
        if told.in_doubt:
            self._refuse_unknown(request, rates, now_ms, errand)
        frame = funding_frame(told.records)
        frame.attrs[MANIFEST] = Manifest(
            provider=series.provider,
            origin=series.origin,
            symbol=request.symbol,
            kind=series.kind,
            start=iso(span.start_ms if wanted.oldest else told.span.start_ms),
            end=iso(told.span.end_ms),
            rows=len(frame),
            sources=told.sources,
            without_mark_price=[
                {"start": iso(one.start_ms), "end": iso(one.end_ms)}
                for one in told.from_files
                if rates.funding.has_marks
            ],
            unverified=told.unverified,
            rejected=told.rejected,
            retries=errand.retries,
            version=__version__,
        )
        self._refuse_missing(request, told, frame, asked_rest=way in ("auto", "rest"))
        if way != "archive" and told.from_files and rates.funding.has_marks:
            why = f"REST could not be had ({told.refusal.reason})" if told.refusal else "only the cache may be asked"
            warn(
                CandleFetcherWarning(
                    f"funding rates of {request.symbol} between {iso(told.from_files[0].start_ms)} and "
                    f"{iso(told.from_files[-1].end_ms)} are out of the archive's files, which have no mark prices; "
                    f"{why}"
                )
            )
        return frame

    def _refuse_missing(self, request: Request, told: FundingTold, frame: pd.DataFrame, *, asked_rest: bool) -> None:
        """Raise IncompleteData where part of the funding rates could not be had, AccessDenied where that is all."""
        if not told.missing:
            return
        error = told.refusal
        if isinstance(error, AccessDenied) and frame.empty:
            raise error
        why = "they are not stored, and only the cache may be asked"
        if error is not None:
            why = f"{type(error).__name__}: {error.reason}"
        elif told.missing[0].cause == "not_published":
            why = "the archive has no file of them; source='auto' asks REST for them"
        raise IncompleteData(
            f"funding rates of {request.symbol} between {told.missing[0].first} and {told.missing[-1].last} could not "
            f"be had; {why}. What arrived is stored",
            frame=frame,
            missing=told.missing,
            refusals=() if error is None else (error,),
            fix=FIX_BY_ARCHIVE if error is not None and asked_rest and request.archive is not None else FIX,
        ) from error

    def _refuse_unknown(self, request: Request, rates: FundingSource, now_ms: int, errand: Errand) -> None:
        """Raises UnknownSymbol where the provider neither lists the symbol nor ever had a funding rate of it; it may
        answer such a question with nothing."""
        symbol = request.series.symbol
        listing = self._listing(request.source, errand)
        listed = any(one.provider_symbol == symbol for one in listing.symbols)
        if not listed and not rates.has_any(symbol, now_ms, errand):
            raise UnknownSymbol(request.symbol, request.series.provider)

    # -- what there is ------------------------------------------------------------------------------------------------

    @public_call
    def symbols(self, *, provider: str | Provider | None = None) -> pd.DataFrame:
        """What the provider lists: symbol, provider_symbol, base, quote, status.

        Kept for a day; an older listing serves where the provider cannot be asked.
        """
        began = time.perf_counter()
        with self._errand() as errand:
            found = self._find(provider)
            listing = self._listing(self._source(found), errand)
        self._observe(Operation("symbols", time.perf_counter() - began, label=found.name))
        rows = [(one.symbol, one.provider_symbol, one.base, one.quote, one.status) for one in listing.symbols]
        return pd.DataFrame(rows, columns=["symbol", "provider_symbol", "base", "quote", "status"]).sort_values(
            "symbol", ignore_index=True
        )

    @staticmethod
    def providers() -> pd.DataFrame:
        """What each provider offers, those of installed packages too; asks nobody. A row for each, all of it text.

        Columns: provider, timeframes (its own; their multiples are resampled), kinds, history (how far back it goes),
        more_columns (beyond OHLCV), quiet_interval (whether an interval without trades has a row), sessions (the
        exchange whose hours it keeps), symbols (whether it lists them), key (where it is looked for in the
        environment), limits, settings (for `provider_settings`, the default first).
        """
        from candle_fetcher.fetcher.offers import offers_frame  # when used: few do

        return offers_frame(all_providers().values())

    @public_call
    def availability(self) -> pd.DataFrame:
        """Which bases are traded on Binance spot, USDⓈ-M and COIN-M alike, and since when the archive has candles.

        A row for each, the oldest first, all of it text: market (spot), symbol (the id of its USDT pair), earliest_date
        (the day of the archive's first daily file of 1d; while it has none, of the first candle by REST),
        available_intervals (of its daily files, the shortest first, separated by commas), um, cm (the ids of its
        perpetual futures in USDT and in dollars). Traded is what exchangeInfo says is TRADING; see `symbols`.

        Raises what keeps a part of it from being had: there are never fewer rows instead.
        """
        from candle_fetcher.fetcher.availability import availability_frame, look_up  # when used: few do

        began = time.perf_counter()
        bucket = self._find_bucket()
        with self._errand() as errand:
            try:
                sources = {market: self._source(self._find(market.provider)) for market in MARKETS}
                trios = find_trios({market: self._listing(source, errand) for market, source in sources.items()})
                found = look_up(bucket, [trio.spot for trio in trios], self._pools, errand, self._observe)
            except BaseException:
                self._stop(errand)
                raise

        def first_candle(symbol: str) -> pd.Timestamp:
            first: pd.Timestamp = inspect.unwrap(CandleFetcher.first_available)(self, symbol, provider=SPOT.provider)
            return first

        frame = availability_frame(trios, found, first_candle)
        self._observe(Operation("availability", time.perf_counter() - began, label=f"{len(frame):,} symbols"))
        return frame

    @public_call
    def first_available(
        self, symbol: str, *, provider: str | Provider | None = None, kind: str = "candles", source: str | None = None
    ) -> pd.Timestamp:
        """When the first candle of the symbol opens (UTC), of 1m or the provider's finest. Asked once, then remembered.

        Where REST is refused or out of reach, it is the first candle of the archive's files, with a warning; with
        source="archive" too. That is not remembered: REST may have older ones.
        Raises IncompleteData where there is none yet, or where only the cache may be asked and does not know;
        NotOffered where the provider cannot be asked for it.
        """
        finest = "1m"
        if isinstance(kind, str):
            names = self._told_apart(symbol, provider)[0].feed(kind).timeframes
            finest = "1m" if "1m" in names else names[0]
        request = self._request(symbol, finest, Range(None, None), provider, kind, source)
        way = source or self._settings.source
        how = How(only_cache=way == "cache", use_archive=way != "rest", only_archive=way == "archive")
        with self._errand(request) as errand, self._closest(request):
            first_ms = self._collector().listed_ms(request, how, errand)
        return pd.Timestamp(first_ms, unit="ms", tz="UTC").as_unit("ns")

    @public_call
    def doctor(self, *, provider: str | Provider | None = None) -> pd.DataFrame:
        """What stands between a fetch and its candles: check, subject, passed, found, what_to_do; a row for each check.

        Looks at proxy, name resolution, TLS, access (region block, firewall), clock skew, limits left, keys (whether
        those that the provider wants are there), disk space, permissions, cache entries (whole or damaged), cache
        orphans, and versions with known defects. `passed` is NA where there was nothing to check or no way to. Changes
        nothing, works without a network, and ends within `timeout_s` or 15 s on the network, whichever is shorter, and
        5 s with the cache. With source="cache" asks nobody. Raises InputError for an unknown provider.
        """
        from candle_fetcher.fetcher import doctor  # when used: few do

        found = self._find(provider)
        source, url = self._source(found), self._settings.base_urls.get(found.name)
        archive_root = None
        if found.archive is not None and self._archive(found) is not None:
            archive_root = self._settings.base_urls.get(found.archive.name) or found.archive.host
        with self._errand() as errand:
            checks = doctor.check_network(
                doctor.list_places(found, found.hosts if url is None else (url,), archive_root),
                source,
                self._transport,
                errand,
                monitor=self._monitor,
                patience_s=0.0 if self._is_offline(None) else min(self._settings.timeout_s, 15.0) / 3,
                now_s=self._clock(),
            )
        keys = doctor.check_keys(source)
        return doctor.as_frame([*checks, *keys, *doctor.check_machine(self._settings, self._clock())])

    # -- inside -------------------------------------------------------------------------------------------------------

    def _answer(self, request: Request, options: Options, source: str | None, *, keep: bool = False) -> Answer:
        how = self._how(source, keep=keep)
        return Answer(self._collector(), request, how, options, stores=self._settings.use_cache)

    def _fetch(self, request: Request, options: Options, source: str | None) -> pd.DataFrame:
        answer = self._answer(request, options, source, keep=True)
        collector, how, key = self._collector(), answer.how, ""
        with self._errand(request) as errand, self._closest(request):
            if request.range.limit is not None:
                got = collector.collect_limited(request, how, errand)
            else:
                span = collector.span(request, how, errand)
                key = series_frame_key(request.series, span, request.timeframe, options.columns)
                ready = None if how.refresh or how.recheck else self._ready(key, options)
                if ready is not None:
                    if request.adjusted is not None:
                        dict.update(ready.attrs[MANIFEST], adjusted=request.adjusted.describe())
                    return ready
                got = collector.collect(request, span, how, errand)
            # A frame that was warned of is made again, and warned of again.
            is_plain = not (options.include_open or options.invents or "symbol" in errand.warned)
            if is_plain and key and got.span == span and self._fits_memory(got):
                answer.refuse(got, errand)
                frame = settled_frame(request, got, options.columns, errand, is_shared=True)
                # Before an adjusted frame is handed out again it is asked for what it is adjusted.
                is_whole = request.range.end_ms == span.end_ms and request.adjusted is None
                return self._put_away(key, frame, got, is_whole=is_whole)
            return answer.framed(answer.whole(got, errand), errand)

    def _ready(self, key: str, options: Options) -> pd.DataFrame | None:
        """The frame as it was handed out before, where it still holds."""
        if options.include_open or options.invents:
            return None
        kept: pd.DataFrame | None = self.cache.load_frame(key)
        if kept is None or (options.on_gap == "raise" and kept.attrs[MANIFEST]["gap_count"]):
            return None
        return self._hand_out(kept)

    def _hand_out(self, kept: pd.DataFrame) -> pd.DataFrame:
        """A copy of a frame that is kept, which the caller may change."""
        frame = hand_out(kept)
        self._observe(Lookup("memory", -(-len(frame) // CHUNK_SLOTS), 0))
        manifest = frame.attrs[MANIFEST]
        manifest["sources"] = {"memory": len(frame), "disk": 0, "archive": 0, "rest": 0}
        manifest["retries"] = 0
        dict.pop(manifest, "rejected", None)  # a warm fetch rejects nothing; the method would work out the fingerprint
        return frame

    @property
    def _epoch(self) -> int:
        cache = self._made.get("cache")
        return 0 if cache is None else cache.epoch

    def _find_ready(self, key: Any) -> pd.DataFrame | None:
        """The finished frame of a call that was made before, where no lock is needed to hand it out."""
        began = time.perf_counter()
        kept = self._ready_frames.find(key, self._epoch)
        if kept is None or self._is_closed or self._log.is_on(logging.INFO) or not self._monitor.has_room:
            return None
        frame = self._hand_out(kept)
        label = f"{frame.attrs[MANIFEST]['symbol']} {frame.attrs[MANIFEST]['timeframe']}"
        self._observe(Operation("fetch", time.perf_counter() - began, len(frame), 0, label))
        return frame

    def _put_away(self, key: str, frame: pd.DataFrame, got: Collected, *, is_whole: bool) -> pd.DataFrame:
        """Keep the frame for the same request, and return one that the caller may change. `is_whole` says that the
        range that was given was not cut at its end, and that its history is not restated."""
        until_s = min(self._clock(), got.told.wall_s) + (got.told.until_ms - got.told.now_ms) / 1000
        frame.attrs[MANIFEST].is_final = is_whole and got.told.until_ms >= FOREVER_MS and not got.gaps
        if got.told.ends_now:
            # A series that is polled gives another range each time: of those only the newest is asked for again.
            kind, _, _, columns = key.rsplit("|", 3)
            self.cache.replace_frames(f"{kind}|{columns}", key, got.span)
        self.cache.save_frame(got.told.series, key, frame, _frame_bytes(got), until_s, got.told.generation)
        return hand_out(frame)

    def _fits_memory(self, got: Collected) -> bool:
        return self._settings.use_cache and _frame_bytes(got) <= self._settings.memory_cache_size // 2

    def _range(self, start: Any, end: Any, days: Any = None, limit: Any = None) -> Range:
        return read_range(start, end, days, limit, now_ms=lambda: int(self._clock() * 1000))

    def _request(
        self,
        symbol: str,
        timeframe: str,
        wanted: Range,
        provider: str | Provider | None,
        kind: str,
        source: str | None,
        adjust: Callable[[Source, CandleCache, Series], Adjusted] | None = None,
    ) -> Request:
        """The request, checked. `adjust` finds what a restated series is adjusted by; unless given, the provider is
        asked where it may be."""
        with completing_errors(lambda: About(span=wanted.ends)):
            if source is not None:
                one_of("source", source, SOURCES)
            if not isinstance(kind, str):
                raise InputError(f"kind {shown(kind)} is not a text such as 'candles'")
            found, symbol = self._told_apart(symbol, provider)
            archive = self._archive(found)
            if archive is None and (source or self._settings.source) == "archive":
                raise NotOffered(f"{found.name} has no archive here; use source='auto' or 'rest'")
            series, name, target = read_series(found, self._origin(found), symbol, timeframe, kind)
            if read_pair(symbol) is None:
                name = self.cache.listed_name(found, series.origin, series.symbol)
            adjusted = None
            if series.settings and found.feed(kind).restates(series):
                adjusted = (adjust or self._adjust_by(source))(self._source(found), self.cache, series)
                series = series._replace(settings=(*series.settings, *adjusted.settings))
            return Request(self._source(found), series, name, target, wanted, archive, symbol.strip(), adjusted)

    def _adjust_by(self, source: str | None) -> Callable[[Source, CandleCache, Series], Adjusted]:
        if self._is_offline(source):
            return stored_adjusted

        def ask(asked: Source, cache: CandleCache, series: Series) -> Adjusted:
            with self._errand() as errand:
                return ask_adjusted(asked, cache, series, errand)

        return ask

    def _how(self, source: str | None, *, keep: bool = True) -> How:
        ttl = self._settings.cache_ttl
        return How(
            only_cache=self._is_offline(source),
            use_archive=(source or self._settings.source) != "rest",
            only_archive=(source or self._settings.source) == "archive",
            keep=keep,
            ttl_ms=None if ttl is None else int(ttl * 1000),
        )

    def _is_offline(self, source: str | None) -> bool:
        return (source or self._settings.source) == "cache"

    def _origin(self, provider: Provider) -> str | None:
        url = self._settings.base_urls.get(provider.name)
        known = self._chosen.get(provider.name) or find_known(provider.name)
        if url is None and provider != known:
            url = provider.hosts[0]  # a value of the caller's own, whatever it is called
        return None if known is not None and url in (None, *known.hosts) else url

    def _told_apart(self, symbol: str, provider: str | Provider | None) -> tuple[Provider, str]:
        """The provider and the symbol of `provider:symbol`, or of a symbol alone."""
        name, rest = split_symbol(symbol) if isinstance(symbol, str) else (None, symbol)
        if name is None:
            return self._find(provider), rest
        found = self._find(name)
        if provider is not None and self._find(provider) is not found:
            raise InputError(
                f"symbol {symbol!r} names {found.name}, and provider={provider!r} another; give one of them"
            )
        return found, rest

    def _about(self, names: Collection[str], given: Mapping[str, Any]) -> About:
        return about_arguments(names, given, self._find)

    def _find(self, provider: str | Provider | None) -> Provider:
        """The provider of that id, as its user chose its settings; the fetcher's own unless named."""
        if provider is None:
            return self._provider
        found = find_provider(provider)
        if found is not find_known(found.name):
            return found
        made = self._chosen.get(found.name)
        if made is None:
            made = choose(found, self._settings.provider_settings.get(found.name, {}))
            made = self._chosen.setdefault(found.name, made)
        return made

    def _source(self, provider: Provider) -> Source:
        with self._lock:
            if self._is_closed:
                raise CandleFetcherError("this CandleFetcher is closed; make another one")
            made = self._sources.get(id(provider))
            if made is None:
                urls = self._settings.base_urls
                url = urls.get(provider.name)
                made = self._sources[id(provider)] = Source(
                    provider,
                    provider.hosts if url is None else (url,),
                    self._clock,
                    keys=self._api_keys.of(provider),
                    token_host=urls.get(provider.token.name) if provider.token is not None else None,
                    transport=self._transport,
                    retry=Retry(max_retries=self._settings.max_retries),
                    observe=self._observe,
                    desk=self._desk,
                )
            return made

    def _archive(self, provider: Provider) -> ArchiveSource | None:
        """The provider's archive; None without one, and where a base URL was given for the provider but none for it."""
        facts = provider.archive
        if facts is None:
            return None
        url = self._settings.base_urls.get(facts.name)
        if url is None and provider.name in self._settings.base_urls:
            return None
        bucket = self._bucket_of(facts)
        with self._lock:
            made = self._archives.get(facts.name)
            if made is None:
                made = self._archives[facts.name] = ArchiveSource(
                    facts,
                    url or facts.host,
                    bucket=bucket,
                    clock=self._clock,
                    transport=self._transport,
                    retry=Retry(max_retries=self._settings.max_retries),
                    observe=self._observe,
                    desk=self._desk,
                )
            return made

    def _find_bucket(self) -> BucketSource:
        """The listing of the archive: at the archive's root where one was given, else where S3 serves it."""
        if self._is_offline(None):
            raise IncompleteData("the archive's listing is not stored, and only the cache may be asked")
        archive = self._archive(self._find(SPOT.provider))
        bucket = self._bucket_of(archive.archive) if archive is not None else None
        if bucket is None:
            raise NotOffered(
                f"{SPOT.provider} has no archive here: base_urls names a host for it; expected one for {NAME} too"
            )
        return bucket

    def _bucket_of(self, archive: Archive) -> BucketSource | None:
        """The listing of an archive, at its root where one was given; None where nothing lists it."""
        url = self._settings.base_urls.get(archive.name) or archive.listing_host
        if archive.listing_host is None or url is None:
            return None
        with self._lock:
            if self._bucket is None:
                self._bucket = BucketSource(
                    url,
                    clock=self._clock,
                    transport=self._transport,
                    retry=Retry(max_retries=self._settings.max_retries),
                    observe=self._observe,
                    desk=self._desk,
                )
            return self._bucket

    def _gatherer(self, cache: CandleCache | None = None) -> Gatherer:
        return Gatherer(cache or self.cache, self._pools, self._clock, self._observe, self._transport.abort)

    def _collector(self) -> Collector:
        return Collector(self._gatherer(), self.cache)

    @contextlib.contextmanager
    def _errand(self, request: Request | None = None) -> Iterator[Errand]:
        """Give the scope of a public call; what is raised within it says which request it is about."""
        errand = Errand()
        with naming_errors(lambda: About() if request is None else request.about(errand.span)), self._enter(errand):
            yield errand

    @contextlib.contextmanager
    def _enter(self, errand: Errand) -> Iterator[None]:
        self._errands.add(errand)
        if self._is_closed:
            self._errands.discard(errand)
            raise CandleFetcherError("this CandleFetcher is closed; make another one")
        call = current_call()
        if call is not None:
            call.join(errand)
        try:
            yield
        except CancelledError:
            raise CandleFetcherError("this call was ended, because its CandleFetcher was closed") from None
        finally:
            self._errands.discard(errand)

    def _stop(self, errand: Errand) -> None:
        errand.set()
        self._transport.abort(errand)

    def _observe(self, event: Event) -> None:
        self._monitor.observe(event)
        self._log(event)
        if self._show is not None and type(event) is Progress:
            tell_caller(self._show, event)

    def _observe_gaps(self, label: str, manifest: Mapping[str, Any]) -> None:
        if manifest["gap_count"]:
            self._observe(Gaps(label, manifest["gap_count"], manifest["expected"] - manifest["rows"]))

    # -- listings -----------------------------------------------------------------------------------------------------

    def _listing(self, source: Source, errand: Errand) -> Listing:
        """The provider's symbols, at most a day old, or older where it cannot be asked."""
        provider = source.provider
        name = f"{provider.name}|{self._origin(provider) or ''}"
        stored = self.cache.load_listing(name)
        # One that was stored at a time to come was so by a clock that was wrong.
        if stored is not None and (abs(stored[1]) < _LISTING_S or self._is_offline(None)):
            return stored[0]
        if self._is_offline(None):
            raise IncompleteData(f"no listing of {provider.name} is stored, and only the cache may be asked")
        try:
            listing = source.listing(errand)
        except SourceError:
            if stored is not None:
                return stored[0]
            raise
        source.set_limits(listing)
        warn_of_limits(source)
        self.cache.save_listing(name, listing)
        return listing

    @contextlib.contextmanager
    def _closest(self, request: Request) -> Iterator[None]:
        """Adds the closest names to an UnknownSymbol, where the listing can be had."""
        try:
            yield
        except UnknownSymbol as error:
            listed: dict[str, str] = {}
            same: list[str] = []
            wanted = request.symbol.upper()
            with contextlib.suppress(CandleFetcherError), self._errand() as another:
                symbols = self._listing(request.source, another).symbols
                listed = {one.symbol.upper(): one.symbol for one in symbols}
                same = [one.symbol for one in symbols if f"{one.base}/{one.quote}".upper() == wanted]
            same = [name for name in same if name.upper() != wanted]
            close = [*dict.fromkeys([*same, *near_symbols(wanted, listed)])][:3]
            raise UnknownSymbol(request.typed or request.symbol, request.series.provider, close) from error


def _hosts_beside(providers: Iterable[Provider]) -> set[str]:
    """What `base_urls` may name beside the providers themselves."""
    return {host.name for one in providers for host in (one.archive, one.token) if host is not None}


def _frame_bytes(got: Collected) -> int:
    """How much memory the frame of those candles takes: they and the index."""
    return got.candles.block.nbytes + 8 * got.candles.count


def _bounded(wanted: Range) -> Range:
    """The range of a call that knows no limit; InputError without a start."""
    if wanted.start_ms is None and wanted.back_ms is None:
        raise InputError("start is missing; this call needs one, such as start='2024-01-01'")
    return wanted


def _import_export() -> tuple[Callable[..., Any], type[Export]]:
    """What export() needs beside: its tables of digits take 5 ms."""
    from candle_fetcher.exports import find_target
    from candle_fetcher.fetcher.exporting import Export

    return find_target, Export


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the candles of a CSV that `export` wrote, as `fetch` would: UTC times in nanoseconds, exact numbers.

    The frame can be joined with one of `fetch`: its index is named `timestamp`, its columns are those of the file with
    the same types. The manifest beside the file, if any, is in its attrs.

    Raises InputError where it is no such file, BadFile where it was cut, damaged or holds what cannot be candles, and
    OSError where it cannot be read.
    """
    from candle_fetcher.fetcher.importing import read_frame  # when used: few do

    return read_frame(path)
