"""The stream dialects of the providers: what recorded frames and those of the pages say, worked out by hand, and the
messages that subscribe. Binance spot has test_binance_streams.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import stream_frames

from candle_fetcher import AccessDenied, ProviderRefused, RateLimited, ReplyError, TransportError, UnknownSymbol
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.live import Ack, CandleUpdate, Heartbeat, Notice, QuoteUpdate, Ready, Refusal
from candle_fetcher.providers import Streams, Subscription, all_providers, find_provider


def streams_of(name: str) -> Streams:
    streams = find_provider(name).streams
    assert streams is not None
    return streams


def lines(shared: Path, name: str) -> list[bytes]:
    return [line.encode() for line in (shared / "recorded" / "live" / name).read_text(encoding="utf-8").splitlines()]


def topics_of(name: str, what: str, symbol: str, timeframe: str = "", **settings: str) -> list[tuple[str, str]]:
    subscription = Subscription(what, symbol, timeframe, settings=tuple(settings.items()))
    return [(channel.path, channel.topic) for channel in streams_of(name).channels(subscription)]


def sent(messages: Sequence[Any]) -> list[Any]:
    return [json.loads(message.text) for message in messages]


STREAMING = [name for name, provider in all_providers().items() if provider.streams is not None]


def test_these_providers_have_streams() -> None:
    assert sorted(STREAMING) == [
        "alpaca", "alpaca-crypto", "binance", "binance-cm", "binance-um", "binance-us", "kraken",
    ]  # fmt: skip


@pytest.mark.parametrize("name", STREAMING)
def test_an_update_has_a_value_for_each_column_of_the_feed(name: str) -> None:
    good = {"kraken": stream_frames.KRAKEN, "alpaca": stream_frames.ALPACA}.get(
        name.partition("-")[0], stream_frames.BINANCE
    )
    (update, *_) = streams_of(name).parse(good[0])
    assert isinstance(update, CandleUpdate)
    columns = find_provider(name).feed("candles").columns
    assert len(update.values) == len(columns) - 1
    for column, value in zip(columns[1:], update.values, strict=True):
        assert type(value) is (int if column in ("close_time", "trades") else float), column


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize("frame", [b"", b"[", b"1", b"null", b'"a"', b"\xff", b"[1]", b"{", b"\xef\xbb\xbf"])
def test_what_is_no_frame_is_refused(name: str, frame: bytes) -> None:
    with pytest.raises(ReplyError, match="expected a frame of"):
        streams_of(name).parse(frame)


@pytest.mark.parametrize("name", STREAMING)
def test_the_channels_of_a_symbol_are_the_topics_of_its_acks_and_updates(name: str) -> None:
    """What a message subscribes is what frames and acks name."""
    symbol = {"kraken": "XBTUSD", "alpaca": "AAPL", "alpaca-crypto": "BTC/USD", "binance-cm": "BTCUSD_PERP"}.get(
        name, "BTCUSDT"
    )
    streams = streams_of(name)
    channels = [
        *streams.channels(Subscription("candles", symbol, "1m")),
        *streams.channels(Subscription("quotes", symbol)),
    ]
    assert len({channel.topic for channel in channels}) == len(channels)
    by_path: dict[str, list[Any]] = {}
    for channel in channels:
        by_path.setdefault(channel.path, []).append(channel)
    for group in by_path.values():
        for write in (streams.subscribe, streams.unsubscribe):
            messages = write(group, 7)
            assert sorted(topic for message in messages for topic in message.topics) == sorted(
                channel.topic for channel in group
            )
            assert [message.id for message in messages] == list(range(7, 7 + len(messages)))
            assert all(len(message.text.encode()) < streams.most_message_bytes for message in messages)


# Kraken


def test_a_recorded_session_of_kraken_s_candles(shared: Path) -> None:
    parse = streams_of("kraken").parse
    frames = lines(shared, "kraken/ws2_session_ohlc_btcusd_minute_rollover.jsonl")
    assert [parse(frame) for frame in (frames[0], frames[1], frames[5])] == [
        (), (Ack(topics=("ohlc 1 BTC/USD",)),), (Heartbeat(),),
    ]  # fmt: skip
    topic, sent_ms = "ohlc 1 BTC/USD", 1791309961982  # 2026-10-06T18:06:01.982
    assert parse(frames[2]) == (
        # 17:57 and 17:58: the open of the interval, not its end, which `timestamp` is
        CandleUpdate(topic, 1791309420000, (85702.8, 85702.8, 85697.9, 85697.9, 0.69367951, 36), False, 36, sent_ms),
        CandleUpdate(topic, 1791309480000, (85697.9, 85697.9, 85686.0, 85690.7, 0.08767812, 40), False, 40, sent_ms),
    )
    last = (85754.8, 85754.8, 85754.7, 85754.7, 0.51707722, 12)
    assert parse(frames[4]) == (CandleUpdate(topic, 1791309960000, last, False, 12, 1791309962918),)


def test_a_snapshot_of_kraken_lacks_the_minutes_without_trades(shared: Path) -> None:
    (frame,) = lines(shared, "kraken/ws2_ohlc_snapshot_btcusdt_1m_with_holes.json")
    events = streams_of("kraken").parse(frame)
    opens = [event.open_ms for event in events if isinstance(event, CandleUpdate)]
    first = 1789061520000  # 17:32
    assert [(ms - first) // 60_000 for ms in opens] == [0, 1, 2, 3, 6, 7, 8, 9, 11]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("ws2_ticker_snapshot_btcusd.json",
         (62702.9, 1947.83637005, 62703.4, 62710.3, 1783488281204)),  # the last below the bid
        ("ws2_ticker_snapshot_btcusd_june2026.json", (60108.7, 4473.99704028, 60108.6, 60108.7, 1782456082476)),
        ("ws2_ticker_update_btcusd.json", (83744.3, 3156.84782110, 83744.2, 83744.3, 1790358506844)),
    ],
)  # fmt: skip
def test_recorded_tickers_of_kraken(shared: Path, file: str, expected: tuple[float, ...]) -> None:
    (frame,) = lines(shared, f"kraken/{file}")
    (update,) = streams_of("kraken").parse(frame)
    assert update == QuoteUpdate("ticker BTC/USD", *expected, sent_ms=expected[-1])  # type: ignore[arg-type]


def test_recorded_acks_pongs_and_statuses_of_kraken(shared: Path) -> None:
    parse = streams_of("kraken").parse
    pong, ticker, ohlc, trade = lines(shared, "kraken/ws2_pong_and_acks_2024.jsonl")
    assert parse(pong) == (Heartbeat(1716203329272),)
    assert parse(ticker) == (Ack(topics=("ticker BTC/USD",)),)
    assert parse(ohlc) == (Ack(topics=("ohlc 60 ETH/USD",)),)
    assert parse(trade) == ()
    for name in ("ws2_status_on_connect.json", "ws2_trade_update_btcusd.json", "ws2_ack_trade_no_snapshot.json"):
        assert parse(lines(shared, f"kraken/{name}")[0]) == ()
    status = {"channel": "status", "data": [{"system": "maintenance", "upcoming_maintenance": [{"at": "noon"}]}]}
    found = parse(json.dumps(status).encode())
    assert [type(event) for event in found] == [Notice, Notice]
    assert "'maintenance'" in found[0].text  # type: ignore[union-attr]


def test_a_refused_pair_of_kraken_is_unknown_and_the_others_of_its_message_are_not(shared: Path) -> None:
    parse = streams_of("kraken").parse
    (refusal,) = parse(lines(shared, "kraken/ws2_error_pair_not_supported.json")[0])
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, UnknownSymbol)
    assert (refusal.error.symbol, refusal.id, refusal.again_s) == ("XBT/USD", None, None)
    assert {"ticker XBT/USD", "ohlc 1 XBT/USD", "ohlc 10080 XBT/USD"} < set(refusal.topics)
    (private,) = parse(lines(shared, "kraken/ws2_error_private_on_public_host.json")[0])
    assert isinstance(private, Refusal)
    assert isinstance(private.error, ProviderRefused)
    assert (private.id, private.topics) == (None, ())


def test_kraken_s_refusal_for_too_many_messages_is_a_pause_of_those_it_names() -> None:
    parse = streams_of("kraken").parse
    said = {"error": "Exceeded msg rate", "method": "subscribe", "success": False, "symbol": "ETH/USD", "req_id": 3}
    (refusal,) = parse(json.dumps(said).encode())
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, RateLimited)
    assert refusal.again_s == 5
    assert "ticker ETH/USD" in refusal.topics
    (bare,) = parse(b'{"Error":"Exceeded msg rate"}')
    assert isinstance(bare, Refusal)
    assert (type(bare.error), bare.topics, bare.again_s) == (RateLimited, (), 5)


def test_messages_to_kraken_name_pairs_as_they_are_shown_one_message_for_each_channel() -> None:
    assert topics_of("kraken", "candles", "XBTUSD", "1h") == [("/v2", "ohlc 60 BTC/USD")]
    assert topics_of("kraken", "quotes", "XDGUSD") == [("/v2", "ticker DOGE/USD")]
    assert topics_of("kraken", "candles", "NOBODYKNOWS", "1h") == []
    assert topics_of("kraken", "candles", "XBTUSD", "2h") == []
    streams = streams_of("kraken")
    channels = [
        channel
        for symbol in ("XBTUSD", "ETHUSD")
        for one in (Subscription("candles", symbol, "1m"), Subscription("quotes", symbol))
        for channel in streams.channels(one)
    ]
    assert sent(streams.subscribe(channels, 1)) == [
        {"method": "subscribe", "req_id": 1,
         "params": {"channel": "ohlc", "symbol": ["BTC/USD", "ETH/USD"], "interval": 1, "snapshot": True}},
        {"method": "subscribe", "req_id": 2,
         "params": {"channel": "ticker", "symbol": ["BTC/USD", "ETH/USD"], "event_trigger": "bbo", "snapshot": True}},
    ]  # fmt: skip
    assert sent(streams.unsubscribe(channels[:1], 9)) == [
        {"method": "unsubscribe", "req_id": 9, "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 1}}
    ]
    assert streams.ping is not None
    assert json.loads(streams.ping(5)) == {"method": "ping", "req_id": 5}


def test_added_keys_are_ignored_and_missing_ones_refused_at_kraken() -> None:
    parse = streams_of("kraken").parse
    frame = json.loads(stream_frames.KRAKEN[0])
    frame["sequence"] = frame["data"][0]["new"] = 1
    assert parse(json.dumps(frame).encode()) == parse(stream_frames.KRAKEN[0])
    for name in ("open", "close", "trades", "interval", "interval_begin", "symbol"):
        item = {key: value for key, value in frame["data"][0].items() if key != name}
        with pytest.raises(ReplyError):
            parse(json.dumps({**frame, "data": [item]}).encode())
    for name, value in (("open", "1.5"), ("volume", True), ("trades", 1.5), ("interval_begin", 5), ("open", 1e999)):
        with pytest.raises(ReplyError):
            parse(json.dumps({**frame, "data": [{**frame["data"][0], name: value}]}).encode())


# Alpaca


def test_recorded_sessions_of_alpaca(shared: Path) -> None:
    parse = streams_of("alpaca").parse
    session = [parse(line) for line in lines(shared, "alpaca/ws_test_stream_fakepaca_session.jsonl")]
    assert session[:3] == [[], [Ready()], [Ack(topics=("quotes FAKEPACA", "bars FAKEPACA"), is_whole=True)]]
    time_ms = 1721807813639
    assert session[3] == [
        QuoteUpdate("quotes FAKEPACA", None, None, 133.85, 135.77, time_ms, order=time_ms, sent_ms=time_ms)
    ]
    bar = CandleUpdate("bars FAKEPACA", 1721807760000, (132.65, 136.0, 132.12, 134.65, 205.0, 16), True)
    assert session[5] == [bar]
    crypto = [
        streams_of("alpaca-crypto").parse(line) for line in lines(shared, "alpaca/ws_crypto_us_session_2023.jsonl")
    ]
    assert crypto[2] == [Ack(topics=("bars BTC/USD",), is_whole=True)]
    assert crypto[3] == [
        CandleUpdate("bars BTC/USD", 1679056080000, (26675.04, 26695.36, 26668.79, 26688.7, 3.227759152, 93), True)
    ]


def test_subscriptions_of_alpaca_are_whole_sets_and_may_be_empty(shared: Path) -> None:
    parse = streams_of("alpaca").parse
    session = [parse(line) for line in lines(shared, "alpaca/ws_iex_handshake_subscribe_unsubscribe_2026.jsonl")]
    assert session[2:] == [[Ack(topics=("bars AAPL", "bars NVDA", "bars SPY"), is_whole=True)], [Ack(is_whole=True)]]


@pytest.mark.parametrize(
    ("file", "at", "error", "fix"),
    [
        ("ws_auth_failed_2026.jsonl", 1, AccessDenied, "key"),
        ("ws_sip_refused_2026.jsonl", 1, AccessDenied, "'feed': 'iex'"),
        ("ws_iex_bad_requests_2026.jsonl", 2, ProviderRefused, ""),
    ],
)
def test_recorded_refusals_of_alpaca(shared: Path, file: str, at: int, error: type[Exception], fix: str) -> None:
    (refusal,) = streams_of("alpaca").parse(lines(shared, f"alpaca/{file}")[at])
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, error)
    assert fix in str(refusal.error)
    assert (refusal.again_s, refusal.id, refusal.topics) == (None, None, ())


@pytest.mark.parametrize(
    ("code", "said", "error", "again_s"),
    [
        (406, "connection limit exceeded", RateLimited, 20.0),
        (500, "internal error", TransportError, 5.0),
        (405, "symbol limit exceeded", ProviderRefused, None),
        (404, "auth timeout", AccessDenied, None),
    ],
)
def test_errors_of_alpaca_by_their_codes(code: int, said: str, error: type[Exception], again_s: float | None) -> None:
    (refusal,) = streams_of("alpaca").parse(json.dumps([{"T": "error", "code": code, "msg": said}]).encode())
    assert isinstance(refusal, Refusal)
    assert (type(refusal.error), refusal.again_s) == (error, again_s)
    assert said in str(refusal.error)


def test_a_slow_client_is_noted_and_a_second_login_is_nothing() -> None:
    parse = streams_of("alpaca").parse
    assert [type(event) for event in parse(b'[{"T":"error","code":407,"msg":"slow client"}]')] == [Notice]
    assert parse(b'[{"T":"error","code":403,"msg":"already authenticated"}]') == []


def test_a_bar_that_comes_again_is_a_correction_and_days_and_trades_make_quotes() -> None:
    parse = streams_of("alpaca").parse
    bar, again = parse(stream_frames.ALPACA[0])
    assert again == CandleUpdate(
        "updatedBars AAPL", 1721807700000, (131.25, 135.5, 131.12, 133.75, 206.0, 17), True, 1, None, True
    )
    assert bar.order < again.order  # type: ignore[union-attr]
    _, trade, day = parse(stream_frames.ALPACA[1])
    assert (trade.topic, trade.last_price, trade.time_ms) == ("trades AAPL", 133.06, 1789470113250)  # type: ignore[union-attr]
    assert day == QuoteUpdate("dailyBars AAPL", volume=2040.0)
    (one_sided,) = parse(b'[{"T":"q","S":"AAPL","bp":0,"ap":135.77,"t":"2024-07-24T07:56:53Z"}]')
    assert math.isnan(one_sided.bid_price)  # type: ignore[union-attr,arg-type]


def test_a_bar_of_a_pair_without_trades_is_a_bar_and_may_lack_its_count(shared: Path) -> None:
    parse = streams_of("alpaca-crypto").parse
    (quiet,) = parse(b"[" + lines(shared, "alpaca/ws_crypto_bar_no_trade.json")[0] + b"]")
    flat = 71856.1435
    assert quiet == CandleUpdate("bars BTC/USD", 1710239820000, (flat, flat, flat, flat, 0.0, 0), True)
    (uncounted,) = parse(b'[{"T":"b","S":"A","o":1,"h":2,"l":1,"c":2,"v":3,"t":"2021-01-04T15:00:00Z"}]')
    assert uncounted.values[-1] is None  # type: ignore[union-attr]


def test_what_alpaca_streams_depends_on_feed_adjustment_and_timeframe() -> None:
    assert topics_of("alpaca", "candles", "AAPL", "1m") == [("/v2/sip", "bars AAPL"), ("/v2/sip", "updatedBars AAPL")]
    assert topics_of("alpaca", "candles", "AAPL", "1m", feed="iex", adjustment="raw")[0] == ("/v2/iex", "bars AAPL")
    assert topics_of("alpaca", "candles", "AAPL", "1m", adjustment="split") == []
    assert topics_of("alpaca", "candles", "AAPL", "5m") == []
    assert topics_of("alpaca", "quotes", "AAPL", feed="otc") == []
    assert [topic for _, topic in topics_of("alpaca", "quotes", "AAPL", adjustment="split")] == [
        "trades AAPL", "quotes AAPL", "dailyBars AAPL",
    ]  # fmt: skip
    pair = topics_of("alpaca-crypto", "quotes", "BTC/USD")
    assert pair == [("/v1beta3/crypto/us", "trades BTC/USD"), ("/v1beta3/crypto/us", "quotes BTC/USD")]


def test_messages_to_alpaca() -> None:
    streams = streams_of("alpaca")
    channels = [c for symbol in ("AAPL", "BRK.B") for c in streams.channels(Subscription("candles", symbol, "1m"))]
    both = ["AAPL", "BRK.B"]
    assert sent(streams.subscribe(channels, 1)) == [{"action": "subscribe", "bars": both, "updatedBars": both}]
    assert sent(streams.unsubscribe(channels[:1], 1)) == [{"action": "unsubscribe", "bars": ["AAPL"]}]
    keys = Keys(headers=(("APCA-API-KEY-ID", "PKABCDEF"), ("APCA-API-SECRET-KEY", "secret/word")))
    assert streams.login is not None
    assert [json.loads(text) for text in streams.login(keys)] == [
        {"action": "auth", "key": "PKABCDEF", "secret": "secret/word"}
    ]
    assert streams.waits_for_ready
    assert streams.needs_keys


# Binance's other markets


def test_a_recorded_session_of_coin_m(shared: Path) -> None:
    parse = streams_of("binance-cm").parse
    trade, book, mark, kline = lines(shared, "binance_cm/ws_combined_2026_book_trade_kline_closed_mark.jsonl")
    assert (parse(trade), parse(mark)) == ((), ())
    at_ms = 1790373637547
    best = QuoteUpdate("btcusd_perp@bookTicker", None, None, 83732.4, 83732.5, at_ms, 11660059839759, at_ms)
    assert parse(book) == (best,)
    # open, high, low, close, volume in contracts, close time, trades, taker's contracts, coins, taker's coins
    values = (83723.8, 83732.5, 83723.8, 83732.4, 180.0, 1790373659999, 41, 94.0, 0.21498328, 0.11224187)
    assert parse(kline) == (CandleUpdate("btcusd_perp@kline_1m", 1790373600000, values, True, 41, 1790373660003),)
    columns = find_provider("binance-cm").feed("candles").columns[1:]
    named = dict(zip(columns, values, strict=True))
    assert (named["volume"], named["base_volume"], named["trades"]) == (180.0, 0.21498328, 41)


def test_a_recorded_best_price_of_binance_us(shared: Path) -> None:
    (frame,) = lines(shared, "binance_us/ws_book_ticker_ethusd.json")
    expected = QuoteUpdate("ethusd@bookTicker", None, None, 2616.48, 2616.56, None, 3793150009)
    assert streams_of("binance-us").parse(frame) == (expected,)


def test_the_volume_of_a_coin_m_ticker_is_in_coins() -> None:
    ticker = {
        "e": "24hrTicker", "E": 1795996400500, "s": "BTCUSD_PERP", "c": "66688.0", "v": "6152878", "q": "9210.85940892",
        "O": 1795910000500, "C": 1795996400500, "ps": "BTCUSD", "st": 2,
    }  # fmt: skip
    frame = json.dumps({"stream": "btcusd_perp@ticker", "data": ticker}).encode()
    (update,) = streams_of("binance-cm").parse(frame)
    assert (update.last_price, update.volume, update.bid_price) == (66688.0, 9210.85940892, None)  # type: ignore[union-attr]


def test_usd_m_has_candles_and_tickers_on_one_connection_and_best_prices_on_another() -> None:
    assert topics_of("binance-um", "candles", "BTCUSDT", "1m") == [("/market/stream", "btcusdt@kline_1m")]
    assert topics_of("binance-um", "quotes", "BTCUSDT") == [
        ("/market/stream", "btcusdt@ticker"), ("/public/stream", "btcusdt@bookTicker"),
    ]  # fmt: skip
    assert topics_of("binance-cm", "quotes", "BTCUSD_PERP") == [
        ("/stream", "btcusd_perp@ticker"), ("/stream", "btcusd_perp@bookTicker"),
    ]  # fmt: skip
    assert topics_of("binance-us", "quotes", "ETHUSD") == [("/stream", "ethusd@ticker")]
    for name in ("binance-um", "binance-cm"):
        mark = Subscription("candles", "BTCUSDT", "1m", "mark")
        assert streams_of(name).channels(mark) == ()  # polled
