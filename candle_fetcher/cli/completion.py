"""`candle-fetcher completion SHELL`: a script by which a shell completes commands, flags and their values.

It is made of the parser of the command line, so that it never says anything else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from candle_fetcher.cli.arguments import make_parsers
from candle_fetcher.cli.pages import find_pages
from candle_fetcher.cli.shells import SCRIPTS, Command, Flag, Values, Words
from candle_fetcher.cli.talk import Talk
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.core.types import COLUMN_SETS, GAP_POLICIES, SOURCE_NAMES
from candle_fetcher.log import LEVELS
from candle_fetcher.providers import all_providers
from candle_fetcher.settings import MODES

_KINDS = ("candles", "mark", "index", "premium")
_FILES, _FOLDERS = Values("files"), Values("folders")
# The words of `cache ACTION` that are files; the others are symbols.
_TAKES_FILES = ("import", "backup", "restore")


def completion(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `completion`: print the script of a shell."""
    sys.stdout.write(SCRIPTS[arguments.shell](describe()))
    sys.stdout.flush()
    return 0


def describe() -> list[Command]:
    """Return the commands with their flags and words, and what completes each."""
    _, parsers = make_parsers()
    values = _values_by_name()
    found = []
    for name, parser in parsers.items():
        flags, words = [], []
        for action in parser._actions:
            says = (action.help or "").replace("%%", "%")
            if action.option_strings:
                takes = None if action.nargs == 0 else _values(action, values)
                repeats = isinstance(action, argparse._AppendAction)
                flags.append(Flag(tuple(action.option_strings), says, takes, repeats))
            else:
                words.append(Words(_values(action, values), repeats=action.nargs in ("*", "+")))
        if name == "cache":
            words[1] = Words(_FILES, repeats=True, after=_TAKES_FILES)
        found.append(Command(name, parser.description or "", flags, words))
    return found


def _values_by_name() -> Mapping[str, Values]:
    """Return what completes an argument, by its metavar or its destination."""

    def words(*names: str) -> Values:
        return Values("words", names)

    names = {name for one in all_providers().values() for feed in one.feeds.values() for name in feed.timeframes}
    timeframes = sorted(names, key=lambda name: parse_timeframe(name).nominal_ms)
    return {
        **dict.fromkeys(("FILE", "PATH"), _FILES),
        **dict.fromkeys(("DIR", "WHERE"), _FOLDERS),
        **dict.fromkeys(("ID", "provider"), words(*all_providers())),
        **dict.fromkeys(("TIMEFRAME", "timeframe"), words(*timeframes)),
        "start": words("first", "today", "yesterday", "7d", "30d"),
        "end": words("now", "today", "yesterday"),
        "source": words(*SOURCE_NAMES),
        "kind": words(*_KINDS),
        "HOW": words(*GAP_POLICIES),
        "MODE": words(*MODES),
        "LEVEL": words(*(level.lower() for level in LEVELS)),
        "SET": words(*COLUMN_SETS),
        "against": words("finer", "archive", "cache", *timeframes),
        "PAGE": words(*find_pages(), *make_parsers()[1]),
        "format": words("csv", "parquet", "arrow"),
    }


def _values(action: argparse.Action, known: Mapping[str, Values]) -> Values:
    if action.choices is not None:
        return Values("words", tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else None
    return known.get(metavar or "") or known.get(action.dest) or Values("nothing")
