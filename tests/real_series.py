"""Every series of real candles beside the repository, served over loopback and fetched by each way there is.

    python tests/real_series.py [FOLDER] [PART OF A NAME ...]

prints a table: what is in each file, and whether REST, the archive and "auto", each with a cache of its own, brought it
row for row. Files of one series that follow on each other are fetched in one call. FOLDER holds an INDEX.md that names
the files with their rows and gaps; it is `../shared/market_data` unless given. Exits 1 where a way brought anything
else, 2 where there is nothing to fetch.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import gc
import io
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, not an installed package

from world import World, index_of, ms

from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.practice import damage
from candle_fetcher.practice.damage import pack

FOLDER = ROOT.parent / "shared" / "market_data"
SOURCES = ("rest", "archive", "auto")
PROVIDERS = {"Binance spot": "binance", "Binance um": "binance-um", "Binance cm": "binance-cm"}
FIELDS = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
          "taker_buy_volume", "taker_buy_quote_volume")  # fmt: skip
COIN_NAMES = {"quote_volume": "base_volume", "taker_buy_quote_volume": "taker_buy_base_volume"}
# What a file does not tell: any values will do, they are served and not compared.
INVENTED = ["1.5", 3, "0.5", "0.75"]

Row = list[Any]
Gap = tuple[str, str, int]


class Listed(NamedTuple):
    """A line of INDEX.md: a file, and what it says is in it. Times as ISO text, as manifests write them."""

    name: str
    provider: str
    symbol: str
    timeframe: str
    kind: str
    rows: int
    first: str
    last: str
    gaps: tuple[Gap, ...]

    @property
    def key(self) -> str | None:
        """The key in the archive's bucket where the file came from there, its bytes unchanged."""
        folder, _, rest = self.name.partition("/")
        return f"data/{Path(rest).with_suffix('.zip').as_posix()}" if folder in ("vision", "vision_csv") else None


class Proof(NamedTuple):
    """What came of a file. `said` has for each way "" or what was wrong; `by_file` counts the rows of the whole fetch
    that "auto" took out of the archive."""

    listed: Listed
    said: dict[str, str]
    by_file: int

    @property
    def ok(self) -> bool:
        return not any(self.said.values())


