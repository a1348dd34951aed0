"""A provider of your own: candles out of a small HTTP service, with the cache, the checks and the rest of the library.

What a provider has to say is `call`, `parse` and the facts in PROVIDER. Here it is handed over as a value; an installed
package offers one to everybody by an entry point in the group `candle_fetcher.providers` (see
`candle-fetcher help own-provider`).
"""

from __future__ import annotations

import json
import tempfile

import numpy as np
from price_service import serve

from candle_fetcher import CandleFetcher, ReplyError
from candle_fetcher.providers import Call, Candles, Feed, Limit, Provider, Series, Span, candles_from

COLUMNS = ("open_time", "open", "high", "low", "close", "volume")


def call(series: Series, span: Span, rows: int) -> Call:
    """GET /prices; both of its bounds are inclusive, in Unix seconds."""
    bounds = {"from": span.start_ms // 1000, "to": (span.end_ms - 1) // 1000, "limit": rows}
    params = [("name", series.symbol), ("every", series.timeframe.name)]
    return Call("/prices", (*params, *((name, str(value)) for name, value in bounds.items())))


def parse(body: bytes, series: Series) -> Candles:
    """The service sends {"rows": [[seconds, open, high, low, close, volume], …]}, oldest first."""
    try:
        table = np.array(json.loads(body)["rows"], np.float64).reshape(-1, len(COLUMNS)).T
    except (ValueError, KeyError, TypeError) as error:
        raise ReplyError(f"expected rows of {len(COLUMNS)} numbers, got {body[:80]!r}") from error
    return candles_from(COLUMNS, [(table[0] * 1000).astype(np.int64), *table[1:]])


def provider(url: str) -> Provider:
    feed = Feed(timeframes=("1m", "1h"), columns=COLUMNS, call=call, parse=parse, limit=500)
    return Provider("price-service", (url,), {"candles": feed}, default_limits=(Limit(600, 60),))


def main() -> None:
    with serve() as url, tempfile.TemporaryDirectory() as folder:
        mine = provider(url)
        with CandleFetcher(provider=mine, cache_dir=folder) as fetcher:
            frame = fetcher.fetch("GOLD", "4h", "2024-01-01", "2024-01-08")
            print(frame)
            print(f"{len(fetcher.fetch('GOLD', '4h', '2024-01-01', '2024-01-08'))} candles again, without a request")


if __name__ == "__main__":
    main()
