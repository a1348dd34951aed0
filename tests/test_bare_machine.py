"""A machine that lacks what most have: a home folder, a tz database, source files."""

from __future__ import annotations

import importlib
import importlib.util
import modulefinder
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import children
import pytest
from world import World, same

from candle_fetcher import CacheWarning, CandleFetcher, providers
from candle_fetcher.cli import main

ROOT = Path(__file__).resolve().parents[1]
DAY = ("BTC/USDT", "1h", "2024-03-01", "2024-03-02")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the system's list of users."""
    for name in ("HOME", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", staticmethod(unknown))


@pytest.mark.slow
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
        assert main(["cache", "stats"]) == 0
        assert main(["doctor", *root]) in (0, 1)


# -- frozen programs ---------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from candle_fetcher import CandleFetcher
from candle_fetcher.providers import all_providers
print(*sorted(all_providers()))
for provider in ("binance", "kraken"):
    with CandleFetcher(provider, base_urls={provider: sys.argv[1]}, use_cache=False, progress=False) as fetcher:
        print(len(fetcher.fetch("BTC/USD" if provider == "kraken" else "BTC/USDT", "1h", limit=5, kind="candles")))
"""


class Finder(modulefinder.ModuleFinder):
    """Follows the imports of this package, as a tool that freezes a program does; those of others take minutes."""

    def import_hook(self, name: str, caller: Any = None, fromlist: Any = None, level: int = -1) -> ModuleType | None:
        if level <= 0 and name.partition(".")[0] not in ("candle_fetcher", "__main__"):
            return None
        return super().import_hook(name, caller, fromlist, level)


@pytest.mark.slow
@pytest.mark.fault("J04")
def test_every_provider_is_imported_by_its_name(tmp_path: Path) -> None:
    modules = [found.name for found in pkgutil.iter_modules(providers.__path__)]
    with_providers = [
        f"candle_fetcher.providers.{name}"
        for name in modules
        if hasattr(importlib.import_module(f"candle_fetcher.providers.{name}"), "PROVIDERS")
    ]
    assert len(with_providers) > 4
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    finder = Finder(path=[str(ROOT), *sys.path])
    finder.run_script(str(script))
    assert [name for name in with_providers if name not in finder.modules] == []
    named = {name for module in with_providers for name in _names(module)}
    assert named <= set(providers.all_providers())


def _names(module: str) -> list[str]:
    return [provider.name for provider in importlib.import_module(module).PROVIDERS]


@pytest.mark.long
@pytest.mark.fault("J04")
def test_a_program_that_pyinstaller_made_fetches(world: World, tmp_path: Path) -> None:
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    build = ["-m", "PyInstaller", "--onedir", "--noconfirm", "--log-level", "ERROR", "program.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *build], cwd=tmp_path, env=environment, check=True, timeout=580)
    url = world.exchange.base_urls["binance"]
    done = subprocess.run(
        [tmp_path / "dist" / "program" / "program", url],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, *rows = done.stdout.splitlines()
    assert set(providers.all_providers()) == set(found.split())
    assert rows == ["5", "5"]


ZONES = """
    import zoneinfo
    zoneinfo.reset_tzpath(to=[])
    from candle_fetcher.core.zones import zone

    assert not zoneinfo.TZPATH, zoneinfo.TZPATH
    print(zone("America/New_York") is not None, len(zoneinfo.ZoneInfo("America/New_York").key))
"""


@pytest.mark.slow
@pytest.mark.fault("J06")
def test_a_system_without_a_tz_database_has_that_of_the_package() -> None:
    code, out, err = children.run(ZONES)
    assert (code, out.split()) == (0, ["True", "16"]), err


def test_the_tz_database_is_a_package_that_is_always_installed() -> None:
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^tzdata\b", required, re.MULTILINE)
