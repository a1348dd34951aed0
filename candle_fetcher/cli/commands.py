"""The commands: each calls one public method, prints its result, and returns the exit code."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.cli.caching import cache
from candle_fetcher.cli.completion import completion
from candle_fetcher.cli.documents import is_json, print_candle_lines, print_document, print_json, print_rows, records
from candle_fetcher.cli.living import follow, watch
from candle_fetcher.cli.opening import names_several, open_fetcher, open_importer, read_setting, read_targets
from candle_fetcher.cli.pages import help_page
from candle_fetcher.cli.plotting import plot
from candle_fetcher.cli.quoting import quotes
from candle_fetcher.cli.reports import print_report, report_document
from candle_fetcher.cli.saving import file_options, read_file, side_by_side
from candle_fetcher.cli.serving import serve
from candle_fetcher.cli.symbols_file import Target
from candle_fetcher.cli.tables import (
    print_candles,
    print_checks,
    print_offers,
    print_path,
    print_plan,
    show_candles,
    show_rows,
    table_csv,
)
from candle_fetcher.cli.talk import Talk, show_checks, show_cost, show_missing, show_statistics
from candle_fetcher.cli.vault_commands import vault
from candle_fetcher.core.compare import NEIGHBOURS
from candle_fetcher.core.errors import BadFile, CandleFetcherError, FetchManyError, InputError, MissingExtra
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.gap import iso
from candle_fetcher.core.memory import many_failed
from candle_fetcher.core.naming import PARTIAL
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.sizes import size_text
from candle_fetcher.core.summary import summary
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.files.exporting import FileArguments, save_frame
from candle_fetcher.files.places import find_home, read_manifest
from candle_fetcher.files.writing import replacing
from candle_fetcher.providers import all_providers
from candle_fetcher.settings import MODES
from candle_fetcher.verification import verify_file

if TYPE_CHECKING:
    from candle_fetcher.practice import PracticeExchange


def fetch(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `fetch`: call `fetch` or `fetch_many`."""
    saves = arguments.export is not None or arguments.output is not None
    targets = read_targets(arguments)
    several = names_several(arguments)
    file = read_file(arguments, several=several, is_saved=saves)
    mixed = len({target.provider for target in targets}) > 1
    if mixed and arguments.columns == "all" and not (saves or is_json(arguments)):
        raise InputError("these are of several providers with different columns; --export csv keeps them apart")
    options = _row_options(arguments) | {"columns": file.column_set}
    frames: dict[str, pd.DataFrame] = {}
    errors: dict[str, Exception] = {}
    with open_fetcher(arguments, talk) as fetcher:
        _show_configuration(talk, arguments, targets, fetcher)
        began = time.perf_counter()
        for provider in dict.fromkeys(target.provider for target in targets):
            names = {one.symbol: one.label(mixed=mixed) for one in targets if one.provider == provider}
            try:
                if several:
                    got = fetcher.fetch_many(names, **_wanted(arguments), provider=provider, **options)
                else:
                    (name,) = names
                    got = {name: fetcher.fetch(name, **_wanted(arguments), provider=provider, **options)}
            except FetchManyError as error:
                got = error.frames
                errors.update((names[symbol], one) for symbol, one in error.errors.items())
            frames.update((names[symbol], frame) for symbol, frame in got.items())
        elapsed_s = time.perf_counter() - began
        _hand_out(talk, frames, arguments, file if saves else None, mixed=mixed)
        show_cost(talk, fetcher.monitor.snapshot(), elapsed_s, frames.values())
    if errors:
        raise many_failed(frames, errors)
    return _partial_code(frames)


def _partial_code(frames: dict[str, pd.DataFrame]) -> int:
    """Return the exit code: 3 where a frame is partial."""
    return 3 if any("missing" in frame.attrs[MANIFEST] for frame in frames.values()) else 0


