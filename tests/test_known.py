"""coverage(): what the cache knows of a series, span by span, who said so, and when somebody is asked again."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from world import World, ms

from candle_fetcher import CacheWarning, IncompleteData
from candle_fetcher.practice import damage, faults

DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
HOUR_ZIP = "BTCUSDT-1h-2024-03.zip"


def lines(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    return [(f"{row.start:%Y-%m-%dT%H:%M}", f"{row.end:%Y-%m-%dT%H:%M}", row.state) for row in frame.itertuples()]


def test_nothing_is_known_of_what_was_never_asked_for(world: World) -> None:
    frame = world.fetcher().coverage("BTC/USDT", "1h")
    assert frame.empty
    assert list(frame) == ["start", "end", "state", "asked", "ask_again", "evidence"]
    assert not world.exchange.requests


def test_what_is_stored_and_what_the_provider_has_not(world: World) -> None:
    world.exchange.hide("binance", "BTCUSDT", (ms("2024-03-05T04:00"), ms("2024-03-05T07:00")))
    world.fetcher().fetch("BTC/USDT", "15m", "2024-03-05", "2024-03-06")
    world.exchange.clear_log()
    frame = world.fetcher().coverage("BTC/USDT", "15m", "2024-03-05", "2024-03-06")
    assert not world.exchange.requests
    assert lines(frame) == [
        ("2024-03-05T00:00", "2024-03-05T04:00", "stored"),
        ("2024-03-05T04:00", "2024-03-05T07:00", "no_candle"),
        ("2024-03-05T07:00", "2024-03-06T00:00", "stored"),
    ]
    hole = frame.iloc[1]
    assert hole["asked"] == pd.Timestamp("2024-06-15T12:00:30Z")
    assert hole["ask_again"] == hole["asked"] + pd.Timedelta("30D")
    assert "alone" in hole["evidence"]
    assert frame["ask_again"].isna().tolist() == [True, False, True]


def test_the_time_before_the_listing(world: World) -> None:
    fetcher = world.fetcher()
    first = fetcher.first_available("SOL/USDT")
    fetcher.fetch("SOL/USDT", "1d", first - pd.Timedelta("400D"), first + pd.Timedelta("10D"))
    frame = fetcher.coverage("SOL/USDT", "1d", end=first + pd.Timedelta("10D"))
    assert frame["state"].tolist() == ["not_listed", "stored"]
    assert frame["start"][1] == first.floor("D")
    assert "the first candle opens at" in frame["evidence"][0]


def test_what_failed_is_told_until_it_is_had(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    broken = world.exchange.fail(faults.status(500), times=None, match="klines")
    with pytest.raises(IncompleteData):
        fetcher.fetch(*DAY)
    frame = world.fetcher().coverage(*DAY)
    assert lines(frame) == [("2024-03-05T00:00", "2024-03-06T00:00", "failed")]
    assert "500" in frame["evidence"][0]
    assert frame["ask_again"][0] == frame["asked"][0]
    broken.stop()
    world.fetcher().fetch(*DAY)
    assert set(world.fetcher().coverage(*DAY)["state"]) == {"stored"}


def test_what_has_no_checksum_stays_told_until_it_is_asked_for_again(world: World) -> None:
    world.exchange.archive.spoil(HOUR_ZIP, damage.missing_checksum())
    frame = world.fetcher().fetch(*DAY, source="archive")
    (path,) = frame.attrs["candle_fetcher"]["unverified"]
    later = world.fetcher()
    assert later.fetch(*DAY).attrs["candle_fetcher"]["unverified"] == [path]  # out of the cache, by another fetcher
    outside = later.fetch("BTC/USDT", "1h", "2024-04-05", "2024-04-06")
    assert outside.attrs["candle_fetcher"]["unverified"] == []
    known = later.coverage(*DAY)
    assert known["state"].tolist() == ["unverified"]
    assert HOUR_ZIP in known["evidence"][0]
    again = later.fetch(*DAY, source="rest", refresh=True)
    assert again.attrs["candle_fetcher"]["unverified"] == []
    assert later.coverage(*DAY)["state"].tolist() == ["stored"]


@pytest.mark.fault("C07", "D01", "D02")
@pytest.mark.parametrize("loss", ["cut", "changed", "gone", "gone under a fetcher at work"])
def test_what_has_no_checksum_is_told_though_the_facts_are_lost(world: World, loss: str) -> None:
    world.exchange.archive.spoil(HOUR_ZIP, damage.missing_checksum())
    before = world.fetcher()
    truth = before.fetch(*DAY, source="archive")
    (path,) = truth.attrs["candle_fetcher"]["unverified"]
    with contextlib.closing(sqlite3.connect(world.folder / "cache.db", isolation_level=None)) as con:
        ((value,),) = con.execute("SELECT value FROM Cache WHERE key GLOB '*|facts'").fetchall()
        changed = {"cut": value[:-1], "changed": value[:-1] + bytes([value[-1] ^ 1])}
        if loss in changed:
            con.execute("UPDATE Cache SET value = ? WHERE key GLOB '*|facts'", (changed[loss],))
        else:
            con.execute("DELETE FROM Cache WHERE key GLOB '*|facts'")
    if loss == "gone under a fetcher at work":
        before.fetch("BTC/USDT", "1h", "2024-04-20", "2024-04-21", source="rest")  # and learns something
        assert before.fetch(*DAY, columns="all").attrs["candle_fetcher"]["unverified"] == [path]
        return
    told = contextlib.nullcontext() if loss == "gone" else pytest.warns(CacheWarning, match="cut or changed")
    with told:
        again = world.fetcher().fetch(*DAY, source="cache")
    pd.testing.assert_frame_equal(again, truth, check_exact=True)
    assert len(again.attrs["candle_fetcher"]["unverified"]) == 1
    later = world.fetcher()
    assert len(later.fetch(*DAY).attrs["candle_fetcher"]["unverified"]) == 1
    assert later.coverage(*DAY)["state"].tolist() == ["unverified"]
    assert later.fetch(*DAY, source="rest", refresh=True).attrs["candle_fetcher"]["unverified"] == []
    assert world.fetcher().fetch(*DAY).attrs["candle_fetcher"]["unverified"] == []
    assert world.fetcher().coverage(*DAY)["state"].tolist() == ["stored"]


def test_an_imported_file_without_checksum_is_told_though_the_facts_are_lost(world: World, tmp_path: Path) -> None:
    path = tmp_path / HOUR_ZIP
    path.write_bytes(world.exchange.archive.read(f"data/spot/monthly/klines/BTCUSDT/1h/{HOUR_ZIP}"))
    folder = tmp_path / "other"
    with world.fetcher(cache_dir=folder) as fetcher:
        assert fetcher.cache.import_file(path).verified is False
    with contextlib.closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as con:
        con.execute("DELETE FROM Cache WHERE key GLOB '*|facts'")
    frame = world.fetcher(cache_dir=folder).fetch(*DAY, source="cache")
    assert len(frame.attrs["candle_fetcher"]["unverified"]) == 1


def test_a_cache_in_memory_alone_tells_too(world: World) -> None:
    fetcher = world.fetcher(disk_cache_size=0)
    fetcher.fetch(*DAY)
    assert lines(fetcher.coverage(*DAY)) == [("2024-03-05T00:00", "2024-03-06T00:00", "stored")]
