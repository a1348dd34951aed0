"""Files for Lean, the engine of QuantConnect, in the layout of its data folder.

    crypto/binance/hour/btcusdt_trade.zip                  btcusdt.csv                        20240101 00:00,42283.58,…
    crypto/binance/minute/btcusdt/20240101_trade.zip       20240101_btcusdt_minute_trade.csv  0,42283.58,…
    cryptofuture/binance/daily/btcusdt_trade.zip           btcusdt_trade_perp.csv             20240101 00:00,…
    equity/usa/daily/aapl.zip                              aapl.csv                           20240102 00:00,1853600,…

Source: QuantConnect/Lean, Common/Util/LeanData.cs (`GenerateZipFilePath`, `GenerateZipEntryName`, `GenerateLine`) and
Data/{crypto,equity}/readme.md, August 2026. Times are those of the data's zone, UTC for crypto and New York for stocks;
prices of stocks are in ten-thousandths of a dollar. Its reader knows no exponent and no missing value.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.adapters.bars import OHLCV, PRICES, Bars, Float64s, Int64s, read_bars
from candle_fetcher.adapters.folders import file_part, find_folder, write_whole_file
from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, shown, warn
from candle_fetcher.core.frame import Convertible
from candle_fetcher.core.text.formatting import format_fields
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.zones import NEW_YORK, zone

_RESOLUTIONS = {"1s": "second", "1m": "minute", "1h": "hour", "1d": "daily"}
_MARKETS = {
    "binance": "binance", "binance-um": "binance", "binance-cm": "binance", "binance-us": "binanceus",
    "kraken": "kraken", "alpaca": "usa", "tradestation": "usa", "alphavantage": "usa",
}  # fmt: skip
_SCALE = 10_000  # of the prices of stocks
_EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)  # equal candles make equal files
_MARKET = re.compile(r"[a-z0-9]+")
_BY_DAY = re.compile(r"(\d{8})_trade\.zip")
_STOCK = re.compile(r"[A-Za-z][A-Za-z0-9.]*")


class LeanSeries(NamedTuple):
    """A series as Lean names it. security: equity, crypto or cryptofuture. ticker: in small letters."""

    security: str
    market: str
    resolution: str
    ticker: str

    @property
    def is_by_day(self) -> bool:
        """Whether each day has a file of its own."""
        return self.resolution in ("second", "minute")

    def path(self, day: str) -> Path:
        """Return the path of the file below the data folder; `day` as 20240101, "" where a file has all days."""
        name = f"{self.ticker}.zip" if self.security == "equity" else f"{self.ticker}_trade.zip"
        folder = Path(self.security, self.market, self.resolution)
        return folder / self.ticker / f"{day}_trade.zip" if self.is_by_day else folder / name

    def entry(self, day: str) -> str:
        """Return the name of the CSV in the file."""
        end = "_perp" if self.security == "cryptofuture" else ""
        if self.is_by_day:
            return f"{day}_{self.ticker}_{self.resolution}_trade{end}.csv"
        return f"{self.ticker}{f'_trade{end}' if end else ''}.csv"


@short_errors
def to_lean(
    frame: pd.DataFrame | Convertible,
    folder: str | os.PathLike[str],
    *,
    market: str | None = None,
    symbol: str | None = None,
    timeframe: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write candles of 1s, 1m, 1h or 1d as trade bars of Lean, and return the paths of the files, in order of time.

    `folder` is Lean's data folder. A pair goes to `crypto`, a perpetual to `cryptofuture`, another symbol to `equity`.
    `market` is Lean's name of the market, such as "coinbase"; by default it is made of the provider. 1s and 1m have a
    file for each day, 1h and 1d one for all. A file that is there is replaced as a whole: where it has rows outside of
    the frame, only with `overwrite=True`. A candle that still forms is left out, with a warning; invented rows, gaps
    (which Lean fills unless `fill_forward` is off), what is missing and adjusted prices are warned of. Raises
    InputError for other timeframes and kinds, for unknown values, and for a symbol or a market that Lean does not have;
    OSError.
    """
    read_flag("overwrite", overwrite)
    where = find_folder(folder)
    bars = read_bars(frame, "Lean", symbol=symbol, timeframe=timeframe)
    bars.refuse_empty()
    bars.refuse_kind()
    series = _lean_series(bars, market)
    columns = [bars.values(name) for name in OHLCV]
    if series.security == "equity":
        columns = [_scaled(column) if name in PRICES else column for name, column in zip(OHLCV, columns, strict=True)]
        local_ms = zone(NEW_YORK).to_local(bars.open_ms)
    else:
        local_ms = bars.open_ms
    if series.resolution == "daily" and (local_ms % DAY_MS).any():
        raise InputError("Lean has days from midnight to midnight, and candles of the frame open at other times")
    if (np.diff(local_ms) <= 0).any():
        raise InputError("Lean has times of New York for stocks, which show some times of the frame twice")
    _warn_of_seconds(series, local_ms)
    bars.warn_of("invented", "missing", "gaps", "adjusted")
    written = []
    for day, rows in _parts(series, local_ms):
        times = local_ms[rows]
        lines = _lines(series, times, [column[rows] for column in columns])
        target = where / series.path(day)
        content = _zipped(series.entry(day), lines)
        written.append(write_whole_file(target, content, times, _read_ends, overwrite=overwrite))
    return written


