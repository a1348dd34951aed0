"""What a picture of a year of 1m costs: 525,600 candles to a page of HTML that works offline.

    python tests/benchmarks/plot.py [--turns 5]

The candles come from the practice exchange. Each turn is a new process, which imports pandas and candle_fetcher before
its clock starts, and plotly after that. Prints the figures beside their bars, and exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from candle_fetcher import CandleFetcher
from candle_fetcher.practice import PracticeExchange

TURN = """
import json, pickle, sys, time
from pathlib import Path
import candle_fetcher
frame = pickle.loads(Path(sys.argv[1]).read_bytes())
began, cpu_s = time.perf_counter(), time.process_time()
from candle_fetcher import plot
figure = plot.candles(frame)
drawn = time.perf_counter()
path = plot.save(figure, sys.argv[2])
ended = time.perf_counter()
candles = next(one for one in figure.data if one.type == "candlestick")
print(json.dumps({
    "drawn": drawn - began, "cpu": time.process_time() - cpu_s, "whole": ended - began,
    "bytes": path.stat().st_size, "candles": len(candles.x),
    "keeps": bool(max(candles.high) == frame["high"].max() and min(candles.low) == frame["low"].min()),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "frame"
        with (
            PracticeExchange(weight_limit=10**9, log=False) as exchange,
            CandleFetcher(base_urls=exchange.base_urls, use_cache=False, progress=False) as fetcher,
        ):
            frame = fetcher.fetch("BTC/USDT", "1m", "2025-01-01", "2026-01-01")
            rows = len(frame)
            frame.to_pickle(stored)
        command = [sys.executable, "-c", TURN, str(stored), str(Path(folder) / "year.html")]
        made = [
            json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
            for _ in range(turns)
        ]
    whole, drawn, cpu = (statistics.median(one[name] for one in made) for name in ("whole", "drawn", "cpu"))
    size_mb = max(one["bytes"] for one in made) / 1e6
    keeps = all(one["keeps"] for one in made)
    print(f"Python {platform.python_version()}, {turns} turns, {rows:,} candles of 1m, drawn as {made[0]['candles']:,}")
    for what, figure, bar, is_met in (
        ("to a page of HTML, median", f"{whole:.2f} s", "<= 2 s", whole <= 2),
        ("of it the figure, with the import of plotly", f"{drawn:.2f} s", "", True),
        ("the CPU time of it all", f"{cpu:.2f} s", "", True),
        ("the page", f"{size_mb:.2f} MB", "<= 6 MB", size_mb <= 6),
        ("the highest high and the lowest low are there", str(keeps), "True", keeps),
    ):
        print(f"{what:<50}{figure:>10}  {bar:<10}{'' if is_met else 'MISSED'}")
    return 0 if whole <= 2 and size_mb <= 6 and keeps else 1


if __name__ == "__main__":
    raise SystemExit(main())
