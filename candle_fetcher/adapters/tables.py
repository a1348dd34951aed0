"""Tables for backtesting.py, freqtrade, prophet and statsforecast. Each keeps the manifest in its `attrs`."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from candle_fetcher.adapters.bars import OHLCV, PRICES, Bars, naive_times, read_bars
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, shown, warn
from candle_fetcher.core.frame import Convertible
from candle_fetcher.core.missing import gaps_between_rows
from candle_fetcher.core.tracebacks import short_errors


@short_errors
def to_backtesting(frame: pd.DataFrame | Convertible, *, zone: str | None = None) -> pd.DataFrame:
    """Return the candles for `Backtest` of backtesting.py: Open, High, Low, Close, Volume, and times without a zone.

    Times are opening times in UTC; `zone` (such as "America/New_York" for stocks) gives those of its clocks. The other
    columns, `is_synthetic` among them, keep their names: a strategy has them as `self.data.is_synthetic`. A candle that
    still forms is left out, with a warning. Raises InputError for a frame without candles' columns, and for unknown
    prices.
    """
    bars = read_bars(frame, "backtesting.py", columns=PRICES)
    for name in PRICES:
        bars.values(name)
    bars.warn_of("kind", "missing")
    made = bars.frame.rename(columns={name: name.capitalize() for name in OHLCV})
    made.index = naive_times(bars.open_ms, zone)
    return made


@short_errors
def to_prophet(frame: pd.DataFrame | Convertible, y: str = "close", *, zone: str | None = None) -> pd.DataFrame:
    """Return the columns `ds` (opening time without a zone: UTC, or that of `zone`) and `y` for prophet's `fit`.

    `y` names the column that is forecast, in a frame of candles or of funding rates. `is_synthetic` is kept where the
    frame has it; prophet leaves out columns that it does not know. Gaps stay gaps. A candle that still forms is left
    out, with a warning. Raises InputError where the frame lacks the column.
    """
    bars = read_bars(frame, "prophet", columns=(_column(y),))
    bars.warn_of("missing")
    return _series(bars, y, zone, ("is_synthetic",))


@short_errors
def to_statsforecast(
    frames: pd.DataFrame | Convertible | Mapping[str, pd.DataFrame | Convertible],
    y: str = "close",
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    zone: str | None = None,
) -> pd.DataFrame:
    """Return the columns `unique_id`, `ds` (opening time without a zone) and `y` for StatsForecast.

    Takes a frame, the symbol of which becomes the `unique_id` (with the kind behind it, unless it is candles), or
    several by name, as `fetch_many` returns them. The models count rows and not times, and take each other column for a
    regressor: so a frame that lacks candles is refused with an InputError, and invented rows are warned of. `symbol`
    and `timeframe` are needed where the frame has no manifest. A candle that still forms is left out, with a warning.
    All frames must be of one timeframe.
    """
    if isinstance(frames, Mapping):
        if symbol is not None:
            raise InputError("symbol is for one frame; the names of several are their keys")
        if not frames:
            raise InputError("there is no frame; statsforecast needs one")
        wrong = next((name for name in frames if not isinstance(name, str) or not name), None)
        if wrong is not None:
            raise InputError(f"a frame has the name {shown(wrong)}; expected a text")
        named = list(frames.items())
    else:
        named = [("", frames)]
    tables: list[pd.DataFrame] = []
    timeframes: dict[str, str] = {}
    for name, frame in named:
        bars = read_bars(
            frame, "statsforecast", columns=(_column(y),), symbol=symbol or name or None, timeframe=timeframe
        )
        _refuse_gaps(bars)
        bars.warn_of("invented")
        timeframes.setdefault(bars.timeframe.name, name)
        if len(timeframes) > 1:
            shows = ", ".join(f"{one} is of {length}" for length, one in timeframes.items())
            raise InputError(f"the timeframes differ: {shows}; statsforecast takes one `freq` for all series")
        made = _series(bars, y, zone)
        made.insert(0, "unique_id", name or bars.symbol + ("" if bars.kind == "candles" else f" {bars.kind}"))
        tables.append(made)
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _column(y: object) -> str:
    """Return the name of the column that is forecast. Raises InputError where it is no text."""
    if not isinstance(y, str):
        raise InputError(f"y {shown(y)} must be the name of a column, such as 'close'")
    return y


def _refuse_gaps(bars: Bars) -> None:
    """Raise InputError where candles are missing between the rows."""
    timeframe = bars.timeframe  # without which gaps of a pair are not seen
    if not bars.manifest and "/" not in bars.symbol:
        empty = int(gaps_between_rows(bars.frame, timeframe)[0]["count"].sum())
        if empty:
            warn(
                CandleFetcherWarning(
                    f"{empty:,} times of {timeframe} between the rows of {bars.symbol} have no candle, and a frame "
                    "without a manifest does not say whether its exchange was closed; statsforecast counts rows"
                )
            )
        return
    count, _ = bars.count_gaps()
    if not count and not bars.is_partial():
        return
    what = f"{count:,} candles between the rows do not exist" if count else "a part of the range could not be fetched"
    raise InputError(
        f"{bars.symbol}: {what}, and statsforecast counts rows of {timeframe}; fetch with on_gap='ffill', or fill a "
        "table of your own with fill_gaps of utilsforecast"
    )


def _series(bars: Bars, y: str, zone: str | None, also: tuple[str, ...] = ()) -> pd.DataFrame:
    made = pd.DataFrame({"ds": naive_times(bars.open_ms, zone), "y": bars.floats(y)})
    for name in also:
        if name in bars.frame:
            made[name] = bars.frame[name].to_numpy()
    made.attrs = dict(bars.frame.attrs)
    return made


@short_errors
def to_freqtrade(frame: pd.DataFrame | Convertible) -> pd.DataFrame:
    """Return the columns `date` (opening time, UTC), open, high, low, close, volume: freqtrade's candles.

    These are the `dataframe` of a strategy, and what `write_freqtrade` writes. A candle that still forms is left out,
    with a warning, and invented rows are warned of: freqtrade has no column for them. Raises InputError for a frame
    that lacks a column, and for unknown prices.
    """
    return freqtrade_table(read_bars(frame, "freqtrade"))


def freqtrade_table(bars: Bars) -> pd.DataFrame:
    """Return the table of `to_freqtrade`."""
    for name in PRICES:
        bars.values(name)
    bars.warn_of("invented", "missing")
    times = pd.DatetimeIndex(bars.open_ms.view("M8[ms]")).tz_localize("UTC")
    made = pd.DataFrame({"date": times, **{name: bars.floats(name) for name in OHLCV}})
    made.attrs = dict(bars.frame.attrs)
    return made
