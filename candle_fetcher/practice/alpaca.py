"""The REST dialect of Alpaca over the practice market: bars of stocks, by sessions, and of crypto pairs, all day.

Bars are made of minutes; those of pairs are made of hours where the result is the same. Stocks trade from 09:30 to
16:00 of New York on weekdays that are not holidays, and have no bar for a minute without trades; pairs have one, out of
quotes. Days, weeks and months open at midnight of New York, and of Chicago for pairs. Bounds are inclusive, pages may
be short, and a token leads to the next one. Splits and dividends are listed for two weeks before they take effect at
midnight of New York, a dividend by the day on which it is paid; from then on adjusted bars before it have other values.
Sources: docs.alpaca.markets, historical bars (market-data-api, 2026), corporate actions (reference/corporateactions);
the forum's topics 14660 and 18614 (their fields); replies of 2021 to 2024; nyse.com, holidays and early closings of
2023 to 2026.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.practice.faults import ServedReply
from candle_fetcher.practice.limits import Budget
from candle_fetcher.practice.listings import MarketListing
from candle_fetcher.practice.local_clock import Int64s, LocalClock, days_of
from candle_fetcher.practice.market import Kept
from candle_fetcher.practice.series import Generated, Tape
from candle_fetcher.practice.stocks import PAIRS, STOCKS, Dividend, Life, Split

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
_PRICES = ("open", "high", "low", "close")
_ACTIONS_PATH = "/v1/corporate-actions"
_ANNOUNCED_MS = 14 * _DAY_MS
_STOCK_PATH = re.compile(r"/v2/stocks/([^/]+)/bars")
_PAIR_PATH = "/v1beta3/crypto/us/bars"
_SNAPSHOTS_PATH, _PAIR_SNAPSHOTS = "/v2/stocks/snapshots", "/v1beta3/crypto/us/snapshots"
_SYMBOL = re.compile(r"[A-Z0-9.]{1,15}")
_PAIR = re.compile(r"[A-Z0-9]{1,12}/[A-Z0-9]{2,6}")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d))?", re.ASCII | re.IGNORECASE
)


class _AlpacaRefusal(Exception):
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

    lives: tuple[MarketListing, ...]
    split: Split | None
    dividends: tuple[Dividend, ...]
    timeframe: tuple[int, str]
    start_ms: int
    end_ms: int
    feed: str
    adjustment: str
    newest_first: bool


# Bars of closed months without corrections, shared by all exchanges.
_months: Kept[tuple[Any, ...], list[Bar]] = Kept(600)
# Minutes of sessions, of which bars of stocks are made: room for ten years of one stock.
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
        self._lives = PAIRS if self._is_crypto else STOCKS
        self._local = LocalClock(6 if self._is_crypto else 5)  # Chicago, New York
        self._tape = tape
        self._now_ms = now_ms
        self._budget = Budget(10**9)

    @property
    def keys(self) -> dict[str, str]:
        """What it wants to see, as `api_keys` takes it; pairs need none."""
        return {} if self._is_crypto else {"key_id": KEY_ID, "secret_key": SECRET_KEY}

    def answers(self, path: str) -> bool:
        """Return whether the path is one of these bars, or of the corporate actions that change them."""
        if self._is_crypto:
            return path in (_PAIR_PATH, _PAIR_SNAPSHOTS)
        return path == _ACTIONS_PATH or path.startswith("/v2/stocks/")

    def answer(self, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> ServedReply:
        """Return the reply, with the headers about the budget."""
        now_ms = self._now_ms()
        used = self._budget.spend(1, now_ms).used
        left = max(0, self.rate_limit - used)
        limits = (
            ("Content-Type", "application/json; charset=UTF-8"),
            ("X-RateLimit-Limit", str(self.rate_limit)),
            ("X-RateLimit-Remaining", str(left)),
            ("X-RateLimit-Reset", str(now_ms // _MINUTE_MS * 60 + 60)),
        )
        body: Any
        try:
            if used > self.rate_limit:
                raise _AlpacaRefusal(429, None, "too many requests.")
            if not self._is_crypto:
                given = (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key"))
                if given != (KEY_ID, SECRET_KEY):
                    raise _AlpacaRefusal(401, 40110000, "request is not authorized")
            answers = {_ACTIONS_PATH: self._actions, _SNAPSHOTS_PATH: self._snapshots, _PAIR_SNAPSHOTS: self._snapshots}
            answer = answers.get(path, self._page)
            status, body = 200, answer(path, dict(pairs), now_ms)
        except _AlpacaRefusal as refused:
            status, body = refused.status, refused.body
        return ServedReply(status, limits, json.dumps(body, separators=(",", ":")).encode() + b"\n")

    def listing(self, symbol: str) -> MarketListing:
        """Return the stock or pair. Raises KeyError where there is none."""
        return self._lives[symbol].listing

    def trade(self, symbol: str, now_ms: int) -> tuple[float, float, int] | None:
        """Return the last price, the best ask, and how many trades were made in the second of the instant; None where
        there is no trading."""
        life = self._lives.get(symbol)
        if life is None or not (self._is_crypto or bool(self._local.in_session(np.array([now_ms], np.int64))[0])):
            return None
        second_ms, series = now_ms // 1000 * 1000, self._tape.generated(self.name, life.listing)
        second = series.candles_between(second_ms, second_ms + 1000)
        if not len(second.close):
            return None
        price = float(second.close[0]) / 10.0**series.style.price
        return price, round(price + 10.0**-life.listing.price_decimals, 8), int(second.trades[0])

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
        """Return the candles that open in [start_ms, end_ms) and have opened by now."""
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
            raise _AlpacaRefusal(400, 40010000, f"unexpected parameter(s): {', '.join(strange)}")
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
                raise _AlpacaRefusal(400, None, "symbols is required")
            if not _PAIR.fullmatch(symbol):
                raise _AlpacaRefusal(400, None, f"invalid symbol: {symbol}")
            return symbol
        match = _STOCK_PATH.fullmatch(path)
        if match is None:
            raise _AlpacaRefusal(404, 40410000, "endpoint not found.")
        if not _SYMBOL.fullmatch(match[1]):
            raise _AlpacaRefusal(400, None, f"invalid symbol: {match[1]}")
        return match[1]

    def _limit(self, params: Mapping[str, str]) -> int:
        text = params.get("limit", "1000")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
            raise _AlpacaRefusal(400, 40010000, "invalid limit: it must be between 1 and 10000")
        return int(text) if self.page_cap is None else min(int(text), self.page_cap)

    def _asked(self, life: Life | None, params: Mapping[str, str], now_ms: int) -> _Asked:
        """Return the request in our own terms. An unknown symbol is not an error, and has no bars."""
        timeframe = _read_timeframe(params.get("timeframe", ""))
        feed, adjustment = params.get("feed", "sip"), params.get("adjustment", "raw")
        if feed not in FEEDS:
            raise _AlpacaRefusal(400, None, f"invalid feed: {feed}")
        if not set(adjustment.split(",")) <= set(ADJUSTMENTS):
            raise _AlpacaRefusal(400, None, f"invalid adjustment: {adjustment}")
        if params.get("sort", "asc") not in ("asc", "desc"):
            raise _AlpacaRefusal(400, None, f"invalid sort: {params['sort']}")
        newest_first = params.get("sort") == "desc"
        is_late = self.is_free and feed == "sip" and not self._is_crypto
        newest_ms = now_ms - _FREE_AFTER_MS if is_late else now_ms
        start_ms = _read_time(params, "start", now_ms // _DAY_MS * _DAY_MS)
        end_ms = _read_time(params, "end", newest_ms)
        if end_ms < start_ms:
            raise _AlpacaRefusal(400, None, "end should not be before start")
        if end_ms > newest_ms and is_late:
            raise _AlpacaRefusal(403, None, "subscription does not permit querying recent SIP data")
        if "page_token" in params:
            last_ms = _read_token(params["page_token"])
            start_ms, end_ms = (start_ms, last_ms - 1) if newest_first else (last_ms + 1, end_ms)
        lives: tuple[MarketListing, ...] = () if life is None or feed not in ("sip", "iex") else (life.listing,)
        if life is not None and life.before is not None and params.get("asof") == "-":
            lives = (life.before, *lives)
        split, dividends = (None, ()) if life is None else (life.split, life.dividends)
        return _Asked(lives, split, dividends, timeframe, start_ms, end_ms, feed, adjustment, newest_first)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def _snapshots(self, path: str, params: dict[str, str], now_ms: int) -> dict[str, Any]:
        """Return the last trade, the best prices and the newest bars of each symbol. An unknown stock is null, an
        unknown pair left out."""
        feed, names = params.get("feed", "sip"), [name for name in params.get("symbols", "").split(",") if name]
        if not names:
            raise _AlpacaRefusal(400, None, "symbols is required")
        strange = [name for name in names if not (_PAIR if self._is_crypto else _SYMBOL).fullmatch(name)]
        if strange:
            raise _AlpacaRefusal(400, None, f"invalid symbol: {strange[0]}")
        if feed not in FEEDS:
            raise _AlpacaRefusal(400, None, f"invalid feed: {feed}")
        if self.is_free and feed == "sip" and not self._is_crypto:
            raise _AlpacaRefusal(403, None, "subscription does not permit querying recent SIP data")
        found = {name: self._snapshot(name, feed, now_ms) for name in names}
        if self._is_crypto:
            return {"snapshots": {name: one for name, one in found.items() if one is not None}}
        return found

    def _snapshot(self, symbol: str, feed: str, now_ms: int) -> dict[str, Any] | None:
        life = self._lives.get(symbol)
        if life is None:
            return None
        hidden = self._tape.hidden(self.name, symbol)

        def newest(unit: str, count: int) -> list[Bar]:
            asked = _Asked((life.listing,), None, (), (1, unit), now_ms - 10 * _DAY_MS, now_ms, feed, "raw", True)
            bars = self._bars(asked._replace(split=life.split, dividends=life.dividends), now_ms)
            shown = (bar for bar in bars if not any(first <= bar.open_ms < last for first, last in hidden))
            return list(itertools.islice(shown, count))

        minutes, days = newest("m", 1), newest("d", 2)
        if not minutes or not days:
            return {"latestTrade": None, "latestQuote": None, "minuteBar": None, "dailyBar": None, "prevDailyBar": None}
        minute = minutes[0]
        traded_ms = min(now_ms, minute.open_ms + _MINUTE_MS - 1)
        time = f"{np.datetime64(traded_ms, 'ms')}000000Z"
        step = 10.0**-life.listing.price_decimals
        trade = {"t": time, "p": minute.close, "s": 1, "i": minute.open_ms}
        quote = {"t": time, "bp": minute.close, "bs": 1, "ap": round(minute.close + step, 8), "as": 2}
        return {
            "latestTrade": trade,
            "latestQuote": quote,
            "minuteBar": self._shown(minute),
            "dailyBar": self._shown(days[0]),
            "prevDailyBar": self._shown(days[1]) if len(days) > 1 else None,
        }

    # -- corporate actions ----------------------------------------------------------------------------------------

    def _actions(self, path: str, params: dict[str, str], now_ms: int) -> dict[str, Any]:
        """Return the page of actions that were processed, or will be, within the bounds; both are inclusive."""
        strange = sorted(params.keys() - {"symbols", "types", "start", "end", "limit", "page_token", "sort"})
        if strange:
            raise _AlpacaRefusal(400, 40010000, f"unexpected parameter(s): {', '.join(strange)}")
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
        return int(self._local.midnights_ms(days_of(day))[0])

    def _shown(self, bar: Bar) -> dict[str, Any]:
        mean = round(bar.worth / bar.volume, 6) if bar.volume else 0
        volume = bar.volume if self._is_crypto and bar.volume % 1 else int(bar.volume)
        return {
            "c": bar.close, "h": bar.high, "l": bar.low, "n": bar.trades, "o": bar.open,
            "t": _printed_time(bar.open_ms), "v": volume, "vw": mean,
        }  # fmt: skip

    # -- bars out of minutes --------------------------------------------------------------------------------------

    def _bars(self, asked: _Asked, now_ms: int) -> Iterator[Bar]:
        """Return the bars that open within the bounds, made month by month as they are taken."""
        months = []
        for listing in asked.lives:
            first_ms = max(listing.listed_ms, asked.start_ms - 31 * _DAY_MS)
            last_ms = min(listing.ended_ms, asked.end_ms + 8 * _DAY_MS, now_ms + 1)
            if first_ms <= last_ms:
                months += [
                    (listing, month) for month in range(self._local.month(first_ms), self._local.month(last_ms) + 1)
                ]
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

    def _of_month(self, listing: MarketListing, month: int, asked: _Asked, now_ms: int) -> list[Bar]:
        """Return the bars of a month of the local calendar; of a week, the part that lies in the month."""
        adjustments = set(asked.adjustment.split(","))
        split_ms, parts = 0, 1
        if asked.split is not None:
            split_ms, parts = self._effective_ms(asked.split.ex_date), asked.split.parts
        is_split = split_ms <= now_ms and not adjustments.isdisjoint(("split", "all"))
        effective = [(self._effective_ms(one.ex_date), one) for one in asked.dividends]
        is_paid = not adjustments.isdisjoint(("dividend", "all"))
        paid = [one for one in effective if is_paid and one[0] <= now_ms]
        series = self._tape.series(self.name, listing, "1m", "candles")
        market = series.market if isinstance(series, Generated) else None
        is_settled = self._local.month_ms(month + 1) <= now_ms and market is not None
        name = (market, month, asked.timeframe, asked.feed, is_split, tuple(paid))
        bars = _months.find(name) if is_settled else None
        if bars is None:
            minutes = dict(self._minutes_of_month(listing, month, asked, now_ms, market if is_settled else None))
            if not is_split:
                _undo_split(minutes, split_ms, parts)
            for ex_ms, dividend in paid:
                _take_dividend(minutes, ex_ms, dividend)
            bars = _bars_of(minutes, self._local.opens_ms(minutes["open_time"], asked.timeframe))
            if is_settled:
                _months.keep(name, bars)
        return bars

    def _minutes_of_month(
        self, listing: MarketListing, month: int, asked: _Asked, now_ms: int, settled: object
    ) -> Columns:
        """Return the columns of which the bars of a month are made; those of a settled market are made once."""
        first_ms, end_ms = self._local.month_ms(month), min(self._local.month_ms(month + 1), now_ms + 1)
        if self._is_crypto:
            return self._of_pairs(listing, first_ms, end_ms, asked.timeframe[1], now_ms)
        is_iex = asked.feed == "iex"
        found = _sessions.find((settled, month, is_iex)) if settled is not None else None
        if found is None:
            found = self._minutes(listing, first_ms, end_ms, is_iex, now_ms)
            if settled is not None:
                _sessions.keep((settled, month, is_iex), found)
        return found

    def _of_pairs(self, listing: MarketListing, start_ms: int, end_ms: int, unit: str, now_ms: int) -> Columns:
        """Return the candles that make up bars of the unit: hours for days, since days begin on the hour in Chicago."""
        series = self._tape.series(self.name, listing, "1m" if unit == "m" else "1h", "candles")
        return series.truth(start_ms, end_ms, now_ms)

    def _minutes(self, listing: MarketListing, start_ms: int, end_ms: int, is_iex: bool, now_ms: int) -> Columns:
        """Return the minutes of sessions in which there were trades."""
        series = self._tape.series(self.name, listing, "1m", "candles")
        if isinstance(series, Generated) and series.market is not None and end_ms <= now_ms:
            hours = np.arange(start_ms // _HOUR_MS, end_ms // _HOUR_MS)
            columns = series.minutes(hours[self._local.in_session(hours * _HOUR_MS + _HOUR_MS // 2)])
        else:
            columns = series.truth(start_ms, end_ms, now_ms)
        if is_iex:
            columns["trades"] = columns["trades"] // _IEX_SHARE
            columns["volume"] = columns["volume"] // _IEX_SHARE
            columns["quote_volume"] = columns["quote_volume"] / _IEX_SHARE
        trades = self._local.in_session(columns["open_time"]) & (columns["trades"] > 0)
        return {name: column[trades] for name, column in columns.items()}


def _listed(symbol: str, life: Life) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the type of each action, the day on which it is processed, and its row."""
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
    """Return a bar of each run of minutes with the same open time."""
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
    raise _AlpacaRefusal(422, 42210000, "invalid timeframe")


