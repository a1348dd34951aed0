"""read_file gives the frame that was exported, bit for bit, and refuses what is not that file any more."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples
from test_formats import need
from world import World, ms

from candle_fetcher import (
    BadFile,
    CandleFetcher,
    CandleFetcherWarning,
    InputError,
    Vault,
    combine,
    fingerprint,
    manifest_of,
    read_csv,
    read_file,
    resample,
    summary,
    verify_file,
)
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.naming import read_end_ms

HOURS = ("BTC/USDT", "1h", "2024-06-01", "2024-06-04")  # two candles are missing
OWN = {"ds": "timestamp", "{symbol}": "close", "lot": "volume", "n": "trades", "end": "close_time"}
FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
# What differs from one call to the next: where the candles came from.
OF_THE_CALL = {"sources", "retries"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("read") / "cache") as world:
        world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-02T05:00"), ms("2024-06-02T07:00")))
        yield world


@pytest.fixture(scope="module")
def fetcher(world: World) -> CandleFetcher:
    return world.fetcher()


def facts(frame: pd.DataFrame) -> dict[str, Any]:
    return {name: value for name, value in frame.attrs[MANIFEST].items() if name not in OF_THE_CALL}


def same(read: pd.DataFrame, fetched: pd.DataFrame) -> None:
    """Fails unless the frames are equal to the last bit: values, types, index, names and manifests."""
    pd.testing.assert_frame_equal(read, fetched, check_exact=True, check_freq=False)
    assert (read.index.name, str(read.index.dtype), read.index.freq) == ("timestamp", "datetime64[ns, UTC]", None)
    for name in read:
        if read[name].dtype == np.float64:
            assert np.array_equal(read[name].to_numpy().view(np.int64), fetched[name].to_numpy().view(np.int64)), name
    assert facts(read) == facts(fetched)
    assert manifest_of(read) == read.attrs[MANIFEST]


# Back as they were


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_frame_of_the_fetch(
    fetcher: CandleFetcher, tmp_path: Path, ending: str, columns: Any
) -> None:
    need(FORMATS[ending])
    path = fetcher.export(*HOURS, path=tmp_path / f"x{ending}", columns=columns)
    fetched = fetcher.fetch(*HOURS, columns=columns)
    assert fetched.attrs[MANIFEST]["gap_count"] == 1
    same(read_file(path), fetched)
    if FORMATS[ending] == "csv":
        same(read_csv(path), fetched)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "separator": st.sampled_from([",", ";", "\t", "|", "~", "^"]),
        "decimal": st.sampled_from([".", ","]),
        "manifest": st.booleans(),
        "include_open": st.booleans(),
        "on_gap": st.sampled_from(["leave", "ffill", "interpolate"]),
    },
)


@pytest.mark.slow
@examples(150)
@given(
    options=OPTIONS,
    ending=st.sampled_from(list(FORMATS)),
    columns=st.sampled_from(["ohlcv", "all", OWN, {"zeit": "timestamp", "hoch": "high", "tief": "low"}]),
    series=st.sampled_from([("BTC/USDT", "1h"), ("binance-cm:BTC/USD", "15m"), ("ETH/USDT", "7m"), ("BTC/USDT", "1M")]),
    back_h=st.integers(0, 90),
    is_named=st.booleans(),
)
def test_any_options_give_the_frame_of_the_fetch(
    fetcher: CandleFetcher,
    options: dict[str, Any],
    ending: str,
    columns: Any,
    series: tuple[str, str],
    back_h: int,
    is_named: bool,
) -> None:
    need(FORMATS[ending])
    style = {name: options.pop(name) for name in ("separator", "decimal") if name in options}
    if FORMATS[ending] != "csv" or style.get("separator", ",") == style.get("decimal", "."):
        style = {}
    has_manifest = options.pop("manifest", True)
    end = pd.Timestamp("2024-06-15T12:00") if options.get("include_open") else pd.Timestamp("2024-06-04")
    start = end - pd.Timedelta(hours=1 + back_h * (700 if series[1] == "1M" else 1))
    folder = Path(tempfile.mkdtemp())
    where = folder / f"x{ending}" if is_named else folder
    words: dict[str, Any] = {"path": where, "columns": columns, "manifest": has_manifest, **style, **options}
    if not is_named:
        words["format"] = FORMATS[ending]
    span = (start,) if options.get("include_open") else (start, end)
    path = fetcher.export(*series, *span, **words)
    if isinstance(columns, str):
        fetched = fetcher.fetch(*series, *span, columns=columns, **options)
    else:
        names = [name for name in columns.values() if name != "timestamp"]
        whole = fetcher.fetch(*series, *span, columns="all", **options)
        fetched = whole[[name for name in whole if name in names]]
        fetched.attrs = whole.attrs
    read = read_file(path)
    if not isinstance(columns, str):
        if "is_synthetic" in whole and whole["is_synthetic"].any():  # the gaps in the manifest say which rows
            fetched = fetched.assign(is_synthetic=whole["is_synthetic"])
        if options.get("include_open"):  # the range in the manifest says which rows may still change
            fetched = fetched.assign(is_closed=whole["is_closed"])
        read.attrs[MANIFEST].pop("fingerprint", None)
        fetched.attrs = {MANIFEST: {name: one for name, one in facts(whole).items() if name != "fingerprint"}}
        read.attrs = {MANIFEST: facts(read)}
    shutil.rmtree(folder)
    pd.testing.assert_frame_equal(read, fetched, check_exact=True, check_freq=False)
    assert facts(read) == facts(fetched)


def test_invented_rows_of_a_file_with_columns_of_its_own_are_marked(fetcher: CandleFetcher, tmp_path: Path) -> None:
    span = ("BTC/USDT", "1h", "2024-06-02T04:00", "2024-06-04")
    path = fetcher.export(*span, path=tmp_path / "x.csv", columns=OWN, manifest=True, on_gap="ffill")
    whole = fetcher.fetch(*span, on_gap="ffill")
    assert whole["is_synthetic"].any()
    read = read_file(path)
    assert read["is_synthetic"].tolist() == whole["is_synthetic"].tolist()
    assert read["close"].tolist() == whole["close"].tolist()
    assert verify_file(path, fetcher=fetcher).is_good
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert not verify_file(path, fetcher=fetcher).is_good
    with pytest.raises(BadFile, match="its rows are not those"):
        read_file(path)


@pytest.mark.slow
def test_a_file_of_another_provider_with_settings_reads_back(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        keys = world.exchange.api_keys
        fetcher = world.fetcher(provider="alpaca", api_keys=keys, provider_settings={"alpaca": {"adjustment": "all"}})
        path = fetcher.export("AAPL", "1d", "2024-01-01", "2024-06-01", path=tmp_path / "out")
        fetched = fetcher.fetch("AAPL", "1d", "2024-01-01", "2024-06-01")
        assert fetched.attrs[MANIFEST]["settings"]
        same(read_file(path), fetched)


@pytest.mark.parametrize("ending", FORMATS)
def test_files_without_a_candle_read_back(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(FORMATS[ending])
    what = ("BTC/USDT", "1h", "2016-01-01", "2016-01-02")
    for columns in ("ohlcv", "all"):
        if columns == "all" and ending == ".jsonl":
            continue  # it has no line that could say so
        path = fetcher.export(*what, path=tmp_path / f"x{ending}", columns=columns)  # type: ignore[arg-type]
        same(read_file(path), fetcher.fetch(*what, columns=columns))  # type: ignore[call-overload]


def test_a_partial_file_says_what_it_lacks(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher(cache_dir=tmp_path / "cache", source="rest")
    fetcher.fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    what = {"source": "cache", "partial": "allow"}
    path = fetcher.export("BTC/USDT", "1h", "2024-04-01", "2024-06-14", path=tmp_path / "x.csv", **what)  # type: ignore[arg-type]
    frame = read_file(path)
    same(frame, fetcher.fetch("BTC/USDT", "1h", "2024-04-01", "2024-06-14", **what))  # type: ignore[call-overload]
    assert frame.attrs[MANIFEST]["missing"]


# Mapped columns, and no manifest


def test_a_mapping_is_undone_by_the_manifest_or_by_the_mapping(fetcher: CandleFetcher, tmp_path: Path) -> None:
    fetched = fetcher.fetch(*HOURS, columns="all")[["close", "volume", "close_time", "trades"]]
    for ending in (".csv", ".csv.gz", ".jsonl"):
        for style in ({}, {"separator": ";", "decimal": ","}):
            if style and ending == ".jsonl":
                continue
            path = fetcher.export(*HOURS, path=tmp_path / f"x{ending}", columns=OWN, **style)  # type: ignore[arg-type]
            pd.testing.assert_frame_equal(read_file(path), fetched, check_exact=True)
            pd.testing.assert_frame_equal(read_file(path, columns=OWN), fetched)
            with pytest.raises(InputError, match="is not what its manifest says"):
                read_file(path, columns={"ds": "timestamp", "y": "close"})
            remove_manifest(path)
            own = OWN if ending != ".jsonl" else {**{k: v for k, v in OWN.items() if v != "close"}, "BTCUSDT": "close"}
            read = read_file(path, columns=own)
            pd.testing.assert_frame_equal(read, fetched, check_exact=True)
            assert read.attrs[MANIFEST]["unverified"] == [path.name]
            if ending != ".jsonl":
                with pytest.raises(InputError, match="`columns`, the mapping that it was exported with"):
                    read_file(path)
                with pytest.raises(InputError, match="its header is"):
                    read_file(path, columns={"ds": "timestamp", "y": "close"})


def remove_manifest(path: Path) -> None:
    ending = ".json" if path.name.endswith(".csv") else None
    (path.with_suffix(ending) if ending else path.with_name(f"{path.name}.json")).unlink()


def test_a_file_without_a_manifest_says_so(fetcher: CandleFetcher, tmp_path: Path) -> None:
    fetched = fetcher.fetch(*HOURS)
    named = fetcher.export(*HOURS, path=tmp_path)
    remove_manifest(named)
    frame = read_csv(named)
    pd.testing.assert_frame_equal(frame, fetched, check_exact=True)
    stated = frame.attrs[MANIFEST]
    assert stated["unverified"] == [named.name]
    assert stated["fingerprint"] == fetched.attrs[MANIFEST]["fingerprint"]
    assert (stated["provider"], stated["symbol"], stated["timeframe"], stated["rows"]) == (
        "binance",
        "BTC/USDT",
        "1h",
        70,
    )
    assert not {"gaps", "gap_count", "expected", "sources"} & set(stated)
    assert combine([frame], "close").columns.tolist() == ["BTC/USDT"]
    assert summary(frame)["timeframe"] == "1h"
    assert len(resample(frame, "1d")) == 3
    other = named.rename(tmp_path / "mine.csv")
    stated = read_csv(other).attrs[MANIFEST]
    assert stated == {"rows": 70, "unverified": ["mine.csv"]}
    with pytest.raises(InputError, match="does not name its series"):
        combine([read_csv(other)])
    with pytest.raises(InputError, match="give it, such as base='1m'"):
        resample(read_csv(other), "1d")
    # A name that cannot be true is not believed.
    wrong = other.rename(tmp_path / "BTC_USDT_1d_20240601_20240604.csv")
    assert read_csv(wrong).attrs[MANIFEST] == {"rows": 70, "unverified": [wrong.name]}


def test_rounded_numbers_say_so(fetcher: CandleFetcher, tmp_path: Path) -> None:
    frame = read_csv(fetcher.export(*HOURS, path=tmp_path / "x.csv", decimals=0))
    fetched = fetcher.fetch(*HOURS)
    pd.testing.assert_frame_equal(frame, fetched.round(0))
    stated = frame.attrs[MANIFEST]
    assert stated["decimals"] == 0
    assert stated["fingerprint"] == fingerprint(frame, "1h") != fetched.attrs[MANIFEST]["fingerprint"]


# Files of a vault


@pytest.mark.parametrize(
    "options",
    [{}, {"columns": "all"}, {"separator": ";", "decimal": ",", "columns": {"Zeit": "timestamp", "Schluss": "close"}}],
    ids=["plain", "all", "own"],
)
def test_both_files_of_a_series_in_a_vault_are_read_as_far_as_they_go(
    fetcher: CandleFetcher, tmp_path: Path, options: dict[str, Any]
) -> None:
    with Vault(tmp_path / "vault", fetcher, **options) as vault:
        vault.update(["BTC/USDT"], "1h", "2024-06-01", "2024-06-02")
        vault.update(["BTC/USDT"], "1h", None, "2024-06-04")
        path = vault.path("BTC/USDT", "1h")
        stored = vault.read("BTC/USDT", "1h")
    frame = read_csv(path)
    expected = stored if "separator" not in options else stored.rename(columns={"Schluss": "close"})
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    stated = frame.attrs[MANIFEST]
    assert (stated["symbol"], stated["rows"], stated["end"]) == ("BTC/USDT", 70, "2024-06-04T00:00:00Z")
    other = path.with_name(
        path.name.replace("_1.csv", "_2.csv") if "_1.csv" in path.name else path.name.replace("_2", "_1")
    )
    older = read_csv(other)
    assert 24 <= len(older) <= 70
    with other.open("ab") as file:
        file.write(b"2024-06-05 00:0")  # an update that was cut
    pd.testing.assert_frame_equal(read_csv(other), older)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"2024-06-01 03:", b"2024-06-01 04:", 1))
    with pytest.raises(BadFile, match=re.escape(path.name)):
        read_csv(path)
    path.write_bytes(text[:-200])
    with pytest.raises(BadFile, match=r"shorter than the state|cut"):
        read_csv(path)


def test_a_month_of_a_vault_is_read(fetcher: CandleFetcher, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="it writes the months")
    with Vault(tmp_path / "vault", fetcher, format="parquet") as vault:
        vault.update(["BTC/USDT"], "1h", "2024-05-20", "2024-06-04")
        months = sorted(vault.path("BTC/USDT", "1h").rglob("*.parquet"))
    frame = read_file(months[0])
    pd.testing.assert_frame_equal(frame, fetcher.fetch("BTC/USDT", "1h", "2024-05-20", "2024-06-01"), check_exact=True)
    assert frame.attrs[MANIFEST]["unverified"] == [months[0].name]


# Damaged, cut, edited


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    is_packed = path.name.endswith(".gz")
    made = change(gzip.decompress(data) if is_packed else data)
    assert made != (gzip.decompress(data) if is_packed else data)
    path.write_bytes(gzip.compress(made) if is_packed else made)


AT_7 = rb"(\n2024-06-01 07:00:00"
EDITS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a value": (lambda text: re.sub(rb"(05:00:00,)\d", rb"\g<1>9", text, count=1), "cannot be a candle|fingerprint"),
    "a volume": (lambda text: re.sub(rb",(\d+)\.(\d)\d*\n", rb",\1.0\2\n", text, count=1), "expected"),
    "a row less": (lambda text: b"\n".join(text.split(b"\n")[:5] + text.split(b"\n")[6:]), "got 69"),
    "the last row": (lambda text: text[: text.rstrip().rindex(b"\n") + 1], "got 69"),
    "a row more": (lambda text: text + b"2024-06-04 00:00:00,1,1,1,1,1\n", "got 71"),
    "twice": (lambda text: text.replace(text.split(b"\n")[4], b"\n".join([text.split(b"\n")[4]] * 2)), "there twice"),
    "a letter": (
        lambda text: re.sub(AT_7 + rb"),[\d.]+,", rb"\1,1o1,", text),
        r"row 8, field 1 \(open\): .* got '?1o1",
    ),
    "no number": (lambda text: re.sub(AT_7 + rb",[\d.]+,[\d.]+),[\d.]+,", rb"\1,,", text), "field low is empty"),
    "a time": (
        lambda text: text.replace(b"2024-06-01 07:", b"2024-06-01 27:"),
        "row 8, field timestamp: expected a ti",
    ),
    "a field less": (lambda text: re.sub(AT_7 + rb"),[\d.]+,", rb"\1,", text), "row 8: expected 6 fields, got 5"),
    "out of order": (lambda text: text.replace(b"2024-06-01 07:", b"2024-05-01 07:"), "row 8|before"),
    "a low": (lambda text: re.sub(AT_7 + rb",[\d.]+,[\d.]+),[\d.]+,", rb"\1,99999999,", text), "row .*low 99999999"),
    "cut in a line": (lambda text: text[:-9], "no line end"),
    "another header": (lambda text: text.replace(b"low", b"lo w", 1), "lo w"),
}


@pytest.mark.fault("J23")
@pytest.mark.slow(every=2)
@pytest.mark.parametrize("how", EDITS)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_what_was_edited_or_cut_is_refused(fetcher: CandleFetcher, tmp_path: Path, how: str, ending: str) -> None:
    path = fetcher.export(*HOURS, path=tmp_path / f"x{ending}", manifest=True)
    change, said = EDITS[how]
    if how == "cut in a line" and ending == ".csv.gz":
        said = "cut|line"
    edit(path, change)
    with pytest.raises((BadFile, InputError), match=said) as caught:
        read_csv(path)
    assert path.name in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_no_flipped_bit_and_no_cut_reads_as_another_frame(fetcher: CandleFetcher, tmp_path: Path, ending: str) -> None:
    need(FORMATS[ending])
    path = fetcher.export(*HOURS, path=tmp_path / f"x{ending}", manifest=True)
    fetched, data = fetcher.fetch(*HOURS), path.read_bytes()
    random = np.random.default_rng(1)
    for at in random.integers(0, len(data), 60).tolist():
        for made in (data[:at], data[:at] + bytes([data[at] ^ (1 << int(random.integers(8)))]) + data[at + 1 :]):
            path.write_bytes(made)
            try:
                frame = read_file(path)
            except (BadFile, InputError, OSError):
                continue
            pd.testing.assert_frame_equal(frame, fetched, check_exact=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", "many"), ("rows", 5), ("start", "2024-06-02"), ("end", "never"), ("fingerprint", "0" * 64),
        ("timeframe", "4h"), ("timeframe", "x"), ("columns", 5), ("csv", {"decimals": "x"}), ("missing", 5),
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_other_candles_is_refused(
    fetcher: CandleFetcher, tmp_path: Path, name: str, value: object
) -> None:
    path = fetcher.export(*HOURS, path=tmp_path / "x.csv", manifest=True)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {name: value}))
    with pytest.raises(BadFile, match=r"x\.csv"):
        read_file(path)


def test_what_is_no_file_of_candles_is_refused_with_the_reason(fetcher: CandleFetcher, tmp_path: Path) -> None:
    for data, said in (
        (b"", "it is empty"),
        (b"a,b\n1,2\n", "its first line is 'a,b'"),
        (b"PK\x03\x04", "workbook or a zip"),
        (b"{}\n", "no column of times"),
        (b'{"timestamp": 5}\n', "cannot be read"),
    ):
        (tmp_path / "x.csv").write_bytes(data)
        with pytest.raises((BadFile, InputError), match=said):
            read_file(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none.csv")
    path = fetcher.export(*HOURS, path=tmp_path / "y.csv")
    for wrong in (5, "all", [], {}, {"a": 5}, ("timestamp",)):
        with pytest.raises(InputError):
            read_file(path, columns=wrong)  # type: ignore[arg-type]
    for wrong in (5, None, b"x", "a\0b"):
        with pytest.raises(InputError):
            read_file(wrong)  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "z.csv")
    with pytest.raises(InputError, match="pipe"):
        read_file(tmp_path / "z.csv")


def test_a_file_joins_with_a_frame(fetcher: CandleFetcher, tmp_path: Path) -> None:
    path = fetcher.export(*HOURS, path=tmp_path / "x.csv")
    other = fetcher.fetch("ETH/USDT", *HOURS[1:])
    made = combine([read_csv(path), other], "close")
    assert made.columns.tolist() == ["BTC/USDT", "ETH/USDT"]
    assert (made["BTC/USDT"].notna().sum(), len(made)) == (70, 72)
    assert read_csv(path).join(other.add_suffix("_eth")).notna().all(axis=None)
    assert index_ms(read_csv(path)).tolist() == index_ms(fetcher.fetch(*HOURS)).tolist()


def test_what_a_vault_reads_says_what_it_is_and_no_more(fetcher: CandleFetcher, tmp_path: Path) -> None:
    def double(frame: pd.DataFrame) -> pd.DataFrame:
        return frame * 2

    for words, more in (
        ({}, {}),
        ({"process": double, "decimals": 1}, {"processed": [double.__qualname__], "decimals": 1}),
    ):
        with Vault(tmp_path / f"vault {len(words)}", fetcher, **words) as vault:  # type: ignore[arg-type]
            vault.update(["BTC/USDT", "ETH/USDT"], "1h", "2024-06-01", "2024-06-04")
            frame = vault.read("BTC/USDT", "1h")
            part = vault.read("BTC/USDT", "1h", "2024-06-03", "2024-07-01")
            other = vault.read("ETH/USDT", "1h")
        fetched = fetcher.fetch(*HOURS).attrs[MANIFEST]
        names = ("provider", "origin", "symbol", "timeframe", "kind", "start", "end", "rows")
        stated = frame.attrs[MANIFEST]
        assert {name: stated[name] for name in names} == {name: fetched[name] for name in names}
        assert {name: value for name, value in stated.items() if name not in names} == more
        assert (part.attrs[MANIFEST]["start"], part.attrs[MANIFEST]["end"]) == (
            "2024-06-03T00:00:00Z",
            "2024-06-04T00:00:00Z",
        )
        assert combine([frame, other], "close").columns.tolist() == ["BTC/USDT", "ETH/USDT"]
        assert len(resample(frame, "1d")) == 3
        assert manifest_of(frame) == stated


def test_a_file_without_a_manifest_that_ends_before_its_name_is_warned_of(
    fetcher: CandleFetcher, tmp_path: Path
) -> None:
    path = fetcher.export(*HOURS, path=tmp_path)
    remove_manifest(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_csv(path)) == 70
    edit(path, lambda text: text[: text.rstrip().rindex(b"\n") + 1])
    with pytest.warns(CandleFetcherWarning, match=r"ends at 2024-06-04T00:00:00Z, and its last row is 2024-06-03T22"):
        assert len(read_csv(path)) == 69
    edit(path, lambda text: text[: text.index(b"\n") + 1])
    with pytest.warns(CandleFetcherWarning, match="it has no row"):
        assert read_csv(path).empty
    partial = path.rename(path.with_name(path.name.replace(".csv", "_partial.csv")))
    with pytest.warns(CandleFetcherWarning, match="its name says that it is partial"):
        read_csv(partial)


@pytest.mark.parametrize(
    ("stem", "end"),
    [
        ("BTC_USDT_1h_20240101_20240102", "2024-01-02T00:00:00Z"),
        ("x_20240101T0630_20240102T063015", "2024-01-02T06:30:15Z"),
        ("x_20240101_20240102T063015250_partial", "2024-01-02T06:30:15.250Z"),
        ("x_20240101", None),
        ("mine", None),
        ("x_20240101_20241301", None),
    ],
)
def test_the_end_of_a_range_is_read_from_a_name(stem: str, end: str | None) -> None:
    found = read_end_ms(stem)
    assert (None if found is None else iso(found)) == end
