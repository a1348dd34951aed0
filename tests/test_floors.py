"""The picture of the floors, enforced: who may import whom, and which module may touch which package.

An import counts wherever it stands: in a function, under TYPE_CHECKING, or as a name given to import_module. There is
no list of exceptions: a module that needs one is on the wrong floor.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "candle_fetcher"
FOLDER = Path(__file__).resolve().parents[1] / PACKAGE

TOP = 7
# A room is a module or folder of the package; everything in a folder is on the folder's floor.
FLOORS = {
    "core": 0,
    "concurrency": 0,
    "net": 1,
    "store": 1,
    "hardware": 1,
    "monitor": 1,
    "console": 1,
    "log": 1,
    "sessions": 1,
    "providers": 1,
    "cache": 2,
    "sources": 2,
    "settings": 2,
    "typed": 2,
    "frames": 2,
    "diagnosis": 3,
    "files": 3,
    "workers": 3,
    "live": 3,
    "adapters": 4,
    "fetcher": 4,
    "plot": 5,
    "vault": 5,
    "verification": 5,
    "service": 5,
    "sinks": 6,
    "cli": 6,
    "__init__": TOP,
    "__main__": TOP,
}
# The practice exchange stands beside the house: it sees `core` alone, and is seen by `cli` alone.
APART = "practice"
MAY_START_APART = {"cli"}

CONFINED: dict[str, str | tuple[str, ...]] = {
    "requests": "net",
    "urllib3": "net",
    "diskcache": "store",
    "cachetools": "store",
    "psutil": ("hardware", "monitor"),
    "tqdm": "console",
    "IPython": "console",
    "colorama": "console",
    "dotenv": "cli.environment",
    "exchange_calendars": "sessions",
    "websocket": "net.stream",
    "redis": "sinks",
    "pyarrow": (
        *("core.text.quick", "core.labels", "files.columnar", "files.outputs", "adapters.tool_files"),
        *("typed", "vault.tables_of_months", "service.encoding"),
    ),
    "plotly": "plot",
    "polars": ("files.outputs", "typed"),
    "xlsxwriter": "files.workbook",
    "isal": "core.checksum",
    "fsspec": "vault.urls",
    "sqlalchemy": "vault.databases",
    "psycopg": "vault.databases",
    "duckdb": "vault.databases",
    "fastapi": "service",
    "starlette": "service",
    "uvicorn": "service",
    "h11": "service.connections",
    "anyio": ("service.application", "service.streams"),
    "backtrader": "adapters.objects",
    "nautilus_trader": "adapters.objects",
}
# Packages that are imported when they are used, not with the module.
LAZY = {
    *(
        "psutil",
        "tqdm",
        "IPython",
        "colorama",
        "dotenv",
        "exchange_calendars",
        "pyarrow",
        "isal",
        "plotly",
        "polars",
        "xlsxwriter",
    ),
    *("sqlalchemy", "psycopg", "duckdb", "fsspec", "websocket", "redis", "backtrader", "nautilus_trader"),
}

PURE = {"core"}
IMPURE_MODULES = {
    *("asyncio", "concurrent", "glob", "http", "logging", "multiprocessing", "os", "pathlib", "select", "selectors"),
    *("shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("_thread", "urllib.request"),
}
IMPURE_CALLS = {"open", "print", "input"}
CLOCK_CALLS = {"now", "utcnow", "today"}


def room_of(module: str) -> str:
    return module.partition(".")[0]


@functools.lru_cache(maxsize=1)
def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """All nodes of the tree that was looked at last."""
    return list(ast.walk(tree))


def imports_of(tree: ast.AST, module: str, *, is_folder: bool) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported; of `from a import b` both `a` and, if it may be one, `a.b`."""
    here = [PACKAGE, *([] if module == "__init__" else module.split("."))]
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # The folder a relative name counts from: for a folder's own file, one level up is itself.
                up = node.level - (1 if is_folder or module == "__init__" else 0)
                base = ".".join([*here[: len(here) - up], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                relative = named.value.startswith(".")
                folder = ".".join(here if is_folder or module == "__init__" else here[:-1])
                yield node.lineno, folder + named.value if relative else named.value


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def find_violations(source: str, module: str, *, is_folder: bool = False) -> list[str]:
    """What the module (dotted, below the package) does against the rules, as sentences."""
    tree = ast.parse(source)
    room = room_of(module)
    if room != APART and room not in FLOORS:
        return [f"{module} is on no floor: draw it in FLOORS"]
    found = []
    imported = list(imports_of(tree, module, is_folder=is_folder))
    for line, name in imported:
        top, _, rest = name.partition(".")
        complaint = _own_import(room, rest) if top == PACKAGE else _foreign_import(module, name)
        if complaint:
            found.append(f"{module}:{line} {complaint}")
    found += [f"{module}:{line} imports {name} before it is used" for line, name in _eager(tree, LAZY)]
    if room != APART:
        found += [f"{module}:{line} sleeps" for line in _sleeps(tree)]
    if room in PURE:
        found += [f"{module}:{line} calls {name}" for line, name in _impure_calls(tree)]
    return found


def _own_import(room: str, name: str) -> str | None:
    other = room_of(name) if name else "__init__"
    if other != APART and other not in FLOORS:
        other = "__init__"  # a name that the package itself exports
    if other == room:
        return None
    if room == APART:
        return None if other in PURE else f"imports {other}, but {APART} may use core alone"
    if other == APART:
        return None if room in MAY_START_APART else f"imports {APART}, which only {', '.join(MAY_START_APART)} may"
    if FLOORS[other] < FLOORS[room] or {room, other} == {"__init__", "__main__"}:
        return None
    return f"(floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def _foreign_import(module: str, name: str) -> str | None:
    top, room = name.partition(".")[0], room_of(module)
    homes = CONFINED.get(top, ())
    homes = (homes,) if isinstance(homes, str) else homes
    if homes and not any(module == home or module.startswith(f"{home}.") for home in homes):
        return f"imports {top}, which belongs to {' and '.join(homes)}"
    if room in PURE and any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE_MODULES):
        return f"imports {name}, but {room} is pure"
    return None


def _eager(tree: ast.Module, packages: set[str]) -> Iterator[tuple[int, str]]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.expr):
            continue
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue  # no import at all, for type checkers alone
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, top) for name in names if (top := name.partition(".")[0]) in packages)


