"""What the practice exchange lists: symbols with real listing dates, and the real outages of Binance spot.

Sources: listing days of data.binance.vision; outages of a REST scan of BTCUSDT (stops from 2018 on); tick sizes of
exchangeInfo in 2025. Prices and volumes are of the right order and nothing more.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

FOREVER_MS = 7_258_118_400_000  # 2200-01-01, the end of the practice world
NO_DELIVERY_MS = 4_133_404_800_000


def utc_ms(text: str) -> int:
    """The Unix milliseconds of an ISO date or time, read as UTC."""
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol of one market. Quantities are per day; a tick and a step count units of the last printed decimal.

    `size` is None where the volume is in base asset and field 7 in quote asset; on COIN-M it is the contract's worth in
    quote asset: the volume counts contracts and field 7 is in base asset. `path` names the price path: what shares it
    moves as one. `offset` is taken off printed prices (the premium index is a path around zero).
    """

    symbol: str
    base: str
    quote: str
    listed_ms: int
    curve: tuple[tuple[int, float], ...]
    path: str
    trades: int
    volume: float
    price_decimals: int = 8
    tick: int = 1
    volume_decimals: int = 8
    step: int = 1
    quote_decimals: int = 8
    ended_ms: int = FOREVER_MS
    size: int | None = None
    pair: str = ""
    contract: str = ""
    funding_hours: int = 8
    swing: float = 1.0
    gaps: bool = True
    offset: int = 0


Curve = tuple[tuple[int, float], ...]


def _curve(*knots: tuple[str, float]) -> Curve:
    return tuple((utc_ms(day), price) for day, price in knots)


_BTC = _curve(
    ("2017-08-17", 4300), ("2017-12-17", 19000), ("2018-12-15", 3300), ("2019-06-26", 12000), ("2020-03-16", 5200),
    ("2021-04-14", 63000), ("2021-07-20", 30000), ("2021-11-10", 67000), ("2022-11-20", 16200), ("2024-03-14", 72000),
    ("2025-01-20", 103000), ("2025-10-06", 122000), ("2026-06-01", 98000),
)  # fmt: skip
_ETH = _curve(
    ("2017-08-17", 300), ("2018-01-13", 1350), ("2018-12-15", 85), ("2020-03-16", 115), ("2021-11-10", 4700),
    ("2022-06-18", 1000), ("2024-03-12", 4000), ("2025-04-09", 1500), ("2025-08-24", 4800), ("2026-06-01", 3300),
)  # fmt: skip
_ETHBTC = _curve(
    ("2017-07-14", 0.085), ("2018-01-13", 0.095), ("2019-09-06", 0.0165), ("2021-12-09", 0.086), ("2025-04-20", 0.018),
    ("2026-06-01", 0.034),
)  # fmt: skip
_BNB = _curve(
    ("2017-11-06", 1.5), ("2018-01-12", 22), ("2018-12-06", 4.6), ("2021-05-10", 680), ("2022-06-18", 190),
    ("2025-10-13", 1300),
)  # fmt: skip
_SOL = _curve(
    ("2020-08-11", 3.2), ("2021-11-06", 255), ("2022-12-29", 8.5), ("2024-03-18", 200), ("2025-01-19", 270),
    ("2026-06-01", 160),
)  # fmt: skip
_ADA = _curve(
    ("2018-04-17", 0.26), ("2018-12-15", 0.028), ("2021-09-02", 3.0), ("2022-12-30", 0.25), ("2024-12-03", 1.2),
    ("2026-06-01", 0.6),
)  # fmt: skip
_DOGE = _curve(
    ("2019-07-05", 0.0037), ("2020-12-01", 0.0033), ("2021-05-08", 0.68), ("2022-06-18", 0.055), ("2024-12-08", 0.46),
    ("2026-06-01", 0.17),
)  # fmt: skip
_XRP = _curve(
    ("2018-05-04", 0.88), ("2020-03-13", 0.14), ("2021-04-14", 1.8), ("2022-06-18", 0.32), ("2025-01-16", 3.3),
    ("2026-06-01", 2.1),
)  # fmt: skip
_EOSETH = _curve(("2017-07-27", 0.008), ("2018-04-29", 0.031), ("2021-01-01", 0.0036), ("2025-05-28", 0.0003))
_ADABTC = _curve(
    ("2017-11-30", 0.000012), ("2018-01-04", 0.000072), ("2020-03-13", 0.0000052), ("2021-09-02", 0.00006),
    ("2025-06-01", 0.0000066),
)  # fmt: skip
_WLFI = _curve(("2025-09-01", 0.3), ("2025-10-10", 0.13), ("2026-06-01", 0.15))


