"""Frames as other libraries take them: `output="pandas"`, `"polars"` or `"arrow"` of the calls that return frames.

The columns are those of the frame, `timestamp` first; float columns share its memory, and missing values are null.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.errors import MissingExtra, unknown
from candle_fetcher.core.frame import MANIFEST, Manifest
from candle_fetcher.core.types import OUTPUTS

if TYPE_CHECKING:
    from candle_fetcher.typed import FetchManyCall, FundingCall, IterFramesCall


def check_output(output: object, with_manifest: object) -> None:
    """Raise InputError where an argument is not valid, MissingExtra where the output needs a package that is not
    installed."""
    read_flag("with_manifest", with_manifest)
    if not isinstance(output, str) or output not in OUTPUTS:
        raise unknown("output", output, OUTPUTS)
    if output == "pandas":
        return
    try:
        if output == "polars":
            import polars  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtra(str(output), f"output={output!r}") from None


def hand_over(frame: pd.DataFrame, output: str = "pandas", with_manifest: bool = False) -> Any:
    """Return the frame as that library has it; `with_manifest` returns a pair of it and the manifest."""
    manifest = frame.attrs[MANIFEST]
    made = frame if output == "pandas" else _converted(frame, manifest, output)
    return (made, manifest) if with_manifest else made


def convert(frame: pd.DataFrame, output: str) -> Any:
    """Return a frame without a manifest as that library has it."""
    if output == "pandas":
        return frame
    from candle_fetcher.files.columnar import table_of  # when used: few do

    if output == "arrow":
        return table_of(frame)
    import polars as pl

    return pl.from_arrow(table_of(frame))


def hand_over_each(frames: Iterable[pd.DataFrame], output: str, *, with_manifest: bool) -> Iterator[Any]:
    """Yield each of the frames as `hand_over` returns it."""
    for frame in frames:
        yield hand_over(frame, output, with_manifest)
        del frame  # it is freed before the next one is made


def _converted(frame: pd.DataFrame, manifest: Manifest, output: str) -> Any:
    """Return the frame as a table of that library. A table of a frame that is kept in memory is kept with it."""
    kept = manifest.shared_with
    if kept is None or "adjusted" in manifest:
        return _convert(frame, manifest, output)
    beside: Manifest = kept.attrs[MANIFEST]
    if beside.tables is None:
        beside.tables = {}
    sources, table = beside.tables.get(output, ({}, None))
    if table is None or sources != manifest["sources"]:
        if output == "arrow":
            manifest.add_fingerprint(functools.partial(beside.__getitem__, "fingerprint"))  # which is worked out once
        table = _convert(frame, manifest, output)
        beside.tables[output] = manifest["sources"], table
    # A Polars frame can be changed, though its columns cannot: each caller gets one.
    return table.clone() if output == "polars" else table


def _convert(frame: pd.DataFrame, manifest: Manifest, output: str) -> Any:
    from candle_fetcher.files.columnar import table_of  # when used: few do

    if output == "arrow":
        return table_of(frame, json.dumps(dict(manifest), ensure_ascii=False, allow_nan=False).encode())
    import polars as pl

    return pl.from_arrow(table_of(frame))


def typed_fetch_many(method: Any) -> FetchManyCall:
    """Decorate `fetch_many` for type checkers."""
    return cast("FetchManyCall", method)


def typed_iter_frames(method: Any) -> IterFramesCall:
    """Decorate `iter_frames` for type checkers."""
    return cast("IterFramesCall", method)


def typed_fetch_funding(method: Any) -> FundingCall:
    """Decorate `fetch_funding` for type checkers."""
    return cast("FundingCall", method)
