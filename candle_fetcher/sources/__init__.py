"""Floor 2: what a provider offers meets the transport."""

from candle_fetcher.sources.actions import read_actions
from candle_fetcher.sources.archive import ArchiveSource, FileRead
from candle_fetcher.sources.bucket import BucketSource
from candle_fetcher.sources.client import ends_call, is_denial
from candle_fetcher.sources.clock import check_clock
from candle_fetcher.sources.funding import funding_pages, has_funding
from candle_fetcher.sources.keyring import ApiKeys
from candle_fetcher.sources.pages import CandlePage, SpanAnswer, page_rows, requests_for, windows
from candle_fetcher.sources.reader import SeriesReader
from candle_fetcher.sources.rest import RestSource
from candle_fetcher.sources.scope import AsOf, CallScope, SharedChunk
from candle_fetcher.sources.wire import Wire

__all__ = [
    "ApiKeys",
    "ArchiveSource",
    "AsOf",
    "BucketSource",
    "CallScope",
    "CandlePage",
    "FileRead",
    "RestSource",
    "SeriesReader",
    "SharedChunk",
    "SpanAnswer",
    "Wire",
    "check_clock",
    "ends_call",
    "funding_pages",
    "has_funding",
    "is_denial",
    "page_rows",
    "read_actions",
    "requests_for",
    "windows",
]
