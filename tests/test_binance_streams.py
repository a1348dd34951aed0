"""Binance's stream frames, in the shapes of its pages: what each says, in which units, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher import ProviderRefused, ReplyError
from candle_fetcher.core.live import Ack, CandleUpdate, Ending, QuoteUpdate, Refusal
from candle_fetcher.providers import Channel, Subscription, find_provider
from candle_fetcher.providers.binance_streams import parse_frame

STREAMS = find_provider("binance").streams
KLINE = {
    "t": 1745689500000, "T": 1745689559999, "s": "SLFUSDT", "i": "1m", "f": 13562205, "L": 13562210,
    "o": "0.20800000", "c": "0.20810000", "h": "0.20820000", "l": "0.20700000", "v": "624.60000000", "n": 6,
    "x": False, "q": "129.95848000", "V": "24.60000000", "Q": "9.95848000", "B": "0",
}  # fmt: skip
NO_FRAMES = [b"", b"[", b"[]", b"1", b"null", b'"kline"', b'{"data":1}', b'{"data":null}', b"\xff"]


def frame(data, stream="slfusdt@kline_1m"):
    return json.dumps({"stream": stream, "data": data}).encode()


def kline(**changed):
    return frame({"e": "kline", "E": 1745689546800, "s": "SLFUSDT", "k": {**KLINE, **changed}})


def test_a_kline_is_the_candle_so_far_in_the_columns_of_the_feed() -> None:
    (update,) = STREAMS.parse(kline())
    assert update == CandleUpdate(
        topic="slfusdt@kline_1m",
        open_ms=1745689500000,
        values=(0.208, 0.2082, 0.207, 0.2081, 624.6, 1745689559999, 129.95848, 6, 24.6, 9.95848),
        is_closed=False,
        order=6,
        sent_ms=1745689546800,
    )
    columns = find_provider("binance").feed("candles").columns
    assert dict(zip(columns[1:], update.values, strict=True))["taker_buy_volume"] == 24.6


def test_only_x_closes_a_candle() -> None:
    assert [STREAMS.parse(kline(x=x))[0].is_closed for x in (False, True)] == [False, True]


def test_a_raw_frame_names_its_stream_by_its_fields() -> None:
    (update,) = STREAMS.parse(json.dumps({"e": "kline", "E": 1, "s": "SLFUSDT", "k": KLINE}).encode())
    assert update.topic == "slfusdt@kline_1m"


def test_unknown_keys_are_ignored_and_missing_ones_refused() -> None:
    assert STREAMS.parse(kline(ps="SLFUSD", st=1)) == STREAMS.parse(kline())
    for name in ("t", "o", "x", "n", "Q"):
        left = {key: value for key, value in KLINE.items() if key != name}
        with pytest.raises(ReplyError):
            STREAMS.parse(frame({"e": "kline", "E": 1, "s": "SLFUSDT", "k": left}))


@pytest.mark.parametrize("value", ["nan", "inf", "", "1_0", "_1", None, True, [], "0x10", 1.5, "\uff11"])
def test_a_number_that_is_none_is_refused(value) -> None:
    with pytest.raises(ReplyError):
        STREAMS.parse(kline(o=value))


def test_a_ticker_is_a_whole_quote_and_a_price_of_0_is_none() -> None:
    data = {"e": "24hrTicker", "E": 1711123991960, "s": "BNBUSDT", "c": "553.80", "b": "0.00000000", "a": "553.9"}
    (update,) = STREAMS.parse(frame({**data, "v": "1181388.682", "q": "6", "C": 1711123991959}, "bnbusdt@ticker"))
    assert update[:3] == ("bnbusdt@ticker", 553.8, 1181388.682)
    assert math.isnan(update.bid_price)
    assert (update.ask_price, update.time_ms, update.sent_ms) == (553.9, 1711123991959, 1711123991960)


def test_the_best_prices_are_numbered_and_say_nothing_of_the_last_one() -> None:
    data = {"u": 98645697497, "s": "BTCUSDT", "b": "64603.99", "B": "4.9", "a": "64604.00", "A": "2.1"}
    (update,) = STREAMS.parse(frame(data, "btcusdt@bookTicker"))
    assert update == QuoteUpdate("btcusdt@bookTicker", None, None, 64603.99, 64604.0, None, 98645697497, None)


def test_coin_m_volume_is_in_coins() -> None:
    data = {"e": "24hrTicker", "E": 1, "s": "BTCUSD_PERP", "ps": "BTCUSD", "c": "8", "v": "180", "q": "0.2", "st": 2}
    assert STREAMS.parse(frame(data))[0].volume == 0.2


def test_acks_and_refusals_name_their_message() -> None:
    assert STREAMS.parse(b'{"result":null,"id":7}') == (Ack(7),)
    for text in (b'{"error":{"code":4,"msg":"Too many subscriptions"},"id":3}', b'{"code":4,"msg":"Too many","id":3}'):
        (refusal,) = STREAMS.parse(text)
        assert isinstance(refusal, Refusal)
        assert (refusal.id, refusal.again_s) == (3, None)
        assert isinstance(refusal.error, ProviderRefused)
        assert "Too many" in str(refusal.error)


def test_the_notice_of_a_shutdown_comes_raw_and_combined() -> None:
    raw = {"e": "serverShutdown", "E": 1770123456789}
    for body in (json.dumps(raw).encode(), frame(raw, "!serverShutdown")):
        assert STREAMS.parse(body) == (Ending("serverShutdown"),)


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[]", b"1", b"null", b'"kline"', b'{"data":1}', b'{"data":null}', b"\xff"]
)
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ReplyError):
        STREAMS.parse(body)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 40))
@examples(60)
def test_damaged_frames_give_events_or_a_reply_error(junk: bytes, at: int, cut: int) -> None:
    whole = kline()
    for body in (junk, whole[:at] + junk + whole[at + cut :]):
        try:
            events = parse_frame(body)
        except ReplyError:
            continue
        for event in events:
            if isinstance(event, CandleUpdate):
                assert all(value is not None and math.isfinite(value) for value in event.values)


def test_channels_and_messages() -> None:
    candles = STREAMS.channels(Subscription("candles", "BTCUSDT", "1M"))
    assert candles == (Channel("/stream", "btcusdt@kline_1M", "BTCUSDT"),)
    assert STREAMS.channels(Subscription("candles", "BTCUSDT", "1m", "mark")) == ()
    (message,) = STREAMS.subscribe(candles, 5)
    assert json.loads(message.text) == {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1M"], "id": 5}
    assert message[1:] == (5, ("btcusdt@kline_1M",))
    assert json.loads(STREAMS.unsubscribe(candles, 6)[0].text)["method"] == "UNSUBSCRIBE"


def test_recorded_frames_are_read(shared: Path) -> None:
    said: list[object] = []
    for path in sorted((shared / "recorded" / "live").glob("binance_*/ws*.json*")):
        if path.name.endswith(".source.txt"):
            continue
        for line in filter(None, path.read_bytes().splitlines()):
            said += parse_frame(line)
    closed = [event for event in said if isinstance(event, CandleUpdate) and event.is_closed]
    assert len(closed) >= 5
    assert all(event.sent_ms is not None and event.sent_ms > event.open_ms for event in closed)
