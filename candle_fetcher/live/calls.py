"""The live calls of a CandleFetcher, as functions of which its class makes methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from candle_fetcher.core.quote import Quotes
    from candle_fetcher.live.quotes import Desk
    from candle_fetcher.providers import Provider


class HasDesk(Protocol):
    """What the live calls take for a fetcher."""

    @property
    def _runtime(self) -> Desk: ...


def quotes(
    self: HasDesk,
    symbols: Iterable[str],
    *,
    provider: str | Provider | None = None,
    timeout_s: float = 5,
    max_age_s: float | None = None,
) -> Quotes:
    """Return what providers say of the symbols now, in the order given, at most `timeout_s` seconds later.

    `Quotes` is a list of `Quote`; print it, or take `to_frame()` or `to_json()`. Providers are asked side by side.
    max_age_s: a quote of a higher `age_s` is marked `is_stale`. Where a provider does not answer, a symbol has the last
    quote known, marked so too, or none. An unknown symbol or provider, a missing key and any other failure is the
    `error` of that quote alone; InputError is raised for the other arguments.
    """
    from candle_fetcher.live.quotes import ask_quotes  # when used: few do

    return ask_quotes(self._runtime, symbols, provider, timeout_s, max_age_s)
