"""Objects of backtrader and nautilus. Both act at the times of bars, so these are closing times.

backtrader puts a bar that is stamped 00:00 on the day that begins then, so that its stamps lie a millisecond before the
close. With them it delivers bars of several timeframes when each is complete, and makes coarser ones as we do.
"""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.adapters.bars import OHLCV, PRICES, Bars, Float64s, naive_times, read_bars
from candle_fetcher.core.errors import InputError, MissingExtra
from candle_fetcher.core.frame import Convertible
from candle_fetcher.core.tracebacks import short_errors

_BACKTRADER_UNITS = {
    "s": ("Seconds", 1), "m": ("Minutes", 1), "h": ("Minutes", 60), "d": ("Days", 1), "w": ("Weeks", 1),
    "M": ("Months", 1),
}  # fmt: skip
_NAUTILUS_UNITS = {"s": "SECOND", "m": "MINUTE", "h": "HOUR", "d": "DAY", "w": "WEEK", "M": "MONTH"}
_NAUTILUS_PRICES = {"candles": "LAST", "mark": "MARK"}
_NAUTILUS_VENUES = {"binance-um": "BINANCE", "binance-cm": "BINANCE", "binance-us": "BINANCE_US"}
_MOST_PLACES = 16  # of nautilus' numbers
_USUAL_PLACES = 8  # values with more are looked at one by one


@short_errors
def to_backtrader(frame: pd.DataFrame | Convertible, *, timeframe: str | None = None, zone: str | None = None) -> Any:
    """Return a data feed for `cerebro.adddata`: a `PandasData` with the timeframe, and the symbol as its name.

    Each bar is stamped one millisecond before its close, in UTC or by the clocks of `zone`, since backtrader hands a
    bar to the strategy at its time. Invented rows have 1 in the line `is_synthetic`. A candle that still forms is left
    out, with a warning. Raises InputError for unknown values, and without a timeframe; MissingExtra without backtrader.
    """
    bars = read_bars(frame, "backtrader", timeframe=timeframe)
    unit, count = _BACKTRADER_UNITS[bars.timeframe.unit]
    feed, frames = _backtrader_feed()
    bars.warn_of("kind", "missing")
    made = pd.DataFrame({name: bars.values(name) for name in OHLCV}, index=naive_times(bars.close_ms - 1, zone))
    made["is_synthetic"] = bars.is_invented.astype(np.float64)
    made.attrs = dict(bars.frame.attrs)
    return feed(
        dataname=made,
        name=bars.manifest.get("symbol"),
        timeframe=getattr(frames, unit),
        compression=count * bars.timeframe.count,
    )


@functools.lru_cache(maxsize=1)
def _backtrader_feed() -> tuple[Any, Any]:
    """Return the class of our feeds, and backtrader's timeframes."""
    try:
        import backtrader
    except ImportError:
        raise MissingExtra("backtrader", "to_backtrader", is_package=True) from None

    class CandleFeed(backtrader.feeds.PandasData):  # type: ignore[misc, unused-ignore]
        """Candles of a frame, and whether each is invented."""

        lines = ("is_synthetic",)
        params = (("is_synthetic", -1),)

    return CandleFeed, backtrader.TimeFrame


@short_errors
def to_nautilus(
    frame: pd.DataFrame | Convertible,
    instrument: Any = None,
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
) -> list[Any]:
    """Return the candles as a list of nautilus_trader's `Bar`, stamped (`ts_event`, `ts_init`) with their closing time.

    `instrument` is the Instrument that is traded, and gives the bars its precision, or the text of an id such as
    "BTCUSDT.BINANCE". Without it, the id is made of symbol and provider, such as "BTCUSDT-PERP.BINANCE"; without an
    Instrument, the precision is the smallest that holds each value. Mark prices become bars of the price type MARK. A
    candle that still forms is left out, with a warning; invented rows, gaps and what is missing are warned of. Raises
    InputError for other kinds, unknown values, a timeframe that nautilus does not have, and for values with more
    decimals than the instrument; MissingExtra without nautilus_trader.
    """
    bars = read_bars(frame, "nautilus", symbol=symbol, timeframe=timeframe)
    try:
        from nautilus_trader.model.data import Bar, BarType
    except ImportError:
        raise MissingExtra("nautilus_trader", "to_nautilus", is_package=True) from None
    bars.refuse_kind(_NAUTILUS_PRICES)
    name = _nautilus_id(bars) if instrument is None else str(getattr(instrument, "id", instrument))
    series = f"{bars.timeframe.count}-{_NAUTILUS_UNITS[bars.timeframe.unit]}-{_NAUTILUS_PRICES[bars.kind]}"
    values = {column: bars.values(column) for column in OHLCV}
    places = [
        _places(bars, columns, values, getattr(instrument, f"{what}_precision", None), what)
        for what, columns in (("price", PRICES), ("size", ("volume",)))
    ]
    closes_ns = (bars.close_ms * 1_000_000).astype(np.uint64)
    try:
        bar_type = BarType.from_str(f"{name}-{series}-EXTERNAL")
        # nautilus asks for arrays that may be written to.
        arrays = [values[column].astype(np.float64, copy=True) for column in OHLCV]
        made: list[Any] = Bar.from_raw_arrays_to_list(bar_type, *places, *arrays, closes_ns, closes_ns)
    except (ValueError, OverflowError) as error:
        raise InputError(f"nautilus takes no bars {name}-{series}: {error}") from None
    bars.warn_of("invented", "missing", "gaps", "adjusted")
    return made


def _nautilus_id(bars: Bars) -> str:
    """Return the id of the instrument as nautilus' adapters write it."""
    if not bars.provider:
        raise InputError('nautilus needs the instrument, which this frame does not say; give "BTCUSDT.BINANCE"')
    venue = _NAUTILUS_VENUES.get(bars.provider, bars.provider.upper())
    if bars.provider not in ("binance", *_NAUTILUS_VENUES) or "/" not in bars.symbol:
        return f"{bars.symbol}.{venue}"
    base, quote, settlement = bars.pair()
    return f"{base}{quote}{'-PERP' if settlement else ''}.{venue}"


def _places(bars: Bars, columns: tuple[str, ...], values: dict[str, Float64s], given: Any, what: str) -> int:
    """Return the number of decimals of the columns: that of the instrument, or the smallest that holds each value.

    Raises InputError where a value has more of them, which nautilus would round away.
    """
    most = max(_decimals(values[column]) for column in columns)
    if given is not None and most > given:
        raise InputError(
            f"{' '.join(columns)} have up to {most} decimals, and the {what}_precision of the instrument is {given}: "
            f"nautilus would round them; choose another instrument, or round the frame, as in frame.round({given})"
        )
    if most > _MOST_PLACES:
        raise InputError(
            f"{' '.join(columns)} have more than {_MOST_PLACES} decimals, which nautilus does not have; round the frame"
        )
    return most if given is None else int(given)


def _decimals(values: Float64s) -> int:
    """Return the smallest number of decimals with which each value reads back."""
    left = values
    for places in range(_USUAL_PLACES + 1):
        left = left[np.round(left, places) != left]
        if not left.size:
            return places
    return max(-int(Decimal(repr(value)).as_tuple().exponent) for value in left.tolist())
