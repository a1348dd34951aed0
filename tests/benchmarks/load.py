"""The disk cache under load: threads and processes that read and write one folder, one of them killed every 2 s.

    python tests/benchmarks/load.py [--seconds N] [--threads N ...] [--processes N ...]

400 keys, values of 48 KB, half of the operations are writes; every value that is read is checked. A line for each
combination: operations a second, their time (median, P90, P99, longest, in ms), errors (what could not be saved),
values that are torn, values of another key, open files of the process that had most, whether the database is sound in
the end. A bound that is missed is marked with `!`, and the command exits with 1: no error, nothing torn or foreign, at
most 3 files a thread and 20, a sound database; and, up to 64 threads in all, 99 % of the operations below 0.5 s and all
below 5 s. With more threads than that, an operation's time is that of waiting for a processor.

Needs fork: each process starts prepared, so that what is measured is the cache and not Python's start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sqlite3
import struct
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import candle_fetcher.store.database  # noqa: F401 (before the forks)
from candle_fetcher import CacheWarning
from candle_fetcher.store import DiskTier

THREADS = (1, 8, 32)
PROCESSES = (1, 4, 8, 16)
KEYS = 400
VALUE_BYTES = 48_000
KILL_EVERY_S = 2.0
MAX_BYTES = 10**9
P99_S, LONGEST_S, TIMED_THREADS = 0.5, 5.0, 64

_HEAD = struct.Struct("<IHI")  # checksum; number of the key, and of the turn


class Load(NamedTuple):
    """What came of one combination."""

    threads: int
    processes: int
    seconds: float
    killed: int
    times_s: list[float]
    errors: int
    torn: int
    foreign: int
    files: int
    sound: bool

    def time_s(self, part: float) -> float:
        return self.times_s[min(len(self.times_s) - 1, int(len(self.times_s) * part))] if self.times_s else 0.0

    def missed(self) -> list[str]:
        """The bounds that do not hold, by the name of their column."""
        timed = self.threads * self.processes <= TIMED_THREADS
        held = {
            "op/s": bool(self.times_s),
            "P99": not timed or self.time_s(0.99) < P99_S,
            "longest": not timed or self.time_s(1) < LONGEST_S,
            "errors": self.errors == 0,
            "torn": self.torn == 0,
            "foreign": self.foreign == 0,
            "files": self.files <= 3 * self.threads + 20,
            "sound": self.sound,
        }
        return [name for name, holds in held.items() if not holds]


def make_value(key: int, turn: int) -> bytes:
    rest = struct.pack("<HI", key, turn) + bytes([turn % 256]) * (VALUE_BYTES - _HEAD.size)
    return struct.pack("<I", zlib.crc32(rest)) + rest


def judge_value(key: int, value: bytes) -> str:
    """ "", "torn" or "foreign"."""
    if len(value) != VALUE_BYTES or zlib.crc32(value[4:]) != _HEAD.unpack_from(value)[0]:
        return "torn"
    return "" if _HEAD.unpack_from(value)[1] == key else "foreign"


def open_files() -> int:
    """How many this process has; 0 where the system does not list them."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    return 0


def work(folder: Path, threads: int, ends_s: float, seed: int) -> dict[str, Any]:
    """What the threads of one process measure until then, by the monotonic clock."""
    inherited = open_files()  # the pipes of those that were forked before
    tier = DiskTier(folder, MAX_BYTES)
    found: dict[str, Any] = {"times_s": [], "errors": 0, "torn": 0, "foreign": 0, "files": 0, "problem": ""}

    def run(number: int) -> None:
        pick = random.Random(seed * 1000 + number)
        turn = 0
        while (began_s := time.monotonic()) < ends_s:
            key = pick.randrange(KEYS)
            turn += 1
            if pick.random() < 0.5:
                data = make_value(key, turn)
                began_s = time.monotonic()
                saved = tier.save(f"{key}", data)
                took_s = time.monotonic() - began_s
                if not saved:
                    found["errors"] += 1
                    found["problem"] = tier.problem
            else:
                value = tier.load(f"{key}")
                took_s = time.monotonic() - began_s
                if value is not None and (wrong := judge_value(key, value)):
                    found[wrong] += 1
            found["times_s"].append(took_s)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(max(0.0, ends_s - time.monotonic()) * 0.8)
    found["files"] = open_files() - inherited
    for worker in workers:
        worker.join()
    tier.close()
    return found


