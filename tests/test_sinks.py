"""What `watch` and `follow` write to beside the loop: callables, Redis and SQL databases, each for itself."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import databases
import pandas as pd
import pytest
from live_world import LiveWorld

from candle_fetcher import CandleFetcherWarning, InputError, MissingExtra
from candle_fetcher.core.quote import Quote
from candle_fetcher.live.sinks import MOST_ITEMS, Sinks
from candle_fetcher.sinks import RedisSink, SqlSink


def at_once(stop: threading.Event, seconds: float) -> bool:
    return stop.wait(min(seconds, 0.01))


def wait_until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def quote(number: int, symbol: str = "BTC/USDT") -> Quote:
    now = pd.Timestamp(1_700_000_000_000 + number, unit="ms", tz="UTC")
    return Quote(symbol, "crypto", "Binance", float(number), 1.0, None, 2.5, now, "binance", now, 0.5)


def pair(open_ms: int, close: float, **flags: bool) -> tuple[str, pd.DataFrame]:
    index = pd.DatetimeIndex(pd.to_datetime([open_ms], unit="ms", utc=True), name="timestamp")
    frame = pd.DataFrame({"open": 1.0, "high": 9.0, "low": 0.5, "close": close, "volume": 3.0, **flags}, index=index)
    frame.attrs["candle_fetcher"] = {"provider": "binance", "symbol": "BTC/USDT", "timeframe": "1m"}
    return "btcusdt", frame


def test_a_callable_gets_each_item_in_order() -> None:
    got: list[Any] = []
    sinks = Sinks(got.append, at_once)
    for number in range(100):
        sinks.put(number)
    sinks.close()
    assert got == list(range(100))


def test_a_sink_that_fails_is_tried_again_and_does_not_stop_the_others() -> None:
    got: list[Any] = []
    good: list[Any] = []
    said: list[Any] = []
    failures = iter([OSError("gone"), OSError("gone"), ValueError("odd")])

    def weak(item: int) -> None:
        for error in failures:
            raise error
        got.append(item)

    sinks = Sinks([weak, good.append], at_once)
    sinks.tell = lambda function, *arguments: said.append(arguments)
    for number in range(5):
        sinks.put(number)
    wait_until(lambda: len(got) == 5 and len(good) == 5)
    sinks.close()
    assert got == good == list(range(5))
    assert len(said) == 1
    assert "gone" in str(said[0])
    assert [flow.failures for flow in sinks.flows] == [3, 0]


def test_what_a_dead_sink_does_not_take_is_dropped_from_the_oldest_on_and_counted() -> None:
    def dead(item: object) -> None:
        raise OSError

    sinks = Sinks(dead, at_once)
    sinks.tell = lambda *_: None
    for number in range(MOST_ITEMS + 2_000):
        sinks.put(number)
    assert sinks.flows[0].dropped >= 900
    began_s = time.monotonic()
    sinks.close()
    assert time.monotonic() - began_s < 1.5


def test_what_is_no_sink_is_refused() -> None:
    """A file was closed after its first item; what an asynchronous function was given was lost without a word."""

    async def later(item: object) -> None:
        pass

    for wrong in (5, "redis://localhost", [print, None]):
        with pytest.raises(InputError, match="sink"):
            Sinks(wrong)
    for wrong, what in ((SqlSink, "a class"), (io.StringIO(), "a file"), (later, "asynchronous")):
        with pytest.raises(InputError, match=f"is {what}"):
            Sinks([print, wrong])


def test_a_sink_gets_the_frame_as_it_was_yielded() -> None:
    got: list[Any] = []
    may_go_on = threading.Event()

    def spoil(item: Any) -> None:
        item[1]["close"] = 0.0

    def keep(item: Any) -> None:
        may_go_on.wait(20)
        got.append(float(item[1]["close"].iloc[0]))

    sinks = Sinks([spoil, keep], at_once)
    item = pair(0, 2.0)
    sinks.put(item)
    item[1]["close"] = 1.0
    may_go_on.set()
    wait_until(lambda: got and not sinks.flows[0].left)
    sinks.close()
    assert got == [2.0]
    assert item[1]["close"].iloc[0] == 1.0


@pytest.mark.slow
def test_sinks_that_hang_are_waited_for_together_and_what_they_have_not_written_is_said() -> None:
    may_end = threading.Event()
    sinks = Sinks([lambda item: may_end.wait(30) for _ in range(3)], at_once)
    sinks.put(1)
    sinks.put(2)
    began_s = time.monotonic()
    sinks.close()
    assert time.monotonic() - began_s < 2.5
    with pytest.warns(CandleFetcherWarning, match="has not written 2 of its items") as said:
        sinks.warn_of_left()
    assert len(said) == 3
    may_end.set()


def test_a_sink_that_ends_its_thread_is_tried_again() -> None:
    got: list[int] = []
    failures = iter([SystemExit(1)])

    def leave(item: int) -> None:
        for error in failures:
            raise error
        got.append(item)

    sinks = Sinks(leave, at_once)
    sinks.tell = lambda *_: None
    sinks.put(1)
    wait_until(lambda: got)
    sinks.close()
    assert got == [1]


def test_a_failing_sink_warns_in_the_users_loop(tmp_path: Path) -> None:
    def dead(item: object) -> None:
        raise OSError("no such table")

    with LiveWorld(tmp_path, now="2024-06-15T12:00:30") as world:
        driver = world.watch(["BTC/USDT"], to=dead)
        driver.live._sinks.put(1)
        wait_until(lambda: driver.watcher.has_said)
        with pytest.warns(CandleFetcherWarning, match="no such table"):
            driver.watcher.say()
        with pytest.warns(CandleFetcherWarning, match="has not written 1 of its items"):
            driver.live.close()
        assert driver.live.stats.dropped == 1


# SQL


@pytest.fixture(params=["sqlite", "duckdb", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        with databases.serving() as server:
            yield server.url()
        return
    pytest.importorskip({"sqlite": "sqlalchemy", "duckdb": "duckdb"}[request.param], reason="needs an extra")
    yield f"{request.param}:///{tmp_path}/live.db"


def test_sql_keeps_the_newest_quote_of_each_symbol_and_every_candle(url: str) -> None:
    sink = SqlSink(url)
    sink.write([quote(1), quote(2), quote(7, "ETH/USDT")])
    sink.write([quote(3), Quote("NO/SUCH", provider="binance", error="unknown")])
    sink.write([pair(60_000, 2.0), pair(120_000, 3.0, is_closed=False), pair(60_000, 4.0, is_revised=True)])
    with sink._database.begin(is_write=False) as session:
        found = session.run("SELECT symbol, last_price, bid_price, error FROM live_quotes ORDER BY symbol")
        candles = session.run("SELECT symbol, timeframe, close FROM live_candles")
    sink.close()
    assert [tuple(row) for row in found] == [
        ("BTC/USDT", 3.0, None, None),
        ("ETH/USDT", 7.0, None, None),
        ("NO/SUCH", None, None, "unknown"),
    ]
    assert [tuple(row) for row in candles] == [("BTC/USDT", "1m", 4.0)]


def test_urls_and_secrets_of_sinks() -> None:
    with pytest.raises(InputError, match="SqlSink"):
        SqlSink("mysql://root:secret@localhost/db")
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with pytest.raises(InputError, match="RedisSink") as caught:
        RedisSink("http://user:secret@localhost")
    assert "secret" not in str(caught.value)
    sink = RedisSink("redis://user:secret@localhost:1/0")
    assert "secret" not in repr(sink)
    sink.close()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(MissingExtra, match=r"candle-fetcher\[redis\]"):
        RedisSink("redis://localhost")


# Redis


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A server of Redis on a Unix socket in a folder of its own."""
    pytest.importorskip("redis", reason="needs the extra `redis`")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    place = Path("/tmp") / f"redis-{time.monotonic_ns()}.sock"
    words = ["--port", "0", "--unixsocket", str(place), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    server = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(place.exists)
    yield f"unix://{place}"
    server.terminate()
    server.wait(20)
    place.unlink(missing_ok=True)


def test_redis_has_a_hash_of_the_newest_and_a_stream_of_everything(redis_url: str) -> None:
    import redis

    sink = RedisSink(redis_url, most=3)
    sink.write([quote(number) for number in range(5)])
    sink.write([quote(9, "ETH/USDT"), pair(60_000, 2.0, is_revised=False), pair(120_000, 3.0, is_closed=False)])
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    newest = {key: json.loads(text) for key, text in client.hgetall("candle_fetcher:quotes").items()}
    assert {key: one["last_price"] for key, one in newest.items()} == {"binance:BTC/USDT": 4.0, "binance:ETH/USDT": 9.0}
    items = client.xrange("candle_fetcher:quotes:stream")
    assert [json.loads(fields["json"])["last_price"] for _, fields in items][-2:] == [4.0, 9.0]
    candle = json.loads(client.hget("candle_fetcher:candles", "binance:BTC/USDT:1m"))
    assert (candle["timestamp"], candle["close"], candle["is_revised"]) == ("1970-01-01T00:01:00Z", 2.0, False)
    assert client.xlen("candle_fetcher:candles:stream") == 1
    client.close()
    sink.close()


@pytest.mark.slow
def test_redis_that_comes_back_gets_what_waited(redis_url: str) -> None:
    sinks = Sinks(RedisSink(redis_url.replace(".sock", ".late")), at_once)
    said: list[Any] = []
    sinks.tell = lambda *arguments: said.append(arguments)
    sinks.put(quote(1))
    wait_until(lambda: said)
    sinks.flows[0].sink = RedisSink(redis_url)
    wait_until(lambda: sinks.flows[0].written == 1)
    sinks.close()
