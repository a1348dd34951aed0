"""The notebooks of `examples/` run in a real kernel, and show what is stored in them."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path

import notebooks
import numpy as np
import pytest

PATHS = notebooks.find_notebooks()
NAMES = [path.name for path in PATHS]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a kernel's own packages warn of
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_shows_what_is_stored(path: Path) -> None:
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name, reason=f"running a notebook needs {name}")
    if absent := notebooks.find_absent(path):
        pytest.skip(f"{path.name} needs {', '.join(absent)}")
    made = notebooks.run(path)
    errors = [one for cell in made["cells"] for one in cell.get("outputs", ()) if one["output_type"] == "error"]
    assert errors == []
    said = notebooks.differences(notebooks.read(path), made)
    assert not said, "\n".join(["python tests/notebooks.py --write stores what it shows now", *said])


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_is_stored_with_its_outputs_and_nothing_of_the_machine(path: Path) -> None:
    document = notebooks.read(path)
    text = path.read_text(encoding="utf-8")
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run from the top"
    assert any(cell["outputs"] for cell in code)
    assert not re.search(r"/tmp/|/home/|/root/|127\.0\.0\.1:\d", text)
    assert "<progress " not in text
    assert "<script" not in text
    assert len(text) < 400_000
    assert text == json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_opens_with_what_it_shows_and_has_pictures_that_need_no_script(path: Path) -> None:
    first, *rest = notebooks.read(path)["cells"]
    title, about, *_ = "".join(first["source"]).split("\n\n")
    assert title.startswith("# ")
    assert len(about) > 80
    kinds = [set(one.get("data", {})) for cell in rest for one in cell.get("outputs", ())]
    pictures = [found for found in kinds if notebooks.PNG in found]
    assert pictures
    assert all(found == {notebooks.PNG, "text/plain"} for found in pictures)


def test_a_figure_is_described_by_its_traces_whatever_the_version_of_plotly() -> None:
    packed = {"dtype": "f8", "bdata": base64.b64encode(np.array([1.5, 2.0, np.nan]).tobytes()).decode()}
    traces = [
        {"type": "candlestick", "name": "candle", "close": packed},
        {"type": "bar", "y": ["BTC/USDT"], "x": [3, 4], "name": "<b>stored</b>"},
    ]
    figure = {"data": traces, "layout": {"title": {"text": "<b>BTC</b><br>1h"}, "template": {}}}
    said = ["Figure: BTC 1h", "candlestick candle: 3 points, sum 3.5", "bar stored: 2 points, sum 7"]
    assert notebooks.describe(figure).splitlines() == said


def test_a_cell_that_shows_something_else_is_named_unless_it_varies() -> None:
    def cell(name: str, text: str, *tags: str) -> notebooks.Document:
        output = {"output_type": "execute_result", "data": {"text/plain": [text]}, "execution_count": 1, "metadata": {}}
        return {"id": name, "cell_type": "code", "metadata": {"tags": list(tags)}, "outputs": [output]}

    stored = {"cells": [cell("one", "1"), cell("two", "2"), cell("three", "3", "varies")]}
    made = copy.deepcopy(stored)
    made["cells"][1]["outputs"][0]["data"]["text/plain"] = ["4"]
    made["cells"][2]["outputs"][0]["data"]["text/plain"] = ["5"]
    assert [line.split(":")[0] for line in notebooks.differences(stored, made)] == ["cell two"]
    made["cells"][2]["outputs"] = []
    assert [line.split(":")[0] for line in notebooks.differences(stored, made)] == ["cell two", "cell three"]
