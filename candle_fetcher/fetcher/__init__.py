"""Floor 4: CandleFetcher.

request -> plan -> look up -> ask sources -> parse -> check -> store -> join -> export
"""

from __future__ import annotations

from candle_fetcher.fetcher.fetcher import CandleFetcher

__all__ = ["CandleFetcher"]
