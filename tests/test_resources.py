"""What a fetcher holds, and lets go of: threads, files, memory, folders that cannot be written, disks that are full."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import children
import pytest
from world import World, same

from candle_fetcher import CacheWarning, CandleFetcher, InputError
from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency.pool import ThreadPool
from candle_fetcher.core.entry import seal
from candle_fetcher.core.events import Progress
from candle_fetcher.store import DiskTier, MemoryTier, Store

SPAN = ("BTC/USDT", "1m", "2024-06-01", "2024-06-08")


def open_files() -> int:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list a process's open files")
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
@pytest.mark.fault("E06")
def test_a_hundred_fetchers_leave_nothing_behind(world: World) -> None:
    def once() -> None:
        with CandleFetcher(
            base_urls=world.exchange.base_urls, cache_dir=world.folder, clock=lambda: world.now_s, progress=False
        ) as fetcher:
            fetcher.fetch(*SPAN)

    once()
    files, threads = open_files(), threading.active_count()
    for _ in range(100):
        once()
    assert threading.active_count() <= threads + 1  # the exchange may still be ending a connection's
    assert open_files() <= files + 5


@pytest.mark.fault("D13")
def test_a_cache_folder_that_cannot_be_made_is_one_warning_and_the_data_are_right(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    fetcher = world.fetcher(cache_dir=tmp_path / "file" / "cache")
    with pytest.warns(CacheWarning, match="file") as warned:
        same(fetcher.fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
        same(fetcher.fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
    assert len(warned) == 1
    assert len(world.asked()) == 11


@pytest.mark.slow
@pytest.mark.fault("D07")
def test_a_damaged_cache_is_told_once_and_made_anew(world: World) -> None:
    with world.fetcher() as fetcher:
        fetcher.fetch(*SPAN)
    (database,) = world.folder.rglob("*.db")
    data = bytearray(database.read_bytes())
    data[:64] = b"x" * 64
    database.write_bytes(data)
    fetcher = world.fetcher()
    with pytest.warns(CacheWarning, match="damaged"):
        same(fetcher.fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
    fetcher.close()
    world.asked()
    same(world.fetcher().fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
    assert world.asked() == []


@pytest.mark.slow
@pytest.mark.fault("D02")
def test_changed_bytes_on_disk_never_become_rows(world: World) -> None:
    with world.fetcher(compression=True) as fetcher:  # which keeps each chunk on its own
        fetcher.fetch(*SPAN)
        truth = world.truth("BTCUSDT", *SPAN[1:])
        disk = fetcher.cache.store.disk
        keys = [key for key in list(disk.keys()) if key.split("|")[-1].isdigit() and "shelf" not in key]
        assert len(keys) == 11
        for at, key in enumerate(keys):
            data = bytearray(disk.load(key))
            data[(at * 7919) % len(data)] ^= 1 << at % 8
            disk.save(key, bytes(data))
    later = world.fetcher()
    assert len(later.cache.verify().damaged) == 11
    world.asked()
    same(later.fetch(*SPAN), truth)
    assert len(world.asked()) == 11


class Forgetful(DiskTier):
    """A disk tier that cannot read just now."""

    def load(self, key: str) -> bytes | None:
        return None


def test_what_cannot_be_read_just_now_is_not_called_damaged_and_stays(tmp_path: Path) -> None:
    disk = Forgetful(tmp_path / "cache", 10**7)
    disk.save("key", seal("key", b"", b"1"))
    assert CandleCache(Store(MemoryTier(0), disk), path=disk.folder).verify()[:2] == (0, ())
    assert disk.load_many(["key"])
    disk.close()


@pytest.mark.slow
@pytest.mark.fault("D06")
def test_entries_that_were_swapped_never_become_rows(world: World) -> None:
    with world.fetcher(compression=True) as fetcher:  # which keeps each chunk on its own
        fetcher.fetch(*SPAN)
        disk = fetcher.cache.store.disk
        one, two = [key for key in list(disk.keys()) if key.split("|")[-1].isdigit() and "shelf" not in key][:2]
        first, second = disk.load(one), disk.load(two)
        disk.save(one, second)
        disk.save(two, first)
    with pytest.warns(CacheWarning, match="cut or changed"):
        same(world.fetcher().fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))


@pytest.mark.slow
def test_without_a_cache_nothing_is_read_or_written(world: World) -> None:
    fetcher = world.fetcher(use_cache=False)
    for _ in range(2):
        same(fetcher.fetch(*SPAN), world.truth("BTCUSDT", *SPAN[1:]))
    assert len(world.asked()) == 22
    assert not world.folder.exists()
    assert fetcher.cache.stats().path is None


@pytest.mark.slow
@pytest.mark.fault("D11")
@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit that Windows does not know")
def test_a_full_disk_is_one_warning_and_the_data_are_right(world: World) -> None:
    script = f"""
