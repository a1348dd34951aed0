"""The streams of Kraken and Alpaca at the practice exchange: against recorded frames, its REST, and measured rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stream_client import CLOSE, PING, PONG, TEXT, StreamClient

from candle_fetcher.practice import PracticeExchange
from candle_fetcher.practice.alpaca import KEY_ID, SECRET_KEY
from candle_fetcher.practice.alpaca_streams import AlpacaSession
from candle_fetcher.practice.kraken_streams import KrakenSession, KrakenStreams
from candle_fetcher.practice.listings import utc_ms
from candle_fetcher.practice.websocket import WireMessage, text

NOW_MS = utc_ms("2026-07-01T15:11:12.345")  # a Wednesday, and New York trades
MINUTE = 60_000
OHLC = ("open", "high", "low", "close", "volume", "trades")
LOGIN = {"action": "auth", "key": KEY_ID, "secret": SECRET_KEY}


class Clock:
    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms / 1000


class Played:
    """A session of the exchange without a socket, and the frames that it sends while the clock moves."""

    def __init__(self, provider: str, path: str, headers: dict[str, str] | None = None, now_ms: int = NOW_MS) -> None:
        self.clock = Clock(now_ms)
        self.exchange = PracticeExchange(clock=self.clock, outages=())
        self.dialect = self.exchange.streams.find(path)
        assert self.dialect is not None
        assert self.dialect.name == provider
        self.path = path
        self.session: Any = self.dialect.open(path, (), headers or {}, now_ms)
        self.first = self.read(self.session.opened(now_ms))

    def read(self, messages: Any) -> list[Any]:
        return [json.loads(message.payload) for message in messages if message.opcode == TEXT]

    def say(self, *requests: Any) -> list[Any]:
        return [
            answer
            for request in requests
            for answer in self.read(self.session.received(text(json.dumps(request)), self.clock.ms))
        ]

    def play(self, until_ms: int, step_ms: int = 1_000) -> list[Any]:
        """What is sent until the instant; pings are answered."""
        said = []
        while self.clock.ms < until_ms:
            self.clock.ms = min(until_ms, self.clock.ms + step_ms)
            for message in self.session.due(self.clock.ms):
                if message.opcode == PING:
                    self.session.received(WireMessage(PONG, message.payload), self.clock.ms)
                said += self.read([message])
        return said


def kraken(*requests: Any, now_ms: int = NOW_MS) -> tuple[Played, list[Any]]:
    played = Played("kraken", "/kraken/v2", now_ms=now_ms)
    return played, played.say(*requests)


def asked(channel: str, *symbols: str, **more: Any) -> dict[str, Any]:
    return {"method": "subscribe", "params": {"channel": channel, "symbol": list(symbols), **more}, "req_id": 5}


def keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else type(value)


def recorded(shared: Path, name: str, line: int = 0) -> Any:
    return json.loads((shared / "recorded" / "live" / name).read_text(encoding="utf-8").splitlines()[line])


# Kraken


def test_frames_of_kraken_have_the_keys_and_types_of_recorded_ones(shared: Path) -> None:
    played, answers = kraken(
        asked("ohlc", "BTC/USD", interval=1), asked("ticker", "BTC/USD"), {"method": "ping", "req_id": 1}
    )
    session = "kraken/ws2_session_ohlc_btcusd_minute_rollover.jsonl"
    assert keys(played.first[0]) == keys(recorded(shared, session))
    numbered = keys({**recorded(shared, session, 1), "req_id": 5})
    assert keys(answers[0]) == numbered
    assert keys(answers[1]) == keys(recorded(shared, session, 2))
    assert keys(answers[3]["data"][0]) == keys(recorded(shared, "kraken/ws2_ticker_update_btcusd.json")["data"][0])
    assert keys(answers[4]) == keys(recorded(shared, "kraken/ws2_pong_2024.json"))
    said = played.play(NOW_MS + 10_000)
    assert {"channel": "heartbeat"} in said
    update = next(one for one in said if one["channel"] == "ohlc")
    assert keys(update) == keys(recorded(shared, "kraken/ws2_ohlc_update_btcusd_1m.json"))
    (refused,) = played.say({"method": "subscribe", "params": {"channel": "ticker", "symbol": ["XBT/USD"]}})
    error = recorded(shared, "kraken/ws2_error_pair_not_supported.json")
    assert (keys(refused), refused["error"]) == (keys(error), error["error"])
    (private,) = played.say({"method": "subscribe", "params": {"channel": "executions"}})
    error = recorded(shared, "kraken/ws2_error_private_on_public_host.json")
    assert (keys(private), private["error"]) == (keys(error), error["error"])


@pytest.mark.slow
def test_candles_of_kraken_are_those_of_rest_at_their_instants_and_silent_minutes_have_none() -> None:
    start_ms = NOW_MS + 54 * MINUTE  # a minute without trades is near
    played, answers = kraken(asked("ohlc", "BTC/USDT", interval=1), now_ms=start_ms)
    snapshot = answers[1]["data"]
    assert 0 < len(snapshot) <= 12
    said = [one for one in played.play(start_ms + 4 * MINUTE) if one["channel"] == "ohlc"]
    items = [(utc_ms(one["timestamp"][:23]), item) for one in said for item in one["data"]]
    begins = [utc_ms(item["interval_begin"][:19]) for _, item in items]
    assert begins == sorted(begins)
    # What was sent last of each minute is the whole minute.
    last = {begin: item for begin, (_, item) in zip(begins, items, strict=True)}
    played.clock.ms = start_ms + 5 * MINUTE
    truth = played.exchange.truth("kraken", "XBTUSDT", "1m", min(begins), max(begins))
    silent = [opened for opened, trades in zip(truth["open_time"], truth["trades"], strict=True) if not trades]
    assert silent
    assert not set(silent) & set(begins)
    for at, opened in enumerate(truth["open_time"].tolist()):
        if truth["trades"][at]:
            assert [last[opened][name] for name in OHLC] == [float(truth[name][at]) for name in OHLC]
    for at_ms, item in items[:10]:
        played.clock.ms = at_ms
        begin = utc_ms(item["interval_begin"][:19])
        now = played.exchange.truth("kraken", "XBTUSDT", "1m", begin, begin + 1)
        assert [item[name] for name in OHLC] == [float(now[name][0]) for name in OHLC]


def test_numbers_of_kraken_keep_their_decimals() -> None:
    _, answers = kraken(asked("ticker", "BTC/USD"))
    played = Played("kraken", "/kraken/v2")
    frames = played.session.received(text(json.dumps(asked("ticker", "BTC/USD"))), NOW_MS)
    assert b'"bid_qty":2.00000000,' in frames[1].payload
    assert answers[1]["type"] == "snapshot"


def test_a_refused_pair_of_kraken_leaves_the_others_and_nothing_alone_ends_after_a_minute() -> None:
    played, answers = kraken(asked("ohlc", "BTC/USD", "btc/usd", "XBTUSD", interval=5))
    assert [one.get("error") for one in answers if "method" in one] == [
        None, "Currency pair not supported btc/usd", "Currency pair not in ISO 4217-A3 format XBTUSD",
    ]  # fmt: skip
    assert played.session.subscribed == ["ohlc 5 BTC/USD"]
    (gone,) = played.say({"method": "unsubscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 5}})
    assert gone["success"] is True
    assert played.play(NOW_MS + 59_000) == []
    assert played.session.due(NOW_MS + 60_000) == (WireMessage(CLOSE, b""),)


def test_a_burst_of_messages_to_kraken_loses_those_beyond_ten_in_a_second() -> None:
    _, answers = kraken(*[asked("ticker", "ETH/USD", snapshot=False) for _ in range(12)])
    assert [one.get("error") for one in answers] == [None] * 10 + ["Exceeded msg rate"] * 2


def test_kraken_bans_an_address_after_150_connections_for_ten_minutes() -> None:
    exchange = PracticeExchange(clock=Clock())
    streams = exchange.streams.find("/kraken/v2")
    assert isinstance(streams, KrakenStreams)
    opened = [streams.open("/kraken/v2", (), {}, NOW_MS + n) for n in range(152)]
    assert [isinstance(one, KrakenSession) for one in opened] == [True] * 150 + [False] * 2
    assert opened[150].status == 429  # type: ignore[union-attr]
    assert exchange.kraken.answer("/0/public/Time", (), {}).status == 429
    assert not isinstance(streams.open("/kraken/v2", (), {}, NOW_MS + 590_000), KrakenSession)
    assert isinstance(streams.open("/kraken/v2", (), {}, NOW_MS + 1_300_000), KrakenSession)


# Alpaca


def alpaca(path: str = "/alpaca/v2/iex", *requests: Any, provider: str = "alpaca") -> tuple[Played, list[Any]]:
    played = Played(provider, path)
    return played, [one for answer in played.say(*requests) for one in answer]


def test_a_session_of_alpaca_is_as_recorded(shared: Path) -> None:
    played, answers = alpaca("/alpaca/v2/iex", LOGIN, {"action": "subscribe", "bars": ["AAPL", "NVDA", "SPY"]})
    file = "alpaca/ws_iex_handshake_subscribe_unsubscribe_2026.jsonl"
    assert [*played.first, *([one] for one in answers)] == [recorded(shared, file, line) for line in range(3)]
    assert played.say({"action": "unsubscribe", "bars": ["SPY", "AAPL", "NVDA"]}) == [recorded(shared, file, 3)]
    bad = "alpaca/ws_iex_bad_requests_2026.jsonl"
    said = [{"action": "subscribe", "bars": ["ZZQQTESTX"]}, {"action": "subscribe", "bars": ["RIVN"]}]
    answers = played.say(*said, {"action": "subscribe", "bars": []}, {"action": "dance"}, said[0])
    assert answers[0] == recorded(shared, bad, 0)
    assert answers[2] == answers[3] == recorded(shared, bad, 2)
    assert sorted(answers[4][0]["bars"]) == sorted(recorded(shared, bad, 3)[0]["bars"])


def test_a_login_is_by_message_or_headers_and_a_wrong_one_leaves_the_connection_open(shared: Path) -> None:
    _, answers = alpaca(
        "/alpaca/v2/iex", {**LOGIN, "secret": "wrong"}, {"action": "subscribe", "bars": ["AAPL"]}, LOGIN, LOGIN
    )
    assert answers[0] == recorded(shared, "alpaca/ws_auth_failed_2026.jsonl", 1)[0]
    assert [one.get("code", one.get("msg")) for one in answers[1:]] == [401, "authenticated", 403]
    headers = {"apca-api-key-id": KEY_ID, "apca-api-secret-key": SECRET_KEY}
    assert [one[0]["msg"] for one in Played("alpaca", "/alpaca/v2/iex", headers).first] == [
        "connected",
        "authenticated",
    ]
    late, _ = alpaca()
    (timeout, end) = late.session.due(NOW_MS + 10_000)
    assert (json.loads(timeout.payload)[0]["code"], end) == (404, WireMessage(CLOSE, b""))


def test_a_second_connection_of_alpaca_is_refused_and_a_free_key_gets_no_sip() -> None:
    played, _ = alpaca("/alpaca/v2/iex", LOGIN)
    assert played.dialect is not None
    second = played.dialect.open(played.path, (), {}, NOW_MS)
    assert isinstance(second, AlpacaSession)
    answers = played.read(second.received(text(json.dumps(LOGIN)), NOW_MS))
    assert answers == [[{"T": "error", "code": 406, "msg": "connection limit exceeded"}]]
    assert second.due(NOW_MS + 9_999) == []
    assert second.due(NOW_MS + 10_000) == (WireMessage(CLOSE, b""),)
    second.ended()
    played.session.ended()
    third = played.dialect.open(played.path, (), {}, NOW_MS)
    assert isinstance(third, AlpacaSession)
    assert played.read(third.received(text(json.dumps(LOGIN)), NOW_MS))[0][0]["msg"] == "authenticated"
    sip, _ = alpaca("/alpaca/v2/sip")
    sip.exchange.alpaca.is_free = True
    assert sip.say(LOGIN)[0][0]["code"] == 409


def test_more_than_30_symbols_of_quotes_are_refused_and_bars_are_not_counted() -> None:
    names = [f"S{number}" for number in range(31)]
    _, answers = alpaca(
        "/alpaca/v2/iex", LOGIN, {"action": "subscribe", "quotes": names}, {"action": "subscribe", "bars": names}
    )
    assert answers[1]["code"] == 405
    assert answers[2] == {"T": "subscription", "bars": names}


def test_bars_of_alpaca_are_those_of_rest_and_silent_minutes_of_stocks_have_none() -> None:
    played, _ = alpaca(
        "/alpaca/v2/sip", LOGIN, {"action": "subscribe", "bars": ["AAPL", "GENC"], "dailyBars": ["AAPL"]}
    )
    said = [one for frame in played.play(NOW_MS + 5 * MINUTE, step_ms=5_000) for one in frame]
    first = NOW_MS // MINUTE * MINUTE
    for symbol in ("AAPL", "GENC"):
        bars = [one for one in said if one["T"] == "b" and one["S"] == symbol]
        truth = played.exchange.truth("alpaca", symbol, "1m", first, first + 5 * MINUTE)
        assert [utc_ms(bar["t"][:-1]) for bar in bars] == truth["open_time"].tolist()
        assert [bar["c"] for bar in bars] == truth["close"].tolist()
        assert [bar["v"] for bar in bars] == truth["volume"].tolist()
        assert len(bars) < 5 or symbol == "AAPL"
    days = [one for one in said if one["T"] == "d"]
    assert len(days) == 5
    assert [day["v"] for day in days] == sorted(day["v"] for day in days)


@pytest.mark.slow
def test_a_bar_that_has_changed_comes_again_half_a_minute_later() -> None:
    symbols = ["AAPL", "SPY"]
    played, _ = alpaca("/alpaca/v2/sip", LOGIN, {"action": "subscribe", "bars": symbols, "updatedBars": symbols})
    first = NOW_MS // MINUTE * MINUTE
    said = [one for frame in played.play(first + MINUTE + 1_000, step_ms=100) for one in frame]
    assert [(one["T"], one["S"]) for one in said] == [("b", "AAPL"), ("b", "SPY")]
    listing = played.exchange.alpaca.listing("AAPL")
    tape: Any = played.exchange._tape
    tape.series("alpaca", listing, "1m", "candles").restate(first, {"close": "1.0000"})
    late = [one for frame in played.play(first + 2 * MINUTE, step_ms=100) for one in frame]
    assert [(one["T"], one["S"], one["c"], one["t"]) for one in late] == [
        ("u", "AAPL", 1.0, f"{np.datetime64(first // 1000, 's')}Z")
    ]


@pytest.mark.slow
def test_a_pair_has_a_bar_for_each_minute_and_quotes_follow_the_running_minute() -> None:
    path = "/alpaca/v1beta3/crypto/us"
    pair = ["ETH/BTC"]
    subscribe = {"action": "subscribe", "bars": pair, "trades": pair, "quotes": pair}
    played, _ = alpaca(path, LOGIN, subscribe, provider="alpaca-crypto")
    said = [one for frame in played.play(NOW_MS + 5 * MINUTE, step_ms=5_000) for one in frame]
    bars = [one for one in said if one["T"] == "b"]
    assert len(bars) == 5
    assert any(bar["n"] == 0 for bar in bars)
    quotes = [one for one in said if one["T"] == "q"]
    assert all(one["bp"] < one["ap"] for one in quotes)
    prices = {one["t"]: one["bp"] for one in quotes}
    trades = [one for one in said if one["T"] == "t"]
    assert all(prices.get(one["t"], one["p"]) == one["p"] for one in trades)
    assert quotes
    assert len(prices) == len(quotes)


def test_alpaca_pings_every_54_seconds_and_ends_six_seconds_after_a_missing_pong() -> None:
    played, _ = alpaca("/alpaca/v2/iex", LOGIN)
    assert played.session.due(NOW_MS + 53_999) == []
    assert played.session.due(NOW_MS + 54_000) == [WireMessage(PING, b"")]
    assert played.session.due(NOW_MS + 59_999) == []
    assert played.session.due(NOW_MS + 60_000) == (WireMessage(CLOSE, b""),)


def test_both_are_served_on_the_port_of_the_exchange() -> None:
    clock = Clock()
    with PracticeExchange(clock=clock) as exchange:
        with StreamClient(exchange.stream_urls["kraken"] + "/v2") as client:
            assert client.json()["channel"] == "status"
        with StreamClient(exchange.stream_urls["alpaca"] + "/v2/iex") as client:
            assert client.json() == [{"T": "success", "msg": "connected"}]
            client.send(LOGIN)
            assert client.json()[0]["msg"] == "authenticated"
        url = exchange.stream_urls["alpaca-crypto"] + "/v1beta3/crypto/us"
        with StreamClient(url) as client:
            assert client.json() == [{"T": "success", "msg": "connected"}]


def test_quotes_of_alpaca_are_those_of_a_snapshot_at_the_same_instant() -> None:
    played, _ = alpaca("/alpaca/v2/sip", LOGIN, {"action": "subscribe", "quotes": ["AAPL"]})
    (quote,) = [frame for frame in played.play(NOW_MS + 5_000) if frame[0]["T"] == "q"][-1]
    keys_of = {"apca-api-key-id": KEY_ID, "apca-api-secret-key": SECRET_KEY}
    reply = played.exchange.alpaca.answer("/v2/stocks/snapshots", [("symbols", "AAPL"), ("feed", "sip")], keys_of)
    latest = json.loads(reply.body)["AAPL"]["latestQuote"]
    assert (quote["bp"], quote["ap"]) == (latest["bp"], latest["ap"])
