"""Rows as JSON on stdout: one document with --json, and with --jsonl a line for each row as it comes.

Numbers are exact, times ISO with Z, and a value that is not known is null. Text is escaped to ASCII, so that nothing in
it is a command to a terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.files.layout import json_pieces


def is_json(arguments: argparse.Namespace) -> bool:
    """Return whether --json or --jsonl is given: then stdout gets nothing else."""
    return bool(arguments.json or arguments.jsonl)


def print_document(document: Any, arguments: argparse.Namespace) -> None:
    """Print a document, indented; with --jsonl on one line."""
    print_json(document, indent=None if arguments.jsonl else 2)


def print_rows(rows: Iterable[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    """Print rows: one list, indented; with --jsonl each on a line of its own, at once."""
    if arguments.jsonl:
        for row in rows:
            print_json(row)
    else:
        print_json(list(rows), indent=2)


def print_json(document: Any, indent: int | None = None) -> None:
    """Print the document on one line, or indented, and flush it. Raises ValueError for NaN and infinity."""
    separators = (",", ":") if indent is None else None  # as `export` writes JSON lines
    print(json.dumps(document, indent=indent, separators=separators, allow_nan=False), flush=True)


def print_candle_lines(frame: pd.DataFrame, symbol: str | None) -> None:
    """Print a line for each candle as `export` writes JSON lines, with the symbol in front where it is given."""
    front = "{" if symbol is None else f'{{"symbol":{json.dumps(symbol)},'
    for piece in json_pieces([frame]):
        text = piece.decode("ascii")
        if symbol is not None:
            text = "".join(f"{front}{line[1:]}" for line in text.splitlines(keepends=True))
        sys.stdout.write(text)
    sys.stdout.flush()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON-able dicts, an index with a name first. Times are ISO with Z, spans of time are seconds,
    and what is not known is None."""
    rows = frame if frame.index.name is None else frame.reset_index()
    names = [str(name) for name in rows]
    columns = [list(_values(rows.iloc[:, place])) for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pd.Series[Any]) -> Iterator[Any]:
    """Yield the values of a column as JSON has them."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        yield from iso_times(column)
        return
    if column.dtype.kind == "m":
        column = column.dt.total_seconds()
    known = column.notna()
    for value, is_known in zip(column.astype(object).tolist(), known, strict=True):
        yield value if is_known else None


def iso_times(column: pd.Series[Any]) -> list[str | None]:
    """Return times as ISO text with Z, with milliseconds where they are not 0; None where there is none."""
    texts = np.datetime_as_string(column.dt.tz_convert(None).to_numpy().astype("M8[ms]"), unit="ms").tolist()
    return [None if text == "NaT" else f"{text.removesuffix('.000')}Z" for text in texts]
