"""One table: what candle_fetcher costs, and what others cost for the same, on this machine.

    python tests/benchmarks/run.py [--pairs 7] [--only rest disk files archive workers monitor]

Nothing is installed and nothing beyond loopback is asked; the peers come with `pip install ".[bench]"`. Every client
runs in a process of its own (clients.py) against the practice exchange in another one (server.py). Clients of a row
run by turns, the first one changing; a ratio compares two runs of the same turn.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clients import IDS, month_key, months

GROUPS = ("rest", "disk", "files", "archive", "workers", "monitor")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAST = ["isal", "pyarrow"]  # what the extra `fast` brings
PACKAGES = (
    *("numpy", "pandas", "requests", *FAST, "polars", "ccxt", "python-binance"),
    *("binance-historical-data", "binance-bulk-downloader"),
)

QUARTER = {"start": "2024-01-01", "end": "2024-03-31"}
QUARTER_CANDLES = 90 * 1440
YEAR = {"start": "2025-01-01", "end": "2026-01-01"}
FIVE_YEARS = {"start": "2021-01-01", "end": "2026-01-01"}
EIGHT_YEARS = {"start": "2018-01-01", "end": "2026-01-01"}
ONE_YEAR = {"start": "2023-01-01", "end": "2024-01-01"}
TWO_MONTHS = {"start": "2023-03-01", "end": "2023-05-01"}
TWO_YEARS = {"start": "2023-01-01", "end": "2025-01-01"}
FEW = {
    "96 candles of 1M": {"timeframe": "1M", "start": "2018-01-01", "end": "2026-01-01"},
    "365 candles of 1d": {"timeframe": "1d", "start": "2025-01-01", "end": "2026-01-01"},
}
LISTING = {"start": "2017-08-17", "end": "2025-09-01"}

FOOT = """
median and P90 over n turns; P90 is on the worse side: nine in ten turns were at least as good. bar, hope: what is
asked of the median, and what is wished for; reached: the better of the two that the median meets.
The exchange is on loopback, without latency or TLS: rows 1 are about work, rows 2 about waiting.

rows 1, 2  90 days of 1m (129,600 candles), nothing stored; each client must return them all. Ours has everything on:
           checks, monitor, memory and disk cache in a new folder. CPU time is the process's, all threads, from the call
           to the result; imports and ccxt's load_markets come before. ccxt and python-binance are favoured: throttle
           and pauses are off, and lists of lists count as a result, python-binance's with numbers as text. The bare
           pool reads floats with read_csv's fast parser, which is not exact to the last bit, and checks nothing.
           With 8 threads on {cores} cores a turn of ours can cost twice the median, when threads wait for
           each other's Python or the machine is shared, as it was for the table that is kept here: look at P90.
row 3      from disk, new process, files in the system's page cache; opening the cache is included, imports of pandas,
           pyarrow and ours are not. Ours checks a checksum over every byte; the others check nothing. "without fast":
           as where isal and pyarrow are not installed. The files of pandas and pyarrow are not compressed, but Parquet.
           numpy.load takes 5 ms or 10, as the system has huge pages at hand or not, and the ratio swings with it.
           Before each of them another process writes to 1 GB of memory and ends: on a virtual machine, memory that was
           not used for a while takes 1.7 ms a MB to get, which is no client's work.
row 5      growth of the peak of resident memory (VmHWM) over what it was before the call.
row 6      the same candles by turns, in one process; ours ends with fsync, to_csv does not.
row 7      opening the cache included; `again` is the same plan in the same process.
row 8      the import statement alone, in new processes, bytecode cached. Ours imports urllib3 and ssl with the first
           request of a process, which takes that much longer, and requests where there is a proxy or TLS.
row 9      a warm read with the monitor against the same without it, by turns, in one process; each of n values is the
           median of many reads. One event costs {event}.
rows 10-14 from the archive, whose files were made before; nothing stored. Ours as in row 1.
row 10     two years of 1m (24 files), all columns, to a frame. The bare pool: 8 threads, requests, SHA-256 against
           CHECKSUM, zipfile, read_csv, concat. The packages put files into a folder, unverified, which read_csv and
           concat then take. Both ask for more where they can: they were given the symbol, the first day, the list of
           months and a folder that is there. requests: those that ours sent, REST and CHECKSUMs included. The bare
           pool with isal and pyarrow shows what there is to reach: two threads, no checks, columns written to files.
