"""Two processes that ask a source at overlapping times: an answer that was asked for earlier never stays in the cache.

Every test makes the order certain: while the reply to one fetcher is on its way, another fetcher asks and stores. What
the other one is told is put back afterwards, so that its answer is the older one. The claims by which processes wait
for each other exclude none here, as on a disk without locks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World, ms, same

from candle_fetcher import CacheWarning, CandleFetcher, IncompleteData
from candle_fetcher.core.call import Limit
from candle_fetcher.practice import faults
from candle_fetcher.practice.faults import FaultAction, FaultConnection, ServedReply
from candle_fetcher.practice.kraken import PAIRS
from candle_fetcher.providers import all_providers
from candle_fetcher.store.locks import KeyLocks

HOUR = 3_600_000
DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
SLOT = (ms("2024-03-05T05:00"), ms("2024-03-05T06:00"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(KeyLocks, "acquire", lambda locks, key: True)
    with World(tmp_path / "cache") as world:
        yield world


def meanwhile(world: World, work: Callable[[], object], *, times: int | None = 1, match: str = "klines") -> None:
    """Does the work between the answer to a request and its arrival; the requests of the work itself pass."""
    under_way: list[bool] = []

    def act(wire: FaultConnection, reply: ServedReply) -> bool:
        under_way.append(True)
        work()
        under_way.clear()
        wire.send(reply.whole())
        return True

    world.exchange.fail(
        FaultAction("meanwhile", act), times=times, match=lambda path, params: match in path and not under_way
    )


def restate(world: World, volume: float) -> None:
    world.exchange.restate("binance", "BTCUSDT", "1h", SLOT[0], volume=f"{volume:.8f}")


def hide(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", SLOT)


def show(world: World) -> None:
    world.exchange.unhide("binance", "BTCUSDT", SLOT)


def check(world: World, *frames: pd.DataFrame, is_hidden: bool = False) -> None:
    """Fails unless the frames and what is stored are what the exchange says now."""
    truth = world.truth("BTCUSDT", *DAY[1:])
    if is_hidden:
        truth = {name: column[truth["open_time"] != SLOT[0]] for name, column in truth.items()}
    for frame in (*frames, world.fetcher(source="cache").fetch(*DAY)):
        same(frame, truth)


@pytest.mark.fault("K02")
@pytest.mark.parametrize("is_refresh", [True, False], ids=["refresh", "first"])
def test_an_earlier_answer_that_is_stored_first_gives_way_to_a_later_one(world: World, is_refresh: bool) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    if is_refresh:
        ours.fetch(*DAY)
    restate(world, 2.0)

    def ask_earlier() -> None:
        restate(world, 1.0)
        theirs.fetch(*DAY, refresh=is_refresh)
        restate(world, 2.0)

    meanwhile(world, ask_earlier)
    check(world, ours.fetch(*DAY, refresh=is_refresh))
    *_, last = world.asked("klines")
    assert (int(last["startTime"]), int(last["endTime"])) == (SLOT[0], SLOT[1] - 1)


@pytest.mark.fault("K02")
def test_answers_that_agree_cost_no_further_request(world: World) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    ours.fetch(*DAY)
    restate(world, 2.0)
    world.asked("klines")
    meanwhile(world, lambda: theirs.fetch(*DAY, refresh=True))
    check(world, ours.fetch(*DAY, refresh=True))
    assert len(world.asked("klines")) == 2


@pytest.mark.fault("K02")
def test_an_earlier_candle_gives_way_to_a_later_hole(world: World) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    ours.fetch(*DAY)
    hide(world)

    def ask_earlier() -> None:
        show(world)
        restate(world, 1.0)
        theirs.fetch(*DAY, refresh=True)
        hide(world)

    meanwhile(world, ask_earlier)
    check(world, ours.fetch(*DAY, refresh=True), is_hidden=True)


@pytest.mark.fault("K02")
def test_an_earlier_hole_gives_way_to_a_later_candle(world: World) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    ours.fetch(*DAY)
    restate(world, 2.0)

    def ask_earlier() -> None:
        hide(world)
        theirs.fetch(*DAY, refresh=True)
        show(world)

    meanwhile(world, ask_earlier)
    check(world, ours.fetch(*DAY, refresh=True))


@pytest.mark.fault("K02")
def test_a_hole_that_is_asked_for_again_is_contested_too(world: World) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    hide(world)
    ours.fetch(*DAY)
    show(world)
    restate(world, 2.0)

    def ask_earlier() -> None:
        restate(world, 1.0)
        theirs.fetch(*DAY, on_gap="refetch")
        restate(world, 2.0)

    meanwhile(world, ask_earlier)
    check(world, ours.fetch(*DAY, on_gap="refetch"))


@pytest.mark.slow
@pytest.mark.fault("K02")
def test_what_stays_contested_is_missing(world: World) -> None:
    ours, theirs = world.fetcher(source="rest"), world.fetcher(source="rest")
    ours.fetch(*DAY)
    volumes = iter(range(1, 1_000))

    def ask_and_change() -> None:
        restate(world, next(volumes))
        theirs.fetch(*DAY, refresh=True)
        restate(world, next(volumes))

    meanwhile(world, ask_and_change, times=None)
    world.asked("klines")
    with pytest.raises(IncompleteData) as caught:
        ours.fetch(*DAY, refresh=True)
    assert [(gap.first_ms, gap.count) for gap in caught.value.missing] == [(SLOT[0], 1)]
    assert len(caught.value.frame) == 23
    assert len(world.asked("klines")) < 20


@pytest.mark.fault("K02")
def test_an_error_of_the_second_request_is_that_of_the_contested_candle(world: World) -> None:
    ours, theirs = world.fetcher(source="rest", max_retries=0), world.fetcher(source="rest")
    ours.fetch(*DAY)

    def ask_earlier() -> None:
        restate(world, 1.0)
        theirs.fetch(*DAY, refresh=True)
        restate(world, 2.0)
        world.exchange.fail(faults.status(500), times=1, match="klines")

    meanwhile(world, ask_earlier)
    with pytest.raises(IncompleteData) as caught:
        ours.fetch(*DAY, refresh=True)
    assert [(gap.first_ms, gap.count) for gap in caught.value.missing] == [(SLOT[0], 1)]
    check(world, ours.fetch(*DAY, refresh=True))


@pytest.mark.slow
@pytest.mark.fault("K02")
def test_a_reply_that_serves_two_chunks_gives_no_older_candle_to_the_second(world: World) -> None:
    newest = ("BTC/USD", "1h", "2024-05-20", "2024-06-15")
    unhurried = replace(
        all_providers()["kraken"], default_limits=(Limit(1000, 1, "requests"),)
    )  # the world's clock stands still
    ours, theirs = (world.fetcher(provider=unhurried) for _ in range(2))
    ours.fetch(*newest)
    pair = next(pair for pair in PAIRS if pair.altname == "XBTUSD")
    series = world.exchange._tape.series("kraken", pair.listing, "1h", "candles")
    slots = [ms("2024-05-25"), ms("2024-06-10")]

    def say(volume: float) -> None:
        for open_ms in slots:
            series.restate(open_ms, {"volume": f"{volume:.8f}"})

    def ask_earlier() -> None:
        say(1.0)
        theirs.fetch(*newest, refresh=True)
        say(2.0)

    say(2.0)
    meanwhile(world, ask_earlier, match="OHLC")
    frames = ours.fetch(*newest, refresh=True), world.fetcher(provider=unhurried, source="cache").fetch(*newest)
    for frame in frames:
        assert [frame["volume"][pd.Timestamp(open_ms, unit="ms", tz="UTC")] for open_ms in slots] == [2.0, 2.0]


@pytest.mark.fault("K02")
def test_an_earlier_funding_rate_gives_way_to_a_later_one(world: World) -> None:
    june = ("BTC/USDT", "2024-06-01", "2024-06-14")
    ours, theirs = (world.fetcher(provider="binance-um") for _ in range(2))
    truth = ours.fetch_funding(*june)

    def revise(wire: FaultConnection, reply: ServedReply) -> bool:
        records = json.loads(reply.body)
        records[0]["fundingRate"] = "0.50000000"
        wire.send(reply._replace(body=json.dumps(records).encode()).whole())
        return True

    def ask_earlier() -> None:
        world.exchange.fail(FaultAction("revise", revise), times=1, match="fundingRate")
        assert theirs.fetch_funding(*june, refresh=True)["funding_rate"].iloc[0] == 0.5

    meanwhile(world, ask_earlier, match="fundingRate")
    stored = world.fetcher(provider="binance-um", source="cache")
    for frame in (ours.fetch_funding(*june, refresh=True), stored.fetch_funding(*june)):
        pd.testing.assert_frame_equal(frame, truth, check_exact=True)


# -- a disk that takes nothing for a while ----------------------------------------------------------------------------


@pytest.fixture
def locked(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a connection that keeps all others from writing; a lock that does not come is not waited for."""
    monkeypatch.setattr("candle_fetcher.store.database.BUSY_S", 0.01)
    monkeypatch.setattr("candle_fetcher.store.access.REST_LOCKED_S", 0.0)
    made: list[sqlite3.Connection] = []

    def lock() -> sqlite3.Connection:
        made.append(sqlite3.connect(world.folder / "cache.db", isolation_level=None))
        made[-1].execute("BEGIN IMMEDIATE")
        return made[-1]

    yield lock
    for one in made:
        one.close()


