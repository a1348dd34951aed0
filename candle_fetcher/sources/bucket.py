"""The listing of an archive's bucket, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from candle_fetcher.providers.binance_bucket import NAME, Page, listing_call, parse_listing, refusal
from candle_fetcher.sources.asking import Asker, Errand, Service
from candle_fetcher.sources.clock import ServerClock


class BucketSource:
    """Lists one bucket. Shared by all threads of a fetcher."""

    def __init__(self, host: str, *, clock: Callable[[], float], **how: Any) -> None:
        self._asker = Asker(Service(NAME, (host,), (), lambda headers: None, refusal), clock=ServerClock(clock), **how)

    def pages(self, prefix: str, stop: Errand, *, most: int | None = None) -> Iterator[Page]:
        """What lies right below the prefix, in order; each page is asked for when it is wanted.

        `most` entries a page, as many as the bucket gives unless stated. Raises the error of a page that cannot be had.
        """
        marker: str | None = ""
        while marker is not None:
            page = self._asker.ask(
                listing_call(prefix, marker, most), partial(parse_listing, prefix=prefix, marker=marker), stop=stop
            )
            yield page
            marker = page.next_marker
