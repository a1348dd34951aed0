"""One request and its reply: the bytes to send, the deadline, and the state by which another thread can end them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

from candle_fetcher.core.call import Call
from candle_fetcher.core.errors import InputError, ReplyError, TransportError
from candle_fetcher.core.keys import NO_KEYS, Keys

_PLAIN_QUERY = re.compile(r"[A-Za-z0-9_.=&-]+")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.~/%:@!$&'()*+,;=-]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Exchange:
    """The state of one call on a connection. Only the thread of the call changes it, except by `cut`."""

    __slots__ = (
        "deadline_s",
        "has_connected",
        "has_ended",
        "has_timed_out",
        "is_cancelled",
        "keys",
        "limit_s",
        "max_body_bytes",
        "must_connect",
        "received_bytes",
        "request",
        "sock",
        "stop",
        "where",
    )

    def __init__(
        self,
        where: str,
        request: bytes,
        keys: Keys,
        stop: threading.Event | None,
        limit_s: float,
        max_body_bytes: int,
        *,
        must_connect: bool,
    ) -> None:
        self.where = where
        self.request = request
        self.keys = keys
        self.stop = stop
        self.limit_s = limit_s
        self.deadline_s = time.monotonic() + limit_s
        self.max_body_bytes = max_body_bytes
        self.sock: Any = None
        self.must_connect = must_connect  # no idle connection may be used
        self.has_connected = False
        self.has_timed_out = False
        self.has_ended = False  # the stream of received bytes
        self.is_cancelled = False
        self.received_bytes = 0

    @property
    def is_stopped(self) -> bool:
        return self.is_cancelled or (self.stop is not None and self.stop.is_set())

    @property
    def was_stale(self) -> bool:
        """Whether a kept-alive connection failed before the first byte of a reply."""
        return not (self.has_connected or self.must_connect or self.received_bytes or self.has_timed_out)

    def renew(self) -> None:
        """Start again, on a new connection."""
        self.must_connect = True
        self.sock = None
        self.has_ended = False

    def left_s(self) -> float:
        """Return the seconds until the deadline; raise TransportError where it has passed."""
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise self.timeout()
        return left_s

    def check(self) -> None:
        """Raise CancelledError where the call is cancelled, TransportError where its deadline has passed."""
        self.check_stopped()
        self.left_s()

    def check_stopped(self) -> None:
        """Raise CancelledError where the call is cancelled."""
        if self.is_cancelled or (self.stop is not None and self.stop.is_set()):
            raise CancelledError(f"{self.where}: the call was cancelled")

    def is_set(self) -> bool:
        """Return whether the call is cancelled, so that an exchange can cancel a `wait_for`."""
        return self.is_stopped

    def cut(self) -> None:
        """Cancel the call and wake the thread that waits on its socket; other threads call it."""
        self.is_cancelled = True
        sock = self.sock
        if sock is not None:
            # The TCP socket below TLS: SSLSocket.shutdown would take the TLS state from under its reader.
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)

    def timeout(self) -> TransportError:
        self.has_timed_out = True
        return TransportError(
            f"{self.where}: no complete reply within {self.limit_s:g} s ({self.received_bytes:,} bytes received)"
        )

    def cut_off(self, size: int) -> TransportError:
        return TransportError(f"{self.where}: the body was cut after {size:,} bytes")

    def closed_early(self) -> TransportError:
        return TransportError(f"{self.where}: the connection was closed before the reply was complete")

    def too_large(self) -> ReplyError:
        return ReplyError(f"{self.where}: expected a body of at most {self.max_body_bytes:,} bytes, got a larger one")

    def malformed(self, what: str) -> ReplyError:
        return ReplyError(f"{self.where}: the reply is not valid HTTP, since {what}")


def write_request(prefix: str, path: str, host: str, headers: Mapping[str, str], call: Call, keys: Keys) -> bytes:
    """Return the bytes of the request for a call below `prefix + path`, with its keys.

    Keys are written here and nowhere else, so that no log line and no error can repeat one. Raises InputError, which
    names the header and not its value, for a header that cannot be sent.
    """
    path += call.path
    if not _PLAIN_PATH.fullmatch(path):
        path = urllib.parse.quote(path, safe="/%:@!$&'()*+,;=")
    params = call.params + keys.params if keys is not NO_KEYS else call.params
    query = _write_query(params) if params else ""
    form = ""
    if call.is_form:
        form, query = query[1:], ""
    lines = [f"{'POST' if call.is_form else 'GET'} {prefix}{path}{query} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    for name, value in call.headers:
        if not (_HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable()):
            raise InputError(f"the header {name!r} has a value that cannot be sent; expected printable ASCII text")
        lines.append(f"{name}: {value}")
    if call.is_form:
        lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"]
    lines += [f"{name}: {value}" for name, value in keys.headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + form).encode("ascii")


def _write_query(params: tuple[tuple[str, str], ...]) -> str:
    """Return the query with its question mark."""
    plain = "&".join([f"{name}={value}" for name, value in params])
    # Most queries need no escapes. Where = and & are as many as the ones written above, no value has one of them.
    if _PLAIN_QUERY.fullmatch(plain) and plain.count("=") == len(params) and plain.count("&") == len(params) - 1:
        return "?" + plain
    return "?" + urllib.parse.urlencode(params)
