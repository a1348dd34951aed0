"""Exported files read back as frames, and what is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World

from candle_fetcher import BadFile, CandleFetcher, InputError, combine, read_csv, summary
from candle_fetcher.cli import main

MANIFEST = "candle_fetcher"
SPAN = ("BTC/USDT", "1h", "2018-02-01", "2018-02-20")  # with a gap
SYMBOLS = {"binance": "BTC/USDT", "binance-cm": "BTC/USD", "kraken": "BTC/USD"}


@pytest.mark.slow(every=4)
@pytest.mark.fault("J23")
@pytest.mark.parametrize("columns", ["ohlcv", "all"])
@pytest.mark.parametrize("provider", SYMBOLS)
def test_a_file_reads_back_as_the_frame_that_was_fetched(
    world: World, tmp_path: Path, provider: str, columns: str
) -> None:
    fetcher = world.fetcher(provider=provider)
    wanted = {"start": "2024-06-14T00:00", "end": "2024-06-15T11:00", "columns": columns}
    fetched = fetcher.fetch(SYMBOLS[provider], "1h", **wanted)
    again = read_csv(fetcher.export(SYMBOLS[provider], "1h", path=tmp_path, **wanted))
    pd.testing.assert_frame_equal(again, fetched, check_exact=True)
    assert len(again) == 35
    assert again.attrs[MANIFEST]["fingerprint"] == fetched.attrs[MANIFEST]["fingerprint"]
    assert combine({"file": again, "fetched": fetched}, "close").notna().all(axis=None)
    assert summary(again)["symbol"] == fetched.attrs[MANIFEST]["symbol"]


def test_a_file_with_invented_rows_reads_back(world: World, tmp_path: Path) -> None:
    root = ("--base-url", f"binance={world.exchange.base_urls['binance']}", "--cache-dir", str(tmp_path / "cache"))
    path = tmp_path / "mine.csv"
    words = ("fetch", *SPAN[:2], "--start", SPAN[2], "--end", SPAN[3], "--on-gap", "ffill", "--output", str(path))
    assert main([*words, "--columns", "all", *root]) == 0
    filled = world.fetcher().fetch(*SPAN, on_gap="ffill", columns="all")
    again = read_csv(path)
    pd.testing.assert_frame_equal(again, filled, check_exact=True, check_freq=False)
    assert again["is_synthetic"].sum() == 32
    again.iloc[0, 0] = 1.0  # it can be written to
    assert again["open"].iloc[0] == 1.0


@pytest.mark.fault("K19")
@pytest.mark.parametrize("path", [5, None, [], b"mine.csv", object(), 1.5, ("a",), "a\0b", "a\0b.csv"])
def test_what_is_no_path_is_an_input_error(world: World, path: Any) -> None:
    fetcher = world.fetcher()
    for call in (read_csv, fetcher.cache.import_file, lambda path: fetcher.export(*SPAN, path=path)):
        with pytest.raises(InputError):
            call(path)


ODD_IMPORTS: list[dict[str, Any]] = [
    *({"symbol": 5}, {"timeframe": 5}, {"kind": 5}, {"provider": 5}, {"symbol": ["BTC/USDT"]}, {"provider": ["x"]}),
    *({"kind": {}}, {"timeframe": b"1h"}, {"symbol": object()}, {"provider": float("nan")}),
]
ODD_EXPORTS: list[dict[str, Any]] = [
    *({"format": 5}, {"format": "xls"}, {"format": "CSV"}, {"columns": 5}, {"columns": ["open"]}, {"manifest": 1}),
    *({"manifest": None}, {"symbol": 5}, {"timeframe": None}, {"kind": 5}, {"source": 5}, {"days": "x"}),
    *({"limit": "x"}, {"provider": 5}, {"start": object()}, {"end": []}),
    *({"separator": 5}, {"decimal": None}, {"decimals": "2"}, {"columns": {}}, {"columns": {"a": "b"}}),
    *({"name": one} for one in (5, "", "..", "a/b", "a\\b", "a\n", "x.csv", b"x")),
]


@pytest.mark.fault("K19")
def test_odd_arguments_of_imports_and_exports_are_input_errors(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher()
    what: dict[str, Any] = {"symbol": SPAN[0], "timeframe": SPAN[1], "start": SPAN[2], "end": SPAN[3], "path": tmp_path}
    path = fetcher.export(**what)
    for odd in ODD_IMPORTS:
        with pytest.raises(InputError):
            fetcher.cache.import_file(path, **odd)
    for odd in ODD_EXPORTS:
        with pytest.raises(InputError):
            fetcher.export(**{**what, **odd})


def test_what_export_did_not_write_is_told_from_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    line = "2024-01-01 00:00:00,1,2,0.5,1.5,3\n"
    head = "timestamp,open,high,low,close,volume\n"
    for text, error in (
        ("", BadFile),
        (head + line[:-1], BadFile),
        (head + line[:-5] + "\n", BadFile),
        (head + line + line.replace("1.5", "1.6"), BadFile),
        (head + line.replace("0.5", "9"), BadFile),
        ("Date,Close\n2024-01-01,5\n", InputError),
        ("timestamp,a b\n2024-01-01 00:00:00,5\n", InputError),
        ("timestamp,a,a\n2024-01-01 00:00:00,5,5\n", InputError),
        ("timestamp\n2024-01-01 00:00:00\n", InputError),
    ):
        path.write_text(text)
        with pytest.raises(error, match=r"mine\.csv"):
            read_csv(path)
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")
    path.write_text(head)
    empty = read_csv(path)
    assert (len(empty), list(empty.columns)) == (0, head.strip().split(",")[1:])
    assert str(empty.index.dtype) == "datetime64[ns, UTC]"


def test_the_working_folder_is_where_a_name_alone_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("timestamp,open,high,low,close,volume\n2024-01-01 00:00:00,1,2,0.5,1.5,3\n")
    assert read_csv("mine.csv")["close"].tolist() == [1.5]
    with CandleFetcher(cache_dir=tmp_path / "cache") as fetcher:
        assert fetcher.cache.import_file("mine.csv", "BTC/USDT", "1h").rows == 1
