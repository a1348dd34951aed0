"""Combines the frames of several series into one, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.arguments import is_several
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.manifests import manifest_of, manifest_that_fits
from candle_fetcher.core.tracebacks import short_errors


@short_errors
def combine(frames: Mapping[str, pd.DataFrame] | Iterable[pd.DataFrame], column: str | None = None) -> pd.DataFrame:
    """Return the frames side by side: one row for each time at which any of them has a candle, oldest first.

    frames: a mapping by name, as `fetch_many` returns it; or several frames, which are then named by the symbol in
    their manifest, or `provider:symbol` where the providers differ.
    column: a column of candles, such as "close"; the result then has one column for each series. Without it, the
    columns are pairs (series, column).

    Values are NaN (NA, NaT) where a series has no candle. Nothing is filled in, and types stay, except that bool and
    integer columns become the pandas types that allow missing values. A candle off the grid keeps its own time, and so
    has its own row. Times are UTC. `attrs["candle_fetcher"]` holds the manifests by name, as `manifest_of` returns
    them. One that no longer fits its frame is left out with a warning: pandas copies it to derived frames.

        >>> frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1d", "2024-03-01", "2024-03-03")
        >>> combine(frames, "close").shape
        (2, 2)
        >>> combine(frames)["ETH/USDT"].columns.tolist()
        ['open', 'high', 'low', 'close', 'volume']

    Raises InputError for no frames, missing or equal names, different timeframes, a frame without that column, or an
    index that does not consist of unique times.
    """
    named = dict(frames) if isinstance(frames, Mapping) else _named(frames)
    if not named:
        raise InputError("frames is empty; expected at least one frame")
    parts = {name: _part(name, frame, column) for name, frame in named.items()}
    manifests = {name: found for name, frame in named.items() if (found := _true_manifest(frame)) is not None}
    _check_timeframes(manifests)
    times = np.unique(np.concatenate([pd.DatetimeIndex(part.index).asi8 for part in parts.values()]))
    index = pd.DatetimeIndex(times.view("M8[ns]"), name="timestamp").tz_localize("UTC")
    spread = {name: _spread(part, index) for name, part in parts.items()}
    made = pd.concat(spread, axis=1, names=["series", "column"])
    if column is not None:
        made.columns = pd.Index(list(spread), name="series")
    made.attrs = {MANIFEST: manifests}
    return made


def _true_manifest(frame: pd.DataFrame) -> Mapping[str, Any] | None:
    """Return what the manifest of a frame says that is true of it; warn where it is of another frame."""
    found = manifest_that_fits(frame)
    return None if found is None else manifest_of(frame) or found


def _named(frames: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the frames by the names in their manifests."""
    if isinstance(frames, pd.DataFrame):
        raise InputError("frames is one frame; expected several, such as [one, other] or {name: frame}")
    if not is_several(frames):
        raise InputError(f"frames is {shown(frames)}; expected several, such as [one, other] or {{name: frame}}")
    several = list(frames)
    facts_of = []
    for place, frame in enumerate(several, 1):
        facts = manifest_that_fits(frame) if isinstance(frame, pd.DataFrame) else None
        if facts is None or not all(isinstance(facts.get(name), str) for name in ("symbol", "provider")):
            raise InputError(f"frame {place} does not name its series; expected {{name: frame}} for such frames")
        facts_of.append(facts)
    is_mixed = len({facts["provider"] for facts in facts_of}) > 1
    named: dict[str, pd.DataFrame] = {}
    for frame, facts in zip(several, facts_of, strict=True):
        name = f"{facts['provider']}:{facts['symbol']}" if is_mixed else str(facts["symbol"])
        if name in named:
            raise InputError(f"two frames are of {name}; expected {{name: frame}}, with a different name for each")
        named[name] = frame
    return named


def _check_timeframes(manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError where the manifests have different timeframes."""
    found = {name: manifest.get("timeframe") for name, manifest in manifests.items()}
    known = {name: timeframe for name, timeframe in found.items() if timeframe is not None}
    if len(set(known.values())) > 1:
        firsts = {timeframe: name for name, timeframe in reversed(known.items())}
        shows = ", ".join(f"{name} is of {timeframe}" for timeframe, name in reversed(firsts.items()))
        raise InputError(f"the timeframes differ: {shows}; expected the same for all frames")


def _part(name: object, frame: object, column: str | None) -> pd.DataFrame:
    """Return the frame, or the chosen column of it, with its index in UTC nanoseconds."""
    if not isinstance(name, str):
        raise InputError(f"a frame has the name {shown(name)}; expected a text")
    if not isinstance(frame, pd.DataFrame) or not isinstance(frame.index, pd.DatetimeIndex):
        raise InputError(f"{name} must be a frame with times as its index; got {type(frame).__name__}")
    if not frame.index.is_unique or frame.index.hasnans:
        raise InputError(f"the index of {name} has a time twice, or a missing one; expected each time once")
    if column is not None and (not isinstance(column, str) or column not in frame.columns):
        raise InputError(f"{name} has no column {shown(column)}; it has {', '.join(map(str, frame.columns))}")
    part = frame if column is None else frame[[column]]
    index = frame.index.tz_localize("UTC") if frame.index.tz is None else frame.index.tz_convert("UTC")
    return part.set_axis(index.as_unit("ns"))


def _spread(part: pd.DataFrame, index: pd.DatetimeIndex) -> pd.DataFrame:
    """Return the frame with the rows of the index."""
    if len(part) < len(index):
        plain = {"b": "boolean", "i": "Int64", "u": "UInt64"}
        kinds = {name: getattr(kind, "kind", "") for name, kind in part.dtypes.items() if isinstance(kind, np.dtype)}
        part = part.astype({name: plain[kind] for name, kind in kinds.items() if kind in plain})
    return part.reindex(index)
