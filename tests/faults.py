"""What can go wrong, and which tests make it go wrong: runs those tests and prints a table, one line for each fault.

    python tests/faults.py [ROW ...] [--long] [--tests]

ROW is a fault or a letter: `C06`, `A`. `--long` runs the tests marked `slow` and `long` too: those that are slow by
nature, and those that inject a fault as often as one could wish, from fixed seeds; FAULT_RUNS=0.2 in the environment
makes it a fifth of that, FAULT_RUNS=10 ten times as often. `--tests` names the tests below each line.

A test is marked with the faults that it injects, `@pytest.mark.fault("C06", "C07")`; a mark says that what must be true
under the fault is asserted, not that it is injected as often as one could wish. A run is a case, or what a test counts
by `record_property("runs", n)`. Exits 1 where a test failed, 2 for a row that is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parent
LETTERS = {
    "A": "replies and connections",
    "B": "time",
    "C": "holes, files, merges",
    "D": "the cache",
    "E": "threads, processes, interruption",
    "F": "files that are written",
    "G": "secrets, service, live quotes",
    "H": "values, finality, and what a file says it is",
    "I": "interruption by anything, and the end of a program",
    "J": "ordinary calls",
    "K": "many writers, odd clocks, odd replies",
}

ROWS = {
    "A01": "body shorter than its Content-Length",
    "A02": "body cut where nothing gives its length",
    "A03": "gzip stream cut under a right Content-Length",
    "A04": "gzip that is none, has a wrong CRC, a second member or a second packing",
    "A05": "chunked body cut in a chunk or between two",
    "A06": "HTML page with status 200",
    "A07": "error of a provider in a reply with status 200",
    "A08": "JSON of another shape: missing, added, null or wrongly typed fields",
    "A09": "numbers that cannot be: NaN, 1_000, negative volume, high below low",
    "A10": "body of another request",
    "A11": "pages shorter than asked for, caps below the documented one",
    "A12": "page repeated, unsorted, or with duplicates",
    "A13": "empty reply: before the listing, after the delisting, in a hole, in the future",
    "A14": "body too large, or without end",
    "A15": "body byte by byte",
    "A16": "headers never, or byte by byte",
    "A17": "connection closed or reset before the reply",
    "A18": "JSON nested beyond reason, integers of thousands of digits",
    "A19": "server errors for a while, or for good",
    "A20": "429 with Retry-After",
    "A21": "418, a ban",
    "A22": "Retry-After that is text, negative, in the past, or a day",
    "A23": "403 of the firewall, 451 of the region",
    "A24": "401, key wrong or missing",
    "A25": "redirect to another host or scheme",
    "A26": "TLS certificate expired, self-signed, of another name",
    "A27": "no DNS, no route, proxy refuses",
    "A28": "proxy in the environment, a netrc for the host",
    "A29": "file of the archive absent, against an archive out of reach",
    "B01": "times in s, ms, us or ns, or mixed in one file",
    "B02": "newest candle not closed yet",
    "B03": "this machine's clock wrong by minutes or a day",
    "B04": "clock steps during a run",
    "B05": "machine sleeps for hours",
    "B06": "an instant written as date, text, number, with or without a zone",
    "B07": "local days of 23 or 25 hours",
    "B08": "borders of chunks and of ranges",
    "B09": "candles off the grid, short candles",
    "B10": "weeks from Monday, or from the epoch's Thursday",
    "B11": "months of 28 to 31 days; 1M is not 1m",
    "B12": "provider stamps the close, or the last update",
    "B13": "ranges that are empty, reversed, in the future, at the ends of time",
    "B14": "29 February, New Year, the switch from ms to us",
    "B15": "candle corrected shortly after its close",
    "B16": "days that open at a local midnight",
    "C01": "a hole that the provider itself has",
    "C02": "a hole that a failure of ours made",
    "C03": "the same hole asked for a hundred times",
    "C04": "archive and REST disagree on a candle",
    "C05": "file of the archive revised later, or while it is fetched",
    "C06": "CHECKSUM that never fits",
    "C07": "CHECKSUM absent, empty, of another file, written otherwise",
    "C08": "zip cut, changed, encrypted, with another or a second member, too large",
    "C09": "CSV with header, us, BOM, CRLF, blank lines, eleven columns",
    "C10": "rows of another day in a file, rows missing",
    "C11": "one of forty chunks fails for good",
    "C12": "the note on a frame is lost on the way",
    "C13": "coarse candles made of a set with holes",
    "C14": "symbol renamed, listed again, delisted; contract rolled over",
    "C15": "adjusted history changes: settings are part of what a series is",
    "D01": "stored value cut, or empty",
    "D02": "one stored bit flipped",
    "D03": "row of the cache without its file",
    "D04": "row of the cache that would be unpickled",
    "D05": "row of the cache that names a file elsewhere",
    "D06": "entry of another version, or of another key",
    "D07": "database damaged",
    "D08": "database empty or gone",
    "D09": "killed while writing",
    "D10": "write-ahead log lost its tail",
    "D11": "disk full while writing",
    "D12": "disk full when opening",
    "D13": "folder cannot be made or written",
    "D14": "folder removed under a running program",
    "D15": "another process holds the lock",
    "D16": "processes and threads read and write one folder",
    "D17": "processes open a new folder at once",
    "D18": "cache passes its bound",
    "D19": "database of another program, or with other settings",
    "D20": "fork beside busy threads",
    "D21": "folder on a network or synced disk",
    "D22": "many ask for one missing chunk at once",
    "D23": "holder of a lock dies",
    "D24": "a wrong reply must not become permanent",
    "D25": "an absence believed too long",
    "D26": "threads race on the memory tier",
    "D27": "caller edits what was returned",
    "D28": "memory tier passes its bound",
    "D29": "temporary and orphaned files pile up",
    "D30": "entries of a newer or older library",
    "D31": "other users of the machine",
    "D32": "SQLite with the write-ahead-log reset bug",
    "E01": "Ctrl-C in a long fetch",
    "E02": "Ctrl-C while threads wait for replies",
    "E03": "interrupt in Jupyter",
    "E04": "call inside a callback of another",
    "E05": "worker thread raises",
    "E06": "a thousand calls: threads, files, memory",
    "E07": "two fetchers, two processes on one address",
    "E08": "interpreter ends with a live fetcher",
    "E09": "iterator given up half way",
    "E10": "progress without a terminal",
    "E11": "other ways to start processes",
    "F01": "killed while exporting",
    "F02": "disk full while exporting",
    "F03": "file that is read back was cut",
    "F04": "symbols that are paths, devices, too long",
    "F05": "disk that ignores case",
    "F06": "cells that a spreadsheet would run",
    "F07": "numbers through a file and back",
    "F08": "update of a file that has other rows",
    "F09": "locale, line ends, a file that another program holds",
    "G01": "key in errors and tracebacks",
    "G02": "key in logs, cache keys, files",
    "G03": "hostile text of a provider",
    "G04": "service asked by another Host",
    "G05": "service reached from elsewhere",
    "G06": "service called by a page in a browser",
    "G07": "service with many half-open clients",
    "G08": "service asked for too much, or for anything",
    "G09": "service whose provider fails",
    "G10": "live feed stale, repeated, out of order, with holes",
    "G11": "base URL of another scheme, or with a user in it",
    "G12": "dependency with a known vulnerability",
    "H01": "instant given in seconds, or a small number",
    "H02": "newest row of a reply, not yet committed by the provider",
    "H03": "candle computed again after its close",
    "H04": "candle published late",
    "H05": "file of an adjusted series taken for the raw one",
    "H06": "file of a practice exchange taken for the real one",
    "H07": "manifest that no longer fits its frame",
    "H08": "edit of an array that a frame shares with the cache",
    "H09": "sums and means over values that are not known",
    "H10": "mistyped symbol where the provider answers with no rows",
    "H11": "CSV in a spreadsheet with a decimal comma",
    "H12": "correction within minutes of the close",
    "H13": "candle stamped at its close in another tool",
    "H14": "days of any zone of the tz database",
    "I01": "close or another call inside a signal handler, a finalizer or a gc callback",
    "I02": "exception out of any signal handler, at any step",
    "I03": "threads and atexit handlers after the main thread",
    "I04": "destructive command where nobody can confirm",
    "I05": "parts of killed exports",
    "J01": "region refused by REST, served by the archive",
    "J02": "newest N candles with a hole or a failure outside them",
    "J03": "symbol in Chinese in the archive",
    "J04": "frozen program",
    "J05": ".env of another project",
    "J06": "no tz database, no home folder, ~ in a path, NaT in an index",
    "J07": "threads that ask for one listing at once",
    "J08": "own kind with own columns by a plug-in",
    "J09": "adjusted series on the next day",
    "J10": "plan for a budget by the day",
    "J11": "error of a rate limit in a reply with status 200",
    "J12": "spelling of providers, perpetuals, funding",
    "J13": "memory cache below one chunk",
    "J14": "waits and retries that say nothing",
    "J15": "partial answer and remedies on the command line",
    "J16": "polling of a range that ends now",
    "J17": "mistyped names, keywords, commands",
    "J18": "misspelt environment variable",
    "J19": "place that a warning points at",
    "J20": "clock or number of the wrong type",
    "J21": "message that says the same twice",
    "J22": "slow provider beside quick ones",
    "J23": "statements of the README",
    "J24": "prices of the practice exchange across providers",
    "J25": "planning of files that cannot pay",
    "J26": "pickles of equal answers",
    "J27": "listing and clearing of single series",
    "J28": "narrow terminal, candles in JSON",
    "J29": "interruption tests on every supported Python",
    "K01": "range that begins after the slot of its candle",
    "K02": "two fetchers that write one chunk",
    "K03": "import by another process into a chunk in memory",
    "K04": "reply that belongs to another request",
    "K05": "candle that settles during the call",
    "K06": "slow reply to the clock's request",
    "K07": "empty reply about a candle that is stored",
    "K08": "edit of an index's integers",
    "K09": "Date header ahead of the provider",
    "K10": "own clock a day behind, the provider's out of reach",
    "K11": "two versions of the library on one folder",
    "K12": "links, fifos and foreign files in the cache folder",
    "K13": ".env of another owner in the working folder",
    "K14": "429 without Retry-After, again and again",
    "K15": "limits that nothing fits in",
    "K16": "exit while a thread waits for a silent server",
    "K17": "no more threads to be had",
    "K18": "symbol that waits for its first trade",
    "K19": "arguments of the wrong type",
    "K20": "short page, then an empty one",
    "K21": "file of the archive with every time off the grid",
    "K22": "status 203 to 206",
}

# Faults that no test of this machine makes: why, and what there is instead.
NOT_INJECTED = {
    "D32": "a race inside SQLite itself; only its version can be looked at",
    "G12": "asks an online database of vulnerabilities",
}

# What is injected less often than it should be, or only in part.
FEWER = {
    "A10": "640 requests of 16 threads, not 64,000 of 32",
    "A21": "some hundred requests without a ban, not 10,000",
    "B08": "every seventh start and end, not all",
    "B09": "13 sizes of pages, not 1,000",
    "D01": "12 cuts with a fetch after them, not 500",
    "D02": "every bit of an entry, 105 of a database, 22 with a fetch after them, not 500",
    "D09": "33 kills, not 100",
    "D10": "25 places, not 200",
    "D16": "32 threads that fetch; the load itself is a long test",
    "D17": "4 processes, not 16",
    "D20": "14 forks beside busy threads, not 200",
    "D26": "32,000 operations, not 240,000",
    "D28": "3,000 values, not 10,000",
    "D29": "37 kills, not 1,000",
    "E01": "4 interruptions, not 30",
    "E04": "16 calls with others inside, not 300",
    "E06": "100 calls and 100 fetchers, not 1,000",
    "E11": "the same candles; D26 is not run so",
    "F01": "7 kills, not 60",
}


class Tally(NamedTuple):
    """What came of the tests of a row: how many test functions, cases, and cases that failed or were skipped."""

    tests: list[str]
    runs: int
    failed: int
    skipped: int

    @property
    def result(self) -> str:
        if not self.tests:
            return "none"
        if self.failed:
            return f"{self.failed} FAILED"
        return "ok" if not self.skipped else f"ok, {self.skipped} skipped" if self.skipped < self.runs else "skipped"


class Marked:
    """The plug-in: keeps the tests that are marked with wanted rows, and what came of each."""

    def __init__(self, rows: Sequence[str]) -> None:
        self.rows = set(rows)
        self.marks: dict[str, tuple[str, ...]] = {}
        self.whole: set[str] = set()  # rows with a long test among those that are kept
        self.counts: dict[str, int] = {}
        self.outcomes: dict[str, str] = {}
        self.said: list[str] = []

    @pytest.hookimpl(trylast=True)  # after pytest has left out the long ones, unless they are asked for
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keeps the marked ones. Raises UsageError for a mark that is no row."""
        kept, others = [], []
        for item in items:
            rows = rows_of(item)
            unknown = [row for row in rows if row not in ROWS]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid} is marked with {unknown[0]!r}, which is no row")
            if self.rows.intersection(rows):
                kept.append(item)
                self.marks[item.nodeid] = rows
                if item.get_closest_marker("long") is not None:
                    self.whole.update(rows)
            else:
                others.append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of set-up, call and tear-down counts."""
        before = self.outcomes.get(report.nodeid, "passed")
        self.outcomes[report.nodeid] = report.outcome if before == "passed" else before
        self.counts[report.nodeid] = int(str(dict(report.user_properties).get("runs", 1)))
        if report.failed:
            self.said.append(f"{report.nodeid}\n{report.longreprtext}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported is a failure too."""
        if report.failed:
            self.said.append(f"{report.nodeid}\n{report.longreprtext}")

    def tally(self, row: str) -> Tally:
        """What came of the tests of the row."""
        cases = [name for name, rows in self.marks.items() if row in rows]
        outcomes = [self.outcomes.get(name, "failed") for name in cases]
        tests = list(dict.fromkeys(name.partition("[")[0] for name in cases))
        runs = sum(self.counts.get(name, 1) for name in cases)
        return Tally(tests, runs, outcomes.count("failed"), outcomes.count("skipped"))


