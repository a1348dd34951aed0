"""What a change costs: the rows of run.py that are ours, this tree against an earlier commit, by turns, in one run.

    python tests/benchmarks/before.py COMMIT [--pairs 7] [--only WORD]

Every client runs in a process of its own, against a cache of its own that it filled itself, on the same exchange.
`--only` measures the rows whose text holds the word.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from clients import IDS, month_key, months
from run import (
    EIGHT_YEARS,
    FIVE_YEARS,
    LISTING,
    QUARTER,
    ROOT,
    TWO_YEARS,
    YEAR,
    environment,
    exchange,
    machine,
    ms,
    run,
    turns,
)

Figures = dict[str, Any]


class Measure(NamedTuple):
    """A client, and what of its figures is shown; `client(tree)` measures one tree."""

    client: Callable[[str], Figures]
    figures: dict[str, tuple[str, str]]  # name of the figure: what it is, unit


def measures(trees: dict[str, Path], urls: dict[str, str], folder: str) -> Iterator[Measure]:
    """Every row of run.py that measures ours."""

    def of(name: str, url: str, **options: Any) -> Callable[[str], Figures]:
        return lambda tree: run(name, root=trees[tree], url=urls[url], **options)

    def stored(name: str, **options: Any) -> Callable[[str], Figures]:
        return lambda tree: run(name, root=trees[tree], url=urls["quick"], folder=f"{folder}/{tree}", **options)

    yield Measure(of("fetch_cold", "quick", **QUARTER), {"cpu_s": ("1 90 days of 1m, cold, CPU", "s")})
    yield Measure(of("fetch_cold", "slow", **QUARTER), {"wall_s": ("2 the same, 50 ms a reply, wall", "s")})
    yield Measure(
        stored("warm", **YEAR),
        {
            "wall_s": ("3 a year of 1m, all columns, from disk, in a new process", "s"),
            "again_s": ("4 the same fetch again", "s"),
            "joined_s": ("4 a month of 1m, joined from memory", "s"),
        },
    )
    yield Measure(
        stored("export", **FIVE_YEARS),
        {
            "growth_bytes": ("5 export of 5 years of 1m, growth of peak RSS", "MB"),
            "wall_s": ("5 the same, wall", "s"),
        },
    )

    def written(tree: str) -> Figures:
        found = stored("write_csv", pairs=1, **YEAR)(tree)
        return {"ours_s": found["ours_s"][0]}

    yield Measure(written, {"ours_s": ("6 a year of 1m to CSV", "s")})
    both = {"wall_s": ("in a new process", "s"), "again_s": ("again", "s")}

    def named(what: str) -> dict[str, tuple[str, str]]:
        return {key: (f"{what}, {how}", unit) for key, (how, unit) in both.items()}

    yield Measure(stored("plan", **EIGHT_YEARS), named("7 plan of 8 years of 1m, full cache"))
    yield Measure(of("plan", "quick", folder=f"{folder}/empty", **EIGHT_YEARS), named("7 the same, nothing stored"))
    yield Measure(partial(imported, trees), {"wall_s": ("8 import candle_fetcher", "s")})
    yield Measure(
        of("archive_cold", "archive", **TWO_YEARS),
        {
            "wall_s": ("10 two years of 1m from the archive, cold, wall", "s"),
            "growth_bytes": ("11 the same, growth of peak RSS", "MB"),
        },
    )
    yield Measure(
        of("archive_export", "archive", **LISTING),
        {
            "wall_s": ("12 export of a listing of 1m from the archive, cold, wall", "s"),
            "growth_bytes": ("12 the same, growth of peak RSS", "MB"),
        },
    )
    yield Measure(
        of("plan", "archive", folder=f"{folder}/unused", archive=True, **EIGHT_YEARS),
        named("13 plan of 8 years of 1m with the archive"),
    )


def imported(trees: dict[str, Path], tree: str) -> Figures:
    """The import statement alone; clients.py itself would have loaded half of the standard library."""
    text = "import time; t = time.perf_counter(); import candle_fetcher; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=environment(trees[tree]), check=True
    )
    return {"wall_s": float(done.stdout)}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("commit")
    reader.add_argument("--pairs", type=int, default=7)
    reader.add_argument("--only", default="")
    given = reader.parse_args()
    keys = [month_key(month) for month in months(**LISTING)]
    keys.append(f"data/spot/daily/klines/{IDS}/1m/{IDS}-1m-{TWO_YEARS['end']}.zip")
    with (
        tempfile.TemporaryDirectory(prefix="candle-before-") as work,
        exchange(0) as quick,
        exchange(0.05) as slow,
        exchange(0, keys) as archive,
    ):
        os.environ["PYTHONPYCACHEPREFIX"] = f"{work}/bytecode"
        trees = {"now": ROOT, "before": Path(work) / "before"}
        unpack(given.commit, trees["before"])
        for name, root in trees.items():
            run("fill", root=root, url=quick, folder=f"{work}/cache/{name}", **EIGHT_YEARS)
        urls = {"quick": quick, "slow": slow, "archive": archive}
        print(f"python tests/benchmarks/before.py {given.commit} --pairs {given.pairs} | {machine()}\n")
        print(f"{'':<60}{'now':>10}{'before':>10}  now / before: median, least, most")
        for measure in measures(trees, urls, f"{work}/cache"):
            if any(given.only in what for what, _ in measure.figures.values()):
                found = turns(max(5, given.pairs), {name: partial(measure.client, name) for name in trees})
                show(measure, found)


def show(measure: Measure, found: dict[str, list[Figures]]) -> None:
    """A line for each figure: the medians of both trees, and the ratios of the turns."""
    for key, (what, unit) in measure.figures.items():
        now, before = ([one[key] for one in figures] for figures in found.values())
        ratios = [a / b for a, b in zip(now, before, strict=True)]
        shown = [
            ms(value) if unit == "s" else f"{value / 1e6:.1f} MB" for value in map(statistics.median, (now, before))
        ]
        print(
            f"{what:<60}{shown[0]:>10}{shown[1]:>10}"
            f"{statistics.median(ratios):>22.3f}{min(ratios):>7.3f}{max(ratios):>7.3f}",
            flush=True,
        )


def unpack(commit: str, folder: Path) -> None:
    """The package as it was."""
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "candle_fetcher"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tree:
        tree.extractall(folder, filter="data")


if __name__ == "__main__":
    main()
