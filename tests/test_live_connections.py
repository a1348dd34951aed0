"""Pains of stream connections, as others have had them: each test says what must not happen again.

Connections are those of tests/line_play.py: sessions of the practice exchange without sockets; tests set the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from line_play import LinePlay, klines, refused
from live_world import LiveWorld

from candle_fetcher import AccessDenied, UnknownSymbol
from candle_fetcher.core.call import Reply
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.live import CandleUpdate
from candle_fetcher.live.link import Link, Send
from candle_fetcher.net.stream import HandshakeRefused
from candle_fetcher.providers import Subscription, find_provider

BINANCE = find_provider("binance").streams
assert BINANCE is not None
KEYS = Keys(
    headers=(("APCA-API-KEY-ID", "PKPRACTICE0EXCHANGE7"), ("APCA-API-SECRET-KEY", "practice/secret+of+no+worth=="))
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LiveWorld]:
    with LiveWorld(tmp_path, now="2024-06-14T15:00:30", outages=()) as world:
        yield world


def channels_of(*symbols: str) -> list[Any]:
    assert BINANCE is not None
    return [channel for one in klines(*symbols) for channel in BINANCE.channels(one)]


def subscribed(world: LiveWorld) -> list[list[str]]:
    """What the exchange's open sessions have, oldest first."""
    return [list(conn._session.subscribed) for conn in world.network.conns if not conn.is_closed and not conn.is_lost]


# Messages


def test_four_hundred_symbols_go_in_messages_that_the_provider_reads_and_no_faster_than_it_allows(
    world: LiveWorld,
) -> None:
    """A SUBSCRIBE above 4,096 bytes was ignored without an answer (Binance.Net, issues 1180 and 835)."""
    play = LinePlay(world, "binance", klines(*(f"COIN{number}USDT" for number in range(400))), most_channels=1000)
    play.run(60)
    (conn,) = world.network.conns
    sizes = [len(text.encode()) for text in conn.sent]
    assert len(sizes) > 2
    assert max(sizes) <= 4_000
    assert len(set(conn._session.subscribed)) == 400
    assert len(play.world.network.attempts) == 1  # more than five messages in a second would have ended it


def test_a_message_without_an_answer_is_sent_again_in_halves() -> None:
    assert BINANCE is not None
    link = Link(BINANCE, channels_of(*(f"COIN{number}USDT" for number in range(8))), 0.0)
    (first,) = link.tick(0.0)
    assert isinstance(first, Send)
    asked = [len(json.loads(first.text)["params"])]
    for now_s in range(1, 9):
        asked += [len(json.loads(action.text)["params"]) for action in link.tick(now_s) if isinstance(action, Send)]
    assert asked == [8, 4, 4]


def test_fifteen_hundred_streams_are_spread_over_connections_of_two_hundred_a_second_apart(world: LiveWorld) -> None:
    """More than 100 messages on a connection were refused (python-binance, issue 1559)."""
    from candle_fetcher.live.stats import LiveStats
    from candle_fetcher.live.streaming import Streaming

    play = LinePlay(world, "binance", klines("BTCUSDT"))
    (template,) = play.lines
    hearer: Any = play.seen
    streaming: Streaming[str] = Streaming(world.wires(lambda event: None), hearer, LiveStats())
    hearer.connected = hearer.disconnected = lambda *given: None
    channels = channels_of(*(f"COIN{number}USDT" for number in range(1500)))
    streaming.add(template._outlet, [(channel, channel.symbol) for channel in channels])
    play.lines = streaming.lines
    play.run(60)
    assert sorted(len(each) for each in subscribed(world)) == [100] + [200] * 7
    assert len(play.gaps_s) == 7
    assert min(play.gaps_s) >= 1.0


