"""From collected candles to frames: refused where they are incomplete, with the forming candle, with their gaps filled.

One way for all: a fetch is an answer in one piece, a stream or an export one in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.arguments import read_flag
from candle_fetcher.core.candles import Candles, fingerprint, have_prices, join, no_candles
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherWarning,
    ClockSkew,
    IncompleteData,
    NotOffered,
    RateLimited,
    ReplyError,
    TransportError,
    warn,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.fill import fill_gaps
from candle_fetcher.core.frame import MANIFEST, Manifest, check_columns, index_ms, to_frame
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher.collect import Collected, Collector, How, cut
from candle_fetcher.fetcher.manifest import make_manifest
from candle_fetcher.fetcher.request import Request, check_on_gap
from candle_fetcher.fetcher.sessions import OpenParts
from candle_fetcher.sources import Errand, Source

FIX = "Call it again, or let more sources be asked; .frame holds what there is"
FIX_BY_ARCHIVE = (
    "Call it again; source='archive' takes the archive's files at their word, and without an end stops at the last of "
    "them; .frame holds what there is"
)
# A smaller difference between two clocks is ordinary; the provider's decides in any case.
_SKEW_S = 5.0
_INVENTING = ("ffill", "interpolate")


class Options(NamedTuple):
    """What a call was asked beside the range: the columns and the rows of its frames."""

    columns: str = "ohlcv"
    include_open: bool = False
    on_gap: str = "leave"
    refresh: bool = False

    @property
    def invents(self) -> bool:
        return self.on_gap in _INVENTING


def read_options(columns: str, *, include_open: bool, on_gap: str, refresh: bool) -> Options:
    """The options, checked. Raises InputError for a value that cannot be."""
    for name, flag in (("include_open", include_open), ("refresh", refresh)):
        read_flag(name, flag)
    return Options(check_columns(columns), include_open, check_on_gap(on_gap), refresh)


class Piece(NamedTuple):
    """A part of an answer, in order: what was collected, the candles after it that may still change, and the frame of
    all of it, with invented rows and marks, without a manifest."""

    got: Collected
    forming: Candles
    frame: pd.DataFrame


class Answer:
    """What a request is answered with. `stores` says whether what arrived is in the cache, for messages.

    Raises NotOffered where prices are to be invented of candles that have none.
    """

    def __init__(self, collector: Collector, request: Request, how: How, options: Options, *, stores: bool) -> None:
        provider, kind = request.source.provider, request.series.kind
        if options.invents and not have_prices(provider.feed(kind).columns):
            raise NotOffered(f"on_gap={options.on_gap!r} invents prices, and {kind} of {provider.name} has none")
        self.request, self.options = request, options
        self.how = how._replace(
            columns=options.columns,
            refresh=options.refresh,
            recheck=options.on_gap == "refetch",
            needs_sessions=options.on_gap == "raise",
        )
        self._collector, self._stores = collector, stores
        self._limited: Collected | None = None

    def span(self, errand: Errand) -> Span:
        """The span of the answer, up to what is settled."""
        if self.request.range.limit is None:
            return self._collector.span(self.request, self.how, errand)
        self._limited = self._collector.collect_limited(self.request, self.how, errand)
        return self._limited.span

    def pieces(self, errand: Errand, chunks: int) -> Iterator[Piece]:
        """The answer in pieces of at most so many chunks of slots, oldest first; of a range that is given by a number
        of candles, in one piece. Raises what `fetch` raises, when the piece concerned is due."""
        if self.request.range.limit is None:
            return self._made(self._collector.stream(self.request, self.how, chunks, errand), errand)
        got = self._limited or self._collector.collect_limited(self.request, self.how, errand)
        return self._made([(got, True)], errand)

    def whole(self, got: Collected, errand: Errand) -> Piece:
        """All that was collected as one piece."""
        return next(self._made([(got, True)], errand))

    def frames(self, errand: Errand, rows: int) -> Iterator[pd.DataFrame]:
        """The answer in frames of at most so many rows, each with a manifest."""
        for piece in self.pieces(errand, max(1, rows // CHUNK_SLOTS)):
            for one in _slices(piece, rows):
                yield self.framed(one, errand)

    def framed(self, piece: Piece, errand: Errand) -> pd.DataFrame:
        """The frame of the piece, with its manifest."""
        candles, timeframe = piece.got.candles, self.request.timeframe
        piece.frame.attrs[MANIFEST] = self.manifest(piece, errand, lambda: fingerprint(candles, timeframe, CHUNK_SLOTS))
        return piece.frame

    def manifest(self, piece: Piece, errand: Errand, work_out: Callable[[], str] = str) -> Manifest:
        """The manifest of the piece; `work_out` returns the fingerprint of its settled candles."""
        made = manifest_of(self.request, piece.got, errand, work_out)
        if piece.forming.count:
            made["rows"] += piece.forming.count
            made["expected"] += piece.forming.count
            made["sources"]["rest"] += piece.forming.count
        return made

    def refuse(self, got: Collected, errand: Errand) -> None:
        """Raise IncompleteData where part could not be had, or lacks candles and gaps are to raise."""
        columns = self.options.columns
        refuse_incomplete(self.request, got, columns, errand, stores=self._stores)
        if self.options.on_gap == "raise" and got.gaps:
            _refuse_gaps(self.request, got, columns, errand)

    def _made(self, collected: Iterable[tuple[Collected, bool]], errand: Errand) -> Iterator[Piece]:
        filler = _Filler(self._collector, self.request, self.options) if self.options.invents else None
        for found, is_last in collected:
            got = found
            self.refuse(got, errand)
            forming = no_candles(got.candles.names)
            if is_last and self.options.include_open:
                got, forming = self._with_open(got, errand)
            if filler is not None:
                yield from filler.fill(got, forming, is_last=is_last)
            else:
                yield Piece(got, forming, make_frame([got.candles, forming], forming, self.options))

    def _with_open(self, got: Collected, errand: Errand) -> tuple[Collected, Candles]:
        """What was collected and the candles after it that may still change, within the limit of the request."""
        request, limit = self.request, self.request.range.limit
        if limit is not None and request.range.oldest and got.candles.count >= limit:
            return got, no_candles(got.candles.names)
        try:
            forming = self._collector.forming(request, got, self.how, errand)
        except Banned:
            raise
        except (TransportError, ReplyError, RateLimited, AccessDenied) as error:
            if isinstance(error, AccessDenied) and error is not errand.denial:
                raise
            raise IncompleteData(
                f"the candle of {request.label} that is forming could not be had; "
                f"{type(error).__name__}: {error.reason}",
                frame=settled_frame(request, got, self.options.columns, errand),
                refusals=(error,),
                fix=".frame holds the settled ones, and include_open=False asks for no other",
            ) from error
        if limit is not None and request.range.oldest:
            forming = Candles(forming.names, forming.block[:, : max(0, limit - got.candles.count)])
        elif limit is not None:
            left_out = max(0, forming.count - limit)
            forming = Candles(forming.names, forming.block[:, left_out:])
            got = cut(got, limit - forming.count, request)
            if left_out:
                first_ms = int(forming.open_ms[0])
                got = got._replace(span=Span(first_ms, first_ms))
        return got, forming


class _Filler:
    """Fills the gaps of pieces as they come, with the rows that the whole would get.

    A hole at the end of a piece is held back while it may still lie at the end of the series, or while `interpolate`
    lacks the next candle: as the pieces that it covers, which hold no candles.
    """

    def __init__(self, collector: Collector, request: Request, options: Options) -> None:
        self._collector, self._request, self._options = collector, request, options
        self._timeframe = request.timeframe
        self._open_parts: OpenParts | None = None
        self._anchor: Candles | None = None  # the newest candle so far
        self._held: list[Collected] = []

    def fill(self, got: Collected, forming: Candles, *, is_last: bool) -> Iterator[Piece]:
        """The piece, behind those that were held back before and can be filled by now."""
        if self._open_parts is None:
            how = How(needs_sessions=True)
            self._open_parts = self._collector.open_parts(self._request, self._timeframe, got.span, how)
        nothing = no_candles(got.candles.names)
        last_ms = self._last_ms(got, is_last=is_last)
        if last_ms is None and self._anchor is not None:
            self._held.append(got)
            return
        until_ms = got.span.start_ms if last_ms is None else last_ms + 1
        rows = join([got.candles, forming])
        right = Candles(rows.names, rows.block[:, :1])
        for held in self._held:
            yield Piece(held, nothing, self._filled([right], nothing, held.span, until_ms))
        self._held = []
        end_ms = got.span.end_ms
        if not is_last and last_ms is not None:
            slot_end_ms = self._timeframe.open_ms(self._timeframe.ordinal(last_ms) + 1)
            end_ms = min(end_ms, max(slot_end_ms, got.span.start_ms))
        head = _part(got, Span(got.span.start_ms, end_ms))
        window = Span(got.span.start_ms, FOREVER_MS if is_last else end_ms)
        yield Piece(head, forming, self._filled([head.candles, forming], forming, window, until_ms))
        if got.candles.count:
            self._anchor = Candles(got.candles.names, got.candles.block[:, -1:].copy())
        if end_ms < got.span.end_ms:
            tail = _part(got, Span(end_ms, got.span.end_ms))
            if self._anchor is None:  # nothing to go by
                yield Piece(tail, nothing, self._filled([nothing], nothing, tail.span, end_ms))
            else:
                self._held.append(tail)

    def _last_ms(self, got: Collected, *, is_last: bool) -> int | None:
        """The open time of the last slot that can be filled by now; None where there is none.

        What is forming, not listed yet or over is no gap to fill: only what the provider has no candle of.
        """
        known = got.candles.open_ms[-1:].tolist()
        gaps = got.gaps if is_last or self._options.on_gap == "ffill" else []
        if is_last:
            gaps = [gap for held in (*self._held, got) for gap in held.gaps]
            known += [] if self._anchor is None else self._anchor.open_ms.tolist()
        return max([*known, *(gap.last_ms for gap in gaps if gap.cause == "no_candle")], default=None)

    def _filled(self, candles: list[Candles], forming: Candles, window: Span, until_ms: int) -> pd.DataFrame:
        """The rows that open in the window, with those invented in it, up to `until_ms`."""
        assert self._open_parts is not None
        open_parts = self._open_parts

        def within(hole: Span) -> list[Span]:
            return [inside for part in open_parts(hole) if (inside := part.clip(window))]

        anchor = [] if self._anchor is None else [self._anchor]
        frame = make_frame([*anchor, *candles], forming, self._options)
        how = self._options.on_gap
        filled = fill_gaps(frame, self._timeframe, Span(window.start_ms, until_ms), how, within)
        open_ms = index_ms(filled)
        inside = (open_ms >= window.start_ms) & (open_ms < window.end_ms)
        return filled if inside.all() else filled[inside]


def make_frame(parts: list[Candles], forming: Candles, options: Options) -> pd.DataFrame:
    """A frame of those candles, of which `forming` may still change."""
    candles = join(parts)
    closed = None
    if options.include_open:
        closed = candles.open_ms < (forming.open_ms[0] if forming.count else FOREVER_MS)
    return to_frame(candles, options.columns, closed)


def settled_frame(
    request: Request, got: Collected, columns: str, errand: Errand, *, is_shared: bool = False
) -> pd.DataFrame:
    """A frame of the settled candles alone, with its manifest."""
    frame = to_frame(got.candles, columns, is_shared=is_shared)
    candles, timeframe = got.candles, request.timeframe
    frame.attrs[MANIFEST] = manifest_of(request, got, errand, lambda: fingerprint(candles, timeframe, CHUNK_SLOTS))
    return frame


def manifest_of(request: Request, got: Collected, errand: Errand, work_out: Callable[[], str]) -> Manifest:
    """The manifest of settled candles; `work_out` returns their fingerprint."""
    return make_manifest(
        request,
        got.told,
        span=got.span,
        rows=got.candles.count,
        gaps=got.gaps,
        partial=got.partial,
        retries=errand.retries,
        fingerprint=work_out,
    )


def _part(got: Collected, span: Span) -> Collected:
    """What was collected of a part of its span."""
    if span == got.span:
        return got
    return got._replace(
        candles=got.candles.trim(span),
        span=span,
        gaps=[gap for gap in got.gaps if span.start_ms <= gap.first_ms < span.end_ms],
        partial=[ms for ms in got.partial if span.start_ms <= ms < span.end_ms],
    )


def _slices(piece: Piece, rows: int) -> Iterator[Piece]:
    """The piece in pieces of at most so many rows, each with its own gaps."""
    if len(piece.frame) <= rows:
        yield piece
        return
    span = piece.got.span
    borders = [min(ms, span.end_ms) for ms in index_ms(piece.frame)[rows::rows].tolist()]
    forming_at = np.searchsorted(index_ms(piece.frame), piece.forming.open_ms)
    spans = zip([span.start_ms, *borders], [*borders, span.end_ms], strict=True)
    for first, (start_ms, end_ms) in zip(range(0, len(piece.frame), rows), spans, strict=True):
        forming = piece.forming.block[:, (forming_at >= first) & (forming_at < first + rows)]
        yield Piece(
            _part(piece.got, Span(start_ms, end_ms)),
            Candles(piece.forming.names, forming),
            piece.frame.iloc[first : first + rows].copy(),
        )


def warn_of_limits(source: Source) -> None:
    """Warn of limits that the provider states and that are not obeyed, the first time alone."""
    for limit in source.refused_limits():
        warn(
            CandleFetcherWarning(
                f"{source.provider.name} tells a limit of {limit.cost} ({limit.kind}) in {limit.interval_s} s, "
                "below what one chunk takes: it is not obeyed; the documented limits stay in force"
            )
        )


def warn_of_clock(source: Source) -> None:
    """Warn of a clock of this machine that is wrong, and of limits that are not obeyed, where the source knows."""
    warn_of_limits(source)
    skew_s = source.skew_s
    if abs(skew_s) > _SKEW_S and source.warn_once():
        warn(
            ClockSkew(
                f"this machine's clock is {abs(skew_s):,.0f} s {'behind' if skew_s > 0 else 'ahead of'} that of "
                f"{source.provider.name}, which decides what is settled; set this machine's clock"
            )
        )


def refuse_incomplete(request: Request, got: Collected, columns: str, errand: Errand, *, stores: bool) -> None:
    """Warn of a wrong clock; raise IncompleteData, with what there is, where part of the span could not be had.

    It is raised without a frame where the provider may have adjusted the prices during the call.
    """
    warn_of_clock(request.source)
    if request.is_readjusted:
        raise IncompleteData(
            f"a corporate action of {request.symbol} took effect while its adjusted prices were fetched, so that some "
            "may be adjusted for it and some not",
            fix="Call it again",
        )
    if not got.failed:
        return
    errand.span = got.span
    count = sum(gap.count for gap in got.failed)
    last = got.refusals[-1] if got.refusals else None
    if isinstance(last, AccessDenied) and not got.candles.count:
        raise last
    fix = FIX
    if last is not None and request.archive is not None and got.told.asked_rest:
        fix = FIX_BY_ARCHIVE
    if all(gap.cause == "depth_limit" for gap in got.failed):
        name = request.series.provider
        why = f"{name} serves only the newest candles of a series, and these are older and not stored"
        fix = (
            ".frame holds the rest, and what was fetched stays stored, so that history grows; "
            "cache.import_file takes files"
        )
    elif last is not None:
        why = f"{type(last).__name__}: {last.reason}"
        if stores and got.candles.count:
            why += ". What arrived is stored"
    elif got.failed[0].cause == "not_published":
        why = "the archive has no file of them; source='auto' asks REST for them"
    else:
        why = "they are not stored, and only the cache may be asked"
    raise IncompleteData(
        f"{count:,} candles of {request.label} between {got.failed[0].first} and {got.failed[-1].last} "
        f"could not be had; {why}",
        frame=settled_frame(request, got, columns, errand),
        missing=got.failed,
        refusals=got.refusals,
        fix=fix,
    ) from last


def _refuse_gaps(request: Request, got: Collected, columns: str, errand: Errand) -> None:
    errand.span = got.span
    count = sum(gap.count for gap in got.gaps)
    raise IncompleteData(
        f"{request.series.provider} has no candle in {count:,} slots of {request.label} "
        f"(first {got.gaps[0].first}, {got.gaps[0].cause})",
        frame=settled_frame(request, got, columns, errand),
        missing=got.gaps,
        fix="on_gap='leave' lists them instead",
    )
