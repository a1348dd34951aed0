"""The commands `watch` and `follow` in a pipe and on a terminal, against a practice exchange in their process."""

from __future__ import annotations

import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from candle_fetcher import CandleFetcher, Vault
from candle_fetcher.cli.arguments import read_arguments

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path, *words: str, **given: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "candle_fetcher", *words, "--practice", "--cache-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    return subprocess.Popen(command, env=environment, cwd=folder, **given)


def lines_of(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """The first lines of stdout; then Ctrl-C, after which the command ends by itself."""
    assert process.stdout is not None
    found = [process.stdout.readline().decode() for _ in range(count)]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return found


def test_the_words_of_follow_are_symbols_and_a_timeframe() -> None:
    arguments = read_arguments(["follow", "BTC/USDT", "ETH/USDT", "1m", "--start", "7d", "--revisions"])
    assert (arguments.files, arguments.start, arguments.revisions) == (["BTC/USDT", "ETH/USDT", "1m"], "7d", True)
    assert read_arguments(["watch", "BTC/USDT", "--every", "2"]).every == 2.0


@pytest.mark.slow
def test_watch_prints_a_line_of_json_for_each_quote_in_a_pipe(tmp_path: Path) -> None:
    pytest.importorskip("websocket", reason="needs the extra `live`")
    lines = lines_of(start(tmp_path, "watch", "BTC/USDT", "kraken:BTC/USD"), 4)
    quotes = [json.loads(line) for line in lines]
    assert {quote["provider"] for quote in quotes} == {"binance", "kraken"}
    assert all(quote["last_price"] > 0 and quote["error"] is None for quote in quotes)


@pytest.mark.slow
def test_follow_prints_csv_in_a_pipe_and_lets_a_vault_grow(tmp_path: Path) -> None:
    pytest.importorskip("websocket", reason="needs the extra `live`")
    start_ms = int(time.time() - 60) * 1000
    words = ["follow", "BTC/USDT", "1s", "--start", str(start_ms), "--vault", str(tmp_path / "vault")]
    rows = list(csv.DictReader(lines_of(start(tmp_path, *words), 64)))
    times = [row["timestamp"] for row in rows]
    assert times == sorted(set(times))
    assert len(times) == 63
    with CandleFetcher(cache_dir=tmp_path / "other") as fetcher, Vault(tmp_path / "vault", fetcher) as vault:
        series = vault.series()
        assert series["first"].iloc[0].value // 10**6 == start_ms
        assert series["rows"].iloc[0] >= 59


@pytest.mark.slow
def test_watch_renews_a_table_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("websocket", reason="needs the extra `live`")
    ours, theirs = pty.openpty()
    process = start(tmp_path, "watch", "BTC/USDT", "ETH/USDT", stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    while seen.count(b"\x1b[3F") < 2:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    text = seen.decode()
    assert "binance:BTC/USDT" in text
    assert "binance:ETH/USDT" in text
    os.close(ours)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(select, "poll"), reason="the system cannot tell that a reader is gone")
def test_follow_ends_with_the_reader_of_its_pipe_though_no_candle_comes(tmp_path: Path) -> None:
    pytest.importorskip("websocket", reason="needs the extra `live`")
    process = start(tmp_path, "follow", "BTC/USDT", "1d", "--start", "7d", stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"timestamp")
    process.stdout.close()
    assert process.wait(30) == 0


@pytest.mark.slow
def test_an_unknown_symbol_is_wrong_input(tmp_path: Path) -> None:
    for command in ("watch", "follow"):
        process = start(tmp_path, command, "NO/SUCH")
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert b"NO/SUCH" in said
        assert b"Traceback" not in said
