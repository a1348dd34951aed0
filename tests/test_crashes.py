"""Processes killed at any moment of fetch, export, cleaning and upgrade: the next run gives the truth, asks for what is
missing and no more, and leaves nothing behind. And processes that fork while their threads are at work.

A kill costs little, because a nest, a process that has imported everything, forks each one that is to be killed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import pytest
from runs import FAULT_RUNS
from world import World, ms, same

from candle_fetcher import CacheWarning
from candle_fetcher.core.entry import VERSION, unpack
from candle_fetcher.core.page import unpack_page
from candle_fetcher.core.plan import chunk_of, chunk_span
from candle_fetcher.core.series import split_key
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.files.writing import replacing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork, and no kill at any moment")

MINUTE = parse_timeframe("1m")
FIRST = chunk_of(MINUTE, ms("2024-03-01"))
CHUNKS = range(FIRST, FIRST + 6)
SPAN = (chunk_span(MINUTE, CHUNKS[0]).start_ms, chunk_span(MINUTE, CHUNKS[-1]).end_ms)
# Longer ones, for which the archive's files are worth their while.
MONTHS = (ms("2024-03-01"), ms("2024-05-01"))
# What lies in a cache folder when nobody has it open.
AT_REST = {"cache.db", "candle_fetcher.cache", "claims", "pacing", "pages"}

# Does what a line of stdin says: forks, lets the child work, and kills it after so many seconds, or waits for it.
NEST = """
    import json, os, signal, sys, time, warnings
    import candle_fetcher.fetcher.runtime
    import candle_fetcher.store.database
    from candle_fetcher import CandleFetcher

    candle_fetcher.fetcher.runtime.__version__ = "killed"  # so that the exchange can tell whose requests are whose
    warnings.simplefilter("ignore")

    def work(job):
        clock = lambda: job["now_s"]
        with CandleFetcher(**job["settings"], clock=clock, progress=False) as fetcher:
            for call, words, more in job["calls"]:
                if call == "clear":
                    fetcher.cache.clear()
                else:
                    getattr(fetcher, call)(*words, **more)

    for number, line in enumerate(sys.stdin):
        job = json.loads(line)
        if not number:
            work(job)  # whatever is imported late is imported by now
        began = time.monotonic()
        child = os.fork()
        if not child:
            try:
                work(job)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if job["kill_s"] is not None:
            time.sleep(job["kill_s"])
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, time.monotonic() - began, flush=True)
"""


class Nest:
    """Processes that work in a cache folder, one after the other, and are killed."""

    def __init__(self, world: World, prepared: Path) -> None:
        self._settings = {"base_urls": world.exchange.base_urls}
        self._world = world
        self._process = children.start(NEST)
        self.run(prepared, [fetching(source="rest"), fetching(MONTHS, "5m")])

    def run(self, folder: Path, calls: list[Any], kill_s: float | None = None, **settings: Any) -> tuple[int, float]:
        """The exit code, negative for a kill, and how long it took. Each time it is a minute later, and every budget
        is whole again."""
        self._world.now_s += 60
        job = {
            "settings": {**self._settings, "cache_dir": str(folder), **settings},
            "now_s": self._world.now_s,
            "calls": calls,
            "kill_s": kill_s,
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code, took_s = self._process.stdout.readline().split()
        return int(code), float(took_s)

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


def fetching(span: tuple[int, int] = SPAN, timeframe: str = "1m", **more: Any) -> Any:
    return "fetch", ("BTC/USDT", timeframe, *span), more


def exporting(target: Path, end_ms: int, start_ms: int = SPAN[0]) -> Any:
    return "export", ("BTC/USDT", "1m", start_ms, end_ms), {"path": str(target)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world") / "cache", weight_limit=10**9) as made:
        yield made


@pytest.fixture(scope="module")
def filled(world: World) -> Path:
    """A folder that holds all of SPAN."""
    with world.fetcher(source="rest") as fetcher:
        fetcher.fetch("BTC/USDT", "1m", *SPAN)
    return world.folder


@pytest.fixture(scope="module")
def nest(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nest]:
    made = Nest(world, tmp_path_factory.mktemp("nest") / "cache")
    yield made
    made.close()


def stored_chunks(folder: Path, timeframe: str) -> set[int]:
    """The chunks whose entries are whole, read from a copy: looking at a database mends it."""
    if not (folder / "cache.db").exists():
        return set()
    copy = folder.with_name(f"{folder.name}-copy")
    copy.mkdir()
    for name in ("cache.db", "cache.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy)
    con = sqlite3.connect(copy / "cache.db")
    try:
        rows = con.execute("SELECT key, value FROM Cache WHERE key GLOB '*|candles|*'").fetchall()
    except sqlite3.OperationalError:  # killed before there was a table
        rows = []
    finally:
        con.close()
        shutil.rmtree(copy)
    found: set[int] = set()
    for key, value in rows:
        series, rest = split_key(key) or (None, "")
        if series is None or series.timeframe.name != timeframe:
            continue
        if rest.isdigit() and unpack(key, value) is not None:
            found.add(int(rest))
        page = unpack_page(key, value) if rest.startswith("page|") else None
        if page is not None and all((folder / "pages" / f"{file.name}.page").exists() for file in page.files):
            found.update(page.chunks)
    return found


class Asked:
    """What was asked for since the last look, but for what a killed process had sent, which may be answered late."""

    def __init__(self, world: World) -> None:
        found = [one for one in world.exchange.requests if "killed" not in one.headers["user-agent"]]
        world.exchange.clear_log()
        whole = [one.params for one in found if one.params.get("limit") == "1000"]
        self.chunks = Counter(chunk_of(parse_timeframe(one["interval"]), int(one["startTime"])) for one in whole)
        self.files = [one.path for one in found if one.market == "archive"]


@functools.lru_cache
def truth(world: World, span: tuple[int, int], timeframe: str) -> Any:
    return world.exchange.truth("binance", "BTCUSDT", timeframe, *span)


def next_run(world: World, folder: Path, span: tuple[int, int], timeframe: str, **settings: Any) -> Asked:
    """The next run: opens, gives the truth, asks for what is missing. The one after it asks for nothing."""
    step = parse_timeframe(timeframe)
    first, last = chunk_of(step, span[0]), chunk_of(step, span[1] - 1)
    missing = set(range(first, last + 1)) - stored_chunks(folder, timeframe)
    world.now_s += 60
    Asked(world)
    with world.fetcher(cache_dir=folder, **settings) as fetcher:
        same(fetcher.fetch("BTC/USDT", timeframe, *span), truth(world, span, timeframe))
    asked = Asked(world)
    assert set(asked.chunks.values()) <= {1}
    assert set(asked.chunks) == missing if settings.get("source") == "rest" else set(asked.chunks) <= missing
    assert missing or not asked.files
    with world.fetcher(cache_dir=folder, **settings) as fetcher:
        same(fetcher.fetch("BTC/USDT", timeframe, *span), truth(world, span, timeframe))
    again = Asked(world)
    assert (sum(again.chunks.values()), again.files) == (0, [])
    assert {path.name for path in folder.iterdir()} <= AT_REST | {f"warned-{kind}" for kind in ("evicted", "damaged")}
    return asked


class Kills:
    """Kills at random moments of a work: at any time before its end, as an undisturbed one took."""

    def __init__(self, nest: Nest, tmp_path: Path, seed: int) -> None:
        self._nest = nest
        self._tmp_path = tmp_path
        self._dice = random.Random(seed)

    def each(self, count: int, calls: list[Any], prepare: Callable[[Path], object], **settings: Any) -> Iterator[Path]:
        """Gives `count` folders in which a process was killed; each is removed afterwards."""
        took_s: list[float] = []
        killed = turn = 0
        while killed < count:
            turn += 1
            assert turn < 5 * count + 10, "most end before they are killed"
            folder = self._tmp_path / f"cache {turn}"
            prepare(folder)
            measured = len(took_s) < 2
            kill_s = None if measured else self._dice.uniform(0.001, min(took_s))
            code, seconds = self._nest.run(folder, calls, kill_s, **settings)
            assert code in (0, -signal.SIGKILL)
            if measured:
                took_s.append(seconds)
            elif code:  # else it was done before
                killed += 1
                yield folder
            shutil.rmtree(folder, ignore_errors=True)


def nothing(folder: Path) -> None:
    """A folder that is not there yet."""


def fetch_by_rest(world: World, kills: Kills, filled: Path, count: int) -> None:
    for folder in kills.each(count, [fetching()], nothing, source="rest", network_threads=2):
        next_run(world, folder, SPAN, "1m", source="rest")


def fetch_from_the_archive(world: World, kills: Kills, filled: Path, count: int) -> None:
    for folder in kills.each(count, [fetching(MONTHS, "5m")], nothing):
        next_run(world, folder, MONTHS, "5m")


def export(world: World, kills: Kills, filled: Path, count: int) -> None:
    """The file is always one of the two whole ones; what a kill leaves beside it is gone with the next export."""
    target = filled.parent / "export" / "mine.csv"
    ends = (SPAN[1], SPAN[1] - 3_600_000)
    whole = []
    for end in ends:
        with world.fetcher(cache_dir=filled, source="rest") as fetcher:
            whole.append(fetcher.export("BTC/USDT", "1m", SPAN[0], end, path=target).read_bytes())
    calls = [exporting(target, end) for end in ends] * 4
    for folder in kills.each(count, calls, lambda folder: shutil.copytree(filled, folder), source="rest"):
        assert target.read_bytes() in whole
        next_run(world, folder, SPAN, "1m", source="rest")
    assert len(list(target.parent.glob(".*.part"))) <= 2 * count
    target.with_name(".mine.csv.abcdefgh.part").touch()
    with world.fetcher(cache_dir=filled, source="rest") as fetcher:
        fetcher.export("BTC/USDT", "1m", *SPAN, path=target)
    assert set(target.parent.iterdir()) == {target, target.with_suffix(".json")}
    shutil.rmtree(target.parent)


def clean(world: World, kills: Kills, filled: Path, count: int) -> None:
    calls = [("clear", (), {}), fetching(), ("clear", (), {})]
    for folder in kills.each(count, calls, lambda folder: shutil.copytree(filled, folder), source="rest"):
        next_run(world, folder, SPAN, "1m", source="rest")


def evict(world: World, kills: Kills, filled: Path, count: int) -> None:
    """A bound that holds half of it, so that each save makes room."""
    settings = {"source": "rest", "disk_cache_size": "300KB"}
    prepare: Callable[[Path], object] = lambda folder: shutil.copytree(filled, folder)  # noqa: E731
    later = (SPAN[1], 2 * SPAN[1] - SPAN[0])
    for folder in kills.each(count, [fetching(later)], prepare, **settings):
        next_run(world, folder, SPAN, "1m", source="rest")


def sealed_as(version: int, key: str, value: bytes) -> bytes:
    """The entry as a library of that version would have sealed it."""
    rest = bytearray(value[8:])
    rest[0] = version
    return value[:4] + struct.pack("<I", zlib.crc32(rest, zlib.crc32(key.encode()))) + bytes(rest)


def write_as(version: int, filled: Path, folder: Path) -> None:
    """The filled folder as a library of that version would have written it."""
    shutil.copytree(filled, folder)
    con = sqlite3.connect(folder / "cache.db", isolation_level=None)
    for rowid, key, value in con.execute("SELECT rowid, key, value FROM Cache").fetchall():
        con.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (sealed_as(version, key, value), rowid))
    con.close()


def add_a_column(filled: Path, folder: Path) -> None:
    """The filled folder with a database that has a column which ours has not."""
    shutil.copytree(filled, folder)
    con = sqlite3.connect(folder / "cache.db")
    con.execute("ALTER TABLE Cache ADD COLUMN checksum BLOB")
    con.close()


def upgrade(world: World, kills: Kills, filled: Path, count: int) -> None:
    """A folder that an older or a newer library wrote; a damaged or foreign database is told of once a day at most."""
    newer = functools.partial(write_as, VERSION + 1)
    writers = [functools.partial(write_as, VERSION - 1), newer, add_a_column]
    for turn, write in enumerate(writers):
        share = len(range(turn, count, len(writers)))
        for folder in kills.each(share, [fetching()], functools.partial(write, filled), source="rest"):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                aside = list(folder.glob("cache.db.bad-*"))
                for path in folder.glob("cache.db.bad-*"):
                    path.unlink()  # next_run looks for what else lies about
                if write is newer:  # which stays as it is, and is asked for again
                    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
                        same(fetcher.fetch("BTC/USDT", "1m", *SPAN), truth(world, SPAN, "1m"))
                    assert not stored_chunks(folder, "1m").intersection(CHUNKS)
                    assert not said
                    continue
                if write is add_a_column and not aside:
                    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
                        same(fetcher.fetch("BTC/USDT", "1m", *SPAN), truth(world, SPAN, "1m"))
                    for path in folder.glob("cache.db.bad-*"):
                        path.unlink()
                next_run(world, folder, SPAN, "1m", source="rest")
            assert len(said) <= (write is add_a_column)


# What is killed, and how often of 500.
WORKS: dict[Callable[[World, Kills, Path, int], None], int] = {
    fetch_by_rest: 140,
    fetch_from_the_archive: 60,
    export: 120,
    clean: 60,
    evict: 45,
    upgrade: 75,
}


@pytest.mark.slow(keep=("fetch_by_rest",))
@pytest.mark.fault("D09", "D29", "D30", "F01")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_after_a_kill_the_next_run_gives_the_truth(
    world: World, nest: Nest, filled: Path, tmp_path: Path, work: Any
) -> None:
    work(world, Kills(nest, tmp_path, 1), filled, 3 if work is upgrade else 2)


@pytest.mark.long
@pytest.mark.fault("D09", "D29", "D30", "F01")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_after_each_of_500_kills_the_next_run_gives_the_truth(
    world: World, nest: Nest, filled: Path, tmp_path: Path, work: Any, record_property: Any
) -> None:
    count = round(WORKS[work] * FAULT_RUNS)
    work(world, Kills(nest, tmp_path, 2), filled, count)
    record_property("runs", count)


# -- forks beside threads ---------------------------------------------------------------------------------------------

FORKING = """
    import faulthandler, os, sys, threading
    from pathlib import Path
    from candle_fetcher.store import DiskTier
    tier, forks = DiskTier(Path(sys.argv[1]), 10**8), int(sys.argv[2])
    over = threading.Event()

    def work(name):
        turn = 0
        while not over.is_set():
            turn += 1
            assert tier.save(f"{name} {turn % 40}", bytes([turn % 256]) * 48_000), tier.problem
            found = tier.load(f"{name} {turn * 7 % 40}")
            assert found is None or found == found[:1] * 48_000

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    codes = []
    for fork in range(forks):
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(20, exit=True)
            saved = tier.save(f"child {fork}", b"1" * 9_000) and tier.load(f"child {fork}") == b"1" * 9_000
            tier.close()
            os._exit(0 if saved else 3)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    over.set()
    for thread in threads:
        thread.join()
    print(codes.count(0), sum(tier.load(f"child {fork}") is not None for fork in range(forks)), tier.problem)
    tier.close()
