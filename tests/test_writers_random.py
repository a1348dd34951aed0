"""Writers of one cache in any order, held against what they can have been told: no candle ever gets older.

Every change of a candle at the exchange, hiding it too, is a version of its slot. Whatever fetchers refresh, ask for
again and import at once, what is stored of a slot is never an earlier version than what was stored before, or than what
the exchange had when a refresh began that is over. One case is no fault: a file fills in what is not stored, and may
bring the candle that the slot had when the file was made where a refresh has found none since.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT
from world import World

from candle_fetcher import CandleFetcher, IncompleteData
from candle_fetcher.core.frame import index_ms
from candle_fetcher.practice import PracticeExchange

HOUR = 3_600_000
FIRST, SLOTS = 474_970, 60  # slots of the grid of 1h, around the border of two chunks
FAULT_RUNS = float(os.environ.get("FAULT_RUNS", "1"))
SEEDS = [2]
PLENTY = 10**9  # weight a minute: no writer waits for the next one


class Deed(NamedTuple):
    """What a writer did, when by the monotonic clock, which the processes of a machine share, and about which span."""

    name: str
    begun_s: float
    start_ms: int
    end_ms: int


class Slots:
    """What the exchange has said of each slot: its versions, each a volume, or None while it is hidden."""

    def __init__(self, exchange: PracticeExchange) -> None:
        self.exchange = exchange
        start_ms, end_ms = FIRST * HOUR, (FIRST + SLOTS) * HOUR
        truth = exchange.truth("binance", "BTCUSDT", "1h", start_ms, end_ms)
        self.versions: list[list[tuple[float, float | None]]] = [
            [(0.0, float(volume))] for volume in truth["volume"].tolist()
        ]

    def change(self, dice: random.Random) -> None:
        """A candle is corrected, hidden, or shown again."""
        at = dice.randrange(SLOTS)
        versions = self.versions[at]
        if versions[-1][1] is None:
            self.exchange.unhide("binance", "BTCUSDT", self._span(at))
            self._add(at, next(volume for _, volume in reversed(versions) if volume is not None))
        elif dice.random() < 0.15:
            self.hide(at)
        else:
            volume = 1_000.0 + sum(map(len, self.versions))
            self.exchange.restate("binance", "BTCUSDT", "1h", (FIRST + at) * HOUR, volume=f"{volume:.8f}")
            self._add(at, volume)

    def hide(self, slot: int) -> None:
        if self.versions[slot][-1][1] is not None:
            self.exchange.hide("binance", "BTCUSDT", self._span(slot))
            self._add(slot, None)

    def _span(self, slot: int) -> tuple[int, int]:
        return (FIRST + slot) * HOUR, (FIRST + slot + 1) * HOUR

    def _add(self, slot: int, volume: float | None) -> None:
        self.versions[slot].append((time.monotonic(), volume))

    def newest(self, slot: int, volume: float | None) -> int:
        """The newest version of the slot that says so."""
        found = [at for at, (_, said) in enumerate(self.versions[slot]) if said == volume]
        assert found, (slot, volume, self.versions[slot])
        return found[-1]

    def is_filled(self, slot: int, version: int, least: int, imports: Sequence[Deed]) -> bool:
        """Whether one of the imports may have laid that version into a hole, of that version or a later one."""
        versions = self.versions[slot]
        if version + 1 >= len(versions) or all(said is not None for _, said in versions[least:]):
            return False
        until_s, open_ms = versions[version + 1][0], (FIRST + slot) * HOUR
        return any(one.begun_s < until_s and one.start_ms <= open_ms < one.end_ms for one in imports)

    def at(self, slot: int, time_s: float) -> int:
        """The version that the slot had then."""
        return max(at for at, (since_s, _) in enumerate(self.versions[slot]) if since_s <= time_s)


def stored(reader: CandleFetcher) -> dict[int, float | None]:
    """What the cache says of each slot that it knows."""
    span = ("BTC/USDT", "1h", FIRST * HOUR, (FIRST + SLOTS) * HOUR)
    lost: set[int] = set()
    try:
        frame = reader.fetch(*span, source="cache")
    except IncompleteData as error:
        frame = error.frame
        for gap in error.missing:
            lost.update(range(slot_of(gap.first), slot_of(gap.last) + 1))
    known: dict[int, float | None] = dict.fromkeys(set(range(SLOTS)) - lost)
    for open_ms, volume in zip(index_ms(frame).tolist(), frame["volume"].tolist(), strict=True):
        known[open_ms // HOUR - FIRST] = volume
    return known


def slot_of(text: str) -> int:
    import pandas as pd

    return int(pd.Timestamp(text).value // 10**6 // HOUR - FIRST)


def span_of(dice: random.Random) -> tuple[int, int]:
    if dice.random() < 0.5:
        return FIRST * HOUR, (FIRST + SLOTS) * HOUR
    start = dice.randrange(SLOTS)
    return (FIRST + start) * HOUR, (FIRST + dice.randrange(start, SLOTS) + 1) * HOUR


def write(fetcher: CandleFetcher, teller: CandleFetcher, dice: random.Random, folder: Path) -> Deed:
    """One deed of a writer."""
    name, span, begun_s = (
        dice.choice(["fetch", "refresh", "refresh", "refetch", "import"]),
        span_of(dice),
        time.monotonic(),
    )
    if name == "import":
        path = teller.export("BTC/USDT", "1h", *span, path=folder / f"{dice.random()}")
        if path.stat().st_size > 100:
            fetcher.cache.import_file(path)
    else:
        options: dict[str, Any] = {"refresh": {"refresh": True}, "refetch": {"on_gap": "refetch"}, "fetch": {}}[name]
        fetcher.fetch("BTC/USDT", "1h", *span, **options)
    return Deed(name, begun_s, *span)


def learn(least: dict[int, int], deeds: Iterable[Deed], slots: Slots) -> None:
    """Raises the least versions to those that the refreshes among the deeds must have been told."""
    for deed in deeds:
        for open_ms in range(deed.start_ms, deed.end_ms, HOUR) if deed.name == "refresh" else ():
            slot = open_ms // HOUR - FIRST
            least[slot] = max(least.get(slot, 0), slots.at(slot, deed.begun_s))


def check(known: dict[int, float | None], least: dict[int, int], slots: Slots, imports: Sequence[Deed] = ()) -> None:
    """Fails where something stored is older than it was, or gone; keeps what it is now."""
    assert set(known) >= set(least), "what was stored is not known any more"
    for slot, volume in known.items():
        version, bound = slots.newest(slot, volume), least.get(slot, 0)
        if version < bound:
            assert slots.is_filled(slot, version, bound, imports), (slot, volume, slots.versions[slot], bound)
            bound = 0
        # Of equal versions nothing tells which it is: the earliest is all that is known.
        versions = enumerate(slots.versions[slot])
        least[slot] = next(at for at, (_, said) in versions if said == volume and at >= bound)


def run(seed: int, folder: Path, *, steps: int, claims: bool = True) -> None:
    dice = random.Random(seed)
    if not claims:
        (folder / "cache" / "claims").mkdir(parents=True)  # no lock can be had
    with World(folder / "cache", weight_limit=PLENTY) as world:
        slots = Slots(world.exchange)
        for _ in range(8):
            slots.hide(dice.randrange(SLOTS))
        writers = [world.fetcher(source="rest", compression=seed % 3 == 0) for _ in range(2)]
        for one in writers:
            one.fetch("BTC/USDT", "1h", FIRST * HOUR, (FIRST + SLOTS) * HOUR)
        reader, teller = world.fetcher(memory_cache_size=0), world.fetcher(use_cache=False, source="rest")
        least: dict[int, int] = {}
        for _ in range(steps):
            for _ in range(dice.randrange(4)):
                slots.change(dice)
            if dice.random() < 0.1:
                world.now_s += dice.choice([3_700, 31 * 86_400])
            learn(least, [write(dice.choice(writers), teller, dice, folder)], slots)
            check(stored(reader), least, slots)


@pytest.mark.fault("K02", "K03")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_candle_gets_older_whatever_two_fetchers_do_in_turn(tmp_path: Path, seed: int) -> None:
    run(seed, tmp_path, steps=20, claims=seed % 2 == 0)


@pytest.mark.long
@pytest.mark.fault("K02", "K03")
@pytest.mark.parametrize("seed", range(100, 100 + round(6 * FAULT_RUNS)))
def test_no_candle_gets_older_whatever_fetchers_do_in_turn_for_long(tmp_path: Path, seed: int) -> None:
    run(seed, tmp_path, steps=150, claims=seed % 2 == 0)


# -- processes --------------------------------------------------------------------------------------------------------

CHILD = """
import json, random, sys, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_writers_random import write
from candle_fetcher import CandleFetcher
urls, folder, seed = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
warnings.simplefilter("ignore")
dice = random.Random(seed)
settings = {"base_urls": urls, "source": "rest", "progress": False}
with CandleFetcher(cache_dir=folder / "cache", **settings) as fetcher:
    with CandleFetcher(use_cache=False, **settings) as teller:
        print("ready", flush=True)
        for count in map(int, sys.stdin):
            print(json.dumps([write(fetcher, teller, dice, folder / str(seed)) for _ in range(count)]), flush=True)
