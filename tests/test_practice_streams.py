"""The streams of the practice exchange: against recorded frames, against its REST, and by the rules of their pages."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted
from stream_client import CLOSE, PING, PONG, TEXT, Refused, StreamClient

from candle_fetcher.practice import PracticeExchange, faults, stream_faults
from candle_fetcher.practice.binance_streams import BinanceSession, BinanceStreams
from candle_fetcher.practice.listings import utc_ms
from candle_fetcher.practice.request import View
from candle_fetcher.practice.series import Tape
from candle_fetcher.practice.tickers import book_tickers, day_tickers
from candle_fetcher.practice.websocket import WireMessage, close, text

NOW_MS = utc_ms("2026-07-03T10:11:12.345")
KLINE = ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades")
SHORT = ("t", "o", "h", "l", "c", "v", "q", "n")
CM_SESSION = "binance_cm/ws_combined_2026_book_trade_kline_closed_mark.jsonl"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Clock:
    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms / 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchange(clock: Clock) -> Iterator[PracticeExchange]:
    with PracticeExchange(clock=clock, outages=()) as running:
        yield running


def session(provider: str, *names: str, tape: Tape | None = None, group: str = "", now_ms: int = NOW_MS) -> Any:
    return BinanceSession(provider, tape or Tape(1), group, False, names, now_ms, DAY)


def events(one: BinanceSession, until_ms: int, step_ms: int = 250, since_ms: int = NOW_MS) -> Iterator[Any]:
    """Every event until the instant, the clock moving in steps, and pings answered."""
    for now_ms in range(since_ms, until_ms + 1, step_ms):
        for message in one.due(now_ms):
            if message.opcode == PING:
                one.received(WireMessage(PONG, message.payload), now_ms)
            else:
                assert message.opcode == TEXT
                yield json.loads(message.payload)


# What the streams say is what REST says


@pytest.mark.parametrize(
    ("provider", "symbol", "timeframe", "group"),
    [
        ("binance", "BTCUSDT", "1s", ""),
        ("binance", "BTCUSDT", "1m", ""),
        pytest.param("binance-us", "BTCUSDT", "5m", "", marks=pytest.mark.slow),
        pytest.param("binance-um", "BTCUSDT", "1m", "market", marks=pytest.mark.slow),
        pytest.param("binance-cm", "BTCUSD_PERP", "1m", "", marks=pytest.mark.slow),
    ],
)
def test_updates_and_closings_are_the_rows_of_rest_at_their_instants(
    clock: Clock, provider: str, symbol: str, timeframe: str, group: str
) -> None:
    exchange = PracticeExchange(clock=clock, outages=())
    one = session(provider, f"{symbol.lower()}@kline_{timeframe}", group=group)
    end_ms = NOW_MS + (10_000 if timeframe == "1s" else 130_000 if timeframe == "1m" else 301_000)
    seen = list(events(one, end_ms))
    assert [event["E"] for event in seen] == sorted(event["E"] for event in seen)
    closed = [event["k"]["t"] for event in seen if event["k"]["x"]]
    step_ms = {"1s": 1_000, "1m": MINUTE, "5m": 5 * MINUTE}[timeframe]
    first = NOW_MS // step_ms * step_ms
    late_ms = 494 if provider == "binance-um" else 4
    assert closed == list(range(first, (end_ms - late_ms) // step_ms * step_ms, step_ms))
    assert sum(not event["k"]["x"] for event in seen) >= len(closed)
    for event in seen:
        clock.ms = event["E"]
        truth = exchange.truth(provider, symbol, timeframe, event["k"]["t"], event["k"]["t"] + 1)
        assert [float(event["k"][short]) for short in SHORT] == [float(truth[name][0]) for name in KLINE]
        assert event["k"]["L"] - event["k"]["f"] + 1 == event["k"]["n"]
    numbers = [(event["k"]["f"], event["k"]["L"]) for event in seen if event["k"]["x"]]
    assert all(last + 1 == first for (_, last), (first, _) in itertools.pairwise(numbers))


@pytest.mark.parametrize(("provider", "symbol"), [("binance", "ETHUSDT"), ("binance-cm", "BTCUSD_PERP")])
def test_tickers_and_best_prices_are_those_of_rest(provider: str, symbol: str) -> None:
    tape = Tape(1)
    names = [f"{symbol.lower()}@{what}" for what in ("ticker", "miniTicker", "bookTicker")]
    seen = list(events(session(provider, *names, tape=tape), NOW_MS + 3_000))
    assert len(seen) > 6
    for event in seen:
        at_ms = event["E"] if "E" in event else event["u"] * 1000
        view = View(provider, tape, at_ms, 0)
        endpoint, fields = {
            "24hrTicker": (day_tickers, {"c": "lastPrice", "v": "volume", "h": "highPrice", "n": "count"}),
            "24hrMiniTicker": (day_tickers, {"c": "lastPrice", "v": "volume", "o": "openPrice"}),
        }.get(event.get("e"), (book_tickers, {"b": "bidPrice", "a": "askPrice", "B": "bidQty", "A": "askQty"}))
        row = json.loads(endpoint(view, {"symbol": symbol}))
        row = row[0] if isinstance(row, list) else row
        assert {short: event[short] for short in fields} == {short: row[name] for short, name in fields.items()}


def keys(value: Any) -> Any:
    """Keys and types of a frame, so that two can be compared."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return type(value)


