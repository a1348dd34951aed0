"""Ten tasks of a first day, each by the first block of its recipe, in at most eight lines; test_docs runs them."""

from __future__ import annotations

import re

import pytest
from pages import find_blocks

from candle_fetcher.cli.pages import find_pages, lay_out

MOST_LINES = 8
RECIPES = {
    "five symbols to CSV": "I want several symbols as CSV files",
    "a file kept by cron": "I want a file that is updated every hour",
    "all history": "I want all the history of a symbol",
    "two providers": "I want to compare providers",
    "funding on prices": "I want funding rates beside prices",
    "a picture": "I want a chart",
    "a spreadsheet": "I want a spreadsheet",
    "a backtest": "I want to test a strategy",
    "no network": "I want to work without a network",
    "a wrong key": "I want stocks, and my key is refused",
}


def first_block(text: str) -> tuple[str, list[str]]:
    """Return the kind of the first block of a text and its lines, without the empty ones."""
    match = re.search(r"^```(\w+)[^\n]*\n(.*?)^```$", text, re.M | re.S)
    assert match is not None
    return match[1], [line for line in match[2].splitlines() if line.strip()]


@pytest.mark.parametrize("task", RECIPES)
def test_a_recipe_of_a_first_day_has_at_most_eight_lines(task: str) -> None:
    text = find_pages()["recipes"].read_text(encoding="utf-8")
    opening, *parts = re.split(r"^## ", text, flags=re.M)
    sections = {part.partition("\n")[0]: part for part in parts}
    _, prelude = first_block(opening)
    kind, lines = first_block(sections[RECIPES[task]])
    code = [*prelude, *lines] if kind == "python" else lines
    assert len(code) <= MOST_LINES
    assert max(map(len, code)) <= 120, "a line that is no line any more"


def test_the_line_for_cron_is_one_that_the_command_takes() -> None:
    from candle_fetcher.cli.arguments import read_arguments

    text = find_pages()["recipes"].read_text(encoding="utf-8")
    lines = re.findall(r"^5 \* \* \* \* (\S+) (.*)$", text, re.M)
    assert len(lines) == 2
    for command, words in lines:
        assert command.startswith("/"), "cron does not know the environment of the user"
        assert command.endswith("/candle-fetcher")
        assert read_arguments(words.removesuffix(" >/dev/null").split())


def test_the_code_of_a_page_can_be_pasted_from_the_terminal() -> None:
    for width in (80, 200):
        shown = list(lay_out(find_pages()["recipes"].read_text(encoding="utf-8"), width))
        for block in find_blocks(find_pages()["recipes"]):
            lines = [line.rstrip() for line in block.code.splitlines()]
            assert any(shown[at : at + len(lines)] == lines for at in range(len(shown))), block.place


def test_the_blocks_of_the_ten_tasks_are_among_those_that_are_run() -> None:
    blocks = find_blocks(find_pages()["recipes"])
    text = find_pages()["recipes"].read_text(encoding="utf-8")
    for heading in RECIPES.values():
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        kind, lines = first_block(section)
        run = [[line for line in block.code.splitlines() if line.strip()] for block in blocks]
        assert kind == "text" or lines in run