def _spot(
    symbol: str, quote: str, listed: str, curve: Curve, *, daily: tuple[int, float], units: tuple[float, float]
) -> Listing:
    """`daily` are trades and volume of a day, `units` tick and step."""
    tick, step = (round(unit * 10**8) for unit in units)
    base = symbol.removesuffix(quote)
    return Listing(symbol, base, quote, utc_ms(listed), curve, symbol, *daily, tick=tick, step=step)


_SPOT = (
    _spot("ETHBTC", "BTC", "2017-07-14T04:00", _ETHBTC, daily=(120_000, 60_000), units=(0.00001, 0.0001)),
    replace(
        _spot("EOSETH", "ETH", "2017-07-27T04:00", _EOSETH, daily=(20_000, 400_000), units=(0.0000001, 0.1)),
        ended_ms=utc_ms("2025-05-28T03:00"),
        gaps=False,
    ),
    _spot("BTCUSDT", "USDT", "2017-08-17T04:00", _BTC, daily=(1_100_000, 12_000), units=(0.01, 0.00001)),
    _spot("ETHUSDT", "USDT", "2017-08-17T04:00", _ETH, daily=(700_000, 200_000), units=(0.01, 0.0001)),
    _spot("BNBUSDT", "USDT", "2017-11-06T03:54", _BNB, daily=(300_000, 300_000), units=(0.01, 0.001)),
    replace(
        _spot("ADABTC", "BTC", "2017-11-30T06:00", _ADABTC, daily=(1_500, 600_000), units=(0.00000001, 0.1)),
        gaps=False,
    ),
    _spot("ADAUSDT", "USDT", "2018-04-17T04:00", _ADA, daily=(200_000, 90_000_000), units=(0.0001, 0.1)),
    _spot("XRPUSDT", "USDT", "2018-05-04T08:11", _XRP, daily=(250_000, 120_000_000), units=(0.0001, 0.1)),
    _spot("DOGEUSDT", "USDT", "2019-07-05T12:00", _DOGE, daily=(220_000, 600_000_000), units=(0.00001, 1)),
    _spot("SOLUSDT", "USDT", "2020-08-11T06:00", _SOL, daily=(500_000, 3_000_000), units=(0.01, 0.001)),
    _spot("WLFIUSDT", "USDT", "2025-09-01T13:00", _WLFI, daily=(150_000, 200_000_000), units=(0.0001, 0.1)),
)
_US_SINCE_MS = utc_ms("2019-09-23T13:00")
_US = tuple(
    replace(
        listing,
        listed_ms=max(listing.listed_ms, _US_SINCE_MS),
        trades=listing.trades // 20,
        volume=listing.volume / 20,
        gaps=False,
    )
    for listing in _SPOT
    if listing.symbol in ("BTCUSDT", "ETHUSDT", "BNBUSDT", "ADAUSDT", "SOLUSDT")
)


def _um(
    symbol: str, listed: str, curve: Curve, *, daily: tuple[int, float], decimals: tuple[int, int], tick: int
) -> Listing:
    """`decimals` of price and quantity; quote volume prints as many as both together."""
    price, quantity = decimals
    return Listing(
        symbol, symbol.removesuffix("USDT"), "USDT", utc_ms(listed), curve, symbol, *daily,
        price_decimals=price, tick=tick, volume_decimals=quantity, quote_decimals=price + quantity,
        pair=symbol, contract="PERPETUAL",
    )  # fmt: skip


def _cm(base: str, listed: str, curve: Curve, *, daily: tuple[int, float], decimals: int, size: int) -> Listing:
    """`size` is what one contract is worth in USD."""
    return Listing(
        f"{base}USD_PERP", base, "USD", utc_ms(listed), curve, f"{base}USD", *daily,
        price_decimals=decimals, volume_decimals=0, size=size, pair=f"{base}USD", contract="PERPETUAL",
    )  # fmt: skip


