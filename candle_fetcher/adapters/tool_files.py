"""Files for freqtrade and zipline, where these look for them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.adapters.bars import OHLCV, PRICES, Bars, Float64s, Int64s, read_bars
from candle_fetcher.adapters.folders import file_part, find_folder, write_whole_file
from candle_fetcher.adapters.tables import freqtrade_table
from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.errors import CandleFetcherWarning, InputError, warn
from candle_fetcher.core.frame import MANIFEST, Convertible
from candle_fetcher.core.text.formatting import format_fields
from candle_fetcher.core.timeframe import DAY_MS, MINUTE_MS
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.zones import NEW_YORK, zone
from candle_fetcher.files.columnar import need_pyarrow

# Of mark and index prices and premiums, which freqtrade has for futures alone.
_FREQTRADE_KINDS = {"candles": "", "mark": "mark", "index": "index", "premium": "premiumIndex"}
_IN_PAIRS = str.maketrans(dict.fromkeys("/ .@$+:", "_"))
_ZIPLINE = {"1m": "minute", "1d": "daily"}
# zipline stores prices as uint32 thousandths, and volumes as uint32.
_THOUSANDTHS = 1000.0
_MOST = 2**32 - 1
_MOST_ROUNDED = 1e-3  # part of a price


@short_errors
def write_freqtrade(
    frame: pd.DataFrame | Convertible,
    folder: str | os.PathLike[str],
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the candles as freqtrade's feather file, and return its path. The manifest is in the file's metadata.

    `folder` is freqtrade's `datadir`, such as `user_data/data/binance`; it gets `BTC_USDT-1h.feather`, and of futures
    `futures/BTC_USDT_USDT-1h-futures.feather` (`-mark`, `-index`, `-premiumIndex` of other kinds). A file that is there
    is replaced as a whole: where it has rows outside of the frame, only with `overwrite=True`. A candle that still
    forms is left out, with a warning; invented rows and what is missing are warned of. freqtrade fills gaps itself when
    it reads. Raises InputError for a frame without a candle, without symbol or timeframe, and for other kinds of spot
    pairs; MissingExtra without pyarrow; OSError.
    """
    read_flag("overwrite", overwrite)
    where = find_folder(folder)
    bars = read_bars(frame, "freqtrade", symbol=symbol, timeframe=timeframe)
    need_pyarrow("write_freqtrade")
    bars.refuse_empty()
    base, quote, settlement = bars.pair()
    if bars.kind not in _FREQTRADE_KINDS or (bars.kind != "candles" and not settlement):
        raise InputError(f"freqtrade has no {bars.kind} of {bars.symbol}; expected candles, or a perpetual")
    pair = f"{base}/{quote}:{settlement}" if settlement else f"{base}/{quote}"
    name = f"{file_part(pair.translate(_IN_PAIRS))}-{bars.timeframe.name.replace('M', 'Mo')}"
    if settlement:
        where, name = where / "futures", f"{name}-{_FREQTRADE_KINDS[bars.kind] or 'futures'}"
    table = freqtrade_table(bars)
    target = where / f"{name}.feather"
    return write_whole_file(target, _feather(table, bars.manifest), bars.open_ms, _feather_ends, overwrite=overwrite)


def _feather(table: pd.DataFrame, manifest: Mapping[str, Any]) -> bytes:
    """Return the file, packed as freqtrade packs it, with the manifest in the metadata of its schema."""
    import pyarrow as pa
    from pyarrow import feather

    table.attrs = {}
    made = pa.Table.from_pandas(table, preserve_index=False)
    if manifest:
        text = json.dumps(dict(manifest), ensure_ascii=False, allow_nan=False).encode()
        made = made.replace_schema_metadata({**(made.schema.metadata or {}), MANIFEST.encode(): text})
    file = io.BytesIO()
    feather.write_feather(made, file, compression="lz4", compression_level=9)
    return file.getvalue()


def _feather_ends(path: Path) -> tuple[int, int]:
    from pyarrow import feather

    times = feather.read_table(path, columns=["date"])["date"].to_numpy().astype("M8[ms]").astype(np.int64)
    return int(times.min()), int(times.max())


