"""Combines the frames of several series into one, side by side."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.core.arguments import is_several
from candle_fetcher.core.candles import Int64s
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import MANIFEST, Convertible, Manifest, as_pandas, index_ms
from candle_fetcher.core.manifests import manifest_that_fits, true_manifest
from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.types import ALIGNMENTS, JOIN_POLICIES, Alignment, JoinPolicy
from candle_fetcher.frames.market import check_word, find_market, to_local


@short_errors
def combine(
    frames: Mapping[str, pd.DataFrame | Convertible] | Iterable[pd.DataFrame | Convertible],
    column: str | None = None,
    *,
    align: Alignment | None = None,
    how: JoinPolicy = "outer",
) -> pd.DataFrame:
    """Return the frames side by side: one row for each time at which any of them has a candle, oldest first.

    frames: a mapping by name, as `fetch_many` returns it; or several frames, which are then named by the symbol in
    their manifest, or `provider:symbol` where the providers differ. Of pandas, or tables of Polars or Arrow.
    column: a column of candles, such as "close"; the result then has one column for each series. Without it, the
    columns are pairs (series, column).
    align: "time", the default, joins candles of the same open time, in UTC. "date" joins days, weeks and months by
    their date: of a stock the date in the zone of its exchange, of a coin the date in UTC. The index `date` then has
    dates without a zone, since days of different markets do not begin at the same instant.
    how: "outer" has each row of each frame, "inner" only rows that all frames have, "left" those of the first frame.

    Values are NaN (NA, NaT) where a series has no candle. Nothing is filled in, and types stay, except that bool and
    integer columns become the pandas types that allow missing values. A candle off the grid keeps its own time, and so
    has its own row. Times are UTC. `attrs["candle_fetcher"]` holds the manifests by name, as `manifest_of` returns
    them. One that no longer fits its frame is left out with a warning: pandas copies it to derived frames. By date, or
    with another `how`, each has `aligned`: by what, in which zone, and how many rows of the frame were left out.

        >>> frames = fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1d", "2024-03-01", "2024-03-03")
        >>> combine(frames, "close").shape
        (2, 2)
        >>> combine(frames)["ETH/USDT"].columns.tolist()
        ['open', 'high', 'low', 'close', 'volume']

    Raises InputError for no frames, missing or equal names, different timeframes, a frame without that column, an index
    that does not consist of unique times, and for dates of frames finer than days or without a known zone.
    """
    if align is not None:
        check_word("align", align, ALIGNMENTS)
    check_word("how", how, JOIN_POLICIES)
    named = _read_mapping(frames) if isinstance(frames, Mapping) else _named(frames)
    if not named:
        raise InputError("frames is empty; expected at least one frame")
    parts = {name: _part(name, frame, column) for name, frame in named.items()}
    manifests: dict[str, Mapping[str, Any]] = {
        name: found for name, frame in named.items() if (found := true_manifest(frame)) is not None
    }
    _check_timeframes(manifests)
    zones: dict[str, str] = {}
    if align == "date":
        for name, frame in named.items():
            dates, zones[name] = find_dates(name, frame, manifests.get(name))
            parts[name] = parts[name].set_axis(dates)
    stamps = _choose([pd.DatetimeIndex(part.index).asi8 for part in parts.values()], how)
    index = pd.DatetimeIndex(stamps.view("M8[ns]"), name="date" if align == "date" else "timestamp")
    index = index if align == "date" else index.tz_localize("UTC")
    spread = {name: _spread(part, index) for name, part in parts.items()}
    made = pd.concat(spread, axis=1, names=["series", "column"])
    if column is not None:
        made.columns = pd.Index(list(spread), name="series")
    if align == "date" or how != "outer":
        by = align or "time"
        manifests = {
            name: _describe(found, by, zones.get(name), how, parts[name].index.difference(index).size)
            for name, found in manifests.items()
        }
    made.attrs = {MANIFEST: manifests}
    return made


def _choose(stamps: list[Int64s], how: str) -> Int64s:
    """Return the times of the rows, given those of each frame."""
    if how == "left":
        return np.sort(stamps[0])
    if how == "inner":
        return functools.reduce(np.intersect1d, stamps)
    found = np.sort(np.concatenate(stamps), kind="stable")  # of sorted runs: quicker than np.unique
    distinct: Int64s = found[np.diff(found, prepend=found[:1] - 1) != 0]
    return distinct


def _describe(manifest: Mapping[str, Any], by: str, zone: str | None, how: str, left_out: int) -> dict[str, Any]:
    """Return the manifest of a frame with what was done to join it with others."""
    aligned = {"by": by, **({} if zone is None else {"zone": zone}), "how": how, "left_out": left_out}
    return Manifest({**manifest, "aligned": aligned})


def find_dates(name: str, frame: pd.DataFrame, manifest: Mapping[str, Any] | None) -> tuple[pd.DatetimeIndex, str]:
    """Return the date of each candle, without a zone, and the zone in which it is one.

    It is that of the provider, by the manifest; without one, that of the frame's own index, where each time is a
    midnight of it. Raises InputError where the frame is finer than days, or has no zone in which its times are dates.
    """
    timeframe = None if manifest is None or "timeframe" not in manifest else parse_timeframe(manifest["timeframe"])
    if timeframe is not None and timeframe.unit not in "dwM":
        raise InputError(
            f"{name} is of {timeframe}; expected days or longer to be joined by date: resample(frame, '1d')"
        )
    open_ms, zone = index_ms(frame), "UTC"
    market = None if timeframe is None else find_market(manifest)
    if market is not None:
        zone = market.zone_name or "UTC"
        local_ms = to_local(open_ms, market.zone_name)
    else:
        index = pd.DatetimeIndex(frame.index)
        local_ms = index_ms(frame.set_axis(index.tz_localize(None)))
        zone = zone if index.tz is None else str(index.tz)
        if (local_ms % DAY_MS).any():
            first = index[int(np.argmax(local_ms % DAY_MS != 0))]
            raise InputError(
                f"{name} has {first}, which is no midnight, and no manifest says in which zone it is a date; expected "
                "days in the zone of their market, such as frame.tz_convert('America/New_York')"
            )
    dates = pd.DatetimeIndex((local_ms // DAY_MS * DAY_MS).astype("M8[ms]").astype("M8[ns]"))
    if not dates.is_unique:
        raise InputError(f"{name} has two candles on {dates[dates.duplicated()][0].date()}; expected one for each date")
    return dates, zone


def _read_mapping(frames: Mapping[str, pd.DataFrame | Convertible]) -> dict[str, pd.DataFrame]:
    return {name: as_pandas(frame) for name, frame in frames.items()}


def _named(frames: Iterable[pd.DataFrame | Convertible]) -> dict[str, pd.DataFrame]:
    """Return the frames by the names in their manifests."""
    if isinstance(frames, pd.DataFrame):
        raise InputError("frames is one frame; expected several, such as [one, other] or {name: frame}")
    if not is_several(frames):
        raise InputError(f"frames is {shown(frames)}; expected several, such as [one, other] or {{name: frame}}")
    several = [as_pandas(frame) for frame in frames]
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
    if frame.columns.nlevels > 1 or not frame.columns.is_unique:
        raise InputError(f"{name} has a column twice, or columns of several levels; expected each column once")
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
