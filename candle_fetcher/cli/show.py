"""What a person reads: talk on stderr, tables on stdout. Text that came from elsewhere is made harmless here."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from candle_fetcher.cache import Imported
from candle_fetcher.console import Palette, Role, is_on_terminal, printable
from candle_fetcher.core.candles import iso
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.summary import summary
from candle_fetcher.exports import csv_pieces

_EDGE_ROWS = 5
_SHOWN = 10
_FORMULA = ("=", "+", "-", "@")  # printable() has escaped TAB and CR
_MARGIN = 10
_CAUSES = {
    "no_candle": "provider has none",
    "not_listed": "not yet listed",
    "after_delisting": "no longer listed",
    "fetch_failed": "could not be had",
}
_MARKS: dict[bool | None, tuple[str, Role]] = {True: ("✓", "good"), False: ("✗", "bad"), None: ("–", "dim")}
_PLACES = {"memory": "memory", "disk": "disk", "archive": "the archive", "rest": "REST"}


class Talk:
    """Lines on stderr: titles, facts, warnings and errors. Where nobody can read them, they are not written: what is
    asked for is done all the same."""

    def __init__(self) -> None:
        self._paint = Palette(sys.stderr).paint

    def title(self, text: object) -> None:
        _say(self._paint(printable(text), "title"))

    def fact(self, name: str, text: object, role: Role | None = None) -> None:
        """A line `  name      text`."""
        shown = printable(text) if role is None else self._paint(printable(text), role)
        _say(f"  {self._paint(name.ljust(_MARGIN), 'dim')}{shown}")

    def warn(self, text: object) -> None:
        _say(f"{self._paint('warning:', 'warn')} {_broken(in_our_words(text), 'warning: ')}")

    def fail(self, text: object) -> None:
        _say(f"{self._paint('error:', 'bad')} {_broken(in_our_words(text), 'error: ')}")

    def notice(self, text: object) -> None:
        """What keeps the command waiting, and that it goes on."""
        _say(self._paint(_broken(text), "warn"))

    def ask(self, text: str) -> None:
        """A question, on a line that its answer goes on with."""
        _say(printable(text), end="")

    def say(self, text: str) -> None:
        """Text of ours, line ends and all."""
        _say(text)


def _broken(text: object, before: str = "") -> str:
    """Return the text printable, on a terminal broken between words; `before` is what stands on its first line."""
    line = printable(text)
    if not is_on_terminal(sys.stderr):
        return line
    wrapped = textwrap.fill(
        line,
        max(20, shutil.get_terminal_size().columns),
        initial_indent=before,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.removeprefix(before)


def _say(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Whoever read the stream has gone: what is buffered and what follows goes nowhere, without a word at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


# -- what came --------------------------------------------------------------------------------


def show_checks(talk: Talk, frame: pd.DataFrame, *, is_cached: bool) -> None:
    """Where the candles came from, that they are whole, and every gap with its cause."""
    manifest = frame.attrs[MANIFEST]
    talk.title(f"{manifest['symbol']} {manifest['timeframe']}")
    talk.fact("cache", *_lookup(manifest["sources"], is_cached=is_cached))
    found = f"{manifest['rows']:,} of {manifest['expected']:,} candles"
    held = "prices ok, volume unknown" if frame["volume"].isna().all() else "prices, volume ok"
    talk.fact("checks", f"{found}; order, duplicates, {held}" if manifest["rows"] else found)
    count = manifest["expected"] - manifest["rows"]
    if not manifest["gap_count"]:
        talk.fact("gaps", "none", "good")
    else:
        talk.fact("gaps", f"{_number_of(manifest['gap_count'], 'gap')}, {_number_of(count, 'candle')} missing", "warn")
        show_gaps(talk, manifest["gaps"], manifest["gap_count"])
    if manifest["partial"]:
        partial = manifest["partial"]
        shown = ", ".join(partial[:3]) + (", ..." if len(partial) > 3 else "")
        talk.fact("note", f"{_number_of(len(partial), 'partial candle')}, made of what there is: {shown}", "warn")
    if "is_synthetic" in frame and (invented := int(frame["is_synthetic"].sum())):
        talk.fact("note", f"{_number_of(invented, 'row')} invented, marked in is_synthetic", "warn")
    if "is_closed" in frame and not frame["is_closed"].all():
        talk.fact("note", "the last candle is still forming (is_closed is false)")


def show_gaps(talk: Talk, gaps: Iterable[Mapping[str, Any]], count: int) -> None:
    """A line for each of the first gaps, of `count`."""
    for gap in itertools.islice(gaps, _SHOWN):
        first, last = (
            str(gap[name]).replace("T", " ").removesuffix("Z").removesuffix(":00") for name in ("first", "last")
        )
        cause = f"{gap['cause']} ({_CAUSES[gap['cause']]})" if gap["cause"] in _CAUSES else gap["cause"]
        count_of = f"{gap['count']:,}  " if gap["count"] else ""  # unknown of funding rates
        line = f"{first} to {last}  {count_of}{cause}"
        talk.say(f"    {printable(line)}")
    if count > _SHOWN:
        talk.say(f"    and {count - _SHOWN:,} more; the command gaps lists them")


def show_statistics(talk: Talk, frame: pd.DataFrame) -> None:
    """Candles, first and last; highest, lowest, volume, average. Of rows without prices, how many there are."""
    if "close" not in frame:
        talk.fact("rows", f"{len(frame):,}")
        return
    figures = summary(frame)["candles"]
    if not figures["count"]:
        talk.fact("candles", "0")
        return
    talk.fact("candles", f"{figures['count']:,}, {figures['start_time']} to {figures['end_time']}")
    prices = figures["statistics"]
    talk.fact("highest", _figure(prices["highest_price"]), "number")
    talk.fact("lowest", _figure(prices["lowest_price"]), "number")
    talk.fact("average", f"{_figure(prices['avg_price'], digits=8)} (mean close)", "number")
    talk.fact("volume", _figure(prices["total_volume"], digits=8), "number")


def show_cost(talk: Talk, figures: dict[str, Any], elapsed_s: float, frames: Iterable[pd.DataFrame] = ()) -> None:
    """Time and memory, of a snapshot of the monitor, and which part of the candles the cache had."""
    talk.fact("time", f"{elapsed_s:,.2f} s, {_number_of(figures['requests']['count'], 'request')}")
    sources = [frame.attrs[MANIFEST]["sources"] for frame in frames]
    came = sum(sum(counts.values()) for counts in sources)
    if came:
        kept = sum(counts["memory"] + counts["disk"] for counts in sources)
        talk.fact("hit ratio", f"{100 * kept / came:.0f} % of the candles")
    talk.fact("memory", size(figures["memory"]["peak_rss_bytes"]) + " at most")


def _lookup(sources: dict[str, int], *, is_cached: bool) -> tuple[str, Role | None]:
    """Cache hit or miss, in words."""
    came = ", ".join(f"{count:,} from {_PLACES[place]}" for place, count in sources.items() if count)
    if not is_cached:
        return f"off: {came or 'no candles'}", None
    if not came:
        return "no candles", None
    asked = sources["archive"] + sources["rest"]
    if not asked:
        return f"hit: {came}", "good"
    return f"{'miss' if not sources['memory'] + sources['disk'] else 'partly'}: {came}", None


def _number_of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _figure(value: float | None, digits: int | None = None) -> str:
    """The number without exponent, its whole part in groups of three; as exact as it is unless `digits` are given; "-"
    where it is not known."""
    if value is None or not np.isfinite(value):
        return "-"
    whole, dot, rest = np.format_float_positional(value, precision=digits, fractional=False, trim="-").partition(".")
    return f"{int(whole):,}{dot}{rest}" if whole != "-0" else f"-0{dot}{rest}"


# What a message of the library says in Python, in the words of the command line.
_WORDS = (
    (r"\.frame holds the rest, and what\b", "What"),
    (
        r"\.frame holds the settled ones, and include_open=False asks for no other",
        "Without --include-open none is asked",
    ),
    (r"(, and |; |, or )?\.frame holds (the rest|what there is|the settled ones)", ""),
    (r"Use \.frames, and do for each failed symbol what \.errors says", "do for each what its line says"),
    (r"(?:Call it|Call) again", "Run the same line again"),
    (r"the same call\b", "the same line"),
    (r"\bcache\.import_file\b", "candle-fetcher cache import"),
    (r"\buse_cache=False\b", "--no-cache"),
    (r"\bsymbols\(\)", "candle-fetcher symbols"),
    (r"\bfetch_funding gets them, funding on the command line", "candle-fetcher funding gets them"),
    (r"\brefresh=True\b", "--refresh"),
    (
        r"\bas api_keys=\{'[\w-]+': \{[^}]*\}\}, or in the environment as\b",
        "in the environment, or in a file .env of this folder, as",
    ),
    (
        r"\bas api_keys=\{'[\w-]+': \{[^}]*\}\}",
        "in the environment or in a file .env of this folder, by the names that candle-fetcher providers shows",
    ),
    (r"\bprovider_settings=\{'([\w-]+)': \{'(\w+)': '(\w+)'\}\}", r"--set \1.\2=\3"),
    (r"\b(source|on_gap|provider|kind|limit|days|columns|start|end|against)=('?)([\w.:+-]+)\2", r"--\1 \3"),
)


def in_our_words(text: object) -> str:
    """Return a message of the library as it is said on the command line: flags and commands for arguments and calls."""
    said = str(text)
    for pattern, words in _WORDS:
        said = re.sub(pattern, words, said)
    return said.replace("--on_gap", "--on-gap")


def size(size_bytes: int) -> str:
    """Bytes for people: 1.4 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes} B"


