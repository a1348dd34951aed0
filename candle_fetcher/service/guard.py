"""What every request passes first: Host, Origin, token, and a bound on how many are answered at once.

A name that another site points at this machine (DNS rebinding) is no Host of ours; a page of another site is a foreign
Origin. Both are refused before a handler runs, for WebSockets as for requests. One line of the log for each reply.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from candle_fetcher.console import printable
from candle_fetcher.core.errors import InputError, collecting_warnings, shown
from candle_fetcher.service.refusals import ServiceRefusal, refusal_of
from candle_fetcher.service.state import ServiceState

LOG = logging.getLogger("candle_fetcher.service")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Requests that are answered at once, streams apart; further ones are refused.
MOST_AT_ONCE = 300
# Bytes of the head of a request: its path, and its headers.
_MOST_PATH, MOST_HEAD = 8_192, 32_768
# Event streams and WebSockets at once.
MOST_STREAMS = 500
_MOST_QUERY = 4096
_STREAMS = frozenset({"/api/stream", "/api/ws"})
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([\w.-]{1,253})(?::\d{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
# Parameters of which the log shows the values; others may be a secret that was put there by mistake.
_SHOWN = frozenset(
    {
        *("symbol", "symbols", "timeframe", "start", "end", "days", "limit", "provider", "kind", "columns", "format"),
        *("query", "interval", "startTime", "endTime", "resolution", "from", "to", "countback"),
    }
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def read_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the origins as browsers send them. Raises InputError for anything but scheme, host and port."""
    if isinstance(origins, str):
        origins = [origins]
    found = [origin.strip().lower().rstrip("/") for origin in origins]
    for origin in found:
        if _ORIGIN.fullmatch(origin) is None:
            raise InputError(f"origin {shown(origin)} must be exact, such as https://charts.example.com; never *")
    return frozenset(found)


