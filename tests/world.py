"""A practice exchange with a clock of its own and a fetcher that shares it: what most tests of a fetch are set in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher import CandleFetcher
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import PracticeExchange


def ms(text: str) -> int:
    """Unix ms of an ISO time in UTC."""
    return int(dt.datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


class World:
    """An exchange at a time that only moves when told, and fetchers that ask it."""

    def __init__(self, folder: Path, *, now: str = "2024-06-15T12:00:30", **exchange: Any) -> None:
        self.folder = folder
        self.now_s = ms(now) / 1000
        self.exchange = PracticeExchange(clock=lambda: self.now_s, **exchange)
        self.fetchers: list[CandleFetcher] = []

    def __enter__(self) -> World:
        self.exchange.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fetcher in self.fetchers:
            fetcher.close()
        self.exchange.close()

    def fetcher(self, **settings: Any) -> CandleFetcher:
        """A new fetcher on the world's folder, as another run of the program would make it."""
        settings = {
            "base_urls": self.exchange.base_urls,
            "cache_dir": self.folder,
            "clock": lambda: self.now_s,
            "progress": False,
            **settings,
        }
        made = CandleFetcher(**settings)
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


def skip_waits(asker: Any) -> list[float]:
    """Lets the waits of a source's requests pass at once, by clocks of its budget that go on by as much; returns them.

    The clocks of the exchange and of the fetcher stay where they are.
    """
    waits: list[float] = []
    limiter = asker.limiter

    def wait(stop: Any, seconds: float) -> bool:
        waits.append(seconds)
        return bool(stop.is_set())

    def later(clock: Callable[[], int]) -> Callable[[], int]:
        return lambda: clock() + int(1000 * sum(waits)) + len(waits)

    for name in ("_now_ms", "_steady_ms", "_machine_ms"):
        setattr(limiter, name, later(getattr(limiter, name)))
    limiter._wait = asker._wait = wait
    return waits


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
