"""What the command line prints on stdout: candles, tables, JSON. Text of other origin is made harmless."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from candle_fetcher.cli.aligned import fits, folded, pad, room, table, width, wrap
from candle_fetcher.cli.documents import is_json, iso_times, print_candle_lines, print_rows, records
from candle_fetcher.cli.talk import Talk, number_of, silence
from candle_fetcher.console import Palette, Role, is_on_terminal, printable
from candle_fetcher.core.reports import Backup, Imported, Restored
from candle_fetcher.core.sizes import duration_text, size_text
from candle_fetcher.files.layout import csv_pieces

_EDGE_ROWS = 5
_FORMULA = ("=", "+", "-", "@")  # printable() has escaped TAB and CR
# What a series has as a rule; a column that has nothing else is not shown.
_USUAL: dict[str, Callable[[Any], bool]] = {
    "kind": lambda value: value == "candles",
    "settings": lambda value: value == "",
    **dict.fromkeys(("origin", "problem", "error"), lambda value: not value),
    **dict.fromkeys(("revised", "gaps"), lambda value: not value),
}
# How the values of a kind of columns are written for a reader.
_WRITERS: dict[str, Callable[[Any], str]] = {
    "m": lambda value: duration_text(value.total_seconds()),
    **dict.fromkeys("iu", "{:,}".format),
    "b": lambda value: "yes" if value else "no",
    "size": size_text,
}
_LAST = ("settings", "path", "problem", "origin")  # the longest, which are often folded
_MARKS: dict[bool | None, tuple[str, Role]] = {True: ("✓", "good"), False: ("✗", "bad"), None: ("–", "dim")}


def print_path(path: Path) -> None:
    """Print the path of a file that was written. A closed pipe does not keep the next files from being written."""
    try:
        print(path, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


def print_candles(frame: pd.DataFrame, symbol: str | None, *, with_header: bool) -> None:
    """Print first and last candles on a terminal, else CSV, with the symbol in front of every line where it is
    given."""
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
    rows = [[time, *row[1:]] for time, row in zip(_short_times([row[0] for row in rows]), rows, strict=True)]
    head, *lines = table(header, rows)
    if is_cut:
        lines.insert(_EDGE_ROWS, f"... {len(frame) - 2 * _EDGE_ROWS:,} more")
    hidden = [name for name in header if name not in head.split()]
    if hidden:
        lines += wrap(f"not shown: {', '.join(hidden)}; a wider terminal, a pipe or --export csv has them", room())
    print("\n".join([Palette().paint(head, "title"), *lines]), flush=True)


def _short_times(times: Sequence[str]) -> list[str]:
    """Return the times without the seconds, and without the time of day, where these are 0 in all of them."""
    for end in (":00", " 00:00"):
        if any(times) and all(time.endswith(end) for time in times if time):
            times = [time.removesuffix(end) for time in times]
    return list(times)


def print_table(frame: pd.DataFrame) -> None:
    """Print the rows as a table on a terminal, else as CSV; times as `2024-01-01 00:00:00`.

    On a terminal whole numbers have groups of three digits, `bytes` and `size` units, and times no seconds where all
    are 0; cells that have no room stand below their row."""
    if is_terminal():
        header, *rows = _cells(_readable(frame))
        for place, name in enumerate(header):
            if isinstance(frame[name].dtype, pd.DatetimeTZDtype):
                for row, time in zip(rows, _short_times([row[place] for row in rows]), strict=True):
                    row[place] = time
        head, *lines = folded(header, rows)
        print("\n".join([Palette().paint(head, "title"), *lines]), flush=True)
        return
    sys.stdout.write(table_csv(frame))
    sys.stdout.flush()


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with whole numbers, sizes, spans of time and flags as text for a reader."""
    made = frame.copy()
    for name in frame:
        kind = frame[name].dtype.kind
        write = _WRITERS.get("size" if kind in "iu" and name in ("bytes", "size") else kind)
        if write is not None:
            texts = ["" if pd.isna(value) else write(value) for value in frame[name]]
            made[name] = pd.Series(texts, frame.index, dtype=object)
    return made


def table_csv(frame: pd.DataFrame) -> str:
    """Return the rows as CSV, cells with commas quoted; times as `2024-01-01 00:00:00`.

    Text that a spreadsheet would run as a formula (it begins with = + - @) gets a ' in front; numbers do not."""
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
    """Return header and rows as text; "" where there is no value."""
    texts = frame.astype(object)
    for name in frame:
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            texts[name] = [(time or "").removesuffix("Z").replace("T", " ") for time in iso_times(frame[name])]
        elif frame[name].dtype.kind == "m":
            texts[name] = frame[name].dt.total_seconds().astype(object)
    texts = texts.where(frame.notna(), "")
    rows = [[printable(value) for value in row] for row in texts.itertuples(index=False)]
    return [[str(name) for name in frame], *rows]


def print_checks(frame: pd.DataFrame) -> None:
    """Print the rows of `CandleFetcher.doctor`: ✓, ✗, or – where skipped; what was found, and below it what to do.

    Lines are broken at the width of the terminal."""
    paint = Palette().paint
    margin = 2 + frame["check"].str.len().max() + 2
    for check, subject, passed, found, fix in frame.itertuples(index=False):
        mark, role = _MARKS[None if pd.isna(passed) else bool(passed)]
        said = wrap(printable(f"{subject}: {found}"), _room() - margin)
        said = [paint(line, role) for line in said] if role != "good" else said
        to_do = wrap(printable(fix), _room() - margin, "→ ", "  ") if fix else []
        print(f"{paint(mark, role)} {paint(check.ljust(margin - 2), 'dim')}{said[0]}")
        for line in (*said[1:], *to_do):
            print(f"{' ' * margin}{line}")
    sys.stdout.flush()


