"""What a terminal of 80 columns shows: no line of any command is longer."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import forks
import pytest

from candle_fetcher.cli import main, opening
from candle_fetcher.cli.aligned import folded, pad, table, width, wrap
from candle_fetcher.cli.commands import COMMANDS
from candle_fetcher.cli.pages import find_pages, lay_out

COLUMNS = 80
RANGE = "--start 2023-03-24 --end 2023-03-25"
# Without --practice where there is none. What comes before the last line of a case prepares it.
LINES = {
    "fetch": [f"fetch BTC/USDT 1m {RANGE}"],
    "fetch all": [f"fetch BTC/USDT 1h {RANGE} --columns all"],
    "fetch several": [f"fetch --symbols BTC/USDT,ETH/USDT 1h {RANGE}"],
    "fetch futures": [f"fetch BTC/USDT 1h {RANGE} --provider binance-um --columns all --on-gap ffill"],
    "fetch unknown": ["fetch BTC/UDST 1h"],
    "fetch wrong": ["fetch BTC/USDT 1hh"],
    "fetch partial": [f"fetch BTC/USDT 1h {RANGE} --source cache"],
    "export": [f"export BTC/USDT 1h {RANGE} --output out"],
    "export many": [f"export --symbols BTC/USDT,ETH/USDT,XXX/USDT 1h {RANGE} --output out"],
    "plan": ["plan BTC/USDT 1m --start 2020-01-01 --end 2024-01-01"],
    "gaps": [f"gaps BTC/USDT 1m {RANGE}"],
    "gaps coverage": [f"fetch BTC/USDT 1m {RANGE}", f"gaps BTC/USDT 1m {RANGE} --coverage"],
    "audit": ["audit BTC/USDT 1d --start 2023-03-01 --end 2023-03-20"],
    "funding": ["funding BTC/USDT --start 2024-03-01 --end 2024-03-09"],
    "symbols": ["symbols"],
    "symbols futures": ["symbols --provider binance-um"],
    "vault update": ["vault update kept BTC/USDT ETH/USDT XXX/USDT 1d --start 2024-03-01 --end 2024-03-09"],
    "vault list": ["vault update kept BTC/USDT ETH/USDT 1d --start 2024-03-01 --end 2024-03-09", "vault list kept"],
    "vault verify": ["vault update kept BTC/USDT ETH/USDT 1d --start 2024-03-01 --end 2024-03-09", "vault verify kept"],
    "vault read": ["vault update kept BTC/USDT 1d --start 2024-03-01", "vault read kept BTC/USDT 1d"],
    "providers": ["providers"],
    "cache stats": ["cache stats"],
    "cache list": [f"fetch --symbols BTC/USDT,ETH/USDT 1h {RANGE}", "cache list"],
    "cache verify": ["cache verify"],
    "cache revisions": ["cache revisions"],
    "cache import": [f"export BTC/USDT 1h {RANGE} --output x.csv", "cache import x.csv"],
    "cache backup": [f"fetch BTC/USDT 1h {RANGE}", "cache backup candles.tar"],
    "cache clear": ["cache clear --yes"],
    "verify": [f"export BTC/USDT 1h {RANGE} --output x.csv", "verify x.csv none.csv"],
    "doctor": ["doctor"],
    "quotes": ["quotes BTC/USDT ETH/USDT XXX/USDT"],
    "plot": [f"plot BTC/USDT 1h {RANGE} --out chart.html"],
    "help": ["help"],
    "help page": ["help command-line"],
    "no command": ["fetsh"],
    "no flag": ["fetch BTC/USDT --nonsense-that-is-long --more-nonsense-that-is-long --even-more-nonsense"],
    "no choice": ["cache lst"],
}
# Servers, streams without an end, and a script.
OTHERS = {"practice", "serve", "watch", "follow", "completion"}


def seen(text: str) -> Iterator[str]:
    """The lines of a terminal, without colours; what a bar replaced in its line is a line, too."""
    for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).split("\n"):
        yield from line.split("\r")


def free_port() -> int:
    """A port for the practice exchanges of a case: the usual one may be taken, and candles belong to their port."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
    return port


