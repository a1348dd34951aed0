"""The public surface as type checkers and people see it: signatures, types, representations, and what dir() lists."""

from __future__ import annotations

import ast
import html
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from world import World

import candle_fetcher
from candle_fetcher import CandleFetcher, typed

ROOT = Path(__file__).resolve().parents[1]
USER_CODE = ROOT / "tests" / "user_code.py"
# Read where Polars is installed: a checker knows its types then.
USER_OUTPUTS = ROOT / "tests" / "user_outputs.py"
SHARED_CALLS = ("fetch", "fetch_many", "export", "plan", "gaps", "symbols")


@pytest.fixture(params=[USER_CODE, USER_OUTPUTS], ids=lambda path: path.stem)
def code(request: pytest.FixtureRequest) -> Path:
    if request.param == USER_OUTPUTS:
        pytest.importorskip("polars")
    return Path(request.param)


def wrong_lines(code: Path = USER_CODE) -> set[int]:
    lines = code.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def check(tool: str, code: Path, *flags: str) -> str:
    """Return what the checker prints about the code of a user."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    command = [sys.executable, "-m", tool, *flags, str(code)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False).stdout


@pytest.mark.slow
def test_mypy_takes_the_code_of_a_user_and_finds_each_mistake(code: Path, tmp_path: Path) -> None:
    printed = check("mypy", code, "--strict", "--no-error-summary", "--cache-dir", str(tmp_path))
    found = {int(line) for line in re.findall(rf"{code.name}:(\d+): error:", printed)}
    assert found == wrong_lines(code), printed


@pytest.mark.slow
def test_pyright_takes_the_code_of_a_user_and_finds_each_mistake(code: Path) -> None:
    printed = check("pyright", code, "--outputjson", "--pythonpath", sys.executable)
    report = json.loads(printed)["generalDiagnostics"]
    found = {one["range"]["start"]["line"] + 1 for one in report if one["severity"] == "error"}
    assert found == wrong_lines(code), report


def test_at_least_ten_mistakes_are_tried() -> None:
    assert len(wrong_lines()) >= 10


@pytest.mark.parametrize("name", SHARED_CALLS)
def test_a_call_of_the_package_has_the_signature_of_the_method(name: str) -> None:
    method, function = getattr(CandleFetcher, name), getattr(candle_fetcher, name)
    expected = list(inspect.signature(method).parameters.values())[1:]
    assert list(inspect.signature(function).parameters.values()) == expected
    assert function.__doc__ == method.__doc__


@pytest.mark.parametrize("name", ["fetch", "fetch_many", "iter_frames", "fetch_funding"])
def test_what_a_checker_sees_of_a_call_is_its_signature(name: str) -> None:
    typed_as = {"fetch": "FetchCall", "fetch_many": "FetchManyCall", "iter_frames": "IterFramesCall"}
    call = getattr(typed, typed_as.get(name, "FundingCall"))
    parameters = inspect.signature(getattr(CandleFetcher, name)).parameters
    tree = ast.parse(inspect.getsource(call))
    overloads = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(overloads) == 6
    for one in overloads:
        assert one.args.kwarg is not None
        words = re.fullmatch(r"Unpack\[(\w+)\]", ast.unparse(one.args.kwarg.annotation or one.args.kwarg))
        assert words is not None
        keywords = {arg.arg for arg in one.args.kwonlyargs} | getattr(typed, words[1]).__optional_keys__
        positional = [arg.arg for arg in one.args.args]
        assert [*positional, *(key for key in parameters if key in keywords)] == list(parameters)
        assert keywords <= set(parameters)


def test_what_jupyter_shows_of_an_object_is_what_it_is_about(tmp_path: Path) -> None:
    with World(tmp_path / "cache") as world, world.fetcher() as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
        plan = fetcher.plan("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
        shown = {
            "CandleFetcher(provider=binance, source=auto, cache=": fetcher,
            f"CandleCache({world.folder}": fetcher.cache,
            "PerformanceMonitor(candles=24, requests=": fetcher.monitor,
            "binance BTC/USDT 1h: 24 candles at most": plan,
            "{'provider': 'binance'": frame.attrs["candle_fetcher"],
        }
        for text, one in shown.items():
            assert repr(one).startswith(text)
            markup = one._repr_html_()
            assert markup.count("<table>") >= 1
            assert markup.count("<td") == markup.count("</td>") > 2
        assert "24" in plan._repr_html_()
    assert "state" in fetcher._repr_html_()


def test_jupyter_shows_the_tables_of_doctor_and_providers_whole(tmp_path: Path) -> None:
    with World(tmp_path / "cache") as world, world.fetcher() as fetcher:
        tables = [fetcher.doctor(), fetcher.providers()]
    for table in tables:
        markup = html.unescape(table._repr_html_())
        for text in (str(value) for column in table.columns.drop("passed", errors="ignore") for value in table[column]):
            assert text in markup, text
    assert type(tables[0].query("check == 'proxy'")) is pd.DataFrame


def public_calls() -> dict[str, Any]:
    methods = {name: one for name, one in vars(CandleFetcher).items() if callable(one) and not name.startswith("_")}
    functions = {name: getattr(candle_fetcher, name) for name in candle_fetcher.__all__}
    calls = {name: one for name, one in functions.items() if inspect.isfunction(one)}
    return {**methods, **calls, "CandleFetcher": CandleFetcher}


def test_no_public_call_takes_arguments_that_its_signature_does_not_name() -> None:
    calls = public_calls()
    assert {"fetch", "fetch_many", "iter_frames", "export", "combine"} <= set(calls)
    for name, call in calls.items():
        kinds = {one.kind for one in inspect.signature(call).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, name


def test_dir_lists_the_public_names_alone() -> None:
    assert [name for name in dir(candle_fetcher) if not name.startswith("__")] == sorted(
        name for name in candle_fetcher.__all__ if not name.startswith("__")
    )


def test_no_module_hides_a_public_name() -> None:
    modules = {one.name for one in pkgutil.iter_modules(candle_fetcher.__path__)}
    assert not modules & set(candle_fetcher.__all__)
    for name in modules - {"__main__"}:
        importlib.import_module(f"candle_fetcher.{name}")
    assert inspect.isfunction(candle_fetcher.export)
