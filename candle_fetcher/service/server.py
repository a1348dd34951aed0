"""The service on a port of its own, by uvicorn: one process, until a signal ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from candle_fetcher.core.errors import CandleFetcherError, InputError
from candle_fetcher.service import create_app, need_service

if TYPE_CHECKING:
    from candle_fetcher.fetcher import CandleFetcher

# For what is under way when a signal ends the service; streams end at once.
GRACE_S = 8
_NEXT_PORTS = 20  # tried for a free one
_FILES = 4096
_LAST_PORT = 65_535
# How long a thread that unpacks and parses keeps the others waiting, the event loop among them.
_TURN_S = 0.001


def is_loopback(host: str) -> bool:
    """Return whether the host can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int, token: str | None) -> None:
    """Raise InputError for a port that there is not, and for a host that other machines can reach without a token."""
    if not 0 <= port <= _LAST_PORT:
        raise InputError(f"--port {port} is not a port; expected 1 to {_LAST_PORT}, or 0 for a free one")
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from other machines and needs a token; give --token, or leave out --host"
        )


def serve(
    fetcher: CandleFetcher,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allow_origins: Iterable[str] = (),
    hosts: Iterable[str] = (),
    on_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGINT or SIGTERM; a second SIGINT ends it at once. `on_listening` is called with the URL.

    Raises InputError for a host beyond loopback without a token; CandleFetcherError where the port cannot be listened
    on; MissingExtra without uvicorn.
    """
    need_service()
    check_address(host, port, token)
    app = create_app(fetcher, token=token, allow_origins=allow_origins, hosts=hosts)
    from candle_fetcher.service.encoding import import_formats

    import_formats()
    _allow_files()
    sys.setswitchinterval(_TURN_S)
    listener = _listen(host, port)
    with listener, _quiet_uvicorn():
        from candle_fetcher.service.uvicorn_server import make_server

        on_listening(_url(host, listener))
        make_server(app).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises CandleFetcherError, which names a port that is free."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} is not an address of this machine ({error}); expected one such as 127.0.0.1"
        ) from error
    family, _, _, _, address = found[0]
    try:
        return _bound(family, address)
    except (OSError, OverflowError) as error:
        free = next(
            (one for one in range(port + 1, min(port + _NEXT_PORTS, _LAST_PORT)) if _is_free(family, address, one)), 0
        )
        why = getattr(error, "strerror", None) or error
        raise CandleFetcherError(
            f"port {port} of {host} cannot be listened on ({why}); --port {free} is free"
        ) from error


def _bound(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_free(family: int, address: Any, port: int) -> bool:
    try:
        _bound(family, (address[0], port, *address[2:])).close()
    except (OSError, OverflowError):
        return False
    return True


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def _allow_files() -> None:
    """Let the process have a file for each connection, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _quiet_uvicorn() -> Iterator[None]:
    """Keep back the lines of uvicorn, and what asyncio says of clients that have left: the guard logs each reply and
    each fault once, without secrets."""
    levels = {"uvicorn": logging.CRITICAL + 1, "asyncio": logging.ERROR}
    before = [(log := logging.getLogger(name), log.level) for name in levels]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for log, level in before:
            log.setLevel(level)
