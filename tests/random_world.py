"""Random worlds: operations on candles in a random order, under faults, by several threads and processes.

    python tests/random_world.py [--seconds N] [--worlds N] [--seed N] [--steps N] [--processes N]

A world is a practice exchange whose clock moves, a cache folder, and one to four workers on it: threads with a fetcher
each, or processes. A step first changes the world: time passes, rows are hidden and shown, candles are corrected,
replies fail, a worker starts again or is killed. Then one to four workers do an operation at the same time, and each
result is held against what the exchange has. What a world does follows from its seed alone; only the order in which
threads and processes get to work does not. Prints a table, and for each failure the seed of its world; exits with 1
where a world failed.

What must hold of every frame:

- each row is a candle that the exchange has, final at that time, with values that the exchange has had for it;
- each candle that is final is a row, unless it was hidden at some time and stands in a gap, or is named as missing;
- candles are missing (IncompleteData) only where a fault was shown, only the cache or the archive may be asked, or the
  provider does not serve them any more;
- in the end, with every fault gone and every belief expired, each series is whole, and `refresh=True` makes it equal.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime as dt
import math
import mmap
import multiprocessing
import random
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, not an installed package

import pandas as pd
from world import skip_waits

from candle_fetcher import CandleCache, CandleFetcher, FetchManyError, IncompleteData
from candle_fetcher.core.call import Limit
from candle_fetcher.core.timeframe import DAY_MS, parse_timeframe
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.providers import find_provider

MANIFEST = "candle_fetcher"
VALUES = ("open", "high", "low", "close", "volume")
STEPS = 24
# Replies that no worker waits for longer than this are taken for a hang.
HUNG_S = 120.0
# A row that is lacking this close to now may still be late, by the providers' own rules.
LATE_MS = 600_000
_MOST_SKEW_MS = 103_680_000  # of a worker's clock: 1.2 days


class Market(NamedTuple):
    """A symbol of a provider. `made` maps a timeframe to the one that it is made of. A candle is final at the earliest
    `delay_ms[0]` after its close and at the latest `delay_ms[1]` after it. `depth` newest candles are served."""

    provider: str
    symbol: str
    theirs: str
    native: tuple[str, ...]
    made: dict[str, str]
    delay_ms: tuple[int, int]
    changes: bool = True  # the exchange can hide and correct its candles
    depth: int | None = None
    since: str = "2017-01-01"  # the provider does not know it before; nothing is hidden up to then


BINANCE = ("1s", "1m", "3m", "5m", "15m", "1h", "4h", "12h", "1d", "3d", "1w", "1M")
FUTURES = ("1m", "5m", "15m", "1h", "4h", "1d", "3d", "1w", "1M")
MADE = {"7m": "1m", "45m": "15m", "10h": "2h", "2d": "1d"}
MARKETS = (
    Market("binance", "BTC/USDT", "BTCUSDT", BINANCE, MADE, (2_000, 2_000), since="2017-09-01"),
    Market("binance", "WLFI/USDT", "WLFIUSDT", BINANCE, MADE, (2_000, 2_000), since="2025-09-01T13:00"),
    Market("binance", "EOS/ETH", "EOSETH", BINANCE, MADE, (2_000, 2_000), since="2017-09-01"),
    Market("binance-um", "ETH/USDT", "ETHUSDT", FUTURES, MADE, (2_000, 2_000), since="2020-01-01"),
    Market("binance-cm", "BTC/USD", "BTCUSD_PERP", FUTURES, MADE, (2_000, 2_000), since="2020-10-01"),
    Market(
        "kraken",
        "BTC/USD",
        "XBTUSD",
        ("1m", "5m", "15m", "1h", "1d"),
        {"7m": "1m", "45m": "15m"},
        (0, 2_000),
        False,
        720,
    ),
    Market(
        "alpaca-crypto", "BTC/USD", "BTC/USD", ("1m", "15m", "1h"), {"7m": "1m", "45m": "15m"}, (31_000, 31_000), False
    ),
    Market("alpaca", "AAPL", "AAPL", ("1m", "15m", "1h"), {}, (31_000, 31_000), False),
)
# Where ranges lie, beside around now: a stop of the exchange, listings, an end, a change of clocks, a leap day.
PLACES = (
    "2023-03-24T13:00",
    "2025-09-01T13:00",
    "2025-05-28T03:00",
    "2024-03-10",
    "2024-02-29",
    "2019-11-27",
    "2020-08-11",
)


def no_rows() -> faults.FaultAction:
    """A reply without any candle, where there are some."""
    return faults.body(b"[]")


FAULTS: tuple[Callable[[], faults.FaultAction], ...] = (
    lambda: faults.status(500, b"<html>oops</html>"),
    lambda: faults.overloaded(),
    lambda: faults.html_200(),
    lambda: faults.reset(),
    lambda: faults.close_before_reply(),
    lambda: faults.cut(0.5),
    lambda: faults.cut_unframed(0.6),
    lambda: faults.cut_chunked(0.5),
    lambda: faults.gzip_cut(0.5),
    no_rows,
    lambda: faults.body(b"[[1,2,3]]"),
    lambda: faults.transform(lambda body: body[: len(body) // 2]),
    lambda: faults.restricted(),
    lambda: faults.status(204),
)


BACKUP = "cache.tar"  # in the folder of exports


class Op(NamedTuple):
    """What a worker is to do: a call's name, of which market, in which timeframe, with which arguments."""

    call: str
    market: Market
    timeframe: str
    arguments: dict[str, Any]


