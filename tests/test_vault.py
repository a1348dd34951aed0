"""A vault on a practice exchange whose clock the test moves: what an update asks for, writes and reports."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import children
import pandas as pd
import pytest
import vault_kills
from runs import FAULT_RUNS
from world import World, ms

import candle_fetcher
from candle_fetcher import BadFile, FetchManyError, InputError, Vault
from candle_fetcher.cli import main
from candle_fetcher.core.events import Progress
from candle_fetcher.vault.locks import SeriesLocks
from candle_fetcher.vault.state import VaultDocument

DAY_S = 86_400
START = "2024-06-13"


@pytest.fixture
def vault(world: World, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault", world.fetcher())


def same_as_fetch(
    vault: Vault, world: World, symbol: str = "BTC/USDT", timeframe: str = "1m", start: str = START
) -> None:
    pd.testing.assert_frame_equal(vault.read(symbol, timeframe), world.fetcher().fetch(symbol, timeframe, start))


def test_an_update_asks_only_for_what_is_new(vault: Vault, world: World) -> None:
    report = vault.update(["BTC/USDT", "eth-usdt"], "1m", START)
    assert report[["symbol", "rows", "added", "revised", "gaps"]].values.tolist() == [
        ["BTC/USDT", 3600, 3600, 0, 0],
        ["ETH/USDT", 3600, 3600, 0, 0],
    ]
    world.asked()
    world.now_s += DAY_S
    report = vault.update()
    assert report["added"].tolist() == [1440, 1440]
    asked = [int(one["startTime"]) for one in world.asked()]
    # 1,440 new candles lie in at most three chunks; the last two were read soon after their close.
    assert len(asked) <= 6
    assert min(asked) >= ms("2024-06-15T11:58:00")
    assert report["requests"].sum() >= len(asked)
    assert vault.update()["added"].tolist() == [0, 0]
    assert world.asked() == []
    same_as_fetch(vault, world)


def test_a_report_has_its_columns(vault: Vault) -> None:
    report = vault.update("BTC/USDT", "1h", START)
    assert ",".join(report.columns) == (
        "provider,symbol,timeframe,kind,path,rows,added,revised,gaps,first,last,requests,seconds,error"
    )
    (row,) = report.itertuples()
    assert (row.provider, row.symbol, row.timeframe, row.kind) == ("binance", "BTC/USDT", "1h", "candles")
    assert Path(row.path).name == "binance_BTCUSDT_1h_1.csv"
    assert (str(row.first), str(row.last)) == ("2024-06-13 00:00:00+00:00", "2024-06-15 11:00:00+00:00")
    assert row.error is None
    assert row.requests > 0


def test_an_earlier_start_puts_what_lies_before_in_front(vault: Vault, world: World) -> None:
    vault.update("BTC/USDT", "1h", START)
    world.asked()
    report = vault.update("BTC/USDT", "1h", "2024-06-11")
    assert report[["rows", "added", "revised"]].values.tolist() == [[108, 48, 0]]
    assert world.asked() == []  # it lies in a chunk that was asked for whole
    same_as_fetch(vault, world, timeframe="1h", start="2024-06-11")
    assert vault.update("BTC/USDT", "1h", "2024-06-12")["added"].tolist() == [0]
    # A later start leaves no hole.
    world.now_s += 10 * DAY_S
    vault.update("BTC/USDT", "1h", "2024-06-24")
    same_as_fetch(vault, world, timeframe="1h", start="2024-06-11")


def test_an_end_brings_a_series_up_to_there(vault: Vault, world: World) -> None:
    assert vault.update("BTC/USDT", "1h", START, "2024-06-14")["rows"].tolist() == [24]
    assert vault.update("BTC/USDT", "1h", end="2024-06-13T06:00")["rows"].tolist() == [24]
    assert vault.update()["rows"].tolist() == [60]
    same_as_fetch(vault, world, timeframe="1h")


def test_first_is_the_listing(vault: Vault, world: World) -> None:
    report = vault.update("BTC/USDT", "1M", "first")
    assert str(report["first"][0]) == "2017-08-01 00:00:00+00:00"
    world.asked()
    assert vault.update("BTC/USDT", "1M", "first")["added"].tolist() == [0]
    assert world.asked() == []
    assert Path(report["path"][0]).name == "binance_BTCUSDT_1mo_1.csv"


@pytest.mark.parametrize(("symbol", "timeframe", "name"), [
    ("binance-um:BTC/USDT", "1h", "binance-um_BTCUSDT_1h_1.csv"),
    ("binance-cm:BTC/USD", "1h", "binance-cm_BTCUSD_PERP_1h_1.csv"),
    ("BTC/USDT", "7m", "binance_BTCUSDT_7m_1.csv"),
])  # fmt: skip
def test_names_tell_the_series(vault: Vault, world: World, symbol: str, timeframe: str, name: str) -> None:
    report = vault.update([symbol], timeframe, START)
    assert Path(report["path"][0]).name == name
    world.now_s += DAY_S
    vault.update()
    same_as_fetch(vault, world, symbol, timeframe)


def test_a_kind_is_a_series_of_its_own(vault: Vault) -> None:
    report = vault.update("BTC/USDT", "1h", START, provider="binance-um", kind="mark")
    assert Path(report["path"][0]).name == "binance-um_BTCUSDT_mark_1h_1.csv"
    with pytest.raises(InputError, match=r"no series binance-um:.* 1h; it has binance-um:.* 1h \(mark\)"):
        vault.read("BTC/USDT", "1h", provider="binance-um")


# -- what changes afterwards -------------------------------------------------------------------------------------------


def test_a_candle_that_changed_soon_after_its_close_is_rewritten(vault: Vault, world: World) -> None:
    vault.update("BTC/USDT", "1h", START)
    world.now_s += 40
    vault.update()
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-15T11:00"), close="1.00000000", low="1.00000000")
    world.now_s += 3600
    assert vault.update()[["added", "revised", "rows"]].values.tolist() == [[1, 1, 61]]
    assert vault.read("BTC/USDT", "1h")["close"].iloc[59] == 1
    same_as_fetch(vault, world, timeframe="1h")
    assert vault.verify()["whole"].tolist() == [True]


@pytest.mark.parametrize("timeframe", ["1h", "7h"])
def test_a_revision_that_the_cache_noted_is_rewritten_in_both_files(vault: Vault, world: World, timeframe: str) -> None:
    report = vault.update("BTC/USDT", timeframe, START)
    before = vault.read("BTC/USDT", timeframe)
    path = vault.path("BTC/USDT", timeframe)
    change(vault, world)
    world.asked()
    report = vault.update()
    assert report[["added", "revised", "rows"]].values.tolist() == [[0, 1, len(before)]]
    assert world.asked() == []
    assert vault.path("BTC/USDT", timeframe) != path
    for added in (0, 1):
        same_as_fetch(vault, world, timeframe=timeframe)
        assert vault.verify()["whole"].tolist() == [True]
        world.now_s += 3600 * int(timeframe[:-1]) * (1 - added)
        assert vault.update()[["added", "revised"]].values.tolist() == [[1 - added, 0]]
    assert vault.path("BTC/USDT", timeframe) == path


def change(vault: Vault, world: World) -> None:
    """Have the exchange change a candle that is settled for long, and a refresh notice it."""
    world.exchange.restate("binance", "BTCUSDT", "1h", ms("2024-06-13T05:00"), volume="77.00000000")
    vault._fetcher().fetch("BTC/USDT", "1h", START, "2024-06-14", refresh=True)


@pytest.mark.parametrize("file_format", ["csv", "arrow"])
def test_a_young_hole_that_is_filled_later_is_filled_in_the_vault(
    world: World, tmp_path: Path, file_format: str
) -> None:
    if file_format != "csv":
        pytest.importorskip("pyarrow")
    vault = Vault(tmp_path / "vault", world.fetcher(), format=file_format)
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-06-15T03:00"), ms("2024-06-15T05:00")))
    report = vault.update("BTC/USDT", "1h", START)
    assert report[["rows", "gaps"]].values.tolist() == [[58, 1]]
    world.exchange.unhide("binance", "BTCUSDT")
    world.now_s += 2 * 3600  # by then the hole is asked for again
    report = vault.update()
    assert report[["rows", "added", "revised", "gaps"]].values.tolist() == [[62, 4, 0, 0]]
    same_as_fetch(vault, world, timeframe="1h")
    assert vault.verify()["whole"].tolist() == [True]


# -- columns and processors --------------------------------------------------------------------------------------------


def test_a_mapping_names_and_chooses_columns(world: World, tmp_path: Path) -> None:
    options: dict[str, Any] = {"columns": {"ds": "timestamp", "{symbol}": "close", "n": "trades"}, "separator": ";"}
    vault = Vault(tmp_path / "vault", world.fetcher(), decimal=",", decimals=1, **options)
    vault.update("BTC/USDT", "1h", START)
    lines = vault.path("BTC/USDT", "1h").read_text().splitlines()
    truth = world.fetcher().fetch("BTC/USDT", "1h", START, columns="all")
    assert lines[0] == "ds;BTCUSDT;n"
    assert lines[1] == f"2024-06-13 00:00:00;{truth['close'].iloc[0]:.1f};{truth['trades'].iloc[0]}".replace(".", ",")
    world.now_s += DAY_S
    again = Vault(tmp_path / "vault", world.fetcher())
    again.update()
    frame = again.read("BTC/USDT", "1h")
    assert list(frame.columns) == ["BTCUSDT", "n"]
    assert frame.index.name == "timestamp"
    assert len(frame) == 84
    assert again.verify()[["whole", "compared"]].values.tolist() == [[True, 84]]
    with pytest.raises(InputError, match="leave columns out"):
        Vault(tmp_path / "vault", columns="all")
    with pytest.raises(InputError, match="leave separator out"):
        Vault(tmp_path / "vault", separator=",")


def test_all_columns_read_back(world: World, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault", world.fetcher(), columns="all")
    vault.update("BTC/USDT", "1h", START)
    truth = world.fetcher().fetch("BTC/USDT", "1h", START, columns="all")
    pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1h"), truth)


MEANS = {"timestamp": "timestamp", "close": "close", "mean": "mean"}


def add_mean(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(mean=sum(frame["close"].shift(at) for at in range(5)) / 5)


def test_processors_get_context_so_that_updates_are_as_one(world: World, tmp_path: Path) -> None:
    def make(name: str) -> Vault:
        return Vault(tmp_path / name, world.fetcher(), columns=MEANS, process=add_mean, context=4)

    vault = make("steps")
    vault.update("BTC/USDT", "1h", START, "2024-06-13T02:00")
    for end in ("2024-06-13T03:00", "2024-06-14T01:00", None):
        vault.update("BTC/USDT", "1h", end=end)
    one = make("one")
    one.update("BTC/USDT", "1h", START)
    assert vault.path("BTC/USDT", "1h").read_text() == one.path("BTC/USDT", "1h").read_text()
    vault.update("BTC/USDT", "1h", "2024-06-12")
    early = make("early")
    early.update("BTC/USDT", "1h", "2024-06-12")
    assert vault.path("BTC/USDT", "1h").read_text() == early.path("BTC/USDT", "1h").read_text()


@pytest.mark.parametrize(("process", "said"), [
    (lambda frame: frame.iloc[:-1], "left out 1 rows"),
    (lambda frame: pd.concat([frame, frame.iloc[-1:]]), "returned rows twice"),
    (lambda frame: frame[::-1], "returned rows in another order"),
    (lambda frame: frame.reset_index(), "returned no candles"),
    (lambda frame: frame["no"], "failed: KeyError"),
])  # fmt: skip
def test_a_processor_that_loses_rows_is_an_error_and_the_file_stays(
    world: World, tmp_path: Path, process: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    turn = [lambda frame: frame, process]

    def processor(frame: pd.DataFrame) -> pd.DataFrame:
        return turn[0](frame)

    vault = Vault(tmp_path / "vault", world.fetcher(), process=processor)
    vault.update("BTC/USDT", "1h", START)
    before = vault.path("BTC/USDT", "1h").read_bytes()
    turn.pop(0)
    world.now_s += DAY_S
    with pytest.raises(FetchManyError, match=rf"processor .*processor of binance:BTC/USDT 1h, 2024-06-15.* {said}"):
        vault.update()
    assert vault.path("BTC/USDT", "1h").read_bytes() == before


def test_an_update_without_the_processors_is_an_error(world: World, tmp_path: Path) -> None:
    Vault(tmp_path / "vault", world.fetcher(), process=add_mean).update("BTC/USDT", "1h", START)
    with pytest.raises(InputError, match=r"made with process=\[add_mean\]"):
        Vault(tmp_path / "vault", world.fetcher()).update()
    assert len(Vault(tmp_path / "vault", world.fetcher()).read("BTC/USDT", "1h")) == 60


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_months_are_updated_read_and_removed_as_csv_is(world: World, tmp_path: Path, file_format: str) -> None:
    pytest.importorskip("pyarrow")
    vault = Vault(tmp_path / "vault", world.fetcher(), format=file_format, columns="all")
    vault.update(["BTC/USDT", "ETH/USDT"], "1h", "2024-05-20")
    vault.update("BTC/USDT", "1h", "2024-04-20")
    change(vault, world)
    world.now_s += DAY_S
    report = Vault(tmp_path / "vault", vault._fetcher()).update()
    assert report[["added", "revised"]].values.tolist() == [[24, 1], [24, 0]]
    truth = world.fetcher().fetch("BTC/USDT", "1h", "2024-04-20", columns="all")
    pd.testing.assert_frame_equal(vault.read("BTC/USDT", "1h"), truth)
    part = vault.read("BTC/USDT", "1h", "2024-05-01T02:00", "2024-05-03")
    pd.testing.assert_frame_equal(part, truth["2024-05-01T02:00":"2024-05-02"])
    assert vault.verify()[["whole", "compared"]].values.tolist() == [[True, len(truth)], [True, 660]]
    with pytest.raises(InputError, match="leave format out"):
        Vault(tmp_path / "vault", format="csv")
    vault.remove("BTC/USDT", "1h")
    vault.remove("ETH/USDT", "1h")
    assert sorted(one.name for one in (tmp_path / "vault").iterdir()) == ["_vault.json", "_vault.lock"]


@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_a_folder_of_an_older_layout_or_without_its_document_is_an_error_and_no_second_vault(
    world: World, tmp_path: Path, format_name: str
) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "vault"
    Vault(folder, world.fetcher(), format=format_name).update("BTC/USDT", "1h", START)
    document, older = folder / "_vault.json", folder / "vault.json"
    document.rename(older)
    for options in ({}, {"format": format_name}):
        with pytest.raises(BadFile, match="move the folder away and update into a new one"):
            Vault(folder, world.fetcher(), **options)
    older.rename(tmp_path / "document")
    vault = Vault(folder, world.fetcher(), format=format_name)
    with pytest.raises(FetchManyError, match=r"_series is there, and no _vault\.json says what it is"):
        vault.update("BTC/USDT", "1h", START)
    (tmp_path / "document").rename(document)
    assert vault.update()["added"].tolist() == [0]
    older.write_bytes(VaultDocument("csv").to_bytes())
    with pytest.raises(BadFile, match="move away the one that is not of it"):
        vault.series()


@pytest.mark.parametrize("file_format", ["csv", "parquet", "arrow"])
def test_a_removal_that_was_cut_can_be_done_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    if file_format != "csv":
        pytest.importorskip("pyarrow")
    vault = Vault(tmp_path / "vault", world.fetcher(), format=file_format)
    vault.update("BTC/USDT", "1h", "2024-05-20")
    number, stops, removed = 0, 0, Path.unlink

    def remove(self: Path, missing_ok: bool = False) -> None:
        nonlocal number
        number += 1
        if number > stops:
            raise PermissionError("refused")
        removed(self, missing_ok)

    for stops in range(9):
        number = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", remove)
            try:
                vault.remove("BTC/USDT", "1h")
                break
            except PermissionError:
                pass
        assert vault.series()["symbol"].tolist() == ["BTC/USDT"]
        assert vault.verify()["whole"].tolist() == [stops == 0]
    assert stops > 1
    assert vault.series().empty
    assert not [path for path in (tmp_path / "vault").rglob("*") if "BTCUSDT" in str(path)]


@pytest.mark.parametrize("output", ["polars", "arrow"])
def test_other_libraries_get_the_rows_with_their_times(vault: Vault, output: str) -> None:
    pytest.importorskip({"arrow": "pyarrow"}.get(output, output))
    vault.update("BTC/USDT", "1h", START)
    frame = vault.read("BTC/USDT", "1h")
    table = vault.read("BTC/USDT", "1h", output=output)
    close = table["close"]
    assert (close.to_pylist() if output == "arrow" else close.to_list()) == frame["close"].tolist()
    assert list(table.column_names if output == "arrow" else table.columns) == ["timestamp", *frame.columns]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_one_failure_never_stops_the_others(vault: Vault, world: World) -> None:
    with pytest.raises(FetchManyError, match="2 of 3 series failed") as caught:
        vault.update(["NOPE/USDT", "BTC/USDT", "x:y:z"], "1h", START)
    report = caught.value.report
    assert report is not None
    assert report["added"].tolist() == [0, 60, 0]
    assert [error is None for error in report["error"]] == [False, True, False]
    assert set(caught.value.errors) == {"NOPE/USDT", "x:y:z"}
    assert vault.series()["symbol"].tolist() == ["BTC/USDT"]


def test_a_failed_update_leaves_the_series_and_the_next_one_goes_on(vault: Vault, world: World) -> None:
    vault.update("BTC/USDT", "1h", START)
    before = vault.path("BTC/USDT", "1h").read_bytes()
    world.now_s += DAY_S
    world.exchange.close()
    with pytest.raises(FetchManyError) as caught:
        vault.update()
    assert caught.value.report["rows"].tolist() == [60]
    assert vault.path("BTC/USDT", "1h").read_bytes() == before


def test_another_origin_is_an_error(vault: Vault, world: World, tmp_path: Path) -> None:
    vault.update("BTC/USDT", "1h", START)
    with World(tmp_path / "other") as other, pytest.raises(FetchManyError, match="use another vault for them"):
        Vault(tmp_path / "vault", other.fetcher()).update()


@pytest.mark.parametrize(("call", "said"), [
    (lambda vault: vault.update("BTC/USDT", "1h"), "start is missing"),
    (lambda vault: vault.update("BTC/USDT", start=START), "timeframe is missing"),
    (lambda vault: vault.update(), "no such series yet"),
    (lambda vault: vault.read("BTC/USDT", "1h"), "it has none yet"),
    (lambda vault: vault.path("BTC/USDT", "1h"), "it has none yet"),
    (lambda vault: vault.remove("BTC/USDT", "1h"), "it has none yet"),
    (lambda vault: Vault("x", format="xml"), "unknown format 'xml'"),
    (lambda vault: vault.read("BTC/USDT", "1h", output="csv"), "unknown output 'csv'"),
    (lambda vault: Vault("x", columns={"y": "close"}), "name timestamp once"),
    (lambda vault: Vault("x", process=3), "expected a function"),
    (lambda vault: Vault("x", context=-1), "context"),
])  # fmt: skip
def test_what_is_not_valid_is_said(vault: Vault, call: Callable[[Vault], object], said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        call(vault)
    assert isinstance(caught.value, InputError | FetchManyError)
    assert not (Path(str(vault._home)) / "vault.json").exists()


def test_a_damaged_document_is_an_error_that_says_what_to_do(vault: Vault, tmp_path: Path) -> None:
    vault.update("BTC/USDT", "1h", START)
    path = tmp_path / "vault" / "vault.json"
    path.write_bytes(path.read_bytes().replace(b"BTCUSDT", b"ETHUSDT"))
    with pytest.raises(BadFile, match=r"vault\.json is damaged or was edited; put back a copy"):
        vault.read("BTC/USDT", "1h")


def test_foreign_files_in_the_folder_are_left_alone(vault: Vault, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    folder.mkdir()
    (folder / "notes.csv").write_text("mine\n")
    vault.update("BTC/USDT", "1h", START)
    vault.remove("BTC/USDT", "1h")
    assert (folder / "notes.csv").read_text() == "mine\n"
    assert sorted(one.name for one in folder.iterdir()) == ["_vault.lock", "notes.csv", "vault.json"]
    assert vault.series().empty


READER = """
    import json, os, sys, tempfile
    from candle_fetcher import CandleFetcher, FetchManyError, Vault
    folder, now_s, urls = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])

    def use(call):
        with tempfile.TemporaryDirectory() as cache, CandleFetcher(
            base_urls=urls, cache_dir=cache, clock=lambda: now_s, progress=False
        ) as fetcher, Vault(folder, fetcher) as vault:
            return call(vault)

    def read(vault):
        return len(vault.read("BTC/USDT", "1h")), vault.series()["rows"].tolist(), vault.verify()["whole"].tolist()

    def update(vault):
        try:
            return vault.update()["added"].tolist()
        except FetchManyError as error:
            return [type(one).__name__ for one in error.errors.values()]

    use(read)  # imports everything, as the user below may read no library
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    print(use(read), use(update), use(read))
"""


@pytest.mark.slow(keep=["csv"])
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
@pytest.mark.parametrize("file_format", ["csv", "parquet", "arrow"])
def test_a_folder_that_cannot_be_written_to_is_read(world: World, file_format: str) -> None:
    if file_format != "csv":
        pytest.importorskip("pyarrow")
    # The folders that pytest makes are closed to other users.
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "vault")
        Vault(folder, world.fetcher(), format=file_format).update("BTC/USDT", "1h", START)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        Path(parent).chmod(0o755)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        words = folder, world.now_s + DAY_S, json.dumps(world.exchange.base_urls)
        try:
            code, out, err = children.run(READER, *words)
        finally:
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o755)
        assert (code, err) == (0, "")
        whole = "(60, [60], [True])"
        assert out.strip() == f"{whole} ['PermissionError'] {whole}"
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_progress_counts_each_series(vault: Vault, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Progress] = []
    vault.update(["BTC/USDT", "ETH/USDT"], "1h", START, progress=events.append)
    assert [(one.phase, one.done, one.total) for one in events] == [
        ("start", 0, 2),
        ("advance", 1, 2),
        ("advance", 1, 2),
        ("end", 0, 2),
    ]
    assert {one.label for one in events} == {"2 series"}
    events.clear()
    with pytest.raises(FetchManyError):
        vault.update(["NOPE/USDT", "BTC/USDT"], "1h", START, progress=events.append)
    assert [one.phase for one in events] == ["start", "advance", "advance", "end"]
    vault.update(progress=True)
    said = capsys.readouterr().err
    assert "2 series: 100%" in said
    assert "series/s" in said


# -- two at once -------------------------------------------------------------------------------------------------------


def test_a_series_that_another_writer_holds_is_waited_for_after_the_others(
    vault: Vault, world: World, tmp_path: Path
) -> None:
    vault.update(["BTC/USDT", "ETH/USDT"], "1h", START)
    world.now_s += DAY_S
    other = SeriesLocks(tmp_path / "vault")
    assert other.try_acquire("binance_BTCUSDT_1h")
    reports: list[pd.DataFrame] = []
    thread = threading.Thread(target=lambda: reports.append(vault.update()))
    thread.start()
    second = Vault(tmp_path / "vault", world.fetcher())
    assert second.update(["ETH/USDT"], "1h")["rows"].tolist() == [84]
    assert not reports
    other.release("binance_BTCUSDT_1h")
    thread.join(30)
    assert reports[0]["rows"].tolist() == [84, 84]
    other.close()


@pytest.mark.slow
def test_two_updaters_at_once_lose_and_double_nothing(vault: Vault, world: World, tmp_path: Path) -> None:
    symbols = ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    vault.update(symbols, "1h", START)
    vaults = [vault, Vault(tmp_path / "vault", world.fetcher())]
    for _ in range(3):
        world.now_s += DAY_S
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(lambda one: one.update(), vaults))
        assert sum(report["added"].sum() for report in reports) == 24 * len(symbols)
    assert vault.verify()["whole"].all()
    for symbol in symbols:
        same_as_fetch(vault, world, symbol, "1h")


@pytest.mark.slow
def test_updates_that_are_killed_lose_and_double_nothing() -> None:
    made = vault_kills.run(round(300 * FAULT_RUNS / 20), "csv", 1)
    assert made.faults == 0


# -- what is there -----------------------------------------------------------------------------------------------------


def test_series_lists_what_is_there(vault: Vault, world: World) -> None:
    vault.update("BTC/USDT", "1h", START)
    world.now_s += 3600
    (row,) = vault.series().itertuples()
    assert (row.symbol, row.rows, row.age) == ("BTC/USDT", 60, pd.Timedelta("1h30s"))
    assert row.size == 2 * vault.path("BTC/USDT", "1h").stat().st_size


def test_verify_finds_an_edit_and_a_difference_from_the_cache(world: World, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault", world.fetcher())
    vault.update("BTC/USDT", "1h", START)
    change(vault, world)
    (row,) = vault.verify().itertuples()
    assert not row.whole
    assert "1 rows differ from the cache" in row.problem
    vault.update()
    assert vault.verify()["whole"].tolist() == [True]
    path = vault.path("BTC/USDT", "1h")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    (row,) = vault.verify().itertuples()
    assert f"{path.name} " in row.problem


def test_the_vault_is_public() -> None:
    assert candle_fetcher.Vault is Vault


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_updates_lists_reads_verifies_and_removes(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_waits: None
) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_CACHE_DIR", str(tmp_path / "cache"))
    urls = ",".join(f"{name}={url}" for name, url in world.exchange.base_urls.items())
    monkeypatch.setenv("CANDLE_FETCHER_BASE_URLS", urls)
    where = str(tmp_path / "vault")
    span = ["--start", START, "--end", "2024-06-14"]
    assert main(["vault", "update", where, "BTC/USDT", "ETH/USDT", "1h", *span]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("binance BTC/USDT 1h: 24 added; 24 to 2024-06-13 23:00:00; ")
    assert main(["vault", "update", where, "-q", "--end", "2024-06-14"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["vault", "update", where, "NOPE/USDT", "BTC/USDT", "-i", "1h", *span, "--json"]) == 3
    said = capsys.readouterr()
    assert [one["error"] is None for one in json.loads(said.out)] == [False, True]
    assert "NOPE/USDT: " in said.err
    assert main(["vault", "list", where, "--json"]) == 0
    assert [one["rows"] for one in json.loads(capsys.readouterr().out)] == [24, 24]
    assert main(["vault", "read", where, "BTC/USDT", "1h", "--start", "2024-06-13T22:00"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["vault", "verify", where]) == 0
    path = next((tmp_path / "vault").glob("*BTC*_1.csv"))
    path.write_bytes(path.read_bytes()[:-2])
    capsys.readouterr()
    assert main(["vault", "verify", where, "-q"]) == 3
    assert "was cut or edited" in capsys.readouterr().err
    assert main(["vault", "remove", where, "ETH/USDT", "1h"]) == 0
    assert main(["vault", "remove", where, "ETH/USDT", "1h"]) == 2
    assert not list((tmp_path / "vault").glob("*ETH*"))
