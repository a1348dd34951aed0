"""The error for an answer that the memory does not hold: how many rows were wanted."""

from __future__ import annotations

from candle_fetcher.core.errors import About, OutOfMemory, complete_error
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe


def out_of_memory(about: About) -> OutOfMemory:
    """Return the error for the call that these facts are about; it counts the slots of the range, where that is
    known."""
    rows = None
    if about.timeframe is not None and about.span is not None:
        start_ms, end_ms = (instant_ms(text, "span") for text in about.span)
        rows = len(parse_timeframe(about.timeframe).slots(Span(start_ms, end_ms)))
    error = OutOfMemory(" ".join(filter(None, (about.symbol, about.timeframe))) or "the answer", rows)
    complete_error(error, about)
    return error
