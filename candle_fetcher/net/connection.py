"""Connections to hosts and proxies: urllib3's, but made under the deadline of a request, and so that they can be cut.

urllib3 connects to the host, through a tunnel or a SOCKS proxy, and does the TLS handshake. What is sent and received
afterwards does not pass through it.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import socket
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.wait import wait_for_write

from candle_fetcher.concurrency import SingleFlight, start_thread, wait_for
from candle_fetcher.net.exchange import Exchange
from candle_fetcher.net.reply import Stream

# The time allowed for connecting is shorter than that of the call: by then the system has sent SYNs at 0, 1, 3 and 7 s.
CONNECT_S = 10.0
# How often a thread that waits for a connection checks whether its call is cancelled.
_LOOK_S = 0.05


class Connection(HTTPConnection):
    """Mixed into urllib3's connection classes: connects under the deadline of the exchange that needs it."""

    debuglevel = 0  # http.client's own, if a program has set it, would print the proxy's password
    exchange: Exchange

    def connect(self) -> None:
        exchange = self.exchange
        exchange.has_connected = True
        self.timeout = min(exchange.left_s(), CONNECT_S)
        try:
            super().connect()
        finally:
            handshake, exchange.sock = exchange.sock, None
            if handshake is not None:
                handshake.close()
        exchange.sock = self.sock
        exchange.check_stopped()

    def _new_conn(self) -> socket.socket:
        """Return a connected socket, as urllib3 does, but within the deadline, and so that it can be cancelled."""
        exchange = self.exchange
        sock = self._dial(exchange)
        # TLS takes the descriptor out of this socket. A duplicate stays, by which the handshake can be cut.
        exchange.sock = sock.dup()
        sock.settimeout(self.timeout)
        return sock

    def _dial(self, exchange: Exchange) -> socket.socket:
        return super()._new_conn()

    def response_class(  # type: ignore[override]  # only the tunnel calls it
        self, sock: Any, debuglevel: int = 0, method: str | None = None
    ) -> http.client.HTTPResponse:
        reply = http.client.HTTPResponse(sock, debuglevel, method)
        reply.fp.close()
        reply.fp = cast(io.BufferedReader, Stream(sock, self.exchange))
        return reply


class Lookups:
    """Looks up the addresses of host names, in threads that can be abandoned.

    A lookup that hangs cannot be ended. In the thread of a call it would delay an interrupt and the program's end.
    Calls that need the same name at the same time share one lookup, so that at most one thread hangs for each name.
    """

    def __init__(self) -> None:
        self._running: SingleFlight[tuple[str, int], list[Any]] = SingleFlight()

    def find(self, host: str, port: int, exchange: Exchange) -> list[Any]:
        """Return what getaddrinfo returns. Raises what it raises, and what `Exchange.check` raises while it runs."""
        if _is_address(host):
            return _look_up(host, port)
        key = host, port
        ends_s = time.monotonic() + min(exchange.left_s(), CONNECT_S)
        is_mine, found = self._running.begin(key)
        if is_mine and start_thread("candle-lookup", partial(self._run, key, found)) is None:
            self._run(key, found)
        try:
            wait_for([found], exchange, timeout_s=ends_s - time.monotonic())
        except TimeoutError:
            exchange.check()
            raise socket.gaierror(socket.EAI_AGAIN, "the lookup took too long") from None
        return found.result()

    def _run(self, key: tuple[str, int], found: Future[list[Any]]) -> None:
        with contextlib.suppress(Exception):  # it is raised again in the threads that wait
            self._running.make(key, partial(_look_up, *key), found)


def _look_up(host: str, port: int) -> list[Any]:
    # As bytes, an ASCII name needs no idna codec, which takes 2 ms to import.
    plain = host.encode() if host.isascii() else host
    return socket.getaddrinfo(plain, port, allowed_gai_family(), socket.SOCK_STREAM)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False


class Direct(Connection):
    """A connection to the host, or to its HTTP proxy, by sockets of this module."""

    lookups: Lookups

    def _dial(self, exchange: Exchange) -> socket.socket:
        host = self.host.strip("[]")
        try:
            found = self.lookups.find(host, self.port, exchange)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(host, self, cast(socket.gaierror, error)) from error
        ends_s = time.monotonic() + min(exchange.left_s(), CONNECT_S)
        last: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                now_s = time.monotonic()
                _join(sock, address, now_s + (ends_s - now_s) / (len(found) - number), exchange)
                return sock
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
        if isinstance(last, TimeoutError):
            raise ConnectTimeoutError(self, f"Connection to {host} timed out") from last
        raise NewConnectionError(self, f"Failed to connect: {last}") from last


class BySocks(Connection):
    """A connection through a SOCKS proxy.

    PySocks cannot be interrupted while it looks up a name or does a handshake: so it runs in a thread that can be
    abandoned.
    """

    def _dial(self, exchange: Exchange) -> socket.socket:
        dialled: Future[socket.socket] = Future()
        connect = super()._dial

        def dial() -> None:
            try:
                dialled.set_result(connect(exchange))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
                dialled.set_exception(error)

        ends_s = time.monotonic() + min(exchange.left_s(), CONNECT_S)
        if start_thread("candle-socks", dial) is None:
            return connect(exchange)
        try:
            wait_for([dialled], exchange, timeout_s=ends_s - time.monotonic())
            return dialled.result()
        except TimeoutError:
            dialled.add_done_callback(_hang_up)
            exchange.check()
            raise ConnectTimeoutError(self, "the SOCKS proxy took too long") from None
        except BaseException:
            dialled.add_done_callback(_hang_up)
            raise


def _hang_up(dialled: Future[socket.socket]) -> None:
    """Close a connection that came too late."""
    if dialled.exception() is None:
        dialled.result().close()


def _join(sock: socket.socket, address: Any, ends_s: float, exchange: Exchange) -> None:
    """Connect the socket, and check regularly whether the call is cancelled. Raises OSError, TimeoutError."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN):
        while not wait_for_write(sock, timeout=_LOOK_S):
            exchange.check_stopped()
            if time.monotonic() >= ends_s:
                raise TimeoutError("connecting took too long")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
