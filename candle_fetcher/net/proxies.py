"""The proxy and the certificates that the environment sets, as requests reads them; and connections by a proxy."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy, should_bypass_proxies
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from candle_fetcher.core.errors import InputError


def choose_proxy(root: str, proxies: dict[str, str]) -> str:
    """Return the URL of the proxy by which the root has to be reached; "" where none is needed."""
    return "" if should_bypass_proxies(root, no_proxy=None) else select_proxy(root, proxies) or ""


class _Adapter(HTTPAdapter):
    """The adapter of requests, with one TLS context for all connections. By default each connection would load all
    certificates again."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> tuple[Any, Any]:
        host, kwargs = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            kwargs = {**kwargs, "ssl_context": cast(ssl.SSLContext, self._context)}
        return host, kwargs


def make_proxied_pool(root: str, scheme: str, proxy: str, proxies: dict[str, str]) -> HTTPConnectionPool:
    """Return the pool that makes connections to the root through the proxy. Raises InputError where the environment's
    settings cannot be used."""
    needs_tls = scheme == "https" or proxy.lower().startswith("https:")
    adapter = _Adapter(make_context() if needs_tls else None)
    try:
        if proxy.lower().startswith("https:"):
            adapter.proxy_manager_for(proxy, proxy_ssl_context=adapter._context)
        request = requests.Request("GET", root + "/").prepare()
        pool = adapter.get_connection_with_tls_context(request, verify=True, proxies=proxies)
        return cast(HTTPConnectionPool, pool)
    except requests.exceptions.InvalidSchema:
        problem = 'the environment sets a SOCKS proxy, which needs PySocks; run pip install "requests[socks]"'
    except (requests.exceptions.RequestException, HTTPError, ValueError, TypeError):
        problem = f"the base URL {root!r}, or the proxy for it, cannot be used; check HTTPS_PROXY and HTTP_PROXY"
    raise InputError(problem)  # without the cause, which may show the proxy's password


def make_context() -> ssl.SSLContext:
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
        raise InputError(
            f"the certificates at {path!r} (set by {name or 'certifi'}) cannot be read; expected PEM certificates"
        ) from error
    return context
