"""A picture of candles: gaps shaded by cause, invented and unfinished candles marked, closed hours cut out."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.arguments import is_several, read_flag
from candle_fetcher.core.candles import OHLCV, Int64s
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.frame import index_ms
from candle_fetcher.core.gap import Gap, iso
from candle_fetcher.core.spans import Span
from candle_fetcher.core.thinning import any_of, thin, thin_line
from candle_fetcher.core.timeframe import Timeframe
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.plot.holes import Shade, find_closed, find_lacking, find_unpriced, shades_of
from candle_fetcher.plot.reading import Drawn, Flags, as_frame, read_frame
from candle_fetcher.plot.themes import (
    CAUSES,
    Theme,
    axis_of,
    counted,
    decimals_of,
    find_theme,
    layout_of,
    minute_text,
    plotly,
    time_of,
    times_of,
)
from candle_fetcher.plot.ticks import session_ticks

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Of time before the first candle and after the last one, the most that is shown, by the time between them.
_EDGE = 0.06
_PRICES = OHLCV[:4]
_HOVER_POINTS = 60  # of one gap, on which the pointer finds it


@short_errors
def candles(frame: Any, volume: bool = True, overlays: Any = None, *, theme: str = "light") -> go.Figure:
    """Return a picture of the candles of a frame, as a plotly Figure. Jupyter shows it; `save` writes it to a file.

    frame: as the calls of a fetcher return it, of pandas, Polars or Arrow; with or without a manifest; also a pair of a
    frame and its manifest.
    volume: adds a panel of the volumes, if there are any.
    overlays: lines over the candles: names of columns of the frame, or {name: Series with times as its index}.
    theme: "light" or "dark".

    Gaps are shaded by their causes, invented rows and candles that are not finished have colours of their own, and the
    hours in which the exchange of a stock is closed are cut out. Of more than 1,500 candles coarser ones are made, with
    each high and low, and the picture says how long they are. All times are UTC.
    Raises InputError where the frame has no times or prices, MissingExtra without plotly (extra `plot`).
    """
    colours, has_volume = find_theme(theme), read_flag("volume", volume)
    lines = _read_overlays(overlays, frame)
    return _Chart(read_frame(frame), colours, lines).figure(plotly(), has_volume)


class _Chart:
    """What is drawn of one frame."""

    def __init__(self, drawn: Drawn, theme: Theme, lines: Mapping[str, pd.Series]) -> None:
        self.theme, self.lines = theme, lines
        self.gaps = sorted([*find_lacking(drawn), *find_unpriced(drawn)], key=lambda gap: gap.first_ms)
        self.drawn = drawn._replace(span=_cut_edges(drawn, self.gaps))
        self.thinned = thin(drawn.candles, drawn.timeframe)
        self.cell = self.thinned.cell or drawn.timeframe
        # A candle is drawn around its open time: what is shaded moves by half a candle, too.
        self.half_ms = self.cell.nominal_ms // 2 if self.cell else 0

    def figure(self, go: Any, has_volume: bool) -> go.Figure:
        theme, drawn, kept = self.theme, self.drawn, self.thinned.candles
        has_volume = has_volume and bool(np.nan_to_num(kept.floats("volume")).any())
        made = go.Figure()
        made.add_traces(list(self._shades(go)))
        is_invented, is_open = (any_of(flags, self.thinned.firsts) for flags in (drawn.is_invented, drawn.is_open))
        made.add_traces(list(self._bodies(go, is_invented, is_open)))
        if has_volume:
            made.add_trace(self._volumes(go, is_invented, is_open))
        made.add_traces(list(self._lines(go)))
        floor = 0.26 if has_volume else 0.0
        prices = np.concatenate([kept.floats(name) for name in _PRICES])
        places, largest = decimals_of(prices), np.nanmax(np.abs(prices), initial=0)
        hover = {"showspikes": True, "spikemode": "across", "spikethickness": 1, "spikecolor": theme.faint}
        price = {"domain": [floor, 1], "side": "right", "hoverformat": f",.{places}f"}
        # Small prices keep their zeros, so that all labels are of one length.
        price["tickformat"] = f".{places}f" if largest < 1 else f",.{places + 1}~f"
        made.update_layout(
            **layout_of(theme, drawn.label or "candles", *self._lines_of_title()),
            xaxis=axis_of(theme, **self._time_axis(), **hover, spikedash="dot"),
            yaxis=axis_of(theme, **price, title_text=html.escape(_quote(drawn.manifest))),
            yaxis2=axis_of(theme, domain=[0, floor - 0.04 if floor else 0], side="right", title_text="volume", nticks=4)
            | {"visible": has_volume, "rangemode": "tozero", "anchor": "x"},
            yaxis3={"overlaying": "y", "domain": [0, 1], "range": [0, 1], "visible": False, "fixedrange": True},
            bargap=0.15,
        )
        if not kept.count:
            made.add_annotation(text="no candles", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
        return made

    def _lines_of_title(self) -> tuple[str, str]:
        """Return what stands below the title: the range, and how the candles are drawn."""
        drawn, count = self.drawn, self.drawn.candles.count
        ends = map(minute_text, drawn.span)
        where = f"{' to '.join(ends)} UTC" if drawn.span else "UTC"
        origin = drawn.manifest.get("origin")
        what = counted(count, "candle")
        if self.thinned.cell is not None:
            of = f" of {drawn.timeframe}" if drawn.timeframe else ""
            what = f"each candle is {_spaced(self.thinned.cell)}, made of {what}{of}"
        what += " · values were changed after the fetch" if drawn.manifest.get("changed") else ""
        return where + (f" · from {origin}" if origin else ""), what

    def _time_axis(self) -> dict[str, Any]:
        span, half_ms = self.drawn.span, self.half_ms
        opens = self.thinned.candles.open_ms
        axis: dict[str, Any] = {"type": "date", "hoverformat": "%Y-%m-%d %H:%M:%S UTC" if half_ms < 30_000 else None}
        axis["hoverformat"] = axis["hoverformat"] or "%Y-%m-%d %H:%M UTC"
        axis |= {"rangeslider": {"visible": False}, "anchor": "y2"}
        if not span:
            return axis
        ends = [span.start_ms, span.end_ms, *(opens[:1] if len(opens) else []), *(opens[-1:] + 2 * half_ms)]
        axis["range"] = [time_of(int(min(ends)) - half_ms), time_of(int(max(ends)) - half_ms)]
        if self.cell is not None and self.drawn.timeframe is not None:
            closed = find_closed(opens, self.cell, self.gaps, self.drawn.timeframe)
            axis["rangebreaks"] = [
                {"bounds": [time_of(one.start_ms - half_ms), time_of(one.end_ms - half_ms)]} for one in closed
            ]
            axis |= session_ticks(opens) if closed else {}
        return axis

    def _bodies(self, go: Any, is_invented: Flags, is_open: Flags) -> Iterator[Any]:
        theme, kept, nothing = self.theme, self.thinned.candles, "rgba(0,0,0,0)"
        invented, unfinished = int(self.drawn.is_invented.sum()), int(self.drawn.is_open.sum())
        for name, wanted, up, down in (
            ("", ~is_invented & ~is_open, theme.up, theme.down),
            (f"invented rows: {invented:,}", is_invented & ~is_open, theme.invented, theme.invented),
            (f"not finished: {unfinished:,}", is_open, theme.open, theme.open),
        ):
            if wanted.any():
                opens, prices = kept.open_ms[wanted], {one: kept.floats(one)[wanted] for one in _PRICES}
                texts = self._texts()[wanted]
                if kept.count == 1:  # beside nothing, plotly does not know how wide it is
                    opens = opens[0] + 2 * self.half_ms * np.arange(-1, 2)
                    prices = {one: np.pad(values, 1, constant_values=np.nan) for one, values in prices.items()}
                    texts = np.pad(texts, 1, constant_values="")
                yield go.Candlestick(
                    x=times_of(opens),
                    **prices,
                    text=texts,
                    name=name or "candle",
                    showlegend=bool(name),
                    increasing={"line": {"color": up, "width": 1}, "fillcolor": nothing if name else up},
                    decreasing={"line": {"color": down, "width": 1}, "fillcolor": nothing if name else down},
                )

    def _texts(self) -> npt.NDArray[np.str_]:
        """Return what the pointer shows of each drawn candle beside its prices: the volume, and what it is made of."""
        volumes = self.thinned.candles.floats("volume")
        texts = np.array(["" if np.isnan(volume) else f"volume: {volume:,.8g}" for volume in volumes.tolist()], np.str_)
        if self.thinned.cell is None:
            return texts
        counts = np.diff(self.thinned.firsts, append=self.drawn.candles.count)
        return np.array([f"{text}<br>of {counted(n, 'candle')}" for text, n in zip(texts, counts, strict=True)])

    def _volumes(self, go: Any, is_invented: Flags, is_open: Flags) -> Any:
        theme, kept = self.theme, self.thinned.candles
        rises = kept.floats("close") >= kept.floats("open")
        colours = np.where(rises, theme.up, theme.down)
        colours = np.where(is_open, theme.open, np.where(is_invented, theme.invented, colours))
        return go.Bar(
            x=times_of(kept.open_ms),
            y=kept.floats("volume"),
            width=None if kept.count > 1 else 1.7 * self.half_ms,
            yaxis="y2",
            name="volume",
            showlegend=False,
            marker={"color": colours, "opacity": 0.75, "line": {"width": 0}},
        )

    def _shades(self, go: Any) -> Iterator[Any]:
        """Yield for each cause its shades, and points on which the pointer finds them."""
        timeframe, cell = self.drawn.timeframe, self.cell
        if timeframe is None or cell is None:
            return
        for cause in dict.fromkeys(gap.cause for gap in self.gaps):
            gaps = [gap for gap in self.gaps if gap.cause == cause]
            shades = shades_of(gaps, timeframe, cell)
            colour, name = self.theme.cause(cause), CAUSES.get(cause, cause)
            total = sum(gap.count for gap in gaps)
            label = f"{name}: {counted(total, 'candle')}" + (f" in {len(gaps):,} gaps" if len(gaps) > 1 else "")
            edges = np.array([tuple(shade.span) for shade in shades], np.int64) - self.half_ms
            x = times_of(np.repeat(edges, [2, 3], axis=1).reshape(-1)).astype(object)
            x[4::5] = None
            yield go.Scatter(
                x=x,
                y=np.tile([0, 1, 1, 0, np.nan], len(shades)),
                yaxis="y3",
                mode="lines",
                # A gap gets a line around it, so that none is too short to be seen; cells are wide enough.
                line={"width": int(len(shades) == len(gaps)), "color": f"rgba({colour},0.55)"},
                fill="toself",
                fillcolor=f"rgba({colour},0.22)",
                hoverinfo="skip",
                name=html.escape(label),
                legendgroup=cause,
            )
            points, texts = _hover_points(shades, gaps, cell, name)
            yield go.Scatter(
                x=times_of(points),
                y=np.full(len(points), 0.5),
                yaxis="y3",
                mode="markers",
                marker={"opacity": 0, "color": f"rgb({colour})"},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
                showlegend=False,
                legendgroup=cause,
            )

    def _lines(self, go: Any) -> Iterator[Any]:
        for at, (name, series) in enumerate(self.lines.items()):
            ordered = series if series.index.is_monotonic_increasing else series.sort_index(kind="stable")
            opens, values = index_ms(ordered.to_frame()), ordered.to_numpy(dtype=np.float64, na_value=np.nan)
            kept = thin_line(opens, values)
            yield go.Scatter(
                x=times_of(opens[kept]),
                y=values[kept],
                mode="lines",
                line={"width": 1.5, "color": self.theme.lines[at % len(self.theme.lines)]},
                name=html.escape(name),
            )


def _cut_edges(drawn: Drawn, gaps: list[Gap]) -> Span:
    """Return the span to show: not the closed hours before the first candle and after the last one, and of a long time
    before the listing or after the end of the series only a part."""
    span, opens, timeframe = drawn.span, drawn.candles.open_ms, drawn.timeframe
    if timeframe is None or not len(opens):
        return span
    first_ms, end_ms = int(opens[0]), timeframe.close_ms(int(opens[-1]))
    edge_ms = max(round((end_ms - first_ms) * _EDGE), timeframe.nominal_ms)
    before = [gap for gap in gaps if gap.first_ms < first_ms]
    behind = [gap for gap in gaps if gap.first_ms >= end_ms]
    start = min([first_ms, *(gap.first_ms for gap in before)])
    end = max([end_ms, *(timeframe.close_ms(gap.last_ms) for gap in behind)])
    if {gap.cause for gap in before} == {"not_listed"}:
        start = max(start, timeframe.floor_ms(first_ms - edge_ms))
    if {gap.cause for gap in behind} == {"after_delisting"}:
        end = min(end, timeframe.ceil_ms(end_ms + edge_ms))
    return Span(start, end)


def _hover_points(shades: list[Shade], gaps: list[Gap], cell: Timeframe, name: str) -> tuple[Int64s, list[str]]:
    """Return the times of points within the shades, and the text of each."""
    points, texts = [], []
    is_each = len(shades) == len(gaps)
    for at, shade in enumerate(shades):
        slots = max(1, -(-(shade.span.end_ms - shade.span.start_ms) // cell.nominal_ms))
        wanted = np.linspace(shade.span.start_ms, shade.span.end_ms, min(slots, _HOVER_POINTS) + 1)[:-1]
        points.append(wanted.astype(np.int64))
        text = f"<b>{html.escape(name)}</b>: {counted(shade.candles, 'candle')}"
        ends = (gaps[at].first, gaps[at].last) if is_each else (iso(shade.span.start_ms), iso(shade.span.end_ms))
        text += f" in {shade.gaps:,} gaps" if shade.gaps > 1 else ""
        texts += [f"{text}<br>{ends[0]} to {ends[1]}"] * len(wanted)
    return np.concatenate(points) if points else np.empty(0, np.int64), texts


def _read_overlays(overlays: Any, given: Any) -> dict[str, pd.Series]:
    """Return the lines by name. Raises InputError where one is not a Series or column with times as its index."""
    if overlays is None:
        return {}
    if isinstance(overlays, pd.Series):
        overlays = {"overlay" if overlays.name is None else str(overlays.name): overlays}
    if not isinstance(overlays, Mapping):
        names = [overlays] if isinstance(overlays, str) else list(overlays) if is_several(overlays) else None
        frame = as_frame(given)
        lacking = [name for name in names or () if not isinstance(name, str) or name not in frame]
        if names is None or lacking:
            what = shown(overlays if names is None else lacking[0])
            raise InputError(f"overlays: {what} is no column of the frame; expected columns or {{name: Series}}")
        overlays = {name: frame[name] for name in names}
    for name, line in overlays.items():
        is_line = isinstance(line, pd.Series) and isinstance(line.index, pd.DatetimeIndex)
        if not isinstance(name, str) or not is_line or line.dtype.kind not in "biuf":
            raise InputError(
                f"overlay {shown(name)} is {type(line).__name__}; expected a Series of numbers with times as its index"
            )
    return dict(overlays)


def _spaced(timeframe: Timeframe) -> str:
    return f"{timeframe.count} {'month' if timeframe.unit == 'M' else timeframe.unit}"


def _quote(manifest: Mapping[str, Any]) -> str:
    """Return what the values are, and the currency of prices, where the symbol says it."""
    _, slash, quote = str(manifest.get("symbol", "")).partition("/")
    if manifest.get("kind") == "premium":
        return "premium"
    return f"price ({quote.partition(':')[0]})" if slash else "price"
