"""The REST dialect of Kraken over the practice market: OHLC, Ticker, Time, AssetPairs, SystemStatus.

OHLC sends the newest 720 candles and the running one, for every request; `since` leaves out what opens then or
before. A slot without trades has a row, flat at the close before. A refusal has status 200. Weeks and
15 days are counted from 1970-01-01, a Thursday: no source says from when the real ones are.
Sources: docs.kraken.com, api-reference/market-data (2026); replies recorded in November 2025.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.listings import MarketListing, find_listing
from candle_fetcher.practice.market import Kept
from candle_fetcher.practice.series import Generated, Tape

DEPTH = 720
INTERVALS = {
    1: "1m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 240: "4h", 1440: "1d", 10080: "1w", 21600: "15d",
}  # fmt: skip
_DAYS = {"1w": 7, "15d": 15}
_DAY_MS = 86_400_000
_STEP_MS = {name: minutes * 60_000 for minutes, name in INTERVALS.items()}
_ROOT = "/0/public/"

Columns = dict[str, npt.NDArray[Any]]


class Pair(NamedTuple):
    """A pair: the names that it goes by, and its path in the market."""

    name: str
    altname: str
    base: str
    quote: str
    listing: MarketListing

    @property
    def wsname(self) -> str:
        base, quote = (asset.removeprefix(asset[0]) if asset in _OLD else asset for asset in (self.base, self.quote))
        return f"{base}/{quote}"


_OLD = ("XXBT", "XETH", "XXDG", "ZUSD", "ZEUR")


def _pair(name: str, base: str, quote: str, source: str, *, decimals: int, daily: tuple[int, float]) -> Pair:
    """Return a pair that moves as the source does on spot; `daily` are trades and volume of a day."""
    found = find_listing("binance", source)
    assert found is not None
    altname = "".join(asset[1:] if asset in _OLD else asset for asset in (base, quote))
    listing = replace(
        found, symbol=altname, path=altname, trades=daily[0], volume=daily[1], price_decimals=decimals, tick=1,
        volume_decimals=8, step=1, gaps=False,
    )  # fmt: skip
    return Pair(name, altname, base, quote, listing)


PAIRS = (
    _pair("XXBTZUSD", "XXBT", "ZUSD", "BTCUSDT", decimals=1, daily=(60_000, 2_500)),
    _pair("XBTUSDT", "XXBT", "USDT", "BTCUSDT", decimals=1, daily=(2_500, 90)),
    _pair("XETHZUSD", "XETH", "ZUSD", "ETHUSDT", decimals=2, daily=(40_000, 20_000)),
    _pair("XETHXXBT", "XETH", "XXBT", "ETHBTC", decimals=5, daily=(3_000, 900)),
    _pair("XDGUSD", "XXDG", "ZUSD", "DOGEUSDT", decimals=7, daily=(9_000, 60_000_000)),
    _pair("ADAUSD", "ADA", "ZUSD", "ADAUSDT", decimals=6, daily=(12_000, 9_000_000)),
    _pair("SOLUSD", "SOL", "ZUSD", "SOLUSDT", decimals=2, daily=(30_000, 120_000)),
)


# Rows as they are printed, shared by all exchanges.
_kept_rows: Kept[tuple[Any, ...], list[list[Any]]] = Kept(50)


# What the firewall says to an address that opened too many connections of streams.
BANNED = ServedReply(429, (("Content-Type", "text/plain"),), b"error code: 1015")


class _KrakenRefusal(Exception):
    """The request is answered with this error."""


class Kraken:
    """Answers as api.kraken.com does. `burst` calls may come at once, and one a second for long."""

    name = "kraken"

    def __init__(self, tape: Tape, now_ms: Callable[[], int], *, burst: float = 15) -> None:
        self.burst = burst
        self.banned_until_ms = 0  # the firewall before it refuses the address
        self._tape = tape
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._count = 0.0
        self._counted_ms = 0

    def answers(self, path: str) -> bool:
        """Return whether the path is one of Kraken's."""
        return path.startswith("/0/")

    def answer(self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> ServedReply:
        """Return the reply; its status is 200 also for errors, but for those of the firewall."""
        now_ms = self._now_ms()
        if now_ms < self.banned_until_ms:
            return BANNED
        methods: dict[str, Callable[[Mapping[str, str], int], dict[str, Any]]] = {
            "Time": _time, "SystemStatus": _status, "AssetPairs": _asset_pairs, "OHLC": self._ohlc,
            "Ticker": self._tickers,
        }  # fmt: skip
        method = methods.get(path.removeprefix(_ROOT))
        envelope: dict[str, Any]
        try:
            if method is None:
                raise _KrakenRefusal("EGeneral:Unknown method")
            if not self._is_within_limit(now_ms):
                raise _KrakenRefusal("EAPI:Rate limit exceeded")
            envelope = {"error": [], "result": method(dict(pairs), now_ms)}
        except _KrakenRefusal as refused:
            envelope = {"error": [str(refused)]}
        body = json.dumps(envelope, separators=(",", ":")).replace("/", "\\/").encode()
        return ServedReply(200, (("Content-Type", "application/json; charset=utf-8"),), body)

    def truth(self, symbol: str, timeframe: str, start_ms: int, end_ms: int) -> Columns:
        """Return the candles that open in [start_ms, end_ms) and have opened by now, older ones than are served too."""
        pair = _find(symbol)
        if pair is None:
            raise ValueError(f"the practice market of kraken has no pair {symbol!r}")
        return self.candles(pair, timeframe, start_ms, end_ms, self._now_ms())

    def _is_within_limit(self, now_ms: int) -> bool:
        """Count a call; return whether it is within the limit. The counter falls by one a second."""
        with self._lock:
            past_s = max(0, now_ms - self._counted_ms) / 1000
            self._count, self._counted_ms = max(0.0, self._count - past_s) + 1, now_ms
            return self._count <= self.burst

    def _ohlc(self, params: Mapping[str, str], now_ms: int) -> dict[str, Any]:
        pair = _asked(params)
        if not _is_number(params.get("interval", "1")) or not _is_number(params.get("since", "0")):
            raise _KrakenRefusal("EGeneral:Invalid arguments")
        timeframe = INTERVALS.get(int(params.get("interval", "1")))
        if timeframe is None:
            raise _KrakenRefusal("EGeneral:Invalid arguments")
        step_ms = _STEP_MS[timeframe]
        running_ms = now_ms // step_ms * step_ms
        rows = self._printed(pair, timeframe, running_ms - DEPTH * step_ms, now_ms)
        committed = [row[0] for row in rows if row[0] * 1000 < running_ms]
        holes = self._tape.hidden(self.name, pair.altname)
        rows = [row for row in rows if not any(first <= row[0] * 1000 < last for first, last in holes)]
        since_s = int(params.get("since", "0"))
        return {
            pair.name: [row for row in rows if row[0] > since_s or row[0] * 1000 == running_ms],
            "last": committed[-1] if committed else 0,
        }

    def _tickers(self, params: Mapping[str, str], now_ms: int) -> dict[str, Any]:
        """Return the tickers of the pairs asked for, in the order of the list of all, or of all; one that is unknown
        fails the request."""
        names = params["pair"].split(",") if "pair" in params else [pair.name for pair in PAIRS]
        asked = [_asked({"pair": name}) for name in names]
        return {pair.name: self._ticker(pair, now_ms) for pair in PAIRS if pair in asked}

    def _ticker(self, pair: Pair, now_ms: int) -> dict[str, Any]:
        """Return today's figures, counted from midnight in UTC, and those of the last 24 hours, without a time."""
        series = self._tape.generated(self.name, pair.listing)
        end_ms, decimals = now_ms // 1000 * 1000 + 1000, pair.listing.price_decimals
        unit = 10.0**series.style.price
        today, day = (
            series.candles_between(start_ms, end_ms) for start_ms in (now_ms // _DAY_MS * _DAY_MS, end_ms - _DAY_MS)
        )
        both = [one if len(one.open) else day for one in (today, day)]
        last, ask = float(day.close[0]) / unit, (float(day.close[0]) + 1) / unit

        def printed(figures: Sequence[float], places: int) -> list[str]:
            return [f"{figure:.{places}f}" for figure in figures]

        volumes = [float(one.volume[0]) / 10.0 ** (series.style.volume or 0) for one in both]
        worths = [float(one.quote_volume[0]) / 10.0 ** (series.style.quote or 0) for one in both]
        means = [worth / volume if volume else 0.0 for worth, volume in zip(worths, volumes, strict=True)]
        return {
            "a": [f"{ask:.{decimals}f}", "1", "1.000"],
            "b": [f"{last:.{decimals}f}", "2", "2.000"],
            "c": [f"{last:.{decimals}f}", "0.01000000"],
            "v": printed(volumes, 8),
            "p": printed(means, decimals),
            "t": [int(one.trades[0]) for one in both],
            "l": printed([float(one.low[0]) / unit for one in both], decimals),
            "h": printed([float(one.high[0]) / unit for one in both], decimals),
            "o": f"{float(both[0].open[0]) / unit:.{decimals}f}",
        }

    def _printed(self, pair: Pair, timeframe: str, start_ms: int, now_ms: int) -> list[list[Any]]:
        """Return the rows from the instant to now; those of an unchanged market are kept for other requests."""
        series = self._tape.series(self.name, pair.listing, "1d" if timeframe in _DAYS else timeframe, "candles")
        market = series.market if isinstance(series, Generated) else None
        name = (market, timeframe, start_ms, now_ms)
        rows = None if market is None else _kept_rows.find(name)
        if rows is None:
            candles = self.candles(pair, timeframe, start_ms, now_ms + 1, now_ms)
            rows = list(_rows(candles, pair.listing.price_decimals))
            if market is not None:
                _kept_rows.keep(name, rows)
        return rows

    def candles(self, pair: Pair, timeframe: str, start_ms: int, end_ms: int, now_ms: int) -> Columns:
        """Return the candles that open in [start_ms, end_ms) and have opened by `now_ms`."""
        days = _DAYS.get(timeframe)
        if days is None:
            series = self._tape.series(self.name, pair.listing, timeframe, "candles")
            return series.truth(start_ms, end_ms, now_ms)
        series = self._tape.series(self.name, pair.listing, "1d", "candles")
        step_ms = days * _DAY_MS
        first_ms, last_ms = -(-start_ms // step_ms) * step_ms, -(-end_ms // step_ms) * step_ms
        return _together(series.truth(first_ms, min(last_ms, now_ms + 1), now_ms), step_ms)


def _together(days: Columns, step_ms: int) -> Columns:
    """Return longer candles, counted from 1970, made of days."""
    opens = days["open_time"] // step_ms * step_ms
    if not len(opens):
        return days
    firsts = np.flatnonzero(np.diff(opens, prepend=-1))
    lasts = np.append(firsts[1:], len(opens)) - 1
    sums = {name: np.add.reduceat(days[name], firsts) for name in ("volume", "quote_volume", "trades")}
    return {
        "open_time": opens[firsts],
        "open": days["open"][firsts],
        "high": np.maximum.reduceat(days["high"], firsts),
        "low": np.minimum.reduceat(days["low"], firsts),
        "close": days["close"][lasts],
        # As printed: the sum of what eight decimals hold has no more of them.
        "volume": np.round(sums["volume"], 8),
        "quote_volume": sums["quote_volume"],
        "trades": sums["trades"],
    }


def _rows(candles: Columns, decimals: int) -> Iterator[list[Any]]:
    """Return the rows as they are sent: times in s, numbers as text, the mean price of those with trades before the
    volume."""
    names = ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades")
    for open_ms, *prices, volume, worth, trades in zip(*(candles[name].tolist() for name in names), strict=True):
        mean = worth / volume if volume else 0.0
        texts = [f"{price:.{decimals}f}" for price in (*prices, mean)]
        yield [open_ms // 1000, *texts, f"{volume:.8f}", trades]


def _time(params: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    now = dt.datetime.fromtimestamp(now_ms // 1000, dt.timezone.utc)
    return {"unixtime": now_ms // 1000, "rfc1123": f"{now:%a, %d %b %y %H:%M:%S} +0000"}


def _status(params: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    now = dt.datetime.fromtimestamp(now_ms // 1000, dt.timezone.utc)
    return {"status": "online", "timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}"}


def _asset_pairs(params: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    if "pair" not in params:
        return {pair.name: _described(pair) for pair in PAIRS}
    found = [_find(name) for name in params["pair"].split(",")]
    if None in found:
        raise _KrakenRefusal("EQuery:Unknown asset pair")
    return {pair.name: _described(pair) for pair in found if pair is not None}


def _described(pair: Pair) -> dict[str, Any]:
    decimals = pair.listing.price_decimals
    return {
        "altname": pair.altname, "wsname": pair.wsname, "aclass_base": "currency", "base": pair.base,
        "aclass_quote": "currency", "quote": pair.quote, "lot": "unit", "cost_decimals": 5, "pair_decimals": decimals,
        "lot_decimals": 8, "lot_multiplier": 1, "leverage_buy": [2, 3], "leverage_sell": [2, 3],
        "fees": [[0, 0.4], [10000, 0.35], [50000, 0.24]], "fees_maker": [[0, 0.25], [10000, 0.2], [50000, 0.14]],
        "fee_volume_currency": "ZUSD", "margin_call": 80, "margin_stop": 40, "ordermin": "0.00005", "costmin": "0.5",
        "tick_size": f"{10.0**-decimals:.{decimals}f}", "status": "online",
    }  # fmt: skip


def _asked(params: Mapping[str, str]) -> Pair:
    if not params.get("pair"):
        raise _KrakenRefusal("EGeneral:Invalid arguments")
    pair = _find(params["pair"])
    if pair is None:
        raise _KrakenRefusal("EQuery:Unknown asset pair")
    return pair


def _find(name: str) -> Pair | None:
    return next((pair for pair in PAIRS if name in (pair.name, pair.altname, pair.wsname)), None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16
