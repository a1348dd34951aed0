"""JSON replies as Python values, with hostile input refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from candle_fetcher.core.faults import unexpected

_MOST_DIGITS = 40  # of an integer, its minus included


def load_json(body: bytes, expected: str) -> Any:
    """Return the value of a JSON body.

    Raises ReplyError, which says what was `expected`, where the body is not JSON, is nested too deeply, or
    holds NaN, Infinity or an integer of more than 40 digits (converting thousands of digits would take minutes).
    """
    try:
        return json.loads(body.decode("utf-8-sig"), parse_int=_int, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise unexpected(expected, body) from error


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
