"""A plan beside the log of the exchange that the same fetch was sent to: four years of candles up to now.

    python tests/benchmarks/plan_log.py [TIMEFRAME]

prints both for 1m unless another timeframe is given: with nothing stored, with the first half stored, and where even
the listing is unknown. Exits 1 where anything was sent that the plan does not count, or planned that was not sent.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests), str(tests.parent)]

from world import World, ms

from candle_fetcher import CandleFetcher, FetchPlan
from candle_fetcher.core.plan import chunk_span, chunks_of
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice.exchange import ServedRequest

NOW = "2024-06-15T12:00:30"
START, MIDDLE, END = "2020-06-15", "2022-06-15", "2024-06-15T12:00"
SYMBOL = "BTC/USDT"
# What a note counts apart, by how it reads, and how many requests that may be; holes are counted one by one.
CLOCK, LIMITS, LISTING, HOLES = "clock", "request limits", "listing", "hole"
MOST = {CLOCK: 1, LIMITS: 1, LISTING: 2}


class Run(NamedTuple):
    """A fetch, planned and logged. `holes` has the spans that had to be asked for again, cut where chunks end."""

    name: str
    plan: FetchPlan
    log: list[ServedRequest]
    holes: list[Span]
    rows: int
    seconds: float

    def counted(self) -> list[tuple[str, int, int]]:
        """What the plan counts, planned and sent."""
        plan, calls = self.plan, self._calls()
        files = [request.path for request in self.log if request.market == "archive"]
        requests = {step.source: step.requests for step in plan.steps}
        return [
            ("files", plan.files, len({path for path in files if path.endswith(".zip")})),
            ("requests to the archive", requests.get("archive", 0), len(files)),
            ("requests to REST", requests.get("rest", 0), len(calls) - self._more()),
            ("requests in all", plan.requests, len(files) + len(calls) - self._more()),
            ("weight", plan.weight, sum(request.weight for request in calls) - self._more() * calls[0].weight),
        ]

    def apart(self) -> list[tuple[str, int, int]]:
        """What the notes count apart: how many requests it may be, and how many were sent."""
        most = {what: count * self._is_noted(what) for what, count in MOST.items()}
        paths = Counter(request.path.rpartition("/")[2] for request in self.log if request.market != "archive")
        return [
            ("the provider's clock", most[CLOCK], paths["time"]),
            ("its request limits", most[LIMITS], paths["exchangeInfo"]),
            ("the listing", most[LISTING], self._more()),
            ("holes asked for again", len(self.holes) * self._is_noted(HOLES), len(self._looks())),
            ("anything else", 0, sum(paths.values()) - sum(paths[name] for name in ("time", "exchangeInfo", "klines"))),
        ]

    def is_exact(self) -> bool:
        """Whether what was planned was sent, and nothing else but what the notes count apart."""
        holes = self.apart()[3]
        return (
            all(planned == sent for _, planned, sent in [*self.counted(), holes])
            and all(sent <= most for _, most, sent in self.apart())
            and len({request.path for request in self.log if request.market == "archive"}) == self.counted()[1][2]
        )

    def rest_spans(self) -> list[Span]:
        """What REST was asked for, holes apart."""
        return sorted(_span(request) for request in self._calls())

    def _is_noted(self, what: str) -> bool:
        return any(what in note for note in self.plan.notes)

    def _looks(self) -> list[ServedRequest]:
        return [request for request in self._klines() if any(hole.holds(_span(request)) for hole in self.holes)]

    def _calls(self) -> list[ServedRequest]:
        looks = self._looks()
        return [request for request in self._klines() if request not in looks]

    def _klines(self) -> list[ServedRequest]:
        return [request for request in self.log if request.path.endswith("/klines")]

    def _more(self) -> int:
        """Calls beyond those planned: for an unknown listing, the chunks at the ends of the range are asked of REST."""
        planned = sum(step.requests for step in self.plan.steps if step.source == "rest")
        wanted = self.plan.span
        ends = [one for one in self.rest_spans() if one.start_ms <= wanted.start_ms or one.end_ms >= wanted.end_ms]
        return min(max(len(self._calls()) - planned, 0), len(ends), MOST[LISTING] * self._is_noted(LISTING))

    def __str__(self) -> str:
        lines = [f"== {self.name}", str(self.plan), "", f"{'':26}{'planned':>9}{'sent':>9}"]
        lines += [_line(what, planned, sent, planned == sent) for what, planned, sent in self.counted()]
        lines.append(f"{'counted apart':26}{'at most':>9}{'sent':>9}")
        lines += [_line(what, most, sent, sent <= most) for what, most, sent in self.apart()]
        first = self.rest_spans()[0].start_ms if self.rest_spans() else 0
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(first / 1000))
        lines.append(f"{self.rows:,} candles in {self.seconds:.1f} s; REST was first asked for {when}")
        return "\n".join([*lines, "exact" if self.is_exact() else "NOT WHAT WAS PLANNED", ""])


def _line(what: str, planned: int, sent: int, ok: bool) -> str:
    return f"  {what:<24}{planned:>9,}{sent:>9,}{'' if ok else '   <-'}"


def _span(request: ServedRequest) -> Span:
    return Span(int(request.params["startTime"]), int(request.params["endTime"]) + 1)


def holes_of(fetcher: CandleFetcher, timeframe: str, start: str, end: str) -> set[Span]:
    """The holes that are stored in the range, cut where chunks end."""
    grid = parse_timeframe(timeframe)
    gaps = fetcher.gaps(SYMBOL, timeframe, start, end, source="cache")
    spans = [
        Span(ms(f"{first:%Y-%m-%dT%H:%M:%S}"), ms(f"{last:%Y-%m-%dT%H:%M:%S}") + grid.nominal_ms)
        for first, last in zip(gaps["first"], gaps["last"], strict=True)
    ]
    return {chunk_span(grid, chunk).clip(span) for span in spans for chunk in chunks_of(grid, span)}


def fetch_as_planned(
    world: World, fetcher: CandleFetcher, name: str, timeframe: str, start: str, end: str, stored_until: str = ""
) -> Run:
    """Plans, fetches the same, and reads the exchange's log."""
    before = holes_of(fetcher, timeframe, start, stored_until) if stored_until else set()
    plan = fetcher.plan(SYMBOL, timeframe, start, end)
    world.exchange.clear_log()
    began = time.perf_counter()
    frame = fetcher.fetch(SYMBOL, timeframe, start, end)
    seconds = time.perf_counter() - began
    log = world.exchange.requests
    holes = sorted(holes_of(fetcher, timeframe, start, end) - before)
    return Run(name, plan, log, holes, len(frame), seconds)


def runs(timeframe: str, folder: Path, start: str = START, middle: str = MIDDLE) -> list[Run]:
    """The three fetches, each with what it needs to know fetched before."""
    with World(folder, now=NOW, weight_limit=10**9) as world:
        cold = world.fetcher(cache_dir=folder / "cold")
        cold.fetch(SYMBOL, timeframe, "2017-08-01", limit=1)  # since when it is listed, and the limits
        done = [fetch_as_planned(world, cold, f"{timeframe} since {start}, nothing stored", timeframe, start, END)]
        half = world.fetcher(cache_dir=folder / "half")
        half.fetch(SYMBOL, timeframe, "2017-08-01", limit=1)
        half.fetch(SYMBOL, timeframe, start, middle)
        done.append(fetch_as_planned(world, half, "the same, the first half stored", timeframe, start, END, middle))
        new = world.fetcher(cache_dir=folder / "new")
        name = f"since {middle}, by a fetcher that knows nothing"
        done.append(fetch_as_planned(world, new, name, timeframe, middle, END))
    return done


def main(words: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = runs(words[0] if words else "1m", Path(folder))
    for run in found:
        print(run)
    return 0 if all(run.is_exact() for run in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
