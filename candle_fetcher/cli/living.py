"""The commands `watch` and `follow`: quotes as they change, and candles as they close, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from candle_fetcher.cli.documents import is_json, print_candle_lines, print_json
from candle_fetcher.cli.opening import open_fetcher
from candle_fetcher.cli.tables import is_terminal, print_candles
from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import Palette, Role, printable
from candle_fetcher.core.errors import CandleFetcherError, InputError
from candle_fetcher.core.quote import Quote, Quotes, quote_lines
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.vault import Vault

# A table on a terminal is drawn this often at most, in seconds.
_DRAW_S = 0.2
# How often the thread that watches the reader of a pipe looks for the end of the command, in ms.
_LOOK_MS = 1_000
# A frame of more rows is history: on a terminal it is one line.
_LINES = 20


def watch(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `watch` until Ctrl-C, and return 0."""
    is_table = is_terminal() and not is_json(arguments)
    with open_fetcher(arguments, talk) as fetcher:
        with fetcher.watch(arguments.files, every_s=arguments.every, max_age_s=arguments.max_age) as live:
            drawing = _Board(Palette()) if is_table else contextlib.nullcontext()
            with _until_interrupted(), _ending_with_reader(live.close), drawing as board:
                for quote in live:
                    if board is None:
                        print_json(quote.to_json())
                    else:
                        board.show(quote)
            stats = live.stats
        talk.say(f"{stats.quotes:,} quotes, {stats.messages:,} messages, {stats.reconnects:,} reconnects")
    return 0


