"""The thread pools of a fetcher: network, disk, and files of an archive. No thread of them outlives the program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from candle_fetcher.concurrency import Cancel, as_done
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.events import Busy, Observe

Done = TypeVar("Done")

# Files of an archive are unpacked and read by few threads: more are slower, since they wait for each other's Python,
# and each of them keeps some 30 MB that it worked with.
_FILE_THREADS = 2
# So many threads for one more, which reads replies while all the requests that may be under way are.
_THREADS_FOR_READER = 4


class Pools:
    """The thread pools; their threads are named candle-network-N, candle-io-N and candle-files-N.

    The network pool has more threads than requests may be under way: see `Wire.at_once`.
    """

    def __init__(self, network_threads: int, io_threads: int) -> None:
        network_threads += network_threads // _THREADS_FOR_READER
        self.sizes = {"network": network_threads, "io": io_threads, "files": _FILE_THREADS}
        self.network, self.io, self.files = (ThreadPool(name, size) for name, size in self.sizes.items())

    def close(self, patience_s: float | None = None) -> None:
        """End the threads, those of the network first: their last jobs may still add entries to store. Entries that
        wait are stored. A second call waits as well."""
        for pool in (self.network, self.io, self.files):
            pool.close(cancels=pool is self.network, patience_s=patience_s)


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


def run_in_network(pools: Pools, observe: Observe, jobs: Iterable[Callable[[], Done]], cancel: Cancel) -> list[Done]:
    """Return the results of the jobs, in order, which threads of the network pool run side by side.

    Raises the first error, or CancelledError once `cancel` is set; jobs that have not begun are cancelled then.
    """

    def run(job: Callable[[], Done]) -> Done:
        with Timed(observe, "network"):
            return job()

    futures = [pools.network.submit(run, job) for job in jobs]
    try:
        for future in as_done(futures, cancel):
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]
