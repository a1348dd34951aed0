"""Candles as the adapters take them: checked, closed, and with a word on what a tool cannot hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core import zones
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, shown, warn
from candle_fetcher.core.frame import Convertible, as_pandas, flags_in, floats_in, index_ms
from candle_fetcher.core.gap import iso
from candle_fetcher.core.manifests import manifest_of, manifest_that_fits
from candle_fetcher.core.missing import gaps_between_rows, read_missing
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

PRICES = ("open", "high", "low", "close")
OHLCV = (*PRICES, "volume")
# What a frame says of itself beside its values; see `Bars.warn_of`.
FACTS = ("kind", "invented", "missing", "gaps", "adjusted")


@dataclass(frozen=True, slots=True)
class Bars:
    """Closed candles on their way to a tool, and what is known of their series.

    frame: the rows, with all of their columns. manifest: what it says of these rows; {} where it says nothing of them.
    """

    tool: str
    frame: pd.DataFrame
    manifest: Mapping[str, Any]
    given_symbol: str | None
    given_timeframe: Timeframe | None

    @property
    def symbol(self) -> str:
        """The symbol. Raises InputError where neither the call nor the manifest says it."""
        found = self.given_symbol or self.manifest.get("symbol")
        if not isinstance(found, str):
            raise InputError(f"{self.tool} needs the symbol, which this frame does not say; give symbol='BTC/USDT'")
        return found

    @property
    def timeframe(self) -> Timeframe:
        """The timeframe. Raises InputError where neither the call nor the manifest says it."""
        found = self._timeframe()
        if found is None:
            raise InputError(f"{self.tool} needs the timeframe, which this frame does not say; give timeframe='1h'")
        return found

    def _timeframe(self) -> Timeframe | None:
        if self.given_timeframe is not None or "timeframe" not in self.manifest:
            return self.given_timeframe
        return parse_timeframe(self.manifest["timeframe"])

    @property
    def provider(self) -> str:
        """The id of the provider; "" where it is not known."""
        return str(self.manifest.get("provider") or "")

    @property
    def kind(self) -> str:
        """The kind of the rows."""
        return str(self.manifest.get("kind") or "candles")

    @property
    def open_ms(self) -> Int64s:
        """When the candles opened, in Unix ms."""
        return index_ms(self.frame)

    @property
    def close_ms(self) -> Int64s:
        """When the candles are over, in Unix ms; months by the calendar."""
        open_ms, timeframe = self.open_ms, self.timeframe
        if timeframe.step_ms is not None:
            return open_ms + timeframe.step_ms
        return timeframe.opens_ms(timeframe.ordinals(open_ms) + 1)

    def floats(self, name: str) -> Float64s:
        """Return the values of a column; an unknown one is NaN."""
        return floats_in(self.frame, name)

    def values(self, name: str) -> Float64s:
        """Return the values of a column. Raises InputError where one is unknown or infinite."""
        found = self.floats(name)
        is_wrong = ~np.isfinite(found)
        if is_wrong.any():
            at = iso(int(self.open_ms[is_wrong.argmax()]))
            raise InputError(
                f"{int(is_wrong.sum()):,} of {len(found):,} rows have no {name}, the first at {at}; {self.tool} cannot "
                f"hold an unknown value: leave these rows out, or fill them where you know what is right"
            )
        return found

    def pair(self) -> tuple[str, str, str]:
        """Return base, quote and settlement of the symbol; the settlement is "" where it is no perpetual.

        Raises InputError where the symbol is not BASE/QUOTE or BASE/QUOTE:SETTLEMENT.
        """
        base, slash, rest = self.symbol.partition("/")
        quote, colon, settlement = rest.partition(":")
        parts = (base, quote, *([settlement] if colon else []))
        if not slash or not all(re.fullmatch(r"[^\s/:\\.][^\s/:\\]*", part) for part in parts):
            raise InputError(
                f"{self.tool} names a series by BASE/QUOTE, which {shown(self.symbol)} is not; give symbol='BTC/USDT'"
            )
        if not settlement and self.provider in ("binance-um", "binance-cm"):
            settlement = quote if self.provider == "binance-um" else base
        return base, quote, settlement

    def refuse_kind(self, allowed: Collection[str] = ("candles",)) -> None:
        """Raise InputError where the rows are of a kind that the tool would take for trades."""
        if self.kind not in allowed:
            raise InputError(
                f"the rows are {self.kind} prices, at which nothing was traded; {self.tool} takes "
                f"{' or '.join(allowed)} alone"
            )

    def refuse_empty(self) -> None:
        """Raise InputError where there are no candles."""
        if self.frame.empty:
            raise InputError(f"the frame has no closed candle; {self.tool} needs one")

    def warn_of(self, *facts: str) -> None:
        """Warn, once for all, of those facts of the frame that its new form does not hold."""
        said = [text for fact in facts if (text := self._say(fact))]
        if said:
            series = " ".join(str(one) for one in (self.manifest.get("symbol"), self.manifest.get("timeframe")) if one)
            warn(
                CandleFetcherWarning(
                    f"{self.tool} does not learn what this frame{f' of {series}' if series else ''} says: "
                    f"{', and '.join(said)}; take it into account there, or change the frame before"
                )
            )

    def _say(self, fact: str) -> str:
        """Return the fact in words; "" where the frame has nothing of it."""
        if fact == "kind":
            return "" if self.kind == "candles" else f"its rows are {self.kind} prices, at which nothing was traded"
        if fact == "adjusted":
            adjusted = self.manifest.get("adjusted")
            return f"its prices are adjusted ({_brief(self.manifest)})" if adjusted else ""
        if fact == "invented":
            count = int(self.is_invented.sum())
            return f"{count:,} of its rows are invented (is_synthetic)" if count else ""
        if fact == "missing":
            lost = read_missing(self.manifest) if self.manifest.get("missing") else ()
            return f"candles could not be fetched from {iso(lost[0].start_ms)} on (missing)" if lost else ""
        count, is_all = self.count_gaps()
        return f"{'' if is_all else 'at least '}{count:,} candles between its rows do not exist (gaps)" if count else ""

    @property
    def is_invented(self) -> npt.NDArray[np.bool_]:
        """Which rows are invented."""
        return _flags(self.frame, "is_synthetic", otherwise=False)

    def is_partial(self) -> bool:
        """Return whether candles between the rows, or of the whole range, could not be fetched."""
        return bool(self._say("missing"))

    def count_gaps(self) -> tuple[int, bool]:
        """Return how many candles do not exist between the rows, and whether these are all of them.

        Pairs are traded at all times, so that their times tell. For others the manifest does, which lists ten gaps.
        """
        timeframe, symbol = self._timeframe(), str(self.given_symbol or self.manifest.get("symbol"))
        if timeframe is not None and "/" in symbol:
            found, _ = gaps_between_rows(self.frame, timeframe)
            return int(found["count"].sum()), True
        gaps = self.manifest.get("gaps") or ()
        return sum(one["count"] for one in gaps), self.manifest.get("gap_count", 0) == len(gaps)


def read_bars(
    frame: pd.DataFrame | Convertible,
    tool: str,
    *,
    columns: Sequence[str] = OHLCV,
    symbol: str | None = None,
    timeframe: str | None = None,
) -> Bars:
    """Return the closed candles of a frame, or a table of Polars or Arrow, for that tool. Where one still forms, it is
    left out, with a warning.

    Raises InputError where the frame lacks times or one of the columns, where its times do not increase, and for a
    symbol or timeframe that is none.
    """
    if symbol is not None and not (isinstance(symbol, str) and symbol.strip()):
        raise InputError(f"symbol {shown(symbol)} must be a text such as 'BTC/USDT'")
    parsed = None if timeframe is None else parse_timeframe(timeframe)
    given: Any = as_pandas(frame)
    open_ms = index_ms(given)
    frame = cast(pd.DataFrame, given)
    lacking = [name for name in columns if name not in frame]
    if lacking:
        raise InputError(f"{tool} needs the columns {', '.join(columns)}; this frame lacks {', '.join(lacking)}")
    if (np.diff(open_ms) <= 0).any():
        raise InputError(f"the times of the frame do not increase; {tool} needs each candle once, in order of time")
    for name in columns:
        floats_in(frame, name)
    manifest = manifest_of(frame) or manifest_that_fits(frame) or {}  # the second one warns
    if parsed is not None:
        _check_timeframe(parsed, open_ms, manifest)
    is_closed = _flags(frame, "is_closed", otherwise=True)
    if not is_closed.all():
        first = iso(int(open_ms[(~is_closed).argmax()]))
        warn(
            CandleFetcherWarning(
                f"the candle of {first} still forms and is left out: {tool} would take it for a closed one; fetch "
                "without include_open, or take it from the frame"
            )
        )
        frame = frame[is_closed]
    return Bars(tool, frame, manifest, symbol and symbol.strip(), parsed)


def _check_timeframe(given: Timeframe, open_ms: Int64s, manifest: Mapping[str, Any]) -> None:
    """Raise InputError where the rows are not of that timeframe."""
    known = manifest.get("timeframe")
    if known is not None and parse_timeframe(known) != given:
        raise InputError(f"timeframe '{given}' contradicts the manifest of the frame, which says {known}; leave it out")
    if (np.diff(given.ordinals(open_ms)) == 0).any():
        raise InputError(f"timeframe '{given}' contradicts the frame, which has several rows in one {given}")


def naive_times(ms: Int64s, zone: str | None) -> pd.DatetimeIndex:
    """Return the instants as an index without a zone: in UTC, or as the clocks of that zone show them.

    Raises InputError where these show a time twice, as at the end of summer time.
    """
    local_ms = ms if zone is None else zones.zone(zone).to_local(ms)
    if (np.diff(local_ms) <= 0).any():
        raise InputError(f"the clocks of {zone} show some of these times twice; leave zone out for UTC")
    return pd.DatetimeIndex((local_ms * 1_000_000).view("M8[ns]"), name="timestamp")


def _flags(frame: pd.DataFrame, name: str, *, otherwise: bool) -> npt.NDArray[np.bool_]:
    """Return a column of flags; `otherwise` for each row where the frame has no such column."""
    if name not in frame:
        return np.full(len(frame), otherwise)
    return flags_in(frame, name, True)


def _brief(manifest: Mapping[str, Any]) -> str:
    """Return how and as of when the prices of a manifest are adjusted, in a few words."""
    facts = {**(manifest.get("settings") or {}), "as_of": manifest["adjusted"].get("as_of")}
    return ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None and name != "actions")
