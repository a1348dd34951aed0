"""Formats of candle files that users have: how to recognise them, what their names say, how Kraken's rows are read.

- Exported by this library: `core/naming.py` reads the name.
- Binance's archive: `BTCUSDT-1h-2024-01.zip`, or the CSV inside. The name gives neither market nor kind; the archive's
own folders do (`data/futures/um/daily/klines/…`).
- Kraken's downloadable OHLCVT: `XBTUSD_60.csv`, pair and minutes. Rows of time (Unix s), open, high, low, close,
volume, trades; no header; no row where nothing was traded. Source: support.kraken.com, "Downloadable historical OHLCVT
(Open, High, Low, Close, Volume, Trades) data".
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.errors import InputError, ReplyError, shown
from candle_fetcher.core.naming import DEFAULT_PROVIDER, read_csv_name, text_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import find_separator, whole_lines
from candle_fetcher.core.text.rows import Row, iter_csv
from candle_fetcher.core.timeframe import DAY_MS, Timeframe
from candle_fetcher.core.unzip import ZIP_ERRORS
from candle_fetcher.providers.base import Provider
from candle_fetcher.providers.binance_archive import FOLDERS

OURS, OF_ARCHIVE, OF_KRAKEN = "a CSV of `export`", "a file of Binance's archive", "a download of Kraken"
KRAKEN = "kraken"

_ARCHIVE = re.compile(
    r"(?P<symbol>[^\Wa-z]+)-(?P<timeframe>\d+(?:s|m|h|d|w|mo))-(?P<month>\d{4}-\d\d)(?P<day>-\d\d)?\.(?:zip|csv)"
)
_KRAKEN = re.compile(r"(?P<symbol>[A-Za-z0-9.]+)_(?P<minutes>\d{1,5})\.csv")
_MARKETS = {
    ("spot", "monthly"): "binance",
    ("spot", "daily"): "binance",
    ("futures", "um"): "binance-um",
    ("futures", "cm"): "binance-cm",
}
_KINDS = {folder: kind for kind, folder in FOLDERS.items()}
_ZIP = b"PK"
_OTHERS = {b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b'{"': "a file of JSON lines"}
_DAY, _MONTH = np.timedelta64(1, "D"), np.timedelta64(1, "M")
_TRADES = Row("open_time:i open:d high:d low:d close:d volume:d trades:i")
_TRADES_COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "trades")
# Some volumes have an exponent, such as 1E+1. Exponents of more than two digits are refused.
_EXPONENT = re.compile(rb"(?<=,)\d+(?:\.\d+)?E[+-]?\d{1,2}(?=[,\n])")
_MOST_S = 10**11  # seconds have ten digits until the year 2286; larger numbers have another unit


class FileLabel(NamedTuple):
    """What the name of a file says about its candles. A field is None where the name does not say it.

    symbol: as the name has it.
    span: the day or month of the file.
    settings: the settings of the series that differ from the provider's defaults.
    """

    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    kind: str | None = None
    span: Span | None = None
    settings: tuple[tuple[str, str], ...] | None = None


def find_format(head: bytes) -> str:
    """Return the format of a file that begins with these bytes. Raises InputError for an unknown one."""
    if head.startswith(_ZIP):
        return OF_ARCHIVE
    other = next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
    if other is not None:
        raise InputError(f"it is {other}; expected {OURS}, {OF_ARCHIVE} or {OF_KRAKEN}")
    line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].rstrip(b"\r")
    if find_separator(line) is not None:
        return OURS
    fields = line.count(b",") + 1
    if fields in (11, 12):
        return OF_ARCHIVE
    if fields == 7 and line[:1].isdigit():
        return OF_KRAKEN
    raise InputError(
        f"its first line is {shown(line[:80].decode('ascii', 'backslashreplace'))}; expected {OURS}, {OF_ARCHIVE} "
        f"or {OF_KRAKEN}"
    )


def read_name(file_format: str, path: Sequence[str], providers: Mapping[str, Provider]) -> FileLabel:
    """Return what the file's name says, given the parts of its path.

    Raises InputError where the name of a file of the archive does not have its form.
    """
    name = path[-1]
    if file_format == OURS:
        owner = next((one for one in providers if name.startswith(f"{one}_")), DEFAULT_PROVIDER)
        provider = providers[owner]
        choices = [(one.name, one.allowed[1:]) for one in provider.settings if one.is_of_series]
        label = read_csv_name(name.removeprefix(f"{owner}_"), provider.feeds, choices)
        if label is None:
            return FileLabel()
        return FileLabel(owner, label.symbol, label.timeframe, label.kind, settings=label.settings)
    if file_format == OF_KRAKEN:
        found = _KRAKEN.fullmatch(name)
        return FileLabel(KRAKEN, found["symbol"], f"{int(found['minutes'])}m") if found else FileLabel(KRAKEN)
    found = _ARCHIVE.fullmatch(name)
    if found is None:
        raise InputError(
            f"its name {shown(name)} does not give symbol and timeframe; expected one such as BTCUSDT-1h-2024-01.zip"
        )
    folders = path[:-1]
    market = next((_MARKETS[two] for two in itertools.pairwise(folders) if two in _MARKETS), None)
    kind = next((_KINDS[one] for one in folders if one in _KINDS), None)
    return FileLabel(
        market, found["symbol"], found["timeframe"].replace("mo", "M"), kind, _span(found["month"], found["day"])
    )


def _span(month: str, day: str | None) -> Span:
    """Return the month, or the day, in Unix ms. Raises InputError where the calendar has no such day."""
    try:
        first = np.datetime64(f"{month}{day or ''}", "D")
        stop = first + _DAY if day else (np.datetime64(month, "M") + _MONTH).astype("M8[D]")
    except ValueError:
        raise InputError(f"its name says {month}{day or ''}; expected a day or month of the calendar") from None
    return Span(int(first.astype(np.int64)) * DAY_MS, int(stop.astype(np.int64)) * DAY_MS)


def find_symbol(file_format: str, name: str, provider: Provider, kind: str) -> str:
    """Return the symbol in the name of a file, in a form that `provider_symbol` accepts.

    In names of exported files, `_` replaces each character other than letters, digits and `-`: the / of a pair, or a
    character of the provider's id, such as a point. Raises InputError where both are possible.
    """
    if file_format != OURS or "_" not in name:
        return name
    pair = name.replace("_", "/", 1)
    stock = name.replace("_", ".", 1)
    if provider.calendar(Series(provider.name, None, stock, Timeframe(1, "d"), kind)) is not None:
        raise InputError(f"its name says the symbol {name}, which may be {pair} or {stock}; give the symbol")
    for text in (pair, name, name.removesuffix("_")):
        with contextlib.suppress(InputError):
            if text_of(provider.unified(provider.provider_symbol(text, kind))) == name:
                return text
    return pair  # a pair with a quote that the provider's list of quotes lacks


def check_market(provider: Provider, symbol: str, kind: str, head: bytes, candles: Candles) -> None:
    """Raise InputError where the rows of a file of the archive cannot be of that market and kind.

    It is needed because the name of such a file states neither.
    """
    if provider.name == "binance" and ("_" in symbol or head.removeprefix(b"\xef\xbb\xbf")[:1].isalpha()):
        raise InputError("its symbol or its header belongs to futures; give the provider, binance-um or binance-cm")
    if symbol.endswith("_PERP") and provider.name != "binance-cm":
        raise InputError(f"{symbol} is a symbol of COIN-M; give the provider, binance-cm")
    if not candles.count:
        return
    is_traded = bool((candles.floats("volume") > 0).any())
    if kind == "candles" and not is_traded and bool((candles.integers("trades") > 0).any()):
        raise InputError("its rows have trades but no volume, as prices do; give the kind: mark, index or premium")
    if kind != "candles" and is_traded:
        raise InputError(f"its rows have volume, but candles of {kind} prices have none; give another kind, or none")


def head_of(data: bytes) -> bytes:
    """Return the beginning of the first member of a zip; empty where it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(archive.infolist()[0]) as file:
            return file.read(64)
    except (*ZIP_ERRORS, IndexError):
        return b""


def _written_out(found: re.Match[bytes]) -> bytes:
    """Return the same number without an exponent."""
    return f"{Decimal(found[0].decode()):f}".encode()


def read_kraken(pieces: Iterable[bytes]) -> Iterator[Candles]:
    """Yield the candles of a download of Kraken, block by block. Raises ReplyError for a line that was cut."""
    lines = (_EXPONENT.sub(_written_out, text) if b"E" in text else text for text in whole_lines(pieces))
    for open_s, *others in iter_csv(lines, _TRADES):
        if ((open_s < 0) | (open_s >= _MOST_S)).any():
            stray = open_s[(open_s < 0) | (open_s >= _MOST_S)][0]
            raise ReplyError(f"expected times in Unix seconds, got {stray}")
        yield candles_from(_TRADES_COLUMNS, [open_s * 1000, *others])
