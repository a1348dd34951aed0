"""The guard around every test, tried from inside: the ways out are shut, loopback is open, nobody's home is touched."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import conftest
import pytest

# Reserved for documentation (RFC 5737, RFC 3849, RFC 2606): nobody answers there even without a guard.
OUTSIDE = "192.0.2.1"
OUTSIDE_6 = "2001:db8::1"
OUTSIDE_NAME = "example.invalid"


def with_socket(use: Callable[[socket.socket], object], kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    def attempt() -> object:
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(0.01)
            return use(sock)

    return attempt


@pytest.fixture
def forgiven() -> Iterator[None]:
    """What a test tries on purpose does not fail it."""
    yield
    conftest.guard.tried.clear()


@pytest.mark.usefixtures("forgiven")
@pytest.mark.parametrize(
    "attempt",
    [
        with_socket(lambda sock: sock.connect((OUTSIDE, 80))),
        with_socket(lambda sock: sock.connect_ex((OUTSIDE, 80))),
        with_socket(lambda sock: sock.sendto(b"x", (OUTSIDE, 53)), socket.SOCK_DGRAM),
        lambda: socket.create_connection((OUTSIDE, 80), timeout=0.01),
        lambda: socket.create_connection((OUTSIDE_6, 80), timeout=0.01),
        lambda: socket.getaddrinfo(OUTSIDE_NAME, 80),
        lambda: socket.gethostbyname(OUTSIDE_NAME),
    ],
)
def test_every_way_out_is_shut(attempt: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="beyond loopback"):
        attempt()
    assert len(conftest.guard.tried) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "app.localhost.", b"localhost", None])
def test_loopback_is_open(host: object) -> None:
    assert conftest.is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "8.8.8.8", "2001:db8::1", "localhost.example", "api.binance.com"])
def test_everything_else_is_not_loopback(host: str) -> None:
    assert not conftest.is_loopback(host)


def test_a_server_on_loopback_can_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as accepted:
                accepted.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(server.getsockname(), timeout=5) as sock:
            assert sock.recv(5) == b"hello"
        thread.join()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_sockets_are_open() -> None:
    first, second = socket.socketpair()
    with first, second:
        first.sendall(b"hello")
        assert second.recv(5) == b"hello"


def test_no_setting_and_no_proxy_is_left() -> None:
    assert [name for name in os.environ if name.startswith("CANDLE_FETCHER_")] == []
    assert [name for name in os.environ if name.upper() in conftest.PROXIES] == []
    assert "127.0.0.1" in os.environ["NO_PROXY"]


def test_the_home_is_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    assert base in Path.home().parents
    assert base in Path(os.environ["XDG_CACHE_HOME"]).parents
    assert not Path.home().exists()
