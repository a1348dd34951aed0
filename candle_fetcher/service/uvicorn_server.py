"""uvicorn with the limits of the service, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from candle_fetcher.service.connections import ServedConnection
from candle_fetcher.service.guard import MOST_HEAD
from candle_fetcher.service.server import GRACE_S

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

_KEEP_ALIVE_S = 30
_MOST_MESSAGE = 65_536
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGBREAK] if hasattr(signal, "SIGBREAK") else []))


class ServiceServer(uvicorn.Server):
    """A server that tells the application when it is about to end, so that streams end; and that returns then."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second SIGINT ends at once."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving. Unlike uvicorn's own, a signal is not raised again: the end was regular."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End streams, then let uvicorn finish what is under way."""
        self._app.state.service.end_streams()
        await super().shutdown(sockets)  # type: ignore[arg-type]


def make_server(app: FastAPI) -> ServiceServer:
    """Return a server for the application; `run(sockets=[...])` serves."""
    from candle_fetcher.service import connections

    config = uvicorn.Config(
        app,
        http=ServedConnection,
        ws=getattr(connections, "ServedWebSocket", "none"),
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=MOST_HEAD,
        ws_max_size=_MOST_MESSAGE,
        ws_per_message_deflate=False,
    )
    return ServiceServer(app, config)
