"""Requests and replies as values. Providers build a Call; the transport turns it into a Reply."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from typing import NamedTuple


class Call(NamedTuple):
    """One GET request below a provider's root URL. `cost` is its weight in the provider's budget.

    API keys are never part of it. `is_form` makes it a POST with the parameters as a form in the body, as requests for
    tokens need.
    """

    path: str
    params: tuple[tuple[str, str], ...] = ()
    cost: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    is_form: bool = False


class Reply(NamedTuple):
    """A complete reply: decoded body, header names in lower case, seconds from sending to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class Limit(NamedTuple):
    """A budget: `cost` units may be spent in each whole interval of the provider's clock."""

    cost: int
    interval_s: int
    kind: str = "weight"  # "weight" counts Call.cost, "requests" counts calls


_FOREVER_S = 1e9
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def parse_retry_after(text: str | None, now_s: float) -> float | None:
    """Return the seconds that a Retry-After header (a number or an HTTP date) asks for.

    At most 1e9, and 0.0 for a time in the past; None for text that is neither.
    """
    if not text or not text.strip():
        return None
    if _NUMBER.fullmatch(text):
        return max(0.0, min(float(text), _FOREVER_S))
    try:
        when = email.utils.parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=dt.timezone.utc)
        return max(0.0, min(when.timestamp() - now_s, _FOREVER_S))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
