"""As of which corporate actions the prices of a series are adjusted: what the provider says, and what is stored."""

from __future__ import annotations

from typing import Any, NamedTuple

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.actions import Known, Settings
from candle_fetcher.core.candles import iso
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    InputError,
    SourceError,
    UnknownSymbol,
    warn,
)
from candle_fetcher.core.series import Series
from candle_fetcher.sources import Errand, Source, read_actions

# What the settings rest on, as the manifest has it.
_NEWEST, _RECENT, _UNKNOWN, _STORED = "newest_action", "recent_action", "actions_unknown", "stored"


class Adjusted(NamedTuple):
    """What the prices of a series are adjusted by: its `settings`, what they rest on, and what is `known`.

    `is_due` says that the provider is to be asked for the corporate actions before the prices are.
    """

    settings: Settings
    basis: str
    known: Known
    zone_name: str | None
    is_due: bool = False

    def has_changed(self, now_ms: int) -> bool:
        """Whether the provider may have adjusted the prices since by an action that was listed."""
        if self.basis not in (_NEWEST, _RECENT):
            return False
        return self.known.settings(now_ms, self.zone_name) != self.settings

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""
        asked_ms = self.known.asked_ms
        made = {
            "as_of": dict(self.settings)["as_of"],
            "basis": self.basis,
            "actions_asked": iso(asked_ms) if asked_ms else None,
        }
        return made | ({"error": self.known.error} if self.basis == _UNKNOWN else {})


def own_series(source_settings: set[str], series: Series) -> Series:
    """The series without the settings that say as of when it is adjusted."""
    return series._replace(settings=tuple(one for one in series.settings if one[0] in source_settings))


def ask_adjusted(source: Source, cache: CandleCache, series: Series, errand: Errand) -> Adjusted:
    """Returns what prices that are asked for now are adjusted by. The provider is asked for its corporate actions where
    they are not known of this day.

    Where they cannot be had, the prices are those of the day, and a warning says so. Raises what no other request would
    pass either: Banned, and AccessDenied for a key.
    """
    zone_name = _zone_name(source, series)
    before = cache.load_actions(series) or Known(0)
    known = before
    if not known.serves(source.estimated_ms(), zone_name):
        known = _ask(source, series, known, zone_name, errand)
    settings = known.settings(known.asked_ms, zone_name)
    known = known.with_use(settings)
    if known != before:
        cache.save_actions(series, known)
    return Adjusted(settings, _basis(known, zone_name), known, zone_name)


def guess_adjusted(source: Source, cache: CandleCache, series: Series) -> Adjusted:
    """What prices asked for now would be adjusted by, if nothing was listed since the provider was last asked."""
    zone_name, now_ms = _zone_name(source, series), source.estimated_ms()
    known = cache.load_actions(series) or Known(0)
    is_due = not known.serves(now_ms, zone_name) and source.provider.feed(series.kind).actions is not None
    known = known._replace(asked_ms=max(known.asked_ms, now_ms))
    return Adjusted(known.settings(now_ms, zone_name), _basis(known, zone_name), known, zone_name, is_due)


def stored_adjusted(source: Source, cache: CandleCache, series: Series) -> Adjusted:
    """What the newest stored prices of the series are adjusted by; sends no request."""
    zone_name = _zone_name(source, series)
    known = cache.load_actions(series) or Known(0)
    stored = (one for one in known.used if cache.stored_chunks(series._replace(settings=(*series.settings, *one))))
    settings = next(stored, None) or known.settings(known.asked_ms or source.estimated_ms(), zone_name)
    return Adjusted(settings, _STORED, known, zone_name)


def note_import(cache: CandleCache, series: Series, own: set[str]) -> None:
    """Remembers as of when the prices of a file are adjusted; `own` are the settings that the provider has."""
    settings = tuple(one for one in series.settings if one[0] not in own)
    series = own_series(own, series)
    known = cache.load_actions(series) or Known(0)
    cache.save_actions(series, known.with_use(settings, is_newest=False))


def _ask(source: Source, series: Series, known: Known, zone_name: str | None, errand: Errand) -> Known:
    """What the provider lists now, or that it does not."""
    try:
        listed = read_actions(source, series, errand)
    except Banned:
        raise
    except (SourceError, UnknownSymbol, InputError) as error:
        if isinstance(error, AccessDenied) and error.status != 403:
            raise
        failed = known._replace(asked_ms=source.estimated_ms(), error=error.reason)
        if source.provider.feed(series.kind).actions is not None:
            warn(
                CandleFetcherWarning(
                    f"the corporate actions of {series.symbol} could not be had ({failed.error}), so its adjusted "
                    "prices are kept for this day alone, and asked for again on the next one"
                )
            )
        return failed
    if not listed:
        nothing = f"{source.provider.name} lists no corporate action of {series.symbol}"
        return known._replace(asked_ms=source.estimated_ms(), error=nothing)
    return known.with_list(listed, source.estimated_ms(), zone_name)


def _basis(known: Known, zone_name: str | None) -> str:
    if known.error or not known.listed:
        return _UNKNOWN
    return _RECENT if known.is_recent(known.asked_ms, zone_name) else _NEWEST


def _zone_name(source: Source, series: Series) -> str | None:
    return source.provider.feed(series.kind).zone(series)
