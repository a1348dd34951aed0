"""Connections of clients: what uvicorn leaves open for as long as a client likes is ended here.

A client has some seconds to send the head of a request. One that does not take what it asked for is dropped after a
while. Requests that are no HTTP get an error in JSON.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
    from wsproto.utilities import ProtocolError
except ImportError:  # without wsproto there are no WebSockets
    WSProtocol = None  # type: ignore[assignment, misc]

# The time for a whole head, from the connection's begin or the end of the reply before.
HEAD_S = 10.0
# The time in which a client that does not read has to take something.
STALLED_S = 30.0
MOST_CONNECTIONS = 1200


class ServedConnection(H11Protocol):
    """One HTTP connection."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or drop it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the deadline for a head ends with the head."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            if self._deadline is None:
                self._wait_for_head()
        else:
            self._cancel()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on to the WebSocket's protocol, which takes ASCII for granted."""
        self._cancel()
        if all(value.isascii() for _, value in self.headers) and event.target.isascii():
            super().handle_websocket_upgrade(event)
        else:
            self.send_400_response("")

    def pause_writing(self) -> None:
        """Stop the reply: the client does not read. It is dropped where it goes on like that."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the reply."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has too long a head."""
        body = json.dumps(
            {"error": "BadRequest", "message": "this is no HTTP request, or its head is too long"}
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        events: list[Any] = [h11.Response(status_code=400, headers=headers, reason=b"Bad Request")]
        for one in (*events, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(one) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self.transport.abort)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


if WSProtocol is not None:

    class ServedWebSocket(WSProtocol):
        """One WebSocket."""

        _stalled: asyncio.TimerHandle | None = None

        def data_received(self, data: bytes) -> None:
            """Take bytes; those that are no WebSocket end the connection."""
            try:
                super().data_received(data)
            except (ValueError, LookupError, ProtocolError):
                self.transport.abort()

        def pause_writing(self) -> None:
            """Stop sending: the client does not read. It is dropped where it goes on like that."""
            super().pause_writing()
            if self._stalled is None:
                self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

        def resume_writing(self) -> None:
            """Go on sending."""
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None
            super().resume_writing()
