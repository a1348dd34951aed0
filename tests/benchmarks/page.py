"""What the page of the service takes in a real Chromium, on a warm cache.

    python tests/benchmarks/page.py [--turns 5]

The first chart of 525,600 candles of 1m, from the request of the page on; then steps of the keyboard over them: moving,
zooming in and out. A step is what passes until the chart has moved; the finer candles that come after it are drawn in
a time of their own. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from shutil import which
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from playwright.sync_api import sync_playwright
from served import Served

YEAR = "symbol=BTC/USDT&timeframe=1m&range=own&start=2024-01-01&end=2024-12-31"
KEYS = ["+"] * 6 + ["ArrowLeft"] * 15 + ["ArrowRight"] * 5 + ["-"] * 3 + ["ArrowLeft"] * 6 + ["Home"]


def open_page(browser: Any, url: str) -> tuple[Any, float]:
    """Open it in a new profile, and return it with the seconds until the chart was there."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    began_s = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("#chart[data-drawn]", timeout=120_000)
    return page, time.perf_counter() - began_s


def press(page: Any, key: str) -> tuple[float, float]:
    """Press a key on the chart; return the milliseconds until it moved, and those of the last drawing."""
    before = page.get_attribute("#chart", "data-steps")
    page.keyboard.press(key)
    page.wait_for_function("before => document.querySelector('#chart').dataset.steps !== before", arg=before)
    page.wait_for_timeout(250)  # for the finer candles
    return float(page.get_attribute("#chart", "data-step-ms")), float(page.get_attribute("#chart", "data-draw-ms"))


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--turns", type=int, default=5, help="how often the page is opened (default 5)")
    turns = reader.parse_args().turns
    program = which("chromium") or which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        served = Served(Path(folder))
        try:
            served.fetcher.fetch("BTC/USDT", "1m", "2024-01-01", "2024-12-31")
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            url = f"http://127.0.0.1:{served.port}/?{YEAR}"
            firsts, steps = [], []
            for _ in range(turns):
                page, first_s = open_page(browser, url)
                firsts.append(first_s)
                page.focus("#chart")
                steps += [press(page, key) for key in KEYS]
                page.context.close()
            browser.close()
        finally:
            served.close()
    moved, drawn = zip(*steps, strict=True)
    rows = [
        ("first chart, median of new profiles", statistics.median(firsts), 2.0, "s"),
        (f"a step, worst of {len(steps)}", max(moved), 150, "ms"),
        ("drawing finer candles, worst", max(drawn), 150, "ms"),
    ]
    for what, value, bar, unit in rows:
        print(f"{what:40} {value:8.3g} {unit}  <= {bar:g} {unit}  {'reached' if value <= bar else 'MISSED'}")
    print(f"{'a step, median':40} {statistics.median(moved):8.3g} ms")
    return int(any(value > bar for _, value, bar, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