row 11     growth as in row 5, over the bytes of the frame (DataFrame.memory_usage).
row 12     2017-08-17 to 2025-08-31, open to volume, to CSV, growth as in row 5, and what it took.
row 13     as row 7, with the archive.
row 14     CPU time of the calls that check candles, find holes, add to entries, and read and write facts and shelves,
           over the CPU time of the fetch of row 10. SHA-256 and the disk are not in it.
row 15     REST and archive on, by a new fetcher with a new folder each time, in a process that has fetched before.
row 16     output="arrow" and "polars" over the pandas frame, by turns: the same fetch again, all columns, each of n
           values the median of 30 calls; and from disk as in row 3, where an Arrow table takes its fingerprint, too.
row 17     the same candles by turns, in one process, out of a frame; ours with fsync. The export out of the cache also
           gathers, joins and takes the fingerprint.
row 18     growth as in row 5, behind a short export of the same format.
row 19     fetch_many(…, executor=) by a ProcessPoolExecutor and by a ThreadPoolExecutor, by turns, in one process. The
           pools have done the same once before; the frames are the same. From disk: memory_cache_size=0. A frame of
           a year of 1h is 420 KB, which a process has to send.
"""


class Row(NamedTuple):
    """One line of the table, all text."""

    what: str
    ours: str
    peer: str
    ratio: str
    p90: str
    n: str
    bar: str
    hope: str
    said: str


class Goal(NamedTuple):
    """What a figure should reach; `most` says that less is better."""

    bar: float | None
    hope: float | None
    most: bool = False
    unit: str = "x"

    def said(self, figure: float) -> str:
        if self._reached(self.hope, figure):
            return "hope"
        if self.bar is None:
            return ""
        return "bar" if self._reached(self.bar, figure) else "MISSED"

    def _reached(self, goal: float | None, figure: float) -> bool:
        return goal is not None and (figure <= goal if self.most else figure >= goal)

    def text(self, goal: float | None) -> str:
        return "" if goal is None else f"{'<=' if self.most else '>='} {goal:g} {self.unit}".strip()


def run(client: str, *, root: Path = ROOT, **options: Any) -> dict[str, Any]:
    """The figures of a client, run in a process of its own, with the package of that checkout."""
    command = [sys.executable, str(HERE / "clients.py"), client, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(root), check=False)
    if done.returncode:
        raise SystemExit(f"{client} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def environment(root: Path = ROOT) -> dict[str, str]:
    """Ours without settings of the person who runs this, with that tree as the package, and with bytecode written."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANDLE_FETCHER_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # else ours is compiled at each import and the peers are not
    return kept | {"PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextlib.contextmanager
def exchange(delay_s: float, keys: Sequence[str] = ()) -> Iterator[str]:
    """The root URL of a practice exchange in another process; the archive's files with the keys are made before."""
    command = [sys.executable, str(HERE / "server.py"), str(delay_s), *keys]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), **pipes) as process:  # type: ignore[call-overload]
        yield process.stdout.readline().strip()
        process.stdin.close()


