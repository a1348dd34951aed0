"""The FastAPI application: its routes, what it answers to errors, and its OpenAPI document."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from candle_fetcher.core.errors import CandleFetcherError, nearest, shown
from candle_fetcher.core.version import __version__
from candle_fetcher.service import binance, candles, chart, health, streams, tables, udf, web
from candle_fetcher.service.guard import Guard, read_hosts, read_origins, read_token
from candle_fetcher.service.page import docs_page
from candle_fetcher.service.parameters import ERROR_SCHEMA
from candle_fetcher.service.refusals import ServiceRefusal, refusal_of
from candle_fetcher.service.state import ServiceState

if TYPE_CHECKING:
    from candle_fetcher.fetcher import CandleFetcher

# Threads for handlers. Those that wait for a provider are bounded apart, below this number.
_THREADS = 128
_DESCRIPTION = """\
Market candles (OHLCV), complete or an error. Ranges are [start, end) of open times in UTC; numbers are the provider's.
Errors are JSON with `error`, `message` and `fix`. See `candle-fetcher help service`."""
_CANDLE: dict[str, Any] = {
    "type": "object",
    "required": ["timestamp"],
    "properties": {
        "timestamp": {"type": "string", "description": "open time, UTC"},
        **{name: {"type": ["number", "null"]} for name in ("open", "high", "low", "close", "volume")},
    },
    "additionalProperties": True,
}
_SCHEMAS: dict[str, Any] = {
    "Error": ERROR_SCHEMA,
    "Candle": _CANDLE,
    "Candles": {
        "type": "object",
        "required": ["symbol", "timeframe", "rows", "next", "next_url", "manifest", "candles"],
        "properties": {
            "symbol": {"type": "string"},
            "timeframe": {"type": "string"},
            "columns": {"type": "string"},
            "rows": {"type": "integer"},
            "next": {"type": ["string", "null"], "description": "open time of the first candle that was not sent"},
            "next_url": {"type": ["string", "null"], "description": "the next page"},
            "manifest": {"type": "object", "additionalProperties": True},
            "candles": {"type": "array", "items": {"$ref": "#/components/schemas/Candle"}},
        },
    },
    "Rows": {"description": "rows of a table", "type": "array", "items": {"$ref": "#/components/schemas/Document"}},
    "Document": {"type": "object", "additionalProperties": True},
}

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Return the OpenAPI document as a page that needs no other file."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
    return HTMLResponse(docs_page(request.app.openapi()), headers=headers)


def make_app(
    fetcher: CandleFetcher,
    token: str | None,
    allow_origins: Iterable[str],
    hosts: Iterable[str],
    requests_per_minute: int,
) -> FastAPI:
    """Return the application. See `candle_fetcher.service.create_app`."""
    secret, origins, names = read_token(token), read_origins(allow_origins), read_hosts(hosts)
    service = ServiceState(fetcher, requests_per_minute, is_open=secret is None)
    app = _Application(
        title="candle_fetcher",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    app.needs_token = secret is not None
    app.state.service = service
    for part in (candles, chart, streams, tables, health, udf, binance, web):
        app.include_router(part.router)
    app.include_router(router)
    app.add_middleware(Guard, service=service, token=secret, origins=origins, hosts=names)
    app.add_exception_handler(CandleFetcherError, _answer_error)
    app.add_exception_handler(ServiceRefusal, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


class _Application(FastAPI):
    needs_token = False

    def openapi(self) -> dict[str, Any]:
        """Return the document: our errors in place of FastAPI's 422, and the token where one is needed."""
        if self.openapi_schema is None:
            made = get_openapi(title=self.title, version=self.version, description=self.description, routes=self.routes)
            parts = made.setdefault("components", {})
            parts["schemas"] = dict(_SCHEMAS)
            if self.needs_token:
                parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                made["security"] = [{"token": []}]
            for path in made["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            self.openapi_schema = made
        return self.openapi_schema


def _operation_id(route: APIRoute) -> str:
    return route.name


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    try:
        yield
    finally:
        await anyio.to_thread.run_sync(app.state.service.hub.close)


async def _answer_error(request: Request, error: Exception) -> Response:
    if request.url.path.startswith("/binance/"):
        return binance.refuse(error)
    if request.url.path.startswith("/udf/"):
        return udf.refuse(error)
    return refusal_of(error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Answer a parameter of the wrong form with one sentence for each."""
    said = []
    for one in error.errors()[:5] if isinstance(error, RequestValidationError) else []:
        name = str(one["loc"][-1])
        given = "" if one["type"] == "missing" else f" {shown(one.get('input'))}"
        said.append(f"{name}{given}: {one['msg'][:1].lower()}{one['msg'][1:]}")
    refusal = ServiceRefusal(400, "InputError", "; ".join(said), fix="/docs lists the parameters of each route")
    return await _answer_error(request, refusal)


async def _answer_http(request: Request, error: Exception) -> Response:
    """Answer what no route takes."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        refusal = ServiceRefusal(405, "ReadOnly", "this service is read by GET alone")
    else:
        meant = nearest(request.url.path, request.app.openapi()["paths"])
        hint = f"did you mean {meant}?" if meant else "/docs lists the routes"
        refusal = ServiceRefusal(status, "NotFound", f"there is no route {shown(request.url.path)}; {hint}")
    response = refusal_of(refusal)
    if status == 405:
        response.headers["Allow"] = "GET"
    return response
