"""The commands: each calls one public method and prints what comes back."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.cache import Imported
from candle_fetcher.cli import show
from candle_fetcher.cli.arguments import PORT
from candle_fetcher.cli.show import Talk
from candle_fetcher.cli.symbols_file import Target, read_symbols_file
from candle_fetcher.console import is_on_terminal
from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import CandleFetcherError, FetchManyError, InputError
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.summary import summary
from candle_fetcher.exports import find_home, find_target, replacing
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.exporting import save_frame
from candle_fetcher.fetcher.settings import user_cache_dir
from candle_fetcher.providers import all_providers, find_provider, split_symbol

if TYPE_CHECKING:
    from candle_fetcher.practice import PracticeExchange

_FOLDER = "historical_data"


def fetch(arguments: argparse.Namespace, talk: Talk) -> int:
    """`fetch` and `fetch_many`."""
    saves = arguments.export is not None or arguments.output is not None
    path = find_target(arguments.output or _FOLDER, "") if saves else Path()
    targets = _read_targets(arguments)
    several = _names_several(arguments)
    mixed = len({target.provider for target in targets}) > 1
    if mixed and arguments.columns == "all" and not (saves or arguments.json):
        raise InputError("these are of several providers, whose columns differ; --export csv keeps them apart")
    options = _row_options(arguments)
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
        _hand_out(talk, frames, arguments, path if saves else None, mixed=mixed)
        show.show_cost(talk, fetcher.monitor.snapshot(), elapsed_s, frames.values())
    if errors:
        raise FetchManyError(frames, errors)
    return 0


def _row_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of the rows and their columns, for `fetch` and `export` alike."""
    return {
        "columns": arguments.columns,
        "include_open": arguments.include_open,
        "on_gap": arguments.on_gap or "leave",
        "refresh": arguments.refresh,
    }


def _hand_out(
    talk: Talk,
    frames: dict[str, pd.DataFrame],
    arguments: argparse.Namespace,
    path: Path | None,
    *,
    mixed: bool,
) -> None:
    """What was fetched: as files, JSON, CSV or a table, and what there is to say about it.

    `mixed` says that it is of several providers, which then stand before the symbols.
    """
    several = _names_several(arguments)
    manifests = [frame.attrs[MANIFEST] for frame in frames.values()]
    labels = [Target(facts["symbol"], facts["provider"]).label(mixed=mixed) for facts in manifests]
    for place, frame in enumerate(frames.values()):
        show.show_checks(talk, frame, is_cached=not arguments.no_cache)
        if path is not None:
            written = save_frame(frame, path)
            talk.fact("written", f"{written.name}, {show.size(written.stat().st_size)}", "good")
            if not arguments.json:
                show.print_path(written)
        elif not arguments.json:
            show.print_candles(frame, labels[place] if several else None, with_header=place == 0)
        show.show_statistics(talk, frame)
    if arguments.json and frames:
        documents = [
            {**summary(frame, symbol=label), "rows": show.candle_records(frame)}
            for frame, label in zip(frames.values(), labels, strict=True)
        ]
        show.print_json(documents if several else documents[0])