@pytest.mark.fault("K02", "D15")
def test_a_correction_that_the_disk_did_not_take_is_stored_later(
    world: World, locked: Callable[[], sqlite3.Connection]
) -> None:
    ours: CandleFetcher = world.fetcher(source="rest")
    hide(world)
    ours.fetch(*DAY)
    world.exchange.restate("binance", "BTCUSDT", "1h", SLOT[0] + HOUR, volume="2.00000000")
    other = locked()
    with pytest.warns(CacheWarning, match="another program"):
        ours.fetch(*DAY, refresh=True)
    other.close()
    check(world, ours.fetch(*DAY, on_gap="refetch"), is_hidden=True)


@pytest.mark.fault("K02", "D15")
def test_what_was_read_without_the_lock_is_not_stored_with_it(
    world: World, locked: Callable[[], sqlite3.Connection]
) -> None:
    fetcher = world.fetcher(source="rest")
    fetcher.fetch(*DAY)
    assert fetcher.cache.store is not None
    disk = fetcher.cache.store.disk
    assert disk is not None
    other = locked()
    with pytest.warns(CacheWarning, match="another program"), disk.transaction() as begun:
        assert not begun
        other.execute("ROLLBACK")
        with disk.transaction() as inner:
            assert not inner
        assert not disk.save("key", b"value")
    assert disk.save("key", b"value")


def test_a_correction_by_another_process_comes_with_a_refresh_or_from_the_disk(world: World) -> None:
    """A settled chunk is served from memory: it is what the provider said when it was asked."""
    ours, theirs, unkept = world.fetcher(), world.fetcher(), world.fetcher(memory_cache_size=0)
    before, _ = ours.fetch(*DAY), unkept.fetch(*DAY)
    restate(world, 2.0)
    check(world, theirs.fetch(*DAY, refresh=True), unkept.fetch(*DAY))
    world.asked()
    pd.testing.assert_frame_equal(ours.fetch(*DAY), before, check_exact=True)
    assert world.asked() == []
    check(world, ours.fetch(*DAY, refresh=True), ours.fetch(*DAY))
