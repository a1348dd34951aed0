"""The structure of the package in figures, each beside its limit.

    python tests/structure.py

Needs radon and Python 3.11 or newer. Prints a table, and exits with 1 where a figure is above its limit. The calls are
those of one fetch of one chunk with nothing stored, by REST from a practice exchange in a process of its own; functions
of every package count.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "candle_fetcher"
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, not an installed package

# Grades of radon: A (1 to 5) to F (above 40).
COMPLEX = 21
LINES = 10_282
# What runs a job in a thread of a pool.
JOB_RUNNERS = ("_work_for", "_run")
# Words of a private vocabulary, and persons that stand for components.
WORDS = re.compile(
    r"\b(?:errands?|trips?|flights?|christen\w*|told|(?<!\|)shel(?:f|ves)|manners|anew|likewise"
    r"|who|whom|whose|whoever|nobody|somebody|everybody|whatever)\b",
    re.IGNORECASE,
)
EXCHANGE = """
import sys
from candle_fetcher.practice import PracticeExchange
with PracticeExchange(log=False) as exchange:
    print(exchange.url, flush=True)
    sys.stdin.read()
"""


class Row(NamedTuple):
    """A figure, its limit, and where the largest part of it is."""

    what: str
    value: int
    limit: int
    where: str = ""


def sources() -> dict[str, str]:
    """Return the text of each module, by its dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text(encoding="utf-8")
    return found


def definitions(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[int, str]]:
    """Yield the number of lines and the place of each class or function."""
    for module, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kind):
                yield node.end_lineno - node.lineno + 1, f"{module}.{node.name}"  # type: ignore[attr-defined]


def complex_blocks() -> list[str]:
    """Return the functions of grade D or worse, as radon counts their branches."""
    from radon.complexity import cc_visit

    found = []
    for module, text in sources().items():
        found += [f"{module}.{block.fullname}" for block in cc_visit(text) if block.complexity >= COMPLEX]
    return found


def import_circles() -> list[list[str]]:
    """Return the sets of modules that import each other when they are imported."""
    modules = sources()
    imported = {name: set(_imports(name, text, modules)) - {name} for name, text in modules.items()}
    return [circle for circle in _strong_components(imported) if len(circle) > 1]


def _imports(module: str, text: str, modules: dict[str, str]) -> Iterator[str]:
    for node in _at_import(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [name for alias in node.names for name in (f"{node.module}.{alias.name}", str(node.module))]
        for name in names:
            top, _, rest = name.partition(".")
            if top == PACKAGE.name and rest in modules:
                yield rest


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run when the module is imported."""
    for inner in ast.iter_child_nodes(node):
        is_later = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.dump(inner.test)
        if not is_later and not is_for_types:
            yield inner
            yield from _at_import(inner)


def _strong_components(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    reached = {name: _reached(graph, name) for name in graph}
    left = set(graph)
    while left:
        name = min(left)
        circle = {name} | {other for other in reached[name] if name in reached.get(other, ())}
        yield sorted(circle)
        left -= circle


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


class Calls(NamedTuple):
    """What one cold chunk takes: calls of Python functions of every package; frames of this package on the deepest
    stack; and those from the job of a pool's thread to the transport, which sends the request."""

    calls: int
    depth: int
    frames: int


def count_calls() -> Calls:
    """Count the calls of a fetch of one chunk with nothing stored, in all threads of this process."""
    with (
        subprocess.Popen([sys.executable, "-c", EXCHANGE], stdin=-1, stdout=-1, text=True, cwd=ROOT) as exchange,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert exchange.stdout is not None
        assert exchange.stdin is not None
        counted = _count_calls(exchange.stdout.readline().strip(), folder)
        exchange.stdin.close()
    return counted


def _count_calls(url: str, folder: str) -> Calls:
    from candle_fetcher import CandleFetcher

    calls, depths, ways = itertools.count(), [0], [0]

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        next(calls)
        stack = [one.f_code for one in _stack(frame) if PACKAGE.name in one.f_code.co_filename]
        depths.append(len(stack))
        if frame.f_code.co_qualname == "Transport.send":
            names = [code.co_name for code in stack]
            ways.append(next((at for at, name in enumerate(names) if name in JOB_RUNNERS), len(names)))

    with CandleFetcher(base_urls={"binance": url}, cache_dir=folder, progress=False) as fetcher:
        fetcher.fetch("BTC/USDT", "1m", "2024-01-01", "2024-01-02")  # what is imported when it is first used
    with CandleFetcher(base_urls={"binance": url}, cache_dir=folder, progress=False) as fetcher:
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            fetcher.fetch("BTC/USDT", "1m", "2024-03-01 08:00", "2024-03-02 00:40")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return Calls(next(calls), max(depths), max(ways))


def _stack(frame: FrameType | None) -> list[FrameType]:
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def prose_words() -> list[str]:
    """Return each place in the package where a word of WORDS stands, as module:line word."""
    found = []
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.md"), ROOT / "README.md"]):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            place = path.relative_to(ROOT)
            found += [f"{place}:{number} {word}" for word in WORDS.findall(line.replace("_", " "))]
    return found


def rows() -> Iterator[Row]:
    """Yield the figures."""
    for measure in (_sizes, _graphs, _way, _texts):
        yield from measure()


def _sizes() -> Iterator[Row]:
    largest = max(definitions(ast.ClassDef))
    yield Row("lines of the largest class", largest[0], 480, largest[1])
    functions = [one for one in definitions((ast.FunctionDef, ast.AsyncFunctionDef)) if one[0] > 70]
    yield Row("functions above 70 lines", len(functions), 0, ", ".join(name for _, name in functions))
    parts = ("fetcher.", "sources.", "cache.")
    lines = sum(len(text.splitlines()) for name, text in sources().items() if f"{name}.".startswith(parts))
    yield Row("lines of fetcher, sources and cache", lines, LINES)


def _graphs() -> Iterator[Row]:
    found = complex_blocks()
    yield Row("functions of radon's grade D or worse", len(found), 5, ", ".join(found))
    circles = import_circles()
    yield Row("import circles", len(circles), 0, "; ".join(" ".join(circle) for circle in circles))


def _way() -> Iterator[Row]:
    counted = count_calls()
    yield Row("Python calls for one cold chunk", counted.calls, 2500)
    yield Row("frames of the package on the deepest stack", counted.depth, 16)
    yield Row("frames from the job of a thread to the transport", counted.frames, 8)


def _texts() -> Iterator[Row]:
    words = prose_words()
    yield Row("old words, and persons for components", len(words), 0, ", ".join(words[:3]))
    yield Row("bytes of README.md", (ROOT / "README.md").stat().st_size, 8192)


def main() -> int:
    is_within = True
    for row in rows():
        is_within &= row.value <= row.limit
        where = "" if row.value <= row.limit else row.where[:100]
        print(f"{row.what:<50}{row.value:>8,}{row.limit:>8,}  {where}")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
