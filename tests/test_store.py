"""The tiers of the store: one contract for all, then what each must survive.

`D05` and the like are rows of the fault matrix.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import children
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import FAULT_RUNS

from candle_fetcher.core.errors import CacheWarning
from candle_fetcher.core.events import Event, Lookup, Operation
from candle_fetcher.store import DiskTier, MemoryTier, Store, files
from candle_fetcher.store.writers import WriterQueue

MB = 1_000_000
CANDLES = 88_000  # bytes of a chunk
POSIX = pytest.mark.skipif(os.name != "posix", reason="modes, limits and signals of POSIX")


def times(quick: int, row: int) -> pytest.MarkDecorator:
    """Runs the test with that count, and as a long one as often as the row of the fault matrix says."""
    long = round(row * FAULT_RUNS)
    more = [pytest.param(long, marks=pytest.mark.long)] if long > quick else []
    return pytest.mark.parametrize("count", [quick, *more])


class Clock:
    """Seconds that pass when told to, and a moment more each time they are read."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


class Held:
    """A tier under the four verbs that all of them have."""

    def __init__(self, tier: MemoryTier | DiskTier | Store) -> None:
        self.tier = tier

    def save(self, key: str, data: bytes) -> None:
        if isinstance(self.tier, MemoryTier):
            self.tier.save(key, data, len(data))
        else:
            assert self.tier.save(key, data)

    def load(self, key: str) -> bytes | None:
        found: bytes | None = self.tier.load(key)[1] if isinstance(self.tier, Store) else self.tier.load(key)
        return found

    def drop(self, key: str) -> None:
        self.tier.drop(key)

    def clear(self) -> None:
        self.tier.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def disk(folder: Path) -> Iterator[DiskTier]:
    tier = DiskTier(folder, 100 * MB)
    yield tier
    tier.close()


@pytest.fixture(params=["memory", "disk", "both", "both without memory", "memory alone"])
def held(request: pytest.FixtureRequest, disk: DiskTier) -> Held:
    memory = MemoryTier(MB, Clock())
    tiers: dict[str, Callable[[], MemoryTier | DiskTier | Store]] = {
        "memory": lambda: memory,
        "disk": lambda: disk,
        "both": lambda: Store(memory, disk),
        "both without memory": lambda: Store(MemoryTier(0), disk),
        "memory alone": lambda: Store(memory, None),
    }
    return Held(tiers[request.param]())


def edit(folder: Path, sql: str, *values: object) -> None:
    """Change the database as somebody else would."""
    con = sqlite3.connect(folder / "cache.db", isolation_level=None)
    con.execute(sql, values)
    con.close()


def fill(folder: Path, count: int = 20, size: int = CANDLES) -> dict[str, bytes]:
    values = {f"key {at:03d}": bytes([at % 256]) * size for at in range(count)}
    tier = DiskTier(folder, 100 * MB)
    assert tier.save_many(values)
    tier.close()
    return values


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@contextmanager
def one_warning(text: str) -> Iterator[None]:
    """The body warns exactly once, with that text."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    assert [warning.category for warning in said] == [CacheWarning], [str(warning.message) for warning in said]
    assert text in str(said[0].message)


def race(*works: Callable[[], None]) -> None:
    """Run all at once; the first error of a thread is raised here."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


# -- one contract -----------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_and_nothing_else(held: Held) -> None:
    assert held.load("a") is None
    held.save("a", b"1")
    held.save("b", b"")
    assert (held.load("a"), held.load("b"), held.load("A")) == (b"1", b"", None)


def test_a_second_value_takes_the_place_of_the_first(held: Held) -> None:
    held.save("a", b"1" * CANDLES)
    held.save("a", b"2")
    assert held.load("a") == b"2"


def test_a_dropped_key_is_gone_and_dropping_it_again_is_nothing(held: Held) -> None:
    held.save("a", b"1")
    held.save("b", b"2")
    held.drop("a")
    held.drop("a")
    assert (held.load("a"), held.load("b")) == (None, b"2")


@pytest.mark.slow(every=2)
def test_clear_leaves_nothing_and_the_tier_in_use(held: Held) -> None:
    for at in range(300):
        held.save(f"{at}", b"x")
    held.clear()
    assert not [at for at in range(300) if held.load(f"{at}") is not None]
    held.save("a", b"1")
    assert held.load("a") == b"1"


def test_keys_are_any_text(held: Held) -> None:
    names = ["", "BTC/USDT|1m", "$HOME", "../x", "ключ", "'; DROP TABLE Cache; --", "a\x00b", "%", "A", "a"]
    for name in names:
        held.save(name, name.encode())
    assert [held.load(name) for name in names] == [name.encode() for name in names]


@pytest.mark.slow
@settings(max_examples=30 if FAULT_RUNS >= 1 else 12)
@given(st.lists(st.tuples(st.sampled_from("sdl"), st.sampled_from("abcde"), st.binary(max_size=9)), max_size=40))
def test_a_tier_is_a_dict(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes]]) -> None:
    disk = DiskTier(tmp_path_factory.mktemp("dict") / "cache", MB)
    tiers = [Held(MemoryTier(MB, Clock())), Held(disk), Held(Store(MemoryTier(20), disk))]
    for tier in tiers:
        tier.clear()
        expected: dict[str, bytes] = {}
        for verb, key, data in steps:
            if verb == "s":
                tier.save(key, data)
                expected[key] = data
            elif verb == "d":
                tier.drop(key)
                expected.pop(key, None)
            else:
                assert tier.load(key) == expected.get(key)
        assert {key: tier.load(key) for key in "abcde"} == {key: expected.get(key) for key in "abcde"}
    disk.close()


# -- the memory tier --------------------------------------------------------------------------------------------------


