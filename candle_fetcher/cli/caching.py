"""The command `cache`: statistics, lists, clearing, verification, revisions, imports, backups."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from candle_fetcher.cli.documents import is_json, print_document, print_json, print_rows
from candle_fetcher.cli.opening import folder_setting, open_importer, read_target
from candle_fetcher.cli.tables import print_copied, print_facts, print_imported, show_rows, show_series
from candle_fetcher.cli.talk import Talk
from candle_fetcher.console import is_on_terminal
from candle_fetcher.core.errors import CandleFetcherError, InputError
from candle_fetcher.core.reports import Backup, Imported, Restored
from candle_fetcher.core.sizes import size_text
from candle_fetcher.fetcher import CandleFetcher


def cache(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run the action of `cache`. Return 1 where `verify` found damaged entries."""
    if arguments.action == "import":
        return import_files(arguments, talk)
    _refuse_unread(arguments)
    if arguments.action in ("backup", "restore"):
        return _copy(arguments)
    with CandleFetcher(**folder_setting(arguments), progress=False) as fetcher:
        kept = fetcher.cache
        if arguments.action == "revisions":
            show_rows(talk, kept.revisions(), "no revisions", arguments)
            return 0
        if arguments.action == "list":
            show_series(talk, kept.list(), "nothing is stored", arguments)
            return 0
        stats = kept.stats()
        if arguments.action == "verify":
            verified = kept.verify()
            document: dict[str, Any] = {"path": stats.path, **verified._asdict(), "damaged": list(verified.damaged)}
        elif arguments.action == "compact":
            document = {"path": stats.path, **kept.compact()._asdict()}
        elif arguments.action == "clear":
            symbol, timeframe = _to_clear(arguments)
            what = " ".join(filter(None, (symbol, timeframe)))
            held = f"{stats.disk_entries:,} entries, {size_text(stats.disk_bytes)}, in {stats.path}"
            question = f"Clear {what} out of the cache in {stats.path}?" if what else f"Clear the cache ({held})?"
            if not arguments.yes and not _agrees(talk, question):
                talk.say("nothing was cleared")
                return 0
            document = {"path": stats.path, "cleared": kept.clear(symbol, timeframe)}
        else:
            bounds = ("path", "disk_entries", "disk_bytes", "disk_max_bytes", "memory_max_bytes", "problem")
            document = {name: getattr(stats, name) for name in bounds}
    if is_json(arguments):
        print_document(document, arguments)
    elif arguments.action == "stats" or document.get("damaged") or not arguments.quiet:
        print_facts(document)
    return 1 if document.get("damaged") else 0


def _copy(arguments: argparse.Namespace) -> int:
    """Make or restore a backup, with a bar on a terminal. Return 3 where something damaged was left out."""
    progress = False if arguments.quiet else None
    with CandleFetcher(**folder_setting(arguments), progress=progress) as fetcher:
        try:
            done: Backup | Restored = getattr(fetcher.cache, arguments.action)(arguments.files[0])
        except KeyboardInterrupt as error:
            said = "no file was written" if arguments.action == "backup" else "the same line restores the rest"
            raise KeyboardInterrupt(said) from error
    if is_json(arguments):
        print_document(done._asdict(), arguments)
    elif not arguments.quiet or (isinstance(done, Backup) and done.damaged):
        print_copied(done)
    return 3 if isinstance(done, Backup) and done.damaged else 0


def _refuse_unread(arguments: argparse.Namespace) -> None:
    """Raise InputError for a word or a flag that the action does not read: else `clear` would remove too much."""
    clears = arguments.action == "clear"
    unread = ("kind", "base_url") if clears else ("symbol", "timeframe", "kind", "provider", "base_url")
    flags = [f"--{name.replace('_', '-')}" for name in unread if getattr(arguments, name) is not None]
    copies = arguments.action in ("backup", "restore")
    if copies and not arguments.files:
        raise InputError(f"a file is missing; expected one, such as cache {arguments.action} candles.tar")
    words = [] if clears else [repr(word) for word in arguments.files[copies:]]
    if words or flags:
        takes = "a symbol and a timeframe alone" if clears else "one file" if copies else "no more words"
        raise InputError(f"cache {arguments.action} takes {takes}; leave out {(words + flags)[0]}")


def _to_clear(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return symbol and timeframe, given as words or as flags; a provider that is given stands before the symbol."""
    if len(arguments.files) > 2:
        raise InputError(f"cache clear takes a symbol and a timeframe; leave out {arguments.files[2]!r}")
    symbol, timeframe = (*arguments.files, None, None)[:2]
    for word, flag in ((symbol, arguments.symbol), (timeframe, arguments.timeframe)):
        if None not in (word, flag) and word != flag:
            raise InputError(f"{word!r} and {flag!r} were given; give one of them")
    symbol, timeframe = symbol or arguments.symbol, timeframe or arguments.timeframe
    if arguments.provider is None:
        return symbol, timeframe
    if symbol is None:
        raise InputError(
            f"--provider {arguments.provider} names no series; expected a symbol with it, such as BTC/USDT"
        )
    target = read_target(symbol, arguments.provider)
    return f"{target.provider or arguments.provider}:{target.symbol}", timeframe


def import_files(arguments: argparse.Namespace, talk: Talk) -> int:
    """Import one file after the other, also after one that fails."""
    if not arguments.files:
        raise InputError("a file is missing; expected one or more, such as XBTUSD_60.csv")
    done: list[Imported] = []
    errors: dict[str, Exception] = {}
    with open_importer(arguments, talk) as fetcher:
        for name in arguments.files:
            try:
                one = fetcher.cache.import_file(
                    name,
                    arguments.symbol,
                    arguments.timeframe,
                    provider=arguments.provider,
                    kind=arguments.kind,
                )
            except (CandleFetcherError, OSError) as error:
                errors[name] = error
                continue
            done.append(one)
            if arguments.jsonl:
                print_json(one._asdict())
            elif not (arguments.json or arguments.quiet):
                print_imported(one)
    if arguments.json:
        print_rows([one._asdict() for one in done], arguments)
    if len(arguments.files) == 1 and errors:
        raise errors[arguments.files[0]]
    for said in errors.values():
        talk.fail(said)
    if not errors:
        return 0
    if done:
        return 3
    return 2 if all(isinstance(one, InputError) for one in errors.values()) else 1


def _agrees(talk: Talk, question: str) -> bool:
    """Return whether the user at the terminal says yes. Raises InputError where stdin is not a terminal."""
    if not is_on_terminal(sys.stdin):
        raise InputError("this needs a confirmation, and stdin is not a terminal; give --yes")
    talk.ask(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
