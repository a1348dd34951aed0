"""Whatever happens, in whatever order: every row is the exchange's, and every slot without a row is told of."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import World, ms

from candle_fetcher import CandleFetcher, IncompleteData
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import faults

FAULTS = [
    faults.status(500, b"<html>oops</html>"),
    faults.html_200(),
    faults.reset(),
    faults.cut(0.5),
    faults.cut_unframed(0.6),
    faults.gzip_cut(0.5),
    faults.body(b"[]"),
    faults.body(b"[[1,2,3]]"),
    faults.transform(lambda body: body.replace(b"],[", b"],[", 1)[: len(body) // 2]),
]
CASES = [
    ("binance", "BTC/USDT", "BTCUSDT"),
    ("binance-um", "BTC/USDT", "BTCUSDT"),
    ("binance-cm", "BTC/USD", "BTCUSD_PERP"),
]


def patient(world: World, provider: str, chance: random.Random) -> CandleFetcher:
    settings: dict[str, Any] = chance.choice(
        [{}, {"cache_ttl": 60}, {"memory_cache_size": 100_000}, {"network_threads": 1}]
    )
    return world.fetcher(provider=provider, max_retries=2, **settings)


def check(frame: Any, gaps: Any, missing: Any, truth: dict[str, Any], timeframe: str) -> None:
    """Fails unless each row is true, and each settled slot has a row, a gap, or a place among what is missing."""
    grid = parse_timeframe(timeframe)
    opens = index_ms(frame)
    at = np.searchsorted(truth["open_time"], opens)
    assert (truth["open_time"][at] == opens).all()
    for name in ("open", "high", "low", "close", "volume"):
        assert (truth[name][at] == frame[name].to_numpy()).all()
    told = set(grid.ordinals(opens).tolist())
    for gap in [*gaps, *missing]:
        first = grid.ordinal(ms(gap["first"][:19]))
        slots = set(range(first, first + gap["count"]))
        assert not slots & told, "a slot is told of twice"
        told |= slots
    unsaid = set(grid.ordinals(truth["open_time"]).tolist()) - told
    assert not unsaid, f"{len(unsaid)} candles are neither there nor told of"


@pytest.mark.slow(keep=("0",))
@pytest.mark.filterwarnings("ignore::candle_fetcher.ArchiveMismatch")
@pytest.mark.fault("A01", "A02", "A03", "A06", "A08", "C02", "D24", "E05")
@pytest.mark.parametrize("seed", range(18))
def test_rows_and_gaps_and_what_is_missing_make_up_the_truth(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    provider, symbol, theirs = CASES[seed % len(CASES)]
    timeframe = chance.choice(["1m", "5m", "1h", "1d"])
    step_s = parse_timeframe(timeframe).nominal_ms / 1000
    with World(tmp_path, now="2023-03-24T20:00:30", weight_limit=10**7) as world:
        fetcher = patient(world, provider, chance)
        started: list[faults.Fault] = []
        for _ in range(25):
            event = chance.randrange(8)
            now_ms = int(world.now_s * 1000)
            if event == 0:
                world.now_s += chance.choice([1, 30, step_s / 3, step_s, 5 * step_s, 3_700])
            elif event == 1:
                start_ms = now_ms - int(chance.uniform(0, 3_000) * step_s * 1000)
                world.exchange.hide(
                    provider, theirs, (start_ms, start_ms + int(chance.uniform(1, 400) * step_s * 1000))
                )
            elif event == 2:
                world.exchange.unhide(provider, theirs)
            elif event == 3:
                times, after = chance.randrange(1, 6), chance.randrange(4)
                started.append(world.exchange.fail(chance.choice(FAULTS), times=times, match="klines", after=after))
            elif event == 4:
                fetcher = patient(world, provider, chance)
            elif event == 5 and chance.random() < 0.3:
                fetcher.cache.clear()
            start_ms = now_ms - int(chance.uniform(1, 4_000) * step_s * 1000)
            end_ms = min(int(world.now_s * 1000), start_ms + int(chance.uniform(1, 4_000) * step_s * 1000))
            settled_ms = int(world.now_s * 1000) - 2_000 - int(step_s * 1000)
            missing: list[Any] = []
            try:
                frame = fetcher.fetch(symbol, timeframe, start_ms, end_ms, refresh=chance.random() < 0.1)
            except IncompleteData as error:
                frame = error.frame
                missing = [{"first": gap.first, "count": gap.count} for gap in error.missing]
            gaps = frame.attrs["candle_fetcher"]["gaps"]
            if frame.attrs["candle_fetcher"]["gap_count"] > 10:
                continue
            # A frame may end before a row that is lacking and may still be late; its manifest says where.
            until_ms = ms(frame.attrs["candle_fetcher"]["end"][:19])
            until_ms = end_ms if until_ms == end_ms // 1000 * 1000 else until_ms
            assert until_ms >= min(end_ms, settled_ms - 60_000)
            truth = world.exchange.truth(provider, theirs, timeframe, start_ms, min(end_ms, settled_ms + 1, until_ms))
            check(frame, gaps, missing, truth, timeframe)
        # Whatever it was, once it is over the truth comes back.
        world.exchange.unhide(provider, theirs)
        world.exchange.clear_log()
        for fault in started:
            fault.stop()
        world.now_s += 40 * 86_400
        frame = patient(world, provider, chance).fetch(symbol, timeframe, "2023-03-20", "2023-03-24")
        truth = world.truth(theirs, timeframe, "2023-03-20", "2023-03-24", provider=provider)
        assert index_ms(frame).tolist() == truth["open_time"].tolist()
