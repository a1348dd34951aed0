"""A map of what the cache has of several series: what is stored, what is missing and why, and what was never asked."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from candle_fetcher.core.arguments import is_several
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.ranges import Instant
from candle_fetcher.core.spans import Span, hull, merge, subtract
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.core.types import CandleKind
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.request import read_range
from candle_fetcher.plot.themes import Theme, axis_of, cut, find_theme, layout_of, minute_text, plotly, times_of
from candle_fetcher.providers import Provider

if TYPE_CHECKING:
    import plotly.graph_objects as go

NEVER = "never requested"
# What is drawn of each state, in words of the legend, in the order of drawing: what is small and matters comes last.
STATES = {
    NEVER: NEVER,
    "stored": "stored",
    "unverified": "stored, without a checksum",
    "not_listed": "not listed",
    "after_delisting": "after delisting",
    "depth_limit": "older than the provider serves",
    "no_candle": "gap (no_candle)",
    "failed": "could not be fetched",
}
_OUTSIDE = ("not_listed", "after_delisting")
_EDGE = 0.06
_HOVER = {"hoverformat": "%Y-%m-%d %H:%M UTC"}
_MOST = 1500  # bars of one state and symbol


class _Bar(NamedTuple):
    """A span of one symbol, and what is known of it."""

    symbol: str
    span: Span
    text: str


@short_errors
def coverage(
    fetcher: CandleFetcher,
    symbols: str | Iterable[str],
    timeframe: str,
    start: Instant = None,
    end: Instant = None,
    *,
    days: float | None = None,
    provider: str | Provider | None = None,
    kind: CandleKind = "candles",
    theme: str = "light",
) -> go.Figure:
    """Return a map of what the cache knows of the symbols, as a plotly Figure; sends no request.

    A row for each symbol: what is stored, gaps by cause, what could not be fetched, and what was never requested.
    Without a range it shows all that is known. The arguments are those of `CandleFetcher.coverage`, for one or several
    symbols, which may name their providers. theme: "light" or "dark".

    Raises InputError for an argument that is not valid, MissingExtra without plotly (extra `plot`).
    """
    colours, go = find_theme(theme), plotly()
    if not isinstance(fetcher, CandleFetcher):
        raise InputError(f"the first argument is {shown(fetcher)}; expected a CandleFetcher")
    names = _read_symbols(symbols)
    tables = {
        name: fetcher.coverage(name, timeframe, start, end, days=days, provider=provider, kind=kind) for name in names
    }
    now_ms = int(fetcher._runtime.clock() * 1000)
    length, span = parse_timeframe(timeframe), _read_span(start, end, days, now_ms)
    if span is None or start == "first":
        known = _known_span(tables.values(), span)
        span = Span(length.floor_ms(known.start_ms), length.ceil_ms(known.end_ms))
    return _draw(go, tables, length, span, colours)


def _read_symbols(symbols: object) -> list[str]:
    names = [symbols] if isinstance(symbols, str) else list(symbols) if is_several(symbols) else []  # type: ignore[call-overload]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"symbols {shown(symbols)} are not understood; expected some, such as ['BTC/USDT']")
    return list(dict.fromkeys(names))


def _read_span(start: Any, end: Any, days: Any, now_ms: int) -> Span | None:
    """Return the range that was given; None where none was."""
    if start is None and end is None and days is None:
        return None
    wanted = read_range(start, end, days, now_ms=lambda: now_ms)
    end_ms = now_ms if wanted.end_ms is None else wanted.end_ms
    start_ms = 0 if wanted.back_ms is None else end_ms - wanted.back_ms
    return Span.between(start_ms if wanted.start_ms is None else wanted.start_ms, end_ms)


def _known_span(tables: Iterable[pd.DataFrame], wanted: Span | None) -> Span:
    """Return the span in which something is known, with a part of the time before the listing and after the end."""
    spans: list[Span] = []
    outside: list[Span] = []
    for table in tables:
        for span, state in zip(_spans(table), table["state"], strict=True):
            (outside if state in _OUTSIDE else spans).append(span)
    if not spans:
        return wanted or Span(0, 0)
    inner = hull(spans)
    edge_ms = round((inner.end_ms - inner.start_ms) * _EDGE)
    wide = Span(inner.start_ms - edge_ms, inner.end_ms + edge_ms)
    shown_spans = [inner, *(part for span in outside if (part := span.clip(wide)))]
    return hull(shown_spans)


def _spans(table: pd.DataFrame) -> list[Span]:
    starts, ends = (
        table[name].dt.tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64).tolist()
        for name in ("start", "end")
    )
    return [Span(*one) for one in zip(starts, ends, strict=True)]


class _Map:
    """The bars of each state, and of how many candles."""

    def __init__(self, timeframe: Timeframe, span: Span) -> None:
        self.timeframe, self.span = timeframe, span
        self.bars: dict[str, list[_Bar]] = {state: [] for state in STATES}
        self.counts = dict.fromkeys(STATES, 0)

    def add(self, symbol: str, table: pd.DataFrame) -> None:
        """Add what is known of a symbol, and what is not."""
        found: dict[str, list[tuple[Span, dict[Any, Any]]]] = {state: [] for state in STATES}
        spans = _spans(table)
        for span, row in zip(spans, table.to_dict("records"), strict=True):
            found[row["state"]].append((span.clip(self.span), row))
        found[NEVER] = [(left, {}) for left in subtract(self.span, merge(spans))] if self.span else []
        for state, pairs in found.items():
            there = [pair for pair in pairs if pair[0]]
            self.counts[state] += sum(len(self.timeframe.slots(span)) for span, _ in there)
            self.bars[state] += _bars(symbol, state, there, self.span)


def _draw(go: Any, tables: dict[str, pd.DataFrame], timeframe: Timeframe, span: Span, theme: Theme) -> go.Figure:
    drawn = _Map(timeframe, span)
    for symbol, table in tables.items():
        drawn.add(symbol, table)
    made = go.Figure()
    total = sum(drawn.counts.values())
    for state, words in STATES.items():
        if drawn.bars[state]:
            name = f"{words}: {_share(drawn.counts[state], total)}"
            made.add_trace(_trace(go, drawn.bars[state], name, theme.state(state)))
    what = f"{len(tables)} series" if len(tables) > 1 else next(iter(tables))
    text = f"{minute_text(span.start_ms)} to {minute_text(span.end_ms)} UTC" if span else "nothing is known yet"
    made.update_layout(
        **layout_of(theme, f"Stored · {what} · {timeframe}", text, f"{total:,} candles · no request was sent"),
        xaxis=axis_of(theme, type="date", range=[str(np.datetime64(ms, "ms")) for ms in span], **_HOVER),
        yaxis=axis_of(
            theme,
            type="category",
            autorange="reversed",
            showgrid=False,
            categoryarray=[html.escape(cut(name)) for name in tables],
        ),
        barmode="overlay",
        bargap=0.35 if len(tables) > 3 else 0.6,
    )
    made.update_layout(hovermode="closest")
    if len(tables) > 16:
        made.update_layout(height=160 + 32 * len(tables))
    return made


def _bars(symbol: str, state: str, found: Sequence[tuple[Span, dict[Any, Any]]], shown_span: Span) -> list[_Bar]:
    """Return a bar for each span; of too many to see, one for those that touch within a pixel."""
    words, name = STATES[state], html.escape(cut(symbol))
    if len(found) > _MOST:
        pixel_ms = (shown_span.end_ms - shown_span.start_ms) // _MOST
        joined = merge(Span(one.start_ms, one.end_ms + pixel_ms) for one, _ in found)
        text = f"<b>{name}</b>: {words}<br>several spans, too close to tell apart"
        return [_Bar(name, Span(one.start_ms, one.end_ms - pixel_ms), text) for one in joined]
    bars = []
    for span, row in found:
        lines = [f"<b>{name}</b>: {words}", f"{minute_text(span.start_ms)} to {minute_text(span.end_ms)} UTC"]
        if row.get("evidence"):
            lines.append(html.escape(str(row["evidence"])))
        for key, said in (("asked", "asked"), ("ask_again", "asked again from")):
            if row and not pd.isna(row[key]):
                lines.append(f"{said} {minute_text(row[key].value // 1_000_000)} UTC")
        bars.append(_Bar(name, span, "<br>".join(lines)))
    return bars


def _trace(go: Any, bars: Sequence[_Bar], name: str, style: tuple[str, str]) -> Any:
    colour, shape = style
    starts = np.array([bar.span.start_ms for bar in bars], np.int64)
    return go.Bar(
        orientation="h",
        y=[bar.symbol for bar in bars],
        base=times_of(starts),
        x=np.array([bar.span.end_ms for bar in bars], np.int64) - starts,
        text=[bar.text for bar in bars],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        name=name,
        # A line around it, so that no span is too short to be seen.
        marker={"color": colour, "line": {"color": colour, "width": 1}, "pattern": {"shape": shape, "size": 6}},
    )


def _share(count: int, total: int) -> str:
    part = 100 * count / max(1, total)
    text = f"{part:.1f}"
    if text in ("0.0", "100.0") and count not in (0, total):
        text = "under 0.1" if text == "0.0" else "over 99.9"
    return f"{text} %"
