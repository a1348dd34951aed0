"""What the name of an exported file and the manifest beside it say, and what an import makes of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from candle_fetcher import CandleFetcher, InputError
from candle_fetcher.cli import main
from candle_fetcher.core.naming import csv_name, read_csv_name, stamp
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.files.places import ENDINGS
from candle_fetcher.files.writing import replacing

MANIFEST = "candle_fetcher"
DAY = ("BTC/USDT", "1h", "2024-03-01", "2024-03-02")
NVDA = ("NVDA", "1d", "2020-01-02", "2020-03-01")


def stocks(world: World, folder: Path, **chosen: str) -> CandleFetcher:
    settings = {"provider_settings": {"alpaca": chosen}} if chosen else {}
    keys = world.exchange.api_keys
    return world.fetcher(provider="alpaca", api_keys=keys, cache_dir=folder, **settings)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2024-01-01T00:00:00", "20240101"),
        ("2024-01-01T06:30:00", "20240101T0630"),
        ("2024-01-01T00:00:10", "20240101T000010"),
        ("2024-01-01T06:30:15", "20240101T063015"),
        ("2024-01-01T06:30:15.250", "20240101T063015250"),
        ("1999-12-31T23:00:00", "19991231T2300"),
    ],
)
def test_a_time_in_a_name_is_the_shortest_that_is_exact(time: str, text: str) -> None:
    import numpy as np

    assert stamp(int(np.datetime64(time, "ms").astype(int))) == text


times = st.integers(0, 4_000_000_000_000).map(lambda ms: ms) | st.integers(0, 40_000).map(lambda day: day * 86_400_000)


@given(
    st.sampled_from(["BTC/USDT", "BTC", "A_B", "BRK.B"]),
    st.sampled_from(["candles", "mark", "index", "open_interest"]),
    st.sampled_from([(), ("split",), ("iex",), ("iex", "spin-off")]),
    st.sampled_from(["1s", "1m", "1h", "3d", "1w", "1M"]),
    times,
    times,
)
def test_names_are_read_as_they_were_made_and_two_ranges_have_two_names(
    symbol: str, kind: str, chosen: tuple[str, ...], timeframe: str, one: int, other: int
) -> None:
    length = parse_timeframe(timeframe)
    names = [csv_name("binance", symbol, kind, length, Span(0, end_ms), chosen) for end_ms in (one, other)]
    assert (names[0] == names[1]) is (one == other)
    kinds = ["candles", "mark", "index", "open_interest"]
    settings = [("feed", ("iex", "otc")), ("adjustment", ("split", "spin-off"))]
    label = read_csv_name(names[0], kinds, settings)
    assert label is not None
    assert (label.symbol, label.kind, label.timeframe) == (symbol.replace("/", "_").replace(".", "_"), kind, timeframe)
    assert tuple(value for _, value in label.settings) == chosen


@pytest.mark.fault("H06")
def test_two_exports_within_one_minute_are_two_files(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher()
    spans = [("2024-06-15T11:00:05", "2024-06-15T11:00:20"), ("2024-06-15T11:00:20", "2024-06-15T11:00:50")]
    paths = [fetcher.export("BTC/USDT", "1s", *span, path=tmp_path) for span in spans]
    assert [len(path.read_text().splitlines()) for path in paths] == [16, 31]


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("H05")
def test_an_adjusted_export_has_a_name_of_its_own_and_goes_to_its_own_series(world: World, tmp_path: Path) -> None:
    raw, split = stocks(world, tmp_path / "a"), stocks(world, tmp_path / "b", adjustment="split")
    paths = [fetcher.export(*NVDA, path=tmp_path) for fetcher in (raw, split)]
    assert [path.name for path in paths] == [
        "alpaca_NVDA_1d_20200102_20200301.csv",
        "alpaca_NVDA_split_1d_20200102_20200301.csv",
    ]
    assert split.fetch(*NVDA).attrs[MANIFEST]["settings"]["adjustment"] == "split"
    assert "settings" not in raw.fetch(*NVDA).attrs[MANIFEST]
    # Whatever the fetcher has chosen: the file says which series it is.
    for path, own, other in ((paths[0], {}, {"adjustment": "split"}), (paths[1], {"adjustment": "split"}, {})):
        for chosen in (own, other):
            folder = tmp_path / f"{path.stem}{len(chosen)}{chosen == own}"
            stocks(world, folder, **chosen).cache.import_file(path)
            wanted = {"start": NVDA[2], "end": "2020-02-29", "source": "cache"}
            closes = stocks(world, folder, **own).fetch(*NVDA[:2], **wanted)["close"]
            assert closes.tolist() == (raw if own == {} else split).fetch(*NVDA)["close"].tolist()
            with pytest.raises(Exception, match="allows no other source"):
                stocks(world, folder, **other).fetch(*NVDA[:2], **wanted)


@pytest.mark.slow
@pytest.mark.fault("H05")
def test_an_adjusted_export_without_its_day_is_refused(world: World, tmp_path: Path) -> None:
    path = stocks(world, tmp_path / "a", adjustment="split").export(*NVDA, path=tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="adjusted as of some day"):
        stocks(world, tmp_path / "b").cache.import_file(path)


# -- origin ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("H06")
def test_an_export_of_another_host_says_so_beside_it_and_is_imported_by_that_host_alone(
    world: World, tmp_path: Path
) -> None:
    fetcher = world.fetcher()
    path = fetcher.export(*DAY, path=tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == [
        "BTC_USDT_1h_20240301_20240302.csv",
        "BTC_USDT_1h_20240301_20240302.json",
    ]
    beside = json.loads(path.with_suffix(".json").read_text())
    fetched = dict(fetcher.fetch(*DAY).attrs[MANIFEST])
    assert {**beside, "sources": None} == {**fetched, "sources": None}
    assert beside["origin"] == world.exchange.base_urls["binance"]
    world.asked()
    assert world.fetcher(cache_dir=tmp_path / "same").cache.import_file(path).rows == 24
    with CandleFetcher(cache_dir=tmp_path / "real") as real:
        with pytest.raises(InputError, match="provider's own host"):
            real.cache.import_file(path)
        assert real.cache.stats().disk_entries == 0
    link = tmp_path / "elsewhere" / "link.csv"
    link.parent.mkdir()
    link.symlink_to(path)
    with CandleFetcher(cache_dir=tmp_path / "real") as real, pytest.raises(InputError, match="provider's own host"):
        real.cache.import_file(link, "BTC/USDT", "1h")


@pytest.mark.fault("H06")
def test_the_command_that_fetches_and_writes_says_it_too(world: World, tmp_path: Path) -> None:
    root = ("--base-url", f"binance={world.exchange.base_urls['binance']}", "--cache-dir", str(tmp_path / "cache"))
    span = ("--start", DAY[2], "--end", DAY[3])
    assert main(["fetch", *DAY[:2], *span, "--output", str(tmp_path / "mine.csv"), *root]) == 0
    assert json.loads((tmp_path / "mine.json").read_text())["origin"] == world.exchange.base_urls["binance"]
    assert main(["cache", "import", str(tmp_path / "mine.csv"), "--cache-dir", str(tmp_path / "real")]) == 2


@pytest.mark.slow
def test_the_manifest_of_an_export_in_pieces_is_that_of_the_frame(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candle_fetcher.fetcher.frames._STREAM_CHUNKS", 3)
    fetcher = world.fetcher()
    wanted = ("BTC/USDT", "1m", "2018-02-05", "2018-02-12")  # more pieces than one, with gaps
    path = fetcher.export(*wanted, path=tmp_path, manifest=True)
    beside = json.loads(path.with_suffix(".json").read_text())
    fetched = dict(fetcher.fetch(*wanted).attrs[MANIFEST])
    assert beside["gap_count"] > 0
    for name in ("sources", "retries"):
        beside.pop(name), fetched.pop(name)
    assert beside == fetched


@pytest.mark.slow(every=3)
@pytest.mark.fault("H05", "H06")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"symbol": "ETH/USDT"}, "ETH_USDT"),
        ({"timeframe": "4h"}, "4h"),
        ({"kind": "mark"}, "mark"),
        ({"provider": "binance-um"}, "binance-um"),
        ({"provider": "not-known"}, "expected one of alpaca"),
        ({"provider": 5}, "does not name"),
        ({"settings": {"adjustment": "split"}}, "adjustment"),
        ({"settings": 5}, "does not name"),
    ],
)
def test_a_name_that_contradicts_its_manifest_is_refused(
    world: World, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    fetcher = world.fetcher()
    path = fetcher.export(*DAY, path=tmp_path)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changed}))
    with pytest.raises(InputError, match=said):
        world.fetcher(cache_dir=tmp_path / "other").cache.import_file(path)


def test_a_manifest_that_cannot_be_read_is_refused_and_a_foreign_file_is_not_one(world: World, tmp_path: Path) -> None:
    path = world.fetcher().export(*DAY, path=tmp_path)
    beside = path.with_suffix(".json")
    other = world.fetcher(cache_dir=tmp_path / "other")
    beside.write_bytes(beside.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        other.cache.import_file(path)
    beside.write_text("[1, 2]")
    assert other.cache.import_file(path).rows == 24
    with pytest.raises(InputError, match="is not a manifest"):
        world.fetcher().export(*DAY, path=tmp_path)
    assert beside.read_text() == "[1, 2]"


def test_a_file_under_another_name_is_what_its_manifest_says(world: World, tmp_path: Path) -> None:
    path = world.fetcher().export(*DAY, path=tmp_path / "mine.csv")
    assert path.with_suffix(".json").is_file()
    other = world.fetcher(cache_dir=tmp_path / "other")
    done = other.cache.import_file(path)
    assert (done.symbol, done.timeframe, done.rows) == ("BTC/USDT", "1h", 24)
    with pytest.raises(InputError, match="symbol='ETH/USDT'"):
        other.cache.import_file(path, "ETH/USDT")


@pytest.mark.fault("H06")
def test_an_export_of_the_provider_itself_takes_away_the_manifest_of_another_host(world: World, tmp_path: Path) -> None:
    from_practice = world.fetcher().export(*DAY, path=tmp_path)
    alone = tmp_path / "alone" / from_practice.name
    alone.parent.mkdir()
    shutil.copy(from_practice, alone)
    with CandleFetcher(cache_dir=tmp_path / "real", source="cache") as real:
        real.cache.import_file(alone)  # without a manifest it is what its name says
        again = real.export(*DAY, path=tmp_path)
        assert again == from_practice
        assert not again.with_suffix(".json").exists()
        assert real.export(*DAY, path=tmp_path, manifest=True).with_suffix(".json").is_file()


@pytest.mark.fault("F01", "H06")
def test_a_crash_between_manifest_and_file_leaves_no_file_that_claims_to_be_the_real_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is there before the file is: each move but the first fails."""
    moved: list[str] = []
    move = Path.replace

    def stop(path: Path, to: Path) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(to.name)
        return move(path, to)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        world.fetcher().export(*DAY, path=tmp_path / "mine.csv")
    assert moved == ["mine.json"]
    assert not (tmp_path / "mine.csv").exists()


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("J06")
def test_a_tilde_in_a_path_is_the_home_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(tmp_path)
    fetcher = world.fetcher()
    assert fetcher.export(*DAY, path="~/mine.csv") == home / "mine.csv"
    assert fetcher.export(*DAY, path=Path("~/files")).parent == home / "files"
    assert fetcher.cache.import_file("~/mine.csv").rows == 24
    assert not (tmp_path / "~").exists()
    with pytest.raises(InputError, match="user that is not known here"):
        fetcher.export(*DAY, path="~no-such-user-of-this-machine/mine.csv")


