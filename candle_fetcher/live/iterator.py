"""What a live call hands to its user: an iterator that ends when it is closed."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from candle_fetcher.concurrency import POLL_S, start_thread
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.errors import CandleFetcherError
from candle_fetcher.live.sinks import Sinks
from candle_fetcher.live.stats import LiveStats
from candle_fetcher.live.streaming import Streaming
from candle_fetcher.live.working import Work

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Self = TypeVar("Self", bound="LiveIterator[Any]")

_THREADS = 8
_END_S = 1.5


class Core(Protocol[Item_co]):
    """The work behind a live call."""

    def next(self, timeout_s: float) -> Item_co | None:
        """Return the next item; None where there is none within the time."""

    def run(self, submit: Callable[[Callable[[], None]], object]) -> None:
        """Do the work until its `stop` is set, parts of it by threads of a pool."""


class LiveIterator(Generic[Item]):
    """An iterator over what a live call yields, for ever.

    Use it in a `for` loop, and in a `with` block or with `close()`, which any thread may call; the loop then ends.
    """

    def __init__(
        self, core: Core[Item], work: Work, streaming: Streaming[Any], sinks: Sinks, jobs: int, label: str
    ) -> None:
        self._core = core
        self._work = work
        self._streaming = streaming
        self._sinks = sinks
        self._label = label
        sinks.tell = work.tell
        self._pool = ThreadPool("live", min(_THREADS, max(1, jobs)))
        self._threads: list[threading.Thread] = []
        self._pid = os.getpid()
        self._end = weakref.finalize(self, _end, self._pid, work, streaming, self._pool, sinks)
        self._end.atexit = False
        self._is_closed = False

    def begin(self) -> None:
        """Start the threads."""
        self._streaming.start()
        thread = start_thread("candle-live", _running(self._core, self._pool))
        self._threads += [] if thread is None else [thread]

    def __iter__(self: Self) -> Self:
        return self

    def __next__(self) -> Item:
        work, core = self._work, self._core
        while True:
            work.say()
            if self._is_closed or work.stop.is_set():
                work.say()
                raise StopIteration
            if os.getpid() != self._pid:
                raise CandleFetcherError(
                    "this process was forked after the live call was made, and lacks its threads; make the call again"
                )
            found = core.next(POLL_S)
            if found is not None:
                self._sinks.put(found)
                return found

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._label}{', closed' if self._is_closed else ''})"

    def close(self) -> None:
        """End the streams, requests and threads, within two seconds, also where a peer is dead. A second call does
        nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end()
        if os.getpid() != self._pid:
            return
        self._streaming.join(_END_S)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_S / 3)
        self._pool.close(cancels=True, patience_s=_END_S / 3)
        self._streaming.count()
        self._sinks.warn_of_left()

    @property
    def stats(self) -> LiveStats:
        """What has been done so far."""
        self._streaming.count()
        self._work.stats.dropped = self._sinks.dropped
        return self._work.stats


def _running(core: Core[Any], pool: ThreadPool) -> Callable[[], None]:
    return lambda: core.run(pool.submit)


def _end(pid: int, work: Work, streaming: Streaming[Any], pool: ThreadPool, sinks: Sinks) -> None:
    """End what an iterator has begun, without waiting. A forked process leaves alone what belongs to its parent."""
    if os.getpid() != pid:
        return
    work.end()
    streaming.end()
    pool.close(cancels=True, patience_s=0.0)
    sinks.close()
