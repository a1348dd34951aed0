"""Quotes as values: what they say in JSON, in a frame, in Jupyter and on paper."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest

from candle_fetcher import Quote, Quotes
from candle_fetcher.core.quote import Ticker, make_quote

NOON_MS = 1_717_243_200_000  # 2024-06-01T12:00:00Z
FULL = Ticker("BTCUSDT", 67_500.25, 25_113.5, 67_500.0, 67_500.5, NOON_MS)


def quote(ticker: Ticker = FULL, **more: object) -> Quote:
    given = {"symbol": "BTC/USDT", "type": "crypto", "exchange": "Binance", "provider": "binance"}
    return make_quote(ticker, **given, received_ms=NOON_MS + 200, age_s=0.25, **more)  # type: ignore[arg-type]


def failed() -> Quote:
    return Quote("ETH/USD", provider="kraken", error="Kraken did not answer within 5 s", provider_symbol="ETHUSD")


def test_json_has_the_id_without_a_slash_and_the_time_as_text() -> None:
    said = Quotes([quote(), failed()]).to_json()
    assert json.loads(json.dumps(said, allow_nan=False)) == {
        "symbols": [
            {
                "symbol": "BTCUSDT",
                "type": "crypto",
                "exchange": "Binance",
                "last_price": 67500.25,
                "volume": 25113.5,
                "bid_price": 67500.0,
                "ask_price": 67500.5,
                "timestamp": "2024-06-01T12:00:00Z",
                "provider": "binance",
                "age_s": 0.25,
                "is_stale": False,
                "error": None,
            },
            {
                "symbol": "ETHUSD",
                "type": None,
                "exchange": None,
                "last_price": None,
                "volume": None,
                "bid_price": None,
                "ask_price": None,
                "timestamp": None,
                "provider": "kraken",
                "age_s": None,
                "is_stale": False,
                "error": "Kraken did not answer within 5 s",
            },
        ]
    }


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [(NOON_MS + 7, "2024-06-01T12:00:00.007Z"), (1_730_439_017_999, "2024-11-01T05:30:17.999Z")],
)
def test_json_keeps_milliseconds(time_ms: int, text: str) -> None:
    assert quote(FULL._replace(time_ms=time_ms)).to_json()["timestamp"] == text


def test_a_frame_has_a_row_for_each_quote_and_types_of_its_columns() -> None:
    frame = Quotes([quote(), failed()]).to_frame()
    fields = [field.name for field in dataclasses.fields(Quote) if field.name != "provider_symbol"]
    assert list(frame.columns) == fields
    assert frame["symbol"].tolist() == ["BTC/USDT", "ETH/USD"]
    assert str(frame["timestamp"].dtype) == "datetime64[ns, UTC]" == str(frame["received_at"].dtype)
    assert frame["timestamp"][0] == pd.Timestamp("2024-06-01 12:00", tz="UTC")
    assert pd.isna(frame["timestamp"][1])
    assert frame["is_stale"].dtype == bool
    assert {str(frame[name].dtype) for name in ("last_price", "volume", "bid_price", "ask_price", "age_s")} == {
        "float64"
    }
    assert pd.isna(frame["last_price"][1])
    assert frame["error"].tolist() == [None, "Kraken did not answer within 5 s"]


def test_a_frame_of_no_quotes_has_the_same_columns_and_types() -> None:
    empty, full = Quotes().to_frame(), Quotes([quote()]).to_frame()
    assert list(empty.columns) == list(full.columns)
    assert str(empty["timestamp"].dtype) == str(full["timestamp"].dtype)
    assert empty["last_price"].dtype == full["last_price"].dtype


def test_the_table_fits_a_terminal_and_says_what_is_wrong() -> None:
    long = quote(FULL._replace(last_price=0.000000123456, volume=123_456_789_012.25), max_age_s=0.1)
    lines = repr(Quotes([quote(), long, failed()])).splitlines()
    assert max(map(len, lines)) < 80
    assert lines[0].split() == ["symbol", "last", "bid", "ask", "volume", "age"]
    assert lines[1].split() == ["binance:BTC/USDT", "67500.25", "67500", "67500.5", "25,113.50", "0", "s"]
    assert lines[2].split()[1:4] == ["1.23456e-07", "67500", "67500.5"]
    assert lines[2].endswith(" 0 s!")
    assert repr(Quotes([quote()])).splitlines()[1].split()[1:4] == ["67500.25", "67500.00", "67500.50"]
    assert lines[3].split(maxsplit=1) == ["kraken:ETH/USD", "Kraken did not answer within 5 s"]


def test_jupyter_gets_a_table_that_is_escaped() -> None:
    wrong = dataclasses.replace(failed(), error="<script>")
    html = Quotes([quote(), wrong])._repr_html_()
    assert "<table>" in html
    assert "67500.25" in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_quote_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        quote().last_price = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ticker", "age_s"),
    [
        (FULL, 1.5),  # by the provider's clock, which is ahead
        (FULL._replace(time_ms=None), 0.5),  # since it was received
        (FULL._replace(time_ms=None, latest_ms=NOON_MS - 60_000), 61.5),  # the day of the price is over
        (FULL._replace(time_ms=None, latest_ms=NOON_MS + 60_000), 0.5),
        (FULL._replace(time_ms=NOON_MS + 60_000), 0.0),  # a time to come is not an age below 0
    ],
)
def test_the_age_is_counted_by_the_providers_clock(ticker: Ticker, age_s: float) -> None:
    assert ticker.age_s(received_ms=NOON_MS, now_ms=NOON_MS + 500, server_ms=NOON_MS + 1_500) == age_s


def test_an_old_quote_is_stale_and_so_is_one_with_an_error() -> None:
    assert not quote(max_age_s=0.25).is_stale
    assert quote(max_age_s=0.2).is_stale
    assert quote(error="no answer").is_stale


def test_two_replies_say_one_quote() -> None:
    day = Ticker("BTCUSDT", 1.0, 2.0, time_ms=NOON_MS)
    book = Ticker("BTCUSDT", bid_price=0.5, ask_price=1.5, time_ms=NOON_MS - 1)
    assert day.joined(book) == Ticker("BTCUSDT", 1.0, 2.0, 0.5, 1.5, NOON_MS) == book.joined(day)
