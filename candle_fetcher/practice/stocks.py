"""Stocks and crypto pairs of the practice market of Alpaca, with their splits and dividends."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from candle_fetcher.practice.listings import FOREVER_MS, MarketListing, find_listing, utc_ms


class Dividend(NamedTuple):
    """Dollars a share, for the owners of the day before `ex_date`, and the price of a share on that day."""

    ex_date: str
    rate: float
    price: float
    paid: str


class Split(NamedTuple):
    """From that day on there are so many shares for one."""

    ex_date: str
    parts: int


class Life(NamedTuple):
    """A stock or pair, the one that had its symbol before, and its splits and dividends."""

    listing: MarketListing
    split: Split | None = None
    before: MarketListing | None = None
    dividends: tuple[Dividend, ...] = ()


def _stock(
    symbol: str,
    curve: tuple[tuple[str, float], ...],
    daily: tuple[int, float],
    *,
    ended: str | None = None,
    path: str | None = None,
) -> MarketListing:
    """Return a stock. `daily` are trades and shares of a whole day; a session has the part of its hours."""
    return MarketListing(
        symbol, symbol, "USD", utc_ms(curve[0][0]), tuple((utc_ms(day), price) for day, price in curve), path or symbol,
        *daily, price_decimals=4, volume_decimals=0, quote_decimals=4, gaps=False, swing=0.6,
        ended_ms=FOREVER_MS if ended is None else utc_ms(ended),
    )  # fmt: skip


def _pair(symbol: str, source: str, *, decimals: int, daily: tuple[int, float]) -> MarketListing:
    found = find_listing("binance", source)
    assert found is not None
    return replace(
        found, symbol=symbol, path=symbol, listed_ms=max(found.listed_ms, utc_ms("2021-01-01")), trades=daily[0],
        volume=daily[1], price_decimals=decimals, tick=1, volume_decimals=8, step=1, gaps=False,
    )  # fmt: skip


_APPLE = (("2016-01-04", 26.0), ("2021-12-31", 177.0), ("2024-12-31", 250.0), ("2026-06-01", 290.0))
_MARKET = (("2016-01-04", 201.0), ("2021-12-31", 475.0), ("2024-12-31", 586.0), ("2026-06-01", 690.0))
_NVIDIA = (("2016-01-04", 0.8), ("2023-01-03", 14.5), ("2024-06-10", 121.0), ("2026-06-01", 190.0))
STOCKS = {
    "AAPL": Life(
        _stock("AAPL", _APPLE, (2_000_000, 180_000_000)),
        dividends=(
            Dividend("2024-02-09", 0.24, 218.0, "2024-02-15"),
            Dividend("2024-05-10", 0.25, 228.0, "2024-06-20"),
        ),
    ),
    "SPY": Life(_stock("SPY", _MARKET, (2_000_000, 220_000_000))),
    "BRK.B": Life(_stock("BRK.B", _MARKET, (250_000, 14_000_000), path="BRK.B")),
    # Some forty trades in a session: most minutes have none.
    "GENC": Life(_stock("GENC", (("2016-01-04", 11.0), ("2026-06-01", 18.0)), (150, 60_000))),
    "NVDA": Life(_stock("NVDA", _NVIDIA, (2_500_000, 900_000_000)), split=Split("2024-06-10", 10)),
    # Sprint until 2020, SentinelOne since 2021.
    "S": Life(
        _stock("S", (("2021-06-30", 42.0), ("2023-06-02", 13.0), ("2026-06-01", 22.0)), (150_000, 20_000_000)),
        before=_stock("Sprint", (("2016-01-04", 3.6), ("2020-04-01", 8.6)), (90_000, 60_000_000), ended="2020-04-02"),
    ),
}  # fmt: skip
PAIRS = {
    "BTC/USD": Life(_pair("BTC/USD", "BTCUSDT", decimals=3, daily=(3_000, 12))),
    "ETH/USD": Life(_pair("ETH/USD", "ETHUSDT", decimals=3, daily=(1_500, 120))),
    "ETH/BTC": Life(_pair("ETH/BTC", "ETHBTC", decimals=9, daily=(60, 4))),
    "DOGE/USD": Life(_pair("DOGE/USD", "DOGEUSDT", decimals=8, daily=(900, 300_000))),
}
