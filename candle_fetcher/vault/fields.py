"""The columns of a series' files: header, column and kind of each."""

from __future__ import annotations

import pandas as pd

from candle_fetcher.core.errors import InputError
from candle_fetcher.files.layout import TIME, Layout
from candle_fetcher.vault.state import Field

_MOST_TIMES = 2  # as candles have: when they open, and when they close


def fields_of(frame: pd.DataFrame, layout: Layout | None) -> tuple[Field, ...]:
    """Return the fields of the rows; without a layout, all columns behind the time, by their own names.

    Raises InputError for values that are neither numbers nor flags nor times.
    """
    layout = layout or layout_of(frame)
    found = tuple(
        Field(header, name, "time" if name == TIME else _kind_of(frame, name))
        for header, name in zip(layout.headers, layout.columns, strict=True)
    )
    times = [field.column for field in found if field.kind == "time"]
    if len(times) > _MOST_TIMES:
        raise InputError(f"there are {len(times)} columns of times, {', '.join(times)}; expected at most {_MOST_TIMES}")
    return found


def layout_of(frame: pd.DataFrame) -> Layout:
    """Return the layout of all columns behind the time, by their own names."""
    names = (TIME, *frame.columns)
    return Layout(names, names)


def _kind_of(frame: pd.DataFrame, name: str) -> str:
    kind = frame[name].dtype.kind
    if kind not in "fiubM":
        raise InputError(f"the column {name} has values of {frame[name].dtype}; expected numbers, flags or times")
    return {"f": "float", "b": "bool", "M": "time"}.get(kind, "int")


def join_fields(before: tuple[Field, ...], found: tuple[Field, ...]) -> tuple[Field, ...]:
    """Return the fields of old and new rows: numbers of which some are no integers are floats. Raises InputError where
    the columns are not the same."""
    if not before:
        return found
    headers, new_headers = ([field.header for field in fields] for fields in (before, found))
    if headers != new_headers:
        raise InputError(
            f"the file has the columns {', '.join(headers)}, and the new rows have {', '.join(new_headers)}; use the "
            "same columns and processors, or another vault"
        )
    joined = []
    for old, new in zip(before, found, strict=True):
        if old.kind != new.kind and {old.kind, new.kind} != {"int", "float"}:
            raise InputError(f"the column {new.header} had values of the kind {old.kind}, and new ones are {new.kind}")
        joined.append(old if old.kind == new.kind else old._replace(kind="float"))
    return tuple(joined)