"""

FETCHING = """
    import faulthandler, os, sys, threading
    from candle_fetcher import CandleFetcher
    forks, now_s = int(sys.argv[3]), float(sys.argv[4])
    settings = {"cache_dir": sys.argv[2], "source": "rest", "progress": False, "clock": lambda: now_s}
    fetcher = CandleFetcher(base_urls={"binance": sys.argv[1]}, **settings)
    over = threading.Event()

    def fetch(day, days=3):
        return fetcher.fetch("BTC/USDT", "1m", f"2024-01-{day:02d}", f"2024-01-{day + days:02d}", columns="all")

    def work(day):
        while not over.is_set():
            assert len(fetch(day)) == 3 * 1440
            fetcher.cache.clear()

    threads = [threading.Thread(target=work, args=(day,)) for day in (1, 2, 3)]
    for thread in threads:
        thread.start()
    codes = []
    for fork in range(forks):
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(20, exit=True)
            found = len(fetch(5 + fork % 20))
            fetcher.close()
            os._exit(0 if found == 3 * 1440 else 3)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    over.set()
    for thread in threads:
        thread.join()
    fetcher.close()
    print(codes.count(0))
"""


def run(script: str, *words: object) -> list[str]:
    """The words that the script prints; what else it says is shown where it fails."""
    code, out, err = children.run(script, *words, has_warnings=True)
    assert (code, err) == (0, "")
    return out.split()


def fork_and_fetch(world: World, folder: Path, forks: int) -> list[str]:
    return run(FETCHING, world.exchange.base_urls["binance"], folder, forks, world.now_s + 60)


@pytest.mark.slow
@pytest.mark.fault("D20")
def test_a_fork_beside_busy_threads_shares_the_folder(tmp_path: Path) -> None:
    assert run(FORKING, tmp_path / "cache", 10) == ["10", "10"]


@pytest.mark.slow
@pytest.mark.fault("D20", "E11")
def test_a_fetcher_works_in_a_forked_child_whatever_its_threads_are_at(world: World, tmp_path: Path) -> None:
    assert fork_and_fetch(world, tmp_path / "cache", 4) == ["4"]


@pytest.mark.long
@pytest.mark.fault("D20")
def test_200_forks_beside_busy_threads(tmp_path: Path, record_property: Any) -> None:
    forks = round(200 * FAULT_RUNS)
    record_property("runs", forks)
    assert run(FORKING, tmp_path / "cache", forks) == [f"{forks}"] * 2


@pytest.mark.long
@pytest.mark.fault("D20")
def test_60_forks_beside_a_fetcher_at_work(world: World, tmp_path: Path) -> None:
    forks = round(60 * FAULT_RUNS)
    assert fork_and_fetch(world, tmp_path / "cache", forks) == [f"{forks}"]


@pytest.mark.fault("E11")
def test_a_fetcher_is_not_sent_to_another_process(world: World) -> None:
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(world.fetcher().fetch)


# -- a cache that was damaged -----------------------------------------------------------------------------------------


def cut(key: str, value: bytes, dice: random.Random) -> bytes:
    return value[: dice.randrange(len(value))]


def flip(key: str, value: bytes, dice: random.Random) -> bytes:
    flipped = bytearray(value)
    flipped[dice.randrange(len(value))] ^= 1 << dice.randrange(8)
    return bytes(flipped)


def make_newer(key: str, value: bytes, dice: random.Random) -> bytes:
    return sealed_as(VERSION + 1, key, value)


def swap(key: str, value: bytes, dice: random.Random) -> bytes:
    return b""  # see `damage`


def damage(folder: Path, how: Callable[[str, bytes, random.Random], bytes], dice: random.Random) -> None:
    """Changes each entry so, or gives each the value of the next one."""
    con = sqlite3.connect(folder / "cache.db", isolation_level=None)
    rows = con.execute("SELECT rowid, key, value FROM Cache WHERE key GLOB '*|candles|*[0-9]'").fetchall()
    rows = [row for row in rows if "|shelf|" not in row[1]]
    assert len(rows) == len(CHUNKS)
    for at, (rowid, key, value) in enumerate(rows):
        changed = rows[at - 1][2] if how is swap else how(key, value, dice)
        con.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (changed, rowid))
    con.close()


def fetch_again(world: World, folder: Path) -> Asked:
    Asked(world)
    world.now_s += 60
    with world.fetcher(cache_dir=folder, source="rest") as fetcher:
        same(fetcher.fetch("BTC/USDT", "1m", *SPAN), truth(world, SPAN, "1m"))
    return Asked(world)


def damage_again_and_again(world: World, folder: Path, how: Any, rounds: int) -> list[str]:
    """The warnings of so many runs, each on a cache whose entries were all changed after the one before."""
    dice = random.Random(11)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(rounds):
            damage(folder, how, dice)
            assert fetch_again(world, folder).chunks == Counter(CHUNKS)
            # What a newer version wrote stays as it is.
            assert fetch_again(world, folder).chunks == (Counter(CHUNKS) if how is make_newer else Counter())
    return [str(one.message) for one in said]


ENTRIES = {
    cut: pytest.mark.fault("D01"),
    flip: pytest.mark.fault("D02"),
    swap: pytest.mark.fault("D06"),
    make_newer: pytest.mark.fault("D06", "D30"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param(how, marks=mark, id=how.__name__) for how, mark in ENTRIES.items()])
def test_changed_entries_are_asked_for_again_with_one_warning(
    world: World, filled: Path, tmp_path: Path, how: Any
) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "cache"))
    said = damage_again_and_again(world, folder, how, 2)
    assert len(said) == (how is not make_newer)
    assert all("cut or changed" in message for message in said)


@pytest.mark.long
@pytest.mark.parametrize("how", [pytest.param(how, marks=mark, id=how.__name__) for how, mark in ENTRIES.items()])
def test_500_changed_entries_are_asked_for_again_with_one_warning(
    world: World, filled: Path, tmp_path: Path, how: Any, record_property: Any
) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "cache"))
    rounds = round((500 / len(CHUNKS) if how in (cut, flip) else 10) * FAULT_RUNS) + 1
    record_property("runs", rounds * len(CHUNKS))
    assert len(damage_again_and_again(world, folder, how, rounds)) == (how is not make_newer)


def flip_bits(world: World, folder: Path, count: int) -> list[str]:
    """The warnings of so many runs, each on a database one bit of which was flipped after the one before."""
    dice = random.Random(13)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(count):
            with (folder / "cache.db").open("r+b") as file:
                place = dice.randrange(file.seek(0, os.SEEK_END))
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ 1 << dice.randrange(8)]))
            fetch_again(world, folder)
    return [str(one.message) for one in said]


@pytest.mark.slow
@pytest.mark.fault("D02")
def test_a_bit_that_flipped_anywhere_changes_no_row(world: World, filled: Path, tmp_path: Path) -> None:
    assert len(flip_bits(world, Path(shutil.copytree(filled, tmp_path / "cache")), 10)) <= 2


@pytest.mark.long
@pytest.mark.fault("D02")
def test_500_bits_that_flipped_anywhere_change_no_row(
    world: World, filled: Path, tmp_path: Path, record_property: Any
) -> None:
    record_property("runs", round(500 * FAULT_RUNS))
    said = flip_bits(world, Path(shutil.copytree(filled, tmp_path / "cache")), round(500 * FAULT_RUNS))
    kinds = ["cut or changed", "was damaged", "did not write", "cannot be used"]
    assert all(sum(kind in message for message in said) <= 1 for kind in kinds), said
    assert len(said) <= len(kinds)


# -- a disk that is full, not ours, or locked -------------------------------------------------------------------------

TROUBLED = """
    import os, resource, signal, sys, tempfile, time, warnings
    from candle_fetcher import CandleFetcher
    trouble, now_s = sys.argv[3], float(sys.argv[4])

    def run(folder):
        settings = {"cache_dir": folder, "source": "rest", "progress": False, "clock": lambda: now_s}
        with CandleFetcher(base_urls={"binance": sys.argv[1]}, **settings) as fetcher:
            for _ in range(2):
                frame = fetcher.fetch("BTC/USDT", "1m", *map(int, sys.argv[5:]))
            return frame

    with tempfile.TemporaryDirectory() as other:
        run(other)  # imports everything, as the user below may read no library
    if trouble == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    elif os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        began = time.monotonic()
        frame = run(sys.argv[2])
        took_s = time.monotonic() - began
    facts = frame.attrs["candle_fetcher"]
    print(len(frame), facts["fingerprint"], len(said), took_s < 30, facts["sources"]["memory"] == len(frame))
