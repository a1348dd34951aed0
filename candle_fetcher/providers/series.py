"""The series that symbol, timeframe and kind name at a provider."""

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
    """Return BASE/QUOTE of a symbol that says where the one ends and the other begins; None of an id alone."""
    pair = _PAIR.fullmatch(symbol)
    return "/".join(pair.groups()).upper() if pair else None


@functools.lru_cache(maxsize=1024)
def _unified(unified: Callable[[str], str], provider_symbol: str) -> str:
    return unified(provider_symbol)


def read_series(
    provider: Provider, origin: str | None, symbol: str, timeframe: str, kind: str
) -> tuple[Series, str, Timeframe]:
    """Return the series to ask for, the symbol as BASE/QUOTE, and the timeframe of the candles that a call returns.

    The timeframe of the series is another one where those candles are resampled. Raises InputError for a symbol or
    timeframe that is not valid, NotOffered for what the provider does not have.
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
                f"{provider.name} has no {shown(kind)} of {wanted}, and none is made of columns of its own; it offers "
                f"{', '.join(feed.timeframes)}"
            )
    except NotOffered as error:
        raise _with_others(error, lambda other: base_for(wanted, other.feed(kind).timeframes, other.name)) from None
    provider_symbol = provider.provider_symbol(symbol, kind)
    name = _unified(provider.unified, provider_symbol)
    typed = read_pair(symbol) or name  # an id alone has to be taken apart
    if typed.replace("/", "") == name.replace("/", "").upper() and typed != name.upper():
        name = typed
    settings: tuple[tuple[str, str], ...] = ()
    if provider.settings:
        settings = tuple((one.name, one.allowed[0]) for one in provider.settings if one.is_of_series)
    return Series(provider.name, origin, provider_symbol, base, kind, settings), name, wanted


def _with_others(error: NotOffered, offered: Callable[[Provider], object]) -> NotOffered:
    """Return the error, naming the providers that do offer it."""
    having = []
    for other in all_providers().values():
        with contextlib.suppress(InputError):
            offered(other)
            having.append(other.name)
    return NotOffered(f"{error.args[0]}; {', '.join(having)} offer them") if having else error
