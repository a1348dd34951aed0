"""From a symbol, a timeframe and a kind, as users write them, to the series of a provider."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable

from candle_fetcher.core.errors import InputError, NotOffered, shown
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.providers import Provider, all_providers

_PAIR = re.compile(r"\s*([^\W_]+)[/-]([^\W_]+)\s*")


def read_pair(symbol: str) -> str | None:
    """Return a symbol with / or - between base and quote as BASE/QUOTE; None for other symbols, such as BTCUSDT."""
    pair = _PAIR.fullmatch(symbol)
    return "/".join(pair.groups()).upper() if pair else None


@functools.lru_cache(maxsize=1024)
def _unified(unified: Callable[[str], str], provider_symbol: str) -> str:
    return unified(provider_symbol)


def read_series(
    provider: Provider, origin: str | None, symbol: str, timeframe: str, kind: str
) -> tuple[Series, str, Timeframe]:
    """Return the series to request, the symbol as BASE/QUOTE, and the timeframe of the candles that a call returns.

    The series has a finer timeframe where the candles of the call are made of finer ones. Raises InputError for an
    invalid symbol or timeframe, NotOffered where the provider lacks the kind or the timeframe.
    """
    try:
        feed = provider.feed(kind)
    except NotOffered as error:
        if kind == "funding":
            raise NotOffered(
                "funding rates are not candles; use fetch_funding, or funding on the command line"
            ) from None
        raise _with_others(error, lambda other: other.feed(kind)) from None
    if not isinstance(timeframe, str):
        raise InputError(f"timeframe {shown(timeframe)} is not a text; expected one such as '1h'")
    wanted = parse_timeframe(timeframe)
    try:
        base = base_for(wanted, feed.timeframes, provider.name, feed.off_grid)
        if base != wanted and not feed.is_resampled:
            raise NotOffered(
                f"{provider.name} has no {shown(kind)} of {wanted}, and this kind cannot be resampled; "
                f"it offers {', '.join(feed.timeframes)}"
            )
    except NotOffered as error:
        raise _with_others(error, lambda other: base_for(wanted, other.feed(kind).timeframes, other.name)) from None
    provider_symbol = provider.provider_symbol(symbol, kind)
    name = _unified(provider.unified, provider_symbol)
    typed = read_pair(symbol) or name  # the user's own split of the id, where it has one, is more certain than ours
    if typed.replace("/", "") == name.replace("/", "").upper() and typed != name.upper():
        name = typed
    settings: tuple[tuple[str, str], ...] = ()
    if provider.settings:
        settings = tuple((one.name, one.allowed[0]) for one in provider.settings if one.is_of_series)
    return Series(provider.name, origin, provider_symbol, base, kind, settings), name, wanted


def _with_others(error: NotOffered, offered: Callable[[Provider], object]) -> NotOffered:
    """Return the error with the names of providers that do offer it: those for which `offered` does not raise."""
    having = []
    for other in all_providers().values():
        with contextlib.suppress(InputError):
            offered(other)
            having.append(other.name)
    return NotOffered(f"{error.args[0]}; these providers offer it: {', '.join(having)}") if having else error
