"""What every test runs under: no network beyond loopback, no cache and no settings of the person who runs it."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
LOOPBACK = "localhost,127.0.0.1,::1"
_ROOM_BYTES = 4 * 1024**3  # for the folders of tests that are under way, with much to spare
# One of the processes of pytest-xdist, or started by one.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

_homes = itertools.count()


def is_loopback(host: object) -> bool:
    """Whether the host, a name or an address as sockets take it, is this machine."""
    if host in (None, "", b""):
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    name = name.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Guard:
    """Stands in for the ways out of `socket`; fails the test that takes one, and remembers it for tests that catch."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.open = False

    def check(self, host: object, what: str) -> None:
        if self.open or is_loopback(host):
            return
        self.tried.append(f"{what} {host!r}")
        pytest.fail(f"a test reached beyond loopback: {what} {host!r}; mark it with `network` if it has to")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("connect", "connect_ex"):
            self._guard_method(patch, name, lambda arguments: arguments[0])
        # Without a connection the address comes last, after the flags.
        self._guard_method(patch, "sendto", lambda arguments: arguments[-1])
        patch.setattr(socket, "create_connection", self._guarded(socket.create_connection, lambda address: address[0]))
        for name in ("gethostbyname", "gethostbyname_ex"):
            patch.setattr(socket, name, self._guarded(getattr(socket, name), lambda host: host))
        patch.setattr(socket, "getaddrinfo", self._guarded(socket.getaddrinfo, _looked_up))

    def _guarded(self, real: Callable[..., Any], host: Callable[[Any], object]) -> Callable[..., Any]:
        @functools.wraps(real)
        def guarded(first: Any, *arguments: Any, **named: Any) -> Any:
            self.check(host(first), real.__name__)
            return real(first, *arguments, **named)

        return guarded

    def _guard_method(self, patch: pytest.MonkeyPatch, name: str, address: Callable[[Any], Any]) -> None:
        real = getattr(socket.socket, name)

        @functools.wraps(real)
        def guarded(sock: socket.socket, *arguments: Any) -> Any:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                self.check(address(arguments)[0], name)
            return real(sock, *arguments)

        patch.setattr(socket.socket, name, guarded)


def _looked_up(host: Any) -> object:
    """The host where asking for it would go out; reading an address that is written in digits does not."""
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return host
    return None


guard = Guard()
_session = pytest.MonkeyPatch()


def pytest_configure() -> None:
    memory = Path("/dev/shm")
    if sys.platform == "linux" and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES:
        # Thousands of caches are made and flushed to the disk: in memory that takes a third less time.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        # A shell has programs that it starts in the background ignore it, and so would the children of the tests.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    guard.install(_session)


def pytest_unconfigure() -> None:
    _session.undo()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in a process for each core, where pytest-xdist is installed; a part of it, in this one."""
    if IS_WORKER or not config.pluginmanager.hasplugin("xdist"):
        return
    option, cores = config.option, min(os.cpu_count() or 1, 8)
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and not option.collectonly
    is_watched = option.usepdb or option.capture == "no"  # by a person, at a terminal that processes do not share
    if is_whole and not is_watched and cores > 1 and option.dist == "no" and option.numprocesses is None:
        option.numprocesses, option.dist = cores, "worksteal"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the mark `slow` off the cases that its `keep` names, so that one of each kind is in every run."""
    for item in items:
        slow, case = item.get_closest_marker("slow"), getattr(item, "callspec", None)
        if slow is not None and case is not None and case.id in slow.kwargs.get("keep", ()):
            item.own_markers.remove(slow)


@pytest.fixture(scope="session", autouse=True)
def clean_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that holds the tests' homes. No setting of ours, and no proxy around the guard, is left."""
    homes = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("CANDLE_FETCHER_"):
                patch.delenv(name)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, LOOPBACK)
        if sys.dont_write_bytecode:  # else each process that a test starts would compile all of the library again
            shared_by_workers = homes.parents[1 if IS_WORKER else 0]
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(shared_by_workers / "bytecode"))
        _move_home(patch, homes / "session")
        yield homes


@pytest.fixture(autouse=True)
def loopback_only(
    request: pytest.FixtureRequest, clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test that connected beyond loopback, even where the code under test caught it; a home of its own."""
    guard.open = request.node.get_closest_marker("network") is not None
    guard.tried.clear()
    if not guard.open:
        for name in PROXIES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
    _move_home(monkeypatch, clean_settings / str(next(_homes)))
    logger = logging.getLogger("candle_fetcher")
    before = logger.level, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    for handler in [one for one in logger.handlers if one not in before[1]]:
        logger.removeHandler(handler)
        handler.close()
    guard.open = False
    if guard.tried:
        pytest.fail(f"beyond loopback: {', '.join(guard.tried)}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded replies and real market data beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder of recorded data, `shared`, beside the repository")
    return folder


def _move_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Let caches go below `home`, which whoever writes there makes, as on a fresh account."""
    for name in ("HOME", "USERPROFILE"):
        patch.setenv(name, str(home))
    patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    patch.setenv("LOCALAPPDATA", str(home / "AppData" / "Local"))