def rows_of(item: pytest.Item) -> tuple[str, ...]:
    """The rows that a test is marked with, on itself, its parameters, class or module."""
    return tuple(dict.fromkeys(str(row) for mark in item.iter_markers("fault") for row in mark.args))


def find_rows(words: Iterable[str]) -> list[str]:
    """The rows that are named, or all; raises ValueError for one that is not there."""
    found = []
    for word in words:
        some = [row for row in ROWS if word.upper() in (row, row[0])]
        if not some:
            raise ValueError(f"no row {word!r}; there are {', '.join(LETTERS)} and {ROWS_SHOWN}")
        found += some
    return sorted(set(found), key=list(ROWS).index) or list(ROWS)


def find_files(rows: Sequence[str]) -> list[str]:
    """The files of tests that name one of the rows; all of them where none does."""
    files = sorted(map(str, TESTS.glob("test_*.py")))
    return [name for name in files if any(f'"{row}"' in Path(name).read_text("utf-8") for row in rows)] or files


ROWS_SHOWN = f"{next(iter(ROWS))} to {list(ROWS)[-1]}"


def table(rows: Sequence[str], marked: Marked, *, named: bool) -> list[str]:
    """The lines of the table, a heading before each letter, and the sum."""
    width = max(len(ROWS[row]) for row in rows)
    lines, tallies = [], {row: marked.tally(row) for row in rows}
    letter = ""
    for row, tally in tallies.items():
        if row[0] != letter:
            letter = row[0]
            lines += ["", f"{letter}  {LETTERS[letter]:<{width + 1}}  tests  runs  result"]
        result = tally.result
        if not tally.tests and row in NOT_INJECTED:
            result = f"cannot be injected: {NOT_INJECTED[row]}"
        elif tally.tests and row in FEWER and row not in marked.whole:
            result += f" (fewer: {FEWER[row]})"
        lines.append(f"{row}  {ROWS[row]:<{width}} {len(tally.tests):>6} {tally.runs:>5}  {result}")
        lines += [f"       {test}" for test in tally.tests if named]
    without = [row for row, tally in tallies.items() if not tally.tests and row not in NOT_INJECTED]
    held = sum(tally.runs > tally.skipped and not tally.failed for tally in tallies.values())
    lines += [
        "",
        f"{held} of {len(rows)} rows hold, in {sum(marked.counts.get(name, 1) for name in marked.outcomes):,} runs",
    ]
    if without:
        lines.append(f"without a test: {', '.join(without)}")
    return lines


def main(words: Sequence[str]) -> int:
    try:
        rows = find_rows(word for word in words if not word.startswith("--"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    marked = Marked(rows)
    # Nothing of pytest's own is shown: what failed is, at the end.
    options = ["-p", "no:terminal", "-p", "no:cacheprovider", "--rootdir", str(TESTS.parent), *find_files(rows)]
    if "--long" in words:
        options += ["-m", "not network"]
        os.environ.setdefault("FAULT_RUNS", "1")
    code = pytest.main(options, plugins=[marked])
    print("\n".join(table(rows, marked, named="--tests" in words)).lstrip())
    for said in marked.said:
        print(f"\n{said}", file=sys.stderr)
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not marked.said else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
