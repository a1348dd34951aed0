"""The page at `/`: three files of ours, and plotly.js out of the installed package `plotly`; nothing from elsewhere."""

from __future__ import annotations

import gzip
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from candle_fetcher.core.version import __version__
from candle_fetcher.service.refusals import ServiceRefusal

# plotly sets styles on elements that it makes, and makes pictures of the chart as data.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}

router = APIRouter(include_in_schema=False)


class _File(NamedTuple):
    plain: bytes
    packed: bytes


@cache
def _read(name: str) -> _File:
    text = resources.files("candle_fetcher.service").joinpath("web", name).read_text(encoding="utf-8")
    data = text.replace("{version}", __version__).encode() if name.endswith(".html") else text.encode()
    return _File(data, gzip.compress(data, mtime=0))


@cache
def _read_plotly() -> _File | None:
    """Return plotly.js; None where the package is not installed."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "package_data" / "plotly.min.js"
    data = path.read_bytes()
    return _File(data, gzip.compress(data, 6, mtime=0))


@router.get("/", name="page")
def page(request: Request) -> Response:
    """Return the page."""
    return _answer(request, _read("index.html"), "html")


@router.get("/page.js", name="script")
def script(request: Request) -> Response:
    """Return the page's script."""
    return _answer(request, _read("page.js"), "js")


@router.get("/page.css", name="style")
def style(request: Request) -> Response:
    """Return the page's style sheet."""
    return _answer(request, _read("page.css"), "css")


@router.get("/plotly.js", name="plotly")
def plotly(request: Request) -> Response:
    """Return plotly.js as it lies in the package."""
    found = _read_plotly()
    if found is None:
        fix = 'pip install "candle-fetcher[service]", and start the service again'
        raise ServiceRefusal(501, "MissingExtra", "the chart needs the package plotly", fix=fix)
    return _answer(request, found, "js", "private, max-age=86400")


def _answer(request: Request, file: _File, kind: str, keeps: str = "no-cache") -> Response:
    headers = {"Cache-Control": keeps, "Vary": "Accept-Encoding"}
    if kind == "html":
        headers["Content-Security-Policy"] = _POLICY
    body = file.plain
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"], body = "gzip", file.packed
    return Response(body, headers=headers, media_type=f"{_TYPES[kind]}; charset=utf-8")
