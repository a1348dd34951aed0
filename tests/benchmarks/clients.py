"""What is measured: each function is one client, run in a process of its own by run.py, and returns its figures.

    python tests/benchmarks/clients.py NAME '{"url": …}'    prints one line of JSON

Imports come before the clock starts, for everybody; whatever else a client does, it does while the clock runs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import importlib
import importlib.metadata
import io
import json
import statistics
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Figures = dict[str, Any]

SYMBOL, IDS = "BTC/USDT", "BTCUSDT"
MINUTE_MS = 60_000
PAGE = 1000
THREADS = 8


def ms_of(day: str) -> int:
    """Midnight UTC of the day in Unix ms."""
    return int(dt.datetime.fromisoformat(day).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


def timed(work: Callable[[], int]) -> Figures:
    """Seconds of the clock and of this process's CPU, all threads, that the work took; it returns how many candles."""
    wall, cpu = time.perf_counter(), time.process_time()
    candles = work()
    return {"candles": candles, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def peak_bytes() -> int:
    """The most memory that was resident since this process began."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be that of the process which started this one
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- downloads --------------------------------------------------------------------------------------------------------


def fetch_cold(url: str, start: str, end: str) -> Figures:
    """Ours, with everything on: checks, second looks, monitor, memory, and a disk cache in a new folder."""
    import candle_fetcher

    _import_network()
    with tempfile.TemporaryDirectory() as folder:

        def work() -> int:
            with candle_fetcher.CandleFetcher(base_urls={"binance": url}, cache_dir=folder, progress=False) as fetcher:
                return len(fetcher.fetch(SYMBOL, "1m", start, end))

        return timed(work)


def _import_network() -> None:
    """Import what ours else imports with its first request, as the peers have requests imported before the clock."""
    with contextlib.suppress(ModuleNotFoundError):  # a commit before it was so
        importlib.import_module("candle_fetcher.net.route")


def fetch_ccxt(url: str, start: str, end: str) -> Figures:
    """ccxt's paging loop, markets loaded before the clock starts, throttle off; the rows stay a list of lists."""
    ccxt: Any = importlib.import_module("ccxt")
    exchange = ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
    exchange.urls["api"] = dict.fromkeys(exchange.urls["api"], f"{url}/api/v3")
    exchange.load_markets()
    end_ms = ms_of(end)

    def work() -> int:
        rows: list[Any] = []
        since_ms = ms_of(start)
        while since_ms < end_ms:
            page = exchange.fetch_ohlcv(SYMBOL, "1m", since=since_ms, limit=PAGE)
            if not page:
                break
            rows += page
            since_ms = page[-1][0] + 1
        return sum(row[0] < end_ms for row in rows)

    return timed(work)


def fetch_python_binance(url: str, start: str, end: str) -> Figures:
    """python-binance's get_historical_klines; its pauses (1 s every third request) are left out."""
    module: Any = importlib.import_module("binance.client")
    client = module.Client(ping=False)
    client.API_URL = f"{url}/api"
    module.time = SimpleNamespace(time=time.time, sleep=lambda seconds: None)

    def work() -> int:
        return len(client.get_historical_klines(IDS, "1m", ms_of(start), ms_of(end) - 1))

    return timed(work)


def fetch_pool(url: str, start: str, end: str) -> Figures:
    """A bare pool: a requests.Session for each of 8 threads, pandas.read_csv on each body, concat; nothing else."""
    import pandas as pd
    import requests

    local = threading.local()
    names = ["open_time", "open", "high", "low", "close", "volume", "close_time", *"abcd", "ignore"]

    def page(start_ms: int) -> pd.DataFrame:
        session = getattr(local, "session", None)
        if session is None:
            session = local.session = requests.Session()
        params: dict[str, Any] = {"symbol": IDS, "interval": "1m", "startTime": start_ms, "limit": PAGE}
        params["endTime"] = min(start_ms + PAGE * MINUTE_MS, ms_of(end)) - 1
        reply = session.get(f"{url}/api/v3/klines", params=params, timeout=30)
        reply.raise_for_status()
        lines = reply.content[2:-2].replace(b"],[", b"\n")
        return pd.read_csv(io.BytesIO(lines), header=None, names=names)

    def work() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            frame = pd.concat(pool.map(page, range(ms_of(start), ms_of(end), PAGE * MINUTE_MS)))
        frame.index = pd.to_datetime(frame.pop("open_time"), unit="ms", utc=True)
        return len(frame)

    return timed(work)


# -- downloads from the archive ---------------------------------------------------------------------------------------


def months(start: str, end: str) -> list[str]:
    """The months of [start, end) as 2024-01."""
    first, stop = (int(day[:4]) * 12 + int(day[5:7]) - 1 for day in (start, end))
    return [f"{month // 12}-{month % 12 + 1:02}" for month in range(first, stop)]


def month_key(month: str) -> str:
    """The key of a month's file in the archive."""
    return f"data/spot/monthly/klines/{IDS}/1m/{IDS}-1m-{month}.zip"


def fetch_few(url: str, timeframe: str, start: str, end: str, times: int = 9) -> Figures:
    """Few candles, nothing stored: the call alone, of a new fetcher with a new folder each time; the process has
    fetched before."""

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder, _fetcher(folder, url, archive=True) as fetcher:
            return float(timed(lambda: len(fetcher.fetch(SYMBOL, timeframe, start, end)))["wall_s"])

    once()
    return {"wall_s": statistics.median(once() for _ in range(times))}


def archive_cold(url: str, start: str, end: str) -> Figures:
    """Ours from the archive, with everything on, as `fetch_cold`; and the requests, and how the peak of memory grew."""
    import candle_fetcher  # noqa: F401 - before the clock starts

    _import_network()
    with tempfile.TemporaryDirectory() as folder:
        fetcher = _fetcher(folder, url, archive=True)
        frames = []

        def work() -> int:
            with fetcher:
                frames.append(fetcher.fetch(SYMBOL, "1m", start, end, columns="all"))
            return len(frames[0])

        before = peak_bytes()
        figures = timed(work) | {"growth_bytes": peak_bytes() - before}
        # What is asked after the clock has stopped: the monitor imports psutil for it.
        requests = fetcher.monitor.snapshot()["requests"]["count"]
        return figures | {"requests": requests, "frame_bytes": int(frames[0].memory_usage().sum())}


def archive_pool(url: str, start: str, end: str) -> Figures:
    """A bare pool: 8 threads, each file held against its CHECKSUM, unzipped, pandas.read_csv, concat; nothing else."""
    import pandas as pd
    import requests

    local = threading.local()

    def month(name: str) -> pd.DataFrame:
        session = getattr(local, "session", None)
        if session is None:
            session = local.session = requests.Session()
        data, expected = (session.get(f"{url}/{month_key(name)}{end}", timeout=30) for end in ("", ".CHECKSUM"))
        if hashlib.sha256(data.content).hexdigest() != expected.text.split()[0]:
            raise SystemExit(f"{name} does not fit its checksum")
        with zipfile.ZipFile(io.BytesIO(data.content)) as archive, archive.open(archive.namelist()[0]) as file:
            return _read_kline_csv(file)

    def work() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return len(_joined(pool.map(month, months(start, end))))

    before = peak_bytes()
    return timed(work) | {"growth_bytes": peak_bytes() - before}


def archive_quick_pool(url: str, start: str, end: str, threads: int = 2) -> Figures:
    """What isal and pyarrow leave to reach: a bare pool with them, whose columns are written to files and joined.

    Few threads, with which it is quickest here. Nothing is checked but the checksum; the zip's layout is taken for
    granted.
    """
    import numpy as np
    import pyarrow
    import requests
    from isal import isal_zlib
    from pyarrow import csv

    names = [*"iohlcv", "close_time", "quote", "trades", *"bq", "ignore"]
    types = {name: pyarrow.float64() for name in names[:-1]}
    types |= {name: pyarrow.int64() for name in ("i", "close_time", "trades")}
    local = threading.local()

    def month(folder: str, name: str) -> Any:
        session = getattr(local, "session", None)
        if session is None:
            session = local.session = requests.Session()
        data, expected = (session.get(f"{url}/{month_key(name)}{end}", timeout=30) for end in ("", ".CHECKSUM"))
        packed = data.content
        if hashlib.sha256(packed).hexdigest() != expected.text.split()[0]:
            raise SystemExit(f"{name} does not fit its checksum")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            (member,) = archive.infolist()
        header = packed[member.header_offset :][:30]  # it ends with the lengths of a name and a field of its own
        at = member.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        body = memoryview(packed)[at : at + member.compress_size]
        text = isal_zlib.decompress(body, -15, member.file_size)
        table = csv.read_csv(
            pyarrow.py_buffer(text),
            csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text) + 1),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
        block = np.empty((table.num_columns, table.num_rows), np.int64)
        for row, column in zip(block, table.columns, strict=True):
            row[:] = column.chunk(0).to_numpy().view(np.int64)
        Path(folder, name).write_bytes(block.data)
        return block

    with tempfile.TemporaryDirectory() as folder:

        def work() -> int:
            with ThreadPoolExecutor(threads) as pool:
                blocks = list(pool.map(functools.partial(month, folder), months(start, end)))
            return int(np.concatenate(blocks, axis=1).shape[1])

        return timed(work)


