"""The listing of an archive's bucket, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from candle_fetcher.providers.binance_bucket import NAME, Page, find_first_ms, listing_call, parse_listing, refusal
from candle_fetcher.sources.client import Service, ServiceClient
from candle_fetcher.sources.scope import CallScope
from candle_fetcher.sources.wire import Wire

# Keys are in the order of their dates, so that the first zip is enough; a page of a thousand keys would be slow.
_FIRST_KEYS = 20


class BucketSource:
    """Lists one bucket. Shared by all threads of a fetcher."""

    def __init__(self, host: str, wire: Wire) -> None:
        self._client = ServiceClient(Service(NAME, (host,), refusal), wire)

    def pages(self, prefix: str, scope: CallScope, *, most: int | None = None) -> Iterator[Page]:
        """Yield the pages of the keys and folders directly below the prefix, in order; each is requested when needed.

        A page has at most `most` entries, or as many as the bucket gives. Raises the error of a request that fails.
        """
        marker: str | None = ""
        while marker is not None:
            page, _ = self._client.request(
                listing_call(prefix, marker, most), partial(parse_listing, prefix=prefix, marker=marker), scope=scope
            )
            yield page
            marker = page.next_marker

    def first_ms(self, folder: str, scope: CallScope) -> int | None:
        """Return when the day or month of the oldest zip in the folder begins, in Unix ms; None without a zip."""
        times = (find_first_ms(page.keys) for page in self.pages(folder, scope, most=_FIRST_KEYS))
        return next((ms for ms in times if ms is not None), None)
