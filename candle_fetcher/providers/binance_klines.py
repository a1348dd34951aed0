"""Binance's kline row, in REST replies and in the archive's files."""

from __future__ import annotations

from collections.abc import Sequence

from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.rows import Row

# "Kline/Candlestick data": 12 fields. The last one is documented as "ignore".
# Fields 8 and 11 have no name here: they count the quote asset, but on COIN-M the base asset.
_FIELDS = "open_time:i open:d high:d low:d close:d volume:d close_time:i d trades:i taker_buy_volume:d d"
KLINE = Row(f"{_FIELDS} ignore:x")
# The same without the last field; third parties have seen such rows in files.
KLINE_OF_11 = Row(_FIELDS)
KLINE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time",
    "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
# COIN-M counts contracts in field 6 and 10, and base asset in 8 and 11 (klines, "volume" and "base asset volume").
COIN_COLUMNS = (*KLINE_COLUMNS[:7], "trades", "taker_buy_volume", "base_volume", "taker_buy_base_volume")
_COIN_ORDER = (0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10)


def kline_candles(columns: Sequence[Column]) -> Candles:
    """Return candles made of the columns of KLINE; volumes are in the base and the quote asset."""
    return candles_from(KLINE_COLUMNS, columns)


def coin_candles(columns: Sequence[Column]) -> Candles:
    """Return candles made of the columns of KLINE with the meaning that they have on COIN-M; see COIN_COLUMNS."""
    return candles_from(COIN_COLUMNS, coin_columns(columns))


def coin_columns(columns: Sequence[Column]) -> Sequence[Column]:
    """Return the columns of KLINE in the order of COIN_COLUMNS."""
    return [columns[at] for at in _COIN_ORDER]
