"""Text for a terminal: columns that line up within its width, and lines broken between words.

A character of Chinese, Japanese or Korean takes two columns, and an accent that follows its letter takes none.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e-?\d+)?", re.ASCII)
_WITH_UNIT = re.compile(r"-?\d[\d,.]* (B|kB|MB|GB|s|min|h|days?)", re.ASCII)
_WORDS = re.compile(r"(\s*)(\S+)")
_LEAST_ROOM = 20
_MORE = "..."


def room() -> int:
    """Return how many columns a line has, by COLUMNS or the terminal; 80 where neither says it."""
    return max(_LEAST_ROOM, shutil.get_terminal_size().columns)


def width(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, columns: int) -> str:
    """Return the text with spaces behind it, up to that many columns."""
    return text + " " * (columns - width(text))


def wrap(text: str, columns: int, indent: str = "", later_indent: str | None = None) -> list[str]:
    """Return the lines of the text, broken between words; a word that is longer than a line is broken, too.

    `indent` begins the first line, `later_indent` the others; both count. There is one line at least.
    """
    later_indent = indent if later_indent is None else later_indent
    lines, line, taken, is_empty = list[str](), indent, width(indent), True
    for space, word in _WORDS.findall(text):
        before = "" if is_empty and lines else space
        if not is_empty and taken + width(before) + width(word) > columns:
            lines.append(line)
            line, taken, before = later_indent, width(later_indent), ""
        for char in before + word:
            size = _char_width(char)
            if taken + size > columns and taken > width(later_indent):
                lines.append(line)
                line, taken = later_indent, width(later_indent)
            line, taken, is_empty = line + char, taken + size, False
    return [*lines, line]


def fits(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether all columns fit a line, with one space between two."""
    widths = [max(map(width, column)) for column in _columns(header, rows)]
    return sum(widths) + len(widths) - 1 <= room()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the header first; "..." stands for columns at the end that the line has no room for.

    Numbers stand to the right, with their decimal points below each other.
    """
    columns = _columns(header, rows)
    widths = [max(map(width, column)) for column in columns]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= room() else 1
    while len(columns) > 2 and sum(widths) + gap * (len(widths) - 1) > room():
        columns = [*columns[: -2 if columns[-1][0] == _MORE else -1], [_MORE] * len(columns[0])]
        widths = [max(map(width, column)) for column in columns]
    cells = [[pad(cell, size) for cell in column] for column, size in zip(columns, widths, strict=True)]
    return [(" " * gap).join(row).rstrip() for row in zip(*cells, strict=True)]


def folded(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; where it is too wide, of its leading columns, with the other cells of a row below.

    What all rows say in such a cell stands once, below the table.
    """
    if fits(header, rows) or len(header) < 2:
        return table(header, rows)
    counts = range(len(header) - 1, 0, -1)
    count = next((n for n in counts if fits(header[:n], [row[:n] for row in rows])), 1)
    head, *lines = table(header[:count], [row[:count] for row in rows])
    below = [[row[place] for row in rows] for place in range(count, len(header))]
    common = [column[0] if len(rows) > 1 and len(set(column)) == 1 else None for column in below]
    made = [head]
    for line, row in zip(lines, rows, strict=True):
        made.append(line)
        for name, cell, same in zip(header[count:], row[count:], common, strict=True):
            if cell and same is None:
                made += wrap(f"{name}: {cell}", room(), "  ", "    ")
    for name, same in zip(header[count:], common, strict=True):
        if same:
            made += wrap(f"{name} of all: {same}", room(), "", "  ")
    return made


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Return the cells of each column, the header first; numbers and their headers are moved to the right."""
    columns = zip(header, *rows, strict=True)
    return [_to_the_right(name, cells) if _is_numeric(cells) else [name, *cells] for name, *cells in columns]


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in ("", "-")]
    return bool(filled) and all(_NUMBER.fullmatch(cell) or _WITH_UNIT.fullmatch(cell) for cell in filled)


def _to_the_right(name: str, cells: Sequence[str]) -> list[str]:
    if all(_NUMBER.fullmatch(cell) for cell in cells if cell):
        behind = [len(cell) - len(cell.partition(".")[0]) for cell in cells]
        cells = [cell + " " * (max(behind) - size) if cell else "" for cell, size in zip(cells, behind, strict=True)]
    columns = max(width(name), *map(width, cells))
    return [name.rjust(columns), *(cell.rjust(columns) for cell in cells)]