def archive_historical_data(url: str, start: str, end: str) -> Figures:
    """binance-historical-data into a folder, then pandas.read_csv and concat.

    It gets the symbols and the first day, for which it would ask hosts that cannot be set, and the archive's web page.
    It takes the day after the last month too, which is not read.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        module: Any = importlib.import_module("binance_historical_data")  # it logs to the stdout of this moment
        dumper = module.BinanceDataDumper(path_dir_where_to_dump=folder, data_frequency="1m")
        dumper._base_url = f"{url}/data"
        dumper.get_min_start_date_for_ticker = _Known(dt.date.fromisoformat(start))
        dumper.get_list_all_trading_pairs = _Known([IDS])

        def work() -> int:
            dumper.dump_data([IDS], dt.date.fromisoformat(start), dt.date.fromisoformat(end))
            return _read_folder(folder, start, end)

        return timed(work)


class _Known:
    """The same answer to every question; goes to the processes that the package starts."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __call__(self, *_: Any) -> Any:
        return self._answer


def archive_bulk_downloader(url: str, start: str, end: str) -> Figures:
    """binance-bulk-downloader into a folder, then pandas.read_csv and concat.

    It knows no range, so its list of files is cut to the months. The folder is made before: its threads race for that,
    and those that lose drop their file and say nothing.
    """
    module: Any = importlib.import_module("binance_bulk_downloader.downloader")
    wanted = {month_key(month) for month in months(start, end)}

    class Downloader(module.BinanceBulkDownloader):  # type: ignore[misc]
        _BINANCE_DATA_S3_BUCKET_URL = url
        _BINANCE_DATA_DOWNLOAD_BASE_URL = url

        def _get_file_list_from_s3_bucket(self, prefix: str) -> list[str]:
            return [key for key in super()._get_file_list_from_s3_bucket(prefix) if key in wanted]

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        (Path(folder) / month_key(start[:7])).parent.mkdir(parents=True)

        def work() -> int:
            Downloader(folder, asset="spot", timeperiod_per_file="monthly", symbols=IDS).run_download()
            return _read_folder(folder, start, end)

        return timed(work)