class Outcome(NamedTuple):
    """What came of it. `missing` are spans [first, first + count slots) that an IncompleteData names."""

    opens: Any = None
    columns: dict[str, Any] | None = None
    closed: Any = None
    manifest: dict[str, Any] | None = None
    missing: tuple[tuple[int, int, str], ...] = ()
    error: str = ""
    said: str = ""


# -- workers ---------------------------------------------------------------------------------------------------


class Setup(NamedTuple):
    """How a worker makes its fetcher: the settings, and the difference of its clock from the exchange's."""

    clock: str
    skew_s: float
    settings: dict[str, Any]


def read_clock(path: str) -> Callable[[], float]:
    """A function that reads the exchange's clock out of the file."""
    with Path(path).open("rb") as file:
        view = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    return lambda: float(struct.unpack("<d", view[:8])[0])


def make_fetcher(setup: Setup) -> CandleFetcher:
    """A fetcher that waits for nothing between its tries."""
    clock = read_clock(setup.clock)
    fetcher = CandleFetcher(clock=lambda: clock() + setup.skew_s, progress=False, max_retries=2, **setup.settings)
    skip_waits(fetcher)
    return fetcher


_PROVIDERS: dict[str, Any] = {}


def provider_of(name: str) -> Any:
    """The provider with a budget that is never spent."""
    if name not in _PROVIDERS:
        limits = tuple(replace_limit(one) for one in find_provider(name).default_limits)
        _PROVIDERS[name] = replace(find_provider(name), default_limits=limits)
    return _PROVIDERS[name]


def replace_limit(limit: Limit) -> Limit:
    """The limit, ten million times as high."""
    return limit._replace(**{limit._fields[0]: limit[0] * 10**7})


def perform(fetcher: CandleFetcher, op: Op, folder: Path) -> Outcome:
    """Does it; whatever is raised becomes an outcome."""
    market, provider = op.market, provider_of(op.market.provider)
    what = (market.symbol, op.timeframe)
    try:
        if op.call == "fetch":
            return of_frame(fetcher.fetch(*what, provider=provider, **op.arguments))
        if op.call == "many":
            return of_frame(
                fetcher.fetch_many([market.symbol], op.timeframe, provider=provider, **op.arguments)[market.symbol]
            )
        if op.call == "iter":
            frames = list(fetcher.iter_frames(*what, provider=provider, **op.arguments))
            whole = pd.concat(frames)
            gaps = [gap for frame in frames for gap in frame.attrs[MANIFEST]["gaps"]]
            count = sum(frame.attrs[MANIFEST]["gap_count"] for frame in frames)
            outcome = of_frame(whole)
            return outcome._replace(
                manifest={"gaps": gaps, "gap_count": count, "end": frames[-1].attrs[MANIFEST]["end"]}
            )
        if op.call == "export":
            path = fetcher.export(*what, provider=provider, path=folder, **op.arguments)
            return of_frame(read_export(path))._replace(said=str(path))
        if op.call == "gaps":
            found = fetcher.gaps(*what, provider=provider, **op.arguments)
            rows = [
                {"first": str(row["first"]), "count": int(row["count"]), "cause": row["cause"]}
                for _, row in found.iterrows()
            ]
            return Outcome(manifest={"gaps": rows, "gap_count": len(rows)})
        if op.call == "plan":
            return Outcome(said=str(fetcher.plan(*what, provider=provider, **op.arguments)))
        return Outcome(said=tend(fetcher.cache, op, folder))
    except IncompleteData as error:
        missing = tuple((gap.first_ms, gap.count, gap.cause) for gap in error.missing)
        got = Outcome() if error.frame is None else of_frame(error.frame)
        return got._replace(missing=missing, error="IncompleteData", said=str(error))
    except FetchManyError as error:
        only = next(iter(error.errors.values()))
        if not isinstance(only, IncompleteData):
            return Outcome(error=type(only).__name__, said=str(only))
        missing = tuple((gap.first_ms, gap.count, gap.cause) for gap in only.missing)
        return of_frame(only.frame)._replace(missing=missing, error="IncompleteData", said=str(only))
    except Exception as error:  # noqa: BLE001 - whatever is raised is judged
        return Outcome(error=type(error).__name__, said=f"{error}\n{traceback.format_exc()[-1500:]}")


