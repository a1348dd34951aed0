"""The REST dialect of Alpaca over the practice market: bars of stocks, by sessions, and of crypto pairs, all day.

Every bar is made of minutes. Stocks trade from 09:30 to 16:00 of New York on weekdays that are no holidays, and have no
bar for a minute without trades; pairs have one, out of quotes. Days, weeks and months open at midnight of New York, and
of Chicago for pairs. Bounds are inclusive, pages may be short, and a token leads to the next one.
Splits and dividends are listed for two weeks before they take effect at midnight of New York, a dividend by the day on
which it is paid; from then on adjusted bars before it are others.
Sources: docs.alpaca.markets, historical bars (market-data-api, 2026), corporate actions (reference/corporateactions);
the forum's topics 14660 and 18614 (their fields); replies of 2021 to 2024; nyse.com, holidays and early closings of
2023 to 2026.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.practice.faults import Reply
from candle_fetcher.practice.limits import Budget
from candle_fetcher.practice.listings import FOREVER_MS, Listing, find_listing, utc_ms
from candle_fetcher.practice.market import Kept
from candle_fetcher.practice.series import Generated, Tape

Int64s = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

KEY_ID, SECRET_KEY = "PKPRACTICE0EXCHANGE7", "practice/secret+of+no+worth=="
FEEDS = ("sip", "iex", "otc", "boats")
ADJUSTMENTS = ("raw", "split", "dividend", "spin-off", "all")
# One trade of so many is made at IEX.
_IEX_SHARE = 30
_FREE_AFTER_MS = 900_000
_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000
_TIMEFRAME = re.compile(r"([1-9][0-9]?)(Min|T|Hour|H|Day|D|Week|W|Month|M)")
_NAMED = {
    "1m": "1Min", "5m": "5Min", "15m": "15Min", "30m": "30Min", "1h": "1Hour", "1d": "1Day", "1w": "1Week",
    "1M": "1Month",
}  # fmt: skip
_ACTIONS_PATH = "/v1/corporate-actions"
_ANNOUNCED_MS = 14 * _DAY_MS
_STOCK_PATH = re.compile(r"/v2/stocks/([^/]+)/bars")
_PAIR_PATH = "/v1beta3/crypto/us/bars"
_SYMBOL = re.compile(r"[A-Z0-9.]{1,15}")
_PAIR = re.compile(r"[A-Z0-9]{1,12}/[A-Z0-9]{2,6}")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d))?", re.ASCII | re.IGNORECASE
)

_CLOSED = """
2023-01-02 2023-01-16 2023-02-20 2023-04-07 2023-05-29 2023-06-19 2023-07-04 2023-09-04 2023-11-23 2023-12-25
2024-01-01 2024-01-15 2024-02-19 2024-03-29 2024-05-27 2024-06-19 2024-07-04 2024-09-02 2024-11-28 2024-12-25
2025-01-01 2025-01-09 2025-01-20 2025-02-17 2025-04-18 2025-05-26 2025-06-19 2025-07-04 2025-09-01 2025-11-27
2025-12-25 2026-01-01 2026-01-19 2026-02-16 2026-04-03 2026-05-25 2026-06-19 2026-07-03 2026-09-07 2026-11-26
2026-12-25
"""
_CLOSED_AT_13 = """
2023-07-03 2023-11-24 2024-07-03 2024-11-29 2024-12-24 2025-07-03 2025-11-28 2025-12-24 2026-11-27 2026-12-24
"""


def _days(text: str) -> Int64s:
    return np.array(text.split(), "datetime64[D]").astype(np.int64)


_HOLIDAYS, _EARLY = _days(_CLOSED), _days(_CLOSED_AT_13)


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

    listing: Listing
    split: Split | None = None
    before: Listing | None = None
    dividends: tuple[Dividend, ...] = ()


def _stock(
    symbol: str,
    curve: tuple[tuple[str, float], ...],
    daily: tuple[int, float],
    *,
    ended: str | None = None,
    path: str | None = None,
) -> Listing:
    """`daily` are trades and shares of a whole day, of which a session has the part that its hours are."""
    return Listing(
        symbol, symbol, "USD", utc_ms(curve[0][0]), tuple((utc_ms(day), price) for day, price in curve), path or symbol,
        *daily, price_decimals=4, volume_decimals=0, quote_decimals=4, gaps=False, swing=0.6,
        ended_ms=FOREVER_MS if ended is None else utc_ms(ended),
    )  # fmt: skip


def _pair(symbol: str, source: str, *, decimals: int, daily: tuple[int, float]) -> Listing:
    found = find_listing("binance", source)
    assert found is not None
    return replace(
        found, symbol=symbol, path=symbol, listed_ms=max(found.listed_ms, utc_ms("2021-01-01")), trades=daily[0],
        volume=daily[1], price_decimals=decimals, tick=1, volume_decimals=8, step=1, gaps=False,
    )  # fmt: skip


_APPLE = (("2016-01-04", 26.0), ("2021-12-31", 177.0), ("2024-12-31", 250.0), ("2026-06-01", 290.0))
_MARKET = (("2016-01-04", 201.0), ("2021-12-31", 475.0), ("2024-12-31", 586.0), ("2026-06-01", 690.0))
_NVIDIA = (("2016-01-04", 0.8), ("2023-01-03", 14.5), ("2024-06-10", 121.0), ("2026-06-01", 190.0))
_STOCKS = {
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
_PAIRS = {
    "BTC/USD": Life(_pair("BTC/USD", "BTCUSDT", decimals=3, daily=(3_000, 12))),
    "ETH/USD": Life(_pair("ETH/USD", "ETHUSDT", decimals=3, daily=(1_500, 120))),
    "ETH/BTC": Life(_pair("ETH/BTC", "ETHBTC", decimals=9, daily=(60, 4))),
    "DOGE/USD": Life(_pair("DOGE/USD", "DOGEUSDT", decimals=8, daily=(900, 300_000))),
}


class _Refused(Exception):
    """The request is answered with this status and error body."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message} if code is None else {"code": code, "message": message}


