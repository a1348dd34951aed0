"""The practice exchange against recorded replies, the documented rules, and itself."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_fetcher.practice import PracticeExchange, faults, series, text
from candle_fetcher.practice.listings import documented_outages, utc_ms
from candle_fetcher.practice.series import Tape

NOW_MS = utc_ms("2024-07-03T10:11:12.345")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
PLENTY = 10**9
FIELDS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades", "taker_buy_volume",
    "taker_buy_quote_volume",
)  # fmt: skip


class Clock:
    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms / 1000


class Client:
    """One keep-alive connection."""

    def __init__(self, exchange: PracticeExchange) -> None:
        host, port = exchange.url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self._connection = http.client.HTTPConnection(host, int(port), timeout=5)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        self._connection.request("GET", path, headers=headers or {})
        reply = self._connection.getresponse()
        body = reply.read()
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, body

    def json(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def refused(self, path: str) -> tuple[int, int]:
        status, _, body = self.get(path)
        return status, json.loads(body)["code"]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange(clock=Clock(), weight_limit=PLENTY, log=False) as running:
        yield running


@pytest.fixture
def client(exchange: PracticeExchange) -> Iterator[Client]:
    client = Client(exchange)
    yield client
    client.close()


def ask(exchange: PracticeExchange, path: str) -> tuple[int, dict[str, str], bytes]:
    client = Client(exchange)
    try:
        return client.get(path)
    finally:
        client.close()


def recorded(shared: Path, name: str) -> Any:
    return json.loads((shared / "recorded" / name).read_text(encoding="utf-8"))


def assert_rows_are(rows: list[list[Any]], truth: dict[str, Any]) -> None:
    for at, field in enumerate(FIELDS):
        np.testing.assert_array_equal([float(row[at]) for row in rows], truth[field].astype(float), err_msg=field)


# Against recorded replies


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("binance_spot/klines_btcusdt_1d_168_rows.json", "/api/v3/klines?symbol=BTCUSDT&interval=1d&limit=5"),
        ("binance_cm/klines_btcusd_perp_1M_latest5.json", "/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1M&limit=5"),
        ("binance_um/klines_btcusdt_1d_latest5.json", "/fapi/v1/klines?symbol=BTCUSDT&interval=1d&limit=5"),
        (
            "binance_cm/mark_price_klines_btcusd_perp_1M.json",
            "/dapi/v1/markPriceKlines?symbol=BTCUSD_PERP&interval=1M&limit=5",
        ),
        (
            "binance_cm/continuous_klines_btcusd_current_quarter_1M.json",
            "/dapi/v1/continuousKlines?pair=BTCUSD&contractType=CURRENT_QUARTER&interval=1M&limit=5",
        ),
    ],
)
def test_kline_rows_have_the_types_and_decimals_of_recorded_ones(
    client: Client, shared: Path, name: str, path: str
) -> None:
    theirs, ours = recorded(shared, name)[0], client.json(path)[0]
    assert [type(value) for value in ours] == [type(value) for value in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, str):
            assert len(one.partition(".")[2]) == len(other.partition(".")[2])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("binance_spot/ticker_24hr_btcusdt.json", "/api/v3/ticker/24hr?symbol=BTCUSDT"),
        ("binance_spot/ticker_book_btcusdt.json", "/api/v3/ticker/bookTicker?symbol=BTCUSDT"),
        ("binance_spot/server_time.json", "/api/v3/time"),
        ("binance_um/server_time.json", "/fapi/v1/time"),
        ("binance_um/ticker_24hr_btcusdt.json", "/fapi/v1/ticker/24hr?symbol=BTCUSDT"),
        ("binance_um/ticker_book_btcusdt.json", "/fapi/v1/ticker/bookTicker?symbol=BTCUSDT"),
        ("binance_um/premium_index_btcusdt.json", "/fapi/v1/premiumIndex?symbol=BTCUSDT"),
        ("binance_um/funding_info_head.json", "/fapi/v1/fundingInfo"),
        ("binance_cm/ticker_24hr_btcusd_perp.json", "/dapi/v1/ticker/24hr?symbol=BTCUSD_PERP"),
        ("binance_cm/ticker_book_btcusd_perp.json", "/dapi/v1/ticker/bookTicker?symbol=BTCUSD_PERP"),
        ("binance_cm/premium_index_btcusd_perp.json", "/dapi/v1/premiumIndex?symbol=BTCUSD_PERP"),
        ("binance_cm/funding_btcusd_perp_limit5.json", "/dapi/v1/fundingRate?symbol=BTCUSD_PERP&limit=5"),
    ],
)
def test_objects_have_the_fields_and_types_of_recorded_ones(client: Client, shared: Path, name: str, path: str) -> None:
    theirs, ours = recorded(shared, name), client.json(path)
    assert type(ours) is type(theirs)
    one, other = (ours[0], theirs[0]) if isinstance(ours, list) else (ours, theirs)
    assert {key: type(value) for key, value in one.items()} == {key: type(value) for key, value in other.items()}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("binance_spot/exchange_info_2025_first_25_symbols.json", "/api/v3/exchangeInfo"),
        ("binance_um/exchange_info_2025_first_25_symbols.json", "/fapi/v1/exchangeInfo"),
        ("binance_cm/exchange_info_2025_first_25_symbols.json", "/dapi/v1/exchangeInfo"),
    ],
)
def test_exchange_info_has_the_fields_of_a_recorded_one(client: Client, shared: Path, name: str, path: str) -> None:
    theirs, ours = recorded(shared, name), client.json(path)
    assert theirs.keys() - {"timezone"} <= ours.keys()
    symbols = [{key: type(value) for key, value in info["symbols"][0].items()} for info in (ours, theirs)]
    symbols[1].pop("permissionSets", None) if "/api/" not in path else None
    assert symbols[0] == symbols[1]
    assert ours["rateLimits"][0].keys() == theirs["rateLimits"][0].keys()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("binance_spot/error_400_invalid_symbol.json", "/api/v3/klines?symbol=BTC_USDT&interval=1h"),
        ("binance_um/error_400_invalid_symbol.json", "/fapi/v1/klines?symbol=BTCUSD_PERP&interval=1h"),
        (
            "binance_spot/error_400_illegal_characters_end_time.json",
            "/api/v3/klines?symbol=BTCUSDT&interval=1h&endTime=1.5e12",
        ),
        (
            "binance_cm/error_400_window_over_200_days.json",
            f"/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1d&startTime=0&endTime={201 * DAY}",
        ),
        (
            "binance_um/error_400_mandatory_param_with_headers.json",
            "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&endTime=1.5",
        ),
    ],
)
def test_error_bodies_are_the_recorded_ones(client: Client, shared: Path, name: str, path: str) -> None:
    status, _, body = client.get(path)
    assert status == 400
    assert body == (shared / "recorded" / name).read_bytes().strip()


# Parameters


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("interval=1h", -1102),
        ("symbol=BTCUSDT", -1102),
        ("symbol=&interval=1h", -1105),
        ("symbol=BTCUSDT&interval=7m", -1120),
        ("symbol=BTCUSDT&interval=60m", -1120),
        ("symbol=NOPEUSDT&interval=1h", -1121),
        ("symbol=btcusdt&interval=1h", -1121),
        ("symbol=BTC/USDT&interval=1h", -1100),
        ("symbol=BTCUSDT&interval=1h&startTime=", -1100),
        ("symbol=BTCUSDT&interval=1h&limit=ten", -1100),
        ("symbol=BTCUSDT&interval=1h&limit=0", -1130),
        ("symbol=BTCUSDT&interval=1h&foo=1", -1104),
        ("symbol=BTCUSDT&interval=1h&symbol=ETHUSDT", -1101),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_code(client: Client, query: str, code: int) -> None:
    assert client.refused(f"/api/v3/klines?{query}") == (400, code)


def test_seconds_are_offered_by_spot_only(client: Client) -> None:
    assert len(client.json("/api/v3/klines?symbol=BTCUSDT&interval=1s&limit=7")) == 7
    assert client.refused("/fapi/v1/klines?symbol=BTCUSDT&interval=1s") == (400, -1120)


def test_limits_are_500_by_default_and_1000_or_1500_at_most(client: Client) -> None:
    assert len(client.json("/api/v3/klines?symbol=BTCUSDT&interval=1m")) == 500
    assert len(client.json("/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=5000")) == 1000
    assert len(client.json("/fapi/v1/klines?symbol=BTCUSDT&interval=1m")) == 500
    assert len(client.json("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=1500")) == 1500
    assert client.refused("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=1501") == (400, -1130)


def test_a_start_after_the_end_is_empty_on_spot_and_refused_on_futures(client: Client) -> None:
    window = f"interval=1h&startTime={NOW_MS}&endTime={NOW_MS - DAY}"
    assert client.json(f"/api/v3/klines?symbol=BTCUSDT&{window}") == []
    assert client.refused(f"/fapi/v1/klines?symbol=BTCUSDT&{window}") == (400, -1023)


def test_an_unknown_path_and_another_method_are_refused(exchange: PracticeExchange, client: Client) -> None:
    assert client.get("/api/v3/nothing")[0] == 404
    with socket.create_connection(client.address, timeout=5) as raw:
        raw.sendall(
            b"POST /api/v3/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET /api/v3/ping HTTP/1.0\r\n\r\n"
        )
        replies = b"".join(iter(lambda: raw.recv(65536), b""))
    assert replies.startswith(b"HTTP/1.1 405")
    assert replies.endswith(b"\r\n\r\n{}")


# Paging


def expected_page(opens: list[int], start: int | None, end: int | None, limit: int, *, newest: bool) -> list[int]:
    inside = [at for at in opens if (start is None or at >= start) and (end is None or at <= end)]
    return inside[-limit:] if newest else inside[:limit]


@pytest.mark.slow(keep=("binance-cm",))
@pytest.mark.parametrize(
    ("provider", "path", "timeframe", "now"),
    [
        ("binance", "/api/v3/klines?symbol=BTCUSDT", "1h", "2020-02-20T03:20"),
        ("binance", "/api/v3/klines?symbol=WLFIUSDT", "15m", "2025-09-01T16:07"),
        ("binance-um", "/fapi/v1/klines?symbol=BTCUSDT", "1h", "2020-02-20T03:20"),
        ("binance-cm", "/dapi/v1/klines?symbol=BTCUSD_PERP", "1h", "2020-08-12T03:20"),
    ],
    ids=["binance", "binance of another start", "binance-um", "binance-cm"],
)
def test_every_small_window_holds_what_the_rules_say(provider: str, path: str, timeframe: str, now: str) -> None:
    now_ms = utc_ms(now)
    symbol = path.partition("symbol=")[2]
    with PracticeExchange(clock=Clock(now_ms), weight_limit=PLENTY, log=False) as exchange:
        client = Client(exchange)
        opens = exchange.truth(provider, symbol, timeframe, now_ms - DAY, now_ms + DAY)["open_time"].tolist()
        whole = exchange.truth(provider, symbol, timeframe, 0, now_ms + DAY)["open_time"].tolist()
        step = 15 * MINUTE if timeframe == "15m" else HOUR
        edges = [
            None,
            opens[3] + 1,
            opens[5] - 1,
            *range(opens[-1] - 3 * step, opens[-1] + 2 * step, step),
            opens[0] - 1,
        ]
        for start, end, limit in itertools.product(edges, edges, (1, 3, 1000)):
            if start is not None and end is not None and start > end:
                continue
            query = f"{path}&interval={timeframe}&limit={limit}"
            query += f"&startTime={start}" if start is not None else ""
            query += f"&endTime={end}" if end is not None else ""
            newest = start is None or (provider == "binance-cm" and end is not None)
            rows = client.json(query)
            assert [row[0] for row in rows] == expected_page(whole, start, end, limit, newest=newest), query
        client.close()


def test_pages_by_open_time_add_up_to_the_truth(exchange: PracticeExchange, client: Client) -> None:
    start, end = utc_ms("2023-03-23"), utc_ms("2023-03-26")
    rows: list[list[Any]] = []
    at = start
    while page := client.json(f"/api/v3/klines?symbol=ETHUSDT&interval=1m&startTime={at}&endTime={end - 1}&limit=777"):
        rows += page
        at = page[-1][0] + MINUTE
    assert len(rows) == 3 * 1440 - 80
    assert_rows_are(rows, exchange.truth("binance", "ETHUSDT", "1m", start, end))


def test_a_range_before_the_listing_starts_at_the_first_candle(client: Client) -> None:
    rows = client.json("/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime=0&limit=2")
    assert rows[0][0] == utc_ms("2017-08-17T04:00")
    assert client.json(f"/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime=0&endTime={utc_ms('2017-08-01')}") == []
    assert client.json("/fapi/v1/klines?symbol=BTCUSDT&interval=1d&startTime=0&limit=1")[0][0] == utc_ms("2019-09-08")


def test_microseconds_are_understood_on_spot(client: Client) -> None:
    start = utc_ms("2024-03-01")
    path = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=3&startTime="
    assert client.json(f"{path}{start * 1000}") == client.json(f"{path}{start}")


def test_a_page_cap_cuts_every_page(client: Client) -> None:
    with PracticeExchange(clock=Clock(), page_cap=7) as capped:
        assert len(json.loads(ask(capped, "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=100&startTime=0")[2])) == 7


# COIN-M


def test_coin_futures_serve_the_newest_of_a_window_with_both_bounds(client: Client) -> None:
    start = utc_ms("2024-01-01")
    rows = client.json(
        f"/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1h&startTime={start}&endTime={start + 9 * HOUR}&limit=4"
    )
    assert [row[0] for row in rows] == [start + hour * HOUR for hour in (6, 7, 8, 9)]


def test_coin_futures_take_200_days_where_one_bound_is_missing(client: Client) -> None:
    path = "/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1d&limit=1500"
    at = utc_ms("2022-01-01")
    ahead, back = client.json(f"{path}&startTime={at}"), client.json(f"{path}&endTime={at}")
    assert (ahead[0][0], ahead[-1][0]) == (at, at + 200 * DAY)
    assert (back[0][0], back[-1][0]) == (at - 200 * DAY, at)
    assert client.json(f"{path}&startTime=0") == []
    assert len(client.json(path)) > 1000


def test_coin_futures_count_contracts_and_print_base_asset(client: Client) -> None:
    row = client.json("/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1d&limit=2")[0]
    assert float(row[7]) == pytest.approx(int(row[5]) * 100 / float(row[4]), rel=0.1)
    symbol = client.json("/dapi/v1/exchangeInfo")["symbols"][0]
    assert symbol["contractStatus"] == "TRADING"
    assert symbol["contractSize"] == 100
    assert "status" not in symbol


def test_premium_index_candles_have_no_window_rule_and_negative_prices(client: Client) -> None:
    at = utc_ms("2021-01-01")
    rows = client.json(
        f"/dapi/v1/premiumIndexKlines?symbol=BTCUSD_PERP&interval=1d&startTime={at}&endTime={at + 900 * DAY}&limit=900"
    )
    assert len(rows) == 900
    assert any(row[3].startswith("-0.000") for row in rows)
    assert {row[5] for row in rows} == {"0"}


def test_contracts_come_and_go_by_the_quarter(client: Client) -> None:
    info = client.json("/fapi/v1/exchangeInfo")
    assert {s["symbol"] for s in info["symbols"] if s["contractType"] == "CURRENT_QUARTER"} == {
        "BTCUSDT_240927",
        "ETHUSDT_240927",
    }
    rows = client.json("/fapi/v1/klines?symbol=BTCUSDT_240628&interval=1d&limit=1000")
    assert rows[-1][0] == utc_ms("2024-06-28")
    assert client.refused("/fapi/v1/klines?symbol=BTCUSDT_240627&interval=1d") == (400, -1121)
    assert client.json("/dapi/v1/fundingRate?symbol=BTCUSD_240927") == []


# The market


def totals(rows: list[list[Any]]) -> list[Decimal]:
    return [sum((Decimal(row[at]) for row in rows), Decimal(0)) for at in (5, 7, 8, 9, 10)]


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(
    ("root", "symbol", "timeframes", "span"),
    [
        ("/api/v3", "BTCUSDT", ("1s", "1m"), ("2020-02-19T11:30", "2020-02-19T11:40")),
        ("/api/v3", "BTCUSDT", ("1s", "1m"), ("2024-03-01T10:00", "2024-03-01T10:16")),
        ("/api/v3", "ADABTC", ("1s", "1m"), ("2024-03-01T10:00", "2024-03-01T10:16")),
        ("/api/v3", "BTCUSDT", ("1m", "5m"), ("2020-02-19T10:00", "2020-02-19T18:00")),
        ("/api/v3", "ADABTC", ("1m", "1h"), ("2024-03-01", "2024-03-01T16:00")),
        ("/api/v3", "XRPUSDT", ("30m", "1d"), ("2018-05-04", "2018-05-20")),
        ("/api/v3", "BTCUSDT", ("1h", "1w"), ("2018-02-05", "2018-03-05")),
        ("/api/v3", "EOSETH", ("1d", "1M"), ("2022-01-01", "2024-06-01")),
        ("/api/v3", "SOLUSDT", ("1d", "3d"), ("2020-08-11", "2022-02-17")),
        ("/us/api/v3", "SOLUSDT", ("1m", "15m"), ("2024-03-01", "2024-03-01T16:00")),
        ("/fapi/v1", "BTCUSDT", ("1m", "15m"), ("2021-03-02", "2021-03-02T16:00")),
        ("/dapi/v1", "ETHUSD_PERP", ("4h", "1w"), ("2024-01-01", "2024-05-20")),
    ],
)
def test_coarse_candles_are_the_exact_sums_of_fine_ones(
    client: Client, root: str, symbol: str, timeframes: tuple[str, str], span: tuple[str, str]
) -> None:
    (fine, coarse), (start, end) = timeframes, (utc_ms(edge) for edge in span)
    window = f"&startTime={start}&endTime={end - 1}&limit=1000"
    small = client.json(f"{root}/klines?symbol={symbol}&interval={fine}{window}")
    big = client.json(f"{root}/klines?symbol={symbol}&interval={coarse}{window}")
    assert 0 < len(big) < len(small) <= 1000
    for row, after in itertools.pairwise([*big, [10**14]]):
        parts = [part for part in small if row[0] <= part[0] < after[0]]
        assert parts
        assert row[1] == parts[0][1]
        assert Decimal(row[2]) == max(Decimal(part[2]) for part in parts)
        assert Decimal(row[3]) == min(Decimal(part[3]) for part in parts)
        assert row[4] == parts[-1][4]
        assert totals([row]) == totals(parts)


def test_the_printed_text_reads_as_the_truth(exchange: PracticeExchange, client: Client) -> None:
    for root, provider, symbol, timeframe in (
        ("/api/v3", "binance", "BTCUSDT", "1M"),
        ("/api/v3", "binance", "DOGEUSDT", "1w"),
        ("/us/api/v3", "binance-us", "BTCUSDT", "1d"),
        ("/fapi/v1", "binance-um", "ETHUSDT", "1d"),
        ("/dapi/v1", "binance-cm", "BTCUSD_PERP", "1d"),
    ):
        rows = client.json(f"{root}/klines?symbol={symbol}&interval={timeframe}&limit=1000")
        assert_rows_are(rows, exchange.truth(provider, symbol, timeframe, rows[0][0], NOW_MS + 1))


def test_the_same_seed_is_the_same_market_and_another_seed_another() -> None:
    path = "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=100"
    bodies = []
    for seed in (1, 1, 2):
        with PracticeExchange(clock=Clock(), seed=seed) as exchange:
            bodies.append(ask(exchange, path)[2])
    assert bodies[0] == bodies[1] != bodies[2]


def test_weeks_open_on_monday_months_on_the_first_and_three_days_count_from_the_listing(client: Client) -> None:
    def first(timeframe: str, symbol: str = "BTCUSDT") -> int:
        rows = client.json(f"/api/v3/klines?symbol={symbol}&interval={timeframe}&startTime=0&limit=1")
        return int(rows[0][0])

    assert first("1w") == utc_ms("2017-08-14")
    assert first("1M") == utc_ms("2017-08-01")
    assert first("1d") == utc_ms("2017-08-17")
    assert first("3d", "ADAUSDT") == utc_ms("2018-04-17")
    assert {first("3d", symbol) // DAY % 3 for symbol in ("BTCUSDT", "ETHUSDT", "ADAUSDT", "BNBUSDT")} == {1}
    assert first("3d", "SOLUSDT") // DAY % 3 == 2
    assert first("3d", "XRPUSDT") // DAY % 3 == 0


@pytest.mark.slow
def test_outages_leave_the_documented_holes(exchange: PracticeExchange) -> None:
    start, end = utc_ms("2020-02-01"), utc_ms("2020-05-01")
    opens = exchange.truth("binance", "BTCUSDT", "1m", start, end)["open_time"]
    assert (end - start) // MINUTE - len(opens) == 60 + 354 + 128 + 150  # of the published list of missing minutes
    start, end = utc_ms("2018-01-01"), utc_ms("2024-01-01")
    assert len(documented_outages("binance")) == 31
    hours = exchange.truth("binance", "BTCUSDT", "1h", start, end)["open_time"]
    assert (np.diff(hours) > HOUR).sum() >= 24
    assert (np.diff(exchange.truth("binance", "BTCUSDT", "1d", start, end)["open_time"]) == DAY).all()


def test_the_candle_in_which_trading_stopped_ends_early(client: Client) -> None:
    at = utc_ms("2020-02-19T11:30")
    rows = client.json(f"/api/v3/klines?symbol=BTCUSDT&interval=5m&startTime={at}&limit=3")
    assert [row[0] for row in rows] == [at, at + 5 * MINUTE, utc_ms("2020-02-19T17:30")]
    assert rows[1][6] == 1582112132286
    day = client.json(f"/api/v3/klines?symbol=BTCUSDT&interval=1d&startTime={utc_ms('2018-02-08')}&limit=1")[0]
    assert day[6] == utc_ms("2018-02-08T00:28:14.788")


def test_an_interval_without_trades_is_a_flat_row(client: Client) -> None:
    rows = client.json(f"/api/v3/klines?symbol=ADABTC&interval=1m&startTime={utc_ms('2024-03-01')}&limit=1000")
    flat = [(before, row) for before, row in itertools.pairwise(rows) if row[8] == 0]
    assert len(flat) > 50
    for before, row in flat:
        assert {row[1], row[2], row[3], row[4]} == {before[4]}
        assert {row[at] for at in (5, 7, 9, 10)} == {"0.00000000"}


def test_futures_show_an_outage_as_flat_rows(client: Client) -> None:
    at = utc_ms("2021-03-02T01:15")
    rows = client.json(f"/fapi/v1/klines?symbol=BTCUSDT&interval=1m&startTime={at}&limit=32")
    assert [row[8] == 0 for row in rows] == [True] * 31 + [False]


def test_candles_are_plausible(exchange: PracticeExchange) -> None:
    for provider, symbol in (
        ("binance", "BTCUSDT"),
        ("binance", "ADABTC"),
        ("binance-um", "DOGEUSDT"),
        ("binance", "DOGEUSDT"),
    ):
        truth = exchange.truth(provider, symbol, "1m", utc_ms("2023-05-01"), utc_ms("2023-05-03"))
        assert (truth["low"] <= np.minimum(truth["open"], truth["close"])).all()
        assert (truth["high"] >= np.maximum(truth["open"], truth["close"])).all()
        assert (truth["low"] > 0).all()
        assert (truth["taker_buy_volume"] <= truth["volume"]).all()
        assert ((truth["trades"] == 0) == (truth["volume"] == 0)).all()
    price = exchange.truth("binance", "BTCUSDT", "1d", 0, NOW_MS)["close"]
    assert 2000 < price.min() < price.max() < 150_000


def test_a_delisted_symbol_breaks_and_a_new_one_starts_late(client: Client) -> None:
    with PracticeExchange(clock=Clock(utc_ms("2025-09-02"))) as later:
        info = json.loads(ask(later, "/api/v3/exchangeInfo")[2])
        status = {symbol["symbol"]: symbol["status"] for symbol in info["symbols"]}
        assert status["EOSETH"] == "BREAK"
        assert status["WLFIUSDT"] == "TRADING"
        rows = json.loads(ask(later, "/api/v3/klines?symbol=EOSETH&interval=1h")[2])
        assert rows[-1][0] == utc_ms("2025-05-28T02:00")
    assert client.refused("/api/v3/klines?symbol=WLFIUSDT&interval=1h") == (400, -1121)


# The open candle


@pytest.mark.slow
def test_the_open_candle_is_the_last_row_and_grows_into_the_closed_one() -> None:
    clock = Clock(utc_ms("2024-03-01T10:00") - 1)
    with PracticeExchange(clock=clock, weight_limit=PLENTY) as exchange:
        client = Client(exchange)

        def last() -> list[Any]:
            row: list[Any] = client.json("/api/v3/klines?symbol=BTCUSDT&interval=5m&limit=2")[-1]
            return row

        volumes = []
        for second in range(0, 300, 13):
            clock.ms = utc_ms("2024-03-01T10:00") + second * 1000 + 17
            row = last()
            assert row[0] == utc_ms("2024-03-01T10:00")
            assert row[6] == row[0] + 5 * MINUTE - 1
            seconds = client.json(f"/api/v3/klines?symbol=BTCUSDT&interval=1s&startTime={row[0]}&limit=1000")
            assert len(seconds) == second + 1
            assert totals([row]) == totals(seconds)
            assert row[4] == seconds[-1][4]
            volumes.append(float(row[5]))
        assert volumes == sorted(volumes)
        clock.ms = utc_ms("2024-03-01T10:04:59.999")
        open_row = last()
        clock.ms += 1
        assert client.json("/api/v3/klines?symbol=BTCUSDT&interval=5m&limit=2")[0] == open_row
        client.close()


def test_every_timeframe_ends_with_the_open_candle(exchange: PracticeExchange, client: Client) -> None:
    closes = set()
    for timeframe in ("1s", "1m", "3m", "15m", "1h", "4h", "12h", "1d", "3d", "1w", "1M"):
        row = client.json(f"/api/v3/klines?symbol=ETHUSDT&interval={timeframe}&limit=1")[0]
        assert row[0] <= NOW_MS <= row[6]
        closes.add(row[4])
        assert_rows_are([row], exchange.truth("binance", "ETHUSDT", timeframe, row[0], NOW_MS + 1))
    assert len(closes) == 1


# Funding and tickers


def test_funding_rates_follow_the_interval_and_page_from_the_start(client: Client) -> None:
    rows = client.json("/fapi/v1/fundingRate?symbol=BTCUSDT&startTime=0&limit=1000")
    assert len(rows) == 1000
    assert rows[0]["fundingTime"] // 1000 * 1000 == utc_ms("2019-09-09")
    steps = np.diff([row["fundingTime"] // 1000 * 1000 for row in rows])
    assert (steps == 8 * HOUR).all()
    assert max(row["fundingTime"] % 1000 for row in rows) > 0
    doge = client.json("/fapi/v1/fundingRate?symbol=DOGEUSDT&limit=7")
    assert len(doge) == 7
    assert doge[-1]["fundingTime"] // HOUR * HOUR == utc_ms("2024-07-03T08:00")
    assert doge[-1]["fundingTime"] - doge[-2]["fundingTime"] == pytest.approx(4 * HOUR, abs=50)
    window = f"&startTime={rows[5]['fundingTime']}&endTime={rows[9]['fundingTime']}"
    assert client.json(f"/fapi/v1/fundingRate?symbol=BTCUSDT{window}") == rows[5:10]
    assert client.refused("/dapi/v1/fundingRate") == (400, -1102)
    assert len(client.json("/fapi/v1/fundingRate?symbol=BTCUSDT")) == 200
    assert len(client.json("/dapi/v1/fundingRate?symbol=BTCUSD_PERP")) == 100


def test_tickers_agree_with_the_candles(exchange: PracticeExchange, client: Client) -> None:
    last = client.json("/api/v3/klines?symbol=SOLUSDT&interval=1m&limit=1")[0]
    day = client.json("/api/v3/ticker/24hr?symbol=SOLUSDT")
    assert day["lastPrice"] == last[4] == client.json("/api/v3/ticker/price?symbol=SOLUSDT")["price"]
    assert float(day["lowPrice"]) <= float(day["lastPrice"]) <= float(day["highPrice"])
    assert len(client.json('/api/v3/ticker/price?symbols=["BTCUSDT","ETHUSDT"]'.replace('"', "%22"))) == 2
    assert client.refused("/api/v3/ticker/price?symbols=[%22BTCUSDT%22,%22NOPE%22]") == (400, -1121)
    assert "bidPrice" not in client.json("/api/v3/ticker/24hr?symbol=SOLUSDT&type=MINI")
    assert {row["symbol"] for row in client.json("/dapi/v1/ticker/price?pair=BTCUSD")} >= {"BTCUSD_PERP"}


# Loaded candles, corrections, holes


def test_loaded_candles_are_served_as_they_are() -> None:
    rows: list[list[Any]] = json.loads(
        '[[1518168494789,"8269.11","8270.00","8200.5","8250","1.5",1518170400999,"12400.1",12,"0.7","5800","0"],'
        '[1518163694789,"8100.10","8170.00","8090.5","8150","2.5",1518163694788,"20400.1",22,"1.7","9800","17.5"]]'
    )
    with PracticeExchange(clock=Clock(), weight_limit=PLENTY) as exchange:
        exchange.load("binance", "REALUSDT", "1h", json.dumps(rows).encode())
        served = json.loads(ask(exchange, "/api/v3/klines?symbol=REALUSDT&interval=1h&startTime=0")[2])
        assert served == rows[::-1]
        truth = exchange.truth("binance", "REALUSDT", "1h", 0, NOW_MS)
        assert_rows_are(served, truth)
        page = json.loads(ask(exchange, f"/api/v3/klines?symbol=REALUSDT&interval=1h&startTime={rows[1][0] + 1}")[2])
        assert page == rows[:1]
        assert json.loads(ask(exchange, "/api/v3/klines?symbol=REALUSDT&interval=1m")[2]) == []
        info = json.loads(ask(exchange, "/api/v3/exchangeInfo?symbol=REALUSDT")[2])
        assert info["symbols"][0]["baseAsset"] == "REAL"
        exchange.load("binance", "BTCUSDT", "1h", rows)
        assert json.loads(ask(exchange, "/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime=0")[2]) == rows[::-1]
        exchange.restate("binance", "BTCUSDT", "1h", 1518168494789, volume=9.5)
        assert json.loads(ask(exchange, "/api/v3/klines?symbol=BTCUSDT&interval=1h")[2])[-1][5] == "9.5"


def test_a_correction_changes_one_candle_from_then_on() -> None:
    at = utc_ms("2024-03-01T10:00")
    path = f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={at - 3 * MINUTE}&limit=7"
    with PracticeExchange(clock=Clock()) as exchange:
        before = json.loads(ask(exchange, path)[2])
        exchange.restate("binance", "BTCUSDT", "1m", at, volume=12.5, close="1.25000000", trades=3)
        after = json.loads(ask(exchange, path)[2])
        assert [row for row in after if row[0] != at] == [row for row in before if row[0] != at]
        assert (after[3][4], after[3][5], after[3][8]) == ("1.25000000", "12.50000000", 3)
        assert_rows_are(after, exchange.truth("binance", "BTCUSDT", "1m", at - 3 * MINUTE, at + 4 * MINUTE))
        exchange.restate("binance", "BTCUSDT", "1M", utc_ms("2024-07-01"), high="99999.00000000")
        assert (
            json.loads(ask(exchange, "/api/v3/klines?symbol=BTCUSDT&interval=1M&limit=1")[2])[0][2] == "99999.00000000"
        )


def test_a_page_that_is_printed_during_a_correction_is_not_served_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    at = utc_ms("2024-03-01T10:00")
    path = f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={at}&limit=1"
    with PracticeExchange(clock=Clock()) as exchange:
        exchange.restate("binance", "BTCUSDT", "1m", at, volume=1.0)
        amend_rows = text.amend_rows

        def amend_and_restate(*args: Any) -> text.Rows:
            printed = amend_rows(*args)
            monkeypatch.undo()
            exchange.restate("binance", "BTCUSDT", "1m", at, volume=2.0)
            return printed

        monkeypatch.setattr(series, "amend_rows", amend_and_restate)
        volumes = [json.loads(ask(exchange, path)[2])[0][5] for _ in range(2)]
        assert volumes == ["1.00000000", "2.00000000"]


def test_what_is_changed_of_a_market_is_changed_for_one_exchange_alone() -> None:
    """Exchanges of one seed share what they made of it, in whichever order they ask."""
    at = utc_ms("2024-03-01T10:00")
    path = f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={at}&limit=3"

    def seen(exchange: PracticeExchange) -> list[Any]:
        truth = exchange.truth("binance", "BTCUSDT", "1m", at, at + 3 * MINUTE)
        day = exchange.archive.read("data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-03-01.zip")
        return [ask(exchange, path)[2], {name: column.tolist() for name, column in truth.items()}, day]

    with PracticeExchange(clock=Clock()) as one, PracticeExchange(clock=Clock()) as other:
        before = seen(one)
        one.restate("binance", "BTCUSDT", "1m", at, trades=3, volume=12.5)
        corrected = seen(one)
        one.hide("binance", "BTCUSDT", (at + MINUTE, at + 2 * MINUTE))
        hidden = seen(one)
        assert seen(other) == before
        other.restate("binance", "BTCUSDT", "1m", at, trades=4)
        assert json.loads(ask(other, path)[2])[0][8] == 4
        assert seen(one) == hidden
        one.unhide("binance", "BTCUSDT")
        assert seen(one) == corrected
        assert len({repr(what) for what in (before, corrected, hidden, seen(other))}) == 4
        with PracticeExchange(clock=Clock()) as third:
            assert seen(third) == before


@pytest.mark.parametrize(
    ("symbol", "start"),
    [("BTCUSDT", "2018-02-07T20:00"), ("BNBUSDT", "2017-11-05T20:00"), ("EOSETH", "2025-05-27T20:00")],
    ids=["outage", "listing", "end"],
)
def test_minutes_of_some_hours_are_those_of_the_market(symbol: str, start: str) -> None:
    tape, now_ms = Tape(7), utc_ms("2026-01-01")
    listing = tape.find("binance", symbol)
    assert listing is not None
    series = tape.generated("binance", listing)
    first = utc_ms(start) // (60 * MINUTE)
    hours = np.array([first, first + 1, first + 3, *range(first + 4, first + 31), first + 80])
    some, all_ = series.minutes(hours), series.truth(first * 60 * MINUTE, (first + 81) * 60 * MINUTE, now_ms)
    wanted = np.isin(all_["open_time"] // (60 * MINUTE), hours)
    assert 0 < wanted.sum() < len(hours) * 60
    assert {name: column[wanted].tolist() for name, column in all_.items()} == {
        name: column.tolist() for name, column in some.items()
    }


def test_hidden_candles_are_not_served_and_come_back() -> None:
    at = utc_ms("2024-03-01T10:00")
    with PracticeExchange(clock=Clock()) as exchange:
        path = f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={at}&limit=5"
        before = json.loads(ask(exchange, path)[2])
        exchange.hide("binance", "BTCUSDT", (at + MINUTE, at + 3 * MINUTE))
        hidden = [row[0] for row in json.loads(ask(exchange, path)[2])]
        assert hidden == [at + minute * MINUTE for minute in (0, 3, 4, 5, 6)]
        newest = f"/api/v3/klines?symbol=BTCUSDT&interval=1m&endTime={at + 4 * MINUTE}&limit=3"
        assert [row[0] for row in json.loads(ask(exchange, newest)[2])] == [at, at + 3 * MINUTE, at + 4 * MINUTE]
        exchange.unhide("binance", "BTCUSDT", (at + MINUTE, at + 3 * MINUTE))
        assert json.loads(ask(exchange, path)[2]) == before


# Limits


def test_weight_is_counted_per_market_and_whole_minute() -> None:
    clock = Clock(utc_ms("2024-03-01T10:00:20"))
    with PracticeExchange(clock=clock) as exchange:
        headers = ask(exchange, "/api/v3/klines?symbol=BTCUSDT&interval=1h")[1]
        assert (headers["x-mbx-used-weight"], headers["x-mbx-used-weight-1m"]) == ("2", "2")
        assert headers["date"] == "Fri, 01 Mar 2024 10:00:20 GMT"
        for limit, weight in ((99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10)):
            before = exchange.counts["binance-um"].weights.get(utc_ms("2024-03-01T10:00"), 0)
            headers = ask(exchange, f"/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit={limit}")[1]
            assert int(headers["x-mbx-used-weight-1m"]) - before == weight
            assert "x-mbx-used-weight" not in headers
        assert ask(exchange, "/api/v3/exchangeInfo")[1]["x-mbx-used-weight-1m"] == "22"
        clock.ms += MINUTE
        assert ask(exchange, "/api/v3/ticker/24hr")[1]["x-mbx-used-weight-1m"] == "80"
        assert exchange.counts["binance"].weights == {utc_ms("2024-03-01T10:00"): 22, utc_ms("2024-03-01T10:01"): 80}
        assert exchange.counts["binance-cm"].requests == 0


def test_too_much_weight_is_refused_until_the_next_minute(shared: Path) -> None:
    clock = Clock(utc_ms("2024-03-01T10:00:20.500"))
    with PracticeExchange(clock=clock, weight_limit=5) as exchange:
        client = Client(exchange)
        path = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=1"
        assert [client.get(path)[0] for _ in range(3)] == [200, 200, 429]
        status, headers, body = client.get(path)
        assert (status, headers["retry-after"]) == (429, "40")
        theirs = recorded(shared, "binance_spot/error_429_weight.json")
        assert json.loads(body)["code"] == theirs["code"]
        assert json.loads(body)["msg"].startswith("Too much request weight used; current limit is 5 request weight per")
        assert client.get("/fapi/v1/ping")[0] == 200
        clock.ms += 40_000
        assert client.get(path)[0] == 200
        assert exchange.counts["binance"].refusals == 2
        client.close()


def test_going_on_after_refusals_is_a_ban_that_ends() -> None:
    clock = Clock(utc_ms("2024-03-01T10:00:00"))
    with PracticeExchange(clock=clock, weight_limit=1, patience=3, ban_s=100) as exchange:
        client = Client(exchange)
        statuses = [client.get("/api/v3/ping")[0] for _ in range(6)]
        assert statuses == [200, 429, 429, 429, 418, 418]
        clock.ms += 70_000
        status, headers, body = client.get("/api/v3/ping")
        assert (status, headers["retry-after"]) == (418, "30")
        assert str(utc_ms("2024-03-01T10:01:40")) in json.loads(body)["msg"]
        clock.ms += 30_000
        assert client.get("/api/v3/ping")[0] == 200
        assert exchange.counts["binance"].bans == 1
        client.close()


@pytest.mark.slow
def test_um_funding_has_a_budget_of_its_own() -> None:
    with PracticeExchange(clock=Clock()) as exchange:
        client = Client(exchange)
        statuses = [client.get("/fapi/v1/fundingInfo")[0] for _ in range(501)]
        assert statuses == [200] * 500 + [429]
        assert client.get("/fapi/v1/time")[1]["x-mbx-used-weight-1m"] == "1"
        client.close()


# Requests on record


def test_requests_are_on_record() -> None:
    with PracticeExchange(clock=Clock(), log=True) as exchange:
        client = Client(exchange)
        client.get("/us/api/v3/klines?symbol=BTCUSDT&interval=1h", {"X-Thing": "1"})
        client.close()
        (request,) = exchange.requests
        assert request[:7] == (
            NOW_MS / 1000, "GET", "/us/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h"}, 200, 2, "binance-us",
        )  # fmt: skip
        assert request.headers["x-thing"] == "1"
        exchange.clear_log()
        assert exchange.requests == []


def test_base_urls_name_every_market(exchange: PracticeExchange) -> None:
    assert set(exchange.base_urls) >= {"binance", "binance-us", "binance-um", "binance-cm", "binance-archive", "kraken"}
    assert exchange.base_urls["binance-us"] == exchange.url + "/us"


def test_replies_are_packed_for_clients_that_accept_it() -> None:
    path = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=50"
    with PracticeExchange(clock=Clock(), gzip=True) as exchange:
        client = Client(exchange)
        _, headers, packed = client.get(path, {"Accept-Encoding": "gzip, deflate"})
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed) == client.get(path)[2]
        client.close()


# Faults

KLINES = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=50"


@pytest.fixture
def faulty() -> Iterator[PracticeExchange]:
    with PracticeExchange(clock=Clock(), weight_limit=PLENTY) as running:
        yield running


def raw_reply(exchange: PracticeExchange, path: str = KLINES) -> tuple[bytes, bytes]:
    """Head and body as they came, until the connection ended."""
    host, port = exchange.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def test_a_fault_hits_the_requests_that_match_so_often(faulty: PracticeExchange) -> None:
    fault = faulty.fail(faults.status(500), times=2, match="/klines", after=1)
    assert ask(faulty, "/api/v3/ping")[0] == 200
    assert [ask(faulty, KLINES)[0] for _ in range(4)] == [200, 500, 500, 200]
    assert fault.hits == 2
    forever = faulty.fail(faults.status(503), times=None, match=lambda path, params: params.get("limit") == "50")
    assert [ask(faulty, KLINES)[0] for _ in range(3)] == [503] * 3
    forever.stop()
    assert ask(faulty, KLINES)[0] == 200
    assert [request.status for request in faulty.requests][1:4] == [200, None, None]


def test_faults_can_be_given_from_the_start() -> None:
    with PracticeExchange(clock=Clock(), faults=[faults.Fault(faults.status(502))]) as exchange:
        assert [ask(exchange, KLINES)[0] for _ in range(2)] == [502, 200]


@pytest.mark.parametrize(
    ("action", "status", "header", "part"),
    [
        (faults.status(404, b"<html>", [("X-Thing", "1")]), 404, ("x-thing", "1"), b"<html>"),
        (faults.rate_limited(7), 429, ("retry-after", "7"), b"-1003"),
        (faults.rate_limited("soon"), 429, ("retry-after", "soon"), b"-1003"),
        (faults.banned(1660090423228), 418, ("retry-after", "120"), b"banned until 1660090423228"),
        (faults.forbidden(), 403, ("content-type", "text/html"), b"<html>"),
        (faults.restricted(), 451, None, b'"code": 0'),
        (faults.overloaded(), 503, None, b"-1008"),
        (faults.redirect("http://127.0.0.2/x"), 302, ("location", "http://127.0.0.2/x"), b""),
        (faults.html_200(), 200, ("content-type", "text/html"), b"<!DOCTYPE html>"),
        (faults.body(b'{"a":1}'), 200, None, b'{"a":1}'),
        (faults.transform(lambda body: body[::-1]), 200, None, b"]]"[::-1]),
        (faults.close_after_reply(), 200, None, b"[["),
        (faults.drip_headers(5000), 200, None, b"[["),
        (faults.hang(0.02), 200, None, b"[["),
    ],
)
def test_faults_that_are_whole_replies(
    faulty: PracticeExchange, action: faults.FaultAction, status: int, header: tuple[str, str] | None, part: bytes
) -> None:
    faulty.fail(action)
    got, headers, body = ask(faulty, KLINES.replace("50", "1"))
    assert got == status
    assert part in body
    if header:
        assert headers[header[0]] == header[1]


def test_a_restricted_reply_reads_like_the_recorded_one(faulty: PracticeExchange, shared: Path) -> None:
    faulty.fail(faults.restricted())
    assert (
        json.loads(ask(faulty, KLINES)[2]).keys()
        == recorded(shared, "binance_spot/error_451_restricted_location.json").keys()
    )


def test_connections_that_end_instead_of_a_reply(faulty: PracticeExchange) -> None:
    faulty.fail(faults.reset())
    with pytest.raises(ConnectionResetError):
        ask(faulty, KLINES)
    faulty.fail(faults.close_before_reply())
    with pytest.raises(http.client.RemoteDisconnected):
        ask(faulty, KLINES)
    faulty.fail(faults.no_headers())
    with pytest.raises(http.client.BadStatusLine):
        ask(faulty, KLINES)


def test_a_reply_can_close_the_connection_unannounced(faulty: PracticeExchange) -> None:
    faulty.fail(faults.close_after_reply())
    client = Client(faulty)
    assert client.get(KLINES)[1]["connection"] == "keep-alive"
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        client.get(KLINES)
    client.close()


def test_bodies_that_are_cut(faulty: PracticeExchange) -> None:
    whole = ask(faulty, KLINES)[2]
    faulty.fail(faults.cut(100))
    with pytest.raises(http.client.IncompleteRead) as short:
        ask(faulty, KLINES)
    assert short.value.partial == whole[:100]
    faulty.fail(faults.cut_unframed(0.5))
    head, body = raw_reply(faulty)
    assert b"Content-Length" not in head
    assert body == whole[: len(whole) // 2]
    faulty.fail(faults.cut_chunked(100))
    with pytest.raises(http.client.IncompleteRead):
        ask(faulty, KLINES)
    faulty.fail(faults.cut_chunked(100, at_border=True))
    assert raw_reply(faulty)[1].endswith(whole[90:100] + b"\r\n")


def test_gzip_that_is_cut_or_wrong(faulty: PracticeExchange) -> None:
    whole = ask(faulty, KLINES)[2]
    faulty.fail(faults.gzip_cut(0.5))
    _, headers, body = ask(faulty, KLINES)
    assert (headers["content-encoding"], int(headers["content-length"])) == ("gzip", len(body))
    with pytest.raises(EOFError):
        gzip.decompress(body)
    faulty.fail(faults.bad_gzip("crc"))
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(ask(faulty, KLINES)[2])
    faulty.fail(faults.bad_gzip("plain"))
    assert ask(faulty, KLINES)[2] == whole
    faulty.fail(faults.bad_gzip("bare"))
    assert zlib.decompress(ask(faulty, KLINES)[2], -15) == whole
    faulty.fail(faults.bad_gzip("twice"))
    assert gzip.decompress(ask(faulty, KLINES)[2]) == whole * 2
    faulty.fail(faults.bad_gzip("nested"))
    assert ask(faulty, KLINES)[1]["content-encoding"] == "gzip, gzip"
    with pytest.raises(ValueError, match="expected crc"):
        faults.bad_gzip("odd")


def test_a_bomb_is_small_and_unpacks_large(faulty: PracticeExchange) -> None:
    faulty.fail(faults.bomb(5_000_000))
    body = ask(faulty, KLINES)[2]
    assert len(body) < 50_000
    assert len(gzip.decompress(body)) > 5_000_000


def test_an_endless_body_ends_when_the_client_goes(faulty: PracticeExchange) -> None:
    faulty.fail(faults.endless())
    host, port = faulty.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(f"GET {KLINES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        seen = 0
        while seen < 2_000_000:
            seen += len(raw.recv(65536))


@pytest.mark.parametrize("action", [faults.hang(600), faults.drip(1), faults.drip_headers(1), faults.endless()])
def test_closing_ends_faults_that_hang(action: faults.FaultAction) -> None:
    exchange = PracticeExchange(clock=Clock()).start()
    exchange.fail(action)
    host, port = exchange.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(f"GET {KLINES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for _ in range(200):
            if exchange.requests:
                break
            time.sleep(0.005)
        began = time.monotonic()
        exchange.close()
        assert time.monotonic() - began < 30


# Life


def test_closing_leaves_no_thread_and_no_port() -> None:
    before = set(threading.enumerate())
    exchange = PracticeExchange(clock=Clock()).start()
    client = Client(exchange)
    client.get(KLINES)
    exchange.close()
    exchange.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(OSError):
        socket.create_connection(client.address, timeout=1)
    client.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = exchange.url


@pytest.mark.slow
def test_many_clients_at_once_get_their_own_answers(exchange: PracticeExchange) -> None:
    wrong: list[str] = []

    def work(symbol: str, timeframe: str) -> None:
        client = Client(exchange)
        for start in range(utc_ms("2024-03-01"), utc_ms("2024-03-05"), DAY):
            rows = client.json(f"/api/v3/klines?symbol={symbol}&interval={timeframe}&startTime={start}&limit=200")
            truth = exchange.truth("binance", symbol, timeframe, start, rows[-1][0] + 1)
            if [float(row[4]) for row in rows] != truth["close"].tolist():
                wrong.append(f"{symbol} {timeframe}")
        client.close()

    pairs = itertools.product(("BTCUSDT", "ETHUSDT", "ADABTC", "BNBUSDT"), ("1m", "5m", "1h"))
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_clients_than_connections_are_still_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candle_fetcher.practice.server._MOST_CONNECTIONS", 4)
    with PracticeExchange(clock=Clock()) as exchange:
        clients = [Client(exchange) for _ in range(12)]
        assert [client.get("/api/v3/ping")[0] for client in clients] == [200] * 12
        for client in clients:
            client.close()


def test_unknown_names_are_errors_that_say_so(exchange: PracticeExchange) -> None:
    with pytest.raises(ValueError, match="unknown provider 'bybit'"):
        exchange.truth("bybit", "BTCUSDT", "1h", 0, 1)
    with pytest.raises(ValueError, match="no symbol 'NOPE'"):
        exchange.truth("binance", "NOPE", "1h", 0, 1)
    with pytest.raises(ValueError, match="unknown field 'colume'"):
        exchange.restate("binance", "BTCUSDT", "1h", 0, colume=1)
    with pytest.raises(ValueError, match="unknown kind 'funding'"):
        exchange.truth("binance", "BTCUSDT", "1h", 0, 1, kind="funding")


@pytest.mark.fault("J24")
@pytest.mark.parametrize(
    ("provider", "symbol"),
    [
        ("kraken", "XBTUSD"),
        ("kraken", "XBTUSDT"),
        ("binance-um", "BTCUSDT"),
        ("binance-cm", "BTCUSD_PERP"),
        ("binance-us", "BTCUSDT"),
        ("alpaca-crypto", "BTC/USD"),
    ],
)
def test_an_asset_has_one_price_on_all_markets(exchange: PracticeExchange, provider: str, symbol: str) -> None:
    hours = utc_ms("2024-01-01"), utc_ms("2024-01-15")
    one = exchange.truth("binance", "BTCUSDT", "1h", *hours)["close"]
    other = exchange.truth(provider, symbol, "1h", *hours)["close"]
    assert np.abs(other / one - 1).max() < 0.01
    assert np.corrcoef(np.diff(np.log(one)), np.diff(np.log(other)))[0, 1] > 0.95


@pytest.mark.fault("J24")
def test_a_pair_of_two_assets_is_worth_what_they_are(exchange: PracticeExchange) -> None:
    days = utc_ms("2023-12-01"), utc_ms("2024-03-01")
    bitcoin, ether, pair = (
        exchange.truth("binance", symbol, "1d", *days)["open"] for symbol in ("BTCUSDT", "ETHUSDT", "ETHBTC")
    )
    assert np.allclose(ether / bitcoin, pair, rtol=1e-3)


@pytest.mark.fault("J24")
@pytest.mark.parametrize(
    ("symbol", "day", "price"),
    [
        ("BTCUSDT", "2020-03-01", 8524),
        ("BTCUSDT", "2024-01-01", 42283),
        ("BTCUSDT", "2024-04-01", 71280),
        ("ETHUSDT", "2024-01-01", 2282),
        ("SOLUSDT", "2024-01-01", 101.7),
    ],
)
def test_a_price_is_about_what_the_day_had(exchange: PracticeExchange, symbol: str, day: str, price: float) -> None:
    opened = exchange.truth("binance", symbol, "1d", utc_ms(day), utc_ms(day) + DAY)["open"][0]
    assert opened == pytest.approx(price, rel=0.01)
