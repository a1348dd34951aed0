"""A CSV file that a spreadsheet opens with its columns right, and that reads back exactly.

It runs on the practice exchange, a server inside this program, and needs no internet. For the real exchange, drop
`base_urls` (and the practice exchange, and `cache_dir`): `CandleFetcher()`.
"""

from __future__ import annotations

import tempfile

import pandas as pd

from candle_fetcher import CandleFetcher
from candle_fetcher.practice import PracticeExchange

RANGE = ("ETH/USDT", "1d", "2023-01-01", "2024-01-01")


def main() -> None:
    with (
        PracticeExchange() as exchange,
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder) as fetcher,
    ):
        path = fetcher.export(*RANGE)
        frame = fetcher.fetch(*RANGE)

    print(f"{path}: {path.stat().st_size:,} bytes. Open it with Excel, LibreOffice or Numbers; it begins")
    with path.open(encoding="utf-8") as file:
        for _ in range(4):
            print(" ", file.readline().rstrip())

    # The times in the file are UTC and say so nowhere, since spreadsheets do not understand a zone. Numbers are read as
    # text first: read_csv's own way of reading them may miss the last bit.
    again = pd.read_csv(path, index_col="timestamp", dtype=str).astype("float64")
    again.index = pd.DatetimeIndex(pd.to_datetime(again.index, utc=True)).as_unit("ns")
    pd.testing.assert_frame_equal(again, frame, check_exact=True, check_freq=False)
    print(f"read back with pandas: {len(again)} candles, all equal")


if __name__ == "__main__":
    main()
