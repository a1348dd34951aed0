"""One export: the name of its file, and its manifest, which is made while the candles are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from candle_fetcher.core.candles import Fingerprint
from candle_fetcher.core.frame import MANIFEST, Manifest
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.naming import csv_name
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.fetcher.answers import Answer, Piece
from candle_fetcher.fetcher.manifest import join_manifests
from candle_fetcher.files.layout import csv_pieces
from candle_fetcher.files.places import check_manifest_place, find_target
from candle_fetcher.files.writing import write_file
from candle_fetcher.providers import Provider, find_provider, settings_beside_defaults


def save_frame(frame: pd.DataFrame, path: object) -> Path:
    """Write a frame of `fetch` to the file that `export` would write, byte for byte; return its path."""
    manifest = frame.attrs[MANIFEST]
    span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    series = manifest["symbol"], manifest["kind"], parse_timeframe(manifest["timeframe"])
    provider, settings = find_provider(manifest["provider"]), manifest.get("settings", {})
    target, has_manifest = _find_file(path, provider, manifest["origin"], *series, span, settings)
    write_file(target, csv_pieces([frame]), (lambda: manifest) if has_manifest else None)
    return target


def _find_file(
    path: object,
    provider: Provider,
    origin: str | None,
    symbol: str,
    kind: str,
    timeframe: Timeframe,
    span: Span,
    settings: Mapping[str, str],
    with_manifest: bool = False,
) -> tuple[Path, bool]:
    """Return the file to write, and whether the manifest is written beside it.

    A file's name holds neither an origin nor settings that the user did not choose, such as the day as of which prices
    are adjusted: then it needs the manifest. Raises InputError where that would replace another file.
    """
    names = [one.name for one in provider.settings]
    named = [settings[name] for name in names if name in settings]
    target = find_target(path, csv_name(provider.name, symbol, kind, timeframe, span, named))
    has_manifest = with_manifest or origin is not None or not set(settings) <= set(names)
    if has_manifest:
        check_manifest_place(target)
    return target, has_manifest


def write_answer(
    answer: Answer, path: object, span: Span, pieces: Iterable[Piece], *, with_manifest: bool
) -> tuple[Path, int]:
    """Write the pieces of an answer to a file, in order and in constant memory; return its path and its rows.

    Raises OSError with the name of the file.
    """
    request = answer.request
    series, timeframe, settings = request.series, request.timeframe, settings_beside_defaults(request.series)
    facts = series.origin, request.symbol, series.kind, timeframe, span, settings, with_manifest
    target, has_manifest = _find_file(path, request.source.provider, *facts)
    rows, manifests, gaps = 0, list[Manifest](), list[Gap]()
    fingerprint = Fingerprint(timeframe, CHUNK_SLOTS)

    def frames() -> Iterator[pd.DataFrame]:
        nonlocal rows, gaps
        for piece in pieces:
            rows += len(piece.frame)
            if has_manifest:
                manifests.append(answer.manifest(piece, is_part=True))
                gaps += piece.found.gaps
                fingerprint.add(piece.found.candles)
            yield piece.frame
            del piece  # it is freed before the next one is made

    def manifest() -> Manifest:
        return join_manifests(manifests, gaps, timeframe, fingerprint.text)

    write_file(target, csv_pieces(frames()), manifest if has_manifest else None)
    return target, rows
