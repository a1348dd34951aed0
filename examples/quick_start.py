"""The main job from start to end: plan, fetch, export, fetch again, and what it all cost. Needs no internet.

It runs on the practice exchange, a server inside this program, so these prices never happened. For the real exchange,
drop `base_urls` (and the practice exchange, and `cache_dir`): `CandleFetcher()`.
"""

from __future__ import annotations

import tempfile
import time

from candle_fetcher import CandleFetcher
from candle_fetcher.practice import PracticeExchange

RANGE = ("BTC/USDT", "4h", "2024-01-01", "2024-03-29")
QUARTER = ("BTC/USDT", "1m", "2024-01-01", "2024-03-31")


def title(text: str) -> None:
    print(f"\n== {text}\n")


def timed_fetch(fetcher: CandleFetcher, name: str) -> None:
    began = time.perf_counter()
    frame = fetcher.fetch(*QUARTER)
    seconds = time.perf_counter() - began
    sources = {source: f"{count:,}" for source, count in frame.attrs["candle_fetcher"]["sources"].items() if count}
    came_from = ", ".join(f"{count} from {source}" for source, count in sources.items())
    print(f"{name:<18} {seconds * 1000:>9,.1f} ms   {came_from}")


def main() -> None:
    # The cache is a folder of its own here, removed at the end; without cache_dir it is your user's cache folder.
    with PracticeExchange() as exchange, tempfile.TemporaryDirectory() as folder:
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder) as fetcher:
            title("What a fetch would do: fetcher.plan(...)")
            print(fetcher.plan(*RANGE))

            title("Candles: fetcher.fetch(...)")
            frame = fetcher.fetch(*RANGE)
            print(frame)

            title("The same as a CSV file: fetcher.export(...)")
            path = fetcher.export(*RANGE)
            print(path)
            with path.open(encoding="utf-8") as file:
                for _ in range(3):
                    print(" ", file.readline().rstrip())

            title("90 days of 1m, three times")
            timed_fetch(fetcher, "first")
            timed_fetch(fetcher, "again")
            report = fetcher.monitor.report()

        # A new fetcher on the same folder is what the next run of your program is.
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder) as fetcher:
            timed_fetch(fetcher, "another program")

        title("What the first fetcher did: fetcher.monitor.report()")
        print(report)


if __name__ == "__main__":
    main()