def _row_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments about rows that `fetch` and `export` have in common."""
    return {
        "include_open": arguments.include_open,
        "on_gap": arguments.on_gap or "leave",
        "refresh": arguments.refresh,
        "partial": "allow" if arguments.partial else "raise",
    }


def _hand_out(
    talk: Talk,
    frames: dict[str, pd.DataFrame],
    arguments: argparse.Namespace,
    file: FileArguments | None,
    *,
    mixed: bool,
) -> None:
    """Print or save the frames as files, JSON, CSV or a table, and their checks and statistics on stderr.

    `mixed` says that they are of several providers; the names of these then stand before the symbols.
    """
    several = names_several(arguments)
    manifests = [frame.attrs[MANIFEST] for frame in frames.values()]
    labels = [Target(facts["symbol"], facts["provider"]).label(mixed=mixed) for facts in manifests]
    for place, frame in enumerate(frames.values()):
        show_checks(talk, frame, is_cached=not arguments.no_cache)
        show_missing(talk, frame.attrs[MANIFEST], arguments.source)
        if file is not None:
            written = save_frame(frame, file)
            talk.fact("written", f"{written.name}, {size_text(written.stat().st_size)}", "good")
            if not is_json(arguments):
                print_path(written)
        elif not is_json(arguments):
            print_candles(frame, labels[place] if several else None, with_header=place == 0)
        if arguments.jsonl:
            print_candle_lines(frame, labels[place] if several else None)
        show_statistics(talk, frame)
    if arguments.json and frames:
        documents = [
            {**summary(frame, symbol=label), "rows": records(frame)}
            for frame, label in zip(frames.values(), labels, strict=True)
        ]
        print_document(documents if several else documents[0], arguments)


def export(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `export`: for several symbols side by side, each of which is printed in the order given."""
    targets = read_targets(arguments)
    several = names_several(arguments)
    read_file(arguments, several=several)
    starts = [target.start() if _starts_by_file(arguments, targets) else None for target in targets]
    written: dict[str, Any] = {}  # paths in place of frames
    errors: dict[str, Exception] = {}
    rows: list[dict[str, Any]] = []
    lacks = False
    # The fetcher is closed before its calls are waited for, so that an interrupt ends them.
    with side_by_side(len(targets)) as start_call, open_fetcher(arguments, talk) as fetcher:
        _show_configuration(talk, arguments, targets, fetcher)
        began = time.perf_counter()

        def export_one(target: Target, start: str | None) -> Path:
            wanted = _wanted(arguments) | ({} if start is None else {"start": start})
            options = file_options(arguments) | _row_options(arguments)
            return fetcher.export(target.symbol, provider=target.provider, **options, **wanted)

        calls = [start_call(export_one, *one) for one in zip(targets, starts, strict=True)]
        for target, call in zip(targets, calls, strict=True):
            label = target.label(mixed=True)
            try:
                path = call()
            except (CandleFetcherError, OSError) as error:
                if not several:
                    raise
                errors[label] = error
                continue
            written[label] = path
            talk.fact("written", f"{path.name}, {size_text(path.stat().st_size)}", "good")
            is_part = arguments.partial and path.stem.endswith(PARTIAL)
            if is_part:
                lacks = show_missing(talk, read_manifest(path) or {}, arguments.source) or lacks
            row = {"symbol": label, "path": str(path), "bytes": path.stat().st_size, "partial": is_part}
            rows.append(row)
            if not is_json(arguments):
                print_path(path)
            elif arguments.jsonl:
                print_json(row)
        elapsed_s = time.perf_counter() - began
        figures = fetcher.monitor.snapshot()
    if arguments.json:
        print_rows(rows, arguments)
    talk.fact("candles", f"{figures['candles']:,}")
    show_cost(talk, figures, elapsed_s)
    if errors:
        raise many_failed(written, errors)
    return 3 if lacks else 0


