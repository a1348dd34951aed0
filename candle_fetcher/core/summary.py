"""A frame of candles in a few figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import Convertible, as_pandas, check_columns_of, floats_in, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.manifests import list_missing, manifest_that_fits
from candle_fetcher.core.missing import gaps_between_rows, missing_in
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.core.tracebacks import short_errors

_COLUMNS = ("high", "low", "close", "volume")


@short_errors
def summary(
    frame: pd.DataFrame | Convertible, symbol: str | None = None, timeframe: str | None = None
) -> dict[str, Any]:
    """Return count, first and last open time, missing candles, highest, lowest, total and mean figures; JSON-able.

    Symbol and timeframe default to those in the frame's manifest. `gaps` lists the missing candles between the first
    and the last row, as {first, last, count, cause}; the cause is None where the manifest has none. `gap_count` is
    their number. Both are None without a timeframe. `missing`, which is there only for a partial frame, lists what of
    it could not be fetched. `avg_price` is the mean close. A figure is None where there are no
    rows, or where a value that it depends on is unknown. Rows without any value, as `combine` makes them, do not count.
    Tables of Polars and Arrow are taken, too.
    Raises InputError where a column is missing, is there twice, or has others than numbers.
    """
    given: Any = as_pandas(frame)
    if not isinstance(given, pd.DataFrame):
        raise InputError(f"expected a frame of candles, got {type(frame).__name__}")
    frame = given
    for name, value in (("symbol", symbol), ("timeframe", timeframe)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} {shown(value)} must be a text such as 'BTC/USDT' or '1h'")
    check_columns_of(frame, _COLUMNS)
    manifest: Mapping[str, Any] = {}
    missing: list[dict[str, Any]] = []
    if symbol is None or timeframe is None or missing_in(frame):
        manifest = manifest_that_fits(frame) or {}
        missing = list_missing(frame, manifest)
    frame = frame.dropna(how="all", subset=[*_COLUMNS])
    symbol = symbol or manifest.get("symbol")
    timeframe = timeframe or manifest.get("timeframe")
    timeframe = None if timeframe is None else parse_timeframe(timeframe).name
    gaps = None if timeframe is None else _gaps(frame, timeframe, manifest)
    open_ms = index_ms(frame)
    empty = not open_ms.size
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "candles": {
            "count": int(open_ms.size),
            "start_time": None if empty else iso(int(open_ms.min())),
            "end_time": None if empty else iso(int(open_ms.max())),
            "gaps": gaps,
            "gap_count": None if gaps is None else len(gaps),
            **({"missing": missing} if missing else {}),
            "statistics": {
                "highest_price": _figure(frame, "high", np.max),
                "lowest_price": _figure(frame, "low", np.min),
                "total_volume": _figure(frame, "volume", np.sum),
                "avg_price": _figure(frame, "close", np.mean),
            },
        },
    }


def _figure(frame: pd.DataFrame, name: str, figure: Callable[[npt.NDArray[np.float64]], Any]) -> float | None:
    """Return the figure of the column; None where it has no values, unknown ones, or the result is not finite."""
    values = floats_in(frame, name)
    if not values.size or not np.isfinite(values).all():
        return None
    with np.errstate(over="ignore"):
        value = float(figure(values))
    return value if math.isfinite(value) else None


def _gaps(frame: pd.DataFrame, timeframe: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the gaps between the rows, with their causes from the manifest."""
    causes = {gap["first"]: gap["cause"] for gap in manifest.get("gaps", ())}
    found, _ = gaps_between_rows(frame, parse_timeframe(timeframe))
    return [
        {"first": first, "last": last, "count": int(count), "cause": causes.get(first)}
        for first, last, count in zip(_iso(found["first"]), _iso(found["last"]), found["count"], strict=True)
    ]


def _iso(times: pd.Series) -> list[str]:
    return [iso(int(ms)) for ms in times.dt.tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64)]