def test_an_entry_ends_at_its_own_time() -> None:
    clock = Clock()
    tier = MemoryTier(100, clock)
    tier.save("ends", "x", 1, clock.now_s + 60)
    tier.save("stays", "y", 1)
    tier.save("ended", "z", 1, clock.now_s - 1)
    assert (tier.load("ends"), tier.load("stays"), tier.load("ended")) == ("x", "y", None)
    clock.now_s += 61
    assert (tier.load("ends"), tier.load("stays")) == (None, "y")
    assert tier.stats()[:3] == (1, 1, 100)


def test_an_ended_value_takes_the_one_before_along() -> None:
    clock = Clock()
    tier = MemoryTier(100, clock)
    tier.save("a", "old", 1)
    tier.save("a", "new", 1, clock.now_s - 1)
    assert tier.load("a") is None


@pytest.mark.fault("D28")
def test_what_is_larger_than_the_tier_is_not_kept_nor_the_one_before() -> None:
    tier = MemoryTier(100, Clock())
    tier.save("a", "old", 60)
    tier.save("b", "other", 40)
    tier.save("a", "huge", 101)
    assert (tier.load("a"), tier.load("b")) == (None, "other")


def test_a_memory_of_no_bytes_keeps_nothing() -> None:
    tier = MemoryTier(0, Clock())
    tier.save("a", "", 0)
    tier.save("b", "x", 1)
    assert (tier.load("a"), tier.load("b"), tier.stats().entries) == (None, None, 0)


def test_keys_are_dropped_by_their_start() -> None:
    tier = MemoryTier(100, Clock())
    for key in ("frame|a", "frame|b", "frames", "a"):
        tier.save(key, key, 1)
    tier.drop_prefix("frame|")
    assert [tier.load(key) for key in ("frame|a", "frame|b", "frames", "a")] == [None, None, "frames", "a"]


def test_hits_and_misses_are_counted() -> None:
    tier = MemoryTier(100, Clock())
    tier.save("a", "x", 7)
    for key in ("a", "a", "b"):
        tier.load(key)
    assert tier.stats() == (1, 7, 100, 2, 1)


@pytest.mark.fault("D28")
@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 35))), max_size=60),
)
def test_the_least_recently_used_leave_first(bound: int, steps: list[tuple[str, int | None]]) -> None:
    tier = MemoryTier(bound, Clock())
    expected: OrderedDict[str, int] = OrderedDict()
    for key, size in steps:
        if size is None:
            assert tier.load(key) == expected.get(key)
            if key in expected:
                expected.move_to_end(key)
            continue
        tier.save(key, size, size)
        if size > bound or not bound:
            expected.pop(key, None)
            continue
        # An entry that grows may push itself out before it comes back: it counts as used last either way.
        grown = size - expected.get(key, 0)
        while sum(expected.values()) + grown > bound:
            oldest, _ = expected.popitem(last=False)
            grown = size if oldest == key else grown
        expected[key] = size
        expected.move_to_end(key)
        assert tier.stats().bytes == sum(expected.values()) <= bound
    assert {key: tier.load(key) for key in "abcdefgh"} == {key: expected.get(key) for key in "abcdefgh"}


