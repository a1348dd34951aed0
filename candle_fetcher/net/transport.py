"""One request: a Call and a root URL in, a whole Reply out. The only module that knows requests and urllib3.

    send -> _Route (pool and proxy of one root) -> _Connection -> _Wire -> body -> Reply

Rules it keeps:

- The deadline covers the whole call: connecting, headers and body. `_Wire` is where every received byte passes, so
  it is where time, size, the end of the stream and an abort are noticed, whatever drips or hangs.
- A body is whole or it is an error: its length is checked, chunks must end properly, gzip must reach its own end.
- Parameters and keys go onto the wire in `_Connection.putrequest` and `endheaders` and nowhere else: urllib3 is told
  the path and the other headers only, so that its log lines and its errors cannot repeat a key. What a service sends
  back may: keys are hidden in it before anybody reads it, and errors of such a call leave without those behind them.
- Redirects, cookies and .netrc are not used; certificates are always verified; proxies come from the environment.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import ipaddress
import os
import queue
import re
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import HTTPConnectionPool, HTTPResponse, Retry, Timeout
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeout
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_write

from candle_fetcher.concurrency import SingleFlight, start_thread, wait_for
from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.errors import InputError, ReplyError, SourceError, TransportError
from candle_fetcher.core.events import Observe, Sent, ignore
from candle_fetcher.core.keys import NO_KEYS, Keys

MAX_BODY_BYTES = 64 * 2**20

# Connecting gives up earlier than the whole call: SYNs at 0, 1, 3 and 7 s have had their chance.
_CONNECT_S = 10.0
# How often a thread that waits for a connection looks whether it is still wanted.
_LOOK_S = 0.05
# Room for status line, headers and chunk sizes beside the body.
_FRAMING_BYTES = 2**20
_PIECE_BYTES = 2**18
# More than any thread count: a pool that overflows discards connections.
_POOL_SIZE = 128
# A pause must be obeyed even where the body that explains it cannot be read.
_PAUSES = (418, 429)
_LENGTH = re.compile(r"[0-9]{1,18}")
# Python 3.10 and 3.11 take [::1] for the host of http://[::1].example.com.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_PLAIN = re.compile(r"[A-Za-z0-9_.=&-]+")
_NO_RETRY = Retry(False)
_NO_TIMEOUT = Timeout(connect=None, read=None)  # _Connection and _Wire set the socket's from the deadline


class Transport:
    """Sends calls and returns whole replies; safe to share between threads."""

    def __init__(
        self,
        *,
        timeout_s: float = 30,
        user_agent: str,
        observe: Observe = ignore,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._timeout_s = timeout_s
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "gzip"}
        self._observe = observe
        self._max_body_bytes = max_body_bytes
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}
        self._flights: dict[int, _Flight] = {}  # by thread: single dict operations, so no lock on the way
        self._closed = False

    def send(
        self,
        root: str,
        call: Call,
        *,
        provider: str = "",
        stop: threading.Event | None = None,
        timeout_s: float | None = None,
        keys: Keys = NO_KEYS,
    ) -> Reply:
        """The reply to one call, whatever its status from 200 to 599 (3xx is a ReplyError: redirects are off).

        The whole call ends within `timeout_s`. A kept-alive connection that turns out closed before the first byte
        is replaced once, and none is used for a form; nothing else is sent again. Raises TransportError where no whole
        reply came, ReplyError where what came is wrong or larger than the cap, CancelledError once `stop` is set or
        the transport closed.
        A 418 or 429 whose body cannot be read comes back with an empty body.

        `keys` are sent along and hidden in what comes back, be it a reply or an error. Raises InputError where a proxy
        on the way could read them.
        """
        route = self._routes.get(root) or self._add_route(root)
        if keys and route.is_exposed:
            raise InputError(
                f"keys for {route.host} would go through a proxy that can read them; name the host in NO_PROXY, or use "
                "an https root"
            )
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        flight = _Flight(route, call, keys, stop, limit_s, self._max_body_bytes)
        headers = {**self._headers, **_checked(call)} if call.headers else self._headers
        if flight.form is not None:
            kind = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(flight.form))}
            headers = {**headers, **kind}
        thread = threading.get_ident()
        self._flights[thread] = flight  # before the first look at `stop`: abort() sets it, then looks here
        try:
            while True:
                try:
                    return self._attempt(route, flight, headers, provider, call.path)
                except TransportError:
                    if not flight.was_stale:
                        raise
                flight.renew()
        except (SourceError, CancelledError) as error:
            if not keys:
                raise
            bare = _bare(error, keys)
        finally:
            del self._flights[thread]
        raise bare  # out here, where no other error stands behind it

    def _attempt(self, route: _Route, flight: _Flight, headers: dict[str, str], provider: str, path: str) -> Reply:
        if self._closed:
            flight.is_cancelled = True
        flight.check()
        started = time.monotonic()
        status: int | None = None
        wire = b""
        try:
            raw = route.open(flight, headers)
            try:
                status = raw.status
                _check_status(raw, flight)
                try:
                    wire = _read(raw, flight)
                    flight.check_stopped()  # an abort looks like the end of a body without a length
                    body = _decode(wire, raw.headers.get("content-encoding", ""), flight) if status != 204 else b""
                except (SourceError, HTTPError, OSError, http.client.HTTPException, ValueError):
                    if status not in _PAUSES or flight.is_stopped:
                        raise
                    body = b""
            finally:
                if not raw.closed:  # something was left unread: the connection cannot be used again
                    raw.close()
                raw.release_conn()
        except SourceError:
            flight.check_stopped()
            raise
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            flight.check_stopped()
            raise _translate(error, flight) from error
        finally:
            seconds = time.monotonic() - started
            self._observe(Sent(provider, path, status, seconds, len(wire)))
        hide = flight.keys.hide
        told = {name.lower(): hide(value) for name, value in raw.headers.itermerged()}
        return Reply(status, told, hide(body), seconds)

    def abort(self, stop: threading.Event) -> None:
        """Ends every call that runs under `stop`, now: its thread gets CancelledError within milliseconds."""
        stop.set()
        for flight in list(self._flights.values()):
            if flight.stop is stop:
                flight.cut()

    def renew(self, root: str) -> None:
        """Close the idle connections to the root, so that the next calls open new ones: a reply that does not belong to
        its request may be that of the request before, and all that follow on its connection are then shifted too."""
        route = self._routes.get(root)
        if route is not None:
            route.renew()

    def close(self) -> None:
        """Closes every connection of every thread; calls under way get CancelledError. May be called again."""
        with self._lock:
            self._closed = True
            routes = list(self._routes.values())
        for flight in list(self._flights.values()):
            flight.cut()
        for route in routes:
            route.pool.close()

    def _add_route(self, root: str) -> _Route:
        check_root(root)
        with self._lock:
            if self._closed:
                raise CancelledError("the transport is closed")
            if root not in self._routes:
                self._routes[root] = _Route(root, self._flights)
            return self._routes[root]


def check_root(url: str) -> str:
    """The root URL without its trailing slash: https anywhere, http to this machine only. Raises InputError."""
    parsed = _parse(url)
    if parsed is None:
        raise InputError("a base URL cannot be read; expected something like https://api.example.com")
    parts, host, port = parsed
    if "@" in parts.netloc:
        raise InputError(
            f"the base URL for {str(host)[:100]!r} names a user; expected none: keys are settings of their own"
        )
    if parts.scheme not in ("https", "http"):
        raise InputError(f"base URL with scheme {parts.scheme[:40]!r}; expected https, or http to this machine")
    is_plain = _AUTHORITY.fullmatch(parts.netloc) and all("!" <= letter <= "~" for letter in url)
    if not host or port == 0 or not is_plain:
        raise InputError(
            f"a base URL names the host {str(host)[:100]!r}, port {port}; expected one like https://api.example.com"
        )
    if "?" in url or "#" in url:
        raise InputError(
            f"the base URL for {host[:100]!r} has a query or fragment; expected only scheme, host and path"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(
            f"http to {host[:100]!r} is refused; expected https (http is for this machine: 127.0.0.1, localhost)"
        )
    return url.rstrip("/")


def _parse(url: str) -> tuple[urllib.parse.SplitResult, str | None, int | None] | None:
    """The URL's parts, host and port; None, and not the error, which may show a password, where it has no such form."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts, parts.hostname, parts.port
    except ValueError:
        return None


