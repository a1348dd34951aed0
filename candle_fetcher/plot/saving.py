"""Pictures as files: HTML that works offline, and PNG by a browser of this machine."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_fetcher.core.arguments import read_whole
from candle_fetcher.core.errors import CandleFetcherError, InputError, shown
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.files.places import find_home, refuse_device
from candle_fetcher.files.writing import replacing
from candle_fetcher.plot.themes import plotly

if TYPE_CHECKING:
    import plotly.graph_objects as go

ENDINGS = (".html", ".png")
BROWSER = "BROWSER_PATH"
_BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge"),
    *("brave-browser", "brave"),
)
_PLACES = {
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    ),
    "win32": (
        r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
        r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
        r"%ProgramFiles%\Microsoft\Edge\Application\msedge.exe",
    ),
}
_TIMEOUT_S = 60
_CONFIG = {
    "scrollZoom": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    # By default a button of some versions of plotly uploads the picture.
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ margin: 0; height: 100%; background: {paper}; }}</style>
</head>
<body>
{picture}
</body>
</html>
"""


def find_ending(path: object) -> str:
    """Return the ending of a picture's file. Raises InputError for another ending, or a folder in its place."""
    found = find_home(path, "a name that ends in .html or .png")
    if found.suffix.lower() not in ENDINGS:
        raise InputError(f"path {shown(str(path))} is not the name of a picture; expected an ending .html or .png")
    if found.is_dir():
        raise InputError(f"path {shown(str(path))} is a folder; expected a file in .html or .png")
    refuse_device(found, f"path {shown(str(path))}")
    return found.suffix.lower()


@short_errors
def save(figure: go.Figure, path: str | os.PathLike[str], *, width: int = 1400, height: int = 800) -> Path:
    """Write a picture to a file, and return its path. The file appears whole or not at all, and replaces an older one.

    path: ends in .html (one file that works without a network, some 5 MB) or in .png.
    width, height: the pixels of a PNG.

    A PNG is drawn by a browser of this machine: Chromium, Chrome or Edge, or that of the variable BROWSER_PATH.
    Raises InputError for another ending, CandleFetcherError where there is no such browser, OSError.
    """
    browser, size = check_save(path, width, height), (width, height)
    target = find_home(path, "a name that ends in .html or .png")
    if not isinstance(figure, plotly().Figure):
        raise InputError(f"expected a figure of plotly, got {shown(figure)}")
    made = page_of(figure).encode() if browser is None else draw(figure, browser, size)
    with replacing(target) as file:
        file.write(made)
    return target


def check_save(path: str | os.PathLike[str], width: int, height: int) -> str | None:
    """Return the browser that draws a PNG of that size, None for HTML. Raises what `save` raises before it draws."""
    ending = find_ending(path)
    for name, pixels in (("width", width), ("height", height)):
        read_whole(name, pixels, 200, 8000)
    plotly()
    return find_browser() if ending == ".png" else None


def page_of(figure: Any, size: tuple[int, int] | None = None) -> str:
    """Return the page of a picture, with all that it needs in it: as large as the window, or of so many pixels without
    buttons."""
    from plotly.io import to_html  # with plotly, which makes figures

    document = figure.to_dict()
    document["layout"] |= {} if size is None else {"width": size[0], "height": size[1]}
    width, height = ("100%", "100vh") if size is None else (f"{size[0]}px", f"{size[1]}px")
    title = re.sub(r"<br>.*|<[^>]*>", "", str(figure.layout.title.text or "candles"), flags=re.S)
    picture = to_html(
        document,
        validate=False,
        full_html=False,
        include_plotlyjs=True,
        default_width=width,
        default_height=height,
        config={**_CONFIG, "responsive": size is None, "displayModeBar": size is None},
    )
    paper = html.escape(str(figure.layout.paper_bgcolor or "#ffffff"), quote=True)
    return _PAGE.format(title=title, paper=paper, picture=picture)


def find_browser() -> str:
    """Return the path of a browser that draws pictures. Raises CandleFetcherError where there is none."""
    named = os.environ.get(BROWSER, "").strip()
    for name in [named] if named else [*_BROWSERS, *map(os.path.expandvars, _PLACES.get(sys.platform, ()))]:
        found = shutil.which(name)
        if found is not None:
            return found
    what = f"{BROWSER} names {shown(named)}, which is not there" if named else "no browser was found that draws it"
    raise CandleFetcherError(
        f"a PNG is drawn by Chromium, Chrome or Edge, and {what}; install one, name it in {BROWSER}, or write .html"
    )


def draw(figure: Any, browser: str, size: tuple[int, int]) -> bytes:
    """Return the picture as PNG. Raises CandleFetcherError where the browser does not draw it."""
    width, height = size
    home = Path.home() if browser.startswith("/snap/") else None  # a snap sees no other folder
    with tempfile.TemporaryDirectory(prefix="candle_fetcher-", dir=home, ignore_cleanup_errors=True) as folder:
        page, picture = Path(folder) / "picture.html", Path(folder) / "picture.png"
        page.write_text(page_of(figure, size), encoding="utf-8")
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            *(["--no-sandbox"] if is_root else []),  # which Chromium refuses to be root's
            f"--user-data-dir={Path(folder) / 'profile'}",
            f"--window-size={width},{height}",
            "--virtual-time-budget=20000",
            f"--screenshot={picture}",
            page.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
            why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        except subprocess.TimeoutExpired:
            why = [f"it took longer than {_TIMEOUT_S} s"]
        except OSError as error:
            why = [str(error)]
        if not picture.is_file() or not picture.stat().st_size:
            raise CandleFetcherError(f"{browser} did not draw the picture ({why[0]}); write .html instead")
        return picture.read_bytes()
