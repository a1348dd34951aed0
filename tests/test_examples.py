"""The examples run as they stand, offline: each in a folder of its own, the notebooks cell by cell. Slow tests give
each a process too."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import notebooks
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = notebooks.find_notebooks()


Run = Callable[[str], str]


@pytest.fixture(params=["here", pytest.param("process", marks=pytest.mark.slow)])
def run_example(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """What an example prints that is run in the folder by a user without settings."""

    def run_here(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(EXAMPLES))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        said = capfd.readouterr()
        assert not said.err, said.err  # no bar and no warning where stderr is no terminal
        return said.out

    def run_process(name: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CANDLE_FETCHER_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / name)],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return done.stdout

    return run_here if request.param == "here" else run_process


def cells(path: Path) -> list[dict[str, Any]]:
    return list(notebooks.read(path)["cells"])


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """The value of the cell's last line where that is an expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_quick_start_shows_a_frame_a_file_and_the_report(tmp_path: Path, run_example: Run) -> None:
    said = run_example("quick_start.py")
    assert "[528 rows x 5 columns]" in said
    assert re.search(r"^again .* 129,600 from memory$", said, re.MULTILINE)
    assert re.search(r"^another program .* 129,600 from disk$", said, re.MULTILINE)
    assert re.search(r"^operation +count +total +p50 +p95 +max", said, re.MULTILINE)
    file = tmp_path / "historical_data" / "BTC_USDT_4h_20240101_20240329.csv"
    assert len(pd.read_csv(file)) == 528


@pytest.mark.slow
def test_many_symbols_goes_on_without_the_unknown_one(run_example: Run) -> None:
    said = run_example("many_symbols.py")
    assert "left out DOGE/UDST" in said
    assert re.search(r"^ +BTC/USDT +ETH/USDT +SOL/USDT +DOGE/USDT$", said, re.MULTILINE)
    assert "2024-03-31" in said


def test_spreadsheet_reads_back_what_it_wrote(tmp_path: Path, run_example: Run) -> None:
    assert "365 candles, all equal" in run_example("spreadsheet.py")
    names = sorted(file.name for file in (tmp_path / "historical_data").iterdir())
    assert names == ["ETH_USDT_1d_20230101_20240101.csv", "ETH_USDT_1d_20230101_20240101.json"]


@pytest.mark.slow
def test_own_provider_fetches_from_a_service_of_ours(run_example: Run) -> None:
    said = run_example("own_provider.py")
    assert "42 candles again, without a request" in said
    assert said.count("+00:00") == 42


@pytest.mark.slow
def test_the_logging_example_shows_retries_gaps_and_calls(run_example: Run) -> None:
    said = run_example("logging_example.py")
    assert re.search(r"^WARNING binance: retry 1/5 in [\d.]+ s: status 503$", said, re.MULTILINE)
    assert "WARNING binance: going on\n" in said
    assert said.count("WARNING BTC/USDT 1m: the provider lacks 80 candles in 1 gap\n") == 2
    assert re.search(r"^INFO    fetch BTC/USDT 1m: 1,360 rows in [\d.]+ s$", said, re.MULTILINE)
    assert "failed after" in said
    assert re.search(r"^DEBUG   binance /api/v3/klines: status 503 in ", said, re.MULTILINE)


def test_every_example_says_what_it_shows_and_how_to_ask_the_real_exchange() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    own = {"own_provider.py", "price_service.py"}  # no exchange is asked there
    shown = {"quick_start.py", "many_symbols.py", "spreadsheet.py", "logging_example.py"}
    assert set(texts) == shown | own
    texts = {name: text for name, text in texts.items() if name not in own}
    texts |= {path.name: "".join(cells(path)[0]["source"]) for path in NOTEBOOKS}
    for name, text in texts.items():
        said = ast.get_docstring(ast.parse(text)) if name.endswith(".py") else text
        assert said is not None, name
        assert "For the real exchange, drop `base_urls`" in " ".join(said.split()), name


def test_there_is_a_notebook_for_each_of_the_eight_tasks() -> None:
    wanted = "first_steps folder_by_cron backfill binance_and_kraken funding_beside_price gaps backtest forecast"
    assert {path.stem for path in NOTEBOOKS} == set(wanted.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other packages warn of
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_cell_by_cell_without_a_kernel(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if absent := notebooks.find_absent(path):
        pytest.skip(f"{path.name} needs {', '.join(absent)}")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = {}
    try:
        for cell in cells(path):
            if cell["cell_type"] == "code":
                shown[cell["id"]] = run_cell("".join(cell["source"]), names)
    finally:
        for name, end in (("fetcher", "close"), ("exchange", "close"), ("folder", "cleanup")):
            if name in names:
                getattr(names[name], end)()
    for name in {"plan", "monitor"} & set(shown):
        assert "<table" in shown[name]._repr_html_()
    assert not list(tmp_path.iterdir()), "left in the folder"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_are_what_nbformat_4_5_wants(path: Path) -> None:
    document = notebooks.read(path)
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in cells(path)]
    assert len(names) == len(set(names))
    for cell in cells(path):
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
        assert set(cell) == wanted
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
