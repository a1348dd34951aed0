"""Streams of the HTTP service: quotes and candles as server-sent events and by WebSocket; quotes by request."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from world import wait_until

from candle_fetcher.practice import PracticeExchange, faults

pytest.importorskip("fastapi", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")

from served import UPGRADE, Served, read_answer

from candle_fetcher.core.frame import index_ms
from candle_fetcher.service import hub

MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "QUOTES_EVERY_S", 0.05)


class Events:
    """The events of one connection, as they come."""

    def __init__(self, served: Served, path: str, *headers: str) -> None:
        self.connection = served.connect()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", *headers, "", ""]
        self.connection.sendall("\r\n".join(lines).encode())
        self._data = b""
        self._waiting: list[dict[str, Any]] = []
        head = self._until(b"\r\n\r\n").decode()
        self.status = int(head.split()[1])
        self.head = head.lower()

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise EOFError
            self._data += piece
        found, _, self._data = self._data.partition(mark)
        return found

    def next(self) -> dict[str, Any]:
        """Return the next event: its fields, `data` read as JSON. Raises EOFError at the end of the stream."""
        while not self._waiting:
            size = int(self._until(b"\r\n"), 16)
            if size == 0:
                raise EOFError
            while len(self._data) < size + 2:
                piece = self.connection.recv(1 << 16)
                if not piece:
                    raise EOFError
                self._data += piece
            chunk, self._data = self._data[:size].decode(), self._data[size + 2 :]
            for part in chunk.split("\n\n"):
                if part.startswith("event:"):
                    fields = dict(line.split(": ", 1) for line in part.splitlines())
                    self._waiting.append({**fields, "data": json.loads(fields["data"])})
        return self._waiting.pop(0)


class Socket(Events):
    """The events of one WebSocket."""

    def __init__(self, served: Served, path: str) -> None:
        super().__init__(served, path, *UPGRADE)

    def next(self) -> dict[str, Any]:
        head = self._exactly(2)
        kind, size = head[0] & 15, head[1] & 127
        if size == 126:
            size = struct.unpack(">H", self._exactly(2))[0]
        data = self._exactly(size)
        if kind == 8:
            raise EOFError(struct.unpack(">H", data[:2])[0])
        return dict(json.loads(data))

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise EOFError
            self._data += piece
        found, self._data = self._data[:size], self._data[size:]
        return found


def settled_ms(served: Served, symbol: str) -> int:
    return int(index_ms(served.fetcher.fetch(symbol, "1m", limit=1))[-1])


def test_quotes_are_those_of_the_call(served: Served) -> None:
    path = "/api/quotes?symbols=BTC/USDT,NOSUCH/USDT,nowhere:X,binance-um:ETH/USDT"
    answer = served.get(path)
    found = answer.document["symbols"]
    assert answer.status == 200
    assert [one["name"] for one in found][:2] == ["BTC/USDT", "NOSUCH/USDT"]
    assert found[0]["symbol"] == "BTCUSDT"
    assert found[0]["last_price"] > 0
    assert found[0]["error"] is None
    assert found[1]["error"]
    assert found[2]["error"]
    assert found[3]["type"] == "future"
    before = served.asked()
    assert (
        served.get("/api/quotes?symbols=BTC/USDT,NOSUCH/USDT,nowhere:X,binance-um:ETH/USDT").document == answer.document
    )
    assert served.asked() == before


def test_wrong_symbols_are_errors_before_anything_is_sent(served: Served) -> None:
    many = ",".join(f"A{number}/USDT" for number in range(101))
    for query, status in (
        ("symbols=", 400),
        (f"symbols={many}", 400),
        ("symbols=BTC/USDT&timeframe=7x", 400),
        ("symbols=NOSUCH/USDT&timeframe=1m", 404),
        ("symbols=kraken:BTC/USD&provider=binance", 400),
        ("symbols=BTC/USDT&x=y", 400),
    ):
        answer = served.get(f"/api/stream?{query}")
        assert (answer.status, "message" in answer.document) == (status, True), query
        with Socket(served, f"/api/ws?{query}") as refused:
            assert refused.status == status, query
    answer = served.get("/api/stream?symbols=BTC/USDT&timeframe=1m", "Last-Event-ID: nonsense")
    assert answer.status == 400


def test_quotes_come_as_events(served: Served) -> None:
    with Events(served, "/api/stream?symbols=BTC/USDT,ETH/USDT") as events:
        assert (events.status, "text/event-stream" in events.head) == (200, True)
        found = [events.next() for _ in range(4)]
    assert {one["event"] for one in found} == {"quote"}
    assert {one["data"]["name"] for one in found} == {"BTC/USDT", "ETH/USDT"}
    assert all(one["data"]["last_price"] > 0 for one in found)


def test_quotes_come_by_websocket(served: Served) -> None:
    with Socket(served, "/api/ws?symbols=BTC/USDT") as events:
        assert events.status == 101
        found = [events.next() for _ in range(2)]
    assert [one["event"] for one in found] == ["quote", "quote"]
    assert found[0]["data"]["symbol"] == "BTCUSDT"


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_candles_go_on_after_the_last_one_that_was_received(served: Served, kind: str) -> None:
    """Each candle once, in order, as `fetch` has it; a second connection with the id of an event begins after it."""
    first_ms = settled_ms(served, "BTC/USDT") - 30 * MINUTE_MS
    found: list[dict[str, Any]] = []
    last_id = str(first_ms)
    for count in (7, 5, 18):
        path = "symbols=BTC/USDT,ETH/USDT&timeframe=1m"
        if kind == "sse":
            events = Events(served, f"/api/stream?{path}", f"Last-Event-ID: {last_id}")
        else:
            events = Socket(served, f"/api/ws?{path}&last_event_id={last_id}")
        with events:
            found += [events.next() for _ in range(count)]
        last_id = found[-1]["id"]
    for symbol in ("BTC/USDT", "ETH/USDT"):
        mine = [one["data"] for one in found if one["data"]["name"] == symbol]
        truth = served.fetcher.fetch(symbol, "1m", first_ms + 1, limit=len(mine))
        assert [one["close"] for one in mine] == truth["close"].tolist()
        assert [one["timestamp"] for one in mine] == [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in truth.index]
    assert {one["event"] for one in found} == {"candle"}


def test_a_client_that_was_away_too_long_is_sent_elsewhere(served: Served) -> None:
    answer = served.get("/api/stream?symbols=BTC/USDT&timeframe=1m", "Last-Event-ID: 1704067200000")
    assert answer.status == 413
    assert "/api/candles" in answer.document["message"]


@pytest.mark.slow  # waits for candles of a second to close
def test_candles_come_once_they_have_settled(served: Served) -> None:
    with Events(served, "/api/stream?symbols=BTC/USDT&timeframe=1s") as events:
        found = [events.next()["data"] for _ in range(6)]
    truth = served.fetcher.fetch("BTC/USDT", "1s", found[0]["timestamp"], limit=6)
    assert [one["close"] for one in found] == truth["close"].tolist()


@pytest.mark.slow  # a watch is opened once symbols have been wanted for a while
@pytest.mark.fault("G10")
def test_quotes_are_watched_and_asked_for_where_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the exchange's stream, more often than they are asked for; stale where it is silent; the same without one."""
    pytest.importorskip("websocket")
    monkeypatch.setattr(hub, "QUOTES_EVERY_S", 1.0)
    monkeypatch.setattr(hub, "WATCHED_AFTER_S", 0.1)
    exchange = PracticeExchange(log=False).start()
    streams = {f"{name}-stream": url for name, url in exchange.stream_urls.items()}
    served = Served(tmp_path, exchange=exchange, urls={**exchange.base_urls, **streams})
    try:
        with Events(served, "/api/stream?symbols=BTC/USDT,ethusdt") as events:
            events.next()
            watching = served.app.state.service.hub
            wait_until(lambda: watching._watching is not None and watching._watching._live is not None)
            served.exchange.clear_log()
            times = []
            while len(times) < 16:
                quote = events.next()["data"]
                assert quote["last_price"] > 0
                assert not quote["is_stale"]
                times.append(time.monotonic())
            asked = [one.path for one in served.exchange.requests if "ticker" in one.path]
            assert times[-1] - times[0] < 12
            assert len(asked) <= 6
            watching._watching.close()  # as where the stream cannot be had: quotes are asked for again
            assert events.next()["data"]["last_price"] > 0
    finally:
        served.close()


