"""Translates errors of urllib3, ssl, socket and http.client into errors of this library, by one table."""

from __future__ import annotations

import http.client
import ssl
from concurrent.futures import CancelledError

from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeout

from candle_fetcher.core.errors import ReplyError, SourceError, TransportError
from candle_fetcher.core.keys import Keys
from candle_fetcher.net.exchange import Exchange
from candle_fetcher.net.route import ProxyUnreachable

# What other packages raise while a request is sent and its reply is read.
FOREIGN = (HTTPError, OSError, http.client.HTTPException, ValueError, ProxyUnreachable)
_UNREACHED = (NameResolutionError, ProxyUnreachable, ProxyError, SSLError, ssl.SSLError, NewConnectionError)

# The first row that fits an error, or an error that it wraps, decides.
_TRANSLATIONS: tuple[tuple[tuple[type[BaseException], ...], type[TransportError] | type[ReplyError], str], ...] = (
    ((NameResolutionError,), TransportError, "the host name cannot be resolved"),
    ((ProxyUnreachable, ProxyError), TransportError, "the proxy from the environment cannot be used"),
    ((SSLError, ssl.SSLError), TransportError, "TLS failed"),
    ((NewConnectionError,), TransportError, "cannot connect"),
    (
        (ConnectionError, http.client.IncompleteRead),
        TransportError,
        "the connection was closed before the reply was complete",
    ),
    ((PoolTimeout, TimeoutError), TransportError, "no answer in time"),
    ((http.client.HTTPException, InvalidHeader, ValueError), ReplyError, "the reply is not valid HTTP"),
    ((Exception,), TransportError, "the call failed"),
)


def translate(error: Exception, exchange: Exchange) -> SourceError:
    """Return this library's error for one of another package, without any text of the request, which may hold keys."""
    chain = _unwrap(error)
    make, text = next((m, t) for kinds, m, t in _TRANSLATIONS if any(isinstance(link, kinds) for link in chain))
    if isinstance(chain[-1], TimeoutError):
        exchange.has_timed_out = True
    made = make(f"{exchange.where}: {text} ({_reason(chain[-1])})")
    if isinstance(made, TransportError):
        made.reached = not any(isinstance(link, _UNREACHED) for link in chain)
    return made


def without_keys(error: SourceError | CancelledError, keys: Keys) -> SourceError | CancelledError:
    """Return the error with keys hidden, and without its causes, since their texts may repeat a received key.

    Only a cause that is an error of the operating system stays.
    """
    cause = _unwrap(error)[-1]
    error.args = tuple(keys.hide(part) if isinstance(part, str) else part for part in error.args)
    error.__context__ = None
    if cause is not error and isinstance(cause, OSError) and keys.hide(str(cause)) == str(cause):
        cause.__cause__ = cause.__context__ = None
        error.__cause__ = cause.with_traceback(None)
    else:
        error.__cause__ = None
    return error.with_traceback(None)


def _unwrap(error: BaseException) -> list[BaseException]:
    """Return the error and those inside it, the innermost last."""
    chain = [error]
    while len(chain) < 8:
        inside = next((arg for arg in chain[-1].args[::-1] if isinstance(arg, BaseException)), chain[-1].__cause__)
        if inside is None:
            break
        chain.append(inside)
    return chain


def _reason(error: BaseException) -> str:
    """Return the reason in a few words, without anything of the request."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