def follow(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `follow` until Ctrl-C, and return 0."""
    symbols = _read_words(arguments)
    with contextlib.ExitStack() as stack:
        fetcher = stack.enter_context(open_fetcher(arguments, talk))
        given: dict[str, Any] = {"include_open": arguments.include_open, "revisions": arguments.revisions}
        given |= {"kind": arguments.kind, "max_delay_s": arguments.max_delay, "provider": arguments.provider}
        vault = None
        if arguments.vault is not None:
            vault = _Growing(stack.enter_context(Vault(arguments.vault, fetcher)), fetcher, arguments)
        stack.enter_context(_until_interrupted())
        live = stack.enter_context(fetcher.follow(symbols, arguments.timeframe, arguments.start, **given))
        stack.enter_context(_ending_with_reader(live.close))
        name_of = dict.fromkeys(symbols) if len(symbols) == 1 else {symbol: symbol for symbol in symbols}
        is_first = True
        for symbol, frame in live:
            if is_json(arguments):
                print_candle_lines(frame, symbol)
            elif is_terminal():
                _print_lines(frame, name_of[symbol])
            else:
                print_candles(frame, name_of[symbol], with_header=is_first)
            is_first = False
            if vault is not None:
                vault.update(symbol, frame, talk)
    return 0


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """Take Ctrl-C for the end of a block: the commands here have no other one."""
    with contextlib.suppress(KeyboardInterrupt):
        yield
    if is_terminal():
        print(flush=True)


@contextlib.contextmanager
def _ending_with_reader(close: Callable[[], object]) -> Iterator[None]:
    """Call `close` once the reader of a pipe is gone, such as `head`: the next write, which would notice it, may be a
    day ahead. Where the system cannot tell, nothing is done."""
    done = threading.Event()
    try:
        number = sys.stdout.fileno()
        mode = os.fstat(number).st_mode
    except (OSError, ValueError):
        mode = 0
    if hasattr(select, "poll") and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        poll = select.poll()
        poll.register(number, 0)

        def look() -> None:
            while not done.is_set():
                if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(_LOOK_MS)):
                    close()
                    return

        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _read_words(arguments: argparse.Namespace) -> list[str]:
    """Return the symbols; the last word is the timeframe where it is one and no flag gives it."""
    words = list(arguments.files)
    if arguments.timeframe is None and len(words) > 1 and _is_timeframe(words[-1]):
        arguments.timeframe = words.pop()
    arguments.timeframe = arguments.timeframe or "1h"
    arguments.symbols = words
    return words


def _is_timeframe(word: str) -> bool:
    try:
        parse_timeframe(word)
    except InputError:
        return False
    return True


class _Board:
    """A table on a terminal that renews itself, with a line for each symbol. A thread draws it, while it is entered."""

    def __init__(self, palette: Palette) -> None:
        self._paint = palette.paint
        self._quotes: dict[str, Quote] = {}
        self._lines = 0  # of the table that is on the screen
        self._has_changed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def show(self, quote: Quote) -> None:
        """Show the quote with the next drawing."""
        self._quotes[f"{quote.provider}:{quote.symbol}"] = quote
        self._has_changed = True

    def _run(self) -> None:
        while not self._stop.wait(_DRAW_S):
            if self._has_changed:
                self._has_changed = False
                self._draw()

    def _draw(self) -> None:
        columns, rows = shutil.get_terminal_size()
        quotes = Quotes(list(self._quotes.values()))
        head, *lines = (printable(line)[: columns - 1] for line in quote_lines(quotes))
        painted = [self._paint(head, "title")]
        for line, quote in zip(lines, quotes, strict=True):
            role: Role | None = "bad" if quote.received_at is None else "warn" if quote.is_stale else None
            painted.append(line if role is None else self._paint(line, role))
        hidden = len(painted) - (rows - 1)
        if hidden > 0:
            painted = [*painted[: rows - 2], self._paint(f"and {hidden + 1:,} more"[: columns - 1], "dim")]
        up = f"\x1b[{self._lines}F" if self._lines else ""
        sys.stdout.write(up + "".join(f"{line}\x1b[K\n" for line in painted) + "\x1b[J")
        sys.stdout.flush()
        self._lines = len(painted)


def _print_lines(frame: pd.DataFrame, symbol: str | None) -> None:
    """Print a line for each candle; of history, how much of it there is."""
    name = "" if symbol is None else f"{printable(symbol)}  "
    if len(frame) > _LINES:
        first, last = (f"{time_:%Y-%m-%d %H:%M:%S}" for time_ in (frame.index[0], frame.index[-1]))
        print(f"{name}{len(frame):,} candles from {first} to {last}", flush=True)
        return
    for time_, row in frame.iterrows():
        prices = {label: f"{row[label]:.10g}" for label in ("open", "high", "low", "close")}
        places = max(len(price.partition(".")[2]) for price in prices.values())
        figures = "  ".join(f"{label[0]} {row[label]:.{places}f}" for label in prices)
        notes = "".join(
            f"  {note}"
            for note, is_so in (
                ("forming", "is_closed" in row and not row["is_closed"]),
                ("revised", "is_revised" in row and row["is_revised"]),
            )
            if is_so
        )
        print(f"{name}{time_:%Y-%m-%d %H:%M:%S}  {figures}  v {row['volume']:.10g}{notes}", flush=True)


class _Growing:
    """A vault that grows along: what is handed out is in the cache, and the vault takes it from there."""

    def __init__(self, vault: Vault, fetcher: CandleFetcher, arguments: argparse.Namespace) -> None:
        self._vault = vault
        self._arguments = arguments
        self._begun: set[str] = set()

    def update(self, symbol: str, frame: pd.DataFrame, talk: Talk) -> None:
        """Bring the series up to what is settled. A failure is shown, and the next update repairs it."""
        if frame.empty or ("is_closed" in frame and not frame["is_closed"].any()):
            return
        arguments = self._arguments
        given: dict[str, Any] = {"provider": arguments.provider, "kind": arguments.kind, "progress": False}
        try:
            if symbol not in self._begun:
                self._begun.add(symbol)
                try:
                    self._vault.update([symbol], arguments.timeframe, **given)
                    return
                except CandleFetcherError:  # a new series, which needs a start
                    given["start"] = frame.index[0]
            self._vault.update([symbol], arguments.timeframe, **given)
        except (CandleFetcherError, OSError) as error:
            talk.warn(f"{symbol}: the vault was not updated: {error}")
