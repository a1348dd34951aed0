"""Providers of others: as a value that a script makes, and as what an installed package offers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from world import World

from candle_fetcher import CandleFetcher, FetchManyError, IncompleteData, InputError, NotOffered
from candle_fetcher.core.candles import Candles
from candle_fetcher.core.series import Series
from candle_fetcher.providers import find_provider

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

MODULE = """
from candle_fetcher.providers import Provider
from own_provider import provider
STATION = provider("http://127.0.0.1:9")
PROVIDERS = (STATION,)
"""


def install(folder: Path, package: str, points: dict[str, str], modules: dict[str, str]) -> None:
    """What pip leaves of a package that offers these entry points."""
    told = folder / f"{package}-1.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (told / "entry_points.txt").write_text("\n".join(["[candle_fetcher.providers]", *lines, ""]))
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def run(folder: Path, code: str, *, warnings: str = "default") -> subprocess.CompletedProcess[str]:
    """The code in a process that has what is installed in the folder."""
    paths = os.pathsep.join(map(str, (ROOT, EXAMPLES, folder)))
    return subprocess.run(
        [sys.executable, "-W", warnings, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "HOME": str(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("value", ["station:STATION", "station:PROVIDERS", "station"])
def test_an_installed_package_offers_a_provider(tmp_path: Path, value: str) -> None:
    install(tmp_path, "station", {"price-service": value}, {"station": MODULE})
    done = run(
        tmp_path,
        "from candle_fetcher import CandleFetcher\n"
        "from candle_fetcher.providers import all_providers\n"
        "fetcher = CandleFetcher(provider='price-service', use_cache=False)\n"
        "print(fetcher.plan('GOLD', '1h', '2024-01-01', '2024-01-02').provider, 'binance' in all_providers())\n",
        warnings="error",
    )
    assert (done.stdout.strip(), done.stderr) == ("price-service True", "")


def test_the_command_line_finds_it_and_fetches_from_it(tmp_path: Path) -> None:
    install(tmp_path, "station", {"price-service": "station:PROVIDERS"}, {"station": MODULE})
    done = run(
        tmp_path,
        "import sys\n"
        "from price_service import serve\n"
        "from candle_fetcher.cli import main\n"
        "with serve() as url:\n"
        "    sys.exit(main(['fetch', 'GOLD', '1h', '--provider', 'price-service', '--start', '2024-01-01',"
        " '--end', '2024-01-01T03:00', '--base-url', f'price-service={url}', '--cache-dir', 'CACHE']))\n".replace(
            "CACHE", str(tmp_path / "cache")
        ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "timestamp,open,high,low,close,volume"
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise RuntimeError('out of order')", "out of order"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("PROVIDERS = 5", "is no Provider"),
        ("PROVIDERS = ('binance',)", "is no Provider"),
        ("from candle_fetcher.providers import find_provider\nPROVIDERS = find_provider('binance')", "already"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_broken_plug_in_names_itself_and_harms_no_other(tmp_path: Path, text: str, why: str) -> None:
    install(tmp_path / "a", "broken-one", {"broken": "broken_one"}, {"broken_one": text})
    install(tmp_path / "a", "station", {"price-service": "station"}, {"station": MODULE})
    done = run(
        tmp_path / "a",
        "from candle_fetcher.providers import all_providers, find_provider\n"
        "print(find_provider('binance').hosts[0], find_provider('price-service').name)\n"
        "try:\n"
        "    find_provider('broken')\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n",
    )
    assert done.returncode == 0, done.stderr
    found, named = done.stdout.splitlines()
    assert found == "https://api.binance.com price-service"
    for said in (named, done.stderr):
        assert "'broken' of broken-one" in said
        assert why in said
    assert named.startswith("InputError")
    assert done.stderr.count("cannot be used") == 1


def test_built_in_providers_are_found_without_looking_through_packages(tmp_path: Path) -> None:
    install(tmp_path, "broken-one", {"broken": "broken_one"}, {"broken_one": "raise RuntimeError"})
    done = run(
        tmp_path,
        "from candle_fetcher import CandleFetcher\n"
        "CandleFetcher(use_cache=False).plan('BTC/USDT', '1h', '2024-01-01', '2024-01-02')\n",
        warnings="error",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_value_that_is_no_provider_is_an_input_error() -> None:
    with pytest.raises(InputError, match="unknown provider 5; expected one of"):
        find_provider(5)


def test_the_example_answers_as_any_provider_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import own_provider
    import price_service

    with price_service.serve() as url, CandleFetcher(own_provider.provider(url), cache_dir=tmp_path) as fetcher:
        frame = fetcher.fetch("gold", "1h", "2024-01-01", "2024-03-01")
        assert len(frame) == 60 * 24
        assert frame["close"].iloc[0] == price_service.price(int(frame.index[0].timestamp()) + 3600 * 7 // 8)
        sent = fetcher.monitor.snapshot()["requests"]
        assert fetcher.fetch("GOLD", "1h", "2024-01-01", "2024-03-01").equals(frame)
        assert fetcher.monitor.snapshot()["requests"] == sent
        with pytest.raises(NotOffered, match="'mark'"):
            fetcher.fetch("GOLD", "1h", "2024-01-01", "2024-01-02", kind="mark")
        with pytest.raises(NotOffered, match="binance"):
            fetcher.fetch("GOLD", "1s", "2024-01-01", "2024-01-02")
        with pytest.raises(NotOffered, match="no list of symbols"):
            fetcher.symbols()


def test_the_part_that_makes_a_provider_is_forty_lines() -> None:
    text = (EXAMPLES / "own_provider.py").read_text(encoding="utf-8")
    assert text[: text.index("def main")].count("\n") <= 48  # a docstring and blank lines among them


def test_a_parser_that_fails_is_named_and_takes_nothing_from_others(tmp_path: Path) -> None:
    def parse(body: bytes, series: Series) -> Candles:
        raise KeyError("field of no reply")

    kraken = find_provider("kraken")
    mine = replace(kraken, name="mine", feeds={"candles": replace(kraken.feed("candles"), parse=parse)})
    with World(tmp_path) as world:
        urls = {**world.exchange.base_urls, "mine": world.exchange.base_urls["kraken"]}
        fetcher = world.fetcher(provider=mine, base_urls=urls, max_retries=0)
        with pytest.raises(IncompleteData, match=r"parser of mine failed .*KeyError.*field of no reply"):
            fetcher.fetch("BTC/USD", "1h", "2024-06-14")
        with pytest.raises(FetchManyError) as caught:
            fetcher.fetch_many(["BTC/USD", "binance:BTC/USDT"], "1h", "2024-06-14", "2024-06-15")
        assert list(caught.value.frames) == ["binance:BTC/USDT"]
        assert isinstance(caught.value.errors["BTC/USD"], IncompleteData)
