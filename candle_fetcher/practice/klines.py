"""Klines of every kind, paged by each market's own rule."""

from __future__ import annotations

from collections.abc import Callable

from candle_fetcher.core.timeframe import DAY_MS
from candle_fetcher.practice.listings import FOREVER_MS, MarketListing, find_continuous
from candle_fetcher.practice.request import (
    Params,
    Refused,
    View,
    known,
    missing,
    read_limit,
    read_listing,
    read_text,
    read_time,
)
from candle_fetcher.practice.series import page

INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_WINDOW_MS = 200 * DAY_MS


def klines(kind: str, name: str = "symbol") -> Callable[[View, Params], bytes]:
    """Return the function that answers for klines of a kind, by symbol or by pair."""

    def answer(view: View, params: Params) -> bytes:
        if name == "pair" and kind == "candles":
            pair, contract = read_text(params, "pair"), read_text(params, "contractType")
            if pair is None or contract is None:
                raise missing("pair" if pair is None else "contractType")
            if contract not in ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER", "TRADIFI_PERPETUAL"):
                raise Refused(-1130, "Data sent for parameter 'contractType' is not valid.")
            return _kline_page(view, params, known(find_continuous(view.provider, pair, contract), "pair"), kind)
        return _kline_page(view, params, read_listing(view, params, name), kind)

    return answer


def _kline_page(view: View, params: Params, listing: MarketListing, kind: str) -> bytes:
    """Return one page by the market's own rule for bounds: inclusive on open times, oldest first in the list."""
    timeframe = params.get("interval")
    if not timeframe:
        raise missing("interval")
    if timeframe not in INTERVALS and (timeframe != "1s" or view.futures):
        raise Refused(-1120, "Invalid interval.")
    if params.get("timeZone", "0") not in ("0", "00:00", "+00:00", "-00:00"):
        raise Refused(-1130, "Data sent for parameter 'timeZone' is not valid.")
    start, end = read_time(view, params, "startTime"), read_time(view, params, "endTime")
    limit = read_limit(view, params, 500, 1500 if view.futures else 1000)
    if view.futures and start is not None and end is not None and start > end:
        raise Refused(-1023, "Start time is greater than end time.")
    newest = start is None
    if view.coin and kind != "premium":
        if start is not None and end is not None:
            newest = True
            if end - start > _WINDOW_MS:
                raise Refused(-4088, "Maximum time interval is 200 days.")
        elif start is not None:
            end = start + _WINDOW_MS
        elif end is not None:
            start = end - _WINDOW_MS
    series = view.tape.series(view.provider, listing, timeframe, kind)
    hidden = view.tape.hidden(view.provider, listing.symbol)
    first = (
        listing.listed_ms - 32 * DAY_MS if start is None else start
    )  # a first week or month opens before the listing
    last = FOREVER_MS if end is None else min(end, FOREVER_MS)
    return page(series, min(first, FOREVER_MS), last, limit, view.now_ms, newest=newest, hidden=hidden)