# -- data on stdout --------------------------------------------------------------------------------


def print_path(path: Path) -> None:
    """The path of a file that was written. Where nobody reads it any more, what is to be written yet is written."""
    try:
        print(path, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


def print_candles(frame: pd.DataFrame, symbol: str | None, *, with_header: bool) -> None:
    """Head and tail on a terminal; elsewhere CSV, with the symbol in front of every line where it is given."""
    if is_terminal():
        if symbol is not None and not is_on_terminal(sys.stderr):
            print(printable(symbol))
        _print_edges(frame)
        return
    pieces = (piece.decode("ascii") for piece in csv_pieces([frame]))
    header = next(pieces)
    if with_header:
        sys.stdout.write(header if symbol is None else f"symbol,{header}")
    for text in pieces:
        lines = text if symbol is None else "".join(f"{symbol},{line}" for line in text.splitlines(keepends=True))
        sys.stdout.write(lines)
    sys.stdout.flush()


def _print_edges(frame: pd.DataFrame) -> None:
    is_cut = len(frame) > 2 * _EDGE_ROWS
    shown = pd.concat([frame.head(_EDGE_ROWS), frame.tail(_EDGE_ROWS)]) if is_cut else frame
    header, *rows = [line.split(",") for line in b"".join(csv_pieces([shown])).decode("ascii").splitlines()]
    times = [row[0] for row in rows]
    for end in (":00", " 00:00"):
        if times and all(time.endswith(end) for time in times):
            times = [time.removesuffix(end) for time in times]
    rows = [[time, *row[1:]] for time, row in zip(times, rows, strict=True)]
    lines = _table(header, rows)
    if is_cut:
        lines.insert(1 + _EDGE_ROWS, f"... {len(frame) - 2 * _EDGE_ROWS:,} more")
    if not _fits(header, rows):
        shown_names = re.sub(r"\x1b\[[\d;]*m", " ", lines[0]).split()  # without the colour
        names = ", ".join(name for name in header if name not in shown_names)
        said = f"not shown: {names}; a wider terminal, a pipe or --export csv has them"
        lines += textwrap.wrap(said, shutil.get_terminal_size().columns)
    print("\n".join(lines), flush=True)


def print_table(frame: pd.DataFrame) -> None:
    """The rows as a table on a terminal, else as CSV; times as `2024-01-01 00:00:00`."""
    if is_terminal():
        header, *rows = _cells(frame)
        print("\n".join(_table(header, rows) if _fits(header, rows) else _folded_table(header, rows)), flush=True)
        return
    sys.stdout.write(table_csv(frame))
    sys.stdout.flush()


def table_csv(frame: pd.DataFrame) -> str:
    """The rows as CSV, cells with commas in them quoted; times as `2024-01-01 00:00:00`. Text that a spreadsheet would
    run as a formula (it begins with = + - @) has a ' in front; numbers are left alone."""
    buffer = io.StringIO()
    header, *rows = _cells(frame)
    texts = [frame[name].map(lambda value: isinstance(value, str)).tolist() for name in frame]
    guarded = [
        [f"'{cell}" if is_text and cell[:1] in _FORMULA else cell for cell, is_text in zip(row, kinds, strict=True)]
        for row, kinds in zip(rows, zip(*texts, strict=True), strict=True)
    ]
    csv.writer(buffer, lineterminator="\n").writerows([header, *guarded])
    return buffer.getvalue()


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text; nothing where there is no value."""
    texts = frame.astype(object)
    for name in frame:
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            texts[name] = frame[name].dt.strftime("%Y-%m-%d %H:%M:%S")
    texts = texts.where(frame.notna(), "")
    rows = [[printable(value) for value in row] for row in texts.itertuples(index=False)]
    return [[str(name) for name in frame], *rows]


def print_checks(frame: pd.DataFrame) -> None:
    """The rows of `CandleFetcher.doctor`: ✓, ✗, or – where skipped; what was found, and below it what to do. Lines are
    broken where a terminal ends."""
    paint = Palette().paint
    margin = 2 + frame["check"].str.len().max() + 2
    room = shutil.get_terminal_size().columns if is_terminal() else 10**6

    def block(first: str, text: str) -> list[str]:
        """The text behind `first`, further lines below it."""
        lines = textwrap.wrap(text, max(20, room - margin - len(first)), break_long_words=False) or [""]
        return [f"{first}{lines[0]}", *(f"{' ' * len(first)}{line}" for line in lines[1:])]

    for check, subject, passed, found, fix in frame.itertuples(index=False):
        mark, role = _MARKS[None if pd.isna(passed) else bool(passed)]
        said = block("", printable(f"{subject}: {found}"))
        said = [paint(line, role) for line in said] if role != "good" else said
        to_do = block("→ ", printable(fix)) if fix else []
        print(f"{paint(mark, role)} {paint(check.ljust(margin - 2), 'dim')}{said[0]}")
        for line in (*said[1:], *to_do):
            print(f"{' ' * margin}{line}")
    sys.stdout.flush()


def print_offers(frame: pd.DataFrame) -> None:
    """The rows of `CandleFetcher.providers`, a block for each; lines are broken where a terminal ends."""
    paint = Palette().paint
    margin = 2 + max(map(len, frame.columns)) + 2
    room = shutil.get_terminal_size().columns if is_terminal() else 10**6
    for row in frame.itertuples(index=False):
        print(paint(printable(str(row[0])), "good"))
        for name, text in zip(list(frame.columns)[1:], row[1:], strict=True):
            first, *others = textwrap.wrap(printable(str(text)), max(20, room - margin)) or [""]
            if first:
                print(f"  {paint(name.ljust(margin - 2), 'dim')}{first}")
                for line in others:
                    print(f"{' ' * margin}{line}")
    sys.stdout.flush()


def print_facts(facts: dict[str, Any]) -> None:
    """A line for each fact, bytes for people; what is unknown or empty is left out."""
    margin = max(map(len, facts))
    for name, value in facts.items():
        if value is None or value == []:
            continue
        text = size(value) if name.endswith("_bytes") else f"{value:,}" if isinstance(value, int) else value
        for line in text if isinstance(text, list) else [text]:
            print(f"{name.removesuffix('_bytes'):<{margin}}  {printable(line)}")
    sys.stdout.flush()


def print_imported(done: Imported) -> None:
    """A line on the file, and one for each thing that there is to say of its rows."""
    kind = "" if done.kind == "candles" else f" ({done.kind})"
    span = f", {done.first} to {done.last}" if done.rows else ""
    print(printable(f"{done.path}: {done.provider} {done.symbol} {done.timeframe}{kind}, {done.rows:,} candles{span}"))
    told = [f"{done.added:,} new, in {_number_of(done.chunks, 'chunk')}"]
    if done.differing:
        told.append(f"{done.differing:,} differ from what is stored, which stays; cache revisions lists them")
    if done.ignored:
        told.append(f"{done.ignored:,} left out: not settled, or known to be wrong")
    if done.lacking:
        told.append(f"without {', '.join(done.lacking)}, which fetch --refresh brings where the provider has them")
    if done.verified is False:
        told.append("there was no checksum beside it")
    for line in told:
        print(f"  {printable(line)}")
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """The document, indented."""
    print(json.dumps(document, indent=2, allow_nan=False), flush=True)


def candle_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame with an index of times, as JSON-able dicts, `timestamp` first; what is not known is None."""
    rows = frame.reset_index()
    for name in rows:
        if isinstance(rows[name].dtype, pd.DatetimeTZDtype):
            rows[name] = [None if pd.isna(time) else iso(time.value // 1_000_000) for time in rows[name]]
    rows = rows.astype(object)
    return [
        {str(name): value for name, value in row.items()} for row in rows.where(rows.notna(), None).to_dict("records")
    ]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON-able dicts; times as `2024-01-01T00:00:00Z`."""
    texts = frame.astype(object)
    for name in frame:
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            texts[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [{str(name): value for name, value in row.items()} for row in texts.to_dict("records")]


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return is_on_terminal(sys.stdout)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned lines, numbers to the right; what does not fit the terminal is left out, which "..." says."""
    columns = list(zip(header, *rows, strict=True))
    room = shutil.get_terminal_size().columns
    widths = [max(map(len, column)) for column in columns]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= room else 1
    while len(columns) > 2 and sum(widths) + gap * (len(widths) - 1) > room:
        columns = [*columns[: -2 if columns[-1][0] == "..." else -1], ("...",) * len(columns[0])]
        widths = [max(map(len, column)) for column in columns]
    cells = [
        [cell.rjust(width) if _is_numeric(column) else cell.ljust(width) for cell in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    head, *lines = [(" " * gap).join(row).rstrip() for row in zip(*cells, strict=True)]
    return [Palette().paint(head, "title"), *lines]


def _fits(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return sum(widths) + len(widths) - 1 <= shutil.get_terminal_size().columns


def _folded_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of the leading columns that fit the terminal, each with the other cells below it, broken where it ends."""
    room = shutil.get_terminal_size().columns
    count = next(n for n in range(len(header) - 1, 0, -1) if n == 1 or _fits(header[:n], [row[:n] for row in rows]))
    head, *lines = _table(header[:count], [row[:count] for row in rows])
    folded = [head]
    for line, row in zip(lines, rows, strict=True):
        folded.append(line)
        for name, cell in zip(header[count:], row[count:], strict=True):
            if cell:
                folded += textwrap.wrap(f"{name}: {cell}", room, initial_indent="  ", subsequent_indent="    ")
    return folded


def _is_numeric(column: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-?[\d.]*", cell) for cell in column[1:])