import resource, signal, sys, warnings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from candle_fetcher import CandleFetcher
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    fetcher = CandleFetcher(base_urls={{"binance": sys.argv[1]}}, cache_dir=sys.argv[2], progress=False,
                            clock=lambda: {world.now_s})
    frames = [fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-08") for _ in range(2)]
    fetcher.close()
print(len(frames[0]), frames[0].equals(frames[1]), sum("cache" in str(one.message) for one in told))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, world.exchange.base_urls["binance"], str(world.folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stdout.split() == ["10080", "True", "1"], run.stderr


@pytest.mark.slow
@pytest.mark.fault("E08")
def test_a_program_that_never_closes_its_fetcher_ends_cleanly(world: World) -> None:
    script = f"""
import sys
from candle_fetcher import CandleFetcher
fetcher = CandleFetcher(base_urls={{"binance": sys.argv[1]}}, cache_dir=sys.argv[2], clock=lambda: {world.now_s})
print(len(fetcher.fetch("BTC/USDT", "1m", "2024-06-01", "2024-06-08")))
"""
    done = children.run(script, world.exchange.base_urls["binance"], world.folder, timeout=20)
    assert done == (0, "10080\n", "")


@pytest.mark.slow
@pytest.mark.fault("E10")
def test_progress_counts_the_candles_and_nothing_goes_to_stdout(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Progress] = []
    fetcher = world.fetcher(progress=told.append)
    fetcher.fetch(*SPAN)
    assert [told[0].phase, told[-1].phase] == ["start", "end"]
    assert sum(event.done for event in told) == told[0].total == 10_080
    told.clear()
    fetcher.fetch(*SPAN)
    assert told == []
    world.fetcher(progress=None, use_cache=False).fetch(*SPAN)
    assert capfd.readouterr() == ("", "")
    world.fetcher(progress=True, use_cache=False).fetch(*SPAN)
    out, err = capfd.readouterr()
    assert out == ""
    assert "10.1k/10.1k" in err


def test_the_monitor_counts_what_happened(world: World) -> None:
    fetcher = world.fetcher()
    fetcher.fetch(*SPAN)
    fetcher.fetch(*SPAN)
    now = fetcher.monitor.snapshot()
    assert now["requests"]["count"] == 11 + 1
    assert now["operations"]["fetch"]["count"] == 2
    assert now["operations"]["fetch"]["candles"] == 2 * 10_080
    assert "candles" in fetcher.monitor.report()


def test_keys_are_checked_and_never_shown(world: World) -> None:
    with pytest.raises(InputError) as raised:
        world.fetcher(api_keys={"binanse": {"key": "SENTINEL"}})
    assert "SENTINEL" not in str(raised.value)
    with pytest.raises(InputError, match="binance"):
        world.fetcher(api_keys={"binance": "SENTINEL"})
    assert "SENTINEL" not in repr(vars(world.fetcher(api_keys={"binance": {"key": "SENTINEL"}})))


def test_a_setting_in_the_environment_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLE_FETCHER_USE_CACHE", "no")
    monkeypatch.setenv("CANDLE_FETCHER_NETWORK_THREADS", "3")
    fetcher = CandleFetcher(base_urls=world.exchange.base_urls, clock=lambda: world.now_s)
    world.fetchers.append(fetcher)
    fetcher.fetch(*SPAN)
    assert fetcher.cache.path is None
    names = {thread.name for thread in threading.enumerate()}
    assert {f"candle-network-{number}" for number in range(3)} <= names
    assert "candle-network-3" not in names


def test_the_log_is_silent_unless_it_is_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world.fetcher().fetch(*SPAN)
    assert capfd.readouterr() == ("", "")
    log = tmp_path / "log.txt"
    monkeypatch.setenv("CANDLE_FETCHER_LOG_FILE", str(log))
    monkeypatch.setenv("CANDLE_FETCHER_LOG_LEVEL", "info")
    from candle_fetcher.log import LOG

    before = list(LOG.handlers)
    for _ in range(2):
        world.fetcher().fetch(*SPAN)
    added = [handler for handler in LOG.handlers if handler not in before]
    for handler in added:
        LOG.removeHandler(handler)
        handler.close()
    assert len(added) == 1
    assert log.read_text().count("INFO fetch BTC/USDT 1m: 10,080 rows in ") == 2


def test_a_pool_closes_though_its_first_jobs_were_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registers = threading.Event()
    start = threading.Thread.start

    def start_slowly(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("candle-"):
            registers.wait(10)

    class Job:
        def __init__(self) -> None:
            self.begins, self.ends = threading.Event(), threading.Event()

        def __call__(self) -> None:
            self.begins.set()
            self.ends.wait(10)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    pool, first, second = ThreadPool("test", 1), Job(), Job()
    one, other = (threading.Thread(target=pool.submit, args=(job,)) for job in (first, second))
    one.start()
    assert first.begins.wait(10)
    other.start()
    assert second.begins.wait(10)  # in the thread that handed it over: no other is known yet
    registers.set()
    one.join(10)
    closing = threading.Thread(target=pool.close, kwargs={"cancels": True}, daemon=True)
    closing.start()
    with pytest.raises(CancelledError):
        while True:
            pool.submit(int)  # until it is being closed
    second.ends.set()
    other.join(10)
    first.ends.set()
    closing.join(10)
    assert not closing.is_alive()
