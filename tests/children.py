"""Programs in processes of their own, each forked from one that has imported the library: a start takes milliseconds.

In a full run, `FAULT_RUNS=1`, and where there is no fork, each is a new interpreter. Both take signals and end as a
program does: with what is registered for the end, and after the threads that it waits for.

    test process -- a socket: script, words, pipes -> nest (imports, forks) -> watcher (waits) -> program
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from types import CodeType
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
# Threads of other libraries would not live through a fork.
ALONE = {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
NEST = "from children import serve; exec(serve(int(__import__('sys').argv[1])))"


class Program:
    """A program that runs, as far as tests need it what `subprocess.Popen` is."""

    def __init__(self, pipes: tuple[IO[str], IO[str], IO[str]], status: int) -> None:
        self.stdin, self.stdout, self.stderr = pipes
        self._status = status
        self._told = b""
        while b"\n" not in self._told:
            piece = os.read(status, 64)
            assert piece, "the nest of the programs has ended"
            self._told += piece
        self.pid = int(self._told.partition(b"\n")[0])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal."""
        ends_s = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left_s = None if ends_s is None else max(0.0, ends_s - time.monotonic())
            if not select.select([self._status], [], [], left_s)[0]:
                raise subprocess.TimeoutExpired("a program of a test", timeout or 0)
            piece = os.read(self._status, 64)
            self._told += piece
            if not piece:
                os.close(self._status)
                self.returncode = int(self._told.split(b"\n")[1])
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it still says on stdout and on stderr until it ends."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        said: dict[IO[str], str] = {}

        def read(pipe: IO[str]) -> None:
            with pipe:
                said[pipe] = pipe.read()

        pipes = [pipe for pipe in (self.stdout, self.stderr) if not pipe.closed]
        threads = [threading.Thread(target=read, args=(pipe,), daemon=True) for pipe in pipes]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return said.get(self.stdout, ""), said.get(self.stderr, "")

    def send_signal(self, number: int) -> None:
        """Send it to that process and to no other."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nest:
    """The process that programs are forked from."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", NEST, f"{theirs.fileno()}"],
                env={**os.environ, **ALONE, "PYTHONPATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interruption of the tests does not reach it half way
            )
        self._socket = ours
        atexit.register(self._close, os.getpid())

    def _close(self, owner: int) -> None:
        if os.getpid() == owner:  # in a fork of it, it is of others
            self._socket.close()
            self._process.wait(20)

    def start(self, job: dict[str, Any]) -> Program:
        ours, theirs = zip(*_pipes(), strict=True)
        message = json.dumps(job).encode()
        try:
            socket.send_fds(self._socket, [struct.pack("<I", len(message))], list(theirs))
            self._socket.sendall(message)
        finally:
            for fd in theirs:
                os.close(fd)
        pipes = (open(ours[0], "w"), open(ours[1]), open(ours[2]))  # noqa: PTH123, SIM115 - they are descriptors
        return Program(pipes, ours[3])


def _pipes() -> list[tuple[int, int]]:
    """Our end and theirs, for stdin, stdout, stderr and the state."""
    stdin = os.pipe()
    return [stdin[::-1], *(os.pipe() for _ in range(3))]


_nests: dict[int, Nest] = {}  # by the process that has it: a fork of it makes its own


def start(
    script: str, *words: object, cwd: Path | None = None, has_warnings: bool = False, is_new: bool = False
) -> Any:
    """Start the script with those words, in this environment; warnings are errors there, unless it `has_warnings`.

    With `is_new` it is a new interpreter in any case, for what has to be done before the library is imported.

    A `Program`, or a `subprocess.Popen`, which offers more.
    """
    from runs import FAULT_RUNS

    script, texts = textwrap.dedent(script), [str(word) for word in words]
    if is_new or FAULT_RUNS >= 1 or not hasattr(os, "fork"):
        filters = ["-W", "error", *(["-W", "ignore::DeprecationWarning"] if has_warnings else [])]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**os.environ, "PYTHONPATH": PATH}
        return subprocess.Popen(
            [sys.executable, *filters, "-c", script, *texts], env=environment, cwd=cwd, text=True, **pipes
        )
    if os.getpid() not in _nests:
        _nests[os.getpid()] = Nest()
    job = {
        "script": script,
        "words": texts,
        "environment": dict(os.environ),
        "cwd": str(cwd or Path.cwd()),
        "has_warnings": has_warnings,
    }
    return _nests[os.getpid()].start(job)


def run(script: str, *words: object, timeout: float = 120.0, has_warnings: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the script, once it has ended."""
    program = start(script, *words, has_warnings=has_warnings)
    try:
        out, err = program.communicate(timeout=timeout)
    finally:
        program.kill()
    return program.returncode, out, err


# -- in the nest -------------------------------------------------------------------------------------------------------


def warm_up() -> None:
    """Imports all that a call may import, so that no program does."""
    import candle_fetcher

    for info in pkgutil.walk_packages(candle_fetcher.__path__, "candle_fetcher."):
        if not info.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(info.name)
    gc.collect()
    gc.freeze()


def serve(fd: int) -> CodeType:
    """Fork a program for each message, until the tests have ended; in the program, return what it runs."""
    warm_up()
    with socket.socket(fileno=fd) as messages:
        while True:
            head, fds, _, _ = socket.recv_fds(messages, 4, 4)
            if not head:
                os._exit(0)
            left = struct.unpack("<I", head)[0]
            message = b""
            while len(message) < left:
                message += messages.recv(left - len(message))
            if not os.fork():
                break
            for one in fds:
                os.close(one)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    pid = os.fork()
    if pid:
        for one in fds[:3]:
            os.close(one)
        os.write(fds[3], f"{pid}\n".encode())
        os.write(fds[3], f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    for place, one in enumerate(fds[:3]):
        os.dup2(one, place)
    for one in fds:
        os.close(one)
    return _become(json.loads(message))


def renew_streams() -> None:
    """Open the standard streams on what their descriptors are now, as a program has them."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _become(job: dict[str, Any]) -> CodeType:
    """Be as a new interpreter that was given this script."""
    renew_streams()
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    if hasattr(time, "tzset"):
        time.tzset()
    sys.argv[1:] = job["words"]
    if job["has_warnings"]:
        warnings.simplefilter("ignore", DeprecationWarning)
    return compile(job["script"], "<string>", "exec")
