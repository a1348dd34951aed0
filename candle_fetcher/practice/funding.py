"""Funding rates and the live premium index, read from the premium and mark price candles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from candle_fetcher.core.timeframe import HOUR_MS
from candle_fetcher.practice.listings import MarketListing
from candle_fetcher.practice.request import (
    Params,
    Refused,
    View,
    answer_each,
    dump,
    find_symbol,
    missing,
    printed,
    read_limit,
    read_text,
    read_time,
)
from candle_fetcher.practice.tickers import last_day

_RATE_TYPE_SINCE_MS = 1_785_196_800_000  # 2026-07-28, COIN-M never had it
_MARK_PRICE_SINCE_MS = 1_698_710_400_000  # 2023-10-31


def _funding_rate(premium: float) -> float:
    """Return the rate by the documented rule: the premium, drawn towards the interest rate of 0.01 % by at most 0.05
    %."""
    return premium + min(max(0.0001 - premium, -0.0005), 0.0005)


def _funding_rows(view: View, listing: MarketListing, times: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each funding time: the rate follows the premium of the interval that ends there."""
    span = listing.funding_hours * HOUR_MS
    if not times:
        return []
    premium = view.tape.generated(view.provider, listing, "1h", "premium").truth(
        times[0] - span, times[-1], view.now_ms
    )
    mark = view.tape.generated(view.provider, listing, "1h", "mark").truth(times[0], times[-1] + HOUR_MS, view.now_ms)
    rows = []
    closes, stamps = premium["close"], np.array(times, np.int64)
    firsts, lasts = (np.searchsorted(premium["open_time"], bounds).tolist() for bounds in (stamps - span, stamps))
    indexes = np.searchsorted(mark["open_time"], stamps).tolist()
    for at, first, last, index in zip(times, firsts, lasts, indexes, strict=True):
        mean = float(np.add.reduce(closes[first:last])) / (last - first) if last > first else 0.0
        row: dict[str, Any] = {
            "symbol": listing.symbol,
            "fundingTime": at + (at // span * 7919) % 17 * ((at // span * 31) % 3 == 0),
            "fundingRate": printed(_funding_rate(mean), 8),
        }
        if not view.coin:
            row["markPrice"] = printed(float(mark["open"][index]), 8) if at >= _MARK_PRICE_SINCE_MS else ""
            if view.now_ms >= _RATE_TYPE_SINCE_MS:
                row["rateType"] = "Regular"
        rows.append(row)
    return rows


def _funding_times(listing: MarketListing, start_ms: int, end_ms: int) -> range:
    """Return funding times in [start_ms, end_ms]; none for delivery contracts."""
    span = listing.funding_hours * HOUR_MS
    if listing.contract != "PERPETUAL":
        return range(0)
    # A time is up to 16 ms late: a start that lies that little after it still gets it, as on the exchange.
    first = max(-((16 - start_ms) // span), listing.listed_ms // span + 1)
    return range(first * span, end_ms + 1, span)


def funding_csv(view: View, listing: MarketListing, start_ms: int, end_ms: int) -> bytes:
    """Return CSV lines of the archive: time, interval in hours and rate of the funding times in [start_ms, end_ms)."""
    rows = _funding_rows(view, listing, _funding_times(listing, start_ms, end_ms - 1))
    return "".join(
        f"{row['fundingTime']},{listing.funding_hours},{row['fundingRate']}\n"
        for row in rows
        if start_ms <= row["fundingTime"] < end_ms
    ).encode()


def funding_rates(view: View, params: Params) -> bytes:
    symbol = read_text(params, "symbol")
    if symbol is None and view.coin:
        raise missing("symbol")
    listings = [find_symbol(view, symbol)] if symbol else view.tape.symbols(view.provider, view.now_ms)
    start, end = read_time(view, params, "startTime"), read_time(view, params, "endTime")
    if start is not None and end is not None and start > end:
        raise Refused(-1023, "Start time is greater than end time.")
    default = 200 if start is None and end is None and not view.coin else 100
    limit = read_limit(view, params, default, 1000)
    last = min(view.now_ms if end is None else end, view.now_ms)
    rows: list[dict[str, Any]] = []
    for listing in listings:
        times = _funding_times(listing, 0 if start is None else start, last)
        times = times[-limit - 1 :] if start is None else times[: limit + 1]
        rows += _funding_rows(view, listing, times)
    # The jitter counts: a bound between the hour and the stamp decides by the stamp.
    rows = [row for row in rows if (start is None or row["fundingTime"] >= start) and row["fundingTime"] <= last]
    rows.sort(key=lambda row: (row["fundingTime"], row["symbol"]))
    return dump(rows[-limit:] if start is None else rows[:limit])


def funding_info(view: View, params: Params) -> bytes:
    return dump(
        [
            {
                "symbol": listing.symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": listing.funding_hours,
                "disclaimer": False,
                "updateTime": listing.listed_ms,
            }
            for listing in view.tape.symbols(view.provider, view.now_ms)
            if listing.funding_hours != 8
        ]
    )


def premium_index(view: View, params: Params) -> bytes:
    def row(view: View, listing: MarketListing) -> dict[str, Any]:
        mark, index = last_day(view, listing, "mark").close, last_day(view, listing, "index").close
        perpetual = listing.contract == "PERPETUAL"
        span = listing.funding_hours * HOUR_MS
        times = _funding_times(listing, 0, view.now_ms)[-1:]
        rate = _funding_rows(view, listing, times)[0]["fundingRate"] if times else "0.00000000"
        row = {"symbol": listing.symbol, "pair": listing.pair} if view.coin else {"symbol": listing.symbol}
        return row | {
            "markPrice": printed(mark, 8),
            "indexPrice": printed(index, 8),
            "estimatedSettlePrice": printed(index, 8),
            "lastFundingRate": rate if perpetual else "",
            "interestRate": "0.00010000" if perpetual else "",
            "nextFundingTime": (view.now_ms // span + 1) * span if perpetual else 0,
            "time": view.now_ms,
        }

    return answer_each(view, params, row)