def _sleeps(tree: ast.AST) -> Iterator[int]:
    clocks = {"time"}
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            clocks |= {alias.asname or alias.name for alias in node.names if alias.name == "time"}
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if alias.name == "sleep")
    for node in nodes_of(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and getattr(node.value, "id", None) in clocks:
            yield node.lineno


def _impure_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in nodes_of(tree):
        if isinstance(node, ast.Call):
            name = _called(node)
            is_method = isinstance(node.func, ast.Attribute)
            if name in (CLOCK_CALLS if is_method else IMPURE_CALLS):
                yield node.lineno, name


def modules() -> list[tuple[str, Path]]:
    """Dotted name below the package, and file, of every module."""
    found = []
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_a_module_keeps_to_its_floor(module: str, path: Path) -> None:
    is_folder = path.name == "__init__.py" and module != "__init__"
    assert find_violations(path.read_text(encoding="utf-8"), module, is_folder=is_folder) == []


def test_every_module_is_looked_at() -> None:
    names = {name for name, _ in modules()}
    assert {"core", "core.errors", "monitor", "console", "__main__"} <= names


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("core.spans", "from candle_fetcher.store import Store", "core.spans:1 (floor 0) imports store (floor 1)"),
        ("net.transport", "from candle_fetcher import store", "net.transport:1 (floor 1) imports store (floor 1)"),
        ("cache", "from .fetcher import x", "cache:1 (floor 2) imports fetcher (floor 4)"),
        ("store.disk", "from ..net.limiter import x", "store.disk:1 (floor 1) imports net (floor 1)"),
        ("cache", "from candle_fetcher import CandleFetcher", "cache:1 (floor 2) imports __init__ (floor 7)"),
        ("cache", "import candle_fetcher", "cache:1 (floor 2) imports __init__ (floor 7)"),
        ("sources", "def f():\n    import candle_fetcher.cli", "sources:2 (floor 2) imports cli (floor 6)"),
        ("store", "import_module('candle_fetcher.net')", "store:1 (floor 1) imports net (floor 1)"),
        ("fetcher", "def f():\n from candle_fetcher import practice", "fetcher:2 imports practice, which only cli may"),
        ("__init__", "from candle_fetcher.practice import x", "__init__:1 imports practice, which only cli may"),
        ("practice.a", "from candle_fetcher.net import x", "practice.a:1 imports net, but practice may use core alone"),
        ("cache", "import diskcache", "cache:1 imports diskcache, which belongs to store"),
        ("store.disk", "import requests", "store.disk:1 imports requests, which belongs to net"),
        ("practice", "from urllib3 import x", "practice:1 imports urllib3, which belongs to net"),
        ("cli", "importlib.import_module('tqdm.auto')", "cli:1 imports tqdm, which belongs to console"),
        ("monitor", "import psutil", "monitor:1 imports psutil before it is used"),
        ("monitor", "if True:\n    import psutil", "monitor:2 imports psutil before it is used"),
        ("net.limiter", "import time\ntime.sleep(1)", "net.limiter:2 sleeps"),
        ("net.limiter", "import time as t\nf(wait=t.sleep)", "net.limiter:2 sleeps"),
        ("net.limiter", "from time import sleep", "net.limiter:1 sleeps"),
        ("core.plan", "import os.path", "core.plan:1 imports os.path, but core is pure"),
        ("core.plan", "from time import time", "core.plan:1 imports time.time, but core is pure"),
        ("core.plan", "dt.datetime.now()", "core.plan:1 calls now"),
        ("core.plan", "open('x')", "core.plan:1 calls open"),
        ("attic", "", "attic is on no floor: draw it in FLOORS"),
    ],
)
def test_the_checker_sees_what_is_forbidden(module: str, source: str, said: str) -> None:
    assert find_violations(source, module) == [said]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.plan", "from candle_fetcher.core import spans\nfrom .spans import Span\nimport numpy, urllib.parse"),
        ("net.transport", "import requests, urllib3.util, time\nfrom candle_fetcher.core.call import Call"),
        ("store.disk", "import diskcache\nfrom candle_fetcher.store.memory import x"),
        ("cli", "def f():\n    from candle_fetcher.practice import PracticeExchange"),
        ("practice.server", "import time\ntime.sleep(1)\nfrom candle_fetcher.core import timeframe"),
        ("__init__", "from candle_fetcher.fetcher import CandleFetcher\nfrom candle_fetcher.cache import x"),
        ("__main__", "from candle_fetcher.cli import main"),
        ("monitor", "def f():\n    import psutil"),
        ("monitor", "if TYPE_CHECKING:\n    import psutil"),
        ("core.plan", "tokens.today; opened.open()"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert find_violations(source, module) == []


def test_a_relative_import_in_a_folders_own_file_counts_from_the_folder() -> None:
    assert find_violations("from .disk import DiskTier", "store", is_folder=True) == []
    assert find_violations("from ..net import x", "store", is_folder=True) == [
        "store:1 (floor 1) imports net (floor 1)"
    ]