def in_folder(folder: Path, line: str, port: int) -> Callable[[], int]:
    words = line.split()
    if words[0] not in ("providers", "help", "fetsh"):
        words += ["--cache-dir", "kept-candles"]
        words += ["--practice"] if "--help" not in words else []

    def work() -> int:
        os.chdir(folder)
        opening.PORT = port  # in this child alone
        return main(words)

    return work


def test_every_command_is_walked() -> None:
    assert set(COMMANDS) <= {lines[-1].split()[0] for lines in LINES.values()} | OTHERS


@pytest.mark.slow(keep=("fetch wrong", "no flag"))
@forks.needs_fork
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_no_line_is_longer_than_the_terminal(tmp_path: Path, lines: list[str]) -> None:
    port = free_port()
    for line in lines:
        work = in_folder(tmp_path, line, port)
        _, shown = forks.run_on_terminal(work, TERM="xterm", COLUMNS=str(COLUMNS), NO_COLOR="")
        assert shown.strip()
        assert "this is a fault of candle_fetcher" not in shown, shown
        assert [one for one in seen(shown) if width(one) > COLUMNS] == [], line


@pytest.mark.parametrize("name", find_pages())
def test_a_page_fits_the_terminal_but_for_addresses_and_code(name: str) -> None:
    text = find_pages()[name].read_text(encoding="utf-8")
    code = {line for block in re.findall(r"```.*?\n(.*?)```", text, re.DOTALL) for line in block.splitlines()}
    long = [line for line in lay_out(text, COLUMNS) if width(line) > COLUMNS and line.strip() not in code]
    assert [line for line in long if line not in code and "://" not in line] == []


# -- columns and lines -------------------------------------------------------------------------------------------------


def test_numbers_have_their_points_below_each_other() -> None:
    lines = table(["symbol", "price"], [["BTC/USDT", "66209.7"], ["ETH/USDT", "3500"], ["X", "0.00012"], ["Y", ""]])
    assert lines == [
        "symbol          price",
        "BTC/USDT  66209.7",
        "ETH/USDT   3500",
        "X             0.00012",
        "Y",
    ]


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    assert [width(text) for text in ("BTC", "币安", "e\u0301", "₿", "한국")] == [3, 4, 1, 1, 4]
    assert pad("币", 4) == "币  "
    lines = table(["symbol", "n"], [["币安人生/USDT", "1"], ["BTC/USDT", "10"]])
    assert [width(line) for line in lines] == [17, 17, 17]


def test_lines_break_between_words_and_keep_double_spaces() -> None:
    assert wrap("a  path with  spaces", 40) == ["a  path with  spaces"]
    assert wrap("one two three", 8, "- ", "  ") == ["- one", "  two", "  three"]
    assert wrap("x" * 25, 10, "  ") == ["  " + "x" * 8, "  " + "x" * 8, "  " + "x" * 8, "  x"]
    assert wrap("币安币安币安", 5) == ["币安", "币安", "币安"]
    assert wrap("", 10, "a ") == ["a "]


def test_cells_without_room_stand_below_their_row_or_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    header = ["symbol", "rows", "path", "origin"]
    rows = [["BTC/USDT", "1", "a/long/path/of/a/file.csv", "http://x"], ["ETH/USDT", "20", "another", "http://x"]]
    assert folded(header, rows) == [
        "symbol    rows",
        "BTC/USDT     1",
        "  path:",
        "    a/long/path/of/a/file.csv",
        "ETH/USDT    20",
        "  path: another",
        "origin of all: http://x",
    ]


def test_a_table_cuts_columns_that_the_line_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    lines = table(["timestamp", "open", "high", "low"], [["2024-01-01", "1.5", "2.5", "0.25"]])
    assert max(map(len, lines)) <= 24
    assert lines[0].endswith("...")
