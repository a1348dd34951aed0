"""The layout of Binance's public archive (Binance Vision): its files, their names and formats, and the first date of
each.

    data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip
    market          period  kind   symbol  interval          date

Sources: binance-public-data `README.md`; listings of data.binance.vision (2025, 2026); files of 2020 to 2026.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

from candle_fetcher.core.timeframe import DAY_MS, HOUR_MS, parse_timeframe
from candle_fetcher.practice.klines import INTERVALS
from candle_fetcher.practice.listings import FOREVER_MS, utc_ms

MARKETS = {"data/spot/": "binance", "data/futures/um/": "binance-um", "data/futures/cm/": "binance-cm"}
PERIODS = ("daily", "monthly")
KINDS = {
    "klines": "candles",
    "markPriceKlines": "mark",
    "indexPriceKlines": "index",
    "premiumIndexKlines": "premium",
    "fundingRate": "funding",
}
KLINE_HEADER = (
    b"open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    b"taker_buy_volume,taker_buy_quote_volume,ignore\n"
)
FUNDING_HEADER = b"calc_time,funding_interval_hours,last_funding_rate\n"

_ROOTS = {provider: root for root, provider in MARKETS.items()}
_FOLDERS = {kind: folder for folder, kind in KINDS.items()}
_MONTHLY_ONLY = ("3d", "1w", "1M")
_MONTH = parse_timeframe("1M")
_KEY = re.compile(
    r"(?P<root>data/(?:spot|futures/um|futures/cm)/)(?P<period>daily|monthly)/(?P<kind>\w+)/(?P<symbol>\w+)/"
    r"(?:(?P<interval>\w+)/)?[^/]*-(?P<date>[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)\.zip"
)
# The first day of symbols that the archive has later than REST does; the month that it cuts has no monthly file.
_SINCE = {(provider, symbol): utc_ms("2019-12-31") for provider in ("binance-um",) for symbol in ("BTCUSDT", "ETHUSDT")}
_MICROSECONDS_SINCE_MS = utc_ms("2025-01-01")  # spot alone
_HEADER_SINCE_MS = {
    "binance": FOREVER_MS,
    "binance-um": utc_ms("2023-02-01"),
    "binance-cm": utc_ms("2023-10-01"),
}


class VisionFile(NamedTuple):
    """One file: the rows of a series in [start_ms, end_ms), a day or a month. `symbol` is a pair for index prices."""

    provider: str
    kind: str
    symbol: str
    timeframe: str
    start_ms: int
    end_ms: int
    is_month: bool

    @property
    def name(self) -> str:
        """The base name, of the zip and of the CSV in it."""
        day = dt.datetime.fromtimestamp(self.start_ms / 1000, dt.timezone.utc)
        date = f"{day:%Y-%m}" if self.is_month else f"{day:%Y-%m-%d}"
        return f"{self.symbol}-{write_interval(self.timeframe) or _FOLDERS[self.kind]}-{date}"

    @property
    def key(self) -> str:
        """The key of the zip in the bucket."""
        interval = f"{write_interval(self.timeframe)}/" if self.timeframe else ""
        period = PERIODS[self.is_month]
        return f"{_ROOTS[self.provider]}{period}/{_FOLDERS[self.kind]}/{self.symbol}/{interval}{self.name}.zip"

    @property
    def header(self) -> bytes:
        """The header row, empty where the file has none."""
        if self.kind == "funding":
            return FUNDING_HEADER
        if self.kind == "candles" and self.start_ms < _HEADER_SINCE_MS[self.provider]:
            return b""
        return KLINE_HEADER

    @property
    def in_microseconds(self) -> bool:
        """Whether its times are in µs; ms otherwise."""
        return self.provider == "binance" and self.start_ms >= _MICROSECONDS_SINCE_MS


def write_interval(timeframe: str) -> str:
    """Return the timeframe as the archive writes it: 1M is 1mo."""
    return "1mo" if timeframe == "1M" else timeframe


def read_interval(text: str) -> str:
    """Return the timeframe of the archive's text."""
    return "1M" if text == "1mo" else "" if text == "1M" else text


def kinds(provider: str, period: str) -> list[str]:
    """Return the folders of kinds; spot has klines alone, funding rates are monthly alone."""
    if provider == "binance":
        return ["klines"]
    return [folder for folder, kind in KINDS.items() if kind != "funding" or period == "monthly"]


def timeframes(provider: str, kind: str, *, is_month: bool) -> list[str]:
    """Return the timeframes of a kind; funding has one, written as the empty string."""
    if kind == "funding":
        return [""] if is_month else []
    seconds = ["1s"] if provider == "binance" else []
    return [*seconds, *(name for name in INTERVALS if is_month or name not in _MONTHLY_ONLY)]


def read_key(key: str) -> VisionFile | None:
    """Return the file with this key, whether it exists or not; None for a key that the archive does not use."""
    match = _KEY.fullmatch(key)
    if match is None or len(match["date"]) != (7 if match["period"] == "monthly" else 10):
        return None
    provider, is_month = MARKETS[match["root"]], match["period"] == "monthly"
    kind = KINDS.get(match["kind"])
    timeframe = read_interval(match["interval"] or "")
    if kind is None or match["kind"] not in kinds(provider, match["period"]):
        return None
    if timeframe not in timeframes(provider, kind, is_month=is_month):
        return None
    try:
        start_ms = utc_ms(f"{match['date']}-01" if is_month else match["date"])
    except ValueError:
        return None
    file = make_file(provider, kind, match["symbol"], timeframe, start_ms, is_month=is_month)
    return file if file.key == key else None


def make_file(provider: str, kind: str, symbol: str, timeframe: str, at_ms: int, *, is_month: bool) -> VisionFile:
    """Return the file of the day or month that holds the instant."""
    if is_month:
        month = _MONTH.ordinal(at_ms)
        start_ms, end_ms = _MONTH.open_ms(month), _MONTH.open_ms(month + 1)
    else:
        start_ms = at_ms // DAY_MS * DAY_MS
        end_ms = start_ms + DAY_MS
    return VisionFile(provider, kind, symbol, timeframe, start_ms, end_ms, is_month)


def begins_ms(provider: str, symbol: str, *, is_month: bool) -> int:
    """Return the instant before which the archive has no file of the symbol, also of one listed earlier."""
    since_ms = _SINCE.get((provider, symbol), 0)
    return _MONTH.open_ms(_MONTH.ordinal(since_ms - 1) + 1) if is_month and since_ms else since_ms


class PublicationLags(NamedTuple):
    """How long after the end of its day or month a file appears, in hours."""

    daily_h: float = 5
    monthly_h: float = 8

    def published_ms(self, file: VisionFile, closed_ms: int) -> int:
        """Return the time at which the file appears; `closed_ms` is the close of its last candle, maybe after the
        month."""
        return max(file.end_ms, closed_ms) + round((self.monthly_h if file.is_month else self.daily_h) * HOUR_MS)
