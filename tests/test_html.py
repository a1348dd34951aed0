"""HTML as Jupyter shows it: what a provider sent stays text, and columns of numbers line up."""

from __future__ import annotations

import html.parser
import re

import pandas as pd
import pytest

from candle_fetcher.core.html import WholeFrame, fact_table, html_table

EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>&\u202eevil\x1b[2J\n"


class Tags(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.fault("G03")
@pytest.mark.parametrize(
    "markup",
    [
        fact_table(EVIL, [(EVIL, EVIL), ("list", [{EVIL: EVIL}]), ("mapping", {EVIL: EVIL}), ("several", [EVIL, 1])]),
        html_table([EVIL, "number"], [[EVIL, 1], [EVIL, 2]]),
        WholeFrame({EVIL: [EVIL], "passed": [True]})._repr_html_(),
    ],
    ids=["facts", "table", "frame"],
)
def test_what_was_sent_is_never_markup(markup: str) -> None:
    page = Tags(markup)
    assert page.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes <= {"class", "style"}
    assert "<script>alert(1)</script>" in page.text
    assert "\\u202eevil\\x1b[2J\\n" in page.text
    assert page.text.isprintable()


def test_a_symbol_in_dollars_is_no_formula() -> None:
    for markup in (fact_table("$A/$B", [("$A$", "$B$")]), html_table(["$A$"], [["$B$"]])):
        assert re.match(r"<div class='tex2jax_ignore mathjax_ignore'", markup)


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    markup = html_table(
        ["symbol", "price", "size", "time", "none"],
        [["BTC/USDT", "67,500.25", "1.4 kB", "3.1 ms", "–"], ["ETH/USDT", "3,500", "20 B", "12 µs", "–"]],
    )
    heads = re.findall(r"<th style='text-align:(\w+)", markup)
    cells = re.findall(r"<td style='text-align:(\w+)", markup)
    assert heads == ["left", "right", "right", "right", "left"]
    assert cells == heads * 2


def test_no_colour_is_set_so_that_the_page_decides() -> None:
    markup = fact_table("title", [("name", 1)]) + html_table(["a"], [["b"]])
    assert "color" not in markup
    assert "background" not in markup


def test_facts_have_units_and_lists_are_tables() -> None:
    facts = [("disk_bytes", 1_400), ("rows", 8_760), ("problem", None), ("sources", {"rest": 24}), ("partial", [])]
    page = Tags(fact_table("", [*facts, ("gaps", [{"first": "2024", "count": 3}])]))
    for text in ("disk", "1.4 kB", "8,760", "–", "rest 24", "none", "2024", "count"):
        assert text in page.text
    assert "disk_bytes" not in page.text


def test_a_table_of_nothing_is_nothing() -> None:
    assert html_table(["a"], []) == ""


def test_a_frame_of_checks_shows_marks_and_every_cell() -> None:
    frame = WholeFrame({"check": ["a", "b", "c"], "passed": pd.array([True, False, None], dtype="boolean")})
    assert Tags(frame._repr_html_()).text == "checkpasseda✓b✗c–"


def test_a_frame_of_text_is_printed_whole_within_eighty_columns() -> None:
    found = "what was found, in a sentence that is too long for the line " * 2
    frame = WholeFrame(
        {
            "check": ["proxy", "name resolution"],
            "subject": ["environment", "127.0.0.1\x1b[2J"],
            "passed": pd.array([True, None], dtype="boolean"),
            "found": [found, "none"],
            "what_to_do": ["Wait", ""],
        }
    )
    lines = repr(frame).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("proxy            environment")
    assert lines[-1].split() == ["name", "resolution", "127.0.0.1\\x1b[2J", "–", "none"]
    assert " ".join(" ".join(lines).split()).count("too long for the line") == 2
    assert any(line.strip() == "what_to_do: Wait" for line in lines)
    assert type(frame.query("check == 'proxy'")) is pd.DataFrame
