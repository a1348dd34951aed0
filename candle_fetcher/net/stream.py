"""One WebSocket connection: text frames in and out. The only module that uses websocket-client (extra `live`).

    connect -> Route (proxy of the environment, TLS) -> handshake -> receive, send, ping, close

The connection is made as that of a request: proxies come from the environment, certificates are always verified, and
another thread can end it at any step. Of websocket-client only the class WebSocket is used: it has no thread of its
own, and a reader that is cut returns at once. Its defaults are not: it would follow redirects with the headers that
carry keys, send an Origin, and read messages of any size.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import urllib.parse
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from candle_fetcher.core.call import Reply
from candle_fetcher.core.errors import MissingExtra, ReplyError, TransportError
from candle_fetcher.core.keys import NO_KEYS, Keys
from candle_fetcher.net.exchange import Exchange

MOST_BYTES = 16 * 2**20  # of one message
_CLOSE_S = 0.2  # how long a close frame may take to be sent
_DATA, _CLOSE, _PING = (1, 2), 8, 9  # opcodes


class Frame(NamedTuple):
    """What was received: `kind` is text, ping, pong or closed; `data` the text, or the reason of a close."""

    kind: str
    data: bytes = b""


class HandshakeRefused(TransportError):
    """The server did not accept the connection. `.reply` has status, headers and body."""

    def __init__(self, where: str, reply: Reply) -> None:
        self.reply = reply
        super().__init__(f"{where}: the connection was refused (status {reply.status})", status=reply.status)


class StreamConnection:
    """An open connection. One thread receives; any thread may send and `cut`."""

    def __init__(self, where: str, exchange: Exchange, inner: Any, foreign: tuple[type[Exception], ...]) -> None:
        self._where = where
        self._foreign = foreign
        self._exchange = exchange
        self._inner = inner
        self._timeout_s = -1.0

    def receive(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None where none came within the time. Pings are answered here.

        Raises TransportError where the connection is lost, ReplyError for a message that is too large or not valid,
        CancelledError after `cut`.
        """
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            self._inner.settimeout(timeout_s)
        try:
            opcode, frame = self._inner.recv_data_frame(True)
        except self._foreign as error:
            if type(error).__name__ == "WebSocketTimeoutException" or isinstance(error, TimeoutError):
                return None
            raise self._translated(error) from None
        if opcode in _DATA:
            return Frame("text", frame.data)
        if opcode == _CLOSE:
            return Frame("closed", _reason_of(frame.data))
        return Frame("ping" if opcode == _PING else "pong", frame.data)

    def send(self, text: str) -> None:
        """Send a text. Raises TransportError where it cannot be sent."""
        try:
            self._inner.send(text)
        except self._foreign as error:
            raise self._translated(error) from None

    def ping(self) -> None:
        """Send a ping frame. Raises TransportError where it cannot be sent."""
        try:
            self._inner.ping("")
        except self._foreign as error:
            raise self._translated(error) from None

    def cut(self) -> None:
        """End the connection at once, and wake its reader; any thread may call it."""
        self._exchange.cut()

    def close(self) -> None:
        """Say goodbye and close, in the reader's own thread; a dead peer is not waited for."""
        with contextlib.suppress(Exception):
            if not self._exchange.is_cancelled:
                self._inner.settimeout(_CLOSE_S)
                self._inner.send_close()
        with contextlib.suppress(Exception):
            self._inner.shutdown()

    def _translated(self, error: Exception) -> Exception:
        if self._exchange.is_stopped:
            return CancelledError(f"{self._where}: the connection was ended")
        return TransportError(f"{self._where}: the connection was lost ({type(error).__name__})")


def load_package() -> Any:
    """Return websocket-client. Raises MissingExtra where it is not installed."""
    try:
        import websocket
    except ImportError as error:
        raise MissingExtra("live", "a stream") from error
    return websocket


def connect(
    root: str,
    path: str,
    *,
    stop: threading.Event,
    user_agent: str,
    timeout_s: float,
    keys: Keys = NO_KEYS,
    begun: Callable[[Callable[[], None]], object] | None = None,
    most_bytes: int = MOST_BYTES,
) -> StreamConnection:
    """Return an open connection to `root + path`, a ws or wss URL; `keys` go along as headers. `begun` gets the
    function by which another thread can cut it, from the first step on.

    Raises MissingExtra without websocket-client, HandshakeRefused for a status other than 101, TransportError where no
    connection came about, CancelledError once `stop` is set.
    """
    websocket = load_package()
    from candle_fetcher.net.route import Route
    from candle_fetcher.net.translate import FOREIGN, translate, without_keys

    parts = urllib.parse.urlsplit(root)
    where = parts.netloc + path
    exchange = Exchange(where, b"", keys, stop, timeout_s, 0, must_connect=True)
    if begun is not None:
        begun(exchange.cut)
    route = Route(f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}")
    try:
        connection = route.take(exchange)
        try:
            route.send(connection, exchange)
            sock, connection.sock = connection.sock, None  # it is ours now
        finally:
            connection.close()
    except FOREIGN as error:
        exchange.check_stopped()
        raise without_keys(translate(error, exchange), keys) from None
    exchange.sock = sock
    inner: Any = _make_inner(websocket, most_bytes)
    foreign = (websocket.WebSocketException, OSError, ValueError, struct.error)
    try:
        inner.connect(
            f"{root}{path}",
            socket=sock,
            timeout=timeout_s,
            host=route.host_header,
            header=[f"User-Agent: {user_agent}", *(f"{name}: {value}" for name, value in keys.headers)],
            suppress_origin=True,
            redirect_limit=0,
        )
        exchange.check_stopped()
    except (*foreign, CancelledError) as error:
        with contextlib.suppress(OSError):
            sock.close()
        exchange.check_stopped()
        if isinstance(error, websocket.WebSocketBadStatusException):
            headers = {name.lower(): keys.hide(value) for name, value in (error.resp_headers or {}).items()}
            body = keys.hide(bytes(error.resp_body or b""))
            raise HandshakeRefused(where, Reply(error.status_code, headers, body, 0.0)) from None
        raise TransportError(f"{where}: no connection came about ({type(error).__name__})") from None
    return StreamConnection(where, exchange, inner, foreign)


def _make_inner(websocket: Any, most_bytes: int) -> Any:
    """Return a WebSocket that refuses messages above the size, before any byte of them is read.

    `recv_strict` and `add` are parts of websocket-client that it does not promise to keep: tests notice a change.
    """
    inner = websocket.WebSocket(enable_multithread=True, skip_utf8_validation=True)
    buffer, fragments = inner.frame_buffer, inner.cont_frame
    receive, add = buffer.recv_strict, fragments.add
    size = 0

    def recv_strict(count: int) -> Any:
        if count > most_bytes:
            raise ReplyError(f"a message of {count:,} bytes; expected at most {most_bytes:,}")
        return receive(count)

    def add_fragment(frame: Any) -> None:
        nonlocal size
        size = len(frame.data) + (0 if frame.opcode in _DATA else size)
        if size > most_bytes:
            raise ReplyError(f"a message in parts of more than {most_bytes:,} bytes")
        add(frame)

    buffer.recv_strict, fragments.add = recv_strict, add_fragment
    return inner


def _reason_of(data: bytes) -> bytes:
    """Return code and reason of a close frame as text, such as `1001 going away`."""
    code = str(int.from_bytes(data[:2], "big")) if len(data) >= 2 else "no code"
    return f"{code} {data[2:80].decode('utf-8', 'replace')}".strip().encode()
