"""Interruptions at any place: a signal, a finalizer or a callback of the garbage collector, at the n-th step of a call.

    python tests/places.py [--places 10000] [--seed 1] [--signal TERM|ALRM|USR1|INT|finalizer|gc]
                           [--action close|fetch|raise|exit] [--seconds 20]

Each place is a child process, forked from one that has imported everything. In it the n-th step of a call (an opcode of
the main thread, or a call of a function in any thread) is interrupted, and what interrupts closes the fetcher, fetches,
raises, or ends the program. Afterwards the same call must give the right rows, and the fetcher must close, within the
seconds given. Prints the places, the hangs and the wrong results, and exits 1 where there is any.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import faulthandler
import functools
import gc
import itertools
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Threads of other libraries would not live through a fork.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from children import warm_up

import candle_fetcher
from candle_fetcher import CandleFetcher, CandleFetcherError
from candle_fetcher.practice import PracticeExchange

SIGNALS = ("TERM", "ALRM", "USR1", "INT")
CAUSES = (*SIGNALS, "finalizer", "gc")
ACTIONS = ("close", "fetch", "raise", "exit")
WORKS = ("refresh", "stored", "many", "funding", "iterator")
_ENDS_S = 5.0
DAY = ("BTC/USDT", "1h", "2024-03-05", "2024-03-06")
OTHER = ("ETH/USDT", "1h", "2024-03-05", "2024-03-06")


class TooLong(Exception):
    """What a timeout decorator raises out of its handler."""


class Place(NamedTuple):
    """Where and by what a call is interrupted: the n-th step, of the main thread's or of all."""

    work: str
    cause: str
    action: str
    of_main: bool
    step: int


def works(fetcher: CandleFetcher) -> dict[str, Callable[[], Any]]:
    """Calls that may be interrupted; each gives something that can be compared."""

    def said(frame: Any) -> Any:
        return [len(frame), float(frame.iloc[:, 0].sum())]

    return {
        "refresh": lambda: said(fetcher.fetch(*DAY, refresh=True, source="rest")),
        "stored": lambda: said(fetcher.fetch(*DAY, columns="all")),
        "many": lambda: [said(one) for one in fetcher.fetch_many([DAY[0], OTHER[0]], *DAY[1:], source="rest").values()],
        "funding": lambda: said(fetcher.fetch_funding("BTC/USDT", "2024-03-01", "2024-03-09", provider="binance-um")),
        "iterator": lambda: [said(one) for one in fetcher.iter_frames(*DAY, rows=20)],
    }


class Trial:
    """One call in this process, interrupted at a step."""

    def __init__(self, url: str, folder: str, place: Place) -> None:
        urls = dict.fromkeys(["binance", "binance-um", "binance-archive"], url)
        self.fetcher = CandleFetcher(base_urls=urls, cache_dir=folder, progress=False, max_retries=1)
        self.place = place
        self.steps = itertools.count(1)
        self.seen = 0
        self.nested: list[Any] = []
        self.has_closed = False
        self.is_under_way = False  # the call that is to be interrupted

    def act(self) -> None:
        """What a signal handler or a finalizer does; nothing where it comes after the call has returned."""
        if not self.is_under_way:
            return
        action = self.place.action
        if action == "raise":
            raise TooLong
        if action == "exit":
            sys.exit(3)
        if action == "close":
            self.has_closed = True
            self.fetcher.close()
            return
        try:
            self.nested.append(len(self.fetcher.fetch(*OTHER, source="rest")))
        except CandleFetcherError as error:
            self.nested.append(str(error))

    def step(self) -> None:
        self.seen = next(self.steps)
        if self.seen != self.place.step:
            return
        cause = self.place.cause
        if cause in SIGNALS:
            signal.pthread_kill(threading.main_thread().ident or 0, getattr(signal, f"SIG{cause}"))
        elif cause == "finalizer":
            _Doomed(self.act)
        else:
            gc.callbacks.append(self._collected)
            gc.collect(0)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
            self.act()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts steps while inside, and interrupts at the one that is due."""
        package = os.path.dirname(candle_fetcher.__file__)  # noqa: PTH120

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.startswith(package):
                return None
            frame.f_trace_opcodes = True
            if event in ("opcode", "call"):
                self.step()
            return trace

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                self.step()

        if self.place.of_main:
            sys.settrace(trace)
        else:
            threading.setprofile(profile)
            sys.setprofile(profile)
        self.is_under_way = True
        try:
            yield
        finally:
            self.is_under_way = False
            sys.settrace(None)
            sys.setprofile(None)
            threading.setprofile(None)

    def run(self, expected: Any) -> str:
        """What is wrong; "" where all is well."""
        for name in SIGNALS:
            signal.signal(getattr(signal, f"SIG{name}"), lambda *_: self.act())
        work = works(self.fetcher)[self.place.work]
        if self.place.work == "stored":
            work()
        try:
            with self.counted():
                came = work()
            if expected is not None and came != expected and not self.has_closed:
                return f"the interrupted call gave {came}"
        except (TooLong, CandleFetcherError):
            pass
        except SystemExit:
            atexit._run_exitfuncs()
            return ""
        if expected is None:
            return json.dumps([came, self.seen])
        if any(one != 24 and "finalizer" not in str(one) for one in self.nested) and not self.has_closed:
            return f"the nested call gave {self.nested}"
        if not self.has_closed:
            came = work()
            if came != expected:
                return f"the next call gave {came}"
        self.fetcher.close()
        ours = [one for one in threading.enumerate() if one.name.startswith("candle-")]
        for thread in ours:
            thread.join(_ENDS_S)  # another close may have begun, whose thread has nothing left to do
        left = [one.name for one in ours if one.is_alive()]
        return f"threads are left: {left}" if left else ""


class _Doomed:
    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


class Child:
    """A process that tries a place; `said` is what it found wrong, "hangs" and where, or "" where all was well."""

    def __init__(self, url: str, folder: str, place: Place, expected: Any, seconds: float) -> None:
        self.place, self.said = place, ""
        self._folder, self._dump = folder, Path(folder) / "dump"
        self.ends_s = time.monotonic() + seconds + 20
        Path(folder).mkdir(parents=True)
        self._dump.touch()
        self.pipe, write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            self._work(url, write, expected, seconds)
        os.close(write)

    def _work(self, url: str, write: int, expected: Any, seconds: float) -> None:
        try:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._dump.open("w"))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                said = Trial(url, f"{self._folder}/cache", self.place).run(expected)
            except BaseException as error:  # noqa: BLE001 - the parent prints it
                said = f"{type(error).__name__}: {error}"
            os.write(write, f"{said}.".encode())
        finally:
            os._exit(0)

    def has_ended(self) -> bool:
        """Reads what has come; whether that was all."""
        piece = os.read(self.pipe, 65536).decode()
        self.said += piece
        return not piece

    def end(self) -> str:
        """What it said."""
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        said = self.said or f"hangs {self._dump.read_text()[:6000]}."
        shutil.rmtree(self._folder, ignore_errors=True)
        return said[:-1]


def wait_for_one(children: list[Child]) -> Child:
    """Takes the next child that has ended, or hangs, out of the list."""
    while True:
        left_s = min(child.ends_s for child in children) - time.monotonic()
        ready = select.select([child.pipe for child in children], [], [], max(0.0, left_s))[0]
        for child in list(children):
            if (child.pipe in ready and child.has_ended()) or child.ends_s < time.monotonic():
                children.remove(child)
                return child


def start_exchange() -> tuple[int, str]:
    """The process of an exchange that all children ask, and its address."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with PracticeExchange(weight_limit=10**9, log=False) as exchange:
                os.write(write, exchange.url.encode())
                os.close(write)
                while True:
                    signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as pipe:  # noqa: PTH123 - it is a descriptor
        return pid, pipe.read()