@pytest.mark.parametrize("name", ["x.pq", "x.gz", "x.txt", "x.xls", "x.JSON", "x.jsonl.gz"])
def test_another_ending_is_refused_before_anything_is_asked(world: World, tmp_path: Path, name: str) -> None:
    fetcher = world.fetcher()
    world.asked("")
    with pytest.raises(InputError, match="which is not written"):
        fetcher.export(*DAY, path=tmp_path / name)
    assert world.asked("") == []
    assert not (tmp_path / name).exists()


def test_a_folder_may_have_a_dot_in_its_name(world: World, tmp_path: Path) -> None:
    fetcher = world.fetcher()
    (tmp_path / "my.files").mkdir()
    for path in (tmp_path / "my.files", f"{tmp_path / 'new.files'}{os.sep}", tmp_path / "v1.2", tmp_path / ".hidden"):
        assert fetcher.export(*DAY, path=path).parent == Path(path)


@pytest.mark.fault("I05")
def test_what_a_killed_export_left_is_gone_with_the_next_one(world: World, tmp_path: Path) -> None:
    endings = (*ENDINGS, ".json", ".jsonl.json")
    for ending in endings:
        (tmp_path / f".BTC_USDT_1h_20240301_20240302{ending}.abcd1234.part").touch()
    with replacing(tmp_path / "busy.csv") as busy:
        busy.write(b"x")
        world.fetcher().export(*DAY, path=tmp_path)
        assert len(list(tmp_path.glob(".*.part"))) == 1
    assert list(tmp_path.glob(".*.part")) == []
    assert (tmp_path / "busy.csv").read_bytes() == b"x"
