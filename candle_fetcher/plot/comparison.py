"""Several series in one picture: how far each close has moved since the time at which all have begun."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from candle_fetcher.core.arguments import is_several
from candle_fetcher.core.candles import Float64s, Int64s
from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.core.thinning import thin_line
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.plot.holes import find_lacking
from candle_fetcher.plot.reading import Drawn, read_frame
from candle_fetcher.plot.themes import axis_of, cut, find_theme, layout_of, minute_text, plotly, times_of

if TYPE_CHECKING:
    import plotly.graph_objects as go


@short_errors
def compare(frames: Any, *, theme: str = "light") -> go.Figure:
    """Return a picture of how far the closes of several frames have moved, in percent, as a plotly Figure.

    frames: {name: frame}, as `fetch_many` returns them, or several frames, which get their names from their manifests.
    Each is one that `candles` takes. theme: "light" or "dark".

    All begin with 0 % at the first time at which each has begun; what is before is left out. A line breaks at a gap,
    and invented rows are left out. Of many candles the highest and lowest close of each part are drawn.
    Raises InputError where a frame has no times or prices, or where none of its candles is left, or the first close
    is 0; MissingExtra without plotly (extra `plot`).
    """
    colours, go = find_theme(theme), plotly()
    drawn = {name: _without_invented(one) for name, one in _read_frames(frames).items()}
    for name, one in drawn.items():
        if not one.candles.count:
            raise InputError(f"{name} has no candles to compare; leave it out")
    since_ms = max(int(one.candles.open_ms[0]) for one in drawn.values())
    made = go.Figure()
    places = {name: int(np.searchsorted(one.candles.open_ms, since_ms)) for name, one in drawn.items()}
    for at, (name, one) in enumerate(drawn.items()):
        if places[name] == one.candles.count:
            raise InputError(f"{name} ends before the last of the others begins; there is no time to compare")
        if not one.candles.floats("close")[places[name]]:
            raise InputError(f"{name} begins with a close of 0, from which there is no change in percent")
        opens, change = _with_breaks(one, places[name])
        kept = thin_line(opens, change)
        made.add_trace(
            go.Scatter(
                x=times_of(opens[kept]),
                y=change[kept],
                mode="lines",
                line={"width": 1.6, "color": colours.lines[at % len(colours.lines)], "dash": _DASHES[at // 6 % 3]},
                name=html.escape(f"{cut(name)}: {change[-1]:+,.1f} %"),
                hovertemplate="%{y:+.2f} %",
            )
        )
    last_ms = max(int(one.candles.open_ms[-1]) for one in drawn.values())
    texts = f"{minute_text(since_ms)} to {minute_text(last_ms)} UTC", "change of the close since the start, in percent"
    made.update_layout(
        **layout_of(colours, " · ".join(map(cut, drawn)) if len(drawn) < 5 else f"{len(drawn)} series", *texts),
        xaxis=axis_of(colours, type="date", hoverformat="%Y-%m-%d %H:%M UTC"),
        yaxis=axis_of(colours, side="right", ticksuffix=" %", tickformat="+,~f") | {"zeroline": True},
    )
    made.update_yaxes(zerolinecolor=colours.faint)
    return made


_DASHES = ("solid", "dash", "dot")


def _read_frames(frames: Any) -> dict[str, Drawn]:
    if isinstance(frames, Mapping):
        if not frames or not all(isinstance(name, str) for name in frames):
            raise InputError("expected frames by name, such as fetch_many returns them; got none, or other names")
        return {name: read_frame(one) for name, one in frames.items()}
    if not is_several(frames) or hasattr(frames, "columns") or hasattr(frames, "schema"):
        raise InputError(f"expected several frames, got {shown(type(frames).__name__)}; candles() draws one")
    named: dict[str, Drawn] = {}
    for at, one in enumerate(map(read_frame, frames), 1):
        name = one.label if one.label and one.label not in named else f"{one.label or 'frame'} ({at})"
        named[name] = one
    if not named:
        raise InputError("expected several frames, got none")
    return named


def _without_invented(drawn: Drawn) -> Drawn:
    """Return the candles that are known and have a close."""
    known = ~drawn.is_invented & np.isfinite(drawn.candles.floats("close"))
    if known.all():
        return drawn
    candles = type(drawn.candles)(drawn.candles.names, drawn.candles.block[:, known])
    nothing = np.zeros(candles.count, np.bool_)
    return drawn._replace(candles=candles, is_invented=nothing, is_open=drawn.is_open[known])


def _with_breaks(drawn: Drawn, first: int) -> tuple[Int64s, Float64s]:
    """Return times and changes in percent since that candle, and in each gap a point without a value."""
    opens, close = drawn.candles.open_ms[first:], drawn.candles.floats("close")[first:]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = 100 * (close / close[0] - 1)
    gaps = np.array([gap.first_ms for gap in find_lacking(drawn)], np.int64)
    inside = gaps[(gaps > opens[0]) & (gaps < opens[-1])]
    at = np.searchsorted(opens, inside)
    return np.insert(opens, at, inside), np.insert(change, at, np.nan)