def plan(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `plan`."""
    with open_fetcher(arguments, talk) as fetcher:
        made = fetcher.plan(arguments.symbol, **_wanted(arguments))
    if is_json(arguments):
        print_document(_plan_document(made), arguments)
    else:
        print_plan(str(made))
    return 0


def _plan_document(made: FetchPlan) -> dict[str, Any]:
    figures = {name: getattr(made, name) for name in ("candles", "requests", "weight", "files", "bytes", "seconds")}
    return {
        "provider": made.provider,
        "symbol": made.symbol,
        "timeframe": made.timeframe,
        "kind": made.kind,
        "start": iso(made.span.start_ms),
        "end": iso(made.span.end_ms),
        **figures,
        "steps": [step._asdict() for step in made.steps],
        "notes": list(made.notes),
    }


def gaps(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `gaps`; with --coverage, call `coverage`."""
    with open_fetcher(arguments, talk) as fetcher:
        look = fetcher.coverage if arguments.coverage else fetcher.gaps
        frame = look(arguments.symbol, **_wanted(arguments))
    show_rows(talk, frame, "nothing is known of it yet" if arguments.coverage else "no gaps", arguments)
    return 0


def audit(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `audit`. Return 1 where candles differ; outliers are none of these."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.audit(arguments.symbol, against=arguments.against, **_wanted(arguments))
    for side, count in frame.attrs[MANIFEST]["compared"].items():
        differing = frame["timestamp"][frame["against"] == side].nunique()
        talk.fact(side, f"{count:,} candles compared, {differing:,} differ", "bad" if differing else None)
    outliers = frame.attrs[MANIFEST].get("outliers")
    if outliers is not None:
        talk.fact(
            "outliers",
            f"{outliers['candles']:,} candles beside their neighbours, {outliers['found']:,} values stand out",
        )
    show_rows(talk, frame, "no value differs", arguments)
    return 0 if (frame["against"] == NEIGHBOURS).all() else 1


def funding(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `funding`, with binance-um as the default provider."""
    if arguments.provider is None and not os.environ.get("CANDLE_FETCHER_PROVIDER"):
        arguments.provider = "binance-um"
    with open_fetcher(arguments, talk) as fetcher:
        words = {"refresh": arguments.refresh, "floor": arguments.floor}
        frame = fetcher.fetch_funding(arguments.symbol, **words, **_wanted(arguments))
    show_candles(frame, arguments)
    return 0


def symbols(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `symbols`; with --availability, call `availability`."""
    if is_json(arguments) and arguments.out is not None:
        raise InputError(f"--out {arguments.out} is a CSV file, and --json prints JSON; leave one of them out")
    if arguments.availability and arguments.provider is not None:
        raise InputError(
            f"--availability is of Binance's three markets, and --provider is {arguments.provider}; leave it out"
        )
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.availability() if arguments.availability else fetcher.symbols()
    if arguments.out is not None:
        path = find_home(arguments.out, "the name of a file")
        with replacing(path) as file:
            file.write(table_csv(frame).encode())
        talk.fact("written", f"{path.name}, {len(frame):,} symbols, {size_text(path.stat().st_size)}", "good")
        print_path(path)
    else:
        show_rows(talk, frame, "none", arguments)
    return 0


def providers(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `providers`."""
    frame = CandleFetcher.providers()
    if is_json(arguments):
        print_rows(records(frame), arguments)
    else:
        print_offers(frame)
    return 0


def doctor(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `doctor`. Return 1 where a check fails."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.doctor()
    failed = int((~frame["passed"].fillna(True)).sum())
    if is_json(arguments):
        print_rows(records(frame), arguments)
    else:
        print_checks(frame[~frame["passed"].fillna(True)] if arguments.quiet else frame)
        talk.say(f"{failed} of {len(frame)} checks failed" if failed else f"nothing wrong in {len(frame)} checks")
    return 1 if failed else 0


def practice(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `practice`: serve a PracticeExchange until Ctrl-C, which is its regular end."""
    from candle_fetcher.practice import PracticeExchange

    exchange = PracticeExchange(
        port=arguments.port,
        delay_s=arguments.delay,
        weight_limit=arguments.weight_limit,
        seed=arguments.seed,
        log=False,
    )
    try:
        exchange.start()
    except (OSError, OverflowError) as error:
        raise CandleFetcherError(
            f"port {arguments.port} cannot be listened on ({error}); --port takes another, 0 is a free one"
        ) from error
    with exchange, contextlib.suppress(KeyboardInterrupt):
        width = max(map(len, exchange.base_urls))
        for provider, url in exchange.base_urls.items():
            print(f"{provider:<{width}} {url}")
        sys.stdout.flush()
        talk.say(
            f"\nIn another terminal:\n"
            f"  candle-fetcher fetch BTC/USDT 1h --days 7 --base-url binance={exchange.base_urls['binance']}\n"
            f"or in Python:\n"
            f'  CandleFetcher(base_urls={{"binance": "{exchange.base_urls["binance"]}"}})\n'
            f"or once for all that runs in that terminal, with keys that it lets in:\n"
            f"{_environment_of(exchange)}\n"
            f"\nServing until Ctrl-C."
        )
        forever = threading.Event()
        while not forever.wait(0.5):  # Windows sees Ctrl-C between two waits only
            pass
    return 0


def _environment_of(exchange: PracticeExchange) -> str:
    """Return the lines of a shell by which every provider is the practice exchange."""
    urls = ",".join(f"{name}={url}" for name, url in exchange.base_urls.items())
    keys = {
        key.environment: exchange.api_keys[name][key.name]
        for name in exchange.api_keys
        for key in all_providers()[name].keys
    }
    setting = "set" if sys.platform == "win32" else "export"
    pairs = {"CANDLE_FETCHER_BASE_URLS": urls, **keys}
    return "\n".join(f"  {setting} {name}={value}" for name, value in pairs.items())


def verify(arguments: argparse.Namespace, talk: Talk) -> int:
    """Run `verify`. Return 0 where every file is good, 1 where none is, 3 where some are."""
    verdicts: list[bool] = []

    def documents(fetcher: CandleFetcher) -> Iterator[dict[str, Any]]:
        for path in dict.fromkeys(arguments.files):
            try:
                report = verify_file(path, fetcher=fetcher)
            except (BadFile, InputError, MissingExtra) as error:
                if len(arguments.files) == 1:
                    raise
                verdicts.append(False)
                talk.fail(error)
                yield {"path": path, "error": str(error)}
                continue
            verdicts.append(report.is_good)
            if not (is_json(arguments) or (arguments.quiet and report.is_good)):
                print_report(report)
            yield report_document(report)

    with open_importer(arguments, talk) as fetcher:
        if is_json(arguments):
            print_rows(documents(fetcher), arguments)
        else:
            collections.deque(documents(fetcher), maxlen=0)
    return 0 if all(verdicts) else 3 if any(verdicts) else 1


COMMANDS: dict[str, Callable[[argparse.Namespace, Talk], int]] = {
    "fetch": fetch,
    "export": export,
    "plot": plot,
    "plan": plan,
    "gaps": gaps,
    "audit": audit,
    "funding": funding,
    "symbols": symbols,
    "quotes": quotes,
    "watch": watch,
    "follow": follow,
    "vault": vault,
    "cache": cache,
    "verify": verify,
    "doctor": doctor,
    "providers": providers,
    "serve": serve,
    "practice": practice,
    "help": help_page,
    "completion": completion,
}


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the timeframe and range, as public calls take them."""
    names = ("timeframe", "start", "end", "days", "limit", "kind")
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _starts_by_file(arguments: argparse.Namespace, targets: Sequence[Target]) -> bool:
    """Return whether each symbol is exported since its date in the file: no flag says where the range begins."""
    is_open = arguments.start is None and arguments.days is None and arguments.limit is None
    return arguments.command == "export" and is_open and targets[0].since is not None


def _show_configuration(
    talk: Talk, arguments: argparse.Namespace, targets: Sequence[Target], fetcher: CandleFetcher
) -> None:
    def setting(name: str, default: str) -> str:
        return read_setting(arguments, name, default)

    providers = dict.fromkeys(target.provider or setting("provider", "binance") for target in targets)
    names = [target.symbol for target in targets]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    mode = setting("performance_mode", "standard")
    network, disk = MODES[mode]
    threads = f"{setting('network_threads', str(network))} network, {setting('io_threads', str(disk))} disk ({mode})"
    kind = "" if arguments.kind == "candles" else f" ({arguments.kind})"
    talk.title("candle-fetcher")
    talk.fact("provider", ", ".join(providers) + (" (practice exchange)" if arguments.practice else ""))
    talk.fact("symbol", shown + kind)
    talk.fact("timeframe", arguments.timeframe)
    talk.fact("range", _range_text(arguments, by_file=_starts_by_file(arguments, targets)))
    talk.fact("source", setting("source", "auto"))
    talk.fact("cache", "off" if arguments.no_cache else fetcher.cache.path or "memory only")
    talk.fact("threads", threads)


def _range_text(arguments: argparse.Namespace, *, by_file: bool) -> str:
    start, end, days, limit = arguments.start, arguments.end, arguments.days, arguments.limit
    until = f"{end} (UTC, end excluded)" if end else "now (UTC)"
    if by_file:
        return f"each from its earliest_date to {until}"
    if start is None and days is None:
        return f"the newest {500 if limit is None else limit:,} before {until}"
    first = "" if limit is None else f"the first {limit:,} of "
    if start is not None:
        return f"{first}{start} to {until}"
    return f"{first}{days:g} day{'' if days == 1 else 's'} before {until}"
