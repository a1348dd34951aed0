"""One fetcher in one process: settings, clock, thread pools, cache, clients of providers, and the end.

A forked child starts again with the same settings. A fetcher that its user does not close is closed at exit, so that no
file is left open.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import is_ours, start_thread
from candle_fetcher.concurrency.call import current_call, tell_caller
from candle_fetcher.console import make_progress
from candle_fetcher.core.errors import (
    About,
    CacheWarning,
    CandleFetcherError,
    IncompleteData,
    InputError,
    NotOffered,
    completing_errors,
    naming_errors,
    warn,
)
from candle_fetcher.core.events import Event, Progress
from candle_fetcher.core.series import Series
from candle_fetcher.core.version import __version__
from candle_fetcher.fetcher.calls import Calls
from candle_fetcher.fetcher.gathering import Resources
from candle_fetcher.fetcher.policy import ONLY_CACHE
from candle_fetcher.fetcher.pools import Pools
from candle_fetcher.fetcher.ready import ReadyFrames
from candle_fetcher.fetcher.request import Request, about_arguments
from candle_fetcher.live.kept import LastKnown
from candle_fetcher.log import EventLog, set_up_logging
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.net.retry import Retry
from candle_fetcher.net.transport import Transport
from candle_fetcher.providers import Provider, all_providers, find_known, find_provider, split_symbol
from candle_fetcher.settings import Settings, check_api_keys, choose, read_settings, warn_of_unknown_variables
from candle_fetcher.sources import ApiKeys, ArchiveSource, CallScope, RestSource, Wire, check_clock
from candle_fetcher.store import DiskTier, MemoryTier, Store
from candle_fetcher.store.shared import SharedStates

if TYPE_CHECKING:
    from candle_fetcher.sources.bucket import BucketSource

_EXIT_S = 5.0  # how long the end of the program waits for each kind of thread: what arrived is being stored

_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for runtime in list(_open):
        runtime.close(_EXIT_S)


def _set_up_again() -> None:
    """Let a forked child use the fetchers of its parent; the threads of the parent do not exist in it."""
    for runtime in list(_open):
        runtime.set_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_up_again)


class Runtime:
    """What one fetcher works with. Shared by its threads."""

    def __init__(
        self,
        settings: Settings,
        provider: str | Provider,
        api_keys: ApiKeys,
        clock: Callable[[], float],
        progress: bool | Callable[[Progress], object] | None,
    ) -> None:
        self.settings, self.clock = settings, clock
        self.api_keys, self._progress = api_keys, progress
        self._chosen: dict[str, Provider] = {}
        self.provider = self.find(provider)
        self.is_closed = False
        self.set_up()
        _open.add(self)

    def set_up(self) -> None:
        """Make what belongs to one process: threads, connections, files and locks, and what they serve."""
        settings = self.settings
        self.pools = Pools(settings.network_threads, settings.io_threads)
        self.monitor = PerformanceMonitor(pools={name: self.pools.sizes[name] for name in ("network", "io")})
        self._show = make_progress(self._progress)
        self.log = EventLog()
        self.transport = Transport(
            timeout_s=settings.timeout_s, user_agent=f"candle-fetcher/{__version__}", observe=self.observe
        )
        # What processes share lies beside the cache on disk: without that there is nothing to share.
        self._shared_states = None if settings.disk_folder is None else SharedStates(settings.disk_folder)
        retry, at_once = Retry(max_retries=settings.max_retries), settings.network_threads
        wire = Wire(self.transport, retry, self.observe, self.clock, self._shared_states, at_once=at_once)
        self.wire = wire._replace(share=settings.budget_share)
        self._rests: dict[int, RestSource] = {}
        self._archives: dict[str, ArchiveSource] = {}
        self._scopes: set[CallScope] = set()
        self.calls = Calls(self.stop)
        self._lock = threading.RLock()
        self._closing = threading.Lock()
        self._closers: list[threading.Thread] = []
        self._caches: dict[str, CandleCache] = {}
        self.ready_frames = ReadyFrames()
        self.last_known = LastKnown()
        self.live: weakref.WeakSet[Any] = weakref.WeakSet()  # live calls, which end with the fetcher

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self, patience_s: float | None = None) -> None:
        """End what is under way and let go of threads, sockets and files. Calling it again does nothing.

        A signal handler may call it, and so may a finalizer; in a thread of the fetcher's own it does not wait.
        """
        self.is_closed = True
        for one in [*self.live]:
            one.close()
        for scope in list(self._scopes):
            self.stop(scope)
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
            self.pools.close(patience_s)
            self.calls.close(patience_s)
            self.transport.close()
            for cache in self._caches.values():
                cache.close()
            if self._shared_states is not None:
                self._shared_states.close()

    def _refuse_closed(self) -> None:
        if self.is_closed:
            raise CandleFetcherError("this CandleFetcher is closed; create a new one")

    # -- one public call ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scope(self, request: Request | None = None, scope: CallScope | None = None) -> Iterator[CallScope]:
        """Give the scope of a public call; an error raised within it says which request it is about."""
        scope = scope or CallScope()
        with naming_errors(lambda: About() if request is None else request.about(scope.span)):
            self._scopes.add(scope)
            try:
                self._refuse_closed()
                call = current_call()
                if call is not None:
                    call.join(scope)
                yield scope
            except CancelledError:
                raise CandleFetcherError(
                    "this call ended because its CandleFetcher was closed; create a new one"
                ) from None
            finally:
                self._scopes.discard(scope)

    def stop(self, scope: threading.Event) -> None:
        """End the call: nothing more is sent for it, and what is under way is broken off."""
        scope.set()
        self.transport.abort(scope)

    def observe(self, event: Event) -> None:
        """Give the event to the monitor, the log and the progress bar."""
        self.monitor.observe(event)
        self.log(event)
        if self._show is not None and type(event) is Progress:
            tell_caller(self._show, event)

    # -- the cache ----------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> CandleCache:
        """The cache; made when it is first used."""
        return self._caches.get("cache") or self._caches.setdefault("cache", self._make_cache())

    def _make_cache(self) -> CandleCache:
        settings, store, path = self.settings, None, None
        if settings.use_cache:
            disk = None
            path = settings.disk_folder
            if path is not None:
                disk = DiskTier(path, settings.disk_cache_size, observe=self.observe)
            store = Store(MemoryTier(settings.memory_cache_size, self.clock), disk, observe=self.observe)
        return CandleCache(
            store,
            path=path,
            compress=settings.compression,
            clock=self.clock,
            with_file=self._work_on_file,
            run=self.calls.run,
            matcher=self._match_symbol,
        )

    def describe(self) -> dict[str, object]:
        """Return provider, source, cache and state by name, to be shown."""
        settings = self.settings
        cache = "off" if not settings.use_cache else settings.disk_folder or "memory only"
        facts: dict[str, object] = {"provider": self.provider.name, "source": settings.source, "cache": cache}
        return facts | ({"state": "closed"} if self.is_closed else {})

    def _work_on_file(self, work: str, cache: CandleCache, path: Any, **given: Any) -> Any:
        """Import a file into the cache, make a backup of it, or restore one."""
        from candle_fetcher.files.work import work_on_file  # when used: few do

        began = time.perf_counter()
        with completing_errors(lambda: self.about((), given)), self.scope() as scope:
            done, operation = work_on_file(work, cache, self, path, int(self.clock() * 1000), scope, **given)
        self.observe(operation._replace(seconds=time.perf_counter() - began))
        return done

    def _match_symbol(self, symbol: str) -> Callable[[Series], bool]:
        """Return the function that says whether a stored series is of that symbol. Raise InputError for a symbol that
        is not valid."""
        with completing_errors(lambda: self.about(("provider",), {"symbol": symbol})):
            provider, name = self.split_symbol(symbol, None)
            provider.provider_symbol(name, "candles")

        def is_named(series: Series) -> bool:
            return series.provider == provider.name and series.symbol == provider.provider_symbol(name, series.kind)

        return is_named

    def diagnose(self, provider: str | Provider | None) -> pd.DataFrame:
        """Return the table of `CandleFetcher.doctor`."""
        from candle_fetcher.diagnosis import diagnose  # when used: few do

        found = self.find(provider)
        source, archive = self.rest(found), self.archive(found)
        with self.scope() as scope:
            return diagnose(
                self.settings, source, archive, self.transport, scope, monitor=self.monitor, clock=self.clock
            )

    @property
    def epoch(self) -> int:
        """The number that goes up whenever frames in memory are dropped."""
        cache = self._caches.get("cache")
        return 0 if cache is None else cache.frames.epoch

    def resources(self) -> Resources:
        """Return what a gathering works with."""
        return Resources(self.cache, self.pools, self.clock, self.observe, self.transport.abort)

    # -- providers ----------------------------------------------------------------------------------------------------

    def find(self, provider: str | Provider | None) -> Provider:
        """Return the provider of that id, with the settings that its user chose; the fetcher's own for None."""
        if provider is None:
            return self.provider
        found = find_provider(provider)
        if found is not find_known(found.name):
            return found
        made = self._chosen.get(found.name)
        if made is None:
            made = choose(found, self.settings.provider_settings.get(found.name, {}))
            made = self._chosen.setdefault(found.name, made)
        return made

    def split_symbol(self, symbol: str, provider: str | Provider | None) -> tuple[Provider, str]:
        """Return the provider and the symbol of `provider:symbol`, or of a symbol alone."""
        name, rest = split_symbol(symbol) if isinstance(symbol, str) else (None, symbol)
        if name is None:
            return self.find(provider), rest
        found = self.find(name)
        if provider is not None and self.find(provider) is not found:
            raise InputError(
                f"symbol {symbol!r} names {found.name}, but provider={provider!r} names another; give only one of them"
            )
        return found, rest

    def about(self, names: Collection[str], given: Mapping[str, Any]) -> About:
        """Return what an error says of a call, by its arguments."""
        return about_arguments(names, given, self.find)

    def origin(self, provider: Provider) -> str | None:
        """Return the root URL that is a part of the series' keys; None where the provider's own hosts are asked."""
        url = self.settings.base_urls.get(provider.name)
        known = self._chosen.get(provider.name) or find_known(provider.name)
        if url is None and provider != known:
            url = provider.hosts[0]  # a value that the caller made
        return None if known is not None and url in (None, *known.hosts) else url

    def is_offline(self, source: str | None = None) -> bool:
        """Return whether only the cache may be asked, by the argument of a call, else by the setting."""
        return (source or self.settings.source) == "cache"

    def rest(self, provider: Provider) -> RestSource:
        """Return the client of the provider's REST API."""
        with self._lock:
            self._refuse_closed()
            if id(provider) not in self._rests:
                urls = self.settings.base_urls
                self._rests[id(provider)] = RestSource(
                    provider,
                    (urls[provider.name],) if provider.name in urls else provider.hosts,
                    self.wire,
                    keys=self.api_keys.of(provider),
                    token_host=urls.get(provider.token.name) if provider.token is not None else None,
                )
            return self._rests[id(provider)]

    def archive(self, provider: Provider) -> ArchiveSource | None:
        """Return the client of the provider's archive; None without one, and where a base URL was given for the
        provider and none for its archive."""
        facts, urls = provider.archive, self.settings.base_urls
        if facts is None or (provider.name in urls and facts.name not in urls):
            return None
        with self._lock:
            if facts.name not in self._archives:
                url, listing = urls.get(facts.name), facts.listing_host
                listing = None if listing is None else url or listing
                self._archives[facts.name] = ArchiveSource(facts, url or facts.host, self.wire, listing=listing)
            return self._archives[facts.name]

    def bucket(self) -> BucketSource:
        """Return the listing of the archive: at the archive's root where one was given, else where S3 serves it."""
        from candle_fetcher.providers.binance_bucket import NAME, SPOT  # when used: few do

        if self.is_offline():
            raise IncompleteData(f"the listing of the archive is not in the cache, and {ONLY_CACHE}")
        archive = self.archive(self.find(SPOT.provider))
        if archive is None or archive.bucket is None:
            raise NotOffered(
                f"base_urls has a host for {SPOT.provider} but none for its archive; expected one for {NAME} too"
            )
        return archive.bucket


def make_runtime(given: Mapping[str, Any]) -> Runtime:
    """Return the runtime of a fetcher that was made with those arguments. Raises InputError for one that is not valid,
    and warns of a missing home folder and of environment variables that nothing reads."""
    provider, settings = read_settings(given, os.environ)
    if settings.cache_dir is None and settings.use_cache and settings.disk_cache_size:
        problem = "this user has no home folder that is known, so nothing is kept on disk"
        warn(CacheWarning(f"{problem}; give cache_dir, or set HOME"))
    clock = check_clock(given["clock"])
    api_keys = ApiKeys(check_api_keys(given["api_keys"], provider), os.environ)
    runtime = Runtime(settings, provider, api_keys, clock, given["progress"])
    set_up_logging(os.environ)
    warn_of_unknown_variables(
        os.environ,
        lambda: {key.environment for one in (*all_providers().values(), runtime.provider) for key in one.keys},
    )
    return runtime
