"""One export: what its file is of, and its manifest, which is made while the candles are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from candle_fetcher.core.candles import Fingerprint
from candle_fetcher.core.errors import NotOffered
from candle_fetcher.core.frame import Manifest, shown_columns
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.missing import join_manifests
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import FLAG_COLUMNS
from candle_fetcher.fetcher.answers import Answer, Piece
from candle_fetcher.files.exporting import Contents, FileArguments, find_file
from candle_fetcher.files.workbook import MOST_ROWS, check_rows
from candle_fetcher.providers import settings_beside_defaults


def span_that_fits(answer: Answer, arguments: FileArguments) -> Span:
    """Return the span of the answer. Raises InputError where a sheet does not hold its candles, before any is fetched.

    Where an exchange is closed at times, the candles are counted as they are written.
    """
    request = answer.request
    is_sheet = arguments.place.format == "excel" and request.source.provider.calendar(request.series) is None
    if is_sheet and request.range.limit is not None:
        check_rows(request.range.limit)
    span = answer.span()
    if is_sheet and len(request.timeframe.slots(span)) > MOST_ROWS:
        first_ms = span.start_ms
        with suppress(NotOffered):
            first_ms = max(first_ms, answer.collector.listed_ms())
        check_rows(len(request.timeframe.slots(Span.between(first_ms, span.end_ms))))
    return span


def write_answer(
    answer: Answer, arguments: FileArguments, span: Span, pieces: Iterable[Piece]
) -> tuple[Path, int, Manifest]:
    """Write the pieces of an answer to a file, in order and in constant memory; return its path, its rows and, where it
    has one or may be partial, its manifest.

    Raises OSError with the name of the file.
    """
    request, policy = answer.request, answer.policy
    series, timeframe = request.series, request.timeframe
    names = request.symbol, series.symbol, series.kind, timeframe, span, settings_beside_defaults(series)
    flags = [name for name, has in zip(FLAG_COLUMNS, (policy.include_open, policy.invents), strict=True) if has]
    columns = (*shown_columns(request.feed.columns, "all"), *flags)
    file = find_file(arguments, Contents(request.source.provider, series.origin, *names), columns)
    rows, manifests, gaps, failed, made = 0, list[Manifest](), list[Gap](), list[Gap](), Manifest()
    fingerprint = Fingerprint(timeframe, CHUNK_SLOTS)

    def frames() -> Iterator[pd.DataFrame]:
        nonlocal rows, gaps, failed
        for piece in pieces:
            rows += len(piece.frame)
            if file.needs_manifest or policy.takes_partial:
                manifests.append(answer.manifest(piece, is_part=True))
                gaps += piece.found.gaps
                failed += piece.found.failed
                fingerprint.add(piece.found.candles)
            yield piece.frame
            del piece  # it is freed before the next one is made

    def manifest() -> Manifest:
        joined = join_manifests(manifests, gaps, failed, timeframe, fingerprint.text)
        made.update(joined)
        made.why = joined.why
        return made

    return file.write(frames(), manifest, may_lack=policy.takes_partial), rows, made
