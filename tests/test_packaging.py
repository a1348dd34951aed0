"""What is packaged: the lists agree, the version is one, and the wheel's parts are there."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_EXTRAS = {
    *("arrow", "polars", "plot", "live", "service", "sql", "redis", "excel", "calendars", "dask", "dotenv", "fast"),
    *("duckdb", "fsspec", "all", "test", "dev", "tools", "bench"),
}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools, which need not be installed; `packages` is what it asks find_packages for."""
    handed: dict[str, Any] = {}
    double = types.ModuleType("setuptools")
    double.setup = handed.update  # type: ignore[attr-defined]
    double.find_packages = lambda **asked: asked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "setuptools", double)
    runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return handed


def lines_of(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]


def test_requirements_txt_is_the_list_that_setup_installs(setup: dict[str, Any]) -> None:
    assert lines_of(ROOT / "requirements.txt") == setup["install_requires"]


def test_every_requirement_has_a_minimum_and_no_maximum(setup: dict[str, Any]) -> None:
    for requirement in setup["install_requires"]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement), requirement


def test_all_is_the_union_of_the_extras_that_users_want(setup: dict[str, Any]) -> None:
    extras = setup["extras_require"]
    features = [extras[name] for name in extras if name not in {"all", "test", "dev", "tools", "bench"}]
    assert extras["all"] == sorted({line for lines in features for line in lines})


def test_the_extras_are_known_ones_and_the_tools_are_among_them(setup: dict[str, Any]) -> None:
    assert {"all", "test", "dev", "tools", "bench"} <= set(setup["extras_require"]) <= ALLOWED_EXTRAS


def test_dev_brings_what_the_tests_need(setup: dict[str, Any]) -> None:
    extras = setup["extras_require"]
    assert set(extras["test"]) <= set(extras["dev"])


def test_no_extra_repeats_what_is_always_installed(setup: dict[str, Any]) -> None:
    always = {name_of(line) for line in setup["install_requires"]}
    optional = {name_of(line) for lines in setup["extras_require"].values() for line in lines}
    assert not always & optional


def test_the_version_is_one_everywhere(setup: dict[str, Any]) -> None:
    package = importlib.import_module("candle_fetcher")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert setup["version"] == package.__version__ == newest[1]


def test_python_3_10_is_the_oldest(setup: dict[str, Any]) -> None:
    assert setup["python_requires"] == ">=3.10"
    assert "Programming Language :: Python :: 3.10" in setup["classifiers"]


def test_only_the_package_is_packaged_with_its_pages_and_it_is_typed(setup: dict[str, Any]) -> None:
    assert setup["packages"] == {"include": ["candle_fetcher", "candle_fetcher.*"]}
    data = setup["package_data"].pop("candle_fetcher")
    assert setup["package_data"] == {}
    package = ROOT / "candle_fetcher"
    packed = {path for pattern in data for path in package.glob(pattern)}
    assert packed == {package / "py.typed", *(package / "docs").rglob("*.md"), *(package / "service" / "web").iterdir()}
    assert package / "py.typed" in packed


def test_every_folder_with_modules_is_a_package() -> None:
    # find_packages leaves out a folder without it, and the wheel would lack what the checkout has.
    folders = {path.parent for path in (ROOT / "candle_fetcher").rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_command_is_there(setup: dict[str, Any]) -> None:
    (script,) = setup["entry_points"]["console_scripts"]
    name, _, target = script.partition(" = ")
    module, _, function = target.partition(":")
    assert name == "candle-fetcher"
    assert callable(getattr(importlib.import_module(module), function))


def test_importing_the_package_runs_no_command() -> None:
    tree = ast.parse((ROOT / "candle_fetcher" / "__main__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]


def test_the_licence_is_in_the_checkout() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


@pytest.mark.slow
def test_the_tests_are_found_without_the_recorded_data_beside_the_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("candle_fetcher", "examples", "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, checkout)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