def test_an_answer_may_come_before_between_or_after_the_data_with_its_keys_in_any_order() -> None:
    """Clients have dispatched answers by position (nautilus_trader, issue 3382)."""
    assert BINANCE is not None
    data = json.dumps(
        {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 60_004, "s": "BTCUSDT", "k": {
            "t": 0, "T": 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "1", "c": "1", "h": "1", "l": "1",
            "v": "1", "n": 1, "x": True, "q": "1", "V": "1", "Q": "1", "B": "0"}}}
    ).encode()  # fmt: skip
    for frames in (
        [b'{"id":1,"result":null}', data],
        [data, b'{"result":null,"id":1}'],
        [data, b'{"result":null,"id":1}', data],
    ):
        link = Link(BINANCE, channels_of("BTCUSDT"), 0.0)
        link.tick(0.0)
        for frame in frames:
            for event in BINANCE.parse(frame):
                assert link.receive(event, 1.0) == []
        assert link.standing == {"btcusdt@kline_1m"}
        assert link.delivers
        assert not [action for action in link.tick(7.0) if isinstance(action, Send)]


# Refusals


def test_one_refused_pair_of_kraken_is_reported_in_its_words_and_the_others_run(world: LiveWorld) -> None:
    """Heartbeats go on, so that a refused pair looked like a quiet market."""

    said = {
        "error": "Currency pair not supported ETH/USD",
        "method": "subscribe",
        "success": False,
        "symbol": "ETH/USD",
    }

    def refuse_ether(text: bytes) -> Iterator[bytes]:
        is_ether = b'"symbol":"ETH/USD"' in text
        if not is_ether:
            yield text
        elif b'"success":true' in text:
            yield json.dumps(said).encode()

    world.network.change_answers = world.network.change = refuse_ether
    play = LinePlay(world, "kraken", klines("XBTUSD", "ETHUSD", "SOLUSD"))
    play.run(30)
    assert set(play.seen.refusals) == {"ohlc 1 ETH/USD"}
    (error,) = play.seen.refusals.values()
    assert isinstance(error, UnknownSymbol)
    assert "ETH/USD" in str(error)
    assert play.seen.topics == {"ohlc 1 BTC/USD", "ohlc 1 SOL/USD"}
    assert len(world.network.attempts) == 1


def test_one_bad_symbol_in_a_message_that_is_refused_as_a_whole_does_not_sink_the_others(world: LiveWorld) -> None:
    """One bad symbol ended the subscription of all (alpaca-py, issue 248)."""
    world.network.judge = lambda text: (
        b'{"error":{"code":2,"msg":"Invalid request: bad stream"},"id":%d}' % json.loads(text)["id"]
        if "dogeusdt" in text
        else None
    )
    play = LinePlay(world, "binance", klines("BTCUSDT", "ETHUSDT", "DOGEUSDT", "BNBUSDT"))
    play.run(30)
    assert set(play.seen.refusals) == {"dogeusdt@kline_1m"}
    assert play.seen.topics == {"btcusdt@kline_1m", "ethusdt@kline_1m", "bnbusdt@kline_1m"}
    assert len(world.network.attempts) == 1


def test_a_connection_without_any_subscription_left_is_ended_and_not_opened_again(world: LiveWorld) -> None:
    """A client reconnected every 14.8 s for a socket whose subscriptions were all refused."""
    play = LinePlay(
        world, "kraken", [Subscription("candles", "NOSUCHUSD", "1m"), Subscription("candles", "NONEEUR", "1m")]
    )
    play.run(900)
    assert len(world.network.attempts) == 1
    assert world.network.conns[0].is_closed
    assert len(play.seen.refusals) == 2
    assert all(line.is_over for line in play.lines)


