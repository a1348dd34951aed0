"""How many requests to one service may be under way at once."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import CancelledError

from candle_fetcher.concurrency import POLL_S


class Places:
    """A number of places, one for each request under way; 0 means any number. Shared by threads."""

    def __init__(self, count: int) -> None:
        self._is_limited = count > 0
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self, stop: threading.Event) -> None:
        """Take a place, as soon as one is free. Raises CancelledError once `stop` is set."""
        is_waiting = self._is_limited
        while is_waiting:
            try:
                self._free.get(timeout=POLL_S)
                is_waiting = False
            except queue.Empty:
                if stop.is_set():
                    raise CancelledError from None

    def give_back(self) -> None:
        """Give back a place that was taken."""
        if self._is_limited:
            self._free.put(None)
