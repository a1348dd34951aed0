"""HTML of facts and tables, as Jupyter shows them.

Colours are those of the page, so that it can be read in light and in dark. Text is escaped: what a provider sent is
never markup, a formula, or a command that turns the direction of writing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from candle_fetcher.core.sizes import size_text

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
    """A frame of text that Jupyter shows whole: no cell is cut, and no row or column is left out."""

    def _repr_html_(self) -> str:
        rows = [[_cell(value) for value in row] for row in self.itertuples(index=False)]
        return html_table([str(name) for name in self.columns], rows)


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
    text = str(value)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return html.escape(text)


def _whole(markup: str) -> str:
    return f"<div class='{_PLAIN}' style='overflow-x:auto'>{markup}</div>"


def _is_numeric(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell not in _UNKNOWN]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
