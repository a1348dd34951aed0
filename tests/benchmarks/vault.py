"""What an update of a vault costs, beside fetching the same days alone.

    python tests/benchmarks/vault.py [--turns 5] [--long 5] [--years 3] [--more 67]

A vault of 105 series of 1m, five stored for three years and the others for 30 days, each a day behind, is updated,
day after day; by turns with `fetch_many` of the same days on a cache that has the same history. The exchange is on
loopback, in a process of its own. Then a month of Arrow is read. Prints each figure beside its bar, and exits with 1
where one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import pandas as pd

from candle_fetcher import CandleFetcher, Vault

# The practice exchange lists 38 symbols and kinds of 1m; more are made of one of them.
SERVER = """
import dataclasses, json, sys
from pathlib import Path
from candle_fetcher.practice import PracticeExchange, listings
clock = Path(sys.argv[1])
model = next(one for one in listings._FIXED["binance"] if one.symbol == "SOLUSDT")
more = (dataclasses.replace(model, symbol=f"S{at}USDT", base=f"S{at}") for at in range(int(sys.argv[2])))
listings._FIXED["binance"] += tuple(more)
with PracticeExchange(clock=lambda: float(clock.read_text()), weight_limit=10**9, log=False) as exchange:
    print(json.dumps(dict(exchange.base_urls)), flush=True)
    sys.stdin.read()
