"""A machine that lacks what most have: a home folder, a tz database, source files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World, same

from candle_fetcher import CacheWarning, CandleFetcher
from candle_fetcher.cli import main

DAY = ("BTC/USDT", "1h", "2024-03-01", "2024-03-02")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "cache") as world:
        yield world


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the system's list of users."""
    for name in ("HOME", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", staticmethod(unknown))


@pytest.mark.fault("J06")
@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_nothing_is_kept_on_disk_and_one_warning_says_so(world: World) -> None:
    truth = world.truth("BTCUSDT", "1h", *DAY[2:])
    settings = {"base_urls": world.exchange.base_urls, "clock": lambda: world.now_s, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kept in ({"use_cache": False}, {"disk_cache_size": 0}, {"cache_dir": world.folder}):
            with CandleFetcher(**settings, **kept) as fetcher:
                same(fetcher.fetch(*DAY), truth)
                assert not fetcher.doctor().empty
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CandleFetcher(**settings) as fetcher:
            for _ in range(2):
                same(fetcher.fetch(*DAY), truth)
            assert fetcher.fetch(*DAY).attrs["candle_fetcher"]["sources"]["memory"] == 24
            assert fetcher.cache.path is None
            checks = fetcher.doctor()
    assert [one.category for one in caught] == [CacheWarning]
    assert "HOME" in str(caught[0].message)
    assert "home folder" in checks.loc[checks["check"] == "permissions", "found"].item()


@pytest.mark.fault("J06")
@pytest.mark.usefixtures("homeless")
def test_the_command_works_without_a_home_folder(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--base-url", f"binance={world.exchange.base_urls['binance']}")
    words = ("fetch", *DAY[:2], "--start", DAY[2], "--end", DAY[3], *root)
    assert main([*words, "--no-cache"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 25
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*words]) == 0
        assert main(["cache", "stats", *root]) == 0
        assert main(["doctor", *root]) in (0, 1)
