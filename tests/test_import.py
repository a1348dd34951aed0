"""Files that people bring: what their names say is believed, every row is checked, nothing stored is lost."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import (
    BadFile,
    CacheError,
    CandleFetcher,
    Imported,
    IncompleteData,
    InputError,
)
from candle_fetcher.cli import main
from candle_fetcher.core.candles import MISSING, candles_from, no_candles
from candle_fetcher.core.coverage import fill
from candle_fetcher.core.entry import HoleState
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import read_rows, read_times
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers import all_providers

HOUR = 3_600_000
DAY = ("2024-03-01", "2024-03-02")
MONTH = ("2024-03-01", "2024-04-01")
CSV_HEADER = "timestamp,open,high,low,close,volume\n"


@pytest.fixture
def other(world: World, tmp_path: Path) -> CandleFetcher:
    """A fetcher with a cache of its own, in which there is nothing."""
    return world.fetcher(cache_dir=tmp_path / "other")


def fingerprint(frame: pd.DataFrame) -> str:
    return str(frame.attrs[MANIFEST]["fingerprint"])


def offline(fetcher: CandleFetcher, timeframe: str, *span: str, **options: Any) -> pd.DataFrame:
    return fetcher.fetch("BTC/USDT", timeframe, *span, source="cache", **options)


def archive_file(world: World, folder: Path, name: str = "BTCUSDT-1h-2024-03.zip", *, checksum: bool = True) -> Path:
    """A file of the exchange's archive on disk, its checksum beside it."""
    period = "monthly" if name.count("-") == 3 else "daily"
    symbol, timeframe = name.split("-")[:2]
    key = f"data/spot/{period}/klines/{symbol}/{timeframe}/{name}"
    path = folder / name
    path.write_bytes(world.exchange.archive.read(key))
    if checksum:
        beside = folder / f"{name}.CHECKSUM"
        beside.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
    return path


