"""What the practice exchange lists: symbols with real listing dates, and the real outages of Binance spot.

Sources: listing days of data.binance.vision; outages of a REST scan of BTCUSDT (stops from 2018 on); tick sizes of
exchangeInfo in 2025; the price of BTC on the first of each month (Binance, rounded). Other prices are about those of
their days, and what lies between is made up; volumes are of the right order and nothing more.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

FOREVER_MS = 7_258_118_400_000  # 2200-01-01, the end of the practice world
NO_DELIVERY_MS = 4_133_404_800_000

# Instants in ms and prices there, in order.
Curve = tuple[tuple[int, float], ...]


def utc_ms(text: str) -> int:
    """Return the Unix milliseconds of an ISO date or time, read as UTC."""
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class MarketListing:
    """One symbol of one market. Quantities are per day; a tick and a step count units of the last printed decimal.

    `curve` is the price of the base asset in US dollars, `against` that of a quote asset other than dollars: an
    asset has one price at all providers and in all quotes. `size` is None where the volume is in base asset and field
    7 in quote asset; on COIN-M it is the contract's worth in quote asset: the volume counts contracts and field 7 is in
    base asset. `path` names the amounts: what shares it trades as one. `offset` is taken off printed prices (premium is
    around zero).
    """

    symbol: str
    base: str
    quote: str
    listed_ms: int
    curve: Curve
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
    against: Curve = ()


def _curve(*knots: tuple[str, float], since: str = "", prices: str = "", months: int = 3) -> Curve:
    """Return a price curve in US dollars: some points, and one price every so many months since a day, about as they
    were."""
    points = {utc_ms(day): price for day, price in knots}
    for number, price in enumerate(map(float, prices.split())):
        years, month = divmod(int(since[5:7]) - 1 + number * months, 12)
        points[utc_ms(f"{int(since[:4]) + years}-{month + 1:02}-01")] = price
    return tuple(sorted(points.items()))


_BTC = _curve(
    ("2017-07-14", 2230), ("2017-08-17", 4261), since="2017-09-01", months=1, prices="""
    4690 4378 6463 9837 13716 10285 10326 6922 9246 7485 6391 7736 7011 6627 6370 4041 3701 3434 3814 4102 5322 8555
    10854 10081 9589 8290 9141 7541 7195 9352 8524 6412 8620 9448 9138 11335 11650 10777 13791 19696 28924 33093 45134
    58739 57697 37254 35045 41462 47101 43820 61300 56951 46217 38467 43160 45510 37631 31801 19942 23296 20048 19423
    20491 17166 16542 23125 23142 28465 29233 27210 30472 29232 25941 26963 34640 37724 42283 42580 61131 71280 60672
    67540 62772 64628 58974 63328 70292 96408 93576 102430 84350 82550 94172 104592 107147 115764 108246 114049 109608
    90360 87648 78741 66973""",
)  # fmt: skip
_ETH = _curve(
    ("2017-07-14", 205), ("2017-08-17", 301), ("2018-01-13", 1385), ("2018-12-15", 85), ("2020-03-16", 120),
    ("2021-05-12", 4175), ("2021-11-10", 4735), ("2022-06-18", 1050), ("2024-03-12", 4065), ("2025-08-24", 4780),
    ("2026-03-01", 2000), since="2017-10-01", prices="""
    301 733 394 453 231 131 141 294 180 129 133 225 360 737 1919 2275 3000 3677 3282 1071 1328 1196 1822 1934 1671 2282
    3647 3438 2602 3337 1822 2486 4146 2970""",
)  # fmt: skip
_BNB = _curve(
    ("2017-11-06", 1.5), ("2018-01-12", 21), ("2018-12-06", 5), ("2021-05-10", 670), ("2025-10-13", 1300),
    since="2018-01-01", prices="""
    8.5 11 14.5 10 6.1 17.4 32.5 15.9 13.7 12.6 15.5 29.3 37.4 302 303 387 511 429 218 284 246 317 240 215 312 606 580
    567 701 605 656 1010 860""",
)  # fmt: skip
_SOL = _curve(
    ("2020-08-11", 3.2), ("2021-09-09", 190), ("2021-11-06", 258), ("2022-12-29", 8.6), ("2025-01-19", 262),
    since="2020-10-01", prices="""
    2.9 1.5 19.5 35 141 170 123 33.5 33 10 21 19 21.4 101.7 202 147 152 189 124.5 154.7 208 125""",
)  # fmt: skip
_ADA = _curve(
    ("2017-11-30", 0.12), ("2018-01-04", 1.1), ("2018-04-17", 0.257), ("2018-12-15", 0.029), ("2020-03-13", 0.024),
    ("2021-09-02", 2.97), ("2024-12-03", 1.2), since="2018-04-01", prices="""
    0.155 0.139 0.084 0.041 0.07 0.084 0.039 0.0328 0.03 0.083 0.1 0.181 1.19 1.38 2.11 1.31 1.14 0.459 0.435 0.246 0.4
    0.287 0.254 0.594 0.65 0.392 0.373 0.845 0.657 0.572 0.804 0.333""",
)  # fmt: skip
_DOGE = _curve(
    ("2019-07-05", 0.0037), ("2020-12-01", 0.0033), ("2021-05-08", 0.68), ("2024-12-08", 0.46), since="2019-10-01",
    prices="""
    0.0025 0.002 0.0018 0.0023 0.0026 0.0047 0.0537 0.254 0.204 0.17 0.137 0.066 0.06 0.07 0.077 0.067 0.062 0.0895 0.22
    0.124 0.114 0.316 0.166 0.165 0.234 0.117""",
)  # fmt: skip
_XRP = _curve(
    ("2018-05-04", 0.88), ("2020-03-13", 0.14), ("2021-04-14", 1.84), ("2025-01-16", 3.2), since="2018-07-01",
    prices="""
    0.465 0.58 0.352 0.31 0.396 0.256 0.192 0.174 0.176 0.242 0.22 0.57 0.705 0.954 0.83 0.816 0.332 0.48 0.339 0.538
    0.473 0.515 0.615 0.629 0.474 0.611 2.08 2.09 2.24 2.85 1.84""",
)  # fmt: skip
_EOS = _curve(
    ("2017-07-27", 1.6), ("2017-11-01", 1.1), ("2018-01-13", 14.5), ("2018-04-29", 20.5), ("2018-12-15", 1.8),
    ("2019-06-01", 8.2), ("2020-01-01", 2.6), ("2021-01-01", 2.6), ("2021-05-12", 13), ("2022-06-18", 0.9),
    ("2024-01-01", 0.84), ("2025-05-28", 0.75),
)  # fmt: skip
_WLFI = _curve(("2025-09-01", 0.3), ("2025-10-10", 0.13), ("2026-06-01", 0.15))


def _spot(
    symbol: str,
    quote: str,
    listed: str,
    curve: Curve,
    *,
    daily: tuple[int, float],
    units: tuple[float, float],
    against: Curve = (),
) -> MarketListing:
    """Return a spot pair. `daily` are trades and volume of a day, `units` tick and step."""
    tick, step = (round(unit * 10**8) for unit in units)
    base = symbol.removesuffix(quote)
    return MarketListing(
        symbol, base, quote, utc_ms(listed), curve, symbol, *daily, tick=tick, step=step, against=against
    )


_SPOT = (
    _spot("ETHBTC", "BTC", "2017-07-14T04:00", _ETH, daily=(120_000, 60_000), units=(0.00001, 0.0001), against=_BTC),
    replace(
        _spot("EOSETH", "ETH", "2017-07-27T04:00", _EOS, daily=(20_000, 400_000), units=(0.0000001, 0.1), against=_ETH),
        ended_ms=utc_ms("2025-05-28T03:00"),
        gaps=False,
    ),
    _spot("BTCUSDT", "USDT", "2017-08-17T04:00", _BTC, daily=(1_100_000, 12_000), units=(0.01, 0.00001)),
    _spot("ETHUSDT", "USDT", "2017-08-17T04:00", _ETH, daily=(700_000, 200_000), units=(0.01, 0.0001)),
    _spot("BNBUSDT", "USDT", "2017-11-06T03:54", _BNB, daily=(300_000, 300_000), units=(0.01, 0.001)),
    replace(
        _spot("ADABTC", "BTC", "2017-11-30T06:00", _ADA, daily=(1_500, 600_000), units=(0.00000001, 0.1), against=_BTC),
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
) -> MarketListing:
    """Return a USD-M contract. `decimals` are those of price and quantity; quote volume prints as many as both
    together."""
    price, quantity = decimals
    return MarketListing(
        symbol, symbol.removesuffix("USDT"), "USDT", utc_ms(listed), curve, symbol, *daily,
        price_decimals=price, tick=tick, volume_decimals=quantity, quote_decimals=price + quantity,
        pair=symbol, contract="PERPETUAL",
    )  # fmt: skip


def _cm(base: str, listed: str, curve: Curve, *, daily: tuple[int, float], decimals: int, size: int) -> MarketListing:
    """Return a COIN-M contract. `size` is the worth of one contract in USD."""
    return MarketListing(
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
    """Return 08:00 UTC on the last Friday of the quarter."""
    month = quarter * 3
    last = dt.datetime(year, month, 31 if month in (3, 12) else 30, 8, tzinfo=dt.timezone.utc)
    return last - dt.timedelta(days=(last.weekday() - 4) % 7)


def _deliveries(now_ms: int) -> tuple[dt.datetime, dt.datetime]:
    """Return the next two delivery days after the instant."""
    year = dt.datetime.fromtimestamp(now_ms / 1000, dt.timezone.utc).year
    days = [_delivery_day(year + later, quarter) for later in (0, 1) for quarter in (1, 2, 3, 4)]
    first, second = [day for day in days if day.timestamp() * 1000 > now_ms][:2]
    return first, second


def _perpetual(provider: str, pair: str) -> MarketListing:
    return next(listing for listing in _FIXED[provider] if listing.pair == pair)


@functools.lru_cache(maxsize=256)
def find_listing(provider: str, symbol: str) -> MarketListing | None:
    """Return the symbol's listing, None where there is no such symbol; delivered contracts and delisted symbols
    included."""
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


def _contract(provider: str, pair: str, day: dt.datetime, since_ms: int) -> MarketListing:
    """Return the quarterly contract that is delivered on the day; its last six months are traded."""
    ended_ms = round(day.timestamp() * 1000)
    listed_ms = max(since_ms, ended_ms - 182 * 86_400_000)
    perpetual = _perpetual(provider, pair)
    return replace(
        perpetual, symbol=f"{pair}_{day:%y%m%d}", listed_ms=listed_ms, ended_ms=ended_ms, path=f"{pair} quarterly",
        trades=perpetual.trades // 20, volume=perpetual.volume / 20, contract="DELIVERY", gaps=False,
    )  # fmt: skip


def find_continuous(provider: str, pair: str, contract: str) -> MarketListing | None:
    """Return the path of a pair's perpetual or quarterly contracts, None where there is none."""
    if contract == "PERPETUAL":
        return next(
            (listing for listing in _FIXED[provider] if listing.pair == pair and listing.contract == contract), None
        )
    for quarterly, since in _QUARTERLY.get(provider, ()):
        if quarterly == pair and contract in ("CURRENT_QUARTER", "NEXT_QUARTER"):
            contract_listing = _contract(provider, pair, _deliveries(utc_ms(since))[0], utc_ms(since))
            return replace(contract_listing, symbol=f"{pair}_{contract}", listed_ms=utc_ms(since), ended_ms=FOREVER_MS)
    return None


