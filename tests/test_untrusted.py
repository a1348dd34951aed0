"""A cache folder that is not trusted: what is not ours in it, or not of this version, is left alone."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import forks
import pytest
from world import World, same

from candle_fetcher import CacheWarning, CandleFetcher, InputError
from candle_fetcher.core.entry import VERSION
from candle_fetcher.practice import PracticeExchange

DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
MONTH_AGO_S = time.time() - 40 * 86_400
posix = pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and modes of POSIX")


def newer(data: bytes, key: str) -> bytes:
    """The same bytes as the next version of the package would seal them."""
    rest = bytes([VERSION + 1]) + data[9:]
    return data[:4] + struct.pack("<I", zlib.crc32(rest, zlib.crc32(key.encode()))) + rest


def disk_of(fetcher: CandleFetcher) -> Any:
    store = fetcher.cache.store
    assert store is not None
    assert store.disk is not None
    return store.disk


# -- another version --------------------------------------------------------------------------------------------------


@pytest.mark.fault("K11")
def test_what_a_newer_version_has_stored_is_a_miss_and_stays(tmp_path):
    with World(tmp_path) as world:
        first = world.fetcher(source="rest")
        first.fetch(*DAY)
        disk = disk_of(first)
        stored = {key: newer(disk.load(key), key) for key in list(disk.keys())}
        assert disk.save_many(stored)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged
            fetcher = world.fetcher(source="rest")
            assert fetcher.cache.verify() == (len(stored), (), len(stored))
            assert fetcher.coverage(*DAY[:2]).empty
            assert fetcher.plan(*DAY).requests == 1
            with pytest.raises(Exception, match="cache"):
                fetcher.fetch(*DAY, source="cache")
            same(fetcher.fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))
            same(fetcher.fetch(*DAY, refresh=True), world.truth("BTCUSDT", *DAY[1:]))
            report = fetcher.doctor()
        assert report.set_index("check").loc["cache entries", "passed"]
        again = disk_of(world.fetcher())
        assert {key: again.load(key) for key in stored} == stored
        assert set(again.keys()) >= set(stored)


# -- names that are ours, and things that are not ---------------------------------------------------------------------


def shown(folder: Path) -> dict[str, Any]:
    """What lies below the folder: modes, times of change, and bytes of files."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's own, of old files."""
    folder = tmp_path / "theirs"
    (folder / "sub").mkdir(parents=True)
    for name in ("thesis.txt", "0123456789abcdef0123456789abcdef", "sub/data.db", "cache.db.bad-old"):
        path = folder / name
        path.write_bytes(b"of value")
        path.chmod(0o644)
        os.utime(path, (MONTH_AGO_S, MONTH_AGO_S))
    return folder


@posix
@pytest.mark.fault("K12")
@pytest.mark.parametrize("is_link", [True, False], ids=["link", "folder"])
def test_a_folder_named_pacing_is_tidied_of_nothing_that_is_not_ours(tmp_path, theirs, is_link):
    with World(tmp_path / "cache") as world:
        world.folder.mkdir()
        pacing = world.folder / "pacing"
        if is_link:
            pacing.symlink_to(theirs)
        else:
            theirs.rename(pacing)
        before = shown(pacing)
        same(world.fetcher(source="rest").fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))
        after = shown(pacing)
        assert {name: after[name] for name in before} == before
        assert not is_link or after == before


@posix
@pytest.mark.fault("K12")
def test_states_of_ours_that_are_old_are_removed(tmp_path):
    with World(tmp_path) as world:
        world.fetcher(source="rest").fetch(*DAY)
        (state,) = {path for path in (tmp_path / "pacing").iterdir() if path.stat().st_size}
        old = state.with_name("f" * 32)
        old.write_bytes(state.read_bytes())
        os.utime(old, (MONTH_AGO_S, MONTH_AGO_S))
        world.fetchers.pop().close()
        world.fetcher(source="rest").fetch("ETH/USDT", *DAY[1:])
        assert not old.exists()
        assert state.exists()


@pytest.mark.slow(
    keep=(
        "cache.db-link",
        "cache.db-fifo",
        "cache.db-wal-dangling",
        "candle_fetcher.cache-link",
        "candle_fetcher.cache-folder",
        "claims-link",
        "claims-dangling",
        "claims-fifo",
        "pacing-link",
        "pacing-folder",
    )
)
@posix
@pytest.mark.fault("K12")
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
@pytest.mark.parametrize(
    "name", ["cache.db", "cache.db-wal", "cache.db-shm", "candle_fetcher.cache", "claims", "pacing"]
)
def test_whatever_has_one_of_our_names_is_left_as_it_is(tmp_path, theirs, name, kind):
    target = theirs / "sub" / "data.db"
    with World(tmp_path / "cache") as world:
        world.folder.mkdir()
        if name != "candle_fetcher.cache":
            (world.folder / "candle_fetcher.cache").touch()
        path = world.folder / name
        if kind == "link":
            path.symlink_to(target)
        elif kind == "dangling":
            path.symlink_to(theirs / "none")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        before = shown(theirs), stat.S_IFMT(path.lstat().st_mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            fetcher = world.fetcher(source="rest")
            same(fetcher.fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))
            fetcher.cache.verify()
            fetcher.cache.list()
            fetcher.cache.stats()
            fetcher.doctor()
            fetcher.close()
        assert (shown(theirs), stat.S_IFMT(path.lstat().st_mode)) == before
        assert not (theirs / "none").exists()


