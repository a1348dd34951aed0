"""HTML of facts and tables, as Jupyter shows them; tables of text whole, also outside of it.

Colours are those of the page, so that it can be read in light and in dark. Text is escaped: what a provider sent is
never markup, a formula, or a command that turns the direction of writing.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from candle_fetcher.core.sizes import size_text

_COLUMNS, _MOST_INDENT = 80, 50  # of text
# Styles stand in each cell: pages differ, and JupyterLab moves every cell to the right.
_CELL = "padding:0.2em 0.7em;vertical-align:top"
_LEFT = f"text-align:left;white-space:normal;overflow-wrap:break-word;max-width:44em;{_CELL}"
_RIGHT = f"text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;{_CELL}"
_NAME = f"text-align:left;white-space:nowrap;{_CELL}"
# MathJax leaves these classes alone: a price in $ is no formula.
_PLAIN = "tex2jax_ignore mathjax_ignore"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?( ?(B|kB|MB|GB|%|µs|ms|s|min|h|days?))?", re.ASCII)
_UNKNOWN = ("", "–", "-")


class WholeFrame(pd.DataFrame):
    """A frame of text that is shown whole, as HTML and as text: no cell is cut, and no row or column is left out."""

    def _repr_html_(self) -> str:
        return html_table([str(name) for name in self.columns], self._rows())

    def __repr__(self) -> str:
        if self.empty:
            return super().__repr__()
        return "\n".join(_text_lines([str(name) for name in self.columns], self._rows()))

    def _rows(self) -> list[list[str]]:
        return [[text_of_line(_cell(value)) for value in row] for row in self.itertuples(index=False)]


def _text_lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines of at most 80 columns: the first cells below each other, and beside them the others, broken."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    count = next((n for n in range(len(widths), 0, -1) if sum(widths[:n]) <= _MOST_INDENT), 1)
    for row in rows:
        head = "".join(cell.ljust(size) for cell, size in zip(row[:count], widths, strict=False))
        for name, cell in zip(names[count:], row[count:], strict=True):
            if cell:
                said = cell if name == names[count] else f"{name}: {cell}"
                yield from textwrap.wrap(said, _COLUMNS, initial_indent=head, subsequent_indent=" " * len(head))
                head = " " * len(head)
        if head.strip():
            yield head.rstrip()


def _cell(value: object) -> str:
    if pd.api.types.is_bool(value):
        return "✓" if value else "✗"
    return "–" if pd.isna(value) else str(value)  # type: ignore[call-overload]


def fact_table(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a title and a row of name and value for each fact; numbers of `..._bytes` with a unit."""
    rows = "".join(
        f"<tr><th style='{_NAME}'>{text_of(name.removesuffix('_bytes'))}</th>"
        f"<td style='{_LEFT}'>{_value(name, value)}</td></tr>"
        for name, value in facts
    )
    head = f"<b>{text_of(title)}</b>" if title else ""
    return _whole(f"{head}<table><tbody>{rows}</tbody></table>")


def _value(name: str, value: object) -> str:
    """Return the markup of a fact's value; rows of a list as a table."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        return html_table([str(key) for key in value[0]], [[_text(cell) for cell in one.values()] for one in value])
    if isinstance(value, int) and not isinstance(value, bool) and name.endswith("_bytes"):
        return text_of(size_text(value))
    return text_of(_text(value))


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a header, columns of numbers to the right; "" without rows."""
    kept = [[str(cell) for cell in row] for row in rows]
    if not kept:
        return ""
    columns = zip(*kept, strict=True)
    styles = [_RIGHT if _is_numeric(column) else _LEFT for column in columns]
    heads = [_RIGHT if style == _RIGHT else _NAME for style in styles]
    head = "".join(f"<th style='{style}'>{text_of(name)}</th>" for style, name in zip(heads, header, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td style='{style}'>{text_of(cell)}</td>" for style, cell in zip(styles, row, strict=True))
        + "</tr>"
        for row in kept
    )
    return _whole(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def text_of(value: object) -> str:
    """Return a value as text that is safe in HTML: markup is escaped, and so are characters that cannot be seen."""
    return html.escape(text_of_line(value))


def text_of_line(value: object) -> str:
    """Return a value as text on one line, with characters that cannot be seen escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _whole(markup: str) -> str:
    return f"<div class='{_PLAIN}' style='overflow-x:auto'>{markup}</div>"


def _is_numeric(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell not in _UNKNOWN]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
