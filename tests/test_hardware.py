"""Memory and cores: what control groups of Linux allow, and what the doctor says of them."""

from __future__ import annotations

import errno
import inspect
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from world import World

from candle_fetcher import CandleFetcher, CandleFetcherError, FetchManyError, OutOfMemory
from candle_fetcher.cli.talk import in_command_words
from candle_fetcher.core.errors import About, completing_errors, naming_errors
from candle_fetcher.diagnosis.machine import judge_cores, judge_memory
from candle_fetcher.hardware import Hardware, Limits, measure_hardware, read_limits
from candle_fetcher.practice import PracticeExchange
from candle_fetcher.settings import read_settings

GB = 10**9
V1 = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Limits()),
        ({"proc/self/cgroup": "0::/\n"}, Limits()),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GB}\n",
                "sys/fs/cgroup/memory.current": f"{GB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GB // 2}\n",
                "sys/fs/cgroup/cpu.max": "150000 100000\n",
            },
            Limits(2 * GB, GB // 2, 1.5),
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            Limits(),
        ),
        (  # the group that it lies in allows less
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/memory.max": f"{4 * GB}\n",
                "sys/fs/cgroup/pod/box/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/memory.max": f"{3 * GB}\n",
                "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
            },
            Limits(3 * GB, None, 0.5),
        ),
        (  # version 1
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": f"{GB}\n",
                "sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes": f"{GB // 4}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
            },
            Limits(GB, GB // 4, 3.0),
        ),
        (  # in a container the mount begins at the group
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GB}\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            Limits(GB, None, None),
        ),
    ],
)
def test_the_smallest_limit_of_the_control_groups_counts(
    tmp_path: Path, files: Mapping[str, str], expected: Limits
) -> None:
    assert read_limits(tree(tmp_path, files)) == expected


def test_a_container_has_what_its_limit_leaves() -> None:
    free = measure_hardware(Limits())
    assert (free.memory_by, free.cores_by) == ("machine", "machine")
    assert free.memory_bytes >= free.free_bytes > 0
    assert free.cores >= 1
    small = measure_hardware(Limits(100 * 10**6, 60 * 10**6, 0.5))
    assert small == Hardware(100 * 10**6, 40 * 10**6, "container", 0.5, "container")


def test_the_doctor_says_what_fits() -> None:
    signature = inspect.signature(CandleFetcher).parameters
    _, settings = read_settings({name: one.default for name, one in signature.items()}, {})
    fits = judge_memory(Hardware(16 * GB, 8 * GB, "machine", 4.0, "machine"), settings)
    assert (fits.verdict, fits.subject) == ("pass", "this machine")
    assert (
        fits.found == "8.0 GB free of 16.0 GB: a frame of 50,000,000 rows fits, longer ranges by iter_frames or export"
    )
    tight = judge_memory(Hardware(GB, 100 * 10**6, "container", 4.0, "machine"), settings)
    assert (tight.verdict, tight.subject) == ("fail", "this container")
    assert "memory_cache_size to 50MB" in tight.fix
    cores = judge_cores(Hardware(GB, GB, "machine", 1.5, "container"), settings)
    assert (cores.subject, cores.found) == ("this container", "1.5 cores; 8 network and 4 I/O threads")


def test_the_error_says_what_was_wanted_and_is_a_memory_error() -> None:
    error = OutOfMemory("BTC/USDT 1m", 1_000_000)
    assert isinstance(error, MemoryError)
    assert isinstance(error, CandleFetcherError)
    assert (error.rows, error.bytes) == (1_000_000, 160_000_000)
    assert str(error).startswith("there is not enough memory for BTC/USDT 1m: 1,000,000 rows, about 160.0 MB while")
    assert "iter_frames" in error.fix
    assert "export" in error.fix
    assert OutOfMemory("the answer").rows is None
    said = in_command_words(error)
    assert "candle-fetcher export" in said
    assert "iter_frames" not in said