"""


@pytest.mark.slow
@pytest.mark.fault("D12", "D13", "D31")
@pytest.mark.parametrize("trouble", ["full", "read-only", "of another user"])
@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_cannot_be_written_changes_no_row(
    world: World, filled: Path, tmp_path: Path, trouble: str, there: bool
) -> None:
    parent = tmp_path / "disk"
    folder = parent / "cache"
    parent.mkdir()
    if there:
        shutil.copytree(filled, folder)
    if trouble != "full":
        mine = os.geteuid() != 0 or trouble == "of another user"
        if os.geteuid() != 0 and trouble == "of another user":
            pytest.skip("only root can make a folder of another user")
        for path in (parent, *parent.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
            if not mine:
                os.chown(path, 65534, 65534)
        for path in (tmp_path, *tmp_path.parents):
            if path.is_relative_to("/tmp") and path != Path("/tmp") and os.geteuid() == 0:
                path.chmod(path.stat().st_mode | 0o011)
    said = run(TROUBLED, world.exchange.base_urls["binance"], folder, trouble, world.now_s + 60, *SPAN)
    with world.fetcher(cache_dir=filled, source="rest") as fetcher:
        frame = fetcher.fetch("BTC/USDT", "1m", *SPAN)
    assert said == [f"{len(frame)}", frame.attrs["candle_fetcher"]["fingerprint"], "1", "True", "True"]
    parent.chmod(0o755)
    for path in parent.rglob("*"):
        path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.fault("D14")
def test_a_folder_removed_under_a_fetcher_changes_no_row(world: World, filled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "cache"))
    later = (SPAN[1], 2 * SPAN[1] - SPAN[0])
    with world.fetcher(cache_dir=folder, source="rest", memory_cache_size=0) as fetcher:
        for span in (SPAN, later, SPAN):
            same(fetcher.fetch("BTC/USDT", "1m", *span), truth(world, span, "1m"))
            shutil.rmtree(folder)
        same(fetcher.fetch("BTC/USDT", "1m", *SPAN), truth(world, SPAN, "1m"))
    assert not next_run(world, folder, SPAN, "1m", source="rest").chunks


@pytest.mark.long
@pytest.mark.fault("D15")
def test_a_lock_that_another_process_holds_costs_a_fetch_two_seconds_at_most(
    world: World, filled: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "cache"))
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    later = (SPAN[1], 2 * SPAN[1] - SPAN[0])
    with world.fetcher(cache_dir=folder, source="rest") as fetcher, pytest.warns(CacheWarning, match="another program"):
        began = time.monotonic()
        same(fetcher.fetch("BTC/USDT", "1m", *SPAN), truth(world, SPAN, "1m"))
        assert time.monotonic() - began < 1.5
        for _ in range(2):
            same(fetcher.fetch("BTC/USDT", "1m", *later), truth(world, later, "1m"))
        assert time.monotonic() - began < 2 + 5
    other.close()


# -- files beside the export ------------------------------------------------------------------------------------------


@pytest.mark.fault("D29", "I05")
def test_an_export_collects_what_killed_ones_left_and_nothing_that_lives(tmp_path: Path) -> None:
    """A process that is still writing holds a lock, however long ago the last byte came."""
    old_s = time.time() - 2 * 3600
    foreign = ("mine.part", ".mine.part", ".video.mp4.part", "mine.csv", ".x.csv.abc.part", ".video.mp4.abcd1234.part")
    others = [tmp_path / name for name in foreign]
    dead = [tmp_path / name for name in (".gone.csv.abcd1234.part", ".gone.json.abcd5678.part")]
    for path in (*others, *dead):
        path.touch()
        os.utime(path, (old_s, old_s))
    dead[0].touch()
    with replacing(tmp_path / "slow.csv") as slow:
        slow.write(b"1")
        slow.flush()
        (living,) = tmp_path.glob(".slow.csv.*.part")
        os.utime(living, (old_s, old_s))
        with replacing(tmp_path / "quick.csv") as quick:
            quick.write(b"2")
        assert living.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in others} | {"slow.csv", "quick.csv"}
    assert (tmp_path / "slow.csv").read_bytes() == b"1"


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("old.csv", "none.csv"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far" / "old.csv").write_bytes(b"old")
    for name in ("old.csv", "none.csv"):
        with replacing(tmp_path / name) as file:
            file.write(b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*.csv*"))) == 4


@pytest.mark.slow
@pytest.mark.fault("F09")
@pytest.mark.parametrize(("refusals", "written"), [(2, True), (99, False)])
def test_a_file_that_another_program_has_open_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, written: bool
) -> None:
    target = tmp_path / "mine.csv"
    target.write_bytes(b"old")
    replace, left = Path.replace, iter(range(refusals))

    def refuse(path: Path, to: Path) -> Path:
        if next(left, None) is not None:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    told = contextlib.nullcontext() if written else pytest.raises(PermissionError, match=r"mine\.csv was not written")
    with told, replacing(target) as file:
        file.write(b"new")
    assert target.read_bytes() == (b"new" if written else b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