"""


class Child:
    """A process that does some deeds whenever it is asked to."""

    def __init__(self, urls: str, folder: Path, seed: int) -> None:
        line = [sys.executable, "-c", CHILD, urls, str(folder), str(seed), str(ROOT / "tests")]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def work(self, count: int) -> list[Deed]:
        """So many deeds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return [Deed(*deed) for deed in json.loads(self.read())]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def race(folder: Path, seed: int, *, children: int, rounds: int, claims: bool) -> None:
    """Several processes at once, halted after a few deeds of each: what is stored then is checked."""
    dice = random.Random(seed)
    if not claims:
        (folder / "cache" / "claims").mkdir(parents=True)
    with contextlib.ExitStack() as held:
        exchange = held.enter_context(PracticeExchange(weight_limit=PLENTY, log=False))
        slots = Slots(exchange)
        for _ in range(8):
            slots.hide(dice.randrange(SLOTS))
        settings: dict[str, Any] = {"base_urls": exchange.base_urls, "cache_dir": folder / "cache", "progress": False}
        reader = held.enter_context(CandleFetcher(**settings, memory_cache_size=0))
        pool = held.enter_context(ThreadPoolExecutor(children))
        made = []
        for at in range(children):
            made.append(Child(json.dumps(exchange.base_urls), folder, seed * 10 + at))
            held.callback(made[-1].end)
        assert [one.read() for one in made] == ["ready\n"] * children
        least: dict[int, int] = {}
        for _ in range(rounds):
            working = [pool.submit(one.work, dice.randrange(1, 5)) for one in made]
            while not all(one.done() for one in working):
                slots.change(dice)
                time.sleep(dice.uniform(0.001, 0.04))
            deeds = [deed for one in working for deed in one.result()]
            learn(least, deeds, slots)
            if least or any(deed.name != "import" for deed in deeds):
                check(stored(reader), least, slots, [deed for deed in deeds if deed.name == "import"])
        assert least


@pytest.mark.long
@pytest.mark.fault("K02", "K03")
@pytest.mark.parametrize("seed", range(round(2 * FAULT_RUNS)))
@pytest.mark.parametrize("claims", [True, False])
def test_no_candle_gets_older_whatever_processes_do_at_once_for_long(tmp_path: Path, seed: int, claims: bool) -> None:
    race(tmp_path, seed, children=3, rounds=30, claims=claims)
