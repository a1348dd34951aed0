"""Files of every format: the rows, values and manifest of a fetch, written whole or not at all, and the same again."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from world import World, ms

from candle_fetcher import CandleFetcher, IncompleteData, InputError, MissingExtra
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.files import workbook
from candle_fetcher.files.workbook import MOST_ROWS
from candle_fetcher.practice import faults

DAYS = ("BTC/USDT", "1h", "2024-06-01", "2024-06-04")
FORMATS = {"csv": ".csv", "parquet": ".parquet", "arrow": ".arrow", "excel": ".xlsx", "jsonl": ".jsonl"}
EXTRAS = {"parquet": "pyarrow", "arrow": "pyarrow", "excel": "xlsxwriter"}
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def need(file_format: str) -> None:
    if file_format in EXTRAS:
        pytest.importorskip(EXTRAS[file_format], reason=f"{file_format} is written by the extra's package")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("formats") / "cache") as world:
        world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-02T05:00"), ms("2024-06-02T07:00")))
        yield world


@pytest.fixture(scope="module")
def fetcher(world: World) -> CandleFetcher:
    return world.fetcher()


def sheet_rows(path: Path, sheet: str = "sheet1") -> list[list[Any]]:
    """The cells of a sheet, by its XML: numbers and bools as values, texts as texts, and None where there is none."""
    with zipfile.ZipFile(path) as book:
        tree = ElementTree.fromstring(book.read(f"xl/worksheets/{sheet}.xml"))
    rows = []
    for row in tree.iter(f"{SHEET}row"):
        cells: dict[int, Any] = {}
        for cell in row:
            at = ord(cell.attrib["r"][0]) - ord("A")
            texts = [part.text for part in cell.iter() if part.tag in (f"{SHEET}v", f"{SHEET}t")]
            kind = cell.attrib.get("t")
            cells[at] = (
                texts[0] if kind == "inlineStr" else texts[0] == "1" if kind == "b" else float(texts[0] or "nan")
            )
        rows.append([cells.get(at) for at in range(max(cells) + 1)])
    return rows


def serial(ms: np.ndarray) -> np.ndarray:
    return ms / 86_400_000 + 25_569


# What is in the file


@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("options", [{}, {"on_gap": "ffill", "include_open": True}], ids=["settled", "invented"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_has_the_rows_and_values_of_a_fetch(
    fetcher: CandleFetcher, tmp_path: Path, file_format: str, columns: Any, options: dict[str, Any]
) -> None:
    need(file_format)
    frame = fetcher.fetch(*DAYS, columns=columns, **options)
    path = fetcher.export(*DAYS, columns=columns, path=tmp_path / f"x{FORMATS[file_format]}", **options)
    if file_format in ("parquet", "arrow"):
        again = pd.read_parquet(path) if file_format == "parquet" else pd.read_feather(path)
        pd.testing.assert_frame_equal(again, frame)
    elif file_format == "jsonl":
        check_jsonl(path, frame)
    elif file_format == "excel":
        check_sheet(path, frame)
    else:
        again = pd.read_csv(path, index_col=0, parse_dates=True, dtype=dict.fromkeys(frame, str), keep_default_na=False)
        assert again.index.tz_localize("UTC").equals(frame.index)
        assert again["open"].astype(float).tolist() == frame["open"].tolist()


def check_jsonl(path: Path, frame: pd.DataFrame) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(row) for row in rows] == [["timestamp", *frame.columns]] * len(frame)
    assert [row["timestamp"] for row in rows] == [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in frame.index]
    for name, values in frame.items():
        got = [row[name] for row in rows]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            assert [one and pd.Timestamp(one) for one in got] == [None if one is pd.NaT else one for one in values]
        else:
            assert got == [None if pd.isna(one) else one for one in values]


def check_sheet(path: Path, frame: pd.DataFrame) -> None:
    header, *rows = sheet_rows(path)
    texts = ["timestamp", *frame.columns]
    assert header == [f"{name} (UTC)" if name in ("timestamp", "close_time") else name for name in texts]
    assert len(rows) == len(frame)
    columns = list(zip(*(row + [None] * (len(header) - len(row)) for row in rows), strict=True))
    assert np.allclose(np.array(columns[0], float), serial(frame.index.asi8 / 1e6), rtol=1e-15, atol=0)
    for got, (_, wanted) in zip(columns[1:], frame.items(), strict=True):
        values: Any = wanted
        if isinstance(wanted.dtype, pd.DatetimeTZDtype):
            values = pd.Series(serial(wanted.astype("int64").to_numpy() / 1e6)).where(wanted.notna().to_numpy())
        for one, value in zip(got, values, strict=True):
            assert (one is None) if pd.isna(value) else one == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_the_manifest_is_in_the_schema_of_a_file_that_has_one(
    fetcher: CandleFetcher, tmp_path: Path, file_format: str
) -> None:
    need(file_format)
    import pyarrow as pa
    import pyarrow.parquet as pq

    fetcher.fetch(*DAYS)
    frame = fetcher.fetch(*DAYS)
    path = fetcher.export(*DAYS, path=tmp_path, format=file_format)  # type: ignore[arg-type]
    schema = pq.read_schema(path) if file_format == "parquet" else pa.ipc.open_file(path).schema
    assert schema.names[0] == "timestamp"
    assert schema.field("timestamp").type.tz == "UTC"
    manifest = json.loads(schema.metadata[b"candle_fetcher"])
    assert {**manifest, "sources": 0} == {**frame.attrs[MANIFEST], "sources": 0}
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_arrow_file_is_mapped_without_a_copy(fetcher: CandleFetcher, tmp_path: Path) -> None:
    need("arrow")
    import pyarrow as pa

    path = fetcher.export(*DAYS, path=tmp_path / "x.feather")
    before = pa.total_allocated_bytes()
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
        assert table.num_rows == 70
        assert pa.total_allocated_bytes() == before
        del table


def test_a_workbook_is_one_of_a_spreadsheet(fetcher: CandleFetcher, tmp_path: Path) -> None:
    need("excel")
    path = fetcher.export(*DAYS, path=tmp_path / "x.xlsx")
    with zipfile.ZipFile(path) as book:
        sheet, styles = (book.read(f"xl/{name}.xml").decode() for name in ("worksheets/sheet1", "styles"))
    assert '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>' in sheet
    for shown in ("yyyy-mm-dd hh:mm:ss", "0.00000"):  # a volume has five decimals, and a price two
        assert f'formatCode="{shown}"' in styles
    about = dict(sheet_rows(path, "sheet2"))
    assert about["symbol"] == "BTC/USDT"
    assert about["fingerprint"] == fetcher.fetch(*DAYS).attrs[MANIFEST]["fingerprint"]


def test_each_column_of_a_workbook_is_as_wide_as_its_numbers(fetcher: CandleFetcher, tmp_path: Path) -> None:
    need("excel")
    path = fetcher.export(*DAYS, path=tmp_path / "x.xlsx", columns="all")
    with zipfile.ZipFile(path) as book:
        tree = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        formats = ElementTree.fromstring(book.read("xl/styles.xml"))
    codes = {one.attrib["numFmtId"]: one.attrib["formatCode"] for one in formats.iter(f"{SHEET}numFmt")}
    cells = next(one for one in formats.iter(f"{SHEET}cellXfs"))
    places = [codes.get(one.attrib["numFmtId"], "").partition(".")[2].count("0") for one in cells]
    widths = [
        float(one.attrib["width"])
        for one in tree.iter(f"{SHEET}col")
        for _ in range(int(one.attrib["min"]), int(one.attrib["max"]) + 1)
    ]
    for row in [*tree.iter(f"{SHEET}row")][1:]:
        for width, cell in zip(widths, row, strict=True):
            shown = f"{float(next(cell.iter(f'{SHEET}v')).text or 0):.{places[int(cell.attrib['s'])]}f}"
            assert width > len(shown) + 1, shown  # else a spreadsheet shows ###


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_candles_make_equal_files(fetcher: CandleFetcher, tmp_path: Path, kind: str) -> None:
    need(kind)
    fetcher.fetch(*DAYS)
    first, second = (fetcher.export(*DAYS, path=tmp_path / f"{name}{FORMATS[kind]}") for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    if kind == "excel":  # else they differ from one second to the next
        assert b"1980-01-01T00:00:00Z" in zipfile.ZipFile(first).read("docProps/core.xml")


def test_packed_files_of_equal_candles_are_equal(fetcher: CandleFetcher, tmp_path: Path) -> None:
    plain = fetcher.export(*DAYS, path=tmp_path / "x.csv").read_bytes()
    packed = [fetcher.export(*DAYS, path=tmp_path / name).read_bytes() for name in ("x.csv.gz", "y.CSV.GZ")]
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == plain
    assert packed[0][3:8] == bytes(5)  # neither a name nor a time


@pytest.mark.parametrize("file_format", [name for name in FORMATS if name != "csv"])
def test_a_header_may_have_signs_that_only_a_csv_cannot_quote(
    fetcher: CandleFetcher, tmp_path: Path, file_format: str
) -> None:
    need(file_format)
    options: dict[str, Any] = {"columns": {"time, UTC": "timestamp", 'the "last"': "close"}}
    fetcher.export(*DAYS, path=tmp_path, format=file_format, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="separator, a quote"):
        fetcher.export(*DAYS, path=tmp_path, **options)


@pytest.mark.parametrize("ending", FORMATS.values())
def test_nothing_but_a_file_is_replaced_and_that_is_seen_before_anything_is_asked(
    world: World, tmp_path: Path, ending: str
) -> None:
    need(next(name for name, one in FORMATS.items() if one == ending))
    fetcher = world.fetcher()
    world.asked("")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(InputError, match="is a folder; expected a file, or the folder with / at its end"):
        fetcher.export(*DAYS, path=tmp_path / f"folder{ending}")
    if os.name == "posix":
        pipe, link = tmp_path / f"pipe{ending}", tmp_path / f"link{ending}"
        os.mkfifo(pipe)
        link.symlink_to(pipe)
        for path in (pipe, link):
            with pytest.raises(InputError, match="is a pipe or a device"):
                fetcher.export(*DAYS, path=path)
        assert pipe.is_fifo()
    assert world.asked() == []
    inside = fetcher.export(*DAYS, path=f"{tmp_path}/folder{ending}/")
    assert inside.parent == tmp_path / f"folder{ending}"


@pytest.mark.parametrize("name", ["l" * 250, "ä" * 125])
def test_a_file_may_have_the_longest_name_that_the_disk_takes(
    fetcher: CandleFetcher, tmp_path: Path, name: str
) -> None:
    path = fetcher.export(*DAYS, path=tmp_path / f"{name}.csv")
    assert sorted(one.name for one in tmp_path.iterdir()) == [f"{name}.csv", f"{name}.json"]
    assert path.stat().st_size


@pytest.mark.parametrize("file_format", FORMATS)
def test_any_format_has_columns_under_headers_of_ones_own(
    fetcher: CandleFetcher, tmp_path: Path, file_format: str
) -> None:
    need(file_format)
    chosen = {"ds": "timestamp", "{symbol}": "close", "n": "trades"}
    path = fetcher.export(*DAYS, path=tmp_path, format=file_format, columns=chosen)  # type: ignore[arg-type]
    frame = fetcher.fetch(*DAYS, columns="all")
    headers = ["ds", "BTCUSDT", "n"]
    if file_format == "parquet":
        again = pd.read_parquet(path)
        assert list(again) == headers
        assert (again["BTCUSDT"].to_numpy() == frame["close"].to_numpy()).all()
        assert pd.DatetimeIndex(again["ds"]).equals(frame.index.rename("ds"))
    elif file_format == "arrow":
        assert list(pd.read_feather(path)) == headers
    elif file_format == "jsonl":
        assert list(json.loads(path.read_text().splitlines()[0])) == headers
    elif file_format == "excel":
        assert sheet_rows(path)[0] == headers
        assert sheet_rows(path)[1][1] == frame["close"].iloc[0]
    else:
        first = f"2024-06-01 00:00:00,{frame['close'].iloc[0]:g},{frame['trades'].iloc[0]}"
        assert path.read_text().splitlines()[:2] == [",".join(headers), first]


def test_a_csv_has_the_separator_the_sign_and_the_decimals_that_were_asked_for(
    fetcher: CandleFetcher, tmp_path: Path
) -> None:
    path = fetcher.export(*DAYS, path=tmp_path / "x.csv", separator=";", decimal=",", decimals=8)
    row = fetcher.fetch(*DAYS).iloc[0]
    texts = [f"{value:.8f}".replace(".", ",") for value in row]
    assert path.read_text().splitlines()[1] == ";".join(["2024-06-01 00:00:00", *texts])
    beside = json.loads((tmp_path / "x.json").read_text())
    assert beside["csv"] == {"separator": ";", "decimal": ",", "decimals": 8}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_a_german_spreadsheet_reads_numbers_as_numbers_and_times_as_times(
    fetcher: CandleFetcher, tmp_path: Path
) -> None:
    path = fetcher.export(*DAYS, path=tmp_path / "de.csv", separator=";", decimal=",", columns="all")
    # Separator ; and quote ", UTF-8, from the first line, German, detect special numbers.
    options = ["--infilter=CSV:59,34,76,1,,1031,false,true", "--convert-to", "fods", "--outdir", str(tmp_path)]
    home = f"-env:UserInstallation={(tmp_path / 'home').as_uri()}"
    subprocess.run(["soffice", home, "--headless", *options, str(path)], check=True, capture_output=True, timeout=120)
    office = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
    table = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
    row = list(ElementTree.parse(tmp_path / "de.fods").iter(f"{table}table-row"))[1]
    cells = [cell for cell in row if f"{office}value-type" in cell.attrib]
    kinds = [cell.attrib[f"{office}value-type"] for cell in cells]
    frame = fetcher.fetch(*DAYS, columns="all")
    assert kinds == ["date", *("date" if name == "close_time" else "float" for name in frame)]
    assert float(cells[4].attrib[f"{office}value"]) == frame["close"].iloc[0]


# Places and names


@pytest.mark.parametrize("ending", FORMATS.values())
def test_a_folder_gets_a_name_with_the_ending_of_the_format(
    fetcher: CandleFetcher, tmp_path: Path, ending: str
) -> None:
    file_format = next(name for name, one in FORMATS.items() if one == ending)
    need(file_format)
    path = fetcher.export(*DAYS, path=tmp_path, format=file_format)  # type: ignore[arg-type]
    assert path.name == f"BTC_USDT_1h_20240601_20240604{ending}"
    stable = fetcher.export(*DAYS, path=tmp_path, format=file_format, name="{symbol}_now")  # type: ignore[arg-type]
    assert stable.name == f"BTC_USDT_now{ending}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "x.csv", "format": "parquet"}, "ends in .csv"),
        ({"path": "x.csv.gz", "format": "jsonl"}, "ends in .csv.gz"),
        ({"path": "x.feather", "format": "csv"}, "ends in .feather"),
        ({"format": "jsonl", "separator": ";"}, "options of CSV"),
        ({"path": "x.jsonl", "decimals": 2}, "options of CSV"),
        ({"path": "x.csv", "name": "y"}, "names the file"),
        ({"name": "y.csv"}, "without .csv"),
        ({"name": "a:b"}, "not every system takes"),
        ({"name": "{symbol}_{timeframe}"}, "{timeframe}, which nothing replaces"),
        ({"columns": {"{Symbol}": "close"}}, "{Symbol}, which nothing replaces"),
        ({"columns": {"y" * 256: "close"}}, "at most 255 characters"),
        ({"columns": {f"y{at}": "close" for at in range(101)}}, "at most 100"),
        ({"format": "xlsx"}, "expected 'excel', or a path that ends in .xlsx"),
        ({"path": "~no-such-user-of-this-machine/x.csv"}, "home folder of a user"),
        ({"columns": {"y": "colse"}}, "Did you mean 'close'"),
        ({"columns": {"ETHUSDT": "open", "{symbol}": "close"}}, "twice"),
        ({"separator": ",", "decimal": ","}, "both"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fetcher = world.fetcher()
    world.asked("")
    with pytest.raises(InputError, match=said):
        fetcher.export("ETH/USDT", *DAYS[1:], **options)
    assert world.asked() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "extra"), [("x.parquet", "arrow"), ("x.arrow", "arrow"), ("x.xlsx", "excel")])
def test_without_its_package_a_format_is_refused_before_anything_is_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    fetcher = world.fetcher()
    world.asked("")
    with pytest.raises(MissingExtra, match=rf"candle-fetcher\[{extra}\]"):
        fetcher.export("ETH/USDT", *DAYS[1:], path=tmp_path / name)
    assert world.asked("") == []
    assert list(tmp_path.iterdir()) == []


def test_more_rows_than_a_sheet_holds_are_refused_before_a_candle_is_asked(world: World, tmp_path: Path) -> None:
    need("excel")
    fetcher = world.fetcher()
    for range_ in ({"start": "2022-01-01", "end": "2024-06-01"}, {"limit": MOST_ROWS + 1}):
        with pytest.raises(InputError, match="1,048,575"):
            fetcher.export("ETH/USDT", "1m", path=tmp_path / "x.xlsx", **range_)  # type: ignore[arg-type]
    assert all(int(one["limit"]) == 1 for one in world.asked())
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_that_turns_out_too_small_leaves_no_file(
    fetcher: CandleFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("excel")
    monkeypatch.setattr(workbook, "MOST_ROWS", 69)
    with pytest.raises(InputError, match="70 candles do not fit"):
        fetcher.export(*DAYS, path=tmp_path / "x.xlsx")
    assert list(tmp_path.iterdir()) == []


# Whole or not at all


@pytest.mark.parametrize("room", [0, 400, 6_000])
@pytest.mark.parametrize("file_format", FORMATS)
def test_where_the_disk_is_full_the_error_says_so_and_nothing_is_left(
    fetcher: CandleFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, room: int
) -> None:
    need(file_format)

    class Full(io.FileIO):
        left = room

        def write(self, data: Any) -> int:
            if len(memoryview(data).cast("B")) > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= len(memoryview(data).cast("B"))
            return super().write(data)

    monkeypatch.setattr("candle_fetcher.files.writing.os.fdopen", lambda handle, mode: Full(handle, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    unraised: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)
    target = tmp_path / f"x{FORMATS[file_format]}"
    with pytest.raises(OSError, match=r"x\..* was not written") as caught:
        fetcher.export("BTC/USDT", "1m", "2024-06-01", "2024-06-04", path=target)
    assert caught.value.errno == errno.ENOSPC
    del caught
    gc.collect()
    assert [one for one in unraised if one.exc_type is not ResourceWarning] == []  # nothing writes on behind the error
    assert [*tmp_path.iterdir(), *(tmp_path / "tmp").iterdir()] == [tmp_path / "tmp"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failure_in_the_middle_leaves_the_older_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    need(file_format)
    monkeypatch.setattr("candle_fetcher.fetcher.frames._STREAM_CHUNKS", 1)
    target = tmp_path / f"x{FORMATS[file_format]}"
    target.write_bytes(b"old")
    fetcher = world.fetcher(max_retries=0, use_cache=False, source="rest")
    fault = world.exchange.fail(faults.status(500), times=None, match="klines", after=3)
    with pytest.raises(IncompleteData):
        fetcher.export("BTC/USDT", "1m", *DAYS[2:], path=target, manifest=True)
    fault.stop()
    assert target.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == [target.name]