def _read_folder(folder: str, start: str, end: str) -> int:
    found = {path.stem: path for path in Path(folder).rglob("*.csv")}
    with ThreadPoolExecutor(THREADS) as pool:
        return len(_joined(pool.map(_read_kline_csv, [found[f"{IDS}-1m-{month}"] for month in months(start, end)])))


def _read_kline_csv(file: Any) -> Any:
    import pandas as pd

    names = ["open_time", "open", "high", "low", "close", "volume", "close_time", *"abcd", "ignore"]
    return pd.read_csv(file, header=None, names=names)


def _joined(frames: Iterable[Any]) -> Any:
    import pandas as pd

    frame = pd.concat(frames)
    times = frame.pop("open_time")
    frame.index = pd.to_datetime(times.where(times < 10**14, times // 1000), unit="ms", utc=True)
    return frame


def archive_export(url: str, start: str, end: str) -> Figures:
    """A whole listing to CSV out of the archive, nothing stored: by how much the peak of memory grew since the
    import."""
    _csv_writer()  # its tables are read before the clock starts
    with tempfile.TemporaryDirectory() as folder, _fetcher(f"{folder}/cache", url, archive=True) as fetcher:
        before = peak_bytes()
        figures = timed(lambda: _lines(fetcher.export(SYMBOL, "1m", start, end, path=folder)))
        requests = fetcher.monitor.snapshot()["requests"]["count"]
        return figures | {"growth_bytes": peak_bytes() - before, "requests": requests}


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1


def archive_ledger(url: str, start: str, end: str) -> Figures:
    """Ours from the archive, with a watch on its checks and its ledger: the CPU time of their calls, whatever the
    thread, beside that of the whole fetch."""
    from candle_fetcher.cache.facts import FactStore
    from candle_fetcher.cache.freshness import FreshnessIndex
    from candle_fetcher.core import plan
    from candle_fetcher.fetcher import collect
    from candle_fetcher.fetcher.gathering import archive, chunks
    from candle_fetcher.providers import binance_archive
    from candle_fetcher.sources import pages, reader

    local, spent = threading.local(), []

    def watch(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def outer(*args: Any, **options: Any) -> Any:
            if getattr(local, "inside", False):
                return inner(*args, **options)
            local.inside, began = True, time.thread_time()
            try:
                return inner(*args, **options)
            finally:
                spent.append(time.thread_time() - began)
                local.inside = False

        setattr(owner, name, outer)

    for owner, names in (
        (binance_archive, ("check",)),
        (pages, ("check",)),
        (reader, ("find_holes",)),
        (archive, ("find_holes", "absorb")),
        (chunks, ("absorb",)),
        (plan, ("find_asks",)),
        (collect, ("find_all_gaps", "failed_gaps")),
        (FactStore, ("get", "learn")),
        (FreshnessIndex, ("load", "save")),
    ):
        for name in names:
            if hasattr(owner, name):
                watch(owner, name)
    return archive_cold(url, start, end) | {"ledger_s": sum(spent), "calls": len(spent)}


# -- what is stored ---------------------------------------------------------------------------------------------------


def fill(url: str, folder: str, start: str, end: str) -> Figures:
    """Fills a cache, for the clients below."""
    with _fetcher(folder, url) as fetcher:
        return timed(lambda: sum(map(len, fetcher.iter_frames(SYMBOL, "1m", start, end, columns="all"))))


def write_files(folder: str, start: str, end: str, url: str, into: str) -> Figures:
    """The same candles as numpy and pandas write them."""
    import numpy as np

    with _fetcher(folder, url) as fetcher:
        frame = fetcher.fetch(SYMBOL, "1m", start, end, columns="all")
    times = [frame.index.asi8, frame["close_time"].array.asi8]
    block = np.vstack([*(frame[name].to_numpy("f8").view("i8") for name in frame if name != "close_time"), *times])
    np.save(Path(into) / "block.npy", block)
    np.save(Path(into) / "prices.npy", block[[*range(5), -2]])
    frame.attrs.clear()
    frame.to_pickle(Path(into) / "frame.pickle")
    with contextlib.suppress(ImportError):
        frame.reset_index().to_feather(Path(into) / "frame.feather", compression="uncompressed")
        frame.to_parquet(Path(into) / "frame.parquet")
    return {"candles": len(frame), "bytes": block.nbytes}


def touch_memory(gigabytes: float) -> Figures:
    """Writes to so much memory and gives it back: where the machine is a virtual one, its host may have to find it."""
    import numpy as np

    return timed(lambda: len(np.ones(int(gigabytes * 2**27))))


def load_numpy(into: str, name: str = "block") -> Figures:
    import numpy as np

    return timed(lambda: int(np.load(Path(into) / f"{name}.npy").shape[1]))


def load_pickle(into: str) -> Figures:
    import pandas as pd

    return timed(lambda: len(pd.read_pickle(Path(into) / "frame.pickle")))


def load_feather(into: str) -> Figures:
    from pyarrow import feather

    return timed(lambda: len(feather.read_feather(Path(into) / "frame.feather")))


def load_parquet(into: str) -> Figures:
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - so that its import is not timed

    return timed(lambda: len(pd.read_parquet(Path(into) / "frame.parquet")))


def load_disk(
    folder: str, start: str, end: str, url: str, again: int = 30, columns: str = "all", output: str = "pandas"
) -> Figures:
    """A stored range in a new process, opening the cache included; then the same fetch again, some times."""
    words = {} if output == "pandas" else {"output": output}
    if words:
        _import_tables(output)
    with _fetcher(folder, url) as fetcher:

        def work() -> int:
            return len(fetcher.fetch(SYMBOL, "1m", start, end, columns=columns, **words))

        figures = timed(work)
        if again:
            figures["again_s"] = statistics.median(timed(work)["wall_s"] for _ in range(again))
    return figures


def _import_tables(output: str) -> None:
    """Import what makes tables: imports are not measured."""
    importlib.import_module("pyarrow")
    importlib.import_module("candle_fetcher.files.columnar")
    if output == "polars":
        importlib.import_module("polars")


def again_in(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """The same fetch again out of memory, as a pandas frame and as tables, by turns."""
    names = ("pandas", "arrow", "polars")
    found: Figures = {name: [] for name in names}
    with _fetcher(folder, url) as fetcher:

        def seconds(name: str) -> float:
            return statistics.median(
                timed(lambda: len(fetcher.fetch(SYMBOL, "1m", start, end, columns="all", output=name)))["wall_s"]
                for _ in range(30)
            )

        for turn in range(1 + pairs):
            for name in names:
                took = seconds(name)
                if turn:
                    found[name].append(took)
    return found


def export(folder: str, start: str, end: str, url: str) -> Figures:
    """A long export from the cache: by how much the most memory in use grew since the import."""
    _csv_writer()  # its tables are read before the clock starts
    with _fetcher(folder, url) as fetcher, tempfile.TemporaryDirectory() as into:
        before = peak_bytes()
        figures = timed(lambda: fetcher.export(SYMBOL, "1m", start, end, path=into).stat().st_size)
        return figures | {"growth_bytes": peak_bytes() - before, "rows": fetcher.monitor.snapshot()["candles"]}


def export_as(folder: str, start: str, end: str, url: str, ending: str, timeframe: str = "1m") -> Figures:
    """A long export from the cache to a file of that ending, behind a short one, which imports what it needs."""
    with _fetcher(folder, url) as fetcher, tempfile.TemporaryDirectory() as into:
        path = Path(into) / f"x{ending}"
        fetcher.export(SYMBOL, timeframe, start, limit=10, path=path)
        before = peak_bytes()
        figures = timed(lambda: fetcher.export(SYMBOL, timeframe, start, end, path=path).stat().st_size)
        return figures | {"growth_bytes": peak_bytes() - before}


def write_tables(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """A frame to a file by turns: our Parquet and DataFrame.to_parquet, our CSV and polars' write_csv; and the export
    of the same candles out of the cache."""
    import polars

    from candle_fetcher.files.exporting import TableFile
    from candle_fetcher.files.layout import PLAIN

    with _fetcher(folder, url) as fetcher, tempfile.TemporaryDirectory() as into:
        frame = fetcher.fetch(SYMBOL, "1m", start, end)
        manifest = dict(frame.attrs["candle_fetcher"])
        frame.attrs.clear()
        table = polars.from_pandas(frame.tz_localize(None).reset_index())
        parquet = TableFile(Path(into) / "ours.parquet", "parquet", False, None, PLAIN, False)
        text = TableFile(Path(into) / "ours.csv", "csv", False, None, PLAIN, False)
        works = {
            "parquet_s": lambda: parquet.write([frame], lambda: manifest),
            "parquet_peer_s": lambda: frame.to_parquet(Path(into) / "peer.parquet"),
            "parquet_export_s": lambda: fetcher.export(SYMBOL, "1m", start, end, path=Path(into) / "x.parquet"),
            "csv_s": lambda: text.write([frame], lambda: manifest),
            "csv_peer_s": lambda: table.write_csv(Path(into) / "peer.csv"),
        }
        found: Figures = {name: [] for name in works}
        for turn in range(1 + pairs):
            for name, work in works.items():
                took = _seconds(work)
                if turn:
                    found[name].append(took)
    return found


def write_csv(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """Our writer and DataFrame.to_csv by turns, on the same candles, each to a file of its own."""
    write = _csv_writer()
    with _fetcher(folder, url) as fetcher:
        frame = fetcher.fetch(SYMBOL, "1m", start, end)
    frame.attrs.clear()
    plain = frame.tz_localize(None)
    found: Figures = {"rows": len(frame), "ours_s": [], "peer_s": []}
    with tempfile.TemporaryDirectory() as into:
        ours, peer = Path(into) / "ours.csv", Path(into) / "peer.csv"
        for _ in range(pairs):
            found["ours_s"].append(_seconds(lambda: write(ours, frame)))
            found["peer_s"].append(_seconds(lambda: plain.to_csv(peer)))
    return found


def _csv_writer() -> Callable[[Path, Any], object]:
    """Return what writes a frame to a CSV file; commits before that module wrote columns, not frames."""
    for name in ("candle_fetcher.files.writing", "candle_fetcher.exports", "candle_fetcher.export"):
        with contextlib.suppress(ModuleNotFoundError):
            exports: Any = importlib.import_module(name)
            break
    if name == "candle_fetcher.export":
        candles: Any = importlib.import_module("candle_fetcher.core.candles")

        def write(target: Path, frame: Any) -> object:
            columns = [frame.index.asi8 // 1_000_000, *(frame[name].to_numpy() for name in candles.OHLCV)]
            part = candles.candles_from(("open_time", *candles.OHLCV), columns)
            return exports.write_csv(target, "", [part], "ohlcv")

        return write
    importlib.import_module("candle_fetcher.fetcher.exporting")
    rows: Any = exports
    with contextlib.suppress(ModuleNotFoundError):
        rows = importlib.import_module("candle_fetcher.files.layout")
    return lambda target, frame: exports.write_file(target, rows.csv_pieces([frame]), None)


def plan(folder: str, start: str, end: str, url: str, archive: bool = False) -> Figures:
    """A plan in a new process, opening the cache included; then the same plan again."""
    with _fetcher(folder, url, archive=archive) as fetcher:
        figures = timed(lambda: sum(step.chunks for step in fetcher.plan(SYMBOL, "1m", start, end).steps))
        again = timed(lambda: sum(step.chunks for step in fetcher.plan(SYMBOL, "1m", start, end).steps))
        return figures | {"again_s": again["wall_s"]}


def watch(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """Warm reads with and without the monitor by turns, in one process; and what one event costs.

    `again`: the same fetch again. `joined`: its last month, put together anew from the memory tier.
    """
    from candle_fetcher.core.events import Operation, ignore

    found: Figures = {}
    with _fetcher(folder, url) as fetcher:
        monitor: Any = fetcher.monitor
        listen = monitor.observe
        fetcher.fetch(SYMBOL, "1m", start, end)
        begins = iter(range(ms_of(end) - 30 * 1440 * MINUTE_MS, ms_of(end), MINUTE_MS))
        for name in ("again", "joined"):

            def read(name: str = name) -> None:
                fetcher.fetch(SYMBOL, "1m", start if name == "again" else next(begins), end)

            listeners = [("with_s", listen), ("without_s", ignore)]
            found[name] = {which: [] for which, _ in listeners}
            for _ in range(pairs * 4):
                seconds: dict[str, list[float]] = {which: [] for which, _ in listeners}
                for _ in range(200):
                    listeners.reverse()
                    for which, observe in listeners:
                        monitor.observe = observe
                        seconds[which].append(_seconds(read))
                for which, values in seconds.items():
                    found[name][which].append(statistics.median(values))
            events: list[Any] = []
            monitor.observe = events.append
            read()
            found[name]["events"] = len(events)
        found["event_s"] = statistics.median(_seconds(lambda: listen(Operation("x", 0.0))) for _ in range(10_000))
    return found


def warm(folder: str, start: str, end: str, url: str, reads: int = 300) -> Figures:
    """What is stored, read in a new process: from disk, the same again, and its last month joined from memory."""
    figures = load_disk(folder, start, end, url)
    begins = iter(range(ms_of(end) - 30 * 1440 * MINUTE_MS, ms_of(end), MINUTE_MS))
    with _fetcher(folder, url) as fetcher:
        fetcher.fetch(SYMBOL, "1m", start, end)
        joined = [_seconds(lambda: fetcher.fetch(SYMBOL, "1m", next(begins), end)) for _ in range(reads)]
    return figures | {"joined_s": statistics.median(joined)}


# -- workers ----------------------------------------------------------------------------------------------------------

MANY = [f"A{at:02}/USDT" for at in range(100)]
SEVERAL = ["BTC/USDT", "ETH/USDT", "BNB/USDT", "XRP/USDT", "ADA/USDT", "SOL/USDT", "DOGE/USDT", "ETH/BTC"]


def many_stored(folder: str, start: str, end: str, url: str, pairs: int) -> Figures:
    """100 symbols of 1h out of the cache on disk, without memory, by two threads and by two processes, by turns."""
    with _fetcher(folder, url) as fetcher, tempfile.TemporaryDirectory() as into:
        path = fetcher.export(SYMBOL, "1h", start, end, path=f"{into}/of_many.csv")
        path.with_suffix(".json").unlink(missing_ok=True)  # it names the symbol
        for symbol in MANY:
            fetcher.cache.import_file(path, symbol, "1h")
    import candle_fetcher

    with candle_fetcher.CandleFetcher(
        base_urls={"binance": url}, cache_dir=folder, progress=False, memory_cache_size=0, source="cache"
    ) as fetcher:
        return _by_turns(lambda pool: fetcher.fetch_many(MANY, "1h", start, end, executor=pool), pairs)


def many_cold(start: str, end: str, url: str, pairs: int) -> Figures:
    """Eight symbols of 1m from the archive, nothing stored, by two threads and by two processes, by turns."""
    import candle_fetcher

    urls = {"binance": url, "binance-archive": url}
    with candle_fetcher.CandleFetcher(base_urls=urls, use_cache=False, progress=False, source="archive") as fetcher:
        return _by_turns(lambda pool: fetcher.fetch_many(SEVERAL, "1m", start, end, executor=pool), pairs)


def _by_turns(work: Callable[[Executor], dict[str, Any]], pairs: int) -> Figures:
    """Seconds of the work by each pool, whose workers have done it once before; both give the same frames."""
    with ProcessPoolExecutor(2) as processes, ThreadPoolExecutor(2) as threads:
        pools: list[tuple[str, Executor]] = [("processes_s", processes), ("threads_s", threads)]
        one, other = (work(pool) for _, pool in pools)
        for symbol, frame in one.items():
            if not frame.equals(other[symbol]):
                raise SystemExit(f"{symbol} is not the same by processes and by threads")
        figures: Figures = {name: [] for name, _ in pools}
        for _ in range(pairs):
            pools.reverse()
            for name, pool in pools:
                figures[name].append(_seconds(lambda pool=pool: work(pool)))  # type: ignore[misc]
        return figures | {"candles": sum(map(len, one.values()))}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _fetcher(folder: str, url: str, *, archive: bool = False) -> Any:
    """Ours; without `archive` it has REST alone."""
    import candle_fetcher

    base_urls = {"binance": url, "binance-archive": url} if archive else {"binance": url}
    return candle_fetcher.CandleFetcher(base_urls=base_urls, cache_dir=folder, progress=False)


# -- imports ----------------------------------------------------------------------------------------------------------


def import_ours() -> Figures:
    began = time.perf_counter()
    import candle_fetcher

    return {"wall_s": time.perf_counter() - began, "version": candle_fetcher.__version__}


def import_peers() -> Figures:
    began = time.perf_counter()
    import pandas as pd
    import requests

    return {"wall_s": time.perf_counter() - began, "version": f"{pd.__version__} {requests.__version__}"}


def versions(packages: Sequence[str]) -> Figures:
    """Version by package; None where it is not installed."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}


if __name__ == "__main__":
    arguments = json.loads(sys.argv[2])
    for package in arguments.pop("without", ()):
        sys.modules[package] = None  # type: ignore[assignment] - as where it is not installed
    print(json.dumps(globals()[sys.argv[1]](**arguments)))
