"""Files of candles that people have: what their names tell, how they are told apart, how their rows are read.

- Ours: what `export` writes; its name is read by `core/naming.py`.
- Binance's archive: `BTCUSDT-1h-2024-01.zip`, or the CSV inside. Its name tells neither market nor kind; the archive's
  own folders do (`data/futures/um/daily/klines/…`).
- Kraken's downloadable OHLCVT: `XBTUSD_60.csv`, pair and minutes. Rows of time (Unix s), open, high, low, close,
  volume, trades; no header; no row where nothing was traded.
  Source: support.kraken.com, "Downloadable historical OHLCVT (Open, High, Low, Close, Volume, Trades) data".
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.csv import HEADER, whole_lines
from candle_fetcher.core.decimals import CSV_PIECE_BYTES, Row, iter_csv
from candle_fetcher.core.errors import InputError, ReplyError, shown
from candle_fetcher.core.files import File
from candle_fetcher.core.naming import USUAL_PROVIDER, read_csv_name, text_of
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe
from candle_fetcher.providers.base import Provider
from candle_fetcher.providers.binance_archive import ARCHIVE, read_csv

OURS, OF_ARCHIVE, OF_KRAKEN = "a CSV of ours", "a file of Binance's archive", "a download of Kraken"
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
_KINDS = {
    "klines": "candles",
    "markPriceKlines": "mark",
    "indexPriceKlines": "index",
    "premiumIndexKlines": "premium",
}
_ZIP = b"PK"
_DAY, _MONTH = np.timedelta64(1, "D"), np.timedelta64(1, "M")
_TRADES = Row("open_time:i open:d high:d low:d close:d volume:d trades:i")
_TRADES_COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "trades")
# Volumes are printed as 1E+1 now and then; what has more digits behind the E is not written out.
_EXPONENT = re.compile(rb"(?<=,)\d+(?:\.\d+)?E[+-]?\d{1,2}(?=[,\n])")
_MOST_S = 10**11  # seconds have ten digits until the year 2286; what has more counts something else


class Told(NamedTuple):
    """What the name of a file says; None where it does not. `symbol` is as it stands there; `span` the day or month
    that it is of; `settings` those of the series that are not the provider's default."""

    provider: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    kind: str | None = None
    span: Span | None = None
    settings: tuple[tuple[str, str], ...] | None = None


def find_form(head: bytes) -> str:
    """Which kind of file begins like that. Raises InputError where it is none that can be imported."""
    if head.startswith(_ZIP):
        return OF_ARCHIVE
    line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].rstrip(b"\r")
    if line.startswith(HEADER):
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


def read_name(form: str, path: Sequence[str], providers: Mapping[str, Provider]) -> Told:
    """What the file's name says, given the parts of its path."""
    name = path[-1]
    if form == OURS:
        owner = next((one for one in providers if name.startswith(f"{one}_")), USUAL_PROVIDER)
        provider = providers[owner]
        choices = [(one.name, one.allowed[1:]) for one in provider.settings if one.is_of_series]
        label = read_csv_name(name.removeprefix(f"{owner}_"), provider.feeds, choices)
        if label is None:
            return Told()
        return Told(owner, label.symbol, label.timeframe, label.kind, settings=label.settings)
    if form == OF_KRAKEN:
        found = _KRAKEN.fullmatch(name)
        return Told(KRAKEN, found["symbol"], f"{int(found['minutes'])}m") if found else Told(KRAKEN)
    found = _ARCHIVE.fullmatch(name)
    if found is None:
        raise InputError(
            f"its name {shown(name)} does not say what it is of; expected one such as BTCUSDT-1h-2024-01.zip"
        )
    folders = path[:-1]
    market = next((_MARKETS[two] for two in itertools.pairwise(folders) if two in _MARKETS), None)
    kind = next((_KINDS[one] for one in folders if one in _KINDS), None)
    return Told(market, found["symbol"], _length(found["timeframe"]), kind, _span(found["month"], found["day"]))


def _length(text: str) -> str:
    return text.replace("mo", "M")