"""
NOW = pd.Timestamp("2024-06-15T00:00:30", tz="UTC")


class Costs:
    """Two fetchers on caches with the same history, a vault on one of them, and a clock that moves by days."""

    def __init__(self, folder: Path, urls: dict[str, str], clock: Path) -> None:
        self.folder, self.urls, self.clock = folder, urls, clock
        self.now_s = NOW.timestamp()
        self.tell()

    def tell(self) -> None:
        self.clock.write_text(str(self.now_s))

    def fetcher(self, cache: str) -> CandleFetcher:
        return CandleFetcher(
            base_urls=self.urls,
            cache_dir=self.folder / cache,
            clock=lambda: self.now_s,
            progress=False,
            source="rest",
        )

    def vault(self, fetcher: CandleFetcher, file_format: str) -> Vault:
        return Vault(self.folder / f"vault_{file_format}", fetcher, format=file_format)


@contextlib.contextmanager
def exchange(clock: Path, more: int) -> Iterator[dict[str, str]]:
    root = Path(__file__).resolve().parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(clock), str(more)], stdin=-1, stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert program.stdout is not None
        yield json.loads(program.stdout.readline())
    finally:
        program.kill()
        program.wait()


def find_series(fetcher: CandleFetcher) -> Iterator[tuple[str, str]]:
    """Yield symbols of 1m with their kinds, of all markets that the exchange has."""
    for provider in ("binance", "binance-us", "binance-um", "binance-cm"):
        kinds = ("candles", "mark", "index", "premium") if provider in ("binance-um", "binance-cm") else ("candles",)
        for symbol in fetcher.symbols(provider=provider)["symbol"]:
            if "_" not in symbol and symbol not in ("EOS/ETH", "WLFI/USDT"):  # delisted, or not yet listed
                yield from ((f"{provider}:{symbol}", kind) for kind in kinds)


def written(vault: Vault, sizes: dict[Path, int]) -> int:
    """Return the bytes that an update wrote: what files have grown by, and the state files."""
    grown = sum(path.stat().st_size - sizes.get(path, 0) for path in vault_files(vault))
    return grown + sum(path.stat().st_size for path in vault_folder(vault).glob("*_1m.json"))


def vault_folder(vault: Vault) -> Path:
    return Path(repr(vault)[len("Vault('") : -2])


def vault_files(vault: Vault) -> list[Path]:
    return sorted(vault_folder(vault).glob("*.csv"))


class Turn(NamedTuple):
    """What one day cost: seconds of CPU and of the clock, requests, bytes written, and those of the new rows."""

    seconds: float
    cpu_s: float
    requests: int
    written: int = 0
    new: int = 0


def update(costs: Costs, series: Sequence[tuple[str, str]]) -> Turn:
    with costs.fetcher("cache") as fetcher:
        vault, sent, began, cpu_s = start(costs, fetcher)
        sizes = {path: path.stat().st_size for path in vault_files(vault)}
        current = {row.path: row.size for row in vault.series().itertuples()}
        before = {Path(path).name.rpartition("_")[0]: Path(path).stat().st_size for path in current}
        began, cpu_s = time.perf_counter(), time.process_time()
        report = vault.update()
        took = time.perf_counter() - began, time.process_time() - cpu_s
        assert report["added"].tolist() == [1440] * len(series), report
        after = {Path(path).name.rpartition("_")[0]: Path(path).stat().st_size for path in report["path"]}
        asked = fetcher.monitor.snapshot()["requests"]["count"] - sent
        return Turn(*took, asked, written(vault, sizes), sum(after.values()) - sum(before.values()))


def start(costs: Costs, fetcher: CandleFetcher) -> tuple[Vault, int, float, float]:
    for provider in ("binance", "binance-us", "binance-um", "binance-cm"):  # clocks and limits, which both ask for
        fetcher.fetch(f"{provider}:BTC/USD" + ("" if provider == "binance-cm" else "T"), "1d", limit=1)
    sent = fetcher.monitor.snapshot()["requests"]["count"]
    return costs.vault(fetcher, "csv"), sent, time.perf_counter(), time.process_time()


def alone(costs: Costs, series: Sequence[tuple[str, str]]) -> Turn:
    with costs.fetcher("alone") as fetcher:
        _, sent, _, _ = start(costs, fetcher)
        since = pd.Timestamp(costs.now_s - 86_430, unit="s", tz="UTC")
        kinds = dict.fromkeys(kind for _, kind in series)
        began, cpu_s = time.perf_counter(), time.process_time()
        for kind in kinds:
            fetcher.fetch_many([name for name, one in series if one == kind], "1m", since, kind=kind)
        took = time.perf_counter() - began, time.process_time() - cpu_s
        return Turn(*took, fetcher.monitor.snapshot()["requests"]["count"] - sent)


def measure(arguments: argparse.Namespace, costs: Costs) -> list[tuple[str, str, str, bool]]:
    with costs.fetcher("cache") as fetcher:
        series = list(find_series(fetcher))
        began = time.perf_counter()
        vault = costs.vault(fetcher, "csv")
        for at, (name, kind) in enumerate(series):
            days = round(365 * arguments.years) if at < arguments.long else 30
            vault.update(name, "1m", NOW - pd.Timedelta(days=days), kind=kind)
        stored = vault.series()["rows"].sum()
        print(f"{len(series)} series, {stored:,} rows stored in {time.perf_counter() - began:.0f} s", flush=True)
    shutil.copytree(costs.folder / "cache", costs.folder / "alone")
    pairs = []
    for turn in range(arguments.turns):
        costs.now_s += 86_400
        costs.tell()
        if turn % 2:
            ours, theirs = update(costs, series), alone(costs, series)
        else:
            theirs, ours = alone(costs, series), update(costs, series)
        pairs.append((ours, theirs))
        print(f"day {turn}: {ours.seconds:.2f} s and {theirs.seconds:.2f} s", flush=True)
    ratio = statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs)
    cpu = statistics.median(ours.cpu_s / theirs.cpu_s for ours, theirs in pairs)
    more = max(ours.requests - theirs.requests for ours, theirs in pairs)
    most = max((ours.written - 8192 * len(series)) / ours.new for ours, _ in pairs)
    return [
        ("requests beyond those of fetch_many", f"{more}", "<= 0", more <= 0),
        ("bytes written, less 8 KB a series, by bytes of new rows", f"{most:.2f} x", "<= 2.1 x", most <= 2.1),
        ("seconds by those of fetch_many", f"{ratio:.2f} x", "<= 1.5 x", ratio <= 1.5),
        ("CPU time by that of fetch_many", f"{cpu:.2f} x", "", True),
        read_month(costs),
    ]


def read_month(costs: Costs) -> tuple[str, str, str, bool]:
    import pyarrow as pa

    with costs.fetcher("cache") as fetcher, costs.vault(fetcher, "arrow") as vault:
        vault.update("BTC/USDT", "1m", "2024-04-20")
        took = []
        allocated = pa.total_allocated_bytes()
        for _ in range(50):
            began = time.perf_counter()
            frame = vault.read("BTC/USDT", "1m", "2024-05-01", "2024-06-01")
            took.append(time.perf_counter() - began)
        copied = sum(frame[name].to_numpy().flags.owndata for name in frame)
        assert len(frame) == 31 * 1440
        copied += pa.total_allocated_bytes() - allocated > 1000
    median_ms = 1000 * statistics.median(took)
    return (
        "a month of Arrow",
        f"{median_ms:.2f} ms, {copied} columns copied",
        "<= 2 ms, 0",
        median_ms <= 2 and not copied,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--long", type=int, default=5)
    parser.add_argument("--years", type=float, default=3)
    parser.add_argument("--more", type=int, default=67)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        clock = Path(folder) / "clock"
        clock.write_text(str(NOW.timestamp()))
        urls = stack.enter_context(exchange(clock, arguments.more))
        rows = measure(arguments, Costs(Path(folder), urls, clock))
    for what, figure, bar, is_met in rows:
        print(f"{what:<58}{figure:>30}  {bar:<12}{'' if is_met else 'MISSED'}")
    return 0 if all(row[3] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
