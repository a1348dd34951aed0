"""Candles that change, come late or are missing while the network fails: what was yielded is what the cache has."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from live_world import Driver, LiveWorld
from world import ms

from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import faults

pytestmark = pytest.mark.slow


def trouble(world: LiveWorld, chance: random.Random, step_ms: int, first_ms: int) -> None:
    """Let something happen: a loss, an outage, a correction, a candle that is late, a sleep."""
    what, now = chance.random(), world.now_ms // step_ms
    if what < 0.1:
        world.network.drop()
    elif what < 0.2:
        world.exchange.fail(faults.status(503), times=chance.randrange(1, 8), match="klines")
    elif what < 0.25:
        until_s = world.now_s + chance.choice([20, 90])
        world.network.refuse = lambda now_s: TransportError("refused") if now_s < until_s else None
    elif what < 0.45:
        open_ms = step_ms * (now - chance.choice([1, 2, 2, 3, 5, 9]))
        if open_ms >= first_ms:
            name = "1m" if step_ms == 60_000 else "1s"
            world.exchange.restate("binance", "BTCUSDT", name, open_ms, volume=round(chance.random(), 6))
    elif what < 0.5:
        open_ms = step_ms * (now + chance.choice([0, 1, 2]))
        world.exchange.hide("binance", "BTCUSDT", (open_ms, open_ms + step_ms))
    elif what < 0.58:
        world.exchange.unhide("binance", "BTCUSDT")
    elif what < 0.6:
        world.now_s += chance.choice([5, 40]) * step_ms / 1000


def check(world: LiveWorld, driver: Driver) -> None:
    """Fails unless each candle came once and in order, no forming one after its close, and all is as in the cache."""
    last_ms = 0
    for _, frame in driver.items:
        opens = index_ms(frame).tolist()
        if not opens or frame["is_revised"].all():
            continue
        assert opens == sorted(set(opens))
        assert opens[0] > last_ms
        last_ms = opens[-1] if frame["is_closed"].all() else last_ms
    assert driver.errors == []
    stats, whole = driver.stats, driver.frame("BTC/USDT")
    counted = stats.confirmed + stats.unconfirmed + stats.backfilled + stats.differing
    assert counted == stats.candles
    whole = whole.iloc[: len(whole) - stats.unconfirmed]
    timeframe = driver.follower.options.timeframe
    end = whole.index[-1] + whole.index.diff()[-1]
    assert whole.equals(world.fetcher().fetch("BTC/USDT", timeframe, whole.index[0], end, source="cache"))


@pytest.mark.filterwarnings("ignore::candle_fetcher.CandleFetcherWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("timeframe", "every"), [("1m", 1), ("1s", 1), ("1s", 5), ("7m", 1)])
def test_what_was_yielded_with_revisions_is_what_the_cache_has(
    tmp_path: Path, timeframe: str, every: int, seed: int
) -> None:
    chance, held = random.Random(seed), list[bytes]()
    step_ms = 1_000 if timeframe == "1s" else 60_000

    def change(text: bytes) -> Iterable[bytes]:
        what = chance.random()
        if what < 0.2:
            held.extend([text] if what > 0.08 else [])
            return ()
        return (held.pop(chance.randrange(len(held))), text) if what < 0.3 and held else (text,)

    given: dict[str, Any] = {"revisions": True, "include_open": True}
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30") as world:
        world.network.change = change
        driver = world.follow(["BTC/USDT"], timeframe, **given)
        driver.follower.lanes[0].ledger.every = every
        for _ in range(40):
            driver.run(chance.choice([0.3, 1, 2, 5, 12] if step_ms == 1_000 else [1, 7, 15, 31]), 1.0)
            trouble(world, chance, step_ms, ms("2024-06-15T12:00:30") // step_ms * step_ms)
        world.network.refuse = lambda now_s: None
        driver.run(200 if step_ms == 1_000 else 900, 2.0)
        check(world, driver)
