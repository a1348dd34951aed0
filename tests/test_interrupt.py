"""Ctrl-C in a real process: control is back within a second, nothing is sent after it, and what had come is kept."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import pytest
from runs import FAULT_RUNS
from world import ms, wait_until

from candle_fetcher import CandleFetcher
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import PracticeExchange, faults
from candle_fetcher.store.locks import KeyLocks

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
    import sys
    from candle_fetcher import CandleFetcher
    fetcher = CandleFetcher(
        base_urls={"binance": sys.argv[1], "binance-archive": sys.argv[1]}, cache_dir=sys.argv[2], progress=False
    )
    print("ready", flush=True)
"""
LONG = f"""{SCRIPT}
    fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01", source="rest")
"""
YEARS = ("BTC/USDT", "1m", "2022-01-01", "2024-01-01")
YEARS_MS = (1640995200000, 1704067200000)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process of its own")


# Far less than what is waited for takes, and far more than a machine that is busy with other work.
HELD_S = 10.0


@contextlib.contextmanager
def running(script: str, *words: object, is_new: bool = False) -> Iterator[Any]:
    """A process that has said that it is ready; gone afterwards."""
    process = children.start(script, *words, is_new=is_new)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process: Any, after_s: float) -> float:
    """Seconds from the signal to the end of the process, which was an interruption."""
    time.sleep(after_s)
    assert process.poll() is None, "it had ended before"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    seconds = time.monotonic() - began
    assert process.returncode in (-signal.SIGINT, 130), said
    assert "KeyboardInterrupt" in said
    assert "Exception ignored" not in said
    return seconds


def starts(exchange: PracticeExchange) -> list[str]:
    """What was asked for, of pages of candles, since the last look."""
    found = [one.params["startTime"] for one in exchange.requests if "startTime" in one.params]
    exchange.clear_log()
    return found