@posix
@pytest.mark.fault("K12")
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_notes_of_warnings_and_damaged_databases_are_removed_and_touched_only_where_they_are_ours(
    tmp_path, theirs, kind
):
    with World(tmp_path / "cache") as world:
        world.folder.mkdir()
        made = [world.folder / name for name in ("warned-changed", "warned-damaged", "cache.db.bad-20200101T000000")]
        for path in [*made, world.folder / "cache.db.bad-mine"]:
            if path.name == "cache.db.bad-mine":
                path.write_bytes(b"of value")
                os.utime(path, (MONTH_AGO_S, MONTH_AGO_S))
            elif kind == "link":
                path.symlink_to(theirs / "thesis.txt")
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                path.mkdir()
        before = shown(theirs)
        (world.folder / "candle_fetcher.cache").touch()
        (world.folder / "cache.db").write_bytes(b"no database" * 100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            same(world.fetcher(source="rest").fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))
        assert shown(theirs) == before
        assert all(path.is_symlink() or path.exists() for path in made)
        assert (world.folder / "cache.db.bad-mine").exists()


@posix
@pytest.mark.fault("K12")
def test_a_cache_folder_may_be_a_link_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    with World(tmp_path / "cache") as world:
        world.fetcher(source="rest").fetch(*DAY)
        same(world.fetcher(cache_dir=tmp_path / "disk", source="cache").fetch(*DAY), world.truth("BTCUSDT", *DAY[1:]))


# -- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@forks.needs_fork
@pytest.mark.fault("K13")
def test_a_log_is_written_to_no_file_that_is_not_one(tmp_path):
    path = tmp_path / "all.log"

    def fetch() -> None:
        try:
            with CandleFetcher(base_urls=exchange.base_urls, use_cache=False, progress=False) as fetcher:
                fetcher.fetch("BTC/USDT", "1h", "2024-03-05", "2024-03-06", source="rest")
        except InputError as error:
            sys.stdout.write(str(error))

    def run() -> str:
        done = forks.run(fetch, CANDLE_FETCHER_LOG_FILE=str(path), CANDLE_FETCHER_LOG_LEVEL="DEBUG")
        assert done.code == 0, done.err
        return done.out.decode()

    with PracticeExchange() as exchange:
        assert run() == ""
        size = path.stat().st_size
        assert size
        assert run() == ""  # ours is written on
        assert path.stat().st_size > size
        path.rename(tmp_path / "old.log")
        (tmp_path / "all.log.1").write_text("of value\n")
        assert "is not a log of candle_fetcher" in run()  # it would be moved away one day
        (tmp_path / "all.log.1").unlink()
        path.write_text("of value\n")
        assert "is not a log of candle_fetcher" in run()
        assert path.read_text() == "of value\n"
        path.unlink()
        with contextlib.suppress(OSError, NotImplementedError):
            path.symlink_to(tmp_path / "old.log")
            before = (tmp_path / "old.log").read_bytes()
            assert "is not a log of candle_fetcher" in run()
            assert (tmp_path / "old.log").read_bytes() == before


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("J13")
@pytest.mark.parametrize("size", [1, 1_000, "1KB", 88_000])
def test_a_memory_that_holds_no_chunk_is_refused(tmp_path, size):
    with pytest.raises(InputError, match=r"less than a chunk of candles takes, 89,000 bytes"):
        CandleFetcher(memory_cache_size=size, cache_dir=tmp_path)


@pytest.mark.fault("J13")
def test_the_least_memory_that_is_taken_holds_a_chunk(tmp_path):
    hours = ("BTC/USDT", "1h", "2023-11-26T08:00", "2024-01-07")
    with World(tmp_path) as world:
        fetcher = world.fetcher(memory_cache_size=89_000, source="rest")
        fetcher.fetch(*hours)
        assert fetcher.cache.stats().memory_entries
        assert world.fetcher(memory_cache_size=0, source="rest").fetch(*hours) is not None


@pytest.mark.fault("J13")
@pytest.mark.parametrize("size", [1, "1KB", 299_999])
def test_a_disk_that_holds_no_chunk_is_refused(tmp_path, size):
    with pytest.raises(InputError, match=r"disk_cache_size .* 300,000 bytes: nothing would be kept; expected 0"):
        CandleFetcher(disk_cache_size=size, cache_dir=tmp_path)


@pytest.mark.fault("J13")
@pytest.mark.filterwarnings("ignore:the cache in .* is full")
def test_the_least_disk_that_is_taken_holds_a_chunk(tmp_path):
    hours = ("BTC/USDT", "1h", "2023-11-26T08:00", "2024-01-07")
    with World(tmp_path) as world:
        world.fetcher(disk_cache_size=300_000, source="rest").fetch(*hours)
        assert len(world.fetcher(disk_cache_size=300_000, source="cache").fetch(*hours)) == 1_000


@pytest.mark.slow
@pytest.mark.fault("J16")
@pytest.mark.parametrize("how", [{"days": 1}, {"start": "2024-06-14"}])
def test_a_series_that_is_polled_keeps_its_newest_frame_alone(tmp_path, how):
    with World(tmp_path) as world:
        fetcher = world.fetcher(source="rest")

        def poll() -> int:
            world.now_s += 60
            fetcher.fetch("BTC/USDT", "1m", **how)
            fetcher.fetch("BTC/USDT", "1m", days=0.5)
            return fetcher.cache.stats().memory_bytes

        sizes = [poll() for _ in range(12)]
        assert max(sizes) - min(sizes) < 30_000
        world.asked("")
        fetcher.fetch("BTC/USDT", "1m", **how)
        assert not world.asked("")