def find_series(folder: Path) -> list[Listed]:
    """The series of candles that INDEX.md lists and a provider of ours could have sent, in its order."""
    found = []
    for line in (folder / "INDEX.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 8 or not cells[4].isdigit():
            continue
        name, venue, symbol, timeframe, rows, first, last, gaps = cells[:8]
        name = name.strip("`")
        provider = next((mine for theirs, mine in PROVIDERS.items() if venue.startswith(theirs)), None)
        if provider is None or "funding" in venue or "vision_meta" in name:
            continue
        kind = "mark" if "mark" in venue else "candles"
        found.append(
            Listed(name, provider, symbol.replace("/", ""), timeframe, kind, int(rows), iso(first), iso(last),
                   tuple(read_gaps(gaps)))
        )  # fmt: skip
    return found


def iso(text: str) -> str:
    return f"{text.replace(' ', 'T')}:00Z"


def read_gaps(text: str) -> Iterator[Gap]:
    """The gaps of "2 gaps, 3 candles: 2019-11-13 02:00 to 2019-11-13 03:00 (2); 2019-11-25 02:00 (1)"."""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    found = re.findall(rf"({time})(?: to ({time}))? \((\d+)\)", text)
    counted = re.match(r"(\d+) gaps", text)
    if len(found) != (int(counted[1]) if counted else 0):
        raise ValueError(f"not all gaps are told: {text[:80]}")
    for first, last, count in found:
        yield iso(first), iso(last or first), int(count)


# -- files ------------------------------------------------------------------------------------------------------------


def why_unread(listed: Listed) -> str:
    """Why this Python cannot read the file; empty where it can."""
    if Path(listed.name).suffix in (".parquet", ".feather"):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            return "needs pyarrow"
    return ""


def read_rows(folder: Path, listed: Listed) -> tuple[list[Row], int]:
    """The rows as REST sends them, each with twelve fields, and how many of them the file has."""
    path = folder / listed.name
    if path.suffix == ".json":
        rows = json.loads(path.read_text(), parse_float=str)
    elif path.suffix in (".parquet", ".feather"):
        rows = read_table(path)
    else:
        lines = csv.reader(io.StringIO(read_text(path)))
        rows = [row[:12] for row in lines if row and row[0].isdigit()]
        if not listed.key:
            rows = [row[:6] for row in rows]  # what follows the volume is not a provider's
    known = min(len(rows[0]), len(FIELDS))
    unit = 1000 if len(str(rows[0][0])) == 16 else 1
    step_ms = parse_timeframe(listed.timeframe).nominal_ms
    whole = []
    for row in rows:
        open_ms = int(row[0]) // unit
        close_ms = int(row[6]) // unit if known > 6 else open_ms + step_ms - 1
        more = [str(row[7]), int(row[8]), str(row[9]), str(row[10])] if known > 6 else INVENTED
        whole.append([open_ms, *map(str, row[1:6]), close_ms, *more, "0"])
    return whole, known


def read_text(path: Path) -> str:
    if path.suffix != ".zip":
        return path.read_text()
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        return archive.read(name).decode()


def read_table(path: Path) -> list[Row]:
    """The rows of a Parquet or Feather file: floats as the shortest text that reads back, times as ms."""
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_feather(path)
    frame = frame.drop(columns=[name for name in frame if name.startswith("_")])
    columns: list[list[Any]] = []
    for name in frame:
        column = frame[name]
        if column.dtype.kind == "M":
            columns.append(index_of(column).tolist())
        elif column.dtype.kind == "f":
            columns.append([np.format_float_positional(value, trim="-") for value in column])
        else:
            columns.append(column.tolist())
    return [list(row) for row in zip(*columns, strict=True)]


def zip_of(folder: Path, listed: Listed) -> tuple[bytes, str | None]:
    """The bytes that lie in the archive under the key of the file, and its CHECKSUM where one lies there."""
    path = folder / listed.name
    if path.suffix == ".csv":
        return pack(path.name, [path.read_bytes()]), None
    sidecar = path.with_name(f"{path.name}.CHECKSUM")
    return path.read_bytes(), sidecar.read_text() if sidecar.exists() else None


# -- served and fetched -----------------------------------------------------------------------------------------------


def runs_of(series: Sequence[Listed]) -> list[list[Listed]]:
    """The files by series, cut where one does not follow on the file before it."""
    runs: list[list[Listed]] = []
    for listed in sorted(series, key=lambda one: (one.name.split("/")[0], *one[1:5], one.first)):
        before = runs[-1][-1] if runs else None
        if before and before[1:5] == listed[1:5] and follows(before, listed):
            runs[-1].append(listed)
        else:
            runs.append([listed])
    return runs


def follows(one: Listed, other: Listed) -> bool:
    grid = parse_timeframe(one.timeframe)
    places = [listed.name.split("/")[0] for listed in (one, other)]
    return places[0] == places[1] and grid.ordinal(ms(one.last[:-1])) + 1 == grid.ordinal(ms(other.first[:-1]))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Spares walks over a million small lists, which hold no cycles; they are a third of the time else."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@uncollected()
def prove(folder: Path, run: Sequence[Listed], scratch: Path) -> list[Proof]:
    """What each way brings of files that follow on each other, where the provider has their rows and no others."""
    listed = run[0]
    parts = [read_rows(folder, one) for one in run]
    truths = [columns_of(part, known) for part, known in parts]
    rows = [row for part, _ in parts for row in part]
    said: dict[str, list[str]] = {}
    prints, by_file = set(), 0
    with World(scratch, now=later(run[-1]), weight_limit=10**9) as world:
        world.exchange.load(listed.provider, listed.symbol, listed.timeframe, rows, kind=listed.kind)
        for one in run:
            lay_into_archive(world, folder, one)
        for source in SOURCES:
            world.exchange.clear_log()
            fetcher = world.fetcher(cache_dir=scratch / source, provider=listed.provider, source=source)
            wanted = (listed.symbol, listed.timeframe, rows[0][0], rows[-1][0] + 1)
            frame = fetcher.fetch(*wanted, kind=listed.kind, columns="all")
            manifest = frame.attrs["candle_fetcher"]
            gaps = fetcher.gaps(*wanted, kind=listed.kind, source="cache").to_dict("records")
            wrong = wrong_at_all(manifest, gaps, source)
            came = {name for name, count in manifest["sources"].items() if count}
            if not wrong and source != "auto" and came != {source}:
                wrong = f"came by {', '.join(sorted(came))}"
            asked = {request.path.lstrip("/") for request in world.exchange.requests}
            said[source] = []
            opens = index_ms(frame)
            for one, truth in zip(run, truths, strict=True):
                mine = frame[(opens >= truth["open_time"][0]) & (opens <= truth["open_time"][-1])]
                inside = [gap for gap in gaps if one.first < minute(gap["first"]) < one.last]
                found = wrong or find_difference(one, truth, mine, inside)
                if source == "archive" and one.key and one.key not in asked:
                    found = found or "its file was not asked for"
                said[source].append(found)
            prints.add(manifest["fingerprint"])
            by_file = manifest["sources"]["archive"]
            if len(frame) != len(rows):
                said[source][0] = said[source][0] or f"{len(frame)} rows of {len(rows)}"
    if len(prints) != 1:
        said["auto"][0] = said["auto"][0] or "the fingerprints differ"
    return [Proof(one, {source: said[source][at] for source in SOURCES}, by_file) for at, one in enumerate(run)]


def lay_into_archive(world: World, folder: Path, listed: Listed) -> None:
    """The very file that the archive had, in its place; what else its files should be is made of the rows."""
    if not listed.key:
        return
    data, checksum = zip_of(folder, listed)
    world.exchange.archive.load(listed.key, data, checksum)
    if "/daily/" in listed.key:  # the month would be taken in its place
        world.exchange.archive.spoil(f"{Path(listed.key).stem[:-3]}.zip", damage.missing())


def wrong_at_all(manifest: dict[str, Any], gaps: Sequence[dict[str, Any]], source: str) -> str:
    """What is wrong with the fetch, whichever file it is about."""
    told = [(gap["first"], gap["last"], gap["count"]) for gap in manifest["gaps"]]
    if manifest["gap_count"] != len(gaps) or told != [
        (minute(gap["first"]), minute(gap["last"]), gap["count"]) for gap in gaps[: len(told)]
    ]:
        return "the gaps of the manifest are not those of gaps()"
    if any(gap["cause"] != "no_candle" for gap in gaps):
        return "a gap of another cause than no_candle"
    if manifest["unverified"] or "rejected" in manifest:
        return "a file did not fit its checksum"
    return ""


def later(listed: Listed) -> str:
    """A time at which the last candle is final and its month published."""
    return (dt.datetime.fromisoformat(listed.last.removesuffix("Z")) + dt.timedelta(days=100)).isoformat()


def columns_of(rows: Sequence[Row], known: int) -> dict[str, Any]:
    """What the rows say, by field: float64 of the text, times as int64."""
    fields = zip(FIELDS, list(zip(*rows, strict=True))[:known], strict=False)
    return {
        field: np.array(values, np.int64) if field.endswith("time") else np.array([*map(float, values)])
        for field, values in fields
    }


def find_difference(listed: Listed, truth: dict[str, Any], frame: pd.DataFrame, gaps: Sequence[dict[str, Any]]) -> str:
    """The first thing in which the frame, or its gaps, are not those of the file; empty where there is none."""
    opens = truth["open_time"]
    first, last = (minute(int(opens[at]), unit="ms") for at in (0, -1))
    if (len(opens), first, last) != (listed.rows, listed.first, listed.last):
        return "the file is not the one of INDEX.md"
    if not np.array_equal(index_ms(frame), opens):
        return f"{len(frame)} rows, or other open times"
    for field, expected in list(truth.items())[1:]:
        name = COIN_NAMES.get(field, field) if listed.provider == "binance-cm" else field
        ours = index_of(frame[name]) if field == "close_time" else frame[name].to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(ours != expected)
        if wrong.size:
            row = int(wrong[0])
            return f"{name} of row {row}: {ours[row]} is not {expected[row]}; {wrong.size} such rows"
    told = [(minute(gap["first"]), minute(gap["last"]), int(gap["count"])) for gap in gaps]
    if told != list(listed.gaps):
        return f"gaps {told[:3]} are not {list(listed.gaps)[:3]}"
    return ""


def minute(moment: Any, unit: str | None = None) -> str:
    """An instant as the index writes it, to the minute."""
    return pd.Timestamp(moment, unit=unit).strftime("%Y-%m-%dT%H:%M:00Z")


# -- the table ---------------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    folder = Path(words[0]) if words and Path(words[0]).is_dir() else FOLDER
    parts = words[1:] if words and Path(words[0]).is_dir() else words
    if not (folder / "INDEX.md").is_file():
        print(f"no INDEX.md in {folder}", file=sys.stderr)
        return 2
    series = [one for one in find_series(folder) if not parts or any(part in one.name for part in parts)]
    width = max((len(one.name) for one in series), default=0)
    print(
        f"{'series':<{width}}  {'market':<11} {'rows':>6} {'gaps':>4} {'missing':>7}  {'rest':<5} {'archive':<7} auto"
    )
    proofs: list[Proof] = []
    unread = [one for one in series if why_unread(one)]
    for run in runs_of([one for one in series if one not in unread]):
        with tempfile.TemporaryDirectory() as scratch:
            found = prove(folder, run, Path(scratch))
        for proof in found:
            rest, archive, auto = ("ok" if not proof.said[source] else "WRONG" for source in SOURCES)
            print(f"{head(proof.listed, width)}  {rest:<5} {archive:<7} {auto}")
            for source, said in proof.said.items():
                if said:
                    print(f"    {source}: {said}")
        total = sum(one.rows for one in run)
        print(f"    fetched in one call; auto took {found[0].by_file:,} of {total:,} rows out of files")
        proofs += found
    for one in unread:
        print(f"{head(one, width)}  not read: {why_unread(one)}")
    right = sum(proof.ok for proof in proofs)
    rows = sum(proof.listed.rows for proof in proofs)
    gaps = sum(len(proof.listed.gaps) for proof in proofs)
    print(f"{right} of {len(proofs)} files, {rows:,} rows and {gaps} gaps, came by every way as they lie there")
    if unread:
        print(f"{len(unread)} files were not read")
    return 0 if proofs and right == len(proofs) else 1 if proofs else 2


def head(listed: Listed, width: int) -> str:
    missing = sum(count for _, _, count in listed.gaps)
    return f"{listed.name:<{width}}  {listed.provider:<11} {listed.rows:>6} {len(listed.gaps):>4} {missing:>7}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
