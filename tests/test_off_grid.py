"""Candles that open later than their slots do, in ranges that begin or end in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World, ms

from candle_fetcher import CandleFetcher, IncompleteData
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import faults

pytestmark = [
    pytest.mark.fault("K01"),
    pytest.mark.filterwarnings("ignore:the gaps of .* count hours:candle_fetcher.CandleFetcherWarning"),
]
DAY = 86_400_000
# From midnight in New York, in winter and in summer time.
RANGES = {
    "a day": ("2024-06-04T00:00-04:00", "2024-06-04T18:00-04:00", 1),
    "to midnight": ("2024-06-03T00:00-04:00", "2024-06-06T00:00-04:00", 3),
    "winter": ("2024-01-08T00:00-05:00", "2024-01-13T00:00-05:00", 5),
}


def alpaca(world: World, **settings: Any) -> CandleFetcher:
    return world.fetcher(**{"provider": "alpaca", "api_keys": world.exchange.api_keys, "max_retries": 0, **settings})


def calls(fetcher: CandleFetcher, folder: Path) -> dict[str, Any]:
    return {
        "fetch": fetcher.fetch,
        "export": lambda *what: fetcher.export(*what, path=folder),
        "iter_frames": lambda *what: list(fetcher.iter_frames(*what)),
        "gaps": fetcher.gaps,
        "limit": lambda symbol, timeframe, start, end: fetcher.fetch(symbol, timeframe, start, limit=1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", ["auto", "cache"])
def test_what_could_not_be_had_is_said_though_its_slot_opens_before_the_range(world: World, source: str) -> None:
    world.exchange.fail(faults.status(500), times=None)
    for start, end, count in RANGES.values():
        for name, call in calls(alpaca(world, source=source), world.folder).items():
            with pytest.raises(IncompleteData) as raised:
                call("AAPL", "1d", start, end)
            assert name in ("limit", "iter_frames") or sum(gap.count for gap in raised.value.missing) == count


@pytest.mark.slow
def test_every_candle_of_the_range_is_there_and_none_is_called_missing(world: World) -> None:
    fetcher = alpaca(world)
    for start, end, count in RANGES.values():
        frame = fetcher.fetch("AAPL", "1d", start, end)
        assert len(frame) == count
        assert frame.attrs["candle_fetcher"]["gap_count"] == 0
        assert frame.attrs["candle_fetcher"]["expected"] == count


@pytest.mark.slow
def test_the_first_day_is_missed_though_the_later_ones_are_stored(world: World) -> None:
    border = pd.Timestamp(19_000 * DAY, unit="ms", tz="UTC")  # chunks of days end there: 2022-01-08
    end = border + pd.Timedelta(days=7)
    fetcher = alpaca(world)
    fetcher.fetch("AAPL", "1d", border, end)
    world.exchange.fail(faults.status(500), times=None)
    start = pd.Timestamp("2022-01-07T00:00-05:00")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("AAPL", "1d", start, end)
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2022-01-07T00:00:00Z", 1)]


@pytest.mark.parametrize("source", ["rest", "cache"])
def test_a_3d_candle_that_opens_in_its_slot_is_missed_too(world: World, source: str) -> None:
    opens = world.truth("BTCUSDT", "3d", "2024-01-01", "2024-03-01")["open_time"]
    late = next(int(at) for at in opens if at % (3 * DAY))
    world.exchange.fail(faults.status(500), times=None, match="klines")
    fetcher = world.fetcher(max_retries=0, source=source)
    with pytest.raises(IncompleteData):
        fetcher.fetch("BTC/USDT", "3d", late, late + DAY)


def test_a_range_inside_a_slot_of_the_grid_is_not_known_to_be_empty_either(world: World) -> None:
    world.exchange.fail(faults.status(500), times=None, match="klines")
    fetcher = world.fetcher(max_retries=0, source="rest")
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", "2024-06-01T00:30", "2024-06-01T00:50")
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2024-06-01T00:00:00Z", 1)]
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("BTC/USDT", "1h", "2024-06-01T00:30", "2024-06-02T00:30")
    assert [(gap.first, gap.count) for gap in raised.value.missing] == [("2024-06-01T01:00:00Z", 24)]


@pytest.mark.slow
def test_3d_candles_between_any_two_instants_have_no_gap(world: World) -> None:
    opens = world.truth("BTCUSDT", "3d", "2024-01-01", "2024-04-01")["open_time"]
    fetcher = world.fetcher(source="rest")
    for start in range(ms("2024-01-20"), ms("2024-01-27"), DAY // 2):
        for end in range(start + DAY, start + 8 * DAY, DAY):
            frame = fetcher.fetch("BTC/USDT", "3d", start, end)
            assert index_ms(frame).tolist() == [at for at in opens.tolist() if start <= at < end]
            assert frame.attrs["candle_fetcher"]["gap_count"] == 0, (start, end)


def test_a_candle_with_a_phase_of_its_own_is_missed_where_nothing_is_known_of_the_phase(world: World) -> None:
    truth = world.truth("EOSETH", "3d", "2019-04-21", "2019-04-30")["open_time"].tolist()
    assert truth[0] == ms("2019-04-21")
    assert (truth[0] // DAY) % 3  # it opens inside its slot
    world.exchange.fail(faults.status(500), times=None)
    fetcher = world.fetcher(max_retries=0)
    with pytest.raises(IncompleteData) as raised:
        fetcher.fetch("EOS/ETH", "3d", "2019-04-21", "2019-04-30")
    lost = [range(gap.first_ms // (3 * DAY), gap.last_ms // (3 * DAY) + 1) for gap in raised.value.missing]
    assert all(any(open_ms // (3 * DAY) in slots for slots in lost) for open_ms in truth)
