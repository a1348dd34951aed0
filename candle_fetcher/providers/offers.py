"""The table of `providers()`: what each provider offers, by the facts in its value."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from candle_fetcher.core.candles import OHLCV
from candle_fetcher.core.html import WholeFrame
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers import Feed, Limit, Provider

COLUMNS = (
    "provider", "timeframes", "kinds", "history", "more_columns", "quiet_interval", "sessions", "symbols", "key",
    "limits", "settings",
)  # fmt: skip
_INTERVALS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


def offers_frame(providers: Iterable[Provider]) -> pd.DataFrame:
    """Return a table of text with a row for each provider; see `CandleFetcher.providers`."""
    rows = [_row(provider) for provider in sorted(providers, key=lambda one: one.name)]
    return WholeFrame(rows, columns=list(COLUMNS), dtype="str")


def _row(provider: Provider) -> tuple[str, ...]:
    feed = provider.feeds.get("candles") or next(iter(provider.feeds.values()))
    funding = ["funding"] if provider.funding is not None else []
    calendars = {provider.calendar(_series(provider, name)) for name in feed.timeframes} - {None}
    return (
        provider.name,
        " ".join(feed.timeframes),
        " ".join([*provider.feeds, *funding]),
        _history(provider, feed),
        " ".join(name for name in feed.columns[1:] if name not in OHLCV),
        "a row" if feed.has_empty_bars else "no row",
        " ".join(sorted(filter(None, calendars))) or "always open",
        "listed" if provider.listing is not None else "not listed",
        _keys(provider),
        ", ".join(map(_limit, provider.default_limits)),
        "; ".join(f"{one.name}: {', '.join(one.allowed)}" for one in provider.settings),
    )


def _series(provider: Provider, timeframe: str) -> Series:
    settings = tuple((one.name, one.allowed[0]) for one in provider.settings if one.is_of_series)
    return Series(provider.name, None, "X", parse_timeframe(timeframe), "candles", settings)


def _history(provider: Provider, feed: Feed) -> str:
    """Return how far back the feed reaches, in words."""
    depths = {name: feed.depth(_series(provider, name)) for name in feed.timeframes}
    parts = ", ".join(f"{depth} of {name}" for name, depth in depths.items() if depth is not None)
    if len(set(depths.values())) == 1:
        reach = f"newest {depths[feed.timeframes[0]]}" if parts else "all"
    else:
        reach = f"all, but newest {parts}" if None in depths.values() else f"newest {parts}"
    return f"{reach}, and files" if provider.archive is not None else reach


def _keys(provider: Provider) -> str:
    if not provider.keys:
        return "none"
    needed = [key.environment for key in provider.keys if key.is_needed]
    if needed:
        return " ".join(needed)
    names = " ".join(key.environment for key in provider.keys)
    if provider.token is None:
        return f"optional: {names}"
    token, *renewing = [key.environment for key in provider.keys]
    return f"{token}, or {' '.join(renewing)} together"


def _limit(limit: Limit) -> str:
    unit = "weight" if limit.kind == "weight" and limit.cost > 1_000 else "request" if limit.cost == 1 else "requests"
    every = _INTERVALS.get(limit.interval_s) or (
        f"{limit.interval_s // 60} minutes" if limit.interval_s % 60 == 0 else f"{limit.interval_s} s"
    )
    if limit.interval_s not in _INTERVALS:
        return f"{limit.cost:,} {unit} in {every}"
    return f"{limit.cost:,} {unit} a {every}"