@pytest.mark.parametrize(
    ("file", "line", "provider", "name", "group"),
    [
        ("binance_spot/ws_combined_kline_slfusdt_open.json", 0, "binance", "btcusdt@kline_1m", ""),
        ("binance_spot/ws_tr_session_minute_close_four_symbols.jsonl", 1, "binance", "btcusdt@kline_1m", ""),
        ("binance_spot/ws_raw_ticker_24hr_bnbusdt_2024.json", 0, "binance", "btcusdt@ticker", ""),
        ("binance_spot/ws_combined_mini_ticker_two_symbols.jsonl", 0, "binance", "btcusdt@miniTicker", ""),
        ("binance_spot/ws_raw_book_ticker_btcusdt_2026.json", 0, "binance", "btcusdt@bookTicker", ""),
        ("binance_us/ws_book_ticker_ethusd.json", 0, "binance-us", "btcusdt@bookTicker", ""),
        (CM_SESSION, 1, "binance-cm", "btcusd_perp@bookTicker", ""),
        (CM_SESSION, 3, "binance-cm", "btcusd_perp@kline_1m", ""),
        (CM_SESSION, 3, "binance-um", "btcusdt@kline_1m", "market"),
    ],
)  # fmt: skip
def test_events_have_the_keys_and_types_of_recorded_ones(
    shared: Path, file: str, line: int, provider: str, name: str, group: str
) -> None:
    recorded = json.loads((shared / "recorded" / "live" / file).read_text(encoding="utf-8").splitlines()[line])
    event = next(iter(events(session(provider, name, group=group), NOW_MS + 5_000)))
    assert keys(event) == keys(recorded.get("data", recorded))


def test_a_kline_without_trades_closes_flat_with_trade_ids_of_minus_one() -> None:
    now_ms = utc_ms("2019-08-01T03:00")
    one = session("binance", "ethbtc@kline_1s", now_ms=now_ms)
    closings = [event["k"] for event in events(one, now_ms + 60_000, since_ms=now_ms) if event["k"]["x"]]
    silent = [kline for kline in closings if kline["n"] == 0]
    assert silent
    for kline in silent:
        assert (kline["f"], kline["L"], float(kline["v"])) == (-1, -1, 0.0)
        assert kline["o"] == kline["h"] == kline["l"] == kline["c"]


