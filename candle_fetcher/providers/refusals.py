"""Refusals that providers share: errors for a status, and for symbols and listings that cannot be right."""

from __future__ import annotations

from typing import Any

from candle_fetcher.core.call import Reply, parse_retry_after
from candle_fetcher.core.errors import (
    AccessDenied,
    InputError,
    ProviderRefused,
    RateLimited,
    ReplyError,
    TransportError,
    shown,
)
from candle_fetcher.core.faults import beginning, brief
from candle_fetcher.core.text.json import load_json

_MOST_NAME = 60
_MOST_ERROR_BYTES = 2**16
_CHECK_KEYS = "Check the key for {} in api_keys"


def checked_name(text: object) -> str:
    """Return the text, if it can be a name in a listing. Raises ValueError for any other value.

    Names appear in terminals and spreadsheets. So a name has at most 60 printable characters, and begins with a letter
    or digit, as no formula does.
    """
    if not isinstance(text, str) or len(text) > _MOST_NAME or not text.isprintable() or not text[:1].isalnum():
        raise ValueError(f"expected a name, got {brief(text)}")
    return text


def not_a_symbol(name: str, text: object, expected: str) -> InputError:
    """Return the error for an argument that cannot be a symbol of that provider."""
    return InputError(f"symbol {shown(text)} is not valid for {name}; expected {expected}")


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
    """Return the HTTP status that an error means: that of the reply, but for a reply of 200 the error's code.

    A code counts where it is a status from 400 to 599, with or without a minus.
    """
    if status == 200 and type(code) is int and 400 <= abs(code) < 600:
        return abs(code)
    return status


def facts_of(status: int, said: str = "", code: int | None = None) -> str:
    """Return what a refusal states, for a message: `status 400, code -1121: 'Invalid symbol.'`.

    The code is left out where it repeats the status. The provider's message `said` is escaped and cut, since it may
    hold anything.
    """
    shown_code = "" if code in (None, status) else f", code {code}"
    return f"status {status}{shown_code}" + (f": {said[:160]!r}"[:200] if said else "")


def of_seconds(asked_s: float | None) -> str:
    """Return ` of 30 s` for a pause of 30 seconds; "" where its length is not known."""
    return f" of {asked_s:g} s" if asked_s else ""


def by_status(name: str, reply: Reply, symbol: str, now_ms: int, said: str = "") -> Exception:
    """Return the error for a status other than 200, by the meaning that HTTP gives to the status.

    `name` is the provider, `said` its message.
    """
    status, words = reply.status, facts_of(reply.status, said)
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    if status == 429:
        return RateLimited(f"{name} asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    if status in (401, 403, 407):
        return AccessDenied(f"{name} refused access ({words})", fix=_CHECK_KEYS.format(name), status=status)
    if status == 451:
        return AccessDenied(
            f"{name} does not serve this region ({words})", fix="Use data from another provider", status=status
        )
    if status >= 500 or status == 408:
        return TransportError(f"{name} could not answer ({words})", status=status)
    return ProviderRefused(f"{name} refused the request ({words})", status=status, said=said)


def refused_by_firewall(name: str, elsewhere: str = "") -> AccessDenied:
    """Return the error for a 403 that a provider's firewall sends; `elsewhere` is the end of what to do."""
    return AccessDenied(
        f"{name}'s firewall refused the request (status 403)",
        fix="Wait some minutes, and send fewer requests from this address; a proxy or VPN can be the cause too"
        f"{elsewhere}",
        status=403,
    )
