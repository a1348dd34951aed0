"""The command `quotes`: what providers say of symbols now."""

from __future__ import annotations

import argparse
import sys

from candle_fetcher.cli.documents import is_json, print_document, print_rows
from candle_fetcher.cli.opening import open_fetcher
from candle_fetcher.cli.tables import is_terminal, table_csv
from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import Palette, Role, printable
from candle_fetcher.core.quote import Quotes, quote_lines


def quotes(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `quotes`. Return 3 where some symbols have no quote of now, 1 where none has."""
    with open_fetcher(arguments, talk) as fetcher:
        found = fetcher.quotes(arguments.files, timeout_s=arguments.timeout, max_age_s=arguments.max_age)
    if arguments.json:
        print_document(found.to_json(), arguments)
    elif arguments.jsonl:
        print_rows((quote.to_json() for quote in found), arguments)
    elif is_terminal():
        _print_table(found)
    else:
        sys.stdout.write(table_csv(found.to_frame()))
        sys.stdout.flush()
    for quote in found:
        if quote.error is not None:
            say = talk.fail if quote.received_at is None or is_json(arguments) else talk.warn
            say(f"{quote.provider}:{quote.symbol}: {quote.error}" if quote.provider else quote.error)
    failed = sum(quote.error is not None for quote in found)
    return 0 if not failed else 3 if failed < len(found) else 1


def _print_table(found: Quotes) -> None:
    """Print a line for each quote; an age with a ! is of a stale one."""
    paint = Palette().paint
    head, *lines = map(printable, quote_lines(found))
    print(paint(head, "title"))
    for line, quote in zip(lines, found, strict=True):
        role: Role | None = "bad" if quote.received_at is None else "warn" if quote.is_stale else None
        print(line if role is None else paint(line, role))
    sys.stdout.flush()
