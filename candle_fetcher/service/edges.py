"""What changes by the second, asked for at most once a second for all clients: newest candles, and quotes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd

    from candle_fetcher.service.state import ServiceState

V = TypeVar("V")

# How many candles are asked for: enough to reach back behind those that have not settled yet.
EDGE_CANDLES = 8
EVERY_S = 1.0
_MOST_KEYS = 2048


class _Recent:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_s = float("-inf")
        self.value: Any = None
        self.error: Exception | None = None


class OnceASecond(Generic[V]):
    """Values by key, each made again once it is older than EVERY_S. Shared by threads.

    Threads that want a value while it is made wait for it; an error is theirs, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: dict[Hashable, _Recent] = {}

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value. Raises what `make` raised."""
        one = self._find(key)
        with one.lock:
            if self._clock() - one.asked_s >= EVERY_S:
                one.asked_s, one.error = self._clock(), None
                try:
                    one.value = make()
                except Exception as error:  # noqa: BLE001 - clients in the same second get it, too
                    one.error = error.with_traceback(None)
            if one.error is not None:
                raise one.error
            value: V = one.value
            return value

    def _find(self, key: Hashable) -> _Recent:
        with self._lock:
            if len(self._recent) >= _MOST_KEYS and key not in self._recent:
                now_s = self._clock()
                self._recent = {name: one for name, one in self._recent.items() if now_s - one.asked_s < EVERY_S}
            return self._recent.setdefault(key, _Recent())


class LiveEdges:
    """What has not settled yet, by series: the newest candles, the forming one included. Shared by threads."""

    def __init__(self, service: ServiceState) -> None:
        self._service = service
        self._frames: OnceASecond[pd.DataFrame] = OnceASecond()

    def newest(self, client: str, symbol: str, timeframe: str, provider: str | None) -> pd.DataFrame:
        """Return the newest candles with all columns and `is_closed`, at most EVERY_S old.

        The request is counted for the client that caused it. Raises what `fetch` raises.
        """

        def ask() -> pd.DataFrame:
            service = self._service
            service.budget.charge(client, 1)
            words: dict[str, Any] = {"limit": EDGE_CANDLES, "include_open": True, "provider": provider}
            with service.lanes.cold(is_needed=True):
                frame: pd.DataFrame = service.fetcher.fetch(symbol, timeframe, columns="all", **words)
            return frame

        return self._frames.get((provider, symbol, timeframe), ask)
