"""The thread pools of a fetcher: network, disk, and files of an archive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import count
from typing import ParamSpec, TypeVar

from candle_fetcher.core.events import Busy, Observe

# Files of an archive are unpacked and read by few threads: more are slower, since they wait for each other's Python,
# and each of them keeps some 30 MB that it worked with.
_FILE_THREADS = 2
# How long a wait in the caller's thread lasts before it looks up again; a lock wait cannot be interrupted on Windows.
POLL_S = 0.2

P = ParamSpec("P")
Done = TypeVar("Done")


class _Pool(ThreadPoolExecutor):
    """Raises CancelledError where nothing more can be handed to it: it is closed, or the interpreter is ending."""

    def submit(self, fn: Callable[P, Done], /, *args: P.args, **kwargs: P.kwargs) -> Future[Done]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if "new futures" not in str(error):
                raise  # no more threads can be started
            raise CancelledError from error


class Pools:
    """The thread pools, made when first used; threads are named candle-network-N, candle-io-N and candle-files-N."""

    def __init__(self, network_threads: int, io_threads: int) -> None:
        self.sizes = {"network": network_threads, "io": io_threads, "files": _FILE_THREADS}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._closed: set[str] = set()
        self._lock = threading.Lock()

    def network(self) -> ThreadPoolExecutor:
        return self._pool("network")

    def io(self) -> ThreadPoolExecutor:
        return self._pool("io")

    def files(self) -> ThreadPoolExecutor:
        return self._pool("files")

    def _pool(self, name: str) -> ThreadPoolExecutor:
        with self._lock:
            if name in self._closed:
                raise CancelledError
            pool = self._pools.get(name)
            if pool is None:
                numbers = count()

                def christen() -> None:
                    threading.current_thread().name = f"candle-{name}-{next(numbers)}"

                pool = self._pools[name] = _Pool(self.sizes[name], initializer=christen)
            return pool

    def close(self) -> None:
        """Ends the threads: of the network first, whose last work may still have something to store. Whoever closes
        them meanwhile waits too."""
        for name in self.sizes:
            with self._lock:
                pool = self._pools.get(name)
                self._closed.add(name)
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=name == "network")


class Timed:
    """Reports how long a worker of a pool was busy."""

    __slots__ = ("_began", "_observe", "_pool")

    def __init__(self, observe: Observe, pool: str) -> None:
        self._observe = observe
        self._pool = pool

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._observe(Busy(self._pool, time.perf_counter() - self._began))
