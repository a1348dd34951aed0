"""One export: what its file is of, and its manifest, which is made while the candles are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from candle_fetcher.core.candles import Fingerprint
from candle_fetcher.core.errors import NotOffered
from candle_fetcher.core.frame import MANIFEST, Manifest, shown_columns
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import FLAG_COLUMNS
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.fetcher.answers import Answer, Piece
from candle_fetcher.fetcher.manifest import join_manifests
from candle_fetcher.files.exporting import Contents, FileArguments, find_file
from candle_fetcher.files.workbook import MOST_ROWS, check_rows
from candle_fetcher.providers import find_provider, settings_beside_defaults


def save_frame(frame: pd.DataFrame, arguments: FileArguments) -> Path:
    """Write a frame of `fetch` to the file that `export` would write, byte for byte; return its path."""
    manifest = frame.attrs[MANIFEST]
    span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    provider, symbol, kind = find_provider(manifest["provider"]), manifest["symbol"], manifest["kind"]
    series = symbol, provider.provider_symbol(symbol, kind), kind, parse_timeframe(manifest["timeframe"]), span
    contents = Contents(provider, manifest["origin"], *series, manifest.get("settings", {}))
    file = find_file(arguments, contents, tuple(frame.columns))
    file.write([frame], lambda: manifest)
    return file.target


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


def write_answer(answer: Answer, arguments: FileArguments, span: Span, pieces: Iterable[Piece]) -> tuple[Path, int]:
    """Write the pieces of an answer to a file, in order and in constant memory; return its path and its rows.

    Raises OSError with the name of the file.
    """
    request, policy = answer.request, answer.policy
    series, timeframe = request.series, request.timeframe
    names = request.symbol, series.symbol, series.kind, timeframe, span, settings_beside_defaults(series)
    flags = [name for name, has in zip(FLAG_COLUMNS, (policy.include_open, policy.invents), strict=True) if has]
    columns = (*shown_columns(request.feed.columns, "all"), *flags)
    file = find_file(arguments, Contents(request.source.provider, series.origin, *names), columns)
    rows, manifests, gaps = 0, list[Manifest](), list[Gap]()
    fingerprint = Fingerprint(timeframe, CHUNK_SLOTS)

    def frames() -> Iterator[pd.DataFrame]:
        nonlocal rows, gaps
        for piece in pieces:
            rows += len(piece.frame)
            if file.needs_manifest:
                manifests.append(answer.manifest(piece, is_part=True))
                gaps += piece.found.gaps
                fingerprint.add(piece.found.candles)
            yield piece.frame
            del piece  # it is freed before the next one is made

    file.write(frames(), lambda: join_manifests(manifests, gaps, timeframe, fingerprint.text))
    return file.target, rows
