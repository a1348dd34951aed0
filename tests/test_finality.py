"""What may still change is not handed out as settled, a row that is late is no gap, and a correction is found."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from late_market import RULES, Dialect, Market, Rule, close_of
from loopback import Loopback

from candle_fetcher import CandleFetcher
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.frame import index_ms
from candle_fetcher.providers import Limit, all_providers, find_provider

# A Tuesday, in the middle of a session of New York.
START_S = int(dt.datetime(2024, 3, 5, 16, 0, tzinfo=dt.timezone.utc).timestamp())
KEYS = {
    "alpaca": {"key_id": "KEYIDKEYID", "secret_key": "SECRETSECRET"},
    "alphavantage": {"apikey": "KEYKEYKEY"},
    "tradestation": {"access_token": "TOKENTOKEN"},
}


class Sea:
    """A market in a provider's dialect on loopback, and fetchers that ask it, on a clock that only moves when told."""

    def __init__(self, server: Loopback, dialect: Dialect) -> None:
        self.server = server
        self.dialect = dialect
        self.market = dialect.market
        self.rule = self.market.rule
        self.move(0)

    def move(self, seconds: float) -> None:
        self.server.now_s += seconds
        self.dialect.now_s = self.server.now_s

    @property
    def now_s(self) -> float:
        return self.server.now_s

    def fetcher(self, **settings: Any) -> CandleFetcher:
        found = find_provider(self.dialect.name)
        hurried = replace(found, default_limits=(Limit(10**6, 60),))
        settings = {"provider": hurried, "api_keys": {k: v for k, v in KEYS.items() if k == found.name}, **settings}
        return self.server.fetcher(**settings)

    def fetch(self, fetcher: CandleFetcher, *where: Any, **options: Any) -> Any:
        return fetcher.fetch(self.rule.symbol, self.rule.timeframe, *where, **options)


@contextmanager
def sea(folder: Path, name: str, seed: int, *, before: int = 30, rule: Rule | None = None) -> Iterator[Sea]:
    rule = rule or RULES[name]
    first_s = START_S - before * rule.step_s
    if rule.in_zone:
        day = dt.datetime.fromtimestamp(first_s, dt.timezone.utc).date()
        first_s = int(dt.datetime(day.year, day.month, day.day, 5, tzinfo=dt.timezone.utc).timestamp())
    dialect = Dialect(name, Market(rule, seed, first_s // rule.step_s * rule.step_s if not rule.in_zone else first_s))
    now = dt.datetime.fromtimestamp(START_S, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    with Loopback(folder, (name,), dialect, now=now) as server:
        yield Sea(server, dialect)


def closes(frame: Any) -> dict[int, float]:
    return dict(zip(index_ms(frame).tolist(), frame["close"].tolist(), strict=True))


def check_settled(world: Sea, frame: Any) -> None:
    """Fails for a settled row that is wrong by more than the contract says, or a row that is lacking without a word."""
    market, rule, now_s = world.market, world.rule, world.now_s
    final = market.final(now_s)
    for open_ms, close in closes(frame).items():
        age_s = now_s - rule.close_s(open_ms // 1000)
        assert age_s >= 0
        if close != final[open_ms]:  # it is what the exchange said once it was final by the contract; it is read again
            assert age_s < rule.wrong_s
            delay_s = find_provider(world.dialect.name).feed("candles").finality.delay_ms / 1000
            said = [market.version(open_ms // 1000, rule.close_s(open_ms // 1000) + one) for one in (delay_s, age_s)]
            assert close in [close_of(open_ms // 1000, version) for version in range(said[0] or 0, (said[1] or 0) + 1)]
    manifest = frame.attrs["candle_fetcher"]
    end_ms = int(dt.datetime.fromisoformat(manifest["end"].replace("Z", "+00:00")).timestamp() * 1000)
    start_ms = int(dt.datetime.fromisoformat(manifest["start"].replace("Z", "+00:00")).timestamp() * 1000)
    there = [one for one in final if max(start_ms, market.first_s * 1000) <= one < end_ms]
    assert set(there) == set(index_ms(frame).tolist())
    # The frame ends where rows may be late, and not long before.
    known = [one for one in final if now_s - rule.close_s(one // 1000) > max(rule.late_s, 1_000.0) + rule.step_s]
    assert not known or end_ms > max(known)


def play(world: Sea, seed: int, steps: int) -> None:
    dice = random.Random(seed)
    fetcher = world.fetcher()
    step_s = world.rule.step_s
    for _ in range(steps):
        world.move(dice.choice([0.4, 1.1, 2.2, 7, 20, 31, 45, 61, 0.5 * step_s, step_s, 2 * step_s]))
        fetcher = world.fetcher() if dice.random() < 0.2 else fetcher
        back_s = dice.randint(1, 12) * step_s
        start = dt.datetime.fromtimestamp(world.now_s - back_s, dt.timezone.utc)
        way = dice.choice(["start", "limit", "open", "open"])
        if way == "start":
            check_settled(world, world.fetch(fetcher, start))
        elif way == "limit":
            frame = world.fetch(fetcher, limit=5)
            assert len(frame) == 5
            check_settled(world, frame)
        else:
            frame = world.fetch(fetcher, start, include_open=True)
            assert frame.index.is_unique
            closed = frame["is_closed"].tolist()
            assert closed == sorted(closed, reverse=True)
            for open_ms, close in closes(frame[frame["is_closed"]]).items():
                age_s = world.now_s - world.rule.close_s(open_ms // 1000)
                assert close == world.market.final(world.now_s)[open_ms] or age_s < world.rule.wrong_s
    # After the provider is silent about a candle for good, what is stored of it is what it said last.
    silent_s = world.now_s
    world.move(max(world.rule.late_s, 130.0) + 2 * step_s)
    start = dt.datetime.fromtimestamp(world.market.first_s, dt.timezone.utc)
    world.fetch(world.fetcher(), start)
    world.move(max(world.rule.late_s, 130.0) + 2 * step_s)
    world.fetch(world.fetcher(), start)
    held = closes(world.fetch(world.fetcher(), start, source="cache"))
    final = world.market.final(silent_s)
    assert {one: close for one, close in held.items() if one in final} == final


@pytest.mark.fault("H02", "H03", "H04", "H12")
@pytest.mark.parametrize("name", sorted(RULES))
def test_what_is_held_is_what_a_late_exchange_said_last(tmp_path: Path, name: str, record_property: Any) -> None:
    with sea(tmp_path, name, 1) as world:
        play(world, 1, 12)
    record_property("runs", 12)


@pytest.mark.long
@pytest.mark.fault("H02", "H03", "H04", "H12")
@pytest.mark.parametrize("name", sorted(RULES))
def test_what_is_held_is_what_a_late_exchange_said_last_in_many_worlds(
    tmp_path: Path, name: str, record_property: Any
) -> None:
    for seed in range(2, 32):
        with sea(tmp_path / str(seed), name, seed) as world:
            play(world, seed, 40)
    record_property("runs", 30 * 40)


def test_each_provider_is_in_the_late_exchange_and_says_where_its_finality_stands() -> None:
    assert set(RULES) == set(all_providers())
    for name, provider in all_providers().items():
        for feed in provider.feeds.values():
            assert feed.finality != Finality(), name
            assert len(feed.finality.source) > 20
