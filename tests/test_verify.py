"""verify_file: whole files of every format, damaged ones, and values that differ from the cache."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_formats import EXTRAS, FORMATS
from world import World, ms

from candle_fetcher import BadFile, CandleFetcher, FileReport, InputError, read_csv, verify_file
from candle_fetcher.core.frame import MANIFEST

HOURS = ("BTC/USDT", "1h", "2024-04-01", "2024-06-14")  # more than two chunks
ENDINGS = [*FORMATS.values(), ".csv.gz", ".feather"]


def need(ending: str) -> None:
    formats = {one: name for name, one in FORMATS.items()} | {".feather": "arrow"}
    if formats.get(ending) in EXTRAS:
        pytest.importorskip(EXTRAS[formats[ending]], reason=f"{ending} is written by the extra's package")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("verify") / "cache") as world:
        world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-02T05:00"), ms("2024-06-02T07:00")))
        yield world


@pytest.fixture(scope="module")
def fetcher(world: World) -> CandleFetcher:
    return world.fetcher()


def write(fetcher: CandleFetcher, path: Path, **options: Any) -> Path:
    return fetcher.export(*HOURS, path=path, **options)


# Whole files


@pytest.mark.parametrize("columns", ["ohlcv", "all", {"y": "close", "ds": "timestamp"}], ids=["ohlcv", "all", "own"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_export_wrote_is_whole_and_equal_to_the_cache(
    fetcher: CandleFetcher, tmp_path: Path, ending: str, columns: Any
) -> None:
    need(ending)
    frame = fetcher.fetch(*HOURS)
    path = write(fetcher, tmp_path / f"x{ending}", columns=columns)
    report = verify_file(path, fetcher=fetcher)
    is_sheet = ending == ".xlsx"
    has_sum = isinstance(columns, str) and not is_sheet
    fingerprint = frame.attrs[MANIFEST]["fingerprint"] if has_sum else None
    assert report == FileReport(path, True, len(frame), fingerprint, "not comparable" if is_sheet else ())
    assert report.is_good


@pytest.mark.parametrize(
    "options",
    [
        {"separator": ";", "decimal": ","},
        {"separator": "\t", "decimals": 8},
        {"separator": ";", "decimal": ",", "decimals": 1, "columns": "all"},
        {"separator": "|", "columns": {"{symbol}": "close", "zeit": "timestamp", "ende": "close_time", "n": "trades"}},
        {"on_gap": "ffill", "include_open": True, "columns": "all"},
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_a_csv_is_read_by_what_its_manifest_says(
    fetcher: CandleFetcher, tmp_path: Path, ending: str, options: dict[str, Any]
) -> None:
    path = write(fetcher, tmp_path / f"x{ending}", **options)
    report = verify_file(path, fetcher=fetcher)
    assert (report.whole, report.differences) == (True, ())


@pytest.mark.parametrize("ending", ENDINGS)
def test_invented_and_open_rows_are_not_part_of_the_fingerprint(
    world: World, fetcher: CandleFetcher, tmp_path: Path, ending: str
) -> None:
    need(ending)
    what: dict[str, Any] = {"symbol": "BTC/USDT", "timeframe": "1h", "start": "2024-06-01"}
    path = fetcher.export(**what, path=tmp_path / f"x{ending}", on_gap="ffill", include_open=True)
    report = verify_file(path, fetcher=fetcher)
    assert report.whole
    if ending != ".xlsx":
        assert report.fingerprint == fetcher.fetch(**what).attrs[MANIFEST]["fingerprint"]
        assert report.differences == ()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_without_a_candle_is_whole(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(ending)
    path = fetcher.export("BTC/USDT", "1h", "2016-01-01", "2016-01-02", path=tmp_path / f"x{ending}")
    report = verify_file(path, fetcher=fetcher)
    assert (report.whole, report.rows) == (True, 0)


def test_a_long_file_of_objects_is_read_block_by_block(fetcher: CandleFetcher, tmp_path: Path) -> None:
    what = ("BTC/USDT", "1m", "2024-05-01", "2024-05-06")
    path = fetcher.export(*what, path=tmp_path / "x.jsonl", columns="all")
    report = verify_file(path, fetcher=fetcher)
    assert (report.whole, report.rows, report.differences) == (True, 7_200, ())


def test_a_file_that_nothing_describes_is_read_to_its_end(fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv")
    path.with_suffix(".json").unlink()
    report = verify_file(path, fetcher=fetcher)
    assert (report.whole, report.fingerprint, report.differences) == (True, None, None)


def test_the_name_says_the_series_where_there_is_no_manifest(world: World, tmp_path: Path) -> None:
    """As a file of the provider itself, which the practice exchange's cache does not have."""
    fetcher = world.fetcher()
    path = write(fetcher, tmp_path)
    path.with_suffix(".json").unlink()
    report = verify_file(path, fetcher=fetcher)
    assert report.fingerprint == fetcher.fetch(*HOURS).attrs[MANIFEST]["fingerprint"]
    assert report.differences is None  # of another host


