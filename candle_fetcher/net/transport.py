"""One request: a Call and a root URL in, a whole Reply out.

    send -> Route (idle connections and proxy of one root) -> Connection -> write_request, read_head, read_body

Rules it keeps:

- The deadline covers the whole call: connecting, headers and body. Each received byte passes `reply.ReceivedBytes`,
  which checks time and size and notices the end of the stream, however slow the server is.
- A body is complete or it is an error.
- Keys are in the bytes of `write_request` and nowhere else, so that no log line and no error can repeat one. A service
  may repeat a key in its reply: so keys are hidden in the reply, and errors lose their causes (`without_keys`).
- Redirects, cookies and .netrc are not used; certificates are always verified; proxies come from the environment.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.errors import InputError, ReplyError, SourceError, TransportError
from candle_fetcher.core.events import Observe, Sent, ignore
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.net.exchange import Exchange, write_request
from candle_fetcher.net.reply import Head, Stream, decode_body, read_body, read_head
from candle_fetcher.net.roots import check_root

if TYPE_CHECKING:
    from candle_fetcher.net.route import Route

MAX_BODY_BYTES = 64 * 2**20

# Statuses that ask for a pause. They count even where the body cannot be read.
_PAUSES = (418, 429)


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
        self._routes: dict[str, Route] = {}
        self._exchanges: dict[int, Exchange] = {}  # by thread: single dict operations, so that no lock is needed
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
        """Return the reply to one call, with any status from 200 to 599 (3xx is a ReplyError: redirects are off).

        The whole call ends within `timeout_s`. A kept connection that the server had closed is replaced once by a new
        one; a form is always sent on a new one. Nothing else is sent again. Raises TransportError where no complete
        reply came, ReplyError where the reply is invalid or too large, CancelledError once `stop` is set or the
        transport is closed. A 418 or 429 comes back with an empty body where its body cannot be read.

        `keys` are sent with the request, and hidden in the reply or error. Raises InputError where a proxy on the way
        could read them.
        """
        route = self._routes.get(root) or self._add_route(root)
        if route.is_exposed and keys:
            raise InputError(
                f"keys for {route.host} would go through a proxy that can read them; name the host in NO_PROXY, or use "
                "an https root"
            )
        exchange = Exchange(
            route.host + call.path,
            write_request(route.prefix, route.path, route.host_header, {**self._headers, **route.headers}, call, keys),
            keys,
            stop,
            self._timeout_s if timeout_s is None else timeout_s,
            self._max_body_bytes,
            must_connect=call.is_form,  # a kept connection may be closed, and a form must not be sent twice
        )
        thread = threading.get_ident()
        self._exchanges[thread] = exchange  # before the first look at `stop`: abort() sets it, then looks here
        try:
            while True:
                try:
                    return self._attempt(route, exchange, provider, call.path)
                except TransportError:
                    if not exchange.was_stale:
                        raise
                exchange.renew()
        except (SourceError, CancelledError) as error:
            if keys is NO_KEYS:
                raise
            from candle_fetcher.net.translate import without_keys  # as in `_add_route`

            bare = without_keys(error, keys)
        finally:
            del self._exchanges[thread]
        raise bare  # outside the handler, so that no other error becomes its context

    def _attempt(self, route: Route, exchange: Exchange, provider: str, path: str) -> Reply:
        if self._closed:
            exchange.is_cancelled = True
        exchange.check()
        started_s = time.monotonic()
        head: Head | None = None
        wire = b""
        try:
            connection = route.take(exchange)
            is_kept = False
            try:
                route.send(connection, exchange)
                stream = Stream(connection.sock, exchange)
                head = read_head(stream, exchange)
                _check_status(head, exchange)
                try:
                    wire = read_body(stream, head, exchange)
                    exchange.check_stopped()  # an abort looks like the end of a body without a length
                    body = decode_body(wire, head, exchange)
                    is_kept = not head.closes
                except _foreign(SourceError):
                    if head.status not in _PAUSES or exchange.is_stopped:
                        raise
                    body = b""
            finally:
                if is_kept:
                    route.give_back(connection)
                else:
                    connection.close()
        except SourceError:
            exchange.check_stopped()
            raise
        except _foreign() as error:
            from candle_fetcher.net.translate import translate  # as in `_add_route`

            exchange.check_stopped()
            raise translate(error, exchange) from error
        finally:
            seconds = time.monotonic() - started_s
            self._observe(Sent(provider, path, None if head is None else head.status, seconds, len(wire)))
        headers, keys = head.headers, exchange.keys
        if keys is not NO_KEYS:
            headers, body = {name: keys.hide(value) for name, value in headers.items()}, keys.hide(body)
        return Reply(head.status, headers, body, seconds)

    def abort(self, stop: threading.Event) -> None:
        """End every call that runs under `stop`, now: its thread gets CancelledError within milliseconds."""
        stop.set()
        for exchange in list(self._exchanges.values()):
            if exchange.stop is stop:
                exchange.cut()

    def renew(self, root: str) -> None:
        """Close the idle connections to the root, so that the next calls open new ones.

        After a reply that does not belong to its request, all later replies on that connection may be off by one too.
        """
        route = self._routes.get(root)
        if route is not None:
            route.close_idle()

    def close(self) -> None:
        """Close every connection of every thread; calls under way get CancelledError. May be called again."""
        with self._lock:
            self._closed = True
            routes = list(self._routes.values())
        for exchange in list(self._exchanges.values()):
            exchange.cut()
        for route in routes:
            route.close()

    def _add_route(self, root: str) -> Route:
        from candle_fetcher.net.route import Route  # with the first request: urllib3 and ssl take long to import

        check_root(root)
        with self._lock:
            if self._closed:
                raise CancelledError("the transport is closed")
            if root not in self._routes:
                self._routes[root] = Route(root)
            return self._routes[root]


def _foreign(*besides: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors that other packages raise while a request is sent and its reply is read, and `besides`."""
    from candle_fetcher.net.translate import FOREIGN  # as in `_add_route`

    return (*besides, *FOREIGN)


def _check_status(head: Head, exchange: Exchange) -> None:
    """Raise ReplyError for a redirect, and for a status that HTTP does not have."""
    if 300 <= head.status < 400:
        host = _host_of(exchange.keys.hide(head.headers.get("location", "")))
        raise ReplyError(
            f"{exchange.where}: the host redirects to {host} (status {head.status}), but redirects are not followed"
        )
    if not 200 <= head.status < 600:
        raise ReplyError(f"{exchange.where}: expected a status from 200 to 599, got {head.status}")


def _host_of(location: str) -> str:
    """Return scheme and host of a Location header. The rest is left out, since it may repeat a key."""
    try:
        parts = urllib.parse.urlsplit(location)
        host = parts.hostname
    except ValueError:
        return "an unreadable address"
    return f"{parts.scheme}://{host!a}"[:100] if host else "another path"
