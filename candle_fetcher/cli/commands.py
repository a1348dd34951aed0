"""The commands: each calls one public method and prints what comes back."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from candle_fetcher.cli import show
from candle_fetcher.cli.arguments import PORT
from candle_fetcher.cli.show import Talk
from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import CandleFetcherError, FetchManyError, InputError
from candle_fetcher.core.frame import MANIFEST, index_ms
from candle_fetcher.core.plan import FetchPlan
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.summary import summary
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.export import csv_name, replacing
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.settings import user_cache_dir

if TYPE_CHECKING:
    from candle_fetcher.practice import PracticeExchange

_FOLDER = "historical_data"


def fetch(arguments: argparse.Namespace, talk: Talk) -> int:
    """`fetch` and `fetch_many`."""
    saves = arguments.export is not None or arguments.output is not None
    path = Path(arguments.output or _FOLDER)
    several = arguments.symbols is not None
    if several and path.suffix.lower() == ".csv":
        raise InputError(f"--output {arguments.output} is one file and --symbols may be several; give a folder")
    options = {
        "columns": arguments.columns,
        "include_open": arguments.include_open,
        "on_gap": arguments.on_gap or "leave",
        "refresh": arguments.refresh,
    }
    failed: FetchManyError | None = None
    with open_fetcher(arguments, talk) as fetcher:
        _show_configuration(talk, arguments, fetcher)
        began = time.perf_counter()
        if several:
            try:
                frames = fetcher.fetch_many(arguments.symbols, **_wanted(arguments), **options)
            except FetchManyError as error:
                frames, failed = error.frames, error
        else:
            frame = fetcher.fetch(arguments.symbol, **_wanted(arguments), **options)
            frames = {frame.attrs[MANIFEST]["symbol"]: frame}
        elapsed_s = time.perf_counter() - began
        _hand_out(talk, frames, arguments, path if saves else None)
        show.show_cost(talk, fetcher.monitor.snapshot(), elapsed_s, frames.values())
    if failed is not None:
        raise failed
    return 0


def _hand_out(
    talk: Talk,
    frames: dict[str, pd.DataFrame],
    arguments: argparse.Namespace,
    path: Path | None,
) -> None:
    """What was fetched: as files, JSON, CSV or a table, and what there is to say about it."""
    several = arguments.symbols is not None
    for place, frame in enumerate(frames.values()):
        show.show_checks(talk, frame, is_cached=not arguments.no_cache)
        if path is not None:
            written = save_csv(frame, path)
            talk.fact("written", f"{written.name}, {show.size(written.stat().st_size)}", "good")
            if not arguments.json:
                print(written, flush=True)
        elif not arguments.json:
            symbol = frame.attrs[MANIFEST]["symbol"] if several else None
            show.print_candles(frame, symbol, with_header=place == 0)
        show.show_statistics(talk, frame)
    if arguments.json and frames:
        documents = [summary(frame) for frame in frames.values()]
        show.print_json(documents if several else documents[0])


def save_csv(frame: pd.DataFrame, path: Path) -> Path:
    """The file written: byte for byte what `export` would write, for a frame that is there already."""
    facts = frame.attrs[MANIFEST]
    span = Span(instant_ms(facts["start"], "start"), instant_ms(facts["end"], "end"))
    name = csv_name(facts["provider"], facts["symbol"], facts["kind"], parse_timeframe(facts["timeframe"]), span)
    target = path if path.suffix.lower() == ".csv" else path / name
    with replacing(target) as file:
        for text in show.csv_text(frame):
            file.write(text.encode())
    return target


def export(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.export`."""
    with open_fetcher(arguments, talk) as fetcher:
        _show_configuration(talk, arguments, fetcher)
        began = time.perf_counter()
        written = fetcher.export(
            arguments.symbol,
            path=arguments.output or _FOLDER,
            columns=arguments.columns,
            **_wanted(arguments),
        )
        elapsed_s = time.perf_counter() - began
        figures = fetcher.monitor.snapshot()
    talk.fact("written", f"{written.name}, {show.size(written.stat().st_size)}", "good")
    talk.fact("candles", f"{figures['candles']:,}")
    print(written, flush=True)
    show.show_cost(talk, figures, elapsed_s)
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
    """`CandleFetcher.gaps`."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.gaps(arguments.symbol, **_wanted(arguments))
    _show_rows(arguments, talk, frame, "no gaps")
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
        times = [iso(ms) for ms in index_ms(frame).tolist()]
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        show.print_json([{"timestamp": time, **row} for time, row in zip(times, rows, strict=True)])
    else:
        show.print_candles(frame, None, with_header=True)
    return 0


def symbols(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleFetcher.symbols`."""
    with open_fetcher(arguments, talk) as fetcher:
        frame = fetcher.symbols()
    if arguments.json:
        show.print_json(show.records(frame))
    else:
        show.print_table(frame)
    return 0


