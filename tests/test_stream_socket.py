"""One WebSocket connection against the practice exchange: what is read, refused and cut, and how soon it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from candle_fetcher import CandleFetcher, MissingExtra, ReplyError
from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.keys import Keys
from candle_fetcher.net.stream import HandshakeRefused, StreamConnection, connect
from candle_fetcher.practice import PracticeExchange, faults, stream_faults

pytest.importorskip("websocket", reason="needs the extra `live`")

SECRET = "sekrit-0123456789"


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange() as exchange:
        yield exchange


def dial(exchange: PracticeExchange, path: str = "/stream", **given: Any) -> StreamConnection:
    root = exchange.stream_urls["binance"]
    return connect(root, path, stop=threading.Event(), user_agent="test", timeout_s=3, **given)


def subscribe(conn: StreamConnection, *topics: str) -> None:
    conn.send(json.dumps({"method": "SUBSCRIBE", "params": topics, "id": 1}))


def texts(conn: StreamConnection, seconds: float = 5) -> Iterator[bytes]:
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        frame = conn.receive(0.2)
        if frame is not None and frame.kind == "text":
            yield frame.data


def test_frames_come_as_bytes_and_messages_are_answered(exchange: PracticeExchange) -> None:
    conn = dial(exchange)
    subscribe(conn, "btcusdt@kline_1s")
    found = texts(conn)
    assert json.loads(next(found)) == {"result": None, "id": 1}
    assert json.loads(next(found))["data"]["e"] == "kline"
    conn.ping()
    assert any(frame is not None and frame.kind == "pong" for frame in (conn.receive(1.0) for _ in range(5)))
    conn.close()


def test_no_frame_within_the_time_is_none(exchange: PracticeExchange) -> None:
    conn = dial(exchange)
    assert conn.receive(0.01) is None
    assert conn.receive(0.01) is None
    conn.close()


@pytest.mark.parametrize("status", [403, 418, 429, 451, 503])
def test_a_refused_handshake_has_its_status_and_no_key(exchange: PracticeExchange, status: int) -> None:
    exchange.fail(faults.status(status), match="/stream")
    with pytest.raises(HandshakeRefused) as caught:
        dial(exchange, keys=Keys(headers=[("X-Key", SECRET)]))
    assert caught.value.reply.status == status
    assert SECRET not in f"{caught.value!r} {caught.value.reply!r}"
    assert caught.value.__cause__ is None


@pytest.mark.slow
def test_a_redirect_is_not_followed(exchange: PracticeExchange) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.3)
        where = f"http://127.0.0.1:{other.getsockname()[1]}/"
        exchange.fail(faults.redirect(where), match="/stream")
        with pytest.raises(TransportError) as caught:
            dial(exchange, keys=Keys(headers=[("X-Key", SECRET)]))
        assert SECRET not in repr(caught.value)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (stream_faults.reset(), TransportError),
        (stream_faults.drop(), TransportError),
        (stream_faults.half_frame(), TransportError),
        (stream_faults.garbage(), (TransportError, ReplyError)),
        (stream_faults.huge(), ReplyError),
    ],
    ids=["reset", "drop", "half", "garbage", "huge"],
)
def test_a_broken_connection_is_an_error(exchange: PracticeExchange, action: Any, error: Any) -> None:
    conn = dial(exchange)
    exchange.streams.fail(action, match="kline")
    subscribe(conn, "btcusdt@kline_1s")
    with pytest.raises(error):
        list(texts(conn))
    conn.close()


@pytest.mark.slow
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
def test_a_close_frame_says_why(exchange: PracticeExchange, code: int) -> None:
    conn = dial(exchange)
    exchange.streams.fail(stream_faults.drop(code, "bye"), match="kline")
    subscribe(conn, "btcusdt@kline_1s")
    frames = [conn.receive(2.0) for _ in range(2)]
    assert frames[-1] is not None
    assert (frames[-1].kind, frames[-1].data) == ("closed", f"{code} bye".encode())
    conn.close()


@pytest.mark.slow
def test_a_message_in_fragments_is_one_and_bounded(exchange: PracticeExchange) -> None:
    conn = dial(exchange)
    exchange.streams.fail(stream_faults.fragmented(5), match="kline")
    subscribe(conn, "btcusdt@kline_1s")
    found = texts(conn)
    next(found)
    assert json.loads(next(found))["data"]["e"] == "kline"
    conn.close()
    conn = dial(exchange, most_bytes=100)
    exchange.streams.fail(stream_faults.fragmented(5), match="kline")
    subscribe(conn, "btcusdt@kline_1s")
    with pytest.raises(ReplyError, match="more than 100 bytes"):
        list(texts(conn))
    conn.close()


def test_another_thread_cuts_a_reader_at_once(exchange: PracticeExchange) -> None:
    conn = dial(exchange)
    threading.Timer(0.05, conn.cut).start()
    began_s = time.monotonic()
    with pytest.raises(CancelledError):
        conn.receive(10.0)
    assert time.monotonic() - began_s < 5
    conn.close()


def test_a_handshake_that_hangs_is_cut_by_another_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        cuts: list[Any] = []
        threading.Timer(0.1, lambda: cuts[0]()).start()
        root = f"ws://127.0.0.1:{mute.getsockname()[1]}"
        began_s = time.monotonic()
        with pytest.raises(CancelledError):
            connect(root, "/", stop=threading.Event(), user_agent="test", timeout_s=30, begun=cuts.append)
        assert time.monotonic() - began_s < 10


def test_an_unreachable_host_is_an_error_and_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(TransportError, match="cannot connect"):
        connect(f"ws://127.0.0.1:{port}", "/", stop=threading.Event(), user_agent="test", timeout_s=3)


def test_without_the_extra_the_error_names_it(exchange: PracticeExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "websocket", None)
    with pytest.raises(MissingExtra, match=r"candle-fetcher\[live\]"):
        dial(exchange)


# Through the public calls, with threads


def fetcher(exchange: PracticeExchange, folder: Any) -> CandleFetcher:
    return CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder, progress=False)


def live_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("candle-live", "candle-stream", "candle-sink"))]


def wait_for_no_threads() -> None:
    ends_s = time.monotonic() + 10
    while live_threads() and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert live_threads() == []


@pytest.mark.slow
def test_each_way_out_of_the_loop_ends_every_thread(exchange: PracticeExchange, tmp_path: Any) -> None:
    with fetcher(exchange, tmp_path) as one:
        with one.follow(["BTC/USDT"], "1s") as live:
            assert next(live)[0] == "BTC/USDT"
            assert live_threads() != []
        wait_for_no_threads()
        for _ in one.follow(["BTC/USDT"], "1s"):
            break
        wait_for_no_threads()
        with pytest.raises(ZeroDivisionError):
            for _ in one.watch(["BTC/USDT"]):
                1 / 0  # noqa: B018
        wait_for_no_threads()
        live = one.follow(["BTC/USDT"], "1s")
        threading.Timer(0.3, live.close).start()
        list(live)
        wait_for_no_threads()
        live = one.watch(["BTC/USDT"])
    assert list(live) == [] or live.stats.quotes
    wait_for_no_threads()


@pytest.mark.slow
def test_the_loops_work_inside_a_running_event_loop_and_can_be_run_again(
    exchange: PracticeExchange, tmp_path: Any
) -> None:
    with fetcher(exchange, tmp_path) as one:

        async def cell() -> str:
            with one.watch(["BTC/USDT"]) as live:
                return next(live).symbol

        assert [asyncio.run(cell()) for _ in range(5)] == ["BTC/USDT"] * 5
    wait_for_no_threads()


@pytest.mark.slow
def test_close_does_not_wait_for_a_dead_peer(exchange: PracticeExchange, tmp_path: Any) -> None:
    with fetcher(exchange, tmp_path) as one:
        live = one.follow(["BTC/USDT"], "1s")
        next(live)
        stalled = exchange.streams.fail(stream_faults.stall(), match="kline", times=None)
        time.sleep(1.2)
        began_s = time.monotonic()
        live.close()
        took_s = time.monotonic() - began_s
        stalled.stop()
        assert took_s < 2
        wait_for_no_threads()


@pytest.mark.slow
def test_missing_extra_is_raised_by_the_call(
    exchange: PracticeExchange, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "websocket", None)
    with fetcher(exchange, tmp_path) as one:
        for call in (lambda: one.follow(["BTC/USDT"], "1s"), lambda: one.watch(["BTC/USDT"])):
            with pytest.raises(MissingExtra, match="live"):
                call()
        wait_for_no_threads()
