"""Binance's funding rates for USDⓈ-M and COIN-M futures, by REST and in the archive's files.

Both bounds of a call are inclusive. Where a window holds more records than the limit, the reply has the oldest ones, in
order. Funding times lie some milliseconds after the hour. Records of COIN-M, older records of USDⓈ-M (there it may also
be "") and records in files have no mark price.
Sources: binance-connector-python derivatives_trading_* (2026), "Get Funding Rate History"; files of 2026.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from candle_fetcher.core.call import Call, Limit
from candle_fetcher.core.candles import Candles, candles_from
from candle_fetcher.core.faults import unexpected, wrong_field, wrong_symbol
from candle_fetcher.core.funding import FUNDING_COLUMNS
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.rows import Row
from candle_fetcher.providers.base import Funding

_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
_LIMIT = 1000

# As in the header of a file. funding_interval_hours (1, 4 or 8 so far) is not read, since the times show the interval.
FUNDING_ROW = Row("calc_time:i funding_interval_hours:x last_funding_rate:d")


def parse_funding(body: bytes, symbol: str) -> Candles:
    """Return the records in the order sent.

    Raises ReplyError where the body is not a list of records of the symbol.
    """
    rows = load_json(body, "a JSON list of funding rates")
    if not isinstance(rows, list):
        raise unexpected("a JSON list of funding rates", body)
    times = np.empty(len(rows), np.int64)
    rates, marks = np.empty(len(rows)), np.full(len(rows), np.nan)
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise wrong_field(f"row {at + 1}", "an object with symbol, fundingTime, fundingRate", row)
        if row.get("symbol") != symbol:
            raise wrong_symbol(f"funding rates of {symbol}", row.get("symbol"))
        time_ms = row.get("fundingTime")
        if type(time_ms) is not int or not 0 <= time_ms < 10**15:
            raise wrong_field(f"row {at + 1}, field fundingTime", "a time in Unix ms", time_ms)
        times[at], rates[at] = time_ms, _decimal(row.get("fundingRate"), at, "fundingRate")
        if row.get("markPrice") not in (None, ""):
            marks[at] = _decimal(row["markPrice"], at, "markPrice")
    return candles_from(FUNDING_COLUMNS, (times, rates, marks))


def rate_columns(columns: Sequence[Column]) -> Sequence[Column]:
    """Return the columns of FUNDING_ROW as those of FUNDING_COLUMNS, with NaN as mark prices."""
    times, rates = columns
    return times, rates, np.full(len(rates), np.nan)


def _decimal(text: object, at: int, name: str) -> float:
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
        raise wrong_field(f"row {at + 1}, field {name}", "a decimal in quotes, without an exponent", text)
    return float(text)


def _funding(
    prefix: str, *, cost: int, since_ms: int, limits: tuple[Limit, ...] = (), has_marks: bool = True
) -> Funding:
    def call(symbol: str, span: Span, rows: int) -> Call:
        params = (
            ("symbol", symbol),
            ("startTime", str(span.start_ms)),
            ("endTime", str(span.end_ms - 1)),  # inclusive, unlike span.end_ms
            ("limit", str(rows)),
        )
        return Call(f"{prefix}/fundingRate", params, cost)

    return Funding(
        call=call,
        parse=parse_funding,
        limit=_LIMIT,
        since_ms=since_ms,
        limits=limits,
        has_marks=has_marks,
        in_archive=True,
    )


# USDⓈ-M counts these requests separately, 500 in 5 minutes, and they cost no weight. It opened in September 2019.
UM_FUNDING = _funding("/fapi/v1", cost=0, since_ms=1_564_617_600_000, limits=(Limit(500, 300, "requests"),))
CM_FUNDING = _funding("/dapi/v1", cost=1, since_ms=1_577_836_800_000, has_marks=False)