def tend(cache: CandleCache, op: Op, folder: Path) -> str:
    """Does what concerns the cache itself, and says what came of it: of `verify` the damaged keys."""
    backup = folder / BACKUP
    if op.call == "verify":
        return " ".join(cache.verify().damaged)
    if op.call == "import":
        return str(cache.import_file(op.arguments["path"]))
    if op.call == "backup":
        return str(cache.backup(backup))
    if op.call == "restore":  # as old as it may be
        return str(cache.restore(backup)) if backup.exists() else ""
    cache.clear()
    return ""


def read_export(path: Path) -> pd.DataFrame:
    """The file as its lines stand, read without code of ours."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    times = [dt.datetime.fromisoformat(row["timestamp"]).replace(tzinfo=dt.timezone.utc) for row in rows]
    index = pd.DatetimeIndex(times, name="timestamp", tz="UTC")
    return pd.DataFrame({name: [float(row[name]) for row in rows] for name in VALUES}, index=index, dtype=float)


def of_frame(frame: pd.DataFrame) -> Outcome:
    """The frame as plain arrays, as they go between processes."""
    columns = {name: frame[name].to_numpy(np.float64) for name in VALUES}
    closed = frame["is_closed"].to_numpy(bool) if "is_closed" in frame else None
    opens = frame.index.as_unit("ms").asi8.copy()
    manifest = frame.attrs.get(MANIFEST)
    return Outcome(opens, columns, closed, None if manifest is None else dict(manifest))


class ThreadWorker:
    """A fetcher in this process."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup, self._folder = setup, folder
        self._fetcher = make_fetcher(setup)

    def run(self, op: Op) -> Outcome:
        """Does it in the thread that calls."""
        return perform(self._fetcher, op, self._folder)

    def restart(self, *, kill: bool) -> None:
        """A new fetcher; there is nothing to kill in a thread."""
        self.close()
        self._fetcher = make_fetcher(self._setup)

    def close(self) -> None:
        """Closes the fetcher."""
        self._fetcher.close()


def _serve(pipe: Any, setup: Setup, folder: Path) -> None:
    """Does what comes through the pipe until None does."""
    warnings.simplefilter("ignore")
    with make_fetcher(setup) as fetcher:
        while (op := pipe.recv()) is not None:
            op = op._replace(market=next(one for one in MARKETS if one[:3] == op.market[:3]))
            pipe.send(perform(fetcher, op, folder))


