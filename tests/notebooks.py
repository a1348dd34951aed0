"""The notebooks of `examples/`, run by a real kernel, each in an empty folder.

    python tests/notebooks.py            # which of them show something else than is stored
    python tests/notebooks.py --write    # store what they show
    python tests/notebooks.py NAME…      # these alone, such as gaps.ipynb

Needs nbclient and ipykernel (extra dev), and --write a browser for pictures. What a cell shows must be what is stored,
to the last character, except in a cell with the tag `varies` in its metadata: there the kinds of its outputs must be
the same. Progress bars are not stored. Of a figure of plotly a PNG is stored, which every program shows, without the
script of plotly (5 MB), and a text that says what is drawn: that text is compared. Exits with 1 where a notebook
differs or fails.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
VARIES = "varies"
TIMEOUT_S = 300
FIGURE = "application/vnd.plotly.v1+json"
PNG = "image/png"
SIZE = (920, 460)

Document = dict[str, Any]


def find_notebooks() -> list[Path]:
    """Return the notebooks of the examples, in alphabetical order."""
    return sorted(EXAMPLES.rglob("*.ipynb"))


def read(path: Path) -> Document:
    """Return a notebook as it is stored."""
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def find_absent(path: Path) -> list[str]:
    """Return the packages that a notebook imports and that are not there."""
    code = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code")
    wanted = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            wanted |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted.add(node.module.partition(".")[0])
            wanted |= {"plotly" for name in node.names if (node.module, name.name) == ("candle_fetcher", "plot")}
    return sorted(name for name in wanted if importlib.util.find_spec(name) is None)


def run(path: Path) -> Document:
    """Return the notebook with what its cells show now. Raises nbclient's CellExecutionError where one fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANDLE_FETCHER_")}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "CANDLE_FETCHER_CACHE_DIR": str(Path(folder) / "cache"),
            "TQDM_DISABLE": "1",
            "PLOTLY_RENDERER": "plotly_mimetype",  # the figure alone, without the script
        }
        client = NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    made: Document = json.loads(nbformat.writes(notebook))
    for cell in made["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"].pop("execution", None)  # times
            cell["outputs"] = [one for one in cell["outputs"] if not _is_passing(one)]
            for one in _figures(cell):
                text = json.dumps(one["data"][FIGURE])
                one["data"][FIGURE] = json.loads(re.sub(r"(127\.0\.0\.1):\d+", r"\1", text))
                one["data"]["text/plain"] = describe(one["data"][FIGURE]).splitlines(keepends=True)
    stored = read(path)
    # The kernel adds its version to these, which is of no use to a reader.
    return {**stored, "cells": made["cells"]}


def _is_passing(output: Document) -> bool:
    """Whether it is a bar, or what a package shows while it loads its script."""
    data = output.get("data", {})
    kinds = {"application/vnd.jupyter.widget-view+json", "application/vnd.bokehjs_load.v0+json"}
    html = "".join(data.get("text/html", ""))
    return "<progress " in html or "bk-notebook-logo" in html or not kinds.isdisjoint(data)


def _figures(cell: Document) -> Iterator[Document]:
    return (one for one in cell.get("outputs", ()) if FIGURE in one.get("data", {}))


def describe(figure: Document) -> str:
    """Return what a figure of plotly draws: its title, and a line for each trace with its points and their sum."""
    title = " ".join(re.sub(r"<[^>]*>", " ", figure["layout"].get("title", {}).get("text", "")).split())
    lines = [f"Figure: {title}" if title else "Figure"]
    for trace in figure["data"]:
        values = np.array(_numbers(trace.get("close", trace.get("y"))) or _numbers(trace.get("x")), np.float64)
        name = re.sub(r"<[^>]*>", "", trace.get("name") or "without a name")
        lines.append(f"{trace['type']} {name}: {len(values)} points, sum {np.nansum(values):.6g}")
    return "\n".join(lines)


def _numbers(values: Any) -> Any:
    """The numbers of a trace, which plotly packs, or has as a list."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return [value for value in values or () if isinstance(value, int | float)]


def add_pictures(stored: Document, made: Document) -> None:
    """Replace figures by PNGs: the stored one where it draws the same, else one by a browser of this machine."""
    import plotly.io

    from candle_fetcher import plot

    old = {cell["id"]: cell for cell in stored["cells"]}
    for cell in made["cells"]:
        for number, one in enumerate(cell.get("outputs", ())):
            if FIGURE not in one.get("data", {}):
                continue
            before = [*old.get(cell["id"], {}).get("outputs", ()), *[{}] * (number + 1)][number].get("data", {})
            figure = one["data"].pop(FIGURE)
            if PNG not in before or before.get("text/plain") != one["data"]["text/plain"]:
                with tempfile.TemporaryDirectory() as folder:
                    drawn = plotly.io.from_json(json.dumps({name: figure[name] for name in ("data", "layout")}))
                    file = plot.save(drawn, Path(folder) / "picture.png", width=SIZE[0], height=SIZE[1])
                    before = {PNG: base64.b64encode(file.read_bytes()).decode()}
            one["data"][PNG] = before[PNG]


def differences(stored: Document, made: Document) -> list[str]:
    """Return a line for each cell that shows something else than is stored."""
    found = []
    for old, new in zip(stored["cells"], made["cells"], strict=True):
        if new["cell_type"] != "code":
            continue
        varies = VARIES in old["metadata"].get("tags", ())
        view = _kinds if varies else _shown
        if view(old) != view(new):
            found.append(f"cell {old['id']}: stored {view(old)!r:.300}; now {view(new)!r:.300}")
    return found


def _shown(cell: Document) -> list[Document]:
    kept = [{name: value for name, value in one.items() if name != "execution_count"} for one in cell["outputs"]]
    return [{**one, "data": _texts(one)} if "data" in one else one for one in kept]


def _kinds(cell: Document) -> list[tuple[str, list[str]]]:
    return [(one["output_type"], sorted(_texts(one))) for one in cell["outputs"]]


def _texts(output: Document) -> Document:
    return {kind: value for kind, value in output.get("data", {}).items() if kind not in (FIGURE, PNG)}


def write(path: Path, document: Document) -> None:
    """Store a notebook, as Jupyter lays it out."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main(words: list[str]) -> int:
    """Run the command."""
    names = [word for word in words if not word.startswith("-")]
    chosen = [path for path in find_notebooks() if not names or path.name in names]
    failed = not chosen
    for path in chosen:
        made = run(path)
        said = differences(read(path), made)
        if "--write" in words:
            add_pictures(read(path), made)
            write(path, made)
        print(
            f"{path.relative_to(ROOT)}: {'written' if '--write' in words else 'as stored' if not said else 'differs'}"
        )
        for line in [] if "--write" in words else said:
            print(f"  {line}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
