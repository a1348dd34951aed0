"""Pains of live calls that only sockets and threads can show; see the table in test_live_pain.py.

The practice exchange serves real WebSockets on the loopback. Tests set its clock, so that nothing waits for minutes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from line_play import LinePlay, klines
from live_world import LiveWorld
from scripted import Scripted
from stream_client import PONG
from world import ms, wait_until

from candle_fetcher import CandleFetcher
from candle_fetcher.core.errors import ReplyError, SourceError, TransportError
from candle_fetcher.live import streaming
from candle_fetcher.live.line import Wires
from candle_fetcher.net import stream as net_stream
from candle_fetcher.practice import faults, stream_faults
from candle_fetcher.providers import find_provider

pytest.importorskip("websocket", reason="websocket-client, of the extra `live`, makes the connections")

URL = "/stream?streams=btcusdt@kline_1s"
ENDS_S = 2.5
OPEN: list[Any] = []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-15T12:00:30", outages=()) as world:
        yield world


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread of a live call outlives its test."""
    yield
    wait_until(lambda: not live_threads(), 5)
    gc.collect()


def live_threads() -> list[str]:
    return [
        one.name for one in threading.enumerate() if one.name.startswith(("candle-stream", "candle-follow", "live"))
    ]


def fetcher_of(world: LiveWorld) -> CandleFetcher:
    return world.fetcher(base_urls=world.exchange.base_urls)


@pytest.fixture(autouse=True)
def sockets() -> Iterator[list[Any]]:
    """The connections of a test, which are closed after it, also when it fails."""
    yield OPEN
    while OPEN:
        OPEN.pop().close()


def connect(world: LiveWorld, path: str = URL, **given: Any) -> Any:
    root = world.exchange.stream_urls["binance"]
    stop = given.pop("stop", threading.Event())
    connection = net_stream.connect(root, path, stop=stop, user_agent="test", timeout_s=10, **given)
    OPEN.append(connection)
    return connection


def texts(connection: Any, count: int) -> list[bytes]:
    """The next texts; pings are answered on the way."""
    found = []
    while len(found) < count:
        frame = connection.receive(10)
        assert frame is not None, "nothing came"
        if frame.kind == "text":
            found.append(frame.data)
    return found


def ask(connection: Any) -> None:
    """Wait until the exchange has played all that the connection was sent by now."""
    connection.send('{"method":"LIST_SUBSCRIPTIONS","id":9}')
    while b'"id":9' not in texts(connection, 1)[0]:
        pass


# Frames


@pytest.mark.slow
def test_a_large_message_is_read_and_a_huge_one_ends_the_connection(world: LiveWorld) -> None:
    """A limit of the library ended connections for legal messages (alpaca-trade-api-python, issue 319); without one, a
    wrong length is waited for."""
    large = '{"e":"large","d":"' + "x" * 3_000_000 + '"}'
    world.exchange.streams.fail(stream_faults.insert(large), match='"x":true')
    connection = connect(world)
    ask(connection)
    world.now_s += 1.1
    assert len(texts(connection, 1)[0]) == len(large)
    texts(connection, 2)
    before = psutil.Process().memory_info().rss
    world.exchange.streams.fail(stream_faults.huge(), match='"x":true')
    world.now_s += 1.1
    with pytest.raises(ReplyError, match="67,108,864 bytes"):
        texts(connection, 1)
    assert psutil.Process().memory_info().rss - before < 20e6


@pytest.mark.parametrize("action", [stream_faults.garbage(), stream_faults.half_frame(), stream_faults.reset()])
def test_bytes_that_are_no_frame_end_the_connection_with_an_error(
    world: LiveWorld, action: stream_faults.StreamAction
) -> None:
    connection = connect(world)
    ask(connection)
    world.exchange.streams.fail(action, match='"x":true')
    world.now_s += 1.1
    with pytest.raises(SourceError):
        texts(connection, 1)


def test_fragments_are_one_message_and_bad_text_is_refused_by_the_parser(world: LiveWorld) -> None:
    streams = find_provider("binance").streams
    assert streams is not None
    world.exchange.streams.fail(stream_faults.fragmented(5), match='"x":true')
    connection = connect(world)
    ask(connection)
    world.now_s += 1.1
    whole, _ = texts(connection, 2)
    assert streams.parse(whole)
    world.exchange.streams.fail(stream_faults.invalid_utf8(), match='"x":true')
    world.now_s += 1.1
    with pytest.raises(ReplyError):
        streams.parse(texts(connection, 1)[0])


def test_frames_in_one_piece_with_the_handshake_are_read(world: LiveWorld) -> None:
    """Bytes that came with the handshake's reply were lost (nautilus_trader, issue 3932)."""

    world.exchange.streams.play(Scripted("/hasty", ["first", "second"]))
    connection = connect(world, "/hasty")
    assert texts(connection, 2) == [b"first", b"second"]