@short_errors
def to_zipline(
    frame: pd.DataFrame | Convertible,
    folder: str | os.PathLike[str],
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write candles of 1d or 1m as a CSV file of zipline's bundle `csvdir`, and return its path.

    `folder` is the bundle's CSVDIR; it gets `daily/AAPL.csv` or `minute/AAPL.csv`, with `_` for each sign of the symbol
    that the bundle does not take (`BTC_USDT`). Days have their date, of stocks in New York; minutes have their end, by
    which zipline names them. A file that is there is replaced as a whole: where it has rows outside of the frame, only
    with `overwrite=True`. The bundle has no column for it, so that invented rows, gaps and what is missing are warned
    of; also prices with more than the three decimals, and volumes with fractions, which zipline cuts off. A candle that
    still forms is left out, with a warning. Raises InputError for other timeframes and kinds, unknown values, and for
    values that zipline would store as quite others; OSError.
    """
    read_flag("overwrite", overwrite)
    where = find_folder(folder)
    bars = read_bars(frame, "zipline", symbol=symbol, timeframe=timeframe)
    bars.refuse_empty()
    bars.refuse_kind()
    if bars.timeframe.name not in _ZIPLINE:
        raise InputError(f"zipline has no candles of {bars.timeframe}; expected {' or '.join(_ZIPLINE)}")
    name = file_part("".join(sign if sign.isalnum() or sign in "_-" else "_" for sign in bars.symbol))
    stamps_ms = dates_of(bars) if bars.timeframe.name == "1d" else bars.open_ms + MINUTE_MS
    if (stamps_ms % MINUTE_MS).any():
        raise InputError("zipline has whole minutes, and candles of the frame open between them; leave these out")
    values = [bars.values(column) for column in OHLCV]
    _check_for_zipline(bars, values)
    bars.warn_of("invented", "missing", "gaps", "adjusted")
    text = f"date,{','.join(OHLCV)}\n".encode() + format_fields([stamps_ms.view("M8[ms]"), *values])
    target = where / _ZIPLINE[bars.timeframe.name] / f"{name}.csv"
    return write_whole_file(target, text, stamps_ms, _csv_ends, overwrite=overwrite)


def dates_of(bars: Bars) -> Int64s:
    """Return the dates of daily candles as Unix ms: by the clocks of New York for stocks, else in UTC.

    Raises InputError where a candle does not open at midnight there.
    """
    where = None if "/" in bars.symbol else NEW_YORK
    local_ms = bars.open_ms if where is None else zone(where).to_local(bars.open_ms)
    if (local_ms % DAY_MS).any():
        raise InputError(
            f"candles of {bars.symbol} 1d open at other times than midnight ({where or 'UTC'}), so that their date is "
            f"not known to {bars.tool}"
        )
    return local_ms


def _check_for_zipline(bars: Bars, values: list[Float64s]) -> None:
    """Warn of what zipline cuts off. Raises InputError where that is more than a thousandth of a value."""
    said = []
    for name, column in zip(OHLCV, values, strict=True):
        scale = _THOUSANDTHS if name in PRICES else 1.0
        stored = np.round(column * scale) if name in PRICES else np.trunc(column)
        if (column < 0).any() or (stored > _MOST).any():
            raise InputError(f"zipline stores {name} from 0 to {_MOST / scale:,.0f}, and the frame has others")
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.nan_to_num(np.abs(stored / scale - column) / column)
        if name in PRICES and (off > _MOST_ROUNDED).any():
            raise InputError(
                f"zipline stores prices with three decimals: {column[off.argmax()]!r} would become "
                f"{stored[off.argmax()] / scale!r}; multiply the prices of the frame, as by 1e6"
            )
        if (off > 0).any():
            said.append(f"{name} ({int((off > 0).sum()):,} by up to {off.max() * 100:.3g}%)")
    if said:
        warn(
            CandleFetcherWarning(
                f"zipline stores prices with three decimals and volumes without. Of {bars.symbol} it rounds values of "
                f"{', '.join(said)}; scale the columns of the frame where that matters"
            )
        )


def _csv_ends(path: Path) -> tuple[int, int]:
    times = pd.to_datetime(pd.read_csv(path, usecols=[0]).iloc[:, 0], utc=True, format="ISO8601")
    ms = times.dt.tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64)
    return int(ms.min()), int(ms.max())
