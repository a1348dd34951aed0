"""From collected candles to frames: refusals, the forming candle, filled gaps.

One way for all: a fetch is an answer in one piece, a stream or an export one in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.candles import Candles, have_prices, join, no_candles
from candle_fetcher.core.errors import IncompleteData, NotOffered, SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.fill import fill_gaps
from candle_fetcher.core.frame import MANIFEST, Manifest, index_ms, to_frame
from candle_fetcher.core.gap import Gap
from candle_fetcher.core.missing import fillable
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher.collect import CandleResult, Collector, cut, part_of, without_forming
from candle_fetcher.fetcher.manifest import make_manifest
from candle_fetcher.fetcher.policy import FetchPolicy
from candle_fetcher.fetcher.refusals import refuse_gaps, refuse_incomplete, settled_frame
from candle_fetcher.sessions import OpenParts
from candle_fetcher.sources import ends_call


class Piece(NamedTuple):
    """A part of an answer, in order: what was collected, the candles after it that may still change, and the frame of
    all of it, with invented rows and marks, without a manifest."""

    found: CandleResult
    forming: Candles
    frame: pd.DataFrame


class Answer:
    """What a request is answered with.

    Raises NotOffered where prices are to be invented of candles that have none.
    """

    def __init__(self, collector: Collector) -> None:
        request, policy = collector.request, collector.policy
        provider, kind = request.source.provider, request.series.kind
        if policy.invents and not have_prices(provider.feed(kind).columns):
            raise NotOffered(f"on_gap={policy.on_gap!r} invents prices, but {kind} of {provider.name} has none")
        self.request, self.policy, self.scope = request, policy, collector.scope
        self.collector = collector
        self._limited: CandleResult | None = None

    def span(self) -> Span:
        """Return the span of the answer, up to what is settled."""
        if self.request.range.limit is None:
            return self.collector.span()
        self._limited = self.collector.collect_limited()
        return self._limited.span

    def pieces(self, chunks: int) -> Iterator[Piece]:
        """Return the answer in pieces of at most so many chunks of slots, oldest first; of a range that is given by a
        number of candles, in one piece. Raises what `fetch` raises, when the piece concerned is due."""
        if self.request.range.limit is None:
            return self._pieces(self.collector.stream(chunks))
        return self._pieces([(self._limited or self.collector.collect_limited(), True)])

    def whole(self, found: CandleResult) -> Piece:
        """Return all that was found as one piece."""
        return next(self._pieces([(found, True)]))

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield the answer in frames of at most so many rows, each with a manifest."""
        for piece in self.pieces(max(1, rows // CHUNK_SLOTS)):
            for one in _slices(piece, rows):
                yield self.to_frame(one)

    def to_frame(self, piece: Piece) -> pd.DataFrame:
        """Return the frame of the piece, with its manifest."""
        piece.frame.attrs[MANIFEST] = self.manifest(piece)
        return piece.frame

    def manifest(self, piece: Piece, *, is_part: bool = False) -> Manifest:
        """Return the manifest of the piece; that of a part has no fingerprint."""
        made = make_manifest(self.collector, piece.found, is_part=is_part)
        if piece.forming.count:
            made["rows"] += piece.forming.count
            made["expected"] += piece.forming.count
            made["sources"]["rest"] += piece.forming.count
        return made

    def refuse(self, found: CandleResult) -> None:
        """Raise IncompleteData where a part could not be fetched, or lacks candles and gaps are to raise."""
        refuse_incomplete(self.collector, found)
        if self.policy.on_gap == "raise" and found.gaps:
            refuse_gaps(self.collector, found)

    def _pieces(self, results: Iterable[tuple[CandleResult, bool]]) -> Iterator[Piece]:
        filler = _Filler(self.collector) if self.policy.invents else None
        for found, is_last in results:
            yield from self._pieces_of(found, is_last, filler)
            del found  # a piece is freed before the next one is gathered

    def _pieces_of(self, found: CandleResult, is_last: bool, filler: _Filler | None) -> Iterator[Piece]:
        self.refuse(found)
        forming = no_candles(found.candles.names)
        if is_last and self.policy.include_open:
            found, forming = self._with_open(found)
        if filler is not None:
            yield from filler.fill(found, forming, is_last=is_last)
        else:
            yield Piece(found, forming, make_frame([found.candles, forming], forming, self.policy))

    def _with_open(self, found: CandleResult) -> tuple[CandleResult, Candles]:
        """Return what was found and the candles after it that may still change, within the limit of the request."""
        request, limit = self.request, self.request.range.limit
        if limit is not None and request.range.oldest and found.candles.count >= limit:
            return found, no_candles(found.candles.names)
        try:
            forming = self.collector.forming(found)
        except SourceError as error:
            if ends_call(error, has_archive=error is self.scope.denial):
                raise
            if self.policy.takes_partial:
                return without_forming(found, request, self.collector.now_ms()), no_candles(found.candles.names)
            raise IncompleteData(
                f"the candle of {request.label} that is forming could not be fetched: {error.reason}",
                frame=settled_frame(self.collector, found),
                refusals=(error,),
                fix=".frame holds the settled candles, and include_open=False asks for these alone",
            ) from error
        if limit is not None and request.range.oldest:
            forming = Candles(forming.names, forming.block[:, : max(0, limit - found.candles.count)])
        elif limit is not None:
            left_out = max(0, forming.count - limit)
            forming = Candles(forming.names, forming.block[:, left_out:])
            found = cut(found, limit - forming.count, request)
            if left_out:
                first_ms = int(forming.open_ms[0])
                found = found._replace(span=Span(first_ms, first_ms))
        return found, forming


class _Filler:
    """Fills the gaps of pieces as they come, with the rows that the whole would get.

    A hole at the end of a piece is held back while it may still lie at the end of the series, or while `interpolate`
    lacks the next candle: as the pieces that it covers, which hold no candles.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector, self._policy = collector, collector.policy._replace(needs_sessions=True)
        self._timeframe = collector.request.timeframe
        self._open_parts: OpenParts | None = None
        self._anchor: Candles | None = None  # the newest candle so far
        self._held: list[CandleResult] = []
        self._missing: list[Gap] = []

    def fill(self, found: CandleResult, forming: Candles, *, is_last: bool) -> Iterator[Piece]:
        """Yield the piece, behind those that were held back before and can be filled by now."""
        if self._open_parts is None:
            self._open_parts = self._collector._replace(policy=self._policy).open_parts(found.span)
        self._missing += found.failed
        nothing = no_candles(found.candles.names)
        last_ms = self._last_ms(found, is_last=is_last)
        if last_ms is None and self._anchor is not None:
            self._held.append(found)
            return
        until_ms = found.span.start_ms if last_ms is None else last_ms + 1
        rows = join([found.candles, forming])
        right = Candles(rows.names, rows.block[:, :1])
        for held in self._held:
            yield Piece(held, nothing, self._filled([right], nothing, held.span, until_ms))
        self._held = []
        end_ms = found.span.end_ms
        if not is_last and last_ms is not None:
            slot_end_ms = self._timeframe.open_ms(self._timeframe.ordinal(last_ms) + 1)
            end_ms = min(end_ms, max(slot_end_ms, found.span.start_ms))
        head = part_of(found, Span(found.span.start_ms, end_ms))
        window = Span(found.span.start_ms, FOREVER_MS if is_last else end_ms)
        yield Piece(head, forming, self._filled([head.candles, forming], forming, window, until_ms))
        if found.candles.count:
            self._anchor = Candles(found.candles.names, found.candles.block[:, -1:].copy())
        if end_ms < found.span.end_ms:
            tail = part_of(found, Span(end_ms, found.span.end_ms))
            if self._anchor is None:  # nothing to go by
                yield Piece(tail, nothing, self._filled([nothing], nothing, tail.span, end_ms))
            else:
                self._held.append(tail)

    def _last_ms(self, found: CandleResult, *, is_last: bool) -> int | None:
        """Return the open time of the last slot that can be filled by now; None where there is none.

        What is forming, not listed yet or over is no gap to fill: only what the provider has no candle of.
        """
        known = found.candles.open_ms[-1:].tolist()
        gaps = found.gaps if is_last or self._policy.on_gap == "ffill" else []
        if is_last:
            gaps = [gap for held in (*self._held, found) for gap in held.gaps]
            known += [] if self._anchor is None else self._anchor.open_ms.tolist()
        return max([*known, *(gap.last_ms for gap in gaps if gap.cause == "no_candle")], default=None)

    def _filled(self, candles: list[Candles], forming: Candles, window: Span, until_ms: int) -> pd.DataFrame:
        """Return the rows that open in the window, with those invented in it, up to `until_ms`."""
        assert self._open_parts is not None
        open_parts = self._open_parts

        def within(hole: Span) -> list[Span]:
            behind = index_ms(frame)[np.searchsorted(index_ms(frame), hole.start_ms) :].tolist()
            known = fillable(hole, behind[0] if behind else FOREVER_MS, self._missing, how)
            return [inside for part in open_parts(known) if (inside := part.clip(window))]

        anchor = [] if self._anchor is None else [self._anchor]
        frame = make_frame([*anchor, *candles], forming, self._policy)
        how = self._policy.on_gap
        filled = fill_gaps(frame, self._timeframe, Span(window.start_ms, until_ms), how, within)
        open_ms = index_ms(filled)
        inside = (open_ms >= window.start_ms) & (open_ms < window.end_ms)
        return filled if inside.all() else filled[inside]


def make_frame(parts: list[Candles], forming: Candles, policy: FetchPolicy) -> pd.DataFrame:
    """Return a frame of those candles, of which `forming` may still change."""
    candles = join(parts)
    closed = None
    if policy.include_open:
        closed = candles.open_ms < (forming.open_ms[0] if forming.count else FOREVER_MS)
    return to_frame(candles, policy.columns, closed)


def _slices(piece: Piece, rows: int) -> Iterator[Piece]:
    """Yield the piece in pieces of at most so many rows, each with its own gaps."""
    if len(piece.frame) <= rows:
        yield piece
        return
    span = piece.found.span
    borders = [min(ms, span.end_ms) for ms in index_ms(piece.frame)[rows::rows].tolist()]
    forming_at = np.searchsorted(index_ms(piece.frame), piece.forming.open_ms)
    spans = zip([span.start_ms, *borders], [*borders, span.end_ms], strict=True)
    for first, (start_ms, end_ms) in zip(range(0, len(piece.frame), rows), spans, strict=True):
        forming = piece.forming.block[:, (forming_at >= first) & (forming_at < first + rows)]
        yield Piece(
            part_of(piece.found, Span(start_ms, end_ms)),
            Candles(piece.forming.names, forming),
            piece.frame.iloc[first : first + rows].copy(),
        )
