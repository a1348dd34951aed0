"""What the command line prints on stdout: candles, tables, JSON. Text of other origin is made harmless."""

from __future__ import annotations

import argparse
import csv
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from candle_fetcher.cli.documents import is_json, iso_times, print_candle_lines, print_rows, records
from candle_fetcher.cli.talk import Talk, number_of, silence
from candle_fetcher.console import Palette, Role, is_on_terminal, printable
from candle_fetcher.core.reports import Backup, Imported, Restored
from candle_fetcher.core.sizes import size_text
from candle_fetcher.files.layout import csv_pieces

_EDGE_ROWS = 5
_FORMULA = ("=", "+", "-", "@")  # printable() has escaped TAB and CR
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
    """Print the rows as a table on a terminal, else as CSV; times as `2024-01-01 00:00:00`."""
    if is_terminal():
        header, *rows = _cells(frame)
        print("\n".join(_table(header, rows) if _fits(header, rows) else _folded_table(header, rows)), flush=True)
        return
    sys.stdout.write(table_csv(frame))
    sys.stdout.flush()


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
    room = shutil.get_terminal_size().columns if is_terminal() else 10**6

    def block(first: str, text: str) -> list[str]:
        """Return lines of the text, the first one after `first`, the others below it."""
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
    """Print the rows of `CandleFetcher.providers`, a block for each, broken at the width of the terminal."""
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
    """Print a line for each fact, bytes with units; unknown and empty facts are left out."""
    margin = max(map(len, facts))
    for name, value in facts.items():
        if value is None or value == []:
            continue
        text = size_text(value) if name.endswith("_bytes") else f"{value:,}" if isinstance(value, int) else value
        for line in text if isinstance(text, list) else [text]:
            print(f"{name.removesuffix('_bytes'):<{margin}}  {printable(line)}")
    sys.stdout.flush()


def print_imported(done: Imported) -> None:
    """Print a line about the file, and one for each fact about its rows."""
    kind = "" if done.kind == "candles" else f" ({done.kind})"
    span = f", {done.first} to {done.last}" if done.rows else ""
    print(printable(f"{done.path}: {done.provider} {done.symbol} {done.timeframe}{kind}, {done.rows:,} candles{span}"))
    facts = [f"{done.added:,} new, in {number_of(done.chunks, 'chunk')}"]
    if done.differing:
        facts.append(f"{done.differing:,} differ from what is stored, which stays; cache revisions lists them")
    if done.ignored:
        facts.append(f"{done.ignored:,} left out: not settled, or known to be wrong")
    if done.lacking:
        facts.append(f"without {', '.join(done.lacking)}, which fetch --refresh brings where the provider has them")
    if done.verified is False:
        facts.append("there was no checksum beside it")
    for line in facts:
        print(f"  {printable(line)}")
    sys.stdout.flush()


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
    print(f"{printable(done.path)}: {', '.join(facts)}", flush=True)


def show_series(talk: Talk, frame: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Print what the cache has of each series: on a terminal without columns that say the same everywhere or follow
    from others, with bytes in units, and with days alone where the line is too long for times."""
    if is_json(arguments) or frame.empty or not is_terminal():
        show_rows(talk, frame, "nothing is stored", arguments)
        return
    usual = {"kind": "candles", "settings": "", "origin": None}
    hidden = [name for name, value in usual.items() if all(cell == value for cell in frame[name])]
    last = ["settings", "origin"]  # the least likely to be there, and the longest
    shown = frame[[*frame.columns.drop(["chunks", *last]), *last]].drop(columns=hidden)
    shown["rows"], shown["bytes"] = [f"{count:,}" for count in frame["rows"]], list(map(size_text, frame["bytes"]))
    header, *rows = _cells(shown.rename(columns={"rows": "candles", "bytes": "size"}))
    at = header.index("first")
    for row in rows:
        row[at : at + 2] = [cell.removesuffix(":00") for cell in row[at : at + 2]]
    if not _fits(header, rows):
        for row in rows:
            row[at : at + 2] = [cell[:10] for cell in row[at : at + 2]]
    print("\n".join(_table(header, rows) if _fits(header, rows) else _folded_table(header, rows)), flush=True)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return is_on_terminal(sys.stdout)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return aligned lines, numbers to the right; "..." stands for columns that the terminal has no room for."""
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
    """Return lines of the leading columns that fit the terminal, each with its other cells below it."""
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
    return all(re.fullmatch(r"-?[\d.,]*( (B|kB|MB|GB))?", cell) for cell in column[1:])


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