class Process:
    """A forked process at work; `answer` is what it measured."""

    def __init__(self, folder: Path, threads: int, ends_s: float, seed: int) -> None:
        self._pipe, end = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.close(self._pipe)
                found = work(folder, threads, ends_s, seed)
                with os.fdopen(end, "w") as pipe:
                    json.dump(found, pipe)
                code = 0
            finally:
                os._exit(code)
        os.close(end)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._pipe)

    def answer(self) -> dict[str, Any]:
        with os.fdopen(self._pipe) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if os.waitstatus_to_exitcode(status):
            return {"times_s": [], "errors": 1, "torn": 0, "foreign": 0, "files": 0, "problem": "a process failed"}
        found: dict[str, Any] = json.loads(text)
        return found


def measure(threads: int, processes: int, seconds: float, folder: Path) -> Load:
    """One combination, in a new folder."""
    dice = random.Random(threads * 100 + processes)
    seeds = iter(range(10**6))
    began_s = time.monotonic()
    ends_s = began_s + seconds
    DiskTier(folder, MAX_BYTES).close()
    running = [Process(folder, threads, ends_s, next(seeds)) for _ in range(processes)]
    killed = 0
    while processes > 1 and time.monotonic() + KILL_EVERY_S < ends_s:
        time.sleep(KILL_EVERY_S)
        at = dice.randrange(processes)
        running[at].kill()
        running[at] = Process(folder, threads, ends_s, next(seeds))
        killed += 1
    answers = [process.answer() for process in running]
    for problem in sorted({answer["problem"] for answer in answers if answer["problem"]}):
        print(f"  {problem}", file=sys.stderr)
    con = sqlite3.connect(folder / "cache.db")
    (verdict,) = con.execute("PRAGMA integrity_check").fetchone()
    values = con.execute("SELECT key, value FROM Cache").fetchall()
    con.close()
    left = [judge_value(int(key), value) for key, value in values]
    return Load(
        threads,
        processes,
        seconds,
        killed,
        sorted(time_s for answer in answers for time_s in answer["times_s"]),
        sum(answer["errors"] for answer in answers),
        sum(answer["torn"] for answer in answers) + left.count("torn"),
        sum(answer["foreign"] for answer in answers) + left.count("foreign"),
        max(answer["files"] for answer in answers),
        verdict == "ok",
    )


COLUMNS = "threads processes killed op/s median P90 P99 longest errors torn foreign files sound".split()  # noqa: SIM905


def line(load: Load) -> str:
    cells = [
        *(load.threads, load.processes, load.killed, f"{len(load.times_s) / load.seconds:,.0f}"),
        *(f"{load.time_s(part) * 1000:,.1f}" for part in (0.5, 0.9, 0.99, 1)),
        *(load.errors, load.torn, load.foreign, load.files, "yes" if load.sound else "no"),
    ]
    missed = load.missed()
    marked = [f"{cell}{'!' if name in missed else ''}" for name, cell in zip(COLUMNS, cells, strict=True)]
    return "".join(f"{cell:>{max(9, len(name) + 1)}}" for name, cell in zip(COLUMNS, marked, strict=True))


def run(combinations: Sequence[tuple[int, int]], seconds: float) -> Iterator[Load]:
    """Each combination of threads and processes, one after the other."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore", CacheWarning)  # what could not be saved is counted
        for threads, processes in combinations:
            yield measure(threads, processes, seconds, Path(scratch) / f"{threads} {processes}")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="for each combination (default: 6)")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    asked = parser.parse_args(words)
    print("$ python tests/benchmarks/load.py", *words)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; times in ms")
    print("".join(f"{name:>{max(9, len(name) + 1)}}" for name in COLUMNS))
    missed = 0
    for load in run(
        [(threads, processes) for threads in asked.threads for processes in asked.processes], asked.seconds
    ):
        print(line(load), flush=True)
        missed += bool(load.missed())
    print(f"bounds missed in {missed} of {len(asked.threads) * len(asked.processes)}" if missed else "all bounds hold")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
