"""What the library logs: a line for each call, and for each retry, wait and gap, in the log of your program.

It runs on the practice exchange, a server inside this program, and needs no internet. For the real exchange, drop
`base_urls` (and the practice exchange, and `cache_dir`): `CandleFetcher()`.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from candle_fetcher import CandleFetcher, UnknownSymbol
from candle_fetcher.practice import PracticeExchange, faults


def set_up(file: Path) -> None:
    """Show warnings on stdout, and write everything to the file: the library itself sets up nothing."""
    logger = logging.getLogger("candle_fetcher")
    logger.setLevel(logging.DEBUG)
    shown, kept = logging.StreamHandler(sys.stdout), logging.FileHandler(file, encoding="utf-8")
    shown.setLevel(logging.WARNING)
    for handler in (shown, kept):
        handler.setFormatter(logging.Formatter("%(levelname)-7s %(message)s"))
        logger.addHandler(handler)


def take_down() -> None:
    """Close the file, which lies in a folder that goes."""
    logger = logging.getLogger("candle_fetcher")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def main() -> None:
    with (
        PracticeExchange() as exchange,
        tempfile.TemporaryDirectory() as folder,
        CandleFetcher(base_urls=exchange.base_urls, cache_dir=Path(folder) / "cache", source="rest") as fetcher,
    ):
        file = Path(folder) / "program.log"
        set_up(file)

        # A request that fails once, and a day on which the exchange stood still for 80 minutes.
        exchange.fail(faults.status(503), times=1, match="/klines")
        fetcher.fetch("BTC/USDT", "1m", "2023-03-24", "2023-03-25")

        fetcher.fetch("BTC/USDT", "1m", "2023-03-24", "2023-03-25")
        try:
            fetcher.fetch("BTC/UDST", "1m", "2023-03-24", "2023-03-25")
        except UnknownSymbol:
            print("the error itself is for your program; the log says that the call failed")

        lines = file.read_text(encoding="utf-8").splitlines()
        print("\na line for each call\n")
        print(*(line for line in lines if line.startswith("INFO")), sep="\n")
        print("\nthe requests, at the level DEBUG\n")
        print(*(line for line in lines if "/klines" in line), sep="\n")
        take_down()


if __name__ == "__main__":
    main()
