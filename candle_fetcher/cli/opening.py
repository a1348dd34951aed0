"""Fetchers and exchanges with the settings that were typed; the symbols that were typed."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_fetcher.cli.arguments import PORT
from candle_fetcher.cli.symbols_file import Target, read_symbols_file
from candle_fetcher.cli.talk import Talk
from candle_fetcher.core.errors import InputError
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.providers import all_providers, find_provider, split_symbol
from candle_fetcher.settings import user_cache_dir

if TYPE_CHECKING:
    from candle_fetcher.practice import PracticeExchange

FOLDER = "historical_data"


@contextlib.contextmanager
def open_fetcher(arguments: argparse.Namespace, talk: Talk) -> Iterator[CandleFetcher]:
    """Give a fetcher with the settings of the flags; with --practice, start an exchange that it asks."""
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
        "progress": False if arguments.quiet else None,
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
            Talk().say(fetcher.monitor.report())


@contextlib.contextmanager
def open_importer(arguments: argparse.Namespace, talk: Talk) -> Iterator[CandleFetcher]:
    """Give a fetcher that stores candles where a fetch with the same flags would."""
    with contextlib.ExitStack() as stack:
        urls: Any = ",".join(arguments.base_url or ())
        if arguments.practice:
            urls = stack.enter_context(_start_practice(talk)).base_urls
        settings = {"base_urls": urls} if urls else {}
        yield stack.enter_context(CandleFetcher(**folder_setting(arguments), progress=False, **settings))


def _named_providers(arguments: argparse.Namespace) -> list[str]:
    """Return the providers that were named, by flag or before a symbol."""
    symbols = getattr(arguments, "symbols", None) or [getattr(arguments, "symbol", None) or ""]
    named = [name for name, _ in map(split_symbol, symbols) if name is not None]
    return [*named, *([arguments.provider] if arguments.provider is not None else [])]


def _start_practice(talk: Talk) -> PracticeExchange:
    """Return an exchange on the default port: the port is part of the key under which its candles are stored."""
    from candle_fetcher.practice import PracticeExchange

    try:
        return PracticeExchange(port=PORT, log=False).start()
    except OSError:
        talk.warn(f"port {PORT} is taken: the practice exchange takes a free one, and its candles are not found again")
        return PracticeExchange(log=False).start()


def _cache_dir(arguments: argparse.Namespace) -> Path | None:
    """Return the folder that was given; --practice has a folder inside it."""
    given = arguments.cache_dir
    if not arguments.practice:
        return Path(given) if given is not None else None
    folder = given or os.environ.get("CANDLE_FETCHER_CACHE_DIR") or user_cache_dir()
    return None if folder is None else Path(folder) / "practice"


def folder_setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the setting `cache_dir`, if any: a None would override the environment."""
    folder = _cache_dir(arguments)
    return {} if folder is None else {"cache_dir": folder}


def read_setting(arguments: argparse.Namespace, name: str, default: str) -> str:
    return getattr(arguments, name, None) or os.environ.get(f"CANDLE_FETCHER_{name.upper()}") or default


def names_several(arguments: argparse.Namespace) -> bool:
    """Return whether a flag for several symbols is given, even with one symbol."""
    return arguments.symbols is not None or arguments.symbols_file is not None


def read_targets(arguments: argparse.Namespace) -> list[Target]:
    """Return the symbols to fetch: those of the file with their providers, or those that were typed."""
    if names_several(arguments) and Path(arguments.output or FOLDER).suffix.lower() == ".csv":
        flag = "--symbols" if arguments.symbols is not None else "--symbols-file"
        raise InputError(f"--output {arguments.output} is one file and {flag} may be several; give a folder")
    if arguments.symbols_file is not None:
        default = read_setting(arguments, "provider", "binance")
        return read_symbols_file(arguments.symbols_file, arguments.provider, default)
    return [read_target(name, arguments.provider) for name in dict.fromkeys(arguments.symbols or [arguments.symbol])]


def read_target(name: str, asked: str | None) -> Target:
    """Return the symbol that was typed, alone or after its provider and a colon."""
    named, symbol = split_symbol(name)
    if named is None:
        return Target(name)
    provider = find_provider(named).name
    if asked is not None and find_provider(asked).name != provider:
        raise InputError(f"{name} names {provider}, and --provider is {asked}; leave one of them out")
    return Target(symbol, provider)
