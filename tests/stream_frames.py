"""Frames of streams for the table of damage, and what each says by a slow reading."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from typing import Any

from candle_fetcher.core.live import Ack, CandleUpdate, Heartbeat, QuoteUpdate, Refusal

KLINE = {
    "t": 1745689500000, "T": 1745689559999, "s": "BTCUSDT", "i": "1m", "f": 13562205, "L": 13562210,
    "o": "0.20800000", "c": "0.20810000", "h": "0.20820000", "l": "0.20700000", "v": "624.60000000", "n": 6,
    "x": True, "q": "129.95848000", "V": "24.60000000", "Q": "9.95848000", "B": "0",
}  # fmt: skip
TICKER = {
    "e": "24hrTicker", "E": 1711123991960, "s": "BTCUSDT", "c": "553.80000000", "b": "553.70000000",
    "a": "553.80000000", "v": "1181388.68200000", "q": "667153813.14420000", "C": 1711123991959,
}  # fmt: skip
BINANCE = tuple(
    json.dumps(value, separators=(",", ":")).encode()
    for value in (
        {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 1745689560004, "s": "BTCUSDT", "k": KLINE}},
        {"stream": "btcusdt@ticker", "data": TICKER},
        {"u": 98645697497, "s": "BTCUSDT", "b": "64603.99", "B": "4.91", "a": "64604.00", "A": "2.16"},
        {"result": None, "id": 1},
        {"error": {"code": 2, "msg": "Invalid request: missing field `method`"}, "id": 3},
    )
)
KRAKEN = (
    (
        b'{"channel":"ohlc","type":"update","timestamp":"2026-10-06T18:06:02.264627814Z","data":[{"symbol":"BTC/USD","open":'
        b'85754.8,"high":85754.9,"low":85754.7,"close":85754.8,"trades":5,"volume":0.00126520,"vwap":85754.7,'
        b'"interval_begin":"2026-10-06T18:06:00.000000000Z","interval":1,"timestamp":"2026-10-06T18:07:00.000000Z"}]}'
    ),
    (
        b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":83744.2,"bid_qty":0.56251979,"ask":83744.3,'
        b'"ask_qty":0.00044780,"last":83744.3,"volume":3156.84782110,"vwap":84174.6,"low":83163.6,"high":85247.4,"change":'
        b'-429.3,"change_pct":-0.51,"trades":135262,"timestamp":"2026-09-25T17:48:26.844359Z"}]}'
    ),
    (
        b'{"method":"subscribe","result":{"channel":"ohlc","interval":1,"snapshot":true,"symbol":"BTC/USD"},"success":true,'
        b'"time_in":"2026-10-06T18:06:01.981684Z","time_out":"2026-10-06T18:06:01.981723Z","req_id":1}'
    ),
    (
        b'{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,"symbol":"XBT/USD",'
        b'"time_in":"2026-09-25T17:48:54.701041Z","time_out":"2026-09-25T17:48:54.701062Z"}'
    ),
)
ALPACA = (
    (
        b'[{"T":"b","S":"AAPL","o":132.65,"h":136,"l":132.12,"c":134.65,"v":205,"t":"2024-07-24T07:56:00Z","n":16,"vw":133.7},'
        b'{"T":"u","S":"AAPL","o":132.65,"h":136.5,"l":132.12,"c":134.65,"v":206,"t":"2024-07-24T07:55:00Z","n":17}]'
    ),
    (
        b'[{"T":"q","S":"AAPL","bx":"O","bp":133.85,"bs":4,"ax":"R","ap":135.77,"as":5,"c":["R"],"z":"A",'
        b'"t":"2024-07-24T07:56:53.639713735Z"},{"T":"t","S":"AAPL","i":1,"x":"N","p":134.56,"s":3,"c":[" "],"z":"A",'
        b'"t":"2026-09-15T11:01:53.291535755Z"},{"T":"d","S":"AAPL","o":1,"h":2,"l":1,"c":2,"v":2050,'
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
