"""A practice exchange with a clock of its own and a fetcher that shares it: what most tests of a fetch are set in."""

from __future__ import annotations

import datetime as dt
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from candle_fetcher import CandleFetcher, sessions
from candle_fetcher.concurrency import POLL_S
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.sources.clock import ServerClock
from candle_fetcher.sources.wire import LimiterClocks, limiter_clocks


def ms(text: str) -> int:
    """Unix ms of an ISO time in UTC."""
    return int(dt.datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


def manifest_of(frame: pd.DataFrame) -> dict[str, Any]:
    """The manifest of a frame."""
    manifest: dict[str, Any] = frame.attrs["candle_fetcher"]
    return manifest


class World:
    """An exchange at a time that only moves when told, and fetchers that ask it."""

    def __init__(self, folder: Path, *, now: str = "2024-06-15T12:00:30", **exchange: Any) -> None:
        self.folder = folder
        self.now_s = ms(now) / 1000
        self.exchange = PracticeExchange(clock=lambda: self.now_s, **exchange)
        self.fetchers: list[CandleFetcher] = []
        self.waits: list[float] = []  # of the fetchers' requests, in seconds; they pass at once

    def __enter__(self) -> World:
        self.exchange.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fetcher in self.fetchers:
            fetcher.close()
        self.exchange.close()

    def fetcher(self, *, waits: bool = False, **settings: Any) -> CandleFetcher:
        """Return a new fetcher on the world's folder, as another run of the program would make it. Its requests wait
        for budgets, holds and retries only if `waits` is set."""
        settings = {
            "base_urls": self.exchange.base_urls,
            "cache_dir": self.folder,
            "clock": lambda: self.now_s,
            "progress": False,
            **settings,
        }
        made = CandleFetcher(**settings)
        # A request takes no time by the steady clock, however busy the machine is: a slow reply does not tell the time.
        made._runtime.wire = made._runtime.wire._replace(steady_s=lambda: 0.0)
        if not waits:
            skip_waits(made, self.waits)
        self.fetchers.append(made)
        return made

    def asked(self, part: str = "lines") -> list[dict[str, str]]:
        """The parameters of the requests since the last look whose path holds the part ("lines": candles of any
        kind)."""
        found = [request.params for request in self.exchange.requests if part in request.path]
        self.exchange.clear_log()
        return found

    def truth(
        self, symbol: str, timeframe: str, start: str, end: str, *, provider: str = "binance", kind: str = "candles"
    ) -> Any:
        """What the exchange has in the range, closed or not."""
        return self.exchange.truth(provider, symbol, timeframe, ms(start), ms(end), kind=kind)


def roots_at(url: str, names: Iterable[str]) -> dict[str, str]:
    """Return base URLs that all lead to this root, those of streams by ws."""
    return {name: "ws" + url.removeprefix("http") if name.endswith("-stream") else url for name in names}


def wait_until(is_so: Callable[[], object], seconds: float = 30) -> None:
    """Wait until it is so; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def hide_calendars(patch: pytest.MonkeyPatch) -> None:
    """Let the package exchange_calendars be missing, and what was read with it be unknown, as long as the patch is."""
    patch.setitem(sys.modules, "exchange_calendars", None)
    patch.setattr(sessions, "_sessions", functools.lru_cache(sessions._sessions.__wrapped__))


def skip_waits(fetcher: CandleFetcher, waits: list[float] | None = None) -> list[float]:
    """Let the waits of the fetcher's requests (budgets, holds, retries) pass at once; return them, in seconds.

    To be called before the fetcher's first call. Fetchers that share a budget have to share `waits`, too.
    """
    assert not fetcher._runtime._rests
    waits = [] if waits is None else waits
    fetcher._runtime.wire = fetcher._runtime.wire._replace(**skipping(waits))
    return waits


def skipping(waits: list[float]) -> dict[str, Any]:
    """Return the fields of a Wire whose waits pass at once, and are added to the list, in seconds.

    The clocks of its budgets go on by as much; the clock of the fetcher and that of the exchange stay where they are.
    """

    def wait(stop: Any, seconds: float) -> bool:
        if seconds <= POLL_S:  # a look whether another thread is done
            return bool(stop.wait(seconds))
        waits.append(seconds)
        return bool(stop.is_set())

    def later(clock: Callable[[], int]) -> Callable[[], int]:
        return lambda: clock() + int(1000 * sum(waits)) + len(waits)

    def clocks(server_clock: ServerClock) -> LimiterClocks:
        return LimiterClocks(*map(later, limiter_clocks(server_clock)))

    return {"wait": wait, "limiter_clocks": clocks}


def same(frame: pd.DataFrame, truth: dict[str, Any], rows: slice = slice(None)) -> None:
    """Fails unless the frame holds those candles, bit for bit."""
    assert index_ms(frame).tolist() == truth["open_time"][rows].tolist()
    if "base_volume" in frame:  # COIN-M: the exchange's eighth and eleventh fields are base asset there
        frame = frame.drop(columns=["quote_volume", "taker_buy_quote_volume"])
        frame = frame.rename(columns={"base_volume": "quote_volume", "taker_buy_base_volume": "taker_buy_quote_volume"})
    for name in frame.columns:
        if name == "close_time":
            assert index_of(frame[name]).tolist() == truth[name][rows].tolist()
        elif name in truth:
            ours = frame[name].to_numpy(dtype=truth[name].dtype)
            assert np.array_equal(ours, truth[name][rows]), name


def index_of(times: pd.Series) -> Any:
    return index_ms(pd.DataFrame(index=pd.DatetimeIndex(times)))


def frames_of(pieces: Iterator[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(pieces))
