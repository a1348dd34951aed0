"""Programs of others on the service: ccxt and freqtrade read Binance's dialect, schemathesis fuzzes every route.

They are installed by the extra `tools`, in an environment of its own (`.ci/run`). Each test is skipped where its
program is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")

from served import Served

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parents[1]
JANUARY_MS = 1_704_067_200_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


def roots(served: Served) -> tuple[str, str]:
    """Return where Binance's dialect is: at the exchange itself, and through the service."""
    return served.exchange.base_urls["binance"], f"http://127.0.0.1:{served.port}/binance"


def program(name: str) -> str:
    """Return the path of a program beside this Python, or anywhere; skip where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_ccxt_gets_the_same_numbers_and_errors_as_from_the_exchange(served: Served) -> None:
    ccxt = pytest.importorskip("ccxt")

    def make(root: str) -> Any:
        made = ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
        made.urls["api"]["public"] = f"{root}/api/v3"
        return made

    direct, through = map(make, roots(served))
    assert set(direct.load_markets()) == set(through.load_markets())
    until = {"until": JANUARY_MS + 40 * 86_400_000}
    for symbol in ("BTC/USDT", "ADA/BTC"):
        for timeframe in ("1m", "1h", "3d", "1w", "1M"):
            for words in (
                {"since": JANUARY_MS, "limit": 1000},
                {"since": 1_500_000_000_000, "limit": 100},
                {"since": JANUARY_MS, "limit": 500, "params": until},
            ):
                ours = through.fetch_ohlcv(symbol, timeframe, **words)
                assert ours == direct.fetch_ohlcv(symbol, timeframe, **words), (symbol, timeframe, words)
            for words in ({}, {"limit": 7}):  # the last one is forming, and goes on between the two
                ours, theirs = (one.fetch_ohlcv(symbol, timeframe, **words) for one in (through, direct))
                common = {row[0] for row in ours[:-1]} & {row[0] for row in theirs[:-1]}
                assert len(common) >= len(theirs) - 2
                assert [row for row in ours if row[0] in common] == [row for row in theirs if row[0] in common]
    for params in (
        {"symbol": "NOPE", "interval": "1h"},
        {"symbol": "BTCUSDT", "interval": "7x"},
        {"interval": "1h"},
        {"symbol": "BTCUSDT"},
        {"symbol": "BTCUSDT", "interval": "1h", "limit": "x"},
        {"symbol": "BTCUSDT", "interval": "1h", "limit": "0"},
        {"symbol": "BTCUSDT", "interval": "1h", "startTime": "-5"},
        {"symbol": "BTCUSDT", "interval": "1h", "nonsense": "1"},
    ):
        said = []
        for one in (direct, through):
            with pytest.raises(ccxt.BaseError) as caught:
                one.public_get_klines(params)
            said.append((type(caught.value).__name__, str(caught.value)))
        assert said[0] == said[1], params
    through.public_get_klines({"symbol": "BTCUSDT", "interval": "1h", "limit": "1"})
    assert int(through.last_response_headers["x-mbx-used-weight-1m"]) > 0


def test_freqtrade_downloads_the_same_candles_as_from_the_exchange(served: Served, tmp_path: Path) -> None:
    freqtrade = program("freqtrade")
    found = {}
    for name, root in zip(("direct", "through"), roots(served), strict=True):
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        urls = {"api": {"public": f"{root}/api/v3", "private": f"{root}/api/v3"}}
        options = {"enableRateLimit": False, "urls": urls, "options": {"fetchMarkets": {"types": ["spot"]}}}
        pricing = {"price_side": "same", "use_order_book": True, "order_book_top": 1}
        config = {
            "stake_currency": "USDT",
            "stake_amount": 10,
            "dry_run": True,
            "max_open_trades": 1,
            "trading_mode": "spot",
            "exchange": {
                "name": "binance",
                "only_from_ccxt": True,
                "enable_ws": False,
                "pair_whitelist": ["BTC/USDT", "ETH/USDT"],
                "ccxt_config": options,
                "ccxt_async_config": options,
            },
            "pairlists": [{"method": "StaticPairList"}],
            "entry_pricing": pricing,
            "exit_pricing": pricing,
        }
        (folder / "config.json").write_text(json.dumps(config))
        words = ["-c", f"{folder}/config.json", "--userdir", str(folder), "--datadir", str(folder / "data")]
        words += ["-t", "1h", "1d", "--timerange", "20240101-20240301", "--data-format-ohlcv", "json"]
        done = subprocess.run(
            [freqtrade, "download-data", *words], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        found[name] = {path.name: json.loads(path.read_text()) for path in (folder / "data").glob("*.json")}
    assert len(found["direct"]) == 4
    for name, rows in found["direct"].items():
        settled = [row for row in rows if row[0] < JANUARY_MS + 60 * 86_400_000]
        assert settled == found["through"][name][: len(settled)]
        assert len(settled) > 50


def test_schemathesis_finds_no_fault_in_any_route(served: Served) -> None:
    schemathesis = program("schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    words = ["--checks", checks, "--max-examples", "20", "--phases", "examples,coverage,fuzzing", "--no-color"]
    words += ["--exclude-path", "/api/stream", "--seed", "1"]  # a stream has no end
    done = subprocess.run(
        [schemathesis, "run", f"http://127.0.0.1:{served.port}/openapi.json", *words],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=served.fetcher.cache.path,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_command_serves_until_a_signal_ends_it(tmp_path: Path) -> None:
    """The URL on stdout, one sentence where the port is taken, the exit code 0 after SIGTERM with a stream open."""
    environment = {**os.environ, "CANDLE_FETCHER_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "candle_fetcher", "serve", "--practice", "--port"]
    words: dict[str, Any] = {"text": True, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "0"], **words) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            query = "symbol=BTC/USDT&timeframe=1h&start=2024-01-01&end=2024-01-02&format=csv"
            with urllib.request.urlopen(f"{url}/api/candles?{query}", timeout=30) as reply:
                assert len(reply.read().splitlines()) == 25
            taken = subprocess.run([*command, url.rpartition(":")[2]], timeout=60, check=False, **words)
            assert taken.returncode == 1
            errors = [line for line in taken.stderr.splitlines() if line.startswith("error:")]
            assert len(errors) == 1
            assert "cannot be listened on" in errors[0]
            with urllib.request.urlopen(f"{url}/api/stream?symbols=BTC/USDT", timeout=30) as stream:
                assert stream.readline().startswith(b"retry:")
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            said = process.stderr.read() if process.stderr is not None else ""
        finally:
            process.kill()
    assert "Traceback" not in said
    assert "GET /api/candles?symbol=BTC/USDT&timeframe=1h" in said
    assert said.rstrip().endswith("ended")