def read_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return the names in lower case. Raises InputError for what is no name of a host."""
    if isinstance(hosts, str):
        hosts = [hosts]
    found = [host.strip().lower() for host in hosts]
    for host in found:
        if not re.fullmatch(r"[a-z0-9.-]{1,253}|[0-9a-f:]+", host):
            raise InputError(f"host {shown(host)} must be a name without a port, such as candles.example.com")
    return frozenset(found)


def read_token(token: str | None) -> bytes | None:
    """Return the token as it is compared. Raises InputError for an empty one, or one that no header can carry."""
    if token is None:
        return None
    if not isinstance(token, str) or not token.strip() or not token.isascii() or not token.isprintable():
        raise InputError("the token must be a text of printable ASCII characters, such as 32 random ones")
    return token.strip().encode()


class Guard:
    """The outermost layer of the application (ASGI)."""

    def __init__(
        self,
        app: ASGIApp,
        service: ServiceState,
        token: bytes | None,
        origins: frozenset[str],
        hosts: frozenset[str],
    ) -> None:
        self._app = app
        self._service = service
        self._token = token
        self._origins = origins
        self._hosts = LOOPBACK | hosts
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reply = _Reply(scope, send, self._cors(headers))
        is_stream = scope["path"] in _STREAMS
        try:
            refused = self._refusal(scope, headers, is_stream=is_stream)
            if refused is not None:
                await self._refuse(refused, scope, receive, reply)
            elif scope["type"] == "http" and scope["method"] == "OPTIONS" and reply.cors is not None:
                await _preflight()(scope, receive, reply.send)
            else:
                await self._hand_on(scope, receive, reply, is_stream=is_stream)
        finally:
            self._note(scope, reply)

    async def _hand_on(self, scope: Scope, receive: Receive, reply: _Reply, *, is_stream: bool) -> None:
        traffic = self._service.traffic
        self._at_once += not is_stream
        traffic.streams += is_stream
        try:
            with collecting_warnings() as found:  # by context, which handlers in threads share
                if scope.get("method") == "HEAD" and not is_stream:  # as GET: the server leaves the body out
                    scope = {**scope, "method": "GET"}
                await self._app(scope, receive, reply.send)
            for one in found:
                LOG.warning("%s", printable(one))
        except Exception as error:
            if reply.is_lost:
                return
            LOG.error("%s", printable(f"{scope['path']}: {type(error).__name__}: {error}"), exc_info=not reply.status)
            if reply.status:  # the head is out: the server ends the connection, which the client sees
                raise
            await self._refuse(error, scope, receive, reply)
        finally:
            self._at_once -= not is_stream
            traffic.streams -= is_stream

    def _refusal(self, scope: Scope, headers: Headers, *, is_stream: bool) -> ServiceRefusal | None:
        """Return why the request is refused; None where it is not."""
        path = scope["path"]
        if not path.startswith("/") or len(scope.get("query_string", b"")) > _MOST_QUERY:
            return ServiceRefusal(400, "BadRequest", "expected a path such as /api/candles, with a short query")
        if len(scope.get("raw_path") or b"") > _MOST_PATH:
            return ServiceRefusal(414, "BadRequest", "the path is too long")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD:
            return ServiceRefusal(431, "BadRequest", "the headers are too long")
        if not self._is_ours(scope, headers):
            return ServiceRefusal(421, "WrongHost", "the Host of this request is not a name of this server")
        if path == "/health":
            return None
        if self._is_foreign(headers):
            return ServiceRefusal(403, "ForeignOrigin", "pages of other sites may not use this server")
        is_preflight = scope["type"] == "http" and scope["method"] == "OPTIONS"  # which carries no token
        if self._token is not None and not is_preflight and not self._has_token(headers):
            return ServiceRefusal(401, "TokenNeeded", "send the token of this server as Authorization: Bearer TOKEN")
        if is_stream and self._service.traffic.streams >= MOST_STREAMS:
            return ServiceRefusal(503, "Busy", f"{MOST_STREAMS} streams are open already", retry_after_s=5)
        if self._at_once >= MOST_AT_ONCE:
            return ServiceRefusal(503, "Busy", f"{MOST_AT_ONCE} requests are being answered", retry_after_s=1)
        return None

    def _is_ours(self, scope: Scope, headers: Headers) -> bool:
        """Return whether the Host is loopback, a name that was given, or the address at which the request arrived."""
        given = headers.getlist("host")
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        server = scope.get("server")
        return name in self._hosts or (server is not None and _plain(name) == _plain(str(server[0]).lower()))

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            if origin.lower() in self._origins:
                return False
            return urlsplit(origin).netloc.lower() != headers.get("host", "").lower() or "://" not in origin
        return headers.get("sec-fetch-site") == "cross-site"

    def _has_token(self, headers: Headers) -> bool:
        """Return whether the token came as Bearer, or as the password of Basic, which browsers and Excel ask for."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        given = value.strip().encode("utf-8", "replace")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return self._token is not None and secrets.compare_digest(given, self._token)

    def _cors(self, headers: Headers) -> str | None:
        """Return the origin that the reply is made readable for."""
        origin = headers.get("origin")
        return origin if origin is not None and origin.lower() in self._origins else None

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, reply: _Reply) -> None:
        response = refusal_of(error)
        if scope["type"] == "http":
            await response(scope, receive, reply.send)
        elif "websocket.http.response" in scope.get("extensions", {}):
            raw = [(key.encode(), value.encode()) for key, value in response.headers.items()]
            head: Message = {"type": "websocket.http.response.start", "status": response.status_code, "headers": raw}
            await reply.send(head)
            await reply.send({"type": "websocket.http.response.body", "body": bytes(response.body)})
        else:
            reply.status = 403
            await reply.send({"type": "websocket.close", "code": 1008})

    def _note(self, scope: Scope, reply: _Reply) -> None:
        seconds = time.perf_counter() - reply.began_s
        route = getattr(scope.get("route"), "path", None) or "other"
        self._service.traffic.add(route, reply.status, seconds, reply.size)
        if LOG.isEnabledFor(logging.INFO):
            client = scope["client"][0] if scope.get("client") else "-"
            method = scope.get("method", "WS")
            line = f"{client} {method} {_shown(scope)} {reply.status} {reply.size}B {seconds * 1e3:.1f}ms"
            LOG.info("%s", printable(line))


class _Reply:
    """What was sent of one reply; adds the headers that all replies have."""

    def __init__(self, scope: Scope, send: Send, cors: str | None) -> None:
        self._send = send
        self.cors = cors
        self.status = 0
        self.size = 0
        self.is_lost = False  # the client has gone
        self.began_s = time.perf_counter()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self.cors is not None:
                headers["Access-Control-Allow-Origin"] = self.cors
                headers["Access-Control-Expose-Headers"] = "ETag, Link, Retry-After, X-Candle-Fetcher-Manifest"
                headers["Cross-Origin-Resource-Policy"] = "cross-origin"
                headers.add_vary_header("Origin")
        elif kind == "websocket.accept":
            self.status = 101
        elif kind in ("http.response.body", "websocket.http.response.body"):
            self.size += len(message.get("body", b""))
        try:
            await self._send(message)
        except OSError:  # ASGI: what a server raises where the connection is closed already
            self.is_lost = True
            raise


def _preflight() -> Response:
    """Return the answer to a browser that asks whether a page of an allowed origin may send a request."""
    headers = {
        "Access-Control-Allow-Methods": "GET",
        "Access-Control-Allow-Headers": "Authorization, If-None-Match, Last-Event-ID",
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)


def _plain(host: str) -> str:
    """Return an address in one spelling; a name as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _shown(scope: Scope) -> str:
    """Return path and query as the log has them: values of unknown parameters may be secrets, and are left out."""
    query = scope.get("query_string", b"")[:_MOST_QUERY].decode("latin-1")
    pairs = parse_qsl(query, keep_blank_values=True)
    words = [f"{name}={value[:60]}" if name in _SHOWN else "…" for name, value in pairs[:20]]
    return str(scope["path"])[:200] + (f"?{'&'.join(words)}" if words else "")