def turns(pairs: int, clients: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The figures of each client by turn, after one that is not measured; who begins changes from turn to turn."""
    names = list(clients)
    for client in clients.values():
        client()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(pairs):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            found[name].append(clients[name]())
    return found


def compared(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    show: Callable[[float], str],
    goal: Goal,
    *,
    inverse: bool = False,
) -> Row:
    """A row of ratios ours / peer, or peer / ours where `inverse`."""
    ratios = [b / a if inverse else a / b for a, b in zip(ours, peer, strict=True)]
    middle = statistics.median(ratios)
    return Row(
        what,
        show(statistics.median(ours)),
        show(statistics.median(peer)),
        f"{middle:.4g} {goal.unit}",
        f"{worse_side(ratios, most=goal.most):.4g}",
        str(len(ratios)),
        goal.text(goal.bar),
        goal.text(goal.hope),
        goal.said(middle),
    )


def measured(what: str, values: Sequence[float], goal: Goal) -> Row:
    """A row of figures that stand for themselves."""
    middle = statistics.median(values)
    worst = worse_side(values, most=goal.most)
    ours = f"{middle:.3g} {goal.unit}".strip()
    return Row(
        what,
        ours,
        "",
        "",
        f"{worst:.3g}",
        str(len(values)),
        goal.text(goal.bar),
        goal.text(goal.hope),
        goal.said(middle),
    )


def absent(what: str, package: str) -> Row:
    """A row whose peer is not installed."""
    return Row(what, "", f"{package} is not installed", "", "", "0", "", "", "")


def worse_side(values: Sequence[float], *, most: bool) -> float:
    """What nine in ten of the values are at least as good as."""
    ordered = sorted(values, reverse=not most)
    return ordered[-(-len(ordered) * 9 // 10) - 1]


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:,.2f} s"


def per_s(rate: float) -> str:
    return f"{rate / 1e3:,.0f} k/s"


# -- the rows ---------------------------------------------------------------------------------------------------------


def downloads(pairs: int, has: dict[str, str | None], delay_s: float) -> Iterator[Row]:
    """Rows 1 and 2."""
    names = {"ours": "fetch_cold", "bare pool": "fetch_pool"}
    if has["ccxt"]:
        names["ccxt"] = "fetch_ccxt"
    if has["python-binance"] and not delay_s:
        names["python-binance"] = "fetch_python_binance"
    with exchange(delay_s) as url:
        found = turns(pairs, {peer: functools.partial(run, name, url=url, **QUARTER) for peer, name in names.items()})
    for peer, figures in found.items():
        if {one["candles"] for one in figures} != {QUARTER_CANDLES}:
            raise SystemExit(f"{peer} returned {figures[0]['candles']:,} candles; expected {QUARTER_CANDLES:,}")
    goals = {"ccxt": Goal(6, None), "bare pool": Goal(0.97, 1)}
    if not delay_s:
        goals = {"ccxt": Goal(1.3, 1.8), "python-binance": Goal(None, None), "bare pool": Goal(1.1, 1.3)}
    for peer, goal in goals.items():
        what = f"2 the same, {1e3 * delay_s:.0f} ms a reply, wall time, vs {peer}"
        if not delay_s:
            what = f"1 90 days of 1m, cold, candles per CPU s, vs {peer}"
        if peer not in found:
            yield absent(what, peer)
        elif delay_s:
            yield compared(what, _each(found["ours"], "wall_s"), _each(found[peer], "wall_s"), ms, goal, inverse=True)
        else:
            rates = [[QUARTER_CANDLES / one["cpu_s"] for one in found[of]] for of in ("ours", peer)]
            yield compared(what, rates[0], rates[1], per_s, goal)


def stored(pairs: int, has: dict[str, str | None], url: str, folder: str, into: str) -> Iterator[Row]:
    """Rows 3 to 5 and 7, over a full cache of eight years."""
    run("write_files", url=url, folder=folder, into=into, **YEAR)

    def read(client: str, **options: Any) -> Callable[[], dict[str, Any]]:
        return lambda: run("touch_memory", gigabytes=1) and run(client, **options)

    def load(**options: Any) -> Callable[[], dict[str, Any]]:
        return read("load_disk", url=url, folder=folder, **options)

    clients = {
        "ours": load(again=30, **YEAR),
        "without fast": load(again=0, without=FAST, **YEAR),
        "prices": load(again=0, columns="ohlcv", **YEAR),
        "prices, without fast": load(again=0, columns="ohlcv", without=FAST, **YEAR),
        "eight years": load(again=0, **EIGHT_YEARS),
        "numpy.load": read("load_numpy", into=into),
        "numpy.load of the same": read("load_numpy", into=into, name="prices"),
        "read_pickle": read("load_pickle", into=into),
    }
    if has["pyarrow"]:
        clients["feather.read_feather"] = read("load_feather", into=into)
        clients["read_parquet"] = read("load_parquet", into=into)
    found = turns(pairs, clients)

    def against(what: str, ours: str, peer: str, goal: Goal) -> Row:
        if peer not in found:
            return absent(f"3 {what}, vs {peer}", "pyarrow")
        return compared(f"3 {what}, vs {peer}", _each(found[ours], "wall_s"), _each(found[peer], "wall_s"), ms, goal)

    what, bars = "a year of 1m from disk, all columns", {"most": True}
    yield against(what, "ours", "numpy.load", Goal(4, 2.5, **bars))
    yield against(f"{what}, without fast", "without fast", "numpy.load", Goal(4, 2.5, **bars))
    yield against(what, "ours", "read_pickle", Goal(1.2, 0.8, **bars))
    yield against(what, "ours", "feather.read_feather", Goal(1.8, 1.2, **bars))
    yield against(what, "ours", "read_parquet", Goal(None, None, **bars))
    what = "the same, open to volume"
    yield against(what, "prices", "numpy.load of the same", Goal(2.5, 1.5, **bars))
    yield against(f"{what}, without fast", "prices, without fast", "numpy.load of the same", Goal(2.5, 1.5, **bars))
    years = [_each(found[which], "wall_s") for which in ("eight years", "ours")]
    yield compared("3 eight years of the same, all columns, vs a year", years[0], years[1], ms, Goal(8.5, 8, **bars))
    again = [1e3 * seconds for seconds in _each(found["ours"], "again_s")]
    yield measured("4 the same fetch again", again, Goal(5, 0.2, most=True, unit="ms"))

    yield from tables(pairs, has, load, url, folder)

    exports = turns(pairs, {"ours": lambda: run("export", url=url, folder=folder, **FIVE_YEARS)})["ours"]
    growth = [one["growth_bytes"] / 1e6 for one in exports]
    yield measured("5 export of 5 years of 1m, growth of peak RSS", growth, Goal(150, 60, most=True, unit="MB"))

    goal = Goal(300, 20, most=True, unit="ms")
    empty = f"{into}/empty"
    plans = turns(
        pairs,
        {
            "full cache": lambda: run("plan", url=url, folder=folder, **EIGHT_YEARS),
            "nothing stored": lambda: run("plan", url=url, folder=empty, **EIGHT_YEARS),
        },
    )
    for name, figures in plans.items():
        yield measured(f"7 plan of 8 years of 1m, {name}", [1e3 * one["wall_s"] for one in figures], goal)
        yield measured(f"7 plan of 8 years of 1m, {name}, again", [1e3 * one["again_s"] for one in figures], goal)


def tables(
    pairs: int,
    has: dict[str, str | None],
    load: Callable[..., Callable[[], dict[str, Any]]],
    url: str,
    folder: str,
) -> Iterator[Row]:
    """Row 16."""
    if not (has["pyarrow"] and has["polars"]):
        yield absent("16 a year of 1m, the same fetch again, as a table", "polars or pyarrow")
        return
    again = run("again_in", url=url, folder=folder, pairs=pairs, **YEAR)
    goal = Goal(1.1, 1, most=True)
    for name in ("arrow", "polars"):
        what = f"16 a year of 1m, the same fetch again, {name}, vs pandas"
        yield compared(what, again[name], again["pandas"], ms, goal)
    clients = {name: load(again=0, columns="ohlcv", output=name, **YEAR) for name in ("pandas", "arrow", "polars")}
    found = turns(pairs, clients)
    for name in ("arrow", "polars"):
        what = f"16 the same from disk, open to volume, {name}, vs pandas"
        times = [_each(found[which], "wall_s") for which in (name, "pandas")]
        yield compared(what, times[0], times[1], ms, Goal(None, None, most=True))


def writing(pairs: int, url: str, folder: str) -> Row:
    """Row 6."""
    found = run("write_csv", url=url, folder=folder, pairs=pairs, **YEAR)
    rates = [[found["rows"] / seconds for seconds in found[which]] for which in ("ours_s", "peer_s")]
    return compared("6 CSV rows of a year of 1m, vs DataFrame.to_csv", rates[0], rates[1], per_s, Goal(1.5, 3))


def files(pairs: int, has: dict[str, str | None], url: str, folder: str) -> Iterator[Row]:
    """Rows 17 and 18."""
    what = "17 Parquet of a year of 1m, vs DataFrame.to_parquet"
    if not (has["pyarrow"] and has["polars"]):
        yield absent(what, "pyarrow or polars")
        return
    found = run("write_tables", url=url, folder=folder, pairs=pairs, **YEAR)
    peer = found["parquet_peer_s"]
    yield compared(what, found["parquet_s"], peer, ms, Goal(1.3, 1, most=True))
    yield compared(
        "17 its export out of the cache, vs the same", found["parquet_export_s"], peer, ms, Goal(1.3, 1, most=True)
    )
    what = "17 CSV of a year of 1m, vs polars' write_csv"
    yield compared(what, found["csv_s"], found["csv_peer_s"], ms, Goal(1.5, 1, most=True))
    goal = Goal(150, 60, most=True, unit="MB")
    for ending in (".csv", ".csv.gz", ".parquet", ".arrow", ".jsonl", ".xlsx"):
        span = {"start": "2024-01-02", "end": "2025-12-29"} if ending == ".xlsx" else EIGHT_YEARS  # a sheet's bound
        exports = [run("export_as", url=url, folder=folder, ending=ending, **span) for _ in range(2)]
        growth = [one["growth_bytes"] / 1e6 for one in exports]
        years = "two years" if ending == ".xlsx" else "eight years"
        yield measured(f"18 export of {years} of 1m to {ending}, growth of peak RSS", growth, goal)


def importing(pairs: int) -> Row:
    """Row 8; clients.py itself would have loaded half of the standard library."""

    def client(modules: str) -> dict[str, Any]:
        text = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, env=environment(), check=True
        )
        return {"wall_s": float(done.stdout)}

    found = turns(3 * pairs, {"ours": lambda: client("candle_fetcher"), "peer": lambda: client("pandas, requests")})
    times = [_each(found[which], "wall_s") for which in ("ours", "peer")]
    return compared("8 import candle_fetcher, vs pandas, requests", times[0], times[1], ms, Goal(1.05, 1, most=True))


def watching(pairs: int, url: str, folder: str) -> tuple[list[Row], str]:
    """Row 9, and what one event costs."""
    found = run("watch", url=url, folder=folder, pairs=pairs, **YEAR)
    rows = []
    for name, what in (
        ("again", "a year of 1m, the same fetch again"),
        ("joined", "a month of 1m, joined from memory"),
    ):
        times = found[name]
        title = f"9 monitor, {what}, events: {times['events']}"
        rows.append(compared(title, times["with_s"], times["without_s"], ms, Goal(1.01, None, most=True)))
    return rows, f"{1e6 * found['event_s']:.2f} µs"


def archived(pairs: int, has: dict[str, str | None], into: str) -> Iterator[Row]:
    """Rows 10 to 14."""
    names = {"ours": "archive_cold", "bare pool": "archive_pool"}
    goals = {"bare pool": Goal(1.2, 1.8)}
    for package, name in (
        ("binance-historical-data", "archive_historical_data"),
        ("binance-bulk-downloader", "archive_bulk_downloader"),
    ):
        goals[package] = Goal(1.2, 1.6)
        if has[package]:
            names[package] = name
    keys = [month_key(month) for month in months(**LISTING)]
    keys.append(f"data/spot/daily/klines/{IDS}/1m/{IDS}-1m-{TWO_YEARS['end']}.zip")
    with exchange(0, keys) as url:
        clients = {peer: functools.partial(run, name, url=url, **TWO_YEARS) for peer, name in names.items()}
        clients["without fast"] = functools.partial(run, "archive_cold", url=url, without=FAST, **TWO_YEARS)
        if has["pyarrow"] and has["isal"]:
            clients["quick pool"] = functools.partial(run, "archive_quick_pool", url=url, **TWO_YEARS)
        clients["ledger"] = functools.partial(run, "archive_ledger", url=url, **TWO_YEARS)
        found = turns(pairs, clients)
        exports = turns(pairs, {"ours": lambda: run("archive_export", url=url, **LISTING)})["ours"]
        plans = turns(
            pairs, {"ours": lambda: run("plan", url=url, folder=f"{into}/unused", archive=True, **EIGHT_YEARS)}
        )["ours"]
        few = {
            what: [
                1e3 * one["wall_s"]
                for one in turns(pairs, {"ours": functools.partial(run, "fetch_few", url=url, **few)})["ours"]
            ]
            for what, few in FEW.items()
        }
    counts = {peer: {one["candles"] for one in figures} for peer, figures in found.items()}
    if len(set.union(*counts.values())) != 1:
        raise SystemExit(f"the clients returned different numbers of candles: {counts}")
    ours = found["ours"]
    for peer, goal in goals.items():
        what = f"10 two years of 1m from the archive, cold, wall time, vs {peer}"
        if peer not in found:
            yield absent(what, peer)
        else:
            yield compared(what, _each(ours, "wall_s"), _each(found[peer], "wall_s"), ms, goal, inverse=True)
    pool, slow = _each(found["bare pool"], "wall_s"), _each(found["without fast"], "wall_s")
    yield compared("10 the same, without fast, vs bare pool", slow, pool, ms, Goal(0.7, 0.9), inverse=True)
    if "quick pool" in found:
        quick, what = _each(found["quick pool"], "wall_s"), "10 a bare pool with isal and pyarrow, columns to files"
        yield compared(f"{what}, vs bare pool", quick, pool, ms, Goal(None, None), inverse=True)
    yield measured("10 the same, requests", _each(ours, "requests"), Goal(60, None, most=True, unit=""))
    multiples = [one["growth_bytes"] / one["frame_bytes"] for one in ours]
    yield measured("11 the same, growth of peak RSS over the frame's bytes", multiples, Goal(2.2, 1.8, most=True))
    what = "12 export of a listing of 1m from the archive, cold"
    growth = [one["growth_bytes"] / 1e6 for one in exports]
    yield measured(f"{what}, growth of peak RSS", growth, Goal(250, 120, most=True, unit="MB"))
    yield measured(f"{what}, wall time", _each(exports, "wall_s"), Goal(None, None, most=True, unit="s"))
    yield measured(f"{what}, requests", _each(exports, "requests"), Goal(None, None, most=True, unit=""))
    goal = Goal(50, 10, most=True, unit="ms")
    what = "13 plan of 8 years of 1m with the archive, nothing stored"
    yield measured(what, [1e3 * one["wall_s"] for one in plans], goal)
    yield measured(f"{what}, again", [1e3 * one["again_s"] for one in plans], goal)
    for what, times in few.items():
        yield measured(f"15 {what}, nothing stored", times, Goal(12, 8, most=True, unit="ms"))
    shares = [100 * one["ledger_s"] / one["cpu_s"] for one in found["ledger"]]
    yield measured("14 checks and ledger in the fetch of row 10, CPU time", shares, Goal(15, 5, most=True, unit="%"))


def by_workers(pairs: int, url: str, into: str) -> Iterator[Row]:
    """Row 19."""
    found = run("many_stored", url=url, folder=f"{into}/many", pairs=pairs, **ONE_YEAR)
    what = "19 100 symbols of 1h, a year each, from disk, two processes, vs two threads"
    yield compared(what, found["processes_s"], found["threads_s"], ms, Goal(1.0, 1.5), inverse=True)
    names = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "ADAUSDT", "SOLUSDT", "DOGEUSDT", "ETHBTC")
    keys = [month_key(month).replace(IDS, name) for name in names for month in months(**TWO_MONTHS)]
    with exchange(0, keys) as archive:
        found = run("many_cold", url=archive, pairs=pairs, **TWO_MONTHS)
    what = "19 8 symbols of 1m, two months each, from the archive, cold, two processes, vs two threads"
    yield compared(what, found["processes_s"], found["threads_s"], ms, Goal(1.0, 1.5), inverse=True)


def _each(figures: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in figures]


# -- the table --------------------------------------------------------------------------------------------------------


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--pairs", type=int, default=7, help="turns of each row, at least 5 (default 7)")
    reader.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="rows of these subjects alone")
    asked = reader.parse_args()
    pairs, only = max(5, asked.pairs), asked.only
    has = run("versions", packages=PACKAGES)
    rows = []
    event = "a time that was not measured"
    with tempfile.TemporaryDirectory(prefix="candle-bench-") as work, exchange(0) as url:
        os.environ["PYTHONPYCACHEPREFIX"] = f"{work}/bytecode"
        folder = f"{work}/cache"
        if {"disk", "files", "monitor"} & set(only):
            run("fill", url=url, folder=folder, **EIGHT_YEARS)
        if "rest" in only:
            rows += [*downloads(pairs, has, 0.0), *downloads(pairs, has, 0.05)]
        if "disk" in only:
            rows += [*stored(pairs, has, url, folder, work), importing(pairs)]
        if "files" in only:
            rows += [writing(pairs, url, folder), *files(pairs, has, url, folder)]
        if "archive" in only:
            rows += archived(pairs, has, work)
        if "workers" in only:
            rows += by_workers(pairs, url, work)
        if "monitor" in only:
            watched, event = watching(pairs, url, folder)
            rows += watched
    title = Row("what", "ours", "peer", "ratio", "P90", "n", "bar", "hope", "reached")
    rows = [title, *sorted(rows, key=lambda row: int(row.what.split()[0]))]
    print(f"python tests/benchmarks/run.py --pairs {pairs} | {machine()} | {installed(has)}\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print(FOOT.format(event=event, cores=os.cpu_count()).rstrip())


def machine() -> str:
    """This machine, and how busy it was."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    day = dt.datetime.now(dt.timezone.utc).date()
    return f"{day}, {name}, {os.cpu_count()} cores{busy}, {platform.system()}"


def installed(has: dict[str, str | None]) -> str:
    ours = (ROOT / "candle_fetcher" / "core" / "version.py").read_text(encoding="utf-8").split('"')[-2]
    others = ", ".join(f"{name} {version}" for name, version in has.items() if version)
    return f"candle_fetcher {ours}, Python {platform.python_version()}, {others}"


if __name__ == "__main__":
    main()
