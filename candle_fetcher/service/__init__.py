"""Floor 5: candles over HTTP, by FastAPI and uvicorn (extra `service`), over the public calls of a fetcher.

uvicorn -> connections -> guard -> a route (candles, tables, dialects, health) -> CandleFetcher
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from candle_fetcher.core.errors import MissingExtra

if TYPE_CHECKING:
    from fastapi import FastAPI

    from candle_fetcher.fetcher import CandleFetcher

__all__ = ["create_app"]


def need_service() -> None:
    """Raise MissingExtra where a package of the extra `service` is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtra("service", "the HTTP service") from None


def create_app(
    fetcher: CandleFetcher,
    *,
    token: str | None = None,
    allow_origins: Iterable[str] = (),
    hosts: Iterable[str] = (),
    requests_per_minute: int = 1200,
) -> FastAPI:
    """Return the FastAPI application that answers with the candles of the fetcher, for any ASGI server.

    The fetcher stays the caller's: close it after the server has ended. The Host of a request has to be loopback, the
    address at which the server was reached, or one of `hosts`.

    token: asked of every request but `/health`, as `Authorization: Bearer TOKEN`; None: no request needs one. Give one
    where the server can be reached from other machines.
    allow_origins: other sites with pages that may read the answers, such as "https://charts.example.com".
    hosts: further names of this server, such as "candles.example.com" behind a proxy.
    requests_per_minute: the most requests that one client can make the fetcher send to providers in a minute.

    Raises InputError for an empty token, or an origin or a host of another form; MissingExtra without FastAPI.
    """
    need_service()
    from candle_fetcher.service.application import make_app  # when used: FastAPI takes a third of a second

    return make_app(fetcher, token, allow_origins, hosts, requests_per_minute)
