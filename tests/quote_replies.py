"""Replies with quotes, and what stands in them, worked out by hand.

REPLIES are written after the documentation of each provider, so that they may lie here. RECORDED are real ones, which
lie beside the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from candle_fetcher.core.quote import Ticker
from candle_fetcher.providers import find_provider


class QuoteReply(NamedTuple):
    """A reply to the request number `at` of those for the symbols: its body, or its path beside the repository."""

    name: str
    provider: str
    symbols: tuple[str, ...]
    body: bytes
    expected: tuple[Ticker, ...]
    at: int = 0
    path: str = ""

    @property
    def parse(self) -> Callable[[bytes], Sequence[Ticker]]:
        feed = find_provider(self.provider).quotes
        assert feed is not None
        return feed.requests(self.symbols, {})[self.at].parse


_SPOT = (
    b'[{"symbol":"BTCUSDT","priceChange":"-94.99","weightedAvgPrice":"67500.10","lastPrice":"67512.34000000",'
    b'"lastQty":"0.00012000","bidPrice":"67512.33000000","bidQty":"1.10000000","askPrice":"67512.34000000",'
    b'"askQty":"3.50000000","openPrice":"67607.33","highPrice":"68000.00","lowPrice":"67001.00",'
    b'"volume":"25113.50000000","quoteVolume":"1695166261.35","openTime":1717156799999,"closeTime":1717243199999,'
    b'"firstId":28385,"lastId":28460,"count":76},{"symbol":"HALTUSDT","lastPrice":"0.01230000",'
    b'"bidPrice":"0.00000000","askPrice":"0.00000000","volume":"0.00000000","closeTime":1717243199000,"count":0}]'
)
_UM_DAY = (
    b'{"symbol":"BTCUSDT","lastPrice":"67500.10","lastQty":"0.002","volume":"343392.042","quoteVolume":"23178962835.2",'
    b'"openTime":1717156740000,"closeTime":1717243199500,"firstId":439121766,"lastId":442155387,"count":3033586}'
)
_UM_BOOK = (
    b'{"symbol":"BTCUSDT","bidPrice":"67500.00","bidQty":"9.786","askPrice":"67500.10","askQty":"2.580",'
    b'"time":1717243199978,"lastUpdateId":7}'
)
_CM_DAY = (
    b'[{"symbol":"BTCUSD_PERP","pair":"BTCUSD","lastPrice":"67490.5","volume":"40717029","baseVolume":"60330.25",'
    b'"openTime":1717156740000,"closeTime":1717243199376,"count":919081}]'
)
_KRAKEN = (
    b'{"error":[],"result":{"XETHZUSD":{"a":["3810.10000","1","1.000"],"b":["3810.00000","5","5.000"],'
    b'"c":["3809.95000","0.00009443"],"v":["12.50000000","16328.90810000"],"p":["3800.0","3790.0"],"t":[35,3276],'
    b'"l":["3790.0","3780.0"],"h":["3820.0","3830.0"],"o":"3799.00"},"XXBTZUSD":{"a":["0.00000","0","0.000"],'
    b'"b":["67500.50000","1","1.000"],"c":["67501.00000","0.01000000"],"v":["0.00000000","2500.00000000"],'
    b'"p":["0","0"],"t":[0,10],"l":["1","1"],"h":["1","1"],"o":"67500.0"}}}'
)
_STOCKS = (
    b'{"AAPL":{"latestTrade":{"t":"2024-06-03T19:59:59.123456789Z","x":"V","p":194.03,"s":100,"c":["@"],"i":1,"z":"C"},'
    b'"latestQuote":{"t":"2024-06-03T19:59:59.9Z","ax":"V","ap":194.05,"as":1,"bx":"V","bp":0,"bs":0,"c":["R"],"z":"C"},'
    b'"minuteBar":{"t":"2024-06-03T19:59:00Z","o":194,"h":194.1,"l":194,"c":194.03,"v":207020,"n":1234,"vw":194.03},'
    b'"dailyBar":{"t":"2024-06-03T04:00:00Z","o":192.9,"h":194.99,"l":192.52,"c":194.03,"v":1047893,"n":9,"vw":194.1},'
    b'"prevDailyBar":null},"BRK.B":{"latestTrade":{"t":"2024-06-03T13:31:00Z","p":405.1},"latestQuote":null,'
    b'"dailyBar":{"t":"2024-05-31T04:00:00Z","v":5555}},"NONE":null}'
)
_PAIRS = (
    b'{"snapshots":{"BTC/USD":{"dailyBar":{"c":67500,"t":"2024-06-01T05:00:00Z","v":3.815852502},'
    b'"latestQuote":{"ap":67560.2,"as":0.68,"bp":67501.4,"bs":0.67,"t":"2024-06-01T12:00:19.319731Z"},'
    b'"latestTrade":{"i":7446469938634049684,"p":67498.5,"s":0.001,"t":"2024-06-01T11:21:49.863844274Z","tks":"B"}}}}'
)
_STOCK = (
    b'{"Global Quote":{"01. symbol":"IBM","02. open":"165.5200","03. high":"166.1500","04. low":"163.8800",'
    b'"05. price":"165.2800","06. volume":"2776058","07. latest trading day":"2024-06-03",'
    b'"08. previous close":"166.8500","09. change":"-1.5700","10. change percent":"-0.9410%"}}'
)
_RATE = (
    b'{"Realtime Currency Exchange Rate":{"1. From_Currency Code":"BTC","2. From_Currency Name":"Bitcoin",'
    b'"3. To_Currency Code":"EUR","4. To_Currency Name":"Euro","5. Exchange Rate":"62250.50000000",'
    b'"6. Last Refreshed":"2024-06-01 11:59:58","7. Time Zone":"UTC","8. Bid Price":"62250.40000000",'
    b'"9. Ask Price":"-"}}'
)
_COINS = (
    b'{"bitcoin":{"usd":67500,"usd_24h_vol":13500000000.0,"eur":62500.5,"eur_24h_vol":null,'
    b'"last_updated_at":1717243170},"usd-coin":{"usd":1.0,"usd_24h_vol":0,"last_updated_at":1717243165}}'
)
_STATION = (
    b'{"Quotes":[{"Symbol":"MSFT","Open":"411.5","Last":"413.52","Ask":"413.60","AskSize":"300","Bid":"413.50",'
    b'"BidSize":"200","Volume":"16930101","TradeTime":"2024-06-03T19:59:59Z","MarketFlags":{"IsDelayed":true,'
    b'"IsHardToBorrow":false,"IsBats":false,"IsHalted":false},"LastSize":"954","LastVenue":"ARCX"},'
    b'{"Symbol":"@CL","Last":"-37.63","Bid":"","Ask":"-37.00","Volume":"247947","TradeTime":"2020-04-20T18:30:00Z"}],'
    b'"Errors":[{"Symbol":"NOPE","Error":"FAILED, INVALID SYMBOL"}]}'
)

REPLIES = (
    QuoteReply(
        "binance quotes", "binance", ("BTCUSDT", "HALTUSDT", "NOPEUSDT"), _SPOT,
        (Ticker("BTCUSDT", 67512.34, 25113.5, 67512.33, 67512.34, 1717243199999),
         Ticker("HALTUSDT", 0.0123, 0.0, None, None, 1717243199000)),
    ),
    QuoteReply("binance-us quotes", "binance-us", ("HALTUSDT",), _SPOT,
        (Ticker("HALTUSDT", 0.0123, 0.0, None, None, 1717243199000),)),
    QuoteReply("binance-um quotes", "binance-um", ("BTCUSDT",), _UM_DAY,
        (Ticker("BTCUSDT", 67500.1, 343392.042, time_ms=1717243199500),)),
    QuoteReply("binance-um quotes book", "binance-um", ("BTCUSDT",), _UM_BOOK,
        (Ticker("BTCUSDT", bid_price=67500.0, ask_price=67500.1, time_ms=1717243199978),), at=1),
    QuoteReply("binance-cm quotes", "binance-cm", ("BTCUSD_PERP",), _CM_DAY,
        (Ticker("BTCUSD_PERP", 67490.5, 60330.25, time_ms=1717243199376),)),
    # A side of the book that is 0 has no price. No ticker has a time.
    QuoteReply("kraken quotes", "kraken", ("XBTUSD", "ETHUSD"), _KRAKEN,
        (Ticker("ETHUSD", 3809.95, 16328.9081, 3810.0, 3810.1), Ticker("XBTUSD", 67501.0, 2500.0, 67500.5, None))),
    # The bar of the Friday before says nothing about the volume of the Monday on which BRK.B was traded.
    QuoteReply("alpaca quotes", "alpaca", ("AAPL", "BRK.B", "NONE"), _STOCKS,
        (Ticker("AAPL", 194.03, 1047893.0, None, 194.05, 1717444799900, exchange="iex"),
         Ticker("BRK.B", 405.1, None, None, None, 1717421460000, exchange="iex"))),
    QuoteReply("alpaca-crypto quotes", "alpaca-crypto", ("BTC/USD", "NO/USD"), _PAIRS,
        (Ticker("BTC/USD", 67498.5, None, 67501.4, 67560.2, 1717243219319),)),
    # 2024-06-03 ends in New York at 04:00 UTC.
    QuoteReply("alphavantage quotes", "alphavantage", ("IBM",), _STOCK,
        (Ticker("IBM", 165.28, 2776058.0, latest_ms=1717473600000),)),
    QuoteReply("alphavantage quotes rate", "alphavantage", ("BTC/EUR",), _RATE,
        (Ticker("BTC/EUR", 62250.5, None, 62250.4, None, 1717243198000),)),
    # 13.5 billion dollars at 67,500 are 200,000 coins.
    QuoteReply("coingecko quotes", "coingecko",
        ("bitcoin/usd", "bitcoin/eur", "usd-coin/usd", "usd-coin/eur", "no/usd"), _COINS,
        (Ticker("bitcoin/usd", 67500.0, 200000.0, time_ms=1717243170000),
         Ticker("bitcoin/eur", 62500.5, None, time_ms=1717243170000),
         Ticker("usd-coin/usd", 1.0, 0.0, time_ms=1717243165000))),
    # A day's volume of a future does not stand for 24 hours.
    QuoteReply("tradestation quotes", "tradestation", ("MSFT", "@CL", "NOPE"), _STATION,
        (Ticker("MSFT", 413.52, 16930101.0, 413.5, 413.6, 1717444799000, exchange="TradeStation, 15 minutes delayed"),
         Ticker("@CL", -37.63, None, None, -37.0, 1587407400000),
         Ticker("NOPE", refusal="FAILED, INVALID SYMBOL"))),
)  # fmt: skip

_MANY = tuple(f"X{number}USDT" for number in range(14))  # of so many futures, all are asked for

RECORDED = tuple(
    QuoteReply(path, provider, symbols, b"", expected, at, f"recorded/{path}")
    for path, provider, symbols, at, expected in (
        ("live/binance_spot/rest_ticker_24hr_no_symbol_first_items.json", "binance", ("ETHBTC", "NEOBTC"), 0,
         (Ticker("ETHBTC", 0.03606, 33504.0133, 0.03605, 0.03606, 1730439017452),
          Ticker("NEOBTC", 0.000136, 6651.05, 0.000136, 0.0001362, 1730439017184))),
        ("binance_spot/ticker_24hr_btcusdt.json", "binance", ("BTCUSDT",), 0,
         (Ticker("BTCUSDT", 6705.82, 57857.494857, 6705.88, 6706.21, 1586991278494),)),
        ("live/binance_um/rest_ticker_24hr_no_symbol_first_items.json", "binance-um", ("BTCUSDT", *_MANY), 0,
         (Ticker("BTCUSDT", 32141.43, 343392.042, time_ms=1611715406239),)),
        ("live/binance_um/rest_book_ticker_all.json", "binance-um", ("BTCUSDT", "XTZUSDT", *_MANY), 1,
         (Ticker("BTCUSDT", bid_price=11495.46, ask_price=11495.47, time_ms=1602820275978),
          Ticker("XTZUSDT", bid_price=2.265, ask_price=2.266, time_ms=1602820275931))),
        ("binance_um/ticker_24hr_btcusdt.json", "binance-um", ("BTCUSDT",), 0,
         (Ticker("BTCUSDT", 47028.59, 471823.103, time_ms=1630042423017),)),
        ("live/binance_cm/rest_ticker_24hr_no_symbol_first_items.json", "binance-cm", ("BTCUSD_PERP",), 0,
         (Ticker("BTCUSD_PERP", 32155.5, 127793.43436348, time_ms=1611715405376),)),
        ("live/binance_cm/rest_book_ticker_no_symbol_first_items.json", "binance-cm", ("BTCUSD_PERP",), 1,
         (Ticker("BTCUSD_PERP", bid_price=19089.5, ask_price=19089.6, time_ms=1607294391044),)),
        ("kraken/ticker_xbtusdt.json", "kraken", ("XBTUSDT",), 0,
         (Ticker("XBTUSDT", 105899.4, 163.28908096, 105944.2, 105944.3),)),
        ("kraken/ticker_xxbtzeur_2014.json", "kraken", ("XBTEUR",), 0,
         (Ticker("XBTEUR", 560.87711, 600.91850325, 560.466, 562.26651),)),
        ("live/alpaca/rest_stock_snapshots_multi_2021.json", "alpaca", ("AAPL", "MSFT", "INVALID"), 0,
         (Ticker("AAPL", 133.4201, 25846800.0, 133.42, 133.43, 1620053287257, exchange="iex"),
          Ticker("MSFT", 253.8738, 6100459.0, 253.87, 253.89, 1620053287243, exchange="iex"))),
        ("live/alpaca/rest_stock_snapshot_not_found.json", "alpaca", ("NOPE",), 0, ()),
        ("alpaca/crypto_snapshot_btcusd_nov2024.json", "alpaca-crypto", ("BTC/USD",), 0,
         (Ticker("BTC/USD", 69526.91, None, 69625.1, 69684.9, 1730512819319),)),
        ("live/alpha_vantage/global_quote_msft_2020.json", "alphavantage", ("MSFT",), 0,
         (Ticker("MSFT", 158.62, 21121681.0, latest_ms=1578114000000),)),
        ("alpha_vantage/global_quote_msft_2018.json", "alphavantage", ("MSFT",), 0,
         (Ticker("MSFT", 112.13, 29062853.0, latest_ms=1538798400000),)),
        ("live/alpha_vantage/exchange_rate_btc_usd_2020.json", "alphavantage", ("BTC/USD",), 0,
         (Ticker("BTC/USD", 23933.49, None, 23930.67, 23933.49, 1608417421000),)),
        ("live/alpha_vantage/exchange_rate_eur_usd_2026.json", "alphavantage", ("EUR/USD",), 0,
         (Ticker("EUR/USD", 1.1639, None, 1.16388, 1.16395, 1768095458000),)),
        # 476,280,865.7456335 / 30.98 and 3,080,600,356.9113207 / 200.35, by hand to 17 digits. That both are nearly the
        # same number of coins shows that CoinGecko makes the volume in a currency with the current price.
        ("live/coingecko/simple_price_all_includes_2021.json", "coingecko", ("solana/usd", "solana/cny"), 0,
         (Ticker("solana/usd", 30.98, 15373817.486947498, time_ms=1626316083000),
          Ticker("solana/cny", 200.35, 15376093.620720343, time_ms=1626316083000))),
        ("live/coingecko/simple_price_eur_usd_change_updated_2026.json", "coingecko", ("bitcoin/eur", "ethereum/eur"),
         0, (Ticker("bitcoin/eur", 74795.0, None, time_ms=1791367550000),)),
        ("tradestation/quotes_msft.json", "tradestation", ("MSFT",), 0,
         (Ticker("MSFT", 212.85, 5852511.0, 212.85, 212.87, 1605712754000),)),
        ("tradestation/quotes_invalid_symbol.json", "tradestation", ("INVALID",), 0,
         (Ticker("INVALID", refusal="FAILED, INVALID SYMBOL"),)),
    )
)  # fmt: skip
