"""Ctrl-C, put off while something is done that must not be left half done.

Python raises KeyboardInterrupt in the main thread between any two of its steps: just after a lock was taken and before
it is known to be held, or half way through a change. Such a lock stays taken for ever, and in a notebook the next cell
hangs. What is put off is short: waiting for a reply or another process's work is not.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType


class Uninterrupted:
    """While inside, Ctrl-C is noted; the handler that was in place hears of it on the way out. Inside another one, that
    one hears of it. Other threads than the main one are never interrupted: there it does nothing."""

    __slots__ = ("_handler", "_noted")

    def __enter__(self) -> None:
        self._handler = None
        self._noted: list[tuple[int, FrameType | None]] = []
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):  # else nothing of Python's is run
                with contextlib.suppress(ValueError):  # in another interpreter than the main one
                    signal.signal(signal.SIGINT, self._note)
                    self._handler = handler

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._noted:
                self._handler(*self._noted[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append((number, frame))
