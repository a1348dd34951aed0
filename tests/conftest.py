"""What every test runs under: no network beyond loopback, no cache and no settings of the person who runs it."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import ipaddress
import itertools
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from runs import EXAMPLES

if TYPE_CHECKING:
    from world import World

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
LOOPBACK = "localhost,127.0.0.1,::1"
_ROOM_BYTES = 4 * 1024**3  # for the folders of tests that are under way, with much to spare
# One of the processes of pytest-xdist, or started by one.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

hypothesis.settings.register_profile("local", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=EXAMPLES, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

_homes = itertools.count()
_logger = logging.getLogger("candle_fetcher")


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
        self.proxies: dict[str, str] = {}
        self.homes = Path()
        self.logging: tuple[int, list[logging.Handler]] = (logging.NOTSET, [])

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
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the mark `slow` off the cases that its `keep` names, off those that its `only` does not name, or off the
    first and each `every`-th after it, so that some of each kind are in every run. Raise UsageError where `keep` or
    `only` names a case that is not there."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    kept: dict[str, set[str]] = {}
    for item in items:
        slow, case = item.get_closest_marker("slow"), getattr(item, "callspec", None)
        if slow is not None and case is not None:
            function, every, only = item.nodeid.partition("[")[0], slow.kwargs.get("every"), slow.kwargs.get("only")
            kept[function] = set(slow.kwargs.get("keep", only or ()))
            is_quick = (case.id in kept[function]) != bool(only)
            if is_quick or (every and not len(seen[function]) % every):
                item.own_markers.remove(slow)
            seen[function].add(case.id)
    strange = {function: names - seen[function] for function, names in kept.items() if not names <= seen[function]}
    # Without the recorded data the cases that are made of them are not there.
    if strange and SHARED.is_dir() and not any("[" in word for word in config.args):
        raise pytest.UsageError(f"`keep` or `only` of `slow` names cases that are not there: {strange}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the tests of a whole run in another order in each worker, so that each compiles a part of them for all."""
    gc.disable()  # nothing of what is collected is garbage
    if not IS_WORKER or session.config.args_source is not session.config.ArgsSource.TESTPATHS:
        return
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    first = len(names) * number // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for name in [*names[first:], *names[:first]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection reports it
            importlib.import_module(name)


def pytest_collection_finish() -> None:
    """Freeze what was imported and collected: no later garbage collection looks through it again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave no setting of ours and no proxy around the guard, and make the folder that holds the tests' homes."""
    guard.homes = homes = session.config._tmp_path_factory.mktemp("homes")  # type: ignore[attr-defined]
    for name in list(os.environ):
        if name.startswith("CANDLE_FETCHER_"):
            _session.delenv(name)
        elif name.upper() in PROXIES:
            guard.proxies[name] = os.environ[name]
            _session.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        _session.setenv(name, LOOPBACK)
    for name in _home_variables(homes):
        _session.setenv(name, "")
    is_controller = not IS_WORKER and getattr(session.config.option, "dist", "no") != "no"
    if sys.dont_write_bytecode and not is_controller:
        _keep_bytecode(homes.parents[1 if IS_WORKER else 0])


def _keep_bytecode(base: Path) -> None:
    """Keep the bytecode of the tests and of the package away from the sources, for the other processes of this run and
    for later runs: to compile them takes each process longer than a tenth of the tests."""
    import pandas  # noqa: F401 - what is imported here has its bytecode beside it
    import requests  # noqa: F401

    is_ours = base.parent.name.startswith("pytest-of-")  # the folder of pytest that no other user may write to
    folder = (base.parent if is_ours else base) / "bytecode"
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is None or not spec.has_location or not spec.origin or not spec.cached:
            continue
        source, cached = Path(spec.origin), Path(spec.cached)
        copy = folder.joinpath(*source.parts[1:-1], cached.name)
        if not copy.exists() and cached.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_suffix(f".{os.getpid()}")
            shutil.copyfile(cached, partial)
            partial.replace(copy)
    _session.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    _session.setenv("PYTHONPYCACHEPREFIX", str(folder))
    _session.setattr(sys, "dont_write_bytecode", False)
    _session.setattr(sys, "pycache_prefix", str(folder))


# Hooks and not a fixture: a fixture of every test, and those that it needs, took half a millisecond more.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the test a home that does not exist yet, as on a fresh account; a test with `network` has the proxies."""
    guard.open = item.get_closest_marker("network") is not None
    guard.tried.clear()
    os.environ.update(_home_variables(guard.homes / str(next(_homes))))
    if guard.open:
        os.environ.update(guard.proxies)
    guard.logging = _logger.level, list(_logger.handlers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that tried to connect beyond loopback, even where the code under test caught the error."""
    try:
        return (yield)
    finally:
        level, handlers = guard.logging
        _logger.setLevel(level)
        for handler in [one for one in _logger.handlers if one not in handlers]:
            _logger.removeHandler(handler)
            handler.close()
        if guard.open:
            for name in guard.proxies:
                os.environ.pop(name, None)
        guard.open = False
        if guard.tried:
            pytest.fail(f"beyond loopback: {', '.join(guard.tried)}")


def _home_variables(home: Path) -> dict[str, str]:
    """Return the variables of the environment that lead caches below the home."""
    return {
        "HOME": f"{home}",
        "USERPROFILE": f"{home}",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "LOCALAPPDATA": f"{home}/AppData/Local",
    }


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Return a practice exchange with a clock that only the test moves, and its fetchers.

    A file gives other settings of the exchange as `WORLD`, or defines its own.
    """
    from world import World  # where it is wanted: the process that starts those of pytest-xdist does without

    with World(tmp_path / "cache", **getattr(request.module, "WORLD", {})) as made:
        yield made


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the waits of the requests of all fetchers of the test pass at once, also of those that a command makes."""
    from world import skipping

    from candle_fetcher.fetcher import runtime

    monkeypatch.setattr(runtime, "Wire", functools.partial(runtime.Wire, **skipping([])))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded replies and real market data beside the repository."""
    folder = SHARED
    if not folder.is_dir():
        pytest.skip("there is no folder of recorded data, `shared`, beside the repository")
    return folder
