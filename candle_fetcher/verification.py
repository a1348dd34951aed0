"""verify_file(): a file of candles held against its manifest and against the cache."""

from __future__ import annotations

import os
from typing import cast

from candle_fetcher.core.candles import Candles
from candle_fetcher.core.errors import IncompleteData, InputError
from candle_fetcher.core.frame import MANIFEST
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.types import CandleKind
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.shared import shared_fetcher
from candle_fetcher.files.report import FileReport, Identity

__all__ = ["FileReport", "verify_file"]


@short_errors
def verify_file(path: str | os.PathLike[str], *, fetcher: CandleFetcher | None = None) -> FileReport:
    """Read a file that `export` wrote to its end, and check it against its manifest and against the cache.

    The fingerprint is worked out again, and the values are compared with those in the cache, bit for bit; no request is
    sent. fetcher: its cache is used; by default that of the functions of the package.

    Raises BadFile where the file cannot be read or is damaged, MissingExtra without the package of its format.
    """
    from candle_fetcher.files.verifying import candles_of, check_file  # when used

    def load(series: Identity, first_ms: int, last_ms: int) -> tuple[Candles, bool] | None:
        is_all, asked = True, fetcher or shared_fetcher()
        try:
            frame = asked.fetch(
                series.symbol,
                series.timeframe,
                first_ms,
                last_ms + 1,
                provider=series.provider,
                kind=cast(CandleKind, series.kind),
                source="cache",
                columns="all",
            )
        except IncompleteData as error:
            if error.frame is None or error.frame.empty:
                return None
            frame, is_all = error.frame, False
        except InputError:  # a provider or kind that is not known here
            return None
        facts = frame.attrs[MANIFEST]
        is_same = (facts["origin"], facts.get("settings", {})) == (series.origin, dict(series.settings))
        return (candles_of(frame.reset_index()), is_all) if is_same else None

    return check_file(path, load)
