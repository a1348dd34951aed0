"""Refusals of Binance as errors of the library, and the end of a ban."""

from __future__ import annotations

import datetime as dt
import re

from candle_fetcher.core.call import Reply, parse_retry_after
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    ProviderRefused,
    RateLimited,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.providers.refusals import error_object, facts_of, of_seconds, refused_by_firewall, status_of

# Codes of errors.md that mean "try later" with any status; a status of 5xx or 408 means so with any code.
_TRANSIENT = frozenset({-1000, -1001, -1006, -1007, -1008})
# TOO_MANY_REQUESTS, TOO_MANY_CONNECTIONS.
_PAUSE_CODES = frozenset({-1003, -1034})
# UNAUTHORIZED, BAD_API_ID, BAD_API_KEY_FMT, REJECTED_MBX_KEY; the status need not be 401.
_KEY_CODES = frozenset({-1002, -2008, -2014, -2015})
_MOST_CODE = 10**9
_LONGEST_BAN_S = 3 * 86_400


def raise_refusal(body: bytes) -> None:
    """Raise the refusal that the body holds. An error object counts even with status 200."""
    code, said = _code(body)
    if code is not None and said:
        # The caller knows the symbol, and adds it.
        raise refusal(Reply(200, {}, body, 0.0), "", 0)


def refusal(reply: Reply, symbol: str, now_ms: int, *, has_archive: bool = True) -> Exception:
    """Return the error for a status other than 200, or for an error object.

    Status and code decide, never the text of the message.
    """
    code, said = _code(reply.body)
    status = status_of(reply.status, code)
    words = facts_of(status, said, code)
    asked_s = parse_retry_after(reply.headers.get("retry-after"), now_ms / 1000)
    if status == 418:
        until_s = _ban_end_s(said, asked_s, now_ms)
        until = dt.datetime.fromtimestamp(until_s, dt.timezone.utc)
        return Banned(
            f"Binance has banned this address until {until:%Y-%m-%d %H:%M:%S} UTC; nothing is sent before",
            until=until,
            retry_after_s=asked_s,
        )
    if status == 429 or code in _PAUSE_CODES:
        return RateLimited(f"Binance asks for a pause{of_seconds(asked_s)} ({words})", retry_after_s=asked_s)
    elsewhere = "; source='archive' has all but the newest days" if has_archive else ""
    if status == 451:
        return AccessDenied(
            f"Binance does not serve this region ({words})",
            fix=f"Use data from another provider, such as binance-us, or run where Binance is available{elsewhere}",
            status=451,
        )
    if status == 403:
        return refused_by_firewall("Binance", elsewhere)
    if status == 401 or code in _KEY_CODES:
        return AccessDenied(
            f"Binance refused the key ({words})", fix="Check the key for Binance in api_keys", status=status
        )
    if status >= 500 or status == 408 or code in _TRANSIENT:
        return TransportError(f"Binance could not answer ({words})", status=status)
    if code in (-1121, -1122):
        return UnknownSymbol(symbol, "Binance")
    return ProviderRefused(f"Binance refused the request ({words})", status=status, code=code, said=said)


def _code(body: bytes) -> tuple[int | None, str]:
    """Return code and message of an error object; None and "" for another body."""
    value = error_object(body)
    code, said = value.get("code"), value.get("msg")
    return (
        code if type(code) is int and abs(code) <= _MOST_CODE else None,
        said if isinstance(said, str) else "",
    )


def _ban_end_s(said: str, asked_s: float | None, now_ms: int) -> float:
    """Return the end of a ban in Unix seconds: the time (Unix ms) in the message, else the end of Retry-After.

    It is at most three days ahead, since no ban of Binance is longer.
    """
    ends = re.findall(r"\b1[0-9]{12}\b", said)
    if ends:
        return min(int(ends[-1]) / 1000, now_ms / 1000 + _LONGEST_BAN_S)
    # Two minutes is the shortest ban of Binance.
    return now_ms / 1000 + min(asked_s or 120, _LONGEST_BAN_S)
