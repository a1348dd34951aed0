"""One asset at two providers and a stock beside them, by one call each. Needs no internet and no key.

It runs on the practice exchange, which plays Binance, Kraken and Alpaca, so these prices never happened. For the real
exchange, drop `base_urls` (and the practice exchange, and `cache_dir`), and put your keys for Alpaca into `api_keys` or
the environment.
"""

from __future__ import annotations

import tempfile

from candle_fetcher import CandleFetcher, IncompleteData, combine
from candle_fetcher.practice import PracticeExchange


def main() -> None:
    with (
        PracticeExchange() as exchange,
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=exchange.base_urls, api_keys=exchange.api_keys, cache_dir=folder) as fetcher,
    ):
        frames = fetcher.fetch_many(["binance:BTC/USDT", "kraken:BTC/USD", "alpaca:AAPL"], "1d", days=10)
        print(combine(frames, "close"))

        print("\nWhat a provider does not serve is an error that holds the rest:")
        try:
            fetcher.fetch("kraken:BTC/USD", "1h", days=60)
        except IncompleteData as error:
            print(f"{len(error.frame)} candles, {error.missing[0].count} lacking, {error.missing[0].cause}")


if __name__ == "__main__":
    main()