class Bar(NamedTuple):
    """A bar: its open time (ms), prices, shares or coins, trades, and what they were worth."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    worth: float


class _Asked(NamedTuple):
    """What a request for bars asks for; the bounds are inclusive."""

    lives: tuple[Listing, ...]
    split: Split | None
    dividends: tuple[Dividend, ...]
    timeframe: tuple[int, str]
    start_ms: int
    end_ms: int
    feed: str
    adjustment: str
    newest_first: bool


# The bars of months that are over, of all exchanges; only those that nothing was changed of.
_months: Kept[tuple[Any, ...], list[Bar]] = Kept(600)
# The minutes of sessions that they are made of: ten years of a stock's.
_sessions: Kept[tuple[Any, ...], Columns] = Kept(120)


class Bars:
    """Answers as data.alpaca.markets does for bars of one kind, and for the corporate actions of stocks.

    `rate_limit` requests are answered in a minute. `page_cap` serves fewer bars on a page than asked for. `is_free`
    keeps the last 15 minutes of `sip` back.
    """

    def __init__(self, name: str, tape: Tape, now_ms: Callable[[], int], *, page_cap: int | None = None) -> None:
        self.name = name
        self.page_cap = page_cap
        self.is_free = False
        self.rate_limit = 200
        self._is_crypto = name == "alpaca-crypto"
        self._lives = _PAIRS if self._is_crypto else _STOCKS
        self._west_h = 6 if self._is_crypto else 5  # Chicago and New York, in winter
        self._tape = tape
        self._now_ms = now_ms
        self._budget = Budget(10**9)

    @property
    def keys(self) -> dict[str, str]:
        """What it wants to see, as `api_keys` takes it; pairs need none."""
        return {} if self._is_crypto else {"key_id": KEY_ID, "secret_key": SECRET_KEY}

    def answers(self, path: str) -> bool:
        """Whether the path is one of these bars, or of what changes them."""
        return path == _PAIR_PATH if self._is_crypto else path == _ACTIONS_PATH or path.startswith("/v2/stocks/")

    def answer(self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> Reply:
        """The reply, with the headers that tell of the budget."""
        now_ms = self._now_ms()
        used = self._budget.spend(1, now_ms).used
        left = max(0, self.rate_limit - used)
        told = (
            ("Content-Type", "application/json; charset=UTF-8"),
            ("X-RateLimit-Limit", str(self.rate_limit)),
            ("X-RateLimit-Remaining", str(left)),
            ("X-RateLimit-Reset", str(now_ms // _MINUTE_MS * 60 + 60)),
        )
        body: Any
        try:
            if used > self.rate_limit:
                raise _Refused(429, None, "too many requests.")
            if not self._is_crypto:
                given = (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key"))
                if given != (KEY_ID, SECRET_KEY):
                    raise _Refused(401, 40110000, "request is not authorized")
            answer = self._actions if path == _ACTIONS_PATH else self._page
            status, body = 200, answer(path, dict(pairs), now_ms)
        except _Refused as refused:
            status, body = refused.status, refused.body
        return Reply(status, told, json.dumps(body, separators=(",", ":")).encode() + b"\n")

    def truth(
        self,
        symbol: str,
        timeframe: str,
        start_ms: int,
        end_ms: int,
        *,
        feed: str = "sip",
        adjustment: str = "raw",
    ) -> Columns:
        """The candles that open in [start_ms, end_ms) and have opened by now."""
        life = self._lives.get(symbol)
        if life is None:
            raise ValueError(f"the practice market of {self.name} has no {symbol!r}")
        wanted = _read_timeframe(_NAMED[timeframe])
        asked = _Asked(
            (life.listing,), life.split, life.dividends, wanted, start_ms, end_ms - 1, feed, adjustment, False
        )
        bars = list(self._bars(asked, self._now_ms()))
        return {
            "open_time": np.array([bar.open_ms for bar in bars], np.int64),
            **{
                name: np.array([getattr(bar, name) for bar in bars], np.float64)
                for name in ("open", "high", "low", "close", "volume")
            },
            "trades": np.array([bar.trades for bar in bars], np.int64),
        }

    # -- one page -------------------------------------------------------------------------------------------------

    def _page(self, path: str, params: dict[str, str], now_ms: int) -> dict[str, Any]:
        own = {"symbols", "loc"} if self._is_crypto else {"feed", "adjustment", "asof", "currency"}
        strange = sorted(params.keys() - own - {"timeframe", "start", "end", "limit", "page_token", "sort"})
        if strange:
            raise _Refused(400, 40010000, f"unexpected parameter(s): {', '.join(strange)}")
        symbol = self._symbol(path, params)
        asked = self._asked(self._lives.get(symbol), params, now_ms)
        limit = self._limit(params)
        hidden = self._tape.hidden(self.name, symbol)
        bars: list[Bar] = []
        for bar in self._bars(asked, now_ms):
            if not any(first <= bar.open_ms < last for first, last in hidden):
                bars.append(bar)
            if len(bars) > limit:
                break
        token = None
        if len(bars) > limit:
            last = _printed_time(bars[limit - 1].open_ms)[:-1] + ".000000000Z"
            token = base64.b64encode(f"{symbol}|{asked.timeframe[1]}|{last}".encode()).decode()
        shown = [self._shown(bar) for bar in bars[:limit]]
        if self._is_crypto:
            return {"bars": {symbol: shown} if shown else {}, "next_page_token": token}
        return {"bars": shown or None, "next_page_token": token, "symbol": symbol}

    def _symbol(self, path: str, params: Mapping[str, str]) -> str:
        if self._is_crypto:
            symbol = params.get("symbols", "")
            if not symbol:
                raise _Refused(400, None, "symbols is required")
            if not _PAIR.fullmatch(symbol):
                raise _Refused(400, None, f"invalid symbol: {symbol}")
            return symbol
        match = _STOCK_PATH.fullmatch(path)
        if match is None:
            raise _Refused(404, 40410000, "endpoint not found.")
        if not _SYMBOL.fullmatch(match[1]):
            raise _Refused(400, None, f"invalid symbol: {match[1]}")
        return match[1]

    def _limit(self, params: Mapping[str, str]) -> int:
        text = params.get("limit", "1000")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
            raise _Refused(400, 40010000, "invalid limit: it must be between 1 and 10000")
        return int(text) if self.page_cap is None else min(int(text), self.page_cap)

    def _asked(self, life: Life | None, params: Mapping[str, str], now_ms: int) -> _Asked:
        """The request in our own terms. A symbol that nobody has or had is no error, and has no bars."""
        timeframe = _read_timeframe(params.get("timeframe", ""))
        feed, adjustment = params.get("feed", "sip"), params.get("adjustment", "raw")
        if feed not in FEEDS:
            raise _Refused(400, None, f"invalid feed: {feed}")
        if not set(adjustment.split(",")) <= set(ADJUSTMENTS):
            raise _Refused(400, None, f"invalid adjustment: {adjustment}")
        if params.get("sort", "asc") not in ("asc", "desc"):
            raise _Refused(400, None, f"invalid sort: {params['sort']}")
        newest_first = params.get("sort") == "desc"
        is_late = self.is_free and feed == "sip" and not self._is_crypto
        newest_ms = now_ms - _FREE_AFTER_MS if is_late else now_ms
        start_ms = _read_time(params, "start", now_ms // _DAY_MS * _DAY_MS)
        end_ms = _read_time(params, "end", newest_ms)
        if end_ms < start_ms:
            raise _Refused(400, None, "end should not be before start")
        if end_ms > newest_ms and is_late:
            raise _Refused(403, None, "subscription does not permit querying recent SIP data")
        if "page_token" in params:
            last_ms = _read_token(params["page_token"])
            start_ms, end_ms = (start_ms, last_ms - 1) if newest_first else (last_ms + 1, end_ms)
        lives: tuple[Listing, ...] = () if life is None or feed not in ("sip", "iex") else (life.listing,)
        if life is not None and life.before is not None and params.get("asof") == "-":
            lives = (life.before, *lives)
        split, dividends = (None, ()) if life is None else (life.split, life.dividends)
        return _Asked(lives, split, dividends, timeframe, start_ms, end_ms, feed, adjustment, newest_first)

    # -- corporate actions ----------------------------------------------------------------------------------------

    def _actions(self, path: str, params: dict[str, str], now_ms: int) -> dict[str, Any]:
        """The page of actions that were processed, or will be, within the bounds; both are inclusive."""
        strange = sorted(params.keys() - {"symbols", "types", "start", "end", "limit", "page_token", "sort"})
        if strange:
            raise _Refused(400, 40010000, f"unexpected parameter(s): {', '.join(strange)}")
        today = str(np.datetime64(now_ms, "ms"))[:10]
        bounds = [params.get("start", today), params.get("end", today)]
        limit = self._limit({"limit": params.get("limit", "100")})
        types = params["types"].split(",") if "types" in params else None
        rows: list[tuple[str, str, dict[str, Any]]] = []
        for symbol in params.get("symbols", "").split(","):
            life = self._lives.get(symbol)
            rows += [] if life is None else _listed(symbol, life)
        found = [
            (kind, row)
            for kind, day, row in sorted(rows, key=lambda one: one[1], reverse=params.get("sort") == "desc")
            if (types is None or kind in types) and bounds[0] <= day <= bounds[1]
            if now_ms >= self._effective_ms(row["ex_date"]) - _ANNOUNCED_MS
        ]
        first = int(params.get("page_token", "0"))
        groups: dict[str, list[dict[str, Any]]] = {}
        for kind, row in found[first : first + limit]:
            groups.setdefault(f"{kind}s", []).append(row)
        token = str(first + limit) if len(found) > first + limit else None
        return {"corporate_actions": groups, "next_page_token": token}

    def _effective_ms(self, day: str) -> int:
        return int(self._midnights_ms(_days(day))[0])

    def _shown(self, bar: Bar) -> dict[str, Any]:
        mean = round(bar.worth / bar.volume, 6) if bar.volume else 0
        volume = bar.volume if self._is_crypto and bar.volume % 1 else int(bar.volume)
        return {
            "c": bar.close, "h": bar.high, "l": bar.low, "n": bar.trades, "o": bar.open,
            "t": _printed_time(bar.open_ms), "v": volume, "vw": mean,
        }  # fmt: skip

    # -- bars out of minutes --------------------------------------------------------------------------------------

    def _bars(self, asked: _Asked, now_ms: int) -> Iterator[Bar]:
        """The bars that open within the bounds, made month by month as they are taken."""
        months = []
        for listing in asked.lives:
            first_ms = max(listing.listed_ms, asked.start_ms - 31 * _DAY_MS)
            last_ms = min(listing.ended_ms, asked.end_ms + 8 * _DAY_MS, now_ms + 1)
            if first_ms <= last_ms:
                months += [(listing, month) for month in range(self._month(first_ms), self._month(last_ms) + 1)]
        waiting: Bar | None = None
        for listing, month in reversed(months) if asked.newest_first else months:
            bars = self._of_month(listing, month, asked, now_ms)
            for bar in reversed(bars) if asked.newest_first else bars:
                if waiting is not None and waiting.open_ms == bar.open_ms:  # a week in two months
                    waiting = _merged(bar, waiting) if asked.newest_first else _merged(waiting, bar)
                    continue
                if waiting is not None and asked.start_ms <= waiting.open_ms <= asked.end_ms:
                    yield waiting
                waiting = bar
        if waiting is not None and asked.start_ms <= waiting.open_ms <= asked.end_ms:
            yield waiting

    def _of_month(self, listing: Listing, month: int, asked: _Asked, now_ms: int) -> list[Bar]:
        """The bars of a month of the local calendar; of weeks, what lies in the month."""
        wanted = asked.adjustment.split(",")
        split_ms, parts = (
            (0, 1) if asked.split is None else (self._effective_ms(asked.split.ex_date), asked.split.parts)
        )
        is_split = split_ms <= now_ms and not {"split", "all"}.isdisjoint(wanted)
        effective = [(self._effective_ms(one.ex_date), one) for one in asked.dividends]
        paid = [one for one in effective if one[0] <= now_ms and not {"dividend", "all"}.isdisjoint(wanted)]
        first_ms, last_ms = self._month_ms(month), self._month_ms(month + 1)
        series = self._tape.series(self.name, listing, "1m", "candles")
        market = series.market if isinstance(series, Generated) else None
        name = (market, month, asked.timeframe, asked.feed, is_split, tuple(paid))
        is_settled = last_ms <= now_ms and market is not None
        bars = _months.find(name) if is_settled else None
        if bars is not None:
            return bars
        is_iex = asked.feed == "iex"
        found = _sessions.find((market, month, is_iex)) if is_settled else None
        if found is None:
            found = self._minutes(listing, first_ms, min(last_ms, now_ms + 1), is_iex, now_ms)
            if is_settled and not self._is_crypto:
                _sessions.keep((market, month, is_iex), found)
        minutes = dict(found)
        if parts > 1 and not is_split:
            early = minutes["open_time"] < split_ms
            for field in ("open", "high", "low", "close"):
                minutes[field] = np.where(early, np.round(minutes[field] * parts, 4), minutes[field])
            minutes["volume"] = np.where(early, minutes["volume"] // parts, minutes["volume"])
        for ex_ms, dividend in paid:
            early = minutes["open_time"] < ex_ms
            for field in ("open", "high", "low", "close"):
                less = minutes[field] * (1 - dividend.rate / dividend.price)
                minutes[field] = np.where(early, np.round(less, 4), minutes[field])
        bars = _bars_of(minutes, self._opens_ms(minutes["open_time"], asked.timeframe))
        if is_settled:
            _months.keep(name, bars)
        return bars

    def _minutes(self, listing: Listing, start_ms: int, end_ms: int, is_iex: bool, now_ms: int) -> Columns:
        columns = self._tape.series(self.name, listing, "1m", "candles").truth(start_ms, end_ms, now_ms)
        if self._is_crypto:
            return columns
        if is_iex:
            columns["trades"] = columns["trades"] // _IEX_SHARE
            columns["volume"] = columns["volume"] // _IEX_SHARE
            columns["quote_volume"] = columns["quote_volume"] / _IEX_SHARE
        local_ms = columns["open_time"] + self._offsets_ms(columns["open_time"])
        days, clock_ms = np.divmod(local_ms, _DAY_MS)
        closing_ms = np.where(np.isin(days, _EARLY), 13 * _HOUR_MS, 16 * _HOUR_MS)
        trades = (days + 3) % 7 < 5  # 1970-01-01 was a Thursday
        trades &= ~np.isin(days, _HOLIDAYS) & (clock_ms >= 9.5 * _HOUR_MS) & (clock_ms < closing_ms)
        trades &= columns["trades"] > 0
        return {name: column[trades] for name, column in columns.items()}

    # -- local time -----------------------------------------------------------------------------------------------

    def _offsets_ms(self, utc_ms_: Int64s) -> Int64s:
        """What local time is ahead of UTC: summer time runs from 02:00 of the second Sunday in March to 02:00 of the
        first one in November (2007 to today)."""
        january = utc_ms_.astype("datetime64[ms]").astype("datetime64[Y]").astype(np.int64) * 12
        march, november = (
            month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
            for month in (january + 2, january + 10)
        )
        starts = (march + (3 - march) % 7 + 7) * _DAY_MS + (self._west_h + 2) * _HOUR_MS
        ends = (november + (3 - november) % 7) * _DAY_MS + (self._west_h + 1) * _HOUR_MS
        summer = (starts <= utc_ms_) & (utc_ms_ < ends)
        return (summer.astype(np.int64) - self._west_h) * _HOUR_MS

    def _midnights_ms(self, days: Int64s) -> Int64s:
        """When the local days begin."""
        winter_ms: Int64s = days * _DAY_MS + self._west_h * _HOUR_MS
        return days * _DAY_MS - self._offsets_ms(winter_ms)

    def _opens_ms(self, minutes_ms: Int64s, timeframe: tuple[int, str]) -> Int64s:
        """When the bars open that hold the minutes."""
        count, unit = timeframe
        if unit in "mh":
            step_ms = count * (_MINUTE_MS if unit == "m" else _HOUR_MS)
            return minutes_ms // step_ms * step_ms
        days = (minutes_ms + self._offsets_ms(minutes_ms)) // _DAY_MS
        if unit == "w":
            days = (days + 3) // 7 * 7 - 3
        if unit == "M":
            months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) // count * count
            days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        return self._midnights_ms(days)

    def _month(self, ms: int) -> int:
        local = np.array([ms]) + self._offsets_ms(np.array([ms]))
        return int(local.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)[0])

    def _month_ms(self, month: int) -> int:
        return int(self._midnights_ms(np.array([month], "datetime64[M]").astype("datetime64[D]").astype(np.int64))[0])


def _listed(symbol: str, life: Life) -> list[tuple[str, str, dict[str, Any]]]:
    """The type of each action, the day on which it is processed, and its row."""
    rows: list[tuple[str, str, dict[str, Any]]] = []
    if life.split is not None:
        day, parts = life.split
        row = {"ex_date": day, "new_rate": parts, "old_rate": 1, "process_date": day, "symbol": symbol}
        rows.append(("forward_split", day, row))
    for one in life.dividends:
        days = {"ex_date": one.ex_date, "payable_date": one.paid, "process_date": one.paid, "record_date": one.ex_date}
        row = {**days, "foreign": False, "special": False, "rate": one.rate, "symbol": symbol}
        rows.append(("cash_dividend", one.paid, row))
    return rows


def _bars_of(minutes: Columns, opens_ms: Int64s) -> list[Bar]:
    """A bar of each run of minutes with the same open time."""
    if not len(opens_ms):
        return []
    firsts = np.flatnonzero(np.diff(opens_ms, prepend=opens_ms[0] - 1))
    lasts = np.append(firsts[1:], len(opens_ms)) - 1
    volumes = np.add.reduceat(minutes["volume"], firsts)
    columns = (
        opens_ms[firsts],
        minutes["open"][firsts],
        np.maximum.reduceat(minutes["high"], firsts),
        np.minimum.reduceat(minutes["low"], firsts),
        minutes["close"][lasts],
        np.round(volumes, 8),
        np.add.reduceat(minutes["trades"], firsts),
        np.add.reduceat(minutes["quote_volume"], firsts),
    )
    return [Bar(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def _merged(earlier: Bar, later: Bar) -> Bar:
    return Bar(
        earlier.open_ms,
        earlier.open,
        max(earlier.high, later.high),
        min(earlier.low, later.low),
        later.close,
        round(earlier.volume + later.volume, 8),
        earlier.trades + later.trades,
        earlier.worth + later.worth,
    )


def _read_timeframe(text: str) -> tuple[int, str]:
    match = _TIMEFRAME.fullmatch(text)
    if match is not None:
        count, unit = int(match[1]), {"T": "m", "Min": "m", "M": "M", "Month": "M"}.get(match[2], match[2][0].lower())
        allowed = {
            "m": count < 60,
            "h": count < 24,
            "d": count == 1,
            "w": count == 1,
            "M": count in (1, 2, 3, 4, 6, 12),
        }
        if allowed[unit]:
            return count, unit
    raise _Refused(422, 42210000, "invalid timeframe")


def _read_time(params: Mapping[str, str], name: str, default: int) -> int:
    """Unix ms of a date or a time."""
    if name not in params:
        return default
    match = _TIME.fullmatch(params[name])
    try:
        if match is None:
            raise ValueError
        zone = (match[4] or "Z").upper().replace("Z", "+00:00")
        moment = dt.datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00:00'}{zone}")
        seconds = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(seconds=1)
        return seconds * 1000 + int((match[3] or "").ljust(3, "0")[:3])
    except (ValueError, OverflowError):
        raise _Refused(400, None, f"Invalid format for parameter {name}: {params[name]!r}") from None


def _read_token(text: str) -> int:
    """When the last bar of the page before opens."""
    try:
        told = base64.b64decode(text, validate=True).decode().split("|")[2]
        return _read_time({"time": told}, "time", 0)
    except (binascii.Error, UnicodeDecodeError, IndexError, _Refused):
        raise _Refused(400, None, "invalid page_token") from None


def _printed_time(ms: int) -> str:
    return f"{np.datetime64(ms // 1000, 's')}Z"
