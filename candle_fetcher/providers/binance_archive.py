"""Binance's public archive (data.binance.vision): a zip with one CSV for each day or month of a series.

Beside each zip lies a file with its SHA-256. Candles have files of days and months. Funding rates of futures have files
of months alone; their times lie some milliseconds after the hour.

Spot files have no header line; their times are milliseconds, and microseconds from 2025-01-01 on. Newer futures files
have a header line, older ones have none; their times are milliseconds. No file states its layout. So a first line that
begins with a letter is taken for a header, the number of digits tells the unit, and the resulting times must lie in the
span of the file. A missing file (404) says nothing about the market: it may not be published yet.
Source: binance-public-data README.md; recorded files of 2017 to 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from candle_fetcher.core.call import Reply
from candle_fetcher.core.candles import Candles, check, collect
from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, ReplyError, TransportError
from candle_fetcher.core.faults import beginning
from candle_fetcher.core.files import File
from candle_fetcher.core.funding import FUNDING_COLUMNS, check_funding
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.rows import Row, iter_csv
from candle_fetcher.core.timeframe import DAY_MS, Timeframe
from candle_fetcher.core.unzip import unzip
from candle_fetcher.providers.base import Archive
from candle_fetcher.providers.binance_funding import FUNDING_ROW, rate_columns
from candle_fetcher.providers.binance_klines import COIN_COLUMNS, KLINE, KLINE_COLUMNS, KLINE_OF_11, coin_columns

_MARKETS = {"binance": "spot", "binance-um": "futures/um", "binance-cm": "futures/cm"}
FOLDERS = {
    "candles": "klines",
    "mark": "markPriceKlines",
    "index": "indexPriceKlines",
    "premium": "premiumIndexKlines",
}
_FUNDING = "fundingRate"
# A row has twelve fields of at most some twenty characters; with a margin, this bounds the size of an unpacked zip.
_ROW_BYTES = 300
# A row of funding rates has three fields. Rates come hourly at most so far; one per minute is a safe bound.
_FUNDING_BYTES, _FUNDING_MS = 80, 60_000

# Days of spot on which rows of monthly files differ from those of daily files and of REST, which agree with each other
# (binance-public-data issues, open in July 2026): 2020-12-21 13:00 to 13:49, and two rows of 2021-09-29.
_DISPUTED = {
    "binance": tuple(Span(ms, ms + DAY_MS) for ms in (1_608_508_800_000, 1_632_873_600_000)),
}


def find_file(series: Series, ms: int, *, monthly: bool) -> File | None:
    """Return the file of the day or month that holds the instant; None where the archive has no such files.

    Daily files exist from 1s to 1d. Months of 1s are not used for their size (375 MB of text each). Funding rates have
    only months.
    """
    timeframe, market = series.timeframe, _MARKETS[series.provider]
    if monthly:
        if timeframe.unit == "s":
            return None
        month = np.datetime64(ms, "ms").astype("datetime64[M]")
        span = Span(_ms(month), _ms(month + np.timedelta64(1, "M")))
        period, date = "monthly", str(month)
    else:
        if timeframe.nominal_ms > DAY_MS or series.kind == "funding":
            return None
        day = np.datetime64(ms, "ms").astype("datetime64[D]")
        span = Span(_ms(day), _ms(day + np.timedelta64(1, "D")))
        period, date = "daily", str(day)
    symbol = series.symbol
    if series.kind == "funding":
        return File(f"/data/{market}/{period}/{_FUNDING}/{symbol}/{symbol}-{_FUNDING}-{date}.zip", span)
    disputed: tuple[Span, ...] = ()
    if monthly and timeframe.nominal_ms <= DAY_MS:  # longer candles have only monthly files
        disputed = tuple(one for one in _DISPUTED.get(series.provider, ()) if span.holds(one))
    interval = f"{timeframe.count}mo" if timeframe.unit == "M" else timeframe.name
    name = f"{symbol}-{interval}-{date}"
    return File(f"/data/{market}/{period}/{FOLDERS[series.kind]}/{symbol}/{interval}/{name}.zip", span, disputed)


def _ms(moment: np.datetime64) -> int:
    return int(moment.astype("datetime64[ms]").astype(np.int64))


def find_checksum(text: bytes, name: str) -> str | None:
    """Return the SHA-256 in lower case, given the text of the CHECKSUM file of that name; None where the text is empty.

    Raises ReplyError where the text names another file or holds no SHA-256.
    """
    words = text.decode("utf-8", "replace").split()  # names such as 币安人生USDT-1m-2025-10.zip are UTF-8
    if not words:
        return None
    if len(words) != 2 or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]) or words[1].lstrip("*") != name:
        raise ReplyError(f"the CHECKSUM of {name} must hold a SHA-256 and this name, but it holds {beginning(text)}")
    return words[0].lower()


def read_file(data: bytes, file: File, series: Series) -> Candles:
    """Return the candles or funding rates of a zip, in order; all of them open in the file's own span.

    Raises what `unzip` raises, and ReplyError for rows that are not candles or funding rates of that span.
    """
    stem = file.path.rpartition("/")[2].removesuffix(".zip")
    if series.kind == "funding":
        most_bytes = (file.span.end_ms - file.span.start_ms) // _FUNDING_MS * _FUNDING_BYTES
        text = unzip(data, f"{stem}.csv", most_bytes)
        rows = (rate_columns(columns) for columns in _iter_rows(text, FUNDING_ROW, (0,)))
        records = check_funding(_in_order(collect(rows, FUNDING_COLUMNS, 0)), file.span)
        if not records.count:
            raise ReplyError(f"expected funding rates in {stem}.csv, got no row")
        return records
    return read_csv(unzip(data, f"{stem}.csv", (_slots(file, series) + 2) * _ROW_BYTES), file, series)


def _slots(file: File, series: Series) -> int:
    """Return how many candles the file has at most."""
    return max(1, (file.span.end_ms - file.span.start_ms) // (series.timeframe.step_ms or 28 * DAY_MS))


def read_csv(text: Iterator[bytes], file: File, series: Series) -> Candles:
    """Return the candles of the CSV in a zip, in order; all of them open in the file's own span.

    `text` yields the CSV in pieces. Raises ReplyError for rows that are not candles of that span.
    """
    first = next(text, b"")
    row = KLINE_OF_11 if first.partition(b"\n")[0].count(b",") == 10 else KLINE
    rows, names = _iter_rows(chain([first], text), row, (0, 6)), KLINE_COLUMNS
    if series.provider == "binance-cm":
        rows, names = map(coin_columns, rows), COIN_COLUMNS
    candles = check(_in_order(collect(rows, names, _slots(file, series))), file.span)
    _check_grid(candles, series.timeframe)
    return candles


def _check_grid(candles: Candles, timeframe: Timeframe) -> None:
    """Raise ReplyError where every candle opens the same whole seconds after the start of its slot.

    Such times are taken for damaged. True candles can be off the grid too, but not by whole seconds: after an outage,
    candles counted from the instant at which the exchange restarted, so that all candles of some daily files from
    2018-02-09 on open 28 min 14.79 s late. Candles of 3d are anchored per symbol, at the start of a day.
    """
    late_ms = candles.open_ms - timeframe.opens_ms(timeframe.ordinals(candles.open_ms))
    if timeframe.name == "3d":
        late_ms %= DAY_MS
    if candles.count and late_ms[0] and late_ms[0] % 1000 == 0 and (late_ms == late_ms[0]).all():
        raise ReplyError(f"every candle opens {late_ms[0] / 1000:g} s after the start of its slot of {timeframe}")


def _iter_rows(text: Iterable[bytes], row: Row, times: Sequence[int]) -> Iterator[Sequence[Column]]:
    """Yield the columns of the rows, block by block. The columns at the indexes `times` are converted to Unix ms."""
    unit = 0
    for columns in iter_csv(text, row):
        unit = unit or _unit(columns[0])
        yield [_milliseconds(column, unit) if at in times else column for at, column in enumerate(columns)]


def _in_order(candles: Candles) -> Candles:
    """Return the candles sorted by time. Files with rows out of order have occurred."""
    opens = candles.open_ms
    if (opens[:-1] < opens[1:]).all():
        return candles
    return Candles(candles.names, candles.block[:, np.argsort(opens, kind="stable")])


def _unit(times: Column) -> int:
    """Return how many units of the times make a millisecond: 1000 for times in microseconds, 1 for milliseconds.

    Until the year 2286, microseconds have sixteen digits, and milliseconds thirteen.
    """
    return 1000 if times[0] >= 10**14 else 1


def _milliseconds(times: Column, unit: int) -> Column:
    """Return the times in ms, given the unit of the first one. Raises ReplyError where one has the other unit."""
    if ((times >= 10**14) != (unit == 1000)).any():
        raise ReplyError("the times of the file mix milliseconds and microseconds; expected one unit")
    return times // unit


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a status other than 200: ProviderRefused for 404, which means that there is no such file."""
    if reply.status == 404:
        return ProviderRefused("Binance's archive has no such file (status 404)", status=404)
    if reply.status == 429:
        return RateLimited("Binance's archive asks for a pause (status 429)")
    if reply.status in (401, 451):
        return AccessDenied(
            f"Binance's archive refused access (status {reply.status})", fix="Use source='rest'", status=reply.status
        )
    return TransportError(f"Binance's archive could not answer (status {reply.status})", status=reply.status)


ARCHIVE = Archive(
    name="binance-archive",
    host="https://data.binance.vision",
    find_file=find_file,
    find_checksum=find_checksum,
    read_file=read_file,
    refusal=refusal,
    # data.binance.vision serves files; https://data.binance.vision/?prefix= is an HTML page, so S3 lists them.
    listing_host="https://s3-ap-northeast-1.amazonaws.com/data.binance.vision",
)