def test_a_redirected_handshake_is_refused_and_no_other_host_is_asked(world: LiveWorld) -> None:
    """Redirects were followed, and the headers with keys went along."""
    world.exchange.fail(faults.redirect(world.exchange.url + "/ws"), match="/stream")
    with pytest.raises(TransportError):
        connect(world)
    assert [one.status for one in world.exchange.requests] == [None]


# Ends


@pytest.mark.slow
def test_each_close_of_the_server_is_followed_by_a_new_connection(world: LiveWorld) -> None:
    """A normal close was taken for the end of the data (ccxt, issue 7233)."""
    play = socket_play(world)
    (line,) = play.lines
    actions = [*map(stream_faults.drop, (1000, 1001, 1006, 1011, 1012, 1013, None)), stream_faults.reset()]
    for number, action in enumerate(actions):
        wait_for(play, lambda: line.messages)
        world.exchange.streams.fail(action, match='"x":true')
        wait_for(play, lambda number=number: line.connections == number + 2)
        line.messages = 0
    assert not line.is_over
    line.end()


def socket_play(world: LiveWorld, **facts: Any) -> LinePlay:
    """A line over a real socket, by the world's clock."""
    play = LinePlay(world, "binance", klines("BTCUSDT", timeframe="1s"), **facts)
    now_s = lambda: world.now_s  # noqa: E731
    wires = Wires(
        streaming.open_stream, now_s, now_s, lambda stop, seconds: stop.is_set(), lambda event: None, lambda: 0.5
    )
    for line in play.lines:
        line._wires = wires
    return play


def wait_for(play: LinePlay, is_so: Callable[[], object]) -> None:
    """Let time pass, a quarter of a second for each look, until it is so."""
    for _ in range(2_000):
        if is_so():
            return
        play.world.now_s += 0.25
        for line in play.lines:
            line.step(0.02)
    raise AssertionError("it never was so")


@pytest.mark.slow
def test_two_hundred_reconnections_leave_nothing(world: LiveWorld) -> None:
    """Memory grew by 1.3 GB an hour with reconnections (freqtrade, issues 13082 and 10933)."""
    play = socket_play(world)
    (line,) = play.lines
    process = psutil.Process()
    seen = []
    for number in range(200):
        wait_for(play, lambda number=number: line.connections == number + 1)
        world.exchange.streams.end_all()
        if number in (20, 199):
            gc.collect()
            seen.append((threading.active_count(), process.num_fds(), process.memory_info().rss))
    line.end()
    early, late = seen
    assert late[0] - early[0] <= 2
    assert late[1] - early[1] <= 4
    assert late[2] - early[2] < 20e6


@pytest.mark.slow
def test_an_error_in_the_reader_is_no_dead_thread_with_a_loop_that_goes_on(world: LiveWorld) -> None:
    """An exception in a handler blocked the reconnect (nautilus_trader, issue 4020)."""
    fetcher = fetcher_of(world)
    live = fetcher.follow(["BTC/USDT"], "1m")
    (line,) = live._streaming.lines
    wait_until(lambda: line.connections)
    heard, broken = live._core.heard, []

    def fail(*given: Any) -> None:
        if not broken:
            broken.append(given)
            raise RuntimeError("a mistake")
        heard(*given)

    live._core.heard = fail
    deadline = time.monotonic() + 20
    with live:
        while time.monotonic() < deadline and not (broken and line.connections > 1 and line.messages):
            world.now_s += 1.1
            time.sleep(0.02)
    assert broken
    assert line.connections > 1


@pytest.mark.slow
def test_close_during_a_long_pause_is_quick(world: LiveWorld) -> None:
    """Programs hung in a sleeping reconnect (websocket-client, issues 858, 891 and others)."""
    world.exchange.fail(faults.status(503), times=None, match="/stream")
    live = fetcher_of(world).follow(["BTC/USDT"], "1m")
    (line,) = live._streaming.lines
    wait_until(lambda: line._outlet.pauses._failures)
    line._outlet.pauses.next_s += 1_000
    began_s = time.monotonic()
    live.close()
    assert time.monotonic() - began_s < 1.0
    assert not live_threads()


@pytest.mark.slow
@pytest.mark.parametrize("is_dead", [False, True])
@pytest.mark.parametrize("way", ["close", "with", "exception", "collected", "interrupt"])
def test_every_way_out_of_a_loop_ends_its_threads(world: LiveWorld, way: str, is_dead: bool) -> None:
    """close() hung (pylivetrader, issue 127), and never returned on a dead peer (websocket-client)."""
    live = fetcher_of(world).follow(["BTC/USDT"], "1m", "2024-06-15T11:50")
    (line,) = live._streaming.lines
    wait_until(lambda: line.connections)
    if is_dead:
        world.exchange.streams.fail(stream_faults.stall(), times=None)
        world.now_s += 5
    began_s = time.monotonic()
    leave(live, way)
    live = line = None
    gc.collect()
    wait_until(lambda: not live_threads(), ENDS_S)
    assert time.monotonic() - began_s < ENDS_S