def _span(month: str, day: str | None) -> Span:
    """The month, or the day, in Unix ms; InputError where the calendar has none such."""
    try:
        first = np.datetime64(f"{month}{day or ''}", "D")
        stop = first + _DAY if day else (np.datetime64(month, "M") + _MONTH).astype("M8[D]")
    except ValueError:
        raise InputError(f"its name says {month}{day or ''}; expected a day or a month of the calendar") from None
    return Span(int(first.astype(np.int64)) * DAY_MS, int(stop.astype(np.int64)) * DAY_MS)


def find_symbol(form: str, told: str, provider: Provider, kind: str) -> str:
    """The symbol that a name tells, as `provider_symbol` reads it.

    Names of ours have `_` for whatever is neither letter, digit nor `-`: it is the / of a pair, or the provider's own.
    Raises InputError where it may be either.
    """
    if form != OURS or "_" not in told:
        return told
    pair = told.replace("_", "/", 1)
    stock = told.replace("_", ".", 1)
    if provider.calendar(Series(provider.name, None, stock, Timeframe(1, "d"), kind)) is not None:
        raise InputError(f"its name says {told}, which may be {pair} or {stock}; give the symbol")
    for text in (pair, told, told.removesuffix("_")):
        with contextlib.suppress(InputError):
            if text_of(provider.unified(provider.provider_symbol(text, kind))) == told:
                return text
    return pair  # whose quote the provider's facts do not know


def check_market(provider: Provider, symbol: str, kind: str, head: bytes, candles: Candles) -> None:
    """Raises InputError where a file of the archive can be none of that market and kind, of which its name tells
    nothing."""
    if provider.name == "binance" and ("_" in symbol or head.removeprefix(b"\xef\xbb\xbf")[:1].isalpha()):
        raise InputError("it is of futures, by its symbol or its header; give the provider, binance-um or binance-cm")
    if symbol.endswith("_PERP") and provider.name != "binance-cm":
        raise InputError(f"{symbol} is a symbol of COIN-M; give the provider, binance-cm")
    if not candles.count:
        return
    is_traded = bool((candles.floats("volume") > 0).any())
    if kind == "candles" and not is_traded and bool((candles.integers("trades") > 0).any()):
        raise InputError("its rows have counts and no volume, as prices do; give the kind, mark, index or premium")
    if kind != "candles" and is_traded:
        raise InputError(f"its rows have volume, and candles of {kind} prices have none; give another kind, or none")


def is_of_archive(provider: Provider) -> bool:
    """Whether the provider's files are those of Binance's archive."""
    return provider.archive is not None and provider.archive.name == ARCHIVE.name


def read_archive_csv(data: bytes, file: File, series: Series) -> Candles:
    """The candles of the CSV of the archive's file, in order."""
    return read_csv((data[at : at + CSV_PIECE_BYTES] for at in range(0, len(data), CSV_PIECE_BYTES)), file, series)


def head_of(data: bytes) -> bytes:
    """The beginning of the first member of a zip; empty where it has none that can be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(archive.infolist()[0]) as file:
            return file.read(64)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        IndexError,
        RuntimeError,
        NotImplementedError,
        OSError,
        ValueError,
    ):
        return b""


def _written_out(found: re.Match[bytes]) -> bytes:
    """The number without its exponent, which is the same number."""
    return f"{Decimal(found[0].decode()):f}".encode()


def read_kraken(pieces: Iterable[bytes]) -> Iterator[Candles]:
    """The candles of a download of Kraken, block by block. Raises ReplyError for a line that is not whole."""
    lines = (_EXPONENT.sub(_written_out, text) if b"E" in text else text for text in whole_lines(pieces))
    for open_s, *others in iter_csv(lines, _TRADES):
        if ((open_s < 0) | (open_s >= _MOST_S)).any():
            raise ReplyError(f"its times, such as {int(open_s[0])}, are no Unix seconds")
        yield candles_from(_TRADES_COLUMNS, [open_s * 1000, *others])
