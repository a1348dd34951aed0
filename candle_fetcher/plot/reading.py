"""Frames of candles as pictures take them: pandas, Polars or Arrow, with or without a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import OHLCV, Candles, Int64s, candles_from
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import as_pandas, check_columns_of, flags_in, floats_in, index_ms, with_times
from candle_fetcher.core.manifests import manifest_of, manifest_that_fits
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS, WEEK_MS, Timeframe, parse_timeframe

Flags = npt.NDArray[np.bool_]
_PRICES = OHLCV[:4]


class Drawn(NamedTuple):
    """The candles of a picture, oldest first, which of them are invented or not finished, and what is known of them.

    `span` is what the picture shows. `timeframe` is None where the rows do not tell it.
    """

    candles: Candles
    is_invented: Flags
    is_open: Flags
    manifest: Mapping[str, Any]
    timeframe: Timeframe | None
    span: Span

    @property
    def label(self) -> str:
        """Symbol, timeframe and provider, as far as they are known."""
        kind = self.manifest.get("kind", "candles")
        parts = [self.manifest.get("symbol"), None if kind == "candles" else kind, self.timeframe]
        parts.append(self.manifest.get("provider"))
        return " · ".join(str(part) for part in parts if part is not None)


def read_frame(given: Any) -> Drawn:
    """Return the candles of a frame: of pandas, Polars or Arrow, or a pair of it and its manifest.

    Raises InputError where it has no times, lacks prices, or has a time twice.
    """
    frame = as_frame(given)
    check_columns_of(frame, _PRICES)
    frame = frame.dropna(how="all", subset=[*_PRICES]) if frame["close"].isna().any() else frame
    opens = index_ms(frame)
    if (np.diff(opens) <= 0).any():
        frame = frame.sort_index()
        opens = index_ms(frame)
        if (np.diff(opens) == 0).any():
            raise InputError("the index of the frame has a time twice; expected each time once")
    manifest = manifest_of(frame) or manifest_that_fits(frame) or {}  # the second one warns
    columns = [floats_in(frame, name) if name in frame else np.full(len(frame), np.nan) for name in OHLCV]
    is_invented, is_open = _flags(frame, "is_synthetic", False), ~_flags(frame, "is_closed", True)
    timeframe = _timeframe(opens, manifest)
    span = _span(opens, manifest, timeframe, int((~is_invented).sum()))
    return Drawn(
        candles_from(("open_time", *OHLCV), [opens, *columns]), is_invented, is_open, manifest, timeframe, span
    )


def as_frame(given: Any) -> pd.DataFrame:
    """Return the frame as a pandas frame with open times as its index. Raises InputError for anything else."""
    frame = as_pandas(given)
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"expected a frame of candles, got {shown(given)}")
    frame = with_times(frame)
    index_ms(frame)  # raises where these are no times
    return frame


def _flags(frame: pd.DataFrame, name: str, otherwise: bool) -> Flags:
    if name not in frame:
        return np.full(len(frame), otherwise)
    return flags_in(frame, name, True, missing=otherwise)


def _timeframe(opens: Int64s, manifest: Mapping[str, Any]) -> Timeframe | None:
    """Return the timeframe by the manifest, else by the most frequent distance of the rows."""
    if "timeframe" in manifest:
        return parse_timeframe(manifest["timeframe"])
    if len(opens) < 2:
        return None
    lengths, counts = np.unique(np.diff(opens), return_counts=True)
    length = int(lengths[np.argmax(counts)])
    if length == WEEK_MS or 28 * DAY_MS <= length <= 31 * DAY_MS:
        return parse_timeframe("1w" if length == WEEK_MS else "1M")
    whole = next(((length // ms, unit) for ms, unit in ((MINUTE_MS, "m"), (1000, "s")) if length % ms == 0), None)
    return None if whole is None or whole[0] > 99_999 else parse_timeframe(f"{whole[0]}{whole[1]}")


def _span(opens: Int64s, manifest: Mapping[str, Any], timeframe: Timeframe | None, real: int) -> Span:
    """Return the range of the manifest while the frame has all its rows, and what the rows cover."""
    ends = [Span(int(opens[0]), int(opens[-1]) + 1)] if len(opens) else []
    if ends and timeframe is not None:
        ends = [Span(int(opens[0]), timeframe.close_ms(int(opens[-1])))]
    if manifest.get("rows") == real and "start" in manifest:
        ends.append(Span.between(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end")))
    return Span(min(one.start_ms for one in ends), max(one.end_ms for one in ends)) if ends else Span(0, 0)