def leave(live: Any, way: str) -> None:
    """Leave a loop in that way."""
    if way == "close":
        next(live)
        live.close()
    elif way == "with":
        with live:
            for _ in live:
                break
    elif way == "exception":
        with pytest.raises(ZeroDivisionError), live:
            for _ in live:
                raise ZeroDivisionError
    elif way == "interrupt":
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt), live:
            for _ in live:
                pass
        timer.join()
    else:
        next(live)


@pytest.mark.slow
def test_close_returns_although_the_peer_is_dead(world: LiveWorld) -> None:
    """Half-open connections were "connected" for hours, and closing them never returned."""
    live = fetcher_of(world).follow(["BTC/USDT"], "1m")
    (line,) = live._streaming.lines
    wait_until(lambda: line.connections)
    stalled = world.exchange.streams.fail(stream_faults.stall(), times=None)
    wait_until(lambda: move(world, 1) or stalled.hits)
    began_s = time.monotonic()
    live.close()
    assert time.monotonic() - began_s < 2
    assert not live_threads()


def move(world: LiveWorld, seconds: float) -> None:
    world.now_s += seconds
    time.sleep(0.02)


# Loops


@pytest.mark.slow
def test_pongs_are_sent_while_the_loop_is_blocked(world: LiveWorld) -> None:
    """A slow handler ran in the reader, so that no pong went out and the server closed (alpaca-py)."""
    with fetcher_of(world).follow(["BTC/USDT"], "1m") as live:
        (line,) = live._streaming.lines
        wait_until(lambda: line.connections)
        world.now_s += 21  # the loop below does not run meanwhile
        wait_until(lambda: [one for one in world.exchange.streams.messages if one.opcode == PONG], 5)


@pytest.mark.slow
def test_pongs_are_sent_under_load(world: LiveWorld) -> None:
    """Pings came late under load, until the connection was closed (ccxt, issue 23929 and PR 22585)."""
    done = threading.Event()

    def burn() -> None:
        while not done.is_set():
            sum(range(10_000))

    workers = [threading.Thread(target=burn) for _ in range(4)]
    with fetcher_of(world).follow(["BTC/USDT"], "1m") as live:
        (line,) = live._streaming.lines
        wait_until(lambda: line.connections)
        for worker in workers:
            worker.start()
        try:
            world.now_s += 21
            began_s = time.monotonic()
            wait_until(lambda: [one for one in world.exchange.streams.messages if one.opcode == PONG], 5)
            assert time.monotonic() - began_s < 5
        finally:
            done.set()
            for worker in workers:
                worker.join()


@pytest.mark.slow
def test_a_loop_works_inside_a_running_event_loop(world: LiveWorld) -> None:
    """Notebooks said "This event loop is already running" (alpaca-trade-api-python, python-binance, cryptofeed)."""
    fetcher = fetcher_of(world)

    async def cell() -> list[str]:
        with fetcher.follow(["BTC/USDT"], "1m", "2024-06-15T11:50") as live:
            return [symbol for symbol, _ in (next(live),)]

    assert asyncio.run(cell()) == ["BTC/USDT"]
    assert asyncio.run(cell()) == ["BTC/USDT"]


@pytest.mark.slow
def test_ten_loops_one_after_the_other_each_deliver(world: LiveWorld) -> None:
    """A stopped client could not be started again (python-binance, issue 1354)."""
    fetcher = fetcher_of(world)
    for number in range(10):
        world.now_s += 60
        with fetcher.follow(["BTC/USDT"], "1m", "2024-06-15T11:50") as live:
            symbol, frame = next(live)
            assert symbol == "BTC/USDT"
            assert len(frame) == 10 + number + 1


@pytest.mark.slow
def test_candles_come_over_real_sockets_as_they_close(world: LiveWorld) -> None:
    found: list[int] = []
    first = ms("2024-06-15T12:00")
    with fetcher_of(world).follow(["BTC/USDT"], "1m") as live:
        (line,) = live._streaming.lines
        wait_until(lambda: line.messages)
        stopped = threading.Event()

        def go_on() -> None:
            while not stopped.wait(0.02):
                world.now_s += 1

        clock = threading.Thread(target=go_on)
        clock.start()
        try:
            for _, frame in live:
                found += [int(one.timestamp() * 1000) for one in frame.index]
                if len(found) >= 4:
                    break
        finally:
            stopped.set()
            clock.join()
    assert found == [first + 60_000 * number for number in range(len(found))]
    assert live.stats.confirmed >= 3