@pytest.mark.fault("G10")
def test_a_quote_that_is_old_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the provider stops answering, the stream says that the quote is stale, and then goes on."""
    monkeypatch.setattr(hub, "MOST_AGE_S", 0.5)
    with Events(served, "/api/stream?symbols=BNB/USDT") as events:
        assert events.next()["data"]["is_stale"] is False
        fault = served.exchange.fail(faults.status(500), times=None, match="ticker")
        try:
            ends_s = time.monotonic() + 20
            while not (quote := events.next()["data"])["is_stale"]:
                assert time.monotonic() < ends_s
            assert quote["error"] or quote["age_s"] > 0.5
        finally:
            fault.stop()


def test_streams_are_forgotten_when_clients_leave(served: Served) -> None:
    events = [Events(served, "/api/stream?symbols=BTC/USDT") for _ in range(20)]
    traffic = served.app.state.service.traffic
    assert all(one.status == 200 for one in events)
    assert traffic.streams >= 20
    for one in events:
        one.close()
    wait_until(lambda: traffic.streams == 0)
    wait_until(lambda: not served.app.state.service.hub._subscribers)


def test_a_client_that_does_not_read_gets_the_newest(served: Served) -> None:
    """A stream keeps one quote of each symbol for its client, and counts those that newer ones replaced."""
    import asyncio

    topics = [hub.Topic("BTC/USDT", None, None)]
    loop = asyncio.new_event_loop()
    try:
        subscriber = hub.Subscriber(topics, loop)
        for number in range(1000):
            subscriber.put({topics[0]: str(number), hub.Topic("ETH/USDT", None, None): "x"}, {})
        assert subscriber.take_quotes() == {topics[0]: "999"}
        assert subscriber.dropped == 999
    finally:
        loop.close()


def test_the_end_of_the_service_ends_streams_and_lets_replies_finish(tmp_path: Path) -> None:
    served = Served(tmp_path)
    streams: list[Events] = []
    try:
        streams = [Events(served, "/api/stream?symbols=BTC/USDT") for _ in range(25)]
        streams += [Socket(served, "/api/ws?symbols=BTC/USDT") for _ in range(25)]
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        served.exchange.fail(faults.hang(0.8), times=1, match="klines")
        path = "/api/candles?symbol=ETH/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        wait_until(lambda: served.app.state.service.traffic.streams == 50)
        began = time.monotonic()
        served.server.handle_exit(15, None)
        answer = read_answer(connection)
        connection.close()
        assert answer.status in (200, 409)
        served._thread.join(20)
        assert time.monotonic() - began < 10  # on a busy machine; tests/benchmarks/service.py has the figure
        for one in streams:
            with pytest.raises((EOFError, ConnectionResetError)):
                while True:
                    one.next()
    finally:
        for one in streams:
            one.close()
        served.close()