def unzipped(path: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        text = archive.read(member)
    inside = path.with_suffix(".csv")
    inside.write_bytes(text)
    return inside


def write(path: Path, *lines: str, header: str = CSV_HEADER) -> Path:
    path.write_bytes((header + "".join(f"{line}\n" for line in lines)).encode())
    return path


def hours(count: int, first: str = "2024-03-01", price: float = 100.0, step_ms: int = HOUR) -> list[str]:
    """Lines of candles of ours."""
    times = pd.to_datetime(ms(first) + np.arange(count) * step_ms, unit="ms")
    return [f"{time:%Y-%m-%d %H:%M:%S},{price},{price + 1},{price - 1},{price},{at}" for at, time in enumerate(times)]


def kraken_rows(first: str, slots: list[int], step_s: int = 3600) -> list[str]:
    start_s = ms(first) // 1000
    return [f"{start_s + slot * step_s},{100 + slot}.5,{102 + slot},99.25,{101 + slot},1.5E+1,7" for slot in slots]


# -- what was exported comes back ---------------------------------------------------------------------------------


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize(("timeframe", "start", "end"), [("1h", *MONTH), ("1m", "2024-03-01", "2024-03-04")])
def test_what_was_exported_is_imported_with_the_same_fingerprint(
    world: World, other: CandleFetcher, tmp_path: Path, timeframe: str, start: str, end: str, columns: str
) -> None:
    mine = world.fetcher()
    fetched = mine.fetch("BTC/USDT", timeframe, start, end, columns=columns)
    path = mine.export("BTC/USDT", timeframe, start, end, path=tmp_path, columns=columns)
    world.asked()
    done = other.cache.import_file(path)
    again = offline(other, timeframe, start, end, columns=columns)
    assert (done.rows, done.added, done.ignored, done.differing) == (len(fetched), len(fetched), 0, 0)
    assert (done.provider, done.symbol, done.timeframe, done.kind) == ("binance", "BTC/USDT", timeframe, "candles")
    assert fingerprint(again) == fingerprint(fetched)
    assert (done.lacking == ()) is (columns == "all")
    if columns == "all":
        pd.testing.assert_frame_equal(again, fetched, check_exact=True)
        assert other.export("BTC/USDT", timeframe, start, end, path=tmp_path / "again", columns="all").read_bytes() == (
            path.read_bytes()
        )
    assert not world.asked("")


def test_a_gap_of_an_exported_file_is_asked_for_once_and_then_a_gap(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    outage = ("2023-03-24", "2023-03-25")
    mine = world.fetcher()
    fetched = mine.fetch("BTC/USDT", "1m", *outage)
    other.cache.import_file(mine.export("BTC/USDT", "1m", *outage, path=tmp_path))
    world.asked()
    assert fingerprint(offline(other, "1m", *outage)) == fingerprint(fetched)
    assert not world.asked()
    same_gaps = other.fetch("BTC/USDT", "1m", *outage).attrs[MANIFEST]
    assert same_gaps["gaps"] == fetched.attrs[MANIFEST]["gaps"]
    assert len(world.asked()) == fetched.attrs[MANIFEST]["gap_count"] == 1
    other.fetch("BTC/USDT", "1m", *outage)
    assert not world.asked()


@pytest.mark.slow
def test_columns_that_the_file_lacks_are_empty_until_a_refresh(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    path = world.fetcher().export("BTC/USDT", "1h", *DAY, path=tmp_path)
    done = other.cache.import_file(path)
    assert done.lacking == ("close_time", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
    # The day after comes by REST: rows with and without the columns lie in one chunk.
    both = other.fetch("BTC/USDT", "1h", "2024-03-01", "2024-03-03", columns="all")
    assert both["trades"].isna().tolist() == both["close_time"].isna().tolist() == [True] * 24 + [False] * 24
    assert both["quote_volume"].isna().sum() == 24
    whole = other.fetch("BTC/USDT", "3h", "2024-03-01", "2024-03-03", columns="all")
    assert whole["trades"].isna().tolist() == [True] * 8 + [False] * 8
    written = other.export("BTC/USDT", "1h", "2024-03-01", "2024-03-03", path=tmp_path / "both", columns="all")
    assert str(MISSING) not in written.read_text()
    third = world.fetcher(cache_dir=tmp_path / "third")
    assert third.cache.import_file(written).rows == 48
    pd.testing.assert_frame_equal(
        offline(third, "1h", "2024-03-01", "2024-03-03", columns="all"), both, check_flags=False, check_exact=True
    )
    other.fetch("BTC/USDT", "1h", *DAY, refresh=True)
    assert other.cache.revisions().empty  # nothing was changed: it was not there
    same(other.fetch("BTC/USDT", "1h", *DAY, columns="all"), world.truth("BTCUSDT", "1h", *DAY))


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    "how",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text + b"\n\r\n",
        lambda text: text.replace(b"\n", b"\n\n", 3),
        lambda text: b"".join(
            line + line if at == 5 else line for at, line in enumerate(text.splitlines(keepends=True))
        ),
    ],
    ids=["CRLF", "byte order mark", "blank lines at the end", "blank lines", "a line twice"],
)
def test_a_file_written_otherwise_is_the_same_file(
    world: World, other: CandleFetcher, tmp_path: Path, how: Any
) -> None:
    mine = world.fetcher()
    path = mine.export("BTC/USDT", "1h", *DAY, path=tmp_path)
    path.write_bytes(how(path.read_bytes()))
    assert other.cache.import_file(path).rows == 24
    assert fingerprint(offline(other, "1h", *DAY)) == fingerprint(mine.fetch("BTC/USDT", "1h", *DAY))


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    ("provider", "symbol", "timeframe", "kind"),
    [
        ("binance-um", "BTC/USDT", "1h", "candles"),
        ("binance-um", "BTC/USDT", "1h", "mark"),
        ("binance-cm", "BTC/USD", "4h", "candles"),
        ("binance", "BTC/USDT", "1w", "candles"),
        ("binance", "BTC/USDT", "1M", "candles"),
    ],
)
def test_the_name_of_a_file_of_ours_says_all(
    world: World, other: CandleFetcher, tmp_path: Path, provider: str, symbol: str, timeframe: str, kind: str
) -> None:
    mine = world.fetcher()
    what = {"provider": provider, "kind": kind}
    fetched = mine.fetch(symbol, timeframe, "2024-01-01", "2024-06-01", **what)
    path = mine.export(symbol, timeframe, "2024-01-01", "2024-06-01", path=tmp_path, **what)
    done = other.cache.import_file(path)
    assert (done.provider, done.symbol, done.timeframe, done.kind) == (provider, symbol, timeframe, kind)
    last = fetched.index[-1] + pd.Timedelta(milliseconds=1)
    again = other.fetch(symbol, timeframe, fetched.index[0], last, source="cache", **what)
    assert fingerprint(again) == fingerprint(fetched)


def test_times_with_milliseconds_and_before_2001_are_read(tmp_path: Path) -> None:
    text = b"timestamp,open,high,low,close,volume\n1999-12-31 23:59:59,1,2,0.5,1,0\n2018-02-09 09:28:14.789,1,2,1,1,5\n"
    (candles,) = read_rows([text])
    assert candles.open_ms.tolist() == [ms("1999-12-31T23:59:59"), ms("2018-02-09T09:28:14.789")]


def test_times_are_read_as_they_are_written() -> None:
    opens = np.random.default_rng(5).integers(-62_135_596_800_000, 253_402_300_800_000, 2_000)
    texts = [str(moment).replace("T", " ") for moment in opens.view("M8[ms]")]
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    ends = np.cumsum([len(text) for text in texts])
    assert read_times(data, np.concatenate(([0], ends[:-1])), ends).tolist() == opens.tolist()


# -- files of the archive -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "CSV"])
def test_a_file_of_the_archive_is_what_rest_has(
    world: World, other: CandleFetcher, tmp_path: Path, packed: bool
) -> None:
    path = archive_file(world, tmp_path)
    done = other.cache.import_file(path if packed else unzipped(path))
    assert (done.rows, done.added, done.lacking, done.verified) == (744, 744, (), packed)
    by_rest = world.fetcher(source="rest").fetch("BTC/USDT", "1h", *MONTH, columns="all")
    frame = offline(other, "1h", *MONTH, columns="all")
    pd.testing.assert_frame_equal(frame, by_rest, check_exact=True)
    assert fingerprint(frame) == fingerprint(by_rest)
    assert frame.attrs[MANIFEST]["unverified"] == (
        [] if packed else ["/data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip"]
    )


def test_a_later_fetch_asks_only_for_what_the_file_has_not(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    other.cache.import_file(archive_file(world, tmp_path))
    frame = other.fetch("BTC/USDT", "1h", *MONTH)
    assert frame.attrs[MANIFEST]["sources"] == {"memory": 0, "disk": 744, "archive": 0, "rest": 0}
    assert not world.asked("lines")
    frame = other.fetch("BTC/USDT", "1h", "2024-02-20", "2024-04-10")
    same(frame, world.truth("BTCUSDT", "1h", "2024-02-20", "2024-04-10"))
    assert frame.attrs[MANIFEST]["sources"]["memory"] == 744
    assert not other.plan("BTC/USDT", "1h", "2024-02-20", "2024-04-10").requests


def test_a_checksum_that_does_not_fit_is_no_file(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    path = archive_file(world, tmp_path)
    beside = tmp_path / f"{path.name}.CHECKSUM"
    beside.write_text("0" * 64 + f"  {path.name}\n")
    with pytest.raises(BadFile, match="checksum"):
        other.cache.import_file(path)
    beside.write_text("what?")
    with pytest.raises(BadFile, match="CHECKSUM"):
        other.cache.import_file(path)
    beside.unlink()
    assert other.cache.import_file(path).verified is False


def test_a_damaged_zip_is_no_file(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    path = archive_file(world, tmp_path, checksum=False)
    whole = path.read_bytes()
    for at in range(0, len(whole), 997):
        path.write_bytes(whole[:at])
        with pytest.raises(BadFile):
            other.cache.import_file(path)
    assert not other.cache.stats().disk_entries


def test_a_week_that_is_not_over_when_its_month_is_stays_out(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    done = other.cache.import_file(archive_file(world, tmp_path, "BTCUSDT-1w-2024-05.zip"))
    assert (done.rows, done.ignored, done.last) == (3, 1, "2024-05-20T00:00:00Z")
    frame = other.fetch("BTC/USDT", "1w", "2024-05-01", "2024-06-10")
    same(frame, world.truth("BTCUSDT", "1w", "2024-05-01", "2024-06-10"))


def test_days_on_which_the_months_are_wrong_are_left_out(tmp_path: Path) -> None:
    with World(tmp_path / "cache") as world:
        fetcher = world.fetcher(source="cache")
        done = fetcher.cache.import_file(archive_file(world, tmp_path, "BTCUSDT-1h-2020-12.zip"))
        assert (done.ignored, done.rows) == (20, 719)  # the practice market was down for four hours of that day
        with pytest.raises(IncompleteData) as caught:
            fetcher.fetch("BTC/USDT", "1h", "2020-12-01", "2021-01-01")
        assert [(gap.first, gap.count) for gap in caught.value.missing] == [("2020-12-21T00:00:00Z", 24)]
        frame = fetcher.fetch("BTC/USDT", "1h", "2020-12-01", "2021-01-01", source="auto")
        same(frame, world.truth("BTCUSDT", "1h", "2020-12-01", "2021-01-01"))
        assert frame.attrs[MANIFEST]["sources"]["rest"] == 20


def test_which_market_a_file_is_of_is_said_by_its_folders_or_has_to_be(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    key = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip"
    data = world.exchange.archive.read(key)
    for path in (tmp_path / key, tmp_path / "BTCUSDT-1h-2024-03.zip"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with pytest.raises(InputError, match="futures"):
        other.cache.import_file(path)
    assert other.cache.import_file(path, provider="binance-um").provider == "binance-um"
    assert other.cache.import_file(tmp_path / key).added == 0
    with pytest.raises(InputError, match="binance-um, but the call says provider='binance'"):
        other.cache.import_file(tmp_path / key, provider="binance")
    with pytest.raises(InputError, match="binance-us has no such archive"):
        other.cache.import_file(path, provider="binance-us")
    same(
        other.fetch("BTC/USDT", "1h", *MONTH, provider="binance-um", source="cache"),
        world.truth("BTCUSDT", "1h", *MONTH, provider="binance-um"),
    )


def test_a_file_of_mark_prices_is_not_one_of_candles(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    key = "data/futures/um/monthly/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip"
    path = tmp_path / "BTCUSDT-1h-2024-03.zip"
    path.write_bytes(world.exchange.archive.read(key))
    with pytest.raises(InputError, match="give the kind"):
        other.cache.import_file(path, provider="binance-um")
    assert other.cache.import_file(path, provider="binance-um", kind="mark").kind == "mark"
    candles = tmp_path / "candles" / path.name
    candles.parent.mkdir()
    candles.write_bytes(world.exchange.archive.read(key.replace("markPriceKlines", "klines")))
    with pytest.raises(InputError, match="have volume"):
        other.cache.import_file(candles, provider="binance-um", kind="mark")


# -- downloads of Kraken ------------------------------------------------------------------------------------------

kraken = pytest.mark.skipif("kraken" not in all_providers(), reason="there is no provider kraken")


@kraken
def test_a_download_of_kraken_is_read_and_its_holes_are_facts(tmp_path: Path) -> None:
    path = write(tmp_path / "XBTUSD_60.csv", *kraken_rows("2020-01-01", [0, 1, 5, 6, 2500]), header="")
    with CandleFetcher(cache_dir=tmp_path / "cache", progress=False) as fetcher:
        done = fetcher.cache.import_file(path)
        assert (done.provider, done.timeframe, done.rows, done.chunks) == ("kraken", "1h", 5, 3)
        assert (done.first, done.last) == ("2020-01-01T00:00:00Z", "2020-04-14T04:00:00Z")
        # Nobody is asked: the guard of these tests would see it.
        frame = fetcher.fetch("BTC/USD", "1h", "2020-01-01", "2020-04-14 05:00", provider="kraken")
        assert index_ms(frame).tolist() == [ms("2020-01-01") + slot * HOUR for slot in (0, 1, 5, 6, 2500)]
        assert frame["volume"].tolist() == [15.0] * 5
        assert frame.attrs[MANIFEST]["gap_count"] == 2
        assert fetcher.cache.import_file(path, "BTC/USD", "60m", provider="kraken").added == 0


@kraken
def test_two_files_of_kraken_leave_what_lies_between_unknown(tmp_path: Path) -> None:
    one = write(tmp_path / "XBTUSD_60.csv", *kraken_rows("2020-01-01", [0, 1, 2]), header="")
    with CandleFetcher(cache_dir=tmp_path / "cache", progress=False) as fetcher:
        fetcher.cache.import_file(one)
        write(one, *kraken_rows("2020-01-01", [10, 11]), header="")
        fetcher.cache.import_file(one)
        for source in ("cache", "auto"):
            with pytest.raises(IncompleteData) as caught:
                fetcher.fetch("BTC/USD", "1h", "2020-01-01", "2020-01-01 12:00", provider="kraken", source=source)
            assert len(caught.value.frame) == 5
            (gap,) = caught.value.missing
            assert (gap.count, gap.cause) == (7, "fetch_failed" if source == "cache" else "depth_limit")
        states = fetcher.coverage("BTC/USD", "1h", provider="kraken")
        assert states["state"].tolist() == ["stored", "stored"]


@pytest.mark.slow(keep=("XBTUSD_1440.csv-3178-1d",))
@kraken
@pytest.mark.parametrize(
    ("name", "rows", "timeframe"), [("XBTUSD_60.csv", 70_253, "1h"), ("XBTUSD_1440.csv", 3_178, "1d")]
)
def test_a_real_download_of_kraken_comes_whole(
    shared: Path, tmp_path: Path, name: str, rows: int, timeframe: str
) -> None:
    path = shared / "market_data" / "kraken" / name
    if not path.is_file():
        pytest.skip(f"there is no {name} among the recorded data")
    fields = [line.split(",") for line in path.read_text().splitlines()]
    with CandleFetcher(cache_dir=tmp_path, progress=False) as fetcher:
        done = fetcher.cache.import_file(path)
        first, last = int(fields[0][0]) * 1000, int(fields[-1][0]) * 1000
        frame = fetcher.fetch("BTC/USD", timeframe, first, last + 1, provider="kraken", columns="all")
    assert (done.rows, done.added, done.ignored) == (rows, rows, 0)
    assert index_ms(frame).tolist() == [int(line[0]) * 1000 for line in fields]
    for at, column in enumerate(("open", "high", "low", "close", "volume"), 1):
        assert frame[column].tolist() == [float(line[at]) for line in fields]
    if "trades" in all_providers()["kraken"].feed("candles").columns:
        assert frame["trades"].tolist() == [int(line[6]) for line in fields]


@pytest.mark.slow
def test_real_files_of_the_archive_come_whole(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "market_data").glob("vision*/**/*USDT-1[hm]-*.zip"))
    paths += sorted((shared / "market_data").glob("vision_csv/**/BTCUSDT-1h-2018-0[1-4].csv"))
    if not paths:
        pytest.skip("there are no files of the archive among the recorded data")
    with CandleFetcher(cache_dir=tmp_path, progress=False, source="cache") as fetcher:
        for path in paths:
            done = fetcher.cache.import_file(path)
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    lines = archive.read(archive.namelist()[0]).decode().splitlines()
            else:
                lines = path.read_text().splitlines()
            fields = [line.split(",") for line in lines if line[:1].isdigit()]
            assert done.rows == done.added == len(fields)
            assert done.first is not None
            last = int(fields[-1][0]) + 1
            frame = fetcher.fetch(done.symbol, done.timeframe, int(fields[0][0]), last, provider=done.provider)
            assert index_ms(frame).tolist() == [int(line[0]) for line in fields]
            assert frame["close"].tolist() == [float(line[4]) for line in fields]


@pytest.mark.slow
@kraken
def test_old_files_and_what_kraken_still_serves_make_one_history(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    if "kraken" not in world.exchange.base_urls:
        pytest.skip("the practice exchange does not answer as Kraken does")

    def download(first: str, last: str) -> Path:
        hours = range((ms(last) - ms(first)) // HOUR)
        return write(
            tmp_path / "XBTUSD_60.csv", *kraken_rows(first, [hour for hour in hours if hour % 7 != 3]), header=""
        )

    other.cache.import_file(download("2024-04-01", "2024-04-20"))
    with pytest.raises(IncompleteData) as caught:
        other.fetch("BTC/USD", "1h", "2024-04-01", "2024-06-14", provider="kraken")
    (gap,) = caught.value.missing
    assert (gap.first, gap.cause) == ("2024-04-20T00:00:00Z", "depth_limit")
    # A file that reaches into what is served: it closes the hole, and what was served stays.
    other.cache.import_file(download("2024-04-18", "2024-05-20"))
    world.asked("")
    frame = other.fetch("BTC/USD", "1h", "2024-04-01", "2024-06-14", provider="kraken")
    assert frame.index[0] == pd.Timestamp("2024-04-01", tz="UTC")
    assert frame.attrs[MANIFEST]["expected"] == 74 * 24
    assert {one["cause"] for one in frame.attrs[MANIFEST]["gaps"]} == {"no_candle"}
    assert not world.asked("OHLC")


# -- over what is stored ------------------------------------------------------------------------------------------


def test_a_file_fills_in_what_is_missing_and_nothing_else(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    other.fetch("BTC/USDT", "1h", "2024-03-10", "2024-03-12")
    stored = other.cache.stats().disk_entries
    done = other.cache.import_file(archive_file(world, tmp_path))
    assert stored
    assert (done.rows, done.differing) == (744, 0)
    assert done.added < 744  # the chunk of the 10th was there
    same(offline(other, "1h", *MONTH), world.truth("BTCUSDT", "1h", *MONTH))


def test_what_is_stored_stays_and_a_difference_is_told(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    fetched = other.fetch("BTC/USDT", "1h", *DAY)
    path = other.export("BTC/USDT", "1h", *DAY, path=tmp_path)
    lines = path.read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:5], "12345.5"])
    path.write_text("\n".join(lines) + "\n")
    for _ in range(2):
        done = other.cache.import_file(path)
        assert (done.rows, done.added, done.differing) == (24, 0, 1)
        revisions = other.cache.revisions()
        assert len(revisions) == 1
    assert revisions["column"].tolist() == ["volume"]
    assert revisions["new"].tolist() == [12345.5]
    assert revisions["old"].tolist() == [fetched["volume"].iloc[2]]
    assert fingerprint(other.fetch("BTC/USDT", "1h", *DAY)) == fingerprint(fetched)


def test_an_import_reaches_what_was_handed_out_before(world: World, tmp_path: Path) -> None:
    path = world.fetcher().export("BTC/USDT", "1h", *DAY, path=tmp_path)
    fetcher = world.fetcher(cache_dir=tmp_path / "other", source="cache")
    write(tmp_path / "few.csv", *path.read_text().splitlines()[1:5], *path.read_text().splitlines()[8:])
    fetcher.cache.import_file(tmp_path / "few.csv", "BTC/USDT", "1h")
    assert len(fetcher.fetch("BTC/USDT", "1h", *DAY)) == 21
    fetcher.cache.import_file(path)
    assert len(fetcher.fetch("BTC/USDT", "1h", *DAY)) == 24


def test_what_lies_between_two_files_is_not_covered(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    lines = world.fetcher().export("BTC/USDT", "1h", *DAY, path=tmp_path).read_text().splitlines()[1:]
    path = tmp_path / "part.csv"
    for part in (lines[:4], lines[20:]):
        other.cache.import_file(write(path, *part), "BTC/USDT", "1h")
    with pytest.raises(IncompleteData) as caught:
        offline(other, "1h", *DAY)
    assert [(gap.first, gap.count) for gap in caught.value.missing] == [("2024-03-01T04:00:00Z", 16)]
    world.asked()
    plan = other.plan("BTC/USDT", "1h", *DAY)
    frame = other.fetch("BTC/USDT", "1h", *DAY)
    same(frame, world.truth("BTCUSDT", "1h", *DAY))
    assert frame.attrs[MANIFEST]["sources"] == {"memory": 8, "disk": 0, "archive": 0, "rest": 16}
    assert len(world.asked()) == plan.requests == 1
    assert fingerprint(frame) == fingerprint(offline(other, "1h", *DAY))


@pytest.mark.slow
def test_what_lies_between_two_files_is_taken_from_the_archive_too(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    span = ("2024-03-05", "2024-03-06")
    lines = world.fetcher().export("BTC/USDT", "1m", *span, path=tmp_path).read_text().splitlines()[1:]
    for part in (lines[:4], lines[-4:]):
        other.cache.import_file(write(tmp_path / "part.csv", *part), "BTC/USDT", "1m")
    world.asked()
    frame = other.fetch("BTC/USDT", "1m", *span, source="archive")
    same(frame, world.truth("BTCUSDT", "1m", *span))
    assert not world.asked("/api/")


def test_candles_before_the_listing_that_is_known_are_found_all_the_same(
    world: World, other: CandleFetcher, tmp_path: Path
) -> None:
    first = other.first_available("BTC/USDT")
    assert first is not None
    other.fetch("BTC/USDT", "1d", "2017-01-01", "2018-01-01")  # now it is known where the listing begins
    early = pd.Timestamp(first).tz_convert(None).normalize() - pd.Timedelta(days=10)
    path = write(tmp_path / "early.csv", *hours(5, early.isoformat(), step_ms=24 * HOUR))
    assert other.cache.import_file(path, "BTC/USDT", "1d").added == 5
    frame = other.fetch("BTC/USDT", "1d", early, early + pd.Timedelta(days=5))
    assert len(frame) == 5


def test_an_import_waits_for_whoever_is_fetching_the_chunk(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = archive_file(world, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(other.fetch, "BTC/USDT", "1h", *MONTH) for _ in range(3)]
        waiting.append(threads.submit(other.cache.import_file, path))
        done = [one.result() for one in waiting]
    assert isinstance(done[-1], Imported)
    same(offline(other, "1h", *MONTH), world.truth("BTCUSDT", "1h", *MONTH))


def test_where_the_disk_takes_nothing_it_is_an_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_file(world, tmp_path)
    fetcher = world.fetcher(cache_dir=tmp_path / "other")
    from candle_fetcher.store import DiskTier

    monkeypatch.setattr(DiskTier, "save_many", lambda *_: False)
    with pytest.raises(CacheError, match="imported only in part"):
        fetcher.cache.import_file(path)
    problem = f"the cache in {tmp_path / ('x' * 150)} cannot be used as it should (disk full): make room there"
    monkeypatch.setattr(DiskTier, "problem", property(lambda _: problem))
    with pytest.raises(CacheError) as caught:
        fetcher.cache.import_file(path)
    assert f"imported only in part: {problem}" in str(caught.value)  # whole, however long the folder's name is


def test_without_a_disk_memory_takes_it_and_without_a_cache_nobody_does(world: World, tmp_path: Path) -> None:
    path = archive_file(world, tmp_path)
    memory = world.fetcher(disk_cache_size=0)
    memory.cache.import_file(path)
    assert len(offline(memory, "1h", *MONTH)) == 744
    with pytest.raises(InputError, match="use_cache=True"):
        world.fetcher(use_cache=False).cache.import_file(path)


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("F03")
def test_a_file_that_was_cut_is_no_file_or_a_shorter_whole_one(
    world: World, tmp_path: Path, record_property: Any
) -> None:
    mine = world.fetcher()
    text = mine.export("BTC/USDT", "1h", *MONTH, path=tmp_path, columns="all").read_bytes()
    truth = world.truth("BTCUSDT", "1h", *MONTH)
    path = tmp_path / "cut.csv"
    count = 1_950 if FAULT_RUNS >= 1 else 150
    places = sorted({*random.Random(3).sample(range(len(text)), count), *range(50)})
    ends = {at + 1 for at, byte in enumerate(text) if byte == ord("\n")}
    places += sorted(ends)[: 50 if FAULT_RUNS >= 1 else 10]
    for run, at in enumerate(places):
        fetcher = world.fetcher(cache_dir=tmp_path / f"cut{run}", disk_cache_size=0)
        path.write_bytes(text[:at])
        if at not in ends:
            with pytest.raises(BadFile):
                fetcher.cache.import_file(path, "BTC/USDT", "1h")
            assert not fetcher.cache.stats().memory_entries
            continue
        done = fetcher.cache.import_file(path, "BTC/USDT", "1h")
        assert done.rows == text[:at].count(b"\n") - 1
        if done.rows:
            frame = offline(fetcher, "1h", MONTH[0], int(truth["open_time"][done.rows - 1]) + HOUR)
            same(frame, truth, slice(done.rows))
            with pytest.raises(IncompleteData):
                offline(fetcher, "1h", *MONTH)
        fetcher.close()
    record_property("runs", len(places))


@pytest.mark.slow
def test_rows_out_of_order_across_two_pieces_are_seen(other: CandleFetcher, tmp_path: Path) -> None:
    lines = hours(12_000, "2022-01-01")
    path = write(tmp_path / "rows.csv", *lines[6_000:], *lines[:6_000])
    with pytest.raises(BadFile, match="out of order"):
        other.cache.import_file(path, "BTC/USDT", "1h")
    assert other.cache.import_file(write(path, *lines), "BTC/USDT", "1h").rows == 12_000


@pytest.mark.parametrize(
    ("step_ms", "count", "timeframe", "said"),
    [
        (60_000, 3, "1h", "mostly 1m apart"),
        (HOUR, 30, "1d", "mostly 1h apart"),
        (HOUR, 30, "1M", "mostly 1h apart"),
        (HOUR, 30, "1m", "60 or more slots of 1m apart, mostly 1h"),
        (24 * HOUR, 400, "1h", "24 or more slots of 1h apart, mostly 1d"),
    ],
)
def test_the_distance_of_rows_tells_a_wrong_timeframe(
    other: CandleFetcher, tmp_path: Path, step_ms: int, count: int, timeframe: str, said: str
) -> None:
    path = write(tmp_path / "rows.csv", *hours(count, "2023-01-01", step_ms=step_ms))
    with pytest.raises(InputError, match=said):
        other.cache.import_file(path, "BTC/USDT", timeframe)


def test_candles_off_the_grid_are_kept_as_they_are(other: CandleFetcher, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", *hours(5), *hours(20, "2024-03-01T04:28:14.789"))
    path.write_text(path.read_text().replace(":28:14,", ":28:14.789,"))
    assert other.cache.import_file(path, "BTC/USDT", "1h").rows == 25
    assert len(offline(other, "1h", "2024-03-01", "2024-03-02")) == 25


def test_candles_of_the_future_stay_out(world: World, other: CandleFetcher, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", *hours(30, "2024-06-15T00:00"))  # it is 12:00:30 there
    done = other.cache.import_file(path, "BTC/USDT", "1h")
    assert (done.rows, done.ignored, done.last) == (12, 18, "2024-06-15T11:00:00Z")
    with pytest.raises(InputError, match="future"):
        other.cache.import_file(write(path, *hours(3, "2031-01-01")), "BTC/USDT", "1h")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("timestamp,open,high,low,close\n", "its header"),
        ("timestamp,close,high,low,open,volume\n", "its header"),
        ("timestamp,open,high,low,close,volume,is_open\n", "is_open"),
        ("timestamp,open,high,low,close,volume,trades,trades\n", "trades"),
        ("time,open,high,low,close,volume\n", "first line"),
        ("symbol,timestamp,open,high,low,close,volume\n", "first line"),
        ("{\n", "first line"),
    ],
)
def test_a_header_that_is_none_of_ours_is_refused(other: CandleFetcher, tmp_path: Path, header: str, said: str) -> None:
    path = write(tmp_path / "rows.csv", *hours(3), header=header)
    with pytest.raises(InputError, match=said):
        other.cache.import_file(path, "BTC/USDT", "1h")


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        (
            "BTC_USDT_1h_20240301_20240302.csv",
            {"timeframe": "4h"},
            "timeframe 1h, but the call says timeframe='4h'",
        ),
        ("BTC_USDT_1h_20240301_20240302.csv", {"symbol": "ETH/USDT"}, "BTC_USDT, but the call says symbol='ETH/USDT'"),
        (
            "BTC_USDT_1h_20240301_20240302.csv",
            {"provider": "binance-um"},
            "provider binance, but the call says provider='binance-um'",
        ),
        ("BTC_USDT_1h_20240301_20240302.csv", {"kind": "mark"}, "kind candles, but the call says kind='mark'"),
        ("prices.csv", {"symbol": "BTC/USDT"}, "does not say the timeframe"),
        ("prices.csv", {"timeframe": "1h"}, "does not say the symbol"),
        ("prices.csv", {"symbol": "BTC/USDT", "timeframe": "7m"}, "made of candles of 1m"),
        ("prices.csv", {"symbol": "BTC/USDT", "timeframe": "1x"}, "unknown timeframe"),
        ("prices.csv", {"symbol": "BTC/USDT", "timeframe": "1h", "provider": "binanc"}, "unknown provider"),
        ("prices.csv", {"symbol": "BTC/USDT", "timeframe": "1h", "kind": "mark"}, "offers no 'mark'"),
    ],
)
def test_name_and_words_have_to_agree(
    other: CandleFetcher, tmp_path: Path, name: str, what: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        other.cache.import_file(write(tmp_path / name, *hours(24)), **what)


def test_what_is_said_twice_and_agrees_is_fine(other: CandleFetcher, tmp_path: Path) -> None:
    path = write(tmp_path / "BTC_USDT_1h_20240301_20240302.csv", *hours(24))
    for symbol in ("btc/usdt", "BTCUSDT", "BTC-USDT"):
        assert other.cache.import_file(path, symbol, "60m", provider="binance", kind="candles").rows == 24


def test_an_empty_file_and_one_that_is_not_there(other: CandleFetcher, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(BadFile, match="it is empty"):
        other.cache.import_file(tmp_path / "empty.csv", "BTC/USDT", "1h")
    with pytest.raises(FileNotFoundError):
        other.cache.import_file(tmp_path / "none.csv", "BTC/USDT", "1h")
    done = other.cache.import_file(write(tmp_path / "header.csv"), "BTC/USDT", "1h")
    assert (done.rows, done.first, done.last) == (0, None, None)


def test_nothing_is_stored_of_a_file_whose_last_row_is_wrong(other: CandleFetcher, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", *hours(9_000, "2022-01-01"), "2024-03-01 00:00:00,1,2,3,1,5")
    with pytest.raises(BadFile):
        other.cache.import_file(path, "BTC/USDT", "1h")
    assert not other.cache.stats().disk_entries


# -- filling in, point by point -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_filling_in_agrees_with_a_slow_reading() -> None:
    hour = parse_timeframe("1h")
    names = ("open_time", "open", "high", "low", "close", "volume")
    draw = random.Random(11)

    def candles(slots: list[int], value: float) -> Any:
        opens = np.array(slots, np.int64) * HOUR
        return candles_from(names, [opens, *[np.full(len(slots), value)] * 5]) if slots else no_candles(names)

    for _ in range(400):
        entry = None
        known: dict[int, object] = {}  # slot -> value of its candle, or the state of its hole and when it was confirmed
        for value in (1.0, 2.0, 3.0):
            first = draw.randrange(40)
            stop = first + draw.randrange(1, 15)
            slots = sorted(draw.sample(range(first, stop), draw.randrange(stop - first + 1)))
            state = draw.choice([HoleState.DUE, HoleState.CONFIRMED, None])
            now_ms = draw.randrange(10_000, 10_003) * HOUR
            word = state, now_ms if state is HoleState.CONFIRMED else None
            if known:
                for slot in range(min(*known, first), max(max(known) + 1, stop)):
                    known.setdefault(slot, (HoleState.UNASKED, None))
            span = Span(first * HOUR, stop * HOUR)
            made = fill(entry, span, candles(slots, value), timeframe=hour, now_ms=now_ms, state=state)
            entry = made.entry
            for slot in range(first, stop):
                had = known.get(slot)
                if isinstance(had, float):
                    continue
                if slot in slots:
                    known[slot] = value
                elif state is None:
                    known[slot] = (None, None)
                elif had is None or had == (HoleState.UNASKED, None):
                    known[slot] = word
                elif had != (None, None):
                    assert isinstance(had, tuple)
                    known[slot] = max(word, had)
            assert entry.covered == Span(min(known) * HOUR, (max(known) + 1) * HOUR)
            rows = dict(
                zip((entry.candles.open_ms // HOUR).tolist(), entry.candles.floats("open").tolist(), strict=True)
            )
            assert rows == {slot: one for slot, one in known.items() if isinstance(one, float)}
            holes = {
                slot: tuple(word)
                for span, *word in entry.holes
                for slot in range(span.start_ms // HOUR, span.end_ms // HOUR)
            }
            expected = {slot: one for slot, one in known.items() if isinstance(one, tuple) and one[0] is not None}
            assert holes == expected


# -- the command --------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_imports_files_and_says_what_came(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ("--cache-dir", str(tmp_path / "mine"), "--base-url", f"binance={world.exchange.base_urls['binance']}")
    ours = world.fetcher().export("BTC/USDT", "1h", *DAY, path=tmp_path)
    april = archive_file(world, tmp_path, "BTCUSDT-1h-2024-04.zip", checksum=False)
    code, out, err = run(capsys, "cache", "import", *folder, str(ours), str(april))
    assert (code, err) == (0, "")
    assert "binance BTC/USDT 1h, 24 candles, 2024-03-01T00:00:00Z to 2024-03-01T23:00:00Z" in out
    assert "24 new, in 1 chunk\n" in out
    assert "without close_time, quote_volume" in out
    assert "720 candles" in out
    assert "no checksum" in out
    assert (
        run(capsys, "fetch", "BTC/USDT", "1h", "--start", *DAY[:1], "--end", DAY[1], "--source", "cache", *folder)[0]
        == 0
    )
    code, out, _ = run(capsys, "cache", "import", str(ours), *folder, "--json", "--symbol", "BTC/USDT")
    (told,) = json.loads(out)
    assert (code, told["rows"], told["added"]) == (0, 24, 0)


def test_the_command_says_what_could_not_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ("--cache-dir", str(tmp_path / "mine"))
    good = write(tmp_path / "BTC_USDT_1h_20240301_20240302.csv", *hours(24))
    cut = tmp_path / "ETH_USDT_1h_20240301_20240302.csv"
    cut.write_bytes(good.read_bytes()[:-3])
    code, out, err = run(capsys, "cache", "import", str(cut), str(good), *folder)
    assert code == 3
    assert "24 candles" in out
    assert "ETH_USDT" in err
    assert "cut" in err
    assert run(capsys, "cache", "import", str(cut), *folder)[0] == 1
    assert run(capsys, "cache", "import", str(good), "--timeframe", "4h", *folder)[0] == 2
    assert run(capsys, "cache", "import", *folder)[0] == 2
    assert run(capsys, "cache", "stats", "file.csv", *folder)[0] == 2
    assert run(capsys, "cache", "import", str(tmp_path / "none.csv"), *folder)[0] == 1