def print_offers(frame: pd.DataFrame) -> None:
    """Print the rows of `CandleFetcher.providers`, a block for each, broken at the width of the terminal."""
    paint = Palette().paint
    margin = 2 + max(map(len, frame.columns)) + 2
    for row in frame.itertuples(index=False):
        print(paint(printable(str(row[0])), "good"))
        for name, text in zip(list(frame.columns)[1:], row[1:], strict=True):
            if str(text):
                first, *others = wrap(printable(str(text)), _room() - margin)
                print(f"  {paint(name.ljust(margin - 2), 'dim')}{first}")
                for line in others:
                    print(f"{' ' * margin}{line}")
    sys.stdout.flush()


def print_facts(facts: dict[str, Any]) -> None:
    """Print a line for each fact, bytes with units; unknown and empty facts are left out."""
    margin = max(map(len, facts)) + 2
    for name, value in facts.items():
        if value is None or value == []:
            continue
        text = size_text(value) if name.endswith("_bytes") else f"{value:,}" if isinstance(value, int) else value
        for one in text if isinstance(text, list) else [text]:
            lines = wrap(printable(one), _room(), pad(name.removesuffix("_bytes"), margin), " " * margin)
            print("\n".join(lines))
    sys.stdout.flush()


def print_lines(text: object, facts: Iterable[str] = ()) -> None:
    """Print a line, and indented below it one for each fact; on a terminal broken at its width."""
    lines = wrap(printable(text), _room(), "", "    ")
    for fact in facts:
        lines += wrap(printable(fact), _room(), "  ", "    ")
    print("\n".join(lines), flush=True)


def print_plan(text: str) -> None:
    """Print the lines of a plan; on a terminal, those that are too long are broken."""
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        print(line if width(line) <= _room() else "\n".join(wrap(line.lstrip(), _room(), indent, f"{indent}  ")))
    sys.stdout.flush()


def print_imported(done: Imported) -> None:
    """Print a line about the file, and one for each fact about its rows."""
    kind = "" if done.kind == "candles" else f" ({done.kind})"
    span = f", {done.first} to {done.last}" if done.rows else ""
    facts = [f"{done.added:,} new, in {number_of(done.chunks, 'chunk')}"]
    if done.differing:
        facts.append(f"{done.differing:,} differ from what is stored, which stays; cache revisions lists them")
    if done.ignored:
        facts.append(f"{done.ignored:,} left out: not settled, or known to be wrong")
    if done.lacking:
        facts.append(f"without {', '.join(done.lacking)}, which fetch --refresh brings where the provider has them")
    if done.verified is False:
        facts.append("there was no checksum beside it")
    series = f"{done.provider} {done.symbol} {done.timeframe}{kind}"
    print_lines(f"{done.path}: {series}, {done.rows:,} candles{span}", facts)


def print_copied(done: Backup | Restored) -> None:
    """Print a line about a backup that was made or restored, with what was left out."""
    facts = [f"{done.series:,} series", f"{done.candles:,} candles"]
    if isinstance(done, Backup):
        facts.append(size_text(done.bytes))
        left_out = {"vanished meanwhile": done.vanished, "damaged": done.damaged, "of a newer version": done.newer}
    else:
        facts.append(f"{done.added:,} new" if done.stored else "nothing new")
        if done.differing:
            facts.append(f"{done.differing:,} differ from what is stored, which stays; cache revisions lists them")
        left_out = {"of a newer version": done.newer}
    facts += [f"left out: {count:,} {what}" for what, count in left_out.items() if count]
    print_lines(f"{done.path}: {', '.join(facts)}")


def show_series(talk: Talk, frame: pd.DataFrame, nothing: str, arguments: argparse.Namespace) -> None:
    """Print a row for each series; on a terminal without columns that say the same everywhere or follow from others,
    and with days alone where the line is too long for times."""
    if is_json(arguments) or frame.empty or not is_terminal():
        show_rows(talk, frame, nothing, arguments)
        return
    hidden = [name for name, usual in _USUAL.items() if name in frame and frame[name].map(usual).all()]
    last = [name for name in _LAST if name in frame]
    shown = frame[[*frame.columns.drop(last), *last]].drop(columns=[*hidden, *({"chunks"} & set(frame))])
    shown = shown.rename(columns={"rows": "candles", "bytes": "size"})
    if not fits(*_split(_cells(_readable(shown)))):
        for name in ("first", "last"):
            if name in shown:
                shown[name] = shown[name].dt.floor("D")
    print_table(shown)


def _split(cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return cells[0], cells[1:]


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return is_on_terminal(sys.stdout)


def _room() -> int:
    """Return the columns of a line on stdout; without a terminal there is no end."""
    return room() if is_terminal() else 10**6


def show_rows(talk: Talk, frame: pd.DataFrame, nothing: str, arguments: argparse.Namespace) -> None:
    """Print the rows as --json and --jsonl say, else as a table on a terminal and as CSV in a pipe; on a terminal,
    `nothing` is said where there are none."""
    if is_json(arguments):
        print_rows(records(frame), arguments)
    elif frame.empty and is_terminal():
        talk.say(nothing)
    else:
        print_table(frame)


def show_candles(frame: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Print candles as --json and --jsonl say, else the first and last on a terminal and CSV in a pipe."""
    if arguments.jsonl:
        print_candle_lines(frame, None)
    elif arguments.json:
        print_rows(records(frame), arguments)
    else:
        print_candles(frame, None, with_header=True)