def _read_time(params: Mapping[str, str], name: str, default: int) -> int:
    """Return Unix ms of a date or a time."""
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
        raise _AlpacaRefusal(400, None, f"Invalid format for parameter {name}: {params[name]!r}") from None


def _read_token(text: str) -> int:
    """Return the open time of the last bar of the page before."""
    try:
        time = base64.b64decode(text, validate=True).decode().split("|")[2]
        return _read_time({"time": time}, "time", 0)
    except (binascii.Error, UnicodeDecodeError, IndexError, _AlpacaRefusal):
        raise _AlpacaRefusal(400, None, "invalid page_token") from None


def _printed_time(ms: int) -> str:
    return f"{np.datetime64(ms // 1000, 's')}Z"


def _undo_split(minutes: Columns, split_ms: int, parts: int) -> None:
    """Give the prices and volumes before the split as they were then."""
    if parts > 1:
        early = minutes["open_time"] < split_ms
        for field in _PRICES:
            minutes[field] = np.where(early, np.round(minutes[field] * parts, 4), minutes[field])
        minutes["volume"] = np.where(early, minutes["volume"] // parts, minutes["volume"])


def _take_dividend(minutes: Columns, ex_ms: int, dividend: Dividend) -> None:
    """Lower the prices before the ex-date by the dividend's part of the price."""
    early = minutes["open_time"] < ex_ms
    for field in _PRICES:
        lowered = minutes[field] * (1 - dividend.rate / dividend.price)
        minutes[field] = np.where(early, np.round(lowered, 4), minutes[field])