def _warn_of_seconds(series: LeanSeries, local_ms: Int64s) -> None:
    """Warn of hours that open between minutes, as after some outages: Lean's files of hours have no seconds."""
    count = int((local_ms % MINUTE_MS != 0).sum())
    if count and not series.is_by_day:
        warn(
            CandleFetcherWarning(
                f"{count:,} of the candles open between minutes, and Lean's files of hours have minutes: they get "
                "the one that they open in; leave them out where that matters"
            )
        )


def _lean_series(bars: Bars, market: str | None) -> LeanSeries:
    if bars.timeframe.name not in _RESOLUTIONS:
        raise InputError(f"Lean has no candles of {bars.timeframe}; expected one of {', '.join(_RESOLUTIONS)}")
    market = _MARKETS.get(bars.provider) if market is None else market
    if not isinstance(market, str) or not _MARKET.fullmatch(market):
        raise InputError(
            f"Lean's market {shown(market)} of {bars.provider or 'the frame'} is not known; give market='binance', as "
            "its folder is called"
        )
    resolution = _RESOLUTIONS[bars.timeframe.name]
    if "/" in bars.symbol:
        base, quote, settlement = bars.pair()
        security, ticker = "cryptofuture" if settlement else "crypto", f"{base}{quote}"
        if market == "usa":
            raise InputError(f"Lean's market usa has stocks, and {bars.symbol} is a pair; give another market")
    elif market == "usa" and _STOCK.fullmatch(bars.symbol):
        security, ticker = "equity", bars.symbol
    else:
        raise InputError(
            f"Lean has stocks of the market usa and pairs of others; {shown(bars.symbol)} of the market {market} is "
            "neither: give symbol='BTC/USDT' for a pair"
        )
    return LeanSeries(security, market, resolution, file_part(ticker.lower()))


def _parts(series: LeanSeries, local_ms: Int64s) -> Iterator[tuple[str, slice]]:
    """Yield the day and the rows of each file, in order of time; one file of all rows has no day."""
    if not series.is_by_day:
        yield "", slice(0, len(local_ms))
        return
    days = local_ms // DAY_MS
    firsts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1)).tolist()
    for first, stop in zip(firsts, [*firsts[1:], len(days)], strict=True):
        yield str(np.datetime64(int(days[first]), "D")).replace("-", ""), slice(first, stop)


def _lines(series: LeanSeries, local_ms: Int64s, columns: list[Float64s]) -> bytes:
    if series.is_by_day:
        return format_fields([local_ms % DAY_MS, *columns])
    iso = np.datetime_as_string(local_ms.view("M8[ms]"), unit="m")  # 2024-01-01T00:00
    times = np.char.replace(np.char.replace(iso, "-", ""), "T", " ")
    rows = format_fields(columns).decode("ascii").splitlines()
    return "".join(f"{time},{row}\n" for time, row in zip(times.tolist(), rows, strict=True)).encode("ascii")


def _scaled(prices: Float64s) -> Float64s:
    """Return the prices in ten-thousandths: the decimal digits of each, and not those of a product of floats."""
    scaled: Float64s = np.rint(prices * _SCALE)
    rest = np.flatnonzero(scaled / _SCALE != prices)
    scaled[rest] = [float(Decimal(repr(price)) * _SCALE) for price in prices[rest].tolist()]
    return scaled


def _zipped(entry: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(zipfile.ZipInfo(entry, _EPOCH_OF_ZIP), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _read_ends(path: Path) -> tuple[int, int]:
    """Return the first and last local time of a file that is there, in ms."""
    with zipfile.ZipFile(path) as found:
        lines = found.read(found.namelist()[0]).decode("ascii").splitlines()
    first, last = (line.partition(",")[0] for line in (lines[0], lines[-1]))
    day = _BY_DAY.fullmatch(path.name)
    if day is None:
        return _clock_ms(first), _clock_ms(last)
    midnight_ms = _clock_ms(f"{day[1]} 00:00")
    return midnight_ms + int(first), midnight_ms + int(last)


def _clock_ms(text: str) -> int:
    """Return a time such as `20240101 00:00` in ms."""
    date, clock = text.split(" ")
    iso = f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock}"
    return int(np.datetime64(iso, "ms").astype(np.int64))
