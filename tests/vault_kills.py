"""Kills processes in the middle of an update of a vault, and checks what they leave.

    python tests/vault_kills.py [--kills 300] [--format csv|parquet|arrow|sqlite|duckdb|postgresql] [--seed 1]

Each turn moves the exchange's clock on by some hours, changes a settled candle now and then, starts two processes that
update the vault at the same time, and kills one or both at a random moment. Then each series has to be whole: `verify`
finds nothing, its rows are what a fetch returns up to its end, and nothing that was there before is gone. In the end
an update that is not killed brings all of it up to date. Exits with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import children
import databases
import pandas as pd
from world import ms, skip_waits

from candle_fetcher import CandleFetcher, Vault
from candle_fetcher.practice import PracticeExchange

SYMBOLS = ("BTC/USDT", "ETH/USDT", "BNB/USDT")
START = "2024-06-13"
UPDATER = """
    import json, sys
    from candle_fetcher import CandleFetcher, Vault
    symbols = ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    folder, now_s, urls, format = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
    print("begins", flush=True)
    with CandleFetcher(base_urls=urls, cache_dir=f"{folder}/cache", clock=lambda: now_s, progress=False) as fetcher:
        where, format = (format, None) if "://" in format else (f"{folder}/vault", format)
        with Vault(where, fetcher, format=format) as vault:
            vault.update(symbols, "1m", "2024-06-13")
"""


class Kills:
    """Turns of updates that are killed, on one vault."""

    def __init__(self, folder: Path, format: str, seed: int) -> None:  # noqa: A002 - as in Vault
        self.folder, self.format, self.random = folder, format, random.Random(seed)
        if format in ("sqlite", "duckdb"):
            self.format = f"{format}:///{folder}/vault.db"
        self.now_s = ms("2024-06-15T12:00:30") / 1000
        self.exchange = PracticeExchange(clock=lambda: self.now_s)
        self.rows: dict[str, int] = {}
        self.killed = self.faults = 0
        self.wait_s = 0.3

    def turn(self) -> None:
        """Start two updates, kill one or both, and check."""
        self.now_s += self.random.choice((60, 600, 7200))
        if self.random.random() < 0.3:
            self._restate()
        words = [self.folder, self.now_s, json.dumps(self.exchange.base_urls), self.format]
        programs = [children.start(UPDATER, *words) for _ in range(2)]
        for program in programs:
            program.stdout.readline()
        time.sleep(self.random.random() * self.wait_s)
        for program in programs[: self.random.choice((1, 2))]:
            is_running = program.poll() is None
            # So that most are killed, at each moment from the first to the last.
            self.wait_s *= 1.02 if is_running else 0.9
            if is_running:
                program.kill()
                self.killed += 1
        for program in programs:
            _, err = program.communicate(timeout=120)
            if program.returncode not in (0, -9):
                self.fault(f"an update ended with {program.returncode}: {err[-500:]}")
        self.check(is_last=False)

    def _restate(self) -> None:
        at_ms = ms(START) + self.random.randrange(2000) * 60_000
        self.exchange.restate("binance", "BTCUSDT", "1m", at_ms, volume=f"{self.random.randrange(1, 99)}.00000000")
        with self.fetcher() as fetcher:
            fetcher.fetch("BTC/USDT", "1m", at_ms, at_ms + 60_000, refresh=True)

    def fetcher(self) -> CandleFetcher:
        made = CandleFetcher(
            base_urls=self.exchange.base_urls,
            cache_dir=self.folder / "cache",
            clock=lambda: self.now_s,
            progress=False,
        )
        skip_waits(made)
        return made

    def vault(self, fetcher: CandleFetcher) -> Vault:
        if "://" in self.format:
            return Vault(self.format, fetcher)
        return Vault(self.folder / "vault", fetcher, format=self.format)

    def check(self, *, is_last: bool) -> None:
        """Hold every series against a fetch up to its end."""
        if "://" not in self.format and not list((self.folder / "vault").glob("*vault.json")):
            return
        with self.fetcher() as fetcher, self.vault(fetcher) as vault:
            there = [row for row in vault.series().itertuples() if row.rows]
            for row in there:
                found = vault.read(row.symbol, "1m")
                if len(found) < self.rows.get(row.symbol, 0):
                    self.fault(f"{row.symbol} has {len(found)} rows and had {self.rows[row.symbol]}")
                self.rows[row.symbol] = len(found)
                truth = fetcher.fetch(row.symbol, "1m", START, row.last + pd.Timedelta("1min"))
                if len(truth) != len(found) or not truth.index.equals(found.index):
                    self.fault(f"{row.symbol} lacks rows, or has some twice")
                elif is_last and not truth.equals(found):
                    self.fault(f"{row.symbol} has wrong rows")
            verified = vault.verify()
            said = [one for one in verified["problem"] if one and "the cache" not in one and "no files" not in one]
            if said or (is_last and not verified["whole"].all()):
                self.fault(f"{said or verified['problem'].tolist()}")

    def fault(self, what: str) -> None:
        self.faults += 1
        print(f"FAULT after {self.killed} kills: {what}", flush=True)

    def finish(self) -> None:
        """Update once more, and check all."""
        with self.fetcher() as fetcher, self.vault(fetcher) as vault:
            vault.update(SYMBOLS, "1m", START)
        self.check(is_last=True)


def run(kills: int, format: str, seed: int) -> Kills:  # noqa: A002 - as in Vault
    """Kill so many updates in a new folder, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if format == "postgresql":
            format = stack.enter_context(databases.serving()).url()  # noqa: A001 - as in Vault
        made = Kills(Path(folder), format, seed)
        with made.exchange:
            while made.killed < kills:
                made.turn()
            made.finish()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--format", default="csv")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    made = run(arguments.kills, arguments.format, arguments.seed)
    print(f"{made.format}: {made.killed} kills, {sum(made.rows.values()):,} rows, {made.faults} faults")
    return 1 if made.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
