"""One export: the name of its file, and its manifest, which is put together while the candles pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from candle_fetcher.core.candles import Fingerprint, Gap
from candle_fetcher.core.frame import MANIFEST, Manifest
from candle_fetcher.core.naming import csv_name
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.exports import check_manifest_place, csv_pieces, find_target, write_file
from candle_fetcher.fetcher.answers import Piece
from candle_fetcher.fetcher.manifest import join_manifests
from candle_fetcher.fetcher.request import Request
from candle_fetcher.providers import Provider, find_provider, settings_beside_defaults


def save_frame(frame: pd.DataFrame, path: object) -> Path:
    """Write a frame of `fetch` into the file that `export` would write, byte for byte. Returns it."""
    manifest = frame.attrs[MANIFEST]
    provider = find_provider(manifest["provider"])
    settings = manifest.get("settings", {})
    span = Span(instant_ms(manifest["start"], "start"), instant_ms(manifest["end"], "end"))
    symbol, kind, timeframe = manifest["symbol"], manifest["kind"], parse_timeframe(manifest["timeframe"])
    target = find_target(path, csv_name(provider.name, symbol, kind, timeframe, span, _named(provider, settings)))
    is_whole = _is_whole(provider, manifest["origin"], settings)
    if not is_whole:
        check_manifest_place(target)
    write_file(target, csv_pieces([frame]), None if is_whole else lambda: manifest)
    return target


def _named(provider: Provider, settings: Mapping[str, str]) -> list[str]:
    """The values of the settings that stand in a name, in their order."""
    return [settings[one.name] for one in provider.settings if one.name in settings]


def _is_whole(provider: Provider, origin: str | None, settings: Mapping[str, str]) -> bool:
    """Whether a name says the whole series: the origin is never in it, nor what no user has chosen, such as the day as
    of which prices are adjusted."""
    return origin is None and set(settings) <= {one.name for one in provider.settings}


class Export:
    """Candles of one request on their way to a file. Memory stays the same whatever the range."""

    def __init__(self, request: Request, path: object, span: Span, *, with_manifest: bool) -> None:
        provider, series = request.source.provider, request.series
        settings = settings_beside_defaults(series)
        named = _named(provider, settings)
        name = csv_name(provider.name, request.symbol, series.kind, request.timeframe, span, named)
        self._timeframe = request.timeframe
        self._with_manifest = with_manifest or not _is_whole(provider, series.origin, settings)
        self.target: Path = find_target(path, name)
        if self._with_manifest:
            check_manifest_place(self.target)
        self.rows = 0
        self._manifests: list[Manifest] = []
        self._gaps: list[Gap] = []
        self._fingerprint = Fingerprint(self._timeframe, CHUNK_SLOTS)

    def write(self, pieces: Iterable[Piece], describe: Callable[[Piece], Manifest]) -> None:
        """Write the pieces as they come. `describe` gives the manifest of one. Raises OSError naming the file."""
        write_file(
            self.target, csv_pieces(self._passed(pieces, describe)), self._manifest if self._with_manifest else None
        )

    def _passed(self, pieces: Iterable[Piece], describe: Callable[[Piece], Manifest]) -> Iterator[pd.DataFrame]:
        for piece in pieces:
            self.rows += len(piece.frame)
            if self._with_manifest:
                self._manifests.append(describe(piece))
                self._gaps += piece.got.gaps
                self._fingerprint.add(piece.got.candles)
            yield piece.frame

    def _manifest(self) -> Manifest:
        return join_manifests(self._manifests, self._gaps, self._timeframe, self._fingerprint.text)
