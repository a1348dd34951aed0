"""Random worlds: a few in the default run, those that failed once, and a minute of them among the long tests."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from random_world import Judge, Op, Outcome, World, Wrong, run_world
from runs import FAULT_RUNS

LONG_S = 60.0
# Worlds that showed a fault once, each with what was wrong.
FAILED = {
    14: "a candle made of an incomplete set of a provider without rows for quiet intervals was not listed as partial",
    5_010: "one empty reply for each window on the way to the first candle hid history as not listed",
    6_044: "a pause at the live edge of a COIN-M series whose older candles are stored was an IncompleteData",
    7_116: "limit=1 with include_open gave the two candles that may still change",
    7_132: "a COIN-M series without candles from some day on was said never to have had one",
    20_079: "without the provider's clock, a range was refused as one of the future by a clock that was behind",
    9_150: "a candle off the grid, whose slot opens before the range, was not named as missing with the others",
    6_033: "with the clock not to be had, a made candle that still formed was a row of the frame",
}
# Worlds of which the driver expected what no client can know: it goes by a clock that is wrong and that nothing checks,
# or by a provider that repeats on two connections that there is no candle.
MISJUDGED = (9_087, 9_142, 9_173, 20_078, 20_121)

pytestmark = pytest.mark.filterwarnings("ignore::candle_fetcher.CandleFetcherWarning")


@pytest.mark.slow(keep=("3",))
@pytest.mark.parametrize("seed", [3, 6, 1])
def test_every_result_in_a_random_world_is_what_the_exchange_has(seed: int) -> None:
    assert run_world(seed, steps=10) == ""


@pytest.mark.long
@pytest.mark.parametrize("seed", [*FAILED, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MISJUDGED)])
def test_a_world_that_failed_once_holds(seed: int) -> None:
    assert run_world(seed) == "", FAILED.get(seed)


@pytest.mark.long
@pytest.mark.fault("D16", "D24", "K02", "K05")
def test_a_minute_of_random_worlds(record_property: Any) -> None:
    counts: Counter[str] = Counter()
    failed = {}
    seed, until_s = 10_000, time.monotonic() + LONG_S * FAULT_RUNS
    while time.monotonic() < until_s:
        wrong = run_world(seed, counts=counts)
        failed |= {seed: wrong} if wrong else {}
        counts["worlds"] += 1
        seed += 1
    record_property("runs", counts["frames compared"])
    sys.stdout.write(f"\n{dict(counts)}\n")
    assert not failed


def test_a_row_that_the_exchange_has_not_is_found(tmp_path: Path) -> None:
    world = World(3, tmp_path)
    with world.exchange.start():
        market = next(one for one in world._markets if one.changes)
        end_ms = world.now_ms // 3_600_000 * 3_600_000 - 3_600_000
        op = Op("fetch", market, "1h", {"start": end_ms - 5 * 3_600_000, "end": end_ms})
        worker = world._worker(skewed=False)
        try:
            outcome = worker.run(op)
        finally:
            worker.close()
        Judge(world, op, outcome).check(exact=True)
        columns = {name: values.copy() for name, values in outcome.columns.items()}
        columns["close"][2] += 0.01
        with pytest.raises(Wrong, match="close of"):
            Judge(world, op, outcome._replace(columns=columns)).check(exact=True)
        columns = {name: values[:-1] for name, values in outcome.columns.items()}
        short = Outcome(outcome.opens[:-1], columns, None, outcome.manifest)
        with pytest.raises(Wrong, match="neither a row"):
            Judge(world, op, short).check(exact=True)
