"""Code of a user of Polars and Arrow, read by type checkers and never run: an error is expected on each line that ends
in `# wrong`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import polars as pl

import candle_fetcher
from candle_fetcher import CandleFetcher, OutputName, combine, fingerprint, manifest_of, resample


def fetch_all(fetcher: CandleFetcher) -> pl.DataFrame:
    frame: pd.DataFrame = fetcher.fetch("BTC/USDT", "1h", days=1, output="pandas")
    pair: tuple[pd.DataFrame, object] = fetcher.fetch("BTC/USDT", "1h", days=1, with_manifest=True)
    made, manifest = fetcher.fetch("BTC/USDT", "1h", "2024", output="polars", with_manifest=True, partial="warn")
    many: dict[str, pl.DataFrame] = fetcher.fetch_many(["BTC/USDT"], "1h", output="polars", refresh=True)
    pieces: Iterator[pl.DataFrame] = fetcher.iter_frames("BTC/USDT", "1m", rows=10_000, output="polars")
    rates: pl.DataFrame = fetcher.fetch_funding("BTC/USDT", days=7, output="polars", provider="binance-um")
    table = fetcher.fetch("BTC/USDT", "1h", output="arrow", on_gap="raise")
    mine: pl.DataFrame = candle_fetcher.fetch("BTC/USDT", "1h", output="polars")
    ours: dict[str, pl.DataFrame] = candle_fetcher.fetch_many(["BTC/USDT"], "1h", output="polars")
    print(frame, pair, manifest["rows"], many, [piece.height for piece in pieces], rates, table.num_rows, mine, ours)
    return made.filter(pl.col("close") > 1.0)


def take_tables(fetcher: CandleFetcher) -> pd.DataFrame:
    table: pl.DataFrame = fetcher.fetch("BTC/USDT", "1h", output="polars")
    arrow = fetcher.fetch("ETH/USDT", "1h", output="arrow")
    print(fingerprint(table, "1h"), manifest_of(arrow), resample(arrow, "1d"), resample(table, "1d", base="1h"))
    fingerprint("btc.csv", "1h")  # wrong
    resample(table, "1d", base=1)  # wrong
    return combine({"BTC": table, "ETH": arrow}, "close")


def fetch_in(fetcher: CandleFetcher, output: OutputName) -> None:
    print(fetcher.fetch("BTC/USDT", "1h", output=output))


def mistype(fetcher: CandleFetcher) -> None:
    fetcher.fetch("BTC/USDT", "1h", output="panda")  # wrong
    fetcher.fetch("BTC/USDT", "1h", output="polars").loc["2024"]  # wrong
    fetcher.fetch("BTC/USDT", "1h", with_manifest=True).loc["2024"]  # wrong
    for piece in fetcher.iter_frames("BTC/USDT", "1h", output="polars"):
        print(piece.iloc[0])  # wrong
    wrong: pd.DataFrame = fetcher.fetch_funding("BTC/USDT", output="polars")  # wrong
    print(wrong, candle_fetcher.fetch_many(["BTC/USDT"], "1h", output="polars")["BTC/USDT"].iloc)  # wrong
    fetcher.iter_frames("BTC/USDT", "1h", output="polars", limits=3)  # wrong
