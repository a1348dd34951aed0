"""Ctrl-C in a real process: control is back within a second, nothing is sent after it, and what had come is kept."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from candle_fetcher import CandleFetcher
from candle_fetcher.practice import PracticeExchange, faults

SCRIPT = """
import sys
from candle_fetcher import CandleFetcher
fetcher = CandleFetcher(base_urls={"binance": sys.argv[1]}, cache_dir=sys.argv[2], progress=False)
print("ready", flush=True)
fetcher.fetch("BTC/USDT", "1m", "2022-01-01", "2024-01-01")
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process of its own")


def interrupted_after(seconds: float, url: str, cache: Path) -> tuple[float, int, str]:
    """Seconds from the signal to the end of the process, its exit code, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, str(cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=10)
    return time.monotonic() - began, process.returncode, said


@pytest.mark.fault("E01")
def test_control_is_back_within_a_second_and_what_had_come_is_kept(tmp_path: Path) -> None:
    with PracticeExchange(delay_s=0.05, weight_limit=10**6) as exchange:
        url = exchange.base_urls["binance"]
        for _ in range(3):
            seconds, code, said = interrupted_after(random.uniform(0.2, 0.6), url, tmp_path)
            sent = len(exchange.requests)
            assert seconds < 1
            assert code != 0
            assert "KeyboardInterrupt" in said
            time.sleep(0.15)
            assert len(exchange.requests) == sent
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher:
            stored = fetcher.plan("BTC/USDT", "1m", "2022-01-01", "2024-01-01").chunks.get("disk", 0)
        answered = {request.params["startTime"] for request in exchange.requests if "startTime" in request.params}
        assert stored >= len(answered) - 3 * 10
        assert stored > 5


@pytest.mark.fault("E02")
def test_workers_that_wait_for_a_reply_that_never_comes_hold_nobody(tmp_path: Path) -> None:
    with PracticeExchange(weight_limit=10**6) as exchange:
        exchange.fail(faults.hang(30), times=None, match="klines", after=4)
        seconds, code, said = interrupted_after(0.5, exchange.base_urls["binance"], tmp_path)
        assert seconds < 1
        assert code != 0
        assert "KeyboardInterrupt" in said
