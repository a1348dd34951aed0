"""Floor 2: what a provider offers meets the transport."""

from candle_fetcher.sources.archive import ArchiveSource, FileRead
from candle_fetcher.sources.client import ends_call, is_denial
from candle_fetcher.sources.clock import check_clock
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
    "is_denial",
    "page_rows",
    "requests_for",
    "windows",
]
