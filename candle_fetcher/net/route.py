"""The way to one root: its idle connections, the proxy of the environment, and TLS."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.parse
import weakref
from collections import deque
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.wait import wait_for_read

from candle_fetcher.net.connection import BySocks, Connection, Direct, Lookups
from candle_fetcher.net.exchange import Exchange

_PROXY = re.compile(rb"(?!no_).*_proxy", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Route:
    """Connections to one root, through the environment's proxy where there is one. Shared by threads."""

    def __init__(self, root: str) -> None:
        parts = urllib.parse.urlsplit(root)
        self.host = parts.netloc
        self.path = parts.path.rstrip("/")
        port = parts.port
        self.host_header = parts.netloc
        if port == _DEFAULT_PORTS[parts.scheme]:
            self.host_header = parts.netloc.rpartition(":")[0]
        proxies = _proxies()
        proxy = _find_proxy(root, proxies)
        is_socks = proxy.lower().startswith("socks")
        self.is_exposed = bool(proxy) and parts.scheme == "http"  # the proxy can read what is sent
        # A proxy that forwards plain http needs the whole URL.
        forwards = self.is_exposed and not is_socks
        self.prefix = f"{parts.scheme}://{parts.netloc}" if forwards else ""
        self._pool = _make_pool(root, parts, proxy, proxies)
        self.headers: dict[str, str] = dict(self._pool.proxy_headers) if forwards else {}
        pool = self._pool
        self._needs_tunnel = pool.proxy is not None and connection_requires_http_tunnel(
            pool.proxy, pool.proxy_config, parts.scheme
        )
        bases = (BySocks if is_socks else Direct, pool.ConnectionCls)
        pool.ConnectionCls = type("RouteConnection", bases, {"lookups": Lookups()})
        self._idle: deque[Connection] = deque()  # newest last
        self._is_closed = False
        weakref.finalize(self, _close_all, self._idle)

    def take(self, exchange: Exchange) -> Connection:
        """Return a connection for the exchange alone: the newest idle one that the server has not closed; else a new
        one, which `send` will connect."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has taken it
                break
            if exchange.must_connect:
                connection.close()  # so that the new one does not add to the number of connections
                break
            # An idle connection only becomes readable when the server closes it.
            if not wait_for_read(connection.sock, timeout=0.0):
                return connection
            connection.close()
        new: Any = self._pool._new_conn()  # of the class that __init__ made
        made: Connection = new
        return made

    def send(self, connection: Connection, exchange: Exchange) -> None:
        """Send the request of the exchange, after connecting a new connection.

        Raises what urllib3 and the socket raise; ProxyUnreachable where no connection to the proxy can be made.
        """
        if connection.sock is None:
            connection.exchange = exchange
            try:
                if self._needs_tunnel:
                    self._pool._prepare_proxy(connection)
                else:
                    connection.connect()
            except (OSError, HTTPError) as error:
                if connection.proxy and not connection.has_connected_to_proxy:
                    raise ProxyUnreachable(error) from error
                raise
        exchange.sock = connection.sock
        exchange.check_stopped()
        connection.sock.settimeout(exchange.left_s())
        with contextlib.suppress(BrokenPipeError):  # the server may have replied before it closed the connection
            connection.sock.sendall(exchange.request)

    def give_back(self, connection: Connection) -> None:
        """Keep the connection for the next exchange, after its reply was received whole."""
        self._idle.append(connection)
        if self._is_closed:
            self.close_idle()

    def close_idle(self) -> None:
        """Close the idle connections; the next exchanges open new ones."""
        _close_all(self._idle)

    def close(self) -> None:
        """Close the idle connections, and each later one when it is given back."""
        self._is_closed = True
        self.close_idle()


class ProxyUnreachable(Exception):
    """No connection to the proxy of the environment can be made."""


def _close_all(idle: deque[Connection]) -> None:
    while idle:
        try:
            connection = idle.pop()
        except IndexError:  # another thread has taken it
            return
        connection.close()


def _proxies() -> dict[str, str]:
    """Return the proxies that the environment sets, by scheme; on macOS and Windows also those of the system."""
    if sys.platform not in ("darwin", "win32") and not any(map(_PROXY.fullmatch, os.environb)):
        return {}
    from urllib.request import getproxies  # only where there may be a proxy, since it imports many modules

    return getproxies()


def _find_proxy(root: str, proxies: dict[str, str]) -> str:
    """Return the URL of the proxy on the way to the root; empty where there is none."""
    if not proxies.keys() - {"no"}:
        return ""
    from candle_fetcher.net.proxies import choose_proxy  # as below

    return choose_proxy(root, proxies)


def _make_pool(root: str, parts: urllib.parse.SplitResult, proxy: str, proxies: dict[str, str]) -> HTTPConnectionPool:
    """Return the pool that makes connections to the root. Raises InputError where the environment's settings cannot be
    used."""
    assert parts.hostname is not None  # check_root
    if not proxy and parts.scheme == "http":
        return HTTPConnectionPool(parts.hostname, parts.port)
    from candle_fetcher.net.proxies import make_context, make_proxied_pool  # when used: requests takes long to import

    if proxy:
        return make_proxied_pool(root, parts.scheme, proxy, proxies)
    return HTTPSConnectionPool(parts.hostname, parts.port, cert_reqs="CERT_REQUIRED", ssl_context=make_context())
