"""What leave to send one request costs: a Limiter that keeps its State in memory, and one that shares it in a file.

    python tests/benchmarks/pacing.py [--rounds 3000]

Microseconds for `acquire` and `release` together. The processes contend for one file; each does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from candle_fetcher.core.call import Limit
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.store.shared import SharedStates

GO = threading.Event()
LIMITS = (Limit(10**9, 60), Limit(10**9, 300, "requests"))


def measure(folder: str | None, rounds: int) -> list[float]:
    """Microseconds of each of so many rounds."""
    shared_states = SharedStates(Path(folder)) if folder is not None else None
    limiter = Limiter(
        provider="bench",
        limits=LIMITS,
        now_ms=lambda: int(time.time() * 1000),
        steady_ms=lambda: int(time.monotonic() * 1000),
        shared=shared_states.state("bench") if shared_states else None,
    )
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        limiter.release(limiter.acquire(2, stop=GO), used=2)
        taken.append(1e6 * (time.perf_counter() - began))
    if shared_states:
        shared_states.close()
    return taken


def row(name: str, taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=100)
    return f"{name:<24}{statistics.median(taken):>10.1f}{cuts[89]:>10.1f}{cuts[98]:>10.1f}{max(taken):>10.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Microseconds for leave to send one request.")
    parser.add_argument("--rounds", type=int, default=3000)
    rounds = parser.parse_args().rounds
    print(f"python {' '.join(sys.argv)}")
    print(f"{platform.platform()}, Python {platform.python_version()}, {multiprocessing.cpu_count()} cores\n")
    print(f"{'µs':<24}{'median':>10}{'P90':>10}{'P99':>10}{'max':>10}")
    with tempfile.TemporaryDirectory() as folder:
        print(row("in memory", measure(None, rounds)))
        print(row("shared, 1 process", measure(folder, rounds)))
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            pool.starmap(measure, [(folder, 10)] * 4)  # their imports are over
            together = pool.starmap(measure, [(folder, rounds)] * 4, chunksize=1)
        print(row("shared, 4 processes", [one for taken in together for one in taken]))


if __name__ == "__main__":
    main()