def interrupted_again_and_again(
    folder: Path, times: int, longest_s: float, seed: int, *, start: str = YEARS[2]
) -> None:
    pick = random.Random(seed)
    script, span, span_ms = LONG.replace(YEARS[2], start), (*YEARS[:2], start, YEARS[3]), (ms(start), YEARS_MS[1])
    with PracticeExchange(delay_s=0.05, weight_limit=10**7) as exchange:
        url = exchange.base_urls["binance"]
        answered: list[str] = []
        for _ in range(times):
            with running(script, url, folder) as process:
                assert interrupt(process, pick.uniform(0.0, longest_s)) < HELD_S
            answered += starts(exchange)
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=folder, progress=False) as fetcher:
            stored = fetcher.plan(*span).chunks.get("disk", 0)
            # At most what eight threads were at is lost each time; what each asks about the two ends is no chunk.
            assert stored >= len(set(answered)) - times * (8 + 4)
            starts(exchange)
            exchange._delay_s = 0.0
            frame = fetcher.fetch(*span, source="rest")
            again = starts(exchange)
        truth = exchange.truth("binance", "BTCUSDT", "1m", *span_ms)
        assert len(frame) == len(truth["open_time"])
        assert (frame["close"].to_numpy() == truth["close"]).all()
        whole = -(-(span_ms[1] - span_ms[0]) // 60_000_000) + 1
        assert len(again) <= whole - stored + 100, "what is stored is not asked for again"


@pytest.mark.slow
@pytest.mark.fault("E01")
def test_control_is_back_and_what_had_come_is_kept(tmp_path: Path) -> None:
    interrupted_again_and_again(tmp_path, 2, 0.6, 1, start="2023-08-01")


@pytest.mark.long
@pytest.mark.fault("E01")
def test_thirty_interruptions_at_any_moment(tmp_path: Path) -> None:
    for part in range(round(3 * FAULT_RUNS)):  # after some more, all of it would be stored
        interrupted_again_and_again(tmp_path / str(part), 10, 0.6, part)


# -- wherever it waits -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("E02")
@pytest.mark.parametrize("match", ["klines", "exchangeInfo", "api/v3/time"])
def test_a_reply_that_never_comes_holds_nobody(tmp_path: Path, match: str) -> None:
    near = (
        SCRIPT
        + """
    fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01" if sys.argv[3] != "api/v3/time" else None, source="rest")
"""
    )
    with PracticeExchange(weight_limit=10**6) as exchange:
        exchange.fail(faults.hang(30), times=None, match=match, after=4 if match == "klines" else 0)
        with running(near, exchange.base_urls["binance"], tmp_path, match) as process:
            assert interrupt(process, 0.5) < HELD_S


@pytest.mark.slow
@pytest.mark.fault("E02")
@pytest.mark.parametrize(
    ("action", "limit"),
    [(faults.rate_limited(60), 10**6), (faults.overloaded(), 10**6), (None, 40)],
    ids=["a hold", "a pause before a retry", "a budget"],
)
def test_a_wait_until_something_may_be_sent_holds_nobody(tmp_path: Path, action: Any, limit: int) -> None:
    with PracticeExchange(weight_limit=limit) as exchange:
        if action is not None:
            exchange.fail(action, times=None, match="klines", after=4)
        with running(LONG, exchange.base_urls["binance"], tmp_path) as process:
            assert interrupt(process, 0.5) < HELD_S


@pytest.mark.slow
@pytest.mark.fault("E02")
def test_a_wait_for_what_another_process_is_at_holds_nobody(tmp_path: Path) -> None:
    with PracticeExchange(weight_limit=10**6) as exchange:
        url = exchange.base_urls["binance"]
        claims = KeyLocks(tmp_path / "claims")
        first = YEARS_MS[0] // 60_000_000
        series = Series("binance", url, "BTCUSDT", parse_timeframe("1m"), "candles").key
        for chunk in range(first, first + 20):
            assert claims.acquire(f"{series}|{chunk}")
        with running(LONG, url, tmp_path) as process:
            assert interrupt(process, 1.0) < HELD_S
        claims.close()


LOOKUP = """
    import ctypes, socket, sys
    from candle_fetcher import CandleFetcher
    def stuck(*_, **__):
        libc = ctypes.CDLL(None)
        while True:
            libc.sleep(60)  # as getaddrinfo does, it heeds no signal
    socket.getaddrinfo = stuck
    end = None if sys.argv[3] == "clock" else "2024-01-01"
    fetcher = CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=False)
    print("ready", flush=True)
    fetcher.fetch("BTC/USDT", "1m", "2022-01-01", end)
"""


@pytest.mark.slow
@pytest.mark.fault("E02", "A27")
@pytest.mark.parametrize("what", ["candles", "clock"])
def test_a_name_lookup_that_hangs_holds_neither_the_caller_nor_the_end_of_the_program(
    tmp_path: Path, what: str
) -> None:
    with running(LOOKUP, "http://localhost:9", tmp_path, what) as process:
        assert interrupt(process, 0.5) < HELD_S


# Stands in for PySocks, which looks up names and waits in ways that heed no signal.
SOCKS = """
    import ctypes, os, sys, types
    def create_connection(*_, **__):
        while True:
            ctypes.CDLL(None).sleep(60)
    sys.modules["socks"] = types.SimpleNamespace(
        create_connection=create_connection, PROXY_TYPE_SOCKS4=1, PROXY_TYPE_SOCKS5=2, ProxyError=OSError
    )
    os.environ["HTTP_PROXY"] = "socks5h://proxy.invalid:1080"
    os.environ.pop("NO_PROXY", os.environ.pop("no_proxy", None))
    from candle_fetcher import CandleFetcher
    end = None if sys.argv[3] == "clock" else "2024-01-01"
    fetcher = CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=False)
    print("ready", flush=True)
    fetcher.fetch("BTC/USDT", "1m", "2022-01-01", end)
"""


@pytest.mark.slow
@pytest.mark.fault("E02", "A27", "A28")
@pytest.mark.parametrize("what", ["candles", "clock"])
def test_a_socks_proxy_that_hangs_holds_neither_the_caller_nor_the_end_of_the_program(
    tmp_path: Path, what: str
) -> None:
    with running(SOCKS, "http://127.0.0.1:9", tmp_path, what, is_new=True) as process:
        assert interrupt(process, 0.5) < HELD_S


LOCKED = (
    """
    import candle_fetcher.store.database
    candle_fetcher.store.database.BUSY_S = 60.0  # how long the lock is waited for
"""
    + SCRIPT
    + """
    try:
        fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01", source="rest")
    except KeyboardInterrupt:
        print("back", flush=True)
"""
)


@pytest.mark.slow
@pytest.mark.fault("E02", "D15")
def test_a_cache_that_another_process_has_locked_holds_nobody(tmp_path: Path) -> None:
    with PracticeExchange(delay_s=0.02, weight_limit=10**7) as exchange:
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher:
            fetcher.fetch("BTC/USDT", "1h", "2022-01-01", "2022-02-01")
        (database,) = tmp_path.rglob("*.db")
        with running(LOCKED, exchange.base_urls["binance"], tmp_path) as process:
            time.sleep(0.4)
            other = sqlite3.connect(database, timeout=5, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                time.sleep(0.4)
                sent_s = time.monotonic()
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "back\n"
                assert time.monotonic() - sent_s < HELD_S
            finally:
                other.close()
            # What waited for the lock goes on, and the program ends.
            process.communicate(timeout=60)
            assert process.returncode == 0


MANY = (
    SCRIPT
    + """
    fetcher.fetch_many(["BTC/USDT", "ETH/USDT", "BNB/USDT"], "1m", "2022-01-01", "2024-01-01", source="rest")
"""
)
FILES = (
    SCRIPT
    + """
    fetcher.fetch("BTC/USDT", "1m", "2019-01-01", "2024-01-01", source="archive")
"""
)
EXPORT = (
    SCRIPT
    + """
    fetcher.export("BTC/USDT", "1m", "2022-01-01", "2024-01-01", path=sys.argv[2] + "/file.csv", source="rest")
"""
)
FSYNC = (
    """
    import os, time
    real = os.fsync
    def slow(fd):
        print("syncing", flush=True)
        time.sleep(20)
    os.fsync = slow
"""
    + SCRIPT.replace('print("ready", flush=True)', "")
    + """
    fetcher.export("BTC/USDT", "1h", "2022-01-01", "2022-02-01", path=sys.argv[2] + "/file.csv", source="rest")
"""
)


@pytest.mark.slow
@pytest.mark.fault("E02")
@pytest.mark.parametrize("script", [MANY, FILES, EXPORT, FSYNC], ids=["many", "files", "export", "fsync"])
def test_control_is_back_from_every_kind_of_call(tmp_path: Path, script: str) -> None:
    with PracticeExchange(delay_s=0.02, weight_limit=10**7) as exchange:
        with running(script, exchange.url, tmp_path) as process:
            assert interrupt(process, 0.1 if script is FSYNC else 0.5) < HELD_S
        assert not list(tmp_path.glob("*.csv*")), "neither a file nor a part of one is left"


# -- at any step -------------------------------------------------------------------------------------------------------

# Interrupts calls at any step of the caller's thread that a trace can see; Pythons differ in which these are.
# As in a notebook, the last error is kept, and with it whatever its frames hold.
STEPS = """
    import contextlib, faulthandler, os, random, signal, sys
    import cachetools, candle_fetcher
    from candle_fetcher.store.forks import fork_guard
    faulthandler.dump_traceback_later(150, exit=True)
    url, folder, seed, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    places = (*(os.path.dirname(one.__file__) for one in (candle_fetcher, cachetools)), contextlib.__file__)
    left, kept = 0, None

    def trace(frame, event, argument):
        global left
        if not frame.f_code.co_filename.startswith(places):
            return None
        frame.f_trace_opcodes = True
        if event in ("call", "line", "opcode"):
            left -= 1
            if not left:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    def interrupted(work, after):
        global left, kept
        left = after
        sys.settrace(trace)
        try:
            work()
        except KeyboardInterrupt:
            kept = sys.exc_info()[1]
        finally:
            sys.settrace(None)
        return left <= 0

    fetcher = candle_fetcher.CandleFetcher(
        base_urls=dict.fromkeys(["binance", "binance-um", "binance-archive"], url), cache_dir=folder, progress=False
    )
    day, month = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06"), ("BTC/USDT", "2024-01-01", "2024-02-01")
    works = {
        "refresh": lambda: fetcher.fetch(*day, refresh=True, source="rest"),
        "funding": lambda: fetcher.fetch_funding(*month, provider="binance-um", refresh=True),
        "files": lambda: fetcher.fetch_funding(*month, provider="binance-um", source="archive", refresh=True),
        "newest": lambda: fetcher.fetch("BTC/USDT", "1m", limit=5),
        "quotes": lambda: fetcher.quotes(["BTC/USDT", "binance-um:BTC/USDT"]),
        "stored": lambda: fetcher.fetch(*day, columns="all", source="cache"),
    }
    print("ready", flush=True)
    pick = random.Random(seed)
    for work in works.values():
        rows = len(work())
        interrupted(work, 10**9)
        steps, hits = 10**9 - left, 0
        for _ in range(times):
            hits += interrupted(work, pick.randrange(1, steps))
            assert len(work()) == rows
            assert len(works["stored"]()) == 24
        assert hits
    assert not fork_guard._inside, "a fork would wait"
    fetcher.close()
"""


def interrupted_at_steps(folder: Path, seed: int, times: int) -> None:
    with (
        PracticeExchange(weight_limit=10**8) as exchange,
        running(STEPS, exchange.url, folder, seed, times) as process,
    ):
        _, said = process.communicate(timeout=160)
        assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.fault("E02", "E03", "J29")
def test_a_call_that_was_interrupted_at_any_step_can_be_made_again(tmp_path: Path) -> None:
    interrupted_at_steps(tmp_path, 1, 6)


@pytest.mark.long
@pytest.mark.fault("E02", "E03")
def test_calls_that_were_interrupted_at_six_hundred_steps_can_be_made_again(tmp_path: Path) -> None:
    for seed in range(round(5 * FAULT_RUNS)):
        interrupted_at_steps(tmp_path / str(seed), seed, 24)


# -- in a notebook -----------------------------------------------------------------------------------------------------

CELL = """
import threading, time
began = time.monotonic()
try:
    frame = fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01", source="rest")
finally:
    took_s = time.monotonic() - began
"""


@pytest.mark.long
@pytest.mark.fault("E03")
@pytest.mark.filterwarnings("ignore")  # what a kernel's own packages warn of
def test_a_cell_that_is_interrupted_in_a_kernel_leaves_nothing_behind_and_runs_again(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="a real kernel needs ipykernel")
    manager = pytest.importorskip("jupyter_client.manager", reason="a real kernel needs jupyter_client")
    kernel, client = None, None
    with PracticeExchange(delay_s=0.05, weight_limit=10**7) as exchange:
        try:
            kernel, client = manager.start_new_kernel(
                kernel_name="python3", env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=str(tmp_path)
            )

            def run(code: str, *, interrupts: bool = False) -> tuple[dict[str, Any], str]:
                """The reply, and all that the cell showed."""
                exchange.clear_log()
                asked = client.execute(code)
                if interrupts:  # in the middle of the cell, and not before the kernel has begun it
                    wait_until(lambda: len(exchange.requests) > 20)
                    kernel.interrupt_kernel()
                shown = []
                while True:
                    message = client.get_iopub_msg(timeout=30)
                    if message["parent_header"].get("msg_id") != asked:
                        continue
                    if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                        break
                    shown.append(f"{message['msg_type']}: {message['content']}")
                reply = client.get_shell_msg(timeout=30)
                while reply["parent_header"].get("msg_id") != asked:  # of what was asked while the kernel started
                    reply = client.get_shell_msg(timeout=30)
                return reply["content"], "\n".join(shown)

            def evaluate(expression: str) -> str:
                return run(f"print({expression})")[1]

            urls = {"binance": exchange.base_urls["binance"]}
            made, said = run(f"""
import threading
from candle_fetcher import CandleFetcher
fetcher = CandleFetcher(base_urls={urls!r}, cache_dir={str(tmp_path / "cache")!r}, progress=True)
fetcher.fetch("BTC/USDT", "1m", "2023-06-01", "2023-06-02", source="rest")
base = threading.active_count()
""")
            assert made["status"] == "ok", said
            for _ in range(2):
                reply, said = run(CELL, interrupts=True)
                assert reply["status"] == "error"
                assert reply["ename"] == "KeyboardInterrupt", said
                time.sleep(0.1)
                exchange.clear_log()
                time.sleep(0.3)
                assert not exchange.requests, "a request after the interruption"
                # The pools keep their threads for the next cell: never more than there are places for.
                assert "True" in evaluate("threading.active_count() <= base + 10 + 4 + 2")
                assert "[]" in evaluate(
                    "[one.name for one in threading.enumerate() if one.name.startswith('candle-lookup')]"
                )
            reply, said = run(CELL)
            assert reply["status"] == "ok", said
            assert len(re.findall(r"^display_data: ", said, re.MULTILINE)) == 1, "one bar"
            assert "1051" in evaluate("len(frame)")
            assert "True" in run("fetcher.close()\nprint(threading.active_count() <= base)")[1]
        finally:
            if client is not None:
                client.stop_channels()
            if kernel is not None:
                kernel.shutdown_kernel(now=True)


# -- the end of the program --------------------------------------------------------------------------------------------

ENDINGS = {
    "in the middle, from another thread's call": """
        thread = threading.Thread(target=quiet, daemon=True)
        thread.start()
        time.sleep(0.4)
        sys.exit(3)
    """,
    "out of a callback": """
        fetcher = make(progress=lambda event: sys.exit(3))
        fetcher.fetch(*SPAN, source="rest")
    """,
    "half way through an iterator": """
        frames = fetcher.iter_frames(*SPAN, rows=2000, source="rest")
        next(frames)
        sys.exit(3)
    """,
    "with a call at exit": """
        atexit.register(lambda: print(len(fetcher.fetch("BTC/USDT", "1h", "2022-01-01", "2022-01-02"))))
        fetcher.fetch("BTC/USDT", "1h", "2022-01-01", "2022-02-01")
        sys.exit(3)
    """,
    "with an error of the caller's": """
        fetcher.fetch("BTC/USDT", "1h", "2022-01-01", "2022-02-01")
        with contextlib.suppress(KeyError):
            with make() as another:
                another.fetch("BTC/USDT", "1h", "2022-01-01", "2022-02-01")
                raise KeyError
        sys.exit(3)
    """,
}


@pytest.mark.slow
@pytest.mark.fault("E08")
@pytest.mark.parametrize("how", ENDINGS)
def test_a_program_may_end_at_any_point(tmp_path: Path, how: str) -> None:
    script = """
        import atexit, contextlib, sys, threading, time
        from candle_fetcher import CandleFetcher, CandleFetcherError
        SPAN = ("BTC/USDT", "1m", "2022-01-01", "2024-01-01")
        def make(progress=False):
            return CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=progress)
        def quiet():
            with contextlib.suppress(CandleFetcherError):
                fetcher.fetch(*SPAN, source="rest")
        fetcher = make()
        print("ready", flush=True)
    """
    script = textwrap.dedent(script) + textwrap.dedent(ENDINGS[how])
    with (
        PracticeExchange(delay_s=0.2, weight_limit=10**7) as exchange,
        running(script, exchange.url, tmp_path) as process,
    ):
        began = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - began < HELD_S, "what is under way takes three times as long, and more"
        assert (process.returncode, said) == (3, "")