def cache(arguments: argparse.Namespace, talk: Talk) -> int:
    """`CandleCache.stats`, `clear`, `verify`, `revisions`. A cache in which something was damaged is an error once."""
    with CandleFetcher(cache_dir=_cache_dir(arguments), progress=False) as fetcher:
        kept = fetcher.cache
        if arguments.action == "revisions":
            _show_rows(arguments, talk, kept.revisions(), "no revisions")
            return 0
        stats = kept.stats()
        if arguments.action == "verify":
            verified = kept.verify()
            document: dict[str, Any] = {"path": stats.path, **verified._asdict(), "damaged": list(verified.damaged)}
        elif arguments.action == "clear":
            held = f"{stats.disk_entries:,} entries, {show.size(stats.disk_bytes)}, in {stats.path}"
            if not arguments.yes and not _agrees(talk, f"Clear the cache ({held})?"):
                talk.say("nothing was cleared")
                return 0
            kept.clear()
            document = {"path": stats.path, "cleared": stats.disk_entries}
        else:
            bounds = ("path", "disk_entries", "disk_bytes", "disk_max_bytes", "memory_max_bytes", "problem")
            document = {name: getattr(stats, name) for name in bounds}
    if arguments.json:
        show.print_json(document)
    else:
        show.print_facts(document)
    return 1 if document.get("damaged") else 0


def _show_rows(arguments: argparse.Namespace, talk: Talk, frame: pd.DataFrame, nothing: str) -> None:
    """The rows, or on a terminal the words for none."""
    if arguments.json:
        show.print_json(show.records(frame))
    elif frame.empty and show.is_terminal():
        talk.say(nothing)
    else:
        show.print_table(frame)


def _agrees(talk: Talk, question: str) -> bool:
    """Whether the person at the terminal says yes; without a terminal nobody is asked."""
    if not sys.stdin.isatty():
        return True
    talk.ask(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


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
    }
    with contextlib.ExitStack() as stack:
        if arguments.practice:
            given["base_urls"] = stack.enter_context(_start_practice(talk)).base_urls
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        fetcher = stack.enter_context(CandleFetcher(**settings))
        yield fetcher
        if arguments.debug:
            talk.say(fetcher.monitor.report())


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
    return Path(given or os.environ.get("CANDLE_FETCHER_CACHE_DIR") or user_cache_dir()) / "practice"


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """Timeframe and range, as every call takes them."""
    names = ("timeframe", "start", "end", "days", "limit", "kind")
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _show_configuration(talk: Talk, arguments: argparse.Namespace, fetcher: CandleFetcher) -> None:
    def setting(name: str, default: str) -> str:
        return getattr(arguments, name) or os.environ.get(f"CANDLE_FETCHER_{name.upper()}") or default

    names = getattr(arguments, "symbols", None) or [arguments.symbol]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    pools = fetcher.monitor.snapshot()["pools"]
    mode = setting("performance_mode", "standard")
    kind = "" if arguments.kind == "candles" else f" ({arguments.kind})"
    talk.title("candle-fetcher")
    talk.fact("provider", setting("provider", "binance") + (" (practice exchange)" if arguments.practice else ""))
    talk.fact("symbol", shown + kind)
    talk.fact("timeframe", arguments.timeframe)
    talk.fact("range", _range_text(arguments))
    talk.fact("source", setting("source", "auto"))
    talk.fact("cache", "off" if arguments.no_cache else fetcher.cache.path or "memory only")
    talk.fact("threads", f"{pools['network']['threads']} network, {pools['io']['threads']} disk ({mode})")


def _range_text(arguments: argparse.Namespace) -> str:
    start, end, days, limit = arguments.start, arguments.end, arguments.days, arguments.limit
    until = f"{end} (UTC, end excluded)" if end else "now (UTC)"
    if start is None and days is None:
        return f"the newest {limit or 500:,} before {until}"
    first = f"the first {limit:,} of " if limit else ""
    if start is not None:
        return f"{first}{start} to {until}"
    return f"{first}{days:g} day{'' if days == 1 else 's'} before {until}"
