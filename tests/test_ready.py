"""The same fetch again: what may be handed out without looking, and what may not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World, ms

from candle_fetcher import CandleFetcher, CandleFetcherError
from candle_fetcher.core.frame import COPIES_ON_WRITE, MANIFEST
from candle_fetcher.fetcher.ready import call_key

DAY = ("BTC/USDT", "1h", "2024-03-01", "2024-03-02")

pytestmark = pytest.mark.skipif(not COPIES_ON_WRITE, reason="pandas 2 copies deeply, which costs more than the look-up")


def works(fetcher: CandleFetcher, *args: Any, **options: Any) -> tuple[pd.DataFrame, bool]:
    """The frame, and whether a thread was asked for it."""
    asked: list[object] = []
    run = fetcher._runtime.calls.run

    def counted(*given: Any) -> Any:
        asked.append(given)
        return run(*given)

    fetcher._runtime.calls.run = counted  # type: ignore[method-assign]
    try:
        return fetcher.fetch(*args, **options), bool(asked)
    finally:
        fetcher._runtime.calls.run = run  # type: ignore[method-assign]


def test_the_same_call_again_needs_no_thread_and_is_counted(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        first = fetcher.fetch(*DAY)
        before = fetcher.monitor.snapshot()["candles"]
        again, asked = works(fetcher, *DAY)
        assert not asked
        pd.testing.assert_frame_equal(first, again, check_exact=True)
        assert again.attrs[MANIFEST]["sources"] == {"memory": 24, "disk": 0, "archive": 0, "rest": 0}
        assert fetcher.monitor.snapshot()["candles"] == before + 24
        again.loc[again.index[0], "close"] = -1.0
        assert fetcher.fetch(*DAY)["close"].iloc[0] == first["close"].iloc[0]


def test_it_is_looked_up_again_after_a_clearing_a_refresh_and_a_close(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        fetcher.fetch(*DAY)
        fetcher.cache.clear()
        assert works(fetcher, *DAY)[1]
        world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-03-01T05:00"), volume=12.5)
        fetcher.fetch(*DAY, refresh=True)
        frame, asked = works(fetcher, *DAY)
        assert asked
        assert frame["volume"].iloc[5] == 12.5
        fetcher.fetch("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
        assert not works(fetcher, *DAY)[1]
        fetcher.close()
        with pytest.raises(CandleFetcherError, match="closed"):
            fetcher.fetch(*DAY)


@pytest.mark.parametrize("options", [{"limit": 5}, {"days": 1}, {"include_open": True}, {"refresh": True}])
def test_what_depends_on_now_or_asks_for_more_is_looked_up(tmp_path: Path, options: dict[str, Any]) -> None:
    args = DAY[:2] if "days" in options else DAY
    with World(tmp_path) as world:
        fetcher = world.fetcher()
        fetcher.fetch(*args, **options)
        assert works(fetcher, *args, **options)[1]


def test_a_range_that_goes_on_or_has_a_gap_is_looked_up(tmp_path: Path) -> None:
    with World(tmp_path, now="2024-03-01T12:00:30") as world:
        fetcher = world.fetcher()
        fetcher.fetch(*DAY)
        assert len(fetcher.fetch(*DAY)) == 12
        world.now_s += 3600
        assert len(fetcher.fetch(*DAY)) == 13
        world.exchange.hide("binance", "BTCUSDT", (ms("2023-06-01T05:00"), ms("2023-06-01T07:00")))
        holed = ("BTC/USDT", "1h", "2023-06-01", "2023-06-02")
        fetcher.fetch(*holed)
        assert works(fetcher, *holed)[1]


def test_a_call_is_known_where_its_instants_are_absolute() -> None:
    assert call_key(DAY, {}) == call_key(DAY, {})
    assert call_key(DAY, {"columns": "all"}) != call_key(DAY, {})
    assert call_key(("BTC/USDT", "1h", 1704067200000, dt.date(2024, 3, 1)), {}) is not None
    for words in (("7d", "now"), ("first", "2024-03-01"), ("2024", "today"), ("12h", None), (True, False)):
        assert call_key(("BTC/USDT", "1h", *words), {}) is None
    assert call_key((["BTC/USDT"], "1h", "2024-03-01", "2024-03-02"), {}) is None