def test_pairs_lost_to_the_message_rate_are_asked_for_again_after_a_pause_and_no_others(world: LiveWorld) -> None:
    """Bursts of subscriptions lost a random part at Kraken."""
    lost = {"ETH/USD", "SOL/USD"}

    def lose(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        symbol = body.get("result", {}).get("symbol")
        if symbol in lost:
            lost.discard(symbol)
            refusal = {"error": "Exceeded msg rate", "method": "subscribe", "success": False, "symbol": symbol}
            text = json.dumps(refusal).encode()
        yield text

    world.network.change_answers = lose
    play = LinePlay(world, "kraken", klines("XBTUSD", "ETHUSD", "SOLUSD", "ADAUSD"))
    play.run(4)
    (conn,) = world.network.conns
    assert len(conn.sent) == 1
    play.run(10)
    again = [json.loads(text)["params"]["symbol"] for text in conn.sent if "subscribe" in text][1:]
    assert sorted(symbol for symbols in again for symbol in symbols) == ["ETH/USD", "SOL/USD"]
    assert play.seen.refusals == {}


@pytest.mark.parametrize(("code", "says"), [(402, "key"), (409, "plan")])
def test_a_refused_key_or_plan_of_alpaca_is_said_at_once_and_not_tried_again(
    world: LiveWorld, code: int, says: str
) -> None:
    """These refusals leave the socket open and silent: clients stayed "connected" for ever."""
    if code == 409:
        world.exchange.alpaca.is_free = True
    keys = KEYS if code == 409 else Keys(headers=(("APCA-API-KEY-ID", "PKWRONG0"), ("APCA-API-SECRET-KEY", "wrong")))
    subscriptions = [Subscription("candles", "AAPL", "1m")]
    play = LinePlay(world, "alpaca", subscriptions, keys=keys)
    play.run(300)
    assert len(world.network.attempts) == 1
    assert {type(error) for error in play.seen.refusals.values()} == {AccessDenied}
    assert all(says in str(error) and str(code) in str(error) for error in play.seen.refusals.values())


def test_a_key_whose_connection_is_taken_is_tried_again_every_ten_to_thirty_seconds(world: LiveWorld) -> None:
    """A second program with the same key is refused (406) as long as the first one is there."""
    path = "/alpaca/v2/sip"
    dialect = world.exchange.streams.find(path)
    assert dialect is not None
    first: Any = dialect.open(path, (), {name.lower(): value for name, value in KEYS.headers}, world.now_ms)
    play = LinePlay(world, "alpaca", klines("AAPL"), keys=KEYS)
    play.run(200)
    assert 7 <= len(world.network.attempts) <= 20
    assert all(10 <= gap <= 31 for gap in play.gaps_s)
    assert play.seen.updates == []
    first.ended()
    play.run(150)
    assert "bars AAPL" in play.seen.topics


# Attempts


def refusing(status: int, headers: dict[str, str]) -> Any:
    return lambda now_s: HandshakeRefused("there", Reply(status, headers, b"", 0.0))


def test_refused_handshakes_grow_apart_and_retry_after_is_obeyed(world: LiveWorld) -> None:
    """A storm of reconnections got 429 for its handshakes (Lean.Brokerages.Alpaca, issue 37)."""
    world.network.refuse = refusing(429, {})
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(600)
    assert min(play.gaps_s) >= 0.75
    assert play.gaps_s[-1] >= 45
    assert len(world.network.attempts) <= 20
    world.network.attempts.clear()
    world.network.refuse = refusing(429, {"retry-after": "120"})
    play.run(800)
    assert all(gap >= 120 for gap in play.gaps_s[1:])


def test_a_firewall_is_asked_again_after_long_pauses_and_a_region_is_not(world: LiveWorld) -> None:
    """A ban of some minutes must not end the streams of a program that runs for months."""
    world.network.refuse = refusing(403, {})
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(900)
    assert len(world.network.attempts) <= 30
    assert play.seen.refusals == {}
    world.network.refuse = lambda now_s: None
    play.run(90)
    assert play.seen.topics == {"btcusdt@kline_1m"}
    world.network.attempts.clear()
    world.network.refuse = refusing(451, {})
    elsewhere = LinePlay(world, "binance", klines("ETHUSDT"))
    elsewhere.run(300)
    assert len(world.network.attempts) == 1
    assert {type(error) for error in elsewhere.seen.refusals.values()} == {AccessDenied}


def test_connections_that_are_closed_right_after_the_answer_do_not_become_a_loop(world: LiveWorld) -> None:
    """A loop at full speed bans the address at Kraken after 150 connections, for requests, too; and clients have reset
    their pauses as soon as a handshake succeeded (alpaca-py, cryptofeed)."""

    def end_after_ack(text: bytes) -> Iterator[bytes]:
        yield text
        if b'"success":true' in text:
            for conn in world.network.conns:
                conn.is_ending = True

    world.network.change_answers = end_after_ack
    play = LinePlay(world, "kraken", klines("XBTUSD", "ETHUSD"))
    other = LinePlay(world, "kraken", klines("SOLUSD"))
    other.lines[0]._outlet = play.lines[0]._outlet  # both are of one program
    play.lines += other.lines
    play.run(600)
    assert 5 <= len(world.network.attempts) <= 20
    assert play.gaps_s[-1] > 8 * play.gaps_s[1]


@pytest.mark.parametrize("refusals", [0, 2])
def test_every_subscription_is_back_after_a_drop(world: LiveWorld, refusals: int) -> None:
    """Combined streams were not restored, or only after the first try (node-binance-api 76, Binance.Net 1108)."""
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
    play = LinePlay(world, "binance", [*klines(*symbols), *klines(*symbols, timeframe="1h")])
    play.run(20)
    before = subscribed(world)
    assert len(before[0]) == 6
    world.network.drop()
    left = [refused(0.0)] * refusals
    world.network.refuse = lambda now_s: left.pop() if left else None
    play.run(30)
    assert [sorted(each) for each in subscribed(world)] == [sorted(before[0])]


def test_data_flows_within_a_minute_after_a_quarter_of_an_hour_without_a_server(world: LiveWorld) -> None:
    """After the daily outage of an exchange the stream never resumed (freqtrade, issue 10597)."""
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(60)
    world.network.drop()
    back_s = world.now_s + 900
    world.network.refuse = lambda now_s: refused(now_s) if now_s < back_s else None
    play.run(900)
    count = len(play.seen.updates)
    play.run(80)
    assert len(play.seen.updates) > count
    assert len(world.network.attempts) < 40


def test_a_connection_that_is_lost_before_its_first_message_is_sent_is_closed_and_replaced(world: LiveWorld) -> None:
    lost = [refused(0.0), refused(0.0)]

    def judge(text: str) -> bytes | None:
        if lost:
            raise lost.pop()
        return None

    world.network.judge = judge
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(20)
    assert [conn.is_closed for conn in world.network.conns] == [True, True, False]
    assert play.seen.topics == {"btcusdt@kline_1m"}
    assert len(play.seen.downs) == 2


# Silence


def test_a_connection_that_sends_nothing_from_the_beginning_is_replaced(world: LiveWorld) -> None:
    """Watchers have been armed by a first message only (cryptofeed, issue 827)."""
    world.network.is_silent = True
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(70)
    assert len(world.network.attempts) >= 2
    assert world.network.conns[0].is_closed


def test_a_planned_end_loses_no_update_since_the_old_connection_is_read_until_the_new_one_delivers(
    world: LiveWorld,
) -> None:
    """Messages sent during a reconnect were lost (unicorn-binance-websocket-api, issue 15)."""
    play = LinePlay(world, "binance", klines("BTCUSDT", timeframe="1s"), lifetime_s=120.0)
    play.run(400, step_s=0.25)
    assert len(world.network.attempts) == 4
    closed = [event.open_ms for _, event in play.seen.updates if isinstance(event, CandleUpdate) and event.is_closed]
    distinct = sorted(set(closed))
    assert distinct == list(range(distinct[0], distinct[-1] + 1, 1000))
    assert len(distinct) >= 398
    assert play.seen.downs == []


@pytest.mark.slow
def test_a_connection_is_renewed_before_the_24_hours_after_which_the_provider_ends_it(world: LiveWorld) -> None:
    play = LinePlay(world, "binance", klines("BTCUSDT", timeframe="1h"))
    began_s = world.now_s
    play.run(25 * 3600, step_s=25.0)
    assert [round((tried - began_s) / 3600, 1) for tried in world.network.attempts] == [0.0, 23.0]
    closed = [event.open_ms for _, event in play.seen.updates if isinstance(event, CandleUpdate) and event.is_closed]
    assert sorted(set(closed)) == list(range(closed[0], closed[0] + 25 * 3_600_000, 3_600_000))
    assert play.seen.downs == []


def test_a_machine_that_slept_reconnects_at_once(world: LiveWorld) -> None:
    """After a sleep the sockets are dead, and no error says so."""
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(60)
    world.network.is_silent = True
    world.now_s += 3600
    world.network.is_silent = False
    play.run(3)
    assert len(world.network.attempts) == 2
    assert play.seen.updates[-1][0] >= world.now_s - 3


def test_pongs_do_not_stand_for_data_and_a_channel_that_is_doubted_twice_brings_a_new_connection(
    world: LiveWorld,
) -> None:
    """An idle timer that pongs reset did not see a dead feed (nautilus_trader, issue 3907)."""
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(10)
    world.network.change = lambda text: ()
    play.run(100)
    assert len(world.network.attempts) == 1  # pings come: the connection is alive
    (line,) = play.lines
    line.doubt("btcusdt@kline_1m")
    play.run(5)
    (conn,) = world.network.conns
    assert sum("SUBSCRIBE" in text for text in conn.sent) == 2
    line.doubt("btcusdt@kline_1m")
    play.run(5)
    assert len(world.network.attempts) == 2


def test_many_doubted_channels_are_one_loss_with_one_pause(world: LiveWorld) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
    play = LinePlay(world, "binance", klines(*symbols))
    play.run(20)
    world.network.change = lambda text: ()
    (line,) = play.lines
    for _ in range(2):
        for symbol in symbols:
            line.doubt(f"{symbol.lower()}@kline_1m")
        play.run(3)
    assert sum(type(event).__name__ == "Disconnected" for event in world.events) == 1
    assert len(world.network.attempts) == 2
    assert max(play.gaps_s) < 30


def test_a_frame_that_lacks_a_key_is_noted_once_and_the_connection_goes_on(world: LiveWorld) -> None:
    """Strict decoders broke when keys were added, as four were in 2025 and 2026."""

    def change(text: bytes) -> Iterator[bytes]:
        body = json.loads(text)
        body["new"] = body["data"]["st"] = 1
        if b'"x":true' in text:
            del body["data"]["k"]["n"]
        yield json.dumps(body).encode()

    world.network.change = change
    play = LinePlay(world, "binance", klines("BTCUSDT"))
    play.run(200)
    (line,) = play.lines
    assert line.unreadable == 3
    assert len([event for event in world.events if type(event).__name__ == "Noted"]) == 1
    assert len(world.network.attempts) == 1
    assert len(play.seen.updates) > 50


def test_every_close_of_the_server_leads_to_a_new_connection_and_none_is_the_end_of_the_data(world: LiveWorld) -> None:
    """A close with 1000 was taken for the end (ccxt, issue 7233). Real closes are in test_live_sockets.py."""
    play = LinePlay(world, "binance", klines("BTCUSDT"), lifetime_s=None)
    play.run(20)
    for conn in list(world.network.conns):
        conn.is_ending = True
    play.run(10)
    assert len(world.network.attempts) == 2
    assert not any(line.is_over for line in play.lines)
