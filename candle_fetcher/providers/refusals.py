"""Refusals of all providers: the library's error for a status, and checks of foreign text."""

from __future__ import annotations

import reprlib
from typing import Any

from candle_fetcher.core.call import Reply, parse_retry_after
from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, ReplyError, TransportError
from candle_fetcher.core.faults import beginning
from candle_fetcher.core.text.json import load_json

_MOST_NAME = 60
_MOST_ERROR_BYTES = 2**16


def checked_name(text: object) -> str:
    """Return the text, if it can be a name in a listing. Raises ValueError for any other value.

    Names end up in messages and spreadsheets: none may control a terminal or begin like a formula (= + - @, tab).
    """
    if not isinstance(text, str) or len(text) > _MOST_NAME or not text.isprintable() or not text[:1].isalnum():
        raise ValueError(f"expected a name, got {reprlib.repr(text)}")
    return text


def wrong_listing(name: str, error: Exception, body: bytes) -> ReplyError:
    """Return the error for a list of symbols with an entry that cannot be read; `error` says why."""
    why = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
    return ReplyError(f"{name} has an entry that cannot be read ({why[:100]}): {beginning(body)}")


def error_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of an error reply; {} for any other body, or one above 64 KB."""
    if len(body) > _MOST_ERROR_BYTES:
        return {}
    try:
        value = load_json(body, "an error object")
    except ReplyError:
        return {}
    return value if isinstance(value, dict) else {}


def status_of(status: int, code: object) -> int:
    """Return the status that an error stands for.

    For a reply of 200 it is the error's code, of either sign, where that is a status.
    """
    if status == 200 and type(code) is int and 400 <= abs(code) < 600:
        return abs(code)
    return status


def of_seconds(asked_s: float | None) -> str:
    """Return ` of 30 s` for a pause of known length, else nothing."""
    return f" of {asked_s:g} s" if asked_s else ""


def by_status(name: str, reply: Reply, symbol: str, now_ms: int, said: str = "") -> Exception:
    """Return the error for a status other than 200, by the meaning that HTTP gives it.

    `said` is the provider's message.
    """
    status = reply.status
    # The provider's message is shown escaped: it may hold anything.
    words = f"status {status}" + (f": {said[:160]!r}" if said else "")
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    if status == 429:
        return RateLimited(f"{name} asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    if status in (401, 403, 407):
        return AccessDenied(f"{name} refused access ({words})", fix=f"Check api_keys of {name}", status=status)
    if status == 451:
        return AccessDenied(
            f"{name} does not serve this region ({words})", fix="Use data from another provider", status=status
        )
    if status >= 500 or status == 408:
        return TransportError(f"{name} could not answer ({words})", status=status)
    return ProviderRefused(f"{name} refused the request ({words})", status=status, said=said)


def refused_by_firewall(name: str, elsewhere: str = "") -> AccessDenied:
    """Return the error for a 403 that a provider's firewall sends; `elsewhere` names another source."""
    return AccessDenied(
        f"{name}'s firewall refused the request (403)",
        fix="Wait some minutes, and send less often from this address; a proxy or VPN in between can cause it too"
        f"{elsewhere}",
        status=403,
    )
