"""A small exchange that publishes candles late, corrects them late and restates them, in the dialect of each provider.

What it has of a slot at an instant is a pure function of both. Prices tell the slot and the version of a candle: -1
while it forms or is not committed, 0 once it is over, one more with each correction.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from loopback import Asked, Said

MINUTE_S = 60
HOUR_S = 3_600
DAY_S = 86_400
EASTERN = ZoneInfo("America/New_York")


class Life(NamedTuple):
    """When a candle appears, in seconds after its close (None: never), and when it is corrected."""

    published_s: float | None
    corrected_s: tuple[float, ...] = ()

    def version(self, age_s: float) -> int | None:
        """The version that is there so long after the close; None where there is none."""
        if self.published_s is None or age_s < self.published_s:
            return None
        return sum(age_s >= one for one in self.corrected_s)


class Market:
    """The lives of the slots of one series, drawn from what its provider is known to do."""

    def __init__(self, rule: Rule, seed: int, first_s: int) -> None:
        self.rule = rule
        self.first_s = first_s
        self.lives: dict[int, Life] = {}
        self._seed = seed

    def life(self, open_s: int) -> Life:
        if open_s not in self.lives:
            dice = random.Random(f"{self._seed}|{open_s}")
            life = Life(dice.choice(self.rule.published_s), dice.choice(self.rule.corrected_s))
            self.lives[open_s] = Life(None) if dice.random() < self.rule.holes else life
        return self.lives[open_s]

    def version(self, open_s: int, now_s: float) -> int | None:
        """What the exchange has of a candle that is over."""
        return self.life(open_s).version(now_s - self.rule.close_s(open_s))

    def rows(self, now_s: float) -> list[tuple[int, int]]:
        """Every slot that has a row, and its version; the one that forms last."""
        rows, open_s = [], self.first_s
        while open_s <= now_s:
            close_s = self.rule.close_s(open_s)
            if close_s > now_s:
                rows.append((open_s, -1))
            elif (version := self.version(open_s, now_s)) is not None:
                rows.append((open_s, version))
            open_s = close_s
        return rows

    def final(self, now_s: float) -> dict[int, float]:
        """The closes of all candles that are over, by their opening in ms, once nothing more is published of them."""
        rows, open_s = {}, self.first_s
        while self.rule.close_s(open_s) <= now_s:
            life = self.life(open_s)
            if life.published_s is not None:
                rows[open_s * 1000] = close_of(open_s, len(life.corrected_s))
            open_s = self.rule.close_s(open_s)
        return rows


class Rule(NamedTuple):
    """How a provider publishes: its timeframe and symbol, the choices of delays, and how many slots have no row."""

    timeframe: str
    symbol: str
    step_s: int
    published_s: tuple[float, ...] = (0.0,)
    corrected_s: tuple[tuple[float, ...], ...] = ((),)
    holes: float = 0.0
    # How long after its close a candle may be handed out wrong, by the contract, and its row be absent.
    wrong_s: float = 0.0
    late_s: float = 0.0
    in_zone: bool = False

    def close_s(self, open_s: int) -> int:
        if not self.in_zone:
            return open_s + self.step_s
        day = dt.datetime.fromtimestamp(open_s, EASTERN).date() + dt.timedelta(days=1)
        return int(dt.datetime(day.year, day.month, day.day, tzinfo=EASTERN).timestamp())


RULES = {
    # Corrected within two seconds as a rule, and some 40 s or 100 s after the close now and then.
    "binance": Rule("1m", "BTC/USDT", 60, (0.0, 0.5), ((), (1.0,), (1.5, 40.0), (100.0,)), 0.03, 120.0, 60.0),
    "binance-us": Rule("1m", "BTC/USDT", 60, (0.0, 30.0), ((), (1.0,), (40.0,)), 0.03, 120.0, 60.0),
    "binance-um": Rule("1m", "BTC/USDT", 60, (0.0, 0.5), ((), (1.0,), (1.5, 40.0)), 0.0, 120.0, 60.0),
    "binance-cm": Rule("1m", "BTC/USD", 60, (0.0, 0.5), ((), (1.0,), (1.5, 40.0)), 0.0, 120.0, 60.0),
    "kraken": Rule("1m", "BTC/USD", 60, (0.0, 5.0, 34.0), ((), ()), 0.0, 0.0, 300.0),
    "alpaca": Rule("1m", "AAPL", 60, (1.0, 20.0), ((), (30.0,), (30.0, 70.0)), 0.1, 120.0, 60.0),
    "alpaca-crypto": Rule("1m", "BTC/USD", 60, (1.0, 20.0), ((), (30.0,)), 0.1, 0.0, 60.0),
    "coingecko": Rule("30m", "bitcoin/usd", 1800, (0.0,), ((), (400.0,)), 0.0, 0.0, 2100.0),
    "tradestation": Rule("1m", "MSFT", 60, (0.0, 10.0, 600.0), ((), ()), 0.1, 0.0, 3600.0),
    "alphavantage": Rule("1d", "IBM", DAY_S, (0.0, 3600.0, 70_000.0), ((), (600.0,)), 0.0, 0.0, 2 * DAY_S, True),
}


def close_of(open_s: int, version: int) -> float:
    """The close of the candle in that version."""
    return 100.0 + open_s // 60 % 64 + version / 4


def prices(open_s: int, version: int) -> tuple[float, float, float, float]:
    """Open, high, low, close."""
    close = close_of(open_s, version)
    return close, close + 1, close - 1, close


class Dialect:
    """Answers requests as the provider would, out of the market, at the time of `clock`."""

    def __init__(self, name: str, market: Market) -> None:
        self.name = name
        self.market = market
        self.now_s = 0.0
        self._answer = {
            "kraken": self._kraken,
            "alpaca": self._alpaca,
            "alpaca-crypto": self._alpaca,
            "coingecko": self._coingecko,
            "tradestation": self._tradestation,
            "alphavantage": self._alphavantage,
        }.get(name, self._binance)

    def __call__(self, asked: Asked) -> Said:
        value = self._answer(asked.path, asked.params)
        return value if isinstance(value, Said) else Said(json.dumps(value, separators=(",", ":")).encode())

    def _binance(self, path: str, params: dict[str, str]) -> Any:
        if path.endswith("/time"):
            return {"serverTime": int(self.now_s * 1000)}
        if path.endswith("/exchangeInfo"):
            return {"rateLimits": [], "symbols": []}
        start, end = int(params.get("startTime", 0)), int(params.get("endTime", 2**53))
        rows = [row for row in self.market.rows(self.now_s) if start <= row[0] * 1000 <= end]
        limit = int(params.get("limit", 500))
        is_newest = "startTime" not in params or self.name == "binance-cm"
        return [self._kline(*row) for row in (rows[-limit:] if is_newest else rows[:limit])]

    def _kline(self, open_s: int, version: int) -> list[Any]:
        texts = [f"{value:.8f}" for value in prices(open_s, version)]
        close_ms = self.market.rule.close_s(open_s) * 1000 - 1
        volume = f"{10 + version:.8f}"
        return [open_s * 1000, *texts, volume, close_ms, volume, 7, volume, volume, "0"]

    def _kraken(self, path: str, params: dict[str, str]) -> Any:
        if path.endswith("/Time"):
            result: Any = {"unixtime": int(self.now_s)}
        elif path.endswith("/AssetPairs"):
            names = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "status": "online"}
            result = {"XXBTZUSD": names}
        else:
            # Nothing is committed before what comes before it is: the running candle is the first that is not.
            rows: list[tuple[int, int]] = []
            for open_s, version in self._over():
                if version is None:
                    rows.append((open_s, -1))
                    break
                rows.append((open_s, version))
            else:
                rows.append((rows[-1][0] + self.market.rule.step_s, -1))
            texts = [[at, *(f"{one:.1f}" for one in prices(at, one)), "100.2", "5.0", 7] for at, one in rows]
            result = {"XXBTZUSD": texts[-721:], "last": rows[-2][0]}
        return {"error": [], "result": result}

    def _over(self) -> list[tuple[int, int | None]]:
        market, open_s, found = self.market, self.market.first_s, []
        while market.rule.close_s(open_s) <= self.now_s:
            found.append((open_s, market.version(open_s, self.now_s)))
            open_s = market.rule.close_s(open_s)
        return found

    def _alpaca(self, path: str, params: dict[str, str]) -> Any:
        start = dt.datetime.fromisoformat(params["start"].replace("Z", "+00:00")).timestamp()
        end = self.now_s
        if params.get("end"):
            end = min(end, dt.datetime.fromisoformat(params["end"].replace("Z", "+00:00")).timestamp())
        rows = [row for row in self.market.rows(self.now_s) if start <= row[0] <= end and row[1] >= 0]
        rows = rows[::-1] if params.get("sort") == "desc" else rows
        bars = [self._bar(*row) for row in rows[: int(params.get("limit", 1000))]]
        if path.startswith("/v2/stocks/"):
            return {"bars": bars, "symbol": self.market.rule.symbol, "next_page_token": None}
        return {"bars": {self.market.rule.symbol: bars} if bars else {}, "next_page_token": None}

    def _bar(self, open_s: int, version: int) -> dict[str, Any]:
        opened, high, low, close = prices(open_s, version)
        stamp = dt.datetime.fromtimestamp(open_s, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"t": stamp, "o": opened, "h": high, "l": low, "c": close, "v": 10 + version, "n": 7, "vw": close}

    def _coingecko(self, path: str, params: dict[str, str]) -> Any:
        # A reply is made every 15 minutes, and holds then the one that forms.
        made_s = (int(self.now_s) - 420) // 900 * 900 + 420
        rows = self.market.rows(made_s)[-48:]
        return [[(at + 1800) * 1000, *prices(at, version)] for at, version in rows]

    def _tradestation(self, path: str, params: dict[str, str]) -> Any:
        first, last = (
            dt.datetime.fromisoformat(params[name].replace("Z", "+00:00")).timestamp()
            for name in ("firstdate", "lastdate")
        )
        bars = []
        for open_s, version in [*self._over(), (self.market.rows(self.now_s)[-1][0], -1)]:
            if not first <= open_s + 60 <= last or (version is None and self.market.life(open_s).published_s is None):
                continue
            # One that is late to be closed is there before, and Open; so are those after it.
            is_open = version in (None, -1) or any(bar["BarStatus"] == "Open" for bar in bars)
            texts = dict(zip(("Open", "High", "Low", "Close"), map(str, prices(open_s, version or 0)), strict=True))
            stamp = dt.datetime.fromtimestamp(open_s + 60, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            bars.append({**texts, "TimeStamp": stamp, "TotalVolume": "5", "BarStatus": "Open" if is_open else "Closed"})
        return {"Bars": bars}

    def _alphavantage(self, path: str, params: dict[str, str]) -> Any:
        rows = {}
        for open_s, version in self.market.rows(self.now_s)[::-1]:
            names = ("1. open", "2. high", "3. low", "4. close", "5. volume")
            values = [f"{one:.4f}" for one in prices(open_s, version)] + ["5"]
            if version >= 0:
                stamp = dt.datetime.fromtimestamp(open_s, EASTERN).date().isoformat()
                rows[stamp] = dict(zip(names, values, strict=True))
        meta = {"1. Information": "Prices", "2. Symbol": "IBM", "3. Last Refreshed": "", "5. Time Zone": "US/Eastern"}
        return {"Meta Data": meta, "Time Series (Daily)": rows}
