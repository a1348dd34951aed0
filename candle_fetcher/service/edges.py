"""The newest candles of a series, the forming one included: asked for at most once a second for all clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from candle_fetcher.service.state import ServiceState

# How many candles are asked for: enough to reach back behind those that have not settled yet.
EDGE_CANDLES = 8
EVERY_S = 1.0
_MOST_SERIES = 2048


class _Edge:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_s = float("-inf")
        self.frame: pd.DataFrame | None = None
        self.error: Exception | None = None


class LiveEdges:
    """What has not settled yet, by series. Shared by threads."""

    def __init__(self, service: ServiceState, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._edges: dict[tuple[str | None, str, str], _Edge] = {}

    def newest(self, client: str, symbol: str, timeframe: str, provider: str | None) -> pd.DataFrame:
        """Return the newest candles with all columns and `is_closed`, at most EVERY_S old.

        The request is counted for the client that caused it. Raises what `fetch` raises.
        """
        edge = self._find((provider, symbol, timeframe))
        with edge.lock:
            if self._clock() - edge.asked_s >= EVERY_S:
                self._service.budget.charge(client, 1)
                edge.asked_s = self._clock()
                try:
                    with self._service.lanes.cold(is_needed=True):
                        edge.frame = self._service.fetcher.fetch(
                            symbol,
                            timeframe,
                            limit=EDGE_CANDLES,
                            include_open=True,
                            columns="all",
                            provider=provider,
                        )
                    edge.error = None
                except Exception as error:  # noqa: BLE001 - clients in the same second get it, too
                    edge.error = error.with_traceback(None)
            if edge.error is not None:
                raise edge.error
            if edge.frame is None:  # pragma: no cover - one of the two is there
                raise RuntimeError("no frame and no error")
            return edge.frame

    def _find(self, key: tuple[str | None, str, str]) -> _Edge:
        with self._lock:
            if len(self._edges) >= _MOST_SERIES and key not in self._edges:
                now_s = self._clock()
                self._edges = {name: one for name, one in self._edges.items() if now_s - one.asked_s < EVERY_S}
            return self._edges.setdefault(key, _Edge())
