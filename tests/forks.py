"""Children that are forked: each is a process of its own, and none has to import the library again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, NamedTuple

import pytest
from children import renew_streams

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
Work = Callable[[], "int | None"]


class Done(NamedTuple):
    """The exit code, negative for a signal, and what was printed."""

    code: int
    out: bytes
    err: bytes


class Forked:
    """A child that does `work`, with pipes as its streams, and exits with what it returns, or 1 where it raises."""

    def __init__(self, work: Work, environment: Mapping[str, str] | None = None) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (theirs, to_child), (from_child, give_out), (errors, give_err) = pipes
        self.pid = _fork(work, (theirs, give_out, give_err), environment or {})
        for end in (theirs, give_out, give_err):
            os.close(end)
        self.stdin: BinaryIO = open(to_child, "wb")  # noqa: PTH123, SIM115
        self.stdout: BinaryIO = open(from_child, "rb")  # noqa: PTH123, SIM115
        self.stderr: BinaryIO = open(errors, "rb")  # noqa: PTH123, SIM115

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30) -> Done:
        """Reads to the end; kills the child after the timeout."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        errors: list[bytes] = []
        reading = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        reading.start()
        with _killed_after(self.pid, timeout_s):
            out = self.stdout.read()
            reading.join()
            return Done(self._reap(), out, errors[0])

    def close(self) -> None:
        """Kills the child where it has not ended."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


def run(work: Work, timeout_s: float = 30, **environment: str) -> Done:
    """What came of a child that did the work."""
    with Forked(work, environment) as child:
        return child.wait(timeout_s)


def run_on_terminal(work: Work, **environment: str) -> tuple[int, str]:
    """The exit code of a child that did the work on a terminal, and what is seen there."""
    import pty

    ours, theirs = pty.openpty()
    pid = _fork(work, (theirs, theirs, theirs), environment)
    os.close(theirs)
    shown = b""
    with _killed_after(pid, 30):
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(ours, 65_536):
                shown += data
        _, status = os.waitpid(pid, 0)
    os.close(ours)
    return os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n")


@contextlib.contextmanager
def _killed_after(pid: int, timeout_s: float) -> Iterator[None]:
    alarm = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        alarm.join()


def _fork(work: Work, streams: tuple[int, int, int], environment: Mapping[str, str]) -> int:
    """The child's process id; in the child it does not return, and nothing of the tests goes on there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the threads of exchanges
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        renew_streams()
        os.environ.update(environment)
        code = work() or 0
    except BaseException:  # noqa: BLE001 - the child tells of it and ends
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