_UM = (
    _um("BTCUSDT", "2019-09-08T17:57", _BTC, daily=(2_500_000, 20_000), decimals=(2, 3), tick=10),
    _um("ETHUSDT", "2019-11-27T07:45", _ETH, daily=(2_000_000, 400_000), decimals=(2, 3), tick=1),
    replace(
        _um("DOGEUSDT", "2020-07-10T09:00", _DOGE, daily=(400_000, 900_000_000), decimals=(6, 0), tick=10),
        funding_hours=4,
    ),
    replace(
        _um("SOLUSDT", "2020-09-14T07:00", _SOL, daily=(400_000, 6_000_000), decimals=(4, 0), tick=10),
        funding_hours=1,
    ),
)
_CM = (
    _cm("BTC", "2020-08-11T06:00", _BTC, daily=(300_000, 6_000_000), decimals=1, size=100),
    _cm("ETH", "2020-08-18T07:00", _ETH, daily=(200_000, 20_000_000), decimals=2, size=10),
)
PROVIDERS = ("binance", "binance-us", "binance-um", "binance-cm")
_FIXED = {"binance": _SPOT, "binance-us": _US, "binance-um": _UM, "binance-cm": _CM}
# Pairs with quarterly contracts, and the day of the first of them.
_QUARTERLY = {
    "binance-um": (("BTCUSDT", "2021-02-03"), ("ETHUSDT", "2021-02-03")),
    "binance-cm": (("BTCUSD", "2020-06-10"), ("ETHUSD", "2020-08-11")),
}
_DELIVERY = re.compile(r"([A-Z0-9]+)_(\d{6})")


def _delivery_day(year: int, quarter: int) -> dt.datetime:
    """08:00 UTC on the last Friday of the quarter."""
    month = quarter * 3
    last = dt.datetime(year, month, 31 if month in (3, 12) else 30, 8, tzinfo=dt.timezone.utc)
    return last - dt.timedelta(days=(last.weekday() - 4) % 7)


def _deliveries(now_ms: int) -> tuple[dt.datetime, dt.datetime]:
    """The next two delivery days after the instant."""
    year = dt.datetime.fromtimestamp(now_ms / 1000, dt.timezone.utc).year
    days = [_delivery_day(year + later, quarter) for later in (0, 1) for quarter in (1, 2, 3, 4)]
    first, second = [day for day in days if day.timestamp() * 1000 > now_ms][:2]
    return first, second


def _perpetual(provider: str, pair: str) -> Listing:
    return next(listing for listing in _FIXED[provider] if listing.pair == pair)


@functools.lru_cache(maxsize=256)
def find_listing(provider: str, symbol: str) -> Listing | None:
    """The symbol's listing, None where there is no such symbol; delivered contracts and delisted symbols included."""
    for listing in _FIXED[provider]:
        if listing.symbol == symbol:
            return listing
    match = _DELIVERY.fullmatch(symbol)
    for pair, since in _QUARTERLY.get(provider, ()):
        if match is None or match[1] != pair:
            continue
        for quarter in (1, 2, 3, 4):
            day = _delivery_day(2000 + int(match[2][:2]), quarter)
            if f"{day:%y%m%d}" == match[2] and day.timestamp() * 1000 > utc_ms(since):
                return _contract(provider, pair, day, utc_ms(since))
    return None


def _contract(provider: str, pair: str, day: dt.datetime, since_ms: int) -> Listing:
    """The quarterly contract that is delivered on the day; its last six months are traded."""
    ended_ms = round(day.timestamp() * 1000)
    listed_ms = max(since_ms, ended_ms - 182 * 86_400_000)
    perpetual = _perpetual(provider, pair)
    return replace(
        perpetual, symbol=f"{pair}_{day:%y%m%d}", listed_ms=listed_ms, ended_ms=ended_ms, path=f"{pair} quarterly",
        trades=perpetual.trades // 20, volume=perpetual.volume / 20, contract="DELIVERY", gaps=False,
    )  # fmt: skip


def find_continuous(provider: str, pair: str, contract: str) -> Listing | None:
    """The path of a pair's perpetual or quarterly contracts, None where there is none."""
    if contract == "PERPETUAL":
        return next(
            (listing for listing in _FIXED[provider] if listing.pair == pair and listing.contract == contract), None
        )
    for quarterly, since in _QUARTERLY.get(provider, ()):
        if quarterly == pair and contract in ("CURRENT_QUARTER", "NEXT_QUARTER"):
            contract_listing = _contract(provider, pair, _deliveries(utc_ms(since))[0], utc_ms(since))
            return replace(contract_listing, symbol=f"{pair}_{contract}", listed_ms=utc_ms(since), ended_ms=FOREVER_MS)
    return None


