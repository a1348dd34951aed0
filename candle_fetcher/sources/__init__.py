"""Floor 2: what a provider offers meets the transport."""

from candle_fetcher.sources.actions import read_actions
from candle_fetcher.sources.archive import ArchiveSource, FileRead
from candle_fetcher.sources.asking import AsOf, Errand, SharedChunk, is_denial
from candle_fetcher.sources.bucket import BucketSource
from candle_fetcher.sources.clock import check_clock
from candle_fetcher.sources.funding import FundingSource
from candle_fetcher.sources.keyring import ApiKeys
from candle_fetcher.sources.rest import Answer, Page, Source, page_rows, requests_for, windows

__all__ = [
    "Answer",
    "ApiKeys",
    "ArchiveSource",
    "AsOf",
    "BucketSource",
    "Errand",
    "FileRead",
    "FundingSource",
    "Page",
    "SharedChunk",
    "Source",
    "check_clock",
    "is_denial",
    "page_rows",
    "read_actions",
    "requests_for",
    "windows",
]
