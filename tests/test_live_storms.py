"""`follow` of each provider through a network that drops, refuses, shuffles, doubles, cuts and lies: every candle once,
in order, with the values of REST. Binance spot has a longer one in test_follow.py."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_world import LiveWorld, shuffled
from world import same

from candle_fetcher.core.errors import TransportError

MINUTE = 60_000
# Seconds of each minute at which the world is looked at, between events that matter.
LOOKS = (0.01, 0.8, 1.2, 2.1, 2.5, 4.0, 15.0, 29.0, 31.2, 33.0, 47.0, 58.0)


class Trouble:
    """What happens to the frames and connections of a world."""

    def __init__(self, world: LiveWorld, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.held: list[bytes] = []
        self.began_s = world.now_s
        network = world.network
        network.change, network.change_answers, network.refuse = self.data, self.answers, self.refuse

    def end(self) -> None:
        network = self.world.network
        network.change = network.change_answers = lambda text: (text,)
        network.refuse = lambda now_s: None

    def refuse(self, now_s: float) -> Exception | None:
        minute = int(now_s - self.began_s) // 60
        return TransportError("refused") if minute % 13 == 5 or self.chance.random() < 0.2 else None

    def answers(self, text: bytes) -> Iterator[bytes]:
        if self.chance.random() < 0.85:
            yield text
        if self.chance.random() < 0.1:
            yield text

    def data(self, text: bytes) -> Iterator[bytes]:
        chance = self.chance.random()
        if chance < 0.01:
            text = text[: len(text) // 2]
        elif chance < 0.04:  # another close
            for field in (b'"c":', b'"c":"', b'"close":'):
                text = text.replace(field + b"6", field + b"7").replace(field + b"1", field + b"2")
        self.held.append(text)
        if chance < 0.15:
            return
        yield from shuffled(self.held, self.chance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("series", "step_ms", "count"),
    [
        ({"kraken:BTC/USD": "XBTUSD", "kraken:BTC/USDT": "XBTUSDT"}, MINUTE, 20),
        ({"alpaca:AAPL": "AAPL", "alpaca:GENC": "GENC"}, MINUTE, 20),
        ({"alpaca-crypto:ETH/BTC": "ETH/BTC"}, MINUTE, 8),
        ({"binance-um:BTC/USDT": "BTCUSDT", "binance-cm:BTC/USD": "BTCUSD_PERP"}, MINUTE, 20),
        ({"binance-us:BTC/USDT": "BTCUSDT"}, MINUTE, 20),
        ({"BTC/USDT": "BTCUSDT", "ETH/USDT": "ETHUSDT"}, 1_000, 60),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_every_candle_comes_through_a_storm_once_and_as_rest_has_it(
    tmp_path: Path, series: dict[str, str], step_ms: int, count: int
) -> None:
    with LiveWorld(tmp_path, now="2026-07-01T15:00:30", outages=()) as world:
        first_ms = world.now_ms // step_ms * step_ms
        settings = {"api_keys": world.exchange.api_keys}
        driver = world.follow(list(series), "1m" if step_ms == MINUTE else "1s", settings=settings, revisions=True)
        trouble = Trouble(world, 3)
        for number in range(1, count + 1):
            if number % 4 == 0:
                world.network.drop()
            driver.run_to((first_ms + step_ms * (number + look / 60)) / 1000 for look in LOOKS)
        trouble.end()
        driver.run(45, 1.0)
        end_ms = first_ms + step_ms * count
        for symbol, name in series.items():
            provider = symbol.rpartition(":")[0] or "binance"
            truth: dict[str, Any] = world.exchange.truth(
                provider, name, driver.follower.options.timeframe, first_ms, end_ms
            )
            opens = [open_ms for open_ms in driver.opens(symbol) if open_ms < end_ms]
            assert opens == truth["open_time"].tolist()
            same(driver.frame(symbol).iloc[: len(opens)], truth)
        assert driver.errors == []
        assert len(world.network.attempts) > 1
