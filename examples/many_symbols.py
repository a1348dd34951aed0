"""Several symbols side by side, one of which does not exist: the others come all the same.

It runs on the practice exchange, a server inside this program, and needs no internet. For the real exchange, drop
`base_urls` (and the practice exchange, and `cache_dir`): `CandleFetcher()`.
"""

from __future__ import annotations

import tempfile

import pandas as pd

from candle_fetcher import CandleFetcher, FetchManyError, UnknownSymbol
from candle_fetcher.practice import PracticeExchange

SYMBOLS = ["BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/UDST"]


def main() -> None:
    with (
        PracticeExchange() as exchange,
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder) as fetcher,
    ):
        try:
            frames = fetcher.fetch_many(SYMBOLS, "1d", "2024-01-01", "2024-04-01")
        except FetchManyError as error:
            frames = error.frames
            for symbol, reason in error.errors.items():
                print(f"left out {symbol}: {reason}")
                if isinstance(reason, UnknownSymbol) and reason.closest:
                    best = reason.closest[0]
                    print(f"taking {best} in its place")
                    frames[best] = fetcher.fetch(best, "1d", "2024-01-01", "2024-04-01")

        closes = pd.DataFrame({symbol: frame["close"] for symbol, frame in frames.items()})
        print("\nclose\n")
        print(closes.to_string(max_rows=6))
        print("\ncorrelation of daily returns\n")
        print(closes.pct_change().corr().round(2).to_string())


if __name__ == "__main__":
    main()
