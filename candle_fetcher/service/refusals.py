"""Errors as replies: the status, a document with our message, and how long to wait. No traceback, path or key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from candle_fetcher.core.errors import (
    Banned,
    CacheError,
    CandleFetcherError,
    IncompleteData,
    InputError,
    MissingExtra,
    RateLimited,
    SourceError,
    TransportError,
    UnknownSymbol,
)

# The first class that fits decides.
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (UnknownSymbol, 404),
    (InputError, 400),
    (IncompleteData, 409),
    (Banned, 503),
    (RateLimited, 429),
    (SourceError, 502),
    (MissingExtra, 501),
    (CacheError, 503),
    (CandleFetcherError, 503),  # such as that of a fetcher that was closed
)
# Paths of files: of POSIX with two names or more, and of Windows. What follows a letter, as in BTC/USDT, is none.
_PATH = re.compile(r"(?<![\w:/.…])/[\w.@+~-]+(?:/[\w.@+~-]*)+|\b[A-Za-z]:\\[^\s'\"]+")
_MOST_SPANS = 100
_RETRY_S = 1


class ServiceRefusal(Exception):
    """A request that the service itself refuses; `facts` go into the document beside the message."""

    def __init__(
        self, status: int, name: str, message: str, *, retry_after_s: float | None = None, **facts: Any
    ) -> None:
        self.status = status
        self.name = name
        self.message = message
        self.retry_after_s = retry_after_s
        self.facts = facts
        super().__init__(message)


def status_of(error: Exception) -> int:
    """Return the status of a reply that stands for the error."""
    if isinstance(error, ServiceRefusal):
        return error.status
    if isinstance(error, TransportError) and not error.reached:
        return 503
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def refusal_of(error: Exception) -> JSONResponse:
    """Return the reply that stands for the error."""
    status, headers = status_of(error), {"Cache-Control": "no-store"}
    if isinstance(error, ServiceRefusal):
        document: dict[str, Any] = {"error": error.name, "message": error.message, **error.facts}
        wait_s = error.retry_after_s
    else:
        document = _describe(error)
        causes = [error, *(error.refusals if isinstance(error, IncompleteData) else ())]
        wait_s = next((wait for one in causes if (wait := getattr(one, "retry_after_s", None)) is not None), None)
    if wait_s is not None or status in (429, 503):
        headers["Retry-After"] = str(max(_RETRY_S, math.ceil(wait_s or 0)))
    response = JSONResponse(document, status, headers)
    if status == 401:  # on a line each: Chromium takes two on one line for none, and does not ask for the password
        response.headers.append("WWW-Authenticate", 'Basic realm="candle-fetcher; the password is the token"')
        response.headers.append("WWW-Authenticate", "Bearer")
    return response


def _describe(error: Exception) -> dict[str, Any]:
    """Return the document of an error of this library, or of one that is a fault of the service."""
    if isinstance(error, CacheError):
        return {"error": "CacheError", "message": "the cache of the service cannot be read or written", "fix": _LOG}
    if not isinstance(error, CandleFetcherError):
        return {"error": "Fault", "message": "the service failed to answer", "fix": _LOG}
    fix = _fix_of(error)
    if fix is error.fix:
        message, fix = without_paths(str(error)), without_paths(fix)
    else:  # words of the service, which may name a route
        message = f"{without_paths(error.reason)}. {fix}"
    document: dict[str, Any] = {"error": type(error).__name__, "message": message, "fix": fix}
    facts: Mapping[str, Any] = {name: getattr(error, name) for name in ("provider", "symbol", "timeframe")}
    document |= {name: value for name, value in facts.items() if value is not None}
    if isinstance(error, UnknownSymbol):
        document["closest"] = list(error.closest)
    if isinstance(error, IncompleteData):
        names = ("first", "last", "count", "cause")
        document["missing"] = [{name: getattr(gap, name) for name in names} for gap in error.missing[:_MOST_SPANS]]
        document["missing_count"] = len(error.missing)
        document["refusals"] = [without_paths(one.reason) for one in error.refusals[:_MOST_SPANS]]
        document["rows_that_arrived"] = 0 if error.frame is None else len(error.frame)
    return document


_LOG = "The log of the service says why"


def _fix_of(error: CandleFetcherError) -> str:
    """Return what a client can do: an error's own words may be about Python."""
    if isinstance(error, IncompleteData):
        return "Ask again later, or for a range without the spans that are missing"
    if isinstance(error, UnknownSymbol):
        return f"Did you mean {' or '.join(error.closest)}?" if error.closest else "/api/symbols lists the symbols"
    return error.fix


def without_paths(text: str) -> str:
    """Return the text with each path of a file replaced by `…`."""
    return _PATH.sub("…", text)
