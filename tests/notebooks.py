"""The notebooks of `examples/`, run by a real kernel, each in an empty folder.

    python tests/notebooks.py            # which of them show something else than is stored
    python tests/notebooks.py --write    # store what they show
    python tests/notebooks.py NAME…      # these alone, such as notebook.ipynb

Needs nbclient and ipykernel (extra dev). What a cell shows must be what is stored, to the last character, except in a
cell with the tag `varies` in its metadata: there the kinds of its outputs must be the same. Progress bars are not
stored. Exits with 1 where a notebook differs or fails.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
VARIES = "varies"
TIMEOUT_S = 300

Document = dict[str, Any]


def find_notebooks() -> list[Path]:
    """Return the notebooks of the examples, in alphabetical order."""
    return sorted(EXAMPLES.rglob("*.ipynb"))


def read(path: Path) -> Document:
    """Return a notebook as it is stored."""
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def run(path: Path) -> Document:
    """Return the notebook with what its cells show now. Raises nbclient's CellExecutionError where one fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANDLE_FETCHER_")}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**kept, "PYTHONPATH": str(ROOT), "CANDLE_FETCHER_CACHE_DIR": str(Path(folder) / "cache")}
        client = NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    made: Document = json.loads(nbformat.writes(notebook))
    for cell in made["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"].pop("execution", None)  # times
            cell["outputs"] = [one for one in cell["outputs"] if not _is_bar(one)]
    stored = read(path)
    # The kernel adds its version to these, which is of no use to a reader.
    return {**stored, "cells": made["cells"]}


def _is_bar(output: Document) -> bool:
    data = output.get("data", {})
    return "<progress " in "".join(data.get("text/html", "")) or "application/vnd.jupyter.widget-view+json" in data


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
    return [{name: value for name, value in one.items() if name != "execution_count"} for one in cell["outputs"]]


def _kinds(cell: Document) -> list[tuple[str, list[str]]]:
    return [(one["output_type"], sorted(one.get("data", {}))) for one in cell["outputs"]]


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
            write(path, made)
        print(
            f"{path.relative_to(ROOT)}: {'written' if '--write' in words else 'as stored' if not said else 'differs'}"
        )
        for line in [] if "--write" in words else said:
            print(f"  {line}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
