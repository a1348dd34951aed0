"""The way to one root: its idle connections, the proxy of the environment, and TLS."""

from __future__ import annotations

import contextlib
import os
import ssl
import urllib.parse
import weakref
from collections import deque
from pathlib import Path
from typing import Any, cast
from urllib.request import getproxies

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy, should_bypass_proxies
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_read

from candle_fetcher.core.errors import InputError
from candle_fetcher.net.connection import BySocks, Connection, Direct, Lookups
from candle_fetcher.net.exchange import Exchange

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
        proxies = getproxies()
        proxy = ""
        if proxies.keys() - {"no"} and not should_bypass_proxies(root, no_proxy=None):
            proxy = select_proxy(root, proxies) or ""
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
        """Return a connection for the exchange alone: the newest idle one that the server has not closed, else a new
        one, which `send` connects."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has taken it
                break
            if exchange.must_connect:
                connection.close()  # in its place comes the new one
                break
            # Nothing is to be received on an idle connection but its end.
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
        with contextlib.suppress(BrokenPipeError):  # there may be a reply all the same
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
        """Keep no connection any more."""
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


class _Adapter(HTTPAdapter):
    """requests' way to a pool behind a proxy, with our TLS context: by default each connection loads all certificates
    again."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> tuple[Any, Any]:
        host, kwargs = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            kwargs = {**kwargs, "ssl_context": cast(ssl.SSLContext, self._context)}
        return host, kwargs


def _make_pool(root: str, parts: urllib.parse.SplitResult, proxy: str, proxies: dict[str, str]) -> HTTPConnectionPool:
    """Return the pool that makes connections to the root. Raises InputError where the environment's settings cannot be
    used."""
    if not proxy:
        assert parts.hostname is not None  # check_root
        if parts.scheme == "http":
            return HTTPConnectionPool(parts.hostname, parts.port)
        return HTTPSConnectionPool(parts.hostname, parts.port, cert_reqs="CERT_REQUIRED", ssl_context=_make_context())
    needs_tls = parts.scheme == "https" or proxy.lower().startswith("https:")
    adapter = _Adapter(_make_context() if needs_tls else None)
    try:
        if proxy.lower().startswith("https:"):
            adapter.proxy_manager_for(proxy, proxy_ssl_context=adapter._context)
        request = requests.Request("GET", root + "/").prepare()
        pool = adapter.get_connection_with_tls_context(request, verify=True, proxies=proxies)
        return cast(HTTPConnectionPool, pool)
    except requests.exceptions.InvalidSchema:
        problem = 'a SOCKS proxy is set, which needs PySocks: pip install "requests[socks]"'
    except (requests.exceptions.RequestException, HTTPError, ValueError, TypeError):
        problem = f"the base URL {root!r}, or the proxy set for it, cannot be used; look at HTTPS_PROXY and HTTP_PROXY"
    raise InputError(problem)  # without the cause, which may show the proxy's password


def _make_context() -> ssl.SSLContext:
    """Return a context that verifies, with the certificates of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, else certifi's."""
    name = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), "")
    path = os.environ[name] if name else requests.utils.DEFAULT_CA_BUNDLE_PATH
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    try:
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        raise InputError(f"cannot read the certificates at {path!r} (set by {name or 'certifi'})") from error
    return context