@pytest.mark.parametrize("block", [completing_errors, naming_errors])
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_the_system_says_it_in_two_ways(block: Any, error: Exception) -> None:
    about = About("binance", "BTC/USDT", "1h", ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"))
    with pytest.raises(OutOfMemory) as caught, block(lambda: about):
        raise error
    assert (caught.value.rows, caught.value.symbol, caught.value.timeframe) == (24, "BTC/USDT", "1h")
    with pytest.raises(FileNotFoundError), block(lambda: about):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")


def test_several_symbols_of_which_one_is_too_large_are_a_memory_error_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> Any:
        raise MemoryError

    with world.fetcher() as fetcher:
        small = fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")
        monkeypatch.setattr("candle_fetcher.fetcher.refusals.to_frame", too_large)
        with pytest.raises(MemoryError) as caught:
            fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], "1h", "2024-01-01", "2024-01-02")
    error = caught.value
    assert isinstance(error, FetchManyError)
    assert isinstance(error, OutOfMemory)
    assert len(small) == len(error.frames["BTC/USDT"]) == error.rows == 24
    assert isinstance(error.errors["ETH/USDT"], OutOfMemory)
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), twin.rows, str(twin)) == (type(error), 24, str(error))


def test_parts_that_the_memory_does_not_hold_are_not_said_to_be_got_in_parts(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> Any:
        raise MemoryError

    span = "BTC/USDT", "1h", "2024-01-01", "2024-02-01"
    with world.fetcher() as fetcher:
        monkeypatch.setattr("candle_fetcher.fetcher.answers.to_frame", too_large)
        with pytest.raises(OutOfMemory, match="fewer rows") as caught:
            next(fetcher.iter_frames(*span, rows=500))
        assert (caught.value.rows, caught.value.symbol) == (500, "BTC/USDT")
        monkeypatch.setattr("candle_fetcher.fetcher.exporting.write_answer", too_large)
        with pytest.raises(OutOfMemory, match="close other programs") as caught:
            fetcher.export(*span, path=tmp_path)
    assert "iter_frames" not in str(caught.value)
    assert "to a file" not in str(caught.value)


SCRIPT = """
import resource, sys
import psutil
from candle_fetcher import CandleFetcher, OutOfMemory
with CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=False) as fetcher:
    assert len(fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")) == 24
    bound = psutil.Process().memory_info().vms + 10**9
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    try:
        fetcher.fetch("BTC/USDT", "1s", "2023-01-01", "2024-01-01", source="rest")
    except MemoryError as error:
        print(type(error).__name__, error.rows, error.bytes, error.symbol, error.timeframe, error)
    # What needs little memory goes on in the same process.
    print(len(fetcher.fetch("BTC/USDT", "1h", "2024-01-01", "2024-01-02")))
    print(sum(map(len, fetcher.iter_frames("BTC/USDT", "1m", "2024-01-01", "2024-01-03", rows=1000))))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory of a process cannot be limited so")
def test_a_frame_that_the_memory_does_not_hold_is_named_with_the_way_out(tmp_path: Path) -> None:
    with PracticeExchange(weight_limit=10**8) as exchange:
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, exchange.base_urls["binance"], str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=Path(__file__).resolve().parents[1],
        )
    first, second, third = ran.stdout.splitlines() or [ran.stderr, "", ""]
    rows = 365 * 86_400
    assert first.startswith(f"OutOfMemory {rows} {rows * 160} BTC/USDT 1s there is not enough memory for BTC/USDT 1s")
    assert "iter_frames" in first
    assert "export" in first
    assert (second, third) == ("24", "2880")


def test_the_doctor_has_a_row_for_memory_and_one_for_cores(tmp_path: Path) -> None:
    with CandleFetcher(cache_dir=tmp_path, source="cache", progress=False) as fetcher:
        checks = fetcher.doctor().set_index("check")
    assert "GB" in checks.loc["memory", "found"] or "MB" in checks.loc["memory", "found"]
    assert "threads" in checks.loc["cores", "found"]
