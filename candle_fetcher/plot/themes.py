"""Colours and texts of pictures, in light and dark."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from candle_fetcher.core.candles import Float64s, Int64s
from candle_fetcher.core.errors import MissingExtra, unknown
from candle_fetcher.core.gap import iso

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
_MOST_DECIMALS = 12
_MOST_LETTERS = 40
# What is drawn of each cause, in words of the legend.
CAUSES = {
    "no_candle": "gap (no_candle)",
    "not_listed": "not listed",
    "after_delisting": "after delisting",
    "fetch_failed": "could not be fetched",
    "depth_limit": "older than the provider serves",
    "not_published": "not published yet",
}


class Theme(NamedTuple):
    """Colours of one theme; `lines` are those of lines, in order, `causes` those of shades, as r, g, b,
    and `states` those of what the cache knows, with a pattern."""

    name: str
    paper: str
    text: str
    faint: str
    grid: str
    up: str
    down: str
    invented: str
    open: str
    lines: tuple[str, ...]
    causes: dict[str, str]
    otherwise: str
    states: dict[str, tuple[str, str]]

    def cause(self, name: str) -> str:
        """Return the colour of a cause, as r, g, b."""
        return self.causes.get(name, self.otherwise)

    def state(self, name: str) -> tuple[str, str]:
        """Return the colour and the pattern of a state of the cache."""
        return self.states.get(name, (f"rgb({self.cause(name)})", ""))


THEMES = {
    "light": Theme(
        name="light",
        paper="#ffffff",
        text="#1c2530",
        faint="#55606d",
        grid="#e3e7ec",
        up="#0a8a6f",
        down="#cc3d4a",
        invented="#8a5cd1",
        open="#0b66c3",
        lines=("#0b66c3", "#c2570c", "#6d3fb8", "#00798c", "#a3245b", "#5b6b00"),
        causes={
            "no_candle": "217, 119, 6",
            "fetch_failed": "190, 24, 93",
            "not_listed": "100, 116, 139",
            "after_delisting": "100, 116, 139",
        },
        otherwise="161, 98, 7",
        states={
            "stored": ("#0a8a6f", ""),
            "unverified": ("#5cb8a4", "/"),
            "never requested": ("#c9d1da", "."),
            "failed": ("#be185d", "x"),
        },
    ),
    "dark": Theme(
        name="dark",
        paper="#12161c",
        text="#e8ecf1",
        faint="#a4afbc",
        grid="#2a323c",
        up="#2fc7a0",
        down="#ff6b74",
        invented="#b794f6",
        open="#5fb0ff",
        lines=("#5fb0ff", "#ffa657", "#c8a6ff", "#4fd8e0", "#ff8fc0", "#cfe065"),
        causes={
            "no_candle": "251, 176, 64",
            "fetch_failed": "244, 114, 182",
            "not_listed": "148, 163, 184",
            "after_delisting": "148, 163, 184",
        },
        otherwise="234, 179, 8",
        states={
            "stored": ("#2fc7a0", ""),
            "unverified": ("#1f8a70", "/"),
            "never requested": ("#3a4552", "."),
            "failed": ("#f472b6", "x"),
        },
    ),
}


def find_theme(name: object) -> Theme:
    """Return the theme of that name. Raises InputError for another one."""
    if not isinstance(name, str) or name not in THEMES:
        raise unknown("theme", name, THEMES)
    return THEMES[name]


def plotly() -> Any:
    """Return plotly.graph_objects. Raises MissingExtra without plotly."""
    try:
        import plotly.graph_objects as figures
    except ImportError:
        raise MissingExtra("plot", "A picture") from None
    return figures


def layout_of(theme: Theme, title: str, *lines: str) -> dict[str, Any]:
    """Return the layout that all pictures share: the title with lines below it, and the legend below the picture."""
    small = "".join(
        f"<br><span style='font-size:13px;color:{theme.faint}'>{html.escape(line)}</span>" for line in lines
    )
    return {
        "title": {
            "text": f"<b>{html.escape(title)}</b>{small}",
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"t": 24},
            "font": {"size": 18, "color": theme.text},
        },
        "font": {"family": _FONT, "size": 13, "color": theme.text},
        "paper_bgcolor": theme.paper,
        "plot_bgcolor": theme.paper,
        "margin": {"l": 24, "r": 24, "t": 50 + 20 * len(lines), "b": 40},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yanchor": "bottom",
            "yref": "container",
            "bgcolor": "rgba(0,0,0,0)",
            "itemsizing": "constant",
        },
        "hoverlabel": {"bgcolor": theme.paper, "bordercolor": theme.faint, "font": {"color": theme.text}},
        "hovermode": "x unified",
        "template": "none",
    }


def axis_of(theme: Theme, **words: Any) -> dict[str, Any]:
    """Return an axis with lines and labels of the theme."""
    return {
        "showgrid": True,
        "gridcolor": theme.grid,
        "zeroline": False,
        "linecolor": theme.faint,
        "tickcolor": theme.faint,
        "tickfont": {"color": theme.text},
        "title": {"font": {"color": theme.faint, "size": 12}},
        "automargin": True,
        "tickangle": 0,
        **words,
    }


def times_of(ms: Int64s) -> npt.NDArray[np.datetime64]:
    """Return Unix ms as plotly takes times."""
    return ms.astype("datetime64[ms]")


def time_of(ms: int) -> str:
    """Return an instant as plotly takes it."""
    return str(np.datetime64(ms, "ms"))


def minute_text(ms: int) -> str:
    """Return an instant as people read it: 2024-01-01 00:00, with seconds where they are not 0."""
    text = iso(ms)[:-1].replace("T", " ")
    return text[:-3] if text.endswith(":00") else text


def cut(name: str) -> str:
    """Return a name in at most 40 characters."""
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def counted(number: int, what: str) -> str:
    """Return the number and the noun for it."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def decimals_of(values: Float64s) -> int:
    """Return how many decimals show each of the values whole, at most 12."""
    known = values[np.isfinite(values)]
    for places in range(_MOST_DECIMALS):
        with np.errstate(over="ignore"):
            rounded = np.round(known, places)
        if (np.abs(rounded - known) <= np.abs(known) * 1e-12).all():
            return places
    return _MOST_DECIMALS
