"""The table of faults: every mark has its row, and what is printed is what came of the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
from faults import FEWER, LETTERS, NOT_INJECTED, ROWS, Marked, find_rows, main, table

TESTS = Path(__file__).resolve().parent


def marks() -> Iterator[tuple[str, str]]:
    """File and row of every mark `fault`; what is no text in the brackets is left to the run."""
    for path in sorted(TESTS.glob("test_*.py")):
        for arguments in re.findall(r"pytest\.mark\.fault\(([^()]*)\)", path.read_text("utf-8")):
            yield from ((path.name, row) for row in re.findall(r'"([^"]*)"', arguments))


def test_every_mark_is_a_row_of_the_table() -> None:
    found = list(marks())
    assert len(found) > 150
    assert [(name, row) for name, row in found if row not in ROWS] == []


def test_rows_are_named_once_in_order_and_what_is_said_of_them_is_about_rows() -> None:
    assert list(ROWS) == sorted(ROWS)
    assert {row[0] for row in ROWS} == set(LETTERS)
    assert len(set(ROWS.values())) == len(ROWS)
    assert set(FEWER) | set(NOT_INJECTED) <= set(ROWS)
    assert not set(FEWER) & set(NOT_INJECTED)


def test_the_rows_are_those_of_the_pages_beside_the_repository(shared: Path) -> None:
    matrix, findings = shared / "faults.md", shared / "findings.md"
    if not matrix.is_file() or not findings.is_file():
        pytest.skip("the recorded data has no matrix of faults: `faults.md` and `findings.md`")
    rows = re.findall(r"^\| ([A-Z]\d\d) \|", matrix.read_text("utf-8"), re.M)
    found = re.findall(r"^\| ([A-D])(\d+) \|", findings.read_text("utf-8"), re.M)
    rows += [f"{chr(ord(letter) + 7)}{int(number):02}" for letter, number in found]
    assert sorted(rows) == list(ROWS)


def test_rows_are_found_by_name_and_by_letter() -> None:
    assert find_rows(["c06", "A", "C06"]) == [*(row for row in ROWS if row[0] == "A"), "C06"]
    assert find_rows([]) == list(ROWS)
    assert main(["Z1"]) == 2


def test_the_table_shows_what_came_of_the_tests_and_where_there_are_none() -> None:
    marked = Marked(list(ROWS))
    outcomes = {
        ("a.py::one[1]", "C01"): "passed",
        ("a.py::one[2]", "C01"): "skipped",
        ("a.py::two", "C01", "C02"): "failed",
        ("a.py::three", "D09"): "passed",
        ("a.py::four", "E02"): "skipped",
    }
    for (name, *rows), outcome in outcomes.items():
        marked.marks[name] = tuple(rows)
        marked.outcomes[name] = outcome
    lines = table(["C01", "C02", "C03", "D09", "D32", "E02"], marked, named=True)
    shown = [re.sub(r" {2,}", " ", line.strip()) for line in lines]
    assert shown == [
        "",
        "C holes, files, merges tests runs result",
        f"C01 {ROWS['C01']} 2 3 1 FAILED",
        "a.py::one",
        "a.py::two",
        f"C02 {ROWS['C02']} 1 1 1 FAILED",
        "a.py::two",
        f"C03 {ROWS['C03']} 0 0 none",
        "",
        "D the cache tests runs result",
        f"D09 {ROWS['D09']} 1 1 ok (fewer: {FEWER['D09']})",
        "a.py::three",
        f"D32 {ROWS['D32']} 0 0 cannot be injected: {NOT_INJECTED['D32']}",
        "",
        "E threads, processes, interruption tests runs result",
        f"E02 {ROWS['E02']} 1 1 skipped",
        "a.py::four",
        "",
        "1 of 6 rows hold, in 5 runs",
        "without a test: C03",
    ]


@pytest.mark.slow
@forks.needs_fork
def test_the_command_runs_the_marked_tests() -> None:
    done = forks.run(lambda: main(["J21", "--tests"]), timeout_s=120)
    said = done.out.decode()
    assert done.code == 0, said + done.err.decode()
    assert re.search(rf"^J21  {ROWS['J21']} +\d+ +\d+  ok$", said, re.M)
    assert "tests/test_limits.py::test_a_message_says_a_thing_once" in said
    assert "1 of 1 rows hold" in said
