"""The corporate actions by which the prices of a series are adjusted: as the provider lists them, and as stored."""

from __future__ import annotations

from typing import Any, NamedTuple

from candle_fetcher.cache import CandleCache
from candle_fetcher.core.actions import Known, Settings
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    InputError,
    SourceError,
    UnknownSymbol,
    warn,
)
from candle_fetcher.core.gap import iso
from candle_fetcher.core.series import Series
from candle_fetcher.sources import CallScope, RestSource

# What the settings rest on, as the manifest has it.
_NEWEST, _RECENT, _UNKNOWN, _STORED = "newest_action", "recent_action", "actions_unknown", "stored"


class Adjusted(NamedTuple):
    """By what the prices of a series are adjusted: its `settings`, what they rest on, and what is `known`. `is_due`
    says that the provider is to be asked for the corporate actions before it is asked for the prices."""

    settings: Settings
    basis: str
    known: Known
    zone_name: str | None
    is_due: bool = False

    def has_changed(self, now_ms: int) -> bool:
        """Return whether the provider may have adjusted the prices since by an action that was listed."""
        is_listed = self.basis in (_NEWEST, _RECENT)
        return is_listed and self.known.settings(now_ms, self.zone_name) != self.settings

    def describe(self) -> dict[str, Any]:
        """Return the facts for the manifest."""
        asked = iso(self.known.asked_ms) if self.known.asked_ms else None
        made = {"as_of": dict(self.settings)["as_of"], "basis": self.basis, "actions_asked": asked}
        return made | ({"error": self.known.error} if self.basis == _UNKNOWN else {})


def ask_adjusted(source: RestSource, cache: CandleCache, series: Series, scope: CallScope) -> Adjusted:
    """Return by what prices are adjusted that are asked for now. The provider is asked for its corporate actions where
    they are not known of this day.

    Where they cannot be fetched, the prices are those of the day, and a warning says so. Raises what no other request
    would pass either: Banned, and AccessDenied for a key.
    """
    zone_name, before = _load(source, cache, series)
    known = before
    if not known.serves(source.estimated_ms(), zone_name):
        known = _ask(source, series, known, zone_name, scope)
    settings = known.settings(known.asked_ms, zone_name)
    known = known.with_use(settings)
    if known != before:
        cache.listings.save_actions(series, known)
    return Adjusted(settings, _basis(known, zone_name), known, zone_name)


def guess_adjusted(source: RestSource, cache: CandleCache, series: Series) -> Adjusted:
    """Return by what prices would be adjusted that are asked for now, if nothing was listed since the provider was last
    asked."""
    (zone_name, known), now_ms = _load(source, cache, series), source.estimated_ms()
    is_due = not known.serves(now_ms, zone_name) and source.provider.feed(series.kind).actions is not None
    known = known._replace(asked_ms=max(known.asked_ms, now_ms))
    return Adjusted(known.settings(now_ms, zone_name), _basis(known, zone_name), known, zone_name, is_due)


def stored_adjusted(source: RestSource, cache: CandleCache, series: Series) -> Adjusted:
    """Return by what the newest stored prices of the series are adjusted. Sends no request."""
    zone_name, known = _load(source, cache, series)
    stored = (one for one in known.used if cache.entries.chunks(series._replace(settings=(*series.settings, *one))))
    settings = next(stored, None) or known.settings(known.asked_ms or source.estimated_ms(), zone_name)
    return Adjusted(settings, _STORED, known, zone_name)


def _load(source: RestSource, cache: CandleCache, series: Series) -> tuple[str | None, Known]:
    """Return the zone of the exchange, and the corporate actions as they are stored."""
    return source.provider.feed(series.kind).zone(series), cache.listings.load_actions(series) or Known(0)


def _ask(source: RestSource, series: Series, known: Known, zone_name: str | None, scope: CallScope) -> Known:
    """Return what the provider lists now; where it lists nothing or fails, what is known, with the reason."""
    from candle_fetcher.sources.actions import read_actions  # when used: few providers adjust

    try:
        listed = read_actions(source, series, scope)
    except Banned:
        raise
    except (SourceError, UnknownSymbol, InputError) as error:
        if isinstance(error, AccessDenied) and error.status != 403:
            raise
        why = error.reason
        if source.provider.feed(series.kind).actions is not None:
            warn(
                CandleFetcherWarning(
                    f"the corporate actions of {series.symbol} could not be fetched ({why}), so its adjusted prices "
                    "are stored for today alone; tomorrow they are asked for again"
                )
            )
    else:
        if listed:
            return known.with_list(listed, source.estimated_ms(), zone_name)
        why = f"{source.provider.name} lists no corporate action of {series.symbol}"
    return known._replace(asked_ms=source.estimated_ms(), error=why)


def _basis(known: Known, zone_name: str | None) -> str:
    if known.error or not known.listed:
        return _UNKNOWN
    return _RECENT if known.is_recent(known.asked_ms, zone_name) else _NEWEST
