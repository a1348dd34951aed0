"""Replies cut without a word, pages that stand still, exports that are killed, folders and pools that many share."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import forks
import pytest
from world import World, same

from candle_fetcher import AccessDenied, IncompleteData, ReplyError
from candle_fetcher.core.naming import csv_name
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import faults
from candle_fetcher.providers import all_providers, find_provider

WORLD = {"weight_limit": 10**7}
ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


# -- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("A02")
def test_a_list_of_rows_that_is_cut_at_any_byte_is_never_taken_for_a_short_one(world: World) -> None:
    bodies: list[bytes] = []
    world.exchange.fail(faults.transform(lambda body: bodies.append(body) or body), match="klines")
    world.fetcher().fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02", source="rest")
    rows = json.loads(bodies[0])[:10]
    body = json.dumps(rows, separators=(",", ":")).encode()
    parse = find_provider("binance").feed("candles").parse
    assert parse(body).count == 10
    for length in range(len(body)):
        with pytest.raises(ReplyError):
            parse(body[:length])


@pytest.mark.fault("A12")
@pytest.mark.parametrize("cap", [100, 999])
def test_a_page_that_comes_again_and_again_ends_and_is_never_taken_for_the_next(tmp_path: Path, cap: int) -> None:
    """Each request that goes on after a short page gets that page once more."""
    with World(tmp_path, page_cap=cap, weight_limit=10**7) as world:
        pages: list[bytes] = []
        fault = world.exchange.fail(
            faults.transform(lambda body: pages.append(body) or pages[0]), times=None, match="klines"
        )
        span = ("BTC/USDT", "1m", "2024-06-01T08:00", "2024-06-01T16:00")
        fetcher = world.fetcher(max_retries=1)
        with pytest.raises(IncompleteData) as raised:
            fetcher.fetch(*span, source="rest")
        assert isinstance(raised.value.cause, ReplyError)
        assert len(world.asked()) <= 2 * (1000 // cap + 2)
        fault.stop()
        same(world.fetcher().fetch(*span, source="rest"), world.truth("BTCUSDT", *span[1:]))


@pytest.mark.fault("A24")
def test_a_key_that_is_refused_is_an_error_at_once(world: World) -> None:
    body = b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'
    world.exchange.fail(faults.status(401, body), times=None, match="klines")
    with pytest.raises(AccessDenied) as raised:
        world.fetcher(api_keys={"binance": {"key": "SENTINEL"}}).fetch("BTC/USDT", "1h", "2024-06-01", "2024-06-02")
    assert raised.value.status == 401
    assert "SENTINEL" not in f"{raised.value!s}{raised.value!r}{vars(raised.value)}"
    assert len(world.asked()) == 1


# -- files that are written -------------------------------------------------------------------------------------------


def run(script: str, *words: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


@pytest.mark.slow
@POSIX
@pytest.mark.fault("F02")
def test_a_disk_that_fills_up_while_exporting_costs_neither_the_old_file_nor_space(
    world: World, tmp_path: Path
) -> None:
    target = world.fetcher().export("BTC/USDT", "5m", "2024-01-01", "2024-01-03", path=tmp_path / "export" / "mine.csv")
    before = target.read_bytes()

    def fill_up() -> None:
        import resource

        fetcher = world.fetcher(progress=False)
        fetcher.fetch("BTC/USDT", "5m", "2024-01-01", "2024-02-01")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            fetcher.export("BTC/USDT", "5m", "2024-01-01", "2024-02-01", path=target)
        except OSError as error:
            sys.stdout.write(f"{type(error).__name__} {error}")

    _, out, err = forks.run(fill_up)
    assert out.startswith(b"OSError"), err
    assert f"{target} was not written" in out.decode()
    assert target.read_bytes() == before
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine.csv", "mine.json"]


HOSTILE = ["../../x", "/etc/passwd", "C:\\x", "C:x", "a\0b", "A" * 100, "CON", "con", "NUL", "LPT1", "x.", "x ", "..",
           ".", "", "~", "a/b", "a\\b", "a:b", "a|b", "a*b", "a?b", '"', "<x>", "\n", "é", "\u202e", "-rf", "%2e%2e",
           "BTC/USDT"]  # fmt: skip


@pytest.mark.fault("F04")
@pytest.mark.parametrize("symbol", HOSTILE)
def test_a_file_is_named_so_that_it_stays_in_its_folder_on_any_system(symbol: str) -> None:
    name = csv_name("binance", symbol, "candles", parse_timeframe("1h"), Span(0, 3_600_000))
    assert PurePosixPath(name).name == PureWindowsPath(name).name == name
    assert not set(name) & set('\0\n<>:"/\\|?*')
    assert PureWindowsPath(name).stem.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}
    assert not name.endswith((".", " "))
    assert name.endswith("_19700101_19700101T0100.csv")


@pytest.mark.fault("F05")
def test_no_two_series_share_a_file_where_case_is_ignored() -> None:
    span = Span(0, 86_400_000)
    names: list[str] = []
    for provider in all_providers().values():
        for kind, feed in provider.feeds.items():
            for symbol, timeframe in itertools.product(("BTC/USDT", "ETH/BTC"), feed.timeframes):
                names.append(csv_name(provider.name, symbol, kind, parse_timeframe(timeframe), span).casefold())
    assert len(names) > 100
    assert len(set(names)) == len(names)


WRITTEN = """
    import sys
    from candle_fetcher import CandleFetcher
    with CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=False) as fetcher:
        print(fetcher.export("BTC/USDT", "1h", "2024-01-01", "2024-01-05", path=sys.argv[3], columns="all"))