def test_after_a_jump_of_the_clock_every_closing_comes_and_one_update() -> None:
    one = session("binance", "btcusdt@kline_1m")
    seen = [json.loads(message.payload) for message in one.due(NOW_MS + HOUR) if message.opcode == TEXT]
    assert [event["k"]["x"] for event in seen] == [True] * 60 + [False]
    assert [event["k"]["t"] for event in seen] == [NOW_MS // MINUTE * MINUTE + MINUTE * n for n in range(61)]


@pytest.mark.slow
def test_a_day_of_minutes_has_each_closing_once_and_then_the_connection_ends(clock: Clock) -> None:
    one = session("binance", "btcusdt@kline_1m")
    seen = list(events(one, NOW_MS + DAY - 1, step_ms=240_000))
    closed = [event["k"] for event in seen if event["k"]["x"]]
    first, last = NOW_MS // MINUTE * MINUTE, closed[-1]["t"]
    assert NOW_MS + DAY - last < 6 * MINUTE
    clock.ms = NOW_MS + DAY
    truth = PracticeExchange(clock=clock, outages=()).truth("binance", "BTCUSDT", "1m", first, last + 1)
    assert [kline["t"] for kline in closed] == truth["open_time"].tolist()
    assert [float(kline["c"]) for kline in closed] == truth["close"].tolist()
    assert one.due(NOW_MS + DAY) == (WireMessage(CLOSE, b""),)


def test_hidden_and_restated_candles_are_so_in_streams() -> None:
    tape = Tape(1)
    first = NOW_MS // MINUTE * MINUTE
    tape.hide("binance", "BTCUSDT", (first + MINUTE, first + 2 * MINUTE))
    listing = tape.find("binance", "BTCUSDT")
    assert listing is not None
    series = tape.series("binance", listing, "1m", "candles")
    series.restate(first + 2 * MINUTE, {"close": "1.00000000"})
    one = session("binance", "btcusdt@kline_1m", tape=tape)
    closed = [event["k"] for event in events(one, first + 4 * MINUTE) if event["k"]["x"]]
    assert [kline["t"] - first for kline in closed] == [0, 2 * MINUTE]
    assert closed[1]["c"] == "1.00000000"


# Messages of the client


def test_requests_and_refusals_are_answered_as_recorded(exchange: PracticeExchange, shared: Path) -> None:
    folder = shared / "recorded" / "live" / "binance_spot"
    with StreamClient(exchange.stream_urls["binance"] + "/stream") as client:
        assert client.ask({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1}) == {"result": None, "id": 1}
        assert client.ask({"method": "SUBSCRIBE", "params": ["nosuch@kline_1m"], "id": 2}) == {"result": None, "id": 2}
        listed = {"result": ["btcusdt@kline_1m", "nosuch@kline_1m"], "id": "three"}
        assert client.ask({"method": "LIST_SUBSCRIPTIONS", "id": "three"}) == listed
        gone = client.ask({"method": "UNSUBSCRIBE", "params": ["nosuch@kline_1m"], "id": 4})
        assert gone == {"result": None, "id": 4}
        assert list(exchange.streams.subscribed.values()) == [("btcusdt@kline_1m",)]
    with StreamClient(exchange.stream_urls["binance"] + "/ws") as client:
        missing = json.loads((folder / "ws_error_code2_missing_method.json").read_text())
        assert keys(client.ask({"id": 3})["error"]) == keys(missing["error"])
        assert client.ask("no json")["error"]["code"] == 3
        many = [f"s{number}@ticker" for number in range(90)]
        numbered = json.loads((folder / "ws_error_code2_request_id.json").read_text())
        assert client.ask({"method": "SUBSCRIBE", "params": many, "id": 1.5}) == numbered


def test_combined_is_a_property() -> None:
    one = session("binance", "btcusdt@ticker")
    asked = [
        ({"method": "GET_PROPERTY", "params": ["combined"], "id": 2}, {"result": False, "id": 2}),
        ({"method": "SET_PROPERTY", "params": ["combined", True], "id": 5}, {"result": None, "id": 5}),
        ({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 6}, 1),
        ({"method": "GET_PROPERTY", "params": ["colour"], "id": 7}, 0),
    ]
    for request, expected in asked:
        answer = json.loads(one.received(text(json.dumps(request)), NOW_MS)[0].payload)
        assert answer == expected or answer["error"]["code"] == expected
    assert next(iter(events(one, NOW_MS + 2_000)))["stream"] == "btcusdt@ticker"


def test_more_than_1024_streams_are_refused_and_a_long_message_is_not_answered(shared: Path) -> None:
    one = session("binance")
    recorded = json.loads(
        (shared / "recorded/live/binance_spot/ws_error_code4_too_many_subscriptions.json").read_text()
    )
    for number in range(11):
        names = [f"s{number}x{n}@ticker" for n in range(100)]
        request = text(json.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}))
        (answer,) = one.received(request, NOW_MS + number * 1_000)
        assert json.loads(answer.payload) == ({"result": None, "id": 1} if number < 10 else recorded)
    assert len(one.subscribed) == 1_000
    long = text(json.dumps({"method": "SUBSCRIBE", "params": [f"btcusdt{n}@kline_1m" for n in range(250)], "id": 1}))
    assert len(long.payload) > 4096
    assert one.received(long, NOW_MS + 20_000) == ()
    assert len(one.subscribed) == 1_000