class ProcessWorker:
    """A fetcher in a process of its own."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup, self._folder = setup, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._setup, self._folder), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, op: Op) -> Outcome:
        """Has it done there."""
        self._pipe.send(op)
        if not self._pipe.poll(HUNG_S):
            self._process.kill()
            return Outcome(error="hung", said=f"{op.call} has not returned for {HUNG_S:.0f} s")
        try:
            outcome: Outcome = self._pipe.recv()
        except EOFError:
            return Outcome(error="died", said=f"exit code {self._process.exitcode}")
        return outcome

    def restart(self, *, kill: bool) -> None:
        """A new process; the old one ends or is killed."""
        if kill:
            self._process.kill()
        self.close()
        self._start()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


# -- the world -------------------------------------------------------------------------------------------------


class Wrong(AssertionError):
    """A result that the exchange contradicts."""


class World:
    """One world; `run` does its steps and raises Wrong at the first result that cannot be."""

    def __init__(self, seed: int, folder: Path, *, processes: bool = False, counts: Counter[str] | None = None) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._processes = processes
        clock = folder / "clock"
        clock.write_bytes(bytes(8))
        with clock.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), 8)
        self.now_s = utc_s(self.chance.choice(["2023-03-24T20:00:30", "2024-06-15T12:00:30", "2025-09-03T09:30:30"]))
        self.exchange = PracticeExchange(clock=lambda: self.now_s, weight_limit=10**9, log=False)
        self.exchange.kraken.burst = 10**9
        self.hidden: list[tuple[Market, int, int]] = []
        self.corrected: dict[tuple[str, str, str, int], list[tuple[float, ...]]] = {}
        self.faults: list[faults.Fault] = []
        self.touched: list[tuple[Market, str, int, int]] = []
        self.exported: list[tuple[Market, str]] = []
        count = self.chance.choice([1, 1, 2, 3, 4])
        self._markets = self.chance.sample([one for one in MARKETS if utc_s(one.since) < self.now_s], k=2)
        # Few timeframes in a world, so that operations meet.
        self._timeframes = {
            market.symbol + market.provider: self.chance.sample([*market.native, *market.made], k=2)
            for market in self._markets
        }
        self._count = count

    @property
    def now_s(self) -> float:
        """The exchange's clock, in s."""
        return float(struct.unpack("<d", self._clock[:8])[0])

    @now_s.setter
    def now_s(self, value: float) -> None:
        self._clock[:8] = struct.pack("<d", value)

    @property
    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def run(self, steps: int) -> None:
        """Does the steps, and looks at the end whether all is whole."""
        with self.exchange.start(), contextlib.ExitStack() as stack:
            stack.callback(self._clock.close)
            workers = [self._worker() for _ in range(self._count)]
            for worker in workers:
                stack.callback(worker.close)
            with ThreadPoolExecutor(len(workers)) as pool:
                for _ in range(steps):
                    self._change(workers)
                    self._step(workers, pool)
            self._end(stack)

    def _worker(self, *, skewed: bool = True) -> ThreadWorker | ProcessWorker:
        most_s = _MOST_SKEW_MS / 1000
        skews = [0.0] * 6 + [0.4, -0.7, 8, -8, 200, -200, most_s, -most_s]
        settings = self.chance.choice(
            [{}, {}, {"cache_ttl": 60}, {"memory_cache_size": 200_000}, {"network_threads": 1}, {"compression": True}]
        )
        settings = {
            **settings,
            "base_urls": self.exchange.base_urls,
            "api_keys": self.exchange.api_keys,
            "cache_dir": str(self.folder / "cache"),
        }
        setup = Setup(str(self.folder / "clock"), self.chance.choice(skews) if skewed else 0.0, settings)
        folder = self.folder / "exports"
        folder.mkdir(exist_ok=True)
        return (ProcessWorker if self._processes else ThreadWorker)(setup, folder)

    def _change(self, workers: Sequence[ThreadWorker | ProcessWorker]) -> None:
        chance = self.chance
        for fault in self.faults:
            fault.stop()
        self.faults = []
        market = chance.choice(self._markets)
        event = chance.randrange(12)
        if event <= 3:
            step_s = parse_timeframe(chance.choice(self._timeframes[market.symbol + market.provider])).nominal_ms / 1000
            self.now_s += min(
                chance.choice([0.5, 1, 2.5, 30, 60, step_s / 3, step_s, 5 * step_s, 3_700, 90_000]), 40 * 86_400
            )
        elif event == 4 and market.changes:
            start_ms, end_ms = self._range(market, self._timeframe(market))
            end_ms = min(end_ms, start_ms + chance.choice([1, 5, 50]) * (end_ms - start_ms) // 50)
            # A market that is traded and has no candle at all contradicts itself.
            start_ms = max(start_ms, utc_s(market.since) * 1000 + 3_600_000)
            self.exchange.hide(market.provider, market.theirs, (start_ms, end_ms))
            self.hidden.append((market, start_ms, end_ms))
        elif event == 5 and market.changes:
            self.exchange.unhide(market.provider, market.theirs)
        elif event == 6 and market.changes:
            self._correct(market)
        elif event in (7, 8, 9):
            match = chance.choice(["lines", "OHLC", "bars", "data/", "time", "exchangeInfo", None, None])
            action, times = chance.choice(FAULTS), chance.choice([1, 1, 2, 6, None])
            if action is no_rows:
                times = 1  # what a provider says twice, on two connections, is its word
            self.faults.append(self.exchange.fail(action(), times=times, match=match, after=chance.randrange(4)))
            self.counts["faults"] += 1
        elif event == 10:
            chance.choice(workers).restart(kill=chance.random() < 0.5)
            self.counts["restarts"] += 1

    def _correct(self, market: Market) -> None:
        timeframe = self.chance.choice(
            [one for one in self._timeframes[market.symbol + market.provider] if one in market.native] or ["1h"]
        )
        start_ms, end_ms = self._range(market, timeframe)
        truth = self.exchange.truth(market.provider, market.theirs, timeframe, start_ms, min(end_ms, self.now_ms))
        if not len(truth["open_time"]):
            return
        at = self.chance.randrange(len(truth["open_time"]))
        open_ms = int(truth["open_time"][at])
        known = self.corrected.setdefault((*market[:3:2], timeframe, open_ms), [])
        known.append(tuple(float(truth[name][at]) for name in VALUES))
        self.exchange.restate(
            market.provider, market.theirs, timeframe, open_ms, volume=self.chance.randrange(1, 9_999) / 8
        )
        self.counts["corrections"] += 1

    def _timeframe(self, market: Market) -> str:
        return self.chance.choice(self._timeframes[market.symbol + market.provider])

    def _range(self, market: Market, timeframe: str) -> tuple[int, int]:
        """A range that begins before now, of up to 2,500 slots."""
        step_ms = parse_timeframe(timeframe).nominal_ms
        near_ms = self.now_ms
        if self.chance.random() < 0.4:
            near_ms = min(near_ms, utc_s(self.chance.choice(PLACES)) * 1000)
        most = 2_500 if step_ms < DAY_MS else 600
        slots = math.exp(self.chance.uniform(0, math.log(most)))
        start_ms = int(near_ms - slots * step_ms * self.chance.uniform(0.1, 1.2)) - step_ms
        start_ms = max(start_ms, utc_s("2017-06-01") * 1000)
        if self.chance.random() < 0.7:
            start_ms -= start_ms % min(step_ms, DAY_MS)
        end_ms = start_ms + max(int(slots * step_ms), step_ms)
        return min(start_ms, self.now_ms - 5 * min(step_ms, DAY_MS)), end_ms

    def _op(self) -> Op:
        chance = self.chance
        market = chance.choice(self._markets)
        timeframe = self._timeframe(market)
        call = chance.choices(
            ["fetch", "many", "iter", "export", "gaps", "plan", "verify", "clear", "import", "backup", "restore"],
            [60, 6, 8, 6, 6, 5, 2, 1, 4, 1, 2],
        )[0]
        if call == "import" and self.exported:
            market, path = chance.choice(self.exported)
            return Op("import", market, timeframe, {"path": path})
        call = "plan" if call == "import" else call
        start_ms, end_ms = self._range(market, timeframe)
        arguments: dict[str, Any] = {"start": start_ms, "end": end_ms}
        if call == "iter":
            arguments["rows"] = chance.choice([7, 1_000, 100_000])
        return Op(
            call,
            market,
            timeframe,
            self._fetch_arguments(market, timeframe, arguments) if call == "fetch" else arguments,
        )

    def _fetch_arguments(self, market: Market, timeframe: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The range in another shape at times, and other arguments of `fetch` beside it."""
        chance, start_ms, end_ms = self.chance, arguments["start"], arguments["end"]
        shape = chance.randrange(6)
        if shape == 0:
            arguments = {"limit": chance.choice([1, 2, 5, 100, 1_500])}
            arguments |= chance.choice([{}, {"end": end_ms}, {"start": start_ms}])
        elif shape == 1:
            step = parse_timeframe(timeframe).nominal_ms / DAY_MS
            arguments = {"days": max(1, round(step * chance.choice([1, 20, 900])))}
        elif shape == 2 and self.now_ms - start_ms <= 20_000 * parse_timeframe(timeframe).nominal_ms:
            arguments = {"start": start_ms}
        if chance.random() < 0.12:
            arguments["refresh"] = True
        if chance.random() < 0.1:
            arguments["on_gap"] = "refetch"
        if chance.random() < 0.12:
            arguments["include_open"] = True
        if chance.random() < 0.12 and not market.depth:
            arguments["source"] = chance.choice(["cache", "rest", "archive"])
            if arguments["source"] == "archive" and not market.provider.startswith("binance"):
                arguments["source"] = "cache"
        return arguments

    def _step(self, workers: Sequence[ThreadWorker | ProcessWorker], pool: ThreadPoolExecutor) -> None:
        count = self.chance.randint(1, len(workers))
        ops = [self._op() for _ in range(count)]
        is_clean = not self.faults
        futures = [pool.submit(worker.run, op) for worker, op in zip(workers, ops, strict=False)]
        for op, future in zip(ops, futures, strict=True):
            outcome = future.result()
            self.counts[op.call] += 1
            try:
                self._check(op, outcome, is_clean=is_clean)
            except Wrong as wrong:
                others = "; ".join(describe(other) for other in ops if other is not op)
                raise Wrong(
                    f"{describe(op)} at {iso(self.now_ms)}: {wrong}" + (f" (beside {others})" if others else "")
                ) from None

    # -- what must hold -----------------------------------------------------------------------------------------

    def _check(self, op: Op, outcome: Outcome, *, is_clean: bool, exact: bool = False) -> None:
        if op.call == "import" and outcome.error == "InputError" and "in the future by this machine" in outcome.said:
            return  # a worker whose clock is behind says so
        if outcome.error == "InputError" and op.arguments.get("source") == "cache" and self._is_behind(outcome.said):
            return  # no source is asked, and by this worker's clock the start lies in the future
        if outcome.error and outcome.error != "IncompleteData":
            is_refused = outcome.error in ("AccessDenied", "ProviderRefused", "UnknownSymbol", "FetchManyError")
            if is_clean or not is_refused:
                raise Wrong(f"{outcome.error}: {outcome.said}")
            return
        if op.call == "verify" and outcome.said:
            raise Wrong(f"damaged: {outcome.said}")
        if op.call == "export" and not outcome.error and op.timeframe in op.market.native:
            self.exported.append((op.market, outcome.said))
        if op.call in ("plan", "verify", "clear", "import", "backup", "restore"):
            return
        source = op.arguments.get("source", "auto")
        is_left_alone = "no request is sent to it for a while" in outcome.said  # for what failed a moment ago
        if outcome.error and is_clean and source not in ("cache", "archive") and not is_left_alone:
            self._check_depth(op, outcome)
        if outcome.opens is None and op.call != "gaps":
            return
        self.counts["frames compared"] += 1
        Judge(self, op, outcome).check(exact=exact)
        if op.call != "gaps" and len(outcome.opens):
            self.touched.append((op.market, op.timeframe, int(outcome.opens[0]), int(outcome.opens[-1]) + 1))

    def _is_behind(self, said: str) -> bool:
        """Whether the message says that a range begins in the future, by a clock that is behind the exchange's."""
        found = re.search(r"lies in the future; .* now is (\S+)", said)
        return found is not None and utc_ms(found[1]) < self.now_ms - 1000

    def _check_depth(self, op: Op, outcome: Outcome) -> None:
        if op.market.depth is None or any(cause != "depth_limit" for _, _, cause in outcome.missing):
            raise Wrong(f"IncompleteData without a fault: {outcome.said}")

    def _end(self, stack: contextlib.ExitStack) -> None:
        """With every fault gone and every belief expired, each series is whole, and equal once it is refreshed."""
        for fault in self.faults:
            fault.stop()
        for market in self._markets:
            if market.changes:
                self.exchange.unhide(market.provider, market.theirs)
        self.now_s += 40 * 86_400
        worker = self._worker(skewed=False)
        stack.callback(worker.close)
        hidden, self.hidden = self.hidden, []
        for market, timeframe, start_ms, end_ms in self.chance.sample(self.touched, k=min(6, len(self.touched))):
            for arguments in ({}, {"refresh": True}):
                op = Op("fetch", market, timeframe, {"start": start_ms, "end": end_ms, **arguments})
                outcome = worker.run(op)
                try:
                    self._check(op, outcome, is_clean=True, exact="refresh" in arguments)
                except Wrong as wrong:
                    raise Wrong(f"{describe(op)} in the end, at {iso(self.now_ms)}: {wrong}") from None
        self.hidden = hidden


class Judge:
    """Holds one result against what the exchange has."""

    def __init__(self, world: World, op: Op, outcome: Outcome) -> None:
        self._world, self._op, self._outcome = world, op, outcome
        self._market = op.market
        self._grid = parse_timeframe(op.timeframe)
        self._now_ms = world.now_ms

    def check(self, *, exact: bool) -> None:
        """Raises Wrong where a row, a gap or what is missing cannot be."""
        op, outcome = self._op, self._outcome
        if op.call == "gaps":
            self._check_gaps(self._truth(op.arguments["start"], min(op.arguments["end"], self._now_ms)))
            return
        opens = outcome.opens
        if (np.diff(opens) <= 0).any():
            raise Wrong("rows are not in order")
        start_ms, end_ms, least_ms = self._bounds()
        low = min([start_ms, *opens[:1].tolist()])
        truth = self._truth(low, max([end_ms, *(opens[-1:] + 1).tolist()]))
        self._check_rows(truth, start_ms, end_ms, exact=exact)
        self._check_gaps(truth)
        if op.call == "iter" and outcome.error:
            return  # the frames before the one that failed went to the caller
        self._check_whole(truth, max(start_ms, least_ms), end_ms)

    def _truth(self, start_ms: int, end_ms: int) -> dict[str, Any]:
        market, timeframe = self._market, self._op.timeframe
        base = market.made.get(timeframe)
        ask = self._world.exchange.truth
        if base is None:
            return ask(market.provider, market.theirs, timeframe, start_ms, end_ms)
        step_ms = self._grid.nominal_ms
        first = start_ms - start_ms % step_ms
        return aggregate(ask(market.provider, market.theirs, base, first, end_ms + step_ms), step_ms, start_ms, end_ms)

    def _close_ms(self, open_ms: int) -> int:
        if self._grid.unit in "wM":
            return int(self._grid.close_ms(open_ms))
        return open_ms + self._grid.nominal_ms

    def _settled_end_ms(self, delay_ms: int) -> int:
        return int(self._grid.open_ms(self._grid.ordinal(self._now_ms - delay_ms)))

    def _bounds(self) -> tuple[int, int, int]:
        """The earliest start and the end that the range may have, and from where on it must be whole."""
        given, opens = self._op.arguments, self._outcome.opens
        until_ms = self._now_ms + 1  # a candle may open at this very millisecond
        end_ms = min(given.get("end", until_ms), until_ms)
        limit = given.get("limit")
        if "days" in given:
            late, soon = (self._settled_end_ms(delay) for delay in sorted(self._market.delay_ms))
            back_ms = int(given["days"] * DAY_MS)
            if self._outcome.error:  # by a clock that nothing has checked, which may be wrong
                late += _MOST_SKEW_MS + self._grid.nominal_ms
                soon -= _MOST_SKEW_MS + self._grid.nominal_ms
            return soon - back_ms, end_ms, late - back_ms
        if limit is not None:
            rows = len(opens)
            if rows > limit:
                raise Wrong(f"{rows} rows for limit={limit}")
            if "start" in given:
                end_ms = int(opens[-1]) + 1 if rows == limit else end_ms
                return given["start"], end_ms, given["start"]
            if not len(opens):
                return 0, 0, 0
            if rows == limit or self._outcome.error:
                return int(opens[0]), end_ms, int(opens[0])
            return int(opens[0]) - 3 * limit * self._grid.nominal_ms, end_ms, 0
        return given["start"], end_ms, given["start"]

    def _check_rows(self, truth: dict[str, Any], start_ms: int, end_ms: int, *, exact: bool) -> None:
        opens, outcome = self._outcome.opens, self._outcome
        if len(opens) and (opens[0] < start_ms or opens[-1] >= max(end_ms, start_ms + 1)):
            raise Wrong(f"rows {iso(opens[0])} to {iso(opens[-1])} for [{iso(start_ms)}, {iso(end_ms)})")
        at = np.minimum(np.searchsorted(truth["open_time"], opens), max(len(truth["open_time"]) - 1, 0))
        if len(opens) and (not len(truth["open_time"]) or (truth["open_time"][at] != opens).any()):
            odd = opens if not len(truth["open_time"]) else opens[truth["open_time"][at] != opens]
            raise Wrong(f"rows that the exchange has not: {[iso(one) for one in odd[:5]]}")
        least = self._market.delay_ms[0]
        for place in range(len(opens) - 1, max(-1, len(opens) - 4), -1):
            is_closed = outcome.closed is None or bool(outcome.closed[place])
            if is_closed and self._close_ms(int(opens[place])) + least > self._now_ms:
                raise Wrong(f"the row of {iso(opens[place])} is not final yet")
        self._check_values(truth, at, exact=exact)

    def _check_values(self, truth: dict[str, Any], at: Any, *, exact: bool) -> None:
        opens, outcome, market = self._outcome.opens, self._outcome, self._market
        is_made = self._op.timeframe in market.made
        for name in VALUES:
            ours, theirs = outcome.columns[name], truth[name][at]
            same = np.isclose(ours, theirs, rtol=1e-9, atol=0) if is_made and name == "volume" else ours == theirs
            for place in np.flatnonzero(~same):
                open_ms = int(opens[place])
                if outcome.closed is not None and not outcome.closed[place]:
                    continue  # a forming candle changes while it is asked for
                if is_made and (
                    self._is_changed(open_ms) or iso(open_ms) + "Z" in (outcome.manifest or {}).get("partial", ())
                ):
                    continue
                known = self._world.corrected.get((market.provider, market.theirs, self._op.timeframe, open_ms), [])
                if exact or ours[place] not in [values[VALUES.index(name)] for values in known]:
                    raise Wrong(f"{name} of {iso(open_ms)} is {ours[place]}, and {theirs[place]} at the exchange")

    def _is_changed(self, open_ms: int) -> bool:
        """Whether a candle that this one is made of was hidden or corrected."""
        end_ms = open_ms + self._grid.nominal_ms
        base = self._market.made[self._op.timeframe]
        return self._was_hidden(open_ms, end_ms) or any(
            (provider, theirs, timeframe) == (self._market.provider, self._market.theirs, base)
            and open_ms <= at_ms < end_ms
            for provider, theirs, timeframe, at_ms in self._world.corrected
        )

    def _was_hidden(self, start_ms: int, end_ms: int) -> bool:
        return any(
            one[:3] == self._market[:3] and first < end_ms and start_ms < last
            for one, first, last in self._world.hidden
        )

    def _check_gaps(self, truth: dict[str, Any]) -> None:
        """No gap may hold a row, or a candle that was never hidden."""
        outcome = self._outcome
        if outcome.manifest is None or outcome.manifest["gap_count"] > len(outcome.manifest["gaps"]):
            return
        rows = set() if outcome.opens is None else set(self._grid.ordinals(outcome.opens).tolist())
        for gap in outcome.manifest["gaps"]:
            first = self._grid.ordinal(utc_ms(gap["first"]))
            slots = range(first, first + gap["count"])
            if rows.intersection(slots):
                raise Wrong(f"a gap holds a row: {gap}")
            span = self._grid.open_ms(slots[0]), self._grid.open_ms(slots[-1] + 1)
            inside = (truth["open_time"] >= span[0]) & (truth["open_time"] < span[1])
            for open_ms in truth["open_time"][inside].tolist():
                if self._close_ms(open_ms) + self._market.delay_ms[1] > self._now_ms:
                    continue
                if not self._was_hidden(open_ms, self._close_ms(open_ms)):
                    raise Wrong(f"{iso(open_ms)} is a gap of cause {gap['cause']}, and the exchange has it")

    def _check_whole(self, truth: dict[str, Any], start_ms: int, end_ms: int) -> None:
        """Every final candle of the range is a row, a gap of a hidden one, or named as missing."""
        outcome, market, source = self._outcome, self._market, self._op.arguments.get("source")
        if source in ("cache", "archive") and outcome.manifest is not None:
            end_ms = min(end_ms, utc_ms(outcome.manifest["end"]))
        if (
            outcome.manifest is not None
            and utc_ms(outcome.manifest["end"]) > self._now_ms - LATE_MS - 2 * self._grid.nominal_ms
        ):
            end_ms = min(end_ms, utc_ms(outcome.manifest["end"]))  # a row that is lacking there may still be late
        if self._op.arguments.get("limit") is not None and outcome.error:
            return  # which part of the look-back came is not told
        there = set(outcome.opens.tolist())
        for open_ms in truth["open_time"].tolist():
            if not start_ms <= open_ms < end_ms or open_ms in there:
                continue
            close_ms = self._close_ms(open_ms)
            if close_ms + market.delay_ms[1] > self._now_ms or self._was_hidden(open_ms, close_ms):
                continue
            slot = self._grid.ordinal(open_ms)
            if any(
                (first := self._grid.ordinal(first_ms)) <= slot < first + count
                for first_ms, count, _ in outcome.missing
            ):
                continue
            raise Wrong(f"the candle of {iso(open_ms)} is neither a row nor a gap nor named as missing")


def aggregate(base: dict[str, Any], step_ms: int, start_ms: int, end_ms: int) -> dict[str, Any]:
    """The candles of `step_ms` that open in [start, end), put together one by one."""
    slots: dict[int, list[int]] = {}
    for place, open_ms in enumerate(base["open_time"].tolist()):
        slots.setdefault(open_ms - open_ms % step_ms, []).append(place)
    kept = {open_ms: places for open_ms, places in slots.items() if start_ms <= open_ms < end_ms}
    return {
        "open_time": np.array(list(kept), np.int64),
        "open": np.array([base["open"][places[0]] for places in kept.values()]),
        "high": np.array([max(base["high"][places]) for places in kept.values()]),
        "low": np.array([min(base["low"][places]) for places in kept.values()]),
        "close": np.array([base["close"][places[-1]] for places in kept.values()]),
        "volume": np.array([math.fsum(base["volume"][places]) for places in kept.values()]),
    }


def utc_s(text: str) -> int:
    """Unix s of an ISO time in UTC."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp())


def utc_ms(text: str) -> int:
    """Unix ms of a time as the library writes it."""
    return int(pd.Timestamp(text).timestamp() * 1000)


def iso(ms: Any) -> str:
    """The instant, to be read."""
    return dt.datetime.fromtimestamp(int(ms) / 1000, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def describe(op: Op) -> str:
    """The operation as a person would write it."""
    shown = {name: iso(value) if name in ("start", "end") else value for name, value in op.arguments.items()}
    return f"{op.call}({op.market.provider}:{op.market.symbol}, {op.timeframe}, {shown})"


# -- the command -----------------------------------------------------------------------------------------------


def run_world(seed: int, *, steps: int = STEPS, counts: Counter[str] | None = None) -> str:
    """What was wrong in the world of that seed; empty where nothing was. Every eighth world has processes."""
    with tempfile.TemporaryDirectory(prefix="world") as folder:
        world = World(seed, Path(folder), processes=seed % 8 == 7, counts=counts)
        try:
            world.run(steps)
        except Wrong as wrong:
            return str(wrong)
    return ""


def worlds(seed: int, most: int | None, seconds: float | None) -> Iterator[int]:
    """The seeds from the first one on, so many or for so long."""
    until_s = None if seconds is None else time.monotonic() + seconds
    at = seed
    while (most is None or at < seed + most) and (until_s is None or time.monotonic() < until_s):
        yield at
        at += 1


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="how long to go on (default: 60, unless --worlds is given)")
    parser.add_argument("--worlds", type=int, help="how many worlds")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first world (default: 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a world (default: {STEPS})")
    options = parser.parse_args(words)
    warnings.simplefilter("ignore")
    if hasattr(signal, "SIGUSR2"):
        import faulthandler

        faulthandler.register(signal.SIGUSR2)
    seconds = 60.0 if options.seconds is None and options.worlds is None else options.seconds
    counts: Counter[str] = Counter()
    failed = {}
    began = time.monotonic()
    for seed in worlds(options.seed, options.worlds, seconds):
        wrong = run_world(seed, steps=options.steps, counts=counts)
        counts["worlds"] += 1
        if wrong:
            failed[seed] = wrong
            print(f"seed {seed}: {wrong}", flush=True)
    for name, count in sorted(counts.items(), key=lambda item: (item[0] not in ("worlds", "frames compared"), item[0])):
        print(f"{name:<16} {count:>9,}")
    print(f"{'seconds':<16} {time.monotonic() - began:>9,.0f}")
    print(f"{len(failed)} of {counts['worlds']:,} worlds failed" + (f": seeds {sorted(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
