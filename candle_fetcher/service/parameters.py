"""The parameters of the routes: their types, what OpenAPI says of them, and those that no route has."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from candle_fetcher.core.errors import InputError
from candle_fetcher.core.keywords import check_arguments

_DIGITS = re.compile(r"-?\d{9,19}")

Symbol = Annotated[
    str,
    Query(
        max_length=64,
        description="such as BTC/USDT; `kraken:BTC/USD` names the provider",
        examples=["BTC/USDT"],
    ),
]
TimeframeText = Annotated[
    str, Query(max_length=12, description="1m, 5m, 1h, 4h, 1d, 1w, 1M; multiples such as 45m, too", examples=["1h"])
]
StartTime = Annotated[
    str | None,
    Query(
        max_length=40,
        description="open time of the first candle, in UTC: a date, an ISO time, Unix ms, `7d`, `first`",
        examples=["2024-01-01"],
    ),
]
EndTime = Annotated[
    str | None,
    Query(max_length=40, description="open time before which the range ends; default: now", examples=["2024-01-02"]),
]
Days = Annotated[float | None, Query(gt=0, le=100_000, description="so many days before the end")]
Limit = Annotated[
    int | None,
    Query(
        ge=1,
        le=10_000_000,
        description="so many candles: the oldest from `start` on, else the newest before `end`; without any range 500",
    ),
]
ProviderName = Annotated[
    str | None, Query(max_length=40, description="id of a provider; /api/providers lists them", examples=["binance"])
]


def check_names(request: Request) -> None:
    """Raise InputError for a parameter that the route does not have, or that is there twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    check_arguments(request.scope["route"].name, dict.fromkeys(name[:40] for name in names), known)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice; give it once")


CHECKED = [Depends(check_names)]


def instant_of(text: str | None) -> Any:
    """Return the time as public calls take it: a text of digits as Unix ms."""
    return int(text) if text is not None and _DIGITS.fullmatch(text) else text


# Of an answer that may be another one a moment later.
NO_CACHE = {"Cache-Control": "no-cache"}
# What any route may answer, as OpenAPI has it.
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string", "description": "the class of the error, such as InputError"},
        "message": {"type": "string"},
        "fix": {"type": "string", "description": "what to do"},
        "missing": {
            "type": "array",
            "description": "of IncompleteData: the spans that could not be fetched",
            "items": {
                "type": "object",
                "properties": {
                    "first": {"type": "string"},
                    "last": {"type": "string"},
                    "count": {"type": "integer"},
                    "cause": {"type": "string"},
                },
            },
        },
        "next": {"type": "string", "description": "of an answer with too many rows: where its second page begins"},
        "next_url": {"type": "string", "description": "of an answer with too many rows: its first page"},
    },
    "additionalProperties": True,
}
STATUSES = {
    400: "the request is wrong; `message` says what is allowed",
    401: "the token is missing or wrong",
    403: "the request comes from another site",
    404: "the provider does not know the symbol",
    409: "a part of the range could not be fetched; `missing` says which",
    413: "the answer has too many rows; `next_url` is its first page",
    421: "the Host is not this server's",
    429: "wait as long as Retry-After says",
    500: "a fault of the service",
    501: "the service lacks a package that the format needs",
    502: "the provider could not answer",
    503: "the service or the provider cannot answer now",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": said,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for status, said in STATUSES.items()
}


def answers(said: str, schema: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer: JSON of that schema of the OpenAPI document, or an error."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {**ERRORS, 200: {"description": said, "content": content}}