def find_pair(provider: str, pair: str) -> MarketListing | None:
    """Return the perpetual contract of the pair, from which its index price is read."""
    return find_continuous(provider, pair, "PERPETUAL")


def list_symbols(provider: str, now_ms: int) -> Iterator[MarketListing]:
    """Return the symbols of exchangeInfo at the instant: listed symbols, delisted ones of spot, two quarterly contracts
    a pair."""
    yield from (listing for listing in _FIXED[provider] if listing.listed_ms <= now_ms)
    for pair, since in _QUARTERLY.get(provider, ()):
        for day, contract in zip(_deliveries(now_ms), ("CURRENT_QUARTER", "NEXT_QUARTER"), strict=True):
            listing = _contract(provider, pair, day, utc_ms(since))
            if utc_ms(since) <= now_ms and listing.listed_ms <= now_ms:
                yield replace(listing, contract=contract)


def list_all(provider: str, now_ms: int) -> Iterator[MarketListing]:
    """Return every symbol that was listed before the instant, delivered contracts too."""
    yield from (listing for listing in _FIXED[provider] if listing.listed_ms <= now_ms)
    for pair, since in _QUARTERLY.get(provider, ()):
        day = _deliveries(utc_ms(since))[0]
        while (listing := _contract(provider, pair, day, utc_ms(since))).listed_ms <= now_ms:
            yield listing
            day = _deliveries(listing.ended_ms)[0]


def premium_of(listing: MarketListing) -> MarketListing:
    """Return the path of the premium index: 8 decimals, a few hundredths of a percent around zero."""
    return replace(
        listing, path=f"{listing.path} premium", curve=((0, 0.01),), price_decimals=8, tick=1, swing=0.6, gaps=False,
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
    """Return the spot market's stops: no candle exists for the time between stop and resumption; none elsewhere."""
    return _read_stops(_SPOT_STOPS.split("\n")[1:-1]) if provider == "binance" else ()


def documented_halts(provider: str) -> Stops:
    """Return stops that show as flat candles without volume, as on the futures markets."""
    return _read_stops(_HALTS.get(provider, ()))
