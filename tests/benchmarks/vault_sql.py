"""What a year of 1m costs in a vault of each database: rows a second of an upsert, and of a read.

    python tests/benchmarks/vault_sql.py [--rows 525600] [--turns 3]

Each turn writes the rows into a new table, then again the same rows (an idempotent upsert: nothing changes), then with
one value changed, then a day behind them, and reads them. SQLite and DuckDB lie in a temporary folder; PostgreSQL is a
server of its own on a Unix socket, without fsync. Prints the median of the turns, and exits with 1 where an upsert into
PostgreSQL is below 100,000 rows a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from databases import serving
from vault_files import SERIES, put, rows

from candle_fetcher.vault.files import Files
from candle_fetcher.vault.homes import open_home
from candle_fetcher.vault.opening import read_options

BAR = 100_000
STEPS = ("new", "same", "one changed", "a day more", "read")


def steps(files: Files, count: int) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield each step with its work and its number of rows."""
    all_rows, changed, more = rows(0, count), rows(0, count), rows(count, count + 1440)
    changed.iloc[count // 2, 0] = 1.0
    yield STEPS[0], lambda: put(files, count, all_rows, first=0), count
    yield STEPS[1], lambda: put(files, count, all_rows, first=0), count
    yield STEPS[2], lambda: put(files, count, changed, first=0), count
    yield STEPS[3], lambda: put(files, count + 1440, more), 1440

    def read() -> object:
        state = files.load()
        assert state is not None
        return files.read(state)

    yield STEPS[4], read, count


def measure(url: str, count: int) -> list[float]:
    """Return the rows a second of each step."""
    home = open_home(url, read_options(None, None, None, 0, {}))
    document = home.change(lambda found: found.with_series(SERIES, 0, None))
    files = home.files(document, document.entries[0])
    found = []
    for _, work, number in steps(files, count):
        began = time.perf_counter()
        work()
        found.append(number / (time.perf_counter() - began))
    home.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=525_600)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    print(f"rows a second, {arguments.rows:,} rows of 1m, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':12}" + "".join(f"{name:>14}" for name in STEPS))
    slowest = 0.0
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        for kind in ("sqlite", "duckdb", "postgresql"):
            turns = [
                measure(server.url() if kind == "postgresql" else f"{kind}:///{folder}/{turn}.{kind}", arguments.rows)
                for turn in range(arguments.turns)
            ]
            medians = [statistics.median(one) for one in zip(*turns, strict=True)]
            print(f"{kind:12}" + "".join(f"{one:14,.0f}" for one in medians), flush=True)
            slowest = min(medians[:3])
    print(f"PostgreSQL, the slowest upsert of a year: {slowest:,.0f} rows a second; at least {BAR:,}")
    return 0 if slowest >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