"""


@pytest.mark.slow
@pytest.mark.fault("F09")
@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C"}, {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}],
)
def test_a_file_has_the_same_bytes_under_any_locale(world: World, tmp_path: Path, settings: dict[str, str]) -> None:
    span = ("BTC/USDT", "1h", "2024-01-01", "2024-01-05")
    here = world.fetcher().export(*span, path=tmp_path / "here", columns="all")
    with run(WRITTEN, world.exchange.base_urls["binance"], world.folder, tmp_path / "there", **settings) as child:
        out, err = child.communicate(timeout=60)
    assert out, err
    assert Path(out.strip()).read_bytes() == here.read_bytes()


# -- many at once -----------------------------------------------------------------------------------------------------


DAYS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01")


@pytest.mark.slow
@pytest.mark.fault("E04")
def test_a_call_inside_a_callback_of_another_does_not_block(world: World) -> None:
    found: list[int] = []

    def call_again(event: Any) -> None:
        if event.phase == "advance" and len(found) < 4 and event.label.startswith("BTC"):
            found.append(len(fetcher.fetch("ETH/USDT", "1m", DAYS[len(found)], limit=5, source="rest")))

    fetcher = world.fetcher(network_threads=2, io_threads=1, progress=call_again)
    span = ("BTC/USDT", "1m", "2024-06-01", "2024-06-08")
    same(fetcher.fetch(*span, source="rest"), world.truth("BTCUSDT", *span[1:]))
    assert found == [5] * 4


@pytest.mark.slow
@POSIX
@pytest.mark.fault("E03")
def test_a_cell_that_was_interrupted_leaves_nothing_at_work_and_runs_again(tmp_path: Path) -> None:
    done = forks.run(lambda: interrupt_cells(tmp_path), timeout_s=120)
    assert done.code == 0, done.err.decode()


def interrupt_cells(tmp_path: Path) -> None:
    """Interrupt calls of this process, which goes on with the same fetcher, as a kernel does."""
    with World(tmp_path, delay_s=0.05, weight_limit=10**7) as world:
        fetcher = world.fetcher(source="rest")
        fetcher.fetch("BTC/USDT", "1m", "2023-01-01", limit=1)
        span = ("BTC/USDT", "1m", "2022-01-01", "2024-01-01")
        for _ in range(2):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            gc.disable()  # what test tools do in callbacks of the collector is not to be interrupted
            try:
                with pytest.raises(KeyboardInterrupt):
                    fetcher.fetch(*span)
            finally:
                gc.enable()
            sent = -1  # the exchange tells of a request when it replies
            while sent != len(world.exchange.requests):
                sent = len(world.exchange.requests)
                time.sleep(0.3)
            assert sent < 1000, "of 1,054 or more"
        short = ("BTC/USDT", "1m", "2022-01-01", "2022-01-05")
        same(fetcher.fetch(*short), world.truth("BTCUSDT", *short[1:]))
        ours = {thread.name for thread in threading.enumerate() if thread.name.startswith("candle-")}
        pools = {f"candle-{pool}-{at}" for pool, count in (("network", 10), ("io", 4)) for at in range(count)}
        assert ours <= {"candle-call", *pools}
        asked = [(one["startTime"], one["endTime"]) for one in world.asked() if one.get("limit") != "1"]
        assert len(set(asked)) >= len(asked) - 2 * 8, "what had come is not asked for again"


@POSIX
@pytest.mark.long
@pytest.mark.fault("E11", "D16", "D26")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_threads_and_processes_race_as_well_when_started_another_way(tmp_path: Path, method: str) -> None:
    script = """
        import multiprocessing, pathlib, sys

        def race(words):
            sys.path[:0] = [words[2]]
            from candle_fetcher.store import DiskTier
            from test_store import test_threads_race_on_memory_without_an_exception_and_the_sum_is_right as memory
            memory(10_000)
            tier, wrong = DiskTier(pathlib.Path(words[0]), 10**8), 0
            for at in range(300):
                key = str(at * 7 % 40)
                value = tier.load(key)
                wrong += value is not None and bytes(value) != key.encode() * 500
                tier.save(key, key.encode() * 500)
            tier.close()
            return wrong

        if __name__ == "__main__":
            with multiprocessing.get_context(sys.argv[2]).Pool(4) as pool:
                print(*pool.map(race, [(sys.argv[1], "", sys.argv[3])] * 8))
    """
    path = tmp_path / "racing.py"
    path.write_text(textwrap.dedent(script))
    words = [str(tmp_path / "cache"), method, str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path), *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["0"] * 8, done.stderr


@pytest.mark.slow
@POSIX
@pytest.mark.fault("E11")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_started_another_way_brings_the_same(world: World, method: str) -> None:
    script = """
        import multiprocessing, sys

        def fetch(words):
            from candle_fetcher import CandleFetcher
            with CandleFetcher(base_urls={"binance": words[0]}, cache_dir=words[1], progress=False) as fetcher:
                frame = fetcher.fetch("BTC/USDT", "1m", "2024-05-01", "2024-05-04")
                return frame.attrs["candle_fetcher"]["fingerprint"]

        if __name__ == "__main__":
            with multiprocessing.get_context(sys.argv[3]).Pool(1) as pool:
                print(*pool.map(fetch, [sys.argv[1:]]))
    """
    span = ("BTC/USDT", "1m", "2024-05-01", "2024-05-04")
    stored, asked = world.fetcher().fetch(*span), world.fetcher(use_cache=False).fetch(*span)
    path = world.folder.parent / "started.py"
    path.write_text(textwrap.dedent(script))
    words = [world.exchange.base_urls["binance"], str(world.folder), method]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path), *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    for frame in (stored, asked):
        assert done.stdout.split() == [frame.attrs["candle_fetcher"]["fingerprint"]], done.stderr
