"""The errors for answers that the memory does not hold: how many rows were wanted, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from candle_fetcher.core.errors import (
    About,
    CandleFetcherError,
    FetchManyError,
    FetchManyOutOfMemory,
    OutOfMemory,
    complete_error,
    lacks_memory,
)
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


@contextlib.contextmanager
def in_parts(request: Any, rows: int | None = None) -> Iterator[None]:
    """Raise OutOfMemory where the memory does not hold a part of an answer, of at most so many rows.

    Without `rows` the parts are those of a file, which are small.
    """
    try:
        yield
    except CandleFetcherError:
        raise
    except (MemoryError, OSError) as error:
        if not lacks_memory(error):
            raise
        fix = "give iter_frames fewer rows" if rows else "close other programs, or set a smaller memory_cache_size"
        what = f"a part of {request.label}" if rows else f"a part of the file of {request.label}"
        raise OutOfMemory(what, rows, fix) from error


def many_failed(frames: Mapping[str, Any], errors: Mapping[str, Exception], report: Any = None) -> FetchManyError:
    """Return the error of a call for several series, some of which failed."""
    if any(isinstance(one, OutOfMemory) for one in errors.values()):
        return FetchManyOutOfMemory(frames, errors, report)
    return FetchManyError(frames, errors, report)
