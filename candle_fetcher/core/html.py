"""HTML of facts and tables, as Jupyter shows them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import pandas as pd


class WholeFrame(pd.DataFrame):
    """A frame of text that Jupyter shows whole: no cell is cut, and no row or column is left out."""

    def _repr_html_(self) -> str:
        names = ("display.max_rows", None, "display.max_columns", None, "display.max_colwidth", None)
        with pd.option_context(*names):  # pandas 2 takes no dict
            return self.to_html(notebook=True)


def fact_table(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a title and a row of name and value for each fact."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in facts
    )
    head = f"<b>{html.escape(title)}</b>" if title else ""
    return f"<div>{head}<table><tbody>{rows}</tbody></table></div>"


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a header; "" without rows."""
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
