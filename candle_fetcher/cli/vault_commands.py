"""The command `vault`: series in a folder, updated, listed, checked, read and removed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from candle_fetcher.cli.documents import is_json, print_rows, records
from candle_fetcher.cli.opening import open_fetcher
from candle_fetcher.cli.tables import is_terminal, show_candles, show_series
from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import printable
from candle_fetcher.core.errors import FetchManyError, InputError
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.vault import Vault
from candle_fetcher.vault.work import IS_PARTIAL

_OPTIONS = ("format", "separator", "decimal", "decimals")


def vault(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `vault`. Return 3 where a series is incomplete or failed."""
    words = _read_words(arguments)
    run = {"update": _update, "list": _list, "verify": _verify, "read": _read, "remove": _remove}[arguments.action]
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _OPTIONS}
    columns = None if arguments.columns is None else _columns(arguments.columns)
    with open_fetcher(arguments, talk) as fetcher, Vault(arguments.where, fetcher, columns=columns, **options) as made:
        return run(made, words, arguments, talk)


def _read_words(arguments: argparse.Namespace) -> list[str]:
    """Return the symbols; the last word is the timeframe where it is one and no flag gives it."""
    words = list(arguments.files)
    if arguments.timeframe is None and len(words) > 1 and _is_timeframe(words[-1]):
        arguments.timeframe = words.pop()
    if arguments.symbols is not None:
        words += [name.strip() for name in arguments.symbols.split(",") if name.strip()]
    arguments.symbol, arguments.symbols = None, words
    needed = arguments.action in ("read", "remove")
    if needed and (len(words) != 1 or arguments.timeframe is None):
        raise InputError(f"vault {arguments.action} needs one symbol and a timeframe, such as BTC/USDT 1m")
    if arguments.action in ("list", "verify") and words:
        raise InputError(f"vault {arguments.action} takes no more words; leave out {words[0]!r}")
    return words


def _is_timeframe(word: str) -> bool:
    try:
        parse_timeframe(word)
    except InputError:
        return False
    return True


def _columns(text: str) -> str | Mapping[str, str]:
    """Return the columns of the flag: a set, or a mapping such as ds=timestamp,y=close."""
    if "=" not in text:
        return text
    return {header: name for header, _, name in (pair.partition("=") for pair in text.split(","))}


def _update(made: Vault, words: list[str], arguments: argparse.Namespace, talk: Talk) -> int:
    errors: Mapping[str, Exception] = {}
    given = {"start": arguments.start, "end": arguments.end, "provider": arguments.provider, "kind": arguments.kind}
    given["partial"] = "allow" if arguments.partial else "raise"
    try:
        report = made.update(words or None, arguments.timeframe, **given)
    except FetchManyError as error:
        if error.report is None:
            raise
        report, errors = error.report, error.errors
    if is_json(arguments):
        print_rows(records(report), arguments)
    elif not arguments.quiet and is_terminal():
        _show_report(talk, report, arguments)
    elif not arguments.quiet:
        for row in report.itertuples():
            print(printable(_line(row)))
        sys.stdout.flush()
    for label, one in errors.items():
        talk.fail(f"{label}: {one}")
    partial = [row for row in report.itertuples() if _is_partial(row)]
    for row in partial:
        talk.fail(f"{row.provider} {row.symbol} {row.timeframe}: {row.error}")
    return 3 if errors or partial else 0


def _is_partial(row: Any) -> bool:
    return row.error is not None and row.error.endswith(IS_PARTIAL)


def _show_report(talk: Talk, report: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Print the report of an update as a table."""
    shown = report[
        ["provider", "symbol", "timeframe", "kind", "added", "revised", "gaps", "rows", "last", "path"]
    ].copy()
    states = ["partial" if _is_partial(row) else "failed" for row in report.itertuples()]
    if report["error"].notna().any():
        shown.insert(4, "state", np.where(report["error"].notna(), states, "ok"))
    show_series(talk, shown, "there is no series yet", arguments)


def _line(row: Any) -> str:
    name = f"{row.provider} {row.symbol} {row.timeframe}" + ("" if row.kind == "candles" else f" {row.kind}")
    if row.error is not None and not _is_partial(row):
        return f"{name}: failed"
    what = f"{row.added:,} added" + (f", {row.revised:,} revised" if row.revised else "")
    what += f", {row.gaps:,} gaps" if row.gaps else ""
    until = "no candles yet" if pd.isna(row.last) else f"{row.rows:,} to {row.last:%Y-%m-%d %H:%M:%S}"
    return f"{name}: {what}; {until}; {row.path}"


def _list(made: Vault, words: list[str], arguments: argparse.Namespace, talk: Talk) -> int:
    show_series(talk, made.series(), "there is no series yet", arguments)
    return 0


def _verify(made: Vault, words: list[str], arguments: argparse.Namespace, talk: Talk) -> int:
    found = made.verify()
    broken = found[~found["whole"].astype(bool)]
    if is_json(arguments) or not arguments.quiet:
        show_series(talk, found, "there is no series yet", arguments)
    for row in broken.itertuples():
        talk.fail(f"{row.provider} {row.symbol} {row.timeframe}: {row.problem}")
    return 3 if len(broken) else 0


def _read(made: Vault, words: list[str], arguments: argparse.Namespace, talk: Talk) -> int:
    where = {"provider": arguments.provider, "kind": arguments.kind}
    frame = made.read(words[0], arguments.timeframe, arguments.start, arguments.end, **where)
    show_candles(frame, arguments)
    return 0


def _remove(made: Vault, words: list[str], arguments: argparse.Namespace, talk: Talk) -> int:
    made.remove(words[0], arguments.timeframe, provider=arguments.provider, kind=arguments.kind)
    talk.say(f"removed {words[0]} {arguments.timeframe}")
    return 0