def find_pair(provider: str, pair: str) -> Listing | None:
    """The perpetual contract of the pair, from which its index price is read."""
    return find_continuous(provider, pair, "PERPETUAL")


def list_symbols(provider: str, now_ms: int) -> Iterator[Listing]:
    """What exchangeInfo shows at the instant: listed symbols, delisted ones of spot, two quarterly contracts a pair."""
    yield from (listing for listing in _FIXED[provider] if listing.listed_ms <= now_ms)
    for pair, since in _QUARTERLY.get(provider, ()):
        for day, contract in zip(_deliveries(now_ms), ("CURRENT_QUARTER", "NEXT_QUARTER"), strict=True):
            listing = _contract(provider, pair, day, utc_ms(since))
            if utc_ms(since) <= now_ms and listing.listed_ms <= now_ms:
                yield replace(listing, contract=contract)


def list_all(provider: str, now_ms: int) -> Iterator[Listing]:
    """Every symbol that was listed before the instant, delivered contracts too."""
    yield from (listing for listing in _FIXED[provider] if listing.listed_ms <= now_ms)
    for pair, since in _QUARTERLY.get(provider, ()):
        day = _deliveries(utc_ms(since))[0]
        while (listing := _contract(provider, pair, day, utc_ms(since))).listed_ms <= now_ms:
            yield listing
            day = _deliveries(listing.ended_ms)[0]


def premium_of(listing: Listing) -> Listing:
    """The path of the premium index: 8 decimals, a few hundredths of a percent around zero."""
    return replace(
        listing, path=f"{listing.path} premium", curve=((0, 0.01),), price_decimals=8, tick=1, swing=0.25, gaps=False,
        offset=1_000_000,
    )  # fmt: skip


# The moment trading stopped (the millisecond after the last one traded) and the moment it went on.
_SPOT_STOPS = """
2018-01-04T03:00:15 2018-01-04T05:06
2018-02-08T00:28:14.789 2018-02-09T09:59
2018-02-10T06:00 2018-02-10T06:15
2018-02-11T04:00:01 2018-02-11T04:35
2018-06-26T02:00 2018-06-26T12:00
2018-06-27T13:00 2018-06-27T14:45
2018-07-04T00:22:26 2018-07-04T08:00
2018-10-19T06:00 2018-10-19T09:30
2018-11-14T02:00 2018-11-14T09:00
2019-03-12T02:00 2019-03-12T08:00
2019-05-15T03:00 2019-05-15T13:00
2019-06-07T21:13:14 2019-06-07T22:15
2019-08-15T02:00 2019-08-15T10:00
2019-11-13T02:00 2019-11-13T04:20
2019-11-13T05:30 2019-11-13T05:33
2019-11-25T02:00 2019-11-25T04:00
2020-02-09T02:00 2020-02-09T03:00
2020-02-19T11:35:32.287 2020-02-19T17:30
2020-03-04T09:21:47 2020-03-04T11:30
2020-04-25T02:00 2020-04-25T04:30
2020-06-28T02:00 2020-06-28T05:30
2020-11-30T06:00 2020-11-30T07:00
2020-12-21T13:47:21 2020-12-21T18:00
2020-12-25T02:00 2020-12-25T03:00
2021-02-11T03:40:55 2021-02-11T05:00
2021-03-06T02:00 2021-03-06T03:30
2021-04-20T02:00 2021-04-20T04:30
2021-04-25T04:00:59 2021-04-25T08:45
2021-08-13T02:00 2021-08-13T06:30
2021-09-29T07:00 2021-09-29T09:00
2023-03-24T12:39:42 2023-03-24T14:00
"""
_HALTS = {"binance-um": ("2021-03-02T01:15 2021-03-02T01:46",)}

Stops = Sequence[tuple[int, int]]


def _read_stops(lines: Sequence[str]) -> tuple[tuple[int, int], ...]:
    stops = []
    for line in lines:
        stop, resume = line.split()
        # Python 3.10 reads fractions of three digits only with the seconds written out, which these have.
        stops.append((utc_ms(stop), utc_ms(resume)))
    return tuple(stops)


@functools.cache
def documented_outages(provider: str) -> Stops:
    """The spot market's stops: no candle exists for the time between stop and resumption; none elsewhere."""
    return _read_stops(_SPOT_STOPS.split("\n")[1:-1]) if provider == "binance" else ()


def documented_halts(provider: str) -> Stops:
    """Stops that show as flat candles without volume, as on the futures markets."""
    return _read_stops(_HALTS.get(provider, ()))
