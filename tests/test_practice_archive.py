"""The archive of the practice exchange against real files, its documented layout, and its own market."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import threading
import urllib.parse
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_fetcher.practice import Damage, PracticeExchange, archive, damage, faults
from candle_fetcher.practice.damage import pack, unpack
from candle_fetcher.practice.listings import utc_ms

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = "2026-07-03T10:00"
S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
FIELDS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades", "taker_buy_volume",
    "taker_buy_quote_volume",
)  # fmt: skip
SPOT_MONTH = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip"
SPOT_DAY = "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03-05.zip"
DAY_MS = utc_ms("2024-03-05")


class Clock:
    def __init__(self, now: str = NOW) -> None:
        self.ms = utc_ms(now)

    def __call__(self) -> float:
        return self.ms / 1000


@pytest.fixture(scope="module")
def whole() -> Iterator[PracticeExchange]:
    """An exchange that no test changes."""
    with PracticeExchange(clock=Clock(), log=False) as running:
        yield running


@pytest.fixture
def exchange() -> Iterator[PracticeExchange]:
    with PracticeExchange(clock=Clock()) as running:
        yield running


def get(exchange: PracticeExchange, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(exchange.url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read()
    finally:
        connection.close()


def fetch(exchange: PracticeExchange, key: str) -> bytes:
    status, _, body = get(exchange, f"/{key}")
    assert status == 200, body
    return body


def lines(exchange: PracticeExchange, key: str) -> list[str]:
    """The lines of the CSV; the zip and its CHECKSUM agree, and the member bears the name of the file."""
    body = fetch(exchange, key)
    assert fetch(exchange, key + ".CHECKSUM").decode() == f"{hashlib.sha256(body).hexdigest()}  {Path(key).name}"
    name, text = unpack(body)
    assert name == Path(key).with_suffix(".csv").name
    assert text.endswith(b"\n")
    return text.decode().splitlines()


def verified(exchange: PracticeExchange, key: str) -> bool:
    body = fetch(exchange, key)
    return fetch(exchange, key + ".CHECKSUM").split()[0].decode() == hashlib.sha256(body).hexdigest()


def listing(exchange: PracticeExchange, prefix: str, **params: str) -> tuple[list[str], list[str], str, str | None]:
    """Keys, folders, whether it is cut and the next marker."""
    query = urllib.parse.urlencode({"prefix": prefix, **params})
    status, headers, body = get(exchange, f"/?{query}")
    assert (status, headers["content-type"]) == (200, "application/xml")
    root = ET.fromstring(body)
    assert root.findtext(f"{S3}Prefix") == prefix
    keys = [entry.findtext(f"{S3}Key") or "" for entry in root.iter(f"{S3}Contents")]
    folders = [entry.findtext(f"{S3}Prefix") or "" for entry in root.iter(f"{S3}CommonPrefixes")]
    return keys, folders, root.findtext(f"{S3}IsTruncated") or "", root.findtext(f"{S3}NextMarker")


# Against real files


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    "key",
    [
        "futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2022-05-04",
        "futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-08",
        "futures/um/monthly/klines/BTCUSDT/5m/BTCUSDT-5m-2022-04",
        "spot/daily/klines/ADABTC/1m/ADABTC-1m-2021-11-27",
        "spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2018-07",
        "spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2019-11",
        "spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-12",
        "spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01",
    ],
)
def test_files_have_the_form_of_real_ones(shared: Path, key: str) -> None:
    real = shared / "market_data" / "vision_csv" / f"{key}.csv"
    if not real.exists():
        pytest.skip("this file is not among the recorded ones")
    theirs = real.read_text().splitlines()
    with PracticeExchange(clock=Clock("2026-09-10"), log=False) as exchange:
        ours = lines(exchange, f"data/{key}.zip")
    assert len(ours) == len(theirs)
    assert ours[0].isascii()
    assert [line for line in ours[:1] if line[0].isalpha()] == [line for line in theirs[:1] if line[0].isalpha()]
    assert [shape(ours[at]) for at in (1, -1)] == [shape(theirs[at]) for at in (1, -1)]
    if "fundingRate" not in key:
        assert [row.split(",")[0] for row in ours] == [row.split(",")[0] for row in theirs]
        # Our stops are known to the second.
        assert [row.split(",")[6][:10] for row in ours] == [row.split(",")[6][:10] for row in theirs]


def shape(line: str) -> list[tuple[int, int]]:
    """Of each field: the digits before the point where it is a time, and the decimals."""
    fields = line.split(",")
    return [
        (len(field) if at in (0, 6) and len(field) > 9 else 0, len(field.partition(".")[2]))
        for at, field in enumerate(fields)
    ]


@pytest.mark.slow(
    only=(
        "spot_daily_klines_dogeusdt_1s_2025-01-01_first3.csv-data/spot/daily/klines/DOGEUSDT/1s/DOGEUSDT-1s-2025-01-01.zip",
    )
)
@pytest.mark.parametrize(
    ("name", "key"),
    [
        (
            "cm_daily_klines_btcusd_perp_1h_2023-10-27_first3.csv",
            "data/futures/cm/daily/klines/BTCUSD_PERP/1h/BTCUSD_PERP-1h-2023-10-27.zip",
        ),
        (
            "spot_daily_klines_dogeusdt_1s_2025-01-01_first3.csv",
            "data/spot/daily/klines/DOGEUSDT/1s/DOGEUSDT-1s-2025-01-01.zip",
        ),
        (
            "spot_monthly_1d_2025-01_first_row_microseconds.csv",
            "data/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2025-01.zip",
        ),
        (
            "um_monthly_klines_1d_2020-01_no_header.csv",
            "data/futures/um/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2020-01.zip",
        ),
    ],
)
def test_first_rows_have_the_form_of_recorded_ones(whole: PracticeExchange, shared: Path, name: str, key: str) -> None:
    theirs = (shared / "recorded" / "binance_vision" / name).read_text().split()
    ours = lines(whole, key)[: len(theirs)]
    assert [row.split(",")[0] for row in ours] == [row.split(",")[0] for row in theirs]
    assert shape(ours[-1]) == shape(theirs[-1])


def test_a_recorded_checksum_has_our_form(whole: PracticeExchange, shared: Path) -> None:
    name = "spot_daily_klines_btcusdt_1m_2020-01-01_checksum.txt"
    theirs = (shared / "recorded" / "binance_vision" / name).read_bytes()
    ours = fetch(whole, "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2020-01-01.zip.CHECKSUM")
    assert ours[64:] == theirs[64:]
    assert len(ours) == len(theirs)


@pytest.mark.slow
def test_a_listing_has_the_elements_of_the_recorded_one(whole: PracticeExchange, shared: Path) -> None:
    theirs = ET.parse(shared / "recorded" / "binance_vision" / "s3_listing_um_daily_trades_2026-09.xml").getroot()
    prefix = "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-06-0"
    ours = ET.fromstring(get(whole, f"/?delimiter=/&prefix={prefix}")[2])
    assert [child.tag for child in ours][:6] == [child.tag for child in theirs][:6]
    theirs_has, ours_has = ({child.tag for child in root.iter()} for root in (theirs, ours))
    assert theirs_has <= ours_has


def test_real_files_are_served_as_they_are(exchange: PracticeExchange, shared: Path) -> None:
    key = "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2020-01-01.zip"
    folder = shared / "market_data" / "vision"
    if not (folder / key.removeprefix("data/")).exists():
        pytest.skip("there is no real zip among the recorded data")
    real = (folder / key.removeprefix("data/")).read_bytes()
    checksum = (folder / (key.removeprefix("data/") + ".CHECKSUM")).read_text()
    exchange.archive.load(key, real, checksum)
    assert fetch(exchange, key) == real
    assert fetch(exchange, key + ".CHECKSUM").decode() == checksum
    assert verified(exchange, key)


# Layout


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    "key",
    [
        "data/spot/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2024-03-05.zip",
        "data/spot/monthly/klines/ETHBTC/1mo/ETHBTC-1mo-2024-03.zip",
        "data/spot/monthly/klines/BTCUSDT/3d/BTCUSDT-3d-2024-03.zip",
        "data/spot/monthly/klines/EOSETH/1d/EOSETH-1d-2025-05.zip",
        "data/futures/um/monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-03.zip",
        "data/futures/um/daily/markPriceKlines/ETHUSDT/1m/ETHUSDT-1m-2024-03-05.zip",
        "data/futures/um/monthly/indexPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip",
        "data/futures/um/daily/premiumIndexKlines/BTCUSDT/5m/BTCUSDT-5m-2024-03-05.zip",
        "data/futures/um/daily/klines/BTCUSDT_240329/1h/BTCUSDT_240329-1h-2024-03-05.zip",
        "data/futures/um/monthly/fundingRate/DOGEUSDT/DOGEUSDT-fundingRate-2024-03.zip",
        "data/futures/cm/daily/klines/BTCUSD_PERP/1d/BTCUSD_PERP-1d-2024-03-05.zip",
        "data/futures/cm/monthly/markPriceKlines/BTCUSD_240329/1h/BTCUSD_240329-1h-2024-03.zip",
        "data/futures/cm/monthly/indexPriceKlines/BTCUSD/1h/BTCUSD-1h-2024-03.zip",
        "data/futures/cm/monthly/premiumIndexKlines/ETHUSD_PERP/1h/ETHUSD_PERP-1h-2024-03.zip",
        "data/futures/cm/monthly/fundingRate/BTCUSD_PERP/BTCUSD_PERP-fundingRate-2024-03.zip",
    ],
)
def test_these_files_are_there(whole: PracticeExchange, key: str) -> None:
    rows = lines(whole, key)
    assert rows[-1].count(",") == (2 if "fundingRate" in key else 11)


@pytest.mark.parametrize(
    "key",
    [
        "data/spot/daily/klines/BTCUSDT/1w/BTCUSDT-1w-2024-03-04.zip",
        "data/spot/monthly/klines/BTCUSDT/1M/BTCUSDT-1M-2024-03.zip",
        "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02-30.zip",
        "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip",
        "data/spot/daily/klines/BTCUSDT/1h/ETHUSDT-1h-2024-03-05.zip",
        "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-2h-2024-03-05.zip",
        "data/spot/daily/klines/NOPEUSDT/1h/NOPEUSDT-1h-2024-03-05.zip",
        "data/spot/daily/klines/SOLUSDT/1h/SOLUSDT-1h-2020-08-10.zip",
        "data/spot/daily/klines/EOSETH/1h/EOSETH-1h-2025-05-29.zip",
        "data/spot/monthly/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip",
        "data/spot/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-03.zip",
        "data/futures/um/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2024-03-05.zip",
        "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2019-12-30.zip",
        "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2019-12.zip",
        "data/futures/um/daily/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-03-05.zip",
        "data/futures/um/monthly/fundingRate/BTCUSDT_240329/BTCUSDT_240329-fundingRate-2024-03.zip",
        "data/futures/cm/daily/indexPriceKlines/BTCUSD_PERP/1h/BTCUSD_PERP-1h-2024-03-05.zip",
        "data/futures/cm/daily/premiumIndexKlines/BTCUSD_240329/1h/BTCUSD_240329-1h-2024-03-05.zip",
        "data/nothing",
    ],
)
def test_these_files_are_not_there(whole: PracticeExchange, key: str) -> None:
    for path in (f"/{key}", f"/{key}.CHECKSUM"):
        status, headers, body = get(whole, path)
        assert (status, headers["content-type"]) == (404, "application/xml")
        error = ET.fromstring(body)
        assert (error.tag, error.findtext("Code"), error.findtext("Key")) == ("Error", "NoSuchKey", path[1:])


@pytest.mark.parametrize(
    ("key", "header", "digits"),
    [
        ("data/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2024-12.zip", False, 13),
        ("data/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2025-01.zip", False, 16),
        ("data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-12-31.zip", False, 13),
        ("data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-01.zip", False, 16),
        ("data/futures/um/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2023-01.zip", False, 13),
        ("data/futures/um/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2023-02.zip", True, 13),
        ("data/futures/um/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2025-02.zip", True, 13),
        ("data/futures/um/monthly/markPriceKlines/BTCUSDT/1d/BTCUSDT-1d-2022-02.zip", True, 13),
        ("data/futures/cm/daily/klines/BTCUSD_PERP/1d/BTCUSD_PERP-1d-2023-09-30.zip", False, 13),
        ("data/futures/cm/daily/klines/BTCUSD_PERP/1d/BTCUSD_PERP-1d-2023-10-01.zip", True, 13),
    ],
)
def test_header_and_unit_follow_market_and_date(whole: PracticeExchange, key: str, header: bool, digits: int) -> None:
    rows = lines(whole, key)
    assert (rows[0] == HEADER) == header
    assert rows[0][0].isalpha() == header
    fields = rows[-1].split(",")
    assert len(fields[0]) == len(fields[6]) == digits
    assert fields[6].endswith("999999" if digits == 16 else "999")


# Rows


@pytest.mark.slow(
    keep=(
        "binance-candles-BTCUSDT-1m-data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2018-02-09.zip-2018-02-09-2018-02-10",
        "binance-candles-ETHUSDT-1h-data/spot/monthly/klines/ETHUSDT/1h/ETHUSDT-1h-2025-01.zip-2025-01-01-2025-02-01",
        "binance-candles-SOLUSDT-3d-data/spot/monthly/klines/SOLUSDT/3d/SOLUSDT-3d-2020-08.zip-2020-08-01-2020-09-01",
        "binance-um-candles-BTCUSDT-1w-data/futures/um/monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-12.zip-2024-12-01-2025-01-01",
        "binance-um-premium-BTCUSDT-1h-data/futures/um/daily/premiumIndexKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03-05.zip-2024-03-05-2024-03-06",
        "binance-cm-index-BTCUSD_PERP-1h-data/futures/cm/daily/indexPriceKlines/BTCUSD/1h/BTCUSD-1h-2024-03-05.zip-2024-03-05-2024-03-06",
        "binance-cm-candles-BTCUSD_240329-12h-data/futures/cm/monthly/klines/BTCUSD_240329/12h/BTCUSD_240329-12h-2024-03.zip-2024-03-01-2024-04-01",
    )
)
@pytest.mark.parametrize(
    ("provider", "kind", "symbol", "timeframe", "key", "start", "end"),
    [
        ("binance", "candles", "BTCUSDT", "1m", "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03.zip",
         "2023-03-01", "2023-04-01"),
        ("binance", "candles", "BTCUSDT", "1m", "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2018-02-09.zip",
         "2018-02-09", "2018-02-10"),
        ("binance", "candles", "ETHUSDT", "1h", "data/spot/monthly/klines/ETHUSDT/1h/ETHUSDT-1h-2025-01.zip",
         "2025-01-01", "2025-02-01"),
        ("binance", "candles", "SOLUSDT", "3d", "data/spot/monthly/klines/SOLUSDT/3d/SOLUSDT-3d-2020-08.zip",
         "2020-08-01", "2020-09-01"),
        ("binance", "candles", "WLFIUSDT", "1s", "data/spot/daily/klines/WLFIUSDT/1s/WLFIUSDT-1s-2025-09-01.zip",
         "2025-09-01", "2025-09-02"),
        ("binance-um", "candles", "BTCUSDT", "1w", "data/futures/um/monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-12.zip",
         "2024-12-01", "2025-01-01"),
        ("binance-um", "premium", "BTCUSDT", "1h",
         "data/futures/um/daily/premiumIndexKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03-05.zip", "2024-03-05", "2024-03-06"),
        ("binance-cm", "index", "BTCUSD_PERP", "1h",
         "data/futures/cm/daily/indexPriceKlines/BTCUSD/1h/BTCUSD-1h-2024-03-05.zip", "2024-03-05", "2024-03-06"),
        ("binance-cm", "candles", "BTCUSD_240329", "12h",
         "data/futures/cm/monthly/klines/BTCUSD_240329/12h/BTCUSD_240329-12h-2024-03.zip", "2024-03-01", "2024-04-01"),
    ],
)  # fmt: skip
def test_rows_are_the_candles_of_the_market(
    whole: PracticeExchange, provider: str, kind: str, symbol: str, timeframe: str, key: str, start: str, end: str
) -> None:
    truth = whole.truth(provider, symbol, timeframe, utc_ms(start), utc_ms(end), kind=kind)
    rows = [line.split(",") for line in lines(whole, key) if line[0].isdigit()]
    assert len(rows) == len(truth["open_time"]) > 0
    per_ms = 1000 if len(rows[0][0]) == 16 else 1
    for at, field in enumerate(FIELDS):
        ours = np.array([float(row[at]) for row in rows])
        if field in ("open_time", "close_time"):
            ours = np.array([int(row[at]) // per_ms for row in rows])
        np.testing.assert_array_equal(ours, truth[field].astype(ours.dtype), err_msg=field)


@pytest.mark.slow
def test_values_are_the_very_texts_of_rest(whole: PracticeExchange) -> None:
    start, end = utc_ms("2025-03-05"), utc_ms("2025-03-06")
    query = f"interval=15m&startTime={start}&endTime={end - 1}&limit=1000"
    for path, root, symbol in (
        ("/api/v3/klines", "spot", "BTCUSDT"),
        ("/fapi/v1/klines", "futures/um", "DOGEUSDT"),
        ("/dapi/v1/klines", "futures/cm", "BTCUSD_PERP"),
        ("/fapi/v1/markPriceKlines", "futures/um", "BTCUSDT"),
    ):
        rest = json.loads(get(whole, f"{path}?symbol={symbol}&{query}")[2])
        kind = path.rpartition("/")[2]
        found = lines(whole, f"data/{root}/daily/{kind}/{symbol}/15m/{symbol}-15m-2025-03-05.zip")
        rows = [line.split(",") for line in found if line[0].isdigit()]
        times = (0, 6) if root == "spot" else ()
        expected = [[f"{value}{(at and '999') or '000'}" if at in times else str(value) for at, value in enumerate(row)]
                    for row in rest]  # fmt: skip
        assert rows == expected


def test_funding_rows_are_those_of_rest(whole: PracticeExchange) -> None:
    start, end = utc_ms("2024-03-01"), utc_ms("2024-04-01")
    every = {"DOGEUSDT": 4, "SOLUSDT": 1, "BTCUSD_PERP": 8}
    for path, root, symbol in (("/fapi", "um", "DOGEUSDT"), ("/fapi", "um", "SOLUSDT"), ("/dapi", "cm", "BTCUSD_PERP")):
        query = f"symbol={symbol}&startTime={start}&endTime={end - 1}&limit=1000"
        rest = json.loads(get(whole, f"{path}/v1/fundingRate?{query}")[2])
        rows = lines(whole, f"data/futures/{root}/monthly/fundingRate/{symbol}/{symbol}-fundingRate-2024-03.zip")
        assert rows[0] == "calc_time,funding_interval_hours,last_funding_rate"
        hours = every[symbol]
        assert len(rest) == 31 * 24 // hours
        assert rows[1:] == [f"{row['fundingTime']},{hours},{row['fundingRate']}" for row in rest]
        assert any(int(row.split(",")[0]) % HOUR for row in rows[1:])


def test_loaded_and_corrected_and_hidden_candles_show_in_the_files(exchange: PracticeExchange) -> None:
    before = lines(exchange, SPOT_DAY)
    exchange.restate("binance", "BTCUSDT", "1h", DAY_MS + HOUR, volume=12.5)
    after = lines(exchange, SPOT_DAY)
    assert [at for at in range(24) if before[at] != after[at]] == [1]
    assert after[1].split(",")[5] == "12.50000000"
    exchange.hide("binance", "BTCUSDT", (DAY_MS, DAY_MS + 3 * HOUR))
    assert lines(exchange, SPOT_DAY) == after[3:]
    exchange.unhide("binance", "BTCUSDT")
    assert lines(exchange, SPOT_DAY) == after
    row: list[Any] = [DAY_MS + 5, "1.0", "2", "1.0", "2", "3.25", DAY_MS + 4999, "6", 7, "1", "2", "0"]
    exchange.load("binance", "BTCUSDT", "1h", [row])
    assert lines(exchange, SPOT_DAY) == [",".join(map(str, row))]
    assert get(exchange, "/" + SPOT_DAY.replace("03-05", "03-06"))[0] == 404
    exchange.load("binance", "NEWUSDT", "1h", [row])
    assert lines(exchange, SPOT_DAY.replace("BTC", "NEW")) == [",".join(map(str, row))]


@pytest.mark.slow
def test_a_day_that_an_outage_swallows_has_no_file() -> None:
    stop = (utc_ms("2024-03-05"), utc_ms("2024-03-06T12:00"))
    with PracticeExchange(clock=Clock(), outages=[stop]) as exchange:
        assert get(exchange, f"/{SPOT_DAY}")[0] == 404
        assert len(lines(exchange, SPOT_DAY.replace("03-05", "03-06"))) == 12
        assert len(lines(exchange, SPOT_MONTH)) == 31 * 24 - 36
        keys = listing(exchange, SPOT_DAY[: -len("05.zip")], delimiter="/")[0]
        assert len(keys) == 60
        assert SPOT_DAY not in keys


# Time


@pytest.mark.slow
def test_a_file_appears_when_its_time_has_come() -> None:
    clock = Clock("2024-03-06T04:59:59")
    with PracticeExchange(clock=clock) as exchange:
        assert get(exchange, f"/{SPOT_DAY}")[0] == 404
        assert SPOT_DAY not in listing(exchange, SPOT_DAY)[0]
        clock.ms += 1000
        assert len(lines(exchange, SPOT_DAY)) == 24
        assert listing(exchange, SPOT_DAY)[0] == [SPOT_DAY, SPOT_DAY + ".CHECKSUM"]
        assert get(exchange, f"/{SPOT_DAY}")[1]["last-modified"] == "Wed, 06 Mar 2024 05:00:00 GMT"
        clock.ms = utc_ms("2024-04-01T08:00") - 1000
        assert get(exchange, f"/{SPOT_MONTH}")[0] == 404
        clock.ms += 1000
        assert len(lines(exchange, SPOT_MONTH)) == 31 * 24


def test_a_month_of_funding_appears_on_the_first_of_the_next_with_its_checksum() -> None:
    folder = "data/futures/um/monthly/fundingRate/BTCUSDT/"
    clock = Clock("2024-04-01T07:59:59")
    with PracticeExchange(clock=clock) as exchange:
        assert listing(exchange, folder)[0][-1] == f"{folder}BTCUSDT-fundingRate-2024-02.zip.CHECKSUM"
        assert get(exchange, f"/{folder}BTCUSDT-fundingRate-2024-03.zip")[0] == 404
        clock.ms += 1000
        keys = listing(exchange, folder)[0]
        names = [f"{folder}BTCUSDT-fundingRate-{year}-{month:02}.zip" for year in range(2020, 2025)
                 for month in range(1, 13 if year < 2024 else 4)]  # fmt: skip
        assert keys == [name + end for name in names for end in ("", ".CHECKSUM")]
        assert verified(exchange, names[-1])
        spoil = exchange.archive.spoil("fundingRate-2024-03", damage.missing())
        assert listing(exchange, folder)[0] == keys[:-2]
        spoil.stop()
        exchange.archive.spoil("fundingRate-2024-03", damage.flip())
        assert not verified(exchange, names[-1])


def test_the_lags_can_be_chosen() -> None:
    with PracticeExchange(clock=Clock("2024-04-03"), daily_lag_h=0, monthly_lag_h=49) as exchange:
        assert get(exchange, f"/{SPOT_DAY.replace('03-05', '04-02')}")[0] == 200
        assert get(exchange, f"/{SPOT_MONTH}")[0] == 404


def test_a_month_of_weeks_waits_for_its_last_week() -> None:
    key = "data/spot/monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-04.zip"
    clock = Clock("2024-05-06T07:59")
    with PracticeExchange(clock=clock) as exchange:
        assert get(exchange, f"/{key}")[0] == 404
        clock.ms += MINUTE
        assert [int(line.split(",")[0]) for line in lines(exchange, key)] == [
            utc_ms(f"2024-04-{day:02}") for day in (1, 8, 15, 22, 29)
        ]


# Listing


def test_folders_are_listed_down_to_the_files(whole: PracticeExchange) -> None:
    def folders(prefix: str) -> list[str]:
        keys, found, cut, _ = listing(whole, prefix, delimiter="/")
        assert (keys, cut) == ([], "false")
        return [path.removeprefix(prefix) for path in found]

    assert folders("") == ["data/"]
    assert folders("data/") == ["futures/", "spot/"]
    assert folders("data/futures/um/monthly/") == [
        "fundingRate/", "indexPriceKlines/", "klines/", "markPriceKlines/", "premiumIndexKlines/",
    ]  # fmt: skip
    assert folders("data/spot/monthly/") == ["klines/"]
    assert {"BTCUSDT/", "EOSETH/", "WLFIUSDT/"} <= set(folders("data/spot/daily/klines/"))
    assert folders("data/spot/daily/klines/BTC") == ["USDT/"]
    assert folders("data/futures/cm/daily/indexPriceKlines/") == ["BTCUSD/", "ETHUSD/"]
    assert folders("data/futures/cm/daily/premiumIndexKlines/") == ["BTCUSD_PERP/", "ETHUSD_PERP/"]
    assert "BTCUSD_200925/" in folders("data/futures/cm/daily/klines/")
    assert set(folders("data/spot/monthly/klines/BTCUSDT/")) - set(folders("data/spot/daily/klines/BTCUSDT/")) == {
        "3d/", "1w/", "1mo/",
    }  # fmt: skip
    assert "1s/" not in folders("data/futures/um/monthly/klines/BTCUSDT/")
    assert folders("nothing/") == []


def test_everything_listed_is_there_and_is_as_old_as_it_says(whole: PracticeExchange) -> None:
    prefix = "data/futures/um/monthly/klines/BTCUSDT/1d/"
    root = ET.fromstring(get(whole, f"/?delimiter=/&prefix={prefix}")[2])
    entries = list(root.iter(f"{S3}Contents"))
    assert (entries[0].findtext(f"{S3}Key") or "").endswith("BTCUSDT-1d-2020-01.zip")
    assert (entries[-1].findtext(f"{S3}Key") or "").endswith("BTCUSDT-1d-2026-06.zip.CHECKSUM")
    for entry in entries[:6]:
        status, headers, body = get(whole, f"/{entry.findtext(f'{S3}Key')}")
        assert status == 200
        assert headers["etag"] == entry.findtext(f"{S3}ETag")
        assert entry.findtext(f"{S3}StorageClass") == "STANDARD"
        assert (entry.findtext(f"{S3}LastModified") or "").endswith("-01T08:00:00.000Z")
        if headers["content-type"] != "application/zip":
            assert entry.findtext(f"{S3}Size") == str(len(body))


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", ["/", ""], ids=["folders", "keys"])
def test_long_listings_are_paged_by_marker(whole: PracticeExchange, delimiter: str) -> None:
    prefix = "data/spot/daily/klines/SOLUSDT/1m/"
    found: list[str] = []
    params = {"delimiter": delimiter} if delimiter else {}
    pages = 0
    while True:
        keys, folders, cut, marker = listing(whole, prefix, **params)
        assert len(keys) <= 1000
        assert not folders
        found += keys
        pages += 1
        if cut == "false":
            break
        assert len(keys) == 1000
        assert marker == (keys[-1] if delimiter else None)
        params["marker"] = keys[-1]
    days = (utc_ms(NOW[:10]) - utc_ms("2020-08-11")) // DAY
    assert found == sorted(set(found))
    assert (len(found), pages) == (2 * days, -(-2 * days // 1000))


def test_folders_are_paged_too_and_the_next_marker_can_be_left_out(exchange: PracticeExchange) -> None:
    prefix = "data/futures/cm/daily/klines/"
    whole = listing(exchange, prefix, delimiter="/")[1]
    exchange.archive.next_marker = False
    found: list[str] = []
    params = {"delimiter": "/", "max-keys": "7"}
    while True:
        _, folders, cut, marker = listing(exchange, prefix, **params)
        assert marker is None
        found += folders
        if cut == "false":
            break
        params["marker"] = folders[-1]
    assert found == whole


@pytest.mark.slow
def test_loaded_files_are_listed(exchange: PracticeExchange) -> None:
    key = "data/spot/daily/klines/ABCUSDT/1h/ABCUSDT-1h-2024-03-05.zip"
    exchange.archive.load(key, pack("ABCUSDT-1h-2024-03-05.csv", [b"1,2\n"]))
    assert lines(exchange, key) == ["1,2"]
    assert "data/spot/daily/klines/ABCUSDT/" in listing(exchange, "data/spot/daily/klines/", delimiter="/")[1]
    assert listing(exchange, "data/spot/daily/klines/ABCUSDT/")[0] == [key, key + ".CHECKSUM"]
    exchange.archive.load(SPOT_DAY, pack("other.csv", [b"1,2\n"]), "nonsense")
    assert fetch(exchange, SPOT_DAY + ".CHECKSUM") == b"nonsense"
    assert listing(exchange, SPOT_DAY)[0] == [SPOT_DAY, SPOT_DAY + ".CHECKSUM"]


# Damage


def test_a_wrong_checksum_is_shown_so_many_times_or_for_good(exchange: PracticeExchange) -> None:
    spoiled = exchange.archive.spoil(SPOT_DAY, damage.wrong_checksum(), times=2)
    assert [verified(exchange, SPOT_DAY) for _ in range(3)] == [False, False, True]
    assert spoiled.hits == 2
    spoiled = exchange.archive.spoil(lambda key: "/1h/" in key, damage.wrong_checksum())
    assert [verified(exchange, SPOT_MONTH) for _ in range(3)] == [False] * 3
    spoiled.stop()
    assert verified(exchange, SPOT_MONTH)


@pytest.mark.slow
def test_a_checksum_can_be_missing_or_read_differently(exchange: PracticeExchange) -> None:
    spoiled = exchange.archive.spoil(SPOT_DAY, damage.missing_checksum())
    assert get(exchange, f"/{SPOT_DAY}")[0] == 200
    assert get(exchange, f"/{SPOT_DAY}.CHECKSUM")[0] == 404
    assert listing(exchange, SPOT_DAY)[0] == [SPOT_DAY]
    spoiled.stop()
    exchange.archive.spoil(SPOT_DAY, damage.checksum_text(lambda text: text.upper() + "\r\n"))
    assert fetch(exchange, SPOT_DAY + ".CHECKSUM").endswith(b"  BTCUSDT-1H-2024-03-05.ZIP\r\n")


@pytest.mark.slow
def test_a_file_can_be_missing(exchange: PracticeExchange) -> None:
    spoiled = exchange.archive.spoil("BTCUSDT-1h-2024-03-05", damage.missing())
    assert [get(exchange, f"/{SPOT_DAY}{ending}")[0] for ending in ("", ".CHECKSUM")] == [404, 404]
    assert listing(exchange, SPOT_DAY)[0] == []
    assert exchange.archive.read(SPOT_DAY) is not None
    spoiled.stop()
    assert verified(exchange, SPOT_DAY)


def test_a_damaged_zip_has_the_checksum_of_the_good_one(exchange: PracticeExchange) -> None:
    good = fetch(exchange, SPOT_DAY)
    exchange.archive.spoil(SPOT_DAY, damage.flip(), times=1)
    flipped = fetch(exchange, SPOT_DAY)
    assert [at for at in range(len(good)) if good[at] != flipped[at]] == [len(good) // 2]
    exchange.archive.spoil(SPOT_DAY, damage.cut(100), times=1)
    assert fetch(exchange, SPOT_DAY) == good[:100]
    exchange.archive.spoil(SPOT_DAY, damage.flip(0))
    assert not verified(exchange, SPOT_DAY)
    exchange.archive.spoil(SPOT_MONTH, damage.flip(0).published())
    assert verified(exchange, SPOT_MONTH)


def test_a_revised_file_has_other_values_and_their_checksum(exchange: PracticeExchange) -> None:
    before, etag = lines(exchange, SPOT_DAY), get(exchange, f"/{SPOT_DAY}")[1]["etag"]
    exchange.archive.spoil(SPOT_DAY, damage.revise(DAY_MS + 2 * HOUR, close="1.50", trades=3))
    after = lines(exchange, SPOT_DAY)
    assert [at for at in range(24) if before[at] != after[at]] == [2]
    assert after[2].split(",")[4::4] == ["1.50", "3", ]  # fmt: skip
    status, headers, _ = get(exchange, f"/{SPOT_DAY}")
    assert status == 200
    assert headers["etag"] != etag
    assert headers["last-modified"] == "Fri, 03 Jul 2026 10:00:00 GMT"
    with pytest.raises(ValueError, match="unknown field 'colume'"):
        damage.revise(0, colume=1)


def test_rows_can_be_missing_of_another_day_out_of_order_or_in_another_unit(exchange: PracticeExchange) -> None:
    good = lines(exchange, SPOT_MONTH)

    def shown(how: Damage) -> list[str]:
        spoiled = exchange.archive.spoil(SPOT_MONTH, how)
        rows = lines(exchange, SPOT_MONTH)
        spoiled.stop()
        return rows

    assert shown(damage.drop(DAY_MS, DAY_MS + DAY)) == good[: 4 * 24] + good[5 * 24 :]
    assert shown(damage.out_of_order()) == good[372:] + good[:372]
    moved = shown(damage.shift(40 * DAY, 1, 2))
    assert moved[:1] + moved[2:] == good[:1] + good[2:]
    assert [int(moved[1].split(",")[at]) - int(good[1].split(",")[at]) for at in (0, 6)] == [40 * DAY] * 2
    mixed = shown(damage.in_unit("us", first=700))
    assert mixed[:700] == good[:700]
    assert mixed[700].split(",")[0] == good[700].split(",")[0] + "000"
    assert shown(damage.rows(lambda rows: rows[:-1])) == good[:-1]
    assert shown(damage.csv(lambda text: text.replace(b"\n", b"\n\n"))) == [x for row in good for x in (row, "")]


def test_rows_of_a_file_with_header_and_microseconds_are_changed_alike(exchange: PracticeExchange) -> None:
    key = "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03-05.zip"
    good = lines(exchange, key)
    exchange.archive.spoil(key, damage.drop(DAY_MS, DAY_MS + HOUR))
    assert lines(exchange, key) == good[:1] + good[2:]
    key, start = SPOT_DAY.replace("2024", "2025"), utc_ms("2025-03-05")
    good = lines(exchange, key)
    exchange.archive.spoil(key, damage.drop(start, start + HOUR))
    exchange.archive.spoil(key, damage.shift(DAY))
    assert int(lines(exchange, key)[0].split(",")[0]) == (start + HOUR + DAY) * 1000


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (damage.renamed("../evil.csv"), lambda infos: [info.filename for info in infos] == ["../evil.csv"]),
        (damage.two_members(), lambda infos: [info.filename for info in infos][1:] == ["other.csv"]),
        (damage.no_members(), lambda infos: infos == []),
        (damage.encrypted(), lambda infos: infos[0].flag_bits & 1 == 1),
        (damage.wrong_size(7), lambda infos: infos[0].file_size == 7),
        (damage.bomb(3_000_000), lambda infos: infos[0].file_size > 1000 * infos[0].compress_size / 10),
    ],
)
def test_containers_can_lie(
    exchange: PracticeExchange, how: Damage, says: Callable[[list[zipfile.ZipInfo]], bool]
) -> None:
    exchange.archive.spoil(SPOT_DAY, how)
    assert verified(exchange, SPOT_DAY)
    with zipfile.ZipFile(io.BytesIO(fetch(exchange, SPOT_DAY))) as archive:
        assert says(archive.infolist())


def test_a_wrong_crc_is_found_by_those_who_look(exchange: PracticeExchange) -> None:
    exchange.archive.spoil(SPOT_DAY, damage.wrong_crc())
    with zipfile.ZipFile(io.BytesIO(fetch(exchange, SPOT_DAY))) as archive:
        assert archive.testzip() == "BTCUSDT-1h-2024-03-05.csv"


def test_faults_of_the_line_reach_the_archive_too(exchange: PracticeExchange) -> None:
    exchange.fail(faults.forbidden(), match="/data/spot/")
    exchange.fail(faults.status(503), match=".CHECKSUM")
    exchange.fail(faults.cut(0.5), match="BTCUSDT-1h-2024-03-05.zip", after=1)
    assert get(exchange, f"/{SPOT_DAY}")[0] == 403
    assert get(exchange, f"/{SPOT_DAY}.CHECKSUM")[0] == 503
    assert get(exchange, f"/{SPOT_MONTH}")[0] == 200
    assert get(exchange, f"/{SPOT_DAY}")[0] == 200
    with pytest.raises(http.client.IncompleteRead):
        get(exchange, f"/{SPOT_DAY}")


# The server


def test_requests_are_noted_and_weigh_nothing(exchange: PracticeExchange) -> None:
    fetch(exchange, SPOT_DAY)
    get(exchange, "/data/nothing.zip")
    get(exchange, "/?prefix=data/&delimiter=/")
    assert [(each.path, each.status, each.weight, each.market) for each in exchange.requests] == [
        (f"/{SPOT_DAY}", 200, 0, "archive"),
        ("/data/nothing.zip", 404, 0, "archive"),
        ("/", 200, 0, "archive"),
    ]
    assert all(not count.requests for count in exchange.counts.values())
    assert get(exchange, "/")[0] == 404
    assert exchange.base_urls["binance-archive"] == exchange.url


@pytest.mark.slow
def test_files_are_the_same_from_any_thread_and_again_after_they_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    built = archive.Built(50_000)
    monkeypatch.setattr(archive, "_built", built)
    keys = [SPOT_MONTH.replace("2024-03", f"2024-{month:02}") for month in range(1, 7)]
    with PracticeExchange(clock=Clock(), log=False) as first, PracticeExchange(clock=Clock(), log=False) as second:
        found: dict[str, set[bytes]] = {key: set() for key in keys}

        def work(exchange: PracticeExchange) -> None:
            for key in keys:
                found[key].add(fetch(exchange, key))

        threads = [threading.Thread(target=work, args=(exchange,)) for exchange in (first, second) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(bodies) for bodies in found.values()] == [1] * 6
        assert built._bytes <= 50_000
