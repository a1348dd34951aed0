"""What a change costs where everything is stored: this tree against an earlier commit, by turns, in one run.

    python tests/benchmarks/before.py COMMIT [--pairs 9]

Every client runs in a process of its own, against a cache of its own that it filled itself, on the same exchange.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path

from run import ROOT, YEAR, exchange, machine, ms, run, turns

FIGURES = {
    "wall_s": "a year of 1m, all columns, from disk, in a new process",
    "again_s": "the same fetch again",
    "joined_s": "a month of 1m, joined from memory",
    "plan_s": "its plan, in a new process",
}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("commit")
    reader.add_argument("--pairs", type=int, default=9)
    given = reader.parse_args()
    with tempfile.TemporaryDirectory(prefix="candle-before-") as work, exchange(0) as url:
        trees = {"now": ROOT, "before": Path(work) / "before"}
        unpack(given.commit, trees["before"])
        for name, root in trees.items():
            run("fill", root=root, url=url, folder=f"{work}/cache-{name}", **YEAR)

        def client(name: str) -> dict[str, float]:
            where = {"root": trees[name], "url": url, "folder": f"{work}/cache-{name}", **YEAR}
            return run("warm", **where) | {"plan_s": run("plan", **where)["wall_s"]}

        found = turns(max(5, given.pairs), {name: partial(client, name) for name in trees})
    print(f"python tests/benchmarks/before.py {given.commit} --pairs {given.pairs} | {machine()}\n")
    print(f"{'':<56}{'now':>10}{'before':>10}  now / before: median, least, most")
    for key, what in FIGURES.items():
        now, before = ([one[key] for one in found[name]] for name in trees)
        ratios = [a / b for a, b in zip(now, before, strict=True)]
        middles = statistics.median(now), statistics.median(before)
        print(
            f"{what:<56}{ms(middles[0]):>10}{ms(middles[1]):>10}"
            f"{statistics.median(ratios):>22.3f}{min(ratios):>7.3f}{max(ratios):>7.3f}"
        )


def unpack(commit: str, folder: Path) -> None:
    """The package as it was."""
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "candle_fetcher"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tree:
        for member in tree.getmembers():
            tree.extract(member, folder)


if __name__ == "__main__":
    main()