def choose(
    pick: random.Random, cause: str | None, action: str | None, known: Callable[[str, bool], tuple[Any, int]]
) -> Place:
    """A place at random, of the cause and the action where they are given."""
    cause = cause or pick.choice(CAUSES)
    actions = ACTIONS if cause in SIGNALS else ACTIONS[:2]
    work, of_main = pick.choice(WORKS), pick.random() < 0.5
    step = pick.randrange(1, max(2, known(work, of_main)[1]))
    return Place(work, cause, action if action in actions else pick.choice(actions), of_main, step)


def run_places(
    places: int,
    seed: int,
    cause: str | None = None,
    action: str | None = None,
    *,
    seconds: float = 20.0,
    at_once: int = 4,
) -> tuple[Counter[str], list[str]]:
    """How many places ended in what, and the sentences about those that did not end well."""
    warm_up()
    pick = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    exchange, url = start_exchange()
    base = tempfile.mkdtemp(prefix="places-")  # which no child removes when it ends as a program does
    try:

        @functools.cache
        def known(work: str, of_main: bool) -> tuple[Any, int]:
            """What the undisturbed call gives, and how many steps it has."""
            quiet = Child(url, f"{base}/quiet", Place(work, "TERM", "close", of_main, 0), None, 60)
            came, steps = json.loads(wait_for_one([quiet]).end())
            return came, steps

        children: list[Child] = []
        started = 0
        while started < places or children:
            if started < places and len(children) < at_once:
                place = choose(pick, cause, action, known)
                children.append(Child(url, f"{base}/{started}", place, known(place.work, place.of_main)[0], seconds))
                started += 1
                continue
            child = wait_for_one(children)
            said = child.end()
            counts["fine" if not said else "hangs" if said.startswith("hangs") else "wrong"] += 1
            if said:
                faults.append(f"{child.place}: {said}")
    finally:
        shutil.rmtree(base, ignore_errors=True)
        os.kill(exchange, signal.SIGKILL)
        os.waitpid(exchange, 0)
    return counts, faults


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--places", type=int, default=10_000)
    reader.add_argument("--seed", type=int, default=1)
    reader.add_argument("--signal", choices=CAUSES)
    reader.add_argument("--action", choices=ACTIONS)
    reader.add_argument("--seconds", type=float, default=20.0, help="after which a child hangs")
    given = reader.parse_args()
    began = time.monotonic()
    counts, faults = run_places(given.places, given.seed, given.signal, given.action, seconds=given.seconds)
    for fault in faults[:20]:
        print(fault)
    print(
        f"{given.places:,} places, {counts['hangs']} hangs, {counts['wrong']} wrong results; "
        f"Python {sys.version.split()[0]}, seed {given.seed}, {time.monotonic() - began:,.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
