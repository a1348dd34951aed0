"""Names of arguments: those that a call has, and what other libraries call them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from candle_fetcher.core.arguments import is_several
from candle_fetcher.core.errors import InputError, UnknownArgument, shown
from candle_fetcher.core.tracebacks import short_errors

F = TypeVar("F", bound=Callable[..., Any])

# What other libraries call our arguments.
_FOREIGN = {
    "symbol": ("pair", "ticker", "market", "instrument", "code", "currency_pair", "product_id"),
    "symbols": ("pairs", "tickers", "markets", "symbol"),
    "timeframe": ("interval", "tf", "granularity", "resolution", "bar_size", "freq", "chart_interval"),
    "start": ("since", "start_time", "startTime", "start_date", "start_str", "start_ts", "from_", "from_date", "begin"),
    "end": ("until", "end_time", "endTime", "end_date", "end_str", "end_ts", "to", "to_", "to_date"),
    "days": ("period", "lookback", "n_days"),
    "limit": ("count", "n", "bars", "max_results", "num_candles", "last"),
    "provider": ("exchange", "exchange_id", "venue", "broker"),
    "kind": ("chart_type", "candle_type", "klines_type", "price"),
    "source": ("enforce_source", "data_source"),
    "include_open": ("include_incomplete", "include_current", "partial_candle"),
    "on_gap": ("fill", "fill_gaps", "fillna", "gaps"),
    "partial": ("allow_partial", "on_missing"),
    "refresh": ("force", "force_refresh", "reload"),
    "path": ("filename", "file", "folder", "output_dir", "directory", "out"),
    "format": ("fmt", "file_format", "extension"),
    "columns": ("fields", "cols"),
    "cache_dir": ("cache_path", "cache_folder"),
    "cache_ttl": ("ttl",),
    "max_retries": ("retry_count", "retries"),
    "timeout_s": ("timeout",),
    "network_threads": ("max_concurrent", "max_workers", "threads", "concurrency", "thread_pool_size"),
    "api_keys": ("api_key", "apiKey", "key", "keys", "token"),
    "base_urls": ("base_url", "url", "urls", "host"),
}


def check_arguments(call: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise UnknownArgument for the first name that is not allowed, with ours for it."""
    for name in given:
        if name not in allowed:
            meant = (ours for ours, others in _FOREIGN.items() if ours in allowed and name in others)
            raise UnknownArgument(call, name, allowed, next(meant, None))


def names_of(call: Callable[..., Any]) -> list[str]:
    """Return the names by which arguments can be given."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(call).parameters.values()
    return [one.name for one in found if one.kind in kinds and one.name != "self"]


def checked_constructor(method: F) -> F:
    """Decorate an `__init__`: a keyword that it does not have is an UnknownArgument, which names the one it has."""
    names = names_of(method)
    call = f"{method.__qualname__.partition('.')[0]}()"

    @functools.wraps(method)
    def construct(self: Any, /, *args: Any, **kwargs: Any) -> None:
        check_arguments(call, kwargs, names)
        method(self, *args, **kwargs)

    return short_errors(cast(F, construct))


def read_symbols(symbols: Any) -> list[str]:
    """Return the symbols of a call for several, each once. Raises InputError where they are not several texts."""
    if not is_several(symbols):
        raise InputError(f"symbols {shown(symbols)} is not a list; expected a list such as ['BTC/USDT', 'ETH/USDT']")
    several = list(symbols)
    if not all(isinstance(name, str) for name in several):
        raise InputError(f"symbols {shown(several)} must all be text; expected a list such as ['BTC/USDT', 'ETH/USDT']")
    return list(dict.fromkeys(several))
