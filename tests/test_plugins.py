"""Providers of others: as a value that a script makes, and as what an installed package offers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import children
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


def run(folder: Path, code: str, *, warnings: str = "default") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the code in a process that has what is installed in the folder."""
    paths = [str(ROOT), str(EXAMPLES), str(folder)]
    return children.run(
        f"import os, sys, warnings\nsys.path[:0] = {paths}\nos.environ['HOME'] = {str(folder)!r}\n"
        f"warnings.resetwarnings()\nwarnings.simplefilter({warnings!r})\n{code}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", ["station:STATION", "station:PROVIDERS", "station"])
def test_an_installed_package_offers_a_provider(tmp_path: Path, value: str) -> None:
    install(tmp_path, "station", {"price-service": value}, {"station": MODULE})
    _, out, err = run(
        tmp_path,
        "from candle_fetcher import CandleFetcher\n"
        "from candle_fetcher.providers import all_providers\n"
        "fetcher = CandleFetcher(provider='price-service', use_cache=False)\n"
        "print(fetcher.plan('GOLD', '1h', '2024-01-01', '2024-01-02').provider, 'binance' in all_providers())\n",
        warnings="error",
    )
    assert (out.strip(), err) == ("price-service True", "")


@pytest.mark.slow
def test_the_command_line_finds_it_and_fetches_from_it(tmp_path: Path) -> None:
    install(tmp_path, "station", {"price-service": "station:PROVIDERS"}, {"station": MODULE})
    code, out, err = run(
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
    assert code == 0, err
    assert out.splitlines()[0] == "timestamp,open,high,low,close,volume"
    assert len(out.splitlines()) == 4


BROKEN = [
    ("import nothing_of_that_name", "ModuleNotFoundError"),
    ("raise RuntimeError('out of order')", "out of order"),
    ("import sys; sys.exit(3)", "SystemExit"),
    ("PROVIDERS = 5", "expected a Provider"),
    ("PROVIDERS = ('binance',)", "expected a Provider"),
    ("from candle_fetcher.providers import find_provider\nPROVIDERS = find_provider('binance')", "is taken"),
    ("def (", "SyntaxError"),
]


def names_what_is_broken(folder: Path, texts: list[tuple[str, str]]) -> None:
    """Fails unless each of the packages, installed beside one that is whole, is named with why it is of no use."""
    for number, (text, _) in enumerate(texts):
        install(folder, f"package{number}", {f"broken{number}": f"broken_{number}"}, {f"broken_{number}": text})
    install(folder, "station", {"price-service": "station"}, {"station": MODULE})
    code, out, err = run(
        folder,
        "from candle_fetcher.providers import all_providers, find_provider\n"
        "print(find_provider('binance').hosts[0], find_provider('price-service').name)\n"
        f"for number in range({len(texts)}):\n"
        "    try:\n"
        "        find_provider(f'broken{number}')\n"
        "    except ValueError as error:\n"
        "        print(type(error).__name__, error)\n",
    )
    assert code == 0, err
    found, *named = out.splitlines()
    assert found == "https://api.binance.com price-service"
    assert len(named) == len(texts)
    warned = [line for line in err.splitlines() if "cannot be used" in line]
    assert len(warned) == len(texts)
    for number, (_, why) in enumerate(texts):
        mine = [line for line in warned if f"'broken{number}' of package{number}" in line]
        for said in (named[number], *mine):
            assert f"'broken{number}' of package{number}" in said
            assert why in said
        assert len(mine) == 1
        assert named[number].startswith("InputError")


@pytest.mark.slow
def test_broken_plug_ins_are_named_each_and_harm_no_other(tmp_path: Path) -> None:
    names_what_is_broken(tmp_path / "a", BROKEN)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "why"), BROKEN)
def test_a_broken_plug_in_names_itself_and_harms_no_other(tmp_path: Path, text: str, why: str) -> None:
    names_what_is_broken(tmp_path / "a", [(text, why)])


@pytest.mark.slow
def test_built_in_providers_are_found_without_looking_through_packages(tmp_path: Path) -> None:
    install(tmp_path, "broken-one", {"broken": "broken_one"}, {"broken_one": "raise RuntimeError"})
    code, _, err = run(
        tmp_path,
        "from candle_fetcher import CandleFetcher\n"
        "CandleFetcher(use_cache=False).plan('BTC/USDT', '1h', '2024-01-01', '2024-01-02')\n",
        warnings="error",
    )
    assert (code, err) == (0, "")


def test_a_value_that_is_no_provider_is_an_input_error() -> None:
    with pytest.raises(InputError, match="unknown provider 5; expected one of"):
        find_provider(5)


@pytest.mark.slow
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
        with pytest.raises(IncompleteData, match=r"a reply of mine .* parser raised KeyError.*field of no reply"):
            fetcher.fetch("BTC/USD", "1h", "2024-06-14")
        with pytest.raises(FetchManyError) as caught:
            fetcher.fetch_many(["BTC/USD", "binance:BTC/USDT"], "1h", "2024-06-14", "2024-06-15")
        assert list(caught.value.frames) == ["binance:BTC/USDT"]
        assert isinstance(caught.value.errors["BTC/USD"], IncompleteData)
