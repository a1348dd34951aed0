"""What may still change is not handed out as settled, a row that is late is no gap, and a correction is found."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from late_market import RULES, Dialect, Life, Market, Rule, close_of
from loopback import Loopback, Said
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import CandleFetcher, IncompleteData
from candle_fetcher.core.finality import Finality
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.gap import iso
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
            assert age_s < rule.wrong_s + rule.step_s  # no request is sent for it alone, only with the next candle's
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
                assert close == world.market.final(world.now_s)[open_ms] or age_s < world.rule.wrong_s + step_s
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


@pytest.mark.slow
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
    worlds = round(6 * FAULT_RUNS)
    for seed in range(2, 2 + worlds):
        with sea(tmp_path / str(seed), name, seed) as world:
            play(world, seed, 40)
    record_property("runs", worlds * 40)


def test_each_provider_is_in_the_late_exchange_and_says_where_its_finality_stands() -> None:
    assert set(RULES) == set(all_providers())
    for name, provider in all_providers().items():
        for feed in provider.feeds.values():
            assert feed.finality != Finality(), name
            assert len(feed.finality.source) > 20


# -- what is read once more -------------------------------------------------------------------------------------------


def lives(world: Sea, **corrected: tuple[float, ...]) -> None:
    """Lets the minutes of that name (m1600) be corrected so long after their close, and no other."""
    for ago in range(-2_000, 40):
        open_s = START_S - ago * 60
        name = dt.datetime.fromtimestamp(open_s, dt.timezone.utc).strftime("m%H%M")
        world.market.lives[open_s] = Life(0.0, corrected.get(name, ()))


def sent(world: Sea) -> list[dict[str, str]]:
    return [one.params for one in world.server.asked() if "klines" in one.path]


@pytest.mark.slow
@pytest.mark.fault("H12")
def test_a_correction_soon_after_the_close_is_found_by_the_next_request_and_is_a_revision(tmp_path: Path) -> None:
    with sea(tmp_path, "binance", 1) as world:
        lives(world, m1559=(40.0,))
        world.move(5)
        start = "2024-03-05T15:50"
        assert world.fetch(world.fetcher(), start)["close"].iloc[-1] == close_of(START_S - 60, 0)
        world.move(40)
        sent(world)
        fetcher = world.fetcher()  # a new run of the program knows it from the disk
        assert world.fetch(fetcher, start)["close"].iloc[-1] == close_of(START_S - 60, 0)
        assert sent(world) == []  # nothing is sent for it alone
        world.move(20)
        frame = world.fetch(fetcher, start)
        assert frame["close"].tolist()[-2:] == [close_of(START_S - 60, 1), close_of(START_S, 0)]
        (asked,) = sent(world)
        assert int(asked["startTime"]) == ms("2024-03-05T15:58")  # 15:58 closed 65 s before it was read
        revised = fetcher.cache.revisions()
        assert set(revised["timestamp"].astype(str)) == {"2024-03-05 15:59:00+00:00"}
        assert "close" in set(revised["column"])
        assert world.fetch(fetcher, start, "2024-03-05T16:00")["close"].iloc[-1] == close_of(START_S - 60, 1)


@pytest.mark.slow
@pytest.mark.fault("H12")
def test_what_is_read_once_more_may_lie_in_the_chunk_before_and_costs_no_request(tmp_path: Path) -> None:
    border_s = START_S // 60_000 * 60_000 + 60_000  # where the next chunk of 1,000 minutes begins
    with sea(tmp_path, "binance", 1) as world:
        for open_s in range(border_s - 3_600, border_s + 3_600, 60):
            world.market.lives[open_s] = Life(0.0, (40.0,) if open_s == border_s - 60 else ())
        world.market.first_s = border_s - 3_600
        world.move(border_s + 5 - world.now_s)
        fetcher = world.fetcher()
        assert world.fetch(fetcher, limit=2)["close"].iloc[-1] == close_of(border_s - 60, 0)
        world.move(61)
        sent(world)
        assert world.fetch(fetcher, limit=1)["close"].tolist() == [close_of(border_s, 0)]
        (asked,) = sent(world)
        assert border_s - 180 <= int(asked["startTime"]) // 1000 <= border_s - 60
        held = world.fetch(world.fetcher(), limit=2, source="cache")
        assert held["close"].tolist() == [close_of(border_s - 60, 1), close_of(border_s, 0)]


@pytest.mark.slow
@pytest.mark.fault("H12")
def test_a_failing_request_takes_no_candle_that_was_to_be_read_once_more(tmp_path: Path) -> None:
    with sea(tmp_path, "binance", 1) as world:
        lives(world)
        world.move(5)
        fetcher = world.fetcher()
        before = world.fetch(fetcher, "2024-03-05T15:50")
        world.move(60)
        answer = world.dialect._answer
        world.dialect._answer = lambda path, params: Said(b"", 500) if "klines" in path else answer(path, params)
        with pytest.raises(IncompleteData) as caught:
            world.fetch(fetcher, "2024-03-05T15:50")
        assert [gap.first for gap in caught.value.missing] == ["2024-03-05T16:00:00Z"]
        assert closes(caught.value.frame) == closes(before)


# -- what is late -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("H04")
def test_a_row_that_is_late_is_no_gap_and_the_newest_are_those_that_there_are(tmp_path: Path) -> None:
    """CoinGecko makes a reply at :07, :22, :37 and :52; the candle of 15:30 is in that of 16:07 for the first time."""
    with sea(tmp_path, "coingecko", 1) as world:
        for _ in range(24):
            fetcher = world.fetcher()
            frame = world.fetch(fetcher, days=0.25)
            assert frame.attrs["candle_fetcher"]["gaps"] == []
            made_s = (int(world.now_s) - 420) // 900 * 900 + 420
            newest_s = made_s // 1800 * 1800 - 1800  # the one before that which formed then
            assert frame.index[-1].timestamp() == newest_s
            assert frame.attrs["candle_fetcher"]["end"] == iso((newest_s + 1800) * 1000)
            assert len(world.fetch(fetcher, limit=5)) == 5
            world.move(300)


@pytest.mark.slow
@pytest.mark.fault("H04")
def test_a_row_that_never_comes_is_a_gap_once_it_cannot_be_late_any_more(tmp_path: Path) -> None:
    with sea(tmp_path, "binance", 1) as world:
        lives(world)
        world.market.lives[START_S - 60] = Life(None)
        world.move(30)
        for seconds, gaps in ((0, 0), (29, 0), (1, 1)):
            world.move(seconds)
            frame = world.fetch(world.fetcher(), "2024-03-05T15:50", "2024-03-05T16:00")
            assert frame.attrs["candle_fetcher"]["gap_count"] == gaps, seconds
            assert len(frame) == 9


@pytest.mark.slow
@pytest.mark.fault("H02")
def test_a_minute_that_is_over_and_not_committed_is_open_and_each_candle_is_there_once(tmp_path: Path) -> None:
    with sea(tmp_path, "kraken", 1) as world:
        lives(world)
        world.market.lives[START_S - 60] = Life(34.0)
        for seconds, closed in ((3, [1, 1, 0]), (30, [1, 1, 0]), (2, [1, 1, 1, 0])):
            world.move(seconds)
            frame = world.fetch(world.fetcher(), "2024-03-05T15:57", include_open=True)
            assert frame["is_closed"].astype(int).tolist() == closed
            assert frame.index.is_unique
            settled = world.fetch(world.fetcher(), "2024-03-05T15:57")
            assert closes(settled) == closes(frame[frame["is_closed"]])


@pytest.mark.slow
@pytest.mark.fault("H03")
@pytest.mark.parametrize("name", ["alpaca", "alpaca-crypto"])
def test_a_bar_is_settled_31_seconds_after_its_end(tmp_path: Path, name: str) -> None:
    with sea(tmp_path, name, 1) as world:
        lives(world, m1559=(30.0,))
        for seconds, newest in ((5, 15 * 60 + 58), (25.5, 15 * 60 + 58), (0.5, 15 * 60 + 59)):
            world.move(seconds)
            frame = world.fetch(world.fetcher(), limit=3)
            last = frame.index[-1]
            assert last.hour * 60 + last.minute == newest, seconds
            assert frame["close"].iloc[-1] == world.market.final(world.now_s)[int(last.timestamp() * 1000)]


# -- what is stored stays ---------------------------------------------------------------------------------------------


@pytest.mark.slow(every=3)
@pytest.mark.fault("K07")
@pytest.mark.parametrize("timeframe", ["3d", "1h", "1w"])
def test_a_stored_candle_outlives_a_tail_that_comes_back_empty(tmp_path: Path, timeframe: str) -> None:
    with World(tmp_path, now="2024-06-15T12:00:30") as world:
        span = ("BTC/USDT", timeframe, "2024-01-01" if timeframe != "1h" else "2024-06-14")
        before = world.fetcher().fetch(*span)
        world.now_s += 120
        world.exchange.hide("binance", "BTCUSDT", (ms("2024-01-01"), ms("2024-07-01")))
        for _ in range(2):
            after = world.fetcher(cache_ttl=60).fetch(*span)
            assert index_ms(after).tolist() == index_ms(before).tolist()
            world.now_s += 120
        world.exchange.unhide("binance", "BTCUSDT")
        same(world.fetcher().fetch(*span), truth_of(world, span))


def truth_of(world: World, span: tuple[str, str, str]) -> dict[str, Any]:
    """What of the exchange's candles has closed."""
    truth = world.truth("BTCUSDT", span[1], span[2], "2024-07-01")
    closed = truth["close_time"] + 2_000 < world.now_s * 1000
    return {name: np.asarray(values)[closed] for name, values in truth.items()}
