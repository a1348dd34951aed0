"""Floor 4: CandleFetcher.

request -> plan -> look up -> ask sources -> parse -> check -> store -> join -> export
"""

from __future__ import annotations

import os

import pandas as pd

from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.fetcher.fetcher import CandleFetcher

__all__ = ["CandleFetcher", "read_csv"]


@short_errors
def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the candles of a CSV that `export` wrote, as `fetch` would: UTC times in nanoseconds, exact numbers.

    The frame can be joined with one of `fetch`: its index is named `timestamp`, its columns are those of the file with
    the same types. The manifest beside the file, if any, is in its attrs.

    Raises InputError where it is no such file, BadFile where it was cut, damaged or holds what cannot be candles, and
    OSError where it cannot be read.
    """
    from candle_fetcher.files.reading import read_frame  # when used: few do

    return read_frame(path)
