"""`candle-fetcher help PAGE`: the pages of `candle_fetcher/docs`, laid out for a terminal.

The pages are Markdown, of which they use headings, paragraphs, lists, tables, links and blocks of code.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from candle_fetcher.cli.arguments import read_arguments
from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import Palette, printable
from candle_fetcher.core.errors import InputError, nearest, unknown

FOLDER = Path(__file__).resolve().parents[1] / "docs"
INDEX = "index"
_WIDEST = 100  # longer lines of prose are hard to read
_GAP = "  "  # between two columns of a table, and before what code prints
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_STRESSED = re.compile(r"(?<![\w*`])\*{1,2}([^\s*][^*]*)\*{1,2}(?![\w*])")
_COMMENT = re.compile(r"<!--.*?-->\n?", re.S)
_RULE = re.compile(r"\|[\s|:-]+\|")  # the line below the head of a table
_CELL = re.compile(r"(?<!\\)\|")
_ITEM = re.compile(r"(?:- |\d+\. )")


def help_page(arguments: argparse.Namespace, talk: Talk) -> int:
    """Print a page; without a name, the list of pages. The name of a command without a page prints its help.

    Raises InputError with the closest names where there is no such page.
    """
    pages = find_pages()
    name = (arguments.page or INDEX).lower().removesuffix(".md")
    if name not in pages:
        if name in arguments.commands:
            read_arguments([name, "--help"])  # leaves by SystemExit
        error = unknown("page", arguments.page, [page for page in pages if page != INDEX])
        meant = nearest(name, arguments.commands) if "Did you mean" not in str(error) else None
        raise InputError(f"{error} Did you mean {meant!r}?") if meant else error
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    text = pages[name].read_text(encoding="utf-8")
    print("\n".join(lay_out(text, width, lambda title: Palette().paint(title, "title"))))
    if name in arguments.commands:
        print(f"`candle-fetcher {name} --help` lists the flags of the command.")
    sys.stdout.flush()
    return 0


def find_pages() -> dict[str, Path]:
    """Return the files of the pages by name, in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDER.rglob("*.md"), key=lambda path: path.stem)}


def lay_out(text: str, width: int, paint: Callable[[str], str] = str) -> Iterator[str]:
    """Yield the lines of the Markdown text for a terminal of that many columns. `paint` colours a heading."""
    for block in _blocks(_COMMENT.sub("", text)):
        first = block[0]
        if first.startswith("```"):
            code = block[1:-1]
            # What is pasted into Python must not be indented.
            is_printed = first.startswith("```text") and max(map(len, code), default=0) + len(_GAP) <= width
            indent = _GAP if is_printed else ""
            yield from (f"{indent}{line}".rstrip() for line in code)
        elif first.startswith("#"):
            title = _plain(first.lstrip("# "))
            yield paint(title)
            if first.startswith(("# ", "## ")):
                yield ("=" if first.startswith("# ") else "-") * len(title)
        elif first.startswith("|"):
            rows = [_cells(line) for line in block if not _RULE.fullmatch(line)]
            yield from _lay_out_table(rows, width)
        elif _ITEM.match(first):
            for item in _items(block):
                mark = _ITEM.match(item)
                indent = " " * len(mark[0]) if mark else ""
                yield from textwrap.wrap(item, width, subsequent_indent=indent, break_on_hyphens=False)
        else:
            paragraph = _plain(" ".join(block))
            yield from textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False)
        yield ""


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each paragraph, list, table, heading or block of code."""
    block: list[str] = []
    for line in text.splitlines():
        is_code = bool(block) and block[0].startswith("```")
        if is_code:
            block.append(line)
            if line == "```":
                yield block
                block = []
        elif not line.strip() or line.startswith(("#", "```")):
            if block:
                yield block
            block = [line] if line.strip() else []
        elif block and block[0].startswith("#"):
            yield block
            block = [line]
        else:
            block.append(line)
    if block:
        yield block


def _items(block: Sequence[str]) -> list[str]:
    items: list[str] = []
    for line in block:
        if _ITEM.match(line):
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    return [_plain(item) for item in items]


def _plain(text: str) -> str:
    """Return the text without the marks of Markdown: a link is its text, and its address where that is a URL."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        page = target.partition("#")[0].rpartition("/")[2].removesuffix(".md")
        if "://" in target:
            return f"{words} ({target})"
        named = page and target.partition("#")[0].endswith(".md") and page != words.strip("`")
        return f"{words} (page {page})" if named else words

    return printable(_STRESSED.sub(r"\1", _LINK.sub(link, text)).replace("\\|", "|"))


def _cells(line: str) -> list[str]:
    return [_plain(cell.strip()) for cell in _CELL.split(line.strip())[1:-1]]


def _lay_out_table(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the lines of a table in columns; where its words are too long for that, a paragraph for each row.

    An address is never broken: it may be longer than the line.
    """
    columns = list(zip(*rows, strict=True))
    room = width - len(_GAP) * (len(columns) - 1)
    words = [[word for cell in column for word in cell.split() if "://" not in word] for column in columns]
    longest = [max(map(len, column), default=0) for column in words]
    widths = _share([max(map(len, column)) for column in columns], longest, room)
    if widths is None:
        yield from _lay_out_records(rows, width)
        return
    for number, row in enumerate(rows):
        cells = [
            textwrap.wrap(cell, size, break_on_hyphens=False, break_long_words=False)
            for cell, size in zip(row, widths, strict=True)
        ]
        for place in range(max(map(len, cells))):
            parts = (cell[place] if place < len(cell) else "" for cell in cells)
            yield _GAP.join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip()
        if number == 0:
            yield _GAP.join("-" * size for size in widths)


def _share(natural: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Return the widths of columns that fit the room, the widest made narrower first; None where words do not fit."""
    if sum(least) > room:
        return None
    widths = list(natural)
    while sum(widths) > room:
        place = max((one for one in range(len(widths)) if widths[one] > least[one]), key=widths.__getitem__)
        widths[place] -= 1
    return widths


def _lay_out_records(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    head, *others = rows
    for row in others:
        yield from textwrap.wrap(row[0], width, subsequent_indent=_GAP)
        for name, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                line = f"{name}: {cell}"
                yield from textwrap.wrap(line, width, initial_indent=_GAP, subsequent_indent=_GAP * 2)
