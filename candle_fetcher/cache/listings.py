"""What providers say of their symbols, as documents: listings and corporate actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from candle_fetcher.cache.documents import DocumentStore, int64, text
from candle_fetcher.core.actions import Action, Known, is_day
from candle_fetcher.core.call import Limit
from candle_fetcher.core.series import Series
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.providers import Listed, Listing, Provider


class ListingStore:
    """Listings by provider and root, and corporate actions by symbol. Shared by threads."""

    def __init__(self, documents: DocumentStore, clock: Callable[[], float]) -> None:
        self._documents = documents
        self._clock = clock
        self._symbols: dict[str, dict[str, str]] = {}  # by listing, then by the provider's own symbol

    def load(self, name: str) -> tuple[Listing, float] | None:
        """Return the stored listing and its age in seconds, None where there is none."""
        document = self._documents.load(f"listing|{name}")
        try:
            listing = Listing(
                tuple(
                    Limit(int64(cost), int64(interval_s), text(kind)) for cost, interval_s, kind in document["limits"]
                ),
                tuple(
                    Listed(text(symbol), text(own), text(base), text(quote), text(status), bool(trading))
                    for symbol, own, base, quote, status, trading in document["symbols"]
                ),
            )
            return listing, self._clock() - int64(round(document["stored_s"] * 1000)) / 1000
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def save(self, name: str, listing: Listing) -> None:
        """Store a listing."""
        self._symbols.pop(name, None)
        document = {"limits": listing.limits, "symbols": listing.symbols, "stored_s": self._clock()}
        self._documents.save(f"listing|{name}", document)

    def unified_symbol(self, provider: Provider, origin: str | None, provider_symbol: str) -> str:
        """Return BASE/QUOTE of the provider's own symbol: as the stored listing splits it, else as the provider
        guesses."""
        guess, name = provider.unified(provider_symbol), f"{provider.name}|{origin or ''}"
        symbols = self._symbols.get(name)
        if symbols is None:
            stored = self.load(name) if provider.listing is not None else None
            symbols = {one.provider_symbol: one.symbol for one in stored[0].symbols} if stored is not None else {}
            self._symbols[name] = symbols
        listed = symbols.get(provider_symbol, guess)
        return listed if listed.replace("/", "") == guess.replace("/", "") else guess

    def load_actions(self, series: Series) -> Known | None:
        """Return the stored corporate actions of the symbol, which hold for every timeframe of the series."""
        return _read_actions(self._documents.load(_actions_key(series)))

    def save_actions(self, series: Series, known: Known) -> None:
        """Store the corporate actions of the symbol."""
        self._documents.save(_actions_key(series), known._asdict())


def _actions_key(series: Series) -> str:
    return f"{series._replace(timeframe=Timeframe(1, 'd')).key}|actions"


def _read_actions(document: Any) -> Known | None:
    """Return the corporate actions of a JSON document, None where it holds anything else."""
    try:
        known = Known(
            int64(document["asked_ms"]),
            tuple(Action(text(day), text(terms), bool(counts)) for day, terms, counts in document["listed"]),
            int64(document["changed_ms"]),
            text(document["error"]),
            tuple(tuple((text(name), text(value)) for name, value in one) for one in document["used"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return known if all(is_day(one.day) for one in known.listed) else None