@pytest.mark.parametrize(("provider", "allowed"), [("binance", 5), ("binance-um", 10)])
def test_too_many_messages_in_a_second_end_the_connection(provider: str, allowed: int) -> None:
    one = session(provider)
    pong = WireMessage(PONG, b"")
    assert [one.received(pong, NOW_MS + 1_000 * n // allowed) for n in range(4 * allowed)] == [()] * 4 * allowed
    assert one.received(pong, NOW_MS + 3_999) == (WireMessage(CLOSE, b""),)


def test_usd_m_has_klines_on_market_and_best_prices_on_public_and_is_silent_elsewhere() -> None:
    names = ("btcusdt@kline_1m", "btcusdt@ticker", "btcusdt@bookTicker")
    said = {
        group: {event["e"] for event in events(session("binance-um", *names, group=group), NOW_MS + 4_000)}
        for group in ("market", "public", "")
    }
    assert said == {"market": {"kline", "24hrTicker"}, "public": {"bookTicker"}, "": {"bookTicker"}}


# The life of a connection


def test_pings_carry_the_time_and_a_missing_pong_ends_the_connection() -> None:
    one = session("binance")
    assert [one.due(NOW_MS + ms) for ms in (0, 19_999)] == [[], []]
    (ping,) = one.due(NOW_MS + 20_000)
    assert ping == WireMessage(PING, str(NOW_MS + 20_000).encode())
    one.received(WireMessage(PONG, ping.payload), NOW_MS + 20_100)
    assert [len(one.due(NOW_MS + ms)) for ms in (40_000, 60_000, 80_000, 99_999)] == [1, 1, 1, 0]
    assert one.due(NOW_MS + 100_000) == (WireMessage(CLOSE, b""),)  # 60 s after the ping at 40 s


def test_an_address_opens_300_connections_in_five_minutes_then_gets_429() -> None:
    streams = BinanceStreams("binance", Tape(1))
    opened = [streams.open("/ws", (), {}, NOW_MS) for _ in range(301)]
    assert isinstance(opened[299], BinanceSession)
    assert opened[300].status == 429  # type: ignore[union-attr]


def test_the_first_frames_are_in_one_piece_with_the_handshake(exchange: PracticeExchange, clock: Clock) -> None:
    scripted = Scripted("/hasty", ["first"], [(5, "later"), (6, close(1012))], lambda said: [said[::-1]])
    exchange.streams.play(scripted)
    with StreamClient(exchange.url.replace("http", "ws") + "/hasty") as client:
        assert client.first.endswith(b"\x81\x05first")
        assert client.frame().payload == b"first"  # type: ignore[union-attr]
        client.send("abc")
        assert client.frame().payload == b"cba"  # type: ignore[union-attr]
        client.send(b"are you there?", PING)
        assert client.frame() == (True, PONG, b"are you there?")
        steps(clock, 5)
        assert client.frame() == (True, TEXT, b"later")
        client.send(b"\x03\xe8", CLOSE)
        assert client.frame() == (True, CLOSE, b"\x03\xe8")
        assert client.frame() is None
    with StreamClient(exchange.url.replace("http", "ws") + "/hasty") as client:
        steps(clock, 6)
        assert [client.frame() for _ in range(4)] == [
            (True, TEXT, b"first"), (True, TEXT, b"later"), (True, CLOSE, b"\x03\xf4"), None,
        ]  # fmt: skip
    assert [one.opcode for one in exchange.streams.messages] == [TEXT, PING, CLOSE]
    assert scripted.said == ["abc"]


@pytest.mark.parametrize(
    "data",
    [b"\x81\x05hello", b"\xc1\x80\x00\x00\x00\x00", b"\x83\x80\x00\x00\x00\x00", b"\x80\x80\x00\x00\x00\x00",
     b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"x" * 126],
)  # fmt: skip
def test_a_client_that_breaks_the_protocol_is_closed_with_1002(exchange: PracticeExchange, data: bytes) -> None:
    with StreamClient(exchange.stream_urls["binance"] + "/ws") as client:
        client.send_raw(data)
        closing = client.frame()
        assert closing is not None
        assert (closing.opcode, closing.payload[:2]) == (CLOSE, b"\x03\xea")
        assert client.frame() is None


def test_fragments_of_a_client_are_joined(exchange: PracticeExchange) -> None:
    with StreamClient(exchange.stream_urls["binance"] + "/ws") as client:
        request = b'{"method":"LIST_SUBSCRIPTIONS","id":3}'
        for number, part in enumerate((request[:10], request[10:20], request[20:])):
            first = (0x80 if number == 2 else 0) | (1 if number == 0 else 0)
            client.send_raw(bytes([first, 0x80 | len(part)]) + b"\0\0\0\0" + part)
        assert client.json() == {"result": [], "id": 3}


# Faults


def steps(clock: Clock, seconds: int = 1) -> None:
    clock.ms += seconds * 1_000


def connected(exchange: PracticeExchange, clock: Clock) -> StreamClient:
    """A client that has had its first event, of a second before the clock's."""
    client = StreamClient(exchange.stream_urls["binance"] + "/ws/btcusdt@kline_1s")
    assert client.ask({"method": "LIST_SUBSCRIPTIONS", "id": 1})["result"] == ["btcusdt@kline_1s"]
    steps(clock)
    assert client.json()["k"]["x"]
    assert not client.json()["k"]["x"]
    return client


def test_a_drop_is_a_close_frame_with_its_code_or_none_at_all(exchange: PracticeExchange, clock: Clock) -> None:
    for code in (1000, 1012, None):
        exchange.streams.fail(stream_faults.drop(code, "bye"), match='"x":true', after=1)
        with connected(exchange, clock) as client:
            steps(clock)
            if code is not None:
                assert client.frame() == (True, CLOSE, code.to_bytes(2, "big") + b"bye")
            assert client.frame() is None
    exchange.streams.fail(stream_faults.reset(), match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock)
        assert client.frame() is None
    with connected(exchange, clock) as client:
        assert exchange.streams.end_all(1001) == 1
        assert client.frame() == (True, CLOSE, b"\x03\xe9")


def test_a_stall_is_silent_and_silence_still_pings(exchange: PracticeExchange, clock: Clock) -> None:
    exchange.streams.fail(stream_faults.silence(), match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock, 19)
        ping = client.frame()
        assert ping is not None
        assert ping.opcode == PING
        client.send(ping.payload, PONG)
        assert client.ask({"method": "LIST_SUBSCRIPTIONS", "id": 1})["id"] == 1
    stalled = exchange.streams.fail(stream_faults.stall(), match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock, 40)
        while not stalled.hits:
            time.sleep(0.002)
        client.send(b"", PING)
        assert client.is_quiet(0.1)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (stream_faults.leave_out(), ([False], [True, False])),
        (stream_faults.double(3), ([True, True, True, False], [True, False])),
        (stream_faults.delay(2), ([False], [True, True, False])),
        (stream_faults.fragmented(4), ([True, False], [True, False])),
        (stream_faults.insert("{}"), ([None, True, False], [True, False])),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_frames_are_left_out_doubled_delayed_and_split(
    exchange: PracticeExchange,
    clock: Clock,
    action: stream_faults.StreamAction,
    expected: tuple[list[bool | None], list[bool | None]],
) -> None:
    exchange.streams.fail(action, match='"x":true', after=1)
    with connected(exchange, clock) as client:
        for after_a_second in expected:
            steps(clock)
            assert [whole(client).get("k", {}).get("x") for _ in after_a_second] == after_a_second


def whole(client: StreamClient) -> Any:
    """The next message, its fragments joined."""
    said = b""
    while (got := client.frame()) is not None:
        said += got.payload
        if got.is_last:
            return json.loads(said)
    raise AssertionError("the server closed the connection")


def test_a_lie_changes_the_numbers_of_a_closing_alone(exchange: PracticeExchange, clock: Clock) -> None:
    exchange.streams.fail(stream_faults.lie(k={"c": "1.5"}), match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock)
        closing = client.json()["k"]
        truth = exchange.truth("binance", "BTCUSDT", "1s", closing["t"], closing["t"] + 1)
        assert closing["c"] == "1.5"
        assert float(closing["h"]) == truth["high"][0]
        assert truth["close"][0] > 10_000


@pytest.mark.parametrize(
    ("action", "starts"),
    [
        (stream_faults.half_frame(), b"\x81\x7e"),
        (stream_faults.invalid_utf8(), b"\x81\x0b{"),
        (stream_faults.huge(70_000), b"\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x70"),
        (stream_faults.garbage(), b"\xf3\x7f\xff"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_frames_are_cut_and_broken(
    exchange: PracticeExchange, clock: Clock, action: stream_faults.StreamAction, starts: bytes
) -> None:
    exchange.streams.fail(action, match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock)
        assert client._read(len(starts)) == starts


def test_a_shutdown_is_announced_and_ends_the_connection_later(exchange: PracticeExchange, clock: Clock) -> None:
    exchange.streams.fail(stream_faults.shutdown_notice(10), match='"x":true', after=1)
    with connected(exchange, clock) as client:
        steps(clock)
        notice = client.json()
        assert notice == {"e": "serverShutdown", "E": clock.ms // 1000 * 1000 + 4}
        assert client.json()["k"]["x"]
        steps(clock, 11)
        while (got := client.frame()) is not None:
            assert got.opcode in (TEXT, PING)


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_handshake_is_refused_by_the_faults_of_http(exchange: PracticeExchange, status: int) -> None:
    exchange.fail(faults.status(status, headers=(("Retry-After", "7"),)), match="/ws")
    with pytest.raises(Refused, match="Retry-After: 7") as refused:
        StreamClient(exchange.stream_urls["binance"] + "/ws")
    assert refused.value.status == status
    exchange.fail(faults.redirect("http://127.0.0.1:9/ws"), match="/ws")
    with pytest.raises(Refused, match=r"Location: http://127\.0\.0\.1:9/ws"):
        StreamClient(exchange.stream_urls["binance"] + "/ws")
    StreamClient(exchange.stream_urls["binance"] + "/ws").__exit__()
    assert [(one.status, one.market) for one in exchange.requests] == [
        (None, "binance-stream"), (None, "binance-stream"), (101, "binance-stream"),
    ]  # fmt: skip


def test_a_request_that_is_no_handshake_is_refused(exchange: PracticeExchange) -> None:
    host, port = exchange.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    for key in ("", "short", "!!"):
        connection.request("GET", "/ws", headers={**upgrade, "Sec-WebSocket-Key": key})
        reply = connection.getresponse()
        assert (reply.status, b"handshake" in reply.read()) == (400, True)
    connection.close()


def test_closing_the_exchange_ends_its_streams(clock: Clock) -> None:
    with PracticeExchange(clock=clock) as exchange:
        client = StreamClient(exchange.stream_urls["binance"] + "/ws/btcusdt@kline_1s")
    began = time.monotonic()
    with client:
        assert client.frame() is None
    assert time.monotonic() - began < 5


def test_an_exchange_without_a_log_keeps_no_messages(clock: Clock) -> None:
    with (
        PracticeExchange(clock=clock, log=False) as exchange,
        StreamClient(exchange.stream_urls["binance"] + "/ws") as client,
    ):
        assert client.ask({"method": "LIST_SUBSCRIPTIONS", "id": 1}) == {"result": [], "id": 1}
        assert exchange.streams.messages == []


# Other implementations


@pytest.mark.slow
def test_other_clients_understand_the_server(exchange: PracticeExchange, clock: Clock) -> None:
    url = exchange.stream_urls["binance"] + "/stream?streams=btcusdt@kline_1s"
    clients: list[tuple[Callable[[str], Any], Callable[[Any], str]]] = []
    try:
        import websocket

        clients.append((lambda url: websocket.create_connection(url, http_no_proxy=["*"]), lambda one: one.recv()))
    except ImportError:
        pass
    try:
        from websockets.sync.client import connect

        def by_websockets(url: str) -> Any:
            host, port = exchange.url.removeprefix("http://").split(":")
            return connect(url, sock=socket.create_connection((host, int(port))), proxy=None)

        clients.append((by_websockets, lambda one: one.recv()))
    except ImportError:
        pass
    if not clients:
        pytest.skip("neither websocket-client nor websockets is installed")
    for open_, receive in clients:
        exchange.streams.fail(stream_faults.fragmented(3), match='"x":true')
        one = open_(url)
        one.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert json.loads(receive(one)) == {"result": ["btcusdt@kline_1s"], "id": 1}
        clock.ms += 1_000
        assert json.loads(receive(one))["data"]["k"]["x"] is True
        assert json.loads(receive(one))["data"]["k"]["x"] is False
        one.close()