def _query_of(params: tuple[tuple[str, str], ...]) -> str:
    """The query with its question mark, or nothing."""
    if not params:
        return ""
    plain = "&".join([f"{name}={value}" for name, value in params])
    # Most queries need no escapes; as many delimiters as we put in means that no value holds one.
    if _PLAIN.fullmatch(plain) and plain.count("=") == len(params) and plain.count("&") == len(params) - 1:
        return "?" + plain
    return "?" + urllib.parse.urlencode(params)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Flight:
    """One call on its way: until when, how far it is, and what is needed to end it from another thread."""

    __slots__ = (
        "deadline_s",
        "form",
        "has_connected",
        "has_ended",
        "has_timed_out",
        "is_cancelled",
        "keys",
        "limit_s",
        "max_body_bytes",
        "must_connect",
        "path",
        "query",
        "received",
        "sock",
        "stop",
        "where",
    )

    def __init__(
        self,
        route: _Route,
        call: Call,
        keys: Keys,
        stop: threading.Event | None,
        limit_s: float,
        max_body_bytes: int,
    ) -> None:
        self.where = route.host + call.path
        self.path = urllib.parse.quote(route.path + call.path, safe="/%:@!$&'()*+,;=")
        self.keys = keys
        query = _query_of(call.params + keys.params)
        self.query = "" if call.is_form else query
        self.form = query[1:].encode("ascii") if call.is_form else None
        self.stop = stop
        self.limit_s = limit_s
        self.deadline_s = time.monotonic() + limit_s
        self.max_body_bytes = max_body_bytes
        self.sock: Any = None
        self.must_connect = call.is_form  # it may not be sent twice, which a connection that is stale would ask for
        self.has_connected = False
        self.has_timed_out = False
        self.is_cancelled = False
        self.received = 0
        self.has_ended = False

    @property
    def is_stopped(self) -> bool:
        return self.is_cancelled or (self.stop is not None and self.stop.is_set())

    @property
    def was_stale(self) -> bool:
        """Whether a kept-alive connection failed before the first byte of a reply."""
        return not (self.has_connected or self.must_connect or self.received or self.has_timed_out)

    def renew(self) -> None:
        """Starts again, on a connection of its own."""
        self.must_connect = True
        self.sock = None
        self.has_ended = False

    def left_s(self) -> float:
        """Seconds until the deadline; raises TransportError when there are none."""
        left = self.deadline_s - time.monotonic()
        if left <= 0:
            raise self.timeout()
        return left

    def timeout(self) -> TransportError:
        self.has_timed_out = True
        return TransportError(f"{self.where}: no whole reply within {self.limit_s:g} s ({self.received} bytes came)")

    def check(self) -> None:
        """Raises CancelledError when the call is no longer wanted, TransportError when its time is over."""
        self.check_stopped()
        self.left_s()

    def check_stopped(self) -> None:
        if self.is_stopped:
            raise CancelledError(f"{self.where}: the call was cancelled")

    def is_set(self) -> bool:
        """Whether the call is not wanted any more: what a wait asks; see `wait_for`."""
        return self.is_stopped

    def cut(self) -> None:
        """Wakes the thread that waits on this call's socket; called from other threads."""
        self.is_cancelled = True
        sock = self.sock
        if sock is not None:
            # The TCP socket below TLS: SSLSocket.shutdown would take the TLS state from under its reader.
            with contextlib.suppress(OSError):  # it has just been closed
                socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class _Wire(io.RawIOBase):
    """What a connection receives, read under the deadline, the size cap and the stop of its call."""

    def __init__(self, raw: io.RawIOBase, sock: Any, flight: _Flight) -> None:
        self._raw = raw
        self._sock = sock
        self._flight = flight

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        flight = self._flight
        self._sock.settimeout(flight.left_s())
        try:
            count = cast(int, self._raw.readinto(into))
        except TimeoutError as error:
            raise flight.timeout() from error
        if count == 0:
            flight.has_ended = True
        flight.received += count
        if flight.received > flight.max_body_bytes + _FRAMING_BYTES:
            raise _too_large(flight)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _HttpReply(http.client.HTTPResponse):
    """http.client's reply, read through a `_Wire`, and strict about its headers."""

    def __init__(self, flight: _Flight, sock: Any, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        self._flight = flight
        self.fp = io.BufferedReader(_Wire(self.fp.detach(), sock, flight))

    def begin(self) -> None:
        super().begin()
        # http.client takes the end of the stream for the end of the headers, and skips what follows a bad header.
        if self._flight.has_ended:
            raise http.client.IncompleteRead(b"")
        if self.msg.defects or self.msg.get_payload():
            raise ReplyError(f"{self._flight.where}: the headers are malformed")
        # Of a length or an encoding that it cannot read, it makes a body that lasts as long as the connection.
        lengths = set(self.msg.get_all("content-length", ()))
        if len(lengths) > 1 or any(not _LENGTH.fullmatch(length) for length in lengths):
            shown = self._flight.keys.hide(ascii(sorted(lengths)))
            raise ReplyError(f"{self._flight.where}: Content-Length {shown:.60}; expected one number")
        encoding = self.msg.get("transfer-encoding", "chunked")
        if encoding.lower() != "chunked":
            shown = self._flight.keys.hide(ascii(encoding))
            raise ReplyError(f"{self._flight.where}: transfer encoding {shown:.60}; expected chunked or none")


class _Connection(HTTPConnection):
    """Mixed into urllib3's connection classes: ties a connection to the call of the thread that uses it."""

    debuglevel = 0  # whoever sets that of http.client's class would have keys printed
    flights: dict[int, _Flight]

    @property
    def flight(self) -> _Flight:
        return self.flights[threading.get_ident()]

    @property
    def is_connected(self) -> bool:
        return not self.flight.must_connect and super().is_connected

    def connect(self) -> None:
        flight = self.flight
        flight.has_connected = True
        self.timeout = min(flight.left_s(), _CONNECT_S)
        try:
            super().connect()
        finally:
            handshake, flight.sock = flight.sock, None
            if handshake is not None:
                handshake.close()
        flight.sock = self.sock
        flight.check_stopped()

    def _new_conn(self) -> socket.socket:
        """A connected socket; as urllib3's, but under the deadline as a whole, and it can be aborted."""
        flight = self.flight
        sock = self._dial(flight)
        # TLS takes the descriptor out of this object, so that the handshake is cut through a duplicate.
        flight.sock = sock.dup()
        sock.settimeout(self.timeout)
        return sock

    def _dial(self, flight: _Flight) -> socket.socket:
        return super()._new_conn()

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        flight = self.flight
        if not flight.has_connected:
            flight.sock = self.sock
        flight.check_stopped()
        self.timeout = flight.left_s()
        super().request(method, url, *args, **kwargs)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        flight = self.flight
        super().putrequest(method, url + flight.query, *args, **kwargs)
        for name, value in flight.keys.headers:
            self.putheader(name, value)

    def endheaders(self, message_body: Any = None, **kwargs: Any) -> None:
        super().endheaders(message_body if self.flight.form is None else self.flight.form, **kwargs)

    def response_class(  # type: ignore[override]  # http.client only ever calls it
        self, sock: Any, debuglevel: int = 0, method: str | None = None
    ) -> http.client.HTTPResponse:
        return _HttpReply(self.flight, sock, debuglevel, method)


class _Lookups:
    """Addresses of host names, asked of the system in threads that nobody has to wait for.

    A lookup that hangs cannot be ended, and would hold whoever waits: a caller who pressed Ctrl-C, and the end of the
    program. Those who want one name at the same time share one lookup, so that no more than one hangs for each.
    """

    def __init__(self) -> None:
        self._flights: SingleFlight[tuple[str, int], list[Any]] = SingleFlight()

    def find(self, host: str, port: int, flight: _Flight) -> list[Any]:
        """What getaddrinfo says; raises what it raises, and what `_Flight.check` does meanwhile."""
        if _is_address(host):
            return _look_up(host, port)
        key = host, port
        ends_s = time.monotonic() + min(flight.left_s(), _CONNECT_S)
        is_mine, found = self._flights.begin(key)
        if is_mine and start_thread("candle-lookup", partial(self._run, key, found)) is None:
            self._run(key, found)
        try:
            wait_for([found], flight, timeout_s=ends_s - time.monotonic())
        except TimeoutError:
            flight.check()
            raise socket.gaierror(socket.EAI_AGAIN, "the lookup took too long") from None
        return found.result()

    def _run(self, key: tuple[str, int], found: Future[list[Any]]) -> None:
        with contextlib.suppress(Exception):  # it is raised again in the threads that wait
            self._flights.make(key, partial(_look_up, *key), found)


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _Direct(_Connection):
    """A _Connection that dials by itself."""

    lookups: _Lookups

    def _dial(self, flight: _Flight) -> socket.socket:
        host = self.host.strip("[]")
        try:
            found = self.lookups.find(host, self.port, flight)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(host, self, cast(socket.gaierror, error)) from error
        ends_s = time.monotonic() + min(flight.left_s(), _CONNECT_S)
        last: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                now = time.monotonic()
                _join(sock, address, now + (ends_s - now) / (len(found) - number), flight)
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


class _BySocks(_Connection):
    """A _Connection through a SOCKS proxy. PySocks looks up names and shakes hands in ways that cannot be ended: it
    does so in a thread that nobody has to wait for."""

    def _dial(self, flight: _Flight) -> socket.socket:
        dialled: Future[socket.socket] = Future()
        connect = super()._dial

        def dial() -> None:
            try:
                dialled.set_result(connect(flight))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
                dialled.set_exception(error)

        ends_s = time.monotonic() + min(flight.left_s(), _CONNECT_S)
        if start_thread("candle-socks", dial) is None:
            return connect(flight)
        try:
            wait_for([dialled], flight, timeout_s=ends_s - time.monotonic())
            return dialled.result()
        except TimeoutError:
            dialled.add_done_callback(_hang_up)
            flight.check()
            raise ConnectTimeoutError(self, "the SOCKS proxy took too long") from None
        except BaseException:
            dialled.add_done_callback(_hang_up)
            raise


def _hang_up(dialled: Future[socket.socket]) -> None:
    """Closes a connection that came too late."""
    if dialled.exception() is None:
        dialled.result().close()


def _join(sock: socket.socket, address: Any, ends_s: float, flight: _Flight) -> None:
    """Connects, looking now and then whether the call is still wanted. Raises OSError, TimeoutError."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN):
        while not wait_for_write(sock, timeout=_LOOK_S):
            flight.check_stopped()
            if time.monotonic() >= ends_s:
                raise TimeoutError("connecting took too long")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


class _Adapter(HTTPAdapter):
    """requests' way to a pool, with our TLS context: by default each connection loads all certificates anew."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=_POOL_SIZE)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> tuple[Any, Any]:
        host, kwargs = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            kwargs = {**kwargs, "ssl_context": cast(ssl.SSLContext, self._context)}
        return host, kwargs


class _Route:
    """The way to one root: its pool of connections, through the environment's proxy where there is one."""

    def __init__(self, root: str, flights: dict[int, _Flight]) -> None:
        parts = urllib.parse.urlsplit(root)
        self.host = parts.netloc
        self.path = parts.path.rstrip("/")
        proxies = get_environ_proxies(root, no_proxy=None)
        proxy = select_proxy(root, proxies) or ""
        is_socks = proxy.lower().startswith("socks")
        # A proxy that forwards plain http wants the whole URL.
        forwards = bool(proxy) and parts.scheme == "http" and not is_socks
        self._prefix = f"{parts.scheme}://{parts.netloc}" if forwards else ""
        self.is_exposed = bool(proxy) and parts.scheme == "http"  # whoever runs the proxy reads what is sent
        self.pool = _make_pool(root, proxy, proxies)
        bases = (_BySocks if is_socks else _Direct, self.pool.ConnectionCls)
        self.pool.ConnectionCls = type("Connection", bases, {"flights": flights, "lookups": _Lookups()})

    def open(self, flight: _Flight, headers: dict[str, str]) -> HTTPResponse:
        """The reply as soon as its headers are there, the body still to be read."""
        reply = self.pool.urlopen(
            "GET" if flight.form is None else "POST",
            self._prefix + flight.path,
            headers=headers,
            retries=_NO_RETRY,
            redirect=False,
            assert_same_host=False,
            timeout=_NO_TIMEOUT,
            preload_content=False,
            decode_content=False,
        )
        return cast(HTTPResponse, reply)

    def renew(self) -> None:
        """Close the idle connections; urllib3 opens another one where it finds None in its queue."""
        idle = self.pool.pool
        if idle is None:  # the pool is closed
            return
        taken = 0
        with contextlib.suppress(queue.Empty):
            while True:
                connection = idle.get_nowait()
                taken += 1
                if connection is not None:
                    connection.close()
        with contextlib.suppress(queue.Full):
            for _ in range(taken):
                idle.put_nowait(None)


def _make_pool(root: str, proxy: str, proxies: dict[str, str]) -> HTTPConnectionPool:
    """The pool that leads to the root. Raises InputError where the environment's settings cannot be used."""
    needs_tls = root.lower().startswith("https:") or proxy.lower().startswith("https:")
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
    """A context that verifies, with the certificates of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, else certifi's."""
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


def _checked(call: Call) -> dict[str, str]:
    """The call's headers; http.client's own complaint would show the value of a bad one."""
    for name, value in call.headers:
        if not (value.isascii() and value.isprintable()):
            raise InputError(f"the value for the header {name!r} holds characters that a header cannot have")
    return dict(call.headers)


def _check_status(raw: HTTPResponse, flight: _Flight) -> None:
    if 300 <= raw.status < 400:
        host = _host_of(flight.keys.hide(raw.headers.get("location", "")))
        raise ReplyError(f"{flight.where}: redirected to {host} (status {raw.status}); redirects are not followed")
    if not 200 <= raw.status < 600:
        raise ReplyError(f"{flight.where}: status {raw.status}; expected 200 to 599")


def _host_of(location: str) -> str:
    """Scheme and host that a Location names; no more, since the rest may repeat a key."""
    try:
        parts = urllib.parse.urlsplit(location)
        host = parts.hostname
    except ValueError:
        return "an unreadable address"
    return f"{parts.scheme}://{host!a}"[:100] if host else "another path"


def _read(raw: HTTPResponse, flight: _Flight) -> bytes:
    """The body as on the wire, whole: by its length, by its chunks, or up to the end of the stream."""
    if raw.length_remaining is not None:
        return _read_length(raw, flight, raw.length_remaining)
    pieces: list[bytes] = []
    size = 0
    while piece := raw.read(_PIECE_BYTES, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > flight.max_body_bytes:
            raise _too_large(flight)
    # http.client takes the end of the stream inside the last chunk size (a zero may stand in front) for the last chunk.
    if raw.chunked and flight.has_ended:
        raise _cut(flight, size)
    return b"".join(pieces)


def _read_length(raw: HTTPResponse, flight: _Flight, length: int) -> bytes:
    if length > flight.max_body_bytes:
        raise _too_large(flight)
    body = raw.read(length or None, decode_content=False)
    if len(body) != length:
        raise TransportError(f"{flight.where}: the body was cut after {len(body)} of {length} bytes")
    return body


def _decode(wire: bytes, encoding: str, flight: _Flight) -> bytes:
    """The body without its content encoding. Nothing but gzip is asked for, so that nothing else is accepted."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return wire
    if encoding not in ("gzip", "x-gzip"):
        shown = flight.keys.hide(encoding)[:40]
        raise ReplyError(f"{flight.where}: content encoding {shown!a}; expected gzip or none")
    unzip = zlib.decompressobj(31)
    try:
        body = unzip.decompress(wire, flight.max_body_bytes + 1)
    except zlib.error as error:
        raise ReplyError(f"{flight.where}: the body is not sound gzip ({error})") from error
    if len(body) > flight.max_body_bytes:
        raise _too_large(flight)
    if not unzip.eof:
        raise _cut(flight, len(wire))
    if unzip.unused_data:
        raise ReplyError(f"{flight.where}: {len(unzip.unused_data)} bytes follow the gzip stream; expected none")
    return body


def _cut(flight: _Flight, size: int) -> TransportError:
    return TransportError(f"{flight.where}: the body was cut after {size} bytes")


def _too_large(flight: _Flight) -> ReplyError:
    return ReplyError(f"{flight.where}: the body is larger than the cap of {flight.max_body_bytes} bytes")


_UNREACHED = (NameResolutionError, ProxyError, SSLError, ssl.SSLError, NewConnectionError)

# What a foreign error is to us: the first row that fits it, or an error that it wraps, decides.
_TRANSLATIONS: tuple[tuple[tuple[type[BaseException], ...], type[TransportError] | type[ReplyError], str], ...] = (
    ((NameResolutionError,), TransportError, "the host name cannot be resolved"),
    ((ProxyError,), TransportError, "the proxy from the environment cannot be used"),
    ((SSLError, ssl.SSLError), TransportError, "TLS failed"),
    ((NewConnectionError,), TransportError, "cannot connect"),
    (
        (ConnectionError, http.client.IncompleteRead),
        TransportError,
        "the connection was closed before the reply was whole",
    ),
    ((PoolTimeout, TimeoutError), TransportError, "no answer in time"),
    ((http.client.HTTPException, InvalidHeader, ValueError), ReplyError, "what came is not sound HTTP"),
    ((Exception,), TransportError, "the call failed"),
)


def _translate(error: Exception, flight: _Flight) -> SourceError:
    chain = _unwrap(error)
    make, text = next((m, t) for kinds, m, t in _TRANSLATIONS if any(isinstance(link, kinds) for link in chain))
    if isinstance(chain[-1], TimeoutError):
        flight.has_timed_out = True
    made = make(f"{flight.where}: {text} ({_reason(chain[-1])})")
    if isinstance(made, TransportError):
        made.reached = not any(isinstance(link, _UNREACHED) for link in chain)
    return made


def _bare(error: SourceError | CancelledError, keys: Keys) -> SourceError | CancelledError:
    """The error without a key: what stands behind it may hold what was received, and goes. The system's own stays."""
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
    """The error and those inside it, the innermost last."""
    chain = [error]
    while len(chain) < 8:
        inside = next((arg for arg in chain[-1].args[::-1] if isinstance(arg, BaseException)), chain[-1].__cause__)
        if inside is None:
            break
        chain.append(inside)
    return chain


def _reason(error: BaseException) -> str:
    """A few words that cannot hold anything of the request."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