@pytest.mark.slow
@pytest.mark.fault("D26")
@times(2_000, 30_000)
def test_threads_race_on_memory_without_an_exception_and_the_sum_is_right(count: int) -> None:  # D26
    tier = MemoryTier(5_000)

    def work(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(count):
            key, size = f"{pick.randrange(60)}", pick.randrange(200)
            turn = pick.random()
            if turn < 0.5:
                tier.load(key)
            elif turn < 0.9:
                tier.save(key, size, size, pick.choice([None, time.time() + 0.002]))
            elif turn < 0.99:
                tier.drop(key)
            else:
                tier.drop_prefix(key)

    race(*(functools.partial(work, seed) for seed in range(8)))
    time.sleep(0.003)  # until the last of those that end has ended
    held = [size for at in range(60) if (size := tier.load(f"{at}")) is not None]
    assert tier.stats()[:2] == (len(held), sum(held))
    assert 0 < sum(held) <= 5_000


# -- the disk tier: values, order, bound ------------------------------------------------------------------------------


def test_values_outlive_the_process(folder: Path) -> None:
    values = fill(folder)
    tier = DiskTier(folder, 100 * MB)
    assert tier.load_many([*values, "none"]) == values
    assert list(tier.keys()) == sorted(values)
    assert tier.stats().entries == len(values)
    tier.close()


def test_many_keys_are_present_as_few_are(disk: DiskTier) -> None:
    names = [f"a|{number}" for number in range(900, 1_300)] + ["a|ключ", "a", "b", "", "a|9990", "a|\x00"]
    disk.save_many({name: b"x" for name in names if name not in ("a|1000", "b")})
    for asked in (names, names[::3], names[-6:], names[:101], ["c"], []):
        assert disk.present(asked) == {name for name in asked if name not in ("a|1000", "b", "c")}


def test_keys_are_listed_by_their_start_and_in_order(disk: DiskTier) -> None:
    names = [f"a|{at:04d}" for at in range(1_200)] + ["a", "b|1", "A"]
    disk.save_many((name, b"") for name in names)
    assert list(disk.keys("a|")) == names[:1_200]
    assert list(disk.keys()) == sorted(names)
    assert list(disk.keys("c")) == []


def test_a_transaction_is_kept_whole_or_not_at_all(disk: DiskTier) -> None:
    disk.save("a", b"1")
    with disk.transaction() as begun:
        assert begun
        assert disk.save("a", (disk.load("a") or b"") + b"2")

    def fail() -> None:
        with disk.transaction():
            disk.save("a", b"3")
            disk.save("b", b"3")
            raise FileNotFoundError("mine")  # an OSError, but not one of the disk tier

    with pytest.raises(FileNotFoundError, match="mine"):
        fail()
    assert (disk.load("a"), disk.load("b"), disk.problem) == (b"12", None, "")


def test_transactions_of_threads_do_not_lose_an_update(disk: DiskTier) -> None:
    disk.save("count", b"0")

    def count() -> None:
        for _ in range(25):
            with disk.transaction():
                disk.save("count", b"%d" % (int(disk.load("count") or b"0") + 1))

    race(*[count] * 6)
    assert disk.load("count") == b"150"


@pytest.mark.fault("D18")
def test_the_least_recently_used_leave_the_disk_with_one_warning_and_the_bound_holds(folder: Path) -> None:  # D18
    tier = DiskTier(folder, 5 * MB)
    with one_warning("disk_cache_size"):
        for at in range(160):
            assert tier.save(f"{at:03d}", bytes([at]) * CANDLES)
            assert size_on_disk(folder) <= 5.5 * MB
    kept = list(tier.keys())
    assert kept == [f"{at:03d}" for at in range(160 - len(kept), 160)]
    assert len(kept) * CANDLES > 4.2 * MB
    tier.close()
    assert size_on_disk(folder) <= 5.5 * MB


def test_nothing_leaves_before_the_bound(folder: Path) -> None:
    tier = DiskTier(folder, 5 * MB)
    for at in range(50):
        tier.save(f"{at}", b"x" * CANDLES)
    assert tier.stats().entries == 50
    tier.close()


@pytest.mark.fault("D18")
def test_many_values_at_once_stay_under_the_bound_too(folder: Path) -> None:
    tier = DiskTier(folder, 5 * MB)
    with one_warning("disk_cache_size"):
        assert tier.save_many((f"{at}", b"x" * CANDLES) for at in range(160))
    assert size_on_disk(folder) <= 5.5 * MB
    tier.close()


def test_a_value_larger_than_the_bound_is_refused_and_the_one_before_goes(folder: Path) -> None:
    tier = DiskTier(folder, MB)
    assert tier.save("a", b"old")
    assert not tier.save("a", b"x" * 2 * MB)
    assert (tier.load("a"), not tier.problem) == (None, True)
    tier.close()


@pytest.mark.fault("D18")
def test_a_bound_that_was_lowered_is_reached_while_saving(folder: Path) -> None:
    fill(folder, 100)
    tier = DiskTier(folder, 4 * MB)
    with one_warning("disk_cache_size"):
        for at in range(6):
            tier.save(f"new {at}", b"x" * CANDLES)
    tier.close()
    assert size_on_disk(folder) <= 4.4 * MB


def test_a_use_keeps_an_entry_and_is_written_at_most_once_a_day(folder: Path) -> None:
    fill(folder, 40)
    edit(folder, "UPDATE Cache SET store_time = store_time - 172800 + rowid")
    tier = DiskTier(folder, 4 * MB)
    tier.load("key 000")
    with one_warning("disk_cache_size"):
        for at in range(20):
            tier.save(f"new {at}", b"x" * CANDLES)
    assert tier.load("key 000") is not None
    assert tier.load("key 001") is None
    tier.flush()
    log = (folder / "cache.db-wal").stat().st_mtime_ns
    tier.load("key 000")
    tier.flush()
    assert (folder / "cache.db-wal").stat().st_mtime_ns == log
    tier.close()


def test_a_value_that_is_dropped_is_not_overwritten_with_zeros(folder: Path) -> None:
    # Where SQLite is built with SQLITE_SECURE_DELETE, as Debian's is, its default is to overwrite deleted content.
    with closing(DiskTier(folder, 4 * MB)) as tier:
        tier.save("one", b"x" * CANDLES)
        tier.save("two", b"y" * CANDLES)
        tier.drop("one")
    assert (folder / "cache.db").read_bytes().count(b"x" * 1000) > 10


def test_close_writes_the_uses_down(folder: Path) -> None:
    fill(folder, 3)
    edit(folder, "UPDATE Cache SET store_time = 0")
    tier = DiskTier(folder, MB)
    tier.load("key 001")
    tier.close()
    con = sqlite3.connect(folder / "cache.db")
    assert con.execute("SELECT key FROM Cache WHERE store_time > 0").fetchall() == [("key 001",)]
    con.close()


def test_clear_gives_the_space_back(folder: Path) -> None:
    fill(folder, 60)
    tier = DiskTier(folder, 100 * MB)
    tier.clear()
    tier.close()
    assert size_on_disk(folder) < 100_000


# -- the disk tier: what it must survive ------------------------------------------------------------------------------


@pytest.mark.fault("D01")
def test_a_cut_value_is_handed_out_as_it_is_or_not_at_all(folder: Path) -> None:  # D01: the entry's checksum decides
    values = fill(folder, 6)
    for at, cut in enumerate(("x''", "NULL", "substr(value, 1, 40000)", "'text'", "7", "zeroblob(88000)")):
        edit(folder, f"UPDATE Cache SET value = {cut} WHERE key = 'key {at:03d}'")
    tier = DiskTier(folder, 100 * MB)
    with one_warning("did not write"):
        found = tier.load_many(values)
    assert {key: len(data) for key, data in found.items()} == {"key 000": 0, "key 002": 40_000, "key 005": 88_000}
    assert tier.save_many(values)
    assert tier.load_many(values) == values
    tier.close()


@pytest.mark.slow
@pytest.mark.fault("D02")
@times(30, 500)
def test_a_flipped_bit_anywhere_never_raises(folder: Path, tmp_path: Path, count: int) -> None:  # D02
    values = fill(folder, 12, 3_000)
    whole = (folder / "cache.db").read_bytes()
    pick = random.Random(7)
    places = [pick.randrange(len(whole)) for _ in range(count)] + list(range(0, 100, 4))
    for turn, place in enumerate(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << pick.randrange(8)
        at = tmp_path / f"{turn}"
        at.mkdir()
        (at / "candle_fetcher.cache").touch()
        (at / "cache.db").write_bytes(flipped)
        tier = DiskTier(at, 100 * MB)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            found = tier.load_many(values)
            assert set(found) <= set(values)
            tier.save("new", b"1")
            tier.stats()
            list(tier.keys())
            tier.drop("new")
            tier.close()
        shutil.rmtree(at)


@pytest.mark.fault("D03")
def test_a_file_that_a_row_asks_for_is_a_miss(folder: Path) -> None:  # D03
    fill(folder, 2)
    edit(folder, "UPDATE Cache SET mode = 2, value = NULL, filename = 'aa/bb/cc.val' WHERE key = 'key 000'")
    tier = DiskTier(folder, 100 * MB)
    with one_warning("did not write"):
        assert tier.load("key 000") is None
    assert list(tier.keys()) == ["key 001"]
    tier.close()


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.fault("D04")
def test_a_pickled_row_runs_no_code_and_is_dropped(folder: Path, tmp_path: Path) -> None:  # D04
    fill(folder, 4)
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    edit(folder, "UPDATE Cache SET mode = 4, value = ? WHERE key = 'key 000'", trap)
    edit(folder, "UPDATE Cache SET raw = 0, key = ? WHERE key = 'key 001'", trap)
    edit(folder, "UPDATE Cache SET key = CAST(x'ff6b' AS TEXT) WHERE key = 'key 003'")
    tier = DiskTier(folder, 100 * MB)
    with one_warning("did not write"):
        assert tier.load("key 000") is None
        assert list(tier.keys()) == ["key 002"]
    assert tier.stats().entries == 1
    assert tier.save("key 000", b"1")
    tier.clear()
    tier.close()
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()  # the trap works


@pytest.mark.fault("D05")
@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_named_in_a_row_is_neither_read_nor_removed(
    folder: Path, tmp_path: Path, mode: int, absolute: bool
) -> None:  # D05
    fill(folder, 4)
    victim = tmp_path / "victim"
    victim.write_bytes(b"private")
    name = str(victim) if absolute else "../victim"
    value = "NULL" if mode > 1 else "value"
    edit(folder, f"UPDATE Cache SET mode = {mode}, value = {value}, filename = ?", name)
    tier = DiskTier(folder, 100 * MB)
    assert tier.save("key 000", b"new")
    tier.drop("key 001")
    with one_warning("did not write"):
        assert tier.load("key 002") is None
    tier.clear()
    tier.close()
    assert victim.read_bytes() == b"private"


def test_swapped_values_come_back_as_stored(folder: Path) -> None:  # D06: the key is inside the entry's checksum
    fill(folder, 2, 8)
    edit(folder, "UPDATE Cache SET value = x'00' WHERE key = 'key 001'")
    tier = DiskTier(folder, MB)
    assert tier.load("key 001") == b"\0"
    tier.close()


def _header(data: bytearray) -> bytes:
    data[:16] = b"garbage garbage!"
    return bytes(data)


def _pages(data: bytearray) -> bytes:
    for page in (0, 1, 2, 5):
        data[page * 8192 + 20 : page * 8192 + 8192] = os.urandom(8172)
    return bytes(data)


def _half(data: bytearray) -> bytes:
    return bytes(data[: len(data) // 2])


@pytest.mark.fault("D07")
@pytest.mark.parametrize("damage", [_header, _pages, _half])
def test_a_damaged_database_is_moved_aside_and_rebuilt_with_one_warning(
    folder: Path, damage: Callable[[bytearray], bytes]
) -> None:  # D07
    values = fill(folder)
    path = folder / "cache.db"
    path.write_bytes(damage(bytearray(path.read_bytes())))
    tier = DiskTier(folder, 100 * MB)
    with one_warning("damaged"):
        tier.load_many(values)
        assert tier.save_many(values)
        assert tier.load_many(values) == values
    assert len(list(folder.glob("cache.db.bad-*"))) == 1
    assert not tier.problem
    tier.close()
    tier = DiskTier(folder, 100 * MB)
    assert tier.load_many(values) == values
    tier.close()


@pytest.mark.fault("D07")
def test_a_database_damaged_again_leaves_one_old_file_only(folder: Path) -> None:
    for turn in range(3):
        fill(folder, 2)
        (folder / "cache.db").write_bytes(b"no database at all" * 1000)
        (folder / f"cache.db.bad-2020010{turn}T000000").touch()
        tier = DiskTier(folder, MB)
        with contextlib.nullcontext() if turn else one_warning("damaged"):
            assert tier.load("key 000") is None
        tier.close()
    assert len(list(folder.glob("cache.db.bad-*"))) == 1


TOLD = """
    import sys, warnings
    from pathlib import Path
    from candle_fetcher.store import DiskTier
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            tier = DiskTier(Path(sys.argv[1]), 10**8)
            tier.load("key 000")
            tier.close()
    print(len(said), tier.folder.joinpath("cache.db").stat().st_size > 20_000)
"""


def told_by_a_new_process(folder: Path) -> list[str]:
    code, out, err = children.run(TOLD, folder)
    assert code == 0, err
    return out.split()


@pytest.mark.slow
@pytest.mark.fault("D07")
def test_a_trouble_is_told_once_a_day_by_whatever_process_finds_it(folder: Path) -> None:  # D07
    for hours, warned in ((0, "1"), (1, "0"), (23, "0"), (25, "1"), (0, "0"), (-30, "1")):
        fill(folder, 2)
        (folder / "cache.db").write_bytes(b"no database at all" * 1000)
        for note in folder.glob("warned-*"):
            os.utime(note, (time.time() - hours * 3600,) * 2)
        assert told_by_a_new_process(folder) == [warned, "True"], hours
    assert [path.name for path in folder.glob("warned-*")] == ["warned-damaged"]
    assert len(list(folder.glob("cache.db.bad-*"))) == 1


@pytest.mark.fault("D07", "D29")
def test_a_damaged_database_that_nobody_looked_into_goes_after_a_month(folder: Path) -> None:
    fill(folder, 2)
    names = {}
    for days in (29, 31):
        names[days] = folder / f"cache.db.bad-2020010{days % 10}T000000"
        names[days].write_bytes(b"old")
        os.utime(names[days], (time.time() - days * 86_400,) * 2)
    tier = DiskTier(folder, MB)
    assert tier.load("key 000") is not None
    tier.close()
    assert (names[29].exists(), names[31].exists()) == (True, False)


@pytest.mark.fault("D21")
@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "ext4", "overlay"])
def test_a_disk_of_another_machine_is_not_written_to_and_told_of(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # D21
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"21 1 8:1 / / rw,relatime shared:1 - xfs /dev/sda1 rw\n"
        f"36 21 {os.major(device)}:{os.minor(device)} / /home rw,relatime shared:7 - {kind} server:/home rw,vers=4.2\n"
    )
    monkeypatch.setattr(files, "MOUNTS", mounts)
    tier = DiskTier(folder, MB)
    if kind in ("ext4", "overlay"):
        assert tier.save("a", b"1")
        assert tier.load("a") == b"1"
    else:
        with one_warning(f"another machine ({kind})"):
            assert not tier.save("a", b"1")
            assert tier.load("a") is None
        assert not list(folder.glob("cache.db*"))
        assert "cache_dir" in tier.problem
    tier.close()


@pytest.mark.fault("D21")
@pytest.mark.parametrize("message", ["locking protocol", "disk I/O error", "unable to open database file"])
def test_a_disk_whose_locks_fail_is_one_warning_and_no_exception(
    folder: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # D21
    def fail(*_: object, **named: object) -> sqlite3.Connection:
        if "timeout" in named:  # not the one in memory
            raise sqlite3.OperationalError(message)
        return connect(":memory:", isolation_level=None)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", fail)
    tier = DiskTier(folder, MB)
    with one_warning(message):
        for _ in range(3):
            assert not tier.save("a", b"1")
            assert tier.load("a") is None
    tier.close()


@pytest.mark.fault("D07")
def test_a_database_damaged_under_a_running_program_is_rebuilt(folder: Path) -> None:  # D07
    values = fill(folder, 60)
    tier = DiskTier(folder, 100 * MB)
    assert tier.load("key 000") is not None
    path = folder / "cache.db"
    path.write_bytes(path.read_bytes()[:8192] + os.urandom(path.stat().st_size - 8192))
    with one_warning("damaged"):
        assert tier.load_many(list(values)) == {}
    assert tier.save_many(values)
    assert tier.load_many(values) == values
    tier.close()


@pytest.mark.fault("D08")
@pytest.mark.parametrize("gone", [True, False])
def test_a_database_that_is_empty_or_gone_is_an_empty_cache(folder: Path, gone: bool) -> None:  # D08
    values = fill(folder)
    (folder / "cache.db").write_bytes(b"")
    if gone:
        (folder / "cache.db").unlink()
    tier = DiskTier(folder, 100 * MB)
    assert tier.load_many(values) == {}
    assert tier.save_many(values)
    assert tier.load_many(values) == values
    tier.close()


@pytest.mark.fault("D10")
@times(15, 200)
def test_a_log_that_lost_its_tail_costs_entries_only(folder: Path, tmp_path: Path, count: int) -> None:  # D10
    tier = DiskTier(folder, 100 * MB)
    values = {f"{at:03d}": bytes([at]) * 9_000 for at in range(30)}
    for key, data in values.items():
        tier.save(key, data)
    log, pick = (folder / "cache.db-wal").read_bytes(), random.Random(3)
    kept = 0
    for turn in range(count):
        copy = tmp_path / f"{turn}"
        copy.mkdir()
        (copy / "candle_fetcher.cache").touch()
        shutil.copy(folder / "cache.db", copy)
        cut = pick.randrange(len(log))
        (copy / "cache.db-wal").write_bytes(log[:cut] + bytes(len(log) - cut if turn % 2 else 0))
        after = DiskTier(copy, 100 * MB)
        found = after.load_many(values)
        assert found.items() <= values.items()
        assert after.save_many(values)
        assert after.load_many(values) == values
        after.close()
        shutil.rmtree(copy)
        kept += len(found)
    assert 0 < kept < count * len(values)
    tier.close()


KILLING = """
    import os, random, signal, sys, time
    from pathlib import Path
    import candle_fetcher.store.database
    from candle_fetcher.store import DiskTier
    folder, count, dice = Path(sys.argv[1]), int(sys.argv[2]), random.Random(5)
    for turn in range(count):
        begun, begin = os.pipe()
        child = os.fork()
        if not child:
            tier = DiskTier(folder, 10**8)
            for at in range(10**6):
                tier.save(f"{dice.randrange(200) + turn % 7:03d}", bytes([(turn + at) % 256]) * 30_000)
                os.write(begin, b".") if not at else None
        os.read(begun, 1) if turn % 2 else None  # every other one is killed while it opens, or soon after
        os.close(begun), os.close(begin)
        time.sleep(dice.uniform(0.001, 0.012))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if turn % 10 == 0 or turn == count - 1:
            tier = DiskTier(folder, 10**8)
            found = tier.load_many(list(tier.keys()))
            assert all(data == data[:1] * 30_000 for data in found.values()), turn
            assert not tier.problem
            tier.close()
    assert {path.name for path in folder.iterdir()} == {"cache.db", "candle_fetcher.cache"}
    print((folder / "cache.db").stat().st_size / sum(map(len, found.values())))
"""


@pytest.mark.slow
@pytest.mark.fault("D09", "D29")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@times(20, 1_000)
def test_kills_while_writing_tear_nothing_and_leave_no_file(
    folder: Path, count: int, record_property: Callable[[str, object], None]
) -> None:  # D09, D29
    record_property("runs", count)
    _, out, err = children.run(KILLING, folder, count)
    assert err == ""
    assert float(out) < (1.2 if count >= 1_000 else 1.5)  # of few, each counts for more


RESIDENT = """
    import sys, psutil
    from candle_fetcher.store import MemoryTier
    tier, process = MemoryTier(64_000_000), psutil.Process()
    before = process.memory_info().rss
    for at in range(int(sys.argv[1])):
        tier.save(f"{at}", at.to_bytes(4, "big") * 12_000, 48_000)
    print((process.memory_info().rss - before) / 64e6, tier.stats().bytes <= 64_000_000)
"""


@pytest.mark.slow
@pytest.mark.fault("D28")
@times(3_000, 10_000)
def test_memory_holds_as_much_as_it_says(count: int) -> None:  # D28
    code, out, err = children.run(RESIDENT, count)
    assert code == 0, err
    resident, bounded = out.split()
    assert 0.9 < float(resident) < 1.5
    assert bounded == "True"


@pytest.mark.long
@pytest.mark.fault("D16")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_eight_processes_of_eight_threads_keep_the_bounds_of_the_load() -> None:  # D16
    command = [sys.executable, str(Path(__file__).parent / "benchmarks" / "load.py")]
    words = ["--threads", "8", "--processes", "8", "--seconds", f"{5 * FAULT_RUNS}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


FULL = """
    import resource, sys, time, warnings
    from pathlib import Path
    from candle_fetcher.store import DiskTier
    tier = DiskTier(Path(sys.argv[1]), 10**9)
    before = int(sys.argv[2])
    if before:
        assert tier.save("before", b"1" * 88_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000 if before else 1_000,) * 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        saved = [tier.save(f"{at}", b"x" * 88_000) for at in range(100)]
        started = time.perf_counter()
        for at in range(1_000):
            tier.save(f"{at}", b"x" * 88_000)
        assert time.perf_counter() - started < 10, "a full disk is asked again and again"
        for at, done in enumerate(saved):
            assert tier.load(f"{at}") == (b"x" * 88_000 if done else None), at
        if before:
            assert any(saved) and tier.load("before") == b"1" * 88_000
        assert not all(saved) and tier.problem
        tier.close()
    assert len(said) == 1 and "choose another cache_dir" in str(said[0].message), said
"""


@pytest.mark.slow
@pytest.mark.fault("D11", "D12")
@POSIX
@pytest.mark.parametrize("before", ["1", "0"])
def test_a_full_disk_is_one_warning_and_no_exception(folder: Path, before: str) -> None:  # D11, D12
    assert children.run(FULL, folder, before) == (0, "", "")
    values = DiskTier(folder, 100 * MB)
    assert values.save("after", b"1")
    assert values.load("after") == b"1"
    values.close()


@pytest.mark.fault("D13")
def test_a_folder_that_cannot_be_made_is_one_warning_and_no_exception(tmp_path: Path) -> None:  # D13
    (tmp_path / "file").write_bytes(b"")
    tier = DiskTier(tmp_path / "file" / "cache", MB)
    started = time.perf_counter()
    with one_warning("choose another cache_dir"):
        assert tier.load("a") is None
        assert not tier.save("a", b"1")
        assert list(tier.keys()) == []
        with tier.transaction() as begun:
            assert not begun
            assert not tier.save("a", b"1")
        tier.drop("a")
        tier.clear()
        tier.flush()
        assert tier.stats() == (0, 0, MB)
        tier.close()
    assert tier.problem
    assert str(tmp_path / "file") in tier.problem
    assert time.perf_counter() - started < 10


@pytest.mark.fault("D13")
@POSIX
def test_a_read_only_disk_is_still_read(folder: Path) -> None:  # D13
    values = fill(folder)
    if subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        tier = DiskTier(folder, 100 * MB)
        with one_warning("choose another cache_dir"):
            assert tier.load_many(values) == values
            assert not tier.save("a", b"1")
            assert tier.load_many(values) == values
        assert tier.problem
        tier.close()
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.fault("D14")
def test_a_folder_removed_under_a_running_program_is_made_again(folder: Path) -> None:  # D14
    tier = DiskTier(folder, 100 * MB)
    for turn in range(3):
        assert tier.save("a", b"1")
        shutil.rmtree(folder)
        assert tier.load("a") is None
        assert tier.save(f"{turn}", b"2")
    tier.close()
    tier = DiskTier(folder, 100 * MB)
    assert list(tier.keys()) == ["2"]
    tier.close()


@pytest.mark.slow
@pytest.mark.fault("D15")
def test_a_lock_held_elsewhere_delays_no_read_and_one_write_only(folder: Path) -> None:  # D15
    values = fill(folder, 3)
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE Cache SET value = x'00'")
    tier = DiskTier(folder, 100 * MB)
    started = time.perf_counter()
    assert tier.load_many(values) == values
    assert time.perf_counter() - started < 1.5  # opening included
    with one_warning("another program"):
        started = time.perf_counter()
        assert not tier.save("a", b"1")
        assert not tier.save("b", b"1")
        tier.drop("key 000")
        assert time.perf_counter() - started < 3.9
    assert tier.problem
    started = time.perf_counter()
    assert tier.load_many(values) == values
    assert time.perf_counter() - started < 1.5
    other.execute("ROLLBACK")
    other.close()
    tier.close()


OPENED = """
    import sys
    from pathlib import Path
    from candle_fetcher.store import DiskTier
    import candle_fetcher.store.database
    tier = DiskTier(Path(sys.argv[1]), 10**8)
    print("ready", flush=True)
    sys.stdin.readline()
    assert tier.save(sys.argv[2], b"1")
    tier.close()
"""


@pytest.mark.fault("D17")
@times(4, 16)
def test_processes_open_a_new_folder_at_once(folder: Path, count: int) -> None:  # D17
    programs = [children.start(OPENED, folder, at) for at in range(count)]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    began = time.monotonic()
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    for program in programs:
        program.communicate()
    assert time.monotonic() - began < 30
    assert [program.returncode for program in programs] == [0] * count
    tier = DiskTier(folder, 100 * MB)
    assert list(tier.keys()) == sorted(f"{at}" for at in range(count))
    tier.close()


@pytest.mark.fault("D19")
def test_a_database_of_somebody_else_is_left_alone(folder: Path) -> None:  # D19
    folder.mkdir()
    edit(folder, "CREATE TABLE Theirs (x)")
    before = (folder / "cache.db").read_bytes()
    tier = DiskTier(folder, MB)
    with one_warning("not written by candle_fetcher"):
        assert not tier.save("a", b"1")
        assert tier.load("a") is None
    tier.close()
    assert [path.name for path in folder.iterdir()] == ["cache.db"]
    assert (folder / "cache.db").read_bytes() == before


@pytest.mark.fault("D19")
def test_settings_in_the_file_are_not_believed(folder: Path) -> None:  # D19
    values = fill(folder)
    edit(folder, "UPDATE Settings SET value = 'least-frequently-used' WHERE key = 'eviction_policy'")
    edit(folder, "UPDATE Settings SET value = 1 WHERE key IN ('size_limit', 'statistics', 'disk_min_file_size')")
    edit(folder, "UPDATE Settings SET value = 10 WHERE key = 'cull_limit'")
    tier = DiskTier(folder, 100 * MB)
    assert tier.save("a", b"1")
    assert tier.load_many(values) == values
    tier.close()


@pytest.mark.fault("D31")
@POSIX
def test_nobody_else_may_look_whatever_the_umask(folder: Path) -> None:  # D31
    before = os.umask(0)
    try:
        tier = DiskTier(folder / "deep", 100 * MB)
        tier.save("a", b"1")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "deep").iterdir()}
        assert set(modes) == {"cache.db", "cache.db-wal", "cache.db-shm", "candle_fetcher.cache"}
        assert set(modes.values()) == {0o600}
        assert (folder / "deep").stat().st_mode & 0o777 == 0o700
        tier.close()
    finally:
        os.umask(before)


@pytest.mark.fault("D31")
@POSIX
def test_a_folder_that_everybody_may_write_is_warned_of(folder: Path) -> None:  # D31
    fill(folder, 1)
    folder.chmod(0o777)
    tier = DiskTier(folder, MB)
    with one_warning("chmod 700"):
        assert tier.load("key 000") is not None
    tier.close()


@pytest.mark.slow
def test_threads_read_while_others_write(folder: Path) -> None:
    tier = DiskTier(folder, 100 * MB)
    values = {f"{at}": bytes([at]) * CANDLES for at in range(24)}
    tier.save_many(values)

    def work(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(60):
            keys = [f"{pick.randrange(24)}" for _ in range(6)]
            if seed % 4 == 0:
                assert tier.save(keys[0], values[keys[0]])
            else:
                assert tier.load_many(keys) == {key: values[key] for key in keys}

    race(*(functools.partial(work, seed) for seed in range(8)))
    tier.close()


@pytest.mark.slow
@pytest.mark.fault("D20")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python's own advice against fork
def test_a_fork_opens_the_cache_for_itself(disk: DiskTier) -> None:  # D20, with no thread at work
    disk.save("a", b"1" * CANDLES)
    for turn in range(5):
        child = os.fork()
        if not child:
            done = disk.load("a") == b"1" * CANDLES and disk.save(f"{turn}", b"2")
            disk.close()
            os._exit(0 if done else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert disk.load(f"{turn}") == b"2"
        assert disk.save("a", b"1" * CANDLES)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_close_leaves_no_descriptor_of_any_thread(folder: Path) -> None:
    def open_files() -> list[str]:
        return [
            os.path.realpath(path) for path in Path("/proc/self/fd").iterdir() if str(folder) in os.path.realpath(path)
        ]

    tier = DiskTier(folder, 100 * MB)
    together, done = threading.Barrier(5), threading.Event()

    def work() -> None:
        together.wait()
        tier.save(threading.current_thread().name, b"1" * CANDLES)
        tier.load_many([f"{at}" for at in range(100)])
        done.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    together.wait()
    assert tier.save("a", b"1")
    assert open_files()
    closer = threading.Thread(target=tier.close)  # neither the thread that opened nor one that worked
    closer.start()
    closer.join()
    tier.close()
    assert open_files() == []
    done.set()
    for thread in threads:
        thread.join()
    assert (tier.load("a"), tier.save("a", b"1"), open_files()) == (None, False, [])


@pytest.mark.parametrize("name", ["a b", "$HOME", "~", "100%20?x=1#y", "кэш", "file:x"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    tier = DiskTier(tmp_path / name, MB)
    assert tier.save("a", b"1")
    tier.close()
    assert {path.name for path in (tmp_path / name).iterdir()} == {"cache.db", "candle_fetcher.cache"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_a_transaction_goes_on_when_others_gave_up(folder: Path) -> None:
    tier = DiskTier(folder, MB)
    other = DiskTier(folder, MB)
    with tier.transaction():
        assert tier.save("a", b"1")
        with one_warning("another program"):
            assert not other.save("b", b"1")
        assert other.load("a") is None
        assert tier.save("b", b"2")
    assert (other.load("a"), other.load("b")) == (b"1", b"2")
    other.close()
    tier.close()


IN_LINE = """
    import sys
    from pathlib import Path
    from candle_fetcher.store.writers import WriterQueue
    line = WriterQueue(Path(sys.argv[1]))
    assert line.enter(1)
    print("comes", flush=True)
    line.wait_for_processes()
    print("has it", flush=True)
    sys.stdin.readline()
    line.leave()
    print("left", flush=True)
"""


class Writer:
    """Another process that stands in line."""

    def __init__(self, path: Path) -> None:
        self._process = children.start(IN_LINE, path)
        assert self.says() == "comes"
        time.sleep(0.05)

    def says(self) -> str:
        said: str = self._process.stdout.readline()
        return said.strip()

    def leave(self) -> None:
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()
        assert self.says() == "left"

    def end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        if how != signal.SIGSTOP:
            self._process.communicate()


def wait_in(line: WriterQueue) -> float:
    """How long it takes until it is this process's turn."""
    assert line.enter(1)
    began = time.monotonic()
    line.wait_for_processes()
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.fault("D16")
def test_processes_write_in_the_order_in_which_they_came(tmp_path: Path) -> None:  # D16
    line = WriterQueue(tmp_path / "line")
    assert wait_in(line) < 5
    writers = [Writer(tmp_path / "line") for _ in range(3)]
    line.leave()
    assert writers[0].says() == "has it"
    waited: list[float] = []
    last = threading.Thread(target=lambda: waited.append(wait_in(line)))
    last.start()
    time.sleep(0.1)
    writers[0].leave()
    for writer in writers[1:]:
        assert writer.says() == "has it"
        assert not waited
        writer.leave()
    last.join()
    assert waited[0] < 5
    line.leave()
    line.close()
    for writer in writers:
        writer.end(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.fault("D23")
@POSIX
def test_whoever_is_killed_or_halted_in_line_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D23
    monkeypatch.setattr("candle_fetcher.store.writers.PATIENCE_S", 2.0)
    path = tmp_path / "line"
    line = WriterQueue(path)
    holder, waiting = Writer(path), Writer(path)
    assert holder.says() == "has it"
    for one in (waiting, holder):
        one.end(signal.SIGKILL)
    assert wait_in(line) < 1.5
    line.leave()
    halted = Writer(path)
    assert halted.says() == "has it"
    halted.end(signal.SIGSTOP)
    assert 1.9 < wait_in(line) < 20
    line.leave()
    assert wait_in(line) < 1.5
    line.leave()
    line.close()
    halted.end(signal.SIGKILL)


@pytest.mark.slow
def test_threads_write_in_the_order_in_which_they_came_and_who_gives_up_is_passed_over(tmp_path: Path) -> None:
    line = WriterQueue(tmp_path / "line")
    assert line.enter(1)
    served: list[int] = []

    def write(number: int) -> None:
        if line.enter(0.2 if number == 1 else 5):
            served.append(number)
            line.wait_for_processes()
            line.leave()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    threads[1].join()
    line.leave()
    for thread in threads:
        thread.join()
    assert served == [0, 2, 3, 4, 5]
    assert wait_in(line) < 5
    line.leave()
    line.close()


def test_a_line_that_cannot_be_drawn_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = WriterQueue(tmp_path / "file" / "line")
    assert wait_in(line) < 5
    line.leave()
    line.close()
    assert wait_in(line) < 5
    line.leave()


def test_a_tier_that_is_never_asked_makes_nothing(folder: Path) -> None:
    tier = DiskTier(folder, MB)
    tier.flush()
    tier.close()
    assert not folder.exists()


@pytest.mark.slow
def test_importing_the_store_loads_no_diskcache() -> None:
    line = "import sys, candle_fetcher.store; sys.exit('diskcache' in sys.modules)"
    subprocess.run([sys.executable, "-c", line], check=True)


def test_a_database_that_is_there_is_opened_without_diskcache(folder: Path) -> None:
    with closing(DiskTier(folder, MB)) as tier:
        tier.save("a", b"1")
    line = (
        "import sys; from pathlib import Path; from candle_fetcher.store import DiskTier;"
        f" assert DiskTier(Path({str(folder)!r}), {MB}).load('a') == b'1'; sys.exit('diskcache' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", line], check=True)


# -- both -------------------------------------------------------------------------------------------------------------


def test_a_hit_on_disk_is_put_in_memory_unless_told_otherwise(disk: DiskTier) -> None:
    disk.save("a", b"1")
    store = Store(MemoryTier(MB, Clock()), disk)
    assert store.load("a", keep=False) == ("disk", b"1")
    assert store.load("a") == ("disk", b"1")
    assert store.load("a") == ("memory", b"1")
    assert store.load("b") == (None, None)


def test_the_end_in_memory_is_not_the_end_on_disk(disk: DiskTier) -> None:
    clock = Clock()
    store = Store(MemoryTier(MB, clock), disk)
    store.save("a", b"1", until_s=clock.now_s + 60)
    assert store.load("a", keep=False) == ("memory", b"1")
    clock.now_s += 61
    assert store.load("a", keep=False) == ("disk", b"1")


def test_a_value_saved_past_memory_replaces_the_one_in_memory(disk: DiskTier) -> None:
    store = Store(MemoryTier(MB, Clock()), disk)
    store.save("a", b"old")
    store.save("a", b"new", keep=False)
    assert store.load("a") == ("disk", b"new")


def test_each_call_tells_once_what_it_found(folder: Path) -> None:
    heard: list[Event] = []
    disk = DiskTier(folder, 100 * MB, observe=heard.append)
    store = Store(MemoryTier(MB, Clock()), disk, heard.append)
    store.save("a", b"12")
    store.save("b", b"345", keep=False)
    assert store.load_many(["b", "c", "a"]) == {"b": ("disk", b"345"), "a": ("memory", b"12")}
    assert [event for event in heard if isinstance(event, Lookup)] == [Lookup("memory", 1, 2), Lookup("disk", 1, 1)]
    work = [(event.name, event.bytes) for event in heard if isinstance(event, Operation)]
    assert work == [("disk_write", 2), ("disk_write", 3), ("disk_read", 3)]
    store.close()


def test_a_disk_that_fails_leaves_the_memory_working(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(MemoryTier(MB, Clock()), DiskTier(tmp_path / "file" / "cache", MB))
    with one_warning("choose another cache_dir"):
        assert not store.save("a", b"1")
    assert store.load("a") == ("memory", b"1")
    assert "cache_dir" in store.problem
    with store.transaction() as begun:
        assert not begun
    store.close()
    assert store.load("a") == (None, None)


def test_a_store_without_a_disk_has_no_problem_and_every_verb() -> None:
    store = Store(MemoryTier(MB, Clock()))
    with store.transaction() as begun:
        assert begun
        assert store.save("a", b"1")
    store.flush()
    store.drop("a")
    store.clear()
    assert (store.load("a"), store.problem) == ((None, None), "")
    store.close()