def test_a_cache_without_the_candles_is_said(world: World, fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv")
    world.asked("")
    report = verify_file(path, fetcher=world.fetcher(cache_dir=tmp_path / "empty"))
    assert (report.whole, report.differences) == (True, None)
    assert world.asked("") == []


# Other files


def test_a_value_that_differs_is_named_with_its_row_and_column(fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv", separator=";", decimal=",")
    lines = path.read_text().splitlines(keepends=True)
    fields = lines[100].split(";")
    time, before = pd.Timestamp(fields[0], tz="UTC"), float(fields[4].replace(",", "."))
    fields[4] = str(np.nextafter(before, 0)).replace(".", ",")  # by the last bit
    lines[100] = ";".join(fields)
    left_out = pd.Timestamp(lines.pop(200).partition(";")[0], tz="UTC")
    path.write_text("".join(lines))
    report = verify_file(path, fetcher=fetcher)
    assert not report.whole
    assert not report.is_good
    changed, lacking = sorted(report.differences or ())  # type: ignore[type-var]
    assert changed == (time, "close", np.nextafter(before, 0), before)
    assert lacking == (left_out, "timestamp", None, left_out.value // 1_000_000)


def test_a_difference_is_within_the_rounding_of_the_file(fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv", decimals=1)
    text = path.read_text()
    line = text.splitlines()[50]
    close = line.split(",")[4]
    path.write_text(text.replace(line, line.replace(f",{close},", f",{float(close) + 0.1:.1f},")))
    (found,) = verify_file(path, fetcher=fetcher).differences or ()
    assert isinstance(found, tuple)
    assert found.column == "close"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_cut_file_is_never_whole(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(ending)
    path = write(fetcher, tmp_path / f"x{ending}")
    data = path.read_bytes()
    for size in (0, 1, len(data) // 3, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(BadFile):
            verify_file(path, fetcher=fetcher)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl"])
def test_a_file_that_lacks_its_last_rows_is_not_whole(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    path = write(fetcher, tmp_path / f"x{ending}")
    is_packed = ending.endswith("gz")
    text = gzip.decompress(path.read_bytes()) if is_packed else path.read_bytes()
    text = text[: text.rfind(b"\n", 0, -1) + 1]
    path.write_bytes(gzip.compress(text) if is_packed else text)
    assert not verify_file(path, fetcher=fetcher).whole


def test_what_is_no_file_of_ours_is_said(fetcher: CandleFetcher, tmp_path: Path) -> None:
    for name in ("x.txt", "x"):
        with pytest.raises(InputError, match="ending"):
            verify_file(tmp_path / name, fetcher=fetcher)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="header"):
        verify_file(tmp_path / "x.csv", fetcher=fetcher)
    (tmp_path / "x.jsonl").write_text('{"timestamp":"2024-01-01T00:00:00Z","open":"x"}\n')
    with pytest.raises(BadFile, match="open"):
        verify_file(tmp_path / "x.jsonl", fetcher=fetcher)
    for time in ("2024-01-01 00:00:00Z", "2024-01-01T00:00:00", "2024-01-01", "", None, 5):
        (tmp_path / "x.jsonl").write_text(json.dumps({"timestamp": time, "open": 1}) + "\n")
        with pytest.raises(BadFile):
            verify_file(tmp_path / "x.jsonl", fetcher=fetcher)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_cannot_be_opened_is_not_called_damaged(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(ending)
    (tmp_path / f"folder{ending}").mkdir()
    reasons = {"none": "there is no such file", "folder": "it is a folder"}
    if os.name == "posix":
        os.mkfifo(tmp_path / f"pipe{ending}")  # opening it would wait for a writer
        (tmp_path / f"loop{ending}").symlink_to(tmp_path / f"loop{ending}")
        reasons |= {"pipe": "it is a pipe or a device", "loop": "Too many levels of symbolic links"}
    for name, reason in reasons.items():
        with pytest.raises((BadFile, InputError), match=reason) as caught:
            verify_file(tmp_path / f"{name}{ending}", fetcher=fetcher)
        assert "damaged" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="there are no named pipes in folders")
def test_a_pipe_is_refused_by_every_call_that_reads_a_file(fetcher: CandleFetcher, tmp_path: Path) -> None:
    for name, read in (
        ("x.csv", read_csv),
        ("x.zip", fetcher.cache.import_file),
        ("x.tar", fetcher.cache.restore),
    ):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} cannot be .*: it is a pipe or a device; expected a file"):
            read(tmp_path / name)


# Read back


@pytest.mark.parametrize("options", [{"separator": ";", "decimal": ","}, {"separator": "\t"}, {}], ids=str)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_every_csv_is_read_and_imported(
    world: World, fetcher: CandleFetcher, tmp_path: Path, ending: str, options: dict[str, Any]
) -> None:
    path = write(fetcher, tmp_path / f"x{ending}", columns="all", **options)
    pd.testing.assert_frame_equal(read_csv(path), fetcher.fetch(*HOURS, columns="all"))
    other = world.fetcher(cache_dir=tmp_path / "other")
    assert other.cache.import_file(path).rows == 1774
    assert verify_file(path, fetcher=other).differences == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", "many"),
        ("rows", None),
        ("columns", 5),
        ("columns", {"open": 5}),
        ("settings", 5),
        ("csv", 5),
        ("csv", {"decimals": "x"}),
        ("csv", {"separator": 5}),
        ("missing", 5),
        ("missing", [{"count": "x"}]),
        ("symbol", None),
    ],
    ids=str,
)
def test_a_manifest_that_says_what_none_says_is_a_bad_file(
    fetcher: CandleFetcher, tmp_path: Path, name: str, value: object
) -> None:
    path = write(fetcher, tmp_path / "x.csv", manifest=True)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {name: value}))
    with pytest.raises(BadFile, match="manifest"):
        verify_file(path, fetcher=fetcher)


def test_rows_out_of_order_are_not_called_absent_from_the_cache(fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    report = verify_file(path, fetcher=fetcher)
    assert str(report) == "x.csv: NOT WHOLE, 1,774 rows, not comparable with the cache"


def test_a_table_with_other_types_is_refused_with_the_reason(fetcher: CandleFetcher, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="it writes the tables")
    from pyarrow import parquet

    times = pyarrow.array([0, 3_600_000], pyarrow.timestamp("ms", "UTC"))
    for columns, said in (
        ({"timestamp": pyarrow.array(["a", "b"])}, "column of type string"),
        ({"timestamp": times.cast(pyarrow.timestamp("ms"))}, "no times with a zone"),
        ({"timestamp": pyarrow.array([0, None], times.type)}, "a row has no time"),
        ({"timestamp": times, "trades": pyarrow.array([1.5, 2.0])}, "its column trades has others than whole numbers"),
    ):
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        with pytest.raises((BadFile, InputError), match=said):
            verify_file(tmp_path / "x.parquet", fetcher=fetcher)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_partial_file_is_called_partial(world: World, tmp_path: Path, ending: str) -> None:
    need(ending)
    fetcher = world.fetcher(cache_dir=tmp_path / "cache", source="rest", max_retries=0)
    fetcher.fetch("BTC/USDT", "1h", "2024-05-01", "2024-05-02")
    path = fetcher.export(*HOURS, path=tmp_path / f"x{ending}", partial="allow", source="cache")
    report = verify_file(path, fetcher=fetcher)
    assert path.name == f"x_partial{ending}"
    assert 0 < report.missing < 1774
    assert not report.whole
    assert str(report).startswith(
        f"x_partial{ending}: PARTIAL, {report.missing:,} candles missing, {report.rows:,} rows"
    )
    assert report.differences in ((), "not comparable")


@pytest.mark.parametrize(
    "columns",
    [{"ds": "timestamp"}, {"t": "timestamp", "n": "trades"}, {"ds": "timestamp", "y": "close", "x": "open"}],
    ids=["times", "counts", "prices"],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_with_a_part_of_the_columns_is_whole_and_has_no_fingerprint(
    fetcher: CandleFetcher, tmp_path: Path, ending: str, columns: dict[str, str]
) -> None:
    need(ending)
    report = verify_file(write(fetcher, tmp_path / f"x{ending}", columns=columns), fetcher=fetcher)
    assert report.is_good
    assert report.fingerprint is None


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".xlsx"])
def test_what_cannot_be_held_against_the_cache_is_said_alike_in_every_format(
    fetcher: CandleFetcher, tmp_path: Path, ending: str
) -> None:
    need(ending)
    for columns, said in (
        ({"y": "close"}, "it has no column of times"),
        ({"ds": "timestamp", "close": "close", "Adj Close": "close"}, "it has the column close twice"),
    ):
        path = write(fetcher, tmp_path / f"x{ending}", columns=columns)
        with pytest.raises(InputError, match=said):
            verify_file(path, fetcher=fetcher)


def test_a_file_of_rounded_numbers_is_not_imported(world: World, fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = write(fetcher, tmp_path / "x.csv", decimals=2)
    with pytest.raises(InputError, match="rounded to 2 decimals"):
        world.fetcher(cache_dir=tmp_path / "other").cache.import_file(path)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".jsonl"])
def test_a_file_that_is_no_csv_is_said_to_be_what_it_is(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(ending)
    path = write(fetcher, tmp_path / f"x{ending}")
    for read in (read_csv, fetcher.cache.import_file):
        with pytest.raises(InputError, match=r"it is an? (Parquet|Arrow|file of JSON)"):
            read(path)


def test_manifests_beside_files_of_one_stem_are_their_own(fetcher: CandleFetcher, tmp_path: Path) -> None:
    for ending in (".csv", ".jsonl", ".csv.gz"):
        write(fetcher, tmp_path / f"x{ending}", manifest=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"x.csv", "x.json", "x.jsonl", "x.jsonl.json", "x.csv.gz", "x.csv.gz.json"}
    assert json.loads((tmp_path / "x.jsonl.json").read_text())["symbol"] == "BTC/USDT"
