"""Frames of streams for the table of damage, and what each says by a slow reading."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from typing import Any

from candle_fetcher.core.live import Ack, CandleUpdate, Heartbeat, QuoteUpdate, Refusal

KLINE = {
    "t": 1745689500000, "T": 1745689559999, "s": "BTCUSDT", "i": "1m", "f": 10000005, "L": 10000010,
    "o": "0.20500000", "c": "0.20510000", "h": "0.20520000", "l": "0.20400000", "v": "321.50000000", "n": 6,
    "x": True, "q": "65.92350000", "V": "21.50000000", "Q": "4.40750000", "B": "0",
}  # fmt: skip
TICKER = {
    "e": "24hrTicker", "E": 1711123991960, "s": "BTCUSDT", "c": "512.30000000", "b": "512.20000000",
    "a": "512.30000000", "v": "1000388.25000000", "q": "512498900.47500000", "C": 1711123991959,
}  # fmt: skip
BINANCE = tuple(
    json.dumps(value, separators=(",", ":")).encode()
    for value in (
        {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 1745689560004, "s": "BTCUSDT", "k": KLINE}},
        {"stream": "btcusdt@ticker", "data": TICKER},
        {"u": 90000000001, "s": "BTCUSDT", "b": "64001.99", "B": "4.5", "a": "64002.00", "A": "2.25"},
        {"result": None, "id": 1},
        {"error": {"code": 2, "msg": "Invalid request: missing field `method`"}, "id": 3},
    )
)
KRAKEN = (
    (
        b'{"channel":"ohlc","type":"update","timestamp":"2026-10-06T18:06:02.250000000Z","data":[{"symbol":"BTC/USD","open":'
        b'85001.5,"high":85001.9,"low":85001.1,"close":85001.2,"trades":5,"volume":0.00150010,"vwap":85001.4,'
        b'"interval_begin":"2026-10-06T18:06:00.000000000Z","interval":1,"timestamp":"2026-10-06T18:07:00.000000Z"}]}'
    ),
    (
        b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":83001.2,"bid_qty":0.50000010,"ask":83001.3,'
        b'"ask_qty":0.00100020,"last":83001.3,"volume":3001.25000010,"vwap":83500.5,"low":82500.1,"high":84500.9,"change":'
        b'-400.5,"change_pct":-0.48,"trades":120001,"timestamp":"2026-09-25T17:48:26.800009Z"}]}'
    ),
    (
        b'{"method":"subscribe","result":{"channel":"ohlc","interval":1,"snapshot":true,"symbol":"BTC/USD"},"success":true,'
        b'"time_in":"2026-10-06T18:06:01.900010Z","time_out":"2026-10-06T18:06:01.900050Z","req_id":1}'
    ),
    (
        b'{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,"symbol":"XBT/USD",'
        b'"time_in":"2026-09-25T17:48:54.700001Z","time_out":"2026-09-25T17:48:54.700021Z"}'
    ),
)
ALPACA = (
    (
        b'[{"T":"b","S":"AAPL","o":131.25,"h":135,"l":131.12,"c":133.75,"v":204,"t":"2024-07-24T07:56:00Z","n":16,"vw":132.5},'
        b'{"T":"u","S":"AAPL","o":131.25,"h":135.5,"l":131.12,"c":133.75,"v":206,"t":"2024-07-24T07:55:00Z","n":17}]'
    ),
    (
        b'[{"T":"q","S":"AAPL","bx":"O","bp":132.25,"bs":4,"ax":"R","ap":134.25,"as":5,"c":["R"],"z":"A",'
        b'"t":"2024-07-24T07:56:53.600000735Z"},{"T":"t","S":"AAPL","i":1,"x":"N","p":133.06,"s":3,"c":[" "],"z":"A",'
        b'"t":"2026-09-15T11:01:53.250000755Z"},{"T":"d","S":"AAPL","o":1,"h":2,"l":1,"c":2,"v":2040,'
        b'"t":"2024-07-24T04:00:00Z"}]'
    ),
    b'[{"T":"subscription","trades":[],"quotes":["AAPL"],"bars":["AAPL","SPY"]}]',
    b'[{"T":"error","code":402,"msg":"auth failed"}]',
)


def _any_int(text: str) -> int | None:
    return int(text) if len(text) <= 40 else None


def _decoded(frame: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise AssertionError(f"{text} is read")

    return json.loads(frame.decode("utf-8-sig"), parse_int=_any_int, parse_constant=refuse)


def ms_of(text: str) -> int:
    """A time of RFC 3339, in UTC or with an offset."""
    found = re.fullmatch(r"([\d-]{10})[Tt]([\d:]{8})(\.\d{1,9})?(?:[Zz]|([+-])(\d\d):(\d\d))", text, re.ASCII)
    assert found, text
    moment = dt.datetime.fromisoformat(f"{found[1]} {found[2]}+00:00") - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    offset_ms = int(f"{found[4]}1") * (int(found[5]) * 60 + int(found[6])) * 60_000 if found[4] else 0
    return moment // dt.timedelta(milliseconds=1) + int((found[3] or ".0")[1:].ljust(3, "0")[:3]) - offset_ms


def _of_text(text: Any) -> float:
    assert type(text) is int or re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|\s*", text.strip(), re.ASCII), text
    return text if type(text) is int else float(text)


def _of_number(value: Any) -> float:
    assert type(value) in (int, float), value
    assert math.isfinite(value)
    return float(value)


def _price(value: float) -> float:
    return value or math.nan


def _same(values: Any, expected: Any) -> None:
    """Fails unless the numbers are equal, NaN to NaN and None to None."""
    assert len(values) == len(expected)
    for value, wanted in zip(values, expected, strict=True):
        both_nan = isinstance(value, float) and isinstance(wanted, float) and math.isnan(value) and math.isnan(wanted)
        assert both_nan or value == wanted, (values, expected)


def judge_binance(frame: bytes, events: Any, fields: str = "ohlcvTqnVQ") -> None:
    """Fails unless klines, tickers and best prices are as the frame says; other events have no numbers."""
    said = _decoded(frame)
    inner = said.get("data", said)
    for event in events:
        if isinstance(event, CandleUpdate):
            kline = inner["k"]
            _same(event.values, [_of_text(kline[name]) for name in fields])
            assert (event.open_ms, event.is_closed, event.order) == (kline["t"], kline["x"], kline["n"])
        elif isinstance(event, QuoteUpdate):
            if inner.get("e") == "24hrTicker":
                _same([event.last_price], [_price(_of_text(inner["c"]))])
                assert event.volume == _of_text(inner["v"])
            for price, name in ((event.bid_price, "b"), (event.ask_price, "a")):
                _same([price], [_price(_of_text(inner[name])) if name in inner else None])
        elif isinstance(event, Ack):
            assert "result" in said
    assert len(events) <= 1


def judge_kraken(frame: bytes, events: Any) -> None:
    """Fails unless candles and tickers are as the frame says, one event for each item."""
    said = _decoded(frame)
    for event, item in zip(events, said.get("data") or events, strict=False):
        if isinstance(event, CandleUpdate):
            names = ("open", "high", "low", "close", "volume")
            _same(event.values, [*(_of_number(item[name]) for name in names), item["trades"]])
            assert event.open_ms == ms_of(item["interval_begin"])
            assert event.topic == f"ohlc {item['interval']} {item['symbol']}"
            assert not event.is_closed
        elif isinstance(event, QuoteUpdate):
            _same([event.volume], [_of_number(item["volume"])])
            prices = [_price(_of_number(item[name] or 0)) for name in ("last", "bid", "ask")]
            _same([event.last_price, event.bid_price, event.ask_price], prices)
            assert event.time_ms == (ms_of(item["timestamp"]) if "timestamp" in item else None)
        elif isinstance(event, Ack):
            assert said["success"] is True
            assert said["result"]["symbol"] in event.topics[0]
        elif isinstance(event, Refusal):
            assert "error" in said or "Error" in said
        elif isinstance(event, Heartbeat):
            assert said.get("channel") == "heartbeat" or said["method"] == "pong"
    if said.get("channel") in ("ohlc", "ticker"):
        assert len(events) == len(said["data"])


def judge_alpaca(frame: bytes, events: Any) -> None:
    """Fails unless bars, quotes and trades are as the frame says, one event for each object of these kinds."""
    said = [item for item in _decoded(frame) if item.get("T") in ("b", "u", "d", "q", "t")]
    found = [event for event in events if isinstance(event, CandleUpdate | QuoteUpdate)]
    for event, item in zip(found, said, strict=True):
        kind = item["T"]
        assert event.topic.split(" ", 1)[1] == item["S"]
        if isinstance(event, CandleUpdate):
            _same(event.values, [*(_of_number(item[name]) for name in "ohlcv"), item.get("n")])
            assert event.open_ms == ms_of(item["t"])
            assert (event.is_closed, event.is_correction) == (True, kind == "u")
        elif kind == "d":
            assert event.volume == _of_number(item["v"])
        elif kind == "t":
            _same([event.last_price], [_price(_of_number(item["p"] or 0))])
            assert event.time_ms == ms_of(item["t"])
        else:
            _same([event.bid_price, event.ask_price], [_price(_of_number(item[name] or 0)) for name in ("bp", "ap")])
            assert event.time_ms == ms_of(item["t"])