def export(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.export`, of one symbol after the other."""
    targets = _read_targets(arguments)
    several = _names_several(arguments)
    starts = [target.start() if _starts_by_file(arguments, targets) else None for target in targets]
    written: dict[str, Path] = {}
    errors: dict[str, Exception] = {}
    with open_fetcher(arguments, talk) as fetcher:
        _show_configuration(talk, arguments, targets, fetcher)
        began = time.perf_counter()
        for target, start in zip(targets, starts, strict=True):
            wanted = _wanted(arguments) | ({} if start is None else {"start": start})
            label = target.label(mixed=True)
            try:
                path = fetcher.export(
                    target.symbol,
                    provider=target.provider,
                    path=arguments.output or _FOLDER,
                    **_row_options(arguments),
                    **wanted,
                )
            except CandleFetcherError as error:
                if not several:
                    raise
                errors[label] = error
                continue
            written[label] = path
            talk.fact("written", f"{path.name}, {show.size(path.stat().st_size)}", "good")
            show.print_path(path)
        elapsed_s = time.perf_counter() - began
        figures = fetcher.monitor.snapshot()
    talk.fact("candles", f"{figures['candles']:,}")
    show.show_cost(talk, figures, elapsed_s)
    if errors:
        raise FetchManyError(written, errors)
    return 0


def plan(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.plan`."""
    with open_fetcher(arguments, talk) as fetcher:
        made = fetcher.plan(arguments.symbol, **_wanted(arguments))
    if arguments.json:
        show.print_json(_plan_document(made))
    else:
        print(made, flush=True)
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
    """`CandleFetcher.gaps`, and `coverage`."""
    with open_fetcher(arguments, talk) as fetcher:
        look = fetcher.coverage if arguments.coverage else fetcher.gaps
        frame = look(arguments.symbol, **_wanted(arguments))
    _show_rows(arguments, talk, frame, "nothing is known yet" if arguments.coverage else "no gaps")
    return 0


def audit(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.audit`. Candles that disagree are an error."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.audit(arguments.symbol, against=arguments.against, **_wanted(arguments))
    for side, count in frame.attrs[MANIFEST]["compared"].items():
        differing = frame["timestamp"][frame["against"] == side].nunique()
        talk.fact(side, f"{count:,} candles compared, {differing:,} differ", "bad" if differing else None)
    sides = ["ours", "theirs"]
    if arguments.json:
        frame[sides] = frame[sides].astype(object).where(frame[sides].notna(), None)
        show.print_json(show.records(frame))
    elif not (frame.empty and show.is_terminal()):
        frame[sides] = frame[sides].astype(object).where(frame[sides].notna(), "")
        show.print_table(frame)
    return 0 if frame.empty else 1


def funding(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.fetch_funding`, of USDⓈ-M where no provider is named."""
    if arguments.provider is None and not os.environ.get("CANDLE_FETCHER_PROVIDER"):
        arguments.provider = "binance-um"
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.fetch_funding(arguments.symbol, refresh=arguments.refresh, **_wanted(arguments))
    if arguments.json:
        show.print_json(show.candle_records(frame))
    else:
        show.print_candles(frame, None, with_header=True)
    return 0


def symbols(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.symbols`, `availability`."""
    if arguments.json and arguments.out is not None:
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
            file.write(show.table_csv(frame).encode())
        talk.fact("written", f"{path.name}, {len(frame):,} symbols, {show.size(path.stat().st_size)}", "good")
        show.print_path(path)
    elif arguments.json:
        show.print_json(show.records(frame))
    else:
        show.print_table(frame)
    return 0


def providers(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.providers`."""
    frame = CandleFetcher.providers()
    if arguments.json:
        show.print_json(show.records(frame))
    else:
        show.print_offers(frame)
    return 0


def cache(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleCache.stats`, `list`, `clear`, `verify`, `revisions`, `import_file`. A cache in which something was
    damaged is an error once."""
    if arguments.action == "import":
        return _import(arguments, talk)
    _refuse_unread(arguments)
    with CandleFetcher(**_folder(arguments), progress=False) as fetcher:
        kept = fetcher.cache
        if arguments.action == "revisions":
            _show_rows(arguments, talk, kept.revisions(), "no revisions")
            return 0
        if arguments.action == "list":
            _show_rows(arguments, talk, kept.list(), "nothing is stored")
            return 0
        stats = kept.stats()
        if arguments.action == "verify":
            verified = kept.verify()
            document: dict[str, Any] = {"path": stats.path, **verified._asdict(), "damaged": list(verified.damaged)}
        elif arguments.action == "clear":
            symbol, timeframe = _to_clear(arguments)
            what = " ".join(filter(None, (symbol, timeframe)))
            held = f"{stats.disk_entries:,} entries, {show.size(stats.disk_bytes)}, in {stats.path}"
            question = f"Clear {what} out of the cache in {stats.path}?" if what else f"Clear the cache ({held})?"
            if not arguments.yes and not _agrees(talk, question):
                talk.say("nothing was cleared")
                return 0
            document = {"path": stats.path, "cleared": kept.clear(symbol, timeframe)}
        else:
            bounds = ("path", "disk_entries", "disk_bytes", "disk_max_bytes", "memory_max_bytes", "problem")
            document = {name: getattr(stats, name) for name in bounds}
    if arguments.json:
        show.print_json(document)
    else:
        show.print_facts(document)
    return 1 if document.get("damaged") else 0


def _refuse_unread(arguments: argparse.Namespace) -> None:
    """Raise InputError for a word or a flag that the action does not read: `clear` would remove more than was meant."""
    clears = arguments.action == "clear"
    unread = ("kind", "base_url") if clears else ("symbol", "timeframe", "kind", "provider", "base_url")
    flags = [f"--{name.replace('_', '-')}" for name in unread if getattr(arguments, name) is not None]
    words = [] if clears else [repr(word) for word in arguments.files]
    if words or flags:
        takes = "takes a symbol and a timeframe alone" if clears else "takes no more words"
        raise InputError(f"cache {arguments.action} {takes}; leave out {(words + flags)[0]}")


def _to_clear(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """Symbol, behind its provider where one is named, and timeframe, as words or as flags."""
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
    target = _read_target(symbol, arguments.provider)
    return f"{target.provider or arguments.provider}:{target.symbol}", timeframe


def _import(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleCache.import_file`, of one file after the other; one that fails never loses the others."""
    if not arguments.files:
        raise InputError("a file is missing; expected one or more, such as XBTUSD_60.csv")
    done: list[Imported] = []
    errors: dict[str, Exception] = {}
    with _open_importer(arguments, talk) as fetcher:
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
            if not arguments.json:
                show.print_imported(one)
    if arguments.json:
        show.print_json([one._asdict() for one in done])
    if len(arguments.files) == 1 and errors:
        raise errors[arguments.files[0]]
    for said in errors.values():
        talk.fail(said)
    if not errors:
        return 0
    if done:
        return 3
    return 2 if all(isinstance(one, InputError) for one in errors.values()) else 1


@contextlib.contextmanager
def _open_importer(arguments: argparse.Namespace, talk: Talk) -> Iterator[CandleFetcher]:
    """A fetcher that keeps candles as a fetch with the same words would."""
    with contextlib.ExitStack() as stack:
        urls: Any = ",".join(arguments.base_url or ())
        if arguments.practice:
            urls = stack.enter_context(_start_practice(talk)).base_urls
        settings = {"base_urls": urls} if urls else {}
        yield stack.enter_context(CandleFetcher(**_folder(arguments), progress=False, **settings))


def _show_rows(arguments: argparse.Namespace, talk: Talk, frame: pd.DataFrame, nothing: str) -> None:
    """The rows, or on a terminal the words for none."""
    if arguments.json:
        show.print_json(show.records(frame))
    elif frame.empty and show.is_terminal():
        talk.say(nothing)
    else:
        show.print_table(frame)


def _agrees(talk: Talk, question: str) -> bool:
    """Whether the user at the terminal says yes. Raises InputError where there is no terminal: nothing can confirm."""
    if not is_on_terminal(sys.stdin):
        raise InputError("nothing can confirm this, since stdin is no terminal; give --yes")
    talk.ask(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def doctor(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.doctor`. A check that fails is an error."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.doctor()
    failed = int((~frame["passed"].fillna(True)).sum())
    if arguments.json:
        frame["passed"] = frame["passed"].astype(object).where(frame["passed"].notna(), None)
        show.print_json(show.records(frame))
    else:
        show.print_checks(frame)
        talk.say(f"{failed} of {len(frame)} checks failed" if failed else f"nothing wrong in {len(frame)} checks")
    return 1 if failed else 0


def practice(arguments: argparse.Namespace, talk: Talk) -> int:
    """A PracticeExchange, until Ctrl-C, which is how it is meant to end."""
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
        for provider, url in exchange.base_urls.items():
            print(f"{provider:<16} {url}")
        sys.stdout.flush()
        talk.say(
            f"\nIn another terminal:\n"
            f"  candle-fetcher fetch BTC/USDT 1h --days 7 --base-url binance={exchange.base_urls['binance']}\n"
            f"or in Python:\n"
            f'  CandleFetcher(base_urls={{"binance": "{exchange.base_urls["binance"]}"}})\n'
            f"\nServing until Ctrl-C."
        )
        forever = threading.Event()
        while not forever.wait(0.5):  # Windows sees Ctrl-C between two waits only
            pass
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Talk], int]] = {
    "fetch": fetch,
    "export": export,
    "plan": plan,
    "gaps": gaps,
    "audit": audit,
    "funding": funding,
    "symbols": symbols,
    "cache": cache,
    "doctor": doctor,
    "providers": providers,
    "practice": practice,
}


# -- what they share --------------------------------------------------------------------------------


@contextlib.contextmanager
def open_fetcher(arguments: argparse.Namespace, talk: Talk) -> Iterator[CandleFetcher]:
    """A fetcher with the settings that were given; with --practice, an exchange for it to ask."""
    given = {
        "provider": arguments.provider,
        "source": arguments.source,
        "performance_mode": arguments.performance_mode,
        "cache_dir": _cache_dir(arguments),
        "memory_cache_size": None if arguments.cache_size is None else f"{arguments.cache_size}MB",
        "cache_ttl": arguments.cache_ttl,
        "use_cache": False if arguments.no_cache else None,
        "base_urls": ",".join(arguments.base_url) if arguments.base_url else None,
        "provider_settings": ",".join(arguments.set) if arguments.set else None,
    }
    with contextlib.ExitStack() as stack:
        if arguments.practice:
            exchange = stack.enter_context(_start_practice(talk))
            given |= {"base_urls": exchange.base_urls, "api_keys": exchange.api_keys}
            for name in _named_providers(arguments):
                if find_provider(name).name not in exchange.base_urls:
                    played = ", ".join(one for one in exchange.base_urls if one in all_providers())
                    raise InputError(f"--practice does not play {name}; expected one of {played}")
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        fetcher = stack.enter_context(CandleFetcher(**settings))
        yield fetcher
        if arguments.debug:
            talk.say(fetcher.monitor.report())


def _named_providers(arguments: argparse.Namespace) -> list[str]:
    """The providers that were named, for all symbols or before one."""
    symbols = getattr(arguments, "symbols", None) or [getattr(arguments, "symbol", None) or ""]
    named = [name for name, _ in map(split_symbol, symbols) if name is not None]
    return [*named, *([arguments.provider] if arguments.provider is not None else [])]


def _start_practice(talk: Talk) -> PracticeExchange:
    """An exchange on the usual port, since the port is part of what its candles are stored under."""
    from candle_fetcher.practice import PracticeExchange

    try:
        return PracticeExchange(port=PORT, log=False).start()
    except OSError:
        talk.warn(f"port {PORT} is taken: the practice exchange takes a free one, and its candles are not found again")
        return PracticeExchange(log=False).start()


def _cache_dir(arguments: argparse.Namespace) -> Path | None:
    """The folder that was given; that of --practice lies in it."""
    given = arguments.cache_dir
    if not arguments.practice:
        return Path(given) if given is not None else None
    folder = given or os.environ.get("CANDLE_FETCHER_CACHE_DIR") or user_cache_dir()
    return None if folder is None else Path(folder) / "practice"


def _folder(arguments: argparse.Namespace) -> dict[str, Any]:
    """The setting of the folder, where there is one: None would be one too, and pass over the environment's."""
    folder = _cache_dir(arguments)
    return {} if folder is None else {"cache_dir": folder}


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """Timeframe and range, as every call takes them."""
    names = ("timeframe", "start", "end", "days", "limit", "kind")
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _setting(arguments: argparse.Namespace, name: str, default: str) -> str:
    return getattr(arguments, name) or os.environ.get(f"CANDLE_FETCHER_{name.upper()}") or default


def _names_several(arguments: argparse.Namespace) -> bool:
    """Whether the words allow for several symbols, however many they name."""
    return arguments.symbols is not None or arguments.symbols_file is not None


def _read_targets(arguments: argparse.Namespace) -> list[Target]:
    """The symbols to fetch: those of the file, with their providers, or those that were typed."""
    if _names_several(arguments) and Path(arguments.output or _FOLDER).suffix.lower() == ".csv":
        flag = "--symbols" if arguments.symbols is not None else "--symbols-file"
        raise InputError(f"--output {arguments.output} is one file and {flag} may be several; give a folder")
    if arguments.symbols_file is not None:
        usual = _setting(arguments, "provider", "binance")
        return read_symbols_file(arguments.symbols_file, arguments.provider, usual)
    return [_read_target(name, arguments.provider) for name in dict.fromkeys(arguments.symbols or [arguments.symbol])]


def _read_target(name: str, asked: str | None) -> Target:
    """The symbol that was typed, behind its provider or alone."""
    named, symbol = split_symbol(name)
    if named is None:
        return Target(name)
    provider = find_provider(named).name
    if asked is not None and find_provider(asked).name != provider:
        raise InputError(f"{name} names {provider}, and --provider is {asked}; leave one of them out")
    return Target(symbol, provider)


def _starts_by_file(arguments: argparse.Namespace, targets: Sequence[Target]) -> bool:
    """Whether each symbol is exported since its date in the file, as where nothing that was typed says since when."""
    is_open = arguments.start is None and arguments.days is None and arguments.limit is None
    return arguments.command == "export" and is_open and targets[0].since is not None


def _show_configuration(
    talk: Talk, arguments: argparse.Namespace, targets: Sequence[Target], fetcher: CandleFetcher
) -> None:
    def setting(name: str, default: str) -> str:
        return _setting(arguments, name, default)

    providers = dict.fromkeys(target.provider or setting("provider", "binance") for target in targets)
    names = [target.symbol for target in targets]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    pools = fetcher.monitor.snapshot()["pools"]
    mode = setting("performance_mode", "standard")
    kind = "" if arguments.kind == "candles" else f" ({arguments.kind})"
    talk.title("candle-fetcher")
    talk.fact("provider", ", ".join(providers) + (" (practice exchange)" if arguments.practice else ""))
    talk.fact("symbol", shown + kind)
    talk.fact("timeframe", arguments.timeframe)
    talk.fact("range", _range_text(arguments, by_file=_starts_by_file(arguments, targets)))
    talk.fact("source", setting("source", "auto"))
    talk.fact("cache", "off" if arguments.no_cache else fetcher.cache.path or "memory only")
    talk.fact("threads", f"{pools['network']['threads']} network, {pools['io']['threads']} disk ({mode})")


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
